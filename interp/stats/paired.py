"""Pairs of values at many layers: mean difference, intervals and tests with the pair as unit.

Knows arrays `[pairs, layers]`; nothing of what was measured.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike

from interp._arrays import Floats
from interp.errors import BadInput
from interp.stats.classical import holm, moments, undefined_is_nan
from interp.stats.resampling import check_resampling, clustered_permutation

FEWEST_PAIRS = 4
"""Pairs behind an interval of a quantity with a range."""


@undefined_is_nan
def paired_profile(
    a: ArrayLike,
    b: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compares `a` with `b` at every layer, with the pair as the unit: a row per layer.

    Columns: `pairs` (those with both values), `mean_a`, `mean_b`, `difference` (a − b) with `low`
    and `high` (Student over pairs), `t` (paired), `p` (sign flips), `p_max` (the same against the
    largest |t| of all layers, which holds family-wise), `wilcoxon_p` (signed ranks) and
    `wilcoxon_p_holm`. Under the null hypothesis that the two members of a pair are exchangeable,
    every pair may swap them; where there are no more than `resamples` ways, each is taken once.
    NaN where fewer than two pairs have both values and where all differences are 0.
    Source: Westfall & Young (1993) for the maximum; Wilcoxon, Biometrics Bulletin 1 (1945).

    Args:
        a, b: `[pairs, layers]`, NaN where undefined.

    Raises `BadInput` for arrays of other shapes.

    >>> rise = np.linspace(1, 2, 8)[:, None] * [0.0, 1.0]
    >>> paired_profile(rise, 0 * rise)["p_max"].tolist()
    [nan, 0.0078125]
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    check_resampling(confidence, resamples)
    if left.ndim != 2 or left.shape != right.shape:
        raise BadInput(f"a {left.shape} and b {right.shape}: both are [pairs, layers]")
    whole = np.isfinite(left) & np.isfinite(right)
    left, right = (np.where(whole, x, np.nan) for x in (left, right))
    n = (whole.sum(axis=0)).astype(int)
    mean, low, high = mean_band(left - right, confidence)
    table = pd.DataFrame(
        {
            "pairs": n,
            "mean_a": moments(left)[1],
            "mean_b": moments(right)[1],
            "difference": mean,
            "low": low,
            "high": high,
        }
    )
    tests = _tests(left, right, resamples, seed)
    return pd.concat([table, pd.DataFrame(tests)], axis=1)


def _tests(left: Floats, right: Floats, resamples: int, seed: int) -> dict[str, Floats]:
    pairs, k = left.shape
    columns = {name: np.full(k, np.nan) for name in ("t", "p", "p_max", "wilcoxon_p")}
    difference = left - right
    rows = np.flatnonzero(
        (np.isfinite(difference).sum(axis=0) > 1) & (np.nan_to_num(difference) != 0).any(axis=0)
    )
    if len(rows):
        both = np.concatenate([left[:, rows], right[:, rows]])
        of_a, number = np.repeat([True, False], pairs), np.tile(np.arange(pairs), 2)
        found = clustered_permutation(both, of_a, number, resamples=resamples, seed=seed)
        ranks = scipy.stats.wilcoxon(difference[:, rows], nan_policy="omit")
        for name, x in (("t", found.t), ("p", found.p), ("p_max", found.p_max)):
            columns[name][rows] = x
        columns["wilcoxon_p"][rows] = ranks.pvalue
    return columns | {"wilcoxon_p_holm": holm(columns["wilcoxon_p"])}


@undefined_is_nan
def mean_band(values: Floats, confidence: float = 0.95) -> tuple[Floats, Floats, Floats]:
    """Mean over the first axis and its Student interval: `[n, k]` to three `[k]`; NaN left out.

    >>> [x.round(3).item() for x in mean_band(np.array([[1.0], [2.0], [3.0]]))]
    [2.0, -0.484, 4.484]
    """
    n, mean, m2 = moments(values)
    half = scipy.stats.t.ppf((1 + confidence) / 2, n - 1) * np.sqrt(m2 / (n - 1) / n)
    return mean, mean - half, mean + half


@undefined_is_nan
def bounded_band(
    values: Floats,
    low: float,
    high: float = np.inf,
    confidence: float = 0.95,
    fewest: int = FEWEST_PAIRS,
) -> tuple[Floats, Floats, Floats]:
    """Mean over the first axis and an interval that stays in a range: `[n, k]` to three `[k]`.

    The Student interval of the mean is taken where the range has no ends and transformed back
    (delta method): of the log odds of the mean between two ends, which for a correlation is
    Fisher's z, and of the log of its distance to `low` where `high` is infinite. A mean without
    spread is its own interval. NaN where fewer than `fewest` values are known: an interval of two
    or three covers most of the range and says nothing.
    Source: Fisher, Metron 1 (1921).

    Args:
        values: within the range, NaN where undefined.
        low, high: ends of the range.

    >>> r = np.array([[0.2], [0.9], [0.95], [1.0]])
    >>> [x.round(3).item() for x in bounded_band(r, -1, 1)]
    [0.762, -0.407, 0.985]
    """
    n, mean, m2 = moments(values)
    half = scipy.stats.t.ppf((1 + confidence) / 2, n - 1) * np.sqrt(m2 / (n - 1) / n)
    ends = within_range(mean, half, low, high)
    bottom, top = (np.where(n >= fewest, end, np.nan) for end in ends)
    return mean, bottom, top


@undefined_is_nan
def within_range(
    mean: Floats, half: Floats, low: float = -np.inf, high: float = np.inf
) -> tuple[Floats, Floats]:
    """Ends of the interval mean ± half, moved into a range as `bounded_band` does: `[k]` each.

    >>> [x.round(3).item() for x in within_range(np.array(0.5), np.array(0.6), 0)]
    [0.151, 1.66]
    """
    below, above = mean - low, high - mean
    if np.isinf(low) and np.isinf(high):
        return mean - half, mean + half
    if np.isinf(high):
        ends = [low + below * np.exp(sign * half / below) for sign in (-1, 1)]
    elif np.isinf(low):
        ends = [high - above * np.exp(sign * half / above) for sign in (1, -1)]
    else:
        odds, step = np.log(below / above), half * (high - low) / (below * above)
        ends = [low + (high - low) * scipy.special.expit(odds + s * step) for s in (-1, 1)]
    # At an end of the range, or without spread, the quotients above are 0/0.
    inside = (half > 0) & (below > 0) & (above > 0)
    known = (np.where(inside | np.isnan(half), end, mean) for end in ends)
    # A mean beyond an end (by rounding, or because the range is not that of the value) keeps its
    # own interval, which nothing could move inside.
    beyond = (below < 0) | (above < 0)
    bottom, top = (
        np.where(beyond, mean + sign * half, end) for sign, end in zip((-1, 1), known, strict=True)
    )
    return bottom, top


def moved_within(
    mean: Floats, low: Floats, high: Floats, ends: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Ends of a symmetric interval, moved into a range by `within_range`: `[k]` each."""
    return within_range(mean, (high - low) / 2, *ends)


def smallest_p(pairs: int) -> float:
    """The smallest two-sided p that sign flips of so many pairs can give: 2 of 2^pairs.

    >>> smallest_p(6)
    0.03125
    """
    return min(1.0, 2.0 ** (1 - pairs))


def first_detected(p_max: ArrayLike, level: float = 0.05) -> int | None:
    """The first layer whose family-wise p is below the level, None where there is none.

    With probability 1 − level every layer that it finds does differ, so the difference is there
    at this layer *at the latest*; a smaller one before it may have been missed.

    >>> first_detected([np.nan, 0.2, 0.01, 0.03])
    2
    """
    hit = np.flatnonzero(np.asarray(p_max, np.float64) < level)
    return int(hit[0]) if len(hit) else None
