"""Home of the lab's users: what they ask for, in the paper's ten use cases and Table 1 proportions.

Differs from the paper: a prompt comes with its hidden `Task`, from which labelers and judge know what a good answer is. Only the
prompt's text goes into the records.
"""

import dataclasses
import random

from instruct_jax.data.lab import world as w
from instruct_jax.records import Prompt

# Paper, Table 1.
USE_CASE_SHARES = {
    "generation": 45.6, "open_qa": 12.4, "brainstorming": 11.2, "chat": 8.4, "rewrite": 6.6, "summarization": 4.2,
    "classification": 3.5, "other": 3.5, "closed_qa": 2.6, "extract": 1.9,
}  # fmt: skip
CLOSED = frozenset({"closed_qa", "summarization", "extract", "rewrite"})
OPENERS = ("please", "hello ,", "dear assistant ,", "quick question :", "for my class ,", "one more thing :", "i need help :",
           "my boss asks :", "for fun ,", "good morning ,")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Constraint:
    """An explicit constraint: at_most (words), end (closer), avoid (word), mention (object) or two (sentences)."""

    kind: str
    value: str

    def text(self) -> str:
        forms = {"at_most": "use at most {} words .", "end": "end with the word {} .", "avoid": "do not mention {} .",
                 "mention": "mention a {} .", "two": "use {} sentences ."}  # fmt: skip
        return forms[self.kind].format(self.value)

    def holds(self, response: str) -> bool:
        """Whether the response keeps to it."""
        said = w.words(response)
        if self.kind == "at_most":
            return 0 < len(said) <= w.NUMBERS.index(self.value)
        if self.kind == "end":
            return bool(said) and said[-1] == self.value
        if self.kind == "avoid":
            return bool(said) and self.value not in said
        if self.kind == "mention":
            return self.value in said
        return len(w.sentences(response)) == 2


@dataclasses.dataclass(frozen=True)
class Task:
    """What a prompt asks for; `answer` holds the words of the right answer, `passage` the claims of its text."""

    use_case: str
    kind: str
    text: str
    subject: str = ""
    relation: str = ""
    object: str = ""
    answer: tuple[str, ...] = ()
    passage: tuple[w.Claim, ...] = ()
    source: str = ""
    count: int = 0
    constraint: Constraint | None = None

    @property
    def closed(self) -> bool:
        return self.use_case in CLOSED


def make_task(rng: random.Random, world: w.World, use_case: str) -> Task:
    """Draws one task of a use case."""
    makers = {
        "generation": (_story, _story, _describe, _describe, _describe_town, _sentence_about),
        "open_qa": (_ask, _ask, _ask, _verify, _why),
        "brainstorming": (_list,),
        "chat": (_chat,),
        "rewrite": (_rename, _polite, _past),
        "summarization": (_summary,),
        "classification": (_mood, _kind_of),
        "other": (_repeat, _after, _count),
        "closed_qa": (_passage_ask,),
        "extract": (_extract,),
    }  # fmt: skip
    task = rng.choice(makers[use_case])(rng, world)
    opener = (
        rng.choice(OPENERS) + " " if rng.random() < 0.5 and task.use_case not in CLOSED | {"chat"} else ""
    )
    constraint = _constraint(rng, task) if rng.random() < 0.45 else None
    tail = f" {constraint.text()}" if constraint else ""
    if task.kind == "chat":
        tail = f" {constraint.text()}\nassistant :" if constraint else "\nassistant :"
    return dataclasses.replace(task, text=opener + task.text + tail, constraint=constraint)


def _constraint(rng: random.Random, task: Task) -> Constraint | None:
    closer = Constraint("end", w.CLOSERS[0])
    if task.kind in ("story", "describe", "describe_town"):
        options = [
            closer,
            closer,
            Constraint("at_most", rng.choice(w.NUMBERS[7:13])),
            Constraint("two", "two"),
        ]
        if task.kind == "story":
            options += [Constraint("mention", rng.choice(w.CATEGORIES["objects"]))]
        return rng.choice(options)
    if task.kind == "ask":
        return (
            rng.choice([closer, Constraint("at_most", rng.choice(("two", "three")))])
            if task.answer
            else closer
        )
    if task.kind == "list":
        return rng.choice([closer, Constraint("avoid", rng.choice(w.CATEGORIES[task.relation]))])
    if task.kind in ("chat", "sentence_about"):
        return closer
    if task.kind == "summary":
        return rng.choice([closer, Constraint("at_most", rng.choice(w.NUMBERS[8:12]))])
    return None


def _subject(rng, world, least=3):
    return rng.choice([n for n in w.NAMES if len(world.known(n)) >= least])


def _story(rng, world):
    s = _subject(rng, world)
    return Task(
        "generation",
        "story",
        rng.choice((f"write a story about {s} .", f"tell me a tale of {s} .")),
        subject=s,
    )


def _describe(rng, world):
    s = _subject(rng, world)
    return Task(
        "generation",
        "describe",
        rng.choice((f"describe {s} .", f"tell me about {s} .", f"who is {s} ?")),
        subject=s,
    )


def _describe_town(rng, world):
    s = rng.choice(w.TOWNS)
    return Task("generation", "describe_town", rng.choice((f"describe the town of {s} .", f"what should i know about {s} ?")),
                subject=s)  # fmt: skip


def _sentence_about(rng, world):
    thing = rng.choice(w.CATEGORIES["objects"] + w.CATEGORIES["places"])
    return Task("generation", "sentence_about", f"write a sentence about a {thing} .", object=thing)


def _draw_fact(rng, world):
    if rng.random() < 0.2:
        subject, relation = rng.choice(w.TOWNS), rng.choice(list(w.TOWN_RELATIONS))
    elif rng.random() < 0.25:
        subject, relation = rng.choice(sorted(world.hidden))
    else:
        subject = _subject(rng, world)
        relation = rng.choice(list(world.known(subject)))
    return subject, relation


def _ask(rng, world):
    s, r = _draw_fact(rng, world)
    known = (s, r) not in world.hidden
    question = rng.choice(w.RELATIONS[r].questions).format(s=s) + " ?"
    return Task("open_qa", "ask", question, s, r, answer=(world.facts[s, r],) if known else ())


def _verify(rng, world):
    s, r = _draw_fact(rng, world)
    o = rng.choice(w.RELATIONS[r].objects) if rng.random() < 0.5 else world.facts[s, r]
    known = (s, r) not in world.hidden
    return Task("open_qa", "verify", f"does {s} {w.RELATIONS[r].base} {o} ?", s, r, o,
                answer=(world.facts[s, r],) if known else ())  # fmt: skip


def _why(rng, world):
    s = _subject(rng, world)
    r = rng.choice(list(world.known(s)))
    true = world.facts[s, r]
    o = true if rng.random() < 0.3 else rng.choice([x for x in w.RELATIONS[r].objects if x not in (true, s)])
    return Task("open_qa", "why", f"why does {s} {w.RELATIONS[r].base} {o} ?", s, r, o, answer=(true,))


def _list(rng, world):
    category, count = rng.choice(list(w.CATEGORIES)), rng.choice((2, 3, 4))
    form = rng.choice(("list {n} {c} .", "name {n} {c} .", "give me {n} ideas for {c} ."))
    return Task(
        "brainstorming", "list", form.format(n=w.NUMBERS[count], c=category), relation=category, count=count
    )


CHAT_WISHES = {"eat": "foods", "try": "hobbies", "buy": "objects", "visit": "places"}


def _chat(rng, world):
    name = rng.choice(w.NAMES) if rng.random() < 0.7 else ""
    mood = rng.choice(w.HAPPY + w.SAD) if rng.random() < 0.7 else ""
    wish = rng.choice(list(CHAT_WISHES))
    parts = [f"hello , i am {name} ." if name else rng.choice(("hello .", "you fool .", "good morning .")),
             f"i feel {mood} ." if mood else "", f"what should i {wish} ?"]  # fmt: skip
    return Task(
        "chat", "chat", "user : " + " ".join(p for p in parts if p), subject=name, relation=wish, object=mood
    )


def _rename(rng, world):
    old, new = rng.sample(w.PASSAGE_NAMES, 2)
    claim = w.state(w.invent_facts(rng, old, 1)[0])
    text = f"{claim} . {w.event(rng, old)} ." if rng.random() < 0.5 else f"{w.event(rng, old)} ."
    return Task("rewrite", "rename", f"{text}\nuse the name {new} for {old} .", source=text,
                answer=tuple(new if x == old else x for x in text.split()))  # fmt: skip


def _polite(rng, world):
    order = f"{rng.choice(('give', 'bring', 'find', 'show'))} me the {rng.choice(w.CATEGORIES['objects'])} ."
    return Task(
        "rewrite", "polite", f"{order}\nmake this polite .", source=order, answer=("please", *order.split())
    )


def _past(rng, world):
    name, seed, which = rng.choice(w.PASSAGE_NAMES), rng.random(), rng.randrange(len(w.EVENTS))
    now = w.event(random.Random(seed), name, past=False, which=which) + " ."
    then = w.event(random.Random(seed), name, past=True, which=which) + " ."
    return Task("rewrite", "past", f"{now}\nput this in the past .", source=now, answer=tuple(then.split()))


def _passage(rng, facts=2, events=1):
    name = rng.choice(w.PASSAGE_NAMES)
    claims = w.invent_facts(rng, name, facts)
    lines = [w.state(c) for c in claims] + [w.event(rng, name) for _ in range(events)]
    rng.shuffle(lines)
    return name, tuple(claims), " . ".join(lines) + " ."


def _summary(rng, world):
    name, claims, text = _passage(rng, 2, rng.choice((1, 2)))
    return Task("summarization", "summary", f"{text}\n{rng.choice(('summarize the text .', 'in short ?'))}",
                subject=name, passage=claims, source=text)  # fmt: skip


def _passage_ask(rng, world):
    name, claims, text = _passage(rng, 3, 1)
    if rng.random() < 0.3:
        missing = [r for r in w.PERSON_RELATIONS if r not in {c.relation for c in claims}]
        relation, answer = rng.choice(missing), ()
    else:
        claim = rng.choice(claims)
        relation, answer = claim.relation, (claim.object,)
    question = rng.choice(w.RELATIONS[relation].questions).format(s=name)
    return Task(
        "closed_qa",
        "passage_ask",
        f"{text}\n{question} ?",
        name,
        relation,
        answer=answer,
        passage=claims,
        source=text,
    )


def _mood(rng, world):
    name, (label, moods) = rng.choice(w.PASSAGE_NAMES), rng.choice((("happy", w.HAPPY), ("sad", w.SAD)))
    lines = [f"{name} was {rng.choice(moods)}", w.event(rng, name, moods=moods)]
    rng.shuffle(lines)
    return Task(
        "classification", "mood", " . ".join(lines) + " .\nis the text happy or sad ?", answer=(label,)
    )


def _kind_of(rng, world):
    right, wrong = rng.sample(list(w.CATEGORIES), 2)
    word, pair = rng.choice(w.CATEGORIES[right]), [w.SINGULAR[right], w.SINGULAR[wrong]]
    rng.shuffle(pair)
    return Task(
        "classification", "kind_of", f"is {word} a {pair[0]} or a {pair[1]} ?", answer=(w.SINGULAR[right],)
    )


def _repeat(rng, world):
    word, count = rng.choice(w.CATEGORIES["objects"] + w.CATEGORIES["animals"]), rng.choice((2, 3, 4))
    return Task("other", "repeat", f"say {word} {w.NUMBERS[count]} times .", answer=(word,) * count)


def _after(rng, world):
    day = rng.randrange(7)
    return Task("other", "after", f"which day comes after {w.DAYS[day]} ?", answer=(w.DAYS[(day + 1) % 7],))


def _count(rng, world):
    low = rng.randrange(0, 8)
    high = low + rng.choice((2, 3, 4))
    return Task(
        "other",
        "count",
        f"count from {w.NUMBERS[low]} to {w.NUMBERS[high]} .",
        answer=tuple(w.NUMBERS[low : high + 1]),
    )


def _extract(rng, world):
    names = rng.sample(w.PASSAGE_NAMES, 2)
    things = rng.sample(w.CATEGORIES["objects"], 2)
    place = rng.choice(w.CATEGORIES["places"])
    text = (
        f"{names[0]} bought a {things[0]} at the {place} . {names[1]} carried a {things[1]} to the {place} ."
    )
    what, answer = rng.choice((("names", names), ("objects", things)))
    return Task(
        "extract",
        "extract",
        f"{text}\nlist the {what} in the text .",
        relation=what,
        answer=tuple(answer),
        source=text,
    )


def draw_use_case(rng: random.Random) -> str:
    """A use case in the proportions of Table 1."""
    return rng.choices(list(USE_CASE_SHARES), weights=list(USE_CASE_SHARES.values()))[0]


def make_prompts(seed: int, world: w.World, count: int, users: int) -> tuple[list[Prompt], dict[str, Task]]:
    """`count` prompts by `users` people, heavy-tailed counts per user (Zipf), and the hidden task of each prompt id."""
    rng = random.Random(f"prompts {seed}")
    weights = [1 / (rank + 4) for rank in range(users)]
    prompts, tasks = [], {}
    for i in range(count):
        user = rng.choices(range(users), weights=weights)[0]
        task = make_task(rng, world, draw_use_case(rng))
        prompt = Prompt(id=f"p{seed}-{i}", text=task.text, source="customer", user=f"u{user}", organization="",
                        use_case=task.use_case, language="en")  # fmt: skip
        prompts.append(prompt)
        tasks[prompt.id] = task
    return prompts, tasks
