"""Runs in shards: plan, manifest, what is finished, what is left; for every kind of worker.

A run of documents (`interp.runs.corpus.run`) and one of pairs of prompts are both this, with other
workers and other tables. Knows shards, records and the folder; nothing of what is measured.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from interp._files import discard, kind_of, names_in, refuse_existing
from interp._progress import Counter
from interp.errors import BadInput, InterpError, interruptible
from interp.runs.corpus.engines import Engine, InProcess, Processes
from interp.runs.corpus.files import owned, remove_leftovers
from interp.runs.corpus.jobs import ShardJob
from interp.runs.corpus.known_model import recalled, remember, sources_of
from interp.runs.corpus.manifest import adopt, run_id
from interp.runs.corpus.output import FAILURES, FINISHED, SUMMARY
from interp.runs.corpus.pieces import Pieces, shards_in
from interp.runs.corpus.ray_actors import RayActors
from interp.runs.corpus.shard import SHARDS
from interp.runs.corpus.sources import Files, Plan, Shard, Source, plan
from interp.runs.results import CONTROL, CORPUS

J = TypeVar("J", bound=ShardJob)
FINDING = "finding"
"""Folder of the finding that a run of pairs ends in."""
R = TypeVar("R", bound="ShardedRun[Any]")
T = TypeVar("T")
NOTHING = "nothing was kept"
_OF_LOCK = {".lock", ".owner.json"}


class ShardedRun(ABC, Generic[J]):
    """A run in progress: the plan, the job once the model is known, and the records so far.

    Args:
        job: the settings of all shards.
        shard_documents: documents per shard; by the size of their text unless given.
        progress: show a bar.
        unit: name of the documents in the bar.
    """

    def __init__(
        self, job: J, shard_documents: int | None, progress: bool, unit: str = "documents"
    ) -> None:
        self.job, self.unit = job, unit
        self.shard_documents, self.progress = shard_documents, progress
        self.plan: Plan = plan(job.source, shard_documents)
        self.manifest: Any = None
        self.pieces = Pieces(job, len(self.plan.shards))

    @abstractmethod
    def completed(self, described: Mapping[str, Any]) -> tuple[J, dict[str, Any]]:
        """The job with what is known of its model, and the manifest of the run."""

    def measure(self, engine: Engine) -> int:
        """Measure all unfinished shards, and return their number of tokens."""
        measured = 0
        # Asked before the model is loaded: a file that changes meanwhile must not count as seen.
        self._sources = None if isinstance(engine, RayActors) else sources_of(self.job)
        total = self.plan.documents
        with Counter("tokens", total, enabled=self.progress, unit=self.unit) as counter:
            self._counter = counter
            if self._is_finished():
                return 0
            for record in engine.run(self.job, self._complete, self._left):
                self.pieces.add(record)
                measured += record["tokens"]
                counter.advance(record["documents"], record["tokens"], len(record["failures"]))
        return measured

    def _is_finished(self) -> bool:
        """Whether all shards are whole, told without loading the model; nothing is left to do."""
        finished = kind_of(self.job.folder / FINISHED) is not None
        described = recalled(self.job.folder, self._sources) if finished else None
        if described is None:
            return False
        job = self._complete(described)  # refuses another run, as it does with a loaded model
        if self._unfinished(job):
            return False
        self._count_found()
        return True

    def _complete(self, described: dict[str, Any]) -> J:
        """The job completed with facts of the model; the manifest is written, or compared."""
        job, manifest = self.completed(described)
        if self.manifest is None:
            adopt(job.folder, manifest)
            remember(job.folder, self._sources, described)
            self.manifest = manifest
            known: Any = job
            self.job = replace(known, run=run_id(manifest))
        # Workers on other machines may find other weights under the same name.
        elif run_id(manifest) != run_id(self.manifest):
            raise InterpError(
                "a worker loaded another model, or has other versions, than the first one"
            )
        return self.job

    def _left(self, job: ShardJob) -> Sequence[Shard]:
        """The shards that are left to measure; those that are finished are counted."""
        left = self._unfinished(job)
        self._count_found()
        return left

    def _count_found(self) -> None:
        for record in self.pieces.ordered():
            self._counter.advance(record["documents"], 0, len(record["failures"]))

    def _unfinished(self, job: ShardJob) -> list[Shard]:
        """The shards that are not finished, or whose files are damaged."""
        remove_leftovers(job.folder)
        # From here on the folder is not finished: nobody may open tables that are being rewritten.
        discard(job.folder / FINISHED)
        self.pieces = Pieces(job, len(self.plan.shards))
        list(self.pieces.find())
        done = self.pieces.covered()
        return [shard for shard in self.plan.shards if shard.index not in done]

    def totals(self, what: str = "document") -> dict[str, Any]:
        """Numbers of documents, chunks, tokens and failures; `InterpError` if none was measured."""
        records = self.pieces.ordered()
        names = ("documents", "chunks", "tokens")
        totals: dict[str, Any] = {name: sum(r[name] for r in records) for name in names}
        totals["failures"] = sum(len(record["failures"]) for record in records)
        if not totals["chunks"]:
            reason = next(f["reason"] for r in records for f in r["failures"])
            raise InterpError(f"not one {what} could be measured; the first reason: {reason}")
        return totals


def whole_run(job: ShardJob, begin: Callable[[], R], finish: Callable[[R], T]) -> T:
    """What a run ends in, from its plan on; a Ctrl-C tells how many of its shards are kept."""
    runs: list[R] = []  # none while the source is still cut into shards
    with interruptible(lambda: _kept(job, runs)):
        runs.append(begin())
        return finish(runs[0])


def _kept(job: ShardJob, runs: Sequence[ShardedRun[Any]]) -> str:
    """What of a run lies on the disk, and how to go on."""
    if not kind_of(job.folder / CORPUS) and not job.untrained:
        return NOTHING
    there = shards_in(job.folder)
    of = f" of {len(runs[0].plan.shards)}" if runs else ""
    copy = " of the untrained copy" if job.untrained else ""
    return f"{there}{of} shards{copy} are kept; go on with resume=True, --resume"


def untrained_of(job: J) -> J:
    """The job of the untrained copy of a job's model, in a folder of its own."""
    given: Any = job
    copy: J = replace(given, folder=job.folder / CONTROL, untrained=True)
    return copy


def engine_of(workers: int, ray: str | None = None, gpus: float = 0) -> Engine:
    """The engine of so many workers; raises `BadInput` for settings that contradict each other."""
    if workers < 1:
        raise BadInput(f"workers={workers}; at least 1")
    if ray is not None:
        return RayActors(ray, workers, gpus=gpus)
    if gpus:
        raise BadInput("gpus= is for Ray actors (ray='local'); otherwise model_options has device")
    return Processes(workers) if workers > 1 else InProcess()


def ready_folder(folder: Path, resume: bool, overwrite: bool) -> Path:
    """The folder, if this run may use it; an earlier run in it is removed if `overwrite`."""
    if resume and overwrite:
        raise BadInput("resume and overwrite exclude each other")
    if kind_of(folder) != "folder":
        refuse_existing(folder)
        return folder
    earlier = kind_of(folder / CORPUS)
    if not earlier and names_in(folder) - _OF_LOCK:
        if resume:
            raise BadInput(f"{str(folder)!r} holds no corpus run that could be resumed")
        refuse_existing(folder, overwrite=overwrite)
    if earlier and not (resume or overwrite):
        raise BadInput(
            f"{str(folder)!r} holds a corpus run; go on with it (resume=True, --resume), replace "
            "it (overwrite=True, --overwrite), or use another folder"
        )
    if earlier and overwrite:
        with owned(folder):
            clear(folder)
    return folder


def clear(folder: Path) -> None:
    """Remove an earlier run, with its manifest last, so that an interruption can be repeated.

    Tables are found by the names of their parts, because a manifest may be damaged.
    """
    remove_leftovers(folder)
    for name in (SHARDS, SUMMARY, CONTROL, FINDING):
        shutil.rmtree(folder / name, ignore_errors=True)
    parts = list(folder.glob("*/part-[0-9][0-9][0-9][0-9][0-9][0-9].parquet"))
    for part in parts:
        discard(part)
    for table in {part.parent for part in parts}:
        with suppress(OSError):  # something of the user's lies in it
            table.rmdir()
    for name in (FINISHED, FAILURES, "report.html", CORPUS):
        discard(folder / name)


def outside(source: Source, given: Any, out: Path) -> Source:
    """The source without the files in the output folder, which a resumed run would find there.

    Files that were given by name are kept. If all files are in the output folder, they are the
    corpus and all are kept.
    """
    if not isinstance(source, Files):
        return source
    own = Path(os.path.realpath(out))
    named = {str(item) for item in (given if isinstance(given, list | tuple) else [given])}
    kept = tuple(
        path
        for path in source.paths
        if path in named or not Path(os.path.realpath(path)).is_relative_to(own)
    )
    return replace(source, paths=kept or source.paths)
