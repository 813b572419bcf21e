"""`python -m benchmarks`: measure everything and write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import corpus, corpus_rates, startup
from benchmarks.report import CORPUS, GROWN, figure, markdown, write_png
from benchmarks.shapes import CPU, GPU, SHAPES, Shape
from benchmarks.ways import ATTACHED, FORWARD, GEOMETRY

BATCHES = ((4, 128), (1, 1024))
AXES = {
    "layers": (2, 4, 8, 12),
    "tokens": (128, 256, 512, 1024),
    "vocabulary": (12_500, 25_000, 50_000, 100_000),
}
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
"""Settings of glibc with which a process keeps freed memory for its next tensors."""

CORPORA = (50_000, 100_000, 200_000, 400_000)
"""Tokens of the corpora for the figure."""

START_UP = {"interp --help": 1.0, "interp list": 1.0, "python -c 'import interp'": 1.5}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, write the document, the numbers and the figure."""
    options = _parser().parse_args(arguments)
    quick = options.quick
    rounds = options.rounds or (2 if quick else 7)
    names = options.shapes or (GPU if options.device.startswith("cuda") else CPU)
    batches = [tuple(map(int, b.split("x"))) for b in options.batches or []] or BATCHES
    jobs = [(SHAPES[n], batch) for n in names for batch in (batches[:1] if quick else batches)]
    parts = Parts(options.out / "data" / "benchmarks.part.json", options)
    answers = [
        parts.measured(
            f"{shape.name}, {batch[0]} × {batch[1]}",
            _measure,
            shape,
            batch,
            rounds,
            options,
            save=i == 0,
            with_peers=i == 0,
        )
        for i, (shape, batch) in enumerate(jobs)
    ]
    returned = parts.measured(
        "with memory given back",
        partial(_measure, kept=False, only=(FORWARD, ATTACHED, GEOMETRY)),
        *jobs[0],
        rounds,
        options,
    )
    results = {
        "command": shlex.join(["python", "-m", "benchmarks", *(arguments or sys.argv[1:])]),
        "date": datetime.now(UTC).date().isoformat(),
        "rounds": rounds,
        "answers": answers,
        "returned": returned,
        "start_up": parts.measured("start of commands", start_up),
        # One thread: a second one that waits counts as processor time, too.
        "start_to_finish": parts.measured("start to finish", startup.measure),
        "corpora": parts.measured("corpora", corpus_rates.measure, *((2_000, 1) if quick else ())),
        "growth": [] if quick or options.no_growth else _growth(SHAPES[names[0]], options, parts),
    }
    write(results, options.out)
    parts.path.unlink()


class Parts:
    """What has been measured so far, in a file: an interrupted benchmark goes on where it was.

    A file of other options is begun anew.
    """

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        self.path, self.of = path, str(vars(options))
        self.done: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            self.done = found["done"] if found["of"] == self.of else {}

    def measured(self, name: str, do: Any, *args: Any, **options: Any) -> Any:
        """The part of this name from the file, or what `do` answers now."""
        print(name, end=" … ", flush=True)
        if name in self.done:
            print("measured before", flush=True)
            return self.done[name]
        start = time.monotonic()
        # Through JSON: it is the same whether it comes from the file or not.
        self.done[name] = json.loads(json.dumps(do(*args, **options)))
        text = json.dumps({"of": self.of, "done": self.done}, ensure_ascii=False)
        self.path.write_text(text, encoding="utf-8")
        print(f"{time.monotonic() - start:.0f} s", flush=True)
        return self.done[name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="two rounds, one batch per model, no figure"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the measured process")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, help="rounds of every table")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="models to measure")
    parser.add_argument("--batches", nargs="+", metavar="ROWSxTOKENS", help="such as 4x128")
    parser.add_argument("--no-growth", action="store_true", help="leave the figure out")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder to write to")
    return parser


def _measure(
    shape: Shape,
    batch: tuple[int, int],
    rounds: int,
    options: argparse.Namespace,
    *,
    save: bool = False,
    with_peers: bool = False,
    only: Iterable[str] | None = None,
    kept: bool = True,
) -> dict[str, Any]:
    """One answer of `benchmarks.measure`: seconds from one process, memory from another.

    `kept`: the one that is timed keeps freed memory instead of returning it to the system. Where it
    is kept, its peak is that of all holes between tensors, not of what a way needs.
    """
    # Processes of its own, because memory and caches that one model leaves would help the next.
    job = {
        "shape": asdict(shape),
        "batch": list(batch),
        "threads": options.threads,
        "device": options.device,
        "dtype": options.dtype,
        "rounds": rounds,
        "memory": False,
        "only": None if only is None else list(only),
        "save": save,
        "peers": with_peers,
    }
    answer = _answer(job, KEPT if kept else {})
    peaks = _answer({**job, "rounds": 0, "memory": True, "save": False}, {})
    return answer | {"megabytes": peaks["megabytes"]}


def _answer(job: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.measure"]
    done = subprocess.run(
        command,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **settings},
    )
    if done.returncode:
        raise SystemExit(f"{job['shape']['name']}, {job['batch']}: measuring failed\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def _growth(shape: Shape, options: argparse.Namespace, parts: Parts) -> list[dict[str, Any]]:
    """The ways of the figure, with one quantity varied at a time."""
    found = []
    for axis, values in AXES.items():
        for value in values:
            changed, length = shape, 256
            if axis == "tokens":
                length = value
            elif axis == "layers":
                changed = replace(shape, layers=value)
            else:
                changed = replace(shape, vocab=value)
            given = changed, (1, length), 3, options
            answer = parts.measured(f"{axis} {value}", _measure, *given, only=GROWN)
            found.append({"axis": axis, "value": value, "answer": answer})
    for tokens in CORPORA:
        answer = parts.measured(f"corpus {tokens}", _corpus, tokens)
        found.append({"axis": "corpus tokens", "value": tokens, "answer": answer})
    return found


def _corpus(tokens: int) -> dict[str, Any]:
    """An answer about a corpus of the embedded model's language: one process, summaries kept."""
    with tempfile.TemporaryDirectory() as folder:
        found = corpus.measure(tokens, 1, "summary", Path(folder), ["rotation", "path_length"])
    return {"seconds": {CORPUS: [found["seconds"]]}, "megabytes": {CORPUS: found["peak_mb"]}}


def start_up(repeats: int = 3) -> dict[str, dict[str, float]]:
    """Best of a few starts of each command, with its limit."""
    # The best, because other work on the machine can only slow a start down.
    out = {}
    for command, limit in START_UP.items():
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run(_started(command), check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
        out[command] = {"seconds": min(seconds), "limit": limit}
    return out


def _started(command: str) -> list[str]:
    if command.startswith("python"):
        return [sys.executable, "-c", "import interp"]
    program = "from interp.cli import main; main()"
    return [sys.executable, "-c", program, *command.split()[1:]]


def write(results: Mapping[str, Any], folder: Path) -> None:
    """Write `benchmarks.md`, and under `images/` the figure, under `data/` the numbers."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    image = folder / "images" / "benchmarks.png"
    drawn = bool(results["growth"]) and write_png(figure(results["growth"]), image)
    numbers = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "data" / "benchmarks.json").write_text(numbers + "\n", encoding="utf-8")
    text = markdown(results, "images/benchmarks.png" if drawn else None)
    (folder / "benchmarks.md").write_text(text, encoding="utf-8")
    print(f"wrote {folder / 'benchmarks.md'}")


if __name__ == "__main__":
    main()
