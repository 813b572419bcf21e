"""The result of a series: one table per analysis over all members, with their places on the axis.

Knows tables of members; nothing of models.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pandas as pd

from interp._files import SERIES, json_value, whole_folder, write_sealed
from interp._progress import counted
from interp.contract.analysis import Analysis
from interp.contract.columns import SERIES_MEANINGS, SUMMARY
from interp.contract.not_measured import not_measured
from interp.errors import BadInput, unknown
from interp.render.draw import figure
from interp.render.look import Look, Palette
from interp.render.tokens import coded
from interp.runs.results import Result, Results
from interp.runs.series.depth import at_relative_depth
from interp.runs.series.drawings import drawing_of
from interp.runs.series.records import (
    FAILED,
    MEASURED,
    MEMBERS,
    WAITING,
    SavedResults,
    folder_of,
    latest,
    read_listing,
    record_path,
)
from interp.runs.series.report import write_report
from interp.stats.means import means
from interp.stats.table import is_special, is_summary

AXIS = ("member", "at", "run")
"""Columns that a series puts in front of every table; `run` where it has several."""
Depth = Literal["index", "relative"]


class SeriesResult:
    """One analysis over all members of a series.

    Attributes:
        name: of the analysis.
        series: the series that it is of.
    """

    def __init__(self, name: str, series: Series) -> None:
        self.name, self.series = name, series

    def __repr__(self) -> str:
        columns = ", ".join(map(str, self.frame))
        head = f"<SeriesResult {self.name!r}: {len(self.frame)} rows, columns {columns}>"
        return "\n".join([head, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{coded(note)}</p>" for note in self.notes)
        table = self.frame.head(10).to_html(escape=True)
        return f"<b>{html.escape(self.name)}</b>, {len(self.frame)} rows{notes}{table}"

    @cached_property
    def _parts(self) -> dict[str, Result]:
        return {name: each[self.name] for name, each in self.series.results.items()}

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The tables of all members as one: `member`, `at`, `run` (if several), then theirs."""
        parts = [_placed(self.series, name, r.frame) for name, r in self._parts.items()]
        return pd.concat(parts, ignore_index=True)

    @property
    def tokens(self) -> pd.DataFrame:
        """The tokens of all members, with the same columns in front."""
        parts = [_placed(self.series, name, r.tokens) for name, r in self._parts.items()]
        return pd.concat(parts, ignore_index=True)

    @property
    def analysis(self) -> Analysis:
        """The analysis with its parameters."""
        return next(iter(self._parts.values())).analysis

    @property
    def columns(self) -> Mapping[str, str]:
        """Meaning and unit of every column, labels of the prompts left out."""
        axis = {c: SERIES_MEANINGS[c] for c in self.series.axis_columns}
        return {**axis, **next(iter(self._parts.values())).columns}

    @property
    def values(self) -> list[str]:
        """The numeric value columns; of a summary the values that it has moments of."""
        first = next(iter(self._parts.values()))
        if is_summary(first.frame):
            return list(dict.fromkeys(first.frame["value"].astype(str)))
        return first.values

    @property
    def labels(self) -> list[str]:
        """Columns that came with the prompts; of a summary those that make its groups."""
        first = next(iter(self._parts.values()))
        if not is_summary(first.frame):
            return first.labels
        keys = {*SUMMARY, *first.analysis.keys}
        return [str(c) for c in first.frame if c not in keys]

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the series, and of the members' tables, with the members that they are of."""
        said: dict[str, list[str]] = {}
        for name, result in self._parts.items():
            for note in result.said:
                said.setdefault(note, []).append(name)
        shared = [
            note
            if len(of) == len(self._parts)
            else f"{', '.join(of[:4])}{'…' * (len(of) > 4)}: {note}"
            for note, of in said.items()
        ]
        return (*self.series.notes, *shared)

    def curves(
        self,
        value: str | None = None,
        *,
        by: str | Sequence[str] = (),
        depth: Depth = "index",
        special: bool = False,
    ) -> pd.DataFrame:
        """Mean of a value for every member and layer, with its 95 % band over prompts.

        Of a summary the band is that of its cluster-robust standard errors; there is none where
        several of its groups are drawn as one, so name its labels in `by`.

        Args:
            value: a numeric column; the first unless given.
            by: label columns: one mean per label.
            depth: "index": layers by their number; "relative": the members' tables are
                interpolated to equal shares of the depth, those of the shallowest member.
            special: keep special tokens, such as BOS.

        Columns: `member`, `at`, `run` (if several), `layer`, `head` (where there are heads), the
        labels, `mean`, `low`, `high`, `n`, `prompts` (of a corpus: documents), `undefined`. Raises
        `UnknownName` for a column that is not there.
        """
        chosen, frame = self.rows(value, depth=depth, special=special)
        labels = [by] if isinstance(by, str) else list(by)
        for label in labels:
            if label not in frame:
                raise unknown("label", label, self.labels)
        ranges = self.analysis.ranges
        keys = [k for k in ("stack", "layer", "head") if k in frame]
        parts = []
        for place, rows in frame.groupby([*self.series.axis_columns, *labels], sort=False):
            codes, groups = _numbered(rows, keys)
            table = means(rows.assign(**{_CELL: codes}), [chosen], _CELL, ranges=ranges)
            where = groups.iloc[table["x"].to_numpy(np.int64)].reset_index(drop=True)
            named: dict[str, Any] = dict(
                zip([*self.series.axis_columns, *labels], place, strict=True)
            )
            found = table[["mean", "low", "high", "n", "clusters", "undefined"]]
            parts.append(pd.concat([where, found], axis=1).assign(**named))
        out = pd.concat(parts, ignore_index=True).rename(columns={"clusters": "prompts"})
        front = [*self.series.axis_columns, *labels, *keys]
        return out[[*front, *(c for c in out if c not in front)]]

    def rows(
        self, value: str | None = None, *, depth: Depth = "index", special: bool = False
    ) -> tuple[str, pd.DataFrame]:
        """The name of a value, and the rows of all members without the tokens left out."""
        if depth not in ("index", "relative"):
            raise unknown("value of depth", str(depth), ("index", "relative"))
        frame = self.frame
        values = self.values
        if not values:
            raise BadInput(f"the tables of {self.name!r} have no numbers")
        chosen = values[0] if value is None else value
        if chosen not in values:
            raise unknown(f"value column of {self.name!r}", chosen, values)
        if is_summary(frame):
            frame = frame[frame["value"] == chosen]
        frame = frame[~is_special(frame, special)]
        if depth == "relative":
            frame = at_relative_depth(frame, chosen)
        return chosen, frame

    def plot(
        self,
        value: str | None = None,
        *,
        over: Literal["axis", "layers", "both"] | None = None,
        by: str | Sequence[str] = (),
        layers: Sequence[int] | None = None,
        depth: Depth = "index",
        special: bool = False,
        width: int | None = None,
        height: int | None = None,
        title: str | None = None,
        palette: Palette = None,
        legend: bool = False,
    ) -> Any:
        """A value over the axis of the series, over layers, or over both; a plotly figure.

        Args:
            value: a numeric column; the first unless given.
            over: "axis": a line per layer (or head, the strongest ones) over training; "layers": a
                line per member; "both": a map with a cell per layer and member. By default the
                axis, or layers where the members have no places on one.
            by: label columns: a line per label.
            layers: only these.
            depth, special: as for `curves`.
            width, height, title, palette, legend: as for `Result.plot`.
        """
        drawing = drawing_of(
            self, value, over=over, by=by, layers=layers, depth=depth, special=special
        )
        return Look(width, height, title, palette, legend).on(figure(drawing))


_CELL = "\0cell"  # no label has this name


def _numbered(rows: pd.DataFrame, keys: Sequence[str]) -> tuple[Any, pd.DataFrame]:
    """A number for each combination of the keys, and the combinations."""
    if not keys:
        return 0, pd.DataFrame(index=[0])
    codes = rows.groupby(list(keys), sort=True, dropna=False).ngroup().to_numpy()
    _, first = np.unique(codes, return_index=True)
    return codes, rows[list(keys)].iloc[first].reset_index(drop=True)


def _placed(series: Series, name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """A member's table with its name and place in front."""
    row = series.members[series.members["member"] == name].iloc[0]
    front = pd.DataFrame({c: [row[c]] * len(frame) for c in series.axis_columns}, frame.index)
    taken = [c for c in front if c in frame]
    if taken:
        raise BadInput(
            f"the tables have a column {taken[0]!r} already, which a series puts in front; rename "
            f"that label, labels={{'{taken[0]}_label': {taken[0]!r}}}"
        )
    return pd.concat([front, frame], axis=1)


class Series(Mapping[str, SeriesResult]):
    """The results of a series by analysis; `interp.load` reads a saved one.

    Attributes:
        members: a row per member in the order of the axis: `member`, `at`, `run`, `source`,
            `status` ("measured", "failed" or "waiting"), `error`, and what is known of the model.
        results: the `Results` of every measured member, by name.
        axis: what `at` counts: "training step", "position" (given) or "number in the series".
        ordered: whether `at` is a place on an axis, and not only the order of the names.
        provenance: settings and versions, as JSON values.
        notes: what a reader must know: differences between members, failures.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        results: Mapping[str, Results],
        provenance: Mapping[str, Any],
    ) -> None:
        self._records = [dict(record) for record in records]
        self.results = results
        self.provenance = dict(provenance)
        self.axis = str(provenance["axis"])
        self.ordered = bool(provenance["ordered"])
        self.notes: tuple[str, ...] = (*provenance["notes"], *self._failures())
        self._found: dict[str, SeriesResult] = {}

    @cached_property
    def members(self) -> pd.DataFrame:
        """A row per member in the order of the axis."""
        rows = [{**r, **(r.get("facts") or {})} for r in self._records]
        kept = ["member", "at", "run", "source", "status", "error", "seconds"]
        facts = ["architecture", "n_layers", "d_model", "d_vocab", "dtype"]
        return pd.DataFrame(rows).reindex(columns=[*kept, *facts])

    @property
    def unit(self) -> str:
        """What the members read, in the plural: prompts, or documents of a corpus."""
        return "documents" if "documents" in self.provenance["prompts"] else "prompts"

    @property
    def axis_columns(self) -> list[str]:
        """The columns in front of every table."""
        several = any(record["run"] for record in self._records)
        return [c for c in AXIS if c != "run" or several]

    @property
    def failures(self) -> pd.DataFrame:
        """Members that could not be measured, with their errors."""
        rows = self.members[self.members["status"] == FAILED]
        return rows[["member", "at", "source", "error"]].reset_index(drop=True)

    @property
    def lost(self) -> int:
        """Number of failures of documents in all members of a series over a corpus."""
        return sum(int(record.get("lost", 0)) for record in self._records)

    def _failures(self) -> Iterator[str]:
        for record in self._records:
            if record["status"] == FAILED:
                yield f"{record['member']!r} was not measured: {record['error']}"
            elif record.get("lost"):
                yield (
                    f"{record['member']!r}: {counted(record['lost'], 'failure')} in "
                    f"{record['documents']} documents, listed in failures.parquet of its folder"
                )
        waiting = [r["member"] for r in self._records if r["status"] == WAITING]
        if waiting:
            yield (
                f"{len(waiting)} members are not measured yet ({', '.join(waiting[:4])}"
                f"{', …' if len(waiting) > 4 else ''}): run it again with resume (--resume)"
            )

    # ---- reading -----------------------------------------------------------------------------

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.provenance["parameters"]["analyses"])

    def __getitem__(self, name: str) -> SeriesResult:
        if name not in self._names:
            raise not_measured("result", name, self._names)
        return self._found.setdefault(name, SeriesResult(name, self))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def member(self, name: str) -> Results:
        """The results of one member; raises `UnknownName` for one that was not measured."""
        if name not in self.results:
            raise unknown("measured member", name, self.results)
        return self.results[name]

    def merged(self, *names: str, how: str = "outer", heads: str | None = None) -> pd.DataFrame:
        """Several tables of all members as one, a row per member, token and state.

        The tables of each member as `Results.merged` joins them, with the place of the member in
        front; `.attrs["columns"]` has the meanings. Raises `BadInput` as `Results.merged` does.
        """
        parts = [(name, each.merged(*names, how=how, heads=heads)) for name, each in self._all()]
        told = {c: SERIES_MEANINGS[c] for c in self.axis_columns} | parts[0][1].attrs["columns"]
        out = pd.concat([_placed(self, name, part) for name, part in parts], ignore_index=True)
        out.attrs["columns"] = told
        return out

    def explore(self, *_: Any, **__: Any) -> NoReturn:
        """Raises `BadInput`: the explorer shows one model; each member has its own."""
        first = next(iter(self.results), "…")
        raise BadInput(
            f"the explorer shows one model: series.member({first!r}).explore() is that of a "
            "member; series.report() and series.plot() show all of them"
        )

    def _all(self) -> Iterator[tuple[str, Results]]:
        if not len(self.results):
            raise BadInput("no member of this series was measured: see .failures")
        for name in self.results:
            yield name, self.results[name]

    def plot(self, value: str | None = None, **options: Any) -> Any:
        """The first analysis, or the first that has the value; options of `SeriesResult.plot`."""
        for name in self:
            if value is None or value in self[name].values:
                return self[name].plot(value, **options)
        known = [v for name in self for v in self[name].values]
        raise not_measured("value column", str(value), dict.fromkeys(known))

    def __repr__(self) -> str:
        measured = len(self.results)
        first = f"<Series of {measured} members along {self.axis}: {', '.join(self)}>"
        names = self.members["member"].tolist()
        places = [f"{at:g}" for at in self.members["at"]]
        listed = ", ".join(
            f"{name} ({at})" if self.ordered else str(name)
            for name, at in zip(names[:8], places, strict=False)
        )
        more = f", … {len(names) - 8} more" if len(names) > 8 else ""
        return "\n".join([first, f"  {listed}{more}", *(f"note: {n}" for n in self.notes)])

    def _repr_html_(self) -> str:
        kept = ["member", "at", "run", "status", "n_layers", "d_model", "d_vocab"]
        table = self.members[[c for c in kept if c != "run" or c in self.axis_columns]]
        notes = "".join(f"<li>{coded(note)}</li>" for note in self.notes)
        shown = table.to_html(index=False, escape=True, border=0)
        return f"<b>Series along {html.escape(self.axis)}</b>{shown}<ul>{notes}</ul>"

    # ---- on disk -----------------------------------------------------------------------------

    def report(self, path: str | Path = "report.html", **options: Any) -> Path:
        """Write one self-contained HTML file that opens without a network; returns its path.

        Options: `title`; `special`, to keep special tokens in means; `overwrite`; `findings`, such
        as `[interp.experiments.change_points(series)]`, that get a section each.
        """
        return write_report(self, Path(path), **options)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write everything into `folder`, whole or not at all; returns it.

        Raises `BadInput` if it exists and is not empty, unless `overwrite`.
        """
        folder = Path(folder)
        with whole_folder(folder, overwrite=overwrite) as temporary:
            (temporary / MEMBERS).mkdir()
            for record in self._records:
                name = record["member"]
                if record["status"] == MEASURED:
                    place = folder_of(temporary, name)
                    place.mkdir()
                    self.results[name].write(place)
                write_sealed(record_path(temporary, name), record, json_value)
            document = self.provenance | {"members": self._records}
            write_sealed(temporary / SERIES, document, json_value)
        return folder


def load_series(folder: Path) -> Series:
    """Read a folder of `Series.save` or of `interp.series(…, out=…)`, finished or not."""
    listing = read_listing(folder)
    records = [latest(folder, record) for record in listing.pop("members")]
    return opened(folder, records, listing)


def opened(
    folder: Path, records: Sequence[Mapping[str, Any]], listing: Mapping[str, Any]
) -> Series:
    """The series in a folder, whose tables are read when they are asked for."""
    measured = [r["member"] for r in records if r["status"] == MEASURED]
    return Series(records, SavedResults(folder, measured), listing)
