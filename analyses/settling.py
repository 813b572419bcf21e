"""The depth at which a token's prediction settles, from the logit lens."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from interp import Analysis, BadInput, Batch, Leaf, Moments, PerToken, Plot
from interp.measures import entropy_changes, settling


@dataclass(frozen=True)
class Settling(Analysis):
    """When does a prediction come close to the final one, and how late do tokens decide?

    D_l is the Jensen–Shannon divergence between what the logit lens reads at state l and the final
    distribution. A token settles at the first state l ≥ 1 where the smallest D so far is at most
    `threshold`; it is late if that state is ⌈late · L⌉ or deeper, and the mean of `late` is the
    deep-thinking ratio of Chen et al. 2602.13517. Entropy that a state adds to the distribution is
    its expansion, entropy that it takes away its pruning: their sums over depth differ by the
    entropies of the last and the first state. The last state must reproduce the model's own logits
    and is checked on every run.

    The base of the logarithm: with 2, the default, D is in bits and at most 1. The paper names no
    base, but varies its threshold up to 0.75, which natural logarithms (D ≤ ln 2 = 0.69) never
    reach. A threshold of 0.5 in nats is 0.72 in bits: tokens settle earlier by it.

    Controls: an untrained copy (control="random-init"); `late` is 1 for all tokens where only the
    last block writes the prediction, and `settled` is its whole distribution over depth.

    Caveats: all those of `logit_lens`: a state may know what the lens cannot read. The paper writes
    the lens as W_U h; here the model's own final norm comes first, as in `logit_lens`. A prediction
    may settle and leave again (`stays` is larger than `settling_depth` then): the running minimum
    does not see that. Run beside `logit_lens` it computes the lens a second time.

    Attributes:
        threshold: D at which a prediction has settled, in units of `base`.
        late: depth, as a share of the blocks, from which a token decides late.
        base: of the logarithm of D: 2 for bits, e for nats.
        identity_rows: on the first so many tokens of every prompt the last state's readout is
            compared with the model's own logits.
    """

    threshold: float = 0.5
    late: float = 0.85
    base: float = 2.0
    identity_rows: int = 4

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream", "logits", "readout")
    least: ClassVar[Mapping[str, float]] = {"identity_rows": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "js": "D_l, Jensen–Shannon divergence to the final distribution; bits, or units of `base`",
        "js_min": "smallest D of the states 1 … l; NaN at state 0; as `js`",
        "settled": "whether that is at most the threshold; its mean is the share settled by then",
        "settling_depth": "first state where it is; same in all rows of a token",
        "stays": "first state from which D stays at or below the threshold; likewise",
        "late": "1 if settling_depth ≥ ⌈late · L⌉, else 0; same in all rows of a token; its mean "
        "is the deep-thinking ratio",
        "expansion": "entropy that this state adds to that of the state before; NaN at 0; nats",
        "pruning": "entropy that it takes away; NaN at state 0; nats",
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "js*": (0, math.inf),
        "settled": (0, 1),
        "settling_depth": (0, math.inf),
        "stays": (0, math.inf),
        "late": (0, 1),
        "expansion": (0, math.inf),
        "pruning": (0, math.inf),
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("settled", "late"),
            "Predictions that have settled by then",
            "share of tokens",
            "if only the last block wrote the prediction, no token would have settled before the "
            "last state, and all would be late.",
        ),
        Plot(
            "line",
            ("js", "js_min"),
            "Distance to the final distribution",
            "units of the base, bits by default",
            "a stream that carried the prediction from the start would have 0 at every state; it "
            "is 0 at the last one by definition.",
        ),
        Plot(
            "line",
            ("expansion", "pruning"),
            "Entropy gained and lost per state",
            "nats",
            "states that leave the prediction as it is have 0 in both.",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.threshold > 0 or not 0 < self.late <= 1 or not self.base > 1:
            raise BadInput(
                f"settling with threshold={self.threshold}, late={self.late}, base={self.base}: "
                "allowed are a threshold above 0, a share of the depth 0 < late ≤ 1 and a base "
                "above 1; 0.5, 0.85 and 2 are the defaults"
            )
        most = math.log(2) / math.log(self.base)
        if self.threshold >= most:
            raise BadInput(
                f"settling with threshold={self.threshold}: to base {self.base:g} the divergence "
                f"is {most:.3g} at most, so that every token would settle at once; take a smaller "
                "threshold, or base=2, where it is 1"
            )

    def observe(self, batch: Batch) -> dict[str, PerToken | Leaf]:
        rows, logits = batch["stream"][:, batch.mask], batch["logits"][batch.mask]
        checked = batch.positions[batch.mask] < self.identity_rows
        told = batch.readout.lens(rows, logits, batch.targets[batch.mask], checked=checked)
        js = told.js_to_final / math.log(self.base)
        found = settling(js, self.threshold, late=self.late)
        grown, shrunk = entropy_changes(told.entropy)
        once = {"settling_depth": found.depth, "stays": found.stays, "late": found.late}
        values = {"js": js, "js_min": found.lowest, "settled": found.settled}
        values |= {name: value.expand(js.shape) for name, value in once.items()}
        values |= {"expansion": grown, "pruning": shrunk}
        out: dict[str, PerToken | Leaf] = {
            name: PerToken(batch.to_grid(value)) for name, value in values.items()
        }
        if told.end_error is not None:
            every = torch.ones_like(told.end_error, dtype=torch.bool)
            out["identity_error"] = Moments.of(told.end_error, every)
        return out
