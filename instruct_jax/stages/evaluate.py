"""Home of the lab's evaluation: every model answers held-out users' prompts, the gold judge compares; reward model and
pretraining tasks beside it (paper 7.1, E.2, Figs. 1, 3, 4, 28).

The only stage that can reach the gold judge.
"""

import dataclasses
import itertools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from instruct_jax.data import builders
from instruct_jax.data.lab import gold
from instruct_jax.data.lab.labelers import common_view
from instruct_jax.data.lab.prefixes import PREFIXES
from instruct_jax.evaluation import reward_models, winrate
from instruct_jax.evaluation.winrate import Judged
from instruct_jax.records import Prompt, Ranking, read_jsonl
from instruct_jax.stages import inference, lab_tasks, setup
from instruct_jax.stages.bench import Bench, Contender
from instruct_jax.stages.lab_data import Lab, LabSettings, make_lab
from instruct_jax.stages.settings import SHARED, check_fields, section

_log = logging.getLogger(__name__)

FIELDS = (
    *SHARED, "evaluate", "lab", "reward_model", "models", "reward", "curves", "task_models", "records_dir", "data_dir",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """Test prompts per model, validation prompts per point of the curves over training, items per pretraining task, temperatures."""

    prompts: int
    batch_size: int
    curve_prompts: int
    task_items: int
    max_prompt: int
    temperature: float = 1.0
    base_temperature: float = 0.7


@dataclasses.dataclass(frozen=True)
class Curve:
    """A PPO run whose kept checkpoints are a curve: its folder, where its policy lies in them, and the episodes of an iteration."""

    folder: str
    subtree: str
    batch_size: int


@dataclasses.dataclass(frozen=True)
class LabBench:
    """The bench, the lab that asks, and how much of it."""

    models: Bench
    lab: Lab
    settings: EvaluateSettings

    def answerable(self, contender: Contender, prompts: Sequence) -> list:
        """The prompts that fit the model's context behind the contender's prefix; the others are dropped and logged."""
        if not contender.prefix:
            return list(prompts)
        texts, shots = [p.text for p in prompts], PREFIXES[contender.prefix]
        fits = inference.fitting(texts, shots, self.models.tokenizer, self.settings.max_prompt)
        if not all(fits):
            _log.warning("%d of %d prompts do not fit behind the prefix", fits.count(False), len(fits))
        return [p for p, fit in zip(prompts, fits, strict=True) if fit]

    def respond(
        self, contender: Contender, params, prompts: Sequence[str], salt: int
    ) -> list[inference.Sampled]:
        """One sample per prompt, in the contender's own template."""
        raw = contender.raw or contender.prefix is not None
        temperature = self.settings.base_temperature if raw else self.settings.temperature
        # A base model without a prefix shares the program of one behind a prefix.
        width = self.settings.max_prompt if raw else self.models.text.max_prompt
        template = PREFIXES[contender.prefix] if contender.prefix else self.models.plain
        key = jax.random.fold_in(self.models.key, salt)
        sample = self.models.sampler(width, self.models.text.max_response, temperature)
        return sample(params, prompts, template, key)


def gold_judge(lab: Lab) -> Callable[[str, str, bool], gold.Verdict]:
    """verdict(prompt id, response, finished) of the lab's gold judge."""

    def verdict(prompt_id: str, response: str, finished: bool) -> gold.Verdict:
        return gold.judge(lab.world, lab.task(prompt_id), response, finished)

    return verdict


def judge(bench: LabBench, said: Sequence[tuple[str, Prompt, inference.Sampled]], reward) -> list[Judged]:
    """Responses of (model, prompt, sampled) with the gold verdict and the reward model's score: all at once, so that short ones
    fill batches of their own."""
    scores = bench.models.score(
        reward, [(p.text, s.text, s.finished) for _, p, s in said], bench.models.plain
    )
    judged, judge_one = [], gold_judge(bench.lab)
    for (model, prompt, s), score in zip(said, scores, strict=True):
        task = bench.lab.tasks[prompt.id]
        verdict = judge_one(prompt.id, s.text, s.finished)
        judged.append(
            Judged(model, prompt.id, prompt.use_case, prompt.text, s.text, verdict.gold, verdict.likert, verdict.flags,
                   float(score), len(s.ids), task.closed, task.constraint is not None, s.finished)
        )  # fmt: skip
    return judged


def judge_models(
    bench: LabBench, contenders: dict[str, Contender], reward, prompts: Sequence
) -> tuple[list[Judged], dict[str, float]]:
    """Every contender on the prompts, and the KL of each from the reference where it has the plain template."""
    texts = [p.text for p in prompts]
    said, kl = [], {}
    reference = bench.models.load(contenders["reference"])
    for i, (name, contender) in enumerate(contenders.items()):
        if name == "reference":
            continue
        params = bench.models.load(contender)
        own = bench.answerable(contender, prompts)
        sampled = bench.respond(contender, params, [p.text for p in own], i)
        said += [(name, *both) for both in zip(own, sampled, strict=True)]
        if name == "sft":
            again = bench.respond(contender, params, texts, 1000)
            said += [("sft_again", *both) for both in zip(prompts, again, strict=True)]
        if not (contender.prefix or contender.raw):
            kl[name] = float(
                np.mean(bench.models.kl(params, reference, texts, sampled, bench.settings.temperature))
            )
    return judge(bench, said, reward), kl


def training_curve(bench: LabBench, curve: Curve, reference, reward) -> list[dict]:
    """Gold score, reward-model score and KL of the policy at every kept checkpoint of a PPO run, on validation prompts:
    whoever chooses settings by these curves leaves the test prompts untouched."""
    prompts = bench.lab.sets["ppo_valid"][: bench.settings.curve_prompts]
    texts, said, kl = [p.text for p in prompts], {}, {}
    for step in setup.checkpoint_steps(curve.folder):
        contender = Contender(curve.folder, curve.subtree, step)
        params = bench.models.load(contender)
        said[step] = bench.respond(contender, params, texts, 77)
        kl[step] = bench.models.kl(params, reference, texts, said[step], bench.settings.temperature)
    every = [("", *both) for sampled in said.values() for both in zip(prompts, sampled, strict=True)]
    judged = iter(judge(bench, every, reward))
    points = []
    for step in said:
        own = [*itertools.islice(judged, len(prompts))]
        points.append({
            "episodes": step * curve.batch_size,
            "kl": float(np.mean(kl[step])),
            "gold": winrate.interval([j.gold for j in own]),
            "rm": winrate.interval([j.rm_score for j in own]),
        })  # fmt: skip
    return points


def judge_reward_model(bench: LabBench, records: Path, reward) -> dict:
    """Accuracy against training and held-out labelers, the labelers' own agreement, and the ceiling: a ranker that knows
    the world and how the pool's people take each answer on average."""
    pools = {name: read_jsonl(records / f"rankings.{split}.jsonl", Ranking) for name, split in (
        ("training_labelers", "valid"), ("heldout_labelers", "valid_heldout"),
        ("training_second", "valid_second"), ("heldout_second", "valid_heldout_second"))}  # fmt: skip
    result = {"rm_accuracy": {}, "rm_accuracy_both_decided": {}, "rm_ceiling": {}}
    asked = pools["training_labelers"] + pools["heldout_labelers"]
    flat = bench.models.score(
        reward,
        [(r.prompt, c, f) for r in asked for c, f in zip(r.completions, r.finished)],
        bench.models.plain,
    )
    scored = iter(np.split(flat, np.cumsum([len(r.completions) for r in asked])[:-1]))
    for pool, second in (("training_labelers", "training_second"), ("heldout_labelers", "heldout_second")):
        rows = pools[pool]
        scores = [*itertools.islice(scored, len(rows))]
        ranks, ids = [r.ranks for r in rows], [r.prompt_id for r in rows]
        result["rm_accuracy"][pool] = reward_models.ranking_accuracy(scores, ranks, ids)
        others = [r.ranks for r in pools[second]]
        result["rm_accuracy_both_decided"][pool] = reward_models.ranking_accuracy(scores, ranks, ids, others)
        people = bench.lab.labelers if pool == "training_labelers" else bench.lab.heldout_labelers
        views = [[common_view(people, bench.lab.world, bench.lab.tasks[r.prompt_id], c, f)
                  for c, f in zip(r.completions, r.finished)] for r in rows]  # fmt: skip
        result["rm_ceiling"][pool] = reward_models.ranking_accuracy(views, ranks, ids)
        if pool == "training_labelers":
            cases = [bench.lab.tasks[i].use_case for i in ids]
            result["rm_by_use_case"] = reward_models.accuracy_by_use_case(scores, ranks, cases, ids)
            result["rm_calibration"] = reward_models.calibration(scores, ranks, ids)
    for key, first, second in (("labeler_agreement", "training_labelers", "training_second"),
                               ("labeler_agreement_heldout", "heldout_labelers", "heldout_second")):  # fmt: skip
        result[key] = reward_models.labeler_agreement(
            [r.ranks for r in pools[first]], [r.ranks for r in pools[second]]
        )
    return result


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    check_fields(config, FIELDS, setup.SECTIONS | {"evaluate": EvaluateSettings, "lab": LabSettings})


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Evaluates config.models (name → contender) and writes `workdir`/evaluation.json and responses.jsonl; see the report's page."""
    settings, text = (
        section(config, "evaluate", EvaluateSettings),
        section(config, "text", setup.TextSettings),
    )
    lab = make_lab(section(config, "lab", LabSettings), text)
    bench = LabBench(Bench(config, settings.batch_size), lab, settings)
    contenders = {name: section(config, f"models.{name}", Contender) for name in config.models}
    with jax.set_mesh(bench.models.mesh):
        reward = setup.load(config.reward, bench.models.scalar, bench.models.mesh)
        judged, kl = judge_models(bench, contenders, reward, lab.sets["test"][: settings.prompts])
        result = judge_reward_model(bench, Path(config.records_dir), reward)
        reference = bench.models.load(contenders["reference"])
        result["kl_curve"] = {
            name: training_curve(bench, section(config, f"curves.{name}", Curve), reference, reward)
            for name in sorted(config.curves)
        }
        shown = {n: c for n, c in contenders.items() if n in config.task_models}
        documents = [d.text for d in builders.open_source(config.data_dir, "documents", "valid")]
        result["pretraining_tasks"] = lab_tasks.evaluate(bench, shown, documents)
    result |= {
        "kl": kl, "win_rate_vs_sft": winrate.win_rates(judged), "win_rate_by_use_case": winrate.by_use_case(judged),
        "likert": winrate.likert_means(judged), "flags": winrate.flag_rates(judged), "lengths": winrate.length_stats(judged),
        "samples": winrate.side_by_side(judged, 12),
    }  # fmt: skip
    with open(workdir / "responses.jsonl", "w") as file:
        file.writelines(json.dumps(dataclasses.asdict(row)) + "\n" for row in judged)
    (workdir / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
