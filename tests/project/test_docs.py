"""The pages of docs/ say what the docstrings say."""

from __future__ import annotations

import importlib.util
import re
import shlex

import pytest
import typer
from conftest import ROOT
from typer.testing import CliRunner

from interp.cli.app import app
from interp.contract.registry import get, names

DOCS = ROOT / "docs"
PICTURE = re.compile(r"^!\[.*\n\n?", re.MULTILINE)


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_in_step_with_the_docstrings(build):
    stale = [
        path
        for path, text in build.pages().items()
        if not (DOCS / path).is_file()
        or PICTURE.sub("", (DOCS / path).read_text(encoding="utf-8")) != PICTURE.sub("", text)
    ]
    assert not stale, f"run python docs/build.py; out of step: {stale}"


def test_no_page_is_left_over(build):
    there = {
        str(p.relative_to(DOCS)) for f in ("analyses", "experiments") for p in (DOCS / f).glob("*")
    }
    assert there == {p for p in build.pages() if "/" in p}


def test_pictures_are_there_and_small():
    linked = [
        (page.parent / name).resolve()
        for page in DOCS.rglob("*.md")
        for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert len(linked) > 20
    assert [p for p in linked if not p.is_file()] == []
    assert sum(p.stat().st_size for p in (DOCS / "images").rglob("*.png")) < 3 * 2**20


def test_every_command_that_a_page_shows_exists(build):
    root = typer.main.get_command(app)
    pages = build.EXPERIMENTS.values()
    shown = [line for page in pages for line in (page.run, page.example) if line]
    assert len(shown) > len(pages)
    for command in shown:
        words, group = shlex.split(command)[1:], root
        while hasattr(group, "commands"):
            assert words[0] in group.commands, command
            group, words = group.commands[words[0]], words[1:]
        options = {o for p in group.params for o in p.opts}
        assert {w for w in words if w.startswith("-")} <= options, command


def test_weights_are_asked_of_a_model_that_has_them(build, tmp_path):
    for name in (n for n in names() if get(n).scope == "weights"):
        words = shlex.split(build.run_command(name))[1:-1]
        done = CliRunner().invoke(app, [*words, str(tmp_path / name)])
        assert done.exit_code == 0, f"{name}: {done.output}"


def test_docstrings_become_lists_and_code(build):
    text = "One.\n\nArgs:\n    a: first\n        goes on\n    b, c: others\n\n>>> 1 + 1\n2"
    assert list(build.markdown(text)) == [
        "One.",
        "**Arguments**",
        "- `a`: first goes on\n- `b, c`: others",
        "```python\n>>> 1 + 1\n2\n```",
    ]
