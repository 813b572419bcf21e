"""The columns that the library writes itself, and the one rule on what a label may be called.

Knows names only; an analysis is what declares `columns`, `keys` and `token_columns`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from interp.errors import BadInput

T = TypeVar("T")

INDEX = (
    "prompt",
    "position",
    "token",
    "token_id",
    "stack",
    "layer",
    "head",
    "special",
    "massive",
    "word",
)
"""Columns of token tables that say which row it is, in their order."""
INDEX_OF_ROWS = ("prompt", "position", "layer", "stack", "head")
"""Columns that the framework adds to what an analysis emits."""
TOKEN_TABLE = ("token", "token_id", "special", "word")
"""Columns that come from the prompts, so no analysis may have them."""
ATTACHED = ("call", "branch_of", "branch_at")
"""Columns of tables of a user's own passes: which pass, and where a text branches off."""
INDEX_MEANINGS = {
    "prompt": "number of the prompt in the run, from 0",
    "position": "number of the token in its prompt, from 0, padding not counted",
    "token": "text of the token, as the tokenizer writes it",
    "token_id": "number of the token in the vocabulary",
    "stack": "stack of layers: encoder or decoder, in a model that has both",
    "layer": "number of the block, 0 … L−1, in tables of blocks; of the state, 0 … L, in tables of "
    "states (`.states` has the state of both)",
    "head": "number of the attention head in its block, from 0",
    "special": "whether the token is special, such as BOS; these are left out of means",
    "word": "number of the word in its prompt that the token belongs to; missing where the text is "
    "not known",
    "call": "number of the pass within an `attach` block, from 0",
    "branch_of": "prompt that this text branches off from, in passes that repeat part of another; "
    "else missing",
    "branch_at": "position from which on the two texts differ",
}
"""What the columns of an index mean, by name."""
DOCUMENTS = ("document", "chunk", "document_position", "position_bin")
"""Columns of corpus runs, and the label that they make."""
MODE = "mode"
"""Column of a summary with the most frequent token of a token column."""
MOMENTS = ("n", "mean", "std", "min", "max", "undefined")
SUMMARY = frozenset(
    (
        *("value", "stack", "layer", "head", *MOMENTS, "documents", "se", "df", "control"),
        *("q05", "q25", "median", "q75", "q95", MODE, "mode_share", "distinct"),
    )
)
"""Columns of a summary that are no labels."""
_INDEX = "that tells the rows of tables apart"


def by_name(declared: Mapping[str, T], name: str) -> T | None:
    """What is declared of a column: under its name, else under a pattern; None if nothing is.

    >>> by_name({"angle": (0, 180), "*_share": (0, 1)}, "peak_share")
    (0, 1)
    """
    if name in declared:
        return declared[name]
    return next((x for pattern, x in declared.items() if fnmatchcase(name, pattern)), None)


def refuse_taken(
    labels: Iterable[str], analyses: Mapping[str, Any] | None = None, *, rename: bool = True
) -> None:
    """Raises `BadInput` for a label that has the name of a column which the tables have.

    Args:
        labels: names of label columns.
        analyses: those that are run, by name. Their value columns are taken too, by their
            patterns (`*_share`) where they have those, and what corpus runs and summaries write.
            Without them only the index columns are, which prompts have before anything is run.
        rename: whether the message may point to `labels={new: old}` and `--labels new=old`.
    """
    taken = dict.fromkeys(INDEX, _INDEX) if analyses is None else _taken(analyses)
    for label in labels:
        # `fnmatchcase`: the plain `fnmatch` folds case on Windows, and columns have case.
        what = next((w for name, w in taken.items() if fnmatchcase(str(label), name)), None)
        if what is None:
            continue
        new = f"{label}_label"
        fix = f" (a column of the data: labels={{{new!r}: {label!r}}}, or --labels {new}={label})"
        raise BadInput(
            f"label {label!r} has the name of a column {what}; rename it, say to "
            f"{new!r}{fix if rename else ''}"
        )


def _taken(analyses: Mapping[str, Any]) -> dict[str, str]:
    """Names and patterns that no label may have, and what they are."""
    taken = dict.fromkeys(sorted(SUMMARY), "of summaries")
    taken |= dict.fromkeys((*INDEX, *ATTACHED, *DOCUMENTS), _INDEX)
    for name, analysis in analyses.items():
        values = [c for c in analysis.columns if c not in analysis.keys]
        ids = [f"{c}_id" for c in analysis.token_columns]
        taken |= dict.fromkeys((*values, *ids), f"that analysis {name!r} measures")
    return taken
