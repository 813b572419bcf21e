"""Eigenvalues of a streamed covariance: power-law decay, entropy, and a Gaussian baseline.

Pure functions of arrays and of the leaf `Cov`; knows nothing of models, batches or tables.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from scipy import linalg

from interp._arrays import Array, Floats
from interp.contract.leaves import Cov
from interp.errors import BadInput
from interp.measures.spectrum import CovarianceSpectrum

FEWEST = 5
"""Eigenvalues that a power law is fitted to at least."""
_ROUNDING = 1e-12  # of the largest eigenvalue; what is below is not fitted


def spectrum_of_sums(cov: Cov) -> CovarianceSpectrum:
    """Spectrum of the vectors behind a streamed covariance, without its directions `[0, d]`.

    NaN eigenvalues where vectors are not finite or fewer than two.
    """
    d, n = len(cov.mean), int(cov.count)
    values = np.full(d, np.nan)
    if n >= 2 and np.isfinite(cov.scatter).all():
        values = np.maximum(np.linalg.eigvalsh(cov.scatter / n)[::-1], 0.0)
    return CovarianceSpectrum(values, np.zeros((0, d)), cov.mean, n)


class PowerLaw(NamedTuple):
    """Fit of λ_i ∝ i^(−alpha) over the eigenvalues number `first` … `last`, counted from 1.

    `r2` is the share of the variance of ln λ that the line explains.
    """

    alpha: float
    r2: float
    first: int
    last: int


def power_law(eigenvalues: Array, first: int = 11, last: int = 100) -> PowerLaw:
    """Exponent of the decay: least squares of ln λ_i on ln i (α-ReQ, Agrawal et al. 2022).

    Args:
        eigenvalues: largest first `[d]`.
        first, last: the range of the fit, both included, counted from 1; cut where eigenvalues are
            below 1e-12 of the largest. The first ten are usually off the line, and the tail of few
            vectors falls off by sampling alone.

    NaN where fewer than 5 eigenvalues are in the range, or one is NaN. Raises `BadInput` for a
    range that no spectrum has.

    >>> round(power_law(np.arange(1.0, 101.0) ** -1.5).alpha, 6)
    1.5
    """
    if first < 1 or last < first + FEWEST - 1:
        raise BadInput(
            f"a power law over eigenvalues {first} … {last}: allowed is a range of {FEWEST} or "
            "more, counted from 1; 11 and 100 are the defaults"
        )
    values = np.asarray(eigenvalues, np.float64)
    known = int((values > _ROUNDING * values[0]).sum()) if np.isfinite(values).all() else 0
    last = min(last, known)
    if last - first + 1 < FEWEST:
        return PowerLaw(np.nan, np.nan, first, last)
    rank = np.log(np.arange(first, last + 1, dtype=np.float64))
    fit = scipy.stats.linregress(rank, np.log(values[first - 1 : last]))
    return PowerLaw(float(-fit.slope), float(fit.rvalue**2), first, last)


def matrix_entropy(rows: Array) -> float:
    """Entropy of the eigenvalues of X Xᵀ / tr(X Xᵀ), in nats: 0 for one direction, ≤ ln min(n, d).

    Of vectors as they are, not centred: `rows [n, d]` are the tokens of one prompt (Skean et al.
    2502.02013, with α → 1; Giraldo, Rao & Príncipe 2015). NaN for no row or rows of zeros.

    >>> round(float(np.exp(matrix_entropy(np.eye(3)))), 6)
    3.0
    """
    x = np.asarray(rows, np.float64)
    if not x.size or not np.isfinite(x).all():
        return float("nan")
    scale = np.abs(x).max()
    if scale == 0:
        return float("nan")
    x = x / scale  # squares of huge states would overflow
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    values = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    return float(scipy.stats.entropy(values / values.sum()))


def gaussian_spectrum(n: int, d: int, *, seed: int = 0) -> Floats:
    """Eigenvalues of the covariance of `n` isotropic Gaussian vectors of width `d`, largest first.

    One draw of a Wishart matrix in its bidiagonal form (Dumitriu & Edelman, J. Math. Phys. 43,
    2002), without drawing the vectors; `[d]`, zero beyond n − 1. NaN for fewer than two vectors.

    >>> bool(abs(gaussian_spectrum(100_000, 3) - 1).max() < 0.05)
    True
    """
    if n < 2 or d < 1:
        return np.full(d, np.nan)
    values = linalg.eigvalsh_tridiagonal(*wishart_tridiagonal(n, d, seed))
    out = np.zeros(d)
    out[: len(values)] = np.maximum(values[::-1], 0.0) / n
    return out


def wishart_tridiagonal(n: int, d: int, seed: int) -> tuple[Floats, Floats]:
    """Diagonal and off-diagonal of a matrix with the scatter's eigenvalues that are not zero.

    The scatter is that of `n` isotropic Gaussian vectors of width `d` about their mean, n ≥ 2;
    `[min(n − 1, d)]` and one less.
    """
    free = n - 1  # the sample mean is subtracted
    size, degrees = min(free, d), max(free, d)
    rng = np.random.default_rng(seed)
    across = np.sqrt(rng.chisquare(np.arange(degrees, degrees - size, -1)))
    below = np.sqrt(rng.chisquare(np.arange(size - 1, 0, -1)))
    diagonal = across**2
    diagonal[1:] += below**2
    return diagonal, across[:-1] * below
