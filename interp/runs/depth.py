"""One key of depth for all tables: the number of the state that a row ends in.

Knows tables and what their column `layer` counts; knows nothing of how they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import pandas as pd

from interp.contract.columns import INDEX
from interp.errors import BadInput
from interp.stats.table import is_summary

STATE = "state"
_ROW = ("stack", "prompt", "position", STATE)


def with_states(result: Any) -> pd.DataFrame:
    """The table with a column `state` behind `layer`: l + 1 for block l, l for state l.

    Raises `BadInput` for a table without a column `layer`.
    """
    frame: pd.DataFrame = result.frame
    if "layer" not in frame:
        raise BadInput(f"the table of {result.name!r} has no column 'layer', and so no depth")
    out = frame.copy()
    offset = int(result.analysis.depth() == "block")
    out.insert(list(out).index("layer") + 1, STATE, frame["layer"] + offset)
    return out


def merged_tables(results: Sequence[Any]) -> pd.DataFrame:
    """Tables with a row per token and state as one; columns of the same name get the analysis'.

    Raises `BadInput` for a table with other rows, and for fewer than two.
    """
    for result in results:
        _refuse_rows(result)
    if len(results) < 2:
        alone = "".join(f"; {r.name!r} alone is results[{r.name!r}].states" for r in results)
        raise BadInput(f"merged() takes the names of two tables or more{alone}")
    frames = [with_states(result) for result in results]
    shared = {c for c in INDEX if c != "layer"} | {STATE, *map(str, results[0].tokens)}
    values = [[c for c in frame if c not in shared and c != "layer"] for frame in frames]
    every = [name for names in values for name in names]
    twice = {name for name in every if every.count(name) > 1}
    parts = [
        frame[[*_keys(frame), *names]].rename(columns={n: f"{result.name}_{n}" for n in twice})
        for result, frame, names in zip(results, frames, values, strict=True)
    ]
    on = _keys(frames[0])
    whole = reduce(lambda a, b: a.merge(b, on=on, how="outer"), parts)
    whole = whole.sort_values(on, ignore_index=True)
    tokens = results[0].tokens
    keys = [c for c in ("stack", "prompt", "position") if c in whole and c in tokens]
    labelled = whole[on].merge(tokens, on=keys, how="left")
    return pd.concat([labelled, whole.drop(columns=on)], axis=1)


def _keys(frame: pd.DataFrame) -> list[str]:
    return [c for c in _ROW if c in frame]


def _refuse_rows(result: Any) -> None:
    """Raises for a table whose rows are not one per token and layer."""
    frame = result.frame
    if is_summary(frame):
        seen = "is a summary of groups"
    elif not {"prompt", "position", "layer"} <= set(frame.columns):
        seen = f"has the columns {', '.join(map(str, frame))}"
    elif "head" in frame:
        # Which one, the meaning of the column decides: parts of a logit add up, entropies do not.
        seen = (
            f"has a row per head; reduce the heads of results[{result.name!r}].states to one value "
            "(their sum where they add up, else their mean or largest) and join it with "
            "DataFrame.merge on its columns prompt, position and state"
        )
    else:
        return
    raise BadInput(
        f"merged() joins tables with a row per token and layer, and the table of {result.name!r} "
        f"{seen}"
    )
