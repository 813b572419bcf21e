"""Corpus runs on a real local Ray: two actors, one of which is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from corpus_help import documents, same, write_jsonl

import interp
from interp import InterpError

pytest.importorskip("ray", reason="ray is not installed (interp-stream[scale])")
N = 40


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> dict:
    corpus = tmp_path_factory.mktemp("ray") / "c.jsonl"
    write_jsonl(corpus, [{"text": r["text"]} for r in documents(N)])
    return {
        "model": "demo-llama",
        "source": corpus,
        "analyses": ["rotation", "logit_lens"],
        "shard_documents": 4,
        "max_tokens": 256,
        "progress": False,
    }


def actors() -> list[int]:
    """Processes of this machine that are our actors; Ray names them after the class."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            if command.startswith("ray::CorpusActor"):
                found.append(int(entry.name))
    return found


def test_two_actors_one_killed_give_the_tables_of_an_unbroken_run(options, tmp_path):
    interp.run_corpus(out=tmp_path / "whole", **options)
    killed: list[int] = []

    def kill_one() -> None:
        records = tmp_path / "out" / "shards"
        end = time.monotonic() + 300
        while time.monotonic() < end:
            running = actors()
            if running and len(list(records.glob("[0-9]*[0-9].json"))) >= 2:
                os.kill(running[0], signal.SIGKILL)
                killed.append(running[0])
                return
            time.sleep(0.02)

    thread = threading.Thread(target=kill_one)
    thread.start()
    done = interp.run_corpus(out=tmp_path / "out", workers=2, ray="local", **options)
    thread.join()
    assert killed
    assert done.documents == N
    assert len(done.failures) == 0
    same(tmp_path / "out", tmp_path / "whole")
    import ray

    assert not ray.is_initialized()


@pytest.mark.full
def test_what_goes_wrong_in_an_actor_is_said(options, tmp_path):
    with pytest.raises(InterpError, match="there is no model folder './nothing'"):
        interp.run_corpus(
            out=tmp_path / "out", workers=1, ray="local", **options | {"model": "./nothing"}
        )


@pytest.mark.full
def test_an_actor_that_has_no_room_is_not_waited_for(options, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.runs.corpus.ray_actors._PATIENCE", 3.0)
    with pytest.raises(InterpError, match="0 GPUs; an actor asks for 1 and 1"):
        interp.run_corpus(out=tmp_path / "out", workers=1, ray="local", gpus=1, **options)
