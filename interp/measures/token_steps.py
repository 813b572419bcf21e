"""Steps from one token to the next at one depth: their length, and the angles between them.

Pure functions of tensors whose last axes are tokens and width; nothing here knows batches, models
or tables.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from interp.errors import BadInput
from interp.geometry import angle, at_least_float32, by_rows, norm


class TokenSteps(NamedTuple):
    """Steps that end at each token, `[..., pos]` both; NaN where earlier tokens are missing.

    `speed` is ‖v_t‖ with v_t = x_t − x_{t−1}, `turn` the angle between v_{t−1} and v_t in degrees.
    """

    speed: Tensor
    turn: Tensor


def token_steps(states: Tensor, follows: Tensor) -> TokenSteps:
    """Length of the step to each token, and the angle between it and the step before.

    A straight line has angle 0°, a random walk 90° on average, and states that are independent of
    each other 120°: two successive differences share a state with opposite signs, so that their
    correlation is −1/2. Source of the measure: Hosseini & Fedorenko 2311.04930.

    Args:
        states: `[..., pos, d]`.
        follows: bool, broadcasts with `[..., pos]`: whether the column before holds the token
            before.

    >>> line = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    >>> found = token_steps(line, torch.tensor([False, True, True, True]))
    >>> found.speed.tolist(), found.turn.round().tolist()
    ([nan, 1.0, 2.0, 4.0], [nan, nan, 0.0, 90.0])
    """
    x = at_least_float32(states)
    step = x[..., 1:, :] - x[..., :-1, :]
    turn = by_rows(lambda a, b: {"turn": angle(a, b)}, step[..., :-1, :], step[..., 1:, :])["turn"]
    follows, n = follows.expand(x.shape[:-1]), x.shape[-2]
    return TokenSteps(
        _after(norm(step), 1)[..., :n].where(follows, torch.nan),
        _after(turn, 2)[..., :n].where(follows & _moved(follows, 1), torch.nan),
    )


def trailing_mean(values: Tensor, window: int) -> Tensor:
    """Mean of each value and the `window` − 1 before it, along the last axis; NaN if one is NaN.

    Raises `BadInput` for a window below 1.

    >>> trailing_mean(torch.tensor([1.0, 2.0, 6.0]), 2).tolist()
    [nan, 1.5, 4.0]
    """
    if window < 1:
        raise BadInput(f"window is {window!r}; it must be 1 or more angles, 3 is usual")
    return _after(values, window - 1).unfold(-1, window, 1).mean(-1) if window > 1 else values


def _after(values: Tensor, n: int) -> Tensor:
    """`values` behind `n` entries of NaN, along the last axis."""
    return torch.nn.functional.pad(values, (n, 0), value=torch.nan)


def _moved(flags: Tensor, n: int) -> Tensor:
    """Flags of the columns `n` before; false at the first ones."""
    out = torch.zeros_like(flags)
    out[..., n:] = flags[..., : flags.shape[-1] - n]
    return out
