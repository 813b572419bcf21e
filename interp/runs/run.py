"""Prompts in, results out: one forward pass per batch serves every analysis.

`run` drives the model itself; `attach` only watches while the user does. Both feed the same
observers and give the same results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from interp._progress import INSPECTING, Bar, slow, stage
from interp.contract.analysis import Analysis, Batch
from interp.contract.columns import refuse_taken
from interp.contract.jobs import ObserveCall
from interp.contract.kept import Kept
from interp.contract.options import check_numbers, check_options
from interp.contract.reduce import Groups, groups_by
from interp.contract.registry import resolve
from interp.contract.settings import configured
from interp.errors import unknown
from interp.models.anatomy import Anatomy
from interp.models.answers import (
    answers_of,
    columns_of,
    refuse_unanswered,
    second_answers,
    token_texts,
    unspaced,
)
from interp.models.for_model import prompts_of
from interp.models.load import load_model
from interp.models.probe import inspect
from interp.models.untrained import check_control, random_copy
from interp.prompts.label_values import scalars
from interp.prompts.labels import labelled, target_word
from interp.prompts.prompts import Prompts
from interp.prompts.read import parted
from interp.runs.before_loading import (
    opened,
    refuse_batches,
    refuse_keep,
    refuse_labels,
    refuse_reading,
    refuse_target,
)
from interp.runs.collect import Collector, observe_weights, token_index
from interp.runs.feed import Feeder
from interp.runs.provenance import provenance_of
from interp.runs.results import Results

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
    against: Any = None,
    layers: Any = None,
    positions: Any = None,
    settings: Mapping[str, Any] | None = None,
    prepend_bos: bool | None = None,
    truncate: bool = False,
    keep: Literal["tokens", "summary"] = "tokens",
    by: Sequence[str] = (),
    control: str | None = None,
    without_dims: Sequence[int] = (),
    max_tokens: int = 4096,
    model_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Results:
    """Runs analyses over prompts and returns their tables.

    Args:
        model: a bridge, or anything `load_model` takes.
        prompts: strings, chat messages, a token tensor `[batch, pos]`, a tokenizer's encoding, a
            file, a table or data set, or a built-in name (`"her"`, `"demo"`); see
            `interp.prompts.read_prompts`.
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
            or one token, `" her"`, at every position, or one for each prompt, `[" her", " him"]`.
            The next tokens unless given.
        against: second answers, one token or one for each prompt: what compares two answers
            (`logit_difference`, `logit_attribution`) takes the target's logit minus theirs.
        layers: keep the rows of these layers only, by the numbers in the column `layer`; negative
            ones count from the end of each table. Deeper blocks are not observed.
        positions: keep the rows of these positions only; -1, or "last", is the last token of each
            prompt. Analyses see all tokens.
        settings: parameters of analyses by name, `{"logit_lens": {"top_k": 3}}` or
            `{"logit_lens.top_k": 3}`.
        prepend_bos: the model's own policy unless given.
        truncate: cut prompts that are longer than the context instead of refusing them.
        keep: "tokens": a row per token; "summary": moments per group of `by`.
        by: label columns that make the groups of a summary; special tokens have none.
        control: "random-init" also runs an untrained copy of the model (`random_copy`) over the
            same prompts; its results are in `results.control`. Lines and head maps show them
            beside the model's; the caption of any other figure names the table that has them.
        without_dims: dimensions of the stream that all analyses leave out, such as massive ones;
            refused for one that reads more than the stream. One analysis alone leaves them out
            with its own parameter, `Rotation(without_dims=(7,))`, as in all other kinds of run.
        max_tokens: budget of a batch, padding included.
        model_options: for `load_model`: `dtype`, `device`, `revision` ….
        progress: say what is being done, with a bar for the passes.

    Returns: `Results`, by analysis name.
    Raises: `BadInput`, `UnknownName`, `Unsupported` before the first batch, and before the model is
    loaded where that can be told without it; `ObserveError` where an analysis fails; `InterpError`
    where the model yields NaN. Nothing stays attached.
    """
    check_numbers(max_tokens=max_tokens)
    check_options(
        target=target, labels=labels, token_labels=token_labels, labellers=labellers, by=by,
        settings=settings, prepend_bos=prepend_bos, truncate=truncate, without_dims=without_dims,
        model_options=model_options, targets=targets,
    )  # fmt: skip
    chosen, kept = configured(resolve(analyses), settings), Kept.of(layers, positions)
    refuse_unanswered(chosen.values(), against)
    if len(without_dims):
        dims = tuple(int(i) for i in without_dims)
        chosen = {name: replace(analysis, without_dims=dims) for name, analysis in chosen.items()}
    marks = [*([target_word(target)] if target else []), *labellers]
    _refuse_early(keep, by, control, max_tokens)
    given = NOTHING if prompts is None else opened(model, prompts, mask)
    refuse_target(given, target)
    refuse_labels(
        given, chosen, labels, token_labels, by, role=bool(target), complete=not labellers
    )
    if prompts is None:
        refuse_reading(chosen)
    with stage(f"loading {model}", enabled=progress and isinstance(model, str | Path)):
        bridge = load_model(model, **(model_options or {}))
        with slow(INSPECTING, enabled=progress and bridge is model):
            anatomy = inspect(bridge)
    if control is not None:
        check_control(control, bridge)
    wiring = kept.wiring(anatomy.wire(list(chosen.values())))
    ready = _prepare(bridge, anatomy, given, labels, token_labels, targets, prepend_bos, truncate)
    second = second_answers(bridge, against, columns_of(given))
    ready = ready.aimed_at(None, second, token_texts(bridge, against))
    ready = replace(ready, notes=(*ready.notes, *unspaced(bridge, ready, targets, against)))
    if len(anatomy.stacks) == 1:  # a decoder has tokens of its own, known after its first pass
        kept.refuse_absent(int(max(ready.lengths, default=0)), "the longest prompt")
    for labeller in marks:
        ready = labelled(ready, labeller)
    ready = replace(ready, notes=(*ready.notes, *without_targets(ready, kept, target)))
    refuse_taken(ready.labels, chosen)
    collector = Collector(chosen, _grouping(ready, keep, by), kept)
    observe_weights(
        bridge, chosen, collector
    )  # first, because it refuses what the model does not have
    if wiring.jobs:
        _drive(bridge, anatomy, wiring, ready, collector, max_tokens, progress)
    provenance = provenance_of(bridge, anatomy, chosen, ready)
    results = collector.results(token_index(ready, collector, bridge), provenance, anatomy, bridge)
    if control is None:
        return results
    options: dict[str, Any] = {"keep": keep, "by": by, "max_tokens": max_tokens}
    options |= {"layers": layers, "positions": positions, "against": against}
    # `ready`, not `prompts`: the copy must see the same tokens, labels and random choices.
    beside = run(random_copy(bridge), ready, list(chosen.values()), progress=progress, **options)
    return Results(results.values(), {**provenance, "control": control}, beside)


def _refuse_early(keep: str, by: Sequence[str], control: str | None, max_tokens: int) -> None:
    """Raises for options that contradict each other or do not exist, before a model is loaded."""
    refuse_keep(keep, by)
    refuse_batches(max_tokens)
    if control is not None:
        check_control(control)


def _prepare(
    bridge: Any,
    anatomy: Anatomy,
    prompts: Any,
    labels: Any,
    token_labels: Any,
    targets: Any,
    prepend_bos: bool | None,
    truncate: bool,
) -> Prompts:
    one = answers_of(bridge, targets, "targets", columns_of(prompts))
    if isinstance(prompts, Prompts):
        prompts, labels, token_labels = _relabelled(prompts, labels, token_labels), None, None
    ready = prompts_of(
        bridge,
        anatomy,
        prompts,
        prepend_bos=prepend_bos,
        labels=labels,
        token_labels=token_labels,
        targets=None if one is not None else targets,
        truncate=truncate,
    )
    return ready if one is None else ready.aimed_at(one, texts=token_texts(bridge, targets))


def without_targets(prompts: Prompts, kept: Kept, target: str | None) -> list[str]:
    """A note where no row of the target word is among the positions that are kept."""
    if target is None or kept.positions is None:
        return []
    for row in prompts.labels["role"]:
        wanted = {p if p >= 0 else len(row) + p for p in kept.positions}
        if any(role == "target" for i, role in enumerate(row) if i in wanted):
            return []
    return [
        f"no token of {target!r} is at the positions kept "
        f"({', '.join(map(str, kept.positions))}), so that no table has a row of the role target"
    ]


def _relabelled(prompts: Prompts, labels: Any, token_labels: Any) -> Prompts:
    """Prompts that were read earlier, with the labels of this call."""
    given, names = parted(labels)
    prompts = prompts.renamed(names)
    for name, values in given.items():
        prompts = prompts.with_labels(name, scalars(name, values))
    for name, rows in (token_labels or {}).items():
        prompts = prompts.with_labels(name, rows)
    return prompts


def _drive(
    bridge: Any,
    anatomy: Anatomy,
    wiring: Any,
    prompts: Prompts,
    collector: Collector,
    max_tokens: int,
    progress: bool,
) -> None:
    """Feeds the batches; the pass ends before the unembedding where nothing needs logits."""
    with Feeder(bridge, anatomy, wiring) as feeder:
        # A list, for the bar needs to know how many there are.
        batches = list(feeder.batches(prompts, max_tokens))
        calls = len(wiring.jobs)
        with Bar("passes", len(batches) * calls, enabled=progress) as bar:
            for number, batch in enumerate(batches):
                # By calls of analyses, because all may fit one pass that takes a minute.
                feeder.begun = partial(_tell, bar, number * calls)
                collector.take(feeder.feed(batch))


def _tell(bar: Bar, before: int, done: int, call: ObserveCall) -> None:
    where = "" if call.layer is None else f", block {call.layer}"
    bar.show(before + done, f"{call.analysis.name()}{where}")


def _grouping(prompts: Prompts, keep: str, by: Sequence[str]) -> Callable[[Batch], Groups] | None:
    """Assignment of tokens to groups, or None where rows are kept."""
    if keep == "tokens":
        return None
    index = prompts.index()
    for label in by:
        if label not in index:
            known = [str(c) for c in index if c not in ("prompt", "position")]
            raise unknown("label", label, known)
    columns = {label: index[label] for label in by}
    starts = np.searchsorted(index["prompt"].to_numpy(), np.arange(len(prompts)))
    return groups_by(columns, index["special"].to_numpy(dtype=bool), starts)
