"""Notebooks run on the embedded model, and the .ipynb beside each is the same notebook."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT

SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
REAL = {"10_real_english": "smollm2"}
"""Notebooks on a model that has to be fetched first."""

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_the_ipynb_is_in_step_and_carries_no_output(path):
    """Renew with `jupytext --to ipynb notebooks/*.py`."""
    source, stored = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    ours = [(c.cell_type, c.source) for c in source.cells]
    assert [(c.cell_type, c.source) for c in stored.cells] == ours
    assert not any(c.get("outputs") for c in stored.cells)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_the_notebook_runs(path, tmp_path, monkeypatch):
    if path.stem in REAL:
        packages = pytest.importorskip("interp._packages")
        if not packages.is_here(REAL[path.stem]):
            pytest.skip(f"needs a real model: interp get {REAL[path.stem]}")
    # The kernel has to be this interpreter, whatever kernels are installed.
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        f'{{"argv": ["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"],'
        ' "display_name": "Python 3", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    notebook = jupytext.read(path)
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.execute()
    ran = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in ran)
    assert any("text/html" in o.get("data", {}) for c in ran for o in c.outputs)
