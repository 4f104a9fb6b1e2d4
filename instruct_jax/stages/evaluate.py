"""Home of the lab's evaluation: every model answers held-out users' prompts, the gold judge compares; reward model and
pretraining tasks beside it (paper 7.1, E.2, Figs. 1, 3, 4, 28).

The only stage that can reach the gold judge.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from instruct_jax.algorithms.decode import SamplingConfig
from instruct_jax.data import builders
from instruct_jax.data.lab import gold, rubric
from instruct_jax.data.lab.prefixes import PREFIXES
from instruct_jax.evaluation import reward_models, winrate
from instruct_jax.evaluation.winrate import Judged
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.records import Ranking, read_jsonl
from instruct_jax.stages import inference, lab_tasks, setup
from instruct_jax.stages.lab_data import Lab, LabSettings, make_lab
from instruct_jax.stages.settings import SHARED, section

_log = logging.getLogger(__name__)

FIELDS = (
    *SHARED, "evaluate", "lab", "reward_model", "models", "reward", "curves", "ppo_batch_size", "task_models", "records_dir", "data_dir",
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
class Contender:
    """A model to evaluate: a checkpoint folder, the subtree of its parameters, its step (None: last), a prefix's name or none."""

    checkpoint: str
    subtree: str = "params"
    step: int | None = None
    prefix: str | None = None
    raw: bool = False


class Bench:
    """Everything that turns a contender into judged responses; holds the compiled programs."""

    def __init__(self, config: ml_collections.ConfigDict):
        self.settings = section(config, "evaluate", EvaluateSettings)
        self.text = section(config, "text", setup.TextSettings)
        self.lab: Lab = make_lab(section(config, "lab", LabSettings), self.text)
        self.mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
        self.tokenizer = setup.load_tokenizer(self.text)
        self.plain = setup.template(self.text.template, self.tokenizer)
        vocab = self.tokenizer.vocab_size
        self.policy = PolicyModel(setup.transformer(section(config, "model", setup.ModelSettings), vocab))
        self.scalar = ScalarModel(
            setup.transformer(section(config, "reward_model", setup.ModelSettings), vocab)
        )
        self.key = jax.random.key(config.seed)
        self._samplers: dict = {}
        self.score = inference.make_scorer(
            self.scalar, self.tokenizer, self.mesh, width=self.text.max_prompt + self.text.max_response + 16,
            batch_size=self.settings.batch_size,
        )  # fmt: skip
        self.logprobs = inference.make_logprobs(
            self.policy, self.tokenizer, self.mesh, max_prompt=self.text.max_prompt, max_response=self.text.max_response,
            batch_size=self.settings.batch_size,
        )  # fmt: skip

    def load(self, contender: Contender):
        """Its parameters on the mesh."""
        return setup.load(
            contender.checkpoint, self.policy, self.mesh, name=contender.subtree, step=contender.step
        )

    def sampler(self, max_prompt: int, max_new_tokens: int, temperature: float) -> Callable:
        """A compiled sampler, made once per shape."""
        asked = (max_prompt, max_new_tokens, temperature)
        if asked not in self._samplers:
            sampling = SamplingConfig(max_new_tokens=max_new_tokens, temperature=temperature)
            self._samplers[asked] = inference.make_sampler(
                self.policy,
                sampling,
                self.tokenizer,
                self.mesh,
                max_prompt=max_prompt,
                batch_size=self.settings.batch_size,
            )
        return self._samplers[asked]

    def answerable(self, contender: Contender, prompts: Sequence) -> list:
        """The prompts that fit the model's context behind the contender's prefix; the others are dropped and logged."""
        if not contender.prefix:
            return list(prompts)
        texts, shots = [p.text for p in prompts], PREFIXES[contender.prefix]
        fits = inference.fitting(texts, shots, self.tokenizer, self.settings.max_prompt)
        if not all(fits):
            _log.warning("%d of %d prompts do not fit behind the prefix", fits.count(False), len(fits))
        return [p for p, fit in zip(prompts, fits, strict=True) if fit]

    def respond(
        self, contender: Contender, params, prompts: Sequence[str], salt: int
    ) -> list[inference.Sampled]:
        """One sample per prompt, in the contender's own template."""
        raw = contender.raw or contender.prefix is not None
        temperature = self.settings.base_temperature if raw else self.settings.temperature
        width = self.settings.max_prompt if contender.prefix else self.text.max_prompt
        template = PREFIXES[contender.prefix] if contender.prefix else self.plain
        key = jax.random.fold_in(self.key, salt)
        return self.sampler(width, self.text.max_response, temperature)(params, prompts, template, key)


def judge(bench: Bench, model: str, prompts, sampled, reward) -> list[Judged]:
    """Responses with the gold verdict and the reward model's score."""
    rows = [(p.text, s.text, s.finished) for p, s in zip(prompts, sampled, strict=True)]
    scores = bench.score(reward, rows, bench.plain)
    judged = []
    for prompt, s, score in zip(prompts, sampled, scores, strict=True):
        task = bench.lab.tasks[prompt.id]
        verdict = gold.judge(bench.lab.world, task, s.text, s.finished)
        judged.append(
            Judged(model, prompt.id, prompt.use_case, prompt.text, s.text, verdict.gold, verdict.likert, verdict.flags,
                   float(score), len(s.ids), task.closed, task.constraint is not None, s.finished)
        )  # fmt: skip
    return judged


def judge_models(
    bench: Bench, contenders: dict[str, Contender], reward
) -> tuple[list[Judged], dict[str, float]]:
    """Every contender on the test prompts, and the KL of each from the reference where it has the plain template."""
    prompts = bench.lab.sets["test"][: bench.settings.prompts]
    texts = [p.text for p in prompts]
    judged, kl = [], {}
    reference = bench.load(contenders["reference"])
    for i, (name, contender) in enumerate(contenders.items()):
        if name == "reference":
            continue
        params = bench.load(contender)
        own = bench.answerable(contender, prompts)
        sampled = bench.respond(contender, params, [p.text for p in own], i)
        judged += judge(bench, name, own, sampled, reward)
        if name == "sft":
            judged += judge(
                bench, "sft_again", prompts, bench.respond(contender, params, texts, 1000), reward
            )
        if not (contender.prefix or contender.raw):
            kl[name] = float(np.mean(_kl(bench, params, reference, texts, sampled)))
    return judged, kl


def _kl(bench: Bench, params, reference, texts, sampled) -> np.ndarray:
    """Log-ratio of every sampled response, policy to reference: its mean is the KL in nats per response."""
    own, other = (
        bench.logprobs(p, texts, sampled, bench.plain, bench.settings.temperature)
        for p in (params, reference)
    )
    return own - other


def training_curve(bench: Bench, folder: str, batch_size: int, reference, reward) -> list[dict]:
    """Gold score, reward-model score and KL of the averaged policy at every kept checkpoint of a PPO run, on validation prompts:
    whoever chooses settings by these curves leaves the test prompts untouched."""
    prompts = bench.lab.sets["ppo_valid"][: bench.settings.curve_prompts]
    texts, points = [p.text for p in prompts], []
    for step in setup.checkpoint_steps(folder):
        contender = Contender(folder, "policy/ema", step)
        params = bench.load(contender)
        sampled = bench.respond(contender, params, texts, 77)
        judged = judge(bench, "point", prompts, sampled, reward)
        points.append({
            "episodes": step * batch_size,
            "kl": float(np.mean(_kl(bench, params, reference, texts, sampled))),
            "gold": winrate.interval([j.gold for j in judged]),
            "rm": winrate.interval([j.rm_score for j in judged]),
        })  # fmt: skip
    return points


def judge_reward_model(bench: Bench, records: Path, reward) -> dict:
    """Accuracy against training and held-out labelers, the labelers' own agreement, and the ceiling that the world sets."""
    pools = {name: read_jsonl(records / f"rankings.{split}.jsonl", Ranking) for name, split in (
        ("training_labelers", "valid"), ("heldout_labelers", "valid_heldout"),
        ("training_second", "valid_second"), ("heldout_second", "valid_heldout_second"))}  # fmt: skip
    result = {"rm_accuracy": {}, "rm_accuracy_both_decided": {}, "rm_ceiling": {}}
    for pool, second in (("training_labelers", "training_second"), ("heldout_labelers", "heldout_second")):
        rows = pools[pool]
        flat = bench.score(
            reward, [(r.prompt, c, f) for r in rows for c, f in zip(r.completions, r.finished)], bench.plain
        )
        ends = np.cumsum([len(r.completions) for r in rows])[:-1]
        scores, ranks, ids = np.split(flat, ends), [r.ranks for r in rows], [r.prompt_id for r in rows]
        result["rm_accuracy"][pool] = reward_models.ranking_accuracy(scores, ranks, ids)
        others = [r.ranks for r in pools[second]]
        result["rm_accuracy_both_decided"][pool] = reward_models.ranking_accuracy(scores, ranks, ids, others)
        truth = [[rubric.score(rubric.assess(bench.lab.world, bench.lab.tasks[r.prompt_id], c, f), rubric.TRAINING)
                  for c, f in zip(r.completions, r.finished)] for r in rows]  # fmt: skip
        result["rm_ceiling"][pool] = reward_models.ranking_accuracy(truth, ranks, ids)
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


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Evaluates config.models (name → contender) and writes `workdir`/evaluation.json and responses.jsonl; see the report's page."""
    bench = Bench(config)
    contenders = {name: section(config, f"models.{name}", Contender) for name in config.models}
    with jax.set_mesh(bench.mesh):
        reward = setup.load(config.reward, bench.scalar, bench.mesh)
        judged, kl = judge_models(bench, contenders, reward)
        result = judge_reward_model(bench, Path(config.records_dir), reward)
        reference = bench.load(contenders["reference"])
        result["kl_curve"] = {
            name: training_curve(bench, folder, config.ppo_batch_size, reference, reward)
            for name, folder in sorted(config.curves.items())
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
