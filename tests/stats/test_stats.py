"""Every number of `interp.stats` against SciPy, statsmodels, a closed form or a plain loop.

INTERP_FULL=1 runs the calibrations with many more simulated tables.
"""

from __future__ import annotations

import itertools
import math
import os
import time
import types

import numpy as np
import pandas as pd
import pytest
from scipy import integrate
from scipy import stats as scipy_stats

from interp.errors import BadInput, UnknownName
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
from interp.stats.compare import compare
from interp.stats.comparison import Comparison
from interp.stats.correlation import _weighted_ranks, correlation
from interp.stats.groups import clustered_omnibus
from interp.stats.labelings import Labelings
from interp.stats.layer_runs import cluster_test
from interp.stats.resampling import clustered_bootstrap, clustered_permutation, draw_weights
from interp.stats.shuffled import shuffled_correlation

FULL = os.environ.get("INTERP_FULL") == "1"


def rng_of(*seed):
    return np.random.default_rng(seed)


def ragged(rng, n, k, missing=0.2):
    x = rng.normal(size=(n, k))
    x[rng.random((n, k)) < missing] = np.nan
    return x


def dropped(x):
    return x[~np.isnan(x)]


# ---- classical -------------------------------------------------------------------------------


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


# ---- designs ---------------------------------------------------------------------------------


def design(kind, c, rng):
    """Labels and clusters of c prompts: pairs, both groups unevenly, one group each, or both."""
    size = np.full(c, 2) if kind == "pair" else rng.integers(3, 9, c)
    parts = []
    for i, n in enumerate(size):
        mixed = np.arange(n) < max(1, n // 3)
        alone = kind == "between" or (kind == "mixed" and i % 3 == 0)
        parts.append(np.full(n, i % 2 == 0) if alone else rng.permutation(mixed))
    return np.concatenate(parts), np.repeat(np.arange(c), size)


def null_tables(kind, c, rows, rng, skewed=False):
    """Tables in which labels mean nothing but prompts differ; one independent table per row."""
    labels, clusters = design(kind, c, rng)
    draw = rng.lognormal if skewed else rng.normal
    return draw(size=(c, rows))[clusters] + draw(size=(len(labels), rows)), labels, clusters


def within_band(hits, trials, rate=0.05, tail=1e-3):
    """Whether so many hits are what a test of this rate gives, in all but 2 × tail of cases."""
    low, high = scipy_stats.binom.interval(1 - 2 * tail, trials, rate)
    return low <= hits <= high


# ---- bootstrap -------------------------------------------------------------------------------


def test_bootstrap_estimates_are_the_plain_ones():
    rng = rng_of(10)
    labels, clusters = design("mixed", 12, rng)
    x = ragged(rng, len(labels), 5) + 50
    fit = clustered_bootstrap(x, labels, clusters, resamples=50)
    a, b = np.nanmean(x[labels], axis=0), np.nanmean(x[~labels], axis=0)
    np.testing.assert_allclose(fit["mean_a"].estimate, a)
    np.testing.assert_allclose(fit["mean_b"].estimate, b)
    np.testing.assert_allclose(fit["difference"].estimate, a - b)
    plain = hedges_g(*moments(x[labels]), *moments(x[~labels])).g
    np.testing.assert_allclose(fit["hedges_g"].estimate, plain)


def test_clustered_error_is_the_paired_one_for_pairs():
    x, labels, clusters = null_tables("pair", 14, 6, rng_of(11))
    order = np.argsort(clusters * 2 + ~labels)
    a, b = x[order][::2], x[order][1::2]
    wanted = (a - b).std(axis=0, ddof=1) / 14**0.5
    fit = clustered_bootstrap(x, labels, clusters, resamples=50)
    np.testing.assert_allclose(fit["difference"].se, wanted)
    np.testing.assert_allclose(fit["mean_a"].se, a.std(axis=0, ddof=1) / 14**0.5)


def test_clustered_error_is_welchs_over_prompt_means_for_equal_prompts():
    clusters = np.repeat(np.arange(11), 4)
    labels, x = clusters < 4, rng_of(12).normal(size=(44, 3))
    means = x.reshape(11, 4, 3).mean(axis=1)
    theirs = scipy_stats.ttest_ind(means[:4], means[4:], equal_var=False).statistic
    fit = clustered_bootstrap(x, labels, clusters, resamples=50)["difference"]
    np.testing.assert_allclose(fit.estimate / fit.se, theirs)
    test = clustered_permutation(x, labels, clusters, resamples=9)
    np.testing.assert_allclose(test.t, theirs)


def test_error_of_hedges_g_is_near_the_jackknife():
    rng = rng_of(13)
    x, labels, clusters = null_tables("within", 60, 4, rng)
    x[labels] += 1.5
    fit = clustered_bootstrap(x, labels, clusters, resamples=20)["hedges_g"]

    def without(c):
        keep = clusters != c
        return hedges_g(*moments(x[keep & labels]), *moments(x[keep & ~labels])).g

    left_out = np.array([without(c) for c in range(60)])
    jackknife = np.sqrt(59 / 60 * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(fit.se, jackknife, rtol=0.05)


def test_bootstrap_interval_is_the_one_of_a_plain_loop():
    c, resamples = 9, 40
    x, labels, clusters = null_tables("within", c, 1, rng_of(14))
    fit = clustered_bootstrap(x, labels, clusters, resamples=resamples, seed=5)["difference"]
    weights = draw_weights(np.zeros(c, np.int64), resamples, np.random.default_rng(5))

    def studentised(copies):
        index = np.concatenate([np.flatnonzero(clusters == i) for i in copies])
        of = np.concatenate([np.full((clusters == i).sum(), n) for n, i in enumerate(copies)])
        y, is_a = x[index, 0], labels[index]
        d = y[is_a].mean() - y[~is_a].mean()
        influence = [
            (y[is_a & (of == n)] - y[is_a].mean()).sum() / is_a.sum()
            - (y[~is_a & (of == n)] - y[~is_a].mean()).sum() / (~is_a).sum()
            for n in range(c)
        ]
        return d, math.sqrt(c / (c - 1) * np.square(influence).sum())

    d, se = studentised(range(c))
    drawn = [studentised(np.repeat(np.arange(c), w.astype(int))) for w in weights]
    q = np.quantile([abs(e - d) / s for e, s in drawn], 0.95, method="higher")
    assert fit.se.item() == pytest.approx(se)
    assert fit.low.item() == pytest.approx(d - q * se)
    assert fit.high.item() == pytest.approx(d + q * se)


def test_bootstrap_moves_and_scales_with_the_data():
    x, labels, clusters = null_tables("mixed", 10, 2, rng_of(15))
    fit = clustered_bootstrap(x, labels, clusters, resamples=200)
    moved = clustered_bootstrap(7 * x + 1000, labels, clusters, resamples=200)
    np.testing.assert_allclose(moved["mean_b"].low, 7 * fit["mean_b"].low + 1000)
    np.testing.assert_allclose(moved["difference"].high, 7 * fit["difference"].high, rtol=1e-6)
    np.testing.assert_allclose(moved["hedges_g"].low, fit["hedges_g"].low, rtol=1e-6)


def test_separate_prompts_are_drawn_separately():
    weights = draw_weights(np.array([0, 1, 1, 0, 1]), 300, rng_of(16))
    assert (weights[:, [0, 3]].sum(axis=1) == 2).all()
    assert (weights[:, [1, 2, 4]].sum(axis=1) == 3).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.2)


@pytest.mark.parametrize("c", [1, 2, 3])
def test_too_few_prompts_give_no_interval(c):
    x, labels, clusters = null_tables("within", c, 2, rng_of(17))
    for fit in clustered_bootstrap(x, labels, clusters, resamples=400).values():
        assert np.isfinite(fit.estimate).all()
        assert np.isnan(fit.low).all()
        assert np.isnan(fit.high).all()


def test_a_constant_row_has_a_point_as_interval():
    _, labels, clusters = null_tables("within", 8, 1, rng_of(18))
    fit = clustered_bootstrap(np.full(len(labels), 0.1), labels, clusters, resamples=50)
    assert fit["mean_a"].low.item() == fit["mean_a"].high.item() == pytest.approx(0.1)
    assert fit["difference"].low.item() == 0.0
    assert np.isnan(fit["hedges_g"].estimate).all()


# ---- permutation -----------------------------------------------------------------------------


def test_permutation_p_of_pairs_is_the_exact_one_where_labelings_are_few():
    x, labels, clusters = null_tables("pair", 7, 3, rng_of(20))
    x[labels] += 1
    found = clustered_permutation(x, labels, clusters, resamples=128)
    order = np.argsort(clusters * 2 + ~labels)
    difference = x[order][::2] - x[order][1::2]
    signs = np.array(list(itertools.product([1, -1], repeat=7)))
    exact = (np.abs(signs @ difference) >= np.abs(difference.sum(axis=0)) - 1e-12).mean(axis=0)
    assert found.exact
    np.testing.assert_allclose(found.p, exact)
    drawn = clustered_permutation(x, labels, clusters, resamples=127)
    assert not drawn.exact
    np.testing.assert_allclose(drawn.p, exact, atol=0.08)
    theirs = scipy_stats.ttest_rel(x[order][::2], x[order][1::2])
    np.testing.assert_allclose(found.t, theirs.statistic)


def test_permutation_p_of_whole_prompts_is_near_the_exact_one():
    rng = rng_of(21)
    clusters = np.repeat(np.arange(8), 3)
    labels, x = clusters < 4, rng.normal(size=24) + rng.normal(size=8)[clusters]
    x[labels] += 1.2
    found = clustered_permutation(x, labels, clusters, resamples=20_000)
    means = x.reshape(8, 3).mean(axis=1)

    def size(chosen):
        inside = np.isin(np.arange(8), chosen)
        return abs(scipy_stats.ttest_ind(means[inside], means[~inside], equal_var=False).statistic)

    null = [size(chosen) for chosen in itertools.combinations(range(8), 4)]
    exact = np.mean(np.array(null) >= size(range(4)) - 1e-9)
    assert found.p.item() == pytest.approx(exact, abs=0.015)


def test_labels_are_shuffled_only_where_they_may_be():
    labels, clusters = design("mixed", 12, rng_of(22))
    drawn = Labelings(labels.astype(int), clusters).draw(200, rng_of(23))
    singles = []
    for c in range(12):
        here, was = drawn[:, clusters == c], labels[clusters == c]
        if was.all() or not was.any():
            assert ((here == 0).all(axis=1) | (here == 1).all(axis=1)).all()
            singles.append(here[:, 0])
        else:
            assert (here.sum(axis=1) == was.sum()).all()
        assert here.std(axis=0).min() > 0  # every label does move
    assert (np.sum(singles, axis=0) == 2).all()  # prompts 0, 3, 6, 9: two of each group


def test_all_labelings_are_those_that_drawing_gives():
    codes, clusters = np.array([0, 1, 1, 2, 0, 1, 0, 0, 1]), np.array([0, 0, 0, 1, 1, 2, 3, 3, 4])
    ways = Labelings(codes, clusters)
    every = np.concatenate(list(ways.every(4)))
    assert ways.count == len(every) == 3 * 2 * 3
    assert codes.tolist() in every.tolist()
    different = set(map(tuple, every.tolist()))
    assert len(different) == 18
    drawn = set(map(tuple, ways.draw(2000, rng_of(29)).tolist()))
    assert drawn == different
    many = Labelings(np.tile([0, 1], 5000), np.zeros(10_000, np.int64))
    assert many.count == math.inf


def test_p_of_all_labelings_is_near_that_of_many_draws():
    """Groups of three kinds at once: within clusters, and between whole ones."""
    rng = rng_of(30)
    labels, clusters = design("mixed", 8, rng)
    x = rng.normal(size=(len(labels), 3)) + labels[:, None]
    every = clustered_permutation(x, labels, clusters, resamples=10**6)
    drawn = clustered_permutation(x, labels, clusters, resamples=20_000)
    assert (every.exact, drawn.exact) == (True, False)
    np.testing.assert_allclose(every.p, drawn.p, atol=0.015)
    np.testing.assert_allclose(every.p_max, drawn.p_max, atol=0.015)
    codes = np.where(rng.random(len(labels)) < 0.3, 2, labels)
    few = slice(18)
    ways = Labelings(codes[few], clusters[few]).count
    every, drawn = (
        clustered_omnibus(x[few], codes[few], clusters[few], resamples=n) for n in (ways, ways - 1)
    )
    assert (every.exact, drawn.exact) == (True, False)
    np.testing.assert_allclose(every.p, drawn.p, atol=0.03)


def test_a_row_with_few_values_does_not_hide_the_others():
    x, labels, clusters = null_tables("within", 20, 6, rng_of(31))
    x[labels] += 3.0
    thin = x.copy()
    few = [*np.flatnonzero(clusters == 0), *(clusters == 1).nonzero()[0][:1]]
    few += [
        np.flatnonzero((clusters == 2) & labels)[0],
        np.flatnonzero((clusters == 2) & ~labels)[0],
    ]
    thin[np.setdiff1d(np.arange(len(x)), few), 0] = np.nan
    found = clustered_permutation(thin, labels, clusters, resamples=499)
    assert np.isnan(found.null_t[:, 0]).any()  # shuffles that leave a group one cluster
    assert np.nanquantile(np.abs(found.null_t[:, 0]), 0.9) > 5  # few clusters give any t
    assert found.p_max[1:].max() < 0.05
    assert found.p[0] > 0.05


def test_rows_of_few_and_of_many_prompts_share_one_level():
    """Family-wise error where half of the rows have values in four prompts only."""
    alarms, trials = np.zeros(2), 1500 if FULL else 250
    for trial in range(trials):
        x, labels, clusters = null_tables("within", 16, 8, rng_of(32, trial))
        x[clusters > 3, :4] = np.nan
        found = clustered_permutation(x, labels, clusters, resamples=199, seed=trial)
        alarms[0] += (found.p_max <= 0.05).any()
        many = clustered_omnibus(x, labels.astype(int), clusters, resamples=199, seed=trial)
        alarms[1] += (many.p_max <= 0.05).any()
    assert within_band(alarms[0], trials)
    assert within_band(alarms[1], trials)


def test_largest_t_is_compared_over_all_rows():
    x, labels, clusters = null_tables("within", 10, 5, rng_of(24))
    x[labels, 2] += 1.0
    x[:, 4] = np.nan
    found = clustered_permutation(x, labels, clusters, resamples=300)
    largest = np.abs(found.null_t[:, :4]).max(axis=1)
    wanted = [(1 + (largest >= abs(t)).sum()) / 301 for t in found.t[:4]]
    np.testing.assert_allclose(found.p_max[:4], wanted)
    assert np.isnan([found.t[4], found.p[4], found.p_max[4]]).all()


def test_what_prompts_share_does_not_touch_the_test_within_them():
    x, labels, clusters = null_tables("within", 12, 2, rng_of(25))
    far = x + 1e3 * rng_of(26).normal(size=(12, 1))[clusters]
    near, away = (clustered_permutation(y, labels, clusters, resamples=200) for y in (x, far))
    np.testing.assert_allclose(near.t, away.t, rtol=1e-6)
    np.testing.assert_allclose(near.p, away.p)


def test_shuffled_columns_are_the_plain_ones():
    x, labels, clusters = null_tables("within", 10, 3, rng_of(27))
    x[0, 0] = np.nan
    found = clustered_permutation(x, labels, clusters, resamples=5, seed=3)
    drawn = Labelings(labels.astype(int), clusters).draw(5, np.random.default_rng(3)).astype(bool)
    for r, k in itertools.product(range(5), range(3)):
        y = x[:, k]
        a, b = dropped(y[drawn[r]]), dropped(y[~drawn[r]])
        assert found.null_difference[r, k] == pytest.approx(a.mean() - b.mean())
        wanted = scipy_stats.ttest_ind(a, b, equal_var=False).pvalue
        assert found.null_welch_p[r, k] == pytest.approx(wanted)


def test_a_difference_without_spread_is_as_rare_as_its_signs():
    labels, clusters = np.tile([True, False], 6), np.repeat(np.arange(6), 2)
    found = clustered_permutation(labels * 0.1, labels, clusters, resamples=5000)
    assert np.isposinf(found.t).all()
    assert found.p.item() == pytest.approx(2 / 2**6, abs=0.01)


@pytest.mark.parametrize("resample", [clustered_bootstrap, clustered_permutation])
def test_resampling_is_seeded_and_checks_its_input(resample):
    x, labels, clusters = null_tables("within", 6, 2, rng_of(28))
    first, again = (resample(x, labels, clusters, resamples=50, seed=9) for _ in range(2))
    np.testing.assert_equal(first, again)
    with pytest.raises(BadInput, match=r"labels \(3,\) and clusters .* do not match"):
        resample(x, labels[:3], clusters)
    with pytest.raises(BadInput, match="values are in one group"):
        resample(x, np.ones_like(labels), clusters)
    with pytest.raises(BadInput, match="resamples is 0; it must be 1 or more"):
        resample(x, labels, clusters, resamples=0)


# ---- neighbouring layers ---------------------------------------------------------------------


def slow_masses(t, limit, series, layers):
    """Runs of one sign over neighbouring layers, by walking."""
    place = {layer: i for i, layer in enumerate(sorted(set(layers)))}
    masses, last = [], None
    for s, layer, value, bound in sorted(zip(series, layers, t, limit, strict=True)):
        sign = np.sign(value) if abs(value) >= bound else 0
        if sign:
            joined = last == (s, place[layer] - 1, sign)
            masses = [*masses[:-1], masses[-1] + value] if joined else [*masses, value]
        last = (s, place[layer], sign) if sign else None
    return masses


@pytest.mark.parametrize("threshold", [None, 1.3])
def test_cluster_test_is_the_plain_walk(threshold):
    rng = rng_of(30)
    layers = np.array([0, 1, 2, 4, 6, 7, 0, 1, 2, 4, 7])  # layer 6 is missing in series 1
    series = np.array([0] * 6 + [1] * 5)
    null, t = rng.normal(size=(200, 11)), 2 * rng.normal(size=11)
    order = rng.permutation(11)
    found = cluster_test(
        t[order], null[:, order], layers[order], series[order], threshold=threshold
    )
    limit = np.quantile(abs(null), 0.95, axis=0, method="higher")
    limit = limit if threshold is None else np.full(11, threshold)
    wanted = sorted(slow_masses(t, limit, series, layers), key=abs, reverse=True)
    np.testing.assert_allclose(found["mass"], wanted)
    largest = [max(map(abs, slow_masses(row, limit, series, layers)), default=0) for row in null]
    p = [(1 + sum(m >= abs(w) - 1e-9 for m in largest)) / 201 for w in wanted]
    np.testing.assert_allclose(found["p"], p)
    assert (found["size"] >= 1).all()


def test_cluster_test_without_a_cluster_is_empty():
    found = cluster_test([0.0, np.nan], np.zeros((9, 2)), [0, 1], threshold=2.0)
    assert found.empty
    assert list(found.columns) == ["series", "first", "last", "size", "mass", "p"]


def test_cluster_test_checks_its_input():
    with pytest.raises(BadInput, match=r"null_t \(9, 3\).*null_t is \[resamples, k\]"):
        cluster_test([0.0, 1.0], np.zeros((9, 3)), [0, 1])
    with pytest.raises(BadInput, match=r"threshold is -1\.0; .* must be above 0"):
        cluster_test([0.0, 1.0], np.zeros((9, 2)), [0, 1], threshold=-1.0)


# ---- calibration under a true null -----------------------------------------------------------


def rates(kind, c, calls, rows, seed, skewed=False, resamples=399):
    """Share of false alarms of the permutation, the bootstrap, Welch over tokens; and trials."""
    hits = np.zeros(4)
    for call in range(calls):
        x, labels, clusters = null_tables(kind, c, rows, rng_of(seed, call), skewed)
        how = {"resamples": resamples, "seed": call}
        test = clustered_permutation(x, labels, clusters, **how)
        fit = clustered_bootstrap(x, labels, clusters, **how)["difference"]
        naive = welch_from_moments(*moments(x[labels]), *moments(x[~labels])).p
        shuffled = (test.null_welch_p < 0.05).mean() * rows
        missed = (fit.low > 0) | (fit.high < 0)
        hits += [(test.p <= 0.05).sum(), missed.sum(), (naive < 0.05).sum(), shuffled]
    return hits, calls * rows


@pytest.mark.parametrize("kind", ["pair", "within", "between", "mixed"])
def test_false_positive_rates_of_clustered_tests_are_nominal(kind):
    (permutation, bootstrap, naive, shuffled), trials = rates(
        kind, 24, calls=200 if FULL else 20, rows=20, seed=40
    )
    assert within_band(permutation, trials)
    # The symmetric bootstrap errs to the cautious side with two dozen prompts.
    assert 0.02 * trials < bootstrap
    assert bootstrap <= scipy_stats.binom.isf(1e-3, trials, 0.05)
    if kind == "between":
        assert naive / trials > 0.15
        assert shuffled / trials > 0.15  # the control column shows it
    if kind in ("pair", "within"):
        assert naive / trials < 0.05  # pairs share their prompt, and Welch wastes that


@pytest.mark.parametrize("kind", ["within", "between"])
def test_permutation_holds_its_level_on_skewed_values(kind):
    (permutation, bootstrap, *_), trials = rates(
        kind, 24, calls=100 if FULL else 10, rows=20, seed=41, skewed=True
    )
    assert within_band(permutation, trials)
    assert bootstrap <= scipy_stats.binom.isf(1e-3, trials, 0.05)


def test_tests_find_what_is_there():
    x, labels, clusters = null_tables("within", 40, 30, rng_of(42))
    x[labels] += 1.0
    assert (clustered_permutation(x, labels, clusters, resamples=399).p < 0.05).mean() > 0.9


def test_families_of_correlated_layers_hold_their_level():
    """The cluster test and the largest t: any alarm in a whole table counts once."""
    alarms, trials = np.zeros(2), 3000 if FULL else 300
    for trial in range(trials):
        rng = rng_of(43, trial)
        labels, clusters = design("pair", 16, rng)
        steps = rng.normal(size=(len(labels), 12))
        for layer in range(1, 12):  # neighbouring layers correlate
            steps[:, layer] += 0.8 * steps[:, layer - 1]
        test = clustered_permutation(steps, labels, clusters, resamples=199, seed=trial)
        runs = cluster_test(test.t, test.null_t, range(12))
        alarms += [(runs["p"] <= 0.05).any(), (test.p_max <= 0.05).any()]
    assert within_band(alarms[0], trials)
    assert within_band(alarms[1], trials)


# ---- compare ---------------------------------------------------------------------------------


def tidy(prompts=12, tokens=7, layers=4, seed=50, missing=0.1):
    """A table as the library writes them: 'her' after its verb, first token special."""
    rng = rng_of(seed)
    index = pd.MultiIndex.from_product(
        [range(prompts), range(tokens), range(layers)], names=["prompt", "position", "layer"]
    )
    frame = index.to_frame(index=False)
    frame["token"], frame["token_id"] = " x", 7
    frame["special"] = frame["position"] == 0
    roles = {3: "target", 2: "previous", 4: "random", 5: "random", 0: "target"}
    frame["role"] = frame["position"].map(roles)
    frame["kind"] = np.where(frame["prompt"] % 2 == 0, "even", "odd")
    effect = (frame["role"] == "target") * (frame["layer"] >= 2) * 2.5
    shared = rng.normal(size=prompts)[frame["prompt"]]
    frame["angle"] = 10 + effect + shared + rng.normal(size=len(frame))
    frame.loc[rng.random(len(frame)) < missing, "angle"] = np.nan
    return frame


@pytest.fixture
def frame():
    return tidy()


def her(source, **options):
    options = {"resamples": 300} | options
    return compare(source, "angle", "role", "target", "previous", **options)


def cells(frame, layer, role):
    rows = frame[(frame["layer"] == layer) & (frame["role"] == role) & ~frame["special"]]
    return rows.set_index("prompt")["angle"]


def test_compare_counts_and_describes_each_layer(frame):
    table = her(frame).frame
    assert table["layer"].tolist() == [0, 1, 2, 3]
    for row in table.itertuples():
        a, b = cells(frame, row.layer, "target"), cells(frame, row.layer, "previous")
        assert (row.nan_a, row.nan_b) == (a.isna().sum(), b.isna().sum())
        assert (row.n_a, row.prompts_b) == (a.notna().sum(), b.notna().sum())
        assert row.prompts_both == row.pairs == (a - b).notna().sum()
        wanted = [a.mean(), b.mean(), a.std(), b.std(), a.mean() - b.mean()]
        got = [row.mean_a, row.mean_b, row.sd_a, row.sd_b, row.difference]
        assert got == pytest.approx(wanted)
    for name in ("mean_a", "mean_b", "difference", "hedges_g"):
        assert (table[f"{name}_low"] < table[name]).all()
        assert (table[f"{name}_high"] > table[name]).all()


def test_compare_tests_agree_with_scipy(frame):
    for row in her(frame).frame.itertuples():
        a, b = cells(frame, row.layer, "target"), cells(frame, row.layer, "previous")
        pairs = (a - b).dropna()
        a, b = a.dropna(), b.dropna()
        welch, student = (scipy_stats.ttest_ind(a, b, equal_var=e) for e in (False, True))
        assert (row.welch_t, row.welch_p) == pytest.approx((welch.statistic, welch.pvalue))
        assert (row.student_t, row.student_p) == pytest.approx((student.statistic, student.pvalue))
        assert row.mann_whitney_p == pytest.approx(scipy_stats.mannwhitneyu(a, b).pvalue)
        assert row.paired_p == pytest.approx(scipy_stats.ttest_1samp(pairs, 0).pvalue)
        assert row.wilcoxon_p == pytest.approx(scipy_stats.wilcoxon(pairs).pvalue)
        assert row.d_z == pytest.approx(pairs.mean() / pairs.std())


def test_compare_corrects_over_its_rows_and_shows_the_control(frame):
    table = her(frame).frame
    for test in ("welch", "student", "mann_whitney", "paired", "wilcoxon", "permutation"):
        p = table[f"{test}_p"].to_numpy()
        np.testing.assert_allclose(table[f"{test}_p_bh"], benjamini_hochberg(p))
        np.testing.assert_allclose(table[f"{test}_p_holm"], holm(p))
    assert (table["permutation_p_max"] >= table["permutation_p"]).all()
    assert (table["permutation_p_holm"][:2] > 0.05).all()
    assert (table["permutation_p_holm"][2:] < 0.05).all()
    beyond = table["difference"] > table["shuffled_high"]
    assert beyond.tolist() == [False, False, True, True]
    assert (table["shuffled_low"] < 0).all()
    assert table["shuffled_t"].between(1.5, 3.5).all()
    assert (table["shuffled_welch_rate"] < 0.15).all()


def test_compare_sees_the_clusters_of_layers(frame):
    runs = her(frame).layer_runs
    assert runs.loc[0, ["first", "last", "size"]].tolist() == [2, 3, 2]
    assert runs["p"][0] < 0.05


def test_the_former_name_of_the_layer_runs_names_the_new_one(frame):
    with pytest.raises(AttributeError, match="clusters is now Comparison.layer_runs"):
        _ = her(frame).clusters


def test_the_control_unmasks_tests_over_tokens_between_prompts():
    frame = tidy(prompts=30, tokens=20, missing=0)
    found = compare(frame, "angle", "kind", "even", "odd", resamples=300)
    assert (found.frame["shuffled_welch_rate"] > 0.3).all()
    assert "labels shuffled between whole prompts: none of 30 carries both" in found.notes


def test_order_and_index_of_rows_do_not_matter(frame):
    mixed = pd.concat([frame[::2], frame[1::2]]).reset_index(drop=True)
    mixed.index = np.zeros(len(mixed), int)
    pd.testing.assert_frame_equal(her(mixed).frame, her(frame).frame)


def test_results_and_other_types_of_column_are_taken(frame):
    plain = her(frame).frame
    result = types.SimpleNamespace(frame=frame.assign(role=frame["role"].astype("category")))
    pd.testing.assert_frame_equal(her(result).frame, plain)
    nullable = frame.assign(angle=frame["angle"].astype("Float64"))
    pd.testing.assert_frame_equal(her(nullable).frame, plain)
    yes = frame.assign(angle=frame["angle"].fillna(0) > 10)
    assert her(yes).frame["mean_a"].between(0, 1).all()


def test_infinite_values_count_as_undefined(frame):
    frame.loc[frame["angle"].isna(), "angle"] = np.inf
    pd.testing.assert_frame_equal(her(frame).frame, her(tidy()).frame)


def test_special_tokens_are_left_out_unless_asked(frame):
    kept = her(frame, special=True)
    assert kept.frame["n_a"].sum() > her(frame).frame["n_a"].sum()
    assert her(frame).notes[0] == (
        "48 rows of special tokens were left out (special=True keeps them)"
    )
    assert not any("special" in note for note in kept.notes)


def test_rows_are_told_apart_by_stack_layer_and_head(frame):
    both = pd.concat(
        [frame.assign(stack=s, head=h) for s in ("decoder", "encoder") for h in (0, 1)]
    )
    found = her(both)
    assert found.by == ("stack", "layer", "head")
    assert len(found.frame) == 16
    np.testing.assert_allclose(
        found.frame["welch_p"].to_numpy()[:2], her(frame).frame["welch_p"][0]
    )
    assert list(found.layer_runs.columns[:2]) == ["stack", "head"]
    runs = found.layer_runs
    assert set(zip(runs["stack"][:4], runs["head"][:4], strict=True)) == set(
        itertools.product(("decoder", "encoder"), (0, 1))
    )


def test_what_by_leaves_out_is_averaged_per_token(frame):
    heads = pd.concat([frame.assign(head=h, angle=frame["angle"] + h) for h in (0, 4)])
    found = her(heads, by="layer")
    np.testing.assert_allclose(found.frame["mean_a"], her(frame).frame["mean_a"] + 2)
    np.testing.assert_allclose(found.frame["welch_p"], her(frame).frame["welch_p"])
    assert "up to 2 rows per token were averaged; by= can keep them apart" in found.notes


def test_layers_themselves_can_be_compared(frame):
    found = compare(frame, "angle", "layer", 0, 3, by=(), resamples=99)
    assert len(found.frame) == 1
    wanted = [frame.loc[(frame["layer"] == k) & ~frame["special"], "angle"].mean() for k in (0, 3)]
    assert found.frame[["mean_a", "mean_b"]].iloc[0].tolist() == pytest.approx(wanted)
    assert found.layer_runs.empty


def test_paired_reduces_each_prompt_to_one_mean_per_group(frame):
    frame.loc[frame["prompt"] == 3, "role"] = None
    frame.loc[(frame["prompt"] == 4) & (frame["role"] == "random"), "role"] = None
    found = compare(frame, "angle", "role", "random", "previous", paired=True, resamples=300)
    assert "1 of 11 prompts lack a group and were dropped" in found.notes
    rows = frame[~frame["special"]].groupby(["layer", "role", "prompt"])["angle"].mean()
    for row in found.frame.itertuples():
        pairs = pd.concat([rows[row.layer, "random"], rows[row.layer, "previous"]], axis=1).dropna()
        theirs = scipy_stats.ttest_rel(pairs.iloc[:, 0], pairs.iloc[:, 1])
        assert row.n_a == row.n_b == row.pairs == len(pairs)
        assert row.permutation_t == pytest.approx(theirs.statistic)
        assert row.paired_p == pytest.approx(theirs.pvalue)


def test_null_none_skips_the_shuffles(frame):
    found = her(frame, null="none")
    assert found.frame.filter(regex="permutation|shuffled").isna().all(axis=None)
    assert found.layer_runs.empty
    assert "(clustered, Holm p < 0.05)" in repr(found)


# ---- compare: what cannot be computed --------------------------------------------------------


def test_small_layers_are_nan_with_a_note(frame):
    drop = (frame["layer"] == 1) & (frame["role"] == "target") & (frame["prompt"] > 0)
    found = her(frame[~drop])
    row = found.frame.loc[1]
    assert row[["mean_a", "difference", "welch_p", "permutation_p", "shuffled_t"]].isna().all()
    assert row["n_a"] <= 1
    assert "layer 1: fewer than two values in a group, the row is NaN" in found.notes
    assert found.frame.loc[[0, 2, 3], "permutation_p"].notna().all()


def test_undefined_values_are_counted_in_a_note(frame):
    count = int(
        sum(cells(frame, k, r).isna().sum() for k in range(4) for r in ("target", "previous"))
    )
    assert f"{count} values of 'angle' are undefined and left out: nan_a, nan_b" in her(frame).notes


def test_a_constant_layer_is_noted(frame):
    frame.loc[frame["layer"] == 2, "angle"] = 0.1
    found = her(frame)
    assert found.frame.loc[2, ["welch_p", "hedges_g", "paired_p", "wilcoxon_p"]].isna().all()
    assert "layer 2: both groups are constant, t tests and effect size are NaN" in found.notes


def test_one_prompt_has_no_clustered_interval():
    found = her(
        tidy(prompts=1, tokens=40, missing=0).assign(
            role=lambda f: np.where(f["position"] % 2 == 0, "target", "previous")
        )
    )
    assert found.frame[["difference_low", "permutation_p", "shuffled_t"]].isna().all(axis=None)
    assert found.frame["welch_p"].notna().all()
    assert "only 1 prompt(s): clustered intervals are wide or undefined" in found.notes
    assert any("a group lies in one prompt" in note for note in found.notes)


def test_the_smallest_p_is_noted(frame):
    few = her(frame, resamples=19)
    assert "19 shuffles: permutation_p_max is 0.05 or more" in few.notes
    assert "no permutation p can fall below 0.05" in few.notes
    text = "0.05, not below 0.05"
    assert not few.decidable
    assert few.finding() == (
        "cannot be decided with so few shuffles (raise resamples): the smallest p that any "
        f"labeling could have got is {text}"
    )
    more = her(frame, resamples=60)
    assert "60 shuffles: permutation_p_max is 0.016 or more" in more.notes
    assert any("permutation_p_holm is 0.066 or more over 4 rows" in n for n in more.notes)


def pairs_table(prompts, rows, effect, seed=0):
    """A token of each group per prompt, a common level per prompt, rows that correlate."""
    rng = rng_of(60, seed)
    x = rng.normal(size=(prompts, 2, rows)) + rng.normal(size=(prompts, 1, 1))
    x += 0.7 * rng.normal(size=(prompts, 2, 1))
    x[:, 0] += effect
    index = pd.MultiIndex.from_product([range(prompts), ["a", "b"], range(rows)])
    frame = index.to_frame(index=False, name=["prompt", "role", "layer"])
    return frame.assign(position=(frame["role"] == "b").astype(int), angle=x.ravel())


def test_few_prompts_find_what_is_there_and_say_what_they_cannot_find():
    ten = compare(pairs_table(10, 30, 100.0), "angle", "role", "a", "b")
    assert ten.exact
    assert ten.smallest_p == 2 / 2**10
    assert (ten.frame["permutation_p_holm"] > 0.05).all()  # what the correction over rows leaves
    assert ten.finding() == "30 of 30 rows differ (permutation, maximum statistic, p < 0.05)"
    assert "all 1,024 labelings were taken, each once: permutation_p_max is 0.002 or more" in (
        ten.notes
    )
    five = compare(pairs_table(5, 30, 100.0), "angle", "role", "a", "b")
    assert not five.decidable
    assert five.smallest_p == 2 / 2**5
    assert (
        "; cannot be decided with so few prompts: the smallest p that any labeling could have "
        in (repr(five))
    )
    assert "rows differ" not in repr(five)
    assert compare(pairs_table(6, 3, 100.0), "angle", "role", "a", "b").differs.all()


def test_many_rows_find_what_is_there_with_the_default_number_of_shuffles():
    found = compare(pairs_table(54, 270, 0.9), "angle", "role", "a", "b")
    assert not (found.frame["permutation_p_holm"] < 0.05).any()
    assert found.differs.sum() > 100
    assert found.family_p == "permutation_p_max"


def test_the_maximum_statistic_of_few_labelings_holds_its_level():
    alarms, trials = 0, 1500 if FULL else 300
    for trial in range(trials):
        found = compare(
            pairs_table(7, 12, 0.0, seed=trial), "angle", "role", "a", "b", resamples=128
        )
        assert found.exact
        alarms += found.differs.any()
    low, high = scipy_stats.binom.interval(0.998, trials, 6 / 128)  # the largest p below 0.05
    assert alarms <= high
    assert alarms >= low


def opposite_contrasts(prompts=30, seed=1):
    """Target is 1° lower within every prompt, and prompts of a high level hold more targets."""
    rng = rng_of(61, seed)
    parts = []
    for prompt in range(prompts):
        targets = 2 if prompt < prompts // 2 else 8
        role = np.where(rng.permutation(10) < targets, "target", "other")
        level = 10.0 if prompt < prompts // 2 else 20.0
        angle = level + rng.normal(0, 0.7, 10) - (role == "target")
        parts.append(
            pd.DataFrame({"prompt": prompt, "position": range(10), "role": role, "angle": angle})
        )
    return pd.concat(parts, ignore_index=True).assign(layer=0)


def test_the_contrast_that_p_is_about_is_the_one_reported():
    frame = opposite_contrasts()
    found = compare(frame, "angle", "role", "target", "other")
    row = found.frame.iloc[0]
    assert row["difference"] > 2
    assert row["permutation_p"] == pytest.approx(1 / 2001)
    assert row["permutation_t"] < -5
    api = pytest.importorskip("statsmodels.formula.api")
    fit = api.ols("angle ~ C(role, Treatment('other')) + C(prompt)", frame).fit()
    assert row["within_difference"] == pytest.approx(fit.params.iloc[1])
    assert row["within_difference_low"] < -1 < row["within_difference_high"] < 0
    assert found.contrast == "within_difference"
    assert any("opposite signs (prompts with other levels" in note for note in found.notes)
    assert row["shuffled_within_low"] < 0 < row["shuffled_within_high"]
    assert row["within_g"] < 0 < row["hedges_g"]
    shown = repr(found).splitlines()[1].split()
    assert shown.index("within_difference") < shown.index("difference")
    same = compare(frame, "angle", "role", "target", "other", null="none")
    assert same.contrast == "difference"  # of which clustered_p is


def test_the_contrast_within_prompts_is_that_of_least_squares():
    api = pytest.importorskip("statsmodels.api")
    for kind in ("within", "mixed"):
        x, labels, clusters = null_tables(kind, 12, 2, rng_of(62))
        x += 100 + 5 * rng_of(63).normal(size=12)[clusters][:, None]
        x[3, 1] = np.nan
        fit = clustered_bootstrap(x, labels, clusters, resamples=50)["within"]
        tested = clustered_permutation(x, labels, clusters, resamples=20)
        np.testing.assert_allclose(tested.within, fit.estimate)
        mixed = np.array(
            [0 < labels[clusters == c].sum() < (clusters == c).sum() for c in range(12)]
        )
        block = np.where(mixed[clusters], clusters, 12)
        for k in range(2):
            use = np.isfinite(x[:, k])
            dummies = [(block[use] == b).astype(float) for b in np.unique(block[use])]
            design_matrix = np.column_stack([labels[use], *dummies])
            how = {"groups": clusters[use], "use_correction": False}
            theirs = api.OLS(x[use, k], design_matrix).fit(cov_type="cluster", cov_kwds=how)
            assert fit.estimate[k] == pytest.approx(theirs.params[0])
            assert fit.se[k] == pytest.approx(theirs.bse[0] * math.sqrt(12 / 11))
    x, labels, clusters = null_tables("between", 12, 2, rng_of(64))
    fit = clustered_bootstrap(x, labels, clusters, resamples=50)
    np.testing.assert_equal(fit["within"], fit["difference"])


@pytest.mark.parametrize("kind", ["within", "mixed"])
def test_interval_of_the_contrast_within_prompts_covers(kind):
    missed, calls = 0, 150 if FULL else 25
    for call in range(calls):
        rng = rng_of(65, call)
        x, labels, clusters = null_tables(kind, 24, 20, rng)
        x[labels] += 0.5
        fit = clustered_bootstrap(x, labels, clusters, resamples=299, seed=call)["within"]
        missed += ((fit.low > 0.5) | (fit.high < 0.5)).sum()
    assert 0.02 * calls * 20 < missed
    assert missed <= scipy_stats.binom.isf(1e-3, calls * 20, 0.06)


@pytest.mark.parametrize(("skewed", "most"), [(False, 0.1), (True, 0.2)])
def test_interval_of_g_misses_as_often_as_its_docstring_tells(skewed, most):
    """The spread that g divides by is known badly where values are skewed."""
    missed = trials = 0
    for call in range(100 if FULL else 20):
        rng = rng_of(66, call)
        x, labels, clusters = null_tables("within", 24, 20, rng, skewed)
        spread = math.sqrt(2 * (math.e - 1) * math.e) if skewed else math.sqrt(2)
        x[labels] += spread
        fit = clustered_bootstrap(x, labels, clusters, resamples=299, seed=call)["hedges_g"]
        missed += ((fit.low > 1) | (fit.high < 1)).sum()
        trials += 20
    assert missed / trials < most
    assert (missed / trials > 0.06) == skewed


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"value": "angel"}, UnknownName, r"unknown value column 'angel'; did you mean 'angle'\?"),
        ({"between": "rol"}, UnknownName, r"unknown column 'rol'; did you mean 'role'\?"),
        ({"cluster": "promt"}, UnknownName, r"unknown column 'promt'; did you mean 'prompt'\?"),
        ({"by": "laier"}, UnknownName, r"unknown column 'laier'; did you mean 'layer'\?"),
        ({"by": ["layer", "role"]}, BadInput, "names 'role', which the comparison already uses"),
        (
            {"value": "token"},
            BadInput,
            r"'token' is str, not numeric \(for example ' x'\); numeric",
        ),
        (
            {"a": "targte"},
            BadInput,
            r"role has no rows 'targte'; did you mean 'target'\?; it holds 'random' \(96 rows\), ",
        ),
        ({"b": "target"}, BadInput, "a and b are both 'target'; two different groups"),
        ({"confidence": 95}, BadInput, "confidence is 95; it must lie between 0 and 1"),
        ({"resamples": 0}, BadInput, "resamples is 0; it must be 1 or more"),
        ({"null": "permutatoin"}, BadInput, r"did you mean 'permutation'\?; it is one of permu"),
        ({"result": 3}, BadInput, "a table is needed, not int: pass a Result or a DataFrame"),
    ],
)
def test_bad_input_is_named_with_what_is_allowed(frame, change, error, match):
    call = {"result": frame, "value": "angle", "between": "role", "a": "target", "b": "previous"}
    with pytest.raises(error, match=match):
        compare(**call | change)


def test_data_that_cannot_be_compared_is_refused(frame):
    with pytest.raises(BadInput, match=r"'angle' is constant \(2 in all 96 values\)"):
        her(frame.assign(angle=2.0))
    with pytest.raises(
        BadInput, match="no row has two values of 'angle' in each group; at most 1 "
    ):
        her(frame[frame["prompt"] == 0].assign(angle=1.0))
    with pytest.raises(
        BadInput, match="no row has two values of 'angle' in each group; at most 0 "
    ):
        her(frame.assign(angle=np.nan))
    only_special = frame[(frame["role"] != "target") | frame["special"]]
    with pytest.raises(BadInput, match="'target' occurs in special tokens only"):
        her(only_special)
    source = frame["prompt"].where((frame["prompt"] > 0) | (frame["position"] != 3))
    with pytest.raises(BadInput, match="4 of 96 rows have no 'source' to cluster by"):
        her(frame.assign(source=source), cluster="source")
    with pytest.raises(BadInput, match="prompts that carry both groups; 0 of 12 do"):
        compare(frame, "angle", "kind", "even", "odd", paired=True)


# ---- compare: shown --------------------------------------------------------------------------


def test_text_forms_are_short_and_escaped(frame):
    odd = frame.assign(role=frame["role"].replace("previous", "<script>"))
    found = compare(odd, "angle", "role", "target", "<script>", resamples=300)
    text = repr(found).splitlines()
    assert text[0].startswith(
        "angle: role 'target' against '<script>'; 2 of 4 rows differ (permutation, "
        "maximum statistic, p < 0.05); strongest run of layers: 2–3"
    )
    assert len(text) < 14
    assert "welch" not in text[1]  # it takes tokens as independent
    page = found._repr_html_()
    assert "<script>" not in page
    assert page.count("<tr") == 5


def test_text_form_of_many_layers_keeps_the_strongest():
    found = her(tidy(layers=20))
    shown = [line.split()[0] for line in repr(found).splitlines()[2:10]]
    strongest = found.frame["within_g"].abs().nlargest(8).index
    assert [int(layer) for layer in shown] == sorted(found.frame["layer"][strongest])


def test_plot_hands_one_drawing_to_the_renderer(frame, monkeypatch):
    monkeypatch.setattr("interp.stats.comparison.figure", lambda drawing: drawing)
    found = her(frame, null="none")
    assert isinstance(found, Comparison)
    drawing = found.plot()
    assert drawing.kind == "two_panels"
    (own,) = found.drawings.values()
    pd.testing.assert_frame_equal(drawing.table, own.table)


def test_the_her_experiment_takes_under_two_seconds():
    frame = tidy(prompts=54, tokens=6, layers=48)

    def seconds():
        start = time.perf_counter()
        her(frame, resamples=2000)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 2


# ---- correlation -----------------------------------------------------------------------------


@pytest.fixture
def pairs_of_columns():
    frame = tidy(prompts=15, missing=0.05)
    rng = rng_of(60)
    frame["step"] = frame["angle"] + rng.normal(size=len(frame)) * 2
    frame["rank"] = np.round(np.exp(frame["angle"] / 4 + rng.normal(size=len(frame))))
    return frame


def test_correlations_agree_with_scipy(pairs_of_columns):
    table = correlation(pairs_of_columns, "step", "rank", resamples=50)
    plain = pairs_of_columns[~pairs_of_columns["special"]]
    for row in table.itertuples():
        here = plain.loc[plain["layer"] == row.layer, ["step", "rank"]]
        x, y = here.dropna().to_numpy().T
        assert (row.n, row.nan, row.prompts) == (len(x), len(here) - len(x), 15)
        pearson, spearman = scipy_stats.pearsonr(x, y), scipy_stats.spearmanr(x, y)
        assert (row.pearson, row.pearson_p) == pytest.approx((pearson[0], pearson[1]))
        assert (row.spearman, row.spearman_p) == pytest.approx((spearman[0], spearman[1]))
    np.testing.assert_allclose(table["spearman_p_holm"], holm(table["spearman_p"]))
    np.testing.assert_allclose(table["pearson_p_bh"], benjamini_hochberg(table["pearson_p"]))


def test_partial_correlations_are_those_of_residuals(pairs_of_columns):
    table = correlation(
        pairs_of_columns, "step", "rank", partial=["angle", "position"], resamples=50
    )
    plain = pairs_of_columns[~pairs_of_columns["special"]]

    def residual_r(values):
        rest = np.column_stack([np.ones(len(values)), values[:, 2:]])
        x, y = (v - rest @ np.linalg.lstsq(rest, v, rcond=None)[0] for v in values[:, :2].T)
        return np.corrcoef(x, y)[0, 1]

    for row in table.itertuples():
        here = plain.loc[plain["layer"] == row.layer, ["step", "rank", "angle", "position"]]
        values = here.dropna().to_numpy(float)
        assert row.pearson == pytest.approx(residual_r(values))
        assert row.spearman == pytest.approx(residual_r(scipy_stats.rankdata(values, axis=0)))


def test_partial_p_is_that_of_the_regression(pairs_of_columns):
    models = pytest.importorskip("statsmodels.api")
    table = correlation(pairs_of_columns, "step", "rank", partial=["position"], resamples=50)
    plain = pairs_of_columns[~pairs_of_columns["special"]]
    here = plain.loc[plain["layer"] == 0, ["step", "rank", "position"]].dropna()
    fit = models.OLS(here["rank"], models.add_constant(here[["step", "position"]])).fit()
    assert table["pearson_p"][0] == pytest.approx(fit.pvalues["step"])


def test_a_collinear_covariate_changes_nothing(pairs_of_columns):
    twice = pairs_of_columns.assign(again=3 * pairs_of_columns["position"] + 1, one=1.0)
    plain = correlation(twice, "step", "rank", partial=["position"], resamples=50)
    more = correlation(twice, "step", "rank", partial=["position", "again", "one"], resamples=50)
    for name in ("pearson", "spearman", "spearman_low"):
        np.testing.assert_allclose(more[name], plain[name], atol=1e-8)


def test_weighted_ranks_are_those_of_repeated_values():
    rng = rng_of(61)
    x, weights = np.round(rng.normal(size=30), 1), rng.integers(0, 4, size=(5, 30)).astype(float)
    found = _weighted_ranks(x, weights)
    for row, w in zip(found, weights.astype(int), strict=True):
        wanted = scipy_stats.rankdata(np.repeat(x, w)) - 0.5
        np.testing.assert_allclose(np.repeat(row, w), wanted)


def test_correlation_interval_is_the_one_of_a_plain_loop(pairs_of_columns):
    frame = pairs_of_columns.query("layer == 0 and not special").dropna(subset=["step", "rank"])
    table = correlation(frame, "step", "rank", resamples=60, seed=4)
    c = 15
    weights = draw_weights(np.zeros(c, np.int64), 60, np.random.default_rng(4)).astype(int)
    draws = []
    for w in weights:
        whole = frame.loc[frame.index.repeat(w[frame["prompt"]])]
        draws.append(
            [
                f(whole["step"], whole["rank"])[0]
                for f in (scipy_stats.pearsonr, scipy_stats.spearmanr)
            ]
        )
    level = scipy_stats.norm.cdf(-math.sqrt(c / (c - 1)) * scipy_stats.t.isf(0.025, c - 1))
    wanted = np.quantile(draws, [level, 1 - level], axis=0)
    got = table[["pearson_low", "spearman_low", "pearson_high", "spearman_high"]].to_numpy()
    np.testing.assert_allclose(got.reshape(2, 2), wanted)


def test_correlation_interval_covers_where_prompts_differ():
    """Both columns have prompt effects but nothing in common; the p over tokens is fooled."""
    layers, prompts, calls = 50, 30, 40 if FULL else 4
    misses = np.zeros(3)
    for call in range(calls):
        rng = rng_of(62, call)
        prompt = np.repeat(np.arange(prompts), 6 * layers)
        frame = pd.DataFrame({"prompt": prompt, "layer": np.tile(np.arange(layers), 6 * prompts)})
        for name in ("u", "v"):
            shared = rng.normal(size=(prompts, layers))
            frame[name] = shared[prompt, frame["layer"]] + rng.normal(size=len(frame))
        found = correlation(frame, "u", "v", resamples=399, seed=call)
        for i, name in enumerate(("pearson", "spearman")):
            misses[i] += ((found[f"{name}_low"] > 0) | (found[f"{name}_high"] < 0)).sum()
        misses[2] += (found["pearson_p"] < 0.05).sum()
    trials = calls * layers
    assert (misses[:2] <= scipy_stats.binom.isf(1e-3, trials, 0.06)).all()
    assert (misses[:2] >= scipy_stats.binom.ppf(1e-3, trials, 0.04)).all()
    assert misses[2] / trials > 0.1


def test_rows_that_cannot_correlate_are_nan(pairs_of_columns):
    frame = pairs_of_columns
    frame.loc[frame["layer"] == 1, "step"] = 5.0
    frame.loc[(frame["layer"] == 2) & (frame["prompt"] > 0), "step"] = np.nan
    table = correlation(frame, "step", "rank", resamples=50)
    assert table.loc[1, ["pearson", "spearman", "pearson_p", "spearman_low"]].isna().all()
    assert table.loc[2, ["pearson_low", "spearman_high"]].isna().all()  # one prompt only
    assert np.isfinite(table.loc[2, "pearson"])
    assert np.isfinite(table.loc[0, "pearson_low"])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x": "stop"}, UnknownName, r"unknown value column 'stop'; did you mean 'step'\?"),
        ({"y": "step"}, BadInput, "column 'step' is named twice; x, y and partial must all differ"),
        ({"partial": ["rank"]}, BadInput, "column 'rank' is named twice"),
        ({"partial": ["role"]}, BadInput, "column 'role' is .*, not numeric"),
        ({"cluster": "text"}, UnknownName, "unknown column 'text'"),
        ({"x": "token_id"}, BadInput, "no row can correlate 'token_id' with 'rank': at most"),
    ],
)
def test_correlation_names_bad_input(pairs_of_columns, change, error, match):
    call = {"result": pairs_of_columns, "x": "step", "y": "rank", "resamples": 20}
    with pytest.raises(error, match=match):
        correlation(**call | change)


# ---- permutation p of correlations -----------------------------------------------------------


def test_permutation_p_of_a_correlation_is_near_that_of_a_plain_loop():
    random = np.random.default_rng(3)
    prompt = np.repeat(np.arange(5), 4)
    x = random.normal(size=20)
    y = 0.4 * x + random.normal(size=20)
    frame = pd.DataFrame({"prompt": prompt, "x": x, "y": y})
    found = correlation(frame, "x", "y", resamples=4000)
    null = []
    for _ in range(4000):
        drawn = y.copy()
        for p in range(5):
            drawn[prompt == p] = random.permutation(drawn[prompt == p])
        null.append(np.corrcoef(x, drawn)[0, 1])
    centre = np.mean(null)
    hits = (np.abs(null - centre) >= abs(np.corrcoef(x, y)[0, 1] - centre)).sum()
    assert abs(centre) > 0.05  # prompts have something in common
    assert found["pearson_permutation_p"].item() == pytest.approx((1 + hits) / 4001, abs=0.025)
    assert found["pearson_shuffled"].item() == pytest.approx(centre, abs=0.02)


def shared_levels(slope, rng, prompts=10, tokens=12):
    """x and y that have levels of prompts in common, and this slope within prompts."""
    level = np.repeat(rng.normal(size=prompts), tokens)
    x = level + rng.normal(size=prompts * tokens)
    y = 1.2 * level + slope * (x - level) + rng.normal(size=prompts * tokens)
    return x[:, None], y, np.repeat(np.arange(prompts), tokens)


def test_a_slope_within_prompts_is_found_whichever_way_it_goes():
    """What prompts have in common moves the shuffles away from 0."""
    trials, hits, seen = 400 if FULL else 100, {}, {}
    for slope in (0.4, -0.4, 0.0):
        found = [
            shuffled_correlation(*shared_levels(slope, rng_of(70, t)), resamples=199, seed=t)
            for t in range(trials)
        ]
        hits[slope] = sum(f.p.item() <= 0.05 for f in found)
        seen[slope] = np.mean([(f.r.item(), f.centre.item()) for f in found], axis=0)
    assert seen[0.0] == pytest.approx([0.4, 0.4], abs=0.1)  # no slope within: no news
    assert abs(seen[-0.4][0]) < abs(seen[-0.4][1])  # |r| alone would call this nothing
    assert hits[0.4] > 0.9 * trials
    assert hits[-0.4] > 0.9 * trials
    assert within_band(hits[0.0], trials)


def test_a_strong_slope_against_what_prompts_share_has_the_smallest_p():
    x, y, prompt = shared_levels(-1.5, rng_of(71))
    found = shuffled_correlation(x, y, prompt, resamples=1999)
    assert found.p.item() == 1 / 2000
    ranked = shuffled_correlation(x, y, prompt, ranks=True, resamples=1999)
    assert ranked.p.item() == 1 / 2000


def test_prompts_of_one_token_are_shuffled_between_each_other():
    random = np.random.default_rng(0)
    x = random.normal(size=12)
    frame = pd.DataFrame({"prompt": range(12), "x": x, "y": x + 0.1 * random.normal(size=12)})
    found = correlation(frame, "x", "y", resamples=500)
    assert found["pearson_permutation_p"].item() == pytest.approx(1 / 501)
    assert "pearson_permutation_p" not in correlation(frame, "x", "y", null="none", resamples=5)
    with pytest.raises(UnknownName, match="unknown null 'shuffle'"):
        correlation(frame, "x", "y", null="shuffle")


def test_correlation_of_clustered_tokens_without_any_is_found_at_the_nominal_rate():
    """Each value has a level of its own per prompt; tests over tokens take that for a relation."""
    random = np.random.default_rng(7)
    runs, prompts, tokens = 200, 10, 8
    level = 0.05
    hits = {"pearson_p": 0, "pearson_permutation_p": 0, "spearman_permutation_p": 0}
    for seed in range(runs):
        own = random.normal(size=(2, prompts, 1)) + 0.5 * random.normal(size=(2, prompts, tokens))
        frame = pd.DataFrame(
            {"prompt": np.repeat(np.arange(prompts), tokens), "x": own[0].ravel()}
            | {"y": own[1].ravel()}
        )
        found = correlation(frame, "x", "y", resamples=99, seed=seed).iloc[0]
        for name in hits:
            hits[name] += found[name] <= level
    rates = {name: n / runs for name, n in hits.items()}
    spread = 4 * np.sqrt(level * (1 - level) / runs)
    assert rates["pearson_permutation_p"] <= level + spread
    assert rates["spearman_permutation_p"] <= level + spread
    assert rates["pearson_p"] > 0.3, "the naive test over tokens"
