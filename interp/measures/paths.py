"""Paths through the residual stream: principal axes of a streamed covariance, random baselines.

Pure functions of arrays and of the leaf `Cov`; knows nothing of models, batches or tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from interp._arrays import Floats
from interp.contract.leaves import Cov
from interp.errors import BadInput
from interp.measures.eigenvalues import wishart_tridiagonal

WIDTH = 512
"""Random walks in a wider space are drawn in one of this width, with proportionally fewer walks."""
FEWEST = 16
"""Smallest number of random walks, whatever the width."""


@dataclass(frozen=True, eq=False)
class Axes:
    """The first principal axes of a cloud of vectors.

    Attributes:
        mean: `[d]`.
        directions: `[k, d]`, orthonormal, by falling variance; the largest entry of each is
            positive. NaN where the cloud has no extent.
        variance: `[k]`, along each axis.
        total: the variance in all `d` directions.
        effective_dimension: participation ratio (Σλ)²/Σλ² of all `d` eigenvalues λ: d for an
            isotropic cloud, 1 for a line.
    """

    mean: Floats
    directions: Floats
    variance: Floats
    total: float
    effective_dimension: float

    @property
    def shares(self) -> Floats:
        """Share of the variance along each axis: `[k]`; NaN where there is none."""
        defined = np.isfinite(self.total) and self.total > 0
        return self.variance / self.total if defined else np.full_like(self.variance, np.nan)

    def project(self, x: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Coordinates `[..., k]` of vectors `x [..., d]`, and the share outside the axes.

        That share is ‖x − mean − Σ pc·axis‖² / ‖x − mean‖², `[...]`.
        """
        centred = np.asarray(x, dtype=np.float64) - self.mean
        places = centred @ self.directions.T
        left = centred - places @ self.directions
        with np.errstate(invalid="ignore", divide="ignore"):
            outside = (left**2).sum(-1) / (centred**2).sum(-1)
        return places, np.where(np.isfinite(outside), outside, np.nan)


def principal_axes(cov: Cov, k: int) -> Axes:
    """Principal axes of the vectors behind a streamed covariance (Pearson 1901).

    Args:
        cov: count, mean and scatter of vectors of width d, merged over any number of batches.
        k: how many axes; d if that is less.

    Raises `BadInput` for k below 1. Fewer than two vectors, or vectors that are all equal or not
    finite, have no axes: directions and shares are NaN. Participation ratio: Gao et al., "A theory
    of multineuronal dimensionality, dynamics and measurement" (2017).

    >>> import torch
    >>> rows = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 1.0]]])
    >>> axes = principal_axes(Cov.of(rows, torch.ones(1, 3, dtype=torch.bool)), 2)
    >>> axes.shares.round(3).tolist()
    [0.927, 0.073]
    """
    if k < 1:
        raise BadInput(f"{k} components; at least 1 axis is needed, 3 are usual")
    matrix = cov.covariance
    d = len(matrix)
    k, total = min(k, d), float(np.trace(matrix))
    if not (np.isfinite(matrix).all() and total > 0):
        nothing = np.full(k, np.nan)
        return Axes(cov.mean, np.full((k, d), np.nan), nothing, total, np.nan)
    # Σλ² is the squared Frobenius norm: the small eigenvalues are never computed.
    effective = total**2 / float((matrix**2).sum())
    values, vectors = linalg.eigh(matrix, subset_by_index=[d - k, d - 1])
    directions = vectors.T[::-1]
    # An eigenvector has no sign of its own; without a rule, the same run would flip on another
    # machine.
    largest = np.abs(directions).argmax(axis=1)
    sign = np.sign(directions[np.arange(k), largest])
    variance = np.maximum(values[::-1], 0.0)
    return Axes(cov.mean, directions * sign[:, None], variance, total, effective)


def gaussian_share(n: int, d: int, k: int, *, seed: int = 0) -> float:
    """Share of variance on the first `k` axes of `n` isotropic Gaussian vectors of width `d`.

    k/d for n → ∞; more for few vectors. One draw: the eigenvalues of a Wishart matrix from its
    bidiagonal form (Dumitriu & Edelman, J. Math. Phys. 43, 2002), without drawing the vectors.

    >>> gaussian_share(100_000, 10, 2) < 0.21
    True
    """
    if n < 2 or d < 1:
        return float("nan")
    diagonal, beside = wishart_tridiagonal(n, d, seed)
    size = len(diagonal)
    select = (max(0, size - k), size - 1)
    top = linalg.eigh_tridiagonal(diagonal, beside, True, select="i", select_range=select)
    return float(top.sum() / diagonal.sum())


def walk_share(tokens: int, lengths: npt.ArrayLike, d: int, k: int, *, seed: int = 0) -> float:
    """Share of variance on the first `k` axes of random walks, the baseline of a smooth path.

    Each of `tokens` walks starts at an isotropic Gaussian vector of length `lengths[0]` and makes
    an isotropic step of each further length, independent of all others; all its L + 1 points
    count. The principal axes of one long walk hold 61, 15 and 7 % of its variance, as cosines of
    increasing frequency, in any number of dimensions (Antognini & Sohl-Dickstein, "PCA of high
    dimensional random walks with comparison to neural network training", NeurIPS 2018); many walks
    on common axes hold much less. One draw. In wide spaces it has fewer walks in a space narrower
    by the same factor, which changes the share by a few per cent of itself at most.

    >>> round(walk_share(1, [0.0] + [1.0] * 200, 20_000, 3), 2)
    0.83
    """
    sizes = np.asarray(lengths, dtype=np.float64)
    if tokens < 1 or d < 1 or not np.isfinite(sizes).all() or not sizes.any():
        return float("nan")
    # The spectrum depends on the ratio of walks to width: shrinking both by one factor keeps it and
    # avoids an eigenproblem of the model's width.
    shrink = max(1.0, min(d / WIDTH, tokens / FEWEST))
    walks, width = round(tokens / shrink), round(d / shrink)
    # The points of a walk are C z, z independent vectors; over walks the scatter is the sum of
    # walks − 1 deviations from their mean, and of the mean walk, centred over its points.
    c = np.tril(np.broadcast_to(sizes, (len(sizes), len(sizes))))
    centred = c - c.mean(axis=0)
    rng = np.random.default_rng(seed)
    parts = [(np.linalg.eigvalsh(centred.T @ centred), 1), (np.linalg.eigvalsh(c.T @ c), walks - 1)]
    rows = [
        np.sqrt(max(weight, 0.0)) * _wishart_root(free, width, rng)
        for weights, free in parts
        for weight in weights
        if free > 0
    ]
    return _top_share(np.concatenate(rows), k) / (d / width)


def _wishart_root(free: int, d: int, rng: np.random.Generator) -> Floats:
    """A matrix R `[≤ d, d]` whose RᵀR is Wishart with `free` degrees of freedom (Bartlett 1933)."""
    if free < d:
        return rng.standard_normal((free, d))
    root = np.triu(rng.standard_normal((d, d)), 1)
    root[np.diag_indices(d)] = np.sqrt(rng.chisquare(np.arange(free, free - d, -1)))
    return root


def _top_share(rows: Floats, k: int) -> float:
    """Share of the `k` largest eigenvalues of rowsᵀ rows, from the smaller of both products."""
    small: Any = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    size = len(small)
    top = linalg.eigh(small, eigvals_only=True, subset_by_index=[max(0, size - k), size - 1])
    return float(top.sum() / np.trace(small))
