"""The contract: `Batch`, what an analysis reads, and `Analysis`, what it is.

An analysis is a frozen dataclass whose fields are its parameters. It declares the sites it reads,
observes one batch at a time without keeping anything, and emits leaves (`interp.state`). Nothing
here knows how hooks are attached or where prompts come from.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp._columns import MODE, MOMENTS
from interp.clustered import CLUSTERS, OPEN, Clustered, DocumentSums, Parting
from interp.errors import BadInput, unknown
from interp.sites import SITES
from interp.state import (
    Array,
    Count,
    Grouped,
    GroupedMoments,
    Histogram,
    Leaf,
    Moments,
    PerHead,
    PerToken,
    Rows,
    State,
    Sum,
    TopK,
    to_numpy,
)
from interp.tallies import BINS, QUANTILES, Tallies, bins, group_quantiles

Scope = Literal["layer", "model", "weights"]
Emission = Leaf | PerToken | PerHead


@dataclass(frozen=True, eq=False)
class Batch:
    """What one call of `observe` gets; everything an analysis may look at is in here.

    Attributes:
        sites: activations by site name; shapes as in `interp.sites.SITES`.
        tokens: `[batch, pos]` int64 token ids.
        mask: `[batch, pos]` bool, true for real tokens.
        special: `[batch, pos]` bool, true for BOS and the like.
        ids: `[batch]` int64, the prompt's number in the whole run.
        positions: `[batch, pos]` int64, the token's position in its prompt (padding not counted).
        targets: `[batch, pos]` int64, the next token unless the caller gave others; -1 for none.
        key_tokens, key_mask: `[batch, key]`, the tokens that can be attended to: the same as
            `tokens` and `mask`, but with a KV cache also those of earlier passes (-1 if unknown).
        layer: block index; None in scopes "model" and "weights".
        n_layers: number of blocks in the stack.
        terms: additive terms of the block by their true names (`attn`, `mlp`, `mixer`, …), each
            `[batch, pos, d_model]`; empty where the decomposition does not close.
        before: what this analysis emitted for the previous block of the same batch; None at the
            first one. It makes running totals over depth possible without state.
        readout: path from residual vectors to vocabulary statistics, if the model has one.
        model: the model itself, in scope "weights" only.
    """

    sites: Mapping[str, Tensor]
    tokens: Tensor
    mask: Tensor
    special: Tensor
    ids: Tensor
    positions: Tensor
    targets: Tensor
    key_tokens: Tensor
    key_mask: Tensor
    layer: int | None = None
    n_layers: int = 1
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    before: Mapping[str, Emission] | None = None
    readout: Any = None
    model: Any = None

    def __getitem__(self, site: str) -> Tensor:
        try:
            return self.sites[site]
        except KeyError:
            raise unknown("site in this batch", site, self.sites) from None

    def get(self, site: str) -> Tensor | None:
        """The activation of an optional site, or None where this block has none."""
        return self.sites.get(site)

    def running(self, name: str, step: Tensor) -> Tensor:
        """`step [batch, pos]` plus what `name` had come to at the previous block."""
        if self.before is None:
            return step
        earlier = self.before[name]
        if not isinstance(earlier, PerToken):
            raise BadInput(f"running({name!r}) adds up a PerToken, not {type(earlier).__name__}")
        # A model may lie on several devices.
        return earlier.values.to(step.device) + step

    def to_grid(self, values: Tensor) -> Tensor:
        """Values of the real tokens, `[state, row]` in the order of `x[mask]`, on the rectangle.

        Returns `[state, batch, pos]`, zero under the mask.
        """
        out = values.new_zeros(len(values), *self.mask.shape)
        out[:, self.mask] = values
        return out

    @cached_property
    def real(self) -> tuple[Array, Array, tuple[Tensor, Tensor]]:
        """Prompt ids and positions of the real tokens, and their indices `(row, column)`."""
        row, column = self.mask.nonzero(as_tuple=True)
        prompt = to_numpy(self.ids[row.to(self.ids.device)])
        return prompt, to_numpy(self.positions[row, column]), (row, column)


@dataclass(frozen=True, eq=False)
class Groups:
    """Which group each token belongs to: `codes [batch, pos]` index `keys`; -1 for no group.

    `labels` names the parts of a key.
    """

    codes: Array
    keys: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """Declares a figure; it is drawn centrally (`interp.render`).

    Attributes:
        kind: "line" (mean per layer with band), "heatmap" (layer × position of one prompt),
            "attention" (maps), "scatter" or "trajectory".
        values: columns to draw.
        title: what the figure shows.
        unit: unit of the value axis.
        nothing: a sentence on what the figure would look like if there were nothing to see; it
            stands below the figure in a report.
    """

    kind: Literal["line", "heatmap", "scatter", "trajectory", "attention"]
    values: tuple[str, ...]
    title: str
    unit: str = ""
    nothing: str = ""


@dataclass(frozen=True)
class Analysis(ABC):
    """Base of every analysis. Parameters are fields of a frozen dataclass, stored verbatim.

    Class attributes:
        sites: what it reads, from `interp.sites.SITES`.
        optional: sites it uses where the model has them.
        scope: "layer": `observe` is called once per block and the framework adds `layer`;
            "model": once per batch, with all boundary states stacked in site "stream";
            "weights": once, with `batch.model`, without prompts.
        columns: every value column of the table and what it means, with its unit.
        keys: columns of the table that say what a row is about, beside the usual index.
        token_columns: columns that hold token ids and are shown as text.
        plots: the figures to draw, most important first.
    """

    sites: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    scope: ClassVar[Scope] = "layer"
    columns: ClassVar[Mapping[str, str]] = {}
    keys: ClassVar[tuple[str, ...]] = ()
    token_columns: ClassVar[tuple[str, ...]] = ()
    plots: ClassVar[tuple[Plot, ...]] = ()

    @abstractmethod
    def observe(self, batch: Batch) -> Mapping[str, Emission]:
        """Read one batch, return named leaves. Pure: no state in `self`, inputs untouched."""

    @classmethod
    def name(cls) -> str:
        """Name in snake case, as in the registry: `LogitLens` is `logit_lens`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def parameters(self) -> dict[str, Any]:
        """The parameters by name, as given."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def restore(cls, parameters: Mapping[str, Any]) -> Self:
        """Build from `parameters` that went through JSON, which has lists where tuples were."""
        return cls(**{name: _tuples(value) for name, value in parameters.items()})

    def table(self, state: State) -> pd.DataFrame:
        """Tidy table of the state; see `default_table` for which leaves it knows."""
        return default_table(state)

    @classmethod
    def wanted(cls) -> tuple[str, ...]:
        """Every site it reads, required ones first; unknown names raise."""
        for site in (*cls.sites, *cls.optional):
            if site not in SITES:
                raise unknown(f"site (declared by analysis {cls.name()!r})", site, SITES)
        return (*cls.sites, *cls.optional)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def weights_batch(model: Any) -> Batch:
    """What an analysis of scope "weights" gets: the model and no tokens."""
    empty = torch.zeros(0, 0, dtype=torch.int64, device="cpu")
    no, ids = empty.bool(), empty[0:0].flatten()
    return Batch({}, empty, no, no, ids, empty, empty, empty, no, model=model)


def meaning(columns: Mapping[str, str], name: str) -> str | None:
    """What `columns` says of a column: under its name, else under a pattern; None if nothing.

    >>> meaning({"*_share": "share of a term; ratio"}, "mixer_share")
    'share of a term; ratio'
    """
    if name in columns:
        return columns[name]
    return next((doc for pattern, doc in columns.items() if fnmatchcase(name, pattern)), None)


def reduce_emissions(
    emitted: Mapping[str, Emission],
    batch: Batch,
    stack: str,
    groups: Groups | None,
    *,
    tokens: Collection[str] = (),
    tallied: bool = False,
) -> State:
    """Turn what `observe` returned into state.

    `groups` is None to keep rows, else says under which label tuples `PerToken` and `PerHead`
    become moments, and with `tallied` also bins for quantiles and sums over prompts, each of which
    lies in one batch. Values named in `tokens` are token ids: they are counted, because their mean
    means nothing.
    """
    state: State = {}
    parting = _parting(batch, groups) if groups else None
    for name, value in emitted.items():
        for layer, piece in _by_layer(value, batch):
            leaves = state.setdefault((stack, layer), {})
            if isinstance(piece, Leaf):
                leaves[name] = piece
            elif groups is None or parting is None:
                leaves[name] = Rows.of(*batch.real[:2], piece)
            else:
                labels = groups.labels
                leaves |= _grouped(name, piece, parting, labels, name in tokens, tallied)
    return close_documents(state)


def _by_layer(value: Emission, batch: Batch) -> list[tuple[int, Leaf | Array]]:
    """A leaf, or the values of the real tokens, per layer."""
    layer = -1 if batch.layer is None else batch.layer
    if isinstance(value, Leaf):
        return [(layer, value)]
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
        for name, leaf in leaves.items():
            if isinstance(leaf, Rows):
                *at, values = leaf.joined()
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
        found = out.setdefault(place, {})
        for name, leaf in leaves.items():
            if not isinstance(leaf, DocumentSums):
                found[name] = leaf
        for name, leaf in leaves.items():
            if isinstance(leaf, DocumentSums):
                closed, key = leaf.closed(), name.removesuffix(OPEN) + CLUSTERS
                found[key] = found[key].merge(closed) if key in found else closed
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
    rows, keys, run = values[parting.order], parting.keys, parting.run
    if tokens:
        return {name: Tallies.of_runs(keys, run, rows, labels)}
    moments = GroupedMoments(keys, Moments.of_runs(rows, parting.starts))
    out: dict[str, Leaf] = {name: Grouped(moments, labels)}
    if tallied:
        codes, defined = bins(rows)
        group = np.broadcast_to(run.reshape(-1, *[1] * (rows.ndim - 1)), rows.shape)
        out[name + BINS] = Tallies.of_runs(keys, group[defined], codes[defined], labels)
        out[name + OPEN] = parting.sums(values, labels)
    return out


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
    if isinstance(leaf, Tallies) and not name.endswith(BINS):
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
    if isinstance(counts, Tallies):
        shares = group_quantiles(counts.table, list(QUANTILES.values()), each)
        found = shares[_positions(counts.table.names, keys)].reshape(-1, len(QUANTILES))
        columns |= dict(zip(QUANTILES, found.T, strict=True))
    return [pd.DataFrame(columns)]


def _positions(of: Sequence[tuple[str, ...]], wanted: Sequence[tuple[str, ...]]) -> Array:
    """Index of each wanted key."""
    place = {key: i for i, key in enumerate(of)}
    return np.asarray([place[key] for key in wanted], dtype=np.int64)


def _label_names(leaf: Grouped | Tallies, key: tuple[str, ...]) -> tuple[str, ...]:
    return leaf.labels or tuple(f"group_{i}" for i in range(len(key)))


def _named(leaf: Grouped | Tallies, key: tuple[str, ...]) -> dict[str, str]:
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
