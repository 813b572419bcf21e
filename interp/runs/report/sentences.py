"""Sentences of the figures; their numbers are computed from the results.

Knows tables and comparisons; nothing of drawing or layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.render.cut import window
from interp.render.drawing import Drawing
from interp.render.tokens import percent
from interp.runs.report.lens_examples import Lens, lens_of, lens_prompts
from interp.runs.report.views import ResultLike, control_names
from interp.stats.comparison import LESS, Comparison, span_of
from interp.stats.means import random_lines
from interp.stats.table import HasFrame

STEADY = 0.9  # rank correlation with the place above which a line "rises" or "falls"
UNITLESS = ("ratio", "share", "cosine", "count", "CKA", "attention", "probability", "exponent α")
OPPOSITE = "opposite signs"  # of the note on two contrasts that differ in sign


def of_lines(drawing: Drawing) -> list[str]:
    """Course of each value along the axis, against its control; for a single group only."""
    if drawing.empty or not drawing.x:
        return []
    table = drawing.table
    table = table[table["mean"].notna() & table["x"].notna()]
    if table.empty or len(table["group"].unique()) != 1 or table["x"].nunique() < 2:
        return []
    # A quotient has no unit: "4.08 ratio" is no English.
    short = 0 < len(drawing.unit) < 12 and drawing.unit not in UNITLESS
    unit = f" {drawing.unit}" if short else ""
    return of_table(table, drawing.place, unit)


def of_table(table: pd.DataFrame, place: str, unit: str = "") -> list[str]:
    """A sentence or two per value of a table of means (`value`, `x`, `mean`, `low`, `high`).

    A value whose control is in the table too (`random_…`, `shuffled_…`, `plain_…`, or the column
    `control` of the untrained copy) is compared with it; the control itself gets no sentence.
    """
    rows_of = {str(value): rows for value, rows in table.groupby("value", sort=False)}
    controls = {
        value: name for value in rows_of for name in control_names(value) if name in rows_of
    }
    out = []
    for value, rows in rows_of.items():
        if value in controls.values():
            continue
        told = []
        if value in controls:
            beside = rows_of[controls[value]].set_index("x")["mean"]
            against = rows.assign(control=rows["x"].map(beside))
            told.append(_against(value, against, f"its control {controls[value]}", place, unit))
        if "control" in rows:
            told.append(_against_copy(value, rows, place, unit))
        told = [sentence for sentence in told if sentence]
        subject = "It" if told else value
        told.append(f"{subject} {_course(rows.reset_index(drop=True), place, unit)}")
        out.append(" ".join(told))
    return out


def _course(rows: pd.DataFrame, place: str, unit: str) -> str:
    """The shape of a line in words: level, one place apart, rising, falling, or neither."""
    # In this order: a line inside its own intervals has no shape, and one far place would else
    # decide whether the others rise or fall.
    mean = rows["mean"]
    first, last = rows.iloc[0], rows.iloc[-1]
    top, low = rows.iloc[int(mean.argmax())], rows.iloc[int(mean.argmin())]
    if rows["low"].max() <= rows["high"].min():
        return (
            f"stays between {_plain(low['mean'])} and {_plain(top['mean'])}{unit} at all "
            f"{len(rows)} {place}s, which differ by less than their 95 % intervals are wide; "
            "whether they differ is not tested here."
        )
    if top["mean"] == low["mean"]:  # ranks of equal places correlate with nothing
        return f"is {_plain(low['mean'])}{unit} at every {place}."
    apart = window(rows[["x", "value", "group", "mean"]]).outside
    if len(apart) == 1:
        far = rows[rows["x"] == apart["x"].iloc[0]].iloc[0]
        rest = rows.loc[rows["x"] != far["x"], "mean"]
        return (
            f"is {_band(far, unit)} at {place} {far['x']:g} and only there far from the rest, "
            f"which lies between {_plain(rest.min())} and {_plain(rest.max())}{unit}."
        )
    order = np.corrcoef(np.arange(len(rows)), mean.rank())[0, 1]  # Spearman's, with places in order
    if abs(order) >= STEADY:
        return (
            f"{'rises' if order > 0 else 'falls'} along the {place}s, from {_band(first, unit)} at "
            f"{place} {first['x']:g} to {_band(last, unit)} at {place} {last['x']:g}."
        )
    return (
        f"neither rises nor falls steadily along the {place}s: it is highest at {place} "
        f"{top['x']:g} ({_band(top, unit)}) and lowest at {place} {low['x']:g} "
        f"({_band(low, unit)})."
    )


def _against(value: str, rows: pd.DataFrame, control: str, place: str, unit: str) -> str:
    """Places at which a control lies outside the 95 % intervals of a value, and the farthest."""
    rows = rows[rows["control"].notna()].reset_index(drop=True)
    if rows.empty:
        return ""
    most = rows.iloc[int((rows["mean"] - rows["control"]).abs().argmax())]
    largest = (
        f"{place} {most['x']:g} ({_plain(most['mean'])} against {_plain(most['control'])}{unit})"
    )
    known = rows[rows["low"].notna()]
    if known.empty:
        return (
            f"{value} is farthest from {control} at {largest}; there are no intervals to "
            "judge it by."
        )
    n, above = len(known), int((known["low"] > known["control"]).sum())
    apart = above + int((known["high"] < known["control"]).sum())
    if not apart:
        return (
            f"{value} cannot be told apart from {control}, which lies inside the 95 % "
            f"interval at all {n} {place}s."
        )
    where = _apart(control, above, apart, n, place)
    return f"{value} {where}, most at {largest}; judged by the 95 % interval of each {place} alone."


def _against_copy(value: str, rows: pd.DataFrame, place: str, unit: str) -> str:
    """Places at which a value differs from that of the untrained copy, paired by token."""
    rows = rows[rows["control"].notna()].reset_index(drop=True)
    if rows.empty:
        return ""
    most = rows.iloc[int((rows["mean"] - rows["control"]).abs().argmax())]
    pair = f"{_plain(most['mean'])} against {_plain(most['control'])}{unit}"
    largest = f"{place} {most['x']:g} ({pair})"
    known = rows[rows.get("less_control_low", pd.Series(np.nan, rows.index)).notna()]
    if known.empty:
        return (
            f"{value} is farthest from that of an untrained copy at {largest}; whether the two "
            "differ is not tested, because their tokens are not paired or of one prompt only."
        )
    n, above = len(known), int((known["less_control_low"] > 0).sum())
    apart = above + int((known["less_control_high"] < 0).sum())
    if not apart:
        return (
            f"{value} does not detectably differ from that of an untrained copy: the 95 % interval "
            f"of the difference, paired by token, holds 0 at all {n} {place}s."
        )
    where = _apart("that of an untrained copy", above, apart, n, place)
    return (
        f"{value} {where}, most at {largest}. "
        f"Judged by the difference, paired by token: its 95 % interval of each {place} alone."
    )


def _apart(other: str, above: int, apart: int, n: int, place: str) -> str:
    """On which side of another value a value lies, and at how many of `n` places."""
    where = f"all {n}" if apart == n else f"{apart} of {n}"
    how = {apart: "is higher than", 0: "is lower than"}.get(above, "differs from")
    sides = f" (higher at {above}, lower at {apart - above})" if 0 < above < apart else ""
    return f"{how} {other} at {where} {place}s{sides}"


def _plain(value: float) -> str:
    """Three digits, whole thousands in full."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")


def _band(row: pd.Series[Any], unit: str) -> str:
    known = row["low"] == row["low"]
    band = f" [{_plain(row['low'])}, {_plain(row['high'])}]" if known else ""
    return f"{_plain(row['mean'])}{unit}{band}"


def of_heads(drawing: Drawing) -> list[str]:
    """The strongest head of each value, and the number of heads above every head of the control."""
    if drawing.empty:
        return []
    table = drawing.table[~drawing.table["untrained"]]
    means = {str(v): rows for v, rows in table.groupby("panel", sort=False)}
    controls = {name: value for value in means for name in control_names(value) if name in means}
    out = []
    for value, rows in means.items():
        if value in controls:
            continue
        known = rows[rows["value"].notna()]
        if known.empty:
            out.append(f"{value} is undefined for every head.")
            continue
        told = [_strongest(value, known)]
        told += [
            _exceed(known["value"], means[name]["value"], f"the largest {name}")
            for name, controlled in controls.items()
            if controlled == value
        ]
        if "control" in rows:
            what = "the strongest head of an untrained copy"
            told.append(_exceed(known["value"], rows["control"], what))
        out.append(" ".join(filter(None, told)))
    return out


def _strongest(value: str, known: pd.DataFrame) -> str:
    best = known.iloc[int(known["value"].argmax())]
    return (
        f"The strongest head by {value} is L{int(best['row'])}H{int(best['column'])} with "
        f"{best['value']:.3f}; the median of all {len(known)} heads is "
        f"{known['value'].median():.3f}."
    )


def _exceed(means: pd.Series[Any], control: pd.Series[Any], what: str) -> str:
    """Number of heads that exceed all heads of a control."""
    if control.isna().all():
        return ""
    limit, n = control.max(), int((means > control.max()).sum())
    told = "No head exceeds" if n == 0 else f"{n} head{'s exceed' if n > 1 else ' exceeds'}"
    return f"{told} {what} ({limit:.3f})."


def of_choice(result: ResultLike, prompts: Sequence[int]) -> list[str]:
    """The rule by which the prompts of a figure were chosen; nothing if they are all."""
    tokens = result.tokens
    total = tokens["prompt"].nunique() if "prompt" in tokens else 0
    if len(prompts) == total:
        return []
    of = f" of {total:,}" if total else ""
    one = len(prompts) == 1
    return [
        f"Drawn: the first {'prompt' if one else f'{len(prompts)} prompts'}{of} in the order in "
        "which they were given, whatever is seen there."
    ]


def of_lens(lenses: Sequence[Lens]) -> list[str]:
    """Median of the first state from which the prediction stays that of the last state."""
    depth = pd.Series([d for lens in lenses for d in lens.depth()])
    if depth.empty:
        return []
    last = len(lenses[0].tokens) - 1
    late = (depth == last).mean()
    untrained = [c for lens in lenses if (c := _untrained_lens(lens)) is not None]
    control = pd.Series([d for lens in untrained for d in lens.depth()])
    return [
        f"In the {len(lenses)} prompts shown, the final prediction is in place from state "
        f"{depth.median():g} of {last} on (median of {len(depth)} positions); at "
        f"{percent(late)} of the positions only the last state has it."
        + (
            f" In an untrained copy the median is state {control.median():g}."
            if len(control)
            else ""
        )
    ]


def _untrained_lens(lens: Lens) -> Lens | None:
    """The same prompt in the untrained copy."""
    control = lens.result.control
    if control is None or lens.prompt not in lens_prompts(control):
        return None
    return lens_of(control, lens.prompt)


# ---- the "her" experiment --------------------------------------------------------------------


def of_her(
    comparison: Comparison,
    pairs: HasFrame | None,
    unit: str,
    overall: Comparison | None = None,
) -> list[str]:
    """The finding with its size, test and control.

    `overall` is the same comparison of the means over all blocks; the headline is made of it.
    """
    frame, contrast = comparison.frame, comparison.contrast
    out = [_headline(overall, unit) + _ways(comparison)] if overall is not None else []
    out.append(_overall(comparison, unit))
    out.append(_blocks(comparison))
    known = frame[frame[contrast].notna()]
    top = known.iloc[int(known[contrast].abs().argmax())]
    within = contrast == "within_difference"
    where = f" within {comparison.cluster}s" if within else ""
    pooled = f" (pooled over tokens {top['difference']:+.3g})" if within else ""
    out.append(
        f"The largest difference{where} is at block {int(top['layer'])}: {top[contrast]:+.3g} "
        f"{unit} [{top[f'{contrast}_low']:.3g}, {top[f'{contrast}_high']:.3g}] (interval of this "
        f"block alone){pooled}, g = "
        f"{top[comparison.effect]:.2f}, {_p_of(comparison, top)}.".replace("-", "−")
    )
    out += [*_signs(comparison), *_runs(comparison), *of_random(pairs, unit)]
    return [*out, *_welch(comparison), *_untrained(comparison)]


def _blocks(comparison: Comparison) -> str:
    """The number of blocks that differ, with and without the correction for all of them."""
    finding, frame = comparison.finding("blocks"), comparison.frame
    if not comparison.decidable:
        return f"Whether blocks differ {finding}."
    told = f"Corrected for their number, {finding}"
    if comparison.differs.any():
        ways = _directions(
            frame[comparison.differs], comparison.contrast, comparison.a, comparison.b
        )
        told += f": {ways}"
    return f"{told}{_each_alone(comparison)}."


def _each_alone(comparison: Comparison) -> str:
    """The number of blocks outside the band of shuffled labels, taken one by one; "" if none."""
    if comparison.null_band is None:
        return ""
    low, high = comparison.null_band
    frame = comparison.frame[comparison.frame[low].notna()]
    if frame.empty:
        return ""
    value = frame[comparison.contrast]
    outside = int(((value < frame[low]) | (value > frame[high])).sum())
    return (
        f"; taken one by one, without that correction, {outside} of {len(frame)} lie outside what "
        f"shuffled labels give in {percent(comparison.confidence)} of cases, where chance alone "
        f"would put {(1 - comparison.confidence) * len(frame):.1f}"
    )


def _p_of(comparison: Comparison, row: pd.Series[Any]) -> str:
    """The p of a row that is corrected for all rows, and the method."""
    how = "maximum statistic over all blocks"
    how = how if comparison.test == "permutation" else "Holm, over all blocks"
    return f"p = {row[comparison.family_p]:.2g} ({how})"


def _signs(comparison: Comparison) -> list[str]:
    """The note that the two contrasts have opposite signs, if they have."""
    return [f"Caution, {note}." for note in comparison.notes if OPPOSITE in note]


def _untrained(comparison: Comparison) -> list[str]:
    """The untrained copy's differences beside those of the model."""
    told = comparison.untrained("block")
    return [f"Untrained copy: {told}.".replace("-", "−")] if told else []


def not_said(comparison: Comparison) -> tuple[str, ...]:
    """The notes of a comparison that are not among the sentences of `of_her`."""
    copy = f"untrained copy: {comparison.untrained()}"
    return tuple(note for note in comparison.notes if OPPOSITE not in note and note != copy)


def _directions(frame: pd.DataFrame, contrast: str, a: object, b: object) -> str:
    """Blocks in which a has more than b, and those in which it has less."""
    parts = []
    for more, rows in (
        ("more", frame[frame[contrast] > 0]),
        ("less", frame[frame[contrast] < 0]),
    ):
        if len(rows):
            layers = rows["layer"].tolist()
            where = f"block{'s' * (len(layers) > 1)} {spans(layers)}"
            parts.append(f"{a} turns {more} than {b} in {where}")
    return ", ".join(parts)


def _headline(overall: Comparison, unit: str) -> str:
    """The difference of the means over all blocks: interval, shuffled labels, untrained copy."""
    row, contrast = overall.frame.iloc[0], overall.contrast
    within = f" within {overall.cluster}s" if contrast == "within_difference" else ""
    low, high = row[f"{contrast}_low"], row[f"{contrast}_high"]
    told = (
        f"Averaged over all blocks, {overall.value} is {abs(row[contrast]):.3g} {unit} "
        f"{'higher' if row[contrast] > 0 else 'lower'} for {overall.a} than for "
        f"{overall.b} tokens{within} ({row[contrast]:+.3g} [{low:.3g}, {high:.3g}])"
    )
    told += f": {_by_chance(overall, row)}.{_than_untrained(overall, row)}"
    return told.replace("-", "−")


def _by_chance(overall: Comparison, row: pd.Series[Any]) -> str:
    """The verdict of the test on one row: more than shuffled labels give, or not."""
    p = row[overall.family_p]
    if not overall.decidable:
        return f"so few {overall.cluster}s cannot decide whether by chance"
    known = "shuffled labels give" if overall.test == "permutation" else "chance gives"
    return f"{'more' if p < overall.level else 'no more'} than {known} (p = {p:.2g})"


def _than_untrained(overall: Comparison, row: pd.Series[Any]) -> str:
    """The verdict against the untrained copy, by the difference from it, paired by token."""
    contrast = overall.contrast
    copy = float(row.get(f"control_{contrast}", np.nan))
    if not np.isfinite(copy):
        return ""
    told = f" In an untrained copy of the model it is {copy:+.3g}"
    less = f"{contrast}{LESS}"
    more, p = float(row[less]), row[f"contrast{LESS}_p"]
    if not np.isfinite(more):
        return f"{told}; the two are not paired, so whether they differ is not tested."
    band = f"{more:+.3g} [{row[f'{less}_low']:.3g}, {row[f'{less}_high']:.3g}]"
    clear = bool(p < overall.level)
    verdict = "differs from its copy" if clear else "does not detectably differ from its copy"
    own = float(row[contrast])
    way = "smaller" if abs(own) < abs(copy) else "larger"
    effect = f"a {way} effect" if own * copy > 0 else "an effect in the other direction"
    how = f"{band} (the same tokens in both, paired; p = {p:.2g})"
    return f"{told}. The model {verdict}: {how}{f', {effect}' * clear}."


def _ways(comparison: Comparison) -> str:
    """A caution where blocks that differ go different ways, which their mean hides; "" if not."""
    found = comparison.frame.loc[comparison.differs]
    if not found[comparison.contrast].lt(0).any() or not found[comparison.contrast].gt(0).any():
        return ""
    ways = _directions(found, comparison.contrast, comparison.a, comparison.b)
    return f" This mean hides that blocks go different ways: {ways}."


def _overall(comparison: Comparison, unit: str) -> str:
    frame = comparison.frame
    means = [float(frame[f"mean_{side}"].mean()) for side in ("a", "b")]
    sizes = [
        f"{int(frame[f'n_{side}'].max())} tokens of {int(frame[f'prompts_{side}'].max())} prompts"
        for side in ("a", "b")
    ]
    return (
        f"Averaged over all blocks, {comparison.value} is {means[0]:.3g} {unit} for "
        f"{comparison.a} ({sizes[0]}) and {means[1]:.3g} {unit} for {comparison.b} ({sizes[1]}): "
        f"a difference of {means[0] - means[1]:+.3g} {unit}."
    ).replace("-", "−")


def _runs(comparison: Comparison) -> list[str]:
    """All runs of neighbouring blocks that differ, with their direction."""
    runs = comparison.runs_found
    if runs.empty:
        return []
    parts = []
    for more, found in (("more", runs[runs["mass"] > 0]), ("less", runs[runs["mass"] < 0])):
        ordered = found.sort_values("first")
        listed = [f"{span_of(run)} (p = {run['p']:.2g})" for _, run in ordered.iterrows()]
        if listed:
            who = f"{comparison.a} turns {more} than {comparison.b}"
            one = len(found) == 1 and (found["first"] == found["last"]).all()
            parts.append(f"{who} in block{'' if one else 's'} {', '.join(listed)}")
    return [
        "Runs of neighbouring blocks, each run tested as a whole (cluster permutation): "
        f"{'; '.join(parts)}.{_unstarred(comparison, runs)}"
    ]


def _unstarred(comparison: Comparison, runs: pd.DataFrame) -> str:
    """The blocks inside of runs that do not differ on their own; "" if all do."""
    layers = comparison.frame["layer"]
    inside = sum((layers.between(r["first"], r["last"]) for _, r in runs.iterrows()), layers < 0)
    alone = layers[inside & ~comparison.differs].tolist()
    if not alone:
        return ""
    many = len(alone) > 1
    return (
        f" Block{'s' * many} {spans(alone)} {'have' if many else 'has'} no ★ in the figure: "
        f"{'they belong' if many else 'it belongs'} to a run that differs, but a ★ needs a block "
        "to differ on its own, corrected for all blocks."
    )


def _welch(comparison: Comparison) -> list[str]:
    """The rate at which a test that takes tokens as independent is wrong about shuffled labels."""
    rate = comparison.frame["shuffled_welch_rate"].mean()
    if comparison.null_band is None or not np.isfinite(rate):
        return []
    return [
        "Where labels are shuffled at random there is no effect to find. Welch's test, which takes "
        f"tokens as independent, still finds one in {percent(rate, 1)} of the shuffles; "
        f"{percent(comparison.level, 1)} would be right."
    ]


def of_random(pairs: HasFrame | None, unit: str) -> list[str]:
    """Angles of random pairs; below 90° the space is anisotropic."""
    return [
        _scale(name.removeprefix("random pairs, "), rows, unit)
        for name, rows in random_lines(pairs.frame if pairs is not None else pd.DataFrame()).items()
    ]


def _scale(kind: str, rows: pd.DataFrame, unit: str) -> str:
    """Angle between unrelated states, the scale for reading other angles."""
    low, high = rows["mean"].min(), rows["mean"].max()
    at = _band(rows.iloc[0], f" {unit}") if len(rows) == 1 else f"{low:.3g} to {high:.3g} {unit}"
    told = f"Random pairs of states, {kind}, are {at} apart"
    # By the interval, not the mean: 89.9 with an interval over 90 is no anisotropy.
    if (rows["high"] < 90).all():
        return f"{told}, below the 90 of unrelated directions: all states share a direction."
    return f"{told}; 90 is the angle of unrelated directions."


def spans(layers: Sequence[int]) -> str:
    """Numbers with runs joined.

    >>> spans([0, 1, 2, 5, 7, 8])
    '0–2, 5, 7–8'
    """
    out: list[list[int]] = []
    for n in layers:
        if out and n == out[-1][-1] + 1:
            out[-1].append(n)
        else:
            out.append([n])
    return ", ".join(f"{r[0]}–{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in out)
