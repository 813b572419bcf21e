"""Tokens nearest to a vector, among the rows of W_U or W_E.

Knows a bridge's tokenizer and weights; runs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.errors import BadInput, unknown
from interp.geometry import at_least_float32, full_precision, norm, ratio
from interp.measures.spectrum import random_cosine
from interp.models.weights import weight_matrix
from interp.prompts.tokens import token_id, token_strings
from interp.render.drawing import Drawing
from interp.render.finding import Answer

SPACES = ("W_U", "W_E")
MEASURES = ("dot", "cosine")
RANDOM_NOTE = "Grey: median cosine of the neighbour of that rank if all directions were random."
RANDOM_NAME = "if directions were random"
COLUMNS = {
    "vector": "number of the vector, where several were given",
    "rank": "rank of the token, 0 = nearest",
    "token": "text of the token",
    "token_id": "number of the token in the vocabulary",
    "dot": "dot product of the vector with the token's row",
    "cosine": "cosine of the two; NaN for the zero vector",
    "norm": "norm of the token's row",
    "random_cosine": "median cosine of the nearest token of that rank by cosine if all directions "
    "were random: the control",
}


# ---- vectors to tokens -----------------------------------------------------------------------


@full_precision()
def nearest_tokens(
    model: Any,
    vector: Any,
    *,
    minus: str | None = None,
    of: Literal["W_U", "W_E"] = "W_U",
    space: Literal["W_U", "W_E"] = "W_U",
    k: int = 10,
    by: Literal["dot", "cosine"] = "dot",
) -> Answer:
    """The tokens whose rows of W_U or W_E are nearest to a vector.

    In W_U the dot product is the contribution of the vector, as the stream after the final norm,
    to the token's logit (without b_U). In W_E it finds the embeddings that point the same way. By
    dot product long rows win, whatever their direction; by cosine they do not.

    Args:
        model: a bridge.
        vector: a token, such as " her" (a leading space counts), whose row of W_U or W_E is the
            vector. In Python also a vector `[d]`, or several `[n, d]`.
        minus: a token whose row is subtracted.
        of: the matrix that the row of the token is from: W_U or W_E.
        space: the matrix whose rows are searched: W_U or W_E.
        k: number of tokens to list.
        by: rank by cosine or dot (product).

    `.frame` has one row per token, nearest first: `rank` (0 = nearest), `token`, `token_id`, `dot`,
    `cosine`, `norm` (of the token's row), and the control `random_cosine`: the median cosine that
    the nearest token of that rank by cosine would have if all directions were random; for several
    vectors also `vector`, its number. The cosine is NaN for the zero vector.

    Raises `UnknownName`, `BadInput` for a vector of another width or with NaN, `Unsupported`.
    """
    for name, given, allowed in (
        ("space", space, SPACES),
        ("space", of, SPACES),
        ("by", by, MEASURES),
    ):
        if given not in allowed:
            raise unknown(name, str(given), allowed)
    rows = at_least_float32(weight_matrix(model, space))
    word = vector if isinstance(vector, str) else None
    vector, named = _asked(model, vector, minus, of)
    queries = _vectors(vector, rows, space)
    if k < 1:
        raise BadInput(f"k is {k!r}; it must be 1 or more")
    dots = queries @ rows.T
    sizes = norm(rows)
    cosines = ratio(dots, norm(queries).unsqueeze(-1) * sizes)
    score = dots if by == "dot" else cosines
    # Rows of zeros have no cosine: they come last.
    best = torch.nan_to_num(score, nan=-torch.inf).topk(min(k, len(rows)), dim=-1).indices
    tokenizer = getattr(model, "tokenizer", None)
    frame = _listed(best, dots, cosines, sizes, tokenizer, rows.shape[1])
    frame = frame if np.ndim(vector) == 2 else frame.drop(columns="vector")
    said = f"{of} of {named} in {space}, by {by}" if named else f"nearest in {space}, by {by}"
    found = _told(frame, [w for w in (word, minus) if w is not None])
    table = frame.rename(columns={"token": "name", "cosine": "value", "random_cosine": "control"})
    drawing = Drawing(
        "bars",
        f"Tokens nearest to {named or 'the vector'}",
        table[["name", "value", "control"]],
        "cosine",
        caption=f"{said}.",
        control=RANDOM_NOTE,
        options={"control_name": RANDOM_NAME, "value_name": "cosine"},
    )
    return Answer(
        "nearest",
        frame,
        f"{said}: {found}",
        {"Nearest tokens": drawing},
        columns=COLUMNS,
        question=f"Which tokens of {space} lie nearest to {named or 'the vector'}?",
    )


def _told(frame: pd.DataFrame, given: Sequence[str]) -> str:
    """The nearest token that was not given itself, with its cosine and the control."""
    others = frame[~frame["token"].isin(list(given))]
    own = " and ".join(map(repr, given))
    if others.empty:
        return f"no token but {own} was listed"
    row = others.iloc[0]
    by_chance = "" if row["cosine"] > row["random_cosine"] else ", no nearer than chance"
    return (
        f"the nearest token{f', {own} left out,' if given else ''} is {row['token']!r}, cosine "
        f"{row['cosine']:.3f}{by_chance} ({row['random_cosine']:.3f} at this rank if "
        "directions were random)"
    )


def _asked(model: Any, vector: Any, minus: str | None, of: str) -> tuple[Any, str]:
    """The vector, and its name if it is that of a token."""
    if not isinstance(vector, str):
        if minus is not None:
            raise BadInput("minus= subtracts a token from a token; subtract it from your vector")
        return vector, ""
    rows = at_least_float32(weight_matrix(model, of))
    found = rows[token_id(model, vector)]
    if minus is None:
        return found, repr(vector)
    found = found - rows[token_id(model, minus)]
    if not bool(found.any()):
        raise BadInput(f"{vector!r} − {minus!r} is the zero vector: nothing is near it")
    return found, f"{vector!r} − {minus!r}"


def _vectors(vector: Any, rows: Tensor, space: str) -> Tensor:
    x = torch.as_tensor(vector).detach().to(rows.device, rows.dtype)
    if x.ndim not in (1, 2) or x.shape[-1] != rows.shape[1]:
        raise BadInput(
            f"the vector has shape {tuple(x.shape)}; allowed is [{rows.shape[1]}], the width of "
            f"{space}, or [n, {rows.shape[1]}]"
        )
    if not bool(torch.isfinite(x).all()):
        raise BadInput("the vector holds NaN or infinite values")
    return x.reshape(-1, x.shape[-1])


def _listed(
    best: Tensor, dots: Tensor, cosines: Tensor, sizes: Tensor, tokenizer: Any, d: int
) -> pd.DataFrame:
    ids = best.flatten().tolist()
    strings = token_strings(ids, tokenizer)
    n, k = best.shape
    return pd.DataFrame(
        {
            "vector": np.repeat(np.arange(n), k),
            "rank": np.tile(np.arange(k), n),
            "token": [strings[i] for i in ids],
            "token_id": ids,
            "dot": dots.gather(-1, best).flatten().tolist(),
            "cosine": cosines.gather(-1, best).flatten().tolist(),
            "norm": sizes[best].flatten().tolist(),
            "random_cosine": np.tile(random_cosine(np.arange(1, k + 1), len(sizes), d), n),
        }
    )
