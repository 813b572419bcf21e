"""Files that are whole or absent, folders that belong to one run at a time.

Knows names, bytes and locks; nothing of what is in the files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from interp.errors import BadInput, InterpError

TEMPORARY = ".part"
_CHUNK = 1 << 20


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends without error.

    Bytes and name have reached the disk before the block is left. After an error nothing remains;
    a block that writes nothing leaves nothing.
    Raises `InterpError` where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        yield temporary
        if temporary.exists():
            temporary.chmod(0o644)  # some writers make files that only their owner may read
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if _is_full(error):
            raise InterpError(
                f"no space left to write {str(path)!r} ({error}); what is finished is kept: make "
                "room and run again with resume"
            ) from error
        raise


def _is_full(error: BaseException) -> bool:
    """Whether a disk or a quota is full; libraries in Rust tell it in words only."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    said = any(f"os error {code})" in str(error) for code in full)
    return said or (isinstance(error, OSError) and error.errno in full)


def _sync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, document: Any) -> None:
    """Write a document as JSON, whole or not at all."""
    with atomic(path) as temporary:
        text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The document in a file; None where the file is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def checksum(path: Path, tell: Callable[[bytes], None] = lambda _: None) -> str:
    """SHA-256 of a file as hex digits; `tell` sees the bytes as they pass."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
            tell(block)
    return digest.hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half-written under `folder`."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Keep every other run out of `folder` while the block runs.

    The lock is the operating system's, so it ends with the process, however that dies; the file
    beside it only tells who holds it. Raises `BadInput` if another run has it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / ".owner.json"
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        who = read_json(owner) or {}
        raise BadInput(
            f"another run works on {str(folder)!r} (process {who.get('pid', '?')} on "
            f"{who.get('host', '?')}, since {who.get('since', '?')}); wait for it, or choose "
            "another folder"
        ) from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        write_json(owner, {"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()
