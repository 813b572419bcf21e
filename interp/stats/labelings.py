"""Permutations of labels within exchangeability blocks: drawn at random, or all of them.

In a cluster that carries several groups its own tokens exchange their labels; clusters that carry
one group exchange it as a whole with each other. Knows codes and clusters; nothing of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import factorial, inf, prod
from math import log as log_of

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from interp._arrays import Bools, Floats

Codes = NDArray[np.int64]
# A spread this much smaller than the value it scales is rounding: float64 sums over 10^6 tokens
# keep about ten digits.
ROUNDING = 1e-9
# Sums of the same values in another order differ by less than this, of the largest value.
EQUAL = 1e-12
# Far more labelings than anyone would enumerate; above it the exact integer is not worth computing.
MANY = 1e15


@dataclass(frozen=True)
class Labelings:
    """The labelings of tokens `[n]` that are equally likely under the null hypothesis.

    Attributes:
        codes: group of each token `[n]`, 0 … g−1.
        clusters: cluster of each token `[n]`, 0 … c−1, in any order.
    """

    codes: Codes
    clusters: Codes

    @cached_property
    def several(self) -> Bools:
        """Mask of the clusters that carry more than one group: `[c]`."""
        # Lowest and highest code differ: no table of clusters by groups is needed.
        c = int(self.clusters.max()) + 1
        low, high = np.full(c, np.iinfo(np.int64).max), np.full(c, -1)
        np.minimum.at(low, self.clusters, self.codes)
        np.maximum.at(high, self.clusters, self.codes)
        return np.asarray(low < high, dtype=bool)

    @cached_property
    def _of_alone(self) -> tuple[Codes, Codes]:
        """The clusters that carry one group, and that group."""
        alone = np.flatnonzero(~self.several)
        of_cluster = np.zeros(len(self.several), np.int64)
        of_cluster[self.clusters] = self.codes
        return alone, of_cluster[alone]

    @cached_property
    def count(self) -> float:
        """Number of different labelings, including the observed one; infinite if very many."""
        blocks = [np.bincount(self.codes[rows]) for rows in self._blocks]
        blocks.append(np.bincount(self._of_alone[1]))
        # The logarithm first: the exact integer of a large table would have millions of digits.
        log = sum(gammaln(n.sum() + 1) - gammaln(n + 1).sum() for n in blocks)
        return prod(map(_ways, blocks)) if log < log_of(MANY) else inf

    @cached_property
    def _blocks(self) -> list[Codes]:
        """The tokens of each cluster that carries several groups."""
        order = np.argsort(self.clusters, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(self.clusters[order])) + 1)
        return [rows for rows in parts if self.several[self.clusters[rows[0]]]]

    def draw(self, resamples: int, rng: np.random.Generator) -> Codes:
        """Labelings drawn at random, with replacement: `[resamples, n]`."""
        # Sorting cluster number + U(0, 1) permutes the tokens of each cluster among themselves.
        order = np.argsort(self.clusters, kind="stable")
        keys = rng.random((resamples, len(order))) + self.clusters[order]
        drawn = np.empty((resamples, len(order)), np.int64)
        drawn[:, order] = self.codes[order][np.argsort(keys, axis=1)]
        alone, groups = self._of_alone
        if len(alone):
            swapped = groups[np.argsort(rng.random((resamples, len(alone))), axis=1)]
            self._put(drawn, swapped)
        return drawn

    def _put(self, drawn: Codes, groups: Codes) -> None:
        """Write the groups `[r, alone]` of clusters with a single group to their tokens."""
        whole = np.zeros((len(drawn), len(self.several)), np.int64)
        whole[:, self._of_alone[0]] = groups
        member = ~self.several[self.clusters]
        drawn[:, member] = whole[:, self.clusters[member]]

    @cached_property
    def _arranged(self) -> tuple[list[Codes], Codes]:
        """All arrangements within each block, and of the clusters that carry one group."""
        blocks = [_arrangements(self.codes[rows]) for rows in self._blocks]
        return blocks, _arrangements(self._of_alone[1])

    def every(self, size: int) -> Iterator[Codes]:
        """All labelings, in pieces of at most `size`: `[≤ size, n]` each."""
        blocks, alone = self._arranged
        # Blocks are independent of each other: a labeling is one number in mixed radix, whose
        # digits choose the arrangement of each block.
        ways = [len(way) for way in (*blocks, alone)]
        total = prod(ways)
        for start in range(0, total, size):
            index = np.arange(start, min(start + size, total))
            digits = np.unravel_index(index, ways)
            dealt = np.empty((len(index), len(self.codes)), np.int64)
            for rows, block, digit in zip(self._blocks, blocks, digits, strict=False):
                dealt[:, rows] = block[digit]
            self._put(dealt, alone[digits[-1]])
            yield dealt


def _ways(counts: Codes) -> int:
    """Number of different orders of labels with these counts: n! / Π n_i!."""
    return factorial(int(counts.sum())) // prod(map(factorial, counts.tolist()))


def _arrangements(labels: Codes) -> Codes:
    """The different orders of labels `[m, n]`, in lexicographic order.

    >>> _arrangements(np.array([1, 0, 0])).tolist()
    [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    """
    # Knuth's algorithm L yields each order once; itertools would repeat orders of equal labels.
    row = np.sort(labels)
    rows = [row]
    while len(rising := np.flatnonzero(row[:-1] < row[1:])):
        at = rising[-1]
        other = np.flatnonzero(row > row[at])[-1]
        row = row.copy()
        row[[at, other]] = row[[other, at]]
        row[at + 1 :] = row[at + 1 :][::-1]
        rows.append(row)
    return np.stack(rows)


def share_reaching(null: Floats, observed: Floats, exact: bool) -> Floats:
    """p of observed statistics `[k]`, 0 or above, against a null `[resamples, k]` or `[…, 1]`.

    (1 + #{null ≥ observed}) / (1 + resamples), never 0; where the null holds all labelings,
    including the observed one, #{null ≥ observed} / labelings. Statistics count as equal within
    rounding. Source: Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010).
    """
    # Random draws need the observed labeling added; an enumeration has it already.
    drawn = 0 if exact else 1
    reached = null >= observed * (1 - ROUNDING)
    return np.asarray((drawn + reached.sum(axis=0)) / (drawn + len(null)), np.float64)


def smallest_share(null: Floats, exact: bool) -> float:
    """The smallest p that any labeling could have reached against this null `[resamples]`."""
    if not exact:
        return 1 / (1 + len(null))
    return float(share_reaching(null[:, None], null.max(initial=0.0, keepdims=True), True)[0])
