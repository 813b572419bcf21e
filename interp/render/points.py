"""Scatter plots, and the ways of tokens through the layers in two or three dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from interp.render import style
from interp.render.means import has_group
from interp.render.selection import View
from interp.render.tokens import escape, label

MOST_POINTS = 5000
MOST_PATHS = 40


def scatter_figure(view: View) -> Any:
    """The second value against the first, coloured by group, else by layer."""
    import plotly.graph_objects as go

    values = view.values
    if len(values) < 2:
        return style.empty(view.title, _needs(view, 2))
    rows, note = _thinned(_defined(view, values[:2]))
    if rows.empty:
        return style.empty(view.title, f"No row has both {values[0]} and {values[1]}.")
    figure = go.Figure()
    for name, part, colour in _groups(view, rows):
        marker: dict[str, Any] = {"size": 6, "opacity": 0.7, "color": colour}
        if not name and "layer" in part:
            marker |= {
                "color": part["layer"].tolist(),
                "colorscale": style.DEPTH,
            }
            marker |= {"colorbar": {"title": {"text": "layer"}, "thickness": 10}}
        figure.add_trace(
            go.Scattergl(
                x=style.rounded(part[values[0]]),
                y=style.rounded(part[values[1]]),
                mode="markers",
                marker=marker,
                name=label(name, 40),
                showlegend=bool(name),
                text=_texts(part),
                hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
            )
        )
    _name_axes(figure, view, values)
    return style.dressed(figure, view.title, f"{note} {view.left_out()}".strip())


def trajectory_figure(view: View) -> Any:
    """A line per token from the first layer (small dot) to the last (large), in 2-D or 3-D."""
    values = view.values[:3]
    if len(values) < 2 or not {"prompt", "position", "layer"} <= set(view.result.frame.columns):
        return style.empty(view.title, _needs(view, 2))
    rows = _defined(view, values)
    if rows.empty:
        return style.empty(view.title, f"No row has all of {', '.join(values)}.")
    paths = [p.sort_values("layer") for _, p in rows.groupby(["prompt", "position"], sort=True)]
    total, paths = len(paths), paths[:MOST_PATHS]
    table = pd.concat(paths)
    figure = _paths(view, table, values)
    cut = f" The first {len(paths)} of {total} tokens are drawn." if total > len(paths) else ""
    caption = f"One line per token, from its first layer (small dot) to its last (large dot).{cut}"
    return style.dressed(figure, view.title, caption, height=520)


def _paths(view: View, table: pd.DataFrame, values: list[str]) -> Any:
    import plotly.graph_objects as go

    figure, kind = go.Figure(), go.Scatter3d if len(values) == 3 else go.Scatter
    for name, part, colour in _groups(view, table):
        for i, (_, path) in enumerate(part.groupby(["prompt", "position"], sort=True)):
            axes = zip("xyz", values, strict=False)
            sizes = [5.0] + [3.0] * (len(path) - 2) + [9.0] * (len(path) > 1)
            figure.add_trace(
                kind(
                    **{axis: style.rounded(path[v]) for axis, v in axes},
                    mode="lines+markers",
                    line={"color": style.alpha(colour, 0.55), "width": 1.6},
                    marker={"size": sizes, "color": colour},
                    name=label(name, 40),
                    legendgroup=name,
                    showlegend=bool(name) and i == 0,
                    text=_texts(path),
                    hovertemplate="%{text}<extra></extra>",
                )
            )
    _name_axes(figure, view, values)
    return figure


def _name_axes(figure: Any, view: View, values: list[str]) -> None:
    unit = f" ({view.plot.unit})" if view.plot.unit else ""
    titles = [escape(v + unit) for v in values]
    if len(values) == 3:
        figure.update_layout(
            scene={f"{a}axis_title_text": t for a, t in zip("xyz", titles, strict=True)}
        )
    else:
        figure.update_layout(xaxis_title_text=titles[0], yaxis_title_text=titles[1])


def _needs(view: View, n: int) -> str:
    have = ", ".join(view.values) or "none"
    return f"A {view.plot.kind} needs {n} numeric columns per token; this table has: {have}."


def _defined(view: View, values: list[str]) -> pd.DataFrame:
    rows = view.rows()
    keep = np.isfinite(rows[values].to_numpy(dtype=np.float64, na_value=np.nan)).all(axis=1)
    for name in view.by:
        keep &= has_group(rows[name]).to_numpy()
    chosen: pd.DataFrame = rows[keep]
    return chosen


def _thinned(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """At most so many points, evenly taken from the table, and a sentence that says so."""
    if len(rows) <= MOST_POINTS:
        return rows, f"{len(rows):,} rows."
    take = np.linspace(0, len(rows) - 1, MOST_POINTS).round().astype(int)
    return rows.iloc[take], f"{MOST_POINTS:,} of {len(rows):,} rows, evenly taken."


def _groups(view: View, rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame, str]]:
    """Name, rows and colour of each group; one without a name where none are asked for."""
    if not view.by:
        return [("", rows, style.PALETTE[0])]
    names = rows[list(view.by)].astype(str).agg(" · ".join, axis=1)
    order = style.in_order(names)
    palette = style.colours(order)
    return [(n, rows[names == n], palette[n]) for n in order]


def _texts(rows: pd.DataFrame) -> list[str]:
    """What a point says when it is pointed at."""
    columns = [c for c in ("prompt", "position", "layer") if c in rows]
    parts = [rows[c].map(lambda v, c=c: f"{c} {v}") for c in columns]
    if "token" in rows:
        parts.insert(0, rows["token"].map(label))
    return [", ".join(p) for p in zip(*parts, strict=True)] if parts else [""] * len(rows)
