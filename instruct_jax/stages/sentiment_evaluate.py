"""Home of the sentiment recipe's evaluation: every model goes on from the same held-out openings, the gold judge compares; KL, loss on
held-out pretraining text and variety beside it (Ziegler et al. 2019; paper 4.1 for the alignment tax).

The only stage that can reach the gold judge of sentiment.
"""

import dataclasses
import json
from pathlib import Path

import jax
import ml_collections
import numpy as np

from instruct_jax.data import builders
from instruct_jax.data.sentiment import gold, labeler
from instruct_jax.data.sentiment.classifier import Judge, auc
from instruct_jax.evaluation import reward_models, winrate
from instruct_jax.evaluation.task_scores import TaskRow, task_scores
from instruct_jax.evaluation.variety import distinct
from instruct_jax.evaluation.winrate import Judged
from instruct_jax.records import Generation, Ranking, read_jsonl
from instruct_jax.stages import setup
from instruct_jax.stages.bench import Bench, Contender
from instruct_jax.stages.sentiment_data import SentimentSettings, snippets_of
from instruct_jax.stages.settings import section

HELD_OUT, ABOVE = "loss on held-out text", "loss above the base model's"


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """Held-out prompts a model, held-out documents and how many of their tokens, and how many prompts are shown on the page."""

    prompts: int
    batch_size: int
    documents: int
    document_tokens: int
    shown: int = 20
    temperature: float = 1.0


def gold_judge(config: ml_collections.ConfigDict) -> Judge:
    """The gold judge of the sentiment recipe with this config: judge(texts) → how probably each is positive."""
    text = section(config, "text", setup.TextSettings)
    snippets, _ = snippets_of(section(config, "sentiment", SentimentSettings), text, config.seed)
    return gold.fit_gold(snippets)


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one model said to every prompt, the interval of its KL to SFT in nats a response (None for a model that has none) and its
    loss (nats, tokens) on every document."""

    sampled: list
    kl: dict | None
    losses: list[tuple[float, int]]


def answer(bench: Bench, settings: EvaluateSettings, models: dict, prompts, documents) -> dict[str, Answers]:
    """Every model on the same prompts and documents, one in memory at a time beside SFT; "sft_again" is a second sample of SFT."""
    texts, found = [p.text for p in prompts], {}
    sample = bench.sampler(bench.text.max_prompt, bench.text.max_response, settings.temperature)
    reference = bench.load(models["sft"])
    for i, (name, contender) in enumerate(models.items()):
        params = reference if name == "sft" else bench.load(contender)
        sampled = sample(params, texts, bench.plain, jax.random.fold_in(bench.key, i))
        kl = None
        if name not in ("base", "sft"):
            kl = winrate.interval(bench.kl(params, reference, texts, sampled, settings.temperature).tolist())
        losses = bench.document_losses(params, documents, settings.document_tokens)
        found[name] = Answers(sampled, kl, losses)
        if name == "sft":
            again = sample(params, texts, bench.plain, jax.random.fold_in(bench.key, 1000))
            found["sft_again"] = Answers(again, None, [])
    return found


def judge_all(bench: Bench, answers: dict[str, Answers], prompts, judge: Judge, reward) -> list[Judged]:
    """Every response with the gold judge's probability that prompt and response together are positive."""
    judged = []
    for model, found in answers.items():
        rows = [(p.text, s.text, s.finished) for p, s in zip(prompts, found.sampled, strict=True)]
        golds = judge([prompt + response for prompt, response, _ in rows])
        scores = bench.score(reward, rows, bench.plain)
        for prompt, s, grade, score in zip(prompts, found.sampled, golds, scores, strict=True):
            judged.append(
                Judged(model, prompt.id, "continuation", prompt.text, s.text, float(grade), None, {}, float(score),
                       len(s.ids), False, False, s.finished)
            )  # fmt: skip
    return judged


def judge_reward_model(bench: Bench, rankings: list[Ranking], judge: Judge, margin: float, reward) -> dict:
    """The reward model's accuracy on the labeler's held-out rankings and on the gold judge's of the same outputs, and how often the
    two judges agree."""
    rows = [(r.prompt, c, f) for r in rankings for c, f in zip(r.completions, r.finished, strict=True)]
    ends = np.cumsum([len(r.completions) for r in rankings])[:-1]
    scores = np.split(bench.score(reward, rows, bench.plain), ends)
    ids, ranks = [r.prompt_id for r in rankings], [r.ranks for r in rankings]
    others = [
        labeler.rank(
            judge,
            Generation(r.prompt_id, r.prompt, r.models[0], r.completions, 1.0, r.finished),
            margin,
            "gold",
        ).ranks
        for r in rankings
    ]
    return {
        "rm_accuracy": {
            "labeler": reward_models.ranking_accuracy(scores, ranks, ids),
            "gold_judge": reward_models.ranking_accuracy(scores, others, ids),
        },
        "rm_accuracy_both_decided": {"labeler": reward_models.ranking_accuracy(scores, ranks, ids, others)},
        "rm_calibration": reward_models.calibration(scores, ranks, ids),
        "labeler_agreement": reward_models.labeler_agreement(ranks, others),
    }


def judge_judges(snippets, first: Judge, second: Judge) -> dict:
    """The two judges on the sentences that neither was fitted on: {labeler, gold_judge, agreement}."""
    test = [s for s in snippets if s.split == "test"]
    texts = [s.text for s in test]
    alike = (first(texts) > 0.5) == (second(texts) > 0.5)
    return {
        "labeler": auc(first, test),
        "gold_judge": auc(second, test),
        "agreement": winrate.interval(alike),
    }


def tax(answers: dict[str, Answers]) -> dict:
    """Loss on held-out documents, and document by document above the base model's: what fine-tuning costs and ptx wins back."""
    rows = []
    for model, found in answers.items():
        for i, (nats, tokens) in enumerate(found.losses):

            def row(task, value, i=i, tokens=tokens, model=model):
                return TaskRow(model, task, f"document-{i}", value, "nats per token", tokens, False)

            rows.append(row(HELD_OUT, nats / tokens))
            if model != "base":
                rows.append(row(ABOVE, (nats - answers["base"].losses[i][0]) / tokens))
    return task_scores(rows)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Evaluates config.models (base, sft, …: name → contender) and writes `workdir`/evaluation.json and responses.jsonl."""
    settings, text = (
        section(config, "evaluate", EvaluateSettings),
        section(config, "text", setup.TextSettings),
    )
    world = section(config, "sentiment", SentimentSettings)
    snippets, _ = snippets_of(world, text, config.seed)
    first, second = labeler.fit_labeler(snippets), gold.fit_gold(snippets)
    bench = Bench(config, settings.batch_size)
    models = {name: section(config, f"models.{name}", Contender) for name in config.models}
    prompts = list(builders.open_source(config.data_dir, "prompts", "test"))[: settings.prompts]
    documents = [d.text for d in builders.open_source(config.data_dir, "documents", "valid")]
    rankings = read_jsonl(Path(config.records_dir) / "rankings.valid.jsonl", Ranking)
    with jax.set_mesh(bench.mesh):
        answers = answer(bench, settings, models, prompts, documents[: settings.documents])
        reward = setup.load(config.reward, bench.scalar, bench.mesh)
        judged = judge_all(bench, answers, prompts, second, reward)
        result = judge_reward_model(bench, rankings, second, world.margin, reward)
    texts = {model: [s.text for s in found.sampled] for model, found in answers.items() if model in models}
    result |= {
        "judges": judge_judges(snippets, first, second),
        "gold": {m: winrate.interval([j.gold for j in judged if j.model == m]) for m in models},
        "win_rate_vs_sft": winrate.win_rates(judged),
        "kl": {model: found.kl for model, found in answers.items() if found.kl is not None},
        "pretraining_tasks": tax(answers),
        "distinct": {m: {f"distinct_{n}": distinct(texts[m], n) for n in (1, 2)} for m in models},
        "lengths": winrate.length_stats(judged),
        "samples": winrate.side_by_side(judged, settings.shown),
    }
    with open(workdir / "responses.jsonl", "w") as file:
        file.writelines(json.dumps(dataclasses.asdict(row)) + "\n" for row in judged)
    (workdir / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
