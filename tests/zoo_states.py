"""States of a run of this library, and how they differ from the hidden states of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from interp import Analysis, Batch, Examples

ATOL = 2e-4


@dataclass(frozen=True)
class Stream(Analysis):
    """The boundary states themselves."""

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream",)

    def observe(self, batch: Batch) -> dict[str, Examples]:
        states = batch["stream"].transpose(0, 1)
        return {"x": Examples.of(100, states, batch.ids, batch.mask, axes=(1,))}


def difference(states: Mapping[str, list[np.ndarray]], expected: Mapping[str, Any]) -> str:
    """How states `[state, pos, d]` by stack and prompt differ from hidden states; "" if not."""
    for stack, of_prompts in states.items():
        key = "encoder_hidden_states" if stack == "encoder" else "hidden_states"
        # Gemma 3n keeps four streams; the first is the one its blocks compute on.
        want = [(h[0] if h.ndim == 4 else h).numpy() for h in expected[key]]
        got = np.stack(of_prompts, 1)
        n = len(got) - 1
        # The last hidden state is after the final norm; Mamba-like lists start one state later.
        shifts = {shift: worst(got[shift : shift + n], want[:n]) for shift in (0, 1)}
        shift = min(shifts, key=lambda s: shifts[s])
        if not shifts[shift] <= ATOL:  # NaN is no rounding
            return f"differs from hidden_states by {shifts[shift]:.1g} ({stack or 'blocks'})"
    return ""


def worst(got: np.ndarray, want: list[np.ndarray]) -> float:
    """The largest difference of any state, relative to that state; infinite for other shapes."""
    if any(g.shape != w.shape for g, w in zip(got, want, strict=False)):
        return float("inf")
    errors = [np.abs(g - w).max() / np.abs(w).max() for g, w in zip(got, want, strict=False)]
    return float(max(errors))
