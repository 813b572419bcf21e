"""The rest of a file whose download broke off: by range requests, where the server allows them.

Knows HTTP and files. What comes is not trusted: the caller compares the whole file with a digest.
"""

from __future__ import annotations

import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from interp._files import discard, make_folder

ATTEMPTS = 3
"""Broken connections without a byte of progress after which a file is given up."""
_PIECE = 1 << 16


class Begun:
    """A file that has come in part, and the address of the whole; both survive the process.

    Args:
        folder: where parts are kept; it is there only as long as there is one.
        name: of the file.
        size: bytes of the whole file.
    """

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self.path, self.size = folder / name, size
        self._url = folder / f"{name}.url"

    @property
    def come(self) -> int:
        """Number of bytes that are here."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def url(self) -> str:
        """The address of the whole file; "" where it is not known."""
        return self._url.read_text(encoding="utf-8").strip() if self._url.is_file() else ""

    def follow(self, folder: Path) -> None:
        """Keep the file of that name below a folder, which another program is writing.

        It is one file under two names: what is written there stays here after its deletion there.
        """
        # os.walk passes over folders that go away in the meantime; a search by pathlib fails there.
        for parent, _, files in os.walk(folder):
            if self.path.name in files:
                with suppress(OSError):  # no second names on this disk, or it is gone already
                    self._keep(Path(parent, self.path.name))

    def _keep(self, path: Path) -> None:
        """Give a file its second name here, unless it has it."""
        if not (self.path.exists() and path.samefile(self.path)):
            make_folder(self.path.parent)
            discard(self.path)
            self.path.hardlink_to(path)

    def note(self, log: str) -> None:
        """Keep the address that a log of pip names, if there is something to go on with."""
        # An address with a hidden password leads nowhere.
        pattern = rf"https?://[^\s\"'#]*/{re.escape(self.path.name)}"
        found = [url for url in re.findall(pattern, log) if "****" not in url]
        if self.come and found:
            self._url.write_text(found[0], encoding="utf-8")

    def forget(self) -> None:
        """Remove what has come, and the folder if nothing else is in it."""
        discard(self.path)
        discard(self._url)
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()

    def go_on(self, patience: float, tell: Callable[[int], None]) -> bool:
        """Fetch the rest; True if the file has its size then.

        Args:
            patience: seconds to wait for an answer.
            tell: called with the number of bytes that are here.

        Raises `OSError` of the disk; those of the network end the attempt.
        """
        left = ATTEMPTS
        while left and self.url and 0 < self.come < self.size:
            before = self.come
            try:
                for piece, start in _pieces(self.url, before, patience):
                    self._write(piece, start)
                    tell(self.come)
            except _NETWORK:
                pass
            left = ATTEMPTS if self.come > before else left - 1
        return self.come == self.size

    def _write(self, piece: bytes, start: int | None) -> None:
        """Append a piece, or begin anew where the server sends the file from its start."""
        with self.path.open("ab" if start is None else "wb") as file:
            file.write(piece)


_NETWORK: tuple[type[Exception], ...] = (
    urllib.error.URLError,
    HTTPException,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
)


def _pieces(url: str, begin: int, patience: float) -> Iterator[tuple[bytes, int | None]]:
    """Pieces of a file from `begin` on; the first of all has 0 with it where it is the start."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={begin}-"})  # noqa: S310
    with _opener().open(request, timeout=patience) as answer:
        start: int | None = None
        if answer.status != 206:
            start = 0  # the server knows no ranges
        elif not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {begin}-"):
            raise HTTPException("another range than was asked for")
        while piece := answer.read(_PIECE):
            yield piece, start
            start = None


def _opener() -> Any:
    """HTTP as pip was told: its proxy and its certificates."""
    handlers: list[Any] = []
    if proxy := os.environ.get("PIP_PROXY"):
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    if cert := os.environ.get("PIP_CERT"):
        context = ssl.create_default_context(cafile=cert)
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)
