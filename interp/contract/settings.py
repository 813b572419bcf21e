"""Parameters of analyses by name, as `run` and `attach` take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from interp.contract.analysis import Analysis
from interp.errors import BadInput, unknown


def configured(
    chosen: Mapping[str, Analysis], settings: Mapping[str, Any] | None
) -> dict[str, Analysis]:
    """The analyses with these parameters: by analysis, or as `"analysis.parameter"`.

    Raises `UnknownName` for an analysis that is not asked for or a parameter that it lacks,
    `BadInput` for a value of another kind than the parameter's present one.
    """
    out = dict(chosen)
    for name, given in _by_analysis(settings or {}).items():
        if name not in out:
            raise unknown("analysis in settings=", name, out)
        known = [f.name for f in fields(out[name])]
        for parameter, value in given.items():
            if parameter not in known:
                raise unknown(f"parameter of {name}", parameter, known)
            _refuse_kind(name, parameter, value, getattr(out[name], parameter))
        out[name] = replace(out[name], **given)
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


def _refuse_kind(name: str, parameter: str, value: Any, present: Any) -> None:
    if present is None or value is None:
        return
    kinds = (int, float) if isinstance(present, float) else (type(present),)
    flag = isinstance(present, bool)
    if not isinstance(value, kinds) or isinstance(value, bool) != flag:
        raise BadInput(f"{name}.{parameter}={value!r}; expected a value like {present!r}")
