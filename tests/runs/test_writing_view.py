"""The live view of a generation: a line in a terminal, an output that is replaced in a notebook."""

from __future__ import annotations

import io
import re
from functools import partial
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

import interp
from interp import _progress
from interp.runs.generate import generate

PROMPTS = ["Mary was tired, so John", "The river", "Leo met"]


@pytest.fixture(autouse=True)
def no_bars(monkeypatch):
    """Only the view of the writing: what measures the texts has a bar where it takes a second."""
    monkeypatch.setattr(_progress, "PATIENCE", 1e6)


@pytest.fixture(scope="module")
def demo():
    return interp.load_model("demo-llama")


def decoded(ids) -> str:
    return " ".join(map(str, ids))


@pytest.fixture
def terminal(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(_progress, "_console", lambda: console)
    return screen


def plain(screen: io.StringIO) -> list[str]:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_a_terminal_gets_one_line_with_texts_tokens_and_their_rate(demo, terminal):
    generate(demo, PROMPTS, "norm", max_new_tokens=4, stop=[])
    lines = [line for line in plain(terminal) if "texts" in line]
    assert lines[0].startswith("0 of 3 texts, 0 tokens, ")
    assert re.match(r"3 of 3 texts, 12 tokens, [\d,]+ tokens/s .*\d:\d\d:\d\d$", lines[-1])


def test_a_text_that_ends_early_is_counted_by_its_tokens_and_waited_for_no_longer(terminal):
    with _progress.Writing(2, 8, decoded) as view:
        view.reach([0, 1], [[5, 9], [5, 5, 5]], [True, False])
        assert view.line.startswith("1 of 2 texts, 5 tokens, ")
        assert view._bar.tasks[0].completed == 8 + 3
        assert view._bar.tasks[0].total == 16
        view.reach([1], [[5, 5, 5, 9]], [True])
        assert view.line.startswith("2 of 2 texts, 6 tokens, ")
        assert view._bar.finished


def test_the_rate_is_tokens_over_seconds(monkeypatch, terminal):
    clock = iter([100.0, *[102.5] * 100])
    monkeypatch.setattr(_progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    view = _progress.Writing(1, 500, decoded, enabled=False)
    view.reach([0], [list(range(250))], [False])
    assert view.line == "0 of 1 texts, 250 tokens, 100 tokens/s"


def test_nothing_is_said_without_progress(demo, capsys, terminal):
    generate(demo, PROMPTS, "norm", max_new_tokens=2, stop=[], progress=False)
    assert terminal.getvalue() == ""
    assert capsys.readouterr() == ("", "")


class Shown:
    """What a notebook was given to display."""

    def __init__(self) -> None:
        self.pages: list[str] = []
        self.outputs = 0

    def display(self, page, *, display_id):
        assert display_id is True
        self.outputs += 1
        self.pages.append(page.data)
        return SimpleNamespace(update=lambda new: self.pages.append(new.data))


@pytest.fixture
def notebook(monkeypatch):
    console = Console(file=io.StringIO())
    console.is_jupyter = True
    shown = Shown()
    monkeypatch.setattr(_progress, "_console", lambda: console)
    monkeypatch.setattr(_progress, "BETWEEN", 0.0)
    monkeypatch.setattr("IPython.display.display", shown.display)
    return shown


def test_a_notebook_reads_along_in_one_output(demo, notebook, monkeypatch):
    # A second at every look at the clock: the rate keeps its number of digits.
    monkeypatch.setattr(_progress, "time", SimpleNamespace(monotonic=partial(next, count())))
    results = generate(demo, PROMPTS, "norm", max_new_tokens=4, stop=[])
    assert notebook.outputs == 1
    first, last = notebook.pages[0], notebook.pages[-1]
    assert first.startswith("<div>0 of 3 texts, 0 tokens")
    assert last.startswith("<div>3 of 3 texts, 12 tokens")
    for number, text in enumerate(results.texts["text"]):
        assert f"<b>{number}</b> {text.replace(chr(39), '&#x27;')}</div>" in last
    # It grows: each state is longer than the one before.
    lengths = [len(page) for page in notebook.pages]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3


def test_a_notebook_is_not_drawn_more_often_than_it_can_be_read(notebook, monkeypatch):
    monkeypatch.setattr(_progress, "BETWEEN", 1000.0)
    with _progress.Writing(1, 100, decoded) as view:
        for n in range(1, 100):
            view.reach([0], [list(range(n))], [False])
    assert len(notebook.pages) == 2  # the first state, and the last
    assert "99 tokens" in notebook.pages[-1]
    assert notebook.pages[-1].endswith(f"{decoded(range(99))}</div>"[-60:])


def test_markup_in_a_text_is_text(notebook):
    with _progress.Writing(1, 3, lambda _: "</div><script>alert(1)</script>") as view:
        view.reach([0], np.zeros((1, 1)).tolist(), [False])
    assert "<script" not in notebook.pages[-1]
    assert "&lt;script&gt;" in notebook.pages[-1]
