"""Intrinsic dimension of a cloud of vectors, and neighbours that two clouds have in common.

Pure functions on NumPy float64 `[n, d]`. TwoNN looks at one scale, that of the two nearest
neighbours, and takes the density there as constant: it is too low where dimensions are many, see
`two_nn`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from interp._arrays import Array, Floats, Ints
from interp.errors import BadInput
from interp.measures.matrices import matrix

FEWEST = 10
"""Different vectors below which no dimension is given."""
_ROWS = 10_000_000  # distances held at a time: 80 MB


class TwoNN(NamedTuple):
    """Intrinsic dimension by the two nearest neighbours.

    Attributes:
        dimension: the estimate; NaN below 10 different vectors.
        low, high: its 95 % interval if the ratios of different vectors were independent.
        n: different vectors that count; of equal ones there is one.
    """

    dimension: float
    low: float
    high: float
    n: int


def two_nn(vectors: Array) -> TwoNN:
    """Dimension from μ = r₂/r₁, the ratio of the distances to the two nearest neighbours.

    Where the density is constant up to the second neighbour, ln μ is exponential with rate d
    (Facco et al. 2017); (n − 1)/Σ ln μ is its unbiased estimate, and n·d̂ follows a gamma
    distribution for independent μ. Equal vectors have r₁ = 0 and count as one.

    Bias, measured on uniform samples of 1000 in a cube (mean of 20): 2.0 for 2 dimensions, 4.8 for
    5, 9.0 for 10, 16 for 20, 32 for 50. Edges and empty space make it too low, the more the
    higher the dimension; more vectors help little. Clusters and different densities change it
    less than most estimators, noise in all directions raises it at small scales.

    Raises `BadInput` for a matrix that is not `[n, d]` or not finite.

    >>> line = np.random.default_rng(0).random(2000)[:, None] * np.ones(3)
    >>> round(two_nn(line).dimension, 1)
    1.0
    """
    x = np.unique(matrix(vectors, "the cloud"), axis=0)
    n = len(x)
    if n < FEWEST:
        return TwoNN(np.nan, np.nan, np.nan, n)
    # About the mean: squared distances are differences, which a far mean would round away.
    first, second = _two_nearest(x - x.mean(axis=0)).T
    used = first > 0
    total, n = float(np.log(second[used] / first[used]).sum()), int(used.sum())
    if n < FEWEST or not total > 0:
        return TwoNN(np.nan, np.nan, np.nan, n)
    low, high = stats.chi2.ppf([0.025, 0.975], 2 * n) / (2 * total)
    return TwoNN((n - 1) / total, float(low), float(high), n)


def _two_nearest(x: Floats) -> Floats:
    """Distances to the two nearest other rows: `[n, 2]`."""
    parts = []
    for rows in _pieces(len(x)):
        near = np.partition(_squares(x, rows), 1, axis=1)[:, :2]
        parts.append(np.sqrt(np.maximum(near, 0.0)))
    return np.concatenate(parts)


def _pieces(n: int) -> list[Ints]:
    return np.array_split(np.arange(n), -(-n * n // _ROWS))


def _squares(x: Floats, rows: Ints) -> Floats:
    """Squared distances of the chosen rows to all, infinite to themselves: `[m, n]`."""
    squares = (x**2).sum(axis=1)
    out = squares[rows, None] + squares - 2 * x[rows] @ x.T
    out[np.arange(len(rows)), rows] = np.inf
    return np.asarray(out, np.float64)


def gaussian_like(vectors: Array, *, seed: int = 0) -> Floats:
    """As many Gaussian vectors `[n, d]` with the mean and covariance of `vectors`.

    The control of an intrinsic dimension: what its covariance alone gives at this number of
    vectors. z X_c/√(n − 1) with z Gaussian `[n, n]` has the covariance of X_c without an
    eigenproblem.
    """
    x = matrix(vectors, "the cloud", least=2)
    centred = x - x.mean(axis=0)
    draw = np.random.default_rng(seed).standard_normal((len(x), len(x)))
    return np.asarray(x.mean(axis=0) + draw @ centred / np.sqrt(len(x) - 1), np.float64)


def nearest_neighbours(vectors: Array, k: int) -> Ints:
    """The `k` nearest other rows of each row by Euclidean distance: `[n, k]`, nearest first.

    Neighbours at one distance keep the order of rows. Raises `BadInput` unless 1 ≤ k < n.
    """
    x = matrix(vectors, "the cloud")
    n = len(x)
    if not 1 <= k < n:
        raise BadInput(f"k is {k}; allowed is 1 to {n - 1}, the other vectors of a cloud of {n}")
    x = x - x.mean(axis=0)
    scale = max(float((x**2).sum(axis=1).mean()), np.finfo(np.float64).tiny)
    parts = []
    for rows in _pieces(n):
        # Rounded, so that equal distances tie although they are sums in another order.
        far = np.round(_squares(x, rows) / scale, 12)
        parts.append(np.argsort(far, axis=1, kind="stable")[:, :k])
    return np.concatenate(parts)


def neighbour_overlap(a: Array, b: Array) -> float:
    """Mean share of the neighbours of each row that two results of `nearest_neighbours` share.

    1 for clouds with the same neighbours, k/(n − 1) by chance. Source: Doimo et al. 2020.

    >>> x = np.arange(8.0)[:, None]
    >>> neighbour_overlap(nearest_neighbours(x, 2), nearest_neighbours(-3 * x, 2))
    1.0
    """
    member = np.zeros((len(a), len(a)), dtype=bool)
    np.put_along_axis(member, np.asarray(a), True, axis=1)
    return float(np.take_along_axis(member, np.asarray(b), axis=1).mean())
