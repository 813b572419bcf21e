"""Progress bars, in one place, so that they can be switched off everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def track(items: Sequence[T], what: str, *, enabled: bool = True) -> Iterable[T]:
    """Iterate with a bar on standard error: done, rate, time left. Silent when not enabled."""
    if not enabled or len(items) < 2:
        return items
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(items, description=what, console=Console(stderr=True), transient=True)
