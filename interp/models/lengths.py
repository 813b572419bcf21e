"""Measures what a model does to the length of a prompt: how long it may be, and what is added.

A table of learned positions has a last row, which the configuration need not tell. Attention in
blocks (Longformer) pads the states of its stack to a multiple of the block: they then have more
columns than the prompt has tokens. Passes of a few tokens show both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from interp.geometry import at_least_float32, norm
from interp.models.layout import Stack

_BY_TOKEN = ("pos", "query", "key")
_SQUARE = ("hook_pattern", "hook_attn_scores")

LastState = Callable[[Tensor, Tensor | None], Tensor]
"""The last state `[1, columns, d_model]` of a pass over tokens `[1, pos]` with a mask."""


# ---- positions -------------------------------------------------------------------------------


class PositionRows(TorchFunctionMode):
    """Tables of positions that a pass over `n` tokens looks up while the block runs.

    A table is one of positions if consecutive rows of it are looked up, as the ids of a probe,
    which are pseudo-random, never are. Rows before the first one used serve no position.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n
        self._found: list[tuple[int, int]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Looks at calls of `torch.nn.functional.embedding`, and makes every call as it is."""
        if func is torch.nn.functional.embedding and len(args) > 1:
            self._take(*args[:2])
        return func(*args, **(kwargs or {}))

    def _take(self, ids: Tensor, table: Tensor) -> None:
        columns = ids.shape[-1] if ids.ndim else 0
        if columns > 1 and bool((ids.diff(dim=-1) == 1).all()):
            self._found.append((len(table) - int(ids.min()), columns))

    def longest(self, multiple: int = 1) -> int | None:
        """Tokens of the longest prompt that all tables have rows for; None without any table.

        A table that was asked for more rows than there are tokens serves a stack whose columns
        come in multiples.
        """
        limits = (
            rows // multiple * multiple if columns > self.n else rows
            for rows, columns in self._found
        )
        return min(limits, default=None)


# ---- columns that the model adds -------------------------------------------------------------


def padded_length(n: int, multiple: int) -> int:
    """The smallest multiple that is at least `n`.

    >>> padded_length(13, 4), padded_length(16, 4)
    (16, 16)
    """
    return -(-n // multiple) * multiple


def cut_to(value: Tensor, axes: Iterable[str], n: int, columns: int) -> Tensor:
    """The first `n` of `columns` along every axis that runs over tokens: a view."""
    for axis, name in enumerate(axes):
        if name in _BY_TOKEN and axis < value.ndim and value.shape[axis] == columns:
            value = value.narrow(axis, 0, n)
    return value


def cut_added(seen: dict[str, list[Any]], stacks: Iterable[Stack], n: int) -> set[str]:
    """Takes away, in place, the columns behind the `n` tokens of a recorded pass.

    Returns the names of the stacks whose states have another number of columns than `n`; whether
    those behind the prompt are padding is for `measured_multiple` to find out.
    """
    other = set()
    for stack in stacks:
        names = [name for group in stack.boundaries for name in group]
        widths = {v.shape[1] for name in names for v in seen.get(name, ()) if _is_state(v)}
        if widths - {n}:
            other.add(stack.name)
        for columns in (w for w in widths if w > n):
            _cut_stack(seen, stack, n, columns)
    return other


def _is_state(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3


def _cut_stack(seen: dict[str, list[Any]], stack: Stack, n: int, columns: int) -> None:
    inside = {name for name in seen if name.startswith(f"{stack.path}.")}
    for name in inside.union(*stack.boundaries) & seen.keys():
        axes = ("", "", "query", "key") if name.endswith(_SQUARE) else ("", "pos")
        seen[name] = [
            cut_to(v, axes, n, columns) if isinstance(v, Tensor) and v.ndim > 2 else v
            for v in seen[name]
        ]


def measured_multiple(
    last_state: LastState, tokens: Tensor, tolerance: float
) -> tuple[int, str | None]:
    """The multiple to which a stack pads its columns, and why they cannot be followed if so.

    The padding is believed only if a prompt that is padded by hand, under a mask, to that multiple
    has the same states: what the model adds then stands behind the prompt and changes nothing.

    Args:
        last_state: runs a pass and gives the stack's last state, with all of its columns.
        tokens: `[1, pos]`, ordinary ones.
        tolerance: relative difference that counts as rounding.
    """
    multiple = last_state(tokens[:, :1], None).shape[1]
    length = tokens.shape[1] - 1
    n = length if length % multiple else length - 1
    columns = padded_length(n, multiple)
    short = tokens[:, :n]
    padded = torch.cat([short, short[:, :1].expand(1, columns - n)], dim=1)
    mask = torch.ones_like(padded)
    mask[:, n:] = 0
    states = [last_state(short, None), last_state(padded, mask)]
    shapes = {state.shape[1] for state in states}
    if shapes != {columns}:
        wide = max(shapes - {columns})
        return multiple, f"{n} tokens have {wide} columns of states, and 1 token {multiple}"
    inner, outer = (at_least_float32(state[:, :n]) for state in states)
    error = float((norm(inner - outer) / norm(outer).max().clamp(min=1e-30)).max())
    if not error <= tolerance:
        return multiple, (
            f"{n} tokens have {columns} columns of states, which are not those of the prompt with "
            f"{columns - n} masked tokens behind it (relative difference {error:.2g})"
        )
    return multiple, None
