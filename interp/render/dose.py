"""Dose–response curves: the given direction with its band, random ones in grey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.render import style
from interp.render.tokens import escape

if TYPE_CHECKING:
    from interp.doses import DoseResponse


def dose_figure(response: DoseResponse) -> Any:
    """Effect by dose; the grey area is from the lowest to the highest random direction."""
    import plotly.graph_objects as go

    frame = response.frame
    figure = go.Figure()
    random, given = (frame[frame["direction"] == kind] for kind in ("random", "given"))
    if len(random):
        _band(figure, random, "lowest", "highest", style.CONTROL)
        _line(figure, random, "random directions", style.CONTROL)
    _band(figure, given, "low", "high", style.PALETTE[0])
    _line(figure, given, "given direction", style.PALETTE[0])
    unit = "nats" if response.measure == "log_prob" else "logits"
    figure.update_xaxes(title_text=escape(f"dose ({response.unit})"))
    figure.update_yaxes(title_text=escape(f"change of {response.measure} ({unit})"))
    return style.dressed(figure, _title(response), _caption(response, len(random) > 0))


def _title(response: DoseResponse) -> str:
    return f"Steering by {response.kind}: {response.measure.replace('_', ' ')} of {response.target}"


def _caption(response: DoseResponse, controlled: bool) -> str:
    prompts = int(response.frame["prompts"].max())
    text = f"Mean over {prompts} prompts. Band: {100 * response.confidence:g} %, over prompts."
    if controlled:
        text += (
            " Grey: mean, and range of single ones, of random directions of the same norm; a "
            "direction that means nothing stays within it."
        )
    return text


def _band(figure: Any, rows: pd.DataFrame, low: str, high: str, colour: str) -> None:
    import plotly.graph_objects as go

    rows = rows[rows[low].notna()]
    x = [*rows["dose"], *rows["dose"][::-1]]
    figure.add_trace(
        go.Scatter(
            x=x,
            y=style.rounded([*rows[high], *rows[low][::-1]]),
            fill="toself",
            mode="lines",
            fillcolor=style.alpha(colour, 0.2),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
    )


def _line(figure: Any, rows: pd.DataFrame, name: str, colour: str) -> None:
    import plotly.graph_objects as go

    figure.add_trace(
        go.Scatter(
            x=rows["dose"].tolist(),
            y=style.rounded(rows["effect"]),
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": 2},
            hovertemplate="dose %{x:.4g}: %{y:.4g}<extra>" + name + "</extra>",
        )
    )
