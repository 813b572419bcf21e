"""Settling of a prediction over depth: when it comes close to the final one, and what it sheds.

Pure functions of tensors whose first axis is the state 0 … L. Source of settling depth and late
share: Chen et al. 2602.13517 (deep-thinking ratio).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from interp.errors import BadInput


class Settling(NamedTuple):
    """Settling of predictions; `[state, ...]`, but the last three `[...]`.

    Attributes:
        lowest: smallest divergence up to each state; NaN before the first state that counts.
        settled: whether that is at most the threshold.
        depth: first state where it is.
        stays: first state from which on every divergence is at most the threshold.
        late: whether `depth` is at least ⌈late · L⌉.
    """

    lowest: Tensor
    settled: Tensor
    depth: Tensor
    stays: Tensor
    late: Tensor


def settling(
    divergence: Tensor, threshold: float, *, late: float = 0.85, first: int = 1
) -> Settling:
    """Settling depth c = min{l ≥ first: min_{j ≤ l} D_j ≤ threshold}, and whether it is late.

    The running minimum crosses the threshold where D itself first does, so that a prediction may
    leave again: `stays` is the depth from which it does not. Both are NaN where a divergence is.

    Args:
        divergence: D `[state, ...]` to the final distribution, 0 at the last state.
        threshold: in the units of D.
        late: depth as a share of L from which settling counts as late.
        first: the first state that counts; 1 leaves the embedding out.

    Raises `BadInput` for a threshold that is not positive, a share outside (0, 1], or fewer states
    than `first` + 1.

    >>> found = settling(torch.tensor([0.9, 0.8, 0.4, 0.6, 0.0]), 0.5)
    >>> [int(x) for x in (found.depth, found.stays, found.late)]
    [2, 4, 0]
    """
    last = len(divergence) - 1
    if not threshold > 0 or not 0 < late <= 1:
        raise BadInput(
            f"threshold={threshold!r}, late={late!r}: allowed are a threshold above 0 and a share "
            "of the depth, 0 < late ≤ 1; 0.5 and 0.85 are usual"
        )
    if not 0 <= first <= last:
        raise BadInput(f"first={first!r} of the states 0 … {last}: allowed is 0 to {last}")
    lowest = torch.cummin(divergence[first:], dim=0).values
    lowest = torch.cat([torch.full_like(divergence[:first], torch.nan), lowest])
    undefined = divergence[first:].isnan().any(0)
    settled = lowest <= threshold  # false at NaN
    # The number of states above the threshold is the first state at or below it.
    depth = (~settled).sum(0).to(divergence.dtype)
    above = (divergence > threshold).flip(0)
    stays = (last + 1 - above.to(torch.uint8).argmax(0)).where(above.any(0), 0).clamp(min=first)
    lated = (depth >= math.ceil(late * last)).to(divergence.dtype)
    gone = torch.tensor(torch.nan, dtype=divergence.dtype, device=divergence.device)
    depth, stays, lated = (
        x.to(divergence.dtype).where(~undefined, gone) for x in (depth, stays, lated)
    )
    return Settling(lowest, settled, depth, stays, lated)


def entropy_changes(entropy: Tensor) -> tuple[Tensor, Tensor]:
    """Expansion max(0, H_l − H_{l−1}) and pruning max(0, H_{l−1} − H_l): `[state, ...]` each.

    NaN at state 0, before which there is nothing.

    >>> grown, shrunk = entropy_changes(torch.tensor([3.0, 4.0, 1.0]))
    >>> grown.tolist(), shrunk.tolist()
    ([nan, 1.0, 0.0], [nan, 0.0, 3.0])
    """
    change = entropy.diff(dim=0)
    nothing = torch.full_like(entropy[:1], torch.nan)
    grown, shrunk = change.clamp(min=0), (-change).clamp(min=0)
    return torch.cat([nothing, grown]), torch.cat([nothing, shrunk])
