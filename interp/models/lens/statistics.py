"""Vocabulary statistics of many states, with one matrix product per state.

Knows matrices only: no model, no hooks. On a CPU, in float32, the vocabulary is walked in blocks by
compiled loops (`lens.blocks`); on a GPU, in float64, and where these loops cannot be used, a few
tokens are taken whole by PyTorch (`lens.plain`). Of `[state, batch, pos, vocab]` only the part at
hand ever exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.errors import BadInput
from interp.geometry import at_least_float32
from interp.models.lens.best import Best, BestSoFar
from interp.models.lens.blocks import BlockLens, loops
from interp.models.lens.ends import EndCheck
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
    end: Tensor | None = None,
    checked: Tensor | None = None,
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
        end, checked: the last state `[row, d]`, and of which rows, bool `[row]`, it is read like
            the others and compared with `logits`; of none unless given.
    Returns: statistics `[state + 1, row]`. Raises `BadInput` if the numbers of rows differ.
    """
    if h.shape[1] != len(logits) or len(targets) != len(logits):
        raise BadInput(
            f"lens: states have {h.shape[1]} rows, logits {len(logits)}, targets {len(targets)}; "
            "they must be equal"
        )
    prepare = prepare or _as_it_is
    lens, tokens = _lens(h, head, logits, checked, divergences=divergences)
    # Nothing is looked up where nothing is wanted: on a GPU that would wait for the device.
    wanted = torch.ones_like(targets, dtype=torch.bool) if best_rows is None else best_rows
    parts = [
        _chunk(
            prepare(h[:, part]),
            logits[part],
            targets[part],
            lens,
            divergences=divergences,
            best=best,
            best_tokens=wanted[part].nonzero().squeeze(-1) if best else targets[:0],
            check=_check(end, checked, logits, part, prepare),
        )
        for part in _parts(len(logits), tokens)
    ]
    return joined(parts)


def _as_it_is(h: Tensor) -> Tensor:
    return h


def _parts(rows: int, tokens: int) -> list[slice]:
    return [slice(i, i + tokens) for i in range(0, max(1, rows), tokens)]


def _check(
    end: Tensor | None,
    checked: Tensor | None,
    logits: Tensor,
    part: slice,
    prepare: Callable[[Tensor], Tensor],
) -> EndCheck | None:
    """The check of those tokens of a part that are to be checked."""
    if end is None or checked is None:
        return None
    some = checked[part].nonzero().squeeze(-1)
    return EndCheck(prepare(end[part][some]), logits[part][some])


def _lens(
    h: Tensor, head: Head, logits: Tensor, checked: Tensor | None, *, divergences: bool
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
    widest = 0 if checked is None else max(int(checked[p].sum()) for p in _parts(rows, tokens))
    lens = BlockLens(head, states, tokens, compiled, divergences=divergences, checked=widest)
    return lens, tokens


def joined(parts: Sequence[LensStatistics]) -> LensStatistics:
    """Statistics of consecutive rows as one."""
    rows = {n: torch.cat([getattr(p, n) for p in parts], dim=1) for n in LensStatistics.names()}
    best = [p.best for p in parts if p.best is not None]
    errors = [p.end_error for p in parts if p.end_error is not None]
    return LensStatistics(
        **rows,
        best=Best.joined(best, 1) if best else None,
        end_error=torch.cat(errors) if errors else None,
    )


def _chunk(
    h: Tensor,
    logits: Tensor,
    targets: Tensor,
    lens: BlockLens | PlainLens,
    *,
    divergences: bool,
    best: int,
    best_tokens: Tensor,
    check: EndCheck | None,
) -> LensStatistics:
    """Statistics of a few tokens in all states at once."""
    best = min(best, logits.shape[-1])
    seen = BestSoFar(best_tokens, len(h), best) if len(best_tokens) else None
    # Rows without a target are computed as well and blanked below: sorting them out costs a copy.
    *rows, last = lens.statistics(h, logits, targets.clamp(min=0), seen, check)
    # Compared with itself the last state differs in nothing.
    far = 0.0 if divergences or not len(h) else torch.nan
    last |= dict.fromkeys(FAR, torch.full_like(last["log_prob"], far))
    kind = at_least_float32(logits[:0]).dtype
    whole: dict[str, Any] = {name: torch.cat([r[name] for r in (*rows, last)]) for name in last}
    whole = {n: v if n == "top_token" else v.to(kind) for n, v in whole.items()}
    for name in ("log_prob", "rank"):
        whole[name] = whole[name].masked_fill(targets < 0, torch.nan)
    agrees = whole["top_token"] == last["top_token"]
    error = None if check is None else check.error()
    if seen is None:
        return LensStatistics(agrees=agrees, end_error=error, **whole)
    of_end = Best.of(logits[None, best_tokens], best)
    every = Best.joined([seen.best(), of_end], 0) if len(h) else of_end
    return LensStatistics(agrees=agrees, best=every, end_error=error, **whole)
