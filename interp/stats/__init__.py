"""Comparisons between groups of tokens, with their controls.

Knows nothing of models, hooks or analyses: a tidy table comes in, a tidy table goes out.

Tokens of one prompt are not independent, so every interval and every permutation treats the
prompt as the unit that was sampled; the classical tests that take tokens as independent stand
beside them, and a control column says how often those would have been wrong on this very table.
"""

from interp.stats.classical import (
    Effect,
    TTest,
    benjamini_hochberg,
    hedges_g,
    holm,
    moments,
    paired_effects,
    paired_test,
    student_from_moments,
    welch_from_moments,
)
from interp.stats.compare import Comparison, compare
from interp.stats.correlation import correlation
from interp.stats.groups import Means, Omnibus, clustered_omnibus, group_means
from interp.stats.neighbours import cluster_test
from interp.stats.resampling import (
    Interval,
    Permutation,
    clustered_bootstrap,
    clustered_permutation,
)

__all__ = [
    "Comparison",
    "Effect",
    "Interval",
    "Means",
    "Omnibus",
    "Permutation",
    "TTest",
    "benjamini_hochberg",
    "cluster_test",
    "clustered_bootstrap",
    "clustered_omnibus",
    "clustered_permutation",
    "compare",
    "correlation",
    "group_means",
    "hedges_g",
    "holm",
    "moments",
    "paired_effects",
    "paired_test",
    "student_from_moments",
    "welch_from_moments",
]
