"""Findings: the answer of an experiment, the same class in Python and on the command line.

Knows tables, sentences and drawings; nothing of how they were computed.
"""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import pandas as pd

from interp._files import (
    EXPERIMENT,
    json_value,
    refuse_existing,
    to_parquet,
    whole_folder,
    write_text,
)
from interp.errors import BadInput, unknown
from interp.render.columns import filled, fixed
from interp.render.draw import figure
from interp.render.drawing import Drawing
from interp.render.look import Look, Palette
from interp.render.page import Section, block, fill, libraries, numbered
from interp.render.tables import TEXT, Table, flat, table_of
from interp.render.text import text_of
from interp.render.text_map import WIDTH, word_map
from interp.render.tokens import coded

WHERE_ALL = ".frame in Python, --out or --json at a shell, has all"
ROWS = 12  # printed
MOST_ROWS = 40  # of a table on a page
TOKENS = (*TEXT, "word", "next", "neighbour")
UNTRAINED = "untrained"


class Finding(ABC):
    """Answer of an experiment: a table, a sentence, figures and caveats.

    A subclass is a frozen dataclass. It sets `name` and `question` and writes `sentence`; with more
    than one table it also writes `tables`, with figures `drawings`.

    Attributes:
        name: of the experiment; its first table is saved under it.
        question: the question that the experiment asks, in a sentence.
        columns: meaning of the columns, by name.
        draws_control: whether the figures show the untrained copy themselves, so that the page
            needs no figures of the copy alone.
        frame: the table, a row per thing measured.
        notes: caveats that a reader must know before trusting a number.
        about: origin of the tables (model, prompts, options, versions), as JSON values.
        control: the same experiment on the untrained copy of the model, if there is one.
    """

    name: str
    question: str = ""
    columns: Mapping[str, str] = MappingProxyType({})
    draws_control: bool = False
    frame: pd.DataFrame
    notes: tuple[str, ...]
    # Not fields, or every experiment would have to take them: the caller, who knows the options
    # and the untrained copy, adds them to a finished finding.
    about: Mapping[str, Any] = MappingProxyType({})
    control: Finding | None = None

    def with_control(self, control: Finding) -> Self:
        """The same finding with that of the untrained copy."""
        return self._with(control=control)

    def with_about(self, **about: Any) -> Self:
        """The same finding with more facts on its origin."""
        return self._with(about=MappingProxyType({**self.about, **about}))

    def with_note(self, note: str) -> Self:
        """The same finding with one more note."""
        return self._with(notes=(*self.notes, note))

    def with_notes(self, notes: Iterable[str]) -> Self:
        """The same finding with other notes, such as the same ones in a shell's words."""
        return self._with(notes=tuple(notes))

    def with_columns(self, **meanings: str) -> Self:
        """The same finding with the meaning of more columns, such as a label that the user named.

        A column that is explained already keeps its meaning.
        """
        return self._with(columns=MappingProxyType({**meanings, **self.columns}))

    def _with(self, **attributes: Any) -> Self:
        found = copy.copy(self)
        for name, value in attributes.items():
            # The subclasses are frozen, and `dataclasses.replace` knows their fields only.
            object.__setattr__(found, name, value)
        return found

    @property
    @abstractmethod
    def sentence(self) -> str:
        """The finding in one sentence, with its control."""

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Every table by name, the most important first."""
        return {self.name: self.frame}

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Every figure by name, the most important first; made when asked for."""
        return {}

    @property
    def short(self) -> pd.DataFrame:
        """The columns and rows to read first."""
        return self.frame

    def plot(
        self,
        name: str | None = None,
        *,
        width: int | None = None,
        height: int | None = None,
        title: str | None = None,
        palette: Palette = None,
        legend: bool = False,
    ) -> Any:
        """The first figure, or the one of that name, by plotly.

        Args:
            name: of the figure.
            width, height: of the whole figure in pixels; by default the width is the page's.
            title: plain text in place of the figure's own title.
            palette: colours `#RRGGBB` for the lines in their order, or by name; for heatmaps the
                name of a plotly colour scale, such as "Viridis".
            legend: also list lines, bands and controls in a legend.

        Raises `BadInput` if the experiment has no figure, `UnknownName` for another name.
        """
        look = Look(width, height, title, palette, legend)
        drawings = self.drawings
        if not drawings:
            raise BadInput(f"{self.name} has no figure: read its table (.frame)")
        chosen = next(iter(drawings)) if name is None else name
        if chosen not in drawings:
            raise unknown(f"figure of {self.name}", chosen, drawings)
        return look.on(figure(drawings[chosen]))

    def text(self, width: int | None = None) -> str:
        """The sentence, the first rows, maps of words, the notes and the control's sentence.

        `width`: letters of a line, into which sentences and tables are broken; by default they are
        as long as they are.
        """
        frame = self.short
        table = fixed(frame.head(ROWS), width)
        more = self._more(min(len(frame), ROWS), len(frame.columns))
        maps = [d for d in self.drawings.values() if d.kind == "projection" and not d.empty]
        wide = WIDTH if width is None else min(WIDTH, width - 2)
        seen = [word_map(drawing.table, wide) for drawing in maps]
        notes = [f"note: {note}" for note in self.notes]
        beside = [f"untrained copy: {self.control.sentence}"] if self.control else []
        told = [filled(part, width) for part in (*notes, *beside)]
        left_out = [filled(more, width)] if more else []
        return "\n".join([filled(self.sentence, width), table, *left_out, *seen, *told])

    @property
    def rule(self) -> str:
        """By what the rows of `short` are chosen, as the end of "3 of 9 rows"."""
        return ""

    def _more(self, rows: int, columns: int) -> str:
        """What of the whole table was not printed."""
        whole = self.frame
        if rows >= len(whole) and columns >= len(whole.columns):
            return ""
        left_out = f"shown: {rows} of {len(whole):,} rows{self.rule}"
        if columns < len(whole.columns):
            left_out += f", {columns} of {len(whole.columns)} columns"
        return f"{left_out} ({WHERE_ALL})"

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        table = self.short.to_html(index=False, float_format="{:.4g}".format, border=0)
        notes = "".join(f"<li>{coded(note)}</li>" for note in self.notes)
        beside = ""
        if self.control:
            beside = f"<p>untrained copy: {coded(self.control.sentence)}</p>"
        return f"<p>{coded(self.sentence)}</p>{table}<ul>{notes}</ul>{beside}"

    # ---- on disk -----------------------------------------------------------------------------

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write tables as Parquet and CSV, and the page as report.html; returns the paths.

        The folder appears whole or not at all. Raises `BadInput` if it is taken, unless
        `overwrite`.
        """
        folder = Path(folder)
        refuse_existing(folder, overwrite=overwrite)
        page = self.page()
        names = ["report.html", EXPERIMENT]
        with whole_folder(folder, overwrite=overwrite) as temporary:
            for name, table in self.all_tables().items():
                to_parquet(table, temporary / f"{name}.parquet")
                table.to_csv(temporary / f"{name}.csv", index=False)
                names += [f"{name}.parquet", f"{name}.csv"]
            (temporary / "report.html").write_text(page, encoding="utf-8")
            text = json.dumps(self.document(), indent=1, ensure_ascii=False, default=json_value)
            (temporary / EXPERIMENT).write_text(text, encoding="utf-8")
            names += self.write_more(temporary)
        return [folder / name for name in sorted(names)]

    def report(self, path: str | Path = "report.html", *, overwrite: bool = False) -> Path:
        """Write one self-contained HTML file that opens without a network; returns its path."""
        path = Path(path)
        refuse_existing(path, overwrite=overwrite, folder=False)
        return write_text(path, self.page())

    def write_more(self, folder: Path) -> list[str]:  # noqa: ARG002  for subclasses that have more
        """Files of its own that a finding writes into its folder; their names."""
        return []

    def all_tables(self) -> dict[str, pd.DataFrame]:
        """The tables, and those of the untrained copy under their own names."""
        control = self.control.tables if self.control else {}
        return {**self.tables, **{f"{name}_{UNTRAINED}": table for name, table in control.items()}}

    def all_drawings(self) -> dict[str, Drawing]:
        """The figures, and those of the untrained copy unless they show it already."""
        control = self.control.drawings if self.control and not self.draws_control else {}
        return {**self.drawings, **{f"{name}, untrained copy": d for name, d in control.items()}}

    def document(self) -> dict[str, Any]:
        """Name, notes and origin as JSON values, without the tables."""
        return {"experiment": self.name, "notes": list(self.notes), "about": dict(self.about)}

    def page(self) -> str:
        """The finding as one HTML page."""
        found = self.section("finding", "What was found")
        section = replace(found, blocks=numbered(found.blocks))
        return fill(
            "report.html.j2",
            title=self.name.replace("_", " ").capitalize(),
            lead=self.question,
            measured=self._measured(),
            notes=self.notes,
            sections=[section],
            provenance=flat(dict(self.about)),
            libraries=libraries(section.blocks),
        )

    def section(self, name: str, title: str, lead: str = "") -> Section:
        """Figures, sentence and tables as a section of a page; its figures have no numbers yet."""
        blocks = tuple(block(name, d) for name, d in self.all_drawings().items())
        tables = [
            (_heading(name, table), _table(table), i == 0)
            for i, (name, table) in enumerate(self.all_tables().items())
        ]
        if self.columns:
            meaning = {"column": self.columns.keys(), "meaning": self.columns.values()}
            tables.append(("What the columns mean", table_of(pd.DataFrame(meaning), ()), False))
        said = (
            self.sentence,
            *((f"Untrained copy: {self.control.sentence}",) if self.control else ()),
        )
        return Section(name, title, lead, blocks, findings=said, tables=tuple(tables))

    def _measured(self) -> list[tuple[str, str]]:
        """The model, for the head of the page; empty where it is not known."""
        asked = self.about.get("asked", {})
        model = self.about.get("model") or asked.get("model")
        return [("Model", str(model))] if model else []

    def drawn_as_text(self) -> str:
        """Every figure as text, for a terminal or a log."""
        return "\n\n".join(text_of(drawing) for drawing in self.drawings.values())


@dataclass(frozen=True, eq=False, repr=False)
class Answer(Finding):
    """A finding without a class of its own; its parts are given when it is made.

    Attributes:
        said: the finding in one sentence.
        drawn: figures by name.
        more: further tables by name.
        first: the rows and columns to read first, if not those of the table.
    """

    name: str
    frame: pd.DataFrame
    said: str
    drawn: Mapping[str, Drawing] = field(default_factory=dict)
    more: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    question: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    first: pd.DataFrame | None = None

    @property
    def short(self) -> pd.DataFrame:
        """The columns and rows to read first."""
        return self.frame if self.first is None else self.first

    @property
    def sentence(self) -> str:
        """The finding in one sentence."""
        return self.said

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Every table by name, the most important first."""
        return {self.name: self.frame, **self.more}

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Every figure by name."""
        return self.drawn


def _heading(name: str, frame: pd.DataFrame) -> str:
    rows = f"{len(frame):,} rows"
    return f"{name}: {f'the first {MOST_ROWS} of {rows}' if len(frame) > MOST_ROWS else rows}"


def _table(frame: pd.DataFrame) -> Table:
    return table_of(frame.head(MOST_ROWS), TOKENS)
