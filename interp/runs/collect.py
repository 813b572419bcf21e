"""Collected state of many passes, turned into results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch

from interp._arrays import Array
from interp.contract.analysis import Analysis, Batch, Emission, weights_batch
from interp.contract.emissions import failed, observed
from interp.contract.jobs import ObserveCall, Pass
from interp.contract.kept import ALL, Kept
from interp.contract.leaves import UNCLOSED, Moments, State, merge_states, only
from interp.contract.reduce import Groups, reduce_emissions
from interp.contract.table import rowless
from interp.contract.tokens import Tokens
from interp.errors import InterpError
from interp.geometry import full_precision
from interp.models.anatomy import Anatomy
from interp.models.for_model import explained, special_ids_of
from interp.prompts.label_values import as_column
from interp.prompts.prompts import Prompts
from interp.prompts.tokens import running_strings, token_strings
from interp.runs.moments_notes import moments_notes
from interp.runs.results import Result, Results


def observe_weights(bridge: Any, chosen: Mapping[str, Analysis], collector: Collector) -> None:
    """Analyses of the weights: called once, with the model, without prompts."""
    batch = weights_batch(bridge)
    for analysis in chosen.values():
        if analysis.scope == "weights":
            collector.add(analysis, reduce_emissions(_observed(analysis, batch), batch, "", None))


def _observed(analysis: Analysis, batch: Batch) -> Mapping[str, Emission]:
    """What an analysis of the weights emits; an error that is no answer names its author's line."""
    try:
        with torch.no_grad(), full_precision():
            return observed(analysis, batch)
    except InterpError:
        raise
    except Exception as error:
        raise failed(analysis, batch, error) from error


class Collector:
    """Merges what finished passes emitted, per analysis."""

    def __init__(
        self,
        analyses: Mapping[str, Analysis],
        grouping: Callable[[Batch], Groups] | None = None,
        kept: Kept = ALL,
    ) -> None:
        self.analyses, self.grouping, self.kept = dict(analyses), grouping, kept
        self.states: dict[str, State] = {name: {} for name in analyses}
        self.tokens: list[pd.DataFrame] = []
        self.seen_stacks: set[str] = set()

    def take(
        self, finished: Pass, failed: Callable[[Analysis, Exception], None] | None = None
    ) -> None:
        """Reduces one pass; its activations are gone afterwards.

        Args:
            failed: called with an analysis whose emissions cannot be reduced and the error; nothing
                of it is kept of this pass. Without it the error is raised.
        """
        # All of a pass or nothing: no table may hold half of one.
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

    def _reduced(self, job: ObserveCall, batch: Batch, emitted: Mapping[str, Emission]) -> State:
        batch = self.kept.narrowed(batch)
        groups = self.grouping(batch) if self.grouping else None
        ids = job.analysis.token_columns
        state = reduce_emissions(
            emitted, batch, job.stack, groups, tokens=ids, tallied=groups is not None
        )
        return self.kept.of_layers(state, job)

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
            state = self.states[name]
            said = [_rowless(analysis, state), self.kept.note(analysis, state), open_note(state)]
            if "special" in tokens:
                said += moments_notes(state, tokens["special"].fillna(False).astype(bool))
            own = (*notes, *filter(None, said), *left_out_note(analysis))
            out.append(Result(name, analysis, self.states[name], tokens, strings, own))
        kept = self.kept.record()
        return Results(out, {**provenance, **({"kept": kept} if kept else {})})


def _rowless(analysis: Analysis, state: State) -> str:
    return "" if type(analysis).table is not Analysis.table else rowless(state)


def open_note(state: State) -> str:
    """A sentence on the blocks whose terms did not add up to their steps; "" without any."""
    found = {
        at: leaf
        for at, leaves in sorted(state.items())
        if (leaf := only(leaves, Moments).get(UNCLOSED)) is not None
    }
    if not found:
        return ""
    blocks = [f"{layer}{f' of the {stack}' if stack else ''}" for stack, layer in found]
    tokens = sum(int(leaf.count) for leaf in found.values())
    worst = max(float(leaf.max) for leaf in found.values())
    return (
        f"The terms of block{'s' if len(blocks) > 1 else ''} {', '.join(blocks)} do not add up to "
        f"the step at {tokens:,} token{'' if tokens == 1 else 's'} (closing error up to "
        f"{worst:.2g}): most likely a hook changes the stream there. What it adds is counted as no "
        "term's."
    )


def left_out_note(analysis: Analysis) -> tuple[str, ...]:
    """A note on the dimensions of the stream that an analysis does without."""
    dims = ", ".join(map(str, analysis.without_dims))
    return (f"Without dimensions {dims} of the stream, which are 0 here.",) if dims else ()


def ids_in(state: State, analysis: Analysis) -> set[int]:
    """Token ids in token columns and in examples of token ids."""
    return {
        i
        for leaves in state.values()
        for name, leaf in leaves.items()
        for i in leaf.token_ids(name, analysis.token_columns).tolist()
    }


def _token_rows(context: Tokens, stack: str) -> pd.DataFrame:
    return pd.DataFrame({"stack": stack, **token_columns(context)})


def token_columns(context: Tokens) -> dict[str, Array]:
    """Index columns of the real tokens."""
    row, column = context.mask.cpu().nonzero(as_tuple=True)
    return {
        "prompt": context.ids.cpu()[row].numpy(),
        "position": context.positions.cpu()[row, column].numpy(),
        "token_id": context.tokens.cpu()[row, column].numpy(),
        "special": context.special.cpu()[row, column].numpy(),
    }


def token_index(prompts: Prompts, collector: Collector, bridge: Any) -> pd.DataFrame:
    """The token table; with two stacks each has its own tokens, labels go with the encoder's."""
    index = prompts.index()
    if not collector.tokens:
        return index
    fed = pd.concat(collector.tokens, ignore_index=True)
    fed = fed.sort_values(["stack", "prompt", "position"], ignore_index=True)
    fed.insert(3, "token", token_texts(fed, bridge.tokenizer))
    extra = [c for c in index if c not in fed]
    labels = index[["prompt", "position", *extra]].assign(stack="encoder")
    # As objects: tokens of the decoder have no label, which would make whole numbers floats.
    labels = labels.astype(dict.fromkeys(prompts.labels, object))
    table = fed.merge(labels, on=["stack", "prompt", "position"], how="left", sort=False)
    return table.assign(**{name: label_column(table[name]) for name in prompts.labels})


def label_column(column: pd.Series[Any]) -> pd.Series[Any]:
    """A label that is missing in places, with every digit of its whole numbers."""
    cells = column.astype(object).where(column.notna(), None)
    return as_column(cells.tolist()).set_axis(column.index)


def token_texts(rows: pd.DataFrame, tokenizer: Any) -> pd.Series[Any]:
    """The text of every token, read in the order of its prompt."""
    keys = [c for c in ("stack", "prompt") if c in rows]
    # A character may be spread over several tokens, so texts depend on their order.
    ordered = rows.sort_values([*keys, "position"], kind="stable")
    ids = [part.tolist() for _, part in ordered.groupby(keys, sort=False)["token_id"]]
    texts = [text for row in running_strings(ids, tokenizer) for text in row]
    return pd.Series(texts, index=ordered.index, dtype=object).reindex(rows.index)
