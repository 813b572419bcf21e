"""Vertical range of a line figure, without the few values that lie far from all others.

The first state of a lens can lie a hundred nats below the rest, which is then a flat line on the
same axis. Such a place is left outside the axis, marked at its edge, and named in the caption.
Knows tables of means (`x`, `value`, `mean`, `low`, `high`, `control`); draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

DRAWN = ("mean", "low", "high", "control")
FAR = 3.0  # a place is cut off if it lies so many times the range of the others away from them
FEWEST = 5  # places along the axis, below which none is left out
SHARE = 16  # at most one place in so many is left out, and one in any case


@dataclass(frozen=True)
class Window:
    """The range that is drawn, and the values outside it: columns `x`, `name`, `y`."""

    low: float
    high: float
    outside: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def limits(self) -> tuple[float, float]:
        return self.low, self.high

    def said(self, word: str, unit: str = "") -> str:
        """A sentence for the caption; empty if nothing is outside."""
        parts = []
        for x, rows in self.outside.groupby("x") if len(self.outside) else ():
            told = [f"{name} {number(y)}" for name, y in zip(rows["name"], rows["y"], strict=True)]
            parts.append(f"{word} {x:g} ({', '.join(told)}{f' {unit}' if unit else ''})")
        if not parts:
            return ""
        return (
            f"The vertical axis is cut, so that the other values can be read: outside lies "
            f"{'; '.join(parts)}."
        )


def window(table: pd.DataFrame) -> Window:
    """The range of all values, or of all but a few places that lie far from the others."""
    places = table["x"].dropna().unique()
    whole = value_range(table)
    if whole is None:
        return Window(0.0, 1.0)
    kept = table
    for _ in range(max(1, len(places) // SHARE) if len(places) >= FEWEST else 0):
        kept = _without_farthest(kept)
        inner = value_range(kept)
        if inner is not None and _all_far(table, kept, inner):
            low, high = with_air(*inner)
            left = _points(table[~table["x"].isin(kept["x"])])
            return Window(low, high, left[~left["y"].between(low, high)])
    return Window(*with_air(*whole))


def with_air(low: float, high: float) -> tuple[float, float]:
    """A range with a margin of 7 % on either side."""
    air = 0.07 * (high - low) or max(abs(high) * 0.1, 1e-6)
    return low - air, high + air


def value_range(*tables: pd.DataFrame) -> tuple[float, float] | None:
    """Lowest and highest of all means, bands and controls; None if there is no number."""
    columns = [t[c].to_numpy(dtype=np.float64) for t in tables for c in DRAWN if c in t]
    if not columns:
        return None
    y = np.concatenate(columns)
    y = y[np.isfinite(y)]
    return (float(y.min()), float(y.max())) if len(y) else None


def _without_farthest(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the place that adds most to its range."""
    mean = table["mean"].to_numpy(dtype=np.float64)
    if not np.isfinite(mean).any():
        return table
    ends = table["x"].to_numpy()[[np.nanargmin(mean), np.nanargmax(mean)]]
    rests = [table[table["x"] != x] for x in ends if not pd.isna(x)]
    sizes = [_size(rest) for rest in rests]
    return rests[int(np.argmin(sizes))] if rests else table


def _size(table: pd.DataFrame) -> float:
    found = value_range(table)
    return found[1] - found[0] if found else np.inf


def _all_far(table: pd.DataFrame, kept: pd.DataFrame, inner: tuple[float, float]) -> bool:
    """True if every place left out has a mean far beyond the range of the others."""
    size = inner[1] - inner[0]
    left = table[~table["x"].isin(kept["x"])]
    beyond = pd.concat([inner[0] - left["mean"], left["mean"] - inner[1]], axis=1).max(axis=1)
    farthest = beyond.groupby(left["x"]).max()
    return bool(len(farthest) and (farthest > FAR * size).all() and _varies(kept))


def _varies(table: pd.DataFrame) -> bool:
    """True if the lines move by more than the width of an interval, so that a cut shows more."""
    lines = table[[c for c in ("mean", "control") if c in table]].to_numpy(dtype=np.float64)
    width = (table["high"] - table["low"]).median() if "low" in table else np.nan
    return bool(np.nanmax(lines) - np.nanmin(lines) > np.nan_to_num(width))


def _points(table: pd.DataFrame) -> pd.DataFrame:
    """Every mean, and every mean of the untrained copy, as `x`, `name`, `y`."""
    name = table["value"].where(table["group"] == "", table["value"] + " · " + table["group"])
    points = [pd.DataFrame({"x": table["x"], "name": name, "y": table["mean"]})]
    if "control" in table:
        untrained = name + ", untrained"
        points.append(pd.DataFrame({"x": table["x"], "name": untrained, "y": table["control"]}))
    return pd.concat(points, ignore_index=True).dropna(subset="y")


def number(value: float) -> str:
    """Four digits, with a minus sign that is as wide as a plus."""
    return f"{value:.4g}".replace("-", "−")
