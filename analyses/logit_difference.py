"""The difference between the logits of two answers, read from every state."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interp import Analysis, BadInput, Batch, Leaf, Moments, PerToken, Plot
from interp.geometry import at_least_float32


@dataclass(frozen=True)
class LogitDifference(Analysis):
    """Logit of one answer minus that of another, at every state and in the end.

    Question: which of two answers does the model prefer, by how much, and from which depth on? A
    logit alone has no fixed zero; the difference of two does, and is ln(P(target)/P(other)). Every
    state is read through the model's own final norm and unembedding, its statistics taken anew;
    the last state has the model's own logits, against which the readout is checked on every run.
    Answers are given to `run` or `attach`: targets=" her", against=" him", or a list of each with
    one per prompt; positions=-1 keeps the end of every prompt. Source: Wang et al. 2211.00593 for
    the measure, nostalgebraist 2020 for the lens.

    Caveats: an early state that prefers neither answer may have them in another basis. A bias of
    the unembedding toward one answer is part of the difference at every state: compare prompts
    that differ in one word, or exchange the answers.

    Attributes:
        identity_rows: on the first so many tokens of every prompt the last state's readout is
            compared with the model's own logits.
    """

    identity_rows: int = 4

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream", "logits", "readout")
    contrasts: ClassVar[bool] = True
    least: ClassVar[Mapping[str, float]] = {"identity_rows": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "logit_diff": "logit of the target minus that of the second answer; nats, NaN without one",
        "target_logit": "logit of the target at this state; NaN without target",
        "contrast_logit": "logit of the second answer at this state; NaN without one",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("logit_diff",),
            "Preference for the target over the other answer",
            "logit difference, nats",
            "a model that prefers neither answer stays at 0.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, PerToken | Leaf]:
        if batch.contrasts is None:
            raise BadInput("it compares two answers, and the second is missing: pass against=")
        mask, logits = batch.mask, batch["logits"][batch.mask]
        rows = batch["stream"][:, mask]
        chosen = batch.positions[mask] < self.identity_rows
        error = batch.readout.check(rows[-1][chosen], logits[chosen])
        answers = {"target": batch.targets[mask], "contrast": batch.contrasts[mask]}
        read = {name: _logits(batch, rows, logits, ids) for name, ids in answers.items()}
        values = {f"{name}_logit": z for name, z in read.items()}
        values["logit_diff"] = read["target"] - read["contrast"]
        out: dict[str, PerToken | Leaf] = {
            name: PerToken(batch.to_grid(z)) for name, z in values.items()
        }
        out["identity_error"] = Moments.of(error, torch.ones_like(error, dtype=torch.bool))
        return out


def _logits(batch: Batch, rows: Tensor, logits: Tensor, ids: Tensor) -> Tensor:
    """Logits of one token per row at every state: `[state, row]`, NaN for none."""
    known = ids.clamp(min=0)
    early = [batch.readout.logits_of(x, known) for x in rows[:-1]]
    last = at_least_float32(logits).gather(-1, known.unsqueeze(-1)).squeeze(-1)
    return torch.stack([*early, last]).masked_fill(ids < 0, torch.nan)
