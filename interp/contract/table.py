"""The default table of a state: rows, groups of a summary, or what other leaves hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from interp._arrays import Array
from interp.contract.counts import BINS
from interp.contract.document_sums import CLUSTERS
from interp.contract.leaves import Grouped, Leaf, Rows, State, only, tabled


def default_table(state: State) -> pd.DataFrame:
    """Rows of `Rows` leaves, else one row per group of moments, else what the other leaves hold.

    The kinds are not mixed: where there are rows, sums and counts are left out. `Cov`, `Examples`,
    `Once` and leaves that give no `records` have no rows; an analysis that is about them writes
    `table`.
    """
    kind = next((k for k in (Rows, Grouped) if any(only(x, k) for x in state.values())), None)
    frames = []
    for (stack, layer), leaves in sorted(state.items()):
        frame = _layer_table(leaves, kind)
        if frame is not None:
            where = {"stack": stack} if stack else {}
            frames.append(frame.assign(**where, **({"layer": layer} if layer >= 0 else {})))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def rowless(state: State) -> str:
    """A sentence on a state of which `default_table` makes no row; "" where it makes some."""
    kinds = {n: type(leaf).__name__ for leaves in state.values() for n, leaf in leaves.items()}
    found = [leaf for leaves in state.values() for leaf in leaves.values()]
    if not found or tabled(found) or any(leaf.records() for leaf in found):
        return ""
    named = ", ".join(f"{name!r} is a {kind}" for name, kind in sorted(kinds.items()))
    one = sorted(kinds)[0]
    return (
        f"The table has no rows: {named}, of which no table is made. result.leaves({one!r}) has "
        "what was kept; an analysis with a `table` of its own shows it."
    )


def _layer_table(leaves: Mapping[str, Leaf], kind: type[Leaf] | None) -> pd.DataFrame | None:
    """The leaves of one kind, or without one the records of all."""
    if kind is Rows:
        rows = {name: leaf.sorted() for name, leaf in only(leaves, Rows).items()}
        return _rows_table(rows) if rows else None
    if kind is Grouped:
        tables = [_grouped_table(name, leaf, leaves) for name, leaf in leaves.items()]
        frames = [table for table in tables if not table.empty]
        return pd.concat(frames, ignore_index=True) if frames else None
    records = [{"value": name} | r for name, leaf in leaves.items() for r in leaf.records()]
    return pd.DataFrame(records) if records else None


def _rows_table(rows: Mapping[str, tuple[Array, Array, Array]]) -> pd.DataFrame:
    prompt, position, _ = next(iter(rows.values()))
    heads = {v.shape[1] for _, _, v in rows.values() if v.ndim == 2}
    n = heads.pop() if heads else 0
    index = {"prompt": prompt, "position": position}
    if not n:
        return pd.DataFrame(index | {name: v for name, (_, _, v) in rows.items()})
    table = {k: np.repeat(v, n) for k, v in index.items()}
    table["head"] = np.tile(np.arange(n), len(prompt))
    for name, (_, _, values) in rows.items():
        table[name] = values.reshape(-1) if values.ndim == 2 else np.repeat(values, n)
    return pd.DataFrame(table)


def _grouped_table(name: str, leaf: Leaf, leaves: Mapping[str, Leaf]) -> pd.DataFrame:
    """One row per group, and head where the values have some; empty for a leaf without groups."""
    # The bins of a value are no value of their own: they become its quantiles.
    if name.endswith(BINS):
        return pd.DataFrame()
    found = [leaves[name + end] for end in (CLUSTERS, BINS) if name + end in leaves]
    columns = leaf.group_columns(found)
    return pd.DataFrame({"value": name, **columns} if columns else {})
