"""Home of the tasks answered from a text in the prompt: DROP, QuAC, SQuADv2 and the Winograd schemas (paper 7.3).

Earlier questions on the same text stand before the last one with their gold answers, as in the paper. It does not say how much room
QuAC's and WSC's answers had; the limits here are ours.
"""

import re
from collections.abc import Sequence

from instruct_jax.evaluation.requests import Completion
from instruct_jax.evaluation.scorers import drop, quac, squad
from instruct_jax.evaluation.tasks.task import Row, Task, Values, blocks

DROP = "Answer each question using information in the preceding passage."
BACKGROUND = "Answer each question using information in the preceding background paragraph.\n"
BACKGROUND += 'If there is not enough information provided, answer with "{}"'
QUAC_UNKNOWN, SQUAD_UNKNOWN = "I don't know.", "Not in background."
WSC = "Final Exam with Answer Key\nInstructions: Please carefully read the following passages. For each passage, you must identify "
WSC += "which noun the pronoun marked in bold refers to."


def ask_drop(row: Row, examples: Sequence[Row]) -> Completion:
    """`passage`, `question`, `answers` (each a tuple of spans)."""

    def show(one: Row) -> str:
        return f"Passage: {one['passage']}\nQuestion: {one['question']}\nAnswer:"

    shown = [f"{show(one)} {', '.join(one['answers'][0])}" for one in examples]
    return Completion(blocks(DROP, *shown, show(row)), 25)


def score_drop(row: Row, answer: str) -> Values:
    """The official F1 and exact match."""
    if not row["answers"]:
        return {}
    exact, f1 = drop.score(answer, row["answers"])
    return {"f1": f1, "exact_match": exact}


def _dialogue(head: str, row: Row, unknown: str, last: bool) -> str:
    """A text and the questions on it; the last one without its answer where it is `last`."""
    turns = [f"Q: {question}\n\nA: {answer or unknown}" for question, answer in row["before"]]
    gold = "" if last else f" {row['answers'][0] if row['answers'] else unknown}"
    return blocks(head, *turns, f"Q: {row['question']}\n\nA:{gold}")


def ask_quac(row: Row, examples: Sequence[Row]) -> Completion:
    """`title` ("" where it is not known), `paragraph`, `before` [(question, gold answer)], `question`, `answers` ([]: unknown)."""

    def show(one: Row, last: bool) -> str:
        title = f"TITLE: {one['title']}" if one["title"] else ""
        return _dialogue(blocks(title, f"PARAGRAPH: {one['paragraph']}"), one, QUAC_UNKNOWN, last)

    shown = [show(one, last=False) for one in examples]
    return Completion(blocks(BACKGROUND.format(QUAC_UNKNOWN), *shown, show(row, last=True)), 50)


def score_quac(row: Row, answer: str) -> Values:
    """The official F1, of the questions on which people agree, and of all; "I don't know." is no answer."""
    said = None if squad.normalize(answer) == squad.normalize(QUAC_UNKNOWN) else answer
    f1 = quac.f1(said, row["answers"])
    agreed = quac.agreement(row["answers"]) >= quac.LEAST_AGREEMENT
    return ({"f1": f1} if agreed else {}) | {"unfiltered_f1": f1}


def ask_squad(row: Row, examples: Sequence[Row]) -> Completion:
    """`title`, `background`, `before`, `question`, `answers` ([]: not in the background)."""

    def show(one: Row, last: bool) -> str:
        head = blocks(f"Title: {one['title']}", f"Background: {one['background']}")
        return _dialogue(head, one, SQUAD_UNKNOWN, last)

    shown = [show(one, last=False) for one in examples]
    return Completion(blocks(BACKGROUND.format(SQUAD_UNKNOWN), *shown, show(row, last=True)), 16)


def score_squad(row: Row, answer: str) -> Values:
    """SQuADv2's F1 and exact match; "Not in background." is no answer."""
    said = "" if squad.normalize(answer) == squad.normalize(SQUAD_UNKNOWN) else answer
    return {"f1": squad.f1(said, row["answers"]), "exact_match": squad.exact_match(said, row["answers"])}


def ask_wsc(row: Row, examples: Sequence[Row]) -> Completion:
    """`passage` (the pronoun between asterisks), `pronoun`, `candidate`, `label` (whether it is meant, None: not known)."""

    def show(one: Row) -> str:
        question = f'In the passage above, what does the pronoun "{one["pronoun"]}" refer to?'
        return f"Passage: {one['passage']}\nQuestion: {question}\nAnswer:"

    shown = [f"{show(one)} {one['candidate']}" for one in examples]
    return Completion(blocks(WSC, *shown, show(row)), 16)


def score_wsc(row: Row, answer: str) -> Values:
    """Whether the answer names the candidate (one's words within the other's) just when it should."""
    if row["label"] is None:
        return {}
    said, candidate = _words(answer), _words(row["candidate"])
    named = bool(said) and (f" {candidate} " in f" {said} " or f" {said} " in f" {candidate} ")
    return {"accuracy": float(named == row["label"])}


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


TASKS = {
    "drop": Task("drop", ask_drop, score_drop, shots=4, example=lambda row: row["answers"]),
    "quac": Task("quac", ask_quac, score_quac, shots=2),
    "squad2": Task("squad2", ask_squad, score_squad, shots=4),
    "wsc": Task("wsc", ask_wsc, score_wsc, shots=15, example=lambda row: row["label"]),
}
