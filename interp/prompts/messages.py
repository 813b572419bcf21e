"""Chat messages as users have them, checked: who speaks, and what.

Knows the shapes in which conversations are stored; knows nothing of tokenizers or templates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from interp.errors import BadInput, nearest
from interp.prompts.label_values import whole_text

ROLE = "role"
"""The label with the speaker of each token of a chat prompt."""
TEMPLATE = "template"
"""The role of what the chat template itself writes."""
SPEAKERS = ("system", "user", "assistant")
COLUMNS = ("messages", "conversations", "conversation", "chat")
TEXT = "text"  # the column with the text, unless another is asked for
_ALIASES = {"human": "user", "gpt": "assistant"}  # in data with `from` and `value`

Message = Mapping[str, Any]
Conversation = tuple[Message, ...]


def chat_column(names: Iterable[Any] | None, text_column: str) -> str | None:
    """The column that holds conversations, where there is no text and none was asked for by name.

    A column of another name is read if `text_column` asks for it.

    >>> chat_column(["id", "messages"], "text"), chat_column(["text", "messages"], "text")
    ('messages', None)
    """
    known = [str(name) for name in names or ()]
    if text_column in known or text_column != TEXT:
        return None
    return next((name for name in COLUMNS if name in known), None)


def is_message(value: Any) -> bool:
    """True for a mapping that says who speaks; whether it has a content is for `conversation`."""
    if not isinstance(value, Mapping) or TEXT in value or any(c in value for c in COLUMNS):
        return False
    return ROLE in value or {"from", "value"} <= value.keys()


def is_conversation(value: Any) -> bool:
    """True for a list of messages, by its first."""
    return isinstance(value, list | tuple | np.ndarray) and len(value) > 0 and is_message(value[0])


def conversation(value: Any, where: str) -> Conversation:
    """The messages of one conversation, each with a known `role` and a text as `content`.

    Text parts of a content are joined. Other fields of a message are left as they are, for the
    template may read them. `where` names the conversation in errors.

    Raises `BadInput` for what is no list of messages, a role that is not known, and a content that
    is missing or no text.
    """
    if not isinstance(value, list | tuple | np.ndarray):
        hint = (
            " (a column of texts is read by its name, text_column=)"
            if isinstance(value, str)
            else ""
        )
        raise BadInput(f"{where} is {type(value).__name__}; expected a list of chat messages{hint}")
    if not len(value):
        raise BadInput(f"{where} has no messages; a conversation needs at least one")
    return tuple(_checked(message, f"{where}, message {k}") for k, message in enumerate(value))


def _checked(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise BadInput(
            f"{where} is {type(message).__name__}; a message is a mapping with 'role' and 'content'"
        )
    shared = "from" in message and ROLE not in message
    role, content = ("from", "value") if shared else (ROLE, "content")
    speaker = _speaker(message.get(role), where, list(message))
    text = _text_of(message.get(content), f"{where} ({speaker})")
    rest = {str(k): v for k, v in message.items() if k not in (role, content)}
    return {ROLE: speaker, "content": text, **rest}


def _speaker(role: Any, where: str, fields: Sequence[Any]) -> str:
    if role is None:
        raise BadInput(f"{where} has no 'role' (its fields: {', '.join(map(str, fields))})")
    found = _ALIASES.get(str(role), str(role))
    if found not in SPEAKERS:
        raise BadInput(
            f"{where} has the role {role!r}{nearest(found, SPEAKERS)}; allowed: "
            f"{', '.join(SPEAKERS)} (leave other messages out, or give them one of these roles)"
        )
    return found


def _text_of(content: Any, where: str) -> str:
    if content is None:
        raise BadInput(
            f"{where} has no content; a message needs a text under 'content' (a message that only "
            "calls tools can be left out)"
        )
    if isinstance(content, list | tuple | np.ndarray):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise BadInput(
            f"{where}: its content is {type(content).__name__}; expected a text, or a list of "
            "parts with texts"
        )
    return whole_text(where, content)


def _part(part: Any, where: str) -> str:
    """The text of one part of a content; images and the like are refused by their type."""
    if isinstance(part, str):
        return part
    fields = part if isinstance(part, Mapping) else {}
    kind = fields.get("type", "text" if "text" in fields else type(part).__name__)
    text = fields.get("text")
    if kind != "text" or not isinstance(text, str):
        raise BadInput(
            f"{where}: its content has a part of type {kind!r}; only parts of type 'text' (with "
            "the text under 'text') can be read: leave the others out"
        )
    return text
