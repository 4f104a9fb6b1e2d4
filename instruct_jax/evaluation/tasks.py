"""Home of the scores of pretraining tasks (recall, reading, language modelling) before and after
fine-tuning (paper Fig. 28).

Answers are scored as in the paper's SQuAD-style tasks (7.2: greedy, cut at the first newline, best over
references); the tasks themselves are those of the run's own corpus, since the public ones need a download.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from instruct_jax.errors import InputError
from instruct_jax.evaluation.winrate import interval


@dataclass(frozen=True)
class TaskRow:
    """One scored item: `value` is its score, or the mean loss of its `tokens` tokens; `metric` as the
    report names it.
    """

    model: str
    task: str
    prompt_id: str
    value: float
    metric: str
    tokens: int = 1
    higher_is_better: bool = True


def normalize(text: str) -> str:
    """SQuAD's normal form: first line, lower case, no punctuation, no articles, single spaces."""
    line = text.strip().split("\n", 1)[0].lower()
    bare = "".join(char for char in line if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals a reference in normal form, else 0.0."""
    return float(normalize(prediction) in {normalize(reference) for reference in references})


def f1(prediction: str, references: Sequence[str]) -> float:
    """Word-overlap F1 in normal form, best over the references."""
    return max(
        (_f1(normalize(prediction).split(), normalize(reference).split()) for reference in references),
        default=0.0,
    )


def _f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    shared = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * shared / (len(prediction) + len(reference))


def choose(mean_logprobs: Sequence[float]) -> int:
    """The choice of a multiple-choice item: the highest mean log-probability per token (paper 7.2, whose "lowest" is a slip)."""
    return int(np.argmax(mean_logprobs))


def entropy_bits(total_logprobs: Sequence[float]) -> float:
    """Entropy in bits over completions, each as probable as its whole text (a sum, not a mean, of log-probs; paper 7.3)."""
    logits = np.asarray(total_logprobs, np.float64)
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    return float(-(probs * np.log2(np.maximum(probs, 1e-300))).sum())


def task_scores(rows: Iterable[TaskRow]) -> dict[str, dict[str, dict]]:
    """Mean score of every model on every task, items weighted by their tokens: loss per token comes out as
    sum over sum.

    Returns:
      {model: {task: {mean, low, high, n, items, metric, higher_is_better}}}: n counts tokens where items
      have several, `items` the prompts or documents over which the interval is bootstrapped.

    Raises:
      InputError: an item of no tokens, or a task scored by two metrics.
    """
    groups: dict[str, dict[str, list[TaskRow]]] = {}
    metrics: dict[str, tuple] = {}
    for row in rows:
        if row.tokens < 1:
            raise InputError(f"task {row.task!r}, item {row.prompt_id}: {row.tokens} tokens")
        kind = (row.metric, row.higher_is_better)
        if metrics.setdefault(row.task, kind) != kind:
            raise InputError(f"task {row.task!r} is scored by {metrics[row.task][0]!r} and by {row.metric!r}")
        groups.setdefault(row.model, {}).setdefault(row.task, []).append(row)
    return {model: {task: _score(items) for task, items in tasks.items()} for model, tasks in groups.items()}


def _score(items: list[TaskRow]) -> dict:
    tokens = [item.tokens for item in items]
    values = np.repeat([item.value for item in items], tokens)
    ids, owner = np.unique([item.prompt_id for item in items], return_inverse=True)
    return interval(values, np.repeat(owner, tokens)) | {
        "items": len(ids),
        "metric": items[0].metric,
        "higher_is_better": items[0].higher_is_better,
    }
