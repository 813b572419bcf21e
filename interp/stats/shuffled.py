"""Correlations that chance gives when values are shuffled within prompts.

Knows nothing of tables: `x [n, k]`, `y [n]`, covariates `[n, q]` and clusters `[n]`, all finite.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from interp.errors import BadInput
from interp.stats.classical import Array, undefined_is_nan
from interp.stats.resampling import ROUNDING, check_resampling, chunks


class Shuffled(NamedTuple):
    """Correlation of each column `[k]`, its two-sided p, and the correlations of the shuffles."""

    r: Array
    p: Array
    null: Array  # [resamples, k]


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

    What whole clusters have in common stays under the shuffles, so the null need not centre on 0
    and p speaks of the association within clusters: p = (1 + #{|r*| ≥ |r|}) / (1 + resamples).
    With `covariates` both sides are their residuals from a linear fit, and it is the residuals that
    are shuffled; with `ranks` everything is ranked first (Spearman). NaN for a constant column.
    Source: Freedman & Lane, J. Business & Economic Statistics 1 (1983); Kennedy, Communications in
    Statistics B 24 (1995).

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
        left, right, rest = (stats.rankdata(part, axis=0) for part in (left, right, rest))
    left, right = _residuals(left, rest), _residuals(right, rest)[:, 0]
    rng, parts = np.random.default_rng(seed), []
    order = np.argsort(number, kind="stable")
    left, right, number = left[order], right[order], number[order]
    for size in chunks(resamples, 3 * len(right)):
        place = np.argsort(rng.random((size, len(right))) + number, axis=1)
        parts.append(right[place] @ left)
    r, null = right @ left, np.concatenate(parts)
    p = (1 + (np.abs(null) >= np.abs(r) * (1 - ROUNDING)).sum(axis=0)) / (1 + resamples)
    return Shuffled(r, np.where(np.isnan(r), np.nan, p), null)


def _residuals(values: Array, covariates: Array) -> Array:
    """Residuals from a linear fit with intercept, of length 1; NaN where nothing is left."""
    design = np.column_stack([np.ones(len(values)), covariates - covariates.mean(axis=0)])
    centred = values - values.mean(axis=0)
    left = centred - design @ np.linalg.lstsq(design, centred, rcond=None)[0]
    size, before = (np.sqrt((part**2).sum(axis=0)) for part in (left, centred))
    return np.asarray(left / np.where(size > 1e-5 * before, size, np.nan), np.float64)
