"""One word, two senses: "apple" the fruit and the company, through the blocks."""

from __future__ import annotations

from typing import Any

import interp
from docs.findings_build.parts import SIGNIFICANT, Measured, Numbers, counted, verdict
from docs.findings_build.sentences import COMPANY, FRUIT
from docs.findings_build.sources import Sources

TITLE = "*apple* the fruit and the company"
PUBLISHED = {
    "source": "Ethayarajh 2019 (1909.00512), for BERT, ELMo and GPT-2: vectors of one word are "
    "more specific to their context in upper layers"
}


def measure(sources: Sources) -> Measured:
    """Cosines of *apple* within and between senses, against shuffled senses."""
    labels = {"sense": ["fruit"] * len(FRUIT) + ["company"] * len(COMPANY)}
    found = interp.experiments.contextual_drift(
        sources.bridge, [*FRUIT, *COMPANY], "apple", labels=labels, control="random-init"
    )
    numbers = {
        "published": PUBLISHED,
        "fruit": len(FRUIT),
        "company": len(COMPANY),
        "last": int(found.frame["layer"].max()),
        "start": _at(found.frame.iloc[0]),
        "middle_state": len(found.frame) // 2,
        "middle": _at(found.frame.iloc[len(found.frame) // 2]),
        "end": _at(found.frame.iloc[-1]),
        **_apart(found.frame),
        "untrained": _apart(found.control.frame),
    }
    return Measured(numbers, {"apple": found.plot()})


def _at(row: Any) -> dict[str, float]:
    names = ("within", "between", "difference", "random", "null_mean", "null_sd", "p_max")
    return {name: float(row[name]) for name in names}


def _apart(frame: Any) -> dict[str, Any]:
    """The states at which senses differ, and the one with the largest difference."""
    apart = frame.loc[frame["p_max"] < SIGNIFICANT, "layer"].tolist()
    top = frame.loc[frame["difference"].idxmax()]
    found = {"apart_count": len(apart), "states": len(frame), "first": min(apart, default=None)}
    return found | {"top": _at(top) | {"state": int(top["layer"])}}


def tell(n: Numbers) -> str:
    """The section, from its numbers."""
    top, end, u = n["top"], n["end"], n["untrained"]
    where = (
        f"The senses differ at {n['apart_count']} of {n['states']} states, first at state "
        f"{n['first']} (p < {SIGNIFICANT}, senses shuffled among sentences, maximum over the "
        f"states)"
        if n["apart_count"]
        else "The senses differ at no state"
    )
    return (
        f"{n['fruit']} sentences about the fruit and {n['company']} about the company, all in "
        f"small letters, so that the token is the same. {where}. The difference between the cosine "
        f"within a sense and between senses is largest at state {top['state']}: "
        f"{top['within']:.3f} against {top['between']:.3f}, {top['difference']:+.3f} (shuffled "
        f"senses: {top['null_mean']:+.4f}, standard deviation {top['null_sd']:.4f}; "
        f"p = {top['p_max']:.2g}; *apple* with random other tokens: {top['random']:.3f}). In the "
        f"untrained copy they differ at {counted(u['apart_count'], 'state')}; its largest "
        f"difference is {u['top']['difference']:+.4f}.\n\n"
        f"The cosine of two occurrences of the same sense is {n['start']['within']:.3f} at "
        f"state 0, {n['middle']['within']:.3f} at state {n['middle_state']} and "
        f"{end['within']:.3f} at state {n['last']}.\n\n"
        + verdict(_holds(n), f"{n['published']['source']}.")
    )


def _holds(n: Numbers) -> str:
    if not n["apart_count"]:
        return "Does not hold at 135 M parameters: the context does not tell the senses apart."
    more = n["top"]["difference"] > n["untrained"]["top"]["difference"]
    if not more:
        return "Does not hold beyond the untrained copy, which tells the senses apart as well."
    if n["end"]["within"] < n["middle"]["within"]:
        also = "Holds: occurrences of one sense grow less alike from the middle to the end, and the"
    else:
        also = "Does not hold: occurrences do not grow less alike towards the end. But the"
    return f"{also} context tells the senses apart, more than in the untrained copy."
