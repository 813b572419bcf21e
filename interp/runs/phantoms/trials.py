"""The trials of every analysis: those of the built-in ones by name, and those that a class names.

To add a phantom: a function that returns a `Trial`, in the file of its kind, and its entry in the
`TRIALS` of that file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence

from interp.contract.analysis import Analysis
from interp.errors import BadInput
from interp.runs.phantoms import beliefs, clouds, heads, predictions, stream, weights
from interp.runs.phantoms.phantom import Known, Phantom, Trial

TABLES = (stream, clouds, heads, predictions, weights, beliefs)
"""Files with phantoms; each has `TRIALS`, functions that make a trial by the analysis' name."""


def _by_analysis() -> Mapping[str, Sequence[Callable[[], Trial]]]:
    out: dict[str, tuple[Callable[[], Trial], ...]] = {}
    for table in TABLES:
        for name, makers in table.TRIALS.items():
            out[name] = (*out.get(name, ()), *makers)
    return out


BUILT_IN = _by_analysis()


def trials_of(analysis: Analysis) -> list[Trial]:
    """The trials of an analysis: those under its name here, then those that its class returns.

    Raises `BadInput` if `phantoms` is no classmethod, or returns anything else than trials.
    """
    found = [make() for make in BUILT_IN.get(analysis.name(), ())]
    return [*found, *_own_trials(type(analysis))]


def _own_trials(kind: type[Analysis]) -> list[Trial]:
    name = f"{kind.__name__}.phantoms"
    method = inspect.getattr_static(kind, "phantoms")
    if not isinstance(method, classmethod | staticmethod):
        what = "a method of an instance" if callable(method) else f"{type(method).__name__}"
        raise BadInput(f"{name} is {what}; it is a classmethod: write @classmethod above its def")
    returned = kind.phantoms()
    fix = "it is a list of interp.Trial"
    if isinstance(returned, Trial):
        raise BadInput(f"{name}() returns one Trial; {fix}: return [Trial(…)]")
    if isinstance(returned, str) or not isinstance(returned, Iterable):
        raise BadInput(f"{name}() returns {type(returned).__name__}; {fix}")
    own = list(returned)
    wrong = [trial for trial in own if not isinstance(trial, Trial)]
    if wrong:
        seen = f"a list with {type(wrong[0]).__name__}"
        if isinstance(wrong[0], Phantom | Known):
            fix += ", which holds a Phantom and the list of what is Known of it"
        raise BadInput(f"{name}() returns {seen}; {fix}")
    return own
