"""What all experiments share: results or one result as input, and the untrained copy as control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from interp.errors import BadInput, unknown
from interp.models.untrained import check_control, random_copy
from interp.render.finding import Finding

F = TypeVar("F", bound=Finding)


def with_control(experiment: Callable[..., F]) -> Callable[..., F]:
    """Repeats an experiment on the untrained copy that its results carry as `.control`.

    What the copy cannot answer (its values are constant, say) is told in a note.
    """

    @wraps(experiment)
    def asked(results: Any, *args: Any, **kwargs: Any) -> F:
        found = experiment(results, *args, **kwargs)
        control = getattr(results, "control", None)
        if control is None:
            return found
        try:
            beside = experiment(control, *args, **kwargs)
        except BadInput as error:
            return found.with_note(f"untrained copy: {error}")
        return found.with_control(beside)

    return asked


def beside_untrained(
    found: F, control: str | None, model: Any, again: Callable[[Any], Finding]
) -> F:
    """The finding with what `again` finds on an untrained copy of the model, if asked for.

    Raises `BadInput` for another control than "random-init", or a model that cannot be copied.
    """
    if control is None:
        return found
    check_control(control, model)
    return found.with_control(again(random_copy(model)))


def result_of(source: Any, analysis: str) -> Any:
    """The result of one analysis: out of `Results`, or the result itself.

    Raises `UnknownName` for results without it.
    """
    if not isinstance(source, Mapping):
        return source
    if analysis not in source:
        raise unknown("result", analysis, source)
    return source[analysis]
