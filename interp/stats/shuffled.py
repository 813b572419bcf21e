"""Null distribution of correlations, by shuffling values within prompts.

Knows nothing of tables: `x [n, k]`, `y [n]`, covariates `[n, q]` and clusters `[n]`, all finite.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy import linalg

from interp._arrays import Floats
from interp.errors import BadInput
from interp.stats.classical import undefined_is_nan
from interp.stats.labelings import Codes, share_reaching
from interp.stats.resampling import check_resampling, chunks


class Shuffled(NamedTuple):
    """Correlation of each column `[k]`, its two-sided p and its null distribution.

    `centre [k]` is the mean of that distribution: the expected correlation without an association
    within clusters.
    """

    r: Floats
    p: Floats
    centre: Floats
    null: Floats  # [resamples, k]


@undefined_is_nan
def shuffled_correlation(
    x: ArrayLike,
    y: ArrayLike,
    clusters: ArrayLike,
    covariates: ArrayLike | None = None,
    *,
    ranks: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> Shuffled:
    """Correlate each column of `x` with `y`, and with `y` shuffled within every cluster.

    Differences between whole clusters stay under the shuffles. The null distribution therefore
    need not centre on 0, and p is about the association within clusters: p =
    (1 + #{|r* − m| ≥ |r − m|}) / (1 + resamples), m the mean over the shuffles and the observed
    correlation. Where shuffles give 0.4, a correlation of −0.1 is extreme and one of 0.4 is not.
    With `covariates`, r is the partial correlation; the residuals of `y` from a fit of covariates
    and clusters are shuffled, the fit is added back and r is computed anew. The clusters are part
    of that fit because covariates that vary between a few clusters would otherwise absorb
    differences between clusters and bias the residuals within them. With `ranks` everything is
    ranked first (Spearman). NaN for a constant column.
    Source: Freedman & Lane, J. Business & Economic Statistics 1 (1983); Winkler et al., NeuroImage
    92 (2014).

    >>> found = shuffled_correlation(np.arange(8.0)[:, None], np.arange(8.0), np.arange(8) // 4)
    >>> found.r.round(6).item()
    1.0
    """
    check_resampling(0.5, resamples)
    left, right = np.asarray(x, np.float64), np.asarray(y, np.float64)[:, None]
    number = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if left.ndim != 2 or len(right) != len(left) or number.shape != left.shape[:1]:
        raise BadInput(
            f"x {left.shape}, y {right.shape[:1]} and clusters {number.shape} do not match: "
            "x is [tokens, columns], y and clusters [tokens]"
        )
    rest = np.ones((len(left), 1)) if covariates is None else np.asarray(covariates, np.float64)
    if ranks:
        left, right, rest = (scipy.stats.rankdata(part, axis=0) for part in (left, right, rest))
    order = np.argsort(number, kind="stable")
    left, right, rest, number = left[order], right[order], rest[order], number[order]
    # Residuals of length 1: their product is the correlation.
    r = _residuals(right, rest)[:, 0] @ _residuals(left, rest)
    fitted, error = _fit(right[:, 0], rest, number)
    basis = linalg.orth(_design(rest))  # covariates may be constant or collinear
    rng, parts = np.random.default_rng(seed), []
    for size in chunks(resamples, 4 * len(right)):
        # Sorting cluster number + U(0, 1) permutes the rows of each cluster among themselves.
        place = np.argsort(rng.random((size, len(right))) + number, axis=1)
        drawn = fitted + error[place]
        drawn -= (drawn @ basis) @ basis.T
        drawn /= np.sqrt((drawn**2).sum(axis=1, keepdims=True))
        parts.append(drawn @ _residuals(left, rest))
    null = np.concatenate(parts)
    # The mean includes the observed order like any other, or the test would not be exact.
    centre = (null.sum(axis=0) + r) / (1 + resamples)
    p = share_reaching(np.abs(null - centre), np.abs(r - centre), exact=False)
    return Shuffled(r, np.where(np.isnan(r), np.nan, p), centre, null)


def _design(covariates: Floats) -> Floats:
    return np.column_stack([np.ones(len(covariates)), covariates - covariates.mean(axis=0)])


def _fit(y: Floats, covariates: Floats, number: Codes) -> tuple[Floats, Floats]:
    """Fitted values of `y` from clusters and covariates, and the residuals: `[n]` each."""
    count = np.bincount(number)
    columns = np.column_stack([y, covariates])
    means = np.stack([np.bincount(number, c) / count for c in columns.T], axis=1)[number]
    within = columns - means
    explained = within[:, 1:] @ np.linalg.lstsq(within[:, 1:], within[:, 0], rcond=None)[0]
    return means[:, 0] + explained, within[:, 0] - explained


def _residuals(values: Floats, covariates: Floats) -> Floats:
    """Residuals from a linear fit with intercept, of length 1; NaN where nothing is left."""
    # lstsq, not a normal equation: collinear covariates must not blow up.
    design = _design(covariates)
    centred = values - values.mean(axis=0)
    left = centred - design @ np.linalg.lstsq(design, centred, rcond=None)[0]
    size, before = (np.sqrt((part**2).sum(axis=0)) for part in (left, centred))
    return np.asarray(left / np.where(size > 1e-5 * before, size, np.nan), np.float64)
