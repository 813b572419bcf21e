"""The trials of every analysis: those of the built-in ones by name, and those that a class names.

To add a phantom: a function that returns a `Trial`, in the file of its kind, and its entry in the
`TRIALS` of that file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from interp.contract.analysis import Analysis
from interp.errors import BadInput
from interp.runs.phantoms import heads, predictions, stream, weights
from interp.runs.phantoms.phantom import Trial

BUILT_IN: Mapping[str, Sequence[Callable[[], Trial]]] = {
    name: makers
    for tables in (stream, heads, predictions, weights)
    for name, makers in tables.TRIALS.items()
}


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
