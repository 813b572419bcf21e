"""Commands on results that lack the analysis which a question is about."""

import pytest
from typer.testing import CliRunner

from interp.cli.app import app, in_options
from interp.cli.experiments import ON_RESULTS
from interp.contract.not_measured import measured_by, not_measured
from interp.errors import UnknownName
from interp.runs.load import load

MADE = {made.name: made for made in ON_RESULTS}
READING = [name for name, made in MADE.items() if made.needs]
MORE = {"groups": ["--by", "pos"], "rollout": ["--prompt", "0"]}
runner = CliRunner()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run with one analysis, and one with all that the commands need."""
    place = tmp_path_factory.mktemp("runs")
    every = ",".join(dict.fromkeys(a for name in READING for a in MADE[name].needs))
    for name, analyses in (("norm", "norm"), ("every", every)):
        argv = ["run", "-p", "her", "-a", analyses, "-q", "-o", str(place / name)]
        assert runner.invoke(app, argv).exit_code == 0
    return place


@pytest.mark.parametrize("name", READING)
def test_the_analysis_to_run_is_named_and_is_enough(folders, name):
    more = MORE.get(name, [])
    got = runner.invoke(app, [name, str(folders / "norm"), *more])
    said = in_options(str(got.exception))
    assert f"--analyses {MADE[name].needs[0]}" in said, said
    assert len(said) < 260, said
    shown = runner.invoke(app, [name, "--help"], env={"COLUMNS": "300"}).output
    assert f"Reads a run with --analyses {','.join(MADE[name].needs)}" in shown
    got = runner.invoke(app, [name, str(folders / "every"), *more])
    assert got.exit_code == 0, got.exception


def test_compare_names_it_too(folders):
    for value, analysis in (("angle", "rotation"), ("curvature", "token_curvature")):
        words = ["--by", "pos", "--a", "PRON", "--b", "VERB", "--value", value]
        got = runner.invoke(app, ["compare", str(folders / "norm"), *words])
        assert f"(--analyses {analysis})" in str(got.exception)


def test_a_table_that_is_not_there_is_one_of_an_analysis_or_unknown(folders):
    results = load(folders / "norm")
    with pytest.raises(UnknownName, match=r"analyses='attention' \(--analyses attention\)"):
        results["attention"]
    with pytest.raises(UnknownName, match=r"unknown result 'nrom'; did you mean 'norm'"):
        results["nrom"]


def test_the_analyses_of_a_column():
    assert measured_by("curvature") == ["token_curvature"]
    assert "rotation" in measured_by("angle")
    assert measured_by("no_such_column") == []
    assert str(not_measured("value column", "nrom", ["norm"])).startswith(
        "unknown value column 'nrom'; did you mean 'norm'? (known: norm)"
    )
