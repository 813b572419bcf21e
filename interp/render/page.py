"""HTML pages that open without a network: figures as data, each script library once.

Knows figures and strings; nothing of analyses. No data is trusted: every piece is JSON in which no
tag can begin, or text that the template escapes.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from interp.errors import InterpError
from interp.render.draw import figure
from interp.render.drawing import Drawing
from interp.render.style import dark_colours
from interp.render.tables import Table
from interp.render.text import as_text, reading
from interp.render.token_text import token_data
from interp.render.tokens import coded

PARTIAL = "plotly-cartesian.min.js"
PARTIAL_VERSION = "4.1.1"  # of plotly.js; with another one plotly.py's own script is taken
PARTIAL_TRACES = frozenset({"bar", "heatmap", "scatter"})
"""What the figures need of the bundle's traces; those in three dimensions need the whole script."""
TOP = 30  # pixels above the axes: titles of panels, and plotly's buttons when the pointer is there
CSP = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


@dataclass(frozen=True)
class Choice:
    """One figure of a block: `data` is JSON for its `kind` of script, `text` its numbers.

    `traces` are the kinds of plotly's traces in it.
    """

    name: str
    kind: str
    data: str
    caption: str
    label: str
    text: str = ""
    width: int = 0
    height: int = 0
    id: str = ""
    traces: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Block:
    """A figure with its choices, its sentences, and its look if there were no effect."""

    title: str
    choices: tuple[Choice, ...]
    says: tuple[str, ...] = ()
    if_null: str = ""


def block(title: str, drawings: Mapping[str, Drawing] | Drawing, says: Sequence[str] = ()) -> Block:
    """One drawing, or several to choose from by name, as a block of a page."""
    named = {"": drawings} if isinstance(drawings, Drawing) else drawings
    choices = tuple(_choice(name, drawing) for name, drawing in named.items())
    if_null = next((d.if_null for d in named.values() if d.if_null), "")
    return Block(title, choices, tuple(says), if_null)


def _choice(name: str, drawing: Drawing) -> Choice:
    """A drawing as data for a page: running text as text, all else as a figure."""
    text = as_text(reading(drawing))
    if drawing.kind != "tokens" or drawing.empty:
        return plotly_choice(figure(drawing), name, text)
    label = f"{drawing.title}. {drawing.said}"
    return Choice(name, "tokens", safe_json(token_data(drawing)), drawing.said, label, text)


def plotly_choice(figure: Any, name: str = "", text: str = "") -> Choice:
    """A figure as data for a page."""
    # The page sets title and caption as text, so the figure leaves them and their room out.
    layout = figure.layout
    meta = dict(layout.meta or {})
    height = int((layout.height or 450) - meta.get("top", 0) + TOP)
    document = figure.to_plotly_json()
    document["layout"] = {
        k: v for k, v in document["layout"].items() if k not in ("title", "meta", "height", "width")
    }
    document["layout"]["margin"] = dict(document["layout"].get("margin", {})) | {"t": TOP}
    document["layout"]["autosize"] = True
    caption = str(meta.get("caption", ""))
    return Choice(
        name,
        "plotly",
        safe_json(document),
        caption,
        f"{meta.get('title', name)}. {caption}",
        text,
        int(meta.get("width", 0)),
        height,
        traces=frozenset(trace.type for trace in figure.data),
    )


def safe_json(value: Any) -> str:
    """JSON in which no tag, comment or entity can begin, by plotly's encoder, which knows arrays.

    >>> safe_json({"token": "</script>"})
    '{"token":"\\\\u003c/script\\\\u003e"}'
    """
    from plotly.utils import PlotlyJSONEncoder

    text = json.dumps(value, cls=PlotlyJSONEncoder, separators=(",", ":"), ensure_ascii=False)
    return inert_json(text)


def inert_json(text: str) -> str:
    """JSON text with escapes for what could begin a tag, a comment, an entity or a line."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def numbered(blocks: Sequence[Block], start: int = 0) -> tuple[Block, ...]:
    """The blocks with an id for every choice, unique on the page."""
    out = []
    for block in blocks:
        ids = range(start, start + len(block.choices))
        choices = tuple(replace(c, id=f"f{i}") for c, i in zip(block.choices, ids, strict=True))
        out.append(replace(block, choices=choices))
        start += len(choices)
    return tuple(out)


def libraries(blocks: Sequence[Block]) -> dict[str, str]:
    """The script libraries that these blocks need, deflated, by the kind that needs them."""
    choices = [choice for block in blocks for choice in block.choices]
    kinds = {choice.kind for choice in choices}
    traces = frozenset().union(*(choice.traces for choice in choices))
    sources: dict[str, Callable[[], str]] = {
        "plotly": lambda: _plotly(partial_fits(traces)),
        "maps": _circuitsvis,
    }
    return {kind: source() for kind, source in sources.items() if kind in kinds}


def partial_fits(traces: Collection[str]) -> bool:
    """Whether the partial bundle draws these kinds of traces as the installed plotly.py would."""
    from plotly.offline import get_plotlyjs_version

    return set(traces) <= PARTIAL_TRACES and get_plotlyjs_version() == PARTIAL_VERSION


@cache
def _plotly(partial: bool) -> str:
    """The script of plotly: the partial bundle, a third of the size, or all of it."""
    from plotly.offline import get_plotlyjs

    return deflated(_asset(PARTIAL) if partial else str(get_plotlyjs()))


@cache
def _circuitsvis() -> str:
    """The script of circuitsvis, found without importing the package, which would load torch."""
    spec = importlib.util.find_spec("circuitsvis")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        bundle = Path(folder) / "dist" / "cdn" / "iife.js"
        if bundle.is_file():
            return deflated(bundle.read_text(encoding="utf-8"))
    raise InterpError("attention maps need circuitsvis>=1.43.3 with its script; reinstall it")


def deflated(script: str) -> str:
    """A script as base64 of its deflated bytes, which page.js inflates when it is started.

    RFC 1951, without a header: what a browser's `DecompressionStream("deflate-raw")` reads.
    """
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = deflate.compress(script.encode()) + deflate.flush()
    return base64.b64encode(data).decode("ascii")


def _inert(script: str) -> str:
    """A script that can stand inside a script element."""
    # Neither "</script" nor "<!--" may occur: the first ends the element, the second nests it.
    script = re.sub(r"</(?=script)", r"<\\/", script, flags=re.IGNORECASE)
    return script.replace("<!--", "<\\!--")


def figure_page(figure: Any) -> str:
    """One figure (plotly, or attention maps) as a page of its own."""
    own: Block | None = getattr(figure, "block", None)
    if own is None:
        meta = dict(figure.layout.meta or {})
        title = str(meta.get("title") or getattr(figure.layout.title, "text", "") or "figure")
        own = Block(title, (plotly_choice(figure),))
    blocks = numbered([own])
    return fill("figure.html.j2", title=own.title, block=blocks[0], libraries=libraries(blocks))


def fill(template: str, **values: Any) -> str:
    """Fill a template of this package; all values are escaped but styles, scripts and JSON."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from jinja2.filters import do_mark_safe

    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not an empty page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["coded"] = lambda text: do_mark_safe(coded(text))
    own = {"csp": CSP, "style": _asset("page.css"), "script": _asset("page.js"), "explorer": None}
    own["dark"] = inert_json(json.dumps(dark_colours()))
    return environment.get_template(template).render(own | values)


@dataclass(frozen=True)
class ExplorerParts:
    """What the explorer adds to a page: `data` is JSON of a payload, by `inert_json`."""

    data: str

    @property
    def style(self) -> str:
        return _asset("explorer.css")

    @property
    def script(self) -> str:
        return _inert(_asset("explorer.js"))

    @property
    def plain_script(self) -> str:
        """The script as it is, for a file of its own."""
        return _asset("explorer.js")


def explorer_page(parts: ExplorerParts, title: str, *, live: bool = False) -> str:
    """The explorer as a page of its own; a `live` one may ask the server that it came from."""
    csp = f"{CSP}; connect-src 'self'" if live else CSP
    return fill("explorer.html.j2", title=title, explorer=parts, csp=csp)


@cache
def _asset(name: str) -> str:
    return resources.files("interp.render").joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Section:
    """One part of a page; `tables` are (name, table, whether it is open).

    `beside`: its blocks stand side by side where the page is wide enough.
    """

    id: str
    title: str
    lead: str
    blocks: tuple[Block, ...] = ()
    findings: tuple[str, ...] = ()
    tables: tuple[tuple[str, Table, bool], ...] = ()
    notes: tuple[str, ...] = ()
    beside: bool = False
