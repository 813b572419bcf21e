"""Variance of states by position and by context, from sums that merge.

A state is split as x_{c,t} = μ + pos_t + ctx_c + rest_{c,t}: mean over all, mean of a position over
contexts, mean of a context over positions. With as many positions in every context the four parts
are orthogonal and their squares add up. Source: Song & Zhong 2310.04861.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import scipy
import torch

from interp._arrays import Array, Floats, Ints
from interp.contract.leaves import Leaf, priority

FOLDS = 10
"""Groups of contexts that intervals leave out one at a time."""
_NAMES = ("count", "mean", "within", "between", "left_out")


@dataclass(frozen=True, eq=False)
class PositionContextSums(Leaf):
    """Sums of states of contexts with T positions each, in folds of contexts.

    Attributes:
        count: contexts `[fold]`.
        mean: mean state of each position `[fold, T, d]`.
        within: Σ over contexts and positions of ‖x_{c,t} − mean_t‖² `[fold]`.
        between: Σ over contexts of ‖m_c − m‖² `[fold]`, m_c the mean state of a context.
        left_out: contexts with too few positions.
    """

    count: Ints
    mean: Floats
    within: Floats
    between: Floats
    left_out: Array

    @classmethod
    def of(cls, states: Array, contexts: Array, left_out: int = 0) -> Self:
        """Sums of `states [C, T, d]` of the contexts with these numbers `[C]`."""
        x = np.asarray(states, np.float64)
        # By a hash: numbers of documents in a corpus may all end in the same digit.
        number = torch.as_tensor(np.asarray(contexts, np.int64), device="cpu")
        fold = (priority(0, number, torch.zeros_like(number), 0).numpy() * FOLDS).astype(np.int64)
        parts = [_one_fold(x[fold == k]) for k in range(FOLDS)]
        count, mean, within, between = (np.asarray(part) for part in zip(*parts, strict=True))
        return cls(count, mean, within, between, np.asarray(left_out, np.int64))

    def merge(self, other: Self) -> Self:
        joined = [_joined(self._fold(k), other._fold(k)) for k in range(len(self.count))]
        count, mean, within, between = (np.asarray(part) for part in zip(*joined, strict=True))
        return type(self)(count, mean, within, between, self.left_out + other.left_out)

    def _fold(self, k: int) -> _Fold:
        return _Fold(
            int(self.count[k]), self.mean[k], float(self.within[k]), float(self.between[k])
        )

    def folds(self) -> list[_Fold]:
        """The sums of each fold that has contexts."""
        return [self._fold(k) for k in range(len(self.count)) if self.count[k]]

    def arrays(self) -> dict[str, Array]:
        return {name: np.asarray(getattr(self, name)) for name in _NAMES}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        return cls(*(arrays[name] for name in _NAMES))


class _Fold(NamedTuple):
    """Sums of one group of `n` contexts; the rest as in `PositionContextSums`."""

    n: int
    mean: Floats
    within: float
    between: float


def _one_fold(x: Floats) -> _Fold:
    if not len(x):
        return _Fold(0, np.zeros(x.shape[1:]), 0.0, 0.0)
    mean = x.mean(axis=0)
    contexts = x.mean(axis=1) - mean.mean(axis=0)
    return _Fold(len(x), mean, float(((x - mean) ** 2).sum()), float((contexts**2).sum()))


def _joined(a: _Fold, b: _Fold) -> _Fold:
    """Sums of both: the pairwise update of Chan, Golub & LeVeque (1979)."""
    if not a.n or not b.n:
        return a if a.n else b
    n = a.n + b.n
    delta = b.mean - a.mean
    weight = a.n * b.n / n
    within = a.within + b.within + weight * float((delta**2).sum())
    between = a.between + b.between + weight * float((delta.mean(axis=0) ** 2).sum())
    return _Fold(n, a.mean + delta * (b.n / n), within, between)


class PositionContext(NamedTuple):
    """Shares of the variance by part, and what surrounds them.

    Attributes:
        shares: of position, context and rest in Σ ‖x − μ‖²; they sum to 1.
        low, high: 95 % intervals over contexts (jackknife by folds), in the same order.
        chance: expectation of the shares if all states were exchanged at random.
        mean_share: ‖μ‖² over the mean of ‖x‖².
        position_dimension: participation ratio of the position means.
        contexts: contexts that count.
    """

    shares: Floats
    low: Floats
    high: Floats
    chance: Floats
    mean_share: float
    position_dimension: float
    contexts: int


def position_context(sums: PositionContextSums) -> PositionContext:
    """Shares of position, context and rest in the variance; NaN below two contexts or positions.

    Under exchange of all C·T states the shares are (T − 1)/(CT − 1), (C − 1)/(CT − 1) and the
    rest on average, exactly. Intervals leave out a fold of contexts at a time (delete-group
    jackknife, Kott 2001) on the scale of the logit, which keeps them within 0 and 1; NaN where
    fewer than three folds have contexts or one of them cannot be left out.
    """
    folds = sums.folds()
    whole = _merged(folds, sums.mean.shape[1:])
    shares = _shares(whole)
    c, t = whole.n, whole.mean.shape[0]
    nothing = np.full(3, np.nan)
    if not np.isfinite(shares).all():
        return PositionContext(nothing, nothing, nothing, nothing, np.nan, np.nan, c)
    low, high = _interval(shares, folds, sums.mean.shape[1:])
    free = c * t - 1
    chance = np.asarray([(t - 1) / free, (c - 1) / free, (t - 1) * (c - 1) / free])
    centre = whole.mean.mean(axis=0)
    square = _total(whole) / (c * t) + float(centre @ centre)
    position = whole.mean - centre
    gram = position @ position.T
    spread = float((gram**2).sum())
    dimension = float(np.trace(gram)) ** 2 / spread if spread > 0 else np.nan
    share = float(centre @ centre) / square if square > 0 else np.nan
    return PositionContext(shares, low, high, chance, share, dimension, c)


def _merged(folds: list[_Fold], shape: tuple[int, ...]) -> _Fold:
    out = _Fold(0, np.zeros(shape), 0.0, 0.0)
    for fold in folds:
        out = _joined(out, fold)
    return out


def _total(fold: _Fold) -> float:
    """Σ ‖x − μ‖² over contexts and positions."""
    centred = fold.mean - fold.mean.mean(axis=0)
    return fold.within + fold.n * float((centred**2).sum())


def _shares(fold: _Fold) -> Floats:
    """Shares of position, context and rest `[3]`; NaN where there is nothing to split."""
    total = _total(fold)
    if fold.n < 2 or len(fold.mean) < 2 or not (np.isfinite(total) and total > 0):
        return np.full(3, np.nan)
    context = len(fold.mean) * fold.between
    return np.asarray([total - fold.within, context, fold.within - context]) / total


def _interval(shares: Floats, folds: list[_Fold], shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    k = len(folds)
    without = [_shares(_merged(folds[:i] + folds[i + 1 :], shape)) for i in range(k)]
    if k < 3 or not np.isfinite(without).all():
        return np.full(3, np.nan), np.full(3, np.nan)
    tiny = np.finfo(np.float64).eps
    logits = [np.log(x.clip(tiny) / (1 - x).clip(tiny)) for x in (shares, np.asarray(without))]
    deviation = logits[1] - logits[1].mean(axis=0)
    error = np.sqrt((k - 1) / k * (deviation**2).sum(axis=0))
    reach = scipy.stats.t.isf(0.025, k - 1) * error
    low, high = (1 / (1 + np.exp(-(logits[0] + side * reach))) for side in (-1, 1))
    return np.asarray(low), np.asarray(high)
