"""Kinds "projection" and "graph": words in a plane; words on a circle, joined if they are alike.

"projection": columns `word`, `x`, `y`, `group`; option `titles`, of the axes, unless their units
mean nothing. "graph": columns `word`, `component` (number of its connected part), `degree` and
`size` of that part, in the order of the words on the circle; option `edges`, a table of `word_a`,
`word_b`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from interp.render import style
from interp.render.drawing import Drawing
from interp.render.tokens import escape, label

MOST_NAMES = 150  # words that still carry their name; with more the picture is a blot
MOST_BIG = 2000  # points of the usual size; more are drawn smaller
NO_GROUP = ("", "noise", "none")


def projection_figure(drawing: Drawing) -> Any:
    """A point per word; named groups have colours, all else is grey."""
    import plotly.graph_objects as go

    table = drawing.table
    few, big = (len(table) <= most for most in (MOST_NAMES, MOST_BIG))
    figure = go.Figure()
    names = sorted(set(table["group"]))
    listed = [n for n in style.in_order(names) if n not in NO_GROUP]
    palette = style.colours(listed)
    for name in [*sorted(set(names) - set(listed)), *listed]:
        rows = table[table["group"] == name]
        figure.add_trace(
            go.Scatter(
                x=style.rounded(rows["x"]),
                y=style.rounded(rows["y"]),
                mode="markers+text" if few else "markers",
                text=[_name(word) for word in rows["word"]],
                textposition="top center",
                textfont={"size": 10, "color": palette.get(name, style.MUTED)},
                marker={"size": 6 if big else 3, "opacity": 0.75 if big else 0.5}
                | {"color": palette.get(name, style.CONTROL)},
                name=label(name, 40) if name else "other",
                showlegend=0 < len(listed) <= len(style.PALETTE),
                hovertemplate="%{text}<extra>%{fullData.name}</extra>"
                if listed
                else "%{text}<extra></extra>",
            )
        )
    _name_axes(figure, drawing)
    caption = drawing.said
    if len(listed) > len(style.PALETTE):
        caption += f" {len(listed)} groups, whose colours repeat; the pointer names them."
    return style.dressed(figure, drawing.title, caption.strip(), height=520)


def _name(word: str) -> str:
    """A word without its leading space, which every token of running text has."""
    return label(word.strip(" ") or word, 16)


def _name_axes(figure: Any, drawing: Drawing) -> None:
    titles = drawing.options.get("titles")
    for i, update in enumerate((figure.update_xaxes, figure.update_yaxes)):
        if titles is not None:
            update(title_text=escape(titles[i]), zeroline=True, zerolinecolor=style.GRID)
        else:
            # Units and directions of t-SNE mean nothing.
            update(showticklabels=False, ticks="", showgrid=False, showline=False)


def graph_figure(drawing: Drawing) -> Any:
    """Words on a circle, connected parts side by side, joined if they are alike."""
    import plotly.graph_objects as go

    shown = drawing.table
    turn = 2 * np.pi * np.arange(len(shown)) / max(len(shown), 1)
    place = pd.DataFrame({"x": np.cos(turn), "y": np.sin(turn)}, index=shown["word"])
    figure = go.Figure()
    colours = _colours_of_parts(shown)
    _add_edges(figure, drawing.options["edges"], place, colours)
    figure.add_trace(
        go.Scatter(
            x=style.rounded(place["x"]),
            y=style.rounded(place["y"]),
            mode="markers",
            marker={"size": 8, "color": [colours[w] for w in shown["word"]]},
            text=[_name(w) for w in shown["word"]],
            customdata=shown["degree"].tolist(),
            hovertemplate="%{text}: %{customdata} edges<extra></extra>",
            showlegend=False,
        )
    )
    for word, angle in zip(shown["word"], turn, strict=True):
        _write_around(figure, word, angle)
    hidden = {"visible": False, "range": [-1.35, 1.35]}
    figure.update_xaxes(**hidden)
    figure.update_yaxes(**hidden, scaleanchor="x")
    return style.dressed(figure, drawing.title, drawing.said, height=560)


def _colours_of_parts(shown: pd.DataFrame) -> dict[str, str]:
    """A colour for every connected part of two words or more; single words are grey."""
    parts = list(dict.fromkeys(shown.loc[shown["size"] > 1, "component"]))
    palette = {part: style.PALETTE[i % len(style.PALETTE)] for i, part in enumerate(parts)}
    pairs = zip(shown["word"], shown["component"], strict=True)
    return {word: palette.get(part, style.CONTROL) for word, part in pairs}


def _add_edges(
    figure: Any, edges: pd.DataFrame, place: pd.DataFrame, colours: dict[str, str]
) -> None:
    import plotly.graph_objects as go

    paths: dict[str, tuple[list[float | None], list[float | None]]] = {}
    for a, b in zip(edges["word_a"], edges["word_b"], strict=True):
        if a in place.index and b in place.index:
            x, y = paths.setdefault(colours[a], ([], []))
            x += [place.loc[a, "x"], place.loc[b, "x"], None]
            y += [place.loc[a, "y"], place.loc[b, "y"], None]
    for colour, (x, y) in paths.items():
        line = {"color": style.alpha(colour, 0.45), "width": 1.2}
        figure.add_trace(
            go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)
        )


def _write_around(figure: Any, word: str, angle: float) -> None:
    """A word outside the circle, turned so that it is never upside down."""
    left = np.cos(angle) < 0
    figure.add_annotation(
        x=1.16 * np.cos(angle),
        y=1.16 * np.sin(angle),
        text=_name(word),
        textangle=-np.degrees(angle) + (180 if left else 0),
        showarrow=False,
        font={"size": 10.5, "color": style.INK},
    )
