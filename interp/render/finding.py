"""One experiment as a page and as files: its figures, its tables, what was asked, what to know.

Knows tables and figures; nothing of how they were computed.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from interp._files import EXPERIMENT, json_value, to_parquet, whole_folder
from interp.render.drawing import Block
from interp.render.page import Section, fill, libraries, numbered, plotly_choice
from interp.render.tables import TEXT, flat, table_of

MOST_ROWS = 40
TOKENS = (*TEXT, "word", "next", "neighbour")


@dataclass(frozen=True, eq=False)
class Sheet:
    """What an experiment found.

    Attributes:
        name: of the experiment; the first table carries it.
        text: the finding for a terminal.
        tables: by name, the most important first.
        figures: functions that draw, by title; drawn when a page is written.
        columns: what the columns mean, by name.
        lead: what was asked, in a sentence.
        notes: what a reader must know.
        about: what the tables are of, as JSON values.
    """

    name: str
    text: str
    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    lead: str = ""
    notes: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, *, overwrite: bool = False) -> list[Path]:
        """Tables as Parquet and CSV, the page as report.html; the folder appears whole.

        Returns the paths. Raises `BadInput` if the folder is taken, unless `overwrite`.
        """
        page = sheet_html(self)
        names = ["report.html", EXPERIMENT]
        with whole_folder(folder, overwrite=overwrite) as temporary:
            for name, table in self.tables.items():
                to_parquet(table, temporary / f"{name}.parquet")
                table.to_csv(temporary / f"{name}.csv", index=False)
                names += [f"{name}.parquet", f"{name}.csv"]
            (temporary / "report.html").write_text(page, encoding="utf-8")
            text = json.dumps(self.document(), indent=1, ensure_ascii=False, default=json_value)
            (temporary / EXPERIMENT).write_text(text, encoding="utf-8")
        return [folder / name for name in sorted(names)]

    def document(self) -> dict[str, Any]:
        """What was asked and what to know, without the tables."""
        return {"experiment": self.name, "notes": list(self.notes), "about": dict(self.about)}


def sheet_html(sheet: Sheet) -> str:
    """The page as text."""
    found = [(title, draw()) for title, draw in sheet.figures.items()]
    blocks = numbered([Block(title, (plotly_choice(figure),)) for title, figure in found])
    tables = [(_heading(n, t), _table(t), i == 0) for i, (n, t) in enumerate(sheet.tables.items())]
    if sheet.columns:
        meaning = pd.DataFrame({"column": sheet.columns.keys(), "meaning": sheet.columns.values()})
        tables.append(("What the columns mean", table_of(meaning, tokens=()), False))
    section = Section("finding", "What was found", "", blocks, tables=tuple(tables))
    return fill(
        "report.html.j2",
        title=sheet.name.replace("_", " ").capitalize(),
        lead=sheet.lead,
        measured=[],
        notes=sheet.notes,
        sections=[section],
        provenance=flat(dict(sheet.about)),
        libraries=libraries(blocks),
    )


def _heading(name: str, frame: pd.DataFrame) -> str:
    rows = f"{len(frame):,} rows"
    return f"{name}: {f'the first {MOST_ROWS} of {rows}' if len(frame) > MOST_ROWS else rows}"


def _table(frame: pd.DataFrame) -> Any:
    return table_of(frame.head(MOST_ROWS), TOKENS)


ROWS = 12


class Shown:
    """What the results of all experiments have in common: how they are printed."""

    frame: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The finding in one sentence."""
        return self._sentence()

    def _sentence(self) -> str:
        raise NotImplementedError

    def _short(self) -> pd.DataFrame:
        """The columns to read first."""
        return self.frame

    def __repr__(self) -> str:
        frame = self._short()
        table = frame.head(ROWS).to_string(index=False, float_format="{:.4g}".format)
        more = f"\n… {len(frame) - ROWS} more rows" if len(frame) > ROWS else ""
        notes = "".join(f"\nnote: {note}" for note in self.notes)
        return f"{self._sentence()}\n{table}{more}{notes}"

    def _repr_html_(self) -> str:
        table = self._short().to_html(index=False, float_format="{:.4g}".format, border=0)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return f"<p>{html.escape(self._sentence())}</p>{table}<ul>{notes}</ul>"
