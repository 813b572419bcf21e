"""Correlation of the curvature from token to token with the entropy of the next prediction.

Knows the columns of `token_curvature` and of an output; knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp.errors import BadInput
from interp.experiments.controls import repeated_on_control
from interp.experiments.tokens_or_words import per_token, tables_of
from interp.render.drawing import Drawing, line_rows
from interp.render.finding import Finding
from interp.render.tokens import percent
from interp.stats.correlation import correlation
from interp.stats.rotated import family_wise, rotated_correlation
from interp.stats.table import is_special, left_out_note

FEWEST = 10
ROTATED = "rotated"
COLUMNS = {
    "kind": "'pooled': over all tokens; 'within': of the deviations from the mean of each prompt",
    "layer": "state; 0 is the embedding",
    "n": "tokens with both values",
    "prompts": "prompts they are of",
    "nan": "rows left out because a value is undefined",
    "pearson": "correlation, −1 to 1",
    "pearson_low": "lower end of its interval, prompts resampled",
    "pearson_high": "upper end, likewise",
    "pearson_rotated": "mean of the null distribution: entropies rotated within prompts",
    "pearson_rotated_low": "lower end of the middle of the null distribution",
    "pearson_rotated_high": "upper end, likewise",
    "pearson_rotated_p": "share of rotations as far from that mean, never 0",
    "pearson_rotated_p_max": "the same against the farthest state of each rotation (family-wise)",
    "spearman": "correlation of the ranks; its other columns are as those of pearson",
    "spearman_*": "as pearson_*, of the correlation of the ranks",
}


@dataclass(frozen=True, eq=False, repr=False)
class CurvatureEntropy(Finding):
    """Curvature and the entropy of the next prediction: the answer of `curvature_entropy`.

    Attributes:
        frame: a row per kind of correlation and state; columns as in `COLUMNS`.
        tokens: the rows that were correlated.
        value: the column that was correlated with the entropy.
        confidence: level of intervals and null bands.
        notes: caveats.
    """

    name = "curvature"
    question = (
        "Is the model less certain of the next token where the way from token to token bends?"
    )
    columns = COLUMNS

    frame: pd.DataFrame
    tokens: pd.DataFrame
    value: str
    confidence: float = 0.95
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The state after the embedding with the farthest correlation from its null, per kind."""
        parts = []
        for kind, rows in self.frame.groupby("kind", sort=False):
            rows = rows[rows["pearson"].notna() & (rows["layer"] > 0)]
            if rows.empty:
                parts.append(f"{kind}: undefined at every state")
                continue
            row = rows.iloc[int((rows["pearson"] - rows["pearson_rotated"]).abs().argmax())]
            parts.append(
                f"{kind} r = {row['pearson']:+.3f} [{row['pearson_low']:+.3f}, "
                f"{row['pearson_high']:+.3f}] at state {row['layer']:g} (rotated: "
                f"{row['pearson_rotated_low']:+.3f} to {row['pearson_rotated_high']:+.3f}, "
                f"p over all states {row['pearson_rotated_p_max']:.2g})"
            )
        return f"{self.value} with the entropy of the next prediction: {'; '.join(parts)}"

    @property
    def short(self) -> pd.DataFrame:
        """The coefficients to read first."""
        ends = ("", "_low", "_high", "_rotated_low", "_rotated_high", "_rotated_p_max")
        names = [f"pearson{end}" for end in ends]
        return self.frame[["kind", "layer", "n", "prompts", *names]]

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """A panel per kind: the correlation with its band, and the band of the rotations."""
        parts = [line_rows(_lines(rows), str(kind)) for kind, rows in self.frame.groupby("kind")]
        drawing = Drawing(
            "lines",
            f"{self.value} and the entropy of the next prediction",
            pd.concat(parts, ignore_index=True),
            "Pearson correlation",
            "state",
            f"{int(self.frame['n'].max()):,} tokens of {int(self.frame['prompts'].max())} prompts. "
            f"Bands: {percent(self.confidence)} intervals by resampling whole prompts.",
            "Grey: entropies rotated within prompts.",
            "the line would stay inside the grey band.",
            options={"greys": (ROTATED,)},
        )
        return {"Correlation": drawing}


def _lines(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The band of the rotations, and the correlation with its own."""
    base = {"x": rows["layer"], "n": rows["n"]}
    null = {"mean": rows["pearson_rotated"]}
    own = {"mean": rows["pearson"]}
    for side in ("low", "high"):
        null[side], own[side] = rows[f"pearson_rotated_{side}"], rows[f"pearson_{side}"]
    return {ROTATED: pd.DataFrame(base | null), "as measured": pd.DataFrame(base | own)}


@repeated_on_control
def curvature_entropy(
    results: Any,
    *,
    value: str = "curvature",
    special: bool = False,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> CurvatureEntropy:
    """Correlate the curvature at each token with the entropy of the prediction made there.

    Pooled over all tokens, as published, and within prompts, where differences between texts are
    taken out: a text that is hard and winding throughout makes the first only. The null
    distribution rotates the entropies of each prompt by a random number of tokens. Shuffled ones
    would not do: windows of neighbouring tokens overlap, so that both columns change slowly, and
    shuffles make chance look smaller than it is.

    For the best layer, r = +0.041 (Pythia-70M), +0.102 (160M), +0.126 (410M) and +0.148 (GPT-2 XL)
    are reported by a public replication of King, Fedorenko & Hosseini 2604.23985. Both
    values may change along a text: a trend that all prompts have is found here too.

    Args:
        results: of a run with `token_curvature` and `next_token` or `logit_lens`.
        value: the column to correlate: curvature, angle or speed.
        special: keep special tokens, such as BOS; else left out.
        confidence: level of the intervals and of the band of the null distribution.
        resamples: number of rotations and of bootstrap draws.
        seed: seed of both.

    Raises `UnknownName` if no table has the value, `BadInput` if none has the entropy per token or
    fewer than 10 tokens of a state have both.
    """
    name, frame = per_token(results, value, ("layer",))
    entropy = _entropy(results)
    left_out = is_special(frame, special)
    apart = left_out_note(frame, left_out)
    on = [c for c in ("stack", "prompt", "position") if c in frame and c in entropy]
    tokens = frame[~left_out].drop(columns="entropy", errors="ignore")
    tokens = tokens.merge(entropy[[*on, "entropy"]], on=on, how="inner")
    tokens = tokens.sort_values(["layer", "prompt", "position"], ignore_index=True)
    tokens[[value, "entropy"]] = tokens[[value, "entropy"]].astype(np.float64)
    pair = tokens[[value, "entropy"]].to_numpy(np.float64)
    whole = pd.Series(np.isfinite(pair).all(axis=1), index=tokens.index)
    most = int(whole.groupby(tokens["layer"]).sum().max()) if len(tokens) else 0
    if most < FEWEST:
        raise BadInput(
            f"{most} tokens have {value} and entropy at one state; at least {FEWEST} are needed, "
            "and hundreds to say anything. Curvature begins at the seventh token of a prompt: take "
            "longer prompts, or TokenCurvature(first=…)"
        )
    levels = {"confidence": confidence, "resamples": resamples, "seed": seed}
    parts = []
    for kind in ("pooled", "within"):
        rows = _within(tokens[whole], value) if kind == "within" else tokens[whole]
        parts.append(_correlations(rows, value, levels).assign(kind=kind))
    found = pd.concat(parts, ignore_index=True)
    lost = (~whole).groupby(tokens["layer"]).sum()
    found["nan"] = found["layer"].map(lost).to_numpy()
    first = ["kind", "layer", "n", "prompts", "nan"]
    found = found[[*first, *(c for c in found if c not in first)]]
    notes = [f"{value!r} from {name!r}, entropy from {entropy.attrs['of']!r}"]
    if apart:
        notes.append(apart)
    return CurvatureEntropy(found, tokens, value, confidence, tuple(notes))


def _entropy(results: Any) -> pd.DataFrame:
    """The entropy of the output at each token: from the output, or the last state of a lens."""
    tables = tables_of(results)
    fit = [
        name
        for name, frame in tables.items()
        if {"prompt", "position", "entropy", "top_prob"} <= set(frame.columns)
    ]
    if not fit:
        raise BadInput(
            f"no table here has the entropy of the output per token (there are: "
            f"{', '.join(tables)}); run 'next_token' or 'logit_lens' as well "
            "(--analyses next_token), with keep='tokens'"
        )
    name = next((n for n in fit if "layer" not in tables[n]), fit[0])
    frame = tables[name]
    if "layer" in frame:
        frame = frame[frame["layer"] == frame["layer"].max()]
    out = frame.copy()
    out.attrs["of"] = name
    return out


def _within(tokens: pd.DataFrame, value: str) -> pd.DataFrame:
    """Deviations from the mean of each prompt, per state."""
    columns = [value, "entropy"]
    means = tokens.groupby(["layer", "prompt"])[columns].transform("mean")
    return tokens.assign(**{c: tokens[c] - means[c] for c in columns})


def _correlations(tokens: pd.DataFrame, value: str, levels: Mapping[str, Any]) -> pd.DataFrame:
    """Both coefficients of each state, with intervals and the null of rotations."""
    found = correlation(tokens, value, "entropy", by=["layer"], special=True, null="none", **levels)
    keep = [c for c in found if c == "layer" or c in ("n", "prompts")]
    sides = ("", "_low", "_high")
    keep += [f"{c}{side}" for c in ("pearson", "spearman") for side in sides]
    for ranks, coefficient in ((False, "pearson"), (True, "spearman")):
        null = _rotations(tokens, value, ranks, levels)
        found = found.join(null.add_prefix(f"{coefficient}_rotated"), on="layer")
        keep += [f"{coefficient}_rotated{end}" for end in null]
    return found[keep]


def _rotations(
    tokens: pd.DataFrame, value: str, ranks: bool, levels: Mapping[str, Any]
) -> pd.DataFrame:
    """Centre, band and p of the null distribution per state; one rotation serves all states."""
    tail = (1 - levels["confidence"]) / 2
    options = {"ranks": ranks, "resamples": levels["resamples"], "seed": levels["seed"]}
    layers, nulls = [], []
    for layer, rows in tokens.groupby("layer"):
        one = rotated_correlation(rows[[value]], rows["entropy"], rows["prompt"], **options)
        layers.append(layer)
        nulls.append(one)
    # States apart, because each may lack other tokens; by the one seed a prompt is rotated by the
    # same share of its length at all of them.
    r, centre = (np.array([getattr(one, name)[0] for one in nulls]) for name in ("r", "centre"))
    draws = np.stack([one.null[:, 0] for one in nulls], axis=1)
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return pd.DataFrame(
        {
            "": centre,
            "_low": low,
            "_high": high,
            "_p": [one.p[0] for one in nulls],
            "_p_max": family_wise(r, centre, draws),
        },
        index=pd.Index(layers, name="layer"),
    )
