"""The default table of a state: rows, groups of a summary, or what other leaves hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Array
from interp.contract.columns import MODE, MOMENTS
from interp.contract.counts import BINS, QUANTILES, GroupCounts, group_quantiles
from interp.contract.document_sums import CLUSTERS, Clustered
from interp.contract.leaves import Count, Grouped, Histogram, Leaf, Moments, Rows, State, Sum, TopK


def default_table(state: State) -> pd.DataFrame:
    """Rows of `Rows` leaves, else one row per group of moments, else what the other leaves hold.

    The kinds are not mixed: beside rows, sums and counts are left out. `Cov`, `Examples`, `Once`
    and leaves of a plug-in's own have no rows; an analysis that is about them writes `table`.
    """
    leaves_of = [leaf for leaves in state.values() for leaf in leaves.values()]
    kind = next((k for k in (Rows, Grouped) if any(isinstance(x, k) for x in leaves_of)), None)
    frames = []
    for (stack, layer), leaves in sorted(state.items()):
        frame = _layer_table(leaves, kind)
        if frame is not None:
            where = {"stack": stack} if stack else {}
            frames.append(frame.assign(**where, **({"layer": layer} if layer >= 0 else {})))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _layer_table(leaves: Mapping[str, Leaf], kind: type[Leaf] | None) -> pd.DataFrame | None:
    """The leaves of one kind, or without one the records of all."""
    if kind is Rows:
        rows = {n: leaf.sorted() for n, leaf in leaves.items() if isinstance(leaf, Rows)}
        return _rows_table(rows) if rows else None
    if kind is Grouped:
        frames = [f for name, leaf in leaves.items() for f in _grouped_table(name, leaf, leaves)]
        return pd.concat(frames, ignore_index=True) if frames else None
    records = [r for name, leaf in leaves.items() for r in _records(name, leaf)]
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


def _grouped_table(name: str, leaf: Leaf, leaves: Mapping[str, Leaf]) -> list[pd.DataFrame]:
    """One row per group, and head where the moments have some; nothing of another leaf."""
    if isinstance(leaf, GroupCounts) and not name.endswith(BINS):
        groups = sorted(leaf.groups.items())
        records = [_token_record(name, _named(leaf, key), *counts) for key, counts in groups]
        return [pd.DataFrame(records)] if records else []
    if not isinstance(leaf, Grouped) or not leaf.groups:
        return []
    keys, moments = leaf.stack.names, leaf.stack.moments
    each = int(np.prod(moments.count.shape[1:]))
    columns: dict[str, Any] = {"value": [name] * (len(keys) * each)}
    for label, part in zip(_label_names(leaf, keys[0]), zip(*keys, strict=True), strict=True):
        columns[label] = [text for text in part for _ in range(each)]
    if moments.count.ndim > 1:
        columns["head"] = np.tile(np.arange(each), len(keys))
    columns |= {k: np.ravel(v) for k, v in _statistics(moments).items()}
    sums, counts = leaves.get(name + CLUSTERS), leaves.get(name + BINS)
    if isinstance(sums, Clustered):
        place = _positions(sums.keys, keys)
        columns["documents"] = np.ravel(sums.documents[place]).astype(np.int64)
        columns["se"] = np.ravel(sums.se[place])
        columns["df"] = np.ravel(sums.df[place])
    if isinstance(counts, GroupCounts):
        shares = group_quantiles(counts.table, list(QUANTILES.values()), each)
        found = shares[_positions(counts.table.names, keys)].reshape(-1, len(QUANTILES))
        columns |= dict(zip(QUANTILES, found.T, strict=True))
    return [pd.DataFrame(columns)]


def _positions(of: Sequence[tuple[str, ...]], wanted: Sequence[tuple[str, ...]]) -> Array:
    """Index of each wanted key."""
    place = {key: i for i, key in enumerate(of)}
    return np.asarray([place[key] for key in wanted], dtype=np.int64)


def _label_names(leaf: Grouped | GroupCounts, key: tuple[str, ...]) -> tuple[str, ...]:
    return leaf.labels or tuple(f"group_{i}" for i in range(len(key)))


def _named(leaf: Grouped | GroupCounts, key: tuple[str, ...]) -> dict[str, str]:
    """The parts of a key under the names of their labels."""
    return dict(zip(_label_names(leaf, key), key, strict=True))


def _token_record(
    name: str, labels: Mapping[str, str], ids: Array, counts: Array
) -> dict[str, Any]:
    """The most frequent id (the lowest of several), its share, and how many there are."""
    best, total = int(counts.argmax()), int(counts.sum())
    nothing = dict.fromkeys(MOMENTS[1:-1], math.nan)
    return {
        "value": name,
        **labels,
        "n": total,
        **nothing,
        "undefined": 0,
        MODE: int(ids[best]),
        "mode_share": counts[best] / total,
        "distinct": len(ids),
    }


def _records(name: str, leaf: Leaf) -> list[dict[str, Any]]:
    """What a leaf of its own holds: one record per entry, bin or kept token."""
    if isinstance(leaf, Moments):
        return _moment_records(name, {}, leaf, axis="entry")
    if isinstance(leaf, Sum | Count):
        column, array = ("total", leaf.total) if isinstance(leaf, Sum) else ("n", leaf.n)
        if np.ndim(array) == 0:
            return [{"value": name, column: array.item()}]
        return [{"value": name, "entry": i, column: v} for i, v in enumerate(np.ravel(array))]
    if isinstance(leaf, Histogram):
        ends = [-np.inf, *leaf.edges, np.inf]
        bins = zip(ends[:-1], ends[1:], leaf.counts, strict=True)
        return [{"value": name, "low": low, "high": high, "n": n} for low, high, n in bins]
    if isinstance(leaf, TopK):
        kept = zip(leaf.prompt, leaf.position, leaf.scores, strict=True)
        return [{"value": name, "prompt": p, "position": i, "score": s} for p, i, s in kept]
    return []


def _moment_records(
    name: str, labels: Mapping[str, str], moments: Moments, axis: str = "head"
) -> list[dict[str, Any]]:
    """One record per value, and per head (or other `axis`) where the moments carry one."""
    stats = _statistics(moments)
    if np.ndim(moments.count) == 0:
        return [{"value": name, **labels} | {k: v.item() for k, v in stats.items()}]
    return [
        {"value": name, **labels, axis: i} | {k: np.ravel(v)[i].item() for k, v in stats.items()}
        for i in range(np.size(moments.count))
    ]


def _statistics(moments: Moments) -> dict[str, Array]:
    """The columns of a summary, in their order; minimum and maximum of no value are NaN."""
    some = moments.count > 0
    return {
        "n": moments.count,
        "mean": moments.mean,
        "std": np.sqrt(moments.variance),
        "min": np.where(some, moments.min, np.nan),
        "max": np.where(some, moments.max, np.nan),
        "undefined": moments.undefined,
    }
