"""Geometry of predictions: norms or angles, direction of the loss, visible part of a state."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from interp import Analysis, Batch, Leaf, Moments, PerToken, Plot, priority
from interp.models import prediction_statistics


@dataclass(frozen=True)
class PredictionGeometry(Analysis):
    """Geometry of every state's prediction, of h = N(x_l), the vector after the final norm.

    Questions: (1) a logit is z_i = ‖w_i‖ ‖h‖ cos θ_i + b_i; do norms, angles or the bias put the
    top tokens in their order? (2) ∇_h(−log P(true)) = Σ_i P(i) w_i − w_true: how hard and at which
    angle to h does the next token pull? (3) how much of h and of the spread of the logits does
    each band of singular directions of W_U carry, and how far does the prediction move when only
    the first bands are kept? The last band holds the dark directions. Formulas and sources:
    `interp.models.prediction_statistics` (Cancedda 2402.09221 for the dark directions).

    Controls: `random_…` of (1) is the same for h turned by a random orthogonal matrix, of (2) the
    pull of a random token, of (3) bands of random orthogonal directions (there each share of ‖h‖²
    is 1 / bands on average). The token of (2) is drawn uniformly over the vocabulary, and the
    tokens of a text are not: their rows of W_U differ in length and direction. So the true token
    pulls otherwise than the random one even if h knows nothing of it. Whether h knows something
    is told by the true tokens shuffled among the positions (`others` of
    `interp.models.prediction_statistics`).

    Caveats: bands have an equal number of directions. z is the linear part; a soft cap or logit
    scale T enters the probabilities and the gradient, not the split and the shares. Learned
    weights of the final norm are in h (or folded into W_U in compatibility mode): the numbers of
    both bases differ. Costs about 3 + 2·bands times the logit lens.

    Attributes:
        k: how many top tokens are split and ranked.
        bands: into how many bands the singular directions are cut.
        seed: of the controls.
        identity_rows: on the first so many tokens of every prompt the last state's readout is
            compared with the model's own logits.
    """

    k: int = 20
    bands: int = 4
    seed: int = 0
    identity_rows: int = 4

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream", "logits", "readout")
    least: ClassVar[Mapping[str, float]] = {"k": 2, "bands": 2, "seed": 0, "identity_rows": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "h_norm": "‖h‖ after the final norm; activation units",
        "norm_share": "part of the norms ‖w_i‖ in the variance of the top-k logits; ratio",
        "cosine_share": "part of the cosines cos θ_i in it; ratio",
        "bias_share": "part of the bias in it; the three sum to 1; ratio",
        "logit_cosine_spearman": "rank correlation of logit and cosine over the top-k tokens",
        "logit_norm_spearman": "rank correlation of logit and ‖w_i‖ over the top-k tokens",
        "top_cosine": "cos θ of the most probable token",
        "top_cosine_rank": "how many tokens of the vocabulary have a larger cosine with h",
        "random_cosine_share": "control: cosine_share for h turned at random; ratio",
        "random_logit_cosine_spearman": "control: logit_cosine_spearman for h turned at random",
        "gradient_norm": "‖∇_h(−log P(target))‖; nats per activation unit, NaN without target",
        "gradient_angle": "angle between that gradient and h; degrees",
        "random_gradient_norm": "control: gradient_norm for a random token as the target",
        "random_gradient_angle": "control: gradient_angle for a random target; degrees",
        "h_share_*": "share of ‖h‖² in band j of the singular directions, 1 = largest; ratio",
        "logit_share_*": "part of band j in the variance of the logits over the vocabulary; ratio",
        "kl_top_*": "KL(full ‖ only the first j bands of h kept); nats",
        "random_h_share_*": "control: share of ‖h‖² in as many random directions; ratio",
        "random_kl_top_*": "control: KL when j bands of random directions are kept; nats",
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "*_norm": (0, math.inf),
        "*_angle": (0, 180),
        "*_spearman": (-1, 1),
        "top_cosine": (-1, 1),
        "top_cosine_rank": (0, math.inf),
        "*h_share_*": (0, 1),
        "*kl_top_*": (0, math.inf),
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("norm_share", "cosine_share", "random_cosine_share"),
            "What puts the top tokens in their order",
            "share of the variance",
            "if h had nothing to do with the tokens' directions, its cosines would decide as much "
            "as those of a vector turned at random.",
        ),
        Plot(
            "line",
            ("gradient_norm", "random_gradient_norm"),
            "How hard the loss pulls",
            "nats per activation unit",
            "a state that knows nothing of the next token is pulled to it as hard as to another "
            "token of the text. The random token here is drawn from the whole vocabulary, so the "
            "lines may differ all the same.",
        ),
        Plot(
            "line",
            ("kl_top_2", "random_kl_top_2"),
            "Prediction from half of the singular directions",
            "nats",
            "if all directions counted alike, the larger half of them would do no better than a "
            "random half.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, PerToken | Leaf]:
        mask, readout = batch.mask, batch.readout
        rows, logits = batch["stream"][:, mask], batch["logits"][mask]
        chosen = batch.positions[mask] < self.identity_rows
        error = readout.check(rows[-1][chosen], logits[chosen])
        values = prediction_statistics(
            readout,
            rows,
            batch.targets[mask],
            others=self._random_tokens(batch, logits.shape[-1]),
            k=self.k,
            bands=self.bands,
            seed=self.seed,
        )
        out: dict[str, PerToken | Leaf] = {
            name: PerToken(batch.to_grid(value)) for name, value in values.items()
        }
        out["identity_error"] = Moments.of(error, torch.ones_like(error, dtype=torch.bool))
        return out

    def _random_tokens(self, batch: Batch, vocab: int) -> torch.Tensor:
        """A token per real position, the same in any batch: `[row]`."""
        draw = priority(self.seed, batch.ids[:, None], batch.positions, 0)
        return (draw * vocab).long().to(batch.mask.device)[batch.mask]
