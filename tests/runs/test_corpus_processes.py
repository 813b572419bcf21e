"""Corpus runs as real processes: SIGKILL at any moment, killed workers, locks, full disks."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from corpus_help import GO, HELD, children, documents, kill, same, start, write_jsonl

import interp

FULL = os.environ.get("INTERP_FULL") == "1"
N = 40
ANALYSES = ["rotation", "logit_lens"]
SECONDS = 1800  # which are over only where something waits for ever


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("processes")
    texts = sorted((row["text"] for row in documents(N)), key=len)
    corpus = write_jsonl(folder / "c.jsonl", [{"text": text} for text in texts])
    return {
        "model": "demo-llama",
        "source": corpus,
        "analyses": ANALYSES,
        "keep": "tokens",
        "shard_documents": 5,
        "max_tokens": 256,
    }


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory) -> Path:
    """The same run, unbroken, in this process."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    interp.run_corpus(out=folder, progress=False, **options)
    return folder


def records(folder: Path) -> int:
    return len(list((folder / "shards").glob("[0-9]*[0-9].json")))


def until(condition, process: subprocess.Popen) -> None:
    """Wait for something to be true of a run that is under way."""
    end = time.monotonic() + SECONDS
    while not condition():
        if process.poll() is not None:
            return  # it was faster than we are
        assert time.monotonic() < end
        time.sleep(0.002)


def finish(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.mark.parametrize("seed", range(40) if FULL else [0])
def test_a_run_killed_at_any_moment_resumes_to_the_same_bits(options, whole, tmp_path, seed):
    chance = random.Random(seed)
    out = tmp_path / "out"
    for attempt in range(1 + FULL * chance.randrange(3)):
        process = start(options | {"out": out, "resume": attempt > 0})
        wanted = records(out) + chance.randrange(4) if out.exists() else chance.randrange(1, 5)
        until(lambda n=wanted: records(out) >= n, process)
        time.sleep(chance.random() * 0.1)
        kill(process)
    done = interp.run_corpus(out=out, progress=False, resume=True, **options)
    assert done.documents == N
    same(out, whole)


def held(folder: Path, process: subprocess.Popen) -> int:
    """The worker that stands in the middle of the shard where it is held."""
    until((folder / HELD).exists, process)
    worker = int((folder / HELD).read_text())
    assert worker in children(process.pid)
    return worker


def test_workers_give_the_same_tables_also_when_one_is_killed(options, whole, tmp_path):
    out = tmp_path / "out"
    process = start(options | {"out": out, "workers": 2, "hold": 3})
    os.kill(held(tmp_path, process), signal.SIGKILL)
    (tmp_path / GO).touch()
    assert finish(process)["failures"] == 0
    same(out, whole)


@pytest.mark.full
def test_workers_end_with_a_killed_run_and_the_folder_is_free(options, whole, tmp_path):
    out = tmp_path / "out"
    process = start(options | {"out": out, "workers": 2, "hold": 3})
    held(tmp_path, process)
    with pytest.raises(interp.BadInput, match=rf"another run works on .*process {process.pid} on"):
        interp.run_corpus(out=out, progress=False, resume=True, **options)
    workers = [p for p in children(process.pid) if "spawn_main" in _command(p)]
    kill(process)
    end = time.monotonic() + SECONDS
    while any(_command(p) for p in workers):
        assert time.monotonic() < end, "a worker outlives its run"
        time.sleep(0.05)
    interp.run_corpus(out=out, progress=False, resume=True, **options)
    same(out, whole)


@pytest.mark.full
def test_a_disk_that_is_really_full_stops_the_run_and_loses_nothing(options, whole, tmp_path):
    out = tmp_path / "out"
    sizes = [p.stat().st_size for p in whole.rglob("*") if p.is_file() and "summary" not in str(p)]
    smaller = max(p.stat().st_size for p in whole.rglob("*00000[012].*")) + 4096
    assert smaller < max(sizes)  # documents get longer from shard to shard
    process = start(options | {"out": out})
    # Larger files cannot be written by that process from now on, as on a disk that fills up.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (smaller, smaller))
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "no space left to write" in err
    assert "run again with resume" in err
    assert 0 < records(out) < len(list(whole.glob("shards/*[0-9].json")))
    assert not [p for p in out.rglob("*.part") if p.is_file()]
    interp.run_corpus(out=out, progress=False, resume=True, **options)
    same(out, whole)


def _command(pid: int) -> str:
    """The command line of a process; nothing where it has ended."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_text()
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""
    return "" if state == "Z" else text
