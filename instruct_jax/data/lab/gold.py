"""Home of the gold judge: no noise, no taste, the evaluation's priorities. Used for evaluation alone; no training stage reaches it."""

import dataclasses

from instruct_jax.data.lab import rubric
from instruct_jax.data.lab import world as w
from instruct_jax.data.lab.prompts import Task


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Gold quality in [1, 7], its whole grade, and the Table 3 flags."""

    gold: float
    likert: int
    flags: dict[str, bool]


def judge(world: w.World, task: Task, response: str, finished: bool) -> Verdict:
    """The gold verdict on one response."""
    a = rubric.assess(world, task, response, finished)
    points = rubric.score(a, rubric.EVALUATION)
    return Verdict(points, rubric.likert(points), rubric.flags(a, task, response))
