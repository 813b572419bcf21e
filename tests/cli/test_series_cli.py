"""`interp series` and the commands on it, as a user types them."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from series_help import TEXTS, run_of
from typer.testing import CliRunner

import interp
from interp.cli.app import app
from interp.errors import UnknownName


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of checkpoints, prompts, and the folder that `interp series` wrote of both."""
    place = tmp_path_factory.mktemp("series")
    run_of(place / "run")
    (place / "prompts.txt").write_text("\n".join(TEXTS))
    return place


@pytest.fixture(scope="module")
def measured(place):
    done = invoke(
        "series", place / "run", "-p", place / "prompts.txt", "-a", "rotation,path_length",
        "--out", place / "out", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return done


def test_a_series_is_measured_reported_and_resumed(place, measured):
    assert "training step" in measured.output
    assert "checkpoint-1000" in measured.output
    assert (place / "out" / "report.html").is_file()
    found = interp.load(place / "out")
    assert found.members["status"].eq("measured").all()
    asked = ["series", place / "run", "-p", place / "prompts.txt", "-a", "rotation,path_length",
             "--out", place / "out", "--quiet"]  # fmt: skip
    assert "exists; choose another" in str(invoke(*asked).exception)
    again = invoke(*asked, "--resume", "--json")
    document = json.loads(again.stdout)
    assert [row["at"] for row in document["members"]] == [1, 10, 100, 1000]


def test_the_explorer_shows_one_member(place, measured, tmp_path):
    refused = invoke("explore", place / "out", "--out", tmp_path / "page.html")
    assert refused.exit_code == 1
    assert "holds a series of models, and the explorer shows one" in str(refused.exception)
    member = next((place / "out" / "members").glob("*/results.json")).parent
    assert invoke("explore", member, "--out", tmp_path / "page.html").exit_code == 0


@pytest.mark.parametrize(
    "question",
    [
        ("compare", "--value", "angle", "--by", "position", "--a", "1", "--b", "2"),
        ("groups", "--value", "angle", "--by", "position"),
        ("growth",),
        ("predict",),
    ],
)
def test_the_tokens_of_several_models_are_not_mixed(place, measured, question):
    name, *options = question
    refused = invoke(name, place / "out", *options)
    assert refused.exit_code == 1
    assert "models of a series" in str(refused.exception)


def test_questions_to_a_series(place, measured):
    done = invoke("changes", place / "out", "--value", "angle", "--resamples", 100, "--json")
    assert done.exit_code == 0, done.output
    frame = pd.DataFrame(json.loads(done.stdout)["tables"]["changes"])
    found = interp.experiments.change_points(
        interp.load(place / "out"), value="angle", resamples=100
    )
    assert frame["at"].tolist() == pytest.approx(found.frame["at"].tolist(), nan_ok=True)
    done = invoke("members", place / "out", "--a", "checkpoint-1", "--b", "checkpoint-100")
    assert done.exit_code == 0, done.output
    assert "checkpoint-100 against checkpoint-1" in done.output
    report = invoke("report", place / "out", "--out", place / "again.html")
    assert report.exit_code == 0, report.output
    assert (place / "again.html").is_file()


def test_questions_to_models(place):
    first, last = (f"{place / 'run'}@{step}" for step in (1, 1000))
    done = invoke("states", place / "run" / "checkpoint-1", place / "run" / "checkpoint-1000",
                  "-p", place / "prompts.txt", "--weights")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "parts from" in done.output
    done = invoke("stability", first, last, "--resamples", 9, "-k", 3)
    assert done.exit_code == 0, done.output
    assert "after the best rotation" in done.output


def test_a_failed_member_gives_exit_code_4(place, tmp_path):
    run = run_of(tmp_path / "run", (1, 10))
    (run / "checkpoint-10" / "config.json").write_text("{}")
    done = invoke("series", run / "checkpoint-1", run / "checkpoint-10", "-p",
                  place / "prompts.txt", "-a", "rotation", "-q", "-o", tmp_path / "o")  # fmt: skip
    assert done.exit_code == 4, done.output
    assert "'checkpoint-10' was not measured" in " ".join(done.output.split())


def test_members_without_an_axis_are_listed_without_a_number(place, tmp_path):
    asked = ["-p", place / "prompts.txt", "-a", "norm", "-q", "-o", tmp_path / "out"]
    done = invoke("series", "demo", "demo-llama", *asked)
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.output.splitlines() if "measured" in line]
    assert [[w for w in row if w.isalnum() or "-" in w] for row in rows] == [
        ["demo", "measured"], ["demo-llama", "measured"],
    ]  # fmt: skip


def test_names_at_a_shell(place, tmp_path):
    model = place / "run" / "checkpoint-1"
    done = invoke("series", f"a={model}", f"b={model}", "--at", "1,2", "-p", place / "prompts.txt",
                  "-a", "rotation", "-o", tmp_path / "out", "-q", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert [r["member"] for r in json.loads(done.stdout)["members"]] == ["a", "b"]


def test_a_mistyped_name_is_refused_before_anything_is_measured(place, tmp_path):
    asked = ["-p", place / "prompts.txt", "-a", "norm", "-q", "-o", tmp_path / "out"]
    refused = invoke("series", "demo", "demo-lama", *asked)
    assert isinstance(refused.exception, UnknownName)
    assert "did you mean 'demo-llama'?" in str(refused.exception)
    assert not (tmp_path / "out").exists()
    done = invoke("series", "demo", "nobody/has-this", *asked)
    assert done.exit_code == 4, done.output
    assert "'nobody/has-this' was not measured" in " ".join(done.output.split())
