"""What the author of an analysis declares, judged before anything runs.

Knows classes only. The laws for authors ask it (`interp.runs.checks.laws`), and so does every run.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from typing import get_args

from interp.contract.analysis import Analysis, Plot, Scope, no_names
from interp.errors import BadInput, nearest

FROZEN = "decorate the class with @dataclass(frozen=True) and declare each parameter as a field"


def refuse_undeclared(name: str, analysis: Analysis) -> None:
    """Raises `BadInput` for declarations that would lose a parameter or give tables no meaning."""
    lost = unkept_arguments(type(analysis))
    if lost:
        raise BadInput(
            f"analysis {name!r}: {lost}, so that results could not say with which value they were "
            f"measured; {FROZEN}, as in `k: int = 3`"
        )
    for undeclared in (undeclared_columns, undeclared_figures):
        if (seen := undeclared(analysis)) is not None:
            raise BadInput(f"analysis {name!r}: {seen}; `interp check` tests all declarations")


def unkept_arguments(kind: type[Analysis]) -> str | None:
    """What `__init__` takes and no field of the dataclass keeps, in words; None if all is kept."""
    kept = {f.name for f in fields(kind)}
    given = list(inspect.signature(kind.__init__).parameters.values())[1:]
    # `*args` and `**options` name nothing that could be looked for.
    named = [p.name for p in given if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    lost = [name for name in named if name not in kept]
    return f"{lost[0]!r} is an argument of `__init__`, but is no dataclass field" if lost else None


def unkept_annotations(kind: type[Analysis]) -> str | None:
    """A name that is annotated like a parameter in a class without @dataclass, in words."""
    kept = {f.name for f in fields(kind)}
    for owner in kind.__mro__[: kind.__mro__.index(Analysis)]:
        hints = inspect.get_annotations(owner)
        own = {name for name, hint in hints.items() if "ClassVar" not in str(hint)}
        if own - kept:
            return f"{min(own - kept)!r} is annotated like a parameter, but is no dataclass field"
    return None


def undeclared_sites(analysis: Analysis) -> str | None:
    """What is wrong with the types of `sites`, `optional` and `scope`."""
    for what in ("sites", "optional"):
        if (seen := no_names(getattr(analysis, what))) is not None:
            return f"`{what}` is {seen}"
    scopes = get_args(Scope)
    if analysis.scope in scopes:
        return None
    hint = nearest(str(analysis.scope), scopes)
    return f"`scope` is {analysis.scope!r}{hint}; allowed are {', '.join(map(repr, scopes))}"


def undeclared_columns(analysis: Analysis) -> str | None:
    """What is wrong with the types of `columns`, `renamed`, `keys`, `token_columns`, `ranges`."""
    for what, value in (("columns", "what it means"), ("renamed", "its name today")):
        given = getattr(analysis, what)
        pairs = given.items() if isinstance(given, Mapping) else [(None, None)]
        if not all(isinstance(text, str) for pair in pairs for text in pair):
            return f"`{what}` is {given!r}, not a mapping such as {{'norm': {value!r}}}"
    for what in ("keys", "token_columns"):
        if (seen := no_names(getattr(analysis, what))) is not None:
            return f"`{what}` is {seen}"
    return unbounded_columns(analysis)


def unbounded_columns(analysis: Analysis) -> str | None:
    """What is wrong with `ranges`."""
    given = analysis.ranges
    if not isinstance(given, Mapping):
        return f"`ranges` is {given!r}, not a mapping such as {{'share': (0, 1)}}"
    for name, ends in given.items():
        pair = isinstance(ends, tuple | list) and len(ends) == 2
        if not (pair and all(isinstance(x, int | float) for x in ends) and ends[0] < ends[1]):
            return (
                f"`ranges` of {name!r} is {ends!r}, not (least, largest) such as (0, 1); write "
                "math.inf or -math.inf for an open end: (0, math.inf)"
            )
        if not any(fnmatchcase(column, name) for column in analysis.columns):
            return f"`ranges` names {name!r}, which is none of `columns`"
    return None


def undeclared_figures(analysis: Analysis) -> str | None:
    """What is wrong with the type of `plots`."""
    plots = analysis.plots
    if isinstance(plots, Plot):
        return f"`plots` is one Plot, not a tuple of them: write (Plot({plots.kind!r}, …),)"
    if not isinstance(plots, tuple):
        return f"`plots` is {plots!r}, not a tuple of interp.Plot"
    wrong = [p for p in plots if not isinstance(p, Plot)]
    return f"`plots` holds {wrong[0]!r}, which is no interp.Plot" if wrong else None
