"""Mean, position, context and rest: what a state is made of, as shares of the variance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from interp import Analysis, BadInput, Batch, Plot, State
from interp.measures import PositionContextSums, position_context

PARTS = ("position", "context", "rest")


@dataclass(frozen=True)
class MeanPositionContext(Analysis):
    """How much of a state is its position, how much its text? Shares of variance, per state.

    x_{c,t} = μ + pos_t + ctx_c + rest_{c,t} over prompts c and positions t (Song & Zhong
    2310.04861): pos_t is the mean of a position over prompts, ctx_c that of a prompt over
    positions, both minus the mean μ of all. Every prompt gives the same positions `first` …
    `first` + `length` − 1, so that the parts are orthogonal and their squares add up to the
    variance Σ ‖x − μ‖². A prompt that is too short for them, or has a special token among them, is
    left out and counted. Sums only: a corpus takes no more room than ten prompts.

    Controls: `…_chance` is the share if all states were exchanged at random, exactly; it is large
    where prompts or positions are few. Intervals leave out about a tenth of the prompts at
    a time.

    Caveats: means over prompts of another kind of text have other parts. Position 0 is left out:
    first tokens of many models are huge and would be all of the position. Neighbouring positions
    are alike in any smooth text, and a topic that lasts makes neighbouring states alike: neither
    is "position" here unless it is so in every prompt.

    Attributes:
        first: the first position that counts; 0 is the first token of the prompt.
        length: number of positions.
        special: let prompts in that have a special token among these positions.
    """

    first: int = 1
    length: int = 8
    special: bool = False

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream",)
    columns: ClassVar[Mapping[str, str]] = {
        "position_share": "share of pos_t in Σ ‖x − μ‖²; the three shares sum to 1; ratio",
        "context_share": "share of ctx_c; ratio",
        "rest_share": "share of what is neither; ratio",
        "*_share_low": "lower end of the 95 % interval over prompts (jackknife over ten "
        "groups); ratio, NaN for so few prompts that fewer than three groups have one",
        "*_share_high": "upper end, likewise",
        "*_chance": "expectation of the share if all states were exchanged at random; ratio",
        "mean_share": "‖μ‖² over the mean of ‖x‖²; ratio",
        "position_dimension": "participation ratio of the pos_t: 1 for a line; count",
        "prompts": "prompts that count, same in all rows",
        "left_out": "prompts that are too short or have a special token there; same in all rows",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("position_share", "context_share", "rest_share"),
            "What states differ by",
            "share of the variance",
            "states that depend on neither position nor text have the shares of the columns "
            "`…_chance`; nearly all of their variance is rest.",
        ),
        Plot(
            "line",
            ("position_share", "position_chance", "context_share", "context_chance"),
            "Position and context against chance",
            "share of the variance",
            "each share would be its chance.",
        ),
    )

    def __post_init__(self) -> None:
        if self.first < 0 or self.length < 2:
            raise BadInput(
                f"mean_position_context with first={self.first}, length={self.length}: allowed are "
                "a first position of 0 or more and 2 or more positions; 1 and 8 are the defaults"
            )

    def observe(self, batch: Batch) -> dict[str, PositionContextSums]:
        rows, columns, short = self._windows(batch)
        ids = batch.ids.cpu().numpy()[rows.cpu().numpy()]
        states = [
            PositionContextSums.of(
                x[rows[:, None], columns].detach().double().cpu().numpy(), ids, short
            )
            for x in batch["stream"]
        ]
        return {f"sums {i}": one for i, one in enumerate(states)}

    def _windows(self, batch: Batch) -> tuple[Tensor, Tensor, int]:
        """Prompts `[C]` with all positions, their columns `[C, T]`, and how many lack some."""
        mask, positions = batch.mask, batch.positions
        wanted = mask & (positions >= self.first) & (positions < self.first + self.length)
        allowed = wanted if self.special else wanted & ~batch.special
        full = allowed.sum(-1) == self.length
        rows = full.nonzero().squeeze(-1)
        columns = allowed[rows].nonzero()[:, 1].view(-1, self.length)
        return rows, columns, int((mask.any(-1) & ~full).sum())

    def table(self, state: State) -> pd.DataFrame:
        frames = []
        for (stack, _), leaves in sorted(state.items()):
            found = [leaves[f"sums {i}"] for i in range(len(leaves))]
            records = [
                _record(sums) | {"layer": layer}
                for layer, sums in enumerate(found)
                if isinstance(sums, PositionContextSums)
            ]
            frame = pd.DataFrame(records)
            frames.append(frame.assign(stack=stack) if stack else frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _record(sums: PositionContextSums) -> dict[str, float]:
    found = position_context(sums)
    out: dict[str, float] = {}
    for i, part in enumerate(PARTS):
        out |= {
            f"{part}_share": float(found.shares[i]),
            f"{part}_share_low": float(found.low[i]),
            f"{part}_share_high": float(found.high[i]),
            f"{part}_chance": float(found.chance[i]),
        }
    out |= {"mean_share": found.mean_share, "position_dimension": found.position_dimension}
    return out | {"prompts": found.contexts, "left_out": int(np.asarray(sums.left_out))}
