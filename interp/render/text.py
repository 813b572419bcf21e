"""Figures as text: the same numbers for a terminal, a screen reader or a log.

Needs no plotting library.
"""

from __future__ import annotations

import pandas as pd

MOST_LINES = 60


def as_text(table: pd.DataFrame) -> str:
    """A table in fixed columns, cut to what can be read."""
    if table.empty:
        return "(nothing to show)"
    text = table.head(MOST_LINES).to_string(index=False)
    more = len(table) - MOST_LINES
    return text + (f"\n… {more} more rows" if more > 0 else "")
