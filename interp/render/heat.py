"""Heat maps: states × positions of one prompt, and blocks × heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp._arrays import Floats
from interp.errors import BadInput
from interp.render import style
from interp.render.tokens import escape, label, show
from interp.runs.report.lens_examples import Lens
from interp.runs.report.views import View, axis_title, head_table, one_prompt, sampled, tokens_at

if TYPE_CHECKING:
    from interp.experiments.drift import Drift
    from interp.experiments.layers import LayerComparison
    from interp.experiments.score_split import Split
    from interp.experiments.spaces import SpaceComparison


MOST_CELLS = 4000  # of one figure with text in every cell; the positions beyond are left out
CELL_WIDTH, CELL_HEIGHT = 52, 25


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


MOST_TEXTS = 260  # cells of a heat map that still carry their number
ALPHA = 0.05


def pair_figure(view: View) -> Any:
    """The first value of a table with a row per pair of layers, as a heat map."""
    table = pair_table(view)
    value = view.values[0]
    if table.empty or not np.isfinite(table.to_numpy(dtype=float)).any():
        return style.empty(view.title, f"{value} is undefined for every pair of layers.")
    figure = _heat_map(table, value, view.plot.unit)
    caption = f"{value} of every pair of states; 0 enters the first block."
    return style.dressed(figure, view.title, caption, height=_height(table))


def pair_table(view: View) -> pd.DataFrame:
    """The first value of a table of pairs as `layer_a` by `layer_b`; the first stack of two."""
    frame = view.result.frame
    if "stack" in frame:
        frame = frame[frame["stack"] == frame["stack"].iloc[0]]
    if not view.values:
        return pd.DataFrame()
    return frame.pivot_table(
        index="layer_a", columns="layer_b", values=view.values[0], dropna=False
    )


def layers_figure(found: LayerComparison) -> Any:
    """Similarity of every pair of layers of two models; pairs above chance are outlined."""
    table, p = found.matrix(), found.matrix("p_max")
    figure = _heat_map(table, found.method, found.method)
    figure.update_xaxes(title_text=escape(f"state of {found.b}"))
    figure.update_yaxes(title_text=escape(f"state of {found.a}"))
    above = int((p < ALPHA).to_numpy().sum())
    best, null = found.best, found.frame["null_mean"].mean()
    caption = (
        f"{'; '.join(found.notes)}. Most alike: state {best['layer_a']:.0f} and state "
        f"{best['layer_b']:.0f} ({best['value']:.2f}, p = {best['p_max']:.2g} against the best "
        f"pair of each permutation). {above} of {p.size} pairs have p < {ALPHA} in that sense; "
        f"with prompts permuted the mean is {null:.2f}."
    )
    title = f"{found.method}: layers of {found.a} and {found.b}"
    return style.dressed(figure, title, caption, height=_height(table))


def _heat_map(table: pd.DataFrame, name: str, unit: str) -> Any:
    import plotly.graph_objects as go

    z = table.to_numpy(dtype=float, na_value=np.nan)
    low, high = float(np.nanmin(z)), float(np.nanmax(z))
    few = z.size <= MOST_TEXTS
    figure = go.Figure(
        go.Heatmap(
            z=[style.rounded(row, 4) for row in z],
            x=[str(c) for c in table.columns],
            y=[str(i) for i in table.index],
            zmin=min(low, 0.0),
            zmax=max(high, 1.0) if high <= 1 + 1e-9 else high,
            colorscale=style.SEQUENTIAL,
            colorbar=style.bar(unit),
            texttemplate="%{z:.2f}" if few else None,
            textfont={"size": 11},
            hovertemplate=f"state %{{y}} and state %{{x}}<br>{escape(name)} %{{z:.3f}}"
            "<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    axis = {"title_text": "state", "type": "category", "showline": False}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    figure.update_layout(meta={"width": 160 + 46 * table.shape[1]})
    return figure


def _height(table: pd.DataFrame) -> int:
    return 130 + max(150, min(700, 30 * len(table)))


def comparison_figure(found: SpaceComparison) -> Any:
    """Every score of a comparison, and the middle 95 % of its permutation null."""
    import plotly.graph_objects as go

    frame = found.frame
    names = [
        m if m == s else f"{m} · {s}" for m, s in zip(frame["method"], frame["score"], strict=True)
    ]
    draws = [found.nulls[m, s] for m, s in zip(frame["method"], frame["score"], strict=True)]
    low, high = (np.asarray([np.quantile(d, q) for d in draws]) for q in (0.025, 0.975))
    mean = frame["null_mean"].to_numpy()
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=style.rounded(mean),
            y=names,
            mode="markers",
            name="permuted: mean and middle 95 %",
            marker={"symbol": "line-ns-open", "size": 9, "color": style.MUTED},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": style.rounded(high - mean),
                "arrayminus": style.rounded(mean - low),
                "color": style.MUTED,
                "thickness": 5,
                "width": 0,
            },
            hovertemplate="%{y}<br>permuted: %{x:.3f}<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=style.rounded(frame["value"]),
            y=names,
            mode="markers",
            name="as matched",
            marker={"size": 10, "color": style.PALETTE[0]},
            customdata=[f"{p:.3g}" for p in frame["p_holm"]],
            hovertemplate="%{y}<br>%{x:.3f}, p (Holm) = %{customdata}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(
        title_text="score (a residual is better when it is lower)", rangemode="tozero"
    )
    # Below the axis and beside the names: the caption is above, and a margin does not grow.
    below = {"yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0}
    figure.update_layout(
        legend={"orientation": "h", **below},
        margin={"l": 24 + 7 * max(map(len, names)), "b": 92},
    )
    title = f"{found.a} and {found.b}"
    caption = f"{len(found.words)} words. {'. '.join(found.notes)}"
    return style.dressed(figure, title, caption, height=176 + 24 * len(names))


def drift_figure(found: Drift) -> Any:
    """Cosines of a word's occurrences per state: within a sense, between senses, at random."""
    import plotly.graph_objects as go

    labels = {
        "within": "same sense",
        "between": "different senses",
        "random": "with random other tokens",
    }
    figure = go.Figure()
    colours = (style.PALETTE[0], style.PALETTE[1], style.MUTED)
    for (column, name), colour in zip(labels.items(), colours, strict=True):
        figure.add_trace(
            go.Scatter(
                x=found.frame["layer"].tolist(),
                y=style.rounded(found.frame[column]),
                mode="lines+markers",
                name=name,
                line={"color": colour},
                hovertemplate="state %{x}<br>%{y:.3f}<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="state (0 enters the first block)", dtick=1)
    figure.update_yaxes(title_text="mean cosine")
    counts = ", ".join(f"{sense}: {n}" for sense, n in found.senses.items())
    apart = found.frame.loc[found.frame["p_max"] < ALPHA, "layer"].astype(str).tolist()
    said = f"states {', '.join(apart)}" if apart else "no state"
    caption = (
        f"Occurrences: {counts}. Same and different senses differ at {said} (p < {ALPHA}, senses "
        "shuffled among prompts, corrected for the number of states)."
    )
    if few := [note for note in found.notes if note.startswith("cannot be decided")]:
        caption = f"Occurrences: {counts}. Whether senses differ {few[0]}."
    return style.dressed(figure, f"{found.word!r} in context · {found.model}", caption)


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
