"""The first difference of two states or two tables, in words.

Numbers are compared up to the order of their additions; everything else exactly, with NaN equal
to NaN. Knows leaves and tables, nothing of analyses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Array
from interp.contract.leaves import Leaf, State

RTOL = 1e-4
"""Values are computed in float32 from batches of different shapes, whose matrix products are
blocked differently: their last two or three of seven digits may differ."""
ATOL = 1e-5
"""The same, relative to the largest value of the array (or to 1), for values near zero."""


def state_difference(a: State, b: State, *, rtol: float = RTOL) -> str | None:
    """The first difference of two states, in words; None if they are the same."""
    if a.keys() != b.keys():
        odd = min(a.keys() ^ b.keys())
        return f"state of layer {odd[1]} is there in one case and not in the other"
    for key in sorted(a):
        seen = leaves_difference(a[key], b[key], rtol=rtol)
        if seen:
            return seen if key[1] < 0 else f"layer {key[1]}, {seen}"
    return None


def leaves_difference(
    a: Mapping[str, Leaf], b: Mapping[str, Leaf], *, rtol: float = RTOL
) -> str | None:
    """The first difference of two sets of leaves, in words."""
    if a.keys() != b.keys():
        return f"leaf {min(a.keys() ^ b.keys())!r} is there in one case and not in the other"
    for name in a:
        seen = leaf_difference(a[name], b[name], rtol=rtol)
        if seen:
            return f"leaf {name!r}: {seen}"
    return None


def leaf_difference(a: Leaf, b: Leaf, *, rtol: float = RTOL) -> str | None:
    """The first difference of two leaves, in words."""
    if type(a) is not type(b):
        return f"{type(a).__name__} in one case, {type(b).__name__} in the other"
    left, right = a.arrays(), b.arrays()
    if left.keys() != right.keys():
        return f"array {min(left.keys() ^ right.keys())!r} is there in one case only"
    for name in left:
        seen = array_difference(np.asarray(left[name]), np.asarray(right[name]), rtol=rtol)
        if seen:
            return f"{name} {seen}"
    return None


def array_difference(a: Array, b: Array, *, rtol: float = RTOL) -> str | None:
    """The first difference of two arrays, in words."""
    if a.shape != b.shape:
        return f"has shape {a.shape} in one case, {b.shape} in the other"
    numeric = a.dtype.kind == "f" and b.dtype.kind in "fiub"
    same = _close(a, b, rtol) if numeric else np.asarray(a == b)
    if same.all():
        return None
    where = tuple(int(i) for i in np.argwhere(~same)[0])
    place = f" at {list(where)}" if where else ""
    return f"is {_text(a[where])} in one case, {_text(b[where])} in the other{place}"


def _close(a: Array, b: Array, rtol: float) -> Array:
    if rtol == 0:
        return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))
    # Near zero a relative tolerance is too strict: a sum of large terms that cancel is exact only
    # relative to these terms.
    finite = np.abs(a[np.isfinite(a)])
    scale = max(1.0, float(finite.max(initial=0.0)))
    return np.asarray(np.isclose(a, b, rtol=rtol, atol=ATOL * scale, equal_nan=True))


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else repr(value)


def frame_difference(a: pd.DataFrame, b: pd.DataFrame, *, rtol: float = RTOL) -> str | None:
    """The first difference of two tables, in words; the order of rows and columns counts."""
    if list(a.columns) != list(b.columns):
        return f"table has columns {list(a.columns)} in one case, {list(b.columns)} in the other"
    if len(a) != len(b):
        return f"table has {len(a)} rows in one case, {len(b)} in the other"
    for i, column in enumerate(a.columns):
        seen = array_difference(_plain(a.iloc[:, i]), _plain(b.iloc[:, i]), rtol=rtol)
        if seen:
            return f"table column {column!r} {seen}"
    return None


def _plain(column: pd.Series[Any]) -> Array:
    """Numbers as they are, missing ones as NaN; anything else as its repr."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        whole = pd.api.types.is_integer_dtype(column) and not column.isna().any()
        return column.to_numpy(dtype=np.int64 if whole else np.float64, na_value=np.nan)
    return np.asarray([repr(None if _missing(v) else v) for v in column], dtype=str)


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value))
