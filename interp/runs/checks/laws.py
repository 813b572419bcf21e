"""The laws of the contract: functions that return what they saw if an analysis breaks a law.

A law runs the framework's own code on synthetic activations and compares the results. The names of
the laws and the advice on a broken one are in `interp.runs.checks.checks`.
"""

from __future__ import annotations

import json
import pickle
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp._arrays import Array
from interp.contract.analysis import Analysis, Batch, Emission, Plot, meaning
from interp.contract.columns import INDEX_OF_ROWS, LEAF_MEANINGS, MOMENTS, TOKEN_TABLE, by_name
from interp.contract.declared import unkept_annotations, unkept_arguments
from interp.contract.emissions import author_line, failed_table, no_table
from interp.contract.leaves import (
    Examples,
    Leaf,
    State,
    merge_states,
    without_rows,
)
from interp.contract.reduce import Groups
from interp.contract.sites import SITES
from interp.errors import AlteredError, EmissionError, EmissionShapeError, UnknownName
from interp.runs.checks.difference import RTOL, frame_difference, leaf_difference, state_difference
from interp.runs.checks.world import LENGTHS, World, observe
from interp.runs.moments_notes import moments_notes
from interp.runs.results import Result, Results
from interp.runs.saved import load_results

SUMMARY = ("value", *MOMENTS)
LEAF_COLUMNS = tuple(LEAF_MEANINGS)
"""Columns of the default tables in addition to those of every table."""
GROUPED = 'a summary (keep="summary", or a corpus), which has moments of groups and no rows'
"""Kind of run whose state has no rows."""
# Uneven on purpose: an average of averages over 1, 2 and 2 prompts is not the average.
_SPLIT = ((0,), (1, 2), (3, 4))


ROWS_OF: Mapping[str, tuple[tuple[str, ...], int]] = {
    "scatter": ((), 2),
    "trajectory": (("prompt", "position", "layer"), 2),
}
"""Columns that the table of a kind of figure has to have, and how many values it draws."""


_ROUNDING = 1e-5
"""How far a value may leave its range, relative to the largest value of its column (or to 1): the
cosine of two equal float32 vectors may be 1.0000001."""


class Unjudgeable(str):
    """An observation without which no other law can be judged."""

    __slots__ = ()


class Told(str):
    """An observation with advice of its own, in place of that of its law."""

    __slots__ = ("fix",)
    fix: str

    def __new__(cls, seen: str, fix: str) -> Self:
        told = super().__new__(cls, seen)
        told.fix = fix
        return told


UNDEFINED = (
    "A value that is NaN in one case only is often 0·log 0, 0/0 or ∞ − ∞ at a masked or later key: "
    "torch.special.entr(p) is −p·log p and 0 at p = 0; for others torch.where over the tokens "
    "that count."
)
"""Advice where two cases differ in what is defined."""


# ---- running ---------------------------------------------------------------------------------


def _state(analysis: Analysis, world: World, groups: bool = False) -> State:
    return observe(analysis, world).state(_by_parity if groups else None)


def _by_parity(batch: Batch) -> Groups:
    """Two groups of tokens, such as a corpus run has from labels."""
    codes: Array = batch.positions.cpu().numpy() % 2
    return Groups(np.where(batch.mask.cpu().numpy(), codes, -1), (("even",), ("odd",)))


def _merged(states: Iterable[State]) -> State:
    return reduce(merge_states, states, {})


def _pieces(analysis: Analysis, parts: Iterable[Sequence[int]]) -> list[State]:
    return [_state(analysis, World(ids=tuple(ids))) for ids in parts]


def _differs(analysis: Analysis, a: State, b: State, rtol: float = RTOL) -> str | None:
    """The first difference of two states, or of the tables that they give."""
    return state_difference(a, b, rtol=rtol) or frame_difference(
        analysis.table(a), analysis.table(b), rtol=rtol
    )


def _compare(analysis: Analysis, base: World, others: Mapping[str, World]) -> str | None:
    """The first difference that one of the other worlds makes, with the name of that world."""
    expected = _state(analysis, base)
    for what, world in others.items():
        # The table is a function of the state; it is compared in the laws of merging.
        seen = state_difference(expected, _state(analysis, world))
        if seen:
            return f"{what}: {seen}"
    return None


def _leaves(state: State) -> Iterator[tuple[str, Leaf]]:
    for (_, layer), leaves in state.items():
        where = "" if layer < 0 else f" of layer {layer}"
        for name, leaf in leaves.items():
            yield f"leaf {name!r}{where}", leaf


# ---- what it declares ------------------------------------------------------------------------


def sites_exist(analysis: Analysis) -> str | None:
    """Sites are known names, and fit the scope."""
    try:
        wanted = analysis.wanted()
    except UnknownName as error:
        return str(error)
    if analysis.scope == "weights":
        return f"reads {wanted[0]!r}, but scope 'weights' has no forward pass" if wanted else None
    if not set(analysis.sites) - {"readout"}:
        return "no site is required, so nothing would ever be observed"
    if analysis.scope == "layer":
        wrong = [s for s in wanted if s in ("stream", "logits")]
        return f"{wrong[0]!r} is of the whole forward pass: scope 'model'" if wrong else None
    wrong = [s for s in wanted if SITES[s].kind != "model"]
    return f"{wrong[0]!r} is of one block: scope 'layer'" if wrong else None


def parameters(analysis: Analysis) -> str | None:
    """Parameters survive repr, equality, hashing and JSON."""
    kind, given = type(analysis), analysis.parameters()
    if lost := unkept_annotations(kind) or unkept_arguments(kind):
        return lost
    again = kind(**given)
    if again != analysis or repr(again) != repr(analysis):
        return f"{kind.__name__}(**{given}) is {again!r}, not {analysis!r}"
    hash(analysis)
    restored = kind.restore(json.loads(json.dumps(given)))
    if restored != analysis:
        return f"comes back from JSON as {restored!r}, was {analysis!r}"
    return None


def unproduced(analysis: Analysis) -> list[str]:
    """A note on columns that are described and are in no table of synthetic activations."""
    states = [_state(analysis, World(), groups=groups) for groups in (False, True)]
    tables = [analysis.table(state) for state in states]
    seen = {str(c) for table in tables for c in table}
    seen |= {str(v) for table in tables for v in table.get("value", ())}
    seen |= {name for state in states for leaves in state.values() for name in leaves}
    missing = [c for c in analysis.columns if not any(fnmatchcase(name, c) for name in seen)]
    if not missing:
        return []
    named = ", ".join(map(repr, missing))
    return [f"described in `columns`, but in no table with these parameters: {named}"]


def untelling(analysis: Analysis) -> list[str]:
    """Notes on columns without a defined value in any world, or with one and the same in all."""
    worlds = [World(), World(ids=tuple(range(5, 25))), World(zero=(2, 1))]
    found: dict[str, list[Array]] = {}
    for world in worlds:
        for name, values in _numbers(analysis, analysis.table(_state(analysis, world))):
            found.setdefault(name, []).append(values)
    whole = {name: np.concatenate(parts) for name, parts in found.items()}
    known = {name: x[~np.isnan(x)] for name, x in whole.items()}
    undefined = [repr(name) for name, x in known.items() if not len(x)]
    notes = [
        f"column {name!r} is {x[0]:g} in all worlds, wherever it is defined"
        for name, x in known.items()
        if len(x) > 1 and (x == x[0]).all()
    ]
    if undefined:
        named = f"column{'s' * (len(undefined) > 1)} {', '.join(undefined)}"
        size = f"up to {len(worlds[1].ids)} prompts of {min(LENGTHS)} to {max(LENGTHS)} tokens"
        notes.append(f"no defined value in any world ({size}): {named}")
    return notes


def _numbers(analysis: Analysis, table: pd.DataFrame) -> Iterator[tuple[str, Array]]:
    """The described columns of decimal numbers, and the means of moments by their names."""
    for column in table.select_dtypes("float"):
        fixed = column in INDEX_OF_ROWS or column in analysis.keys
        if not fixed and column in analysis.columns:
            yield str(column), table[column].to_numpy(dtype=np.float64, na_value=np.nan)
    if set(SUMMARY) <= set(table):
        for value, rows in table.groupby("value", sort=False):
            yield str(value), rows["mean"].to_numpy(dtype=np.float64, na_value=np.nan)


def with_special(analysis: Analysis) -> list[str]:
    """A note on moments that special tokens are part of."""
    world = World()
    tokens = world.token_table()
    return moments_notes(_state(analysis, world), tokens["special"])


def figures(analysis: Analysis) -> str | None:
    """Figures draw columns or leaves that exist."""
    state = _state(analysis, World())
    table = analysis.table(state)
    known = {name for leaves in state.values() for name in leaves} | set(table)
    # Whole arrays of a site may be kept only if a parameter asks for them.
    known |= set(analysis.wanted())
    for plot in analysis.plots:
        lost = [v for v in plot.values if v not in known and not meaning(analysis.columns, v)]
        if lost:
            return f"figure {plot.title!r} draws {lost[0]!r}, which is no column and no leaf"
        if (needs := _undrawable(plot, state, table)) is not None:
            return f"figure {plot.title!r} of kind {plot.kind!r} needs {needs}"
    return None


def _undrawable(plot: Plot, state: State, table: pd.DataFrame) -> str | None:
    """What the kind of figure needs and does not get; None if it has all."""
    if plot.kind == "attention":
        leaves = [(n, x) for found in state.values() for n, x in found.items() if n in plot.values]
        wrong = [f"{n!r} is a {_emitted(x)}" for n, x in leaves if not isinstance(x, Examples)]
        return f"Examples of patterns [head, query, key]; {wrong[0]}" if wrong else None
    rows, least = ROWS_OF.get(plot.kind, ((), 1))
    if len(plot.values) < least:
        return f"{least} columns in `values`, not {len(plot.values)}"
    lacks = [name for name in rows if name not in table]
    return f"a table with the column {lacks[0]!r}" if lacks else None


def _emitted(leaf: Leaf) -> str:
    """Kind of what an author emitted: values per token have become rows."""
    return "value per token" if leaf.is_rows else type(leaf).__name__


# ---- one call of observe ---------------------------------------------------------------------


def runs(analysis: Analysis) -> str | None:
    """`observe` is called, and returns a mapping of leaves and values."""
    try:
        observed = observe(analysis, World())
    except AlteredError:
        raise  # of a law of its own
    except EmissionShapeError:
        return None  # of the next law
    except EmissionError as error:
        return str(error)
    return None if observed.calls else "`observe` was never called"


def emissions(analysis: Analysis) -> str | None:
    """Values cover the whole rectangle of the batch, under free names."""
    try:
        observe(analysis, World(extra=1))
    except AlteredError:
        raise
    except EmissionError as error:
        return str(error)
    return None


def optional_sites(analysis: Analysis) -> str | None:
    """The analysis runs without each optional site, and on unusual batches."""
    everything = World()
    needed = "terms" in analysis.sites
    bare = replace(everything, sites=frozenset(analysis.sites) & everything.sites)
    worlds = {
        "without its optional sites": replace(bare, terms=everything.terms if needed else ()),
        **{what: make(everything) for what, (make, _) in _UNUSUAL.items()},
    }
    for site in set(analysis.optional) & everything.sites:
        worlds[f"without {site!r}"] = replace(everything, sites=everything.sites - {site})
    # What fails on an ordinary batch too is not the fault of a missing site.
    analysis.table(_state(analysis, everything))
    for what, world in worlds.items():
        if world.anatomy().refusal(analysis):
            continue
        try:
            analysis.table(_state(analysis, world))
        except Exception as error:  # noqa: BLE001 - reported with where it happened
            seen = f"{what}: {type(error).__name__}: {error}{author_line(analysis, error)}"
            return Told(seen, _UNUSUAL[what][1]) if what in _UNUSUAL else seen
    return None


_UNUSUAL: Mapping[str, tuple[Callable[[World], World], str]] = {
    "with terms of other names": (
        lambda world: replace(world, terms=("mixer", "mlp")),
        "Read `batch.terms` by the names that are there, not by fixed ones.",
    ),
    "with a single block": (
        lambda world: replace(world, n_blocks=1),
        "A model may have one block: go without the block before or after it.",
    ),
    "with one prompt of one token": (
        lambda _: World(ids=(1,)),
        "A prompt may be one token long: count with `batch.mask` and let empty selections pass.",
    ),
    "in a forward pass that continues a KV cache": (
        lambda _: World(side="left", cached=True),
        "Here there are more keys than queries, the tokens of the pass: `batch.mask` is of the "
        "queries and `batch.key_mask` of the keys. A value per token is one per query; sums over "
        "queries are values of keys, most of which are no tokens of this pass.",
    ),
}
"""Unusual batches: how they are made, and advice to those who cannot read them."""


def input_unchanged(analysis: Analysis) -> str | None:
    """`observe` changes none of the tensors that it reads."""
    # The inputs of an analysis that does nothing are the reference: the observer itself may hand
    # over tensors that it derives.
    before = {n: t.clone() for n, t in observe(_Nothing.like(analysis), World()).inputs.items()}
    for name, tensor in observe(analysis, World()).inputs.items():
        if not torch.equal(tensor.nan_to_num(), before[name].nan_to_num()):
            return f"{name!r} has other values after `observe` than before"
    return None


@dataclass(frozen=True)
class _Nothing(Analysis):
    """An analysis that reads the sites of another one and emits nothing."""

    def observe(self, batch: Batch) -> dict[str, Emission]:  # noqa: ARG002
        return {}

    @classmethod
    def like(cls, analysis: Analysis) -> Analysis:
        about = {n: getattr(analysis, n) for n in ("sites", "optional", "scope")}
        kind: type[Analysis] = type("Nothing", (cls,), about)
        return kind()


def keeps_nothing(analysis: Analysis) -> str | None:
    """The analysis keeps no state of its own."""
    # An instance that no other law has used, and prompts that none has shown: what an earlier call
    # left behind would else look like what was there before.
    fresh = _anew(analysis)
    before = _attributes(fresh)
    fresh.table(_state(fresh, World(ids=(7, 9))))
    after = _attributes(fresh)
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    return f"attribute {changed[0]!r} changed while it ran" if changed else None


def _anew(analysis: Analysis) -> Analysis:
    """The analysis built again; one whose parameters are lost stays as it is."""
    try:
        return type(analysis)(**analysis.parameters())
    except TypeError:
        return analysis


def _attributes(analysis: Analysis) -> dict[str, str]:
    """Attributes of an analysis, of its class and of its bases, as text."""
    # Of classes too: a list in the class body is shared by all instances, and is the usual place
    # of state that was not meant to be kept.
    found = {}
    kinds = type(analysis).__mro__
    for kind in kinds[: kinds.index(Analysis)]:
        for name, value in vars(kind).items():
            # Python keeps caches of its own under names with underscores.
            if not name.startswith(("__", "_abc_")) and not callable(value):
                found[f"{kind.__name__}.{name}"] = repr(value)
    for name, value in vars(analysis).items():
        # A value computed once from the parameters is no state.
        if not isinstance(getattr(type(analysis), name, None), cached_property):
            found[name] = repr(value)
    return found


def deterministic(analysis: Analysis) -> str | None:
    """The same batch and seed give the same state, bit for bit."""
    with _random_state():
        first = _seeded(analysis, 1)
        second = _seeded(analysis, 1)
    return _differs(analysis, first, second, rtol=0)


def no_global_randomness(analysis: Analysis) -> str | None:
    """Results do not depend on global generators, and draw nothing from them."""
    with _random_state():
        first, second = _seeded(analysis, 1), _seeded(analysis, 2)
        seen = state_difference(first, second, rtol=0)
        if seen:
            return f"with another global seed, {seen}"
        _seed(1)
        table = analysis.table(first)
        _seed(2)
        seen = frame_difference(table, analysis.table(first), rtol=0)
        if seen:
            return f"with another global seed, {seen}"
        before = _random_states()
        analysis.table(_state(analysis, World()))
        drawn = [n for n, state in _random_states().items() if state != before[n]]
    return f"draws from the global generator of {drawn[0]}" if drawn else None


def _seeded(analysis: Analysis, seed: int) -> State:
    _seed(seed)
    return _state(analysis, World())


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global generator is what is being watched
    torch.default_generator.manual_seed(seed)


def _random_states() -> dict[str, bytes]:
    return {
        "random": pickle.dumps(random.getstate()),
        "numpy.random": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "torch": torch.default_generator.get_state().numpy().tobytes(),
    }


@contextmanager
def _random_state() -> Iterator[None]:
    """Restore the global generators when the block ends."""
    kept = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.default_generator.set_state(kept[2])


def every_dtype(analysis: Analysis) -> str | None:
    """Half precision gives the results of the same values in float32."""
    # The same values, rounded first, in a narrow and in a wide dtype: a difference comes from
    # arithmetic in the narrow one, not from the rounding of the input.
    cases = [
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float16, torch.float32),
        (torch.float32, torch.float64, torch.float32),
    ]
    for rounded, given, exact in cases:
        low = _state(analysis, World(dtype=rounded, given=given))
        high = _state(analysis, World(dtype=rounded, given=exact))
        seen = state_difference(low, high)
        if seen:
            names = [str(t).removeprefix("torch.") for t in (given, exact)]
            return f"the same values in {names[0]} and in {names[1]}: {seen}"
    return None


def undefined(analysis: Analysis) -> str | None:
    """Tokens whose vectors are zero give NaN, not infinity, and keep their rows."""
    state, usual = _state(analysis, World(zero=(2, 1))), _state(analysis, World())
    rows = dict(_leaves(usual))
    for what, leaf in _leaves(state):
        if not leaf.is_rows:
            continue
        values = leaf.arrays()["values"]
        if _infinite(values):
            return f"{what} is infinite for a token whose vectors are zero"
        if len(values) != len(rows[what].arrays()["values"]):
            return f"{what} leaves the token out whose vectors are zero"
    table, expected = analysis.table(state), analysis.table(usual)
    for column in table.select_dtypes("number"):
        numbers = [t[column].to_numpy(dtype=float, na_value=np.nan) for t in (table, expected)]
        if _infinite(numbers[0]) > _infinite(numbers[1]):
            return f"table column {column!r} is infinite for a token whose vectors are zero"
    return None


def _infinite(values: Array) -> int:
    return int(np.isinf(values).sum()) if values.dtype.kind == "f" else 0


# ---- batches, padding, merging ---------------------------------------------------------------


def one_batch_equals_many(analysis: Analysis) -> str | None:
    """One batch gives the result of a batch per prompt, merged."""
    many = _merged(_pieces(analysis, [(i,) for i in World().ids]))
    seen = _differs(analysis, _state(analysis, World()), many)
    return f"one batch against one per prompt: {seen}" if seen else None


def uneven_split(analysis: Analysis) -> str | None:
    """One batch gives the result of unequal batches, merged."""
    split = _merged(_pieces(analysis, _SPLIT))
    seen = _differs(analysis, _state(analysis, World()), split)
    return f"one batch against batches of 1, 2 and 2 prompts: {seen}" if seen else None


def order_of_prompts(analysis: Analysis) -> str | None:
    """The order of prompts in a batch does not matter."""
    return _compare(analysis, World(), {"prompts in another order": World(ids=(3, 0, 4, 1, 2))})


def merge_order(analysis: Analysis) -> str | None:
    """Merging is commutative and associative."""
    a, b, c = _pieces(analysis, _SPLIT)
    expected = _merged([a, b, c])
    orders = {
        "(a+b)+c against (c+b)+a": [c, b, a],
        "(a+b)+c against (b+a)+c": [b, a, c],
        "(a+b)+c against a+(b+c)": [a, _merged([b, c])],
    }
    for what, states in orders.items():
        seen = _differs(analysis, expected, _merged(states))
        if seen:
            return f"{what}: {seen}"
    return None


def merge_is_pure(analysis: Analysis) -> str | None:
    """Merging changes neither operand."""
    a, b, _ = _pieces(analysis, _SPLIT)
    kept = deepcopy((a, b))
    merge_states(a, b)
    for before, after in zip(kept, (a, b), strict=True):
        seen = state_difference(before, after, rtol=0)
        if seen:
            return f"after a merge an operand has changed: {seen}"
    return None


def values_under_the_mask(analysis: Analysis) -> str | None:
    """Values, tokens and NaN under the mask do not matter."""
    others = {
        "with 37 under the mask": World(extra=1, fill=37.0),
        "with NaN under the mask": World(extra=1, fill=torch.nan),
        "with other token ids under the mask": World(extra=1, junk=True),
        "with NaN under the mask, left padding": World(side="left", fill=torch.nan, junk=True),
    }
    return _compare(analysis, World(extra=1), others)


def length_of_padding(analysis: Analysis) -> str | None:
    """The amount of padding does not matter."""
    others = {
        "with 1 more column of padding": World(extra=1),
        "with 7 more columns of padding": World(extra=7),
    }
    return _compare(analysis, World(), others)


def side_of_padding(analysis: Analysis) -> str | None:
    """The side of the padding does not matter."""
    others = {
        "padded on the left": World(side="left"),
        "padded on the left, 3 more columns": World(side="left", extra=3),
    }
    return _compare(analysis, World(), others)


def fully_masked(analysis: Analysis) -> str | None:
    """Prompts without real tokens contribute nothing."""
    ghosts = frozenset({0, 5})
    plain = _state(analysis, World(ids=(1, 2, 3, 4)))
    mixed = _state(analysis, World(ids=(0, 1, 2, 3, 4, 5), ghosts=ghosts, fill=torch.nan))
    seen = state_difference(plain, mixed)
    if seen:
        return f"with two prompts that are all padding: {seen}"
    alone = _state(analysis, World(ids=(0, 5), ghosts=ghosts, fill=torch.nan))
    seen = state_difference(plain, merge_states(plain, alone))
    return f"with a batch that is all padding: {seen}" if seen else None


def does_not_grow(analysis: Analysis) -> str | None:
    """The size of the state does not grow with the number of batches."""
    # The number of batches doubles until the size stands still: leaves of bounded size may fill up
    # over the first few, a list of tokens never stops.
    state, size, batches = _state(analysis, World(), groups=True), -1, 1
    while batches <= 64:
        step = [range(5 * i, 5 * i + 5) for i in range(batches, 2 * batches)]
        new = [_state(analysis, World(ids=tuple(ids)), groups=True) for ids in step]
        state, batches = merge_states(state, _merged(new)), 2 * batches
        before, size = size, _size(state)
        if size == before:
            return None
    return (
        f"after {batches} batches it holds {size} bytes and after {batches // 2} it held {before}"
    )


def _size(state: State) -> int:
    """Bytes of a state, with `TopK` and `Examples` at capacity and without rows."""
    return sum(len(what) + leaf.capacity() for what, leaf in _leaves(state))


# ---- leaves and tables -----------------------------------------------------------------------


def pickles(analysis: Analysis) -> str | None:
    """Analysis and state survive pickling."""
    again = pickle.loads(pickle.dumps(analysis))  # noqa: S301 - written in the same line
    if again != analysis:
        return f"the analysis comes back as {again!r}, was {analysis!r}"
    state = _state(analysis, World())
    restored = pickle.loads(pickle.dumps(state))  # noqa: S301
    seen = state_difference(state, restored, rtol=0)
    return f"the state comes back changed: {seen}" if seen else None


def on_the_cpu(analysis: Analysis) -> str | None:
    """Leaves hold NumPy arrays of numbers, and no tensor on a device or with gradients."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        for what, leaf in _leaves(_state(analysis, World(device=device))):
            for tensor in _tensors(vars(leaf)):
                if tensor.requires_grad:
                    return f"{what} holds a tensor that requires gradients"
                if tensor.device.type != "cpu":
                    return f"{what} holds a tensor on {tensor.device}"
            for name, array in leaf.arrays().items():
                if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind == "O":
                    kind = getattr(array, "dtype", type(array).__name__)
                    return f"array {name!r} of {what} is {kind}, not a NumPy array of numbers"
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def owns_memory(analysis: Analysis) -> str | None:
    """Leaves do not share memory with the activations."""
    observed = observe(analysis, World())
    state = observed.state()
    kept = deepcopy(state)
    # A view of the activations would follow them, and keep a whole batch in memory.
    for tensor in observed.inputs.values():
        tensor.zero_()
    seen = state_difference(kept, state, rtol=0)
    return f"overwriting the activations afterwards changes it: {seen}" if seen else None


def sums_in_float64(analysis: Analysis) -> str | None:
    """Sums are accumulated in float64."""
    first, second, _ = _pieces(analysis, _SPLIT)
    others = dict(_leaves(second))
    for what, leaf in _leaves(first):
        if what not in others or leaf.accumulates is False:
            continue
        merged, parts = leaf.merge(others[what]).arrays(), (leaf.arrays(), others[what].arrays())
        for name, array in merged.items():
            if _accumulates(leaf, array, *(np.asarray(p.get(name)) for p in parts)):
                return f"array {name!r} of {what} is {array.dtype}"
    return None


def _accumulates(leaf: Leaf, merged: Array, a: Array, b: Array) -> bool:
    """Test for an array narrower than float64 that takes part in a sum."""
    merged = np.asarray(merged)
    if merged.dtype.kind != "f" or merged.dtype == np.float64:
        return False
    if leaf.accumulates:
        return True
    return a.shape == b.shape == merged.shape and bool(np.allclose(merged, a + b, equal_nan=True))


def leaf_round_trip(analysis: Analysis) -> str | None:
    """Leaves survive `arrays` and `from_arrays`, with everything that `merge` needs."""
    first, second, _ = _pieces(analysis, _SPLIT)
    others = dict(_leaves(second))
    for what, leaf in _leaves(first):
        restored = type(leaf).from_arrays(leaf.arrays())
        seen = leaf_difference(leaf, restored, rtol=0)
        if seen:
            return f"{what} comes back from its arrays changed: {seen}"
        if what in others:
            expected, merged = leaf.merge(others[what]), restored.merge(others[what])
            seen = leaf_difference(expected, merged, rtol=0)
            if seen:
                return f"{what}, restored from its arrays, merges to something else: {seen}"
    return None


def save_and_load(analysis: Analysis) -> str | None:
    """Analysis, table and state survive saving and loading."""
    world = World()
    strings = {i: f"t{i}" for i in range(-1, 64)}
    result = Result("it", analysis, _state(analysis, world), world.token_table(), strings)
    with tempfile.TemporaryDirectory() as folder:
        Results([result], {}).save(Path(folder) / "out")
        again = load_results(Path(folder) / "out")["it"]
    if again.analysis != analysis:
        return f"the analysis comes back as {again.analysis!r}, was {analysis!r}"
    seen = frame_difference(result.frame, again.frame, rtol=0)
    if seen:
        return f"the table comes back changed: {seen}"
    seen = state_difference(without_rows(result.state), again.state, rtol=0)
    return f"the state comes back changed: {seen}" if seen else None


def table_is_tidy(analysis: Analysis) -> str | None:
    """The table is a tidy data frame, and the same when asked for again."""
    for groups in (False, True):
        state = _state(analysis, World(), groups=groups)
        kept = deepcopy(state)
        table = _table(analysis, state, groups)
        if not isinstance(table, pd.DataFrame):
            # Every other law would fail in turn on what is no table.
            return Unjudgeable(str(no_table(analysis, table)))
        seen = _untidy(table) or state_difference(kept, state, rtol=0)
        if seen is None:
            seen = frame_difference(table, analysis.table(state), rtol=0)
            seen = f"asked for twice, {seen}" if seen else None
        if seen:
            return f"{'as groups' if groups else 'as rows'}: {seen}"
    return None


def _table(analysis: Analysis, state: State, groups: bool) -> Any:
    """What `table` returns; raises `ObserveError` with the kind of run whose state it was."""
    try:
        return analysis.table(state)
    except Exception as error:
        if groups:
            raise failed_table(analysis, error, GROUPED) from error
        raise failed_table(analysis, error) from error


def _untidy(table: pd.DataFrame) -> str | None:
    if not all(isinstance(c, str) for c in table.columns):
        return f"column names are {list(table.columns)}, not plain text"
    if not table.columns.is_unique:
        return f"column {table.columns[table.columns.duplicated()][0]!r} is there twice"
    if table.empty:
        return "the table has no rows; Cov, Examples and leaves of your own need a `table`"
    if table.index.nlevels > 1 or table.index.name is not None:
        return "the index carries data; use `reset_index()`"
    nesting = (list, tuple, dict, set, Tensor, np.ndarray)
    for column in table.columns:
        nested = next((v for v in table[column] if isinstance(v, nesting)), None)
        if nested is not None:
            return f"column {column!r} holds {type(nested).__name__} values"
        if column in TOKEN_TABLE:
            return f"column {column!r} is one that comes from the prompts"
    return None


def columns_documented(analysis: Analysis) -> str | None:
    """Every column, the keys included, is documented in `columns`."""
    if not analysis.columns:
        return "`columns` is empty: no table or figure can say what its values mean"
    for column in analysis.token_columns:
        if seen := _unsaid(analysis, column):
            return Told(f"token {seen}", seen.fix) if isinstance(seen, Told) else f"token {seen}"
    rows = _table(analysis, _state(analysis, World()), groups=False)
    summary = _table(analysis, _state(analysis, World(), groups=True), groups=True)
    values = summary.get("value", summary.columns)
    for column in sorted({str(c) for c in [*rows.columns, *values]}):
        fixed = column in (
            *INDEX_OF_ROWS,
            *SUMMARY,
            *LEAF_COLUMNS,
        ) or column.startswith("group_")
        if not fixed and (seen := _unsaid(analysis, column)):
            return seen
    return None


def _unsaid(analysis: Analysis, column: str) -> str | None:
    """What `columns` lacks of a column; None if it says what the column means."""
    said = meaning(analysis.columns, column)
    if said is None:
        return f"column {column!r} is not in `columns`"
    if not said.strip():
        return Told(
            f"column {column!r} has an empty text in `columns`",
            f"Write what it means, with its unit: {{{column!r}: 'angle to the mean; degrees'}}.",
        )
    return None


def values_in_range(analysis: Analysis) -> str | None:
    """No value of a table leaves the range that `ranges` declares for its column."""
    if not analysis.ranges:
        return None
    more = World(ids=tuple(range(5, 25)))
    worlds = {
        "": (World(), False),
        "with other prompts, ": (more, False),
        "with a token whose vectors are zero, ": (World(zero=(2, 1)), False),
        "in a summary, ": (more, True),
    }
    for what, (world, groups) in worlds.items():
        table = _table(analysis, _state(analysis, world, groups), groups)
        seen = _column_outside(analysis, table) or _moment_outside(analysis, table)
        if seen:
            return f"{what}{seen}"
    return None


def _column_outside(analysis: Analysis, table: pd.DataFrame) -> str | None:
    """What leaves its range among the columns that hold values of tokens, heads or pairs."""
    # A pattern such as "*" also fits the counts that the framework adds.
    fixed = {*INDEX_OF_ROWS, *analysis.keys}
    fixed |= {name for name in (*SUMMARY, *LEAF_COLUMNS) if name not in analysis.columns}
    columns = [str(c) for c in table.select_dtypes(["number", "bool"]) if c not in fixed]
    seen = (_outside(analysis, column, table[column]) for column in columns)
    return next((text for text in seen if text), None)


def _moment_outside(analysis: Analysis, table: pd.DataFrame) -> str | None:
    """What leaves its range among the least, largest and mean values of a table of moments."""
    if not set(SUMMARY) <= set(table):
        return None
    for value, rows in table.groupby("value", sort=False):
        for moment in ("min", "max", "mean"):
            seen = _outside(analysis, str(value), rows[moment])
            if seen:
                return f"{seen} ({moment})"
    return None


def _outside(analysis: Analysis, column: str, values: pd.Series[Any]) -> str | None:
    """The value that lies farthest outside the range of its column, in words; None if none does."""
    ends = by_name(analysis.ranges, column)
    if ends is None:
        return None
    x = values.to_numpy(dtype=np.float64, na_value=np.nan)
    x = x[~np.isnan(x)]
    finite = np.abs(x[np.isfinite(x)])
    slack = _ROUNDING * max(1.0, finite.max(initial=0.0))
    low, high = ends
    # An infinite value at an open end is in its range, where the distance would be inf − inf.
    out = x[(x < low) | (x > high)]
    beyond = np.maximum(low - out, out - high)
    if not (beyond > slack).any():
        return None
    return (
        f"column {column!r} has the range ({low:g}, {high:g}) in `ranges`, and the value "
        f"{out[beyond.argmax()]:.4g}"
    )
