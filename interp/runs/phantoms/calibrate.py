"""Calibration: analyses measured on models whose geometry is known, with a verdict per column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from interp.contract.analysis import Analysis
from interp.contract.registry import resolve
from interp.errors import BadInput
from interp.render.drawing import Drawing
from interp.render.finding import Finding
from interp.runs.phantoms.phantom import Trial
from interp.runs.phantoms.trials import trials_of
from interp.runs.results import Results
from interp.runs.run import Wanted, run

PASSED, FAILED = "met", "missed"
ORDER = (
    "analysis", "phantom", "column", "rows", "true", "measured", "distance", "tolerance", "because",
    "verdict",
)  # fmt: skip

COLUMNS = {
    "analysis": "what measured",
    "phantom": "the model that was measured",
    "column": "column of the analysis' table",
    "rows": "rows of that table with a known value; count",
    "true": "the known value of the row that is furthest off, in units of its tolerance",
    "measured": "what the analysis measured there",
    "distance": "|measured − true|",
    "tolerance": "largest distance that rounding or sampling explains",
    "because": "where the tolerance comes from",
    "verdict": "'met', or 'missed' if a row is further off than its tolerance",
}


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Finding):
    """Verdicts on analyses, a row per known column.

    Attributes:
        open: columns of which no phantom knows the value, by analysis.
        without: analyses that have no phantom.
        phantoms: what is known of each phantom, by name.
    """

    name = "calibration"
    question = (
        "Does the analysis measure what is there? Each is run on models with weights set by hand, "
        "of which the geometry is known before anything is measured."
    )
    columns = COLUMNS
    frame: pd.DataFrame
    open: Mapping[str, tuple[str, ...]]
    without: tuple[str, ...]
    phantoms: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if every known value was met."""
        return bool((self.frame["verdict"] == PASSED).all())

    @property
    def short(self) -> pd.DataFrame:
        """What was missed, else all, without the columns that are the same in all rows."""
        missed = self.frame[self.frame["verdict"] == FAILED]
        rows = self.frame if missed.empty else missed
        same = ["analysis"] if len(rows["analysis"].unique()) == 1 else []
        return rows.drop(columns=["because", *same])

    @property
    def sentence(self) -> str:
        """How many known values were met, and of what."""
        met, n = int((self.frame["verdict"] == PASSED).sum()), len(self.frame)
        analyses = self.frame["analysis"].unique()
        who = f"{analyses[0]}" if len(analyses) == 1 else f"{len(analyses)} analyses"
        many = self.frame["phantom"].nunique()
        on = "1 phantom" if many == 1 else f"{many} phantoms"
        if met == n:
            return f"{who}: all {n} known columns are met on {on}."
        worst = self.frame[self.frame["verdict"] == FAILED].iloc[0]
        return (
            f"{who}: {n - met} of {n} known columns are missed on {on}; the first is "
            f"{worst['analysis']}.{worst['column']} on {worst['phantom']!r}: true "
            f"{worst['true']:.6g}, measured {worst['measured']:.6g}, allowed distance "
            f"{worst['tolerance']:.2g}."
        )

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """The verdicts, and what is known of each phantom."""
        about = {"phantom": self.phantoms.keys(), "known": self.phantoms.values()}
        return {self.name: self.frame, "phantoms": pd.DataFrame(about)}

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """The distance of every column as a share of its tolerance."""
        frame = self.frame
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(frame["distance"] == 0, 0.0, frame["distance"] / frame["tolerance"])
        one = len(frame["analysis"].unique()) == 1
        names = frame["column"] if one else frame["analysis"] + "." + frame["column"]
        table = pd.DataFrame(
            {
                "name": names.to_numpy(),
                # What cannot be divided is drawn beyond all others, not left out.
                "value": np.clip(np.nan_to_num(share, nan=10.0, posinf=10.0), 0, 10),
                "group": frame["phantom"].to_numpy(),
                "hover": [
                    f"true {t:.6g}, measured {m:.6g}"
                    for t, m in zip(frame["true"], frame["measured"], strict=True)
                ],
            }
        )
        drawing = Drawing(
            "bars",
            "Distance from the known value",
            table.sort_values("value", ascending=False, kind="stable", ignore_index=True),
            unit="share of the tolerance (10: tenfold or more)",
            caption="The row of each column that is furthest off; above 1 it is missed.",
            if_null="A right analysis has all points at or below 1, most of them far below.",
            options={"from_zero": True},
        )
        return {"distance": drawing}


def calibrate(analyses: Wanted | Results) -> Calibration:
    """Measures analyses on their phantoms: models whose geometry is known in closed form.

    Args:
        analyses: names, classes or instances, or the results of a run, for the classes of its
            analyses. What is known holds for the default parameters. A plug-in names its own
            phantoms by the classmethod `phantoms` of its class, a list of `interp.Trial`.

    Returns a finding with a row per column that is known: true and measured value, the largest
    distance, its tolerance (from float32's resolution or from the sampling error) and a verdict;
    `passed` is True if all are met. Columns that no phantom knows are named in a note.
    Raises `BadInput` if none of the analyses has a phantom.
    """
    if isinstance(analyses, Results):
        analyses = [type(result.analysis) for result in analyses.values()]
    chosen = resolve(analyses)
    trials = {name: trials_of(analysis) for name, analysis in chosen.items()}
    without = tuple(name for name, found in trials.items() if not found)
    if len(without) == len(chosen):
        raise BadInput(
            f"no phantom is known for {', '.join(without)}: return some from the classmethod "
            "phantoms() of its class, a list of interp.Trial"
        )
    frames, left, phantoms = [], {}, {}
    for name, found in trials.items():
        seen: set[str] = set()
        for trial in found:
            frame = measured(trial, chosen[name])
            seen |= set(map(str, frame))
            frames.append(_judged(trial, frame, name))
            phantoms[trial.phantom.name] = trial.phantom.about
        if found:
            left[name] = uncertified(chosen[name], found, seen)
    frame = pd.concat(frames, ignore_index=True)
    frame["verdict"] = np.where(frame["passed"], PASSED, FAILED)
    return Calibration(frame[list(ORDER)], left, without, phantoms, _notes(left, without))


def _judged(trial: Trial, frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The verdicts of a trial; what its author wrote wrongly is named with analysis and phantom."""
    try:
        return trial.judge(frame).assign(analysis=name)
    except BadInput as error:
        raise BadInput(f"{name} on phantom {trial.phantom.name!r}: {error}") from error


def measured(trial: Trial, analysis: Analysis) -> pd.DataFrame:
    """The table of an analysis on a trial's phantom."""
    fitted, phantom = trial.fitted(analysis), trial.phantom
    if not phantom.prompts:
        return run(phantom.model, None, [fitted], progress=False)[fitted.name()].frame
    ids, mask = phantom.tokens
    # Few tokens a batch, so that most trials take several.
    most = max(2 * ids.shape[1], 64)
    options = {"mask": mask, "max_tokens": most, "progress": False, **dict(trial.options)}
    results = run(phantom.model, ids, [fitted], **options)
    return results[fitted.name()].frame


def uncertified(analysis: Analysis, trials: list[Trial], seen: set[str]) -> tuple[str, ...]:
    """Columns of the tables, with a meaning of their own, that no trial knows."""
    known = " ".join(k.column for trial in trials for k in trial.known)
    documented = [c for c in sorted(seen) if any(fnmatchcase(c, p) for p in analysis.columns)]
    keys = {*analysis.keys, *analysis.token_columns}
    named = set(known.replace("·", " ").replace("/", " ").split())
    return tuple(c for c in documented if c not in named and c not in keys)


def _notes(left: Mapping[str, tuple[str, ...]], without: tuple[str, ...]) -> tuple[str, ...]:
    notes = [
        f"no phantom knows these columns of {name}: {', '.join(columns)}"
        for name, columns in left.items()
        if columns
    ]
    if without:
        notes.append(f"without a phantom: {', '.join(without)}")
    return tuple(notes)
