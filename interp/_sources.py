"""What a user hands over as prompts, read into texts or token ids with their annotations.

Knows files, datasets and documents; knows nothing of tokenizers or models. It reads everything or
raises: a source with one bad line gives no prompts at all.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp._cells import as_mapping
from interp._tokenise import Ints
from interp.errors import BadInput, UnknownName, nearest

Row = Mapping[str, Any]
SUFFIXES = (".csv", ".jsonl", ".parquet", ".txt")
LANGUAGES = ("english", "demo")
# "007" and "1_000" are names, not numbers
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(_WHOLE.pattern + r"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True, eq=False)
class Raw:
    """Prompts before tokenisation: either `texts` or `ids`, and what was said about them.

    `fields` holds one value per prompt: a scalar, a list with one value per token, or None.
    `annotations` holds gold words per prompt: mappings with `start`, `end` and other fields.
    """

    source: str
    texts: tuple[str, ...] | None = None
    ids: tuple[Ints, ...] | None = None
    fields: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    annotations: tuple[Sequence[Sequence[Row]], ...] = ()
    keep: np.ndarray[Any, np.dtype[np.bool_]] | None = None
    notes: tuple[str, ...] = ()


def read(source: Any, *, mask: Any = None, text_column: str, language: str) -> Raw:
    """Read any supported source; errors say which part of it is at fault."""
    raw = _read(source, mask, text_column, language)
    if raw.ids is None and mask is not None:
        raise BadInput("mask= goes with a token tensor [batch, pos]; texts are padded later")
    _refuse_empty(raw)
    return raw


def _read(source: Any, mask: Any, text_column: str, language: str) -> Raw:
    if isinstance(source, str):
        return _read_string(source, text_column, language)
    if isinstance(source, Path):
        return _read_file(source, text_column)
    if isinstance(source, torch.Tensor | np.ndarray):
        return _read_tensor(source, mask)
    if getattr(source, "column_names", None) is not None:
        return _read_dataset(source, text_column)
    if _is_document(source):
        return _from_documents([source], "1 annotated document")
    if isinstance(source, list | tuple):
        return _read_list(source, mask, text_column)
    raise BadInput(
        f"cannot read prompts from {type(source).__name__}; allowed: a list of strings, a token "
        f"tensor [batch, pos], lists of ids, a path ({', '.join(SUFFIXES)}), a dataset with "
        f"column_names, annotated documents, or a built-in name ({', '.join(sorted(BUILT_IN))})"
    )


def _refuse_empty(raw: Raw) -> None:
    if not (raw.texts or raw.ids):
        raise BadInput(f"no prompts in {raw.source}: at least one is needed")
    for i, text in enumerate(raw.texts or ()):
        if not isinstance(text, str):
            raise BadInput(f"prompt {i} is {type(text).__name__}, not a string ({raw.source})")
        if not text:
            raise BadInput(f"prompt {i} is an empty string ({raw.source})")
        _refuse_surrogates(i, text)
    for i, ids in enumerate(raw.ids or ()):
        if not len(ids):
            raise BadInput(f"prompt {i} has no tokens ({raw.source})")


def _refuse_surrogates(i: int, text: str) -> None:
    """Half a character, as a cut JSON escape leaves it, would crash inside the tokenizer."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(
            f"prompt {i}, character {error.start}: {text[error.start]!r} is half a character"
        ) from error


# --- a string: built-in name, file or prompt -------------------------------------------------


def _read_string(source: str, text_column: str, language: str) -> Raw:
    """A built-in name wins, then an existing file; a string with a space in it is one prompt."""
    if source in BUILT_IN:
        if language not in LANGUAGES:
            raise BadInput(
                f"unknown language {language!r}{nearest(language, LANGUAGES)} "
                f"(allowed: {', '.join(LANGUAGES)})"
            )
        return BUILT_IN[source](language)
    if _exists(source):
        return _read_file(Path(source), text_column)
    looks_like_file = Path(source).suffix.lower() in SUFFIXES
    if looks_like_file or (source and not any(c.isspace() for c in source)):
        raise _not_found(source, looks_like_file or "/" in source)
    return Raw("one string, taken as a prompt", texts=(source,))


def _exists(source: str) -> bool:
    try:
        return bool(source) and Path(source).exists()
    except OSError:  # a long text is no legal file name
        return False


def _not_found(source: str, as_file: bool) -> Exception:
    hint = f"to use it as a prompt, put it in a list: [{source!r}]"
    if as_file:
        folder = Path(source).parent
        beside = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        return BadInput(f"no such file: {source!r}{nearest(Path(source).name, beside)} ({hint})")
    names = sorted(BUILT_IN)
    return UnknownName(
        f"{source!r} is neither a built-in set nor a file{nearest(source, names)} "
        f"(built in: {', '.join(names)}; {hint})"
    )


# --- files ------------------------------------------------------------------------------------


def _read_file(path: Path, text_column: str) -> Raw:
    suffix = path.suffix.lower()
    if not path.exists():
        raise _not_found(str(path), True)
    if path.is_dir():
        raise BadInput(f"{str(path)!r} is a folder; name a file ({', '.join(SUFFIXES)})")
    if suffix not in SUFFIXES:
        raise BadInput(
            f"cannot read {str(path)!r}: unknown suffix {suffix!r}{nearest(suffix, SUFFIXES)} "
            f"(allowed: {', '.join(SUFFIXES)})"
        )
    if suffix == ".txt":
        return _read_txt(path)
    if suffix == ".csv":
        rows = _rows_of_csv(path, text_column)
    else:
        rows = _rows_of_jsonl(path) if suffix == ".jsonl" else _rows_of_parquet(path)
    return _from_rows(rows, text_column, str(path))


def _text_of(path: Path) -> str:
    """The file as text; a byte-order mark is dropped."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{str(path)!r} is not UTF-8: byte {error.start} (line {line}); convert it first"
        ) from error
    if not text.strip():
        raise BadInput(f"{str(path)!r} is empty")
    return text


def _read_txt(path: Path) -> Raw:
    # not splitlines(): a form feed or a Unicode separator inside a text ends no line
    lines = re.split(r"\r\n|\n|\r", _text_of(path).rstrip("\r\n"))
    texts = tuple(line for line in lines if line.strip())
    blank = len(lines) - len(texts)
    notes = (f"{blank} blank lines of {path} were skipped",) if blank else ()
    return Raw(str(path), texts=texts, notes=notes)


def _rows_of_jsonl(path: Path) -> list[Row]:
    rows: list[Row] = []
    # split on "\n" alone: JSON strings may hold the other separators that splitlines knows
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(
                f"{str(path)!r}, line {number}, column {error.colno}: not JSON ({error.msg})"
            ) from error
        if not isinstance(row, dict):
            raise BadInput(
                f"{str(path)!r}, line {number}: expected an object, got {type(row).__name__}"
            )
        rows.append(row)
    return rows


def _rows_of_csv(path: Path, text_column: str) -> list[Row]:
    reader = csv.reader(io.StringIO(_text_of(path), newline=""), strict=True)
    header: list[str] = []
    rows: list[dict[str, Any]] = []
    try:
        header = next(reader)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise BadInput(
                    f"{str(path)!r}, line {reader.line_num}: {len(cells)} cells, but the header "
                    f"has {len(header)} ({', '.join(header)}); quote texts that hold commas"
                )
            rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise BadInput(f"{str(path)!r}, line {reader.line_num}: malformed csv ({error})") from error
    if len(set(header)) < len(header):
        raise BadInput(f"{str(path)!r}: column names repeat ({', '.join(header)})")
    return _with_numbers(rows, [name for name in header if name != text_column])


def _with_numbers(rows: list[dict[str, Any]], columns: Sequence[str]) -> list[Row]:
    """Cells of columns that hold only whole or only decimal numbers become numbers."""
    for name in columns:
        cells = [row[name] for row in rows if row[name]]
        numbers = all(_NUMBER.fullmatch(cell) for cell in cells)
        kind = str if not numbers else int if all(map(_WHOLE.fullmatch, cells)) else float
        for row in rows:
            row[name] = kind(row[name]) if row[name] else None
    return [*rows]


def _rows_of_parquet(path: Path) -> list[Row]:
    parquet = import_module("pyarrow.parquet")
    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except (ValueError, OSError) as error:  # pyarrow's own errors derive from these
        raise BadInput(f"{str(path)!r} is not readable as parquet: {error}") from error
    return rows


# --- rows, datasets, documents ----------------------------------------------------------------


def _from_rows(rows: Sequence[Row], text_column: str, source: str) -> Raw:
    """Text column, and every other column as labels, token labels or gold words."""
    if not rows:
        raise BadInput(f"no prompts in {source}: it has no rows")
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise BadInput(f"{source}: row {i} is {type(row).__name__}, not a mapping")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for i, row in enumerate(rows):
        if text_column not in row:
            others = [name for name in columns if name != text_column]
            raise BadInput(
                f"{source}: row {i} has no column {text_column!r}{nearest(text_column, others)} "
                f"(columns: {', '.join(map(str, columns))}; choose one with text_column=)"
            )
    fields: dict[str, list[Any]] = {}
    annotations, notes = [], []
    for name in columns:
        values = [row.get(name) for row in rows]
        if name == text_column:
            continue
        if any(map(_is_annotation, values)):
            annotations.append([value or () for value in values])
        elif any(map(_is_nested, values)):
            notes.append(f"column {name!r} of {source} was left out: its values are nested")
        else:
            fields[str(name)] = values
    texts = tuple(row[text_column] for row in rows)
    return Raw(source, texts, None, fields, tuple(annotations), notes=tuple(notes))


def _is_annotation(value: Any) -> bool:
    """Whether a value is a list of words: objects with character offsets."""
    return isinstance(value, list) and bool(value) and _is_word(value[0])


def _is_word(value: Any) -> bool:
    return isinstance(value, Mapping) and {"start", "end"} <= value.keys()


def _is_nested(value: Any) -> bool:
    inner = value if isinstance(value, list) else [value]
    return any(isinstance(item, Mapping | list) for item in inner)


def _read_dataset(source: Any, text_column: str) -> Raw:
    names = source.column_names
    if isinstance(names, Mapping):
        splits = ", ".join(map(str, names))
        raise BadInput(f"the dataset has several splits ({splits}); pass one of them")
    if text_column not in names:
        raise BadInput(
            f"the dataset has no column {text_column!r}{nearest(text_column, names)} "
            f"(columns: {', '.join(names)}; choose one with text_column=)"
        )
    return _from_rows([dict(row) for row in source], text_column, "dataset")


def _is_document(item: Any) -> bool:
    return hasattr(item, "text") and hasattr(item, "words")


def _from_documents(documents: Iterable[Any], source: str) -> Raw:
    """Texts with gold words; the other scalar fields of a document are labels of the prompt."""
    items = list(documents)
    for i, item in enumerate(items):
        if not _is_document(item):
            raise BadInput(f"prompt {i} is {type(item).__name__}; it needs .text and .words")
    words = [[as_mapping(word) for word in item.words] for item in items]
    facts = [
        {k: v for k, v in as_mapping(item).items() if k not in ("text", "words")} for item in items
    ]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    fields = {name: [fact.get(name) for fact in facts] for name in names}
    texts = tuple(item.text for item in items)
    return Raw(source, texts=texts, fields=fields, annotations=(words,))


def _read_list(source: Sequence[Any], mask: Any, text_column: str) -> Raw:
    if not source:
        raise BadInput("no prompts in the list: at least one is needed")
    first = source[0]
    if isinstance(first, str):
        return Raw("list of strings", texts=tuple(source))
    if isinstance(first, Mapping):
        return _from_rows(source, text_column, "list of rows")
    if _is_document(first):
        return _from_documents(source, f"{len(source)} annotated documents")
    if isinstance(first, int | np.integer):
        raise BadInput("a flat list of ids; put it in a list of prompts: [[…]]")
    if mask is not None:
        if len({len(ids) for ids in source}) != 1:
            raise BadInput("mask= goes with a token tensor [batch, pos]; these rows are ragged")
        return _read_tensor(np.stack([_ids_of(ids, i) for i, ids in enumerate(source)]), mask)
    return Raw("lists of ids", ids=tuple(_ids_of(ids, i) for i, ids in enumerate(source)))


# --- token ids --------------------------------------------------------------------------------


def _ids_of(ids: Any, i: int) -> Ints:
    if not isinstance(ids, list | tuple | torch.Tensor | np.ndarray):
        raise BadInput(f"prompt {i} is {type(ids).__name__}; expected a list of token ids")
    try:
        array = np.asarray(ids.detach().cpu() if isinstance(ids, torch.Tensor) else ids)
    except ValueError as error:
        raise BadInput(f"prompt {i} is nested unevenly; expected one row of ids") from error
    if array.ndim != 1:
        raise BadInput(f"prompt {i} has shape {tuple(array.shape)}; expected one row of ids")
    if array.size and array.dtype.kind not in "iu":
        raise BadInput(f"prompt {i} holds {array.dtype}; token ids are integers")
    return array.astype(np.int64)


def _read_tensor(source: Any, mask: Any) -> Raw:
    if isinstance(source, torch.Tensor):
        integral = not (source.is_floating_point() or source.is_complex())
    else:
        integral = source.dtype.kind in "iu"
    if not integral or source.dtype == torch.bool:
        raise BadInput(f"token tensor of dtype {source.dtype}; token ids are integers (int64)")
    array = source.detach().cpu().numpy() if isinstance(source, torch.Tensor) else source
    if array.ndim != 2:
        raise BadInput(
            f"token tensor of shape {tuple(array.shape)}; expected [batch, pos]"
            + ("; add a batch dimension: tokens[None]" if array.ndim == 1 else "")
        )
    if not array.size:
        raise BadInput(f"no tokens in a tensor of shape {tuple(array.shape)}")
    keep = np.ones(array.shape, dtype=bool) if mask is None else _mask_of(mask, array.shape)
    ids = tuple(row[kept].astype(np.int64) for row, kept in zip(array, keep, strict=True))
    return Raw(f"token tensor {list(array.shape)}", ids=ids, keep=keep)


def _mask_of(mask: Any, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    array = np.asarray(mask.detach().cpu() if isinstance(mask, torch.Tensor) else mask)
    if array.shape != shape:
        raise BadInput(f"mask of shape {array.shape}; the tokens have {tuple(shape)}")
    if not np.isin(array, (0, 1)).all():
        row, column = np.argwhere(~np.isin(array, (0, 1)))[0]
        raise BadInput(
            f"mask holds {array[row, column]} at [{row}, {column}]; "
            "allowed: 0 for padding, 1 for real"
        )
    keep = array.astype(bool)
    for i, row in enumerate(keep):
        real = np.flatnonzero(row)
        if not len(real):
            raise BadInput(f"mask row {i} is all padding: the prompt has no tokens")
        if real[-1] - real[0] + 1 != len(real):
            hole = real[0] + int(np.argmin(row[real[0] :]))
            raise BadInput(
                f"mask row {i} has a hole at position {hole}; padding may be at the ends only"
            )
    return keep


# --- built-in sets ----------------------------------------------------------------------------


def _her(language: str) -> Raw:
    if language == "demo":
        documents = import_module("interp.demo").her_documents(n=54)
        return _from_documents(documents, "built-in set 'her' (demo language)")
    text = resources.files("interp").joinpath("data", "her.txt").read_text(encoding="utf-8")
    return Raw("built-in set 'her'", texts=tuple(text.splitlines()))


def _demo(language: str) -> Raw:
    del language  # exists in the demo language only
    return _from_documents(import_module("interp.demo").demo_documents(), "built-in set 'demo'")


BUILT_IN: dict[str, Callable[[str], Raw]] = {"her": _her, "demo": _demo}
