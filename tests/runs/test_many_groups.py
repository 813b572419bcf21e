"""Summaries of many groups: one table per value, to the bit what each group alone would give."""

from __future__ import annotations

import numpy as np
import pytest

from interp.contract.counts import (
    QUANTILES,
    GroupCounts,
    binned,
    bins,
    group_quantiles,
    quantiles,
    tally,
)
from interp.contract.leaves import Grouped, GroupedMoments, Moments
from interp.contract.table import default_table

FIELDS = tuple(Moments.__dataclass_fields__)


def _ragged(seed: int, tail: tuple[int, ...], groups: int = 60):
    """Rows of groups of 1 to 40 tokens, some undefined, some infinite, some zeros of both signs."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 41, groups)
    rows = rng.normal(size=(int(lengths.sum()), *tail)) * 10.0 ** rng.integers(-6, 6)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    rows[rng.random(rows.shape) < 0.01] = np.inf
    rows[rng.random(rows.shape) < 0.05] = -0.0
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    keys = [(f"g{i:03d}",) for i in range(groups)]
    return rows, starts, keys, np.split(rows, starts[1:])


def _bits(moments: Moments) -> list[bytes]:
    return [np.asarray(getattr(moments, name), np.float64).tobytes() for name in FIELDS]


@pytest.mark.parametrize("tail", [(), (1,), (2,), (5,), (16,)])
@pytest.mark.parametrize("seed", range(3))
def test_moments_of_runs_are_those_of_their_rows_to_the_bit(tail, seed):
    rows, starts, _, parts = _ragged(seed, tail)
    found = Moments.of_runs(rows, starts)
    for i, part in enumerate(parts):
        assert _bits(found.at(i)) == _bits(Moments.of_rows(part)), i


@pytest.mark.parametrize("tail", [(), (3,)])
def test_merged_stacks_are_merged_groups_to_the_bit(tail):
    """Groups that both have, and groups that only one has."""
    rows, starts, keys, parts = _ragged(1, tail)
    others, other_starts, _, other_parts = _ragged(2, tail)
    renamed = [(f"g{i:03d}",) for i in range(30, 90)]
    a = Grouped(GroupedMoments(keys, Moments.of_runs(rows, starts)))
    b = Grouped(GroupedMoments(renamed, Moments.of_runs(others, other_starts)))
    alone = {key: Moments.of_rows(part) for key, part in zip(keys, parts, strict=True)}
    for key, part in zip(renamed, other_parts, strict=True):
        moments = Moments.of_rows(part)
        alone[key] = alone[key].merge(moments) if key in alone else moments
    merged = a.merge(b).groups
    assert list(merged) == sorted(alone)
    for key, moments in alone.items():
        assert _bits(merged[key]) == _bits(moments), key
    again = Grouped.from_arrays(Grouped(merged, ("kind",)).arrays())
    assert all(_bits(again.groups[key]) == _bits(m) for key, m in alone.items())


def test_the_work_grows_with_lengths_and_not_with_groups(monkeypatch):
    calls = []
    real = Moments._along.__func__
    monkeypatch.setattr(
        Moments, "_along", classmethod(lambda cls, *a: calls.append(1) or real(cls, *a))
    )
    rows, starts, _, _ = _ragged(0, (), groups=3000)
    Moments.of_runs(rows, starts)
    assert len(calls) <= 40


@pytest.mark.parametrize("columns", [1, 4])
def test_counts_and_quantiles_of_groups_are_those_of_each_alone(columns):
    rows, starts, keys, parts = _ragged(3, (columns,) if columns > 1 else ())
    run = np.repeat(np.arange(len(keys)), np.diff(np.append(starts, len(rows))))
    codes, defined = bins(rows)
    group = np.broadcast_to(run.reshape(-1, *[1] * (rows.ndim - 1)), rows.shape)
    whole = GroupCounts.of_runs(keys, group[defined], codes[defined], ("kind",))
    shares = list(QUANTILES.values())
    found = group_quantiles(whole.table, shares, columns)
    for i, (key, part) in enumerate(zip(keys, parts, strict=True)):
        alone = tally(binned(part))
        for a, b in zip(whole.groups[key], alone, strict=True):
            np.testing.assert_array_equal(a, b)
        for j in range(columns):
            own = part[:, j] if columns > 1 else part
            own = np.sort(own[~np.isnan(own)])
            expected = quantiles(*alone, shares, j if columns > 1 else None)
            assert np.asarray(expected).tobytes() == found[i, j].tobytes()
            if len(own):  # within a hundredth of the order statistic, as NumPy counts
                exact = own[np.floor(np.asarray(shares) * (len(own) - 1)).astype(int)]
                np.testing.assert_allclose(found[i, j], exact, rtol=0.0101, atol=1e-11)
            else:
                assert np.isnan(found[i, j]).all()


def test_merged_counts_are_added_up_by_group_and_code():
    a = GroupCounts({("x",): tally(np.array([3, 3, 9])), ("z",): tally(np.array([1]))}, ("kind",))
    b = GroupCounts({("x",): tally(np.array([9, 4])), ("y",): tally(np.array([7]))}, ("kind",))
    merged = a.merge(b)
    assert {k: [x.tolist() for x in v] for k, v in merged.groups.items()} == {
        ("x",): [[3, 4, 9], [2, 1, 2]],
        ("y",): [[7], [1]],
        ("z",): [[1], [1]],
    }
    again = GroupCounts.from_arrays(merged.arrays())
    assert again.arrays()["ends"].tolist() == [3, 4, 5]


def test_the_table_has_a_row_for_every_group_and_head():
    rows, starts, keys, parts = _ragged(5, (2,), groups=4)
    state = {("", 0): {"score": Grouped(GroupedMoments(keys, Moments.of_runs(rows, starts)))}}
    table = default_table(state)
    assert list(table) == [
        "value",
        "group_0",
        "head",
        "n",
        "mean",
        "std",
        "min",
        "max",
        "undefined",
        "layer",
    ]
    for i, part in enumerate(parts):
        for head in range(2):
            own = part[~np.isnan(part[:, head]), head]
            (row,) = table[(table["group_0"] == keys[i][0]) & (table["head"] == head)].itertuples()
            assert row.n == len(own)
            assert row.undefined == len(part) - len(own)
            assert np.isnan(row.min) if not len(own) else row.min == own.min()
            if len(own) > 1 and np.isfinite(own).all():
                np.testing.assert_allclose([row.mean, row.std], [own.mean(), own.std(ddof=1)])
