"""Attention maps of chosen heads, drawn by circuitsvis.

Knows patterns, tokens and names of heads; the choice of heads belongs to the owner of the results.
One view (one layer, or the most informative heads of all) is shown at a time. Only the script of
circuitsvis is used: its Python side escapes nothing and opens a network connection for display.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from interp._arrays import Floats
from interp.render import style
from interp.render.export import save_figure
from interp.render.look import PLAIN, Look
from interp.render.page import Block, Choice, figure_page, safe_json
from interp.render.tokens import label, show

DIGITS = 4
COLOUR = "#08457E"
HINT = "Rows look at columns; point at a small map to enlarge it, click to keep it."


@dataclass(frozen=True, eq=False)
class MapView:
    """Maps shown together: `attention [head, query, key]` of one prompt.

    Attributes:
        name: entry of the selector.
        tokens: the tokens of the prompt.
        heads: a short name per head.
        scores: reason for the choice of the heads, in words; may be empty.
        note: maps that the budget left out, in words; may be empty.
    """

    name: str
    tokens: tuple[str, ...]
    heads: tuple[str, ...]
    attention: Floats
    scores: str = ""
    note: str = ""

    @property
    def cells(self) -> int:
        return self.attention.size

    def props(self) -> dict[str, Any]:
        """Properties of `CircuitsVis.AttentionHeads`."""
        # Tokens are plain text here, not escaped: the script writes them on a canvas.
        later = np.triu(np.ones(self.attention.shape[1:], dtype=bool), 1)
        return {
            "attention": np.round(np.nan_to_num(self.attention), DIGITS).tolist(),
            "tokens": [show(t) for t in self.tokens],
            "attentionHeadNames": list(self.heads),
            "maskUpperTri": not bool(self.attention[:, later].any()),
            "positiveColor": COLOUR,
        }


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Views of attention patterns to choose from; shows itself in a notebook, without a network.

    Attributes:
        title: what is shown, and on which model.
        views: in the order of the selector.
        notes: views that were left out, and why.
    """

    title: str
    views: tuple[MapView, ...]
    notes: tuple[str, ...] = ()
    look: Look = PLAIN

    def looking(self, look: Look) -> AttentionMaps:
        """The same maps with another title, size or colour scale."""
        title = self.title if look.title is None else look.title
        return replace(self, title=title, look=look)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the maps as .html with every view, or the first view as .png, .svg or .pdf.

        Pictures need the extra `export` and a Chrome or Chromium. Returns the path; raises
        `BadInput` for another ending or a file that exists.
        """
        return save_figure(self, path, overwrite=overwrite)

    def figure(self) -> Any:
        """The first view as a plotly figure, for pictures and places without scripts."""
        return self.look.on(_small_multiples(self))

    @property
    def block(self) -> Block:
        """The maps as a block of a page, with every view to choose from."""
        says = (HINT, *self.notes) if self.views else self.notes
        return Block(self.title, tuple(_choice(view) for view in self.views), says)

    @cached_property
    def _page(self) -> str:
        return figure_page(self)

    def __repr__(self) -> str:
        lines = [f"<AttentionMaps {self.title!r}>"]
        lines += [f"  {v.name}: {', '.join(v.heads)}; {len(v.tokens)} tokens" for v in self.views]
        return "\n".join([*lines, *(f"note: {n}" for n in self.notes)])

    def _repr_html_(self) -> str:
        # A frame of its own: the notebook's styles and other scripts stay out.
        page = html.escape(self._page, quote=True)
        width = "100%" if self.look.width is None else f"{self.look.width}px"
        return (
            f'<iframe title="{html.escape(self.title)}" srcdoc="{page}" '
            f'style="width:{width};height:{self.look.height or 1080}px;border:0"></iframe>'
        )


def _small_multiples(maps: AttentionMaps) -> Any:
    from plotly.subplots import make_subplots

    if not maps.views:
        return style.empty(maps.title, " ".join(maps.notes))
    view = maps.views[0]
    columns = min(4, len(view.heads))
    rows = -(-len(view.heads) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=view.heads,
        horizontal_spacing=0.04,
        vertical_spacing=0.26 / rows,
    )
    for i, pattern in enumerate(view.attention):
        figure.add_heatmap(
            z=[style.rounded(row, DIGITS) for row in pattern],
            coloraxis="coloraxis",
            hovertemplate="query %{y}, key %{x}<br>%{z:.3f}<extra></extra>",
            row=i // columns + 1,
            col=i % columns + 1,
        )
    texts = [label(t, 8) for t in view.tokens] if len(view.tokens) <= 24 else []
    ticks: dict[str, Any] = {"tickfont": {"size": 9, "family": style.MONO}}
    ticks |= {"tickvals": list(range(len(texts))), "ticktext": texts} if texts else {}
    figure.update_xaxes(showline=False, tickangle=-60, **ticks)
    figure.update_yaxes(autorange="reversed", **ticks)
    figure.update_layout(
        coloraxis={"colorscale": style.SEQUENTIAL, "cmin": 0, "cmax": 1},
        coloraxis_colorbar=style.bar("attention"),
        meta={"width": 330 * columns, "panels": 1},
    )
    parts = (f"{view.name}: rows look at columns.", view.scores, view.note)
    caption = " ".join(part for part in parts if part)
    return style.dressed(figure, maps.title, caption, height=330 * rows)


def _choice(view: MapView) -> Choice:
    """One view of attention maps as data for the page."""
    caption = " ".join(part for part in (view.scores, view.note) if part)
    said = f"Attention maps, {view.name}: heads {', '.join(view.heads)}. {caption}"
    return Choice(view.name, "maps", safe_json(view.props()), caption, said)
