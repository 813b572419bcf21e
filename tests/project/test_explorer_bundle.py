"""The committed bundles: the explorer's is that of its sources, plotly's fits plotly.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import FULL, ROOT

from interp.render import page

SOURCES = ROOT / "explorer"
RENDER = ROOT / "interp" / "render"
BUILT = ("explorer.js", "explorer.css")
PLOTLY = RENDER / page.PARTIAL
LONG = 3600  # seconds that are over only where something waits for ever

needs_sources = pytest.mark.skipif(not SOURCES.is_dir(), reason="the sources are not here")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")


@pytest.fixture(scope="module")
def tools():
    """The libraries and the bundler in the versions of the lock file."""
    if not (SOURCES / "node_modules").is_dir():
        if not FULL:
            pytest.skip("needs explorer/node_modules: run npm ci in explorer/, or INTERP_FULL=1")
        subprocess.run(["npm", "ci"], cwd=SOURCES, check=True, timeout=LONG)
    lock = json.loads((SOURCES / "package-lock.json").read_text(encoding="utf-8"))
    for name, told in lock["packages"].items():
        installed = SOURCES / name / "package.json"
        if name and installed.is_file():
            version = json.loads(installed.read_text(encoding="utf-8"))["version"]
            assert version == told["version"], f"{name}: run npm ci in explorer/"
    return SOURCES


@needs_sources
@needs_node
def test_the_bundle_is_what_the_sources_give(tools, tmp_path):
    done = subprocess.run(
        ["node", "build.mjs", "--out", str(tmp_path)],
        cwd=tools,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
        env={**os.environ, "NODE_OPTIONS": ""},
    )
    assert done.returncode == 0, done.stderr
    for name in BUILT:
        same = (tmp_path / name).read_bytes() == (RENDER / name).read_bytes()
        assert same, f"{name} is not that of the sources: run npm run build in explorer/"


@needs_sources
def test_every_library_is_pinned():
    told = json.loads((SOURCES / "package.json").read_text(encoding="utf-8"))
    for kind in ("dependencies", "devDependencies"):
        for name, version in told[kind].items():
            assert re.fullmatch(r"\d+\.\d+\.\d+", version), f"{name} {version} is a range"
    assert "UNLICENSED" not in json.dumps(told)


@pytest.mark.parametrize("name", BUILT)
def test_the_bundle_can_stand_in_a_page(name):
    text = (RENDER / name).read_text(encoding="utf-8")
    for piece in ("</script", "</style", "<!--", "@import", "//# sourcemappingurl"):
        assert piece not in text.lower()
    assert not re.search(r"url\(['\"]?(https?:|//)", text)
    assert not re.search(r"\beval\(|new Function\(", text)


# ---- plotly ------------------------------------------------------------------------------------


def test_plotlys_bundle_is_of_the_version_that_is_named():
    head = PLOTLY.read_text(encoding="utf-8")[:400]
    assert f"v{page.PARTIAL_VERSION}" in head
    assert "cartesian" in head
    assert "MIT" in head


def test_the_installed_plotly_carries_the_same_plotly_js():
    from plotly.offline import get_plotlyjs_version

    if get_plotlyjs_version() != page.PARTIAL_VERSION:
        pytest.skip(f"plotly.py has plotly.js {get_plotlyjs_version()}, whose own script is used")
    assert page.partial_fits({"scatter", "heatmap"})
    assert not page.partial_fits({"scatter3d"})


def test_another_version_takes_plotlys_own_script(monkeypatch):
    monkeypatch.setattr("plotly.offline.get_plotlyjs_version", lambda: "9.9.9")
    assert not page.partial_fits({"scatter"})


def test_every_trace_that_is_drawn_is_in_one_of_the_bundles():
    """Kinds of traces in the sources: those of the partial bundle, and the ones that are not."""
    found = set()
    for path in sorted(RENDER.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        found |= {n.lower() for n in re.findall(r"\bgo\.([A-Z]\w+)\(", text)} - {"figure"}
        found |= set(re.findall(r"\.add_(scatter\w*|heatmap|bar)\(", text))
        found |= {n.lower() for n in re.findall(r"kind = go\.(\w+) if", text)}
    assert found == {"scatter", "heatmap", "scatter3d"}
    assert found - {"scatter3d"} <= page.PARTIAL_TRACES
    assert Path(PLOTLY).stat().st_size < 2_000_000
