"""Home of a labeler made of rules: ranks answers to an instruction by checks that anyone can redo, with an expert's answer at hand.

Differs from the paper's labelers, who are people: it knows nothing of truth or harm, and what it rewards most is likeness to the one
reference that it has. A grade is the sum of the rules' marks (0 to 1) by weight, in half points, so that ties are common:

| rule | weight | mark |
|---|---|---|
| answers | 3 | 0 if empty or opening with a refusal, else 1 |
| stays | 2 | 0 if it goes on to further tasks ("Input:" or "Output:" opens a line) or copies the instruction; 1 if the reference does too |
| fresh | 2 | 0 if more than half of its word 4-grams occurred in it before, else 1 |
| overlap | 2 | F1 of its words with the reference's, in quarters |
| length | 1 | 1 within a factor 2 of the reference's words, 1/2 within 4, else 0 |
| form | 1 | 1 if lines (3 or more), a label (up to 3 words) or running text, as the reference is |
"""

import re
from collections import Counter
from collections.abc import Sequence

from instruct_jax.data.sources.self_instruct import Task
from instruct_jax.records import Generation, Ranking

LABELER = "rules"
WEIGHTS = {"answers": 3, "stays": 2, "fresh": 2, "overlap": 2, "length": 1, "form": 1}

_REFUSAL = re.compile(
    r"(i('m| am) (sorry|unable|not able)|sorry\b|i (cannot|can't|can not|do not know|don't know)\b|as an ai\b|no response\b)"
)
_NEXT_TASK = re.compile(r"^\s*(input|output|instruction)\s*:", re.IGNORECASE | re.MULTILINE)
_GRAM = 4
_COPIED = 12  # words of the instruction in a row that make a copy


def marks(task: Task, answer: str) -> dict[str, float]:
    """The mark of every rule, 0 to 1; see the table above."""
    words, expected = _words(answer), _words(task.reference)
    ratio = max(len(words), 1) / max(len(expected), 1)
    return {
        "answers": float(
            bool(answer.strip()) and not _REFUSAL.match(answer.strip().lower().replace("’", "'"))
        ),
        "stays": float(not _strays(task, answer) or _strays(task, task.reference)),
        "fresh": float(_repeated(words) <= 0.5),
        "overlap": round(4 * _f1(words, expected)) / 4,
        "length": 1.0 if 0.5 <= ratio <= 2 else 0.5 if 0.25 <= ratio <= 4 else 0.0,
        "form": float(_form(answer) == _form(task.reference)),
    }


def grade(found: dict[str, float]) -> float:
    """The marks' sum by weight, 0 to 11 in half points."""
    return sum(weight * found[name] for name, weight in WEIGHTS.items())


def ranks_of(grades: Sequence[float]) -> list[int]:
    """Ranks from 1 (the highest grade); equal grades tie, and no rank is left out after a tie."""
    order = sorted(set(grades), reverse=True)
    return [order.index(value) + 1 for value in grades]


def rank(task: Task, answers: Sequence[Generation]) -> Ranking:
    """The answers of several models to one task, first completion of each, as the labeling format's record."""
    texts = [answer.completions[0] for answer in answers]
    ranks = ranks_of([grade(marks(task, text)) for text in texts])
    models, finished = [answer.model for answer in answers], [answer.finished[0] for answer in answers]
    return Ranking(task.id, answers[0].prompt, LABELER, texts, ranks, models, finished)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _strays(task: Task, answer: str) -> bool:
    if _NEXT_TASK.search(answer):
        return True
    asked, said = _words(task.instruction), " ".join(_words(answer))
    copied = " ".join(asked[:_COPIED])
    return len(asked) >= _COPIED // 2 and f" {copied} " in f" {said} "


def _repeated(words: list[str]) -> float:
    """Share of word 4-grams that occurred before."""
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _f1(words: list[str], expected: list[str]) -> float:
    shared = (Counter(words) & Counter(expected)).total()
    return 2 * shared / (len(words) + len(expected)) if shared else 0.0


def _form(text: str) -> str:
    if sum(bool(line.strip()) for line in text.split("\n")) >= 3:
        return "lines"
    return "label" if len(_words(text)) <= 3 else "text"


def midranks(ranks: Sequence[int]) -> list[float]:
    """Mean place of each entry, ties sharing theirs: 1, 2.5, 2.5, 4 for ranks 1, 2, 2, 3."""
    return [
        sum(other < one for other in ranks) + (sum(other == one for other in ranks) + 1) / 2 for one in ranks
    ]
