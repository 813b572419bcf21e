"""The explorer as a page: a file, a frame in a notebook, or a widget.

Knows the payload and the page; nothing of what is measured.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from interp._files import refuse_existing, write_text
from interp.errors import BadInput
from interp.render.page import ExplorerParts, explorer_page
from interp.runs.explorer.attention import has_heads
from interp.runs.explorer.measures import columns_of
from interp.runs.explorer.payload import payload_json, payload_of
from interp.runs.explorer.shown import floats
from interp.runs.explorer.ways import way_plots
from interp.runs.explorer.widget import widget_of
from interp.runs.report.lens_examples import lens_prompts
from interp.runs.report.sections import her_comparison, her_section
from interp.runs.report.views import ResultsLike
from interp.stats.comparison import Comparison
from interp.stats.table import is_summary

HEIGHT = 860  # pixels of the frame in a notebook
OF_STORY = {"measure": "rotation.angle", "between": "role", "a": "target", "b": "previous"}


@dataclass(frozen=True, eq=False)
class Explorer:
    """The explorer of a run; shows itself in a notebook, without a network.

    Attributes:
        payload: everything that the page shows, as JSON values.
        height: of the frame in a notebook, in pixels.
    """

    payload: Mapping[str, Any]
    height: int = HEIGHT

    @cached_property
    def parts(self) -> ExplorerParts:
        """What the explorer adds to a page."""
        return parts_of(self.payload)

    @cached_property
    def html(self) -> str:
        """The page as text: one file that opens without a network."""
        live = self.payload.get("live") is not None
        return explorer_page(self.parts, str(self.payload["title"]), live=live)

    def save(self, path: str | Path = "explorer.html", *, overwrite: bool = False) -> Path:
        """Write the page; returns its path. Raises `BadInput` if it exists, unless `overwrite`."""
        path = Path(path)
        refuse_existing(path, overwrite=overwrite, folder=False)
        return write_text(path, self.html)

    def widget(self) -> Any:
        """The explorer as an anywidget, in the page of the notebook itself and without a frame.

        Raises `InterpError` without the extra `notebook`.
        """
        return widget_of(self.payload, self.parts)

    def _repr_html_(self) -> str:
        page, title = html.escape(self.html, quote=True), html.escape(str(self.payload["title"]))
        return (
            f'<iframe title="{title}" srcdoc="{page}" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )

    def __repr__(self) -> str:
        told = self.payload
        prompts, measures = len(told["prompts"]["id"]), len(told["measures"])
        views = [name for name in ("lens", "trajectory", "attention") if told[name]]
        return (
            f"<Explorer {told['title']!r}: {prompts} prompts, {measures} measures"
            f"{', ' * bool(views)}{', '.join(views)}; .save('explorer.html') writes the page>"
        )


def explorer_of(
    results: ResultsLike, title: str | None = None, *, height: int = HEIGHT
) -> Explorer:
    """The explorer of a run, with the finding of its comparison of target words if it has one.

    Raises `BadInput` for results without numbers of tokens, such as those of weights alone.
    """
    if not explorable(results):
        if any(is_summary(result.frame) for result in results.values()):
            raise BadInput(
                f"nothing to explore: this summary ({', '.join(results)}) keeps no tokens, and the "
                "page begins with tokens. Add an analysis that keeps examples, such as logit_lens, "
                "attention or trajectory, and the means are shown with them; or keep='tokens' "
                "(--keep tokens). The report (interp report) draws the means of every group"
            )
        raise BadInput(
            f"nothing to explore: the results ({', '.join(results)}) have no numbers of tokens; "
            "run analyses over prompts, such as rotation, path_length and logit_lens"
        )
    if height < 1:
        raise BadInput(f"height is {height!r}; allowed is a number of pixels, 1 or more")
    return Explorer(explorer_payload(results, title, her_comparison(results)), height)


def explorable(results: ResultsLike) -> bool:
    """Whether a run has a number, a lens, ways or heads of tokens to show."""
    if not len(results) or "prompt" not in results.tokens or results.tokens.empty:
        return False
    shows = (columns_of, lens_prompts, way_plots, has_heads)
    return any(bool(show(result)) for result in results.values() for show in shows)


def explorer_payload(
    results: ResultsLike, title: str | None = None, found: Comparison | None = None
) -> dict[str, Any]:
    """The payload of a run, with the comparison of its target words if it has one."""
    section = her_section(results, found) if found else None
    if found is None or section is None:
        return payload_of(results, title)
    tests = [{**OF_STORY, "text": sentence} for sentence in section.findings]
    said, rest = " ".join(section.findings[:2]), section.findings[2:]
    story = [{"title": section.title, "text": said}, *({"title": "", "text": s} for s in rest)]
    return payload_of(results, title, tests=[tests[0] | _numbers(found), *tests[1:]], story=story)


def _numbers(found: Comparison) -> dict[str, Any]:
    """The comparison block by block: the difference, its 95 % interval and the corrected p."""
    columns = {
        "difference": found.contrast,
        "low": f"{found.contrast}_low",
        "high": f"{found.contrast}_high",
        "p": found.family_p,
    }
    depth = [str(int(n)) for n in found.frame["layer"]]
    rest = {name: floats(found.frame[c].to_numpy()) for name, c in columns.items()}
    return {"depth": depth, **rest}


def parts_of(payload: Mapping[str, Any]) -> ExplorerParts:
    """What a payload adds to a page."""
    return ExplorerParts(payload_json(payload))
