"""How vectors fill a space: spectrum, anisotropy, random controls, trust in a picture, axes.

Functions take plain matrices `[n, d]`; words come in `interp.word_vectors`. Beside every number
stands what vectors without structure would give: Gaussian ones of the same size, or a closed form
for random directions. Knows nothing of hooks, prompts or figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from torch import Tensor

from interp.errors import BadInput, Unsupported, nearest
from interp.state import Array, to_numpy

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
BLOCK = 4096  # rows turned into float64 at a time
MATRICES = ("W_E", "W_U")


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
        return float(np.exp(stats.entropy(np.sqrt(self.share))))

    @property
    def entropy_dimension(self) -> float:
        """exp of the entropy of λ/Σλ: 1 … d, never above the effective rank.

        How many equal variances have this entropy: the effective dimensionality n₁ of Del Giudice,
        Multivariate Behavioral Research 56 (2021).
        """
        return float(np.exp(stats.entropy(self.share)))

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
    mean = vectors.mean(axis=0, dtype=np.float64)
    scatter = sum((b - mean).T @ (b - mean) for b in blocks(vectors))
    values, directions = np.linalg.eigh(np.asarray(scatter) / len(vectors))
    # Rounding leaves what is zero slightly negative.
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
    """What one number can say of a set of vectors `[n, d]`, by name.

    effective_rank, entropy_dimension, participation_ratio; mean_cosine and cosine_std over all
    pairs; mean_cosine_centred, after the mean vector is taken off; mean_share, ‖mean‖² over the
    mean squared norm; norm_mean, norm_std; zero_vectors, how many.
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
    """Gaussian vectors without structure: as many, as wide, and as long in the mean square."""
    vectors = checked(vectors)
    scale = np.sqrt((_norms(vectors) ** 2).mean() / vectors.shape[1])
    drawn = np.random.default_rng(seed).standard_normal(vectors.shape, dtype=np.float32)
    drawn *= np.float32(scale)
    return drawn


def random_cosine(k: Array | int, n: int, d: int) -> Floats:
    """Median of the k-th largest cosine of a vector with `n` random directions in `d` dimensions.

    A random cosine c has (c + 1)/2 ~ Beta((d−1)/2, (d−1)/2), the k-th largest of n uniform
    numbers has Beta(n−k+1, k): exact. k counts from 1.
    """
    half = (d - 1) / 2
    u = stats.beta.ppf(0.5, n - np.asarray(k) + 1, k)
    return np.asarray(2 * stats.beta.ppf(u, half, half) - 1, dtype=np.float64)


def random_cosine_above(threshold: float, d: int) -> float:
    """Probability that two random directions in `d` dimensions have a larger cosine."""
    half = (d - 1) / 2
    return float(stats.beta.sf((threshold + 1) / 2, half, half))


def embedding_matrix(model: Any, name: str = "W_E") -> Array:
    """The rows of `"W_E"`, or the columns of `"W_U"`, of a bridge: `[vocabulary, d_model]`.

    Raises `BadInput` for another name, `Unsupported` if the model has no such matrix.
    """
    if name not in MATRICES:
        raise BadInput(
            f"no matrix {name!r}{nearest(name, MATRICES)} (known: {', '.join(MATRICES)})"
        )
    try:
        weight = getattr(model, name)
    except (AttributeError, NotImplementedError):
        weight = None
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        label = getattr(getattr(model, "cfg", None), "model_name", type(model).__name__)
        raise Unsupported(f"{label} has no matrix {name} of one vector per token")
    return to_numpy(weight.T if name == "W_U" else weight)


def trustworthiness(
    vectors: Array, points: Array, k: int = 12, *, sample: int = 2000, seed: int = 0
) -> float:
    """How far the k neighbours in a picture `points [n, 2]` were neighbours in `vectors [n, d]`.

    1 − 2/(m·k(2n − 3k − 1)) Σ_i Σ_{j ∈ picture neighbours of i} max(0, rank(i, j) − k), over m
    of the points (all unless there are more than `sample`). 1 is faithful, 0.5 random. Source:
    Venna & Kaski, ICANN 2001. Raises `BadInput` unless k < n/2.
    """
    return trust_of_each(vectors, [points], k, sample=sample, seed=seed)[0]


def trust_of_each(
    vectors: Array, pictures: Sequence[Array], k: int = 12, *, sample: int = 2000, seed: int = 0
) -> list[float]:
    """`trustworthiness` of several pictures of the same vectors, whose distances cost most."""
    n = len(vectors)
    if not 0 < k < n / 2:
        raise BadInput(
            f"trustworthiness over {k} neighbours needs more than {2 * k} words, not {n}"
        )
    chosen = np.random.default_rng(seed).permutation(n)[:sample]
    penalty = np.zeros(len(pictures))
    for rows in np.array_split(chosen, -(-len(chosen) * n // 10_000_000)):
        far = _distances(vectors, rows)
        ordered = np.sort(far, axis=1)
        for i, points in enumerate(pictures):
            near = np.argpartition(_distances(points, rows), k - 1, axis=1)[:, :k]
            asked = np.take_along_axis(far, near, 1)
            rank = 1 + np.stack([o.searchsorted(a) for o, a in zip(ordered, asked, strict=True)])
            penalty[i] += float(np.maximum(rank - k, 0).sum())
    scaled = 2 * penalty / (len(chosen) * k * (2 * n - 3 * k - 1))
    return [float(1 - x) for x in scaled]


def _distances(vectors: Array, rows: Ints) -> Floats:
    """Squared distances of the chosen rows to all, infinite to themselves: `[m, n]`."""
    own = np.asarray(vectors[rows], np.float64)
    square = (own**2).sum(axis=1)[:, None]
    out = np.concatenate(
        [square + (b**2).sum(axis=1) - 2 * own @ b.T for b in blocks(vectors)], axis=1
    )
    out[np.arange(len(rows)), rows] = np.inf
    return out


def checked(vectors: Array) -> Array:
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) < 2:
        raise BadInput(f"vectors of shape {vectors.shape}; expected [n, d] with n of 2 or more")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise BadInput(f"vector {row} has values that are not finite")
    return vectors


def blocks(vectors: Array) -> Iterator[Floats]:
    for start in range(0, len(vectors), BLOCK):
        yield vectors[start : start + BLOCK].astype(np.float64)


def _norms(vectors: Array) -> Floats:
    return np.concatenate([np.linalg.norm(b, axis=1) for b in blocks(vectors)])


def units(vectors: Array) -> Floats:
    """Rows of length 1, in float64; NaN for zero vectors."""
    rows = np.asarray(vectors, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float64)


def axis_separation(
    positive: Array, negative: Array, *, permutations: int = 999, seed: int = 0
) -> tuple[float, float, float]:
    """Does the axis between two word sets `[n, d]`, `[m, d]` separate words it was not made of?

    Returns the leave-one-out AUC (the probability that a left-out positive word projects higher
    than a left-out negative one), its mean when words are dealt to the sides at random, and the
    permutation p, one-sided: the share of deals with at least this AUC. Leaving words out makes
    the AUC under the null less than ½, so the mean of the null, not ½, is what to compare with.
    """
    words = np.concatenate([units(positive), units(negative)])
    n, random = len(positive), np.random.default_rng(seed)
    if min(n, len(negative)) < 2:
        raise BadInput("an axis needs two words or more at both ends")
    seen = _auc(words[:n], words[n:])
    null = []
    for _ in range(permutations):
        dealt = words[random.permutation(len(words))]
        null.append(_auc(dealt[:n], dealt[n:]))
    p = (1 + sum(x >= seen - 1e-12 for x in null)) / (1 + permutations)
    return seen, float(np.mean(null)), p


def _auc(positive: Floats, negative: Floats) -> float:
    a, b = left_out(positive, negative), -left_out(negative, positive)
    return float((a[:, None] > b).mean() + (a[:, None] == b).mean() / 2)


def axis_of(positive: Floats, negative: Floats) -> Floats:
    return np.asarray(units(positive.mean(axis=0) - negative.mean(axis=0)))


def left_out(own: Floats, other: Floats) -> Floats:
    """Cosine of each own word with the axis from `other` to the mean of the rest: `[n]`."""
    rest = (own.sum(axis=0) - own) / (len(own) - 1)
    return np.asarray((own * units(rest - other.mean(axis=0))).sum(axis=1))
