"""What a shard keeps of its pairs: moments, bins and flipped sums of each pair's own means.

The pair is the unit: the tokens that are read, heads and further rows are averaged within it, as
the tables in memory do. Everything here adds up over shards. Knows tables and groups; nothing of
models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp._arrays import Array, Floats
from interp.contract.columns import STATE
from interp.contract.counts import BINS
from interp.contract.document_sums import Parting
from interp.contract.leaves import Leaf, Moments, State, Sum
from interp.contract.reduce import bins_of, moments_of

PART = "part"
READ = "read"
"""The group of all tokens that are read, whatever their part."""
VALUE, CLEAN, FLIPS, REPEATED = "value", "clean", "flips", "repeated"
"""Names of the leaves of a layer: values, the clean side of them, flipped sums, repeated runs."""
NO_LAYER = -1
CHOSEN, ORDINARY = "~chosen", "~ordinary"
"""Columns of the tokens of a window; no table can have columns of these names."""


@dataclass(frozen=True)
class Shape:
    """Columns and layers of one table, the same in every shard.

    Attributes:
        columns: the measures, in the order of the last axis of all sums.
        layers: numbers of its layers; none for a table without.
        axis: name of the column that counts the layers.
        tested: numbers of the columns whose mean is tested against 0.
        sided: whether the table has the clean side of each column, as `NAME_clean`.
    """

    columns: tuple[str, ...]
    layers: tuple[int, ...]
    axis: str = "layer"
    tested: tuple[int, ...] = ()
    sided: bool = False

    @property
    def places(self) -> tuple[int, ...]:
        """The layers of the sums."""
        return self.layers or (NO_LAYER,)


@dataclass(frozen=True, eq=False)
class Window:
    """Pairs that are measured together.

    Attributes:
        tokens: the aligned tokens, with `CHOSEN`, whether the token is read, and `ORDINARY`,
            whether it counts for its part at all.
        labels: values of the group columns, a tuple of texts per pair.
        names: of these columns.
        numbers: of the pairs in the whole run.
        signs: `[1 + resamples, pairs]`, as `flip_signs` gives.
    """

    tokens: pd.DataFrame
    labels: Sequence[tuple[str, ...]]
    names: tuple[str, ...]
    numbers: Sequence[int]
    signs: Array


def summed(table: pd.DataFrame, shape: Shape, window: Window) -> State:
    """The sums of a table of one window, by layer.

    Args:
        table: a row per pair (counted in the window), place and layer.
    """
    places = window.tokens[["pair", "place", PART, CHOSEN, ORDINARY]]
    rows = table.merge(places, on=["pair", "place"])
    rows = rows if shape.layers else rows.assign(**{shape.axis: NO_LAYER})
    columns = list(shape.columns)
    if shape.sided:
        clean = [f"{name}_clean" for name in columns]
        # Both means over the same tokens: one side may be undefined where the other is not.
        known = rows[columns].notna().to_numpy()
        rows = rows.assign(**dict(zip(clean, rows[clean].where(known).T.to_numpy(), strict=True)))
        columns += clean
    read = _means(rows[rows[CHOSEN]], ["pair"], columns, shape)
    parts = _means(rows[rows[ORDINARY]], ["pair", PART], columns, shape)
    pair = np.concatenate([read[0]["pair"], parts[0]["pair"]]).astype(np.int64)
    part = [READ] * len(read[0]) + [str(p) for p in parts[0][PART]]
    values = np.concatenate([read[1], parts[1]])
    keys = [(p, *window.labels[i]) for p, i in zip(part, pair, strict=True)]
    numbers = np.asarray(window.numbers, np.int64)[pair]
    parting = _parting(keys, numbers)
    flipped = _flipped(read, shape, window.signs)
    own = len(shape.columns)
    state: State = {}
    for i, layer in enumerate(shape.places):
        leaves = _tallied(VALUE, values[:, i, :own], parting, window.names)
        if shape.sided:
            clean_rows = values[parting.order, i, own:]
            leaves[CLEAN] = moments_of(clean_rows, parting, (PART, *window.names))
        if shape.tested:
            leaves[FLIPS] = Sum(flipped[:, i])
        state["", layer] = leaves
    return state


def _means(
    rows: pd.DataFrame, keys: list[str], columns: list[str], shape: Shape
) -> tuple[pd.DataFrame, Floats]:
    """The groups of rows, and their means `[group, layer, column]`; NaN where there is none."""
    means = rows.groupby([*keys, shape.axis], sort=True)[columns].mean()
    groups = rows[keys].drop_duplicates().sort_values(keys, ignore_index=True)
    each = len(shape.places)
    grid = groups.loc[groups.index.repeat(each)].assign(
        **{shape.axis: np.tile(shape.places, len(groups))}
    )
    values = means.reindex(pd.MultiIndex.from_frame(grid)).to_numpy(np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    return groups, values.reshape(len(groups), each, len(columns))


def _parting(keys: list[tuple[str, ...]], numbers: Array) -> Parting:
    names = sorted(set(keys))
    place = {key: i for i, key in enumerate(names)}
    codes = np.asarray([place[key] for key in keys], dtype=np.int64)
    return Parting.of(codes, names, numbers)


def _tallied(name: str, values: Array, parting: Parting, names: tuple[str, ...]) -> dict[str, Leaf]:
    rows, labels = values[parting.order], (PART, *names)
    bins = bins_of(rows, parting, labels)
    return {name: moments_of(rows, parting, labels), name + BINS: bins}


def _flipped(read: tuple[pd.DataFrame, Floats], shape: Shape, signs: Array) -> Floats:
    """Σ sign · value over the pairs: `[1 + resamples, layer, tested column]`."""
    pair, values = read[0]["pair"].to_numpy(np.int64), read[1][:, :, list(shape.tested)]
    flat = np.nan_to_num(values).reshape(len(values), int(np.prod(values.shape[1:])))
    # By torch, whose number of threads is that of the job: the last bits depend on it.
    total = torch.from_numpy(signs[:, pair].copy()) @ torch.from_numpy(flat.copy())
    return np.asarray(total.numpy().reshape(len(signs), *values.shape[1:]))


def repeated(table: pd.DataFrame) -> dict[int, Moments]:
    """Moments, by state, of the distance of two runs of the same prompt over all tokens."""
    groups: Any = table.groupby(STATE)["repeated_distance"]
    return {int(state): Moments.of_rows(x.to_numpy(np.float64)) for state, x in groups}
