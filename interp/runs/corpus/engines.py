"""Engines that measure shards: this process, or several processes of this machine.

An engine takes a job and shards, and yields records as shards are finished, in any order. A
process that dies is replaced and its shard given to another; the result of a shard does not depend
on the process that measured it. `interp.runs.corpus.ray_actors` has the engine for Ray.
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
from interp.runs.corpus.jobs import ShardJob
from interp.runs.corpus.sources import Shard

Record = dict[str, Any]
Complete = Callable[[dict[str, Any]], ShardJob]
"""A function that makes the final job from a worker's description of its model."""
# Once may be chance (a machine out of memory for a moment), three times is the shard itself.
ATTEMPTS = 3
"""Number of dead workers after which one shard stops the run."""


class Engine(Protocol):
    """Measures shards of a job."""

    def run(
        self, job: ShardJob, complete: Complete, shards: Callable[[ShardJob], Sequence[Shard]]
    ) -> Iterator[Record]:
        """Yield the records of all shards.

        `complete` is called once with the first worker's description of its model, and `shards`
        then returns the shards that are left. Raises `InterpError` if work cannot go on.
        """


class InProcess:
    """An engine of this process alone, one shard after the other."""

    def run(
        self, job: ShardJob, complete: Complete, shards: Callable[[ShardJob], Sequence[Shard]]
    ) -> Iterator[Record]:
        # A worker sets the number of threads of the whole process, which is the caller's here.
        threads = torch.get_num_threads()
        try:
            worker = job.worker()
            worker.adopt(complete(worker.describe()))
            for shard in shards(worker.job):
                yield worker.measure(shard)
        finally:
            torch.set_num_threads(threads)


@dataclass(eq=False)
class _WorkerProcess:
    """One worker process, the pipe to it, and the shard that it measures."""

    process: Any
    pipe: Connection
    described: bool = False
    adopted: bool = False
    shard: Shard | None = None


class Processes:
    """An engine of `n` processes of this machine, each with its own copy of the model.

    They end with this process, however it ends, because each of them watches it.
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise BadInput(f"workers={n}; at least 1")
        self.n = n

    def run(
        self, job: ShardJob, complete: Complete, shards: Callable[[ShardJob], Sequence[Shard]]
    ) -> Iterator[Record]:
        refuse_objects(job)
        self._first_job = job
        self._final: ShardJob | None = None
        self._todo: list[Shard] = []
        self._deaths: dict[int, int] = {}
        # One worker first: the manifest is checked against its model before the others load theirs.
        self._workers = [self._start_worker()]
        try:
            yield from self._loop(complete, shards)
        finally:
            for worker in self._workers:
                self._stop(worker)

    def _loop(
        self, complete: Complete, shards: Callable[[ShardJob], Sequence[Shard]]
    ) -> Iterator[Record]:
        while self._final is None or self._todo or any(w.shard for w in self._workers):
            for worker in self._ready():
                kind, value = self._receive(worker)
                if kind == "model" and self._final is None:
                    self._final = complete(value)
                    # Taken from the end of the list: the first shard first.
                    self._todo = list(reversed(shards(self._final)))
                    wanted = min(self.n, len(self._todo))
                    self._workers += [self._start_worker() for _ in range(wanted - 1)]
                elif kind == "model":
                    complete(value)  # refuses a worker with another model
                elif kind == "done":
                    worker.shard = None
                    yield value
                elif kind == "failed":
                    raise InterpError(value)
                self._give(worker)

    def _ready(self) -> list[_WorkerProcess]:
        """Workers that have sent a message, or died."""
        ready = wait([w.pipe for w in self._workers])
        return [w for w in self._workers if w.pipe in ready]

    def _receive(self, worker: _WorkerProcess) -> tuple[str, Any]:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            return self._replace(worker)
        worker.described |= kind == "model"
        return kind, value

    def _replace(self, worker: _WorkerProcess) -> tuple[str, Any]:
        """Give the shard of a dead worker to another one, unless it kills every worker."""
        worker.process.join()
        self._workers.remove(worker)
        key = worker.shard.index if worker.shard else -1
        self._deaths[key] = self._deaths.get(key, 0) + 1
        what = f"shard {key}" if worker.shard else "loading the model"
        if self._deaths[key] >= ATTEMPTS:
            raise InterpError(
                f"{what} ended its worker process {ATTEMPTS} times (exit code "
                f"{worker.process.exitcode}; −9 often means that memory ran out); finished shards "
                "are kept"
            )
        if worker.shard is not None:
            self._todo.append(worker.shard)
            worker.shard = None
        # No more workers than there are shards left: each loads a model of its own.
        busy = sum(w.shard is not None for w in self._workers)
        if len(self._workers) < (min(self.n, len(self._todo) + busy) if self._final else 1):
            self._workers.append(self._start_worker())
        return "died", None

    def _give(self, worker: _WorkerProcess) -> None:
        """Send the next shard to a worker that is free."""
        gone = worker not in self._workers
        if gone or worker.shard or not worker.described or self._final is None:
            return
        with contextlib.suppress(BrokenPipeError, OSError):  # the next wait finds it dead
            if not worker.adopted:
                worker.pipe.send(("adopt", self._final))
                worker.adopted = True
            if self._todo:
                worker.shard = self._todo.pop()
                worker.pipe.send(("measure", worker.shard))

    def _start_worker(self) -> _WorkerProcess:
        # Not "fork": a forked process would inherit torch's threads and a CUDA context, and hang.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, self._first_job), daemon=True)
        process.start()
        # With our copy of its end open, the death of the worker would not close the pipe.
        theirs.close()
        return _WorkerProcess(process, ours)

    def _stop(self, worker: _WorkerProcess) -> None:
        # An idle worker ends by itself once its pipe is closed; one in the middle of a shard would
        # finish it first, which nobody waits for any more.
        worker.pipe.close()
        worker.process.join(timeout=0 if worker.shard else 5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def refuse_objects(job: ShardJob) -> None:
    """Raise `BadInput` for a model that workers cannot load by themselves."""
    if not isinstance(job.model, str) and not hasattr(job.model, "__fspath__"):
        raise BadInput(
            f"workers load the model themselves: pass its name or folder, not a "
            f"{type(job.model).__name__} (or use one worker in this process)"
        )


def serve(pipe: Connection, job: ShardJob) -> None:
    """Run a worker process: load the model, then measure shards until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what a Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        worker = job.worker()
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
    """End this process when its parent has ended, even by a kill."""
    # A worker that went on would hold the GPU and write into a folder that is free for a new run.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
