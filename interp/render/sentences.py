"""What figures say, in sentences whose numbers are computed from the results.

Knows tables and comparisons; nothing of how they are drawn or laid out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from interp.render.compared import random_lines
from interp.render.grids import head_table
from interp.render.lens import Lens, lens_of, lens_prompts
from interp.render.lines import line_table
from interp.render.selection import View
from interp.results import Result
from interp.stats import Comparison


def of_lines(view: View) -> list[str]:
    """Where each value is largest and smallest; only for one group."""
    table, x, _ = line_table(view)
    table = table[table["mean"].notna() & (table["x"] >= 0)]
    if x is None or table.empty or len(table["group"].unique()) != 1 or table["x"].nunique() < 2:
        return []
    unit = f" {view.plot.unit}" if view.plot.unit and len(view.plot.unit) < 12 else ""
    word = "block" if view.result.analysis.scope == "layer" and x == "layer" else x
    word = "state" if view.result.analysis.scope == "model" and x == "layer" else word
    out = []
    for value, rows in table.groupby("value", sort=False):
        top, low = (rows.iloc[int(at)] for at in (rows["mean"].argmax(), rows["mean"].argmin()))
        out.append(
            f"{value} is largest at {word} {top['x']:g} ({_band(top, unit)}) and smallest at "
            f"{word} {low['x']:g} ({_band(low, unit)})"
            + (
                f"; an untrained copy has {top['control']:.3g} and {low['control']:.3g} there"
                if "control" in rows
                else ""
            ).replace("-", "−")
        )
    return ["; ".join(out) + "."]


def _band(row: pd.Series[Any], unit: str) -> str:
    band = f" [{row['low']:.3g}, {row['high']:.3g}]" if row["low"] == row["low"] else ""
    return f"{row['mean']:.3g}{unit}{band}".replace("-", "−")


def of_heads(view: View) -> list[str]:
    """The strongest head of each value against the mean of all."""
    table = head_table(view)
    out = []
    for value, rows in table.groupby("value", sort=False):
        known = rows[rows["mean"].notna()]
        if known.empty:
            out.append(f"{value} is undefined for every head")
            continue
        best = known.iloc[int(known["mean"].argmax())]
        out.append(
            f"{value} is strongest in L{int(best['layer'])}H{int(best['head'])} "
            f"({best['mean']:.3f}; mean of all {len(known)} heads {known['mean'].mean():.3f})"
            + _untrained_heads(view, str(value))
        )
    return ["; ".join(out) + "."] if out else []


def _untrained_heads(view: View, value: str) -> str:
    """The strongest head of the untrained copy, if there is one."""
    if view.result.control is None:
        return ""
    table = head_table(replace(view, result=view.result.control))
    means = table.loc[table["value"] == value, "mean"]
    return f", an untrained copy has {means.max():.3f} and {means.mean():.3f}"


def of_lens(lenses: Sequence[Lens]) -> list[str]:
    """From which state on the prediction stays that of the last state."""
    depth = pd.Series([d for lens in lenses for d in lens.depth()])
    if depth.empty:
        return []
    last = len(lenses[0].tokens) - 1
    late = (depth == last).mean()
    untrained = [c for lens in lenses if (c := _untrained_lens(lens)) is not None]
    control = pd.Series([d for lens in untrained for d in lens.depth()])
    return [
        f"Over the {len(depth)} positions of the {len(lenses)} kept prompts the prediction stays "
        f"that of the last state from state {depth.median():g} of {last} on (median); at "
        f"{late:.0%} of them only the last state has it."
        + (f" In an untrained copy: from state {control.median():g} on." if len(control) else "")
    ]


def _untrained_lens(lens: Lens) -> Lens | None:
    """The same prompt in the untrained copy."""
    control = lens.result.control
    if control is None or lens.prompt not in lens_prompts(control):
        return None
    return lens_of(control, lens.prompt)


# ---- the "her" experiment --------------------------------------------------------------------


def of_her(comparison: Comparison, pairs: Result | None, unit: str) -> list[str]:
    """The finding, its size, its test and its control."""
    frame, contrast = comparison.frame, comparison.contrast
    a, b = comparison.a, comparison.b
    finding = comparison.finding("blocks")
    out = [_overall(comparison, unit)]
    if comparison.differs.any():
        out.append(f"{finding}: {_directions(frame[comparison.differs], contrast, a, b)}.")
    elif comparison.decidable:
        out.append(f"{finding}.")
    else:
        out.append(f"Whether blocks differ {finding}.")
    known = frame[frame[contrast].notna()]
    top = known.iloc[int(known[contrast].abs().argmax())]
    within = contrast == "within_difference"
    where = f" within {comparison.cluster}s" if within else ""
    pooled = f" (pooled over tokens {top['difference']:+.3g})" if within else ""
    out.append(
        f"The largest difference{where} is at block {int(top['layer'])}: {top[contrast]:+.3g} "
        f"{unit} [{top[f'{contrast}_low']:.3g}, {top[f'{contrast}_high']:.3g}]{pooled}, g = "
        f"{top[comparison.effect]:.2f}, {_p_of(comparison, top)}.".replace("-", "−")
    )
    out += [*_signs(comparison), *_runs(comparison), *of_random(pairs, unit)]
    return [*out, *_shuffled(comparison), *_untrained(comparison, top, unit)]


def _p_of(comparison: Comparison, row: pd.Series[Any]) -> str:
    """The p of a row that holds for all rows together, and by which method."""
    how = "maximum statistic" if comparison.test == "permutation" else "Holm"
    return f"p = {row[comparison.family_p]:.2g} ({how})"


def _signs(comparison: Comparison) -> list[str]:
    """The note that the two contrasts have opposite signs, where they have."""
    found = [note for note in comparison.notes if "opposite signs" in note]
    return [f"Caution, {note}." for note in found]


def _untrained(comparison: Comparison, top: pd.Series[Any], unit: str) -> list[str]:
    """What the untrained copy has where the difference is largest, and at most anywhere."""
    control = f"control_{comparison.contrast}"
    if control not in comparison.frame:
        return []
    known = comparison.frame[comparison.frame[control].notna()]
    if known.empty:
        return []
    most = known.iloc[int(known[control].abs().argmax())]
    return [
        f"Control: an untrained copy of the model has a difference of "
        f"{top[control]:+.3g} {unit} at block {int(top['layer'])} and of at most "
        f"{most[control]:+.3g} {unit} (block {int(most['layer'])}).".replace("-", "−")
    ]


def _directions(frame: pd.DataFrame, contrast: str, a: object, b: object) -> str:
    """In which blocks a has more than b, and in which less."""
    parts = []
    for more, rows in (
        ("more", frame[frame[contrast] > 0]),
        ("less", frame[frame[contrast] < 0]),
    ):
        if len(rows):
            parts.append(f"{a} turns {more} than {b} in {spans(rows['layer'].tolist())}")
    return ", ".join(parts)


def _overall(comparison: Comparison, unit: str) -> str:
    frame = comparison.frame
    texts = []
    for group, side in ((comparison.a, "a"), (comparison.b, "b")):
        mean = frame[f"mean_{side}"].mean()
        n, prompts = int(frame[f"n_{side}"].max()), int(frame[f"prompts_{side}"].max())
        texts.append(f"{group}: {mean:.3g} {unit} ({n} tokens of {prompts} prompts)")
    return f"Mean {comparison.value} over all blocks. " + "; ".join(texts) + "."


def _runs(comparison: Comparison) -> list[str]:
    level = comparison.level
    runs = comparison.clusters
    found = runs[(runs["p"] < level) & (runs["size"] > 1)] if len(runs) else runs
    return [
        f"Neighbouring blocks {int(r['first'])}–{int(r['last'])} differ together "
        f"(cluster permutation, p = {r['p']:.2g})."
        for _, r in found.head(2).iterrows()
    ]


def _shuffled(comparison: Comparison) -> list[str]:
    contrast, (low, high) = comparison.contrast, comparison.null_band
    frame = comparison.frame[comparison.frame[low].notna()]
    if frame.empty:
        return []
    outside = (frame[contrast] < frame[low]) | (frame[contrast] > frame[high])
    rate = frame["shuffled_welch_rate"].mean()
    return [
        f"Control: {int(outside.sum())} of {len(frame)} differences lie outside what shuffled "
        f"labels give in {comparison.confidence:.0%} of cases, before correction; by chance one "
        f"expects {(1 - comparison.confidence) * len(frame):.1f}. Welch's test over tokens calls "
        f"shuffled labels significant in {rate:.1%} of cases."
    ]


def of_random(pairs: Result | None, unit: str) -> list[str]:
    """Where random pairs are: the space is anisotropic if they are not at 90°."""
    texts = []
    for name, rows in random_lines(pairs).items():
        kind = name.removeprefix("random pairs, ")
        if len(rows) == 1:
            texts.append(f"{kind} {_band(rows.iloc[0], f' {unit}')}")
        else:
            texts.append(f"{kind} {rows['mean'].min():.3g} to {rows['mean'].max():.3g} {unit}")
    if not texts:
        return []
    return [f"Random pairs of states are at: {'; '.join(texts)} (90 would be an isotropic space)."]


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
