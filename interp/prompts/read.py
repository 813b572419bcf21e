"""From what the user passes to labelled token ids that a model can be fed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from interp._arrays import Ints
from interp.contract.columns import refuse_taken
from interp.errors import BadInput
from interp.prompts.chat import encode_chats
from interp.prompts.label_values import Objects, frozen, is_scalar, per_token, scalars
from interp.prompts.labels import PLACE, gold
from interp.prompts.messages import ROLE
from interp.prompts.prompts import Prompts, new_names
from interp.prompts.sources import Raw, read
from interp.prompts.tokens import Encoded, encode, recover_text, running_strings


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
    generation_prompt: bool = False,
) -> Prompts:
    """Reads prompts from anything a user may have and tokenises them as the bridge would.

    A string is looked up in this order: the name of a built-in set (`her`, `demo`); an existing
    file; one prompt, if it has a space in it. A single word that is neither is an error, so that
    a mistyped name is not measured as a prompt. In a .txt file every line that is not blank is a
    prompt. In .jsonl, .csv, .parquet, data sets, tables and lists of mappings the other columns
    become labels: a scalar labels the prompt, a list its tokens, a list of objects with `start`
    and `end` the words at those characters. A date becomes ISO 8601 text, a decimal a number (text
    where no float is exactly it). A column that can be no label is left out with a note, unless
    `columns` asks for it.

    Chat messages are mappings with a `role` (system, user or assistant) and a `content`: a list of
    them is one prompt, and so is each cell of a column `messages`. They become tokens by the
    tokenizer's own chat template, exactly as `apply_chat_template(messages)` gives them, BOS
    included or not. The label `role` has the speaker of each token; what the template itself wrote
    is "template", has no character span, and counts as special.

    Args:
        source: list, generator or pandas Series of strings; one string; chat messages, or a list
            of conversations; token tensor `[batch, pos]` or lists of ids; a tokenizer's
            `BatchEncoding` or another mapping with `input_ids` and, where it is padded,
            `attention_mask`; path (.txt, .jsonl, .csv, each also as .gz; .parquet); data set of
            `datasets` in any format; pandas or pyarrow table; annotated documents (`.text` and
            `.words`); or a built-in name. Also `Raw`, what
            `interp.prompts.sources.read` returned.
        tokenizer: a Hugging Face tokenizer, the model's own (`model.tokenizer`). Not needed for
            ids, which then have no text, and no special tokens but `special_ids`.
        mask: `[batch, pos]`, 1 for real tokens, for a padded token tensor only.
        labels: per name one value per prompt; or the name of the source's column (or of its words'
            field) that is to have this name: `{"file": "path"}` renames `path` to `file`.
        token_labels: per name and prompt one value per token as fed (after truncation; values for
            the special tokens may be left out), or per cell of a padded tensor.
        targets: explicit target ids per position, shaped like `token_labels`; -1 for none.
        prepend_bos: whether a prompt starts with BOS; true unless given, as in the bridge. Pass
            `model.cfg.default_prepend_bos`. Token ids stay as they are, and chat messages have
            BOS where the template writes it.
        max_length: context length of the model.
        vocab_size: ids must be below it; the tokenizer's size unless given.
        text_column: the column with the text, or with chat messages; where there is no "text",
            messages, conversations, conversation or chat.
        columns: the columns that become labels; all that can, unless given.
        truncate: cut prompts that are longer than `max_length` instead of raising.
        language: of the built-in set `her`: "english", or "demo" for the embedded models.
        special_ids: ids that are special where there is no tokenizer to say so.
        generation_prompt: end chat messages where the assistant's reply begins, as for
            `interp.generate`, which does it by itself: with the template's header of a reply, or,
            where the last message is the assistant's, with its text, which a model then continues.

    Returns:
        Prompts in the order of the source.

    Raises:
        BadInput: anything in the source that cannot be used, and where it is; chat messages where
            the tokenizer has no chat template, or its template refuses or rewrites them.
        UnknownName: a single word that is neither a built-in set nor a file.
    """
    raw = read(source, mask=mask, text_column=text_column, columns=columns, language=language)
    limit = _check_length(max_length)
    cut = limit if truncate else None
    size = len(tokenizer) if vocab_size is None and tokenizer is not None else vocab_size
    found = _tokenised(raw, tokenizer, prepend_bos, cut, size, special_ids, generation_prompt)
    encoded = found.encoded
    if limit is not None:
        _refuse_long(encoded, limit)
    prompts = Prompts(
        tokens=tuple(frozen(e.tokens) for e in encoded),
        special=tuple(frozen(e.special) for e in encoded),
        texts=found.texts,
        spans=tuple(None if e.spans is None else frozen(e.spans) for e in encoded),
        strings=running_strings([e.tokens.tolist() for e in encoded], tokenizer),
        source=raw.source,
        notes=(*raw.notes, *found.notes),
    )
    if found.roles is not None:
        prompts, labels = _with_roles(prompts, found.roles, raw, labels)
    return _annotated(prompts, raw, labels, token_labels, targets, size)


class _Tokenised(NamedTuple):
    """Texts and tokens of every prompt; of chats also the role of each token."""

    texts: tuple[str | None, ...]
    encoded: list[Encoded]
    roles: list[Objects] | None = None
    notes: tuple[str, ...] = ()


def _tokenised(
    raw: Raw,
    tokenizer: Any,
    prepend_bos: bool | None,
    cut: int | None,
    vocab_size: int | None,
    special_ids: Sequence[int],
    generation_prompt: bool,
) -> _Tokenised:
    if raw.ids is None and tokenizer is None:
        raise BadInput(
            f"{raw.source} holds {'texts' if raw.chats is None else 'chat messages'}: pass "
            "tokenizer= (to load_model, where the model has none), or token ids"
        )
    if raw.chats is not None:
        return _tokenised_chats(raw.chats, tokenizer, cut, vocab_size, generation_prompt)
    if raw.texts is not None:
        encoded = encode(raw.texts, tokenizer, prepend_bos=prepend_bos, max_length=cut)
        for i, e in enumerate(encoded):
            if not len(e.tokens):
                raise BadInput(f"prompt {i} gives no tokens: {raw.texts[i]!r}")
        _refuse_outside([e.tokens for e in encoded], vocab_size, "is it the model's tokenizer?")
        return _Tokenised(raw.texts, encoded)
    rows = [row[:cut] for row in raw.ids or ()]
    _refuse_outside(rows, vocab_size, "padding is marked by mask=")
    if tokenizer is None:
        bare = [Encoded(row, np.isin(row, list(special_ids)), None) for row in rows]
        return _Tokenised((None,) * len(rows), bare)
    pairs = [recover_text(row, tokenizer) for row in rows]
    return _Tokenised(tuple(text for text, _ in pairs), [e for _, e in pairs])


def _tokenised_chats(
    chats: Sequence[Any],
    tokenizer: Any,
    cut: int | None,
    vocab_size: int | None,
    generation_prompt: bool,
) -> _Tokenised:
    found, notes = encode_chats(chats, tokenizer, cut, generation_prompt=generation_prompt)
    encoded = [chat.encoded for chat in found]
    for i, e in enumerate(encoded):
        if not len(e.tokens):
            raise BadInput(f"prompt {i} gives no tokens: the chat template writes nothing")
    _refuse_outside([e.tokens for e in encoded], vocab_size, "is it the model's tokenizer?")
    texts = tuple(chat.text for chat in found)
    return _Tokenised(texts, encoded, [chat.roles for chat in found], notes)


def _with_roles(
    prompts: Prompts, roles: Sequence[Objects], raw: Raw, labels: Any
) -> tuple[Prompts, Any]:
    """The prompts with the speaker of each token as a label, and the other labels to be given."""
    given, names = parted(labels)
    name, others = speaker_name(raw, names)
    return replace(prompts.with_labels(name, roles), speaker=name), {**given, **others}


def speaker_name(raw: Raw, names: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The label with the speaker of each token of a chat, and the new names of other labels.

    Args:
        names: `{new: old}`, as for `with_names`.

    Raises `BadInput` where a column of the source has the label's name and keeps it.
    """
    asked = [new for new, old in names.items() if old == ROLE]
    if ROLE not in _columns_of(raw):
        others = {new: old for new, old in names.items() if old != ROLE}
        return (asked or [ROLE])[0], others
    if not asked:
        raise BadInput(
            f"{raw.source} has a column {ROLE!r}, and chat messages have that label too (the "
            f"speaker of each token): rename the column, labels={{'{ROLE}_label': {ROLE!r}}} or "
            f"--labels {ROLE}_label={ROLE}"
        )
    return ROLE, dict(names)


def _columns_of(raw: Raw) -> list[str]:
    """Columns of the source and fields of its words, which can be labels."""
    words = [word for rows in raw.annotations.values() for row in rows for word in row]
    return list(dict.fromkeys([*raw.fields, *(k for w in words for k in w if k not in PLACE)]))


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
    prompts = _with_columns(prompts, with_names(raw, names))
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


def with_names(raw: Raw, names: Mapping[str, str]) -> Raw:
    """The source with its columns, or fields of its words, under new names: `{new: old}`.

    Raises `UnknownName` for a name that the source does not have.
    """
    if not names:
        return raw
    back = new_names(names, _columns_of(raw), f"column of {raw.source}")
    annotations = {
        column: [[{back.get(k, k): v for k, v in word.items()} for word in row] for row in rows]
        for column, rows in raw.annotations.items()
    }
    fields = {back.get(name, name): values for name, values in raw.fields.items()}
    return replace(raw, fields=fields, annotations=annotations)


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
