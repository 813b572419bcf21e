"""Shell messages in the words of a shell, and what a run says of its prompts."""

import json
import sys

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from interp.cli.app import app, deliver, in_options, main, options_of
from interp.cli.run import ANALYSES
from interp.errors import BadInput
from interp.experiments.layers import LayerComparison
from interp.prompts.pairs import read_pairs
from interp.render.finding import Answer
from interp.runs.load import load


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("pass targets= and against=, each", "pass --token and --against, each"),
        (
            "samples is 3, and without do_sample=True all",
            "--samples is 3, and without --sample all",
        ),
        ("max_new_tokens is 0; allowed", "--generate is 0; allowed"),
        ("layers= names 99; these", "--layers names 99; these"),
        ("read='foo'; allowed: all", "--read 'foo'; allowed: all"),
        ("top_k is 0; allowed", "--top-k is 0; allowed"),
        (
            "reads prompts: pass some as the second argument (",
            "reads prompts: name some by --prompts (",
        ),
        ("use keep='summary'", "use --keep 'summary'"),
        ("labels={'a_label': 'a'}, or --labels a_label=a", "--labels a_label=a"),
        ("--labels file=path", "--labels file=path"),
        (
            "temperature, top_k, top_p: only with do_sample=True",
            "--temperature, --top-k, --top-p: only with --sample",
        ),
        (
            "unknown parameter of logit_lens: 'exmples' (known: top_k, top_p, examples)",
            "unknown parameter of logit_lens: 'exmples' (known: top_k, top_p, examples)",
        ),
        (
            "no such file: 'p.txt' (to use it as a prompt, put it in a list: ['p.txt'])",
            "no such file: 'p.txt' (prompts of your own go into a file, such as prompts.txt with "
            "one in each line)",
        ),
        ("give their places, at= (--at), when you", "give their places, --at, when you"),
        ("run again with keep='tokens' (--keep tokens)", "run again with --keep tokens"),
        ("or leave out ray= and use workers= for", "or leave out --ray and use --workers for"),
        (
            "gpus= is for Ray actors (ray='local'); otherwise model_options has device",
            "--gpus is for Ray actors (--ray 'local'); otherwise --device names one",
        ),
    ],
)
def test_python_arguments_become_options(python, shell):
    assert in_options(python) == shell


@pytest.mark.parametrize(
    ("command", "python", "shell"),
    [
        ("run", "max_tokens=0; the budget of a batch", "--max-tokens 0; the budget of a batch"),
        ("run", "by=['genre'] makes groups of a", "--by genre makes groups of a"),
        ("run", "labels={'genr': 'genr'} renames 'genr', which", "--labels genr: 'genr', which"),
        ("run", "labels={'a': 'b'} renames 'b', which", "--labels a=b renames 'b', which"),
        ("run", "of 114: max_new_tokens may be at most 14", "of 114: --generate may be at most 14"),
        ("run", "no results; run it again with resume", "no results; run it again with --resume"),
        ("run", "rename it: --labels by=long", "rename it: --labels by=long"),
        ("groups", "unless named by groups= (units: 3)", "unless named by --only (units: 3)"),
        ("groups", "bins=1; groups to compare", "--bins 1; groups to compare"),
        ("series", "at= has 2 places and the series 3", "--at has 2 places and the series 3"),
        ("compare", "pass them, as in a=0, b='x y'", "pass them, as in --a 0, --b 'x y'"),
        ("compare", "paired=True needs the prompts", "--paired needs the prompts"),
        ("compare", "adjust=['zipf'] needs the values", "--adjust zipf needs the values"),
        ("leave-out", "norm without_dims=(0, 999): the", "norm --dims 0,999: the"),
        ("words near", "k=0 components", "-k 0 components"),
        ("fit tuned-lens", "steps=0, rate=0.1: allowed", "--steps 0, --rate 0.1: allowed"),
        ("nearest", "minus= subtracts", "--minus subtracts"),
    ],
)
def test_arguments_become_the_options_of_the_command(command, python, shell):
    assert in_options(python, options_of(command.split())) == shell


def test_a_message_of_a_real_run_has_its_options(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"text": ["a b"], "genre": ["x"]}).to_csv("c.csv", index=False)
    for words, told in (
        (("--labels", "genr"), "--labels genr: 'genr', which is no column of c.csv; did you mean"),
        (("--max-tokens", "0"), "--max-tokens 0; the budget"),
        (("--by", "genre"), "--by genre makes groups of a summary"),
    ):
        monkeypatch.setattr("sys.argv", ["interp", "run", "-p", "c.csv", "-a", "norm", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err
        assert (ended.value.code, told in said) == (2, True), said


def test_a_note_of_a_finding_is_in_options(monkeypatch, capsys):
    frame = pd.DataFrame({"token": ["keep='x'"]})
    deliver(
        Answer("it", frame, "It is.", notes=("run again with keep='tokens' (--keep tokens)",)),
        None, overwrite=False, as_json=False,
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "note: run again with --keep tokens" in said
    assert "keep='x'" in said


def test_against_needs_token():
    got = CliRunner().invoke(
        app, ["run", "-p", "her", "-a", "logit_difference", "--against", " his"]
    )
    assert isinstance(got.exception, BadInput)
    assert "--token has to name the first answer" in str(got.exception)


@pytest.fixture(scope="module")
def run_of_her(tmp_path_factory):
    folder = tmp_path_factory.mktemp("her") / "out"
    argv = ["run", "-p", "her", "-a", "norm", "--generate", "3", "--token", " her", "-q"]
    got = CliRunner().invoke(app, [*argv, "-o", str(folder)])
    assert got.exit_code == 0, got.output
    return got.output, load(folder)


def test_written_texts_are_printed(run_of_her):
    output, results = run_of_her
    said = " ".join(output.split())
    assert "text 0: " in said
    assert repr(results.texts["text"].iloc[0]) in said


def test_a_note_has_the_text_of_the_token(run_of_her):
    notes = run_of_her[1].provenance["prompts"]["notes"]
    assert any("the target is token ' her' (" in note for note in notes)


def test_a_folder_of_another_finding_is_named(tmp_path):
    (tmp_path / "experiment.json").write_text(json.dumps({"experiment": "depth"}))
    with pytest.raises(BadInput, match="it holds the finding 'depth': open its report.html"):
        load(tmp_path)
    (tmp_path / "experiment.json").write_text(json.dumps({"experiment": "pairs"}))
    (tmp_path / "clean").mkdir()
    with pytest.raises(BadInput, match=r"interp\.experiments.Pairs.load reads, and \S+clean"):
        load(tmp_path)


def test_the_report_counts_texts_and_the_prompts_that_were_continued(tmp_path):
    argv = ["run", "-p", str(tmp_path / "two.txt"), "-a", "norm", "--generate", "2", "--sample"]
    (tmp_path / "two.txt").write_text("Mary met John. She\nThe river\n")
    got = CliRunner().invoke(app, [*argv, "--samples", "3", "-q", "-o", str(tmp_path / "out")])
    assert got.exit_code == 0, got.output
    assert "and 3 more texts" in got.output
    assert "6 texts of 2 prompts, " in (tmp_path / "out" / "report.html").read_text()


def test_a_finding_keeps_to_the_width_that_the_user_names(monkeypatch, capsys):
    frame = pd.DataFrame({f"a_long_name_{i}": [0.123456] for i in range(12)})
    for width, fits in (("80", True), ("", False)):
        monkeypatch.setenv("COLUMNS", width)
        monkeypatch.setattr(sys.modules["interp.cli.app"], "out", Console())
        deliver(Answer("it", frame, "It is."), None, overwrite=False, as_json=False)
        assert (max(map(len, capsys.readouterr().out.splitlines())) <= 80) == fits


def test_the_default_analyses_stand_whole_in_a_narrow_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    said = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "80"}).output
    assert all(name in said for name in ANALYSES)


@pytest.mark.parametrize(
    "words",
    [
        ("run", "-p", "her", "-m", "no/such/folder/here"),
        ("run", "-p", "her", "--layers", "x"),
        ("report", "no-such-folder"),
    ],
)
def test_wrong_usage_ends_with_2(monkeypatch, words, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["interp", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


def test_answers_that_take_the_place_of_those_of_a_file_are_known():
    raw = read_pairs([{"clean": "a b", "corrupted": "c b", "answer": " x"}])
    assert read_pairs(raw, answer=" x").replaced == ()
    assert read_pairs(raw, answer=" y").replaced == ("answer",)


def test_a_matrix_of_layers_is_not_said_to_lack_rows():
    pairs = [(a, b) for a in range(9) for b in range(9)]
    frame = pd.DataFrame(pairs, columns=["layer_a", "layer_b"]).assign(value=0.5)
    matrix = frame.pivot_table(index="layer_a", columns="layer_b", values="value").reset_index()

    class Half:
        short = matrix

    assert LayerComparison._more(Half(), 9, 10).startswith("shown: every similarity, as a matrix")
