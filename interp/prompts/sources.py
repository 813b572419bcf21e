"""Prompts as users have them, read into texts or token ids with their annotations.

Knows files, tables and documents; knows nothing of tokenizers or models. Every prompt is read or
the source is refused: one bad line gives no prompts at all. Columns that nobody asked for and that
can be no labels are left out, with a note.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp._arrays import Bools, Ints
from interp.errors import BadInput, UnknownName, nearest
from interp.prompts.formats import SUFFIXES, Row, data_file, refuse_lacking
from interp.prompts.label_values import as_mapping, inexact, plain, whole_text
from interp.prompts.messages import (
    Conversation,
    chat_column,
    conversation,
    is_conversation,
    is_message,
)
from interp.prompts.tabular import is_tabular, table_columns, table_name, table_rows
from interp.prompts.user_files import regular, shown, similar, suffix_of

LANGUAGES = ("english", "demo")
IDS, MASK = "input_ids", "attention_mask"  # what tokenizers call them
# "007" and "1_000" are names, not numbers
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(_WHOLE.pattern + r"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True, eq=False)
class Raw:
    """Prompts before tokenisation: `texts`, `ids` or `chats`, and their annotations.

    `fields` holds one value per prompt: a scalar, a list with one value per token, or None.
    `annotations` holds gold words per prompt: mappings with `start`, `end` and other fields.
    `keep` marks, per prompt, the cells of the ids as given that are no padding.
    `asked`: every column was asked for, so that none may be left out.
    """

    source: str
    texts: tuple[str, ...] | None = None
    ids: tuple[Ints, ...] | None = None
    chats: tuple[Conversation, ...] | None = None
    fields: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    annotations: Mapping[str, Sequence[Sequence[Row]]] = field(default_factory=dict)
    keep: Sequence[Bools] | None = None
    notes: tuple[str, ...] = ()
    asked: bool = False


@dataclass(frozen=True)
class Wanted:
    """Columns to read: the one with the text, and the others that are asked for."""

    text: str
    columns: tuple[str, ...] | None = None

    @property
    def all(self) -> tuple[str, ...] | None:
        """Every column that is read; None for all."""
        return None if self.columns is None else (self.text, IDS, MASK, *self.columns)


def read(
    source: Any,
    *,
    mask: Any = None,
    text_column: str,
    language: str,
    columns: Sequence[str] | None = None,
) -> Raw:
    """Reads any supported source; errors say which part of it is at fault.

    What was read already stays as it is, whatever the options.
    """
    if isinstance(source, Raw):
        return source
    if isinstance(columns, str):
        raise BadInput(f"columns={columns!r} is one text; pass a list of names: [{columns!r}]")
    wanted = Wanted(text_column, None if columns is None else tuple(columns))
    raw = _read(source, mask, wanted, language)
    if raw.ids is None and mask is not None:
        raise BadInput("mask= goes with a token tensor [batch, pos]; texts are padded later")
    _refuse_empty(raw)
    return raw


def _read(source: Any, mask: Any, wanted: Wanted, language: str) -> Raw:
    if isinstance(source, str):
        return _read_string(source, wanted, language)
    if isinstance(source, os.PathLike):
        return _read_file(Path(source), wanted)
    if is_tabular(source):
        return _read_table(source, wanted, mask)
    if isinstance(source, torch.Tensor) or (
        isinstance(source, np.ndarray) and source.dtype.kind not in "UOT"
    ):
        return _read_tensor(source, mask)
    if _is_document(source):
        return _from_documents([source], "1 annotated document")
    if isinstance(source, Mapping):
        return _read_mapping(source, mask, wanted)
    return _read_list(_listed(source), mask, wanted)


def _listed(source: Any) -> Sequence[Any]:
    """The items of a list, column or generator, read to its end."""
    if isinstance(source, list | tuple):
        return source
    kind = type(source).__name__
    if isinstance(source, io.IOBase):
        raise BadInput(f"cannot read prompts from an open file ({kind}); pass its path")
    if isinstance(source, AbstractSet):
        raise BadInput(f"a {kind} has no order, so its prompts no numbers; pass sorted(...)")
    for method in ("to_pylist", "tolist"):  # columns of pyarrow, of pandas and NumPy
        if hasattr(source, method):
            items: list[Any] = getattr(source, method)()
            return items
    if isinstance(source, Iterable) and not isinstance(source, bytes | bytearray):
        return list(source)
    raise BadInput(
        f"cannot read prompts from {kind}; allowed: a list of strings, a token tensor "
        f"[batch, pos], lists of ids, chat messages, a mapping with {IDS!r}, a path "
        f"({', '.join(SUFFIXES)}), a data set, a pandas or pyarrow table, annotated documents, or "
        f"a built-in name ({', '.join(sorted(BUILT_IN))})"
    )


def _refuse_empty(raw: Raw) -> None:
    if not (raw.texts or raw.ids or raw.chats):
        raise BadInput(f"no prompts in {raw.source}: at least one is needed")
    for i, text in enumerate(raw.texts or ()):
        if not isinstance(text, str):
            raise BadInput(f"prompt {i} is {type(text).__name__}, not a string ({raw.source})")
        if not text:
            raise BadInput(f"prompt {i} is an empty string ({raw.source})")
        whole_text(f"prompt {i}", text)  # the tokenizer would crash
    for i, ids in enumerate(raw.ids or ()):
        if not len(ids):
            raise BadInput(f"prompt {i} has no tokens ({raw.source})")


# --- a string: built-in name, file or prompt -------------------------------------------------


def _read_string(source: str, wanted: Wanted, language: str) -> Raw:
    """A built-in name wins, then an existing file; a string with a space in it is one prompt."""
    if source in BUILT_IN:
        if language not in LANGUAGES:
            raise BadInput(
                f"unknown language {language!r}{nearest(language, LANGUAGES)} "
                f"(allowed: {', '.join(LANGUAGES)})"
            )
        return BUILT_IN[source](language)
    if _exists(source):
        return _read_file(Path(source), wanted)
    looks_like_file = suffix_of(source) in SUFFIXES
    if looks_like_file or (source and not any(c.isspace() for c in source)):
        raise _not_found(source, looks_like_file or "/" in source)
    return Raw("one string, taken as a prompt", texts=(source,))


def _exists(source: str) -> bool:
    """True if there is a file of that name, or a link that leads nowhere."""
    try:
        return bool(source) and (Path(source).exists() or Path(source).is_symlink())
    except (OSError, ValueError):  # a long text is no legal file name
        return False


def _not_found(source: str, as_file: bool) -> Exception:
    hint = f"to use it as a prompt, put it in a list: [{source!r}]"
    if as_file:
        return BadInput(f"no such file: {shown(source)!r}{similar(Path(source))} ({hint})")
    names = sorted(BUILT_IN)
    return UnknownName(
        f"{source!r} is neither a built-in set nor a file{nearest(source, names)} "
        f"(built in: {', '.join(names)}; {hint})"
    )


# --- files ------------------------------------------------------------------------------------


def _read_file(path: Path, wanted: Wanted) -> Raw:
    if path.is_dir():
        raise BadInput(f"{shown(path)!r} is a folder; name a file ({', '.join(SUFFIXES)})")
    file = data_file(str(regular(path)), wanted.text, wanted.all)
    numbers, rows = [], []
    for number, row in file.read():
        if isinstance(row, str):
            raise BadInput(f"{file.shown!r}, {file.unit} {number}: {row}")
        numbers.append(number)
        rows.append(row)
    if not rows and file.is_blank():
        raise BadInput(f"{file.shown!r} is empty")
    names = file.names()
    if names and IDS not in names:
        refuse_lacking(file)
    _refuse_unknown(wanted, names, file.shown)
    if suffix_of(path) == ".csv":
        rows = _with_numbers(rows, [name for name in names or () if name != wanted.text])
    blank = numbers[-1] - len(rows) if rows and suffix_of(path) == ".txt" else 0
    notes = (f"{blank} blank lines of {file.shown} were skipped",) if blank else ()
    return _from_rows(rows, wanted, file.shown, notes=notes)


def _with_numbers(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """Cells of columns that hold only whole or only decimal numbers become numbers.

    Long numbers that would not keep all their digits are names, and stay text.
    """
    out = [dict(row) for row in rows]
    for name in columns:
        cells = [row[name] for row in out if row[name]]
        kind = _kind_of_cells(cells)
        for row in out:
            row[name] = kind(row[name]) if row[name] else None
    return [*out]


def _kind_of_cells(cells: Sequence[str]) -> type:
    if not all(map(_NUMBER.fullmatch, cells)) or any(len(cell) > 400 for cell in cells):
        return str
    numbers = [int(cell) if _WHOLE.fullmatch(cell) else float(cell) for cell in cells]
    if inexact(numbers):
        return str
    return int if all(isinstance(number, int) for number in numbers) else float


# --- rows, tables, documents ------------------------------------------------------------------


def _from_rows(
    rows: Sequence[Any],
    wanted: Wanted,
    source: str,
    mask: Any = None,
    notes: tuple[str, ...] = (),
) -> Raw:
    """Text column (or ids), and every other column as labels, token labels or gold words."""
    if not rows:
        raise BadInput(f"no prompts in {source}: it has no rows")
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise BadInput(f"{source}: row {i} is {type(row).__name__}, not a mapping")
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = ids = keep = chats = None
    column = _column_of_chats(rows, names, wanted)
    if column is not None:
        _refuse_lacking_rows(rows, names, column, source)
        cells = enumerate(row[column] for row in rows)
        chats = tuple(conversation(cell, f"{source}: prompt {i}") for i, cell in cells)
        used: tuple[str, ...] = (column,)
    elif wanted.text not in names and IDS in names:
        found = _read_encoding([row.get(IDS) for row in rows], _masks(rows, mask), source)
        ids, keep, used = found.ids, found.keep, (IDS, MASK)
    else:
        _refuse_lacking_rows(rows, names, wanted.text, source)
        texts, used = tuple(row[wanted.text] for row in rows), (wanted.text,)
    fields, annotations, left_out = _columns(rows, names, used, wanted, source)
    notes, asked = (*notes, *left_out), wanted.columns is not None
    return Raw(source, texts, ids, chats, fields, annotations, keep, notes, asked)


def _column_of_chats(rows: Sequence[Row], names: Sequence[Any], wanted: Wanted) -> str | None:
    """The column with conversations: the one asked for, or one that is called so."""
    if wanted.text in names:
        values = (row.get(wanted.text) for row in rows)
        return wanted.text if any(map(is_conversation, values)) else None
    return None if IDS in names else chat_column(names, wanted.text)


def _masks(rows: Sequence[Row], mask: Any) -> Any:
    return [row.get(MASK) for row in rows] if mask is None else mask


def _refuse_lacking_rows(rows: Sequence[Row], names: Sequence[Any], text: str, source: str) -> None:
    for i, row in enumerate(rows):
        if text not in row:
            others = [name for name in names if name != text]
            raise BadInput(
                f"{source}: row {i} has no column {text!r}{nearest(text, others)} "
                f"(columns: {', '.join(map(str, names))}; choose one with text_column=)"
            )


Columns = tuple[dict[str, list[Any]], dict[str, list[Any]], list[str]]


def _columns(
    rows: Sequence[Row], names: Sequence[Any], used: Sequence[str], wanted: Wanted, source: str
) -> Columns:
    """Labels and gold words by column, and notes on the columns that are neither."""
    fields: dict[str, list[Any]] = {}
    annotations: dict[str, list[Any]] = {}
    notes: list[str] = []
    _refuse_unknown(wanted, names, source)
    for name in names if wanted.columns is None else wanted.columns:
        if name in used:
            continue
        values = [row.get(name) for row in rows]
        try:
            if any(map(_is_annotation, values)):
                annotations[str(name)] = [value or () for value in values]
            else:
                fields[str(name)], note = _label_values(str(name), values, source)
                notes += note
        except BadInput as error:
            if wanted.columns is not None:
                raise BadInput(f"column {name!r} of {source}: {error}") from error
            notes.append(f"column {name!r} of {source} was left out: {error}")
    return fields, annotations, notes


def _refuse_unknown(wanted: Wanted, names: Sequence[Any] | None, source: str) -> None:
    """Raises for a column that is asked for and not there; without `names` nothing is known yet."""
    for name in wanted.columns or ():
        if names is not None and name not in names:
            known = ", ".join(map(str, names))
            raise BadInput(f"{source} has no column {name!r}{nearest(name, names)} (has: {known})")


def _label_values(name: str, values: Sequence[Any], source: str) -> tuple[list[Any], list[str]]:
    """A column as label values, and a note if it had to be made text.

    Raises `BadInput` for a column that can be no label.
    """
    if not name.strip():
        raise BadInput("it has no name")
    if any(map(_is_nested, values)):
        raise BadInput("its values are nested")
    out = [_plain_values(f"label {name!r}", i, value) for i, value in enumerate(values)]
    cells = [c for v in out for c in (v if isinstance(v, list) else [v]) if c is not None]
    numbers = [isinstance(c, int | float) and not isinstance(c, bool) for c in cells]
    kinds = {"number" if n else type(c).__name__ for c, n in zip(cells, numbers, strict=True)}
    found = inexact(cells)
    if len(kinds) <= 1 and found is None:
        return out, []
    why = "it mixes kinds of values" if found is None else f"{found[0]} {found[1]}"
    texts = [[_as_text(c) for c in v] if isinstance(v, list) else _as_text(v) for v in out]
    return texts, [f"column {name!r} of {source} is read as text: {why}"]


def _is_nested(value: Any) -> bool:
    inner = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(item, Mapping | list | tuple) for item in inner)


def _plain_values(what: str, i: int, value: Any) -> Any:
    """A value, or the values of a prompt's tokens, as plain Python."""
    value = value.tolist() if isinstance(value, np.ndarray | torch.Tensor) else value
    if isinstance(value, list | tuple):
        return [plain(what, i, item) for item in value]
    return plain(what, i, value)


def _as_text(cell: Any) -> str | None:
    return None if cell is None else str(cell)


def _is_annotation(value: Any) -> bool:
    """True if a value is a list of words: objects with character offsets."""
    return isinstance(value, list) and bool(value) and _is_word(value[0])


def _is_word(value: Any) -> bool:
    return isinstance(value, Mapping) and {"start", "end"} <= value.keys()


def _read_table(source: Any, wanted: Wanted, mask: Any) -> Raw:
    names, kind = table_columns(source), table_name(source)
    chat = chat_column(names, wanted.text)
    if names is not None and wanted.text not in names and IDS not in names and chat is None:
        raise BadInput(
            f"the {kind} has no column {wanted.text!r}{nearest(wanted.text, names)} "
            f"(columns: {', '.join(names)}; choose one with text_column=)"
        )
    _refuse_unknown(wanted, names, f"the {kind}")
    return _from_rows(table_rows(source, _read_columns(wanted, names)), wanted, kind, mask)


def _read_columns(wanted: Wanted, names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Every column of a table that is read; None for all."""
    chat = chat_column(names, wanted.text)
    return wanted.all if wanted.all is None or chat is None else (*wanted.all, chat)


def _read_mapping(source: Mapping[str, Any], mask: Any, wanted: Wanted) -> Raw:
    """A tokenizer's encoding, one row, or columns of equal length."""
    kind = type(source).__name__
    if IDS in source:
        return _read_encoding(source[IDS], source.get(MASK) if mask is None else mask, kind)
    chat = chat_column(source, wanted.text)
    if chat is not None and is_conversation(source[chat]):
        return _from_rows([source], wanted, kind)
    if wanted.text not in source and is_message(source):
        raise BadInput("one chat message; put it in a list, which is a conversation: [message]")
    if wanted.text not in source and chat is None:
        raise BadInput(
            f"a {kind} is read as prompts if it has {IDS!r} (and {MASK!r}, where padded), the "
            f"column {wanted.text!r} or 'messages'; it has: "
            f"{', '.join(map(str, source)) or 'nothing'}"
        )
    if isinstance(source.get(wanted.text), str):
        return _from_rows([source], wanted, kind)
    for name, values in source.items():
        if isinstance(values, str):
            raise BadInput(f"column {name!r} of the {kind} is one text; give one value per prompt")
    columns = {name: list(_listed(values)) for name, values in source.items()}
    sizes = {name: len(cells) for name, cells in columns.items()}
    if len(set(sizes.values())) > 1:
        raise BadInput(f"the columns of the {kind} differ in length: {sizes}")
    cells = zip(*columns.values(), strict=True)
    return _from_rows([dict(zip(columns, row, strict=True)) for row in cells], wanted, kind)


# --- documents and lists ----------------------------------------------------------------------


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
    return Raw(source, texts=texts, fields=fields, annotations={"words": words}, asked=True)


def _read_list(source: Sequence[Any], mask: Any, wanted: Wanted) -> Raw:
    if not source:
        raise BadInput("no prompts in the list: at least one is needed")
    first = source[0]
    if isinstance(first, str):
        return Raw("list of strings", texts=tuple(source))
    if is_message(first) and wanted.text not in first:
        return Raw("list of messages", chats=(conversation(source, "prompt 0"),))
    if is_conversation(first):
        chats = (conversation(item, f"prompt {i}") for i, item in enumerate(source))
        return Raw("list of conversations", chats=tuple(chats))
    if isinstance(first, Mapping):
        return _from_rows(source, wanted, "list of rows", mask)
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
    keep = [*np.ones(array.shape, bool)] if mask is None else _mask_of(mask, array.shape)
    ids = tuple(row[kept].astype(np.int64) for row, kept in zip(array, keep, strict=True))
    return Raw(f"token tensor {list(array.shape)}", ids=ids, keep=keep)


def _read_encoding(ids: Any, mask: Any, source: str) -> Raw:
    """Ids of one prompt or several, padded or ragged, and a mask of the same shape."""
    rows = [_ids_of(row, i) for i, row in enumerate(_prompt_rows(IDS, ids))]
    if mask is None:
        return Raw(source, ids=tuple(rows))
    masks = _prompt_rows(MASK, mask)
    if len(masks) != len(rows):
        raise BadInput(f"{source}: {len(rows)} prompts of ids, but {len(masks)} masks")
    keep = [_mask_row(m, i, len(row)) for i, (m, row) in enumerate(zip(masks, rows, strict=True))]
    found = tuple(row[kept] for row, kept in zip(rows, keep, strict=True))
    return Raw(source, ids=found, keep=tuple(keep))


def _prompt_rows(what: str, values: Any) -> list[Any]:
    """One entry per prompt; the values of a single prompt are one."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray) and values.dtype != object:
        return list(np.atleast_2d(values))
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
        raise BadInput(f"{what} is {type(values).__name__}; expected ids by prompt")
    rows = list(values)
    flat = bool(rows) and isinstance(rows[0], int | np.integer)
    return [rows] if flat else rows


def _mask_of(mask: Any, shape: tuple[int, ...]) -> list[Bools]:
    array = np.asarray(mask.detach().cpu() if isinstance(mask, torch.Tensor) else mask)
    if array.shape != shape:
        raise BadInput(f"mask of shape {array.shape}; the tokens have {tuple(shape)}")
    return [_mask_row(row, i, shape[1]) for i, row in enumerate(array)]


def _mask_row(row: Any, i: int, length: int) -> Bools:
    """One prompt's mask as truth values, without holes; None masks nothing."""
    if row is None:
        return np.ones(length, dtype=bool)
    array = np.asarray(row.detach().cpu() if isinstance(row, torch.Tensor) else row)
    if array.shape != (length,):
        raise BadInput(f"mask row {i} has shape {array.shape}; the prompt has {length} ids")
    odd = np.flatnonzero(~np.isin(array, (0, 1)))
    if len(odd):
        raise BadInput(
            f"mask holds {array[odd[0]]} at [{i}, {odd[0]}]; allowed: 0 for padding, 1 for real"
        )
    kept: Bools = array.astype(bool)
    real = np.flatnonzero(kept)
    if not len(real):
        raise BadInput(f"mask row {i} is all padding: the prompt has no tokens")
    if real[-1] - real[0] + 1 != len(real):
        hole = real[0] + int(np.argmin(kept[real[0] :]))
        raise BadInput(
            f"mask row {i} has a hole at position {hole}; padding may be at the ends only"
        )
    return kept


# --- built-in sets ----------------------------------------------------------------------------


def _her(language: str) -> Raw:
    if language == "demo":
        documents = import_module("interp.demo").her_documents(n=54)
        return _from_documents(documents, "built-in set 'her' (demo language)")
    text = resources.files("interp.prompts").joinpath("data", "her.txt").read_text(encoding="utf-8")
    return Raw("built-in set 'her'", texts=tuple(text.splitlines()))


def _demo(language: str) -> Raw:
    del language  # exists in the demo language only
    return _from_documents(import_module("interp.demo").demo_documents(), "built-in set 'demo'")


BUILT_IN: dict[str, Callable[[str], Raw]] = {"her": _her, "demo": _demo}
