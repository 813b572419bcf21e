"""Time and memory of some ways on one model, in a process of its own.

`python -m benchmarks.measure` reads a JSON job from standard input and writes a JSON answer. Ways
are timed in turns, round by round, so that other work on the machine slows all of them alike;
ratios are taken within a round. Memory is the peak of the resident set above its size just before
(`VmHWM` of Linux, reset before each way), or the allocator's peak on a GPU.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import re
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import interp
from benchmarks.peers import peers
from benchmarks.shapes import Shape, bridge
from benchmarks.ways import Way, ways
from interp.models.lens.blocks import kept_memory

RESET_PEAK = "5"


def main() -> None:
    """Answer the job from standard input."""
    json.dump(answer(json.load(sys.stdin)), sys.stdout)


def answer(job: Mapping[str, Any]) -> dict[str, Any]:
    """Measure one job.

    Args: `job` with `shape` (fields of `Shape`), `batch` (rows, tokens), `threads`, `device`,
        `dtype`, `rounds` (none: memory alone is measured), `memory` (whether it is measured),
        `only` (names or beginnings of names) or nothing for all ways, and `peers`, whether other
        packages' lenses are measured too.
    Returns: `seconds`, by way one number per round; `megabytes`, by way the peak of extra memory;
        `others`, cores that other processes kept busy meanwhile; `absent`, by peer the reason;
        `save`, rows per second of saving a table; `machine`.
    """
    torch.set_num_threads(job["threads"])
    torch.set_grad_enabled(False)
    shape, (rows, length) = Shape(**job["shape"]), job["batch"]
    dtype = getattr(torch, job["dtype"])
    model = bridge(shape, length, job["device"], dtype)
    tokens = torch.randint(0, shape.vocab, (rows, length), device=job["device"])
    others, absent = peers(shape, model, tokens, dtype) if job.get("peers") else ({}, {})
    chosen = _chosen(ways(model, tokens) | others, job["only"])
    megabytes = {
        # A first call in any case: it loads kernels and fills caches that stay.
        name: peak_megabytes(way, job["device"]) if job["memory"] else _warmed(way)
        for name, way in chosen.items()
    }
    with kept_memory():  # as within a run; the bare products have their room beforehand, too
        busy, began = others_busy(), time.perf_counter()
        seconds = in_turns(chosen, job["rounds"], job["device"])
        busy = (others_busy() - busy) / (time.perf_counter() - began)
    return {
        "shape": job["shape"],
        "batch": [rows, length],
        "seconds": seconds,
        "megabytes": megabytes,
        "others": busy,
        "absent": absent,
        "save": save_speed(model, tokens) if job["save"] else None,
        "multiplications": 2 * shape.layers * rows * length * shape.width * shape.vocab,
        "machine": machine(job),
    }


def _chosen(all_ways: dict[str, Way], only: list[str] | None) -> dict[str, Way]:
    if only is None:
        return all_ways
    return {name: way for name, way in all_ways.items() if name.startswith(tuple(only))}


def in_turns(some: Mapping[str, Way], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every way, one per round, all ways in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in some}
    for _ in range(rounds):
        for name, way in some.items():
            # The garbage of one way must not be collected in the time of the next.
            gc.collect()
            _wait(device)
            start = time.perf_counter()
            way()
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def others_busy() -> float:
    """Processor seconds that other processes used since the start of the system; 0 if not known."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _waiting, *interrupts = map(
        int, stat.read_text().splitlines()[0].split()[1:9]
    )
    everything = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    return everything - time.process_time()


def _wait(device: str) -> None:
    # Kernels run asynchronously: without waiting, only their launch would be timed.
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_megabytes(way: Way, device: str) -> float | None:
    """Peak memory of one call, in addition to the memory in use before."""
    # The second call is measured: the first one loads kernels and fills caches that stay.
    way()
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not Path("/proc/self/clear_refs").exists():
        return None
    # Memory that malloc still holds would hide the need of the way.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    before = _status("VmRSS")
    way()
    return _status("VmHWM") - before


def _warmed(way: Way) -> None:
    way()


def _status(field: str) -> float:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    return (
        int(found[1]) / 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )


def save_speed(model: Any, tokens: torch.Tensor) -> dict[str, float]:
    """Rows per second of building and saving the tables of a geometry run, and their number."""
    best, rows = 0.0, 0
    for _ in range(3):
        # A new run each time: results keep a data frame that was built once.
        results = interp.run(model, tokens.repeat(16, 1), ["rotation"], progress=False)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            results.save(folder)
            taken = time.perf_counter() - start
        rows = tokens.numel() * 16 * model.cfg.n_layers
        best = max(best, rows / taken)
    return {"rows": rows, "rows_per_second": best}


def machine(job: Mapping[str, Any]) -> dict[str, Any]:
    """Description of the machine and the versions, without names of hosts or people."""
    from importlib.metadata import version

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        cpu = found[1] if found else cpu
    names = ("torch", "transformers", "transformer-lens", "numpy", "interp-stream")
    cuda = job["device"].startswith("cuda")
    return {
        "cpu": cpu,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "threads": job["threads"],
        "device": job["device"],
        "dtype": job["dtype"],
        "versions": {name: version(name) for name in names},
    }


if __name__ == "__main__":
    main()
