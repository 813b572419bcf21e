"""Which tokens are in the moments that an analysis adds up itself.

A value per token is filtered when a table is read; what was added up within a pass cannot be, and
its mean tells nothing of whether BOS is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from interp.contract.leaves import Moments, State, only, tabled

MIXED = "special tokens (BOS and the like) are in "
EVERY = "every token, also a special one (BOS and the like), is in "


def counted(state: State) -> Iterator[tuple[str, str, int]]:
    """Stack and name of the moments that are a table, with the most values that one layer has."""
    if any(tabled(leaves.values()) for leaves in state.values()):
        return  # the table is of those, and moments beside them are not in it
    most: dict[tuple[str, str], int] = {}
    for (stack, _), leaves in state.items():
        for name, leaf in only(leaves, Moments).items():
            n = int((leaf.count + leaf.undefined).max(initial=0))
            most[stack, name] = max(n, most.get((stack, name), 0))
    yield from ((stack, name, n) for (stack, name), n in most.items())


def moments_notes(state: State, special: pd.Series[bool]) -> list[str]:
    """What is to be said of moments.

    Args:
        special: whether each token of the run is special.
    """
    n, text = len(special), int((~special).sum())
    mixed = [name for _, name, m in counted(state) if text < m <= n]
    return [*too_many(state, n), *([_note(MIXED, mixed)] if mixed else [])]


def corpus_notes(state: State, tokens: int) -> list[str]:
    """The same where only the number of all tokens is known."""
    every = [name for _, name, n in counted(state) if n == tokens]
    return [*too_many(state, tokens), *([_note(EVERY, every)] if every else [])]


def too_many(state: State, tokens: int) -> list[str]:
    """A note on moments with more values in a layer than the run has tokens."""
    return [
        f"{name!r} has {n:,} values in one layer, and the run has {tokens:,} tokens: padding is in "
        "them if they are meant to be one per token (select with batch.mask)"
        for _, name, n in counted(state)
        if n > tokens
    ]


def of_tokens(name: str, notes: Iterable[str]) -> str:
    """Which tokens are in the moments of a value, ` (special tokens in it)`; "" if none is told."""
    for start, said in ((MIXED, " (special tokens in it)"), (EVERY, " (every token in it)")):
        if any(note.startswith(start) and repr(name) in note for note in notes):
            return said
    return ""


def _note(start: str, names: Iterable[str]) -> str:
    return (
        f"{start}{', '.join(map(repr, names))}: a sum cannot be filtered afterwards; "
        ".of(values, batch.mask & ~batch.special) leaves special tokens out"
    )
