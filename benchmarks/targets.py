"""Targets of the library, each with the function that takes its value from the measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from benchmarks import ways

Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """One target: the median of `measured(answer)` must be at most, or at least, `limit`.

    `measured` gives one number per round, or one, or none where the target does not apply.
    """

    text: str
    measured: Callable[[Answer], Sequence[float]]
    limit: float
    at_least: bool = False
    unit: str = "×"

    def met(self, value: float) -> bool:
        """True if a measured value meets the target."""
        return value >= self.limit if self.at_least else value <= self.limit


def ratios(answer: Answer, name: str, base: str) -> list[float]:
    """The time of one way relative to another one, by round; none if one is missing."""
    seconds = answer["seconds"]
    if name not in seconds or base not in seconds:
        return []
    # Within a round: a slow round slows both.
    return [a / b for a, b in zip(seconds[name], seconds[base], strict=True)]


def best_product(answer: Answer) -> str | None:
    """The block size at which the bare products were fastest in this run."""
    found = [name for name in answer["seconds"] if name.startswith(ways.PRODUCTS)]
    return min(found, key=lambda name: median(answer["seconds"][name]), default=None)


OTHERS, SPREAD = 0.15, 0.15
"""A run is disturbed where other processes kept more cores busy than this on average, or where
rounds of one and the same work differ by more than this share between their quartiles."""


def disturbed(answer: Answer) -> str:
    """Why the times of an answer show nothing; empty if they do."""
    busy = answer.get("others", 0.0)
    if busy > OTHERS:
        return f"other processes kept {busy:.1f} cores busy"
    seconds = answer["seconds"].get(best_product(answer) or ways.FORWARD, [])
    if len(seconds) > 2:
        low, middle, high = quantiles(seconds, n=4, method="inclusive")
        if (high - low) / middle > SPREAD:
            return f"rounds of the same products differ by {(high - low) / middle:.0%}"
    return ""


def _to_product(name: str, *, wide: bool) -> Callable[[Answer], Sequence[float]]:
    """Relative to the best bare product, for models of a width of 1600 and more, or for others."""

    def measured(answer: Answer) -> Sequence[float]:
        if (answer["shape"]["width"] >= 1600) != wide:
            return []
        return ratios(answer, name, best_product(answer) or "")

    return measured


def _extra(name: str, base: str | None = None) -> Callable[[Answer], Sequence[float]]:
    """Peak memory of a way, above that of another if one is named."""

    def measured(answer: Answer) -> Sequence[float]:
        peaks = answer["megabytes"]
        if peaks.get(name) is None or (base and peaks.get(base) is None):
            return []
        return [peaks[name] - (peaks[base] if base else 0)]

    return measured


def _streams(name: str) -> Callable[[Answer], Sequence[float]]:
    """Peak memory above that of the forward pass, in units of one batch's stream in float32."""

    def measured(answer: Answer) -> Sequence[float]:
        shape, (rows, length) = answer["shape"], answer["batch"]
        stream = (shape["layers"] + 1) * rows * length * shape["width"] * 4 / 2**20
        return [max(extra, 0.0) / stream for extra in _extra(name, ways.FORWARD)(answer)]

    return measured


def _to_parts(name: str) -> Callable[[Answer], Sequence[float]]:
    """Relative to the forward pass, the best bare product and, for `DEFAULT_RUN`, attention.

    The statistics of attention are what their run takes beyond one that only reads the patterns.
    """

    def measured(answer: Answer) -> Sequence[float]:
        seconds, product = answer["seconds"], best_product(answer)
        if name not in seconds or product is None:
            return []
        parts = [seconds[ways.FORWARD], seconds[product]]
        if name == ways.DEFAULT_RUN:
            pairs = zip(seconds[ways.ATTENTION], seconds[ways.PATTERNS], strict=True)
            parts.append([max(0.0, a - b) for a, b in pairs])
        bases = map(sum, zip(*parts, strict=True))
        return [a / b for a, b in zip(seconds[name], bases, strict=True)]

    return measured


def _rows(answer: Answer) -> Sequence[float]:
    return [answer["save"]["rows_per_second"] / 1e6] if answer["save"] else []


TARGETS = (
    Target(
        "forward with rotation and path_length attached, to the bare forward",
        lambda a: ratios(a, ways.ATTACHED, ways.FORWARD),
        1.05,
    ),
    Target(
        "run of geometry alone, to the bare forward with logits",
        lambda a: ratios(a, ways.GEOMETRY, ways.FORWARD),
        1.0,
    ),
    Target(
        "memory of the run of geometry above the forward's, in streams of one batch",
        _streams(ways.GEOMETRY),
        1.0,
    ),
    *(
        Target(f"lens, {what} statistics, to the bare products", _to_product(way, wide=wide), limit)
        for what, way, wide, limit in (
            ("all", ways.LENS, False, 1.25),
            ("all", ways.LENS, True, 1.12),
            ("four", ways.BASIC, False, 1.12),
            ("four", ways.BASIC, True, 1.06),
        )
    ),
    Target(
        "TransformerLens logit_lens, to the lens with all statistics",
        lambda a: ratios(a, ways.THEIRS, ways.LENS),
        1.3,
        at_least=True,
    ),
    Target(
        "TransformerLens logit_lens on states it is given, to the run of logit_lens, all included",
        lambda a: ratios(a, ways.THEIRS, ways.LENS_RUN),
        1.8,
        at_least=True,
    ),
    Target(
        "run of logit_lens, to the forward and the bare products together",
        _to_parts(ways.LENS_RUN),
        1.2,
    ),
    Target(
        "run of the default analyses, to forward, bare products and statistics of attention",
        _to_parts(ways.DEFAULT_RUN),
        1.15,
    ),
    Target(
        "peak memory of the run of logit_lens, above the forward's",
        _extra(ways.LENS_RUN, ways.FORWARD),
        200.0,
        unit="MB",
    ),
    Target("peak extra memory of the lens", _extra(ways.LENS), 200.0, unit="MB"),
    Target(
        "run of attention statistics, to the bare forward",
        lambda a: ratios(a, ways.ATTENTION, ways.FORWARD),
        1.15,
    ),
    Target("rows saved per second, in millions", _rows, 1.0, at_least=True, unit="M"),
)
