"""The section of a generation: its texts coloured by a measure, and the measures over the steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from interp.errors import BadInput
from interp.render.drawing import Drawing
from interp.render.page import Block, Section, block
from interp.render.tables import table_of
from interp.runs.report.views import ResultsLike
from interp.runs.written import (
    GENERATION,
    MEASURES,
    STEP,
    step_means,
    text_drawing,
    written_values,
)

MOST_TEXTS = 12
MOST_TOKENS = 3000
NULL = "the line would be level: the place in the text would not matter."


def generation_section(results: ResultsLike) -> Section | None:
    """The texts of a generation and the curves of their measures, None for other results."""
    if GENERATION not in results.provenance:
        return None
    told = results.provenance[GENERATION]
    try:
        frame = written_values(results)
    except BadInput:  # a summary, or analyses that measure nothing of single tokens
        frame = _bare(results)
    blocks = [_texts(frame)] if len(frame) else []
    if names := [name for name in MEASURES if name in frame]:
        blocks.append(_curves(frame, names))
    rows = pd.DataFrame(told["texts"])
    columns = [c for c in ("given", "sample", "new_tokens", "stopped", "text") if c in rows]
    return Section(
        "generation",
        "What the model wrote",
        "A token stands with the pass that chose it, which is the one over the token before: the "
        "likelihood of the token, how open the choice was, where it settled, and how far the "
        f"stream travelled. {_how(told)}",
        tuple(blocks),
        (_counted(told, rows, frame),),
        tables=(("The texts", table_of(rows[columns].head(40), ("text",)), not blocks),),
        beside=len(blocks) > 1,
    )


def _bare(results: ResultsLike) -> pd.DataFrame:
    """The tokens without a measure; empty where the results keep no row per token."""
    tokens = results.tokens
    return tokens if STEP in tokens else pd.DataFrame()


def _how(told: dict[str, Any]) -> str:
    """The settings of the generation in a sentence."""
    if not told["do_sample"]:
        way = "The likeliest token was taken at every step"
    else:
        given = {name: told[name] for name in ("temperature", "top_k", "top_p", "seed")}
        listed = ", ".join(f"{n} {v:g}" for n, v in given.items() if v is not None)
        way = f"Tokens were drawn ({listed}), {told['samples']} texts per prompt"
    cache = "" if told["cache"] else "; without a KV cache"
    return f"{way}, at most {told['max_new_tokens']} tokens{cache}."


def _counted(told: dict[str, Any], rows: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Numbers of texts and tokens, and the mean log-probability where it is known."""
    counts = told.get("counts") or _own_counts(rows)  # of a corpus only some texts are here
    unit = "documents" if "documents" in counts else "prompts"
    said = (
        f"{counts['texts']:,} texts after {counts[unit]:,} {unit}, "
        f"{counts['new_tokens']:,} tokens; {counts['stopped']:,} ended by a stop token"
    )
    if len(rows) < counts["texts"]:
        said += f". {len(rows):,} of them are kept here"
    if "log_prob" in frame:
        mean = frame.loc[frame[STEP] > 0, "log_prob"].mean()
        said += f". Mean log-probability of a written token: {mean:.3g} nats"
    return f"{said}."


def _own_counts(rows: pd.DataFrame) -> dict[str, int]:
    """Counts of texts that are all here."""
    sums = {name: int(rows[name].sum()) for name in ("new_tokens", "stopped")}
    return {"texts": len(rows), "prompts": int(rows["given"].nunique()), **sums}


def _texts(frame: pd.DataFrame) -> Block:
    """The texts with a choice of the measure that colours them."""
    numbers, left_out = _shown(frame)
    rows = frame[frame["prompt"].isin(numbers)]
    names = [name for name in MEASURES if name in frame]
    drawings = {MEASURES[n].title: text_drawing(rows, n, more=left_out) for n in names}
    if not names:
        drawings = {"No measure": text_drawing(rows, None, more=left_out)}
    return block("The texts, token by token", drawings)


def _shown(frame: pd.DataFrame) -> tuple[list[int], str]:
    """The first texts that have room, and a sentence on the others."""
    sizes = frame.groupby("prompt").size()
    fit = sizes.index[(sizes.cumsum() <= MOST_TOKENS) & (np.arange(len(sizes)) < MOST_TEXTS)]
    numbers = [int(n) for n in fit] or [int(sizes.index[0])]
    if len(numbers) == len(sizes):
        return numbers, ""
    return numbers, f" The first {len(numbers)} of {len(sizes)} texts are shown."


def _curves(frame: pd.DataFrame, names: list[str]) -> Block:
    """The mean of each measure at each step, without special tokens."""
    rows = frame[(frame[STEP] > 0) & ~frame["special"].astype(bool)]
    means = step_means(rows, names)
    prompts = int(means["prompts"].max()) if len(means) else 0
    caption = (
        f"Mean over the texts at each step, special tokens left out; {prompts} prompts at most. "
        "Bands: 95 % intervals, with the given prompt as the unit, where there are three or more. "
        "interp steps tests the change, with controls."
    )
    drawings = {
        MEASURES[name].title: Drawing(
            "lines",
            f"{MEASURES[name].title} over the steps",
            means[means["value"] == name].assign(value=MEASURES[name].title),
            MEASURES[name].unit,
            "step (written tokens, from 1)",
            caption,
            if_null=NULL,
        )
        for name in names
    }
    return block("Along the text", drawings)
