"""Beliefs as geometry: states that are an affine image of exact Bayes beliefs, and how well a
model's states are one.

Hand-set: a token of the phantom stands for all that was read so far, so that its state can be the
exact belief of an observer of the process Mess3. Trained: the embedded model `mess3` reads letters.
Source: Shai et al., "Transformers represent belief state geometry in their residual stream"
(2405.15943).
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp.demo import mess3
from interp.errors import BadInput
from interp.measures.maps import affine
from interp.models.hand_set import BlockWeights, Matrix, hand_set, mapped
from interp.runs.phantoms.phantom import Known, Phantom, Trial, rounding

LONGEST = 5
WIDTH, BLOCKS = 8, 3


def histories() -> list[tuple[int, ...]]:
    """Everything that can have been read, up to five letters; the empty history first."""
    return [h for n in range(LONGEST + 1) for h in product(range(3), repeat=n)]


def history_beliefs() -> Matrix:
    """The exact belief after each history: `[history, 3]`."""
    rows = [np.array([h], np.int64).reshape(1, -1) for h in histories()]
    return np.concatenate([mess3.beliefs(row)[:, -1] for row in rows])


def _turns() -> tuple[Matrix, Matrix, Matrix]:
    """The affine maps: 3 belief axes into the stream, orthogonal blocks, and shifts."""
    random = np.random.default_rng(5)
    into = np.linalg.qr(random.standard_normal((WIDTH, 3)))[0].T
    turns = np.stack(
        [np.linalg.qr(random.standard_normal((WIDTH, WIDTH)))[0] for _ in range(BLOCKS)]
    )
    return into, turns, random.standard_normal((BLOCKS, WIDTH))


@cache
def belief_states() -> Phantom:
    """States that are exact beliefs, turned and shifted by every block."""
    into, turns, shifts = _turns()
    blocks = [
        BlockWeights(mlp=mapped(turn).mlp, bias=shift)
        for turn, shift in zip(turns, shifts, strict=True)
    ]
    count = len(histories())
    return Phantom(
        "exact beliefs",
        "A token stands for what was read of the process Mess3, its state is the belief of an "
        "observer by Bayes' rule, and every block turns and shifts all states alike.",
        lambda: hand_set("exact beliefs", 3 * history_beliefs() @ into, blocks),
        tuple(tuple(range(i, min(i + 26, count))) for i in range(0, count, 26)),
    )


def plane_of_beliefs() -> Trial:
    """`trajectory` on `belief_states`, one state at a time: beliefs lie in a plane."""
    belief = 3 * history_beliefs()
    into, turns, shifts = _turns()
    states = [belief @ into]
    for turn, shift in zip(turns, shifts, strict=True):
        states.append(states[-1] @ turn + shift)
    cloud = np.concatenate(states)
    values = np.linalg.eigvalsh(np.cov(cloud.T, bias=True))[::-1]
    share, size = values / values.sum(), len(cloud)
    limit, why = rounding(1.0, 256), "256 roundings"
    known = [Known(f"pc{i + 1}_share", float(share[i]), limit, why) for i in range(3)]
    effective = float(values.sum() ** 2 / (values**2).sum())
    known += [
        Known("effective_dimension", effective, rounding(effective, 256), why),
        Known("basis_states", size, 0, "a count"),
    ]
    return Trial(belief_states(), known)


def fit_to_beliefs(model: Any = "mess3", *, rows: int = 600, seed: int = 0) -> pd.DataFrame:
    """R² of an affine map from the states of a model of Mess3 to the exact beliefs, by state.

    The map is fitted on one half of the sequences and scored on the other. Controls: `shuffled`,
    the same with the beliefs of other sequences at each position; an untrained copy has columns of
    its own if you pass it as the model.

    Args:
        model: `"mess3"`, or another model that reads its letters.
        rows: sequences drawn from the process.
        seed: of the sequences and of the shuffle.

    Returns columns `state` (0 … L), `r2`, `shuffled`. Raises `BadInput` for fewer than 20 rows.
    """
    from interp.models.load import load_model

    if rows < 20:
        raise BadInput(f"rows={rows}: a fit and its test take 20 sequences or more, such as 600")
    bridge = load_model(model)
    letters = mess3.sequences(rows, mess3.LENGTH, seed=10**9 + seed)
    belief = mess3.beliefs(letters)
    states = _stream(bridge, mess3.tokens(letters))
    order = np.random.default_rng(seed).permutation(rows)
    half = rows // 2
    found = []
    for i, x in enumerate(states):
        r2 = _r2(x[:half], belief[:half], x[half:], belief[half:])
        mixed = belief[order]
        shuffled = _r2(x[:half], mixed[:half], x[half:], mixed[half:])
        found.append({"state": i, "r2": r2, "shuffled": shuffled})
    return pd.DataFrame(found)


@torch.no_grad()
def _stream(bridge: Any, ids: Any) -> list[Matrix]:
    """States x_0 … x_L `[row, pos, d]` in float64."""
    last = bridge.cfg.n_layers - 1
    names = [f"blocks.{i}.hook_resid_pre" for i in range(last + 1)]
    names.append(f"blocks.{last}.hook_resid_post")
    _, cache = bridge.run_with_cache(torch.from_numpy(ids), names_filter=lambda name: name in names)
    return [cache[name].double().cpu().numpy() for name in names]


def _r2(x: Matrix, y: Matrix, x_new: Matrix, y_new: Matrix) -> float:
    """Share of the variance of held-out `y_new` that the map fitted on x and y explains."""
    a, b, a_new, b_new = (z.reshape(-1, z.shape[-1]) for z in (x, y, x_new, y_new))
    fitted = affine(a, b)
    left = fitted.source(a_new) - fitted.target(b_new)
    return float(1 - (left**2).sum() / ((b_new - b_new.mean(0)) ** 2).sum())


TRIALS = {"trajectory": (plane_of_beliefs,)}
