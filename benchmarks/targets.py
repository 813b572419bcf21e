"""Targets of the library, each with the function that takes its value from the measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks import ways

Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """One target: `measured(answer)` must be at most, or at least, `limit`."""

    text: str
    measured: Callable[[Answer], float | None]
    limit: float
    at_least: bool = False
    unit: str = "×"

    def met(self, value: float) -> bool:
        """True if a measured value meets the target."""
        return value >= self.limit if self.at_least else value <= self.limit


def ratio(answer: Answer, name: str, base: str) -> float | None:
    """Median over the rounds of the time of one way, relative to another one."""
    seconds = answer["seconds"]
    if name not in seconds or base not in seconds:
        return None
    # Ratios within a round, then their median: a slow round slows both.
    return median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


def best_product(answer: Answer) -> str | None:
    """The block size at which the bare products were fastest in this run."""
    found = [name for name in answer["seconds"] if name.startswith(ways.PRODUCTS)]
    return min(found, key=lambda name: median(answer["seconds"][name]), default=None)


def _to_product(name: str) -> Callable[[Answer], float | None]:
    return lambda answer: ratio(answer, name, best_product(answer) or "")


def _extra(name: str, base: str | None = None) -> Callable[[Answer], float | None]:
    """Peak memory of a way, above that of another if one is named."""

    def measured(answer: Answer) -> float | None:
        peaks = answer["megabytes"]
        if peaks.get(name) is None or (base and peaks.get(base) is None):
            return None
        return peaks[name] - (peaks[base] if base else 0)

    return measured


def _streams(name: str) -> Callable[[Answer], float | None]:
    """Peak memory above that of the forward pass, in units of one batch's stream in float32."""

    def measured(answer: Answer) -> float | None:
        extra = _extra(name, ways.FORWARD)(answer)
        shape, (rows, length) = answer["shape"], answer["batch"]
        stream = (shape["layers"] + 1) * rows * length * shape["width"] * 4 / 2**20
        return None if extra is None else max(extra, 0.0) / stream

    return measured


def _rows(answer: Answer) -> float | None:
    return answer["save"]["rows_per_second"] / 1e6 if answer["save"] else None


TARGETS = (
    Target(
        "forward with rotation and path_length attached, to the bare forward",
        lambda a: ratio(a, ways.ATTACHED, ways.FORWARD),
        1.05,
    ),
    Target(
        "run of geometry alone, to the bare forward with logits",
        lambda a: ratio(a, ways.GEOMETRY, ways.FORWARD),
        1.0,
    ),
    Target(
        "memory of the run of geometry above the forward's, in streams of one batch",
        _streams(ways.GEOMETRY),
        1.0,
    ),
    Target("lens, all statistics, to the bare products", _to_product(ways.LENS), 1.25),
    Target("lens, four statistics, to the bare products", _to_product(ways.BASIC), 1.10),
    Target(
        "TransformerLens logit_lens, to the lens with all statistics",
        lambda a: ratio(a, ways.THEIRS, ways.LENS),
        1.3,
        at_least=True,
    ),
    Target("peak extra memory of the lens", _extra(ways.LENS), 200.0, unit="MB"),
    Target(
        "run of attention statistics, to the bare forward",
        lambda a: ratio(a, ways.ATTENTION, ways.FORWARD),
        1.15,
    ),
    Target("rows saved per second, in millions", _rows, 1.0, at_least=True, unit="M"),
)
