"""Tables in fixed columns that fit a width: what does not fit beside goes below.

Knows data frames and letters.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import pandas as pd

MOST_KEYS = 3  # columns that are repeated in every block
LEAST = 12  # letters of a text that is cut


def fixed(table: pd.DataFrame, width: int | None = None) -> str:
    """A table as text, numbers with four digits; with a width, in blocks of columns that fit.

    Every block begins with the columns that tell the rows apart. A text that is wider than its
    block is cut, and a last line says so.

    >>> print(fixed(pd.DataFrame({"layer": [0, 1], "a": [1.5, 2.25], "b": ["x", "y"]}), 12))
     layer    a
         0  1.5
         1 2.25
    <BLANKLINE>
     layer b
         0 x
         1 y
    """
    if table.empty:
        return "(no rows)"  # pandas would print its own word for it, and the index
    if width is None:
        return table.to_string(index=False, float_format="{:.4g}".format)
    columns = [_lines(table.iloc[:, [i]]) for i in range(len(table.columns))]
    keys = _keys(table, columns, width)
    room = max(LEAST, width - sum(_wide(columns[i]) + 1 for i in range(keys)))
    cut = [_cut(lines, room if i >= keys else width // 2) for i, lines in enumerate(columns)]
    blocks = ["\n".join(_rows([cut[i] for i in block])) for block in _blocks(cut, keys, width)]
    text = "\n\n".join(blocks)
    if cut == columns:
        return text
    return f"{text}\n… marks texts that were cut to the width of the terminal"


def filled(text: str, width: int | None = None) -> str:
    """Lines broken between words; no word is broken. Without a width they stay as they are."""
    if width is None:
        return text
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def _lines(column: pd.DataFrame) -> list[str]:
    """One column as pandas sets it: the name, then a cell per row, all equally wide."""
    cells = column.iloc[:, 0]
    # One row a line: a cell of several lines would shift the rows of the other columns.
    if not pd.api.types.is_numeric_dtype(cells):
        column = column.map(lambda cell: " ".join(str(cell).splitlines()))
    return column.to_string(index=False, float_format="{:.4g}".format).split("\n")


def _wide(lines: Sequence[str]) -> int:
    return max(map(len, lines))


def _keys(table: pd.DataFrame, columns: Sequence[list[str]], width: int) -> int:
    """The number of first columns that tell the rows apart, and leave room for others."""
    for n in range(1, min(MOST_KEYS, len(columns) - 1) + 1):
        if sum(_wide(lines) + 1 for lines in columns[:n]) > width // 2:
            return max(1, n - 1)
        if not table.iloc[:, :n].astype(str).duplicated().any():
            return n
    return 1


def _cut(lines: Sequence[str], room: int) -> list[str]:
    if _wide(lines) <= room:
        return list(lines)
    stripped = [line.strip() for line in lines]
    return [line if len(line) <= room else f"{line[: room - 1]}…" for line in stripped]


def _blocks(columns: Sequence[Sequence[str]], keys: int, width: int) -> list[list[int]]:
    """Columns by block, each with the keys first."""
    blocks, block = [], list(range(keys))
    for i in range(keys, len(columns)):
        taken = sum(_wide(columns[j]) + 1 for j in block)
        if len(block) > keys and taken + _wide(columns[i]) > width:
            blocks.append(block)
            block = list(range(keys))
        block.append(i)
    return [*blocks, block]


def _rows(columns: Sequence[Sequence[str]]) -> list[str]:
    widths = [_wide(lines) for lines in columns]
    return [
        " ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
