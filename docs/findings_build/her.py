"""The "her" experiment: does a pronoun's vector turn further than the verb's before it?"""

from __future__ import annotations

import math
from typing import Any

import interp
from docs.findings_build.parts import (
    SIGNIFICANT,
    Measured,
    Numbers,
    blocks_of,
    clustered,
    counted,
    from_row,
    side,
    told,
    verdict,
)
from docs.findings_build.sources import Sources
from interp.stats.means import means

TITLE = "A pronoun and the verb before it: rotation per block"
PUBLISHED = {
    "model": "GPT-2 XL",
    "sentences": 54,
    "blocks": 48,
    "first": 90,
    "middle": 10,
    "from": 30,
    "target": 15,
    "previous": 10,
    "random_low": 70,
    "random_high": 80,
    "source": "M. X Cohen, *A deep understanding of AI language model mechanisms*, part 5",
}


def measure(sources: Sources) -> Measured:
    """Angles of all tokens, of "her" and of the token before it, and of random pairs."""
    rotation, pairs = sources.results["rotation"], sources.results["random_pairs"]
    found = interp.compare(rotation, "angle", "role", "target", "previous")
    untrained = interp.compare(rotation.control, "angle", "role", "target", "previous")
    numbers = {
        "published": PUBLISHED,
        "sentences": int(rotation.frame["prompt"].nunique()),
        "blocks": len(found.frame),
        "tokens": _tokens(rotation.frame),
        "untrained_tokens": _tokens(rotation.control.frame),
        "random": _random(pairs.frame),
        "untrained_random": _random(pairs.control.frame),
        **_differences(found),
        "untrained": _differences(untrained),
    }
    return Measured(numbers, {"her": found.plot(pairs=pairs)})


def _tokens(frame: Any) -> dict[str, Any]:
    """Angles of all ordinary tokens in the first block, the middle half and the last block."""
    frame = frame[~frame["special"].astype(bool)]
    wide = frame.pivot_table(index=["prompt", "position"], columns="layer", values="angle")
    blocks, prompts = wide.shape[1], wide.index.get_level_values("prompt")
    start, end = blocks // 4, 3 * blocks // 4
    first, last = wide[0], wide[blocks - 1]
    middle = wide[list(range(start, end))].mean(axis=1)
    between = wide[list(range(2, blocks - 1))].mean(axis=0)
    angles = {"first": first, "middle": middle, "last": last}
    angles |= {"first_more": first - middle, "last_more": last - middle}
    return {name: clustered(values, prompts) for name, values in angles.items()} | {
        "middle_from": start,
        "middle_to": end - 1,
        "largest_between": float(between.max()),
        "largest_between_block": int(between.idxmax()),
    }


def _random(frame: Any) -> dict[str, float]:
    row = means(frame[frame["kind"] == "any layers"], ["angle"], None).iloc[0]
    return {name: float(row[name]) for name in ("mean", "low", "high")} | {"n": int(row["n"])}


def _differences(found: Any) -> dict[str, Any]:
    """The blocks in which the two differ, and the largest difference."""
    frame = found.frame
    more = found.differs & (frame[found.contrast] > 0)
    less = found.differs & (frame[found.contrast] < 0)
    late = frame["layer"] >= math.ceil(PUBLISHED["from"] / PUBLISHED["blocks"] * len(frame))
    top = frame.loc[frame[found.effect].abs().idxmax()]
    runs = found.layer_runs
    runs = runs[runs["p"] < SIGNIFICANT]
    return {
        "more": frame.loc[more, "layer"].tolist(),
        "less": frame.loc[less, "layer"].tolist(),
        "more_count": int(more.sum()),
        "less_count": int(less.sum()),
        "late_from": int(frame.loc[late, "layer"].min()),
        "late": int(late.sum()),
        "late_more": int((more & late).sum()),
        "late_less": int((less & late).sum()),
        "top": from_row(top, found.contrast)
        | {"block": int(top["layer"]), "g": float(top[found.effect])}
        | {"target": float(top["mean_a"]), "previous": float(top["mean_b"])}
        | {"p": float(top[found.family_p])},
        "runs": [
            {"first": int(r.first), "last": int(r.last), "p": float(r.p), "more": bool(r.mass > 0)}
            for r in runs.itertuples()
        ],
    }


# ---- words -------------------------------------------------------------------------------------


def tell(n: Numbers) -> str:
    """The section, from its numbers."""
    return "\n\n".join([_about(n), _levels(n), _random_pairs(n), _pronoun(n)])


def _about(n: Numbers) -> str:
    p = n["published"]
    return (
        f"{n['sentences']} sentences with *her* right after a verb; the angle between a token's "
        f"state before and after each of the {n['blocks']} blocks. {p['source']}, does it with "
        f"{p['sentences']} sentences and {p['model']} ({p['blocks']} blocks)."
    )


def _levels(n: Numbers) -> str:
    t, u, p = n["tokens"], n["untrained_tokens"], n["published"]
    first, last = side(t["first_more"]), side(t["last_more"])
    said = {
        "above": "turns a token further than the blocks in the middle do",
        "below": "turns a token less than the blocks in the middle do",
        "open": "turns a token about as far as the blocks in the middle do",
    }
    holds = {
        (True, True): "Holds.",
        (True, False): "Holds for the first block, not for the last.",
        (False, True): "Holds for the last block, not for the first.",
        (False, False): "Does not hold at 135 M parameters.",
    }[first == "above", last == "above"]
    return (
        f"Over all ordinary tokens, block 0 turns the state by {told(t['first'], unit='°')}, "
        f"blocks {t['middle_from']} to {t['middle_to']} by {told(t['middle'], unit='°')} each, "
        f"the last block by {told(t['last'], unit='°')}. So the first block {said[first]} "
        f"(difference {told(t['first_more'], '+.1f', '°')}), and the last {said[last]} "
        f"({told(t['last_more'], '+.1f', '°')}). Between block 1 and the last one, the largest "
        f"mean is {t['largest_between']:.1f}°, in block {t['largest_between_block']}. In the "
        f"untrained copy the three are {told(u['first'], unit='°')}, "
        f"{told(u['middle'], unit='°')} and {told(u['last'], unit='°')}{_learned(t, u)}.\n\n"
        + verdict(
            holds,
            f"near {p['first']}° in the first block, about {p['middle']}° in the middle, a burst "
            "in the last.",
        )
    )


def _learned(t: Numbers, u: Numbers) -> str:
    """Which of the two bursts the untrained copy has as well."""
    places = {"first_more": "first", "last_more": "last"}
    there = {k: v for k, v in places.items() if side(t[k]) == "above"}
    same = [v for k, v in there.items() if side(u[k]) == "above"]
    own = [v for v in there.values() if v not in same]
    parts = [f"the large turn of the {v} block is there as well" for v in same]
    parts += [f"that of the {v} block is not" for v in own]
    return f"; {' and '.join(parts)}" if parts else ""


def _random_pairs(n: Numbers) -> str:
    r, u, p = n["random"], n["untrained_random"], n["published"]
    if side(r, p["random_low"]) == "below":
        holds = "Does not hold at 135 M parameters: the states are narrower."
    elif side(r, p["random_high"]) == "above":
        holds = "Does not hold at 135 M parameters: the states are wider."
    else:
        holds = "Holds."
    space = {
        "below": "below the 90° of a space without preferred directions",
        "above": "above the 90° of a space without preferred directions",
        "open": "not to be told from the 90° of a space without preferred directions",
    }[side(r, 90)]
    return (
        f"Two random states of different tokens, from any two blocks, are {told(r, unit='°')} "
        f"apart, {space} ({r['n']} pairs; untrained copy: {told(u, unit='°')}). Every angle of "
        "this section is to be read against that.\n\n"
        + verdict(holds, f"{p['random_low']} to {p['random_high']}° in {p['model']}.")
    )


def _pronoun(n: Numbers) -> str:
    top, u, p = n["top"], n["untrained"], n["published"]
    runs = "; ".join(map(_run, n["runs"]))
    return (
        f"*her* turns further than the token before it in {blocks_of(n['more'])}, and less far in "
        f"{blocks_of(n['less'])} (permutation within sentences, maximum statistic over the blocks, "
        f"p < {SIGNIFICANT}). Runs of neighbouring blocks that differ: {runs or 'none'}. The "
        f"largest effect is in block {top['block']}: {top['target']:.1f}° against "
        f"{top['previous']:.1f}°, a difference of {told(top, '+.1f', '°')} "
        f"(interval of this block alone; g = {top['g']:+.2f}; over all blocks p = "
        f"{top['p']:.2g}). In the untrained copy *her* turns further in "
        f"{counted(u['more_count'], 'block')} and less far in "
        f"{counted(u['less_count'], 'block')}; its largest effect is "
        f"{told(u['top'], '+.2f', '°')} (g = {u['top']['g']:+.2f}).\n\n"
        + verdict(
            _late(n),
            f"from block {p['from']} of {p['blocks']} on, about {p['target']}° for *her* and "
            f"{p['previous']}° for the verb; at the same relative depth, block "
            f"{n['late_from']} here.",
        )
    )


def _run(r: Numbers) -> str:
    where = f"block {r['first']}"
    if r["last"] > r["first"]:
        where = f"blocks {r['first']} to {r['last']}"
    return f"{where}, {'further' if r['more'] else 'less far'}, p = {r['p']:.2g}"


def _late(n: Numbers) -> str:
    late, more, less = n["late"], n["late_more"], n["late_less"]
    if more == late:
        return f"Holds: *her* turns further in all of the last {late} blocks."
    if not more:
        return (
            f"Does not hold at 135 M parameters: *her* turns further in none of the last {late} "
            f"blocks, and less far in {less}."
        )
    return (
        f"Holds in part: of the last {late} blocks, *her* turns further in {more} and less far in "
        f"{less}; in the others the two cannot be told apart."
    )
