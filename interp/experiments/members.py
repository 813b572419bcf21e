"""Two members of a series, value by value on the same tokens: where a fine-tune differs.

Knows tables of a series; runs no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special as functions

from interp._arrays import Floats
from interp.errors import BadInput, unknown
from interp.experiments.changes import PLACES, rows_of, series_result
from interp.experiments.tokens_or_words import joined_by
from interp.render.drawing import Drawing
from interp.render.finding import Finding
from interp.stats.classical import holm, moments, paired_effects, paired_test

ALPHA = 0.05
EXACT = "A model against itself differs by exactly 0 in every row."
ALL = "all tokens"
COLUMNS = {
    "group": "label of the tokens; 'all tokens' without a label column",
    "layer": "block or state, as in the table of the analysis",
    "head": "attention head, where the table has heads",
    "mean_a": "mean of the first member, over prompts",
    "mean_b": "mean of the second one, over the same tokens",
    "difference": "b − a: the mean over prompts of the mean over the prompt's tokens",
    "low": "lower end of its 95 % t interval over prompts",
    "high": "upper end",
    "d_z": "difference in standard deviations of the prompts' differences",
    "t": "of the paired t test over prompts",
    "p": "its p, two-sided; missing where all differences are the same",
    "p_holm": "p, corrected for all rows of the table (Holm)",
    "n": "tokens (or words) compared",
    "prompts": "prompts that they are of",
    "changed": "share of them whose difference is not exactly 0",
}


@dataclass(frozen=True, eq=False, repr=False)
class MemberComparison(Finding):
    """A value in two members, on the same tokens: the answer of `compare_members`.

    Attributes:
        frame: a row per group and layer (and head); columns as in `COLUMNS`.
        a, b: names of the members.
        value: the column.
        unit: "tokens", or "words" where the members have different vocabularies.
        notes: caveats.
    """

    name = "members"
    question = "Where do the two members differ on the same tokens?"
    columns = COLUMNS

    frame: pd.DataFrame
    a: str
    b: str
    value: str
    unit: str = "tokens"
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> pd.Series[Any] | None:
        """The first row, by layer, where any token differs at all; None if none does."""
        rows = self.frame[self.frame["changed"] > 0]
        if rows.empty:
            return None
        return rows.sort_values("layer", kind="stable").iloc[0] if "layer" in rows else rows.iloc[0]

    @property
    def sentence(self) -> str:
        """The first layer with a difference, the largest one, and the number of them."""
        frame, first = self.frame, self.first
        named = f"{self.value} of {self.b} against {self.a}"
        if first is None:
            return f"{named}: exactly equal in all {len(frame)} rows"
        tested = frame[frame["p_holm"] < ALPHA]
        begins = f", the first difference at all in {_row(first)}" if "layer" in frame else ""
        if tested.empty:
            return f"{named}: no row of {len(frame)} differs (Holm p < {ALPHA}){begins}"
        # In standard deviations, because lengths grow with depth and would own every maximum.
        row = tested.iloc[int(tested["d_z"].abs().to_numpy().argmax())]
        return (
            f"{named}: {len(tested)} of {len(frame)} rows differ (Holm p < {ALPHA}), most surely "
            f"{_row(row)}, by {row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}] "
            f"(d_z {row['d_z']:+.2f}){begins}"
        )

    @property
    def short(self) -> pd.DataFrame:
        """The columns to read first."""
        kept = ["group", *PLACES, "mean_a", "mean_b", "difference", "low", "high", "d_z", "p_holm"]
        return self.frame[[c for c in kept if c in self.frame]]

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """The difference per layer with its interval, a line per group (of heads the mean)."""
        frame = self.frame
        if "layer" not in frame:
            return {}
        if "head" in frame:
            keys = ["group", "layer"]
            frame = frame.groupby(keys, sort=False)[["difference", "n"]].mean().reset_index()
            frame = frame.assign(low=np.nan, high=np.nan)
        table = frame.assign(value=self.value, x=frame["layer"], mean=frame["difference"])
        drawing = Drawing(
            "lines",
            f"{self.value}: {self.b} less {self.a}",
            table[["value", "group", "x", "mean", "low", "high", "n"]],
            f"difference of {self.value}",
            "layer",
            f"The same {self.unit} in both members. Bands: 95 % intervals over prompts.",
            if_null="every band would hold 0.",
        )
        return {"Difference": drawing}


def _row(row: Any) -> str:
    parts = [f"{name} {row[name]:g}" for name in ("layer", "head") if name in row]
    group = [] if row["group"] == ALL else [f"of {row['group']}"]
    return " ".join([", ".join(parts), *group]).strip() or ALL


def compare_members(
    results: Any,
    a: str | None = None,
    b: str | None = None,
    *,
    value: str | None = None,
    analysis: str | None = None,
    by: str | None = None,
    depth: str = "index",
    special: bool = False,
) -> MemberComparison:
    """Compare a value in two members of a series on the same tokens, in every layer.

    Differences are taken token by token, averaged within each prompt, and tested over prompts by a
    paired t test, with Holm's correction over all rows. Members of different vocabularies are
    compared word by word. A model against itself differs by exactly 0.

    Args:
        results: of `interp series`. In Python also one of its results.
        a: the first member, such as a base model; by default the first of the series.
        b: the second member, such as its fine-tune; by default the last.
        value: the column; by default the first of the analysis.
        analysis: whose table; by default the first that has the value.
        by: a label column: a row per label, such as the parts of speech.
        depth: index (layers of the same number) or relative (equal shares of the depth).
        special: keep special tokens, such as BOS.

    Raises `BadInput` for results of no series, members that share no token, word or layer, and a
    summary; `UnknownName` for a member, column or label that is not there.
    """
    result, value = series_result(results, value, analysis)
    names = list(result.series.results)
    a, b = (names[0] if a is None else a), (names[-1] if b is None else b)
    for name in (a, b):
        if name not in names:
            raise unknown("measured member", name, names)
    if a == b:
        raise BadInput(f"a and b are both {a!r}; name two members ({', '.join(names[:6])})")
    rows, notes = rows_of(result, by, None, special)
    rows = rows[rows["member"].isin([a, b])]
    if depth != "index":
        rows = result.rows(value, depth=depth, special=special)[1]  # type: ignore[arg-type]
        rows = rows[rows["member"].isin([a, b])]
    pairs, unit, more = _paired(rows, a, b, value, by)
    frame = _tested(pairs, [c for c in PLACES if c in pairs])
    if (frame["changed"] == 0).all():
        more.append("both members have exactly the same values")
    notes = [*notes, *more, *result.series.notes, EXACT]
    return MemberComparison(frame, a, b, value, unit, tuple(dict.fromkeys(notes)))


def _paired(
    rows: pd.DataFrame, a: str, b: str, value: str, by: str | None
) -> tuple[pd.DataFrame, str, list[str]]:
    """A row per token (or word) and layer that both members have: `group`, `a`, `b`."""
    place = [c for c in PLACES if c in rows]
    rows = rows.assign(group=ALL if by is None else rows[by].astype(object))
    rows = rows[rows["group"].notna() & (rows["group"].astype(str) != "")]
    halves = [rows[rows["member"] == name] for name in (a, b)]
    unit, key = "tokens", "position"
    if "position" in rows and not _same_tokens(*halves):
        unit, key = "words", "word"
        halves = [_words(half, value, place) for half in halves]
    keys = ["group", "prompt", *([key] if key in rows else []), *place]
    columns = [half[[*keys, value]].rename(columns={value: n}) for half, n in zip(halves, "ab")]  # noqa: B905
    # A prompt whose rows have no key of their own would be multiplied by itself.
    pairs = columns[0].merge(columns[1], on=keys, how="inner", validate="one_to_one")
    if pairs.empty:
        raise BadInput(f"{a!r} and {b!r} have no {unit} and layer in common")
    notes = []
    lost = [len(half) - len(pairs) for half in halves]
    if any(lost):
        notes.append(
            f"{lost[0]} rows of {a!r} and {lost[1]} of {b!r} have no partner in the other member "
            "and are left out"
        )
    if unit == "words":
        notes.append(
            f"{a!r} and {b!r} read other tokens: words are compared, {value} joined by "
            f"{joined_by(value)}"
        )
    return pairs, unit, notes


def _same_tokens(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Whether both tables are of the same tokens at the same places, in prompts that both have."""
    keys = ["prompt", "position", "token_id", "token"]
    shared = set(a["prompt"]) & set(b["prompt"])
    a, b = (rows[rows["prompt"].isin(shared)] for rows in (a, b))
    one, other = (rows[[k for k in keys if k in rows]].drop_duplicates() for rows in (a, b))
    merged = one.merge(other, how="outer", on=list(one.columns), indicator=True)
    return bool((merged["_merge"] == "both").all())


def _words(rows: pd.DataFrame, value: str, place: Sequence[str]) -> pd.DataFrame:
    """One row per word and layer: the mean of its tokens, or the value of the last one."""
    if "word" not in rows or (rows["word"] < 0).all():
        raise BadInput(
            "the members read other tokens, and their tables have no words to match them by (the "
            "prompts were token ids, or documents of a corpus); a series over prompts, as texts, "
            "has words"
        )
    rows = rows[rows["word"] >= 0].sort_values("position")
    groups = rows.groupby(["group", "prompt", "word", *place], sort=False, dropna=False)[value]
    joined = groups.last() if joined_by(value) == "last" else groups.mean()
    return joined.reset_index()


def _tested(pairs: pd.DataFrame, place: Sequence[str]) -> pd.DataFrame:
    """The paired test of every group and layer, with prompts as the unit."""
    pairs = pairs.assign(difference=pairs["b"].astype(float) - pairs["a"].astype(float))
    whole = pairs[pairs["difference"].notna()]
    keys = ["group", *place]
    if whole.empty:
        raise BadInput("no token has a defined value in both members")
    means = whole.groupby(["prompt", *keys], sort=True)[["a", "b", "difference"]].mean()
    records = [
        dict(zip(keys, key, strict=True)) | _record(part)
        for key, part in means.groupby(level=keys, sort=True)
    ]
    counts = whole.groupby(keys, sort=True)["difference"].agg(["size", _changed])
    frame = pd.DataFrame(records).merge(counts.reset_index(), on=keys)
    frame = frame.rename(columns={"size": "n", "_changed": "changed"})
    frame["p_holm"] = holm(frame["p"].to_numpy(np.float64))
    order = [*(c for c in place if c not in COLUMNS), *(c for c in COLUMNS if c in frame)]
    return frame[order]


def _changed(difference: pd.Series[float]) -> float:
    return float((difference != 0).mean())


def _record(part: pd.DataFrame) -> dict[str, float]:
    """Means, interval and test of one row, over prompts."""
    a, b, d = (part[[c]].to_numpy(np.float64) for c in ("a", "b", "difference"))
    n, mean, m2 = moments(d)
    test = paired_test(d, np.zeros_like(d))
    half = _half(n, m2)
    return {
        "mean_a": float(a.mean()),
        "mean_b": float(b.mean()),
        "difference": float(mean[0]),
        "low": float(mean[0] - half),
        "high": float(mean[0] + half),
        "d_z": float(paired_effects(d, np.zeros_like(d))[0][0]),
        "t": float(test.t[0]),
        "p": float(test.p[0]),
        "prompts": len(part),
    }


def _half(n: Floats, m2: Floats) -> float:
    """Half the width of the t interval of a mean; missing with one prompt."""
    if n[0] < 2:
        return float("nan")
    quantile = functions.stdtrit(n[0] - 1, 0.975)
    return float(quantile * np.sqrt(m2[0] / (n[0] - 1) / n[0]))
