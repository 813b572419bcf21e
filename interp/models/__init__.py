"""Models: loaded, inspected, watched and read out to the vocabulary."""

from interp.models.anatomy import Anatomy as Anatomy
from interp.models.hand_set import BlockWeights as BlockWeights
from interp.models.hand_set import HeadWeights as HeadWeights
from interp.models.hand_set import MlpWeights as MlpWeights
from interp.models.hand_set import hand_set as hand_set
from interp.models.lens.best import Best as Best
from interp.models.lens.head import LensStatistics as LensStatistics
from interp.models.load import load_model as load_model
from interp.models.logit_geometry import prediction_statistics as prediction_statistics
from interp.models.named import get as get
from interp.models.probe import inspect as inspect
from interp.models.rounding import rounded_copy as rounded_copy
from interp.models.translators import Translators as Translators
from interp.models.translators import read_translators as read_translators
from interp.models.untrained import random_copy as random_copy
from interp.models.weights import embedding_matrix as embedding_matrix
from interp.models.weights import position_matrix as position_matrix
from interp.models.weights import tying as tying
from interp.models.weights import unembedding_of as unembedding_of
from interp.models.weights import weight_matrix as weight_matrix
