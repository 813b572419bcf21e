"""Growth of the norm of the stream with depth."""

from __future__ import annotations

from typing import Any

import numpy as np

import interp
from docs.findings_build.parts import Measured, Numbers, clustered, side, told, verdict
from docs.findings_build.sources import Sources

TITLE = "The norm of the stream grows with depth"
PUBLISHED = {
    "factor": 1.045,
    "source": "Heimersheim & Turner, *Residual stream norms grow exponentially over the forward "
    "pass*, for GPT-2 XL",
}


def measure(sources: Sources) -> Measured:
    """Factor per layer, its control, and how straight the line of the logarithm is."""
    found = interp.experiments.growth_rate(sources.results)
    ordinary = found.frame[~found.frame["special"].astype(bool)]
    numbers = {
        "published": PUBLISHED,
        "factor": _mean(found, "factor"),
        "orthogonal": {
            k: float(np.exp(v)) for k, v in _mean(found, "orthogonal_growth").items() if k != "n"
        },
        "untrained": _mean(found.control, "factor"),
        "r2": clustered(ordinary["r2"], ordinary["prompt"]),
    }
    return Measured(numbers, {"growth": sources.results["path_length"].plot("norm")})


def _mean(found: Any, value: str) -> dict[str, float]:
    row = found.mean[found.mean["value"] == value].iloc[0]
    return {name: float(row[name]) for name in ("mean", "low", "high", "n")}


def tell(n: Numbers) -> str:
    """The section, from its numbers."""
    f, o, p = n["factor"], n["orthogonal"], n["published"]
    direction = {
        "above": "grows",
        "below": "shrinks",
        "open": "neither grows nor shrinks beyond the interval",
    }[side(f, 1)]
    steps = {
        "above": "more than steps at right angles to the stream would give, so the steps go along "
        "it",
        "below": "less than steps at right angles to the stream would give, so the steps go partly "
        "against it",
        "open": "what steps at right angles to the stream would give",
    }[side(f, o["mean"])]
    holds = {
        "above": "Holds in kind: the norm grows, faster than published for the larger model.",
        "below": "Holds in kind: the norm grows, more slowly than published for the larger model.",
        "open": "Holds: the published factor lies inside the interval.",
    }[side(f, p["factor"])]
    if side(f, 1) != "above":
        holds = "Does not hold at 135 M parameters."
    return (
        f"The norm {direction}: ×{told(f, '.4f')} per block ({f['n']} ordinary tokens), {steps} "
        f"(×{told(o, '.4f')}). A straight line of ln‖x‖ over depth explains {told(n['r2'], '.2f')} "
        f"of its variance within a token. Untrained copy: ×{told(n['untrained'], '.4f')}.\n\n"
        + verdict(holds, f"×{p['factor']} per layer ({p['source']}).")
    )
