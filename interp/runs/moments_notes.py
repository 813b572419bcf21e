"""Which tokens are in the moments that an analysis adds up itself.

A value per token is filtered when a table is read; what was added up within a pass cannot be, and
its mean tells nothing of whether BOS is in it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from interp.contract.leaves import Grouped, Moments, Rows, State


def counted(state: State) -> Iterator[tuple[str, str, int]]:
    """Stack and name of the moments that are a table, with the most values that one layer has."""
    leaves_of_all = [leaf for leaves in state.values() for leaf in leaves.values()]
    if any(isinstance(leaf, Rows | Grouped) for leaf in leaves_of_all):
        return  # the table is of those, and moments beside them are not in it
    most: dict[tuple[str, str], int] = {}
    for (stack, _), leaves in state.items():
        for name, leaf in leaves.items():
            if isinstance(leaf, Moments):
                n = int((leaf.count + leaf.undefined).max(initial=0))
                most[stack, name] = max(n, most.get((stack, name), 0))
    yield from ((stack, name, n) for (stack, name), n in most.items())


def with_special(state: State, special: pd.Series[bool]) -> list[str]:
    """Names of moments with more values than there are tokens that are not special."""
    return [name for _, name, n in counted(state) if special.any() and n > (~special).sum()]


def moments_notes(state: State, special: pd.Series[bool]) -> list[str]:
    """What is to be said of moments.

    Args:
        special: whether each token of the run is special.
    """
    notes = too_many(state, len(special))
    told = " ".join(notes)
    mixed = [name for name in with_special(state, special) if repr(name) not in told]
    if mixed:
        notes.append(
            f"special tokens (BOS and the like) are in {', '.join(map(repr, mixed))}: a sum cannot "
            "be filtered afterwards; .of(values, batch.mask & ~batch.special) leaves them out"
        )
    return notes


def too_many(state: State, tokens: int) -> list[str]:
    """A note on moments with more values in a layer than the run has tokens."""
    return [
        f"{name!r} has {n:,} values in one layer, and the run has {tokens:,} tokens: padding is in "
        "them if they are meant to be one per token (select with batch.mask)"
        for _, name, n in counted(state)
        if n > tokens
    ]
