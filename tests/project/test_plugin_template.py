"""The plug-in template builds, is listed beside the built-in analyses, and passes its own tests."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

# Looked for without an import: setuptools replaces a module of the standard library.
pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("pip", "setuptools"))),
    reason="needs pip and setuptools to build",
)
TEMPLATE = ROOT / "docs" / "plugin_template"
INTERP = "import sys; from interp.cli import main; sys.argv[0] = 'interp'; main()"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which a copy of the template is built and installed; nothing is fetched."""
    folder = tmp_path_factory.mktemp("plugin")
    copy = shutil.copytree(TEMPLATE, folder / "copy")  # building writes into the source
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    pip += ["--no-index", "--target", str(folder / "installed"), str(copy)]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    return folder / "installed"


def test_it_is_listed_with_its_package_and_what_it_says_of_itself(installed):
    path = os.pathsep.join(map(str, (installed, ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", INTERP, "list", "--json"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert "rotation" in rows
    assert rows["origin_angle"]["package"] == "interp-origin-angle"
    assert rows["origin_angle"]["sites"] == "resid_initial, resid_post"
    assert rows["origin_angle"]["about"].startswith("Angle between a token's first state")


def test_its_own_tests_pass_where_it_is_installed(installed, monkeypatch):
    """One checks the contract, one runs it by its name; both import what was installed."""
    monkeypatch.syspath_prepend(str(installed))
    path = TEMPLATE / "tests" / "test_origin_angle.py"
    spec = importlib.util.spec_from_file_location("test_of_the_template", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.OriginAngle.__module__ == "interp_origin_angle.origin_angle"
    assert sys.modules["interp_origin_angle"].__file__.startswith(str(installed))
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()
    assert "interp.check_analysis(OriginAngle())" in path.read_text(encoding="utf-8")
