"""Sums per document, from which means get cluster-robust standard errors.

Tokens of one document (or prompt) are not independent, so the spread of a mean has to be taken
over documents. `DocumentSums` adds up the tokens of each document and group; once the documents
are complete, `closed` squares the sums into `Clustered`, whose size depends on the groups alone.
Both merge. Knows keys, documents and values; nothing of what they mean or which test is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from interp._arrays import Array
from interp.contract.counts import places
from interp.contract.leaves import GroupKey, Leaf

OPEN, CLUSTERS = "~documents", "~clusters"
"""Endings of the names under which a value's sums are kept, next to its moments."""
MOST_PAIRS = 190
"""Most pairs of groups that share documents (those of 20 groups); beyond, pairs are not kept."""
Keys = tuple[tuple[str, ...], ...]
_PAIRED = ("product", "left", "right", "sizes", "left_sizes", "right_sizes", "shared")


def small_sample(n: Array, squares: Array, cubes: Array) -> tuple[Array, Array]:
    """Factor of a clustered variance and its degrees of freedom, for documents of any sizes.

    From n = Σ n_d, Σ n_d² and Σ n_d³ over the documents d of a mean, `[...]` each; with
    S_k = Σ (n_d / n)^k and e = S_2 − 2 S_3 + S_2²: the factor of Σ r_d² / n² is S_2 / e, which
    makes it unbiased if the tokens of a document go up and down together (and a little too large
    if they are independent); the degrees of freedom are (1 − S_2)² / e, those of Bell & McCaffrey
    for independent tokens. Of D documents of one size both are the textbook's: D / (D − 1) and
    D − 1. A document that holds half of the tokens leaves few degrees of freedom, however many
    others there are. NaN for one document.
    Source: Bell & McCaffrey, Survey Methodology 28 (2002); Imbens & Kolesár, Review of Economics
    and Statistics 98 (2016).

    >>> [round(x.item(), 6) for x in small_sample(*np.array([20.0, 40.0, 80.0]))]
    [1.111111, 9.0]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        second, third = squares / n**2, cubes / n**3
        rest = second - 2 * third + second**2
        # One document leaves no degree of freedom: e is 0 up to rounding, and the ratios mean
        # nothing.
        rest = np.where(rest > 1e-12 * second, rest, np.nan)
        return np.asarray(second / rest), np.asarray((1 - second) ** 2 / rest)


@dataclass(frozen=True, eq=False)
class Parting:
    """Order of rows by group and, within it, by document: one sort for all values.

    Attributes:
        order: the rows that have a group, by group, then document, then as they came.
        keys: the groups that occur, sorted, one per run of `order` that `starts` begins.
        runs: where in `order` a document of a group begins.
        group, document: `[runs]`, index into `keys`, and the document's number.
    """

    order: Array
    keys: Keys
    starts: Array
    runs: Array
    group: Array
    document: Array

    @classmethod
    def of(cls, codes: Array, keys: Sequence[tuple[str, ...]], documents: Array) -> Self:
        """Part rows by group number (an index into `keys`, −1 for none) and document, `[n]` each.

        >>> Parting.of(np.array([1, -1, 0, 1]), [("a",), ("b",)], np.zeros(4, int)).order.tolist()
        [2, 0, 3]
        """
        rows = np.flatnonzero(codes >= 0)
        present, group = np.unique(codes[rows], return_inverse=True)
        found = [keys[i] for i in present.tolist()]
        rank = sorted(range(len(found)), key=found.__getitem__)
        group, document = np.argsort(rank)[group], documents[rows]
        order = np.lexsort((document, group))
        group, document = group[order], document[order]
        runs = _first_of_runs(group, document)
        names = tuple(found[i] for i in rank)
        return cls(rows[order], names, _first_of_runs(group), runs, group[runs], document[runs])

    @cached_property
    def run(self) -> Array:
        """Group of each row of `order`: `[rows]`, index into `keys`."""
        lengths = np.diff(np.append(self.starts, len(self.order)))
        return np.repeat(np.arange(len(self.starts)), lengths)

    def sums(self, rows: Array, labels: tuple[str, ...]) -> DocumentSums:
        """Rows `[n, ...]` added up per group and document; NaN is left out."""
        x = rows[self.order].astype(np.float64)
        defined = ~np.isnan(x)
        if not len(self.runs):
            none = np.zeros((0, *x.shape[1:]))
            return DocumentSums((), labels, self.group, self.document, none, none)
        # Counts in float64, because they are multiplied with sums and cubed; exact up to 2⁵³
        # tokens.
        n = np.add.reduceat(defined, self.runs, axis=0, dtype=np.float64)
        total = np.add.reduceat(np.where(defined, x, 0.0), self.runs, axis=0)
        return DocumentSums(self.keys, labels, self.group, self.document, n, total)


def _first_of_runs(*columns: Array) -> Array:
    """Start of every run of equal rows, in sorted columns."""
    change = np.zeros(len(columns[0]), dtype=bool)
    change[:1] = True
    for column in columns:
        change[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(change)


@dataclass(frozen=True, eq=False)
class DocumentSums(Leaf):
    """Count and total of each document in each group; merging adds up what is of one document.

    Attributes:
        keys: the groups, as tuples of labels.
        labels: names of the parts of a key.
        group, document: `[r]`, index into `keys`, and the document's number; ascending.
        n, total: `[r, ...]` defined values of that document in that group, and their sum.
    """

    keys: Keys
    labels: tuple[str, ...]
    group: Array
    document: Array
    n: Array
    total: Array

    def merge(self, other: Self) -> Self:
        keys = tuple(sorted({*self.keys, *other.keys}))
        group = np.concatenate([places(keys, x.keys)[x.group] for x in (self, other)])
        document = np.concatenate([self.document, other.document])
        order = np.lexsort((document, group))
        group, document = group[order], document[order]
        first = _first_of_runs(group, document)
        parts = [
            np.concatenate([getattr(self, name), getattr(other, name)])[order]
            for name in ("n", "total")
        ]
        if len(first):
            parts = [np.add.reduceat(part, first, axis=0) for part in parts]
        labels = self.labels or other.labels
        return type(self)(keys, labels, group[first], document[first], *parts)

    def closed(self) -> Clustered:
        """The squares and products of the sums, where every document is complete."""
        g, tail = len(self.keys), self.n.shape[1:]
        n, total = np.zeros((2, g, *tail))
        np.add.at(n, self.group, self.n)
        np.add.at(total, self.group, self.total)
        with np.errstate(invalid="ignore"):  # around a mean of ±inf residuals are NaN
            mean = total / np.maximum(n, 1)
            # Residuals about the groups' means: products of raw totals would cancel (large mean,
            # small spread).
            residual = self.total - mean[self.group] * self.n
        alone = np.arange(len(self.group))
        found = _pairs_within(self.group, self.document)
        rows = alone if found is None else np.concatenate([alone, found[0]])
        others = alone if found is None else np.concatenate([alone, found[1]])
        # Pairs of groups as one number each, so that `unique` sorts them in one go.
        code, place = np.unique(
            self.group[rows] * max(g, 1) + self.group[others], return_inverse=True
        )
        pairs = np.stack(np.divmod(code, max(g, 1)), axis=1)
        n_a, n_b, r_a, r_b = self.n[rows], self.n[others], residual[rows], residual[others]
        with np.errstate(invalid="ignore"):
            size, met = n_a * n_b, (n_a > 0) & (n_b > 0)
            terms = (r_a * r_b, n_a * r_b, r_a * n_b, size, n_a * size, size * n_b, met)
        sums = np.zeros((len(terms), len(code), *tail))
        for out, term in zip(sums, terms, strict=True):
            np.add.at(out, place, term)
        whole = found is not None
        return Clustered(self.keys, self.labels, whole, n, mean, pairs, *sums)._bounded()

    def arrays(self) -> dict[str, Array]:
        rest = {name: getattr(self, name) for name in ("group", "document", "n", "total")}
        return _key_arrays(self.keys, self.labels) | rest

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        rest = (arrays[name] for name in ("group", "document", "n", "total"))
        return cls(*_keys_of(arrays), *rest)


def _pairs_within(group: Array, document: Array) -> tuple[Array, Array] | None:
    """Rows of two groups of one document, lower group first; None where a document has too many."""
    order = np.lexsort((group, document))
    runs = _first_of_runs(document[order])
    most = int(np.diff([*runs, len(order)]).max(initial=0))
    if most * (most - 1) // 2 > MOST_PAIRS:
        return None
    first, second = [], []
    for step in range(1, most):
        same = document[order][step:] == document[order][:-step]
        first.append(order[:-step][same])
        second.append(order[step:][same])
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *first]), np.concatenate([none, *second])


@dataclass(frozen=True, eq=False)
class Clustered(Leaf):
    """Means of groups, and the products of their residuals added up over whole documents.

    For documents d and groups a, b with counts n_ad and residual sums r_ad = Σ (x − mean_a):
    Σ r_ad r_bd is all that the linearised covariance of two means needs, and the other sums move
    it to another mean, so that merging is a pairwise update as that of moments, without the
    cancellation of raw sums of squares. Sums of squares and cubes of the counts tell how unequal
    the documents are (`small_sample`).

    Attributes:
        keys: the groups, sorted; `labels`: names of the parts of a key.
        whole: false where more than `MOST_PAIRS` pairs share documents: only the groups with
            themselves are kept then.
        n, mean: `[g, ...]` defined values of a group and their mean (0 where there are none).
        pairs: `[p, 2]` indices into `keys`: every group with itself, and with each group after it
            that shares a document with it.
        product: `[p, ...]` Σ r_a r_b; `left`: Σ n_a r_b; `right`: Σ r_a n_b; `sizes`: Σ n_a n_b;
            `left_sizes`: Σ n_a² n_b; `right_sizes`: Σ n_a n_b²; `shared`: documents with values
            in both.
    """

    keys: Keys
    labels: tuple[str, ...]
    whole: bool
    n: Array
    mean: Array
    pairs: Array
    product: Array
    left: Array
    right: Array
    sizes: Array
    left_sizes: Array
    right_sizes: Array
    shared: Array

    def merge(self, other: Self) -> Self:
        keys = self.keys
        if other.keys != keys:
            keys = tuple(sorted({*self.keys, *other.keys}))
        a, b = self._spread(keys), other._spread(keys)
        n = a.n + b.n
        with np.errstate(invalid="ignore"):
            weight = b.n / np.maximum(n, 1)
            both = (a.n > 0) & (b.n > 0)
            mean = np.where(both, a.mean + (b.mean - a.mean) * weight, a.mean + b.mean)
        code = [x.pairs[:, 0] * len(keys) + x.pairs[:, 1] for x in (a, b)]
        codes = np.unique(np.concatenate(code))
        sums = np.zeros((len(_PAIRED), len(codes), *n.shape[1:]))
        for x, own in ((a, code[0]), (b, code[1])):
            sums[:, np.searchsorted(codes, own)] += x.about(mean)
        pairs = np.stack(np.divmod(codes, max(len(keys), 1)), axis=1)
        labels = self.labels or other.labels
        whole = self.whole and other.whole
        return type(self)(keys, labels, whole, n, mean, pairs, *sums)._bounded()

    def about(self, mean: Array) -> Array:
        """The sums of all pairs with residuals about `mean [g, ...]`, in the order of the fields.

        Returns `[7, p, ...]`. Groups without values stay as they are.
        """
        first, second = self.pairs.T
        with np.errstate(invalid="ignore"):
            # A group without values has mean 0 by convention; to shift it would invent residuals.
            shift = np.where(self.n > 0, mean - self.mean, 0.0)
            a, b = shift[first], shift[second]
            product = self.product - a * self.left - b * self.right + a * b * self.sizes
            left, right = self.left - b * self.sizes, self.right - a * self.sizes
        sizes = (self.sizes, self.left_sizes, self.right_sizes)
        return np.stack([product, left, right, *sizes, self.shared])

    def _spread(self, keys: Keys) -> Self:
        """The same with room for more groups."""
        if keys == self.keys:
            return self
        place = places(keys, self.keys)
        n, mean = np.zeros((2, len(keys), *self.n.shape[1:]))
        n[place], mean[place] = self.n, self.mean
        sums = (getattr(self, name) for name in _PAIRED)
        return type(self)(keys, self.labels, self.whole, n, mean, place[self.pairs], *sums)

    def _bounded(self) -> Self:
        """Without the pairs, where there are too many."""
        alone = self.pairs[:, 0] == self.pairs[:, 1]
        if self.whole and (~alone).sum() <= MOST_PAIRS:
            return self
        kept = {name: getattr(self, name)[alone] for name in ("pairs", *_PAIRED)}
        return replace(self, whole=False, **kept)

    @cached_property
    def _diagonal(self) -> Array:
        return np.flatnonzero(self.pairs[:, 0] == self.pairs[:, 1])

    @property
    def documents(self) -> Array:
        """Documents that have values in each group: `[g, ...]`."""
        return self.shared[self._diagonal]

    @cached_property
    def _small_sample(self) -> tuple[Array, Array]:
        own = self._diagonal
        return small_sample(self.n, self.sizes[own], self.left_sizes[own])

    @property
    def se(self) -> Array:
        """Standard error of each mean with documents as what was sampled: `[g, ...]`.

        √(factor · Σ_d r_d²) / n, the linearised variance of a ratio of two totals with the factor
        of `small_sample`; NaN below two documents. Source: Cochran, Sampling Techniques (1977),
        6.4 and 9A; the cluster-robust variance of Cameron & Miller, Journal of Human Resources 50
        (2015).
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            # Rounding can leave a sum of squares a little below zero.
            square = np.maximum(self.product[self._diagonal], 0) * self._small_sample[0]
            return np.where(self.documents > 1, np.sqrt(square) / self.n, np.nan)

    @property
    def df(self) -> Array:
        """Degrees of freedom of each standard error: `[g, ...]`; D − 1 for D equal documents."""
        return np.where(self.documents > 1, self._small_sample[1], np.nan)

    def arrays(self) -> dict[str, Array]:
        rest = {name: getattr(self, name) for name in ("n", "mean", "pairs", *_PAIRED)}
        return _key_arrays(self.keys, self.labels) | rest | {"whole": np.asarray(self.whole)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        arrays = arrays if "left_sizes" in arrays else _with_bounds(arrays)
        rest = (arrays[name] for name in ("n", "mean", "pairs", *_PAIRED))
        return cls(*_keys_of(arrays), bool(arrays["whole"]), *rest)

    def companion_columns(
        self,
        keys: Sequence[GroupKey],
        each: int,  # noqa: ARG002  the sums have the heads of the values that they go with
    ) -> dict[str, Array]:
        """Number of documents, standard error and degrees of freedom of each mean."""
        place = places(self.keys, keys)
        return {
            "documents": np.ravel(self.documents[place]).astype(np.int64),
            "se": np.ravel(self.se[place]),
            "df": np.ravel(self.df[place]),
        }


def _with_bounds(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays that were saved without sums of cubes, with what these are at most.

    Σ n³ ≤ (Σ n²)^{3/2}, and Σ n_a² n_b ≥ 0 for two groups: standard errors come out too large
    rather than too small.
    """
    pairs, squares = arrays["pairs"], np.asarray(arrays["sizes"], np.float64)
    own = (pairs[:, 0] == pairs[:, 1]).reshape(-1, *[1] * (squares.ndim - 1))
    most = np.where(own, squares**1.5, 0.0)
    return dict(arrays) | {"left_sizes": most, "right_sizes": most}


def _key_arrays(keys: Keys, labels: tuple[str, ...]) -> dict[str, Array]:
    width = len(keys[0]) if keys else len(labels)
    return {
        "keys": np.asarray(keys, dtype=str).reshape(len(keys), width),
        "labels": np.asarray(labels, dtype=str),
    }


def _keys_of(arrays: Mapping[str, Array]) -> tuple[Keys, tuple[str, ...]]:
    keys = tuple(tuple(map(str, row)) for row in arrays["keys"].tolist())
    return keys, tuple(map(str, arrays["labels"]))
