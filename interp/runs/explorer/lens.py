"""The lens of the page: the best tokens of every state and position of the prompts that kept them.

Knows the kept examples `top_tokens` and `top_probs` `[state, position, k]`, and the columns of the
best token alone, which a table of rows has of every prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp._arrays import Floats, Ints
from interp.render.packed import packed
from interp.runs.explorer.shown import NONE, Id, Shown
from interp.runs.report.lens_examples import PROBS, TOKENS, lens_prompts
from interp.runs.report.views import ResultLike, ResultsLike

BEST, SHARE = "top_token", "top_prob"  # columns of the best token and of its probability


@dataclass(frozen=True, eq=False)
class _Side:
    """The lens of the model or of its control.

    Attributes:
        tokens: numbers in the list of texts `[token, state, k]`, -1 for none.
        probs: their probabilities.
        prompts: the prompts whose best `k` were kept.
        best: those of which the table has the best token only.
    """

    tokens: Ints
    probs: Floats
    prompts: list[Id]
    best: list[Id]

    def told(self) -> dict[str, Any]:
        return {"tokens": packed(self.tokens, "i4"), "probs": packed(self.probs, "f4")}


def lens_of_page(
    results: ResultsLike, shown: Shown, *, fill: bool = False
) -> dict[str, Any] | None:
    """The lens as the page reads it, of the first result that has one; None without any.

    `fill`: of prompts whose examples were not kept, show the best token from the table; without
    any example that is done anyway.
    """
    named = sorted(results.values(), key=lambda r: not lens_prompts(r))
    result = next((r for r in named if lens_prompts(r) or has_best(r)), None)
    if result is None:
        return None
    fill = fill or not lens_prompts(result)
    texts: dict[str, int] = {}
    own = _side(result, shown, texts, fill)
    if not (own.prompts or own.best):
        return None
    control = getattr(result, "control", None)
    beside = None
    if control is not None and (lens_prompts(control) or (fill and has_best(control))):
        beside = _side(control, shown, texts, fill)
    fits = beside is not None and beside.tokens.shape == own.tokens.shape
    return {
        "states": [str(i) for i in range(own.tokens.shape[1])],
        "k": own.tokens.shape[2],
        "texts": list(texts),
        **own.told(),
        "prompts": [*own.prompts, *own.best],
        "best": own.best,
        "control": beside.told() if beside is not None and fits else None,
    }


def has_best(result: ResultLike) -> bool:
    """Whether a table has the best token of every state and position."""
    frame = result.frame
    held = {"prompt", "position", "layer", BEST, SHARE} <= set(frame.columns)
    return held and len(frame) > 0 and result.analysis.depth() == "state"


def _side(result: ResultLike, shown: Shown, texts: dict[str, int], fill: bool) -> _Side:
    """The lens of one result; `texts` grows by the texts that it lacks."""
    if lens_prompts(result):
        ids, probs, prompts = _grids(result, shown)
        tokens = _coded(ids, result.strings, texts)
    else:
        shape = (len(shown.frame), 1 + int(result.frame["layer"].max()), 1)
        tokens, probs, prompts = np.full(shape, NONE), np.full(shape, np.nan), []
    best = _fill(tokens, probs, result, shown, texts) if fill and has_best(result) else []
    return _Side(tokens, probs, prompts, [name for name in best if name not in prompts])


def _fill(
    tokens: Ints, probs: Floats, result: ResultLike, shown: Shown, texts: dict[str, int]
) -> Sequence[Id]:
    """Writes the best token of the table where nothing was kept; returns the prompts."""
    frame = result.frame[result.frame[BEST].notna()]
    token, state = shown.rows_of(frame), frame["layer"].to_numpy(np.int64)
    free = (token >= 0) & (state >= 0) & (state < tokens.shape[1])
    free[free] &= tokens[token[free], state[free], 0] == NONE
    words = frame[BEST].astype(str).to_numpy(dtype=object)[free]
    places = [texts.setdefault(word, len(texts)) for word in words]
    tokens[token[free], state[free], 0] = places
    probs[token[free], state[free], 0] = frame[SHARE].to_numpy(np.float64)[free]
    group = np.repeat(np.arange(len(shown.ids)), np.diff(shown.starts))
    return [shown.ids[i] for i in np.unique(group[token[free]])]


def _grids(result: ResultLike, shown: Shown) -> tuple[Ints, Floats, list[Id]]:
    """Token ids and probabilities `[token, state, k]`, and the prompts that have some."""
    ids, probs = result.examples(TOKENS), result.examples(PROBS)
    kept = [(key, p, items[p]) for key, items in ids.items() for p in items]
    states, k = (max(array.shape[axis] for _, _, array in kept) for axis in (0, 2))
    shape = (len(shown.frame), states, k)
    tokens, weights = np.full(shape, NONE, dtype=np.int64), np.full(shape, np.nan)
    prompts = []
    for key, prompt, best in kept:
        place = shown.tokens_of(prompt, key[0])
        n = min(place.stop - place.start, best.shape[1])
        if not n:
            continue
        rows = slice(place.start, place.start + n)
        depth, width = best.shape[0], best.shape[2]
        tokens[rows, :depth, :width] = best[:, :n].swapaxes(0, 1)
        weights[rows, :depth, :width] = probs[key][prompt][:, :n].swapaxes(0, 1)
        prompts.append(shown.id_of(prompt, key[0]))
    return tokens, weights, prompts


def _coded(ids: Ints, strings: Mapping[int, str], texts: dict[str, int]) -> Ints:
    """Ids as numbers in `texts`, which grows by the texts that it lacks; -1 stays."""
    known, codes = np.unique(ids, return_inverse=True)
    places = [
        NONE if i == NONE else texts.setdefault(str(strings.get(i, f"#{i}")), len(texts))
        for i in known.tolist()
    ]
    return np.asarray(places, dtype=np.int64)[codes].reshape(ids.shape)
