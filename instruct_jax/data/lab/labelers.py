"""Home of the lab's labelers: people who write demonstrations, rank K completions with ties, and rate single outputs.

They read a response by the rubric and then err as people do: each has a taste (weights of their own, a liking for long or short
answers, for polite or hedged ones), overlooks some faults, perceives quality with some noise, and now and then misreads an output
altogether. Outputs that seem about as good are tied. Writing is harder for them than ranking: `slips` says how often a text of
theirs has which flaw. The constants were set on other seeds than the study's, from two labelers' agreement on training and
validation prompts, the mean grade of demonstrations, and what a reward model could learn of them; test prompts had no part in it.
"""

import dataclasses
import functools
import random

from instruct_jax.data.lab import rubric
from instruct_jax.data.lab import world as w
from instruct_jax.data.lab.prompts import Task
from instruct_jax.data.lab.writing import write
from instruct_jax.records import Demonstration, Prompt, Ranking, Rating

NOISE = 0.5
TIE_WIDTH = 1.0
# How often a labeler misreads an output: it could then be worth anything.
LAPSES = 0.27
# Share of the world's facts that a labeler knows; where they do not, they believe what they read.
KNOWLEDGE = 0.3
# Mean chance of each slip in a demonstration; a labeler's own is this times 0.5 to 1.5.
SLIPS = {
    "constraint": 0.4,
    "false": 0.2,
    "brief": 0.35,
    "ramble": 0.35,
    "guess": 0.5,
    "hedge": 0.1,
    "rude": 0.06,
}


@dataclasses.dataclass(frozen=True)
class Labeler:
    """One person: `weights` are the points that they take off for a fault, `overlooks` the chance to miss a false claim or a
    broken constraint, `likes_*` points per word, polite or hedging answer, `slips` the chance of each flaw when they write."""

    id: str
    seed: str
    weights: rubric.Priorities
    overlooks: float
    likes_length: float
    likes_hedge: float
    slips: dict[str, float]


def make_labelers(seed: int, count: int, held_out: bool = False) -> list[Labeler]:
    """A pool of labelers; the held-out pool is other people drawn from the same population."""
    pool = "held-out" if held_out else "training"
    people = []
    for i in range(count):
        rng = random.Random(f"labeler {pool} {seed} {i}")
        base = dataclasses.asdict(rubric.TRAINING)
        weights = rubric.Priorities(**{k: v * rng.uniform(0.75, 1.25) for k, v in base.items()})
        people.append(
            Labeler(
                id=f"{pool}-{i}",
                seed=f"{pool} {seed} {i}",
                weights=weights,
                overlooks=rng.uniform(0.02, 0.12),
                likes_length=rng.gauss(0.0, 0.02),
                likes_hedge=rng.gauss(0.0, 0.2),
                slips={k: v * rng.uniform(0.5, 1.5) for k, v in SLIPS.items()},
            )  # fmt: skip
        )
    return people


def draw_slips(labeler: Labeler, rng: random.Random) -> frozenset[str]:
    """The slips of one text by this labeler (see lab/writing)."""
    return frozenset(flaw for flaw, chance in labeler.slips.items() if rng.random() < chance)


def demonstrate(labeler: Labeler, world: w.World, prompt: Prompt, task: Task) -> Demonstration:
    """What this labeler writes in answer to the prompt, slips and all."""
    rng = random.Random(f"demonstration {labeler.seed} {prompt.id}")
    return Demonstration(
        prompt.id, prompt.text, write(rng, world, task, draw_slips(labeler, rng)), labeler.id
    )


@functools.cache
def _knows(labeler_seed: str, subject: str, relation: str) -> bool:
    return random.Random(f"knowledge {labeler_seed} {subject} {relation}").random() < KNOWLEDGE


def believe(labeler: Labeler, world: w.World, task: Task, response: str) -> tuple[w.World, Task]:
    """World and task as this labeler takes them: of what they do not know themselves, they believe the response.

    What nobody knows they know to be so, and a passage they can check: neither changes."""
    read = rubric.read(response)
    told = {}
    for claim in read.claims:
        if not claim.negated:
            told.setdefault((claim.subject, claim.relation), claim.object)
    asked = (task.subject, task.relation)
    if asked in world.facts and asked not in told:
        named = [x for x in read.items if x in w.RELATIONS[task.relation].objects]
        if named:
            told[asked] = named[0]
        elif "no" in read.verdicts or any(c.negated for c in read.claims):
            told[asked] = next(x for x in w.RELATIONS[task.relation].objects if x != task.object)
        elif "yes" in read.verdicts:
            told[asked] = task.object
    taken = {key: x for key, x in told.items()
             if key in world.facts and key not in world.hidden and not _knows(labeler.seed, *key)}  # fmt: skip
    if asked in taken and task.answer:
        task = dataclasses.replace(task, answer=(taken[asked],))
    return dataclasses.replace(world, facts=world.facts | taken), task


def perceive(
    labeler: Labeler, world: w.World, task: Task, response: str, finished: bool, rng: random.Random
) -> tuple[float, rubric.Assessment]:
    """The quality that this labeler sees, on the 1-7 scale but unclipped, and the facts as they take them: a lapse is in the worth."""
    lapsed = rng.random() < LAPSES
    a = rubric.assess(*believe(labeler, world, task, response), response, finished)
    if lapsed:
        return rng.uniform(1.0, 7.0), a
    if rng.random() < labeler.overlooks:
        a = dataclasses.replace(a, false_claims=0)
    if rng.random() < labeler.overlooks and a.constraint is False:
        a = dataclasses.replace(a, constraint=True)
    return _worth(labeler, a) + rng.gauss(0.0, NOISE), a


def _worth(labeler: Labeler, a: rubric.Assessment) -> float:
    taste = labeler.likes_length * min(a.words, 20) + labeler.likes_hedge * a.hedges
    return rubric.score(a, labeler.weights) + taste


def common_view(people: list[Labeler], world: w.World, task: Task, response: str, finished: bool) -> float:
    """The mean worth of a response to these people, by what each knows and likes and with nothing overlooked or misread."""
    believed = [(person, believe(person, world, task, response)) for person in people]
    return sum(_worth(p, rubric.assess(*taken, response, finished)) for p, taken in believed) / len(people)


def rank(labeler: Labeler, world: w.World, prompt: Prompt, task: Task, completions: list[str], models: list[str],
         finished: list[bool]) -> Ranking:  # fmt: skip
    """Ranks K completions, 1 best; outputs that seem about as good share a rank."""
    rng = random.Random(f"ranking {labeler.seed} {prompt.id}")
    seen = [perceive(labeler, world, task, c, f, rng)[0] for c, f in zip(completions, finished, strict=True)]
    order = sorted(range(len(seen)), key=lambda i: -seen[i])
    ranks, level, top = [0] * len(seen), 0, None
    for i in order:
        if top is None or top - seen[i] > TIE_WIDTH:
            level, top = level + 1, seen[i]
        ranks[i] = level
    return Ranking(prompt.id, prompt.text, labeler.id, list(completions), ranks, list(models), list(finished))


def rate(
    labeler: Labeler, world: w.World, prompt: Prompt, task: Task, completion: str, model: str, finished: bool
) -> Rating:
    """Grades one output 1-7 and sets the Table 3 flags, both by what this labeler believes and notices."""
    rng = random.Random(f"rating {labeler.seed} {prompt.id} {completion}")
    seen, a = perceive(labeler, world, task, completion, finished, rng)
    seconds = round(20 + 4 * a.words * rng.uniform(0.7, 1.3), 1)
    return Rating(prompt.id, prompt.text, completion, model, labeler.id, rubric.likert(seen),
                  rubric.flags(a, task, completion), "", seconds)  # fmt: skip
