"""One key of depth for all tables: the number of the state that a row ends in.

Knows tables and what their column `layer` counts; knows nothing of how they were made.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal

import pandas as pd

from interp.contract.columns import INDEX, STATE
from interp.errors import BadInput, nearest
from interp.stats.table import is_summary

JOINS = ("outer", "inner")
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


def merged_tables(
    results: Sequence[Any], layers: Sequence[int] | None = None, how: str = "outer"
) -> pd.DataFrame:
    """Tables with a row per token and state as one; columns of the same name get the analysis'.

    `layers` are those that the run was asked to keep. Where they leave the tables with other
    states, a warning names these states and the layers that give all tables the same ones; with
    `how="inner"`, which drops rows that one table lacks, only where no state is left.
    Raises `BadInput` for a table with other rows, for fewer than two, and for another `how`.
    """
    if how not in JOINS:
        raise BadInput(f"how is {how!r}{nearest(how, JOINS)}; it is one of {', '.join(JOINS)}")
    for result in results:
        _refuse_rows(result)
    if len(results) < 2:
        alone = "".join(f"; {r.name!r} alone is results[{r.name!r}].states" for r in results)
        raise BadInput(f"merged() takes the names of two tables or more{alone}")
    frames = [with_states(result) for result in results]
    if layers is not None:
        _warn_of_gaps(results, frames, how)
    shared = {c for c in INDEX if c != "layer"} | {STATE, *map(str, results[0].tokens)}
    values = [[c for c in frame if c not in shared and c != "layer"] for frame in frames]
    every = [name for names in values for name in names]
    twice = {name for name in every if every.count(name) > 1}
    parts = [
        frame[[*_keys(frame), *names]].rename(columns={n: f"{result.name}_{n}" for n in twice})
        for result, frame, names in zip(results, frames, values, strict=True)
    ]
    on = _keys(frames[0])
    join: Literal["inner", "outer"] = "inner" if how == "inner" else "outer"
    whole = reduce(lambda a, b: a.merge(b, on=on, how=join), parts)
    whole = whole.sort_values(on, ignore_index=True)
    tokens = results[0].tokens
    keys = [c for c in ("stack", "prompt", "position") if c in whole and c in tokens]
    labelled = whole[on].merge(tokens, on=keys, how="left")
    return pd.concat([labelled, whole.drop(columns=on)], axis=1)


def _warn_of_gaps(results: Sequence[Any], frames: Sequence[pd.DataFrame], how: str) -> None:
    """Warns of states that not all tables have, because of the layers that were kept."""
    states = [set(frame[STATE].tolist()) for frame in frames]
    whole, common = set[int]().union(*states), set.intersection(*states)
    # No block leads to state 0, so that a table of blocks lacks it whatever is kept.
    if common if how == "inner" else whole <= common | {0}:
        return
    named = [(result.name, own) for result, own in zip(results, states, strict=True)]
    listed = ", ".join(f"states {_listed(own)} of {name!r}" for name, own in named)
    of_blocks = [r.analysis.depth() == "block" for r in results]
    wanted = set[int]().union(*(own for own, b in zip(states, of_blocks, strict=True) if b))
    wanted = wanted or whole
    warnings.warn(
        f"merged() joins {listed}, of which all have {_listed(common) or 'none'}: layers= counts "
        "blocks in a table of blocks (block l leads to state l + 1) and states in a table of "
        f"states. For states {_listed(wanted)} of all of them run with "
        f"layers={sorted(wanted | {s - 1 for s in wanted})} and join with how='inner', which drops "
        "rows that one of them lacks",
        stacklevel=4,
    )


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


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
