"""Shell messages in the words of a shell, and what a run says of its prompts."""

import json

import pytest
from typer.testing import CliRunner

from interp.cli.app import app, in_options
from interp.errors import BadInput
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
    ],
)
def test_python_arguments_become_options(python, shell):
    assert in_options(python) == shell


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
