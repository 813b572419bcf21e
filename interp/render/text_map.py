"""Words at their places in a plane, in the letters of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

WIDTH, HEIGHT = 78, 22
ENOUGH = 40
NOT_A_GROUP = ("", "noise")


def word_map(table: pd.DataFrame, width: int = WIDTH, height: int = HEIGHT) -> str:
    """As many words as have room, each around its place; the box ends at the outermost words.

    Args:
        table: columns word, x, y and group; words in a group go first, then whole words. Other
            tokens are left out where there are enough words.
        width, height: of the picture, in letters.
    """
    rows = table[np.isfinite(table["x"]) & np.isfinite(table["y"])]
    whole = whole_words(rows["word"].tolist())
    # Marks and pieces of words say little, where there are words enough to fill the picture.
    rows = rows[whole] if sum(whole) >= ENOUGH else rows
    if rows.empty:
        return "(nothing to show)"
    across = _cells(rows["x"], width)
    down = height - 1 - _cells(rows["y"], height)
    grid = [[" "] * width for _ in range(height)]
    for i in _order(rows):
        _write(grid[down[i]], rows["word"].iloc[i].strip() or "·", across[i])
    edge = "─" * width
    return "\n".join([f"┌{edge}┐", *(f"│{''.join(line)}│" for line in grid), f"└{edge}┘"])


def whole_words(words: Sequence[str]) -> list[bool]:
    """Which tokens are words in running text: letters, with a space before them.

    Where no token has a space before it, such as in a file of word vectors, letters are enough.

    >>> whole_words([" her", "ough", "!", "⟨FF⟩"]), whole_words(["her", "!"])
    ([True, False, False, False], [True, False])
    """
    letters = [len(word.strip()) > 1 and word.strip().isalpha() for word in words]
    spaced = [is_word and word[0] == " " for word, is_word in zip(words, letters, strict=True)]
    return spaced if any(spaced) else letters


def _cells(values: pd.Series[float], n: int) -> Any:
    numbers = values.to_numpy(dtype=np.float64)
    spread = np.ptp(numbers) or 1.0
    return np.rint((numbers - numbers.min()) / spread * (n - 1)).astype(int)


def _order(rows: pd.DataFrame) -> Any:
    grouped = ~rows["group"].isin(NOT_A_GROUP)
    whole = np.array(whole_words(rows["word"].tolist()))
    return np.lexsort((np.arange(len(rows)), ~whole, ~grouped))


def _write(line: list[str], word: str, at: int) -> None:
    """Write the word with its middle at a column, where it and a space on each side have room."""
    start = min(max(at - len(word) // 2, 0), len(line) - len(word))
    if start < 0:
        return
    if all(c == " " for c in line[max(start - 1, 0) : start + len(word) + 1]):
        line[start : start + len(word)] = word
