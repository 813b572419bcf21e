"""Distribution of vectors in a space: spectrum, anisotropy and random baselines.

Functions take plain matrices `[n, d]`; words come in `interp.experiments.words`. Every number has a
baseline of vectors without structure: Gaussian ones of the same size, or a closed form for random
directions. Knows nothing of hooks, prompts or figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy
import torch
from torch import Tensor

from interp._arrays import Array, Floats
from interp.errors import BadInput
from interp.geometry import norm, ratio

BLOCK = 4096  # rows turned into float64 at a time


@dataclass(frozen=True, eq=False)
class CovarianceSpectrum:
    """Covariance spectrum of a set of vectors.

    Attributes:
        eigenvalues: of Σ = E_cᵀE_c / N, largest first, `[d]`.
        directions: the eigenvectors as rows, `[d, d]`.
        mean: the mean vector, `[d]`.
        n: number of vectors.
    """

    eigenvalues: Floats
    directions: Floats
    mean: Floats
    n: int

    @property
    def share(self) -> Floats:
        """Share of the variance per component; NaN where there is no variance."""
        total = self.eigenvalues.sum()
        return self.eigenvalues / total if total > 0 else np.full_like(self.eigenvalues, np.nan)

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of σ/Σσ, σ the singular values of the centred vectors: 1 … d.

        σ² = Nλ. Source: Roy & Vetterli, EUSIPCO 2007.
        """
        return float(np.exp(scipy.stats.entropy(np.sqrt(self.share))))

    @property
    def entropy_dimension(self) -> float:
        """exp of the entropy of λ/Σλ: 1 … d, never above the effective rank.

        The number of equal variances with this entropy: the effective dimensionality n₁ of Del
        Giudice, Multivariate Behavioral Research 56 (2021).
        """
        return float(np.exp(scipy.stats.entropy(self.share)))

    @property
    def participation_ratio(self) -> float:
        """(Σλ)² / Σλ²: 1 if one direction has all the variance, d if all have the same."""
        return float(1 / (self.share**2).sum())


def covariance_spectrum(vectors: Array) -> CovarianceSpectrum:
    """Eigenvalues of the covariance of `vectors [n, d]`, computed in float64 over blocks of rows.

    Raises `BadInput` for fewer than two vectors or for values that are not finite.

    >>> covariance_spectrum(np.concatenate([np.eye(2), -np.eye(2)])).effective_rank
    2.0
    """
    vectors = checked(vectors)
    # The mean first, then products of deviations: E[xxᵀ] − μμᵀ cancels where the mean is far larger
    # than the standard deviation.
    mean = vectors.mean(axis=0, dtype=np.float64)
    scatter = sum((b - mean).T @ (b - mean) for b in blocks(vectors))
    values, directions = np.linalg.eigh(np.asarray(scatter) / len(vectors))
    # Rounding can leave an eigenvalue that is zero slightly negative.
    return CovarianceSpectrum(
        np.maximum(values[::-1], 0.0), directions[:, ::-1].T, mean, len(vectors)
    )


def anisotropy(vectors: Array) -> tuple[float, float]:
    """Mean and standard deviation of the cosine over all pairs of different vectors.

    Exact, without drawing pairs: Σ_{i≠j} û_i·û_j = ‖Σû‖² − N and Σ_{i≠j} (û_i·û_j)² =
    ‖ÛᵀÛ‖_F² − N. Zero vectors have no direction and are left out. Random directions give 0 and
    1/√d. Source of the measure: Ethayarajh, EMNLP 2019.

    >>> anisotropy(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]]))
    (1.0, 0.0)
    """
    vectors = checked(vectors)
    d, n = vectors.shape[1], 0
    total, gram = np.zeros(d), np.zeros((d, d))
    for rows in blocks(vectors):
        unit = units(rows[_norms(rows) > 0])
        total, gram, n = total + unit.sum(axis=0), gram + unit.T @ unit, n + len(unit)
    if n < 2:
        return np.nan, np.nan
    pairs = n * (n - 1)
    mean = (total @ total - n) / pairs
    square = ((gram**2).sum() - n) / pairs
    return float(mean), float(np.sqrt(max(square - mean**2, 0.0)))


def describe_vectors(vectors: Array, seen: CovarianceSpectrum | None = None) -> dict[str, float]:
    """Scalar descriptions of a set of vectors `[n, d]`, by name.

    effective_rank, entropy_dimension, participation_ratio; mean_cosine and cosine_std over all
    pairs; mean_cosine_centred, after subtracting the mean vector; mean_share, ‖mean‖² over the
    mean squared norm; norm_mean, norm_std; zero_vectors, their number.
    """
    seen, norms = seen or covariance_spectrum(vectors), _norms(vectors)
    mean, std = anisotropy(vectors)
    square = float((norms**2).mean())
    return {
        "effective_rank": seen.effective_rank,
        "entropy_dimension": seen.entropy_dimension,
        "participation_ratio": seen.participation_ratio,
        "mean_cosine": mean,
        "cosine_std": std,
        "mean_cosine_centred": anisotropy(vectors - seen.mean.astype(vectors.dtype))[0],
        "mean_share": float(seen.mean @ seen.mean) / square if square > 0 else np.nan,
        "norm_mean": float(norms.mean()),
        "norm_std": float(norms.std()),
        "zero_vectors": float((norms == 0).sum()),
    }


def random_embedding(vectors: Array, seed: int = 0) -> npt.NDArray[np.float32]:
    """Random baseline: Gaussian vectors of the same number, width and mean square length."""
    vectors = checked(vectors)
    scale = np.sqrt((_norms(vectors) ** 2).mean() / vectors.shape[1])
    # float32: a vocabulary of 150,000 in float64 would double the memory of the baseline for
    # digits that a random number does not need.
    drawn = np.random.default_rng(seed).standard_normal(vectors.shape, dtype=np.float32)
    drawn *= np.float32(scale)
    return drawn


def random_cosine(k: Array | int, n: int, d: int) -> Floats:
    """Median of the k-th largest cosine of a vector with `n` random directions in `d` dimensions.

    A random cosine c has (c + 1)/2 ~ Beta((d−1)/2, (d−1)/2), the k-th largest of n uniform
    numbers has Beta(n−k+1, k): exact. k counts from 1.
    """
    half = (d - 1) / 2
    u = scipy.stats.beta.ppf(0.5, n - np.asarray(k) + 1, k)
    return np.asarray(2 * scipy.stats.beta.ppf(u, half, half) - 1, dtype=np.float64)


def random_cosine_above(threshold: float, d: int) -> float:
    """Probability that the cosine of two random directions in `d` dimensions is above it."""
    half = (d - 1) / 2
    return float(scipy.stats.beta.sf((threshold + 1) / 2, half, half))


def checked(vectors: Array) -> Array:
    """`vectors` as an array `[n, d]`; `BadInput` for fewer than two or for values not finite."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) < 2:
        raise BadInput(f"vectors of shape {vectors.shape}; expected [n, d] with n of 2 or more")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise BadInput(f"vector {row} has values that are not finite")
    return vectors


def blocks(vectors: Array) -> Iterator[Floats]:
    """The rows in float64, a block at a time, so that no second copy of the matrix exists."""
    for start in range(0, len(vectors), BLOCK):
        yield vectors[start : start + BLOCK].astype(np.float64)


def _norms(vectors: Array) -> Floats:
    return np.concatenate([np.linalg.norm(b, axis=1) for b in blocks(vectors)])


def units(vectors: Array) -> Floats:
    """Rows of length 1, in float64; NaN for zero vectors."""
    rows = np.asarray(vectors, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float64)


BLOCK_BYTES = 64 * 2**20
"""Size of the block of rows that is held in float64 at a time."""


# ---- spectrum --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SingularDirections:
    """Singular values and directions of a matrix `[n, d]`, in float64, largest first.

    Attributes:
        values: σ `[d]`.
        directions: right singular vectors `[d, d]`, one per column: W = U Σ Vᵀ.
        mean: the mean row μ `[d]`.
        n: number of rows.
        bias_cross: covariance of the rows with the bias, over rows `[d]`; 0 without bias.
        bias_variance: variance of the bias over rows.
    """

    values: Tensor
    directions: Tensor
    mean: Tensor
    n: int
    bias_cross: Tensor
    bias_variance: float = 0.0

    @classmethod
    def of(
        cls, matrix: Tensor, bias: Tensor | None = None, *, centred: bool = False
    ) -> SingularDirections:
        """The spectrum of `matrix [n, d]`, of the rows minus their mean if `centred`.

        From the d×d product WᵀW in float64, without computing U: singular values below about
        1e-8 of the largest are rounding, which is finer than float32 weights resolve.
        """
        gram, mean, cross = _products(matrix, bias)
        n = len(matrix)
        if centred:
            gram = gram - n * torch.outer(mean, mean)
        squares, vectors = torch.linalg.eigh(gram)
        b = gram.new_zeros(1) if bias is None else bias.double()
        return cls(
            squares.clamp(min=0).sqrt().flip(0),
            vectors.flip(1),
            torch.zeros_like(mean) if centred else mean,
            n,
            cross / n - mean * float(b.mean()),
            float(b.var(correction=0)),
        )

    def to(self, device: torch.device) -> SingularDirections:
        """The same on another device."""
        parts = (self.values, self.directions, self.mean)
        values, directions, mean = (p.to(device) for p in parts)
        cross = self.bias_cross.to(device)
        return SingularDirections(values, directions, mean, self.n, cross, self.bias_variance)

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of σ/Σσ: d for a flat spectrum, 1 for a single direction.

        Source: Roy & Vetterli 2007.
        """
        return float(torch.special.entr(self.values / self.values.sum()).sum().exp())

    @property
    def participation_ratio(self) -> float:
        """(Σσ²)² / Σσ⁴: d for a flat spectrum, 1 for a single direction."""
        squares = self.values**2
        return float(squares.sum() ** 2 / (squares**2).sum())

    @property
    def mean_cosines(self) -> Tensor:
        """|cosine| between each direction and the mean row `[d]`; NaN where that is zero."""
        return ratio((self.mean @ self.directions).abs(), norm(self.mean))


def _products(matrix: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """WᵀW `[d, d]`, the mean row `[d]` and Wᵀb `[d]`, in float64, over blocks of rows."""
    if matrix.ndim != 2 or len(matrix) < 1:
        raise BadInput(f"a spectrum is of a matrix [n, d], not of shape {tuple(matrix.shape)}")
    # Apple's devices have no float64.
    device = matrix.device if matrix.device.type in ("cpu", "cuda") else torch.device("cpu")
    d = matrix.shape[1]
    gram = torch.zeros(d, d, dtype=torch.float64, device=device)
    total, cross = (torch.zeros(d, dtype=torch.float64, device=device) for _ in range(2))
    for rows in _blocks(*matrix.shape):
        block = matrix[rows].to(device).double()
        gram += block.T @ block
        total += block.sum(0)
        if bias is not None:
            cross += bias[rows].to(device).double() @ block
    return gram, total / len(matrix), cross


def _blocks(n: int, d: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // (8 * d))
    return (slice(i, i + size) for i in range(0, n, size))


def random_singular_directions(matrix: Tensor, *, seed: int = 0) -> SingularDirections:
    """Random baseline: the spectrum of normal entries in the shape and scale of `matrix`.

    The entries are independent with mean zero and the root mean square of the matrix, which gives
    both the same Σσ². The singular values fill the band s(√n ± √d) of Marchenko & Pastur 1967, s
    the scale.
    """
    n, d = matrix.shape
    blocks = list(_blocks(n, d))
    squares = sum(float(matrix[rows].double().square().sum()) for rows in blocks)
    generator = torch.Generator().manual_seed(seed)
    # A fixed dtype and device: with another default dtype the same seed gives other draws.
    draw = torch.empty(n, d, dtype=torch.float32, device="cpu")
    for rows in blocks:
        draw[rows].normal_(generator=generator)
    draw *= (squares / (n * d)) ** 0.5
    return SingularDirections.of(draw)


def random_orthogonal(d: int, seed: int) -> Tensor:
    """A rotation or reflection `[d, d]` drawn uniformly (Haar), in float64.

    QR of normal entries, with the columns of Q multiplied by the signs of R's diagonal, without
    which the distribution would not be uniform (Mezzadri 2007).
    """
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(d, d, generator=generator, dtype=torch.float64, device="cpu")
    q, r = torch.linalg.qr(draw)
    signed: Tensor = q * torch.sign(torch.diagonal(r))
    return signed
