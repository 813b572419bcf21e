"""Null distribution of correlations between two courses along prompts, by rotating one of them.

Shuffles destroy the likeness of neighbouring tokens and make the null distribution too narrow where
both courses have it; a rotation keeps it. Knows nothing of tables.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from interp._arrays import Floats, Ints
from interp.errors import BadInput
from interp.stats.classical import undefined_is_nan
from interp.stats.resampling import check_resampling, chunks

SLACK = 1e-12
"""Difference that is rounding: sums in another order must not make a tie look like one."""


class Rotated(NamedTuple):
    """Correlation of each column `[k]` and its null distribution under rotation.

    Attributes:
        r: the correlations.
        p: share of rotations at least as far from `centre`, never 0.
        p_max: the same against the farthest column of each rotation: the family-wise p.
        centre: mean of the null distribution: what differences between prompts give by themselves.
        null: `[resamples, k]`.
    """

    r: Floats
    p: Floats
    p_max: Floats
    centre: Floats
    null: Floats


@undefined_is_nan
def rotated_correlation(
    x: ArrayLike,
    y: ArrayLike,
    clusters: ArrayLike,
    *,
    ranks: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> Rotated:
    """Correlate each column of `x [n, k]` with `y [n]`, and with `y` rotated in every cluster.

    Rows of a cluster are in their order, as tokens of a prompt. A rotation moves the values of a
    cluster on by a random number of places, and the last ones to its start, so that each value
    keeps its neighbours; one rotation serves all columns. Valid where a course is stationary along
    its cluster; a trend along every prompt in both columns is no such thing, and is found. Two-
    sided about the mean of the null distribution, the observed order included. NaN for a constant
    column. Source: circular shifts, Harris 2020 ("Nonsense correlations in neuroscience").

    Raises `BadInput` for arrays that do not match or are not finite.

    >>> wave = np.sin(np.arange(40.0))
    >>> found = rotated_correlation(wave[:, None], wave, np.zeros(40), resamples=99)
    >>> found.r.round(6).item()
    1.0
    """
    check_resampling(0.5, resamples)
    left, right = np.asarray(x, np.float64), np.asarray(y, np.float64)
    number = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if left.ndim != 2 or right.shape != left.shape[:1] or number.shape != right.shape:
        raise BadInput(
            f"x {left.shape}, y {right.shape} and clusters {number.shape} do not match: x is "
            "[tokens, columns], y and clusters [tokens]"
        )
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise BadInput("x or y has values that are not finite; leave those rows out")
    order = np.argsort(number, kind="stable")
    left, right, number = left[order], right[order], number[order]
    if ranks:
        left, right = scipy.stats.rankdata(left, axis=0), scipy.stats.rankdata(right)
    left, right = _unit(left), _unit(right[:, None])[:, 0]
    r = right @ left
    rng = np.random.default_rng(seed)
    parts = [
        right[_rotations(number, size, rng)] @ left for size in chunks(resamples, 4 * len(right))
    ]
    null = np.concatenate(parts)
    centre = (null.sum(axis=0) + r) / (1 + resamples)
    reached = np.abs(null - centre) >= np.abs(r - centre) - SLACK
    p = (1 + reached.sum(axis=0)) / (1 + resamples)
    return Rotated(r, np.where(np.isnan(r), np.nan, p), family_wise(r, centre, null), centre, null)


def family_wise(r: Floats, centre: Floats, null: Floats) -> Floats:
    """p of each column `[k]` against the farthest column of each draw of `null [resamples, k]`.

    Controls the family-wise error over the columns (Westfall & Young 1993); NaN where r is.
    """
    far = np.abs(null - centre)
    farthest = np.where(np.isnan(far), -np.inf, far).max(axis=1)[:, None]
    p = (1 + (farthest >= np.abs(r - centre) - SLACK).sum(axis=0)) / (1 + len(null))
    return np.where(np.isnan(r), np.nan, p)


def _unit(values: Floats) -> Floats:
    """Columns about their mean and of length 1; NaN for constant ones."""
    centred = values - values.mean(axis=0)
    size = np.sqrt((centred**2).sum(axis=0))
    scale = np.abs(values).max(axis=0, initial=0.0) * np.sqrt(len(values))
    return np.asarray(centred / np.where(size > 1e-12 * scale, size, np.nan), np.float64)


def _rotations(number: Ints, size: int, rng: np.random.Generator) -> Ints:
    """Row from which each row takes its value, per rotation: `[size, n]`.

    `number [n]` is the cluster of each row, ascending.
    """
    length = np.bincount(number)
    start = np.cumsum(length) - length
    by = (rng.random((size, len(length))) * length).astype(np.int64)
    place = np.arange(len(number)) - start[number]
    return np.asarray(start[number] + (place + by[:, number]) % length[number], np.int64)
