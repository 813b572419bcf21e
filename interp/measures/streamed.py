"""CKA between layers from sums; memory does not grow with the number of tokens.

The central moments that the unbiased estimator needs merge exactly, so streamed debiased CKA equals
that of all tokens at once, up to float64 rounding. The permutation null would need the rows, which
are not kept. Its mean and variance follow from the moments and are exact; the p made of these two
is an approximation (a gamma distribution).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import scipy

from interp._arrays import Array, Floats
from interp.contract.leaves import Leaf
from interp.errors import BadInput
from interp.measures.similarity import LEAST, hsic_1

_NAMES = ("count", "mean", "cross", "third", "fourth")


@dataclass(frozen=True, eq=False)
class CrossMoments(Leaf):
    """Central moments of S layers of the same tokens, all pairs, up to the fourth order.

    With x_i the vector of layer i minus its mean, summed over tokens:

    Attributes:
        count: number of tokens.
        mean: `[S, d]`.
        cross: `[S(S+1)/2, d, d]`, Σ x_i x_jᵀ for the pairs i ≤ j of `np.triu_indices(S)`.
        third: `[S, S, d]`, Σ x_i ‖x_j‖².
        fourth: `[S, S]`, Σ ‖x_i‖² ‖x_j‖².
    """

    count: Array
    mean: Floats
    cross: Floats
    third: Floats
    fourth: Floats

    @classmethod
    def of(cls, rows: Array) -> Self:
        """Moments of `rows [S, n, d]`: n tokens at S layers."""
        x = np.asarray(rows, np.float64)
        n = x.shape[1]
        mean = x.mean(axis=1) if n else np.zeros((len(x), x.shape[2]))
        x = x - mean[:, None]
        square = (x**2).sum(axis=2)
        first, second = np.triu_indices(len(x))
        cross = np.stack([x[i].T @ x[j] for i, j in zip(first, second, strict=True)])
        third = np.einsum("ind,jn->ijd", x, square)
        return cls(np.asarray(n, np.int64), mean, cross, third, square @ square.T)

    @staticmethod
    def size(states: int, width: int) -> int:
        """Bytes of the moments of `states` layers of this width."""
        pairs = states * (states + 1) // 2
        return 8 * (pairs * width**2 + states**2 * (width + 1) + states * width)

    def merge(self, other: Self) -> Self:
        count = self.count + other.count
        if not count:
            return self
        # Both sides are moved to the common mean and added there; raw moments would merge more
        # simply and lose the fourth order to cancellation.
        mean = self.mean + (other.mean - self.mean) * (other.count / count)
        a, b = self._about(mean), other._about(mean)
        return type(self)(count, mean, *(p + q for p, q in zip(a, b, strict=True)))

    def _about(self, centre: Floats) -> tuple[Floats, Floats, Floats]:
        """`cross`, `third` and `fourth` about another point, using that Σ x about the mean is 0."""
        n, shift = float(self.count), centre - self.mean  # [S, d]
        first, second = np.triu_indices(len(shift))
        cross = self.cross + n * shift[first][:, :, None] * shift[second][:, None, :]
        along = self._applied(shift)  # [i, j, d]: Σ x_i x_jᵀ s_j
        length = (shift**2).sum(axis=1)  # ‖s‖²
        spread = self._traces()  # Σ ‖x_j‖²
        third = self.third - 2 * along - shift[:, None] * (spread + n * length)[None, :, None]
        # Σ (‖x_i‖² − 2 x_i·s_i + ‖s_i‖²)(‖x_j‖² − 2 x_j·s_j + ‖s_j‖²)
        mixed = np.einsum("ijd,id->ij", self.third, shift)  # Σ (x_i·s_i) ‖x_j‖²
        both = np.einsum("ijd,id->ij", along, shift)  # Σ (x_i·s_i)(x_j·s_j)
        outer = np.outer(length, spread)
        fourth = self.fourth - 2 * (mixed + mixed.T) + 4 * both + outer + outer.T
        return cross, third, fourth + n * np.outer(length, length)

    def _traces(self) -> Floats:
        """Σ ‖x_i‖² of every layer: `[S]`."""
        return np.asarray(
            [np.trace(self.cross[self._pair(i, i)]) for i in range(len(self.mean))], np.float64
        )

    def _applied(self, shift: Floats) -> Floats:
        """Σ x_i (x_j·s_j) for all pairs: `[S, S, d]`."""
        out = np.empty((len(shift), *shift.shape))
        for p, (i, j) in enumerate(zip(*np.triu_indices(len(shift)), strict=True)):
            out[i, j] = self.cross[p] @ shift[j]
            out[j, i] = self.cross[p].T @ shift[i]
        return out

    def _pair(self, i: int, j: int) -> int:
        """Index of the pair i ≤ j in `cross`."""
        return i * len(self.mean) - i * (i - 1) // 2 + j - i

    def arrays(self) -> dict[str, Array]:
        return {name: np.asarray(getattr(self, name)) for name in _NAMES}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        return cls(*(arrays[name] for name in _NAMES))


class StreamedCka(NamedTuple):
    """CKA of every pair of layers, each `[S, S]`, symmetric.

    `debiased` and `biased` CKA; the exact mean (`null_mean`) and standard deviation (`null_sd`) of
    the biased one over all orders of the tokens of one layer; `p` from a gamma distribution with
    that mean and variance, NaN for a layer with itself.
    """

    debiased: Floats
    biased: Floats
    null_mean: Floats
    null_sd: Floats
    p: Floats

    def frame(self, stride: int = 1) -> pd.DataFrame:
        """One row per ordered pair of layers, numbered 0, stride, 2·stride, …

        `p_bonferroni` is p times the number of different pairs, at most 1.
        """
        pairs = max(len(self.p) * (len(self.p) - 1) // 2, 1)
        values = {
            "cka": self.debiased,
            "cka_biased": self.biased,
            "null_mean": self.null_mean,
            "null_sd": self.null_sd,
            "p": self.p,
            "p_bonferroni": np.minimum(self.p * pairs, 1.0),
        }
        table = layer_pairs(values)
        return table.assign(layer_a=table["layer_a"] * stride, layer_b=table["layer_b"] * stride)


def streamed_cka(moments: CrossMoments) -> StreamedCka:
    """CKA between all layers from their moments; NaN below 4 tokens or for a constant layer.

    Debiased CKA as in `interp.measures.linear_cka`, here from merged sums. The mean of ‖Σ x y_πᵀ‖²
    over all permutations π is tr K tr L / (n − 1); its variance is that of Kazi-Aoual, Hitier,
    Sabatier & Lebreton, Computational Statistics & Data Analysis 20 (1995). A gamma distribution
    with both is the approximation of Gretton et al. (2008).
    """
    n, states = float(moments.count), len(moments.mean)
    first, second = np.triu_indices(states)
    cross = np.empty((states, states))
    cross[first, second] = cross[second, first] = (moments.cross**2).sum(axis=(1, 2))
    trace = moments._traces()
    if n < LEAST:
        nothing = np.full((states, states), np.nan)
        return StreamedCka(*[nothing] * 5)
    unbiased = hsic_1(n, cross, moments.fourth, trace[:, None], trace[None, :])
    mean = np.outer(trace, trace) / (n - 1)
    variance = _permutation_variance(n, trace, np.diag(cross), np.diag(moments.fourth))
    scale = np.sqrt(np.outer(np.diag(cross), np.diag(cross)))
    with np.errstate(invalid="ignore", divide="ignore"):
        gamma = scipy.stats.gamma.sf(cross, mean**2 / variance, scale=variance / mean)
        p = np.asarray(gamma, np.float64)
        np.fill_diagonal(p, np.nan)
        return StreamedCka(
            _normalised(unbiased), cross / scale, mean / scale, np.sqrt(variance) / scale, p
        )


def layer_pairs(values: dict[str, Floats]) -> pd.DataFrame:
    """Matrices `[a, b]` by column name as one row per pair: `layer_a`, `layer_b`, the columns."""
    first, second = (i.ravel() for i in np.indices(next(iter(values.values())).shape))
    columns = {name: np.asarray(value).ravel() for name, value in values.items()}
    return pd.DataFrame({"layer_a": first, "layer_b": second} | columns)


def _normalised(hsic: Floats) -> Floats:
    # The U-statistic of a layer with itself can be negative by chance: no root, no CKA.
    own = np.diag(hsic)
    root = np.sqrt(np.where(own > 0, own, np.nan))
    return np.asarray(hsic / np.outer(root, root), np.float64)


def _permutation_variance(n: float, trace: Floats, squares: Floats, fourth: Floats) -> Floats:
    """Variance of tr(K L_π) over all π, for centred K and L: `[S, S]`.

    `trace` = tr K, `squares` = tr K², `fourth` = Σ K_ii², each `[S]`.
    """
    # The formula divides by n − 3.
    if n < LEAST:
        raise BadInput(f"the permutation variance needs {LEAST} rows, got {n:.0f}")
    spread = (n - 1) * squares - trace**2
    peaks = n * (n + 1) * fourth - (n - 1) * (trace**2 + 2 * squares)
    one = 2 * np.outer(spread, spread) / ((n - 1) ** 2 * (n + 1) * (n - 2))
    two = np.outer(peaks, peaks) / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    # Rounding may leave a variance of zero slightly negative.
    return np.maximum(one + two, 0.0)
