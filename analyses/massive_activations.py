"""The largest entry of each state against its usual entry, with the dimension that holds it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch

from interp import Analysis, BadInput, Batch, Leaf, PerToken, Plot, State, TopK
from interp.geometry import at_least_float32, ratio


@dataclass(frozen=True)
class MassiveActivations(Analysis):
    """Do single entries of a state dwarf all others? Largest |x_i| against the median |x|.

    In many models a few fixed dimensions of a few tokens, the first above all, are thousands of
    times as large as the rest and nearly the same for all texts (Sun et al. 2402.17762). They carry
    norms, cosines and spectra, and make an attention sink. An entry counts as massive here as
    there: |x_i| > `floor` and |x_i| ≥ `factor` · median |x|.

    Controls: the largest of d independent Gaussian entries is 3.9 times their median for d = 64,
    5.0 for d = 768, 5.6 for d = 4096 (mean of 2000 draws). An untrained copy
    (control="random-init") has no more.

    Caveats: massive tokens are mostly special or first ones, which summaries leave out; pass
    `special=True` to `plot` and `summary`, or read `interp.experiments.massive_dimensions`, which
    looks at all tokens, in corpora too. What a massive dimension does to other columns is told by
    `interp.experiments.leave_out_dimensions`. A dimension is one of the basis that the stream is
    written in, which compatibility mode (folding) does not turn but rescales.

    Attributes:
        factor: times the median from which an entry is massive.
        floor: size, in activation units, that it must exceed as well.
        top: so many states with the largest entries are kept per boundary, over all tokens.
    """

    factor: float = 1000.0
    floor: float = 100.0
    top: int = 16

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream",)
    keys: ClassVar[tuple[str, ...]] = ("dimension",)
    columns: ClassVar[Mapping[str, str]] = {
        "largest": "largest |x_i| of the state; activation units",
        "median": "median |x_i| (the lower one of an even number); activation units",
        "ratio": "largest / median; NaN where the median is 0; ratio",
        "dimension": "number i of the largest entry; a name, so that no mean of it is given",
        "massive_entries": "entries that are massive; count",
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "largest": (0, math.inf),
        "median": (0, math.inf),
        "ratio": (1, math.inf),
        "massive_entries": (0, math.inf),
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("ratio",),
            "Largest entry against the median",
            "ratio",
            "independent Gaussian entries have 4 to 6 at usual widths.",
        ),
        Plot(
            "line",
            ("largest", "median"),
            "Largest and median entry",
            "activation units",
            "both grow with the norm of the stream, at the distance of the Gaussian ratio.",
        ),
        Plot(
            "line",
            ("massive_entries",),
            "Massive entries per state",
            "count",
            "there are none.",
        ),
    )

    def __post_init__(self) -> None:
        if not self.factor > 0 or self.floor < 0 or self.top < 1:
            raise BadInput(
                f"massive_activations with factor={self.factor}, floor={self.floor}, top="
                f"{self.top}: allowed are a factor above 0, a floor of 0 or more and 1 or more "
                "states; 1000, 100 and 16 are the defaults"
            )

    def observe(self, batch: Batch) -> dict[str, PerToken | Leaf]:
        parts = [self._of(x) for x in batch["stream"]]
        out: dict[str, PerToken | Leaf] = {
            name: PerToken(torch.stack([part[name] for part in parts])) for name in self.columns
        }
        for i, part in enumerate(parts):
            about = torch.stack([part["dimension"], part["median"]], dim=-1)
            out[f"top {i}"] = TopK.of(
                self.top, part["largest"], batch.ids, batch.positions, batch.mask, about
            )
        return out

    def _of(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        size = at_least_float32(x).abs()
        largest, dimension = size.max(dim=-1)
        # torch.median sorts no more than it must; it takes the lower of two middle entries.
        median = size.median(dim=-1).values
        massive = (size > self.floor) & (size >= self.factor * median.unsqueeze(-1))
        return {
            "largest": largest,
            "median": median,
            "ratio": ratio(largest, median),
            "dimension": dimension.to(largest.dtype),
            "massive_entries": massive.sum(-1),
        }

    def table(self, state: State) -> pd.DataFrame:
        """The default table, without the means of dimensions that a summary would have."""
        frame = super().table(state)
        if "value" in frame:
            return frame[frame["value"] != "dimension"].reset_index(drop=True)
        return frame.astype({"dimension": "int64"}) if "dimension" in frame else frame
