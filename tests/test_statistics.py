"""The laws of intervals, win rates and agreement, against worked numbers from the literature and simulated data."""

import math
import time

import numpy as np
import pytest

from instruct_jax.algorithms.statistics import (
    bootstrap_mean,
    krippendorff_alpha,
    paired_difference,
    pairwise_agreement,
    win_rate,
)
from instruct_jax.errors import InputError

NAN = math.nan


def test_the_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(2.0, 3.0, 1000)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(1000)
    assert interval.n == 1000
    np.testing.assert_allclose(interval.mean, values.mean())
    np.testing.assert_allclose(
        [interval.low, interval.high], values.mean() + np.array([-half, half]), atol=0.1 * half
    )


def coverage(clustered):
    """How often 95 % intervals over 60 prompts of 1-6 ratings each hold the true mean, 0."""
    held = 0
    for seed in range(400):
        generator = np.random.default_rng(seed)
        clusters = np.repeat(np.arange(60), generator.integers(1, 7, 60))
        values = generator.normal(size=60)[clusters] + generator.normal(scale=0.5, size=len(clusters))
        interval = bootstrap_mean(values, clusters if clustered else None, samples=400, seed=seed)
        held += interval.low <= 0 <= interval.high
    return held / 400


def test_95_percent_intervals_hold_the_truth_95_percent_of_the_time_when_clustered():
    assert 0.91 <= coverage(clustered=True) <= 0.98
    assert coverage(clustered=False) < 0.85


def test_the_names_of_clusters_do_not_matter_and_a_copied_value_adds_nothing():
    values, names = np.random.default_rng(0).normal(size=50), [f"prompt {i}" for i in range(50)]
    alone = bootstrap_mean(values, names)
    twice = bootstrap_mean(np.tile(values, 2), names * 2)
    np.testing.assert_allclose([twice.low, twice.high], [alone.low, alone.high], atol=0.03)
    assert (alone.n, twice.n) == (50, 100)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_one_cluster_has_a_mean_but_no_interval():
    interval = bootstrap_mean([1.0, 2.0], ["a", "a"])
    assert interval.mean == 1.5 and math.isnan(interval.low) and math.isnan(interval.high)


def test_2000_resamples_of_3000_clusters_take_under_a_second():
    values, clusters = np.random.default_rng(0).normal(size=9000), np.arange(9000) % 3000
    started = time.process_time()
    bootstrap_mean(values, clusters)
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    "values, clusters", [([], None), ([1.0, NAN], None), ([1.0, 2.0], ["a"]), ([[1.0]], None)]
)
def test_values_that_cannot_be_averaged_are_refused(values, clusters):
    with pytest.raises(InputError):
        bootstrap_mean(values, clusters)


def test_a_paired_difference_is_tighter_than_its_parts():
    generator = np.random.default_rng(0)
    shared, gain = generator.normal(scale=10, size=200), generator.normal(0.5, 0.1, 200)
    interval = paired_difference(shared + gain, shared)
    assert interval.low < 0.5 < interval.high and interval.high - interval.low < 0.05
    with pytest.raises(InputError):
        paired_difference([1.0, 2.0], [1.0])


def test_a_tie_is_half_a_win_and_stays_out_of_the_untied_rate():
    result = win_rate([2, 1, 1, 3, 5], [1, 2, 1, 3.05, 1], clusters=["p", "p", "q", "q", "r"], eps=0.1)
    assert result.ties == 2
    assert result.rate.mean == (2 + 0.5 * 2) / 5 and result.rate.n == 5
    assert result.untied.mean == 2 / 3 and result.untied.n == 3
    assert win_rate([1, 2], [1, 1], tie=0.0).rate.mean == 0.5


def test_win_rates_of_both_sides_sum_to_one():
    a, b = np.random.default_rng(0).integers(0, 4, (2, 100))
    there, back = win_rate(a, b), win_rate(b, a)
    np.testing.assert_allclose(there.rate.mean + back.rate.mean, 1)
    np.testing.assert_allclose(there.untied.mean + back.untied.mean, 1)


def test_all_ties_have_no_untied_rate():
    result = win_rate([1, 1], [1, 1])
    assert result.rate.mean == 0.5 and math.isnan(result.untied.mean) and result.untied.n == 0


def test_agreement_leaves_out_and_counts_pairs_that_either_labeler_tied():
    # Pairs (01, 02, 12): the first prompt agrees on 01 and 02, disagrees on 12; in the second 01 is tied by one labeler.
    result = pairwise_agreement([[[1, 2, 3], [1, 3, 2]], [[1, 1, 2], [1, 2, 3]]])
    assert result.tied == 1 and result.rate.n == 5 and result.rate.mean == 4 / 5


def test_agreement_compares_every_two_labelers_and_skips_what_one_did_not_rank():
    three = pairwise_agreement([[[1, 2], [1, 2], [2, 1]]])
    assert three.rate.mean == 1 / 3 and three.rate.n == 3
    for missing in ([0, 1, 2], [1, 0, 2], [1, 2, 0]):
        for vectors in ([[1, 2, 3], missing], [missing, [1, 2, 3]]):
            partly = pairwise_agreement([vectors, [[1, 2]]])
            assert partly.rate.n == 1 and partly.rate.mean == 1 and partly.tied == 0


def test_agreement_without_anything_to_compare_is_refused():
    with pytest.raises(InputError, match="1 tied"):
        pairwise_agreement([[[1, 1], [1, 2]]])
    with pytest.raises(InputError, match="prompt 0"):
        pairwise_agreement([[[1, 2], [1, 2, 3]]])


# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: 4 observers, 12 units, values missing.
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]


@pytest.mark.parametrize("level, alpha", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_krippendorffs_own(level, alpha):
    np.testing.assert_allclose(krippendorff_alpha(FOUR_OBSERVERS, level), alpha, atol=5e-4)


def test_alpha_of_two_observers_and_binary_data_is_krippendorffs_own():
    # Section A: ten units, alpha 0.095.
    table = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
    for level in ("nominal", "ordinal", "interval"):
        np.testing.assert_allclose(krippendorff_alpha(table, level), 0.095, atol=5e-4)


def test_alpha_is_one_on_agreement_near_zero_by_chance_and_undefined_without_variation():
    generator = np.random.default_rng(0)
    values = generator.integers(1, 8, 500)
    for level in ("nominal", "ordinal", "interval"):
        np.testing.assert_allclose(krippendorff_alpha([values, values, values], level), 1.0)
        assert abs(krippendorff_alpha(generator.integers(1, 8, (3, 2000)), level)) < 0.05
    with np.errstate(all="raise"):
        assert math.isnan(krippendorff_alpha([[2, 2], [2, 2]], "nominal"))


def test_alpha_refuses_an_unknown_level_and_a_table_without_overlap():
    with pytest.raises(InputError, match="level"):
        krippendorff_alpha([[1, 2], [1, 2]], "ratio")
    with pytest.raises(InputError, match="two values"):
        krippendorff_alpha([[1, NAN], [NAN, 2]], "nominal")
