"""Rows of a corpus run, of a sample of the documents or of all, as results in memory.

Knows the columns of the parts; nothing of models.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from interp.contract.analysis import Analysis, meaning
from interp.contract.columns import DOCUMENTS, INDEX
from interp.errors import BadInput
from interp.runs.explorer.payload import SAMPLED
from interp.runs.results import Result, Results

MOST_PARTS = 16  # files that are read
MOST_DOCUMENTS = 64
ATTACHED = {*INDEX, *DOCUMENTS}


def sample_of(
    tables: Mapping[str, Any],
    provenance: Mapping[str, Any],
    of: int,
    wanted: Sequence[int] = (),
) -> Results:
    """Results of some documents of a corpus: the first ones of parts at even distances.

    Args:
        tables: `RowTable` by analysis, parts in the order of shards.
        provenance: of the run.
        of: number of its documents.
        wanted: documents that come first.

    Prompts are documents and positions those in the document, as in `RowTable.frame`. What was
    kept besides rows is not here (`beside.with_kept` adds it).
    Raises `BadInput` for a run without rows.
    """
    if not tables:
        raise BadInput("the run kept no rows, so there is nothing to take a sample of")
    first = next(iter(tables.values()))
    at = np.unique(np.linspace(0, len(first.paths) - 1, MOST_PARTS).round().astype(int))
    names = [first.paths[i].name for i in at]
    each = -(-MOST_DOCUMENTS // len(names))
    spread = [d for name in names for d in _documents(first, name)[:each]]
    documents = list(dict.fromkeys([*wanted, *spread]))[:MOST_DOCUMENTS]
    names = list(dict.fromkeys([*names, *_parts_with(first, wanted)]))
    results = [_result(table, names, documents) for table in tables.values()]
    told = {**provenance, SAMPLED: {"shown": len(documents), "of": of}}
    return Results(results, told)


def as_prompts(rows: pd.DataFrame, samples: int) -> pd.DataFrame:
    """Rows of parts with documents as prompts, and positions in them as positions.

    Args:
        samples: texts per document that a model wrote, each of which is a prompt; 0 for none.
    """
    prompt = rows["document"] * samples + rows["sample"] if samples else rows["document"]
    rows = rows.assign(position=rows["document_position"])
    rows.insert(0, "prompt", prompt)
    if samples:
        rows.insert(list(rows).index("sample"), "given", rows["document"])
    return rows


def _documents(table: Any, name: str) -> list[int]:
    """Numbers of the documents of one part, in their order."""
    part = replace(table, paths=_parts(table, [name]), written={})
    found: list[int] = part.read(["document"], verify=False)["document"].unique().tolist()
    return found


def _parts_with(table: Any, documents: Sequence[int]) -> list[str]:
    """The names of the parts that hold these documents, found by how each part begins."""
    places = range(len(table.paths))
    begins = cache(lambda i: _begin(table.paths[i]))
    found = {bisect_right(places, d, key=begins) - 1 for d in documents}
    return [table.paths[i].name for i in sorted(found) if i >= 0]


def _begin(path: Any) -> int:
    """The first document of a part; -1 of an empty one."""
    import pyarrow.parquet as pq

    batch = next(pq.ParquetFile(path).iter_batches(1, columns=["document"]), None)
    return -1 if batch is None or not len(batch) else int(batch["document"][0].as_py())


def _parts(table: Any, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(path for path in table.paths if path.name in set(names))


def _result(table: Any, names: Sequence[str], documents: Sequence[int]) -> Result:
    import pyarrow.dataset as ds

    some = replace(table, paths=_parts(table, names), written={})
    # The checksum of every page that is read is verified; whole files would be the whole run.
    rows = some.read(where=ds.field("document").isin(list(documents)), verify=False)
    return _result_of(table, as_prompts(rows, table.samples))


def whole_of(tables: Mapping[str, Any], provenance: Mapping[str, Any]) -> Results:
    """Results of all documents of a corpus, as `sample_of` gives them of some.

    Raises `BadInput` for a run without rows, and for more rows than `RowTable.frame` loads.
    """
    if not tables:
        raise BadInput("the run kept no rows, so there is nothing to load")
    return Results([_result_of(table, table.frame) for table in tables.values()], dict(provenance))


def _result_of(table: Any, rows: pd.DataFrame) -> Result:
    """A result in memory of rows whose prompts are documents."""
    # Values of the whole model have layer −1 in the parts, and no such column in memory.
    layered = (rows["layer"] >= 0).any()
    rows = rows.copy(deep=False) if layered else rows.drop(columns="layer")
    for column in [c for c in rows if isinstance(rows[c].dtype, pd.CategoricalDtype)]:
        rows[column] = rows[column].astype(object)
    values = _values(table.analysis, rows)
    index = [c for c in INDEX if c in rows]
    labels = [c for c in rows if c not in {*ATTACHED, *values}]
    tokens = rows.drop_duplicates(["prompt", "position"])
    tokens = tokens[[c for c in (*index, *labels) if c not in ("layer", "head")]]
    tokens = tokens.sort_values(["prompt", "position"], ignore_index=True)
    frame = rows[[*index, *labels, *values]]
    return Result(table.name, table.analysis, {}, tokens, _frame=frame)


def _values(analysis: Analysis, rows: pd.DataFrame) -> list[str]:
    """The columns that the analysis measured; the ids of token columns are not among them."""
    ids = {f"{c}_id" for c in analysis.token_columns}
    found = [str(c) for c in rows if str(c) not in ATTACHED | ids]
    return [c for c in found if meaning(analysis.columns, c) is not None]
