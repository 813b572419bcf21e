"""Tables for a page: cells as text, the meaning and the undefined values of every column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from interp.render.tokens import show

ROWS = 8
TEXT = ("token", "top_token")


@dataclass(frozen=True)
class Column:
    name: str
    kind: str = ""  # "number" or "token": how its cells are set

    @property
    def number(self) -> bool:
        return self.kind == "number"


@dataclass(frozen=True)
class Table:
    """Cells as text, row by row."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def is_number(column: pd.Series[Any]) -> bool:
    """True for a column that can be averaged."""
    return bool(types.is_numeric_dtype(column) or types.is_bool_dtype(column))


def table_of(frame: pd.DataFrame, tokens: Sequence[str] = TEXT) -> Table:
    """A frame as text: four digits, visible tokens, – for undefined values."""
    columns = tuple(Column(str(c), _kind(frame[c], str(c) in tokens)) for c in frame)
    cells = [
        [_cell(v, token=column.kind == "token") for v in frame[name]]
        for name, column in zip(frame, columns, strict=True)
    ]
    return Table(columns, tuple(zip(*cells, strict=True)) if cells else ())


def _kind(column: pd.Series[Any], token: bool) -> str:
    if token:
        return "token"
    return "number" if is_number(column) and column.dtype != bool else ""


def _cell(value: Any, *, token: bool = False) -> str:
    if token:
        return show(value)
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}" if np.isfinite(value) else "–"
    if value is None or value is pd.NA:
        return "–"
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def range_of(column: pd.Series[Any]) -> dict[str, Any]:
    x = column.to_numpy(dtype=np.float64, na_value=np.nan)
    defined = x[np.isfinite(x)]
    undefined = f"{len(x) - len(defined):,} of {len(x):,}" if len(defined) < len(x) else "none"
    if not len(defined):
        return {"undefined": undefined}
    return {
        "mean": float(defined.mean()),
        "min": float(defined.min()),
        "max": float(defined.max()),
        "undefined": undefined,
    }


def flat(document: Any, prefix: str = "", skip: Sequence[str] = ()) -> list[tuple[str, str]]:
    """A nested document as pairs of path and text."""
    if isinstance(document, dict):
        return [
            pair
            for name, value in document.items()
            if name not in skip
            for pair in flat(value, f"{prefix} · {name}" if prefix else str(name), skip)
        ]
    if isinstance(document, list | tuple):
        text = ", ".join(_cell(v) for v in document)
        return [(prefix, text)] if text else []
    return [(prefix, _cell(document) if not isinstance(document, float) else f"{document:.3g}")]
