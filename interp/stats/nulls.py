"""Permutation null distributions of scores: for one pair of spaces and for the best of many pairs.

Under the null hypothesis the rows of one space are unrelated to those of the other. Knows scores
and orders of rows only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp._arrays import Floats, Ints
from interp.errors import BadInput


@dataclass(frozen=True, eq=False)
class Null:
    """Observed scores of any number of pairs, and their null distribution under permutation.

    Attributes:
        value: `[...]`, the observed scores.
        draws: `[resamples, ...]`, the same under permutation; one order serves all pairs.
        lower_is_better: whether small scores count as evidence (residuals).
    """

    value: Floats
    draws: Floats
    lower_is_better: bool = False

    @property
    def mean(self) -> Floats:
        """Mean of the null: `[...]`."""
        return np.asarray(self.draws.mean(axis=0), np.float64)

    @property
    def sd(self) -> Floats:
        """Standard deviation of the null: `[...]`; NaN with one draw."""
        if len(self.draws) < 2:
            return np.full_like(self.mean, np.nan)
        return np.asarray(self.draws.std(axis=0, ddof=1), np.float64)

    @property
    def p(self) -> Floats:
        """(1 + #{null at least as good}) / (1 + resamples), never 0 (Phipson & Smyth 2010)."""
        return self._p(self.draws)

    @property
    def p_max(self) -> Floats:
        """The same against the best pair of each draw, valid for the best of all pairs.

        Controls the family-wise error over the pairs (Westfall & Young 1993).
        """
        return self._p(self._best().reshape(-1, *[1] * self.value.ndim))

    def _best(self) -> Floats:
        """The best pair of each draw: `[resamples]`."""
        flat = self.draws.reshape(len(self.draws), -1)
        best = np.nanmin(flat, axis=1) if self.lower_is_better else np.nanmax(flat, axis=1)
        return np.asarray(best, np.float64)

    @property
    def smallest_p_max(self) -> float:
        """Approximately the smallest p_max that any order could have reached.

        Few clusters have few orders, and the best of them is drawn repeatedly: its share of the
        draws.
        """
        best = -self._best() if self.lower_is_better else self._best()
        top = np.nanmax(best)
        ties = int((best >= top - 1e-9 * max(1.0, abs(float(top)))).sum())
        return max(ties, 1) / (1 + len(best))

    def _p(self, draws: Floats) -> Floats:
        # Sums in another order must not make a tie look like a difference.
        slack = 1e-12 * np.maximum(1.0, np.abs(self.value))
        sign = -1.0 if self.lower_is_better else 1.0
        reached = sign * draws >= sign * self.value - slack
        p = (1 + reached.sum(axis=0)) / (1 + len(draws))
        return np.where(np.isnan(self.value), np.nan, p)


def undecided(smallest: float, what: str = "prompts", level: float = 0.05) -> tuple[str, ...]:
    """A note if no order of so few clusters or draws could have reached this level."""
    if smallest < level:
        return ()
    return (
        f"cannot be decided with so few {what} or resamples: the smallest p that any order could "
        f"have got is about {smallest:.2g}, not below {level:.2g}",
    )


def orders(
    n: int, resamples: int, seed: int, clusters: Sequence[Any] | None = None
) -> Iterator[Ints]:
    """`resamples` random orders of n rows.

    With `clusters [n]`, whole clusters change places and keep the order of their rows: rows of one
    prompt are correlated, prompts are independent. Only clusters of one size can change places.

    Raises `BadInput` for fewer than one resample, or where no two clusters have the same size.
    """
    if resamples < 1:
        raise BadInput(f"resamples is {resamples!r}; it must be 1 or more, such as 200")
    rng = np.random.default_rng(seed)
    if clusters is None:
        for _ in range(resamples):
            yield rng.permutation(n)
        return
    groups = _by_size(np.asarray(clusters), n)
    # A cluster moves to the place of another of its size, so that row i still faces one row.
    for _ in range(resamples):
        order = np.arange(n)
        for group in groups:
            order[group.ravel()] = group[rng.permutation(len(group))].ravel()
        yield order


def _by_size(clusters: Any, n: int) -> list[Ints]:
    """Rows of the clusters of each size: one `[clusters, size]` per size."""
    if clusters.shape != (n,):
        raise BadInput(f"clusters have shape {clusters.shape}; one is needed for each of {n} rows")
    found: dict[int, list[Ints]] = {}
    for name in np.unique(clusters):
        rows = np.flatnonzero(clusters == name)
        found.setdefault(len(rows), []).append(rows)
    if all(len(group) < 2 for group in found.values()):
        raise BadInput("no two clusters have the same number of rows, so none can change places")
    return [np.stack(group) for group in found.values()]


def permuted(
    score: Callable[[Ints], Any],
    n: int,
    *,
    resamples: int = 200,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
    lower_is_better: bool = False,
) -> Null:
    """Score the observed order, and random orders of the second space's rows.

    `score` takes an order `[n]` and returns a number or an array.

    >>> permuted(lambda order: float(order[0] == 0), 4, resamples=99).value.item()
    1.0
    """
    value = np.asarray(score(np.arange(n)), np.float64)
    draws = [np.asarray(score(o), np.float64) for o in orders(n, resamples, seed, clusters)]
    return Null(value, np.stack(draws), lower_is_better)
