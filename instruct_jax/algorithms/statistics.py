"""Home of every number with an error bar: bootstrap intervals, win rates, agreement between labelers.

Numpy, on the host. Differs from the paper in saying what its 95 % intervals are: percentile bootstrap over
prompts, because ratings of one prompt are not independent. Its tie rule is not stated either; a tie is worth
half a win here, and the rate without ties stands beside it.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from instruct_jax.errors import InputError


@dataclass(frozen=True)
class Interval:
    """A mean of n values with its 95 % interval; bounds are nan where there are fewer than two clusters."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Agreement:
    """How often labelers order a pair alike, over the pairs that neither tied; `tied` pairs are left out."""

    rate: Interval
    tied: int


@dataclass(frozen=True)
class WinRate:
    """How often a beats b, over all items and over the untied ones alone; `ties` counts the tied."""

    rate: Interval
    untied: Interval
    ties: int


def bootstrap_mean(values, clusters=None, samples=2000, seed=0) -> Interval:
    """Mean of values [n] with a percentile-bootstrap 95 % interval over clusters (labels [n]: prompt ids).

    Every value counts once, so a large cluster weighs more. Values that are all equal give a width of 0: for
    a rate near 0 or 1 over few prompts the interval is too narrow. Raises InputError on no values, on values
    that are not finite, or where lengths differ.
    """
    values_n = np.asarray(values, np.float64)
    if values_n.ndim != 1 or values_n.size == 0:
        raise InputError(f"bootstrap_mean: values must be a non-empty vector, got shape {values_n.shape}")
    if not np.isfinite(values_n).all():
        raise InputError("bootstrap_mean: values hold nan or infinity; leave missing values out before")
    sums, counts = _cluster_sums(values_n, clusters)
    mean = float(values_n.mean())
    if len(sums) < 2:
        return Interval(mean, float("nan"), float("nan"), values_n.size)
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    block = max(1, 200_000 // len(sums))
    for start in range(0, samples, block):
        stop = min(start + block, samples)
        drawn = generator.integers(0, len(sums), (stop - start, len(sums)), dtype=np.int32)
        means[start:stop] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(mean, float(low), float(high), values_n.size)


def bootstrap_mean_crossed(values, rows, columns, samples=2000, seed=0) -> Interval:
    """Mean of values [n] with a percentile-bootstrap 95 % interval over two crossed labels [n], such as prompt and labeler.

    Each sample draws rows and columns independently and weighs a value by how often both were drawn (the pigeonhole bootstrap of
    Owen 2007, which is rather too wide than too narrow). A label with a single value is not drawn; bounds are nan where both have
    one. Raises InputError on no values or where lengths differ.
    """
    values_n = np.asarray(values, np.float64)
    if values_n.ndim != 1 or not values_n.size or not values_n.shape == np.shape(rows) == np.shape(columns):
        raise InputError(
            f"bootstrap_mean_crossed: {values_n.size} values, {len(rows)} rows, {len(columns)} columns; give one each"
        )
    mean, means = float(values_n.mean()), []
    for weights in crossed_weights(rows, columns, samples, seed):
        means.append(weights @ values_n / weights.sum(axis=1))
    if not means:
        return Interval(mean, float("nan"), float("nan"), values_n.size)
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(mean, float(low), float(high), values_n.size)


def crossed_weights(rows, columns, samples, seed) -> Iterator[np.ndarray]:
    """Blocks [s, n] of how often each sample draws each value, for labels [n] of rows and of columns; in all about `samples`, without
    those whose rows and columns miss each other. No block where both have a single label.
    """
    labels = [np.unique(np.asarray(names), return_inverse=True)[1] for names in (rows, columns)]
    drawn = [which_n for which_n in labels if which_n.max()]
    generator, size = np.random.default_rng(seed), len(labels[0])
    block = max(1, 1_000_000 // size)
    for start in range(0, samples if drawn else 0, block):
        weights = np.ones((min(block, samples - start), size))
        for which_n in drawn:
            count = which_n.max() + 1
            weights *= generator.multinomial(count, np.full(count, 1 / count), len(weights))[:, which_n]
        yield weights[weights.sum(axis=1) > 0]


def _cluster_sums(values_n, clusters):
    if clusters is None:
        return values_n, np.ones_like(values_n)
    clusters_n = np.asarray(clusters)
    if clusters_n.shape != values_n.shape:
        raise InputError(
            f"clusters: shape {clusters_n.shape} for {values_n.size} values; give one label per value"
        )
    _, which_n = np.unique(clusters_n, return_inverse=True)
    return np.bincount(which_n, values_n), np.bincount(which_n).astype(np.float64)


def paired_difference(a_scores, b_scores, clusters=None, samples=2000, seed=0) -> Interval:
    """Mean of a - b over items [n] scored by both, with interval; InputError where the lengths differ."""
    a_n, b_n = _pair(a_scores, b_scores)
    return bootstrap_mean(a_n - b_n, clusters, samples, seed)


def win_rate(a_scores, b_scores, clusters=None, tie=0.5, eps=0.0, samples=2000, seed=0) -> WinRate:
    """Fraction of items [n] on which a scores above b, intervals clustered by prompt.

    |a - b| <= eps is a tie and counts `tie` of a win; the untied rate is nan with n 0 where everything is
    tied. Raises InputError where the lengths differ or nothing is given.
    """
    a_n, b_n = _pair(a_scores, b_scores)
    tied_n = np.abs(a_n - b_n) <= eps
    wins_n = np.where(tied_n, tie, a_n > b_n)
    untied = Interval(float("nan"), float("nan"), float("nan"), 0)
    if not tied_n.all():
        kept = None if clusters is None else np.asarray(clusters)[~tied_n]
        untied = bootstrap_mean(wins_n[~tied_n], kept, samples, seed)
    return WinRate(bootstrap_mean(wins_n, clusters, samples, seed), untied, int(tied_n.sum()))


def _pair(a_scores, b_scores):
    a_n, b_n = np.asarray(a_scores, np.float64), np.asarray(b_scores, np.float64)
    if a_n.ndim != 1 or a_n.shape != b_n.shape:
        raise InputError(
            f"scores: a and b must be vectors over the same items, got {a_n.shape} and {b_n.shape}"
        )
    return a_n, b_n


def pairwise_agreement(prompts: Sequence[Sequence[Sequence[int]]], samples=2000, seed=0) -> Agreement:
    """How often two labelers order a pair of completions alike, interval clustered on prompt (section 3.4).

    `prompts` holds per prompt the labelers' rank vectors over the same K completions (1 best, equal is a tie,
    0 not ranked). Every two labelers are compared on every pair; one that either of them tied is left out and
    counted in `tied`. Raises InputError where vectors of one prompt differ in length or nothing can be
    compared.
    """
    agreed, clusters, tied = [], [], 0
    for index, vectors in enumerate(prompts):
        if len({len(vector) for vector in vectors}) > 1:
            raise InputError(f"prompt {index}: rank vectors differ in length; rank the same completions")
        if len(vectors) < 2:
            continue
        ranks = np.asarray(vectors)
        i, j = _pairs_among(ranks.shape[1])
        ranked = (ranks[:, i] > 0) & (ranks[:, j] > 0)
        order = np.where(ranked, np.sign(ranks[:, i] - ranks[:, j]), 0)
        first, second = (order < 0).sum(axis=0), (order > 0).sum(axis=0)
        alike = _pairs_of(first) + _pairs_of(second)
        decided = _pairs_of(first + second)
        tied += int((_pairs_of(ranked.sum(axis=0)) - decided).sum())
        same = np.repeat([1.0, 0.0], [int(alike.sum()), int((decided - alike).sum())])
        agreed.append(same)
        clusters.append(np.full(len(same), index))
    agreed, clusters = (np.concatenate(parts) if parts else np.zeros(0) for parts in (agreed, clusters))
    if not len(agreed):
        raise InputError(f"no pair was ordered by two labelers ({tied} tied); give overlapping rankings")
    return Agreement(bootstrap_mean(agreed, clusters, samples, seed), tied)


def krippendorff_alpha(table, level) -> float:
    """Krippendorff's alpha of a table [labelers, items], nan where a labeler gave no value.

    `level` is "nominal", "ordinal" or "interval". 1 is perfect agreement, 0 is chance; nan where all values
    are equal, which leaves nothing to agree on. Raises InputError on another level, or where no item has two
    values. (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".)
    """
    levels_v, counts_uv, _ = _counts(table)
    coincidence_vv = _coincidence(counts_uv).sum(axis=0)
    return float(_alpha(coincidence_vv[None], levels_v, level)[0])


def krippendorff_interval(table, level, clusters, samples=1000, seed=0) -> Interval:
    """Krippendorff's alpha of a table [labelers, items] with a percentile-bootstrap 95 % interval over clusters.

    `clusters` [items] says which items belong together (outputs of one prompt). n counts the items with two values. Bounds are
    nan with fewer than two clusters or no alpha; samples in which all values are equal are left out. Raises InputError as
    krippendorff_alpha.
    """
    levels_v, counts_uv, kept_u = _counts(table)
    clusters_u = np.unique(np.asarray(clusters)[kept_u], return_inverse=True)[1]
    groups = clusters_u.max() + 1
    parts_gvv = np.zeros((groups, len(levels_v), len(levels_v)))
    np.add.at(parts_gvv, clusters_u, _coincidence(counts_uv))
    alpha = float(_alpha(parts_gvv.sum(axis=0)[None], levels_v, level)[0])
    low = high = float("nan")
    if groups > 1 and np.isfinite(alpha):
        generator = np.random.default_rng(seed)
        drawn_svv = np.empty((samples, *parts_gvv.shape[1:]))
        block = max(1, 1_000_000 // groups)
        for start in range(0, samples, block):
            stop = min(start + block, samples)
            which = generator.integers(0, groups, (stop - start, groups))
            which += np.arange(stop - start)[:, None] * groups
            weights_sg = np.bincount(which.ravel(), minlength=which.size).reshape(which.shape)
            drawn_svv[start:stop] = np.tensordot(weights_sg.astype(np.float64), parts_gvv, 1)
        drawn = _alpha(drawn_svv, levels_v, level)
        if np.isfinite(drawn).any():
            low, high = (float(x) for x in np.percentile(drawn[np.isfinite(drawn)], [2.5, 97.5]))
    return Interval(alpha, low, high, len(counts_uv))


@functools.lru_cache(maxsize=64)
def _pairs_among(k):
    """The indices of all pairs of k things."""
    return np.triu_indices(k, 1)


def _pairs_of(counts):
    """How many pairs there are among `counts` things."""
    return counts * (counts - 1) // 2


def _counts(table):
    """(the values, how often each item [u] got each of them, which items of the table those are: two values or more)."""
    table = np.asarray(table, np.float64)
    if table.ndim != 2 or not (np.isfinite(table).sum(axis=0) >= 2).any():
        raise InputError(f"table: shape {table.shape} has no item (column) with two values")
    kept_u = np.isfinite(table).sum(axis=0) >= 2
    levels_v = np.unique(table[:, kept_u][np.isfinite(table[:, kept_u])])
    return levels_v, (table[:, kept_u, None] == levels_v).sum(axis=0).astype(np.float64), kept_u


def _coincidence(counts_uv):
    """What each item adds to the coincidence matrix [u, v, v]."""
    pairs_uvv = counts_uv[:, :, None] * counts_uv[:, None, :]
    diagonal = np.arange(counts_uv.shape[1])
    pairs_uvv[:, diagonal, diagonal] -= counts_uv
    return pairs_uvv / (counts_uv.sum(axis=1) - 1)[:, None, None]


def _alpha(coincidence_svv, levels_v, level):
    """Alpha of each coincidence matrix [s, v, v]; nan where all values are equal."""
    totals_sv = coincidence_svv.sum(axis=2)
    distance_svv = _distance(levels_v, totals_sv, level)
    observed_s = (coincidence_svv * distance_svv).sum(axis=(1, 2))
    expected_s = (totals_sv[:, :, None] * totals_sv[:, None, :] * distance_svv).sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(
            expected_s > 0, 1 - (totals_sv.sum(axis=1) - 1) * observed_s / expected_s, float("nan")
        )


def _distance(levels_v, totals_sv, level):
    if level == "nominal":
        return (levels_v[:, None] != levels_v).astype(np.float64)[None]
    if level == "interval":
        return ((levels_v[:, None] - levels_v) ** 2)[None]
    if level == "ordinal":
        # The number of values between two ranks, each end counted half.
        middle_sv = np.cumsum(totals_sv, axis=1) - totals_sv / 2
        return (middle_sv[:, :, None] - middle_sv[:, None, :]) ** 2
    raise InputError(f'level: {level!r} is not known; use "nominal", "ordinal" or "interval"')


# 97.5 % quantiles of Student's t for 1 to 20 degrees of freedom.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip


def student_mean(values) -> Interval:
    """Mean of a few independent values [n] (one a seed) with Student's 95 % interval, nan bounds where there is one.

    A bootstrap of three values is far too narrow. Above 21 values the interval is up to 6 % wider than it need be.
    """
    values_n = np.asarray(values, np.float64)
    mean, count = float(values_n.mean()), len(values_n)
    if count < 2:
        return Interval(mean, float("nan"), float("nan"), count)
    reach = float(_STUDENT[min(count - 1, len(_STUDENT)) - 1] * values_n.std(ddof=1) / np.sqrt(count))
    return Interval(mean, mean - reach, mean + reach, count)
