"""The model's own prediction of the next token, and its certainty."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from interp import Analysis, Batch, PerToken, Plot
from interp.geometry import at_least_float32


class NextToken(Analysis):
    """Logit, log-probability and rank of the next token in the model's own output.

    Also the certainty of that output: entropy −Σ p ln p and the largest probability. These are the
    last state of `logit_lens` without the states before it, and so without their cost: read this
    where only the outcome matters, as in `interp.experiments.path_prediction`. A logit alone has
    no fixed zero: adding the same number to all of them changes no probability, so compare logits
    within one model only.
    """

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("logits",)
    columns: ClassVar[Mapping[str, str]] = {
        "logit": "logit of the target, the next token or what targets= names; NaN if none",
        "log_prob": "log P(target); nats, NaN if none",
        "rank": "tokens with a larger logit than the target, 0 = best; NaN without target",
        "entropy": "entropy of the output; nats",
        "top_prob": "probability of the most probable token",
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "log_prob": (-math.inf, 0),
        "rank": (0, math.inf),
        "entropy": (0, math.inf),
        "top_prob": (0, 1),
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("log_prob", "entropy"),
            "Prediction of the next token along the prompt",
            "nats",
            "a guess among V tokens has log-probability −ln V and entropy ln V at every position.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, PerToken]:
        # Prompt by prompt: probabilities of a whole batch would be as large as its logits.
        pairs = zip(batch["logits"], batch.targets.to(batch["logits"].device), strict=True)
        rows = [_outcome(at_least_float32(z), target) for z, target in pairs]
        names = rows[0] if rows else ()
        return {name: PerToken(torch.stack([row[name] for row in rows])) for name in names}


def _outcome(z: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Statistics of logits `z [pos, vocab]` for targets `[pos]`, -1 for none: `[pos]` each."""
    logit = z.gather(-1, targets.clamp(min=0).unsqueeze(-1))
    log_p = torch.log_softmax(z, dim=-1)
    p = log_p.exp()
    missing, nothing = targets < 0, torch.nan
    log_prob = log_p.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return {
        "logit": logit.squeeze(-1).masked_fill(missing, nothing),
        "log_prob": log_prob.masked_fill(missing, nothing),
        "rank": (z > logit).sum(-1).to(z.dtype).masked_fill(missing, nothing),
        "entropy": torch.special.entr(p).sum(-1),
        "top_prob": p.amax(-1),
    }
