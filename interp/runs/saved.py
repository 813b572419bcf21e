"""Reading of saved results: tables, states and their analyses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from interp._files import (
    EXPERIMENT,
    LAYOUT,
    SERIES,
    from_parquet,
    kind_of,
    read_sealed,
    reading,
    verify,
)
from interp.contract.analysis import Analysis
from interp.contract.registry import get, registered
from interp.errors import BadInput, InterpError, nearest
from interp.runs.results import CONTROL, CORPUS, SCHEMA, Result, Results, refuse_newer
from interp.runs.storage import load_state

REMEDY = "load a copy of the folder, or run and save again"
_UNSEALED = ("schema", "provenance", "analyses")  # keys of results.json before it had a checksum


def load_results(folder: Path, remedy: str = REMEDY) -> Results:
    """Read a folder of `Results.save`, after comparing every file with its checksum.

    Results of versions that wrote no checksums are read without. Raises as `load` does; `remedy`
    is the advice of the message for a damaged file.
    """
    if kind_of(folder / LAYOUT) is None:
        raise BadInput(
            f"{str(folder)!r} holds no results (no {LAYOUT} or {CORPUS} in it){instead(folder)}"
        )
    document = _layout(folder, remedy)
    files = document.get("files")
    verify(folder, files or {}, remedy)
    # By the checksums where there are some: a folder that somebody put there is no control.
    has_control = (folder / CONTROL).is_dir() if files is None else f"{CONTROL}/{LAYOUT}" in files
    control = None
    if has_control:  # a control has no control of its own, whatever lies in its folder
        control = _read(folder / CONTROL, _layout(folder / CONTROL, remedy), remedy, None)
    return _read(folder, document, remedy, control)


def instead(folder: Path) -> str:
    """What a folder without results holds, and how it is read; "" where nothing is known of it.

    Of a folder that is not there, the nearest name of one of results beside it.
    """
    if kind_of(folder) is None:
        return near(folder)
    if kind_of(folder / EXPERIMENT) is None:
        return ""
    with reading(folder / EXPERIMENT, REMEDY) as path:
        name = json.loads(path.read_text(encoding="utf-8")).get("experiment")
    if name != "pairs":
        return f"; it holds the finding {name!r}: open its report.html, or read its tables"
    sides = [str(folder / side) for side in ("clean", "corrupted") if kind_of(folder / side)]
    results = f", and {' and '.join(sides)} the results of its sides" if sides else ""
    return (
        f"; it holds pairs of prompts, which interp.experiments.Pairs.load reads{results}; the "
        "report of the pairs is its report.html"
    )


def near(folder: Path) -> str:
    """The nearest name of a folder of results in the same place, as the end of a message."""
    marks = (LAYOUT, CORPUS, SERIES, EXPERIMENT)
    try:
        beside = [p for p in folder.parent.iterdir() if any(kind_of(p / name) for name in marks)]
    except OSError:
        return ""
    return nearest(str(folder), [str(p) for p in beside])


def _layout(folder: Path, remedy: str) -> dict[str, Any]:
    """The listing of a folder's contents, as JSON values."""
    document = read_sealed(folder / LAYOUT, remedy, _UNSEALED)
    refuse_newer(folder, document["schema"], SCHEMA)
    return document


def _read(
    folder: Path, document: Mapping[str, Any], remedy: str, control: Results | None
) -> Results:
    with reading(folder / "tokens.parquet", remedy) as path:
        tokens = from_parquet(path)
    about = document["analyses"]
    results = [_load_one(folder, name, about[name], tokens, remedy) for name in about]
    return Results(results, document["provenance"], control)


def _load_one(
    folder: Path, name: str, about: Mapping[str, Any], tokens: pd.DataFrame, remedy: str
) -> Result:
    with reading(folder / LAYOUT, remedy):
        analysis = analysis_class(about["class"]).restore(about["parameters"])
        strings = {int(k): v for k, v in about["strings"].items()}
    with reading(folder / f"{name}.safetensors", remedy) as path:
        state = load_state(path)
    with reading(folder / f"{name}.parquet", remedy) as path:
        frame = from_parquet(path)
    frame = frame.rename(columns=names_of_today(analysis, map(str, frame)))
    return Result(name, analysis, state, tokens, strings, tuple(about["notes"]), frame)


def names_of_today(analysis: Analysis, saved: Iterable[str]) -> dict[str, str]:
    """New names of columns by saved ones: where a formula changed its name, the name moves along.

    A table that has the new name already was saved after the change and keeps its columns.
    """
    names = set(saved)
    return {old: new for old, new in analysis.renamed.items() if new not in names}


def analysis_class(path: str) -> type[Analysis]:
    """The class behind `module:name`, if it is registered or imported already."""
    # Nothing else is imported: results from a stranger would otherwise run any module on the path.
    for name, entries in registered().items():
        if len(entries) == 1 and entries[0].value == path:
            return get(name)
    module, _, qualname = path.partition(":")
    kind: Any = sys.modules.get(module)
    for part in qualname.split("."):
        kind = getattr(kind, part, None)
    if not (isinstance(kind, type) and issubclass(kind, Analysis)):
        raise InterpError(
            f"the analysis {path!r} of these results is not registered here; "
            "install or import the package it comes from, then load again"
        )
    return kind
