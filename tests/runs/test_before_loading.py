"""Requests that are refused before their model is loaded, and what is said while one runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import interp
from analyses.attention import Attention
from interp import _progress
from interp.cli.app import app
from interp.contract.registry import registered, resolve
from interp.errors import BadInput, InterpError, UnknownName

TEXTS = ["She gave her book away.", "Snow fell on the quiet road."]
NOWHERE = "./no-such-model"  # loading it fails with another message


@pytest.fixture
def texts(tmp_path):
    """A file of two prompts with a label `genre` and a label named as a column of the tables."""
    path = tmp_path / "texts.jsonl"
    rows = [{"text": t, "genre": g, "angle": 1} for t, g in zip(TEXTS, "ab", strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"prompts": "hers"}, UnknownName, "'hers'.*did you mean 'her'"),
        ({"prompts": []}, BadInput, "no prompts"),
        ({"prompts": None}, BadInput, "'rotation' reads prompts"),
        ({"analyses": "rotatoin"}, UnknownName, "did you mean 'rotation'"),
        ({"control": "random"}, UnknownName, "control 'random'"),
        ({"keep": "sumary"}, UnknownName, "did you mean 'summary'"),
        ({"by": ["role"]}, BadInput, "use keep='summary'"),
        ({"keep": "summary", "by": ["rol"], "target": "her"}, UnknownName, "did you mean 'role'"),
        ({"max_tokens": 0}, BadInput, "max_tokens=0"),
        ({"target": "hers"}, BadInput, "occurs in none of the 2 prompts.*nearest.*'her'"),
        ({"target": " "}, BadInput, "blank"),
        ({"labels": {"angle": [1, 2]}}, BadInput, "that analysis 'rotation' measures"),
        ({"labels": {"x": "y"}}, BadInput, "renames .y., which is no column of list"),
        ({"token_labels": {"layer": [[1], [2]]}}, BadInput, "rename it"),
        ({"model_options": {"dtype": "float23"}, "model": "demo"}, BadInput, "'float32'"),
    ],
)
def test_what_needs_no_model_is_refused_before_one_is_loaded(options, kind, said):
    asked = {"model": NOWHERE, "prompts": TEXTS, "analyses": "rotation", "progress": False}
    with pytest.raises(kind, match=said):
        interp.run(**asked | options)


def test_a_request_without_a_fault_goes_on_to_load(texts):
    asked = {"keep": "summary", "by": ["genre"], "target": "her", "progress": False}
    with pytest.raises(BadInput, match="there is no model folder"):
        interp.run(NOWHERE, TEXTS, "rotation", **asked | {"by": ["role"]})
    with pytest.raises(BadInput, match="'angle' has the name of a column"):
        interp.run(NOWHERE, texts, "rotation", **asked)
    renamed = {"old_angle": "angle"}
    with pytest.raises(BadInput, match="there is no model folder"):
        interp.run(NOWHERE, texts, "rotation", labels=renamed, **asked)


def test_a_labeller_may_make_the_label_that_groups():
    def by_length(prompts):
        return prompts.with_labels("long", [len(t) > 25 for t in prompts.texts])

    asked = {"keep": "summary", "by": ["long"], "labellers": [by_length], "progress": False}
    with pytest.raises(BadInput, match="there is no model folder"):
        interp.run(NOWHERE, TEXTS, "rotation", **asked)


def test_a_generator_of_prompts_is_read_once(gpt2):
    given = interp.run(gpt2, TEXTS, "rotation", progress=False)
    drawn = interp.run(gpt2, (text for text in TEXTS), "rotation", progress=False)
    assert drawn["rotation"].frame.equals(given["rotation"].frame)


@pytest.mark.parametrize("device", ["cpuu", "tpu9:x"])
def test_a_device_that_there_is_not_is_refused_before_loading(device, monkeypatch):
    monkeypatch.setattr("interp.models.load._boot", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(BadInput, match=f"unknown device '{device}'"):
        interp.load_model("demo", device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_this_machine_lacks_is_refused_before_loading(monkeypatch):
    monkeypatch.setattr("interp.models.load._boot", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(BadInput, match="no device 'cuda' on this machine"):
        interp.load_model("demo", device="cuda")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompts", "hers"], "did you mean 'her'"),
        (["--prompts", "her", "--analyses", "logit_lense"], "did you mean 'logit_lens'"),
        (["--prompts", "her", "--control", "none"], "control 'none'"),
        (["--prompts", "her", "--keep", "all"], "value of keep 'all'"),
        (["--prompts", "her", "--labels", "genre"], "'genre'"),
        (["--prompts", "her", "--target", "hxx"], "occurs in none"),
        (["--prompts", "her", "--workers", "2"], "only with --corpus"),
    ],
)
def test_the_command_refuses_before_it_loads(arguments, said, tmp_path):
    with pytest.raises(InterpError, match=said):
        CliRunner().invoke(
            app,
            ["run", "--model", NOWHERE, "--out", str(tmp_path / "out"), *arguments],
            catch_exceptions=False,
        )
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    asked = ["run", "--model", NOWHERE, "--prompts", "her", "--out", str(tmp_path / "file" / "x")]
    with pytest.raises(InterpError, match="file"):
        CliRunner().invoke(app, asked, catch_exceptions=False)


def test_a_run_starts_without_the_statistics_of_scipy():
    code = "import sys, interp.runs.run, interp.runs.load; print('scipy.stats' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- progress --------------------------------------------------------------------------------


def test_loading_is_said_in_a_pipe_and_nothing_when_quiet(capsys):
    for quiet in (False, True):
        interp.run("demo", TEXTS, "rotation", progress=not quiet)
        said = capsys.readouterr()
        assert said.err == ("" if quiet else "loading demo …\n")
        assert said.out == ""


def test_a_model_that_is_loaded_already_is_not_said_to_load(gpt2, capsys):
    interp.run(gpt2, TEXTS, "rotation")
    assert capsys.readouterr().err == ""


class Display:
    """What a bar was told, in place of a terminal."""

    def __init__(self) -> None:
        self.updates: list[dict] = []
        self.total, self.stopped = 0, False

    def add_task(self, _what, total, **_):
        self.total = total
        return 0

    def update(self, _task, **told):
        self.updates.append(told)

    def stop(self):
        self.stopped = True


def test_the_bar_of_a_single_batch_follows_the_calls_of_analyses(gpt2, monkeypatch):
    display = Display()
    monkeypatch.setattr(_progress, "_display", lambda *_, **__: display)
    monkeypatch.setattr(_progress, "PATIENCE", 0.0)
    interp.run(gpt2, TEXTS, ["rotation", "logit_lens"])
    blocks = gpt2.cfg.n_layers
    assert display.total == blocks + 1
    assert [told["completed"] for told in display.updates] == list(range(blocks + 1))
    assert display.updates[0]["doing"] == "rotation, block 0"
    assert display.updates[-1]["doing"] == "logit_lens"
    assert display.stopped


def test_the_bar_of_several_batches_counts_them_all(gpt2, monkeypatch):
    display = Display()
    monkeypatch.setattr(_progress, "_display", lambda *_, **__: display)
    monkeypatch.setattr(_progress, "PATIENCE", 0.0)
    interp.run(gpt2, TEXTS, "rotation", max_tokens=8)
    assert display.total == 2 * gpt2.cfg.n_layers
    assert [told["completed"] for told in display.updates] == list(range(display.total))


@pytest.mark.parametrize(("seconds", "bars"), [(0.3, 0), (0.4, 1)])
def test_what_takes_less_than_a_second_has_no_bar(monkeypatch, seconds, bars):
    now, made = [0.0], []
    monkeypatch.setattr(_progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(_progress, "_display", lambda *_, **__: made.append(Display()) or made[0])
    for _ in _progress.track([1, 2, 3], "work"):
        now[0] += seconds
    assert len(made) == bars
    assert all(bar.updates[0]["completed"] == 3 and bar.stopped for bar in made)


class Notebook(Console):
    """A console that stands in a notebook."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.is_jupyter = True


@pytest.fixture
def notebook(monkeypatch):
    """A notebook without ipywidgets."""
    monkeypatch.setattr(_progress, "_console", lambda: Notebook(stderr=True))
    monkeypatch.setattr(_progress, "find_spec", lambda _: None)
    monkeypatch.setattr(_progress, "PATIENCE", 0.0)


def test_a_notebook_without_widgets_gets_a_line_of_text(notebook, capsys):
    assert list(_progress.track(["a", "b"], "work")) == ["a", "b"]
    lines = capsys.readouterr().err.split("\r")
    assert [line.strip() for line in lines] == ["", "work 50%", "work 100%", "", ""]


def test_the_counter_of_a_corpus_is_text_there_as_well(notebook, capsys):
    with _progress.Counter("tokens", 3) as counter:
        counter.advance(1, 10)
        counter.advance(2, 20, failures=1)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("3 of 3 documents, 30 tokens, ")
    assert last.rstrip(" ").endswith(", 1 failure\n")


def test_a_terminal_draws_and_a_pipe_does_not(monkeypatch):
    made = []
    monkeypatch.setattr("rich.progress.Progress.start", lambda self: made.append(self))
    for terminal in (True, False):
        console = Console(file=sys.stderr, force_terminal=terminal)
        monkeypatch.setattr(_progress, "_console", lambda c=console: c)
        shown = _progress._display(_progress.Bar._columns, lasting=False)
        assert (shown is not None) == terminal
    assert len(made) == 1


def test_the_bar_is_not_made_again_where_nobody_looks(monkeypatch):
    calls = []
    monkeypatch.setattr(_progress, "PATIENCE", 0.0)
    monkeypatch.setattr(_progress, "_display", lambda *_, **__: calls.append("made"))
    assert list(_progress.track(range(5), "work")) == list(range(5))
    assert len(calls) == 1


def _counts():
    """Every number among the parameters of the analyses that come with the library."""
    built_in = [n for n, e in registered().items() if e[0].value.startswith("analyses.")]
    for name, analysis in resolve(sorted(built_in)).items():
        for field in fields(analysis):
            value = getattr(analysis, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield f"{name}.{field.name}", type(value)(-1)


@pytest.mark.parametrize(("parameter", "value"), sorted(_counts()))
def test_a_number_below_what_an_analysis_can_do_with_is_refused_before_loading(parameter, value):
    name, field = parameter.split(".")
    given = {"targets": 5, "against": 6} if name == "logit_difference" else {}
    with pytest.raises(BadInput, match=rf"{name} with .*{field}=-1.*default"):
        interp.run(NOWHERE, TEXTS, name, settings={parameter: value}, progress=False, **given)


def test_a_parameter_below_its_least_value_is_refused_with_its_default():
    said = "attention with maps=-1: allowed is 0 or more; 2 is the default"
    with pytest.raises(BadInput, match=said):
        Attention(maps=-1)
    assert Attention(maps=0).maps == 0
