"""Drawings as text: the same numbers for a terminal, a screen reader or a log.

Needs no plotting library.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from interp.render.drawing import Drawing
from interp.render.text_map import word_map

MOST_LINES = 60


def text_of(drawing: Drawing) -> str:
    """The drawing as a title, a compact table or a map of words, and its caption."""
    unit = f" ({drawing.unit})" if drawing.unit else ""
    if drawing.empty:
        return "\n".join(part for part in (drawing.title, drawing.empty, drawing.said) if part)
    seen = word_map(drawing.table) if drawing.kind == "projection" else as_text(reading(drawing))
    parts = [f"{drawing.title}{unit}", seen, drawing.said]
    return "\n".join(part for part in parts if part)


def reading(drawing: Drawing) -> pd.DataFrame:
    """The numbers of a drawing as a small table to read."""
    if drawing.read is not None:
        return drawing.read
    if drawing.kind in ("lines", "two_panels") and not drawing.table.empty:
        return _lines(drawing)
    return drawing.table


def _lines(drawing: Drawing) -> pd.DataFrame:
    """Places down, lines across: means with their intervals, the control in parentheses."""
    table = drawing.table
    names = table["group"].where(table["group"] != "", table["value"])
    if len(table["value"].unique()) > 1 and table["group"].ne("").any():
        names = table["value"] + " · " + table["group"]
    numbers = table[["mean", "low", "high"]].to_numpy(dtype=np.float64)
    cells = [_mean(*row) for row in numbers.tolist()]
    if "control" in table:
        cells = [f"{c} ({_mean(x)})" for c, x in zip(cells, table["control"], strict=True)]
    wide = pd.DataFrame({"x": table["x"].astype(float), "name": names, "cell": cells})
    wide["x"] = wide["x"].fillna(-np.inf)  # a mean over all places comes first
    out = wide.pivot_table(index="x", columns="name", values="cell", aggfunc="first", sort=False)
    out = out.sort_index().fillna("–")
    named = drawing.options.get("ticks", {})  # the places of a series, and members without one
    out.index = pd.Index(
        ["any" if np.isneginf(i) else str(named.get(i, f"{i:g}")) for i in out.index]
    )
    return out.rename_axis(index=drawing.x.split(" (")[0] or "", columns="").reset_index()


def _mean(mean: float, low: float = np.nan, high: float = np.nan) -> str:
    if not np.isfinite(mean):
        return "–"
    return f"{mean:.4g}" + (f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) else "")


def as_text(table: pd.DataFrame) -> str:
    """A table in fixed columns, cut after `MOST_LINES` rows."""
    if table.empty:
        return "(nothing to show)"
    text = table.head(MOST_LINES).to_string(index=False)
    more = len(table) - MOST_LINES
    return text + (f"\n… {more} more rows" if more > 0 else "")
