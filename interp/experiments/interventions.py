"""Interventions on one pass: a part left out, or the stream pushed, at chosen tokens.

An intervention gives plain TransformerLens hooks for one batch. Leaving out is verified in the pass
itself: where the state after the block is not what the remaining terms add up to, it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from interp.errors import BadInput, Unsupported, nearest
from interp.geometry import angle, at_least_float32, norm, project_out, rotate_toward, unit
from interp.models.anatomy import StackAnatomy

Part = Literal["block", "attention", "mlp"]
Push = Literal["along", "random", "within", "plane", "rotate", "radial"]
Hooks = list[tuple[str, Callable[..., Tensor | None]]]

PARTS: dict[str, str] = {
    "block": "the whole block: its output is its input",
    "attention": "what attention adds; the MLP reads the stream without it",
    "mlp": "what the MLP adds",
}
PUSHES: dict[str, str] = {
    "along": "along the direction in question, by dose × the step",
    "random": "along a random direction, by dose × the step",
    "within": "along a random direction within the states of these tokens, by dose × the step",
    "plane": "along the part of the token's own step that is across its state, by dose × the step",
    "rotate": "turned toward the next state by dose × the angle of the block, the norm kept",
    "radial": "lengthened by dose × the step, the direction kept",
}
TERM = {"attention": "attn", "mlp": "mlp"}


def check_parts(parts: Sequence[str], stack: StackAnatomy, model: str) -> None:
    """Raise `BadInput` for another part, `Unsupported` for a term that the model lacks."""
    for part in parts:
        if part not in PARTS:
            raise BadInput(f"part {part!r}{nearest(part, PARTS)}; allowed: {', '.join(PARTS)}")
        if part != "block" and not any(TERM[part] in terms for terms in stack.terms):
            raise Unsupported(
                f"{model} has no verified term {part!r} to leave out; allowed: "
                f"{', '.join(p for p in PARTS if p == 'block' or _has(stack, p))}"
            )


def _has(stack: StackAnatomy, part: str) -> bool:
    return any(TERM[part] in terms for terms in stack.terms)


@dataclass(eq=False)
class LeftOut:
    """A block, or one of its terms, left out at some tokens of one pass.

    Attributes:
        stack: the model's stack.
        layer: the block, 0 … L − 1.
        part: "block", "attention" or "mlp".
        where: bool `[batch, pos]`, the tokens for which it is left out.
    """

    stack: StackAnatomy
    layer: int
    part: str
    where: Tensor
    seen: dict[str, Tensor] = field(default_factory=dict)

    @property
    def possible(self) -> bool:
        """Whether this block has the part."""
        return self.part == "block" or TERM[self.part] in self.stack.terms[self.layer]

    def hooks(self) -> Hooks:
        """`(hook name, function)` pairs for the batch that `where` belongs to."""
        before, after = self.stack.boundaries[self.layer], self.stack.boundaries[self.layer + 1]
        if self.part == "block":
            return [(before, self._see("before")), (after, self._back)]
        terms = dict(self.stack.terms[self.layer])
        left_out = terms.pop(TERM[self.part])
        kept: Hooks = [(name, self._see(f"term {term}")) for term, name in terms.items()]
        return [(before, self._see("before")), (left_out, self._zero), *kept,
                (after, self._see("after"))]  # fmt: skip

    def check(self, tolerance: float) -> None:
        """Raises `Unsupported` if the stream after the block still has what was left out."""
        if self.part == "block":
            return
        terms = [value for name, value in self.seen.items() if name.startswith("term ")]
        whole = torch.stack([self.seen["before"], *terms]).sum(0)
        error = norm(self.seen["after"] - whole) / norm(whole).clamp_min(torch.finfo().tiny)
        if bool((error > tolerance).any()):
            raise Unsupported(
                f"{self.part} of block {self.layer} cannot be left out: the state after the block "
                f"is not the sum of the other terms (relative error {error.max():.2g}, allowed "
                f"{tolerance:.0e})"
            )

    def _see(self, name: str) -> Callable[..., None]:
        def hook_fn(value: Tensor, hook: Any) -> None:  # noqa: ARG001
            self.seen[name] = at_least_float32(value[self.where.to(value.device)].detach())

        return hook_fn

    def _back(self, value: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        out = value.clone()
        out[self.where.to(value.device)] = self.seen["before"].to(value.dtype)
        return out

    def _zero(self, value: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        return value.masked_fill(self.where.to(value.device).unsqueeze(-1), 0.0)


def pushed(kind: str, x: Tensor, after: Tensor, dose: float, direction: Tensor | None) -> Tensor:
    """States `[n, d_model]` pushed by a multiple of the natural step, ‖after − x‖ for each token.

    Args:
        kind: see `PUSHES`.
        x: the states.
        after: the states one block later, `[n, d_model]`.
        dose: multiple of the step, or of its angle.
        direction: `[d_model]` or `[n, d_model]`, of any length; for the kinds that have one.

    >>> x, after = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 2.0]])
    >>> [pushed(kind, x, after, 1.0, None).tolist() for kind in ("radial", "plane")]
    [[[3.0, 0.0]], [[1.0, 2.0]]]
    """
    x, after = at_least_float32(x), at_least_float32(after)
    if kind == "rotate":
        degrees = (dose * angle(x, after)).clamp(-180, 180)
        return rotate_toward(x, after, torch.nan_to_num(degrees))
    if kind == "radial":
        direction = x
    elif kind == "plane":
        direction = project_out(after - x, x)
    elif direction is None:
        raise BadInput(f"a push {kind!r} needs a direction")
    size = dose * norm(after - x).unsqueeze(-1)
    # Where a step or a state is zero there is no direction, and the state stays.
    return x + size * torch.nan_to_num(unit(direction.to(x.device, x.dtype)))


def push_hooks(name: str, where: Tensor, states: Tensor) -> Hooks:
    """Hooks that put states `[n, d_model]` in the place of those of the tokens of a mask."""

    def hook_fn(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        out = value.clone()
        out[where.to(value.device)] = states.to(value.device, value.dtype)
        return out

    return [(name, hook_fn)]
