"""Kind "two_panels": lines over layers, and below them a tested quantity, on the same axis.

Columns as of the kind "lines", and `panel`: 0 for the upper, 1 for the lower one. Rows of the lower
panel may carry `mark` (true if a test finds a difference) and `mark_text`, the hover of the mark.
Options: `panels`, their two titles; `units`, of their axes; `greys`, the lines that are controls.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

from interp.render import style
from interp.render.drawing import Drawing
from interp.render.lines import draw_lines, ends, name_lines, palette_of, y_limits
from interp.render.tokens import escape

UPPER, LOWER = 300, 190
GAP = 54
TOTAL = UPPER + LOWER + GAP


def panels_figure(drawing: Drawing) -> Any:
    """The upper and the lower panel, the marks above the lower one's lines."""
    from plotly.subplots import make_subplots

    options = drawing.options
    figure = make_subplots(
        rows=2,
        shared_xaxes=True,
        row_heights=[UPPER, LOWER],
        vertical_spacing=GAP / TOTAL,
        subplot_titles=[escape(t) for t in options["panels"]],
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    greys = options.get("greys", ())
    for number, (_, rows) in enumerate(drawing.table.groupby("panel", sort=True)):
        _panel(figure, rows, greys, number + 1, (UPPER, LOWER)[number])
    x = drawing.table["x"].dropna()
    low, high = float(x.min()), float(x.max())
    air = max(0.03 * (high - low), 0.25)
    step = max(1, round((high - low) / 12))
    figure.update_xaxes(range=[low - air, high + air], dtick=step, tick0=0)
    figure.update_xaxes(title_text=escape(drawing.x), row=2, col=1)
    for row, unit in enumerate(options.get("units", (drawing.unit, drawing.unit)), start=1):
        figure.update_yaxes(title_text=escape(unit), row=row, col=1)
    figure.update_layout(hovermode="x unified", meta={"panels": 2, "width": 560})
    return style.dressed(figure, drawing.title, drawing.said, height=TOTAL + 56)


def _panel(figure: Any, table: pd.DataFrame, greys: Collection[str], row: int, height: int) -> None:
    where = {"row": row, "col": 1}
    groups = style.in_order(table["group"].unique())
    groups = sorted(groups, key=lambda name: name not in greys)
    lines = {name: table[table["group"] == name] for name in groups}
    palette = palette_of(lines, greys)
    # A single difference is of no group, so it gets no group's colour.
    if row == 2 and len(lines) - len(set(greys) & set(lines)) == 1:
        palette |= {name: style.INK for name in lines if name not in greys}
    draw_lines(figure, lines, palette, **where)
    low, high = y_limits(table)
    marked = "mark" in table and table["mark"].fillna(False).astype(bool).any()
    if marked:
        high += 0.16 * (high - low)  # room for the marks
        _mark(figure, table[table["mark"].fillna(False).astype(bool)], high - 0.06 * (high - low))
    name_lines(figure, ends(lines), palette, (low, high), axis=row, height=height)
    figure.update_yaxes(range=[low, high], **where)


def _mark(figure: Any, rows: pd.DataFrame, height: float) -> None:
    """A star above every place that differs."""
    import plotly.graph_objects as go

    figure.add_trace(
        go.Scatter(
            x=rows["x"].astype(int).tolist(),
            y=[height] * len(rows),
            mode="markers",
            marker={"symbol": "star", "size": 8, "color": style.INK},
            customdata=[escape(t) for t in rows["mark_text"]],
            hovertemplate="%{customdata}",
            name="differs",
            showlegend=False,
        ),
        row=2,
        col=1,
    )
