"""One word for one thing on the command line, exit codes, and what a shell user reads."""

import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from typer.main import get_command
from typer.testing import CliRunner

import interp
from interp.cli import app
from interp.cli.app import RENAMED, in_options, main
from interp.cli.run import PANEL, STREAMED
from interp.contract import registry
from interp.errors import UnknownName
from interp.experiments.word_questions import picture
from interp.experiments.words import WordVectors
from interp.models.load import DTYPES
from interp.render.finding import ROWS, Answer
from interp.render.text_map import word_map
from interp.runs.checks import checks


def _commands(command, path=()):
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from _commands(inner, (*path, name))
    else:
        yield path, command


COMMANDS = dict(_commands(get_command(app)))


def _options(command):
    return {flag for p in command.params if p.param_type_name == "option" for flag in p.opts}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_the_common_options(path):
    options = _options(COMMANDS[path])
    assert {"--json", "--quiet", "-q"} <= options
    if "--model" in options and path != ("demo",):
        assert {"--device", "--dtype"} <= options


def test_old_names_of_options_are_free_and_new_ones_exist():
    for path, command in COMMANDS.items():
        for old, new in RENAMED.get(path[-1], {}).items():
            assert old not in _options(command), path
            assert new in _options(command), path


def test_a_short_option_means_one_thing():
    meanings = {}
    for path, command in COMMANDS.items():
        for p in command.params:
            for flag in getattr(p, "opts", ()):
                if flag.startswith("-") and not flag.startswith("--"):
                    meanings.setdefault(flag, {}).setdefault(max(p.opts, key=len), []).append(path)
    assert {flag: list(found) for flag, found in meanings.items()} == {
        "-p": ["--prompts"],
        "-m": ["--model"],
        "-a": ["--analyses"],
        "-o": ["--out"],
        "-q": ["--quiet"],
        "-k": ["-k"],
    }


def _typed(monkeypatch, capsys, *words):
    """Exit code and error of a typed command line."""
    monkeypatch.setattr(sys, "argv", ["interp", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0, " ".join(capsys.readouterr().err.split())


def test_an_option_by_its_old_name_says_the_new_one(monkeypatch, capsys):
    for words, told in (
        (("compare", "out", "--between", "role"), "interp compare: --between is now --by"),
        (("steer", "--targets= her"), "interp steer: --targets is now --token"),
        (("steps", "out", "--values", "entropy"), "interp steps: --values is now --value"),
        (("words", "near", "her", "--by", "dot"), "interp near: --by is now --similarity"),
        (("positions", "split", "a b", "--of", "scores"), "interp split: --of is now --sum"),
    ):
        assert _typed(monkeypatch, capsys, *words) == (2, f"error: {told}")


def test_exit_codes(monkeypatch, capsys, tmp_path):
    code, said = _typed(monkeypatch, capsys, "check", "rotatoin")
    assert (code, "did you mean 'rotation'?" in said) == (2, True)
    code, said = _typed(monkeypatch, capsys, "run", "--prompts", "hers")
    assert (code, "did you mean 'her'?" in said, "[" in said) == (2, True, False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    code, said = _typed(monkeypatch, capsys, "run", "--prompts", "her", "--out", tmp_path / "out")
    assert code == 2
    assert "overwrite=True" not in said
    assert "--overwrite" in said


def test_a_broken_law_is_exit_code_3(monkeypatch, capsys):
    def broken(_):
        raise interp.errors.ContractError("law 'deterministic' is broken", {"deterministic": "x"})

    monkeypatch.setattr(checks, "check_analysis", broken)
    assert _typed(monkeypatch, capsys, "check", "norm")[0] == 3
    monkeypatch.setattr(checks, "check_analysis", lambda analysis: "kept")
    result = CliRunner().invoke(app, ["check", "norm", "--json"])
    assert json.loads(result.output) == {"norm": {"passed": True, "said": "kept"}}


def test_a_class_that_cannot_be_imported_breaks_no_law(monkeypatch, capsys):
    entries = {
        name: [EntryPoint(name, value, registry.GROUP)]
        for name, value in (("norm", "analyses.norm:Norm"), ("gone", "no_such_package.gone:Gone"))
    }
    monkeypatch.setattr(registry, "registered", lambda: entries)
    assert _typed(monkeypatch, capsys, "check", "gone")[0] == 1
    result = CliRunner().invoke(app, ["check", "--all", "--json"])
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert (found["norm"]["passed"], found["gone"]["passed"]) == (True, False)
    assert "cannot be imported: ModuleNotFoundError" in found["gone"]["said"]
    assert _typed(monkeypatch, capsys, "run", "--prompts", "her", "--analyses", "gone")[0] == 1

    def broken(name):
        raise interp.errors.ContractError(name, {"deterministic": "x"})

    monkeypatch.setattr(
        checks, "check_analysis", lambda n: broken(n) if n == "norm" else registry.get(n)
    )
    assert CliRunner().invoke(app, ["check", "--all"]).exit_code == 3


def test_messages_lose_only_what_helps_in_python():
    assert in_options("x = True, --y is kept") == "x = True, --y is kept"
    assert in_options("no prompt 9; keep it by --keep tokens") == (
        "no prompt 9; keep it by --keep tokens"
    )


@pytest.mark.parametrize("words", [("--version",), ("--help",)])
def test_the_package_runs_as_a_module(words):
    done = subprocess.run(
        [sys.executable, "-m", "interp", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "interp" in done.stdout


def test_a_report_is_written_to_a_file_or_into_a_folder(tmp_path):
    interp.run("demo", ["the man"], "norm", progress=False).save(tmp_path / "out")
    run = CliRunner().invoke
    for asked, written in (
        ((), tmp_path / "out" / "report.html"),
        (("--out", str(tmp_path / "a.html")), tmp_path / "a.html"),
        (("--out", str(tmp_path / "folder")), tmp_path / "folder" / "report.html"),
    ):
        done = run(app, ["report", str(tmp_path / "out"), *asked, "--json"])
        assert json.loads(done.output) == {"written": [str(written)]}, done.output
        assert written.is_file()


# ---- what is read first ------------------------------------------------------------------------


def test_a_table_that_is_cut_says_so():
    frame = pd.DataFrame({"layer": range(30), "angle": 1.0, "low": 0.0})
    whole = Answer("few", frame.head(ROWS), "said")
    assert "shown:" not in whole.text()
    cut = Answer("many", frame, "said", first=frame[["layer", "angle"]].head(8))
    assert "shown: 8 of 30 rows, 2 of 3 columns" in cut.text()
    assert f"shown: {ROWS} of 30 rows (" in Answer("many", frame, "said").text()


def _space(words):
    return WordVectors(np.random.default_rng(0).normal(size=(len(words), 5)), tuple(words))


def test_word_commands_show_words_first_and_a_map():
    words = ["!", "#", "$", *(f" {a}{b}ing" for a in "bcdfghjk" for b in "aeiou"), "ough"]
    found = picture(_space(words))
    assert set(found.frame["word"]) == set(words), "nothing is lost from the table"
    assert all(word.startswith(" ") for word in found.short["word"])
    drawn = found.text().split("┌")[1]
    assert not set("!#$") & set(drawn)
    assert sum(word.strip() in drawn for word in words) > 20


def test_words_stand_at_their_places():
    table = pd.DataFrame({"word": ["left", "right", "top"], "x": [0, 9, 4], "y": [0, 0, 5.0]})
    lines = word_map(table.assign(group=""), width=30, height=5).splitlines()
    assert lines[1].strip("│").strip() == "top"
    assert lines[5] == "│left" + " " * 21 + "right│"
    assert lines[1].index("top") - 1 == pytest.approx(4 / 9 * 29 - 1, abs=1)


def test_words_without_room_are_left_out_and_nothing_overlaps():
    table = pd.DataFrame({"word": ["first", "second"], "x": [1.0, 1.0], "y": [1.0, 1.0]})
    drawn = word_map(table.assign(group=["", "cluster 0"]), width=20, height=3)
    assert "second" in drawn, "words in a group go first"
    assert "first" not in drawn


def test_an_unknown_name_is_one_kind_of_error():
    with pytest.raises(UnknownName, match="did you mean 'pca'"):
        picture(_space(["a", "b"]), method="pcaa")


# ---- generation --------------------------------------------------------------------------------


def test_a_model_continues_prompts_from_the_command_line(tmp_path):
    (tmp_path / "p.txt").write_text("Mary met John. She\nThe river\n")
    asked = ["run", "-m", "demo-llama", "-p", str(tmp_path / "p.txt"), "-a", "norm", "-q",
             "--generate", "3", "--sample", "--samples", "2", "--seed", "4"]  # fmt: skip
    done = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0
    frame = interp.load(tmp_path / "out")["norm"].frame
    assert frame.groupby("prompt")["generation_step"].max().tolist() == [3, 3, 3, 3]
    assert frame.groupby("given")["sample"].nunique().tolist() == [2, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-p", "her", "--sample", "--top-k", "5"), "--sample, --top-k: only with --generate"),
        (("--generate", "3"), "--generate continues prompts: name some by --prompts"),
        (("-p", "her", "--generate", "0"), "--generate is 0; allowed is 1 or more"),
        (("-p", "her", "--generate", "3", "--truncate"), "--truncate cuts what the model should"),
        (
            ("--corpus", "x.txt", "--generate", "3", "--long", "cut", "--overlap", "2"),
            "--long 'cut', --overlap 2 with --generate 3: the model continues whole documents",
        ),
        (("--corpus", "x.txt", "--generate", "3", "--truncate"), "--truncate cuts what the model"),
    ],
)
def test_options_of_a_generation_that_do_not_go(monkeypatch, capsys, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    code, said = _typed(monkeypatch, capsys, "run", *words, "-a", "norm")
    assert (code, message in said) == (2, True), said


# ---- options that need another one -------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--split", "train"), "--split: only with --corpus"),
        (("--text-column", "txt"), "--text-column 'txt' names a column of a file, and"),
        (("--long", "cut"), "--long: only with --corpus"),
        (("--shard-documents", "9"), "--shard-documents: only with --corpus"),
        (("--gpus", "2", "--threads", "3"), "--gpus, --threads: only with --corpus"),
        (("--workers", "2", "--resume"), "--workers, --resume: only with --corpus"),
        (("--tags", "dep"), "--tags dep: only with --spacy"),
        (("--tags", "pos"), "--tags pos: only with --spacy"),
        (("--bos", "--no-bos"), "--bos and --no-bos exclude each other: pass one of them"),
        (("--revision", "abc"), "--revision 'abc' is for models on the hub; 'demo' is a model of"),
    ],
)
def test_no_option_of_a_run_is_ignored(monkeypatch, capsys, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    code, said = _typed(monkeypatch, capsys, "run", "-p", "her", "-a", "norm", "-q", *words)
    assert (code, message in said) == (2, True), said


def test_the_help_lists_every_type_of_weights():
    told = next(p for p in COMMANDS["run",].params if "--dtype" in p.opts).help
    assert set(re.findall(r"\w*float\d+", told)) == set(DTYPES)


def test_every_option_of_the_corpus_panel_has_a_default_to_compare_with():
    panel = {
        max(p.opts, key=len)
        for p in COMMANDS["run",].params
        if getattr(p, "rich_help_panel", None) == PANEL
    }
    assert panel == {"--corpus", *(f"--{name.replace('_', '-')}" for name in STREAMED)}


@pytest.mark.parametrize(
    "words",
    [("--analyses", "rotation"), ("--dtype", "float16"), ("--device", "cpu"), ("--no-bos",)],
)
def test_options_of_a_model_are_refused_for_saved_results(monkeypatch, capsys, tmp_path, words):
    (tmp_path / "results.json").write_text("{}")
    code, said = _typed(monkeypatch, capsys, "explore", tmp_path, *words)
    told = words[0].replace("--no-", "--")
    assert (code, f"{told}: only with a model" in said) == (2, True), said
