"""Sections of the report: one per analysis, one for the "her" experiment, one for a generation.

Generic: the declarations of an analysis (`plots`, `columns`) and the labels of the prompts decide
the figures; only the analyses of the experiment are known by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from interp.contract.analysis import Plot
from interp.errors import BadInput
from interp.render.drawing import Drawing, nothing
from interp.render.page import Block, Section, block
from interp.render.tables import ROWS, TEXT, Table, is_number, range_of, table_of
from interp.runs.report import sentences
from interp.runs.report.drawings import drawing_of
from interp.runs.report.generation import generation_section
from interp.runs.report.lens_examples import lens_of, lens_prompts
from interp.runs.report.maps import attention_maps
from interp.runs.report.means import kinds_of, row_kinds
from interp.runs.report.views import (
    ResultLike,
    ResultsLike,
    View,
    declared,
    label_choices,
    numeric,
)
from interp.stats.compare import compare
from interp.stats.comparison import Comparison, comparison_drawing
from interp.stats.means import has_group
from interp.stats.table import is_summary

MOST_LABELS = 3
MOST_PROMPTS = 6
GROUPS = ("target", "previous")
HER_NULL = (
    "the two lines would lie in each other's bands, the difference would stay inside the grey band "
    "of shuffled labels, and no block would have a star."
)


def sections_of(
    results: ResultsLike, special: bool = False, found: Comparison | None = None
) -> list[Section]:
    """All sections; first the texts of a generation, and the experiment if the tables allow it.

    `found` is the experiment's comparison.
    """
    first = [generation_section(results), her_section(results, found)]
    return [*(s for s in first if s), *(result_section(r, special) for r in results.values())]


# ---- the experiment --------------------------------------------------------------------------


def her_comparison(results: ResultsLike) -> Comparison | None:
    """Rotation of target words against the words before them, or None without such labels."""
    rotation = results.get("rotation")
    if rotation is None or lacking(rotation, "angle", "role", GROUPS):
        return None
    try:
        found = compare(rotation, "angle", "role", *GROUPS)
    except BadInput:
        return None
    return found if _is_by_layer(found) else None


def _is_by_layer(found: Comparison) -> bool:
    return found.by == ("layer",) and not found.frame["difference"].isna().all()


def her_section(results: ResultsLike, found: Comparison | None = None) -> Section | None:
    """The section on `her_comparison`, or None without one."""
    rotation, pairs = results.get("rotation"), results.get("random_pairs")
    found = found or her_comparison(results)
    if rotation is None or found is None:
        return None
    words = _words(rotation, "target")
    # The comparison takes thousands of shuffles: figure, table and sentences share it.
    drawing = replace(her_drawing(rotation, pairs, comparison=found), read=_short(found))
    return Section(
        "experiment",
        f"Do {words} turn more than the words before them?",
        "Rotation of the residual stream in every block: target tokens against the tokens directly "
        "before them, with random pairs of states as the scale of unrelated vectors.",
        (block("Target against previous token, per block", drawing),),
        tuple(sentences.of_her(found, pairs, "degrees", _overall(rotation))),
        (("The comparison, layer by layer", table_of(_full(found)), False),),
        sentences.not_said(found),
    )


def _overall(rotation: ResultLike) -> Comparison | None:
    """The same comparison of the mean over blocks of every token: one row, with its controls."""
    try:
        return compare(rotation, "angle", "role", *GROUPS, by=())
    except BadInput:  # such as means that are all the same, while the blocks are not
        return None


def _words(result: ResultLike, role: str) -> str:
    """The words with a role, as text."""
    rows = result.frame[result.frame["role"] == role]
    tokens = rows["token"].astype(str).str.strip().value_counts().index[:3]
    return " and ".join(f"“{t}”" for t in tokens) + " tokens"


def _short(comparison: Comparison) -> pd.DataFrame:
    frame = comparison.frame
    hits = comparison.differs
    names = list(dict.fromkeys([comparison.contrast, "difference"]))
    names += [comparison.effect, comparison.family_p]
    out = frame[["layer", "mean_a", "mean_b", *names]]
    out = out.rename(columns={"mean_a": str(comparison.a), "mean_b": str(comparison.b)})
    return out.round(4).assign(differs=hits.map({True: "★", False: ""}))


def _full(comparison: Comparison) -> pd.DataFrame:
    contrast = comparison.contrast
    names = ["layer", "n_a", "n_b", "mean_a", "mean_b", contrast, f"{contrast}_low"]
    names += list(dict.fromkeys([f"{contrast}_high", "difference", comparison.effect, "hedges_g"]))
    names = [name for name in dict.fromkeys(names) if name in comparison.frame]
    names += ["permutation_p", "permutation_p_max", "clustered_p", "clustered_p_holm"]
    names += ["welch_p", "shuffled_welch_rate"]
    names += [c for c in map(str, comparison.frame) if c.startswith("control_")]
    return comparison.frame[names]


# ---- one analysis ----------------------------------------------------------------------------


def result_section(result: ResultLike, special: bool = False) -> Section:
    """Section of one analysis: its figures, its columns and the head of its table.

    `special`: keep special tokens in the means of figures.
    """
    lead = (inspect.getdoc(type(result.analysis)) or "").split("\n\n")[0].replace("\n", " ")
    parameters = ", ".join(f"{k} = {v!r}" for k, v in result.analysis.parameters().items())
    if parameters:
        lead += f" Parameters: {parameters}."
    blocks = [block_of(View(result, plot, special=special)) for plot in plots_of(result)]
    rows = f"The first {min(8, len(result.frame))} of {len(result.frame):,} rows"
    tables = [("What the columns mean", columns_of(result), False), (rows, head_of(result), False)]
    return Section(
        f"analysis-{result.name}",
        result.name.replace("_", " ").capitalize(),
        lead,
        tuple(blocks),
        tables=tuple(t for t in tables if t[1].rows),
    )


def plots_of(result: ResultLike) -> tuple[Plot, ...]:
    """The declared figures, or lines of the first numbers if none is declared."""
    if result.analysis.plots:
        return result.analysis.plots
    return (declared(result, None),) if numeric(result) else ()


def block_of(view: View) -> Block:
    """A figure of the report, or the reason that it could not be drawn."""
    plot = view.plot
    makers: dict[str, Callable[[View], Block]] = {
        "attention": _maps_block,
        "heatmap": _grid_block,
    }
    try:
        return makers.get(plot.kind, _grouped_block)(view)
    except Exception as error:  # noqa: BLE001  one figure must not cost the report
        said = f"This figure could not be drawn ({type(error).__name__}: {error})."
        return Block(plot.title, (), (said,))


def _grouped_block(view: View) -> Block:
    """All tokens, and by each label of the prompts."""
    labels = label_choices(view.result)[:MOST_LABELS]
    drawings = {"all tokens": drawing_of(view)}
    says = sentences.of_lines(drawings["all tokens"]) if view.plot.kind == "line" else []
    drawings |= {f"by {name}": drawing_of(replace(view, by=(name,))) for name in labels}
    return block(view.plot.title, drawings, says)


def _grid_block(view: View) -> Block:
    """One figure per prompt if prompts differ, else one for all."""
    result = view.result
    prompts = lens_prompts(result)[:MOST_PROMPTS]
    if prompts:
        lenses = [lens for p in prompts if (lens := lens_of(result, p))]
        says = sentences.of_lens(lenses)
    elif "head" in result.frame or "prompt" not in result.frame:
        drawing = drawing_of(view)
        says = sentences.of_heads(drawing) if "head" in result.frame else []
        return block(view.plot.title, drawing, says)
    else:
        prompts, says = result.frame["prompt"].unique()[:MOST_PROMPTS].tolist(), []
    says = [*says, *sentences.of_choice(result, prompts)]
    drawings = {_named(result, p): drawing_of(replace(view, prompt=p)) for p in prompts}
    return block(view.plot.title, drawings, says)


def _named(result: ResultLike, prompt: int) -> str:
    """A prompt by its number and how it begins."""
    tokens = result.tokens
    rows = tokens[(tokens["prompt"] == prompt) & ~tokens["special"].astype(bool)]
    texts = [str(t) for t in rows.sort_values("position")["token"].head(24)]
    # Tokens of a tokenizer have their own spaces, words of a list have none.
    text = ("" if any(t[:1].isspace() for t in texts) else " ").join(texts).strip()
    return f"prompt {prompt}: {text[:60]}{'…' if len(text) > 60 else ''}"


def _maps_block(view: View) -> Block:
    name = view.plot.values[0]
    block = attention_maps(view.result, name).block
    kept = sorted({p for items in view.result.examples(name).values() for p in items})
    says = (*block.says, *(sentences.of_choice(view.result, kept) if kept else ()))
    return replace(block, title=view.plot.title, says=says, if_null=view.plot.if_null)


def her_drawing(
    rotation: ResultLike,
    pairs: ResultLike | None = None,
    *,
    value: str = "angle",
    between: str = "role",
    a: str = "target",
    b: str = "previous",
    comparison: Comparison | None = None,
) -> Drawing:
    """The "her" experiment: rotation of a target word and of the word before it.

    `pairs` is the result of `random_pairs`, the control of unrelated vectors. `comparison` saves
    computing it again. If something is missing, the drawing names it.
    """
    named = f"Rotation of {a} and {b} tokens · {rotation.model}".rstrip(" ·")
    problem = lacking(rotation, value, between, (a, b))
    if problem:
        return nothing(named, problem)
    found = comparison or compare(rotation, value, between, a, b)
    if not _is_by_layer(found):
        return comparison_drawing(found, model=rotation.model)
    unit = rotation.analysis.plots[0].unit
    return comparison_drawing(found, title=named, pairs=pairs, unit=unit, if_null=HER_NULL)


def lacking(result: ResultLike, value: str, between: str, groups: tuple[str, str]) -> str:
    """The part that a table lacks for a comparison of two groups; empty if it has all."""
    frame = result.frame
    missing = [c for c in (between, value, "layer") if c not in frame]
    if missing:
        return f"The table of {result.name} has no column {', '.join(missing)}: label the prompts."
    rows = frame[has_group(frame[between])]
    if "special" in rows:
        rows = rows[~rows["special"].astype(bool)]
    for group in groups:
        known = rows[(rows[between] == group) & rows[value].notna()]
        if not known["layer"].duplicated().any():
            return f"There are not two defined values of {between} = {group} in any layer."
    finite = rows.loc[rows[between].isin(groups), value]
    if finite.nunique() < 2:
        return f"{value} is constant: there is nothing to compare."
    return ""


def head_of(result: ResultLike) -> Table:
    """The first rows of a result's table."""
    return table_of(result.frame.head(ROWS), (*TEXT, *result.analysis.token_columns))


def columns_of(result: ResultLike) -> Table:
    """Every value column: its meaning, mean, range and number of undefined values.

    Rows of several kinds get a line for each kind.
    """
    rows = View(result, Plot("line", (), "")).rows()
    by = [] if is_summary(rows) else row_kinds(result, rows)
    records, meanings = [], result.columns
    for name in result.values:
        for kind, part in kinds_of(rows, by):
            record = {"column": f"{name}, {kind}" if kind else name}
            record |= {"meaning": meanings.get(name, "–"), **range_of(part[name])}
            records.append(record | _untrained(result, name, by, kind))
    for name in (c for c in meanings if c not in result.values):
        record = {"column": name, "meaning": meanings.get(name, "–")}
        # The measures of a summary have a meaning and stand in the rows of its column `value`.
        record |= range_of(rows[name]) if name in rows and is_number(rows[name]) else {}
        records.append(record | _untrained(result, name))
    columns = ["column", "meaning", "mean", "min", "max", "undefined"]
    if result.control is not None:
        columns.insert(3, "untrained")
    return table_of(pd.DataFrame(records, columns=columns), tokens=())


def _untrained(
    result: ResultLike, name: str, by: Sequence[str] = (), kind: str = ""
) -> dict[str, Any]:
    """The mean of a column in the untrained copy, of rows of one kind, if there is one."""
    if result.control is None:
        return {}
    rows = View(result.control, Plot("line", (), "")).rows()
    rows = dict(kinds_of(rows, list(by))).get(kind, rows.iloc[:0])
    known = name in rows and is_number(rows[name])
    return {"untrained": range_of(rows[name]).get("mean", np.nan)} if known else {}
