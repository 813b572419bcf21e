"""Corpora of any size: shards, workers, resuming, and what comes out of them."""

from interp.runs.corpus.output import CorpusTables, RowTable
from interp.runs.corpus.run import CorpusRun, run_corpus

__all__ = ["CorpusRun", "CorpusTables", "RowTable", "run_corpus"]
