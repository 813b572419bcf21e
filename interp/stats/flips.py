"""Sign flips over pairs as sums that add up: the paired test for more pairs than memory holds.

Under the null hypothesis that the two members of a pair are exchangeable, each difference may have
either sign. The signs of a pair depend on the seed and the number of the pair only, so that sums of
flipped differences over parts of the pairs add up to those over all, in whatever parts they come.
Knows arrays of differences; nothing of what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from interp._arrays import Array, Floats
from interp.stats.classical import undefined_is_nan
from interp.stats.paired import FEWEST_PAIRS, within_range
from interp.stats.resampling import on_one_scale, p_values

_DRAW = 0x5EED  # keeps the signs apart from other draws with the same seed


class FlipTest(NamedTuple):
    """Paired t and p per column `[k]`: by sign flips, and family-wise over the columns."""

    t: Floats
    p: Floats
    p_max: Floats


def flip_signs(pairs: Sequence[int], resamples: int, seed: int = 0) -> Array:
    """Signs of each pair: float64 `[1 + resamples, pairs]`, of ±1; the first row is all 1.

    A pair has the same signs whichever other pairs are asked for.

    >>> both, one = flip_signs([3, 8], 100), flip_signs([8], 100)
    >>> bool((both[:, 1] == one[:, 0]).all()), both.shape
    (True, (101, 2))
    """
    out = np.empty((1 + resamples, len(pairs)))
    out[0] = 1.0
    for column, pair in enumerate(pairs):
        rng = np.random.default_rng([seed % (1 << 64), _DRAW, pair])
        bits = np.frombuffer(rng.bytes(-(-resamples // 8)), dtype=np.uint8)
        out[1:, column] = 2.0 * np.unpackbits(bits)[:resamples] - 1.0
    return out


@undefined_is_nan
def flip_test(n: Floats, mean: Floats, m2: Floats, flipped: Floats) -> FlipTest:
    """Tests of a mean difference from sums over pairs.

    t = mean / √(m2 / (n − 1) / n). For flipped signs the sum of squares q stays what it is, so that
    t* follows from the flipped sum s* alone: mean* = s*/n, m2* = q − n mean*². `p` counts the flips
    with |t*| ≥ |t|, `p_max` those whose largest t* of all columns is as large, as in
    `interp.stats.paired_profile`; both are (1 + count) / (1 + resamples). NaN where fewer than two
    pairs have a value and where all differences are 0.
    Source: Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010); Westfall & Young (1993).

    Args:
        n, mean, m2: `[k]` pairs with a value, their mean difference, and the sum of squared
            deviations from it.
        flipped: `[1 + resamples, k]` Σ sign · difference, as `flip_signs` gives the signs.

    >>> x = np.array([[1.0], [2.0], [1.5], [3.0], [2.5], [1.0]])
    >>> sums = flip_signs(range(6), 999) @ x
    >>> test = flip_test(np.full(1, 6.0), x.mean(0), ((x - x.mean(0)) ** 2).sum(0), sums)
    >>> bool(0.01 < test.p[0] < 0.06)  # 2 of the 64 ways are as large: 0.031
    True
    """
    squares = m2 + n * mean**2
    known = (n > 1) & (squares > 0)
    means = flipped / n
    spread = np.maximum(squares / n - means**2, 0.0)
    every = np.where(known, means * np.sqrt(n - 1) / np.sqrt(spread), np.nan)
    p, p_max, _ = p_values(every[0], every[1:], False, lambda t: on_one_scale(t, n - 1))
    t = np.where(known, mean / np.sqrt(m2 / (n - 1) / n), np.nan)
    return FlipTest(t, p, p_max)


@undefined_is_nan
def moment_band(
    n: Floats,
    mean: Floats,
    m2: Floats,
    low: float = -np.inf,
    high: float = np.inf,
    confidence: float = 0.95,
    fewest: int = FEWEST_PAIRS,
) -> tuple[Floats, Floats]:
    """Ends of the interval of `interp.stats.bounded_band` from moments: `[k]` each.

    >>> [x.round(3).item() for x in moment_band(np.array(4.0), np.array(2.0), np.array(3.0))]
    [0.409, 3.591]
    """
    half = scipy.stats.t.ppf((1 + confidence) / 2, n - 1) * np.sqrt(m2 / (n - 1) / n)
    bottom, top = (np.where(n >= fewest, x, np.nan) for x in within_range(mean, half, low, high))
    return bottom, top
