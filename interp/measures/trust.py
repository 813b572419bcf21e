"""Trustworthiness of a projection: whether neighbours in the picture are neighbours in space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp._arrays import Array, Floats, Ints
from interp.errors import BadInput
from interp.measures.spectrum import blocks


def trustworthiness(
    vectors: Array, points: Array, k: int = 12, *, sample: int = 2000, seed: int = 0
) -> float:
    """Trustworthiness of the k neighbours in a picture `points [n, 2]` of `vectors [n, d]`.

    1 − 2/(m·k(2n − 3k − 1)) Σ_i Σ_{j ∈ picture neighbours of i} max(0, rank(i, j) − k), over m
    of the points (all unless there are more than `sample`). 1 is faithful, 0.5 random. Source:
    Venna & Kaski, ICANN 2001. Raises `BadInput` unless k < n/2.
    """
    return trust_of_each(vectors, [points], k, sample=sample, seed=seed)[0]


def trust_of_each(
    vectors: Array, pictures: Sequence[Array], k: int = 12, *, sample: int = 2000, seed: int = 0
) -> list[float]:
    """`trustworthiness` of several pictures of the same vectors; their distances, computed once."""
    n = len(vectors)
    if not 0 < k < n / 2:
        raise BadInput(
            f"trustworthiness over {k} neighbours needs more than {2 * k} words, not {n}"
        )
    chosen = np.random.default_rng(seed).permutation(n)[:sample]
    penalty = np.zeros(len(pictures))
    # Pieces of at most ten million distances (80 MB in float64).
    for rows in np.array_split(chosen, -(-len(chosen) * n // 10_000_000)):
        far = _distances(vectors, rows)
        ordered = np.sort(far, axis=1)
        for i, points in enumerate(pictures):
            near = np.argpartition(_distances(points, rows), k - 1, axis=1)[:, :k]
            asked = np.take_along_axis(far, near, 1)
            # Only the ranks of k neighbours are needed: a search in the sorted row, not a full
            # ranking of n distances.
            rank = 1 + np.stack([o.searchsorted(a) for o, a in zip(ordered, asked, strict=True)])
            penalty[i] += float(np.maximum(rank - k, 0).sum())
    scaled = 2 * penalty / (len(chosen) * k * (2 * n - 3 * k - 1))
    return [float(1 - x) for x in scaled]


def _distances(vectors: Array, rows: Ints) -> Floats:
    """Squared distances of the chosen rows to all, infinite to themselves: `[m, n]`."""
    own = np.asarray(vectors[rows], np.float64)
    square = (own**2).sum(axis=1)[:, None]
    out = np.concatenate(
        [square + (b**2).sum(axis=1) - 2 * own @ b.T for b in blocks(vectors)], axis=1
    )
    out[np.arange(len(rows)), rows] = np.inf
    return out
