"""Means of a table in a few words, never over two kinds of rows in one number."""

from __future__ import annotations

import pandas as pd

from interp.runs.moments_notes import of_tokens
from interp.runs.report.views import ResultLike, View, declared, own_groups
from interp.stats.table import is_summary

MOST = 4  # values of which means are told


def group_means(result: ResultLike) -> list[str]:
    """The mean of the first values of a result, of each kind of its rows: `angle 31.2`.

    Rows of special tokens are left out. Kinds are those of the table itself, such as pairs within
    a layer and across layers, and the stacks of an encoder and a decoder. Of a summary it is the
    mean over all groups by their number of tokens, of each value. What an analysis added up itself
    with special tokens is told with them.
    """
    frame = View(result, declared(result, None)).rows()
    if is_summary(frame):
        means = {value: _weighted(rows) for value, rows in kinds_of(frame, ["value"])}
        told = [f"{v} {x:.3g}{of_tokens(v, result.notes)}" for v, x in means.items() if x == x]
        return told[:MOST]
    known = [c for c in result.values if frame[c].notna().any()]
    kinds = kinds_of(frame, row_kinds(result, frame))
    told = []
    for value in [c for c in known if c not in ("position", "token_id")][:MOST]:
        parts = [(kind, rows[value].mean()) for kind, rows in kinds]
        told += [f"{value}{f' ({kind})' if kind else ''} {mean:.3g}" for kind, mean in parts]
    return told


def row_kinds(result: ResultLike, frame: pd.DataFrame) -> list[str]:
    """Columns by which the rows of a table are of several kinds, whose mean would say nothing."""
    stacks = ["stack"] if "stack" in frame and len(frame["stack"].unique()) > 1 else []
    return [*stacks, *own_groups(result, frame)]


def kinds_of(frame: pd.DataFrame, by: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each kind with its name; all of them under "" where there are no kinds."""
    if not by:
        return [("", frame)]
    groups = frame.groupby(by, sort=False, dropna=False)
    return [(", ".join(map(str, key)), rows) for key, rows in groups]


def _weighted(rows: pd.DataFrame) -> float:
    known = rows[rows["mean"].notna() & (rows["n"] > 0)]
    n = known["n"].astype(float)
    return float((known["mean"].astype(float) * n).sum() / n.sum()) if len(known) else float("nan")
