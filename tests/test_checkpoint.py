import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from instruct_jax.errors import InputError
from instruct_jax.training.checkpoint import Checkpoints, load_params, read_meta
from instruct_jax.training.state import TrainState


def make_state(scale=1.0, ema=True):
    params = {
        "embed": {"tokens": scale * jax.random.normal(jax.random.key(1), (16, 8))},
        "bias": jnp.full(8, scale),
    }
    opt_state = (
        {"mu": params["bias"] * 2, "count": jnp.int32(4)},
        (),
        jnp.bfloat16(0.1),
        jnp.array([True, False]),
    )
    average = jax.tree.map(lambda x: x + 1, params) if ema else None
    return TrainState(jnp.int32(7), params, opt_state, average)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture
def run(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(7, make_state(), {"stage": "sft", "config": {"seed": 1}}, wait=True)
    yield tmp_path
    checkpoints.close()


@pytest.mark.parametrize("ema", [True, False])
def test_a_restored_state_is_equal_in_every_bit_and_type(tmp_path, ema):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, make_state(ema=ema), {})
    abstract = jax.eval_shape(lambda: make_state(ema=ema))
    assert_same_bits(checkpoints.restore(abstract), make_state(ema=ema))
    checkpoints.close()


def test_a_state_that_lies_in_host_memory_goes_back_there_and_to_devices(tmp_path):
    mesh = jax.make_mesh((len(jax.devices()),), ("fsdp",), axis_types=(AxisType.Auto,))
    device = NamedSharding(mesh, PartitionSpec("fsdp"))
    host = device.with_memory_kind("pinned_host")
    state = {"mu": jax.device_put(jnp.arange(16.0), host), "params": jax.device_put(jnp.ones(8), device)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {}, wait=True)
    for sharding in (host, device):
        layout = {"mu": sharding, "params": device}
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, layout
        )
        restored = checkpoints.restore(abstract)
        assert {name: x.sharding for name, x in restored.items()} == layout
        assert_same_bits(restored, state)
    checkpoints.close()


def test_a_key_survives(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"key": jax.random.key(5)}, {}, wait=True)
    restored = checkpoints.restore({"key": jax.random.key(0)})
    assert jnp.array_equal(jax.random.key_data(restored["key"]), jax.random.key_data(jax.random.key(5)))
    checkpoints.close()


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = {"w": jnp.arange(4_000_000, dtype=jnp.float32)}
    expected = np.array(state["w"])
    checkpoints.save(1, state, {})
    overwrite = jax.jit(lambda s: {"w": s["w"] * 0 - 1}, donate_argnums=0)
    state = jax.block_until_ready(overwrite(state))
    np.testing.assert_array_equal(checkpoints.restore(state)["w"], expected)
    checkpoints.close()


def test_only_the_latest_are_kept_and_an_unfinished_write_is_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    for step in (1, 2, 3):
        checkpoints.save(step, {"params": {"w": jnp.full(2, float(step))}}, {})
    assert checkpoints.latest() == 3
    checkpoints.close()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["2", "3"]
    (tmp_path / "3").rename(tmp_path / "3.orbax-checkpoint-tmp")
    assert float(load_params(tmp_path, {"w": jnp.zeros(2)})["w"][0]) == 2.0


def test_meta_goes_with_the_state_and_gains_step_and_versions(run):
    meta = read_meta(run)
    assert (meta["stage"], meta["step"], meta["config"]) == ("sft", 7, {"seed": 1})
    assert meta["versions"]["jax"] == jax.__version__
    assert read_meta(run / "checkpoints", step=7) == meta


def test_params_load_alone_onto_any_mesh_and_dtype(run):
    mesh = jax.make_mesh((len(jax.devices()),), ("fsdp",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    shapes = jax.eval_shape(lambda: make_state().params)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    params = load_params(run, abstract)
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(params))
    assert_same_bits(params, make_state().params)
    assert_same_bits(load_params(run, shapes, name="ema"), make_state().ema)
    half = load_params(run, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), shapes))
    assert half["bias"].dtype == jnp.bfloat16
    assert_same_bits(load_params(run, make_state().opt_state, name="opt_state"), make_state().opt_state)


def test_loading_params_reads_none_of_the_other_arrays(run, monkeypatch):
    plain, asked = ocp.PyTreeCheckpointHandler.restore, []

    def restore(handler, where, args):
        asked.extend(args.item)
        found = plain(handler, where, args=args)
        assert found.keys() == args.item.keys()
        return found

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", restore)
    assert_same_bits(load_params(run, make_state().params), make_state().params)
    assert sorted(asked) == ["params/bias", "params/embed/tokens"]


def test_what_is_missing_says_what_was_looked_for_and_where(run, tmp_path):
    params = make_state().params
    with pytest.raises(InputError, match="no checkpoint in .*nowhere"):
        load_params(tmp_path / "nowhere", params)
    with pytest.raises(InputError, match="no checkpoint of step 9 .* it holds 7"):
        load_params(run, params, step=9)
    with pytest.raises(InputError, match="looked for 'policy/params' in .*7"):
        load_params(run, params, name="policy/params")
    with pytest.raises(InputError, match="looked for 'params/head' in .*7"):
        load_params(run, {**params, "head": jnp.zeros(2)})
    with pytest.raises(InputError, match="'params/bias' has shape \\(8,\\).*\\(9,\\) is wanted"):
        load_params(run, {**params, "bias": jnp.zeros(9)})
    with pytest.raises(InputError, match="holds 'params/bias', for which"):
        load_params(run, {"embed": params["embed"]})
    with pytest.raises(InputError, match="no checkpoint in .*nowhere"):
        read_meta(tmp_path / "nowhere")


def test_a_state_of_another_kind_is_not_restored(run):
    checkpoints = Checkpoints(run / "checkpoints")
    with pytest.raises(InputError, match="holds 'ema/bias'"):
        checkpoints.restore(make_state(ema=False))
    with pytest.raises(InputError, match="'params/bias' is float32 .* float16 is wanted"):
        state = make_state()
        checkpoints.restore(
            TrainState(state.step, {**state.params, "bias": jnp.zeros(8, jnp.float16)}, (), None)
        )
    checkpoints.close()
