"""Kind "heat": cells of one colour scale, in one panel or several.

Columns: `panel`, `row`, `column`, `value`; optionally `text`, written in the cell (HTML), and
`hover`, shown under the pointer (HTML). Options:

- `rows`, `columns`: names of the rows and columns in their order (plain text); numbers otherwise;
- `letters`: most letters of the name of a row;
- `y`: title of the vertical axis; `down`: the first row is at the top;
- `tokens`: the columns are tokens, set in a fixed width;
- `low`, `high`: ends of the scale, which else follow the values; `signed`: the scale is symmetric
  about zero (as it always is where values have both signs), from −`high` to `high` at least;
- `across`: panels in a row; `cell`: width and height of a cell in pixels;
- `digits`: digits of the number in a cell, if there are few cells and no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Floats
from interp.render import style
from interp.render.drawing import Drawing
from interp.render.tokens import escape, label, show

MOST_TEXTS = 260  # cells of a panel that still carry their number
CELL = (46, 24)  # pixels
NARROWEST = 30  # pixels of a cell that holds a number
LETTERS = 14  # of a name along an axis, unless its option says more
LETTER = 8  # pixels of a letter of it
TALLEST = 700  # pixels of the cells of a panel


def heat_figure(drawing: Drawing) -> Any:
    """One heat map per panel."""
    panels = {str(name): rows for name, rows in drawing.table.groupby("panel", sort=False)}
    values = drawing.table["value"].to_numpy(np.float64)
    if not np.isfinite(values).any():
        return style.empty(drawing.title, "There is no defined value to draw.", drawing.said)
    options = drawing.options
    across = min(len(panels), int(options.get("across", len(panels))))
    figure = _canvas(list(panels), across)
    names = {side: _names(drawing, side) for side in ("rows", "columns")}
    for i, rows in enumerate(panels.values()):
        _panel(figure, rows, options, names, i // across + 1, i % across + 1)
    _axes(figure, drawing, names)
    width, height = options.get("cell", CELL)
    deep = -(-len(panels) // across)
    wide = max(240 if len(panels) > 1 else 0, width * len(names["columns"])) * across
    # Long names of rows take no width from the cells.
    wide += 150 + max(0, (figure.layout.margin.l or 0) - 30 - LETTER * LETTERS)
    figure.update_layout(
        coloraxis=_scale(values, options) | {"colorbar": style.bar(drawing.unit)},
        meta={"panels": len(panels) if len(panels) > 1 else 0, "width": wide},
    )
    tall = max(110, min(TALLEST, height * len(names["rows"])))
    return style.dressed(
        figure, drawing.title, drawing.said, height=130 + deep * tall + 60 * (deep - 1)
    )


def _names(drawing: Drawing, side: str) -> list[Any]:
    """The rows or columns in their order."""
    given = drawing.options.get(side)
    if given is not None:
        return list(range(len(given)))
    return sorted(drawing.table["row" if side == "rows" else "column"].unique().tolist())


def _canvas(names: Sequence[str], across: int) -> Any:
    from plotly.subplots import make_subplots

    several = len(names) > 1
    deep = -(-len(names) // across)
    figure = make_subplots(
        rows=deep,
        cols=across,
        shared_yaxes="all" if several else False,
        shared_xaxes="all" if deep > 1 else False,
        horizontal_spacing=0.05,
        vertical_spacing=0.1 if deep > 1 else None,
        subplot_titles=[escape(n) for n in names] if several else None,
    )
    figure.update_annotations(font={"size": 13})
    return figure


def _panel(
    figure: Any,
    rows: pd.DataFrame,
    options: Mapping[str, Any],
    names: Mapping[str, list[Any]],
    row: int,
    col: int,
) -> None:
    import plotly.graph_objects as go

    places = pd.MultiIndex.from_product([names["rows"], names["columns"]])
    cells = rows.set_index(["row", "column"]).reindex(places)
    shape = len(names["rows"]), len(names["columns"])
    z: Floats = cells["value"].to_numpy(dtype=np.float64, na_value=np.nan).reshape(shape)
    wide = options.get("cell", CELL)[0]
    few = z.size <= MOST_TEXTS and wide >= NARROWEST
    written: dict[str, Any] = {}
    if "text" in rows:
        font = {"family": style.MONO, "size": 11.5}
        written = {"text": cells["text"].fillna("").to_numpy().reshape(shape).tolist()}
        written |= {"texttemplate": "%{text}", "textfont": font}
    elif few:
        written = {"texttemplate": f"%{{z:.{options.get('digits', 2)}f}}", "textfont": {"size": 11}}
    said: dict[str, Any] = {"hovertemplate": "%{y}, %{x}: %{z:.4g}<extra></extra>"}
    if "hover" in rows:
        said = {"customdata": cells["hover"].fillna("").to_numpy().reshape(shape).tolist()}
        said |= {"hovertemplate": "%{customdata}<extra></extra>"}
    # With many small cells, gaps would take most of the picture.
    gap = 1 if z.size <= 10 * MOST_TEXTS else 0
    figure.add_trace(
        go.Heatmap(
            z=[style.rounded(line, 4) for line in z],
            x=names["columns"],
            y=names["rows"],
            coloraxis="coloraxis",
            xgap=gap,
            ygap=gap,
            **written,
            **said,
        ),
        row=row,
        col=col,
    )


def _scale(values: Floats, options: Mapping[str, Any]) -> dict[str, Any]:
    """One colour scale; around zero where values have both signs."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    if options.get("signed") or (low < 0 < high and "low" not in options):
        # The same ends for a model and its untrained copy, or noise would look as strong as signal.
        top = max(-low, high, float(options.get("high", 1e-12)))
        return {"colorscale": style.DIVERGING, "cmin": -top, "cmax": top}
    low, high = min(0.0, low), max(high, low + 1e-12)
    ends = {"cmin": options.get("low", low), "cmax": max(high, options.get("high", high))}
    return {"colorscale": style.SEQUENTIAL} | ends


def _axes(figure: Any, drawing: Drawing, names: Mapping[str, list[Any]]) -> None:
    options = drawing.options
    figure.update_xaxes(showline=False, **_ticks(options.get("columns"), names["columns"]))
    letters = options.get("letters", LETTERS)
    figure.update_yaxes(showgrid=False, **_ticks(options.get("rows"), names["rows"], letters))
    figure.update_xaxes(title_text=escape(drawing.x))
    figure.update_layout(yaxis_title_text=escape(options.get("y", "")))
    if options.get("down"):
        figure.update_yaxes(autorange="reversed")
    if options.get("rows") is not None:
        longest = _longest(options["rows"], letters)
        figure.update_layout(margin={"l": 30 + LETTER * longest})
    given = options.get("columns")
    if given is not None:
        longest = _longest(given, LETTERS)
        turned = longest > 6 and options.get("tokens")  # long names side by side would overlap
        figure.update_layout(margin={"b": 46 + (5 * longest if turned else 10)})
        figure.update_xaxes(tickangle=-40 if turned else None, ticklen=2)


def _longest(names: Sequence[str], letters: int) -> int:
    """Letters of the longest name as it is written."""
    return max((len(show(name)[:letters]) for name in names), default=0)


def _ticks(
    given: Sequence[str] | None, places: Sequence[Any], letters: int = LETTERS
) -> dict[str, Any]:
    """Names at their places, or numbers in whole steps."""
    if given is None:
        if places and isinstance(places[0], int | float):
            return {"dtick": max(1, round(len(places) / 16)), "tick0": 0}
        return {"type": "category"}
    return {
        "tickvals": list(places),
        "ticktext": [label(n, letters) for n in given],
        "tickfont": {"family": style.MONO, "size": 11.5, "color": style.INK},
    }
