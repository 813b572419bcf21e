"""Measure the residual stream of TransformerLens models."""

__version__ = "0.1.0"

from interp.analysis import Analysis, Batch, Plot
from interp.anatomy import Anatomy
from interp.checks import check_analysis
from interp.errors import (
    BadInput,
    BrokenPlugin,
    InterpError,
    ObserveError,
    UnknownName,
    Unsupported,
)
from interp.models import load_model
from interp.probe import inspect
from interp.prompts import Prompts, gold, read_prompts, regex, spacy_tags, target_word
from interp.registry import names as list_analyses
from interp.results import Result, Results, load
from interp.runner import Probes, attach, run
from interp.state import (
    Count,
    Cov,
    Examples,
    Histogram,
    Leaf,
    Moments,
    PerHead,
    PerToken,
    State,
    Sum,
    TopK,
    priority,
)
from interp.stats import Comparison, compare

__all__ = [
    "Analysis",
    "Anatomy",
    "BadInput",
    "Batch",
    "BrokenPlugin",
    "Comparison",
    "Count",
    "Cov",
    "Examples",
    "Histogram",
    "InterpError",
    "Leaf",
    "Moments",
    "ObserveError",
    "PerHead",
    "PerToken",
    "Plot",
    "Probes",
    "Prompts",
    "Result",
    "Results",
    "State",
    "Sum",
    "TopK",
    "UnknownName",
    "Unsupported",
    "attach",
    "check_analysis",
    "compare",
    "gold",
    "inspect",
    "list_analyses",
    "load",
    "load_model",
    "priority",
    "read_prompts",
    "regex",
    "run",
    "spacy_tags",
    "target_word",
]
