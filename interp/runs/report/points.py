"""Drawings of single tokens: scatter plots, and paths through the layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interp.render.drawing import Drawing, nothing
from interp.render.tables import is_number
from interp.render.tokens import label, percent
from interp.runs.report.views import View
from interp.stats.means import has_group

MOST_POINTS = 5000
MOST_PATHS = 40


def points_of(view: View) -> Drawing:
    """The second value against the first, coloured by group, else by layer."""
    values = view.values
    if len(values) < 2:
        return nothing(view.title, _needs(view, 2), kind="points")
    rows, note = _thinned(_defined(view, values[:2]))
    if rows.empty:
        why = f"No row has both {values[0]} and {values[1]}."
        return nothing(view.title, why, kind="points")
    table = _placed(view, rows, values[:2]).assign(text=_texts(rows, view.result.analysis.keys))
    caption = f"{note} {view.left_out()}".strip()
    titles = [_axis_name(view, v, " of the variance") for v in values[:2]]
    return Drawing("points", view.title, table, caption=caption, options={"titles": titles})


def paths_of(view: View) -> Drawing:
    """Paths of tokens through the layers, in two or three values, and the mean of each group."""
    values = view.values[:3]
    if len(values) < 2 or not {"prompt", "position", "layer"} <= set(view.result.frame.columns):
        return nothing(view.title, _needs(view, 2), kind="paths")
    rows = _defined(view, values)
    if rows.empty:
        return nothing(view.title, f"No row has all of {', '.join(values)}.", kind="paths")
    on = [c for c in ("stack", "prompt", "position") if c in rows]
    number = rows.groupby(on, sort=True).ngroup()
    total = number.max() + 1
    table = _placed(view, rows, values).assign(path=number, mean=False, text=_texts(rows))
    parts = [table[number < MOST_PATHS].sort_values(["path", "layer"], kind="stable")]
    if view.by:
        parts.append(_mean_paths(table.assign(**{c: rows[c] for c in on if c == "stack"})))
    means_note = f" Thick: the means of each group, over all {total} tokens." if view.by else ""
    cut = f" The first {MOST_PATHS} of {total} tokens are drawn." if total > MOST_PATHS else ""
    caption = f"One line per token, from its first layer (small dot) to its last (large dot).{cut}"
    of = "" if len(values) == 3 else " of the variance"
    return Drawing(
        "paths",
        view.title,
        pd.concat(parts, ignore_index=True),
        caption=f"{caption}{means_note} {view.left_out()}".strip(),
        options={"titles": [_axis_name(view, v, of) for v in values]},
    )


def _mean_paths(table: pd.DataFrame) -> pd.DataFrame:
    """The mean of each group at every layer."""
    axes = [a for a in "xyz" if a in table]
    keys = ["group", *(c for c in ("stack",) if c in table), "layer"]
    mean = table.groupby(keys, sort=True)[axes].mean().reset_index()
    names = zip(mean["group"], mean["layer"], strict=True)
    return mean.assign(
        path=-1, mean=True, text=[f"mean of {label(g)}, layer {n}" for g, n in names]
    )


def _placed(view: View, rows: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    """The rows as points: axes, group, and layer if there is one."""
    names = rows[list(view.by)].astype(str).agg(" · ".join, axis=1) if view.by else ""
    axes = {a: rows[v].astype(float) for a, v in zip("xyz", values, strict=False)}
    depth = {"layer": rows["layer"]} if "layer" in rows else {}
    return pd.DataFrame({**axes, **depth}, index=rows.index).assign(group=names)


def _axis_name(view: View, value: str, of: str) -> str:
    """A value with its unit, and with its share of the whole if the table has one."""
    units = view.plot.unit.split(", ")  # one for all axes, or one for each
    unit = units[view.values.index(value)] if len(units) == len(view.values) else view.plot.unit
    unit = f" ({unit})" if unit else ""
    share = view.result.frame.get(f"{value}_share")
    if share is None or share.isna().any() or len(share.unique()) != 1:
        return value + unit
    return f"{value}{unit}, {percent(share.iloc[0])}{of}"


def _needs(view: View, n: int) -> str:
    have = ", ".join(view.values) or "none"
    return f"A {view.plot.kind} needs {n} numeric columns per token; this table has: {have}."


def _defined(view: View, values: Sequence[str]) -> pd.DataFrame:
    rows = view.rows()
    keep = np.isfinite(rows[list(values)].to_numpy(dtype=np.float64, na_value=np.nan)).all(axis=1)
    for name in view.by:
        keep &= has_group(rows[name]).to_numpy()
    chosen: pd.DataFrame = rows[keep]
    return chosen


def _thinned(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """At most `MOST_POINTS` rows, evenly spaced in the table, and a sentence on their number."""
    if len(rows) <= MOST_POINTS:
        return rows, f"{len(rows):,} rows."
    take = np.linspace(0, len(rows) - 1, MOST_POINTS).round().astype(int)
    return rows.iloc[take], f"{MOST_POINTS:,} of {len(rows):,} rows, evenly spaced."


def _texts(rows: pd.DataFrame, keys: Sequence[str] = ()) -> list[str]:
    """Hover text of every point: its token and the keys of its row."""
    texts = [c for c in ("token", *keys) if c in rows and not is_number(rows[c])]
    columns = [c for c in ("prompt", "position", "layer", *keys) if c in rows and c not in texts]
    parts = [rows[c].map(lambda v, c=c: f"{c} {v}") for c in columns]
    parts = [*(rows[c].map(label) for c in texts), *parts]
    return [", ".join(p) for p in zip(*parts, strict=True)] if parts else [""] * len(rows)
