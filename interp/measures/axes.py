"""Linear semantic axes: the mean difference of two word sets, and how well it separates others."""

from __future__ import annotations

import numpy as np

from interp._arrays import Array, Floats
from interp.errors import BadInput
from interp.measures.spectrum import units


def axis_separation(
    positive: Array, negative: Array, *, permutations: int = 999, seed: int = 0
) -> tuple[float, float, float]:
    """Does the axis between two word sets `[n, d]`, `[m, d]` separate words it was not made of?

    Returns the leave-one-out AUC (the probability that a left-out positive word projects higher
    than a left-out negative one), its mean when words are dealt to the sides at random, and the
    permutation p, one-sided: the share of deals with at least this AUC. Leaving words out makes
    the AUC under the null less than ½, so the mean of the null, not ½, is what to compare with.
    """
    words = np.concatenate([units(positive), units(negative)])
    n, random = len(positive), np.random.default_rng(seed)
    if min(n, len(negative)) < 2:
        raise BadInput("an axis needs two words or more at both ends")
    seen = _auc(words[:n], words[n:])
    null = []
    for _ in range(permutations):
        dealt = words[random.permutation(len(words))]
        null.append(_auc(dealt[:n], dealt[n:]))
    p = (1 + sum(x >= seen - 1e-12 for x in null)) / (1 + permutations)
    return seen, float(np.mean(null)), p


def _auc(positive: Floats, negative: Floats) -> float:
    a, b = left_out(positive, negative), -left_out(negative, positive)
    return float((a[:, None] > b).mean() + (a[:, None] == b).mean() / 2)


def axis_of(positive: Floats, negative: Floats) -> Floats:
    return np.asarray(units(positive.mean(axis=0) - negative.mean(axis=0)))


def left_out(own: Floats, other: Floats) -> Floats:
    """Cosine of each own word with the axis from `other` to the mean of the rest: `[n]`."""
    rest = (own.sum(axis=0) - own) / (len(own) - 1)
    return np.asarray((own * units(rest - other.mean(axis=0))).sum(axis=1))
