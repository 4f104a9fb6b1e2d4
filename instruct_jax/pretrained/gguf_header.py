"""The home of the header of a GGUF file: metadata and the list of tensors, in no model's terms.

No count, length or offset is believed before it is compared with the bytes that are there, so what a header can claim costs
no more than the file holds.
"""

import math
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from instruct_jax.errors import InputError

MEND = "the file is damaged or cut short: download or convert it again"
_LIMIT = 1 << 26  # bytes a header may have; the largest vocabularies take about 20 MB
_NUMBER_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: shape (outermost axis first), number format, offset from the file's start and size in bytes."""

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    nbytes: int


def read_metadata(path: str | os.PathLike) -> dict[str, object]:
    """{key: number, bool, text or list of these} of a GGUF file; InputError names the file and the key at fault."""
    return _with_cursor(Path(path), lambda cursor: _metadata(cursor, _counts(cursor)[1]))


def read_header(path: str | os.PathLike) -> tuple[dict[str, object], dict[str, StoredTensor]]:
    """(metadata, {name: tensor}) of a GGUF file, the tensors within the file and apart from each other.

    InputError names the file and the key or tensor at fault.
    """
    return _with_cursor(Path(path), _header)


def show(value) -> str:
    """A value from a file, made printable and short."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class _Cursor:
    """Reads forward through the bytes of a header, and raises InputError where they end."""

    def __init__(self, path: Path, data: mmap.mmap, size: int):
        self.path, self.data, self.size, self.at = path, data, size, 0

    def fail(self, what: str, wrong: str):
        raise InputError(f"{self.path}: {what} {wrong}: {MEND}")

    def need(self, nbytes: int, what: str):
        if nbytes > len(self.data) - self.at:
            end = "the file's end" if len(self.data) == self.size else "the first 64 MiB, a header's limit"
            self.fail(what, f"reaches past {end}")

    def numbers(self, code: str, count: int, what: str) -> list:
        nbytes = struct.calcsize("<" + code) * count
        self.need(nbytes, what)
        values = list(struct.unpack_from(f"<{count}{code}", self.data, self.at))
        self.at += nbytes
        return values

    def number(self, code: str, what: str):
        return self.numbers(code, 1, what)[0]

    def strings(self, count: int, what: str) -> list[str]:
        length_at = struct.Struct("<Q").unpack_from
        found, data = [], self.data
        try:
            for _ in range(count):
                self.need(8, what)
                start = self.at + 8
                stop = start + length_at(data, self.at)[0]
                self.need(stop - self.at, what)
                found.append(data[start:stop].decode())
                self.at = stop
        except UnicodeDecodeError:
            self.fail(what, "is not UTF-8 text")
        return found

    def string(self, what: str) -> str:
        return self.strings(1, what)[0]

    def value(self, what: str):
        kind = self.number("I", what)
        if kind in _NUMBER_CODES:
            return self.number(_NUMBER_CODES[kind], what)
        if kind == _STRING:
            return self.string(what)
        if kind != _ARRAY:
            self.fail(what, f"has value type {kind}, which GGUF does not know")
        kind, count = self.number("I", what), self.number("Q", what)
        if kind == _STRING:
            return self.strings(count, what)
        if kind not in _NUMBER_CODES:
            self.fail(
                what, f"is an array of value type {kind}; arrays of numbers, booleans and texts are read"
            )
        return self.numbers(_NUMBER_CODES[kind], count, what)


def _with_cursor(path: Path, parse: Callable[[_Cursor], object]):
    """`parse` on a mapping of the file that is gone afterwards."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .gguf file")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise InputError(f"{path}: is empty: {MEND}")
            with mmap.mmap(file.fileno(), min(size, _LIMIT), access=mmap.ACCESS_READ) as data:
                return parse(_Cursor(path, data, size))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _counts(cursor: _Cursor) -> list[int]:
    """[tensors, metadata keys], after the magic and the version have been checked."""
    if cursor.data[:4] != b"GGUF":
        raise InputError(f"{cursor.path}: does not start with GGUF; give a .gguf file")
    cursor.at = 4
    version = cursor.number("I", "version")
    if version and version & 0xFFFF == 0:
        raise InputError(
            f"{cursor.path}: is a big-endian GGUF file; convert the model for little-endian machines"
        )
    if version not in (2, 3):
        raise InputError(
            f"{cursor.path}: GGUF version {version}; versions 2 and 3 are read: convert it again"
        )
    return cursor.numbers("Q", 2, "count of tensors and keys")


def _metadata(cursor: _Cursor, count: int) -> dict[str, object]:
    metadata = {}
    for number in range(count):
        key = cursor.string(f"metadata key {number}")
        if key in metadata:
            cursor.fail(f"metadata key {show(key)}", "appears twice")
        metadata[key] = cursor.value(f"metadata {show(key)}")
    return metadata


def _header(cursor: _Cursor) -> tuple[dict[str, object], dict[str, StoredTensor]]:
    tensor_count, key_count = _counts(cursor)
    metadata = _metadata(cursor, key_count)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        cursor.fail("metadata general.alignment", f"is {show(alignment)}, no power of two")
    listed = {}
    for number in range(tensor_count):
        name = cursor.string(f"name of tensor {number}")
        if name in listed:
            cursor.fail(f"tensor {show(name)}", "appears twice")
        listed[name] = _tensor(cursor, f"tensor {show(name)}", alignment)
    return metadata, _placed(cursor, listed, start=-(-cursor.at // alignment) * alignment)


def _tensor(cursor: _Cursor, what: str, alignment: int) -> StoredTensor:
    """The next entry of the tensor list; its offset still counts from the end of the header."""
    axes = cursor.number("I", what)
    if not 1 <= axes <= 4:
        cursor.fail(what, f"has {axes} dimensions")
    shape = tuple(reversed(cursor.numbers("Q", axes, what)))
    number, offset = cursor.number("I", what), cursor.number("Q", what)
    try:
        kind = GGMLQuantizationType(number)
        values, nbytes = GGML_QUANT_SIZES[kind]
        dequantize(np.zeros((1, nbytes), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise InputError(
            f"{cursor.path}: {what} has number format {number}, which the gguf package cannot turn into floats: "
            "use a file with another quantisation"
        ) from error
    if shape[-1] % values:
        cursor.fail(
            what, f"has rows of {shape[-1]} values, which {kind.name} blocks of {values} do not divide"
        )
    if offset % alignment:
        cursor.fail(what, f"starts at offset {offset}, no multiple of the alignment {alignment}")
    return StoredTensor(shape, kind, offset, math.prod(shape) // values * nbytes)


def _placed(cursor: _Cursor, listed: dict[str, StoredTensor], start: int) -> dict[str, StoredTensor]:
    """The tensors with offsets from the file's start; none reaches past its end or into another."""
    placed, end, before = {}, start, ""
    for name, tensor in sorted(listed.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        offset = start + tensor.offset
        if offset < end:
            cursor.fail(f"tensor {show(name)}", f"overlaps tensor {before}")
        end, before = offset + tensor.nbytes, show(name)
        if end > cursor.size:
            cursor.fail(f"tensor {show(name)}", f"needs the bytes up to {end} of a file of {cursor.size}")
        placed[name] = replace(tensor, offset=offset)
    return placed
