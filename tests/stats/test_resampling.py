"""Bootstrap, permutations and runs of layers: by loops, and calibrated under a true null."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy import stats as scipy_stats
from stats_help import FULL, design, dropped, null_tables, ragged, rng_of, within_band

from interp.errors import BadInput
from interp.stats.classical import (
    hedges_g,
    moments,
    welch_from_moments,
)
from interp.stats.groups import clustered_omnibus
from interp.stats.labelings import Labelings
from interp.stats.layer_runs import cluster_test
from interp.stats.resampling import clustered_bootstrap, clustered_permutation, draw_weights

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


def test_groups_of_the_same_values_differ_by_nothing():
    """Each prompt once clean and once changed, as two prompts of the same values at row 0."""
    rng, n = np.random.default_rng(3), 7
    clean = rng.normal(5.0, 1.0, (2 * n, 2))
    other = clean + [0.0, 1.0] * rng.normal(1.0, 1.0, (2 * n, 2))
    values = np.concatenate([clean, other])[np.r_[: 2 * n, 4 * n - 1 : 2 * n - 1 : -1]]
    labels, clusters = np.arange(4 * n) >= 2 * n, np.arange(4 * n) // n
    test = clustered_permutation(values, labels, clusters)
    assert test.exact
    assert test.t[0] == 0
    assert test.p[0] == test.p_max[0] == 1
    assert test.t[1] != 0
    fits = clustered_bootstrap(values, labels, clusters)
    assert fits["difference"].estimate[0] == fits["hedges_g"].estimate[0] == 0


def test_runs_of_shuffles_with_infinite_t_of_both_signs_are_added_up_without_a_warning():
    null = np.array([[np.inf, -np.inf, 3.0], [-np.inf, 2.0, 2.0], [1.0, -3.0, -np.inf]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cluster_test([0.0, 4.0, 4.0], null, range(3), threshold=1.5)
    assert found["mass"].tolist() == [8.0]
    assert found["p"].tolist() == [1.0]


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
