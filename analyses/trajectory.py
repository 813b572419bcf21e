"""Paths of tokens through state space, on one basis for all tokens and layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp import Analysis, BadInput, Batch, Count, Cov, Leaf, Plot, State, Sum, TopK
from interp.geometry import at_least_float32, norm
from interp.measures import gaussian_share, principal_axes, walk_share

PROMPT = 1 << 21  # more positions than any context has


@dataclass(frozen=True)
class Trajectory(Analysis):
    """Ways of tokens on the principal axes of all their states x_0 … x_L.

    pc_j = (x_l − mean)·axis_j, with one mean and one set of axes for all tokens and layers, from
    a covariance that is summed over the whole run; the coordinates are of the first tokens only.

    Smooth curves alone mean nothing: the states along any random walk lie on such curves
    (Antognini & Sohl-Dickstein 2018), so compare `shown_share` with `walk_share`, and read
    `outside` before believing that two points are close. Special tokens are left out of the basis:
    the huge first-token states of many models would be its first axis.

    Attributes:
        tokens: so many tokens, from the first prompt on, get coordinates.
        components: axes.
        special: take special tokens into the basis.
        unit: bring every state to length 1 first, so that growing norms do not make the axes.
        seed: of the two controls.
    """

    tokens: int = 256
    components: int = 3
    special: bool = False
    unit: bool = False
    seed: int = 0

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream",)
    least: ClassVar[Mapping[str, float]] = {"seed": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "pc*_share": "share of the variance of all states along that axis; same in all rows; ratio",
        "pc*": "coordinate of x_l along a principal axis; activation units, 1 if unit=True",
        "outside": "share of ‖x_l − mean‖² that the axes do not show; ratio",
        "shown_share": "share of the variance of all states that the axes show; same in all rows",
        "walk_share": "control: what they would show of as many random walks with steps as long, "
        "as wide; same in all rows; ratio",
        "gaussian_share": "control: what they would show of as many isotropic Gaussian vectors; "
        "same in all rows; ratio",
        "effective_dimension": "participation ratio (Σλ)²/Σλ² of all states; same in all rows",
        "basis_states": "states in the basis; same in all rows; count",
        "undefined_tokens": "tokens left out of it for a state without finite direction or length; "
        "same in all rows; count",
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"outside": (0, 1)}
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "trajectory",
            ("pc1", "pc2"),
            "Ways through the layers",
            "",
            "random walks give curves as smooth; only what exceeds their share (column "
            "walk_share), or parts the groups, says something of the model.",
        ),
        Plot(
            "trajectory",
            ("pc1", "pc2", "pc3"),
            "The same in three dimensions",
            "",
            "as above; turn it before you believe that two ways cross.",
        ),
        Plot(
            "line",
            ("outside",),
            "What the axes do not show",
            "share of squared distance",
            "axes that have nothing to do with a state leave nearly all of it outside: 1.",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components < 1 or self.tokens < 1:
            raise BadInput(
                f"trajectory with components={self.components}, tokens={self.tokens}: both are at "
                "least 1; 3 and 256 are the defaults"
            )

    def observe(self, batch: Batch) -> dict[str, Leaf]:
        stream = batch["stream"]
        counted = batch.mask if self.special else batch.mask & ~batch.special
        squares = torch.stack(self._squares(stream), dim=-1)
        defined = squares.isfinite().all(-1)
        used = counted & defined
        cov = Cov.of(self._state(stream[0]), used)
        for x in stream[1:]:
            cov = cov.merge(Cov.of(self._state(x), used))
        return {
            "cov": cov,
            "squares": Sum.of(squares, used),
            "used": Count.of(used),
            "undefined": Count.of(counted & ~defined),
            "states": self._first(batch, stream),
        }

    def _state(self, x: Tensor) -> Tensor:
        x = at_least_float32(x)
        return x / norm(x).unsqueeze(-1) if self.unit else x

    def _squares(self, stream: Tensor) -> list[Tensor]:
        """‖x_0‖² and the squared steps: `[batch, pos]` each."""
        before = self._state(stream[0])
        out = [norm(before) ** 2]
        for x in stream[1:]:
            after = self._state(x)
            out.append(norm(after - before) ** 2)
            before = after
        return out

    def _first(self, batch: Batch, stream: Tensor) -> TopK:
        """The states of the first tokens, by prompt and position."""
        order = batch.ids[:, None].double() * PROMPT + batch.positions
        order = order.masked_fill(~batch.mask, torch.inf)
        keep = torch.zeros_like(batch.mask)
        keep.view(-1)[order.view(-1).argsort()[: self.tokens]] = True
        keep &= batch.mask
        states = stream.movedim(0, 2)
        return TopK.of(self.tokens, -order, batch.ids, batch.positions, keep, states)

    def table(self, state: State) -> pd.DataFrame:
        frames = []
        for (stack, _), leaves in sorted(state.items()):
            frame = self._stack_table(leaves)
            frames.append(frame.assign(stack=stack) if stack else frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def _stack_table(self, leaves: Mapping[str, Any]) -> pd.DataFrame:
        cov, first, squares = leaves["cov"], leaves["states"], leaves["squares"]
        used, undefined = leaves["used"], leaves["undefined"]
        axes = principal_axes(cov, self.components)
        order = np.lexsort((first.position, first.prompt))
        n_states = len(squares.total)
        states = torch.from_numpy(first.payload[order].reshape(len(order), n_states, -1))
        places, outside = axes.project(self._state(states).numpy())
        k, n, d = len(axes.shares), int(used.n), len(cov.mean)
        lengths = np.sqrt(squares.total / max(n, 1))
        names = [f"pc{j + 1}" for j in range(k)]
        return pd.DataFrame(
            {
                "prompt": np.repeat(first.prompt[order], n_states),
                "position": np.repeat(first.position[order], n_states),
                "layer": np.tile(np.arange(n_states), len(order)),
            }
            | dict(zip(names, places.reshape(-1, k).T, strict=True))
            | {"outside": outside.reshape(-1)}
            | {f"{name}_share": share for name, share in zip(names, axes.shares, strict=True)}
            | {
                "shown_share": axes.shares.sum(),
                "walk_share": walk_share(n, lengths, d, k, seed=self.seed),
                "gaussian_share": gaussian_share(int(cov.count), d, k, seed=self.seed),
                "effective_dimension": axes.effective_dimension,
                "basis_states": int(cov.count),
                "undefined_tokens": int(undefined.n),
            }
        )
