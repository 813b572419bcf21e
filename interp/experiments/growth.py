"""Growth rate of the norm of the stream with depth.

Knows the columns of `path_length`; knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Floats
from interp.errors import BadInput
from interp.experiments.controls import repeated_on_control
from interp.experiments.tokens_or_words import TOKEN_MEANINGS, other_meanings, per_token
from interp.render.drawing import Drawing
from interp.render.finding import Finding
from interp.stats.groups import group_means
from interp.stats.table import is_special, less_control, numbered, require_columns

MOST_NAMED = 4  # groups that the sentence lists; of more it names the two ends

COLUMNS = {
    "value": "the column of tokens that the row is a mean of: growth, factor, orthogonal_growth",
    "n": "tokens with the value; count",
    "prompts": "prompts they are of; count",
    "mean": "mean over the tokens; unit of the value",
    "low": "lower end of its interval, with the prompt as the sampling unit",
    "high": "upper end, likewise",
    "growth": "least-squares slope of ln‖x_l‖ over the states l = 0 … L; per layer",
    "factor": "exp(growth); ratio per layer",
    "r2": "R² of that line; ratio",
    "states": "states that it goes through; count",
    "orthogonal_growth": "the slope if every step were at right angles to the stream: the control; "
    "per layer",
    **TOKEN_MEANINGS,
}


@dataclass(frozen=True, eq=False, repr=False)
class Growth(Finding):
    """Growth of norms with depth: the answer of `growth_rate`.

    Attributes:
        frame: a row per token: `growth` (slope of ln‖x_l‖ over l = 0 … L; per layer), `factor`
            (its exponential), `r2` of that line, `states` behind it, and the control
            `orthogonal_growth`: the slope if every step were at right angles to the stream.
        mean: mean of `growth`, `factor` and `orthogonal_growth` per group and stack, with `low`
            and `high`: 95 % intervals with the prompt as the sampling unit.
        special: whether special tokens are in the means.
        confidence: of the intervals.
    """

    name = "growth"
    question = "How fast does the norm of the residual stream grow with depth?"
    columns = COLUMNS

    frame: pd.DataFrame
    mean: pd.DataFrame
    notes: tuple[str, ...] = ()
    special: bool = False
    confidence: float = 0.95

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """The means, and the growth of every token."""
        return {"growth": self.mean, "tokens": self.frame}

    @property
    def short(self) -> pd.DataFrame:
        """The means."""
        return self.mean

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Growth per layer of each group; in grey that of steps at right angles to the stream."""
        own, control = (
            self.mean[self.mean["value"] == value].reset_index(drop=True)
            for value in ("growth", "orthogonal_growth")
        )
        drawing = Drawing(
            "bars",
            "Growth of the norm",
            pd.DataFrame(
                {
                    "name": self._names(own),
                    "value": own["mean"],
                    "low": own["low"],
                    "high": own["high"],
                    "control": control["mean"],
                    "control_low": control["low"],
                    "control_high": control["high"],
                }
            ),
            "slope of ln‖x‖ per layer",
            caption="Bars: 95 % intervals, with the prompt as the unit.",
            control="Grey: the slope if every step were at right angles to the stream.",
            if_null="coloured and grey would agree: steps neither along the stream nor against it.",
            options={"control_name": "steps at right angles", "value_name": "as measured"},
        )
        return {"Growth per layer": drawing}

    def _names(self, rows: pd.DataFrame) -> list[str]:
        """Stack and label of each row."""
        keys = [c for c in ("stack", *self._by) if c in rows]
        return rows[keys].astype(str).agg(" · ".join, axis=1).tolist() if keys else ["all tokens"]

    @property
    def sentence(self) -> str:
        """Factor per layer, the slopes with and without the control, and the untrained copy's."""
        rows = dict(iter(self.mean.groupby("value", sort=False)))
        factor, slope, control = (
            rows[value].reset_index(drop=True)
            for value in ("factor", "growth", "orthogonal_growth")
        )
        names = self._names(factor)
        # Of many groups the ends: the table has them all.
        chosen = list(range(len(names)))
        if len(names) > MOST_NAMED:
            chosen = [int(factor["mean"].argmax()), int(factor["mean"].argmin())]
        parts = [
            f"{names[i] + ' ' if len(names) > 1 else ''}×{factor['mean'][i]:.4g} "
            f"[{factor['low'][i]:.4g}, {factor['high'][i]:.4g}] (slope of ln‖x‖ "
            f"{slope['mean'][i]:.3g}; {control['mean'][i]:.3g} if every step were at right angles "
            "to the stream)"
            for i in chosen
        ]
        between = f", of {len(names)} groups from " if len(names) > MOST_NAMED else ""
        joined = (" down to " if between else ", ").join(parts)
        return f"growth of the norm per layer{between or ': '}{joined}{self._than_untrained()}"

    def _than_untrained(self) -> str:
        """Whether one group grows faster than in the untrained copy, by paired differences."""
        if not isinstance(self.control, Growth):
            return ""
        pairs = [f.mean[f.mean["value"] == "factor"] for f in (self, self.control)]
        if any(len(rows) != 1 for rows in pairs):
            return ""
        told = f"; in the untrained copy ×{pairs[1]['mean'].iloc[0]:.4g}"
        less = less_control(self.frame, self.control.frame, ["factor"])
        if less is None:
            return told
        kept = less[~is_special(less, self.special)]
        row = _mean_table(kept, ["factor"], self._by, self.confidence).iloc[0]
        if row["low"] > 0:
            said = "the norm grows faster than there"
        elif row["high"] < 0:
            said = "the norm grows more slowly than there"
        else:
            said = "the two do not detectably differ"
        band = f"{row['mean']:+.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        return f"{told}: {said} (difference of the factors, paired by token: {band})"

    @property
    def _by(self) -> list[str]:
        return [str(c) for c in self.mean if c in self.frame and c not in ("stack", "growth")]


@repeated_on_control
def growth_rate(
    results: Any, *, by: str | None = None, special: bool = False, confidence: float = 0.95
) -> Growth:
    """Growth rate of the norm: the least-squares slope of ln‖x_l‖ over the states l = 0 … L.

    About 1.045 per layer is published for GPT-2 XL (Heimersheim & Turner, "Residual stream norms
    grow exponentially over the forward pass", 2023). The control `orthogonal_growth` takes the
    same steps at right angles to the stream, as random directions in many dimensions are: ‖x_l‖²
    = ‖x_0‖² + Σ ‖Δ‖². A growth above it means steps along the stream, below it steps against it.

    Args:
        results: of a run with `path_length`, or that result.
        by: a label column: one mean per label.
        special: keep special tokens, such as BOS, in the means; every token is in the frame.

    Raises `BadInput`, `UnknownName` for tables without the norms per token or without the label.
    """
    frame = per_token(results, "norm", ("norm_after", "step", "layer"))[1]
    if by is not None:
        require_columns(frame, [by], "label")
    on = [c for c in ("stack", "prompt", "position") if c in frame]
    frame = frame.sort_values([*on, "layer"])
    first = frame.drop_duplicates(on)
    about = [c for c in ("token", "special", "word", by) if c and c in frame]
    parts = [
        _growth_of(rows, on)
        for _, rows in (frame.groupby("stack") if "stack" in on else [("", frame)])
    ]
    out = first[[*on, *about]].merge(pd.concat(parts), on=on, how="left", sort=False)
    kept = out[~is_special(out, special)]
    keys = [c for c in ("stack", by) if c and c in out]
    values = ["growth", "factor", "orthogonal_growth"]
    mean = _mean_table(kept, values, keys, confidence)
    undefined = int(out["growth"].isna().sum())
    notes = (f"{undefined} tokens have a norm of zero or NaN and no growth",) if undefined else ()
    found = Growth(out.reset_index(drop=True), mean, notes, special, confidence)
    return found.with_columns(**other_meanings(out, COLUMNS))


def _growth_of(frame: pd.DataFrame, on: Sequence[str]) -> pd.DataFrame:
    """Slopes of the tokens of one stack."""
    values = ["norm", "step", "norm_after"]
    wide = frame.set_index([*on, "layer"])[values].unstack("layer")  # noqa: PD010
    before, step = wide["norm"].to_numpy(np.float64), wide["step"].to_numpy(np.float64)
    norms = np.column_stack([before, wide["norm_after"].to_numpy(np.float64)[:, -1]])
    across = np.sqrt(before[:, :1] ** 2 + np.cumsum(step**2, axis=1))
    growth, r2 = _slopes(norms)
    orthogonal, _ = _slopes(np.column_stack([before[:, :1], across]))
    found = {
        "growth": growth,
        "factor": np.exp(growth),
        "r2": r2,
        "states": norms.shape[1],
        "orthogonal_growth": orthogonal,
    }
    return wide.index.to_frame(index=False).assign(**found)


def _slopes(norms: Floats) -> tuple[Floats, Floats]:
    """Slope and R² of ln of each row over 0 … L; NaN where an entry is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(norms)
        y = np.where(np.isfinite(y).all(axis=1, keepdims=True), y, np.nan)
        # With x centred, slope and R² need no intercept.
        x = np.arange(y.shape[1]) - (y.shape[1] - 1) / 2
        deviation = y - y.mean(axis=1, keepdims=True)
        slope = deviation @ x / (x @ x)
        total = (deviation**2).sum(axis=1)
        return slope, np.where(total > 0, slope**2 * (x @ x) / total, np.nan)


def _mean_table(
    frame: pd.DataFrame, values: Sequence[str], keys: Sequence[str], confidence: float
) -> pd.DataFrame:
    """Clustered mean of each value per combination of the keys."""
    frame = frame.dropna(subset=list(keys))
    if frame.empty:
        raise BadInput("no token is left to average: all are special or without a label")
    codes, groups = numbered(frame, list(keys))
    found = group_means(frame[list(values)], codes, frame["prompt"], confidence=confidence)
    rows = [
        groups.assign(value=value, n=found.n[:, i].astype(int), prompts=found.clusters[:, i])
        .assign(mean=found.mean[:, i], low=found.low[:, i], high=found.high[:, i])
        .astype({"prompts": int})
        for i, value in enumerate(values)
    ]
    return pd.concat(rows, ignore_index=True)
