"""Paired profiles against SciPy, all sign flips by hand, and simulations under the null."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy

from interp.errors import BadInput
from interp.stats import bounded_band, first_detected, mean_band, paired_profile
from interp.stats.classical import holm

RNG = np.random.default_rng(5)
A = RNG.normal(size=(9, 4)) + np.array([0.0, 0.3, 1.0, 2.0])
B = RNG.normal(size=(9, 4))


def test_means_intervals_and_ranks_are_those_of_scipy():
    found = paired_profile(A, B, confidence=0.9)
    test = scipy.stats.ttest_rel(A, B)
    np.testing.assert_allclose(found["t"], test.statistic, rtol=1e-10)
    interval = test.confidence_interval(0.9)
    np.testing.assert_allclose(found["low"], interval.low, rtol=1e-10)
    np.testing.assert_allclose(found["high"], interval.high, rtol=1e-10)
    np.testing.assert_allclose(found["mean_a"] - found["mean_b"], found["difference"], atol=1e-12)
    ranks = scipy.stats.wilcoxon(A - B).pvalue
    np.testing.assert_allclose(found["wilcoxon_p"], ranks)
    np.testing.assert_allclose(found["wilcoxon_p_holm"], holm(ranks))


def test_p_values_are_those_of_all_sign_flips():
    """The 2⁹ flips one by one, with the paired t of each."""
    found = paired_profile(A, B)
    d = A - B
    flips = np.array(list(product((1.0, -1.0), repeat=len(d))))
    null = np.abs([scipy.stats.ttest_1samp(s[:, None] * d, 0).statistic for s in flips])
    seen = np.abs(scipy.stats.ttest_1samp(d, 0).statistic) * (1 - 1e-9)
    np.testing.assert_allclose(found["p"], (null >= seen).mean(0))
    np.testing.assert_allclose(found["p_max"], (null.max(1)[:, None] >= seen).mean(0))
    assert (found["p_max"] >= found["p"]).all()


def test_a_pair_without_one_value_is_left_out_of_that_layer_only():
    a = A.copy()
    a[2, 1] = np.nan
    found = paired_profile(a, B)
    assert found["pairs"].tolist() == [9, 8, 9, 9]
    whole = np.delete(np.arange(9), 2)
    assert found["mean_b"][1] == pytest.approx(B[whole, 1].mean())
    assert found["t"][1] == pytest.approx(scipy.stats.ttest_rel(A[whole, 1], B[whole, 1]).statistic)


def test_equal_values_have_a_difference_of_exactly_zero_and_no_test():
    found = paired_profile(A, A)
    assert (found[["difference", "low", "high"]] == 0).all(axis=None)
    assert found[["t", "p", "p_max", "wilcoxon_p"]].isna().all(axis=None)
    assert first_detected(found["p_max"]) is None


def test_one_pair_has_a_mean_and_nothing_else():
    found = paired_profile(A[:1], B[:1])
    assert found["difference"].tolist() == pytest.approx((A - B)[0].tolist())
    assert found[["low", "p", "p_max"]].isna().all(axis=None)


def test_a_mean_band_leaves_out_what_is_undefined():
    x = np.array([[1.0, np.nan], [2.0, 4.0], [6.0, np.nan]])
    mean, low, high = mean_band(x, 0.8)
    expected = scipy.stats.t.interval(0.8, 2, 3.0, scipy.stats.sem(x[:, 0]))
    assert (mean[0], low[0], high[0]) == pytest.approx((3.0, *expected))
    assert mean[1] == 4.0
    assert np.isnan(low[1])


@pytest.mark.parametrize("pairs", [6, 12])
def test_false_alarms_are_as_frequent_as_allowed(pairs):
    """Skewed values, correlated over layers: one sided alarms of the maximum, and of each layer."""
    rng = np.random.default_rng(pairs)
    runs, alarms, single = 500, 0, 0.0
    for seed in range(runs):
        a, b = np.exp(rng.normal(size=(2, pairs, 6)).cumsum(axis=-1) / 2)
        found = paired_profile(a, b, resamples=199, seed=seed)
        alarms += bool((found["p_max"] < 0.05).any())
        single += (found["p"] < 0.05).mean()
    low, high = scipy.stats.binom.interval(0.999, runs, 0.05)
    assert alarms <= high
    assert single <= high
    # 64 flips of 6 pairs give multiples of 1/32, so that the true level is 1/32.
    assert alarms >= (low if pairs > 6 else scipy.stats.binom.ppf(0.0005, runs, 1 / 32))


def test_the_first_layer_that_is_found_does_differ():
    """A difference from layer 3 on: an earlier one is named in no more than 5 % of cases."""
    rng = np.random.default_rng(1)
    early, found = 0, 0
    for seed in range(200):
        a, b = rng.normal(size=(2, 12, 6))
        a[:, 3:] += 1.5
        first = first_detected(paired_profile(a, b, resamples=199, seed=seed)["p_max"])
        early += first is not None and first < 3
        found += first is not None
    assert early <= scipy.stats.binom.ppf(0.9995, 200, 0.05)
    assert found > 150


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(BadInput, match=r"a \(9, 4\) and b \(9, 3\): both are \[pairs, layers\]"):
        paired_profile(A, B[:, :3])
    with pytest.raises(BadInput, match="confidence is 2; it must lie between 0 and 1"):
        paired_profile(A, B, confidence=2)


# ---- intervals within a range --------------------------------------------------------------------


def test_the_interval_of_correlations_is_fishers():
    """By arctanh of the mean with the error of the delta method, in plain NumPy."""
    r = RNG.uniform(-0.4, 0.99, size=(7, 3))
    mean, low, high = bounded_band(r, -1, 1, 0.9)
    half = scipy.stats.t.ppf(0.95, 6) * r.std(axis=0, ddof=1) / np.sqrt(7) / (1 - r.mean(0) ** 2)
    np.testing.assert_allclose(mean, r.mean(axis=0))
    np.testing.assert_allclose(low, np.tanh(np.arctanh(r.mean(axis=0)) - half))
    np.testing.assert_allclose(high, np.tanh(np.arctanh(r.mean(axis=0)) + half))


def test_an_interval_above_zero_is_that_of_the_logarithm():
    x = RNG.lognormal(size=(6, 4))
    mean, low, high = bounded_band(x, 0)
    half = scipy.stats.t.ppf(0.975, 5) * x.std(axis=0, ddof=1) / np.sqrt(6) / mean
    np.testing.assert_allclose(low, np.exp(np.log(mean) - half))
    np.testing.assert_allclose(high, np.exp(np.log(mean) + half))


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 180), (0, 2), (0, np.inf)])
def test_no_interval_leaves_its_range(low, high):
    """Values at both ends of the range, where Student's interval is far outside."""
    top = 1000.0 if np.isinf(high) else high
    x = low + (top - low) * RNG.beta(0.2, 0.3, size=(5, 400))
    mean, bottom, above = bounded_band(x, low, high)
    assert (bottom >= low).all()
    assert (above <= high).all()
    assert (bottom <= mean).all()
    assert (mean <= above).all()
    assert (mean_band(x)[1] < low).any()


def test_few_values_have_no_interval_and_equal_ones_are_their_own():
    mean, low, high = bounded_band(np.array([[0.1], [0.5], [0.9]]), -1, 1)
    assert mean == pytest.approx(0.5)
    assert np.isnan(low)
    assert np.isnan(high)
    for end in (-1.0, 0.3, 1.0):
        assert all(x == end for x in bounded_band(np.full((5, 1), end), -1, 1))


@pytest.mark.parametrize("pairs", [4, 8, 20])
def test_the_interval_within_a_range_covers_the_mean(pairs):
    """Skewed correlations and angles; Student's interval misses more often in each case."""
    draws = RNG.beta(3, 1, size=(pairs, 4000)), np.minimum(RNG.gamma(4, 5, (pairs, 4000)), 180)
    for x, truth, ends in ((2 * draws[0] - 1, 0.5, (-1, 1)), (draws[1], 20.0, (0, 180))):
        missed = [(low > truth) | (high < truth) for _, low, high in (
            bounded_band(x, *ends), mean_band(x))]  # fmt: skip
        assert missed[0].mean() < 0.066
        assert missed[0].mean() <= missed[1].mean()
