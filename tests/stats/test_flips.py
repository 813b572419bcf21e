"""Sign flips that add up: against all flips by hand, in parts, and under the null hypothesis."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy

from interp.stats import bounded_band, mean_band, paired_profile
from interp.stats.flips import flip_signs, flip_test, moment_band


def outcome(x, resamples=999, seed=0, numbers=None):
    """The test of differences `[pairs, k]`, NaN where undefined, from their sums."""
    known = np.isfinite(x)
    n = known.sum(axis=0).astype(float)
    mean = np.nansum(x, axis=0) / n
    m2 = np.nansum((x - mean) ** 2, axis=0)
    signs = flip_signs(range(len(x)) if numbers is None else numbers, resamples, seed)
    return flip_test(n, mean, m2, signs @ np.nan_to_num(x))


def by_hand(x, signs):
    """t of every row of signs `[ways, pairs]`, by the definition of the paired t: `[ways, k]`."""
    flipped = signs[:, :, None] * x[None]
    n = np.isfinite(flipped).sum(axis=1)
    return np.nanmean(flipped, axis=1) / (np.nanstd(flipped, axis=1, ddof=1) / np.sqrt(n))


def test_p_is_the_share_of_the_same_flips_by_hand():
    rng = np.random.default_rng(1)
    x = rng.normal(0.3, 1, (25, 4)) + rng.normal(size=(25, 1))
    signs = flip_signs(range(25), 499, 7)
    t = by_hand(x, signs)
    found = outcome(x, 499, 7)
    np.testing.assert_allclose(found.t, t[0], rtol=1e-12)
    np.testing.assert_allclose(found.t, scipy.stats.ttest_1samp(x, 0).statistic, rtol=1e-12)
    p = (1 + (np.abs(t[1:]) >= np.abs(t[0]) * (1 - 1e-9)).sum(axis=0)) / 500
    top = np.abs(t[1:]).max(axis=1)[:, None]
    p_max = (1 + (top >= np.abs(t[0]) * (1 - 1e-9)).sum(axis=0)) / 500
    np.testing.assert_array_equal(found.p, p)
    np.testing.assert_array_equal(found.p_max, p_max)


def test_p_converges_to_that_of_all_flips():
    x = np.random.default_rng(2).normal(0.5, 1, (9, 1))
    ways = np.array(list(itertools.product([1.0, -1.0], repeat=9)))
    t = np.abs(by_hand(x, ways))[:, 0]
    whole = (t >= t[0] * (1 - 1e-9)).mean()
    found = outcome(x, 20_000)
    error = 4 * np.sqrt(whole * (1 - whole) / 20_000)
    assert found.p[0] == pytest.approx(whole, abs=error)
    assert found.p[0] == pytest.approx(paired_profile(x, 0 * x)["p"][0], abs=error)


def test_signs_of_a_pair_are_its_own_and_parts_add_up():
    x = np.random.default_rng(3).normal(size=(40, 3))
    whole = flip_signs(range(40), 200, 5) @ x
    parts = sum(flip_signs(range(i, i + 8), 200, 5) @ x[i : i + 8] for i in range(0, 40, 8))
    np.testing.assert_allclose(parts, whole, atol=1e-12)
    signs = flip_signs(range(2000), 100, 5)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert (signs[0] == 1).all()
    assert abs(signs[1:].mean()) < 4 / np.sqrt(signs[1:].size)
    pairs = np.corrcoef(signs[1:].T[:200])
    assert np.abs(pairs[np.triu_indices(200, 1)]).mean() < 0.12  # 1/√100 by chance
    assert (flip_signs([3], 100, 5) != flip_signs([3], 100, 6)).any()


def test_what_cannot_be_tested_is_nan_and_spoils_no_other_column():
    x = np.random.default_rng(4).normal(1, 1, (12, 4))
    x[:, 1] = 0
    x[1:, 2] = np.nan
    found = outcome(x)
    np.testing.assert_array_equal(np.isnan(found.t), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(found.p_max), [False, True, True, False])
    alone = outcome(x[:, [0, 3]])
    np.testing.assert_array_equal(found.p_max[[0, 3]], alone.p_max)


def test_a_difference_that_is_the_same_in_all_pairs_has_the_smallest_p():
    found = outcome(np.full((30, 1), 0.1), 999)
    assert found.p[0] == found.p_max[0] == 1 / 1000


def test_columns_with_other_numbers_of_pairs_are_compared_on_one_scale():
    """As `paired_profile` does: a column of few pairs must not dominate the maximum."""
    rng = np.random.default_rng(5)
    x = rng.normal(0.4, 1, (30, 3))
    x[5:, 1] = np.nan
    found, whole = outcome(x, 4000), paired_profile(x, 0 * x, resamples=4000)
    np.testing.assert_allclose(found.p_max, whole["p_max"], atol=0.04)


def test_false_alarms_are_as_frequent_as_allowed():
    """Correlated columns without any difference; skewed values, as distances have."""
    rng = np.random.default_rng(6)
    runs, alarms = 400, np.zeros(2)
    for run in range(runs):
        left, right = (rng.gamma(2, 1, (20, 1)) + rng.gamma(1, 1, (20, 6)) for _ in range(2))
        found = outcome(left - right, 199, seed=run)
        alarms += (found.p[0] < 0.05, (found.p_max < 0.05).any())
    error = 3.3 * np.sqrt(0.05 * 0.95 / runs)
    assert (np.abs(alarms / runs - 0.05) < error).all(), alarms / runs


@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (0, np.inf), (0, 2)])
def test_intervals_are_those_of_the_values(low, high):
    x = np.random.default_rng(7).uniform(0.1, 1.9, (15, 3))
    n, mean = np.full(3, 15.0), x.mean(axis=0)
    found = moment_band(n, mean, ((x - mean) ** 2).sum(axis=0), low, high, 0.9)
    whole = bounded_band(x, low, high, 0.9) if np.isfinite(low) else mean_band(x, 0.9)
    np.testing.assert_allclose(found, whole[1:], rtol=1e-12)
    few = moment_band(np.full(3, 3.0), mean, np.ones(3), low, high)
    assert np.isnan(few).all()
