"""The laws of the language-modelling loss and of masked statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import logprobs as reference_logprobs

from instruct_jax.algorithms.masked import last_true_index, masked_mean, masked_sum, masked_var, whiten
from instruct_jax.algorithms.sft import lm_loss
from instruct_jax.batches import TokenBatch
from instruct_jax.models.transformer import PolicyModel

B, T = 2, 10


def batch(seed=0):
    tokens = np.random.default_rng(seed).integers(3, 100, (B, T)).astype(np.int32)
    segments = np.array([[1] * 4 + [2] * 4 + [0] * 2, [0] * 2 + [1] * 8], np.int32)
    # Responses only: no target is the first token of a document.
    mask = np.zeros((B, T), bool)
    mask[0, 2:4], mask[0, 6:8], mask[1, 5:] = True, True, True
    return TokenBatch(tokens, segments, mask)


@pytest.fixture(scope="module")
def loss(tiny_model):
    def mean(params, batch):
        nll, mask, metrics = lm_loss(tiny_model, params, batch)
        return masked_mean(nll, mask), (nll, mask, metrics)

    return jax.jit(jax.value_and_grad(mean, has_aux=True))


def reference_loss(params, batch, config):
    mask = batch.loss_mask_BT[:, 1:]
    return -reference_logprobs(params, batch.tokens_BT, batch.segments_BT, config)[mask].mean()


def test_the_loss_equals_a_second_implementation(loss, tiny_model, tiny_params):
    (value, (nll, mask, metrics)), _ = loss(tiny_params, batch())
    assert nll.shape == mask.shape == (B, T - 1) and nll.dtype == jnp.float32
    np.testing.assert_allclose(value, reference_loss(tiny_params, batch(), tiny_model.config), atol=1e-4)
    np.testing.assert_allclose(metrics["lm/loss"], value, rtol=1e-6)
    assert int(metrics["lm/tokens"]) == 9


def test_the_gradient_equals_the_slope_of_a_second_implementation(loss, tiny_model, tiny_params):
    _, gradient = loss(tiny_params, batch())
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda x: np.asarray(x, np.float64), tiny_params))
    gradients = jax.tree.leaves(gradient)
    for i, leaf in enumerate(leaves):
        direction = rng.normal(size=leaf.shape)
        ends = []
        for step in (1e-5, -1e-5):
            moved = jax.tree.unflatten(
                tree, [x + step * direction if j == i else x for j, x in enumerate(leaves)]
            )
            ends.append(reference_loss(moved, batch(), tiny_model.config))
        slope = (ends[0] - ends[1]) / 2e-5
        mine = (np.asarray(gradients[i], np.float64) * direction).sum()
        np.testing.assert_allclose(mine, slope, rtol=2e-3, atol=2e-4, err_msg=str(i))


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5), st.lists(st.integers(1, 4), min_size=1, max_size=5),
    hnp.arrays(bool, (B, T)), st.integers(0, 2**16),
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_any_lengths_and_mask_have_the_loss_and_slope_of_a_second_implementation(
    loss, tiny_model, tiny_params, first, second, mask, seed
):
    segments = np.zeros((B, T), np.int32)
    for b, lengths in enumerate((first, second)):
        numbers = np.repeat(np.arange(1, len(lengths) + 1), lengths)[:T]
        segments[b, : len(numbers)] = numbers
    # A target is a token that another of its document comes before.
    mask[:, 1:] &= (segments[:, 1:] > 0) & (segments[:, 1:] == segments[:, :-1])
    mask[:, 0] = False
    assume(mask.any())
    rng = np.random.default_rng(seed)
    drawn = TokenBatch(rng.integers(3, 100, (B, T)).astype(np.int32), segments, mask)
    (value, _), gradient = loss(tiny_params, drawn)
    np.testing.assert_allclose(value, reference_loss(tiny_params, drawn, tiny_model.config), atol=1e-4)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), tiny_params)

    def moved(step):
        params = jax.tree.map(lambda x, d: np.asarray(x, np.float64) + step * d, tiny_params, direction)
        return reference_loss(params, drawn, tiny_model.config)

    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    mine = sum(
        (np.asarray(g, np.float64) * d).sum()
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction))
    )
    np.testing.assert_allclose(mine, slope, rtol=2e-3, atol=2e-3)


def test_padding_has_no_gradient_and_an_empty_mask_none_at_all(loss, tiny_params):
    plain = batch()
    _, gradient = loss(tiny_params, plain)
    padded = dataclasses.replace(plain, tokens_BT=np.where(plain.segments_BT == 0, 50, plain.tokens_BT))
    _, same = loss(tiny_params, padded)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(one, other)
    nothing = dataclasses.replace(plain, loss_mask_BT=np.zeros((B, T), bool))
    (value, _), zero = loss(tiny_params, nothing)
    assert float(value) == 0 and all((np.asarray(x) == 0).all() for x in jax.tree.leaves(zero))


def test_dropout_only_with_a_key(tiny_model, tiny_params):
    model = PolicyModel(dataclasses.replace(tiny_model.config, dropout=0.3))
    nll = jax.jit(lambda key: lm_loss(model, tiny_params, batch(), key)[0])
    calm = jax.jit(lambda: lm_loss(model, tiny_params, batch())[0])()
    plain = jax.jit(lambda: lm_loss(tiny_model, tiny_params, batch())[0])()
    np.testing.assert_allclose(calm, plain, atol=1e-5)
    one, other = nll(jax.random.key(0)), nll(jax.random.key(1))
    assert not np.allclose(one, other) and not np.allclose(one, calm)


ARRAYS = hnp.arrays(np.float32, (3, 5), elements=st.floats(-100, 100, width=32))
MASKS = hnp.arrays(bool, (3, 5))


@given(ARRAYS, MASKS)
def test_masked_statistics_are_those_of_the_real_entries(x, mask):
    real = x[mask].astype(np.float64)
    dirty = np.where(mask, x, np.nan)
    np.testing.assert_allclose(masked_sum(dirty, mask), real.sum(), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(
        masked_mean(dirty, mask), real.mean() if len(real) else 0.0, rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(
        masked_var(dirty, mask), real.var() if len(real) else 0.0, rtol=1e-3, atol=1e-2
    )


@given(ARRAYS, MASKS)
def test_whitening_sees_only_real_entries_and_can_keep_the_mean(x, mask):
    real = x[mask].astype(np.float64)
    for shift in (True, False):
        out = np.asarray(whiten(np.where(mask, x, np.nan), mask, shift))
        assert (out[~mask] == 0).all() and np.isfinite(out).all()
        if len(real) and real.std() > 1:
            np.testing.assert_allclose(out[mask].mean(), 0.0 if shift else real.mean(), atol=1e-3)
            np.testing.assert_allclose(out[mask].var(), 1.0, rtol=1e-3)


def test_whitening_by_hand():
    # Mean 2, biased variance 2/3: (1 - 2) / sqrt(2/3) = -1.2247449
    out = whiten(jnp.array([1.0, 2.0, 3.0, 99.0]), jnp.array([True, True, True, False]))
    np.testing.assert_allclose(out, [-1.2247449, 0, 1.2247449, 0], atol=1e-6)


@given(MASKS)
def test_the_last_true_index_is_the_last_or_zero(mask):
    expected = [np.flatnonzero(row)[-1] if row.any() else 0 for row in mask]
    np.testing.assert_array_equal(last_true_index(jnp.asarray(mask)), expected)
