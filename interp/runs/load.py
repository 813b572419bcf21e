"""Reading of saved results and corpus runs."""

from __future__ import annotations

from pathlib import Path

from interp._files import kind_of
from interp.runs.corpus.output import CorpusTables, open_run
from interp.runs.results import CORPUS, Results
from interp.runs.saved import load_results


def load(folder: str | Path) -> Results | CorpusTables:
    """Read a folder that `Results.save` or a corpus run wrote.

    Returns `Results`; for a corpus run that kept a row per token `CorpusTables`, which load rows
    only when asked.
    Raises `BadInput` if the folder holds no results, results of a newer schema, or a run that is
    not finished; `InterpError` if a file of it is missing or damaged.
    """
    folder = Path(folder)
    return open_run(folder) if kind_of(folder / CORPUS) else load_results(folder)
