"""Label values: what counts as one, and how they are laid over the tokens of a prompt.

Knows nothing of text or tokenizers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from interp._tokenise import Bools
from interp.errors import BadInput

Objects = npt.NDArray[np.object_]


def per_token(what: str, i: int, value: Any, special: Bools, *, fill: Any) -> Objects:
    """One value per token of prompt `i`: from a scalar, or from values for all or the ordinary."""
    cells = np.full(len(special), fill, dtype=object)
    value = value.tolist() if isinstance(value, Tensor | np.ndarray) else value
    if is_scalar(value):
        cells[:] = plain(what, i, value)
    else:
        values = [plain(what, i, v) for v in _listed(what, i, value)]
        ordinary = int((~special).sum())
        if len(values) not in (len(special), ordinary):
            without = f" (or {ordinary} without the special ones)" if special.any() else ""
            raise BadInput(
                f"{what}, prompt {i}: expected {len(special)} values, one per token{without}; "
                f"got {len(values)}"
            )
        cells[slice(None) if len(values) == len(special) else ~special] = values
    cells.flags.writeable = False
    return cells


def is_scalar(value: Any) -> bool:
    """Whether a value can label a token."""
    return (
        value is None or value is pd.NA or isinstance(value, str | bool | int | float | np.generic)
    )


def _listed(what: str, i: int, value: Any) -> list[Any]:
    if isinstance(value, list | tuple | pd.Series):
        return list(value)
    raise BadInput(
        f"{what}, prompt {i}: {type(value).__name__} is no label; allowed: a string, number or "
        "bool, or a list of them"
    )


def plain(what: str, i: int, value: Any) -> Any:
    """A Python scalar; every kind of missing value becomes None."""
    if not is_scalar(value):
        raise BadInput(
            f"{what}, prompt {i}: {type(value).__name__} is no label; allowed: string, number, bool"
        )
    plain = value.item() if isinstance(value, np.generic) else value
    missing = plain is pd.NA or (isinstance(plain, float) and math.isnan(plain))
    return None if missing else plain


def scalars(name: str, values: Sequence[Any]) -> list[Any]:
    """Values of a label per prompt, none of them a list."""
    rows = list(values)
    for i, value in enumerate(rows):
        if not is_scalar(value):
            raise BadInput(
                f"labels {name!r}: prompt {i} has {type(value).__name__}; labels= takes one value "
                "per prompt, token_labels= one per token"
            )
    return rows


def refuse_mixed(what: str, arrays: Sequence[Objects]) -> None:
    """A label is text, numbers or truth values; a column of several cannot be saved or compared."""
    first: dict[str, int] = {}
    for i, cells in enumerate(arrays):
        for cell in cells:
            if cell is not None:
                number = isinstance(cell, int | float) and not isinstance(cell, bool)
                first.setdefault("number" if number else type(cell).__name__, i)
    if len(first) > 1:
        seen = ", ".join(f"{kind} in prompt {i}" for kind, i in first.items())
        raise BadInput(f"{what} mixes kinds of values: {seen}; make them all text")


def tagged(cell: Any) -> str | None:
    """A label with its type, so that 1, True and "1" differ."""
    return None if cell is None else f"{type(cell).__name__}:{cell!r}"


def frozen(array: Any) -> Any:
    """The same array, protected against writing."""
    array.flags.writeable = False
    return array


def as_mapping(item: Any) -> Mapping[str, Any]:
    """The fields of a mapping, a dataclass, a named tuple or a plain object."""
    if isinstance(item, Mapping):
        return item
    if dataclasses.is_dataclass(item):
        return {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    names = getattr(item, "_fields", None) or getattr(item, "__slots__", None) or vars(item)
    return {name: getattr(item, name) for name in names}
