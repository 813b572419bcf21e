"""Analyses by the names that packages take, and by the place of a class that none registers."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
from conftest import ROOT

import analyses.norm
import analyses.rotation
import interp
from interp.contract import registry
from interp.errors import BadInput, BrokenPlugin, UnknownName

MINE = '''
import interp


class NearHalf(interp.Analysis):
    """Norm of a state, halved."""

    sites = ("resid_post",)
    columns = {"half": "half the norm"}

    def observe(self, batch):
        return {"half": interp.PerToken(interp.geometry.norm(batch["resid_post"]) / 2)}
'''


def _entry(package: str, name: str, value: str) -> EntryPoint:
    entry = EntryPoint(name, value, registry.GROUP)
    vars(entry)["dist"] = SimpleNamespace(name=package)
    return entry


def _installed(monkeypatch, *entries: tuple[str, str, str]) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [_entry(*e) for e in entries])


def test_a_built_in_analysis_keeps_a_name_that_another_package_takes(monkeypatch):
    _installed(
        monkeypatch,
        ("a-stranger", "rotation", "analyses.norm:Norm"),
        (registry.DISTRIBUTION, "rotation", "analyses.rotation:Rotation"),
    )
    assert registry.get("rotation") is analyses.rotation.Rotation
    assert registry.get("a-stranger:rotation") is analyses.norm.Norm
    assert registry.get(f"{registry.DISTRIBUTION}:rotation") is analyses.rotation.Rotation
    assert registry.names() == ["a-stranger:rotation", "rotation"]
    packages = {row["name"]: row["package"] for row in registry.describe()}
    assert packages == {"rotation": registry.DISTRIBUTION, "a-stranger:rotation": "a-stranger"}
    (name,) = registry.resolve("a-stranger:rotation")
    assert name == "norm"  # of its table and files
    assert list(registry.with_parameters(["a-stranger:rotation"], [])) == ["a-stranger:rotation"]


def test_two_foreign_ones_of_a_name_are_told_apart_by_their_packages(monkeypatch):
    _installed(
        monkeypatch,
        ("one", "mine", "analyses.norm:Norm"),
        ("two", "mine", "analyses.rotation:Rotation"),
    )
    with pytest.raises(BadInput, match=r"'mine' is registered twice; say which one: 'one:mine' \("):
        registry.get("mine")
    assert registry.get("two:mine") is analyses.rotation.Rotation
    assert registry.names() == ["one:mine", "two:mine"]
    about = {row["name"]: row["about"] for row in registry.describe()}
    assert about["mine"] == "ambiguous: one:mine or two:mine"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a package and a file, where the process runs."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "a_package_of_mine").mkdir()
    (tmp_path / "a_package_of_mine" / "__init__.py").touch()
    (tmp_path / "a_package_of_mine" / "near.py").write_text(MINE)
    (tmp_path / "a_file_of_mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith(("a_package_of_mine", "a_file_of_mine"))]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "where", ["a_package_of_mine.near", "a_file_of_mine.py", "{}/a_file_of_mine.py"]
)
def test_a_class_is_named_by_its_place(place, where):
    name = f"{where.format(place)}:NearHalf"
    (found,) = registry.resolve(name).items()
    assert found[0] == "near_half"
    assert interp.check_analysis(name).analysis == "near_half"
    assert sys.path[0] != str(place)


def test_a_place_that_is_none_says_what_is_allowed(place):
    allowed = "module:Class or path/file.py:Class"
    for name, seen in (
        ("nearhalf", "unknown analysis 'nearhalf'"),
        ("no_such.near:NearHalf", "no module 'no_such.near' for the analysis"),
        ("none.py:NearHalf", "no file 'none.py' for the analysis"),
    ):
        with pytest.raises(UnknownName, match=f"{seen}.*{allowed}"):
            registry.get(name)
    with pytest.raises(
        UnknownName, match=r"unknown class in a_file_of_mine.py 'NearHalv'; did you"
    ):
        registry.get("a_file_of_mine.py:NearHalv")
    (place / "json.py").write_text(MINE)
    with pytest.raises(BadInput, match=r"'json.py' has the name of the module .*rename the file"):
        registry.get("json.py:NearHalf")
    (place / "a_file_of_mine_too.py").write_text("import no_such_library\n")
    with pytest.raises(
        BrokenPlugin, match=r"No module named 'no_such_library' \(a_file_of_mine_too"
    ):
        registry.get("a_file_of_mine_too.py:NearHalf")


def test_the_commands_take_a_place(place):
    """In a process of its own, whose path has no folder where it is started."""
    script = "import sys; sys.argv[0] = 'interp'; from interp.cli import main; main()"
    command = [sys.executable, "-P", "-c", script]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    name = "a_package_of_mine.near:NearHalf"
    for words, said in (
        (("check", name), "keeps the contract"),
        (("run", "--model", "demo", "--prompts", "her", "-a", f"norm,{name}", "--out", "out"), ""),
    ):
        done = subprocess.run(
            [*command, *words], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, said in done.stdout) == (0, True), done.stdout + done.stderr
    assert (place / "out" / "near_half.parquet").is_file()
