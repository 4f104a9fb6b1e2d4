"""Home of what is asked of preferences beyond their mean: paired tests, the win rate at equal length, chance-corrected agreement, and
best-of-n with its KL.

The paper gives win rates with 95 % intervals alone. Numpy, on the host. An outcome is 1 where the model was preferred, 0 where the
baseline was, 0.5 for a tie; clusters are prompts, since outcomes of one prompt are not independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from instruct_jax.algorithms.statistics import Interval, crossed_weights
from instruct_jax.errors import InputError

PRECISION = 0.01  # of the normal prior on both coefficients: C = 100 of a penalised regression; finite where every outcome is a win
_FEW = 12  # clusters up to which every assignment of signs is tried


@dataclass(frozen=True)
class LengthControlled:
    """The win rate that the regression predicts at equal length, and its slope: log-odds per unit of tanh(gap / deviation)."""

    rate: Interval
    slope: float


def sign_test(values, clusters=None) -> float:
    """Two-sided p of the exact sign test: as many clusters with a positive sum of `values` [n] as with a negative one.

    Clusters whose sum is 0 are left out; 1.0 where none remains.
    """
    sums = _sums(values, clusters)
    above, below = int((sums > 0).sum()), int((sums < 0).sum())
    n, tail = above + below, min(above, below)
    # In logarithms: 2 ** -n underflows from a thousand clusters on.
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2)
        for i in range(tail + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(x) for x in logs))


def permutation_test(values, clusters=None, samples=10_000, seed=0) -> float:
    """Two-sided p of the paired permutation test: is the mean of `values` [n] 0 if each cluster's sign is a coin's?

    Exact up to 12 clusters, else from `samples` draws and the data itself, so that it is never 0 (Phipson and Smyth 2010).
    """
    sums = _sums(values, clusters)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    reach = abs(sums.sum()) * (1 - 1e-12)
    if len(sums) <= _FEW:
        signs = 1 - 2 * ((np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1)
        return float((np.abs(signs @ sums) >= reach).mean())
    generator, hits = np.random.default_rng(seed), 0
    block = max(1, 2_000_000 // len(sums))
    for start in range(0, samples, block):
        signs = generator.integers(0, 2, (min(block, samples - start), len(sums)), dtype=np.int8) * 2.0 - 1
        hits += int((np.abs(signs @ sums) >= reach).sum())
    return (1 + hits) / (1 + samples)


def _sums(values, clusters):
    """Sums of the values by cluster, rounded so that a sum that is 0 is 0."""
    values_n = np.asarray(values, np.float64)
    if values_n.ndim != 1 or not values_n.size or not np.isfinite(values_n).all():
        raise InputError(f"test: values must be a vector of finite numbers, got shape {values_n.shape}")
    if clusters is None:
        return values_n
    if len(clusters) != len(values_n):
        raise InputError(f"test: {len(values_n)} values, {len(clusters)} clusters; give one each")
    _, which_n = np.unique(np.asarray(clusters), return_inverse=True)
    return np.round(np.bincount(which_n, values_n), 12)


def length_controlled(outcomes, gaps, rows, columns, samples=300, seed=0) -> LengthControlled:
    """Win rate at equal length, of outcomes [n] whose responses are `gaps` [n] characters longer than the baseline's.

    The estimator: log-odds of a win = a + b tanh(gap / standard deviation of the gaps), fitted to the outcomes as they are (a tie is
    half a win) by logistic regression; the rate is sigmoid(a). So AlpacaEval 2 does (Dubois et al. 2024), whose third term, the
    difficulty of its own 805 prompts for a fixed pair of models, there is no table of for others; its L1 penalty is a weak normal
    prior here. b is not causal: where better answers are longer for good reason, it takes that away as well.
    95 % interval: percentile bootstrap of the refitted rate over `rows` and `columns` (prompt, labeler), see bootstrap_mean_crossed.
    """
    outcomes_n, gaps_n = np.asarray(outcomes, np.float64), np.asarray(gaps, np.float64)
    if not outcomes_n.size or outcomes_n.shape != gaps_n.shape:
        raise InputError(f"length_controlled: {outcomes_n.size} outcomes, {gaps_n.size} gaps; give one each")
    spread = float(gaps_n.std())
    x_n = np.tanh(gaps_n / spread) if spread else np.zeros_like(gaps_n)
    whole_s2 = fit_logistic(np.ones((1, len(x_n))), x_n, outcomes_n, np.zeros((1, 2)))
    drawn = [
        _sigmoid(fit_logistic(weights_sn, x_n, outcomes_n, whole_s2)[:, 0])
        for weights_sn in crossed_weights(rows, columns, samples, seed)
    ]
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5]) if drawn else (math.nan, math.nan)
    rate = Interval(float(_sigmoid(whole_s2[0, 0])), float(low), float(high), len(x_n))
    return LengthControlled(rate, float(whole_s2[0, 1]))


def fit_logistic(weights_sn, x_n, outcomes_n, start_s2) -> np.ndarray:
    """(intercept, slope) [s, 2] that maximise the weighted log-likelihood of outcomes in [0, 1], with a prior of PRECISION; one fit a
    row of weights, by Newton's method from `start_s2`."""
    found_s2 = np.repeat(start_s2, len(weights_sn), axis=0) if len(start_s2) == 1 else start_s2.copy()
    for _ in range(50):
        chance_sn = _sigmoid(found_s2[:, :1] + found_s2[:, 1:] * x_n)
        error_sn = weights_sn * (outcomes_n - chance_sn)
        gradient_s2 = np.stack([error_sn.sum(1), error_sn @ x_n], 1) - PRECISION * found_s2
        curve_sn = weights_sn * chance_sn * (1 - chance_sn)
        cross_s = curve_sn @ x_n
        h00_s, h11_s = curve_sn.sum(1) + PRECISION, curve_sn @ x_n**2 + PRECISION
        determinant_s = h00_s * h11_s - cross_s**2
        step_s2 = np.stack(
            [
                (h11_s * gradient_s2[:, 0] - cross_s * gradient_s2[:, 1]) / determinant_s,
                (h00_s * gradient_s2[:, 1] - cross_s * gradient_s2[:, 0]) / determinant_s,
            ],
            1,
        )
        found_s2 += np.clip(step_s2, -2, 2)  # a full step from a flat start can overshoot
        if np.abs(step_s2).max() < 1e-9:
            break
    return found_s2


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def cohen_kappa(first: Sequence, second: Sequence) -> float:
    """Cohen's kappa of two raters' categories of the same items: 1 is perfect agreement, 0 is chance; nan where both always say the
    same one thing."""
    if not len(first) or len(first) != len(second):
        raise InputError(
            f"cohen_kappa: {len(first)} and {len(second)} ratings; give both raters' of the same items"
        )
    names, which = np.unique(np.concatenate([np.asarray(first), np.asarray(second)]), return_inverse=True)
    table_vv = np.zeros((len(names), len(names)))
    np.add.at(table_vv, (which[: len(first)], which[len(first) :]), 1)
    # Whole numbers until the end: sixths that are added up fall short of 1, and two who always say the same got a kappa.
    alike, expected = len(first) * float(np.trace(table_vv)), float(table_vv.sum(0) @ table_vv.sum(1))
    all_pairs = len(first) ** 2
    return (alike - expected) / (all_pairs - expected) if expected < all_pairs else float("nan")


def best_of_n(scores_BN, values_BN, n: int) -> np.ndarray:
    """Expected value [B] of the completion that scores highest among n of each prompt's N, over every choice of n without
    replacement: less noisy than one group of n, and unbiased (Nakano et al. 2021). Equal scores are drawn evenly.
    """
    scores_BN, values_BN = np.asarray(scores_BN, np.float64), np.asarray(values_BN, np.float64)
    if scores_BN.shape != values_BN.shape or scores_BN.ndim != 2 or not 1 <= n <= scores_BN.shape[1]:
        raise InputError(f"best_of_n: n is {n}, of scores {scores_BN.shape} and values {values_BN.shape}")
    N = scores_BN.shape[1]
    ways = np.array([math.comb(i, n - 1) for i in range(N)], np.float64) / math.comb(N, n)
    found = []
    for scores_N, values_N in zip(scores_BN, values_BN):
        order = np.argsort(scores_N, kind="stable")
        _, level = np.unique(scores_N[order], return_inverse=True)
        shares = np.bincount(level, ways)
        means = np.bincount(level, values_N[order]) / np.bincount(level)
        found.append(float(shares @ means))
    return np.array(found)


def best_of_kl(n: int) -> float:
    """log n - (n - 1) / n nats: the KL of best-of-n from the policy it samples where no two completions score alike, and otherwise an
    upper bound on it (Beirami et al. 2024). It is computed, not measured, and holds for each prompt."""
    return math.log(n) - (n - 1) / n
