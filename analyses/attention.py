"""Statistics of each head's attention: entropy, distance, scores of the well-known head types."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interp import Analysis, Batch, Examples, Leaf, PerHead, Plot


@dataclass(frozen=True)
class Attention(Analysis):
    """Statistics of every head's attention pattern, per query token.

    Question: where does each head look: far or near, at one token or at many, at the first token,
    the previous one, at copies of this token, or at what followed them? All are sums of the row
    A (keys), which sums to 1 unless the model has attention that goes nowhere (`row_sum`).
    Sources: Elhage et al. 2021, Olsson et al. 2209.11895 (induction), Xiao et al. 2309.17453
    (sink).

    Caveats: even attention over n keys has 1/n everywhere, so scores are larger in short prompts;
    `interp.experiments.head_types` puts that control beside them. A pattern says where a head
    looks, not what it moves.

    Attributes:
        maps: of so many prompts the whole pattern is kept for the maps.
    """

    maps: int = 2

    sites: ClassVar[tuple[str, ...]] = ("pattern",)
    least: ClassVar[Mapping[str, float]] = {"maps": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "entropy": "−Σ A log A over the keys; nats",
        "distance": "Σ A·(query position − key position): signed, so that left and right cancel in "
        "a model that reads both ways; tokens",
        "abs_distance": "Σ A·|query position − key position|, to either side; tokens",
        "sink": "attention on the first token",
        "previous": "attention on the token right before; NaN at the first token",
        "duplicate": "attention on earlier copies of this token; NaN where there is none",
        "induction": "attention on tokens that followed earlier copies of this one; NaN if none",
        "row_sum": "Σ A over the keys, 1 unless part of the attention goes elsewhere",
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "entropy": (0, math.inf),
        "abs_distance": (0, math.inf),
        "sink": (0, 1),
        "previous": (0, 1),
        "duplicate": (0, 1),
        "induction": (0, 1),
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "heatmap",
            ("induction", "previous"),
            "Head types: mean score",
            "attention",
            "a head that spreads its attention evenly over n tokens has 1/n everywhere, and all "
            "heads are alike.",
        ),
        Plot(
            "attention",
            ("pattern",),
            "Attention maps",
            "attention",
            "rows of one even tone, paler with every token, are heads that look everywhere alike.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, PerHead | Leaf]:
        pattern = batch["pattern"]
        pattern = pattern if pattern.dtype == torch.float64 else pattern.float()
        q, k = batch.positions, batch.key_mask.long().cumsum(1) - 1
        real = batch.key_mask[:, None, :]
        gap = torch.where(real, q[:, :, None] - k[:, None, :], 0)
        same = real & (batch.tokens[:, :, None] == batch.key_tokens[:, None, :]) & (gap > 0)
        same &= batch.tokens[:, :, None] >= 0  # ids that nobody knows are no copies
        # Key j follows a copy of this token if key j−1 is one.
        follows = torch.zeros_like(same)
        follows[:, :, 1:] = same[:, :, :-1] & (gap[:, :, 1:] >= 0) & real[:, :, 1:]
        out: dict[str, PerHead | Leaf] = {
            "entropy": PerHead(torch.special.entr(pattern).sum(-1)),
            "distance": PerHead(torch.einsum("bhqk,bqk->bhq", pattern, gap.to(pattern.dtype))),
            "abs_distance": PerHead(
                torch.einsum("bhqk,bqk->bhq", pattern, gap.abs().to(pattern.dtype))
            ),
            "sink": PerHead(_on(pattern, real & (k == 0)[:, None, :] & (gap >= 0))),
            "previous": PerHead(_on(pattern, real & (gap == 1))),
            "duplicate": PerHead(_on(pattern, same)),
            "induction": PerHead(_on(pattern, follows)),
            "row_sum": PerHead(pattern.sum(-1)),
        }
        if self.maps and pattern.shape[-1] == pattern.shape[-2]:
            out["pattern"] = Examples.of(self.maps, pattern, batch.ids, batch.mask, axes=(1, 2))
        return out


def _on(pattern: Tensor, keys: Tensor) -> Tensor:
    """Attention `[batch, head, query]` on chosen `keys [batch, query, key]`; NaN where none is."""
    total = torch.einsum("bhqk,bqk->bhq", pattern, keys.to(pattern.dtype))
    return total.masked_fill(~keys.any(-1)[:, None, :], torch.nan)
