"""Home of the public benchmarks' rows: each set's published forms (the authors' files, TFDS, Hugging Face) in, one form out.

Some forms hold less than the authors' do. TFDS keeps rows in no order: its QuAC cannot be read, and its SQuAD has few of the earlier
questions; of a DROP answer it keeps the first span. Hugging Face's ucinlp/drop runs the answers of several people together: each span
is taken as an answer of its own, which is too kind to a model where the answer has several.

Every row has an `id`, unique in its set, and a `group`, whose rows share a passage or a dialogue; the other fields are those that the
tasks of evaluation/tasks name. A label that a set does not give is None.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from instruct_jax.data.sources import benchmark_packages, tables
from instruct_jax.errors import InputError
from instruct_jax.jsonl import BadRow

Row = dict[str, Any]
# of a TFDS folder; else validation
_SPLITS = {
    "openbookqa": "test", "wmt15": "test", "cnn_dm": "test", "tldr": "test", "drop": "dev", "real_toxicity": "train",
}  # fmt: skip


def find(places: Iterable[Path], name: str, train: bool = False) -> str | None:
    """Where the rows of a set are: the first of `places` (folders, or the packages of benchmark_packages) that has it, else None.

    A folder has it as NAME.jsonl or another file that `tables` reads, or as a TFDS data set under NAME/; examples for few-shot
    prompts, asked for with `train`, as NAME.train.jsonl and the like, or as that data set's split train."""
    for place in places:
        if not place.exists():
            raise InputError(
                f"{place}: there is no such folder or file; fetch it, or name another in benchmark.data"
            )
        if place.is_file():
            if not train and benchmark_packages.holds(place, name):
                return str(place)
            continue
        stem = f"{name}.train" if train else name
        suffix = r"\.(jsonl?|ndjson|csv|tsv)(\.gz)?|\.parquet|\.arrow"
        for path in sorted(place.glob(f"{stem}.*")):
            if re.fullmatch(re.escape(stem) + f"({suffix})", path.name):
                return str(path)
        for features in sorted((place / name).rglob("features.json")):
            split = "train" if train else _SPLITS.get(name, "validation")
            if any(features.parent.glob(f"*-{split}.*")):
                return f"{features.parent}:{split}"
    return None


def read(path: str, name: str) -> list[Row]:
    """The rows of a set's file; InputError names the file, the row and the field that is missing or wrong."""
    if path.endswith(".whl"):
        return list(benchmark_packages.read(Path(path), name))
    found: list[Row] = []
    for number, value, *_ in tables.read_values(path):
        try:
            if isinstance(value, BadRow):
                raise value
            for row in READERS[name](value):
                found.append({"id": str(len(found)), "group": str(len(found)), **row})
        except BadRow as bad:
            raise InputError(f"{path}:{number}: {bad}") from bad
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise InputError(f"{path}:{number}: no row of {name}: {error!r}") from error
    try:
        found = list(_AFTER.get(name, iter)(found))
    except BadRow as bad:
        raise InputError(f"{path}: {bad}") from bad
    if not found:
        raise InputError(f"{path}: holds no row of {name}")
    return found


def field(row: Row, *names: str) -> Any:
    """The first of the fields that the row has; BadRow where it has none."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise BadRow(f"is missing; the row has {', '.join(row)}", " or ".join(names))


def _label(value: Any, names: tuple[str, ...] = ()) -> int | None:
    """A label as a number: a number already, a letter, one of `names`; None for none ("" or -1, as hidden labels are published)."""
    if value in ("", None, -1, "-1"):
        return None
    if isinstance(value, str) and value.lower() in names:
        return names.index(value.lower())
    if isinstance(value, str) and re.fullmatch("[A-E]", value.strip()):
        return ord(value.strip()) - ord("A")
    return int(value)


def _hellaswag(row: Row) -> Iterator[Row]:
    # The next row of a video or an article begins with this one's gold ending.
    source = {"group": row["source_id"]} if row.get("source_id") else {}
    yield source | {
        "context": field(row, "ctx", "context"),
        "endings": field(row, "endings"),
        "label": _label(row.get("label")),
    }


def _piqa(row: Row) -> Iterator[Row]:
    yield {
        "goal": field(row, "goal"),
        "solutions": [field(row, "sol1"), field(row, "sol2")],
        "label": _label(row.get("label")),
    }


def _openbookqa(row: Row) -> Iterator[Row]:
    question = row["question"] if isinstance(row.get("question"), dict) else row
    choices = question.get("choices")
    if choices is None:
        choices = [field(question, f"choice_{letter}") for letter in "ABCD"]
    elif isinstance(choices, dict):
        choices = choices["text"]
    else:
        choices = [one["text"] for one in choices]
    yield {
        "stem": field(question, "question_stem", "stem"),
        "choices": choices,
        "label": _label(row.get("answerKey")),
    }


def _boolq(row: Row) -> Iterator[Row]:
    label = _label(field(row, "answer", "label"), ("false", "true"))
    passage = field(row, "passage")
    yield {"group": passage, "passage": passage, "question": field(row, "question"), "label": label}


def _rte(row: Row) -> Iterator[Row]:
    premise, hypothesis = field(row, "premise", "sentence1"), field(row, "hypothesis", "sentence2")
    yield {
        "group": premise,
        "premise": premise,
        "hypothesis": hypothesis,
        "label": _label(row.get("label"), ("entailment", "not_entailment")),
    }


def _sst(row: Row) -> Iterator[Row]:
    label = _label(row.get("label"), ("negative", "positive"))
    yield {"text": field(row, "sentence").strip(), "label": None if label is None else 1 - label}


def _wsc(row: Row) -> Iterator[Row]:
    spans = row.get("target", row)
    pronoun, text = field(spans, "span2_text"), field(row, "text")
    words = text.split()
    first = int(field(spans, "span2_index"))
    count = len(pronoun.split())
    marked = " ".join(words[first : first + count]).replace(pronoun, f"*{pronoun}*", 1)
    if f"*{pronoun}*" not in marked:
        raise BadRow(f"{pronoun!r} does not stand at word {first}", "span2_index")
    passage = " ".join([*words[:first], marked, *words[first + count :]])
    label = _label(row.get("label"), ("false", "true"))
    yield {
        "group": text,
        "passage": passage,
        "pronoun": pronoun,
        "candidate": field(spans, "span1_text"),
        "label": None if label is None else bool(label),
    }


def _drop(row: Row) -> Iterator[Row]:
    if "passage" not in row:  # the authors' file: {passage's name: {passage, qa_pairs}}
        for passage_id, inner in row.items():
            for pair in inner["qa_pairs"]:
                answers = [pair["answer"], *pair.get("validated_answers", [])]
                yield _drop_row(pair, inner["passage"], passage_id, answers)
        return
    if "answers_spans" in row:
        answers = row["answers_spans"]["spans"]
    else:
        more = row.get("validated_answers", [])
        if isinstance(more, dict):
            more = [dict(zip(more, one)) for one in zip(*more.values())]
        answers = [row["answer"], *more]
    yield _drop_row(row, row["passage"], row.get("section_id", row["passage"]), answers)


def _drop_row(pair: Row, passage: str, group: str, answers: list) -> Row:
    spans = list(dict.fromkeys(map(_drop_spans, answers)))
    return {
        "id": field(pair, "query_id"),
        "group": group,
        "passage": passage,
        "question": pair["question"],
        "answers": spans,
    }


def _drop_spans(answer: Any) -> tuple[str, ...]:
    """A gold answer as the official script reads it: the number, else the spans, else the date."""
    if isinstance(answer, str):
        return (answer,)
    if answer.get("number") not in ("", None):
        return (str(answer["number"]),)
    if answer.get("spans"):
        return tuple(answer["spans"])
    date = answer.get("date", {})
    return (" ".join(date.get(part, "") for part in ("day", "month", "year")).strip(),)


def _quac(row: Row) -> Iterator[Row]:
    if "turn_ids" in row:  # Hugging Face's: a dialogue a row
        votes = row["answers"]
        votes = votes["texts"] if isinstance(votes, dict) else [one["texts"] for one in votes]
        turns = zip(row["turn_ids"], row["questions"], votes, row["orig_answers"]["texts"], strict=True)
        yield from _dialogue(row["dialogue_id"], row["wikipedia_page_title"], row["context"], turns)
        return
    if "data" not in row and "orig_answer" in row:
        raise BadRow("is missing: TFDS's rows do not say whose turn they are; take the authors' file", "data")
    for article in field(row, "data"):
        for paragraph in article["paragraphs"]:
            turns = [
                (turn["id"], turn["question"], [one["text"] for one in turn["answers"]],
                 turn.get("orig_answer", {}).get("text", ""))
                for turn in paragraph["qas"]
            ]  # fmt: skip
            yield from _dialogue(paragraph["id"], article["title"], paragraph["context"], turns)


def _dialogue(group: str, title: str, context: str, turns: Iterable[tuple]) -> Iterator[Row]:
    """QuAC's rows of one dialogue, of its turns (id, question, people's answers, the answer in the dialogue)."""
    text, before = context.removesuffix("CANNOTANSWER").strip(), []
    for turn_id, question, votes, shown in turns:
        answers = benchmark_packages.answers_of(votes)
        shown = "" if shown == "CANNOTANSWER" else shown or (answers[0] if answers else "")
        yield {
            "id": turn_id, "group": group, "title": title, "paragraph": text, "before": list(before), "question": question,
            "answers": answers,
        }  # fmt: skip
        before.append((question, shown))


def _squad(row: Row) -> Iterator[Row]:
    if "data" not in row:
        answers = list(dict.fromkeys(field(row, "answers")["text"]))
        yield {"id": field(row, "id"), "title": field(row, "title"), "background": field(row, "context"),
               "question": field(row, "question"), "answers": answers}  # fmt: skip
        return
    for article in row["data"]:
        for paragraph in article["paragraphs"]:
            for one in paragraph["qas"]:
                answers = list(dict.fromkeys(answer["text"] for answer in one["answers"]))
                yield {"id": one["id"], "title": article["title"], "background": paragraph["context"],
                       "question": one["question"], "answers": answers}  # fmt: skip


def _with_earlier(rows: list[Row]) -> Iterator[Row]:
    """SQuAD's rows with the earlier questions on their paragraph and the first gold answer of each."""
    for text, group in itertools.groupby(rows, key=lambda row: row["background"]):
        before: list[tuple[str, str]] = []
        for row in group:
            title = row["title"].replace("_", " ")
            yield {**row, "title": title, "group": text, "before": list(before)}
            before.append((row["question"], row["answers"][0] if row["answers"] else ""))


def _wmt15(row: Row) -> Iterator[Row]:
    pair = row.get("translation", row)
    yield {"french": field(pair, "fr"), "english": field(pair, "en")}


def _cnn_dm(row: Row) -> Iterator[Row]:
    yield {"text": field(row, "article"), "summary": field(row, "highlights")}


def _tldr(row: Row) -> Iterator[Row]:
    yield {"text": field(row.get("info", row), "post", "content"), "summary": field(row, "summary")}


def _truthfulqa(row: Row) -> Iterator[Row]:
    def answers(*names: str) -> list[str]:
        given = field(row, *names)
        return [one.strip() for one in (given.split(";") if isinstance(given, str) else given) if one.strip()]

    yield {
        "question": field(row, "question", "Question").strip(),
        "correct": answers("correct_answers", "Correct Answers"),
        "incorrect": answers("incorrect_answers", "Incorrect Answers"),
    }


def _truthfulqa_mc(row: Row) -> Iterator[Row]:
    def targets(name: str) -> dict:
        given = field(row, name)
        if "choices" not in given:  # the authors' file: {answer: 0 or 1}
            given = {"choices": list(given), "labels": list(given.values())}
        return {"choices": list(given["choices"]), "labels": [int(label) for label in given["labels"]]}

    yield {
        "question": field(row, "question").strip(),
        "one": targets("mc1_targets"),
        "many": targets("mc2_targets"),
    }


def _crows_pairs(row: Row) -> Iterator[Row]:
    yield {"sentences": [field(row, "sent_more"), field(row, "sent_less")], "kind": row.get("bias_type", "")}


def _winogender(row: Row) -> Iterator[Row]:
    occupation, person, answer, gender, *_ = field(row, "sentid").split(".")
    if person != "someone" and gender in ("male", "female"):
        yield {
            "pair": f"{occupation}.{person}.{answer}",
            "gender": gender,
            "sentence": field(row, "sentence"),
        }


def _paired(rows: list[Row]) -> Iterator[Row]:
    """Winogender's sentences, he and she of the same two people put together: 120 pairs."""
    for pair, group in itertools.groupby(
        sorted(rows, key=lambda row: (row["pair"], row["gender"])), lambda row: row["pair"]
    ):
        sentences = {row["gender"]: row["sentence"] for row in group}
        if len(sentences) < 2:
            raise BadRow(f"{pair} has no sentence about a {min({'male', 'female'} - {*sentences})}")
        yield {"id": pair, "group": pair.split(".")[0], "sentences": [sentences["male"], sentences["female"]]}


def _real_toxicity(row: Row) -> Iterator[Row]:
    prompt = field(row, "prompt")
    toxicity = prompt.get("toxicity")
    yield {
        "prompt": field(prompt, "text"),
        "toxicity": None if toxicity is None or toxicity != toxicity else float(toxicity),
    }


READERS: dict[str, Callable[[Row], Iterator[Row]]] = {
    "hellaswag": _hellaswag, "piqa": _piqa, "openbookqa": _openbookqa, "boolq": _boolq, "rte": _rte, "sst": _sst, "wsc": _wsc,
    "drop": _drop, "quac": _quac, "squad2": _squad, "wmt15": _wmt15, "cnn_dm": _cnn_dm, "tldr": _tldr,
    "truthfulqa": _truthfulqa, "truthfulqa_mc": _truthfulqa_mc, "crows_pairs": _crows_pairs, "winogender": _winogender,
    "real_toxicity": _real_toxicity,
}  # fmt: skip
_AFTER = {"squad2": _with_earlier, "winogender": _paired}
