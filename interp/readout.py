"""From residual vectors to vocabulary statistics, through the model's own final norm and head.

A `Readout` is a path that was found to reproduce the model's logits (`interp.anatomy` finds it).
Statistics are accumulated over blocks of rows, so that `[layer, batch, pos, vocab]` never exists.
Knows nothing of hooks and tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from interp.errors import BadInput, Unsupported
from interp.geometry import at_least_float32

ROW_BYTES = 32 * 2**20
"""Logits held at a time, in bytes; several buffers of this size exist during a lens."""


def _same(z: Tensor) -> Tensor:
    return z


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
class Readout:
    """A path from a residual vector to logits: z = T(N(x) W_U + b_U).

    Attributes:
        path: the path in words, for people.
        normalise: N, from `[..., d_model]` to `[..., d_head]`, statistics recomputed for each row.
        weight: W_U transposed, `[vocab, d_head]`.
        bias: b_U `[vocab]` or None.
        transform: T, elementwise on logits (soft cap, scale).
        error: identity error measured when the path was chosen, relative to the largest logit.
        tolerance: the largest identity error that still counts as reproducing the model.
    """

    path: str
    normalise: Callable[[Tensor], Tensor]
    weight: Tensor
    bias: Tensor | None = None
    transform: Callable[[Tensor], Tensor] = _same
    error: float = 0.0
    tolerance: float = 1e-4

    def logits(self, x: Tensor) -> Tensor:
        """Logits of residual vectors: `[..., d_model] -> [..., vocab]`, float32 at least."""
        return self._project(self.normalise(x))

    def linear(self, h: Tensor) -> Tensor:
        """W_U h + b_U of vectors after the norm, before T: `[..., d_head] -> [..., vocab]`."""
        h, weight = at_least_float32(h), at_least_float32(self.weight)
        z = torch.nn.functional.linear(h, weight.to(h.dtype))
        if self.bias is not None:
            z += self.bias
        return z

    def _project(self, h: Tensor) -> Tensor:
        return self.transform(self.linear(h))

    def identity_error(self, x: Tensor, logits: Tensor) -> Tensor:
        """Largest difference from the model's own logits, relative to their largest size.

        Args: `x [row, d_model]` of the final state, `logits [row, vocab]`. Returns `[row]`.
        """
        reference = at_least_float32(logits)
        z = self.logits(x)
        # Tokens that both rule out with -inf differ by nothing, and have no size.
        difference = torch.where(z == reference, 0.0, (z - reference).abs()).amax(-1)
        size = torch.where(reference.isinf(), 0.0, reference.abs()).amax(-1)
        return difference / size.clamp(min=1e-30)

    def check(self, x: Tensor, logits: Tensor) -> Tensor:
        """Identity error per row; raises `Unsupported` where it exceeds the tolerance."""
        error = self.identity_error(x, logits)
        if not bool((error <= self.tolerance).all()):
            raise Unsupported(
                f"the readout {self.path} no longer gives the model's own logits: relative error "
                f"{error.max().item():.2g}, allowed {self.tolerance:.0e}; a hook after the last "
                "block, or changed weights, would do that"
            )
        return error

    def lens(self, stream: Tensor, logits: Tensor, targets: Tensor) -> LensStatistics:
        """Lens statistics of every state against the model's own final distribution.

        Args:
            stream: `[state, row, d_model]`; the last state is the final one. It is not projected:
                its logits are the model's own.
            logits: `[row, vocab]`, the model's logits for the same rows.
            targets: `[row]` int64, -1 for none.
        Returns: statistics `[state, row]`.
        """
        if stream.shape[1] != len(logits) or len(targets) != len(logits):
            raise BadInput(
                f"lens: stream has {stream.shape[1]} rows, logits {len(logits)}, "
                f"targets {len(targets)}; they must be equal"
            )
        rows = max(1, ROW_BYTES // (4 * logits.shape[-1]))
        blocks = [
            self._lens_block(stream[:, i : i + rows], logits[i : i + rows], targets[i : i + rows])
            for i in range(0, max(len(logits), 1), rows)
        ]
        joined = {
            f.name: torch.cat([getattr(b, f.name) for b in blocks], 1)
            for f in fields(LensStatistics)
        }
        return LensStatistics(**joined)

    def _lens_block(self, stream: Tensor, logits: Tensor, targets: Tensor) -> LensStatistics:
        final = Distribution.of(at_least_float32(logits))
        states = [_compare(Distribution.of(self.logits(x)), final, targets) for x in stream[:-1]]
        states.append(_compare(final, final, targets))
        stacked = {
            f.name: torch.stack([getattr(s, f.name) for s in states])
            for f in fields(LensStatistics)
        }
        return LensStatistics(**stacked)

    def top(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The `k` best tokens, at most all: `[..., d_model] -> (probabilities, ids) [..., k]`."""
        log_probs = torch.log_softmax(self.logits(x), dim=-1)
        best = log_probs.topk(min(k, log_probs.shape[-1]), dim=-1)
        return best.values.exp(), best.indices


@dataclass(frozen=True, eq=False)
class Distribution:
    """Rows of logits with their log-probabilities and probabilities, all `[row, vocab]`."""

    logits: Tensor
    log_p: Tensor
    p: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Distribution:
        log_p = torch.log_softmax(logits, dim=-1)
        return cls(logits, log_p, log_p.exp())

    def entropy(self) -> Tensor:
        """Entropy in nats `[row]`; a token of probability 0 contributes 0."""
        total: Tensor = torch.special.entr(self.p).sum(-1)
        return total


def _compare(state: Distribution, final: Distribution, targets: Tensor) -> LensStatistics:
    has_target = targets >= 0
    index = targets.clamp(min=0).unsqueeze(-1)
    log_prob = state.log_p.gather(-1, index).squeeze(-1)
    rank = (state.logits > state.logits.gather(-1, index)).sum(-1).to(log_prob.dtype)
    top = state.p.max(-1)
    middle = (state.p + final.p) / 2
    entropy, final_entropy = state.entropy(), final.entropy()
    nothing = torch.full_like(log_prob, torch.nan)
    return LensStatistics(
        log_prob=torch.where(has_target, log_prob, nothing),
        rank=torch.where(has_target, rank, nothing),
        entropy=entropy,
        # Both are at least 0; what falls below is rounding. 0·log 0 counts as 0.
        kl_to_final=torch.where(final.p > 0, final.p * (final.log_p - state.log_p), 0.0)
        .sum(-1)
        .clamp(min=0),
        js_to_final=(torch.special.entr(middle).sum(-1) - (entropy + final_entropy) / 2).clamp(
            min=0
        ),
        tv_to_final=(state.p - final.p).abs().sum(-1) / 2,
        top_token=top.indices,
        top_prob=top.values,
        agrees=top.indices == final.p.argmax(-1),
    )
