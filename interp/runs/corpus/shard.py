"""Measurement of one shard: read it, run it, write it, rename it.

Every engine calls `Worker.measure` and nothing else; its output depends on the job and the shard
only. Knows models and analyses; nothing of other shards, processes or machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp._arrays import Array
from interp._files import atomic, checksum, write_json, write_sealed
from interp.contract.analysis import Analysis
from interp.contract.document_sums import Parting
from interp.contract.kept import ALL, Kept
from interp.contract.leaves import Rows, State, merge_states, only, without_rows
from interp.contract.reduce import close_documents, group_rows, groups_by
from interp.contract.tokens import Tokens
from interp.errors import InterpError, Unsupported
from interp.models.anatomy import Anatomy
from interp.models.answers import answers_of, second_answers
from interp.models.for_model import massive_note
from interp.models.load import load_model
from interp.models.probe import inspect
from interp.models.untrained import check_control, random_copy
from interp.prompts.tokens import token_strings, vocabulary_id
from interp.runs.collect import Collector, observe_weights
from interp.runs.corpus.continuations import (
    SHOWN,
    TEXTS,
    TYPES,
    Generation,
    Window,
    Writer,
    summed,
)
from interp.runs.corpus.documents import Chunks, Failure, Reading, read_window, reason_of, windows
from interp.runs.corpus.jobs import ShardJob
from interp.runs.corpus.rows import RowWriter, TokenTable, Vocabulary
from interp.runs.corpus.sources import Document, Shard, Source, Span
from interp.runs.feed import Feeder
from interp.runs.provenance import provenance_of
from interp.runs.storage import save_state

SHARDS = "shards"
_HOLD = 1 << 26  # bytes of rows that are collected before they become moments
Texts = Callable[[Iterable[int]], Mapping[int, str]]
Settle = Callable[[Analysis, State], State]


@dataclass(frozen=True)
class CorpusJob:
    """The settings that all shards of a run share; can be sent to another process.

    Attributes:
        model: as for `load_model`.
        options: for `load_model`.
        analyses: by the name that their tables get.
        source: the corpus.
        reading: the settings by which documents become chunks.
        keep: "tokens" or "summary".
        by: labels that make the groups of a summary.
        labels: label columns of the rows of tokens.
        max_tokens: budget of a batch, padding included.
        threads: of the arithmetic; results depend on it in the last bits.
        folder: the output folder of the run.
        control: "random-init" if an untrained copy of the model is measured as well.
        untrained: measure that copy, not the model.
        run: identifier of the run, by which shards of another run are recognised.
        targets: the answer that is measured at every position, in place of the next token.
        against: a second answer, which the targets are compared with.
        kept: the layers and positions whose rows are kept.
        generation: the way in which the model continues documents, None where it does not.
    """

    model: Any
    options: Mapping[str, Any]
    analyses: Mapping[str, Analysis]
    source: Source
    reading: Reading
    keep: str
    by: tuple[str, ...]
    labels: tuple[str, ...]
    max_tokens: int
    threads: int
    folder: Path
    control: str | None = None
    untrained: bool = False
    run: str = ""
    targets: str | int | None = None
    against: str | int | None = None
    kept: Kept = ALL
    generation: Generation | None = None

    @property
    def states(self) -> tuple[str, ...]:
        """Names of what each shard accumulates."""
        return tuple(self.analyses)

    def worker(self) -> Worker:
        """A worker, with its model loaded."""
        return Worker(self)


@dataclass
class _Tally:
    """Counts of a shard's documents, chunks and tokens, its failures, and the written texts.

    Attributes:
        longest: number of tokens of the longest chunk.
    """

    documents: int = 0
    chunks: int = 0
    tokens: int = 0
    longest: int = 0
    failures: list[Failure] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)

    def take(self, window: Window) -> None:
        self.failures += window.failures
        self.texts += window.texts
        self.counts += [window.counts]


def model_of(job: ShardJob) -> Any:
    """The model of a job, loaded, with the threads that its workers have."""
    # Sums are split by thread: the same number in every worker keeps the last bits.
    torch.set_num_threads(job.threads)
    bridge = load_model(job.model, **job.options)
    if job.control is not None:
        check_control(job.control, bridge)  # before hours are spent on the model itself
    return bridge


class Worker:
    """A loaded model that measures shards of a job, one after the other."""

    def __init__(self, job: CorpusJob) -> None:
        self.job, self.bridge = job, model_of(job)
        self.anatomy = inspect(self.bridge)
        # The copy gets the same tokens as the model, first tokens with a massive norm left out in
        # both, or their means would not compare.
        self._first = self.anatomy.stacks[0]
        # Texts of the untrained copy would be noise: it reads those of the model.
        asked = job.generation
        self._writer = asked and Writer(self.bridge, self.anatomy, asked, job.max_tokens)
        if job.untrained:
            self.bridge = random_copy(self.bridge)
            self.anatomy = inspect(self.bridge)
        if len(self.anatomy.stacks) > 1:
            raise Unsupported(
                f"{self.anatomy.model} has an encoder and a decoder; corpus runs take models with "
                "one stack. interp.run measures both stacks of prompts that fit in memory"
            )
        self.wiring = job.kept.wiring(self.anatomy.wire(list(job.analyses.values())))
        self._answers = (
            answers_of(self.bridge, job.targets, "targets"),
            second_answers(self.bridge, job.against),
        )
        tokenizer = self.bridge.tokenizer
        self._texts: Texts = partial(_texts, tokenizer)
        self._vocabulary = Vocabulary(self._texts)

    def describe(self) -> dict[str, Any]:
        """Identity of the model: provenance, with a fingerprint of all weights; JSON values."""
        return description(self.bridge, self.anatomy, self.job.analyses) | {
            "massive_first": massive_note(self._first) if self._first.massive_first else "",
            **(self._writer.describe() if self._writer else {}),
        }

    def adopt(self, job: CorpusJob) -> None:
        """Work on `job` from now on: the same model, completed by the values of `describe`."""
        # Observers know the analyses by identity, and a job that came through a pipe has copies.
        self.job = replace(job, analyses=self.job.analyses)

    def measure(self, shard: Shard) -> dict[str, Any]:
        """Measure one shard, write its files, and last its record, which is returned."""
        folder = self.job.folder
        collector = Collector(self.job.analyses)
        if shard.index == 0:  # analyses of the weights need no shard, so the first one runs them
            observe_weights(self.bridge, self.job.analyses, collector)
        with ExitStack() as stack:
            writers = self._writers(shard, stack) if self.job.keep == "tokens" else {}
            tally, kept = self._windows(shard, collector, writers)
            rows = {name: writer.rows for name, writer in writers.items()}
            for writer in writers.values():
                writer.close()
        paths = [part_path(folder, name, shard) for name, n in rows.items() if n]
        paths += [p for n, s in collector.states.items() if (p := self._save(shard, n, s))]
        paths += self._save_tokens(shard, kept, collector)
        paths += self._save_vocabulary() if shard.index == 0 else []
        if self._writer:
            rows[TEXTS] = len(texts := self._lasting(tally.texts))
            paths += self._save_texts(shard, texts)
        record = {
            "run": self.job.run,
            "shard": shard.index,
            "documents": tally.documents,
            "chunks": tally.chunks,
            "tokens": tally.tokens,
            "longest": tally.longest,
            "rows": rows,
            "failures": [vars(failure) for failure in tally.failures],
            **({"written": summed(tally.counts)} if self._writer else {}),
            "files": {str(p.relative_to(folder)): checksum(p) for p in paths},
        }
        return write_sealed(record_path(folder, shard.span), record)

    # ---- measuring ---------------------------------------------------------------------------

    def _windows(
        self, shard: Shard, collector: Collector, writers: Mapping[str, RowWriter]
    ) -> tuple[_Tally, list[pd.DataFrame]]:
        job, tally, kept = self.job, _Tally(), []
        with Feeder(self.bridge, self.anatomy, self.wiring) as feeder:
            for documents in self._cut(job.source.read(shard)):
                window = self._read(documents, feeder)
                tally.documents += len(documents)
                tally.take(window)
                if (chunks := window.chunks) is None:
                    continue
                settle = self._grouper(chunks) if job.keep == "summary" else None
                pending = self._window(feeder, chunks, collector, tally, settle)
                if settle is None:
                    types = TYPES if self._writer else {}
                    table = TokenTable(chunks, job.labels, self._vocabulary, types)
                    for name, writer in writers.items():
                        writer.write(pending.states[name], table)
                    _settle(pending, collector, lambda _, state: without_rows(state))
                kept.append(_tokens_of(chunks, prompts_in(collector.states)))
        return tally, kept

    def _cut(self, documents: Iterator[Document]) -> Iterator[list[Document]]:
        """Windows of documents, smaller ones where each becomes several and longer texts."""
        asked = self.job.generation
        return windows(documents, asked.new_bytes, asked.samples) if asked else windows(documents)

    def _read(self, documents: Sequence[Document], feeder: Feeder) -> Window:
        """The chunks of a window, of documents or of what the model makes of them."""
        if not self._writer:
            return Window(*read_window(documents, self.bridge.tokenizer, self.job.reading))
        with feeder.apart():
            return self._writer.read(documents, self.job.reading)

    def _window(
        self,
        feeder: Feeder,
        chunks: Chunks,
        collector: Collector,
        tally: _Tally,
        settle: Settle | None,
    ) -> Collector:
        """Run the chunks of a window; a batch that fails is run again, one chunk at a time.

        Returns the observations that are not settled yet.
        """
        before, done = len(tally.failures), 0
        pending = Collector(collector.analyses)
        for batch in feeder.batches(chunks.prompts, self.job.max_tokens):
            for part, error in self._parts(feeder, batch, chunks, pending):
                if error is None:
                    done += len(part.ids)
                    tally.longest = max(tally.longest, int(part.mask.sum(-1).max()))
                    tally.tokens += int((part.mask & ~_repeated(part, chunks)).sum())
                else:
                    tally.failures.append(_failure(chunks, int(part.ids[0]), error))
            if settle and _held(pending) > _HOLD:
                _settle(pending, collector, settle)
        if settle:
            _settle(pending, collector, settle)
            for name, state in collector.states.items():
                # No document goes on in another window: its sums are squared now, and the memory
                # does not grow with the number of documents.
                collector.states[name] = close_documents(state)
        tally.chunks += done
        failed = len(tally.failures) - before
        # One bad document is a failure of that document; a whole window is one of the analysis or
        # the machine, and would go on for days.
        if failed > 1 and not done:
            reason = tally.failures[before].reason
            raise InterpError(f"not one of {failed} chunks could be measured; the first: {reason}")
        return pending

    def _grouper(self, chunks: Chunks) -> Settle:
        """A function that turns rows into moments, of many batches at once: groups cost time."""
        special = np.concatenate(chunks.prompts.left_out)
        grouping = groups_by(chunks.labels(self.job.by), special, chunks.starts, chunks.ids)

        def part(prompt: Array, position: Array) -> Parting:
            document = prompt // self.job.reading.stride
            return Parting.of(grouping.of(prompt, position), grouping.keys, document)

        def settle(analysis: Analysis, state: State) -> State:
            return group_rows(state, part, grouping.labels, analysis.token_columns)

        return settle

    def _parts(
        self, feeder: Feeder, batch: Tokens, chunks: Chunks, collector: Collector
    ) -> Iterable[tuple[Tokens, Exception | None]]:
        error = self._run(feeder, batch, chunks, collector)
        if error is None or len(batch.ids) == 1:
            return [(batch, error)]
        alone = [batch.row(row) for row in range(len(batch.ids))]
        return [(part, self._run(feeder, part, chunks, collector)) for part in alone]

    def _run(
        self, feeder: Feeder, batch: Tokens, chunks: Chunks, collector: Collector
    ) -> Exception | None:
        """Run one forward pass, merged as a whole or not at all; returns its error, if any."""
        # Ids of the corpus instead of the window, so that examples are found again.
        fed = replace(batch, ids=torch.from_numpy(chunks.ids[batch.ids.numpy()]))
        fed = fed.answered(*self._answers)
        part = Collector(collector.analyses, kept=self.job.kept)
        try:
            part.take(feeder.feed(fed))
        except (OSError, MemoryError):
            raise  # of the machine, not of the document
        except Exception as error:  # noqa: BLE001  one document must not cost the run
            return error
        for name, analysis in collector.analyses.items():
            if part.states[name]:
                collector.add(analysis, part.states[name])
        return None

    # ---- writing -----------------------------------------------------------------------------

    def _writers(self, shard: Shard, stack: ExitStack) -> dict[str, RowWriter]:
        metadata = {"interp.run": self.job.run, "interp.shard": str(shard.index)}
        out = {}
        for name, analysis in self.job.analyses.items():
            if analysis.scope != "weights":
                path = stack.enter_context(atomic(part_path(self.job.folder, name, shard)))
                columns = analysis.token_columns
                out[name] = RowWriter(path, columns, self._vocabulary, metadata)
        return out

    def _save(self, shard: Shard, name: str, state: State) -> Path | None:
        path = state_path(self.job.folder, name, shard.span)
        if not any(leaves for leaves in state.values()):
            return None
        with atomic(path) as temporary:
            save_state(state, temporary)
        return path

    def _save_tokens(
        self, shard: Shard, kept: list[pd.DataFrame], collector: Collector
    ) -> list[Path]:
        """Save the tokens of the few prompts that the state holds examples of."""
        # Chunks that were among the best when their window ended may have been displaced since.
        prompts = prompts_in(collector.states)
        rows = pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()
        rows = rows[rows["prompt"].isin(list(prompts))] if len(rows) else rows
        if rows.empty:
            return []
        path = tokens_path(self.job.folder, shard.span)
        with atomic(path) as temporary:
            rows.to_parquet(temporary, index=False)
        return [path]

    def _lasting(self, texts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The texts that are kept: all with the rows of tokens, of a summary the first ones."""
        return [t for t in texts if self.job.keep == "tokens" or t["document"] < SHOWN]

    def _save_texts(self, shard: Shard, texts: list[dict[str, Any]]) -> list[Path]:
        if not texts:
            return []
        path = part_path(self.job.folder, TEXTS, shard)
        types = {"document": np.int64, "sample": np.int32, "new_tokens": np.int32}
        with atomic(path) as temporary:
            pd.DataFrame(texts).astype(types).to_parquet(temporary, index=False)
        return [path]

    def _save_vocabulary(self) -> list[Path]:
        if not any(analysis.token_columns for analysis in self.job.analyses.values()):
            return []
        path = vocabulary_path(self.job.folder)
        write_json(path, self._texts(range(self.anatomy.d_vocab)))
        return [path]


def description(bridge: Any, anatomy: Anatomy, analyses: Mapping[str, Analysis]) -> dict[str, Any]:
    """Identity of a loaded model: provenance, with a fingerprint of all weights; JSON values."""
    return provenance_of(bridge, anatomy, analyses, None) | {
        "weights": fingerprint(bridge),
        "context": anatomy.n_ctx,
        "vocabulary": anatomy.d_vocab or None,
        "tokenizer": vocabulary_id(bridge.tokenizer),
        "prepends_bos": bool(anatomy.prepends_bos),
        "notes": list(anatomy.caveats()),
    }


def _texts(tokenizer: Any, ids: Iterable[int]) -> Mapping[int, str]:
    return token_strings(ids, tokenizer)


def vocabulary_path(folder: Path) -> Path:
    """Path of the texts of all token ids, for runs whose tables hold ids."""
    return folder / SHARDS / "vocabulary.json"


def record_path(folder: Path, span: Span) -> Path:
    """Path of the record that marks shards as finished."""
    return folder / SHARDS / f"{span.stem}.json"


def state_path(folder: Path, name: str, span: Span) -> Path:
    """Path of an analysis' merged state of shards, without rows."""
    return folder / SHARDS / f"{span.stem}.{name}.safetensors"


def tokens_path(folder: Path, span: Span) -> Path:
    """Path of the tokens of the prompts that shards keep examples of."""
    return folder / SHARDS / f"{span.stem}.tokens.parquet"


def part_path(folder: Path, name: str, shard: Shard) -> Path:
    """Path of the rows of an analysis for one shard."""
    return folder / name / f"part-{shard.index:06d}.parquet"


def _settle(pending: Collector, collector: Collector, change: Settle) -> None:
    """Move pending states into the collector after applying `change` to them."""
    for name, analysis in collector.analyses.items():
        state = change(analysis, pending.states[name])
        collector.states[name] = merge_states(collector.states[name], state)
        pending.states[name] = {}


def _failure(chunks: Chunks, row: int, error: Exception) -> Failure:
    where = chunks.where[row]
    return Failure(int(chunks.documents[row]), int(chunks.numbers[row]), where, reason_of(error))


def _held(collector: Collector) -> int:
    """Bytes of the rows that wait to be grouped."""
    return sum(
        chunk[2].nbytes
        for state in collector.states.values()
        for leaves in state.values()
        for leaf in only(leaves, Rows).values()
        for chunk in leaf.chunks
    )


def fingerprint(model: Any) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights, as hex digits."""
    # A name or path does not identify a model: revisions change under one name.
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _repeated(batch: Tokens, chunks: Chunks) -> torch.Tensor:
    rows = torch.from_numpy(chunks.starts)[batch.ids][:, None] + batch.positions
    return torch.from_numpy(chunks.repeated)[rows]


def prompts_in(states: Mapping[str, State]) -> set[int]:
    """Ids of the prompts that a state holds examples or top values of."""
    return {
        number
        for state in states.values()
        for leaves in state.values()
        for leaf in leaves.values()
        for number in leaf.kept_prompts()
    }


def _tokens_of(chunks: Chunks, prompts: set[int]) -> pd.DataFrame:
    """Token rows of the chosen chunks, as in every token table."""
    chosen = np.flatnonzero(np.isin(chunks.ids, list(prompts)))
    left_out = chunks.prompts.left_out
    parts = []
    for i in chosen.tolist():
        n = len(chunks.prompts.tokens[i])
        rows = {
            "prompt": np.full(n, chunks.ids[i]),
            "position": np.arange(n),
            "token": chunks.prompts.strings[i],
            "token_id": chunks.prompts.tokens[i],
            "special": left_out[i],
            "document": np.full(n, chunks.documents[i]),
        }
        rows |= {k: cells[i] for k, cells in chunks.prompts.labels.items()}
        parts.append(pd.DataFrame(rows))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
