"""Drawings as plotly figures, each kind by its own file.

If a figure cannot be drawn, the reason takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from interp.errors import unknown
from interp.render import style
from interp.render.drawing import Drawing

# A kind of drawing is one entry here and one file in this folder.
KINDS = {
    "lines": "lines:line_figure",
    "two_panels": "two_panels:panels_figure",
    "bars": "bars:bars_figure",
    "heat": "heat:heat_figure",
    "points": "points:points_figure",
    "paths": "points:paths_figure",
    "tokens": "token_text:token_figure",
    "projection": "words:projection_figure",
    "graph": "words:graph_figure",
}


def figure(drawing: Drawing) -> Any:
    """The plotly figure of a drawing; an error is written into it."""
    if drawing.empty:
        return style.empty(drawing.title, drawing.empty, drawing.said)
    try:
        return _drawer(drawing.kind)(drawing)
    except Exception as error:  # noqa: BLE001  a figure must not cost the user their results
        problem = f"This figure could not be drawn ({type(error).__name__}: {error})."
        return style.empty(drawing.title, problem)


def _drawer(kind: str) -> Callable[[Drawing], Any]:
    if kind not in KINDS:
        raise unknown("kind of drawing", kind, KINDS)
    module, _, name = KINDS[kind].partition(":")
    drawer: Callable[[Drawing], Any] = getattr(import_module(f"interp.render.{module}"), name)
    return drawer
