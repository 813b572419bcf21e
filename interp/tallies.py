"""Counts by code: quantiles of numbers with a stated error, and frequencies of token ids.

Both are sparse whole-number counts, so they merge exactly, in any order and grouping, and a corpus
of any size has one answer. The bins of numbers are those of DDSketch (Masson, Rim & Lee, VLDB
2019): logarithmic, symmetric about zero, so that a quantile is right within `ERROR` of itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from interp.state import Array, Leaf

ERROR = 0.01
"""Most that a quantile may be off, as a share of itself (within `SMALLEST` … `LARGEST`)."""
SMALLEST, LARGEST = 1e-12, 1e12
"""Sizes below count as zero, sizes above as infinite."""
BINS = "~bins"
"""A value's tally is kept beside its moments, under its name and this ending."""
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}

_LOG_GAMMA = math.log1p(2 * ERROR / (1 - ERROR))
_HALF = math.ceil(math.log(LARGEST) / _LOG_GAMMA)
_TOP = 2 * _HALF + 2  # the code of +inf; −inf is its negative, zero is 0
_SPAN = 2 * _TOP + 1


@dataclass(frozen=True, eq=False)
class Tallies(Leaf):
    """How often each code occurred, per group of labels.

    Attributes:
        groups: by label tuple, codes int64 `[n]` ascending and their counts int64 `[n]`.
        labels: names of the labels that make the keys.
    """

    groups: dict[tuple[str, ...], tuple[Array, Array]]
    labels: tuple[str, ...] = field(default=())

    def merge(self, other: Self) -> Self:
        out = dict(self.groups)
        for key, (codes, counts) in other.groups.items():
            out[key] = _added(*out[key], codes, counts) if key in out else (codes, counts)
        return type(self)(out, self.labels or other.labels)

    def arrays(self) -> dict[str, Array]:
        keys = sorted(self.groups)
        width = len(keys[0]) if keys else 0
        parts = [self.groups[key] for key in keys]
        none: Array = np.zeros(0, dtype=np.int64)
        return {
            "keys": np.asarray(keys, dtype=str).reshape(len(keys), width),
            "labels": np.asarray(self.labels, dtype=str),
            "ends": np.cumsum([len(codes) for codes, _ in parts], dtype=np.int64),
            "codes": np.concatenate([none, *(codes for codes, _ in parts)]),
            "counts": np.concatenate([none, *(counts for _, counts in parts)]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        cuts = arrays["ends"][:-1]
        keys = [tuple(str(part) for part in row) for row in arrays["keys"]]
        codes, counts = (np.split(arrays[name], cuts) for name in ("codes", "counts"))
        groups = {key: (codes[i], counts[i]) for i, key in enumerate(keys)}
        return cls(groups, tuple(map(str, arrays["labels"])))


def tally(codes: Array) -> tuple[Array, Array]:
    """Distinct codes, ascending, and how often each occurs.

    >>> [x.tolist() for x in tally(np.array([7, 3, 7]))]
    [[3, 7], [1, 2]]
    """
    found, counts = np.unique(codes, return_counts=True)
    return found.astype(np.int64), counts.astype(np.int64)


def _added(a: Array, n: Array, b: Array, m: Array) -> tuple[Array, Array]:
    codes, place = np.unique(np.concatenate([a, b]), return_inverse=True)
    counts = np.zeros(len(codes), dtype=np.int64)
    np.add.at(counts, place, np.concatenate([n, m]))
    return codes, counts


def binned(rows: Array) -> Array:
    """Codes of the defined values of `rows [n]` or `[n, column]`; ascending within a column.

    A code holds the column and the bin; NaN has none.
    """
    rows = rows.astype(np.float64)
    size = np.abs(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.ceil(np.log(size) / _LOG_GAMMA) + (_HALF + 1)
    steps = np.where(size < SMALLEST, 0, np.where(size > LARGEST, _TOP, steps))
    defined = ~np.isnan(rows)
    codes: Array = np.copysign(np.where(defined, steps, 0), rows).astype(np.int64) + _TOP
    if rows.ndim == 2:
        codes += np.arange(rows.shape[1]) * _SPAN
    return codes[defined]


def middles(codes: Array) -> Array:
    """The value that stands for each bin: within `ERROR` of every value in it."""
    steps = codes % _SPAN - _TOP
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
        codes, counts = codes[low:high], counts[low:high]
    if not len(codes):
        return [math.nan] * len(shares)
    total = np.cumsum(counts)
    ranks = np.floor(np.asarray(shares) * (total[-1] - 1))
    found: list[float] = middles(codes[np.searchsorted(total, ranks, side="right")]).tolist()
    return found
