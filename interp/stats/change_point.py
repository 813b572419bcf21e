"""Change point of a measure along an ordered axis, such as training steps; the prompt is the unit.

Knows arrays: values `[prompts, places, rows]`, where all places were measured on the same prompts.
Which model stands at a place, and what was measured, it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from interp._arrays import Bools, Floats, Ints
from interp.errors import BadInput
from interp.stats.classical import undefined_is_nan
from interp.stats.paired import paired_profile
from interp.stats.resampling import check_resampling, chunks, draw_weights

SLACK = 1e-12
"""Relative difference that is rounding: sums in another order must not make a tie look like one."""
LEAST_PROMPTS = 2
WIDE = 10.0
"""Least ratio of the last to the first place on a logarithmic axis."""


class ChangePoint(NamedTuple):
    """The best single step of each row `[k]`, with its test against no change.

    Attributes:
        first: number of the first place after the step, 1 … places − 1; −1 where undefined.
        at, low, high: position of the step and its interval, in units of the axis: the step lies
            between the last place before it and the first one after it, `at` in their middle (of
            the logarithms on a logarithmic axis).
        before, after: mean of the places on either side, over prompts.
        size, size_low, size_high: after − before at that step, with its t interval over prompts.
        share: share of the variance between places that one step explains: 1 for a sudden change,
            about 0.75 for a line.
        p: of the test that nothing changes at any place; never 0.
        p_max: the same against the farthest row of each draw (family-wise over the rows).
        exact: whether all sign changes were taken, each once.
        prompts: number of prompts with a value at every place.
    """

    first: Ints
    at: Floats
    low: Floats
    high: Floats
    before: Floats
    after: Floats
    size: Floats
    size_low: Floats
    size_high: Floats
    share: Floats
    p: Floats
    p_max: Floats
    exact: bool
    prompts: int


@undefined_is_nan
def change_point(
    values: ArrayLike,
    at: ArrayLike,
    *,
    log: bool | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> ChangePoint:
    """Find where a measure changes along an axis: least squares for one step, with an interval.

    `values [n, T, k]`: of n prompts at T ordered places, in k rows (such as layers); `at [T]`: the
    places, ascending. Every prompt counts the same; one that lacks a value at some place is left
    out of that row's answer by being left out of all (they share draws).

    **Where.** The step after the first j places that leaves the smallest sum of squares of the
    mean curve, which maximises j(T − j)/T · (mean after − mean before)² (Hinkley 1970; Bai 1997).
    Places count the same however far apart they are. The interval has the middle `confidence` of
    that step over bootstrap draws of whole prompts, from the last place before the earliest to the
    first place after the latest one; in simulations it holds the step in 99 % of cases, so it errs
    to the wide side. Of a gradual change it is the interval of the best step, which
    lies near the middle of the rise.

    **Whether.** Two tests, of which the larger p counts. With d = mean after − mean before of a
    prompt: the largest |Σ d| / √Σ d² over the splits, when the signs of whole prompts change at
    random; and the largest share of the variance within prompts that one step explains, when the
    places of every prompt are shuffled. The first holds if prompts deviate symmetrically about no
    change, with any dependence between places; the second if places are exchangeable, with any
    distribution. So p holds if either is true, and errs to the cautious side.

    The prompts are the sample: with one model per place, a fluctuation from checkpoint to
    checkpoint that all prompts share is a change too. Several seeds tell them apart.

    Args:
        log: whether the axis is logarithmic; by default if `is_geometric(at)`.

    Raises `BadInput` for shapes that do not match, fewer than two prompts or places, and places
    that are not ascending.

    >>> curve = np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    >>> wobble = np.array([-0.02, -0.01, 0.01, 0.02])[:, None] * np.array([1, -1, 1, -1, 1])
    >>> found = change_point((curve + wobble)[:, :, None], [1, 10, 100, 1000, 10000])
    >>> found.first.item(), found.low.item(), found.high.item()
    (3, 100.0, 1000.0)
    """
    check_resampling(confidence, resamples)
    x, place = _checked(values, at)
    log = is_geometric(place) if log is None else log
    rng = np.random.default_rng(seed)
    # About its first place every unchanged prompt is exactly 0, which its mean would not make it.
    moved = x - x[:, :1]
    index, share = _steps(moved.mean(axis=0)[None])
    low, high = _interval(moved, rng, resamples, confidence)
    deviations = np.einsum("ntk,ts->nsk", moved, _contrasts(x.shape[1]))
    p, p_max, exact = _tested(moved, deviations, rng, resamples)
    here = np.take_along_axis(deviations, index[:, None] - 1, axis=1)[:, 0]
    size, size_low, size_high = _mean_interval(here, confidence)
    before = _before(x.mean(axis=0), index[0])
    defined = np.isfinite(p)
    numbers = (
        middles(place, log)[index[0] - 1],
        place[low - 1],
        place[high],
        before,
        before + size,
        size,
        size_low,
        size_high,
        share[0],
    )
    kept = [np.where(defined, number, np.nan) for number in numbers[:3]]
    first = np.where(defined, index[0], -1)
    fields = [first, *kept, *numbers[3:], p, p_max, exact, len(x)]
    return ChangePoint._make(fields)


FEWEST_RUNS = 3
"""Training runs behind an interval over runs: that of two has one degree of freedom."""


class RunsTogether(NamedTuple):
    """Where runs change, with the run as the unit `[k]`.

    Attributes:
        at: mean of the runs' places, on a logarithmic axis their geometric mean.
        low, high: its interval, NaN with fewer than `FEWEST_RUNS` runs.
        size: mean over runs of after − before.
        p: of sign changes of the runs' sizes: that the runs change in no common direction.
        p_max: the same against the farthest row of each draw (family-wise over the rows).
    """

    at: Floats
    low: Floats
    high: Floats
    size: Floats
    p: Floats
    p_max: Floats


@undefined_is_nan
def runs_together(
    last: ArrayLike,
    first: ArrayLike,
    size: ArrayLike,
    *,
    log: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> RunsTogether:
    """Pool the change points of several training runs: the run is the unit, not the prompt.

    The prompts of one run share its luck, so that an interval over prompts does not tell where the
    next run changes. Here each run counts once. The step of a run lies between the last place
    before it and the first one after it; the interval goes from the Student bound below the mean
    of the former to the one above the mean of the latter, so that the distance between places is
    part of it. It is that of the mean over runs, not of the next run.

    Args:
        last, first: `[runs, k]`, of each run the last place before the step and the first after
            it, in units of the axis; a row with NaN has no pooled place.
        size: `[runs, k]`, after − before.
        log: whether the axis is logarithmic. Its places are above 0 then (`log_places`).

    Raises `BadInput` for shapes that do not match, and fewer than two runs.

    >>> found = runs_together([[4.0], [8.0], [8.0]], [[8.0], [16.0], [16.0]], np.ones((3, 1)))
    >>> found.at.round(2).item(), found.p.item()
    (10.0, 0.25)
    """
    check_resampling(confidence, resamples)
    ends = [np.asarray(x, np.float64) for x in (last, first)]
    sizes = np.asarray(size, np.float64)
    if sizes.ndim != 2 or {x.shape for x in ends} != {sizes.shape}:
        raise BadInput(
            f"last {ends[0].shape}, first {ends[1].shape} and size {sizes.shape} do not match: "
            "each is [runs, rows]"
        )
    if len(sizes) < 2:
        raise BadInput("one run has nothing to be pooled with; at least two are needed")
    low, high = (np.log(x) for x in ends) if log else ends
    below, above = (_mean_interval(x, confidence) for x in (low, high))
    places = np.stack([(below[0] + above[0]) / 2, below[1], above[2]])
    at, low, high = np.exp(places) if log else places
    enough = len(sizes) >= FEWEST_RUNS
    test = paired_profile(sizes, np.zeros_like(sizes), resamples=resamples, seed=seed)
    return RunsTogether(
        at,
        np.where(enough, low, np.nan),
        np.where(enough, high, np.nan),
        sizes.mean(axis=0),
        test["p"].to_numpy(np.float64),
        test["p_max"].to_numpy(np.float64),
    )


def _checked(values: ArrayLike, at: ArrayLike) -> tuple[Floats, Floats]:
    x, place = np.asarray(values, np.float64), np.asarray(at, np.float64)
    if x.ndim != 3 or place.shape != (x.shape[1],):
        raise BadInput(
            f"values {x.shape} and places {place.shape} do not match: values are [prompts, "
            "places, rows]"
        )
    if len(place) < 2 or not (np.diff(place) > 0).all():
        raise BadInput(f"the places {place.tolist()} have to ascend, and to be two at least")
    x = x[np.isfinite(x).all(axis=(1, 2))]
    if len(x) < LEAST_PROMPTS:
        raise BadInput(
            f"{len(x)} prompts have a value at every place and row; at least {LEAST_PROMPTS} are "
            "needed"
        )
    return x, place


def _contrasts(places: int) -> Floats:
    """Mean after minus mean before, for a step after the first 1 … T − 1 places: `[T, T − 1]`."""
    first = np.arange(1, places)
    after = np.arange(places)[:, None] >= first
    return np.where(after, 1 / (places - first), -1 / first)


def _steps(curves: Floats) -> tuple[Ints, Floats]:
    """First place after the best step, and its share of the variance: `[b, T, k]` to `[b, k]`."""
    places = curves.shape[1]
    first = np.arange(1, places)
    gain = np.einsum("btk,ts->bsk", curves, _contrasts(places)) ** 2
    gain *= (first * (places - first) / places)[:, None]
    index = gain.argmax(axis=1)
    total = ((curves - curves.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return index + 1, np.take_along_axis(gain, index[:, None], axis=1)[:, 0] / total


def _interval(
    x: Floats, rng: np.random.Generator, resamples: int, confidence: float
) -> tuple[Ints, Ints]:
    """First place after the earliest and the latest step of the interval: `[k]` each."""
    n, places, k = x.shape
    flat, strata = x.reshape(n, -1), np.zeros(n, np.int64)
    drawn = [
        _steps((draw_weights(strata, size, rng) @ flat).reshape(size, places, k))[0]
        for size in chunks(resamples, 4 * flat.shape[1])
    ]
    index = np.concatenate(drawn)
    tail = (1 - confidence) / 2
    low = np.quantile(index, tail, axis=0, method="lower")
    high = np.quantile(index, 1 - tail, axis=0, method="higher")
    return low.astype(np.int64), high.astype(np.int64)


def _tested(
    x: Floats, deviations: Floats, rng: np.random.Generator, resamples: int
) -> tuple[Floats, Floats, bool]:
    """p and p_max `[k]`: the larger one of signs and of shuffled places."""
    n = len(x)
    observed = _largest(deviations.sum(axis=0), (deviations**2).sum(axis=0), x)
    exact = 2**n <= resamples
    known = np.isfinite(observed)
    total = ((x - x.mean(axis=1, keepdims=True)) ** 2).sum(axis=(0, 1))
    total = np.where(known, total, np.inf)
    pairs = [
        _shares(observed, _signs(deviations, resamples, exact, rng, x), exact),
        _shares(_explained(deviations.sum(axis=0), x) / total, _shuffles(x, total, resamples, rng)),
    ]
    p, p_max = (np.where(known, np.maximum(*found), np.nan) for found in zip(*pairs, strict=True))
    return p, p_max, exact


def _largest(sums: Floats, squares: Floats, x: Floats) -> Floats:
    """Largest |Σ d| / √Σ d² over the splits: `[..., splits, k]` to `[..., k]`; −∞ if undefined."""
    # What rounding alone leaves of an unchanged row would else decide its test.
    rounding = (1e-12 * np.abs(x).max(axis=(0, 1))) ** 2 * len(x)
    t = np.abs(sums) / np.sqrt(np.where(squares > rounding, squares, np.nan))
    return np.asarray(np.where(np.isnan(t), -np.inf, t).max(axis=-2), np.float64)


def _shares(
    observed: Floats, nulls: Iterator[Floats], exact: bool = False
) -> tuple[Floats, Floats]:
    """Share of draws that reach each row's value: in that row, and in any."""
    least = observed - SLACK * np.abs(observed)
    reached, reached_max, draws = np.zeros(len(observed)), np.zeros(len(observed)), 0
    for null in nulls:
        reached += (null >= least).sum(axis=0)
        reached_max += (null.max(axis=1)[:, None] >= least).sum(axis=0)
        draws += len(null)
    extra = 0 if exact else 1  # the observed signs are among all of them already
    return (extra + reached) / (extra + draws), (extra + reached_max) / (extra + draws)


def _signs(
    deviations: Floats, resamples: int, exact: bool, rng: np.random.Generator, x: Floats
) -> Iterator[Floats]:
    """The statistic when the signs of whole prompts change: `[draws, k]`, in parts."""
    n, *rest = deviations.shape
    flat, squares = deviations.reshape(n, -1), (deviations**2).sum(axis=0)
    if exact:
        drawn = iter([np.array(list(product((1.0, -1.0), repeat=n)))])
    else:
        sizes = chunks(resamples, n + 2 * flat.shape[1])
        drawn = (rng.integers(0, 2, size=(size, n)) * 2.0 - 1.0 for size in sizes)
    for signs in drawn:
        yield _largest((signs @ flat).reshape(-1, *rest), squares, x)


def _explained(sums: Floats, x: Floats) -> Floats:
    """Sum of squares that the best step explains, from Σ d: `[..., splits, k]` to `[..., k]`."""
    n, places, _ = x.shape
    first = np.arange(1, places)[:, None]
    gain = first * (places - first) / places * sums**2 / n
    return np.asarray(gain.max(axis=-2), np.float64)


def _shuffles(
    x: Floats, total: Floats, resamples: int, rng: np.random.Generator
) -> Iterator[Floats]:
    """Explained share when every prompt's places are shuffled: `[draws, k]`, in parts."""
    n, places, k = x.shape
    first = np.arange(1, places)[:, None]
    for size in chunks(resamples, 3 * n * places * k):
        order = rng.random((size, n, places)).argsort(axis=2)
        before = np.take_along_axis(x[None], order[..., None], axis=2).cumsum(axis=2)
        whole, before = before[:, :, -1:], before[:, :, :-1]
        d = (whole - before) / (places - first) - before / first
        yield _explained(d.sum(axis=1), x) / total


def _mean_interval(values: Floats, confidence: float) -> tuple[Floats, Floats, Floats]:
    """Mean over the first axis with its t interval: `[n, k]` to three `[k]`."""
    n = len(values)
    mean = values.mean(axis=0)
    se = values.std(axis=0, ddof=1) / np.sqrt(n)
    half = special.stdtrit(n - 1, (1 + confidence) / 2) * se
    return mean, mean - half, mean + half


def _before(curve: Floats, index: Ints) -> Floats:
    """Mean of the curve `[T, k]` before the step of each row."""
    earlier: Bools = np.arange(len(curve))[:, None] < index
    return np.asarray(np.where(earlier, curve, 0.0).sum(axis=0) / index, np.float64)


# ---- the axis --------------------------------------------------------------------------------


def is_geometric(at: ArrayLike) -> bool:
    """True if places grow by factors more evenly than by differences, over a factor of ten or more.

    A place 0 before them, the untrained model, does not count.

    >>> is_geometric([0, 1, 2, 4, 8, 16]), is_geometric([100, 200, 300, 400])
    (True, False)
    """
    x = np.asarray(at, np.float64)
    if len(x) and x[0] == 0:
        x = x[1:]
    if len(x) < 3 or not (x > 0).all() or x[-1] / x[0] < WIDE:
        return False
    return _unevenness(np.diff(np.log(x))) < _unevenness(np.diff(x))


def _unevenness(gaps: Floats) -> float:
    return float(gaps.std() / np.abs(gaps.mean()))


def log_places(at: ArrayLike) -> Floats:
    """Places to draw on a logarithmic axis: a place 0 stands one factor before the next.

    >>> log_places([0, 2, 8, 32]).tolist()
    [0.5, 2.0, 8.0, 32.0]
    """
    x = np.array(at, np.float64)
    if len(x) > 2 and x[0] == 0:
        x[0] = x[1] ** 2 / x[2]
    return x


def middles(at: ArrayLike, log: bool) -> Floats:
    """Middle between neighbouring places `[T − 1]`, of their logarithms if `log`.

    >>> middles([1, 100, 10000], True).round(6).tolist()
    [10.0, 1000.0]
    """
    x = log_places(at) if log else np.asarray(at, np.float64)
    return np.sqrt(x[:-1] * x[1:]) if log else (x[:-1] + x[1:]) / 2
