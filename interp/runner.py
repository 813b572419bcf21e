"""Prompts in, results out: one forward pass per batch serves every analysis.

`run` drives the model itself; `attach` only watches while the user does. Both feed the same
observers and give the same results.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp._calls import call, device_of, logits_of, wrapped_model
from interp._lens_blocks import kept_memory
from interp._token_id import token_id
from interp._tokenise import token_strings
from interp.analysis import SUMMARY, Analysis, Batch, Groups, reduce_emissions, weights_batch
from interp.anatomy import Anatomy, StackAnatomy
from interp.controls import check_control, random_copy
from interp.errors import BadInput, InterpError, unknown
from interp.for_model import explained, prompts_of, set_apart, special_ids_of
from interp.models import load_model
from interp.observer import (
    Context,
    Observer,
    Pass,
    contexts_from_call,
)
from interp.probe import inspect
from interp.progress import track
from interp.prompts import RESERVED, Prompts, TokenBatch, target_word
from interp.registry import resolve
from interp.results import Result, Results
from interp.state import Array, Examples, Once, Rows, State, merge_states
from interp.tallies import BINS, Tallies

Wanted = str | Analysis | type[Analysis] | Iterable[str | Analysis | type[Analysis]]
DEFAULT = ("rotation", "path_length", "logit_lens", "attention")
NOTHING = Prompts((), (), (), (), (), source="no prompts")


def run(
    model: Any,
    prompts: Any = None,
    analyses: Wanted = DEFAULT,
    *,
    target: str | None = None,
    labels: Mapping[str, Sequence[Any]] | None = None,
    token_labels: Mapping[str, Sequence[Sequence[Any]]] | None = None,
    labellers: Sequence[Callable[[Prompts], Prompts]] = (),
    mask: Any = None,
    targets: Any = None,
    prepend_bos: bool | None = None,
    truncate: bool = False,
    keep: Literal["tokens", "summary"] = "tokens",
    by: Sequence[str] = (),
    control: str | None = None,
    max_tokens: int = 4096,
    progress: bool = True,
) -> Results:
    """Run analyses over prompts and return their tables.

    Args:
        model: a bridge, or anything `load_model` takes.
        prompts: strings, a token tensor `[batch, pos]`, a file, a data set or a built-in name
            (`"her"`, `"demo"`); see `interp.prompts.read_prompts`. None where all analyses are of
            the weights, which read nothing.
        analyses: names, classes or instances.
        target: a word whose tokens get the role `target`, the token before it `previous`, and as
            many others `random` (column `role`).
        labels, token_labels: columns per prompt, per token.
        labellers: functions from prompts to labelled prompts, applied in order.
        mask: for a padded token tensor.
        targets: whose log-probability and rank are measured: token ids per position, -1 for none;
            or one token, `" her"`, at every position. The next tokens unless given.
        prepend_bos: the model's own policy unless given.
        truncate: cut prompts that are longer than the context instead of refusing them.
        keep: "tokens": a row per token; "summary": moments per group of `by`.
        by: label columns that make the groups of a summary; special tokens have none.
        control: "random-init" also runs an untrained copy of the model (`random_copy`) over the
            same prompts; what it gave is in `results.control` and stands beside every figure.
        max_tokens: budget of a batch, padding included.
        progress: show a bar.

    Returns: `Results`, by analysis name.
    Raises: `BadInput`, `UnknownName`, `Unsupported` before the first batch; `ObserveError` where
    an analysis fails; `InterpError` where the model yields NaN. Nothing stays attached.
    """
    chosen = resolve(analyses)
    bridge = load_model(model)
    if control is not None:
        check_control(control, bridge)
    anatomy = inspect(bridge)
    wiring = anatomy.wire(list(chosen.values()))
    if prompts is None:
        _refuse_reading(chosen)
        prompts = NOTHING
    ready = _prepare(
        bridge, anatomy, prompts, labels, token_labels, mask, targets, prepend_bos, truncate
    )
    for labeller in [*([target_word(target)] if target else []), *labellers]:
        ready = ready.label(labeller)
    collector = Collector(chosen, _grouping(ready, keep, by))
    weigh(bridge, chosen, collector)  # first, because it refuses what the model does not have
    if wiring.jobs:
        _drive(bridge, anatomy, wiring, ready, collector, max_tokens, progress)
    provenance = provenance_of(bridge, anatomy, chosen, ready)
    results = collector.results(_index(ready, collector, bridge), provenance, anatomy, bridge)
    if control is None:
        return results
    options: dict[str, Any] = {"keep": keep, "by": by, "max_tokens": max_tokens}
    beside = run(random_copy(bridge), ready, list(chosen.values()), progress=progress, **options)
    return Results(results.values(), {**provenance, "control": control}, beside)


def _refuse_reading(chosen: Mapping[str, Analysis]) -> None:
    """Raise where an analysis needs prompts and there are none."""
    reading = next((name for name, a in chosen.items() if a.scope != "weights"), None)
    if reading is not None:
        raise BadInput(
            f"analysis {reading!r} reads prompts: pass some as the second argument (only analyses "
            "of the weights, such as 'embedding', need none)"
        )


def _prepare(
    bridge: Any,
    anatomy: Anatomy,
    prompts: Any,
    labels: Any,
    token_labels: Any,
    mask: Any,
    targets: Any,
    prepend_bos: bool | None,
    truncate: bool,
) -> Prompts:
    one = token_id(bridge, targets, "target") if isinstance(targets, str | int) else None
    ready = prompts_of(
        bridge,
        anatomy,
        prompts,
        prepend_bos=prepend_bos,
        mask=mask,
        labels=labels,
        token_labels=token_labels,
        targets=None if one is not None else targets,
        truncate=truncate,
    )
    return ready if one is None else ready.aimed_at(one)


def _drive(
    bridge: Any,
    anatomy: Anatomy,
    wiring: Any,
    prompts: Prompts,
    collector: Collector,
    max_tokens: int,
    progress: bool,
) -> None:
    """Feed the batches; the pass ends before the unembedding where nothing needs logits."""
    with Feeder(bridge, anatomy, wiring) as feeder:
        batches = list(feeder.batches(prompts, max_tokens))
        for batch in track(batches, "passes", enabled=progress):
            collector.take(feeder.feed(batch))


class Feeder(AbstractContextManager["Feeder"]):
    """Runs batches through a model, one pass each, with observers attached while it is open."""

    def __init__(self, bridge: Any, anatomy: Anatomy, wiring: Any) -> None:
        self.bridge, self.anatomy = bridge, anatomy
        self._special = special_ids_of(bridge)
        self._current: TokenBatch | None = None
        self._finished: list[Pass] = []
        self._observer = Observer(
            bridge, wiring, self._contexts, self._finished.append, stop_early=True
        )

    def __enter__(self) -> Feeder:
        with ExitStack() as stack:
            stack.enter_context(kept_memory())
            stack.enter_context(self._observer)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def batches(self, prompts: Prompts, max_tokens: int) -> Iterator[TokenBatch]:
        """The prompts as batches that this model can take: one by one where it cannot pad."""
        fine = self.anatomy.padding.fine
        side = "right" if fine("right") else "left"
        most = None if fine(side) else 1
        pad_id = _pad_id(self.bridge)
        return prompts.batches(max_tokens, pad_id=pad_id, padding_side=side, max_batch=most)

    def feed(self, batch: TokenBatch) -> Pass:
        """One pass; `InterpError` where the model yields NaN."""
        self._current = batch
        self._finished.clear()
        device = device_of(self.bridge)
        padded = not bool(batch.mask.all())
        options = {"attention_mask": batch.mask.long().to(device)} if padded else {}
        with torch.no_grad():
            out = call(self.bridge, batch.tokens.to(device), **options)
        refuse_nan(out, batch)
        return self._finished.pop()

    def _contexts(self, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Context]:
        assert self._current is not None  # noqa: S101  set by feed, which makes the call
        first = _context_of(self._current)
        if len(self.anatomy.stacks) > 1:
            return _by_stack(self.anatomy, first, kwargs, self._special)
        return {self.anatomy.stacks[0].name: first}


def _context_of(batch: TokenBatch) -> Context:
    return Context(
        batch.tokens,
        batch.mask,
        batch.special,
        batch.ids,
        batch.positions,
        batch.targets,
        batch.tokens,
        batch.mask,
    )


def _by_stack(
    anatomy: Anatomy, encoder: Context, kwargs: Mapping[str, Any], specials: Sequence[int]
) -> dict[str, Context]:
    """An encoder reads the prompt; a decoder what the call hands it."""
    out = {}
    for stack in anatomy.stacks:
        if stack.name != "decoder":
            out[stack.name] = encoder
            continue
        tokens = kwargs["decoder_input_ids"].to(encoder.tokens.device)
        given = {"attention_mask": kwargs.get("decoder_attention_mask"), "input_ids": tokens}
        context = contexts_from_call(
            (), given, first_id=0, special_ids=specials, pad_id=None, earlier=None
        )
        # Shifted right by the bridge: real where the encoder's token before it was.
        mask = encoder.mask if given["attention_mask"] is None else context.mask
        decoder = Context(
            tokens,
            mask,
            context.special & mask,
            encoder.ids,
            context.positions,
            torch.where(mask, context.targets, -1),
            tokens,
            mask,
        )
        out[stack.name] = set_apart(decoder, stack)
    return out


def _pad_id(bridge: Any) -> int:
    tokenizer = getattr(bridge, "tokenizer", None)
    pad = getattr(tokenizer, "pad_token_id", None)
    return int(pad) if pad is not None else 0


def refuse_nan(out: Any, batch: TokenBatch | Context) -> None:
    """Raise where a real token's logits or last state are NaN: nothing would come of it."""
    final = out if isinstance(out, Tensor) else logits_of(out)
    if final is None or final.shape[:2] != batch.mask.shape:
        return
    bad = torch.isnan(final).any(-1).cpu() & batch.mask
    if bad.any():
        row, position = (int(i) for i in bad.nonzero()[0])
        raise InterpError(
            f"the model yields NaN (first at prompt {int(batch.ids[row])}, position {position}); "
            "nothing was kept. In float16 this is often an overflow: try bfloat16 or float32"
        )


def weigh(bridge: Any, chosen: Mapping[str, Analysis], collector: Collector) -> None:
    """Analyses of the weights: called once, with the model, without prompts."""
    batch = weights_batch(bridge)
    for analysis in chosen.values():
        if analysis.scope == "weights":
            with torch.no_grad():
                collector.add(analysis, reduce_emissions(analysis.observe(batch), batch, "", None))


class Collector:
    """Merges what finished passes emitted, per analysis."""

    def __init__(
        self,
        analyses: Mapping[str, Analysis],
        grouping: Callable[[Batch], Groups] | None = None,
    ) -> None:
        self.analyses, self.grouping = dict(analyses), grouping
        self.states: dict[str, State] = {name: {} for name in analyses}
        self.tokens: list[pd.DataFrame] = []
        self.seen_stacks: set[str] = set()

    def take(self, finished: Pass) -> None:
        """Reduce one pass; its activations are gone afterwards."""
        for job, batch, emitted in finished.emitted:
            groups = self.grouping(batch) if self.grouping else None
            ids = job.analysis.token_columns
            state = reduce_emissions(
                emitted, batch, job.stack, groups, tokens=ids, tallied=groups is not None
            )
            self.add(job.analysis, state)
        for stack, context in finished.contexts.items():
            if stack:
                self.tokens.append(_token_rows(context, stack))

    def add(self, analysis: Analysis, state: State) -> None:
        for name, known in self.analyses.items():
            if known is analysis:
                self.states[name] = merge_states(self.states[name], state)

    def results(
        self,
        tokens: pd.DataFrame,
        provenance: Mapping[str, Any],
        anatomy: Anatomy | None,
        bridge: Any,
    ) -> Results:
        notes = tuple(anatomy.caveats()) if anatomy else ()
        if anatomy is not None:
            tokens, apart = explained(tokens, anatomy, special_ids_of(bridge))
            notes += apart
        out = []
        for name, analysis in self.analyses.items():
            ids = ids_in(self.states[name], analysis)
            strings = token_strings(ids, getattr(bridge, "tokenizer", None))
            out.append(Result(name, analysis, self.states[name], tokens, strings, notes))
        return Results(out, provenance)


def ids_in(state: State, analysis: Analysis) -> set[int]:
    """Token ids in token columns and in examples of token ids."""
    ids: set[int] = set()
    for leaves in state.values():
        for name, leaf in leaves.items():
            if isinstance(leaf, Tallies) and not name.endswith(BINS):
                ids.update(np.unique(leaf.table.codes).tolist())
            elif isinstance(leaf, Rows | Once) and name in analysis.token_columns:
                ids.update(np.unique(leaf.arrays()["values"]).tolist())
            elif isinstance(leaf, Examples) and name.endswith("tokens"):
                for item in leaf.items.values():
                    ids.update(np.unique(item).tolist())
    return ids


def _token_rows(context: Context, stack: str) -> pd.DataFrame:
    row, column = context.mask.cpu().nonzero(as_tuple=True)
    return pd.DataFrame(
        {
            "stack": stack,
            "prompt": context.ids.cpu()[row].numpy(),
            "position": context.positions.cpu()[row, column].numpy(),
            "token_id": context.tokens.cpu()[row, column].numpy(),
            "special": context.special.cpu()[row, column].numpy(),
        }
    )


def _index(prompts: Prompts, collector: Collector, bridge: Any) -> pd.DataFrame:
    """The token table; with two stacks each has its own tokens, labels go with the encoder's."""
    index = prompts.index()
    if not collector.tokens:
        return index
    fed = pd.concat(collector.tokens, ignore_index=True)
    fed = fed.sort_values(["stack", "prompt", "position"], ignore_index=True)
    strings = token_strings(fed["token_id"].unique().tolist(), bridge.tokenizer)
    fed.insert(3, "token", fed["token_id"].map(strings))
    extra = [c for c in index if c not in fed]
    labels = index[["prompt", "position", *extra]].assign(stack="encoder")
    return fed.merge(labels, on=["stack", "prompt", "position"], how="left", sort=False)


def _grouping(prompts: Prompts, keep: str, by: Sequence[str]) -> Callable[[Batch], Groups] | None:
    """How tokens fall into groups, or None where rows are kept."""
    if keep not in ("tokens", "summary"):
        raise unknown("value of keep", keep, ("tokens", "summary"))
    if keep == "tokens":
        if by:
            raise BadInput(f"by={list(by)} makes groups of a summary: use keep='summary'")
        return None
    index = prompts.index()
    for label in by:
        if label not in index:
            known = [str(c) for c in index if c not in ("prompt", "position")]
            raise unknown("label", label, known)
    columns = {label: index[label] for label in by}
    starts = np.searchsorted(index["prompt"].to_numpy(), np.arange(len(prompts)))
    return groups_by(columns, index["special"].to_numpy(dtype=bool), starts)


def groups_by(
    columns: Mapping[str, pd.Series[Any]],
    left_out: Array,
    starts: Array,
    ids: Array | None = None,
) -> Grouping:
    """How the tokens of batches fall into groups by label columns.

    Args:
        columns: by name one value per token of the set; a token without one has no group.
        left_out: `[tokens]` bool, tokens that belong to no group whatever their labels.
        starts: `[prompts]` row of each prompt's first token.
        ids: `[prompts]` ascending, the prompts' ids in batches; 0, 1, … unless given.
    """
    for name in columns:
        if name in SUMMARY:
            raise BadInput(f"label {name!r} has the name of a column of summaries; rename it")
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
    texts = table[~missing].astype(str)
    number = texts.groupby(list(columns), sort=True).ngroup()
    keys = texts.drop_duplicates().sort_values(list(columns)).itertuples(index=False, name=None)
    code = np.full(len(table), -1, dtype=np.int64)
    code[~missing] = number.to_numpy()
    return code, tuple(keys)


# ---- provenance ------------------------------------------------------------------------------


def provenance_of(
    bridge: Any, anatomy: Anatomy, analyses: Mapping[str, Analysis], prompts: Prompts | None
) -> dict[str, Any]:
    """Everything needed to know what a table is of, as JSON values."""
    config = getattr(wrapped_model(bridge), "config", None)
    out: dict[str, Any] = {
        "model": {
            "name": anatomy.model,
            "architecture": anatomy.architecture,
            "revision": getattr(config, "_commit_hash", None),
            "dtype": str(anatomy.dtype).removeprefix("torch."),
            "device": str(getattr(getattr(bridge, "cfg", None), "device", None)),
            "basis": anatomy.basis,
            "n_layers": [s.n_blocks for s in anatomy.stacks],
            "d_model": anatomy.d_model,
        },
        "readout": anatomy.readout
        and {
            "path": anatomy.readout.path,
            "identity_error": anatomy.readout.error,
        },
        "closing_error": {s.name or "blocks": _finite(s.closing) for s in anatomy.stacks},
        "first_token": {s.name or "blocks": _first_token(s) for s in anatomy.stacks},
        "analyses": {name: analysis.parameters() for name, analysis in analyses.items()},
        "versions": versions(),
    }
    if prompts is not None:
        out["prompts"] = {
            "source": prompts.source,
            "count": len(prompts),
            "tokens": int(sum(len(t) for t in prompts.tokens)),
            "sha256": prompts.fingerprint(),
            "token_ids": [t.tolist() for t in prompts.tokens],
            "notes": list(getattr(prompts, "notes", ())),
        }
    return out


def _first_token(stack: StackAnatomy) -> dict[str, Any]:
    """How large the first token's norm is against the others', and whether it is set apart."""
    without, with_bos = _finite([stack.first_token, stack.bos_token])
    return {"without_bos": without, "with_bos": with_bos, "massive": stack.massive_first}


def _finite(values: Sequence[float]) -> list[float | None]:
    return [v if np.isfinite(v) else None for v in values]


def versions() -> dict[str, str]:
    """Versions of what computed the tables."""
    out = {"python": platform.python_version(), "platform": sys.platform}
    for package in (
        "interp-stream",
        "torch",
        "transformer-lens",
        "transformers",
        "numpy",
        "pandas",
    ):
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            out[package] = "not installed as a package"
    return out


# ---- in the user's own workflow --------------------------------------------------------------


class Probes(Mapping[str, Result], AbstractContextManager["Probes"]):
    """Analyses attached to a model while the user runs it; read as a mapping of results.

    Every forward pass adds rows: its prompts are numbered on, unless it continues a KV cache.
    Column `call` counts the passes.
    """

    def __init__(self, model: Any, analyses: Mapping[str, Analysis]) -> None:
        self.model, self.analyses = model, dict(analyses)
        self.anatomy = inspect(model)
        self._collector = Collector(analyses)
        self._wiring = self.anatomy.wire(list(analyses.values()))
        self._observer = Observer(model, self._wiring, self._contexts, self._take)
        self._earlier: dict[str, Context] = {}
        self._rows: list[pd.DataFrame] = []
        self._next_id = self._calls = 0
        self._cached: Results | None = None
        self._labels: dict[str, Any] = {}
        self._special = special_ids_of(model)

    def __enter__(self) -> Probes:
        if getattr(self.model, "training", False):
            raise BadInput("the model is in training mode; call model.eval() before attaching")
        weigh(self.model, self.analyses, self._collector)
        self._observer.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._observer.__exit__(*exc)

    def label(self, **labels: Any) -> Probes:
        """Columns for the prompts of the passes to come, until they are labelled anew.

        Args:
            labels: by column, one value for every prompt, or one per prompt of a pass (a list);
                `label()` without any ends them.

        Returns itself, so that `probes.label(kind="garden path")` may stand before a call.
        Raises `BadInput` for the name of a column that every table has.
        """
        for name in labels:
            if name in (*RESERVED, "call", "stack"):
                raise BadInput(f"label {name!r} has the name of a column that every table has")
        self._labels = labels
        return self

    def _labels_of(self, n: int) -> dict[str, list[Any]]:
        """The labels of a pass of `n` prompts, one value each."""
        out = {}
        for name, value in self._labels.items():
            out[name] = list(value) if _many(value) else [value] * n
            if len(out[name]) != n:
                raise BadInput(
                    f"label {name!r} has {len(out[name])} values, the pass has {n} prompts"
                )
        return out

    def _contexts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Context]:
        names = [s.name for s in self.anatomy.stacks]
        first = names[0]
        context = contexts_from_call(
            args,
            kwargs,
            first_id=self._next_id,
            special_ids=self._special,
            pad_id=getattr(self.model.tokenizer, "pad_token_id", None),
            earlier=self._earlier.get(first),
        )
        context = set_apart(context, self.anatomy.stacks[0])
        self._labels_of(len(context.ids))  # refused before the pass, not after it
        if len(names) > 1:
            return _by_stack(self.anatomy, context, kwargs, self._special)
        return {first: context}

    def _take(self, finished: Pass) -> None:
        self._collector.take(finished)
        self._cached = None
        for stack, context in finished.contexts.items():
            rows = _token_rows(context, stack).assign(call=self._calls)
            ids = context.ids.tolist()
            for name, values in self._labels_of(len(ids)).items():
                rows[name] = rows["prompt"].map(dict(zip(ids, values, strict=True)))
            self._rows.append(rows if stack else rows.drop(columns="stack"))
            self._earlier[stack] = context
            self._next_id = max(self._next_id, int(context.ids.max()) + 1)
        self._calls += 1

    @property
    def results(self) -> Results:
        """What was seen so far, as `run` would return it."""
        if self._cached is None:
            self._cached = self._collector.results(
                self._tokens(),
                provenance_of(self.model, self.anatomy, self.analyses, None)
                | {"attached": {"calls": self._calls, "hooks_lost": self._observer.lost_hooks}},
                self.anatomy,
                self.model,
            )
        return self._cached

    def _tokens(self) -> pd.DataFrame:
        columns = ["prompt", "position", "token_id", "special", "call"]
        rows = (
            pd.concat(self._rows, ignore_index=True)
            if self._rows
            else pd.DataFrame(columns=columns)
        )
        strings = token_strings(rows["token_id"].unique().tolist(), self.model.tokenizer)
        rows.insert(list(rows).index("token_id"), "token", rows["token_id"].map(strings))
        return rows

    def __getitem__(self, name: str) -> Result:
        return self.results[name]

    def __iter__(self) -> Any:
        return iter(self.analyses)

    def __len__(self) -> int:
        return len(self.analyses)

    def __repr__(self) -> str:
        return f"<Probes on {self.anatomy.model}: {', '.join(self.analyses)}; {self._calls} passes>"


def _many(value: Any) -> bool:
    several = (Sequence, np.ndarray, pd.Series, Tensor)
    return isinstance(value, several) and not isinstance(value, str)


def attach(model: Any, *analyses: str | Analysis | type[Analysis]) -> Probes:
    """Watch a model while you run it yourself: `with interp.attach(model, "rotation") as probes:`.

    Everything that reaches the model inside the block is observed: `model(...)`,
    `run_with_hooks`, `run_with_cache`, `generate`. Your own hooks stay, and the tables show the
    stream as they leave it. Leaving the block takes every hook off, also after an error.

    Raises `BadInput` for a model in training mode, `UnknownName`, `Unsupported` as `run` does.
    """
    return Probes(model, resolve(analyses or DEFAULT))
