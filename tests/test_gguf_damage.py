"""No GGUF file can do harm: each is read, or refused with a message that names what is wrong with it."""

import struct
import time
import tracemalloc

import pytest
from gguf import GGMLQuantizationType, GGUFEndian
from gguf_files import (
    GEMMA,
    GEMMA_KEYS,
    LLAMA,
    LLAMA_KEYS,
    as_llama_cpp_stores,
    make,
    write,
    write_llama,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_jax.errors import InputError
from instruct_jax.pretrained.gguf import open_source


@pytest.fixture(scope="module")
def llama_bytes(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("gguf") / "a.gguf").read_bytes()


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        open_source(path)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message, message


def entry(data, name):
    """Where the bytes after a name lie in a header."""
    wanted = struct.pack("<Q", len(name)) + name.encode()
    assert data.count(wanted) == 1
    return data.index(wanted) + len(wanted)


def patched(data, at, code, *values):
    new = struct.pack("<" + code, *values)
    return data[:at] + new + data[at + len(new) :]


HUGE = 2**62
PATCHES = {  # what the header then says → (bytes of a sound file → bytes, words of the message)
    "magic": (lambda data: b"GGML" + data[4:], ["GGUF"]),
    "version": (lambda data: patched(data, 4, "I", 1), ["version 1"]),
    "tensor count": (lambda data: patched(data, 8, "Q", HUGE), ["tensor ''", "0 dimensions"]),
    "key count": (lambda data: patched(data, 16, "Q", HUGE), ["metadata"]),
    "key length": (lambda data: patched(data, 24, "Q", HUGE), ["metadata key 0", "past the file's end"]),
    "value type": (
        lambda data: patched(data, entry(data, "llama.block_count"), "I", 13),
        ["llama.block_count", "13"],
    ),
    "nested array": (
        lambda data: patched(data, entry(data, "llama.block_count"), "II", 9, 9),
        ["llama.block_count", "array of value type 9"],
    ),
    "array length": (
        lambda data: patched(data, entry(data, "tokenizer.ggml.tokens") + 8, "Q", HUGE),
        ["tokenizer.ggml.tokens", "past the file's end"],
    ),
    "array length in bounds": (
        lambda data: patched(data, entry(data, "tokenizer.ggml.tokens") + 8, "Q", len(data) // 16),
        ["tokenizer.ggml.tokens", "past the file's end"],
    ),
    "text": (lambda data: data.replace(b"piece7", b"piece\xff"), ["tokenizer.ggml.tokens", "UTF-8"]),
    "twice a key": (
        lambda data: data.replace(b"ggml.bos_token_id", b"ggml.eos_token_id"),
        ["tokenizer.ggml.eos_token_id", "twice"],
    ),
    "twice a tensor": (
        lambda data: data.replace(b"blk.1.attn_k", b"blk.1.attn_v"),
        ["blk.1.attn_v.weight", "twice"],
    ),
    "no dimensions": (
        lambda data: patched(data, entry(data, "output_norm.weight"), "I", 0),
        ["output_norm.weight", "0 dimensions"],
    ),
    "dimensions": (
        lambda data: patched(data, entry(data, "output_norm.weight"), "I", 2**31),
        ["output_norm.weight", "dimensions"],
    ),
    "large shape": (
        lambda data: patched(data, entry(data, "token_embd.weight") + 4, "QQ", HUGE, HUGE),
        ["token_embd.weight", "of a file of"],
    ),
    "shape": (
        lambda data: patched(data, entry(data, "token_embd.weight") + 4, "QQ", 20, 64),
        ["token_embd.weight", "(64, 20)", "(40, 32)"],
    ),
    "unknown format": (
        lambda data: patched(data, entry(data, "token_embd.weight") + 20, "I", 999),
        ["token_embd.weight", "999"],
    ),
    "format without decoder": (
        lambda data: patched(data, entry(data, "token_embd.weight") + 20, "I", GGMLQuantizationType.F64),
        ["token_embd.weight", "number format 28"],
    ),
    "block size": (
        lambda data: patched(data, entry(data, "token_embd.weight") + 20, "I", GGMLQuantizationType.Q4_K),
        ["token_embd.weight", "Q4_K", "256", "32"],
    ),
    "offset": (
        lambda data: patched(data, entry(data, "output_norm.weight") + 16, "Q", HUGE),
        ["output_norm.weight", "of a file of"],
    ),
    "misaligned": (
        lambda data: patched(data, entry(data, "output_norm.weight") + 16, "Q", 8),
        ["output_norm.weight", "offset 8", "32"],
    ),
    "overlap": (
        lambda data: patched(data, entry(data, "output_norm.weight") + 16, "Q", 32),
        ["output_norm.weight", "overlaps", "token_embd.weight"],
    ),
    "cut data": (lambda data: data[:-40], ["of a file of"]),
    "empty": (lambda data: b"", ["is empty"]),
}


@pytest.mark.parametrize("lie", PATCHES)
def test_a_lie_in_the_header_is_named(lie, tmp_path):
    patch, words = PATCHES[lie]
    path = write_llama(tmp_path / "a.gguf", keys={"tokenizer.ggml.tokens": [f"piece{n}" for n in range(40)]})
    path.write_bytes(patch(path.read_bytes()))
    refused(path, *words)


KEYS = [
    ("llama.block_count", None, "missing"),
    ("llama.block_count", 3, "blk.2"),
    ("llama.block_count", 4_000_000_000, "blk.2"),
    ("llama.block_count", 1, "blk.1.attn_k.weight"),
    ("llama.attention.head_count", [4, 4], "[4, 4]"),
    ("llama.attention.head_count", 0, "above 0"),
    ("llama.attention.head_count_kv", 3, "multiple of 3"),
    ("llama.embedding_length", "32", "'32'"),
    ("llama.rope.dimension_count", 4, "blk.0.attn_q.weight"),
    ("llama.attention.key_length", 16, "llama.rope.dimension_count"),
    ("llama.attention.layer_norm_rms_epsilon", float("nan"), "nan"),
    ("llama.rope.scaling.type", "yarn", "yarn"),
    ("llama.vocab_size", None, "llama.vocab_size is missing"),
    ("tokenizer.ggml.eos_token_id", 40, "tokenizer.ggml.eos_token_id"),
    ("general.alignment", 48, "general.alignment"),
]


@pytest.mark.parametrize("key, value, words", KEYS)
def test_a_key_that_does_not_fit_the_model_is_named(key, value, words, tmp_path):
    value = ("uint32", value) if key == "general.alignment" else value
    refused(write_llama(tmp_path / "a.gguf", keys={key: value}), words)


def test_missing_and_surplus_tensors_are_named(tmp_path):
    refused(
        write_llama(tmp_path / "a.gguf", **{"blk.1.ffn_up.weight": None}), "blk.1.ffn_up.weight is missing"
    )
    refused(write_llama(tmp_path / "b.gguf", **{"rope_freqs.weight": make((4,), 0)}), "rope_freqs.weight")
    stored = as_llama_cpp_stores("gemma3", GEMMA)
    del stored["blk.6.post_ffw_norm.weight"]
    refused(write(tmp_path / "c.gguf", "gemma3", GEMMA_KEYS, stored), "blk.6.post_ffw_norm.weight is missing")


def test_other_architectures_are_named_beside_the_two_that_are_read(tmp_path):
    refused(write(tmp_path / "a.gguf", "qwen3", {}, {}), "'qwen3'", "llama", "gemma3")


def test_other_files_are_refused(tmp_path):
    big = write(tmp_path / "big.gguf", "llama", LLAMA_KEYS, {}, endian=GGUFEndian.BIG)
    refused(big, "big-endian")
    refused(tmp_path, "no such file")
    refused(tmp_path / "none.gguf", "no such file")


def test_a_file_cut_anywhere_in_its_header_is_refused(llama_bytes, tmp_path):
    path = tmp_path / "a.gguf"
    header = llama_bytes.index(b"blk.1.ffn_norm.weight")
    for length in range(1, header, 5):
        path.write_bytes(llama_bytes[:length])
        refused(path)


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path, llama_bytes):
    path = tmp_path / "a.gguf"
    path.write_bytes(llama_bytes)
    source = open_source(path)
    path.write_bytes(llama_bytes[:-4000])
    with pytest.raises(InputError, match="model.layers.1"):
        for name in source.shapes:
            source.read(name, slice(None))


def test_a_header_that_never_ends_is_given_up(tmp_path, monkeypatch, llama_bytes):
    monkeypatch.setattr("instruct_jax.pretrained.gguf_header._LIMIT", 512)
    path = tmp_path / "a.gguf"
    path.write_bytes(llama_bytes)
    refused(path, "a header's limit")


@settings(max_examples=300)
@given(st.data())
def test_flipped_bytes_in_a_header_are_read_or_refused_at_little_cost(llama_bytes, tmp_path_factory, data):
    header = len(llama_bytes) - sum(weights.nbytes for weights in LLAMA.values())
    flips = st.lists(st.tuples(st.integers(0, header - 1), st.integers(0, 255)), min_size=1, max_size=4)
    damaged = bytearray(llama_bytes)
    for at, byte in data.draw(flips):
        damaged[at] = byte
    path = tmp_path_factory.getbasetemp() / "flipped.gguf"
    path.write_bytes(damaged)
    tracemalloc.start()
    start = time.process_time()
    try:
        source = open_source(path)
        for name, shape in source.shapes.items():
            assert source.read(name, slice(None)).shape == shape
    except InputError as error:
        assert str(path) in str(error)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2
    assert peak < 10 * len(llama_bytes)
