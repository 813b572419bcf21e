"""The model's prediction if it stopped at each boundary of the stream."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from interp import Analysis, Batch, Examples, Leaf, Moments, PerToken, Plot
from interp.geometry import on_grid
from interp.models import Best, LensStatistics, read_translators

PLAIN = ("log_prob", "entropy", "kl_to_final")


@dataclass(frozen=True)
class LogitLens(Analysis):
    """Every state read through the model's own final norm and unembedding.

    Question: what would the model say if it stopped here, how sure is it, how far is that from
    what it says in the end? z_l = T(N(x_l) W_U + b_U), N's statistics taken anew at each state and
    T the model's own output transform; KL(final ‖ layer), Jensen–Shannon (at most ln 2) and total
    variation ½Σ|p − q| compare distributions. The last state must reproduce the model's own
    logits and is checked on every run. Source: nostalgebraist 2020.

    Caveats: early states may be in another basis than the last, which a fitted translator would
    take into account (Belrose et al. 2303.08112): a lens that says nothing does not show that the
    state knows nothing. An untrained copy has a lens too: run with control="random-init".

    Attributes:
        examples: of so many prompts the `top_k` tokens of every state and position are kept for
            the figure; 0 does without.
        top_k: how many.
        identity_rows: on the first so many tokens of every prompt the last state's readout is
            compared with the model's own logits.
        readout: a file or folder with a translator per state (a tuned lens, a Jacobian lens; see
            `read_translators`), through which every state but the last goes first; in Python also
            a function of the state's number and `[row, d_model]`. The plain lens is then measured
            as well, in the columns `plain_*`: it is the control.
    """

    examples: int = 3
    top_k: int = 5
    identity_rows: int = 4
    readout: str | Callable[[int, Tensor], Tensor] = ""

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream", "logits", "readout")
    token_columns: ClassVar[tuple[str, ...]] = ("top_token",)
    least: ClassVar[Mapping[str, float]] = {"examples": 0, "top_k": 1, "identity_rows": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "log_prob": "log P(target) at this state, of the next token or of what targets= names; "
        "nats, NaN if none",
        "rank": "tokens with a larger logit than the target, 0 = best; NaN without target",
        "entropy": "entropy of the state's distribution; nats",
        "kl_to_final": "KL(final ‖ state); nats",
        "js_to_final": "Jensen–Shannon divergence to the final distribution, ≤ ln 2; nats",
        "tv_to_final": "total variation ½Σ|p−q| to the final distribution, ≤ 1",
        "top_token": "the state's most probable token",
        "top_prob": "its probability",
        "agrees": "whether it is the final distribution's most probable token too",
        "plain_log_prob": "log_prob without the translators; nats",
        "plain_entropy": "entropy without the translators; nats",
        "plain_kl_to_final": "kl_to_final without the translators; nats",
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "*log_prob": (-math.inf, 0),
        "rank": (0, math.inf),
        "*entropy": (0, math.inf),
        "*kl_to_final": (0, math.inf),
        "js_to_final": (0, math.log(2)),
        "tv_to_final": (0, 1),
        "top_prob": (0, 1),
        "agrees": (0, 1),
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "heatmap",
            ("top_prob",),
            "Most probable token at each state",
            "probability",
            "if nothing were decided on the way, only the top row would be bold; if nothing were "
            "known at all, every cell would be pale.",
        ),
        Plot(
            "line",
            ("log_prob", "plain_log_prob"),
            "Log-probability of the next token",
            "nats",
            "a guess among V tokens has log-probability −ln V at every state; a flat line says "
            "that depth adds nothing.",
        ),
        Plot(
            "line",
            ("kl_to_final", "entropy", "plain_kl_to_final", "plain_entropy"),
            "Distance to the final distribution",
            "nats",
            "KL is 0 at every state, because no block changes the prediction. At the last state "
            "it is 0 in every model: there the final distribution is compared with itself.",
        ),
    )

    def check_parameters(self, anatomy: Any = None) -> None:
        """Raises `BadInput` where `readout` holds no translators, or those of another model."""
        if not self.readout or callable(self.readout):
            return
        translators = read_translators(self.readout)
        if anatomy is not None and anatomy.readout is not None:
            blocks = {stack.name: stack.n_blocks for stack in anatomy.stacks}
            states = blocks[anatomy.readout_stack] + 1
            translators.check(anatomy.readout, states, anatomy.d_model)

    def observe(self, batch: Batch) -> dict[str, PerToken | Leaf]:
        stream, mask = batch["stream"], batch.mask
        rows, logits = _real(stream, mask), _real(batch["logits"], mask)
        shown = _shown(batch, self.examples)
        stats = batch.readout.lens(
            self._translated(batch, rows),
            logits,
            batch.targets[mask],
            best=self.top_k,
            best_rows=shown,
            checked=batch.positions[mask] < self.identity_rows,
        )
        out: dict[str, PerToken | Leaf] = {
            name: PerToken(on_grid(getattr(stats, name), mask)) for name in LensStatistics.names()
        }
        if self.readout:
            plain = batch.readout.lens(rows, logits, batch.targets[mask])
            for name in PLAIN:
                out[f"plain_{name}"] = PerToken(on_grid(getattr(plain, name), mask))
        if stats.end_error is not None:
            out["identity_error"] = Moments.of(stats.end_error, _all(stats.end_error))
        if stats.best is not None:
            out |= self._examples(batch, stats.best, stats.top_prob[:, shown])
        return out

    def _translated(self, batch: Batch, rows: Tensor) -> Tensor:
        """States `[state, row, d_model]` as they are read; the last one is the model's own."""
        if not self.readout:
            return rows
        if callable(self.readout):
            translated = [self.readout(i, x) for i, x in enumerate(rows[:-1])]
            return torch.stack([*translated, rows[-1]])
        translators = read_translators(self.readout)
        translators.check(batch.readout, len(rows), rows.shape[-1])
        return translators.apply(rows)

    def _examples(self, batch: Batch, best: Best, top_prob: Tensor) -> dict[str, Leaf]:
        keep = _kept(batch, self.examples)
        mask, ids = batch.mask[keep], batch.ids[keep]
        # By the known probability of the first, without another sum over the vocabulary.
        prob = top_prob.unsqueeze(-1) * (best.logits - best.logits[..., :1]).exp()
        prob, token = (on_grid(x, mask).transpose(0, 1) for x in (prob, best.tokens))
        return {
            "top_probs": Examples.of(self.examples, prob, ids, mask, axes=(1,)),
            "top_tokens": Examples.of(self.examples, token, ids, mask, axes=(1,)),
        }


def _all(rows: Tensor) -> Tensor:
    return torch.ones_like(rows, dtype=torch.bool)


def _kept(batch: Batch, examples: int) -> Tensor:
    """Which prompts of the batch are shown: known from the id alone, whatever else comes."""
    return batch.ids.to(batch.mask.device) < examples


def _shown(batch: Batch, examples: int) -> Tensor:
    """Which real tokens are those of shown prompts, `[row]`."""
    return _kept(batch, examples).unsqueeze(-1).expand_as(batch.mask)[batch.mask]


def _real(x: Tensor, mask: Tensor) -> Tensor:
    """The vectors of the real tokens, `[..., batch, pos, d] -> [..., row, d]`."""
    # A view where nothing is padded: a copy of the logits is the largest thing in memory.
    return x.flatten(-3, -2) if bool(mask.all()) else x[..., mask, :]
