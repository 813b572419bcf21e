"""Merging of finished shards on the disk: a run of a million shards keeps a few hundred files.

`FAN` consecutive shards become one piece, and `FAN` such pieces one larger piece, each written
whole before the files that it replaces are deleted. The grouping depends on the numbers of shards
only, so every run merges in the same order. Knows states and records; nothing of models.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from interp._files import atomic, checksum, discard, from_parquet, reading, write_sealed
from interp.contract.leaves import State, merge_states
from interp.runs.corpus.continuations import summed
from interp.runs.corpus.jobs import ShardJob
from interp.runs.corpus.manifest import REMEDY, finished
from interp.runs.corpus.shard import (
    SHARDS,
    prompts_in,
    record_path,
    state_path,
    tokens_path,
)
from interp.runs.corpus.sources import Span
from interp.runs.storage import load_state, save_state

FAN = 64
# With two levels a damaged piece costs at most FAN ** 2 shards, and a million shards leave about
# 250 pieces.
LEVELS = 2
Record = Mapping[str, Any]


def span_of(record: Record) -> Span:
    """The shards that a record covers."""
    return Span(record["shard"], record.get("last", record["shard"]))


def merged(job: ShardJob, spans: Sequence[Span]) -> dict[str, State]:
    """The states of several pieces, merged in their order."""
    # Sums of floats depend on the order of terms: in that of shards, a resumed run with other
    # workers gives the same bits.
    out: dict[str, State] = {name: {} for name in job.states}
    for span in spans:
        for name in out:
            with reading(state_path(job.folder, name, span), REMEDY) as path:
                out[name] = merge_states(out[name], load_state(path))
    return out


def tokens_of(folder: Path, spans: Sequence[Span], prompts: Collection[int]) -> pd.DataFrame:
    """Token rows of the chosen prompts that several pieces have."""
    paths = [p for s in spans if (p := tokens_path(folder, s)).is_file()] if prompts else []
    rows = [part for path in paths if len(part := _rows_of(path, prompts))]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _rows_of(path: Path, prompts: Collection[int]) -> pd.DataFrame:
    with reading(path, REMEDY):
        frame = from_parquet(path)
    return frame[frame["prompt"].isin(list(prompts))]


def shards_in(folder: Path) -> int:
    """Number of shards that have a record under the folder of a run, merged ones included."""
    stems = [path.stem.split("-") for path in (folder / SHARDS).glob("[0-9]*[0-9].json")]
    return len({n for stem in stems for n in range(int(stem[0]), int(stem[-1]) + 1)})


class Pieces:
    """The records of finished pieces, by the number of their first shard.

    Args:
        job: of the run, with its identity.
        shards: the number of shards of the run.
    """

    def __init__(self, job: ShardJob, shards: int) -> None:
        self.job, self.shards = job, shards
        self.records: dict[int, dict[str, Any]] = {}

    def find(self) -> Iterator[dict[str, Any]]:
        """Yield the records on the disk that are whole and of this run; delete all others."""
        folder = self.job.folder / SHARDS
        there = {path.stem for path in folder.glob("[0-9]*[0-9].json")}
        covered = -1
        for span in self._spans():
            if span.first <= covered or span.stem not in there:
                continue
            record = finished(self.job.folder, span, self.job.run)
            if record is not None:
                covered = span.last
                self.records[span.first] = record
                yield record
        valid = {span_of(record).stem for record in self.records.values()}
        # Shards of another run, parts of merged pieces that a crash left, damaged files: none of
        # them may be mistaken for a part of this run.
        for path in folder.glob("[0-9]*"):
            if path.name.partition(".")[0] not in valid:
                discard(path)
        # A run that was stopped may have finished shards that it had not merged yet.
        for first in list(self.records):
            self._merge_from(first)

    def _spans(self) -> Iterator[Span]:
        """All possible pieces by their first shard, larger ones first."""
        # Larger first: after a crash between writing a piece and deleting its parts, both are there
        # and the piece is taken.
        for first in range(self.shards):
            for level in range(LEVELS, -1, -1):
                size = FAN**level
                if first % size == 0 and first + size <= self.shards:
                    yield Span(first, first + size - 1)

    def add(self, record: dict[str, Any]) -> None:
        """Take the record of a shard, and merge the pieces that it completes."""
        self.records[record["shard"]] = record
        self._merge_from(record["shard"])

    def _merge_from(self, shard: int) -> None:
        for level in range(1, LEVELS + 1):
            size, step = FAN**level, FAN ** (level - 1)
            first = shard // size * size
            found = [self.records.get(i) for i in range(first, first + size, step)]
            parts = [r for r in found if r is not None and span_of(r).size == step]
            if len(parts) == FAN:
                whole = merge(self.job, parts)
                for part in parts:
                    del self.records[part["shard"]]
                self.records[first] = whole

    def ordered(self) -> list[dict[str, Any]]:
        """The records in the order of their shards."""
        return [self.records[first] for first in sorted(self.records)]

    def covered(self) -> set[int]:
        """The shards that are finished."""
        return {i for r in self.records.values() for i in span_of(r).numbers}


def merge(job: ShardJob, records: Sequence[Record]) -> dict[str, Any]:
    """Write one piece in place of several consecutive ones, and return its record."""
    spans = [span_of(record) for record in records]
    whole = Span(spans[0].first, spans[-1].last)
    states = merged(job, spans)
    rows = tokens_of(job.folder, spans, prompts_in(states))
    kept = [_lasting(record) for record in records]
    files = {name: digest for names in kept for name, digest in names.items()}
    for path in _write(job, whole, states, rows):
        files[str(path.relative_to(job.folder))] = checksum(path)
    record = {
        "run": job.run,
        "shard": whole.first,
        "last": whole.last,
        **{name: sum(r[name] for r in records) for name in ("documents", "chunks", "tokens")},
        "longest": max(r["longest"] for r in records),
        "rows": {name: sum(r["rows"][name] for r in records) for name in records[0]["rows"]},
        "failures": [failure for r in records for failure in r["failures"]],
        **written_in(records),
        "files": files,
    }
    # The record last, and only then the deletion: at every moment one complete set is on the disk.
    record = write_sealed(record_path(job.folder, whole), record)
    for span in spans:
        for path in (job.folder / SHARDS).glob(f"{span.stem}.*"):
            discard(path)
    return record


def written_in(records: Sequence[Record]) -> dict[str, Any]:
    """Counts of the texts of several records, where a model wrote any."""
    counts = [record["written"] for record in records if "written" in record]
    return {"written": summed(counts)} if counts else {}


def _lasting(record: Record) -> dict[str, str]:
    """The files of a record that a merge keeps: rows, and the vocabulary."""
    own = f"{SHARDS}/{span_of(record).stem}."
    return {name: d for name, d in record["files"].items() if not name.startswith(own)}


def _write(
    job: ShardJob, span: Span, states: Mapping[str, State], tokens: pd.DataFrame
) -> Iterator[Path]:
    for name, state in states.items():
        with atomic(state_path(job.folder, name, span)) as temporary:
            written = save_state(state, temporary)
        if written:
            yield state_path(job.folder, name, span)
    if len(tokens):
        with atomic(tokens_path(job.folder, span)) as temporary:
            tokens.to_parquet(temporary, index=False)
        yield tokens_path(job.folder, span)
