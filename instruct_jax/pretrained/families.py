"""The home of the model families: which switches of the one transformer each throws, and what its parameters are called elsewhere.

A family is an entry of FAMILIES. Names, shapes and config keys are those of Hugging Face transformers, version 4 or 5.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from instruct_jax.errors import InputError
from instruct_jax.models.variants import TransformerConfig
from instruct_jax.pretrained import keys
from instruct_jax.pretrained.layouts import COLUMNS, LINEAR, SAME, SCORE, Layout, interleaved

# Theirs → ours. An export writes the first name that stands for ours.
ACTIVATIONS = {
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu": "gelu", "relu": "relu",
    "silu": "silu", "swish": "silu",
}  # fmt: skip

# Ends of the names of tensors that old checkpoints hold and that are no parameters.
BUFFERS = (
    ".rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
)

VOCABULARIES = ("embed/tokens", "unembed/tokens")  # padded with rows that other tools do not have


@dataclass(frozen=True)
class Tensor:
    """One of their tensors ({n}: its layer) and the paths of the arrays of ours that it holds."""

    name: str
    parts: tuple[str, ...]
    layout: Layout = SAME


@dataclass(frozen=True)
class Family:
    """`switches` are fixed; `fields` maps ours to their config's keys; `read` and `write` turn what needs more than a name.

    `linears` and `norms` name a layer's parts: ours → theirs.
    """

    causal: str
    scalar: str
    switches: dict
    fields: dict[str, str]
    body: str  # what the names of all but the heads begin with
    layer: str
    tokens: str
    norm: str
    linears: dict[str, str]
    norms: dict[str, str]
    positions: str = ""
    head: str = "lm_head.weight"
    linear: Layout = LINEAR
    fused: str = ""  # one tensor of query, key and value
    read: Callable[[dict], dict] = lambda hf: {}
    write: Callable[[TransformerConfig], dict] = lambda config: {}
    refused: dict = field(default_factory=dict)  # their keys that may only have these values


COMMON = {"vocab": "vocab_size", "layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads",
          "context": "max_position_embeddings", "tied": "tie_word_embeddings"}  # fmt: skip
LLAMA_FIELDS = COMMON | {"kv_heads": "num_key_value_heads", "mlp": "intermediate_size", "norm_eps": "rms_norm_eps",
                         "head_dim": "head_dim", "activation": "hidden_act"}  # fmt: skip
GEMMA_FIELDS = {**LLAMA_FIELDS, "activation": "hidden_activation", "attention_softcap": "attn_logit_softcapping",
                "logit_softcap": "final_logit_softcapping"}  # fmt: skip
NO_BIAS = {"qkv_bias": False, "out_bias": False, "mlp_bias": False}
RMS = {"norm": "rms", "positions": "rope", "gated": True}
LLAMA_LINEARS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "out": "self_attn.o_proj",
                 "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}  # fmt: skip
LLAMA_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
QK_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
GEMMA_NORMS = {"attention_norm": "input_layernorm", "attention_post_norm": "post_attention_layernorm",
               "mlp_norm": "pre_feedforward_layernorm", "mlp_post_norm": "post_feedforward_layernorm"}  # fmt: skip
LLAMA_NAMES = dict(
    body="model.", layer="layers.{n}.", tokens="embed_tokens.weight", norm="norm", linears=LLAMA_LINEARS
)
GEMMA_SWITCHES = RMS | NO_BIAS | {"norm_plus_one": True, "post_norms": True, "embed_scale": True}

FAMILIES = {
    "gpt2": Family(
        "GPT2LMHeadModel", "GPT2ForSequenceClassification", switches={},
        fields={"vocab": "vocab_size", "layers": "n_layer", "width": "n_embd", "heads": "n_head", "context": "n_positions",
                "mlp": "n_inner", "norm_eps": "layer_norm_epsilon", "activation": "activation_function", "tied": "tie_word_embeddings"},
        body="transformer.", layer="h.{n}.", tokens="wte.weight", positions="wpe.weight", norm="ln_f", linear=SAME, fused="attn.c_attn",
        linears={"out": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
        norms={"attention_norm": "ln_1", "mlp_norm": "ln_2"},
        read=lambda hf: {} if hf.get("scale_attn_weights", True) else {"attention_scale": 1.0},
        write=lambda config: {} if config.attention_scale is None else {"scale_attn_weights": False},
        refused={"scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,)},
    ),
    "opt": Family(
        "OPTForCausalLM", "OPTForSequenceClassification", switches={"position_offset": 2},
        fields=COMMON | {"mlp": "ffn_dim", "activation": "activation_function"},
        body="model.decoder.", layer="layers.{n}.", tokens="embed_tokens.weight", positions="embed_positions.weight",
        norm="final_layer_norm",
        linears={"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "out": "self_attn.out_proj",
                 "up": "fc1", "down": "fc2"},
        norms={"attention_norm": "self_attn_layer_norm", "mlp_norm": "final_layer_norm"},
        write=lambda config: {"word_embed_proj_dim": config.width},
        refused={"do_layer_norm_before": (True,), "enable_bias": (True,), "layer_norm_elementwise_affine": (True,),
                 "_remove_final_layer_norm": (False,), "word_embed_proj_dim": ("hidden_size",)},
    ),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM", "GPTNeoXForSequenceClassification", switches={"positions": "rope"},
        fields=COMMON | {"mlp": "intermediate_size", "norm_eps": "layer_norm_eps", "activation": "hidden_act",
                         "parallel": "use_parallel_residual"},
        body="gpt_neox.", layer="layers.{n}.", tokens="embed_in.weight", norm="final_layer_norm", head="embed_out.weight",
        fused="attention.query_key_value",
        linears={"out": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
        norms={"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
        read=keys.read_neox,
        write=lambda config: keys.rope_keys(config, partial_rotary_factor=config.rope_share)
        | {"rotary_pct": config.rope_share, "rotary_emb_base": config.rope_theta},
        refused={"attention_bias": (True,)},
    ),
    "llama": Family(
        "LlamaForCausalLM", "LlamaForSequenceClassification", switches=RMS, fields=LLAMA_FIELDS, norms=LLAMA_NORMS, **LLAMA_NAMES,
        read=keys.read_llama,
        write=lambda config: keys.rope_keys(config) | {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias},
    ),
    "mistral": Family(
        "MistralForCausalLM", "MistralForSequenceClassification", switches=RMS | NO_BIAS, fields=LLAMA_FIELDS, norms=LLAMA_NORMS,
        **LLAMA_NAMES, read=keys.rope_and_windows,
        write=lambda config: keys.rope_keys(config) | {"sliding_window": config.window or None},
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM", "Qwen2ForSequenceClassification", switches=RMS | NO_BIAS | {"qkv_bias": True}, fields=LLAMA_FIELDS,
        norms=LLAMA_NORMS, **LLAMA_NAMES, read=keys.rope_and_windows,
        write=lambda config: keys.rope_keys(config) | {"use_sliding_window": bool(config.window)} | keys.windows_write(config),
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM", "Qwen3ForSequenceClassification", switches=RMS | NO_BIAS | {"qk_norm": True}, fields=LLAMA_FIELDS,
        norms=LLAMA_NORMS | QK_NORMS, **LLAMA_NAMES, read=keys.rope_and_windows,
        write=lambda config: keys.rope_keys(config) | {"use_sliding_window": bool(config.window)} | keys.windows_write(config),
        refused={"attention_bias": (False,)},
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM", "Gemma2ForSequenceClassification", switches=GEMMA_SWITCHES, fields=GEMMA_FIELDS, norms=GEMMA_NORMS,
        **LLAMA_NAMES, read=keys.read_gemma, write=keys.write_gemma,
        refused={"attention_bias": (False,), "use_bidirectional_attention": (False, None)},
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", "Gemma3TextForSequenceClassification", switches=GEMMA_SWITCHES | {"qk_norm": True}, fields=GEMMA_FIELDS,
        norms=GEMMA_NORMS | QK_NORMS, **LLAMA_NAMES, read=keys.read_gemma, write=keys.write_gemma,
        refused={"attention_bias": (False,), "use_bidirectional_attention": (False, None)},
    ),
}  # fmt: skip

# What transformers takes where a config.json leaves a key out.
DEFAULTS = {
    "gpt2": {"tie_word_embeddings": True, "n_inner": None, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"},
    "opt": {"tie_word_embeddings": True, "activation_function": "relu"},
    "gpt_neox": {"tie_word_embeddings": False, "layer_norm_eps": 1e-5, "hidden_act": "gelu", "use_parallel_residual": True},
    "llama": {"tie_word_embeddings": False, "num_key_value_heads": None, "head_dim": None, "rms_norm_eps": 1e-6, "hidden_act": "silu"},
    "mistral": {"tie_word_embeddings": False, "num_key_value_heads": 8, "head_dim": None, "rms_norm_eps": 1e-6, "hidden_act": "silu",
                "sliding_window": 4096},
    "qwen2": {"tie_word_embeddings": False, "num_key_value_heads": 32, "head_dim": None, "rms_norm_eps": 1e-6, "hidden_act": "silu",
              "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {"tie_word_embeddings": False, "num_key_value_heads": 32, "head_dim": 128, "rms_norm_eps": 1e-6, "hidden_act": "silu",
              "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28},
    "gemma2": {"tie_word_embeddings": True, "head_dim": 256, "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh",
               "query_pre_attn_scalar": 256, "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {"tie_word_embeddings": True, "head_dim": 256, "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh",
                    "query_pre_attn_scalar": 256, "sliding_window": 4096, "attn_logit_softcapping": None, "final_logit_softcapping": None,
                    "_sliding_window_pattern": 6},
}  # fmt: skip


def family_of(hf: dict, where: Path | str = "config.json") -> str:
    """The name of the family of a config; InputError lists the families."""
    kind = hf.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(f"{where}: model_type {kind!r} is none of {', '.join(FAMILIES)}")
    if hf.get("quantization_config"):
        raise InputError(f"{where}: quantization_config: quantised weights load from GGUF files only")
    return kind


def to_config(hf: dict, where: Path | str = "config.json", **overrides) -> TransformerConfig:
    """The shape of a model from its config.json; `overrides` are fields of ours (context, dtype, dropout, remat, logit_chunk, unroll).

    InputError names a key that is missing, or has a value that would change the computation in a way not supported.
    """
    name = family_of(hf, where)
    family, hf = FAMILIES[name], {**DEFAULTS[name], **hf}
    for key, allowed in family.refused.items():
        allowed = tuple(hf.get(x, x) if isinstance(x, str) else x for x in allowed)
        if key in hf and hf[key] not in allowed:
            raise InputError(
                f"{where}: {key} {hf[key]!r} is not supported for {name}: only {allowed[0]!r} is"
            )
    missing = [key for key in family.fields.values() if key not in hf]
    if missing:
        raise InputError(f"{where}: {missing[0]} is missing")
    found = {ours: hf[theirs] for ours, theirs in family.fields.items()}
    if not isinstance(found["activation"], str) or found["activation"] not in ACTIVATIONS:
        raise InputError(f"{where}: activation {found['activation']!r} is none of {', '.join(ACTIVATIONS)}")
    found["activation"] = ACTIVATIONS[found["activation"]]
    try:
        special = family.read(hf)
        shape = {**family.switches, **found, **special, "family": name}
        if special.get("positions", family.switches.get("positions")) == "rope":
            shape["max_context"] = shape["context"]
        config = TransformerConfig(**shape)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: cannot be read as a {name} model ({error!r})") from error
    if overrides.get("context") and overrides["context"] > config.context:
        raise InputError(
            f"model.context {overrides['context']} is longer than the model's own, {config.context}: lower it"
        )
    return TransformerConfig(**{**shape, **overrides})


def to_hf(config: TransformerConfig) -> dict:
    """The config.json of a model, without what the tokenizer says; reading it back gives the same shape."""
    family = FAMILIES[config.family]
    theirs = {ours: name for name, ours in reversed(ACTIVATIONS.items())}
    values = {key: getattr(config, ours) for ours, key in family.fields.items()}
    values[family.fields["activation"]] = theirs[config.activation]
    if config.positions == "rope":
        values[family.fields["context"]] = config.max_context or config.context
    hf = {"model_type": config.family, **values, **family.write(config)}
    unsaid = {"context", "max_context", "dropout", "dtype", "remat", "logit_chunk", "unroll", "freeze_embed"}
    back = to_config(hf)
    for name in config.__dataclass_fields__:
        if name not in unsaid and getattr(back, name) != getattr(config, name):
            raise InputError(
                f"a model with {name} {getattr(config, name)!r} cannot be written as {config.family}, which has {getattr(back, name)!r}"
            )
    return hf


def tensors(config: TransformerConfig, scalar: bool = False) -> list[Tensor]:
    """All tensors of the checkpoint of a model with a vocabulary head, or, `scalar`, with a score; a layer's once, with {n}."""
    family = FAMILIES[config.family]
    found = [Tensor(family.body + family.tokens, ("embed/tokens",))]
    if family.positions:
        found.append(Tensor(family.body + family.positions, ("embed/positions",)))
    found += _norm(family.body + family.norm, "norm", config)
    layer = family.body + family.layer
    for ours, theirs in family.norms.items():
        found += _norm(layer + theirs, f"layers/{ours}", config)
    if family.fused:
        parts = tuple(f"layers/{x}" for x in "qkv")
        layout = COLUMNS if family.linear is SAME else interleaved(config.heads)
        found += _linear(layer + family.fused, parts, layout, config.qkv_bias)
    biased = {"out": config.out_bias} | dict.fromkeys("qkv", config.qkv_bias)
    for ours, theirs in family.linears.items():
        found += _linear(
            layer + theirs, (f"layers/{ours}",), family.linear, biased.get(ours, config.mlp_bias)
        )
    if scalar:
        found.append(Tensor("score.weight", ("head/kernel",), SCORE))
    elif not config.tied:
        found.append(Tensor(family.head, ("unembed/tokens",)))
    return found


def _norm(theirs: str, ours: str, config: TransformerConfig) -> list[Tensor]:
    found = [Tensor(f"{theirs}.weight", (f"{ours}/scale",))]
    return found + [Tensor(f"{theirs}.bias", (f"{ours}/bias",))] if config.norm == "layer" else found


def _linear(theirs: str, ours: tuple[str, ...], layout: Layout, bias: bool) -> list[Tensor]:
    found = [Tensor(f"{theirs}.weight", tuple(f"{part}/kernel" for part in ours), layout)]
    if bias:
        flat = SAME if len(ours) == 1 else layout
        found.append(Tensor(f"{theirs}.bias", tuple(f"{part}/bias" for part in ours), flat))
    return found
