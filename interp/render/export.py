"""Figures as files: a page of their own, or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interp._files import atomic, refuse_existing, write_text
from interp.errors import BadInput, InterpError
from interp.render.page import figure_page

FORMATS = (".html", ".png", ".svg", ".pdf")


def save_figure(figure: Any, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a figure as .html (one file, no network), .png, .svg or .pdf; returns the path.

    Pictures need the extra `export` and a Chrome or Chromium. Raises `BadInput` for another
    ending or a file that exists, `InterpError` where the picture cannot be made.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise BadInput(f"cannot write {path.name!r}: the ending is one of {', '.join(FORMATS)}")
    refuse_existing(path, overwrite=overwrite, folder=False)
    if path.suffix.lower() == ".html":
        return write_text(path, figure_page(figure))
    drawn = figure.figure() if hasattr(figure, "views") else figure
    width = max(900, int((drawn.layout.meta or {}).get("width", 0)))
    # kaleido and the browser fail in many ways; all of them have the same remedy.
    try:
        with atomic(path) as whole:
            ending = path.suffix[1:].lower()
            drawn.write_image(whole, format=ending, width=drawn.layout.width or width, scale=2)
    except (ImportError, ValueError, RuntimeError) as error:
        raise InterpError(
            f"no {path.suffix} could be made ({str(error).strip().splitlines()[0]}); install "
            "interp-stream[export] and a Chrome or Chromium (BROWSER_PATH names one), "
            "or save the figure as .html"
        ) from error
    return path
