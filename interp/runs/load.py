"""Saved results and corpus runs, read back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from interp._files import kind_of
from interp.runs.results import CORPUS, Results
from interp.runs.saved import load_results

if TYPE_CHECKING:
    from interp.runs.corpus.output import CorpusTables


def load(folder: str | Path) -> Results | CorpusTables:
    """Read what `Results.save` or a corpus run wrote.

    Returns `Results`; for a corpus run that kept a row per token `CorpusTables`, which load
    nothing until asked.
    Raises `BadInput` if the folder holds no results, results of a newer schema, or a run that is
    not finished; `InterpError` if a file of it is missing or damaged.
    """
    folder = Path(folder)
    if kind_of(folder / CORPUS):
        from interp.runs.corpus.output import open_run

        return open_run(folder)
    return load_results(folder)
