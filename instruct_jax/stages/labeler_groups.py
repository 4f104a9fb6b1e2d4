"""Home of the paper's test of how a reward model generalises to new labelers (E.2): cross-validation over groups of labelers.

The paper splits its labelers into five groups, trains on four and tests on the fifth: 69.6 % on the group left out, 72.4 % on the
groups trained on. So here; the second number is on prompts that no fold trains on. Intervals over folds are Student's.
"""

import dataclasses
import hashlib
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from instruct_jax.algorithms.statistics import student_mean
from instruct_jax.data import builders
from instruct_jax.errors import InputError
from instruct_jax.evaluation.winrate import as_dict
from instruct_jax.models.transformer import ScalarModel
from instruct_jax.records import Prompt, Ranking, read_jsonl, write_jsonl
from instruct_jax.reports.reward_models import write_labeler_groups
from instruct_jax.sharding import check_divides
from instruct_jax.stages import inference, reward_tests, setup, train_rm
from instruct_jax.stages.chain import Chain
from instruct_jax.stages.settings import SHARED, check_fields, section
from instruct_jax.training.optim import OptimizerConfig

FIELDS = (*SHARED, "profile", "data", "optimizer", "train", "init", "groups")


@dataclasses.dataclass(frozen=True)
class GroupSettings:
    """Files of rankings, and of the prompts' records for their use cases; into how many groups the labelers are dealt; the share of
    prompts that no fold trains on; and how many rows are scored at once."""

    rankings: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    groups: int = 5
    held_out: float = 0.15
    batch_size: int = 64

    def __post_init__(self):
        if self.groups < 2:
            raise InputError(
                f"groups.groups is {self.groups}: one is left out and the others are trained on, so there are at least 2"
            )


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    sections = {
        "data": train_rm.DataSettings,
        "optimizer": OptimizerConfig,
        "train": train_rm.TrainSettings,
        "groups": GroupSettings,
    }
    check_fields(config, FIELDS, setup.SECTIONS | sections)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains a reward model a fold in `workdir`/fold_<i> and writes labeler_groups.json and the report; run again, it resumes."""
    check(config)
    settings, text = section(config, "groups", GroupSettings), section(config, "text", setup.TextSettings)
    rankings = [r for path in settings.rankings for r in read_jsonl(setup.expand(path), Ranking)]
    cases = {p.id: p.use_case for path in settings.prompts for p in read_jsonl(setup.expand(path), Prompt)}
    groups = deal([r.labeler for r in rankings], settings.groups, config.seed)
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    check_divides(settings.batch_size, mesh, "config.groups.batch_size")
    parts = [split(rankings, group, settings.held_out, config.seed) for group in groups]
    check_parts(parts)
    tokenizer = setup.load_tokenizer(text)
    model = ScalarModel(
        setup.transformer(section(config, "model", setup.ModelSettings), tokenizer.vocab_size)
    )
    scorer = inference.make_scorer(
        model, tokenizer, mesh, width=text.max_prompt + text.max_response + 16, batch_size=settings.batch_size
    )
    template, folds, chain = setup.template(text.template, tokenizer), [], Chain(workdir)
    for number, (group, (train, outside, inside)) in enumerate(zip(groups, parts, strict=True)):
        folder = workdir / f"fold_{number}"

        def fold(folder=folder, train=train, outside=outside, inside=inside, number=number):
            train_one(config, f"{config.name} fold {number}", train, folder)
            with jax.set_mesh(mesh):
                params = setup.load(folder / "rm" / "reward", model, mesh)

                def score(rows):
                    return scorer(params, rows, template)

                tested = {"outside": outside, "inside": inside}
                found = {
                    name: [s.tolist() for s in reward_tests.score_rankings(score, rows)]
                    for name, rows in tested.items()
                }
            _write(folder / "scores.json", found)

        chain.stage(folder.name, fold)
        scores = json.loads((folder / "scores.json").read_text())
        folds.append({
            "labelers": sorted(group), "trained_on": len(train),
            "outside": reward_tests.accuracy(scores["outside"], outside),
            "inside": reward_tests.accuracy(scores["inside"], inside),
            "rows": [(r, s) for r, s in zip(outside, scores["outside"], strict=True)],
        })  # fmt: skip
    result = summarise(folds, cases)
    write_labeler_groups(workdir, result | {"seconds": chain.seconds, "config": config.to_dict()})


def deal(labelers: Sequence[str], groups: int, seed: int) -> list[set[str]]:
    """The labelers in `groups` groups whose numbers of rankings are as even as they can be made one labeler at a time; which go together
    depends on the seed. InputError where there are fewer labelers."""
    counts = {name: labelers.count(name) for name in sorted(set(labelers))}
    if len(counts) < groups:
        raise InputError(f"groups.groups is {groups}: the rankings have {len(counts)} labelers")
    names = list(counts)
    random.Random(f"groups {seed}").shuffle(names)
    found: list[set[str]] = [set() for _ in range(groups)]
    for name in sorted(names, key=lambda name: -counts[name]):
        min(found, key=lambda group: (sum(counts[n] for n in group), found.index(group))).add(name)
    return found


def split(
    rankings: Sequence[Ranking], group: set[str], held_out: float, seed: int
) -> tuple[list[Ranking], list[Ranking], list[Ranking]]:
    """(to train on, of the group left out, of the others on prompts held out). A prompt that the group left out ranked is trained on in
    no other's ranking."""
    outside = [r for r in rankings if r.labeler in group]
    theirs = {r.prompt_id for r in outside}
    others = [r for r in rankings if r.labeler not in group and r.prompt_id not in theirs]

    def kept(r: Ranking) -> bool:
        point = int.from_bytes(hashlib.sha256(f"{seed}/{r.prompt_id}".encode()).digest()[:4], "big")
        return point >= held_out * 2**32

    return [r for r in others if kept(r)], outside, [r for r in others if not kept(r)]


def check_parts(parts: Sequence[tuple]) -> None:
    """InputError where a fold has nothing to train or to test on, before the first one is trained."""
    for number, (train, _, inside) in enumerate(parts):
        if not train or not inside:
            raise InputError(
                f"groups: fold {number} has no ranking {'to test its own labelers on' if train else 'to train on'}: prompts that the group "
                "left out ranked are not trained on; give rankings whose labelers share fewer prompts, or another groups.held_out"
            )


def train_one(config: ml_collections.ConfigDict, name: str, train: list[Ranking], folder: Path) -> None:
    """A reward model on these rankings, in `folder`/rm; no bias is set, which accuracy does not see."""
    write_jsonl(folder / "records" / "rankings.train.jsonl", train)
    builders.build(folder / "records", folder / "data")
    own = {key: config[key] for key in train_rm.FIELDS if key in config}
    own = ml_collections.ConfigDict({**own, "stage": "rm", "name": name})
    own.data = ml_collections.ConfigDict(
        {**own.data.to_dict(), "dir": str(folder / "data"), "demonstrations_split": None}
    )
    train_rm.run(own.lock(), folder / "rm")


def summarise(folds: list[dict], cases: dict[str, str]) -> dict:
    """The folds, their means with Student's interval, and all groups left out together by score gap, length gap and use case."""
    rows = [row for fold in folds for row in fold["rows"]]
    result = {"folds": [{key: value for key, value in fold.items() if key != "rows"} for fold in folds]}
    for name in ("outside", "inside"):
        result[name] = as_dict(student_mean([fold[name]["mean"] for fold in folds]))
    gaps = [fold["inside"]["mean"] - fold["outside"]["mean"] for fold in folds]
    result["difference"] = as_dict(student_mean(gaps))
    return result | {
        "pooled": reward_tests.measure([np.array(s) for _, s in rows], [r for r, _ in rows], cases)
    }


def _write(path: Path, data: dict) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data) + "\n")
    os.replace(temporary, path)
