"""The pairs of a run in shards: files that are streamed, or rows in memory, a document per pair.

Knows files and columns; nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from interp.errors import BadInput, unknown
from interp.prompts.formats import data_file
from interp.prompts.pairs import ANSWER, SPANS, WRONG, mappings, refuse_lines, side_columns
from interp.runs.corpus.sharded import outside
from interp.runs.corpus.sources import Document, Files, Place, Shard, Source, open_source
from interp.runs.corpus.sources import Rows as RowSource

_LOOK = 1000  # pairs whose columns count as known, in files that declare none


@dataclass(frozen=True)
class PairSource:
    """A source of pairs with the columns that are read of it.

    Attributes:
        source: the pairs, a document each.
        sides: columns of the clean and of the corrupted side.
        extra: columns `answer`, `wrong` and `spans` that the source has.
        by: columns that make groups.
    """

    source: Source
    sides: tuple[str, str]
    extra: tuple[str, ...]
    by: tuple[str, ...]

    def row(self, document: Document) -> dict[str, Any]:
        """A pair as `read_pairs` takes it: both sides, answers, spans and the labels in use.

        Raises `BadInput` for a row without one of the sides.
        """
        row = document.row
        for name in self.sides:
            if name not in row:
                known = ", ".join(map(str, row)) or "none"
                raise BadInput(f"the pair has no column {name!r} (columns: {known})")
        clean, corrupted = self.sides
        found = {"clean": row[clean], "corrupted": row[corrupted]}
        found |= {name: row.get(name) for name in self.extra}
        # Labels as text: a column of 1, 2, 3 in one shard and of 1.5 in another is one column.
        return found | {name: None if (x := row.get(name)) is None else str(x) for name in self.by}

    def without(self, names: Iterable[str]) -> PairSource:
        """The same without some of the extra columns, which options take the place of."""
        return replace(self, extra=tuple(name for name in self.extra if name not in set(names)))


def pair_source(given: Any, by: Sequence[str], out: Path) -> PairSource:
    """The pairs of a file, a folder or glob of files, a table or a list.

    Raises `BadInput` and `UnknownName` for what has no pairs or lacks a column of `by`.
    """
    source = outside(_opened(given), given, out)
    names, declared = _columns(source)
    sides = side_columns(names, source.name, declared=declared)
    extra = tuple(name for name in (ANSWER, WRONG, SPANS) if name in names)
    labels = [name for name in names if name not in (*sides, *extra)]
    for name in by:
        if name not in labels:
            raise unknown("label", name, labels)
    if isinstance(source, Files):
        source = replace(source, text_column=sides[0], columns=(sides[1], *extra, *by))
    return PairSource(source, sides, extra, tuple(by))


def _opened(given: Any) -> Source:
    found = open_source(mappings(given), text_column="clean")
    if isinstance(found, Files):
        for path in found.paths:
            refuse_lines(path, path)
    elif not isinstance(found, RowSource):
        raise BadInput(
            f"pairs cannot be streamed from {found.name}: save it as a .parquet, .jsonl or .csv "
            "file, or pass the data set itself"
        )
    return found


def _columns(source: Source) -> tuple[list[str], bool]:
    """The columns of a source, and whether it declares them."""
    if isinstance(source, RowSource):
        return _names(source.rows[:_LOOK]), False
    assert isinstance(source, Files)  # noqa: S101  nothing else is opened
    declared = data_file(source.paths[0], "clean").names()
    if declared is not None:
        return declared, True
    first = source.read(Shard(0, Place(0, 0, 1), 0, _LOOK))
    return _names(document.row for document in islice(first, _LOOK)), False


def _names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(name) for row in rows for name in row))


def cut(windows: Iterator[list[Document]], most: int) -> Iterator[list[Document]]:
    """Windows of at most so many documents."""
    for window in windows:
        for start in range(0, len(window), most):
            yield window[start : start + most]
