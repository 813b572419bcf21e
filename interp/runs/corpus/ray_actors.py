"""The engine of Ray actors: on this machine, or on a Ray cluster that shares the folder.

Only jobs, shards and records go through Ray. Actors read the corpus and write the tables by path,
so the folder and the corpus must be on a disk that all machines see. This is the only file that
imports ray, and only when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from interp.errors import BadInput, InterpError
from interp.runs.corpus.documents import reason_of
from interp.runs.corpus.engines import ATTEMPTS, Complete, Record, refuse_objects
from interp.runs.corpus.jobs import ShardJob
from interp.runs.corpus.sources import Shard

LOCAL = "local"
_STORE = 100_000_000  # bytes of Ray's object store on this machine; records are small
_PATIENCE = 60.0  # seconds without a finished call before the resources of the Ray cluster are read


class RayActors:
    """An engine of `n` actors, one model each.

    Args:
        address: "local" for a Ray of this machine that ends with the run, else the address of a
            Ray cluster ("auto" for the one that this machine belongs to).
        n: actors.
        gpus: GPUs per actor; a fraction lets several share one.
        cpus: CPUs per actor.
    """

    def __init__(self, address: str, n: int, *, gpus: float = 0, cpus: float = 1) -> None:
        if n < 1:
            raise BadInput(f"workers={n}; at least 1")
        self.address, self.n, self.gpus, self.cpus = address, n, gpus, cpus

    def run(
        self, job: ShardJob, complete: Complete, shards: Callable[[ShardJob], Sequence[Shard]]
    ) -> Iterator[Record]:
        refuse_objects(job)
        ray = self._connect()
        try:
            yield from _ActorPool(ray, self, job, complete).work(shards)
        finally:
            ray.shutdown()

    def _connect(self) -> Any:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anyone
        # Without GPUs of its own, an actor would find CUDA_VISIBLE_DEVICES emptied by Ray, and a
        # model that was asked for on a GPU could not be loaded.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Ray's own niceness of 15 would starve the actors next to any other process.
        os.environ.setdefault("RAY_worker_niceness", "0")
        try:
            import ray
        except ImportError as error:
            raise InterpError(
                "ray is not installed; install interp-stream[scale], or leave out ray= and use "
                "workers= for processes of this machine"
            ) from error
        if ray.is_initialized():
            raise BadInput("this process is connected to Ray already; call ray.shutdown() first")
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address != LOCAL:
            try:
                ray.init(address=self.address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InterpError(
                    f"no Ray cluster at {self.address!r}: {reason_of(error)}"
                ) from error
            return ray
        ray.init(
            address=LOCAL,
            num_cpus=max(1, round(self.n * self.cpus)),
            include_dashboard=False,
            object_store_memory=_STORE,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
        return ray


class CorpusActor:
    """A worker as an actor; it loads its model in `describe`, whose errors reach the caller."""

    def __init__(self, job: ShardJob) -> None:
        # An error here would count as the death of the actor, and be tried again.
        self._job = job

    def describe(self) -> dict[str, Any]:
        self._worker = self._job.worker()
        return self._worker.describe()

    def adopt(self, job: ShardJob) -> None:
        self._worker.adopt(job)

    def measure(self, shard: Shard) -> Record:
        return self._worker.measure(shard)


class _ActorPool:
    """The actors of one run, the shard of each, and the shards that are left."""

    def __init__(self, ray: Any, engine: RayActors, job: ShardJob, complete: Complete) -> None:
        self.ray, self.engine, self.job, self.complete = ray, engine, job, complete
        options = {"num_cpus": engine.cpus, "num_gpus": engine.gpus, "max_restarts": 0}
        self._class = ray.remote(**options)(CorpusActor)
        self._final: ShardJob | None = None
        self._todo: list[Shard] = []
        self._waiting: dict[Any, tuple[Any, Shard | None]] = {}
        self._deaths: dict[int, int] = {}

    def work(self, shards: Callable[[ShardJob], Sequence[Shard]]) -> Iterator[Record]:
        # One actor first: the manifest is checked against its model before the others load theirs.
        self._start_actor()
        while self._waiting:
            done, _ = self.ray.wait(list(self._waiting), num_returns=1, timeout=_PATIENCE)
            if not done:
                self._refuse_starved()
                continue
            actor, shard = self._waiting.pop(done[0])
            value = self._value(done[0], shard)
            if value is None:
                continue
            if shard is not None:
                yield value
            elif self._final is None:
                self._final = self.complete(value)
                self._todo = list(reversed(shards(self._final)))
                for _ in range(min(self.engine.n, len(self._todo)) - 1):
                    self._start_actor()
            else:
                self.complete(value)  # refuses an actor with another model
            self._give(actor, adopt=shard is None)

    def _start_actor(self) -> None:
        actor = self._class.remote(self.job)
        self._waiting[actor.describe.remote()] = (actor, None)

    def _give(self, actor: Any, *, adopt: bool) -> None:
        if adopt:
            actor.adopt.remote(self._final)  # calls of one actor run in order
        if self._todo:
            shard = self._todo.pop()
            self._waiting[actor.measure.remote(shard)] = (actor, shard)
        else:
            self.ray.kill(actor)

    def _value(self, reference: Any, shard: Shard | None) -> Any:
        """The value of a call; None if its actor died and another one was started."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayActorError:
            pass
        except self.ray.exceptions.RayTaskError as error:
            raise InterpError(reason_of(error.cause or error)) from error
        key = shard.index if shard else -1
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] >= ATTEMPTS:
            what = f"shard {key}" if shard else "loading the model"
            raise InterpError(f"{what} ended its actor {ATTEMPTS} times; finished shards are kept")
        if shard is not None:
            self._todo.append(shard)
        self._start_actor()
        return None

    def _refuse_starved(self) -> None:
        """Raise if an actor can never be placed; Ray itself would wait for ever."""
        total = self.ray.cluster_resources()
        if total.get("CPU", 0) < self.engine.cpus or total.get("GPU", 0) < self.engine.gpus:
            raise InterpError(
                f"the Ray cluster has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} "
                f"GPUs; an actor asks for {self.engine.cpus:g} and {self.engine.gpus:g}"
            )
