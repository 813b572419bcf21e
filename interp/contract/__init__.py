"""The contract of an analysis: what its author writes, and the state it adds up to."""

from interp.contract.analysis import Analysis as Analysis
from interp.contract.analysis import Batch as Batch
from interp.contract.analysis import Plot as Plot
from interp.contract.leaves import Count as Count
from interp.contract.leaves import Cov as Cov
from interp.contract.leaves import Examples as Examples
from interp.contract.leaves import Histogram as Histogram
from interp.contract.leaves import Leaf as Leaf
from interp.contract.leaves import Moments as Moments
from interp.contract.leaves import Once as Once
from interp.contract.leaves import PerHead as PerHead
from interp.contract.leaves import PerToken as PerToken
from interp.contract.leaves import State as State
from interp.contract.leaves import Sum as Sum
from interp.contract.leaves import TopK as TopK
from interp.contract.leaves import priority as priority
