"""Output of a corpus run: merged in the order of shards, and opened without loading all of it.

Knows the folder's layout; nothing of models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp._files import (
    LAYOUT,
    SEAL,
    atomic,
    atomic_folder,
    checksum,
    from_parquet,
    kind_of,
    read_json,
    read_sealed,
    reading,
    verify,
    write_sealed,
)
from interp.contract.analysis import Analysis
from interp.contract.leaves import State
from interp.contract.not_measured import not_measured
from interp.errors import BadInput, InterpError, unknown
from interp.models.untrained import RANDOM_INIT
from interp.runs.collect import ids_in, left_out_note, open_note
from interp.runs.column_meanings import row_meanings
from interp.runs.corpus.beside import kept_documents, kind_of_control, with_control, with_kept
from interp.runs.corpus.continuations import SHOWN, TEXTS
from interp.runs.corpus.documents import Failure
from interp.runs.corpus.manifest import GENERATE, ORIGIN, REMEDY, read_manifest, run_id
from interp.runs.corpus.pieces import merged, span_of, tokens_of
from interp.runs.corpus.sample import as_prompts, sample_of, whole_of
from interp.runs.corpus.shard import SHARDS, CorpusJob, prompts_in, vocabulary_path
from interp.runs.corpus.sources import Span
from interp.runs.explorer.page import HEIGHT, Explorer, explorer_of
from interp.runs.generate import NO_CACHE, told_empty, told_past_the_end
from interp.runs.moments_notes import corpus_notes
from interp.runs.results import CONTROL, CORPUS, Result, Results
from interp.runs.results import TEXTS as OF_TEXTS
from interp.runs.saved import analysis_class, load_results
from interp.runs.written import GENERATION

SUMMARY = "summary"
PAIRS = "pairs"
"""What the manifest of a run over pairs of prompts has for `keep`."""
TOTALS = ("documents", "chunks", "tokens", "failures")
FAILURES = "failures.parquet"
# Written last, with totals and checksums of the tables: a folder without it is not finished.
FINISHED = "finished.json"
MOST_ROWS = 20_000_000
"""Largest number of rows that `RowTable.frame` loads; `read` selects among more."""


def write_summary(
    job: CorpusJob, spans: Sequence[Span], manifest: Mapping[str, Any], totals: Mapping[str, Any]
) -> None:
    """Merge the finished shards and write the result as saved `Results`."""
    states = merged(job, spans)
    kept = {name: state for name, state in states.items() if state or job.keep == "summary"}
    if not kept:
        return
    tokens = _tokens(job, spans, kept)
    vocabulary = read_json(vocabulary_path(job.folder)) or {}
    notes = (*manifest["provenance"]["notes"], *_generation_notes(manifest, totals))
    results = []
    for name, state in kept.items():
        analysis = job.analyses[name]
        strings = {i: vocabulary.get(str(i), f"<{i}>") for i in sorted(ids_in(state, analysis))}
        said = filter(
            None,
            [
                job.kept.note(analysis, state),
                open_note(state),
                *corpus_notes(state, totals["tokens"]),
            ],
        )
        own = (*notes, *said, *left_out_note(analysis))
        results.append(Result(name, analysis, state, tokens, strings, own))
    # Whole or absent: a reader, or a crash, must never meet a summary of half of the analyses.
    with atomic_folder(job.folder / SUMMARY) as folder:
        Results(results, provenance_from(manifest, totals, job.folder)).write(folder)


def provenance_from(
    manifest: Mapping[str, Any], totals: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """The provenance of results, from the manifest and the totals of the run in a folder."""
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
        **{k: manifest["provenance"].get(k) for k in ("untested_versions", "loaded_from")},
        **{k: v for k, v in manifest["provenance"].items() if k == ORIGIN},
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
        **_asked(parameters),
        **_generated(parameters, totals, folder),
    }


def _generated(
    parameters: Mapping[str, Any], totals: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """What is told of a generation: its settings, counts of all texts, and the first ones."""
    if GENERATE not in parameters:
        return {}
    # Those of the first documents, in a run that kept all as well.
    texts = _texts_of(folder, range(SHOWN))
    return {GENERATION: parameters[GENERATE] | {"counts": totals["written"], "texts": texts}}


def _generation_notes(manifest: Mapping[str, Any], totals: Mapping[str, Any]) -> Iterator[str]:
    """Notes on texts that are empty or go on after their end, and on a cache that is not used."""
    if GENERATE not in manifest["parameters"]:
        return
    counts, why = totals["written"], manifest["provenance"]["uncached"]
    if counts["empty"]:
        yield f"{told_empty(counts['empty'], counts['texts'])}."
    if counts["longer"]:
        numbers = (counts[name] for name in ("longer", "texts", "after", "new_tokens"))
        yield f"{told_past_the_end(*numbers)}."
    if why is not None:
        yield f"{NO_CACHE}{why}."


def _texts_of(folder: Path, documents: Collection[int]) -> list[dict[str, Any]]:
    """The texts of some documents, as the provenance of a generation tells them."""
    found = texts_in(folder, documents).rename(columns={"document": "given"})
    return [{str(name): cell for name, cell in row.items()} for row in found.to_dict("records")]


def texts_in(folder: Path, documents: Collection[int] | None = None) -> pd.DataFrame:
    """The written texts of a run in the order of documents; all unless some are chosen."""
    parts = [pd.DataFrame(columns=["document", *OF_TEXTS[1:]])]
    for path in sorted((folder / TEXTS).glob("part-*.parquet")):
        with reading(path, REMEDY):
            part = from_parquet(path)
        chosen = part if documents is None else part[part["document"].isin(list(documents))]
        parts += [chosen] if len(chosen) else []
        if documents is not None and part["document"].max() >= max(documents):
            break  # documents ascend
    return pd.concat(parts[1:] or parts, ignore_index=True)


def _asked(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Answers and kept rows, where they were given."""
    kept = {name: parameters[name] for name in ("layers", "positions") if name in parameters}
    answers = {name: parameters[name] for name in ("targets", "against") if name in parameters}
    return {**({"kept": kept} if kept else {}), **({"answers": answers} if answers else {})}


def _tokens(job: CorpusJob, spans: Sequence[Span], states: Mapping[str, State]) -> pd.DataFrame:
    """Token rows of the prompts that the merged state holds examples of."""
    rows = tokens_of(job.folder, spans, prompts_in(states))
    if rows.empty:
        return pd.DataFrame(columns=["prompt", "position", "token", "token_id", "special"])
    return rows.sort_values(["prompt", "position"], ignore_index=True)


def write_failures(folder: Path, records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Write the table of failures, even if it is empty, and return it."""
    columns = list(Failure.__dataclass_fields__)
    rows = [failure for record in records for failure in record["failures"]]
    frame = pd.DataFrame(rows, columns=columns).astype(
        {"document": np.int64, "chunk": np.int64, "where": str, "reason": str}
    )
    # Records arrive in the order in which workers finish, which differs from run to run.
    frame = frame.sort_values(["document", "chunk"], kind="stable", ignore_index=True)
    with atomic(folder / FAILURES) as temporary:
        frame.to_parquet(temporary, index=False)
    return frame


def write_finished(
    job: CorpusJob, records: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]
) -> None:
    """Mark the run as finished, with its totals and the checksums of the files to open."""
    names = [FAILURES, f"{SUMMARY}/{LAYOUT}"]
    files = {name: checksum(p) for name in names if (p := job.folder / name).is_file()}
    tables = {}
    names_of_rows = [*(job.analyses if job.keep == "tokens" else ())]
    names_of_rows += [TEXTS] if job.generation else []
    for name in names_of_rows:
        # The checksums of the records are reused: hashing all rows again would read the whole run.
        parts = {p: s for r in records for p, s in r["files"].items() if Path(p).parts[0] == name}
        rows = sum(record["rows"].get(name, 0) for record in records)
        tables[name] = {"parts": len(parts), "rows": rows, SEAL: _digest(parts)}
    document = {"run": job.run, **totals, "files": files, "tables": tables}
    write_sealed(job.folder / FINISHED, document)


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of a run that can be read."""
    for path in sorted((folder / SHARDS).glob("[0-9]*[0-9].json")):
        with suppress(InterpError):
            yield read_sealed(path, REMEDY)


def _checksum(path: Path) -> str:
    with reading(path, REMEDY):
        return checksum(path)


def _damaged(paths: Sequence[Path], written: str) -> str | None:
    """What of the parts of a table differs from their checksum; None where nothing does."""
    folder = paths[0].parent
    found = {f"{folder.name}/{p.name}": _checksum(p) for p in paths}
    if _digest(found) == written:
        return None
    known = {k: v for r in _records(folder.parent) for k, v in r["files"].items()}
    for name, digest in found.items():
        if known.get(name, digest) != digest:
            return repr(str(folder.parent / name))
    return f"a file in {str(folder)!r}"


def _digest(files: Mapping[str, str]) -> str:
    """One checksum of many files from their own checksums, by name."""
    lines = "".join(f"{name} {files[name]}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


# ---- opening ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowTable:
    """The rows of one analysis over a corpus, on the disk.

    Attributes:
        name: of the analysis.
        analysis: the analysis with its parameters.
        paths: the Parquet files, in the order of shards.
        written: the numbers of `parts` and `rows` that the run wrote, and the `sha256` of all
            parts; empty for a run of a version that wrote no checksums.
        samples: texts per document that the model wrote; 0 in a run without `generate`.
    """

    name: str
    analysis: Analysis
    paths: tuple[Path, ...]
    written: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 0

    @cached_property
    def dataset(self) -> Any:
        """A `pyarrow.dataset.Dataset` over all parts; nothing is loaded.

        pyarrow verifies the checksum of every page that it reads, not those of whole files.
        """
        import pyarrow.dataset as ds

        scan = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        form = ds.ParquetFileFormat(default_fragment_scan_options=scan)
        with reading(self.paths[0], REMEDY):  # whose columns are those of all
            return ds.dataset([str(p) for p in self.paths], format=form)

    def __len__(self) -> int:
        return int(self.written.get("rows") or self.dataset.count_rows())

    def verify(self) -> None:
        """Compare all parts once with the checksums that were written with them.

        Raises `InterpError` with the name of the damaged part.
        """
        if self._damage is not None:
            raise InterpError(f"{self._damage} is damaged; {REMEDY}")

    @cached_property
    def _damage(self) -> str | None:
        if not self.written:
            return None
        return _damaged(self.paths, self.written[SEAL])

    @property
    def columns(self) -> dict[str, str]:
        """Meaning and unit of every column, labels of the documents left out."""
        kind, names = self.analysis, self.dataset.schema.names
        return row_meanings(names, kind.columns, tokens=kind.token_columns)

    def read(
        self, columns: Sequence[str] | None = None, where: Any = None, *, verify: bool = True
    ) -> pd.DataFrame:
        """Load the chosen columns of the chosen rows.

        Args:
            columns: names; all unless given.
            where: a `pyarrow.dataset` expression, such as `pyarrow.dataset.field("layer") == 3`.
            verify: first compare whole files with their checksums, once, which reads all of them;
                otherwise only the pages that are read are verified.

        Raises `UnknownName` for a column that is not there, `InterpError` for damaged files.
        """
        if verify:
            self.verify()
        known = self.dataset.schema.names
        for column in columns or ():
            if column not in known:
                raise unknown(f"column of {self.name!r}", column, known)
        import pyarrow as pa

        try:
            frame: pd.DataFrame = self.dataset.to_table(columns=columns, filter=where).to_pandas()
        except (pa.ArrowException, OSError) as error:
            self.verify()  # knows which file it is
            raise InterpError(
                f"the rows of {self.name!r} cannot be read ({error}); {REMEDY}"
            ) from error
        return frame

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All rows, with `document` as `prompt` and `document_position` as `position` too.

        Of a generation with several samples, `prompt` counts the texts, and `given` the documents.
        The position within a chunk is a column of `read` only, because it depends on the context
        length of the model. Raises `BadInput` for more than `MOST_ROWS`.
        """
        if len(self) > MOST_ROWS:
            raise BadInput(
                f"{self.name!r} has {len(self):,} rows; frame loads at most {MOST_ROWS:,}. Choose: "
                "read(columns=…, where=…), dataset for pyarrow, or DuckDB on the Parquet files; a "
                "run with keep='summary' has moments and quantiles of any corpus"
            )
        return as_prompts(self.read(), self.samples)

    def __repr__(self) -> str:
        columns = ", ".join(self.dataset.schema.names)
        return f"<RowTable {self.name!r}: {len(self):,} rows, columns {columns}>"


class CorpusTables(Mapping[str, RowTable]):
    """The row tables of a corpus run by analysis name, loaded only when asked for.

    Attributes:
        folder: the folder of the run.
        manifest: parameters, model, data and versions of the run.
        failures: the documents that were not measured, with reasons.
        results: what the analyses keep besides rows (maps, samples, sums), or None.
    """

    def __init__(
        self,
        folder: Path,
        tables: Mapping[str, RowTable],
        manifest: Any,
        totals: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.manifest, self._tables = folder, manifest, dict(tables)
        self._totals = dict(totals or {})
        with reading(folder / FAILURES, REMEDY) as path:
            self.failures = pd.read_parquet(path)
        summary = folder / SUMMARY
        self.results: Results | None = (
            load_results(summary, REMEDY) if kind_of(summary / LAYOUT) else None
        )

    def __getitem__(self, name: str) -> RowTable:
        if name not in self._tables:
            raise not_measured("table", name, self._tables)
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    @cached_property
    def texts(self) -> pd.DataFrame:
        """The texts that the model wrote: `document`, `sample`, `prompt` and `text` (what was given
        and what was written), `new_tokens`, and `stopped`, whether a stop token ended it.

        Raises `BadInput` for a run without `generate`, `InterpError` for a damaged file.
        """
        if GENERATE not in self.manifest["parameters"]:
            raise BadInput(
                f"the run in {str(self.folder)!r} wrote no texts; interp.run_corpus(…, generate=N) "
                "(interp run --corpus … --generate N) does"
            )
        written = self._totals["tables"][TEXTS]
        paths = sorted((self.folder / TEXTS).glob("part-*.parquet"))
        _refuse_missing(self.folder / TEXTS, paths, written["parts"])
        if paths and (damage := _damaged(paths, written[SEAL])) is not None:
            raise InterpError(f"{damage} is damaged; {REMEDY}")
        return texts_in(self.folder)

    def report(self, path: str | Path = "report.html", **options: Any) -> Path:
        """Write the report of what the analyses keep besides rows; `BadInput` if it is nothing."""
        if self.results is None:
            raise BadInput(
                f"the run in {str(self.folder)!r} kept rows only, and a report needs what fits in "
                "memory: run with keep='summary', or read rows and draw them"
            )
        return self.results.report(path, **options)

    def sample(self) -> Results:
        """Rows of some documents as results in memory, with what else is known of them.

        The documents of which arrays were kept (the lens' best tokens, attention maps, ways), and
        others at even distances in the corpus. The folder `control`, if it holds a finished run of
        another model over the same corpus, is their control: its rows of the same documents, or its
        means.
        """
        sample = self._sample(kept_documents(self.results, self.manifest))
        found = _other_run(self.folder / CONTROL)
        if found is None:
            return sample
        manifest, control = found
        kind = kind_of_control(self.manifest, manifest)
        if kind is None:
            return sample
        if isinstance(control, CorpusTables):
            control = control._sample(sample.tokens["prompt"].unique().tolist())
        return with_control(sample, control, kind)

    def _sample(self, wanted: Sequence[int]) -> Results:
        of = int(self._totals.get("documents", 0))
        rows = self._with_texts(sample_of(self._tables, self.provenance, of, wanted))
        return with_kept(rows, self.results, self.manifest)

    def whole(self) -> Results:
        """The rows of all documents as results in memory; `BadInput` for more than `MOST_ROWS`.

        Prompts are documents, and positions those in the document, as in `RowTable.frame`.
        """
        return self._with_texts(whole_of(self._tables, self.provenance))

    def _with_texts(self, found: Results) -> Results:
        """The results, with the texts of their own documents in place of the first ones."""
        if GENERATION in found.provenance:
            texts = _texts_of(self.folder, set(found.tokens["given"]))
            found.provenance[GENERATION] = found.provenance[GENERATION] | {"texts": texts}
        return found

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the rows are of, as in `Results.provenance`."""
        totals = {name: self._totals.get(name, 0) for name in TOTALS}
        totals |= {"written": self._totals.get("written", {})}
        return provenance_from(self.manifest, totals, self.folder)

    def explore(self, title: str | None = None, *, height: int = HEIGHT) -> Explorer:
        """The explorer of a sample of the documents, as `Results.explore` makes it."""
        return explorer_of(self.sample(), title, height=height)

    def __repr__(self) -> str:
        return (
            "\n".join([f"<CorpusTables in {str(self.folder)!r}", *map(repr, self.values())]) + ">"
        )


def open_run(folder: Path) -> Results | CorpusTables:
    """Open a finished corpus run: `Results` of a summary, `CorpusTables` of rows.

    Raises `BadInput` for a run that is not finished, `InterpError` for damaged files.
    """
    manifest, done = _opened(folder)
    if manifest["parameters"]["keep"] == PAIRS:
        raise BadInput(
            f"{str(folder)!r} holds a run over pairs of prompts; "
            "interp.experiments.Pairs.load opens it"
        )
    if manifest["parameters"]["keep"] != SUMMARY:
        tables = _tables(folder, manifest["parameters"], done.get("tables"))
        return CorpusTables(folder, tables, manifest, done)
    results = load_results(folder / SUMMARY, REMEDY)
    unsealed = "control" not in manifest and kind_of(folder / CONTROL / CORPUS)
    if not (unsealed or manifest.get("control")):
        return results
    copy, _ = _opened(folder / CONTROL)
    if not (unsealed or copy.get("untrained")):
        raise InterpError(f"{str(folder / CONTROL)!r} holds no run of an untrained copy; {REMEDY}")
    control = load_results(folder / CONTROL / SUMMARY, REMEDY)
    return Results(results.values(), results.provenance | {"control": RANDOM_INIT}, control)


def _other_run(folder: Path) -> tuple[dict[str, Any], Results | CorpusTables] | None:
    """Manifest and tables of a finished run in a folder; None where there is none."""
    if kind_of(folder / CORPUS) is None or kind_of(folder / FINISHED) is None:
        return None
    return read_manifest(folder), open_run(folder)


def _opened(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest of a finished run and its totals, after verifying its files."""
    manifest, unfinished = read_manifest(folder), kind_of(folder / FINISHED) is None
    if unfinished and "control" not in manifest and kind_of(folder / FAILURES):
        return manifest, {}  # of a version that wrote no checksums
    if unfinished:
        done = sum(span_of(record).size for record in _records(folder))
        raise BadInput(
            f"the run in {str(folder)!r} is not finished ({done} of {manifest['data']['shards']} "
            f"shards): it has no {FINISHED}; run it again with resume"
        )
    found = read_sealed(folder / FINISHED, REMEDY)
    if found["run"] != run_id(manifest):
        raise InterpError(
            f"{str(folder / CORPUS)!r} and {FINISHED} next to it are of different runs; {REMEDY}"
        )
    verify(folder, found["files"], REMEDY)
    return manifest, found


def _tables(
    folder: Path, parameters: Mapping[str, Any], written: Mapping[str, Any] | None
) -> dict[str, RowTable]:
    """The tables of rows by analysis; empty ones are left out."""
    tables = {}
    samples = parameters.get(GENERATE, {}).get("samples", 0)
    for name, about in parameters["analyses"].items():
        paths = tuple(sorted((folder / name).glob("part-*.parquet")))
        known = (written or {}).get(name, {})
        _refuse_missing(folder / name, paths, known.get("parts", len(paths)))
        if paths:
            parameters = {k: v for k, v in about.items() if k != "class"}
            with reading(folder / CORPUS, REMEDY):
                analysis = analysis_class(about["class"]).restore(parameters)
            tables[name] = RowTable(name, analysis, paths, known, samples)
    return tables


def _refuse_missing(folder: Path, paths: Sequence[Path], parts: int) -> None:
    if len(paths) != parts:
        raise InterpError(
            f"{str(folder)!r} has {len(paths)} of the {parts} parts that were written; {REMEDY}"
        )
