"""Dependence of a head's attention on distance: sums per offset, and the variance they explain.

Pure functions of one prompt's patterns or scores. The sums add up over prompts; the null
expectation, with the keys shuffled within each row, follows in closed form from the same sums.
Knows nothing of models, batches or tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interp._arrays import Floats
from interp.stats.resampling import jackknife

PARTS = ("pairs", "sum", "squares", "row_means", "row_variances")


def offset_sums(
    values: Tensor, allowed: Tensor, start: int, max_offset: int, *, centre: bool = False
) -> Tensor:
    """Sums over the pairs of one prompt that lie `offset` apart: `[5, head, 2·max_offset + 1]`.

    Args:
        values: `[head, query, key]`; entries that are not allowed may hold anything.
        allowed: bool, `[query, key]` or `[head, query, key]`: the pairs that count.
        start: position of the first query; keys start at position 0.
        max_offset: pairs further apart do not count.
        centre: subtract the mean over the counted keys from each row first.

    Returns the number of pairs, Σx, Σx², and over the rows that have a key at this offset the sum
    of row means and of row variances; offsets run from −max_offset to max_offset, in float64.
    """
    offset = _offsets(values, start)
    keep = (allowed & (offset.abs() <= max_offset)).expand(values.shape)
    # float64 and masked before any product: scores that are not allowed may be −inf, and 0 · inf is
    # NaN.
    x = values.double().masked_fill(~keep, 0.0)
    n = keep.sum(-1, keepdim=True).clamp(min=1)
    mean = x.sum(-1, keepdim=True) / n
    deviation = (x - mean).masked_fill(~keep, 0.0)
    variance = deviation.square().sum(-1, keepdim=True) / n
    if centre:
        x, mean = deviation, torch.zeros_like(mean)
    ones = keep.double()
    parts = (ones, x, x.square(), ones * mean, ones * variance)
    return torch.stack([_along_offsets(part, start, max_offset) for part in parts])


def _offsets(values: Tensor, start: int) -> Tensor:
    queries = torch.arange(values.shape[-2], device=values.device) + start
    return queries[:, None] - torch.arange(values.shape[-1], device=values.device)


def _along_offsets(x: Tensor, start: int, max_offset: int) -> Tensor:
    """Sum over pairs that lie equally far apart: `[head, query, key] -> [head, 2·max + 1]`.

    Keys are reversed and each row is padded by as many zeros as there are queries. Reshaped to
    rows that are one shorter, row i is shifted by i places, which aligns equal offsets in columns.
    """
    # A reshape instead of a scatter: atomic additions on a GPU would not be reproducible.
    heads, q, k = x.shape
    padded = torch.cat([x.flip(-1), x.new_zeros(heads, q, q)], dim=-1).reshape(heads, -1)
    totals = padded[:, : q * (q + k - 1)].reshape(heads, q, q + k - 1).sum(1)
    out = x.new_zeros(heads, 2 * max_offset + 1)
    offsets = torch.arange(q + k - 1, device=x.device) + start - (k - 1)
    near = offsets.abs() <= max_offset
    out[:, offsets[near] + max_offset] = totals[:, near]
    return out


@dataclass(frozen=True, eq=False)
class OffsetProfile:
    """Means per offset, and the share of the variance between pairs that they explain.

    Attributes:
        offsets: query position − key position, those that occur, `[offset]`.
        pairs: number of pairs, `[head, offset]`.
        mean, std: over these pairs, `[head, offset]`.
        share: variance of the means over the variance of all pairs (η²), `[head]`; NaN without
            variance.
        shuffled: expectation of `share` if the keys of every row were shuffled, `[head]`: the
            baseline of a head without a preference for any offset.
    """

    offsets: npt.NDArray[np.int64]
    pairs: Floats
    mean: Floats
    std: Floats
    share: Floats
    shuffled: Floats


def share_interval(sums: Floats, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Interval of the share that offsets explain, `low`, `high` `[head]`, within 0 … 1.

    `sums` are those of `offset_sums` in groups of whole prompts, `[group, 5, head, offset]`, with
    about equally many prompts per group. The interval is that of `interp.stats.resampling`'s
    `jackknife`, which leaves out one group at a time; NaN where fewer than two groups have pairs.
    """
    used = sums[sums[:, 0].sum(axis=(1, 2)) > 0]
    g, whole = len(used), sums.sum(axis=0)
    share = offset_profile(whole).share
    if g < 2:
        return np.full_like(share, np.nan), np.full_like(share, np.nan)
    left_out = np.stack([offset_profile(whole - group).share for group in used])
    low, high = jackknife(share, left_out, confidence)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def offset_profile(sums: Floats) -> OffsetProfile:
    """The profile of sums `[5, head, 2·max_offset + 1]` from `offset_sums`.

    η² = Σ_o n_o (m_o − m)² / Σ (x − m)². Shuffling the keys within a row changes neither m nor the
    total. At offset o each row then contributes one value drawn from the row: m_o has the mean of
    the row means and the variance Σ σ²_row / n_o² over the rows that reach o. Hence
    E Σ_o n_o (m_o − m)² = Σ_o n_o (E m_o − m)² + Σ_o Σ_rows σ²_row / n_o, without any draws.
    """
    # Offsets that never occur would be 0 / 0 for every head.
    some = sums[0].sum(axis=0) > 0
    pairs, total, squares, means, variances = sums[:, :, some]
    width = sums.shape[2] // 2
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, expected = total / pairs, means / pairs
        grand = (total.sum(axis=1) / pairs.sum(axis=1))[:, None]
        spread = squares.sum(axis=1) - pairs.sum(axis=1) * grand[:, 0] ** 2
        # A variance this small relative to the squares is rounding of the subtraction.
        spread = np.where(spread > 1e-12 * squares.sum(axis=1), spread, np.nan)
        between = np.nansum(pairs * (mean - grand) ** 2, axis=1)
        chance = np.nansum(pairs * (expected - grand) ** 2 + variances / pairs, axis=1)
        std = np.sqrt(np.maximum(squares / pairs - mean**2, 0.0))
    offsets = np.flatnonzero(some) - width
    return OffsetProfile(offsets, pairs, mean, std, between / spread, chance / spread)
