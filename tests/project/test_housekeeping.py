"""Files that other tools read: pre-commit, the citation, the templates."""

from __future__ import annotations

import re

import pytest
import yaml
from conftest import ROOT

import interp

PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line
)
HOOKS = [
    hook
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repo["hooks"]
]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_pre_commit_has_the_versions_of_the_lock(hook):
    (pin,) = hook["additional_dependencies"]
    name, version = pin.split("==")
    assert version == PINS[name], "renew .pre-commit-config.yaml after `make lock`"
    assert hook["entry"].split()[0] == name


def test_pre_commit_runs_the_linters_of_ci():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    linters = set(re.findall(r"^\.venv/bin/(ruff|mypy)", ci, re.MULTILINE))
    assert {hook["entry"].split()[0] for hook in HOOKS} == linters


def test_the_citation_names_this_version_and_nobody_in_particular():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == interp.__version__
    assert citation["authors"] == [{"name": "The interp contributors"}]
    needed = {"cff-version", "message", "title", "authors"}
    assert needed <= set(citation)


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_the_templates_can_be_read(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name != "config.yml":
        assert {"name", "description", "body"} <= set(form)
        ids = [field["id"] for field in form["body"]]
        assert len(ids) == len(set(ids))


SOURCES = [p for top in ("interp", "analyses") for p in sorted((ROOT / top).rglob("*.py"))]
PAGES = [
    p for p in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))) if p.is_file()
]


def test_a_space_stands_before_every_per_cent_sign():
    """As in "95 %": by `interp.render.tokens.percent` in sentences that are made."""
    own = {"tokens.py", "_progress.py"}  # where it is made, and bars
    made = [p.name for p in SOURCES if re.search(r"\{[^{}]*:[^{}]*\d%\}", p.read_text("utf-8"))]
    assert set(made) <= own
    prose = r"(?<![\w%{/])\d+%(?![\w(])"
    typed = [p.name for p in PAGES if re.search(prose, p.read_text("utf-8"))]
    assert typed == []
