"""The laws of the reward model's loss, against loops in float64."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_jax.algorithms import rm
from instruct_jax.algorithms.pieces import accumulate
from instruct_jax.batches import RankingBatch
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import ScalarModel
from instruct_jax.models.variants import variant

B, K = 3, 5
DIVISORS = ("valid_pairs", "all_pairs")


@functools.partial(jax.jit, static_argnames="divide_by")
def loss_and_grad(scores_BK, ranks_BK, divide_by="valid_pairs"):
    def total(scores_BK):
        loss_B, weight_B, metrics = rm.ranking_loss(scores_BK, ranks_BK, divide_by)
        return (loss_B * weight_B).sum(), (loss_B, weight_B, metrics)

    (_, (loss_B, weight_B, metrics)), grad_BK = jax.value_and_grad(total, has_aux=True)(scores_BK)
    return loss_B, weight_B, metrics, grad_BK


def reference(scores, ranks, divide_by):
    """One prompt's loss and gradient, pair by pair."""
    filled = [k for k in range(len(ranks)) if ranks[k] > 0]
    pairs = [(i, j) for i in filled for j in filled if ranks[i] < ranks[j]]
    count = len(pairs) if divide_by == "valid_pairs" else math.comb(len(filled), 2)
    loss, grad = 0.0, np.zeros(len(ranks))
    for i, j in pairs:
        gap = float(scores[i]) - float(scores[j])
        loss += math.log1p(math.exp(-gap)) / count
        grad[i] -= 1 / (1 + math.exp(gap)) / count
        grad[j] += 1 / (1 + math.exp(gap)) / count
    return loss, grad, bool(pairs)


ranks_lists = st.lists(st.lists(st.integers(0, K), min_size=K, max_size=K), min_size=B, max_size=B)


@settings(deadline=None, max_examples=60)
@given(ranks=ranks_lists, seed=st.integers(0, 2**31), divide_by=st.sampled_from(DIVISORS))
def test_loss_and_gradient_are_those_of_a_loop_over_pairs(ranks, seed, divide_by):
    scores_BK = np.random.default_rng(seed).normal(size=(B, K), scale=3).astype(np.float32)
    loss_B, weight_B, _, grad_BK = loss_and_grad(scores_BK, np.array(ranks), divide_by)
    for b in range(B):
        loss, grad, any_pair = reference(scores_BK[b], ranks[b], divide_by)
        np.testing.assert_allclose(loss_B[b], loss, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(grad_BK[b], grad, rtol=1e-4, atol=1e-6)
        assert weight_B[b] == any_pair


@settings(deadline=None, max_examples=30)
@given(ranks=ranks_lists, seed=st.integers(0, 2**31), shift=st.floats(-5, 5))
def test_a_constant_added_to_all_scores_changes_nothing(ranks, seed, shift):
    scores_BK = np.random.default_rng(seed).normal(size=(B, K)).astype(np.float32)
    before, after = (loss_and_grad(s, np.array(ranks))[0] for s in (scores_BK, scores_BK + np.float32(shift)))
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(ranks=ranks_lists, seed=st.integers(0, 2**31), order=st.permutations(range(K)))
def test_the_order_of_completions_changes_nothing(ranks, seed, order):
    scores_BK, ranks_BK, order = np.random.default_rng(seed).normal(size=(B, K)), np.array(ranks), list(order)
    loss_B, weight_B, metrics, grad_BK = loss_and_grad(scores_BK, ranks_BK)
    other_B, other_weight_B, other_metrics, other_BK = loss_and_grad(scores_BK[:, order], ranks_BK[:, order])
    np.testing.assert_allclose(loss_B, other_B, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad_BK[:, order], other_BK, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(weight_B, other_weight_B)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], other_metrics[name], rtol=1e-5, atol=1e-6)


def test_equal_scores_cost_log_two():
    loss_B, _, metrics, _ = loss_and_grad(
        np.zeros((B, K)), np.array([[1, 2, 3, 4, 5], [2, 1, 1, 0, 0], [1, 1, 1, 1, 2]])
    )
    np.testing.assert_allclose(loss_B, np.log(2), rtol=1e-6)
    assert metrics["rm/accuracy"] == 0.5


def test_ties_contribute_nothing():
    scores = np.random.default_rng(0).normal(size=(B, K))
    ranks = np.array([[1, 1, 2, 0, 0], [3, 3, 3, 3, 3], [0, 0, 4, 0, 0]])
    loss_B, weight_B, metrics, grad_BK = loss_and_grad(scores, ranks)
    # The mean over the two untied pairs alone; a prompt of ties, or of one completion, has no loss and no weight.
    expected = np.mean([np.log1p(np.exp(scores[0, 2] - scores[0, k])) for k in (0, 1)])
    np.testing.assert_allclose(loss_B, [expected, 0, 0], rtol=1e-5)
    np.testing.assert_array_equal(weight_B, [1, 0, 0])
    np.testing.assert_array_equal(grad_BK[1:], 0)
    assert metrics["rm/pairs"] == 2
    np.testing.assert_allclose(metrics["rm/loss"], expected, rtol=1e-5)


def test_dividing_by_all_pairs_counts_the_tied_ones():
    ranks = np.tile([1, 1, 2, 0, 0], (B, 1))
    valid_B, all_B = (loss_and_grad(np.zeros((B, K)), ranks, divide_by)[0] for divide_by in DIVISORS)
    np.testing.assert_allclose(all_B, valid_B * 2 / 3, rtol=1e-6)


def test_accuracy_and_margin_by_hand():
    scores = np.tile([3.0, 1.0, 2.0, 9.0, 9.0], (B, 1))
    metrics = loss_and_grad(scores, np.tile([1, 2, 3, 0, 0], (B, 1)))[2]
    np.testing.assert_allclose(metrics["rm/accuracy"], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics["rm/margin"], (2 + 1 - 1) / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics["rm/score_mean"], 2.0, rtol=1e-6)


def test_an_unknown_divisor_is_refused():
    with pytest.raises(InputError, match="divide_by"):
        rm.ranking_loss(jnp.zeros((1, 2)), jnp.ones((1, 2), int), "pairs")


class CountingModel:
    """Scores a token by itself, and remembers the shapes that it was applied to."""

    def __init__(self):
        self.shapes = []

    def apply(self, variables, tokens_BT, segments_BT, stems_BT):
        self.shapes.append(tokens_BT.shape)
        return tokens_BT * variables["params"]


def test_each_completion_is_forwarded_once_and_scored_at_its_last_token():
    # Three completions of the first prompt and two of the second, whose third slot is empty, in three rows.
    tokens = np.array([[9, 3, 9, 4], [9, 9, 9, 5], [9, 3, 4, 9]])
    segments = np.array([[1, 1, 2, 2], [1, 1, 1, 1], [1, 1, 2, 0]])
    rows, columns = np.array([[0, 0, 1], [2, 2, 0]]), np.array([[1, 3, 3], [1, 2, 0]])
    ranks = np.array([[3, 2, 1], [1, 2, 0]])
    model = CountingModel()
    batch = RankingBatch(tokens, segments, rows, columns, ranks)
    loss_B, _, _ = rm.rm_loss(model, jnp.float32(1.0), batch)
    assert model.shapes == [(3, 4)]
    scores = [[3, 4, 5], [3, 4, 9]]
    np.testing.assert_allclose(
        loss_B, [reference(scores[b], ranks[b], "valid_pairs")[0] for b in range(2)], rtol=1e-5
    )


def test_the_score_is_read_at_the_last_real_token():
    values = np.arange(12.0).reshape(3, 4)
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(rm.last_scores(values, mask), [1, 7, 0])


@functools.cache
def tiny():
    model = ScalarModel(variant("tiny"))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8), int), jnp.ones((1, 8), int))["params"]
    score = jax.jit(lambda p, tokens, mask: model.apply({"params": p}, tokens, mask.astype(jnp.int32)))

    def mean_loss(params, batch):
        loss_B, weight_B, _ = rm.rm_loss(model, params, batch)
        return (loss_B * weight_B).sum() / weight_B.sum()

    return params, score, jax.jit(jax.value_and_grad(mean_loss))


def ranked(lengths, rows):
    """Two prompts with three slots of these lengths (0 is an empty slot), in rows of 16 tokens; `rows` says which."""
    tokens, segments = np.zeros((2, 6, 16), np.int32)
    columns = np.zeros((2, 3), np.int32)
    for (b, k), length in np.ndenumerate(np.array(lengths)):
        row, words = rows[b][k], np.random.default_rng([b, k]).integers(3, 128, length)
        start = (segments[row] > 0).sum()
        tokens[row, start : start + length], segments[row, start : start + length] = (
            words,
            1 + segments[row].max(),
        )
        columns[b, k] = start + length - 1 if length else 0
    ranks = np.where(np.array(lengths) > 0, [[1, 2, 2], [2, 1, 3]], 0).astype(np.int32)
    return RankingBatch(tokens, segments, np.array(rows, np.int32), columns, ranks)


def test_a_zero_head_costs_log_two_and_empty_slots_and_rows_leave_the_gradient_finite():
    params, _, loss_and_grad = tiny()
    zero = {**params, "head": jax.tree.map(jnp.zeros_like, params["head"])}
    loss, grads = loss_and_grad(zero, ranked([[8, 5, 3], [6, 2, 0]], [[0, 1, 2], [3, 4, 0]]))
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert np.abs(grads["head"]["kernel"]).max() > 0
    np.testing.assert_allclose(grads["head"]["bias"], 0, atol=1e-6)


def test_packing_completions_into_rows_changes_neither_loss_nor_gradient():
    params, _, loss_and_grad = tiny()
    lengths = [[8, 5, 3], [6, 2, 0]]
    alone, packed = ranked(lengths, [[0, 1, 2], [3, 4, 0]]), ranked(lengths, [[0, 1, 0], [1, 0, 0]])
    assert (packed.segments_XT > 0).any(axis=1).sum() == 2
    loss, grads = loss_and_grad(params, alone)
    packed_loss, packed_grads = loss_and_grad(params, packed)
    assert abs(float(loss) - np.log(2)) > 1e-3
    np.testing.assert_allclose(loss, packed_loss, rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, grads, packed_grads)


def test_completions_that_share_their_prompt_have_the_loss_and_gradient_of_rows_of_their_own():
    params, _, loss_and_grad = tiny()
    (prompt, other), ends = ([5, 9, 7, 4], [8, 6]), [[[11, 2], [12, 13, 2], [14, 2]], [[15, 2], [16, 17, 18]]]
    ranks = np.array([[1, 2, 2], [2, 1, 0]], np.int32)
    tokens, segments, stems = np.zeros((3, 6, 16), np.int32)
    alone = np.zeros((2, 2, 3), np.int32)
    for row, (b, k) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        whole = (prompt, other)[b] + ends[b][k]
        tokens[row, : len(whole)], segments[row, : len(whole)] = whole, 1
        alone[:, b, k] = row, len(whole) - 1
    apart = RankingBatch(tokens, segments, *alone, ranks)
    tokens, columns = np.zeros_like(tokens), np.zeros((2, 3), np.int32)
    tokens[0, :11], segments, columns[0] = [*prompt, *sum(ends[0], [])], np.zeros_like(segments), [5, 8, 10]
    segments[0, :11], stems[0, :11] = [9] * 4 + [1] * 2 + [2] * 3 + [3] * 2, 9
    tokens[2, :7], columns[1, :2] = [*other, *sum(ends[1], [])], [3, 6]
    segments[2, :7], stems[2, :7] = [8] * 2 + [4] * 2 + [5] * 3, 8
    shared = RankingBatch(tokens, segments, np.array([[0] * 3, [2, 2, 0]], np.int32), columns, ranks, stems)
    loss, grads = loss_and_grad(params, apart)
    shared_loss, shared_grads = loss_and_grad(params, shared)
    assert abs(float(loss) - np.log(2)) > 1e-3
    np.testing.assert_allclose(loss, shared_loss, rtol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), grads, shared_grads)


def test_demonstrations_average_zero_after_the_shift_and_the_value_net_starts_from_that_score():
    params, score, _ = tiny()
    tokens = np.random.default_rng(1).integers(3, 128, (6, 8)).astype(np.int32)
    lengths = np.array([8, 7, 3, 1, 5, 8])
    mask = np.arange(8) < lengths[:, None]
    before = rm.last_scores(score(params, tokens, mask), mask)
    shifted = rm.shift_bias(params, before.mean())
    scores = rm.last_scores(score(shifted, tokens, mask), mask)
    assert abs(float(before.mean())) > 1e-3
    np.testing.assert_allclose(scores.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(scores, before - before.mean(), atol=1e-5)
    value_params = jax.tree.map(jnp.copy, shifted)
    at_end = np.asarray(score(value_params, tokens, mask))[np.arange(6), lengths - 1]
    np.testing.assert_array_equal(at_end, scores)


def test_a_batch_in_pieces_has_the_same_gradient_and_metrics():
    class Table:
        def apply(self, variables, tokens_XT, segments_XT, stems_XT):
            return variables["params"][tokens_XT] * segments_XT

    rng = np.random.default_rng(0)
    ranks = np.array([[1, 2, 2, 0, 0], [1, 1, 1, 1, 0], [2, 1, 3, 4, 5], [1, 2, 0, 0, 0]])
    tokens = rng.integers(0, 20, (4, K)).astype(np.int32)
    # Pieces of two prompts: 0 and 2, 1 and 3; each prompt's completions end in a row of its own piece.
    row, column = np.tile(np.array([[0], [0], [1], [1]]), (1, K)), np.tile(np.arange(K), (4, 1))
    grouped = RankingBatch(tokens, np.ones_like(tokens), row, column, ranks)
    whole = dataclasses.replace(grouped, row_BK=np.tile(np.arange(4)[:, None], (1, K)))
    scores = jnp.asarray(rng.normal(size=20), jnp.float32)

    def gradient(batch, n):
        counts = rm.ranking_counts(batch.ranks_BK)

        def loss(params, piece):
            loss_B, weight_B, metrics = rm.rm_loss(Table(), params, piece, counts=counts)
            return (loss_B * weight_B).sum() / counts[0], metrics

        return accumulate(loss, scores, batch, n)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        gradient(grouped, 2),
        gradient(whole, 1),
    )
