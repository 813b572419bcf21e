"""Correlations within prompts and between columns, with their permutation p."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from stats_help import FULL, rng_of, tidy, within_band

from interp.errors import BadInput, UnknownName
from interp.stats.classical import (
    benjamini_hochberg,
    holm,
)
from interp.stats.correlation import _weighted_ranks, correlation
from interp.stats.resampling import draw_weights
from interp.stats.shuffled import shuffled_correlation

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
