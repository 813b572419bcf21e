"""Checks of the matrices to compare: float64 `[words, dimensions]`, finite, matched rows.

Knows arrays and nothing of words or models.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from interp._arrays import Floats
from interp.errors import BadInput


def matrix(x: Any, name: str, *, least: int = 1) -> Floats:
    """`x` as float64 `[n, d]`.

    Raises `BadInput` for another shape, fewer than `least` rows, or values that are not finite.
    """
    given = x.detach().cpu().double().numpy() if hasattr(x, "detach") else x
    try:
        rows: Floats = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} cannot be read as numbers: {error}") from error
    if rows.ndim != 2:
        raise BadInput(f"{name} has shape {rows.shape}; allowed is [rows, dimensions]")
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise BadInput(
            f"{name}: {len(bad)} of {len(rows)} rows hold NaN or infinity, the first is row "
            f"{bad[0]}; leave them out on both sides"
        )
    if len(rows) < least:
        raise BadInput(f"{name} has {len(rows)} rows; at least {least} are needed")
    return rows


def matched(x: Any, y: Any, *, least: int = 1) -> tuple[Floats, Floats]:
    """Two matrices with matched rows; `BadInput` if their numbers of rows differ."""
    a, b = matrix(x, "space a", least=least), matrix(y, "space b", least=least)
    if len(a) != len(b):
        raise BadInput(f"space a has {len(a)} rows and space b {len(b)}; row i must be one word")
    return a, b


def varying(x: Floats, name: str) -> Floats:
    """`x` minus its mean; `BadInput` if all rows are the same, which leaves nothing to compare."""
    centred: Floats = x - x.mean(axis=0)
    # Rounding of the mean alone leaves about 1e-16 of the size of the entries.
    if np.abs(centred).max(initial=0.0) <= 1e-13 * np.abs(x).max(initial=0.0):
        raise BadInput(f"{name} is constant: all {len(x)} rows are the same")
    return centred


def unit_rows(x: Floats) -> Floats:
    """Rows divided by their norm; a zero row stays zero and has cosine 0 with everything."""
    size = np.linalg.norm(x, axis=1, keepdims=True)
    unit: Floats = np.divide(x, size, out=np.zeros_like(x), where=size > 0)
    return unit
