"""Attention rolled out over the blocks: a product of mixing matrices, and its control.

Pure functions of one prompt's patterns. Source: Abnar & Zuidema, "Quantifying Attention Flow in
Transformers" (ACL 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp._arrays import Array, Floats


def attention_rollout(
    patterns: Sequence[Array], residual: float = 0.5, *, uniform: bool = False
) -> Floats:
    """Share of each token's state that comes from each position, up to and with each block.

    Ã_l = r·I + (1 − r)·Ā_l with rows scaled to a sum of 1, Ā the mean over the heads, and
    R_l = Ã_l R_{l−1}; MLPs and values count as mixing nothing.

    Args:
        patterns: `[head, query, key]` of every block, in order.
        residual: weight r of the residual connection.
        uniform: take even attention over the allowed keys in place of Ā; the control.

    Returns `[block, query, key]` in float64; rows sum to 1.

    >>> attention_rollout([np.asarray([[[1.0, 0.0], [0.5, 0.5]]])]).tolist()
    [[[1.0, 0.0], [0.25, 0.75]]]
    """
    # In float64: rounding adds up over the product of all blocks.
    total = np.eye(patterns[0].shape[-1])
    out = []
    for pattern in patterns:
        mean = even_attention(pattern) if uniform else np.asarray(pattern, np.float64).mean(axis=0)
        mixed = residual * np.eye(len(mean)) + (1 - residual) * mean
        mixed /= mixed.sum(axis=-1, keepdims=True)
        total = mixed @ total
        out.append(total)
    return np.stack(out)


def even_attention(pattern: Array) -> Floats:
    """Even weights over the allowed keys `[query, key]`: the whole row if any head looks ahead."""
    n = pattern.shape[-1]
    ahead = bool((np.triu(pattern.max(axis=0), 1) > 0).any())
    allowed = np.ones((n, n)) if ahead else np.tri(n)
    return np.asarray(allowed / allowed.sum(axis=-1, keepdims=True), np.float64)
