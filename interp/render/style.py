"""One look for every figure: colours, fonts, margins, and the figure that holds a message.

Knows plotly; nothing of results. Colours after Okabe & Ito (2008), distinct for all common types of
colour vision; grey is reserved for controls.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C3E", "#5B4B9A")
CONTROL = "#7D8590"
INK, MUTED, GRID, EDGE = "#1F2328", "#59636E", "#E6E9EC", "#B7BEC6"
FONT = "Inter, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_BLUES = ("#FBFCFD", "#D3E3F0", "#8DB9DB", "#3B83BD", "#08457E")
_BOTH = ("#B3400A", "#E8A57C", "#FBFCFD", "#7FB2D9", "#08457E")
SEQUENTIAL = [[i / 4, colour] for i, colour in enumerate(_BLUES)]
DIVERGING = [[i / 4, colour] for i, colour in enumerate(_BOTH)]
DEPTH = [[0.0, "#56B4E9"], [0.5, "#5B4B9A"], [1.0, "#D55E00"]]

# Groups with the same meaning in every figure keep their colour and come first.
FIRST = {"target": PALETTE[0], "previous": PALETTE[1], "random": CONTROL}


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per group name; known roles have their own, the rest follow the palette."""
    taken = {FIRST[n] for n in names if n in FIRST}
    free = [c for c in PALETTE if c not in taken]
    rest = [n for n in names if n not in FIRST]
    return {n: FIRST[n] for n in names if n in FIRST} | {
        n: free[i % len(free)] for i, n in enumerate(rest)
    }


def in_order(names: Iterable[str]) -> list[str]:
    """Known roles first, the others in their order."""
    listed = list(dict.fromkeys(names))
    return [n for n in FIRST if n in listed] + [n for n in listed if n not in FIRST]


def alpha(colour: str, opacity: float) -> str:
    """`#RRGGBB` as an rgba() colour.

    >>> alpha("#0072B2", 0.2)
    'rgba(0,114,178,0.2)'
    """
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def pale(colour: str, part: float) -> str:
    """`#RRGGBB` mixed with a share of white.

    >>> pale("#0072B2", 0.5)
    '#80b8d8'
    """
    return mixed(colour, "#FFFFFF", part)


def mixed(colour: str, other: str, part: float) -> str:
    """Two colours `#RRGGBB` as one; `part` is the share of the other."""
    pairs = [[int(c[i : i + 2], 16) for c in (colour, other)] for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a * (1 - part) + b * part):02x}" for a, b in pairs)


_LIT = ("#5AB4EC", "#F08A3C", "#35C79B", "#E39CC5", "#E8B23A", "#9BD3F5", "#C9A27C", "#A899E6")
_LIT_BLUES = ("#1B222A", "#1F3D57", "#2A6596", "#5AA0D6", "#C4E4FB")
_LIT_BOTH = ("#F6A26B", "#8A4A20", "#1B222A", "#2F6D9D", "#C4E4FB")
_PAIRS = (
    *zip(("white", "#FFFFFF"), ("#14181D", "#14181D"), strict=True),
    *zip((INK, MUTED, GRID, EDGE), ("#E6EAEE", "#A0ABB6", "#2C343C", "#4A545E"), strict=True),
    *zip((*PALETTE, CONTROL), (*_LIT, "#8F99A3"), strict=True),
    *zip((*_BLUES, *_BOTH), (*_LIT_BLUES, *_LIT_BOTH), strict=True),
)


def dark_colours() -> dict[str, str]:
    """Each colour of the figures, in small letters, with the one that it has on a dark page.

    The tones are those of the explorer in the dark; scales begin at the colour of the page.
    """
    dark = dict(_PAIRS)
    pales = {pale(c, 0.5): mixed(dark[c], dark["white"], 0.5) for c in (*PALETTE, CONTROL)}
    return {light.lower(): other.lower() for light, other in (dark | pales).items()}


PAGE = 700  # pixels of a figure that is written without a width
LETTER = 7.0  # pixels of a letter of a caption, in the widest of the fonts
LINE = 17  # pixels of a line of it


def caption_of(text: str, width: float = PAGE) -> str:
    """A caption (plain text) in lines that fit a figure of this width in pixels."""
    from interp.render.tokens import escape

    letters = max(20, int((width - 46) / LETTER))
    lines = textwrap.wrap(text, letters, break_long_words=False)
    return "<br>".join(escape(line) for line in lines)


def refit(figure: Any, width: float) -> None:
    """Break the caption of a dressed figure again, for another width; its height follows."""
    layout = figure.layout
    caption = (layout.meta or {}).get("caption")
    if not caption:
        return
    lines = caption_of(caption, width)
    more = LINE * (lines.count("<br>") - layout.title.subtitle.text.count("<br>"))
    figure.update_layout(
        title_subtitle_text=lines,
        height=layout.height + more,
        margin_t=layout.margin.t + more,
        meta=dict(layout.meta) | {"top": layout.margin.t + more},
    )


def wrap(text: str, width: int = 110) -> str:
    """Break a sentence into lines for plotly, which does not."""
    return "<br>".join(textwrap.wrap(text, width, break_long_words=False))


def template() -> Any:
    """The plotly template that every figure carries; nothing is registered globally."""
    import plotly.graph_objects as go

    axis = {
        "showgrid": True,
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": EDGE,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": EDGE,
        "title": {"font": {"size": 13, "color": MUTED}, "standoff": 8},
        "tickfont": {"size": 12, "color": MUTED},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": INK},
            "title": {
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "pad": {"l": 16, "t": 14},
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "font": {"size": 17, "color": INK},
                "subtitle": {"font": {"size": 12.5, "color": MUTED}},
            },
            "colorway": list(PALETTE),
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "xaxis": axis | {"showgrid": False, "showline": True},
            "yaxis": axis | {"showline": False, "ticks": ""},
            "hoverlabel": {
                "bgcolor": "white",
                "bordercolor": EDGE,
                "font": {"size": 12, "color": INK},
                "align": "left",
                "namelength": -1,
            },
            "legend": {"title": {"text": ""}, "font": {"size": 12}},
            "colorscale": {"sequential": SEQUENTIAL},
        }
    )


def dressed(figure: Any, title: str, caption: str = "", *, height: int = 420) -> Any:
    """Give a figure its look, its title and its caption; the caption is also kept in `meta`.

    `title` and `caption` are plain text; they are escaped here.
    """
    from interp.render.tokens import escape

    lines = caption_of(caption)
    # 1 line of title, and 17 px per line of caption; the report shows both outside the figure.
    top = 46 + (LINE * (lines.count("<br>") + 1) + 8 if caption else 0)
    top += 22 if figure.layout.meta and figure.layout.meta.get("panels") else 0
    meta = {"title": title, "caption": caption, "top": top} | dict(figure.layout.meta or {})
    figure.update_layout(
        template=template(),
        title={"text": escape(title), "subtitle": {"text": lines}},
        height=height + top,
        margin={"t": top, "l": 70, "r": 30, "b": 56} | margins_of(figure),
        meta=meta,
    )
    return figure


def margins_of(figure: Any) -> dict[str, float]:
    """The margins that a figure has already, without the top."""
    return {k: v for k, v in figure.layout.margin.to_plotly_json().items() if k != "t"}


def empty(title: str, message: str, caption: str = "") -> Any:
    """A figure that holds a sentence: the reason that there is nothing to draw."""
    import plotly.graph_objects as go

    from interp.render.tokens import escape

    figure = go.Figure()
    say(figure, escape(message))
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return dressed(figure, title, caption, height=160)


def bar(unit: str) -> dict[str, Any]:
    """A narrow colour bar with its unit (plain text)."""
    from interp.render.tokens import escape

    return {
        "title": {"text": escape(unit), "side": "right", "font": {"size": 12}},
        "thickness": 10,
        "len": 1,
        "outlinewidth": 0,
        "tickfont": {"size": 11, "color": MUTED},
    }


def say(figure: Any, text: str) -> None:
    """Put a sentence in the middle of a figure."""
    figure.add_annotation(
        text=wrap(text, 80),
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
        font={"size": 14, "color": MUTED},
    )


def rounded(values: Any, digits: int = 5) -> list[Any]:
    """Numbers with few digits for a page; undefined ones become None.

    >>> rounded([1.234567, float("nan")])
    [1.2346, None]
    """
    finite = ((float(v), math.isfinite(v)) for v in values)
    return [float(f"{v:.{digits}g}") if known else None for v, known in finite]
