"""Figures of words: a picture of a space, and words joined where they are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.errors import BadInput
from interp.render import style
from interp.render.tokens import label

if TYPE_CHECKING:
    from interp.experiments.words import Graph, Projection


MOST_NAMES = 150  # words that still carry their name; with more the picture is a blot
MOST_NODES = 200
MOST_BIG = 2000  # points of the usual size; more are drawn smaller
NO_GROUP = ("", "noise", "none")


def projection_figure(
    seen: Projection, groups: Mapping[str, str] | Sequence[str] | None = None
) -> Any:
    """The first two axes of a projection; named groups have colours, all else is grey."""
    import plotly.graph_objects as go

    names = _groups(seen, groups)
    few, big = (len(seen.words) <= most for most in (MOST_NAMES, MOST_BIG))
    figure = go.Figure()
    listed = [n for n in style.in_order(sorted(set(names))) if n not in NO_GROUP]
    palette = style.colours(listed)
    rest = sorted(set(names) - set(listed))
    for name in [*rest, *listed]:
        rows = np.flatnonzero(np.asarray(names) == name)
        figure.add_trace(
            go.Scatter(
                x=style.rounded(seen.points[rows, 0]),
                y=style.rounded(seen.points[rows, 1]),
                mode="markers+text" if few else "markers",
                text=[_name(seen.words[i]) for i in rows],
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
    _name_axes(figure, seen)
    title = f"{len(seen.words):,} words, {seen.method}"
    caption = _how_faithful(seen)
    if len(listed) > len(style.PALETTE):
        caption += f" {len(listed)} groups, whose colours repeat; the pointer names them."
    return style.dressed(figure, title, caption.strip(), height=520)


def _name(word: str) -> str:
    """A word without the space before it, which every token of running text has."""
    return label(word.strip(" ") or word, 16)


def _groups(seen: Projection, groups: Mapping[str, str] | Sequence[str] | None) -> list[str]:
    if groups is None:
        return [""] * len(seen.words)
    if isinstance(groups, Mapping):
        # Tokens carry the space before them; people name words without.
        return [str(groups.get(w, groups.get(w.strip(), ""))) for w in seen.words]
    if isinstance(groups, str) or len(groups) != len(seen.words):
        n = "a text" if isinstance(groups, str) else f"{len(groups)} groups"
        raise BadInput(f"{n} for {len(seen.words)} words; give one per word, or a mapping by word")
    return [str(g) for g in groups]


def _name_axes(figure: Any, seen: Projection) -> None:
    for i, update in enumerate((figure.update_xaxes, figure.update_yaxes)):
        if seen.method == "PCA":
            share = f"{seen.explained[i]:.0%}".replace("%", " % of the variance")
            update(title_text=f"component {i}, {share}", zeroline=True, zerolinecolor=style.GRID)
        else:
            # Units and directions of t-SNE mean nothing.
            update(showticklabels=False, ticks="", showgrid=False, showline=False)


def _how_faithful(seen: Projection) -> str:
    parts = [] if np.isnan(seen.kl) else [f"KL divergence {seen.kl:.2f}."]
    if not np.isnan(seen.trustworthiness):
        parts.append(
            f"Trustworthiness of the neighbours in the picture: {seen.trustworthiness:.2f}; "
            f"{seen.shuffled:.2f} if its points are shuffled."
        )
    return " ".join(parts)


def graph_figure(graph: Graph) -> Any:
    """Words on a circle, connected parts side by side, joined where they are alike."""
    import plotly.graph_objects as go

    sizes = graph.nodes.groupby("component")["word"].transform("size")
    order = graph.nodes.assign(size=sizes).sort_values(
        ["size", "component"], ascending=[False, True], kind="stable"
    )
    shown = order.drop_duplicates("word").head(MOST_NODES)
    turn = 2 * np.pi * np.arange(len(shown)) / max(len(shown), 1)
    place = pd.DataFrame({"x": np.cos(turn), "y": np.sin(turn)}, index=shown["word"])
    figure = go.Figure()
    colours = _colours_of_parts(shown)
    _add_edges(figure, graph, place, colours)
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
    return style.dressed(figure, "Words joined by their cosine", _counted(graph, shown), height=560)


def _colours_of_parts(shown: pd.DataFrame) -> dict[str, str]:
    """A colour for every connected part of two words or more; single words are grey."""
    parts = list(dict.fromkeys(shown.loc[shown["size"] > 1, "component"]))
    palette = {part: style.PALETTE[i % len(style.PALETTE)] for i, part in enumerate(parts)}
    pairs = zip(shown["word"], shown["component"], strict=True)
    return {word: palette.get(part, style.CONTROL) for word, part in pairs}


def _add_edges(figure: Any, graph: Graph, place: pd.DataFrame, colours: dict[str, str]) -> None:
    import plotly.graph_objects as go

    paths: dict[str, tuple[list[float | None], list[float | None]]] = {}
    for a, b in zip(graph.edges["word_a"], graph.edges["word_b"], strict=True):
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


def _counted(graph: Graph, shown: pd.DataFrame) -> str:
    cut = (
        f" The {len(shown)} words of the largest parts are drawn."
        if len(shown) < len(graph.nodes)
        else ""
    )
    return (
        f"{len(graph.edges)} of {graph.pairs} pairs are above the threshold; random pairs of the "
        f"vocabulary would have {graph.vocabulary_edges:.1f}, random directions "
        f"{graph.random_edges:.2g}. Places on the circle mean nothing.{cut}"
    )
