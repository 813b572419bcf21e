"""The trials of every analysis: those of the built-in ones by name, and those that a class names.

To add a phantom: a function that returns a `Trial`, in the file of its kind, and its entry in the
`TRIALS` of that file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from interp.contract.analysis import Analysis
from interp.errors import BadInput
from interp.runs.phantoms import beliefs, clouds, heads, predictions, stream, weights
from interp.runs.phantoms.phantom import Trial

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

    Raises `BadInput` if its method `phantoms` returns anything else than trials.
    """
    found = [make() for make in BUILT_IN.get(analysis.name(), ())]
    own = list(type(analysis).phantoms())
    for trial in own:
        if not isinstance(trial, Trial):
            raise BadInput(
                f"{type(analysis).__name__}.phantoms() returns {type(trial).__name__}; it is a "
                "list of interp.Trial"
            )
    return [*found, *own]
