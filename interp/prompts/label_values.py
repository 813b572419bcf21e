"""Values of labels: their kinds, and their places on the tokens of a prompt.

Knows nothing of text or tokenizers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from interp._arrays import Bools
from interp.errors import BadInput

Objects = npt.NDArray[np.object_]
_NUMBERS = str | bool | int | float | np.generic
_WRITTEN = Decimal | date | time | timedelta | UUID  # become numbers or text


def per_token(what: str, i: int, value: Any, special: Bools, *, fill: Any) -> Objects:
    """One value per token of prompt `i`: from a scalar, or from values for all or the ordinary."""
    cells = np.full(len(special), fill, dtype=object)
    value = value.tolist() if isinstance(value, Tensor | np.ndarray) else value
    if is_scalar(value):
        cells[:] = plain(what, i, value)
    else:
        values = [plain(what, i, v) for v in _listed(what, i, value)]
        ordinary = int((~special).sum())
        if len(values) not in (len(special), ordinary):
            without = f" (or {ordinary} without the special ones)" if special.any() else ""
            raise BadInput(
                f"{what}, prompt {i}: expected {len(special)} values, one per token{without}; "
                f"got {len(values)}"
            )
        cells[slice(None) if len(values) == len(special) else ~special] = values
    cells.flags.writeable = False
    return cells


def is_scalar(value: Any) -> bool:
    """True if a value can label a token."""
    return value is None or value is pd.NA or isinstance(value, _NUMBERS | _WRITTEN)


def _listed(what: str, i: int, value: Any) -> list[Any]:
    if isinstance(value, list | tuple | pd.Series):
        return list(value)
    raise BadInput(
        f"{what}, prompt {i}: {type(value).__name__} is no label; allowed: a string, number or "
        "bool, or a list of them"
    )


def plain(what: str, i: int, value: Any) -> Any:
    """A string, number or bool of Python with the exact value; every kind of missing becomes None.

    Dates, times and durations become ISO 8601 text; decimals whole numbers or floats where these
    are exactly as written, otherwise text.
    """
    if isinstance(value, np.datetime64 | np.timedelta64):
        value = pd.Timestamp(value) if isinstance(value, np.datetime64) else pd.Timedelta(value)
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    value = _written(value) if isinstance(value, _WRITTEN) else value
    if isinstance(value, str):
        return whole_text(f"{what}, prompt {i}", value)
    if not isinstance(value, bool | int | float):
        raise BadInput(
            f"{what}, prompt {i}: {type(value).__name__} is no label; allowed: string, number, "
            "bool, date or decimal"
        )
    return None if isinstance(value, float) and math.isnan(value) else value


def _written(value: Any) -> Any:
    """A date, duration or identifier as text, a decimal as the number it exactly is."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return pd.Timedelta(value).isoformat()
    if not isinstance(value, Decimal):
        return str(value)
    if not value.is_finite():
        return float(value)
    if value == value.to_integral_value():
        return int(value)
    number = float(value)
    return number if Decimal(repr(number)) == value else format(value.normalize(), "f")


def whole_text(what: str, text: str) -> str:
    """The text; raises `BadInput` if it holds half a character, which no file can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{what}: character {error.start} of {text[:40]!a} is half a "
            "character (a cut JSON escape); remove it or write it whole"
        ) from error
    return text


def scalars(name: str, values: Sequence[Any]) -> list[Any]:
    """Values of a label per prompt, none of them a list."""
    arrays = isinstance(values, Tensor | np.ndarray | pd.Series)
    rows = values.tolist() if arrays else list(values)  # type: ignore[attr-defined]
    for i, value in enumerate(rows):
        if not is_scalar(value):
            raise BadInput(
                f"labels {name!r}: prompt {i} has {type(value).__name__}; labels= takes one value "
                "per prompt, token_labels= one per token"
            )
    return rows


def refuse_mixed(what: str, arrays: Sequence[Objects]) -> None:
    """A label is text, numbers or truth values; a column of several cannot be saved or compared."""
    first: dict[str, int] = {}
    for i, cells in enumerate(arrays):
        for cell in cells:
            if cell is not None:
                number = isinstance(cell, int | float) and not isinstance(cell, bool)
                first.setdefault("number" if number else type(cell).__name__, i)
    if len(first) > 1:
        seen = ", ".join(f"{kind} in prompt {i}" for kind, i in first.items())
        raise BadInput(f"{what} mixes kinds of values: {seen}; make them all text")


def inexact(cells: Sequence[Any]) -> tuple[Any, str] | None:
    """A whole number that would lose digits in a column of these values, and why; None if none.

    >>> inexact([1, 2**70])
    (1180591620717411303424, 'needs more than 64 bits')
    """
    whole = {cell for cell in cells if type(cell) is int}
    if not whole:
        return None
    low, high = min(whole), max(whole)
    if low < -(1 << 63) or high >= 1 << (63 if low < 0 else 64):
        return max(whole, key=abs), "needs more than 64 bits"
    if any(isinstance(cell, float) for cell in cells):
        lost = next((cell for cell in whole if int(float(cell)) != cell), None)
        if lost is not None:
            return lost, "loses digits beside decimal numbers"
    return None


def refuse_inexact(what: str, arrays: Sequence[Objects]) -> None:
    """Raises for a whole number that would lose digits when the label becomes a column."""
    found = inexact([cell for cells in arrays for cell in cells])
    if found is not None:
        cell, why = found
        i = next(i for i, cells in enumerate(arrays) if any(cell == other for other in cells))
        raise BadInput(f"{what}, prompt {i}: {cell} {why}; make the values text, str(...)")


def as_column(cells: Sequence[Any]) -> pd.Series[Any]:
    """A label as a column; whole numbers stay whole where some tokens are unlabelled.

    Decimal numbers become float64, NaN where there is none, so that they can be calculated with.
    """
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds in ({float}, {int, float}):
        return pd.Series([np.nan if cell is None else cell for cell in cells], dtype=np.float64)
    column = pd.Series(cells, dtype=object)
    holes = any(cell is None for cell in cells)
    return column if holes and str not in kinds else column.infer_objects()


def tagged(cell: Any) -> str | None:
    """A label with its type, so that 1, True and "1" differ."""
    return None if cell is None else f"{type(cell).__name__}:{cell!r}"


def frozen(array: Any) -> Any:
    """The same array, protected against writing."""
    array.flags.writeable = False
    return array


def as_mapping(item: Any) -> Mapping[str, Any]:
    """The fields of a mapping, a dataclass, a named tuple or a plain object."""
    if isinstance(item, Mapping):
        return item
    if dataclasses.is_dataclass(item):
        return {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    names = getattr(item, "_fields", None) or getattr(item, "__slots__", None) or vars(item)
    return {name: getattr(item, name) for name in names}
