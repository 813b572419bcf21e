"""Figures of tables that no analysis declares: lines with bands, and values beside their control.

Knows columns; the numbers are not computed again here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.render import style
from interp.render.lines import HEIGHT, add_band, ends, name_lines, style_axes, y_limits
from interp.render.tokens import escape, label

MOST_BARS = 60


def lines_figure(
    lines: Mapping[str, pd.DataFrame],
    *,
    title: str,
    x: str,
    unit: str,
    caption: str = "",
    controls: Sequence[str] = (),
) -> Any:
    """A line per name, from columns `x`, `mean` and, where known, `low`, `high`; controls grey."""
    from plotly.subplots import make_subplots

    blank: dict[str, Any] = {"low": np.nan, "high": np.nan, "n": 0}
    parts = {
        name: rows.assign(**{c: v for c, v in blank.items() if c not in rows})
        for name, rows in lines.items()
        if rows["mean"].notna().any()
    }
    if not parts:
        return style.empty(title, "Every value is undefined.")
    own = style.colours([name for name in parts if name not in controls])
    palette = own | {name: style.CONTROL for name in parts if name in controls}
    figure = make_subplots()
    limits = y_limits(*parts.values())
    for name in [*(n for n in parts if n in controls), *own]:
        add_band(figure, name, parts[name], palette[name])
    name_lines(figure, ends(parts), palette, limits)
    style_axes(figure, pd.concat(parts.values()), x, unit, limits)
    return style.dressed(figure, title, caption, height=HEIGHT)


def bars_figure(
    frame: pd.DataFrame,
    name: str,
    value: str,
    *,
    title: str,
    unit: str,
    caption: str = "",
    control: str | None = None,
    group: str | None = None,
    band: tuple[str, str] | None = None,
) -> Any:
    """A point per row, in the order of the table, its control as a grey mark, its band as a bar."""
    import plotly.graph_objects as go

    shown = frame.head(MOST_BARS).reset_index(drop=True)
    if shown.empty or shown[value].isna().all():
        return style.empty(title, "There is no defined value to draw.")
    places = list(range(len(shown)))
    figure = go.Figure()
    if control is not None:
        figure.add_trace(_marks(shown[control], places))
    groups = [("", shown)] if group is None else list(shown.groupby(group, sort=False))
    palette = style.colours([str(key) for key, _ in groups])
    for key, rows in groups:
        at = rows.index.tolist()
        figure.add_trace(_points(rows, at, str(key), value, palette[str(key)], band))
    figure.update_yaxes(
        tickvals=places, ticktext=[label(str(t), 28) for t in shown[name]], autorange="reversed"
    )
    figure.update_xaxes(title_text=escape(unit), showgrid=True)
    figure.update_layout(
        showlegend=control is not None or group is not None,
        margin={"l": 60 + 7 * min(28, int(shown[name].astype(str).str.len().max()))},
    )
    more = len(frame) - len(shown)
    caption += f" The first {MOST_BARS} of {len(frame)} rows." if more else ""
    return style.dressed(figure, title, caption.strip(), height=120 + 22 * len(shown))


def _marks(values: pd.Series[Any], places: list[int]) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=style.rounded(values),
        y=places,
        mode="markers",
        name="control",
        marker={"symbol": "line-ns-open", "size": 12, "color": style.CONTROL},
        hovertemplate="control %{x:.4g}<extra></extra>",
    )


def _points(
    rows: pd.DataFrame,
    places: list[int],
    name: str,
    value: str,
    colour: str,
    band: tuple[str, str] | None,
) -> Any:
    import plotly.graph_objects as go

    error = None
    if band is not None:
        low, high = (rows[c].to_numpy(np.float64) for c in band)
        x = rows[value].to_numpy(np.float64)
        error = {"type": "data", "symmetric": False, "color": style.alpha(colour, 0.5), "width": 0}
        error |= {"array": style.rounded(high - x), "arrayminus": style.rounded(x - low)}
        error |= {"thickness": 4}
    return go.Scatter(
        x=style.rounded(rows[value]),
        y=places,
        mode="markers",
        name=label(name, 40) or "value",
        marker={"size": 9, "color": colour},
        error_x=error,
        hovertemplate="%{x:.4g}<extra></extra>",
    )


def matrices_figure(
    matrices: Mapping[str, Any],
    *,
    x: Sequence[str],
    y: Sequence[str],
    titles: tuple[str, str],
    title: str,
    unit: str,
    caption: str = "",
    top: float | None = None,
) -> Any:
    """Heat maps `[y, x]` side by side on one colour scale, up to `top` or the largest value."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    several = len(matrices) > 1
    figure = make_subplots(
        cols=len(matrices),
        shared_yaxes=True,
        horizontal_spacing=0.05,
        subplot_titles=[escape(n) for n in matrices] if several else None,
    )
    figure.update_annotations(font={"size": 13})
    arrays = [np.asarray(m, np.float64) for m in matrices.values()]
    low, high = (f([f(a[np.isfinite(a)]) for a in arrays]) for f in (np.min, np.max))
    few = arrays[0].size <= 260
    for i, array in enumerate(arrays, start=1):
        figure.add_trace(
            go.Heatmap(
                z=[style.rounded(row, 4) for row in array],
                texttemplate="%{z:.2f}" if few else None,
                textfont={"size": 11},
                coloraxis="coloraxis",
                hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
                xgap=1,
                ygap=1,
            ),
            row=1,
            col=i,
        )
    figure.update_xaxes(title_text=escape(titles[0]), **_ticks(x))
    figure.update_yaxes(autorange="reversed", **_ticks(y))
    figure.update_layout(
        yaxis_title_text=escape(titles[1]),
        coloraxis=_scale(float(low), max(float(high), top or -np.inf), unit),
        meta={"panels": len(matrices) if several else 0},
    )
    return style.dressed(figure, title, caption, height=150 + min(700, 24 * len(y)))


def _scale(low: float, high: float, unit: str) -> dict[str, Any]:
    """One colour scale; around zero where values have both signs."""
    if low < 0 < high:
        top = max(-low, high)
        return {"colorscale": style.DIVERGING, "cmin": -top, "cmax": top} | _bar(unit)
    return {"colorscale": style.SEQUENTIAL, "cmin": min(0.0, low), "cmax": high} | _bar(unit)


def _bar(unit: str) -> dict[str, Any]:
    return {"colorbar": style.bar(unit)}


def _ticks(names: Sequence[str]) -> dict[str, Any]:
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [label(n, 14) for n in names],
        "tickfont": {"family": style.MONO, "size": 11.5, "color": style.INK},
        "showline": False,
    }
