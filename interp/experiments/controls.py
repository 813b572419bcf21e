"""Shared steps of experiments: results as input, and the untrained copy as control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from interp.contract.not_measured import not_measured
from interp.errors import BadInput
from interp.models.untrained import check_control, random_copy
from interp.render.finding import Finding

F = TypeVar("F", bound=Finding)


def repeated_on_control(experiment: Callable[..., F]) -> Callable[..., F]:
    """Repeats an experiment on the untrained copy that its results carry as `.control`.

    If the copy has no answer (its values are constant, say), a note gives the reason.
    """

    @wraps(experiment)
    def asked(results: Any, *args: Any, **kwargs: Any) -> F:
        found = experiment(results, *args, **kwargs)
        if name := model_of(results):
            found = found.with_about(model=name)
        control = getattr(results, "control", None)
        if control is None:
            return found
        # An untrained copy may be degenerate where the model is not: its refusal must not cost the
        # finding. Other errors are faults and surface.
        try:
            beside = experiment(control, *args, **kwargs)
        except BadInput as error:
            return found.with_note(f"untrained copy: {error}")
        return found.with_control(beside)

    return asked


def model_of(results: Any) -> str:
    """Name of the model that results, or one result, are of; empty for a table."""
    name, provenance = getattr(results, "model", None), getattr(results, "provenance", None)
    if isinstance(name, str):  # of a table, `.model` may be a column
        return name
    known = provenance.get("model", {}) if isinstance(provenance, Mapping) else {}
    return str(known.get("name", ""))


def with_untrained_copy(
    found: F, control: str | None, model: Any, again: Callable[[Any], Finding]
) -> F:
    """The finding with that of `again` on an untrained copy of the model, if `control` asks for it.

    Raises `BadInput` for another control than "random-init", or a model that cannot be copied.
    """
    if control is None:
        return found
    check_control(control, model)
    return found.with_control(again(random_copy(model)))


def result_of(source: Any, analysis: str) -> Any:
    """The result of one analysis: taken from `Results`, or the result itself.

    Raises `UnknownName` for results without it.
    """
    if not isinstance(source, Mapping):
        return source
    if analysis not in source:
        raise not_measured("result", analysis, source)
    return source[analysis]
