r"""Readers of data files, one per format, for prompts and corpora: text, JSON Lines, CSV, Parquet.

A reader goes through its file without holding it in memory. What is wrong with one record is told
in its place and the others go on; what is wrong with the file is raised. Text is UTF-8; a
byte-order mark at the start of a line is dropped; `\n`, `\r\n` and `\r` end a line, form feeds
and other separators do not; blank lines are skipped. Knows nothing of tokens or labels.
"""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from interp.errors import BadInput, nearest
from interp.prompts.messages import chat_column
from interp.prompts.user_files import byte_lines, format_of, is_compressed, opened, shown

Row = Mapping[str, Any]
SUFFIXES = (".csv", ".jsonl", ".parquet", ".txt")
_ROWS = 1024  # rows read at once where a format has rows
_CELL = 1 << 30  # characters of a CSV cell; the csv module's own limit is 131,072
_CHUNK = 1 << 20


@dataclass(frozen=True)
class DataFile(ABC):
    """One file of a format.

    Attributes:
        path: of the file.
        text_column: the column with the text.
        columns: the other columns that are read where the format allows to choose; None: all.
    """

    path: str
    text_column: str = "text"
    columns: tuple[str, ...] | None = None
    unit = "line"

    @property
    def shown(self) -> str:
        """The file's name as text that can be saved."""
        return shown(self.path)

    def names(self) -> list[str] | None:
        """The columns that the file declares; None where each record has its own."""
        return None

    def is_blank(self) -> bool:
        """True if the file holds nothing but blank lines."""
        return all(map(_is_blank, byte_lines(self.path)))

    @abstractmethod
    def scan(self, digest: Any) -> Iterator[tuple[int, int, int]]:
        """Offset, line and bytes of every record; `digest` sees all that counts."""

    @abstractmethod
    def read(
        self, offset: int = 0, line: int = 1, count: int | None = None
    ) -> Iterator[tuple[int, Row | str]]:
        """Line (or row) and record, or what is wrong with it, for `count` of them from a place."""


def data_file(
    path: str, text_column: str = "text", columns: Sequence[str] | None = None
) -> DataFile:
    """The reader of a file, by its suffix; a Parquet file without the text may have chat messages.

    Raises `BadInput` for an unknown suffix.
    """
    suffix = format_of(path, SUFFIXES)
    if suffix == ".parquet" and is_compressed(path):
        raise BadInput(f"{shown(path)!r}: Parquet is compressed in itself; unpack it (gunzip)")
    kinds: dict[str, Callable[..., DataFile]] = {
        ".txt": _Text,
        ".jsonl": _JsonLines,
        ".csv": _Csv,
        ".parquet": _Parquet,
    }
    file = kinds[suffix](path, text_column, None if columns is None else tuple(columns))
    chat = chat_column(file.names(), text_column) if suffix == ".parquet" else None
    return file if chat is None else replace(file, text_column=chat)


def refuse_lacking(file: DataFile) -> None:
    """Raises `BadInput` if a file declares its columns and the text is none of them."""
    names = file.names()
    if names and file.text_column not in names:
        raise BadInput(
            f"{file.shown!r} has no column {file.text_column!r}{nearest(file.text_column, names)} "
            f"(columns: {', '.join(names)}; choose one with text_column=)"
        )


# ---- lines -----------------------------------------------------------------------------------


def _lines(path: str, offset: int = 0, line: int = 1) -> Iterator[tuple[int, int, bytes]]:
    """Offset, number and bytes of every line from a place on."""
    for raw in byte_lines(path, offset):
        # bytes.splitlines knows \n, \r\n and \r only, unlike that of str
        for piece in raw.splitlines(keepends=True) if b"\r" in raw else (raw,):
            yield offset, line, piece
            offset, line = offset + len(piece), line + 1


def _is_blank(line: bytes) -> bool:
    return not line.decode("utf-8", "replace").removeprefix("\ufeff").strip()


def _not_utf8(byte: int) -> str:
    return f"not UTF-8 at byte {byte} of the line; save the file as UTF-8"


class _Text(DataFile):
    """A record on every line that is not blank."""

    def scan(self, digest: Any) -> Iterator[tuple[int, int, int]]:
        for offset, number, line in _lines(self.path):
            digest.update(line)
            if not _is_blank(line):
                yield offset, number, len(line)

    def read(
        self, offset: int = 0, line: int = 1, count: int | None = None
    ) -> Iterator[tuple[int, Row | str]]:
        left = count
        for _, number, raw in _lines(self.path, offset, line):
            if left == 0:
                return
            if not _is_blank(raw):
                yield number, self._record(raw)
                left = None if left is None else left - 1

    def _record(self, line: bytes) -> Row | str:
        """The record of a line, or what is wrong with it."""
        try:
            text = line.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            return _not_utf8(error.start)
        return self.parse(text)

    def parse(self, text: str) -> Row | str:
        return {self.text_column: text.rstrip("\r\n")}


class _JsonLines(_Text):
    def parse(self, text: str) -> Row | str:
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            return f"not JSON at column {error.colno} ({error.msg})"
        except RecursionError:
            return "JSON that is nested too deeply"
        except ValueError as error:  # a number of more than 4,300 digits
            return f"not JSON that can be read ({error})"
        return row if isinstance(row, dict) else f"expected an object, got {type(row).__name__}"


# ---- CSV -------------------------------------------------------------------------------------


class _Csv(DataFile):
    """Rows under a header; a quoted cell may run over lines, so offsets are those of records."""

    def names(self) -> list[str] | None:
        for _, _, _, cells in self._records():
            if _utf8_fault(cells):
                raise BadInput(f"{self.shown!r}, line 1: the header is not UTF-8")
            if len(set(cells)) < len(cells):
                raise BadInput(f"{self.shown!r}: column names repeat ({', '.join(cells)})")
            return cells
        return []

    def scan(self, digest: Any) -> Iterator[tuple[int, int, int]]:
        records = self._records(digest=digest)
        next(records, None)
        for offset, line, length, _ in records:
            yield offset, line, length

    def read(
        self, offset: int = 0, line: int = 1, count: int | None = None
    ) -> Iterator[tuple[int, Row | str]]:
        header = self.names() or []
        records = self._records(offset, line)
        if not offset:
            next(records, None)
        left = count
        for _, number, _, cells in records:
            if left == 0:
                return
            yield number, self._record(header, cells)
            left = None if left is None else left - 1

    def _record(self, header: list[str], cells: list[str]) -> Row | str:
        if fault := _utf8_fault(cells):
            return fault
        if len(cells) != len(header):
            return (
                f"{len(cells)} cells, but the header has {len(header)} ({', '.join(header)}); "
                "quote texts that hold commas"
            )
        row: dict[str, Any] = {name: cell or None for name, cell in zip(header, cells, strict=True)}
        if self.text_column in row:
            row[self.text_column] = row[self.text_column] or ""
        return row

    def _records(
        self, offset: int = 0, line: int = 1, digest: Any = None
    ) -> Iterator[tuple[int, int, int, list[str]]]:
        """(offset, line, bytes, cells) of every record from `offset` on, blank lines left out."""
        taken = [offset, line]

        def lines() -> Iterator[str]:
            for at, number, raw in _lines(self.path, offset, line):
                if digest is not None:
                    digest.update(raw)
                taken[:] = at + len(raw), number + 1
                yield raw.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")

        reader = csv.reader(lines(), strict=True)
        while True:
            start, number = taken
            try:
                cells = _next_record(reader)
            except csv.Error as error:
                raise BadInput(f"{self.shown!r}, line {number}: malformed csv ({error})") from error
            if cells is None:
                return
            if cells and not (len(cells) == 1 and cells[0].isspace()):
                yield start, number, taken[0] - start, cells


def _next_record(reader: Any) -> list[str] | None:
    """The next record, however long its cells; the limit is everyone's, so it is put back."""
    before = csv.field_size_limit(_CELL)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(before)


def _utf8_fault(cells: list[str]) -> str | None:
    try:
        ",".join(cells).encode("utf-8")
    except UnicodeEncodeError:
        return "not UTF-8; save the file as UTF-8"
    return None


# ---- Parquet ---------------------------------------------------------------------------------


class _Parquet(DataFile):
    """Rows of a Parquet file; only the columns that are needed are read."""

    unit = "row"

    def names(self) -> list[str] | None:
        names = list(self._open().schema_arrow.names)
        if len(set(names)) < len(names):
            raise BadInput(f"{self.shown!r}: column names repeat ({', '.join(names)})")
        return names

    def is_blank(self) -> bool:
        return False

    def scan(self, digest: Any) -> Iterator[tuple[int, int, int]]:
        with opened(self.path) as stream:
            while block := stream.read(_CHUNK):
                digest.update(block)
        row = 0
        for batch in self._batches([self.text_column]):
            for length in _text_sizes(batch.column(0)):
                yield row, 0, length
                row += 1

    def read(
        self, offset: int = 0, line: int = 1, count: int | None = None
    ) -> Iterator[tuple[int, Row | str]]:
        del line  # rows are counted
        file, names = self._open(), self.names() or []
        wanted = (self.text_column, *self.columns) if self.columns is not None else names
        stop = file.metadata.num_rows if count is None else offset + count
        first, groups = 0, []
        for number in range(file.metadata.num_row_groups):
            size = file.metadata.row_group(number).num_rows
            if first + size > offset and first < stop:
                groups.append((number, first))
            first += size
        at = groups[0][1] if groups else 0
        for batch in self._batches([c for c in wanted if c in names], [n for n, _ in groups]):
            low, high = max(offset - at, 0), min(stop - at, len(batch))
            if low < high:
                yield from enumerate(arrow_rows(batch.slice(low, high - low)), start=at + low)
            at += len(batch)

    def _open(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with opened(self.path):
            pass  # refuses what is no file, which pyarrow would wait for
        try:
            return pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _batches(self, columns: list[str], groups: list[int] | None = None) -> Iterator[Any]:
        import pyarrow as pa

        if groups == []:
            return
        batches = self._open().iter_batches(_ROWS, row_groups=groups, columns=columns)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise self._unreadable(error) from error
            if batch is None:
                return
            yield batch

    def _unreadable(self, error: Exception) -> BadInput:
        return BadInput(f"{self.shown!r} is not readable as parquet: {error}")


def arrow_rows(table: Any) -> list[Row]:
    """The rows of a pyarrow table or record batch, as Python values."""
    names = table.schema.names
    columns = [_cells(table.column(i)) for i in range(len(names))]
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _cells(column: Any) -> list[Any]:
    """Python values of a column; as text where Python has none for them (the year 20000)."""
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):  # pyarrow's own errors derive from ValueError
        values = column.cast("string").to_pylist()
    return values


def _text_sizes(column: Any) -> list[int]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type):  # chat messages
        return [len(str(cell).encode("utf-8", "replace")) for cell in column.to_pylist()]
    try:
        sizes = pc.binary_length(column)
    except (NotImplementedError, ValueError) as error:  # pyarrow's own errors derive from these
        raise BadInput(f"the text column holds {column.type}, not text") from error
    return [size or 0 for size in sizes.to_pylist()]
