"""The lens of the page: the best tokens of every state and position of the prompts that kept them.

Knows the kept examples `top_tokens` and `top_probs` `[state, position, k]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from interp._arrays import Floats, Ints
from interp.render.packed import packed
from interp.runs.explorer.shown import NONE, Id, Shown
from interp.runs.report.lens_examples import PROBS, TOKENS, lens_prompts
from interp.runs.report.views import ResultLike, ResultsLike


def lens_of_page(results: ResultsLike, shown: Shown) -> dict[str, Any] | None:
    """The lens as the page reads it, of the first result that kept one; None without any."""
    result = next((r for r in results.values() if lens_prompts(r)), None)
    if result is None:
        return None
    tokens, probs, prompts = _grids(result, shown)
    if not prompts:
        return None
    control = getattr(result, "control", None)
    sides = [(tokens, probs, result.strings)]
    if control is not None and lens_prompts(control):
        beside, weights, _ = _grids(control, shown)
        if beside.shape == tokens.shape:
            sides.append((beside, weights, control.strings))
    texts: dict[str, int] = {}
    coded = [_coded(ids, strings, texts) for ids, _, strings in sides]
    pages = [
        {"tokens": packed(index, "i4"), "probs": packed(weights, "f4")}
        for index, (_, weights, _) in zip(coded, sides, strict=True)
    ]
    return {
        "states": [str(i) for i in range(tokens.shape[1])],
        "k": tokens.shape[2],
        "texts": list(texts),
        **pages[0],
        "prompts": prompts,
        "control": pages[1] if len(pages) > 1 else None,
    }


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
