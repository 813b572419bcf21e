"""What a kind of run in shards has to bring: a job, and a worker that measures its shards.

Knows only what the engines, the manifest and the merging of shards ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from interp.runs.corpus.sources import Shard, Source


class ShardWorker(Protocol):
    """A loaded model that measures shards of a job, one after the other."""

    @property
    def job(self) -> Any: ...

    def describe(self) -> dict[str, Any]:
        """Identity of the model and what follows from it, as JSON values."""

    def adopt(self, job: Any) -> None:
        """Work on `job` from now on: the same model, completed by the values of `describe`."""

    def measure(self, shard: Shard) -> dict[str, Any]:
        """Measure one shard, write its files, and last its record, which is returned."""


class ShardJob(Protocol):
    """The settings that all shards of a run share: a dataclass that can be sent to a process.

    Attributes:
        model: as for `load_model`.
        options: for `load_model`.
        threads: of the arithmetic; results depend on it in the last bits.
        source: the documents.
        folder: the output folder of the run.
        run: identifier of the run, by which shards of another run are recognised.
        control: "random-init" if an untrained copy of the model is measured as well.
        untrained: measure that copy, not the model.
        states: names of what each shard accumulates.
    """

    @property
    def model(self) -> Any: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def threads(self) -> int: ...
    @property
    def source(self) -> Source: ...
    @property
    def folder(self) -> Path: ...
    @property
    def run(self) -> str: ...
    @property
    def control(self) -> str | None: ...
    @property
    def untrained(self) -> bool: ...
    @property
    def states(self) -> tuple[str, ...]: ...

    def worker(self) -> ShardWorker:
        """A worker, with its model loaded."""
