"""Conversations as a model reads them: by its chat template, and whose text each character is.

A template may strip contents, move them or write text of its own. So it is run twice: on the
contents, and on contents whose characters were replaced by marks that no text has. Where the marks
come out is where the contents are; put back, they must give the first rendering exactly. Knows
tokenizers by what they return; knows nothing of models or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import regex as unicode_regex  # type: ignore[import-untyped]

from interp._arrays import Bools, Ints
from interp.errors import BadInput
from interp.prompts.label_values import Objects
from interp.prompts.messages import ROLE, SPEAKERS, TEMPLATE, Conversation
from interp.prompts.tokens import Encoded, special_ids, token_strings, trimmed

_FIRST, _MARKS = 0x40000, 0xA0000  # planes 4 to 13 of Unicode: no character is assigned there
# Spaces that `str.strip` takes off as it does the common ones, and that templates do not write:
# by turns for the spaces at the head and at the end of the contents.
_SPACES = [0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F]
PLAIN: Mapping[str, bool] = MappingProxyType({})  # a template called without a reply to come
_OWN = len(SPEAKERS)  # the code of the template's own text, after those of the speakers
_REMEDY = (
    "render it with tokenizer.apply_chat_template(messages, tokenize=False), pass the text with "
    "prepend_bos=False, and the roles as token_labels="
)


@dataclass(frozen=True, eq=False)
class Chat:
    """One conversation as tokens, and the role of each.

    Attributes:
        text: as rendered, with line breaks in place of what the template itself wrote, so that
            words of the template are never taken for the speakers'.
        encoded: ids, equal to those of `apply_chat_template`; `special` are control tokens and
            the template's own; these have no spans.
        roles: per token "system", "user", "assistant" or "template".
    """

    text: str
    encoded: Encoded
    roles: Objects


def encode_chats(
    chats: Sequence[Conversation],
    tokenizer: Any,
    max_length: int | None = None,
    *,
    generation_prompt: bool = False,
) -> tuple[list[Chat], tuple[str, ...]]:
    """Tokens of every conversation, and notes on what a reader of results should know.

    Args:
        chats: messages with a known role and a text each, as `conversation` gives.
        tokenizer: one with a chat template and character offsets.
        max_length: tokens beyond are cut off.
        generation_prompt: end where the assistant's reply begins: with the header of a reply, or,
            where the last message is the assistant's own, with its text.

    Raises:
        BadInput: no template, no offsets, a template that refuses a conversation, or that rewrites
            contents so that they cannot be found again; with `generation_prompt` a last message
            of the assistant that is empty.
    """
    _refuse_without_template(tokenizer)
    controls = special_ids(tokenizer)
    found, notes = [], _Notes()
    for i, chat in enumerate(chats):
        ending = _ending(chat, f"prompt {i}") if generation_prompt else {}
        found.append(_encoded(chat, tokenizer, controls, max_length, i, notes, ending))
    return found, tuple(notes.told(tokenizer))


def _ending(chat: Conversation, where: str) -> dict[str, bool]:
    """The arguments of a template that leaves the word to the assistant."""
    last = chat[-1]
    if last[ROLE] != "assistant":
        return {"add_generation_prompt": True}
    if not last["content"].strip():
        raise BadInput(
            f"{where}: the last message is the assistant's and empty; leave it out, and the model "
            "begins the reply, or write the beginning of a reply, and the model continues it"
        )
    return {"continue_final_message": True}


def _refuse_without_template(tokenizer: Any) -> None:
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if not getattr(tokenizer, "chat_template", None):
        raise BadInput(
            f"the tokenizer ({name}) has no chat template, so that it is not known how this model "
            "reads chat messages: use the chat model of its family, set tokenizer.chat_template, "
            "or pass texts"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(
            f"the tokenizer ({name}) gives no character offsets, which the roles of chat messages "
            "need: load its fast version (use_fast=True)"
        )


def _encoded(
    chat: Conversation,
    tokenizer: Any,
    controls: Sequence[int],
    max_length: int | None,
    number: int,
    notes: _Notes,
    ending: Mapping[str, bool],
) -> Chat:
    where = f"prompt {number}"
    text = _rendered(chat, tokenizer, where, ending)
    if "add_generation_prompt" in ending:
        notes.headless += text == _rendered(chat, tokenizer, where)
    owners = _owners(chat, tokenizer, text, where, notes, ending)
    encoding = tokenizer.apply_chat_template(
        [dict(message) for message in chat],
        tokenize=True,
        return_dict=True,
        tokenizer_kwargs={"return_offsets_mapping": True, "verbose": False},
        **ending,
    )
    tokens = np.asarray(encoding["input_ids"], dtype=np.int64)[:max_length]
    spans = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)[:max_length]
    speakers = np.asarray([*map(SPEAKERS.index, (m[ROLE] for m in chat)), _OWN], dtype=np.int64)
    codes, mixed = _codes_of(spans, text, speakers[owners])
    control = np.isin(tokens, controls)
    notes.mixed += int(mixed.sum())
    notes.controls += [(where, int(t)) for t in tokens[control & (codes != _OWN)]]
    special = control | (codes == _OWN)
    spans[special] = 0
    roles = np.asarray([*SPEAKERS, TEMPLATE], dtype=object)[codes]
    return Chat(_blanked(text, owners), Encoded(tokens, special, spans), roles)


def _rendered(
    chat: Conversation, tokenizer: Any, where: str, ending: Mapping[str, bool] = PLAIN
) -> str:
    """The conversation as text; raises `BadInput` with the template's own reason."""
    from jinja2 import TemplateError

    try:
        messages = [dict(m) for m in chat]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **ending))
    except (TemplateError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        roles = ", ".join(message[ROLE] for message in chat)
        raise BadInput(
            f"{where}: the tokenizer's chat template refuses the conversation ({roles}): {reason}"
        ) from error


def _blanked(text: str, owners: Ints) -> str:
    return "".join(c if o >= 0 else "\n" for c, o in zip(text, owners.tolist(), strict=True))


def _codes_of(spans: Ints, text: str, of_character: Ints) -> tuple[Ints, Bools]:
    """Speaker of each token, and the tokens whose characters are of several.

    Spaces at the ends of a token do not count, as they do not in words. A token of several
    speakers is the template's.
    """
    inner = trimmed(spans, text)
    inner = np.where((inner[:, 1] > inner[:, 0])[:, None], inner, spans)
    start = np.minimum(inner[:, 0], max(len(text) - 1, 0))
    # Some tokenizers give the start alone for a token that is one piece.
    stop = np.clip(inner[:, 1], start + 1, None)
    hot = of_character[:, None] == np.arange(_OWN + 1)
    count = np.vstack([np.zeros((1, _OWN + 1), np.int64), np.cumsum(hot, axis=0)])
    among = count[stop] - count[start]
    mixed = (among > 0).sum(axis=1) > 1
    return np.where(mixed, _OWN, among.argmax(axis=1)), mixed


# --- whose character it is --------------------------------------------------------------------


def _owners(
    chat: Conversation,
    tokenizer: Any,
    text: str,
    where: str,
    notes: _Notes,
    ending: Mapping[str, bool],
) -> Ints:
    """Number of the message that each character of the rendering is of, −1 for the template's."""
    contents = [message["content"] for message in chat]
    size = sum(map(len, contents))
    if size > _MARKS:
        raise BadInput(
            f"{where} has {size:,} characters; the roles of a conversation can be told up to "
            f"{_MARKS:,}: split it"
        )
    target = _codes(text)
    # First every character is marked. Where the template looks for certain words in the contents
    # (`</think>`), those are left as they are, and so are spaces.
    for kept in (None, _literals(str(tokenizer.get_chat_template()))):
        marks = _Marks(contents, kept)
        marked = [{**m, "content": c} for m, c in zip(chat, marks.contents, strict=True)]
        try:
            out = _codes(_rendered(tuple(marked), tokenizer, where, ending))
        except BadInput:  # it accepts the contents, but not without words that it looks for
            continue
        at = marks.found(out)
        if np.array_equal(marks.restored(out, at), target):
            notes.lost += marks.lost(at, chat, where)
            return marks.message_of(at)
    raise BadInput(
        f"{where}: the tokenizer's chat template rewrites the contents of messages, so that whose "
        f"text is where cannot be told; {_REMEDY}"
    )


def _codes(text: str) -> Ints:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)


def _text(codes: Ints) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


@lru_cache(maxsize=32)
def _literals(template: str) -> Any:
    """Pattern of the texts that stand in quotes in a template, and of spaces."""
    from jinja2 import Environment, TemplateSyntaxError

    try:
        tokens = [t for t in Environment().lexer.tokenize(template) if t.type == "string"]  # noqa: S701
    except TemplateSyntaxError:  # only the tokenizer's own environment can read it
        tokens = []
    words = sorted({str(t.value).strip() for t in tokens} - {""}, key=len, reverse=True)
    return unicode_regex.compile("|".join([*map(unicode_regex.escape, words), r"\s"]))


class _Marks:
    """Contents with marks in place of their characters.

    Attributes:
        contents: the marked contents, of the same lengths.
    """

    def __init__(self, contents: Sequence[str], kept: Any | None) -> None:
        self._starts = np.cumsum([0, *map(len, contents)])
        self._original = _codes("".join(contents))
        self._marked = np.arange(len(self._original)) + _FIRST
        self._blanks: dict[int, tuple[int, int]] = {}
        for k, content in enumerate(contents):
            self._leave(k, content, kept)
        whole = _text(self._marked)
        bounds = self._starts.tolist()
        self.contents = [whole[a:b] for a, b in pairwise(bounds)]

    def _leave(self, k: int, content: str, kept: Any | None) -> None:
        """Keeps what a pattern matches; without one, makes the spaces at the ends rare ones."""
        start, stop = int(self._starts[k]), int(self._starts[k + 1])
        if kept is not None:
            for match in kept.finditer(content):
                own = slice(start + match.start(), start + match.end())
                self._marked[own] = self._original[own]
        elif not content.strip():
            self._marked[start:stop] = _spaces_of(k)[0]
            self._blanks |= {k: (start, _spaces_of(k)[0])} if content else {}
        else:
            head = stop - len(content.lstrip())
            end = start + len(content.rstrip())
            self._marked[start:head], self._marked[end:stop] = _spaces_of(k)

    def found(self, out: Ints) -> Ints:
        """Place in all contents of each character of a rendering, −1 where it is of none."""
        at = out - _FIRST
        at[(at < 0) | (at >= len(self._original))] = -1
        for a, b in _gaps(at >= 0):
            self._follow(at, out, a, b)
        self._place_blanks(at, out)
        return at

    def _place_blanks(self, at: Ints, out: Ints) -> None:
        """Assigns contents of spaces only, which have no mark beside them, in their order."""
        cursor = 0
        for k, (start, space) in self._blanks.items():
            n = len(self.contents[k])
            free = np.flatnonzero((out[cursor:] == space) & (at[cursor:] < 0))[:n] + cursor
            if len(free) == n:
                at[free] = np.arange(start, start + n)
                cursor = int(free[-1]) + 1

    def _follow(self, at: Ints, out: Ints, a: int, b: int) -> None:
        """Assigns the characters `a … b` between two marks that continue the contents there."""
        before = int(at[a - 1]) if a else -1
        after = int(at[b]) if b < len(at) else -1
        inner = self._marked[before + 1 : after] if 0 <= before < after else None
        if inner is not None and np.array_equal(out[a:b], inner):
            at[a:b] = np.arange(before + 1, after)
            return
        if before >= 0:
            n = _run(out[a:b], self._marked[before + 1 :], self._edge(before, 1))
            at[a : a + n] = np.arange(before + 1, before + 1 + n)
            a += n
        if after >= 0:
            n = _run(out[a:b][::-1], self._marked[:after][::-1], self._edge(after, 0))
            at[b - n : b] = np.arange(after - n, after)

    def _edge(self, place: int, side: int) -> int:
        """The rare space at the head (0) or end (1) of the content that has a place."""
        k = int(np.searchsorted(self._starts, place, side="right")) - 1
        return _spaces_of(k)[side]

    def restored(self, out: Ints, at: Ints) -> Ints:
        """The rendering with the contents' own characters in place of marks."""
        if not len(self._original):
            return out
        return np.where(at >= 0, self._original[at], out)

    def message_of(self, at: Ints) -> Ints:
        """Number of the message of each place, −1 for none."""
        return np.where(at >= 0, np.searchsorted(self._starts, at, side="right") - 1, -1)

    def lost(self, at: Ints, chat: Conversation, where: str) -> list[str]:
        """The messages of which the rendering lacks characters that are no spaces."""
        here = np.zeros(len(self._original), dtype=bool)
        here[at[at >= 0]] = True
        own = self._marked >= _FIRST
        gone = np.unique(self.message_of(np.flatnonzero(own & ~here)))
        return [f"{where}, message {k} ({chat[k][ROLE]})" for k in gone.tolist()]


def _spaces_of(k: int) -> tuple[int, int]:
    """Rare spaces for the head and the end of message `k`, other ones than its neighbours have."""
    pair = 2 * k % len(_SPACES)
    return _SPACES[pair], _SPACES[pair + 1]


def _gaps(marked: Bools) -> Iterator[tuple[int, int]]:
    """Start and end of every stretch without marks."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], marked, [True]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _run(out: Ints, content: Ints, space: int) -> int:
    """Number of characters at the beginning that are this rare space in both."""
    n = min(len(out), len(content))
    same = (out[:n] == space) & (content[:n] == space)
    return int(np.argmin(same)) if not same.all() else n


# --- notes ------------------------------------------------------------------------------------


class _Notes:
    """What happened to the conversations of a source, to be told once for all of them."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.controls: list[tuple[str, int]] = []
        self.mixed = 0
        self.headless = 0

    def told(self, tokenizer: Any) -> Iterator[str]:
        """One sentence for each thing that happened."""
        if self.lost:
            yield (
                f"the chat template leaves out text of {len(self.lost)} messages (the first: "
                f"{self.lost[0]})"
            )
        if self.controls:
            where, token = self.controls[0]
            text = token_strings([token], tokenizer)[token]
            yield (
                f"contents hold {len(self.controls)} control tokens (the first: {text!r} in "
                f"{where}): the tokenizer reads them as it reads the template's own, so they count "
                "as special"
            )
        if self.headless:
            yield (
                f"the chat template writes no header for the reply to {self.headless} prompts: the "
                "model goes on where the last message ends"
            )
        if self.mixed:
            yield (
                f"{self.mixed} tokens hold characters of two roles, or of a content and the "
                f"template: their role is {TEMPLATE!r}"
            )
