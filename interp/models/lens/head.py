"""The readout head of the lens: norm, unembedding and output transform as one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields

import torch
from torch import Tensor

from interp.geometry import at_least_float32
from interp.models.lens.best import Best

FORBIDDEN = -1e30
"""Stands for a logit of −∞ (a forbidden token), which would make 0·∞ of every sum."""


def reason(error: Exception) -> str:
    """Kind and first line of an error, for a warning."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason').splitlines()[0]}"


@dataclass(frozen=True, eq=False)
class LensStatistics:
    """Statistics of the lens per state and token; every field but `best` is `[state, row]`.

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
        best: the best tokens of the rows for which they were wanted, `[state, wanted row, k]`.
        end_error: of the rows that were to be checked, how far the last state's logits are from the
            model's own, relative to the largest, `[checked row]`.
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
    best: Best | None = None
    end_error: Tensor | None = None

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The fields that have a number per state and token."""
        return tuple(f.name for f in fields(cls) if f.default is MISSING)


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
            # The sum is kept in float32: rounding logits to bfloat16 makes ties and moves ranks.
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
