"""Attention of the page: statistics of every head, and the kept patterns within a budget of cells.

Knows the examples that an analysis declares as maps `[head, query, key]`, and its columns per head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from interp._arrays import Array, Floats
from interp.contract.analysis import Plot, meaning
from interp.measures.attention_rollout import attention_rollout
from interp.render.packed import packed
from interp.runs.explorer.shown import Shown
from interp.runs.report.drawings import head_table
from interp.runs.report.views import ResultLike, ResultsLike, View, numeric
from interp.stats.table import is_summary

MOST_CELLS = 1_000_000
"""Cells of all patterns together; longer prompts are cut, and later ones left out."""
LEAST_TOKENS = 16  # a prompt is left out before it is cut to fewer
STEPS = 65535  # a weight of 1 as a whole number of two bytes: within 0.00001 of what was kept
MOST_ROLLED = 512  # tokens: the product costs their cube for every block

Kept = Mapping[int, Mapping[int, Array]]  # block -> prompt -> [head, query, key]


def attention_of_page(results: ResultsLike, shown: Shown) -> dict[str, Any] | None:
    """Heads as the page reads them, of the first result that has some; None without any.

    Of a model with two stacks those of the first.
    """
    named = sorted(results.values(), key=lambda r: r.name != "attention")
    result = next((r for r in named if has_heads(r)), None)
    if result is None:
        return None
    stack = shown.stacks[0]
    blocks, heads, statistics = _statistics(result, stack)
    kept = _kept(result, stack)
    control = getattr(result, "control", None)
    beside = _kept(control, stack) if control is not None else {}
    patterns, notes = _patterns(kept, beside, shown, stack)
    blocks = max([blocks, *(block + 1 for block in kept)])
    return {
        "blocks": blocks,
        "heads": max([heads, *(a.shape[0] for items in kept.values() for a in items.values())]),
        "statistics": statistics,
        "patterns": patterns,
        "rollout": list(_rollouts(kept, patterns, shown, stack)) or None,
        "notes": notes,
    }


def pattern_name(result: ResultLike) -> str:
    """Name of the examples that hold an analysis' maps; "" if it declares none."""
    return next((p.values[0] for p in result.analysis.plots if p.kind == "attention"), "")


def has_heads(result: ResultLike) -> bool:
    """Whether a result has numbers per head, or keeps patterns."""
    frame = result.frame
    # A row per token and head, or a summary of such rows: not offsets or pairs.
    of_tokens = {"prompt", "position"} <= set(frame.columns) or is_summary(frame)
    if of_tokens and {"head", "layer"} <= set(frame.columns):
        return True
    return bool(pattern_name(result)) and any(result.examples(pattern_name(result)).values())


def _kept(result: ResultLike, stack: str) -> Kept:
    """Patterns by block and prompt, of one stack."""
    name = pattern_name(result)
    found = result.examples(name) if name else {}
    return {layer: items for (of, layer), items in found.items() if items and of in ("", stack)}


# ---- statistics ------------------------------------------------------------------------------


def _statistics(result: ResultLike, stack: str) -> tuple[int, int, list[dict[str, Any]]]:
    """Numbers of blocks and heads, and the mean of every column as `[block, head]`."""
    if "head" not in result.frame:
        return 0, 0, []
    values = [v for v in numeric(result) if v != "head"]
    table = head_table(View(result, Plot("heatmap", tuple(values), "")))
    if table["stack"].any():
        table = table[table["stack"] == stack]
    if table.empty:
        return 0, 0, []
    blocks, heads = int(table["layer"].max()) + 1, int(table["head"].max()) + 1
    out = []
    for value in values:
        rows = table[table["value"] == value]
        if rows["mean"].isna().all():
            continue
        control = _grid(rows, "control", blocks, heads) if "control" in rows else None
        out.append(
            {
                "name": f"{result.name}.{value}",
                "title": value.replace("_", " "),
                "doc": meaning(result.analysis.columns, value) or "",
                "values": packed(_grid(rows, "mean", blocks, heads), "f4"),
                "control": None if control is None else packed(control, "f4"),
            }
        )
    return blocks, heads, out


def _grid(rows: Any, column: str, blocks: int, heads: int) -> Floats:
    grid = np.full((blocks, heads), np.nan)
    grid[rows["layer"].to_numpy(np.int64), rows["head"].to_numpy(np.int64)] = rows[column]
    return grid


# ---- patterns --------------------------------------------------------------------------------


def _patterns(
    kept: Kept, beside: Kept, shown: Shown, stack: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The patterns of each kept prompt within the budget, and sentences on what was cut."""
    out, notes, left = [], [], MOST_CELLS
    for prompt in _prompts(kept, shown, stack):
        blocks = sorted(b for b in kept if prompt in kept[b])
        heads = min(kept[b][prompt].shape[0] for b in blocks)
        length = kept[blocks[0]][prompt].shape[-1]
        sides = 1 + all(prompt in beside.get(b, {}) for b in blocks)
        fits = min(length, int((left / (len(blocks) * heads * sides)) ** 0.5))
        name = shown.id_of(prompt, stack)
        if fits < min(length, LEAST_TOKENS):
            notes.append(f"The maps of prompt {name} are left out to keep the page small.")
            continue
        if fits < length:
            notes.append(f"Maps of prompt {name}: the first {fits} of {length} tokens.")
        left -= fits * fits * len(blocks) * heads * sides
        cut = [_whole_numbers(source, prompt, blocks, heads, fits) for source in (kept, beside)]
        out.append(
            {
                "prompt": name,
                "blocks": blocks,
                "heads": list(range(heads)),
                "values": cut[0],
                "control": cut[1] if sides > 1 else None,
            }
        )
    return out, notes


def _prompts(kept: Kept, shown: Shown, stack: str) -> list[int]:
    """The prompts with maps that the page shows."""
    found = sorted({p for items in kept.values() for p in items})
    return [p for p in found if shown.tokens_of(p, stack).stop]


def _whole_numbers(
    source: Kept, prompt: int, blocks: Sequence[int], heads: int, fits: int
) -> dict[str, Any] | None:
    """Patterns `[block, head, query, key]` in steps of 1/65535; None where a block has none."""
    if any(prompt not in source.get(b, {}) for b in blocks):
        return None
    values = np.stack([source[b][prompt][:heads, :fits, :fits] for b in blocks])
    return packed(_steps(values), "u2")


def _steps(values: Array) -> Array:
    return np.rint(np.clip(np.nan_to_num(np.asarray(values, np.float64)), 0, 1) * STEPS)


def _rollouts(
    kept: Kept, patterns: Sequence[Mapping[str, Any]], shown: Shown, stack: str
) -> Iterator[dict[str, Any]]:
    """Attention rolled out over the blocks, of the prompts whose patterns are shown.

    The control `even` is attention spread evenly over the allowed keys. A prompt has none where a
    block without a pattern mixes positions in a way that is not known.
    """
    fits = {told["prompt"]: told["values"]["shape"][-1] for told in patterns}
    for prompt in _prompts(kept, shown, stack):
        name = shown.id_of(prompt, stack)
        maps = [kept.get(b, {}).get(prompt) for b in range(max(kept) + 1)]
        known = [m for m in maps if m is not None and m.shape[-1] <= MOST_ROLLED]
        if name not in fits or len(known) < len(maps):
            continue
        n = fits[name]
        rolled, even = (attention_rollout(known, uniform=u)[:, :n, :n] for u in (False, True))
        if np.isfinite(rolled).all():
            told = {"values": packed(_steps(rolled), "u2"), "even": packed(_steps(even), "u2")}
            yield {"prompt": name, **told}
