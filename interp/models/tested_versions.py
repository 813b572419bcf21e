"""The versions this library was tested with, and which of the installed ones differ.

Knows package metadata; imports none of the packages.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files


@cache
def tested() -> dict[str, str]:
    """Tested version of Python (`3.11`) and of each direct dependency, those of the extras too."""
    text = files("interp.models").joinpath("tested.json").read_text(encoding="utf-8")
    versions: dict[str, str] = json.loads(text)
    return versions


def untested() -> dict[str, str]:
    """Packages in another version than the tested one: `{"numpy": "2.5.5 (tested 2.4.6)"}`.

    Packages that are not installed are left out. A build of the same version, `2.13.0+cpu`, counts
    as tested, and so does any release of the same Python, `3.11.9`.
    """
    found = {}
    for package, right in tested().items():
        now = _installed(package)
        if now is not None and now.partition("+")[0] != right:
            found[package] = f"{now} (tested {right})"
    return found


def named(different: Mapping[str, str]) -> str:
    """One line of text: `numpy 2.5.5 (tested 2.4.6), scipy 1.18.1 (tested 1.17.1)`."""
    return ", ".join(f"{package} {versions}" for package, versions in different.items())


@cache  # a run asks for all of them, and each search takes a millisecond
def _installed(package: str) -> str | None:
    """Version of a package when this process first asked; None where it was not installed."""
    if package == "python":
        return ".".join(platform.python_version_tuple()[:2])
    try:
        return version(package)
    except PackageNotFoundError:
        return None
