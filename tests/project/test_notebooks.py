"""Notebooks run on the embedded model, and the .ipynb beside each is the same notebook."""

from __future__ import annotations

import ast
import base64
import importlib.util
import io
import json
import re
import struct
import sys
import tempfile

import pytest
from conftest import ROOT

SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
REAL = {"10_real_english": "smollm2"}
"""Notebooks on a model that has to be fetched first."""

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
Config = pytest.importorskip("traitlets.config").Config

LONG = 3600  # seconds that are over only where something waits for ever
PATIENT = {
    "timeout": LONG,
    "startup_timeout": LONG,
    "iopub_timeout": LONG,
    # A free port is another's by the time that a kernel has started; a file in a folder is not.
    "config": Config({"ConnectionFileMixin": {"transport": "ipc"}}),
}

FIGURE = re.compile(r"\.plot\(|\bpx\.|^figure$", re.MULTILINE)
UNWANTED = re.compile(
    r"<script|<iframe|<style|id=.T_| at 0x[0-9a-f]{6}|(?<![\w.:/])/\w+/[\w./-]*\w|[A-Z]:\\"
)


def read(path):
    return json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))


def results(path):
    """(text of the cell, output) for every stored result."""
    cells = [c for c in read(path)["cells"] if c["cell_type"] == "code"]
    return [("".join(c["source"]), o) for c in cells for o in c["outputs"]]


def pictures(path):
    """(text of the cell, PNG) for every stored figure."""
    return [
        (source, base64.b64decode(o["data"]["image/png"]))
        for source, o in results(path)
        if "image/png" in o.get("data", {})
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_the_ipynb_is_in_step(path):
    """Renew with `python docs/notebooks.py`."""
    source, stored = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    ours = [(c.cell_type, c.source) for c in source.cells]
    assert [(c.cell_type, c.source) for c in stored.cells] == ours
    nbformat.validate(read(path))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_every_cell_that_ends_in_a_value_shows_it(path):
    last = {
        "".join(c["source"]): ast.parse("".join(c["source"])).body[-1]
        for c in read(path)["cells"]
        if c["cell_type"] == "code"
    }
    values = {s for s, node in last.items() if isinstance(node, ast.Expr)}
    assert len(values) > 3
    assert values <= {source for source, _ in results(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_every_figure_is_a_small_picture(path):
    drawn = {source for source, _ in pictures(path)}
    asked = [s for s, _ in results(path) if FIGURE.search(s.rpartition("\n\n")[2])]
    assert [s for s in asked if s not in drawn] == []
    for source, png in pictures(path):
        width, height = struct.unpack(">II", png[16:24])
        assert png.startswith(b"\x89PNG"), source
        assert len(png) <= 60_000, source
        assert 700 <= width <= 1400, source
        assert 200 <= height <= 1600, source


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_results_hold_no_script_path_or_number_of_a_run(path):
    for source, output in results(path):
        text = "".join(output.get("text", ""))
        for kind, value in output.get("data", {}).items():
            assert kind in ("image/png", "text/html", "text/markdown", "text/plain"), source
            text += "" if kind == "image/png" else "".join(value)
        assert not UNWANTED.findall(text), source
        assert output.get("name") != "stderr", source
    cells = read(path)["cells"]
    assert {c.get("execution_count") for c in cells} == {None}
    assert [c["metadata"] for c in cells] == [{}] * len(cells)


def test_the_notebooks_stay_small():
    sizes = {p.stem: p.with_suffix(".ipynb").stat().st_size for p in SOURCES}
    assert {name: size for name, size in sizes.items() if size > 400_000} == {}
    assert sum(sizes.values()) < 3_000_000
    assert sum(len(pictures(p)) for p in SOURCES) > 50


def loaded(path):
    spec = importlib.util.spec_from_file_location(f"from_docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kept(output):
    return loaded(ROOT / "docs" / "notebooks.py").kept_of(nbformat.from_dict(output))


def test_messages_on_the_way_are_not_stored():
    warning = {"output_type": "stream", "name": "stderr", "text": "/home/me/x.py:21: a warning"}
    progress = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">preparing</pre>'
    said = {"output_type": "display_data", "data": {"text/html": progress, "text/plain": "p"}}
    assert kept(warning) is None
    assert kept(said) is None
    bar = "Loading weights:   0%|          | 0/76 [00:00<?, ?it/s]"
    assert kept({"output_type": "display_data", "data": {"text/plain": bar}}) is None
    text = {"output_type": "display_data", "data": {"text/plain": "10 % | a table | 3"}}
    assert kept(text) is not None


def test_a_table_is_stored_without_its_style_and_its_plain_copy():
    table = (
        "<div>\n<style scoped>\n  td {}\n</style>\n<table>\n  <tr><td>1</td></tr>\n</table></div>"
    )
    data = {"text/plain": "1", "text/html": table}
    stored = kept({"output_type": "execute_result", "execution_count": 7, "data": data})
    assert "execution_count" not in stored
    text = "<div>\n<table>\n<tr><td>1</td></tr>\n</table></div>"
    assert {k: "".join(v) for k, v in stored["data"].items()} == {"text/html": text}


def test_of_the_explorer_a_picture_is_stored_and_not_its_page():
    pytest.importorskip("PIL")  # which only those who store notebooks need
    module = loaded(ROOT / "docs" / "notebooks.py")
    data = {module.PAGE: "<script>1</script>" * 100_000, "text/plain": "<Explorer 'a'>"}
    output = kept({"output_type": "execute_result", "data": data})
    assert set(output["data"]) == {module.PAGE, "text/plain"}
    module.photographed = lambda page: png_of() if page == data[module.PAGE] else b""
    stored = module.page_data(output["data"])
    assert stored["text/plain"] == ["<Explorer 'a'>"]
    assert base64.b64decode(stored["image/png"]).startswith(b"\x89PNG")
    assert set(stored) == {"image/png", "text/plain"}
    first = [o for source, o in results(SOURCES[0]) if source == "results.explore()"]
    assert [set(o["data"]) for o in first] == [{"image/png", "text/plain"}]


def png_of():
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (1000, 640)).save(out, format="PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    "text", ["<p>a</p><script>b</script>", "<f at 0x7f3a91b2c0>", "read /home/me/model"]
)
def test_a_result_that_must_not_be_stored_stops_the_command(text):
    with pytest.raises(SystemExit, match="not to be stored"):
        kept({"output_type": "execute_result", "data": {"text/plain": text}})


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_the_page_of_the_site_shows_every_result(path):
    site = loaded(ROOT / "docs" / "site" / "pages.py")
    page, files = site.notebook_page(path), site.pictures()
    linked = re.findall(r'<img src="([^"]+)"', page)
    assert [files[f"notebooks/{name}"] for name in linked] == [png for _, png in pictures(path)]
    for _, output in results(path):
        for kind, lines in output.get("data", {"text": output.get("text")}).items():
            if kind != "image/png" and "image/png" not in output.get("data", {}):
                assert "".join(lines).rstrip() in page


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_the_notebook_runs(path, tmp_path, monkeypatch):
    if path.stem in REAL:
        packages = pytest.importorskip("interp.prompts.packages")
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
    # The paths of sockets have to be short.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as sockets:
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", sockets)
        nbclient.NotebookClient(notebook, kernel_name="python3", **PATIENT).execute()
    ran = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in ran)
    assert any("text/html" in o.get("data", {}) for c in ran for o in c.outputs)
