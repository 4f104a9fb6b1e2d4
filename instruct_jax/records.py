"""Home of the data schema: one frozen dataclass per kind of record, and the JSON-lines files that hold them.

The paper publishes no schema; the fields are what its sections 1.8 and 1.10 say was stored (metadata of Table
3, K completions with a rank vector, labeler and generating policy), plus `finished`: whether a completion
ended by itself, because text alone cannot say it.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TypeVar, get_type_hints

from instruct_jax.errors import InputError

# Table 3: the yes/no metadata a labeler gives to each output.
FLAGS = (
    "fails_task",
    "inappropriate",
    "hallucination",
    "satisfies_constraint",
    "sexual",
    "violent",
    "encourages_violence",
    "denigrates",
    "harmful_advice",
    "opinion",
    "moral_judgment",
)

# Table 1, most frequent first.
USE_CASES = (
    "generation",
    "open_qa",
    "brainstorming",
    "chat",
    "rewrite",
    "summarization",
    "classification",
    "other",
    "closed_qa",
    "extract",
)

Row = TypeVar("Row")


@dataclass(frozen=True)
class Prompt:
    """What somebody asked; `source` is "labeler" or "customer" (or the name of a public data set), "" is "not
    known".
    """

    id: str
    text: str
    source: str = ""
    user: str = ""
    organization: str = ""
    use_case: str = ""
    language: str = ""


@dataclass(frozen=True)
class Demonstration:
    """A labeler's own answer to a prompt."""

    prompt_id: str
    prompt: str
    response: str
    labeler: str = ""


@dataclass(frozen=True)
class Generation:
    """K completions that `model` sampled for one prompt; `finished` is False where the length limit cut one
    off.
    """

    prompt_id: str
    prompt: str
    model: str
    completions: list[str]
    temperature: float
    finished: list[bool] = field(default_factory=list)

    def __post_init__(self):
        _default_finished(self)


@dataclass(frozen=True)
class Ranking:
    """One labeler's ranking of K completions: `ranks` counts from 1 (best), equal ranks are ties."""

    prompt_id: str
    prompt: str
    labeler: str
    completions: list[str]
    ranks: list[int]
    models: list[str]
    finished: list[bool] = field(default_factory=list)

    def __post_init__(self):
        _default_finished(self)


@dataclass(frozen=True)
class Rating:
    """One labeler's judgement of one completion (Table 3); flags that were not asked are absent."""

    prompt_id: str
    prompt: str
    completion: str
    model: str
    labeler: str
    likert: int
    flags: dict[str, bool] = field(default_factory=dict)
    notes: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Skip:
    """A prompt that a labeler passed over (unclear, or outside their expertise)."""

    prompt_id: str
    labeler: str
    reason: str = ""


@dataclass(frozen=True)
class Document:
    """A text of the pretraining distribution."""

    id: str
    text: str
    source: str = ""


def read_jsonl(path: str | os.PathLike, cls: type[Row]) -> list[Row]:
    """Reads a file of one JSON object per line as `cls` records; InputError names file:line, field and
    reason. Blank lines pass.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected {cls.__name__} records as JSON lines"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    # Only "\n" ends a line: JSON strings may hold U+2028 and others that str.splitlines() would cut at.
    lines = enumerate(text.split("\n"), start=1)
    return [_parse(line, cls, f"{path}:{number}") for number, line in lines if line.strip()]


def write_jsonl(path: str | os.PathLike, rows: Iterable) -> None:
    """Writes records as JSON lines, all or nothing: a temporary file beside `path` is renamed over it.
    InputError names a bad row.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            for number, row in enumerate(rows, start=1):
                problem = find_problem(row)
                if problem:
                    raise InputError(f"{path}:{number}: {problem}")
                file.write(json.dumps(vars(row), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def find_problem(row) -> str | None:
    """What is wrong with a record, as "field 'x': reason", or None."""
    for name, hint in get_hints(type(row)).items():
        reason = _wrong_type(getattr(row, name), hint)
        if reason:
            return f"field '{name}': {reason}"
    return _wrong_meaning(row)


def get_hints(cls: type) -> dict[str, type]:
    """The fields of a record class with their types, in order."""
    if cls not in _HINTS:
        hints = get_type_hints(cls)
        _HINTS[cls] = {item.name: hints[item.name] for item in fields(cls)}
    return _HINTS[cls]


_HINTS: dict[type, dict[str, type]] = {}


def _default_finished(row) -> None:
    if not row.finished and isinstance(row.completions, list):
        object.__setattr__(row, "finished", [True] * len(row.completions))


def _parse(line: str, cls: type[Row], where: str) -> Row:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(
            f"{where}: must be a JSON object with the fields of {cls.__name__}, not {type(values).__name__}"
        )
    hints = get_hints(cls)
    for name in values:
        if name not in hints:
            raise InputError(
                f"{where}: field '{name}': {cls.__name__} has no such field; it has {', '.join(hints)}"
            )
    for item in fields(cls):
        if item.name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise InputError(f"{where}: field '{item.name}': is missing; {cls.__name__} needs it")
        if hints[item.name] is float and type(values.get(item.name)) is int:
            values[item.name] = float(values[item.name])
    row = cls(**values)
    problem = find_problem(row)
    if problem:
        raise InputError(f"{where}: {problem}")
    return row


_WORDS = {
    str: "a string",
    int: "an integer",
    float: "a finite number",
    list[str]: "a list of strings",
    list[int]: "a list of integers",
    list[bool]: "a list of true/false",
    dict[str, bool]: "an object of true/false",
}


def _wrong_type(value, hint) -> str | None:
    if hint in (list[str], list[int], list[bool]):
        fits = isinstance(value, list) and all(type(item) is hint.__args__[0] for item in value)
        strings = value if hint == list[str] else ()
    elif hint == dict[str, bool]:
        fits = isinstance(value, dict) and all(type(k) is str and type(v) is bool for k, v in value.items())
        strings = ()
    else:
        fits = type(value) is hint and (hint is not float or math.isfinite(value))
        strings = (value,) if hint is str else ()
    if not fits:
        return f"must be {_WORDS[hint]}, not {value!r:.60}"
    for string in strings:
        try:
            string.encode("utf-8")
        except UnicodeEncodeError:
            return "holds half of a surrogate pair, which no UTF-8 file can store"
    return None


def _wrong_meaning(row) -> str | None:
    names = get_hints(type(row))
    for name in ("id", "prompt_id", "text", "prompt"):
        if name in names and not getattr(row, name):
            return f"field '{name}': is empty"
    if isinstance(row, Prompt) and row.use_case and row.use_case not in USE_CASES:
        known = ", ".join(USE_CASES)
        return f"field 'use_case': {row.use_case!r} is none of {known}; leave it empty if not known"
    if isinstance(row, (Generation, Ranking)):
        if not row.completions:
            return "field 'completions': is empty"
        for name in ("ranks", "models", "finished"):
            entries = len(getattr(row, name)) if name in names else len(row.completions)
            if entries != len(row.completions):
                return f"field '{name}': has {entries} entries for {len(row.completions)} completions"
    if isinstance(row, Ranking) and min(row.ranks) < 1:
        return f"field 'ranks': {min(row.ranks)} is below 1 (1 is best)"
    if isinstance(row, Rating):
        if not 1 <= row.likert <= 7:
            return f"field 'likert': {row.likert} is outside 1 (worst) to 7 (best)"
        for name in row.flags:
            if name not in FLAGS:
                return f"field 'flags': {name!r} is none of {', '.join(FLAGS)}"
    return None
