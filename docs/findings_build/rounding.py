"""Rounded weights: how far every column moves, and from which angle on a number is the model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

import interp
from docs.findings_build.parts import Measured, Numbers, listed, table
from docs.findings_build.sources import Sources
from interp.render.draw import figure
from interp.render.drawing import Drawing, line_rows

TITLE = "Rounded weights: which numbers are the model's?"
ROUNDINGS = ("BF16", "Q8_0", "Q4_1")
ACROSS = "Q4_1 across"
ANALYSES = ("rotation", "path_length", "next_token", "attention")
LENS, LENS_SENTENCES = "logit_lens", 8
KEYS = ("prompt", "position", "layer", "head")
ANGLES = ("angle", "attn_angle", "mlp_angle", "turning")


def measure(sources: Sources) -> Measured:
    """The run with "her" on the model and on copies with rounded weights."""
    bridge = sources.bridge
    own = _run(bridge)
    differs = _verdicts(own["rotation"])
    found = {}
    for name in (*ROUNDINGS, ACROSS):
        copy = _copy(bridge, name)
        other = _run(copy)
        found[name] = {
            "weights": _moved(bridge, copy, embedding=True),
            "blocks": _moved(bridge, copy, embedding=False),
            "columns": _columns(own, other),
            "verdicts": _changed(differs, _verdicts(other["rotation"])),
            "by_block": _by_block(own["rotation"], other["rotation"]),
        }
        del copy, other
    by_block = {name: one.pop("by_block") for name, one in found.items()}
    numbers = {
        "sentences": int(own["rotation"].frame["prompt"].nunique()),
        "lens_sentences": LENS_SENTENCES,
        "blocks": int(own["rotation"].frame["layer"].nunique()),
        "differ": int(differs["differs"].sum()),
        "roundings": found,
    }
    return Measured(numbers, {"rounding": figure(_drawing(by_block))})


def _run(bridge: Any) -> dict[str, Any]:
    results = dict(interp.run(bridge, "her", list(ANALYSES), target="her", progress=False))
    texts = interp.read_prompts("her", bridge.tokenizer).texts[:LENS_SENTENCES]
    return results | dict(interp.run(bridge, list(texts), LENS, progress=False))


# ---- rounded copies ----------------------------------------------------------------------------


def _copy(bridge: Any, name: str) -> Any:
    if name != ACROSS:
        return interp.models.rounded_copy(bridge, name)
    copy = interp.models.rounded_copy(bridge, "BF16")
    # In its own blocks, a file's rounding changes nothing: its numbers lie on the grid. Blocks of
    # the other axis have other grids, and errors of the size that rounding makes the first time.
    with torch.no_grad():
        for (_, source), (_, target) in _matrices(bridge, copy):
            target.copy_(_across(source))
    return copy


def _across(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix rounded to Q4_1 in blocks of 32 along its first axis."""
    from interp.models.rounding import rounded

    return rounded(matrix.T.contiguous(), "Q4_1").T


def _matrices(a: Any, b: Any) -> Iterator[Any]:
    """Every matrix of two bridges of one configuration, with its name."""
    pairs = zip(_named(a), _named(b), strict=True)
    return ((x, y) for x, y in pairs if x[1].ndim == 2)


def _named(bridge: Any) -> list[tuple[str, torch.Tensor]]:
    from interp.models.forward import wrapped_model

    return [(name, p.detach()) for name, p in wrapped_model(bridge).named_parameters()]


def _moved(bridge: Any, copy: Any, *, embedding: bool) -> float:
    """‖W′ − W‖ / ‖W‖ over all matrices, or all but those with a row per token."""
    change = total = 0.0
    for (_, own), (_, other) in _matrices(bridge, copy):
        if not embedding and len(own) == bridge.cfg.d_vocab:
            continue
        change += float((other.double() - own.double()).square().sum())
        total += float(own.double().square().sum())
    return float(np.sqrt(change / total))


# ---- what moves --------------------------------------------------------------------------------


def _columns(own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Median and 99th percentile of the absolute difference of every column, and its own size."""
    found = {}
    for name, result in own.items():
        a, b = result.frame, other[name].frame
        keys = [k for k in KEYS if k in a]
        if not a[keys].equals(b[keys]):
            raise ValueError(f"{name}: the rows of the rounded copy are other rows")
        ordinary = ~a["special"].to_numpy(bool)
        for column in result.values:
            x, y = (t.loc[ordinary, column].to_numpy(np.float64) for t in (a, b))
            difference = np.abs(x - y)
            found[f"{name}.{column}"] = {
                "median": float(np.nanmedian(difference)),
                "p99": float(np.nanpercentile(difference, 99)),
                "typical": float(np.nanmedian(np.abs(x))),
            }
    return found


def _verdicts(rotation: Any) -> pd.DataFrame:
    """Difference between "her" and the word before it per block, and whether it is significant."""
    found = interp.compare(rotation, "angle", "role", "target", "previous")
    table = found.frame[["layer"]].assign(difference=found.frame[found.contrast])
    return table.assign(differs=found.differs.to_numpy())


def _changed(own: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any]:
    """Blocks whose verdict on "her" another rounding changes, and the largest shift."""
    sign = np.sign(own["difference"]) * own["differs"]
    changed = sign != np.sign(other["difference"]) * other["differs"]
    return {
        "changed": own.loc[changed, "layer"].tolist(),
        "changed_count": int(changed.sum()),
        "most": float((own["difference"] - other["difference"]).abs().max()),
    }


def _by_block(own: Any, other: Any) -> pd.DataFrame:
    """99th percentile of the difference of the angle in every block."""
    a, b = own.frame, other.frame
    rows = a.assign(moved=(a["angle"] - b["angle"]).abs())[~a["special"].astype(bool)]
    at = rows.groupby("layer")["moved"].quantile(0.99)
    return pd.DataFrame({"x": at.index, "mean": at.to_numpy(), "n": rows.groupby("layer").size()})


def _drawing(by_block: Mapping[str, pd.DataFrame]) -> Drawing:
    lines = {
        name: rows.assign(mean=np.log10(rows["mean"].clip(lower=1e-9)))
        for name, rows in by_block.items()
    }
    return Drawing(
        "lines",
        "Angle per block: what rounding of the weights moves",
        line_rows(lines),
        "log10 of degrees",
        "block",
        "99th percentile over ordinary tokens of the absolute difference to the weights as they "
        "are. An angle below its line may be the rounding's.",
    )


# ---- words -------------------------------------------------------------------------------------


def tell(n: Numbers) -> str:
    """The section, from its numbers."""
    found = n["roundings"]
    heads = ("column", "typical", *(f"{name}: median, 99 %" for name in found))
    first = next(iter(found.values()))["columns"]
    rows = [
        (
            f"`{column}`",
            f"{first[column]['typical']:.3g}",
            *(_pair(one["columns"][column]) for one in found.values()),
        )
        for column in first
    ]
    angle = {name: one["columns"]["rotation.angle"] for name, one in found.items()}
    return "\n\n".join(
        [
            f"The run with *her* ({n['sentences']} sentences; {n['lens_sentences']} for the lens), "
            "repeated with the weights rounded. The published file is itself rounded to Q4_1 (its "
            "embedding to Q8_0), so its numbers lie on that grid; *across* rounds in blocks of "
            "the other axis, where they do not, as in a first rounding. All matrices change by "
            + listed(f"{one['weights']:.2g} ({name})" for name, one in found.items())
            + ", as ‖W′ − W‖ / ‖W‖; those of the blocks, without the embedding, by "
            + listed(f"{one['blocks']:.2g} ({name})" for name, one in found.items())
            + ".",
            "**From which angle on is a number the model's?** For 99 % of tokens and blocks "
            "the angle moves by less than "
            + listed(f"{one['p99']:.2g}° ({name})" for name, one in angle.items())
            + ". A smaller angle, or a smaller difference between the angles of two single tokens, "
            f"may be the rounding's. {_means(found)}: "
            + "; ".join(_verdict(name, one["verdicts"], n) for name, one in found.items())
            + ".",
            "Absolute differences between the weights as they are and rounded ones, over ordinary "
            "tokens, blocks and heads; *typical* is the median absolute value of the column.",
            table(heads, rows),
        ]
    )


def _means(found: Numbers) -> str:
    less = all(
        one["verdicts"]["most"] < one["columns"]["rotation.angle"]["p99"] for one in found.values()
    )
    return "Means over the sentences move less" if less else "Means over the sentences move as well"


def _pair(one: Numbers) -> str:
    return f"{one['median']:.2g}, {one['p99']:.2g}"


def _verdict(name: str, v: Numbers, n: Numbers) -> str:
    return (
        f"with {name} the difference between *her* and the word before it moves by at most "
        f"{v['most']:.2g}°, and {_kept(v, n)}"
    )


def _kept(v: Numbers, n: Numbers) -> str:
    if not v["changed_count"]:
        return f"the verdict is the same in all {n['blocks']} blocks"
    return (
        f"the verdict changes in {v['changed_count']} of {n['blocks']} blocks "
        f"({listed(v['changed'])})"
    )
