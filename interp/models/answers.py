"""Answers whose logits are measured: one token, or one per prompt, as ids of one model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from interp.contract.analysis import Analysis
from interp.errors import BadInput
from interp.prompts.prompts import Prompts
from interp.prompts.tokens import spaced_twin, token_id, token_strings

Answers = int | list[int] | None


def answers_of(model: Any, given: Any, what: str, columns: Collection[str] = ()) -> Answers:
    """Token ids of `given`: of one token's text or id, or of a list with one per prompt.

    Args:
        what: name of the argument, for messages.
        columns: columns or labels of the prompts, one of which may have been meant.

    Returns None for None, and for rows of ids per position, which are no answers of prompts.
    Raises `BadInput` for text that is several tokens of this model or none.
    """
    if given is None:
        return None
    if isinstance(given, str | int | np.integer):
        return _only(model, given, what, columns)
    listed = _listed(given)
    if listed is None or any(not isinstance(item, str | int | np.integer) for item in listed):
        return None
    return [token_id(model, _plain(item), f"{what}[{i}]") for i, item in enumerate(listed)]


def _only(model: Any, given: Any, what: str, columns: Collection[str]) -> int:
    """The id of one token; the error tells of a column of the prompts with that name."""
    try:
        return token_id(model, _plain(given), what.removesuffix("s"))
    except BadInput as error:
        if given not in columns:
            raise
        raise BadInput(
            f"{error}. The prompts have a column {given!r}: for an answer of each prompt pass its "
            f"values, {what}=list(table[{given!r}])"
        ) from error


def columns_of(prompts: Any) -> list[str]:
    """Names of the columns or labels of prompts, whether they are tokenised or not."""
    known = getattr(prompts, "labels", None) or getattr(prompts, "fields", None) or {}
    return list(map(str, known))


def token_texts(model: Any, given: Any) -> dict[int, str]:
    """The text of one answer by its id, as the vocabulary has it; empty for None and for lists."""
    if not isinstance(given, str | int | np.integer) or getattr(model, "tokenizer", None) is None:
        return {}
    return token_strings([token_id(model, _plain(given))], model.tokenizer)


def unspaced(model: Any, prompts: Prompts, *given: Any) -> list[str]:
    """Notes on answers without a leading space whose twin with one is a token as well.

    In running text a word is read as the token with its space. An answer that stands in the
    prompts as it is was meant.
    """
    notes = []
    for text in dict.fromkeys(t for t in given if isinstance(t, str) and t[:1].isalnum()):
        own, twin = token_id(model, text), spaced_twin(model, text)
        if twin in (None, own) or any(own in row for row in prompts.tokens):
            continue
        notes.append(
            f"{text!r} (token {own}) has no space before it and begins no word of the prompts; "
            f"a word within a text is {' ' + text!r} (token {twin})"
        )
    return notes


def second_answers(model: Any, given: Any, columns: Collection[str] = ()) -> Answers:
    """The same for `against=`, which takes nothing else; `BadInput` for rows per position."""
    found = answers_of(model, given, "against", columns)
    if given is not None and found is None:
        raise BadInput("against= takes one token, or one for each prompt: a list of texts or ids")
    return found


def answered(model: Any, prompts: Prompts, targets: Any, against: Any) -> Prompts:
    """The prompts with answers at every position: one token, or one for each prompt.

    Args:
        targets: what is measured; None leaves the next tokens.
        against: second answers, which the first are compared with; None for none.

    Raises `BadInput` for rows of ids per position and for another number than prompts.
    """
    known = columns_of(prompts)
    first = answers_of(model, targets, "targets", known)
    if targets is not None and first is None:
        raise BadInput("targets= takes one token, or one for each prompt: a list of texts or ids")
    second = second_answers(model, against, known)
    texts = token_texts(model, targets) | token_texts(model, against)
    return prompts.aimed_at(first, second, texts)


def _plain(token: Any) -> str | int:
    return token if isinstance(token, str) else int(token)


def _listed(given: Any) -> list[Any] | None:
    """A flat sequence as a list; None for anything with rows."""
    if isinstance(given, Tensor | np.ndarray):
        return list(given.tolist()) if given.ndim == 1 else None
    return list(given) if isinstance(given, Sequence | pd.Series) else None


def refuse_unanswered(analyses: Iterable[Analysis], against: Any) -> None:
    """Raises `BadInput` for an analysis that compares two answers where there is one."""
    for analysis in analyses:
        if analysis.contrasts and against is None:
            raise BadInput(
                f"analysis {analysis.name()!r} compares two answers: pass targets= and against=, "
                "each a token such as ' her', or a list with one per prompt"
            )
