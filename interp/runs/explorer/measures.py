"""Measures of the page: every number per token and depth, with its control and the group's band.

Knows tables and what an analysis declares; nothing of drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Array, Floats
from interp.contract.analysis import Plot, meaning
from interp.render.packed import packed
from interp.runs.explorer.shown import Shown, floats, of_stack, whole
from interp.runs.report.views import ResultLike, ResultsLike, View, numeric
from interp.stats.means import means
from interp.stats.table import is_summary

LONGEST_UNIT = 3  # words
LOW = 0.1  # the band is the middle 80 % of all tokens
OF_SUMMARY = "mean and middle 90 % of all tokens"
NO_UNIT = ("NaN", "same", "at", "or")


def measures_of(
    results: ResultsLike, shown: Shown, control_name: str | None
) -> list[dict[str, Any]]:
    """One entry per analysis, column and stack, for tables with a row per token (and layer).

    Tables of a summary, which have no rows of tokens, give means and bands only.
    """
    return [
        measure
        for result in results.values()
        for values in [columns_of(result)]
        if values
        for stack in shown.stacks
        for measure in _of_result(result, values, shown, stack, control_name)
    ]


def columns_of(result: ResultLike) -> list[str]:
    """The columns of a result that are a number per token and depth; none for other tables."""
    frame = result.frame
    if is_summary(frame):
        return [] if "head" in frame and frame["head"].notna().any() else numeric(result)
    if "head" in frame or not {"prompt", "position"} <= set(frame.columns):
        return []
    on = [c for c in ("stack", "prompt", "position", "layer") if c in frame]
    if frame.duplicated(on).any():
        return []  # rows of pairs, offsets or whatever else the analysis has as a key
    return [v for v in numeric(result) if v not in _of_ways(result)]


def _of_ways(result: ResultLike) -> set[str]:
    """Columns that the view of ways shows: coordinates, and facts that all rows share."""
    ways = [p for p in result.analysis.plots if p.kind == "trajectory"]
    if not ways or "line" not in {p.kind for p in result.analysis.plots}:
        return set()
    frame = result.frame
    drawn = {v for p in result.analysis.plots if p.kind == "line" for v in p.values}
    shared = {v for v in numeric(result) if len(frame) > 1 and _same(frame[v])}
    return ({v for p in ways for v in p.values} | shared) - drawn


def _same(column: pd.Series[Any]) -> bool:
    cells = column.to_numpy()
    return bool((cells == cells[0]).all())


def cells_per_token(results: ResultsLike) -> int:
    """Numbers that the page holds for each token."""
    total = 0
    for result in results.values():
        frame = result.frame
        depths = frame["layer"].nunique() if "layer" in frame else 1
        sides = 1 + (getattr(result, "control", None) is not None)
        total += len(columns_of(result)) * max(1, depths) * sides
    return total


def _of_result(
    result: ResultLike, values: Sequence[str], shown: Shown, stack: str, control_name: str | None
) -> Iterator[dict[str, Any]]:
    frame = of_stack(result.frame, stack)
    x = "layer" if "layer" in frame and (frame["layer"] >= 0).fillna(False).any() else None
    if frame.empty:
        return
    depths = np.unique(frame[x].to_numpy(dtype=np.float64)) if x else np.zeros(1)
    control = getattr(result, "control", None)
    beside = of_stack(control.frame, stack) if control is not None else None
    grids = _grids(frame, values, shown, x, depths)
    partial = shown.partial or is_summary(frame)
    # Of rows beside a summary of their copy, the copy has means alone.
    summed = beside is not None and is_summary(beside) and not is_summary(frame)
    others = {} if beside is None or summed else _grids(beside, values, shown, x, depths)
    bands = _bands(result, stack, values, x, depths) if partial else {}
    beyond = _bands(control, stack, values, x, depths) if control and (partial or summed) else {}
    where = f"{stack}: " if stack and len(shown.stacks) > 1 else ""
    for value in values:
        doc = meaning(result.analysis.columns, value) or ""
        yield {
            "name": f"{where}{result.name}.{value}",
            "title": f"{where}{_spaced(result.name)}: {_spaced(value)}",
            "unit": unit_of(result.analysis.plots, value, doc),
            "doc": doc,
            "axis": result.analysis.depth() if x else "none",
            "depth": [str(d) for d in whole(depths)] if x else [""],
            "values": packed(grids[value], "f4"),
            "control": packed(others[value], "f4") if value in others else None,
            "control_name": control_name if value in {*others, *beyond} else None,
            "band": bands.get(value),
            "control_band": beyond.get(value),
        }


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _grids(
    frame: pd.DataFrame, values: Sequence[str], shown: Shown, x: str | None, depths: Array
) -> dict[str, Floats]:
    """Each column as `[token, depth]`, NaN where a token has no row; none of a column it lacks."""
    shape = (len(shown.frame), len(depths))
    if is_summary(frame):
        return {v: np.full(shape, np.nan) for v in values if v in set(frame["value"])}
    token = shown.rows_of(frame)
    depth = np.zeros(len(frame), dtype=np.int64)
    known = token >= 0
    if x:
        layer = frame[x].to_numpy(dtype=np.float64)
        depth = np.searchsorted(depths, layer).clip(max=len(depths) - 1)
        known &= depths[depth] == layer
    out = {}
    for value in values:
        if value not in frame:
            continue
        out[value] = np.full(shape, np.nan)
        numbers = frame[value].to_numpy(dtype=np.float64, na_value=np.nan)
        out[value][token[known], depth[known]] = numbers[known]
    return out


def _bands(
    result: Any, stack: str, values: Sequence[str], x: str | None, depths: Array
) -> dict[str, dict[str, Any]]:
    """Mean and spread of every value per depth, over all ordinary tokens of the run."""
    rows = of_stack(View(result, Plot("line", (), "")).rows(), stack)
    if rows.empty:
        return {}
    if is_summary(rows):
        return _summary_bands(rows, values, x, depths)
    places = rows[x].to_numpy(dtype=np.float64) if x else np.zeros(len(rows))
    held = [v for v in values if v in rows]
    numbers = rows[held].apply(pd.to_numeric, errors="coerce").astype(float)
    groups = numbers.where(np.isfinite(numbers)).groupby(places, sort=True)
    spread = {"mean": groups.mean(), "low": groups.quantile(LOW), "high": groups.quantile(1 - LOW)}
    return {
        value: {
            name: floats(table[value].reindex(depths).to_numpy()) for name, table in spread.items()
        }
        for value in held
    }


def _summary_bands(
    rows: pd.DataFrame, values: Sequence[str], x: str | None, depths: Array
) -> dict[str, dict[str, Any]]:
    """The same from a summary: its means, and its quantiles where it has one group."""
    table = means(rows, list(values), x)
    rows = rows.assign(x=rows[x].astype(float) if x else 0.0)
    out = {}
    for value, part in table.groupby("value", sort=False):
        own = rows[rows["value"] == value]
        own = own[~own["x"].duplicated(keep=False)]  # quantiles of groups do not merge
        told = {"mean": _along(part, "mean", depths)}
        told |= {"low": _along(own, "q05", depths), "high": _along(own, "q95", depths)}
        out[str(value)] = {**told, "of": OF_SUMMARY}
    return out


def _along(table: pd.DataFrame, column: str, depths: Array) -> list[float | None]:
    """A column by its place `x`, None where there is no such place or no such column."""
    if column not in table:
        return [None] * len(depths)
    return floats(table.drop_duplicates("x").set_index("x")[column].reindex(depths).to_numpy())


def unit_of(plots: Sequence[Plot], value: str, doc: str) -> str:
    """Unit of a value: of a figure that shows it alone or with its like, else the end of its text.

    >>> unit_of((), "angle", "angle between x_l and x_{l+1}; degrees")
    'degrees'
    >>> unit_of((), "agrees", "whether it is the final distribution's most probable token too")
    ''
    """
    for part in reversed(doc.split("; ")[1:]):
        unit = part.split(",")[0].strip()
        if unit and len(unit.split()) <= LONGEST_UNIT and not unit.startswith(NO_UNIT):
            return unit
    return next((p.unit for p in plots if value in p.values and p.kind == "line"), "")
