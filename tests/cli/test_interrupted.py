"""A Ctrl-C, and a pipe whose reader has gone: exit codes, and the line that says what is kept."""

import os
import signal
import subprocess
import sys
import time

import pytest
from corpus_help import documents, write_jsonl

import interp.runs.series.run as series_run
from interp.cli.app import main
from interp.errors import Interrupted
from interp.runs.corpus import sharded
from interp.runs.corpus.shard import Worker
from interp.runs.results import Results

RUN = ("run", "-m", "demo-llama", "-a", "norm", "-q")


def ended(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["interp", *map(str, words)])
    with pytest.raises(SystemExit) as error:
        main()
    return error.value.code


def interrupts(after=0):
    """A function that is interrupted at its call after so many."""
    calls = []

    def stop(*_, **__):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt

    return stop


def test_a_corpus_run_says_how_many_shards_are_kept(monkeypatch, tmp_path, capsys):
    corpus = write_jsonl(tmp_path / "c.jsonl", documents(15))
    words = (*RUN, "--corpus", corpus, "--shard-documents", 1, "-o", tmp_path / "out")
    measure, stop = Worker.measure, interrupts(after=6)
    monkeypatch.setattr(Worker, "measure", lambda w, shard: stop() or measure(w, shard))
    assert ended(monkeypatch, *words) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "interrupted, 6 of 15 shards are kept; go on with --resume"
    )
    # While the corpus is cut into shards their number is not known; six are there all the same.
    monkeypatch.setattr(sharded, "plan", interrupts())
    assert ended(monkeypatch, *words, "--resume") == 130
    assert "interrupted, 6 shards are kept; go on with --resume" in capsys.readouterr().err
    monkeypatch.undo()
    assert ended(monkeypatch, *words, "--resume") == 0


def test_a_run_of_which_nothing_is_written_says_so(monkeypatch, tmp_path, capsys):
    words = (*RUN, "--corpus", write_jsonl(tmp_path / "c.jsonl", documents(2)))
    monkeypatch.setattr(sharded, "plan", interrupts())
    assert ended(monkeypatch, *words, "-o", tmp_path / "out") == 130
    assert capsys.readouterr().err.strip() == "interrupted, nothing was kept"
    monkeypatch.setattr("interp.runs.run.run", interrupts())
    assert ended(monkeypatch, *RUN, "-p", "her", "-o", tmp_path / "her") == 130
    assert capsys.readouterr().err.strip() == "interrupted, nothing was kept"
    assert not (tmp_path / "her").exists()


def test_tables_that_are_written_are_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(Results, "report", interrupts())
    assert ended(monkeypatch, *RUN, "-p", "her", "-o", tmp_path / "out") == 130
    said = capsys.readouterr().err
    assert f"the tables are kept in '{tmp_path / 'out'}'; interp report " in said
    assert (tmp_path / "out" / "results.json").exists()


def test_a_series_says_how_many_members_are_kept(tmp_path, monkeypatch):
    stop, work = interrupts(after=1), series_run._Work.measure
    monkeypatch.setattr(series_run._Work, "measure", lambda *a: stop() or work(*a))
    with pytest.raises(
        Interrupted, match="1 of 2 members are kept; go on with resume=True, --resume"
    ):
        series_run.series(
            ["demo", "demo-llama"], "her", ["norm"], out=tmp_path / "out", progress=False
        )


def test_ctrl_c_in_a_process_of_its_own(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "interp", "run", "-p", "demo", "-m", "demo-llama", "-o", "out"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, start_new_session=True,
    )  # fmt: skip
    assert process.stderr.readline().startswith("loading")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(60) == 130, said
    assert said.splitlines()[-1] == "interrupted, nothing was kept"


@pytest.mark.parametrize("words", ["list", "--help", "run --help", "list --json"])
def test_a_closed_pipe_ends_quietly(tmp_path, words):
    process = subprocess.Popen(
        [sys.executable, "-m", "interp", *words.split()], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141
