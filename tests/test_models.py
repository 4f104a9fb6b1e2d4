"""The laws of the models: what a logit may depend on, what the head may hold in memory, what the cache must equal."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import log_softmax
from reference import logits as reference_logits
from reference import logprobs as reference_logprobs

from instruct_jax.errors import InputError
from instruct_jax.models import layers
from instruct_jax.models.cache import init_cache
from instruct_jax.models.heads import token_logprobs
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.models.variants import VARIANTS, variant

B, T = 2, 12


def text(seed=0, rows=B, length=T):
    return np.random.default_rng(seed).integers(3, 100, (rows, length)).astype(np.int32)


@pytest.fixture(scope="module")
def logprobs(tiny_model, tiny_params):
    call = jax.jit(lambda tokens, segments: tiny_model.apply({"params": tiny_params}, tokens, segments))
    return lambda tokens, segments: jax.tree.map(np.asarray, call(tokens, np.asarray(segments, np.int32)))


@pytest.fixture(scope="module")
def hidden(tiny_model, tiny_params):
    call = jax.jit(
        lambda tokens, segments: tiny_model.apply({"params": tiny_params}, tokens, segments, method="hidden")
    )
    return lambda tokens, segments: np.asarray(call(tokens, np.asarray(segments, np.int32)))


def test_logprobs_and_entropy_equal_a_second_implementation(logprobs, tiny_model, tiny_params):
    tokens, segments = text(), np.array([[1] * 5 + [2] * 7, [0] * 3 + [4] * 6 + [0] * 3])
    mine, entropy = logprobs(tokens, segments)
    expected = log_softmax(reference_logits(tiny_params, tokens, segments, tiny_model.config))[:, :-1]
    real = segments[:, :-1] > 0
    picked = reference_logprobs(tiny_params, tokens, segments, tiny_model.config)
    np.testing.assert_allclose(mine[real], picked[real], atol=2e-4)
    np.testing.assert_allclose(entropy[real], -(np.exp(expected) * expected).sum(-1)[real], atol=2e-4)


@given(st.integers(1, T - 1))
def test_a_token_never_changes_a_state_before_it(hidden, t):
    tokens, segments = text(), np.ones((B, T))
    changed = tokens.copy()
    changed[:, t] = (changed[:, t] + 1) % 100
    before, after = hidden(tokens, segments), hidden(changed, segments)
    np.testing.assert_array_equal(before[:, :t], after[:, :t])
    assert (before[:, t:] != after[:, t:]).any(axis=(1, 2)).all()


@given(st.integers(2, T), st.data())
def test_padding_on_either_side_never_changes_a_logprob(logprobs, length, data):
    left = data.draw(st.integers(0, T - length))
    content = text(1)[:, :length]
    rows = []
    for at in (0, left):
        tokens, segments = text(2), np.zeros((B, T))
        tokens[:, at : at + length], segments[:, at : at + length] = content, 1
        rows.append(logprobs(tokens, segments)[0][:, at : at + length - 1])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)


@given(st.integers(2, T - 2))
def test_segments_never_leak(logprobs, cut):
    segments = np.where(np.arange(T) < cut, 3, 1)[None].repeat(B, 0)
    tokens, other = text(3), text(3)
    other[:, :cut] = text(4)[:, :cut]
    packed, changed = logprobs(tokens, segments)[0], logprobs(other, segments)[0]
    np.testing.assert_array_equal(packed[:, cut:], changed[:, cut:])
    alone = logprobs(tokens, np.where(np.arange(T) < cut, 0, 1)[None].repeat(B, 0))[0]
    np.testing.assert_allclose(packed[:, cut:], alone[:, cut:], atol=1e-5)


@pytest.mark.parametrize("unroll", [False, True])
def test_prefill_and_cached_decode_equal_the_full_forward(tiny_model, tiny_params, unroll):
    tokens, P = text(5), 7
    tiny_model = PolicyModel(dataclasses.replace(tiny_model.config, unroll=unroll))
    mask = np.arange(T)[None] >= np.array([[0], [4]])
    expected = reference_logits(tiny_params, tokens, mask.astype(int), tiny_model.config)[:, P - 1 :]

    @jax.jit
    def cached(tokens, mask):
        cache = init_cache(tiny_model.config, B, T + 2)
        logits, cache = tiny_model.apply(
            {"params": tiny_params}, tokens[:, :P], mask[:, :P], cache, method="prefill"
        )

        def one(cache, token):
            logits, cache = tiny_model.apply({"params": tiny_params}, token, cache, method="decode")
            return cache, logits

        cache, rest = jax.lax.scan(one, cache, tokens[:, P:].T)
        return jnp.concatenate([logits[None], rest]).swapaxes(0, 1), cache.length

    logits, length = cached(tokens, mask)
    assert int(length) == T
    np.testing.assert_allclose(logits[..., :100], expected, atol=2e-4)
    assert (np.asarray(logits)[..., 100:] < -1e29).all()


def test_logprobs_from_start_and_at_a_temperature(logprobs, tiny_model, tiny_params):
    tokens, segments = text(), np.ones((B, T), np.int32)
    late, _ = jax.jit(
        lambda: tiny_model.apply(
            {"params": tiny_params}, tokens, segments, start=5, temperature=0.5, method="logprobs"
        )
    )()
    logits = reference_logits(tiny_params, tokens, segments, tiny_model.config)
    expected = np.take_along_axis(log_softmax(logits / 0.5)[:, :-1], tokens[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(late, expected[:, 4:], atol=5e-4)


@pytest.mark.parametrize("chunk", [5, 6, 18])
def test_chunked_logprobs_and_gradients_equal_float64_log_softmax(chunk):
    X, D, V, vocab = 9, 8, 128, 101
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(B, X, D)), rng.normal(size=(V, D))
    targets, weights = rng.integers(0, vocab, (B, X)), rng.normal(size=(B, X))

    def loss(hidden, table):
        logprobs, entropy = token_logprobs(hidden, targets, table, vocab, chunk)
        return (weights * logprobs).sum(), (logprobs, entropy)

    call = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, (logprobs, entropy)), (hidden_gradient, table_gradient) = call(
        *(np.float32(x) for x in (hidden, table))
    )
    expected = log_softmax(hidden @ table[:vocab].T)
    logits_gradient = weights[..., None] * (np.eye(vocab)[targets] - np.exp(expected))
    np.testing.assert_allclose(
        logprobs, np.take_along_axis(expected, targets[..., None], -1)[..., 0], atol=1e-5
    )
    np.testing.assert_allclose(entropy, -(np.exp(expected) * expected).sum(-1), atol=1e-5)
    np.testing.assert_allclose(hidden_gradient, logits_gradient @ table[:vocab], atol=1e-4)
    np.testing.assert_allclose(
        table_gradient[:vocab], np.einsum("bxv,bxd->vd", logits_gradient, hidden), atol=1e-4
    )
    assert (np.asarray(table_gradient)[vocab:] == 0).all()


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_the_logits_of_a_whole_batch_never_exist(remat):
    rows, length, vocab, chunk = 4, 33, 1000, 16
    model = PolicyModel(variant("tiny", vocab=vocab, logit_chunk=chunk, remat=remat))
    tokens = jnp.zeros((rows, length), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
    loss = jax.value_and_grad(lambda params: model.apply({"params": params}, tokens, tokens + 1)[0].sum())
    found = list(equations(jax.make_jaxpr(loss)(params).jaxpr))
    outputs = [(e, v.aval) for e in found for v in e.outvars if hasattr(v.aval, "shape")]
    V = model.config.padded_vocab
    wide = [np.prod(aval.shape[:-1]) for _, aval in outputs if aval.shape[-1:] == (V,)]
    assert max(wide) == chunk, "the logits of one chunk are the most that may live"
    assert max(np.prod(aval.shape) for _, aval in outputs) < rows * (length - 1) * V / 2
    one_hot = [
        e
        for e, aval in outputs
        if e.primitive.name == "convert_element_type"
        and e.invars[0].aval.dtype == bool
        and aval.shape[-1:] == (V,)
    ]
    assert not one_hot


def test_chunks_of_logits_are_of_one_size_and_not_filled_up():
    tokens = jnp.zeros((1, 26), jnp.int32)
    model = PolicyModel(variant("tiny", vocab=1000, logit_chunk=16))
    params = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
    call = jax.make_jaxpr(lambda params: model.apply({"params": params}, tokens, tokens + 1))(params)
    V = model.config.padded_vocab
    wide = {v.aval.shape[0] for e in equations(call.jaxpr) for v in e.outvars if v.aval.shape[1:] == (V,)}
    assert max(wide) == 13  # 25 tokens in two chunks, not two of 16


def test_remat_and_unroll_change_no_gradient(tiny_model, tiny_params):
    tokens, segments = text(), np.ones((B, T), np.int32)

    def gradient(**options):
        model = PolicyModel(dataclasses.replace(tiny_model.config, **options))
        return jax.jit(jax.grad(lambda p: model.apply({"params": p}, tokens, segments)[0].mean()))(
            tiny_params
        )

    plain = gradient(unroll=False)
    for options in (dict(remat="full", unroll=False), dict(remat="dots", unroll=True), dict(logit_chunk=5)):
        close = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), plain, gradient(**options))
        assert all(jax.tree.leaves(close)), options


def test_dropout_acts_only_when_not_deterministic(tiny_model, tiny_params):
    model = PolicyModel(dataclasses.replace(tiny_model.config, dropout=0.5))
    tokens, segments = text(), np.ones((B, T), np.int32)

    @jax.jit
    def both(seed):
        rngs = {"dropout": jax.random.key(seed)}
        calm = model.apply({"params": tiny_params}, tokens, segments, rngs=rngs)[0]
        return calm, model.apply({"params": tiny_params}, tokens, segments, deterministic=False, rngs=rngs)[0]

    plain = tiny_model.apply({"params": tiny_params}, tokens, segments)[0]
    (calm, one), (_, again), (_, other) = both(1), both(1), both(2)
    np.testing.assert_allclose(calm, plain, atol=1e-5)
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other) and not np.allclose(one, calm)


def test_dropout_touches_only_what_the_layers_add_to_the_residual(tiny_model, tiny_params):
    model = PolicyModel(dataclasses.replace(tiny_model.config, dropout=0.5))
    nothing = jax.tree.map(jnp.zeros_like, {name: tiny_params["layers"][name] for name in ("out", "down")})
    params = {**tiny_params, "layers": {**tiny_params["layers"], **nothing}}
    tokens, segments = text(), np.ones((B, T), np.int32)
    dropped, plain = jax.jit(
        lambda key: tuple(
            model.apply({"params": params}, tokens, segments, deterministic=still, rngs={"dropout": key})[0]
            for still in (False, True)
        )
    )(jax.random.key(0))
    np.testing.assert_allclose(dropped, plain, atol=1e-5)


def test_dropout_keeps_the_mean():
    from instruct_jax.models.layers import _dropout

    kept = np.asarray(_dropout(jnp.full((400, 100), 2.0), 0.2, jax.random.key(0)))
    assert set(np.unique(kept)) == {0.0, 2.5}
    assert abs(kept.mean() - 2.0) < 0.02


def test_bfloat16_gives_f32_logprobs_near_the_f32_ones(logprobs, tiny_model, tiny_params):
    model = PolicyModel(dataclasses.replace(tiny_model.config, dtype="bfloat16"))
    tokens, segments = text(), np.ones((B, T), np.int32)
    half, entropy = jax.jit(lambda: model.apply({"params": tiny_params}, tokens, segments))()
    assert half.dtype == entropy.dtype == jnp.float32
    assert np.abs(half - logprobs(tokens, segments)[0]).mean() < 0.1


def test_the_scalar_model_is_the_policy_with_another_head(
    hidden, tiny_params, tiny_scalar_model, tiny_scalar_params
):
    tokens, segments = text(), np.ones((B, T), np.int32)
    head = tiny_scalar_params["head"]
    values = jax.jit(tiny_scalar_model.apply)({"params": {**tiny_params, "head": head}}, tokens, segments)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, hidden(tokens, segments) @ head["kernel"] + head["bias"], atol=1e-4)


def test_the_scalar_head_starts_with_the_predecessors_spread():
    from instruct_jax.models.heads import init_head

    head = init_head(jax.random.key(0), 10_000)
    assert abs(np.std(head["kernel"]) * 10_001**0.5 - 1) < 0.03 and float(head["bias"]) == 0


def test_parameters_have_the_documented_paths_and_count():
    model = PolicyModel(variant("gpt3_125m"))
    tokens = jnp.zeros((1, 8), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
    assert set(params) == {"embed", "layers", "norm"}
    assert params["embed"]["tokens"].shape == (50304, 768)
    assert all(leaf.shape[0] == 12 for leaf in jax.tree.leaves(params["layers"]))
    # 12 layers of 12 D^2 weights and 13 D biases and norms, the embeddings, the last norm
    expected = 12 * (12 * 768**2 + 13 * 768) + (50304 + 2048) * 768 + 2 * 768
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_rows_longer_than_the_context_are_refused(tiny_model, tiny_params):
    tokens = np.ones((1, 65), np.int32)
    with pytest.raises(InputError, match="65 tokens.*model.context = 64"):
        tiny_model.apply({"params": tiny_params}, tokens, tokens)


def test_every_variant_is_sound_and_errors_name_the_nearest():
    for name in VARIANTS:
        assert variant(name).padded_vocab % 128 == 0 and variant(name).mlp == 4 * variant(name).width
    assert variant("gpt3_1p3b").head_dim == 128
    with pytest.raises(InputError, match="'gpt3_1b'.*Did you mean 'gpt3_1p3b'"):
        variant("gpt3_1b")
    with pytest.raises(InputError, match="'layer'.*Did you mean 'layers'"):
        variant("tiny", layer=3)
    with pytest.raises(InputError, match="model.width 33"):
        variant("tiny", width=33)
    for field, value in dict(vocab=0, dropout=1.0, dtype="float16", remat="some", context=2.5).items():
        with pytest.raises(InputError, match=f"model.{field}"):
            variant("tiny", **{field: value})


def test_frozen_embeddings_take_no_gradient_and_the_layers_take_the_same(tiny_model, tiny_params):
    tokens, segments = text(), np.ones((B, T), np.int32)

    def grads(config):
        loss = lambda params: PolicyModel(config).apply({"params": params}, tokens, segments)[0].sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(tiny_params)

    frozen = dataclasses.replace(tiny_model.config, freeze_embed=True)
    found, free = grads(frozen), grads(tiny_model.config)
    assert frozen.frozen == ("embed",) and not tiny_model.config.frozen
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found["embed"])) and np.any(
        free["embed"]["tokens"]
    )
    for mine, theirs in zip(*(jax.tree.leaves([g["layers"], g["norm"]]) for g in (found, free)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_model_that_is_not_trained_computes_the_same_from_kernels_in_its_own_number_type(
    tiny_model, tiny_params
):
    model = PolicyModel(dataclasses.replace(tiny_model.config, dtype="bfloat16"))
    halved = layers.compute_dtype(tiny_params, model.config)
    assert halved["layers"]["up"]["kernel"].dtype == jnp.bfloat16
    assert halved["layers"]["up"]["bias"].dtype == halved["embed"]["tokens"].dtype == jnp.float32
    call = jax.jit(lambda params: model.apply({"params": params}, text(), np.ones((B, T), np.int32)))
    jax.tree.map(np.testing.assert_array_equal, call(halved), call(tiny_params))
