"""The look that a caller wants of a figure: size, title, colours, a legend.

Works on a finished plotly figure of any kind, so that no kind has to know these options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from interp.errors import BadInput, unknown
from interp.render import style
from interp.render.fit import fit, legend_height
from interp.render.tokens import escape

Palette = str | Sequence[str] | Mapping[str, str] | None
LEAST = 120  # pixels: below, axes have no room
_HEX = re.compile("#[0-9a-fA-F]{6}")
_RGBA = re.compile(r"rgba\((\d+),(\d+),(\d+),([\d.]+)\)")


@dataclass(frozen=True)
class Look:
    """What a caller changes in a figure.

    Attributes:
        width, height: of the whole figure in pixels; by default the width is the page's.
        title: plain text in place of the figure's own title.
        palette: colours `#RRGGBB` for the lines in their order, or by name
            (`{"target": "#CC0000"}`); for heatmaps the name of a plotly colour scale ("Viridis").
        legend: also list lines, bands and controls in a legend.
    """

    width: int | None = None
    height: int | None = None
    title: str | None = None
    palette: Palette = None
    legend: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            size = getattr(self, name)
            fine = isinstance(size, int | float) and not isinstance(size, bool) and size >= LEAST
            if size is not None and not fine:
                raise BadInput(f"{name}={size!r}; give pixels, {LEAST} at least")
        if isinstance(self.palette, str):
            _scale(self.palette)
        for colour in _colours(self.palette):
            if not (isinstance(colour, str) and _HEX.fullmatch(colour)):
                raise BadInput(f"palette= has {colour!r}; give colours as '#RRGGBB'")

    def on(self, figure: Any) -> Any:
        """The figure with this look, changed in place and returned.

        Raises `UnknownName` for a name in `palette` that no line has.
        """
        if self.palette is not None:
            _recolour(figure, self.palette)
        width = self.width or max((figure.layout.meta or {}).get("width") or 0, style.PAGE)
        if self.legend:
            _list_lines(figure, width)
        meta = dict(figure.layout.meta or {})
        if self.title is not None:
            figure.update_layout(title_text=escape(self.title))
            meta["title"] = self.title
        if self.width is not None:
            style.refit(figure, self.width)
            figure.update_layout(width=self.width)
            meta["width"] = self.width
        if self.height is not None:
            figure.update_layout(height=self.height)
        figure.update_layout(meta=meta)
        if self.width is not None or self.height is not None:
            fit(figure, width)
        return figure


def _colours(palette: Palette) -> list[Any]:
    if palette is None or isinstance(palette, str):
        return []
    return list(palette.values() if isinstance(palette, Mapping) else palette)


def _scale(name: str) -> None:
    from plotly.colors import named_colorscales

    if name.lower() not in named_colorscales():
        raise unknown("colour scale", name, named_colorscales())


def _recolour(figure: Any, palette: Palette) -> None:
    """Other colours in the place of those that the figure has."""
    if isinstance(palette, str):
        figure.update_layout(coloraxis_colorscale=palette)
        figure.update_traces(colorscale=palette, selector={"type": "heatmap", "coloraxis": None})
        return
    named = _named(figure)
    if isinstance(palette, Mapping):
        for name in palette:
            if name not in named:
                raise unknown("line in palette=", name, named)
        new = {named[name]: colour for name, colour in palette.items()}
    else:
        new = dict(zip(dict.fromkeys(named.values()), palette or (), strict=False))
    for part in (*figure.data, *figure.layout.annotations):
        part.update(_replaced(part.to_plotly_json(), new))


def _named(figure: Any) -> dict[str, str]:
    """The colour of every named line or group of marks, in their order."""
    found: dict[str, str] = {}
    for trace in figure.data:
        parts = (getattr(trace, part, None) for part in ("line", "marker"))
        colours = (getattr(part, "color", None) for part in parts)
        colour = next((c for c in colours if isinstance(c, str) and _HEX.fullmatch(c)), None)
        if trace.name and colour:
            found.setdefault(str(trace.name), colour)
    return found


def _replaced(value: Any, new: Mapping[str, str], key: str = "") -> Any:
    """A part of a figure with its colours replaced, in opaque and transparent form."""
    if isinstance(value, dict):
        return {k: _replaced(v, new, k) for k, v in value.items()}
    if not isinstance(value, str) or "color" not in key:
        return value
    lower = {old.lower(): colour for old, colour in new.items()}
    value = _HEX.sub(lambda m: lower.get(m[0].lower(), m[0]), value)
    return _RGBA.sub(lambda m: _transparent(m, lower), value)


def _transparent(found: re.Match[str], new: Mapping[str, str]) -> str:
    red, green, blue, opacity = found.groups()
    old = "#" + "".join(f"{int(channel):02x}" for channel in (red, green, blue))
    return style.alpha(new[old], float(opacity)) if old in new else found[0]


def _list_lines(figure: Any, width: float) -> None:
    """A legend of every line, band and control, each name once."""
    seen: set[str] = set()
    kinds = (", band", ", untrained")
    order = list(_named(figure))
    for trace in figure.data:
        # Bands have no name of their own, so that they are not told in hover texts.
        trace.name = trace.name or trace.meta
        if trace.type != "scatter" or not trace.name:
            continue
        kind = next((k for k in kinds if trace.name.endswith(k)), "")
        line = trace.name.removesuffix(kind)
        # Each line, then its band and its control.
        rank = 10 * order.index(line) if line in order else 10 * len(order)
        rank += 1 + kinds.index(kind) if kind else 0
        trace.update(showlegend=trace.name not in seen, legendgroup=trace.name, legendrank=rank)
        seen.add(trace.name)
    # At the lower edge, below the axis and its title whatever the height: at the right the lines
    # have their names already.
    margin = figure.layout.margin
    more = legend_height(seen, width - (margin.l or 0) - (margin.r or 0))
    place = {"yref": "container", "y": 0, "yanchor": "bottom", "x": 0}
    figure.update_layout(
        showlegend=True,
        legend={"orientation": "h"} | place,
        height=(figure.layout.height or 450) + more,
        margin={"b": (margin.b or 56) + more},
    )


def looked(figure: Any, options: Mapping[str, Any]) -> Any:
    """The figure with options of `Look` by name; raises `UnknownName` for another option."""
    known = [field.name for field in fields(Look)]
    for name in options:
        if name not in known:
            raise unknown("option of plot", name, known)
    return Look(**options).on(figure)


PLAIN = Look()
