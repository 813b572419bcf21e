"""What of a result a figure is about: its rows, its groups and its horizontal axis.

Knows tables and the declarations of an analysis; draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from interp.contract.analysis import Plot
from interp.contract.columns import SUMMARY
from interp.errors import unknown
from interp.render.attention import attention_maps
from interp.render.draw import draw
from interp.render.heat import head_figure, lens_figure, pair_figure, position_figure
from interp.render.lines import CONTROL_NOTE, line_figure
from interp.render.text import as_text
from interp.render.tokens import show
from interp.runs.report.lens_examples import lens_of
from interp.runs.results import Result
from interp.stats.means import cluster_columns, has_group, is_summary, means

MOST_GROUPS = 8
INDEX = ("layer", "head", "prompt", "position", "token_id", "prompt_a", "prompt_b")


@dataclass(frozen=True, eq=False)
class View:
    """One figure to draw: a declaration, the result it is of, and what the caller chose."""

    result: Result
    plot: Plot
    by: tuple[str, ...] = ()
    prompt: int | None = None
    special: bool = False

    @property
    def title(self) -> str:
        """What is shown, and on which model."""
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
        """The rows to draw: special tokens are left out unless asked for."""
        frame = self.result.frame
        if self.special or "special" not in frame:
            return frame
        return frame[~frame["special"].fillna(False).astype(bool)]

    def grouping(self, frame: pd.DataFrame) -> list[str]:
        """Columns that make the lines apart: asked for, the stack, or kinds of other tables."""
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
        bos = f"{len(left) - massive:,} special tokens (BOS and the like)"
        first = f"{massive:,} first tokens with a massive norm"
        kinds = [bos] * (len(left) > massive) + [first] * (massive > 0)
        return f"{' and '.join(kinds)} are left out."


def is_number(column: pd.Series[Any]) -> bool:
    """Whether a column can be averaged."""
    return bool(types.is_numeric_dtype(column) or types.is_bool_dtype(column))


def own_groups(result: Result, frame: pd.DataFrame) -> list[str]:
    """Groups that a table brings itself: labels of a summary, kinds of rows that are no tokens."""
    if is_summary(frame):
        return [c for c in map(str, frame) if c not in SUMMARY and len(frame[c].unique()) > 1]
    if "prompt" in frame:
        return []
    named = [c for c in result.analysis.keys if c in frame] or list(map(str, frame))
    texts = [c for c in named if not is_number(frame[c]) and c not in ("stack", "token")]
    return [c for c in texts if 1 < frame[c].nunique() <= MOST_GROUPS][:1]


def label_choices(result: Result) -> list[str]:
    """Label columns that make a few groups, `role` first."""
    frame = result.frame
    out = []
    for name in result.labels:
        kinds = frame.loc[has_group(frame[name]), name].astype(str).nunique()
        if 1 < kinds <= 2 * MOST_GROUPS:
            out.append(name)
    return sorted(out, key=lambda name: name != "role")


def axis_column(result: Result, frame: pd.DataFrame, values: Sequence[str]) -> str | None:
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


def place_name(result: Result, x: str | None) -> str:
    """What one place along the horizontal axis is called: a block, a state, or by its column."""
    if x != "layer":
        return x or "row"
    return "state" if axis_title(result, x).startswith("state") else "block"


def axis_title(result: Result, x: str | None) -> str:
    """What the horizontal axis counts: blocks, or states at their boundaries."""
    if x != "layer":
        return x or ""
    if result.analysis.scope == "model" and "stream" in result.analysis.sites:
        return "state (0 enters the first block, the last leaves the last block)"
    return "block"


def declared(result: Result, value: str | Sequence[str] | None) -> Plot:
    """The declaration to draw: the first one, or for given values the one that shows them all.

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
            return Plot(plot.kind, values, plot.title, plot.unit, plot.nothing)
    known = numeric(result)
    for name in values:
        if name not in known:
            choices = dict.fromkeys([*(v for p in plots for v in p.values), *known])
            raise unknown(f"value of {result.name!r}", name, choices)
    return Plot("line", values, ", ".join(values))


def numeric(result: Result) -> list[str]:
    """The columns that can be drawn."""
    if is_summary(result.frame):
        return list(dict.fromkeys(result.frame["value"]))
    return [c for c in result.values if c not in INDEX]


def random_lines(pairs: Result | None) -> dict[str, pd.DataFrame]:
    """Mean angle of random pairs: within each layer, and over any layers (`x` = −1)."""
    if pairs is None or "angle" not in pairs.frame or pairs.frame.empty:
        return {}
    view = View(pairs, Plot("line", ("angle",), ""))
    frame = view.rows()
    table = means(frame, ["angle"], axis_column(pairs, frame, ["angle"]), view.grouping(frame))
    table = table[table["mean"].notna()]
    return {f"random pairs, {g}": rows for g, rows in table.groupby("group", sort=False)}


def result_figure(
    result: Result,
    value: str | Sequence[str] | None = None,
    *,
    by: str | Sequence[str] | None = None,
    prompt: int | None = None,
    special: bool = False,
    **options: Any,
) -> Any:
    """Draw the first declared figure of a result, or the one that shows `value`.

    Args:
        value: a declared value, or any numeric column of the table; several are drawn together,
            such as a value and its control.
        by: label columns; one line (or colour) per group.
        prompt: which prompt, for figures of one prompt; by default the first kept one.
        special: keep special tokens in means.
        options: for attention maps: `layer`, `heads`, `score`, as `attention_maps` takes them.

    Returns a plotly figure; for attention, the maps (`interp.render.attention`).
    Raises `UnknownName` for a value, label or prompt that is not there.
    """
    plot = declared(result, value)
    groups = (by,) if isinstance(by, str) else tuple(by or ())
    for name in groups:
        if name not in result.frame:
            raise unknown("label", name, result.labels)
    if plot.kind == "attention":
        return attention_maps(result, plot.values[0], prompt=prompt, **options)
    if options:
        raise unknown("option", next(iter(options)), ["by", "prompt", "special"])
    return draw(View(result, plot, groups, prompt, special))


def grid_figure(view: View) -> Any:
    """Draw what the table allows: lens, heads, pairs of layers, a value by position, or lines."""
    lens = lens_of(view.result, view.prompt)
    if lens is not None:
        return lens_figure(view, lens)
    frame = view.result.frame
    if "head" in frame and "layer" in frame:
        return head_figure(view)
    if {"layer_a", "layer_b"} <= set(frame.columns):
        return pair_figure(view)
    if {"layer", "prompt", "position"} <= set(frame.columns) and view.values:
        return position_figure(view)
    return line_figure(view)


# ---- heads -----------------------------------------------------------------------------------


def head_table(view: View) -> pd.DataFrame:
    """Mean of every value per block and head: `value`, `layer`, `head`, `mean`, `n`."""
    frame = view.rows()
    stacks = frame["stack"].nunique() if "stack" in frame else 1
    by = ["stack", "head"] if stacks > 1 else ["head"]
    table = means(frame, view.values, "layer", by).rename(columns={"x": "layer"})
    heads = table["group"].str.rpartition(" · ")[2].astype(int)
    stack = table["group"].str.rpartition(" · ")[0]
    return table.assign(head=heads, stack=stack)


def one_prompt(frame: pd.DataFrame, prompt: int | None) -> tuple[int, pd.DataFrame]:
    """The rows of one prompt, by default the first; `UnknownName` if it is not there."""
    from interp.errors import unknown

    known = frame["prompt"].unique().tolist()
    chosen = known[0] if prompt is None and known else prompt
    if chosen is None or chosen not in known:
        raise unknown("prompt", str(chosen), [str(p) for p in known[:20]])
    return int(chosen), frame[frame["prompt"] == chosen]


def tokens_at(rows: pd.DataFrame, positions: Any) -> list[str]:
    """The text at each position, or its number where the table holds no text."""
    if "token" not in rows:
        return [str(p) for p in positions]
    text = rows.drop_duplicates("position").set_index("position")["token"]
    return [str(text.get(p, p)) for p in positions]


def line_table(view: View) -> tuple[pd.DataFrame, str | None, str]:
    """The numbers behind the figure, the column along its axis, and the caption."""
    frame = view.rows()
    values, by = view.values, view.grouping(frame)
    for name in by:
        frame = frame[has_group(frame[name])]
    x = axis_column(view.result, frame, values)
    table = means(frame, values, x, by)
    table, dropped = _largest(table)
    table = _with_control(view, table, x, by)
    return table, x, " ".join(_caption(view, frame, table, dropped))


def _with_control(
    view: View, table: pd.DataFrame, x: str | None, by: Sequence[str]
) -> pd.DataFrame:
    """What the untrained copy gave beside each mean, as column `control`, if there is one."""
    if view.result.control is None:
        return table
    beside = means(replace(view, result=view.result.control).rows(), view.values, x, by)
    beside = beside.rename(columns={"mean": "control"})[["value", "group", "x", "control"]]
    return table.merge(beside, on=["value", "group", "x"], how="left")


def nothing_to_draw(view: View, table: pd.DataFrame) -> str:
    """Why a figure is empty."""
    names = ", ".join(view.plot.values)
    if not view.values:
        return f"This table has no numbers under {names}."
    if table.empty:
        groups = f" with a label in {', '.join(view.by)}" if view.by else ""
        return f"There are no rows{groups} to average."
    return f"Every value of {names} is undefined ({int(table['undefined'].sum()):,} rows)."


def _largest(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The groups with most tokens, and how many groups that leaves out."""
    sizes = table.groupby("group")["n"].sum().sort_values(ascending=False, kind="stable")
    keep = sizes.index[:MOST_GROUPS]
    return table[table["group"].isin(keep)], len(sizes) - len(keep)


def _caption(view: View, frame: pd.DataFrame, table: pd.DataFrame, dropped: int) -> list[str]:
    if not cluster_columns(frame) and not is_summary(frame) and (table["n"] <= 1).all():
        beside = [CONTROL_NOTE] if "control" in table else []
        return [f"{sampled(frame).capitalize()}, one value each.", *beside, view.left_out()]
    out = [f"Means over {sampled(frame)}."]
    if table["low"].notna().any():
        unit = "prompts" if cluster_columns(frame) else "rows"
        unit = "documents" if is_summary(frame) else unit
        out.append(f"Bands: 95 % for the mean, {unit} being the unit that was sampled.")
    elif is_summary(frame):
        out.append("No band: how far a mean over several groups may be off is not in a summary.")
    else:
        out.append("No band: it takes two prompts to know how far a mean may be off.")
    undefined = int(table["undefined"].sum())
    if undefined:
        out.append(f"{undefined:,} undefined values are not averaged.")
    if "control" in table:
        out.append(CONTROL_NOTE)
    if dropped:
        out.append(f"The {MOST_GROUPS} largest groups; {dropped} smaller ones are not drawn.")
    return [*out, view.left_out()]


def sampled(frame: pd.DataFrame) -> str:
    """How much there is: `1,021 tokens of 54 prompts`."""
    if is_summary(frame):
        return f"up to {int(frame['n'].max()):,} tokens per group"
    if {"prompt", "position"} <= set(frame.columns):
        on = [c for c in ("stack", "prompt", "position") if c in frame]
        return f"{len(frame[on].drop_duplicates()):,} tokens of {count(frame['prompt'], 'prompt')}"
    if {"prompt_a", "prompt_b"} <= set(frame.columns):
        both = pd.concat([frame["prompt_a"], frame["prompt_b"]])
        return f"{len(frame):,} pairs from {count(both, 'prompt')}"
    return f"{len(frame):,} rows"


def count(column: pd.Series[Any], noun: str) -> str:
    """`1 prompt`, `54 prompts`."""
    n = column.nunique()
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def text_of(
    result: Result,
    value: str | None = None,
    *,
    by: str | Sequence[str] | None = None,
    prompt: int | None = None,
    special: bool = False,
) -> str:
    """The figure that `result_figure` would draw, as a compact table of text.

    Raises `UnknownName` for a value that is not there; odd data is said in words.
    """
    groups = (by,) if isinstance(by, str) else tuple(by or ())
    view = View(result, declared(result, value), groups, prompt, special)
    table, caption = view_table(view)
    unit = f" ({view.plot.unit})" if view.plot.unit else ""
    return "\n".join([f"{view.title}{unit}", as_text(table), *([caption] if caption else [])])


def view_table(view: View) -> tuple[pd.DataFrame, str]:
    """The numbers of a figure as a small table to read, and its caption."""
    kind, frame = view.plot.kind, view.result.frame
    if kind == "heatmap":
        lens = lens_of(view.result, view.prompt)
        if lens is not None:
            return lens.table(), f"Prompt {lens.prompt}: most probable next token at some states."
        if "head" in frame and "layer" in frame:
            return _heads(view), "Mean per block and head, the strongest first."
        if {"layer_a", "layer_b"} <= set(frame.columns):
            return _pairs(view)
    if kind == "attention":
        return _attention(view)
    return _lines(view)


def _pairs(view: View) -> tuple[pd.DataFrame, str]:
    from interp.render.heat import pair_table

    table = pair_table(view).map(lambda x: f"{x:.2f}" if np.isfinite(x) else "–")
    table.columns = table.columns.astype(str)
    return table.reset_index(), "One row per state, one column per state it is compared with."


def _lines(view: View) -> tuple[pd.DataFrame, str]:

    table, x, caption = line_table(view)
    if table.empty or table["mean"].isna().all():
        return pd.DataFrame(), nothing_to_draw(view, table)
    several = len(table["value"].unique()) > 1
    names = table["group"].where(table["group"] != "", table["value"])
    if several and table["group"].ne("").any():
        names = table["value"] + " · " + table["group"]
    numbers = table[["mean", "low", "high"]].to_numpy(dtype=np.float64)
    cells = [_mean(*row) for row in numbers.tolist()]
    if "control" in table:
        cells = [f"{c} ({_mean(x)})" for c, x in zip(cells, table["control"], strict=True)]
        caption += " In brackets: the untrained copy."
    wide = pd.DataFrame({"x": table["x"], "name": names, "cell": cells})
    out = wide.pivot_table(index="x", columns="name", values="cell", aggfunc="first", sort=False)
    out = out.sort_index().fillna("–")
    out.index = pd.Index(["any" if i == -1 else i for i in out.index])
    return out.rename_axis(index=x or "", columns="").reset_index(), caption


def _mean(mean: float, low: float = np.nan, high: float = np.nan) -> str:
    if not np.isfinite(mean):
        return "–"
    return f"{mean:.4g}" + (f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) else "")


def _heads(view: View) -> pd.DataFrame:

    table = head_table(view)
    wide = table.pivot_table(
        index=["stack", "layer", "head"], columns="value", values="mean", sort=False
    )
    have = [v for v in view.values if v in wide]
    if not have:
        return pd.DataFrame()
    order = wide[have].max(axis=1).sort_values(ascending=False, kind="stable").index
    out = wide.loc[order, have].map("{:.3f}".format).reset_index()
    return out.drop(columns="stack") if not table["stack"].any() else out


def _attention(view: View) -> tuple[pd.DataFrame, str]:
    """For every head that is kept: where the last token looks most."""
    records = []
    prompt = view.prompt
    for (stack, layer), items in sorted(view.result.examples(view.plot.values[0]).items()):
        prompt = min(items, default=None) if prompt is None else prompt
        if prompt is None or prompt not in items:
            continue
        tokens = view.result.tokens
        texts = tokens[tokens["prompt"] == prompt].sort_values("position")["token"].tolist()
        for head, pattern in enumerate(items[prompt]):
            best = int(np.nanargmax(pattern[-1])) if np.isfinite(pattern[-1]).any() else 0
            seen = show(texts[best]) if best < len(texts) else best
            where = {"stack": stack} if stack else {}
            found = {"looks at": seen, "position": best, "weight": f"{pattern[-1, best]:.3f}"}
            records.append(where | {"layer": layer, "head": head} | found)
    return pd.DataFrame(records), f"Prompt {prompt}: where the last token looks most."
