"""Comparisons between groups of tokens, with their null distributions.

Knows nothing of models, hooks or analyses: a tidy table comes in, a tidy table goes out.

Tokens of one prompt are correlated, so every interval and every permutation treats the prompt as
the sampling unit (a cluster, in the terms of cluster-robust inference). The classical tests, which
take tokens as independent, are reported as well; the column `shuffled_welch_rate` gives how often
Welch's test would have been wrong on the same table.
"""

# Here and wherever scipy is used its parts are named in full (`scipy.stats.t`): scipy imports them
# on first use, and `scipy.stats` takes half a second, which most commands never need.

from interp.stats.adjusted import adjusted_difference as adjusted_difference
from interp.stats.change_point import ChangePoint as ChangePoint
from interp.stats.change_point import RunsTogether as RunsTogether
from interp.stats.change_point import change_point as change_point
from interp.stats.change_point import is_geometric as is_geometric
from interp.stats.change_point import runs_together as runs_together
from interp.stats.classical import Effect as Effect
from interp.stats.classical import TTest as TTest
from interp.stats.classical import benjamini_hochberg as benjamini_hochberg
from interp.stats.classical import hedges_g as hedges_g
from interp.stats.classical import holm as holm
from interp.stats.classical import moments as moments
from interp.stats.classical import paired_effects as paired_effects
from interp.stats.classical import paired_test as paired_test
from interp.stats.classical import student_from_moments as student_from_moments
from interp.stats.classical import welch_from_moments as welch_from_moments
from interp.stats.compare import compare as compare
from interp.stats.comparison import Comparison as Comparison
from interp.stats.correlation import correlation as correlation
from interp.stats.groups import Means as Means
from interp.stats.groups import Omnibus as Omnibus
from interp.stats.groups import clustered_omnibus as clustered_omnibus
from interp.stats.groups import group_means as group_means
from interp.stats.layer_runs import cluster_test as cluster_test
from interp.stats.nulls import Null as Null
from interp.stats.nulls import orders as orders
from interp.stats.nulls import permuted as permuted
from interp.stats.paired import bounded_band as bounded_band
from interp.stats.paired import first_detected as first_detected
from interp.stats.paired import mean_band as mean_band
from interp.stats.paired import paired_profile as paired_profile
from interp.stats.paired import smallest_p as smallest_p
from interp.stats.paired import within_range as within_range
from interp.stats.resampling import Interval as Interval
from interp.stats.resampling import Permutation as Permutation
from interp.stats.resampling import clustered_bootstrap as clustered_bootstrap
from interp.stats.resampling import clustered_permutation as clustered_permutation
from interp.stats.rotated import Rotated as Rotated
from interp.stats.rotated import rotated_correlation as rotated_correlation
from interp.stats.slopes import Slopes as Slopes
from interp.stats.slopes import clustered_slopes as clustered_slopes
