"""Distances between two sets of matched vectors that are metrics: the shape metrics.

Pure functions on NumPy float64 `[n, d]`; row i of both is the same word. Unlike a residual, each
distance is symmetric and keeps the triangle inequality, so that many spaces can be clustered or
embedded by it. Source: Williams et al. 2021 (2110.14739).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from interp._arrays import Floats, Ints
from interp.errors import BadInput, unknown
from interp.measures.matrices import matched, matrix, varying
from interp.measures.similarity import LEAST, Measure

SHAPES = ("angular_shape", "angular_cca", "size_and_shape")
"""Names of the shape metrics; of all a smaller distance means more alike."""
_ROUNDING = 1e-10  # of the largest singular value; directions below are rounding


def angular_shape(a: Any, b: Any, *, alpha: float = 1.0) -> float:
    """Angle between two spaces after the best rotation, in radians: 0 to π/2.

    θ = arccos(‖AᵀB‖_* / (‖A‖_F ‖B‖_F)) of centred A `[n, d_a]` and B `[n, d_b]`, ‖·‖_* being the
    sum of the singular values: the geodesic distance between shapes. It does not see rotation,
    reflection, shift or scale, and spaces of different widths compare as if the narrower one had
    zeros. `alpha` whitens both first: x ↦ x (α I + (1 − α) Σ^(−1/2)), with Σ = AᵀA; 1 leaves them
    as they are, 0 makes the distance blind to every invertible linear map (`angular_cca`). Between
    both it depends on the scale of a space, which is taken as ‖A‖_F = 1.

    With fewer rows than dimensions any two whitened spaces coincide, and unrelated ones come close
    without it: compare with the distance of permuted rows.

    Raises `BadInput` below 4 rows, for unmatched, constant or non-finite rows, and for `alpha`
    outside [0, 1].

    >>> x = np.arange(12.0).reshape(6, 2) ** 2
    >>> round(angular_shape(x, 3 * x[:, ::-1] + 1), 6)
    0.0
    """
    x, y = matched(a, b, least=LEAST)
    return _angle(_unit_shape(x, alpha=alpha), _unit_shape(y, alpha=alpha), np.arange(len(x)))


def size_and_shape(a: Any, b: Any) -> float:
    """Root mean square distance of two spaces after the best rotation: min ‖A Q − B‖_F / √n.

    Of centred A and B, in activation units, without change of scale: the Procrustes distance. Also
    √(‖A‖² + ‖B‖² − 2‖AᵀB‖_*) / √n, which takes spaces of different widths. Division by √n keeps it
    a metric, and comparable between numbers of rows.
    """
    x, y = matched(a, b, least=LEAST)
    return _distance(_centred(x), _centred(y), np.arange(len(x)))


def shape(name: str) -> Measure:
    """A shape metric by its name, as a `Measure` that scores a space under any order of rows.

    Raises `UnknownName`, with the nearest name, for one that does not exist.
    """
    known = {
        "angular_shape": Measure("angular_shape", partial(_unit_shape, alpha=1.0), _angle),
        "angular_cca": Measure("angular_cca", partial(_unit_shape, alpha=0.0), _angle),
        "size_and_shape": Measure("size_and_shape", _centred, _distance),
    }
    if name not in known:
        raise unknown("shape metric", name, known)
    return known[name]


def _centred(x: Floats) -> Floats:
    return varying(matrix(x, "a space", least=LEAST), "a space")


def _unit_shape(x: Floats, *, alpha: float) -> Floats:
    """The space centred, whitened by the share 1 − `alpha`, and scaled to ‖A‖_F = 1."""
    if not 0 <= alpha <= 1:
        raise BadInput(f"alpha is {alpha!r}; allowed is 0 (whitened) to 1 (as it is)")
    centred: Floats = _centred(x)
    # The largest entry first: squares of huge states would overflow.
    centred = centred / np.abs(centred).max()
    centred = np.asarray(centred / np.linalg.norm(centred), np.float64)
    if alpha == 1:
        return centred
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    # Directions that are rounding would weigh as much as all others once they are whitened.
    kept = s > _ROUNDING * s[0]
    part: Floats = (u[:, kept] * (alpha * s[kept] + (1 - alpha))) @ vt[kept]
    return np.asarray(part / np.linalg.norm(part), np.float64)


def _angle(a: Floats, b: Floats, order: Ints) -> float:
    """2·atan2(‖AQ − B‖, ‖AQ + B‖) at the best Q, exact where an arccos near 1 is rounding."""
    apart, together = _after_rotation(a, b[order])
    return float(2 * np.arctan2(apart, together))


def _distance(a: Floats, b: Floats, order: Ints) -> float:
    return _after_rotation(a, b[order])[0] / float(np.sqrt(len(a)))


def _after_rotation(a: Floats, b: Floats) -> tuple[float, float]:
    """‖AQ − B‖_F and ‖AQ + B‖_F at the rotation Q that makes the first smallest."""
    if a.shape[1] < b.shape[1]:  # from the wider space, which has the narrower one's directions
        a, b = b, a
    u, _, vt = np.linalg.svd(a.T @ b, full_matrices=False)
    inside = a @ u
    # What of the wider space lies outside u is at right angles to b, whatever the rotation.
    outside = float(((a - inside @ u.T) ** 2).sum()) if a.shape[1] > b.shape[1] else 0.0
    turned = inside @ vt
    apart, together = (float(((turned + sign * b) ** 2).sum()) + outside for sign in (-1, 1))
    return float(np.sqrt(apart)), float(np.sqrt(together))
