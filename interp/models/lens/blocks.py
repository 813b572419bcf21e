"""The lens on a CPU: the vocabulary in blocks that stay in cache, two walks over them.

Knows matrices only. The first walk multiplies, and takes from every block what can be summed: its
largest logit, Σe, Σe·z and Σq·z with e = exp(z − largest), the logits above the target. Blocks are
joined with their own log-sum-exp (the online softmax of Milakov & Gimelshein 2018), within a block
in float32, across blocks in float64. JS and TV are not linear in the probabilities and need the
whole sum first: the second walk goes over the stored e. `[state, batch, pos, vocab]` never exists.

Rows are ordered by token, then state. Everything is written to buffers that are made once: fresh
memory costs more in page faults than the arithmetic that is done on it. Threads share every
operation, so that each finds its own rows in its own cache; blocks dealt out to threads of Python
would wait for each other at the interpreter between all operations, which measured slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.geometry import at_least_float32

if TYPE_CHECKING:
    from interp.models.lens.head import Head


ROWS = 512
PART = 64
COLUMNS = 2048
"""Rows and columns of a product, and rows of it that a thread works on at a time: the product wants
large blocks, what follows wants what it works on in a core's cache of 1 to 2 MB."""

STORED_BYTES = 112 * 2**20
"""The most bytes of stored e; fewer rows at a time where the vocabulary is large."""

TINY = torch.finfo(torch.float32).tiny
"""Least probability of the final distribution, so that its logarithm is a number; still a normal
one, because arithmetic with smaller ones is slow."""

FORBIDDEN = -1e30
"""Stands for a logit of −∞ (a forbidden token), which would make 0·∞ of every sum."""

_KEPT: ContextVar[dict[torch.dtype, Tensor] | None] = ContextVar("kept memory", default=None)

Fill = Callable[[int, Tensor], object]
NAMES = ("top", "mass", "own", "cross", "above", "common", "mixed")


def _shaped(flat: Tensor, rows: int, width: int) -> Tensor:
    """The head of a flat buffer as a contiguous `[rows, width]`."""
    return flat[: rows * width].view(rows, width)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Uses the same store in all calls inside, and lets go of it at the end.

    The system clears pages before it hands them out, which for a store of 100 MB can take as long
    as a tenth of the lens of a batch.
    """
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def _memory(size: int, like: Tensor) -> Tensor:
    """An empty flat store, kept where `kept_memory` is open."""
    kept = _KEPT.get()
    have = None if kept is None else kept.get(like.dtype)
    if have is None or len(have) < size:
        if kept is not None:
            kept.pop(like.dtype, None)  # never two at a time
        have = like.new_empty(size)
        if kept is not None:
            kept[like.dtype] = have
    return have[:size]


class _Dot:
    """Σ over columns of `a` × `b` into `out`; `room`, of the same shape, may be overwritten.

    On one thread NumPy's, which reads everything once. With several it would fetch into one core
    what lies in the caches of all: there PyTorch's product and sum, shared as all else is.
    """

    def __init__(self, a: Tensor, b: Tensor, room: Tensor, out: Tensor) -> None:
        self.a, self.b, self.room, self.out = a, b, room, out
        self.a_, self.b_, self.out_ = a.numpy(), b.numpy(), out.numpy()

    def __call__(self, *, alone: bool) -> None:
        if alone:
            np.vecdot(self.a_, self.b_, out=self.out_)
        else:
            torch.mul(self.a, self.b, out=self.room)
            torch.sum(self.room, -1, out=self.out)


class _Piece:
    """Views of the part of one block that is worked on at a time, made once for all chunks.

    A view costs a microsecond or two, and a piece needs some twenty: with as many pieces as a walk
    has, that is a few per cent of the product.

    Args:
        start: the block's first token.
        sums: each sum of this block, `[row of the part]`.
        leading: largest logit of the blocks so far, and whose it is, `[row of the part]` each.
        z, first, second: buffers `[row, column]`; `e` what is stored, the same as `first` if
            nothing is.
        q: the final probabilities of the part's tokens, `[token, column]`, to compare with.
        alone: there is one thread.
    """

    def __init__(
        self,
        start: int,
        sums: dict[str, Tensor],
        leading: tuple[Tensor, Tensor],
        buffers: tuple[Tensor, Tensor, Tensor, Tensor],
        q: Tensor | None,
        *,
        alone: bool,
    ) -> None:
        self.start, self.alone, self.compares = start, alone, q is not None
        self.z, self.first, self.second, self.e = buffers
        self.z_, self.top_ = self.z.numpy(), sums["top"].numpy()
        self.leading_, self.best_ = (x.numpy() for x in leading)
        self.above, self.top, self.mass, self.common = (
            sums[name] for name in ("above", "top", "mass", "common")
        )
        self.below = self.top.unsqueeze(-1)
        self.own = _Dot(self.e, self.z, self.z, sums["own"])
        self.mixed = _Dot(self.first, self.second, self.second, sums["mixed"])
        if q is not None:
            shape = len(q), -1, q.shape[-1]
            self.first3, self.second3 = self.first.view(shape), self.second.view(shape)
            self.q = q.unsqueeze(1)
            by_token, cross = self.z.view(shape), sums["cross"].view(len(q), -1)
            self.cross = _Dot(by_token, self.q, self.second3, cross)

    def add_up(self, target: Tensor) -> None:
        """The sums of the first walk, for `target [row, 1]`; leaves e."""
        # Where e will be: one buffer fewer to fetch into the cache.
        torch.gt(self.z, target, out=self.e)
        torch.sum(self.e, -1, out=self.above)
        torch.amax(self.z, -1, out=self.top)
        self.lead()
        if self.compares:
            self.cross(alone=self.alone)
        self.z.sub_(self.below)
        torch.exp(self.z, out=self.e)
        torch.sum(self.e, -1, out=self.mass)
        self.own(alone=self.alone)

    def lead(self) -> None:
        """Finds the largest logit, only in rows where this block has a larger one than before."""
        if self.start == 0:
            self.leading_[:], self.best_[:] = -np.inf, 0
        # Few rows after the first blocks: the maximum of many blocks is found early.
        ahead = np.flatnonzero(self.top_ > self.leading_)
        if len(ahead):
            self.leading_[ahead] = self.top_[ahead]
            self.best_[ahead] = self.start + self.z_[ahead].argmax(-1)

    def compare(self, weight: Tensor) -> None:
        """Σ min(p, q), and Σ s ln s with s = p + q; p is e times `weight [row, 1]`."""
        torch.mul(self.e, weight, out=self.first)
        torch.minimum(self.first3, self.q, out=self.second3)
        torch.sum(self.second, -1, out=self.common)
        self.first3.add_(self.q)
        torch.log(self.first, out=self.second)
        self.mixed(alone=self.alone)


class _Plan:
    """Buffers for chunks of a given number of tokens: sums `[block, row]`, and pieces.

    Args:
        lens: whose buffers are used.
        tokens: how many; `states`, how many rows each has.
        store: `[block, …]` for e, or None.
        q: the plan whose store holds the final probabilities, or None.
    """

    def __init__(
        self, lens: BlockLens, tokens: int, states: int, store: Tensor | None, q: _Plan | None
    ) -> None:
        self.lens, self.rows, self.states = lens, tokens * states, states
        self.store, self.q = store, q
        shape = len(lens.spans), self.rows
        self.sums = {name: lens.product.new_zeros(shape) for name in NAMES}
        self.leading = self.sums["top"].new_empty(self.rows)
        self.best = torch.zeros(self.rows, dtype=torch.int64, device="cpu")
        group = max(1, lens.part // states)
        groups = [slice(i, min(i + group, tokens)) for i in range(0, tokens, group)]
        self.parts = [slice(g.start * states, g.stop * states) for g in groups]
        self.products = [self.shaped(lens.product, block) for block in range(shape[0])]
        self.pieces = [
            [self._piece(block, *both) for both in zip(groups, self.parts, strict=True)]
            for block in range(shape[0])
        ]

    def shaped(self, flat: Tensor, block: int) -> Tensor:
        """The head of a buffer as `[row, column]` of a block, contiguous."""
        span = self.lens.spans[block]
        return _shaped(flat, self.rows, span.stop - span.start)

    def _piece(self, block: int, tokens: slice, rows: slice) -> _Piece:
        z = self.products[block][rows]
        first, second = (_shaped(x, *z.shape) for x in self.lens.scratch)
        e = first if self.store is None else self.shaped(self.store[block], block)[rows]
        sums = {name: value[block, rows] for name, value in self.sums.items()}
        q = None
        if self.q is not None and self.q.store is not None:
            q = self.q.shaped(self.q.store[block], block)[tokens]
        leading, start = (self.leading[rows], self.best[rows]), self.lens.spans[block].start
        return _Piece(start, sums, leading, (z, first, second, e), q, alone=self.lens.alone)


class BlockLens:
    """Statistics of `states` × tokens, for a few tokens at a time.

    Args:
        head: the linear end of the readout.
        states: number of states, the final one not counted.
        tokens: the most tokens that will come at a time.
        like: a tensor of the type to compute in, float32 or float64, on the CPU.
        divergences: make the second walk, for JS and TV.
    """

    def __init__(
        self, head: Head, states: int, tokens: int, like: Tensor, *, divergences: bool
    ) -> None:
        self.head, self.states, self.keeps = head, states, divergences and states > 0
        self.vocab = len(head.weight)
        columns = min(COLUMNS, self.vocab)
        starts = range(0, self.vocab, columns)
        self.spans = [slice(i, min(i + columns, self.vocab)) for i in starts]
        threads = torch.get_num_threads()
        self.part, self.alone = PART * threads, threads == 1
        rows = max(1, states) * tokens
        self.product = like.new_empty(rows * columns)
        self.scratch = like.new_empty(2, min(rows, max(self.part, states)) * columns)
        self.stores = self._stores([tokens * columns, rows * columns], like)
        bias = head.bias
        self.forbids = head.transform is not None or (
            bias is not None and not bool(torch.isfinite(bias).all())
        )
        self._plans: dict[int, tuple[_Plan, _Plan | None]] = {}

    def _stores(self, sizes: list[int], like: Tensor) -> list[Tensor] | list[None]:
        if not self.keeps:
            return [None, None]
        n = len(self.spans)
        parts = _memory(n * sum(sizes), like).split_with_sizes([n * size for size in sizes])
        return [part.view(n, -1) for part in parts]

    @classmethod
    def tokens_at_a_time(cls, states: int, vocab: int) -> int:
        """Number of tokens that fit into one walk."""
        rows = min(ROWS, STORED_BYTES // (4 * vocab))
        return max(1, rows // max(1, states))

    def statistics(self, h: Tensor, logits: Tensor, targets: Tensor) -> list[dict[str, Tensor]]:
        """All statistics of the states, `[state, token]` each, if there are any, and of the end.

        Args: `h [state, token, d_head]`, `logits [token, vocab]`, `targets [token]`, none negative.
        """
        plan, states = self._planned(len(logits))
        blocks = range(len(self.spans))
        target = logits.gather(1, targets[:, None])[:, 0]
        final = _Walk(plan, self._copier(logits), target, targets)
        for block in blocks:
            final.first(block)
        last = final.joined()
        if states is None:
            return [_by_state(last, 1)]
        for block in blocks:
            final.normalise(block)
        rows = at_least_float32(h.transpose(0, 1).reshape(-1, h.shape[-1]))
        wanted = targets.repeat_interleave(self.states)
        walk = _Walk(states, self._multiplier(rows), self._targets(rows, wanted), wanted)
        for block in blocks:
            walk.first(block)
        out = walk.joined()
        if self.keeps:
            for block in blocks:
                walk.second(block)
            out |= walk.divergences(out["entropy"], last["entropy"].repeat_interleave(self.states))
        return [_by_state(out, self.states), _by_state(last, 1)]

    def _planned(self, tokens: int) -> tuple[_Plan, _Plan | None]:
        if tokens not in self._plans:
            final = _Plan(self, tokens, 1, self.stores[0], None)
            several = (
                _Plan(self, tokens, self.states, self.stores[1], final) if self.states else None
            )
            self._plans[tokens] = final, several
        return self._plans[tokens]

    def _copier(self, logits: Tensor) -> Fill:
        return lambda block, z: z.copy_(logits[:, self.spans[block]]).clamp_(min=FORBIDDEN)

    def _multiplier(self, h: Tensor) -> Fill:
        def fill(block: int, z: Tensor) -> None:
            span = self.spans[block]
            self.head.logits(h, span.start, span.stop, out=z)
            if self.forbids:
                z.clamp_(min=FORBIDDEN)

        return fill

    def _targets(self, h: Tensor, targets: Tensor) -> Tensor:
        """Logits of the targets, from small products of a few rows each: `[row]`."""
        few = [slice(i, i + 64) for i in range(0, max(1, len(h)), 64)]
        return torch.cat([self.head.of_tokens(h[rows], targets[rows]) for rows in few])


def _by_state(rows: dict[str, Tensor], states: int) -> dict[str, Tensor]:
    return {name: value.view(-1, states).T for name, value in rows.items()}


class _Walk:
    """Two walks for a few tokens.

    Args:
        plan: where things go.
        fill: writes the logits of a block, `[row, column]`.
        target: logit of the target `[row]`; `targets`, which token that is.
    """

    def __init__(self, plan: _Plan, fill: Fill, target: Tensor, targets: Tensor) -> None:
        self.plan, self.fill, self.targets = plan, fill, targets
        self.target = at_least_float32(target).clamp(min=FORBIDDEN)
        self.thresholds = [self.target[part].unsqueeze(-1) for part in plan.parts]
        self.order, self.owned = self._owned()
        self.taken = [self.target[:0]] * len(self.owned)
        self.weight = self.total = self.target[:0]

    def _owned(self) -> tuple[Tensor, Sequence[Tensor]]:
        """Rows in the order of their targets, and by block where these lie in its product."""
        spans = self.plan.lens.spans
        columns, vocab = spans[0].stop, spans[-1].stop
        order = torch.argsort(self.targets)
        block, column = self.targets[order] // columns, self.targets[order] % columns
        width = (vocab - block * columns).clamp(max=columns)
        counts = torch.bincount(block, minlength=len(spans)).tolist()
        return order, (order * width + column).split_with_sizes(counts)

    def first(self, block: int) -> None:
        """Fills a block with logits and adds up all that is a sum."""
        z = self.plan.products[block]
        self.fill(block, z)
        # A product of one column may differ in its last bit from that of many: ties need these.
        self.taken[block] = torch.take(z, self.owned[block])
        for piece, target in zip(self.plan.pieces[block], self.thresholds, strict=True):
            piece.add_up(target)

    def second(self, block: int) -> None:
        """Sum what needs normalised probabilities."""
        weight = self.weight[block]
        for piece, rows in zip(self.plan.pieces[block], self.plan.parts, strict=True):
            piece.compare(weight[rows])

    def normalise(self, block: int) -> None:
        """Turns the stored e into probabilities."""
        if self.plan.store is not None:
            stored = self.plan.shaped(self.plan.store[block], block)
            stored.mul_(self.weight[block]).clamp_(min=TINY)

    def joined(self) -> dict[str, Tensor]:
        """Everything but the divergences, `[row]`; sets the weight of every block."""
        top, mass, own = (self.plan.sums[name].double() for name in ("top", "mass", "own"))
        largest = top.amax(0)
        # Each block was summed about its own maximum; this brings the sums to a common one.
        weight = (top - largest).exp_()
        whole = (weight * mass).sum(0)
        weight /= whole
        self.total = largest + whole.log()
        self.weight = weight.to(self.target.dtype).unsqueeze(-1)
        found = torch.empty_like(self.target)
        found[self.order] = torch.cat(self.taken)
        log_prob = torch.where(found > FORBIDDEN, found.double(), -torch.inf) - self.total
        none = torch.full_like(whole, torch.nan)
        return {
            "log_prob": log_prob,
            # The target itself may come out above the threshold in the wide product; it is no
            # rival.
            "rank": self.plan.sums["above"].sum(0) - (found > self.target).to(found.dtype),
            "entropy": (self.total - (weight * (own + top * mass)).sum(0)).clamp(min=0),
            "top_prob": 1 / whole,
            "top_token": self.plan.best.clone(),
            "kl_to_final": none,
            "js_to_final": none,
            "tv_to_final": none,
        }

    def divergences(self, entropy: Tensor, final_entropy: Tensor) -> dict[str, Tensor]:
        """KL, JS and TV, float64 `[row]`.

        JS = ln 2 − ½(H(p) + H(q) + Σ s ln s), s = p + q, and TV = 1 − Σ min(p, q). KL is infinite
        where a state forbids a token that the final distribution allows.
        """
        cross, mixed, common = (
            self.plan.sums[name].sum(0, dtype=torch.float64)
            for name in ("cross", "mixed", "common")
        )
        kl = self.total - cross - final_entropy
        js = math.log(2) - (entropy + final_entropy + mixed) / 2
        return {
            "kl_to_final": torch.where(kl > -FORBIDDEN * 1e-20, torch.inf, kl.clamp(min=0)),
            "js_to_final": js.clamp(0, math.log(2)),
            "tv_to_final": (1 - common).clamp(min=0),
        }
