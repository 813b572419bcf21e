"""Phantoms of clouds of states and of ways along the tokens, and what must be measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import hadamard

from interp.models.hand_set import Matrix, hand_set, mapped
from interp.runs.phantoms.phantom import Known, Phantom, Trial, rounding, rows_known, sampling
from interp.runs.phantoms.stream import (
    DEGREES,
    PLANTED,
    PROMPTS,
    TOKENS,
    at_both,
    at_layer,
    exactly,
    feature_sizes,
    features,
    massive,
    third_entry,
    turn_matrix,
)
from interp.runs.phantoms.weights import AROUND, RADIUS, circle_rows

# ---- positions on a circle, a vector per prompt ------------------------------------------------

HALVES = 0.5 ** np.arange(3)
"""By how much the circle has shrunk at each state."""
CONTEXTS = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1], [0, 0]])
WAYS = (*(((i,) * 12) for i in range(4)), (4,) * 5)
"""Four prompts of one token each, twelve times; a fifth that is too short to count."""


@cache
def around() -> Phantom:
    """Positions on a circle, the same for all prompts, and a vector of each prompt."""
    embed = np.hstack([np.zeros((5, 2)), CONTEXTS, np.zeros((5, 2))])
    shrink = mapped(np.diag([0.5, 0.5, 1, 1, 1, 1]))
    return Phantom(
        "round and round",
        "A state is a place on a circle of radius 4, an eighth of the way on with every token, "
        "plus a vector of the prompt; every block halves the circle.",
        lambda: hand_set("round and round", embed, [shrink] * 2, positions=circle_rows(6, 32)),
        WAYS,
    )


def curvature_around() -> Trial:
    """`token_curvature` on `around`: every step turns by 360/8 degrees."""

    def later(values: Any) -> Any:
        return lambda rows: np.where(rows["position"] < 6, np.nan, values(rows))

    step = 2 * RADIUS * np.sin(np.pi / AROUND) * HALVES
    # A step of the smallest circle is a quarter of the states whose rounding it carries.
    limit = rounding(4 * 4 * DEGREES, 64)
    turn = later(lambda rows: np.full(len(rows), 360.0 / AROUND))
    why = "64 roundings, as an angle"
    return Trial(
        around(),
        [
            rows_known(3 * sum(map(len, WAYS))),
            exactly("speed", later(at_layer(step))),
            Known("angle", turn, limit, why),
            Known("curvature", turn, limit, why),
        ],
    )


def parts_around() -> Trial:
    """`mean_position_context` on `around`: nothing is left besides position and context."""
    position, context = (RADIUS * HALVES) ** 2, (CONTEXTS[:4] ** 2).sum(axis=1).mean()
    total, n, contexts = position + context, AROUND, 4
    free = n * contexts - 1
    known = {
        "position_share": position / total,
        "context_share": context / total,
        "rest_share": 0 * total,
        "mean_share": 0 * total,
        "position_dimension": 2 + 0 * total,
        "position_chance": (n - 1) / free + 0 * total,
        "context_chance": (contexts - 1) / free + 0 * total,
        "rest_chance": (n - 1) * (contexts - 1) / free + 0 * total,
        "prompts": contexts + 0 * total,
        "left_out": 1 + 0 * total,
    }
    columns = [exactly(name, at_layer(values), 256) for name, values in known.items()]
    return Trial(around(), [rows_known(3), *columns])


# ---- a sheet that becomes a line ---------------------------------------------------------------

POINTS, PER_PROMPT = 1000, 25


@cache
def sheet() -> Phantom:
    """A thousand tokens spread evenly over a square, which the second block presses to a line."""
    embed = np.zeros((POINTS, 6))
    embed[:, :2] = np.random.default_rng(6).random((POINTS, 2)) - 0.5
    press = np.diag([1.0, 0, 1, 1, 1, 1])
    prompts = tuple(tuple(range(i, i + PER_PROMPT)) for i in range(0, POINTS, PER_PROMPT))
    return Phantom(
        "sheet and line",
        "1000 tokens drawn evenly from a square: two dimensions, the same after the first block "
        "has turned it, and one after the second has pressed it to a line.",
        lambda: hand_set("sheet and line", embed, [mapped(turn_matrix(30, 6)), mapped(press)]),
        prompts,
    )


def dimension_sheet() -> Trial:
    """`intrinsic_dimension` on `sheet`; the estimate of n points has the standard error d/√n."""
    true = np.array([2.0, 2.0, 1.0])
    half = np.sqrt(2) * 5 / np.sqrt(POINTS)
    spread = [sampling(d, POINTS) for d in true]
    why = f"5 standard errors, d/√{POINTS}"
    return Trial(
        sheet(),
        [
            rows_known(3),
            Known("dimension", at_layer(true), at_layer(spread), why),
            Known("dimension_half", at_layer(true), at_layer(half * true), why),
            Known("overlap_next", 1.0, 0.01, "near ties that rounding exchanges",
                  where=lambda frame: frame["layer"] == 0),
            exactly("overlap_chance", lambda rows: np.full(len(rows), 10 / (POINTS - 1))),
            exactly("distinct", at_layer([POINTS] * 3)),
            exactly("tokens", at_layer([POINTS] * 3)),
        ],
    )  # fmt: skip


# ---- planted spectra and entries ---------------------------------------------------------------


def spectrum_features() -> Trial:
    """`spectrum` on `features`: the covariance at every state is diagonal."""
    sizes = np.sort(feature_sizes(), axis=1)[:, ::-1]
    variance, share = sizes**2, sizes / sizes.sum(axis=1, keepdims=True)
    rank = np.log(np.arange(1, 7))
    slopes = [np.polyfit(rank, np.log(v), 1)[0] for v in variance]
    fits = [np.corrcoef(rank, np.log(v))[0, 1] ** 2 for v in variance]
    entropies = np.array([_matrix_entropies(w) for w in feature_sizes()])
    most = np.log([6, 6, 4])
    known: dict[str, Any] = {
        "participation_ratio": variance.sum(axis=1) ** 2 / (variance**2).sum(axis=1),
        "rankme": np.exp(-(share * np.log(share)).sum(axis=1)),
        "alpha": -np.array(slopes),
        "alpha_r2": fits,
        "alpha_first": [1.0] * 4,
        "alpha_last": [6.0] * 4,
        "mean_cosine": [-1 / (TOKENS - 1)] * 4,
        "matrix_entropy": entropies.mean(axis=1),
        "matrix_entropy_share": (entropies / most).mean(axis=1),
        "tokens": [float(TOKENS)] * 4,
        "undefined_tokens": [0.0] * 4,
        "prompts": [float(len(PROMPTS))] * 4,
    }
    columns = [exactly(name, at_layer(values), 256) for name, values in known.items()]
    return Trial(features(), [rows_known(4), *columns], (("fit_first", 1), ("fit_last", 6)))


def _matrix_entropies(sizes: Matrix) -> list[float]:
    """Entropy of the spectrum of each prompt's states, from their singular values."""
    states = sizes * hadamard(TOKENS)[:, 1:7]
    out = []
    for prompt in PROMPTS:
        share = np.linalg.svd(states[list(prompt)], compute_uv=False) ** 2
        share = share[share > 1e-12] / share.sum()
        out.append(float(-(share * np.log(share)).sum()))
    return out


def entries_massive() -> Trial:
    """`massive_activations` on `massive`."""
    largest = np.maximum(third_entry(), 1.0)
    planted = largest > 1
    known = {
        "largest": largest,
        "median": 1 + 0 * largest,
        "ratio": largest,
        "massive_entries": planted.astype(float),
    }
    columns = [exactly(name, at_both(values)) for name, values in known.items()]
    # Elsewhere all entries are equally large, and none is the largest.
    dimension = Known(
        "dimension", 3.0, 0, "a number",
        where=lambda f: (f["token_id"] == PLANTED) & (f["layer"] < 2),
    )  # fmt: skip
    return Trial(massive(), [rows_known(4 * TOKENS), *columns, dimension])


TRIALS: dict[str, Sequence[Any]] = {
    "token_curvature": (curvature_around,),
    "mean_position_context": (parts_around,),
    "intrinsic_dimension": (dimension_sheet,),
    "spectrum": (spectrum_features,),
    "massive_activations": (entries_massive,),
}
