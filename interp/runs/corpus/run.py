"""`run_corpus`: plan, measure, merge; finished shards survive a crash and are not measured again.

Knows the order of the steps; `shard` measures a shard, and an engine decides in which process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from interp._progress import counted
from interp.contract.analysis import Analysis
from interp.contract.columns import refuse_taken
from interp.contract.kept import Kept
from interp.contract.registry import resolve
from interp.errors import BadInput, unknown
from interp.models.answers import refuse_unanswered
from interp.models.untrained import CONTROLS
from interp.prompts.labels import target_word
from interp.prompts.messages import ROLE, chat_column, is_conversation
from interp.prompts.prompts import Prompts
from interp.runs.corpus.continuations import DEFAULTS, TEXTS, TYPES, Generation, generation_of
from interp.runs.corpus.documents import (
    POSITION_BIN,
    TOKEN_ID,
    Reading,
    check_reading,
    stride_of,
    word_fields,
)
from interp.runs.corpus.engines import Engine
from interp.runs.corpus.files import owned
from interp.runs.corpus.manifest import manifest_of
from interp.runs.corpus.output import (
    SUMMARY,
    CorpusTables,
    open_run,
    write_failures,
    write_finished,
    write_summary,
)
from interp.runs.corpus.pieces import span_of, written_in
from interp.runs.corpus.shard import SHARDS, CorpusJob
from interp.runs.corpus.sharded import (
    ShardedRun,
    clear,
    engine_of,
    outside,
    ready_folder,
    untrained_of,
    whole_run,
)
from interp.runs.corpus.sources import Plan, open_source
from interp.runs.results import CONTROL, Results, refuse_names

Labeller = Callable[[Prompts], Prompts]
MADE = (POSITION_BIN, TOKEN_ID)
_LOOK = 1000  # documents whose columns count as known names of labels


@dataclass(frozen=True)
class CorpusRun:
    """A finished corpus run.

    Attributes:
        folder: the output folder.
        documents, chunks, tokens: numbers read and measured; special tokens count, tokens that a
            chunk repeats as context do not.
        failures: a table of what was not measured: `document`, `chunk` (−1: all of it), `where`,
            `reason`.
        seconds: of this call; those of a resumed run cover the shards that were left.
        measured: tokens that this call measured itself.
    """

    folder: Path
    documents: int
    chunks: int
    tokens: int
    failures: pd.DataFrame
    seconds: float
    measured: int

    def open(self) -> Results | CorpusTables:
        """The results, as `interp.load` opens them."""
        return open_run(self.folder)

    def __repr__(self) -> str:
        rate = self.measured / self.seconds if self.seconds else 0
        return (
            f"<CorpusRun in {str(self.folder)!r}: {self.documents:,} documents, {self.tokens:,} "
            f"tokens, {counted(len(self.failures), 'failure')}; {self.seconds:.1f} s, "
            f"{rate:,.0f} tokens/s>"
        )


def run_corpus(
    model: Any,
    source: Any,
    analyses: Any = ("rotation", "path_length"),
    *,
    out: str | Path,
    keep: str = "summary",
    by: Sequence[str] = (),
    labels: Sequence[str] | Mapping[str, str] = (),
    target: str | None = None,
    labellers: Sequence[Labeller] = (),
    targets: str | int | None = None,
    against: str | int | None = None,
    layers: Any = None,
    positions: Any = None,
    text_column: str = "text",
    split: str | None = None,
    long: str | None = None,
    overlap: int = 0,
    prepend_bos: bool | None = None,
    generate: int | None = None,
    samples: int = 1,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Sequence[str | int] | None = None,
    seed: int = 0,
    control: str | None = None,
    max_tokens: int = 4096,
    shard_documents: int | None = None,
    workers: int = 1,
    ray: str | None = None,
    gpus: float = 0,
    threads: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    model_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> CorpusRun:
    """Run analyses over a corpus of any size in constant memory; the run survives crashes.

    The corpus is cut into shards; each is written whole or not at all. After any interruption,
    `resume=True` continues the run and gives the same tables, bit for bit, as a run without one,
    with any number of workers. A document that fails is listed with its reason.

    Args:
        model: as for `load_model`; with several workers a name or folder.
        source: a .jsonl, .parquet, .csv or .txt file, a folder or glob of them, `hf:NAME`, a data
            set, or a list of texts or rows; see `interp.runs.corpus.sources.open_source`.
        analyses: names, classes or instances.
        out: the folder to write; docs/corpus.md describes its files.
        keep: "summary": moments and quantiles per group; "tokens": a row per token, as Parquet.
        by: labels that make the groups of a summary: columns of the source, `role` with a
            `target` or of chat messages, `position_bin`, or with `generate` `generated`,
            `generation_step` and `sample`.
        labels: label columns of the rows of tokens; or `{label: column}`, also with `by`, to rename
            a column of the source whose name a column of the tables has already.
        target: a word; its tokens get the role `target`, as in `run`.
        labellers: functions from prompts to labelled prompts; they get a window of documents at a
            time and must not raise if nothing matches.
        targets: one token, text or id, whose log-probability and rank are measured at every
            position, in place of the next token.
        against: a second token, which `logit_difference` and `logit_attribution` compare it with.
        layers, positions: keep the rows of these layers and positions only, as in `run`; positions
            are those in a chunk, and -1, or "last", is the last token of each chunk.
        text_column, split: the column with the text or with chat messages (`messages`, where
            there is no text), the split of a data set.
        long: documents longer than the context: "split" into chunks (the default), "cut", or
            "refuse".
        overlap: tokens that a chunk repeats from the one before as context, not measured twice.
        prepend_bos: the model's own policy unless given.
        generate: let the model continue each document by up to so many tokens, and measure the
            whole texts. A document that leaves no room for them is a failure.
        samples, do_sample, temperature, top_k, top_p, stop, seed: with `generate`, as for
            `interp.generate`. The draws of a text depend on the seed, the number of its document
            and its own number only.
        control: "random-init" runs an untrained copy of the model (`random_copy`) over the same
            corpus after the model, into the folder `control` of `out`; the tables, figures and
            comparisons of a summary then show it as well. With `generate` it reads what the model
            wrote.
        max_tokens: budget of a batch, padding included.
        shard_documents: documents per shard; about 1 MB of text unless given.
        workers: processes of this machine, or Ray actors.
        ray: "local" or the address of a Ray cluster.
        gpus: GPUs per Ray actor.
        threads: of the arithmetic in each worker.
        resume: continue the run in `out`; refused if its settings, model or data differ.
        overwrite: replace the run in `out`.
        model_options: for `load_model`: `dtype`, `device`, `device_map`, `revision` ….
        progress: show a bar with rate and time left.

    Raises `BadInput`, `UnknownName`, `Unsupported` before anything is measured; `InterpError`
    if the run cannot go on (no space left, every chunk fails); finished shards are kept.
    """
    engine = engine_of(workers, ray, gpus)
    drawing: dict[str, Any] = {"samples": samples, "do_sample": do_sample, "stop": stop}
    drawing |= {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    job = _job(
        model,
        source,
        analyses,
        Path(out),
        generation_of(generate, drawing),
        keep=keep,
        by=by,
        labels=labels,
        target=target,
        labellers=labellers,
        targets=targets,
        against=against,
        kept=Kept.of(layers, positions),
        text_column=text_column,
        split=split,
        long=long,
        overlap=overlap,
        control=control,
        max_tokens=max_tokens,
        threads=threads,
        options=dict(model_options or {}),
    )
    how = (prepend_bos, shard_documents, progress)
    with owned(ready_folder(job.folder, resume, overwrite)):
        done = _whole(job, how, engine)
        if control is None:
            return done
        copy = untrained_of(job)
        with owned(ready_folder(copy.folder, resume, overwrite)):
            return _both(done, _whole(copy, how, engine))


def _whole(job: CorpusJob, how: tuple[bool | None, int | None, bool], engine: Engine) -> CorpusRun:
    done: CorpusRun = whole_run(job, lambda: _Run(job, *how), lambda run: run.whole(engine))
    return done


def _job(
    model: Any,
    source: Any,
    analyses: Any,
    out: Path,
    generation: Generation | None,
    *,
    keep: str,
    by: Sequence[str],
    labels: Sequence[str] | Mapping[str, str],
    target: str | None,
    labellers: Sequence[Labeller],
    targets: Any,
    against: Any,
    kept: Kept,
    text_column: str,
    split: str | None,
    long: str | None,
    overlap: int,
    control: str | None,
    max_tokens: int,
    threads: int,
    options: dict[str, Any],
) -> CorpusJob:
    """The settings of a run, after all checks for which neither model nor text is read."""
    chosen = resolve(analyses)
    made = _made(generation)
    _check(chosen, keep, by, labels, control, made)
    refuse_unanswered(chosen.values(), against)
    targets, against = _one("targets", targets), _one("against", against)
    long = _long(long, overlap, generation)
    marks = [target_word(target, required=False)] if target else []
    reading = Reading(
        text_column,
        long,
        overlap,
        labels=_read((*by, *labels), target, made),
        renamed=_renamed(labels, text_column),
        labellers=(*marks, *labellers),
        generation_prompt=generation is not None,
    )
    of_rows = [*labels, *(["role"] if target else []), *(n for n in made if n not in MADE)]
    columns = tuple(reading.columns.values())
    opened = open_source(source, text_column=text_column, columns=columns, split=split)
    return CorpusJob(
        model,
        options,
        chosen,
        outside(opened, source, out),
        reading,
        keep,
        tuple(by),
        tuple(dict.fromkeys(of_rows)) if keep == "tokens" else (),
        max_tokens,
        threads,
        out,
        control,
        targets=targets,
        against=against,
        kept=kept,
        generation=generation,
    )


def planned(source: Any, analyses: Any, out: str | Path, **options: Any) -> tuple[str, Plan]:
    """Name and plan of the corpus of runs to come, after all checks that need no model.

    Args:
        source, analyses, out, options: as for `run_corpus`.

    Raises as `run_corpus` does.
    """
    found = signature(run_corpus).bind(None, source, analyses, out=out, **options)
    found.apply_defaults()
    given = found.arguments
    engine_of(*(given[name] for name in ("workers", "ray", "gpus")))
    known = {name: given[name] for name in signature(_job).parameters if name in given}
    known |= {"out": Path(out), "options": {}, "kept": Kept.of(given["layers"], given["positions"])}
    drawing = {name: given[name] for name in DEFAULTS}
    job = _job(generation=generation_of(given["generate"], drawing), **known)
    return job.source.name, _Run(job, None, given["shard_documents"], progress=False).plan


def _made(generation: Generation | None) -> dict[str, None]:
    """Labels that are computed, not read from the source."""
    return dict.fromkeys((*MADE, *(TYPES if generation else ())))


def _long(long: str | None, overlap: int, generation: Generation | None) -> str:
    """The treatment of long documents, which a generation leaves no choice of."""
    if generation is None:
        found = "split" if long is None else long
    else:
        given = [] if long in (None, "refuse") else [f"long={long!r}"]
        given += [f"overlap={overlap}"] if overlap else []
        if given:
            raise BadInput(
                f"{', '.join(given)} with generate={generation.how.max_new_tokens}: the model "
                "continues whole documents; one that leaves no room in the context is recorded as "
                "a failure. Leave one of the two out"
            )
        found = "refuse"
    check_reading(found, overlap, None)
    return found


def _check(
    chosen: Mapping[str, Analysis],
    keep: str,
    by: Sequence[str],
    labels: Sequence[str] | Mapping[str, str],
    control: str | None,
    made: Collection[str],
) -> None:
    """Raise for settings that contradict each other, before a model is loaded."""
    if keep not in ("tokens", SUMMARY):
        raise unknown("value of keep", keep, ("tokens", SUMMARY))
    _check_labels(keep, by, labels)
    refuse_taken((n for n in (*by, *labels) if n not in MADE), chosen)
    _refuse_renamed(labels, made)
    _check_control(control, keep)
    refuse_names(chosen, (SHARDS, SUMMARY, CONTROL, TEXTS, "tokens"))


def _refuse_renamed(labels: Sequence[str] | Mapping[str, str], made: Collection[str]) -> None:
    """Raise `BadInput` for a label of the source with the name of a column of a generation."""
    names = labels.items() if isinstance(labels, Mapping) else ()
    for name, column in names:
        if name in TYPES and name in made and name != column:
            raise BadInput(
                f"label {name!r} is a column that a generation writes; give the column {column!r} "
                f"another name (labels={{'{name}_label': {column!r}}})"
            )


def _one(what: str, token: Any) -> str | int | None:
    """One token for all documents; raises `BadInput` for anything else."""
    if token is None or (isinstance(token, str | int) and not isinstance(token, bool)):
        return token
    raise BadInput(
        f"{what}= of a corpus is one token, text or id, for every position of all documents, not "
        f"{type(token).__name__}: a corpus is streamed, so that there is no list of its documents "
        "to give answers for; interp.run takes one per prompt"
    )


def _both(run: CorpusRun, control: CorpusRun) -> CorpusRun:
    """The run with the time and tokens of the untrained copy added."""
    seconds, measured = run.seconds + control.seconds, run.measured + control.measured
    return replace(run, seconds=seconds, measured=measured)


def _read(names: Sequence[str], target: str | None, made: Collection[str]) -> tuple[str, ...]:
    """The labels that are read from the source; the others are computed."""
    computed = {*made, "role"} if target else set(made)
    return tuple(name for name in dict.fromkeys(names) if name not in computed)


def _renamed(
    labels: Sequence[str] | Mapping[str, str], text_column: str
) -> tuple[tuple[str, str], ...]:
    """The labels whose column of the source has another name, with that name."""
    names = labels.items() if isinstance(labels, Mapping) else ()
    if text_column in dict(names):
        raise BadInput(f"no label can be called {text_column!r}, as the column with the text is")
    return tuple((label, column) for label, column in names if label != column)


def _check_labels(keep: str, by: Sequence[str], labels: Sequence[str] | Mapping[str, str]) -> None:
    for name, given in (("by", by), ("labels", labels)):
        if isinstance(given, str):
            raise BadInput(f"{name}={given!r} is one text; pass a list of names: [{given!r}]")
    if keep == "tokens" and by:
        raise BadInput(f"by={list(by)} makes groups of a summary: use keep='summary', or labels=")
    lone = [name for name in labels if name not in by]
    if keep == SUMMARY and lone:
        raise BadInput(f"labels={lone} are columns of rows: use keep='tokens', or by=")


def _check_control(control: str | None, keep: str) -> None:
    if control is not None and control not in CONTROLS:
        raise unknown("control", control, CONTROLS)
    if control is not None and keep != SUMMARY:
        raise BadInput(
            f"control={control!r} needs keep='summary'; for the rows of an untrained copy run "
            "interp.random_copy(model) over the same corpus into another folder"
        )


def _check_columns(job: CorpusJob, found: Plan) -> None:
    """Raise `UnknownName` for a label that is no column of the first documents.

    A labeller adds labels of its own; with one, nothing is checked in advance.
    """
    reading = job.reading
    made = {"role"} if any(_marks_role(labeller) for labeller in reading.labellers) else set()
    if len(reading.labellers) > len(made):
        return
    known: set[str] = made | {*_made(job.generation)}
    for document in islice(job.source.read(found.shards[0]), _LOOK):
        _refuse_own(job, document.row)
        known |= {str(name) for name in document.row}
        known |= {str(n) for v in document.row.values() for n in word_fields(v)}
        known |= {ROLE} if _is_chat(document.row, reading.text_column) else set()
    for name in (*job.by, *job.labels):
        column = reading.columns.get(name, name)
        if column not in known:
            raise unknown("label", column, sorted(known - {reading.text_column}))


def _refuse_own(job: CorpusJob, row: Mapping[str, Any]) -> None:
    """Raise `BadInput` for a label that may be a column of the source or one of a generation."""
    for name in (*job.by, *job.labels) if job.generation else ():
        if name in TYPES and name in row:
            raise BadInput(
                f"label {name!r} is a column of the documents, and one that a generation writes; "
                f"rename that of the documents (labels={{'{name}_label': {name!r}}})"
            )


def _is_chat(row: Mapping[str, Any], text_column: str) -> bool:
    """True for a row whose text are chat messages, which have the label `role`."""
    column = chat_column(row, text_column) or text_column
    return is_conversation(row.get(column))


def _marks_role(labeller: Labeller) -> bool:
    return getattr(labeller, "keywords", {}).get("name") == "role"


class _Run(ShardedRun[CorpusJob]):
    """A run over documents in progress."""

    def __init__(
        self, job: CorpusJob, prepend_bos: bool | None, shard_documents: int | None, progress: bool
    ) -> None:
        super().__init__(job, shard_documents, progress)
        self.prepend_bos = prepend_bos
        _check_columns(job, self.plan)

    def whole(self, engine: Engine) -> CorpusRun:
        """Measure the shards that are left, merge, and return the totals."""
        began = time.monotonic()
        measured = self.measure(engine)
        totals, failures = self.finish()
        return CorpusRun(
            self.job.folder,
            totals["documents"],
            totals["chunks"],
            totals["tokens"],
            failures,
            time.monotonic() - began,
            measured,
        )

    def completed(self, described: Mapping[str, Any]) -> tuple[CorpusJob, dict[str, Any]]:
        """The job with the context and the BOS of the model, and the manifest."""
        limit = described["context"]
        reading = self.job.reading
        check_reading(reading.long, reading.overlap, limit)
        wanted = described["prepends_bos"] if self.prepend_bos is None else self.prepend_bos
        apart = "" if wanted else described["massive_first"]
        noted = {**described, "notes": [*described["notes"], *([apart] if apart else [])]}
        reading = replace(
            reading,
            limit=limit,
            prepend_bos=wanted,
            massive_first=bool(apart),
            vocab_size=described["vocabulary"],
            stride=self._stride(reading, limit),
        )
        job = replace(self.job, reading=reading)
        return job, manifest_of(job, noted, self.plan, self.shard_documents)

    def _stride(self, reading: Reading, limit: int | None) -> int:
        if self.job.generation is not None:
            return self.job.generation.stride
        return stride_of(self.plan.longest, reading.long, reading.overlap, limit)

    def finish(self) -> tuple[dict[str, Any], pd.DataFrame]:
        """Merge the shards in their order, write the tables, and return totals and failures."""
        records, totals = self.pieces.ordered(), self.totals()
        self._refuse_absent(max(record["longest"] for record in records))
        totals |= written_in(records)
        write_summary(self.job, [span_of(r) for r in records], self.manifest, totals)
        failures = write_failures(self.job.folder, records)
        write_finished(self.job, records, totals)
        return totals, failures

    def _refuse_absent(self, longest: int) -> None:
        """Raise `BadInput`, and remove what was written, if no chunk reaches a kept position."""
        try:
            self.job.kept.refuse_absent(longest, "the longest chunk of the corpus")
        except BadInput:
            clear(self.job.folder)  # it holds no row, and nothing could open it
            for name in self.job.analyses:
                with suppress(OSError):
                    (self.job.folder / name).rmdir()  # made for a part that was never written
            raise
