"""Figures by declaration: what an analysis says in its `plots` is drawn here, the same for all.

A viewer never raises for odd data: a figure that cannot be drawn says why in its place. It does
raise for a name that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from interp._files import atomic, write_text
from interp.errors import BadInput, InterpError, UnknownName, unknown
from interp.render import style
from interp.render.attention import AttentionMaps, attention_maps
from interp.render.compared import comparison_figure, her_figure
from interp.render.grids import grid_figure
from interp.render.lines import line_figure
from interp.render.points import scatter_figure, trajectory_figure
from interp.render.selection import View, declared
from interp.render.text import text_of
from interp.results import Result

__all__ = ["comparison_figure", "her_figure", "result_figure", "save_figure", "text_of"]

FORMATS = (".html", ".png", ".svg", ".pdf")


def result_figure(
    result: Result,
    value: str | Sequence[str] | None = None,
    *,
    by: str | Sequence[str] | None = None,
    prompt: int | None = None,
    special: bool = False,
    **options: Any,
) -> Any:
    """Draw the first declared figure of a result, or the one that shows `value`.

    Args:
        value: a declared value, or any numeric column of the table; several are drawn together,
            such as a value and its control.
        by: label columns; one line (or colour) per group.
        prompt: which prompt, for figures of one prompt; by default the first kept one.
        special: keep special tokens in means.
        options: for attention maps: `layer`, `heads`, `score`, as `attention_maps` takes them.

    Returns a plotly figure; for attention, the maps (`interp.render.attention`).
    Raises `UnknownName` for a value, label or prompt that is not there.
    """
    plot = declared(result, value)
    groups = (by,) if isinstance(by, str) else tuple(by or ())
    for name in groups:
        if name not in result.frame:
            raise unknown("label", name, result.labels)
    if plot.kind == "attention":
        return attention_maps(result, plot.values[0], prompt=prompt, **options)
    if options:
        raise unknown("option", next(iter(options)), ["by", "prompt", "special"])
    return draw(View(result, plot, groups, prompt, special))


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
    from interp.results import refuse_existing

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
