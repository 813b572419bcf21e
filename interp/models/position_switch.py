"""Measures whether the encoding of positions depends on the longest prompt of a pass.

Rotary encodings with long-range variants (longrope, dynamic NTK) choose their frequencies anew in
every pass, by its longest prompt. A short prompt is then encoded differently in a
batch with a long one. Passes of a few tokens are enough: the last of them claims to stand far away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from interp.geometry import at_least_float32
from interp.models.forward import call, is_remote, wrapped_model
from interp.models.hooks import record

TOKENS = 8
"""Tokens of a measuring pass, before the one far away."""

Seen = tuple[list[Tensor], Tensor | None]


def position_switch(
    model: Any, points: Mapping[str, Any], state: str | None, tokens: Tensor, tolerance: float
) -> tuple[int | None, bool]:
    """The longest prompt whose positions are encoded as in short ones, and what comes after.

    Args:
        model: a bridge in eval mode, whose passes are not observed.
        points: its hook points by name.
        state: hook name of a late state, None where later tokens change earlier ones.
        tokens: `[1, pos]`.
        tolerance: relative difference of states that counts as rounding.

    Returns (switch, grows). `switch` is None if all lengths up to the context's are encoded alike;
    `grows` is true where beyond it every length has an encoding of its own.
    """
    limit = int(getattr(model.cfg, "n_ctx", None) or 0)
    if is_remote(model) or not _has_frequencies(model) or min(limit - 1, tokens.shape[1]) < TOKENS:
        return None, False
    probe = _Probe(model, points, state, tokens[:, :TOKENS], tolerance)
    try:
        if not probe.differ(probe.seen(TOKENS + 1), probe.seen(limit)):
            return None, False
        switch = _last_alike(probe, limit)
        grows = probe.differ(probe.seen(switch + 1), probe.seen(limit))
        probe.seen(TOKENS + 1)  # leaves the frequencies of short prompts
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return None, False  # it takes no positions: nothing to choose by
    return switch, grows


def _last_alike(probe: _Probe, limit: int) -> int:
    """The longest length that is encoded like the shortest, by bisection."""
    low, high = TOKENS + 1, limit
    while high - low > 1:
        middle = (low + high) // 2
        alike = not probe.differ(probe.seen(TOKENS + 1), probe.seen(middle))
        low, high = (middle, high) if alike else (low, middle)
    return low


def _has_frequencies(model: Any) -> bool:
    """True if some module keeps rotary frequencies; a table of positions has one row for each."""
    return any("freq" in name for m in wrapped_model(model).modules() for name in m._buffers)


class _Probe:
    """Passes of a few tokens, the last of which stands where the end of a long prompt would."""

    def __init__(
        self,
        model: Any,
        points: Mapping[str, Any],
        state: str | None,
        tokens: Tensor,
        tolerance: float,
    ) -> None:
        self.model, self.state, self.tolerance = model, state, tolerance
        self.points = {state: points[state]} if state else {}
        self.tokens = torch.cat([tokens, tokens[:, :1]], dim=1)

    def seen(self, length: int) -> Seen:
        """Frequencies and the first tokens' states in a pass with positions up to `length` − 1."""
        positions = torch.arange(TOKENS + 1, device=self.tokens.device)[None]
        positions[0, -1] = length - 1
        with record(self.points, stop=bool(self.points)) as states:
            call(self.model, self.tokens, position_ids=positions)
        buffers = wrapped_model(self.model).named_buffers()
        # A copy, for the next pass may write new frequencies into the same buffer.
        frequencies = [value.clone() for name, value in buffers if "freq" in name]
        first = states[self.state][0][:, :TOKENS] if self.state else None
        return frequencies, first

    def differ(self, one: Seen, other: Seen) -> bool:
        """True if two passes encoded their first tokens differently."""
        pairs = zip(one[0], other[0], strict=True)
        if any(not torch.equal(a, b) for a, b in pairs):
            return True
        if one[1] is None or other[1] is None:
            return False
        a, b = at_least_float32(one[1]), at_least_float32(other[1])
        return bool((a - b).norm() > self.tolerance * b.norm())
