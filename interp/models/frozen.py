"""The final norm with its scale frozen: what makes contributions to a logit add up.

Knows a function from states to normed states; knows nothing of the module behind it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from interp.errors import Unsupported
from interp.geometry import at_least_float32, norm

_OTHERWISE = (
    "so that contributions to its logits cannot be added up; logit_lens and logit_difference read "
    "its states"
)


def frozen_scale(
    normalise: Callable[[Tensor], Tensor], final: Tensor, tolerance: float, path: str
) -> tuple[Tensor, Tensor, bool]:
    """γ·r, β and whether it centres, of N(x) = γ ⊙ C x · r + β at given states.

    γ and β are measured at two vectors and r at each state, by least squares, so that any norm of
    this form is taken apart, whatever it is called and whatever its epsilon.

    Args:
        normalise: N, from `[row, d]` to `[row, d]`.
        final: `[row, d]`.
        tolerance: the largest relative error ‖N(x) − (γ ⊙ C x · r + β)‖ / ‖N(x) − β‖.
        path: of the readout, for the message.

    Returns `γ·r [row, d]`, `β [d]` and a flag. Raises `Unsupported` for another function.
    """
    shift = at_least_float32(normalise(final.new_zeros(1, final.shape[-1])))[0]
    if shift.shape != final.shape[1:]:
        raise Unsupported(
            f"the readout {path} takes the {final.shape[-1]} numbers of a state to {len(shift)}, "
            f"{_OTHERWISE}"
        )
    x, pattern = at_least_float32(final), _balanced(final.shape[-1]).to(final)
    weight = (at_least_float32(normalise(pattern[None]))[0] - shift) / at_least_float32(pattern)
    moved = at_least_float32(normalise(final)) - shift
    fits = {centred: _fit(x, weight, moved, centred) for centred in (False, True)}
    centred = _worst(fits[True][1]) < _worst(fits[False][1])
    scale, error = fits[centred]
    if _worst(error) > tolerance:
        raise Unsupported(
            f"the readout {path} ends in no norm of the form γ ⊙ x · r + β (relative error "
            f"{_worst(error):.2g}, allowed {tolerance:.0e}), {_OTHERWISE}"
        )
    return weight * scale, shift, centred


def _fit(x: Tensor, weight: Tensor, moved: Tensor, centred: bool) -> tuple[Tensor, Tensor]:
    """Scale r `[row, 1]` and relative error `[row]`, NaN for a vector of zeros."""
    base = weight * (x - x.mean(-1, keepdim=True) if centred else x)
    scale = (base * moved).sum(-1, keepdim=True) / base.square().sum(-1, keepdim=True)
    return scale, norm(moved - scale * base) / norm(moved)


def _worst(error: Tensor) -> float:
    """The largest error of defined rows."""
    known = error[~error.isnan()]
    return float(known.max()) if len(known) else 0.0


def _balanced(width: int) -> Tensor:
    """A vector without a zero whose sum is 0, for elements are divided by it: `[width]`."""
    values = torch.ones(width, dtype=torch.float32, device="cpu")
    values[1::2] = -1.0
    if width % 2 and width > 1:
        values[0] = 2.0
        values[-1] = -1.0
    return values
