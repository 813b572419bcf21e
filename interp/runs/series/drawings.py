"""Drawings of a series: a value over the axis, over layers, and over both.

Knows the table of curves that a result makes; nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from interp.errors import unknown
from interp.render.drawing import Drawing, nothing
from interp.stats.change_point import is_geometric, log_places
from interp.stats.table import is_summary

WAYS = ("axis", "layers", "both")
MOST_LINES = 8
MOST_PANELS = 4
MOST_TICKS = 12
IF_NULL = "every line would stay within its band from the first member to the last."


def drawing_of(
    result: Any,
    value: str | None = None,
    *,
    over: str | None = None,
    by: str | Sequence[str] = (),
    layers: Sequence[int] | None = None,
    depth: str = "index",
    special: bool = False,
) -> Drawing:
    """A value of a `SeriesResult` as a drawing; arguments as of its `plot`."""
    if over is not None and over not in WAYS:
        raise unknown("value of over", over, WAYS)
    labels = [by] if isinstance(by, str) else list(by)
    curves = result.curves(value, by=labels, depth=depth, special=special)
    chosen = result.rows(value, special=special)[0]
    if layers is not None and "layer" in curves:
        curves = _only(curves, layers)
    way = over or ("axis" if result.series.ordered else "layers")
    if "layer" not in curves or curves["layer"].isna().all():
        way = "axis"
    if curves["mean"].isna().all():
        return nothing(chosen, f"Every value of {chosen} is undefined.")
    makers = {"axis": _over_axis, "layers": _over_layers, "both": _over_both}
    return makers[way](result, curves, chosen, labels)


def _only(curves: pd.DataFrame, layers: Sequence[int]) -> pd.DataFrame:
    known = sorted(curves["layer"].dropna().unique().astype(int).tolist())
    for layer in layers:
        if layer not in known:
            raise unknown("layer", str(layer), map(str, known))
    return curves[curves["layer"].isin(list(layers))]


def _unit(result: Any, value: str) -> str:
    plots = (plot for plot in result.analysis.plots if value in plot.values)
    return next((plot.unit for plot in plots if plot.unit), value)


def _caption(result: Any, curves: pd.DataFrame) -> str:
    unit, prompts = result.series.unit, int(curves["prompts"].max())
    band = f"Bands: 95 % intervals of the mean, with {unit} as the sampling unit."
    if curves["mean"].isna().all():
        band = "No band: no value is defined."
    elif curves["low"].isna().all():
        pooled = "a summary has none of several groups together; by= draws them apart."
        few = f"an interval needs two {unit}."
        band = f"No band: {pooled if prompts > 1 and is_summary(result.frame) else few}"
    undefined = int(curves["undefined"].sum())
    lost = f" {undefined:,} undefined values are not averaged." if undefined else ""
    return f"Means over the tokens of {prompts:,} {unit} in every member. {band}{lost}"


# ---- over the axis ---------------------------------------------------------------------------


def _over_axis(result: Any, curves: pd.DataFrame, value: str, labels: Sequence[str]) -> Drawing:
    """A line per layer or head; with labels or several runs a line for each, a panel per layer."""
    curves, said = _few_lines(curves, labels)
    lines = [c for c in (*labels, "run") if c in curves]
    place = _place_names(result, curves)
    several = len(set(place)) > 1
    names = [curves[c].astype(str) for c in lines]
    group = reduce(lambda left, right: left + " · " + right, names) if lines else place
    panel = place if several and lines else pd.Series(value, curves.index)
    table = curves.assign(value=panel, group=group.where(group != "", value), x=curves["at"])
    options = _axis_of(result)
    if "x" in options:
        table["x"] = table["x"].map(options.pop("x"))
    return Drawing(
        "lines",
        f"{value} over the series",
        table[["value", "group", "x", "mean", "low", "high", "n"]],
        _unit(result, value),
        result.series.axis,
        f"{_caption(result, curves)}{said}",
        if_null=IF_NULL,
        options=options,
    )


def _kind(result: Any) -> str:
    return "state" if result.analysis.depth() == "state" else "block"


def _place_names(result: Any, curves: pd.DataFrame) -> pd.Series[Any]:
    """A name for the layer (and head) of each row; empty for one without."""
    if "layer" not in curves:
        return pd.Series("", curves.index)
    kind = _kind(result)
    names = curves["layer"].map(lambda x: f"{kind} {int(x)}" if x == x and x >= 0 else "")
    if "head" in curves:
        names = names + ", head " + curves["head"].astype(int).astype(str)
    return names


def _axis_of(result: Any) -> dict[str, Any]:
    """Options of the axis: places, or the names of members that have none."""
    members = result.series.members
    # The jump of one line is what a series is looked at for: it may not be cut off.
    if result.series.ordered:
        return axis_options(members["at"].tolist()) | {"whole": True}
    return {
        "whole": True,
        "ticks": dict(zip(members["at"].astype(float), members["member"], strict=True)),
    }


def _few_lines(curves: pd.DataFrame, labels: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """The lines that a figure holds: layers evenly chosen, or the heads highest at the end."""
    most = MOST_PANELS if labels or "run" in curves else MOST_LINES
    if "head" in curves:
        last = curves[curves["at"] == curves["at"].max()]
        order = last.groupby(["layer", "head"])["mean"].mean().sort_values(ascending=False)
        if len(order) <= most:
            return curves, ""
        kept = pd.MultiIndex.from_frame(curves[["layer", "head"]]).isin(order.index[:most])
        return curves[kept], f" The {most} heads that are highest at the end, of {len(order)}."
    if "layer" not in curves:
        return curves, ""
    known = np.sort(curves["layer"].dropna().unique())
    if len(known) <= most:
        return curves, ""
    chosen = known[np.unique(np.linspace(0, len(known) - 1, most).round().astype(int))]
    return curves[curves["layer"].isin(chosen)], f" {len(chosen)} of {len(known)} layers."


def axis_options(at: Sequence[float]) -> dict[str, Any]:
    """Scale and ticks of the axis for the places of members: options of the kind "lines".

    `x` maps a place to where it is drawn: a place 0 has none on a logarithmic axis.
    """
    places = np.unique(np.asarray(at, np.float64))
    log = is_geometric(places)
    drawn = log_places(places) if log else places
    step = max(1, -(-len(places) // MOST_TICKS))
    kept = sorted({*range(0, len(places), step), len(places) - 1})
    ticks = {float(drawn[i]): f"{places[i]:g}" for i in kept}
    x = dict(zip(places.tolist(), drawn.tolist(), strict=True))
    return {"log": log, "ticks": ticks, "x": x}


# ---- over layers, and over both --------------------------------------------------------------


def _over_layers(result: Any, curves: pd.DataFrame, value: str, labels: Sequence[str]) -> Drawing:
    """A line per member: its profile over layers; heads are averaged."""
    members = curves["member"].unique().tolist()
    chosen = _spread(members, MOST_LINES)
    rows = curves[curves["member"].isin(chosen)]
    keys = ["member", *labels, "layer"]
    if "head" in rows:
        rows = rows.groupby(keys, sort=False)[["mean", "n"]].mean().reset_index()
        rows = rows.assign(low=np.nan, high=np.nan)
    panel = rows[labels[0]].astype(str) if labels else pd.Series(value, rows.index)
    table = rows.assign(value=panel, group=rows["member"].astype(str), x=rows["layer"])
    left = f" {len(chosen)} of {len(members)} members." if len(chosen) < len(members) else ""
    return Drawing(
        "lines",
        f"{value} over layers, a line per member",
        table[["value", "group", "x", "mean", "low", "high", "n"]],
        _unit(result, value),
        _kind(result),
        f"{_caption(result, curves)}{left}",
    )


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    if len(items) <= most:
        return list(items)
    where = np.unique(np.linspace(0, len(items) - 1, most).round().astype(int))
    return [items[i] for i in where]


def _over_both(result: Any, curves: pd.DataFrame, value: str, labels: Sequence[str]) -> Drawing:
    """A cell per layer and member; a panel per label; heads are averaged."""
    members = [m for m in result.series.members["member"] if m in set(curves["member"])]
    number = {name: i for i, name in enumerate(members)}
    keys = ["member", *labels, "layer"]
    rows = curves.groupby(keys, sort=False)["mean"].mean().reset_index()
    table = pd.DataFrame(
        {
            "panel": rows[labels[0]].astype(str) if labels else "",
            "row": rows["layer"].astype(int),
            "column": rows["member"].map(number),
            "value": rows["mean"],
        }
    )
    named: Mapping[str, float] = dict(
        zip(result.series.members["member"], result.series.members["at"], strict=True)
    )
    told = [f"{named[m]:g}" if result.series.ordered else m for m in members]
    if "run" in result.series.axis_columns:
        told = list(members)
    return Drawing(
        "heat",
        f"{value} by layer and member",
        table,
        _unit(result, value),
        result.series.axis,
        f"Means over the tokens of {int(curves['prompts'].max())} {result.series.unit} in every "
        "member.",
        options={"columns": told, "y": _kind(result), "cell": (52, 26)},
    )
