"""Vocabulary statistics of many states, with one matrix product per state.

Knows matrices only: no model, no hooks. The vocabulary is walked in blocks that stay in cache;
within a block everything is one fused softmax and a few reductions, across blocks the partial sums
are joined with their own log-sum-exp (the online softmax of Milakov & Gimelshein 2018). Only the
divergences that are not linear in the probabilities need a second walk, over stored probabilities
of a few hundred rows. `[state, batch, pos, vocab]` never exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from interp.errors import BadInput
from interp.geometry import at_least_float32

ROWS = 256
COLUMNS = 512
STORED_BYTES = 56 * 2**20
"""Rows and columns of a block, and the most bytes of stored probabilities. Of four shapes tried
with 50,257 tokens of width 768 on two x86 cores, 256 × 512 and 256 × 1,024 were the fastest."""

GPU_BYTES = 2 * 2**30
TINY = 1e-38
FORBIDDEN = -1e30


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

    def logits(self, h: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Logits `[row, stop − start]` of `h [row, d_head]`, for a range of the vocabulary."""
        part = slice(start, stop)
        return self._finish(h @ self.weight[part].to(h.dtype).T, part)

    def of_tokens(self, h: Tensor, tokens: Tensor) -> Tensor:
        """The logit of one token per row: `h [row, d_head]`, `tokens [row]` -> `[row]`.

        Taken from the diagonal of a small product, not from row-wise sums, so that it has the
        very bits of the large product and ties stay ties.
        """
        z = (h @ self.weight[tokens].to(h.dtype).T).diagonal()
        return self._finish(z, tokens)

    def _finish(self, z: Tensor, part: slice | Tensor) -> Tensor:
        if self.bias is not None:
            z = z + self.bias[part]
        return z if self.transform is None else self.transform(z)


def lens_statistics(
    h: Tensor, head: Head, logits: Tensor, targets: Tensor, *, divergences: bool = True
) -> LensStatistics:
    """Statistics of every state against the model's own final distribution.

    Args:
        h: `[state, row, d_head]`, what the unembedding reads, for all states but the last.
        head: weights and transform of the unembedding.
        logits: `[row, vocab]`, the model's own; they are the last state.
        targets: `[row]` int64, -1 for none.
        divergences: compute KL, JS and TV, which need a second walk; NaN without.
    Returns: statistics `[state + 1, row]`. Raises `BadInput` if the numbers of rows differ.
    """
    if h.shape[1] != len(logits) or len(targets) != len(logits):
        raise BadInput(
            f"lens: states have {h.shape[1]} rows, logits {len(logits)}, targets {len(targets)}; "
            "they must be equal"
        )
    most, columns = block_shape(logits)
    tokens = max(1, most // max(1, len(h)))
    store = None
    if divergences and len(h):
        # Made once for all chunks: touching fresh memory costs more than what is written to it.
        blocks, rows = -(-logits.shape[-1] // columns), len(h) * min(tokens, len(logits))
        store = at_least_float32(h[:0]).new_empty(blocks, rows, columns)
    parts = [
        _chunk(h[:, part], head, logits[part], targets[part], store)
        for part in (slice(i, i + tokens) for i in range(0, max(1, len(logits)), tokens))
    ]
    return joined(parts)


def joined(parts: Sequence[LensStatistics]) -> LensStatistics:
    """Statistics of consecutive rows as one."""
    names = [f.name for f in fields(LensStatistics)]
    return LensStatistics(**{n: torch.cat([getattr(p, n) for p in parts], dim=1) for n in names})


def block_shape(logits: Tensor) -> tuple[int, int]:
    """Rows and columns of a block for logits of this vocabulary on this device."""
    vocab = logits.shape[-1]
    if logits.is_cuda:  # one large block keeps a GPU busy; memory is the only limit there
        return max(1, GPU_BYTES // (4 * vocab)), vocab
    return max(1, min(ROWS, STORED_BYTES // (4 * vocab))), min(COLUMNS, vocab)


@dataclass(frozen=True, eq=False)
class _Final:
    """The final distribution of a few tokens: `p [row, vocab]`, entropy and statistics `[row]`."""

    p: Tensor
    entropy: Tensor
    log_prob: Tensor
    rank: Tensor
    top_token: Tensor
    top_prob: Tensor

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor) -> _Final:
        log_p = torch.log_softmax(at_least_float32(logits), dim=-1)
        p, index = log_p.exp(), targets.clamp(min=0).unsqueeze(-1)
        chosen = log_p.gather(-1, index)
        top = p.max(-1)
        rank = (log_p > chosen).sum(-1).to(p.dtype)
        entropy = torch.special.entr(p).sum(-1, dtype=torch.float64)
        return cls(p, entropy, chosen.squeeze(-1), rank, top.indices, top.values)


def _chunk(
    h: Tensor, head: Head, logits: Tensor, targets: Tensor, store: Tensor | None
) -> LensStatistics:
    """Statistics of a few tokens in all states at once; divergences if there is a store."""
    final = _Final.of(logits, targets)
    rows = [_final_row(final, store is not None or not len(h))]
    if len(h) and not len(targets):
        rows = [{name: value.expand(len(h) + 1, 0) for name, value in rows[0].items()}]
    elif len(h):
        flat = at_least_float32(h).reshape(-1, h.shape[-1])
        walk = _Walk(flat, head, final, targets.clamp(min=0).repeat(len(h)), len(h), store)
        rows.insert(0, walk.statistics())
    whole = {f.name: torch.cat([r[f.name] for r in rows]) for f in fields(LensStatistics)}
    for name in ("log_prob", "rank"):
        whole[name] = whole[name].masked_fill(targets < 0, torch.nan)
    return LensStatistics(**whole)


def _final_row(final: _Final, divergences: bool) -> dict[str, Tensor]:
    """The last state, `[1, row]`: compared with itself nothing differs."""
    zero = torch.zeros_like(final.log_prob)
    far = zero if divergences else torch.full_like(zero, torch.nan)
    row = {
        "log_prob": final.log_prob,
        "rank": final.rank,
        "entropy": final.entropy.to(zero.dtype),
        "kl_to_final": far,
        "js_to_final": far,
        "tv_to_final": far,
        "top_token": final.top_token,
        "top_prob": final.top_prob,
        "agrees": torch.ones_like(final.top_token, dtype=torch.bool),
    }
    return {name: value.unsqueeze(0) for name, value in row.items()}


def _divergence(kl: Tensor) -> Tensor:
    """KL is at least 0, and infinite where a state forbids what the final distribution says."""
    return torch.where(kl > -FORBIDDEN * 1e-20, torch.inf, kl.clamp(min=0))


class _Walk:
    """One walk over the vocabulary for the rows of `states` × a few tokens.

    Rows are ordered by state, then token. Buffers are made once: a fresh block of half a megabyte
    at every step costs more in page faults than the arithmetic done on it. Sums within a block are
    float32, across blocks float64.
    """

    def __init__(
        self,
        h: Tensor,
        head: Head,
        final: _Final,
        targets: Tensor,
        states: int,
        store: Tensor | None,
    ) -> None:
        self.h, self.head, self.final, self.states = h, head, final, states
        self.targets, self.target = targets, head.of_tokens(h, targets)
        self.vocab, self.columns = final.p.shape[-1], block_shape(final.p)[1]
        # Logits of −∞ (forbidden tokens) would make 0·∞ of every sum.
        bias = head.bias
        self.forbidden = head.transform is not None or (
            bias is not None and not bool(torch.isfinite(bias).all())
        )
        self.starts = range(0, self.vocab, self.columns)
        self.scratch = h.new_empty(len(h), self.columns)
        # Without divergences each block of probabilities overwrites the last one.
        self.keeps = store is not None
        self.stored = h.new_empty(1, len(h), self.columns) if store is None else store

    def _width(self, start: int) -> int:
        return min(self.columns, self.vocab - start)

    def _buffer(self, start: int) -> Tensor:
        """The scratch block, contiguous at the width of this block."""
        width = self._width(start)
        return self.scratch.view(-1)[: len(self.h) * width].view(-1, width)

    def _logits(self, start: int) -> Tensor:
        z = self.head.logits(self.h, start, start + self._width(start))
        return z.clamp(min=FORBIDDEN) if self.forbidden else z

    def _final_p(self, start: int) -> Tensor:
        """Final probabilities `[1, row, column]`, to broadcast over the states."""
        return self.final.p[:, start : start + self._width(start)].unsqueeze(0)

    def _by_state(self, x: Tensor) -> Tensor:
        return x.view(self.states, -1, x.shape[-1])

    def _place(self, block: int, start: int) -> Tensor:
        """Where the probabilities of a block go, contiguous at its width."""
        width = self._width(start)
        room = self.stored[block if self.keeps else 0].view(-1)
        return room[: len(self.h) * width].view(-1, width)

    def statistics(self) -> dict[str, Tensor]:
        """All statistics `[state, row]`."""
        sums = [self._first(*block) for block in enumerate(self.starts)]
        parts = (torch.stack(part, -1).double() for part in zip(*sums, strict=True))
        lse, own, cross, above, top = parts
        total = lse.logsumexp(-1)
        weight = (lse - total.unsqueeze(-1)).exp()
        entropy = (total - (weight * own).sum(-1)).clamp(min=0)
        out = {
            "log_prob": self.target.double() - total,
            "rank": above.sum(-1),
            "entropy": entropy,
            "kl_to_final": _divergence(total - cross.sum(-1) - self._final_entropy()),
            "top_prob": (top.amax(-1) - total).exp(),
        }
        out |= self._divergences(weight, entropy) if self.keeps else self._none(entropy)
        shaped = {name: v.to(self.h.dtype).view(self.states, -1) for name, v in out.items()}
        token = self._top_tokens(top.argmax(-1)).view(self.states, -1)
        return shaped | {"top_token": token, "agrees": token == self.final.top_token}

    def _final_entropy(self) -> Tensor:
        return self.final.entropy.repeat(self.states)

    def _first(self, block: int, start: int) -> tuple[Tensor, ...]:
        """Sums of one block `[row]`: log-sum-exp, Σp·z, Σq·z, logits above the target, maximum."""
        z, scratch = self._logits(start), self._buffer(start)
        p = torch.softmax(z, dim=-1, out=self._place(block, start))
        top = z.amax(-1)
        lse = top - p.amax(-1).log()
        own = torch.mul(p, z, out=scratch).sum(-1)
        if self.keeps:
            by_state = self._by_state(scratch)
            cross = torch.mul(self._by_state(z), self._final_p(start), out=by_state).sum(-1)
        else:
            cross = torch.full_like(own, torch.nan)
        target = self.target.clamp(min=FORBIDDEN).unsqueeze(-1)
        above = torch.gt(z, target, out=scratch).sum(-1)
        # The product of one column may differ in its last bit from that of many.
        inside = (self.targets >= start) & (self.targets < start + z.shape[-1])
        at = (self.targets - start).clamp(0, z.shape[-1] - 1).unsqueeze(-1)
        above -= torch.where(inside, scratch.gather(-1, at).squeeze(-1), 0)
        return lse, own, cross.view(-1), above, top

    def _divergences(self, weight: Tensor, entropy: Tensor) -> dict[str, Tensor]:
        """JS and TV from the stored probabilities.

        With s = p + q, JS = ln 2 − ½(H(p) + H(q) + Σ s ln s), and TV = 1 − Σ min(p, q).
        """
        mixed, common = torch.zeros_like(entropy), torch.zeros_like(entropy)
        weight = weight.to(self.h.dtype)
        for block, start in enumerate(self.starts):
            q, scratch = self._final_p(start), self._by_state(self._buffer(start))
            p = self._by_state(self._place(block, start).mul_(weight[:, block : block + 1]))
            common += torch.minimum(p, q, out=scratch).sum(-1).view(-1)
            s = p.add_(q).clamp_(min=TINY)
            mixed += torch.log(s, out=scratch).mul_(s).sum(-1).view(-1)
        js = math.log(2) - (entropy + self._final_entropy() + mixed) / 2
        return {"js_to_final": js.clamp(0, math.log(2)), "tv_to_final": (1 - common).clamp(min=0)}

    def _none(self, like: Tensor) -> dict[str, Tensor]:
        nothing = torch.full_like(like, torch.nan)
        return {"kl_to_final": nothing, "js_to_final": nothing, "tv_to_final": nothing}

    def _top_tokens(self, best: Tensor) -> Tensor:
        """The most probable token of each row, found again in its best block only."""
        token = torch.empty_like(best)
        for block in torch.unique(best).tolist():
            rows, start = best == block, self.starts[block]
            z = self.head.logits(self.h[rows], start, start + self._width(start))
            token[rows] = z.argmax(-1) + start
        return token
