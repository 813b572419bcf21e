"""Depth at which the logit lens has the final prediction."""

from __future__ import annotations

from typing import Any

import interp
from docs.findings_build.parts import Measured, Numbers, clustered, side, told, verdict
from docs.findings_build.sources import Sources

TITLE = "When is a prediction decided? The logit lens"
SENTENCES = 32  # of the sentences with "her": a lens over the whole vocabulary is the dearest run
PUBLISHED = {
    "source": "nostalgebraist, *interpreting GPT: the logit lens* (2020), for GPT-2; Belrose et "
    "al. 2303.08112 report models on which the plain lens fails"
}


def measure(sources: Sources) -> Measured:
    """Decision depth, its share at the last state, and the same in the untrained copy."""
    texts = interp.read_prompts("her", sources.bridge.tokenizer).texts[:SENTENCES]
    results = interp.run(
        sources.bridge, list(texts), "logit_lens", control="random-init", progress=False
    )
    found = interp.experiments.decision_depth(results)
    numbers = {
        "published": PUBLISHED,
        "sentences": SENTENCES,
        "last": found.last,
        **_shares(found),
        "untrained": _shares(found.control),
        "late_more": _later(found),
        "first_third": _decided_by(found, found.last // 3),
        "two_thirds": _decided_by(found, 2 * found.last // 3),
        "state_third": found.last // 3,
        "state_two_thirds": 2 * found.last // 3,
    }
    return Measured(numbers, {"depth": found.plot()})


def _ordinary(found: Any) -> Any:
    return found.frame[~found.frame["special"].astype(bool)]


def _shares(found: Any) -> dict[str, Any]:
    rows = _ordinary(found)
    late = clustered(rows["relative_depth"] == 1, rows["prompt"])
    return {"median": found.median, "tokens": found.tokens, "late": late}


def _later(found: Any) -> dict[str, float]:
    """Share decided at the last state only, minus that of the untrained copy, over positions."""
    keys = ["prompt", "position"]
    both = _ordinary(found).merge(_ordinary(found.control), on=keys, suffixes=("", "_untrained"))
    late = (both["relative_depth"] == 1).astype(float)
    return clustered(late - (both["relative_depth_untrained"] == 1), both["prompt"])


def _decided_by(found: Any, state: int) -> dict[str, float]:
    rows = _ordinary(found)
    return clustered(rows["decision_depth"] <= state, rows["prompt"])


def tell(n: Numbers) -> str:
    """The section, from its numbers."""
    holds = {
        "above": "Does not hold at 135 M parameters: most predictions are decided by the last "
        "state only.",
        "below": "Holds in kind: most predictions are decided before the last state.",
        "open": "Cannot be decided: about half of the predictions are decided only at the last "
        "state.",
    }[side(n["late"], 0.5)]
    control = {
        "above": "later than in the untrained copy",
        "below": "earlier than in the untrained copy",
        "open": "neither earlier nor later than in the untrained copy, as far as can be told",
    }[side(n["late_more"])]
    return (
        f"A prediction is decided at the first state from which the most probable next token stays "
        f"the final one. Of {n['tokens']} positions in {n['sentences']} sentences, a share of "
        f"{told(n['late'], '.2f')} is decided only at the last state (state {n['last']}). At state "
        f"{n['state_third']} a share of {told(n['first_third'], '.2f')} is decided, at state "
        f"{n['state_two_thirds']} {told(n['two_thirds'], '.2f')}; the median is state "
        f"{n['median']:.0f}. In the untrained copy {told(n['untrained']['late'], '.2f')} are "
        f"decided only at the last state: predictions are decided {control} (difference in the "
        f"share: {told(n['late_more'], '+.2f')}).\n\n"
        + verdict(
            holds,
            "final predictions form over the blocks, many long before the last one "
            f"({n['published']['source']}).",
        )
    )
