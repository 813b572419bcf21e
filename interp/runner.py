"""Prompts in, results out: one forward pass per batch serves every analysis.

`run` drives the model itself; `attach` only watches while the user does. Both feed the same
observers and give the same results.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp._caches import Caches, Past, cache_in, cache_length
from interp._calls import call, device_of, logits_of, wrapped_model
from interp._cells import as_column, plain, scalars
from interp._columns import refuse_taken
from interp._lens_blocks import kept_memory
from interp._tested import untested
from interp._token_id import token_id
from interp._tokenise import running_strings, token_strings
from interp.analysis import (
    Analysis,
    Batch,
    Emission,
    Groups,
    reduce_emissions,
    weights_batch,
)
from interp.anatomy import Anatomy, StackAnatomy
from interp.controls import check_control, random_copy
from interp.errors import BadInput, InterpError, Unsupported, unknown
from interp.for_model import explained, prompts_of, set_apart, special_ids_of
from interp.geometry import full_precision
from interp.models import load_model
from interp.observer import (
    Context,
    Job,
    NotFollowed,
    Observer,
    Pass,
    contexts_from_call,
    tokens_of,
)
from interp.probe import inspect, refuse_training
from interp.progress import track
from interp.prompts import Prompts, TokenBatch, parted, target_word
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
        prompts: strings, a token tensor `[batch, pos]`, a tokenizer's encoding, a file, a table or
            data set, or a built-in name (`"her"`, `"demo"`); see `interp.prompts.read_prompts`.
            None where all analyses are of the weights, which read nothing.
        analyses: names, classes or instances.
        target: a word whose tokens get the role `target`, the token before it `previous`, and as
            many others `random` (column `role`).
        labels, token_labels: columns per prompt, per token; a label with the name of a column
            that the tables have is refused, and `labels={"file": "path"}` renames the column
            `path` of the data.
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
        ready = _labelled(ready, labeller)
    refuse_taken(ready.labels, chosen)
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
    if isinstance(prompts, Prompts):
        prompts, labels, token_labels = _relabelled(prompts, labels, token_labels), None, None
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


def _relabelled(prompts: Prompts, labels: Any, token_labels: Any) -> Prompts:
    """Prompts that were read earlier, with the labels of this call."""
    given, names = parted(labels)
    prompts = prompts.renamed(names)
    for name, values in given.items():
        prompts = prompts.with_labels(name, scalars(name, values))
    for name, rows in (token_labels or {}).items():
        prompts = prompts.with_labels(name, rows)
    return prompts


def _labelled(prompts: Prompts, labeller: Callable[[Prompts], Prompts]) -> Prompts:
    """The prompts with the labels of a labeller; `BadInput` where one of them is there already."""
    found = prompts.label(labeller)
    for name, cells in prompts.labels.items():
        if any(map(_differ, found.labels.get(name, ()), cells)):
            raise BadInput(
                f"label {name!r} is there already, and a labeller (or target=) makes another one: "
                f"rename the first, labels={{'{name}_label': {name!r}}} or --labels "
                f"{name}_label={name}, or give the labeller another name="
            )
    return found


def _differ(a: Any, b: Any) -> bool:
    return a is not b and list(a) != list(b)


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
        return prompts.batches(
            max_tokens,
            pad_id=pad_id,
            padding_side=side,
            max_batch=most,
            apart=self.anatomy.apart(prompts.lengths),
        )

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
    if not isinstance(kwargs.get("decoder_input_ids"), Tensor):
        raise NotFollowed("no tokens", "it brings no ids for the decoder (decoder_input_ids)")
    if cache_length(cache_in(kwargs)) != 0:
        raise NotFollowed("decoder cache", "its decoder continues a KV cache, with two stacks")
    out = {}
    for stack in anatomy.stacks:
        if stack.name != "decoder":
            out[stack.name] = encoder
            continue
        tokens = kwargs["decoder_input_ids"].to(encoder.tokens.device)
        given = {"attention_mask": kwargs.get("decoder_attention_mask"), "input_ids": tokens}
        context = contexts_from_call((), given, first_id=0, special_ids=specials, pad_id=None)
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
    """Raise where a real token's logits or last state are NaN or ∞: nothing would come of it."""
    final = out if isinstance(out, Tensor) else logits_of(out)
    if final is None or final.shape[:2] != batch.mask.shape:
        return
    largest = final.amax(-1).cpu()  # NaN if any is; -inf alone rules a token out
    bad = (torch.isnan(largest) | (largest == torch.inf)) & batch.mask.cpu()
    if bad.any():
        row, position = (int(i) for i in bad.nonzero()[0])
        kind = "NaN" if torch.isnan(largest[row, position]) else "infinity"
        raise InterpError(
            f"the model yields {kind} (first at prompt {int(batch.ids[row])}, "
            f"position {position}); nothing was kept. In float16 this is often an overflow: try "
            "bfloat16 or float32"
        )


def weigh(bridge: Any, chosen: Mapping[str, Analysis], collector: Collector) -> None:
    """Analyses of the weights: called once, with the model, without prompts."""
    batch = weights_batch(bridge)
    for analysis in chosen.values():
        if analysis.scope == "weights":
            with torch.no_grad(), full_precision():
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

    def take(
        self, finished: Pass, failed: Callable[[Analysis, Exception], None] | None = None
    ) -> None:
        """Reduce one pass; its activations are gone afterwards.

        Args:
            failed: told which analysis emitted what cannot be reduced, and why; nothing of it is
                kept of this pass. Without it the error is raised.
        """
        reduced: dict[Analysis, list[State]] = {}
        for job, batch, emitted in finished.emitted:
            try:
                reduced.setdefault(job.analysis, []).append(self._reduced(job, batch, emitted))
            except Exception as error:
                if failed is None:
                    raise
                failed(job.analysis, error)
        for analysis, states in reduced.items():
            for state in states if analysis not in finished.failed else ():
                self.add(analysis, state)
        for stack, context in finished.contexts.items():
            if stack:
                self.tokens.append(_token_rows(context, stack))

    def _reduced(self, job: Job, batch: Batch, emitted: Mapping[str, Emission]) -> State:
        groups = self.grouping(batch) if self.grouping else None
        ids = job.analysis.token_columns
        return reduce_emissions(
            emitted, batch, job.stack, groups, tokens=ids, tallied=groups is not None
        )

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
    return pd.DataFrame({"stack": stack, **_token_columns(context)})


def _token_columns(context: Context) -> dict[str, Array]:
    """Index columns of the real tokens."""
    row, column = context.mask.cpu().nonzero(as_tuple=True)
    return {
        "prompt": context.ids.cpu()[row].numpy(),
        "position": context.positions.cpu()[row, column].numpy(),
        "token_id": context.tokens.cpu()[row, column].numpy(),
        "special": context.special.cpu()[row, column].numpy(),
    }


def _index(prompts: Prompts, collector: Collector, bridge: Any) -> pd.DataFrame:
    """The token table; with two stacks each has its own tokens, labels go with the encoder's."""
    index = prompts.index()
    if not collector.tokens:
        return index
    fed = pd.concat(collector.tokens, ignore_index=True)
    fed = fed.sort_values(["stack", "prompt", "position"], ignore_index=True)
    fed.insert(3, "token", _texts(fed, bridge.tokenizer))
    extra = [c for c in index if c not in fed]
    labels = index[["prompt", "position", *extra]].assign(stack="encoder")
    # As objects: tokens of the decoder have no label, which would make whole numbers floats.
    labels = labels.astype(dict.fromkeys(prompts.labels, object))
    table = fed.merge(labels, on=["stack", "prompt", "position"], how="left", sort=False)
    return table.assign(**{name: _label_column(table[name]) for name in prompts.labels})


def _label_column(column: pd.Series[Any]) -> pd.Series[Any]:
    """A label that is missing in places, with every digit of its whole numbers."""
    cells = column.astype(object).where(column.notna(), None)
    return as_column(cells.tolist()).set_axis(column.index)


def _texts(rows: pd.DataFrame, tokenizer: Any) -> pd.Series[Any]:
    """The text of every token, read in the order of its prompt."""
    keys = [c for c in ("stack", "prompt") if c in rows]
    ordered = rows.sort_values([*keys, "position"], kind="stable")
    ids = [part.tolist() for _, part in ordered.groupby(keys, sort=False)["token_id"]]
    texts = [text for row in running_strings(ids, tokenizer) for text in row]
    return pd.Series(texts, index=ordered.index, dtype=object).reindex(rows.index)


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
        "untested_versions": untested(),
        "loaded_from": getattr(config, "_name_or_path", None) or None,
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


class _Texts:
    """Which prompt each row of each pass is of, by the caches that the passes go on from.

    A prompt is one text: a row keeps its number as long as it goes on from the very end of that
    text. One that goes on from an earlier place, or beside another row that did so already, is a
    branch and gets a number of its own (beam search, a cache used twice or cut back).
    """

    def __init__(self) -> None:
        self.caches = Caches()
        self.next_id = 0
        self.branches: dict[int, tuple[int, int]] = {}
        self._ends: dict[int, int] = {}

    def past(self, kwargs: Mapping[str, Any], rows: int, columns: int | None) -> Past | None:
        """What a call of `rows` rows goes on from, None if it begins texts.

        Args:
            columns: of its mask, beside those of its own tokens.
        """
        cache = cache_in(kwargs)
        length = cache_length(cache)
        if length == 0:
            return None
        found = self.caches.find(cache, length)
        if found is not None and len(found.ids) == rows:
            return found
        if length is None:
            length = columns or 0
        if not length:
            raise NotFollowed(
                "unseen",
                "it goes on from a cache whose beginning was not observed and which does not say "
                "how many tokens it holds; attach before the first pass",
            )
        return Past(torch.full((rows, length), -1), None, torch.full((rows,), -1))

    def numbered(self, context: Context) -> Context:
        """The same rows, with new numbers for those that begin a text or branch off from one."""
        before = context.key_tokens.shape[1] - context.tokens.shape[1]
        taken: set[int] = set()
        ids: list[int] = []
        new = self.next_id
        for number in context.ids.tolist():
            goes_on = before > 0 and self._ends.get(number) == before and number not in taken
            ids.append(number if goes_on else new)
            new += not goes_on
            taken.add(ids[-1])
        return replace(context, ids=context.ids.new_tensor(ids))

    def _owner(self, number: int, position: int) -> int:
        """The prompt under which the token before `position` of this text stands."""
        while number in self.branches and position <= self.branches[number][1]:
            number = self.branches[number][0]
        return number

    def take(self, parents: Tensor, context: Context, cache: Any) -> None:
        """Remember a finished pass: its rows' texts go on from those numbered `parents`."""
        width = context.key_tokens.shape[1]
        before = context.key_mask[:, : width - context.tokens.shape[1]].sum(1).tolist()
        rows = zip(context.ids.tolist(), parents.tolist(), before, strict=True)
        for number, parent, position in rows:
            if number != parent and parent >= 0:
                self.branches[number] = (self._owner(parent, position), position)
            self._ends[number] = width
            self.next_id = max(self.next_id, number + 1)
        self.caches.remember(cache, context.key_tokens, context.key_mask, context.ids)


class Probes(Mapping[str, Result], AbstractContextManager["Probes"]):
    """Analyses attached to a model while the user runs it; read as a mapping of results.

    Every forward pass adds rows: its prompts are numbered on, unless it continues a KV cache that
    an earlier pass left. Which prompt that is, is decided by the cache itself. Where several rows
    go on from one text (beam search, a copied cache), one keeps its number and the others are
    branches: their column `branch_of` says from which prompt, `branch_at` from which position on;
    the tokens before stand under that prompt. Column `call` counts the passes.

    A pass that cannot be observed rightly runs as it would alone: it is left out, one warning per
    kind says so, and `provenance["attached"]["not_observed"]` counts.
    """

    def __init__(self, model: Any, analyses: Mapping[str, Analysis]) -> None:
        self.model, self.analyses = model, dict(analyses)
        self.anatomy = inspect(model)
        self._collector = Collector(analyses)
        self._wiring = self.anatomy.wire(list(analyses.values()))
        self._observer = Observer(model, self._wiring, self._contexts, self._take, guest=True)
        self._texts = _Texts()
        self._parents: Tensor | None = None
        self._fed: list[tuple[str, dict[str, Array], int, Tensor, dict[str, list[Any]]]] = []
        self._calls = 0
        self._cached: Results | None = None
        self._labels: dict[str, Any] = {}
        self._special = special_ids_of(model)

    def __enter__(self) -> Probes:
        refuse_training(self.model)
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
        Raises `BadInput` for the name of a column that the tables have.
        """
        refuse_taken(labels, self.analyses, rename=False)
        self._labels = labels
        return self

    def _labels_of(self, n: int) -> dict[str, list[Any]]:
        """The labels of a pass of `n` prompts, one value each."""
        out = {}
        for name, value in self._labels.items():
            cells = scalars(name, value) if _many(value) else [value] * n
            if len(cells) != n:
                raise BadInput(f"label {name!r} has {len(cells)} values, the pass has {n} prompts")
            out[name] = [plain(f"label {name!r}", i, cell) for i, cell in enumerate(cells)]
        return out

    def _contexts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Context]:
        names = [s.name for s in self.anatomy.stacks]
        tokens = tokens_of(args, kwargs)
        self._labels_of(len(tokens))  # refused before the pass, not after it
        self._refuse_broken_cache(kwargs, tokens)
        past = None
        if len(names) == 1:
            past = self._texts.past(kwargs, len(tokens), _columns_before(kwargs, tokens))
        if past is not None and bool((past.ids < 0).any()):
            self._observer.tell(
                "unseen",
                "this pass goes on from a KV cache whose beginning was not observed: the tokens "
                "before are unknown and its rows get new prompt numbers; attach before the first "
                "pass",
            )
        context = contexts_from_call(
            args,
            kwargs,
            first_id=self._texts.next_id,
            special_ids=self._special,
            pad_id=getattr(self.model.tokenizer, "pad_token_id", None),
            past=past,
        )
        self._parents = past.ids if past is not None else torch.full((len(tokens),), -1)
        context = set_apart(self._texts.numbered(context), self.anatomy.stacks[0])
        if len(names) > 1:
            return _by_stack(self.anatomy, context, kwargs, self._special)
        return {names[0]: context}

    def _refuse_broken_cache(self, kwargs: Mapping[str, Any], tokens: Tensor) -> None:
        """Raise before a pass that goes on from a cache which the bridge does not use rightly."""
        cache = cache_in(kwargs)
        if cache is None or len(self.anatomy.stacks) > 1:
            return
        measured = self.anatomy.continuation.broken(tokens.shape[1])
        if self._texts.caches.was_dropped(cache):
            seen = "the pass before was given this cache and left it empty"
        elif measured is not None and (cache_length(cache) != 0 or _columns_before(kwargs, tokens)):
            seen = (
                f"relative difference {measured:.2g}, allowed "
                f"{self.anatomy.continuation.tolerance:.0e}"
            )
        else:
            return
        found = versions()
        raise Unsupported(
            "a pass that continues a KV cache does not give what the whole pass gives on "
            f"{self.anatomy.model} ({seen}; transformers {found['transformers']}, TransformerLens "
            f"{found['transformer-lens']}): what it generates is wrong, and tables of it would be. "
            "Generate with use_past_kv_cache=False (hf_generate and Hugging Face: use_cache=False)"
        )

    def _take(self, finished: Pass) -> None:
        if not finished.contexts:
            self._texts.caches.forget(finished.cache)
            return
        self._collector.take(finished, partial(self._observer.fail, finished))
        self._cached = None
        for stack, context in finished.contexts.items():
            # Tables are made when they are read: one of pandas costs as much as a small pass.
            labels = self._labels_of(len(context.ids))
            self._fed.append((stack, _token_columns(context), self._calls, context.ids, labels))
        first = next(iter(finished.contexts.values()))
        if self._parents is not None:
            self._texts.take(self._parents, first, finished.cache)
        self._calls += 1

    @property
    def results(self) -> Results:
        """What was seen so far, as `run` would return it."""
        if self._cached is None:
            self._cached = self._collector.results(
                self._tokens(),
                provenance_of(self.model, self.anatomy, self.analyses, None)
                | {"attached": self._attached()},
                self.anatomy,
                self.model,
            )
            for result in self._cached.values():
                result.notes += tuple(self._unobserved(result.name))
        return self._cached

    def _attached(self) -> dict[str, Any]:
        return {
            "calls": self._calls,
            "hooks_lost": self._observer.lost_hooks,
            "not_observed": dict(self._observer.unobserved),
        }

    def _unobserved(self, name: str) -> Iterator[str]:
        for kind, n in self._observer.unobserved.items():
            if kind.startswith(f"{self.analyses[name].name()}: ") or ": " not in kind:
                yield f"Not observed, or not wholly: {n} passes ({kind})."

    def _table_of(
        self,
        stack: str,
        columns: dict[str, Array],
        call: int,
        ids: Tensor,
        labels: dict[str, list[Any]],
    ) -> pd.DataFrame:
        rows = pd.DataFrame({"stack": stack, **columns}).assign(call=call)
        for name, values in labels.items():
            of = dict(zip(ids.tolist(), values, strict=True))
            rows[name] = pd.Series([of[i] for i in rows["prompt"]], rows.index, dtype=object)
        return rows if stack else rows.drop(columns="stack")

    def _tokens(self) -> pd.DataFrame:
        columns = ["prompt", "position", "token_id", "special", "call"]
        tables = [self._table_of(*fed) for fed in self._fed]
        rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
        texts = _texts(rows, self.model.tokenizer)
        rows.insert(list(rows).index("token_id"), "token", texts)
        labels = [str(c) for c in rows if c not in (*columns, "token", "stack")]
        rows = rows.assign(**{name: _label_column(rows[name]) for name in labels})
        if self._texts.branches:
            origin = rows["prompt"].map(self._texts.branches)
            for place, name in enumerate(("branch_of", "branch_at")):
                values = [b[place] if isinstance(b, tuple) else None for b in origin]
                rows[name] = pd.array(values, dtype="Int64")
        return rows

    def __getitem__(self, name: str) -> Result:
        result = self.results[name]
        failure = self._observer.failures.get(result.analysis)
        if failure is not None and not self._collector.states[name]:
            raise failure  # there is nothing else to tell of it
        return result

    def __iter__(self) -> Any:
        return iter(self.analyses)

    def __len__(self) -> int:
        return len(self.analyses)

    def __repr__(self) -> str:
        return f"<Probes on {self.anatomy.model}: {', '.join(self.analyses)}; {self._calls} passes>"


def _columns_before(kwargs: Mapping[str, Any], tokens: Tensor) -> int:
    """Columns of a mask `[batch, pos]` before those of the tokens that a call brings."""
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return 0
    return max(mask.shape[1] - tokens.shape[1], 0)


def _many(value: Any) -> bool:
    several = (Sequence, np.ndarray, pd.Series, Tensor)
    return isinstance(value, several) and not isinstance(value, str)


def attach(model: Any, *analyses: str | Analysis | type[Analysis]) -> Probes:
    """Watch a model while you run it yourself: `with interp.attach(model, "rotation") as probes:`.

    Everything that reaches the model inside the block is observed: `model(...)`,
    `run_with_hooks`, `run_with_cache`, `generate`. Your own hooks stay, and the tables show the
    stream as they leave it. Leaving the block takes every hook off, also after an error.

    Raises `BadInput` for a model in training mode, `UnknownName`, `Unsupported` as `run` does;
    `Unsupported` before a pass that continues a KV cache where the bridge does not continue it
    rightly (`inspect` measures that). What else cannot be observed is left out with a warning and
    never ends a pass; reading an analysis of which nothing could be observed raises why.
    """
    return Probes(model, resolve(analyses or DEFAULT))
