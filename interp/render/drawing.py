"""A drawing: what a figure shows, computed once by whoever owns the numbers.

Knows a table, its title and its sentences; nothing of results, models or plotly. `interp.render`
turns a drawing into a figure (`draw.figure`), into text (`text.as_text`) and into a block of a
page (`page.block`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

Kind = Literal["lines", "two_panels", "bars", "heat", "points", "paths", "projection", "graph"]
LINE_COLUMNS = ("value", "group", "x", "mean", "low", "high", "n")
CONTROL_NOTE = "Dotted: the same on an untrained copy of the model."


@dataclass(frozen=True, eq=False)
class Drawing:
    """One figure in every medium: its numbers and what to say of them.

    Attributes:
        kind: how it is drawn; each kind is one file of `interp.render`, which names the columns
            and options that it reads.
        title: what is shown, and on which model; plain text, escaped where it is drawn.
        table: the numbers, in the columns of the kind.
        unit: unit of the values.
        x: what the horizontal axis counts.
        caption: how the numbers came about.
        control: what the control in the figure is.
        if_null: what the figure would show if there were no effect.
        empty: why there is nothing to draw; takes the place of the figure.
        read: a small table to read in place of the figure; else made from `table`.
        options: what this kind alone reads.
    """

    kind: Kind
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
        """What one place along the horizontal axis is called: a block, a state."""
        return self.x.split(" (")[0] or "place"

    def titled(self, title: str) -> Self:
        """The same drawing under another title."""
        return replace(self, title=title)


def nothing(title: str, why: str, caption: str = "", kind: Kind = "lines") -> Drawing:
    """A drawing without numbers, which says why."""
    return Drawing(kind, title, pd.DataFrame(), caption=caption, empty=why)


def line_rows(lines: Mapping[str, pd.DataFrame], value: str = "") -> pd.DataFrame:
    """Named lines as one table of the kind "lines": columns as in `LINE_COLUMNS`.

    Each line has `x` and `mean`, and where known `low`, `high`, `n` and `control`.
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
