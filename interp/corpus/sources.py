"""Corpora as streams of documents: files, folders, globs, data sets; any size, constant memory.

A source is scanned once, which gives its fingerprint and the shards, and then read shard by shard
from any process. Shards depend on the source alone. What is wrong with one document is the fault
of that document; what is wrong with the source is refused at once. Knows nothing of tokens.
"""

from __future__ import annotations

import csv
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from interp._files import checksum
from interp._sources import SUFFIXES
from interp.errors import BadInput, nearest

SHARD_BYTES = 1 << 20
"""Text of a shard, unless a number of documents is asked for: about 250,000 English tokens."""
SHARD_DOCUMENTS = 10_000
"""And at most so many documents."""
_ROWS = 1024  # rows read at once where a format has rows


@dataclass(frozen=True)
class Document:
    """One document: its number in the corpus, where it stands, its row, or why it has none."""

    number: int
    where: str
    row: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a document starts: file, byte or row in it, line (from 1, or 0 where rows count)."""

    file: int
    offset: int
    line: int = 0


@dataclass(frozen=True)
class Span:
    """Shards that follow each other and whose results are merged; one shard alone, too."""

    first: int
    last: int

    @property
    def stem(self) -> str:
        """How names of its files begin."""
        one = self.first == self.last
        return f"{self.first:06d}" if one else f"{self.first:06d}-{self.last:06d}"

    @property
    def numbers(self) -> range:
        return range(self.first, self.last + 1)

    @property
    def size(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Shard:
    """A piece of work: `count` documents from `place` on, the first of which has number `first`."""

    index: int
    place: Place
    first: int
    count: int

    @property
    def span(self) -> Span:
        return Span(self.index, self.index)


@dataclass(frozen=True)
class Plan:
    """What a scan found: the shards, the size of the corpus and its fingerprint."""

    shards: tuple[Shard, ...]
    documents: int
    bytes: int
    longest: int
    sha256: str


@dataclass(frozen=True)
class Source(ABC):
    """Where documents come from. Can be pickled and opened again in another process."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the source is called in messages and provenance."""

    @abstractmethod
    def scan(self, digest: Any) -> Iterator[tuple[Place, int]]:
        """Place and bytes of text of every document, in order; `digest` sees all that counts."""

    @abstractmethod
    def read(self, shard: Shard) -> Iterator[Document]:
        """The documents of a shard."""


def plan(source: Source, shard_documents: int | None = None) -> Plan:
    """Scan a source once and cut it into shards.

    Raises `BadInput` where there is no document, or `shard_documents` is below 1.
    """
    if shard_documents is not None and shard_documents < 1:
        raise BadInput(f"shard_documents={shard_documents}; a shard has at least one document")
    digest = hashlib.sha256()
    shards: list[Shard] = []
    start, first, size, number, total, longest = Place(0, 0), 0, 0, 0, 0, 0
    for place, length in source.scan(digest):
        count = number - first
        full = count >= (shard_documents or SHARD_DOCUMENTS)
        full |= shard_documents is None and size + length > SHARD_BYTES
        if count and (full or place.file != start.file):
            shards.append(Shard(len(shards), start, first, count))
            first, size = number, 0
        if number == first:
            start = place
        number, size, total = number + 1, size + length, total + length
        longest = max(longest, length)
    if not number:
        raise BadInput(f"no documents in {source.name}: at least one is needed")
    shards.append(Shard(len(shards), start, first, number - first))
    return Plan(tuple(shards), number, total, longest, digest.hexdigest())


def open_source(
    source: Any, *, text_column: str = "text", columns: Sequence[str] = (), split: str | None = None
) -> Source:
    """The source behind a path, folder, glob, `hf:NAME`, data set or list of texts or rows.

    Args:
        source: a .jsonl, .parquet, .csv or .txt file (one document a line), a folder of them (with
            its folders), a glob, a list of paths; a folder that `save_to_disk` wrote; `hf:NAME` or
            `hf:NAME:CONFIG` on the hub; a data set of `datasets`; a list of strings or mappings.
        text_column: the column with the text.
        columns: other columns that are needed; the rest is not read where the format allows it.
        split: of a data set with several.

    Raises `BadInput` for anything that is none of these.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        return _dataset(_from_hub(source[3:], split), source, text_column, split)
    if isinstance(source, str | Path):
        path = Path(source)
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _dataset(_from_disk(path, split), str(path), text_column, split)
        return Files(_files(str(source)), text_column, tuple(columns))
    if getattr(source, "column_names", None) is not None:
        return _dataset(source, "data set", text_column, split)
    if isinstance(source, list | tuple) and source:
        if all(isinstance(item, Path) for item in source):
            found = [path for item in source for path in _files(str(item))]
            return Files(tuple(found), text_column, tuple(columns))
        rows = [{text_column: item} if isinstance(item, str) else item for item in source]
        if all(isinstance(row, Mapping) for row in rows):
            return Rows(tuple(rows), text_column)
    raise BadInput(
        f"cannot read a corpus from {type(source).__name__}; allowed: a file "
        f"({', '.join(SUFFIXES)}), a folder or glob of them, a list of paths, hf:NAME, a data set, "
        "a list of strings or rows"
    )


# ---- files -----------------------------------------------------------------------------------


def _files(pattern: str) -> tuple[str, ...]:
    """The files behind a path, folder or glob, in the order of their names."""
    path = Path(pattern)
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
        found = [p for p in found if not any(part.startswith(".") for part in p.parts)]
    else:
        found = [Path(p) for p in glob(pattern, recursive=True) if Path(p).is_file()]  # noqa: PTH207  Path.glob takes no absolute pattern
    if not found:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        what = f"folder {pattern!r} has no" if path.is_dir() else f"no file matches {pattern!r}; no"
        raise BadInput(f"{what} {', '.join(SUFFIXES)} file{nearest(path.name, beside)}")
    for file in found:
        if file.suffix.lower() not in SUFFIXES:
            raise BadInput(
                f"cannot read {str(file)!r}: unknown suffix {file.suffix!r}"
                f"{nearest(file.suffix, SUFFIXES)} (allowed: {', '.join(SUFFIXES)})"
            )
    return tuple(sorted(str(p) for p in found))


@dataclass(frozen=True)
class Files(Source):
    """Files by path; documents are numbered over all of them."""

    paths: tuple[str, ...]
    text_column: str = "text"
    columns: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        if len(self.paths) == 1:
            return self.paths[0]
        return f"{len(self.paths)} files, {self.paths[0]} to {self.paths[-1]}"

    def scan(self, digest: Any) -> Iterator[tuple[Place, int]]:
        for number, path in enumerate(self.paths):
            digest.update(f"|{Path(path).name}|".encode())
            for offset, line, length in _format(path, self.text_column, self.columns).scan(digest):
                yield Place(number, offset, line), length

    def read(self, shard: Shard) -> Iterator[Document]:
        path = self.paths[shard.place.file]
        found = _format(path, self.text_column, self.columns).read(shard.place, shard.count)
        for i, (line, row) in enumerate(found):
            where = f"{path}, {line}"
            if isinstance(row, str):
                yield Document(shard.first + i, where, fault=row)
            else:
                yield Document(shard.first + i, where, row)


@dataclass(frozen=True)
class _File(ABC):
    """One file of a format: `scan` gives (offset, line, bytes), `read` (where, row or fault)."""

    path: str
    text_column: str
    columns: tuple[str, ...]

    @abstractmethod
    def scan(self, digest: Any) -> Iterator[tuple[int, int, int]]: ...

    @abstractmethod
    def read(self, place: Place, count: int) -> Iterator[tuple[str, Mapping[str, Any] | str]]: ...

    def _lines(self, offset: int = 0) -> Iterator[bytes]:
        try:
            with Path(self.path).open("rb") as stream:
                stream.seek(offset)
                yield from stream
        except OSError as error:
            raise BadInput(f"cannot read {self.path!r}: {error.strerror or error}") from error


class _Lines(_File):
    """A document on every line that is not blank."""

    def scan(self, digest: Any) -> Iterator[tuple[int, int, int]]:
        offset = 0
        for number, line in enumerate(self._lines(), start=1):
            digest.update(line)
            if line.strip(b"\xef\xbb\xbf \t\r\n"):
                yield offset, number, len(line)
            offset += len(line)

    def read(self, place: Place, count: int) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
        number, left = place.line, count
        for line in self._lines(place.offset):
            if not left:
                return
            if line.strip(b"\xef\xbb\xbf \t\r\n"):
                yield f"line {number}", self._row(line)
                left -= 1
            number += 1

    def _row(self, line: bytes) -> Mapping[str, Any] | str:
        """The document, or what is wrong with its line."""
        try:
            text = line.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            return f"not UTF-8 at byte {error.start} of the line"
        return self.parse(text)

    def parse(self, text: str) -> Mapping[str, Any] | str:
        return {self.text_column: text.rstrip("\r\n")}


class _JsonLines(_Lines):
    def parse(self, text: str) -> Mapping[str, Any] | str:
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            return f"not JSON at column {error.colno} ({error.msg})"
        except RecursionError:
            return "JSON that is nested too deeply"
        return row if isinstance(row, dict) else f"expected an object, got {type(row).__name__}"


class _Csv(_File):
    """Rows under a header; a quoted cell may run over lines, so offsets are those of records."""

    def scan(self, digest: Any) -> Iterator[tuple[int, int, int]]:
        records = self._records(0, 1, digest)
        self._header(next(records, (0, 0, 0, []))[3])
        for offset, line, length, cells in records:
            if cells:
                yield offset, line, length

    def read(self, place: Place, count: int) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
        header = self._header(next(self._records(0, 1))[3])
        left = count
        for _, line, _, cells in self._records(place.offset, place.line):
            if not left:
                return
            if cells:
                left -= 1
                yield f"line {line}", self._row(header, cells)

    def _row(self, header: list[str], cells: list[str]) -> Mapping[str, Any] | str:
        if len(cells) != len(header):
            return (
                f"{len(cells)} cells, but the header has {len(header)} ({', '.join(header)}); "
                "quote texts that hold commas"
            )
        return dict(zip(header, (cell or None for cell in cells), strict=True))

    def _header(self, cells: list[str]) -> list[str]:
        if self.text_column not in cells:
            raise BadInput(
                f"{self.path!r} has no column {self.text_column!r}"
                f"{nearest(self.text_column, cells)} (columns: {', '.join(cells) or 'none'}; "
                "choose one with text_column)"
            )
        return cells

    def _records(
        self, offset: int, line: int, digest: Any = None
    ) -> Iterator[tuple[int, int, int, list[str]]]:
        """(offset, line, bytes, cells) of every record from `offset` on."""
        taken = [offset, line]

        def lines() -> Iterator[str]:
            for raw in self._lines(offset):
                if digest is not None:
                    digest.update(raw)
                taken[0], taken[1] = taken[0] + len(raw), taken[1] + 1
                text = raw.decode("utf-8", errors="surrogateescape")
                yield text.removeprefix("\ufeff") if taken[1] == 2 else text

        try:
            csv.field_size_limit(1 << 30)
            reader = csv.reader(lines(), strict=True)
            while True:
                start, number = taken
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                yield start, number, taken[0] - start, cells
        except csv.Error as error:
            raise BadInput(f"{self.path!r}, line {taken[1]}: malformed csv ({error})") from error


class _Parquet(_File):
    """Rows of a Parquet file; only the columns that are needed are read."""

    def scan(self, digest: Any) -> Iterator[tuple[int, int, int]]:
        checksum(Path(self.path), digest.update)
        row = 0
        for batch in self._batches([self.text_column]):
            for length in _text_sizes(batch.column(0)):
                yield row, 0, length
                row += 1

    def read(self, place: Place, count: int) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
        file = self._open()
        wanted = [c for c in (self.text_column, *self.columns) if c in file.schema_arrow.names]
        first, groups = 0, []
        for number in range(file.metadata.num_row_groups):
            size = file.metadata.row_group(number).num_rows
            if first + size > place.offset and first < place.offset + count:
                groups.append((number, first))
            first += size
        at = groups[0][1]
        for batch in self._batches(wanted, [number for number, _ in groups]):
            low, high = max(place.offset - at, 0), min(place.offset + count - at, len(batch))
            if low < high:
                for i, row in enumerate(batch.slice(low, high - low).to_pylist()):
                    yield f"row {at + low + i}", row
            at += len(batch)

    def _open(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{self.path!r} is not readable as parquet: {error}") from error
        names = file.schema_arrow.names
        if self.text_column not in names:
            raise BadInput(
                f"{self.path!r} has no column {self.text_column!r}"
                f"{nearest(self.text_column, names)} (columns: {', '.join(names)}; choose one "
                "with text_column)"
            )
        return file

    def _batches(self, columns: list[str], groups: list[int] | None = None) -> Iterator[Any]:
        yield from self._open().iter_batches(_ROWS, row_groups=groups, columns=columns)


def _text_sizes(column: Any) -> list[int]:
    import pyarrow.compute as pc

    try:
        sizes = pc.binary_length(column)
    except (NotImplementedError, ValueError) as error:  # pyarrow's own errors derive from these
        raise BadInput(f"the text column holds {column.type}, not text") from error
    return [size or 0 for size in sizes.to_pylist()]


def _format(path: str, text_column: str, columns: tuple[str, ...]) -> _File:
    kinds: dict[str, Callable[..., _File]] = {
        ".txt": _Lines,
        ".jsonl": _JsonLines,
        ".csv": _Csv,
        ".parquet": _Parquet,
    }
    return kinds[Path(path).suffix.lower()](path, text_column, columns)


# ---- rows and data sets ----------------------------------------------------------------------


@dataclass(frozen=True)
class Rows(Source):
    """Rows that are in memory already."""

    rows: tuple[Mapping[str, Any], ...]
    text_column: str = "text"

    @property
    def name(self) -> str:
        return f"list of {len(self.rows)} documents"

    def scan(self, digest: Any) -> Iterator[tuple[Place, int]]:
        for i, row in enumerate(self.rows):
            digest.update(json.dumps(row, default=repr, sort_keys=True).encode())
            yield Place(0, i), len(str(row.get(self.text_column, "")).encode("utf-8", "replace"))

    def read(self, shard: Shard) -> Iterator[Document]:
        for i in range(shard.first, shard.first + shard.count):
            yield Document(i, f"item {i}", self.rows[i])


@dataclass(frozen=True)
class Dataset(Source):
    """A data set of the library `datasets`, mapped from the disk: rows by number."""

    data: Any
    called: str
    text_column: str = "text"

    @property
    def name(self) -> str:
        return self.called

    def scan(self, digest: Any) -> Iterator[tuple[Place, int]]:
        row = 0
        texts = self.data.select_columns([self.text_column]).with_format("arrow")
        for table in texts.iter(_ROWS):
            column = table.column(0).combine_chunks()
            for text in column.to_pylist():
                encoded = str(text).encode("utf-8", "replace")
                digest.update(f"|{len(encoded)}|".encode() + encoded)
                yield Place(0, row), len(encoded)
                row += 1

    def read(self, shard: Shard) -> Iterator[Document]:
        for start in range(shard.first, shard.first + shard.count, _ROWS):
            stop = min(start + _ROWS, shard.first + shard.count)
            for i, row in enumerate(_plain_rows(self.data, start, stop), start=start):
                yield Document(i, f"row {i}", row)


def _plain_rows(data: Any, start: int, stop: int) -> Iterable[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = data.with_format("arrow")[start:stop].to_pylist()
    return rows


def _dataset(data: Any, called: str, text_column: str, split: str | None) -> Dataset:
    names = data.column_names
    if isinstance(names, Mapping):
        if split not in names:
            known = ", ".join(map(str, names))
            raise BadInput(f"the data set has several splits ({known}); choose one with split")
        data, names = data[split], names[split]
    if not hasattr(data, "num_rows"):
        raise BadInput(
            "a data set that streams from the hub has no rows by number, so that its shards cannot "
            "be read again; load it without streaming=True (it stays on the disk, not in memory)"
        )
    if text_column not in names:
        raise BadInput(
            f"the data set has no column {text_column!r}{nearest(text_column, names)} "
            f"(columns: {', '.join(names)}; choose one with text_column)"
        )
    return Dataset(data, called, text_column)


def _from_disk(path: Path, split: str | None) -> Any:
    import datasets

    data = datasets.load_from_disk(str(path))
    return (
        data[split] if split and isinstance(data.column_names, Mapping) and split in data else data
    )


def _from_hub(name: str, split: str | None) -> Any:
    import datasets

    repository, _, config = name.partition(":")
    try:
        return datasets.load_dataset(repository, config or None, split=split)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"the data set {name!r} cannot be opened: {str(error).strip().splitlines()[0]}"
        ) from error
