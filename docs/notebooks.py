"""Runs notebooks/*.py and writes the .ipynb beside each, with its results as small pictures.

    python docs/notebooks.py           every notebook: some minutes
    python docs/notebooks.py 03 07     those whose names begin so

Needs the extras `test` and `embed`, pillow, and a Chrome or Chromium. A notebook on a real model
needs the model first, such as `interp get smollm2`; without it that notebook is left as it is.

A stored figure is a picture, so that a reader sees it without running anything and the files stay
small. No script, path, time or number of a run is stored: the same numbers give the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURE = "application/vnd.plotly.v1+json"
PAGE = "application/vnd.interp.page"  # the explorer as text, on its way to a picture
WIDTH = 760  # captions are wrapped for it; the site shows a picture at 700 or so
LARGEST = 60_000  # bytes of a picture
COLOURS = (256, 128, 64, 32, 16)
SCREEN: Any = {"width": 1000, "height": 640}  # of a page that is photographed

# Attention maps and the explorer show themselves by scripts of megabytes. Where this ran first,
# maps give the figure that `save` writes, and the explorer its page, of which a picture is stored.
BEFORE = f"""
import json
from interp.render.attention import AttentionMaps
from interp.runs.explorer.page import Explorer
Explorer._repr_mimebundle_ = lambda self, **_: {{{PAGE!r}: self.html, "text/plain": repr(self)}}
del Explorer._repr_html_, Explorer
AttentionMaps._repr_mimebundle_ = lambda self, **_: {{{FIGURE!r}: json.loads(self.figure().to_json())}}
del AttentionMaps._repr_html_
"""  # noqa: E501

UNWANTED = re.compile(
    r"<script|<iframe|<style|javascript:| at 0x[0-9a-f]{6}"
    r"|(?<![\w.:/])/(?:home|root|tmp|usr|work|Users|private|opt)/"
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Store the notebooks with their results.")
    parser.add_argument("names", nargs="*", default=[""], help="beginnings of names")
    import_module("PIL")  # asked for now, not after minutes of running
    chosen = tuple(parser.parse_args().names)
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.py")):
        if not path.stem.startswith(chosen):
            continue
        if absent := missing_model(path):
            _say(f"{path.stem}: left as it is; it needs `interp get {absent}`")
            continue
        text = stored(executed(path))
        path.with_suffix(".ipynb").write_text(text, encoding="utf-8")
        _say(f"{path.stem}: {len(text.encode()) / 1000:.0f} kB")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def missing_model(path: Path) -> str | None:
    """The package of a model that a notebook reads and that is not fetched yet, or None."""
    from interp.prompts.packages import PACKAGES, is_here

    named = re.search(r'^MODEL = "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
    model = named[1] if named else ""
    return model if model in PACKAGES and not is_here(model) else None


# ---- running -------------------------------------------------------------------------------------


def executed(path: Path) -> Any:
    """The notebook of a source in the percent format, run in a folder of its own.

    An error in a cell is raised.
    """
    import jupytext
    import nbclient
    from nbformat.v4 import new_code_cell

    notebook = jupytext.read(path)
    notebook.cells.insert(0, new_code_cell(BEFORE))
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= _surroundings(Path(folder))
        nbclient.NotebookClient(
            notebook,
            timeout=900,
            iopub_timeout=60,  # by default results that come after 4 seconds are left out
            raise_on_iopub_timeout=True,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        ).execute()
    del notebook.cells[0]
    return notebook


def _surroundings(folder: Path) -> dict[str, str]:
    """A kernel that is this interpreter, whatever kernels are installed, and figures as data."""
    spec = folder / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    said = {"argv": command, "display_name": "Python 3", "language": "python"}
    spec.write_text(json.dumps(said), encoding="utf-8")
    return {
        "JUPYTER_PATH": str(folder),
        "PLOTLY_RENDERER": "plotly_mimetype",
        "HF_HUB_OFFLINE": "1",
    }


# ---- storing -------------------------------------------------------------------------------------


def stored(notebook: Any) -> str:
    """The text of an .ipynb: the cells, and what is kept of their results."""
    kept = [[o for o in map(kept_of, c.get("outputs", [])) if o] for c in notebook.cells]
    pictures = iter(drawn([o["data"][FIGURE] for outs in kept for o in outs if _is_figure(o)]))
    for outputs in kept:
        for output in filter(_is_figure, outputs):
            output["data"] = picture_data(output["data"][FIGURE], next(pictures))
        for output in filter(_is_page, outputs):
            output["data"] = page_data(output["data"])
    names = (f"{i:02d}" for i in range(len(notebook.cells)))
    cells = [_cell(c, o, n) for c, o, n in zip(notebook.cells, kept, names, strict=True)]
    whole = {
        "cells": cells,
        "metadata": {k: notebook.metadata[k] for k in ("jupytext", "kernelspec")},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    whole["metadata"]["jupytext"].pop("text_representation", None)
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _is_figure(output: dict[str, Any]) -> bool:
    return FIGURE in output.get("data", {})


def _is_page(output: dict[str, Any]) -> bool:
    return PAGE in output.get("data", {})


def _cell(cell: Any, outputs: list[dict[str, Any]], name: str) -> dict[str, Any]:
    shared = {"cell_type": cell.cell_type, "id": name, "metadata": {}}
    shared["source"] = cell.source.splitlines(keepends=True)
    return shared | ({"execution_count": None, "outputs": outputs} if is_code(cell) else {})


def is_code(cell: Any) -> bool:
    return bool(cell.cell_type == "code")


def kept_of(output: Any) -> dict[str, Any] | None:
    """What is stored of one result: a figure, a table, or text; None for a message on the way.

    Warnings and progress come with a machine and its caches, not with the notebook.
    """
    if output.output_type == "stream":
        return None if output.name == "stderr" else _stream(output.text)
    data = output.data
    if FIGURE in data:
        return _shown({FIGURE: data[FIGURE]})
    if PAGE in data:
        return _shown({PAGE: data[PAGE], "text/plain": _lines(data["text/plain"])})
    for kind in ("text/html", "text/markdown", "text/plain"):
        if kind in data:
            return None if _is_progress(data[kind]) else _shown({kind: _lines(data[kind])})
    return None


def _is_progress(text: str) -> bool:
    """Whether a text is a message of rich, or a bar of tqdm, `Loading:  10%|█  | 7/76 [`."""
    rich = text.startswith('<pre style="white-space:pre;overflow-x:auto')
    return rich or re.match(r"[^\n|]*\d+%\|[^|\n]*\| \d+/\d+ \[", text) is not None


def _stream(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": _lines(text)}


def _shown(data: dict[str, Any]) -> dict[str, Any]:
    return {"output_type": "display_data", "data": data, "metadata": {}}


def _lines(text: str) -> list[str]:
    """Lines of a text, of HTML without styles and indentation; `UNWANTED` ends the program."""
    if text.lstrip().startswith("<"):
        text = re.sub(r"<style.*?</style>\s*", "", text, flags=re.DOTALL)
        text = re.sub(r' id="T_[^"]*"', "", text)  # pandas draws the names of a styled table
        text = re.sub(r"\n\s+", "\n", text).strip()
    if found := UNWANTED.search(text):
        around = text[max(0, found.start() - 60) : found.end() + 60]
        raise SystemExit(f"a result has what is not to be stored, {found[0]!r}: …{around}…")
    return text.splitlines(keepends=True)


# ---- pictures ------------------------------------------------------------------------------------


def drawn(figures: list[dict[str, Any]]) -> Iterator[bytes]:
    """Each figure as a small PNG; one browser draws them all."""
    import plotly.graph_objects as go
    import plotly.io

    made = [go.Figure(data=f["data"], layout=f["layout"]) for f in figures]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.png" for i in range(len(made))]
        if made:
            sizes = {"width": list(map(width_of, made)), "height": list(map(height_of, made))}
            plotly.io.write_images(made, files, scale=1, **sizes)
        for file, figure in zip(files, made, strict=True):
            yield small(file.read_bytes(), title_of(figure))


def page_data(data: dict[str, Any]) -> dict[str, Any]:
    """The stored forms of a page: a picture of its first screen, and what it says of itself."""
    picture = small(photographed(data[PAGE]), "".join(data["text/plain"]))
    return {"image/png": base64.b64encode(picture).decode(), "text/plain": data["text/plain"]}


def photographed(page: str) -> bytes:
    """The first screen of a page, as a Chromium without a network shows it."""
    from playwright.sync_api import sync_playwright

    browsers = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=next(filter(None, browsers)), args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(viewport=SCREEN, offline=True, reduced_motion="reduce")
        tab = context.new_page()
        tab.goto(path.as_uri())
        tab.locator("[data-view]").first.wait_for()
        tab.wait_for_timeout(600)
        seen: bytes = tab.screenshot()
        browser.close()
    return seen


def width_of(figure: Any) -> int:
    """Pixels: the width that a figure asks for, and at least `WIDTH`."""
    asked = (figure.layout.width, (figure.layout.meta or {}).get("width"), WIDTH)
    return max(int(width) for width in asked if width)


def height_of(figure: Any) -> int:
    return int(figure.layout.height or 450)


def title_of(figure: Any) -> str:
    """The title of a figure as plain text; empty where it has none."""
    text = re.sub(r"<[^>]+>", " ", figure.layout.title.text or "")
    return " ".join(text.split())


def small(picture: bytes, title: str) -> bytes:
    """The picture with as many colours as fit into `LARGEST` bytes."""
    from PIL import Image

    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in COLOURS:
        out = io.BytesIO()
        # The usual median cut merges colours that few pixels have, such as the end of a colour bar.
        reduced = whole.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        reduced.save(out, format="PNG", optimize=True)
        if len(out.getvalue()) <= LARGEST:
            return out.getvalue()
    raise SystemExit(
        f"{title!r}: {len(out.getvalue()):,} bytes in {COLOURS[-1]} colours, at most {LARGEST:,} "
        "are stored; draw less of it, or make it smaller by `width` and `height`"
    )


def picture_data(figure: dict[str, Any], picture: bytes) -> dict[str, Any]:
    """The stored forms of a picture; the text stands where pictures are not shown."""
    import plotly.graph_objects as go

    title = title_of(go.Figure(layout=figure["layout"]))
    says = f"Figure: {title}" if title else "Figure"
    return {"image/png": base64.b64encode(picture).decode(), "text/plain": [says]}


if __name__ == "__main__":
    main()
