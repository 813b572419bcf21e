"""Conversion of documents to chunks that fit the context: tokenised, labelled whole, then cut.

A document that cannot be used is recorded as a failure with its reason; the others are measured.
Knows text, tokens and labels; nothing of analyses or files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Bools, Ints
from interp.errors import BadInput, InterpError, nearest, unknown
from interp.prompts.label_values import is_scalar, plain
from interp.prompts.labels import labelled
from interp.prompts.messages import ROLE, chat_column, is_conversation
from interp.prompts.prompts import Prompts
from interp.prompts.read import read_prompts
from interp.prompts.tokens import special_ids
from interp.runs.corpus.sources import Document

LONG = ("split", "cut", "refuse")
POSITION_BIN, TOKEN_ID = "position_bin", "token_id"
# The documents of a window are sorted by length together: enough text for full batches of like
# length, and little enough that the tokens and labels of one window fit anywhere.
WINDOW_BYTES = 1 << 17
WINDOW_DOCUMENTS = 1024


@dataclass(frozen=True)
class Failure:
    """A document, or one chunk of it (−1: all of it), that was not measured, with the reason."""

    document: int
    chunk: int
    where: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """Settings by which documents become chunks.

    Attributes:
        text_column: the column with the text.
        long: treatment of documents longer than the context: "split" into chunks, "cut" after the
            first, or "refuse" as a failure.
        overlap: tokens that a chunk repeats from the one before as context; not measured twice.
        limit: most tokens of a chunk, special ones included.
        prepend_bos: whether a chunk starts with BOS.
        massive_first: whether the first token of a chunk has a massive norm for lack of a BOS.
        vocab_size: of the model.
        labels: the label columns in use.
        renamed: `(label, column)` of labels whose column of the source has another name.
        labellers: applied to whole documents, in order.
        stride: ids of a document's chunks start at its number times this.
        generation_prompt: whether chat messages end where the reply begins.
    """

    text_column: str = "text"
    long: str = "split"
    overlap: int = 0
    limit: int | None = None
    prepend_bos: bool = True
    massive_first: bool = False
    vocab_size: int | None = None
    labels: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    labellers: tuple[Callable[[Prompts], Prompts], ...] = ()
    stride: int = 1
    generation_prompt: bool = False

    @property
    def columns(self) -> dict[str, str]:
        """The source's column of each label."""
        return {name: name for name in self.labels} | dict(self.renamed)


@dataclass(frozen=True, eq=False)
class Chunks:
    """Prompts that fit the context, and their places in their documents.

    Attributes:
        prompts: the chunks; repeated tokens are marked special, so that none is counted twice.
        ids: int64 `[chunks]`, ascending: document number · stride + chunk.
        documents, numbers: int64 `[chunks]`: document number, and chunk number in the document.
        where: per chunk, the place of its document in the source.
        starts: int64 `[chunks]`, row of a chunk's first token in the flat columns.
        places: int64 `[tokens]`, position in the document.
        repeated: bool `[tokens]`, tokens that an earlier chunk has measured.
    """

    prompts: Prompts
    ids: Ints
    documents: Ints
    numbers: Ints
    where: tuple[str, ...]
    starts: Ints
    places: Ints
    repeated: Bools

    def labels(self, names: Sequence[str]) -> dict[str, pd.Series[Any]]:
        """Label columns, one value per token; unknown ones raise `UnknownName`."""
        return {name: self._label(name) for name in names}

    def _label(self, name: str) -> pd.Series[Any]:
        if name == POSITION_BIN:
            return pd.Series(position_bins(self.places))
        if name == TOKEN_ID:
            return pd.Series(np.concatenate(self.prompts.tokens))
        if name not in self.prompts.labels:
            return pd.Series(np.full(len(self.places), None, dtype=object))
        return pd.Series(np.concatenate(self.prompts.labels[name]), dtype=object)


def check_reading(long: str, overlap: int, limit: int | None) -> None:
    """Raise `BadInput` or `UnknownName` for settings of cutting that contradict each other."""
    if long not in LONG:
        raise unknown("value of long", long, LONG)
    if overlap < 0:
        raise BadInput(f"overlap={overlap}; a number of tokens, 0 or more")
    if overlap and long != "split":
        raise BadInput(f"overlap={overlap} goes with long='split', not {long!r}")
    if limit is not None and overlap > limit // 2:
        raise BadInput(
            f"overlap={overlap} is more than half of the context of {limit} tokens: most of the "
            f"work would be done twice; at most {limit // 2}"
        )


def stride_of(longest: int, long: str, overlap: int, limit: int | None) -> int:
    """A power of ten above the number of chunks that `longest` bytes of text can make.

    A token other than a special one is at least one byte, so the bound holds for any tokenizer.
    """
    # Ids of chunks must not depend on other shards: with a stride known from the scan, document 7's
    # second chunk has the same id whichever worker measures it. A power of ten keeps ids legible.
    if long != "split" or limit is None:
        return 1
    step = max(limit - overlap - 2, 1)
    most = -(-(longest + 2) // step)
    return 1 if most <= 1 else int(10 ** len(str(most)))


def position_bins(places: Ints) -> Any:
    """Names of the bins of positions, which double in width: "0", "1", "2-3", "4-7", ….

    >>> position_bins(np.array([0, 1, 3, 4])).tolist()
    ['000000', '000001', '000002-000003', '000004-000007']
    """
    power = np.where(places > 0, np.floor(np.log2(np.maximum(places, 1))), -1).astype(np.int64)
    highest = int(power.max(initial=0))
    # Padded to one width: labels are text, and text sorts "10" before "2".
    names = ["000000", "000001"]
    names += [f"{2**k:06d}-{2 ** (k + 1) - 1:06d}" for k in range(1, highest + 1)]
    return np.asarray(names, dtype=object)[power + 1]


def windows(
    documents: Iterator[Document], extra: int = 0, times: int = 1
) -> Iterator[list[Document]]:
    """Groups of documents that are read and sorted together, bounded in text and in number.

    Args:
        extra: bytes that each document counts more than its own.
        times: number of texts that each document becomes.
    """
    group: list[Document] = []
    size = 0
    for document in documents:
        length = (sum(map(_length, document.row.values())) + extra) * times
        if group and (len(group) == WINDOW_DOCUMENTS or size + length > WINDOW_BYTES):
            yield group
            group, size = [], 0
        group.append(document)
        size += length
    if group:
        yield group


def _length(value: Any) -> int:
    """Characters of a text, or of a conversation with what it is stored in."""
    if isinstance(value, str):
        return len(value)
    return len(str(value)) if is_conversation(value) else 0


def read_window(
    documents: Sequence[Document], tokenizer: Any, reading: Reading
) -> tuple[Chunks | None, list[Failure]]:
    """The chunks of a window (None if nothing can be used), and the failures."""
    prompts, kept, failures = whole_documents(documents, tokenizer, reading)
    if prompts is None:
        return None, failures
    return cut(prompts, kept, reading, special_ids(tokenizer)), failures


def whole_documents(
    documents: Sequence[Document], tokenizer: Any, reading: Reading
) -> tuple[Prompts | None, list[Document], list[Failure]]:
    """The documents that can be read, as prompts that are not cut, and the failures."""
    failures = [Failure(d.number, -1, d.where, d.fault) for d in documents if d.fault]
    usable = [d for d in documents if not d.fault]
    return (*_prompts_of(usable, tokenizer, reading, failures), failures)


def _prompts_of(
    documents: Sequence[Document], tokenizer: Any, reading: Reading, failures: list[Failure]
) -> tuple[Prompts | None, list[Document]]:
    """Prompts of all documents at once; if one is at fault, of those that can be read alone."""
    if not documents:
        return None, []
    # One call for the whole window is the fast way; only a window with a fault is searched document
    # by document.
    try:
        return _tokenised(documents, tokenizer, reading), list(documents)
    except Exception as error:
        if isinstance(error, OSError | MemoryError):
            raise
        if len(documents) == 1:
            only = documents[0]
            failures.append(Failure(only.number, -1, only.where, _reason_of_one(error)))
            return None, []
    fine = [d for d in documents if _prompts_of([d], tokenizer, reading, failures)[1]]
    try:
        return (_tokenised(fine, tokenizer, reading), fine) if fine else (None, [])
    except InterpError as error:
        # Each can be read alone but not all together: their columns contradict each other.
        failures += [Failure(d.number, -1, d.where, reason_of(error)) for d in fine]
        return None, []


def reason_of(error: BaseException) -> str:
    """An error on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, InterpError) else f"{type(error).__name__}: {text}"


def _reason_of_one(error: BaseException) -> str:
    """What is wrong with a document that was read alone, as the only prompt of a list of rows.

    The list and the number are of this module; a user knows the document's own number.
    """
    text = reason_of(error).replace("list of rows: ", "").replace(" (list of rows)", "")
    return re.sub(r"\bprompt 0\b", "the document", text, count=1)


def _tokenised(documents: Sequence[Document], tokenizer: Any, reading: Reading) -> Prompts:
    rows = [_row_of(document, reading) for document in documents]
    chats = any(map(is_conversation, rows[0].values()))
    prompts = read_prompts(
        rows,
        tokenizer,
        labels={n: c for n, c in reading.renamed if c == ROLE} if chats else None,
        prepend_bos=reading.prepend_bos,
        max_length=reading.limit if reading.long != "split" else None,
        vocab_size=reading.vocab_size,
        text_column=reading.text_column,
        columns=list(dict.fromkeys(name for row in rows for name in row)),
        truncate=reading.long == "cut",
        generation_prompt=reading.generation_prompt,
    )
    for labeller in reading.labellers:
        prompts = labelled(prompts, labeller)
    return prompts


def _row_of(document: Document, reading: Reading) -> Mapping[str, Any]:
    """The text, the labels in use, and lists of words that may hold missing labels."""
    row = document.row
    text = chat_column(row, reading.text_column) or reading.text_column
    if text not in row:
        raise BadInput(
            f"no column {text!r}{nearest(text, row)} (columns: {', '.join(map(str, row))})"
        )
    out = {text: row[text]}
    columns = reading.columns
    out |= {name: _label(name, row[column]) for name, column in columns.items() if column in row}
    missing = {name: column for name, column in columns.items() if column not in row}
    if missing:
        used = {*columns.values(), text}
        out |= {
            k: [_asked(word, missing) for word in v]
            for k, v in row.items()
            if k not in used and word_fields(v)
        }
    return out


def _asked(word: Any, fields: Mapping[str, str]) -> Any:
    """A word's offsets and the requested fields, under the names of their labels."""
    if not isinstance(word, Mapping):
        return word
    found = {name: word[field] for name, field in fields.items() if field in word}
    return {k: word[k] for k in ("start", "end") if k in word} | found


def _label(name: str, value: Any) -> Any:
    """A document's label as text with all its digits, as tables and groups hold it."""
    # As text because shards are read apart: a column of 1, 2, 3 in one file and of 1.5 in another
    # must not have two types.
    if not is_scalar(value):
        return value
    found = plain(f"label {name!r}", 0, value)
    return None if found is None else str(found)


def word_fields(value: Any) -> set[str]:
    """The fields of a list of words with character offsets; empty for anything else."""
    first = value[0] if isinstance(value, list) and value else None
    words = isinstance(first, Mapping) and {"start", "end"} <= first.keys()
    return {str(name) for name in first} if words and first else set()


def cut(
    prompts: Prompts,
    documents: Sequence[Document],
    reading: Reading,
    controls: Sequence[int],
    first: Sequence[int] | None = None,
) -> Chunks:
    """Cut prompts that are longer than the limit; chunk by chunk, in order.

    Control tokens at the head (BOS), by their ids, begin every chunk. The target of a chunk's last
    token is the document's next token, although it is in the next chunk.

    Args:
        first: number of each prompt's first chunk; 0 unless given.
    """
    pieces = [
        (i, number + (first[i] if first else 0), places, repeated)
        for i, ids in enumerate(prompts.tokens)
        for number, (places, repeated) in enumerate(_pieces(np.isin(ids, controls), reading))
    ]
    owner = np.asarray([i for i, _, _, _ in pieces], dtype=np.int64)
    numbers = np.asarray([number for _, number, _, _ in pieces], dtype=np.int64)
    document = np.asarray([documents[i].number for i in owner], dtype=np.int64)
    lengths = [len(places) for _, _, places, _ in pieces]
    chunks = Prompts(
        tokens=tuple(prompts.tokens[i][p] for i, _, p, _ in pieces),
        special=tuple(prompts.special[i][p] | r for i, _, p, r in pieces),
        texts=(None,) * len(pieces),
        spans=(None,) * len(pieces),
        strings=tuple(tuple(map(prompts.strings[i].__getitem__, p)) for i, _, p, _ in pieces),
        labels={
            name: tuple(cells[i][p] for i, _, p, _ in pieces)
            for name, cells in prompts.labels.items()
        },
        targets=tuple(prompts.targets_of(i)[p] for i, _, p, _ in pieces),
        source=prompts.source,
        massive_first=reading.massive_first,
    )
    return Chunks(
        chunks,
        document * reading.stride + numbers,
        document,
        numbers,
        tuple(documents[i].where for i in owner),
        np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
        np.concatenate([p for _, _, p, _ in pieces]),
        np.concatenate([r for _, _, _, r in pieces]),
    )


def _pieces(control: Bools, reading: Reading) -> Iterator[tuple[Ints, Bools]]:
    """Positions of each chunk's tokens in the document, and a mask of the repeated ones."""
    n = len(control)
    if reading.limit is None or n <= reading.limit:
        yield np.arange(n), np.zeros(n, dtype=bool)
        return
    # The head that every chunk repeats: the control tokens before the first that is none.
    lead = int(np.argmin(control)) if not control.all() else 0
    room = reading.limit - lead
    start, seen = lead, 0
    while True:
        stop = min(start + room, n)
        places = np.concatenate([np.arange(lead), np.arange(start, stop)])
        yield places, places < seen
        if stop == n:
            return
        # At least one token onwards, or an overlap as long as the room would never end.
        seen, start = stop, max(stop - reading.overlap, start + 1)
