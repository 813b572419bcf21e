"""Labels that are typed at a shell, where the column holds numbers or booleans."""

import numpy as np
import pandas as pd
import pytest
import torch
from stats_help import tidy
from typer.testing import CliRunner

import interp
from interp.cli.app import app
from interp.errors import BadInput
from interp.experiments.groups import by_group
from interp.stats.compare import compare
from interp.stats.table import label_typed

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("labels")
    rows = [{"text": f"Mary met John{'.' * n} She saw her", "grade": n % 2} for n in range(1, 5)]
    pd.DataFrame(rows).to_csv(place / "graded.csv", index=False)
    argv = ["run", "-p", str(place / "graded.csv"), "-a", "rotation", "-q"]
    got = runner.invoke(app, [*argv, "-o", str(place / "out")])
    assert got.exit_code == 0, got.output
    return place / "out"


@pytest.mark.parametrize("label", ["prompt", "grade"])
def test_a_typed_number_is_a_label_of_a_column_of_numbers(folder, label):
    argv = ["compare", str(folder), "--by", label, "--a", "0", "--b", "1"]
    got = runner.invoke(app, [*argv, "--resamples", "20"])
    assert got.exit_code == 0, got.exception
    assert f"angle: {label} 0 against 1" in got.output


def test_groups_that_are_numbers_can_be_chosen(folder):
    argv = ["groups", str(folder), "--by", "grade", "--only", "0,1", "--resamples", "20"]
    got = runner.invoke(app, argv)
    assert got.exit_code == 0, got.exception


@pytest.mark.parametrize(
    ("typed", "labels", "meant"),
    [
        ("1", [0, 1], 1),
        ("1.0", [0, 1], 1),
        ("0.5", [0.25, 0.5], 0.5),
        ("true", [True, False], True),
        ("1", [True, False], "1"),
        ("1", [1, "1"], "1"),
        ("9007199254740993", [9007199254740992, 9007199254740993], 9007199254740993),
        ("verb", [0, 1], "verb"),
        (1, ["1"], 1),
    ],
)
def test_a_word_is_read_as_the_labels_are(typed, labels, meant):
    found = label_typed(typed, labels)
    assert (found, type(found)) == (meant, type(meant))


def test_what_is_typed_compares_as_what_is_given_in_python():
    frame = tidy().assign(half=lambda t: (t["prompt"] % 2).astype(np.int64))
    typed = compare(frame, "angle", "half", "0", "1", resamples=20)
    pd.testing.assert_frame_equal(
        typed.frame, compare(frame, "angle", "half", 0, 1, resamples=20).frame
    )
    tables = {"rotation": _Table(frame)}
    found = by_group(tables, "angle", by="half", groups=["0", "1"], level="token", resamples=20)
    assert set(found.groups) == {0, 1}
    with pytest.raises(BadInput, match=r"half has no rows '2'; it holds "):
        compare(frame, "angle", "half", "2", "1")


class _Table:
    def __init__(self, frame):
        self.frame = frame


def test_positions_by_a_label_of_numbers(gpt2):
    rows = [{"text": "a b", "grade": 1}, {"text": "a b c", "grade": 2}]
    prompts = interp.read_prompts(rows, gpt2.tokenizer)
    typed = interp.experiments.label_mask(prompts, grade="2")
    assert torch.equal(typed, interp.experiments.label_mask(prompts, grade=2))
    with pytest.raises(BadInput, match=r"has grade='3'; grade has 2, 1"):
        interp.experiments.label_mask(prompts, grade="3")
