"""What a corpus run wrote: merged in the order of shards, and opened without loading all.

Knows the folder's layout; nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.analysis import Analysis, meaning
from interp.controls import RANDOM_INIT
from interp.corpus.documents import Failure
from interp.corpus.files import atomic, read_json
from interp.corpus.manifest import read_manifest
from interp.corpus.shard import SHARDS, Job, prompts_in, state_path, tokens_path, vocabulary_path
from interp.corpus.sources import Shard
from interp.errors import BadInput, InterpError, unknown
from interp.results import (
    CORPUS,
    LAYOUT,
    Result,
    Results,
    analysis_class,
    control_of,
    load_results,
    load_state,
)
from interp.runner import ids_in
from interp.state import State, merge_states

SUMMARY = "summary"
FAILURES = "failures.parquet"
MOST_ROWS = 20_000_000
"""Rows that `RowTable.frame` loads; more have to be chosen."""


def merged(job: Job, shards: Sequence[Shard]) -> dict[str, State]:
    """The states of all shards, merged in their order, so that every run gives the same bits."""
    out: dict[str, State] = {name: {} for name in job.analyses}
    for shard in shards:
        for name in out:
            out[name] = merge_states(out[name], load_state(state_path(job.folder, name, shard)))
    return out


def write_summary(
    job: Job, shards: Sequence[Shard], manifest: Mapping[str, Any], totals: Mapping[str, Any]
) -> None:
    """Merge the shards and write what they come to as saved results."""
    states = merged(job, shards)
    kept = {name: state for name, state in states.items() if state or job.keep == "summary"}
    if not kept:
        return
    tokens = _tokens(job, shards, kept)
    vocabulary = read_json(vocabulary_path(job.folder)) or {}
    notes = tuple(manifest["provenance"]["notes"])
    results = []
    for name, state in kept.items():
        analysis = job.analyses[name]
        strings = {i: vocabulary.get(str(i), f"<{i}>") for i in sorted(ids_in(state, analysis))}
        results.append(Result(name, analysis, state, tokens, strings, notes))
    Results(results, provenance_from(manifest, totals)).save(job.folder / SUMMARY, overwrite=True)


def provenance_from(manifest: Mapping[str, Any], totals: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of results, from a manifest."""
    data, parameters = manifest["data"], manifest["parameters"]
    long = parameters["long"]
    if long == "split" and parameters["overlap"]:
        long += f", overlap {parameters['overlap']} tokens"
    return {
        "model": manifest["model"],
        "readout": manifest["provenance"]["readout"],
        "closing_error": manifest["provenance"]["closing_error"],
        "analyses": parameters["analyses"],
        "versions": manifest["versions"],
        "prompts": {
            "source": data["source"],
            "count": totals["chunks"],
            "documents": totals["documents"],
            "tokens": totals["tokens"],
            "failures": totals["failures"],
            "sha256": data["sha256"],
            "long documents": long,
            "context": parameters["context"],
        },
    }


def _tokens(job: Job, shards: Sequence[Shard], states: Mapping[str, State]) -> pd.DataFrame:
    """Token rows of the prompts that the merged state holds examples of."""
    prompts = list(prompts_in(states))
    paths = [p for s in shards if (p := tokens_path(job.folder, s)).is_file()] if prompts else []
    parts = (pd.read_parquet(path) for path in paths)
    rows = [part for frame in parts if len(part := frame[frame["prompt"].isin(prompts)])]
    if not rows:
        return pd.DataFrame(columns=["prompt", "position", "token", "token_id", "special"])
    return pd.concat(rows, ignore_index=True).sort_values(["prompt", "position"], ignore_index=True)


def write_failures(folder: Path, records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table of what was not measured, also when it is empty."""
    columns = list(Failure.__dataclass_fields__)
    rows = [failure for record in records for failure in record["failures"]]
    frame = pd.DataFrame(rows, columns=columns).astype(
        {"document": np.int64, "chunk": np.int64, "where": str, "reason": str}
    )
    frame = frame.sort_values(["document", "chunk"], kind="stable", ignore_index=True)
    with atomic(folder / FAILURES) as temporary:
        frame.to_parquet(temporary, index=False)
    return frame


# ---- opening ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowTable:
    """The rows of one analysis over a corpus, on the disk.

    Attributes:
        name: of the analysis.
        analysis: the analysis with its parameters.
        paths: the Parquet files, in the order of shards.
    """

    name: str
    analysis: Analysis
    paths: tuple[Path, ...]

    @cached_property
    def dataset(self) -> Any:
        """A `pyarrow.dataset.Dataset` over all parts; nothing is loaded."""
        import pyarrow as pa
        import pyarrow.dataset as ds

        try:
            return ds.dataset([str(p) for p in self.paths], format="parquet")
        except (pa.ArrowException, OSError) as error:
            raise InterpError(f"the rows of {self.name!r} are damaged: {error}") from error

    def __len__(self) -> int:
        return int(self.dataset.count_rows())

    @property
    def columns(self) -> dict[str, str]:
        """Meaning and unit of every value column."""
        found = {str(c): meaning(self.analysis.columns, str(c)) for c in self.dataset.schema.names}
        return {c: doc for c, doc in found.items() if doc is not None}

    def read(self, columns: Sequence[str] | None = None, where: Any = None) -> pd.DataFrame:
        """The chosen columns of the chosen rows, loaded.

        Args:
            columns: names; all unless given.
            where: a `pyarrow.dataset` expression, such as `pyarrow.dataset.field("layer") == 3`.

        Raises `UnknownName` for a column that is not there.
        """
        known = self.dataset.schema.names
        for column in columns or ():
            if column not in known:
                raise unknown(f"column of {self.name!r}", column, known)
        frame: pd.DataFrame = self.dataset.to_table(columns=columns, filter=where).to_pandas()
        return frame

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All rows, with `document` as `prompt` and `document_position` as `position` too.

        The position within a chunk, which says nothing of the document, is in `read` alone.
        Raises `BadInput` for more than `MOST_ROWS`.
        """
        if len(self) > MOST_ROWS:
            raise BadInput(
                f"{self.name!r} has {len(self):,} rows; frame loads at most {MOST_ROWS:,}. Choose: "
                "read(columns=…, where=…), dataset for pyarrow, or DuckDB on the Parquet files; a "
                "run with keep='summary' has moments and quantiles of any corpus"
            )
        frame = self.read()
        frame.insert(0, "prompt", frame["document"])
        return frame.assign(position=frame["document_position"])

    def __repr__(self) -> str:
        columns = ", ".join(self.dataset.schema.names)
        return f"<RowTable {self.name!r}: {len(self):,} rows, columns {columns}>"


class CorpusTables(Mapping[str, RowTable]):
    """The row tables of a corpus run by analysis name; nothing is loaded until asked for.

    Attributes:
        folder: where they are.
        manifest: what the run is of.
        failures: the documents that were not measured, with reasons.
        results: what the analyses keep beside rows (maps, samples, sums), or None.
    """

    def __init__(self, folder: Path, tables: Mapping[str, RowTable], manifest: Any) -> None:
        self.folder, self.manifest, self._tables = folder, manifest, dict(tables)
        self.failures = pd.read_parquet(folder / FAILURES)
        summary = folder / SUMMARY
        self.results: Results | None = (
            load_results(summary) if (summary / LAYOUT).is_file() else None
        )

    def __getitem__(self, name: str) -> RowTable:
        if name not in self._tables:
            raise unknown("table", name, self._tables)
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def report(self, path: str | Path = "report.html", **options: Any) -> Path:
        """The report of what the analyses keep beside rows; `BadInput` where there is nothing."""
        if self.results is None:
            raise BadInput(
                f"the run in {str(self.folder)!r} kept rows only, and a report needs what fits in "
                "memory: run with keep='summary', or read rows and draw them"
            )
        return self.results.report(path, **options)

    def __repr__(self) -> str:
        return (
            "\n".join([f"<CorpusTables in {str(self.folder)!r}", *map(repr, self.values())]) + ">"
        )


def open_run(folder: Path) -> Results | CorpusTables:
    """What a finished corpus run wrote: `Results` of a summary, `CorpusTables` of rows.

    Raises `BadInput` for a run that is not finished, `InterpError` for damaged files.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise InterpError(f"{str(folder / CORPUS)!r} is damaged; run again with resume")
    if not (folder / FAILURES).is_file():
        done = len(list((folder / SHARDS).glob("[0-9]*[0-9].json")))
        raise BadInput(
            f"the run in {str(folder)!r} is not finished ({done} of {manifest['data']['shards']} "
            "shards); run it again with resume"
        )
    if manifest["parameters"]["keep"] == SUMMARY:
        results = load_results(folder / SUMMARY)
        control = control_of(folder)
        if control is None or not (control / CORPUS).is_file():
            return results
        beside = open_run(control)
        return Results(results.values(), results.provenance | {"control": RANDOM_INIT}, beside)  # type: ignore[arg-type]  # a summary as well
    tables = {}
    for name, about in manifest["parameters"]["analyses"].items():
        paths = tuple(sorted((folder / name).glob("part-*.parquet")))
        if paths:
            parameters = {k: v for k, v in about.items() if k != "class"}
            analysis = analysis_class(about["class"]).restore(parameters)
            tables[name] = RowTable(name, analysis, paths)
    return CorpusTables(folder, tables, manifest)
