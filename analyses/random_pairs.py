"""Angles between vectors that have nothing to do with each other: the control of every angle."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from interp import Analysis, Batch, Plot, State, TopK, priority
from interp.geometry import angle


@dataclass(frozen=True)
class RandomPairs(Analysis):
    """Angles of pairs of states from random tokens, positions and blocks, in degrees.

    Question: how far apart are vectors that have nothing to do with each other? That is the scale
    on which every angle of `rotation` is to be read: the space is anisotropic, so random pairs are
    not at 90° (Ethayarajh 2019; Timkey & van Schijndel 2109.04404). A uniform sample of states is
    kept per block, independent of the batching; special tokens are left out unless asked for.

    Attributes:
        per_layer: states kept per block.
        pairs: pairs drawn within each block, and as many times the number of blocks across all.
        seed: of the sample and of the pairing.
        special: keep special tokens.
    """

    per_layer: int = 128
    pairs: int = 128
    seed: int = 0
    special: bool = False

    sites: ClassVar[tuple[str, ...]] = ("resid_post",)
    keys: ClassVar[tuple[str, ...]] = ("kind", "layer_a", "layer_b", "prompt_a", "prompt_b")
    least: ClassVar[Mapping[str, float]] = {"per_layer": 2, "pairs": 1, "seed": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "kind": "'same layer': both states leave the block `layer`; 'any layers': each from any",
        "angle": "angle of the pair; degrees",
        "layer_a": "block that the first state leaves",
        "layer_b": "block that the second state leaves",
        "prompt_a": "prompt of the first state",
        "prompt_b": "prompt of the second state; never the same token as the first",
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"angle": (0, 180)}
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("angle",),
            "Angle between random pairs of states",
            "degrees",
            "in an isotropic space random pairs are at 90°.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, TopK]:
        states = batch["resid_post"]
        keep = batch.mask if self.special else batch.mask & ~batch.special
        score = priority(self.seed, batch.ids[:, None], batch.positions, batch.layer or 0)
        score = score.to(states.device)
        sample = TopK.of(self.per_layer, score, batch.ids, batch.positions, keep, states)
        return {"states": sample}

    def table(self, state: State) -> pd.DataFrame:
        frames = []
        for stack in sorted({key[0] for key in state}):
            layers = {
                layer: state[stack, layer]["states"] for s, layer in sorted(state) if s == stack
            }
            pool = _pool({n: leaf for n, leaf in layers.items() if isinstance(leaf, TopK)})
            frame = self._pairs(*pool)
            frames.append(frame.assign(stack=stack) if stack else frame)
        return pd.concat(frames, ignore_index=True)

    def _pairs(self, vectors: torch.Tensor, origin: pd.DataFrame) -> pd.DataFrame:
        random = np.random.default_rng(self.seed)
        groups = [np.flatnonzero(origin["layer"] == n) for n in origin["layer"].unique()]
        draws = [_draw(group, self.pairs, random) for group in groups]
        anywhere = _draw(np.arange(len(origin)), self.pairs * len(groups), random)
        first, second = np.concatenate([*draws, anywhere]).T
        within = np.arange(len(first)) < sum(map(len, draws))
        a, b = origin.iloc[first], origin.iloc[second]
        # One token at two layers is no random pair.
        same = (a[["prompt", "position"]].to_numpy() == b[["prompt", "position"]].to_numpy()).all(1)
        first, second, within = first[~same], second[~same], within[~same]
        a, b = a[~same], b[~same]
        layer = pd.array(a["layer"], dtype="Int64")
        layer[~within] = pd.NA  # pairs across layers belong to none
        return pd.DataFrame(
            {
                "layer": layer,
                "kind": np.where(within, "same layer", "any layers"),
                "angle": angle(vectors[first], vectors[second]).numpy(),
                "layer_a": a["layer"].to_numpy(),
                "layer_b": b["layer"].to_numpy(),
                "prompt_a": a["prompt"].to_numpy(),
                "prompt_b": b["prompt"].to_numpy(),
            }
        )


def _pool(layers: Mapping[int, TopK]) -> tuple[torch.Tensor, pd.DataFrame]:
    vectors = torch.from_numpy(np.concatenate([leaf.payload for leaf in layers.values()]))
    origin = pd.concat(
        [
            pd.DataFrame({"layer": n, "prompt": leaf.prompt, "position": leaf.position})
            for n, leaf in layers.items()
        ],
        ignore_index=True,
    )
    return vectors, origin


def _draw(members: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """`n` pairs `[n, 2]` of two different members; none where there are fewer than two."""
    if len(members) < 2:
        return np.empty((0, 2), dtype=np.int64)
    first = random.integers(len(members), size=n)
    second = (first + random.integers(1, len(members), size=n)) % len(members)
    return members[np.stack([first, second], axis=1)]
