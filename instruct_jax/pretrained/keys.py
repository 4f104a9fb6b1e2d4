"""The home of the config keys that need more than another name: positions, windows, Gemma's query scale."""

from instruct_jax.errors import InputError
from instruct_jax.models.variants import LARGEST, RopeScaling, TransformerConfig


def rope_read(hf: dict) -> dict:
    """Ours from a config's rope keys, of version 4 or 5."""
    found = hf.get("rope_parameters") or {}
    if "full_attention" in found:
        return rope(found["full_attention"]) | {
            "rope_local_theta": float(found["sliding_attention"]["rope_theta"])
        }
    old = hf.get("rope_scaling") or {}
    return rope({"rope_theta": hf.get("rope_theta", 10_000.0), **old, **found})


def rope(found: dict) -> dict:
    """Ours from one set of rope parameters; InputError for a kind that there is no switch for."""
    if not isinstance(found, dict):
        raise InputError(f"rope_parameters has {found!r:.80} where an object belongs")
    kind = found.get("rope_type", found.get("type", "default"))
    theta = {"rope_theta": float(found["rope_theta"])}
    if kind == "default":
        return theta
    if kind == "linear":
        return theta | {"rope_scaling": RopeScaling(float(found["factor"]))}
    if kind == "llama3":
        original = int(found["original_max_position_embeddings"])
        if original < 1:
            raise InputError(f"original_max_position_embeddings is {original}: it must be at least 1")
        return theta | {
            "rope_scaling": RopeScaling(
                float(found["factor"]), float(found["low_freq_factor"]), float(found["high_freq_factor"]), original
            )
        }  # fmt: skip
    raise InputError(f"rope_type {kind!r} is not supported: there are 'default', 'linear' and 'llama3'")


def rope_keys(config: TransformerConfig, **more) -> dict:
    """What transformers 5 reads (`more` with it), and the keys of version 4."""
    found = rope_write(config)
    scaling = {key: value for key, value in found.items() if key != "rope_theta"}
    return {
        "rope_parameters": found | more, "rope_theta": config.rope_theta,
        "rope_scaling": scaling if config.rope_scaling else None,
    }  # fmt: skip


def rope_write(config: TransformerConfig) -> dict:
    """Rope parameters as version 5 has them."""
    theta, scaling = {"rope_theta": config.rope_theta}, config.rope_scaling
    if scaling is None:
        return theta | {"rope_type": "default"}
    if not scaling.original_context:
        return theta | {"rope_type": "linear", "factor": scaling.factor}
    return theta | {
        "rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low, "high_freq_factor": scaling.high,
        "original_max_position_embeddings": scaling.original_context,
    }  # fmt: skip


def windows_read(hf: dict) -> dict:
    """Ours from what a config says of windows; Mistral's is every layer's, whatever layer_types says."""
    window, layers = hf.get("sliding_window") or 0, hf["num_hidden_layers"]
    kind = hf["model_type"]
    if isinstance(layers, int) and layers > LARGEST["layers"]:
        return {}  # TransformerConfig refuses it; no list is made that long
    if not window or (kind.startswith("qwen") and not hf["use_sliding_window"]):
        return {}
    if kind == "mistral":
        return {"window": window}
    kinds = hf.get("layer_types")
    pattern = hf.get("sliding_window_pattern", hf.get("_sliding_window_pattern", 2))
    if kinds is None and kind.startswith("gemma"):
        kinds = ["full_attention" if (n + 1) % pattern == 0 else "sliding_attention" for n in range(layers)]
    if kinds is None:
        kinds = [
            "sliding_attention" if n >= hf["max_window_layers"] else "full_attention" for n in range(layers)
        ]
    unknown = sorted(set(kinds) - {"sliding_attention", "full_attention"})
    if unknown:
        raise InputError(
            f"layer_types has {unknown[0]!r}: only sliding_attention and full_attention are known"
        )
    windowed = tuple(kind == "sliding_attention" for kind in kinds)
    if all(windowed):
        return {"window": window}
    return {"window": window, "windowed": windowed} if any(windowed) else {}


def windows_write(config: TransformerConfig) -> dict:
    """The window and which layers have it."""
    local = config.windowed or (bool(config.window),) * config.layers
    return {
        "sliding_window": config.window or None,
        "layer_types": ["sliding_attention" if x else "full_attention" for x in local],
    }


def read_gemma(hf: dict) -> dict:
    """Gemma 2's and 3's positions, windows and query scale."""
    found = rope_read(hf) | windows_read(hf)
    if hf["model_type"] == "gemma3_text" and "rope_local_theta" not in found:
        found["rope_local_theta"] = float(hf.get("rope_local_base_freq", 10_000.0))
        found["rope_theta"] = float(hf.get("rope_theta", 1_000_000.0))
    return found | {"attention_scale": float(hf["query_pre_attn_scalar"]) ** -0.5}


def write_gemma(config: TransformerConfig) -> dict:
    """The same, the way back."""
    rope = rope_keys(config)
    if config.family == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": config.rope_local_theta}
        rope["rope_parameters"] = {"full_attention": rope["rope_parameters"], "sliding_attention": local}
        rope["rope_local_base_freq"] = config.rope_local_theta
    scalar = config.attention_scale**-2
    scalar = round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar
    found = rope | {"query_pre_attn_scalar": scalar} | windows_write(config)
    return found | ({"hidden_activation": "gelu_pytorch_tanh"} if config.activation == "gelu_tanh" else {})


def read_neox(hf: dict) -> dict:
    """GPT-NeoX's positions."""
    found = hf.get("rope_parameters") or {}
    share = found.get("partial_rotary_factor", hf.get("rotary_pct", 0.25))
    theta = found.get("rope_theta", hf.get("rotary_emb_base", 10_000.0))
    return rope({**(hf.get("rope_scaling") or {}), **found, "rope_theta": theta}) | {"rope_share": share}


def read_llama(hf: dict) -> dict:
    """Llama's positions and biases."""
    attention = hf.get("attention_bias", False)
    return rope_read(hf) | {
        "qkv_bias": attention,
        "out_bias": attention,
        "mlp_bias": hf.get("mlp_bias", False),
    }


def rope_and_windows(hf: dict) -> dict:
    """Positions and windows."""
    return rope_read(hf) | windows_read(hf)
