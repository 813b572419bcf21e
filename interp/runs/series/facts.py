"""Shape and vocabulary of the members of a series, and what can be compared where they differ.

Knows loaded models by their anatomy and tokenizer; nothing of tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from interp.prompts.tokens import vocabulary_id

FACTS = ("architecture", "n_layers", "d_model", "d_vocab", "tokenizer", "basis", "dtype")
"""What is known of a member once it was loaded."""


def facts_of(model: Any, about: Mapping[str, Any]) -> dict[str, Any]:
    """Shape, type and vocabulary of a model, as JSON values; see `FACTS`.

    Args:
        model: a bridge.
        about: what the provenance of its results says of the model.
    """
    vocabulary = int(getattr(model.cfg, "d_vocab", 0) or 0)
    return facts_in(about, vocabulary, vocabulary_id(getattr(model, "tokenizer", None)))


def facts_in(about: Mapping[str, Any], vocabulary: int, tokenizer: str | None) -> dict[str, Any]:
    """The same where the model is not here: `vocabulary` tokens, and a `vocabulary_id`."""
    kept = {key: about.get(key) for key in FACTS if key not in ("d_vocab", "tokenizer")}
    return kept | {"d_vocab": vocabulary, "tokenizer": tokenizer}


def differences(facts: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Notes on what members differ in, and what can still be compared: `facts` by name."""
    if len(facts) < 2:
        return ()
    sayings: dict[str, tuple[str, str, Callable[[Mapping[str, Any]], str]]] = {
        "tokenizer": (
            "vocabulary",
            "their tokens differ, so that pairs of members are compared word by word (the last "
            "token of each word), and means are over each member's own tokens",
            lambda one: f"{one['d_vocab']} tokens",
        ),
        "d_model": (
            "width",
            "angles, shares, predictions and ranks can be compared; norms, steps and lengths are "
            "in units of each member, and its states have no distance to those of another",
            lambda one: f"{one['d_model']} wide",
        ),
        "n_layers": (
            "depth",
            "layers of the same index stand together, and the deeper ones alone; depth='relative' "
            "compares equal shares of the depth",
            lambda one: f"{' + '.join(map(str, one['n_layers']))} blocks",
        ),
        "basis": (
            "basis of the weights",
            "tables of two bases are not comparable: load them in one",
            lambda one: str(one["basis"]),
        ),
        "dtype": (
            "type of the weights",
            "differences below the rounding of the coarser type mean nothing",
            lambda one: str(one["dtype"]),
        ),
    }
    notes = []
    for key, (what, then, told) in sayings.items():
        if odd := _odd(facts, key):
            first = next(name for name in facts if name not in odd)
            listed = _listed([f"{name!r} ({told(facts[name])})" for name in odd])
            notes.append(f"another {what} than {first!r} ({told(facts[first])}): {listed}; {then}")
    return tuple(notes)


def _odd(facts: Mapping[str, Mapping[str, Any]], key: str) -> list[str]:
    """Names of the members that differ from the first one."""
    values = {name: json.dumps(one[key]) for name, one in facts.items()}
    first = next(iter(values.values()))
    return [name for name, value in values.items() if value != first]


def _listed(items: Sequence[str]) -> str:
    shown = ", ".join(items[:4])
    return f"{shown} and {len(items) - 4} more" if len(items) > 4 else shown
