"""Spectrum of the states of all tokens, at each boundary of the stream."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import scipy
from torch import Tensor

from interp import Analysis, BadInput, Batch, Count, Cov, Leaf, Moments, Plot, State, Sum
from interp.geometry import at_least_float32, unit
from interp.measures import gaussian_spectrum, matrix_entropy, power_law, spectrum_of_sums


@dataclass(frozen=True)
class Spectrum(Analysis):
    """Over how many directions do the states of a layer spread? From sums over all tokens.

    Of the eigenvalues λ of the covariance of all tokens' states x_l: participation ratio
    (Σλ)²/Σλ²; RankMe, exp of the entropy of σ/Σσ with σ = √λ (Garrido et al. 2023; here of the
    centred states, as `effective_rank` in `embedding`); α of the decay λ_i ∝ i^(−α), least squares
    of ln λ_i on ln i over the numbers `alpha_first` … `alpha_last` (α-ReQ, Agrawal et al. 2022).
    RankMe and α over pretraining: Li et al. 2509.23024, who take the last token of each text and
    the last layer; here all tokens and all states count. Of every prompt, the entropy of the
    eigenvalues of X Xᵀ/tr (matrix entropy, not centred; Skean et al. 2502.02013), averaged over
    prompts. Of all pairs of tokens, the mean cosine, exact: (‖Σ x̂‖² − n)/(n(n − 1)).

    Controls: `random_…` is the same of as many isotropic Gaussian vectors as wide (one draw), so
    what few tokens do to a spectrum stands beside it; without structure the mean cosine is 0.

    Caveats: tokens of one prompt are alike, so that the number of tokens overstates what is known:
    the spectrum of a few prompts is theirs. RankMe and α depend on the number of tokens up to many
    times the width. One huge token or dimension carries all of them: special tokens are left out,
    and `massive_activations` shows which dimensions remain. What is not defined for so few tokens
    is NaN: below two tokens all, below 5 eigenvalues in the range of the fit its α.

    Memory is states · width² · 8 bytes whatever the corpus.

    Attributes:
        fit_first, fit_last: eigenvalues that α is fitted to, counted from 1, both included; the
            range is cut where the spectrum ends.
        special: count special tokens too.
        seed: of the control.
    """

    fit_first: int = 11
    fit_last: int = 100
    special: bool = False
    seed: int = 0

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream",)
    least: ClassVar[Mapping[str, float]] = {"seed": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "participation_ratio": "(Σλ)²/Σλ² of the covariance over tokens: 1 … width; directions",
        "rankme": "exp of the entropy of σ/Σσ, σ = √λ: 1 … width; directions",
        "alpha": "exponent of the decay of λ over the fitted range; NaN below 5 eigenvalues",
        "alpha_r2": "share of the variance of ln λ that the power law explains; ratio",
        "alpha_first": "number of the first fitted eigenvalue, from 1",
        "alpha_last": "number of the last one",
        "random_participation_ratio": "control: as many isotropic Gaussian vectors; directions",
        "random_rankme": "control, likewise; directions",
        "random_alpha": "control, likewise, over the same range",
        "matrix_entropy": "entropy of the eigenvalues of a prompt's X Xᵀ/tr, mean over prompts; "
        "nats",
        "matrix_entropy_low": "lower end of its 95 % interval over prompts (t); NaN for one prompt",
        "matrix_entropy_high": "upper end, likewise",
        "matrix_entropy_share": "it over its maximum ln min(tokens, width), mean over prompts of "
        "two tokens or more; ratio",
        "mean_cosine": "mean cosine of all pairs of different tokens; NaN below two",
        "tokens": "tokens that count; count",
        "undefined_tokens": "tokens left out for a state that is not finite; count",
        "prompts": "prompts in the matrix entropy; count",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("participation_ratio", "rankme", "random_participation_ratio", "random_rankme"),
            "Directions that the states spread over",
            "directions",
            "states without structure spread as the random ones do.",
        ),
        Plot(
            "line",
            ("alpha", "random_alpha"),
            "Decay of the eigenvalues",
            "exponent α",
            "states without structure decay as the random ones, by sampling alone.",
        ),
        Plot(
            "line",
            ("matrix_entropy",),
            "Matrix entropy of a prompt",
            "nats",
            "tokens at right angles and of equal length have the logarithm of their number.",
        ),
        Plot(
            "line",
            ("mean_cosine",),
            "Mean cosine of two tokens",
            "cosine",
            "states in random directions have 0.",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            power_law(np.ones(1), self.fit_first, self.fit_last)
        except BadInput as error:
            raise BadInput(
                f"spectrum with fit_first={self.fit_first}, fit_last={self.fit_last}: {error}"
            ) from error

    def observe(self, batch: Batch) -> dict[str, Leaf]:
        counted = batch.mask if self.special else batch.mask & ~batch.special
        out: dict[str, Leaf] = {}
        for i, x in enumerate(batch["stream"]):
            x = at_least_float32(x)
            finite = x.isfinite().all(-1)
            used = counted & finite
            direction = unit(x)
            known = used & direction.isfinite().all(-1)
            out |= {
                f"cov {i}": Cov.of(x, used),
                f"directions {i}": Sum.of(direction, known),
                f"directed {i}": Count.of(known),
                f"undefined {i}": Count.of(counted & ~finite),
                f"entropy {i}": Moments.of_rows(_entropies(x, used)),
            }
        return out

    def table(self, state: State) -> pd.DataFrame:
        frames = []
        for (stack, _), leaves in sorted(state.items()):
            n = sum(name.startswith("cov ") for name in leaves)
            records = [{"layer": i} | self._record(leaves, i) for i in range(n)]
            frame = pd.DataFrame(records)
            frames.append(frame.assign(stack=stack) if stack else frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def _record(self, leaves: Mapping[str, Any], i: int) -> dict[str, float]:
        cov, entropy = leaves[f"cov {i}"], leaves[f"entropy {i}"]
        n, d = int(cov.count), len(cov.mean)
        seen = spectrum_of_sums(cov)
        fit = power_law(seen.eigenvalues, self.fit_first, self.fit_last)
        total, pairs = leaves[f"directions {i}"].total, int(leaves[f"directed {i}"].n)
        low, high = _interval(entropy)
        return {
            **_ranks("", seen.eigenvalues),
            "alpha": fit.alpha,
            "alpha_r2": fit.r2,
            "alpha_first": fit.first,
            "alpha_last": fit.last,
            **self._control(n, d),
            "matrix_entropy": float(entropy.mean[0]),
            "matrix_entropy_low": low,
            "matrix_entropy_high": high,
            "matrix_entropy_share": float(entropy.mean[1]),
            "mean_cosine": float(total @ total - pairs) / (pairs * (pairs - 1))
            if pairs > 1
            else np.nan,
            "tokens": n,
            "undefined_tokens": int(leaves[f"undefined {i}"].n),
            "prompts": int(entropy.count[0]),
        }

    def _control(self, n: int, d: int) -> dict[str, float]:
        values = gaussian_spectrum(n, d, seed=self.seed)
        fit = power_law(values, self.fit_first, self.fit_last)
        return {**_ranks("random_", values), "random_alpha": fit.alpha}


def _ranks(prefix: str, eigenvalues: np.ndarray) -> dict[str, float]:
    """Participation ratio and RankMe; NaN where there is no variance."""
    total = eigenvalues.sum()
    if not (np.isfinite(total) and total > 0):
        return {f"{prefix}participation_ratio": np.nan, f"{prefix}rankme": np.nan}
    ratio = total**2 / (eigenvalues**2).sum()
    rank = np.exp(scipy.stats.entropy(np.sqrt(eigenvalues)))
    return {f"{prefix}participation_ratio": float(ratio), f"{prefix}rankme": float(rank)}


def _entropies(x: Tensor, used: Tensor) -> np.ndarray:
    """Matrix entropy of each prompt, and it over its maximum: `[prompt, 2]`."""
    rows = []
    for one, kept in zip(x, used, strict=True):
        n = int(kept.sum())
        if n == 0:
            continue
        entropy = matrix_entropy(one[kept].detach().double().cpu().numpy())
        most = np.log(min(n, x.shape[-1]))
        rows.append((entropy, entropy / most if most > 0 else np.nan))
    return np.asarray(rows, np.float64).reshape(-1, 2)


def _interval(entropy: Moments) -> tuple[float, float]:
    """95 % interval of the mean over prompts, by t; NaN for one prompt."""
    n = int(entropy.count[0])
    if n < 2:
        return np.nan, np.nan
    reach = scipy.stats.t.isf(0.025, n - 1) * np.sqrt(entropy.variance[0] / n)
    return float(entropy.mean[0] - reach), float(entropy.mean[0] + reach)
