"""Textbook two-sample statistics from counts, means and squared deviations.

Knows nothing of tables, prompts or resampling. Every function works on whole arrays at once (one
entry per layer, for example) and needs moments only, so it also serves moments merged over shards.
Undefined results (fewer than two values, zero variance) are NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from interp._arrays import Bools, Floats

P = ParamSpec("P")
R = TypeVar("R")


class TTest(NamedTuple):
    """A t statistic, its degrees of freedom and its two-sided p, one entry per comparison."""

    t: Floats
    df: Floats
    p: Floats


class Effect(NamedTuple):
    """A standardised difference (in standard deviations) and its interval."""

    g: Floats
    low: Floats
    high: Floats


def undefined_is_nan(function: Callable[P, R]) -> Callable[P, R]:
    """Let a division by zero inside `function` give NaN or infinity without a warning."""

    @wraps(function)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return quiet


def first_finite(values: Floats) -> Floats:
    """First finite entry of each column, 0 where there is none: `[n, k] -> [k]`.

    Subtracting it turns a constant column into exact zeros, which a computed mean does not.
    """
    finite = np.isfinite(values)
    first = np.take_along_axis(values, finite.argmax(axis=0)[None], axis=0)[0]
    return np.where(finite.any(axis=0), first, 0.0)


@undefined_is_nan
def moments(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Count, mean and sum of squared deviations of the finite entries: `[n, k] -> 3 × [k]`.

    >>> [m.tolist() for m in moments(np.array([[1.0], [3.0], [np.nan]]))]
    [[2.0], [2.0], [2.0]]
    """
    if len(values) == 0:
        return (
            np.zeros(values.shape[1]),
            np.full(values.shape[1], np.nan),
            np.zeros(values.shape[1]),
        )
    # Two passes about a shift: Σx² − n·mean² would cancel where the mean is far larger than the
    # standard deviation, as in the norms of late layers.
    shift = first_finite(values)
    finite = np.isfinite(values)
    shifted = np.where(finite, values - shift, 0.0)
    n = finite.sum(axis=0).astype(np.float64)
    mean = shifted.sum(axis=0) / n
    m2 = (np.where(finite, shifted - mean, 0.0) ** 2).sum(axis=0)
    return n, mean + shift, m2


def _float(*arrays: ArrayLike) -> list[Floats]:
    return [np.asarray(array, dtype=np.float64) for array in arrays]


def two_sided(t: ArrayLike, df: ArrayLike) -> Floats:
    """Two-sided p of Student's t: P(|T| ≥ |t|) with `df` degrees of freedom."""
    # The lower tail of −|t|: 1 − cdf(|t|) would round every p below 1e-16 to zero.
    return np.asarray(2.0 * special.stdtr(df, -np.abs(np.asarray(t))), dtype=np.float64)


def _t_test(difference: Floats, variance: Floats, df: Floats, defined: Bools) -> TTest:
    """t = difference / √variance; NaN where undefined or where the variance is zero."""
    defined = defined & (variance > 0)
    t = np.where(defined, difference / np.sqrt(variance), np.nan)
    df = np.where(defined, df, np.nan)
    return TTest(t, df, two_sided(t, df))


@undefined_is_nan
def welch_from_moments(
    n_a: ArrayLike,
    mean_a: ArrayLike,
    m2_a: ArrayLike,
    n_b: ArrayLike,
    mean_b: ArrayLike,
    m2_b: ArrayLike,
) -> TTest:
    """Welch's t test (unequal variances) from counts, means and squared deviations: `[k]` each.

    `m2` is Σ(x − mean)², as in merged moments. NaN where a group has fewer than two values or
    both variances are zero. Takes the values as independent.
    Source: Welch, Biometrika 34 (1947); degrees of freedom after Satterthwaite (1946).

    >>> welch_from_moments(3, 2.0, 2.0, 3, 4.0, 2.0).t.round(4).item()
    -2.4495
    """
    n_a, mean_a, m2_a, n_b, mean_b, m2_b = _float(n_a, mean_a, m2_a, n_b, mean_b, m2_b)
    v_a, v_b = m2_a / (n_a - 1) / n_a, m2_b / (n_b - 1) / n_b
    df = (v_a + v_b) ** 2 / (v_a**2 / (n_a - 1) + v_b**2 / (n_b - 1))
    return _t_test(mean_a - mean_b, v_a + v_b, df, (n_a > 1) & (n_b > 1))


@undefined_is_nan
def student_from_moments(
    n_a: ArrayLike,
    mean_a: ArrayLike,
    m2_a: ArrayLike,
    n_b: ArrayLike,
    mean_b: ArrayLike,
    m2_b: ArrayLike,
) -> TTest:
    """Student's t test (one common variance) from counts, means and squared deviations: `[k]`.

    Otherwise as `welch_from_moments`. Source: Student, Biometrika 6 (1908).

    >>> student_from_moments(3, 2.0, 2.0, 3, 4.0, 2.0).df.item()
    4.0
    """
    n_a, mean_a, m2_a, n_b, mean_b, m2_b = _float(n_a, mean_a, m2_a, n_b, mean_b, m2_b)
    df = n_a + n_b - 2
    variance = (m2_a + m2_b) / df * (1 / n_a + 1 / n_b)
    return _t_test(mean_a - mean_b, variance, df, (n_a > 1) & (n_b > 1))


@undefined_is_nan
def small_sample_factor(df: ArrayLike) -> Floats:
    """Hedges' factor J(df) = Γ(df/2) / (√(df/2) Γ((df−1)/2)), which removes the bias of d.

    Source: Hedges, Journal of Educational Statistics 6 (1981); the exact form, not its
    approximation 1 − 3/(4 df − 1).

    >>> small_sample_factor(10.0).round(4).item()
    0.9227
    """
    (df,) = _float(df)
    log_ratio = special.gammaln(df / 2) - special.gammaln((df - 1) / 2)
    return np.asarray(np.exp(log_ratio) / np.sqrt(df / 2), dtype=np.float64)


@undefined_is_nan
def hedges_g(
    n_a: ArrayLike,
    mean_a: ArrayLike,
    m2_a: ArrayLike,
    n_b: ArrayLike,
    mean_b: ArrayLike,
    m2_b: ArrayLike,
    confidence: float = 0.95,
) -> Effect:
    """Hedges' g, the difference of means in pooled standard deviations, and its interval: `[k]`.

    g = J(df) (mean_a − mean_b) / s, s² = (m2_a + m2_b) / df, df = n_a + n_b − 2. The interval
    inverts the noncentral t distribution of Student's t, exact for independent normal values of
    equal variance; `compare` bootstraps prompts instead. NaN as in `student_from_moments`.
    Source: Hedges (1981); Steiger & Fouladi, in "What if there were no significance tests?"
    (1997).

    >>> hedges_g(10, 1.0, 9.0, 10, 0.0, 9.0).g.round(4).item()
    0.9576
    """
    t, df, _ = student_from_moments(n_a, mean_a, m2_a, n_b, mean_b, m2_b)
    n_a, n_b = _float(n_a, n_b)
    scale = small_sample_factor(df) * np.sqrt(1 / n_a + 1 / n_b)
    tail = (1 - confidence) / 2
    # For negative t by symmetry: only t ≥ 0 has to be inverted.
    lower, upper = (_noncentrality(np.abs(t), df, p) for p in (1 - tail, tail))
    low, high = np.where(t < 0, -upper, lower), np.where(t < 0, -lower, upper)
    return Effect(scale * t, scale * low, scale * high)


@undefined_is_nan
def standardised(
    difference: Floats, a: tuple[Floats, Floats, Floats], b: tuple[Floats, Floats, Floats]
) -> Floats:
    """A difference in pooled standard deviations of two groups, with the factor of Hedges' g."""
    df = a[0] + b[0] - 2
    spread = np.sqrt((a[2] + b[2]) / df)
    return np.where(spread > 0, small_sample_factor(df) * difference / spread, np.nan)


def _noncentrality(t: Floats, df: Floats, p: float) -> Floats:
    """The δ with P(T ≤ t | df, δ) = p for t ≥ 0, by bisection: `[k], [k] -> [k]`.

    P falls with δ. SciPy's inverse gives NaN for a large t; its distribution function does so only
    where P is 1, far below the δ sought.
    """
    # The bracket: 8 standard errors on either side of t, plus the uncertainty of the spread.
    low, high = np.full_like(t, -8.0), t * (1 + 8 / np.sqrt(df)) + 8
    # 60 halvings take any bracket to float64 resolution.
    for _ in range(60):
        middle = (low + high) / 2
        # Written with ~ so that a NaN of the distribution function counts as P = 1.
        too_small = ~(special.nctdtr(df, middle, t) <= p)
        low, high = np.where(too_small, middle, low), np.where(too_small, high, middle)
    return np.where(np.isfinite(t), (low + high) / 2, np.nan)


@undefined_is_nan
def paired_test(a: Floats, b: Floats) -> TTest:
    """Paired t test along the first axis; a pair with a NaN is left out: `[n, k] -> [k]`.

    >>> paired_test(np.array([[1.0], [2.0], [4.0]]), np.zeros((3, 1))).df.item()
    2.0
    """
    n, mean, m2 = moments(a - b)
    return _t_test(mean, m2 / (n - 1) / n, n - 1, n > 1)


@undefined_is_nan
def paired_effects(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Effect sizes of pairs `[n, k]`: d_z and Hedges' g_av, both `[k]`.

    d_z = mean(a − b) / sd(a − b), for power; g_av = J(2n − 2) mean(a − b) / ((sd_a + sd_b)/2),
    comparable with the unpaired g. Source: Lakens, Frontiers in Psychology 4:863 (2013).

    >>> paired_effects(np.array([[1.0], [2.0], [3.0]]), np.zeros((3, 1)))[0].item()
    2.0
    """
    # The two spreads are taken over complete pairs only, as the mean difference is.
    whole = np.isfinite(a - b)
    n, mean, m2 = moments(a - b)
    spread = [np.sqrt(moments(np.where(whole, x, np.nan))[2] / (n - 1)) for x in (a, b)]
    d_z = np.where(m2 > 0, mean / np.sqrt(m2 / (n - 1)), np.nan)
    mean_spread = (spread[0] + spread[1]) / 2
    g_av = small_sample_factor(2 * n - 2) * mean / mean_spread
    return d_z, np.where((n > 1) & (mean_spread > 0), g_av, np.nan)


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """p values adjusted so that the false discovery rate is controlled: `[k] -> [k]`.

    NaN entries stay NaN and do not count as tests. Valid for independent or positively dependent
    tests. Source: Benjamini & Hochberg, JRSS B 57 (1995).

    >>> benjamini_hochberg([0.01, 0.04, 0.03, np.nan]).round(3).tolist()
    [0.03, 0.04, 0.04, nan]
    """
    return _adjusted(p, lambda p: np.minimum.accumulate((p * len(p) / _ranks(p))[::-1])[::-1])


def holm(p: ArrayLike) -> Floats:
    """p values adjusted so that the family-wise error is controlled: `[k] -> [k]`.

    NaN entries stay NaN and do not count as tests. Valid under any dependence.
    Source: Holm, Scandinavian Journal of Statistics 6 (1979).

    >>> holm([0.01, 0.04, 0.03, np.nan]).round(3).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    return _adjusted(p, lambda p: np.maximum.accumulate(p * (len(p) + 1 - _ranks(p))))


def _ranks(p: Floats) -> Floats:
    return np.arange(1, len(p) + 1, dtype=np.float64)


def _adjusted(p: ArrayLike, step: Callable[[Floats], Floats]) -> Floats:
    """Apply a correction that is written for ascending p values without NaN."""
    (p,) = _float(p)
    finite = np.flatnonzero(np.isfinite(p))
    order = finite[np.argsort(p[finite], kind="stable")]
    # Undefined rows are no tests: counting them would make the correction stricter for nothing.
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(step(p[order]), 1.0)
    return adjusted
