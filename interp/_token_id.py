"""The id of one token, from its text or from the id itself.

Knows a bridge by its tokenizer and the size of its vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from interp._tokenise import token_strings
from interp.errors import BadInput, nearest


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
        f"a {what} is one token: choose one of them, or give an id"
    )
