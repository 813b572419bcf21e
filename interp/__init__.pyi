# The public page of the library; read at run time too (`lazy_loader`), so that a name stands here
# once. More names are in the namespaces at the end.
from . import contract as contract
from . import errors as errors
from . import experiments as experiments
from . import geometry as geometry
from . import measures as measures
from . import models as models
from . import prompts as prompts
from . import render as render
from . import runs as runs
from . import stats as stats
from .contract.analysis import Analysis as Analysis
from .contract.analysis import Batch as Batch
from .contract.analysis import Plot as Plot
from .contract.leaves import Count as Count
from .contract.leaves import Cov as Cov
from .contract.leaves import Examples as Examples
from .contract.leaves import Histogram as Histogram
from .contract.leaves import Leaf as Leaf
from .contract.leaves import Moments as Moments
from .contract.leaves import Once as Once
from .contract.leaves import PerHead as PerHead
from .contract.leaves import PerToken as PerToken
from .contract.leaves import State as State
from .contract.leaves import Sum as Sum
from .contract.leaves import TopK as TopK
from .contract.leaves import priority as priority
from .errors import BadInput as BadInput
from .errors import InterpError as InterpError
from .experiments.cause import cause as cause
from .experiments.words import WordVectors as WordVectors
from .models.load import load_model as load_model
from .models.probe import inspect as inspect
from .models.untrained import random_copy as random_copy
from .prompts.labels import gold as gold
from .prompts.labels import regex as regex
from .prompts.labels import spacy_tags as spacy_tags
from .prompts.labels import target_word as target_word
from .prompts.read import read_prompts as read_prompts
from .runs.attach import attach as attach
from .runs.checks.checks import check_analysis as check_analysis
from .runs.corpus.run import run_corpus as run_corpus
from .runs.from_cache import from_cache as from_cache
from .runs.generate import generate as generate
from .runs.load import load as load
from .runs.phantoms.calibrate import calibrate as calibrate
from .runs.phantoms.phantom import Known as Known
from .runs.phantoms.phantom import Phantom as Phantom
from .runs.phantoms.phantom import Trial as Trial
from .runs.results import Result as Result
from .runs.results import Results as Results
from .runs.run import run as run
from .runs.series.run import series as series
from .stats.compare import compare as compare

__version__: str
__all__: list[str]
