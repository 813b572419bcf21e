"""Drawings of results: lines over layers, lenses, heads, pairs of layers, values by position."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd

from interp.contract.columns import by_name
from interp.errors import BadInput, UnknownName, unknown
from interp.render.draw import figure
from interp.render.drawing import CONTROL_NOTE, Drawing, cell_rows, nothing
from interp.render.look import PLAIN, Look
from interp.render.text import as_text, text_of
from interp.render.tokens import label, show
from interp.runs.report.lens_examples import Lens, lens_of, state_name
from interp.runs.report.maps import attention_maps
from interp.runs.report.points import paths_of, points_of
from interp.runs.report.views import (
    MOST_GROUPS,
    ResultLike,
    View,
    axis_column,
    axis_title,
    controls_among,
    view_of,
)
from interp.stats.means import ANYWHERE, cluster_columns, has_group, means
from interp.stats.table import is_summary, less_control

OF_MAPS = ("layer", "heads", "score")
LOOK = tuple(f.name for f in fields(Look))
PLOT_OPTIONS = ("by", "prompt", "special", *OF_MAPS, *LOOK)
NOT_DRAWN = (
    "The untrained copy is not drawn here: its table is results.control[{name!r}], and its means "
    "are the column control of summary()."
)
UNTRAINED = "Untrained: the same heads in an untrained copy of the model, in the same colours."
MOST_CELLS = 4000  # of one lens with text in every cell; the positions beyond are left out


def result_figure(
    result: ResultLike,
    value: str | Sequence[str] | None = None,
    *,
    by: str | Sequence[str] | None = None,
    prompt: int | None = None,
    special: bool = False,
    look: Look = PLAIN,
    **options: Any,
) -> Any:
    """Draw the first declared figure of a result, or the one that shows `value`.

    Args:
        value: a declared value, or any numeric column of the table; several are drawn together,
            such as a value and its control.
        by: label columns; one line (or colour) per group.
        prompt: which prompt, for figures of one prompt; by default the first kept one.
        special: keep special tokens in means.
        look: size, title and colours that the caller wants.
        options: for attention maps: `layer`, `heads`, `score`, as `attention_maps` takes them.

    Returns a plotly figure; for attention, the maps (`interp.render.attention`).
    Raises `UnknownName` for a value, label or prompt that is not there.
    """
    view = view_of(result, value, by=by, prompt=prompt, special=special)
    if view.plot.kind == "attention":
        found = attention_maps(result, view.plot.values[0], prompt=prompt, **options)
        return found.looking(look)
    if options:
        name = next(iter(options))
        if name in OF_MAPS:
            raise BadInput(f"{name}= is an option of attention maps: plot('pattern', {name}=…)")
        raise unknown("option", name, PLOT_OPTIONS)
    return look.on(figure(drawing_of(view)))


def result_text(
    result: ResultLike,
    value: str | None = None,
    *,
    by: str | Sequence[str] | None = None,
    prompt: int | None = None,
    special: bool = False,
) -> str:
    """The figure that `result_figure` would draw, as a compact table of text.

    Raises `UnknownName` for a value that is not there; data that cannot be drawn is described.
    """
    view = view_of(result, value, by=by, prompt=prompt, special=special)
    if view.plot.kind == "attention":
        table, caption = _strongest_keys(view)
        return "\n".join([view.title, as_text(table), caption])
    return text_of(drawing_of(view))


def _strongest_keys(view: View) -> tuple[pd.DataFrame, str]:
    """For every kept head: the token that the last token attends to most."""
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


def drawing_of(view: View) -> Drawing:
    """The drawing of a view, made once for all media, or the reason that it cannot be made.

    Raises `UnknownName` for a prompt that is not there.
    """
    makers: dict[str, Callable[[View], Drawing]] = {
        "line": lines_of,
        "heatmap": grid_of,
        "scatter": points_of,
        "trajectory": paths_of,
    }
    try:
        made = makers[view.plot.kind](view)
    except UnknownName:
        raise
    except Exception as error:  # noqa: BLE001  a figure must not cost the user their results
        problem = f"This figure could not be drawn ({type(error).__name__}: {error})."
        made = nothing(view.title, problem)
    if view.result.control is not None and not made.control and not made.empty:
        made = replace(made, control=NOT_DRAWN.format(name=view.result.name))
    return replace(made, if_null=view.plot.if_null)


# ---- lines -----------------------------------------------------------------------------------


def lines_of(view: View) -> Drawing:
    """The mean of every value per layer and group, with its band and its control."""
    frame = view.rows()
    values, by = view.values, view.grouping(frame)
    for name in by:
        frame = frame[has_group(frame[name])]
    x = axis_column(view.result, frame, values)
    table, dropped = _largest(means(frame, values, x, by, view.result.analysis.ranges))
    table = _with_control(view, table, x, by)
    caption = " ".join(_caption(view, frame, table, dropped))
    greys = controls_among(values)
    grey = f"Grey: {', '.join(greys)}, the control." if greys else ""
    control = " ".join(filter(None, [grey, CONTROL_NOTE if "control" in table else ""]))
    if table.empty or table["mean"].isna().all():
        return nothing(view.title, _nothing_to_draw(view, table), caption)
    # A mean that belongs to no layer is drawn across all of them.
    table["x"] = table["x"].where(table["x"] != ANYWHERE)
    return Drawing(
        "lines",
        view.title,
        table,
        view.plot.unit,
        axis_title(view.result, x),
        caption,
        control,
        options={"greys": tuple(greys)},
    )


def _with_control(
    view: View, table: pd.DataFrame, x: str | None, by: Sequence[str]
) -> pd.DataFrame:
    """The table with the means of the untrained copy as column `control`, if there is one.

    Where both have the same tokens, the mean of the paired differences is in `less_control`, with
    `_low` and `_high`.
    """
    if view.result.control is None:
        return table
    beside = means(replace(view, result=view.result.control).rows(), view.values, x, by)
    beside = beside.rename(columns={"mean": "control"})[["value", "group", "x", "control"]]
    table = table.merge(beside, on=["value", "group", "x"], how="left")
    # All rows of the copy: a first token with a massive norm is none there, and would be left out.
    paired = less_control(view.rows(), view.result.control.frame, view.values)
    if paired is None:
        return table
    ends = {"mean": "less_control", "low": "less_control_low", "high": "less_control_high"}
    less = means(paired, view.values, x, by).rename(columns=ends)
    return table.merge(less[["value", "group", "x", *ends.values()]], how="left")


def _nothing_to_draw(view: View, table: pd.DataFrame) -> str:
    """Reason that a figure is empty."""
    names = ", ".join(view.plot.values)
    if not view.values:
        return f"This table has no numbers under {names}."
    if table.empty:
        groups = f" with a label in {', '.join(view.by)}" if view.by else ""
        return f"There are no rows{groups} to average."
    return f"Every value of {names} is undefined ({int(table['undefined'].sum()):,} rows)."


def _largest(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The groups with most tokens, and the number of the others."""
    sizes = table.groupby("group")["n"].sum().sort_values(ascending=False, kind="stable")
    keep = sizes.index[:MOST_GROUPS]
    return table[table["group"].isin(keep)].copy(), len(sizes) - len(keep)


def _caption(view: View, frame: pd.DataFrame, table: pd.DataFrame, dropped: int) -> list[str]:
    if not cluster_columns(frame) and not is_summary(frame) and (table["n"] <= 1).all():
        return [f"{sampled(frame).capitalize()}, one value each.", view.left_out()]
    out = [f"Means over {sampled(frame)}."]
    if table["low"].notna().any():
        unit = "prompts" if cluster_columns(frame) else "rows"
        unit = "documents" if is_summary(frame) else unit
        out.append(f"Bands: 95 % intervals of the mean, with {unit} as the sampling unit.")
    else:
        out.append(f"No band: {_bandless(frame, table)}")
    undefined = int(table["undefined"].sum())
    if undefined:
        out.append(f"{undefined:,} undefined values are not averaged.")
    if dropped:
        out.append(f"The {MOST_GROUPS} largest groups; {dropped} smaller ones are not drawn.")
    return [*out, *filter(None, [view.left_out()])]


def _bandless(frame: pd.DataFrame, table: pd.DataFrame) -> str:
    """Why no mean has an interval."""
    if table["mean"].isna().all():
        return "no value is defined."
    if is_summary(frame):
        return "a summary has no interval for a mean over several groups."
    units = cluster_columns(frame)
    if not units:
        return "an interval needs two rows at each place."
    if len(frame[units].drop_duplicates()) < 2:
        return "an interval needs two prompts."
    return "an interval needs two prompts with defined values at each place."


def sampled(frame: pd.DataFrame) -> str:
    """Size of the sample: `1,021 tokens of 54 prompts`."""
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


# ---- grids -----------------------------------------------------------------------------------


def _cut_note(shown: int, positions: int) -> str:
    """A sentence on the positions left out of a grid of one prompt; "" if all are drawn."""
    return f" The first {shown} of {positions} positions are drawn." if shown < positions else ""


def grid_of(view: View) -> Drawing:
    """The grid that fits the table: lens, heads, pairs of layers, a value by position, or lines."""
    lens = lens_of(view.result, view.prompt)
    if lens is not None:
        return lens_drawing(view, lens)
    frame = view.result.frame
    if "head" in frame and "layer" in frame:
        return heads_of(view)
    if {"layer_a", "layer_b"} <= set(frame.columns):
        return pairs_of(view)
    if {"layer", "prompt", "position"} <= set(frame.columns) and view.values:
        return positions_of(view)
    return lines_of(view)


def lens_drawing(view: View, lens: Lens) -> Drawing:
    """The most probable token of every state and position; colour is its probability."""
    states, positions = lens.tokens.shape[:2]
    shown = max(1, min(positions, MOST_CELLS // states))
    value = view.plot.values[0]
    places = [(s, p) for s in range(states) for p in range(shown)]
    table = cell_rows(pd.DataFrame(lens.values(value)[:, :shown]))
    table["text"] = [lens.cell(s, p) for s, p in places]
    table["hover"] = [lens.hover(s, p) for s, p in places]
    caption = (
        f"Prompt {lens.prompt}. Each cell: the token that the model would predict next if it "
        "stopped at this state; in bold where that is already the prediction of the last state."
    )
    caption += _cut_note(shown, positions)
    scale = {"low": 0.0} | ({"high": 1.0} if value == "top_prob" else {})
    names = [state_name(s) for s in range(states)]
    return Drawing(
        "heat",
        view.title,
        table,
        view.plot.unit,
        "token that was read",
        caption,
        read=lens.table(),
        options={"columns": lens.texts[:shown], "tokens": True, "cell": (52, 25)}
        | {"rows": names, "letters": max(map(len, names))}
        | scale,
    )


def heads_of(view: View) -> Drawing:
    """A panel per value (and stack): its mean for every head of every block."""
    table = head_table(view)
    if table.empty or table["mean"].isna().all():
        why = f"{', '.join(view.plot.values)}: no defined value."
        return nothing(view.title, why, kind="heat")
    cells = zip(table["layer"], table["head"], table["mean"], table["n"], strict=True)
    table["hover"] = [
        f"block {layer}, head {head}<br>mean {mean:.3f}<br>n = {int(n):,}"
        for layer, head, mean, n in cells
    ]
    order = {v: i for i, v in enumerate(view.values)}
    table = table.sort_values(
        ["stack", "value"], key=lambda c: c.map(order) if c.name == "value" else c, kind="stable"
    )
    panels = _with_copies(table)
    beside = len(panels) > len(table)
    caption = f"Mean for every head over {sampled(view.rows())}. {view.left_out()}".strip()
    names = {"layer": "row", "head": "column", "mean": "value", "value": "score"}
    return Drawing(
        "heat",
        view.title,
        panels.rename(columns=names),
        view.plot.unit,
        "head",
        caption,
        UNTRAINED if beside else "",
        read=_strongest(view, table),
        options={"y": "block", "cell": (34, 26)}
        | _natural(view)
        | ({"across": 2} if beside else {}),
    )


def _with_copies(table: pd.DataFrame) -> pd.DataFrame:
    """Behind the heads of each panel those of the untrained copy, if there is one.

    Column `untrained` tells them apart.
    """
    table = table.assign(untrained=False)
    if "control" not in table or table["control"].isna().all():
        return table
    parts = []
    for panel, rows in table.groupby("panel", sort=False):
        copy = rows.assign(mean=rows["control"], panel=f"{panel}, untrained", untrained=True)
        copy["hover"] = [
            f"block {layer}, head {head}, untrained<br>mean {mean:.3f}"
            for layer, head, mean in zip(copy["layer"], copy["head"], copy["mean"], strict=True)
        ]
        parts += [rows, copy]
    return pd.concat(parts, ignore_index=True)


def _natural(view: View) -> dict[str, float]:
    """The upper end of the scale where every value has a natural one, such as 1 of a share."""
    ranges = [by_name(view.result.analysis.ranges, value) for value in view.values]
    ends = [found[1] if found else math.inf for found in ranges]
    return {"high": float(max(ends))} if ends and all(map(math.isfinite, ends)) else {}


def head_table(view: View) -> pd.DataFrame:
    """Mean of every value per block and head: `panel`, `value`, `layer`, `head`, `mean`, `n`.

    `control` is the mean in the untrained copy, if there is one.
    """
    frame = view.rows()
    stacks = frame["stack"].nunique() if "stack" in frame else 1
    by = ["stack", "head"] if stacks > 1 else ["head"]
    table = _with_control(view, means(frame, view.values, "layer", by), "layer", by)
    table = table.rename(columns={"x": "layer"})
    heads = table["group"].str.rpartition(" · ")[2].astype(int)
    stack = table["group"].str.rpartition(" · ")[0]
    panel = (stack + " · ").where(stack != "", "") + table["value"]
    return table.assign(head=heads, stack=stack, panel=panel)


def _strongest(view: View, table: pd.DataFrame) -> pd.DataFrame:
    """Heads as rows, the strongest first."""
    wide = table.pivot_table(
        index=["stack", "layer", "head"], columns="value", values="mean", sort=False
    )
    have = [v for v in view.values if v in wide]
    order = wide[have].max(axis=1).sort_values(ascending=False, kind="stable").index
    out = wide.loc[order, have].map("{:.3f}".format).reset_index()
    return out.drop(columns="stack") if not table["stack"].any() else out


def pairs_of(view: View) -> Drawing:
    """The first value of a table with a row per pair of layers, of the first stack of two."""
    frame = view.result.frame
    if "stack" in frame:
        frame = frame[frame["stack"] == frame["stack"].iloc[0]]
    value = view.values[0] if view.values else ""
    wide = (
        frame.pivot_table(index="layer_a", columns="layer_b", values=value, dropna=False)
        if value
        else pd.DataFrame()
    )
    if wide.empty or not np.isfinite(wide.to_numpy(dtype=float)).any():
        return nothing(view.title, f"{value} is undefined for every pair of layers.", kind="heat")
    caption = f"{value} of every pair of states; 0 enters the first block."
    return Drawing(
        "heat",
        view.title,
        cell_rows(wide),
        view.plot.unit,
        "state",
        caption,
        read=pair_reading(wide),
        options={"y": "state", "cell": (46, 30)},
    )


def pair_reading(wide: pd.DataFrame) -> pd.DataFrame:
    """A matrix of pairs as text: one row per state, one column per state it is compared with."""
    out = wide.map(lambda x: f"{x:.2f}" if np.isfinite(x) else "–")
    out.columns = out.columns.astype(str)
    return out.reset_index()


def positions_of(view: View) -> Drawing:
    """The first value of one prompt: layers upwards, positions to the right."""
    value = view.values[0]
    prompt, rows = one_prompt(view.result.frame, view.prompt)
    wide = rows.pivot_table(
        index="layer", columns="position", values=value, aggfunc="mean", dropna=False
    )
    z = wide.to_numpy(dtype=float, na_value=np.nan)
    if not np.isfinite(z).any():
        why = f"{value} is undefined everywhere in prompt {prompt}."
        return nothing(view.title, why, kind="heat")
    shown = max(1, min(z.shape[1], 10 * MOST_CELLS // len(z)))
    texts = tokens_at(rows, wide.columns[:shown])
    wide = wide.iloc[:, :shown].set_axis(range(shown), axis=1)
    table = cell_rows(wide)
    cells = zip(table["row"], table["column"], table["value"], strict=True)
    table["hover"] = [f"layer {r}, {label(texts[c])}<br>{value:.4g}" for r, c, value in cells]
    caption = f"{value} of prompt {prompt}."
    caption += _cut_note(shown, z.shape[1])
    return Drawing(
        "heat",
        view.title,
        table,
        view.plot.unit,
        "token that was read",
        caption,
        options={"columns": texts, "tokens": True, "cell": (30, 22)}
        | {"y": axis_title(view.result, "layer")},
    )


def one_prompt(frame: pd.DataFrame, prompt: int | None) -> tuple[int, pd.DataFrame]:
    """The rows of one prompt, by default the first; `UnknownName` if it is not there."""
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
