"""The last state read like the others, to compare with the model's own logits."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.geometry import at_least_float32


class EndCheck:
    """How far logits of some tokens' last states are from the model's own, block by block.

    Attributes:
        h: `[token, d_head]`, what the unembedding reads of the last states.
        logits: `[token, vocab]`, the model's own.
    """

    def __init__(self, h: Tensor, logits: Tensor) -> None:
        self.h, self.logits = at_least_float32(h), at_least_float32(logits)
        self.difference = self.logits.new_zeros(len(logits))

    def take(self, z: Tensor, first: int = 0) -> None:
        """Takes the logits `[token, column]` of a block that begins at column `first`."""
        reference = self.logits[:, first : first + z.shape[1]]
        # Tokens that both rule out with -inf differ by nothing, and have no size.
        apart = torch.where(z == reference, 0.0, (z - reference).abs()).amax(-1)
        self.difference = torch.maximum(self.difference, apart)  # NaN wins

    def error(self) -> Tensor:
        """Largest difference so far, relative to the largest logit: `[token]`."""
        size = torch.where(self.logits.isinf(), 0.0, self.logits.abs()).amax(-1)
        return self.difference / size.clamp(min=1e-30)
