"""Checkpoints of other tools: ten families against what torch computes from them, exports, and files that lie.

tests/pretrained/make_fixtures.py wrote the fixtures with torch and transformers.
"""

import json
import shutil
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from instruct_jax.algorithms.decode import SamplingConfig, generate
from instruct_jax.batches import PromptBatch
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.models.variants import variant
from instruct_jax.pretrained import export, families, huggingface
from instruct_jax.sharding import make_mesh
from instruct_jax.stages import setup

FIXTURES = Path(__file__).parent / "pretrained" / "fixtures"
FAMILIES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())
REWARDED = [name for name in FAMILIES if "reward_weight_D" in np.load(FIXTURES / name / "expected.npz")]
CLOSE = 1e-4  # of the logits' standard deviation
LLAMA3 = dict(rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)


@pytest.fixture(scope="module")
def one_device():
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def opened(one_device):
    """name → (source, config, params, what torch expects), each read once."""
    found = {}

    def get(name):
        if name not in found:
            source = huggingface.open_source(FIXTURES / name)
            config = families.to_config(source.config)
            found[name] = source, config, huggingface.load(source, config, one_device), expected(name)
        return found[name]

    return get


def expected(name):
    return dict(np.load(FIXTURES / name / "expected.npz"))


def one_batch(told):
    """Plain, left-padded and packed rows as one batch of tokens and segments, and the logits that torch gives each."""
    kinds = {
        "plain": np.ones_like(told["plain_tokens_BT"]),
        "padded": told["padded_mask_BT"],
        "packed": told["packed_segments_BT"],
    }
    width = max(segments.shape[1] for segments in kinds.values())

    def wide(x):
        return np.pad(x, [(0, 0), (0, width - x.shape[1])] + [(0, 0)] * (x.ndim - 2))

    tokens = np.concatenate([wide(told[f"{kind}_tokens_BT"]) for kind in kinds])
    segments = np.concatenate([wide(segments) for segments in kinds.values()])
    logits = np.concatenate([wide(told[f"{kind}_logits_BTV"]) for kind in kinds])
    return tokens.astype(np.int32), segments.astype(np.int32), logits


def test_every_family_has_a_fixture():
    kinds = {json.loads((FIXTURES / name / "config.json").read_text())["model_type"] for name in FAMILIES}
    assert kinds == set(families.FAMILIES)
    assert {"gpt2", "gpt_neox", "gemma3_text"} < set(REWARDED)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_torchs_for_plain_padded_and_packed_rows(name, opened):
    _, config, params, told = opened(name)
    tokens_BT, segments_BT, logits_BTV = one_batch(told)
    apply = jax.jit(lambda p, t, s: PolicyModel(config).apply({"params": p}, t, s, method="logits"))
    found_BTV = np.asarray(apply(params, tokens_BT, segments_BT))[..., : config.vocab]
    apart = np.abs(found_BTV - logits_BTV)[segments_BT > 0] / told["logits_std"]
    assert apart.max() < CLOSE
    if config.window:
        assert tokens_BT.shape[1] > 2 * config.window  # past the window


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_text_is_torchs_token_for_token(name, unroll, opened):
    source, _, params, told = opened(name)
    model = PolicyModel(families.to_config(source.config, unroll=unroll))
    prompts = PromptBatch(
        told["prompt_tokens_BP"].astype(np.int32), told["prompt_mask_BP"] > 0, np.arange(3, dtype=np.int32)
    )
    sampling = SamplingConfig(64, temperature=0.0)
    respond = jax.jit(lambda p, prompts: generate(model, p, prompts, jax.random.key(0), sampling, -1, 0)[0])
    np.testing.assert_array_equal(respond(params, prompts), told["greedy_BR"])


@pytest.mark.parametrize("name", REWARDED)
def test_a_reward_model_of_trl_scores_as_it_does_there(name, opened, one_device, tmp_path):
    source, config, _, told = opened(name)
    as_trl_saves_it(FIXTURES / name, tmp_path / "rm", told["reward_weight_D"])
    params = setup.open_model(tmp_path / "rm").load(one_device)
    np.testing.assert_allclose(scores(config, params, told), told["reward_scores_B"], atol=CLOSE)


def as_trl_saves_it(fixture, folder, weight_D):
    folder.mkdir()
    shutil.copy(fixture / "config.json", folder)
    tensors = load_file(fixture / "model.safetensors")
    head = families.FAMILIES[json.loads((fixture / "config.json").read_text())["model_type"]].head
    tensors.pop(head, None)
    save_file({**tensors, "score.weight": weight_D[None]}, folder / "model.safetensors")


def scores(config, params, told):
    mask_BT = told["reward_mask_BT"].astype(np.int32)
    apply = jax.jit(lambda p, t, s: ScalarModel(config).apply({"params": p}, t, s))
    values_BT = np.asarray(apply(params, told["reward_tokens_BT"].astype(np.int32), mask_BT))
    last_B = mask_BT.shape[1] - 1 - np.argmax(mask_BT[:, ::-1], axis=1)
    return values_BT[np.arange(len(values_BT)), last_B]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_export_holds_the_same_bits_under_the_same_names(name, opened, tmp_path):
    source, config, params, _ = opened(name)
    export.export_policy(params, config, tmp_path / "out", dtype="bfloat16")
    again = huggingface.open_source(tmp_path / "out")
    assert again.shapes == source.shapes
    assert families.to_config(again.config) == config
    for tensor in source.shapes:
        before, after = source.read(tensor, slice(None)), again.read(tensor, slice(None))
        assert before.dtype == after.dtype and before.tobytes() == after.tobytes(), tensor


def test_a_large_export_is_dealt_into_shards_that_load_again(opened, one_device, tmp_path):
    _, config, params, _ = opened("llama")
    export.export_policy(params, config, tmp_path / "out", shard_bytes=30_000)
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert max((tmp_path / "out" / shard).stat().st_size for shard in shards) < 35_000
    again = huggingface.load(huggingface.open_source(tmp_path / "out"), config, one_device)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_reward_model_keeps_its_scores_through_export(opened, one_device, tmp_path):
    for name in ("gpt2", "llama"):  # the bias goes into LayerNorm's, or beside the model
        _, config, _, told = opened(name)
        as_trl_saves_it(FIXTURES / name, tmp_path / name, told["reward_weight_D"])
        params = setup.open_model(tmp_path / name).load(one_device)
        biased = {**params, "head": {**params["head"], "bias": jnp.float32(0.75)}}
        export.export_reward(biased, config, tmp_path / f"{name}_out")
        hf = json.loads((tmp_path / f"{name}_out" / "config.json").read_text())
        assert hf["num_labels"] == 1 and hf["architectures"] == [families.FAMILIES[name].scalar]
        again = setup.open_model(tmp_path / f"{name}_out").load(one_device)
        np.testing.assert_allclose(scores(config, again, told), told["reward_scores_B"] + 0.75, atol=CLOSE)
        # transformers has no bias there: LayerNorm holds it, RMSNorm cannot.
        assert (
            float(again["head"]["bias"])
            == hf.get("reward_bias", 0.0)
            == (0.75 if config.norm == "rms" else 0)
        )


def test_our_own_models_export_as_gpt2(tiny_params, one_device, tmp_path):
    config = variant("tiny")
    export.export_policy(tiny_params, config, tmp_path / "out")
    again = setup.open_model(tmp_path / "out", unroll=True)
    assert again.config == config
    jax.tree.map(np.testing.assert_array_equal, again.load(one_device), tiny_params)


def test_an_export_never_overwrites_and_leaves_nothing_half_written(opened, tmp_path):
    _, config, params, _ = opened("gpt2")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists"):
        export.export_policy(params, config, tmp_path / "there")
    with pytest.raises(InputError, match="int8"):
        export.export_policy(params, config, tmp_path / "new", dtype="int8")

    large = {**params, "norm": {**params["norm"], "bias": params["norm"]["bias"] + 1e5}}
    with pytest.raises(InputError, match=r"transformer.ln_f.bias has values over 65504.*bfloat16"):
        export.export_policy(large, config, tmp_path / "new", dtype="float16")

    def broken(folder):
        raise InputError("no tokenizer")

    with pytest.raises(InputError, match="no tokenizer"):
        export.export_policy(params, config, tmp_path / "new", write_tokenizer=broken)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma3_text"])
def test_slices_read_for_a_mesh_are_those_of_the_whole(name, opened):
    source, config, params, _ = opened(name)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    spread = huggingface.load(source, config, mesh)
    jax.tree.map(np.testing.assert_array_equal, spread, params)
    tokens = spread["embed"]["tokens"]
    assert tokens.addressable_shards[0].data.shape == (tokens.shape[0] // 2, tokens.shape[1] // 2)


def test_only_the_rows_that_a_device_holds_are_read(opened):
    source, config, _, _ = opened("llama")
    read = []

    def counting(name, rows):
        found = source.read(name, rows)
        read.append((name, len(found)))
        return found

    counted = type(source)(source.path, source.config, source.shapes, counting)
    mesh = make_mesh(tensor=2, devices=jax.devices()[:2])
    huggingface.load(counted, config, mesh)
    gate = "model.layers.0.mlp.gate_proj.weight"
    assert [rows for name, rows in read if name == gate] == [source.shapes[gate][0] // 2] * 2


def test_a_model_saved_without_its_head_loads_all_the_same(opened, one_device, tmp_path):
    _, config, params, _ = opened("gpt2")
    shutil.copy(FIXTURES / "gpt2" / "config.json", tmp_path)
    tensors = load_file(FIXTURES / "gpt2" / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    buffers = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.uint8)}  # the published GPT-2 has these
    save_file(bare | buffers, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, setup.open_model(tmp_path).load(one_device), params)


def test_a_shorter_context_keeps_the_first_positions(opened, one_device):
    source, config, params, _ = opened("opt")
    short = families.to_config(source.config, context=16)
    positions = huggingface.load(source, short, one_device)["embed"]["positions"]
    np.testing.assert_array_equal(positions, params["embed"]["positions"][: 16 + 2])
    with pytest.raises(InputError, match="longer than the model's own"):
        families.to_config(source.config, context=10_000)


@pytest.fixture
def copied(tmp_path):
    """A copy of the Llama fixture to break: (folder, its config, a function that writes the config)."""
    folder = tmp_path / "llama"
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(FIXTURES / "llama" / file, folder)
    hf = json.loads((folder / "config.json").read_text())
    return folder, hf, lambda **changes: (folder / "config.json").write_text(json.dumps({**hf, **changes}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is none of gpt2, opt"),
        ({"model_type": "qwen2"}, "q_proj.bias is missing"),
        ({"intermediate_size": 64}, r"mlp.gate_proj.weight has shape \(48, 32\), config.json makes it \(64, 32\)"),
        ({"num_hidden_layers": 3}, "layers.2.input_layernorm.weight is missing"),
        ({"num_hidden_layers": 1}, "no place for tensor model.layers.1"),
        ({"hidden_act": "quick_gelu"}, "activation 'quick_gelu' is none of"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type 'yarn' is not supported"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "cannot be read as a llama model"),
        ({"quantization_config": {"bits": 4}}, "quantised weights load from GGUF files only"),
        ({"num_attention_heads": "two"}, "config.json: model.heads is 'two'"),
        ({"num_key_value_heads": 3}, "kv_heads"),
        ({"model_type": ["llama"]}, "is none of gpt2"),
        ({"hidden_act": ["silu"]}, "is none of gelu_new"),
        ({"tie_word_embeddings": "false"}, "model.tied is 'false': use true or false"),
        ({"attention_bias": "no"}, "model.qkv_bias is 'no': use true or false"),
        ({"rms_norm_eps": "1e-5"}, "model.norm_eps is '1e-5': it must be a number above 0"),
        ({"head_dim": 128.0}, "model.head_dim is 128.0: it must be a whole number"),
        ({"rope_parameters": {"rope_theta": float("nan")}}, "model.rope_theta is nan"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 0}}, "factor 0"),
        ({"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 0}}, "original_max_position_embeddings is 0"),
        ({"rope_parameters": {**LLAMA3, "original_max_position_embeddings": float("inf")}}, "cannot be read as a llama model"),
        ({"model_type": "gpt_neox", "attention_bias": True, "rope_parameters": [1]}, "cannot be read as a gpt_neox model"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_refused_by_name(changes, message, copied, one_device):
    folder, _, write = copied
    write(**changes)
    with pytest.raises(InputError, match=message):
        setup.open_model(folder).load(one_device)


def test_published_names_that_lack_the_first_part_are_found(opened, one_device, tmp_path):
    _, config, params, _ = opened("opt")
    shutil.copy(FIXTURES / "opt" / "config.json", tmp_path)
    tensors = load_file(FIXTURES / "opt" / "model.safetensors")
    save_file(
        {name.removeprefix("model."): tensor for name, tensor in tensors.items()},
        tmp_path / "model.safetensors",
    )
    jax.tree.map(np.testing.assert_array_equal, setup.open_model(tmp_path).load(one_device), params)


def test_a_missing_key_is_named(copied):
    folder, hf, _ = copied
    del hf["hidden_size"]
    (folder / "config.json").write_text(json.dumps(hf))
    with pytest.raises(InputError, match="hidden_size is missing"):
        setup.open_model(folder)


def test_truncated_and_lying_files_are_refused_by_name(copied):
    folder, _, _ = copied
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    lies = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}
    header = json.dumps(lies).encode()
    for content in (b"", whole[:100], whole[:-8], struct.pack("<Q", 1 << 60) + b"{}",
                    struct.pack("<Q", len(header)) + header + b"1234"):  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(InputError, match="model.safetensors cannot be read as safetensors"):
            huggingface.open_source(folder)
    tensors = {"model.norm.weight": np.ones((4,), np.int64)}
    save_file(tensors, file)
    with pytest.raises(InputError, match="model.norm.weight is of type I64"):
        huggingface.open_source(folder)


def test_pickled_weights_are_refused_and_nothing_of_them_runs(copied):
    folder, _, _ = copied
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(InputError, match="pytorch_model.bin is pickled"):
        huggingface.open_source(folder)
    assert not (folder / "ran").exists() and not Path("ran").exists()


def test_an_index_cannot_name_files_elsewhere_or_tensors_that_are_not_there(copied):
    folder, _, _ = copied
    index = folder / "model.safetensors.index.json"
    for placed, message in (
        ({"a": "../other.safetensors"}, "no file name"),
        ({"a": "missing.safetensors"}, "missing.safetensors cannot be read"),
        ({"no.such.tensor": "model.safetensors"}, "no.such.tensor is missing, which the index says"),
        ({}, "weight_map is missing"),
    ):
        index.write_text(json.dumps({"weight_map": placed}))
        with pytest.raises(InputError, match=message):
            huggingface.open_source(folder)


def test_folders_without_a_model_say_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="config.json is missing"):
        huggingface.open_source(tmp_path)
    for text, message in (("[]", "no JSON object"), ("{", "cannot be read as JSON")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            huggingface.open_source(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="model.safetensors is missing"):
        huggingface.open_source(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "model.safetensors")  # a download that stopped half-way
    with pytest.raises(InputError, match="config.json is missing: name a folder"):
        setup.open_model(tmp_path)
    with pytest.raises(InputError, match="a Hugging Face folder or a .gguf file"):
        setup.open_model(tmp_path / "model.safetensors")


def test_the_stored_dtype_is_the_fixtures(opened):
    for name in FAMILIES:
        with safe_open(FIXTURES / name / "model.safetensors", "numpy") as file:
            assert {file.get_slice(tensor).get_dtype() for tensor in file.keys()} == {"BF16"}, name
