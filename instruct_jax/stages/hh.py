"""Home of the reward model on HH-RLHF's human preferences: trained and tested once a seed, beside a length-only baseline.

Differs from the paper in its pairs (K = 2, people talking to an assistant, labelers unknown) and in having no demonstrations to centre
on. Every seed splits, orders and starts its head anew; a dialogue is in one split only.
"""

import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
import numpy as np

from instruct_jax.algorithms.statistics import paired_difference
from instruct_jax.data import builders
from instruct_jax.data.sources import hh_rlhf
from instruct_jax.devices import versions
from instruct_jax.errors import InputError
from instruct_jax.evaluation.reward_models import calibration, calibration_error, ranking_accuracy
from instruct_jax.evaluation.winrate import as_dict, interval
from instruct_jax.models.transformer import ScalarModel
from instruct_jax.records import Ranking, write_jsonl
from instruct_jax.reports.preferences import write_page
from instruct_jax.sharding import check_divides
from instruct_jax.stages import inference, setup, train_rm
from instruct_jax.stages.settings import SHARED, section

# Seeds are hh.seeds.
FIELDS = (*(name for name in SHARED if name != "seed"), "profile", "hh", "data", "optimizer", "train", "init")


@dataclasses.dataclass(frozen=True)
class HHSettings:
    """The file of pairs, the pairs held out, the seeds, and the longest dialogue that is scored in the test.

    `tune` holds out as many pairs of the training part instead and leaves the test part alone: for choosing a learning rate.
    """

    pairs: str
    held_out: int
    seeds: tuple[int, ...]
    max_tokens: int
    batch_size: int
    tune: bool = False


@dataclasses.dataclass(frozen=True)
class Scored:
    """A pair of the test part with its two scores and the characters of its answers; `dialogue` is a digest of its opening."""

    seed: int
    prompt_id: str
    dialogue: str
    chosen: float
    rejected: float
    chosen_length: int
    rejected_length: int


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    train_rm.check(ml_collections.ConfigDict({k: v for k, v in config.items() if k != "hh"}))
    section(config, "hh", HHSettings)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains and scores a reward model for each of config.hh.seeds in `workdir`/seed_N, then writes summary.json, README.md and
    calibration.png of all seeds into `workdir`. Run again, it goes on where it stopped."""
    settings, text = section(config, "hh", HHSettings), section(config, "text", setup.TextSettings)
    rankings, left_out = hh_rlhf.read_pairs(setup.expand(settings.pairs))
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    check_divides(settings.batch_size, mesh, "config.hh.batch_size")
    tokenizer = setup.load_tokenizer(text)
    model = ScalarModel(
        setup.transformer(section(config, "model", setup.ModelSettings), tokenizer.vocab_size)
    )
    template = setup.template(text.template, tokenizer)
    tokens = count_tokens(rankings, tokenizer, template)
    scorer = inference.make_scorer(
        model, tokenizer, mesh, width=settings.max_tokens, batch_size=settings.batch_size
    )
    score = functools.partial(scorer, template=template)
    found, rows = [], []
    for seed in settings.seeds:
        folder = workdir / f"seed_{seed}"
        train, test = split(rankings, settings, seed)
        if not (folder / "scores.json").exists():
            began = time.perf_counter()
            train_one(config, seed, train, folder)
            with jax.set_mesh(mesh):
                params = setup.load(folder / "rm" / "reward", model, mesh)
                scored = score_test(test, params, score, tokens, settings.max_tokens, seed)
            _write(folder / "scores.json", {
                "seconds": round(time.perf_counter() - began, 1), "rows": [vars(row) for row in scored],
            })  # fmt: skip
        saved = json.loads((folder / "scores.json").read_text())
        scored = [Scored(**row) for row in saved["rows"]]
        fitting = sum(fits(tokens[r.prompt_id], text) for r in train)
        sizes = {"train": fitting, "train_dropped": len(train) - fitting, "test": len(scored),
                 "test_dropped": len(test) - len(scored), "seconds": saved["seconds"]}  # fmt: skip
        found.append({"seed": seed, **sizes, **measure(scored, {seed: shorter_wins(train)})})
        rows += scored
    directions = {one["seed"]: one["length_prefers"] == "shorter" for one in found}
    pooled = measure(rows, directions) | measure_calibration(rows)
    summary = {
        "read": len(rankings), "left_out": left_out, "tuning": settings.tune, "seeds": found, "pooled": pooled,
        "config": config.to_dict(), "versions": versions(),
    }  # fmt: skip
    _write(workdir / "summary.json", summary)
    write_page(workdir, summary)
    print((workdir / "README.md").read_text())


def split(rankings: list[Ranking], settings: HHSettings, seed: int) -> tuple[list[Ranking], list[Ranking]]:
    """(train, test) of a seed; when tuning, both are parts of what is otherwise the training part."""
    train, test = hh_rlhf.split_pairs(rankings, settings.held_out, seed)
    return hh_rlhf.split_pairs(train, settings.held_out, seed) if settings.tune else (train, test)


def train_one(config: ml_collections.ConfigDict, seed: int, train: list[Ranking], folder: Path) -> None:
    """A reward model on these rankings, in `folder`/rm."""
    write_jsonl(folder / "records" / "rankings.train.jsonl", train)
    builders.build(folder / "records", folder / "data")
    own = {key: config[key] for key in train_rm.FIELDS if key in config}
    own = ml_collections.ConfigDict(
        {**own, "stage": "rm", "name": f"{config.name} seed {seed}", "seed": seed}
    )
    own.data = ml_collections.ConfigDict({**own.data.to_dict(), "dir": str(folder / "data")})
    train_rm.run(own.lock(), folder / "rm")


def count_tokens(rankings: list[Ranking], tokenizer, template) -> dict[str, tuple[int, list[int]]]:
    """{prompt_id: (tokens of the rendered prompt, tokens of each completion with its end)}."""
    prompts = tokenizer.encode_prompts(template, [ranking.prompt for ranking in rankings])
    answers = iter(tokenizer.encode_batch([text for ranking in rankings for text in ranking.completions]))
    return {
        ranking.prompt_id: (len(prompt), [len(next(answers)) + 1 for _ in ranking.completions])
        for ranking, prompt in zip(rankings, prompts, strict=True)
    }


def fits(counts: tuple[int, list[int]], text: setup.TextSettings) -> bool:
    """Whether a pair is trained on: its prompt and both its answers within the limits."""
    return counts[0] <= text.max_prompt and max(counts[1]) <= text.max_response


def score_test(
    test: list[Ranking], params, score: Callable, tokens: dict, max_tokens: int, seed: int
) -> list[Scored]:
    """The pairs whose longer dialogue has at most `max_tokens` tokens, with the scores of chosen and rejected."""
    totals = {
        r.prompt_id: [tokens[r.prompt_id][0] + answer for answer in tokens[r.prompt_id][1]] for r in test
    }
    kept = [ranking for ranking in test if max(totals[ranking.prompt_id]) <= max_tokens]
    if not kept:
        raise InputError(f"hh.max_tokens: no test pair has at most {max_tokens} tokens; raise it")
    rows = [(ranking.prompt, text, True) for ranking in kept for text in ranking.completions]
    scores = score(params, rows).reshape(len(kept), 2)
    return [
        Scored(seed, ranking.prompt_id, hashlib.sha256(hh_rlhf.opening(ranking).encode()).hexdigest()[:12],
               float(chosen), float(rejected), *map(len, ranking.completions))
        for ranking, (chosen, rejected) in zip(kept, scores, strict=True)
    ]  # fmt: skip


def shorter_wins(train: list[Ranking]) -> bool:
    """Whether the shorter answer is the chosen one in more training pairs than the longer: what a length-only judge learns."""
    return sum(np.sign(len(r.completions[0]) - len(r.completions[1])) for r in train) < 0


def measure(rows: list[Scored], shorter: dict[int, bool]) -> dict:
    """Accuracy of the reward model and of length alone, each seed's direction in `shorter`, and their difference; intervals over
    dialogues."""
    dialogues = [row.dialogue for row in rows]
    by_length = [
        (np.array([row.chosen_length, row.rejected_length]) * (-1 if shorter[row.seed] else 1)).tolist()
        for row in rows
    ]
    scores, ranks = [[row.chosen, row.rejected] for row in rows], [[1, 2]] * len(rows)
    right = [[(np.sign(a - b) + 1) / 2 for a, b in pairs] for pairs in (scores, by_length)]
    losses = [float(np.logaddexp(0, row.rejected - row.chosen)) for row in rows]
    return {
        "accuracy": ranking_accuracy(scores, ranks, dialogues),
        "length_accuracy": ranking_accuracy(by_length, ranks, dialogues),
        "length_prefers": " and ".join(sorted({"shorter" if s else "longer" for s in shorter.values()})),
        "difference": as_dict(paired_difference(*right, dialogues)),
        "loss": interval(losses, dialogues),
    }


def measure_calibration(rows: list[Scored]) -> dict:
    """How often the pairs of like score gap come out as scored, beside the sigmoid of the gap."""
    bins = calibration(
        [[row.chosen, row.rejected] for row in rows], [[1, 2]] * len(rows), [row.dialogue for row in rows]
    )
    return {"calibration": bins, "calibration_error": calibration_error(bins)}


def _write(path: Path, data: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(temporary, path)
