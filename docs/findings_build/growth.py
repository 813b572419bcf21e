"""Growth of the norm of the stream with depth."""

from __future__ import annotations

from typing import Any

import numpy as np

import interp
from docs.findings_build.parts import Measured, Numbers, clustered, side, told, verdict
from docs.findings_build.sources import Sources
from interp.stats.table import less_control

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
        "over_untrained": _over(ordinary, found.control.frame),
        "after_block_0": _later(sources.results["path_length"].frame),
        "r2": clustered(ordinary["r2"], ordinary["prompt"]),
    }
    return Measured(numbers, {"growth": sources.results["path_length"].plot("norm")})


def _mean(found: Any, value: str) -> dict[str, float]:
    row = found.mean[found.mean["value"] == value].iloc[0]
    return {name: float(row[name]) for name in ("mean", "low", "high")} | {"n": int(row["n"])}


def _over(ordinary: Any, copy: Any) -> dict[str, float]:
    """The factor minus that of the same token in the untrained copy."""
    less = less_control(ordinary, copy, ["factor"])
    assert less is not None  # noqa: S101  both read the same prompts
    return clustered(less["factor"], less["prompt"])


def _later(frame: Any) -> dict[str, float]:
    """Factor per block from state 1 on: the first block lifts a short embedding far."""
    frame = frame[~frame["special"].astype(bool)]
    wide = frame.pivot_table(index=["prompt", "position"], columns="layer", values="norm_after")
    y = np.log(wide.to_numpy(np.float64))
    x = np.arange(y.shape[1]) - (y.shape[1] - 1) / 2
    slope = clustered((y - y.mean(axis=1, keepdims=True)) @ x / (x @ x), _prompts(wide))
    return {name: float(np.exp(slope[name])) for name in ("mean", "low", "high")}


def _prompts(wide: Any) -> Any:
    return wide.index.get_level_values("prompt")


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
        f"of its variance within a token. From the state after block 0 on, the factor is "
        f"×{told(n['after_block_0'], '.4f')}. {_untrained(n)}\n\n"
        + verdict(holds, f"×{p['factor']} per layer ({p['source']}).")
    )


def _untrained(n: Numbers) -> str:
    """The same on the untrained copy, and which of the two grows faster, token by token."""
    u, over = n["untrained"], n["over_untrained"]
    there = {
        "above": "it grows there as well",
        "below": "it shrinks there",
        "open": "it neither grows nor shrinks there",
    }[side(u, 1)]
    learned = {
        "above": "The trained model grows faster than that",
        "below": "The trained model grows more slowly than that",
        "open": "The trained model does not detectably grow faster or more slowly than that",
    }[side(over)]
    return (
        f"In the untrained copy, over all states, the factor is ×{told(u, '.4f')}: {there}. "
        f"{learned} (difference of the factors, paired by token: {told(over, '+.4f')})."
    )
