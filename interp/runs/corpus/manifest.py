"""The manifest of a run: parameters, model, data and versions; comparison of two runs.

Knows JSON values; nothing of how they were obtained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from interp._files import kind_of, read_sealed, verify, write_sealed
from interp.contract.analysis import Analysis
from interp.errors import BadInput, InterpError
from interp.runs.corpus.jobs import ShardJob
from interp.runs.corpus.rows import SCHEMA
from interp.runs.corpus.shard import SHARDS, CorpusJob, record_path
from interp.runs.corpus.sources import Plan, Span
from interp.runs.results import CORPUS, refuse_newer

REMEDY = "run it again with resume (--resume), which redoes what is damaged"
# Two runs are the same if these parts agree; the others record circumstances.
IDENTITY = ("schema", "parameters", "model", "data", "versions")
_UNSEALED = (*IDENTITY, "provenance")  # keys of a manifest before it had a checksum
DESCRIBED = (
    *("readout", "closing_error", "notes", "untested_versions", "loaded_from"),
    *("vocabulary", "tokenizer", "uncached"),
)
GENERATE = "generate"  # of the parameters: how documents were continued
ORIGIN = "weights_origin"  # of models from a GGUF file or from `interp get`
# Names and paths may change between two calls; weights and data are compared by their fingerprints.
_IGNORED = {"model.name", "data.source", "versions.platform", "versions.python"}


class AnotherRun(BadInput):
    """The folder holds a run of another model, other data or other settings."""


def manifest_of(job: CorpusJob, described: Mapping[str, Any], plan: Plan, shard: int | None) -> Any:
    """The manifest of a run over documents, as JSON values."""
    parameters = _parameters(job, shard) | _generation(job, described)
    return document_of(job, parameters, described, plan)


def document_of(
    job: ShardJob, parameters: Mapping[str, Any], described: Mapping[str, Any], plan: Plan
) -> Any:
    """The manifest of a run with these parameters, as JSON values."""
    model = {**described["model"], "weights": described["weights"]}
    # Which of several GPUs it was does not matter; a CPU and a GPU round differently.
    model["device"] = str(model["device"]).partition(":")[0]
    document = {
        "schema": SCHEMA,
        "parameters": dict(parameters),
        "model": model,
        "data": {
            "source": job.source.name,
            "sha256": plan.sha256,
            "documents": plan.documents,
            "bytes": plan.bytes,
            "shards": len(plan.shards),
        },
        "versions": dict(described["versions"]),
        "provenance": {k: described[k] for k in (*DESCRIBED, ORIGIN) if k in described},
        "control": None if job.untrained else job.control,
        "untrained": job.untrained,
    }
    # There and back, so that a manifest of this call equals one that was read from the disk.
    plain: Any = json.loads(json.dumps(document, default=str))
    return plain


def _parameters(job: CorpusJob, shard: int | None) -> dict[str, Any]:
    """Everything that decides over the values of the tables, apart from model and data."""
    reading = job.reading
    return {
        "analyses": settings_of(job.analyses),
        "keep": job.keep,
        "by": list(job.by),
        "labels": list(job.labels),
        "labellers": [_called(labeller) for labeller in reading.labellers],
        # Only where it is used: manifests of earlier versions, which lack it, stay equal.
        **({"renamed": dict(reading.renamed)} if reading.renamed else {}),
        "text_column": reading.text_column,
        "long": reading.long,
        "overlap": reading.overlap,
        "context": reading.limit,
        "prepend_bos": reading.prepend_bos,
        "ids_per_document": reading.stride,
        # The shape of batches and the number of threads change the last bits of a sum.
        "max_tokens": job.max_tokens,
        "threads": job.threads,
        "shard_documents": shard,
        **_answers_and_rows(job),
    }


def settings_of(analyses: Mapping[str, Analysis]) -> dict[str, Any]:
    """Class and parameters of every analysis."""
    return {
        name: {"class": f"{type(a).__module__}:{type(a).__qualname__}"} | a.parameters()
        for name, a in analyses.items()
    }


def _generation(job: CorpusJob, described: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a generation, where there is one, with the ids that end a text."""
    if job.generation is None:
        return {}
    return {GENERATE: job.generation.settings() | dict(described.get("writing", {}))}


def _answers_and_rows(job: CorpusJob) -> dict[str, Any]:
    """Answers and kept rows, only where they are given, as with what is renamed."""
    given = {"targets": job.targets, "against": job.against}
    return {name: x for name, x in given.items() if x is not None} | job.kept.record()


def _called(labeller: Any) -> str:
    """The name of a labeller's function with its settings, the same in every process."""
    # Not repr(): that of a function or partial holds an address in memory.
    keywords = getattr(labeller, "keywords", {})
    function = getattr(labeller, "func", labeller)
    name = getattr(function, "__qualname__", type(function).__name__)
    settings = ", ".join(f"{k}={v!r}" for k, v in sorted(keywords.items()))
    return f"{getattr(function, '__module__', '')}:{name}({settings})"


def run_id(manifest: Mapping[str, Any]) -> str:
    """A short identifier of a run's manifest, equal for runs that give equal tables."""
    same = {part: _compared(manifest, part) for part in IDENTITY}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def _compared(manifest: Mapping[str, Any], part: str) -> Any:
    """A part of a manifest without the entries that may differ."""
    value = manifest.get(part)
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if f"{part}.{k}" not in _IGNORED}
    return value


def refuse_difference(folder: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `AnotherRun` with the differences if two manifests are not of the same run."""
    found: list[str] = []
    for part in IDENTITY:
        _differences(part, _compared(earlier, part), _compared(now, part), found)
    if found:
        more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
        raise AnotherRun(
            f"the run in {str(folder)!r} is another one and cannot be resumed: "
            f"{'; '.join(found[:4])}{more}. Use another folder, or repeat the original settings"
        )


def _differences(path: str, a: Any, b: Any, found: list[str]) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            _differences(f"{path}.{key}", a.get(key), b.get(key), found)
    elif a != b:
        found.append(f"{path} was {_short(a)}, now {_short(b)}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the run in a folder.

    Raises `BadInput` for one of a newer schema, `InterpError` for one that is damaged.
    """
    manifest = read_sealed(folder / CORPUS, REMEDY, _UNSEALED)
    refuse_newer(folder, manifest["schema"], SCHEMA)
    return manifest


def adopt(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a run into its folder, if the folder is free or has the same run.

    A damaged manifest is replaced, unless the shards are of another run. Raises `AnotherRun` where
    the folder holds another run.
    """
    earlier = _earlier(folder, manifest)
    if earlier is not None:
        refuse_difference(folder, earlier, manifest)
        manifest["control"] = manifest["control"] or earlier.get("control")
    if earlier != manifest:
        write_sealed(folder / CORPUS, manifest)


def _earlier(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest already in the folder, or None if there is none that can be read."""
    if kind_of(folder / CORPUS) is None:
        return None
    try:
        return read_manifest(folder)
    except BadInput:
        raise
    except InterpError as error:
        if _runs(folder) - {run_id(manifest)}:
            raise AnotherRun(
                f"{error}. But its shards are of a run with other settings, another model or "
                "other data: use another folder, or replace it (--overwrite)"
            ) from error
        return None


def _runs(folder: Path) -> set[str]:
    """Identifiers of the runs that the finished shards in a folder belong to."""
    found = set()
    for path in (folder / SHARDS).glob("[0-9]*[0-9].json"):
        with suppress(InterpError):
            found.add(str(read_sealed(path, REMEDY)["run"]))
    return found


def finished(folder: Path, span: Span, run: str) -> dict[str, Any] | None:
    """The record of shards if they are whole: of this run, with every file as it was written."""
    # Damaged shards are None, not an error: they are measured again, which repairs the run.
    try:
        record = read_sealed(record_path(folder, span), REMEDY)
        if record["run"] != run:
            return None
        verify(folder, record["files"], REMEDY)
    except InterpError:
        return None
    return record
