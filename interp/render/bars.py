"""Kind "bars": a point per row with its interval, and its control as a grey mark.

Columns: `name`, `value`; optionally `low`, `high`, the interval; `control`, and `control_low`,
`control_high`, its spread; `group`, which gives the colour; `hover`, the text of a point. Options:
`control_name`, `value_name`: names in the legend; `from_zero`: the axis begins at zero; `log`: it
is logarithmic; `ticks`: names by place along it; `up`: the first row is at the bottom, as block 0
is in every other figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from interp.render import style
from interp.render.drawing import Drawing
from interp.render.tokens import escape, label

MOST_BARS = 60
MOST_LETTERS = 34


def bars_figure(drawing: Drawing) -> Any:
    """A point per row, in the order of the table."""
    import plotly.graph_objects as go

    frame, options = drawing.table, drawing.options
    shown = frame.head(MOST_BARS).reset_index(drop=True)
    if shown.empty or shown["value"].isna().all():
        return style.empty(drawing.title, "There is no defined value to draw.", drawing.said)
    figure = go.Figure()
    if "control" in shown:
        figure.add_trace(_marks(shown, str(options.get("control_name", "control"))))
    one = str(options.get("value_name", "value"))
    groups = [(one, shown)] if "group" not in shown else list(shown.groupby("group", sort=False))
    palette = style.colours([str(key) for key, _ in groups])
    for key, rows in groups:
        figure.add_trace(_points(rows, str(key), palette[str(key)]))
    figure.update_yaxes(
        tickvals=list(range(len(shown))),
        ticktext=[label(str(t), MOST_LETTERS) for t in shown["name"]],
        # The first row on top, with air above it: plotly's own range cuts its mark in half.
        range=[len(shown) - 0.4, -0.6][:: -1 if options.get("up") else 1],
    )
    figure.update_xaxes(title_text=escape(drawing.unit), showgrid=True)
    if options.get("log"):
        figure.update_xaxes(type="log")
    if ticks := options.get("ticks"):
        figure.update_xaxes(tickvals=list(ticks), ticktext=[label(t, 20) for t in ticks.values()])
    if options.get("from_zero"):
        figure.update_xaxes(rangemode="tozero")
    _lay_out(figure, shown)
    more = len(frame) - len(shown)
    cut = f" The first {MOST_BARS} of {len(frame)} rows." if more else ""
    caption = f"{drawing.said}{cut}".strip()
    return style.dressed(figure, drawing.title, caption, height=176 + 22 * len(shown))


def _lay_out(figure: Any, shown: pd.DataFrame) -> None:
    """Room for the names, and the legend below the axis, where the caption does not reach."""
    letters = min(MOST_LETTERS, int(shown["name"].astype(str).str.len().max()))
    figure.update_layout(
        showlegend="control" in shown or "group" in shown,
        legend={"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0},
        margin={"l": 60 + 7 * letters, "b": 92},
    )


def _marks(rows: pd.DataFrame, name: str) -> Any:
    import plotly.graph_objects as go

    spread = {"low": "control_low", "high": "control_high"}
    return go.Scatter(
        x=style.rounded(rows["control"]),
        y=rows.index.tolist(),
        mode="markers",
        name=escape(name),
        marker={"symbol": "line-ns-open", "size": 12, "color": style.CONTROL},
        error_x=_interval(rows, "control", spread, style.CONTROL),
        hovertemplate=f"{escape(name)}: %{{x:.4g}}<extra></extra>",
    )


def _points(rows: pd.DataFrame, name: str, colour: str) -> Any:
    import plotly.graph_objects as go

    said = rows["hover"].map(escape) if "hover" in rows else pd.Series("", rows.index)
    return go.Scatter(
        x=style.rounded(rows["value"]),
        y=rows.index.tolist(),
        mode="markers",
        name=label(name, 40),
        marker={"size": 9, "color": colour},
        error_x=_interval(rows, "value", {"low": "low", "high": "high"}, colour),
        customdata=said.tolist(),
        hovertemplate="%{x:.4g}  %{customdata}<extra></extra>",
    )


def _interval(
    rows: pd.DataFrame, middle: str, ends: dict[str, str], colour: str
) -> dict[str, Any] | None:
    """The bar from one end to the other around each point."""
    if not set(ends.values()) <= set(rows):
        return None
    x, low, high = (rows[c].to_numpy(np.float64) for c in (middle, ends["low"], ends["high"]))
    bar = {"type": "data", "symmetric": False, "color": style.alpha(colour, 0.5), "width": 0}
    bar |= {"array": style.rounded(high - x), "arrayminus": style.rounded(x - low)}
    return bar | {"thickness": 5 if middle == "control" else 4}
