"""Is the unembedding the embedding again, and what do its rows have in common?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch

from interp import Analysis, Batch, Once, Plot, State
from interp.models import tying


@dataclass(frozen=True)
class Unembedding(Analysis):
    """Every token's row of W_U beside its row of W_E, and beside the mean row of each.

    Question: does the model read out with the vectors that it reads in (weight tying), how far
    apart are the two if not, how different are the tokens' norms, and is there a direction that
    all tokens share? Formulas and source: `interp.models.tying` (Press & Wolf 2017). One row per
    token of the vocabulary, unused ones included.

    Caveats: in compatibility mode the final norm's weights are folded into W_U and its mean is
    taken out, so that tied weights no longer look tied. Where W_U has another width than W_E, or
    the bridge has no W_E, what compares the two is NaN.

    Attributes:
        seed: of the permutation that pairs tokens at random, for the control.
    """

    seed: int = 0

    scope: ClassVar = "weights"
    keys: ClassVar[tuple[str, ...]] = ("vocab_id", "vocab_token")
    token_columns: ClassVar[tuple[str, ...]] = ("vocab_token",)
    least: ClassVar[Mapping[str, float]] = {"seed": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "vocab_id": "id of the token that the row is of",
        "vocab_token": "its text",
        "norm": "‖w_U‖, norm of the token's unembedding; weight units",
        "mean_cosine": "cosine between w_U and the mean of all rows of W_U",
        "embedding_norm": "‖w_E‖, norm of its embedding; weight units",
        "embedding_mean_cosine": "cosine between w_E and the mean of all rows of W_E",
        "cosine": "cosine between w_U and w_E of the same token; 1 for tied weights",
        "shuffled_cosine": "control: cosine between w_U and the w_E of another, random token",
        "difference": "‖w_U − w_E‖ / ‖w_E‖; ratio, 0 for tied weights",
        "same": "whether w_U and w_E are equal to the last bit",
        "bias": "b_U of the token, 0 where the model has none; logits",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "scatter",
            ("shuffled_cosine", "cosine"),
            "Unembedding against embedding: another token's, its own",
            "cosine",
            "if the two matrices had nothing to do with each other, the points would lie around "
            "the diagonal; tied weights have all of them at 1.",
        ),
        Plot(
            "scatter",
            ("norm", "mean_cosine"),
            "Norm of every token's unembedding, and its cosine with the mean row",
            "weight units, cosine",
            "rows that share no direction have cosines around 0; rows of equal norm are one "
            "vertical line.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, Once]:
        values = tying(batch.model, seed=self.seed)
        values["vocab_token"] = torch.arange(len(values["norm"]), device="cpu")
        return {name: Once({"values": x.cpu().numpy().copy()}) for name, x in values.items()}

    def table(self, state: State) -> pd.DataFrame:
        (leaves,) = state.values()
        ids = leaves["vocab_token"].arrays()["values"]
        names = [name for name in self.columns if name in leaves and name != "vocab_token"]
        values = {name: leaves[name].arrays()["values"] for name in names}
        return pd.DataFrame({"vocab_id": ids, "vocab_token": ids} | values)
