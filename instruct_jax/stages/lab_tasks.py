"""Home of the lab's pretraining tasks: what the base model could do before fine-tuning, and what is left of it (paper Fig. 28).

Recall of facts by completing a sentence, the same as a choice of four, question pages, reading a passage, and loss on held-out
documents; greedy decoding and highest mean log-probability, as in the paper's automatic evaluations (7.2).
"""

import random

import jax
import numpy as np

from instruct_jax.data.lab import world as w
from instruct_jax.evaluation.scorers.choice import choose, entropy_bits
from instruct_jax.evaluation.task_scores import TaskRow, task_scores
from instruct_jax.stages.inference import Sampled
from instruct_jax.text.templates import Template

ANSWER_TOKENS = 10
PAGE = Template("question : ", "\nanswer : ")
AS_IS = Template("", " ")


def items(world: w.World, count: int, seed: int = 0) -> dict[str, list[tuple[Template, str, str]]]:
    """{task: [(template, prompt, answer)]}: `count` items of every task, equal for equal seed."""
    rng = random.Random(f"tasks {seed}")
    stated = sorted(key for key in world.facts if key not in world.hidden)
    facts = rng.sample(stated, min(count, len(stated)))
    passages = []
    for _ in range(count):
        name = rng.choice(w.PASSAGE_NAMES)
        claims = w.invent_facts(rng, name, 3)
        asked = rng.choice(claims)
        question = rng.choice(w.RELATIONS[asked.relation].questions).format(s=name)
        text = " . ".join(w.state(c) for c in claims)
        passages.append((Template(f"{text} .\n{PAGE.prefix}", PAGE.suffix), f"{question} ?", asked.object))
    return {
        "recall": [(AS_IS, f"{s} {w.RELATIONS[r].says}", world.facts[s, r]) for s, r in facts],
        "question page": [
            (PAGE, rng.choice(w.RELATIONS[r].questions).format(s=s) + " ?", world.facts[s, r])
            for s, r in facts
        ],
        "reading": passages,
    }


def evaluate(bench, contenders: dict, documents: list[str]) -> dict:
    """Scores of every contender on every task, as the report wants them; `bench` is the evaluation's."""
    tasks = items(bench.lab.world, bench.settings.task_items)
    sample = bench.models.sampler(bench.settings.max_prompt, ANSWER_TOKENS, 0.0)
    asked = [(f"{task}-{i}", template.render(prompt), right) for task, found in tasks.items()
             for i, (template, prompt, right) in enumerate(found)]  # fmt: skip
    prompts, rows = [prompt for _, prompt, _ in asked], []
    for model, contender in contenders.items():
        params = bench.models.load(contender)
        answers = sample(params, prompts, Template("", ""), jax.random.key(0))
        for (name, _, right), answer in zip(asked, answers, strict=True):
            rows.append(TaskRow(model, name.rpartition("-")[0], name, _right(answer.text, right), "accuracy"))
        rows += _choices(bench, model, params)
        shown, length = documents[: bench.settings.task_items], bench.models.policy.config.context
        losses = bench.models.document_losses(params, shown, length)
        for i, (nats, tokens) in enumerate(losses):
            rows.append(
                TaskRow(
                    model,
                    "language modelling",
                    f"document-{i}",
                    nats / tokens,
                    "nats per token",
                    tokens,
                    False,
                )
            )
    return task_scores(rows)


def _choices(bench, model: str, params) -> list[TaskRow]:
    """Four objects to complete a fact with: is the right one the likeliest, and how sure is the model?"""
    rng = random.Random("choices")
    asked = items(bench.lab.world, bench.settings.task_items)["recall"]
    options = []
    for _, prompt, right in asked:
        kin = next(r.objects for r in w.RELATIONS.values() if right in r.objects and r.says in prompt)
        options.append([right, *rng.sample([o for o in kin if o != right], 3)])
    prompts = [prompt for (_, prompt, _), four in zip(asked, options, strict=True) for _ in four]
    ids = bench.models.tokenizer.encode_batch([f"{option} ." for four in options for option in four])
    sampled = [Sampled("", True, row) for row in ids]
    totals = bench.models.logprobs(params, prompts, sampled, AS_IS, 1.0).reshape(-1, 4)
    means = totals / np.array([len(row) for row in ids]).reshape(-1, 4)
    rows = []
    for i, (total, mean) in enumerate(zip(totals, means, strict=True)):
        rows.append(TaskRow(model, "choice", f"choice-{i}", float(choose(mean) == 0), "accuracy"))
        rows.append(TaskRow(model, "choice entropy", f"choice-{i}", entropy_bits(total), "bits", 1, False))
    return rows


def _right(answer: str, right: str) -> float:
    """1 if the answer's first sentence ends with the right word: a bare word or a whole sentence, both are on the corpus's pages."""
    first = w.sentences(answer.split("\n", 1)[0])
    return float(bool(first) and w.words(first[0])[-1:] == [right])
