"""From residual vectors to vocabulary statistics, through the model's own final norm and head.

A `Readout` is a path that reproduces the model's logits (`interp.models.probe` verifies that).
Statistics are accumulated over blocks of rows, so that `[layer, batch, pos, vocab]` never exists.
Knows nothing of hooks and tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.errors import BadInput, Unsupported
from interp.geometry import at_least_float32, full_precision
from interp.models.frozen import frozen_scale
from interp.models.lens.best import largest
from interp.models.lens.ends import EndCheck
from interp.models.lens.head import Head, LensStatistics
from interp.models.lens.statistics import lens_statistics

ROW_BYTES = 32 * 2**20
"""Logits held at a time, in bytes; several buffers of this size exist during a lens."""


def _same(z: Tensor) -> Tensor:
    return z


def _gone(_: Tensor) -> Tensor:
    raise Unsupported(
        "this readout was saved without its model, as facts only; interp.inspect(model) measures it"
    )


@dataclass(frozen=True, eq=False, repr=False)
class Readout:
    """A path from a residual vector to logits: z = T(N(x) W_U + b_U).

    It reads through a model's own modules and is never copied with them: a copy is the readout
    itself, and a pickled one keeps path, shape and errors and refuses to read.

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

    def __copy__(self) -> Readout:
        return self

    def __deepcopy__(self, _: Any) -> Readout:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # "meta": a shape and a type without the numbers, which belong to the model.
        shape = torch.empty(self.weight.shape, device="meta", dtype=self.weight.dtype)
        return Readout, (self.path, _gone, shape, None, _gone, self.error, self.tolerance)

    def __repr__(self) -> str:
        vocab, width = self.weight.shape
        return f"<Readout {self.path}, {width} to {vocab}, identity error {self.error:.1g}>"

    def logits(self, x: Tensor) -> Tensor:
        """Logits of residual vectors: `[..., d_model] -> [..., vocab]`, float32 at least."""
        return self._project(self.normalise(x))

    @full_precision()
    def linear(self, h: Tensor) -> Tensor:
        """W_U h + b_U of vectors after the norm, before T: `[..., d_head] -> [..., vocab]`."""
        h, weight = at_least_float32(h), at_least_float32(self.weight)
        z = torch.nn.functional.linear(h, weight.to(h.dtype))
        if self.bias is not None:
            z += self.bias
        return z

    @full_precision()
    def logits_of(self, x: Tensor, ids: Tensor) -> Tensor:
        """The logit of one token per vector: `x [row, d_model]`, `ids [row]` to `[row]`.

        The transform T is taken to act on each logit alone, as soft caps and scales do.
        """
        h = at_least_float32(self.normalise(x))
        z = (h * at_least_float32(self.weight[ids]).to(h.dtype)).sum(-1) + self._bias_of(ids)
        return self.transform(z)

    def _project(self, h: Tensor) -> Tensor:
        return self.transform(self.linear(h))

    def identity_error(self, x: Tensor, logits: Tensor) -> Tensor:
        """Largest difference from the model's own logits, relative to their largest size.

        Args: `x [row, d_model]` of the final state, `logits [row, vocab]`. Returns `[row]`.
        """
        check = EndCheck(self.normalise(x), logits)
        check.take(self._project(check.h))
        return check.error()

    def check(self, x: Tensor, logits: Tensor) -> Tensor:
        """Identity error per row; raises `Unsupported` where it exceeds the tolerance."""
        return self._near(self.identity_error(x, logits))

    def _near(self, error: Tensor) -> Tensor:
        """The error; raises `Unsupported` where it exceeds the tolerance."""
        if not bool((error <= self.tolerance).all()):
            raise Unsupported(
                f"the readout {self.path} no longer gives the model's own logits: relative error "
                f"{error.max().item():.2g}, allowed {self.tolerance:.0e}; a hook after the last "
                "block, or changed weights, would do that"
            )
        return error

    @full_precision()
    def direction(
        self, final: Tensor, targets: Tensor, contrasts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vectors u and numbers c by which u·x + c reads a logit with the norm frozen at x_L.

        The final norm is taken apart as N(x) = γ ⊙ C x · r + β, where C centres or does nothing
        and r is the scale of the given final state. What blocks add to the stream then adds up in
        the logit: u·x_0 + Σ u·term + c is the target's logit before the output transform T, or
        its difference from that of a second answer.

        Args:
            final: `[row, d_model]`, the last state x_L of each token.
            targets: `[row]` int64, −1 for none.
            contrasts: `[row]` int64, second answers, −1 for none.

        Returns `u [row, d_model]` and `c [row]`, NaN where there is no target. Raises
        `Unsupported` where the final norm is another function than that.
        Source: Elhage et al. 2021 (direct paths); the frozen scale as in TransformerLens.
        """
        scale, shift, centred = frozen_scale(self.normalise, final, self.tolerance, self.path)
        rows, bias = self._rows_of(targets), self._bias_of(targets)
        if contrasts is not None:
            other = (contrasts >= 0).unsqueeze(-1)
            rows = torch.where(other, rows - self._rows_of(contrasts), rows)
            bias = torch.where(other[:, 0], bias - self._bias_of(contrasts), bias)
        missing = targets < 0
        constant = (rows * shift).sum(-1) + bias
        u = rows * scale
        u = u - u.mean(-1, keepdim=True) if centred else u
        nothing = torch.nan
        return u.masked_fill(missing.unsqueeze(-1), nothing), constant.masked_fill(missing, nothing)

    def check_adds_up(self, d_model: int, dtype: torch.dtype) -> None:
        """Raises `Unsupported` where `direction` would, on two random states of this type."""
        generator = torch.Generator("cpu").manual_seed(0)
        states = torch.randn(2, d_model, generator=generator, dtype=torch.float32, device="cpu")
        states = states.to(self.weight.device, dtype)
        with torch.no_grad():
            frozen_scale(self.normalise, states, self.tolerance, self.path)

    def _rows_of(self, ids: Tensor) -> Tensor:
        """Rows of the unembedding `[row, d_head]`; the whole matrix is not widened for them."""
        return at_least_float32(self.weight[ids.clamp(min=0)])

    def _bias_of(self, ids: Tensor) -> Tensor:
        """b_U of tokens `[row]`, 0 without one."""
        if self.bias is None:
            return at_least_float32(self.weight).new_zeros(ids.shape)
        return at_least_float32(self.bias)[ids.clamp(min=0)]

    def lens(
        self,
        stream: Tensor,
        logits: Tensor,
        targets: Tensor,
        *,
        best: int = 0,
        best_rows: Tensor | None = None,
        checked: Tensor | None = None,
    ) -> LensStatistics:
        """Lens statistics of every state against the model's own final distribution.

        Args:
            stream: `[state, row, d_model]`; the last state is the final one. It is not projected,
                but for the check: its logits are the model's own.
            logits: `[row, vocab]`, the model's logits for the same rows.
            targets: `[row]` int64, -1 for none.
            best: how many of the best tokens to keep; 0 for none.
            best_rows: of which rows, bool `[row]`; all unless given.
            checked: of which rows, bool `[row]`, the last state is read as well and must give
                `logits`; none unless given.
        Returns: statistics `[state, row]`. Raises `BadInput` if the numbers of rows differ, and
        `Unsupported` as `check` does.
        """
        if stream.shape[1] != len(logits) or len(targets) != len(logits):
            raise BadInput(
                f"lens: stream has {stream.shape[1]} rows, logits {len(logits)}, "
                f"targets {len(targets)}; they must be equal"
            )
        # None tells the kernel to skip a pass over all logits.
        transform = None if self.transform is _same else self.transform
        head = Head(self.weight, self.bias, transform)
        stats = lens_statistics(
            stream[:-1],
            head,
            logits,
            targets,
            prepare=self.normalise,
            best=best,
            best_rows=best_rows,
            end=stream[-1],
            checked=checked,
        )
        if stats.end_error is not None:
            self._near(stats.end_error)
        return stats

    def top(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The `k` best tokens, at most all: `[..., d_model] -> (probabilities, ids) [..., k]`."""
        z = self.logits(x)
        # Probabilities of the k best only: a softmax would write the whole vocabulary once more.
        values, ids = largest(z, k)
        return (values - z.logsumexp(-1, keepdim=True)).exp(), ids
