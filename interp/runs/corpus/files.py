"""Folders that belong to one run at a time.

Knows locks and leftovers; nothing of what is in the folders.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from interp._files import TEMPORARY, discard, make_folder, read_json, unwritable, write_json
from interp.errors import BadInput


def remove_leftovers(folder: Path) -> None:
    """Delete the half-written files and folders of killed processes under `folder`."""
    hidden = f".*{TEMPORARY}"
    # os.walk passes over folders that go away in the meantime: a worker outlives its run a while.
    left = [
        Path(place, name)
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if fnmatch(name, hidden)
    ]
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            discard(path)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Keep every other run out of `folder` while the block runs.

    The lock is the operating system's, so it ends with the process, even if that is killed; the
    file `.owner.json` only names its holder. Raises `BadInput` if another run has the lock,
    `InterpError` if the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    make_folder(folder)
    owner = folder / ".owner.json"
    # No waiting: the other run may take days, and its user should hear of it at once.
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise _taken(folder, read_json(owner)) from None
    except OSError as error:
        raise unwritable(folder / ".lock", error) from error
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        write_json(owner, {"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        yield
    finally:
        discard(owner)
        lock.release()


def _taken(folder: Path, owner: object) -> BadInput:
    who = owner if isinstance(owner, dict) else {}
    return BadInput(
        f"another run works on {str(folder)!r} (process {who.get('pid', '?')} on "
        f"{who.get('host', '?')}, since {who.get('since', '?')}); wait for it, or use another "
        "folder"
    )
