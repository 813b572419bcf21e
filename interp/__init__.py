"""Measure the residual stream of TransformerLens models: the public names, nothing else.

The names are imported when they are first used, so that `import interp` and the command line
start at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from interp.analysis import Analysis, Batch, Plot
    from interp.anatomy import Anatomy
    from interp.cached import from_cache
    from interp.checks import check_analysis
    from interp.controls import random_copy
    from interp.corpus import CorpusRun, CorpusTables, RowTable, run_corpus
    from interp.doses import DoseResponse, dose_response
    from interp.embedding import (
        anisotropy,
        axis_separation,
        covariance_spectrum,
        describe_vectors,
        embedding_matrix,
        random_embedding,
        trustworthiness,
    )
    from interp.errors import (
        BadInput,
        BrokenPlugin,
        InterpError,
        ObserveError,
        UnknownName,
        Unsupported,
    )
    from interp.experiments import (
        GroupComparison,
        Growth,
        PathPrediction,
        by_group,
        growth_rate,
        path_prediction,
    )
    from interp.heads import head_types, rollout
    from interp.input_split import (
        Split,
        cosine_parts,
        shift_test,
        split_cosines,
        split_distance,
        split_scores,
    )
    from interp.models import load_model
    from interp.positions import (
        describe_positions,
        dominant_periods,
        position_matrix,
        shift_linearity,
        shift_rotation,
        sinusoidal,
        sinusoidal_rank,
        sinusoidal_share,
    )
    from interp.prediction import prediction_statistics
    from interp.probe import inspect
    from interp.profiles import OffsetProfile, offset_profile, offset_sums, share_interval
    from interp.prompts import Prompts, gold, read_prompts, regex, spacy_tags, target_word
    from interp.results import Result, Results, load
    from interp.runner import Probes, attach, run
    from interp.spaces import (
        CrossMoments,
        Drift,
        LayerComparison,
        SpaceComparison,
        WordSpace,
        compare_layers,
        compare_spaces,
        contextual_drift,
        read_word_vectors,
        streamed_cka,
    )
    from interp.state import (
        Count,
        Cov,
        Examples,
        Histogram,
        Leaf,
        Moments,
        Once,
        PerHead,
        PerToken,
        State,
        Sum,
        TopK,
        priority,
    )
    from interp.stats import Comparison, compare
    from interp.steering import Steer, label_mask, mean_difference, unembedding_difference
    from interp.trajectories import gaussian_share, principal_axes, walk_share
    from interp.unembedding import (
        SingularDirections,
        random_singular_directions,
        tying,
        unembedding_of,
    )
    from interp.vocabulary import decision_depth, nearest_tokens, token_id
    from interp.word_vectors import WordVectors

_HOME = {
    "analysis": "Analysis Batch Plot",
    "anatomy": "Anatomy",
    "cached": "from_cache",
    "checks": "check_analysis",
    "controls": "random_copy",
    "corpus": "CorpusRun CorpusTables RowTable run_corpus",
    "doses": "DoseResponse dose_response",
    "embedding": (
        "anisotropy axis_separation covariance_spectrum describe_vectors embedding_matrix "
        "random_embedding trustworthiness"
    ),
    "errors": "BadInput BrokenPlugin InterpError ObserveError UnknownName Unsupported",
    "experiments": "GroupComparison Growth PathPrediction by_group growth_rate path_prediction",
    "heads": "head_types rollout",
    "input_split": "Split cosine_parts shift_test split_cosines split_distance split_scores",
    "models": "load_model",
    "positions": (
        "describe_positions dominant_periods position_matrix shift_linearity "
        "shift_rotation sinusoidal sinusoidal_rank sinusoidal_share"
    ),
    "prediction": "prediction_statistics",
    "probe": "inspect",
    "profiles": "OffsetProfile offset_profile offset_sums share_interval",
    "prompts": "Prompts gold read_prompts regex spacy_tags target_word",
    "results": "Result Results load",
    "runner": "Probes attach run",
    "spaces": (
        "CrossMoments Drift LayerComparison SpaceComparison WordSpace compare_layers "
        "compare_spaces contextual_drift read_word_vectors streamed_cka"
    ),
    "state": (
        "Count Cov Examples Histogram Leaf Moments Once PerHead PerToken State Sum TopK priority"
    ),
    "stats": "Comparison compare",
    "steering": "Steer label_mask mean_difference unembedding_difference",
    "trajectories": "gaussian_share principal_axes walk_share",
    "unembedding": "SingularDirections random_singular_directions tying unembedding_of",
    "vocabulary": "decision_depth nearest_tokens token_id",
    "word_vectors": "WordVectors",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "Analysis",
    "Anatomy",
    "BadInput",
    "Batch",
    "BrokenPlugin",
    "Comparison",
    "CorpusRun",
    "CorpusTables",
    "Count",
    "Cov",
    "CrossMoments",
    "DoseResponse",
    "Drift",
    "Examples",
    "GroupComparison",
    "Growth",
    "Histogram",
    "InterpError",
    "LayerComparison",
    "Leaf",
    "Moments",
    "ObserveError",
    "OffsetProfile",
    "Once",
    "PathPrediction",
    "PerHead",
    "PerToken",
    "Plot",
    "Probes",
    "Prompts",
    "Result",
    "Results",
    "RowTable",
    "SingularDirections",
    "SpaceComparison",
    "Split",
    "State",
    "Steer",
    "Sum",
    "TopK",
    "UnknownName",
    "Unsupported",
    "WordSpace",
    "WordVectors",
    "anisotropy",
    "attach",
    "axis_separation",
    "by_group",
    "check_analysis",
    "compare",
    "compare_layers",
    "compare_spaces",
    "contextual_drift",
    "cosine_parts",
    "covariance_spectrum",
    "decision_depth",
    "describe_positions",
    "describe_vectors",
    "dominant_periods",
    "dose_response",
    "embedding_matrix",
    "from_cache",
    "gaussian_share",
    "gold",
    "growth_rate",
    "head_types",
    "inspect",
    "label_mask",
    "load",
    "load_model",
    "mean_difference",
    "nearest_tokens",
    "offset_profile",
    "offset_sums",
    "path_prediction",
    "position_matrix",
    "prediction_statistics",
    "principal_axes",
    "priority",
    "random_copy",
    "random_embedding",
    "random_singular_directions",
    "read_prompts",
    "read_word_vectors",
    "regex",
    "rollout",
    "run",
    "run_corpus",
    "share_interval",
    "shift_linearity",
    "shift_rotation",
    "shift_test",
    "sinusoidal",
    "sinusoidal_rank",
    "sinusoidal_share",
    "spacy_tags",
    "split_cosines",
    "split_distance",
    "split_scores",
    "streamed_cka",
    "target_word",
    "token_id",
    "trustworthiness",
    "tying",
    "unembedding_difference",
    "unembedding_of",
    "walk_share",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    value = getattr(import_module(f"interp.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
