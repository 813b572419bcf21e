"""Units of a comparison: tokens, or words joined from their tokens.

Knows tidy tables; nothing of models, prompts or statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from interp.contract.columns import DEPTHS, INDEX_MEANINGS, by_name
from interp.contract.not_measured import measured_by, not_measured
from interp.errors import BadInput, nearest
from interp.runs.results import Result
from interp.stats.table import (
    frame_of,
    is_special,
    left_out_note,
    numbers,
    places_of,
    require_columns,
)

Join = Literal["mean", "last", "sum"]
JOINS = ("mean", "last", "sum")
AT_THE_END = frozenset(
    (
        *("logit", "log_prob", "rank", "entropy", "top_prob", "agrees"),
        *("kl_to_final", "js_to_final", "tv_to_final"),
    )
)
"""Quantities of the prediction: a word has those of its last token, which has seen all of it."""
PLACES = ("stack", *DEPTHS, "head")
LABEL = "label of the tokens, which came with the prompts"
TOKEN_MEANINGS = {
    name: INDEX_MEANINGS[name]
    for name in ("stack", "prompt", "position", "token", "token_id", "special", "massive", "word")
}
"""Columns of a table with a row per token, which experiments pass on."""


def other_meanings(
    names: Iterable[object], known: Mapping[str, str], results: Any = None
) -> dict[str, str]:
    """Meanings of the columns that an experiment only passes on: those of the result, or labels.

    Args:
        names: columns of the experiment's tables.
        known: the meanings that it has itself, by name or pattern.
        results: the result that the other columns come from, if it explains them.
    """
    found = getattr(results, "columns", {})
    theirs: Mapping[str, str] = found if isinstance(found, Mapping) else {}
    others = [name for name in map(str, names) if by_name(known, name) is None]
    return {name: theirs.get(name, LABEL) for name in others}


def tables_of(results: Any) -> dict[str, pd.DataFrame]:
    """The tables of a run by name, or the one table of a Result or DataFrame."""
    if isinstance(results, Mapping):
        return {str(name): frame_of(result) for name, result in results.items()}
    name = results.name if isinstance(results, Result) else "the table"
    return {name: frame_of(results)}


def per_token(results: Any, value: str, needs: Sequence[str] = ()) -> tuple[str, pd.DataFrame]:
    """Name and rows of the first table that holds `value` per token, and the columns `needs`.

    Raises `UnknownName` if no table has the column, `BadInput` if one has it in another form.
    """
    tables = tables_of(results)
    for name, frame in tables.items():
        if {value, "prompt", "position", *needs} <= set(frame.columns):
            return name, frame
    summaries = [n for n, f in tables.items() if "value" in f and (f["value"] == value).any()]
    if summaries:
        raise BadInput(
            f"{summaries[0]!r} keeps moments of {value!r}, not a row per token; run again with "
            "keep='tokens'"
        )
    having = [name for name, frame in tables.items() if value in frame]
    if having:
        lacking = [c for c in ("prompt", "position", *needs) if c not in tables[having[0]]]
        if measured_by(lacking[0]):
            raise not_measured("value column", lacking[0], _choices(tables))
        raise BadInput(f"{having[0]!r} has {value!r}, but no column {lacking[0]!r}")
    raise not_measured("value column", value, _choices(tables))


def _choices(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    taken = {"prompt", "position", "token_id", "word", "special", "massive", "call", *PLACES}
    return list(
        dict.fromkeys(
            str(c)
            for frame in tables.values()
            for c in frame
            if c not in taken and pd.api.types.is_numeric_dtype(frame[c])
        )
    )


def units_of(
    frame: pd.DataFrame,
    value: str,
    label: str,
    *,
    level: str = "token",
    join: Join | None = None,
    special: bool = False,
) -> tuple[pd.DataFrame, list[str]]:
    """One row per unit and place (layer, head, stack), and notes on the tokens left out.

    Columns: `stack`, `layer`, `head` where there are any, `prompt`, `position` (of a word, that of
    its last token), `word` where words are joined, the label and the value (float64).
    """
    if level not in ("token", "word"):
        raise BadInput(f"level={level!r}{nearest(level, ('token', 'word'))}; it is token or word")
    if join is not None and join not in JOINS:
        raise BadInput(f"join={join!r}{nearest(join, JOINS)}; it is one of {', '.join(JOINS)}")
    # Values are converted before rows are dropped, so that a text column is refused in any case.
    values = numbers(frame, value)
    require_columns(frame, [label], "label")
    left_out = is_special(frame, special)
    place = places_of(frame)
    names = [*place, "prompt", "position", *(["word"] if level == "word" else [])]
    if level == "word" and "word" not in frame:
        raise BadInput(
            "this table has no column 'word' (token ids without text, or a run of your own under "
            "attach); level='token' compares tokens"
        )
    rows = frame[[*names, label]].assign(**{value: values})[~left_out]
    note = left_out_note(frame, left_out)
    notes = [note] if note else []
    if level == "token":
        return rows[_labelled(rows[label])].reset_index(drop=True), notes
    words, more = join_words(rows, value, label, join or joined_by(value))
    return words, [*notes, *more]


def joined_by(value: str) -> Join:
    """Default way to join the tokens of one word.

    >>> joined_by("angle"), joined_by("log_prob")
    ('mean', 'last')
    """
    return "last" if value in AT_THE_END else "mean"


def join_words(
    rows: pd.DataFrame, value: str, label: str, join: Join
) -> tuple[pd.DataFrame, list[str]]:
    """Join the tokens of each word: `mean` or `sum` over them, or the `last` one's value.

    A word has the label of its tokens. Words whose tokens have different labels are left out, and
    so are tokens outside words. A value that is undefined for one token is undefined for the word
    (with `last`, if it is undefined for the last token).
    """
    notes = []
    within = rows[rows["word"] >= 0]
    outside = rows.loc[rows["word"] < 0, ["prompt", "position"]].drop_duplicates()
    if len(outside):
        notes.append(f"{len(outside)} tokens belong to no word and were left out")
    if within.empty:
        raise BadInput(
            "no token belongs to a word (the prompts were given as ids, or their tokenizer gives "
            "no character spans); level='token' compares tokens"
        )
    key = [c for c in ("stack", "prompt", "word") if c in within]
    labelled = within[_labelled(within[label])]
    kinds = labelled.groupby(key)[label].agg(["nunique", "first"])
    mixed = int((kinds["nunique"] > 1).sum())
    if mixed:
        notes.append(f"{mixed} words whose tokens have different {label!r} were left out")
    place = places_of(within)
    groups = within.groupby(list(dict.fromkeys([*place, *key])), sort=True, dropna=False)
    ends = within.loc[groups["position"].idxmax()].sort_values([*place, "prompt", "position"])
    if join != "last":
        size = groups[value].transform("size")
        # pandas' sum skips NaN; a word with an undefined token is undefined.
        total = groups[value].transform("sum").where(groups[value].transform("count") == size)
        ends = ends.assign(**{value: (total / size if join == "mean" else total).loc[ends.index]})
    sure = kinds.loc[kinds["nunique"] == 1, "first"].rename(label)
    out = ends.drop(columns=label).join(sure, on=key, how="inner")
    return out.reset_index(drop=True), notes


def _labelled(column: pd.Series[Any]) -> pd.Series[bool]:
    return column.notna() & (column.astype(str) != "")
