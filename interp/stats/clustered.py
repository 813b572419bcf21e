"""Two means compared by sums over documents: what the clustered test needs, and nothing more.

Knows groups and sums (`interp.clustered`); nothing of tables. All functions work on whole arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from interp.clustered import Clustered
from interp.stats.classical import Array, Mask, TTest, two_sided, undefined_is_nan
from interp.stats.resampling import ROUNDING


class Contrast(NamedTuple):
    """Means of two sides, the variances of these means and their covariance, `[...]` each.

    `documents_a`, `documents_b`: that have values of a side; `union`: of either side. All three
    are exact unless a side pools more than two groups that share documents, and then at least so
    many, which errs to the side of wide intervals. `both`: with values of both; NaN
    where a side pools groups that share documents with the other.
    """

    n_a: Array
    n_b: Array
    mean_a: Array
    mean_b: Array
    variance_a: Array
    variance_b: Array
    covariance: Array
    documents_a: Array
    documents_b: Array
    union: Array
    both: Array


@undefined_is_nan
def contrast(sums: Clustered, a: Mask, b: Mask) -> Contrast:
    """The means of the groups `a [g]` taken together and of the groups `b [g]`, with variances.

    Residuals about the mean of a side add up per document: with D documents the variance of a
    mean is D / (D − 1) Σ_d r_d² / n², and the covariance of two means that share documents
    √(D_a / (D_a − 1) · D_b / (D_b − 1)) Σ_d r_ad r_bd / (n_a n_b). NaN below two documents, and
    for what needs pairs of groups where these were not kept (`Clustered.whole`).
    Source: Cochran, Sampling Techniques (1977), 6.4 and 9A (linearised ratio of totals over
    clusters); Cameron & Miller, Journal of Human Resources 50 (2015).
    """
    wide = (..., *[None] * (sums.n.ndim - 1))
    n = [sums.n[side].sum(axis=0) for side in (a, b)]
    total = [np.where(sums.n > 0, sums.n * sums.mean, 0.0)[side].sum(axis=0) for side in (a, b)]
    mean = [t / m for t, m in zip(total, n, strict=True)]
    target = np.where(a[wide], mean[0], np.where(b[wide], mean[1], sums.mean))
    product = sums.about(target)[0]
    documents = [_documents(sums, side) for side in (a, b)]
    factor = [np.where(d > 1, d / (d - 1), np.nan) for d in documents]
    across = _across(sums, a, b)
    crossed, met = product[across].sum(axis=0), sums.shared[across].sum(axis=0)
    known = 1.0 if sums.whole else np.nan
    within = [_within(sums, product, side) * (known if side.sum() > 1 else 1) for side in (a, b)]
    covariance = known * np.sqrt(factor[0] * factor[1]) * crossed / (n[0] * n[1])
    union = np.maximum(documents[0] + documents[1] - met, np.maximum(*documents))
    exact = (a.sum() == b.sum() == 1) | (met == 0)  # else a document may have been met twice
    both = np.where(exact, met * known, np.nan)
    sides = [*n, *mean, *(f * w / m**2 for f, w, m in zip(factor, within, n, strict=True))]
    return Contrast._make([*sides, covariance, *documents, union, both])


def _across(sums: Clustered, a: Mask, b: Mask) -> Mask:
    """The pairs with a group on either side: `[p]`."""
    first, second = sums.pairs.T
    return np.asarray((a[first] & b[second]) | (b[first] & a[second]), dtype=bool)


def _within(sums: Clustered, product: Array, side: Mask) -> Array:
    """Σ_d r_d² of the groups of a side taken together."""
    first, second = sums.pairs.T
    inside = side[first] & side[second]
    times = np.where(first == second, 1.0, 2.0)[inside]
    total = np.tensordot(times, product[inside], axes=(0, 0))
    return np.maximum(np.asarray(total, dtype=np.float64), 0.0)


def _documents(sums: Clustered, side: Mask) -> Array:
    """How many documents have values in any group of a side, or a bound below that number."""
    first, second = sums.pairs.T
    inside, alone = side[first] & side[second], first == second
    each = sums.shared[inside & alone]
    fewest = each.sum(axis=0) - sums.shared[inside & ~alone].sum(axis=0)
    if not sums.whole:  # the documents that groups share are not known
        fewest = np.zeros_like(fewest)
    return np.asarray(np.maximum(fewest, each.max(axis=0, initial=0)), dtype=np.float64)


@undefined_is_nan
def clustered_test(found: Contrast) -> TTest:
    """t test of the difference of two means with documents as the unit that was sampled: `[...]`.

    t = (mean_a − mean_b) / √(variance_a + variance_b − 2 covariance). Degrees of freedom after
    Satterthwaite over the documents of each side, and at most one less than there are documents:
    D − 1 where all documents carry both sides alike, those of Welch's test on documents where
    none does. NaN where a variance is, or where there is no spread but rounding.
    """
    v_a, v_b = found.variance_a, found.variance_b
    variance = np.maximum(v_a + v_b - 2 * found.covariance, 0.0)
    satterthwaite = (v_a + v_b) ** 2 / (
        v_a**2 / (found.documents_a - 1) + v_b**2 / (found.documents_b - 1)
    )
    size = np.maximum(np.abs(found.mean_a), np.abs(found.mean_b))
    defined = variance > (ROUNDING * size) ** 2
    df = np.where(defined, np.minimum(satterthwaite, found.union - 1), np.nan)
    t = np.where(defined, (found.mean_a - found.mean_b) / np.sqrt(variance), np.nan)
    return TTest(t, df, two_sided(t, df))


@undefined_is_nan
def clustered_bands(found: Contrast, test: TTest, confidence: float) -> dict[str, Array]:
    """Half widths of the intervals of `mean_a`, `mean_b` and `difference`, by name: `[...]`."""
    variance = found.variance_a + found.variance_b - 2 * found.covariance
    se = np.where(np.isfinite(test.df), np.sqrt(np.maximum(variance, 0.0)), np.nan)
    return {
        "mean_a": t_quantile(found.documents_a - 1, confidence) * np.sqrt(found.variance_a),
        "mean_b": t_quantile(found.documents_b - 1, confidence) * np.sqrt(found.variance_b),
        "difference": t_quantile(test.df, confidence) * se,
    }


def t_quantile(df: Array, confidence: float) -> Array:
    """How many standard errors an interval reaches to either side."""
    return np.asarray(special.stdtrit(df, (1 + confidence) / 2), dtype=np.float64)
