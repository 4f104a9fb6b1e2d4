"""The laws of the mesh: one row of the table per parameter, and the same numbers on eight devices as on one."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from instruct_jax.algorithms.decode import SamplingConfig, generate
from instruct_jax.batches import PromptBatch
from instruct_jax.costs import traffic
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.models.variants import variant
from instruct_jax.sharding import (
    RULES,
    batch_sharding,
    check_divides,
    check_tokens,
    make_mesh,
    param_shardings,
    param_spec,
    place,
)
from instruct_jax.stages import states

ROWS, T = 4, 12
TOKENS = np.random.default_rng(0).integers(3, 100, (ROWS, T)).astype(np.int32)
SEGMENTS = np.where(np.arange(T)[None] < np.array([[12], [7], [3], [10]]), 1, 0).astype(np.int32)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(data=2, fsdp=2, tensor=2)


def paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if leaf.ndim]


def test_every_parameter_matches_exactly_one_rule_and_every_rule_is_used(tiny_params, tiny_scalar_params):
    state = {"params": tiny_scalar_params, "opt": optax.adam(1.0).init(tiny_params), "ema": tiny_params}
    found = paths(state)
    hits = {path: [p for p, _ in RULES if re.fullmatch(f"(.*/)?{p}", path)] for path in found}
    assert all(len(rows) == 1 for rows in hits.values()), hits
    assert {rows[0] for rows in hits.values()} == {pattern for pattern, _ in RULES}


def test_a_parameter_without_a_rule_is_refused_by_name(mesh):
    with pytest.raises(InputError, match="'layers/experts/kernel' matches 0 rows"):
        param_shardings({"layers": {"experts": {"kernel": jnp.zeros((2, 2))}}}, mesh)
    assert param_spec("ema/layers/mlp_norm/scale") == PartitionSpec()


def test_the_big_parameters_are_really_split(mesh, tiny_params):
    shardings = param_shardings(tiny_params, mesh)
    for group, name in (("layers", "q"), ("layers", "out"), ("layers", "up"), ("layers", "down")):
        kernel = tiny_params[group][name]["kernel"]
        assert np.prod(shardings[group][name]["kernel"].shard_shape(kernel.shape)) == kernel.size // 4, name
    tokens = tiny_params["embed"]["tokens"]
    assert shardings["embed"]["tokens"].shard_shape(tokens.shape) == (
        tokens.shape[0] // 2,
        tokens.shape[1] // 2,
    )


def test_scalars_and_keys_are_replicated(mesh):
    tree = {"step": jnp.zeros(()), "keys": jax.random.split(jax.random.key(0), 3)}
    assert all(s.spec == PartitionSpec() for s in jax.tree.leaves(param_shardings(tree, mesh)))


def loss(model, params, tokens, segments, scale):
    logprobs, entropy = model.apply({"params": params}, tokens, segments)
    return -(jnp.where(segments[:, 1:] > 0, logprobs, 0.0) * scale).mean(), (logprobs, entropy)


def test_loss_and_gradient_on_eight_devices_equal_those_on_one(mesh, tiny_model, tiny_params):
    scale = np.random.default_rng(1).normal(size=(ROWS, T - 1)).astype(np.float32)

    def step(params, tokens, segments, scale):
        return jax.value_and_grad(lambda p: loss(tiny_model, p, tokens, segments, scale), has_aux=True)(
            params
        )

    (one_loss, one_outputs), one_gradient = jax.jit(step)(tiny_params, TOKENS, SEGMENTS, scale)
    with jax.set_mesh(mesh):
        params = place(tiny_params, param_shardings(tiny_params, mesh))
        batch = place((TOKENS, SEGMENTS, scale), batch_sharding(mesh))
        assert batch[0].sharding.shard_shape(TOKENS.shape) == (1, T)
        (all_loss, all_outputs), all_gradient = jax.jit(step)(params, *batch)
    np.testing.assert_allclose(one_loss, all_loss, rtol=1e-5)
    for one, other in zip(one_outputs, all_outputs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    for path, one in jax.tree_util.tree_leaves_with_path(one_gradient):
        other = all_gradient
        for entry in path:
            other = other[entry.key]
        np.testing.assert_allclose(one, other, atol=2e-5, err_msg=jax.tree_util.keystr(path))


def test_the_vocabulary_is_gathered_once_not_in_every_chunk(mesh, tiny_model, tiny_params):
    from instruct_jax.models.heads import token_logprobs

    hidden, table = jnp.ones((ROWS, 8, 32)), tiny_params["embed"]["tokens"]
    with jax.set_mesh(mesh):
        call = lambda h, t: token_logprobs(h, TOKENS[:, :8], t, 100, 2)[0].sum()  # noqa: E731
        jaxpr = str(jax.make_jaxpr(jax.grad(call, argnums=1))(hidden, table))
    assert jaxpr.count("all_gather[") == 1 and "shard_map" in jaxpr
    inside_scan = jaxpr[jaxpr.index("scan[") :]
    assert "psum" in inside_scan and "all_gather[" not in inside_scan


def test_generation_on_eight_devices_equals_that_on_one(mesh, tiny_model, tiny_params):
    prompts = PromptBatch(TOKENS[:, :6], np.ones((ROWS, 6), bool), np.arange(ROWS, dtype=np.int32))
    call = jax.jit(lambda p, b, key: generate(tiny_model, p, b, key, SamplingConfig(4), 2, 0))
    one = call(tiny_params, prompts, jax.random.key(0))
    with jax.set_mesh(mesh):
        params = place(tiny_params, param_shardings(tiny_params, mesh))
        other = call(params, place(prompts, batch_sharding(mesh)), jax.random.key(0))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("axes, gathers", [(dict(data=8), False), (dict(data=2, fsdp=4), True)])
def test_devices_with_rows_of_their_own_decode_without_a_word_to_each_other(
    axes, gathers, tiny_model, tiny_params
):
    tokens, mesh = np.tile(TOKENS, (2, 1))[:, :6], make_mesh(**axes)
    prompts = PromptBatch(tokens, np.ones((8, 6), bool), np.arange(8, dtype=np.int32))
    with jax.set_mesh(mesh):
        params = place(tiny_params, param_shardings(tiny_params, mesh))
        call = jax.jit(lambda p, b, key: generate(tiny_model, p, b, key, SamplingConfig(4), 2, 0))
        text = call.lower(params, place(prompts, batch_sharding(mesh)), jax.random.key(0)).compile().as_text()
    sent = traffic.read(text).collectives
    assert not [one for one in sent if one.loop]
    assert bool(sent) == gathers  # parameters that lie over fsdp are gathered once


def test_batches_that_do_not_divide_name_the_numbers_and_the_way_out(mesh):
    check_divides(8, mesh)
    with pytest.raises(InputError, match="batch of 6 rows.*2 x 2 = 4 devices: use a batch of 4 or 8"):
        check_divides(6, mesh)
    with pytest.raises(InputError, match="use a batch of 4, or another mesh"):
        check_divides(1, mesh)
    for none in (0, -4):
        with pytest.raises(InputError, match="use a batch of 4,"):
            check_divides(none, mesh)


def test_rows_whose_tokens_do_not_divide_name_the_numbers_and_the_way_out():
    long = make_mesh(fsdp=2, sequence=4)
    check_tokens(8, long)
    with pytest.raises(
        InputError, match="rows of 10 tokens do not divide over mesh.sequence = 4: use 8 or 12"
    ):
        check_tokens(10, long)


@pytest.mark.parametrize("axes", [dict(data=4, fsdp=2), dict(data=2, fsdp=2, sequence=2)])
def test_tokens_are_exchanged_to_be_looked_up_and_never_the_table(axes):
    model, mesh = ScalarModel(variant("tiny", context=512, unroll=False)), make_mesh(**axes)

    def gradient(params, tokens):
        return jax.grad(lambda p: model.apply({"params": p}, tokens, tokens * 0 + 1).sum())(params)

    with jax.set_mesh(mesh):
        params = states.sharded(states.abstract_params(model), mesh)
        tokens = jax.ShapeDtypeStruct((8, 512), np.int32, sharding=batch_sharding(mesh))
        layout = jax.tree.map(lambda x: x.sharding, params)
        text = jax.jit(gradient, out_shardings=layout).lower(params, tokens).compile().as_text()
    table = 128 * 32 * 4
    sent = [one for one in traffic.read(text).collectives if not one.in_layers and one.times == 1]
    assert [one.kind for one in sent if one.kind == "all-to-all"] and not [
        one for one in sent if one.kind == "all-gather" and one.bytes == table
    ]
    # The slice of a device's channels is summed over the copies, not the whole over all devices.
    assert {one.chips for one in sent if one.kind == "all-reduce" and one.bytes > table // 8} == {
        tuple(range(0, 8, 8 // mesh.shape["data"]))
    }


def test_a_sequence_axis_divides_the_memory_of_long_rows():
    model = PolicyModel(variant("tiny", context=512, unroll=False, remat="full"))
    tokens = jax.ShapeDtypeStruct((2, 512), np.int32)

    def step(params, tokens):
        return jax.grad(lambda p: model.apply({"params": p}, tokens, tokens * 0 + 1)[0].sum())(params)

    used = []
    for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh(sequence=4, devices=jax.devices()[:4])):
        with jax.set_mesh(mesh):
            params = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
            compiled = jax.jit(step).lower(params, tokens).compile()
            used.append(compiled.memory_analysis().temp_size_in_bytes)
    assert used[1] < 0.4 * used[0], used


def test_meshes_that_do_not_fit_are_refused(mesh):
    with pytest.raises(InputError, match="3 x 1 x 1 x 1 = 3, but there are 8 devices"):
        make_mesh(data=3)
    with pytest.raises(InputError, match="mesh.tensor is 0"):
        make_mesh(data=8, tensor=0)
    assert make_mesh(fsdp=2, devices=jax.devices()[:2]).shape["fsdp"] == 2
    with pytest.raises(InputError, match="mesh.fsdp x mesh.sequence = 4: choose"):
        param_shardings({"embed": {"tokens": jnp.zeros((4, 6))}}, make_mesh(fsdp=2, tensor=2, sequence=2))
    with pytest.raises(InputError, match="'embed/tokens'.*5 that does not divide over mesh.tensor = 2"):
        param_shardings({"embed": {"tokens": jnp.zeros((5, 4))}}, mesh)


def test_gpu_nodes_that_call_themselves_slices_may_hold_any_axis():
    class Gpu(SimpleNamespace):
        __hash__ = object.__hash__

    there = [Gpu(slice_index=i // 4, platform="gpu", device_kind="H100") for i in range(8)]
    assert make_mesh(fsdp=8, devices=there).devices.ravel().tolist() == there


@pytest.mark.parametrize("data, held", [(1, (4, 4)), (3, (4, 4)), (2, (4, 2))])
def test_of_several_slices_data_must_take_equal_parts(data, held):
    there = [
        SimpleNamespace(slice_index=i, platform="tpu") for i, count in enumerate(held) for _ in range(count)
    ]
    rest = len(there) // data
    with pytest.raises(
        InputError, match=f"mesh.data is {data}, but .* of 2 TPU slices .*: make mesh.data a multiple of 2"
    ):
        make_mesh(data=data, fsdp=rest, devices=there[: data * rest])
