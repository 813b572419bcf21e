"""Massive activations: a few numbers of a few tokens that dwarf all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import interp
from docs.findings_build.parts import (
    Measured,
    Numbers,
    blocks_of,
    clustered,
    counted,
    listed,
    told,
    verdict,
)
from docs.findings_build.sources import Sources
from interp.geometry import at_least_float32, ratio
from interp.prompts import Prompts

TITLE = "Massive activations: which dimensions, which tokens"
PUBLISHED = {
    "larger_than": 100,
    "times": 1000,
    "up_to": 100_000,
    "dimensions": 2,
    "source": "Sun et al. 2402.17762",
}
DELIMITERS = (".", ",", ";", ":", "!", "?")


@dataclass(frozen=True)
class Largest(interp.Analysis):
    """Largest component of a token's state after each block, against the median of its prompt.

    A state is massive by the criterion of Sun et al. 2402.17762: its largest component exceeds 100
    and is 1,000 times the median or more, over all components of all tokens of the prompt.
    """

    sites: ClassVar[tuple[str, ...]] = ("resid_post",)
    columns: ClassVar[Mapping[str, str]] = {
        "largest": "max |x_i|; activation units",
        "median": "median |x_i| over the tokens of the prompt; activation units",
        "decades": "log10 of max |x_i| / median |x_i|",
        "dimension": "number of the largest component",
        "exceeds": "1 if massive, else 0",
    }
    plots: ClassVar[tuple[interp.Plot, ...]] = (
        interp.Plot(
            "line",
            ("decades",),
            "Largest component against the median one",
            "log10 of the ratio",
            "all groups of tokens would have the ratio of the untrained copy.",
        ),
    )

    def observe(self, batch: interp.Batch) -> dict[str, interp.PerToken]:
        size = at_least_float32(batch["resid_post"]).abs()
        largest, dimension = size.max(dim=-1)
        median = medians(size, batch.mask).expand_as(largest)
        # The logarithm of a state of zeros is not defined.
        decades = ratio(largest, median).log10()
        exceeds = (largest > PUBLISHED["larger_than"]) & (largest >= PUBLISHED["times"] * median)
        values = {
            "largest": largest,
            "median": median,
            "decades": decades.where(largest > 0, torch.nan),
            "dimension": dimension.to(largest.dtype),
            "exceeds": exceeds.to(largest.dtype),
        }
        return {name: interp.PerToken(value) for name, value in values.items()}


def medians(size: Tensor, mask: Tensor) -> Tensor:
    """Median over real tokens and components: `[batch, pos, d], [batch, pos] -> [batch, 1]`."""
    rows = [each[keep].flatten() for each, keep in zip(size, mask, strict=True)]
    nan = size.new_tensor(float("nan"))
    return torch.stack([x.median() if len(x) else nan for x in rows])[:, None]


def place(prompts: Prompts) -> Prompts:
    """Labels tokens by their place: first token, delimiter, or other."""
    index = prompts.index()
    delimiter = index["token"].str.strip().isin(DELIMITERS)
    name = np.where(index["position"] == 0, "first", np.where(delimiter, "delimiter", "other"))
    cuts = np.cumsum(prompts.lengths)[:-1]
    return prompts.with_labels("place", np.split(name.astype(object), cuts))


def measure(sources: Sources) -> Measured:
    """Share of massive states by place, without and with BOS, and the dimensions."""
    run = {"labellers": [place], "progress": False}
    without = interp.run(
        sources.bridge, "her", Largest(), prepend_bos=False, control="random-init", **run
    )
    result = without["largest"]
    frame = result.frame
    after_bos = interp.run(sources.bridge, "her", Largest(), prepend_bos=True, **run)["largest"]
    numbers = {
        "published": PUBLISHED,
        "shares": _shares(frame),
        "untrained_shares": _shares(result.control.frame),
        "bos_shares": _shares(after_bos.frame),
        **_extremes(frame),
        "untrained_ratio": float(_ratio(result.control.frame).max()),
        "ordinary_ratio": _median_ratio(frame[frame["place"] == "other"]),
    }
    return Measured(numbers, {"massive": result.plot("decades", by="place", special=True)})


def _ratio(frame: Any) -> Any:
    return frame["largest"] / frame["median"]


def _median_ratio(frame: Any) -> dict[str, float]:
    """Mean over tokens of the logarithm of the ratio, as a ratio: a geometric mean."""
    found = clustered(frame["decades"], frame["prompt"])
    return {name: float(10 ** found[name]) for name in ("mean", "low", "high")}


def _shares(frame: Any) -> dict[str, Any]:
    """Share of tokens of each place that are massive after any block, with counts."""
    tokens = frame.groupby(["prompt", "position", "place"], as_index=False)["exceeds"].max()
    return {
        name: clustered(rows["exceeds"], rows["prompt"]) | {"count": int(rows["exceeds"].sum())}
        for name, rows in tokens.groupby("place")
    }


def _extremes(frame: Any) -> dict[str, Any]:
    """The largest component of all, and where massive states are."""
    top = frame.loc[frame["largest"].idxmax()]
    massive = frame[frame["exceeds"] == 1]
    dimensions = massive["dimension"].astype(int).value_counts()
    return {
        "top": {
            "value": float(top["largest"]),
            "median": float(top["median"]),
            "ratio": float(top["largest"] / top["median"]),
            "block": int(top["layer"]),
            "dimension": int(top["dimension"]),
            "place": str(top["place"]),
        },
        "states": len(massive),
        "blocks": sorted(int(b) for b in massive["layer"].unique()),
        "dimension_count": len(dimensions),
        "dimensions": [int(d) for d in dimensions.index],
        "dimension_counts": [int(c) for c in dimensions],
    }


def tell(n: Numbers) -> str:
    """The section, from its numbers."""
    if not n["states"]:
        return f"{_criterion(n)} No state here is massive.\n\n" + verdict(
            "Does not hold at 135 M parameters.", _published(n)
        )
    shares, top = n["shares"], n["top"]
    dimensions = listed(
        f"{d} ({c} states)" for d, c in zip(n["dimensions"], n["dimension_counts"], strict=True)
    )
    return "\n\n".join(
        [
            f"{_criterion(n)} Without BOS, the sentences with *her* have {n['states']} massive "
            f"states, after {blocks_of(n['blocks'])}. The largest component of all is "
            f"{top['value']:.0f}, {top['ratio']:.0f} times the median of its prompt: dimension "
            f"{top['dimension']} of a token of the kind *{top['place']}* after block "
            f"{top['block']}. For tokens that are neither first nor delimiters the ratio is "
            f"{told(n['ordinary_ratio'], '.1f')} (geometric mean over tokens and blocks), and the "
            f"largest one in the untrained copy is {n['untrained_ratio']:.1f}.",
            f"The largest component of a massive state is in dimension {dimensions}. "
            f"Massive after some block are, of the tokens of each kind: {_by_place(shares)}. "
            f"After BOS: {_by_place(n['bos_shares'])} (*first* is then BOS "
            f"itself). In the untrained copy: {_by_place(n['untrained_shares'])}.",
            verdict(_holds(n), _published(n)),
        ]
    )


def _criterion(n: Numbers) -> str:
    p = n["published"]
    return (
        f"A state is massive if its largest component exceeds {p['larger_than']} and is "
        f"{p['times']} times the median of all tokens of its prompt or more ({p['source']})."
    )


def _published(n: Numbers) -> str:
    p = n["published"]
    return (
        f"up to {p['up_to']} times larger than others; in LLaMA2-7B in {p['dimensions']} fixed "
        f"dimensions, at the starting token and the first full stop or new line ({p['source']})."
    )


def _by_place(shares: Numbers) -> str:
    return ", ".join(f"{name} {_of_all(share)}" for name, share in shares.items())


def _of_all(share: Numbers) -> str:
    """Counts, because a share of none or of all has no width and one of few rounds to nothing."""
    if share["count"] in (0, share["n"]):
        return f"{'all' if share['count'] else 'none of'} {share['n']}"
    return f"{share['count']} of {share['n']}"


def _holds(n: Numbers) -> str:
    shares = n["shares"]
    kinds = {"first": "the starting token", "delimiter": "delimiters"}
    found = [said for name, said in kinds.items() if shares[name]["mean"] > shares["other"]["high"]]
    count = n["dimension_count"]
    dimensions = (
        f"in {counted(count, 'fixed dimension')}"
        if count <= n["published"]["dimensions"]
        else "but in more dimensions than published"
    )
    if not found:
        return "Does not hold at 135 M parameters: other tokens are massive as often."
    if len(found) == 1:
        return f"Holds in part: at {found[0]} only, {dimensions}."
    return f"Holds: at {listed(found)}, {dimensions}."
