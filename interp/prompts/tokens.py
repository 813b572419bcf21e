"""Text to token ids with character spans, and the words that the spans belong to.

Knows tokenizers by what they return; knows nothing of models, files or labels.
"""

from __future__ import annotations

import hashlib
import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex as unicode_regex  # type: ignore[import-untyped]

from interp._arrays import Bools, Ints
from interp.errors import BadInput, nearest

# From a character that is no space to the next word boundary of UAX #29: with `(?w)`, `\b` is that.
# The separators U+001C to U+001F are spaces for Python and not for Unicode.
_WORD = unicode_regex.compile(r"(?ws)[^\s\x1c-\x1f].*?\b")
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's byte fallback
_LONE_BYTES = re.compile("[\udc80-\udcff]+")  # what decoding with surrogateescape leaves of bytes
_SPACE_PIECE = "\u2581"  # how SentencePiece writes a space


def _byte_of_character() -> dict[str, int]:
    """The bytes that byte-level vocabularies write as characters: printable ones as themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF = _byte_of_character()
UNKNOWN = "⟨unknown⟩"
"""Text of a token without a known id, as where a model was given embeddings."""


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
            # Offsets count the BOS string that was written in front.
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
    # Decoding is not one to one: spans are kept only where the text gives these very ids.
    again = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if list(again["input_ids"]) != tokens[body].tolist():
        return None, bare
    spans = np.zeros((len(tokens), 2), dtype=np.int64)
    spans[body] = np.asarray(again["offset_mapping"], dtype=np.int64)
    spans[special] = 0
    return text, Encoded(tokens, special, spans)


def special_ids(tokenizer: Any) -> list[int]:
    """Ids that stand for no text: BOS and the like, and every control token of the tokenizer.

    Control tokens without a role (`<repo_name>`, the headers of chat models) are known only by
    their mark in `added_tokens_decoder`. An unknown-word id stands for text, unless it is also
    BOS. The tokens are compared by name: the bridge gives tokenizers without BOS one that their
    vocabulary lacks, and its id is then that of the unknown word.
    """
    roles = ("bos", "eos", "pad", "cls", "sep", "mask")
    structural = {getattr(tokenizer, f"{role}_token", None) for role in roles}
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    ids = {int(i) for i in getattr(tokenizer, "all_special_ids", None) or ()}
    ids |= {int(i) for i, token in added.items() if getattr(token, "special", False)}
    if getattr(tokenizer, "unk_token", None) in structural:
        return sorted(ids)
    return sorted(ids - {getattr(tokenizer, "unk_token_id", None)})


def token_strings(ids: Iterable[int], tokenizer: Any | None) -> dict[int, str]:
    """Readable text of each id, with bytes that are no whole character as `⟨E4 BB⟩`."""
    unique = sorted(set(ids))
    if tokenizer is None:
        return {i: UNKNOWN if i < 0 else f"<{i}>" for i in unique}
    return {i: _token_string(i, tokenizer) for i in unique}


def running_strings(
    rows: Iterable[Sequence[int]], tokenizer: Any | None
) -> tuple[tuple[str, ...], ...]:
    """Readable text of each token of each prompt, in its order.

    As `token_strings`, and the bytes that complete a character name it: `⟨E4 BD⟩`, `⟨A0→你⟩`.
    """
    rows = list(rows)
    strings = token_strings({i for ids in rows for i in ids}, tokenizer)
    raw = {i: token_bytes(i, tokenizer) for i, text in strings.items() if may_be_split(text)}
    return tuple(
        tuple(map(strings.__getitem__, ids) if raw.keys().isdisjoint(ids) else completed)
        for ids, completed in ((ids, _completed(ids, strings, raw)) for ids in rows)
    )


def may_be_split(text: str) -> bool:
    """True if a text of `token_strings` begins or ends within a character.

    A token that is one of the brackets itself looks so too.
    """
    return text[:1] == "⟨" or text[-1:] == "⟩"


def _completed(
    ids: Sequence[int], strings: dict[int, str], raw: dict[int, bytes | None]
) -> Iterator[str]:
    """The texts of `ids`; `raw` has the bytes of those that begin or end within a character."""
    decoder = getincrementaldecoder("utf-8")("surrogateescape")
    for i in ids:
        begun = bool(decoder.getstate()[0])
        if not (own := raw.get(i)):
            decoder.reset()
            yield strings[i]
            continue
        done = decoder.decode(own)
        if begun and done and not _LONE_BYTES.match(done):
            first, rest = strings[i].split("⟩", 1)
            yield f"{first}→{done[0]}⟩{rest}"
        else:
            yield strings[i]


def token_bytes(i: int, tokenizer: Any) -> bytes | None:
    """The UTF-8 bytes that a token stands for; None where the tokenizer does not tell.

    Joined, the bytes of an encoded text's tokens are that text (with SentencePiece, after the
    space that it puts before a text). A piece of a byte-level vocabulary is told from one that
    only looks like it by what it decodes to.
    """
    if tokenizer is None or not 0 <= i < len(tokenizer):
        return None
    piece = tokenizer.convert_ids_to_tokens(i)
    if piece is None or isinstance(piece, bytes):
        return piece
    text = _decoded(i, piece, tokenizer)
    byte = _BYTE_PIECE.fullmatch(piece)
    if byte and text != piece:
        return bytes.fromhex(byte[1])
    if not text and len(piece) == 1 and ord(piece) < 256:  # ByT5, whose pieces are the bytes
        return bytes([ord(piece)])
    if all(c in _BYTE_OF for c in piece):
        raw = bytes(_BYTE_OF[c] for c in piece)
        if raw.decode("utf-8", "replace") == text:
            return raw
    return None if "\ufffd" in text else text.encode()


def _decoded(i: int, piece: str, tokenizer: Any) -> str:
    """The text of one token, with the space that some decoders take off the first one."""
    text = str(tokenizer.decode([i], clean_up_tokenization_spaces=False))
    spaced = piece.replace(_SPACE_PIECE, " ")
    return spaced if piece[:1] == _SPACE_PIECE and spaced.lstrip(" ") == text.strip(" ") else text


def _readable(raw: bytes) -> str:
    r"""Bytes as text, those that are no whole character in brackets.

    >>> _readable(b" \xe4\xbb")
    ' ⟨E4 BB⟩'
    """
    text = raw.decode("utf-8", "surrogateescape")
    return _LONE_BYTES.sub(lambda m: f"⟨{' '.join(f'{ord(c) & 255:02X}' for c in m[0])}⟩", text)


def words(text: str) -> Ints:
    """Character spans `[n, 2]` of the words of a text: what lies between its word boundaries.

    Boundaries are the default ones of Unicode (UAX #29), spaces left out: letters and digits with
    their marks and joiners are one word ("don't", "3.14", "key_1"), any other character is a word
    of its own. Scripts that write no spaces are not segmented, which would take a dictionary:
    each Chinese character or hiragana is a word, and so is each Thai, Lao, Khmer or Burmese letter
    with its combining marks. `gold` and `spacy_tags` take the words of a segmenter instead.

    >>> words("Don't go, 日本!").tolist()
    [[0, 5], [6, 8], [8, 9], [10, 11], [11, 12], [12, 13]]
    """
    found = [match.span() for match in _WORD.finditer(text)]
    return np.asarray(found, dtype=np.int64).reshape(-1, 2)


def word_pattern(word: str, *, case_sensitive: bool = True) -> Any:
    """Compiled pattern of a word, or of several, between word boundaries as in `words`."""
    body = r"\s+".join(map(unicode_regex.escape, word.split()))
    flags = 0 if case_sensitive else unicode_regex.IGNORECASE
    return unicode_regex.compile(rf"(?w)\b{body}\b", flags)


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
    # The first interval that ends beyond the span's start; intervals ascend, so no loop is needed.
    candidate = np.searchsorted(intervals[:, 1], spans[:, 0], side="right")
    inside = np.minimum(candidate, len(intervals) - 1)
    hit = (candidate < len(intervals)) & (intervals[inside, 0] < spans[:, 1])
    return np.where(hit, inside, -1).astype(np.int64)


def _habits(tokenizer: Any) -> tuple[bool, bool]:
    """True if the tokenizer prepends BOS (or CLS) and appends EOS; asked as the bridge does."""
    # Asked by an example: the settings that tokenizers declare are not always what they do.
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
    text = _decoded(i, str(piece), tokenizer)
    if text and "\ufffd" not in text:
        return text
    raw = token_bytes(i, tokenizer)
    return _readable(raw) if raw else str(piece)


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
    spans[~special] = _between(reached)
    return spans


def spelled(before: Ints, new: Ints, tokenizer: Any) -> tuple[str, Ints]:
    """The text that ids add to that of the ids before them, and the characters of each: `[n, 2]`.

    For ids that a model wrote, which need not be those that the tokenizer gives for their text.
    """
    whole = [*before.tolist(), *new.tolist()]
    decoded = [
        str(tokenizer.decode(whole[:k], clean_up_tokenization_spaces=False))
        for k in range(len(before), len(whole) + 1)
    ]
    reached = [_common_prefix(part, decoded[-1]) for part in decoded]
    return decoded[-1][reached[0] :], _between(reached) - reached[0]


def _between(reached: Sequence[int]) -> Ints:
    """Spans from the numbers of characters that are spelled before each token and at the end."""
    inner = []
    for k in range(len(reached) - 1):
        # A byte piece spells nothing yet: it gets the character that later pieces complete.
        end = next((r for r in reached[k + 1 :] if r > reached[k]), reached[k])
        inner.append((reached[k], end))
    return np.asarray(inner, dtype=np.int64).reshape(-1, 2)


def _common_prefix(a: str, b: str) -> int:
    if b.startswith(a):
        return len(a)
    limit = min(len(a), len(b))
    return next((i for i in range(limit) if a[i] != b[i]), limit)


def token_id(model: Any, token: str | int, what: str = "token") -> int:
    """The id of one token, given as its text (a leading space counts) or as the id itself.

    Raises `BadInput` for text that is several tokens here, saying which, or that the vocabulary
    lacks, and for an id outside of it; `what` names the token in the message.
    """
    vocab = int(getattr(model.cfg, "d_vocab", 0) or 0)
    if isinstance(token, int | np.integer) and not isinstance(token, bool):
        if not 0 <= int(token) < vocab:
            raise BadInput(f"{what} {int(token)} is no token id: the model has 0 … {vocab - 1}")
        return int(token)
    if not isinstance(token, str) or not token:
        raise BadInput(f"{what} {token!r}: give a token's text, such as ' her', or its id")
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise BadInput(f"{what} {token!r}: this model has no tokenizer; give a token id")
    ids = _encoded(tokenizer, token)
    if len(ids) != 1:
        raise BadInput(_several(tokenizer, token, ids, what))
    known = tokenizer.get_vocab()
    if ids[0] == getattr(tokenizer, "unk_token_id", None) and token not in known:
        raise BadInput(
            f"{what} {token!r} is not in the vocabulary of this model, which reads it as "
            f"{tokenizer.unk_token!r}{nearest(token, known)}"
        )
    return ids[0]


def spaced_twin(model: Any, text: str) -> int | None:
    """The id of the token that is the text after a space; None where that is no single token."""
    ids = _encoded(model.tokenizer, f" {text}")
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    return ids[0] if len(ids) == 1 and ids[0] != unknown else None


def _encoded(tokenizer: Any, text: str) -> list[int]:
    return [int(i) for i in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


def _several(tokenizer: Any, token: str, ids: list[int], what: str) -> str:
    strings = token_strings(ids, tokenizer)
    pieces = " + ".join(repr(strings[i]) for i in ids) or "nothing"
    spaced = " " + token.lstrip()
    hint = ""
    if spaced != token and len(_encoded(tokenizer, spaced)) == 1:
        hint = f"; with a leading space, {spaced!r}, it is one"
    return (
        f"{what} {token!r} is {len(ids)} tokens of this model ({pieces}){hint}; "
        "one token is wanted: choose one of them, or give an id"
    )


def vocabulary_id(tokenizer: Any) -> str | None:
    """SHA-256 of a tokenizer's tokens with their ids and of its own rules; None without one."""
    if tokenizer is None:
        return None
    rules: Any = getattr(tokenizer, "backend_tokenizer", None)
    # The same tokens may be merged in another order, which cuts texts in other places.
    told = rules.to_str() if rules is not None else ""
    document = [sorted(tokenizer.get_vocab().items()), _without_padding(told)]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def _without_padding(rules: str) -> Any:
    """Rules of a fast tokenizer without the settings that a call changes."""
    document = json.loads(rules) if rules else {}
    return {k: v for k, v in document.items() if k in ("model", "normalizer", "pre_tokenizer")}
