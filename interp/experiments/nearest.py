"""Between tokens and vectors: the id of a token, the tokens nearest to a vector, and from which
state on a prediction stays what it is.

Knows a bridge's tokenizer and weights, and the table of the logit lens; runs no model.
"""

from __future__ import annotations

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
RANDOM_NOTE = (
    "Grey: what the neighbour of that rank would have if all directions were random (median)."
)


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

    In W_U the dot product is what the vector, taken as the stream after the final norm, adds to
    the token's logit; b_U and the norm are left out. In W_E it says which word's embedding points
    that way. Long rows win by dot product, whatever their direction; by cosine they do not.

    Args:
        vector: `[d]`, or `[n, d]` for several at once; or a token, such as " her" (a leading
            space counts), whose row of `of` is taken.
        minus: a token whose row is taken off.
        of: "W_U" or "W_E", where the vector of a token is from.
        space: "W_U" or "W_E", where it is looked up.
        k: how many tokens per vector; all if there are fewer.
        by: "dot" or "cosine".
    `.frame` has one row per token, nearest first: `rank` (0 = nearest), `token`, `token_id`, `dot`,
    `cosine`, `norm` (of the token's row), and the control `random_cosine`: the median cosine that
    the nearest token of that rank by cosine would have if all directions were random; for several
    vectors also `vector`, its number. The cosine is NaN for the zero vector.
    Raises: `UnknownName`, `BadInput` for a vector of another width or with NaN, `Unsupported`.
    """
    for name, given, allowed in (
        ("space", space, SPACES),
        ("space", of, SPACES),
        ("by", by, MEASURES),
    ):
        if given not in allowed:
            raise unknown(name, str(given), allowed)
    rows = at_least_float32(weight_matrix(model, space))
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
    table = frame.rename(columns={"token": "name", "cosine": "value", "random_cosine": "control"})
    drawing = Drawing(
        "bars",
        f"Tokens nearest to {named or 'the vector'}",
        table[["name", "value", "control"]],
        "cosine",
        caption=f"{said}.",
        control=RANDOM_NOTE,
    )
    return Answer(
        "nearest",
        frame,
        said,
        {"Nearest tokens": drawing},
        asked=f"Which tokens of {space} lie nearest to {named or 'the vector'}?",
    )


def _asked(model: Any, vector: Any, minus: str | None, of: str) -> tuple[Any, str]:
    """The vector, and its name where it is that of a token."""
    if not isinstance(vector, str):
        if minus is not None:
            raise BadInput("minus= takes a token off a token; take it off your vector yourself")
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
