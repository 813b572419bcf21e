"""One file from the Python index, by pip, so that everything pip is told (index, proxy) holds.

Knows pip and uv; nothing of what is in the file.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from interp._progress import Bytes
from interp.errors import InterpError
from interp.prompts.resuming import Begun

PATIENCE = 10.0
"""Seconds to wait for an answer of the index."""
SILENCE = 3
"""Multiples of the patience after which a download without any sign of life is ended."""
STARTING = 300.0
"""Seconds for pip to say its first word, for which it needs no network but perhaps a slow disk."""
_PULSE = 0.1
_SAME = {  # what uv is told, for pip
    "PIP_INDEX_URL": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "PIP_EXTRA_INDEX_URL": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "PIP_FIND_LINKS": ("UV_FIND_LINKS",),
}


def download(
    distribution: str,
    folder: Path,
    *,
    begun: Begun,
    progress: bool = True,
    patience: float = PATIENCE,
) -> Path:
    """Fetches the wheel of a package, without its dependencies; runs none of its code.

    A download that breaks off is gone on with, now or at the next call.

    Args:
        distribution: `name==version`.
        folder: to write into; new.
        begun: what came of it before, and where it is kept until it is whole.
        progress: whether a bar is shown.
        patience: seconds to wait for an answer.

    Raises `InterpError` if the index cannot be reached, has no such file, or pip is missing;
    `OSError` if the disk is full.
    """
    with Bytes(distribution, begun.size, enabled=progress) as bar:
        if begun.go_on(patience, bar.reach):
            return begun.path
        return _by_pip(distribution, folder, begun, bar, patience)


def _by_pip(distribution: str, folder: Path, begun: Begun, bar: Bytes, patience: float) -> Path:
    """The wheel by pip; where its connection breaks, the rest of it without pip."""
    wheels, partial, log = folder / "wheels", folder / "partial", folder / "log"
    wheels.mkdir(parents=True)
    partial.mkdir()
    # pip writes to TMPDIR while it fetches: there the bar sees how much has come.
    settings = {**environment(os.environ), **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(partial))}
    command = [
        *("download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"),
        *("--disable-pip-version-check", "--progress-bar", "off", "--retries", "0", "-vv"),
        *("--timeout", f"{patience:g}", "--dest", str(wheels), distribution),
    ]
    with log.open("wb") as told:
        process = subprocess.Popen(  # noqa: S603  no shell; every part is ours
            [*pip(), *command],
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=subprocess.STDOUT,
            env=settings,
        )
        try:
            alive = _watched(process, folder, begun, bar, patience)
        finally:  # also after Ctrl-C: what has come is gone on with by the next call
            text = log.read_text(encoding="utf-8", errors="replace")
            begun.note(text)
    found = sorted(wheels.iterdir())
    if process.returncode == 0 and found:
        return found[0]
    error = _failure(distribution, text, begun, alive=alive, patience=patience)
    if not isinstance(error, BrokenOff):
        begun.forget()
        raise error
    if begun.go_on(patience, bar.reach):
        return begun.path
    # Told anew, for more of it may have come.
    raise _failure(distribution, text, begun, alive=alive, patience=patience)


def pip() -> list[str]:
    """The command that runs pip: of this Python, or through uv where it has none."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "--quiet", "pip"]
    raise InterpError(
        "fetching needs pip, which this Python does not have: python -m ensurepip installs it"
    )


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment for pip: what is set for uv alone holds for pip too.

    >>> environment({"UV_INDEX_URL": "https://mirror/simple"})["PIP_INDEX_URL"]
    'https://mirror/simple'
    """
    out = dict(given)
    for name, others in _SAME.items():
        told = next((given[other] for other in others if given.get(other)), None)
        if told and not given.get(name):
            # uv separates several folders by commas, pip by spaces.
            out[name] = told.replace(",", " ") if name == "PIP_FIND_LINKS" else told
    return out


def _watched(
    process: subprocess.Popen[bytes], folder: Path, begun: Begun, bar: Bytes, patience: float
) -> bool:
    """Wait for the end of a process; False if it gave no sign of life and was ended."""
    seen, last = 0, time.monotonic()
    try:
        while process.poll() is None:
            written = _bytes_below(folder)
            if written != seen:
                seen, last = written, time.monotonic()
            # A name server that does not answer is covered by no timeout of pip.
            if time.monotonic() - last > _silence(patience, said=seen > 0):
                return False
            begun.follow(folder / "partial")
            bar.reach(_bytes_below(folder / "partial"))
            time.sleep(_PULSE)
        return True
    finally:
        if process.poll() is None:  # silence, or Ctrl-C
            process.kill()
        process.wait()


def _silence(patience: float, *, said: bool) -> float:
    """Seconds without a sign of life after which pip is ended; `said`: it has said something."""
    return SILENCE * patience if said else max(SILENCE * patience, STARTING)


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(os.path.join(parent, name)).st_size  # noqa: PTH116, PTH118
            except OSError:  # pip moves its files
                continue
    return total


# ---- what went wrong -------------------------------------------------------------------------


class BrokenOff(InterpError):
    """A download that ended before the file did."""


def _failure(
    distribution: str, log: str, begun: Begun, *, alive: bool, patience: float
) -> Exception:
    """The cause, from what pip wrote."""
    log = re.sub(r"//[^/@\s]+@", "//", log)  # a password in the address of an index
    if "No space left on device" in log or "Disk quota exceeded" in log:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "DO NOT MATCH THE HASHES" in log:
        sums = re.findall(r"(?:Expected sha256|Got)\s+([0-9a-f]{64})", log)
        named = f" (expected {sums[0]}, got {sums[1]})" if len(sums) > 1 else ""
        return InterpError(
            f"the file of {distribution} that came is not the one that the index announced: its "
            f"SHA-256 differs{named}. Nothing was kept; try again, or another index (PIP_INDEX_URL)"
        )
    away = "" if alive else f"no sign of life for {_silence(patience, said=bool(log)):g} seconds"
    for address, reason in re.findall(r"Could not fetch URL (\S+): (.*)", log):
        if "404" not in reason:
            away = away or f"{address} {_short(reason)}"
    if away and not begun.come:
        return InterpError(
            f"the Python index cannot be reached ({away}), and {distribution} is not in a folder "
            "that pip knows; nothing was kept. With a network run the command again; behind a "
            "proxy or with a mirror tell pip (PIP_PROXY, PIP_INDEX_URL); without one bring the "
            "wheel from another machine (pip download --no-deps "
            f"{distribution}) and name its folder (PIP_FIND_LINKS)"
        )
    if "No matching distribution found" in log:
        return InterpError(
            f"the Python index that pip is told to use has no {distribution}; nothing was kept. "
            "Try another index (PIP_INDEX_URL=https://pypi.org/simple)"
        )
    broken = _broken_off(distribution, begun)
    if broken is not None:
        return broken
    errors = [line for line in log.splitlines() if line.strip().startswith("ERROR:")]
    last = errors[-1].strip() if errors else next(iter(log.strip().splitlines()[-1:]), "no message")
    return InterpError(
        f"pip could not fetch {distribution} ({_short(last)}); nothing was kept. Run the command "
        "again: a broken connection starts over"
    )


def _broken_off(distribution: str, begun: Begun) -> BrokenOff | None:
    """The error for a download of which a part is here; None where there is none."""
    if not 0 < begun.come < begun.size or not begun.url:
        return None
    return BrokenOff(
        f"the download of {distribution} broke off: {begun.come:,} of {begun.size:,} bytes are "
        "kept. Run the command again: it goes on from there, if the server allows that"
    )


def _short(reason: str) -> str:
    """A reason without the objects of Python in it."""
    reason = re.sub(r"<[^>]*>[:,]?\s*", "", reason).removesuffix(" - skipping").strip()
    return reason if len(reason) <= 200 else f"{reason[:200]} …"
