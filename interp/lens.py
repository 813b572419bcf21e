"""Vocabulary statistics of many states, with one matrix product per state.

Knows matrices only: no model, no hooks. On a CPU the vocabulary is walked in blocks that stay in
cache (`interp._lens_blocks`), on a GPU a few tokens are taken whole by a fused function
(`interp._lens_fused`), whose plain form runs anywhere. Of `[state, batch, pos, vocab]` only the
part at hand ever exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from interp._lens_blocks import BlockLens
from interp._lens_fused import FAR, FusedLens
from interp.errors import BadInput
from interp.geometry import at_least_float32


@dataclass(frozen=True, eq=False)
class LensStatistics:
    """What the lens says per state and token; every field `[state, row]`.

    Attributes:
        log_prob: natural log of the target's probability; NaN where there is no target.
        rank: number of tokens with a larger logit than the target, 0 = best; NaN without target.
        entropy: entropy of the distribution in nats.
        kl_to_final: KL(final ‖ state) in nats.
        js_to_final: Jensen–Shannon divergence to the final distribution in nats, at most ln 2.
        tv_to_final: total variation ½Σ|p−q|, at most 1.
        top_token: id of the most probable token.
        top_prob: its probability.
        agrees: whether it is also the final distribution's.
    """

    log_prob: Tensor
    rank: Tensor
    entropy: Tensor
    kl_to_final: Tensor
    js_to_final: Tensor
    tv_to_final: Tensor
    top_token: Tensor
    top_prob: Tensor
    agrees: Tensor


@dataclass(frozen=True, eq=False)
class Head:
    """The linear end of a readout: z = T(h Wᵀ + b).

    Attributes:
        weight: `[vocab, d_head]`.
        bias: `[vocab]` or None.
        transform: T, elementwise; None for the identity.
    """

    weight: Tensor
    bias: Tensor | None = None
    transform: Callable[[Tensor], Tensor] | None = None

    def logits(
        self, h: Tensor, start: int = 0, stop: int | None = None, out: Tensor | None = None
    ) -> Tensor:
        """Logits `[row, stop − start]` of `h [row, d_head]`, for a range of the vocabulary.

        They are written to `out` if it is given. On a GPU a half-precision product is summed up
        and returned in float32; elsewhere the weights are taken to the type of `h`.
        """
        part = slice(start, stop)
        weight = self.weight[part].T
        if h.is_cuda and h.dtype == weight.dtype and h.dtype != at_least_float32(h[:0]).dtype:
            z = torch.mm(h, weight, out_dtype=torch.float32)
        else:
            z = torch.mm(h, weight.to(h.dtype), out=out)
        finished = self._finish(z, part)
        return finished if out is None or finished is out else out.copy_(finished)

    def of_tokens(self, h: Tensor, tokens: Tensor) -> Tensor:
        """The logit of one token per row: `h [row, d_head]`, `tokens [row]` -> `[row]`.

        Taken from the diagonal of a small product, not from row-wise sums, so that it has the
        very bits of the large product and ties stay ties.
        """
        z = (h @ self.weight[tokens].to(h.dtype).T).diagonal()
        return self._finish(z, tokens)

    def _finish(self, z: Tensor, part: slice | Tensor) -> Tensor:
        if self.bias is not None:
            z += self.bias[part]
        return z if self.transform is None else self.transform(z)


def lens_statistics(
    h: Tensor,
    head: Head,
    logits: Tensor,
    targets: Tensor,
    *,
    divergences: bool = True,
    prepare: Callable[[Tensor], Tensor] | None = None,
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
    Returns: statistics `[state + 1, row]`. Raises `BadInput` if the numbers of rows differ.
    """
    if h.shape[1] != len(logits) or len(targets) != len(logits):
        raise BadInput(
            f"lens: states have {h.shape[1]} rows, logits {len(logits)}, targets {len(targets)}; "
            "they must be equal"
        )
    lens, tokens = _lens(h, head, logits, divergences=divergences)
    parts = [
        _chunk(
            prepare(h[:, part]) if prepare else h[:, part],
            logits[part],
            targets[part],
            lens,
            divergences=divergences,
        )
        for part in (slice(i, i + tokens) for i in range(0, max(1, len(logits)), tokens))
    ]
    return joined(parts)


def _lens(
    h: Tensor, head: Head, logits: Tensor, *, divergences: bool
) -> tuple[BlockLens | FusedLens, int]:
    """What computes the statistics on this device, and how many tokens it takes at a time."""
    states, (rows, vocab) = len(h), logits.shape
    if h.device.type != "cpu":
        return FusedLens(head, divergences=divergences), FusedLens.tokens_at_a_time(states, vocab)
    # As equal as can be, and no wider than there are tokens.
    most = BlockLens.tokens_at_a_time(states, vocab)
    tokens = max(1, -(-rows // max(1, -(-rows // most))))
    like = at_least_float32(h[:0])
    return BlockLens(head, states, tokens, like, divergences=divergences), tokens


def joined(parts: Sequence[LensStatistics]) -> LensStatistics:
    """Statistics of consecutive rows as one."""
    names = [f.name for f in fields(LensStatistics)]
    return LensStatistics(**{n: torch.cat([getattr(p, n) for p in parts], dim=1) for n in names})


def _chunk(
    h: Tensor,
    logits: Tensor,
    targets: Tensor,
    lens: BlockLens | FusedLens,
    *,
    divergences: bool,
) -> LensStatistics:
    """Statistics of a few tokens in all states at once."""
    *rows, last = lens.statistics(h, logits, targets.clamp(min=0))
    # Compared with itself the last state differs in nothing.
    far = 0.0 if divergences or not len(h) else torch.nan
    last |= dict.fromkeys(FAR, torch.full_like(last["log_prob"], far))
    kind = at_least_float32(logits[:0]).dtype
    whole = {name: torch.cat([r[name] for r in (*rows, last)]) for name in last}
    whole = {n: v if n == "top_token" else v.to(kind) for n, v in whole.items()}
    for name in ("log_prob", "rank"):
        whole[name] = whole[name].masked_fill(targets < 0, torch.nan)
    return LensStatistics(agrees=whole["top_token"] == last["top_token"], **whole)
