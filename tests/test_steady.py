"""A source that stumbles is read all the same; one that is dead or hangs is an error that names it."""

import errno
import gzip
import os
import threading
import time

import numpy as np
import pytest

from instruct_jax import jsonl, steady
from instruct_jax.data import builders, pipeline
from instruct_jax.data.conversion import digest_of
from instruct_jax.errors import InputError
from instruct_jax.records import Document, read_jsonl, write_jsonl
from instruct_jax.steady import steadily

DOCUMENTS = [Document(f"d{i}", "text " * (i % 5 + 1)) for i in range(60)]


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited, without waiting; a read may take 0.3 s."""
    found = []
    monkeypatch.setattr(steady, "SECONDS", 0.3)
    monkeypatch.setattr(steady.time, "sleep", found.append)
    return found


def failing(times, error, value=b"done"):
    """A read that raises `error` so many times; and how often it was called."""
    calls = []

    def read():
        calls.append(1)
        if len(calls) <= times:
            raise error
        return value

    return read, calls


def test_a_read_that_fails_is_tried_again_after_longer_and_longer_waits(waits):
    read, _ = failing(4, OSError(errno.EIO, "Input/output error"))
    assert steadily(read, "x") == b"done"
    assert waits == [1, 4, 16, 64]


def test_the_last_error_is_raised_when_no_try_helps(waits):
    read, calls = failing(99, OSError(errno.ESTALE, "Stale file handle"))
    with pytest.raises(OSError, match="Stale file handle"):
        steadily(read, "x")
    assert len(calls) == steady.TRIES


@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError(), ValueError("no input error")])
def test_what_another_try_cannot_mend_is_raised_at_once(waits, error):
    read, calls = failing(99, error)
    with pytest.raises(type(error)):
        steadily(read, "x")
    assert len(calls) == 1 and not waits


def test_a_read_that_hangs_is_left_behind_and_tried_again(waits):
    ever, hung, began = threading.Event(), [], time.monotonic()

    def read():
        if len(hung) < 2:
            hung.append(1)
            ever.wait()
        return b"done"

    assert steadily(read, "x") == b"done" and len(hung) == 2
    hung = []
    with pytest.raises(TimeoutError, match="no answer for 0.3 s"):
        steadily(ever.wait, "x")
    assert time.monotonic() - began < 15  # seven times 0.3 s, and what the machine makes of it
    ever.set()


@pytest.fixture
def shaky(monkeypatch):
    """os.pread that fails at the calls in the set it gives; None in it: at every one."""
    real, bad, calls = os.pread, set(), []

    def pread(handle, size, offset):
        calls.append(offset)
        if len(calls) in bad or None in bad:
            raise OSError(errno.EIO, "Input/output error")
        return real(handle, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    return bad


@pytest.mark.parametrize("name", ["documents.train.jsonl", "documents.train.jsonl.gz"])
def test_records_from_a_mount_that_stumbles_are_those_of_a_sound_one(
    tmp_path, waits, shaky, name, monkeypatch
):
    write_jsonl(tmp_path / "sound.jsonl", DOCUMENTS)
    data = (tmp_path / "sound.jsonl").read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    sound = digest_of(path)
    shaky |= {2, 4, 5, 9}
    assert read_jsonl(path, Document) == DOCUMENTS
    shaky |= set(range(11, 30, 2))
    assert digest_of(path) == sound
    assert waits


def test_records_from_a_dead_mount_are_an_error_that_names_the_file(tmp_path, waits, shaky):
    path = tmp_path / "documents.train.jsonl"
    write_jsonl(path, DOCUMENTS)
    shaky |= {None}
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InputError, match="documents.train.jsonl: cannot be read .Input/output error"):
        read_jsonl(path, Document)
    assert len(os.listdir("/proc/self/fd")) == before  # not one open file for every try


def test_a_pipe_is_read_as_it_comes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    lines = b'{"id": "a", "text": "b"}\n'
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(lines))
    writer.start()
    assert [line for _, line in jsonl.read_lines(tmp_path / "pipe")] == [lines]
    writer.join()


def test_a_file_can_be_read_again_from_any_place(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(256)) * 5000)
    with steady.open_file(tmp_path / "a") as file:
        assert file.seek(-3, os.SEEK_END) and file.read() == bytes([253, 254, 255])
        assert file.seek(256) == 256 and file.read(2) == b"\0\1" and file.tell() == 258
        assert file.seek(0) == 0 and file.read() == bytes(range(256)) * 5000


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    write_jsonl(root / "records" / "documents.train.jsonl", DOCUMENTS)
    builders.build(root / "records", root / "data")
    return root / "data"


class Shaky:
    """Rows of a shard whose reader says what array_record says of a mount that is gone."""

    def __init__(self, rows, times):
        self.rows, self.times = rows, times

    def __getitems__(self, numbers):
        self.times -= 1
        if self.times >= 0:
            raise RuntimeError("read() failed: Input/output error; reading x.array_record-00000")
        return self.rows.__getitems__(numbers)


def test_shards_on_a_mount_that_stumbles_give_the_rows_of_a_sound_one_and_a_dead_one_is_named(
    data_dir, waits, monkeypatch
):
    source = builders.open_source(data_dir, "documents", "train")
    opened = source._rows._opened()
    shaky = Shaky(opened, 3)
    monkeypatch.setattr(source._rows, "_opened", lambda: shaky)
    assert list(source) == DOCUMENTS and len(waits) == 3
    shaky.times = 99
    with pytest.raises(InputError, match="documents/1.0.0, split train: cannot be read .read.. failed"):
        source[5]


def test_tokens_in_a_file_on_a_mount_that_stumbles_are_those_of_a_sound_one(tmp_path, waits, shaky):
    from test_streams import Letters

    options = dict(batch_size=8, length=7, seed=1, cache=tmp_path / "train.tokens")
    batches = pipeline.documents(DOCUMENTS, Letters(), **options)
    sound = batches.at(3).tokens_BT
    shaky |= {40, 41}
    for _ in range(3):
        np.testing.assert_array_equal(batches.at(3).tokens_BT, sound)
    assert len(waits) == 2
    shaky |= {None}
    with pytest.raises(InputError, match="train.tokens-letters: the tokens kept there cannot be read"):
        batches.at(4)


def test_tokens_that_were_cut_short_are_refused(tmp_path):
    from test_streams import Letters

    options = dict(batch_size=8, length=7, seed=1, cache=tmp_path / "train.tokens")
    batches = pipeline.documents(DOCUMENTS, Letters(), **options)
    ids = tmp_path / "train.tokens-letters" / "ids"
    ids.write_bytes(ids.read_bytes()[:40])
    with pytest.raises(InputError, match="ids ends before token"):
        [batches.at(step) for step in range(9)]
    with pytest.raises(InputError, match="ids has 40 bytes"):
        pipeline.documents(DOCUMENTS, Letters(), **options)
