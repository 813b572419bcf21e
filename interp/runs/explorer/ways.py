"""The ways of tokens through the layers, in the coordinates that an analysis gave all of them.

`trajectory` keeps the states of the first tokens of a run, by default 256; the others have no
coordinates and are NaN here. All share one basis, so that ways can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Floats
from interp.contract.analysis import Plot
from interp.render.packed import packed
from interp.runs.explorer.shown import Shown, floats, of_stack, whole
from interp.runs.report.views import ResultLike, ResultsLike

AXES = 3


def way_plots(result: ResultLike) -> list[Plot]:
    """The declared figures of ways that the table has the columns of, most axes first."""
    frame = result.frame
    if "head" in frame or not {"prompt", "position", "layer"} <= set(frame.columns):
        return []
    plots = [p for p in result.analysis.plots if p.kind == "trajectory" and len(p.values) > 1]
    held = [p for p in plots if set(p.values) <= set(frame.columns)]
    return sorted(held, key=lambda p: -len(p.values))


def trajectory_of_page(results: ResultsLike, shown: Shown) -> dict[str, Any] | None:
    """The ways as the page reads them, of the first result that has some; None without any."""
    named = sorted(results.values(), key=lambda r: r.name != "trajectory")
    result = next((r for r in named if way_plots(r)), None)
    if result is None:
        return None
    names = way_plots(result)[0].values[:AXES]
    # A model with two stacks has a basis for each; the page shows the first stack's.
    stack = shown.stacks[0]
    frame = of_stack(result.frame, stack)
    depths = np.unique(frame["layer"].to_numpy(dtype=np.float64))
    if not (shown.rows_of(frame) >= 0).any():
        return None
    control = getattr(result, "control", None)
    beside = of_stack(control.frame, stack) if control is not None else frame.head(0)
    has = len(beside) > 0 and set(names) <= set(beside.columns)
    return {
        "states": [str(d) for d in whole(depths)],
        "axes": list(names),
        **_ways(frame, names, shown, depths),
        "control": _ways(beside, names, shown, depths) if has else None,
    }


def _ways(
    frame: pd.DataFrame, names: Sequence[str], shown: Shown, depths: Floats
) -> dict[str, Any]:
    coordinates = _coordinates(frame, names, shown, depths)
    return {"explained": _shares(frame, names), "coords": packed(coordinates, "f4")}


def _coordinates(frame: pd.DataFrame, names: Sequence[str], shown: Shown, depths: Floats) -> Floats:
    """`[token, state, axis]`; NaN for a token, state or axis without a coordinate."""
    out = np.full((len(shown.frame), len(depths), AXES), np.nan)
    token, layer = shown.rows_of(frame), frame["layer"].to_numpy(dtype=np.float64)
    depth = np.searchsorted(depths, layer).clip(max=len(depths) - 1)
    known = (token >= 0) & (depths[depth] == layer)
    for axis, name in enumerate(names):
        values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        out[token[known], depth[known], axis] = values[known]
    return out


def _shares(frame: pd.DataFrame, names: Sequence[str]) -> list[float | None]:
    """Share of the variance along each axis, None where the table does not have it."""
    found = [frame.get(f"{name}_share") for name in names]
    shares = [np.nan if c is None or not len(c) else float(c.iloc[0]) for c in found]
    return floats(np.asarray([*shares, *[np.nan] * (AXES - len(shares))]))
