"""Similarity of the layers of one model, over a corpus, from sums alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from interp import Analysis, BadInput, Batch, Plot, State
from interp.measures import CrossMoments, streamed_cka

GIGABYTE = 1e9


@dataclass(frozen=True)
class LayerSimilarity(Analysis):
    """Do two layers hold the same geometry? Linear CKA between all states of the stream.

    CKA = HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)), K = X_i X_iᵀ over all tokens (Kornblith et al.
    2019). Debiased with the U-statistic of Song et al. (2012), which these sums give exactly: no
    activations are kept, and batches merge. The null permutes the tokens of one layer; its mean
    and standard deviation are exact, `p` is a gamma approximation, and all three take tokens as
    independent, which those of one prompt are not: `interp.experiments.compare_layers` keeps a
    sample and permutes prompts. A few directions of huge variance (massive activations, rogue
    dimensions) can carry all of CKA; special tokens are left out for that reason.

    Memory is states² / 2 · width² · 8 bytes whatever the corpus, and as many additions per token.

    Attributes:
        stride: take every so many states, counted from the first.
        special: count special tokens too.
        memory: most gigabytes that the state may take; more is refused with what would fit.
    """

    stride: int = 1
    special: bool = False
    memory: float = 2.0

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream",)
    keys: ClassVar[tuple[str, ...]] = ("layer_a", "layer_b")
    least: ClassVar[Mapping[str, float]] = {"stride": 1, "memory": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "layer_a": "first state; 0 enters the first block",
        "layer_b": "second state",
        "cka": "debiased CKA, 0 on average for unrelated layers; NaN below 4 tokens",
        "cka_biased": "plain CKA, in [0, 1]; too large when tokens are few",
        "null_mean": "mean of the plain CKA over all orders of the tokens of one layer",
        "null_sd": "its standard deviation",
        "p": "P(null ≥ plain CKA), gamma approximation; NaN for a layer with itself",
        "p_bonferroni": "p times the number of different pairs, at most 1",
        "tokens": "tokens that were compared",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "heatmap",
            ("cka",),
            "Similarity of layers (debiased CKA)",
            "CKA",
            "layers that had nothing to do with each other would be 0 off the diagonal.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, CrossMoments]:
        stream = batch["stream"]
        chosen = self._states(len(stream))
        self._refuse_large(len(chosen), stream.shape[-1], len(stream))
        keep = batch.mask if self.special else batch.mask & ~batch.special
        keep = keep.to(stream.device)
        rows = np.stack([stream[i][keep].detach().double().cpu().numpy() for i in chosen])
        return {"moments": CrossMoments.of(rows)}

    def _states(self, n: int) -> list[int]:
        return list(range(0, n, self.stride))

    def _refuse_large(self, states: int, width: int, total: int) -> None:
        size = CrossMoments.size(states, width) / GIGABYTE
        if size <= self.memory:
            return
        fits = next(
            (s for s in range(2, total + 1) if self._size(s, total, width) <= self.memory), total
        )
        raise BadInput(
            f"layer_similarity over {states} states of width {width} needs {size:.1f} GB, allowed "
            f"are {self.memory:g}; LayerSimilarity(stride={fits}) fits, memory= allows more, and "
            "interp.compare_layers works on a sample of tokens"
        )

    @staticmethod
    def _size(stride: int, total: int, width: int) -> float:
        return CrossMoments.size(-(-total // stride), width) / GIGABYTE

    def table(self, state: State) -> pd.DataFrame:
        frames = []
        for (stack, _), leaves in sorted(state.items()):
            moments = leaves["moments"]
            if isinstance(moments, CrossMoments):
                frame = self._pairs(moments)
                frames.append(frame.assign(stack=stack) if stack else frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def _pairs(self, moments: CrossMoments) -> pd.DataFrame:
        frame = streamed_cka(moments).frame(self.stride)
        return frame.assign(tokens=int(moments.count))
