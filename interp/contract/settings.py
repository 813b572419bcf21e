"""Parameters of analyses by name, as `run` and `attach` take them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import Field, fields, replace
from typing import Any

from interp.contract.analysis import Analysis
from interp.errors import BadInput, unknown


def configured(
    chosen: Mapping[str, Analysis], settings: Mapping[str, Any] | None
) -> dict[str, Analysis]:
    """The analyses with these parameters: by analysis, or as `"analysis.parameter"`.

    Raises `UnknownName` for an analysis that is not asked for or a parameter that it lacks,
    `BadInput` for a value of another kind than the parameter's present one, and what
    `Analysis.check_parameters` raises.
    """
    out = dict(chosen)
    for name, given in _by_analysis(settings or {}).items():
        if name not in out:
            raise unknown("analysis in settings=", name, out)
        known = {f.name: f for f in fields(out[name])}
        for parameter, value in given.items():
            if parameter not in known:
                raise unknown(f"parameter of {name}", parameter, known)
            given[parameter] = _fitting(name, known[parameter], value, out[name])
        out[name] = replace(out[name], **given)
        out[name].check_parameters()
    return out


def _by_analysis(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        analysis, dot, parameter = name.partition(".")
        if not dot and not isinstance(value, Mapping):
            raise BadInput(
                f"settings= has {name!r}: {value!r}; give {{{name!r}: {{'parameter': value}}}} or "
                f"{{'{name}.parameter': value}}"
            )
        found.setdefault(analysis, {}).update({parameter: value} if dot else dict(value))
    return found


def _fitting(name: str, parameter: Field[Any], value: Any, analysis: Analysis) -> Any:
    """The value, a path as text; raises `BadInput` for one of another kind than the present one."""
    present = getattr(analysis, parameter.name)
    if isinstance(present, str) and isinstance(value, os.PathLike):
        return os.fspath(value)
    if present is None or value is None:
        return value
    functions = callable(present) or "Callable" in str(parameter.type)
    if functions and (callable(value) or isinstance(value, str)):
        return value
    kinds = (int, float) if isinstance(present, float) else (type(present),)
    flag = isinstance(present, bool)
    if not isinstance(value, kinds) or isinstance(value, bool) != flag:
        like = "text, such as a path" if present == "" else f"a value like {present!r}"
        like += ", or a function" if functions else ""
        raise BadInput(f"{name}.{parameter.name}={value!r}; expected {like}")
    return value
