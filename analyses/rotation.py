"""How far each block turns a token's vector, and whether the next block goes on that way."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from interp import Analysis, Batch, PerToken, Plot
from interp.geometry import angle, at_least_float32


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
        before = at_least_float32(batch["resid_pre"])
        after = at_least_float32(batch["resid_post"])
        turned = angle(before, after)
        out = {
            "angle": PerToken(turned),
            "angular_path": PerToken(batch.running("angular_path", turned)),
        }
        mid, following = batch.get("resid_mid"), batch.get("resid_next")
        if mid is not None:
            out["attn_angle"] = PerToken(angle(before, mid))
            out["mlp_angle"] = PerToken(angle(mid, after))
        if following is not None:
            out["turning"] = PerToken(angle(after - before, following - after))
        else:
            out["turning"] = PerToken(torch.full_like(turned, torch.nan))
        return out
