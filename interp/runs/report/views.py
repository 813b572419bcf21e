"""Views: the part of a result that a figure shows: its rows, groups and horizontal axis.

Knows tables and the declarations of an analysis; draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any, Protocol

import pandas as pd

from interp._arrays import Array
from interp.contract.analysis import Analysis, Plot
from interp.contract.columns import SUMMARY
from interp.errors import UnknownName, unknown
from interp.models.load import own_name
from interp.render.tables import is_number
from interp.stats.means import cluster_columns, has_group
from interp.stats.table import is_summary

MOST_GROUPS = 8
FIRST = ("role", "generated")  # labels whose groups are drawn before those of others
INDEX = ("layer", "head", "prompt", "position", "token_id", "prompt_a", "prompt_b")


class ResultLike(Protocol):
    """The part of `interp.Result` that a view needs."""

    name: str
    analysis: Analysis
    tokens: pd.DataFrame
    model: str
    strings: Mapping[int, str]
    notes: tuple[str, ...]

    @property
    def frame(self) -> pd.DataFrame: ...
    @property
    def columns(self) -> Mapping[str, str]: ...
    @property
    def values(self) -> list[str]: ...
    @property
    def labels(self) -> list[str]: ...
    @property
    def control(self) -> ResultLike | None: ...
    def examples(self, name: str) -> dict[tuple[str, int], dict[int, Array]]: ...


class ResultsLike(Protocol):
    """The part of `interp.Results` that a report needs."""

    provenance: dict[str, Any]

    @property
    def tokens(self) -> pd.DataFrame: ...
    def values(self) -> Iterable[ResultLike]: ...
    def get(self, name: str) -> ResultLike | None: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...


def unkept(prompt: int, kept: Sequence[int], result: ResultLike, parameter: str) -> UnknownName:
    """The error for a prompt whose arrays a result does not keep, with what would keep them."""
    error = unknown("kept prompt", str(prompt), [str(p) for p in kept])
    if parameter not in result.analysis.parameters():
        return error
    setting = f"{result.analysis.name()}.{parameter}"
    return UnknownName(
        f"{error}; settings={{{setting!r}: {prompt + 1}}} (--set {setting}={prompt + 1}) of the "
        "run keeps it"
    )


def name_of(model: str) -> str:
    """The name of a model for titles: its own, where a bridge was booted from a path.

    >>> name_of("/home/me/models/gpt2-medium"), name_of("openai/gpt2")
    ('gpt2-medium', 'openai/gpt2')
    >>> name_of("../models/gpt2-medium/"), name_of("D:/models/gpt2")
    ('gpt2-medium', 'gpt2')
    """
    path = Path(model)
    if PureWindowsPath(model).drive:  # of results that were made on another system
        return PureWindowsPath(model).name
    is_path = path.is_absolute() or model.startswith((".", "~")) or model.endswith("/")
    return own_name(path) if is_path else model


@dataclass(frozen=True, eq=False)
class View:
    """One figure to draw: its declaration, its result and the caller's choices."""

    result: ResultLike
    plot: Plot
    by: tuple[str, ...] = ()
    prompt: int | None = None
    special: bool = False

    @property
    def title(self) -> str:
        """The quantity, the groups and the model."""
        groups = f" by {', '.join(self.by)}" if self.by else ""
        model = f" · {self.result.model}" if self.result.model else ""
        return f"{self.plot.title or ', '.join(self.plot.values)}{groups}{model}"

    @property
    def values(self) -> list[str]:
        """The declared columns that this table has."""
        frame = self.result.frame
        if is_summary(frame):
            known = set(frame["value"])
            return [v for v in self.plot.values if v in known]
        return [v for v in self.plot.values if v in frame and is_number(frame[v])]

    def rows(self) -> pd.DataFrame:
        """The rows to draw: without special tokens unless `special`."""
        frame = self.result.frame
        if self.special or "special" not in frame:
            return frame
        return frame[~frame["special"].fillna(False).astype(bool)]

    def grouping(self, frame: pd.DataFrame) -> list[str]:
        """Columns that split the lines: those of `by`, the stack, or groups of the table itself."""
        stack = ["stack"] if "stack" in frame and len(frame["stack"].unique()) > 1 else []
        return [*self.by, *stack] if self.by else [*own_groups(self.result, frame), *stack]

    def left_out(self) -> str:
        """A sentence on the special tokens, or nothing."""
        frame = self.result.frame
        rows = len(frame) - len(self.rows())
        if not rows:
            return ""
        left = frame[frame["special"].fillna(False).astype(bool)]
        left = left.drop_duplicates(["prompt", "position"])
        massive = int(left["massive"].eq(True).sum()) if "massive" in left else 0
        special = len(left) - massive
        bos = f"{special:,} special token{'s' * (special != 1)} (BOS and the like)"
        first = f"{massive:,} first token{'s' * (massive != 1)} with a massive norm"
        kinds = [bos] * (len(left) > massive) + [first] * (massive > 0)
        return f"{' and '.join(kinds)} {'is' if len(left) == 1 else 'are'} left out."


def own_groups(result: ResultLike, frame: pd.DataFrame) -> list[str]:
    """Groups of the table itself: labels of a summary, kinds of rows that are no tokens."""
    if is_summary(frame):
        return [c for c in map(str, frame) if c not in SUMMARY and len(frame[c].unique()) > 1]
    if "prompt" in frame:
        return []
    named = [c for c in result.analysis.keys if c in frame] or list(map(str, frame))
    texts = [c for c in named if not is_number(frame[c]) and c not in ("stack", "token")]
    return [c for c in texts if 1 < frame[c].nunique() <= MOST_GROUPS][:1]


def label_choices(result: ResultLike) -> list[str]:
    """Label columns that make a few groups, those of `FIRST` first; decimal numbers make none."""
    frame = result.frame
    out = []
    for name in result.labels:
        if pd.api.types.is_float_dtype(frame[name]):
            continue
        kinds = frame.loc[has_group(frame[name]), name].astype(str).nunique()
        if 1 < kinds <= 2 * MOST_GROUPS:
            out.append(name)
    return sorted(out, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def axis_column(result: ResultLike, frame: pd.DataFrame, values: Sequence[str]) -> str | None:
    """The column along the horizontal axis.

    Layers, else a number among the keys of the analysis, else positions, else any free number.
    """
    if "layer" in frame and (frame["layer"] >= 0).fillna(False).any():
        return "layer"
    keys = [c for c in result.analysis.keys if c in frame and is_number(frame[c])]
    if keys:
        return keys[0]
    if "position" in frame:
        return "position"
    taken = {*values, *cluster_columns(frame), "layer", "head", "token_id", "special", "massive"}
    free = [c for c in map(str, frame) if c not in taken and is_number(frame[c])]
    return None if is_summary(frame) or not free else free[0]


def axis_title(result: ResultLike, x: str | None) -> str:
    """Title of the horizontal axis: blocks, or states at their boundaries."""
    if x != "layer":
        return x or ""
    if result.analysis.depth() == "state":
        return "state (0 enters the first block, the last leaves the last block)"
    return "block"


def declared(result: ResultLike, value: str | Sequence[str] | None) -> Plot:
    """The declaration to draw: the first one, or for given values the one that shows them all.

    Of lines, a control that it declares for one of them is drawn as well.

    Raises `UnknownName` for a value that is neither declared nor a numeric column.
    """
    plots = result.analysis.plots
    values = (value,) if isinstance(value, str) else tuple(value or ())
    if not values:
        if plots:
            return plots[0]
        return Plot("line", tuple(numeric(result)[:3]), result.name)
    for plot in plots:
        if set(values) <= set(plot.values):
            if plot.kind in ("scatter", "trajectory", "attention"):
                return plot
            # Of grids it would be one more grid, which nobody asked for.
            lines = plot.values if plot.kind == "line" else ()
            beside = [c for v in values for c in control_names(v) if c in lines]
            return replace(plot, values=tuple(dict.fromkeys((*values, *beside))))
    known = numeric(result)
    for name in values:
        if name not in known:
            choices = dict.fromkeys([*(v for p in plots for v in p.values), *known])
            raise unknown(f"value of {result.name!r}", name, choices)
    return Plot("line", values, ", ".join(values))


def control_names(value: str) -> tuple[str, ...]:
    """Column names that the control of a value may have in a table.

    >>> control_names("pattern_share")
    ('random_pattern_share', 'shuffled_pattern_share', 'plain_pattern_share', 'pattern_shuffled')
    """
    named = (f"random_{value}", f"shuffled_{value}", f"plain_{value}")
    return (*named, value.replace("_share", "_shuffled")) if value.endswith("_share") else named


def controls_among(values: Sequence[str]) -> list[str]:
    """Those of the values that are the control of another one of them."""
    return [c for value in values for c in control_names(value) if c in values]


def numeric(result: ResultLike) -> list[str]:
    """The columns that can be drawn."""
    if is_summary(result.frame):
        return list(dict.fromkeys(result.frame["value"]))
    return [c for c in result.values if c not in INDEX]


def view_of(
    result: ResultLike,
    value: str | Sequence[str] | None = None,
    *,
    by: str | Sequence[str] | None = None,
    prompt: int | None = None,
    special: bool = False,
) -> View:
    """The view of the first declared figure, or of the one that shows `value`.

    Raises `UnknownName` for a value or label that is not there.
    """
    groups = (by,) if isinstance(by, str) else tuple(by or ())
    plot = declared(result, value)
    for name in groups:
        if name not in result.frame:
            raise unknown("label", name, result.labels)
    return View(result, plot, groups, prompt, special)
