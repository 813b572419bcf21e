"""Classical tests and effect sizes, against SciPy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate
from scipy import stats as scipy_stats
from stats_help import FULL, dropped, ragged, rng_of, within_band

from interp.stats.classical import (
    benjamini_hochberg,
    hedges_g,
    holm,
    moments,
    paired_effects,
    paired_test,
    student_from_moments,
    welch_from_moments,
)


@pytest.fixture
def two_groups():
    rng = rng_of(1)
    return ragged(rng, 17, 6) * 3 + 100, ragged(rng, 9, 6) + 101


def test_moments_are_those_of_the_finite_entries(two_groups):
    n, mean, m2 = moments(two_groups[0])
    for k, column in enumerate(two_groups[0].T):
        x = dropped(column)
        np.testing.assert_allclose([n[k], mean[k], m2[k]], [len(x), x.mean(), x.var() * len(x)])


def test_moments_of_nothing_and_of_a_constant():
    n, mean, m2 = moments(np.empty((0, 2)))
    assert n.tolist() == [0, 0]
    assert np.isnan(mean).all()
    assert moments(np.full((7, 1), 0.1))[2].item() == 0.0
    assert m2.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("ours", "equal_var"), [(welch_from_moments, False), (student_from_moments, True)]
)
def test_t_tests_agree_with_scipy(two_groups, ours, equal_var):
    a, b = two_groups
    found = ours(*moments(a), *moments(b))
    theirs = scipy_stats.ttest_ind(a, b, equal_var=equal_var, nan_policy="omit")
    np.testing.assert_allclose(found.t, theirs.statistic, rtol=1e-10)
    np.testing.assert_allclose(found.p, theirs.pvalue, rtol=1e-9)
    np.testing.assert_allclose(found.df, theirs.df, rtol=1e-10)


def test_t_tests_from_merged_moments_are_those_of_the_whole():
    rng = rng_of(2)
    a, b = rng.normal(size=(30, 4)), rng.normal(size=(20, 4))
    (n1, m1, s1), (n2, m2, s2) = moments(a[:11]), moments(a[11:])
    n, gap = n1 + n2, m2 - m1
    merged = (n, m1 + gap * n2 / n, s1 + s2 + gap**2 * n1 * n2 / n)
    whole = welch_from_moments(*moments(a), *moments(b))
    np.testing.assert_allclose(welch_from_moments(*merged, *moments(b)).p, whole.p, rtol=1e-10)


@pytest.mark.parametrize("test", [welch_from_moments, student_from_moments, hedges_g])
def test_too_few_or_constant_values_give_nan(test):
    assert np.isnan(test([1, 2, 0], [0, 0, np.nan], [0, 0, 0], 5, 1.0, 0.0)).all()
    assert np.isnan(test(1, 0.0, 0.0, 5, 1.0, 3.0)).all()


def test_hedges_g_is_the_closed_form(two_groups):
    a, b = two_groups
    found = hedges_g(*moments(a), *moments(b)).g
    for k in range(a.shape[1]):
        x, y = dropped(a[:, k]), dropped(b[:, k])
        df = len(x) + len(y) - 2
        pooled = math.sqrt((x.var(ddof=1) * (len(x) - 1) + y.var(ddof=1) * (len(y) - 1)) / df)
        j = math.gamma(df / 2) / (math.sqrt(df / 2) * math.gamma((df - 1) / 2))
        assert found[k] == pytest.approx(j * (x.mean() - y.mean()) / pooled, rel=1e-12)


@pytest.mark.parametrize("gap", [-6.0, -0.3, 0.0, 1.1, 20.0])
def test_hedges_g_interval_inverts_the_noncentral_t(gap):
    n_a, n_b, df = 12, 7, 17
    found = hedges_g(n_a, gap, 11.0, n_b, 0.0, 6.0)
    root = math.sqrt(1 / n_a + 1 / n_b)
    t = gap / (root * math.sqrt(17 / df))
    j = math.gamma(df / 2) / (math.sqrt(df / 2) * math.gamma((df - 1) / 2))

    def probability(delta):  # P(T ≤ t | δ), by integrating over the chi-square of the spread
        def inner(u):
            return scipy_stats.norm.cdf(t * math.sqrt(u / df) - delta) * scipy_stats.chi2.pdf(u, df)

        return integrate.quad(inner, 0, 90, epsabs=1e-11)[0]

    assert probability(found.low / (j * root)) == pytest.approx(0.975, abs=1e-7)
    assert probability(found.high / (j * root)) == pytest.approx(0.025, abs=1e-7)
    assert found.low < found.g < found.high


def test_hedges_g_interval_covers_and_g_is_unbiased():
    rng, true, rows = rng_of(3), 0.8, 4000
    a, b = rng.normal(size=(9, rows)) + true, rng.normal(size=(6, rows))
    found = hedges_g(*moments(a), *moments(b))
    miss = (found.low > true) | (found.high < true)
    assert within_band(miss.sum(), rows)
    assert found.g.mean() == pytest.approx(true, abs=4 * found.g.std() / rows**0.5)


def test_paired_statistics_agree_with_scipy_and_a_loop(two_groups):
    rng = rng_of(4)
    a, b = ragged(rng, 15, 5), ragged(rng, 15, 5)
    found, theirs = paired_test(a, b), scipy_stats.ttest_rel(a, b, nan_policy="omit")
    np.testing.assert_allclose(found.t, theirs.statistic)
    np.testing.assert_allclose(found.p, theirs.pvalue)
    d_z, g_av = paired_effects(a, b)
    for k in range(5):
        whole = np.isfinite(a[:, k] - b[:, k])
        x, y = a[whole, k], b[whole, k]
        d, df = x - y, 2 * len(x) - 2
        j = math.gamma(df / 2) / (math.sqrt(df / 2) * math.gamma((df - 1) / 2))
        assert d_z[k] == pytest.approx(d.mean() / d.std(ddof=1))
        assert g_av[k] == pytest.approx(j * 2 * d.mean() / (x.std(ddof=1) + y.std(ddof=1)))


@pytest.mark.parametrize(("ours", "theirs"), [(benjamini_hochberg, "fdr_bh"), (holm, "holm")])
def test_corrections_agree_with_statsmodels(ours, theirs):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = rng_of(5)
    for size in (1, 2, 7, 48):
        p = np.round(rng.random(size) ** 2, 2)  # rounding makes ties
        np.testing.assert_allclose(ours(p), multitest.multipletests(p, method=theirs)[1])


def test_corrections_agree_with_scipy_and_pass_nan_by():
    p = rng_of(6).random(20) ** 2
    np.testing.assert_allclose(benjamini_hochberg(p), scipy_stats.false_discovery_control(p))
    holed = np.insert(p, [0, 7, 20], np.nan)
    for correct in (benjamini_hochberg, holm):
        np.testing.assert_allclose(dropped(correct(holed)), correct(p))
        assert np.isnan(correct(holed)[[0, 8, 22]]).all()
        assert np.isnan(correct([np.nan, np.nan])).all()
        assert correct([]).shape == (0,)


def test_benjamini_hochberg_controls_the_false_discovery_rate():
    rng, proportions = rng_of(7), []
    for _ in range(5000 if FULL else 600):
        shift = np.r_[np.full(10, 3.0), np.zeros(38)]
        p = 2 * scipy_stats.norm.sf(np.abs(rng.normal(size=48) + shift))
        found = benjamini_hochberg(p) < 0.05
        proportions.append(found[10:].sum() / max(found.sum(), 1))
    margin = 3 * np.std(proportions) / len(proportions) ** 0.5
    # For independent tests the rate is exactly α × the share of true nulls.
    assert np.mean(proportions) == pytest.approx(0.05 * 38 / 48, abs=margin)
