"""Massive dimensions of the stream, and what leaving dimensions out does to other columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Floats
from interp.contract.leaves import TopK
from interp.contract.registry import resolve
from interp.errors import BadInput
from interp.experiments.controls import repeated_on_control, result_of
from interp.models.for_model import prompts_of
from interp.models.load import load_model
from interp.models.probe import inspect
from interp.render.drawing import Drawing
from interp.render.finding import Answer
from interp.render.tokens import percent
from interp.runs.results import Result
from interp.runs.run import run

TOP = "top "
SHOWN = 12  # bars
ROUNDING = 1e-6  # of a mean
DIMENSIONS = {
    "layer": "state; 0 is the embedding",
    "dimension": "number of the dimension",
    "states": "how many of the kept states have their largest entry there",
    "largest": "its largest |x_i| there; activation units",
    "ratio": "that over the median |x| of the same state",
    "prompt": "prompt of that state",
    "position": "position of its token",
    "token": "its text",
    "special": "whether it is a special or massive first token",
}
CHANGES = {
    "analysis": "analysis",
    "value": "column",
    "layer": "block or state",
    "mean": "mean over tokens that are not special, or the value of the layer",
    "without": "the same without the dimensions",
    "change": "(without − mean) / |mean|; ratio",
    "random_low": "smallest change when as many random dimensions are left out",
    "random_high": "largest such change",
    "beyond_random": "distance of the change from the range of these, in widths of that range; 0 "
    "inside of it",
}


@repeated_on_control
def massive_dimensions(results: Any) -> Answer:
    """Dimensions that hold the largest entries of the stream, with the tokens they are largest at.

    Of the states with the largest entries of each boundary (16 unless `massive_activations` was
    told otherwise), special and first tokens included, in rows, summaries and corpora alike.

    Args:
        results: of a run with `massive_activations`, or that result.

    Raises `UnknownName` for results without it, `BadInput` for a result of another analysis.
    """
    result = result_of(results, "massive_activations")
    leaves = _leaves(result)
    rows = [_largest(layer, leaf) for layer, leaf in leaves]
    frame = pd.concat(rows, ignore_index=True)
    # A corpus keeps no table of its tokens.
    about = [c for c in ("token", "special") if c in result.tokens]
    if about and {"prompt", "position"} <= set(result.tokens):
        tokens = result.tokens[["prompt", "position", *about]]
        frame = frame.merge(tokens, on=["prompt", "position"], how="left")
    top = frame.iloc[int(frame["ratio"].fillna(0.0).argmax())]
    token = f" ({top['token']!r})" if isinstance(top.get("token"), str) else ""
    said = (
        f"largest entry against its median: ×{top['ratio']:.4g} in dimension {top['dimension']} at "
        f"state {top['layer']}, prompt {top['prompt']}, token {top['position']}{token}"
    )
    drawing = Drawing(
        "bars",
        "Largest entries of the stream by dimension",
        _bars(frame),
        "|x_i| over the median |x| of its state",
        caption=f"The {SHOWN} largest, each at the state and token where it is largest.",
        if_null="independent Gaussian entries have 4 to 6 at usual widths.",
        options={"value_name": "ratio", "from_zero": True},
    )
    return Answer(
        "massive",
        frame,
        said,
        {"Largest entries": drawing},
        question="Which dimensions of the stream dwarf all others, and at which tokens?",
        columns=DIMENSIONS,
    )


def _leaves(result: Any) -> list[tuple[int, TopK]]:
    """The states with the largest entries, by boundary."""
    state = result.state if isinstance(result, Result) else {}
    found = [
        (int(name.removeprefix(TOP)), leaf)
        for _, leaves in sorted(state.items())
        for name, leaf in leaves.items()
        if name.startswith(TOP) and isinstance(leaf, TopK) and len(leaf.prompt)
    ]
    if not found:
        name = getattr(result, "name", type(result).__name__)
        raise BadInput(
            f"{name!r} keeps no largest states; pass the results of a run with "
            "'massive_activations'"
        )
    return sorted(found, key=lambda item: item[0])


def _largest(layer: int, leaf: TopK) -> pd.DataFrame:
    """One row per dimension of a boundary, at the state where it is largest."""
    dimension, median = leaf.payload.reshape(-1, 2).T
    frame = pd.DataFrame(
        {
            "layer": layer,
            "dimension": dimension.astype(np.int64),
            "largest": leaf.scores.astype(np.float64),
            "ratio": leaf.scores / np.where(median > 0, median, np.nan),
            "prompt": leaf.prompt,
            "position": leaf.position,
        }
    )
    counts = frame["dimension"].value_counts()
    frame = frame.sort_values("largest", ascending=False, kind="stable")
    frame = frame.drop_duplicates("dimension", ignore_index=True)
    frame.insert(2, "states", frame["dimension"].map(counts))
    return frame


def _bars(frame: pd.DataFrame) -> pd.DataFrame:
    top = frame.sort_values("ratio", ascending=False).drop_duplicates("dimension").head(SHOWN)
    names = [
        f"dimension {d} at state {i}" for d, i in zip(top["dimension"], top["layer"], strict=True)
    ]
    return pd.DataFrame({"name": names, "value": top["ratio"].to_numpy()})


# ---- leaving dimensions out ------------------------------------------------------------------


def leave_out_dimensions(
    model: Any,
    prompts: Any,
    *,
    analyses: Sequence[str] = ("norm", "rotation", "path_length", "spectrum"),
    dims: Sequence[int] = (),
    count: int = 3,
    draws: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> Answer:
    """Change of every column when dimensions of the stream are left out, against random ones.

    The dimensions are 0 in all that the analyses read (`without_dims`); the model itself runs as
    it is, so what it computes from them stays. Analyses that read more than the stream (the lens,
    attention) are refused.

    Args:
        model: a name, folder or bridge.
        prompts: as for `run`.
        analyses: names, classes or instances.
        dims: the dimensions; none for those that hold the largest entry of most states.
        count: how many of these.
        draws: number of times that as many other dimensions, drawn at random, are left out.
        seed: seed of the draws.
        progress: show a bar.

    Raises `BadInput` for dimensions that the stream does not have or for fewer than 2 draws,
    `Unsupported` for an analysis that cannot leave dimensions out.
    """
    if draws < 2 or count < 1:
        raise BadInput(
            f"count={count}, draws={draws}: allowed are 1 or more dimensions and 2 or more draws"
        )
    bridge = load_model(model)
    anatomy = inspect(bridge)
    chosen = resolve(analyses)
    # Refused before the first pass.
    anatomy.wire([replace(a, without_dims=tuple(dims) or (0,)) for a in chosen.values()])
    ready = prompts_of(bridge, anatomy, prompts)
    options: dict[str, Any] = {"progress": progress}
    if not len(dims):
        dims = _most_often_largest(bridge, ready, count, progress)
    out = tuple(int(i) for i in dict.fromkeys(dims))
    others = np.setdiff1d(np.arange(anatomy.d_model), out)
    if len(out) > len(others):
        raise BadInput(f"{len(out)} of {anatomy.d_model} dimensions leave too few others to draw")
    rng = np.random.default_rng(seed)
    asked = list(chosen.values())
    plain = _means(run(bridge, ready, asked, **options))
    without = _means(run(bridge, ready, asked, without_dims=out, **options))
    drawn: list[list[int]] = [
        rng.choice(others, len(out), replace=False).tolist() for _ in range(draws)
    ]
    random = [_means(run(bridge, ready, asked, without_dims=one, **options)) for one in drawn]
    frame = _changes(plain, without, random)
    dimensions = ", ".join(map(str, out))
    return Answer(
        "leave_out",
        frame,
        _said(frame, dimensions),
        {"Largest changes": _drawing(frame, dimensions)},
        question="Which columns are those of a few dimensions of the stream?",
        columns=CHANGES,
        notes=(
            f"without dimensions {dimensions}; {draws} draws of as many others",
            "the model runs with all dimensions: only what is measured leaves them out",
        ),
    )


def _most_often_largest(bridge: Any, prompts: Any, count: int, progress: bool) -> list[int]:
    """Dimensions that hold the largest entry of most states, special tokens included."""
    found = run(bridge, prompts, "massive_activations", progress=progress)
    frame = found["massive_activations"].frame
    return [int(i) for i in frame["dimension"].value_counts().index[:count]]


def _means(results: Mapping[str, Result]) -> pd.DataFrame:
    """Mean of every value per analysis and layer."""
    parts = []
    for name, result in results.items():
        by = ["layer"] if "layer" in result.frame else []
        if not by:
            continue
        table = result.summary(by)
        parts.append(table[["layer", "value", "mean"]].assign(analysis=name))
    if not parts:
        raise BadInput(f"{', '.join(results)} have no values per layer to compare")
    return pd.concat(parts).set_index(["analysis", "value", "layer"])["mean"].to_frame()


def _changes(
    plain: pd.DataFrame, without: pd.DataFrame, random: Sequence[pd.DataFrame]
) -> pd.DataFrame:
    mean = plain["mean"]
    size = mean.abs().where(mean != 0)
    change = (without["mean"] - mean) / size
    drawn: Floats = np.stack([((one["mean"] - mean) / size).to_numpy(np.float64) for one in random])
    frame = pd.DataFrame(
        {
            "mean": mean,
            "without": without["mean"],
            "change": change,
            "random_low": drawn.min(axis=0),
            "random_high": drawn.max(axis=0),
        }
    )
    low, high = frame["random_low"], frame["random_high"]
    # What changes by rounding only is no finding.
    width = (high - low).clip(lower=ROUNDING)
    outside = (low - change).combine(change - high, max)
    frame["beyond_random"] = (outside.where(outside > ROUNDING, 0.0) / width).where(change.notna())
    return frame.reset_index()[list(CHANGES)]


def _farthest(frame: pd.DataFrame) -> pd.DataFrame:
    """The layer at which each column is farthest from the random changes, farthest first."""
    order = frame[frame["change"].notna()].sort_values(
        "beyond_random", ascending=False, kind="stable"
    )
    return order.drop_duplicates(["analysis", "value"], ignore_index=True)


def _said(frame: pd.DataFrame, dimensions: str) -> str:
    top = _farthest(frame)
    beyond = int((top["beyond_random"] > 0).sum())
    parts = [
        f"{row['analysis']}.{row['value']} by {percent(row['change'], sign=True)} at layer "
        f"{row['layer']:g} (random: {percent(row['random_low'], 1, sign=True)} to "
        f"{percent(row['random_high'], 1, sign=True)})"
        for _, row in top.head(3).iterrows()
    ]
    return (
        f"without dimensions {dimensions}, {beyond} of {len(top)} columns change otherwise than "
        f"without as many random ones at some layer; farthest: {'; '.join(parts)}"
    )


def _drawing(frame: pd.DataFrame, dimensions: str) -> Drawing:
    top = _farthest(frame).head(SHOWN)
    table = pd.DataFrame(
        {
            "name": top["analysis"] + "." + top["value"] + " · " + top["layer"].astype(str),
            "value": top["change"],
            "control": (top["random_low"] + top["random_high"]) / 2,
            "control_low": top["random_low"],
            "control_high": top["random_high"],
        }
    )
    return Drawing(
        "bars",
        f"Without dimensions {dimensions} of the stream",
        table,
        "change of the mean, relative",
        caption="The layer at which each column is farthest from the random changes.",
        control="Grey: as many random dimensions left out, the range of the draws.",
        if_null="every bar would lie inside its grey one.",
        options={"control_name": "random dimensions", "value_name": "change", "from_zero": True},
    )
