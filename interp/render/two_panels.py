"""Two groups over layers: their means, their difference, and what shuffled labels would give.

Draws a `Comparison`; its numbers come from `interp.stats` and are not computed again here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.errors import unknown
from interp.render import style
from interp.render.lines import add_band, add_control, add_level, ends, name_lines, shade, y_limits
from interp.render.tokens import escape, label
from interp.runs.report.views import MOST_GROUPS
from interp.stats.comparison import Comparison, comparison_caption, group_means, sides
from interp.stats.means import ANYWHERE

if TYPE_CHECKING:
    from interp.experiments.groups import GroupComparison
    from interp.experiments.path_prediction import PathPrediction


UPPER, LOWER = 300, 190
GAP = 54
TOTAL = UPPER + LOWER + GAP


# ---- two panels ------------------------------------------------------------------------------


def two_panels(
    comparison: Comparison, title: str, controls: dict[str, pd.DataFrame], unit: str
) -> Any:
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=2,
        shared_xaxes=True,
        row_heights=[UPPER, LOWER],
        vertical_spacing=GAP / TOTAL,
        subplot_titles=[
            "mean of each group",
            f"{named(comparison)}: {comparison.a} − {comparison.b}",
        ],
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    frame = comparison.frame
    span = float(frame["layer"].min()), float(frame["layer"].max())
    _draw_means(figure, comparison, controls, span)
    _draw_difference(figure, comparison)
    air = max(0.03 * (span[1] - span[0]), 0.25)
    step = max(1, round((span[1] - span[0]) / 12))
    figure.update_xaxes(range=[span[0] - air, span[1] + air], dtick=step, tick0=0)
    figure.update_xaxes(title_text="block", row=2, col=1)
    figure.update_yaxes(title_text=escape(unit or comparison.value))
    figure.update_layout(hovermode="x unified", meta={"panels": 2, "width": 560})
    caption = comparison_caption(comparison, bool(controls))
    return style.dressed(figure, title, caption, height=TOTAL + 56)


def _draw_means(
    figure: Any,
    comparison: Comparison,
    controls: dict[str, pd.DataFrame],
    span: tuple[float, float],
) -> None:
    lines = {str(group): group_means(comparison, side) for group, side in sides(comparison)}
    palette = style.colours(list(lines)) | dict.fromkeys(controls, style.CONTROL)
    limits = y_limits(*lines.values(), *controls.values())
    where = {"row": 1, "col": 1}
    for name, rows in (controls | lines).items():
        everywhere = rows["x"] == ANYWHERE
        if "control" in rows:
            add_control(figure, name, rows, palette[name], **where)
        add_band(figure, name, rows[~everywhere], palette[name], **where)
        if everywhere.any():
            add_level(figure, name, rows[everywhere].iloc[0], palette[name], span, **where)
    name_lines(figure, ends(controls | lines), palette, limits, height=UPPER)
    figure.update_yaxes(range=list(limits), row=1, col=1)


def named(comparison: Comparison) -> str:
    """What the lower panel shows."""
    if comparison.contrast == "within_difference":
        return f"difference within {comparison.cluster}s"
    return "difference"


def _draw_difference(figure: Any, comparison: Comparison) -> None:
    frame, contrast = comparison.frame, comparison.contrast
    where = {"row": 2, "col": 1}
    low, high = comparison.null_band
    null = pd.DataFrame(
        {"x": frame["layer"], "mean": 0.0, "n": 0} | {"low": frame[low], "high": frame[high]}
    )
    rows = pd.DataFrame(
        {"x": frame["layer"], "mean": frame[contrast], "n": frame["n_a"] + frame["n_b"]}
        | {"low": frame[f"{contrast}_low"], "high": frame[f"{contrast}_high"]}
    )
    if null["low"].notna().all():
        shade(figure, null["x"], null["low"], null["high"], style.CONTROL, **where)
    figure.add_hline(y=0, line={"color": style.CONTROL, "width": 1, "dash": "dot"}, **where)
    pooled = rows.assign(mean=frame["difference"], low=np.nan, high=np.nan)
    apart = not np.allclose(pooled["mean"], rows["mean"], rtol=1e-3, equal_nan=True)
    if apart:
        _draw_pooled(figure, pooled, **where)
    add_band(figure, "difference", rows, style.INK, **where)
    if f"control_{contrast}" in frame:
        rows = rows.assign(control=frame[f"control_{contrast}"])
        add_control(figure, "difference", rows, style.INK, **where)
    limits = y_limits(rows, null, *([pooled] if apart else []))
    room = (limits[0], limits[1] + 0.16 * (limits[1] - limits[0]))
    _mark(figure, comparison, room[1] - 0.06 * (room[1] - room[0]))
    palette = {"shuffled labels": style.CONTROL, "difference": style.INK}
    shuffled = {"shuffled labels": null} if null["low"].notna().any() else {}
    points = ends({**shuffled, "difference": rows})
    name_lines(figure, points, palette, room, axis=2, height=LOWER)
    figure.update_yaxes(range=list(room), row=2, col=1)


def _draw_pooled(figure: Any, rows: pd.DataFrame, **where: int) -> None:
    """The difference of the two means over all tokens, dotted."""
    import plotly.graph_objects as go

    line = {"color": style.INK, "width": 1, "dash": "dot"}
    figure.add_trace(
        go.Scatter(
            x=rows["x"].tolist(),
            y=style.rounded(rows["mean"], 5),
            mode="lines",
            line=line,
            name="pooled over tokens",
            showlegend=False,
        ),
        **where,
    )


def _mark(figure: Any, comparison: Comparison, height: float) -> None:
    """A mark above every layer that differs."""
    import plotly.graph_objects as go

    rows = comparison.frame[comparison.differs]
    if rows.empty:
        return
    figure.add_trace(
        go.Scatter(
            x=rows["layer"].tolist(),
            y=[height] * len(rows),
            mode="markers",
            marker={"symbol": "star", "size": 8, "color": style.INK},
            customdata=style.rounded(rows[comparison.family_p], 2),
            hovertemplate="family-wise p = %{customdata:.2g}",
            name="differs",
            showlegend=False,
        ),
        row=2,
        col=1,
    )


def starred(comparison: Comparison) -> str:
    """What a star means, or why there can be none."""
    if not comparison.decidable:
        return f"No ★: whether rows differ {comparison.finding()}."
    how = "maximum statistic" if comparison.test == "permutation" else "Holm-corrected"
    return f"★: differs ({comparison.test} test, {how} p < {comparison.level:.2g})."


# ---- a grid of effects -----------------------------------------------------------------------


def effects(comparison: Comparison, title: str) -> Any:
    """Effect size per row of the comparison; layers upwards where there are layers."""
    import plotly.graph_objects as go

    frame = comparison.frame
    others = [name for name in comparison.by if name != "layer"]
    across = pd.Series("all", frame.index)
    if others:
        across = frame[others].astype(str).agg(" · ".join, axis=1)
    down = frame["layer"] if "layer" in frame else pd.Series("", frame.index)
    names, ups = list(dict.fromkeys(across)), sorted(down.unique().tolist())
    hits = comparison.differs
    z = np.full((len(ups), len(names)), np.nan)
    text = np.full(z.shape, "", dtype=object)
    for up, name, g, hit in zip(down, across, frame[comparison.effect], hits, strict=True):
        where = ups.index(up), names.index(name)
        z[where], text[where] = g, "★" if hit else ""
    top = float(np.nanmax(np.abs(z))) if np.isfinite(z).any() else 1.0
    figure = go.Figure(
        go.Heatmap(
            z=[style.rounded(row, 4) for row in z],
            x=[label(n) for n in names],
            y=ups,
            text=text.tolist(),
            texttemplate="%{text}",
            colorscale=style.DIVERGING,
            zmid=0,
            zmin=-top,
            zmax=top,
            colorbar=style.bar("Hedges g"),
            hovertemplate="%{y} · %{x}<br>g = %{z:.3g}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(title_text=escape(", ".join(others)), type="category")
    figure.update_yaxes(title_text="layer" if "layer" in frame else "")
    caption = (
        f"Effect size of {comparison.a} − {comparison.b} ({named(comparison)}) in standard "
        f"deviations. {starred(comparison)}"
    )
    figure.update_layout(meta={"width": 150 + 34 * len(names)})
    return style.dressed(figure, title, caption, height=110 + max(120, 24 * len(ups)))


COEFFICIENTS = ("pearson", "spearman", "partial_pearson", "partial_spearman")
UPPER, LOWER = 320, 150


def prediction_figure(found: PathPrediction, coefficient: str = "spearman") -> Any:
    """A panel per outcome: the coefficient with its band, and the band of shuffled outcomes.

    Raises `UnknownName` for a coefficient that is not there.
    """
    known = [c for c in COEFFICIENTS if c in found.frame]
    if coefficient not in known:
        raise unknown("coefficient", coefficient, known)
    partial = coefficient.startswith("partial_")
    title = f"{found.value} up to each layer and the next token: {coefficient.replace('_', ' ')}"
    if "stack" in found.frame and len(set(found.frame["stack"])) > 1:
        return style.empty(title, "There are several stacks: read the table.")
    panels = {str(o): rows for o, rows in found.frame.groupby("outcome", sort=False)}
    figure = _panels(list(panels))
    lines = {o: _lines(rows, coefficient) for o, rows in panels.items()}
    limits = y_limits(*(table for pair in lines.values() for table in pair))
    for i, (outcome, (null, rows)) in enumerate(lines.items(), start=1):
        where = {"row": 1, "col": i}
        add_band(figure, "shuffled", null, style.CONTROL, **where)
        add_band(figure, outcome, rows, style.PALETTE[0], **where)
        figure.update_yaxes(range=list(limits), zeroline=True, **where)
    figure.update_xaxes(title_text="block", dtick=_step(found.frame))
    figure.update_layout(hovermode="x unified", yaxis_title_text="correlation")
    taken = f" {', '.join(found.partial)} taken out." if partial else ""
    caption = (
        f"{int(found.frame['n'].max()):,} tokens of {int(found.frame['prompts'].max())} prompts. "
        f"Bands: {found.confidence:.0%} by resampling whole prompts. Grey: outcomes shuffled "
        f"within prompts.{taken} At the last block it is the whole {found.value}."
    )
    return style.dressed(figure, title, caption, height=340)


def _panels(names: list[str]) -> Any:
    from plotly.subplots import make_subplots

    figure = make_subplots(
        cols=len(names),
        shared_yaxes=True,
        horizontal_spacing=0.035,
        subplot_titles=[escape(n) for n in names],
    )
    figure.update_annotations(font={"size": 13})
    figure.update_layout(meta={"panels": len(names)})
    return figure


def _lines(rows: pd.DataFrame, coefficient: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The band of the shuffles, and the coefficient with its own."""
    low, high = rows[f"{coefficient}_shuffled_low"], rows[f"{coefficient}_shuffled_high"]
    base = {"x": rows["layer"], "n": rows["n"]}
    null = pd.DataFrame(base | {"mean": (low + high) / 2, "low": low, "high": high})
    own = {"mean": rows[coefficient]}
    own |= {side: rows[f"{coefficient}_{side}"] for side in ("low", "high")}
    return null, pd.DataFrame(base | own)


def groups_figure(found: GroupComparison) -> Any:
    """The mean of each group over layers with its band; below, η² against shuffled labels."""
    title = f"{found.value} by {found.by}"
    if found.rows != ("layer",) or len(found.tests) < 2:
        return style.empty(title, "There are no layers of one stack to draw: read the table.")
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=2,
        shared_xaxes=True,
        row_heights=[UPPER, LOWER],
        vertical_spacing=0.11,
        subplot_titles=["mean of each group", "variance between groups (η²)"],
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    _draw_groups(figure, found)
    _draw_eta(figure, found)
    figure.update_xaxes(dtick=_step(found.tests))
    figure.update_xaxes(title_text="block", row=2, col=1)
    figure.update_layout(hovermode="x unified", meta={"panels": 2})
    few = len(found.groups) - MOST_GROUPS
    caption = (
        f"{int(found.tests['n'].max()):,} {found.level}s. Bands: {found.confidence:.0%} for the "
        f"mean, prompts being the unit that was sampled. Grey: η² of labels shuffled within "
        f"prompts, mean. ★, by permutation within prompts: {found.finding()}."
        + (f" The {MOST_GROUPS} largest groups; {few} smaller ones are not drawn." * (few > 0))
    )
    return style.dressed(figure, title, caption, height=UPPER + LOWER + 90)


def _draw_groups(figure: Any, found: GroupComparison) -> None:
    names = [str(g) for g in found.groups[:MOST_GROUPS]]
    palette = style.colours(names)
    frame = found.frame.rename(columns={"layer": "x"})
    lines = {name: frame[frame[found.by].astype(str) == name] for name in names}
    limits = y_limits(*lines.values())
    for name, rows in lines.items():
        add_band(figure, name, rows, palette[name], row=1, col=1)
    name_lines(figure, ends(lines), palette, limits, height=UPPER)
    figure.update_yaxes(range=list(limits), row=1, col=1)


def _draw_eta(figure: Any, found: GroupComparison) -> None:
    import plotly.graph_objects as go

    tests = found.tests
    hits = found.differs
    for name, column, colour in (
        ("shuffled labels", "shuffled_eta2", style.CONTROL),
        ("η²", "eta2", style.INK),
    ):
        figure.add_trace(
            go.Scatter(
                x=tests["layer"].tolist(),
                y=style.rounded(tests[column]),
                mode="lines+markers+text" if column == "eta2" else "lines",
                text=["★" if hit else "" for hit in hits],
                textposition="top center",
                line={"color": colour, "width": 2},
                name=name,
                showlegend=False,
                hovertemplate="%{y:.3g}",
            ),
            row=2,
            col=1,
        )
    most = float(tests[["eta2", "shuffled_eta2"]].max().max())
    figure.update_yaxes(range=[0, 1.25 * most], row=2, col=1)  # room for the stars


def _step(frame: pd.DataFrame) -> int:
    return max(1, round(float(frame["layer"].max() - frame["layer"].min()) / 12))
