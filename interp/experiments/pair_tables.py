"""What comparisons of pairs share: both sides of all tables, rows that are read, first layers.

Knows tables of pairs, held in memory or a window at a time; nothing of patching.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Floats
from interp.contract.analysis import Analysis
from interp.contract.columns import STATE
from interp.errors import BadInput, nearest
from interp.prompts.pairs import PARTS, PromptPairs, joined
from interp.runs.results import Result, Results
from interp.runs.run import run
from interp.stats.classical import holm
from interp.stats.paired import first_detected

STEPS = ("step_angle", "step_distance")
RANGES = {
    "angle": (0.0, 180.0), "cosine": (-1.0, 1.0), "distance": (0.0, np.inf),
    "relative_distance": (0.0, 2.0),
}  # fmt: skip
"""Ends of the range of every measure, which no interval of it leaves."""


def range_of(measure: str) -> tuple[float, float]:
    """The range of a measure of two streams, of a step, or of unrelated pairs."""
    return RANGES[measure.removeprefix("unrelated_").removeprefix("step_")]


def some_asked(analyses: Any) -> bool:
    """Whether there are analyses to run; an empty list asks for none."""
    return not (isinstance(analyses, Sequence) and not len(analyses))


def read_parts(read: str | Sequence[str] | None, causal: bool) -> tuple[list[str], str]:
    """The parts that are read, and how they are called."""
    if read == "all" or (read is None and not causal):
        return list(PARTS), "all aligned"
    wanted = list(PARTS[1:]) if read is None else [read] if isinstance(read, str) else list(read)
    for part in wanted:
        if part not in PARTS:
            raise BadInput(
                f"read={part!r}{nearest(part, ('all', *PARTS))}; allowed: all, {', '.join(PARTS)}"
            )
    if not wanted:
        raise BadInput(f"read is empty; allowed: all, {', '.join(PARTS)}")
    return wanted, ", ".join(wanted)


def both_sides(
    model: Any, ready: PromptPairs, chosen: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Results | None, Results | None]:
    """The analyses over the clean prompts and over the corrupted ones."""
    if not chosen:
        return None, None
    sides = []
    for column, prompts in enumerate((ready.clean, ready.corrupted)):
        parts = [np.full(len(row), None, dtype=object) for row in prompts.tokens]
        for i, places in enumerate(ready.places):
            parts[i][places[:, column]] = ready.parts(i)
        labelled = prompts.with_labels("part", [row.tolist() for row in parts])
        for name, values in ready.fields.items():
            labelled = labelled.with_labels(name, list(values))
        sides.append(labelled)
    answers = {"targets": ready.answer, "against": ready.wrong}
    given: dict[str, Any] = {name: list(ids) for name, ids in answers.items() if ids is not None}
    clean, corrupted = (run(model, s, list(chosen.values()), **given, **options) for s in sides)
    shared = [chosen[name] for name, result in clean.items() if of_the_whole(result)]
    if not shared:
        return clean, corrupted
    twice = {name: ids * 2 for name, ids in given.items()}
    both = run(model, joined(sides[0], sides[1]), shared, **twice, **options)
    return _side_of(both, clean, 0), _side_of(both, corrupted, 1)


def of_the_whole(result: Result) -> bool:
    """Whether the rows of tokens may depend on the other prompts of the run, such as by a basis."""
    own = type(result.analysis).table is not Analysis.table
    return own and {"prompt", "position"} <= set(result.frame)


def _side_of(both: Results, results: Results, side: int) -> Results:
    """The results of one side, with those of a run over both sides in their place."""
    pairs = len(results.tokens["prompt"].unique())

    def cut(frame: pd.DataFrame) -> pd.DataFrame:
        rows = frame[frame["prompt"] // pairs == side]
        return rows.assign(prompt=rows["prompt"] - side * pairs).reset_index(drop=True)

    replaced = {
        name: replace(
            result, tokens=cut(result.tokens), _frame=cut(result.frame),
            notes=(*result.notes, "Measured on both sides of the pairs in one run."),
        )
        for name, result in both.items()
    }  # fmt: skip
    found = [replaced.get(name, result) for name, result in results.items()]
    return Results(found, results.provenance)


def chosen_rows(table: pd.DataFrame, tokens: pd.DataFrame, mask: pd.Series[bool]) -> pd.DataFrame:
    """The rows of a table whose tokens the mask chooses."""
    return table.merge(tokens.loc[mask, ["pair", "place"]], on=["pair", "place"])


def matrix(rows: pd.DataFrame, column: str, layers: Any, at: str = STATE) -> Floats:
    """Mean of each pair at each layer `[pairs, layers]`, NaN where there is none."""
    means = rows.groupby(["pair", at])[column].mean()
    grid = pd.MultiIndex.from_product([rows["pair"].unique(), layers])
    return np.asarray(means.reindex(grid).to_numpy(np.float64).reshape(-1, len(layers)))


def onsets(tests: pd.DataFrame, level: float) -> pd.DataFrame:
    """The first layer with a detectable difference, by analysis and column."""
    rows = []
    if tests.empty:
        return tests
    for (analysis, column), part in tests.groupby(["analysis", "column"], sort=False):
        hit = first_detected(part["p_max"], level)
        p = part["p_max"].to_numpy(np.float64)
        smallest = float(np.nanmin(p)) if np.isfinite(p).any() else float("nan")
        row: dict[str, Any] = {"analysis": analysis, "column": column}
        at = part.iloc[hit if hit is not None else 0]
        for name in ("layer", STATE, "difference", "low", "high", "p_max"):
            row[name] = at[name] if hit is not None else np.nan
        rows.append(row | {"smallest_p_max": smallest})
    out = pd.DataFrame(rows)
    return out.assign(smallest_p_max_holm=holm(out["smallest_p_max"]))
