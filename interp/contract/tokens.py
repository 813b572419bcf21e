"""The token record: the tokens of one batch or pass, and which of them are real.

Prompts are cut into it, a pass is described by it, and an analysis reads it as part of its `Batch`.
Knows tensors; knows nothing of tokenizers or models.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

PER_TOKEN = ("tokens", "mask", "special", "positions", "targets", "contrasts")
"""Fields with one value per token of the batch; the others are per prompt or per key."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Prompts as one rectangle `[batch, pos]`, padded where they differ in length.

    Attributes:
        tokens: `[batch, pos]` int64 token ids; -1 where a model was given embeddings.
        mask: `[batch, pos]` bool, true for real tokens.
        special: `[batch, pos]` bool, true for BOS and the like; false at padding.
        ids: `[batch]` int64, the prompt's number in the whole run.
        positions: `[batch, pos]` int64, the token's position in its prompt (padding not counted).
        targets: `[batch, pos]` int64, the next token unless the caller gave others; -1 for none.
        key_tokens, key_mask: `[batch, key]`, the tokens that can be attended to: the same as
            `tokens` and `mask`, but with a KV cache also those of earlier passes (-1 if unknown).
        contrasts: `[batch, pos]` int64, a second answer that the target is compared with, -1 for
            none; None where the caller gave none (`against=`).
    """

    tokens: Tensor
    mask: Tensor
    special: Tensor
    ids: Tensor
    positions: Tensor
    targets: Tensor
    key_tokens: Tensor
    key_mask: Tensor
    contrasts: Tensor | None = field(default=None, kw_only=True)

    @classmethod
    def whole(
        cls,
        tokens: Tensor,
        mask: Tensor,
        special: Tensor,
        ids: Tensor,
        positions: Tensor,
        targets: Tensor,
        contrasts: Tensor | None = None,
    ) -> Tokens:
        """Tokens of prompts with nothing before them: their keys are the tokens themselves."""
        parts = (tokens, mask, special, ids, positions, targets, tokens, mask)
        return Tokens(*parts, contrasts=contrasts)

    @classmethod
    def none(cls) -> Tokens:
        """The tokens of no prompt."""
        empty = torch.zeros(0, 0, dtype=torch.int64, device="cpu")
        real = empty.bool()
        return cls.whole(empty, real, real, empty[:, 0:0].reshape(0), empty, empty)

    def tensors(self) -> dict[str, Tensor]:
        """The fields of this record by name, without those that are None or a subclass's own."""
        found = {f.name: getattr(self, f.name) for f in fields(Tokens)}
        return {name: x for name, x in found.items() if x is not None}

    def answered(self, targets: Any = None, contrasts: Any = None) -> Self:
        """The same with other answers at every real token: ids, one or `[batch]`; None keeps."""
        given = {"targets": targets, "contrasts": contrasts}
        spread = {n: self._spread(x) for n, x in given.items() if x is not None}
        return replace(self, **spread)

    def _spread(self, ids: Any) -> Tensor:
        rows = torch.as_tensor(ids, device=self.tokens.device).reshape(-1, 1)
        return torch.where(self.mask, rows, -1)

    def to(self, device: Any) -> Tokens:
        """The same on another device."""
        return Tokens(**{name: x.to(device) for name, x in self.tensors().items()})

    def columns(self, index: Any) -> Self:
        """The tokens in some columns; all of their keys stay, for they are still attended to."""
        return replace(self, **{name: x[:, index] for name, x in self._per_token().items()})

    def _per_token(self) -> dict[str, Tensor]:
        return {name: x for name, x in self.tensors().items() if name in PER_TOKEN}

    def row(self, number: int) -> Tokens:
        """One prompt `[1, pos]` without its padding, with nothing before it."""
        real = self.mask[number]
        one = slice(number, number + 1)
        parts = {name: x[one, real] for name, x in self._per_token().items()}
        return Tokens.whole(ids=self.ids[number : number + 1], **parts)
