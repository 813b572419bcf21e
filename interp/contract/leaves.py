"""Mergeable leaves: what an analysis emits, and the small state that it adds up to.

Every leaf is a commutative monoid under `merge` and goes to arrays and back. The leaves know
nothing of models or hooks; `PerToken` and `PerHead` are emissions that the framework turns into
`Rows` or `Grouped` moments, as the caller chose. State lives on the CPU, in NumPy, with sums in
float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from interp._arrays import Array, to_numpy
from interp.errors import BadInput, unknown

K = TypeVar("K")
L = TypeVar("L", bound="Leaf")
GroupKey = tuple[str, ...]
"""The labels of a group, one text per label column."""

UNCLOSED = "unclosed"
"""Name of the leaf of tokens at which the terms of a block do not add up to its step."""


@dataclass(frozen=True, eq=False)
class PerToken:
    """One value per token: `values [batch, pos]`; in scope "model" also `[layer, batch, pos]`.

    Values may be floating, integer or boolean. Positions under the mask are ignored.
    """

    values: Tensor


@dataclass(frozen=True, eq=False)
class PerHead:
    """One value per token and head: `values [batch, head, pos]`."""

    values: Tensor


class Leaf(ABC):
    """State that merges. Subclasses are frozen dataclasses of NumPy arrays.

    A leaf answers for itself: the methods below the abstract ones have answers that suit most
    leaves, so a new kind overrides those that it needs and nothing else has to know it.

    Class attributes:
        is_rows: whether it holds a value per token. Rows are saved as a table, not as state.
        accumulates: true where floating arrays are running totals, false where values are kept as
            they came; None leaves it to what merging does.
    """

    is_rows: ClassVar[bool] = False
    accumulates: ClassVar[bool | None] = None

    @abstractmethod
    def merge(self, other: Self) -> Self:
        """Combines with the state of other examples; neither operand changes."""

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """The state as named arrays, from which `from_arrays` rebuilds it."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Rebuilds the leaf that `arrays` described."""

    def nbytes(self) -> int:
        """Bytes held, for the law that state does not grow with the number of batches."""
        return sum(a.nbytes for a in self.arrays().values())

    def capacity(self) -> int:
        """Bytes when it is full, for the same law: what keeps the best `k` may still fill up."""
        return self.nbytes()

    def records(self) -> list[dict[str, Any]]:
        """Rows of the default table where a state has neither tokens nor groups; none here."""
        return []

    def group_columns(self, companions: Sequence[Leaf] = ()) -> dict[str, Any]:  # noqa: ARG002
        """Columns of a summary, one row per group (and head); empty if it has no groups.

        `companions` are the leaves that are kept with this value: its bins, its document sums.
        """
        return {}

    def companion_columns(
        self,
        keys: Sequence[GroupKey],  # noqa: ARG002
        each: int,  # noqa: ARG002
    ) -> dict[str, Array]:
        """Columns that it adds, as a companion, to the summary of another leaf.

        Args:
            keys: the groups of that value, in the order of its rows.
            each: rows per group, one for each head.
        """
        return {}

    def token_ids(self, name: str, columns: Collection[str]) -> Array:  # noqa: ARG002
        """Token ids that it holds, int64 `[n]`.

        Args:
            name: the name under which it was emitted.
            columns: names of the values that are token ids.
        """
        return np.zeros(0, dtype=np.int64)

    def kept_prompts(self) -> Iterable[int]:
        """Numbers of the prompts whose tokens are needed to read it."""
        return ()


def _fields_to_arrays(leaf: Any, names: Sequence[str]) -> dict[str, Array]:
    return {name: np.asarray(getattr(leaf, name)) for name in names}


@dataclass(frozen=True, eq=False)
class Rows(Leaf):
    """Values kept per token: chunks of (prompt, position, values), sorted when they are read."""

    is_rows = True
    accumulates = False

    chunks: tuple[tuple[Array, Array, Array], ...]

    @classmethod
    def of(cls, prompt: Array, position: Array, values: Array) -> Self:
        return cls(((prompt, position, values),))

    def merge(self, other: Self) -> Self:
        return type(self)(self.chunks + other.chunks)

    def joined(self) -> tuple[Array, Array, Array]:
        """`prompt [n]`, `position [n]`, `values [n]` or `[n, head]`, in the order they came."""
        prompt, position, values = (np.concatenate(c) for c in zip(*self.chunks, strict=True))
        return prompt, position, values

    def sorted(self) -> tuple[Array, Array, Array]:
        """The same by prompt and position."""
        prompt, position, values = self.joined()
        # Batches come longest first and in windows, so rows have no order of their own.
        order = np.lexsort((position, prompt))
        return prompt[order], position[order], values[order]

    def arrays(self) -> dict[str, Array]:
        prompt, position, values = self.sorted()
        return {"prompt": prompt, "position": position, "values": values}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        return cls.of(arrays["prompt"], arrays["position"], arrays["values"])

    def capacity(self) -> int:
        """Nothing: rows grow with the tokens by design."""
        return 0

    def token_ids(self, name: str, columns: Collection[str]) -> Array:
        """The values, where they are declared to be ids."""
        return np.unique(self.joined()[2]) if name in columns else super().token_ids(name, columns)


@dataclass(frozen=True, eq=False)
class Sum(Leaf):
    """A float64 total of any shape."""

    accumulates = True

    total: Array

    @classmethod
    def of(cls, values: Tensor, mask: Tensor) -> Self:
        """Sum `values [batch, pos, ...]` over the real tokens of `mask [batch, pos]`."""
        # float64 before the sum: float32 loses digits after some ten thousand tokens.
        return cls(to_numpy(values[mask]).astype(np.float64).sum(axis=0))

    def merge(self, other: Self) -> Self:
        return type(self)(self.total + other.total)

    def arrays(self) -> dict[str, Array]:
        return _fields_to_arrays(self, ["total"])

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        return cls(arrays["total"])

    def records(self) -> list[dict[str, Any]]:
        """The total, or one row per entry."""
        return _entries("total", self.total)


@dataclass(frozen=True, eq=False)
class Count(Leaf):
    """An integer count of any shape."""

    n: Array

    @classmethod
    def of(cls, mask: Tensor) -> Self:
        """Count the true entries of `mask`."""
        return cls(np.asarray(int(mask.sum()), dtype=np.int64))

    def merge(self, other: Self) -> Self:
        return type(self)(self.n + other.n)

    def arrays(self) -> dict[str, Array]:
        return _fields_to_arrays(self, ["n"])

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        return cls(arrays["n"])

    def records(self) -> list[dict[str, Any]]:
        """The count, or one row per entry."""
        return _entries("n", self.n)


def _entries(column: str, array: Array) -> list[dict[str, Any]]:
    if np.ndim(array) == 0:
        return [{column: array.item()}]
    return [{"entry": i, column: value} for i, value in enumerate(np.ravel(array))]


@dataclass(frozen=True, eq=False)
class Moments(Leaf):
    """Count, mean, sum of squared deviations, minimum and maximum; NaN counted, not averaged.

    Merged by the pairwise update of Chan, Golub & LeVeque (1979). Arrays have the trailing shape
    of the values. With no defined value mean and variance are NaN.
    """

    accumulates = True

    count: Array
    mean: Array
    m2: Array
    min: Array
    max: Array
    undefined: Array

    @classmethod
    def of(cls, values: Tensor, mask: Tensor) -> Self:
        """Moments of `values [batch, pos, ...]` over the real tokens of `mask [batch, pos]`."""
        return cls.of_rows(to_numpy(values[mask]))

    @classmethod
    def of_rows(cls, rows: Array) -> Self:
        """Moments over the first axis of `rows [n, ...]`."""
        return cls._along(rows.astype(np.float64), 0)

    @classmethod
    def of_runs(cls, rows: Array, starts: Array) -> Self:
        """Moments of each run of `rows [n, ...]`, with the runs as first axis: `[runs, ...]`.

        A run begins at each of `starts`, ascending. Runs of one length are one array, so that the
        work does not grow with their number, and each sum is rounded as that of its rows alone.
        """
        rows = rows.astype(np.float64)
        lengths = np.diff(np.append(starts, len(rows)))
        blocks = []
        places: list[Array] = [np.zeros(0, dtype=np.int64)]
        for length in np.unique(lengths).tolist():
            place = np.flatnonzero(lengths == length)
            cells = starts[place, None] + np.arange(length)
            blocks.append(cls._along(rows[cells], 1))
            places.append(place)
        if not blocks:
            return cls(*[np.zeros((0, *rows.shape[1:]))] * 6)
        return cls.joined(blocks).at(np.argsort(np.concatenate(places)))

    @classmethod
    def _along(cls, rows: Array, axis: int) -> Self:
        defined = ~np.isnan(rows)
        # NaN is counted apart: one undefined angle must not make the mean of all others NaN.
        count = defined.sum(axis=axis)
        with np.errstate(invalid="ignore"):  # around a mean of ±inf deviations are NaN
            total = np.where(defined, rows, 0.0).sum(axis=axis)
            mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
            # Around the mean, in two passes: Σx² − n·mean² cancels where the mean is large.
            deviation = np.where(defined, rows - np.expand_dims(mean, axis), 0.0)
        # `initial` lets runs without a row through, which have no minimum.
        low = np.min(np.where(defined, rows, np.inf), axis=axis, initial=np.inf)
        high = np.max(np.where(defined, rows, -np.inf), axis=axis, initial=-np.inf)
        undefined = (~defined).sum(axis=axis)
        return cls(count, mean, (deviation**2).sum(axis=axis), low, high, undefined)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several stacks of moments `[k, ...]`, one behind the other."""
        columns = ([getattr(part, name) for part in parts] for name in cls.__dataclass_fields__)
        return cls(*(np.concatenate(column) for column in columns))

    def at(self, index: Any) -> Self:
        """The moments at an index of the first axis."""
        return type(self)(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def merge(self, other: Self) -> Self:
        count = self.count + other.count
        weight = other.count / np.maximum(count, 1)
        both = (self.count > 0) & (other.count > 0)
        with np.errstate(invalid="ignore"):
            delta = other.mean - self.mean
            # Where a mean is infinite, their sum is the mean of all: ±inf, or NaN.
            mean = np.where(np.isfinite(delta), self.mean + delta * weight, self.mean + other.mean)
            # Not delta**2: of one number that is pow, which may round otherwise than for an array.
            between = np.where(both, np.square(delta) * self.count * weight, 0.0)
        # The mean of an empty side is NaN and must not spoil the other.
        one_side = np.where(self.count > 0, self.mean, other.mean)
        return type(self)(
            count,
            np.where(both, mean, one_side),
            self.m2 + other.m2 + between,
            np.minimum(self.min, other.min),
            np.maximum(self.max, other.max),
            self.undefined + other.undefined,
        )

    @property
    def variance(self) -> Array:
        """Unbiased variance; NaN below two values."""
        return np.where(self.count > 1, self.m2 / np.maximum(self.count - 1, 1), np.nan)

    def arrays(self) -> dict[str, Array]:
        return _fields_to_arrays(self, ["count", "mean", "m2", "min", "max", "undefined"])

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        names = ("count", "mean", "m2", "min", "max", "undefined")
        return cls(*(arrays[n] for n in names))

    def statistics(self) -> dict[str, Array]:
        """The columns of a summary, in their order; minimum and maximum of no value are NaN."""
        some = self.count > 0
        return {
            "n": self.count,
            "mean": self.mean,
            "std": np.sqrt(self.variance),
            "min": np.where(some, self.min, np.nan),
            "max": np.where(some, self.max, np.nan),
            "undefined": self.undefined,
        }

    def records(self) -> list[dict[str, Any]]:
        """The statistics, one row per entry of the values."""
        columns = {name: np.ravel(column) for name, column in self.statistics().items()}
        rows = [{k: v[i].item() for k, v in columns.items()} for i in range(np.size(self.count))]
        if np.ndim(self.count) == 0:
            return rows
        return [{"entry": i} | row for i, row in enumerate(rows)]


class GroupedMoments(Mapping[GroupKey, Moments]):
    """Moments of groups as one stack: `keys` ascending, `moments` with the groups as first axis.

    Reads as a mapping from keys to moments; a merge costs the same for one group and for many.
    """

    def __init__(self, keys: Sequence[GroupKey], moments: Moments) -> None:
        self.names, self.moments = tuple(keys), moments

    @classmethod
    def of(cls, groups: Mapping[GroupKey, Moments]) -> Self:
        """The same from moments by key, in any order."""
        names = sorted(groups)
        parts = [groups[name].at(np.newaxis) for name in names]
        return cls(names, Moments.joined(parts) if parts else Moments(*[np.zeros(0)] * 6))

    @cached_property
    def _place(self) -> dict[GroupKey, int]:
        return {name: i for i, name in enumerate(self.names)}

    def __getitem__(self, key: GroupKey) -> Moments:
        return self.moments.at(self._place[key])

    def __iter__(self) -> Iterator[GroupKey]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def merge(self, other: Self) -> Self:
        """Moments of the groups of both, where they meet by the pairwise update."""
        if not self or not other:
            return self if self else other
        # Only groups that both have need arithmetic; the others are copied as they are.
        met = [name for name in other.names if name in self._place]
        left = np.asarray([self._place[name] for name in met], dtype=np.int64)
        right = np.asarray([other._place[name] for name in met], dtype=np.int64)
        mine = np.setdiff1d(np.arange(len(self)), left)
        theirs = np.setdiff1d(np.arange(len(other)), right)
        names = [*met, *(self.names[i] for i in mine), *(other.names[i] for i in theirs)]
        parts = [self.moments.at(left).merge(other.moments.at(right))]
        stack = Moments.joined([*parts, self.moments.at(mine), other.moments.at(theirs)])
        # Sorted keys make equal states equal arrays, whatever the order of merging.
        order = sorted(range(len(names)), key=names.__getitem__)
        return type(self)([names[i] for i in order], stack.at(np.asarray(order, dtype=np.int64)))


@dataclass(frozen=True, eq=False)
class Grouped(Leaf):
    """Moments per group of labels: keys are tuples of strings, one per name in `labels`."""

    accumulates = True

    groups: Mapping[GroupKey, Moments]
    labels: tuple[str, ...] = ()

    @cached_property
    def stack(self) -> GroupedMoments:
        """The groups as one stack."""
        groups = self.groups
        return groups if isinstance(groups, GroupedMoments) else GroupedMoments.of(groups)

    def merge(self, other: Self) -> Self:
        return type(self)(self.stack.merge(other.stack), self.labels or other.labels)

    def arrays(self) -> dict[str, Array]:
        keys = self.stack.names
        width = len(keys[0]) if keys else 0
        out: dict[str, Array] = {
            "keys": np.asarray(keys, dtype=str).reshape(len(keys), width),
            "labels": np.asarray(self.labels, dtype=str),
        }
        for name in Moments.__dataclass_fields__:
            # There are no groups where no token of a layer has a label.
            out[name] = getattr(self.stack.moments, name) if keys else np.zeros(0)
        return out

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        keys = [tuple(map(str, row)) for row in arrays["keys"].tolist()]
        moments = Moments(*(arrays[name] for name in Moments.__dataclass_fields__))
        labels = tuple(map(str, arrays.get("labels", ())))
        order = sorted(range(len(keys)), key=keys.__getitem__)  # sorted on disk, by this library
        names = [keys[i] for i in order]
        return cls(GroupedMoments(names, moments.at(np.asarray(order, dtype=np.int64))), labels)

    def group_columns(self, companions: Sequence[Leaf] = ()) -> dict[str, Any]:
        """Labels, head where the values have heads, the statistics, and what companions add."""
        keys, moments = self.stack.names, self.stack.moments
        if not keys:
            return {}
        each = int(np.prod(moments.count.shape[1:]))
        columns = label_columns(self.labels, keys, each)
        if moments.count.ndim > 1:
            columns["head"] = np.tile(np.arange(each), len(keys))
        columns |= {name: np.ravel(x) for name, x in moments.statistics().items()}
        for companion in companions:
            columns |= companion.companion_columns(keys, each)
        return columns


def label_columns(labels: Sequence[str], keys: Sequence[GroupKey], each: int = 1) -> dict[str, Any]:
    """The parts of group keys as columns, each key `each` times; `group_0`, … without labels."""
    names = labels or [f"group_{i}" for i in range(len(keys[0]))]
    parts = zip(names, zip(*keys, strict=True), strict=True)
    return {name: [text for text in part for _ in range(each)] for name, part in parts}


@dataclass(frozen=True, eq=False)
class Histogram(Leaf):
    """Counts between fixed edges; `counts[0]` is below, `counts[-1]` at or above the range."""

    edges: Array
    counts: Array
    undefined: Array

    @classmethod
    def of(cls, values: Tensor, mask: Tensor, edges: Sequence[float]) -> Self:
        """Histogram of `values [batch, pos]` over the real tokens; bins are [edge, next edge)."""
        rows = to_numpy(values[mask]).astype(np.float64).ravel()
        nan = np.isnan(rows)
        cuts = np.asarray(edges, dtype=np.float64)
        if cuts.ndim != 1 or not (np.diff(cuts) > 0).all():
            raise BadInput(f"histogram edges must increase, these are {list(edges)}")
        bins = np.searchsorted(cuts, rows[~nan], side="right")
        counts = np.bincount(bins, minlength=len(cuts) + 1)
        return cls(cuts, counts, np.asarray(nan.sum()))

    def merge(self, other: Self) -> Self:
        if not np.array_equal(self.edges, other.edges):
            raise BadInput("histograms with different edges cannot be merged")
        return type(self)(self.edges, self.counts + other.counts, self.undefined + other.undefined)

    def arrays(self) -> dict[str, Array]:
        return _fields_to_arrays(self, ["edges", "counts", "undefined"])

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        return cls(arrays["edges"], arrays["counts"], arrays["undefined"])

    def records(self) -> list[dict[str, Any]]:
        """One row per bin."""
        ends = [-np.inf, *self.edges, np.inf]
        bins = zip(ends[:-1], ends[1:], self.counts, strict=True)
        return [{"low": low, "high": high, "n": n} for low, high, n in bins]


@dataclass(frozen=True, eq=False)
class Cov(Leaf):
    """Count, mean `[d]` and scatter matrix `[d, d]` of vectors, in float64."""

    accumulates = True

    count: Array
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, vectors: Tensor, mask: Tensor) -> Self:
        """Covariance state of `vectors [batch, pos, d]` over the real tokens."""
        # Scatter matrices of raw float32 are wrong in the small eigenvalues, which effective ranks
        # read.
        rows = vectors[mask].detach().double().cpu()
        mean = rows.mean(dim=0) if len(rows) else rows.new_zeros(rows.shape[-1])
        centred = rows - mean
        scatter = (centred.T @ centred).numpy()
        return cls(np.asarray(len(rows)), mean.numpy(), scatter)

    def merge(self, other: Self) -> Self:
        count = self.count + other.count
        weight = other.count / np.maximum(count, 1)
        delta = other.mean - self.mean
        # The pairwise update of Chan, Golub & LeVeque (1979), for matrices.
        scatter = self.scatter + other.scatter + np.outer(delta, delta) * self.count * weight
        return type(self)(count, self.mean + delta * weight, scatter)

    @property
    def covariance(self) -> Array:
        """Unbiased covariance `[d, d]`; NaN below two vectors."""
        below: Array = np.full_like(self.scatter, np.nan)
        return self.scatter / (self.count - 1) if self.count > 1 else below

    def arrays(self) -> dict[str, Array]:
        return _fields_to_arrays(self, ["count", "mean", "scatter"])

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        return cls(arrays["count"], arrays["mean"], arrays["scatter"])


@dataclass(frozen=True, eq=False)
class TopK(Leaf):
    """The `k` highest scores with their prompt, position and an optional payload per entry.

    Ties go to the lowest prompt, then the lowest position, so that the result does not depend on
    the order in which batches came. With scores from `priority` it is a uniform random sample.
    """

    accumulates = False

    k: int
    scores: Array
    prompt: Array
    position: Array
    payload: Array

    @classmethod
    def of(
        cls,
        k: int,
        scores: Tensor,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        payload: Tensor | None = None,
    ) -> Self:
        """Keeps the best of `scores [batch, pos]`, with `payload [batch, pos, ...]`.

        `ids [batch]` and `positions [batch, pos]` are the batch's own. NaN scores are left out.
        """
        keep = mask & ~torch.isnan(scores)
        prompt = to_numpy(ids[:, None].expand_as(keep)[keep])
        nothing = scores.new_zeros(len(prompt), 0, dtype=torch.float32)
        rows = nothing if payload is None else payload[keep]
        return cls(
            k, to_numpy(scores[keep]), prompt, to_numpy(positions[keep]), to_numpy(rows)
        )._cut()

    def _cut(self) -> Self:
        # float64, because the negative of an integer score may not fit its own type.
        order = np.lexsort((self.position, self.prompt, -self.scores.astype(np.float64)))[: self.k]
        parts = (self.scores, self.prompt, self.position, self.payload)
        return type(self)(self.k, *(part[order] for part in parts))

    def merge(self, other: Self) -> Self:
        if self.k != other.k:
            raise BadInput(f"top-k states with k={self.k} and k={other.k} cannot be merged")
        names = ("scores", "prompt", "position", "payload")
        joined = (np.concatenate([getattr(self, n), getattr(other, n)]) for n in names)
        return type(self)(self.k, *joined)._cut()

    def arrays(self) -> dict[str, Array]:
        return _fields_to_arrays(self, ["k", "scores", "prompt", "position", "payload"])

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        rest = (arrays[n] for n in ("scores", "prompt", "position", "payload"))
        return cls(int(arrays["k"]), *rest)

    def capacity(self) -> int:
        """Bytes of `k` payloads."""
        return self.k * (self.payload[:1].nbytes or 1)

    def records(self) -> list[dict[str, Any]]:
        """One row per kept token."""
        kept = zip(self.prompt, self.position, self.scores, strict=True)
        return [{"prompt": p, "position": i, "score": score} for p, i, score in kept]

    def kept_prompts(self) -> Iterable[int]:
        """The prompts of the kept tokens."""
        kept: list[int] = self.prompt.tolist()
        return kept


@dataclass(frozen=True, eq=False)
class Examples(Leaf):
    """One array per prompt for the `n` lowest prompt ids: attention maps, top tokens."""

    accumulates = False

    n: int
    items: dict[int, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, n: int, values: Tensor, ids: Tensor, mask: Tensor, axes: Sequence[int]) -> Self:
        """Takes `values [batch, ...]` of the lowest ids, cut to real tokens along `axes`.

        `axes` counts the axes of one example (without the batch axis) that run over positions.
        """
        items = {}
        # A prompt without a real token has nothing to show, and would take the place of one that
        # has.
        some = mask.any(-1).nonzero().squeeze(-1).to(ids.device)
        for row in some[torch.argsort(ids[some])][:n].tolist():
            value = _of_real(values[row], mask[row], axes)
            # A copy, for a view would hold on to the whole batch.
            items[int(ids[row])] = to_numpy(value.clone(memory_format=torch.contiguous_format))
        return cls(n, items)

    def merge(self, other: Self) -> Self:
        # The lowest ids win on both sides, so any order of merging keeps the same prompts.
        both = self.items | other.items
        return type(self)(self.n, {i: both[i] for i in sorted(both)[: self.n]})

    def arrays(self) -> dict[str, Array]:
        return {"n": np.asarray(self.n)} | {str(i): a for i, a in self.items.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        items = {int(name): a for name, a in arrays.items() if name != "n"}
        return cls(int(arrays["n"]), items)

    def capacity(self) -> int:
        """The number of examples, for their size goes with the prompts' length."""
        return self.n

    def token_ids(self, name: str, columns: Collection[str]) -> Array:
        """The items, where the name ends in "tokens": the tables of the lens."""
        none = super().token_ids(name, columns)
        if not name.endswith("tokens"):
            return none
        return np.unique(np.concatenate([none, *(np.ravel(x) for x in self.items.values())]))

    def kept_prompts(self) -> Iterable[int]:
        """The prompts of the examples."""
        return list(self.items)


def _of_real(value: Tensor, mask: Tensor, axes: Sequence[int]) -> Tensor:
    """`value` at the real tokens of `mask [pos]` along `axes`; a view where they stand together."""
    real = mask.nonzero().squeeze(-1)
    first, size = int(real[0]), len(real)
    together = int(real[-1]) - first + 1 == size
    for axis in axes:
        # Padding stands at one end as a rule, and a view costs nothing however large a map is.
        if together:
            value = value.narrow(axis, first, size)
        else:
            value = value.index_select(axis, real.to(value.device))
    return value


@dataclass(frozen=True, eq=False)
class Once(Leaf):
    """Named arrays computed once, from weights: equal wherever they come from.

    Merging keeps one copy and raises `BadInput` if the other differs, because then the two came
    from different models.
    """

    values: dict[str, Array]

    def merge(self, other: Self) -> Self:
        same = self.values.keys() == other.values.keys() and all(
            # `equal_nan` asks isnan, which text does not have.
            np.array_equal(array, other.values[name], equal_nan=array.dtype.kind in "fc")
            for name, array in self.values.items()
        )
        if not same:
            raise BadInput("states computed from different weights cannot be merged")
        return self

    def arrays(self) -> dict[str, Array]:
        return dict(self.values)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        return cls(dict(arrays))

    def token_ids(self, name: str, columns: Collection[str]) -> Array:
        """The array `values`, where it is declared to hold ids."""
        none = super().token_ids(name, columns)
        return np.unique(self.values["values"]) if name in columns else none


LEAVES: dict[str, type[Leaf]] = {
    leaf.__name__: leaf
    for leaf in (Rows, Sum, Count, Moments, Grouped, Histogram, Cov, TopK, Examples, Once)
}


RENAMED = {"Tallies": "GroupCounts"}
"""Leaf classes of earlier versions, whose names stand in saved files, and their names now."""


def leaf_class(name: str) -> type[Leaf]:
    """The leaf of this name: a built-in one, or one that an imported plug-in defines.

    Names that a class had in earlier versions (`RENAMED`) lead to it, so that old folders load.
    """
    found = {kind.__name__: kind for kind in _subclasses(Leaf)} | LEAVES
    # A plug-in may define a leaf under a name that this library no longer uses.
    now = name if name in found else RENAMED.get(name, name)
    if now not in found:
        raise unknown("leaf", name, found)
    return found[now]


def _subclasses(kind: Any) -> Iterator[type[Leaf]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


LayerKey = tuple[str, int]
"""(stack, layer): stack is "" where there is one, layer -1 for what belongs to no layer."""
State = dict[LayerKey, dict[str, Leaf]]


def only(leaves: Mapping[K, Leaf], kind: type[L]) -> dict[K, L]:
    """The leaves of one class, by name; the place to ask for a class rather than for an answer."""
    return {name: leaf for name, leaf in leaves.items() if isinstance(leaf, kind)}


def tabled(leaves: Iterable[Leaf]) -> bool:
    """Whether any of them is rows, or a row per group, from which a table is made by itself."""
    return any(isinstance(leaf, Rows | Grouped) for leaf in leaves)


def without_rows(state: State) -> State:
    """The leaves that are no rows."""
    kept = {
        key: {name: leaf for name, leaf in leaves.items() if not leaf.is_rows}
        for key, leaves in state.items()
    }
    return {key: leaves for key, leaves in kept.items() if leaves}


def merge_leaves(a: Mapping[K, L], b: Mapping[K, L]) -> dict[K, L]:
    """Union of two mappings of leaves; leaves under the same name merge."""
    out = dict(a)
    for name, leaf in b.items():
        out[name] = out[name].merge(leaf) if name in out else leaf
    return out


def merge_states(a: State, b: State) -> State:
    """Merges the state of one analysis over two disjoint sets of examples."""
    out = dict(a)
    for key, leaves in b.items():
        out[key] = merge_leaves(out.get(key, {}), leaves)
    return out


def priority(seed: int, ids: Tensor, positions: Tensor, layer: int) -> Tensor:
    """Pseudo-random score in [0, 1) per (prompt, position, layer), the same in any batch.

    `ids` and `positions` are integer tensors that broadcast; the result is float64. Integer
    mixing after SplitMix64 (Steele, Lea & Flood 2014); the k highest scores are a uniform sample.
    """
    with np.errstate(over="ignore"):
        # Modulo 2⁶⁴, because a seed may be negative.
        mixed = np.asarray(_mix(np.uint64((seed + 1) % (1 << 64))))
        for part in (to_numpy(ids), to_numpy(positions), np.asarray(layer)):
            mixed = np.asarray(_mix(mixed ^ part.astype(np.uint64)))
    # 53 bits are what a float64 holds exactly, so that no score rounds up to 1.
    return torch.from_numpy(np.asarray((mixed >> np.uint64(11)) / float(1 << 53)))


def _mix(x: Any) -> Any:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
