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

from interp._token_id import token_id as token_id  # part of this page for callers
from interp._tokenise import token_strings
from interp.embedding import random_cosine
from interp.errors import BadInput, Unsupported, unknown
from interp.geometry import at_least_float32, full_precision, norm, ratio
from interp.stats.groups import group_means
from interp.stats.table import HasFrame, frame_of, is_special, numbered, require_columns
from interp.unembedding import embedding_of, unembedding_of

SPACES = ("W_U", "W_E")
MEASURES = ("dot", "cosine")


# ---- vectors to tokens -----------------------------------------------------------------------


@full_precision()
def nearest_tokens(
    model: Any,
    vector: Any,
    *,
    space: Literal["W_U", "W_E"] = "W_U",
    k: int = 10,
    by: Literal["dot", "cosine"] = "dot",
) -> pd.DataFrame:
    """The tokens whose rows of W_U or W_E are nearest to a vector.

    In W_U the dot product is what the vector, taken as the stream after the final norm, adds to
    the token's logit; b_U and the norm are left out. In W_E it says which word's embedding points
    that way. Long rows win by dot product, whatever their direction; by cosine they do not.

    Args:
        vector: `[d]`, or `[n, d]` for several at once.
        space: "W_U" or "W_E".
        k: how many tokens per vector; all if there are fewer.
        by: "dot" or "cosine".
    Returns: one row per token, nearest first: `rank` (0 = nearest), `token`, `token_id`, `dot`,
    `cosine`, `norm` (of the token's row), and the control `random_cosine`: the median cosine that
    the nearest token of that rank by cosine would have if all directions were random; for several
    vectors also `vector`, its number. The cosine is NaN for the zero vector.
    Raises: `UnknownName`, `BadInput` for a vector of another width or with NaN, `Unsupported`.
    """
    for name, given, allowed in (("space", space, SPACES), ("by", by, MEASURES)):
        if given not in allowed:
            raise unknown(name, str(given), allowed)
    rows = at_least_float32(_matrix(model, space))
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
    return frame if np.ndim(vector) == 2 else frame.drop(columns="vector")


def _matrix(model: Any, space: str) -> Tensor:
    if space == "W_U":
        return unembedding_of(model)[0]
    embedding = embedding_of(model)
    if embedding is None:
        raise Unsupported("this model has no W_E, no embedding of tokens; space='W_U' may exist")
    return embedding


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


# ---- decision depth --------------------------------------------------------------------------


def decision_depth(result: HasFrame | pd.DataFrame) -> pd.DataFrame:
    """From which state on the most probable token of the logit lens stays the final one.

    Args:
        result: the result of `logit_lens`, or its table.
    Returns: one row per token, with its token columns and labels, and
        `decision_depth`: first state from which the argmax is the final one and stays so (0 = the
        embedding decides; the number of blocks: only the last state does);
        `relative_depth`: that over the number of blocks, 0 to 1;
        `agreeing`: share of the states before the last whose argmax is the final one, decided or
        not; where it is far above 1 − relative_depth, the prediction came and went.
    Raises: `UnknownName` for a table without `agrees`, `BadInput` for a summary, or where states
    of a token are missing.
    """
    frame = frame_of(result)
    if "prompt" not in frame and "mean" in frame:
        raise BadInput("decision depth is of single tokens: run the lens with keep='tokens'")
    require_columns(frame, ["prompt", "position", "layer", "agrees"])
    keys = [c for c in ("stack", "prompt", "position") if c in frame]
    table = frame.assign(agrees=frame["agrees"].astype(bool), layer=frame["layer"].astype(np.int64))
    last = int(table["layer"].max()) if len(table) else 0
    groups = table.groupby(keys, sort=True, observed=True)
    counts = groups["layer"].agg(["size", "nunique", "max"])
    tops = counts["max"].groupby(level="stack").transform("max") if "stack" in keys else last
    if bool(((counts["size"] != counts["nunique"]) | (counts["nunique"] != tops + 1)).any()):
        raise BadInput(
            f"every token needs each state 0 … {last} once; this table was filtered or joined"
        )
    return _depths(table, keys)


def _depths(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    # The state after the last one that disagrees; -1 + 1 where none does.
    table = table.assign(wrong=np.where(table["agrees"], -1, table["layer"]))
    blocks = table.groupby(keys, sort=True, observed=True)["layer"].transform("max")
    table["before"] = table["agrees"].where(table["layer"] < blocks)
    groups = table.groupby(keys, sort=True, observed=True)
    out = groups[["wrong", "layer"]].max()
    depth, n = out["wrong"] + 1, out["layer"]
    values = pd.DataFrame(
        {
            "decision_depth": depth,
            "relative_depth": depth / n.where(n > 0),
            "agreeing": groups["before"].agg(lambda x: x.dropna().astype(float).mean()),
        }
    ).reset_index()
    kept = [c for c in table if c not in _LENS and c not in keys]
    tokens = table.drop_duplicates(keys)[[*keys, *kept]]
    return tokens.merge(values, on=keys, how="right").reset_index(drop=True)


def decided(depths: pd.DataFrame, by: str | None = None, *, special: bool = False) -> pd.DataFrame:
    """Share of tokens that are decided at each state, from the table of `decision_depth`.

    Special tokens are left out unless `special`. Returns per `layer` (and `stack`, and group of
    the column `by`) `decided`, with `low`, `high`: 95 % intervals, the prompt being the unit that
    was sampled, and `n` tokens.
    """
    keys = [c for c in ("stack", by) if c is not None and (c == by or c in depths)]
    require_columns(depths, ["decision_depth", *keys])
    rows = depths[~is_special(depths, special)]
    if by is not None:
        rows = rows[rows[by].notna() & (rows[by].astype(str) != "")]
    if rows.empty:
        raise BadInput("no token is left: all are special, or none has the label")
    layers = np.arange(int(depths["decision_depth"].max()) + 1)
    reached = (rows["decision_depth"].to_numpy()[:, None] <= layers).astype(np.float64)
    codes, groups = numbered(rows, keys)
    found = group_means(reached, codes, rows["prompt"])
    parts = [
        groups.assign(layer=layer, decided=found.mean[:, i], low=found.low[:, i]).assign(
            high=found.high[:, i], n=found.n[:, i].astype(int)
        )
        for i, layer in enumerate(layers)
    ]
    return pd.concat(parts, ignore_index=True).sort_values([*keys, "layer"], ignore_index=True)


_LENS = (
    *("layer", "log_prob", "rank", "entropy", "kl_to_final", "js_to_final", "tv_to_final"),
    *("top_token", "top_prob", "agrees", "wrong", "before"),
)
