"""Progress bars and lines on standard error, in one place so that they can be switched off.

In a terminal they are drawn by rich and leave no trace. In a notebook rich needs ipywidgets;
without them one line of text is written over. In a file or a pipe there are no bars, and a stage
is one line.
"""

from __future__ import annotations

import html
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Self, TypeVar

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds of work before a bar appears: what is done sooner needs none."""
INSPECTING = "inspecting the model, once: which sites it has, and what they hold"
BETWEEN = 0.2
"""Seconds between two states of a notebook's output."""
SHOWN = 3  # texts of a generation that can be read along
LETTERS = 600  # of each, from its end


@contextmanager
def stage(what: str, *, enabled: bool = True) -> Iterator[None]:
    """Says what is being done for as long as the block runs; silent when not enabled."""
    console = _console() if enabled else None
    if console is None:
        yield
    elif _draws(console):
        with console.status(what):
            yield
    else:
        _write(f"{what} …\n")
        yield


def counted(count: int, thing: str) -> str:
    """A count with its noun.

    >>> counted(1, "failure"), counted(2000, "failure")
    ('1 failure', '2,000 failures')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def track(items: Sequence[T], what: str, *, enabled: bool = True) -> Iterable[T]:
    """Iterates with a bar: share done, time, time left. Silent when not enabled."""
    with Bar(what, len(items), enabled=enabled) as bar:
        for number, item in enumerate(items):
            yield item
            bar.show(number + 1)


def remark(text: str, *, unwatched: bool = False) -> None:
    """Print a line on standard error, if somebody watches: on a terminal or in a notebook.

    `unwatched`: also into a file or a pipe.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        console.print(f"{text} …", highlight=False)
    elif unwatched:
        _write(f"{text} …\n")


@contextmanager
def slow(what: str, *, enabled: bool = True) -> Iterator[None]:
    """Says what is being done once the block has taken a second, if somebody watches."""
    timer = threading.Timer(PATIENCE, remark, (what,))
    timer.daemon = True
    if enabled:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Drawn:
    """What stops its display at the end of a block."""

    _bar: Any = None

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()


class Bar(_Drawn):
    """A bar that appears once the work has taken a second, and leaves no trace.

    Args:
        what: name of the work.
        total: number of steps.
        enabled: whether a bar is shown at all.
    """

    def __init__(self, what: str, total: int, *, enabled: bool = True) -> None:
        self._what, self._total, self._enabled = what, total, enabled

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        return self

    def show(self, done: int, doing: str = "") -> None:
        """Shows that so many steps are done, and what is being done now."""
        if not self._enabled or time.monotonic() - self._start < PATIENCE:
            return
        if self._bar is None:
            self._bar = _display(self._columns, lasting=False)
            self._enabled = self._bar is not None
            if not self._enabled:
                return
            self._task = self._bar.add_task(self._what, total=self._total, doing="")
        text = f"{self._what} {done / max(self._total, 1):.0%} {doing}"
        self._bar.update(self._task, completed=done, doing=doing, text=text)

    @staticmethod
    def _columns() -> list[Any]:
        from rich import progress

        return [
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[doing]}"),
        ]


class Counter(_Drawn):
    """A bar for work of known size: share done, tokens per second, time left.

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
        self._done = self._tokens = self._failures = 0
        self._start = time.monotonic()

    def __enter__(self) -> Counter:
        if self._enabled:
            self._bar = _display(self._columns, lasting=True)
            if self._bar is not None:
                self._task = self._bar.add_task("", total=self._total, rate="")
        return self

    def _columns(self) -> list[Any]:
        from rich import progress

        return [
            progress.TextColumn(f"{{task.completed:,.0f}} of {{task.total:,.0f}} {self._unit}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
        ]

    def advance(self, documents: int, tokens: int, failures: int = 0) -> None:
        """Adds the numbers of documents, tokens and failures that were completed."""
        self._done += documents
        self._tokens, self._failures = self._tokens + tokens, self._failures + failures
        if self._bar is not None:
            rate = self._tokens / max(time.monotonic() - self._start, 1e-9)
            text = f"{self._tokens:,} {self._what}, {rate:,.0f}/s"
            text += f", {counted(self._failures, 'failure')}" if self._failures else ""
            whole = f"{self._done:,} of {self._total:,} {self._unit}, {text}"
            self._bar.update(self._task, completed=self._done, rate=text, text=whole)


class Writing(_Drawn):
    """The state of a generation: texts done, tokens written, tokens per second.

    In a terminal a line with a bar; in a notebook a line and the ends of the first texts that are
    being written, in one output that is replaced.

    Args:
        texts: number of texts.
        most: tokens after which each of them ends at the latest.
        decode: text of tokens.
        enabled: whether anything is shown at all.
    """

    def __init__(
        self,
        texts: int,
        most: int,
        decode: Callable[[Sequence[int]], str],
        *,
        enabled: bool = True,
    ) -> None:
        self._texts, self._most, self._decode, self._enabled = texts, most, decode, enabled
        self._tokens, self._done = [0] * texts, [False] * texts
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        if self._enabled:
            notebook = _console().is_jupyter and find_spec("IPython") is not None
            self._bar = _Cell() if notebook else _display(self._columns, lasting=True)
            if self._bar is not None:
                total = self._texts * self._most
                self._task = self._bar.add_task("", total=total, text=self.line)
        return self

    @staticmethod
    def _columns() -> list[Any]:
        from rich import progress

        return [
            progress.TextColumn("{task.fields[text]}"),
            progress.BarColumn(),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
        ]

    def reach(
        self, numbers: Sequence[int], written: Sequence[Sequence[int]], done: Sequence[bool]
    ) -> None:
        """Show how far the texts of these numbers are: their tokens, and which have ended."""
        for number, tokens, ended in zip(numbers, written, done, strict=True):
            self._tokens[number], self._done[number] = len(tokens), bool(ended)
        if self._bar is None:
            return
        pairs = zip(self._tokens, self._done, strict=True)
        # A text that ended early leaves nothing to wait for.
        passed = sum(self._most if ended else count for count, ended in pairs)

        def reading() -> dict[int, str]:
            rows = dict(zip(numbers, written, strict=True))
            going = [n for n, ended in zip(numbers, done, strict=True) if not ended]
            return {n: self._decode(rows[n]) for n in sorted(going or numbers)[:SHOWN]}

        self._bar.update(self._task, completed=passed, text=self.line, reading=reading)

    @property
    def line(self) -> str:
        """The state in words."""
        rate = sum(self._tokens) / max(time.monotonic() - self._start, 1e-9)
        return (
            f"{sum(self._done):,} of {self._texts:,} texts, {sum(self._tokens):,} tokens, "
            f"{rate:,.0f} tokens/s"
        )


class _Cell:
    """An output of a notebook that is replaced a few times a second: a line, and texts below."""

    def __init__(self) -> None:
        self._line, self._last = "", -BETWEEN
        self._reading: Callable[[], Mapping[int, str]] = dict
        self._handle: Any = None

    def add_task(self, *_: Any, text: str, **__: Any) -> int:
        self._line = text
        return 0

    def update(
        self, _task: int, *, text: str, reading: Callable[[], Mapping[int, str]], **_: Any
    ) -> None:
        self._line, self._reading = text, reading
        if time.monotonic() - self._last >= BETWEEN:
            self.stop()

    def stop(self) -> None:
        """Show the state that was told last."""
        from IPython.display import HTML, display

        self._last = time.monotonic()
        page = HTML(_page(self._line, self._reading()))  # type: ignore[no-untyped-call]
        if self._handle is None:
            self._handle = display(page, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(page)


def _page(line: str, texts: Mapping[int, str]) -> str:
    """A line and the ends of texts, as HTML."""
    rows = "".join(
        f"<div style='white-space:pre-wrap'><b>{number}</b> {html.escape(text[-LETTERS:])}</div>"
        for number, text in texts.items()
    )
    return f"<div>{html.escape(line)}</div>{rows}"


class Bytes(_Drawn):
    """A bar for a file of known size: share, megabytes, rate, time left.

    Args:
        what: name of the file.
        total: its bytes.
        enabled: whether a bar is shown at all.
    """

    def __init__(self, what: str, total: int, *, enabled: bool = True) -> None:
        self._what, self._total, self._enabled = what, total, enabled

    def __enter__(self) -> Bytes:
        if self._enabled:
            self._bar = _display(self._columns, lasting=False)
            if self._bar is not None:
                self._task = self._bar.add_task(self._what, total=self._total)
        return self

    @staticmethod
    def _columns() -> list[Any]:
        from rich import progress

        return [
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        ]

    def reach(self, done: int) -> None:
        """Show that so many bytes are there."""
        if self._bar is not None:
            done = min(done, self._total)
            text = f"{self._what} {done / 1e6:,.1f} of {self._total / 1e6:,.1f} MB"
            self._bar.update(self._task, completed=done, text=text)


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _draws(console: Any) -> bool:
    """True if rich can draw there: in a terminal, or in a notebook that has ipywidgets."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return bool(console.is_terminal)


def _display(columns: Callable[[], list[Any]], *, lasting: bool) -> Any:
    """A started display; None where there is nobody to look at it.

    `lasting`: its last state stays, also in a file or a pipe.
    """
    from rich.progress import Progress

    console = _console()
    if console.is_jupyter and not _draws(console):
        return _Line(lasting=lasting)
    if not (lasting or _draws(console)):
        return None
    display = Progress(*columns(), console=console, transient=not lasting)
    display.start()
    return display


class _Line:
    """One line of text that is written over: the bar of a notebook without ipywidgets."""

    def __init__(self, *, lasting: bool) -> None:
        self._lasting, self._length = lasting, 0

    def add_task(self, *_: Any, **__: Any) -> int:
        return 0

    def update(self, _task: int, *, text: str, **_: Any) -> None:
        # Spaces cover the end of a longer line that stood there before.
        _write(f"\r{text:<{self._length}}")
        self._length = len(text)

    def stop(self) -> None:
        _write("\n" if self._lasting else "\r" + " " * self._length + "\r")
