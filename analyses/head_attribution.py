"""The contribution of every attention head to the logit of an answer."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from interp import Analysis, Batch, PerHead, Plot
from interp.geometry import at_least_float32


class HeadAttribution(Analysis):
    """Direct contribution of each head to the logit of the target, after W_O.

    Question: which heads write the answer? The output of a head, its mixed values times its part
    of W_O, is read as `logit_attribution` reads whole terms: with the final norm frozen at the
    last state. Given a second answer (against=), every number is of the difference of the two
    logits. The heads of a block and the part of b_O sum to its `attn_logit`. Sources: Elhage et al.
    2021 for direct paths, Wang et al. 2211.00593 for logit differences by head.

    Caveats: those of `logit_attribution`. A model whose attention passes a norm or a scale after
    W_O is refused: there the heads do not add up to what attention adds to the stream.
    """

    sites: ClassVar[tuple[str, ...]] = ("result", "resid_final", "readout")
    columns: ClassVar[Mapping[str, str]] = {
        "head_logit": "part of this head in the logit (difference); logits, NaN without target",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "heatmap",
            ("head_logit",),
            "Heads that write the answer",
            "part of the logit (difference)",
            "heads that have nothing to do with the answer are at 0.",
        ),
    )

    def check_parameters(self, anatomy: Any = None) -> None:
        """Raises `Unsupported` for a model whose contributions to a logit do not add up."""
        if anatomy is not None and anatomy.readout is not None:
            anatomy.readout.check_adds_up(anatomy.d_model, anatomy.dtype)

    def observe(self, batch: Batch) -> dict[str, PerHead]:
        direction, _ = batch.direction()
        result = at_least_float32(batch["result"][batch.mask])
        parts = torch.einsum("rhd,rd->rh", result, direction)
        return {"head_logit": PerHead(batch.to_grid(parts.T).transpose(0, 1))}
