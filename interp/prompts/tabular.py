"""Tables in memory: pandas, pyarrow, data sets of `datasets`, and whatever exports Arrow.

Whatever format a data set was set to (`with_format("torch")`), its values come out as Python's.
Knows columns and rows; nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from interp.errors import BadInput
from interp.prompts.formats import Row, arrow_rows


def is_tabular(source: Any) -> bool:
    """True if a source is a table or data set, and not one of its rows or columns."""
    if isinstance(source, pd.DataFrame | pd.Series):
        return isinstance(source, pd.DataFrame)
    exports = hasattr(source, "__arrow_c_stream__")
    streams = hasattr(source, "with_format") and hasattr(source, "features")
    arrow = exports and (hasattr(source, "schema") or hasattr(source, "columns"))
    return arrow or streams or getattr(source, "column_names", None) is not None


def table_name(source: Any) -> str:
    """Name of a table in messages."""
    if isinstance(source, pd.DataFrame):
        return "pandas DataFrame"
    kind = type(source)
    return f"pyarrow {kind.__name__}" if kind.__module__.startswith("pyarrow") else "dataset"


def table_columns(source: Any) -> list[str] | None:
    """The columns of a table; None for a streaming data set that does not know them.

    Raises `BadInput` for a data set with several splits and for names that repeat.
    """
    names = list(source.columns) if isinstance(source, pd.DataFrame) else _declared(source)
    if isinstance(names, Mapping):
        splits = ", ".join(map(str, names))
        raise BadInput(f"the dataset has several splits ({splits}); pass one of them")
    if names is None:
        return None
    found = [str(name) for name in names]
    if len(set(found)) < len(found):
        raise BadInput(f"{table_name(source)}: column names repeat ({', '.join(found)})")
    return found


def _declared(source: Any) -> Any:
    if hasattr(source, "column_names"):
        return source.column_names
    schema = getattr(source, "schema", None)
    return getattr(schema, "names", None) or getattr(source, "columns", None)


def table_rows(source: Any, columns: Sequence[str] | None = None) -> list[Row]:
    """All rows of a table as Python values, or the chosen columns of them."""
    if isinstance(source, pd.DataFrame):
        rows = _frame_rows(source)
    elif hasattr(source, "num_rows") and hasattr(source, "with_format"):
        # By Arrow: with any other format a data set hands out tensors or arrays of its own.
        rows = arrow_rows(source.with_format("arrow")[:])
    elif hasattr(source, "__arrow_c_stream__"):
        rows = arrow_rows(_as_arrow(source))
    else:
        plain = source.with_format(None) if hasattr(source, "with_format") else source
        rows = [dict(row) for row in plain]
    if columns is None:
        return rows
    return [{name: row[name] for name in columns if name in row} for row in rows]


def _frame_rows(frame: pd.DataFrame) -> list[Row]:
    cells = [frame[name].tolist() for name in frame.columns]
    names = [str(name) for name in frame.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


def _as_arrow(source: Any) -> Any:
    import pyarrow as pa

    return source if isinstance(source, pa.Table) else pa.table(source)
