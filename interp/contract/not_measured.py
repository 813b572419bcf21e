"""The error for a table or column that results lack, and that an installed analysis measures."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from interp.contract.columns import by_name
from interp.contract.registry import get, names
from interp.errors import InterpError, UnknownName, unknown

MOST_NAMED = 3


def measured_by(name: str) -> list[str]:
    """The installed analyses that are called so, or of which tables have a column of that name.

    A pattern, such as `*_share`, counts where no analysis declares the column itself.
    """
    if name in names():
        return [name]
    declared = {}
    for each in names():
        with suppress(InterpError):  # a plug-in that cannot be imported measures nothing
            declared[each] = get(each).columns
    exact = [each for each, columns in declared.items() if name in columns]
    # Those with a row per token first, and of them those that are about this column.
    exact.sort(key=lambda each: (bool(get(each).keys), list(declared[each]).index(name)))
    return exact or [each for each, columns in declared.items() if by_name(columns, name)]


def not_measured(kind: str, name: str, choices: Iterable[str]) -> UnknownName:
    """The error of `unknown`, or, for what an analysis would have measured, the name of that."""
    found = measured_by(name)
    if not found:
        return unknown(kind, name, choices)
    first, *more = found[:MOST_NAMED]
    others = f", or by {' or '.join(more)}" if more else ""
    return UnknownName(
        f"unknown {kind} {name!r}: these results are without the analysis {first!r}, which "
        f"measures it{others}; run again with it, analyses={first!r} (--analyses {first})"
    )
