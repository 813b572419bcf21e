"""What a run is of: parameters, model, data and versions, and whether two runs are the same.

Knows JSON values; nothing of how they came about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.corpus.files import checksum, read_json, write_json
from interp.corpus.rows import SCHEMA
from interp.corpus.shard import Job, record_path
from interp.corpus.sources import Plan, Shard
from interp.errors import BadInput
from interp.results import CORPUS

# Two runs are the same if these agree; the rest of a manifest says where and when.
IDENTITY = ("schema", "parameters", "model", "data", "versions")
_IGNORED = {"model.name", "data.source", "versions.platform", "versions.python"}


def manifest_of(job: Job, described: Mapping[str, Any], plan: Plan, shard: int | None) -> Any:
    """The manifest of a run, as JSON values."""
    model = {**described["model"], "weights": described["weights"]}
    model["device"] = str(model["device"]).partition(":")[0]  # which of several does not matter
    reading = job.reading
    labellers = [_called(labeller) for labeller in reading.labellers]
    document = {
        "schema": SCHEMA,
        "parameters": {
            "analyses": {
                name: {"class": f"{type(a).__module__}:{type(a).__qualname__}"} | a.parameters()
                for name, a in job.analyses.items()
            },
            "keep": job.keep,
            "by": list(job.by),
            "labels": list(job.labels),
            "labellers": labellers,
            **({"renamed": dict(reading.renamed)} if reading.renamed else {}),
            "text_column": reading.text_column,
            "long": reading.long,
            "overlap": reading.overlap,
            "context": reading.limit,
            "prepend_bos": reading.prepend_bos,
            "ids_per_document": reading.stride,
            "max_tokens": job.max_tokens,
            "threads": job.threads,
            "shard_documents": shard,
        },
        "model": model,
        "data": {
            "source": job.source.name,
            "sha256": plan.sha256,
            "documents": plan.documents,
            "bytes": plan.bytes,
            "shards": len(plan.shards),
        },
        "versions": dict(described["versions"]),
        "provenance": {k: described[k] for k in ("readout", "closing_error", "notes")},
    }
    plain: Any = json.loads(json.dumps(document, default=str))
    return plain


def _called(labeller: Any) -> str:
    """A labeller by its function and settings, the same in every process."""
    keywords = getattr(labeller, "keywords", {})
    function = getattr(labeller, "func", labeller)
    name = getattr(function, "__qualname__", type(function).__name__)
    settings = ", ".join(f"{k}={v!r}" for k, v in sorted(keywords.items()))
    return f"{getattr(function, '__module__', '')}:{name}({settings})"


def run_id(manifest: Mapping[str, Any]) -> str:
    """A short name of what the run is of: equal for runs that give equal tables."""
    same = {part: _compared(manifest, part) for part in IDENTITY}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def _compared(manifest: Mapping[str, Any], part: str) -> Any:
    """A part of a manifest without what may differ."""
    value = manifest.get(part)
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if f"{part}.{k}" not in _IGNORED}
    return value


def refuse_difference(folder: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `BadInput` that names the differences, if two manifests are not of the same run."""
    found: list[str] = []
    for part in IDENTITY:
        _differences(part, _compared(earlier, part), _compared(now, part), found)
    if found:
        more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
        raise BadInput(
            f"the run in {str(folder)!r} is another one and cannot be resumed: "
            f"{'; '.join(found[:4])}{more}. Choose another folder, or run it as it was"
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


def read_manifest(folder: Path) -> Any:
    """The manifest of the run in a folder, or None.

    Raises `BadInput` for one of a newer schema.
    """
    manifest = read_json(folder / CORPUS)
    if manifest is not None and manifest.get("schema", 0) > SCHEMA:
        raise BadInput(
            f"{str(folder)!r} was written by a newer version (schema {manifest['schema']}, this "
            f"one reads up to {SCHEMA})"
        )
    return manifest


def write_manifest(folder: Path, manifest: Any) -> None:
    """Write the manifest, whole or not at all."""
    write_json(folder / CORPUS, manifest)


def finished(folder: Path, shard: Shard, run: str) -> Any:
    """The record of a shard that is whole: of this run, and every file as it was written."""
    record = read_json(record_path(folder, shard))
    if not isinstance(record, dict) or record.get("run") != run:
        return None
    for name, expected in record["files"].items():
        path = folder / name
        if not path.is_file() or checksum(path) != expected:
            return None
    return record
