"""Similarity of two sets of matched vectors, invariant to rotation.

Pure functions on NumPy float64 `[n, d]`; row i of both is the same word or token. Each measure
prepares a space once and then scores any pair under any order of the rows of the second, which
makes a permutation null cheap (`interp.stats.nulls`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import scipy

from interp._arrays import Floats, Ints
from interp.errors import BadInput, unknown
from interp.measures.matrices import matched, matrix, unit_rows, varying
from interp.stats.nulls import Null, permuted

Metric = Literal["cosine", "euclidean", "correlation"]
METRICS = ("cosine", "euclidean", "correlation")
SIMILARITIES = ("cka", "cka_biased", "rsa", "mutual_knn", "svcca")
LEAST = 4
"""Rows that the debiased estimator needs: it divides by n − 3."""

Prepared = Any


@dataclass(frozen=True)
class Measure:
    """A similarity in two steps.

    Attributes:
        name: as in `SIMILARITIES`.
        prepare: `[n, d]` to the quantities of one space that `score` needs.
        score: two prepared spaces and the order of the rows of the second `[n]` to a number.
    """

    name: str
    prepare: Callable[[Floats], Prepared]
    score: Callable[[Prepared, Prepared, Ints], float]

    def of(self, a: Any, b: Any) -> float:
        """The similarity of two matched spaces."""
        x, y = matched(a, b, least=LEAST)
        return self.score(self.prepare(x), self.prepare(y), np.arange(len(x)))


def measure(name: str, *, k: int = 10, metric: Metric = "cosine", kept: float = 0.99) -> Measure:
    """A similarity by its name; `k` for mutual k-NN, `metric` for RSA, `kept` for SVCCA.

    Raises `UnknownName`, with the nearest name, for a name or metric that does not exist.
    """
    known = {
        "cka": Measure("cka", _centred, partial(_cka, debiased=True)),
        "cka_biased": Measure("cka_biased", _centred, partial(_cka, debiased=False)),
        "rsa": Measure("rsa", partial(_dissimilarity_ranks, metric=metric), _rank_correlation),
        "mutual_knn": Measure("mutual_knn", partial(_neighbours, k=k), _overlap),
        "svcca": Measure("svcca", partial(_directions, kept=kept), _mean_correlation),
    }
    if name not in known:
        raise unknown("similarity", name, known)
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    return known[name]


def linear_cka(a: Any, b: Any, *, debiased: bool = True) -> float:
    """Centred kernel alignment with linear kernels, HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)).

    `a [n, d_a]`, `b [n, d_b]`. K = A Aᵀ, L = B Bᵀ. Biased: HSIC = ‖AᵀB‖²_F of centred A, B, in
    [0, 1] (Kornblith et al. 2019); unless n is far above d it is near 1 even for unrelated spaces.
    Debiased: the U-statistic HSIC_1, 0 on average for independent spaces and therefore sometimes
    negative (Song et al. 2012; Nguyen et al. 2021; Murphy et al. 2405.01012). Both are invariant to
    rotation, shift and scale of a space. NaN where the U-statistic of a space with itself is not
    above 0.

    Raises `BadInput` below 4 rows and for unmatched, constant or non-finite rows.

    >>> x = np.arange(12.0).reshape(6, 2) ** 2
    >>> round(float(linear_cka(x, 3 * x[:, ::-1] + 1)), 6)
    1.0
    """
    return measure("cka" if debiased else "cka_biased").of(a, b)


def rsa(a: Any, b: Any, *, metric: Metric = "cosine") -> float:
    """Representational similarity: Spearman of the two dissimilarity matrices, in [−1, 1].

    `a [n, d_a]`, `b [n, d_b]`; the dissimilarities of all n(n − 1)/2 pairs are ranked, ties get
    the mean rank. Source: Kriegeskorte, Mur & Bandettini, Front. Syst. Neurosci. 2 (2008). NaN if
    all pairs of a space are equally far apart.
    """
    return measure("rsa", metric=metric).of(a, b)


def mutual_knn(a: Any, b: Any, *, k: int = 10) -> float:
    """Mean share of the `k` nearest neighbours (by cosine) that both spaces have in common.

    `a [n, d_a]`, `b [n, d_b]`; in [0, 1], k / (n − 1) by chance. Neighbours at one distance count
    in the order of rows. Source: Huh et al. 2405.07987.

    Raises `BadInput` for `k` above n − 1.
    """
    return measure("mutual_knn", k=k).of(a, b)


def svcca(a: Any, b: Any, *, kept: float = 0.99) -> float:
    """Mean canonical correlation between the principal directions of two spaces, in [0, 1].

    Each space contributes as many leading directions as hold the share `kept` of its variance; the
    mean is over the smaller number. Unless n is far above that number it is large even for
    unrelated spaces: compare it with its null distribution. Source: Raghu et al. 2017.
    """
    return measure("svcca", kept=kept).of(a, b)


# ---- linear CKA ------------------------------------------------------------------------------


def _centred(x: Floats) -> Prepared:
    centred = varying(matrix(x, "a space", least=LEAST), "a space")
    # CKA does not depend on the scale; at 1 the fourth powers below cannot overflow.
    centred = centred / np.abs(centred).max()
    squares = (centred**2).sum(axis=1)
    own = {d: _self_hsic(centred, squares, d) for d in (True, False)}
    return centred, squares, own


def _self_hsic(x: Floats, squares: Floats, debiased: bool) -> float:
    # ‖XᵀX‖ and ‖XXᵀ‖ are equal: the smaller of both products is computed.
    cross = float(((x.T @ x if x.shape[1] <= len(x) else x @ x.T) ** 2).sum())
    if not debiased:
        return cross
    total = float(squares.sum())
    return float(hsic_1(len(x), cross, float((squares**2).sum()), total, total))


def _cka(a: Prepared, b: Prepared, order: Ints, *, debiased: bool) -> float:
    (x, square_x, own_x), (y, square_y, own_y) = a, b
    cross = float(((x.T @ y[order]) ** 2).sum())
    both = own_x[debiased] * own_y[debiased]
    if debiased:
        fourth = float(square_x @ square_y[order])
        cross = hsic_1(len(x), cross, fourth, float(square_x.sum()), float(square_y.sum()))
    return cross / np.sqrt(both) if own_x[debiased] > 0 and both > 0 else float("nan")


def hsic_1(n: Any, cross: Any, fourth: Any, total_a: Any, total_b: Any) -> Any:
    """n(n − 3) times the unbiased HSIC of Song et al. (2012), for linear kernels, from sums.

    About the mean of each space: `cross` = ‖Σ x yᵀ‖²_F, `fourth` = Σ ‖x‖²‖y‖², `total_a` = Σ ‖x‖²,
    `total_b` = Σ ‖y‖². The estimator tr(K̃L̃) + 1ᵀK̃1 1ᵀL̃1 / ((n−1)(n−2)) − 2/(n−2) 1ᵀK̃L̃1, K̃ being
    K without its diagonal, does not change when a space is shifted; about the means Σx = Σy = 0,
    so that 1ᵀK̃1 = −Σ‖x‖² and 1ᵀK̃L̃1 = Σ‖x‖²‖y‖². Works on numbers and on arrays.
    """
    return cross - fourth * n / (n - 2) + total_a * total_b / ((n - 1) * (n - 2))


# ---- RSA, neighbours, SVCCA ------------------------------------------------------------------


def _dissimilarity_ranks(x: Floats, *, metric: str) -> Prepared:
    rows = matrix(x, "a space", least=LEAST)
    varying(rows, "a space")
    if metric == "euclidean":
        distance = scipy.spatial.distance.pdist(rows, "euclidean")
    else:
        unit = unit_rows(rows if metric == "cosine" else rows - rows.mean(axis=1, keepdims=True))
        cosine = unit @ unit.T
        distance = 1 - cosine[np.triu_indices(len(rows), 1)]
    # Equal distances must tie, although rounding sets them apart.
    ranks = scipy.stats.rankdata(np.round(distance, 12))
    ranks -= ranks.mean()
    size = float(np.linalg.norm(ranks))
    return (
        scipy.spatial.distance.squareform(ranks / size)
        if size > 0
        else np.full((len(rows),) * 2, np.nan)
    )


def _rank_correlation(a: Prepared, b: Prepared, order: Ints) -> float:
    # The diagonal is 0 and every pair is there twice.
    return float(np.vdot(a, b[np.ix_(order, order)]) / 2)


def _neighbours(x: Floats, *, k: int) -> Prepared:
    rows = matrix(x, "a space", least=LEAST)
    varying(rows, "a space")
    n = len(rows)
    if not 1 <= k <= n - 1:
        raise BadInput(f"k is {k}; allowed is 1 to {n - 1}, the other words of a sample of {n}")
    unit = unit_rows(rows)
    # Rounded, so that equal cosines tie on every machine, and a stable sort, so that ties keep the
    # order of rows.
    cosine = np.round(unit @ unit.T, 12)
    np.fill_diagonal(cosine, -np.inf)
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    member = np.zeros((n, n), dtype=bool)
    np.put_along_axis(member, nearest, True, axis=1)
    return member, nearest


def _overlap(a: Prepared, b: Prepared, order: Ints) -> float:
    # One side as a mask, the other as indices: the overlap is a look-up, not a comparison of sets.
    member, nearest = a[0], b[1]
    # Row i is compared with row order[i] of b, whose neighbour j then stands in row place[j].
    place = np.argsort(order)
    return float(np.take_along_axis(member, place[nearest[order]], axis=1).mean())


def _directions(x: Floats, *, kept: float) -> Prepared:
    if not 0 < kept <= 1:
        raise BadInput(f"kept is {kept!r}; allowed is a share of the variance, 0 < kept ≤ 1")
    u, s, _ = np.linalg.svd(varying(matrix(x, "a space", least=LEAST), "a space"), False)
    share = np.cumsum(s**2) / (s**2).sum()
    return u[:, : int(np.searchsorted(share, kept - 1e-12) + 1)]


def _mean_correlation(a: Prepared, b: Prepared, order: Ints) -> float:
    # Both sides have orthonormal columns: the singular values are the canonical correlations.
    values = np.linalg.svd(a.T @ b[order], compute_uv=False)
    return float(np.clip(values, 0, 1).mean())


def similarity_null(
    spaces_a: Sequence[Any],
    spaces_b: Sequence[Any],
    measure: Measure,
    *,
    resamples: int = 200,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
) -> Null:
    """Similarity of every pair of spaces, with its null: `value [a, b]`, `draws [resamples, a, b]`.

    `spaces_a` and `spaces_b` are matrices `[n, d]` with matched rows, such as the layers of two
    models. One order serves all pairs of a draw, which preserves the correlation between pairs.
    """
    first = [measure.prepare(np.asarray(x, np.float64)) for x in spaces_a]
    second = [measure.prepare(np.asarray(x, np.float64)) for x in spaces_b]

    def score(order: Ints) -> Floats:
        return np.asarray([[measure.score(a, b, order) for b in second] for a in first])

    return permuted(score, len(spaces_a[0]), resamples=resamples, seed=seed, clusters=clusters)
