"""Figures as text: the same numbers for a terminal, a screen reader or a log.

Needs no plotting library.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interp.render.lens import lens_of
from interp.render.selection import View, declared
from interp.render.tokens import show
from interp.results import Result

MOST_LINES = 60


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
    from interp.render.spaces import pair_table

    table = pair_table(view).map(lambda x: f"{x:.2f}" if np.isfinite(x) else "–")
    table.columns = table.columns.astype(str)
    return table.reset_index(), "One row per state, one column per state it is compared with."


def _lines(view: View) -> tuple[pd.DataFrame, str]:
    from interp.render.lines import line_table, nothing_to_draw

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
    from interp.render.grids import head_table

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


def as_text(table: pd.DataFrame) -> str:
    """A table in fixed columns, cut to what can be read."""
    if table.empty:
        return "(nothing to show)"
    text = table.head(MOST_LINES).to_string(index=False)
    more = len(table) - MOST_LINES
    return text + (f"\n… {more} more rows" if more > 0 else "")
