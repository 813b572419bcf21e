"""Drawings: the content of a figure, computed once by the owner of the numbers.

Knows a table, its title and its sentences; nothing of results, models or plotly. `interp.render`
turns a drawing into a figure (`draw.figure`), into text (`text.text_of`) and into a block of a page
(`page.block`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

LINE_COLUMNS = ("value", "group", "x", "mean", "low", "high", "n")
CONTROL_NOTE = "Dotted: the same on an untrained copy of the model."


@dataclass(frozen=True, eq=False)
class Drawing:
    """One figure for every medium: its numbers and its sentences.

    Attributes:
        kind: a name in `draw.KINDS`; the file of the kind documents its columns and options.
        title: the quantity and the model; plain text, escaped when it is drawn.
        table: the numbers, in the columns of the kind.
        unit: unit of the values.
        x: title of the horizontal axis.
        caption: origin of the numbers and meaning of the bands.
        control: a sentence on the control in the figure.
        if_null: the look of the figure if there is no effect.
        empty: the reason that there is nothing to draw; it takes the place of the figure.
        read: a small table to read in place of the figure; by default made from `table`.
        options: settings that only this kind reads.
    """

    kind: str
    title: str
    table: pd.DataFrame
    unit: str = ""
    x: str = ""
    caption: str = ""
    control: str = ""
    if_null: str = ""
    empty: str = ""
    read: pd.DataFrame | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """The caption with the sentence on the control."""
        return " ".join(part for part in (self.caption, self.control) if part)

    @property
    def place(self) -> str:
        """Noun for one place along the horizontal axis: a block, a state."""
        return self.x.split(" (")[0] or "place"


def nothing(title: str, why: str, caption: str = "", kind: str = "lines") -> Drawing:
    """A drawing without numbers, with the reason."""
    return Drawing(kind, title, pd.DataFrame(), caption=caption, empty=why)


def line_rows(lines: Mapping[str, pd.DataFrame], value: str = "") -> pd.DataFrame:
    """Named lines as one table of the kind "lines": columns as in `LINE_COLUMNS`.

    Each line has `x` and `mean`, and optionally `low`, `high`, `n` and `control`.
    """
    blank: dict[str, Any] = {"low": float("nan"), "high": float("nan"), "n": 0}
    parts = [
        rows.assign(**{c: v for c, v in blank.items() if c not in rows}, value=value, group=name)
        for name, rows in lines.items()
    ]
    if not parts:
        return pd.DataFrame(columns=list(LINE_COLUMNS))
    kept = [*LINE_COLUMNS, *(["control"] if any("control" in p for p in parts) else [])]
    return pd.concat(parts, ignore_index=True).reindex(columns=kept)


def cell_rows(matrix: pd.DataFrame, panel: str = "") -> pd.DataFrame:
    """A matrix as rows of the kind "heat", row by row: `panel`, `row`, `column`, `value`."""
    rows, columns = matrix.shape
    return pd.DataFrame(
        {
            "panel": panel,
            "row": np.repeat(matrix.index.to_numpy(), columns),
            "column": np.tile(matrix.columns.to_numpy(), rows),
            "value": matrix.to_numpy(dtype=np.float64, na_value=np.nan).ravel(),
        }
    )
