"""Kinds of the options that several functions take, checked before anything is done with them.

Knows names of options and Python's types; nothing of what the options do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from interp.errors import BadInput

Check = Callable[[Any], bool]


def check_options(**given: Any) -> None:
    """Raises `BadInput` for an option with a value of a kind that it does not take.

    Options that are not in `KINDS`, and those that are None, are not looked at.

    >>> check_options(labels={"kind": ["a", "b"]}, seed=0, target=None)
    """
    for name, value in given.items():
        if value is None or name not in KINDS:
            continue
        fits, told = KINDS[name]
        if not fits(value):
            raise BadInput(f"{name}={value!r} is {type(value).__name__}; {name}= takes {told}")


def names_of(given: str | Iterable[str]) -> tuple[str, ...]:
    """One name, or several, as several; a text is one name and not its letters.

    >>> names_of("radial"), names_of(["radial", "plane"]), names_of([])
    (('radial',), ('radial', 'plane'), ())
    """
    return (given,) if isinstance(given, str) else tuple(given)


def check_numbers(**given: Any) -> None:
    """Raises `BadInput` as `check_options` does, and for None: these options need a value."""
    for name, value in given.items():
        if value is None:
            raise BadInput(f"{name}=None; {name}= takes {KINDS[name][1]}")
    check_options(**given)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool | np.bool_)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _listed(value: Any) -> bool:
    """A sequence of things, such as a list, an array, a column; a text is one thing."""
    listed = isinstance(value, Sequence) or (hasattr(value, "__len__") and hasattr(value, "shape"))
    return listed and not isinstance(value, str | bytes)


def _columns(value: Any) -> bool:
    """A mapping of names to values per row, or to the name of a column."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and (isinstance(x, str) or hasattr(x, "__iter__"))
        for name, x in value.items()
    )


def _functions(value: Any) -> bool:
    return _listed(value) and all(map(callable, value))


def _numbers(value: Any) -> bool:
    return _listed(value) and all(map(_whole, value))


def _pieces(value: Any) -> bool:
    return _listed(value) and all(_text(x) or _whole(x) for x in value)


def _names(value: Any) -> bool:
    return _listed(value) and all(map(_text, value))


WHOLE = (_whole, "a whole number")
NUMBER = (_number, "a number")
FLAG = (_flag, "True or False")
KINDS: Mapping[str, tuple[Check, str]] = {
    "target": (
        _text,
        "one word of the prompts, such as 'her', whose tokens are labelled; answers whose logits "
        "are measured, one token or a list with one per prompt, go into targets=",
    ),
    "targets": (
        lambda x: _text(x) or _whole(x) or hasattr(x, "__iter__"),
        "one token, such as ' her', a list with one per prompt, or ids per position",
    ),
    "labels": (_columns, "a mapping of names to lists with one value per prompt"),
    "token_labels": (_columns, "a mapping of names to lists with one list per prompt"),
    "labellers": (_functions, "a list of functions, such as [interp.prompts.target_word('her')]"),
    "settings": (
        lambda x: isinstance(x, Mapping) and all(map(_text, x)),
        "a mapping, such as {'logit_lens': {'top_k': 3}}",
    ),
    "model_options": (
        lambda x: isinstance(x, Mapping) and all(map(_text, x)),
        "a mapping of options of load_model, such as {'dtype': 'bfloat16'}",
    ),
    "by": (_names, "a list of label columns, such as ['role']"),
    "without_dims": (_numbers, "a list of dimensions of the stream by number, such as [7]"),
    "stop": (_pieces, "a list of tokens, texts or ids, such as ['.']"),
    "spans": (_listed, "a list with the parts of each pair, such as [('Mary', 'Anna Lee')]"),
    "read": (
        lambda x: _text(x) or _names(x),
        "'all', or parts of the prompt: before, changed, after, last",
    ),
    "max_tokens": WHOLE,
    "samples": WHOLE,
    "max_new_tokens": WHOLE,
    "top_k": WHOLE,
    "controls": WHOLE,
    "resamples": WHOLE,
    "seed": WHOLE,
    "sample": WHOLE,
    "shard_pairs": WHOLE,
    "workers": WHOLE,
    "threads": WHOLE,
    "temperature": NUMBER,
    "top_p": NUMBER,
    "confidence": NUMBER,
    "threshold": NUMBER,
    "do_sample": FLAG,
    "prepend_bos": FLAG,
    "truncate": FLAG,
    "patch": FLAG,
    "special": FLAG,
    "resume": FLAG,
    "overwrite": FLAG,
}
"""By option: whether a value is of its kind, and what that is in words."""
