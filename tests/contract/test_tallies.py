"""Counts by code: quantiles within their stated error, exact merging, token ids never averaged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import interp
from analyses.logit_lens import LogitLens
from analyses.rotation import Rotation
from interp.contract.counts import ERROR, SMALLEST, GroupCounts, binned, quantiles, tally

TEXTS = ["the man saw her in a red house", "a queen told her", "the dog met him on the old road ."]
SHARES = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0]
numbers = st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-11)


@given(st.lists(numbers, min_size=1, max_size=200))
def test_quantiles_are_within_their_error_of_the_order_statistic(values):
    x = np.asarray(values)
    exact = np.quantile(x, SHARES, method="lower")
    found = np.asarray(quantiles(*tally(binned(x)), SHARES))
    assert (np.abs(found - exact) <= ERROR * np.abs(exact) * (1 + 1e-9)).all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
@pytest.mark.parametrize("shape", ["normal", "lognormal", "uniform"])
def test_quantiles_of_many_values(scale, shape):
    random = np.random.default_rng(0)
    x = scale * getattr(random, shape)(size=20_000)
    exact = np.quantile(x, SHARES, method="lower")
    found = quantiles(*tally(binned(x)), SHARES)
    np.testing.assert_allclose(found, exact, rtol=ERROR * 1.0001, atol=SMALLEST)


def test_what_has_no_size_has_its_own_bins():
    x = np.array([np.nan, -np.inf, -1e-13, 0.0, 1e-13, np.inf])
    codes, counts = tally(binned(x))
    assert counts.tolist() == [1, 3, 1]
    assert quantiles(codes, counts, [0, 0.5, 1]) == [-np.inf, 0.0, np.inf]
    assert np.isnan(quantiles(*tally(binned(np.array([np.nan]))), [0.5])).all()


def test_columns_are_kept_apart():
    x = np.random.default_rng(1).normal(size=(500, 3)) * [1, 10, 100]
    codes, counts = tally(binned(x))
    for column in range(3):
        exact = np.quantile(x[:, column], SHARES, method="lower")
        np.testing.assert_allclose(
            quantiles(codes, counts, SHARES, column), exact, rtol=ERROR * 1.0001
        )


@given(st.lists(st.lists(numbers, max_size=20), min_size=1, max_size=6), st.randoms())
def test_merging_is_exact_in_any_order(parts, random):
    def leaf(values):
        return GroupCounts({("a",): tally(binned(np.asarray(values)))}, ("kind",))

    whole = leaf([x for part in parts for x in part])
    random.shuffle(parts)
    merged = leaf(parts[0])
    for part in parts[1:]:
        merged = leaf(part).merge(merged)
    for a, b in zip(whole.groups["a",], merged.groups["a",], strict=True):
        np.testing.assert_array_equal(a, b)


def test_round_trip_with_several_groups_and_none():
    some = GroupCounts({("a", "x"): tally(np.array([3, 3, 9])), ("b", "y"): tally(np.array([1]))})
    again = GroupCounts.from_arrays(some.arrays())
    assert {k: [c.tolist() for c in v] for k, v in again.groups.items()} == {
        ("a", "x"): [[3, 9], [2, 1]],
        ("b", "y"): [[1], [1]],
    }
    assert GroupCounts.from_arrays(GroupCounts({}, ("kind",)).arrays()).labels == ("kind",)


def test_a_summary_names_the_most_frequent_token_and_averages_none(gpt2):
    rows = interp.run(gpt2, TEXTS, LogitLens, progress=False)["logit_lens"].frame
    kept = interp.run(gpt2, TEXTS, LogitLens, keep="summary", progress=False)["logit_lens"].frame
    rows = rows[~rows["special"]]
    tokens = kept[kept["value"] == "top_token"].set_index("layer")
    for layer, group in rows.groupby("layer"):
        counts = group["top_token"].value_counts()
        record = tokens.loc[layer]
        assert record["n"] == len(group)
        assert counts[record["mode"]] == counts.max()
        assert record["mode_share"] == pytest.approx(counts.max() / len(group))
        assert record["distinct"] == len(counts)
        assert np.isnan(record["mean"])
    assert kept.loc[kept["value"] != "top_token", "mode"].isna().all()


def test_a_summary_has_the_quantiles_of_the_rows(gpt2):
    labels = {"kind": ["x", "y", "x"]}
    rows = interp.run(gpt2, TEXTS, Rotation, labels=labels, progress=False)["rotation"].frame
    kept = interp.run(
        gpt2, TEXTS, Rotation, labels=labels, keep="summary", by=["kind"], progress=False
    )["rotation"].frame
    kept = kept[kept["value"] == "angle"].set_index(["layer", "kind"])
    for key, group in rows[~rows["special"]].groupby(["layer", "kind"]):
        exact = np.quantile(group["angle"], [0.05, 0.5, 0.95], method="lower")
        found = kept.loc[key, ["q05", "median", "q95"]].astype(float)
        np.testing.assert_allclose(found, exact, rtol=ERROR * 1.0001)


def test_a_label_may_not_hide_a_column_of_summaries(gpt2):
    with pytest.raises(interp.BadInput, match="label 'mean' has the name of a column"):
        interp.run(
            gpt2, TEXTS, Rotation, labels={"mean": [1, 2, 3]}, keep="summary", by=["mean"],
            progress=False,
        )  # fmt: skip


def test_a_summary_with_tallies_comes_back_from_disk(gpt2, tmp_path):
    result = interp.run(gpt2, TEXTS, LogitLens, keep="summary", progress=False)
    again = interp.load(result.save(tmp_path / "out"))["logit_lens"]
    first, second = result["logit_lens"].state["", 0], again.state["", 0]
    assert isinstance(second["top_token"], GroupCounts)
    for name, leaf in first.items():
        for part, array in leaf.arrays().items():
            np.testing.assert_array_equal(array, second[name].arrays()[part])
