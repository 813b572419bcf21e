"""The lens on a CPU: the vocabulary in blocks, each read while it is still in cache.

Knows matrices only. A block's logits are a product of PyTorch, which `interp.models.lens.loops`
adds up at once. JS and TV are not linear in the probabilities and need Σe of the whole vocabulary,
so the logits of a few hundred rows are stored for a second walk. `[state, batch, pos, vocab]` never
exists.

Rows are ordered by token, then state. As many threads as PyTorch has share the rows of a block;
they are Python's, and the loops do not hold its lock. They live as long as one call does, so that a
process can fork, and several threads can use a lens at once.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp._progress import remark
from interp.geometry import at_least_float32
from interp.models.lens.head import FORBIDDEN, reason

if TYPE_CHECKING:
    from interp.models.lens.best import BestSoFar
    from interp.models.lens.ends import EndCheck
    from interp.models.lens.head import Head


ROWS = 512
COLUMNS = 2048
"""Most rows of a walk that stores logits, and columns of a product: the product wants large blocks,
what follows wants them in the processor's caches."""

PART = 32
"""Fewest rows for which another thread is worth its start."""

STORED_BYTES = 112 * 2**20
"""The most bytes of stored logits; fewer rows at a time where the vocabulary is large."""

ENDLESS = 1e10
"""A divergence beyond has a forbidden token in it: FORBIDDEN × a probability of 1e-20 or more."""

PREPARING = "preparing the lens: its loops are compiled once for this machine"
EVERY_TIME = (
    "preparing the lens: its loops are compiled in every process, as no file can be kept here"
)

PATIENCE = 1800.0
"""Seconds to wait for another process that compiles, which takes minutes on a slow machine."""

_KEPT: ContextVar[dict[torch.dtype, Tensor] | None] = ContextVar("kept memory", default=None)
_LOCK = Lock()
_LOOPS: list[ModuleType | None] = []


def loops() -> ModuleType | None:
    """The compiled loops, ready to run; None, after one warning, where numba cannot be used.

    They are compiled at the first call on a machine, which takes seconds and is said, and read from
    a file by later processes.
    """
    with _LOCK:
        if not _LOOPS:
            _LOOPS.append(_prepared())
    return _LOOPS[0]


def _prepared() -> ModuleType | None:
    try:
        return _loaded()
    except Exception as error:  # noqa: BLE001 (a compiler can fail in any way)
        warnings.warn(
            f"numba cannot be used here ({reason(error)}); the lens runs in PyTorch alone, slower "
            'and with the same numbers. `python -c "import numba"` says more',
            stacklevel=4,
        )
        return None


@contextmanager
def _alone() -> Iterator[None]:
    """Lets one process of this machine compile at a time.

    Processes that start together would each compile a part and take the rest from each other's
    files. Their code could then add in another order, and a run that is resumed give other last
    bits than an unbroken one.
    """
    from filelock import FileLock, Timeout

    owner = hashlib.sha256(f"{Path(__file__).resolve()}:{Path.home()}".encode()).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"interp-lens-{owner}.lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except (Timeout, OSError):  # somebody stopped with it, or nothing can be written there
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _loaded() -> ModuleType:
    import numba

    if numba.config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set")
    from interp.models.lens import loops

    _compile_apart(loops)
    _tried(loops)
    return loops


def _compile_apart(loops: ModuleType) -> None:
    """Compiles in a process of its own, so that this one reads the code from its file like others.

    Code that a process has just compiled adds in another order than the same code from its file,
    and a run that is resumed would give other last bits than an unbroken one. Where no file can be
    kept, every process compiles for itself, and all alike.
    """
    from numba import __version__

    place = loops.add_up.stats.cache_path
    if place is None:
        remark(EVERY_TIME, unwatched=True)
        return
    # By the machine's name: a home folder may be shared by machines with other processors.
    version = f"{__version__} {platform.node()}".encode()
    source = hashlib.sha256(Path(str(loops.__file__)).read_bytes() + version)
    done = Path(place) / f"prepared-{source.hexdigest()[:16]}"
    if done.exists():
        return
    with _alone():
        if done.exists():
            return
        remark(PREPARING, unwatched=True)
        if _compiled_elsewhere():
            with suppress(OSError):
                done.touch()


def _compiled_elsewhere() -> bool:
    """Whether another process of this Python has compiled the loops."""
    paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    order = f"from {__package__} import blocks, loops; blocks._tried(loops)"
    found = subprocess.run(  # noqa: S603  this Python, and a line that stands here
        [sys.executable, "-c", order],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        check=False,
    )
    return found.returncode == 0


def _tried(loops: ModuleType) -> None:
    """Compiles for the types of a real call, or reads what was compiled, where that may fail."""
    z, ends = np.zeros((1, 2), np.float32), (np.zeros(1, np.float32),) * 2
    sums = _sums(loops, 1)
    loops.add_up(z, 0, 0, 1, sums.best, ends[0], sums)
    loops.keep_best(z, 0, 0, 1, sums.best, z.copy(), np.zeros((1, 2), np.int64))
    loops.compare(z, 0, 0, 1, ends, z, ends, _far(loops, 1))


def _sums(loops: ModuleType, rows: int) -> Any:
    return loops.Sums(
        top=np.full(rows, loops.FORBIDDEN),
        best=np.zeros(rows, np.int64),
        mass=np.zeros(rows),
        own=np.zeros(rows),
        above=np.zeros(rows),
        found=np.zeros(rows, np.float32),
    )


def _far(loops: ModuleType, rows: int) -> Any:
    return loops.Far(*np.zeros((3, rows)))


@contextmanager
def kept_memory() -> Iterator[None]:
    """Uses the same store in all calls inside, and lets go of it at the end.

    The system clears pages before it hands them out, which for a store of 100 MB can take as long
    as a tenth of the lens of a batch.
    """
    store: dict[torch.dtype, Tensor] = {}
    token = _KEPT.set(store)
    try:
        yield
    finally:
        store.clear()
        with suppress(ValueError):  # left in another cell of a notebook than it was entered
            _KEPT.reset(token)


def _memory(size: int, like: Tensor) -> Tensor:
    """An empty flat store, kept where `kept_memory` is open."""
    kept = _KEPT.get()
    have = None if kept is None else kept.get(like.dtype)
    if have is None or len(have) < size:
        if kept is not None:
            kept.pop(like.dtype, None)  # never two at a time
        have = like.new_empty(size)
        if kept is not None:
            kept[like.dtype] = have
    return have[:size]


class BlockLens:
    """Statistics of `states` × tokens in float32 on the CPU, for a few tokens at a time.

    Args:
        head: the linear end of the readout.
        states: number of states, the final one not counted.
        tokens: the most tokens that will come at a time.
        loops: the compiled loops.
        divergences: make the second walk, for KL, JS and TV; NaN without.
        checked: the most tokens at a time whose last state is read as well.
    """

    def __init__(
        self,
        head: Head,
        states: int,
        tokens: int,
        loops: Any,
        *,
        divergences: bool,
        checked: int = 0,
    ) -> None:
        self.head, self.states, self.loops = head, states, loops
        self.keeps = divergences and states > 0
        vocab = len(head.weight)
        columns = min(COLUMNS, vocab)
        self.spans = [slice(i, min(i + columns, vocab)) for i in range(0, vocab, columns)]
        self.size = (states * tokens + checked) * columns
        blocks = len(self.spans) if self.keeps else 1
        empty = torch.empty(0, dtype=torch.float32, device="cpu")  # whatever torch's default is
        self.store = _memory(blocks * self.size, empty).view(blocks, self.size)

    @classmethod
    def tokens_at_a_time(cls, states: int, vocab: int) -> int:
        """Number of tokens that fit into one walk."""
        rows = min(ROWS, STORED_BYTES // (4 * vocab))
        return max(1, rows // max(1, states))

    @torch.no_grad()
    def statistics(
        self,
        h: Tensor,
        logits: Tensor,
        targets: Tensor,
        best: BestSoFar | None = None,
        check: EndCheck | None = None,
    ) -> list[dict[str, Tensor]]:
        """All statistics of the states, `[state, token]` each, if there are any, and of the end.

        Args: `h [state, token, d_head]`, `logits [token, vocab]`, `targets [token]`, none negative;
        `best` is shown the logits of the states, `check` those of its own vectors.
        """
        ends, wanted = at_least_float32(logits).contiguous(), targets.contiguous()
        last = _sums(self.loops, len(ends))
        with _team() as team:
            final = ends.gather(1, wanted[:, None])[:, 0]
            self._add_up(team, ends, 0, wanted, final, last)
            if not self.states:
                if check is not None:
                    check.take(self.head.logits(check.h))
                return [_by_state(_read(last, final), 1)]
            rows = at_least_float32(h.transpose(0, 1).reshape(-1, h.shape[-1]))
            wanted = wanted.repeat_interleave(self.states)
            target, sums = self._targets(rows, wanted), _sums(self.loops, len(rows))
            # In the same product, which reads the whole matrix once.
            every = rows if check is None else torch.cat([rows, check.h])
            for block, span in enumerate(self.spans):
                z = self._block(block, len(every))
                self.head.logits(every, span.start, span.stop, out=z)
                self._add_up(team, z[: len(rows)], span.start, wanted, target, sums, best)
                if check is not None:
                    check.take(z[len(rows) :], span.start)
            out = _read(sums, target)
            if self.keeps:
                out |= self._compared(team, ends, last, sums)
        return [_by_state(out, self.states), _by_state(_read(last, final), 1)]

    def _block(self, block: int, rows: int) -> Tensor:
        """Where the logits of a block are, `[row, column]`, contiguous."""
        span = self.spans[block]
        width = span.stop - span.start
        return self.store[block if self.keeps else 0][: rows * width].view(rows, width)

    def _targets(self, h: Tensor, targets: Tensor) -> Tensor:
        """Logits of the targets, from small products of a few rows each: `[row]`."""
        few = [slice(i, i + 64) for i in range(0, max(1, len(h)), 64)]
        return torch.cat([self.head.of_tokens(h[rows], targets[rows]) for rows in few])

    def _add_up(
        self,
        team: Executor | None,
        z: Tensor,
        first: int,
        wanted: Tensor,
        target: Tensor,
        sums: Any,
        best: BestSoFar | None = None,
    ) -> None:
        rows, total = len(z), 0 if best is None else len(best.rows)
        logits, *of_rows = (x.detach().numpy() for x in (z, wanted, target))
        kept = () if best is None else (best.rows, best.logits, best.tokens)
        of_best = [x.numpy() for x in kept]

        def walk(part: slice) -> None:
            self.loops.add_up(logits, first, part.start, part.stop, *of_rows, sums)
            # In the same turn, for a second one would wait for the other threads once more.
            start, stop = (i * total // max(1, rows) for i in (part.start, part.stop))
            if start < stop:
                self.loops.keep_best(logits, first, start, stop, *of_best)

        _share(team, walk, rows)

    def _compared(
        self, team: Executor | None, ends: Tensor, last: Any, sums: Any
    ) -> dict[str, Tensor]:
        """KL, JS and TV, float64 `[row]`, from the stored logits of all blocks."""
        rows, final_z = len(sums.top), ends.detach().numpy()
        far, own, final = _far(self.loops, rows), _normaliser(sums), _normaliser(last)
        blocks = [self._block(block, rows).numpy() for block in range(len(self.spans))]

        def walk(part: slice) -> None:
            for z, span in zip(blocks, self.spans, strict=True):
                self.loops.compare(z, span.start, part.start, part.stop, own, final_z, final, far)

        _share(team, walk, rows, self.states)
        kl, js, tv = map(torch.from_numpy, far)
        return {
            # Infinite where a state forbids a token that the final distribution allows.
            "kl_to_final": torch.where(kl > ENDLESS, torch.inf, kl.clamp(min=0)),
            "js_to_final": (js / 2).clamp(0, math.log(2)),
            "tv_to_final": (tv / 2).clamp(max=1),
        }


@contextmanager
def _team() -> Iterator[Executor | None]:
    """As many threads as PyTorch has beside this one, started when they are needed."""
    others = torch.get_num_threads() - 1
    if others < 1:
        yield None
        return
    with ThreadPoolExecutor(others, "lens") as team:
        yield team


def _share(team: Executor | None, work: Callable[[slice], None], rows: int, of: int = 1) -> None:
    """Does `work` on all rows, shared among the threads in parts that are multiples of `of`."""
    threads = 1 if team is None else torch.get_num_threads()
    size = max(-(-rows // threads), PART)
    size = -(-size // of) * of
    mine, *others = [slice(i, min(i + size, rows)) for i in range(0, max(1, rows), size)]
    waiting = [team.submit(work, part) for part in others] if team else []
    work(mine)
    for part in waiting:
        part.result()


def _normaliser(sums: Any) -> tuple[np.ndarray, np.ndarray]:
    """The largest logit and ln Σe of each row; two numbers, because their sum would be rounded."""
    with np.errstate(divide="ignore"):  # a row of −∞ alone, whose sums are NaN in the end
        return sums.top, np.log(sums.mass).astype(np.float32)


def _read(sums: Any, target: Tensor) -> dict[str, Tensor]:
    """Everything but the divergences from the sums of the first walk, float64 `[row]`."""
    top, best, mass, own, above, found = map(torch.from_numpy, sums)
    # A row of −∞ alone has no distribution.
    mass = torch.where(mass > 0, mass, torch.nan)
    log_mass, none = mass.log(), torch.full_like(mass, torch.nan)
    # A product of one column may differ in its last bit from that of many: the target itself may
    # be above the logit that was counted from, and is no rival.
    rank = above - (found > target.detach()).double()
    found = torch.where(found > FORBIDDEN, found.double(), -torch.inf)
    return {
        "log_prob": found - top.double() - log_mass,
        "rank": rank,
        "entropy": (log_mass - own / mass).clamp(min=0),
        "top_prob": 1 / mass,
        "top_token": best,
        "kl_to_final": none,
        "js_to_final": none,
        "tv_to_final": none,
    }


def _by_state(rows: dict[str, Tensor], states: int) -> dict[str, Tensor]:
    return {name: value.view(-1, states).T for name, value in rows.items()}
