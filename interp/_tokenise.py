"""Text to token ids with character spans, and the words that the spans belong to.

Knows tokenizers by what they return; knows nothing of models, files or labels.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Characters of a word after classification: letters and digits `w`, combining marks and the like
# `m`, zero-width joiners `j`, apostrophes `'`. Everything that is left and no space stands alone.
_WORD = re.compile(r"w[wmj]*(?:'w[wmj]*)*|[^ ](?:m|j[^ ]?)*")
_ASCII_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")
UNKNOWN = "⟨unknown⟩"
"""Stands for a token whose id nobody saw, as where a model was given embeddings."""
_SKIN_TONES = range(0x1F3FB, 0x1F400)


@dataclass(frozen=True, eq=False)
class Encoded:
    """One prompt as tokens: ids and special `[length]`, spans `[length, 2]` or None."""

    tokens: Ints
    special: Bools
    spans: Ints | None


def encode(
    texts: Sequence[str],
    tokenizer: Any,
    *,
    prepend_bos: bool | None = None,
    max_length: int | None = None,
) -> list[Encoded]:
    """Token ids of each text, equal to what `TransformerBridge.to_tokens(text)` gives.

    The bridge writes a missing BOS into the string, lets the tokenizer see the whole, strips
    trailing EOS and, where no BOS is wanted, drops the first token. `max_length` cuts as the
    tokenizer does, so that a closing special token stays.
    """
    wanted = True if prepend_bos is None else prepend_bos
    prepends, appends = _habits(tokenizer)
    prefix = _atomic_bos(tokenizer) if wanted and not prepends else ""
    fast = bool(getattr(tokenizer, "is_fast", False))
    encoding = tokenizer(
        [prefix + text for text in texts],
        truncation=max_length is not None,
        max_length=max_length,
        return_offsets_mapping=fast,
        verbose=False,
    )
    specials = special_ids(tokenizer)
    result = []
    for i, text in enumerate(texts):
        tokens = np.asarray(encoding["input_ids"][i], dtype=np.int64)
        offsets = np.asarray(encoding["offset_mapping"][i], dtype=np.int64) if fast else None
        keep = _kept(tokens, tokenizer, drop_bos=prepends and not wanted, drop_eos=appends)
        tokens = tokens[keep]
        special = np.isin(tokens, specials)
        if offsets is None:
            spans = _spans_by_decoding(tokens, special, text, tokenizer)
        else:
            spans = np.clip(offsets.reshape(-1, 2)[keep] - len(prefix), 0, len(text))
            spans[special] = 0
        result.append(Encoded(tokens, special, spans))
    return result


def recover_text(tokens: Ints, tokenizer: Any) -> tuple[str | None, Encoded]:
    """The text behind given ids, and the ids with spans in it.

    Text and spans are None unless encoding the decoded text gives back exactly these ids, because
    spans in another text would put labels on the wrong tokens.
    """
    special = np.isin(tokens, special_ids(tokenizer))
    bare = Encoded(tokens, special, None)
    inner = np.flatnonzero(~special)
    if not len(inner) or not getattr(tokenizer, "is_fast", False):
        return None, bare
    body = slice(int(inner[0]), int(inner[-1]) + 1)
    if (tokens[body] >= len(tokenizer)).any():
        return None, bare
    text = str(tokenizer.decode(tokens[body].tolist(), clean_up_tokenization_spaces=False))
    again = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if list(again["input_ids"]) != tokens[body].tolist():
        return None, bare
    spans = np.zeros((len(tokens), 2), dtype=np.int64)
    spans[body] = np.asarray(again["offset_mapping"], dtype=np.int64)
    spans[special] = 0
    return text, Encoded(tokens, special, spans)


def special_ids(tokenizer: Any) -> list[int]:
    """Ids that stand for no text. An unknown-word id stands for text, unless it is also BOS.

    The tokens are compared by name: the bridge gives tokenizers without BOS one that their
    vocabulary lacks, and its id is then that of the unknown word.
    """
    roles = ("bos", "eos", "pad", "cls", "sep", "mask")
    structural = {getattr(tokenizer, f"{role}_token", None) for role in roles}
    ids = {int(i) for i in tokenizer.all_special_ids}
    if getattr(tokenizer, "unk_token", None) in structural:
        return sorted(ids)
    return sorted(ids - {getattr(tokenizer, "unk_token_id", None)})


def token_strings(ids: Iterable[int], tokenizer: Any | None) -> dict[int, str]:
    """Readable text of each id: its decoding, or the raw piece where that is no whole character."""
    unique = sorted(set(ids))
    if tokenizer is None:
        return {i: UNKNOWN if i < 0 else f"<{i}>" for i in unique}
    return {i: _token_string(i, tokenizer) for i in unique}


def words(text: str) -> Ints:
    """Character spans `[n, 2]` of the words of a text.

    A word is a run of letters, digits and their combining marks, apostrophes inside included;
    every other character that is no space is a word of its own. Scripts without spaces are not
    segmented: a run of Chinese characters is one word.

    >>> words("Don't go, 日本!").tolist()
    [[0, 5], [6, 8], [8, 9], [10, 12], [12, 13]]
    """
    if text.isascii():
        found = [match.span() for match in _ASCII_WORD.finditer(text)]
    else:
        shadow = "".join(map(_class_of, text))
        found = [match.span() for match in _WORD.finditer(shadow)]
    return np.asarray(found, dtype=np.int64).reshape(-1, 2)


def trimmed(spans: Ints, text: str) -> Ints:
    """Spans without the spaces at their ends; a token of spaces only becomes empty.

    >>> trimmed(np.array([[0, 2], [2, 6], [6, 7]]), "He met ").tolist()
    [[0, 2], [3, 6], [7, 7]]
    """
    result = spans.copy()
    for row, (start, end) in zip(result, spans.tolist(), strict=True):
        piece = text[start:end]
        row[0] = start + len(piece) - len(piece.lstrip())
        row[1] = max(row[0], end - len(piece) + len(piece.rstrip()))
    return result


def align(spans: Ints, intervals: Ints) -> Ints:
    """Index of the first interval that each span overlaps, -1 where there is none.

    Args:
        spans: `[length, 2]` trimmed token spans.
        intervals: `[n, 2]`, ascending and without overlap, as `words` gives.

    >>> align(np.array([[0, 2], [3, 4], [4, 6]]), np.array([[0, 2], [3, 6]])).tolist()
    [0, 1, 1]
    """
    if not len(intervals):
        return np.full(len(spans), -1, dtype=np.int64)
    candidate = np.searchsorted(intervals[:, 1], spans[:, 0], side="right")
    inside = np.minimum(candidate, len(intervals) - 1)
    hit = (candidate < len(intervals)) & (intervals[inside, 0] < spans[:, 1])
    return np.where(hit, inside, -1).astype(np.int64)


def _habits(tokenizer: Any) -> tuple[bool, bool]:
    """Whether the tokenizer prepends BOS (or CLS) and appends EOS; asked as the bridge does."""
    ids = tokenizer.encode("a")
    leading = {tokenizer.bos_token_id, getattr(tokenizer, "cls_token_id", None)} - {None}
    eos = tokenizer.eos_token_id
    return len(ids) > 1 and ids[0] in leading, len(ids) > 1 and eos is not None and ids[-1] == eos


def _atomic_bos(tokenizer: Any) -> str:
    """The BOS string, or nothing where the vocabulary would break it into pieces."""
    bos = tokenizer.bos_token
    if bos is None or len(tokenizer(bos, add_special_tokens=False)["input_ids"]) != 1:
        return ""
    return str(bos)


def _kept(tokens: Ints, tokenizer: Any, *, drop_bos: bool, drop_eos: bool) -> slice:
    stop = len(tokens)
    while drop_eos and stop > 1 and tokens[stop - 1] == tokenizer.eos_token_id:
        stop -= 1
    return slice(1 if drop_bos and tokenizer.bos_token_id is not None else 0, stop)


def _token_string(i: int, tokenizer: Any) -> str:
    if i < 0:
        return UNKNOWN
    piece = tokenizer.convert_ids_to_tokens(i) if i < len(tokenizer) else None
    if piece is None:  # models pad their vocabulary beyond the tokenizer's
        return f"<{i}>"
    text = str(tokenizer.decode([i], clean_up_tokenization_spaces=False))
    return str(piece) if not text or "\ufffd" in text else text


def _spans_by_decoding(tokens: Ints, special: Bools, text: str, tokenizer: Any) -> Ints | None:
    """Spans for a tokenizer without offsets: how far each prefix of the ids spells the text."""
    reached = [0]
    body = tokens[~special].tolist()
    for k in range(1, len(body) + 1):
        decoded = str(tokenizer.decode(body[:k], clean_up_tokenization_spaces=False))
        reached.append(_common_prefix(decoded, text))
    if reached[-1] != len(text):
        return None  # the tokenizer changes the text (case, spaces): positions cannot be trusted
    spans = np.zeros((len(tokens), 2), dtype=np.int64)
    inner = []
    for k in range(len(body)):
        # A byte piece spells nothing yet: it gets the character that later pieces complete.
        end = next((r for r in reached[k + 1 :] if r > reached[k]), reached[k])
        inner.append((reached[k], end))
    spans[~special] = np.asarray(inner, dtype=np.int64).reshape(-1, 2)
    return spans


def _common_prefix(a: str, b: str) -> int:
    limit = min(len(a), len(b))
    return next((i for i in range(limit) if a[i] != b[i]), limit)


@lru_cache(maxsize=4096)
def _class_of(character: str) -> str:
    if character in "'’":
        return "'"
    if character == "\u200d":
        return "j"
    if character.isspace():
        return " "
    if unicodedata.category(character)[0] == "M" or character == "\u200c":
        return "m"
    if ord(character) in _SKIN_TONES:
        return "m"
    return "w" if character.isalnum() or character == "_" else "."
