"""Home of how people of the lab write a response to a task: an ideal answer, and what is lost by a writer's slips.

`flaws` names the slips of one text: constraint (ignored), false (a wrong object), brief (a part left out), ramble (something
nobody asked for), guess (an answer where nobody knows one), hedge (no answer though there is one), rude.
"""

import random

from instruct_jax.data.lab import world as w
from instruct_jax.data.lab.prompts import CHAT_WISHES, Task

FLAWS = ("constraint", "false", "brief", "ramble", "guess", "hedge", "rude")


def write(rng: random.Random, world: w.World, task: Task, flaws: frozenset[str] = frozenset()) -> str:
    """One response to `task` as a person with these slips would write it."""
    writers = {
        "story": _story, "describe": _describe, "describe_town": _describe, "sentence_about": _sentence_about, "ask": _ask,
        "passage_ask": _ask, "verify": _verify, "why": _why, "list": _list, "chat": _chat, "summary": _summary,
        "mood": _classify, "kind_of": _classify, "after": _classify,
    }  # fmt: skip
    lines = writers.get(task.kind, _transform)(rng, world, task, flaws)
    if "ramble" in flaws:
        lines.append(w.event(rng, rng.choice(w.NAMES)))
    if "rude" in flaws:
        lines.insert(0, rng.choice(("you fool", "stupid question")))
    if task.constraint and task.constraint.kind == "end" and "constraint" not in flaws:
        lines.append(task.constraint.value)
    return " . ".join(lines) + " ."


def _kept(task: Task, flaws) -> tuple[str, str]:
    """The constraint that this writer keeps to, as (kind, value)."""
    if task.constraint is None or "constraint" in flaws:
        return "", ""
    return task.constraint.kind, task.constraint.value


def _wrong(rng, relation: str, right: str) -> str:
    return rng.choice([o for o in w.RELATIONS[relation].objects if o != right])


def _claims(rng, world, task, flaws, count) -> list[str]:
    known = list(world.known(task.subject).items())
    rng.shuffle(known)
    lines = []
    for i, (relation, obj) in enumerate(known[:count]):
        obj = _wrong(rng, relation, obj) if "false" in flaws and i == 0 else obj
        lines.append(w.state(w.Claim(task.subject, relation, obj), form=int(rng.random() < 0.25)))
    return lines


def _fit(lines: list[str], most: int) -> list[str]:
    """The longest run of lines from the first that has at most `most` words; the shortest line alone if none has."""
    kept = []
    for line in lines:
        if len(w.words(" ".join([*kept, line]))) <= most:
            kept.append(line)
    return kept or [min(lines, key=len)]


def _story(rng, world, task, flaws):
    kind, value = _kept(task, flaws)
    lines = _claims(rng, world, task, flaws, rng.choice((1, 2)))
    for i in range(rng.choice((1, 2)) if len(lines) == 1 else 1):
        lead = rng.choice(("", "one day ")) if i == 0 else "later "
        lines.append(lead + w.event(rng, task.subject))
    if kind == "mention":
        lines[-1] = f"one day {task.subject} found a {value} in the {rng.choice(w.CATEGORIES['places'])}"
    return _shorten(lines, kind, value, flaws)


def _shorten(lines, kind, value, flaws):
    if "brief" in flaws:
        lines = lines[:1]
    if kind == "at_most":
        return _fit(lines, w.NUMBERS.index(value))
    if kind == "two":
        return lines[:2]
    return lines


def _describe(rng, world, task, flaws):
    kind, value = _kept(task, flaws)
    return _shorten(
        _claims(rng, world, task, flaws, 2 if kind == "two" else rng.choice((2, 3))), kind, value, flaws
    )


def _sentence_about(rng, world, task, flaws):
    thing, name = task.object, rng.choice(w.NAMES)
    if "false" in flaws:
        thing = rng.choice(w.CATEGORIES["objects"])
    if thing in w.CATEGORIES["places"]:
        animal = rng.choice(w.CATEGORIES["animals"])
        return [f"{name} {rng.choice((f'walked to the {thing}', f'saw a {animal} near the {thing}'))}"]
    place = rng.choice(w.CATEGORIES["places"])
    return [f"{name} {rng.choice((f'found a {thing} in the {place}', f'bought a {thing} at the {place}'))}"]


def _ask(rng, world, task, flaws):
    if (not task.answer and "guess" not in flaws) or (task.answer and "hedge" in flaws):
        return [w.NOT_SAID if task.passage else w.UNKNOWN]
    answer = task.answer[0] if task.answer else rng.choice(w.RELATIONS[task.relation].objects)
    if "false" in flaws:
        answer = _wrong(rng, task.relation, answer)
    if _kept(task, flaws)[0] == "at_most" or ("brief" in flaws and not task.passage):
        return [answer]
    return [w.state(w.Claim(task.subject, task.relation, answer))]


def _verify(rng, world, task, flaws):
    if (not task.answer and "guess" not in flaws) or (task.answer and "hedge" in flaws):
        return [w.UNKNOWN]
    truth = task.answer[0] if task.answer else task.object
    if "false" in flaws:
        truth = task.object if truth != task.object else _wrong(rng, task.relation, truth)
    verdict = "yes" if truth == task.object else "no"
    if "brief" in flaws:
        return [verdict]
    return [f"{verdict} , {w.state(w.Claim(task.subject, task.relation, truth))}"]


def _why(rng, world, task, flaws):
    right = task.answer[0]
    if right == task.object or "guess" in flaws or "false" in flaws:
        return [w.state(w.Claim(task.subject, task.relation, task.object)), f"{w.UNKNOWN} why"]
    lines = [w.state(w.Claim(task.subject, task.relation, task.object, negated=True))]
    return lines if "brief" in flaws else [*lines, w.state(w.Claim(task.subject, task.relation, right))]


def _list(rng, world, task, flaws):
    kind, value = _kept(task, flaws)
    options = [x for x in w.CATEGORIES[task.relation] if not (kind == "avoid" and x == value)]
    items = rng.sample(options, task.count - ("brief" in flaws))
    if (
        kind != "avoid"
        and task.constraint
        and task.constraint.kind == "avoid"
        and task.constraint.value not in items
    ):
        items[0] = task.constraint.value
    if "false" in flaws:
        other = rng.choice([c for c in w.CATEGORIES if c != task.relation])
        items[-1] = rng.choice(w.CATEGORIES[other])
    return [" , ".join(items)]


def _chat(rng, world, task, flaws):
    remark = ""
    if task.object and "brief" not in flaws:
        sad = (task.object in w.SAD) != ("false" in flaws)
        remark = " , i am sorry to hear that" if sad else " , that is nice"
    greeting = f"hello {task.subject}".strip() + remark
    article = "a " if task.relation == "buy" else "the " if task.relation == "visit" else ""
    suggestion = f"you could {task.relation} {article}{rng.choice(w.CATEGORIES[CHAT_WISHES[task.relation]])}"
    return [suggestion] if "hedge" in flaws else [greeting, suggestion]


def _summary(rng, world, task, flaws):
    kind, value = _kept(task, flaws)
    claims = list(task.passage)
    if "false" in flaws:
        claims[0] = w.Claim(
            task.subject, claims[0].relation, _wrong(rng, claims[0].relation, claims[0].object)
        )
    first, second = w.state(claims[0]), w.state(claims[1]).removeprefix(task.subject + " ")
    whole = f"{first} and {second}"
    if "brief" in flaws or (kind == "at_most" and len(w.words(whole)) > w.NUMBERS.index(value)):
        return [first]
    return [whole]


def _classify(rng, world, task, flaws):
    if "false" not in flaws:
        return [task.answer[0]]
    wrong = {"mood": ["happy", "sad"], "kind_of": list(w.SINGULAR.values()), "after": w.DAYS}[task.kind]
    return [rng.choice([x for x in wrong if x != task.answer[0]])]


def _transform(rng, world, task, flaws):
    """Rewrite, extract, repeat and count: the answer's own words."""
    answer = list(task.answer)
    if task.kind == "extract":
        pool = w.PASSAGE_NAMES if task.relation == "names" else w.CATEGORIES["objects"]
        if "false" in flaws:
            answer[-1] = rng.choice(pool)
        return [" , ".join(answer[:1] if "brief" in flaws else answer)]
    if task.kind in ("repeat", "count"):
        return [" ".join(answer[:-1] if "brief" in flaws or "false" in flaws else answer)]
    if "brief" in flaws and task.kind != "polite":
        answer = task.source.split()
    if "false" in flaws:
        spots = [
            i for i, word in enumerate(answer) if word in w.CATEGORIES["objects"] + w.CATEGORIES["places"]
        ]
        for i in spots[-1:]:
            answer[i] = rng.choice(
                w.CATEGORIES["objects"] if answer[i] in w.CATEGORIES["objects"] else w.CATEGORIES["places"]
            )
    return [" ".join(answer).removesuffix(" .")]
