"""Comparing spaces: maps between them, similarities, and the null beside every score.

Matrices are NumPy float64 `[words, dimensions]`; row i of two spaces is the same word.
"""

from interp.spaces.compare import SpaceComparison, compare_spaces
from interp.spaces.continuations import continuation_divergence, continuation_table
from interp.spaces.drift import Drift, contextual_drift, drift_table
from interp.spaces.layers import LayerComparison, compare_layers
from interp.spaces.maps import SpaceMap, affine, procrustes, relative_residual
from interp.spaces.nulls import Null, orders, permuted, similarity_null
from interp.spaces.retrieval import csls, precision, ranks
from interp.spaces.similarity import Measure, linear_cka, measure, mutual_knn, rsa, svcca
from interp.spaces.states import States, collect_states
from interp.spaces.streamed import CrossMoments, StreamedCka, layer_pairs, streamed_cka
from interp.spaces.vectors import WordSpace, read_word_vectors

__all__ = [
    "CrossMoments",
    "Drift",
    "LayerComparison",
    "Measure",
    "Null",
    "SpaceComparison",
    "SpaceMap",
    "States",
    "StreamedCka",
    "WordSpace",
    "affine",
    "collect_states",
    "compare_layers",
    "compare_spaces",
    "contextual_drift",
    "continuation_divergence",
    "continuation_table",
    "csls",
    "drift_table",
    "layer_pairs",
    "linear_cka",
    "measure",
    "mutual_knn",
    "orders",
    "permuted",
    "precision",
    "procrustes",
    "ranks",
    "read_word_vectors",
    "relative_residual",
    "rsa",
    "similarity_null",
    "streamed_cka",
    "svcca",
]
