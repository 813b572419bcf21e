"""Path length against prediction, with frequency and position partialled out."""

from __future__ import annotations

from typing import Any

import interp
from docs.findings_build.parts import Measured, Numbers, from_row, side, told, verdict
from docs.findings_build.sources import Sources

TITLE = "Path length and prediction, at equal position and frequency"
COVARIATES = ("position", "zipf", "next_zipf")
NAME = "spearman"


def measure(sources: Sources) -> Measured:
    """Rank correlation of the path with the log-probability of the next token."""
    found = interp.experiments.path_prediction(
        sources.results, outcomes=["log_prob"], partial=COVARIATES
    )
    plain, partial = NAME, f"partial_{NAME}"
    numbers = {
        "tokens": int(found.frame["n"].max()),
        "prompts": int(found.frame["prompts"].max()),
        "plain": _coefficient(found, plain),
        "partial": _coefficient(found, partial),
        "untrained": _coefficient(found.control, partial),
    }
    return Measured(numbers, {"prediction": found.plot(partial)})


def _coefficient(found: Any, name: str) -> dict[str, Any]:
    """A coefficient over all blocks, with its interval and where shuffles fall."""
    row = found.frame.iloc[-1]
    null = {f"null_{end}": float(row[f"{name}_shuffled_{end}"]) for end in ("low", "high")}
    return from_row(row, name) | null | {"p": float(row[f"{name}_shuffled_p"])}


def tell(n: Numbers) -> str:
    """The section, from its numbers."""
    plain, partial = n["plain"], n["partial"]
    worth = {
        "above": "Tokens that travel far predict the next token better",
        "below": "Tokens that travel far predict the next token worse",
        "open": "Whether tokens that travel far predict the next token better or worse cannot be "
        "decided",
    }
    inside = partial["null_low"] <= partial["mean"] <= partial["null_high"]
    if side(partial) == side(plain):
        change = "The covariates do not change that"
    else:
        change = "The covariates change that"
    return (
        f"Spearman correlation of the path over all blocks with the log-probability of the token "
        f"that comes next, over {n['tokens']} tokens of {n['prompts']} sentences: "
        f"{told(plain, '+.2f')}. With position, the frequency of the token's word and that of the "
        f"next one (Zipf scale) partialled out it is {told(partial, '+.2f')}; outcomes shuffled "
        f"within sentences give {partial['null_low']:+.2f} to {partial['null_high']:+.2f} "
        f"(p = {partial['p']:.2g}). Untrained copy, partialled out: "
        f"{told(n['untrained'], '+.2f')}.\n\n"
        f"{worth[side(partial)]}, at equal position and frequency"
        f"{', though no more than with shuffled outcomes' if inside else ''}. {change}.\n\n"
        + verdict("Nothing to compare with.", "the question, but no figure that we know of.")
    )
