"""Intervals of a column with a range stay in it: bands of figures, comparisons, groups, shares."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from interp.contract.registry import get, names
from interp.experiments import by_group
from interp.experiments.cause import cause
from interp.experiments.continuations import Continuations
from interp.experiments.depth import decided
from interp.experiments.tuned_lens import _row
from interp.stats import compare, within_range
from interp.stats.means import means
from interp.stats.table import range_of

RANGES = {"p": (0.0, 1.0)}
LAYERS = 3


def table(seed=0, prompts=6, tokens=4):
    """A probability per token that is nearly always 1, and now and then not."""
    random = np.random.default_rng(seed)
    n = prompts * tokens
    p = 1 - random.beta(0.08, 2.0, size=(n, LAYERS))
    return pd.DataFrame(
        {
            "prompt": np.repeat(np.arange(prompts), tokens * LAYERS),
            "position": np.tile(np.repeat(np.arange(tokens), LAYERS), prompts),
            "layer": np.tile(np.arange(LAYERS), n),
            "special": False,
            "role": np.tile(np.repeat(["x", "y"] * (tokens // 2), LAYERS), prompts),
            "p": p.ravel(),
        }
    )


def result(frame):
    return SimpleNamespace(frame=frame, analysis=SimpleNamespace(ranges=RANGES, plots=()))


def test_the_range_of_a_column_is_what_its_analysis_declares():
    assert range_of(result(table()), "p") == (0.0, 1.0)
    assert range_of(result(table()), "q") == (-np.inf, np.inf)
    assert range_of(table(), "p") == (-np.inf, np.inf)
    lens = SimpleNamespace(frame=table(), analysis=get("logit_lens"))
    assert range_of(lens, "plain_log_prob") == (-np.inf, 0)


def test_bands_of_means_stay_in_the_range():
    frame = table()
    plain, inside = (means(frame, ["p"], "layer", ranges=r) for r in ({}, RANGES))
    assert (plain["high"] > 1).any(), "the plain band has to leave the range for this to be a test"
    assert inside["high"].le(1).all()
    half = (plain["high"] - plain["low"]).to_numpy() / 2
    low, high = within_range(plain["mean"].to_numpy(), half, 0, 1)
    np.testing.assert_allclose(inside[["low", "high"]], np.c_[low, high])
    np.testing.assert_array_equal(inside["mean"], plain["mean"])


def test_bands_of_a_summary_stay_in_the_range():
    rows = pd.DataFrame({"value": "p", "layer": range(2), "n": 20, "mean": [0.99, 0.5]})
    rows = rows.assign(std=0.1, undefined=0, se=[0.02, 0.02], documents=5, df=4)
    found = means(rows, ["p"], "layer", ranges=RANGES)
    plain = means(rows, ["p"], "layer")
    assert plain["high"].gt(1).tolist() == [True, False]
    assert found["high"].lt(1).all()


def test_intervals_of_a_comparison_stay_in_the_range_and_its_tests_are_the_same():
    frame = table()
    plain = compare(frame, "p", "role", "x", "y", resamples=300).frame
    found = compare(result(frame), "p", "role", "x", "y", resamples=300).frame
    assert (plain[["mean_a_high", "mean_b_high"]] > 1).any(axis=None)
    assert found[["mean_a_high", "mean_b_high"]].le(1).all(axis=None)
    for name in ("difference", "within_difference"):
        half = (plain[f"{name}_high"] - plain[f"{name}_low"]).to_numpy() / 2
        ends = within_range(plain[name].to_numpy(), half, -1, 1)
        np.testing.assert_allclose(found[[f"{name}_low", f"{name}_high"]], np.c_[ends])
    moved = {f"{n}_{e}" for n in ("mean_a", "mean_b", "difference", "within_difference")
             for e in ("low", "high")}  # fmt: skip
    kept = [c for c in plain if c not in moved]
    pd.testing.assert_frame_equal(found[kept], plain[kept])


def test_groups_and_shares_of_decided_tokens_stay_in_the_range():
    frame = table(prompts=8)
    found = by_group(result(frame), "p", "role", level="token", resamples=100)
    assert found.frame["high"].le(1).all()
    depths = pd.DataFrame(
        {"prompt": np.repeat(np.arange(5), 8), "special": False}
        | {"decision_depth": [0] * 38 + [1, 3]}
    )
    shares = decided(depths)
    assert shares["high"].le(1).all()
    assert shares["high"].gt(shares["decided"]).iloc[0]


def test_a_mean_beyond_a_range_that_is_not_its_own_keeps_its_interval():
    low, high = within_range(np.array([1.5, 0.5]), np.array([0.2, 0.2]), 0, 1)
    assert (low[0], high[0]) == pytest.approx((1.3, 1.7))
    assert 0 < low[1] < 0.5 < high[1] < 1


@pytest.mark.parametrize("prompts", [6, 15])
@pytest.mark.parametrize("shape", [(0.5, 3.0), (2.0, 2.0), (5.0, 0.4)])
def test_in_the_range_the_true_mean_is_covered_as_often(prompts, shape):
    """Values of a prompt share a level; the level has a skewed distribution on (0, 1)."""
    random, trials, tokens = np.random.default_rng(3), 400, 3
    level = random.beta(*shape, size=(prompts, trials))
    value = np.clip(level[:, None] * random.uniform(0.9, 1.0, (prompts, tokens, trials)), 0, 1)
    true = shape[0] / sum(shape) * 0.95
    frame = pd.DataFrame(
        {
            "prompt": np.repeat(np.arange(prompts), tokens * trials),
            "layer": np.tile(np.arange(trials), prompts * tokens),
            "p": value.ravel(),
        }
    )
    covered = {}
    for name, ranges in (("plain", {}), ("inside", RANGES)):
        bands = means(frame, ["p"], "layer", ranges=ranges)
        covered[name] = bands["low"].le(true).to_numpy() & bands["high"].ge(true).to_numpy()
    rate = {name: x.mean() for name, x in covered.items()}
    assert rate["inside"] >= rate["plain"] - 0.015
    assert rate["inside"] >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / trials) or rate["plain"] < 0.92


def test_every_declared_range_is_of_a_column():
    declared = {name: get(name).ranges for name in names() if get(name).ranges}
    assert {"logit_lens", "next_token", "attention", "rotation", "path_length"} <= set(declared)
    for ranges in declared.values():
        assert all(low < high for low, high in ranges.values())


# ---- experiments that run a model ------------------------------------------------------------


def test_causes_of_few_prompts_have_intervals_inside_their_ranges():
    texts = ["Mary met John. She saw her mother.", "the", "John gave Mary the old red book."]
    found = cause("demo-llama", texts, positions="last", progress=False)
    for table in (found.frame, found.left_out, found.pushes):
        for name in (c for c in table if f"{c}_low" in table):
            low, high = (table[f"{name}_{end}"] for end in ("low", "high"))
            assert (low.isna() | (low <= table[name])).all(), name
            assert (high.isna() | (table[name] <= high)).all(), name
            if name.endswith("kl") or name in ("written", "later"):
                assert not (low < -1e-5).any(), name  # a mean of 0 may be -2e-7 by rounding
            assert name != "written" or not (high > 1).any()


def test_a_divergence_is_no_further_than_its_bounds():
    frame = pd.DataFrame({"length": [1, 2], "js": [0.01, 0.69], "js_se": [0.02, 0.02]})
    line = Continuations._line(SimpleNamespace(frame=frame, samples=9))
    assert (line["low"] > 0).all()
    assert (line["high"] < np.log(2)).all()


def test_the_loss_of_a_lens_is_not_below_zero():
    few = {name: np.array([[0.1], [0.2], [2.0]]) for name in ("tuned_kl", "plain_kl")}
    row = _row(0, few)
    assert row["tuned_kl_low"] > 0
    assert row["plain_kl_high"] > row["plain_kl"]
