"""A payload in fewer bytes: without the untrained copy's numbers, and with fewer digits.

Knows the payload; nothing of results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from interp._arrays import Array
from interp.render.packed import packed, unpacked

BITS = 16
"""Binary digits of a number that are kept of 24: it is at most 0.002 % off."""
WITHOUT = (
    f"The explorer of this page is made small: its measures are rounded to {BITS} binary digits "
    "(at most 0.002 % off)"
)
NO_COPY = (
    ", and it leaves out the numbers of the untrained copy, which the figures and tables have; "
    "interp explore on the folder of the results shows them"
)
NONE_HERE = "Left out to keep this page small; interp explore on the folder of the results has it"


def made_small(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload with rounded measures and no control; the page says that it was left out."""
    small = dict(payload)
    small["measures"] = [_small_measure(measure) for measure in payload["measures"]]
    if payload["control_name"] is not None:
        small["missing"] = {**payload["missing"], "control": NONE_HERE}
    small["control_name"] = None
    if small["lens"]:
        small["lens"] = {**small["lens"], "control": None}
    if small["trajectory"]:
        small["trajectory"] = {**small["trajectory"], "control": None}
    if small["attention"]:
        heads = small["attention"]
        bare = {k: [{**x, "control": None} for x in heads[k]] for k in ("statistics", "patterns")}
        small["attention"] = {**heads, **bare}
    return small


def note_of(payload: Mapping[str, Any]) -> str:
    """The sentence that stands with the page of a payload that is made small."""
    return WITHOUT + (NO_COPY if payload["control_name"] is not None else "") + "."


def _small_measure(measure: Mapping[str, Any]) -> dict[str, Any]:
    values = packed(rounded(unpacked(measure["values"])), "f4")
    none = dict.fromkeys(("control", "control_name", "control_band"))
    return {**measure, "values": values, **none}


def rounded(values: Array, bits: int = BITS) -> Array:
    """Float32 numbers with so many significant binary digits, the rest of their bits zero.

    To the nearest; NaN and infinities stay. Zero bits deflate to next to nothing.

    >>> rounded(np.array([1.0, 1 + 2**-15, 1 + 2**-17, np.nan], np.float32)).tolist()
    [1.0, 1.000030517578125, 1.0, nan]
    """
    given = np.ascontiguousarray(values, dtype=np.float32)
    mantissa, exponent = np.frexp(given)
    scale = np.float32(2.0**bits)
    near = np.ldexp(np.rint(mantissa * scale) / scale, exponent)
    return np.where(np.isfinite(near), near, given).astype(np.float32)
