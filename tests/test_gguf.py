"""GGUF files come back under Hugging Face's names and in its layouts, as the weights that were written."""

import struct

import numpy as np
import pytest
from gguf.quants import quantize
from gguf_files import (
    F16,
    F32,
    GEMMA,
    GEMMA_KEYS,
    LLAMA,
    LLAMA_KEYS,
    Q4_1,
    Q8_0,
    as_llama_cpp_stores,
    make,
    write,
    write_llama,
)

from instruct_jax.pretrained.gguf import open_source, read_metadata


def read_all(source):
    return {name: source.read(name, slice(None)) for name in source.shapes}


def assert_holds(source, tensors):
    assert set(source.shapes) == set(tensors)
    for name, weights in read_all(source).items():
        assert weights.dtype == np.float32 and weights.shape == source.shapes[name]
        np.testing.assert_array_equal(weights, tensors[name], err_msg=name)


def test_a_llama_file_opens_as_the_checkpoint_it_was_made_from(tmp_path):
    source = open_source(write_llama(tmp_path / "a.gguf"))
    assert_holds(source, LLAMA)
    assert source.config == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "rms_norm_eps": 0.0078125,
        "rope_theta": 50_000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def test_a_gemma3_file_opens_as_the_checkpoint_it_was_made_from(tmp_path):
    path = write(tmp_path / "a.gguf", "gemma3", GEMMA_KEYS, as_llama_cpp_stores("gemma3", GEMMA))
    source = open_source(path)
    assert_holds(source, GEMMA)
    wanted = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": 40,
        "head_dim": 16,
        "num_key_value_heads": 1,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 16,
        "sliding_window": 24,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "final_logit_softcapping": None,
        "pad_token_id": 0,
    }
    assert {key: source.config[key] for key in wanted} == wanted


def test_interleaved_rows_by_hand(tmp_path):
    """One head of four channels: the file holds rows 0 2 1 3, whose first and second halves pair up for RoPE."""
    stored = as_llama_cpp_stores("llama", LLAMA)
    keys = LLAMA_KEYS | {
        "llama.attention.head_count": 1,
        "llama.attention.head_count_kv": 1,
        "llama.rope.dimension_count": 4,
    }
    for layer in range(2):
        for name, shape in {"q": (4, 32), "k": (4, 32), "v": (4, 32), "output": (32, 4)}.items():
            stored[f"blk.{layer}.attn_{name}.weight"] = make(shape, layer)
    source = open_source(write(tmp_path / "a.gguf", "llama", keys, stored))
    for name in ("q", "k"):
        np.testing.assert_array_equal(
            source.read(f"model.layers.1.self_attn.{name}_proj.weight", slice(None)),
            stored[f"blk.1.attn_{name}.weight"][[0, 2, 1, 3]],
        )


def decoded(raw, kind):
    """Values of one row of blocks, as ggml's documentation spells the formats."""
    values = []
    if kind == F16:
        return np.frombuffer(raw, np.float16).astype(np.float32)
    for at in range(0, len(raw), 34 if kind == Q8_0 else 20):
        if kind == Q8_0:
            scale, *whole = struct.unpack_from("<e32b", raw, at)
            values += [np.float32(scale) * np.float32(number) for number in whole]
        else:
            scale, low, *pairs = struct.unpack_from("<ee16B", raw, at)
            whole = [pair & 15 for pair in pairs] + [pair >> 4 for pair in pairs]
            values += [np.float32(scale) * np.float32(number) + np.float32(low) for number in whole]
    return np.array(values, np.float32)


@pytest.mark.parametrize("kind", [F16, Q8_0, Q4_1])
def test_quantised_matrices_are_decoded_block_by_block(kind, tmp_path):
    tensors = {name: make(weights.shape, 99) * np.pi for name, weights in LLAMA.items()}
    path = write(tmp_path / "a.gguf", "llama", LLAMA_KEYS, as_llama_cpp_stores("llama", tensors), kind)
    wanted = {
        name: weights
        if weights.ndim == 1
        else np.stack([decoded(quantize(row[None], kind).tobytes(), kind) for row in weights])
        for name, weights in tensors.items()
    }
    assert_holds(open_source(path), wanted)


@pytest.mark.parametrize("kind", [F32, Q4_1])
def test_rows_are_those_of_the_whole_tensor(kind, tmp_path):
    source = open_source(write_llama(tmp_path / "a.gguf", kind))
    for name, whole in read_all(source).items():
        for rows in (slice(3, 13), slice(8, 16), slice(0, 0), slice(9, 5), slice(-3, None), slice(15, 99)):
            np.testing.assert_array_equal(source.read(name, rows), whole[rows], err_msg=f"{name} {rows}")
    with pytest.raises(ValueError, match="step"):
        source.read("model.norm.weight", slice(0, 8, 2))


def test_a_large_tensor_is_decoded_in_parts_that_meet(tmp_path):
    keys = LLAMA_KEYS | {"llama.vocab_size": 5000}
    embedding = make((5000, 32), 5)
    stored = as_llama_cpp_stores("llama", LLAMA) | {"token_embd.weight": embedding}
    source = open_source(write(tmp_path / "a.gguf", "llama", keys, stored, F16))
    np.testing.assert_array_equal(source.read("model.embed_tokens.weight", slice(None)), embedding)


def test_an_output_matrix_means_untied_embeddings(tmp_path):
    head = make((40, 32), 77)
    stored = as_llama_cpp_stores("llama", LLAMA) | {"output.weight": head}
    source = open_source(write(tmp_path / "a.gguf", "llama", LLAMA_KEYS, stored))
    assert source.config["tie_word_embeddings"] is False
    assert_holds(source, LLAMA | {"lm_head.weight": head})


def test_what_newer_converters_write_reaches_the_config(tmp_path):
    keys = GEMMA_KEYS | {
        "gemma3.rope.scaling.type": "linear",
        "gemma3.rope.scaling.factor": 8.0,
        "gemma3.rope.freq_base_swa": 20_000.0,
        "gemma3.attention.sliding_window_pattern": 2,
        "gemma3.final_logit_softcapping": 30.0,
        "general.alignment": 64,
    }
    stored = as_llama_cpp_stores("gemma3", GEMMA)
    config = open_source(write(tmp_path / "a.gguf", "gemma3", keys, stored)).config
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert config["rope_local_base_freq"] == 20_000.0
    assert config["layer_types"] == ["sliding_attention", "full_attention"] * 3 + ["sliding_attention"]
    assert config["final_logit_softcapping"] == 30.0


def test_every_kind_of_metadata_comes_back(tmp_path):
    keys = {
        "a": True,
        "b": 4_000_000_000,
        "c": 0.5,
        "d": "Zürich ▁",
        "e": ["▁a", "\n", "漢", ""],
        "f": [1.5, -2.0],
        "g": [3, -4],
        "h": [True, False],
    }
    typed = {"i": ("int8", -8), "j": ("uint16", 65535), "k": ("int64", -(2**60)), "l": ("float64", 0.1)}
    metadata = read_metadata(write(tmp_path / "a.gguf", "other", keys | typed, {}))
    wanted = {"general.architecture": "other", **keys, **{key: value for key, (_, value) in typed.items()}}
    assert metadata == wanted
    assert [type(metadata[key]) for key in "abcd"] == [bool, int, float, str]
