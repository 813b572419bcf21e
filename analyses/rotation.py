"""Rotation of a token's vector by each block, and the turn from one block to the next."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from interp import Analysis, Batch, PerToken, Plot
from interp.geometry import angle, angle_from_products, at_least_float32, by_rows, dot, filled


class Rotation(Analysis):
    """Angle between a token's residual stream before and after each block, in degrees.

    Question: how far does a block turn a token's vector, is it attention or the MLP that turns it,
    and does the next block go on in that direction? θ_l = ∠(x_l, x_{l+1}); turning φ_l =
    ∠(Δ_l, Δ_{l+1}) with Δ_l = x_{l+1} − x_l. An angle is the atan2 of what of the step is across
    x_l and of what is along it, or, where the step is nearly along x_l, 2·atan2(‖û − v̂‖, ‖û + v̂‖)
    with û = u/‖u‖: both are exact where the arccos of a cosine is rounding.

    Caveats: the space is narrow, so that unrelated vectors are not at 90° (`random_pairs` is the
    scale). Few large components, those of first tokens above all, can make an angle; special
    tokens are left out of means. In bfloat16 and float16 small angles are rounding. The second
    form is Kahan's ("How futile are mindless assessments of roundoff", 2006).
    """

    sites: ClassVar[tuple[str, ...]] = ("resid_pre", "resid_post")
    optional: ClassVar[tuple[str, ...]] = ("resid_mid", "resid_next")
    columns: ClassVar[Mapping[str, str]] = {
        "angle": "θ_l, angle between x_l and x_{l+1}; degrees",
        "attn_angle": "angle between x_l and x_l + a_l, where a true mid stream exists; degrees",
        "mlp_angle": "angle between x_l + a_l and x_{l+1}, likewise; degrees",
        "angular_path": "Σ of the angles θ up to and with this block; degrees",
        "turning": "φ_l, angle between the steps Δ_l and Δ_{l+1}; NaN at the last block; degrees",
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "angle": (0, 180),
        "*_angle": (0, 180),
        "angular_path": (0, math.inf),
        "turning": (0, 180),
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("angle", "attn_angle", "mlp_angle"),
            "Rotation per block",
            "degrees",
            "a block that adds nothing turns by 0°; one that forgets what was there turns as far "
            "as random pairs of states are apart (analysis random_pairs).",
        ),
        Plot(
            "line",
            ("turning",),
            "Turning between successive blocks",
            "degrees",
            "steps that have nothing to do with each other are at 90° where there are many "
            "dimensions.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, PerToken]:
        given = [site for site in (*self.sites, *self.optional) if batch.get(site) is not None]
        states = {site: batch[site] for site in given}
        sums = by_rows(
            lambda *rows: _products(dict(zip(given, rows, strict=True))), *states.values()
        )
        found = {}
        for name, (start, end) in _steps(states).items():
            told = angle_from_products(*_triple(sums, name, start), step=True)
            found[name] = filled(told, angle, states[start], states[end])
        found["angular_path"] = batch.running("angular_path", found["angle"])
        found["turning"] = torch.full_like(found["angle"], torch.nan)
        if "resid_next" in states:
            told = angle_from_products(*_triple(sums, "turning", "angle part"))
            found["turning"] = filled(
                told, _turning, *(states[f"resid_{x}"] for x in ("pre", "post", "next"))
            )
        return {name: PerToken(value) for name, value in found.items()}


def _steps(states: Mapping[str, Tensor]) -> dict[str, tuple[str, str]]:
    """From where to where each angle goes."""
    steps = {
        "angle": ("resid_pre", "resid_post"),
        "attn_angle": ("resid_pre", "resid_mid"),
        "mlp_angle": ("resid_mid", "resid_post"),
    }
    return {name: step for name, step in steps.items() if set(step) <= set(states)}


def _products(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inner products of states and steps `[row, d_model]`: all that most angles need."""
    states = {site: at_least_float32(x) for site, x in states.items()}
    sums: dict[str, Tensor] = {}
    for name, (start, end) in _steps(states).items():
        step = states[end] - states[start]
        sums |= {f"{name} part": dot(step, step), f"{name} cross": dot(step, states[start])}
        if start not in sums:
            sums[start] = dot(states[start], states[start])
        if name == "angle" and "resid_next" in states:
            later = states["resid_next"] - states[end]
            sums |= {"turning part": dot(later, later), "turning cross": dot(later, step)}
    return sums


def _triple(sums: Mapping[str, Tensor], name: str, start: str) -> tuple[Tensor, Tensor, Tensor]:
    return sums[start], sums[f"{name} part"], sums[f"{name} cross"]


def _turning(before: Tensor, after: Tensor, later: Tensor) -> Tensor:
    before, after, later = (at_least_float32(x) for x in (before, after, later))
    return angle(after - before, later - after)
