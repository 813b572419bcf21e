"""When in a series a profile appeared: the change point of a value in every layer.

Knows tables of a series; runs no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Floats
from interp.contract.not_measured import not_measured
from interp.errors import BadInput, unknown
from interp.render.drawing import Drawing
from interp.render.finding import Finding
from interp.runs.series.drawings import axis_options
from interp.runs.series.result import Series, SeriesResult
from interp.stats.change_point import (
    FEWEST_RUNS,
    ChangePoint,
    change_point,
    is_geometric,
    log_places,
    runs_together,
)
from interp.stats.paired import smallest_p
from interp.stats.table import is_special, is_summary, left_out_note

ALPHA = 0.05
LEAST_MEMBERS = 4
MOST_LINES = 6
AGAINST = "over all of them, against changed signs and shuffled places"
PLACES = ("stack", "layer", "head")
_ALL = "\0all"  # no label has this name
COLUMNS = {
    "run": "training run, where the series has several",
    "layer": "block or state, as in the table of the analysis",
    "head": "attention head, where the table has heads",
    "at": "place of the change: the middle between the members before and after it",
    "low": "last member before the interval of that place",
    "high": "first member after it",
    "before": "mean over prompts and the members before the change",
    "after": "mean over prompts and the members after it",
    "size": "after − before",
    "size_low": "lower end of its interval over prompts, at this place of the change",
    "size_high": "upper end, likewise",
    "share": "share of the variance between members that one step explains: 1 is sudden",
    "p": "of no change at all, the larger p of two tests: with the signs of whole prompts' "
    "differences (after − before) changed, and with the places of every prompt shuffled; never 0",
    "p_max": "the same against the farthest row of each draw (family-wise over layers and heads)",
    "prompts": "prompts with a value in every member",
}
OVER_RUNS = {
    "runs": "training runs, the unit of this table",
    "changed": "of them, those whose own p_max is below 0.05",
    "at": "mean over runs of the place of the change, geometric on a logarithmic axis; missing "
    "unless every run changed",
    "low": "lower end of its 95 % interval over runs, with the distance between members; missing "
    "with two runs",
    "high": "upper end, likewise",
    "earliest": "place of the first run to change",
    "latest": "place of the last one",
    "size": "mean over runs of after − before",
    "p": "of no change in a common direction, by changing the signs of whole runs",
    "p_max": "the same against the farthest row of each draw (family-wise over layers and heads)",
}


@dataclass(frozen=True, eq=False, repr=False)
class ChangePoints(Finding):
    """Change points of a value along a series: the answer of `change_points`.

    Attributes:
        frame: a row per layer (and head, and run); `COLUMNS` has the meaning of the columns. Where
            p_max is above 0.05 nothing is known to have changed, and `at` means little.
        curves: the means that the change is one of, with their bands.
        value: the column.
        axis: what `at` counts.
        notes: caveats.
        over_runs: of a series of several training runs, a row per layer (and head) with the run as
            the unit; columns as in `OVER_RUNS`. Empty with one run.
    """

    name = "changes"
    question = "When in the series did the value change, and in which layers?"
    columns = COLUMNS

    frame: pd.DataFrame
    curves: pd.DataFrame
    value: str
    axis: str
    notes: tuple[str, ...] = ()
    over_runs: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """The changes of every run, and those over runs where there are several."""
        pooled = {"over_runs": self.over_runs} if len(self.over_runs) else {}
        return {self.name: self.frame, **pooled}

    @property
    def found(self) -> pd.DataFrame:
        """The rows with a change, family-wise at 5 %, earliest first."""
        return self.frame[self.frame["p_max"] < ALPHA].sort_values("at", kind="stable")

    @property
    def sentence(self) -> str:
        """The earliest and the latest change, or that there is none."""
        found, all_rows = self.found, len(self.frame)
        if found.empty:
            smallest = self.frame["p_max"].min()
            said = "p undefined" if np.isnan(smallest) else f"smallest p {smallest:.2g}"
            return f"{self.value}: no change in any of {all_rows} rows ({said} {AGAINST})"
        ends = [found.iloc[0], found.iloc[-1]] if len(found) > 1 else [found.iloc[0]]
        parts = [
            f"{_place(row)} between {self.axis} {row['low']:g} and {row['high']:g} (from "
            f"{row['before']:.3g} to {row['after']:.3g})"
            for row in ends
        ]
        return (
            f"{self.value} changed in {len(found)} of {all_rows} rows (p < {ALPHA} {AGAINST}), "
            f"{'first ' if len(ends) > 1 else ''}in {', last in '.join(parts)}{self._pooled()}"
        )

    def _pooled(self) -> str:
        """The earliest change over runs, in words; "" with one run."""
        if self.over_runs.empty:
            return ""
        runs = int(self.over_runs["runs"].iloc[0])
        rows = self.over_runs[self.over_runs["at"].notna()]
        if rows.empty:
            return f"; no row changed in each of the {runs} runs"
        row = rows.iloc[int(rows["at"].to_numpy(np.float64).argmin())]
        band = f" [{row['low']:.3g}, {row['high']:.3g}]" if row["low"] == row["low"] else ""
        return (
            f"; over {runs} runs, with the run as the unit, first in {_place(row)} at {self.axis} "
            f"{row['at']:.3g}{band}"
        )

    @property
    def short(self) -> pd.DataFrame:
        """The columns to read first."""
        kept = ("run", *PLACES, "at", "low", "high", "before", "after", "share", "p_max")
        return self.frame[[c for c in kept if c in self.frame]]

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """The place of the change in every row, and the curves of those that change most."""
        places = {"When it changed": self._places()} if self.frame["at"].notna().any() else {}
        known = len(self.over_runs) and self.over_runs["at"].notna().any()
        pooled = {"Over runs": self._over_runs()} if known else {}
        return {**places, **pooled, "Curves": self._curves()}

    def _places(self) -> Drawing:
        frame = self.found if len(self.found) else self.frame
        frame = frame[frame["at"].notna()].sort_values([c for c in PLACES if c in frame])
        options = axis_options(self.curves["at"].tolist())
        table = pd.DataFrame(
            {
                "name": [_place(row) for _, row in frame.iterrows()],
                "value": frame["at"],
                "low": frame["low"].map(options["x"]),
                "high": frame["high"].map(options["x"]),
                "hover": [f"p = {p:.3g} over all rows" for p in frame["p_max"]],
            }
        )
        kept = "Rows with p < 0.05 over all rows." if len(self.found) else "No row changed."
        return Drawing(
            "bars",
            f"When {self.value} changed",
            table.reset_index(drop=True),
            self.axis,
            caption=f"{kept} Bars: 95 % intervals by resampling whole prompts.",
            if_null="no row would be listed as changed.",
            options={k: v for k, v in options.items() if k != "x"} | {"up": True},
        )

    def _over_runs(self) -> Drawing:
        frame = self.over_runs[self.over_runs["at"].notna()]
        options = axis_options(self.curves["at"].tolist())
        table = pd.DataFrame(
            {
                "name": [_place(row) for _, row in frame.iterrows()],
                "value": frame["at"],
                "low": frame["low"],
                "high": frame["high"],
                "hover": [
                    f"the runs: {low:.4g} to {high:.4g}"
                    for low, high in zip(frame["earliest"], frame["latest"], strict=True)
                ],
            }
        )
        return Drawing(
            "bars",
            f"When {self.value} changed, over runs",
            table.reset_index(drop=True),
            self.axis,
            caption=f"Mean over {int(frame['runs'].iloc[0])} runs of rows in which each run "
            "changed. Bars: 95 % intervals with the run as the unit; they include the distance "
            "between members.",
            if_null="no row would be listed.",
            options={k: v for k, v in options.items() if k != "x"} | {"up": True},
        )

    def _curves(self) -> Drawing:
        order = self.frame.assign(size=self.frame["size"].abs()).sort_values("size")
        names = [_place(row) for _, row in order.tail(MOST_LINES).iloc[::-1].iterrows()]
        rows = self.curves.assign(group=[_place(row) for _, row in self.curves.iterrows()])
        options = axis_options(rows["at"].tolist())
        rows = rows[rows["group"].isin(names)].assign(value=self.value)
        table = rows.assign(x=rows["at"].map(options["x"]))
        return Drawing(
            "lines",
            f"{self.value} along the series",
            table[["value", "group", "x", "mean", "low", "high", "n"]],
            self.value,
            self.axis,
            f"The {len(names)} rows that change most. Bands: 95 % intervals over prompts.",
            options={k: v for k, v in options.items() if k != "x"} | {"whole": True},
        )


def _place(row: Any) -> str:
    """Run, layer and head of a row, in words."""
    parts = [str(row["run"])] if row.get("run") else []
    parts += [f"{name} {row[name]:g}" for name in ("layer", "head") if name in row]
    stack = [str(row["stack"])] if row.get("stack") else []
    return " · ".join([*stack, *parts]) or "all tokens"


def change_points(
    results: Any,
    *,
    value: str | None = None,
    analysis: str | None = None,
    by: str | None = None,
    group: str | None = None,
    special: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> ChangePoints:
    """Find when in a series a value changed, in every layer, with an interval over prompts.

    The change is the best single step of the mean curve by least squares, its interval the middle
    95 % over draws of whole prompts; the test against no change takes all layers together
    (`interp.stats.change_point`). A gradual change has its best step near its middle, and a `share`
    well below 1. With one model per place, what all prompts have in common, such as an unlucky
    checkpoint, counts as change: several seeds tell. A series of several runs has a row per run and
    the table `over_runs`, in which the run is the unit and not the prompt
    (`interp.stats.runs_together`).

    Args:
        results: of `interp series`. In Python also one of its results.
        value: the column; by default the first of the analysis.
        analysis: whose table; by default the first that has the value.
        by: a label column.
        group: the label in it: only these tokens.
        special: keep special tokens, such as BOS.
        resamples: number of bootstrap draws, of sign changes and of shuffles.
        seed: seed of both.

    Raises `BadInput` for results of no series, a series without places on an axis, fewer than four
    members, or a summary; `UnknownName` for a column that is not there.
    """
    result, value = series_result(results, value, analysis)
    _refuse_axis(result.series)
    if by is not None and group is None:
        raise BadInput(f"by={by!r} is a column of labels: name one of them by group=")
    rows, notes = rows_of(result, by, group, special)
    parts = []
    several = "run" in result.series.axis_columns
    at = np.unique(rows["at"].to_numpy(np.float64))
    log = is_geometric(at)
    for run, part in rows.groupby("run", sort=False) if several else [("", rows)]:
        found, more = _of_run(part, value, log, resamples, seed)
        parts.append(found.assign(run=run))
        notes += [f"{run!s}: {note}" if run else note for note in more]
    curves = result.curves(value, special=special, by=by or ())
    if by is not None:
        curves = curves[curves[by].astype(str) == str(group)].drop(columns=by)
    frame = pd.concat(parts, ignore_index=True)
    pooled, more = _over_runs(frame, log_places(at) if log else at, log, resamples, seed)
    notes += more
    frame = frame.drop(columns=[*_BOUNDS, *([] if several else ["run"])])
    first = [c for c in COLUMNS if c in frame]
    frame = frame[[*(c for c in ("run", "stack") if c in frame and c not in first), *first]]
    notes += list(result.series.notes)
    return ChangePoints(
        frame, curves, value, result.series.axis, tuple(dict.fromkeys(notes)), pooled
    ).with_about(axis=result.series.axis)


def series_result(
    results: Any, value: str | None, analysis: str | None
) -> tuple[SeriesResult, str]:
    """The result of a series with a value, and the value; raises for anything else."""
    if isinstance(results, SeriesResult):
        found = results
    elif not isinstance(results, Series):
        raise BadInput(
            f"a series is needed, not {type(results).__name__}: interp.series(…), or the folder "
            "that interp series wrote"
        )
    else:
        found = _holding(results, value, analysis)
    chosen = found.values[0] if value is None else value
    if chosen not in found.values:
        raise unknown(f"value column of {found.name!r}", chosen, found.values)
    if is_summary(found.frame):
        raise BadInput(
            f"{found.name!r} keeps moments, not a row per token, so that members cannot be matched "
            f"prompt by prompt; run the series again with keep='tokens' (--keep tokens)"
        )
    return found, chosen


def _holding(series: Series, value: str | None, analysis: str | None) -> SeriesResult:
    if analysis is not None or value is None:
        return series[next(iter(series)) if analysis is None else analysis]
    for name in series:
        if value in series[name].values:
            return series[name]
    raise not_measured(
        "value column", value, dict.fromkeys(v for n in series for v in series[n].values)
    )


def rows_of(
    result: SeriesResult, by: str | None, group: str | None, special: bool
) -> tuple[pd.DataFrame, list[str]]:
    """The rows to compare, without special tokens and those of other groups; and a note on them."""
    frame = result.frame
    if "prompt" not in frame:
        raise BadInput(f"the table of {result.name!r} has no prompts, which are the unit here")
    left_out = is_special(frame, special)
    first = frame["member"] == frame["member"].iloc[0]
    note = left_out_note(frame[first], left_out[first.to_numpy()])
    rows = frame[~left_out]
    if by is not None:
        if by not in rows:
            raise unknown("label", by, result.labels)
        if group is not None:
            kept = rows[rows[by].astype(str) == str(group)]
            if kept.empty:
                raise unknown(f"label of {by}", str(group), sorted(set(rows[by].astype(str))))
            rows = kept
    elif group is not None:
        raise BadInput(f"group={group!r} is a label of a column: name that by=")
    return rows, [note] if note else []


def _refuse_axis(series: Series) -> None:
    if not series.ordered:
        raise BadInput(
            "this series has no axis: its members have no training steps in their names; give "
            "their places, at= (--at), when you make the series"
        )
    for run, rows in series.members[series.members["status"] == "measured"].groupby("run"):
        if len(rows) < LEAST_MEMBERS:
            of = f" of run {run!r}" if run else ""
            raise BadInput(
                f"{len(rows)} members{of} were measured; a change point needs {LEAST_MEMBERS} at "
                "least"
            )


def _of_run(
    rows: pd.DataFrame, value: str, log: bool, resamples: int, seed: int
) -> tuple[pd.DataFrame, list[str]]:
    """Change points of one run: a row per place in the model."""
    keys = [c for c in PLACES if c in rows]
    values, at, places, notes = _cube(rows, value, keys)
    found = change_point(values, at, log=log, resamples=resamples, seed=seed)
    frame = places.assign(**_columns(found), **_bounds(found, log_places(at) if log else at))
    if log:
        notes.append("the axis is logarithmic, because the places grow by factors")
    return frame, notes


_BOUNDS = ("last", "next")


def _bounds(found: ChangePoint, places: Floats) -> dict[str, Floats]:
    """Places of the members on either side of each change; NaN without one."""
    known = found.first > 0
    ends = places[found.first - 1], places[np.where(known, found.first, 0)]
    return {n: np.where(known, x, np.nan) for n, x in zip(_BOUNDS, ends, strict=True)}


def _over_runs(
    frame: pd.DataFrame, places: Floats, log: bool, resamples: int, seed: int
) -> tuple[pd.DataFrame, list[str]]:
    """A row per place in the model with the run as the unit, and notes; empty with one run."""
    keys, runs = [c for c in PLACES if c in frame], list(dict.fromkeys(frame["run"]))
    if len(runs) < 2:
        return pd.DataFrame(), []
    keyed = frame if keys else frame.assign(**{_ALL: 0})
    wide = keyed.set_index([*(keys or [_ALL]), "run"]).unstack("run")  # noqa: PD010
    wide = wide[np.isfinite(wide["size"].to_numpy(np.float64)).all(axis=1)]
    if wide.empty:
        return pd.DataFrame(), ["no row is there in every run, so that nothing is pooled over runs"]
    values = {c: wide[c].to_numpy(np.float64).T for c in (*_BOUNDS, "at", "size", "p_max")}
    changed = (values["p_max"] < ALPHA).sum(axis=0)
    together = runs_together(
        *(values[c] for c in (*_BOUNDS, "size")), log=log, resamples=resamples, seed=seed
    )
    ends = [np.clip(x, places[0], places[-1]) for x in (together.low, together.high)]
    known = changed == len(runs)
    at, low, high = (np.where(known, x, np.nan) for x in (together.at, *ends))
    columns: dict[str, Any] = {
        "runs": len(runs),
        "changed": changed,
        "at": at,
        "low": low,
        "high": high,
        "earliest": values["at"].min(axis=0),
        "latest": values["at"].max(axis=0),
        "size": together.size,
        "p": together.p,
        "p_max": together.p_max,
    }
    return wide.index.to_frame(index=False)[keys].assign(**columns), _on_runs(len(runs))


def _on_runs(runs: int) -> list[str]:
    """What so few runs can tell."""
    notes = []
    if runs < FEWEST_RUNS:
        notes.append(
            f"{runs} runs are too few for an interval over runs ({FEWEST_RUNS} at least); "
            "over_runs has their mean and their range"
        )
    if smallest_p(runs) >= ALPHA:
        notes.append(
            f"{runs} runs are too few for a test over runs: the smallest p that they can give is "
            f"{smallest_p(runs):.2g}; six give {smallest_p(6):.2g}"
        )
    return notes


def _columns(found: ChangePoint) -> dict[str, Any]:
    left_out = ("first", "exact", "prompts")
    named = {k: v for k, v in found._asdict().items() if k not in left_out}
    return named | {"prompts": found.prompts}


def _cube(
    rows: pd.DataFrame, value: str, keys: list[str]
) -> tuple[Floats, Floats, pd.DataFrame, list[str]]:
    """Means `[prompts, members, places]`, the axis, the places in the model, and notes."""
    keyed = keys or [_ALL]
    rows = rows if keys else rows.assign(**{_ALL: 0})
    mean = rows.groupby(["prompt", "at", *keyed], sort=True, dropna=False)[value].mean()
    wide = mean.unstack("at")  # noqa: PD010
    at = wide.columns.to_numpy(np.float64)
    whole = wide.dropna()
    notes = []
    tables = dict(_by_place(whole, keyed))
    prompts = wide.index.get_level_values("prompt").unique()
    enough = {place: t for place, t in tables.items() if len(t) > len(prompts) / 2}
    if not enough:
        raise BadInput(
            f"no layer has {value!r} in every member for more than half of the prompts; the "
            "members may differ in depth or in their prompts"
        )
    lost = len(wide.reset_index().drop_duplicates(keyed)) - len(enough)
    if lost:
        notes.append(f"{lost} rows lack a value in some member and are left out")
    shared = _shared(enough)
    if len(shared) < len(prompts):
        notes.append(f"{len(prompts) - len(shared)} prompts lack a value and are left out")
    cube = np.stack([t.loc[shared].to_numpy() for t in enough.values()], axis=2)
    places = pd.DataFrame(list(enough), columns=keyed)[keys]
    return cube, at, places, notes


def _by_place(wide: pd.DataFrame, keys: list[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    for place, part in wide.groupby(level=keys, sort=True):
        own = place if isinstance(place, tuple) else (place,)
        yield own, part.set_axis(part.index.get_level_values("prompt"))


def _shared(tables: Mapping[Any, pd.DataFrame]) -> Any:
    """Prompts that every table has, in order."""
    counts = Counter(prompt for table in tables.values() for prompt in table.index)
    return sorted(prompt for prompt, count in counts.items() if count == len(tables))
