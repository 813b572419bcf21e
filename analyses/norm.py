"""Norm of the residual stream after each block: the analysis to read first."""

import math
from collections.abc import Mapping
from typing import ClassVar

from interp import Analysis, Batch, PerToken, Plot
from interp.geometry import norm


class Norm(Analysis):
    """Norm of each token's vector after each block.

    Question: how does the length of the stream ‖x_{l+1}‖ change with depth? Blocks add to the
    stream, so it grows in most models, and steps of late blocks are to be compared with it.

    Caveats: in many trained models the vector of the first token is a hundred times as long as
    the others (Sun et al. 2024, arXiv 2402.17762); summaries leave such a token out.
    """

    sites: ClassVar[tuple[str, ...]] = ("resid_post",)
    columns: ClassVar[Mapping[str, str]] = {"norm": "‖x_{l+1}‖; activation units"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"norm": (0, math.inf)}
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("norm",),
            "Norm of the stream after each block",
            "activation units",
            "blocks that only turn a vector leave its norm flat.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, PerToken]:
        return {"norm": PerToken(norm(batch["resid_post"]))}
