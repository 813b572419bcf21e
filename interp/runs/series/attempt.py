"""One member of a series, measured or failed.

Knows records of members; not what is measured.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from interp.errors import InterpError
from interp.runs.series.members import Member
from interp.runs.series.records import FAILED, MEASURED, record_of

Measured = tuple[dict[str, Any], Any]


def attempted(member: Member, measure: Callable[[], Measured]) -> Measured:
    """The record of a member and what was measured, None where it failed.

    Args:
        measure: returns what the record tells besides, and what was measured.
    """
    started = time.monotonic()
    try:
        more, found = measure()
        more = {"status": MEASURED, **more}
    except Exception as error:  # noqa: BLE001  one bad checkpoint must not cost the others
        # Text only: the traceback would keep the model in memory.
        more, found = {"status": FAILED, "error": _told(error)}, None
    gc.collect()  # bridges are full of cycles, and two at once may not fit
    return record_of(member, **more, seconds=round(time.monotonic() - started, 3)), found


def _told(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, InterpError) else f"{type(error).__name__}: {text}"
