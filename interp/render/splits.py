"""A sum of parts over pairs of tokens: one map per part and one of the total, on one scale.

Draws a `Split`; its numbers come from `interp.input_split` and are not computed again here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import BadInput
from interp.render import style
from interp.render.tokens import escape, label

if TYPE_CHECKING:
    from interp.input_split import Split

CELL, MOST_NAMES = 13, 24


def split_figure(split: Split, head: int | None = None) -> Any:
    """Query down, key across; red below zero, blue above. Scores are of one head (0 unless said).

    Raises `BadInput` for a head that is not there, or a head of cosines, which have none.
    """
    maps = {**split.parts, "sum": split.total}
    title = "Cosines at the input"
    if split.total.ndim == 3:
        head = _checked(0 if head is None else head, len(split.total))
        maps = {name: x[head] for name, x in maps.items()}
        title = f"Attention scores, head {head}"
    elif head is not None:
        raise BadInput(f"head={head}: these are cosines of states, which have no heads")
    shown = {n: np.where(split.allowed, x, np.nan) for n, x in maps.items()}
    figure = _panels(list(shown))
    for i, x in enumerate(shown.values(), start=1):
        _map(figure, split, x, i)
    top = max(float(np.nanmax(np.abs(x), initial=1e-12)) for x in shown.values())
    figure.update_layout(
        coloraxis={"colorscale": style.DIVERGING, "cmid": 0, "cmin": -top, "cmax": top}
        | {"colorbar": style.bar("cosine" if split.total.ndim == 2 else "logits")},
        meta={"panels": len(shown), "width": 900},
    )
    figure.update_layout(margin={"l": 90, "b": 80})
    sums = (
        "the last one is relative to the mean of its rows, distance is fitted, content is the rest"
        if split.shuffled
        else f"the parts add up to the last one (largest error of the sum {split.error:.1g})"
    )
    caption = f"One scale for all maps; {sums}. White: pairs that do not count."
    rows = -(-len(shown) // 3)
    height = rows * max(170, CELL * len(split.tokens)) + 60 * (rows - 1) + 90
    return style.dressed(figure, title, caption, height=height)


def _checked(head: int, heads: int) -> int:
    if not 0 <= head < heads:
        raise BadInput(f"head {head} is not there: there are heads 0 … {heads - 1}")
    return head


def _panels(names: list[str]) -> Any:
    from plotly.subplots import make_subplots

    rows = -(-len(names) // 3)
    figure = make_subplots(
        rows=rows,
        cols=3,
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.04,
        vertical_spacing=0.1,
        subplot_titles=[escape(n.replace("_", " – ")) for n in names],
    )
    figure.update_annotations(font={"size": 13})
    return figure


def _map(figure: Any, split: Split, x: np.ndarray[Any, np.dtype[np.float64]], i: int) -> None:
    import plotly.graph_objects as go

    row, col = (i - 1) // 3 + 1, (i - 1) % 3 + 1
    places = list(range(len(split.tokens)))
    texts = [label(token, 12) for token in split.tokens]
    names = texts if len(texts) <= MOST_NAMES else [str(p) for p in places]
    figure.add_trace(
        go.Heatmap(
            z=[style.rounded(line, 4) for line in x],
            coloraxis="coloraxis",
            customdata=[[f"{q} ← {k}" for k in texts] for q in texts],
            hovertemplate="%{customdata}: %{z:.3g}<extra></extra>",
        ),
        row=row,
        col=col,
    )
    axis = {"tickvals": places, "ticktext": names, "showgrid": False, "row": row, "col": col}
    figure.update_xaxes(tickangle=-60, tickfont={"size": 10}, **axis)
    figure.update_yaxes(autorange="reversed", tickfont={"size": 10}, **axis)
