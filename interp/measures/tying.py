"""Comparison of the unembedding W_U with the embedding W_E, token by token (weight tying).

Pure functions of weight matrices; knows nothing of models. W_U is held as `[vocab, d]`, a row per
token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp.geometry import at_least_float32, cosine, full_precision, norm, ratio


@full_precision()
def compare_rows(
    unembedding: Tensor, embedding: Tensor | None, bias: Tensor | None = None, *, seed: int = 0
) -> dict[str, Tensor]:
    """Comparison of every token's row of W_U with its row of W_E: a dict of `[vocab]` tensors.

    `cosine`, `difference` ‖w_U − w_E‖/‖w_E‖ and `same` (equal to the last bit) compare the two;
    `shuffled_cosine`, the baseline, compares w_U with the row of another token (one permutation
    drawn from `seed`). They are NaN (False) without an embedding of the same shape, and where a
    row is zero. `norm`, `embedding_norm`, `mean_cosine` and `embedding_mean_cosine` (with the mean
    row of the matrix) describe each matrix alone; `bias` is b_U, 0 where there is none.
    Source: Press & Wolf 2017 (weight tying).

    >>> compare_rows(torch.eye(3), 2 * torch.eye(3))["difference"].tolist()
    [0.5, 0.5, 0.5]
    """
    u = at_least_float32(unembedding)
    out = {"norm": norm(u), "mean_cosine": cosine(u, u.mean(0))}
    nothing = torch.full_like(out["norm"], torch.nan)
    e = None if embedding is None else at_least_float32(embedding).to(u.device)
    if e is None or e.shape != u.shape:
        names = ("cosine", "difference", "shuffled_cosine")
        out |= dict.fromkeys(names, nothing) | {"same": torch.zeros_like(nothing).bool()}
    else:
        generator = torch.Generator().manual_seed(seed)
        others = _derangement(len(e), generator).to(e.device)
        out |= {"cosine": cosine(u, e), "difference": ratio(norm(u - e), norm(e))}
        out |= {"shuffled_cosine": cosine(u, e[others]), "same": (u == e).all(-1)}
    known = e is not None and len(e) == len(u)
    out["embedding_norm"] = norm(e) if known and e is not None else nothing
    out["embedding_mean_cosine"] = cosine(e, e.mean(0)) if known and e is not None else nothing
    out["bias"] = torch.zeros_like(nothing) if bias is None else at_least_float32(bias)
    return out


def _derangement(n: int, generator: torch.Generator) -> Tensor:
    """A random permutation without fixed points (for n of two or more)."""
    # A token compared with itself would put cosines of 1 into the baseline.
    order = torch.randperm(n, generator=generator, device="cpu")
    out = torch.empty_like(order)
    out[order] = order.roll(1)  # one cycle through all
    return out
