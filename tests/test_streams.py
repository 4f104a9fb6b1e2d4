import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_jax.data import builders, pipeline, tokens
from instruct_jax.errors import InputError
from instruct_jax.records import Demonstration, Document, Prompt, Ranking, write_jsonl
from instruct_jax.text.templates import Template

PLAIN = Template("", "\n")
WIDTHS = dict(max_prompt=4, max_response=3)


class Letters:
    """a is 10, b is 11, …, newline is 3; counts the texts it is asked for."""

    pad_id, unk_id, eos_id, bos_id, digest = 0, 1, 2, None, "letters"

    def __init__(self):
        self.texts = 0

    def encode_batch(self, texts):
        self.texts += len(texts)
        return [[3 if letter == "\n" else ord(letter) - ord("a") + 10 for letter in text] for text in texts]

    def encode_prompts(self, template, prompts):
        return self.encode_batch([template.render(prompt) for prompt in prompts])


DOCUMENTS = [Document(f"d{i}", "abcdefghijkl"[: i % 12] + "xyz"[: 1 + i % 3]) for i in range(60)]
ASKED = [Demonstration(f"p{i}", "abc"[: 1 + i % 3], "de"[: i % 3]) for i in range(30)]


def streams():
    letters = Letters()
    documents = pipeline.documents(DOCUMENTS, letters, batch_size=8, length=7, seed=1)
    demonstrations = pipeline.demonstrations(ASKED, letters, PLAIN, batch_size=8, seed=1, **WIDTHS)
    packed = pipeline.demonstrations(ASKED, letters, PLAIN, batch_size=8, seed=1, packed=True, **WIDTHS)
    prompts = [Prompt(f"p{i}", "abc"[: 1 + i % 3]) for i in range(11)]
    rankings = [
        Ranking(f"p{i}", "a", "l", ["bc"[: 1 + (i + k) % 2] for k in range(2 + i % 2)], [1, 2, 3][: 2 + i % 2], ["m"] * (2 + i % 2))
        for i in range(12)
    ]  # fmt: skip
    return {
        "documents": documents,
        "demonstrations": demonstrations,
        "packed": packed,
        "mixture": pipeline.mixture(demonstrations, documents, 0.3),
        "prompts": pipeline.prompts(prompts, letters, PLAIN, batch_size=8, max_prompt=5, seed=1),
        "rankings with shared prompts": pipeline.rankings(
            rankings, letters, PLAIN, batch_size=8, k_max=3, seed=1, epochs=3, shared_width=12, **WIDTHS
        ),
        "rankings": pipeline.rankings(
            rankings, letters, PLAIN, batch_size=8, k_max=3, seed=1, epochs=3, **WIDTHS
        ),
    }


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind", streams())
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_shares_of_any_number_of_processes_put_together_are_the_batch(kind, count):
    whole, shared = streams()[kind], streams()[kind]
    for step in (0, 1, 3):
        parts = [shared.at(step, (i, i + 1, count)) for i in range(count)]
        assert_same(jax.tree.map(lambda *rows: np.concatenate(rows), *parts), whole.at(step))
    assert_same(shared.at(2, (0, count, count)), whole.at(2))


@pytest.mark.parametrize("kind", streams())
def test_a_fresh_reader_at_a_step_needs_nothing_of_the_steps_before(kind):
    read, fresh = streams()[kind], streams()[kind]
    for step in range(4):
        read.at(step)
    assert_same(read.at(4), fresh.at(4))


def test_a_share_makes_only_its_own_rows(monkeypatch):
    cut, made = tokens.JoinedText.cut, []
    monkeypatch.setattr(
        tokens.JoinedText, "cut", lambda self, start, width: made.append(start // width) or cut(self, start, width)
    )  # fmt: skip
    found = streams()
    stream = found["documents"]
    made.clear()
    stream.at(2)
    whole, made[:] = list(made), []
    stream.at(2, (3, 4, 4))
    assert made == whole[6:] and len(whole) == 8
    made.clear()
    found["mixture"].at(1, (0, 1, 2))  # its first half are demonstrations
    assert not made


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused():
    with pytest.raises(InputError, match="8 rows cannot be shared out to 3"):
        streams()["documents"].at(0, (0, 1, 3))


def test_tokens_in_a_file_give_the_same_batches_and_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "_CHUNK", 7)
    memory, letters = streams()["documents"], Letters()
    options = dict(batch_size=8, length=7, seed=1, cache=tmp_path / "train.tokens")
    mapped = pipeline.documents(DOCUMENTS, letters, **options)
    for step in range(5):
        assert_same(mapped.at(step), memory.at(step))
    assert letters.texts == len(DOCUMENTS)
    again = pipeline.documents(DOCUMENTS, letters, **options)
    assert_same(again.at(3), memory.at(3))
    assert letters.texts == len(DOCUMENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["train.tokens-letters"]
    assert isinstance(tokens.encode_all(DOCUMENTS, letters, options["cache"])[0], tokens.FileOfIds)


def test_half_made_tokens_are_never_read(tmp_path):
    class Stopping(Letters):
        def encode_batch(self, texts):
            raise KeyboardInterrupt

    options = dict(batch_size=8, length=7, seed=1, cache=tmp_path / "train.tokens")
    with pytest.raises(KeyboardInterrupt):
        pipeline.documents(DOCUMENTS, Stopping(), **options)
    assert [path.name for path in tmp_path.iterdir()] == ["train.tokens-letters.unfinished"]
    assert_same(pipeline.documents(DOCUMENTS, Letters(), **options).at(0), streams()["documents"].at(0))


def test_another_tokenizer_has_tokens_of_its_own(tmp_path):
    class Upper(Letters):
        digest = "upper"

        def encode_batch(self, texts):
            return [[i + 100 for i in ids] for ids in super().encode_batch(texts)]

    cache = tmp_path / "train.tokens"
    first, second = (tokens.encode_all(DOCUMENTS, t, cache)[0] for t in (Letters(), Upper()))
    np.testing.assert_array_equal(first[0:20] + 100, second[0:20])


def test_a_tokenizers_digest_is_that_of_its_vocabulary(tmp_path):
    from instruct_jax.text.loading import load_tokenizer
    from instruct_jax.text.tokenizer import train_sentencepiece

    for name, words in (("a", "one two three"), ("b", "four five six")):
        train_sentencepiece([f"{words} {i}" for i in range(200)], tmp_path / f"{name}.model", 40, seed=0)
    a, again, b = (load_tokenizer(tmp_path / f"{name}.model").digest for name in "aab")
    assert a == again != b and len(a) == 64


def test_only_a_large_split_keeps_its_tokens_in_a_file(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "documents.train.jsonl", DOCUMENTS)
    builders.build(tmp_path, tmp_path / "data")
    assert builders.open_source(tmp_path / "data", "documents", "train").token_cache is None
    monkeypatch.setattr(builders, "LARGE", 1000)
    source = builders.open_source(tmp_path / "data", "documents", "train")
    assert source.token_cache == tmp_path / "data" / "documents" / "1.0.0" / "train.tokens"
    mapped = pipeline.documents(source, Letters(), batch_size=8, length=7, seed=1, cache=source.token_cache)
    assert_same(mapped.at(1), streams()["documents"].at(1))
    assert len(builders.open_source(tmp_path / "data", "documents", "train")) == len(DOCUMENTS)


def test_tokens_that_cannot_be_kept_are_said(tmp_path):
    with pytest.raises(InputError, match="no_such.*cannot be written"):
        tokens.encode_all(DOCUMENTS, Letters(), tmp_path / "no_such" / "train.tokens")


PROCESS = """
import hashlib, json, sys
import jax
index, count, port = map(int, sys.argv[1:])
if count > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
import numpy as np
from instruct_jax.data import tokens
from instruct_jax.sharding import make_mesh
from instruct_jax.stages import setup
from tests.test_streams import streams
cut, made = tokens.JoinedText.cut, []
tokens.JoinedText.cut = lambda self, start, width: made.append(start) or cut(self, start, width)
mesh = make_mesh(data=len(jax.devices()))
found = {}
for kind, stream in streams().items():
    made.clear()
    for leaf in jax.tree.leaves(setup.put_step(stream, 2, mesh)):
        for shard in leaf.addressable_shards:
            rows = range(leaf.shape[0])[shard.index[0]]
            for row, values in zip(rows, np.asarray(shard.data)):
                found[f"{kind} {leaf.shape} {leaf.dtype} {row}"] = hashlib.sha256(values.tobytes()).hexdigest()
    if kind == "documents":
        documents = len(made)
print(json.dumps([documents, found]))
"""


def _run(count):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // count}",
        "PYTHONPATH": str(root),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(i), str(count), str(port)],
            cwd=root, env=environment, stdout=subprocess.PIPE, text=True,
        )
        for i in range(count)
    ]  # fmt: skip
    told = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in started]
    return [made for made, _ in told], [found for _, found in told]


@pytest.mark.slow
def test_two_real_processes_place_the_batches_of_one_and_each_makes_half():
    (all_rows,), (whole,) = _run(1)
    made, (first, second) = _run(2)
    assert all_rows == 8 and made == [4, 4]
    assert first.keys() & second.keys() == set() and first | second == whole


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_joined_text_is_each_text_behind_an_end_in_its_order(lengths, random):
    texts = [[10 * i + j for j in range(n)] for i, n in enumerate(lengths, 1)]
    order = random.sample(range(len(texts)), len(texts))
    ids = np.array([i for text in texts for i in text], np.int32)
    joined = tokens.JoinedText(ids, np.array(lengths, np.int32), np.array(order), 2)
    expected = [i for n in order for i in [2, *texts[n]]]
    assert len(joined) == len(expected)
    for start in range(len(expected)):
        for width in range(len(expected) - start + 1):
            assert joined.cut(start, width).tolist() == expected[start : start + width]
