"""Pieces of a page: a figure with its choices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One drawing of a block: `data` is JSON for `plotly` or `maps`, `text` its numbers."""

    name: str
    kind: str
    data: str
    caption: str
    label: str
    text: str = ""
    width: int = 0
    height: int = 0
    id: str = ""


@dataclass(frozen=True)
class Block:
    """A figure with its choices, what it says, and what would have shown it to be nothing."""

    title: str
    choices: tuple[Choice, ...]
    says: tuple[str, ...] = ()
    nothing: str = ""
