"""Maps from one space onto another, fitted on words that are known in both.

Pure functions on NumPy float64 `[words, dimensions]`; row i of both is the same word. A map is
evidence only when scored on held-out words (`interp.measures.retrieval`): with fewer words than
dimensions every map fits the words it was fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from interp._arrays import Floats
from interp.errors import BadInput, unknown
from interp.measures.matrices import matched, varying

Width = Literal["pca", "pad"]
WIDTHS = ("pca", "pad")


@dataclass(frozen=True, eq=False)
class SpaceMap:
    """x ↦ scale · (x − mean_a) · matrix, compared with (y − mean_b) · basis_b.

    Attributes:
        matrix: `[d_a, k]`; orthogonal in the space where it was fitted.
        scale: one factor for all directions.
        mean_a, mean_b: `[d_a]`, `[d_b]`; zero where no shift was asked for.
        basis_b: `[d_b, k]`: identity; the leading principal axes of b ("pca" and b is wider); or
            the identity with columns of zeros ("pad" and b is narrower).
        how: the treatment of different widths, in words.
    """

    matrix: Floats
    scale: float
    mean_a: Floats
    mean_b: Floats
    basis_b: Floats
    how: str

    def source(self, a: Any) -> Floats:
        """Images of rows of space a under the map: `[n, d_a] -> [n, k]`."""
        mapped: Floats = self.scale * ((np.asarray(a, np.float64) - self.mean_a) @ self.matrix)
        return mapped

    def target(self, b: Any) -> Floats:
        """Rows of space b, centred and in the map's basis: `[n, d_b] -> [n, k]`."""
        seen: Floats = (np.asarray(b, np.float64) - self.mean_b) @ self.basis_b
        return seen


def procrustes(
    a: Any, b: Any, *, scale: bool = False, shift: bool = True, width: Width = "pca"
) -> SpaceMap:
    """The rotation (with reflection) W that minimises ‖s (A − ā) W − (B − b̄)‖_F, WᵀW = I.

    A is `[n, d_a]`, B `[n, d_b]`. W = U Vᵀ of the singular value decomposition U S Vᵀ = AᵀB; with
    `scale`, s = tr S / ‖A‖²; with `shift`, both means are subtracted first. If d_a ≠ d_b, "pca"
    projects the wider space on its leading min(d_a, d_b) principal axes, fitted on these rows, and
    compares only those; "pad" fills the narrower space with zeros, so that the part of the wider
    space beyond its width counts as residual.
    Source: Schönemann, Psychometrika 31 (1966); Smith et al. 2017 for word vectors.

    Raises `BadInput` for unmatched, constant or non-finite rows, `UnknownName` for `width`.

    >>> turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> a = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> (procrustes(a, a @ turn).matrix.round(6) + 0.0).tolist()
    [[0.0, 1.0], [-1.0, 0.0]]
    """
    if width not in WIDTHS:
        raise unknown("way to match widths", width, WIDTHS)
    x, y = matched(a, b, least=2)
    mean_a, mean_b = _mean(x, "space a", shift), _mean(y, "space b", shift)
    x, y = x - mean_a, y - mean_b
    basis_a, basis_b, how = _bases(x, y, width)
    x, y = x @ basis_a, y @ basis_b
    u, s, vt = np.linalg.svd(x.T @ y)
    factor = float(s.sum() / (x**2).sum()) if scale else 1.0
    return SpaceMap(basis_a @ u @ vt, factor, mean_a, mean_b, basis_b, how)


def affine(a: Any, b: Any, *, ridge: float = 0.0, shift: bool = True) -> SpaceMap:
    """The linear map with shift that minimises ‖(A − ā) W − (B − b̄)‖² + λ ‖W‖².

    λ = `ridge` · ‖A − ā‖²_F / d_a, so that `ridge` means the same at any scale of A; 0 gives plain
    least squares, the one of smallest norm where there are fewer rows than dimensions.

    Raises `BadInput` for a negative ridge and for unmatched, constant or non-finite rows.

    >>> a = np.array([[0.0], [1.0], [2.0]])
    >>> affine(a, 3 * a + 5).source(np.array([[4.0]])).round(6).tolist()  # 3·4 + 5 minus mean 8
    [[9.0]]
    """
    if not ridge >= 0:
        raise BadInput(f"ridge is {ridge!r}; allowed is 0 or more, such as 0.01")
    x, y = matched(a, b, least=2)
    mean_a, mean_b = _mean(x, "space a", shift), _mean(y, "space b", shift)
    x, y = x - mean_a, y - mean_b
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    penalty = ridge * float((x**2).sum()) / x.shape[1]
    # The rule of NumPy's matrix_rank: the reciprocal of a singular value that is rounding would
    # dominate the map where there are fewer words than dimensions.
    kept = s > s.max() * max(x.shape) * np.finfo(np.float64).eps
    gain = np.divide(s, s**2 + penalty, out=np.zeros_like(s), where=kept)
    w = vt.T @ (gain[:, None] * (u.T @ y))
    return SpaceMap(w, 1.0, mean_a, mean_b, np.eye(y.shape[1]), "no change of width is needed")


def relative_residual(fitted: SpaceMap, a: Any, b: Any) -> float:
    """‖mapped A − B‖_F / ‖B‖_F, B about the mean of the fitted words; 0 is exact, 1 is useless.

    Over `a [n, d_a]`, `b [n, d_b]`, which should be held-out words.
    """
    target = fitted.target(b)
    size = float(np.linalg.norm(target))
    return float(np.linalg.norm(fitted.source(a) - target)) / size if size > 0 else float("nan")


def _mean(x: Floats, name: str, shift: bool) -> Floats:
    varying(x, name)
    return x.mean(axis=0) if shift else np.zeros(x.shape[1])


def _bases(x: Floats, y: Floats, width: Width) -> tuple[Floats, Floats, str]:
    """Factors `[d_a, k]`, `[d_b, k]` that bring both spaces to one width, and a description."""
    d_a, d_b = x.shape[1], y.shape[1]
    if d_a == d_b:
        return np.eye(d_a), np.eye(d_b), f"both are {d_a} wide"
    if width == "pad":
        wide = max(d_a, d_b)
        return np.eye(d_a, wide), np.eye(d_b, wide), f"{d_a} and {d_b} wide, zeros up to {wide}"
    k = min(d_a, d_b)
    how = f"{d_a} and {d_b} wide, cut to the {k} leading principal axes"
    return (_axes(x, k), np.eye(d_b), how) if d_a > d_b else (np.eye(d_a), _axes(y, k), how)


def _axes(x: Floats, k: int) -> Floats:
    """The `k` leading principal axes: orthonormal `[d, k]`."""
    # eigh sorts upwards.
    return np.linalg.eigh(x.T @ x)[1][:, ::-1][:, :k]
