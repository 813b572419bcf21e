"""Runs over corpora of any size: shards, workers, resuming, and the tables that they write."""

from interp.runs.corpus.output import CorpusTables, RowTable
from interp.runs.corpus.run import CorpusRun, run_corpus

__all__ = ["CorpusRun", "CorpusTables", "RowTable", "run_corpus"]
