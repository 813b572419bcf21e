"""Members of a series from names, folders and globs, and every way in which they are wrong."""

from __future__ import annotations

import pytest

from interp import BadInput
from interp.runs.series.members import members_of, natural, step_of


def folder(path, *, model=True):
    """A folder that looks like a model's; nothing in it is loaded here."""
    path.mkdir(parents=True)
    if model:
        (path / "config.json").write_text("{}")
    return path


@pytest.fixture
def pilot(tmp_path):
    """A run with three checkpoints, and what lies next to checkpoints."""
    for step in (9, 100, 20):
        folder(tmp_path / "pilot" / f"checkpoint-{step}")
    folder(tmp_path / "pilot" / "logs", model=False)
    return tmp_path / "pilot"


def names(found):
    return [member.name for member in found.members]


def test_a_folder_of_checkpoints_is_all_of_them_by_step(pilot):
    found = members_of(pilot)
    assert names(found) == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]
    assert [m.at for m in found.members] == [9, 20, 100]
    assert (found.axis, found.ordered) == ("training step", True)
    assert {m.run for m in found.members} == {""}


def test_a_glob_gives_the_models_in_natural_order(pilot, monkeypatch):
    found = members_of(str(pilot / "checkpoint-*"))
    assert [m.step for m in found.members] == [9, 20, 100]
    monkeypatch.chdir(pilot.parent)
    assert names(members_of("pilot/*")) == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]
    assert "1 paths that 'pilot/*' matches are no models" in members_of("pilot/*").notes


def test_a_step_of_a_folder_is_its_child(pilot):
    found = members_of([f"{pilot}@100", f"{pilot}@9"])
    assert [m.model for m in found.members] == [
        str(pilot / "checkpoint-9"), str(pilot / "checkpoint-100"),
    ]  # fmt: skip
    assert "members are sorted by training step" in found.notes


def test_revisions_of_the_hub_are_steps():
    found = members_of(["EleutherAI/pythia-70m@step1000", "EleutherAI/pythia-70m@step64"])
    assert [m.options for m in found.members] == [{"revision": "step64"}, {"revision": "step1000"}]
    assert names(found)[0] == "EleutherAI/pythia-70m@step64"
    assert [m.at for m in found.members] == [64, 1000]


def test_several_runs_may_have_the_same_steps(pilot):
    for step in (9, 20):
        folder(pilot.parent / "second" / f"checkpoint-{step}")
    found = members_of([pilot, pilot.parent / "second"])
    assert [(m.run, m.at) for m in found.members] == [
        ("pilot", 9), ("pilot", 20), ("pilot", 100), ("second", 9), ("second", 20),
    ]  # fmt: skip
    assert names(found)[-1] == "second/checkpoint-20"


def test_names_without_steps_stand_in_their_order():
    found = members_of(["gpt2-xl", "gpt2"])
    assert names(found) == ["gpt2-xl", "gpt2"]
    assert (found.axis, found.ordered) == ("number in the series", False)
    assert "the names give no training step" in found.notes[0]
    assert members_of(["gpt2-xl", "gpt2"], at=[1558, 124]).members[0].name == "gpt2"
    assert members_of(["gpt2", "gpt2-xl"], at={"gpt2-xl": 2, "gpt2": 1}).ordered


def test_names_and_options_can_be_given():
    found = members_of({"a": "demo", "b": "demo", "half": {"model": "gpt2", "dtype": "float16"}})
    assert names(found) == ["a", "b", "half"]
    assert found.members[2].options == {"dtype": "float16"}


def test_a_model_with_checkpoints_in_it_is_one_model_and_that_is_said(pilot):
    (pilot / "config.json").write_text("{}")
    found = members_of([pilot, "demo"])
    assert names(found) == ["pilot", "demo"]
    assert f"{str(pilot)!r} is taken as one model; 3 checkpoints lie in it" in found.notes[0]
    assert f"{pilot}/checkpoint-* takes those" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "step"),
    [("checkpoint-500", 500), ("a/b/step_12/", 12), ("stage1-step5000-tokens11B", 5000),
     ("gpt2-xl", None), ("seed-3", None), ("main", None)],
)  # fmt: skip
def test_steps_in_names(name, step):
    assert step_of(name) == step


def test_natural_order():
    assert sorted(["b2", "b10", "a30", "b1"], key=natural) == ["a30", "b1", "b2", "b10"]


# ---- refusals --------------------------------------------------------------------------------


def test_a_missing_checkpoint_is_named_with_the_nearest(pilot):
    with pytest.raises(
        BadInput,
        match=r"there is no checkpoint '90' in .*pilot'; the nearest is 100 \(there are 9, 20, 100",
    ):
        members_of([f"{pilot}@90", f"{pilot}@9"])
    with pytest.raises(BadInput, match="has no folder such as checkpoint-500 or step-500 with a"):
        members_of([f"{pilot / 'logs'}@5", "demo"])
    with pytest.raises(BadInput, match="'demo@5' asks for a revision of 'demo', a model of this"):
        members_of(["demo@5", "gpt2"])


def test_an_empty_glob_names_the_nearest_folders(pilot, monkeypatch):
    monkeypatch.chdir(pilot.parent)
    with pytest.raises(BadInput, match=r"'pilto/checkpoint-\*' matches nothing; nearest: 'pilot'"):
        members_of("pilto/checkpoint-*")
    with pytest.raises(
        BadInput, match=r"matches nothing; in 'pilot' are the folders checkpoint-9,"
    ):
        members_of("pilot/zzz-*")
    with pytest.raises(
        BadInput, match=r"matches 1 paths and no model among them \(logs\); a model"
    ):
        members_of("pilot/log*")


def test_a_folder_that_is_not_there(pilot):
    with pytest.raises(BadInput, match=r"there is no model folder '.*pilod'; nearest: '.*pilot'"):
        members_of([str(pilot.with_name("pilod")), "demo"])


def test_one_member_is_no_series(pilot):
    with pytest.raises(
        BadInput, match=r"two members at least, and only 'demo' was given; a folder"
    ):
        members_of("demo")
    with pytest.raises(BadInput, match="and nothing was given"):
        members_of([])


def test_a_member_twice_needs_names(pilot):
    with pytest.raises(BadInput, match="'demo' is in the series twice; to compare a model with"):
        members_of(["demo", "demo"])
    with pytest.raises(BadInput, match=r"checkpoint-9' is in the series twice"):
        members_of([pilot, f"{pilot}@9"])


def test_two_members_at_one_place(pilot):
    with pytest.raises(BadInput, match="'a' and 'b' both stand at position 1; leave one"):
        members_of({"a": "demo", "b": "gpt2", "c": "gpt2-xl"}, at=[1, 1, 2])
    folder(pilot / "step-20")
    with pytest.raises(BadInput, match="'checkpoint-20' and 'step-20' both stand at training step"):
        members_of(pilot)


@pytest.mark.parametrize(
    ("at", "text"),
    [
        ([1, 2, 3], r"at= has 3 places and the series 2 members \(demo, gpt2\)"),
        ({"demo": 1, "gpt3": 2}, "at= names 'gpt3', which is no member; did you mean 'gpt2'"),
        ({"demo": 1}, "at= lacks a place for gpt2"),
        (["a", "b"], "at= holds could not convert.*; places are numbers"),
    ],
)
def test_places_that_do_not_fit(at, text):
    with pytest.raises(BadInput, match=text):
        members_of(["demo", "gpt2"], at=at)


def test_options_without_a_model():
    with pytest.raises(BadInput, match="member 'a' has the options dtype and no model"):
        members_of({"a": {"dtype": "float16"}, "b": "demo"})
