"""Tokens for display: visible white space, no markup."""

from __future__ import annotations

import html
import re
from typing import Any

# Two parts or more of which one has three letters: `mean_cosine` and `p_max`, not `x_l` and `W_U`.
_IDENTIFIER = re.compile(
    r"(?<![\w.&/-])(?=\w*[A-Za-z]{3})[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+(?![\w/]|\.\w)"
)
_VISIBLE = str.maketrans({"\n": "↵", "\r": "␍", "\t": "⇥"})


def show(token: Any) -> str:
    """A token with its newlines and leading spaces made visible; unknown ones as ∅.

    >>> show(" her"), show("\\n"), show(None)
    ('·her', '↵', '∅')
    """
    if token is None or token != token:
        return "∅"
    text = str(token)
    bare = text.lstrip(" ")
    text = ("·" * (len(text) - len(bare)) + bare).translate(_VISIBLE)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text) or "∅"


def escape(text: Any) -> str:
    """Text for plotly, which reads tags and entities in labels and hovers.

    >>> escape("<s> & </s>")
    '&lt;s&gt; &amp; &lt;/s&gt;'
    """
    return html.escape(str(text), quote=False)


def coded(text: Any) -> str:
    """A sentence as HTML, in which names of columns and of functions are marked as code.

    >>> coded("mean_cosine of x_l is < 1")
    '<code>mean_cosine</code> of x_l is &lt; 1'
    """
    return _IDENTIFIER.sub(r"<code>\g<0></code>", html.escape(str(text)))


def label(token: Any, limit: int = 24) -> str:
    """A visible, escaped and not too long token for an axis or a cell."""
    text = show(token)
    return escape(text if len(text) <= limit else text[: limit - 1] + "…")


def percent(share: float, digits: int = 0, *, sign: bool = False) -> str:
    """A share in a sentence, with a space before the sign, as everywhere.

    >>> percent(0.95), percent(-0.0123, 1), percent(0.5, sign=True)
    ('95 %', '-1.2 %', '+50 %')
    """
    return f"{share:{'+' * sign}.{digits}%}".replace("%", " %")
