"""Where the weights of a bridge are from: file, checksum, and the types that they were stored in.

Knows bridges by one attribute; nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of stored numbers that were not rounded to a few bits."""


def with_origin(bridge: Any, origin: Mapping[str, Any]) -> Any:
    """The same bridge, which now knows where its weights are from."""
    bridge.weights_origin = dict(origin)
    return bridge


def origin_of_weights(bridge: Any) -> dict[str, Any] | None:
    """Where the weights of a bridge are from, as JSON values.

    `weights` in it has the file, its checksum and the number of tensors of each type; of a model
    that `interp get` fetched, there are the package and its licence too. None for models that came
    from another place.
    """
    found: dict[str, Any] | None = getattr(bridge, "weights_origin", None)
    return found


def rounded_types(origin: Mapping[str, Any] | None) -> dict[str, int]:
    """Number of tensors of each type of a few bits.

    >>> rounded_types({"weights": {"tensor_types": {"Q4_1": 210, "F32": 61}}})
    {'Q4_1': 210}
    """
    types = (origin or {}).get("weights", {}).get("tensor_types", {})
    return {name: count for name, count in types.items() if name not in FLOATS}
