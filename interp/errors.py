"""Errors: one base, few children, and the nearest valid name.

Knows nothing of models or analyses. Every message says what was seen and what is allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class InterpError(Exception):
    """Base of every error that this library raises on purpose."""


class BadInput(InterpError, ValueError):
    """What the user handed in cannot be used; nothing was run or written."""


class UnknownName(InterpError, KeyError):
    """A name of an analysis, site, column or model that does not exist here."""

    def __str__(self) -> str:  # a KeyError prints its repr
        return str(self.args[0]) if self.args else ""


class Unsupported(InterpError):
    """The model does not have what an analysis reads; the message says what would work."""


class BrokenPlugin(InterpError):
    """A registered analysis could not be imported or does not keep the contract."""


class ContractError(BrokenPlugin):
    """An analysis breaks laws of the contract; `broken` has what was seen, by the law's name."""

    def __init__(self, message: str, broken: Mapping[str, str]) -> None:
        super().__init__(message, broken)
        self.broken = dict(broken)

    def __str__(self) -> str:
        return str(self.args[0])


class ObserveError(InterpError):
    """An analysis failed inside `observe`; carries its name, layer and shapes."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the closest choice, or an empty string.

    >>> nearest("rotatoin", ["rotation", "attention"])
    "; did you mean 'rotation'?"
    >>> nearest("zzz", ["rotation"])
    ''
    """
    found = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def unknown(kind: str, name: str, choices: Iterable[str]) -> UnknownName:
    """Build the error for a name that is not among the choices.

    >>> str(unknown("analysis", "rotatoin", ["rotation"]))
    "unknown analysis 'rotatoin'; did you mean 'rotation'? (known: rotation)"
    """
    known = list(choices)
    hint = nearest(name, known)
    return UnknownName(f"unknown {kind} {name!r}{hint} (known: {', '.join(known) or 'none'})")
