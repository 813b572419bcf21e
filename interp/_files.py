"""Writing of files that are whole or absent; reading with errors that name file and remedy.

Every file that this library writes goes through `atomic`, `atomic_folder`, `write_text` or
`write_sealed`; every file of its own that it reads through `reading`, `read_sealed` or `verify`.
Knows names and bytes; nothing of what is in the files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.errors import BadInput, InterpError

TEMPORARY = ".part"  # an ending by which leftovers of killed processes are found
SEAL = "sha256"
"""Key of a sealed document's own checksum."""
_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MISPLACED = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


# ---- writing ---------------------------------------------------------------------------------


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to it when the block ends without error.

    Bytes and name have reached the disk before the block is left. After an error nothing remains;
    a block that writes nothing leaves nothing.
    Raises `InterpError` if the file cannot be written: a full disk, a folder of that name, a
    missing permission, a name that is too long.
    """
    make_folder(path.parent)
    temporary = _temporary(path)
    with _telling(path, temporary):
        yield temporary
        if temporary.exists():
            _open_to_others([temporary])
            # Bytes before name before folder: without the order, a power cut may leave the name of
            # a file whose bytes were never written.
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which replaces `folder` as a whole when the block ends.

    A link is followed: its target is replaced. After an error the earlier folder is unchanged.
    Raises `InterpError` as `atomic` does.
    """
    target = Path(os.path.realpath(folder))
    if kind_of(target) == "file":
        raise InterpError(
            f"{str(folder)!r} is a file where a folder belongs; move it away or choose another name"
        )
    make_folder(target.parent)
    temporary, earlier = _temporary(target), _temporary(target)
    with _telling(folder, temporary):
        temporary.mkdir()
        yield temporary
        _open_to_others(path for path in temporary.rglob("*") if path.is_file())
        for path in temporary.rglob("*"):
            _sync(path)
        _take_place(temporary, target, earlier)
        _sync(target.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def _open_to_others(files: Iterable[Path]) -> None:
    """Give files the mode that the umask asks for; some writers let only their owner read."""
    # The system tells the umask only to who sets one: a strict one, for files of other threads.
    umask = os.umask(0o077)
    os.umask(umask)
    for path in files:
        path.chmod(0o666 & ~umask)


def _take_place(temporary: Path, target: Path, earlier: Path) -> None:
    """Move a folder to its place, after moving an earlier one away."""
    if kind_of(target) is None:
        temporary.rename(target)
        return
    # No portable call exchanges two folders: for a moment neither is there, and if the second step
    # fails the first is undone.
    target.rename(earlier)
    try:
        temporary.rename(target)
    except OSError:
        earlier.rename(target)
        raise


def write_text(path: Path, text: str) -> Path:
    """Write a text as UTF-8, whole or not at all; returns the path.

    Half a surrogate pair, which UTF-8 cannot encode, becomes its escape in JSON and Python.
    """
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
    return path


def write_json(path: Path, document: Any) -> None:
    """Write a document as JSON, whole or not at all."""
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def kind_of(path: Path) -> str | None:
    """Kind of a path, "file" or "folder", with links followed; None if nothing is there.

    Raises `InterpError` if the system refuses to look: no permission, a name that is too long.
    """
    # lexists: a broken link is something that stands in the way of a new file.
    try:
        return "folder" if path.is_dir() else "file" if os.path.lexists(path) else None
    except OSError as error:
        raise unwritable(path, error) from error


def names_in(folder: Path) -> set[str]:
    """Names of the entries of a folder; raises `InterpError` if it may not be listed."""
    try:
        return {path.name for path in folder.iterdir()}
    except OSError as error:
        raise unwritable(folder, error) from error


def make_folder(folder: Path) -> None:
    """Create a folder and those above it; raises `InterpError` if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def discard(path: Path) -> None:
    """Delete a file if it exists; raises `InterpError` if that is impossible."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        # Linux reports EISDIR for a folder, macOS and POSIX EPERM.
        cause = OSError(errno.EISDIR, "") if path.is_dir() else error
        raise unwritable(path, cause) from error


def _temporary(path: Path) -> Path:
    """A hidden temporary name in the folder of `path`."""
    # Not made of the name of `path`, which may already be as long as the disk allows.
    return path.with_name(f".{secrets.token_hex(8)}{TEMPORARY}")


@contextmanager
def _telling(path: Path, temporary: Path) -> Iterator[None]:
    """Remove the temporary path after an error, and name `path` in errors of the disk."""
    try:
        yield
    # BaseException: a Ctrl-C must leave no temporary file either.
    except BaseException as error:
        _remove(temporary)
        if is_full(error) or _is_about(error, path, temporary.name):
            raise unwritable(path, error) from error
        raise


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def is_full(error: BaseException) -> bool:
    """Test for a full disk or quota."""
    # Libraries in Rust, such as safetensors, put the number into the text only.
    in_text = any(f"os error {code})" in str(error) for code in _FULL)
    return in_text or (isinstance(error, OSError) and error.errno in _FULL)


def _is_about(error: BaseException, path: Path, temporary: str) -> bool:
    """Test for an error of the system about the path that is written, not about another file."""
    if not isinstance(error, OSError):
        return False
    return temporary in str(error) or str(error.filename) in (str(path), str(path.parent))


def unwritable(path: Path, error: BaseException) -> InterpError:
    """The error for a path that cannot be written, with the fix."""
    shown, code = repr(str(path)), getattr(error, "errno", None)
    if is_full(error):
        return InterpError(
            f"no space left to write {shown} ({error}); what is finished is kept: make room and "
            "run again with resume (a corpus run), or save again"
        )
    reason = os.strerror(code) if code else str(error).strip().split("\n")[0]
    if code in _FORBIDDEN:
        help_ = "change its permissions, or choose another folder"
    elif code in _MISPLACED:
        help_ = "a file stands where a folder belongs or the other way round; move it away"
    elif code == errno.ENAMETOOLONG:
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
        help_ = f"a name in it has {longest} bytes, most disks take 255; choose a shorter one"
    else:
        help_ = "choose another folder"
    return InterpError(f"cannot write {shown} ({reason}); {help_}")


def _sync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---- reading ---------------------------------------------------------------------------------


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[Path]:
    """Turn any error in the block into an `InterpError` that names `path`.

    Args:
        path: a file that this library wrote.
        remedy: advice to the user, as the end of a sentence.
    """
    # Opening a pipe would wait for a writer for ever.
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # noqa: PTH110, PTH112, PTH113  Path's own raise for some paths
        raise InterpError(f"{str(path)!r} is no ordinary file but a pipe or a device; {remedy}")
    try:
        yield path
    except (InterpError, MemoryError):
        raise
    except Exception as error:
        raise unreadable(path, error, remedy) from error


def unreadable(path: Path, error: Exception, remedy: str) -> InterpError:
    """The error for a file of ours that is missing, misplaced, forbidden or damaged."""
    shown = repr(str(path))
    code = error.errno if isinstance(error, OSError) else None
    if os.path.isdir(path):  # noqa: PTH112  Path.is_dir raises for some paths
        return InterpError(f"{shown} is a folder where a file belongs; {remedy}")
    if code == errno.ENOENT:
        return InterpError(f"{shown} is missing; {remedy}")
    if code:
        help_ = "change its permissions" if code in _FORBIDDEN else remedy
        return InterpError(f"{shown} cannot be read ({os.strerror(code)}); {help_}")
    reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    return InterpError(f"{shown} is damaged ({reason}); {remedy}")


def read_json(path: Path) -> Any:
    """The document in a file that may be missing; None if it is, or if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def checksum(path: Path, tell: Callable[[bytes], None] = lambda _: None) -> str:
    """SHA-256 of a file as hex digits; `tell` is called with every block of bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
            tell(block)
    return digest.hexdigest()


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder`, by its path from there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): checksum(path) for path in paths}


def verify(folder: Path, files: Mapping[str, str], remedy: str) -> None:
    """Raise `InterpError` for the first file whose checksum has changed."""
    for name, expected in files.items():
        with reading(folder / name, remedy) as path:
            if checksum(path) != expected:
                raise InterpError(
                    f"{str(path)!r} is damaged (its SHA-256 is not the one that was written down "
                    f"with it); {remedy}"
                )


def write_sealed(path: Path, document: Mapping[str, Any], default: Any = str) -> dict[str, Any]:
    """Write a document as JSON with a checksum over itself and its name; returns it without.

    Args:
        path: the file, whole or absent; a renamed document does not fit its checksum.
        document: JSON values, or values that `default` converts.
        default: called with values of types that JSON lacks.
    """
    plain: dict[str, Any] = json.loads(json.dumps(document, default=default))
    write_json(path, plain | {SEAL: _seal(path.name, plain)})
    return plain


def read_sealed(path: Path, remedy: str, unsealed: Collection[str] = ()) -> dict[str, Any]:
    """Read a document of `write_sealed`, without its checksum.

    Args:
        path: the file.
        remedy: as for `reading`.
        unsealed: keys of the documents of older versions, which had no checksum; a document with
            exactly these is accepted without one.

    Raises `InterpError` for a file that is missing, not JSON, or does not fit its checksum.
    """
    with reading(path, remedy):
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise TypeError(f"expected an object, got {type(document).__name__}")
        if unsealed and document.keys() == set(unsealed):
            return document
        seal = document.pop(SEAL, None)
        if seal != _seal(path.name, document):
            raise ValueError("its contents or its name do not fit the checksum in it")
    return document


def _seal(name: str, document: Mapping[str, Any]) -> str:
    """SHA-256 over a document and its name; spaces and the order of keys do not count."""
    # With the name: a record copied from shard 3 to shard 4 is whole, but not that of shard 4.
    text = json.dumps([name, document], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


LAYOUT = "results.json"
EXPERIMENT = "experiment.json"
SERIES = "series.json"
MARKS = (LAYOUT, EXPERIMENT, SERIES)  # a folder without any was not written by this library


@contextmanager
def whole_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder to fill, which appears whole under its name at the end, or not at all.

    Raises `BadInput` if it exists and is not empty, unless `overwrite`.
    """
    refuse_existing(folder, overwrite=overwrite)
    with atomic_folder(folder) as temporary:
        yield temporary


def refuse_existing(path: Path, *, overwrite: bool = False, folder: bool = True) -> None:
    """Raise for an output path that is taken or cannot be written, before anything is computed.

    Args:
        path: the folder or file to write.
        overwrite: whether existing results may be replaced.
        folder: whether a folder is to be written, or a file.

    Raises `BadInput` for a file, or a folder with something in it; `InterpError` if the place
    cannot be written.
    """
    kind, wanted = kind_of(path), "folder" if folder else "file"
    _refuse_place(path)
    if kind is None or (kind == wanted == "folder" and not names_in(path)):
        return
    if kind != wanted:
        example = "" if folder else ", such as report.html"
        raise BadInput(f"{str(path)!r} is a {kind}; name a {wanted}{example}")
    if not overwrite:
        raise BadInput(
            f"output {kind} {str(path)!r} exists; choose another or allow it to be replaced "
            "(overwrite=True, --overwrite)"
        )
    # overwrite=True with a mistyped path must not delete a folder of something else.
    if folder and not any((path / name).exists() for name in MARKS):
        raise BadInput(
            f"refusing to replace folder {str(path)!r}: it holds no results of this library"
        )


def _refuse_place(path: Path) -> None:
    """Raise `InterpError` if nothing can be written at `path`."""
    above = next(p for p in Path(os.path.realpath(path)).parents if kind_of(p))
    if not above.is_dir():
        raise unwritable(path, OSError(errno.ENOTDIR, ""))
    if not os.access(above, os.W_OK | os.X_OK):
        raise unwritable(path, OSError(errno.EACCES, ""))


def json_value(value: Any) -> Any:
    """A value of a type that JSON lacks, as a number, list or text."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


_LONG = pd.UInt64Dtype()  # whole numbers above 2**63 with holes, on the disk only


def to_parquet(frame: pd.DataFrame, path: Path) -> None:
    """Write a table with every digit of its values; `from_parquet` reads it.

    Object columns of mixed types become text, because a Parquet column has one type; missing values
    stay missing.
    """
    out = frame.copy(deep=False)
    for column in [c for c in out if out[c].dtype == object]:
        there = out[column].notna()
        kinds = {type(v) for v in out[column][there]}
        if len(kinds) > 1:
            cells = zip(out[column], there, strict=True)
            out[column] = [str(v) if known else None for v, known in cells]
        elif kinds == {int} and max(out[column][there]) >= 1 << 63:
            out[column] = out[column].astype(_LONG)  # Arrow takes objects for int64
    out.to_parquet(path, index=False)


def from_parquet(path: Path) -> pd.DataFrame:
    """Read a file of `to_parquet`; a column of whole numbers with holes has ints and None."""
    from pyarrow.parquet import read_table

    # By default pandas would make such a column float64, in which 1234567890123456789 is another
    # number. partitioning=None: a folder called label=x above would become a column.
    frame: pd.DataFrame = read_table(path, partitioning=None).to_pandas(integer_object_nulls=True)
    for column in [c for c in frame if frame[c].dtype == _LONG]:
        cells = frame[column].astype(object)
        frame[column] = cells.where(cells.notna(), None)
    return frame
