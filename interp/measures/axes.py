"""Linear semantic axes: the mean difference of two word sets, and how well it separates others."""

from __future__ import annotations

import numpy as np

from interp._arrays import Array, Floats, Ints
from interp.errors import BadInput
from interp.measures.spectrum import units
from interp.stats.nulls import permuted


def axis_separation(
    positive: Array, negative: Array, *, permutations: int = 999, seed: int = 0
) -> tuple[float, float, float]:
    """Separation of held-out words by the axis between two word sets `[n, d]`, `[m, d]`.

    Returns the leave-one-out AUC (the probability that a left-out positive word projects higher
    than a left-out negative one), its mean with words assigned to the sides at random, and the
    one-sided permutation p. Compare the AUC with that mean, not with ½: leaving words out makes
    the AUC under the null hypothesis less than ½.

    Raises `BadInput` for a set of fewer than two words or fewer than one permutation.
    """
    words = np.concatenate([units(positive), units(negative)])
    n = len(positive)
    if min(n, len(negative)) < 2:
        raise BadInput("an axis needs two words or more at both ends")

    def score(order: Ints) -> float:
        return _auc(words[order[:n]], words[order[n:]])

    # One-sided: only an AUC above its null shows that the axis holds for other words.
    null = permuted(score, len(words), resamples=permutations, seed=seed)
    return float(null.value), float(null.mean), float(null.p)


def _auc(positive: Floats, negative: Floats) -> float:
    # Each side is projected on the axis that points to it, so the negative words change their sign.
    a, b = left_out(positive, negative), -left_out(negative, positive)
    return float((a[:, None] > b).mean() + (a[:, None] == b).mean() / 2)


def axis_of(positive: Floats, negative: Floats) -> Floats:
    """The unit axis `[d]` from the mean of the negative to the mean of the positive vectors."""
    return np.asarray(units(positive.mean(axis=0) - negative.mean(axis=0)))


def left_out(own: Floats, other: Floats) -> Floats:
    """Cosine of each own word with the axis from `other` to the mean of the rest: `[n]`."""
    rest = (own.sum(axis=0) - own) / (len(own) - 1)
    return np.asarray((own * units(rest - other.mean(axis=0))).sum(axis=1))
