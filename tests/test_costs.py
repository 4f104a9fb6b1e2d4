"""What a program costs: products counted by hand, a stored text in the TPU compiler's form, collectives of fresh compilations."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from instruct_jax.costs import flops, hlo, traffic
from instruct_jax.costs.roofline import link_seconds, phase
from instruct_jax.costs.traffic import Collective
from instruct_jax.devices import CHIPS
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.models.variants import variant
from instruct_jax.sharding import make_mesh
from instruct_jax.stages import states
from instruct_jax.stages.ahead import work

TEXT = (Path(__file__).parent / "compiled_step.hlo").read_text()


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


def counted(function, *arguments):
    return flops.count(jax.make_jaxpr(function)(*arguments))


def test_a_product_costs_two_operations_for_each_multiply_add_whatever_its_shape():
    assert counted(jnp.matmul, shape(3, 4), shape(4, 5)) == (0, 2 * 3 * 4 * 5)
    batched = counted(lambda a, b: jnp.einsum("bhtc,bhsc->bhts", a, b), shape(2, 3, 5, 7), shape(2, 3, 11, 7))
    assert batched.rest == 2 * (2 * 3) * 5 * 11 * 7
    assert (
        counted(lambda a, b: jnp.einsum("btd,btf->df", a, b), shape(2, 3, 5), shape(2, 3, 7)).rest
        == 2 * 6 * 5 * 7
    )
    assert counted(lambda a: jnp.exp(a).sum(), shape(8, 8)).total == 0


def scanned(x, w, checkpoint=False):
    def body(x, _):
        return jnp.tanh(x @ w), None

    return lax.scan(jax.checkpoint(body) if checkpoint else body, x, None, length=5)[0].sum()


def test_a_scan_counts_every_turn_and_a_backward_pass_what_it_computes_again():
    x, w, once = shape(3, 4), shape(4, 4), 2 * 3 * 4 * 4
    assert counted(scanned, x, w).rest == 5 * once
    gradient = jax.grad(scanned, argnums=(0, 1))
    assert counted(gradient, x, w).rest == 3 * 5 * once
    again = jax.grad(lambda x, w: scanned(x, w, checkpoint=True), argnums=(0, 1))
    assert counted(again, x, w).rest == 4 * 5 * once
    nested = lambda x, w: lax.scan(lambda c, _: (c + scanned(x, w), None), 0.0, None, length=7)[0]  # noqa: E731
    assert counted(nested, x, w).rest == 7 * 5 * once


@pytest.mark.parametrize("first, turns", [(0, 9), (1, 8)])
def test_a_loop_that_may_end_early_counts_to_its_limit_and_apart_from_the_rest(first, turns):
    def loop(x, w):
        x = jnp.where(x.max() > -jnp.inf + jnp.nan, x, jnp.inf)  # constants that are no counters
        start = jnp.zeros((), jnp.int32) + first, x @ w
        return lax.while_loop(lambda s: (s[0] < 9) & (s[1].sum() < 1), lambda s: (s[0] + 1, s[1] @ w), start)

    once = 2 * 3 * 4 * 4
    assert counted(loop, shape(3, 4), shape(4, 4)) == (turns * once, once)


def test_a_scope_counts_what_is_under_its_name_with_its_gradients_wherever_it_is():
    def loss(x, w):
        plain = scanned(x, w)
        with jax.named_scope("ptx"):
            named = scanned(x, w)
        return plain + 2 * named

    x, w, once = shape(3, 4), shape(4, 4), 2 * 3 * 4 * 4
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    repeated = lambda x, w: lax.scan(lambda c, _: (gradient(x, w), None), (x, w), None, length=7)[0]  # noqa: E731
    counted = jax.make_jaxpr(repeated)(x, w)
    assert flops.count(counted).rest == 7 * 2 * 3 * 5 * once
    assert flops.count(counted, "ptx").rest == 7 * 3 * 5 * once


def test_the_programs_of_a_host_function_are_told_by_name():
    double, square = jax.jit(lambda x: x @ x), jax.jit(lambda x: x @ x @ x)
    double.__wrapped__.__name__, square.__wrapped__.__name__ = "double", "square"

    def host(x):
        return double(x) + square(x)

    found = flops.programs(jax.make_jaxpr(host)(shape(4, 4)))
    assert {name: flops.count(jaxpr).rest for name, jaxpr in found.items()} == {"double": 128, "square": 256}


def test_a_choice_costs_its_dearest_branch():
    def choice(x, w):
        return lax.cond(x.sum() > 0, lambda: x @ w, lambda: x @ w @ w)

    assert counted(choice, shape(3, 4), shape(4, 4)).rest == 2 * (2 * 3 * 4 * 4)


def test_what_one_device_does_of_a_mapped_product_is_done_by_all():
    mesh = make_mesh(fsdp=4, tensor=2)
    rows, columns = PartitionSpec("fsdp"), PartitionSpec(None, "tensor")
    product = jax.shard_map(
        jnp.matmul, mesh=mesh, in_specs=(rows, columns), out_specs=PartitionSpec("fsdp", "tensor")
    )
    assert counted(product, shape(8, 4), shape(4, 6)).rest == 2 * 8 * 4 * 6


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_models_products_are_the_formulas_with_whole_attention(remat):
    config = variant("tiny", unroll=False, remat=remat)
    model, rows, length = ScalarModel(config), 3, 16
    params, tokens = states.abstract_params(model), shape(rows, length, dtype="int32")

    def total(params, tokens):
        return model.apply({"params": params}, tokens, jnp.ones_like(tokens)).sum()

    D, F = config.width, config.mlp
    weights, half = 2 * (4 * D * D + 2 * D * F), 2.0 * config.layers * D * length * rows * length
    forward = 2.0 * weights * rows * length + half
    assert work.forward(config, rows, length) == forward
    assert counted(total, params, tokens).rest == forward + half
    # Computed again with remat: all but a layer's last product, which no gradient reads.
    again = forward + half - config.layers * 2.0 * D * F * rows * length if remat == "full" else 0
    assert counted(jax.grad(total), params, tokens).rest == 3 * (forward + half) + again


def test_the_vocabulary_head_counts_for_the_tokens_it_predicts():
    config = variant("tiny", unroll=False)
    model, tokens = PolicyModel(config), shape(3, 16, dtype="int32")
    half = 2.0 * config.layers * config.width * 16 * 3 * 16
    found = counted(
        lambda params, tokens: model.apply({"params": params}, tokens, jnp.ones_like(tokens), start=6),
        states.abstract_params(model),
        tokens,
    )
    assert found.rest == work.forward(config, 3, 16, predicted=10) + half


def by_kind(found):
    return {(one.kind, one.loop): one for one in found.collectives}


def test_collectives_of_a_stored_text_are_those_worked_out_by_hand():
    found = traffic.read(TEXT)
    assert len(found.collectives) == 6  # the gathering that three fusions name is one
    seen = by_kind(found)
    gather = seen["all-gather", False]
    assert (gather.bytes, gather.times, gather.chips, gather.overlapped) == (
        64 * 8 * 2,
        1,
        (0, 2, 4, 6),
        True,
    )
    assert gather.wire_bytes == 1024 * 3 / 4
    permutes = [one for one in found.collectives if one.kind == "collective-permute"]
    assert [(one.bytes, one.times, one.overlapped) for one in permutes] == [(2 * 8 * 2, 4, True)] * 2
    assert {one.chips for one in permutes} == {(0, 2), (0, 6)}
    scatter = seen["reduce-scatter", False]
    assert (scatter.bytes, scatter.chips, scatter.overlapped) == (4 * 8 * 4, (0, 2, 4, 6), False)
    assert scatter.wire_bytes == 128 * 3
    reduce, asked = seen["all-reduce", False], seen["all-reduce", True]
    assert (reduce.bytes, reduce.times, reduce.chips, reduce.wire_bytes) == (32, 1, (0, 1), 32)
    assert (asked.bytes, asked.times) == (
        1,
        6,
    )  # from 3, one more each turn, while it and one are less than 10


@pytest.mark.parametrize(
    "written, chips",
    [
        ("{{0,4},{1,5}}", (0, 4)),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("[4,2]<=[2,2,2]T(0,2,1)", (0, 2)),
        ("mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("mesh['a'=1,'b'=2,'c'=4], device_ids=([4,2]T(1,0)) {'b'}", (0, 1)),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", (0, 2, 4, 6)),
    ],
)
def test_a_group_of_chips_is_read_in_every_form_it_is_written_in(written, chips):
    text = f"ENTRY %main (p: f32[8]) -> f32[8] {{\n  ROOT %a = f32[8]{{0}} all-reduce(%p), replica_groups={written}, to_apply=%add\n}}"
    (found,) = traffic.read(text).collectives
    assert found.chips == chips and found.wire_bytes == 2 * 32 * (len(chips) - 1) / len(chips)


def test_collectives_of_a_layer_are_told_from_those_around_it():
    assert not any(one.in_layers for one in traffic.read(TEXT).collectives)
    inside = [one.kind for one in traffic.read(TEXT, frozenset({4})).collectives if one.in_layers]
    assert inside == ["collective-permute"] * 2


def test_turns_of_a_stored_texts_loops():
    module = hlo.parse(TEXT)
    main = module.computations[module.entry]
    assert hlo.turns(module, main, main.instructions["while.1"]) == (4, False)
    assert hlo.turns(module, main, main.instructions["while.2"]) == (6, True)


def test_memory_traffic_is_of_slices_not_of_stacks_and_not_of_fast_memory():
    found = traffic.read(TEXT)
    layer, block, counter = 16 * 8 * 4, 2 * 8 * 2, 4
    turn = (
        (layer + counter + layer) + 2 * 2 * block + 2 * counter
    )  # a slice copied, two blocks exchanged, the counter moved
    test = 2 * counter + 1
    gathered = 16 * 8 * 2 + 64 * 8 * 2
    last = 4 * 8 * 4 + (4 * 8 * 4 + 8 * 4)  # scattered; read and reduced
    assert found.rest_bytes == 4 * (turn + test) + gathered + last
    assert hlo.array_bytes("(f32[16,8]{1,0:T(8,128)S(1)}, bf16[4]{0}, u32[]{:S(2)})", hbm_only=True) == [
        0,
        8,
        0,
    ]


def test_collectives_of_a_fresh_compilation_are_counted_with_their_turns():
    mesh = make_mesh(fsdp=4, tensor=2)

    def local(x):
        def turn(x, _):
            return lax.psum(x, "tensor") / 2, None

        x, _ = lax.scan(turn, x, None, length=5)
        whole = lax.all_gather(x, "fsdp", tiled=True)
        return lax.psum_scatter(whole * whole, "fsdp", tiled=True)

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=PartitionSpec("fsdp"), out_specs=PartitionSpec("fsdp"), check_vma=False
    )
    text = jax.jit(mapped).lower(shape(32, 16)).compile().as_text()
    found = {one.kind: (one.bytes, one.times, one.chips) for one in traffic.read(text).collectives}
    assert found["all-reduce"] == (8 * 16 * 4, 5, (0, 1))
    assert found["all-gather"] == (32 * 16 * 4, 1, (0, 2, 4, 6))
    assert found["reduce-scatter"] == (8 * 16 * 4, 1, (0, 2, 4, 6))


@pytest.mark.parametrize("branches", [("small", "large"), ("large", "small")])
def test_of_a_conditional_the_branch_with_the_most_bytes_counts(branches):
    text = f"""
%small (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0)
  ROOT %s = f32[8]{{0}} all-reduce(%a), replica_groups={{{{0,1}}}}, to_apply=%add
}}

%large (b: f32[8]) -> f32[8] {{
  %b = f32[8]{{0}} parameter(0)
  %wide = f32[64]{{0}} all-gather(%b), replica_groups={{{{0,1}}}}, dimensions={{0}}
  ROOT %first = f32[8]{{0}} slice(%wide), slice={{[0:8]}}
}}

ENTRY %main (i: s32[], p: f32[8]) -> f32[8] {{
  %i = s32[] parameter(0)
  %p = f32[8]{{0}} parameter(1)
  ROOT %c = f32[8]{{0}} conditional(%i, %p, %p), branch_computations={{%{branches[0]}, %{branches[1]}}}
}}
"""
    found = traffic.read(text)
    assert [(one.kind, one.bytes) for one in found.collectives] == [("all-gather", 64 * 4)]
    assert found.rest_bytes == (8 + 64) * 4 + (8 + 8) * 4


def test_time_is_the_slowest_of_three_and_collectives_that_nothing_hides_on_top():
    chip = CHIPS["v5e"]
    places = [(x, y, 0) for x in range(4) for y in range(2)]
    ring = Collective("all-gather", 8e9, 1, (0, 2, 4, 6), True, False)  # along x alone: 6 GB over two links
    square = Collective("all-gather", 8e9, 1, tuple(range(8)), False, False)  # 7 GB over four
    assert link_seconds(ring, places, chip) == pytest.approx(6e9 / 90e9)
    assert link_seconds(square, places, chip) == pytest.approx(7e9 / 180e9)
    found = phase(197e12, 0.819e12 / 2, [ring, square], places, chip)
    assert (found.compute, found.memory, found.bound) == (1.0, 0.5, "compute")
    assert found.seconds == pytest.approx(1 + 7e9 / 180e9)
    assert phase(0, 0.819e12, [ring], places, chip).bound == "memory"
