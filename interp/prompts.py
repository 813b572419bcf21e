"""Prompts: text or token ids, tokenised once, as a ragged immutable set that yields batches.

Knows tokens, special tokens, words and labels; knows nothing of models. `read_prompts` reads
whatever a user hands over, completely or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp._cells import (
    Objects,
    as_column,
    frozen,
    is_scalar,
    per_token,
    refuse_inexact,
    refuse_mixed,
    scalars,
    tagged,
    whole_text,
)
from interp._columns import refuse_taken
from interp._sources import Raw, read
from interp._tokenise import (
    Bools,
    Encoded,
    Ints,
    align,
    encode,
    recover_text,
    running_strings,
    trimmed,
    words,
)
from interp.errors import BadInput, nearest
from interp.labels import PLACE, Labeller, gold, regex, spacy_tags, target_word

__all__ = [
    "Prompts",
    "TokenBatch",
    "gold",
    "read_prompts",
    "regex",
    "spacy_tags",
    "target_word",
]

_WINDOW = 1024  # prompts sorted together; bounds how far a prompt moves from its place


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Prompts of similar length, padded to one rectangle.

    Attributes:
        tokens: `[batch, pos]` int64 ids; `pad_id` at padding.
        mask: `[batch, pos]` bool, true for real tokens.
        special: `[batch, pos]` bool, true for BOS and the like; false at padding.
        ids: `[batch]` int64, the prompt's number in the whole set.
        positions: `[batch, pos]` int64, position in the prompt, padding not counted; 0 there.
        targets: `[batch, pos]` int64, the next real token unless others were given; -1 for none.
    """

    tokens: Tensor
    mask: Tensor
    special: Tensor
    ids: Tensor
    positions: Tensor
    targets: Tensor


def _joined(parts: Sequence[Any], dtype: Any) -> Any:
    """The parts one after the other; without any, nothing of that type."""
    return np.concatenate([np.empty(0, dtype), *parts])


@dataclass(frozen=True, eq=False)
class Prompts:
    """A set of prompts as token ids, one array per prompt, without padding.

    Attributes:
        tokens: int64 `[length_i]`, as fed to the model, special tokens included.
        special: bool `[length_i]`, true for BOS, EOS and the like, added or literal.
        texts: the text of each prompt, None where only ids are known.
        spans: int64 `[length_i, 2]`, character offsets in the text, (0, 0) at special tokens;
            None where the tokenizer gives none.
        strings: each token as text; bytes that are no whole character as `⟨E4 BD⟩`, and those that
            complete one as `⟨A0→你⟩`.
        labels: per label name one object array `[length_i]` for each prompt; None is unlabelled.
        targets: int64 `[length_i]`, explicit target ids, -1 for none; None: the next tokens.
        source: what the prompts were read from.
        notes: what a reader of results should know, such as prompts without the target word.
        massive_first: the model that reads them has a massive first token: summaries leave the
            first token of each prompt out, whatever it is.
    """

    tokens: tuple[Ints, ...]
    special: tuple[Bools, ...]
    texts: tuple[str | None, ...]
    spans: tuple[Ints | None, ...]
    strings: tuple[tuple[str, ...], ...]
    labels: Mapping[str, tuple[Objects, ...]] = field(default_factory=dict)
    targets: tuple[Ints, ...] | None = None
    source: str = "unknown"
    notes: tuple[str, ...] = ()
    massive_first: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def left_out(self) -> tuple[Bools, ...]:
        """Tokens that summaries leave out, bool `[length_i]`: special, or first and massive."""
        return tuple(map(self._left_out, range(len(self))))

    @property
    def massive(self) -> int:
        """How many tokens are left out for being first and massive alone, not for being special."""
        firsts = (row[:1] for row in self.special) if self.massive_first else ()
        return sum(int((~first).sum()) for first in firsts)

    def _left_out(self, i: int) -> Bools:
        row = self.special[i]
        return row | (np.arange(len(row)) == 0) if self.massive_first else row

    @property
    def lengths(self) -> Ints:
        """Number of tokens of each prompt, special ones included: int64 `[n]`."""
        return np.asarray([len(row) for row in self.tokens], dtype=np.int64)

    def index(self) -> pd.DataFrame:
        """One row per token: prompt, position, token, token_id, special, word, and the labels.

        A massive first token counts as `special` here and in batches, but has its word.
        `word` counts the words of the prompt from 0; it is -1 at special tokens, at tokens of
        spaces only and where no character spans are known.
        """
        lengths = self.lengths
        columns: dict[str, Any] = {
            "prompt": np.repeat(np.arange(len(self)), lengths),
            "position": _joined([np.arange(n) for n in lengths], np.int64),
            "token": [string for row in self.strings for string in row],
            "token_id": _joined(self.tokens, np.int64),
            "special": _joined(self.left_out, np.bool_),
            "word": _joined([self._words(i) for i in range(len(self))], np.int64),
        }
        for name, arrays in self.labels.items():
            columns[name] = as_column(np.concatenate(arrays).tolist())
        return pd.DataFrame(columns)

    def _words(self, i: int) -> Ints:
        text, spans = self.texts[i], self.spans[i]
        if text is None or spans is None:
            return np.full(len(self.tokens[i]), -1, dtype=np.int64)
        found = align(trimmed(spans, text), words(text))
        found[self.special[i]] = -1
        return found

    def with_labels(self, name: str, values: Sequence[Any], *, note: str | None = None) -> Prompts:
        """The same prompts with one more label; a label of that name is replaced.

        Args:
            name: the column; not one of those that the library writes itself.
            values: one entry per prompt: a scalar for all its tokens, or one value per token (or
                per token that is not special). None and NaN mean unlabelled.
            note: added to `notes`.

        Raises:
            BadInput: wrong lengths, a reserved name, no scalars, text mixed with numbers.
        """
        refuse_taken([whole_text("name of a label", name)])
        values = [values] if isinstance(values, str) else list(values)
        if len(values) != len(self):
            raise BadInput(f"label {name!r}: expected {len(self)} prompts, got {len(values)}")
        arrays = tuple(
            per_token(f"label {name!r}", i, value, special, fill=None)
            for i, (value, special) in enumerate(zip(values, self.special, strict=True))
        )
        refuse_mixed(f"label {name!r}", arrays)
        refuse_inexact(f"label {name!r}", arrays)
        notes = (*self.notes, note) if note else self.notes
        return replace(self, labels={**self.labels, name: arrays}, notes=notes)

    def renamed(self, names: Mapping[str, str]) -> Prompts:
        """The same prompts with labels under new names: `{new: old}`.

        Raises:
            BadInput: no label `old`, a label `new` that is there already, or a reserved name.
        """
        back = _new_names(names, self.labels, "label")
        refuse_taken(names)
        return replace(self, labels={back.get(n, n): cells for n, cells in self.labels.items()})

    def label(self, labeller: Labeller) -> Prompts:
        """The same prompts with the labels that a labeller such as `target_word("her")` gives."""
        return labeller(self)

    def batches(
        self,
        max_tokens: int = 4096,
        pad_id: int = 0,
        padding_side: str = "right",
        *,
        max_batch: int | None = None,
        sort: bool = True,
        only: Sequence[int] | None = None,
        apart: Callable[[int], bool] | None = None,
    ) -> Iterator[TokenBatch]:
        """Rectangles of at most `max_tokens` cells, padding counted, each prompt exactly once.

        A prompt longer than the budget is a batch of its own.

        Args:
            max_tokens: budget of a batch: prompts times the longest of them.
            pad_id: the id at padding.
            padding_side: "right" or "left".
            max_batch: most prompts in a batch; no limit unless given.
            sort: longest first within windows of 1024 prompts, which leaves little padding;
                otherwise in the order given.
            only: the prompts to use, by number; `ids` keep the numbers of the whole set.
            apart: true for the lengths of prompts that share no batch with the others, as where a
                model encodes positions by the longest prompt of a pass.

        Raises:
            BadInput: a budget below 1, an unknown side, a number that is no prompt's.
        """
        _check_batching(max_tokens, max_batch, padding_side)
        chosen = list(range(len(self))) if only is None else [int(i) for i in only]
        for i in chosen:
            if not 0 <= i < len(self):
                raise BadInput(f"only= names prompt {i}; there are {len(self)}, counted from 0")
        rows = _sorted_in_windows(chosen, self.lengths) if sort else chosen
        kinds = [apart is not None and apart(int(n)) for n in self.lengths]
        plan = _grouped(rows, self.lengths, kinds, max_tokens, max_batch or len(self))
        return (self._batch(group, pad_id, padding_side) for group in plan)

    def _batch(self, rows: Sequence[int], pad_id: int, side: str) -> TokenBatch:
        lengths = [len(self.tokens[i]) for i in rows]
        shape = (len(rows), max(lengths))
        tokens, targets = np.full(shape, pad_id, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
        mask, special = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        positions = np.zeros(shape, dtype=np.int64)
        for row, (i, length) in enumerate(zip(rows, lengths, strict=True)):
            at = slice(0, length) if side == "right" else slice(shape[1] - length, shape[1])
            tokens[row, at], special[row, at] = self.tokens[i], self._left_out(i)
            mask[row, at], positions[row, at] = True, np.arange(length)
            targets[row, at] = self.targets_of(i)
        ids = np.asarray(rows, dtype=np.int64)
        return TokenBatch(*map(torch.from_numpy, (tokens, mask, special, ids, positions, targets)))

    def targets_of(self, i: int) -> Ints:
        """int64 `[length]`: the target of each token, the next one unless given; -1 for none."""
        if self.targets is not None:
            return self.targets[i]
        return np.append(self.tokens[i][1:], np.int64(-1))

    def aimed_at(self, token: int) -> Prompts:
        """The same prompts with one token id as the target at every position."""
        note = f"the target is token {token} at every position, not the one that comes next"
        targets = tuple(frozen(np.full(len(row), token, np.int64)) for row in self.tokens)
        return replace(self, targets=targets, notes=(*self.notes, note))

    def fingerprint(self) -> str:
        """SHA-256 of tokens, special tokens, labels and explicit targets, as 64 hex digits."""
        digest = hashlib.sha256()
        arrays = [self.tokens, self.special, *([] if self.targets is None else [self.targets])]
        for rows in arrays:
            digest.update(f"|{len(rows)}".encode())
            for row in rows:
                digest.update(f"|{row.dtype.kind}{len(row)}|".encode() + row.tobytes())
        for name in sorted(self.labels):
            cells = [[tagged(cell) for cell in row] for row in self.labels[name]]
            digest.update(json.dumps([name, cells]).encode())
        return digest.hexdigest()


def read_prompts(
    source: Any,
    tokenizer: Any = None,
    *,
    mask: Any = None,
    labels: Mapping[str, Sequence[Any]] | None = None,
    token_labels: Mapping[str, Sequence[Any]] | None = None,
    targets: Any = None,
    prepend_bos: bool | None = None,
    max_length: int | None = None,
    vocab_size: int | None = None,
    text_column: str = "text",
    columns: Sequence[str] | None = None,
    truncate: bool = False,
    language: str = "english",
    special_ids: Sequence[int] = (),
) -> Prompts:
    """Read prompts from anything a user may have, and tokenise them as the bridge would.

    A string is looked up in this order: the name of a built-in set (`her`, `demo`); an existing
    file; one prompt, if it has a space in it. A single word that is neither is an error, so that
    a mistyped name is not measured as a prompt. In a .txt file every line that is not blank is a
    prompt. In .jsonl, .csv, .parquet, data sets, tables and lists of mappings the other columns
    become labels: a scalar labels the prompt, a list its tokens, a list of objects with `start`
    and `end` the words at those characters. A date becomes ISO 8601 text, a decimal a number (text
    where no float is exactly it). A column that can be no label is left out with a note, unless
    `columns` asks for it.

    Args:
        source: list, generator or pandas Series of strings; one string; token tensor
            `[batch, pos]` or lists of ids; a tokenizer's `BatchEncoding` or another mapping with
            `input_ids` and, where it is padded, `attention_mask`; path (.txt, .jsonl, .csv, each
            also as .gz; .parquet); data set of `datasets` in any format; pandas or pyarrow table;
            annotated documents (`.text` and `.words`); or a built-in name.
        tokenizer: a Hugging Face tokenizer, the model's own (`model.tokenizer`). Not needed for
            ids, which then have no text, and no special tokens but `special_ids`.
        mask: `[batch, pos]`, 1 for real tokens, for a padded token tensor only.
        labels: per name one value per prompt; or the name of the source's column (or of its words'
            field) that is to have this name: `{"file": "path"}` renames `path` to `file`.
        token_labels: per name and prompt one value per token as fed (after truncation; values for
            the special tokens may be left out), or per cell of a padded tensor.
        targets: explicit target ids per position, shaped like `token_labels`; -1 for none.
        prepend_bos: whether a prompt starts with BOS; true unless given, as in the bridge. Pass
            `model.cfg.default_prepend_bos`. It does not change ids that are given.
        max_length: context length of the model.
        vocab_size: ids must be below it; the tokenizer's size unless given.
        text_column: the column with the text.
        columns: the columns that become labels; all that can, unless given.
        truncate: cut prompts that are longer than `max_length` instead of raising.
        language: of the built-in set `her`: "english", or "demo" for the embedded models.
        special_ids: ids that are special where there is no tokenizer to say so.

    Returns:
        Prompts in the order of the source.

    Raises:
        BadInput: anything in the source that cannot be used, and where it is; chat messages, which
            `tokenizer.apply_chat_template` makes into text.
        UnknownName: a single word that is neither a built-in set nor a file.
    """
    raw = read(source, mask=mask, text_column=text_column, columns=columns, language=language)
    limit = _check_length(max_length)
    cut = limit if truncate else None
    size = len(tokenizer) if vocab_size is None and tokenizer is not None else vocab_size
    texts, encoded = _tokenised(raw, tokenizer, prepend_bos, cut, size, special_ids)
    if limit is not None:
        _refuse_long(encoded, limit)
    prompts = Prompts(
        tokens=tuple(frozen(e.tokens) for e in encoded),
        special=tuple(frozen(e.special) for e in encoded),
        texts=texts,
        spans=tuple(None if e.spans is None else frozen(e.spans) for e in encoded),
        strings=running_strings([e.tokens.tolist() for e in encoded], tokenizer),
        source=raw.source,
        notes=raw.notes,
    )
    return _annotated(prompts, raw, labels, token_labels, targets, size)


def _tokenised(
    raw: Raw,
    tokenizer: Any,
    prepend_bos: bool | None,
    cut: int | None,
    vocab_size: int | None,
    special_ids: Sequence[int],
) -> tuple[tuple[str | None, ...], list[Encoded]]:
    if raw.texts is not None:
        if tokenizer is None:
            raise BadInput(
                f"{raw.source} holds texts: pass tokenizer= (to load_model, where the model has "
                "none), or token ids"
            )
        encoded = encode(raw.texts, tokenizer, prepend_bos=prepend_bos, max_length=cut)
        for i, e in enumerate(encoded):
            if not len(e.tokens):
                raise BadInput(f"prompt {i} gives no tokens: {raw.texts[i]!r}")
        _refuse_outside([e.tokens for e in encoded], vocab_size, "is it the model's tokenizer?")
        return raw.texts, encoded
    rows = [row[:cut] for row in raw.ids or ()]
    _refuse_outside(rows, vocab_size, "padding is marked by mask=")
    if tokenizer is None:
        bare = [Encoded(row, np.isin(row, list(special_ids)), None) for row in rows]
        return (None,) * len(rows), bare
    pairs = [recover_text(row, tokenizer) for row in rows]
    return tuple(text for text, _ in pairs), [e for _, e in pairs]


def _annotated(
    prompts: Prompts,
    raw: Raw,
    labels: Mapping[str, Sequence[Any]] | None,
    token_labels: Mapping[str, Sequence[Any]] | None,
    targets: Any,
    vocab_size: int | None,
) -> Prompts:
    """Labels of the source first, then those of the caller, who wins."""
    given_labels, names = parted(labels)
    prompts = _with_columns(prompts, _with_names(raw, names))
    if token_labels is not None and not isinstance(token_labels, Mapping):
        raise BadInput("token_labels= maps names to values, one for each prompt: {name: [...]}")
    for name, values in given_labels.items():
        prompts = prompts.with_labels(name, scalars(name, values))
    for name, values in (token_labels or {}).items():
        rows = _as_fed(values, raw, prompts)
        for i, row in enumerate(rows):
            if is_scalar(row):
                raise BadInput(f"token_labels {name!r}: prompt {i} has one value, not one a token")
        prompts = prompts.with_labels(name, rows)
    if targets is None:
        return prompts
    return replace(
        prompts, targets=_target_ids(_as_fed(targets, raw, prompts), prompts, vocab_size)
    )


def parted(labels: Any) -> tuple[dict[str, Sequence[Any]], dict[str, str]]:
    """Labels that are given as values, and new names of labels that the source has."""
    if labels is not None and not isinstance(labels, Mapping):
        raise BadInput(
            "labels= maps names to values, one for each prompt: {name: [...]}, or to the column "
            "of the source that is to have the name: {new: 'old'}"
        )
    names = {new: old for new, old in (labels or {}).items() if isinstance(old, str)}
    return {name: v for name, v in (labels or {}).items() if name not in names}, names


def _with_names(raw: Raw, names: Mapping[str, str]) -> Raw:
    """The source with its columns, or fields of its words, under new names: `{new: old}`."""
    if not names:
        return raw
    words = [word for rows in raw.annotations.values() for row in rows for word in row]
    known = dict.fromkeys([*raw.fields, *(k for w in words for k in w if k not in PLACE)])
    back = _new_names(names, known, f"column of {raw.source}")
    annotations = {
        column: [[{back.get(k, k): v for k, v in word.items()} for word in row] for row in rows]
        for column, rows in raw.annotations.items()
    }
    fields = {back.get(name, name): values for name, values in raw.fields.items()}
    return replace(raw, fields=fields, annotations=annotations)


def _new_names(names: Mapping[str, str], known: Iterable[str], what: str) -> dict[str, str]:
    """`{old: new}` of `{new: old}`, checked against the names that are there."""
    known = list(known)
    for new, old in names.items():
        if old not in known:
            raise BadInput(
                f"labels={{{new!r}: {old!r}}} renames {old!r}, which is no {what}"
                f"{nearest(old, known)} (known: {', '.join(known) or 'none'}); values of a label "
                "are a list, one for each prompt"
            )
        if new in known and new not in names.values():
            raise BadInput(f"labels={{{new!r}: {old!r}}}: there is a {what} {new!r} already")
        if list(names.values()).count(old) > 1:
            raise BadInput(f"labels= gives {old!r} more than one new name, {new!r} among them")
    return {old: new for new, old in names.items()}


def _with_columns(prompts: Prompts, raw: Raw) -> Prompts:
    """The columns of the source as labels; what can be none is left out, unless asked for."""
    for name, values in raw.fields.items():
        refuse_taken([name])
        try:
            prompts = prompts.with_labels(name, values)
        except BadInput as error:
            prompts = _without(prompts, raw, name, error)
    for name, words_of in raw.annotations.items():
        keys = {str(key) for row in words_of for word in row for key in word}
        refuse_taken(keys - {"word"})  # "word" says where it is
        try:
            prompts = prompts.label(gold(words_of))
        except BadInput as error:
            prompts = _without(prompts, raw, name, error)
    return prompts


def _without(prompts: Prompts, raw: Raw, name: str, error: BadInput) -> Prompts:
    """The same prompts, with a note on a column that can be no label."""
    if raw.asked:
        raise error
    note = f"column {name!r} of {raw.source} was left out: {error}"
    return replace(prompts, notes=(*prompts.notes, note))


def _target_ids(rows: Sequence[Any], prompts: Prompts, vocab_size: int | None) -> tuple[Ints, ...]:
    if len(rows) != len(prompts):
        raise BadInput(f"targets: expected {len(prompts)} prompts, got {len(rows)}")
    limit = math.inf if vocab_size is None else vocab_size
    result = []
    for i, (row, special) in enumerate(zip(rows, prompts.special, strict=True)):
        if is_scalar(row):
            raise BadInput(
                f"targets: prompt {i} has one value; expected one per token, -1 for none"
            )
        cells = per_token("targets", i, row, special, fill=-1)
        for position, cell in enumerate(cells):
            if not isinstance(cell, int) or isinstance(cell, bool) or not -1 <= cell < limit:
                raise BadInput(
                    f"targets: prompt {i}, position {position}: {cell!r} is no id "
                    f"(allowed: -1 for none, 0 to {limit - 1})"
                )
        result.append(frozen(cells.astype(np.int64)))
    return tuple(result)


def _as_fed(values: Any, raw: Raw, prompts: Prompts) -> list[Any]:
    """Values per prompt, without the cells under the mask and those that truncation cut off."""
    rows = list(values)
    if raw.ids is None or len(rows) != len(raw.ids):
        return rows
    return [_cells_fed(row, raw, i, len(prompts.tokens[i])) for i, row in enumerate(rows)]


def _cells_fed(row: Any, raw: Raw, i: int, length: int) -> Any:
    if is_scalar(row):
        return row
    cells = list(row)
    if raw.keep is not None and len(cells) == len(raw.keep[i]):
        cells = [cell for cell, real in zip(cells, raw.keep[i], strict=True) if real]
    return cells[:length] if raw.ids is not None and len(cells) == len(raw.ids[i]) else cells


# --- checks -----------------------------------------------------------------------------------


def _check_length(max_length: int | None) -> int | None:
    if max_length is not None and max_length < 1:
        raise BadInput(f"max_length={max_length}; a context has at least one token")
    return max_length


def _refuse_long(encoded: Sequence[Encoded], limit: int) -> None:
    for i, e in enumerate(encoded):
        if len(e.tokens) > limit:
            raise BadInput(
                f"prompt {i} has {len(e.tokens)} tokens, the context holds {limit}; shorten it, "
                "or pass truncate=True to cut it"
            )


def _refuse_outside(rows: Sequence[Ints], vocab_size: int | None, hint: str) -> None:
    limit = math.inf if vocab_size is None else vocab_size
    for i, tokens in enumerate(rows):
        outside = np.flatnonzero((tokens < 0) | (tokens >= limit))
        if len(outside):
            allowed = "0 and up" if vocab_size is None else f"0 to {vocab_size - 1}"
            raise BadInput(
                f"prompt {i}, position {outside[0]}: token id {tokens[outside[0]]} is outside "
                f"the vocabulary ({allowed}); {hint}"
            )


def _check_batching(max_tokens: int, max_batch: int | None, side: str) -> None:
    if max_tokens < 1:
        raise BadInput(f"max_tokens={max_tokens}; the budget of a batch is at least 1")
    if max_batch is not None and max_batch < 1:
        raise BadInput(f"max_batch={max_batch}; a batch holds at least one prompt")
    if side not in ("right", "left"):
        hint = nearest(side, ("right", "left"))
        raise BadInput(f"padding_side={side!r}{hint}; allowed: 'right', 'left'")


# --- grouping ---------------------------------------------------------------------------------


def _sorted_in_windows(rows: Sequence[int], lengths: Ints) -> list[int]:
    """Longest first in each window: what does not fit in memory fails at once, not at the end."""
    result: list[int] = []
    for start in range(0, len(rows), _WINDOW):
        window = rows[start : start + _WINDOW]
        result += sorted(window, key=lambda i: (-int(lengths[i]), i))
    return result


def _grouped(
    rows: Sequence[int], lengths: Ints, kinds: Sequence[bool], max_tokens: int, max_batch: int
) -> Iterator[list[int]]:
    group: list[int] = []
    longest = 0
    for i in rows:
        widest = max(longest, int(lengths[i]))
        full = len(group) == max_batch or widest * (len(group) + 1) > max_tokens
        if group and (full or kinds[i] != kinds[group[0]]):
            yield group
            group, widest = [], int(lengths[i])
        group.append(i)
        longest = widest
    if group:
        yield group
