"""Tiny GGUF files, written by the gguf package in the layouts of llama.cpp's converter."""

import re

import numpy as np
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFEndian, GGUFWriter, get_tensor_name_map
from gguf.quants import quantize

F32, F16, Q8_0, Q4_1 = (GGMLQuantizationType[name] for name in ("F32", "F16", "Q8_0", "Q4_1"))

LLAMA_KEYS = {
    "llama.block_count": 2,
    "llama.context_length": 128,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.rope.freq_base": 50_000.0,
    "llama.rope.dimension_count": 8,
    "llama.attention.layer_norm_rms_epsilon": 0.0078125,
    "llama.vocab_size": 40,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}
GEMMA_KEYS = {
    "gemma3.block_count": 7,
    "gemma3.context_length": 128,
    "gemma3.embedding_length": 32,
    "gemma3.feed_forward_length": 64,
    "gemma3.attention.head_count": 2,
    "gemma3.attention.head_count_kv": 1,
    "gemma3.attention.key_length": 16,
    "gemma3.attention.value_length": 16,
    "gemma3.attention.sliding_window": 24,
    "gemma3.attention.layer_norm_rms_epsilon": 0.0078125,
    "tokenizer.ggml.tokens": [f"piece{number}" for number in range(40)],
    "tokenizer.ggml.padding_token_id": 0,
}
SIZES = {
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (64, 32),
    "mlp.up_proj": (64, 32),
    "mlp.down_proj": (32, 64),
}


def make(shape, seed):
    """Multiples of 1/64, so that adding 1 and taking it away is exact."""
    return np.random.default_rng(seed).integers(-64, 64, shape).astype(np.float32) / 64


def checkpoint(layers, kv_rows, norms):
    """{Hugging Face name: weights} of a tiny model."""
    layer_shapes = {
        **SIZES,
        "self_attn.q_proj": (32, 32),
        "self_attn.k_proj": (kv_rows, 32),
        "self_attn.v_proj": (kv_rows, 32),
        **norms,
    }
    shapes = {"model.embed_tokens": (40, 32), "model.norm": (32,)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in layer_shapes.items()}
    return {f"{name}.weight": make(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}


LLAMA = checkpoint(2, 16, {"input_layernorm": (32,), "post_attention_layernorm": (32,)})
GEMMA_NORMS = ("input", "post_attention", "pre_feedforward", "post_feedforward")
GEMMA = checkpoint(
    7,
    16,
    {f"{name}_layernorm": (32,) for name in GEMMA_NORMS} | {f"self_attn.{x}_norm": (16,) for x in "qk"},
)


def as_llama_cpp_stores(arch, tensors):
    """{GGUF name: weights}; the names are the gguf package's, the layouts those of llama.cpp's converter."""
    names = get_tensor_name_map(MODEL_ARCH[arch.upper()], 7)
    stored = {}
    for name, weights in tensors.items():
        if arch == "llama" and re.search("[qk]_proj", name):
            heads = weights.shape[0] // 8
            weights = weights.reshape(heads, 2, 4, 32).swapaxes(1, 2).reshape(weights.shape)
        if arch == "gemma3" and "norm" in name:
            weights = weights + 1
        stored[names.get_name(name, (".weight",))] = weights
    return stored


def write(path, arch, keys, stored, kind=F32, endian=GGUFEndian.LITTLE):
    """A GGUF file; a key may give (type, value) where Python's type does not tell, and vectors stay float32, as in real files."""
    writer = GGUFWriter(path, arch, endianess=endian)
    usual = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    for key, value in keys.items():
        kind_name, value = value if type(value) is tuple else (usual[type(value)], value)
        getattr(writer, f"add_{kind_name}")(key, value)
    for name, weights in stored.items():
        weights_kind = F32 if weights.ndim == 1 else kind
        writer.add_tensor(name, quantize(weights, weights_kind), raw_dtype=weights_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_llama(path, kind=F32, keys=None, **stored):
    """The tiny llama, some of its keys and stored tensors replaced, those given as None left out."""
    keys = LLAMA_KEYS | (keys or {})
    stored = as_llama_cpp_stores("llama", LLAMA) | stored
    present = [{key: value for key, value in part.items() if value is not None} for part in (keys, stored)]
    return write(path, "llama", *present, kind)
