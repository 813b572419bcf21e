"""Tables of a run over pairs, from the sums of all shards.

What the tables in memory compute of all pairs' values follows here from moments and flipped sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import scipy

from interp._arrays import Floats
from interp.contract.columns import STATE
from interp.contract.counts import BINS
from interp.contract.leaves import Grouped, Moments, State, Sum, only
from interp.experiments.pair_corpus.sums import (
    CLEAN,
    FLIPS,
    NO_LAYER,
    READ,
    REPEATED,
    VALUE,
    Shape,
)
from interp.experiments.pair_corpus.worker import DISTANCES, GAP, PARTING
from interp.experiments.pair_tables import STEPS, range_of
from interp.runs.pairs import MEASURES, UNRELATED
from interp.stats.classical import holm, undefined_is_nan
from interp.stats.flips import flip_test, moment_band

_CONTROLS = tuple(f"unrelated_{name}" for name in UNRELATED)
_STATISTICS = ("std", "min", "q05", "q25", "median", "q75", "q95", "max", "undefined")


class Read:
    """Moments over all pairs of the tokens that are read: `[layer, column]`, and flipped sums.

    Args:
        state: the sums of a table.
        shape: of the table.
        leaf: the values, or the clean side of them.
    """

    def __init__(self, state: State, shape: Shape, leaf: str = VALUE) -> None:
        found = [_pooled(state, layer, leaf, len(shape.columns)) for layer in shape.places]
        self.n = np.stack([np.asarray(m.count, np.float64) for m in found])
        self.mean = np.stack([np.asarray(m.mean, np.float64) for m in found])
        self.m2 = np.stack([np.asarray(m.m2, np.float64) for m in found])

    def of(self, column: int) -> tuple[Floats, Floats, Floats]:
        """Number of pairs, mean and sum of squared deviations of a column: `[layer]` each."""
        return self.n[:, column], self.mean[:, column], self.m2[:, column]


def _pooled(state: State, layer: int, name: str, columns: int) -> Moments:
    """The moments of all groups of the tokens that are read, as one."""
    leaf: Any = state.get(("", layer), {}).get(name)
    stack = None if leaf is None else leaf.stack
    rows = [] if stack is None else [i for i, key in enumerate(stack.names) if key[0] == READ]
    if stack is None or not rows:
        none = np.full((0, columns), np.nan)
        return Moments.of_rows(none)
    merged: Moments = reduce(Moments.merge, (stack.moments.at(i) for i in rows))
    return merged


def flipped(state: State, shape: Shape, column: int) -> Floats:
    """Flipped sums of a tested column: `[1 + resamples, layer]`."""
    place = shape.tested.index(column)
    sums = [only(state["", layer], Sum)[FLIPS].total[:, place] for layer in shape.places]
    return np.stack(sums, axis=1)


def by_state(state: State, shape: Shape, confidence: float) -> pd.DataFrame:
    """Mean distances over pairs at every state, as the `frame` of `interp.pairs`."""
    read, states = Read(state, shape), np.asarray(shape.layers)
    place = {name: i for i, name in enumerate(shape.columns)}
    out: dict[str, Any] = {"layer": states, STATE: states, "block": states - 1}
    out["pairs"] = read.n[:, place["distance"]].astype(np.int64)
    for name in (*MEASURES, *STEPS, *_CONTROLS):
        n, mean, m2 = read.of(place[name])
        low, high = moment_band(n, mean, m2, *range_of(name), confidence)
        out |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    gap = place[GAP]
    test = flip_test(*read.of(gap), flipped(state, shape, gap))
    out |= {"unrelated_p": test.p, "unrelated_p_max": test.p_max}
    out["repeated_distance"] = [_largest(state, layer) for layer in shape.layers]
    return pd.DataFrame(out)


def _largest(state: State, layer: int) -> float:
    return float(only(state["", layer], Moments)[REPEATED].max)


def tested(
    name: str, state: State, shape: Shape, offset: int, confidence: float
) -> list[pd.DataFrame]:
    """Paired tests of every column of an analysis that has a value, as the `tests` in memory.

    Args:
        offset: from the number of a layer to that of the state that it leaves.
    """
    values, clean = Read(state, shape), Read(state, shape, CLEAN)
    number = np.asarray(shape.layers, np.float64) if shape.layers else np.full(1, np.nan)
    tables = []
    for place, column in enumerate(shape.columns):
        n, mean, m2 = values.of(place)
        if not n.any():
            continue
        low, high = moment_band(n, mean, m2, confidence=confidence)
        test = flip_test(n, mean, m2, flipped(state, shape, place))
        before = clean.mean[:, place]
        index = {"analysis": name, "column": column, "layer": number, STATE: number + offset}
        found = {"pairs": n.astype(np.int64), "mean_corrupted": before + mean, "mean_clean": before}
        found |= {"difference": mean, "low": low, "high": high, **test._asdict()}
        tables.append(pd.DataFrame(index | found))
    return tables


# ---- groups ------------------------------------------------------------------------------------


def grouped(
    name: str, state: State, shape: Shape, offset: int, confidence: float
) -> list[pd.DataFrame]:
    """A row per layer, part, group of labels and column of one table: what the pairs' means are."""
    tables = []
    for layer in shape.places:
        leaves = state.get(("", layer), {})
        groups = only(leaves, Grouped)
        leaf = groups.get(VALUE)
        if leaf is None or not leaf.stack:
            continue
        rows = pd.DataFrame(leaf.group_columns([leaves[VALUE + BINS]]))
        clean = groups.get(CLEAN)
        before = np.nan if clean is None else clean.stack.moments.mean.ravel()
        number = np.nan if layer == NO_LAYER else float(layer)
        index: dict[str, Any] = {
            "analysis": name,
            "column": [shape.columns[i] for i in rows["head"]],
        }
        index |= {"layer": number, STATE: number + offset}
        found = pd.concat([pd.DataFrame(index, index=rows.index), rows], axis=1)
        tables.append(_with_bands(found, leaf, name, before, confidence))
    return tables


@undefined_is_nan
def _with_bands(
    rows: pd.DataFrame, leaf: Grouped, name: str, before: Any, confidence: float
) -> pd.DataFrame:
    """Rows with intervals of their means and, for differences, Student's paired t."""
    labels = list(leaf.labels)
    moments = leaf.stack.moments
    n, mean, m2 = (
        np.asarray(x, np.float64).ravel() for x in (moments.count, moments.mean, moments.m2)
    )
    low, high = np.empty((2, len(rows)))
    for column in rows["column"].unique():
        at = (rows["column"] == column).to_numpy()
        ends = _ends(name, column)
        low[at], high[at] = moment_band(n[at], mean[at], m2[at], *ends, confidence)
    out = rows[["analysis", "column", "layer", STATE, *labels]].copy()
    out = out.assign(pairs=n.astype(np.int64), mean=mean, low=low, high=high)
    out[list(_STATISTICS)] = rows[list(_STATISTICS)]
    different = name not in (DISTANCES, PARTING)
    t = mean / np.sqrt(m2 / (n - 1) / n) if different else np.full(len(rows), np.nan)
    p = 2 * scipy.stats.t.sf(np.abs(t), n - 1)
    return out.assign(mean_clean=before, t=t, t_p=p)


def _ends(table: str, column: str) -> tuple[float, float]:
    """The range of a column, which intervals do not leave."""
    if table == DISTANCES and column != GAP:
        return range_of(column)
    return (-np.inf, np.inf)


def corrected(summary: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The rows with p by Holm over the layers of their column, part and group."""
    keys = ["analysis", "column", "part", *by]
    groups: Any = summary.groupby(keys, sort=False, dropna=False)["t_p"]
    out = summary.assign(t_p_holm=groups.transform(lambda p: holm(p.to_numpy())))
    # An empty text stands for a pair without the label.
    for name in by:
        out[name] = out[name].where(out[name] != "", None)
    order = {name: i for i, name in enumerate(dict.fromkeys(out["analysis"]))}
    place = out.assign(_analysis=out["analysis"].map(order))
    chosen = ["_analysis", "column", *("part", *by), "layer"]
    return place.sort_values(chosen, kind="stable", ignore_index=True).drop(columns="_analysis")


def meanings(by: Sequence[str]) -> Mapping[str, str]:
    """The meaning of the group columns."""
    return dict.fromkeys(by, "label of the pairs: the group that the row is of")
