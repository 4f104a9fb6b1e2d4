"""Home of the files that other people's rows come in: JSON lines, a JSON array or object, CSV, Parquet, Arrow, TFDS; .gz where it is text.

Files and folders on disk only: nothing is looked up by name on a hub.
"""

import codecs
import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from instruct_jax import jsonl
from instruct_jax.errors import InputError
from instruct_jax.jsonl import BadRow

FORMATS = ".jsonl .json .csv .tsv (each also .gz), .parquet, .arrow, or a folder of TFDS or of Hugging Face `datasets`"

# number from 1 (the line of a text file, else the row); the value, or what is wrong with it; the text where there is one; the share
# of the file that is read by then
Row = tuple[int, Any, bytes | None, float]

_BATCH = 256
_BLANK = re.compile(r"[ \t\n\r]*")
_PLAIN = json.JSONDecoder()
_END = object()


def read_values(path: str | os.PathLike) -> Iterator[Row]:
    """The rows of a file, of all .parquet or .arrow files of a folder, or of a TFDS data set ("FOLDER" or "FOLDER:SPLIT", by
    default its split "train"), in order; a row or a batch in memory at a time. InputError where it cannot be read.
    """
    name = os.fspath(path)
    folder, split = _folder_and_split(name)
    if os.path.exists(os.path.join(folder, "features.json")):
        return _read_tfds(folder, split or "train")
    if os.path.isdir(name):
        return _read_folder(Path(name))
    suffix = Path(name.removesuffix(".gz")).suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _read_lines(name)
    if suffix == ".json":
        return _read_json(name)
    if suffix in (".csv", ".tsv"):
        return _read_csv(name, "\t" if suffix == ".tsv" else ",")
    if suffix in (".parquet", ".arrow") and not name.endswith(".gz"):
        return _read_arrow(Path(name))
    raise InputError(f"{name}: is none of {FORMATS}")


def size_of(path: str | os.PathLike) -> int:
    """Bytes of what `read_values` reads, at least 1: of a folder those of its files."""
    folder = Path(_folder_and_split(os.fspath(path))[0])
    files = folder.iterdir() if folder.is_dir() else [folder]
    return max(sum(file.stat().st_size for file in files if file.is_file()), 1)


def _folder_and_split(name: str) -> tuple[str, str]:
    folder, _, split = name.partition(":") if not os.path.exists(name) else (name, "", "")
    return folder, split


def _read_lines(path: str) -> Iterator[Row]:
    with jsonl.opened(path) as file:
        share = _share(path, file)
        for number, line in jsonl.cut_lines(file):
            try:
                value = jsonl.parse_value(line)
            except BadRow as bad:
                value = bad
            yield number, value, line, share()


def _share(path: str, file) -> Callable[[], float]:
    """Tells how much of an open file of bytes is read, of a .gz file as it lies on the disk."""
    if not os.path.isfile(path):  # a pipe: nobody knows
        return lambda: 0.0
    raw, size = getattr(file, "fileobj", file), size_of(path)
    return lambda: raw.tell() / size


def _read_json(path: str) -> Iterator[Row]:
    """An array, one object over several lines, or a value a line."""
    first = next((line for _, line in jsonl.read_lines(path)), b"").strip()
    if first.startswith(b"["):
        return _read_array(path)
    if first.startswith(b"{") and not _is_value(first):
        with jsonl.opened(path) as file:
            text = file.read(jsonl.MAX_LINE + 1).removeprefix(codecs.BOM_UTF8)
        with contextlib.suppress(BadRow):
            return iter([(1, jsonl.parse_value(text), text, 1.0)])
    return _read_lines(path)


def _is_value(text: bytes) -> bool:
    try:
        jsonl.parse_value(text)
    except BadRow:
        return False
    return True


def _read_array(path: str) -> Iterator[Row]:
    """The elements of one JSON array, as they come: the file is never in memory whole."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    buffer, at, number, ended, step = "", 0, 0, False, 1 << 16
    with jsonl.opened(path) as file:
        share = _share(path, file)
        while True:
            found = _next_element(buffer, at, "," if number else "[")
            if found is not None:
                value, at = found
                if value is _END:
                    return
                number, step = number + 1, 1 << 16
                yield number, value, None, share()
                continue
            if ended or len(buffer) - at > jsonl.MAX_LINE:
                raise InputError(f"{path}:{number + 1}: is not JSON, or the file's array is cut here")
            piece = file.read(step)
            ended, step = not piece, step * 2
            try:
                buffer, at = buffer[at:] + decoder.decode(piece, final=ended), 0
            except UnicodeDecodeError as error:
                raise InputError(f"{path}:{number + 1}: is not UTF-8; save the file as UTF-8") from error


def _next_element(buffer: str, at: int, before: str) -> tuple[Any, int] | None:
    """(the element after the sign `before`, where it ends), (_END, there) at the array's end, None where more text is needed."""
    at = _BLANK.match(buffer, at).end()
    if before == "," and buffer[at : at + 1] == "]":
        return _END, at
    if buffer[at : at + 1] != before:
        return None
    at = _BLANK.match(buffer, at + 1).end()
    if before == "[" and buffer[at : at + 1] == "]":
        return _END, at
    try:
        value, end = jsonl.DECODER.raw_decode(buffer, at)
    except BadRow as bad:
        value, end = bad, _PLAIN.raw_decode(buffer, at)[1]
    except (ValueError, RecursionError):
        return None
    # A number is whole only when something follows it.
    return (value, end) if _BLANK.match(buffer, end).end() < len(buffer) else None


def _read_csv(path: str, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(jsonl.MAX_LINE)
    with jsonl.opened(path) as file:
        share = _share(path, file)
        # Bytes that are no UTF-8 become surrogates, which the field they stand in is then refused for, by name.
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            if len(set(header)) < len(header):
                raise InputError(f"{path}:1: a column's name stands twice")
            for values in rows:
                if values:
                    value: Any = dict(zip(header, values))
                    if len(values) != len(header):
                        value = BadRow(f"has {len(values)} columns, the header {len(header)}")
                    text = delimiter.join(values).encode("utf-8", "backslashreplace")
                    yield rows.line_num, value, text, share()
        except csv.Error as error:
            raise InputError(f"{path}:{rows.line_num}: is not CSV ({error})") from error


def _read_folder(folder: Path) -> Iterator[Row]:
    files = sorted([*folder.glob("*.parquet"), *folder.glob("*.arrow")])
    if not files:
        raise InputError(f"{folder}: holds no .parquet or .arrow file and no TFDS data set; name a file")
    number = 0
    for done, path in enumerate(files):
        for number, (_, value, text, share) in enumerate(_read_arrow(path), start=number + 1):  # noqa: B020
            yield number, value, text, (done + share) / len(files)


def _read_arrow(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(f"{path}: reading it needs pyarrow: pip install 'instruct_jax[data]'") from error
    number = 0
    try:
        with pa.memory_map(str(path)) if path.suffix == ".arrow" else pq.ParquetFile(path) as file:
            for batch, share in _batches(pa, path, file):
                for value in _plain_rows(batch):
                    number += 1
                    yield number, value, None, share
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read after row {number} ({error})") from error


def _batches(pa, path: Path, file) -> Iterator:
    """Record batches of at most _BATCH rows, each with the share of the file that ends with it."""
    if path.suffix == ".parquet":
        done = 0
        for batch in file.iter_batches(_BATCH):
            done += batch.num_rows
            yield batch, done / file.metadata.num_rows
        return
    if file.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(file)
        many = reader.num_record_batches
        batches = ((reader.get_batch(i), (i + 1) / many) for i in range(many))
    else:
        file.seek(0)
        batches = ((batch, file.tell() / file.size()) for batch in pa.ipc.open_stream(file))
    for batch, share in batches:
        for start in range(0, batch.num_rows, _BATCH):
            yield batch.slice(start, _BATCH), share


def _plain_rows(batch) -> Iterator[Any]:
    try:
        yield from batch.to_pylist()
    except ValueError:  # text that is no UTF-8, a time that Python cannot hold
        for i in range(batch.num_rows):
            try:
                yield batch.slice(i, 1).to_pylist()[0]
            except ValueError as error:
                yield BadRow(f"cannot be read ({error})")


def _read_tfds(folder: str, split: str) -> Iterator[Row]:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        source = builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise InputError(
            f"{folder}: its files are {builder.info.file_format.value}, which only TensorFlow reads; "
            "prepare it with file_format='array_record'"
        ) from error
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"{folder}: split '{split}' cannot be read ({error})") from error
    for start in range(0, len(source), _BATCH):
        indices = list(range(start, min(start + _BATCH, len(source))))
        for number, row in enumerate(source.__getitems__(indices), start=start + 1):
            try:
                value = _plain(row)
            except UnicodeDecodeError as error:
                value = BadRow(f"is not UTF-8 ({error.reason})")
            yield number, value, None, number / len(source)


def _plain(value: Any) -> Any:
    """A TFDS value (bytes, numpy scalars and arrays, dicts of them) as JSON has it."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
        return [_plain(inner) for inner in value] if isinstance(value, list) else _plain(value)
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
