"""Experiments on finished tables: growth of the norm, path and prediction, parts of speech.

Every function takes the results of a run and gives tables with intervals that respect prompts and
with a control beside each statistic.
"""

from interp.experiments.groups import GroupComparison, by_group
from interp.experiments.growth import Growth, growth_rate
from interp.experiments.prediction import PathPrediction, path_prediction

__all__ = [
    "GroupComparison",
    "Growth",
    "PathPrediction",
    "by_group",
    "growth_rate",
    "path_prediction",
]
