"""Corpora as streams of documents: files, folders, globs, data sets; any size, constant memory.

A source is scanned once, which gives its fingerprint and the shards, and then read shard by shard
from any process. Shards depend on the source only. An error in one document is recorded for that
document; an error of the source is raised at once. Knows nothing of tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from interp.errors import BadInput, nearest
from interp.prompts.formats import SUFFIXES, arrow_rows, data_file, refuse_lacking
from interp.prompts.messages import chat_column, is_conversation, is_message
from interp.prompts.tabular import is_tabular, table_columns, table_name, table_rows
from interp.prompts.user_files import format_of, regular, shown, similar, suffix_of

SHARD_BYTES = 1 << 20
"""Bytes of text per shard unless `shard_documents` is given: about 250,000 English tokens."""
SHARD_DOCUMENTS = 10_000
"""Largest number of documents per shard unless `shard_documents` is given."""
_ROWS = 1024  # rows of a data set that are read at once
# Marks of what this library wrote.
_WRITTEN = ("corpus.json", "results.json", "series.json", "experiment.json")


@dataclass(frozen=True)
class Document:
    """One document: its number in the corpus, its place, and its row or the fault in it."""

    number: int
    where: str
    row: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None


@dataclass(frozen=True)
class Place:
    """Start of a document: file, byte or row in it, line (from 1; 0 for files of rows)."""

    file: int
    offset: int
    line: int = 0


@dataclass(frozen=True)
class Span:
    """Consecutive shards whose results are merged; also a single shard."""

    first: int
    last: int

    @property
    def stem(self) -> str:
        """Beginning of the names of its files."""
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
    """Result of a scan: the shards, the size of the corpus and its fingerprint."""

    shards: tuple[Shard, ...]
    documents: int
    bytes: int
    longest: int
    sha256: str


@dataclass(frozen=True)
class Source(ABC):
    """An origin of documents, which can be pickled and opened again in another process."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the source in messages and provenance."""

    @abstractmethod
    def scan(self, digest: Any) -> Iterator[tuple[Place, int]]:
        """Place and bytes of text of every document in order; updates `digest` with the text."""

    @abstractmethod
    def read(self, shard: Shard) -> Iterator[Document]:
        """The documents of a shard."""


def plan(source: Source, shard_documents: int | None = None) -> Plan:
    """Scan a source once and cut it into shards.

    Raises `BadInput` if there is no document, or `shard_documents` is below 1.
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
        # A shard never spans two files, so that a place in one file is enough to read it.
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
        source: a .jsonl, .parquet, .csv or .txt file (one document a line; all but .parquet also
            as .gz), a folder of them (with its folders; hidden files and results of this library
            are left out), a glob, a list of paths; a folder that `save_to_disk` wrote; `hf:NAME`
            or `hf:NAME:CONFIG` on the hub; a data set of `datasets`; a pandas or pyarrow table; a
            list of strings, mappings or conversations (lists of chat messages).
        text_column: the column with the text, or with chat messages; where there is no "text",
            messages, conversations, conversation or chat.
        columns: other columns that are needed; the rest is not read if the format allows it.
        split: of a data set with several.

    Raises `BadInput` for anything that is none of these.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        return _dataset(_from_hub(source[3:], split), source, text_column, split)
    if isinstance(source, str | Path):
        path = Path(source)
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _dataset(_from_disk(path, split), str(path), text_column, split)
        return Files(_files(path), text_column, tuple(columns))
    if is_tabular(source):
        return _table(source, text_column, split)
    source = _items(source)
    if isinstance(source, list | tuple) and source:
        if is_message(source[0]) and text_column not in source[0]:
            raise BadInput(
                "the list is one conversation, and a corpus has several: pass a list of them, "
                "[messages]"
            )
        if all(isinstance(item, os.PathLike) for item in source):
            found = [path for item in source for path in _files(Path(item))]
            return Files(tuple(found), text_column, tuple(columns))
        rows = [_row(item, text_column) for item in source]
        if all(isinstance(row, Mapping) for row in rows):
            return Rows(tuple(rows), text_column)
    raise BadInput(
        f"cannot read a corpus from {type(source).__name__}; allowed: a file "
        f"({', '.join(SUFFIXES)}), a folder or glob of them, a list of paths, hf:NAME, a data set, "
        "a pandas or pyarrow table, a list of strings or rows. A corpus is read more than once: "
        "write the items of a generator to a file first"
    )


def _row(item: Any, text_column: str) -> Any:
    """A text or a conversation as a row; anything else unchanged."""
    return {text_column: item} if isinstance(item, str) or is_conversation(item) else item


def _items(source: Any) -> Any:
    """The items of a column of pandas, NumPy or pyarrow as a list; anything else unchanged."""
    for method in ("to_pylist", "tolist"):
        if hasattr(source, method):
            return getattr(source, method)()
    return source


# ---- files -----------------------------------------------------------------------------------


def _files(path: Path) -> tuple[str, ...]:
    """The files behind a path, folder or glob, in the order of their names."""
    if path.is_dir():
        found = _files_in(path)
    elif path.exists() or path.is_symlink():
        found = [path]
    else:
        found = [Path(p) for p in glob(str(path), recursive=True) if not Path(p).is_dir()]  # noqa: PTH207  Path.glob takes no absolute pattern
    if not found:
        name = shown(path)
        what = f"folder {name!r} has no" if path.is_dir() else f"no file matches {name!r}; no"
        raise BadInput(f"{what} {', '.join(SUFFIXES)} file{similar(path)}")
    for file in found:
        format_of(regular(file), SUFFIXES)
    # Sorted, because the order of a folder's entries differs between file systems, and documents
    # are numbered by it.
    return tuple(sorted(map(str, found)))


def _files_in(folder: Path) -> list[Path]:
    """The data files under a folder, without hidden ones and results of this library."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        if Path(place) != folder and _is_ours(Path(place), names):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        wanted = [n for n in names if suffix_of(n) in SUFFIXES and not n.startswith(".")]
        found += [Path(place) / name for name in wanted]
    return found


def _is_ours(folder: Path, names: Sequence[str]) -> bool:
    """True for a folder with results of this library, such as those of the run in progress."""
    # By the key "schema" as well as the name: a user's own results.json is a data file.
    for name in set(names) & set(_WRITTEN):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and "schema" in found:
            return True
    return False


@dataclass(frozen=True)
class Files(Source):
    """Files by path; documents are numbered over all of them."""

    paths: tuple[str, ...]
    text_column: str = "text"
    columns: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        names = [shown(path) for path in self.paths]
        return names[0] if len(names) == 1 else f"{len(names)} files, {names[0]} to {names[-1]}"

    def scan(self, digest: Any) -> Iterator[tuple[Place, int]]:
        for number, path in enumerate(self.paths):
            # Names without folders: the same corpus may be moved between two calls.
            digest.update(b"|" + os.fsencode(Path(path).name) + b"|")
            file = data_file(path, self.text_column, self.columns)
            refuse_lacking(file)
            for offset, line, length in file.scan(digest):
                yield Place(number, offset, line), length

    def read(self, shard: Shard) -> Iterator[Document]:
        place = shard.place
        file = data_file(self.paths[place.file], self.text_column, self.columns)
        found = file.read(place.offset, place.line, shard.count)
        for number, (at, row) in enumerate(found, start=shard.first):
            where = f"{file.shown}, {file.unit} {at}"
            if isinstance(row, str):
                yield Document(number, where, fault=row)
            else:
                yield Document(number, where, row)


# ---- rows and data sets ----------------------------------------------------------------------


@dataclass(frozen=True)
class Rows(Source):
    """A source of rows in memory."""

    rows: tuple[Mapping[str, Any], ...]
    text_column: str = "text"

    @property
    def name(self) -> str:
        return f"list of {len(self.rows)} documents"

    def scan(self, digest: Any) -> Iterator[tuple[Place, int]]:
        for i, row in enumerate(self.rows):
            digest.update(json.dumps(row, default=repr, sort_keys=True).encode())
            column = chat_column(row, self.text_column) or self.text_column
            yield Place(0, i), len(str(row.get(column, "")).encode("utf-8", "replace"))

    def read(self, shard: Shard) -> Iterator[Document]:
        for i in range(shard.first, shard.first + shard.count):
            yield Document(i, f"item {i}", self.rows[i])


@dataclass(frozen=True)
class Dataset(Source):
    """A source of rows by number: a data set of the library `datasets`, mapped from the disk."""

    data: Any
    called: str
    text_column: str = "text"

    @property
    def name(self) -> str:
        return self.called

    def scan(self, digest: Any) -> Iterator[tuple[Place, int]]:
        row = 0
        for start in range(0, self.data.num_rows, _ROWS):
            for text in _cells(self.data, start, start + _ROWS, self.text_column):
                # The length first, or "a", "bc" and "ab", "c" would have one fingerprint.
                encoded = str(text).encode("utf-8", "replace")
                digest.update(f"|{len(encoded)}|".encode() + encoded)
                yield Place(0, row), len(encoded)
                row += 1

    def read(self, shard: Shard) -> Iterator[Document]:
        for start in range(shard.first, shard.first + shard.count, _ROWS):
            stop = min(start + _ROWS, shard.first + shard.count)
            for i, row in enumerate(arrow_rows(_slice(self.data, start, stop)), start=start):
                yield Document(i, f"row {i}", row)


def _slice(data: Any, start: int, stop: int) -> Any:
    """Rows of a data set, or of a pyarrow table, as a pyarrow table."""
    if not hasattr(data, "with_format"):
        return data.slice(start, stop - start)
    return data.with_format("arrow")[start:stop]


def _cells(data: Any, start: int, stop: int, column: str) -> list[Any]:
    chosen = data.select_columns([column]) if hasattr(data, "select_columns") else data
    cells: list[Any] = _slice(chosen, start, stop).column(column).to_pylist()
    return cells


def _table(source: Any, text_column: str, split: str | None) -> Source:
    """A table in memory, or a data set."""
    if hasattr(source, "with_format") or isinstance(getattr(source, "column_names", 0), Mapping):
        return _dataset(source, "data set", text_column, split)
    names, kind = table_columns(source) or [], table_name(source)
    if hasattr(source, "slice") and hasattr(source, "num_rows"):  # stays Arrow until it is read
        return _dataset(source, kind, text_column, split)
    text_column = chat_column(names, text_column) or text_column
    _refuse_without_text(kind, text_column, names)
    return Rows(tuple(table_rows(source)), text_column)


def _refuse_without_text(kind: str, text_column: str, names: Sequence[str]) -> None:
    if text_column not in names:
        raise BadInput(
            f"the {kind} has no column {text_column!r}{nearest(text_column, names)} "
            f"(columns: {', '.join(names)}; choose one with text_column=)"
        )


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
    text_column = chat_column(names, text_column) or text_column
    _refuse_without_text("data set", text_column, names)
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
