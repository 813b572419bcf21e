"""Choice of attention maps: the most informative heads first, within a budget of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from interp._arrays import Array
from interp.errors import BadInput, UnknownName, unknown
from interp.render.attention import AttentionMaps, MapView
from interp.runs.report.views import ResultLike, View, unkept

MOST_CELLS = 50_000  # of one view: about two and a half seconds in a slow browser
ALL_CELLS = 300_000  # of all views together, which travel with the page
PER_SCORE = 4  # heads shown for each score
Head = tuple[int, int]  # layer, head


def attention_maps(
    result: ResultLike,
    name: str = "pattern",
    *,
    prompt: int | None = None,
    layer: int | None = None,
    heads: Sequence[Head | int] | None = None,
    score: str | Sequence[str] | None = None,
    budget: int = ALL_CELLS,
) -> AttentionMaps:
    """Collect the maps that a result keeps.

    Args:
        name: the examples that hold the patterns, `[head, query, key]`.
        prompt: one of the kept prompts; all of them by default.
        layer: only this layer.
        heads: only these, as `(layer, head)`, or as numbers in `layer`.
        score: columns whose highest means choose the heads of the first view; by default those
            that the analysis draws as a grid of heads.
        budget: cells of all views together; views that do not fit are named in `notes`.

    Raises `UnknownName` for a prompt, layer or score that is not there. Without kept patterns
    there are no views, and `notes` has the reason.
    """
    kept = result.examples(name)
    title = f"Attention maps · {result.model}".rstrip(" ·")
    prompts = sorted({p for items in kept.values() for p in items})
    if not prompts:
        return AttentionMaps(title, (), (f"No {name!r} was kept: there are no maps to show.",))
    if prompt is not None and prompt not in prompts:
        raise unkept(prompt, prompts, result, "maps")
    _check("layer", layer, sorted({key[1] for key in kept}))
    _check_heads(kept, layer, heads or ())
    chosen = [prompts[0] if prompt is None else prompt, *(p for p in prompts if prompt is None)]
    views: list[MapView] = []
    left: list[str] = []
    for view in _views(result, name, list(dict.fromkeys(chosen)), layer, heads, score):
        if views and sum(v.cells for v in views) + view.cells > budget:
            left.append(view.name)
        else:
            views.append(view)
    notes = [_left_out(left, budget)] if left else []
    return AttentionMaps(title, tuple(views), tuple(notes))


def _check(kind: str, value: Any, known: Sequence[Any]) -> None:
    if value is not None and value not in known:
        raise unknown(kind, str(value), [str(k) for k in known])


def _check_heads(kept: Any, layer: int | None, heads: Sequence[Head | int]) -> None:
    """Raises `UnknownName` for a head or layer without a map, `BadInput` for one without its layer.

    A number alone is a head of `layer`.
    """
    sizes = {key[1]: len(next(iter(items.values()))) for key, items in kept.items() if items}
    for head in heads:
        if isinstance(head, int) and layer is None:
            raise BadInput(f"heads=[{head}] names no layer: pass layer=, or (layer, head)")
        at, number = (layer, head) if isinstance(head, int) else head
        if at not in sizes:
            raise unknown("layer in heads=", str(at), [str(k) for k in sorted(sizes)])
        if not 0 <= number < sizes[at]:
            raise UnknownName(f"unknown head {number} of layer {at} (known: 0 … {sizes[at] - 1})")


def _left_out(names: list[str], budget: int) -> str:
    listed = "; ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return (
        f"Left out to keep the page small ({budget:,} cells): {listed}. Each can be drawn alone: "
        "plot('pattern', prompt=…, layer=…)."
    )


def _views(
    result: ResultLike,
    name: str,
    prompts: list[int],
    layer: int | None,
    heads: Sequence[Head | int] | None,
    score: str | Sequence[str] | None,
) -> Iterator[MapView]:
    """Views by importance: the most informative heads of every prompt, then layer by layer."""
    kept = result.examples(name)
    ranked = rankings(result, score)
    stacks = sorted({key[0] for key in kept})
    if heads is not None or (ranked and layer is None):
        for prompt in prompts:
            for stack in stacks:
                yield from _chosen_view(result, name, prompt, stack, layer, heads, ranked)
    if heads is not None:
        return
    for prompt in prompts:
        for (stack, at), items in sorted(kept.items()):
            if prompt in items and layer in (None, at):
                wanted = [(at, head) for head in range(len(items[prompt]))]
                where = f"{stack} block {at}".strip()
                yield _cut(result, prompt, stack, where, wanted, items[prompt], ranked)


def _chosen_view(
    result: ResultLike,
    name: str,
    prompt: int,
    stack: str,
    layer: int | None,
    heads: Sequence[Head | int] | None,
    ranked: dict[str, dict[Head, float]],
) -> Iterator[MapView]:
    if heads is not None:
        wanted = [(layer or 0, h) if isinstance(h, int) else h for h in heads]
    else:
        best = [sorted(m, key=lambda h: -m[h])[:PER_SCORE] for m in ranked.values()]
        wanted = list(dict.fromkeys(h for group in best for h in group))
    kept = {
        at: items[prompt]
        for (of, at), items in result.examples(name).items()
        if of == stack and prompt in items
    }
    wanted = [h for h in wanted if h[0] in kept and h[1] < len(kept[h[0]])]
    if wanted:
        patterns = np.stack([kept[at][head] for at, head in wanted])
        what = "chosen heads" if heads is not None else "most telling heads"
        view = _cut(result, prompt, stack, f"{stack} {what}".strip(), wanted, patterns, ranked)
        rule = f"Heads: the {PER_SCORE} with the highest mean of each score. "
        yield view if heads is not None else replace(view, scores=rule + view.scores)


def rankings(result: ResultLike, score: str | Sequence[str] | None) -> dict[str, dict[Head, float]]:
    """Mean of the defined values of each score per (layer, head), without special tokens."""
    frame = result.frame
    if not {"layer", "head"} <= set(frame.columns):
        return {}
    if score is None:
        names = [v for p in result.analysis.plots if p.kind == "heatmap" for v in p.values]
        names = [n for n in names if n in frame]
    else:
        names = [score] if isinstance(score, str) else list(score)
        for wanted in names:
            _check("score", wanted, list(frame.columns))
    rows = View(result, result.analysis.plots[0]).rows()
    if not names:
        return {}
    means = rows.groupby(["layer", "head"])[names].mean().reset_index()
    places = list(zip(means["layer"].astype(int), means["head"].astype(int), strict=True))
    return {
        name: {at: float(v) for at, v in zip(places, means[name], strict=True) if v == v}
        for name in names
    }


def _cut(
    result: ResultLike,
    prompt: int,
    stack: str,
    name: str,
    wanted: list[Head],
    patterns: Array,
    ranked: dict[str, dict[Head, float]],
) -> MapView:
    """A view within the budget: the first tokens if one head is too large, then fewer heads."""
    notes = []
    # A map of n tokens has n² cells: long prompts are cut before heads are left out.
    length = patterns.shape[-1]
    fits = min(length, int(MOST_CELLS**0.5))
    if fits < length:
        notes.append(f"The first {fits} of {length} tokens are shown.")
    most = max(1, MOST_CELLS // fits**2)
    order = list(range(len(wanted)))
    if len(wanted) > most:
        highest = [max((m.get(h, 0.0) for m in ranked.values()), default=0.0) for h in wanted]
        order = sorted(sorted(order, key=lambda i: -highest[i])[:most])
        notes.append(f"{most} of {len(wanted)} heads are shown, those with the highest scores.")
    tokens = result.tokens[result.tokens["prompt"] == prompt]
    if "stack" in tokens:
        tokens = tokens[tokens["stack"] == stack]
    texts = [str(t) for t in tokens.sort_values("position")["token"]][:fits]
    return MapView(
        f"prompt {prompt}, {name}",
        (*texts, *(f"#{i}" for i in range(len(texts), fits))),
        tuple(f"L{wanted[i][0]}H{wanted[i][1]}" for i in order),
        np.asarray(patterns, dtype=np.float64)[order, :fits, :fits],
        _in_words([wanted[i] for i in order], ranked),
        " ".join(notes),
    )


def _in_words(heads: list[Head], ranked: dict[str, dict[Head, float]]) -> str:
    """The best head of each score among those shown."""
    parts = []
    for score, mean in ranked.items():
        known = [h for h in heads if h in mean]
        if known:
            best = max(known, key=lambda h: mean[h])
            parts.append(f"{score}: L{best[0]}H{best[1]} ({mean[best]:.2f})")
    return f"Highest mean score among these, over all prompts: {', '.join(parts)}." if parts else ""
