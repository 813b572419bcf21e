"""Measures of written tokens, each with the pass that wrote it, and their means over the steps.

The token at position p was chosen by the pass over the token before it: its log-probability, the
entropy of the distribution that it was chosen from, the depth at which that distribution settled
and the way of the stream to it stand at position p − 1 of the tables. Here they stand with the
token. Knows tables and their columns; knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from interp._arrays import Bools, Floats
from interp.contract.options import names_of
from interp.errors import BadInput, unknown
from interp.render.drawing import LINE_COLUMNS, Drawing
from interp.stats.groups import group_means
from interp.stats.paired import moved_within
from interp.stats.table import frame_of, is_summary

GENERATION = "generation"  # of the provenance: settings and texts
ENDS = "ends"  # in these: ids with which the model ends a text
STEP, GIVEN = "generation_step", "given"
KEYS = ("prompt", "position")
ANGLE = "angle_to_start"
OF_THE_WAY = ("path", ANGLE, "angular_path")
FEWEST = 3  # prompts behind an interval of a curve


@dataclass(frozen=True)
class Measure:
    """A measure of a written token: what it is called, its unit, its meaning and its range."""

    title: str
    unit: str
    meaning: str
    low: float = 0.0
    high: float = np.inf


MEASURES: Mapping[str, Measure] = {
    "log_prob": Measure(
        "Log-probability", "nats", "log P of the token where it was chosen; needs next_token or "
        "logit_lens",
        -np.inf, 0.0,
    ),
    "entropy": Measure(
        "Entropy", "nats", "entropy of the distribution that the token was chosen from; needs "
        "next_token or logit_lens",
    ),
    "settling_depth": Measure(
        "Settling depth", "state", "first state whose prediction is close to that distribution; "
        "needs settling",
    ),
    "path": Measure(
        "Path length", "activation units", "length of the way of the stream through all blocks; "
        "needs path_length",
    ),
    ANGLE: Measure(
        "Angle to the start", "degrees", "angle between the last state of the stream and its "
        "embedding; needs path_length",
        0.0, 180.0,
    ),
    "angular_path": Measure(
        "Angular path", "degrees", "sum of the angles of all blocks; needs rotation",
    ),
}  # fmt: skip
"""The measures that are looked for, by the column of a table of `written_values`."""


def written_values(results: Any, values: str | Sequence[str] | None = None) -> pd.DataFrame:
    """A row per token of the texts of `interp.generate`, with the values of the pass that wrote it.

    Args:
        results: of `interp.generate`, or tables by name with the columns that it adds.
        values: names in `MEASURES`, or other number columns of tables with a row per token (of a
            table with layers its last one); all of `MEASURES` that there are, unless given.

    Returns: `prompt`, `position`, `token`, `token_id`, `special`, the labels, and the values; NaN
    at the first token of a text, which nothing wrote. Where the one token before is special (BOS),
    the measures of the way are NaN too: they would be those of BOS.
    Raises `BadInput` for results without generated texts, or without any of the values per token,
    `UnknownName` for a value that no table has.
    """
    values = None if values is None else names_of(values)
    tokens = _tokens_of(results)
    tables = {name: frame_of(result) for name, result in results.items()}
    complete = {name: frame for name, frame in tables.items() if _is_complete(frame, results)}
    wanted = list(MEASURES) if values is None else list(values)
    found = {name: column for name in wanted if (column := _column(complete, name)) is not None}
    _refuse_missing(found, values, tables)
    out = tokens.copy()
    before = pd.MultiIndex.from_arrays([out["prompt"], out["position"] - 1])
    for name, column in found.items():
        out[name] = column.reindex(before).to_numpy(np.float64, na_value=np.nan)
    first = out.loc[(out["position"] == 0) & out["special"].astype(bool), "prompt"]
    of_bos = (out["position"] == 1) & out["prompt"].isin(first)
    for name in set(OF_THE_WAY) & set(found):
        out.loc[of_bos, name] = np.nan
    return out


def results_with(results: Any, values: Sequence[str]) -> list[str]:
    """Names of the results that `written_values` takes these values from, in their order."""
    tables = {name: frame_of(result) for name, result in results.items()}
    complete = {name: frame for name, frame in tables.items() if _is_complete(frame, results)}
    found = {_source(complete, value) for value in values}
    return [name for name in tables if name in found]


def past_the_end(tokens: pd.DataFrame, ends: Iterable[int]) -> Bools:
    """Mask of the written tokens after the first that ends the text: that is another text.

    Args:
        tokens: rows of `written_values`.
        ends: ids with which the model ends a text.
    """
    if "token_id" not in tokens:  # tables alone
        return np.zeros(len(tokens), bool)
    ended = (tokens[STEP] > 0) & tokens["token_id"].isin(list(ends))
    first = tokens[STEP].where(ended).groupby(tokens["prompt"]).transform("min")
    return np.asarray(tokens[STEP] > first)


def ends_of(results: Any) -> tuple[int, ...]:
    """The ids with which the model that wrote these results ends a text; none where not known."""
    told = getattr(results, "provenance", {}).get(GENERATION, {})
    return tuple(int(i) for i in told.get(ENDS, told.get("stops", ())))


def _tokens_of(results: Any) -> pd.DataFrame:
    """The token table of a generation, each token once."""
    tokens: pd.DataFrame | None = getattr(results, "tokens", None)
    if tokens is None and isinstance(results, Mapping):
        frames = (frame_of(result) for result in results.values())
        tokens = next(
            (f.drop_duplicates(list(KEYS)) for f in frames if {*KEYS, STEP} <= set(f)), None
        )
    if tokens is None or not {*KEYS, STEP, GIVEN} <= set(tokens):
        if GENERATION in getattr(results, "provenance", {}):
            raise BadInput(
                "these results are the summary of a generation, which has no rows of its written "
                "tokens; run it with keep='tokens' (interp run … --generate N --keep tokens)"
            )
        raise BadInput(
            "these results are of no generation: their tokens have no columns "
            f"{GIVEN!r} and {STEP!r}; interp.generate (interp run --generate N) makes them. "
            "A summary of a corpus has no rows per token: run the corpus with keep='tokens' "
            "(--keep tokens) and generate=N (--generate N)"
        )
    values = {*MEASURES, "layer", "head", "stack"}
    kept = [c for c in tokens if c not in values]
    out = tokens[kept].sort_values(list(KEYS), ignore_index=True)
    return out if "special" in out else out.assign(special=False)


def _is_complete(frame: pd.DataFrame, results: Any) -> bool:
    """Whether a table has rows of tokens up to its last layer, and none of heads."""
    if is_summary(frame) or not set(KEYS) <= set(frame) or "head" in frame:
        return False
    blocks = getattr(results, "provenance", {}).get("model", {}).get("n_layers", [])
    if "layer" not in frame or not len(blocks):
        return True
    deepest = int(frame["layer"].max())  # −1 in rows of a corpus that are of no layer
    return deepest < 0 or deepest >= blocks[-1] - 1


def _column(tables: Mapping[str, pd.DataFrame], name: str) -> pd.Series[Any] | None:
    """A value by (prompt, position): of a table without layers, else of the last layer of one."""
    source = _source(tables, name)
    if source is None:
        return None
    frame = tables[source]
    if name == ANGLE:
        return _angle_to_start(frame)
    if "layer" in frame:
        frame = frame[frame["layer"] == frame["layer"].max()]
    return frame.set_index(list(KEYS))[name]


def _source(tables: Mapping[str, pd.DataFrame], value: str) -> str | None:
    """Name of the table that a value is taken from: one without layers, else the first."""
    if value == ANGLE:
        needs = {"layer", "norm", "norm_after", "chord"}
        return next((name for name, f in tables.items() if needs <= set(f)), None)
    needs = {value, "top_prob"} if value in ("entropy", "log_prob") else {value}
    fit = [
        name for name, f in tables.items() if needs <= set(f) and types.is_numeric_dtype(f[value])
    ]
    return next((name for name in fit if "layer" not in tables[name]), next(iter(fit), None))


def _angle_to_start(frame: pd.DataFrame) -> pd.Series[Any]:
    layers = frame["layer"]
    start = frame[layers == layers.min()].set_index(list(KEYS))["norm"]
    end = frame[layers == layers.max()].set_index(list(KEYS))
    sides = (start.reindex(end.index), end["norm_after"], end["chord"])
    return pd.Series(angle_of_sides(*(s.to_numpy(np.float64) for s in sides)), end.index)


def angle_of_sides(a: Floats, b: Floats, c: Floats) -> Floats:
    """Angle in degrees between the sides a and b of triangles with the third side c, `[...]`.

    Stable for needles, where the law of cosines is not; NaN where a or b is 0.
    Source: Kahan, "Miscalculating area and angles of a needle-like triangle" (2014).

    >>> angle_of_sides(np.array([1.0]), np.array([1.0]), np.array([2.0**0.5])).round(6).item()
    90.0
    """
    a, b = np.maximum(a, b), np.minimum(a, b)
    # Rounded lengths may miss the triangle inequality by a last digit.
    c = np.clip(c, a - b, a + b)
    rest = np.where(b >= c, c - (a - b), b - (a - c))
    top = ((a - b) + c) * np.maximum(rest, 0)
    bottom = (a + (b + c)) * np.maximum((a - c) + b, 0)
    angle = np.degrees(2 * np.arctan2(np.sqrt(top), np.sqrt(bottom)))
    return np.where(b > 0, angle, np.nan)


def _refuse_missing(
    found: Mapping[str, Any], values: Sequence[str] | None, tables: Mapping[str, pd.DataFrame]
) -> None:
    if values is not None:
        missing = [name for name in values if name not in found]
        if not missing:
            return
        known = {str(c) for f in tables.values() for c in f if types.is_numeric_dtype(f[c])}
        taken = {*KEYS, "layer", "head", "token_id", "word", "sample", GIVEN, STEP}
        raise unknown("value of a written token", missing[0], sorted({*MEASURES, *known} - taken))
    if not found:
        listed = "; ".join(f"{name}: {each.meaning}" for name, each in MEASURES.items())
        raise BadInput(
            "no table here has a measure of the written tokens, with a row per token and all "
            f"layers (there are: {', '.join(tables)}). Looked for: {listed}"
        )


def text_drawing(frame: pd.DataFrame, name: str | None, more: str = "") -> Drawing:
    """The texts of rows of `written_values`, coloured by a value, or plain without one.

    Args:
        more: a sentence after the caption.
    """
    names = "prompt " + frame[GIVEN].astype(str)
    if "sample" in frame and frame["sample"].max() > 0:
        names += ", sample " + frame["sample"].astype(str)
    table = pd.DataFrame({"text": names, "token": frame["token"].astype(str)})
    table = table.assign(written=frame[STEP] > 0, value=frame[name] if name else np.nan)
    if name is None:
        return Drawing(
            "tokens",
            "The texts",
            table.reset_index(drop=True),
            caption="Run next_token, settling, path_length or rotation, with a row per token, to "
            f"colour the text.{more}",
        )
    own = MEASURES.get(name, Measure(name, "", ""))
    about = own.meaning.partition("; needs")[0]
    return Drawing(
        "tokens",
        f"The texts by {own.title.lower()}",
        table.reset_index(drop=True),
        own.unit,
        caption=f"{own.title}{': ' if about else ''}{about}. The darker, the higher. Only what the "
        f"model wrote has a colour. The pointer shows the numbers.{more}",
    )


def step_means(
    frame: pd.DataFrame, values: Sequence[str], by: str | None = None, confidence: float = 0.95
) -> pd.DataFrame:
    """Mean of each value at each step of the texts, with the given prompt as the sampling unit.

    Args:
        frame: rows of `written_values`, without the prompts' own tokens.
        by: a column: one line per label.

    Returns: the columns of lines (`interp.render.drawing.LINE_COLUMNS`), and `prompts`, the number
    of given prompts behind a mean. The interval of a measure with a range (`MEASURES`) stays in
    it. With fewer than three there is no interval: that of two is so
    wide that it would hide all others in a figure.
    """
    parts = []
    groups = [("", frame)] if by is None else list(frame.groupby(by, sort=False))
    for name, rows in groups:
        steps, codes = np.unique(rows[STEP].to_numpy(np.int64), return_inverse=True)
        if not len(steps):
            continue
        numbers = rows[list(values)].to_numpy(np.float64)
        means = group_means(numbers, codes, rows[GIVEN].to_numpy(), confidence=confidence)
        few = means.clusters < FEWEST
        low, high = (np.where(few, np.nan, end) for end in (means.low, means.high))
        for i, value in enumerate(values):
            if value in MEASURES:
                ends = MEASURES[value].low, MEASURES[value].high
                inside = moved_within(means.mean[:, i], low[:, i], high[:, i], ends)
                low[:, i], high[:, i] = inside
            parts.append(
                pd.DataFrame(
                    {"value": value, "group": str(name), "x": steps, "mean": means.mean[:, i]}
                    | {"low": low[:, i], "high": high[:, i]}
                    | {"n": means.n[:, i].astype(int), "prompts": means.clusters[:, i].astype(int)}
                )
            )
    if not parts:
        return pd.DataFrame(columns=[*LINE_COLUMNS, "prompts"])
    return pd.concat(parts, ignore_index=True)
