"""Retrieval of a mapped word's own word among all targets: ranks and precision@k.

Pure functions on NumPy float64. Similarities are cosines, computed in blocks of queries; the matrix
of all against all never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from interp._arrays import Floats, Ints
from interp.errors import BadInput, unknown
from interp.measures.matrices import matrix, unit_rows

Scoring = Literal["cosine", "csls", "inverted_softmax"]
SCORINGS = ("cosine", "csls", "inverted_softmax")
BLOCK = 4_000_000
"""Similarities held at once: 32 MB in float64."""


def ranks(
    queries: Any,
    targets: Any,
    truth: Any,
    *,
    scoring: Scoring = "cosine",
    sources: Any = None,
    k: int = 10,
    beta: float = 30.0,
    block: int = BLOCK,
) -> Ints:
    """Rank of each query's own word among all targets, 0 = nearest: `[n]`.

    `queries [n, d]` are mapped words, `targets [m, d]` the other space, `truth [n]` the row of
    each query's word in `targets`. A tie counts against the query. The scores of target y for
    query x, over `sources [s, d]` (all mapped words; the queries unless given):

    - "cosine": cos(x, y).
    - "csls": 2 cos(x, y) − r_T(x) − r_S(y), r_T the mean cosine of x with its `k` nearest targets
      and r_S that of y with its `k` nearest sources, which penalises hubs, near to everything
      (Conneau et al. 2018).
    - "inverted_softmax": β cos(x, y) − log Σ_s exp(β cos(s, y)), a softmax over sources instead
      of targets (Smith et al. 2017); `beta` is 1/temperature.

    Raises `BadInput` for shapes that do not match and for `k` above the number of rows,
    `UnknownName` for another scoring.

    >>> eye = np.eye(3)
    >>> ranks(eye[[2, 0]], eye, [2, 1]).tolist()  # the second query is sent to the wrong word
    [0, 2]
    """
    x, y = unit_rows(matrix(queries, "queries")), unit_rows(matrix(targets, "targets"))
    s = x if sources is None else unit_rows(matrix(sources, "sources"))
    own = np.asarray(truth, dtype=np.int64)
    _check(x, y, s, own)
    hub = _hubness(scoring, y, s, k, beta, block)
    out = np.empty(len(x), dtype=np.int64)
    for rows in _blocks(len(x), len(y), block):
        # r_T(x) is the same for all targets of a query, so it does not change any rank.
        score = x[rows] @ y.T - hub
        reached = score[np.arange(len(score)), own[rows]][:, None]
        # Ties within rounding count against the query, or a constant space would score perfectly;
        # the own word ties with itself, hence − 1.
        out[rows] = (score >= reached - 1e-12).sum(axis=1) - 1
    return out


def csls(queries: Any, targets: Any, *, sources: Any = None, k: int = 10) -> Floats:
    """The whole CSLS matrix `[n, m]`, for small spaces and for reading; see `ranks`."""
    x, y = unit_rows(matrix(queries, "queries")), unit_rows(matrix(targets, "targets"))
    s = x if sources is None else unit_rows(matrix(sources, "sources"))
    near_targets = mean_nearest(x, y, k)
    scores: Floats = 2 * x @ y.T - near_targets[:, None] - mean_nearest(y, s, k)
    return scores


def mean_nearest(rows: Floats, others: Floats, k: int, *, block: int = BLOCK) -> Floats:
    """Mean cosine of each unit row with its `k` nearest among `others`: `[n, d], [m, d] -> [n]`."""
    if not 1 <= k <= len(others):
        raise BadInput(f"k is {k}; allowed is 1 to {len(others)}, the number of words to look in")
    out = np.empty(len(rows))
    for part in _blocks(len(rows), len(others), block):
        cosines = rows[part] @ others.T
        out[part] = np.partition(cosines, -k, axis=1)[:, -k:].mean(axis=1)
    return out


def precision(found: Ints, at: int) -> float:
    """Share of queries whose own word is among the `at` nearest.

    >>> precision(np.array([0, 3, 1]), 2)
    0.6666666666666666
    """
    return float((found < at).mean())


def _hubness(scoring: str, y: Floats, s: Floats, k: int, beta: float, block: int) -> Any:
    """Penalty subtracted from the cosine of every target, for all queries: `[m]`, or 0."""
    # Each scoring is divided by the factor of its cosine, which changes no rank.
    penalties: dict[str, Callable[[], Any]] = {
        "cosine": lambda: 0.0,
        "csls": lambda: mean_nearest(y, s, k, block=block) / 2,
        "inverted_softmax": lambda: _log_sum_exp(y, s, beta, block) / beta,
    }
    if scoring not in penalties:
        raise unknown("scoring", scoring, SCORINGS)
    return penalties[scoring]()


def _log_sum_exp(rows: Floats, others: Floats, beta: float, block: int) -> Floats:
    if not beta > 0:
        raise BadInput(f"beta is {beta!r}; allowed is a number above 0, such as 30")
    out = np.empty(len(rows))
    for part in _blocks(len(rows), len(others), block):
        # Cosines are at most 1, so nothing overflows.
        out[part] = beta + np.log(np.exp(beta * (rows[part] @ others.T - 1)).sum(axis=1))
    return out


def _blocks(rows: int, columns: int, block: int) -> Iterator[slice]:
    size = max(1, block // max(columns, 1))
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))


def _check(x: Floats, y: Floats, s: Floats, own: Ints) -> None:
    if not x.shape[1] == y.shape[1] == s.shape[1]:
        raise BadInput(
            f"queries are {x.shape[1]} wide, targets {y.shape[1]} and sources {s.shape[1]}; "
            "they must lie in one space"
        )
    if own.shape != (len(x),) or (own < 0).any() or (own >= len(y)).any():
        raise BadInput(
            f"truth must name one of {len(y)} targets for each of {len(x)} queries, "
            f"got shape {own.shape}"
        )
