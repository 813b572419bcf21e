"""Sinusoids in a learned position encoding: spectrum, periods, linear shifts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from interp import Analysis, BadInput, Batch, Once, Plot, State
from interp.measures import (
    covariance_spectrum,
    describe_positions,
    random_embedding,
    sinusoidal_rank,
    sinusoidal_share,
)
from interp.models import position_matrix


@dataclass(frozen=True)
class Positions(Analysis):
    """Spectrum of W_pos, period of each component, share of the sinusoids, linear shifts.

    Does a learned encoding know that positions are in order? One row per principal component of
    W_pos; what is one number for the whole matrix stands in every row. Two controls: a Gaussian
    matrix of the same size for the spectrum, and the same vectors in shuffled order for all that
    has to do with order. Positions that training never reached are noise and count like the
    others: set `first` to what was trained. Sinusoids after Vaswani et al. (2017).

    Attributes:
        shifts: by how many positions W_pos is shifted.
        first: look at the first so many positions only; all unless given.
        components: principal components that predict a shift.
        draws: shuffles (and Gaussian matrices) that the controls are means of.
        seed: of the draws.
    """

    shifts: tuple[int, ...] = (1, 4, 16)
    first: int | None = None
    components: int = 32
    draws: int = 3
    seed: int = 0

    scope: ClassVar = "weights"
    keys: ClassVar[tuple[str, ...]] = ("component",)
    least: ClassVar[Mapping[str, float]] = {"first": 2, "components": 1, "draws": 0, "seed": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "component": "number of the principal component, 0 = largest variance",
        "share": "share of the variance along the component; ratio",
        "random_share": "`share` of the component of the same rank of Gaussian vectors; ratio",
        "period": "period of the strongest frequency of the component over positions; positions",
        "peak_share": "share of that frequency in the component's power; ratio",
        "shuffled_peak_share": "`peak_share` with the positions in shuffled order; ratio",
        "sinusoidal_share": "share of the variance in the span of the d sinusoids; hangs on the "
        "cut-off that leaves `sinusoidal_rank` directions; ratio, same in every row",
        "sinusoidal_chance": "its expectation with the positions in shuffled order; ratio, same in "
        "every row",
        "sinusoidal_rank": "directions of the sinusoids that can be told apart over the positions "
        "(10⁻⁶ of the largest singular value); count, same in every row",
        "shift_*": "R² of W_pos[p + δ] predicted linearly from W_pos[p] on held-out positions, by "
        "δ; same in every row",
        "shuffled_shift_*": "the same with the positions in shuffled order",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("share", "random_share"),
            "Variance of W_pos per principal component",
            "share of the variance",
            "positions without structure give the nearly flat line of the random ones.",
        ),
        Plot(
            "line",
            ("peak_share", "shuffled_peak_share"),
            "How periodic each component of W_pos is",
            "share of the strongest frequency",
            "an encoding that knows no order has the line of the shuffled one.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, Once]:
        positions = position_matrix(batch.model)
        if self.first is not None and not 2 <= self.first <= len(positions):
            raise BadInput(
                f"first={self.first!r} of {len(positions)} positions: 2 or more, or None"
            )
        positions = positions[: self.first]
        values = describe_positions(positions, self.shifts, components=self.components)
        share, chance = sinusoidal_share(positions)
        values |= {"sinusoidal_share": np.asarray(share), "sinusoidal_chance": np.asarray(chance)}
        values["sinusoidal_rank"] = np.asarray(sinusoidal_rank(*positions.shape))
        return {"facts": Once(values | self._controls(positions))}

    def _controls(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        seeds = range(self.seed, self.seed + self.draws)
        if not self.draws:
            return {}
        gaussian = [covariance_spectrum(random_embedding(positions, seed)).share for seed in seeds]
        shuffled = [
            describe_positions(
                np.random.default_rng(seed).permutation(positions),
                self.shifts,
                components=self.components,
            )
            for seed in seeds
        ]
        out = {
            f"shuffled_{name}": np.mean([one[name] for one in shuffled], axis=0)
            for name in shuffled[0]
            if name not in ("share", "period")
        }
        return out | {"random_share": np.mean(gaussian, axis=0)}

    def table(self, state: State) -> pd.DataFrame:
        values = state["", -1]["facts"].arrays()
        per_component = {name: v for name, v in sorted(values.items()) if np.ndim(v)}
        table = pd.DataFrame({"component": np.arange(len(values["share"])), **per_component})
        numbers = {name: float(v) for name, v in sorted(values.items()) if not np.ndim(v)}
        return table.assign(**numbers)
