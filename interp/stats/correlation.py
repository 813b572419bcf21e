"""Correlation of two columns, per layer, with cluster-robust intervals.

Knows a tidy table and the names of its columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy

from interp._arrays import Floats
from interp.errors import BadInput, unknown
from interp.stats.classical import benjamini_hochberg, holm, two_sided, undefined_is_nan
from interp.stats.labelings import Codes
from interp.stats.resampling import check_resampling, chunks, draw_weights
from interp.stats.shuffled import shuffled_correlation
from interp.stats.table import (
    HasFrame,
    frame_of,
    is_special,
    numbered,
    numbers,
    require_columns,
    rows_by,
)

NULLS = ("permutation", "none")

# Values [n, v], weights [r, c] and clusters [n] to covariances [r, v, v].
Moments = Callable[[Floats, Floats, Codes], Floats]


def correlation(
    result: HasFrame | pd.DataFrame,
    x: str,
    y: str,
    *,
    by: str | Sequence[str] | None = None,
    cluster: str = "prompt",
    partial: Sequence[str] = (),
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    special: bool = False,
    null: str = "permutation",
) -> pd.DataFrame:
    """Correlate column `x` with column `y` over tokens, one row per `by` (default as `compare`).

    With `partial`, the linear influence of those columns (of their ranks, for Spearman) is removed
    from both first. Columns: `n` (tokens with all values), `prompts`, `nan` (rows left out
    because one of the columns is NaN or infinite), `pearson` and `spearman` [−1, 1], each with
    `_low`, `_high`, `_p` and `_permutation_p`, both also `_bh` and `_holm` (over the rows), and
    `_shuffled`, the mean of the shuffles.

    Intervals resample prompts; every resample ranks anew. They are percentile intervals whose
    tails are widened for few clusters c: Φ(−√(c/(c−1)) t_{c−1}) in place of α/2. `_p` takes tokens
    as independent (t with n − 2 − len(partial) degrees of freedom), although tokens of a prompt
    are correlated. `_permutation_p` shuffles `y` within prompts (between them, if every prompt has
    one token) and is two-sided about `_shuffled`; differences between prompts stay under the
    shuffles, see `interp.stats.shuffled`. `null="none"` leaves it out. NaN where n is too small,
    a column is constant, or fewer than two prompts are left.
    Source: Hesterberg, The American Statistician 69 (2015); partial ranks: Conover,
    Practical Nonparametric Statistics (1999).

    Raises `UnknownName` for a column that is not there, `BadInput` for one that is not numeric, is
    named twice, or where no row has enough values.

    >>> frame = pd.DataFrame({"prompt": range(9), "u": range(9), "v": [x * x for x in range(9)]})
    >>> correlation(frame, "u", "v")["spearman"].round(6).tolist()
    [1.0]
    """
    check_resampling(confidence, resamples)
    if null not in NULLS:
        raise unknown("null", null, NULLS)
    names = _distinct([x, y, *([partial] if isinstance(partial, str) else partial)])
    whole = frame_of(result)
    for name in names:
        numbers(whole.head(1), name)
    require_columns(whole, [cluster])
    frame = whole[~is_special(whole, special)]
    row, keys = numbered(frame, rows_by(frame, by, [*names, cluster]))
    values = np.column_stack([numbers(frame, name) for name in names])
    codes, _ = pd.factorize(frame[cluster], use_na_sentinel=False)
    draw = _Draw(confidence, resamples, seed, null == "permutation")
    rows = [_row(values[row == k], codes[row == k], draw) for k in range(len(keys))]
    if not any(np.isfinite(found["pearson"]) for found in rows):
        most = max((found["n"] for found in rows), default=0)
        raise BadInput(
            f"no row can correlate {x!r} with {y!r}: at most {most:.0f} complete values, and "
            f"{len(names) + 1} or more that vary are needed"
        )
    table = pd.DataFrame(rows).astype({"n": int, "prompts": int, "nan": int})
    return pd.concat([keys, with_corrections(table)], axis=1)


class _Draw(NamedTuple):
    confidence: float
    resamples: int
    seed: int
    shuffle: bool


def _distinct(names: list[str]) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"column {name!r} is named twice; x, y and partial must all differ")
    return names


def with_corrections(table: pd.DataFrame) -> pd.DataFrame:
    """The table with both corrections over its rows after each p."""
    columns: dict[str, Floats] = {}
    for name in table.columns:
        columns[name] = table[name].to_numpy()
        if name.endswith("_p"):
            p = table[name].to_numpy(np.float64)
            columns[f"{name}_bh"], columns[f"{name}_holm"] = benjamini_hochberg(p), holm(p)
    return pd.DataFrame(columns)


@undefined_is_nan
def _row(values: Floats, codes: Codes, draw: _Draw) -> dict[str, float]:
    """Both correlations of one row of the result: `[n, variables], [n]`."""
    whole = np.isfinite(values).all(axis=1)
    x, clusters = values[whole], np.unique(codes[whole], return_inverse=True)[1]
    prompts = len(np.unique(clusters))
    found = {"n": float(len(x)), "prompts": float(prompts), "nan": float((~whole).sum())}
    # One degree of freedom per column, covariates included: n − 2 − len(partial).
    df = len(x) - values.shape[1]
    usable = df > 0 and bool((np.ptp(x, axis=0)[:2] > 0).all())
    for name, moments in (("pearson", _pearson_covariance), ("spearman", _rank_covariance)):
        r, low, high = np.float64(np.nan), np.nan, np.nan
        if usable:
            r = _partial(moments(x, np.ones((1, prompts)), clusters))[0]
            low, high = _interval(x, clusters, moments, draw)
        p = float(two_sided(r * np.sqrt(df / (1 - r**2)), np.float64(df)))
        found |= {name: float(r), f"{name}_low": low, f"{name}_high": high, f"{name}_p": p}
        if draw.shuffle:
            ranks = name == "spearman"
            p, centre = _shuffled(x, clusters, ranks, draw) if np.isfinite(r) else (np.nan, np.nan)
            found |= {f"{name}_permutation_p": p, f"{name}_shuffled": centre}
    return found


def _shuffled(x: Floats, clusters: Codes, ranks: bool, draw: _Draw) -> tuple[float, float]:
    """p against `y` shuffled within clusters, and the centre of the null distribution."""
    # Where every cluster has one token, shuffling within clusters would leave all as it is; the
    # clusters are then the independent units themselves and exchange their values.
    alone = int(np.bincount(clusters).max()) == 1
    found = shuffled_correlation(
        x[:, :1],
        x[:, 1],
        np.zeros_like(clusters) if alone else clusters,
        x[:, 2:] if x.shape[1] > 2 else None,
        ranks=ranks,
        resamples=draw.resamples,
        seed=draw.seed,
    )
    return float(found.p[0]), float(found.centre[0])


def _interval(x: Floats, clusters: Codes, moments: Moments, draw: _Draw) -> tuple[float, float]:
    """Percentile interval over resampled clusters, tails widened for few of them."""
    c = int(clusters.max()) + 1
    if c < 2:
        return np.nan, np.nan
    rng, parts = np.random.default_rng(draw.seed), []
    for size in chunks(draw.resamples, len(x)):
        weights = draw_weights(np.zeros(c, np.int64), size, rng)
        parts.append(_partial(moments(x, weights, clusters)))
    # A percentile interval of c clusters is too narrow by √((c − 1)/c) and by normal for t tails;
    # both are put back into the level (Hesterberg 2015).
    tail = scipy.stats.t.isf((1 - draw.confidence) / 2, c - 1) * np.sqrt(c / (c - 1))
    level = float(scipy.stats.norm.cdf(-tail))
    low, high = np.nanquantile(np.concatenate(parts), [level, 1 - level])
    return float(low), float(high)


def _pearson_covariance(x: Floats, weights: Floats, clusters: Codes) -> Floats:
    """Covariances of the resamples, from sums per cluster: `[n, v], [r, c] -> [r, v, v]`."""
    # Centred and scaled first: sums of raw squares would cancel where a mean is large.
    v = x.shape[1]
    one = np.column_stack([np.ones(len(x)), (x - x.mean(axis=0)) / x.std(axis=0).clip(1e-300)])
    products = (one[:, :, None] * one[:, None, :]).reshape(len(x), -1)
    sums = np.zeros((weights.shape[1], products.shape[1]))
    np.add.at(sums, clusters, products)
    total = (weights @ sums).reshape(-1, v + 1, v + 1)
    mean = total[:, 0, :] / total[:, :1, 0]
    covariance = total / total[:, :1, :1] - mean[:, :, None] * mean[:, None, :]
    return np.asarray(covariance[:, 1:, 1:], np.float64)


def _rank_covariance(x: Floats, weights: Floats, clusters: Codes) -> Floats:
    """Covariances of the ranks that each resample gives anew: `[n, v], [r, c] -> [r, v, v]`."""
    of_token = weights[:, clusters]
    n = of_token.sum(axis=1)
    # A mean rank is (n + 1)/2 whatever the ties; centred ranks need no further means.
    ranks = [_weighted_ranks(x[:, i], of_token) - n[:, None] / 2 for i in range(x.shape[1])]
    covariance = np.empty((len(weights), len(ranks), len(ranks)))
    for i, left in enumerate(ranks):
        weighted = of_token * left
        for j in range(i, len(ranks)):
            covariance[:, i, j] = covariance[:, j, i] = (weighted * ranks[j]).sum(axis=1) / n
    return covariance


def _weighted_ranks(x: Floats, weights: Floats) -> Floats:
    """Mean rank less ½ of each token where token i occurs weights[:, i] times: `[n], [r, n]`."""
    _, tie = np.unique(x, return_inverse=True)
    order = np.argsort(tie, kind="stable")
    starts = np.flatnonzero(np.diff(tie[order], prepend=-1))
    size = np.add.reduceat(weights[:, order], starts, axis=1)
    rank = np.cumsum(size, axis=1) - size / 2
    return np.asarray(rank[:, tie], np.float64)


def _partial(covariance: Floats) -> Floats:
    """Correlation of the first two variables given the others: `[r, v, v] -> [r]`."""
    rest = covariance[:, :2, 2:]
    # A pseudo-inverse, because covariates may be constant or collinear.
    explained = rest @ np.linalg.pinv(covariance[:, 2:, 2:], hermitian=True)
    left = covariance[:, :2, :2] - explained @ rest.transpose(0, 2, 1)
    spread, before = left[:, [0, 1], [0, 1]], covariance[:, [0, 1], [0, 1]]
    r = left[:, 0, 1] / np.sqrt(spread.prod(axis=1))
    # A remainder this small is rounding: covariates that explain everything leave no correlation.
    defined = (spread > 1e-10 * before).all(axis=1)
    return np.where(defined, np.clip(r, -1.0, 1.0), np.nan)
