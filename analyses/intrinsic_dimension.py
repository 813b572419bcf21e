"""Intrinsic dimension of the token cloud at each state, and neighbours kept to the next one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from interp import Analysis, BadInput, Batch, Plot, State, TopK, priority
from interp.measures import gaussian_like, nearest_neighbours, neighbour_overlap, two_nn


@dataclass(frozen=True)
class IntrinsicDimension(Analysis):
    """On how many dimensions do the states of tokens lie, and do neighbours stay neighbours?

    TwoNN (Facco et al. 2017): where the density is constant up to the second neighbour, the ratio
    μ = r₂/r₁ of the distances to the two nearest other tokens has P(μ > m) = m^(−d); d̂ = (n − 1)/
    Σ ln μ. `overlap_next` is the mean share of a token's `k` nearest neighbours that it still has
    at the next state (Doimo et al. 2020). Both over one uniform sample of tokens, the same at all
    states and independent of the batching. Used on tokens by Viswanathan et al. 2501.10573, there
    within long prompts, here over all prompts.

    Bias: TwoNN is too low where dimensions are many. Measured on uniform samples of 1000 in a
    cube: 1.97 for 2 dimensions, 4.65 for 5, 8.5 for 10, 15 for 20, 31 for 50. Compare states with
    each other and with the control; believe no value above 5 as it stands.

    Controls: `gaussian_dimension` is d̂ of as many Gaussian vectors with the same covariance: what
    lies far below it is bent or clustered, which a spectrum cannot tell. `dimension_half` is the
    mean over both halves of the sample, at a scale larger by a factor of 2^(1/d): if it differs,
    there is no one dimension. `overlap_chance` is k/(n − 1).

    Caveats: intervals are those of independent tokens, which those of one prompt are not, and of
    the estimate, not of the dimension: bias is outside them. Equal states
    count once for d̂: at state 0 all tokens of one kind may be equal (`distinct`), and neighbours
    at distance 0 make the overlap with state 1 a matter of order. Below 10 different states d̂ is
    NaN, and below k + 1 tokens the overlap. Large dimensions carry all distances
    (`massive_activations`); special tokens are left out.

    No "curvature" of the cloud from local principal axes is given. Such a number takes as many axes
    as hold a set share of a neighbourhood's variance and reports what they leave: it returns its
    own threshold. With 0.1 left out, 20 neighbours on a flat sheet with noise in eight directions
    gave 0.08 at 5 % of noise and at 20 %, on a bent sheet without noise 0.002.

    Memory is tokens · states · width · 4 bytes whatever the corpus; time grows with tokens².

    Attributes:
        tokens: size of the sample.
        k: neighbours that are compared between states.
        seed: of the sample and the control.
        special: take special tokens in.
    """

    tokens: int = 1000
    k: int = 10
    seed: int = 0
    special: bool = False

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream",)
    least: ClassVar[Mapping[str, float]] = {"seed": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "dimension": "TwoNN estimate d̂; NaN below 10 different states; dimensions",
        "dimension_low": "lower end of its 95 % interval, tokens taken as independent; dimensions",
        "dimension_high": "upper end, likewise",
        "dimension_half": "mean of d̂ over the two halves of the sample; dimensions",
        "gaussian_dimension": "control: d̂ of as many Gaussian vectors with the same covariance",
        "overlap_next": "share of the k nearest neighbours kept at the next state; NaN at the last "
        "state and below k + 1 tokens; ratio",
        "overlap_chance": "control: k/(n − 1), that share by chance; ratio",
        "distinct": "different states in the sample; count",
        "tokens": "tokens in the sample; count",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("dimension", "gaussian_dimension"),
            "Intrinsic dimension of the states",
            "dimensions",
            "states that are Gaussian with their covariance have the same dimension in both.",
        ),
        Plot(
            "line",
            ("overlap_next", "overlap_chance"),
            "Neighbours kept from state to state",
            "share of neighbours",
            "a state that had nothing to do with the one before would be at chance.",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens < 2 or not 1 <= self.k < self.tokens:
            raise BadInput(
                f"intrinsic_dimension with tokens={self.tokens}, k={self.k}: allowed are 2 or more "
                "tokens and 1 to tokens − 1 neighbours; 1000 and 10 are the defaults"
            )

    def observe(self, batch: Batch) -> dict[str, TopK]:
        stream = batch["stream"]
        counted = batch.mask if self.special else batch.mask & ~batch.special
        score = priority(self.seed, batch.ids[:, None], batch.positions, 0).to(stream.device)
        # The same tokens at every state; those that others of this batch displace are not copied.
        best = score.masked_fill(~counted, -torch.inf).view(-1).argsort(descending=True)
        keep = torch.zeros_like(counted)
        keep.view(-1)[best[: self.tokens]] = True
        keep &= counted
        states = stream.movedim(0, 2)
        return {"states": TopK.of(self.tokens, score, batch.ids, batch.positions, keep, states)}

    def table(self, state: State) -> pd.DataFrame:
        frames = []
        for (stack, _), leaves in sorted(state.items()):
            sample = leaves["states"]
            if isinstance(sample, TopK) and len(sample.prompt):
                frame = self._states(sample)
                frames.append(frame.assign(stack=stack) if stack else frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def _states(self, sample: TopK) -> pd.DataFrame:
        order = np.lexsort((sample.position, sample.prompt))
        whole = np.asarray(sample.payload[order], np.float64)
        finite = np.isfinite(whole).all(axis=(1, 2))
        whole, n = whole[finite], int(finite.sum())
        # By score, which is random: halves by prompt would be halves of the text.
        half = np.argsort(np.argsort(sample.scores[order][finite])) % 2 == 0
        near = [
            nearest_neighbours(whole[:, i], self.k) if n > self.k else None
            for i in range(whole.shape[1])
        ]
        records = []
        for i in range(whole.shape[1]):
            here, after = near[i], near[i + 1] if i + 1 < len(near) else None
            kept = (
                neighbour_overlap(here, after) if here is not None and after is not None else np.nan
            )
            records.append(
                {"layer": i}
                | self._dimensions(whole[:, i], half)
                | {
                    "overlap_next": kept,
                    "overlap_chance": self.k / (n - 1) if n > self.k else np.nan,
                    "tokens": n,
                }
            )
        return pd.DataFrame(records)

    def _dimensions(self, x: np.ndarray, half: np.ndarray) -> dict[str, float]:
        found = two_nn(x)
        enough = len(x) > 1
        return {
            "dimension": found.dimension,
            "dimension_low": found.low,
            "dimension_high": found.high,
            "dimension_half": (two_nn(x[half]).dimension + two_nn(x[~half]).dimension) / 2
            if enough
            else np.nan,
            "gaussian_dimension": two_nn(gaussian_like(x, seed=self.seed)).dimension
            if enough
            else np.nan,
            "distinct": found.n,
        }
