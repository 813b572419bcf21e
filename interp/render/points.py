"""Kinds "points" and "paths": single tokens in two dimensions, and their paths through the layers.

Columns of both: `x`, `y`, for "paths" also `z` in three dimensions; `text`, the hover of a point;
`group`, which gives the colour ("" for none); `layer`, the colour if there are no groups. A path
also has `path`, its number, with its points in the order of their layers, and rows with `mean`
true: the mean path of a group. Option: `titles`, of the axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from interp.render import style
from interp.render.drawing import Drawing
from interp.render.tokens import escape, label


def points_figure(drawing: Drawing) -> Any:
    """A point per row, coloured by group, else by layer."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, rows, colour in _groups(drawing.table):
        marker: dict[str, Any] = {"size": 6, "opacity": 0.7, "color": colour}
        if not name and "layer" in rows:
            marker |= {"color": rows["layer"].tolist(), "colorscale": style.DEPTH}
            marker |= {"colorbar": style.bar("layer")}
        figure.add_trace(
            go.Scatter(  # WebGL would need a policy that allows eval
                x=style.rounded(rows["x"]),
                y=style.rounded(rows["y"]),
                mode="markers",
                marker=marker,
                name=label(name, 40),
                showlegend=bool(name),
                text=rows["text"].tolist(),
                hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
            )
        )
    _name_axes(figure, drawing)
    return style.dressed(figure, drawing.title, drawing.said)


def paths_figure(drawing: Drawing) -> Any:
    """A line per token from the first layer (small dot) to the last (large), in 2-D or 3-D."""
    import plotly.graph_objects as go

    table = drawing.table
    solid, grouped = "z" in table, bool(table["group"].ne("").any())
    figure = go.Figure()
    for name, rows, colour in _groups(table[~table["mean"]]):
        for i, (_, path) in enumerate(rows.groupby("path", sort=True)):
            figure.add_trace(_way(path, _look(name, path, colour, solid, first=i == 0)))
    if grouped:
        for name, rows, colour in _groups(table[table["mean"]]):
            figure.add_trace(_way(rows, _mean_look(name, colour, solid)))
    else:
        scale = {"colorscale": style.DEPTH, "colorbar": style.bar("layer")}
        figure.update_layout(coloraxis=scale)
    _name_axes(figure, drawing)
    return style.dressed(figure, drawing.title, drawing.said, height=520)


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Name, rows and colour of each group; a single unnamed one if there are no groups."""
    names = style.in_order(table["group"])
    palette = style.colours(names)
    for name in names:
        colour = palette[name] if name else style.PALETTE[0]
        yield name, table[table["group"] == name], colour


def _look(
    name: str, path: pd.DataFrame, colour: str, solid: bool, *, first: bool
) -> dict[str, Any]:
    """Style of one token's path: coloured by its group, else by layer."""
    dot, width = _marks(solid)
    sizes = [5.0 * dot] + [3.0 * dot] * (len(path) - 2) + [9.0 * dot] * (len(path) > 1)
    by_layer = {"color": path["layer"].tolist(), "coloraxis": "coloraxis"}
    thin = _thin(colour if name else style.CONTROL, solid)
    return {
        "line": (by_layer if solid and not name else {"color": thin}) | {"width": width},
        "marker": {"size": sizes} | ({"color": colour} if name else by_layer),
        "opacity": 0.5 if name and not solid else 1.0,
        "name": label(name, 40),
        "legendgroup": name,
        "showlegend": bool(name) and first,
    }


def _mean_look(name: str, colour: str, solid: bool) -> dict[str, Any]:
    dot, width = _marks(solid)
    marker = {"size": 6 * dot, "color": colour, "line": {"color": "white", "width": 1}}
    line = {"color": colour, "width": 2 * width}
    named = {"name": f"mean of {label(name, 40)}", "legendgroup": name}
    return {"line": line, "marker": marker, **named}


def _marks(solid: bool) -> tuple[float, float]:
    """Scale of dots and width of thin lines: 3-D draws dots larger and lines thinner."""
    return (0.6, 3.5) if solid else (1.0, 2.0)


def _thin(colour: str, solid: bool) -> str:
    """Colour of a single token's line; in 3-D pale, because see-through lines vanish there."""
    return style.pale(colour, 0.5) if solid else style.alpha(colour, 0.35)


def _way(rows: pd.DataFrame, look: dict[str, Any]) -> Any:
    """One line through the rows, in as many dimensions as they have."""
    import plotly.graph_objects as go

    kind = go.Scatter3d if "z" in rows else go.Scatter
    axes = {axis: style.rounded(rows[axis]) for axis in "xyz" if axis in rows}
    said = {"text": rows["text"].tolist(), "hovertemplate": "%{text}<extra></extra>"}
    return kind(**axes, **said, mode="lines+markers", **look)


def _name_axes(figure: Any, drawing: Drawing) -> None:
    titles = [escape(t) for t in drawing.options["titles"]]
    if "z" in drawing.table:
        figure.update_layout(
            scene={f"{a}axis_title_text": t for a, t in zip("xyz", titles, strict=True)}
            # Further away and higher than usual, or the axes' names are cut off.
            | {"camera": {"eye": {"x": 1.5, "y": 1.5, "z": 1.0}, "center": {"z": -0.2}}},
        )
    else:
        figure.update_layout(xaxis_title_text=titles[0], yaxis_title_text=titles[1])
