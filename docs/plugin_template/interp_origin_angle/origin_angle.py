"""Angle between the first and every later state of a token."""

import interp
from interp.geometry import angle


class OriginAngle(interp.Analysis):
    """Angle between a token's first state x_0 and its state after each block, in degrees.

    The first state is the embedding (with the position, where the model adds it there). Undefined
    (NaN) if either state is the zero vector.
    """

    sites = ("resid_initial", "resid_post")
    columns = {"origin_angle": "angle between x_0 and x_{l+1}; degrees"}  # noqa: RUF012
    ranges = {"origin_angle": (0, 180)}  # noqa: RUF012
    plots = (interp.Plot("line", ("origin_angle",), "Angle to the first state", "degrees"),)

    def observe(self, batch: interp.Batch) -> dict[str, interp.PerToken]:
        """One angle per token: `[batch, pos]`."""
        turned = angle(batch["resid_initial"], batch["resid_post"])
        return {"origin_angle": interp.PerToken(turned)}
