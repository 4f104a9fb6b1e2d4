"""Home of the data card: the paper's tables about its data, made from the records at hand.

Differs from the paper in Table 7, whose prompt-level questions no record holds: here it is the share of rated
outputs with each flag of Table 3. "SFT" are the demonstrations, "RM" the rankings, "PPO" the prompts; lengths
are tokens of the bare text.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from instruct_jax.data.cleaning.splits import owner
from instruct_jax.records import FLAGS, USE_CASES, Prompt
from instruct_jax.text.tokenizer import Tokenizer

Records = Mapping[str, Mapping[str, Iterable]]

_SETS = {"SFT": "demonstrations", "RM": "rankings", "PPO": "prompts"}
_UNKNOWN = "not known"
_LENGTHS = ["n", "mean", "std", "min", "25%", "50%", "75%", "max"]


def data_card(
    records: Records, tokenizer: Tokenizer, other_prompts: Iterable[Prompt] = ()
) -> dict[str, dict]:
    """Tables 1 and 6 to 11 of the paper from records by kind and split, as {"table_6": {"title", "columns",
    "rows"}, ...}.

    Kinds read: prompts, demonstrations, rankings, ratings; any may be absent. Source, owner and use case of a
    demonstration or ranking are those of the prompt with its id, in `prompts` or `other_prompts` (which are
    counted nowhere), "not known" if both lack it.
    """
    records = {
        kind: {split: list(rows) for split, rows in splits.items()} for kind, splits in records.items()
    }
    known = {row.id: row for rows in [*records.get("prompts", {}).values(), other_prompts] for row in rows}
    # {(set, split): {prompt id: prompt}}: each prompt once, however many labelers ranked it.
    sets = {
        (name, split): {_id(row): known.get(_id(row)) or Prompt(_id(row), row.prompt) for row in rows}
        for name, kind in _SETS.items()
        for split, rows in records.get(kind, {}).items()
    }
    texts = {prompt.text for prompts in sets.values() for prompt in prompts.values()}
    demonstrations = [row for rows in records.get("demonstrations", {}).values() for row in rows]
    texts |= {text for row in demonstrations for text in (row.prompt, row.response)}
    ordered = sorted(texts)
    length = dict(zip(ordered, map(len, tokenizer.encode_batch(ordered)), strict=True))
    return {
        "table_1": _use_cases(sets),
        "table_6": _sizes(sets),
        "table_7": _flags(records.get("ratings", {})),
        "table_8": _prompts_per_owner(sets),
        "table_9": _prompt_lengths(sets, length),
        "table_10": _lengths_by_use_case(sets, length),
        "table_11": _demonstration_lengths(demonstrations, known, length),
    }


def _id(row) -> str:
    return row.id if isinstance(row, Prompt) else row.prompt_id


def _table(title: str, columns: list[str], rows: list[list]) -> dict:
    return {"title": title, "columns": columns, "rows": rows}


def _use_cases(sets: dict) -> dict:
    names = list(dict.fromkeys(name for name, _ in sets))
    cases = {
        name: [
            p.use_case or _UNKNOWN
            for key, prompts in sets.items()
            if key[0] == name
            for p in prompts.values()
        ]
        for name in names
    }
    rows = [
        [case, *(_percent(cases[name].count(case), len(cases[name])) for name in names)]
        for case in (*USE_CASES, _UNKNOWN)
    ]
    return _table("Table 1: use cases, % of prompts", ["use case", *names], rows)


def _sizes(sets: dict) -> dict:
    cells = {key: [prompt.source or _UNKNOWN for prompt in prompts.values()] for key, prompts in sets.items()}
    columns = sorted(
        {(name, source) for (name, _), sources in cells.items() for source in sources},
        key=lambda c: (list(_SETS).index(c[0]), c[1]),
    )
    splits = list(dict.fromkeys(split for _, split in sets))
    rows = [
        [split, *(cells.get((name, split), []).count(source) for name, source in columns)] for split in splits
    ]
    return _table(
        "Table 6: data set sizes, prompts", ["split", *(f"{name} {source}" for name, source in columns)], rows
    )


def _flags(ratings: dict) -> dict:
    rows = []
    for flag in FLAGS:
        asked = {
            split: [row.flags[flag] for row in rows_ if flag in row.flags] for split, rows_ in ratings.items()
        }
        rows.append([flag, *(_percent(sum(values), len(values)) for values in asked.values())])
    return _table("Table 7: rated outputs with each flag, % of those asked", ["flag", *ratings], rows)


def _prompts_per_owner(sets: dict) -> dict:
    rows = []
    for (name, split), prompts in sets.items():
        owners = [owner(prompt) for prompt in prompts.values() if prompt.organization or prompt.user]
        rows.append(
            [name, split, len(set(owners)), round(len(owners) / len(set(owners)), 2) if owners else None]
        )
    return _table(
        "Table 8: prompts per customer", ["set", "split", "customers", "prompts per customer"], rows
    )


def _prompt_lengths(sets: dict, length: dict[str, int]) -> dict:
    rows = [
        [name, split, *_summary([length[p.text] for p in prompts.values()])]
        for (name, split), prompts in sets.items()
    ]
    return _table("Table 9: prompt lengths, tokens", ["set", "split", *_LENGTHS], rows)


def _lengths_by_use_case(sets: dict, length: dict[str, int]) -> dict:
    unique = {prompt.id: prompt for prompts in sets.values() for prompt in prompts.values()}.values()
    rows = []
    for case in (*USE_CASES, ""):
        lengths = [length[prompt.text] for prompt in unique if prompt.use_case == case]
        if lengths:
            rows.append([case or _UNKNOWN, *_summary(lengths)])
    return _table("Table 10: prompt lengths by use case, tokens", ["use case", *_LENGTHS], rows)


def _demonstration_lengths(demonstrations: list, known: dict[str, Prompt], length: dict[str, int]) -> dict:
    by_source: dict[str, list] = {}
    for row in demonstrations:
        prompt = known.get(row.prompt_id)
        by_source.setdefault((prompt.source if prompt else "") or _UNKNOWN, []).append(row)
    rows = []
    for source in sorted(by_source):
        for part in ("prompt", "response"):
            rows.append([source, part, *_summary([length[getattr(row, part)] for row in by_source[source]])])
    return _table("Table 11: prompt and demonstration lengths, tokens", ["source", "part", *_LENGTHS], rows)


def _summary(lengths: list[int]) -> list:
    if not lengths:
        return [0, *[None] * 7]
    low, *quartiles, high = (float(q) for q in np.percentile(lengths, [0, 25, 50, 75, 100]))
    return [
        len(lengths),
        round(float(np.mean(lengths)), 1),
        round(float(np.std(lengths)), 1),
        int(low),
        *quartiles,
        int(high),
    ]


def _percent(count: int, total: int) -> float | None:
    return round(100 * count / total, 1) if total else None
