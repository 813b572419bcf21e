"""Meanings of the columns of a run's tables: what an analysis declares, and what runs add.

Knows names and declared meanings; computes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import pandas as pd

from interp.contract.columns import (
    DOCUMENT_MEANINGS,
    GENERATION_MEANINGS,
    GROUP_MEANING,
    INDEX_MEANINGS,
    LEAF_MEANINGS,
    MOMENTS,
    SUMMARY_MEANINGS,
    by_name,
)

_MOMENT_MEANINGS = {name: SUMMARY_MEANINGS[name] for name in MOMENTS}


def row_meanings(
    names: Iterable[object],
    declared: Mapping[str, str],
    labels: Collection[str] = (),
    tokens: Iterable[str] = (),
) -> dict[str, str]:
    """Meanings of the columns of a table of rows, except labels.

    Args:
        names: columns of the table.
        declared: those that the analysis explains, by name or pattern.
        labels: columns that came with the prompts, whose meaning only the user knows.
        tokens: columns that hold tokens; a corpus writes the id of each next to its text.

    >>> row_meanings(["layer", "peak_share", "kind"], {"*_share": "share; ratio"}, ["kind"])
    {'layer': 'number of the block, 0 … L−1, in tables of blocks; of the state, 0 … L, in tables \
of states (`.states` has the state of both)', 'peak_share': 'share; ratio'}
    """
    columns = list(map(str, names))
    written = GENERATION_MEANINGS if set(columns) >= {"sample", "generation_step"} else {}
    # Tables of documents have rows of tokens only, and any label may be called `score`.
    of_leaves = {} if "document" in columns else LEAF_MEANINGS | _MOMENT_MEANINGS
    ids = {f"{name}_id": f"number of `{name}` in the vocabulary" for name in tokens}
    known = {**of_leaves, **DOCUMENT_MEANINGS, **INDEX_MEANINGS, **ids, **declared, **written}
    theirs = set(labels) - set(written)
    found = {c: by_name(known, c) for c in columns if c not in theirs}
    return {c: doc for c, doc in found.items() if doc is not None}


def summary_meanings(frame: pd.DataFrame, declared: Mapping[str, str]) -> dict[str, str]:
    """Meanings of the columns of a summary, then of the measures that its rows are of."""
    known = {**INDEX_MEANINGS, **SUMMARY_MEANINGS}
    known["position_bin"] = DOCUMENT_MEANINGS["position_bin"]
    found = {c: known.get(c) or by_name(declared, c) or GROUP_MEANING for c in map(str, frame)}
    for name in dict.fromkeys(frame["value"].astype(str)):
        doc = by_name(declared, name)
        if doc is not None:
            # A measure may have the name of a statistic, such as `median`.
            found[name] = f"{found[name]}; as a measure: {doc}" if name in found else doc
    return found
