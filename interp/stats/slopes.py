"""Slopes of values along sequences, with sequences in clusters: texts of prompts, say.

Knows nothing of tables or of what the values mean: values `[n, k]` (NaN = undefined), their places
`[n]`, the sequence of each `[n]` and its cluster `[n]`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from interp._arrays import Floats
from interp.contract.document_sums import small_sample
from interp.errors import BadInput
from interp.stats.classical import first_finite, undefined_is_nan
from interp.stats.labelings import Codes, share_reaching, smallest_share
from interp.stats.resampling import check_resampling


class Slopes(NamedTuple):
    """Values that counted, their clusters, the slope, its interval and its test: `[k]` each.

    `exact`: whether p is over all signs; `smallest_p_max`: the smallest p_max that any signs could
    have reached.
    """

    n: Floats
    clusters: Floats
    slope: Floats
    se: Floats
    df: Floats
    low: Floats
    high: Floats
    p: Floats
    p_max: Floats
    exact: bool
    smallest_p_max: float


@undefined_is_nan
def clustered_slopes(
    values: ArrayLike,
    places: ArrayLike,
    sequences: ArrayLike,
    clusters: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Slopes:
    """Slope of values along sequences, each with a level of its own, over clusters of sequences.

    The least-squares slope with an intercept per sequence: β = Σ_c u_c / Σ_c w_c, with u_c the sum
    over cluster c of (x − x̄)(y − ȳ), the means being those of each sequence, and w_c that of
    (x − x̄)². It is the mean of the slopes of the clusters, weighted by w_c. The interval is
    β ± t_ν √(f Σ_c (u_c − β w_c)²) / Σ w_c with f and ν of
    `interp.contract.document_sums.small_sample` for clusters of sizes w_c: C/(C − 1) and C − 1
    where all are equal, so that it is then the t interval of the slopes of the clusters.

    The test turns the signs of whole clusters: without a drift, the slope of a cluster is as
    likely up as down (values that could as well stand in the opposite order have this symmetry,
    however much neighbours resemble each other). The statistic is |Σ u_c| / √Σ u_c². With no more
    than `resamples` choices of signs each is taken once and p is exact; else
    p = (1 + #{|t*| ≥ |t|}) / (1 + resamples). `p_max` compares with the largest of all k rows,
    which have the same signs, and controls the family-wise error over the rows.
    Source: Liang & Zeger, Biometrika 73 (1986); Winkler et al., NeuroImage 92 (2014), for the
    flips of signs; Westfall & Young (1993).

    Args:
        values: `[n, k]`.
        places: `[n]`, the place of a value in its sequence, such as the number of a token.
        sequences: `[n]`, the sequence that a value is of.
        clusters: `[n]`, the unit of inference; a sequence is in one cluster.
        confidence: level of the interval.
        resamples: number of choices of signs.
        seed: of the signs.

    The slope is NaN where no sequence has two places, intervals and tests are with fewer than two
    clusters that have one. Raises `BadInput` if shapes do not match, or a sequence is in two
    clusters.

    >>> x = np.tile(np.arange(5.0), 4)
    >>> text = np.repeat(np.arange(4), 5)
    >>> found = clustered_slopes((3 * x + text)[:, None], x, text, text)
    >>> found.slope.item(), found.p.item()
    (3.0, 0.125)
    """
    check_resampling(confidence, resamples)
    y, x = np.asarray(values, np.float64), np.asarray(places, np.float64)
    text, cluster = np.asarray(sequences), np.asarray(clusters)
    if y.ndim != 2 or {x.shape, text.shape, cluster.shape} != {y.shape[:1]}:
        raise BadInput(
            f"values {y.shape}, places {x.shape}, sequences {text.shape} and clusters "
            f"{cluster.shape} do not match: values are [n, rows], the others [n]"
        )
    _, first, code = np.unique(text, return_index=True, return_inverse=True)
    if (cluster != cluster[first][code]).any():
        raise BadInput("a sequence is in two clusters; its values have to be in one")
    unit = np.unique(cluster[first], return_inverse=True)[1]
    u, w = _products(y, x, code, unit)
    used = w > 0
    count = used.sum(axis=0).astype(np.float64)
    total = w.sum(axis=0)
    slope = u.sum(axis=0) / total
    factor, df = small_sample(total, (w**2).sum(axis=0), (w**3).sum(axis=0))
    se = np.sqrt(((u - slope * w) ** 2).sum(axis=0) * factor) / total
    several = count > 1
    se, df = (np.where(several, part, np.nan) for part in (se, df))
    half = scipy.stats.t.ppf((1 + confidence) / 2, df) * se
    n = np.isfinite(y).sum(axis=0).astype(np.float64)
    tests = _signs(np.where(several, u, np.nan), resamples, seed)
    return Slopes(n, count, slope, se, df, slope - half, slope + half, *tests)


def _products(y: Floats, x: Floats, code: Codes, unit: Codes) -> tuple[Floats, Floats]:
    """Sums of (x − x̄)(y − ȳ) and of (x − x̄)² of each cluster: `[c, k]` each."""
    finite = np.isfinite(y) & np.isfinite(x)[:, None]
    texts, k = len(unit), y.shape[1]
    n, sum_x, sum_y = np.zeros((3, texts, k))
    # Moved by a value of the column, so that large levels do not cancel.
    start = first_finite(np.where(finite, y, np.nan))
    at, level = np.where(finite, x[:, None], 0.0), np.where(finite, y - start, 0.0)
    for total, part in ((n, finite), (sum_x, at), (sum_y, level)):
        np.add.at(total, code, part)
    size = np.maximum(n, 1)
    from_x = np.where(finite, at - (sum_x / size)[code], 0.0)
    from_y = np.where(finite, level - (sum_y / size)[code], 0.0)
    u, w = np.zeros((2, int(unit.max(initial=-1)) + 1, k))
    np.add.at(u, unit[code], from_x * from_y)
    np.add.at(w, unit[code], from_x**2)
    return u, w


def _signs(u: Floats, resamples: int, seed: int) -> tuple[Floats, Floats, bool, float]:
    """p and family-wise p of sums of clusters `[c, k]` under changes of their signs."""
    c = len(u)
    exact = c < 60 and 2**c <= resamples
    if exact:
        signs = 1.0 - 2.0 * ((np.arange(2**c)[:, None] >> np.arange(c)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(resamples, c))
    scale = np.sqrt((u**2).sum(axis=0))
    unit = np.where(scale > 0, u / np.where(scale > 0, scale, 1), 0.0)
    t, null = np.abs(unit.sum(axis=0)), np.abs(signs @ unit)
    defined = ~np.isnan(scale)
    largest = null[:, defined].max(axis=1, initial=0.0)
    p = np.where(defined, share_reaching(null, t, exact), np.nan)
    p_max = np.where(defined, share_reaching(largest[:, None], t, exact), np.nan)
    return p, p_max, exact, smallest_share(largest, exact)
