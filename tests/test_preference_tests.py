"""Paired tests, the win rate at equal length, agreement and best-of-n, against scipy, scikit-learn, brute force and hand counts."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score

from instruct_jax.algorithms import preference_tests as tests
from instruct_jax.errors import InputError


@pytest.mark.parametrize("wins, losses", [(9, 1), (5, 5), (60, 41), (0, 3), (1200, 900)])
def test_the_sign_test_is_scipys_binomial_test_and_leaves_ties_out(wins, losses):
    values = [1.0] * wins + [-1.0] * losses + [0.0] * 7
    assert tests.sign_test(values) == pytest.approx(stats.binomtest(wins, wins + losses).pvalue, rel=1e-9)


def test_the_sign_test_counts_a_prompt_once():
    values, prompts = [0.5, 0.5, -0.5, 0.5, -0.5], ["a", "a", "b", "c", "c"]  # up, down, level
    assert tests.sign_test(values, prompts) == 1.0
    assert tests.sign_test([0.5] * 20, [1] * 20) == 1.0
    assert tests.sign_test([0.0, 0.0]) == tests.permutation_test([0.0]) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_the_permutation_test_is_scipys(seed):
    few = np.random.default_rng(seed).normal(0.4, 1.0, 10)
    want = stats.permutation_test((few,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert tests.permutation_test(few) == pytest.approx(want, abs=1e-12)
    many = np.random.default_rng(seed).normal(0.15, 1.0, 150)
    want = stats.ttest_1samp(many, 0).pvalue  # near it for so many normal values
    assert tests.permutation_test(many) == pytest.approx(want, abs=0.02)


def test_copies_within_a_prompt_do_not_make_a_difference_surer():
    values = np.random.default_rng(0).normal(0.3, 1.0, 40)
    alone = tests.permutation_test(values)
    assert tests.permutation_test(np.repeat(values, 5), np.repeat(np.arange(40), 5)) == alone
    assert tests.permutation_test(np.repeat(values, 5)) < alone / 5


def test_paired_tests_reject_a_null_that_holds_as_often_as_they_say():
    rejected = 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        prompts = np.repeat(np.arange(30), 4)
        values = generator.normal(size=30)[prompts] + generator.normal(size=120)
        rejected += tests.permutation_test(values, prompts, samples=400) <= 0.05
    assert rejected / 300 == pytest.approx(0.05, abs=0.03)


def penalised(x, outcomes):
    """The same regression by scikit-learn: each item once as a win and once as a loss, weighted by its outcome."""
    twice = np.stack([np.ones(2 * len(x)), np.tile(x, 2)], 1)
    model = LogisticRegression(C=1 / tests.PRECISION, fit_intercept=False, tol=1e-10, max_iter=1000)
    model.fit(twice, [1] * len(x) + [0] * len(x), np.concatenate([outcomes, 1 - outcomes]))
    return model.coef_[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_regression_is_scikit_learns(seed):
    generator = np.random.default_rng(seed)
    x, outcomes = np.tanh(generator.normal(size=200)), generator.choice([0, 0.5, 1], 200)
    found = tests.fit_logistic(np.ones((1, 200)), x, outcomes, np.zeros((1, 2)))[0]
    np.testing.assert_allclose(found, penalised(x, outcomes), atol=1e-5)
    one_sided = tests.fit_logistic(np.ones((1, 200)), x, np.ones(200), np.zeros((1, 2)))[0]
    np.testing.assert_allclose(one_sided, penalised(x, np.ones(200)), atol=1e-3)


def simulated(seed, quality, taste, n=400, drift=80.0):
    """Outcomes of a judge with a known taste for length, of a model that writes `drift` characters more."""
    generator = np.random.default_rng(seed)
    gaps = generator.normal(drift, 100.0, n)
    odds = quality + taste * np.tanh(gaps / gaps.std())
    return (generator.random(n) < 1 / (1 + np.exp(-odds))).astype(float), gaps, np.arange(n), ["judge"] * n


def test_length_control_takes_away_what_length_won_and_nothing_else():
    outcomes, gaps, *labels = simulated(0, quality=0.0, taste=1.5, n=20_000)
    assert outcomes.mean() > 0.65  # no better, only longer
    fair = tests.length_controlled(outcomes, gaps, *labels, samples=0)
    assert fair.rate.mean == pytest.approx(0.5, abs=0.015) and fair.slope == pytest.approx(1.5, abs=0.08)
    outcomes, gaps, *labels = simulated(1, quality=0.8, taste=0.0, n=20_000)
    fair = tests.length_controlled(outcomes, gaps, *labels, samples=0)
    assert fair.rate.mean == pytest.approx(1 / (1 + math.exp(-0.8)), abs=0.015)
    assert fair.slope == pytest.approx(0.0, abs=0.08)


def test_the_interval_at_equal_length_holds_the_truth_95_percent_of_the_time():
    truth, held = 1 / (1 + math.exp(-0.5)), 0
    for seed in range(80):
        found = tests.length_controlled(*simulated(seed, 0.5, 1.0, n=150), samples=100).rate
        held += found.low <= truth <= found.high
    assert 0.88 <= held / 80 <= 0.99


def test_equal_lengths_leave_the_win_rate_and_wins_alone_leave_it_finite():
    found = tests.length_controlled([1, 1, 0, 0.5], [3, 3, 3, 3], list("abcd"), ["x"] * 4)
    assert found.rate.mean == pytest.approx(0.625, abs=0.002) and found.slope == 0
    found = tests.length_controlled([1.0] * 30, np.arange(30), range(30), [0] * 30)
    assert 0.97 < found.rate.low <= found.rate.mean < 1
    alone = tests.length_controlled([1.0, 0.0], [5, -5], ["a"] * 2, ["x"] * 2).rate
    assert math.isnan(alone.low) and alone.mean == pytest.approx(0.5)


def test_cohens_kappa_is_scikit_learns():
    generator = np.random.default_rng(0)
    first = generator.choice(["win", "tie", "loss"], 300, p=[0.5, 0.2, 0.3])
    second = np.where(generator.random(300) < 0.6, first, generator.permutation(first))
    assert tests.cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    assert tests.cohen_kappa([1, 0], [1, 0]) == 1.0
    assert all(math.isnan(tests.cohen_kappa([1] * n, [1] * n)) for n in range(1, 50))


def test_best_of_n_is_the_mean_over_every_group_of_n():
    generator = np.random.default_rng(0)
    scores, values = generator.integers(0, 4, (3, 6)).astype(float), generator.normal(size=(3, 6))
    for n in (1, 2, 4, 6):
        for b in range(3):
            groups = [list(group) for group in itertools.combinations(range(6), n)]
            best = [[i for i in group if scores[b, i] == scores[b, group].max()] for group in groups]
            want = np.mean([values[b, tied].mean() for tied in best])
            assert tests.best_of_n(scores, values, n)[b] == pytest.approx(want)
    np.testing.assert_allclose(tests.best_of_n(scores, values, 1), values.mean(axis=1))


def test_the_kl_of_best_of_n_is_that_of_a_uniform_drawn_n_times():
    """The best of n uniform scores has density n u^(n-1): its KL from the uniform is the integral of p log p."""
    u = (np.arange(200_000) + 0.5) / 200_000
    for n in (1, 2, 8, 64):
        density = n * u ** (n - 1)
        want = np.mean(density * np.log(np.maximum(density, 1e-300)))
        assert tests.best_of_kl(n) == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tests.sign_test([]),
        lambda: tests.permutation_test([1.0, math.nan]),
        lambda: tests.sign_test([1.0], ["a", "b"]),
        lambda: tests.length_controlled([1.0], [1, 2], ["a"], ["x"]),
        lambda: tests.cohen_kappa([1], []),
        lambda: tests.best_of_n([[1.0, 2.0]], [[1.0, 2.0]], 3),
    ],
)
def test_what_cannot_be_tested_is_refused(call):
    with pytest.raises(InputError):
        call()
