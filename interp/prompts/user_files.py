"""Files that a user names: whether they can be read, and their bytes, unpacked where compressed.

Every reader of prompts, corpora and word vectors opens its files here. Knows names, kinds and
bytes of files; nothing of what is in them.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from interp.errors import BadInput, nearest

COMPRESSED = ".gz"
_GZIP = b"\x1f\x8b"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_PACKED = (".bz2", ".xz", ".zip", ".zst", ".7z", ".tar", ".tgz")
_KINDS = (
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def shown(path: str | Path) -> str:
    r"""The name of a file as text that can be printed and saved; bytes that are no UTF-8 as `\xe9`.

    >>> shown("caf\udce9.txt")
    'caf\\xe9.txt'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def suffix_of(path: str | Path) -> str:
    """The suffix that tells the format, in lower case, whether or not the file is compressed.

    >>> suffix_of("a.JSONL.gz"), suffix_of("a.txt"), suffix_of("a")
    ('.jsonl', '.txt', '')
    """
    name = Path(path)
    return Path(name.stem if is_compressed(path) else name.name).suffix.lower()


def is_compressed(path: str | Path) -> bool:
    """True if the name ends in `.gz`."""
    return Path(path).suffix.lower() == COMPRESSED


def regular(path: str | Path) -> Path:
    """The path, if a file with an end is there; a link counts as what it leads to.

    Raises `BadInput` where there is none, and for a folder, pipe, socket or device, by name: a pipe
    without a writer would be waited for, a device may never end.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise _not_there(path, error) from error
    if stat.S_ISDIR(mode):
        raise BadInput(f"{shown(path)!r} is a folder; name a file")
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise BadInput(
                f"{shown(path)!r} is {kind}, not a file with an end; write what it gives to a file "
                "and name that"
            )
    return path


def _not_there(path: Path, error: OSError | ValueError) -> BadInput:
    if path.is_symlink() and isinstance(error, FileNotFoundError):
        leads = shown(path.readlink())
        return BadInput(f"{shown(path)!r} is a link to {leads!r}, which is not there")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return BadInput(f"no such file: {shown(path)!r}{similar(path)}")
    return BadInput(f"cannot read {shown(path)!r}: {getattr(error, 'strerror', None) or error}")


def similar(path: Path) -> str:
    """The nearest other name in the same folder, as the end of a message."""
    try:
        beside = [shown(p.name) for p in path.parent.iterdir() if p.name != path.name]
    except OSError:
        return ""
    return nearest(shown(path.name), beside)


def format_of(path: str | Path, suffixes: Sequence[str]) -> str:
    """The suffix that tells the format of a file, if it is one of `suffixes`.

    Raises `BadInput` for another one, and for compression other than gzip.
    """
    suffix = suffix_of(path)
    if suffix in suffixes:
        return suffix
    packed = Path(path).suffix.lower() in _PACKED
    what = "unpack it first" if packed else f"unknown suffix {suffix!r}{nearest(suffix, suffixes)}"
    raise BadInput(
        f"cannot read {shown(path)!r}: {what} (allowed: {', '.join(suffixes)}; of text also "
        f"compressed as {COMPRESSED})"
    )


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading; one that is named `.gz` gives its unpacked bytes.

    Raises `BadInput` as `regular` does, and where the file cannot be read, or is damaged.
    """
    path = regular(path)
    try:
        with gzip.open(path, "rb") if is_compressed(path) else path.open("rb") as stream:
            yield cast(BinaryIO, stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(
            f"{shown(path)!r} cannot be unpacked; it is cut short or damaged ({error})"
        ) from error
    except OSError as error:
        raise BadInput(f"cannot read {shown(path)!r}: {error.strerror or error}") from error


def byte_lines(path: str | Path, offset: int = 0) -> Iterator[bytes]:
    r"""The lines of a text file from a byte on, with their ends; only `\n` ends one.

    Offsets count unpacked bytes. Raises `BadInput` as `opened` does, and for a file that is
    compressed or UTF-16 although its name does not tell.
    """
    with opened(path) as stream:
        stream.seek(offset)
        for number, line in enumerate(stream):
            if not number and not offset:
                _refuse_foreign(path, line)
            yield line


def _refuse_foreign(path: str | Path, start: bytes) -> None:
    if start.startswith(_GZIP):
        raise BadInput(f"{shown(path)!r} is compressed; name it {shown(path) + COMPRESSED!r}")
    if start.startswith(_UTF_16):
        raise BadInput(
            f"{shown(path)!r} is UTF-16, not UTF-8; save it as UTF-8 "
            "(iconv -f UTF-16 -t UTF-8, or the editor's encoding)"
        )
