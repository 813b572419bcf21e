"""Vocabulary statistics of many states, with one matrix product per state.

Knows matrices only: no model, no hooks. On a CPU, in float32, the vocabulary is walked in blocks by
compiled loops (`lens.blocks`); on a GPU, in float64, and where these loops cannot be used, a few
tokens are taken whole by PyTorch (`lens.plain`). Of `[state, batch, pos, vocab]` only the part at
hand ever exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from interp.errors import BadInput
from interp.geometry import at_least_float32
from interp.models.lens.best import Best, BestSoFar
from interp.models.lens.blocks import BlockLens, loops
from interp.models.lens.head import Head, LensStatistics
from interp.models.lens.plain import FAR, PlainLens


def lens_statistics(
    h: Tensor,
    head: Head,
    logits: Tensor,
    targets: Tensor,
    *,
    divergences: bool = True,
    prepare: Callable[[Tensor], Tensor] | None = None,
    best: int = 0,
    best_rows: Tensor | None = None,
) -> LensStatistics:
    """Statistics of every state against the model's own final distribution.

    Args:
        h: `[state, row, d_head]`, what the unembedding reads, for all states but the last.
        head: weights and transform of the unembedding.
        logits: `[row, vocab]`, the model's own; they are the last state.
        targets: `[row]` int64, -1 for none.
        divergences: compute KL, JS and TV, which need a second walk; NaN without.
        prepare: makes what the unembedding reads of `h`, which then is `[state, row, d_model]`; for
            a few rows at a time, so that no second copy of the stream is made.
        best: how many of the best tokens to keep; 0 for none.
        best_rows: of which rows, bool `[row]`; all unless given.
    Returns: statistics `[state + 1, row]`. Raises `BadInput` if the numbers of rows differ.
    """
    if h.shape[1] != len(logits) or len(targets) != len(logits):
        raise BadInput(
            f"lens: states have {h.shape[1]} rows, logits {len(logits)}, targets {len(targets)}; "
            "they must be equal"
        )
    lens, tokens = _lens(h, head, logits, divergences=divergences)
    # Nothing is looked up where nothing is wanted: on a GPU that would wait for the device.
    wanted = torch.ones_like(targets, dtype=torch.bool) if best_rows is None else best_rows
    parts = [
        _chunk(
            prepare(h[:, part]) if prepare else h[:, part],
            logits[part],
            targets[part],
            lens,
            divergences=divergences,
            best=best,
            best_tokens=wanted[part].nonzero().squeeze(-1) if best else targets[:0],
        )
        for part in (slice(i, i + tokens) for i in range(0, max(1, len(logits)), tokens))
    ]
    return joined(parts)


def _lens(
    h: Tensor, head: Head, logits: Tensor, *, divergences: bool
) -> tuple[BlockLens | PlainLens, int]:
    """Kernel that computes the statistics on this device, and its number of tokens at a time."""
    states, (rows, vocab) = len(h), logits.shape
    device, kinds = h.device.type, {at_least_float32(x[:0]).dtype for x in (h, logits)}
    compiled = loops() if device == "cpu" and kinds == {torch.float32} else None
    if compiled is None:
        tokens = PlainLens.tokens_at_a_time(states, vocab, device)
        return PlainLens(head, divergences=divergences, fuse=device != "cpu"), tokens
    # As equal as can be: the store is made for the widest chunk, so equal chunks waste none of it.
    most = BlockLens.tokens_at_a_time(states, vocab)
    tokens = max(1, -(-rows // max(1, -(-rows // most))))
    return BlockLens(head, states, tokens, compiled, divergences=divergences), tokens


def joined(parts: Sequence[LensStatistics]) -> LensStatistics:
    """Statistics of consecutive rows as one."""
    names = [f.name for f in fields(LensStatistics) if f.name != "best"]
    rows = {n: torch.cat([getattr(p, n) for p in parts], dim=1) for n in names}
    best = [p.best for p in parts if p.best is not None]
    return LensStatistics(**rows, best=Best.joined(best, 1) if best else None)


def _chunk(
    h: Tensor,
    logits: Tensor,
    targets: Tensor,
    lens: BlockLens | PlainLens,
    *,
    divergences: bool,
    best: int,
    best_tokens: Tensor,
) -> LensStatistics:
    """Statistics of a few tokens in all states at once."""
    best = min(best, logits.shape[-1])
    seen = BestSoFar(best_tokens, len(h), best) if len(best_tokens) else None
    # Rows without a target are computed as well and blanked below: sorting them out costs a copy.
    *rows, last = lens.statistics(h, logits, targets.clamp(min=0), seen)
    # Compared with itself the last state differs in nothing.
    far = 0.0 if divergences or not len(h) else torch.nan
    last |= dict.fromkeys(FAR, torch.full_like(last["log_prob"], far))
    kind = at_least_float32(logits[:0]).dtype
    whole: dict[str, Any] = {name: torch.cat([r[name] for r in (*rows, last)]) for name in last}
    whole = {n: v if n == "top_token" else v.to(kind) for n, v in whole.items()}
    for name in ("log_prob", "rank"):
        whole[name] = whole[name].masked_fill(targets < 0, torch.nan)
    agrees = whole["top_token"] == last["top_token"]
    if seen is None:
        return LensStatistics(agrees=agrees, **whole)
    of_end = Best.of(logits[None, best_tokens], best)
    every = Best.joined([seen.best(), of_end], 0) if len(h) else of_end
    return LensStatistics(agrees=agrees, best=every, **whole)
