"""What can be refused of a request before its model is loaded, which may take minutes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interp.contract.analysis import Analysis
from interp.contract.columns import refuse_taken
from interp.errors import BadInput, unknown
from interp.models.load import is_embedded
from interp.prompts.batches import check_batching
from interp.prompts.label_values import is_scalar
from interp.prompts.labels import PLACE, refuse_absent
from interp.prompts.prompts import Prompts
from interp.prompts.read import parted, speaker_name, with_names
from interp.prompts.sources import Raw, read


def opened(model: Any, prompts: Any, mask: Any = None) -> Any:
    """Prompts whose source was read to its end, not yet tokenised: `Raw`.

    What is read already, and None, stays as it is. Raises as `interp.prompts.read_prompts` does
    for a name that is no file and no built-in set, and for what cannot be read.
    """
    if prompts is None or isinstance(prompts, Prompts):
        return prompts
    language = "demo" if is_embedded(model) else "english"
    return read(prompts, mask=mask, text_column="text", language=language)


def refuse_reading(chosen: Mapping[str, Analysis]) -> None:
    """Raises `BadInput` where an analysis needs prompts and there are none."""
    reading = next((name for name, a in chosen.items() if a.scope != "weights"), None)
    if reading is not None:
        raise BadInput(
            f"analysis {reading!r} reads prompts: pass some as the second argument (only analyses "
            "of the weights, such as 'embedding', need none)"
        )


def refuse_keep(keep: str, by: Sequence[str]) -> None:
    """Raises for a value of `keep` that there is not, and for groups without a summary."""
    if keep not in ("tokens", "summary"):
        raise unknown("value of keep", keep, ("tokens", "summary"))
    if keep == "tokens" and by:
        raise BadInput(f"by={list(by)} makes groups of a summary: use keep='summary'")


def refuse_batches(max_tokens: int) -> None:
    """Raises `BadInput` for a budget of a batch that holds no token."""
    check_batching(max_tokens, None, "right")


def refuse_target(prompts: Any, target: str | None) -> None:
    """Raises `BadInput` for a target word that is in none of the texts that were read."""
    # A cut text may lose the word later; then the labeller refuses it.
    if target is not None and isinstance(prompts, Raw) and prompts.texts is not None:
        refuse_absent(prompts.texts, target)


def refuse_labels(
    prompts: Any,
    chosen: Mapping[str, Analysis],
    labels: Any,
    token_labels: Any,
    by: Iterable[str],
    *,
    role: bool,
    complete: bool,
) -> None:
    """Raises for labels with the name of a column, and for groups by a label that there is not.

    Args:
        prompts: what `opened` returned.
        labels, token_labels, by: as for `interp.run`.
        role: whether a target word makes the label `role`.
        complete: whether no other labeller adds labels of its own.
    """
    given, names = parted(labels)
    made = [*given, *(token_labels or {}), *(["role"] if role else [])]
    if isinstance(prompts, Prompts):
        known = [*prompts.renamed(names).labels, *made]
    elif isinstance(prompts, Raw):
        if prompts.chats is not None:
            speaker, names = speaker_name(prompts, names)
            made = [speaker, *made]
        prompts = with_names(prompts, names)
        # A column that can be no label is left out later, and then has no name to refuse.
        sure = [name for name, values in prompts.fields.items() if all(map(is_scalar, values))]
        refuse_taken([*sure, *made], chosen)
        known = [*prompts.fields, *_fields_of_words(prompts), *made]
    else:
        known = made
    columns = ["token", "token_id", "special", "word", *dict.fromkeys(known)]
    for label in by if complete else ():
        if label not in columns:
            raise unknown("label", label, columns)


def _fields_of_words(raw: Raw) -> list[str]:
    words = (word for rows in raw.annotations.values() for row in rows for word in row)
    return list(dict.fromkeys(str(key) for word in words for key in word if key not in PLACE))
