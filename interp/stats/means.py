"""Means per layer with cluster-robust 95 % bands; the prompt is the sampling unit.

A tidy table comes in, a small table goes out: `value`, `group`, `x`, `mean`, `low`, `high`, `n`,
`clusters`, `undefined`. Knows columns, not what they measure, and nothing of figures.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from interp._arrays import Floats
from interp.contract.columns import by_name
from interp.contract.document_sums import small_sample
from interp.stats.paired import moved_within
from interp.stats.table import is_summary

COLUMNS = ["value", "group", "x", "mean", "low", "high", "n", "clusters", "undefined"]
CONFIDENCE = 0.95
Ranges = Mapping[str, tuple[float, float]]
NO_RANGES: Ranges = MappingProxyType({})
ANYWHERE = -1  # the place of rows that belong to no layer


def cluster_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that name the prompt (or pair of prompts) of a row."""
    if "prompt" in frame:
        return ["prompt"]
    pair = ["prompt_a", "prompt_b"]
    return pair if set(pair) <= set(frame.columns) else []


def means(
    frame: pd.DataFrame,
    values: Sequence[str],
    x: str | None,
    by: Sequence[str] = (),
    ranges: Ranges = NO_RANGES,
) -> pd.DataFrame:
    """Mean of every value per `x` and group of `by`, with its band; rows without a group left out.

    The variance of a mean sums residuals per prompt (Liang & Zeger 1986) or, for pairs, over
    pairs that share a prompt (Aronow, Samii & Assenova 2015), with the factor and the degrees of
    freedom of `interp.contract.document_sums.small_sample` (one less than the number of prompts,
    for prompts of equal length). With one prompt there is no band (NaN). The band of a value with
    a range (`ranges`, by name or pattern, as an analysis declares them) stays in it
    (`interp.stats.within_range`).
    """
    for name in by:
        frame = frame[has_group(frame[name])]
    keys = pd.DataFrame({"group": _names(frame, by), "x": _places(frame, x)}, index=frame.index)
    if is_summary(frame):
        return _inside(_of_moments(frame, keys, values), ranges)
    parts = [_one(frame, keys, value) for value in values]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    return _inside(table, ranges)


def _inside(table: pd.DataFrame, ranges: Ranges) -> pd.DataFrame:
    """The table with every band inside the range of its value."""
    for value in dict.fromkeys(table["value"]):
        ends = by_name(ranges, str(value))
        if ends is not None:
            rows = table["value"] == value
            mean, low, high = table.loc[rows, ["mean", "low", "high"]].to_numpy(np.float64).T
            table.loc[rows, "low"], table.loc[rows, "high"] = moved_within(mean, low, high, ends)
    return table


def random_lines(pairs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Mean angle of random pairs of states, by name: within each layer, and over any two layers.

    `pairs` is the table of the analysis `random_pairs`; the mean over any two layers has no `x`.
    """
    if "angle" not in pairs or pairs.empty:
        return {}
    stacks = ["stack"] if "stack" in pairs and len(pairs["stack"].unique()) > 1 else []
    table = means(pairs, ["angle"], "layer", ["kind", *stacks], {"angle": (0.0, 180.0)})
    table = table[table["mean"].notna()]
    table = table.assign(x=table["x"].where(table["x"] != ANYWHERE))
    return {f"random pairs, {g}": rows for g, rows in table.groupby("group", sort=False)}


def has_group(column: pd.Series[Any]) -> pd.Series[bool]:
    """Mask of the rows of a label column that carry a label."""
    return column.notna() & (column.astype(str) != "")


def _places(frame: pd.DataFrame, x: str | None) -> Any:
    """Place of each row along the axis, whole numbers as integers."""
    if x is None or frame.empty:
        return 0
    places = frame[x].to_numpy(dtype=np.float64, na_value=ANYWHERE)
    places = np.where(np.isfinite(places), places, ANYWHERE)
    return places.astype(np.int64) if (places == np.round(places)).all() else places


def _names(frame: pd.DataFrame, by: Sequence[str]) -> Any:
    if not by:
        return ""
    texts = [frame[name].astype(str) for name in by]
    return functools.reduce(lambda left, right: left + " · " + right, texts)


def _one(frame: pd.DataFrame, keys: pd.DataFrame, value: str) -> pd.DataFrame:
    x = frame[value].to_numpy(dtype=np.float64, na_value=np.nan)
    if frame.empty:
        return pd.DataFrame(columns=COLUMNS)
    cell = keys.groupby(["group", "x"], sort=True).ngroup().to_numpy()
    finite = np.isfinite(x)
    k = int(cell.max()) + 1
    n = np.bincount(cell[finite], minlength=k)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(cell[finite], weights=x[finite], minlength=k) / n
    residual = x[finite] - mean[cell[finite]]
    clusters = _codes([frame[c].to_numpy()[finite] for c in cluster_columns(frame)])
    half, count = _half_width(cell[finite], residual, clusters, n)
    _, first = np.unique(cell, return_index=True)
    out = keys.iloc[first].reset_index(drop=True)
    return out.assign(
        value=value,
        mean=mean,
        low=mean - half,
        high=mean + half,
        n=n,
        clusters=count,
        undefined=np.bincount(cell[~finite], minlength=k),
    )[COLUMNS]


def _codes(columns: list[Any]) -> list[Any]:
    """The prompts as numbers, the same prompt as the same number in every column."""
    if not columns:
        return []
    # Numbered together: prompt_a and prompt_b of a pair name the same prompts.
    codes, _ = pd.factorize(np.concatenate(columns))
    return np.split(codes, len(columns))


def _half_width(
    cell: NDArray[np.int64], residual: Floats, clusters: list[Any], n: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64]]:
    """Half the band's width per cell, and the number of clusters in it."""
    rows = clusters or [np.arange(len(cell))]
    first, second = rows[0], rows[-1]
    # A pair counts for both of its prompts, once if they are the same.
    other = first != second
    member = np.concatenate([first, second[other]])
    place = np.concatenate([cell, cell[other]])
    doubled = np.concatenate([residual, residual[other]])
    square, sizes, cubes, count = _sums(place, [member], doubled, len(n))
    with np.errstate(invalid="ignore", divide="ignore"):
        factor, df = small_sample(np.bincount(place, minlength=len(n)), sizes, cubes)
        # A pair of prompts i, j is in the sums of both; the pairs with the same two ends were then
        # added twice and are taken off once (inclusion and exclusion of dyads).
        if other.any():
            ends = [np.minimum(first, second)[other], np.maximum(first, second)[other]]
            square = square - _sums(cell[other], ends, residual[other], len(n))[0]
        variance = np.maximum(square, 0) * factor / n**2
        half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, df) * np.sqrt(variance)
    return np.where(count > 1, half, np.nan), count.astype(np.int64)


def _sums(
    cell: NDArray[np.int64], keys: list[Any], residual: Floats, k: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Over the clusters of each cell: Σ (Σ residuals)², Σ sizes², Σ sizes³, and their number."""
    table = pd.DataFrame({"cell": cell, "e": residual} | {f"k{i}": c for i, c in enumerate(keys)})
    parts = table.groupby(["cell", *(f"k{i}" for i in range(len(keys)))], sort=False)["e"]
    sums = parts.sum()
    where = sums.index.get_level_values("cell").to_numpy()
    sizes = parts.size().to_numpy(dtype=np.float64)
    terms = (sums.to_numpy(dtype=np.float64) ** 2, sizes**2, sizes**3, np.ones_like(sizes))
    square, second, third, count = (
        np.bincount(where, weights=x, minlength=k).astype(np.float64) for x in terms
    )
    return square, second, third, count


def _of_moments(frame: pd.DataFrame, keys: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    """The same from a summary: its moments, and its standard errors over documents.

    Heads drawn as one line are treated as perfectly correlated, which makes the band at least as
    wide as it should be. Labels drawn as one group have no band, because the table does not hold
    their covariance.
    """
    rows = frame[frame["value"].isin(list(values))]
    place = [keys.loc[rows.index, "group"], keys.loc[rows.index, "x"]]
    table = keys.loc[rows.index].assign(value=rows["value"], n=rows["n"])
    table["total"] = (rows["mean"] * rows["n"]).fillna(0)
    table["undefined"] = rows["undefined"]
    table["spread"] = rows["n"] * rows.get("se", np.nan)
    table["documents"] = rows.get("documents", 0)
    # Summaries saved before the column `df` existed: that of documents of equal size.
    table["df"] = rows.get("df", table["documents"] - 1)
    cells = table.groupby(["value", "group", "x"], sort=True)
    out = cells.sum().reset_index()
    out["mean"] = out["total"] / out["n"].where(out["n"] > 0)
    heads = rows["head"].fillna(-1) if "head" in rows else pd.Series(-1, rows.index)
    alone = ~pd.concat([rows["value"], *place, heads], axis=1).duplicated(keep=False)
    known = alone & (table["spread"].notna() | (rows["n"] == 0))
    whole = known.groupby([rows["value"], *place], sort=True).all().to_numpy()
    # Of several heads the fewest documents and degrees of freedom: the wider band.
    out["clusters"] = cells["documents"].min().to_numpy()
    quantile = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, cells["df"].min().to_numpy())
    half = (quantile * out["spread"] / out["n"]).where(whole)
    return out.assign(low=out["mean"] - half, high=out["mean"] + half)[COLUMNS]
