"""Figures by declaration: what an analysis says in its `plots` is drawn here, the same for all.

A viewer never raises for odd data: a figure that cannot be drawn says why in its place. It does
raise for a name that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from interp._files import atomic, write_text
from interp.errors import BadInput, InterpError, UnknownName
from interp.render import style
from interp.render.attention import AttentionMaps
from interp.render.lines import line_figure
from interp.render.points import scatter_figure, trajectory_figure
from interp.runs.report.views import View, grid_figure

FORMATS = (".html", ".png", ".svg", ".pdf")


def draw(view: View) -> Any:
    """The figure of a view; what goes wrong is written into it."""
    drawers: dict[str, Callable[[View], Any]] = {
        "line": line_figure,
        "heatmap": grid_figure,
        "scatter": scatter_figure,
        "trajectory": trajectory_figure,
    }
    try:
        return drawers[view.plot.kind](view)
    except UnknownName:
        raise
    except Exception as error:  # noqa: BLE001  a figure must not cost the user their results
        problem = f"This figure could not be drawn ({type(error).__name__}: {error})."
        return style.empty(view.title, problem)


def save_figure(figure: Any, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a figure as .html (one file, no network), .png, .svg or .pdf; returns the path.

    Pictures need the extra `export` and a Chrome or Chromium. Raises `BadInput` for another
    ending or a file that exists, `InterpError` where the picture cannot be made.
    """
    from interp._files import refuse_existing

    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise BadInput(f"cannot write {path.name!r}: the ending is one of {', '.join(FORMATS)}")
    refuse_existing(path, overwrite=overwrite, folder=False)
    if path.suffix.lower() == ".html":
        from interp.render.page import figure_page

        return write_text(path, figure_page(figure))
    drawn = figure.figure() if isinstance(figure, AttentionMaps) else figure
    width = int((drawn.layout.meta or {}).get("width", 0))
    try:
        with atomic(path) as whole:
            ending = path.suffix[1:].lower()
            drawn.write_image(whole, format=ending, width=max(900, width), scale=2)
    except (ImportError, ValueError, RuntimeError) as error:
        raise InterpError(
            f"no {path.suffix} could be made ({str(error).strip().splitlines()[0]}); install "
            "interp-stream[export] and a Chrome or Chromium (BROWSER_PATH names one), "
            "or save the figure as .html"
        ) from error
    return path
