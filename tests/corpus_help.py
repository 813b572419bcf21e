"""What the tests of corpus runs share: a tiny model in a folder, corpora, runs in processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

TEXT = "the a man queen dog saw told met her him red old house road and in on ."
WORDS = TEXT.split()


def documents(n: int, longest: int = 30) -> list[dict]:
    """Rows of different lengths, the same every time."""
    rows = []
    for i in range(n):
        length = 3 + (i * 7919) % longest
        words = [WORDS[(i * 31 + j * j) % len(WORDS)] for j in range(length)]
        rows.append({"text": " ".join(words), "kind": "abc"[i % 3], "id": f"doc-{i}"})
    return rows


def write_jsonl(path: Path, rows: list) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def tables(folder: Path) -> dict[str, bytes | pd.DataFrame]:
    """Every table and state of a run, to be compared bit for bit."""
    out: dict = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            out[name] = path.read_bytes()
        elif path.suffix == ".parquet":
            out[name] = pq.read_table(path).to_pandas()
    return out


def same(a: Path, b: Path) -> None:
    """Assert that two runs have the same tables, bit for bit."""
    first, second = tables(a), tables(b)
    assert first.keys() == second.keys()
    for name, table in first.items():
        if isinstance(table, bytes):
            assert table == second[name], name
        else:
            pd.testing.assert_frame_equal(table, second[name], check_exact=True, obj=name)


HELD, GO = "held", "go"
"""Files beside a run: the number of the worker that is held in its shard, and leave to go on."""

SCRIPT = f"""
import os, sys, json, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import interp
options = json.loads(sys.argv[1])
shard_to_hold, place = options.pop("hold", None), Path(options["out"]).parent
if shard_to_hold is not None:
    from interp.runs.corpus.shard import Worker
    save = Worker._save_tokens
    def held(self, shard, *rest):
        if shard.index == shard_to_hold and not (place / "{GO}").exists():
            (place / "writing").write_text(str(os.getpid()))
            (place / "writing").rename(place / "{HELD}")
            while not (place / "{GO}").exists():
                time.sleep(0.01)
        return save(self, shard, *rest)
    Worker._save_tokens = held
if __name__ == "__main__":
    try:
        run = interp.run_corpus(progress=False, **options)
        print(json.dumps({{"tokens": run.tokens, "failures": len(run.failures)}}))
    except interp.InterpError as error:
        print(f"{{type(error).__name__}}: {{error}}", file=sys.stderr)
        sys.exit(1)
"""


def start(options: dict) -> subprocess.Popen:
    """A run in a process of its own, at the head of its own group.

    Option `hold` is a shard: who measures it stops before its record is written (`HELD`, `GO`).
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    script = Path(options["out"]).parent / "run_corpus_script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(script), json.dumps(options, default=str)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


def kill(process: subprocess.Popen) -> None:
    """SIGKILL for the run alone; what it started has to notice by itself."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found
