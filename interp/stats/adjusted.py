"""Difference of two groups with covariates taken out: a regression with the prompt as cluster.

Knows nothing of tables: values `[n, k]` (NaN = undefined), labels `[n]`, clusters `[n]` and
covariates `[n, q]`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from interp._arrays import Bools, Floats
from interp.errors import BadInput
from interp.stats.classical import two_sided, undefined_is_nan
from interp.stats.labelings import Codes

KNOTS = (0.05, 0.275, 0.5, 0.725, 0.95)
_TINY = 1e-9  # of a column's variance: what is left of it is rounding


class Adjusted(NamedTuple):
    """Tokens that counted, the difference, its standard error and its t test: `[k]` each."""

    n: Floats
    difference: Floats
    se: Floats
    t: Floats
    df: Floats
    p: Floats


def spline(x: ArrayLike) -> Floats:
    """Columns of a restricted cubic spline of a covariate: `[n] -> [n, ≤ 4]`, each standardised.

    Knots lie at the quantiles 0.05, 0.275, 0.5, 0.725 and 0.95; outside of them it is a straight
    line. Of a covariate with few values, where knots coincide, it has fewer columns; a constant
    one has none.
    Source: Harrell, Regression Modeling Strategies (2015), section 2.4.5.

    >>> spline(np.arange(100.0)).shape, spline(np.arange(100) % 2).shape
    ((100, 4), (100, 1))
    """
    z = np.asarray(x, np.float64)
    knots = np.unique(np.quantile(z, KNOTS, method="inverted_cdf")) if len(z) else np.zeros(1)
    columns = [z]
    if len(knots) > 2:
        scale, cubes = (knots[-1] - knots[0]) ** 2, np.maximum(z[:, None] - knots, 0.0) ** 3
        gap = knots[-1] - knots[-2]
        for j in range(len(knots) - 2):
            end = cubes[:, -2] * (knots[-1] - knots[j]) - cubes[:, -1] * (knots[-2] - knots[j])
            columns.append((cubes[:, j] - end / gap) / scale)
    table = np.column_stack(columns)
    spread = table.std(axis=0)
    kept = spread > _TINY * (1 + np.abs(table).max(axis=0, initial=0.0))
    return np.asarray(((table - table.mean(axis=0)) / np.where(kept, spread, 1))[:, kept])


@undefined_is_nan
def adjusted_difference(
    values: ArrayLike, labels: ArrayLike, clusters: ArrayLike, covariates: ArrayLike
) -> Adjusted:
    """The difference between two groups of tokens at equal covariates: a − b, `[k]`.

    The coefficient of the group in a linear regression on the group and a restricted cubic spline
    of each covariate. Clusters that carry both groups are compared within themselves (their means
    are taken out); those that carry one are compared with each other, with one intercept. The
    standard error is the jackknife over clusters: √((C − 1)/C · Σ (β₋c − β)²). Its degrees of
    freedom are 1/Σ w_c² − 1, with w_c the share of cluster c in what of the group the covariates
    do not explain: C − 1 if all have the same share.

    It removes what the covariates explain additively, by a smooth curve. Where the curves of the
    two groups differ, the difference is a mean over the tokens that both could be.
    Source: MacKinnon, Nielsen & Webb, Journal of Applied Econometrics 38 (2023), for the jackknife;
    Carter, Schnepel & Steigerwald, Review of Economics and Statistics 99 (2017), for the effective
    number of clusters.

    Args:
        values: `[n, k]`, one column per row of the result.
        labels: `[n]`, true in group a.
        clusters: `[n]`, the prompt of each token.
        covariates: `[n, q]`; tokens with one that is not finite are left out.

    Raises:
        BadInput: shapes that do not match.

    >>> z = np.arange(40.0)
    >>> a, prompt = np.arange(40) % 3 == 0, np.arange(40) // 8
    >>> adjusted_difference((z + 5 * a)[:, None], a, prompt, z[:, None]).difference.round(6)
    array([5.])
    """
    x = np.asarray(values, np.float64)
    group, rest = np.asarray(labels, bool), np.asarray(covariates, np.float64)
    number = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if x.ndim != 2 or rest.ndim != 2 or {len(group), len(number), len(rest)} != {len(x)}:
        raise BadInput(
            f"values {x.shape}, labels {group.shape}, clusters {number.shape} and covariates "
            f"{rest.shape} do not match: values are [tokens, rows], covariates [tokens, columns]"
        )
    known = np.isfinite(rest).all(axis=1)
    x, group, number = x[known], group[known], number[known]
    basis = np.column_stack([np.zeros((len(x), 0)), *(spline(c) for c in rest[known].T)])
    found = np.full((len(Adjusted._fields), x.shape[1]), np.nan)
    for columns in _alike(np.isfinite(x)):
        rows = np.isfinite(x[:, columns[0]])
        part = (x[rows][:, columns], group[rows], number[rows], basis[rows])
        found[:, columns] = _fitted(*part)
    return Adjusted(*found)


def _alike(finite: Bools) -> list[list[int]]:
    """Columns by the tokens that they have: layers are mostly defined for the same ones."""
    found: dict[bytes, list[int]] = {}
    for k in range(finite.shape[1]):
        found.setdefault(np.packbits(finite[:, k]).tobytes(), []).append(k)
    return list(found.values())


def _fitted(y: Floats, group: Bools, number: Codes, basis: Floats) -> Floats:
    """The fields of `Adjusted` for values without holes: `[n, k]` -> `[6, k]`."""
    out = np.full((6, y.shape[1]), np.nan)
    out[0] = len(y)
    if not group.any() or group.all():
        return out
    number = np.unique(number, return_inverse=True)[1]
    x, y = _within(np.column_stack([group, basis]).astype(np.float64), y, group, number)
    grams = _products(x, np.concatenate([x, y], axis=1), number)
    c = len(grams)
    whole = grams.sum(axis=0)
    (beta,), (left,), coefficients = _solved(whole[None])
    share = _shares(x, number, coefficients)
    if c < 2 or np.isnan(left):
        return out
    jackknifed = _solved(whole - grams)[0]
    se = np.sqrt((c - 1) / c * ((jackknifed - beta) ** 2).sum(axis=0))
    df = np.full(len(se), 1 / (share**2).sum() - 1)
    t = beta / se
    out[1:] = beta, se, t, df, two_sided(t, df)
    return out


def _within(x: Floats, y: Floats, group: Bools, number: Codes) -> tuple[Floats, Floats]:
    """Design and values less the means of clusters with both groups; one intercept for the rest."""
    size = np.bincount(number)
    of_a = np.bincount(number, group)
    both = ((of_a > 0) & (of_a < size))[number]
    table = np.column_stack([x, y])
    means = np.stack([np.bincount(number, column) / size for column in table.T], axis=1)
    overall = table.mean(axis=0)  # the intercept absorbs it; sums of squares stay small
    table = table - np.where(both[:, None], means[number], overall)
    single = (~both).astype(np.float64)[:, None]
    return np.column_stack([table[:, : x.shape[1]], single]), table[:, x.shape[1] :]


def _products(x: Floats, y: Floats, number: Codes) -> Floats:
    """Sums of products of columns in each cluster: `[n, p], [n, q] -> [c, p, q]`."""
    order = np.argsort(number, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(number))[:-1])
    return np.stack([x[r].T @ y[r] for r in rows])


def _solved(grams: Floats) -> tuple[Floats, Floats, Floats]:
    """Coefficient of the first column, what is left of it, and its fit by the others.

    From sums of products `[m, p, p + k]` to `[m, k]`, `[m]` and `[m, p − 1]`. NaN where the others
    explain the first column.
    """
    p = grams.shape[1]
    own, cross = grams[:, 0, 0], grams[:, 1:, 0]
    # A pseudo-inverse, because covariates may be constant or collinear.
    fit = (np.linalg.pinv(grams[:, 1:, 1:p], rcond=1e-10, hermitian=True) @ cross[..., None])[
        ..., 0
    ]
    left = own - (cross * fit).sum(axis=1)
    left = np.where(left > _TINY * np.maximum(own, 1e-300), left, np.nan)
    product = grams[:, 0, p:] - np.einsum("mq,mqk->mk", fit, grams[:, 1:, p:])
    return product / left[:, None], left, fit


def _shares(x: Floats, number: Codes, fit: Floats) -> Floats:
    """Share of each cluster in the variance of the group that the covariates leave: `[c]`."""
    residual = x[:, 0] - x[:, 1:] @ fit[0]
    squares = np.bincount(number, residual**2)
    return np.asarray(squares / squares.sum(), np.float64)
