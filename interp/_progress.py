"""Progress bars, in one place so that they can be switched off everywhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


def track(items: Sequence[T], what: str, *, enabled: bool = True) -> Iterable[T]:
    """Iterate with a bar on standard error: done, rate, time left. Silent when not enabled."""
    if not enabled or len(items) < 2:
        return items
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(items, description=what, console=Console(stderr=True), transient=True)


def remark(text: str) -> None:
    """Print a line on standard error, if somebody watches: on a terminal or in a notebook."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        console.print(f"{text} …", highlight=False)


class _Bar:
    """What every bar does when its block is left; `_bar` is None while none is shown."""

    _bar: Any = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class Counter(_Bar):
    """A bar on standard error for work of known size: share done, tokens per second, time left.

    Args:
        what: name of the unit whose rate is shown.
        total: number of documents.
        enabled: whether a bar is shown at all.
        unit: name of the things whose share is shown.
    """

    def __init__(
        self, what: str, total: int, *, enabled: bool = True, unit: str = "documents"
    ) -> None:
        self._what, self._total, self._enabled, self._unit = what, total, enabled, unit
        self._tokens = self._failures = 0
        self._start = time.monotonic()

    def __enter__(self) -> Counter:
        if self._enabled:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn(f"{{task.completed:,.0f}} of {{task.total:,.0f}} {self._unit}"),
                BarColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, rate="")
        return self

    def advance(self, documents: int, tokens: int, failures: int = 0) -> None:
        """Add the numbers of documents, tokens and failures that were completed."""
        self._tokens, self._failures = self._tokens + tokens, self._failures + failures
        if self._bar is not None:
            rate = self._tokens / max(time.monotonic() - self._start, 1e-9)
            text = f"{self._tokens:,} {self._what}, {rate:,.0f}/s"
            text += f", {self._failures:,} failures" if self._failures else ""
            self._bar.update(self._task, advance=documents, rate=text)


class Bytes(_Bar):
    """A bar on standard error for a file of known size: share, megabytes, rate, time left.

    Args:
        what: name of the file.
        total: its bytes.
        enabled: whether a bar is shown at all.
    """

    def __init__(self, what: str, total: int, *, enabled: bool = True) -> None:
        self._what, self._total, self._enabled = what, total, enabled

    def __enter__(self) -> Bytes:
        if self._enabled:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total)
        return self

    def reach(self, done: int) -> None:
        """Show that so many bytes are there."""
        if self._bar is not None:
            self._bar.update(self._task, completed=min(done, self._total))
