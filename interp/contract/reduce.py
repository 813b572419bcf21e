"""From what `observe` emits to state: rows per token, or moments per group of labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Array, to_numpy
from interp.contract.analysis import Batch, Emission
from interp.contract.counts import BINS, GroupCounts, bins
from interp.contract.document_sums import CLUSTERS, OPEN, DocumentSums, Parting
from interp.contract.leaves import (
    Grouped,
    GroupedMoments,
    Leaf,
    Moments,
    PerHead,
    PerToken,
    Rows,
    State,
    only,
)


@dataclass(frozen=True, eq=False)
class Groups:
    """Group of each token: `codes [batch, pos]` index `keys`; -1 for no group.

    `labels` names the parts of a key.
    """

    codes: Array
    keys: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...] = ()


def reduce_emissions(
    emitted: Mapping[str, Emission],
    batch: Batch,
    stack: str,
    groups: Groups | None,
    *,
    tokens: Collection[str] = (),
    tallied: bool = False,
) -> State:
    """Turns what `observe` returned into state.

    `groups` is None to keep rows, else the label tuples under which `PerToken` and `PerHead`
    become moments, and with `tallied` also bins for quantiles and sums over prompts, each of which
    lies in one batch. Values named in `tokens` are token ids: they are counted, because their mean
    means nothing.
    """
    state: State = {}
    parting = _parting(batch, groups) if groups else None
    own = -1 if batch.layer is None else batch.layer
    for name, value in emitted.items():
        if isinstance(value, Leaf):
            state.setdefault((stack, own), {})[name] = value
            continue
        for layer, rows in _by_layer(value, batch, own):
            leaves = state.setdefault((stack, layer), {})
            if groups is None or parting is None:
                leaves[name] = Rows.of(*batch.real[:2], rows)
            else:
                labels = groups.labels
                leaves |= _grouped(name, rows, parting, labels, name in tokens, tallied)
    return close_documents(state)


def _by_layer(value: PerToken | PerHead, batch: Batch, layer: int) -> list[tuple[int, Array]]:
    """The values of the real tokens, per layer; those of one layer under `layer`."""
    rows = _values_of(value, batch)
    # All layers at once: a transfer for each would cost more than a small pass.
    several = isinstance(value, PerToken) and value.values.ndim == 3
    return list(enumerate(rows)) if several else [(layer, rows)]


def _values_of(value: PerToken | PerHead, batch: Batch) -> Array:
    """The values of the real tokens: `[n]`, `[n, head]`, or `[layer, n]` of several layers."""
    _, _, (row, column) = batch.real
    values = value.values
    row, column = row.to(values.device), column.to(values.device)
    if isinstance(value, PerHead):
        # Advanced indices around a slice come first in the result, so heads end up last.
        return to_numpy(values[row, :, column])
    return to_numpy(values[..., row, column])


def _parting(batch: Batch, groups: Groups) -> Parting:
    prompt, _, (row, column) = batch.real
    return Parting.of(groups.codes[to_numpy(row), to_numpy(column)], groups.keys, prompt)


def group_rows(
    state: State,
    part: Callable[[Array, Array], Parting],
    labels: tuple[str, ...],
    tokens: Collection[str] = (),
) -> State:
    """A state whose `Rows` become what a summary keeps of them; other leaves stay.

    The sums of documents stay open, because the rest of a document may be in other rows:
    `close_documents` closes them.

    Args:
        part: groups and documents of tokens given by prompt id and position.
        labels: names of the parts of the groups' keys.
        tokens: values that are token ids.
    """
    out: State = {}
    seen: list[Array] = []  # values of one block have the same rows, which are parted once
    for place, leaves in state.items():
        found = out.setdefault(place, {})
        rows = only(leaves, Rows)
        for name, leaf in leaves.items():
            if name in rows:
                *at, values = rows[name].joined()
                if not seen or not all(np.array_equal(a, b) for a, b in zip(seen, at, strict=True)):
                    seen, parting = at, part(at[0], at[1])
                found |= _grouped(name, values, parting, labels, name in tokens, True)
            else:
                found[name] = leaf
    return out


def close_documents(state: State) -> State:
    """The state with every document taken as complete, so that it no longer grows with them."""
    out: State = {}
    for place, leaves in state.items():
        sums = only(leaves, DocumentSums)
        found = {name: leaf for name, leaf in leaves.items() if name not in sums}
        for name, leaf in sums.items():
            closed, key = leaf.closed(), name.removesuffix(OPEN) + CLUSTERS
            found[key] = found[key].merge(closed) if key in found else closed
        out[place] = found
    return out


def _grouped(
    name: str,
    values: Array,
    parting: Parting,
    labels: tuple[str, ...],
    tokens: bool,
    tallied: bool,
) -> dict[str, Leaf]:
    """The leaves that a summary keeps of one value."""
    rows = values[parting.order]
    if tokens:
        return {name: GroupCounts.of_runs(parting.keys, parting.run, rows, labels)}
    out: dict[str, Leaf] = {name: moments_of(rows, parting, labels)}
    if tallied:
        out[name + BINS] = bins_of(rows, parting, labels)
        out[name + OPEN] = parting.sums(values, labels)
    return out


def moments_of(rows: Array, parting: Parting, labels: tuple[str, ...]) -> Grouped:
    """Moments per group of `rows [n, ...]`, which are in the order of the parting."""
    moments = Moments.of_runs(rows, parting.starts)
    return Grouped(GroupedMoments(parting.keys, moments), labels)


def bins_of(rows: Array, parting: Parting, labels: tuple[str, ...]) -> GroupCounts:
    """Bins per group, for quantiles, of `rows [n]` or `[n, column]` in the order of the parting."""
    codes, defined = bins(rows)
    group = np.broadcast_to(parting.run.reshape(-1, *[1] * (rows.ndim - 1)), rows.shape)
    return GroupCounts.of_runs(parting.keys, group[defined], codes[defined], labels)


def groups_by(
    columns: Mapping[str, pd.Series[Any]],
    left_out: Array,
    starts: Array,
    ids: Array | None = None,
) -> Grouping:
    """Assigns the tokens of batches to groups by label columns.

    Args:
        columns: by name one value per token of the set; a token without one has no group.
        left_out: `[tokens]` bool, tokens that belong to no group whatever their labels.
        starts: `[prompts]` row of each prompt's first token.
        ids: `[prompts]` ascending, the prompts' ids in batches; 0, 1, … unless given.
    """
    code, keys = _coded(columns, left_out)
    return Grouping(code, keys, tuple(columns), starts, ids)


@dataclass(frozen=True, eq=False)
class Grouping:
    """A group number for every token of a set; made by `groups_by`."""

    code: Array
    keys: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    starts: Array
    ids: Array | None

    def of(self, prompt: Array, position: Array) -> Array:
        """Groups of tokens by prompt id and position; −1 for none."""
        # Chunks of a corpus have numbers of their own, with gaps.
        place = prompt if self.ids is None else np.searchsorted(self.ids, prompt)
        codes: Array = self.code[self.starts[place] + position]
        return codes

    def __call__(self, batch: Batch) -> Groups:
        codes: Array = np.full(tuple(batch.mask.shape), -1, dtype=np.int64)
        prompt, position, (row, column) = batch.real
        codes[row.cpu().numpy(), column.cpu().numpy()] = self.of(prompt, position)
        return Groups(codes, self.keys, self.labels)


def _coded(
    columns: Mapping[str, pd.Series[Any]], left_out: Array
) -> tuple[Array, tuple[tuple[str, ...], ...]]:
    """A group number for each token, -1 for none, and the groups' keys in order."""
    if not columns:
        return np.where(left_out, -1, 0), ((),)
    table = pd.DataFrame({name: column.array for name, column in columns.items()})
    missing = left_out | table.isna().any(axis=1).to_numpy(dtype=bool)
    # As text: keys are saved as JSON, and 1 and "1" would be two groups before and one after.
    texts = table[~missing].astype(str)
    number = texts.groupby(list(columns), sort=True).ngroup()
    keys = texts.drop_duplicates().sort_values(list(columns)).itertuples(index=False, name=None)
    code = np.full(len(table), -1, dtype=np.int64)
    code[~missing] = number.to_numpy()
    return code, tuple(keys)
