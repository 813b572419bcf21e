"""Streams of two models on the same tokens: where a fine-tune parts from its base.

Knows states of two models, one loaded after the other.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Floats
from interp.errors import BadInput, unknown
from interp.experiments.members import EXACT
from interp.experiments.token_vectors import collect_states, prompts_for
from interp.models.forward import wrapped_model
from interp.models.load import load_model
from interp.models.probe import inspect
from interp.prompts.prompts import Prompts
from interp.render.drawing import Drawing
from interp.render.finding import Finding
from interp.runs.provenance import provenance_of
from interp.runs.series.facts import differences, facts_of
from interp.stats.groups import group_means

ALL = "all tokens"
COLUMNS = {
    "group": "label of the tokens; 'all tokens' without a label column",
    "state": "state; 0 enters the first block, l + 1 leaves block l",
    "distance": "‖x_b − x_a‖ / ‖x_a‖, mean over tokens",
    "distance_low": "lower end of its 95 % interval, prompts as the unit",
    "distance_high": "upper end",
    "angle": "angle between both states; degrees, mean over tokens",
    "angle_low": "lower end of its 95 % interval",
    "angle_high": "upper end",
    "length": "‖x_b‖ / ‖x_a‖, mean over tokens",
    "step": "‖Δ_b − Δ_a‖ / ‖Δ_a‖ of the block that leads to this state, mean over tokens",
    "changed": "share of the tokens whose state differs at all",
    "n": "tokens",
    "prompts": "prompts that they are of",
}
WEIGHT_COLUMNS = {
    "block": "number of the block; missing outside the blocks",
    "weight": "name of the parameter",
    "change": "‖W_b − W_a‖_F / ‖W_a‖_F; 0 is exactly equal",
    "size": "numbers in it",
}


@dataclass(frozen=True, eq=False, repr=False)
class StateComparison(Finding):
    """Two models' states of the same tokens: the answer of `compare_states`.

    Attributes:
        frame: a row per group and state; columns as in `COLUMNS`.
        weights: a row per parameter, if asked for; columns as in `WEIGHT_COLUMNS`.
        a, b: names of the models.
        notes: caveats.
    """

    name = "states"
    question = "In which state do the streams of the two models part, and for which tokens?"
    columns = COLUMNS

    frame: pd.DataFrame
    weights: pd.DataFrame
    a: str
    b: str
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> int | None:
        """The first state in which any token differs; None if none does."""
        states = self.frame.loc[self.frame["changed"] > 0, "state"]
        return None if states.empty else int(states.min())

    @property
    def sentence(self) -> str:
        """The first state that differs, the distance there and at the end."""
        if self.first is None:
            return f"{self.b} and {self.a}: all states of all tokens are exactly equal"
        where = "at the input" if self.first == 0 else f"after block {self.first - 1}"
        rows = self.frame[self.frame["group"] == self.frame["group"].iloc[0]].set_index("state")
        begins, ends = rows.loc[self.first], rows.iloc[-1]
        of = "" if self.frame["group"].iloc[0] == ALL else f" of {self.frame['group'].iloc[0]}"
        return (
            f"{self.b} parts from {self.a} at state {self.first} ({where}): distance{of} "
            f"{begins['distance']:.3g} there and {ends['distance']:.3g} "
            f"[{ends['distance_low']:.3g}, {ends['distance_high']:.3g}] in the last state, at an "
            f"angle of {ends['angle']:.3g}°"
        )

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """The states, and the weights if they were compared."""
        more = {"weights": self.weights} if len(self.weights) else {}
        return {"states": self.frame, **more}

    @property
    def short(self) -> pd.DataFrame:
        """The columns to read first."""
        kept = ["group", "state", "distance", "distance_low", "distance_high", "angle", "step"]
        return self.frame[[*kept, "changed"]]

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Distance and angle per state, a line per group; and the change of the weights."""
        drawn = {"Distance": self._lines("distance", "share of the base's norm")}
        drawn["Angle"] = self._lines("angle", "degrees")
        if len(self.weights):
            drawn["Weights"] = self._weights()
        return drawn

    def _lines(self, value: str, unit: str) -> Drawing:
        names = {
            f"{value}{end}": short
            for end, short in (("", "mean"), ("_low", "low"), ("_high", "high"))
        }
        table = self.frame.rename(columns=names | {"state": "x"}).assign(value=value)
        return Drawing(
            "lines",
            f"{value.capitalize()} of the states of {self.b} from those of {self.a}",
            table[["value", "group", "x", "mean", "low", "high", "n"]],
            unit,
            "state",
            f"The same {int(self.frame['n'].max()):,} tokens in both models. Bands: 95 % intervals "
            "over prompts.",
            if_null="every line would be 0.",
        )

    def _weights(self) -> Drawing:
        rows = self.weights.sort_values("change", ascending=False, kind="stable")
        table = pd.DataFrame({"name": rows["weight"], "value": rows["change"]})
        return Drawing(
            "bars",
            f"Change of the weights from {self.a} to {self.b}",
            table.reset_index(drop=True),
            "‖W_b − W_a‖ / ‖W_a‖",
            if_null="every weight would be at 0.",
            options={"from_zero": True},
        )


def compare_states(
    a: Any,
    b: Any,
    prompts: Any,
    *,
    by: str | None = None,
    weights: bool = False,
    special: bool = False,
    labels: Mapping[str, Any] | None = None,
    prepend_bos: bool | None = None,
) -> StateComparison:
    """Compare the states of two models on the same tokens, state by state: where they part.

    For a base model and its fine-tune, or two checkpoints. One model is in memory at a time; the
    states of all tokens are, in float64. Where a single block was changed, the states up to it are
    exactly equal, and the first that differ leave that block.

    Args:
        a: the first model, such as the base.
        b: the second model, such as its fine-tune; of the same width and vocabulary.
        prompts: as for `interp.run`.
        by: a label column: a row per label, such as the parts of speech.
        weights: also compare the weights, parameter by parameter; both models' are then in memory.
        special: keep special tokens, such as BOS.
        labels: labels of the prompts, as for `interp.run`.
        prepend_bos: the models' own policy unless given.

    Raises `BadInput` for models of different width or vocabulary, with what compares those.
    """
    first = _read(a, prompts, labels, prepend_bos, weights)
    again = first.prompts if isinstance(prompts, Prompts) else prompts
    second = _read(b, again, labels, prepend_bos, weights)
    names = _names(first.name, second.name)
    _refuse(first, second, names)
    index = first.tokens
    rows = _distances(first, second).merge(index, on=["prompt", "position"], how="left")
    if by is not None:
        if by not in rows:
            raise unknown("label", by, [str(c) for c in index if c not in ("prompt", "position")])
        rows = rows[rows[by].notna() & (rows[by].astype(str) != "")]
    kept = rows if special else rows[~rows["special"].astype(bool)]
    frame = _means(kept.assign(group=ALL if by is None else kept[by].astype(str)))
    table = _weight_changes(first, second) if weights else pd.DataFrame()
    notes = differences({names[0]: first.facts, names[1]: second.facts})
    return StateComparison(frame, table, *names, (*notes, EXACT))


@dataclass(frozen=True, eq=False)
class _Read:
    """What is kept of a model: states `[state, n, d]`, tokens, facts, and its weights if asked."""

    name: str
    values: Floats
    tokens: pd.DataFrame
    facts: dict[str, Any]
    weights: dict[str, Any]
    prompts: Prompts


def _read(model: Any, prompts: Any, labels: Any, prepend_bos: bool | None, weights: bool) -> _Read:
    bridge = load_model(model)
    ready = prompts_for(bridge, prompts, labels, prepend_bos)
    states = collect_states(bridge, ready, lambda index: np.ones(len(index), bool))
    kept: dict[str, Any] = {}
    if weights:
        named = wrapped_model(bridge).named_parameters()
        kept = {name: weight.detach().cpu().clone() for name, weight in named}
    about = provenance_of(bridge, inspect(bridge), {}, None)["model"]
    facts = facts_of(bridge, about)
    name = str(getattr(bridge.cfg, "model_name", type(bridge).__name__))
    del bridge
    gc.collect()  # bridges are full of cycles, and two at once may not fit
    return _Read(name, states.values, states.tokens, facts, kept, ready)


def _names(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a != b else (f"{a} (a)", f"{b} (b)")


def _refuse(a: _Read, b: _Read, names: tuple[str, str]) -> None:
    """Raises for states that have no distance, and for other tokens."""
    wide = [one.values.shape[2] for one in (a, b)]
    if wide[0] != wide[1]:
        raise BadInput(
            f"{names[0]!r} is {wide[0]} wide and {names[1]!r} {wide[1]}: their states have no "
            "distance; interp layers (compare_layers) compares such spaces, and interp.series the "
            "tables of both"
        )
    keys = ["prompt", "position", "token_id"]
    if not a.tokens[keys].equals(b.tokens[keys]) or a.facts["tokenizer"] != b.facts["tokenizer"]:
        raise BadInput(
            f"{names[0]!r} and {names[1]!r} read other tokens; interp layers (compare_layers) "
            "matches words, and interp.series compares the tables of both word by word"
        )


def _distances(a: _Read, b: _Read) -> pd.DataFrame:
    """A row per token and state that both models have."""
    states = min(len(a.values), len(b.values))
    x, y = a.values[:states], b.values[:states]
    length = [np.linalg.norm(v, axis=2) for v in (x, y)]
    apart = np.linalg.norm(y - x, axis=2)
    steps = [np.diff(v, axis=0) for v in (x, y)]
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.linalg.norm(steps[1] - steps[0], axis=2) / np.linalg.norm(steps[0], axis=2)
        values = {
            "distance": apart / length[0],
            "angle": _angles(x, y, length),
            "length": length[1] / length[0],
            "step": np.concatenate([np.full((1, x.shape[1]), np.nan), step]),
            "changed": (apart > 0).astype(np.float64),
        }
    n = x.shape[1]
    where = {"state": np.repeat(np.arange(states), n)}
    where |= {c: np.tile(a.tokens[c].to_numpy(), states) for c in ("prompt", "position")}
    return pd.DataFrame({**where, **{k: v.ravel() for k, v in values.items()}})


def _angles(x: Floats, y: Floats, length: list[Floats]) -> Floats:
    """Angles in degrees by 2·atan2(‖u − v‖, ‖u + v‖) of the unit vectors, exact for small ones."""
    u, v = x / length[0][..., None], y / length[1][..., None]
    half = np.arctan2(np.linalg.norm(u - v, axis=2), np.linalg.norm(u + v, axis=2))
    return np.asarray(np.degrees(2 * half), np.float64)


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means per group and state, with intervals that take prompts as the unit."""
    if rows.empty:
        raise BadInput("no token is left to compare: all are special or without a label")
    values = ["distance", "angle", "length", "step", "changed"]
    codes = rows.groupby(["group", "state"], sort=True).ngroup().to_numpy()
    _, first = np.unique(codes, return_index=True)
    found = group_means(rows[values], codes, rows["prompt"].to_numpy())
    out = rows[["group", "state"]].iloc[first].reset_index(drop=True)
    for i, name in enumerate(values):
        out[name] = found.mean[:, i]
        if name in ("distance", "angle"):
            out[f"{name}_low"], out[f"{name}_high"] = found.low[:, i], found.high[:, i]
    out["n"], out["prompts"] = found.n[:, -1].astype(int), found.clusters[:, -1].astype(int)
    return out[list(COLUMNS)]


def _weight_changes(a: _Read, b: _Read) -> pd.DataFrame:
    """Relative change of every parameter that both models have with one shape."""
    records = []
    for name, x in a.weights.items():
        y = b.weights.get(name)
        if y is None or y.shape != x.shape:
            continue
        size, change = float(x.double().norm()), float((y.double() - x.double()).norm())
        relative = change / size if size else (float("inf") if change else 0.0)
        records.append(
            {"block": _block(name), "weight": name, "change": relative, "size": x.numel()}
        )
    frame = pd.DataFrame(records, columns=list(WEIGHT_COLUMNS))
    return frame.astype({"block": "Int64"})


def _block(name: str) -> int | None:
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)
