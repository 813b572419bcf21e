"""The finding of an experiment on pairs of prompts: its tables, sentence, figures and files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from interp._files import EXPERIMENT, from_parquet, kind_of, read_sealed, reading, verify
from interp.contract.columns import STATE
from interp.errors import BadInput, InterpError
from interp.render.draw import figure
from interp.render.drawing import Drawing, line_rows, nothing
from interp.render.finding import UNTRAINED, Finding
from interp.render.look import looked
from interp.runs.corpus.manifest import REMEDY as REDONE
from interp.runs.corpus.output import FINISHED
from interp.runs.corpus.sharded import FINDING
from interp.runs.results import Results
from interp.runs.saved import REMEDY, load_results
from interp.stats.paired import bounded_band, paired_profile, smallest_p

_MEASURES = {
    "angle": "angle between the clean and the corrupted stream, degrees",
    "cosine": "cosine of that angle",
    "distance": "Euclidean distance of the two streams",
    "relative_distance": "distance over the mean of both norms, 0 to 2",
    "step_angle": "angle between what the block adds to the one and to the other, degrees",
    "step_distance": "Euclidean distance of what the block adds to the one and to the other",
    "unrelated_angle": "control: angle to the corrupted stream of an unrelated pair, degrees",
    "unrelated_distance": "control: distance to the corrupted stream of an unrelated pair",
    "unrelated_relative_distance": "control: that distance over the mean of both norms",
    "recovery": "(patched − corrupted) / (clean − corrupted) of the metric; over pairs the sums "
    "are divided, so that a pair counts by what there is to recover",
}


def _with_ends(measures: Mapping[str, str]) -> dict[str, str]:
    """The measures, each with the ends of its interval over pairs."""
    found: dict[str, str] = {}
    for name, told in measures.items():
        found |= {
            name: told,
            f"{name}_low": f"lower end of the interval of {name}, over pairs, within its range",
            f"{name}_high": f"upper end of the interval of {name}",
        }
    return found


COLUMNS = {
    "layer": "layer of the table; the number of the state in tables of states",
    "state": "number of the state, 0 … L; it is the one that block `block` leaves",
    "block": "number of the block that leaves the state, −1 for the first state",
    "pairs": "number of pairs behind the row, with a token that is read",
    **_with_ends(_MEASURES),
    "unrelated_p": "two-sided p of relative_distance against that of unrelated pairs, which may be "
    "nearer or further; sign flips",
    "unrelated_p_max": "the same, family-wise over the states",
    "repeated_distance": "control: largest distance of two runs of the clean prompt",
    "pair": "number of the pair, from 0",
    "place": "number of the aligned token in its pair, from 0",
    "clean_position": "position of the token in the clean prompt",
    "clean_token": "text of the token in the clean prompt",
    "clean_token_id": "its number in the vocabulary",
    "corrupted_position": "position of the token in the corrupted prompt",
    "corrupted_token": "text of the token in the corrupted prompt",
    "corrupted_token_id": "its number in the vocabulary",
    "part": "part of the prompt: before the first difference, changed, after it, last",
    "special": "whether one of the two tokens is special, such as BOS",
    "parts": "first state where the streams are apart by more than the threshold",
    "peak_state": "state where the relative distance is largest",
    "peak": "that relative distance",
    "meets": "state from which on the streams are within the threshold to the end",
    "last": "relative distance at the last state",
    "clean": "metric after the clean prompt",
    "corrupted": "metric after the corrupted prompt",
    "patched": "metric with this one clean state in the corrupted run",
    "unrelated": "control: the same with the state of an unrelated clean prompt",
    "unrelated_recovery": "control: recovery by that state",
    "mean_recovery": "mean of the pairs' own shares; pairs with next to nothing to recover (below "
    "a tenth of the median pair's difference of the metric) are left out",
    "cells": "states and tokens at which the two streams differ",
    "spearman": "rank correlation of relative distance and recovery over these cells",
    "unrelated_spearman": "control: the same with recovery by the unrelated state",
    "analysis": "analysis of the row",
    "column": "column of its table",
    "mean_corrupted": "mean of the corrupted side over pairs",
    "mean_clean": "mean of the clean side over pairs",
    "difference": "corrupted − clean, mean over pairs",
    "low": "lower end of the interval of difference (Student over pairs)",
    "high": "upper end of it",
    "t": "paired t",
    "p": "two-sided p by sign flips over pairs: of difference, or of recovery against the "
    "unrelated one without the pairs that mean_recovery leaves out",
    "p_max": "the same, family-wise over the layers of the column or the states of the part",
    "wilcoxon_p": "two-sided p of the signed ranks",
    "wilcoxon_p_holm": "the same by Holm over the layers",
    "smallest_p_max": "smallest p_max of all layers of the column",
    "smallest_p_max_holm": "the same by Holm over the columns",
    "*_clean": "in tables of differences: value of the clean side; the column itself is "
    "corrupted − clean",
}
OPTIONAL = ("patches", "patched", "agreement", "tests", "onsets")
DIFFERENCES = "differences_"
MARGIN = "…"
MAP, ONLY = "Distance and patched effect", "only pair "
HALF = 0.5


@dataclass(frozen=True, eq=False, repr=False)
class Pairs(Finding):
    """Pairs of prompts compared: the answer of `interp.pairs`.

    Attributes:
        frame: one row per state: mean distances over pairs with their intervals (`*_low`,
            `*_high`), those of unrelated pairs, and the test of the one against the other; see
            `COLUMNS`.
        tokens: the aligned tokens, one row per `pair` and `place`, with both positions and tokens,
            their `part` ("before" the first difference, "changed", "after" it, "last") and labels.
        distances: one row per pair, place and state, see `interp.runs.pairs.distances`.
        parting: one row per pair and place: where the streams part and where they meet again.
        differences: by analysis, corrupted − clean of every column, per pair, place and layer.
        tests: one row per analysis, column and layer: means, difference and its interval, and
            paired tests over pairs (`interp.stats.paired_profile`).
        onsets: one row per analysis and column: the first layer with a detectable difference.
        patches: one row per pair, place and state: the metric with this one state patched.
        patched: recovery by state and part of the prompt, over pairs.
        agreement: one row per pair: rank correlation of distance and patched effect.
        facts: `metric`, `read`, `threshold`, `confidence` and `model`.
        clean, corrupted: the `Results` of each side; None without analyses.
        notes: caveats.
    """

    name = "pairs"
    question = (
        "How far apart are the streams of a prompt and its twin, where do they part and meet, and "
        "which of the differences does the prediction depend on?"
    )
    columns = COLUMNS
    optional: ClassVar[tuple[str, ...]] = OPTIONAL

    frame: pd.DataFrame
    tokens: pd.DataFrame
    distances: pd.DataFrame
    parting: pd.DataFrame
    facts: Mapping[str, Any]
    differences: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    tests: pd.DataFrame = field(default_factory=pd.DataFrame)
    onsets: pd.DataFrame = field(default_factory=pd.DataFrame)
    patches: pd.DataFrame = field(default_factory=pd.DataFrame)
    patched: pd.DataFrame = field(default_factory=pd.DataFrame)
    agreement: pd.DataFrame = field(default_factory=pd.DataFrame)
    clean: Results | None = None
    corrupted: Results | None = None
    notes: tuple[str, ...] = ()

    # ---- what was found --------------------------------------------------------------------

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Every table by name; those of differences as `differences_ANALYSIS`."""
        given = {name: getattr(self, name) for name in self.optional}
        found = {name: table for name, table in given.items() if len(table.columns)}
        always = {"pairs": self.frame, "tokens": self.tokens, "parting": self.parting}
        own = {f"{DIFFERENCES}{name}": table for name, table in self.differences.items()}
        return {**always, **found, "distances": self.distances, **own}

    @property
    def short(self) -> pd.DataFrame:
        """Angles and relative distances with their controls."""
        names = [STATE, "block", "pairs", "angle", "angle_low", "angle_high", "relative_distance",
                 "unrelated_angle", "unrelated_relative_distance", "unrelated_p_max"]  # fmt: skip
        return self.frame[names]

    @property
    def sentence(self) -> str:
        """The largest distance, the first detectable difference, and what patching recovers.

        A sentence for each.
        """
        parts = (self._apart(), self._first(), self._recovered(), self._agreed())
        return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)

    @property
    def level(self) -> float:
        """The family-wise error that is allowed."""
        return round(1 - float(self.facts["confidence"]), 12)

    def _counted(self) -> tuple[int, int, int, int]:
        """Pairs, their aligned tokens, those that part, and those that meet again."""
        parted, met = (int(self.parting[name].notna().sum()) for name in ("parts", "meets"))
        return self.tokens["pair"].nunique(), len(self.parting), parted, met

    def _apart(self) -> str:
        n, places, parted, met = self._counted()
        known = self.frame[self.frame["angle"].notna()]
        counted = f"{n} pair{'s' * (n != 1)}, read at {self.facts['read']} tokens"
        if known.empty or not known["distance"].max() > 0:
            return f"{counted}: the two streams are the same at every state"
        top = known.iloc[int(known["angle"].to_numpy().argmax())]
        other = top["unrelated_angle"]
        beside = f" (unrelated pairs {other:.3g}°)" if np.isfinite(other) else ""
        return (
            f"{counted}: the angle between the streams is largest at state {int(top[STATE])}, "
            f"{top['angle']:.3g}°{_band(top, 'angle')}{beside}. Of {places} aligned "
            f"tokens {parted} part, and {met} of these meet again"
        )

    def _first(self) -> str:
        if not len(self.onsets):
            return ""
        pairs = int(self.tests["pairs"].max())
        if (smallest := smallest_p(pairs)) >= self.level:
            return f"too few pairs for a test: no p can be below {smallest:.2g}"
        found = self.onsets[self.onsets["layer"].notna()]
        if found.empty:
            return f"no column of the analyses differs detectably (p < {self.level:g})"
        top = found.sort_values([STATE, "p_max"], kind="stable").iloc[0]
        return (
            f"{len(found)} of {len(self.onsets)} columns differ detectably (p < {self.level:g}, "
            f"family-wise over the layers of each). The first is {top['column']} of "
            f"{top['analysis']}, at state {int(top[STATE])} at the latest"
        )

    def _recovered(self) -> str:
        """Up to which state a changed token carries half of the metric, and from which the last."""
        if not len(self.patched):
            return ""
        known = self.patched[self.patched["recovery"].notna()]
        changed, last = (known[known["part"] == part] for part in ("changed", "last"))
        metric, out = f"half of the {in_words(self.facts['metric'])}", []
        if len(changed):
            half = changed.loc[changed["recovery"] >= HALF, STATE]
            top = changed.iloc[int(changed["recovery"].to_numpy().argmax())]
            other = top["unrelated_recovery"]
            beside = f"; from an unrelated pair {other:.2g}" if np.isfinite(other) else ""
            most = f"{top['recovery']:.2g}{_band(top, 'recovery')}{beside}"
            until = "" if half.empty else f" up to state {int(half.max())}"
            told = _brings_back("a changed token", metric, until)
            out.append(f"{told} (most at state {int(top[STATE])}: {most})")
        if len(last):
            half = last.loc[last["recovery"] >= HALF, STATE]
            since = "" if half.empty else f" from state {int(half.min())} on"
            out.append(_brings_back("the last token", metric, since))
        return "; ".join(out)

    def _agreed(self) -> str:
        found = self.correlation()
        if found is None:
            return ""
        row = found.iloc[0]
        if not np.isfinite(row["difference"]):
            return ""
        return (
            f"distance and recovery have a rank correlation of {row['difference']:.2f}"
            f"{_band(row.rename({'low': 'r_low', 'high': 'r_high'}), 'r')} over the cells of a "
            f"pair"
        )

    def correlation(self, **levels: Any) -> pd.DataFrame | None:
        """Mean over pairs of the rank correlation of distance and recovery, with its tests.

        One row in the columns of `interp.stats.paired_profile`, against 0, with an interval that
        stays between −1 and 1 (`interp.stats.bounded_band`); None without patches.
        """
        if not len(self.agreement):
            return None
        own = self.agreement[["spearman"]].to_numpy(np.float64)
        given = {"confidence": float(self.facts["confidence"]), **levels}
        _, low, high = bounded_band(own, -1, 1, given["confidence"])
        return paired_profile(own, np.zeros_like(own), **given).assign(low=low, high=high)

    # ---- figures ---------------------------------------------------------------------------

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Distances by state, distance and effect by token, recovery, and one per analysis."""
        drawn = {"Distance": self._distance_drawing()}
        if len(self.tokens):
            drawn[MAP] = self._map()
        if len(self.patched):
            drawn["Recovered"] = self._recovery_drawing()
        for analysis in dict.fromkeys(self.tests["analysis"]) if len(self.tests) else ():
            column = self._first_column(str(analysis))
            drawn[f"{analysis}: {column}"] = self.difference_drawing(str(analysis), column)
        return drawn

    def all_drawings(self) -> dict[str, Drawing]:
        """The figures of the page; where a map shows one pair, its heading says so."""
        drawn = super().all_drawings()
        return {
            f"{name}, {ONLY}{of}" if name.startswith(MAP) and of else name: drawing
            for name, drawing in drawn.items()
            for of in [drawing.title.partition(ONLY)[2].partition(" ·")[0]]
        }

    def plot_pair(self, pair: int, **look: Any) -> Any:
        """Distance and patched effect by state and token of one pair, as a plotly figure.

        `look`: `width`, `height`, `title`, `palette`, `legend`, as for `plot`. Raises `BadInput`
        for a pair that is not there.
        """
        known = self.tokens["pair"].unique()
        if pair not in known:
            raise BadInput(f"there is no pair {pair!r}: they are 0 … {int(known.max())}")
        return looked(figure(self._map(int(pair))), look)

    def _distance_drawing(self) -> Drawing:
        own = {STATE: "x", "angle": "mean", "angle_low": "low", "angle_high": "high", "pairs": "n"}
        lines = {"own pair": self.frame[list(own)].rename(columns=own)}
        if self.frame["unrelated_angle"].notna().any():
            names = {name.replace("angle", "unrelated_angle"): to for name, to in own.items()}
            lines[_UNRELATED] = self.frame[list(names)].rename(columns=names)
        return Drawing(
            "lines",
            f"Clean and corrupted stream{self._of}",
            line_rows(lines),
            "degrees",
            "state",
            f"Tokens: {self.facts['read']}. Bands: {100 * float(self.facts['confidence']):g} %, "
            "over pairs.",
            "Grey: the clean stream of a pair against the corrupted one of an unrelated pair.",
            "the two streams are the same, 0° at every state.",
            options={"greys": (_UNRELATED,)},
        )

    _sampled = ""

    @property
    def _of(self) -> str:
        return f" · {self.facts['model']}" if self.facts.get("model") else ""

    def _map(self, pair: int | None = None) -> Drawing:
        """Relative distance, and recovery, by state and place: of one pair, or over all."""
        counts = self.tokens.groupby("pair")["place"].size()
        uneven = bool((counts != counts.iloc[0]).any())
        if pair is None and uneven:
            pair = int(counts.index[0])
        tokens = self.tokens if pair is None else self.tokens[self.tokens["pair"] == pair]
        cells = [self._cells(self.distances, "relative_distance", pair)]
        if len(self.patches):
            cells.append(self._cells(self.patches, "recovery", pair))
        who, more = self._shown(pair, len(counts), uneven)
        return Drawing(
            "heat",
            f"{MAP}, {who}{self._of}",
            pd.concat(cells, ignore_index=True),
            "",
            "token (clean; … where pairs differ)",
            "Relative distance: 0 where the streams are the same. Recovered: share of the "
            f"{in_words(self.facts['metric'])} that comes back when this one state of the clean "
            f"run is put into the corrupted run; 1 is all of it.{more}",
            "Control: patches from unrelated pairs, in the figure by state.",
            "both panels are 0.",
            options={
                "columns": _token_names(tokens), "tokens": True, "y": "state", "across": 2,
                "cell": (38, 22),
            },
        )  # fmt: skip

    def _shown(self, pair: int | None, pairs: int, uneven: bool) -> tuple[str, str]:
        """Which pairs a map shows, for its title, and a sentence for its caption."""
        if pair is None:
            return f"mean over {pairs}{self._sampled or ' pairs'}", ""
        if pairs == 1:
            return "one pair", ""
        more = f" Only pair {pair} is shown; plot_pair(n) shows the others."
        why = " Pairs of different lengths have no mean by token." if uneven else ""
        return f"{ONLY}{pair} (of {pairs}{self._sampled})", more + why

    def _cells(self, table: pd.DataFrame, column: str, pair: int | None) -> pd.DataFrame:
        rows = table if pair is None else table[table["pair"] == pair]
        if column == "recovery":
            rows = rows[rows["recovery"].notna()]
            rows = rows.assign(gain=rows["patched"] - rows["corrupted"])
            rows = rows.assign(scale=rows["clean"] - rows["corrupted"])
            sums = rows.groupby([STATE, "place"])[["gain", "scale"]].sum()
            values = sums["gain"] / sums["scale"]
        else:
            values = rows.groupby([STATE, "place"])[column].mean()
        out = values.rename("value").reset_index()
        out = out.rename(columns={STATE: "row", "place": "column"})
        return out.assign(panel="recovered" if column == "recovery" else "relative distance")

    def _recovery_drawing(self) -> Drawing:
        lines = {}
        names = {STATE: "x", "recovery": "mean", "recovery_low": "low", "recovery_high": "high",
                 "pairs": "n"}  # fmt: skip
        other = {STATE: "x", "unrelated_recovery": "mean", "pairs": "n"}
        for part, rows in self.patched.groupby("part", sort=False):
            if part == "before" and not rows["recovery"].any():
                continue  # a causal model: nothing differs there
            lines[str(part)] = rows[list(names)].rename(columns=names)
            if part in ("changed", "last") and rows["unrelated_recovery"].notna().any():
                lines[f"{part!s}, unrelated"] = rows[list(other)].rename(columns=other)
        greys = tuple(name for name in lines if name.endswith(", unrelated"))
        return Drawing(
            "lines",
            f"Recovered by one patch{self._of}",
            line_rows(lines),
            f"share of {in_words(self.facts['metric'])}",
            "state",
            f"Mean over the tokens of a part. Bands: {100 * float(self.facts['confidence']):g} %, "
            "over pairs.",
            "Grey: the same with the state of an unrelated pair; each part has a line style.",
            "0 at every state: no single token carries the difference.",
            options={"greys": greys},
        )

    def _first_column(self, analysis: str) -> str:
        """The column to draw: the first of the declared figures that was tested."""
        tested = list(dict.fromkeys(self.tests.loc[self.tests["analysis"] == analysis, "column"]))
        return str(next((c for c in self._declared(analysis) if c in tested), tested[0]))

    def _declared(self, analysis: str) -> Sequence[str]:
        """The columns that an analysis draws."""
        plots = () if self.clean is None else self.clean[analysis].analysis.plots
        return [value for plot in plots for value in plot.values]

    def difference_drawing(self, analysis: str, column: str) -> Drawing:
        """Both sides and their difference over layers, for one column of one analysis."""
        table = self.tests
        rows = table[(table["analysis"] == analysis) & (table["column"] == column)]
        title = f"{column} of {analysis}: corrupted against clean{self._of}"
        if rows.empty or rows["layer"].isna().all() or rows["difference"].isna().all():
            return nothing(title, "No layer has a difference to draw.", kind="two_panels")
        x = rows["layer"].astype(int)
        sides = {
            side: pd.DataFrame({"x": x, "mean": rows[f"mean_{side}"], "n": rows["pairs"]})
            for side in ("clean", "corrupted")
        }
        own = {"x": x, "mean": rows["difference"], "low": rows["low"], "high": rows["high"]}
        upper = line_rows(sides, column).assign(panel=0)
        lower = line_rows({"difference": pd.DataFrame({**own, "n": rows["pairs"]})}, column)
        hit = (rows["p_max"] < self.level).to_numpy()
        told = [f"family-wise p = {p:.2g}" for p in rows["p_max"]]
        lower = lower.assign(panel=1, mark=hit, mark_text=told)
        blocks = bool((rows[STATE] != rows["layer"]).all())
        return Drawing(
            "two_panels",
            title,
            pd.concat([upper, lower], ignore_index=True),
            column,
            "block" if blocks else "state",
            f"Tokens: {self.facts['read']}. Band: {100 * float(self.facts['confidence']):g} %, "
            f"over pairs. ★: differs (sign flips, maximum statistic, p < {self.level:g}).",
            if_null="the difference is 0.",
            options={"panels": ("mean of each side", "corrupted − clean"),
                     "units": (column, column)},
        )  # fmt: skip

    # ---- on disk ---------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """Name, notes, origin and facts as JSON values, without the tables."""
        control = self.control
        beside = {"facts": dict(control.facts), "notes": list(control.notes)} if isinstance(
            control, Pairs
        ) else None  # fmt: skip
        return super().document() | {"facts": dict(self.facts), UNTRAINED: beside}

    def write_more(self, folder: Path) -> list[str]:
        """The results of both sides, as folders that `interp.load` reads."""
        written = []
        for side in ("clean", "corrupted"):
            results: Results | None = getattr(self, side)
            if results is not None:
                (folder / side).mkdir()
                results.write(folder / side)
                written.append(side)
        return written

    @classmethod
    def load(cls, folder: str | Path) -> Pairs:
        """Reads a folder that `save` wrote.

        Raises `BadInput` for a folder of something else, `InterpError` for a missing or damaged
        file.
        """
        folder = Path(folder)
        if kind_of(folder / EXPERIMENT) is None and kind_of(folder / FINDING / EXPERIMENT):
            folder = _finished(folder)
        if kind_of(folder / EXPERIMENT) is None:
            raise BadInput(f"{str(folder)!r} holds no finding (no {EXPERIMENT} in it)")
        with reading(folder / EXPERIMENT, REMEDY) as path:
            document = json.loads(path.read_text(encoding="utf-8"))
        if document.get("experiment") != cls.name:
            raise BadInput(
                f"{str(folder)!r} holds the experiment {document.get('experiment')!r}, not "
                f"{cls.name!r}"
            )
        sides = {
            side: load_results(folder / side) if kind_of(folder / side) else None
            for side in ("clean", "corrupted")
        }
        tables = _tables(folder)
        own = {k: v for k, v in tables.items() if not k.endswith(f"_{UNTRAINED}")}
        kind = KINDS.get(str(document["facts"].get("keep")), cls)
        found = kind._of_tables(own, document, **sides).with_about(**document["about"])
        if not document.get(UNTRAINED):
            return found
        end = f"_{UNTRAINED}"
        theirs = {k.removesuffix(end): v for k, v in tables.items() if k.endswith(end)}
        return found.with_control(kind._of_tables(theirs, document[UNTRAINED]))

    @classmethod
    def _of_tables(
        cls, tables: Mapping[str, pd.DataFrame], document: Mapping[str, Any], **sides: Any
    ) -> Pairs:
        apart = {n.removeprefix(DIFFERENCES): t for n, t in tables.items() if DIFFERENCES in n}
        given: dict[str, Any] = {name: tables[name] for name in cls.optional if name in tables}
        always: dict[str, Any] = {name: tables[name] for name in ("tokens", "distances", "parting")}
        try:
            frame = tables["pairs"]
        except KeyError as error:
            raise InterpError(f"the table 'pairs' is missing; {REMEDY}") from error
        about: dict[str, Any] = {"facts": document["facts"], "notes": tuple(document["notes"])}
        return cls(frame, differences=apart, **always, **about, **given, **sides)


OF_SUMMARY = {
    **COLUMNS,
    "part": "part of the prompt: before the first difference, changed, after it, last; `read` is "
    "all tokens that are read",
    "analysis": "analysis of the row; `distances` of the two streams, `parting` of where they part",
    "mean": "mean over pairs, of differences corrupted − clean; unit of the column",
    "low": "lower end of the interval of the mean or difference (Student over pairs), within the "
    "range of a distance",
    "std": "standard deviation over pairs",
    "min": "smallest value of a pair",
    "max": "largest value of a pair",
    "undefined": "pairs of the group without a defined value",
    "q05": "5 % quantile over pairs, within 1 % of itself",
    "q25": "25 % quantile, likewise",
    "median": "median, likewise",
    "q75": "75 % quantile, likewise",
    "q95": "95 % quantile, likewise",
    "t_p": "two-sided p of Student's paired t, for one row",
    "t_p_holm": "the same by Holm over the layers of the column, part and group",
    "where": "place of the pair in its source",
    "reason": "reason why the pair was not measured",
}


@dataclass(frozen=True, eq=False, repr=False)
class PairsSummary(Pairs):
    """Pairs of prompts in any number: the answer of `interp.pairs(…, keep="summary")`.

    `frame`, `tests` and `onsets` are of all pairs. `tokens`, `distances`, `parting` and
    `differences` have the rows of a random sample of pairs, by their numbers.

    Attributes:
        summary: a row per analysis, column, layer, part and group of `by`: mean, interval,
            standard deviation and quantiles, with the pair as the unit.
        failures: `pair`, `where` and `reason` of what was not measured.
    """

    columns = OF_SUMMARY
    optional: ClassVar[tuple[str, ...]] = (*OPTIONAL, "summary", "failures")
    _sampled = " sampled pairs"

    summary: pd.DataFrame = field(default_factory=pd.DataFrame)
    failures: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Every table by name, those of all pairs first."""
        found = dict(super().tables)
        first = ("pairs", "summary", "tests", "onsets", "failures")
        return {n: found[n] for n in (*(n for n in first if n in found), *found)}

    @property
    def sentence(self) -> str:
        """The sentence of the pairs, and how many could not be measured."""
        failed = len(self.failures)
        told = f" {failed} more pair{'s' * (failed != 1)} could not be measured (table failures)."
        return super().sentence + (told if failed else "")

    def _counted(self) -> tuple[int, int, int, int]:
        pairs, places, parted, met = (
            int(self.facts[name]) for name in ("pairs", "places", "parted", "met")
        )
        return pairs, places, parted, met

    def _declared(self, analysis: str) -> Sequence[str]:
        known: Mapping[str, Sequence[str]] = self.facts["declared"]
        return known.get(analysis, ())


KINDS: Mapping[str, type[Pairs]] = {"summary": PairsSummary}
"""Findings of pairs by what they keep, where it is not every pair."""
_UNRELATED = "unrelated pairs"


def in_words(metric: str) -> str:
    """The metric of patching, for sentences."""
    return {"kl": "KL divergence", "log_prob": "log-probability"}.get(metric, "logit difference")


def _band(row: Any, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f" [{low:.2g}, {high:.2g}]" if np.isfinite(low) and np.isfinite(high) else ""


def _brings_back(token: str, what: str, states: str) -> str:
    verb = "brings" if states else "never brings"
    return f"patching {token} {verb} back {what}{states}"


def _token_names(tokens: pd.DataFrame) -> list[str]:
    """A name for each place: its token, with a sign where pairs have others."""
    names = []
    for _, rows in tokens.groupby("place", sort=True):
        several = bool((rows["clean_token"] != rows["clean_token"].iloc[0]).any())
        names.append(f"{rows['clean_token'].iloc[0]}{MARGIN if several else ''}")
    return names


def _finished(folder: Path) -> Path:
    """The folder of the finding of a run in shards, verified.

    Raises `BadInput` for a run that is not finished, `InterpError` for a damaged file.
    """
    if kind_of(folder / FINISHED) is None:
        raise BadInput(
            f"the run in {str(folder)!r} is not finished: it has no {FINISHED}; run it again with "
            "resume"
        )
    verify(folder, read_sealed(folder / FINISHED, REDONE)["files"], REDONE)
    return folder / FINDING


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    found = {}
    for path in sorted(folder.glob("*.parquet")):
        with reading(path, REMEDY) as known:
            found[path.stem] = from_parquet(known)
    return found
