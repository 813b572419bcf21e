"""Rows of a shard as Parquet, written column by column without a Python loop over rows.

The schema is versioned (`SCHEMA`) and the same in every part, which makes a folder of parts one
data set for pyarrow, pandas, DuckDB or Spark. Knows leaves of rows and token tables; nothing of
models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from interp._arrays import Array
from interp.contract.leaves import Rows, State, only
from interp.errors import BadInput
from interp.prompts.tokens import may_be_split
from interp.runs.corpus.documents import Chunks

SCHEMA = 1
"""Version of the columns described in docs/corpus.md."""
INDEX = ("document", "chunk", "position", "document_position", "token", "token_id", "special")
COMPRESSION = "zstd"
_LEVEL = 1  # float columns hardly compress: higher levels cost more time than they save space


class Vocabulary:
    """Dictionary encoding of token ids: texts are looked up once per id, not per row."""

    def __init__(self, texts: Callable[[Iterable[int]], Mapping[int, str]]) -> None:
        self._texts, self._known = texts, {}  # type: ignore[var-annotated]

    def column(self, ids: Array, prompts: Iterable[Sequence[str]] = ()) -> Any:
        """An Arrow dictionary array of the texts of `ids [n]`, with the ids that occur only.

        Bytes of split characters are taken from `prompts`, the texts of the same tokens by
        prompt, because their text depends on the tokens before them.
        """
        import pyarrow as pa

        # Sorting is faster for short columns, counting for long ones.
        present = np.unique(ids) if len(ids) < 1 << 16 else np.flatnonzero(np.bincount(ids))
        fresh = [i for i in present.tolist() if i not in self._known]
        if fresh:
            self._known.update(self._texts(fresh))
        place = np.zeros(int(present[-1]) + 1 if len(present) else 0, dtype=np.int32)
        place[present] = np.arange(len(present), dtype=np.int32)
        words = [self._known[i] for i in present.tolist()]
        codes = place[ids]
        split = [k for k, word in enumerate(words) if may_be_split(word)]
        if split and (texts := list(chain.from_iterable(prompts))):
            more: dict[str, int] = {}
            for row in np.flatnonzero(np.isin(codes, split)).tolist():
                codes[row] = more.setdefault(texts[row], len(words) + len(more))
            words += more
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(words, type=pa.string()))


class TokenTable:
    """The index columns of a window's tokens, in their final order: document, then position.

    Args:
        types: Arrow types of labels that are no text.
    """

    def __init__(
        self,
        chunks: Chunks,
        labels: Sequence[str],
        vocabulary: Vocabulary,
        types: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        import pyarrow as pa

        self.chunks = chunks
        prompts, lengths = chunks.prompts, chunks.prompts.lengths
        chunk = np.repeat(np.arange(len(lengths)), lengths)
        ids = np.concatenate(prompts.tokens)
        columns = {
            "document": pa.array(chunks.documents[chunk]),
            "chunk": pa.array(chunks.numbers[chunk].astype(np.int32)),
            "position": pa.array((np.arange(len(chunk)) - chunks.starts[chunk]).astype(np.int32)),
            "document_position": pa.array(chunks.places.astype(np.int32)),
            "token": vocabulary.column(ids, prompts.strings),
            "token_id": pa.array(ids.astype(np.int32)),
            "special": pa.array(np.concatenate(prompts.left_out)),
        }
        if prompts.massive_first:
            apart = zip(prompts.left_out, prompts.special, strict=True)
            columns["massive"] = pa.array(np.concatenate([all_ & ~own for all_, own in apart]))
        for name, column in chunks.labels(labels).items():
            if name in types:
                columns[name] = pa.array(column.tolist(), type=types[name])
                continue
            cells = [None if cell is None else str(cell) for cell in column]
            columns[name] = pa.array(cells, type=pa.string()).dictionary_encode()
        self._table = pa.table(columns)

    def rows_of(self, prompt: Array, position: Array) -> Array:
        """Rows in this table of tokens given by prompt id and position."""
        # The ids ascend, so that a binary search finds the chunk.
        chunk = np.searchsorted(self.chunks.ids, prompt)
        rows: Array = self.chunks.starts[chunk] + position
        return rows

    def columns(self, rows: Array) -> dict[str, Any]:
        """Arrow columns of the chosen rows."""
        taken = self._table.take(rows)
        return dict(zip(taken.column_names, taken.columns, strict=True))


class RowWriter:
    """Writes the rows of one analysis to one Parquet file, a window at a time.

    Args:
        path: of the file; complete once `close` was called.
        token_columns: values that are token ids; each gets a column with the texts as well.
        vocabulary: texts of token ids.
        metadata: kept in the file.
    """

    def __init__(
        self,
        path: Path,
        token_columns: Sequence[str],
        vocabulary: Vocabulary,
        metadata: Mapping[str, str],
    ) -> None:
        self.path, self.rows = path, 0
        self._tokens, self._vocabulary = tuple(token_columns), vocabulary
        self._metadata = {"interp.schema": str(SCHEMA), **metadata}
        self._writer: Any = None

    def write(self, state: State, table: TokenTable) -> None:
        """Append the rows of all layers of a window; repeated tokens are left out."""
        import pyarrow as pa

        parts = []
        for (_, layer), leaves in sorted(state.items()):
            rows = only(leaves, Rows)
            if rows:
                parts.append(self._layer(layer, rows, table))
        # A window without kept rows writes nothing: a shard of such windows has no file.
        if any(len(part) for part in parts):
            # Layers of one window may differ in columns (blocks without a mid stream, for example).
            self._append(pa.concat_tables(parts, promote_options="default"))

    def _layer(self, layer: int, rows: Mapping[str, Rows], table: TokenTable) -> Any:
        import pyarrow as pa

        chunks = next(iter(rows.values())).chunks
        place = table.rows_of(*(np.concatenate([c[i] for c in chunks]) for i in (0, 1)))
        # Batches are sorted by length; in the file, documents stand in the order of the corpus.
        order = np.argsort(place, kind="stable")
        order = order[~table.chunks.repeated[place[order]]]
        index, heads = place[order], _heads(rows)
        columns = table.columns(np.repeat(index, heads))
        columns["layer"] = pa.array(np.full(len(index) * heads, layer, dtype=np.int16))
        if any(_is_wide(leaf) for leaf in rows.values()):
            columns["head"] = pa.array(np.tile(np.arange(heads, dtype=np.int16), len(index)))
        for name, leaf in rows.items():
            values = np.concatenate([c[2] for c in leaf.chunks])[order]
            flat = values.reshape(-1) if values.ndim == 2 else np.repeat(values, heads)
            columns |= self._value(name, flat)
        return pa.table(columns)

    def _value(self, name: str, values: Array) -> dict[str, Any]:
        import pyarrow as pa

        if name not in self._tokens:
            return {name: pa.array(np.ascontiguousarray(values))}
        ids = values.astype(np.int64)
        return {name: self._vocabulary.column(ids), f"{name}_id": pa.array(ids.astype(np.int32))}

    def _append(self, table: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = table.unify_dictionaries()
        if self._writer is None:
            schema = table.schema.with_metadata(self._metadata)
            self._writer = pq.ParquetWriter(
                self.path,
                schema,
                compression=COMPRESSION,
                compression_level=_LEVEL,
                # Float columns hardly repeat: trying a dictionary on them costs half of the time.
                use_dictionary=[f.name for f in schema if not pa.types.is_floating(f.type)],
                write_statistics=["document", "layer", "head"],
                write_page_checksum=True,
            )
        wanted = self._writer.schema.remove_metadata()
        if set(table.column_names) != set(wanted.names):
            raise BadInput(
                f"the table has columns {', '.join(table.column_names)} in one window and "
                f"{', '.join(wanted.names)} in another; rows of one file must be alike"
            )
        self._writer.write_table(table.select(wanted.names).cast(wanted))
        self.rows += len(table)

    def close(self) -> None:
        """Write the footer, without which the file cannot be read."""
        if self._writer is not None:
            self._writer.close()


def _is_wide(leaf: Rows) -> bool:
    return any(chunk[2].ndim == 2 for chunk in leaf.chunks)


def _heads(rows: Mapping[str, Rows]) -> int:
    """Number of rows per token: one, or one per head."""
    wide = [c[2].shape[1] for leaf in rows.values() for c in leaf.chunks if c[2].ndim == 2]
    return max(wide, default=1)
