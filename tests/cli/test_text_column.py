"""The column with the text, for every command that reads prompts from a file."""

import json
import sys

import pandas as pd
import pytest
from test_options import COMMANDS, _options
from typer.testing import CliRunner

from interp.cli.app import app, main
from interp.runs.load import load

TEXTS = ["Mary met John. She saw her mother.", "John met Mary. He saw his father."]


@pytest.fixture
def file(tmp_path):
    rows = [{"sentence": text, "genre": f"g{i}"} for i, text in enumerate(TEXTS)]
    pd.DataFrame(rows).to_csv(tmp_path / "c.csv", index=False)
    return tmp_path / "c.csv"


def typed(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["interp", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "series"])
def test_prompts_and_a_corpus_take_the_column(file, tmp_path, command):
    words = [command, "-a", "norm", "-q", "--text-column", "sentence", "-o", str(tmp_path / "out")]
    words += ["demo", "demo-llama"] if command == "series" else []
    got = CliRunner().invoke(app, [*words, "-p", str(file)])
    assert got.exit_code == 0, got.exception
    norms = load(tmp_path / "out")["norm"].frame
    assert set(norms["genre"]) == {"g0", "g1"}
    corpus = ["--corpus", str(file), "--overwrite", "--keep", "tokens"]
    got = CliRunner().invoke(app, [*words, *corpus])
    assert got.exit_code == 0, got.exception


def test_the_message_names_the_option_that_helps(monkeypatch, capsys, file):
    monkeypatch.chdir(file.parent)
    for source in ("-p", "--corpus"):
        code, said = typed(monkeypatch, capsys, "run", source, file, "-a", "norm", "-q")
        assert (code, "(columns: sentence, genre; choose one with --text-column)" in said) == (
            *(2, True),
        ), said


@pytest.mark.parametrize("path", [p for p, c in COMMANDS.items() if "--prompts" in _options(c)])
def test_every_command_with_prompts_has_the_option(path):
    assert "--text-column" in _options(COMMANDS[path]), path


def test_an_experiment_reads_the_column(file, tmp_path):
    words = ["cause", "-p", str(file), "--text-column", "sentence", "--positions", "last", "-q"]
    got = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "out")])
    assert got.exit_code == 0, got.exception
    asked = json.loads((tmp_path / "out" / "experiment.json").read_text())["about"]["asked"]
    assert asked["text_column"] == "sentence"


@pytest.mark.parametrize("source", ["her", "lines.txt", "lines.txt.gz"])
def test_a_column_of_what_has_none_is_refused(monkeypatch, capsys, tmp_path, source):
    monkeypatch.chdir(tmp_path)
    words = ("run", "-p", source, "-a", "norm", "--text-column", "sentence")
    code, said = typed(monkeypatch, capsys, *words)
    assert code == 2
    assert f"--text-column 'sentence' names a column of a file, and '{source}' has no" in said
