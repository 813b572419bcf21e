"""Who measures the shards: this process, or several processes of this machine.

An engine takes a job and shards, and yields records as shards are finished, in any order. A
process that dies is replaced and its shard given to another; what a shard comes to does not depend
on who measured it. `interp.corpus.cluster` has the same for Ray.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch

from interp.errors import BadInput, InterpError
from interp.runs.corpus.documents import reason_of
from interp.runs.corpus.shard import CorpusJob, Worker
from interp.runs.corpus.sources import Shard

Record = dict[str, Any]
Complete = Callable[[dict[str, Any]], CorpusJob]
"""Makes the final job from what a worker tells about its model."""
ATTEMPTS = 3
"""A shard whose worker has died so many times stops the run."""


class Engine(Protocol):
    """Measures shards of a job."""

    def run(
        self, job: CorpusJob, complete: Complete, shards: Callable[[CorpusJob], Sequence[Shard]]
    ) -> Iterator[Record]:
        """Yield the records of all shards.

        `complete` is called once with what the first worker tells about its model, and `shards`
        then says which shards are left. Raises `InterpError` where work cannot go on.
        """


class InProcess:
    """This process, one shard after the other."""

    def run(
        self, job: CorpusJob, complete: Complete, shards: Callable[[CorpusJob], Sequence[Shard]]
    ) -> Iterator[Record]:
        threads = torch.get_num_threads()
        try:
            worker = Worker(job)
            worker.adopt(complete(worker.describe()))
            for shard in shards(worker.job):
                yield worker.measure(shard)
        finally:
            torch.set_num_threads(threads)


@dataclass(eq=False)
class _WorkerProcess:
    """One worker process, the pipe to it, and the shard it has."""

    process: Any
    pipe: Connection
    described: bool = False
    adopted: bool = False
    shard: Shard | None = None


class Processes:
    """`n` processes of this machine, each with its own copy of the model.

    They end with this process, however it ends, because each watches the pipe it hangs on.
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise BadInput(f"workers={n}; at least 1")
        self.n = n

    def run(
        self, job: CorpusJob, complete: Complete, shards: Callable[[CorpusJob], Sequence[Shard]]
    ) -> Iterator[Record]:
        refuse_objects(job)
        self._start = job
        self._final: CorpusJob | None = None
        self._todo: list[Shard] = []
        self._deaths: dict[int, int] = {}
        self._hands = [self._hire()]
        try:
            yield from self._loop(complete, shards)
        finally:
            for hand in self._hands:
                self._dismiss(hand)

    def _loop(
        self, complete: Complete, shards: Callable[[CorpusJob], Sequence[Shard]]
    ) -> Iterator[Record]:
        while self._final is None or self._todo or any(h.shard for h in self._hands):
            for hand in self._ready():
                kind, value = self._hear(hand)
                if kind == "model" and self._final is None:
                    self._final = complete(value)
                    self._todo = list(reversed(shards(self._final)))
                    wanted = min(self.n, len(self._todo))
                    self._hands += [self._hire() for _ in range(wanted - 1)]
                elif kind == "model":
                    complete(value)  # refuses a worker with another model
                elif kind == "done":
                    hand.shard = None
                    yield value
                elif kind == "failed":
                    raise InterpError(value)
                self._give(hand)

    def _ready(self) -> list[_WorkerProcess]:
        """Hands that have said something, or died."""
        said = wait([h.pipe for h in self._hands])
        return [h for h in self._hands if h.pipe in said]

    def _hear(self, hand: _WorkerProcess) -> tuple[str, Any]:
        try:
            kind, value = hand.pipe.recv()
        except (EOFError, OSError):
            return self._replace(hand)
        hand.described |= kind == "model"
        return kind, value

    def _replace(self, hand: _WorkerProcess) -> tuple[str, Any]:
        """A worker died: another one takes its shard, unless that kills every worker."""
        hand.process.join()
        self._hands.remove(hand)
        key = hand.shard.index if hand.shard else -1
        self._deaths[key] = self._deaths.get(key, 0) + 1
        what = f"shard {key}" if hand.shard else "loading the model"
        if self._deaths[key] >= ATTEMPTS:
            raise InterpError(
                f"{what} ended its worker process {ATTEMPTS} times (exit code "
                f"{hand.process.exitcode}; −9 often means that memory ran out); finished shards "
                "are kept"
            )
        if hand.shard is not None:
            self._todo.append(hand.shard)
            hand.shard = None
        busy = sum(h.shard is not None for h in self._hands)
        if len(self._hands) < (min(self.n, len(self._todo) + busy) if self._final else 1):
            self._hands.append(self._hire())
        return "died", None

    def _give(self, hand: _WorkerProcess) -> None:
        """The next shard, to a worker that is free."""
        if hand not in self._hands or hand.shard or not hand.described or self._final is None:
            return
        with contextlib.suppress(BrokenPipeError, OSError):  # the next wait finds it dead
            if not hand.adopted:
                hand.pipe.send(("adopt", self._final))
                hand.adopted = True
            if self._todo:
                hand.shard = self._todo.pop()
                hand.pipe.send(("measure", hand.shard))

    def _hire(self) -> _WorkerProcess:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, self._start), daemon=True)
        process.start()
        theirs.close()
        return _WorkerProcess(process, ours)

    def _dismiss(self, hand: _WorkerProcess) -> None:
        hand.pipe.close()
        hand.process.join(timeout=0 if hand.shard else 5)
        if hand.process.is_alive():
            hand.process.kill()
            hand.process.join()


def refuse_objects(job: CorpusJob) -> None:
    """Raise `BadInput` for a model that each worker cannot load for itself."""
    if not isinstance(job.model, str) and not hasattr(job.model, "__fspath__"):
        raise BadInput(
            f"workers load the model themselves: pass its name or folder, not a "
            f"{type(job.model).__name__} (or use one worker in this process)"
        )


def serve(pipe: Connection, job: CorpusJob) -> None:
    """The life of a worker process: load, then measure what comes until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what a Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        worker = Worker(job)
        pipe.send(("model", worker.describe()))
        while True:
            task, value = pipe.recv()
            if task == "adopt":
                worker.adopt(value)
            else:
                pipe.send(("done", worker.measure(value)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:  # noqa: BLE001  it is raised again in the parent
        with contextlib.suppress(OSError):
            pipe.send(("failed", reason_of(error)))


def _end_with_parent() -> None:
    """Do not outlive a parent that was killed: nobody would take the next shard's record."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
