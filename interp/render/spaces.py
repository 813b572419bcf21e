"""Figures of spaces held against each other: layer by layer, score by score, sense by sense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.render import style
from interp.render.selection import View
from interp.render.tokens import escape

if TYPE_CHECKING:
    from interp.spaces import Drift, LayerComparison, SpaceComparison

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
