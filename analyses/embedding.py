"""Geometry of the embedding vectors in their space, against vectors without structure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from interp import Analysis, Batch, Once, Plot, State
from interp.measures import covariance_spectrum, describe_vectors, random_embedding
from interp.models import embedding_matrix


@dataclass(frozen=True)
class Embedding(Analysis):
    """Covariance spectrum, effective rank, anisotropy and norms of the embedding matrix.

    Does the vocabulary use all dimensions, and do its vectors point every way? One row per
    principal component of Σ = E_cᵀE_c/N; what is one number for the whole matrix stands in every
    row. The control is a Gaussian matrix of the same size and mean squared norm (mean over the
    draws). Effective rank after Roy & Vetterli (2007), from singular values; entropy dimension
    after Del Giudice (2021), from variances; anisotropy after Ethayarajh (2019), but over all
    pairs. Rows of tokens that were never trained count like any other. The whole vocabulary is
    looked at and nothing is sampled, so that no number has an interval.

    Attributes:
        matrix: "W_E", or "W_U" for the columns of the unembedding.
        draws: Gaussian matrices drawn as control.
        seed: of the draws.
    """

    matrix: str = "W_E"
    draws: int = 3
    seed: int = 0

    scope: ClassVar = "weights"
    keys: ClassVar[tuple[str, ...]] = ("component",)
    least: ClassVar[Mapping[str, float]] = {"draws": 0, "seed": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "component": "number of the principal component, 0 = largest variance",
        "eigenvalue": "variance along the component; squared weight units",
        "share": "its share of the variance; ratio",
        "cumulative": "share of this component and all before; ratio",
        "random_share": "`share` of the component of the same rank of Gaussian vectors; ratio",
        "random_cumulative": "`cumulative` of Gaussian vectors; ratio",
        "effective_rank": "exp of the entropy of σ/Σσ of the centred matrix, 1 … d; same in every "
        "row",
        "entropy_dimension": "exp of the entropy of the shares (λ/Σλ), 1 … d; same in every row",
        "participation_ratio": "(Σλ)²/Σλ², 1 … d; same in every row",
        "mean_cosine": "mean cosine over all pairs of vectors (anisotropy); same in every row",
        "cosine_std": "standard deviation of these cosines; same in every row",
        "mean_cosine_centred": "mean cosine after the mean vector is taken off; same in every row",
        "mean_share": "‖mean vector‖² / mean squared norm; ratio, same in every row",
        "norm_mean": "mean norm; weight units, same in every row",
        "norm_std": "standard deviation of the norms; weight units, same in every row",
        "zero_vectors": "vectors of norm 0, left out of the cosines; count, same in every row",
        "random_*": "the same for Gaussian vectors of this size, mean over the draws",
    }
    renamed: ClassVar[Mapping[str, str]] = {
        "effective_rank": "entropy_dimension",
        "random_effective_rank": "random_entropy_dimension",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("share", "random_share"),
            "Variance per principal component",
            "share of the variance",
            "vectors without structure give the nearly flat line of the random ones.",
        ),
        Plot(
            "line",
            ("cumulative", "random_cumulative"),
            "Variance up to a component",
            "share of the variance",
            "vectors without structure give the nearly straight line of the random ones.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, Once]:
        vectors = embedding_matrix(batch.model, self.matrix)
        seeds = range(self.seed, self.seed + self.draws)
        random = [_facts(random_embedding(vectors, seed)) for seed in seeds]
        own = _facts(vectors)
        values = dict(own)
        for name in own if random else ():
            values[f"random_{name}"] = np.mean([facts[name] for facts in random], axis=0)
        return {"facts": Once(values)}

    def table(self, state: State) -> pd.DataFrame:
        values = dict(state["", -1]["facts"].arrays())
        if "entropy_dimension" not in values:  # saved before the two ranks had two names
            values = {self.renamed.get(name, name): x for name, x in values.items()}
        eigenvalues = values.pop("eigenvalue")
        table = pd.DataFrame({"component": np.arange(len(eigenvalues)), "eigenvalue": eigenvalues})
        for prefix in ("", "random_") if "random_share" in values else ("",):
            table[f"{prefix}share"] = values.pop(f"{prefix}share")
            table[f"{prefix}cumulative"] = table[f"{prefix}share"].cumsum()
        values.pop("random_eigenvalue", None)
        return table.assign(**{name: float(value) for name, value in sorted(values.items())})


def _facts(vectors: np.ndarray) -> dict[str, np.ndarray]:
    seen = covariance_spectrum(vectors)
    numbers = {name: np.asarray(x) for name, x in describe_vectors(vectors, seen).items()}
    return {"eigenvalue": seen.eigenvalues, "share": seen.share, **numbers}
