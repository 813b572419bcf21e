"""Scatter plots, and the ways of tokens through the layers in two or three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.render import style
from interp.render.tokens import escape, label
from interp.runs.report.views import View, is_number
from interp.stats.means import has_group

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
            marker |= {"colorbar": style.bar("layer")}
        figure.add_trace(
            go.Scatter(  # WebGL would need a policy that allows eval
                x=style.rounded(part[values[0]]),
                y=style.rounded(part[values[1]]),
                mode="markers",
                marker=marker,
                name=label(name, 40),
                showlegend=bool(name),
                text=_texts(part, view.result.analysis.keys),
                hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
            )
        )
    _name_axes(figure, view, values)
    return style.dressed(figure, view.title, f"{note} {view.left_out()}".strip())


def trajectory_figure(view: View) -> Any:
    """A line per token from the first layer (small dot) to the last (large), in 2-D or 3-D.

    Coloured by layer, or by group, and then with the mean way of each group.
    """
    values = view.values[:3]
    if len(values) < 2 or not {"prompt", "position", "layer"} <= set(view.result.frame.columns):
        return style.empty(view.title, _needs(view, 2))
    rows = _defined(view, values)
    if rows.empty:
        return style.empty(view.title, f"No row has all of {', '.join(values)}.")
    number = rows.groupby(_path_keys(rows), sort=True).ngroup()
    total, table = number.max() + 1, rows[number < MOST_PATHS]
    figure = _paths(view, table, values)
    means = f" Thick: the means of each group, over all {total} tokens." if view.by else ""
    cut = f" The first {MOST_PATHS} of {total} tokens are drawn." if total > MOST_PATHS else ""
    if view.by:
        _mean_paths(figure, view, rows, values)
    _name_axes(figure, view, values)
    caption = f"One line per token, from its first layer (small dot) to its last (large dot).{cut}"
    return style.dressed(figure, view.title, f"{caption}{means} {view.left_out()}", height=520)


def _path_keys(rows: pd.DataFrame) -> list[str]:
    """The columns that tell one token's way from another's."""
    return [c for c in ("stack", "prompt", "position") if c in rows]


def _paths(view: View, table: pd.DataFrame, values: list[str]) -> Any:
    import plotly.graph_objects as go

    figure, solid = go.Figure(), len(values) == 3
    dot, width = _marks(solid)
    for name, part, colour in _groups(view, table):
        for i, (_, path) in enumerate(part.groupby(_path_keys(part), sort=True)):
            path = path.sort_values("layer")
            sizes = [5.0 * dot] + [3.0 * dot] * (len(path) - 2) + [9.0 * dot] * (len(path) > 1)
            by_layer = {"color": path["layer"].tolist(), "coloraxis": "coloraxis"}
            thin = _thin(colour if name else style.CONTROL, solid)
            figure.add_trace(
                _way(
                    path,
                    values,
                    line=(by_layer if solid and not name else {"color": thin}) | {"width": width},
                    marker={"size": sizes} | ({"color": colour} if name else by_layer),
                    opacity=0.5 if name and not solid else 1.0,
                    name=label(name, 40),
                    legendgroup=name,
                    showlegend=bool(name) and i == 0,
                    text=_texts(path),
                )
            )
    if not view.by:
        figure.update_layout(
            coloraxis={"colorscale": style.DEPTH, "colorbar": style.bar("layer")},
        )
    return figure


def _mean_paths(figure: Any, view: View, rows: pd.DataFrame, values: list[str]) -> None:
    """The mean of each group at every layer, on top of the tokens."""
    dot, width = _marks(len(values) == 3)
    for name, part, colour in _groups(view, rows):
        stacks = [c for c in ("stack",) if c in part]
        mean = part.groupby([*stacks, "layer"], sort=True)[values].mean().reset_index()
        figure.add_trace(
            _way(
                mean,
                values,
                line={"color": colour, "width": 2 * width},
                marker={"size": 6 * dot, "color": colour, "line": {"color": "white", "width": 1}},
                name=f"mean of {label(name, 40)}",
                legendgroup=name,
                text=[f"mean of {label(name)}, layer {layer}" for layer in mean["layer"]],
            )
        )


def _marks(solid: bool) -> tuple[float, float]:
    """Scale of dots and width of thin lines: in 3-D dots come out larger and lines thinner."""
    return (0.6, 3.5) if solid else (1.0, 2.0)


def _thin(colour: str, solid: bool) -> str:
    """Colour of a single token's line; in 3-D pale, because see-through lines vanish there."""
    return style.pale(colour, 0.5) if solid else style.alpha(colour, 0.35)


def _way(rows: pd.DataFrame, values: list[str], **style_of: Any) -> Any:
    """One line through the rows, in as many dimensions as there are values."""
    import plotly.graph_objects as go

    kind = go.Scatter3d if len(values) == 3 else go.Scatter
    axes = {axis: style.rounded(rows[v]) for axis, v in zip("xyz", values, strict=False)}
    return kind(**axes, mode="lines+markers", hovertemplate="%{text}<extra></extra>", **style_of)


def _name_axes(figure: Any, view: View, values: list[str]) -> None:
    of = "" if len(values) == 3 else " of the variance"
    titles = [escape(_axis_title(view, v, of)) for v in values]
    if len(values) == 3:
        figure.update_layout(
            scene={f"{a}axis_title_text": t for a, t in zip("xyz", titles, strict=True)}
            # Further away and higher than usual, or the axes' names are cut off.
            | {"camera": {"eye": {"x": 1.5, "y": 1.5, "z": 1.0}, "center": {"z": -0.2}}},
        )
    else:
        figure.update_layout(xaxis_title_text=titles[0], yaxis_title_text=titles[1])


def _axis_title(view: View, value: str, of: str) -> str:
    """A value with its unit, and with its share of the whole where the table has one."""
    units = view.plot.unit.split(", ")  # one for all axes, or one for each
    unit = units[view.values.index(value)] if len(units) == len(view.values) else view.plot.unit
    unit = f" ({unit})" if unit else ""
    share = view.result.frame.get(f"{value}_share")
    if share is None or share.isna().any() or len(share.unique()) != 1:
        return value + unit
    return f"{value}{unit}, {share.iloc[0]:.0%}".replace("%", " %") + of


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


def _texts(rows: pd.DataFrame, keys: Sequence[str] = ()) -> list[str]:
    """What a point says when it is pointed at: its token, and what the row is about."""
    texts = [c for c in ("token", *keys) if c in rows and not is_number(rows[c])]
    columns = [c for c in ("prompt", "position", "layer", *keys) if c in rows and c not in texts]
    parts = [rows[c].map(lambda v, c=c: f"{c} {v}") for c in columns]
    parts = [*(rows[c].map(label) for c in texts), *parts]
    return [", ".join(p) for p in zip(*parts, strict=True)] if parts else [""] * len(rows)
