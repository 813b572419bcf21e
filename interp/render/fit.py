"""What gives way where a figure is made smaller than it was drawn: texts, names, axis titles.

Works on finished plotly figures; sizes are pixels.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from typing import Any

from interp.render import style
from interp.render.lines import LABEL_GAP, spread

LETTER = 0.61  # width of a letter of a fixed-width font, in sizes of the font
SIZES = (8.0, 11.5)  # smallest and usual size of a text in a cell
FEWEST = 4  # letters of a shortened text that still says something
NUMBER = 26  # pixels of a cell that holds a number
SIDE = 90  # pixels right of the cells: the colour bar and its unit
TITLE = 7.2  # pixels of a letter of the title of an axis
ENTRY = (52, 7.0)  # pixels of an entry of a legend without its name, and of a letter of that
ROW = 24  # pixels of a row of a legend


def fit(figure: Any, width: float) -> None:
    """Makes what was placed for the usual size fit a figure of this width and its own height."""
    _fit_cells(figure, width)
    margin = figure.layout.margin
    room = (figure.layout.height or 450) - (margin.t or 0) - (margin.b or 0)
    _fit_names(figure, max(room, 1))
    _break_title(figure, max(room, 1))


def legend_height(names: Iterable[str], width: float) -> int:
    """Height of a legend whose entries stand side by side in rows of this width."""
    rows, used = 1, 0.0
    for name in names:
        entry = ENTRY[0] + ENTRY[1] * len(name)
        if used and used + entry > width:
            rows, used = rows + 1, 0.0
        used += entry
    return ROW * rows


def _fit_cells(figure: Any, width: float) -> None:
    """Smaller, then shorter texts in narrow cells; none where four letters do not fit."""
    across = width - (figure.layout.margin.l or 0) - SIDE
    for trace in figure.data:
        if trace.type != "heatmap" or not trace.texttemplate:
            continue
        domain = figure.layout[f"xaxis{(trace.xaxis or 'x')[1:]}"].domain or (0, 1)
        cell = across * (domain[1] - domain[0]) / max(len(trace.x), 1)
        if trace.text is None:
            trace.texttemplate = trace.texttemplate if cell >= NUMBER else None
        else:
            _fit_texts(trace, cell - 3)


def _fit_texts(trace: Any, room: float) -> None:
    plain = [[_plain(text) for text in row] for row in trace.text]
    longest = max((len(text) for row in plain for text in row), default=0)
    size = min(max(room / (LETTER * max(longest, 1)), SIZES[0]), SIZES[1])
    letters = int(room / (LETTER * size))
    if letters < min(longest, FEWEST):
        trace.texttemplate = None  # the hover still has them
        return
    trace.text = [
        [_shortened(text, letters) for text in row] if letters < longest else list(row)
        for row in trace.text
    ]
    trace.textfont.size = math.floor(10 * size) / 10


def _plain(text: str) -> str:
    """A text without its markup."""
    return html.unescape(re.sub("<[^>]*>", "", text))


def _shortened(text: str, letters: int) -> str:
    """The first letters of a text, in the markup around all of it."""
    plain = _plain(text)
    if len(plain) <= letters:
        return text
    short = html.escape(f"{plain[: letters - 1]}…", quote=False)
    return f"<b>{short}</b>" if text.startswith("<b>") else short


def _fit_names(figure: Any, room: float) -> None:
    """The names at the ends of lines, pushed apart again for a plot of this height."""
    named: dict[str, list[Any]] = {}
    for note in figure.layout.annotations:
        if str(note.xref).endswith(" domain") and note.x == 1 and note.xanchor == "left":
            named.setdefault(note.yref, []).append(note)
    for axis, notes in named.items():
        limits = figure.layout[f"yaxis{axis[1:]}"].range
        if limits is None:
            continue
        scale = room / (limits[1] - limits[0])
        notes.sort(key=lambda note: note.y)
        wanted = [(note.y - limits[0]) * scale for note in notes]
        for note, y, at in zip(notes, wanted, spread(wanted, LABEL_GAP, (0, room)), strict=True):
            note.yshift = at - y


def _break_title(figure: Any, room: float) -> None:
    """The title of the vertical axis in lines that are no longer than the axis."""
    axis = figure.layout.yaxis
    text = axis.title.text or ""
    if TITLE * len(text) <= room:
        return
    lines = style.wrap(text, max(6, int(room / TITLE)))
    more = 15 * lines.count("<br>")
    figure.update_layout(yaxis_title_text=lines, margin_l=(figure.layout.margin.l or 70) + more)
