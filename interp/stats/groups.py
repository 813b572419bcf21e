"""Any number of groups at once: cluster-robust means, and a test that all are equal.

Knows nothing of tables: values `[n, k]` (n tokens or words, k rows of the result such as layers;
NaN = undefined), codes `[n]` (the group, 0 … g−1) and clusters `[n]` (the prompt).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy import special

from interp._arrays import Bools, Floats
from interp.contract.document_sums import small_sample
from interp.errors import BadInput
from interp.stats.classical import first_finite, undefined_is_nan
from interp.stats.labelings import ROUNDING, Codes, Labelings
from interp.stats.resampling import check_resampling, dealt, p_values


class Means(NamedTuple):
    """Counts of tokens and clusters, mean, standard deviation and interval: `[g, k]` each."""

    n: Floats
    clusters: Floats
    mean: Floats
    sd: Floats
    low: Floats
    high: Floats


class Omnibus(NamedTuple):
    """A test that all groups are the same, one entry per row, and its null distribution.

    `f`, `p`, `p_max`, `eta2`, `anova_f`, `anova_p`: `[k]`; `null_f`, `null_eta2`,
    `null_anova_p`: `[resamples, k]` (NaN where undefined); `exact`, `labelings` and
    `smallest_p_max` as in `Permutation`.
    """

    f: Floats
    p: Floats
    p_max: Floats
    eta2: Floats
    anova_f: Floats
    anova_p: Floats
    null_f: Floats
    null_eta2: Floats
    null_anova_p: Floats
    exact: bool
    labelings: float
    smallest_p_max: float


def _checked(
    values: ArrayLike, codes: ArrayLike, clusters: ArrayLike
) -> tuple[Floats, Codes, Codes, int]:
    x = np.asarray(values, dtype=np.float64)
    x = np.where(np.isfinite(x), x, np.nan)
    group, cluster = np.asarray(codes), np.asarray(clusters)
    if x.ndim != 2 or group.shape != x.shape[:1] or cluster.shape != x.shape[:1]:
        raise BadInput(
            f"values {x.shape}, codes {group.shape} and clusters {cluster.shape} do not match: "
            "values are [tokens, rows], codes and clusters [tokens]"
        )
    if not len(x):
        raise BadInput("no values: at least one token is needed")
    number = np.unique(cluster, return_inverse=True)[1].astype(np.int64)
    return x, group.astype(np.int64), number, int(group.max()) + 1


@undefined_is_nan
def group_means(
    values: ArrayLike, codes: ArrayLike, clusters: ArrayLike, *, confidence: float = 0.95
) -> Means:
    """Mean of every group with a cluster-robust interval.

    mean ± t_ν √(f Σ_c (Σ residuals of cluster c)²) / n over the clusters c that carry the group,
    with f and ν of `interp.contract.document_sums.small_sample`: C/(C−1) and C − 1 for C clusters
    of one size, a wider interval where sizes differ. NaN where only one cluster has the group.
    Source: Liang & Zeger, Biometrika 73 (1986).

    >>> group_means([[1.0], [3.0], [5.0]], [0, 0, 1], [0, 1, 0]).mean.tolist()
    [[2.0], [5.0]]
    """
    check_resampling(confidence, 1)
    x, group, cluster, g = _checked(values, codes, clusters)
    k, c = x.shape[1], int(cluster.max()) + 1
    parts = []
    for i in range(g):
        member = group == i
        rows, where = x[member], cluster[member]
        finite = np.isfinite(rows)
        n = finite.sum(axis=0)
        mean = np.where(finite, rows, 0.0).sum(axis=0) / n
        residual = np.where(finite, rows - mean, 0.0)
        sums, sizes = np.zeros((2, c, k))
        np.add.at(sums, where, residual)
        np.add.at(sizes, where, finite)
        count = (sizes > 0).sum(axis=0)
        factor, df = small_sample(n, (sizes**2).sum(axis=0), (sizes**3).sum(axis=0))
        se = np.sqrt((sums**2).sum(axis=0) * factor) / n
        half = np.where(count > 1, scipy.stats.t.ppf((1 + confidence) / 2, df) * se, np.nan)
        sd = np.where(n > 1, np.sqrt((residual**2).sum(axis=0) / (n - 1)), np.nan)
        parts.append((n, count, mean, sd, mean - half, mean + half))
    return Means(*(np.stack(column).astype(np.float64) for column in zip(*parts, strict=True)))


@undefined_is_nan
def clustered_omnibus(
    values: ArrayLike,
    codes: ArrayLike,
    clusters: ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Omnibus:
    """Test that all groups have one mean by shuffling groups within exchangeable blocks.

    In a cluster that carries several groups, groups are shuffled among its own tokens; clusters
    that carry one group exchange it as a whole with each other. Under the null hypothesis that
    groups mean nothing both leave the distribution unchanged, so p is exact up to the draw of
    shuffles, and exact where there are no more than `resamples` labelings, each then taken once.
    The statistic is the F of a one-way analysis of variance after subtracting the mean of every
    cluster with several groups; `eta2` is the share of that variance between groups. `anova_f` and
    `anova_p` are the classical test, which takes tokens as independent. p = (1 + #{F* ≥ F}) /
    (1 + resamples); `p_max` compares with the largest F* over the k rows (family-wise), converted
    to p of the F distribution where rows have different numbers of values.
    Source: Anderson, Austral Ecology 26 (2001); Winkler et al., NeuroImage 123 (2015).

    Raises `BadInput` if shapes do not match or there are fewer than two groups.

    >>> x = np.arange(12.0)[:, None] % 3
    >>> clustered_omnibus(x, np.arange(12) % 3, np.arange(12) // 3, resamples=99).eta2.item()
    1.0
    """
    check_resampling(0.5, resamples)
    x, group, cluster, g = _checked(values, codes, clusters)
    if len(np.unique(group)) < 2:
        raise BadInput("all values are in one group: at least two are compared")
    ways = Labelings(group, cluster)
    # The classical test is of the values as they are; the permutation test is of the contrast
    # within clusters, the only one that shuffles within clusters leave exchangeable.
    raw, centred = x - first_finite(x), _centred(x, cluster, ways.several)
    observed = _analysis(group[None], centred, g), _analysis(group[None], raw, g)
    nulls = [
        (*_analysis(shuffled, centred, g)[:2], _analysis(shuffled, raw, g)[2])
        for shuffled in dealt(ways, resamples, seed, 4 * len(x) + 8 * x.shape[1])
    ]
    null_f, *rest = (np.concatenate(part) for part in zip(*nulls, strict=True))
    (f, eta2, _), (anova_f, _, anova_p) = ((part[0] for part in found) for found in observed)
    null_f, exact = np.where(np.isnan(f), np.nan, null_f), ways.count <= resamples
    df = len(np.unique(group)) - 1.0, np.isfinite(x).sum(axis=0) - float(g)
    p, p_max, smallest = p_values(f, null_f, exact, lambda y: _on_one_scale(y, *df))
    facts = (exact, ways.count, smallest)
    return Omnibus._make([f, p, p_max, eta2, anova_f, anova_p, null_f, *rest, *facts])


def _on_one_scale(f: Floats, between: float, within: Floats) -> Floats:
    """F `[..., k]` as −log p of its distribution; F itself where rows have equally many values."""
    # F with few degrees of freedom within is heavy-tailed: its row would own every maximum.
    return f if (within == within[0]).all() else -np.log(special.fdtrc(between, within, f))


def _centred(x: Floats, cluster: Codes, several: Bools) -> Floats:
    """Values less the mean of their cluster, or of all clusters with a single group."""
    block = np.where(several[cluster], cluster, len(several))
    finite = np.isfinite(x)
    shifted = np.where(finite, x - first_finite(x), 0.0)
    total, count = np.zeros((2, len(several) + 1, x.shape[1]))
    np.add.at(total, block, shifted)
    np.add.at(count, block, finite)
    return np.where(finite, shifted - (total / count)[block], np.nan)


def _analysis(group: Codes, x: Floats, g: int) -> tuple[Floats, Floats, Floats]:
    """F, η² and classical p of a one-way analysis of variance: `[r, n], [n, k] -> [r, k]`."""
    finite = np.isfinite(x)
    flat, filled = finite.astype(np.float64), np.where(finite, x, 0.0)
    between = np.zeros((len(group), x.shape[1]))
    present = np.zeros_like(between)
    for i in range(g):
        member = (group == i).astype(np.float64)
        n_i = member @ flat
        between += np.where(n_i > 0, (member @ filled) ** 2 / np.maximum(n_i, 1), 0.0)
        present += n_i > 0
    # The totals are the same in every shuffle: only the sums of squares between groups vary.
    n, total = flat.sum(axis=0), filled.sum(axis=0)
    squares = (filled**2).sum(axis=0) - total**2 / n
    between = np.maximum(between - total**2 / n, 0.0)
    within = np.maximum(squares - between, 0.0)
    df_between, df_within = present - 1, n - present
    usable = (df_between > 0) & (df_within > 0) & (squares > 0)
    exact = within <= ROUNDING * between  # nothing is left within groups but rounding
    f = np.where(exact, np.inf, (between / df_between) / (within / df_within))
    f = np.where(usable, f, np.nan)
    p = np.where(usable, special.fdtrc(df_between, df_within, f), np.nan)
    return f, np.where(usable, between / squares, np.nan), p
