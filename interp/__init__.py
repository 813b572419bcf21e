"""Measure the residual stream of TransformerLens models: the public names, nothing else.

The names are imported when they are first used, so that `import interp` and the command line
start at once.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    "Analysis": "contract.analysis",
    "Anatomy": "models.anatomy",
    "BadInput": "errors",
    "Batch": "contract.analysis",
    "BrokenPlugin": "errors",
    "Comparison": "stats.comparison",
    "CorpusRun": "runs.corpus.run",
    "CorpusTables": "runs.corpus.output",
    "Count": "contract.leaves",
    "Cov": "contract.leaves",
    "CrossMoments": "measures.streamed",
    "DoseResponse": "experiments.dose_response",
    "Drift": "experiments.drift",
    "Examples": "contract.leaves",
    "GroupComparison": "experiments.groups",
    "Growth": "experiments.growth",
    "Histogram": "contract.leaves",
    "InterpError": "errors",
    "LayerComparison": "experiments.layers",
    "Leaf": "contract.leaves",
    "Moments": "contract.leaves",
    "ObserveError": "errors",
    "OffsetProfile": "measures.attention_offsets",
    "Once": "contract.leaves",
    "PathPrediction": "experiments.path_prediction",
    "PerHead": "contract.leaves",
    "PerToken": "contract.leaves",
    "Plot": "contract.analysis",
    "Probes": "runs.attach",
    "Prompts": "prompts.prompts",
    "Result": "runs.results",
    "Results": "runs.results",
    "RowTable": "runs.corpus.output",
    "SingularDirections": "measures.spectrum",
    "SpaceComparison": "experiments.spaces",
    "Split": "experiments.score_split",
    "State": "contract.leaves",
    "Steer": "experiments.steering",
    "Sum": "contract.leaves",
    "TopK": "contract.leaves",
    "UnknownName": "errors",
    "Unsupported": "errors",
    "WordSpace": "experiments.word_files",
    "WordVectors": "experiments.words",
    "anisotropy": "measures.spectrum",
    "attach": "runs.attach",
    "axis_separation": "measures.axes",
    "by_group": "experiments.groups",
    "check_analysis": "runs.checks.checks",
    "compare": "stats.compare",
    "compare_layers": "experiments.layers",
    "compare_spaces": "experiments.spaces",
    "contextual_drift": "experiments.drift",
    "cosine_parts": "experiments.score_split",
    "covariance_spectrum": "measures.spectrum",
    "decision_depth": "experiments.depth",
    "describe_positions": "measures.positions",
    "describe_vectors": "measures.spectrum",
    "dominant_periods": "measures.positions",
    "dose_response": "experiments.dose_response",
    "embedding_matrix": "models.weights",
    "from_cache": "runs.from_cache",
    "gaussian_share": "measures.paths",
    "gold": "prompts.labels",
    "growth_rate": "experiments.growth",
    "head_types": "experiments.heads",
    "inspect": "models.probe",
    "label_mask": "experiments.steering",
    "load": "runs.load",
    "load_model": "models.load",
    "mean_difference": "experiments.steering",
    "nearest_tokens": "experiments.nearest",
    "offset_profile": "measures.attention_offsets",
    "offset_sums": "measures.attention_offsets",
    "path_prediction": "experiments.path_prediction",
    "position_matrix": "models.weights",
    "prediction_statistics": "models.logit_geometry",
    "principal_axes": "measures.paths",
    "priority": "contract.leaves",
    "random_copy": "models.untrained",
    "random_embedding": "measures.spectrum",
    "random_singular_directions": "measures.spectrum",
    "read_prompts": "prompts.read",
    "read_word_vectors": "experiments.word_files",
    "regex": "prompts.labels",
    "rollout": "experiments.heads",
    "run": "runs.run",
    "run_corpus": "runs.corpus.run",
    "share_interval": "measures.attention_offsets",
    "shift_linearity": "measures.positions",
    "shift_rotation": "measures.positions",
    "shift_test": "experiments.shift",
    "sinusoidal": "measures.positions",
    "sinusoidal_rank": "measures.positions",
    "sinusoidal_share": "measures.positions",
    "spacy_tags": "prompts.labels",
    "split_cosines": "experiments.score_split",
    "split_distance": "experiments.score_split",
    "split_scores": "experiments.score_split",
    "streamed_cka": "measures.streamed",
    "target_word": "prompts.labels",
    "token_id": "prompts.tokens",
    "trustworthiness": "measures.trust",
    "tying": "models.weights",
    "unembedding_difference": "experiments.steering",
    "unembedding_of": "models.weights",
    "walk_share": "measures.paths",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    value = getattr(import_module(f"interp.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
