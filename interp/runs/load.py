"""Reading of saved results, corpus runs and series."""

from __future__ import annotations

from pathlib import Path

from interp._files import SERIES, kind_of
from interp.runs.corpus.output import CorpusTables, open_run
from interp.runs.results import CORPUS, Results
from interp.runs.saved import load_results
from interp.runs.series.result import Series, load_series


def load(folder: str | Path) -> Results | CorpusTables | Series:
    """Read a folder that `Results.save`, a corpus run or a series wrote.

    Returns `Results`; for a corpus run that kept a row per token `CorpusTables`, which load rows
    only when asked; for a series `Series`, finished or not.
    Raises `BadInput` if the folder holds no results, results of a newer schema, or a run that is
    not finished; `InterpError` if a file of it is missing or damaged.
    """
    folder = Path(folder)
    if kind_of(folder / SERIES):
        return load_series(folder)
    return open_run(folder) if kind_of(folder / CORPUS) else load_results(folder)
