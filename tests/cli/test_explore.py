"""`interp explore`: a page of saved results, and a live page that Ctrl-C ends."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from explorer_help import Told, data_of
from test_cli import invoke, shell

import interp

SERVES = all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn"))
LONG = 600  # seconds that are over only where something waits for ever


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of a small run with an untrained copy."""
    results = interp.run(
        "demo", ["Mary met her", "Leo saw her"], ["rotation", "logit_lens"],
        control="random-init", progress=False,
    )  # fmt: skip
    return results.save(tmp_path_factory.mktemp("explore") / "out")


def test_the_page_is_written_next_to_the_tables_and_again(folder):
    for _ in range(2):
        text = invoke("explore", str(folder), "--no-open")
        assert str(folder / "explorer.html") in text.replace("\n", "")
    told = Told(data_of((folder / "explorer.html").read_text(encoding="utf-8")))
    assert told.tokens["token"].tolist() == interp.load(folder).tokens["token"].tolist()
    assert told.payload["control_name"] == "untrained copy"
    assert told.payload["title"] == "Inside demo"


def test_the_page_goes_where_it_is_asked_to(folder, tmp_path):
    for given, written in (
        (tmp_path / "page.html", tmp_path / "page.html"),
        (tmp_path / "new", tmp_path / "new" / "explorer.html"),
    ):
        text = invoke("explore", str(folder), "--out", str(given), "--no-open", "--json")
        assert json.loads(text) == {"written": [str(written)]}
        assert written.is_file()
    done = shell("explore", str(folder), "--out", str(tmp_path / "page.html"), "--no-open")
    assert done.returncode == 2
    assert "exists" in done.stderr


def test_the_browser_opens_only_when_asked_or_in_a_terminal(folder, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    invoke("explore", str(folder))
    assert opened == [], "the output is no terminal"
    invoke("explore", str(folder), "--open")
    assert opened == [(folder / "explorer.html").resolve().as_uri()]


def test_what_is_neither_results_nor_a_model_is_refused(folder, tmp_path):
    done = shell("explore", str(tmp_path))
    assert done.returncode == 2
    assert "holds neither results (no results.json or corpus.json in it) nor a model" in done.stderr
    done = shell("explore", str(folder), "--live")
    assert "holds results, and --live runs a model: name the model" in done.stderr
    done = shell("explore", str(folder), "--port", "8000", "--prompt", "a")
    assert "--prompt, --port: only with a model" in done.stderr
    done = shell("explore", "demo", "--out", str(tmp_path / "x.html"))
    assert "--out: only with a folder of results" in done.stderr


@pytest.mark.skipif(SERVES, reason="starlette and uvicorn are here")
def test_without_the_extra_a_live_page_says_what_to_install():
    done = shell("explore", "demo")
    assert done.returncode == 1
    assert "pip install 'interp-stream[live]'" in done.stderr


@pytest.mark.skipif(not SERVES, reason="needs starlette and uvicorn (extra live)")
def test_a_live_page_is_served_until_ctrl_c():
    command = [sys.executable, "-c", "from interp.cli import main; main()"]
    command += ["explore", "demo", "--no-open", "--prompt", "Mary met her", "-a", "rotation"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "200"}
    environment["PYTHONUNBUFFERED"] = "1"
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line)
        assert address, line + process.stderr.read()
        # Read here: `communicate` does not see what `readline` took from the pipe and kept.
        assert "Ctrl-C" in process.stdout.readline()
        with urllib.request.urlopen(address.group(), timeout=LONG) as answer:
            told = Told(data_of(answer.read().decode()))
        assert told.names == [n for n in told.names if n.startswith("rotation.")]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address.group()[:-1], timeout=LONG)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LONG)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert "Traceback" not in err


def test_a_mistyped_folder_and_one_of_pairs_are_told(folder, tmp_path):
    typo, hint = folder.parent / "ouut", f"did you mean {str(folder)!r}?"
    done = shell("explore", str(typo))
    assert done.returncode == 2
    assert hint in " ".join(done.stderr.split())
    with pytest.raises(interp.BadInput, match=re.escape(hint)):
        interp.load(typo)
    for side in ("clean", "corrupted"):
        (tmp_path / side).mkdir()
    (tmp_path / "experiment.json").write_text('{"experiment": "pairs"}', encoding="utf-8")
    told = shell("explore", str(tmp_path)).stderr
    assert "it holds pairs of prompts" in told
    assert all(str(tmp_path / side) in told for side in ("clean", "corrupted"))
