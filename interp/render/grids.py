"""Heat maps: states × positions of one prompt, and blocks × heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from interp.render import style
from interp.render.lens import Lens, lens_of
from interp.render.lines import line_figure, sampled
from interp.render.means import Floats, means
from interp.render.selection import View, axis_title
from interp.render.spaces import pair_figure
from interp.render.tokens import label, show

MOST_CELLS = 4000  # of one figure with text in every cell; the positions beyond are left out
CELL_WIDTH, CELL_HEIGHT = 52, 25


def grid_figure(view: View) -> Any:
    """Draw what the table allows: lens, heads, pairs of layers, a value by position, or lines."""
    lens = lens_of(view.result, view.prompt)
    if lens is not None:
        return lens_figure(view, lens)
    frame = view.result.frame
    if "head" in frame and "layer" in frame:
        return head_figure(view)
    if {"layer_a", "layer_b"} <= set(frame.columns):
        return pair_figure(view)
    if {"layer", "prompt", "position"} <= set(frame.columns) and view.values:
        return position_figure(view)
    return line_figure(view)


# ---- the lens --------------------------------------------------------------------------------


def lens_figure(view: View, lens: Lens) -> Any:
    """The most probable token of every state and position; colour is its probability."""
    import plotly.graph_objects as go

    states, positions = lens.tokens.shape[:2]
    shown = max(1, min(positions, MOST_CELLS // states))
    figure = go.Figure(
        go.Heatmap(
            z=[style.rounded(row, 4) for row in lens.values(view.plot.values[0])[:, :shown]],
            x=list(range(shown)),
            y=list(range(states)),
            text=[[lens.cell(s, p) for p in range(shown)] for s in range(states)],
            texttemplate="%{text}",
            textfont={"family": style.MONO, "size": 11},
            customdata=[[lens.hover(s, p) for p in range(shown)] for s in range(states)],
            hovertemplate="%{customdata}<extra></extra>",
            colorscale=style.SEQUENTIAL,
            colorbar=style.bar(view.plot.unit),
            zmin=0,
            zmax=1 if view.plot.values[0] == "top_prob" else None,
            xgap=1,
            ygap=1,
        )
    )
    _token_axis(figure, lens.texts[:shown])
    figure.update_yaxes(title_text="state", dtick=_step(states), tick0=0)
    caption = (
        f"Prompt {lens.prompt}. Each cell: the token that the model would predict next if it "
        "stopped at this state; in bold where that is already the prediction of the last state."
    )
    if shown < positions:
        caption += f" The first {shown} of {positions} positions are drawn."
    figure.update_layout(meta={"width": 150 + CELL_WIDTH * shown})
    return style.dressed(figure, view.title, caption, height=130 + max(110, CELL_HEIGHT * states))


def _token_axis(figure: Any, texts: list[str]) -> None:
    """The tokens that were read, at their positions."""
    names = [label(t, 14) for t in texts]
    longest = max((len(show(t)[:14]) for t in texts), default=0)
    figure.update_layout(margin={"b": 46 + (5 * longest if longest > 6 else 10)})
    figure.update_xaxes(
        tickvals=list(range(len(texts))),
        ticktext=names,
        tickangle=-40 if longest > 6 else 0,
        tickfont={"family": style.MONO, "size": 11.5, "color": style.INK},
        title_text="token that was read",
        ticklen=2,
        showline=False,
    )


def _step(n: int) -> int:
    return max(1, round(n / 16))


# ---- heads -----------------------------------------------------------------------------------


def head_table(view: View) -> pd.DataFrame:
    """Mean of every value per block and head: `value`, `layer`, `head`, `mean`, `n`."""
    frame = view.rows()
    stacks = frame["stack"].nunique() if "stack" in frame else 1
    by = ["stack", "head"] if stacks > 1 else ["head"]
    table = means(frame, view.values, "layer", by).rename(columns={"x": "layer"})
    heads = table["group"].str.rpartition(" · ")[2].astype(int)
    stack = table["group"].str.rpartition(" · ")[0]
    return table.assign(head=heads, stack=stack)


def head_figure(view: View) -> Any:
    """One panel per value (and stack): its mean for every head of every block."""
    from plotly.subplots import make_subplots

    table = head_table(view)
    if table.empty or table["mean"].isna().all():
        return style.empty(view.title, f"{', '.join(view.plot.values)}: no defined value.")
    panels = [
        (f"{stack} · {value}" if stack else value, rows)
        for stack in sorted(set(table["stack"]))
        for value in view.values
        if len(rows := table[(table["stack"] == stack) & (table["value"] == value)])
    ]
    names = [name for name, _ in panels]
    figure = make_subplots(
        cols=len(panels), shared_yaxes=True, horizontal_spacing=0.06, subplot_titles=names
    )
    figure.update_annotations(font={"size": 13})
    low, top = float(table["mean"].min()), float(table["mean"].max())
    blocks, heads = int(table["layer"].max()) + 1, int(table["head"].max()) + 1
    for i, (_, rows) in enumerate(panels):
        _head_panel(figure, rows, (blocks, heads), i + 1)
    figure.update_xaxes(title_text="head", dtick=_step(heads), tick0=0, showline=False)
    figure.update_yaxes(dtick=_step(blocks), tick0=0)
    figure.update_layout(
        yaxis_title_text="block",
        coloraxis={
            "colorscale": style.SEQUENTIAL,
            "cmin": min(0.0, low),
            "cmax": 1.0 if low >= 0 and top <= 1 else top,
            "colorbar": style.bar(view.plot.unit),
        },
        meta={"panels": len(panels), "width": 120 + max(240, 34 * heads) * len(panels)},
    )
    caption = f"Mean for every head over {sampled(view.rows())}. {view.left_out()}"
    return style.dressed(figure, view.title, caption, height=100 + max(150, 26 * blocks))


def _head_panel(figure: Any, rows: pd.DataFrame, shape: tuple[int, int], column: int) -> None:
    import plotly.graph_objects as go

    mean: Floats = np.full(shape, np.nan)
    n: Floats = np.zeros(shape)
    where = rows["layer"].to_numpy(dtype=int), rows["head"].to_numpy(dtype=int)
    mean[where], n[where] = rows["mean"], rows["n"]
    small = shape[0] * shape[1] <= 200
    figure.add_trace(
        go.Heatmap(
            z=[style.rounded(row, 4) for row in mean],
            x=list(range(shape[1])),
            y=list(range(shape[0])),
            customdata=n.astype(int).tolist(),
            texttemplate="%{z:.2f}" if small else None,
            textfont={"size": 11},
            hovertemplate="block %{y}, head %{x}<br>mean %{z:.3f}<br>n = %{customdata:,}"
            "<extra></extra>",
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
        ),
        row=1,
        col=column,
    )


# ---- any value by position -------------------------------------------------------------------


def position_figure(view: View) -> Any:
    """The first value of one prompt: layers upwards, positions to the right."""
    import plotly.graph_objects as go

    value = view.values[0]
    prompt, rows = one_prompt(view.result.frame, view.prompt)
    table = rows.pivot_table(
        index="layer", columns="position", values=value, aggfunc="mean", dropna=False
    )
    z = table.to_numpy(dtype=float, na_value=np.nan)
    if not np.isfinite(z).any():
        return style.empty(view.title, f"{value} is undefined everywhere in prompt {prompt}.")
    shown = max(1, min(z.shape[1], 10 * MOST_CELLS // len(z)))
    texts = tokens_at(rows, table.columns[:shown])
    signed = bool(np.nanmin(z) < 0 < np.nanmax(z))
    figure = go.Figure(
        go.Heatmap(
            z=[style.rounded(row, 4) for row in z[:, :shown]],
            x=list(range(shown)),
            y=table.index.tolist(),
            customdata=[[label(t) for t in texts]] * len(z),
            hovertemplate="layer %{y}, %{customdata}<br>%{z:.4g}<extra></extra>",
            colorscale=style.DIVERGING if signed else style.SEQUENTIAL,
            zmid=0 if signed else None,
            colorbar=style.bar(view.plot.unit),
        )
    )
    _token_axis(figure, texts)
    figure.update_yaxes(title_text=axis_title(view.result, "layer"), dtick=_step(len(z)), tick0=0)
    caption = f"{value} of prompt {prompt}."
    if shown < z.shape[1]:
        caption += f" The first {shown} of {z.shape[1]} positions are drawn."
    figure.update_layout(meta={"width": 150 + 30 * shown})
    return style.dressed(figure, view.title, caption, height=130 + max(120, 22 * len(z)))


def one_prompt(frame: pd.DataFrame, prompt: int | None) -> tuple[int, pd.DataFrame]:
    """The rows of one prompt, by default the first; `UnknownName` if it is not there."""
    from interp.errors import unknown

    known = frame["prompt"].unique().tolist()
    chosen = known[0] if prompt is None and known else prompt
    if chosen is None or chosen not in known:
        raise unknown("prompt", str(chosen), [str(p) for p in known[:20]])
    return int(chosen), frame[frame["prompt"] == chosen]


def tokens_at(rows: pd.DataFrame, positions: Any) -> list[str]:
    """The text at each position, or its number where the table holds no text."""
    if "token" not in rows:
        return [str(p) for p in positions]
    text = rows.drop_duplicates("position").set_index("position")["token"]
    return [str(text.get(p, p)) for p in positions]
