"""Every command line of README.md and of docs/*.md is run, page by page and in order.

A model that is not on this machine is another one here, and files that a reader has are made first.
A command is run, or it is listed in `NOT_RUN` with the reason; a new one that is neither fails.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from types import ModuleType

import pytest
from conftest import ROOT
from series_help import checkpoint, run_of
from spaces_help import TEXTS
from typer.main import get_command
from typer.testing import CliRunner

from interp.cli import app
from interp.demo import model_path

FULL = os.environ.get("INTERP_FULL") == "1"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
STAND_INS = {
    "gpt2-xl": "demo",
    "smollm2": "demo",
    "base=gpt2": "base=runs/base",
}
GOLD = {"texts.txt": "demo", "--spacy": None, "en_core_web_sm": None}
"""In frequency.md: prompts that bring their tags, in place of a tagger that has to be fetched."""
NOT_RUN = {
    r"make \w+$|python3 -m venv |.*python -m pip |.*python -m pytest": "sets up an environment",
    r"pip install |npm |cd ": "installs packages",
    r"ray start |interp run --ray ": "starts a cluster",
    r"python -m benchmarks": "measures for minutes",
    r"interp explore (demo|smollm2)": "serves until it is stopped",
    r"interp series EleutherAI": "asks the hub",
}
SLOW = (
    "interp demo",
    "interp steer",
    "interp cause",
    "interp predict",
    "interp spaces",
    "interp calibrate --all",
    "interp report out --phantoms",
    "interp run --corpus corpus/ --model demo-llama",
    'interp run --corpus "data/*.jsonl"',
)
"""Run in the long sweep; else only their options are read."""


def commands(page):
    """The command lines of a page, without comments; `…` stands for words of the one before."""
    out = []
    for block in SHELL.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.sub(r"\s#.*$", "", line).split("; "):
                if part.strip():
                    out.append(whole(part.strip().removeprefix(".venv/bin/"), out))
    return out


def whole(command, before):
    """A command with what its `…` leaves out: the words of the first one like it."""
    if "…" not in command:
        return command
    head, tail = (part.strip() for part in command.split("…"))
    first = next(c for c in before if c.startswith(head))
    return f"{first.partition(' --out')[0]} {tail}"


def reason(command):
    return next((why for form, why in NOT_RUN.items() if re.match(form, command)), None)


def words_of(command, page=""):
    here = STAND_INS | {"frequency.md": GOLD, "chat.md": {"smollm2": "./smollm2"}}.get(page, {})
    words = [here.get(word, word) for word in shlex.split(command)[1:]]
    return [word for word in words if word is not None]


def parsed(words):
    """Read the options of a command without running it; raises for one that there is not."""
    command, path = get_command(app), []
    while hasattr(command, "commands"):
        path.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    command.make_context(" ".join(path), list(words))


SHOWN = {page: found for page in PAGES if (found := commands(page))}


def a_readers_files(folder, page):
    """What a reader of these pages has: texts, chats, pairs, a corpus, a training run."""
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (folder / "questions.jsonl").write_text("\n".join(lines[:2]))
    for place in ("corpus", "data"):
        (folder / place).mkdir()
    (folder / "data" / "rows.jsonl").write_text("\n".join(lines))
    for number in range(3):
        (folder / "corpus" / f"{number}.txt").write_text("\n".join(TEXTS[number:]))
    (folder / "pairs.csv").write_text(
        "clean,answer,corrupted,wrong\n"
        + "".join(
            f'"{a} was sad. {b} was happy. Who was sad?"," {a}",'
            f'"{a} was happy. {b} was sad. Who was sad?"," {b}"\n'
            for a, b in (("Mary", "John"), ("John", "Mary"), ("Mary", "Tom"), ("Tom", "John"))
        )
    )
    sides = ["The dog saw Mary and John.", "The dog saw John and Mary."]
    minimal = [
        {"clean": a.replace("dog", noun), "corrupted": b.replace("dog", noun), "phenomenon": "swap"}
        for noun in ("dog", "man", "queen")
        for a, b in (sides, sides[::-1])
    ]
    (folder / "minimal.jsonl").write_text("\n".join(map(json.dumps, minimal)))
    if page.name == "chat.md":
        chats(folder)
    if page.name == "series.md":
        run_of(folder / "runs" / "pilot")
        checkpoint(folder / "runs" / "base")
        checkpoint(folder / "runs" / "tuned", seed=1)
    if page.name == "phantoms.md":
        run("interp run --model demo --prompts texts.txt --analyses rotation --out out")


def chats(folder):
    """Conversations, and a model whose tokenizer has a template for them."""
    turns = [
        {"role": "user", "content": "Who was sad?"},
        {"role": "assistant", "content": "Mary was sad."},
    ]
    (folder / "chats.jsonl").write_text("\n".join([json.dumps({"messages": turns})] * 3))
    shutil.copytree(model_path("demo"), folder / "smollm2")
    template = "{% for m in messages %}{{ ' ' + m['content'] + eos_token }}{% endfor %}"
    path = folder / "smollm2" / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"chat_template": template}
    path.write_text(json.dumps(settings), encoding="utf-8")


def run(command, page=""):
    done = CliRunner().invoke(app, words_of(command, page))
    assert done.exit_code == 0, f"{command}\n{done.output[-1500:]}"


def test_the_pages_that_show_commands_are_found():
    names = {page.name for page in SHOWN}
    assert {"README.md", "generation.md", "pairs.md", "series.md", "explorer.md"} <= names
    assert {"chat.md", "corpus.md", "frequency.md", "phantoms.md"} <= names
    assert sum(map(len, SHOWN.values())) > 40


def test_every_command_is_run_or_has_a_reason():
    unknown = [
        command
        for found in SHOWN.values()
        for command in found
        if not command.startswith("interp ") and reason(command) is None
    ]
    assert unknown == []


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.name)
def test_the_commands_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    if page.name == "frequency.md":
        pytest.importorskip("wordfreq")
    monkeypatch.chdir(tmp_path)
    a_readers_files(tmp_path, page)
    for command in SHOWN[page]:
        if reason(command) is not None:
            continue
        parsed(words_of(command, page.name))
        if FULL or not command.startswith(SLOW):
            run(command, page.name)


def test_the_python_of_the_readme_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[0].read_text("utf-8"), re.M | re.S)
    assert len(blocks) >= 5
    module = ModuleType("readme")  # pickled by its name, as a class of a user is
    monkeypatch.setitem(sys.modules, "readme", module)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), vars(module))  # noqa: S102 - the project's own page
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "depth" / "report.html").is_file()
