import dataclasses
import json

import pytest

from instruct_jax.errors import InputError
from instruct_jax.records import (
    Demonstration,
    Document,
    Generation,
    Prompt,
    Ranking,
    Rating,
    Skip,
    read_jsonl,
    write_jsonl,
)

ROWS = [
    Prompt("p1", "Write a\npoem \u2028 é", "customer", "u1", "o1", "generation", "en"),
    Demonstration("p1", "Write", "", "l1"),
    Generation("p1", "Write", "sft", ["a", "b"], 0.7, [True, False]),
    Ranking("p1", "Write", "l1", ["a", "b"], [2, 1], ["sft", "ppo"], [True, False]),
    Rating("p1", "Write", "a", "sft", "l1", 7, {"fails_task": True, "sexual": False}, "fine", 3.5),
    Skip("p1", "l1", "unclear"),
    Document("d1", "Once", "books"),
]
GOOD_RANKING = dataclasses.asdict(ROWS[3])
GOOD_RATING = dataclasses.asdict(ROWS[4])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_record_survives_its_file(tmp_path, row):
    write_jsonl(tmp_path / "new" / "rows.jsonl", [row, row])
    assert read_jsonl(tmp_path / "new" / "rows.jsonl", type(row)) == [row, row]


def test_completions_count_as_finished_unless_the_record_says_otherwise(tmp_path):
    values = {name: value for name, value in GOOD_RANKING.items() if name != "finished"}
    (tmp_path / "r.jsonl").write_text(json.dumps(values) + "\n\n")
    assert read_jsonl(tmp_path / "r.jsonl", Ranking)[0].finished == [True, True]


@pytest.mark.parametrize(
    ("cls", "values", "field"),
    [
        (Ranking, GOOD_RANKING | {"ranks": [1]}, "ranks"),
        (Ranking, GOOD_RANKING | {"ranks": [0, 1]}, "ranks"),
        (Ranking, GOOD_RANKING | {"ranks": [True, 1]}, "ranks"),
        (Ranking, GOOD_RANKING | {"completions": "ab"}, "completions"),
        (Ranking, GOOD_RANKING | {"completions": []}, "completions"),
        (Ranking, GOOD_RANKING | {"models": ["one"]}, "models"),
        (Ranking, GOOD_RANKING | {"finished": [True]}, "finished"),
        (Ranking, GOOD_RANKING | {"finnished": [True]}, "finnished"),
        (Rating, GOOD_RATING | {"likert": 8}, "likert"),
        (Rating, GOOD_RATING | {"likert": 3.0}, "likert"),
        (Rating, GOOD_RATING | {"flags": {"rude": True}}, "flags"),
        (Rating, GOOD_RATING | {"seconds": float("nan")}, "seconds"),
        (Prompt, {"id": "p", "text": ""}, "text"),
        (Prompt, {"id": "p"}, "text"),
        (Prompt, {"id": "p", "text": "x", "use_case": "poetry"}, "use_case"),
        (Prompt, {"id": "p", "text": "\ud800"}, "text"),
        (Demonstration, {"prompt_id": "p", "prompt": "x", "response": None}, "response"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, cls, values, field):
    path = tmp_path / "bad.jsonl"
    good = next(row for row in ROWS if type(row) is cls)
    write_jsonl(path, [good])
    with open(path, "a") as file:
        file.write(json.dumps(values) + "\n")
    with pytest.raises(InputError, match=rf"bad\.jsonl:2: field '{field}'"):
        read_jsonl(path, cls)


@pytest.mark.parametrize("line", ["{", "[1]", '"text"'])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(InputError, match=r"bad\.jsonl:1"):
        read_jsonl(tmp_path / "bad.jsonl", Prompt)


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl"):
        read_jsonl(tmp_path / "none.jsonl", Prompt)
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}')
    with pytest.raises(InputError, match=r"latin\.jsonl.*UTF-8"):
        read_jsonl(tmp_path / "latin.jsonl", Prompt)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "p.jsonl"
    write_jsonl(path, [ROWS[0]])
    with pytest.raises(InputError, match=r"p\.jsonl:2: field 'text'"):
        write_jsonl(path, [ROWS[0], Prompt("p2", "")])
    assert read_jsonl(path, Prompt) == [ROWS[0]]
    assert [item.name for item in tmp_path.iterdir()] == ["p.jsonl"]
