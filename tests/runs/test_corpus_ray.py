"""Corpus runs on a real local Ray: two actors, one of which is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from corpus_help import children, documents, same, write_jsonl

import interp
from interp import InterpError
from interp.runs.corpus.ray_actors import _ActorPool

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


def below(pid: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    own = children(pid)
    return own + [other for one in own for other in below(one)]


def actors() -> list[int]:
    """Our actors: of this process, for others of this machine may have some of the same name."""
    found = []
    for pid in below(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if command.startswith("ray::CorpusActor"):  # Ray names them after the class
            found.append(pid)
    return found


def test_two_actors_one_killed_give_the_tables_of_an_unbroken_run(options, tmp_path, monkeypatch):
    interp.run_corpus(out=tmp_path / "whole", **options)
    measured, killed, value = [], [], _ActorPool._value

    def and_killed(pool, reference, shard):
        found = value(pool, reference, shard)
        measured.extend([shard] if shard is not None and found is not None else [])
        # Here no new shard is given out, so that the run cannot end before.
        if len(measured) == 2 and not killed:
            killed.append(actors()[0])
            os.kill(killed[0], signal.SIGKILL)
        return found

    monkeypatch.setattr(_ActorPool, "_value", and_killed)
    done = interp.run_corpus(out=tmp_path / "out", workers=2, ray="local", **options)
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
