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
STATE = "state"
STATE_MEANING = "number of the state that the row ends in, 0 … L; block l leads to state l + 1"
DEPTHS = ("layer", STATE)
"""Columns that say how deep a row is, the first that is there; `.states` has both."""
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
    "special": "whether the token is special, such as BOS, or `massive`; these are left out of "
    "means",
    "massive": "whether the token is the first one and is left out because its norm is massive",
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
DOCUMENT_MEANINGS = {
    "document": "number of the document in the corpus, from 0",
    "chunk": "number of the chunk in its document, from 0",
    "document_position": "number of the token in its document, BOS at 0",
    "position_bin": "bin of `document_position`: 0, 1, 2–3, 4–7, …",
}
GENERATION_MEANINGS = {
    "given": "number of the prompt (document) that was given to the model, from 0",
    "sample": "number of the continuation of that prompt, from 0",
    "generated": "whether the model wrote the token",
    "generation_step": "number of the token among those that the model wrote, from 1; 0 in the "
    "prompt",
}
"""What the columns mean that `generate` adds to tables."""
SERIES_MEANINGS = {
    "member": "name of the model in the series",
    "at": "place of the model in the series, such as its training step",
    "run": "training run of the model, where the series has several",
}
"""What the columns mean that a series adds in front of tables."""
LEAF_MEANINGS = {
    "entry": "number of the entry in the array that was added up, from 0",
    "total": "sum over all tokens, in the unit of what was added up",
    "low": "lower edge of the bin",
    "high": "upper edge of the bin",
    "score": "score by which the token was kept",
}
"""What the columns mean that leaves write where an analysis has no `table` of its own."""
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
SUMMARY_MEANINGS = {
    "value": "the measure that the row is of",
    "n": "tokens of the group with a defined value; count",
    "mean": "mean over those tokens; unit of the measure",
    "std": "standard deviation over them; unit of the measure",
    "min": "smallest value; unit of the measure",
    "max": "largest value; unit of the measure",
    "undefined": "tokens of the group whose value is undefined; count",
    "documents": "documents (prompts) that these tokens are of; count",
    "se": "standard error of the mean with the document as the sampling unit (cluster-robust); "
    "unit of the measure, NaN for one document",
    "df": "degrees of freedom of `se`; NaN for one document",
    "control": "mean in the untrained copy; unit of the measure",
    "q05": "5 % quantile, by fine bins; unit of the measure",
    "q25": "25 % quantile, likewise",
    "median": "median, likewise",
    "q75": "75 % quantile, likewise",
    "q95": "95 % quantile, likewise",
    MODE: "the most frequent token, where the measure is a token",
    "mode_share": "share of the group's tokens that have it; ratio",
    "distinct": "number of different tokens there; count",
}
"""What the columns of a summary mean, by name."""
GROUP_MEANING = "label of the tokens: the group that the row is of"
_INDEX = "that tells the rows of tables apart"


def by_name(declared: Mapping[str, T], name: str) -> T | None:
    """What is declared of a column: under its name, else under a pattern; None if nothing is.

    >>> by_name({"angle": (0, 180), "*_share": (0, 1)}, "peak_share")
    (0, 1)
    """
    if name in declared:
        return declared[name]
    return next((x for pattern, x in declared.items() if fnmatchcase(name, pattern)), None)


def depth_column(names: Iterable[object]) -> str | None:
    """The column of depth among the names of a table's columns, None where there is none.

    >>> depth_column(["prompt", "state", "angle"]), depth_column(["state", "layer"])
    ('state', 'layer')
    """
    known = set(names)
    return next((name for name in DEPTHS if name in known), None)


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
