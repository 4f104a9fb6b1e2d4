"""What config.json files mean: the keys of transformers 4 and 5, defaults, windows and positions, and files that lie.

The published files are abridged to what the shape hangs on.
"""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from instruct_jax.errors import InputError
from instruct_jax.models import rope
from instruct_jax.pretrained import families

FIXTURES = Path(__file__).parent / "pretrained" / "fixtures"

MISTRAL_7B = dict(
    model_type="mistral", vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, max_position_embeddings=32768, hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=4096,
    tie_word_embeddings=False,
)  # fmt: skip
QWEN2_HALF = dict(
    model_type="qwen2", vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
    num_key_value_heads=2, max_position_embeddings=32768, hidden_act="silu", rms_norm_eps=1e-6, rope_theta=1000000.0,
    sliding_window=32768, max_window_layers=21, use_sliding_window=False, tie_word_embeddings=True,
)  # fmt: skip
GEMMA2_2B = dict(
    model_type="gemma2", vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
    num_key_value_heads=4, head_dim=256, max_position_embeddings=8192, hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6,
    rope_theta=10000.0, query_pre_attn_scalar=256, sliding_window=4096, attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
)  # fmt: skip
GEMMA3_270M = dict(
    model_type="gemma3_text", vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
    num_key_value_heads=1, head_dim=256, max_position_embeddings=32768, hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6,
    rope_theta=1000000.0, rope_local_base_freq=10000.0, rope_scaling=None, query_pre_attn_scalar=256, sliding_window=512,
    sliding_window_pattern=6,
)  # fmt: skip
PYTHIA_160M = dict(
    model_type="gpt_neox", vocab_size=50304, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
    max_position_embeddings=2048, rotary_pct=0.25, rotary_emb_base=10000, hidden_act="gelu", use_parallel_residual=True,
    tie_word_embeddings=False,
)  # fmt: skip
GPT2 = dict(model_type="gpt2", vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12)
LLAMA_7B = dict(
    model_type="llama", vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    max_position_embeddings=2048,
)  # fmt: skip


def config_of(name):
    return json.loads((FIXTURES / name / "config.json").read_text())


def without(hf, *keys):
    return {key: value for key, value in hf.items() if key not in keys}


@pytest.mark.parametrize(
    "hf, expected",
    [
        (MISTRAL_7B, dict(window=4096, windowed=(), kv_heads=8, rope_theta=1e4, norm_eps=1e-5, tied=False)),
        (MISTRAL_7B | {"sliding_window": None}, dict(window=0)),
        (without(MISTRAL_7B, "sliding_window", "rms_norm_eps"), dict(window=4096, norm_eps=1e-6)),
        (QWEN2_HALF, dict(window=0, windowed=(), qkv_bias=True, out_bias=False, tied=True, rope_theta=1e6)),
        (QWEN2_HALF | {"use_sliding_window": True}, dict(window=32768, windowed=(False,) * 21 + (True,) * 3)),
        (QWEN2_HALF | {"model_type": "qwen3", "head_dim": 128}, dict(qk_norm=True, head_dim=128, qkv_bias=False)),
        (GEMMA2_2B, dict(window=4096, windowed=(True, False) * 13, attention_softcap=50.0, logit_softcap=30.0, attention_scale=1 / 16)),
        (GEMMA3_270M, dict(window=512, windowed=((True,) * 5 + (False,)) * 3, rope_theta=1e6, rope_local_theta=1e4, logit_softcap=None)),
        (PYTHIA_160M, dict(rope_share=0.25, parallel=True, norm_eps=1e-5, tied=False, activation="gelu")),
        (without(PYTHIA_160M, "rotary_pct"), dict(rope_share=0.25)),
        (GPT2, dict(mlp=3072, norm_eps=1e-5, activation="gelu_tanh", tied=True)),
        (LLAMA_7B, dict(kv_heads=32, head_dim=128, norm_eps=1e-6, rope_theta=1e4, activation="silu", tied=False, qkv_bias=False)),
    ],
)  # fmt: skip
def test_a_published_config_means_what_transformers_makes_of_it(hf, expected):
    config = families.to_config(hf)
    assert {name: getattr(config, name) for name in expected} == expected
    assert families.to_config(families.to_hf(config)) == config


def test_an_export_keeps_the_keys_of_transformers_4_and_the_checkpoints_own_context():
    theirs = config_of("llama")
    hf = families.to_hf(families.to_config(theirs, context=16))
    assert hf["max_position_embeddings"] == theirs["max_position_embeddings"]
    assert (hf["rope_theta"], hf["rope_scaling"]["rope_type"]) == (1e4, "llama3")
    old = {key: value for key, value in hf.items() if key != "rope_parameters"}
    assert families.to_config(old) == families.to_config(hf)
    gemma = families.to_hf(families.to_config(config_of("gemma3_text")))
    assert (gemma["rope_theta"], gemma["rope_local_base_freq"]) == (1e6, 1e4)
    assert gemma["hidden_activation"] == "gelu_pytorch_tanh"


def test_mistrals_window_is_every_layers_and_unknown_layer_types_are_refused():
    mistral = {
        **config_of("mistral"),
        "layer_types": ["full_attention"] * 2,
        "use_sliding_window": False,
    }
    config = families.to_config(mistral)
    assert (config.window, config.windowed) == (8, ())
    gemma = {**config_of("gemma2"), "layer_types": ["sliding", "full_attention"]}
    with pytest.raises(InputError, match="layer_types has 'sliding'"):
        families.to_config(gemma)


def test_linear_scaling_turns_heads_as_at_positions_that_many_times_smaller():
    scaled = {"rope_parameters": None, "rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4.0}}
    config = families.to_config({**config_of("gemma3_text"), **scaled})
    assert (config.rope_theta, config.rope_local_theta) == (1e6, 1e4)
    stretched = rope.angles(np.array([[0, 4, 12]]), config.rope_theta, config, config.rope_scaling)
    whole = rope.angles(np.array([[0, 1, 3]]), config.rope_theta, config, None)
    np.testing.assert_allclose(np.array(stretched), np.array(whole), atol=1e-6)


def test_a_config_that_lies_about_its_layers_is_refused_at_no_cost():
    gemma = {**config_of("gemma2"), "num_hidden_layers": 3_000_000, "layer_types": None}
    tracemalloc.start()
    with pytest.raises(InputError, match="model.layers is 3000000: it is at most"):
        families.to_config(gemma)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_switches_that_change_the_computation_are_refused():
    hf = config_of("opt")
    with pytest.raises(InputError, match="do_layer_norm_before False is not supported for opt: only True"):
        families.to_config({**hf, "do_layer_norm_before": False})
    with pytest.raises(InputError, match="word_embed_proj_dim 16 is not supported for opt: only 32"):
        families.to_config({**hf, "word_embed_proj_dim": 16})
