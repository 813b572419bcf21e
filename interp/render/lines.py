"""Kind "lines": means with their bands, named where they end; panels side by side.

Columns: `value`, `group`, `x` (missing for a mean that belongs to no place), `mean`, `low`, `high`,
`n`, and `control`, the same on an untrained copy. Several values of several groups get a panel per
value. Options: `greys`, the groups that are controls and drawn in grey; `log`, a logarithmic axis;
`ticks`, names by place along the axis, in place of numbers; `whole`, no cut of the vertical axis.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import cycle, groupby
from typing import Any

import numpy as np
import pandas as pd

from interp.render import style
from interp.render.cut import number, value_range, window, with_air
from interp.render.drawing import Drawing
from interp.render.tokens import escape, label, show

HEIGHT = 340
LABEL_GAP = 16  # pixels between two names at the right edge
NAME = 26  # letters of such a name
CONTROL_DASHES = ("solid", "dash", "longdashdot", "longdash")
DASHES_IN_WORDS = ("solid", "dashed", "dashes and dots", "long dashes")
FEW = 16  # points that still carry a mark each


def line_figure(drawing: Drawing) -> Any:
    """A line for every value, or a panel for every value if there are groups."""
    # A group without any mean would still take a colour and a name at the edge.
    table = drawing.table[
        drawing.table["mean"].notna().groupby(drawing.table["group"]).transform("any")
    ]
    if table.empty:
        return style.empty(drawing.title, "Every value is undefined.", drawing.said)
    greys, log = drawing.options.get("greys", ()), bool(drawing.options.get("log"))
    panels = _panels(table, greys)
    figure = _canvas([name for name, _ in panels])
    whole = bool(drawing.options.get("whole"))
    shown = window(table)
    limits = y_limits(table) if whole else shown.limits
    for i, (_, lines) in enumerate(panels):
        _draw_panel(figure, lines, i, limits, greys, last=i == len(panels) - 1, log=log)
    style_axes(figure, table, drawing.x, drawing.unit, limits, drawing.options)
    cut = "" if whole else shown.said(drawing.place, drawing.unit)
    caption = " ".join(filter(None, (drawing.said, cut)))
    return style.dressed(figure, drawing.title, caption, height=HEIGHT)


# ---- panels ----------------------------------------------------------------------------------


def _panels(
    table: pd.DataFrame, greys: Collection[str]
) -> list[tuple[str, dict[str, pd.DataFrame]]]:
    """One panel of named lines; several values of several groups get a panel per value."""
    values, groups = table["value"].unique(), style.in_order(table["group"].unique())
    # Controls first, so that they lie below what they are the control of.
    groups = sorted(groups, key=lambda name: name not in greys)
    if len(groups) == 1 or len(values) == 1:
        one = {
            (g if len(groups) > 1 else v or g): table[(table["value"] == v) & (table["group"] == g)]
            for v in values
            for g in groups
        }
        return [("", one)]
    return [
        (v, {g: table[(table["value"] == v) & (table["group"] == g)] for g in groups})
        for v in values
    ]


def _canvas(names: Sequence[str]) -> Any:
    from plotly.subplots import make_subplots

    several = len(names) > 1
    figure = make_subplots(
        cols=len(names),
        shared_yaxes=several,
        horizontal_spacing=0.035,
        subplot_titles=[escape(n) for n in names] if several else None,
    )
    # plotly centres the titles of panels; these start where their panel starts.
    figure.update_annotations(font={"size": 13}, xanchor="left", x=None)
    for i, note in enumerate(figure.layout.annotations):
        start = figure.layout["xaxis" if i == 0 else f"xaxis{i + 1}"].domain[0]
        note.update(x=start, xanchor="left")
    width = 160 + 250 * len(names)
    figure.update_layout(meta={"panels": len(names) if several else 0, "width": width})
    return figure


def _draw_panel(
    figure: Any,
    lines: dict[str, pd.DataFrame],
    i: int,
    limits: tuple[float, float],
    greys: Collection[str],
    *,
    last: bool,
    log: bool,
) -> None:
    palette = palette_of(lines, greys)
    draw_lines(figure, lines, palette, row=1, col=i + 1)
    _mark_outside(figure, lines, palette, limits, axis=i + 1, log=log)
    if last:
        name_lines(figure, ends(lines), palette, limits, axis=i + 1)


def _mark_outside(
    figure: Any,
    lines: dict[str, pd.DataFrame],
    palette: dict[str, str],
    limits: tuple[float, float],
    *,
    axis: int,
    log: bool,
) -> None:
    """An arrow and the number at the edge of the panel for every value beyond it."""
    # Several values at one place are stacked, or their numbers would cover each other.
    number_of_axis = "" if axis == 1 else str(axis)
    taken: dict[tuple[float, bool], int] = {}
    for name, rows in lines.items():
        for x, y in _beyond(rows, limits):
            below = y < limits[0]
            row = taken[x, below] = taken.get((x, below), -1) + 1
            figure.add_annotation(
                x=math.log10(x) if log else x,  # plotly places notes by the exponent
                xref=f"x{number_of_axis}",
                y=limits[0] if below else limits[1],
                yref=f"y{number_of_axis}",
                text=f"{'▼' if below else '▲'} {number(y)}",
                showarrow=False,
                xanchor="center",
                yanchor="bottom" if below else "top",
                bgcolor="rgba(255,255,255,0.85)",
                yshift=15 * row if below else -15 * row,
                font={"color": palette[name], "size": 11.5},
            )


def _beyond(rows: pd.DataFrame, limits: tuple[float, float]) -> list[tuple[float, float]]:
    """The means, and those of the untrained copy, outside a range: (x, y)."""
    found = []
    for column in ("mean", "control"):
        if column in rows:
            known = rows[rows[column].notna() & ~rows[column].between(*limits)]
            found += list(zip(known["x"], known[column], strict=True))
    return found


def palette_of(names: Iterable[str], greys: Collection[str]) -> dict[str, str]:
    """A colour for every line; grey for controls."""
    own = style.colours([name for name in names if name not in greys])
    return own | {name: style.CONTROL for name in names if name in greys}


def draw_lines(
    figure: Any, lines: dict[str, pd.DataFrame], palette: dict[str, str], **where: int
) -> None:
    """Every line of a panel with its band, its level across all places, and its control."""
    span = _span(lines.values())
    dashes = _dashes(lines, palette)
    for name, rows in lines.items():
        everywhere = rows["x"].isna()
        if "control" in rows and rows["control"].notna().any():
            add_control(figure, name, rows[~everywhere], palette[name], **where)
        add_band(figure, name, rows[~everywhere], palette[name], dashes[name], **where)
        if everywhere.any():
            add_level(figure, name, rows[everywhere].iloc[0], palette[name], span, **where)


def greys_in_words(greys: Sequence[str]) -> str:
    """The controls of a figure, with the line style of each where there are several.

    >>> greys_in_words(["shuffled", "random tokens"])
    'shuffled (solid), random tokens (dashed)'
    """
    if len(greys) < 2:
        return ", ".join(greys)
    styled = zip(greys, cycle(DASHES_IN_WORDS), strict=False)
    return ", ".join(f"{name} ({dash})" for name, dash in styled)


def _dashes(names: Iterable[str], palette: Mapping[str, str]) -> dict[str, str]:
    """A line style for each; controls, which are all grey, differ by it."""
    order = list(names)
    grey = [name for name in order if palette[name] == style.CONTROL]
    # Dots are the untrained copy's.
    return dict.fromkeys(order, "solid") | dict(zip(grey, cycle(CONTROL_DASHES), strict=False))


def _span(lines: Iterable[pd.DataFrame]) -> tuple[float, float]:
    x = np.concatenate([rows["x"].to_numpy(dtype=float, na_value=np.nan) for rows in lines])
    x = x[np.isfinite(x)]
    return (float(x.min()), float(x.max())) if len(x) else (0.0, 1.0)


def add_band(
    figure: Any,
    name: str,
    rows: pd.DataFrame,
    colour: str,
    dash: str = "solid",
    **where: int,
) -> None:
    """A line of means over its band; gaps stay gaps."""
    import plotly.graph_objects as go

    if rows.empty:
        return
    for run in _runs(rows):
        shade(figure, run["x"], run["low"], run["high"], colour, name, **where)
    few = len(rows) <= FEW
    figure.add_trace(
        go.Scatter(
            x=places(rows["x"]),
            y=style.rounded(rows["mean"]),
            name=label(name, 40),
            mode="lines+markers" if few else "lines",
            line={"color": colour, "width": 2.2, "dash": dash},
            marker={"size": 6, "color": colour, "line": {"color": "white", "width": 1}},
            customdata=[_interval(r) for r in rows.itertuples()],
            hovertemplate="%{y:.4g}  %{customdata}",
            showlegend=False,
        ),
        **where,
    )


def add_control(figure: Any, name: str, rows: pd.DataFrame, colour: str, **where: int) -> None:
    """The line of the untrained copy: dotted, in the colour of the line that it controls."""
    import plotly.graph_objects as go

    figure.add_trace(
        go.Scatter(
            x=places(rows["x"]),
            y=style.rounded(rows["control"]),
            name=f"{label(name, 40)}, untrained",
            mode="lines",
            line={"color": style.alpha(colour, 0.75), "width": 1.6, "dash": "dot"},
            hovertemplate="%{y:.4g}",
            showlegend=False,
        ),
        **where,
    )


def places(x: pd.Series[Any]) -> list[Any]:
    """Places along an axis, whole numbers as such."""
    at = x.to_numpy(dtype=np.float64)
    return at.astype(np.int64).tolist() if (at == np.round(at)).all() else at.tolist()


def shade(
    figure: Any, x: Any, low: Any, high: Any, colour: str, name: str = "", **where: int
) -> None:
    """The area between two lines, of the line `name`."""
    import plotly.graph_objects as go

    figure.add_trace(
        go.Scatter(
            x=[*x, *reversed(list(x))],
            y=style.rounded([*high, *reversed(list(low))]),
            meta=f"{label(name, 40)}, band" if name else None,
            fill="toself",
            fillcolor=style.alpha(colour, 0.16),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
        ),
        **where,
    )


def _interval(row: Any) -> str:
    band = f"[{row.low:.4g}, {row.high:.4g}]  " if row.low == row.low else ""
    return f"{band}n = {int(row.n):,}"


def _runs(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Stretches of neighbouring rows that have a band."""
    have = rows["low"].notna().to_numpy()
    out, start = [], 0
    for known, group in groupby(have):
        size = len(list(group))
        if known and size > 1:
            out.append(rows.iloc[start : start + size])
        start += size
    return out


def add_level(
    figure: Any, name: str, mean: Any, colour: str, span: tuple[float, float], **where: int
) -> None:
    """A mean over all layers: a dashed line across them, in its band."""
    import plotly.graph_objects as go

    x = [span[0], span[1]]
    if mean["low"] == mean["low"]:
        shade(figure, x, [mean["low"]] * 2, [mean["high"]] * 2, colour, name, **where)
    figure.add_trace(
        go.Scatter(
            x=x,
            y=style.rounded([mean["mean"]] * 2),
            name=label(name, 40),
            mode="lines",
            line={"color": colour, "width": 1.8, "dash": "dash"},
            hovertemplate="%{y:.4g}",
            showlegend=False,
        ),
        **where,
    )


# ---- names at the end of lines ---------------------------------------------------------------


def ends(lines: dict[str, pd.DataFrame]) -> dict[str, float]:
    """The last defined mean of each line."""
    known = {name: rows["mean"].dropna() for name, rows in lines.items()}
    return {name: float(mean.iloc[-1]) for name, mean in known.items() if len(mean)}


def name_lines(
    figure: Any,
    points: dict[str, float],
    palette: dict[str, str],
    limits: tuple[float, float],
    *,
    axis: int = 1,
    height: float = HEIGHT - 56,
) -> None:
    """Write each name right of its panel, pushed apart so that none covers another.

    `points`: where each line ends, on the vertical axis number `axis`.
    """
    if not points:
        return
    scale = height / (limits[1] - limits[0])
    # plotly drops a note whose place is outside the axis, so a cut line is named at the edge.
    points = {name: min(max(y, limits[0]), limits[1]) for name, y in points.items()}
    names = sorted(points, key=lambda n: points[n])
    wanted = [points[n] * scale for n in names]
    room = (limits[0] * scale, limits[1] * scale)
    number = "" if axis == 1 else str(axis)
    for name, y, at in zip(names, wanted, spread(wanted, LABEL_GAP, room), strict=True):
        figure.add_annotation(
            x=1,
            xref=f"x{number} domain",
            y=points[name],
            yref=f"y{number}",
            yshift=at - y,
            xshift=6,
            text=label(name, NAME),
            showarrow=False,
            xanchor="left",
            font={"color": palette[name], "size": 12.5},
        )
    widest = max(min(len(show(n)), NAME) for n in names)
    before = figure.layout.margin.r or 0
    figure.update_layout(margin={"r": max(30, before, 18 + int(7.3 * widest))})


def spread(wanted: Sequence[float], gap: float, room: tuple[float, float]) -> list[float]:
    """Ascending places at least `gap` apart, near the wanted ones and inside the room.

    >>> spread([0, 1, 50], 10, (0, 60))
    [0, 10, 50]
    """
    out: list[float] = []
    # Upwards until none overlaps, then down from the ceiling, which the first way ignores.
    for y in wanted:
        out.append(max(y, out[-1] + gap) if out else y)
    ceiling = room[1]
    for i in reversed(range(len(out))):
        out[i] = min(out[i], ceiling)
        ceiling = out[i] - gap
    return out


# ---- axes ------------------------------------------------------------------------------------


def y_limits(*tables: pd.DataFrame) -> tuple[float, float]:
    """A vertical range that holds every mean, band and control, with some air."""
    found = value_range(*tables)
    return with_air(*found) if found else (0.0, 1.0)


def style_axes(
    figure: Any,
    table: pd.DataFrame,
    title: str,
    unit: str,
    limits: tuple[float, float],
    options: Mapping[str, Any],
) -> None:
    """Integer ticks for layers or those asked for, units, one vertical range for all panels."""
    x = table.loc[table["x"].notna(), "x"].to_numpy(dtype=float)
    log = bool(options.get("log"))
    places = np.log10(x) if log else x
    low, high = (float(places.min()), float(places.max())) if len(x) else (0.0, 1.0)
    air = max(0.03 * (high - low), 0.05 if log else 0.25)
    step = max(1, round((high - low) / 12)) if (x == np.round(x)).all() else None
    figure.update_xaxes(title_text=escape(title), range=[low - air, high + air])
    if log:
        figure.update_xaxes(type="log")
    if ticks := options.get("ticks"):
        named = [label(str(name), NAME) for name in ticks.values()]
        figure.update_xaxes(tickvals=list(ticks), ticktext=named)
    else:
        figure.update_xaxes(dtick=step, tick0=0)
    figure.update_yaxes(range=list(limits))
    figure.update_layout(yaxis_title_text=escape(unit), hovermode="x unified")
