"""Token batches: rectangles of ids with masks, filled by a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from interp._arrays import Ints
from interp.errors import BadInput, nearest

_WINDOW = 1024  # prompts sorted together; bounds how far a prompt moves from its place


def check_batching(max_tokens: int, max_batch: int | None, side: str) -> None:
    if max_tokens < 1:
        raise BadInput(f"max_tokens={max_tokens}; the budget of a batch is at least 1")
    if max_batch is not None and max_batch < 1:
        raise BadInput(f"max_batch={max_batch}; a batch holds at least one prompt")
    if side not in ("right", "left"):
        hint = nearest(side, ("right", "left"))
        raise BadInput(f"padding_side={side!r}{hint}; allowed: 'right', 'left'")


# --- grouping ---------------------------------------------------------------------------------


def sorted_in_windows(rows: Sequence[int], lengths: Ints) -> list[int]:
    """Longest first in each window: what does not fit in memory fails at once, not at the end."""
    result: list[int] = []
    for start in range(0, len(rows), _WINDOW):
        window = rows[start : start + _WINDOW]
        result += sorted(window, key=lambda i: (-int(lengths[i]), i))
    return result


def batches_of(
    rows: Sequence[int], lengths: Ints, kinds: Sequence[bool], max_tokens: int, max_batch: int
) -> Iterator[list[int]]:
    group: list[int] = []
    longest = 0
    for i in rows:
        widest = max(longest, int(lengths[i]))
        full = len(group) == max_batch or widest * (len(group) + 1) > max_tokens
        if group and (full or kinds[i] != kinds[group[0]]):
            yield group
            group, widest = [], int(lengths[i])
        group.append(i)
        longest = widest
    if group:
        yield group
