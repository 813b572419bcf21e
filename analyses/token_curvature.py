"""Speed and curvature of a prompt's way from token to token, at each state of the stream."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interp import Analysis, BadInput, Batch, PerToken, Plot
from interp.measures import token_steps, trailing_mean


@dataclass(frozen=True)
class TokenCurvature(Analysis):
    """Does the way from token to token bend? Angles between successive differences, per state.

    Of the states x_0, x_1, … of a prompt's tokens at one depth: v_t = x_t − x_{t−1}, speed ‖v_t‖,
    and the angle between v_{t−1} and v_t; `curvature` is its mean over the last `window` tokens.
    Everything stands at the last token that it needs, so that no value looks at later tokens.
    Angles are 2·atan2(‖û − v̂‖, ‖û + v̂‖), exact where the arccos of a cosine is rounding. Whether
    it goes with the entropy of the next prediction is asked by
    `interp.experiments.curvature_entropy`. Sources: Hosseini & Fedorenko 2311.04930 (models
    straighten text with depth); King, Fedorenko & Hosseini 2604.23985 (curvature and entropy, read
    as an abstract: window and first token are those of a public replication).

    Controls: a straight way has 0°, a random walk 90° on average, and states that have nothing to
    do with each other 120°, because v_{t−1} and v_t share x_{t−1} with opposite signs. State 0 is
    the embedding, before any block has seen the context.

    Caveats: steps to and from a massive first token are as long as that token, and angles between
    them mean nothing; from the seventh token on no window of 3 touches it. Tokens that a pass
    does not hold (a KV cache, one token at a time) have no predecessor here and are NaN. Windows
    of neighbouring tokens overlap, so their curvatures are correlated.

    Attributes:
        window: angles that are averaged.
        first: number of the first token that counts, 0 for the first of the prompt; earlier ones
            are NaN.
    """

    window: int = 3
    first: int = 6

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream",)
    columns: ClassVar[Mapping[str, str]] = {
        "speed": "‖x_t − x_{t−1}‖, step from the token before; activation units",
        "angle": "angle between the steps x_{t−1} − x_{t−2} and x_t − x_{t−1}; degrees",
        "curvature": "mean of `angle` over this token and the window − 1 before it; degrees",
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "speed": (0, math.inf),
        "angle": (0, 180),
        "curvature": (0, 180),
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("curvature",),
            "Curvature from token to token",
            "degrees",
            "states that have nothing to do with each other are at 120°, a random walk at 90°, a "
            "straight way at 0°.",
        ),
        Plot(
            "line",
            ("speed",),
            "Step from token to token",
            "activation units",
            "it grows with the norm of the stream: √2 times the norm, for states at right angles.",
        ),
    )

    def __post_init__(self) -> None:
        if self.window < 1 or self.first < 0:
            raise BadInput(
                f"token_curvature with window={self.window}, first={self.first}: allowed are a "
                "window of 1 or more angles and a first token of 0 or more; 3 and 6 are the "
                "defaults"
            )

    def observe(self, batch: Batch) -> dict[str, PerToken]:
        follows, counted = _follows(batch), batch.positions >= self.first
        parts: dict[str, list[Tensor]] = {name: [] for name in self.columns}
        for x in batch["stream"]:  # one state at a time: differences are as large as states
            steps = token_steps(x, follows)
            found = (steps.speed, steps.turn, trailing_mean(steps.turn, self.window))
            for name, value in zip(self.columns, found, strict=True):
                parts[name].append(value.where(counted, torch.nan))
        return {name: PerToken(torch.stack(values)) for name, values in parts.items()}


def _follows(batch: Batch) -> Tensor:
    """Whether the column before holds the token before: `[batch, pos]`."""
    follows = torch.zeros_like(batch.mask)
    apart = batch.positions[:, 1:] - batch.positions[:, :-1]
    follows[:, 1:] = batch.mask[:, 1:] & batch.mask[:, :-1] & (apart == 1)
    return follows
