"""Built-in analyses load whatever the working folder holds."""

import os
import pickle
import subprocess
import sys

import pytest
from conftest import ROOT

from interp.contract import builtin

SCRIPT = """
import pickle, sys
from pathlib import Path
sys.path.insert(0, str(Path.cwd()))  # as `python -m`, a notebook or a shell does
from interp.contract import registry
kind = registry.get("rotation")
print(kind.__module__, kind.name())
print(type(pickle.loads(pickle.dumps(kind()))) is kind)
print([row["about"] for row in registry.describe() if "broken" in row["about"]])
import analyses
print(getattr(analyses, "MINE", None))
"""


def _printed(folder):
    """What the script prints when Python is started in the folder."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("form", ["package", "module"])
def test_a_folder_or_file_named_analyses_hides_nothing(tmp_path, form):
    place = tmp_path / "analyses.py"
    if form == "package":
        (tmp_path / "analyses").mkdir()
        place = tmp_path / "analyses" / "__init__.py"
    place.write_text("MINE = 'the user\\'s own'\n")
    kind, same, broken, mine = _printed(tmp_path)
    assert kind == "interp.contract.builtin.rotation rotation"
    assert (same, broken) == ("True", "[]")
    assert mine == "the user's own", "the user's package is still what `import analyses` gives"


def test_a_folder_without_python_files_changes_nothing(tmp_path):
    (tmp_path / "analyses").mkdir()
    (tmp_path / "analyses" / "table.csv").write_text("a\n1\n")
    assert _printed(tmp_path)[0] == "analyses.rotation rotation"


def test_only_hidden_modules_are_named_anew(monkeypatch):
    assert builtin.module_of("analyses.rotation") == "analyses.rotation"
    monkeypatch.setattr(builtin, "__path__", ["/elsewhere/analyses"])
    assert builtin.module_of("analyses.rotation") == "interp.contract.builtin.rotation"
    assert builtin.module_of("other.rotation") == "other.rotation"


def test_the_other_name_is_the_same_file():
    from analyses.rotation import Rotation
    from interp.contract.builtin import rotation  # type: ignore[attr-defined]

    assert rotation.__file__ == sys.modules["analyses.rotation"].__file__
    assert rotation.Rotation().parameters() == Rotation().parameters()
    again = pickle.loads(pickle.dumps(rotation.Rotation()))  # noqa: S301  made on this line
    assert again == rotation.Rotation()
