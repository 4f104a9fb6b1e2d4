"""Home of the lab's pretraining tasks: what the base model could do before fine-tuning, and what is left of it (paper Fig. 28).

Recall of facts by completing a sentence, question pages, reading a passage, and loss on held-out documents; greedy decoding, as in
the paper's automatic evaluations (7.2).
"""

import random

import jax
import numpy as np

from instruct_jax.data.lab import world as w
from instruct_jax.evaluation.tasks import TaskRow, task_scores
from instruct_jax.stages.inference import right_padded
from instruct_jax.stages.setup import put
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
    sample = bench.sampler(bench.settings.max_prompt, ANSWER_TOKENS, 0.0)
    loss = _make_loss(bench)
    rows = []
    for model, contender in contenders.items():
        params = bench.load(contender)
        for task, asked in tasks.items():
            prompts = [template.render(prompt) for template, prompt, _ in asked]
            answers = sample(params, prompts, Template("", ""), jax.random.key(0))
            for i, (answer, (_, _, right)) in enumerate(zip(answers, asked, strict=True)):
                rows.append(TaskRow(model, task, f"{task}-{i}", _right(answer.text, right), "accuracy"))
        for i, (nats, tokens) in enumerate(loss(params, documents[: bench.settings.task_items])):
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


def _right(answer: str, right: str) -> float:
    """1 if the answer's first sentence ends with the right word: a bare word or a whole sentence, both are on the corpus's pages."""
    first = w.sentences(answer.split("\n", 1)[0])
    return float(bool(first) and w.words(first[0])[-1:] == [right])


def _make_loss(bench):
    length, batch_size = bench.policy.config.context, bench.settings.batch_size

    @jax.jit
    def nll(params, tokens_BT, mask_BT):
        logprobs_BX, _ = bench.policy.apply(
            {"params": params}, tokens_BT, mask_BT.astype(np.int32), method="logprobs"
        )
        return -(logprobs_BX * mask_BT[:, 1:]).sum(axis=1), mask_BT[:, 1:].sum(axis=1)

    def loss(params, documents):
        ids = [[bench.tokenizer.eos_id, *row] for row in bench.tokenizer.encode_batch(documents)]
        found = []
        for start in range(0, len(ids), batch_size):
            rows = right_padded(ids[start : start + batch_size], batch_size, length, bench.tokenizer.pad_id)
            nats_B, tokens_B = nll(params, *put(rows, bench.mesh))
            found += zip(np.asarray(nats_B).tolist(), np.asarray(tokens_B).tolist(), strict=True)
        return found[: len(ids)]

    return loss
