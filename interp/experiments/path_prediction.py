"""Correlation of path length with the prediction: do tokens that travel far predict well?

Knows the columns of a path and of an outcome; knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp.contract.columns import INDEX_MEANINGS
from interp.contract.options import names_of
from interp.errors import BadInput, unknown
from interp.experiments.controls import repeated_on_control
from interp.experiments.tokens_or_words import per_token, tables_of
from interp.prompts.frequency import ZIPF
from interp.render.draw import figure
from interp.render.drawing import Drawing, line_rows, nothing
from interp.render.finding import Finding
from interp.render.look import looked
from interp.render.tokens import percent
from interp.runs.provenance import FOLLOWING, predicted_by
from interp.stats.correlation import correlation, with_corrections
from interp.stats.shuffled import shuffled_correlation
from interp.stats.table import is_special, left_out_note, numbered, numbers, require_columns

COEFFICIENTS = ("pearson", "spearman", "partial_pearson", "partial_spearman")
SHUFFLED = "shuffled"
OUTCOMES = ("logit", "log_prob", "rank")
NEXT = "next_"
COVARIATES = ("position", "log_frequency", "next_log_frequency")
COLUMNS = {
    "outcome": "the column of the prediction that the path is correlated with",
    "stack": INDEX_MEANINGS["stack"],
    "layer": "block up to and with which the path goes; the last one has the whole path",
    "n": "tokens with all values; count",
    "prompts": "prompts they are of; count",
    "nan": "tokens left out because a value is undefined; count",
    "pearson": "Pearson's correlation, −1 … 1",
    "spearman": "Spearman's correlation of ranks, −1 … 1",
    "partial_pearson": "Pearson's correlation with the covariates taken out, −1 … 1",
    "partial_spearman": "Spearman's, likewise",
    "*_shuffled_low": "lower end of where the coefficient falls with outcomes shuffled within "
    "prompts: the control",
    "*_shuffled_high": "upper end, likewise",
    "*_shuffled_p": "share of shuffles with at least this coefficient, never 0",
    "*_shuffled_p_bh": "that p by Benjamini–Hochberg over layers",
    "*_shuffled_p_holm": "that p by Holm over layers",
    "*_low": "lower end of the interval of the coefficient, prompts resampled",
    "*_high": "upper end, likewise",
    "*_p": "p of the coefficient with tokens taken as independent",
    "*_p_bh": "that p by Benjamini–Hochberg over layers",
    "*_p_holm": "that p by Holm over layers",
}
"""Meaning of the columns; `*` stands for the four coefficients."""


@dataclass(frozen=True, eq=False, repr=False)
class PathPrediction(Finding):
    """Correlation of the path with the prediction: the answer of `path_prediction`.

    Attributes:
        frame: a row per outcome and layer (the last layer has the whole path); columns as in
            `COLUMNS`.
        tokens: the rows that were correlated, with outcomes and covariates.
        value: the column that was followed.
        partial: the covariates.
        predicted: the token that the outcomes are of, in words: the next one, or the target of the
            run.
        notes: caveats.
    """

    name = "predict"
    question = "Do tokens whose state travels far predict the next token, or a given one, well?"
    columns = COLUMNS

    frame: pd.DataFrame
    tokens: pd.DataFrame
    value: str
    partial: tuple[str, ...]
    confidence: float = 0.95
    notes: tuple[str, ...] = ()
    predicted: str = FOLLOWING

    def plot(  # type: ignore[override]
        self, coefficient: str = "spearman", **look: Any
    ) -> Any:
        """The coefficient over layers, per outcome, with its band and that of the shuffles.

        `coefficient`: pearson, spearman, or either with `partial_` before it.
        `look`: `width`, `height`, `title`, `palette`, `legend`, as for `Finding.plot`.
        """
        return looked(figure(self.drawing(coefficient)), look)

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """A figure per coefficient, the most conservative one first."""
        known = [c for c in reversed(COEFFICIENTS) if c in self.frame]
        return {f"{c.replace('_', ' ')} of {self.value}": self.drawing(c) for c in known}

    def drawing(self, coefficient: str = "spearman") -> Drawing:
        """A panel per outcome: the coefficient with its band, and the band of shuffled outcomes.

        Raises `UnknownName` for a coefficient that is not there.
        """
        known = [c for c in COEFFICIENTS if c in self.frame]
        if coefficient not in known:
            raise unknown("coefficient", coefficient, known)
        partial = coefficient.startswith("partial_")
        what = coefficient.replace("_", " ")
        title = f"{self.value} up to each layer and {self.predicted}: {what}"
        if "stack" in self.frame and len(set(self.frame["stack"])) > 1:
            return nothing(title, "There are several stacks: read the table.")
        parts = [
            line_rows(_lines(rows, coefficient), str(outcome))
            for outcome, rows in self.frame.groupby("outcome", sort=False)
        ]
        taken = f" Partialled out: {', '.join(self.partial)}." if partial else ""
        caption = (
            f"{int(self.frame['n'].max()):,} tokens of {int(self.frame['prompts'].max())} prompts. "
            f"Bands: {percent(self.confidence)} intervals by resampling whole prompts.{taken} The "
            f"last block has the whole {self.value}."
        )
        return Drawing(
            "lines",
            title,
            pd.concat(parts, ignore_index=True),
            "correlation",
            "block",
            caption,
            "Grey: outcomes shuffled within prompts.",
            "the line would stay inside the grey band.",
            options={"greys": (SHUFFLED,)},
        )

    @property
    def short(self) -> pd.DataFrame:
        """The coefficients to read first."""
        kinds = ["spearman", *(["partial_spearman"] if self.partial else [])]
        names = [f"{k}{end}" for k in kinds for end in ("", "_low", "_high", "_shuffled_p")]
        places = [c for c in ("outcome", "stack", "layer") if c in self.frame]
        return self.frame[[*places, "n", "pearson", *names]]

    @property
    def sentence(self) -> str:
        """The coefficient over all layers per outcome, with its null."""
        parts = []
        for outcome, rows in self.frame.groupby("outcome", sort=False):
            row = rows.iloc[-1]
            name = "partial_spearman" if self.partial else "spearman"
            band = f"[{row[f'{name}_low']:+.2f}, {row[f'{name}_high']:+.2f}]"
            null = f"{row[f'{name}_shuffled_low']:+.2f} to {row[f'{name}_shuffled_high']:+.2f}"
            parts.append(f"{outcome} {row[name]:+.2f} {band} (shuffled: {null})")
        kind = f"partial on {', '.join(self.partial)}" if self.partial else "Spearman"
        return f"{self.value} over all layers with {self.predicted} ({kind}): {'; '.join(parts)}"


def _lines(rows: pd.DataFrame, coefficient: str) -> dict[str, pd.DataFrame]:
    """The band of the shuffles, and the coefficient with its own."""
    low, high = rows[f"{coefficient}_shuffled_low"], rows[f"{coefficient}_shuffled_high"]
    base = {"x": rows["layer"], "n": rows["n"]}
    null = pd.DataFrame(base | {"mean": (low + high) / 2, "low": low, "high": high})
    own = {"mean": rows[coefficient]}
    own |= {side: rows[f"{coefficient}_{side}"] for side in ("low", "high")}
    return {SHUFFLED: null, "as measured": pd.DataFrame(base | own)}


@repeated_on_control
def path_prediction(
    results: Any,
    *,
    value: str = "path",
    outcomes: str | Sequence[str] | None = None,
    partial: str | Sequence[str] = COVARIATES,
    frequency: Mapping[Any, float] | None = None,
    special: bool = False,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> PathPrediction:
    """Correlate the path of each token up to each layer with the prediction of the next token.

    The outcomes are those of the final output: from the table of `next_token`, or from the last
    state of `logit_lens` (which has no `logit`). Of a run with `targets=` they are of the target,
    which sentence and figures name. Path and prediction both depend on position and
    frequency, which alone makes them correlate: the partial correlations remove that.

    Columns of `.frame`: `outcome`, `layer`, `n` (tokens with all values), `prompts`, `nan` (left
    out); `pearson`, `spearman` and, with the covariates taken out, `partial_pearson`,
    `partial_spearman`, all in [−1, 1] and each with `_low`, `_high` (prompts resampled), `_p` (over
    tokens as independent), `_p_bh`, `_p_holm` (over layers), and the control: `_shuffled_low`,
    `_shuffled_high`, where the coefficient falls with probability `confidence` when outcomes are
    shuffled within prompts, and `_shuffled_p` (see `interp.stats.shuffled`) with `_bh`, `_holm`.

    Args:
        results: of a run with `path_length` (or `rotation`, for `value="angular_path"`) and
            `next_token` or `logit_lens`.
        value: the column to follow, such as path or angular_path.
        outcomes: columns to correlate with: logit, log_prob or rank; by default all that the run
            has.
        partial: covariates to partial out: position, log_frequency of the token,
            next_log_frequency of the one after it (wrong if the run had its own targets), or a
            column of numbers of the path's table, such as zipf (the label of --frequency), with
            next_ before it for its value at the next token (next_zipf); none for no covariates.
            Tokens without a value are left out.
        frequency: count per token id or token text; by default the ordinary tokens of the run
            itself. ln(1 + count) is used.
        special: keep special tokens, such as BOS; else left out.
        confidence: level of the intervals.
        resamples: number of shuffles and bootstrap draws.
        seed: seed of the shuffles and draws.

    Raises `BadInput` or `UnknownName` if a table, column or covariate is missing or too few tokens
    are left.
    """
    name, path = per_token(results, value, ("layer",))
    if "head" in path:
        raise BadInput(f"{name!r} has a row per head; a path has one per token and layer")
    places = [c for c in ("stack", "prompt", "position") if c in path]
    partial = names_of(partial)
    outcome, known = _outcomes(results, None if outcomes is None else names_of(outcomes))
    tokens = _with_next(_with_covariates(path, frequency), partial)
    left_out = is_special(tokens, special)
    apart = left_out_note(tokens, left_out)
    if value in known:
        raise BadInput(f"value and outcome are both {value!r}: follow another column, such as path")
    tokens = tokens[~left_out].drop(columns=known, errors="ignore")
    tokens = tokens.merge(outcome, on=[c for c in places if c in outcome], how="inner")
    for column in partial:
        _refuse_unknown(tokens, column)
    _refuse_few(tokens, value, known, partial)
    levels = {"confidence": confidence, "resamples": resamples, "seed": seed}
    rows = [_path_rows(tokens, value, one, tuple(partial), levels) for one in known]
    frame = pd.concat(rows, ignore_index=True)
    notes = [f"{value!r} from {name!r}, the outcome from {outcome.attrs['of']!r}"]
    if apart:
        notes.append(apart)
    if frequency is None and any("frequency" in c for c in partial):
        notes.append("frequencies are counts within this run, which are rough for a short run")
    predicted = predicted_by(results)
    notes += _other_token(predicted, partial)
    return PathPrediction(frame, tokens, value, tuple(partial), confidence, tuple(notes), predicted)


def _other_token(predicted: str, partial: Sequence[str]) -> list[str]:
    """A note where the outcome is of another token than the covariates of the next one."""
    own = [name for name in partial if name.startswith(NEXT)]
    if predicted == FOLLOWING or not own:
        return []
    return [
        f"the outcome is that of {predicted}, and {', '.join(own)} of the token that comes next; "
        "leave it out of the covariates (partial=)"
    ]


def _outcomes(results: Any, wanted: Sequence[str] | None) -> tuple[pd.DataFrame, list[str]]:
    """Outcomes of each token, from the output or from the last state of a lens."""
    tables = tables_of(results)
    fit = [
        name
        for name, frame in tables.items()
        if {"prompt", "position", "log_prob"} <= set(frame.columns) and "head" not in frame
    ]
    if not fit:
        raise BadInput(
            f"no table here has the outcome per token (there are: {', '.join(tables)}); run "
            "'next_token' or 'logit_lens' as well (--analyses next_token), with keep='tokens'"
        )
    # A lens knows no logit, the output does.
    name = next((n for n in fit if "logit" in tables[n]), fit[0])
    frame = tables[name]
    known = [o for o in (wanted or OUTCOMES) if o in frame]
    for one in wanted or ():
        if one not in frame:
            raise unknown(f"outcome in {name!r}", one, [o for o in OUTCOMES if o in frame])
    places = [c for c in ("stack", "prompt", "position") if c in frame]
    if "layer" in frame:
        frame = frame[frame["layer"] == frame["layer"].max()]
    out = frame[[*places, *known]].copy()
    out.attrs["of"] = name
    return out, known


def _with_covariates(path: pd.DataFrame, frequency: Mapping[Any, float] | None) -> pd.DataFrame:
    """The path's rows with the log frequency of each token and of the one after it."""
    if "token_id" not in path:
        return path
    places = [c for c in ("stack", "prompt") if c in path]
    tokens = path.drop_duplicates([*places, "position"]).sort_values([*places, "position"])
    ids = tokens["token_id"]
    if frequency is None:
        counts = ids[~is_special(tokens, False)].value_counts()
        count = ids.map(counts)
    else:
        count = ids.map(frequency)
        if "token" in tokens:
            count = count.fillna(tokens["token"].map(frequency))
    known = pd.Series(np.log1p(count.fillna(0).to_numpy(np.float64)), index=tokens.index)
    following = known.groupby([tokens[c] for c in places]).shift(-1)
    added = tokens[[*places, "position"]].assign(log_frequency=known, next_log_frequency=following)
    return path.merge(added, on=[*places, "position"], how="left", sort=False)


def _with_next(path: pd.DataFrame, partial: Sequence[str]) -> pd.DataFrame:
    """The rows with `next_NAME`, the column NAME of the token that follows in the prompt."""
    places = [c for c in ("stack", "prompt", "layer") if c in path]
    names = {n: n.removeprefix(NEXT) for n in partial if n.startswith(NEXT) and n not in path}
    names = {n: column for n, column in names.items() if column in path}
    if not names:
        return path
    tokens = path.drop_duplicates([*places, "position"])
    # By its position, so that a token whose neighbour is not in the table has no next one.
    following = tokens[[*places, "position", *names.values()]].assign(
        position=tokens["position"] - 1
    )
    following = following.rename(columns={column: n for n, column in names.items()})
    return path.merge(following, on=[*places, "position"], how="left", sort=False)


def _refuse_unknown(tokens: pd.DataFrame, column: str) -> None:
    """Raises for a covariate that is not there, or no number."""
    if column not in tokens and column.removeprefix(NEXT) == ZIPF:
        raise BadInput(
            f"no covariate {column!r}: the run has no word frequencies; label its tokens, "
            "labellers=[interp.prompts.word_frequency()] or --frequency en"
        )
    require_columns(tokens, [column], "covariate")
    numbers(tokens, column)


def _refuse_few(
    tokens: pd.DataFrame, value: str, outcomes: Sequence[str], partial: Sequence[str]
) -> None:
    names = [value, *outcomes, *partial]
    # A partial correlation needs more complete rows than covariates, and some to spare.
    complete = tokens[names].notna().all(axis=1)
    most = int(complete.groupby(tokens["layer"]).sum().max()) if len(tokens) else 0
    if most < len(partial) + 4:
        raise BadInput(
            f"{most} tokens have {', '.join(names)} in one layer; at least {len(partial) + 4} are "
            "needed, and hundreds to say anything"
        )


def _path_rows(
    tokens: pd.DataFrame,
    value: str,
    outcome: str,
    partial: tuple[str, ...],
    levels: dict[str, Any],
) -> pd.DataFrame:
    """All coefficients of one outcome, a row per layer."""
    by = [c for c in ("stack", "layer") if c in tokens]
    # No null here: `_control` shuffles once for all coefficients.
    shared = {"by": by, "special": True, "null": "none", **levels}
    found = correlation(tokens, value, outcome, **shared)
    if partial:
        other = correlation(tokens, value, outcome, partial=partial, **shared)
        own = [c for c in map(str, other) if c.startswith(("pearson", "spearman"))]
        found = pd.concat([found, other[own].add_prefix("partial_")], axis=1)
    codes, _ = numbered(tokens, by)
    parts = [
        _control(tokens[codes == k], value, outcome, partial, levels) for k in range(len(found))
    ]
    found.insert(0, "outcome", outcome)
    control = with_corrections(pd.DataFrame(parts, index=found.index))
    return pd.concat([found, control], axis=1)


def _control(
    rows: pd.DataFrame,
    value: str,
    outcome: str,
    partial: tuple[str, ...],
    levels: dict[str, Any],
) -> dict[str, float]:
    """Null of the coefficients of one layer: outcomes shuffled within prompts."""
    names = [value, outcome, *partial]
    rows = rows[np.isfinite(rows[names].to_numpy(np.float64)).all(axis=1)]
    tail = (1 - levels["confidence"]) / 2
    out: dict[str, float] = {}
    for prefix, chosen in (("", ()), ("partial_", partial)):
        if prefix and not partial:
            continue
        for name in ("pearson", "spearman"):
            found = shuffled_correlation(
                rows[[value]],
                rows[outcome],
                rows["prompt"],
                rows[list(chosen)] if chosen else None,
                ranks=name == "spearman",
                resamples=levels["resamples"],
                seed=levels["seed"],
            )
            low, high = np.quantile(found.null[:, 0], [tail, 1 - tail])
            key = f"{prefix}{name}_shuffled"
            out |= {f"{key}_low": low, f"{key}_high": high, f"{key}_p": float(found.p[0])}
    return out
