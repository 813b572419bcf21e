"""Spectrum of the unembedding: directions that the vocabulary reads, and dark ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from interp import Analysis, Batch, Once, Plot, State
from interp.measures import SingularDirections, random_singular_directions
from interp.models import weight_matrix

MATRICES = ("W_U", "W_U centred", "random")


@dataclass(frozen=True)
class UnembeddingSpectrum(Analysis):
    """Singular values of W_U = U Σ Vᵀ, beside those of a random matrix of its shape and scale.

    Question: how evenly does the unembedding look at the directions of the stream? Three matrices
    stand in the table: `W_U`; `W_U centred`, the rows minus their mean, which changes no
    probability; and `random`, independent normal entries with the same Σσ² as `W_U`, drawn once
    from `seed`. Effective rank: Roy & Vetterli 2007; participation ratio (Σσ²)²/Σσ⁴; the random
    matrix's values fill the band of Marchenko & Pastur 1967. The directions with the smallest
    values are those that the vocabulary hardly sees ("dark", Cancedda 2402.09221); what of the
    stream lies there is in the analysis `prediction_geometry`.

    Caveats: singular values are those of the weights as they are, so folding (compatibility mode)
    changes them. A large first value along the mean row (`mean_cosine` near 1) adds the same to
    every logit.

    Attributes:
        seed: of the random matrix.
    """

    seed: int = 0

    scope: ClassVar = "weights"
    keys: ClassVar[tuple[str, ...]] = ("matrix", "direction")
    least: ClassVar[Mapping[str, float]] = {"seed": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "matrix": "'W_U', 'W_U centred' (rows minus their mean) or 'random' (the control)",
        "direction": "number of the singular direction, 0 = largest",
        "singular_value": "σ; weight units",
        "share": "σ² / Σσ²; ratio",
        "cumulative_share": "share of this and all larger directions; ratio",
        "mean_cosine": "|cosine| between the direction and the matrix's mean row; NaN if centred",
        "effective_rank": "exp of the entropy of σ/Σσ, same in every row of a matrix; directions",
        "participation_ratio": "(Σσ²)² / Σσ⁴, likewise; directions",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("singular_value",),
            "Singular values of the unembedding",
            "weight units",
            "a matrix without structure has the values of the random one.",
        ),
        Plot(
            "line",
            ("cumulative_share",),
            "Squared size carried by the first directions",
            "share",
            "if all directions were alike, this would be a straight line from 0 to 1.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, Once]:
        weight = weight_matrix(batch.model, "W_U")
        spectra = {
            "W_U": SingularDirections.of(weight),
            "W_U centred": SingularDirections.of(weight, centred=True),
            "random": random_singular_directions(weight, seed=self.seed),
        }
        return {
            name: Once(
                {
                    "singular_value": spectrum.values.cpu().numpy().copy(),
                    "mean_cosine": spectrum.mean_cosines.cpu().numpy().copy(),
                    "effective_rank": np.asarray(spectrum.effective_rank),
                    "participation_ratio": np.asarray(spectrum.participation_ratio),
                }
            )
            for name, spectrum in spectra.items()
        }

    def table(self, state: State) -> pd.DataFrame:
        (leaves,) = state.values()
        return pd.concat(
            [_rows(name, leaves[name].arrays()) for name in MATRICES], ignore_index=True
        )


def _rows(name: str, arrays: Mapping[str, np.ndarray]) -> pd.DataFrame:
    values = arrays["singular_value"]
    share = values**2 / (values**2).sum()
    return pd.DataFrame(
        {
            "matrix": name,
            "direction": np.arange(len(values)),
            "singular_value": values,
            "share": share,
            "cumulative_share": share.cumsum(),
            "mean_cosine": arrays["mean_cosine"],
            "effective_rank": float(arrays["effective_rank"]),
            "participation_ratio": float(arrays["participation_ratio"]),
        }
    )
