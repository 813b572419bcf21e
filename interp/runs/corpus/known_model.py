"""Memory of a run's model: by it a finished run is resumed without loading the model again.

A model is described by a worker that has loaded it. The description is kept with the state of the
files that it was loaded from, as the file system has it: as long as no file was written, replaced
or touched since, nor anything else changed that a description depends on, the model is the same.
Where that is not certain, nothing is known and the model is loaded and compared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from interp._files import kind_of, read_sealed, write_sealed
from interp.errors import InterpError
from interp.models.load import local_place
from interp.runs.corpus.jobs import ShardJob
from interp.runs.corpus.shard import SHARDS
from interp.runs.provenance import versions

FILE = "model.json"
MOST_FILES = 2000  # of a model's folder; in a larger one it is not looked for what has changed


def sources_of(job: ShardJob) -> dict[str, Any] | None:
    """All that the description of a job's model depends on, as JSON values.

    None for what may change without a trace here: a model on the hub, one that is held in memory.
    """
    if not isinstance(job.model, str | Path):
        return None
    place = local_place(str(job.model))
    files = None if place is None else _states(place.resolve())
    if place is None or not files:
        return None
    found = {
        "place": str(place.resolve()),
        "files": files,
        "options": {name: str(value) for name, value in sorted(job.options.items())},
        "untrained": job.untrained,
        "control": job.control,
        "versions": versions(),
        "devices": _devices(),
        "machine": os.uname().nodename if hasattr(os, "uname") else "",
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _states(place: Path) -> dict[str, list[int]] | None:
    """Size, times and number of every file of a model; None where there are too many.

    The time of the last change of a file (ctime) and its number (inode) cannot be set by a program,
    as its size and time of writing can: a copy of other weights is seen by them.
    """
    paths = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    if len(paths) > MOST_FILES:
        return None
    states = {}
    for path in paths:
        s = path.stat()
        name = path.name if path == place else str(path.relative_to(place))
        states[name] = [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev]
    return states


def _devices() -> list[str]:
    """The accelerators of this machine, by which a device is chosen where none is asked for."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [*names, *(["mps"] if torch.backends.mps.is_available() else [])]


def remember(folder: Path, sources: Mapping[str, Any] | None, described: Mapping[str, Any]) -> None:
    """Keep the description of a model whose sources are certain."""
    if sources is None:
        return
    plain = json.loads(json.dumps(dict(described), default=str))
    write_sealed(folder / SHARDS / FILE, {"sources": dict(sources), "described": plain})


def recalled(folder: Path, sources: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The description of a model that still has these sources; None where it is not certain."""
    path = folder / SHARDS / FILE
    if sources is None or kind_of(path) is None:
        return None
    with suppress(InterpError):  # a damaged file is as good as none
        kept = read_sealed(path, "")
        if kept.get("sources") == dict(sources):
            described: dict[str, Any] = kept["described"]
            return described
    return None
