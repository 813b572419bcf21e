"""Phantoms of attention: heads that look exactly where they are told, and what must be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from interp.models.hand_set import BlockWeights, HeadWeights, Matrix, hand_set
from interp.runs.phantoms.phantom import Known, Phantom, Trial, rounding, rows_known

KINDS = 12
CONTEXT = 16
SHARP = 256.0
"""Score above the others at which their softmax is 0 in float32 (the least number is e^-104)."""
PROMPTS = (
    (0, 3, 5, 7, 3, 5, 9, 4, 3, 5),
    (0, 1, 2, 6, 1, 2, 6, 1, 2, 6),
    (0, 8, 10, 4, 8, 11),
    (0, 1, 2, 1, 2, 1),
)
WRITTEN = 2.0
"""Logit that a previous-token head gives to the token that it read."""
HEADS = (("self", "previous", "duplicate", "even"), ("first", "even", "induction", "previous"))
"""What each head of both blocks does."""

Weights = Callable[[Sequence[int], int], Mapping[int, float]]


def _spread(keys: Sequence[int]) -> dict[int, float]:
    return {k: 1 / len(keys) for k in keys}


def _copies(ids: Sequence[int], q: int) -> list[int]:
    return [k for k in range(q) if ids[k] == ids[q]]


def _duplicate(ids: Sequence[int], q: int) -> dict[int, float]:
    """Earlier copies, else all earlier tokens, else itself."""
    return _spread(_copies(ids, q) or list(range(q)) or [0])


def _induction(ids: Sequence[int], q: int) -> dict[int, float]:
    """Tokens that followed earlier copies, else all up to this one."""
    # The previous-token head of the first block gives the first token itself as its predecessor.
    first = [0] if ids[0] == ids[q] else []
    return _spread(first + [k + 1 for k in _copies(ids, q)] or list(range(q + 1)))


LOOKS: Mapping[str, Weights] = {
    "self": lambda _, q: {q: 1.0},
    "previous": lambda _, q: {max(q - 1, 0): 1.0},
    "duplicate": _duplicate,
    "even": lambda _, q: _spread(range(q + 1)),
    "first": lambda *_: {0: 1.0},
    "induction": _induction,
}
"""Where each kind of head looks: from the ids of a prompt and a query to weights of keys."""


@cache
def heads() -> Phantom:
    """Heads that look at this token, the one before, copies, what followed them, or evenly."""
    # The stream holds the token, its position, and the token before, which a head writes.
    embed = np.hstack([np.eye(KINDS), np.zeros((KINDS, CONTEXT + KINDS))])
    places = np.hstack([np.zeros((CONTEXT, KINDS)), np.eye(CONTEXT), np.zeros((CONTEXT, KINDS))])
    blocks = [BlockWeights(heads=[_head(kind) for kind in row]) for row in HEADS]
    unembed = np.vstack([np.zeros((KINDS + CONTEXT, KINDS)), WRITTEN * np.eye(KINDS)])
    return Phantom(
        "heads",
        "Heads that attend exactly to this token, the previous one, earlier copies of it, what "
        "followed them, the first token, or evenly to all. Previous-token heads write what they "
        "read, which is all that is read out, with logit 2.",
        lambda: hand_set("heads", embed, blocks, positions=places, unembed=unembed),
        PROMPTS,
    )


def _head(kind: str) -> HeadWeights:
    width = 2 * KINDS + CONTEXT
    token, place, before = (
        np.eye(width)[:, a:b]
        for a, b in ((0, KINDS), (KINDS, KINDS + CONTEXT), (KINDS + CONTEXT, width))
    )
    shift, none = np.eye(CONTEXT, k=1), np.zeros((CONTEXT, CONTEXT))
    # Query · key over positions: this one, the one before, the first.
    tables = {"self": np.eye(CONTEXT), "previous": shift.T + np.eye(CONTEXT) / 2, "first": none}
    tables["first"][:, 0] = 1
    if kind == "duplicate":  # a copy of the token, but not the token itself
        return HeadWeights(SHARP * np.hstack([token, -2 * place]), np.hstack([token, place]))
    if kind == "induction":
        return HeadWeights(SHARP * token, before)
    if kind == "even":
        return HeadWeights(np.zeros((width, 1)), np.zeros((width, 1)))
    copy = np.eye(KINDS)
    value, out = (token @ copy, copy @ before.T) if kind == "previous" else (None, None)
    return HeadWeights(SHARP * 2 * place @ tables[kind], place, value, out)


def patterns() -> dict[tuple[int, int], list[Matrix]]:
    """The exact pattern `[query, key]` of every prompt, by block and head."""
    out: dict[tuple[int, int], list[Matrix]] = {}
    for layer, row in enumerate(HEADS):
        for head, kind in enumerate(row):
            out[layer, head] = [_pattern(ids, LOOKS[kind]) for ids in PROMPTS]
    return out


def _pattern(ids: Sequence[int], looks: Weights) -> Matrix:
    table = np.zeros((len(ids), len(ids)))
    for q in range(len(ids)):
        for key, weight in looks(ids, q).items():
            table[q, key] += weight
    return table


def _row_values(ids: Sequence[int], q: int, row: Matrix) -> dict[str, float]:
    """Statistics of one row of a pattern, counted key by key."""
    copies = _copies(ids, q)
    entropy = float(-sum(a * np.log(a) for a in row if a > 0))
    distance = float(sum(a * (q - k) for k, a in enumerate(row)))
    return {
        "entropy": entropy,
        "distance": distance,
        "abs_distance": distance,
        "sink": float(row[0]),
        "previous": float(row[q - 1]) if q else np.nan,
        "duplicate": float(sum(row[k] for k in copies)) if copies else np.nan,
        "induction": float(sum(row[k + 1] for k in copies)) if copies else np.nan,
        "row_sum": 1.0,
    }


def attention_heads() -> Trial:
    """`attention` on `heads`."""
    table = {
        (layer, head, prompt, q): _row_values(PROMPTS[prompt], q, pattern[q])
        for (layer, head), found in patterns().items()
        for prompt, pattern in enumerate(found)
        for q in range(len(pattern))
    }

    def of_row(name: str) -> Any:
        def values(rows: pd.DataFrame) -> Any:
            columns = ("layer", "head", "prompt", "position")
            keys = zip(*(rows[c].astype(int) for c in columns), strict=True)
            return np.array([table[key][name] for key in keys])

        return values

    names = next(iter(table.values()))
    limit = rounding(10.0, 2 * CONTEXT)  # distances reach 9
    known = [Known(n, of_row(n), limit, "32 roundings of a distance up to 9") for n in names]
    return Trial(heads(), [rows_known(sum(map(len, PROMPTS)) * 8), *known])


def profile_heads() -> Trial:
    """`position_profile` on `heads`: means per offset and η², counted pair by pair."""
    table: dict[tuple[int, int, int], dict[str, float]] = {}
    for (layer, head), found in patterns().items():
        pairs = [
            (q - k, pattern[q, k]) for pattern in found for q in range(len(pattern))
            for k in range(q + 1)
        ]  # fmt: skip
        offsets, values = (np.array(x) for x in zip(*pairs, strict=True))
        means = {int(o): values[offsets == o].mean() for o in np.unique(offsets)}
        fitted = np.array([means[int(o)] for o in offsets])
        share = fitted.var() / values.var() if values.std() > 1e-9 else np.nan
        for offset, mean in means.items():
            here = values[offsets == offset]
            table[layer, head, offset] = {
                "pairs": float(len(here)),
                "pattern": float(mean),
                "pattern_std": float(here.std()),
                "pattern_share": float(share),
            }

    def of_row(name: str) -> Any:
        def values(rows: pd.DataFrame) -> Any:
            keys = zip(*(rows[c].astype(int) for c in ("layer", "head", "offset")), strict=True)
            return np.array([table[key][name] for key in keys])

        return values

    # A standard deviation is the root of a difference of squares: half of the digits.
    loose = float(np.sqrt(rounding(1.0, 2 * CONTEXT)))
    known = [
        Known(name, of_row(name), loose if name == "pattern_std" else rounding(4.0, 2 * CONTEXT),
              "root of 32 roundings" if name == "pattern_std" else "32 roundings")
        for name in ("pairs", "pattern", "pattern_std", "pattern_share")
    ]  # fmt: skip
    return Trial(heads(), [rows_known(len(table)), *known])


def attribution_heads() -> Trial:
    """`head_attribution` on `heads`: previous-token heads write the token before."""

    def written(rows: pd.DataFrame) -> Any:
        columns = ("layer", "head", "prompt", "position")
        keys = zip(*(rows[c].astype(int) for c in columns), strict=True)
        return np.array([_written(*key) for key in keys])

    limit = rounding(WRITTEN, 2 * KINDS + CONTEXT)
    known = Known("head_logit", written, limit, f"{2 * KINDS + CONTEXT} roundings")
    return Trial(heads(), [rows_known(sum(map(len, PROMPTS)) * 8), known])


def _written(layer: int, head: int, prompt: int, position: int) -> float:
    ids = PROMPTS[prompt]
    if position + 1 == len(ids):
        return np.nan
    right = ids[position + 1] == ids[max(position - 1, 0)]
    return WRITTEN * (HEADS[layer][head] == "previous" and right)


TRIALS: dict[str, Sequence[Any]] = {
    "attention": (attention_heads,),
    "position_profile": (profile_heads,),
    "head_attribution": (attribution_heads,),
}
