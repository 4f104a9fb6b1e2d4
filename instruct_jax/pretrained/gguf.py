"""The home of GGUF: llama.cpp's single-file checkpoints, opened as what Hugging Face would hold.

gguf_header.py reads the header, the `gguf` package turns quantised blocks into numbers. GGUF stores llama's q and k rows with
the two halves of each head interleaved and Gemma's norm weights with 1 added; both are undone.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

from instruct_jax.errors import InputError
from instruct_jax.pretrained.gguf_header import MEND, StoredTensor, read_header, read_metadata, show
from instruct_jax.pretrained.source import Source

__all__ = ["open_source", "read_metadata"]

_CHUNK = 1 << 16  # values dequantised at once: the package is fastest within the processor's cache

# GGUF name within a layer → Hugging Face name within a layer, and the sizes of its axes (`_sizes`).
_LAYER = {
    "attn_norm": ("input_layernorm", "D"),
    "attn_q": ("self_attn.q_proj", "QD"),
    "attn_k": ("self_attn.k_proj", "KD"),
    "attn_v": ("self_attn.v_proj", "KD"),
    "attn_output": ("self_attn.o_proj", "DQ"),
    "ffn_gate": ("mlp.gate_proj", "FD"),
    "ffn_up": ("mlp.up_proj", "FD"),
    "ffn_down": ("mlp.down_proj", "DF"),
}
_LAYERS = {
    "llama": {**_LAYER, "ffn_norm": ("post_attention_layernorm", "D")},
    "gemma3": {
        **_LAYER,
        "attn_q_norm": ("self_attn.q_norm", "C"),
        "attn_k_norm": ("self_attn.k_norm", "C"),
        "post_attention_norm": ("post_attention_layernorm", "D"),
        "ffn_norm": ("pre_feedforward_layernorm", "D"),
        "post_ffw_norm": ("post_feedforward_layernorm", "D"),
    },
}


def open_source(path: str | os.PathLike) -> Source:
    """The checkpoint in a GGUF file of architecture llama or gemma3; `read` gives float32 and takes row ranges of step 1.

    InputError names the file and the key or tensor that is missing, surplus, damaged or of a kind not read here.
    """
    path = Path(path)
    metadata, stored = read_header(path)
    arch = metadata.get("general.architecture")
    if arch not in tuple(_LAYERS):  # whatever type the file gave it
        raise InputError(f"{path}: general.architecture is {show(arch)}; llama and gemma3 are read from GGUF")
    keys = _Keys(path, metadata, arch)
    sizes = _sizes(keys)
    tied = "output.weight" not in stored
    tensors, heads = {}, {}
    for name, gguf_name, axes in _expected(arch, keys.whole("block_count"), tied):
        shape = tuple(sizes[axis] for axis in axes)
        tensor = stored.pop(gguf_name, None)
        if tensor is None:
            raise InputError(f"{path}: tensor {gguf_name} is missing; of a split GGUF, merge the parts first")
        if tensor.shape != shape:
            raise InputError(
                f"{path}: tensor {gguf_name} has shape {tensor.shape}, but the metadata says {shape}: {MEND}"
            )
        tensors[name] = tensor
        if arch == "llama" and axes in ("QD", "KD") and "attn_v" not in gguf_name:
            heads[name] = sizes["C"]
    if stored:
        raise InputError(
            f"{path}: tensor {show(min(stored))} has no place in a plain {arch} model; biases, experts and RoPE factors "
            "are not read from GGUF: use the model's safetensors"
        )

    def read(name: str, rows: slice) -> np.ndarray:
        if name in heads:
            return _read_interleaved(path, name, tensors[name], rows, heads[name])
        values = _read_rows(path, name, tensors[name], rows)
        if arch == "gemma3" and name.endswith("norm.weight"):
            values -= 1
        return values

    config = (_llama_config if arch == "llama" else _gemma3_config)(keys, sizes, tied)
    return Source(path, config, {name: tensor.shape for name, tensor in tensors.items()}, read)


# What the metadata says of the model.


@dataclass(frozen=True)
class _Keys:
    """Checked access to `<arch>.<key>`; a key without default must be there."""

    path: Path
    metadata: dict
    arch: str

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.metadata.get(f"{self.arch}.{key}", default)
        if type(value) is not int or value < 1:
            self.fail(key, value, "a whole number above 0")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.metadata.get(f"{self.arch}.{key}", default)
        if type(value) is not float or not 0 < value < math.inf:
            self.fail(key, value, "a number above 0")
        return value

    def token(self, key: str, vocab: int) -> int | None:
        value = self.metadata.get(f"tokenizer.ggml.{key}")
        if value is not None and (type(value) is not int or not 0 <= value < vocab):
            raise InputError(
                f"{self.path}: tokenizer.ggml.{key} is {show(value)}, no id below {vocab}: {MEND}"
            )
        return value

    def fail(self, key: str, value, needed: str):
        said = "is missing" if value is None else f"is {show(value)}"
        raise InputError(f"{self.path}: metadata {self.arch}.{key} {said}; needed is {needed}")


def _sizes(keys: _Keys) -> dict[str, int]:
    """D width, Q and K rows of all query and KV heads, C channels of one head, F MLP width, V vocabulary, H and G heads."""
    width, heads = keys.whole("embedding_length"), keys.whole("attention.head_count")
    groups = keys.whole("attention.head_count_kv", heads)
    # Older llama files say the head size as that of RoPE alone; RoPE over a part of the head is refused below.
    channels = keys.whole("attention.key_length", keys.whole("rope.dimension_count", max(width // heads, 1)))
    for key in ("rope.dimension_count", "attention.value_length"):
        if keys.whole(key, channels) != channels:
            keys.fail(key, keys.whole(key), f"the head size, {channels}")
    if channels % 2 or heads % groups:
        keys.fail(
            "attention.head_count", heads, f"a multiple of {groups} KV heads of even size, not {channels}"
        )
    tokens = keys.metadata.get("tokenizer.ggml.tokens")
    return {
        "D": width,
        "Q": heads * channels,
        "K": groups * channels,
        "C": channels,
        "F": keys.whole("feed_forward_length"),
        "V": keys.whole("vocab_size", len(tokens) if isinstance(tokens, list) else None),
        "H": heads,
        "G": groups,
    }


def _expected(arch: str, layers: int, tied: bool):
    """(Hugging Face name, GGUF name, axes) of every tensor, one by one: `layers` is the file's word."""
    yield "model.embed_tokens.weight", "token_embd.weight", "VD"
    yield "model.norm.weight", "output_norm.weight", "D"
    if not tied:
        yield "lm_head.weight", "output.weight", "VD"
    for layer in range(layers):
        for gguf_name, (name, axes) in _LAYERS[arch].items():
            yield f"model.layers.{layer}.{name}.weight", f"blk.{layer}.{gguf_name}.weight", axes


def _shared_config(keys: _Keys, sizes: dict[str, int], tied: bool) -> dict:
    return {
        "vocab_size": sizes["V"],
        "hidden_size": sizes["D"],
        "intermediate_size": sizes["F"],
        "num_hidden_layers": keys.whole("block_count"),
        "num_attention_heads": sizes["H"],
        "num_key_value_heads": sizes["G"],
        "head_dim": sizes["C"],
        "max_position_embeddings": keys.whole("context_length"),
        "rms_norm_eps": keys.real("attention.layer_norm_rms_epsilon"),
        "rope_scaling": _rope_scaling(keys),
        "attention_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": keys.token("bos_token_id", sizes["V"]),
        "eos_token_id": keys.token("eos_token_id", sizes["V"]),
        "pad_token_id": keys.token("padding_token_id", sizes["V"]),
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def _rope_scaling(keys: _Keys) -> dict | None:
    kind = keys.metadata.get(f"{keys.arch}.rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        keys.fail("rope.scaling.type", kind, "none or linear; for others use the model's safetensors")
    return {"rope_type": kind, "factor": keys.real("rope.scaling.factor")} if kind == "linear" else None


def _llama_config(keys: _Keys, sizes: dict[str, int], tied: bool) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **_shared_config(keys, sizes, tied),
        "hidden_act": "silu",
        "mlp_bias": False,
        "rope_theta": keys.real("rope.freq_base", 10_000.0),
    }


def _gemma3_config(keys: _Keys, sizes: dict[str, int], tied: bool) -> dict:
    cap = keys.metadata.get("gemma3.final_logit_softcapping")
    layers, period = keys.whole("block_count"), keys.whole("attention.sliding_window_pattern", 6)
    # GGUF records no query scale. As llama.cpp: the head size, but width / heads in the 27B, the one with 62 layers.
    scale = sizes["D"] // sizes["H"] if layers == 62 else sizes["C"]
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        **_shared_config(keys, sizes, tied),
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scale,
        "sliding_window": keys.whole("attention.sliding_window"),
        "layer_types": [
            "sliding_attention" if n % period else "full_attention" for n in range(1, layers + 1)
        ],
        "rope_theta": keys.real("rope.freq_base", 1_000_000.0),
        "rope_local_base_freq": keys.real("rope.freq_base_swa", 10_000.0),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None if cap is None else keys.real("final_logit_softcapping"),
    }


# Tensors.


def _read_rows(path: Path, name: str, tensor: StoredTensor, rows: slice) -> np.ndarray:
    """Rows of the first axis, float32 [rows, ...]; of a vector, its elements."""
    start, stop, step = rows.indices(tensor.shape[0])
    if step != 1:
        raise ValueError(f"{name}: rows {rows} have a step")
    if len(tensor.shape) == 1:
        return _dequantised(path, name, tensor, 0, tensor.nbytes)[start:stop].copy()
    stop = max(start, stop)
    row_bytes = tensor.nbytes // tensor.shape[0]
    values = _dequantised(path, name, tensor, start * row_bytes, (stop - start) * row_bytes)
    return values.reshape(stop - start, *tensor.shape[1:])


def _read_interleaved(path: Path, name: str, tensor: StoredTensor, rows: slice, channels: int) -> np.ndarray:
    """`_read_rows` of a llama's q or k: row 2i + j of a head in the file is row j · channels/2 + i."""
    start, stop, step = rows.indices(tensor.shape[0])
    first, last = start // channels, -(-max(start, stop) // channels)
    whole = _read_rows(path, name, tensor, slice(first * channels, last * channels, step))
    pairs = whole.reshape(last - first, channels // 2, 2, tensor.shape[1])
    return pairs.swapaxes(1, 2).reshape(whole.shape)[
        start - first * channels : max(start, stop) - first * channels
    ]


def _dequantised(path: Path, name: str, tensor: StoredTensor, offset: int, nbytes: int) -> np.ndarray:
    """The values of a byte range of whole blocks of a tensor, float32 [values]."""
    per_block, block_bytes = GGML_QUANT_SIZES[tensor.kind]
    values = np.empty(nbytes // block_bytes * per_block, np.float32)
    try:
        with path.open("rb") as file:
            file.seek(tensor.offset + offset)
            for at in range(0, values.size, _CHUNK):
                part = values[at : at + _CHUNK]
                blocks = np.fromfile(file, np.uint8, part.size // per_block * block_bytes)
                part[:] = dequantize(blocks[None], tensor.kind)[0]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: tensor {name} cannot be read; has the file changed since it was opened?"
        ) from error
    return values
