"""The files that rows come in: whatever the format, the same rows, and an error that says where."""

import contextlib
import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_jsonl import kept_aside

from instruct_jax import jsonl
from instruct_jax.data import builders
from instruct_jax.data.sources import columns, tables
from instruct_jax.data.sources.reading import LeftOut, Reading
from instruct_jax.errors import InputError
from instruct_jax.jsonl import BadRow
from instruct_jax.records import Prompt, Ranking, write_jsonl

ROWS = [
    {"q": "Why?\u2028é", "n": 1, "turns": [{"role": "a", "text": "x"}], "none": None},
    {"q": 'a "b",\nc', "n": 2, "turns": [], "none": None},
    {"q": "", "n": 3, "turns": [{"role": "b", "text": "y"}], "none": None},
]


def write_arrow_stream(path, table):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def write_arrow_file(path, table):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def values_of(path):
    return [value for _, value, *_ in tables.read_values(path)]


def written(folder, form):
    """ROWS as a file of this form."""
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    path = folder / form.partition(" ")[0]
    plain = {
        "a.jsonl": text, "a.jsonl.gz": text, "lines.json": "\n" + text, "a.json": json.dumps(ROWS, indent=1),
        "a.json.gz": "\ufeff" + json.dumps(ROWS, ensure_ascii=False),
    }  # fmt: skip
    if form in plain:
        content = plain[form].encode()
        path.write_bytes(gzip.compress(content) if form.endswith("gz") else content)
    elif form == "a.parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        write = write_arrow_stream if form.endswith("stream") else write_arrow_file
        write(path, pa.Table.from_pylist(ROWS))
    return path


@pytest.mark.parametrize(
    "form",
    ["a.jsonl", "a.jsonl.gz", "lines.json", "a.json", "a.json.gz", "a.parquet", "a.arrow stream", "a.arrow file"],
)  # fmt: skip
def test_every_format_gives_the_same_rows(tmp_path, form):
    assert values_of(written(tmp_path, form)) == ROWS


@pytest.mark.parametrize(
    "form", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "a.arrow stream", "a.arrow file", "a.csv"]
)
def test_the_share_of_a_file_that_is_read_only_grows_and_ends_at_all_of_it(tmp_path, form, monkeypatch):
    monkeypatch.setattr(tables, "_BATCH", 1)
    if form == "a.csv":
        path = tmp_path / form
        path.write_text("q\n" + "x\n" * 30_000)  # more than is read at once
    else:
        path = written(tmp_path, form)
    shares = [share for *_, share in tables.read_values(path)]
    assert shares == sorted(shares) and 0 < shares[0]
    assert (
        shares[-1] == 1 or form == "a.arrow stream" and shares[-1] > 0.95
    )  # an end mark stands behind its rows
    if form in ("a.jsonl", "a.parquet", "a.csv"):
        assert shares[0] < 0.5


def test_progress_counts_the_bytes_of_all_files_in_turn(tmp_path):
    for name, rows in (("a.jsonl", 512), ("b.jsonl", 1024)):
        (tmp_path / name).write_text("123456789\n" * rows)
    shown = []
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    reading = Reading(paths, lambda value: [], show=lambda *where: shown.append(where))
    assert list(reading) == [] and sum(map(tables.size_of, paths)) == 15_360
    assert shown == [(10 * rows, rows) for rows in range(256, 1537, 256)]


@pytest.mark.parametrize("name, sign", [("a.csv", ","), ("a.tsv.gz", "\t")])
def test_csv_fields_may_hold_signs_and_line_ends_and_are_all_text(tmp_path, name, sign):
    content = f'\ufeffq{sign}n\r\n"a {sign} ""b""\r\nc"{sign}1\r\n\r\nd\u2028e{sign}2\r\n'.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert values_of(tmp_path / name) == [
        {"q": f'a {sign} "b"\r\nc', "n": "1"},
        {"q": "d\u2028e", "n": "2"},
    ]


def test_a_csv_row_of_another_width_or_no_utf_8_is_a_bad_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"q,n\nx\ny,1\n\xe9,2\nz,1,2\n")
    reading = Reading([tmp_path / "a.csv"], columns.converter({"prompt": "q"}, "t"), "keep_aside")
    assert [record.text for record in reading] == ["y"] and reading.rows == 4
    found = [(row["line"], row["field"], row["text"]) for row in kept_aside(tmp_path / "a.csv.rejected")]
    assert found == [(2, "", "x"), (4, "q", "\\udce9,2"), (5, "", "z,1,2")]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.csv", 'q\n"open', "a.csv:2: is not CSV"),
        ("a.csv", "q,q\n1,2\n", "a column's name stands twice"),
        ("a.json", '[{"a": 1}, {"a": ', "a.json:2: is not JSON, or the file's array is cut"),
        ("a.json", '[{"a": 1} {"a": 2}]', "a.json:2: is not JSON"),
        ("a.json", "[1, 2", "a.json:2: is not JSON, or"),
        ("a.json", b'["\xe9"]', "a.json:1: is not UTF-8"),
        ("a.parquet", "no parquet", "a.parquet: cannot be read after row 0"),
        ("a.arrow", "no arrow", "a.arrow: cannot be read after row 0"),
        ("a.txt", "text", "a.txt: is none of .jsonl"),
        ("none.jsonl", None, "none.jsonl: cannot be read"),
        ("none.json", None, "none.json: cannot be read"),
        ("none.parquet", None, "none.parquet: cannot be read"),
        ("none:train", None, "none:train: is none of"),
        (".", None, "holds no .parquet or .arrow file and no TFDS data set"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        values_of(tmp_path / name)
    assert words in str(error.value)


@given(
    st.lists(
        st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x, max_size=2)), max_size=6
    )
)
def test_an_array_is_read_whole_wherever_its_pieces_end(tmp_path_factory, elements):
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(" " * random.randrange(4) + json.dumps(elements, indent=random.choice([None, 1])))
    pieces = iter([path.read_bytes()[i : i + 1] for i in range(path.stat().st_size)])

    class Dripping:
        def read(self, size):
            return next(pieces, b"")

        def tell(self):
            return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "opened", lambda path, advice="": contextlib.nullcontext(Dripping()))
        assert [value for _, value, *_ in tables._read_array(str(path))] == elements
    assert values_of(path) == elements or not elements


def test_an_element_with_a_key_twice_is_a_bad_row_and_the_next_one_is_read(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1, "a": 2}, {"a": 3}]')
    bad, good = values_of(tmp_path / "a.json")
    assert isinstance(bad, BadRow) and bad.field == "a" and good == {"a": 3}


def test_text_in_a_table_that_is_no_utf_8_is_a_bad_row(tmp_path):
    broken = pa.Array.from_buffers(
        pa.string(), 3, pa.array([b"good", b"\xe9", b"fine"], pa.binary()).buffers()
    )
    write_arrow_stream(tmp_path / "a.arrow", pa.table({"q": broken}))
    first, bad, last = values_of(tmp_path / "a.arrow")
    assert (first, last) == ({"q": "good"}, {"q": "fine"}) and isinstance(bad, BadRow)


def test_a_folder_of_parquet_files_is_read_in_the_order_of_their_names(tmp_path):
    for name, row in (("train-1.parquet", ROWS[1]), ("train-0.parquet", ROWS[0])):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / name)
    assert list(tables.read_values(tmp_path)) == [(1, ROWS[0], None, 0.5), (2, ROWS[1], None, 1.0)]


def test_an_object_over_several_lines_is_one_value_and_lines_are_one_each(tmp_path):
    path, value = tmp_path / "a.json", {"p1": {"passage": "é", "qa_pairs": [1, 2]}}
    for text in (
        json.dumps(value),
        json.dumps(value, indent=1),
        "\ufeff\n" + json.dumps(value, indent=4) + "\n",
    ):
        path.write_text(text)
        assert [(row[1], row[3]) for row in tables.read_values(path)] == [(value, 1.0)]
    path.write_text('{"a": \n{"a": 2}\n')
    bad, good = values_of(path)
    assert isinstance(bad, BadRow) and good == {"a": 2}


def test_a_tfds_data_set_is_read_back_without_tensorflow(tmp_path):
    rankings = [Ranking(f"p{i}", f"Write {i} é", "l", ["a", "b"], [2, 1], ["m", "n"]) for i in range(300)]
    write_jsonl(tmp_path / "in" / "rankings.valid.jsonl", rankings)
    builders.build(tmp_path / "in", tmp_path / "out")
    folder = tmp_path / "out" / "rankings" / "1.0.0"
    names = ("prompt", "completions", "ranks", "models", "labeler")
    convert = columns.converter({"id": "prompt_id", **dict(zip(names, names))}, "t")
    found = [record for record in Reading([f"{folder}:valid"], convert) if isinstance(record, Ranking)]
    assert found == rankings
    with pytest.raises(InputError, match="split 'train' cannot be read.*valid"):
        values_of(folder)


def test_a_prompt_comes_once_and_every_row_is_accounted_for(tmp_path):
    (tmp_path / "a.jsonl").write_text("1\n2\n\n3\n4\n")

    def convert(value):
        if value == 3:
            raise BadRow("is three", "n")
        yield Prompt(f"p{value % 2}", "text") if value < 4 else LeftOut("too large")

    reading = Reading([tmp_path / "a.jsonl"] * 2, convert, "keep_aside", tmp_path / "bad")
    assert [prompt.id for prompt in reading] == ["p1", "p0"]
    assert reading.rows == 8 and reading.left_out == {"too large": 2} and reading.rejects.count == 2
    assert [(row["line"], row["text"]) for row in kept_aside(tmp_path / "bad")] == [(4, "3")] * 2
    with pytest.raises(InputError, match=r"a\.jsonl:4: field 'n': is three"):
        list(Reading([tmp_path / "a.jsonl"], convert))


def test_an_array_may_be_cut_within_a_letter(tmp_path):
    text = "é" * 70_000
    (tmp_path / "a.json").write_text(json.dumps(["x", text], ensure_ascii=False))
    assert values_of(tmp_path / "a.json") == ["x", text]
