"""Home of the tests of reward models, of any form and from anywhere: accuracy on rankings by length gap and use case, calibration, and
sets in RewardBench's format.

The paper gives accuracies on held-out comparisons (E.2). A model reads rows in its own template; rows over `width` tokens lose their end.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_collections
import numpy as np

from instruct_jax.data.sources.tables import read_values
from instruct_jax.errors import InputError
from instruct_jax.evaluation import reward_models, rewardbench
from instruct_jax.jsonl import BadRow
from instruct_jax.records import Prompt, Ranking, read_jsonl
from instruct_jax.reports.reward_models import write_reward_tests
from instruct_jax.sharding import check_divides
from instruct_jax.stages import judging, setup
from instruct_jax.stages.settings import check_fields, section

FIELDS = ("stage", "name", "seed", "models", "tests")


@dataclasses.dataclass(frozen=True)
class TestSettings:
    """Files of rankings by the name of what is tested, the prompts' records for their use cases, files in RewardBench's format (prompt,
    chosen, rejected, subset; JSON lines, CSV or Parquet), how many rows are scored at once, and the most tokens of a row."""

    rankings: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    rewardbench: tuple[str, ...] = ()
    batch_size: int = 64
    width: int = 2048


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    check_fields(config, FIELDS, {"tests": TestSettings})
    settings = section(config, "tests", TestSettings)
    if not (settings.rankings or settings.rewardbench):
        raise InputError("config.tests: names neither rankings nor rewardbench; there is nothing to test on")


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Tests config.models (name → checkpoint) and writes `workdir`/reward_tests.json and the report."""
    check(config)
    settings = section(config, "tests", TestSettings)
    sets = {
        name: [r for path in paths for r in read_jsonl(setup.expand(path), Ranking)]
        for name, paths in settings.rankings.items()
    }
    cases = {p.id: p.use_case for path in settings.prompts for p in read_jsonl(setup.expand(path), Prompt)}
    pairs = [pair for path in settings.rewardbench for pair in read_pairs(str(setup.expand(path)))]
    mesh = setup.open_mesh(setup.MeshSettings(data=-1))
    check_divides(settings.batch_size, mesh, "config.tests.batch_size")
    result = {}
    for name, path in config.models.items():
        scorer = judging.open_reward_model(path, mesh, settings.width, settings.batch_size)

        def score(rows, scorer=scorer):
            return scorer([("", *row) for row in rows])

        found = {"path": path, "sets": {}}
        for title, rankings in sets.items():
            found["sets"][title] = measure(score_rankings(score, rankings), rankings, cases)
        if pairs:
            subsets, prompts, chosen, rejected = zip(*pairs)
            better, worse = (
                score([(p, a, True) for p, a in zip(prompts, answers)]) for answers in (chosen, rejected)
            )
            found["rewardbench"] = rewardbench.numbers(subsets, better, worse)
        result[name] = found
    write_reward_tests(workdir, {"models": result, "config": config.to_dict()})


def read_pairs(path: str) -> list[tuple[str, str, str, str]]:
    """(subset, prompt, chosen, rejected) of every row; InputError names the row and column that is wrong."""
    found = []
    for number, value, *_ in read_values(path):
        if isinstance(value, BadRow):
            raise InputError(f"{path}:{number}: {value}")
        columns = ("subset", "prompt", "chosen", "rejected")
        wrong = [c for c in columns if not isinstance(value, dict) or not isinstance(value.get(c), str)]
        if wrong:
            raise InputError(
                f"{path}:{number}: field '{wrong[0]}': must be a string; rows have {', '.join(columns)}"
            )
        found.append(tuple(value[c] for c in columns))
    if not found:
        raise InputError(f"{path}: has no rows")
    return found


def score_rankings(score: Callable, rankings: Sequence[Ranking]) -> list[np.ndarray]:
    """The scores of every ranking's completions, of score(rows) with (prompt, completion, finished) each."""
    if not rankings:
        raise InputError("rankings: there is none to test on")
    flat = np.asarray(score([(r.prompt, c, f) for r in rankings for c, f in zip(r.completions, r.finished)]))
    return np.split(flat, np.cumsum([len(r.completions) for r in rankings])[:-1])


def accuracy(scores: Sequence, rankings: Sequence[Ranking]) -> dict:
    """Share of decided pairs ordered as ranked, interval over prompts."""
    return reward_models.ranking_accuracy(
        scores, [r.ranks for r in rankings], [r.prompt_id for r in rankings]
    )


def measure(scores: Sequence, rankings: Sequence[Ranking], cases: dict[str, str]) -> dict:
    """{accuracy, length_accuracy, by_length_gap, by_use_case, calibration, calibration_error}; `length_accuracy` is that of preferring
    the longer completion."""
    ranks, ids = [r.ranks for r in rankings], [r.prompt_id for r in rankings]
    lengths = [[len(c) for c in r.completions] for r in rankings]
    known = [i for i, r in enumerate(rankings) if cases.get(r.prompt_id)]
    by_case = {}
    if known:
        columns = (
            [column[i] for i in known]
            for column in (scores, ranks, [cases[i] if i in cases else "" for i in ids], ids)
        )
        by_case = reward_models.accuracy_by_use_case(*columns)
    bins = reward_models.calibration(scores, ranks, ids)
    return {
        "accuracy": accuracy(scores, rankings),
        "length_accuracy": reward_models.ranking_accuracy(lengths, ranks, ids),
        "by_length_gap": reward_models.accuracy_by_length_gap(scores, ranks, lengths, ids),
        "by_use_case": by_case, "calibration": bins, "calibration_error": reward_models.calibration_error(bins),
    }  # fmt: skip
