"""Shared parts of the findings: numbers with intervals, and the words for them.

A number with its interval is a mapping with `mean`, `low` and `high`. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interp.stats import group_means

CONFIDENCE = 0.95
SIGNIFICANT = 0.05
Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """What a finding measured.

    Attributes:
        numbers: JSON values by name; everything that `tell` may say.
        figures: plotly figures by name.
    """

    numbers: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)


# ---- numbers -----------------------------------------------------------------------------------


def clustered(values: Any, prompts: Any) -> dict[str, float]:
    """Mean over tokens with its interval; the prompt is the unit. Values that are NaN are left out.

    `values [n]` and `prompts [n]`; the result has `mean`, `low`, `high`, `n` and `prompts`.
    """
    x = np.asarray(values, np.float64)
    known = np.isfinite(x)
    x, prompt = x[known], np.asarray(prompts)[known]
    found = group_means(x[:, None], np.zeros(len(x), np.int64), prompt, confidence=CONFIDENCE)
    one = {name: float(getattr(found, name)[0, 0]) for name in ("mean", "low", "high")}
    return one | {"n": int(found.n[0, 0]), "prompts": int(found.clusters[0, 0])}


def from_row(row: Any, name: str) -> dict[str, float]:
    """A column of a table's row with its interval."""
    return {
        "mean": float(row[name]),
        "low": float(row[f"{name}_low"]),
        "high": float(row[f"{name}_high"]),
    }


def plain(value: Any) -> Any:
    """JSON values with floats of six digits, and None for what is not defined."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(each) for each in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


# ---- words -------------------------------------------------------------------------------------


def side(x: Numbers, of: float = 0.0) -> str:
    """Side of a value on which an interval lies: "above", "below", or "open" if it holds it.

    >>> side({"low": 0.1, "high": 0.3}), side({"low": -1, "high": 1})
    ('above', 'open')
    """
    if x["low"] > of:
        return "above"
    return "below" if x["high"] < of else "open"


def told(x: Numbers, spec: str = ".1f", unit: str = "") -> str:
    """A number with its interval.

    >>> told({"mean": 13.04, "low": 12.5, "high": 13.61}, unit="°")
    '13.0° [12.5, 13.6]'
    """
    signed = spec.startswith("+")
    spec = f"{'+' * signed}z{spec[signed:]}"  # no minus before zero
    return f"{x['mean']:{spec}}{unit} [{x['low']:{spec}}, {x['high']:{spec}}]"


def listed(values: Iterable[Any]) -> str:
    """Values in a row, or "none".

    >>> listed([1, 2, 3]), listed([])
    ('1, 2 and 3', 'none')
    """
    texts = [f"{value}" for value in values]
    if len(texts) < 2:
        return texts[0] if texts else "none"
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def blocks_of(values: Sequence[Any]) -> str:
    """Blocks in a sentence.

    >>> blocks_of([3]), blocks_of([1, 2]), blocks_of([])
    ('block 3', 'blocks 1 and 2', 'no block')
    """
    if not len(values):
        return "no block"
    return f"block{'s' * (len(values) > 1)} {listed(values)}"


def counted(n: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "head"), counted(0, "head")
    ('1 head', 'no head')
    """
    return f"{n} {noun}{'' if n == 1 else 's'}" if n else f"no {noun}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; the first column is text, the others numbers."""
    lines = [f"| {' | '.join(heads)} |", f"|---|{'--:|' * (len(heads) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def verdict(holds: str, published: str) -> str:
    """The line that sets a measurement against what is published."""
    return f"**{holds}** *Published:* {published}"
