"""The best tokens of some rows, taken from logits while they are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.geometry import at_least_float32

BLOCK = 128
"""Columns among which the largest is found at a time."""


@dataclass(frozen=True, eq=False)
class Best:
    """The `k` best tokens, at most all, of some rows in every state; the best first.

    Attributes:
        logits: `[state, row, k]`.
        tokens: their ids.
    """

    logits: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, logits: Tensor, k: int) -> Best:
        """Those of whole rows of logits `[state, row, vocab]`."""
        return cls(*largest(at_least_float32(logits), k))

    @classmethod
    def joined(cls, parts: Sequence[Best], dim: int) -> Best:
        """Those of several states (`dim` 0) or of consecutive rows (`dim` 1) as one."""
        logits, tokens = [b.logits for b in parts], [b.tokens for b in parts]
        return cls(torch.cat(logits, dim), torch.cat(tokens, dim))


class BestSoFar:
    """The best of rows that come by token, then state, with the vocabulary in one or more blocks.

    Attributes:
        rows: numbers of the rows that are looked at, `[wanted row]`.
        logits, tokens: the best so far, `[wanted row, k]`; filled from outside.
    """

    def __init__(self, tokens: Tensor, states: int, k: int) -> None:
        """`tokens`: numbers of the tokens that are looked at, in all `states`."""
        rows = tokens.unsqueeze(-1) * states + torch.arange(states, device=tokens.device)
        self.rows, self.states = rows.flatten(), states
        self.logits = torch.full(
            (len(self.rows), k), -torch.inf, device=tokens.device, dtype=torch.float32
        )
        self.tokens = self.rows.new_zeros(len(self.rows), k)

    def take(self, z: Tensor) -> None:
        """Takes the logits `[row, vocab]` of all rows and the whole vocabulary."""
        wanted = at_least_float32(z[self.rows])
        self.logits, self.tokens = largest(wanted, self.logits.shape[-1])

    def best(self) -> Best:
        """What was found, by state."""
        shape = (-1, self.states, self.logits.shape[-1])
        return Best(*(x.view(shape).transpose(0, 1) for x in (self.logits, self.tokens)))


def largest(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest entries of the last axis, falling, and their places; at most all.

    `torch.topk`, but first the k blocks of columns that hold the largest maxima are found: no
    other block can hold one of the k, and to look through all of a vocabulary takes longer.

    >>> values, places = largest(torch.tensor([1.0, 5.0, 3.0]), 2)
    >>> values.tolist(), places.tolist()
    ([5.0, 3.0], [1, 2])
    """
    n = z.shape[-1]
    k, whole = min(k, n), n - n % BLOCK
    if whole < 2 * k * BLOCK or z.device.type != "cpu":
        whole_sort = z.topk(k, dim=-1)
        return whole_sort.values, whole_sort.indices
    heads = z[..., :whole].view(*z.shape[:-1], whole // BLOCK, BLOCK).amax(-1)
    blocks = heads.topk(k, dim=-1).indices.unsqueeze(-1) * BLOCK
    inside = (blocks + torch.arange(BLOCK, device=z.device)).flatten(-2)
    rest = torch.arange(whole, n, device=z.device).expand(*z.shape[:-1], -1)
    columns = torch.cat([inside, rest], dim=-1)
    values, places = z.gather(-1, columns).topk(k, dim=-1)
    return values, columns.gather(-1, places)
