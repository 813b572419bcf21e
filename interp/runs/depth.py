"""One key of depth for all tables: the number of the state that a row ends in.

Knows tables and what their column `layer` counts; knows nothing of how they were made.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Literal

import pandas as pd

from interp.contract.columns import INDEX, INDEX_MEANINGS, STATE, STATE_MEANING
from interp.errors import BadInput, nearest
from interp.stats.table import is_summary

JOINS = ("outer", "inner")
HEADS = ("mean", "sum", "max", "min")
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
    results: Sequence[Any],
    layers: Sequence[int] | None = None,
    how: str = "outer",
    heads: str | None = None,
) -> pd.DataFrame:
    """Tables with a row per token and state as one; columns of the same name get the analysis'.

    `layers` are those that the run was asked to keep. Where they leave the tables with other
    states, a warning names these states and the layers that give all tables the same ones; with
    `how="inner"`, which drops rows that one table lacks, only where no state is left. `heads`
    reduces tables with a row per head. `.attrs["columns"]` has the meanings of the columns.
    Raises `BadInput` for a table with other rows, for fewer than two, and for another choice.
    """
    _refuse_choices(how, heads)
    for result in results:
        _refuse_rows(result, heads)
    if len(results) < 2:
        alone = "".join(f"; {r.name!r} alone is results[{r.name!r}].states" for r in results)
        raise BadInput(f"merged() takes the names of two tables or more{alone}")
    frames = [_of_tokens(result, heads) for result in results]
    if layers is not None:
        _warn_of_gaps(results, frames, how)
    names = _names(results, frames)
    parts = [
        frame[[*_keys(frame), *new]].rename(columns=new)
        for frame, new in zip(frames, names, strict=True)
    ]
    on = _keys(frames[0])
    join: Literal["inner", "outer"] = "inner" if how == "inner" else "outer"
    whole = reduce(lambda a, b: a.merge(b, on=on, how=join), parts)
    whole = whole.sort_values(on, ignore_index=True)
    tokens = results[0].tokens
    keys = [c for c in ("stack", "prompt", "position") if c in whole and c in tokens]
    labelled = whole[on].merge(tokens, on=keys, how="left")
    out = pd.concat([labelled, whole.drop(columns=on)], axis=1)
    out.attrs["columns"] = _meanings(results, names, out, heads)
    return out


def _of_tokens(result: Any, heads: str | None) -> pd.DataFrame:
    """The table with states and a row per token, its heads reduced."""
    frame = with_states(result)
    if "head" not in frame or heads is None:
        return frame
    groups = frame.groupby(_keys(frame), sort=False, dropna=False)[result.values]
    # pandas' sum of undefined values alone is 0.
    found = groups.sum(min_count=1) if heads == "sum" else groups.agg(heads)
    reduced: pd.DataFrame = found.reset_index()
    return reduced


def _names(results: Sequence[Any], frames: Sequence[pd.DataFrame]) -> list[dict[str, str]]:
    """The value columns of each table and their names in the merged one.

    A row of a block stands at the state that the block leads to. A column of the state before the
    block, which has a twin with `_after`, is named `_before`: `norm` of `path_length`.
    """
    shared = {*INDEX, STATE, *map(str, results[0].tokens)}
    names = []
    for result, frame in zip(results, frames, strict=True):
        values = [str(c) for c in frame if c not in shared]
        twins = {c for c in values if f"{c}_after" in values and f"{c}_before" not in values}
        twins = twins if result.analysis.depth() == "block" else set()
        names.append({c: f"{c}_before" if c in twins else c for c in values})
    every = [new for known in names for new in known.values()]
    return [
        {old: f"{result.name}_{new}" if every.count(new) > 1 else new for old, new in known.items()}
        for result, known in zip(results, names, strict=True)
    ]


def _meanings(
    results: Sequence[Any],
    names: Sequence[Mapping[str, str]],
    whole: pd.DataFrame,
    heads: str | None,
) -> dict[str, str]:
    """Meanings of the columns of a merged table, with what l is in them; labels have none."""
    labels = {label for result in results for label in result.labels}
    known = {**INDEX_MEANINGS, STATE: STATE_MEANING}
    told = {str(c): known[c] for c in whole if c in known and c not in labels}
    for result, renamed in zip(results, names, strict=True):
        of_heads = f"{heads} over the heads of: " if "head" in result.frame else ""
        for old, new in renamed.items():
            text = result.columns.get(old)
            if text is not None:
                told[new] = f"{of_heads}{text}{_where(result, text)}"
    return told


def _where(result: Any, text: str) -> str:
    if result.analysis.depth() == "block":
        return "; of block l = state − 1"
    return "; l = state" if re.search(r"_\{?l\b", text) else ""


def _refuse_choices(how: str, heads: str | None) -> None:
    if how not in JOINS:
        raise BadInput(f"how is {how!r}{nearest(how, JOINS)}; it is one of {', '.join(JOINS)}")
    if heads is not None and heads not in HEADS:
        hint = nearest(heads, HEADS)
        raise BadInput(f"heads is {heads!r}{hint}; it is one of {', '.join(HEADS)}")


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


def _refuse_rows(result: Any, heads: str | None) -> None:
    """Raises for a table whose rows are not one per token and layer, or head where heads join."""
    frame = result.frame
    if is_summary(frame):
        seen = "is a summary of groups"
    elif not {"prompt", "position", "layer"} <= set(frame.columns):
        seen = f"has the columns {', '.join(map(str, frame))}"
    elif "head" in frame and heads is None:
        # Which one, the meaning of the column decides: parts of a logit add up, entropies do not.
        seen = (
            'has a row per head; pass heads="mean" for the mean over the heads of a block, or '
            '"sum" (for what adds up, such as parts of a logit), "max" or "min"'
        )
    else:
        return
    raise BadInput(
        f"merged() joins tables with a row per token and layer, and the table of {result.name!r} "
        f"{seen}"
    )
