"""Counts by code: quantiles of numbers with a stated error, and frequencies of token ids.

Both are sparse whole-number counts, so they merge exactly, in any order and grouping, and a corpus
of any size has one answer. The bins of numbers are those of DDSketch (Masson, Rim & Lee, VLDB
2019): logarithmic, symmetric about zero, so that a quantile is right within `ERROR` of itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np

from interp._arrays import Array
from interp.contract.columns import MODE, MOMENTS
from interp.contract.leaves import GroupKey, Leaf, label_columns

ERROR = 0.01
"""Most that a quantile may be off, as a share of itself (within `SMALLEST` … `LARGEST`)."""
SMALLEST, LARGEST = 1e-12, 1e12
"""Sizes below count as zero, sizes above as infinite."""
BINS = "~bins"
"""Ending of the name under which a value's bins are kept, next to its moments."""
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}

_LOG_GAMMA = math.log1p(2 * ERROR / (1 - ERROR))
_HALF = math.ceil(math.log(LARGEST) / _LOG_GAMMA)
_TOP = 2 * _HALF + 2  # the code of +inf; −inf is its negative, zero is 0
_SPAN = 2 * _TOP + 1


class CountTable(Mapping[GroupKey, tuple[Array, Array]]):
    """Counts by code of groups as one table, sorted by group and code.

    Reads as a mapping from keys to codes and counts; a merge costs the same for one group and for
    many.

    Attributes:
        names: the groups' keys, ascending.
        group: int64 `[n]`, index into `names`.
        codes, counts: int64 `[n]`.
    """

    def __init__(
        self, names: Sequence[GroupKey], group: Array, codes: Array, counts: Array
    ) -> None:
        self.names, self.group, self.codes, self.counts = tuple(names), group, codes, counts

    @classmethod
    def of(cls, groups: Mapping[GroupKey, tuple[Array, Array]]) -> Self:
        """The same from codes and counts by key, in any order."""
        names = sorted(groups)
        parts = [groups[name] for name in names]
        none: Array = np.zeros(0, dtype=np.int64)
        return cls(
            names,
            np.repeat(np.arange(len(names)), [len(codes) for codes, _ in parts]),
            np.concatenate([none, *(codes for codes, _ in parts)]),
            np.concatenate([none, *(counts for _, counts in parts)]),
        )

    @classmethod
    def counted(cls, names: Sequence[GroupKey], group: Array, codes: Array, counts: Array) -> Self:
        """Rows in any order, those of one group and code added up."""
        order = np.lexsort((codes, group))
        group, codes, counts = group[order], codes[order], counts[order]
        first = np.ones(len(codes), dtype=bool)
        first[1:] = (group[1:] != group[:-1]) | (codes[1:] != codes[:-1])
        starts = np.flatnonzero(first)
        total = np.add.reduceat(counts, starts) if len(starts) else counts
        return cls(names, group[starts], codes[starts], total)

    @cached_property
    def ends(self) -> Array:
        """End of each group's rows: int64 `[groups]`."""
        return np.searchsorted(self.group, np.arange(len(self.names)), side="right")

    @cached_property
    def _place(self) -> dict[GroupKey, int]:
        return {name: i for i, name in enumerate(self.names)}

    def __getitem__(self, key: GroupKey) -> tuple[Array, Array]:
        place = self._place[key]
        rows = slice(int(self.ends[place - 1]) if place else 0, int(self.ends[place]))
        return self.codes[rows], self.counts[rows]

    def __iter__(self) -> Iterator[GroupKey]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def merge(self, other: Self) -> Self:
        """The counts of both, added up."""
        names = sorted({*self.names, *other.names})
        place = {name: i for i, name in enumerate(names)}
        moved = [
            np.asarray([place[name] for name in x.names], dtype=np.int64)[x.group]
            for x in (self, other)
        ]
        return self.counted(
            names,
            np.concatenate(moved),
            np.concatenate([self.codes, other.codes]),
            np.concatenate([self.counts, other.counts]),
        )


@dataclass(frozen=True, eq=False)
class GroupCounts(Leaf):
    """Occurrences of each code, per group of labels.

    Attributes:
        groups: by label tuple, codes int64 `[n]` ascending and their counts int64 `[n]`.
        labels: names of the labels that make the keys.
    """

    groups: Mapping[GroupKey, tuple[Array, Array]]
    labels: tuple[str, ...] = field(default=())

    @cached_property
    def table(self) -> CountTable:
        """The groups as one table."""
        groups = self.groups
        return groups if isinstance(groups, CountTable) else CountTable.of(groups)

    @classmethod
    def of_runs(
        cls, names: Sequence[GroupKey], run: Array, codes: Array, labels: tuple[str, ...]
    ) -> Self:
        """Counts of `codes [n]`, each of the group `run [n]`, an index into sorted `names`."""
        ones = np.ones(len(codes), dtype=np.int64)
        return cls(CountTable.counted(names, run, codes.astype(np.int64), ones), labels)

    def merge(self, other: Self) -> Self:
        return type(self)(self.table.merge(other.table), self.labels or other.labels)

    def arrays(self) -> dict[str, Array]:
        keys, table = self.table.names, self.table
        width = len(keys[0]) if keys else 0
        return {
            "keys": np.asarray(keys, dtype=str).reshape(len(keys), width),
            "labels": np.asarray(self.labels, dtype=str),
            "ends": table.ends.astype(np.int64),
            "codes": table.codes,
            "counts": table.counts,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        keys = [tuple(map(str, row)) for row in arrays["keys"].tolist()]
        # Written sorted by this library; a search by group relies on it, so it is not assumed.
        names = sorted(keys)
        place = {name: i for i, name in enumerate(names)}
        rank = np.asarray([place[key] for key in keys], dtype=np.int64)
        group = np.repeat(rank, np.diff(arrays["ends"], prepend=0))
        table = CountTable.counted(names, group, arrays["codes"], arrays["counts"])
        return cls(table, tuple(map(str, arrays["labels"])))

    def group_columns(self, companions: Sequence[Leaf] = ()) -> dict[str, Any]:  # noqa: ARG002
        """Labels, and of each group of token ids: how many, the most frequent one and its share.

        Of several most frequent ids the lowest is given. The moments are NaN, because a mean of
        ids means nothing.
        """
        groups = self.table
        if not groups:
            return {}
        tables = [groups[key] for key in groups]
        best = [int(counts.argmax()) for _, counts in tables]
        total = [int(counts.sum()) for _, counts in tables]
        return {
            **label_columns(self.labels, groups.names),
            "n": total,
            **dict.fromkeys(MOMENTS[1:-1], math.nan),
            "undefined": 0,
            MODE: [int(ids[i]) for (ids, _), i in zip(tables, best, strict=True)],
            "mode_share": [c[i] / n for (_, c), i, n in zip(tables, best, total, strict=True)],
            "distinct": [len(ids) for ids, _ in tables],
        }

    def companion_columns(self, keys: Sequence[GroupKey], each: int) -> dict[str, Array]:
        """Quantiles, where the codes are the bins of a value."""
        shares = group_quantiles(self.table, list(QUANTILES.values()), each)
        found = shares[places(self.table.names, keys)].reshape(-1, len(QUANTILES))
        return dict(zip(QUANTILES, found.T, strict=True))

    def token_ids(self, name: str, columns: Collection[str]) -> Array:
        """The codes, unless they are bins."""
        if name.endswith(BINS):
            return super().token_ids(name, columns)
        return np.unique(self.table.codes)


def places(of: Sequence[GroupKey], wanted: Sequence[GroupKey]) -> Array:
    """Index of each wanted key in a list of keys: int64 `[wanted]`."""
    place = {key: i for i, key in enumerate(of)}
    return np.asarray([place[key] for key in wanted], dtype=np.int64)


def tally(codes: Array) -> tuple[Array, Array]:
    """Distinct codes, ascending, and how often each occurs.

    >>> [x.tolist() for x in tally(np.array([7, 3, 7]))]
    [[3, 7], [1, 2]]
    """
    found, counts = np.unique(codes, return_counts=True)
    return found.astype(np.int64), counts.astype(np.int64)


def binned(rows: Array) -> Array:
    """Codes of the defined values of `rows [n]` or `[n, column]`; ascending within a column.

    A code holds the column and the bin; NaN has none.
    """
    codes, defined = bins(rows)
    return codes[defined]


def bins(rows: Array) -> tuple[Array, Array]:
    """The code of every value of `rows [n]` or `[n, column]`, and which are defined."""
    rows = rows.astype(np.float64)
    size = np.abs(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.ceil(np.log(size) / _LOG_GAMMA) + (_HALF + 1)
    steps = np.where(size < SMALLEST, 0, np.where(size > LARGEST, _TOP, steps))
    defined = ~np.isnan(rows)
    # copysign, not a product with the sign: of NaN that is NaN, which no integer holds.
    codes: Array = np.copysign(np.where(defined, steps, 0), rows).astype(np.int64) + _TOP
    if rows.ndim == 2:
        # One range of codes per column, so that heads share one table and one merge.
        codes += np.arange(rows.shape[1]) * _SPAN
    return codes, defined


def middles(codes: Array) -> Array:
    """The value that stands for each bin: within `ERROR` of every value in it."""
    steps = codes % _SPAN - _TOP
    # The value with the same relative error toward both ends of its bin.
    size = np.exp((np.abs(steps) - (_HALF + 1)) * _LOG_GAMMA) * (1 - ERROR)
    size = np.where(steps == 0, 0.0, np.where(np.abs(steps) == _TOP, np.inf, size))
    signed: Array = np.copysign(size, steps)
    return signed


def quantiles(
    codes: Array, counts: Array, shares: Sequence[float], column: int | None = None
) -> list[float]:
    """The values below which each share of the tallied numbers lies; NaN where there are none.

    The order statistic of rank ⌊share · (n − 1)⌋, as NumPy's method "lower", within `ERROR` of
    itself. `column` picks one column of values that have several.

    >>> codes, counts = tally(binned(np.arange(1.0, 102.0)))
    >>> [round(q) for q in quantiles(codes, counts, [0.05, 0.5])]
    [6, 51]
    """
    if column is not None:
        low, high = np.searchsorted(codes, [column * _SPAN, (column + 1) * _SPAN])
        codes, counts = codes[low:high] - column * _SPAN, counts[low:high]
    alone = CountTable(((),), np.zeros(len(codes), dtype=np.int64), codes, counts)
    found: list[float] = group_quantiles(alone, shares)[0, 0].tolist()
    return found


def group_quantiles(table: CountTable, shares: Sequence[float], columns: int = 1) -> Array:
    """`quantiles` of every group and column at once: `[group, column, share]`."""
    cells = len(table.names) * columns
    flat = table.group * (columns * _SPAN) + table.codes  # ascending, as groups and codes are
    edges = np.searchsorted(flat, np.arange(cells + 1) * _SPAN)
    # One cumulative sum over all groups: a search in it replaces a loop over groups.
    total = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(table.counts)])
    below, size = total[edges[:-1]], np.diff(total[edges])
    out = np.full((cells, len(shares)), np.nan)
    some = size > 0
    ranks = np.floor(np.asarray(shares) * (size[some, None] - 1)).astype(np.int64)
    rows = np.searchsorted(total[1:], below[some, None] + ranks, side="right")
    out[some] = middles(table.codes[rows])
    return out.reshape(len(table.names), columns, len(shares))
