"""Kind "tokens": running text, each written token on the colour of its value.

Columns: `text`, the name of the text that a token is of; `token`; `written`, false in what was
given; `value`, NaN where there is none. On a page it is text that flows and can be selected; as a
figure its tokens stand in cells. The darker, the higher.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from interp.render.drawing import Drawing
from interp.render.tokens import escape, label, show

PALE = ("#FBFCFD", "#CFE1F0", "#86B5DA")
"""Colours from the lowest to the highest value; dark letters stay readable on all of them."""
ACROSS = 12  # cells in a row of the figure
LETTERS = 10  # of a token in a cell


def token_data(drawing: Drawing) -> dict[str, Any]:
    """The text as JSON values for the page: `scale` and `texts`, each with `name` and `tokens`.

    A token is its text, whether it was written, its colour (or ""), and what the pointer shows.
    """
    low, high = _ends(drawing)
    texts = [
        {"name": str(name), "tokens": list(_pieces(rows, drawing, low, high))}
        for name, rows in drawing.table.groupby("text", sort=False)
    ]
    if not math.isfinite(low):
        return {"scale": None, "texts": texts}
    ends = [rounded_to(value, high - low) for value in (low, high)]
    scale = {"low": ends[0], "high": f"{ends[1]} {drawing.unit}".rstrip()}
    return {"scale": scale | {"colours": ", ".join(PALE)}, "texts": texts}


def rounded_to(value: float, span: float) -> str:
    """A number with as many digits as a scale of this length can show.

    >>> rounded_to(-8.5291, 8.5), rounded_to(-2e-5, 8.5), rounded_to(1234.56, 800.0)
    ('-8.53', '0', '1235')
    """
    if span <= 0:
        return f"{value:.4g}"
    return f"{round(value, 2 - math.floor(math.log10(span))) + 0.0:.10g}"


def _ends(drawing: Drawing) -> tuple[float, float]:
    """The lowest and the highest value that is coloured; NaN without any."""
    known = drawing.table.loc[drawing.table["written"].astype(bool), "value"].dropna()
    return (float(known.min()), float(known.max())) if len(known) else (math.nan, math.nan)


def _pieces(rows: pd.DataFrame, drawing: Drawing, low: float, high: float) -> Iterator[list[Any]]:
    for token, written, value in zip(rows["token"], rows["written"], rows["value"], strict=True):
        known = math.isfinite(value)
        said = f"{show(token)}: {value:.4g} {drawing.unit}".rstrip() if known else ""
        colour = colour_of(value, low, high) if known and written else ""
        yield [str(token), bool(written), colour, said]


def colour_of(value: float, low: float, high: float) -> str:
    """Colour `#rrggbb` of a value between two ends; in the middle where they are one.

    >>> colour_of(0.0, 0.0, 1.0), colour_of(1.0, 0.0, 1.0)
    ('#fbfcfd', '#86b5da')
    """
    share = (value - low) / (high - low) if high > low else 0.5
    at = min(max(share, 0.0), 1.0) * (len(PALE) - 1)
    i = min(int(at), len(PALE) - 2)
    pairs = zip(*([int(c[j : j + 2], 16) for j in (1, 3, 5)] for c in PALE[i : i + 2]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (at - i)):02x}" for a, b in pairs)


def token_figure(drawing: Drawing) -> Any:
    """The texts one below the other, their tokens in cells; given ones have no colour."""
    from interp.render.heat import heat_figure

    rows: list[dict[str, Any]] = []
    names: list[str] = []
    for name, tokens in drawing.table.groupby("text", sort=False):
        for i, row in enumerate(tokens.itertuples()):
            if i % ACROSS == 0:
                names.append("" if i else str(name))
            value = row.value if row.written else math.nan
            hover = f"{label(row.token)}: {row.value:.4g} {escape(drawing.unit)}"
            rows.append(
                {"panel": "", "row": len(names) - 1, "column": i % ACROSS, "value": value}
                | {"text": label(row.token, LETTERS), "hover": hover}
            )
    low, high = _ends(drawing)
    options: dict[str, Any] = {"rows": names, "down": True, "cell": (76, 26)}
    if math.isfinite(low):
        options |= {"low": low, "high": high}
    cells = replace(drawing, kind="heat", table=pd.DataFrame(rows), options=options)
    figure = heat_figure(cells)
    figure.update_xaxes(visible=False)
    begins = [i for i, name in enumerate(names) if name]
    texts = [label(names[i]) for i in begins]
    figure.update_yaxes(tickvals=begins, ticktext=texts)
    figure.update_layout(margin={"l": 30 + 8 * max(map(len, texts), default=0)})
    if "coloraxis" in figure.layout and math.isfinite(low):
        scale = [[i / (len(PALE) - 1), colour] for i, colour in enumerate(PALE)]
        figure.update_layout(coloraxis={"colorscale": scale, "cmin": low, "cmax": high})
    return figure
