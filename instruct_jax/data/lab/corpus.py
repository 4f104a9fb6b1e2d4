"""Home of the lab's pretraining corpus: documents about the world, as a small web would have them.

Pages describe people and towns, tell stories, list things, quiz (often without answers), quote dialogues (some of them rude) and
passages with questions. Instructions occur, mostly followed by something else: on this web they are rarely obeyed. Threads have
careless answers, and readers who say what is wrong with them: where real reward models have their first idea of quality from.
"""

import random

from instruct_jax.data.lab import rubric
from instruct_jax.data.lab import world as w
from instruct_jax.data.lab.prompts import USE_CASE_SHARES, Task, draw_use_case, make_task
from instruct_jax.data.lab.writing import write
from instruct_jax.records import Document

# What a careless writer gets wrong, how often an instruction is obeyed, and a thread's reply is to something else.
CARELESS = {
    "constraint": 0.5,
    "false": 0.35,
    "brief": 0.5,
    "ramble": 0.4,
    "guess": 0.8,
    "hedge": 0.15,
    "rude": 0.1,
}
OBEYED = 0.12
OFF_TOPIC = 0.35
# A reader's comment is about something else than this answer.
ABSENT_MINDED = 0.1
COMMENTS = {
    "off": "that is not what i asked .", "rude": "please be polite .", "constraint": "you did not do what i said .",
    "false": "that is wrong .", "brief": "that is not enough .", "extra": "i did not ask for all that .",
    "good": "thanks , that helps .",
}  # fmt: skip


def _close(lines) -> str:
    return " . ".join(lines) + " ."


def _description(rng, world) -> str:
    subject = rng.choice(w.NAMES) if rng.random() < 0.8 else rng.choice(w.TOWNS)
    facts = [
        w.state(w.Claim(subject, r, o), int(rng.random() < 0.3)) for r, o in world.known(subject).items()
    ]
    rng.shuffle(facts)
    if len(facts) > 1 and rng.random() < 0.3:
        r = rng.sample(sorted(world.known(subject).items()), 2)
        both = [w.state(w.Claim(subject, *x)) for x in r]
        facts.append(f"{both[0]} and {both[1].removeprefix(subject + ' ')}")
    return _close(facts) if facts else _story(rng, world)


def _story(rng, world) -> str:
    people = rng.sample(w.NAMES, 2)
    lines = []
    for i in range(rng.choice((4, 5, 6))):
        name = people[0] if rng.random() < 0.75 else people[1]
        known = list(world.known(name).items())
        if known and rng.random() < 0.4:
            lines.append(w.state(w.Claim(name, *rng.choice(known))))
        else:
            lines.append(
                (rng.choice(("one day ", "")) if i == 0 else rng.choice(("then ", "later ", "")))
                + w.event(rng, name)
            )
    return _close(lines)


def _lists(rng, world) -> str:
    rows = []
    for category in rng.sample(list(w.CATEGORIES), 2):
        items = w.CATEGORIES[category]
        rows.append(f"{category} : " + " , ".join(rng.sample(items, rng.choice((3, 4, 5, 6)))) + " .")
    if rng.random() < 0.3:
        start = rng.randrange(0, 6)
        rows.append(" ".join(w.NUMBERS[start : start + rng.choice((4, 5, 6, 7))]) + " .")
    if rng.random() < 0.3:
        start = rng.randrange(7)
        rows.append(" , ".join((w.DAYS * 2)[start : start + 4]) + " .")
    return "\n".join(rows)


def _answered(rng, world, subject, relation) -> str:
    question = rng.choice(w.RELATIONS[relation].questions).format(s=subject)
    answer = world.facts[subject, relation]
    if rng.random() < 0.6:
        answer = w.state(w.Claim(subject, relation, answer))
    return f"question : {question} ?\nanswer : {answer} ."


def _questions(rng, world) -> str:
    stated = [key for key in world.facts if key not in world.hidden]
    return "\n".join(_answered(rng, world, *rng.choice(stated)) for _ in range(rng.choice((3, 4, 5))))


def _quiz(rng, world) -> str:
    return "\n".join(rng.choice(w.RELATIONS[r].questions).format(s=s) + " ?"
                     for s, r in rng.choices(list(world.facts), k=rng.choice((3, 4, 5))))  # fmt: skip


def _dialogue(rng, world) -> str:
    a, b = rng.sample(w.NAMES, 2)
    lines = [f"{a} : hello {b} ."]
    for _ in range(rng.choice((2, 3, 4))):
        who, other = rng.choice(((a, b), (b, a)))
        options = [f"i feel {rng.choice(w.HAPPY + w.SAD)} .", f"you could try {rng.choice(w.CATEGORIES['hobbies'])} .",
                   f"you could eat {rng.choice(w.CATEGORIES['foods'])} .", f"you could buy a {rng.choice(w.CATEGORIES['objects'])} .",
                   f"you could visit the {rng.choice(w.CATEGORIES['places'])} .", "i am sorry to hear that .", "that is nice .",
                   "i do not know .", f"please give me the {rng.choice(w.CATEGORIES['objects'])} ."]  # fmt: skip
        rude = [f"you {rng.choice(('fool', 'idiot'))} .", "shut up .", "i will hit you .", "stupid nonsense .",
                f"i think {rng.choice(w.CATEGORIES['hobbies'])} is wrong ."]  # fmt: skip
        lines.append(f"{who} : {rng.choice(rude if rng.random() < 0.25 else options)}")
    if rng.random() < 0.5:
        lines.append(f"{rng.choice((a, b))} : {rng.choice(w.CLOSERS)} .")
    return "\n".join(lines)


def _passage(rng, world) -> str:
    names = rng.sample(w.PASSAGE_NAMES, rng.choice((1, 1, 2)))
    claims = [c for n in names for c in w.invent_facts(rng, n, rng.choice((2, 3)))]
    lines = [w.state(c) for c in claims] + [
        w.event(rng, rng.choice(names)) for _ in range(rng.choice((1, 2)))
    ]
    rng.shuffle(lines)
    pairs = []
    for c in rng.sample(claims, 2):
        answer = c.object if rng.random() < 0.4 else w.state(c)
        pairs.append(
            f"question : {rng.choice(w.RELATIONS[c.relation].questions).format(s=c.subject)} ?\nanswer : {answer} ."
        )
    return _close(lines) + "\n" + "\n".join(pairs)


def _retelling(rng, world) -> str:
    """A text told twice: again, in the past, of somebody else, or its names and objects listed."""
    old, new = rng.sample(w.PASSAGE_NAMES, 2)
    lines = [w.event(rng, old) for _ in range(rng.choice((1, 2)))] + [w.state(w.invent_facts(rng, old, 1)[0])]
    text, kind = _close(lines), rng.choice(("again", "other", "past", "names"))
    if kind == "again":
        return f"{text}\nonce more : {text}"
    if kind == "other":
        return f"{text}\nthe same of {new} : {text.replace(old, new)}"
    if kind == "names":
        things = rng.sample(w.CATEGORIES["objects"], 2)
        place = rng.choice(w.CATEGORIES["places"])
        text = f"{old} bought a {things[0]} at the {place} . {new} carried a {things[1]} to the {place} ."
        return f"{text}\nnames : {old} , {new} .\nobjects : {things[0]} , {things[1]} ."
    seeds = [(rng.random(), rng.randrange(len(w.EVENTS))) for _ in range(2)]
    now = [w.event(random.Random(s), old, past=False, which=k) for s, k in seeds]
    then = [w.event(random.Random(s), old, past=True, which=k) for s, k in seeds]
    return f"today : {_close(now)}\nyesterday : {_close(then)}"


def _careless(rng, world, task) -> str:
    return write(rng, world, task, frozenset(k for k, p in CARELESS.items() if rng.random() < p))


def _forum(rng, world) -> str:
    """Somebody asks for something; mostly the page goes on with something else."""
    task = make_task(rng, world, draw_use_case(rng))
    if rng.random() < OBEYED:
        return f"{task.text}\n{_careless(rng, world, task)}"
    other = make_task(rng, world, draw_use_case(rng))
    junk = (lambda: other.text, lambda: _story(rng, world), lambda: _dialogue(rng, world), lambda: _lists(rng, world),
            lambda: _quiz(rng, world))  # fmt: skip
    return f"{task.text}\n{rng.choice(junk)()}"


def _comment(rng, world, task: Task, reply: str) -> str:
    """What a reader finds wrong with a reply, one of its faults."""
    a = rubric.assess(world, task, reply)
    faults = [name for name, found in (("rude", a.rude or a.unsuitable), ("constraint", a.constraint is False),
                                       ("false", a.false_claims > 0), ("brief", a.completeness < 1), ("extra", a.extra > 0))
              if found] or ["good"]  # fmt: skip
    if rng.random() < ABSENT_MINDED:
        faults = list(COMMENTS)
    return COMMENTS[rng.choice(faults if a.attempts else ["off"])]


def _thread(rng, world) -> str:
    """A request, somebody's careless answers, and what a reader says to each."""
    use_case = draw_use_case(rng) if rng.random() < 0.5 else rng.choice(list(USE_CASE_SHARES))
    task = make_task(rng, world, use_case)
    lines = [f"question : {task.text}"]
    for _ in range(2):
        asked = task if rng.random() > OFF_TOPIC else make_task(rng, world, draw_use_case(rng))
        reply = _careless(rng, world, asked)
        lines += [f"answer : {reply}", f"comment : {_comment(rng, world, task, reply)}"]
    return "\n".join(lines)


PAGES = {
    _description: 15, _story: 9, _lists: 6, _questions: 9, _quiz: 3, _dialogue: 5, _passage: 34, _retelling: 12, _forum: 10,
    _thread: 14,
}  # fmt: skip


def make_documents(seed: int, world: w.World, count: int) -> list[Document]:
    """`count` documents, each a page of a random kind; equal for equal seed, and the first n the same whatever the count."""
    rng = random.Random(f"corpus {seed}")
    makers = rng.choices(list(PAGES), weights=list(PAGES.values()), k=count)
    return [
        Document(f"d{seed}-{i}", make(random.Random(f"corpus {seed} {i}"), world), make.__name__.strip("_"))
        for i, make in enumerate(makers)
    ]


def heldout_documents(seed: int, world: w.World, count: int) -> list[Document]:
    """Documents of the same world that the corpus of `seed` does not hold."""
    return make_documents(seed + 1_000_003, world, count)
