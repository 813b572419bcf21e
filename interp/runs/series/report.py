"""The report of a series: one HTML file that opens without a network.

Knows results of a series and their drawings; computes nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from interp._files import refuse_existing, write_text
from interp.render.drawing import Drawing
from interp.render.finding import Finding
from interp.render.page import Block, Section, block, fill, libraries, numbered
from interp.render.tables import flat, table_of
from interp.runs.series.drawings import WAYS, drawing_of
from interp.stats.table import is_summary

MOST_VALUES = 3
NAMES = {"axis": "over the series", "layers": "over layers", "both": "layer by member"}


def write_report(
    series: Any,
    path: Path,
    *,
    title: str | None = None,
    special: bool = False,
    overwrite: bool = False,
    findings: Sequence[Finding] = (),
) -> Path:
    """Writes the page, whole or not at all; raises `BadInput` if it exists, unless `overwrite`."""
    refuse_existing(path, overwrite=overwrite, folder=False)
    return write_text(path, report_html(series, title, special=special, findings=findings))


def report_html(
    series: Any,
    title: str | None = None,
    *,
    special: bool = False,
    findings: Sequence[Finding] = (),
) -> str:
    """The page as text."""
    found = [
        each.section(f"finding-{i}", each.name.replace("_", " ").capitalize(), each.question)
        for i, each in enumerate(findings, 1)
    ]
    sections, start = [], 0
    for section in [*found, *(_of_result(series[n], special) for n in series), _members(series)]:
        blocks = numbered(section.blocks, start)
        start += sum(len(one.choices) for one in blocks)
        sections.append(replace(section, blocks=blocks))
    notes = [*series.notes, *(note for each in findings for note in each.notes)]
    return fill(
        "report.html.j2",
        title=title or f"A series of {len(series.results)} models",
        lead=_lead(series),
        measured=_measured(series),
        notes=list(dict.fromkeys(notes)),
        sections=sections,
        provenance=flat(series.provenance, skip=("notes",)),
        libraries=libraries([one for section in sections for one in section.blocks]),
    )


def _lead(series: Any) -> str:
    names = ", ".join(name.replace("_", " ") for name in series)
    unit = series.unit
    return f"{names[:1].upper()}{names[1:]} of the same {unit} in every member, by {series.axis}."


def _measured(series: Any) -> list[tuple[str, str]]:
    failed = len(series.failures)
    members = f"{len(series.results)} measured" + (f", {failed} failed" if failed else "")
    source = str(series.provenance["prompts"]["source"])
    return [("Members", members), ("Axis", series.axis), (series.unit.capitalize(), source)]


def _of_result(result: Any, special: bool) -> Section:
    """Section of one analysis: its declared values over the axis, over layers and over both."""
    lead = (inspect.getdoc(type(result.analysis)) or "").split("\n\n")[0].replace("\n", " ")
    blocks = tuple(_block(result, value, special) for value in _declared(result)[:MOST_VALUES])
    return Section(
        f"analysis-{result.name}",
        result.name.replace("_", " ").capitalize(),
        lead,
        blocks,
        tables=(("The first rows", table_of(result.frame.head(8)), False),),
    )


def _declared(result: Any) -> list[str]:
    """Values in the order of the declared figures, then the others."""
    drawn = [v for plot in result.analysis.plots for v in plot.values]
    known = result.values
    return list(dict.fromkeys([v for v in drawn if v in known] or known))


def _block(result: Any, value: str, special: bool) -> Block:
    try:
        drawings = _choices(result, value, special)
    except Exception as error:  # noqa: BLE001  one figure must not cost the report
        said = f"This figure could not be drawn ({type(error).__name__}: {error})."
        return Block(value, (), (said,))
    return block(result.columns.get(value, value), drawings)


def _choices(result: Any, value: str, special: bool) -> Mapping[str, Drawing]:
    layered = "layer" in result.frame
    ways = [way for way in WAYS if layered or way == "axis"]
    if not result.series.ordered and layered:
        ways = ["layers", "both", "axis"]
    drawings = {NAMES[way]: drawing_of(result, value, over=way, special=special) for way in ways}
    labels = [label for label in result.labels if 1 < result.frame[label].nunique() <= 8]
    apart = {
        f"by {label}": drawing_of(result, value, by=label, special=special) for label in labels[:2]
    }
    # Groups of a summary have bands of their own, and none together: those are seen first.
    return apart | drawings if is_summary(result.frame) else drawings | apart


def _members(series: Any) -> Section:
    table: Any = series.members.drop(columns=["seconds"])
    empty = [c for c in ("run", "error") if not table[c].astype(bool).any()]
    shown = table_of(table.drop(columns=empty), tokens=())
    return Section(
        "members", "Members", "The models of the series.", tables=(("Members", shown, True),)
    )
