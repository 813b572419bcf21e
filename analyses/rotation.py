"""How far each block turns a token's vector, and whether the next block goes on that way."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from interp import Analysis, Batch, PerToken, Plot
from interp.geometry import at_least_float32, by_rows, unit, unit_angle


class Rotation(Analysis):
    """Angle between a token's residual stream before and after each block, in degrees.

    Question: how far does a block turn a token's vector, is it attention or the MLP that turns it,
    and does the next block go on in that direction? θ(u, v) = 2·atan2(‖û − v̂‖, ‖û + v̂‖) with
    û = u/‖u‖: the half-angle form, exact where the arccos of a cosine is rounding. θ_l =
    ∠(x_l, x_{l+1}); turning φ_l = ∠(Δ_l, Δ_{l+1}) with Δ_l = x_{l+1} − x_l.

    Caveats: the space is narrow, so that unrelated vectors are not at 90° (`random_pairs` is the
    scale). Few large components, those of first tokens above all, can make an angle; special
    tokens are left out of means. In bfloat16 and float16 small angles are rounding. The formula
    is Kahan's ("How futile are mindless assessments of roundoff", 2006).
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
        found = by_rows(
            lambda *states: _angles(dict(zip(given, states, strict=True))),
            *(batch[site] for site in given),
        )
        found["angular_path"] = batch.running("angular_path", found["angle"])
        found.setdefault("turning", torch.full_like(found["angle"], torch.nan))
        return {name: PerToken(value) for name, value in found.items()}


def _angles(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Angles between states `[row, d_model]` by site; each state is normalised once."""
    units = {site: unit(x) for site, x in states.items() if site != "resid_next"}
    before, after, mid = units["resid_pre"], units["resid_post"], units.get("resid_mid")
    found = {"angle": unit_angle(before, after)}
    if mid is not None:
        found["attn_angle"], found["mlp_angle"] = unit_angle(before, mid), unit_angle(mid, after)
    if "resid_next" in states:
        x, y, z = (at_least_float32(states[f"resid_{n}"]) for n in ("pre", "post", "next"))
        found["turning"] = unit_angle(unit(y - x), unit(z - y))
    return found
