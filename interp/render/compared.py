"""Two groups over layers: their means, their difference, and what shuffled labels would give.

Draws a `Comparison`; its numbers come from `interp.stats` and are not computed again here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from interp.analysis import Plot
from interp.render import style
from interp.render.lines import (
    CONTROL_NOTE,
    add_band,
    add_control,
    add_level,
    ends,
    name_lines,
    shade,
    y_limits,
)
from interp.render.means import ANYWHERE, has_group, means
from interp.render.selection import View, axis_column
from interp.render.tokens import escape, label
from interp.results import Result
from interp.stats import Comparison, compare

UPPER, LOWER = 300, 190
GAP = 54
TOTAL = UPPER + LOWER + GAP


def comparison_figure(
    comparison: Comparison,
    *,
    title: str | None = None,
    model: str = "",
    pairs: Result | None = None,
) -> Any:
    """Draw both groups with their bands, their contrast, and the band of shuffled labels.

    The contrast is the one that the test is about (`Comparison.contrast`); where it is that within
    prompts, the difference of the two drawn means is dotted beside it. Rows that differ are marked,
    with family-wise error over the figure. A comparison per layer and one more column (per
    head, say) is drawn as a grid of effect sizes. Never raises; `model` goes into the title, and
    `pairs` (the result of `random_pairs`) beside the groups.
    """
    named = title or f"{comparison.value}: {comparison.a} against {comparison.b}"
    named += f" · {model}" if model else ""
    frame = comparison.frame
    if frame.empty or frame["difference"].isna().all():
        return style.empty(named, "No row has two values in each group: nothing to compare.")
    others = [name for name in comparison.by if name != "layer"]
    if "layer" not in comparison.by or others:
        return _effects(comparison, named)
    unit = pairs.analysis.plots[0].unit if pairs else ""
    return _two_panels(comparison, named, random_lines(pairs), unit)


def her_figure(
    rotation: Result,
    pairs: Result | None = None,
    *,
    value: str = "angle",
    between: str = "role",
    a: str = "target",
    b: str = "previous",
    comparison: Comparison | None = None,
) -> Any:
    """Draw the "her" experiment: rotation of a target word and of the word before it.

    `pairs` is the result of `random_pairs`: the control of vectors that have nothing to do with
    each other. `comparison` saves computing it again. Never raises; says what is missing.
    """
    named = f"Rotation of {a} and {b} tokens · {rotation.model}".rstrip(" ·")
    problem = lacking(rotation, value, between, (a, b))
    if problem:
        return style.empty(named, problem)
    found = comparison or compare(rotation, value, between, a, b)
    if found.frame["difference"].isna().all() or "layer" not in found.by or len(found.by) > 1:
        return comparison_figure(found, model=rotation.model)
    return _two_panels(found, named, random_lines(pairs), rotation.analysis.plots[0].unit)


def lacking(result: Result, value: str, between: str, groups: tuple[str, str]) -> str:
    """What a table lacks for a comparison of two groups; empty if nothing."""
    frame = result.frame
    missing = [c for c in (between, value, "layer") if c not in frame]
    if missing:
        return f"The table of {result.name} has no column {', '.join(missing)}: label the prompts."
    rows = frame[has_group(frame[between])]
    if "special" in rows:
        rows = rows[~rows["special"].astype(bool)]
    for group in groups:
        known = rows[(rows[between] == group) & rows[value].notna()]
        if not known["layer"].duplicated().any():
            return f"There are not two defined values of {between} = {group} in any layer."
    finite = rows.loc[rows[between].isin(groups), value]
    if finite.nunique() < 2:
        return f"{value} is constant: there is nothing to compare."
    return ""


def random_lines(pairs: Result | None) -> dict[str, pd.DataFrame]:
    """Mean angle of random pairs: within each layer, and over any layers (`x` = −1)."""
    if pairs is None or "angle" not in pairs.frame or pairs.frame.empty:
        return {}
    view = View(pairs, Plot("line", ("angle",), ""))
    frame = view.rows()
    table = means(frame, ["angle"], axis_column(pairs, frame, ["angle"]), view.grouping(frame))
    table = table[table["mean"].notna()]
    return {f"random pairs, {g}": rows for g, rows in table.groupby("group", sort=False)}


# ---- two panels ------------------------------------------------------------------------------


def _two_panels(
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
            f"{_named(comparison)}: {comparison.a} − {comparison.b}",
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
    lines = {str(group): group_means(comparison, side) for group, side in _sides(comparison)}
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


def _sides(comparison: Comparison) -> list[tuple[object, str]]:
    return [(comparison.a, "a"), (comparison.b, "b")]


def group_means(comparison: Comparison, side: str) -> pd.DataFrame:
    """Mean, band and control of group `a` or `b`, in the columns that lines are drawn from."""
    frame = comparison.frame
    names = {"layer": "x", f"mean_{side}": "mean", f"n_{side}": "n"}
    names |= {f"mean_{side}_low": "low", f"mean_{side}_high": "high"}
    names |= {f"control_mean_{side}": "control"}
    known = [c for c in names if c in frame]
    return frame[known].rename(columns=names)


def _named(comparison: Comparison) -> str:
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


def significant(comparison: Comparison) -> tuple[pd.Series[bool], str]:
    """The rows that differ, with family-wise error over the table, and by which test."""
    return comparison.differs, comparison.test


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


def comparison_caption(comparison: Comparison, controls: bool) -> str:
    """How the bands and marks came about, from the comparison itself."""
    frame = comparison.frame
    level = f"{comparison.confidence:.0%}"
    n = f"{int(frame['n_a'].max())} and {int(frame['n_b'].max())} tokens"
    how = f"by resampling whole {comparison.cluster}s"
    if "welch_low" in frame:  # of a summary, which keeps sums instead of prompts
        how = f"the {comparison.cluster} being the unit that was sampled"
    parts = [f"{n}. Bands: {level} intervals of the means and of their difference, {how}."]
    if comparison.test == "permutation":
        parts.append(f"Grey: where the difference falls in {level} of shuffles of the labels.")
    if _named(comparison) != "difference":
        parts.append("Dotted, where it departs: the difference of the two means above.")
    parts.append(_starred(comparison))
    if "control_difference" in frame:
        parts.append(CONTROL_NOTE)
    if controls:
        parts.append(
            "Random pairs: angles between states of random tokens, within one layer and any two."
        )
    return " ".join(parts)


def _starred(comparison: Comparison) -> str:
    """What a star means, or why there can be none."""
    if not comparison.decidable:
        return f"No ★: whether rows differ {comparison.finding()}."
    how = "maximum statistic" if comparison.test == "permutation" else "Holm-corrected"
    return f"★: differs ({comparison.test} test, {how} p < {comparison.level:.2g})."


# ---- a grid of effects -----------------------------------------------------------------------


def _effects(comparison: Comparison, title: str) -> Any:
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
        f"Effect size of {comparison.a} − {comparison.b} ({_named(comparison)}) in standard "
        f"deviations. {_starred(comparison)}"
    )
    figure.update_layout(meta={"width": 150 + 34 * len(names)})
    return style.dressed(figure, title, caption, height=110 + max(120, 24 * len(ups)))
