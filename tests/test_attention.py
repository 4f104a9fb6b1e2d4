"""The laws of every attention kernel: what a token reads, and that all kernels are the plain one."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from instruct_jax.errors import InputError
from instruct_jax.models.attention import choice, cudnn, splash, xla
from instruct_jax.models.cache import init_cache
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.models.variants import variant
from instruct_jax.sharding import AXES, batch_sharding, make_mesh, param_shardings, place

B, H, G, T, C = 2, 4, 2, 40, 16
# Left padding, two segments (the second's number is the smaller), right padding; and one segment alone.
SEGMENTS = np.array([[0] * 5 + [3] * 11 + [1] * 18 + [0] * 6, [2] * T], np.int32)


def plain(q, k, v, segments, *, scale, softcap=None, window=0):
    mask = xla.causal_mask(segments)
    if window:
        length = segments.shape[1]
        mask &= xla.near_mask(jnp.arange(length), length, window)
    return xla.attend(q, k, v, mask, scale=scale, softcap=softcap)


# cuDNN itself needs a GPU: here its arguments are read by JAX's own implementation of the same call.
KERNELS = {
    "xla": plain,
    "splash": partial(splash.attend, interpret=True),
    "cudnn": partial(cudnn.attend, implementation="xla"),
}
CASES = {"causal": {}, "window": dict(window=7), "softcap": dict(softcap=2.0), "both": dict(window=3, softcap=2.0)}  # fmt: skip


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    shapes = (B, H, T, C), (B, G, T, C), (B, G, T, C), (B, H, T, C)
    return [np.float32(rng.normal(size=shape)) for shape in shapes]


def outputs_and_gradients(kernel, case, q, k, v, weights):
    """What the kernel returns at real tokens, and the gradients of their weighted sum."""
    real = jnp.asarray(SEGMENTS > 0)[:, None, :, None]

    def loss(q, k, v, weights):
        out = jnp.where(real, KERNELS[kernel](q, k, v, jnp.asarray(SEGMENTS), scale=0.3, **CASES[case]), 0.0)
        return (out * weights).sum(), out

    call = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, out), gradients = call(q, k, v, weights)
    return np.asarray(out), [np.asarray(gradient) for gradient in gradients]


@pytest.mark.parametrize("kernel,case", [("splash", case) for case in CASES] + [("cudnn", "causal"), ("cudnn", "window")])  # fmt: skip
def test_every_kernel_is_the_plain_one_forwards_and_backwards(kernel, case):
    expected, expected_gradients = outputs_and_gradients("xla", case, *arrays())
    found, gradients = outputs_and_gradients(kernel, case, *arrays())
    np.testing.assert_allclose(found, expected, atol=2e-5)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=5e-5)


def test_splash_over_several_blocks_is_the_plain_one_forwards_and_backwards():
    """600 tokens are five blocks of 128: segments and the window end inside blocks, and whole blocks are skipped."""
    rng = np.random.default_rng(3)
    q, k, v, weights = (np.float32(rng.normal(size=(1, 1, 600, C))) for _ in range(4))
    segments = np.repeat(np.int32([[0, 2, 1, 0]]), [37, 290, 250, 23], axis=1)

    def outputs_and_gradients(attend):
        def loss(q, k, v):
            out = attend(q, k, v, jnp.asarray(segments), scale=0.3, window=200)
            out = jnp.where(segments[:, None, :, None] > 0, out, 0.0)
            return (out * weights).sum(), out

        (_, out), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
        return out, *gradients

    found, expected = outputs_and_gradients(KERNELS["splash"]), outputs_and_gradients(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", ["causal", "window"])
def test_packed_rows_never_leak_across_segments_forwards_or_backwards(kernel, case):
    q, k, v, weights = arrays()
    of_one = (SEGMENTS == 1)[:, None, :, None]
    out, gradients = outputs_and_gradients(kernel, case, q, k, v, weights * of_one)
    others = [np.where(of_one, x, 100 * y) for x, y in zip((q, k, v), arrays(1))]
    changed, _ = outputs_and_gradients(kernel, case, *others, weights)
    np.testing.assert_array_equal(np.where(of_one, out, 0.0), np.where(of_one, changed, 0.0))
    for gradient in gradients:
        assert (np.where(of_one, 0.0, gradient) == 0).all() and (gradient != 0).any()


@pytest.mark.parametrize("case", ["causal", "both"])
def test_long_rows_in_parts_are_the_row_at_once(case, monkeypatch):
    expected = outputs_and_gradients("xla", case, *arrays())
    monkeypatch.setattr(xla, "MOST_QUERIES", 26)  # four parts, the last of which is not full
    assert "scan[" in str(jax.make_jaxpr(partial(plain, scale=1.0))(*arrays()[:3], SEGMENTS))
    found = outputs_and_gradients("xla", case, *arrays())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(fsdp=2, tensor=2, sequence=2)


def test_kernels_on_eight_devices_repeat_key_heads_that_are_too_few(mesh):
    q, k, v, _ = (np.repeat(x, 2, axis=0) for x in arrays())
    segments = np.repeat(SEGMENTS, 2, axis=0)
    expected = plain(q, k, v, segments, scale=0.3)
    with jax.set_mesh(mesh):
        cut = choice._over_mesh(partial(cudnn.attend, scale=0.3, implementation="xla"))
        found = jax.jit(cut)(*place((q, k, v, segments), batch_sharding(mesh)))
    real = (segments > 0)[:, None, :, None]
    np.testing.assert_allclose(np.where(real, found, 0), np.where(real, expected, 0), atol=1e-5)


# One layer with a window and one without: inside the scan a branch decides.
SHAPE = dict(
    vocab=100, heads=4, kv_heads=2, window=5, windowed=(True, False), attention_softcap=3.0, positions="rope", unroll=False
)  # fmt: skip
ROWS = np.tile(SEGMENTS, (2, 1))
TOKENS = np.random.default_rng(2).integers(3, 100, ROWS.shape).astype(np.int32)


def model_and_params(attention):
    model = PolicyModel(variant("tiny", **SHAPE, attention=attention))
    params = model.init(jax.random.key(0), TOKENS[:1, :2], ROWS[:1, :2])["params"]
    return model, jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)


def test_a_model_with_splash_on_eight_devices_is_the_plain_one_on_one(mesh):
    def step(model, params, tokens, segments):
        def loss(params):
            logprobs, _ = model.apply({"params": params}, tokens, segments)
            real = (segments[:, 1:] > 0) & (segments[:, 1:] == segments[:, :-1])
            return jnp.where(real, logprobs, 0.0).sum(), jnp.where(real, logprobs, 0.0)

        return jax.value_and_grad(loss, has_aux=True)(params)

    model, params = model_and_params("xla")
    (_, expected), expected_gradient = jax.jit(partial(step, model))(params, TOKENS, ROWS)
    model = PolicyModel(dataclasses.replace(model.config, attention="splash"))
    with jax.set_mesh(mesh):
        placed = place(params, param_shardings(params, mesh))
        call = jax.jit(partial(step, model))
        batch = place((TOKENS, ROWS), batch_sharding(mesh))
        assert choice.choose(model.config, *TOKENS.shape) == "splash"
        (_, found), gradient = call(placed, *batch)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-4), gradient, expected_gradient)


def test_a_prompt_prefilled_by_splash_leaves_the_plain_ones_cache_and_logits(mesh):
    found = []
    for attention in ("xla", "splash"):
        model, params = model_and_params(attention)
        mask = np.arange(T)[None] >= np.array([0, 7, 20, 39])[:, None]

        def prefill(params, model=model, mask=mask):
            cache = init_cache(model.config, 4, T + 1)
            return model.apply({"params": params}, TOKENS, mask, cache, method="prefill")

        with jax.set_mesh(mesh):
            logits, cache = jax.jit(prefill)(place(params, param_shardings(params, mesh)))
        seen = mask[None, :, None, :, None]
        found.append((logits, np.where(seen, cache.keys[:, :, :, :T], 0), cache.mask_BS))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), *found)


def on(platform, kind, *sizes):
    device = AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    return jax.sharding.use_abstract_mesh(AbstractMesh(sizes or (1, 1, 1, 1), AXES, abstract_device=device))


def test_the_kernel_follows_the_meshs_platform_and_what_the_kernel_can_do():
    half = variant("gpt3_1p3b")
    soft = variant("gpt3_1p3b", attention_softcap=30.0)
    assert choice.choose(half, 8, 64) == "xla"  # no mesh, whatever this process's own devices are
    with on("tpu", "TPU v5 lite", 2, 2, 1, 1):
        assert choice.choose(half, 8, 64) == choice.choose(soft, 8, 63) == "splash"
        assert choice.choose(half, 6, 64) == "xla"  # rows that do not divide
        assert choice.choose(variant("gpt3_1p3b", attention="xla"), 8, 64) == "xla"
    with on("gpu", "NVIDIA H100 80GB HBM3"):
        assert choice.choose(half, 8, 64) == "cudnn"
        assert choice.choose(soft, 8, 64) == choice.choose(half, 8, 63) == "xla"
        assert choice.choose(variant("gpt3_1p3b", dtype="float32"), 8, 64) == "xla"
    with on("gpu", "AMD Instinct MI300X"):
        assert choice.choose(half, 8, 64) == "xla"
    with on("cpu", "cpu"):
        assert choice.choose(half, 8, 64) == "xla"


@pytest.mark.parametrize(
    "given,where,complaint",
    [
        (dict(attention="splash"), None, "model.attention is 'splash', but there is no mesh"),
        (dict(attention="splash"), ("gpu", "NVIDIA H100"), "devices are of gpu, and splash runs on TPUs: use 'auto' or 'xla'"),
        (dict(attention="cudnn"), ("cpu", "cpu"), "the mesh's devices are cpu, and cuDNN runs on NVIDIA's GPUs"),
        (dict(attention="cudnn", attention_softcap=5.0), ("gpu", "NVIDIA H100"), "model.attention_softcap is 5.0"),
        (dict(attention="cudnn", dtype="float32"), ("gpu", "NVIDIA H100"), "model.dtype is float32"),
        (dict(attention="cudnn", head_dim=256), ("gpu", "NVIDIA H100"), "model.head_dim is 256"),
        (dict(attention="splash"), ("tpu", "TPU v4", 4, 2, 1, 1), "6 rows do not divide over the mesh"),
        (dict(attention="splash"), ("tpu", "TPU v4", 1, 2, 4, 8), "model.heads 16 do not divide over mesh.tensor x mesh.sequence 32"),
        (dict(attention="flash"), None, "model.attention is 'flash': use 'auto' or 'xla' or 'splash' or 'cudnn'"),
    ],
)  # fmt: skip
def test_a_kernel_that_was_asked_for_and_cannot_is_refused(given, where, complaint):
    with pytest.raises(InputError, match=complaint.replace("(", r"\(")):
        if where is None:
            choice.choose(variant("gpt3_1p3b", **given), 6, 64)
        with on(*where):
            choice.choose(variant("gpt3_1p3b", **given), 6, 64)
