"""Arrays as text for a page: little-endian bytes in base64, deflated where that saves space.

Knows arrays; nothing of what is in them. A page decodes them into typed arrays, without a parse of
every number.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any, Literal

import numpy as np

from interp._arrays import Array

Kind = Literal["f4", "f2", "i4", "u2", "u1"]
SAVES = 0.9  # deflated only where at most this share of the bytes is left
_LEVEL = 6


def packed(values: Any, kind: Kind) -> dict[str, Any]:
    """An array as JSON values: `dtype`, `shape`, `data`, and how `data` was made smaller.

    Args:
        values: numbers of any shape; row-major in `data`.
        kind: type of a number: `f4` and `f2` (NaN for none), `i4` (−1 for none), `u2`, `u1`.

    With `zip` the bytes are deflated (RFC 1951, without a header); with `shuffle` they were
    transposed before: the first bytes of all numbers, then the second ones, and so on.

    >>> packed([[0, 1], [2, 255]], "u1")
    {'dtype': 'u1', 'shape': [2, 2], 'data': 'AAEC/w=='}
    """
    array = np.ascontiguousarray(values, dtype=np.dtype(f"<{kind}"))
    told: dict[str, Any] = {"dtype": kind, "shape": list(np.shape(values))}
    plain = array.tobytes()
    best, how = _smallest(array, plain)
    if len(best) > SAVES * len(plain):
        best, how = plain, {}
    return told | {"data": base64.b64encode(best).decode("ascii")} | how


def _smallest(array: Array, plain: bytes) -> tuple[bytes, dict[str, bool]]:
    """The deflated bytes, as they are or transposed, whichever is shorter."""
    ways = [(_deflated(plain), {"zip": True})]
    if array.itemsize > 1 and array.size:
        # Exponents of neighbours are alike and mantissas are not: apart, the first deflate well.
        shuffled = array.view(np.uint8).reshape(-1, array.itemsize).T.tobytes()
        ways.append((_deflated(shuffled), {"zip": True, "shuffle": True}))
    return min(ways, key=lambda way: len(way[0]))


def _deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


def unpacked(told: dict[str, Any]) -> Array:
    """The array of `packed`.

    >>> unpacked(packed(np.arange(6.0).reshape(2, 3), "f4")).tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    """
    kind = np.dtype(f"<{told['dtype']}")
    data = base64.b64decode(told["data"])
    if told.get("zip"):
        data = zlib.decompress(data, -zlib.MAX_WBITS)
    if told.get("shuffle"):
        data = np.frombuffer(data, np.uint8).reshape(kind.itemsize, -1).T.tobytes()
    return np.frombuffer(data, kind).reshape(told["shape"])
