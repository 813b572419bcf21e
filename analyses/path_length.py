"""Length of each token's path through the blocks, and the share of each term in each step."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from interp import Analysis, Batch, Leaf, PerToken, Plot
from interp.geometry import across, at_least_float32, by_rows, dot, filled, ratio, turn


class PathLength(Analysis):
    """Steps, path, chord and tortuosity of a token's way, with the share of every term.

    Question: how far does a token's vector travel, how straight, and who makes the step? Step
    s_l = ‖Δ_l‖ with Δ_l = x_{l+1} − x_l; path P = Σ s_l; chord ‖x_{l+1} − x_0‖; tortuosity
    P/chord, at least 1. Where Δ_l is the sum of named terms (attention and MLP), each has a share
    (a·Δ)/‖Δ‖²; the shares sum to 1, and one below 0 works against the step.

    Caveats: the norm of the stream grows with depth in most models, so late blocks dominate P:
    read `relative_step` beside it. Tortuosity grows with the number of blocks; a random walk of n
    equal steps in many dimensions has √n. Shares are given only where the terms close the step
    (`closing_error`, Elhage et al. 2021 for the decomposition): of a token whose stream a hook
    changed in the block they are NaN, and a note names the block.
    """

    sites: ClassVar[tuple[str, ...]] = ("resid_pre", "resid_post", "resid_initial")
    optional: ClassVar[tuple[str, ...]] = ("terms",)
    columns: ClassVar[Mapping[str, str]] = {
        "norm": "‖x_l‖; activation units",
        "norm_after": "‖x_{l+1}‖; activation units",
        "step": "‖Δ_l‖ = ‖x_{l+1} − x_l‖; activation units",
        "relative_step": "‖Δ_l‖ / ‖x_l‖; ratio",
        "path": "Σ of the steps up to and with this block; activation units",
        "chord": "‖x_{l+1} − x_0‖; activation units",
        "tortuosity": "path / chord, at least 1; ratio",
        "attn_share": "(a_l·Δ_l)/‖Δ_l‖², the shares of all terms sum to 1; NaN where the terms do "
        "not close the step; ratio",
        "mlp_share": "(m_l·Δ_l)/‖Δ_l‖²; ratio",
        "attn_norm": "‖a_l‖; activation units",
        "mlp_norm": "‖m_l‖; activation units",
        "attn_mlp_cos": "cosine between a_l and m_l: do they work together or cancel?",
        "closing_error": "‖x_l + Σ terms − x_{l+1}‖ / ‖x_{l+1}‖; ratio",
        "*_share": "as attn_share, for a term of another name; ratio",
        "*_norm": "as attn_norm, for a term of another name; activation units",
        "*_stretch": "part of a term along x_l, signed: (a_l·x_l)/‖x_l‖; activation units",
        "*_turn": "length of a term across x_l: ‖a_l − (a_l·x̂_l) x̂_l‖; activation units",
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "norm*": (0, math.inf),
        "*_norm": (0, math.inf),
        "*step": (0, math.inf),
        "path": (0, math.inf),
        "chord": (0, math.inf),
        "tortuosity": (1, math.inf),
        "attn_mlp_cos": (-1, 1),
        "closing_error": (0, math.inf),
        "*_turn": (0, math.inf),
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("path", "chord"),
            "Path and chord",
            "activation units",
            "on a straight way path and chord are the same line; on a random walk they part.",
        ),
        Plot(
            "line",
            ("attn_share", "mlp_share"),
            "Who makes the step",
            "share of the step",
            "two terms of equal part are both at 0.5; below 0 a term works against the step.",
        ),
        Plot(
            "line",
            ("norm",),
            "Norm of the stream",
            "activation units",
            "blocks that only turn a vector leave its norm flat.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, PerToken | Leaf]:
        terms = batch.terms
        sums = by_rows(
            lambda before, after, first, *rows: _products(
                before, after, first, dict(zip(terms, rows, strict=True))
            ),
            *(batch[site] for site in self.sites),
            *terms.values(),
        )
        length, step = sums["before"].sqrt(), sums["step"].sqrt()
        values = {
            "norm": length,
            "norm_after": sums["after"].sqrt(),
            "step": step,
            "relative_step": ratio(step, length),
            "path": batch.running("path", step),
            "chord": sums["chord"].sqrt(),
        }
        values["tortuosity"] = ratio(values["path"], values["chord"])
        values |= _terms(sums, terms, batch["resid_pre"])
        told: dict[str, Leaf] = {}
        if terms:
            wrong, told = batch.open_steps(values["closing_error"])
            for name in terms:
                values[f"{name}_share"] = values[f"{name}_share"].masked_fill(wrong, torch.nan)
        return {name: PerToken(value) for name, value in values.items()} | told


def _products(
    before: Tensor, after: Tensor, first: Tensor, terms: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Inner products of vectors `[row, d_model]`; the first state is where the way began."""
    before, after, first = (at_least_float32(x) for x in (before, after, first))
    step, chord = after - before, after - first
    sums = {"before": before, "after": after, "step": step, "chord": chord}
    sums = {name: dot(x, x) for name, x in sums.items()}
    for name, x in terms.items():
        term = at_least_float32(x)
        sums[f"{name} square"] = dot(term, term)
        sums[f"{name} before"], sums[f"{name} step"] = dot(term, before), dot(term, step)
    if {"attn", "mlp"} <= set(terms):
        sums["attn mlp"] = dot(terms["attn"], terms["mlp"])
    if terms:
        rest = sum(terms.values(), start=-step)
        sums["rest"] = dot(rest, rest)
    return sums


def _terms(
    sums: Mapping[str, Tensor], terms: Mapping[str, Tensor], before: Tensor
) -> dict[str, Tensor]:
    """Contribution of each term to the step, along the state and across it."""
    values = {}
    for name, term in terms.items():
        square, along = sums[f"{name} square"], sums[f"{name} before"]
        values[f"{name}_share"] = ratio(sums[f"{name} step"], sums["step"])
        values[f"{name}_norm"] = square.sqrt()
        values[f"{name}_stretch"] = ratio(along, sums["before"].sqrt())
        told = across(sums["before"], square, along)
        values[f"{name}_turn"] = filled(told, turn, term, before)
    if {"attn", "mlp"} <= set(terms):
        lengths = values["attn_norm"] * values["mlp_norm"]
        values["attn_mlp_cos"] = ratio(sums["attn mlp"], lengths).clamp(-1, 1)
    if terms:
        values["closing_error"] = ratio(sums["rest"].sqrt(), sums["after"].sqrt())
    return values
