"""Analyses with sums of their own, over a corpus in shards: the tables of a run in memory."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from analyses.intrinsic_dimension import IntrinsicDimension
from analyses.massive_activations import MassiveActivations
from analyses.mean_position_context import MeanPositionContext
from analyses.settling import Settling
from analyses.spectrum import Spectrum
from analyses.token_curvature import TokenCurvature
from interp.demo import demo_documents
from interp.experiments import massive_dimensions

WHOLE = (IntrinsicDimension(k=4), MeanPositionContext(), Spectrum())
PER_TOKEN = (TokenCurvature(), MassiveActivations(), Settling())


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    texts = [document.text for document in demo_documents()][:14]
    folder = tmp_path_factory.mktemp("corpus") / "out"
    analyses = [*WHOLE, *PER_TOKEN]
    interp.run_corpus("demo", texts, analyses, out=folder, shard_documents=5, progress=False)
    ran = interp.run("demo", texts, analyses, keep="summary", progress=False)
    return interp.load(folder), ran


@pytest.mark.parametrize("analysis", WHOLE, ids=lambda a: a.name())
def test_tables_of_sums_are_those_of_one_run(both, analysis):
    corpus, ran = (results[analysis.name()].frame for results in both)
    assert list(corpus) == list(ran)
    # Halves and groups are drawn by the number of a prompt, and a corpus numbers otherwise.
    drawn = [c for c in ran if c == "dimension_half" or c.endswith(("_low", "_high"))]
    drawn = [c for c in drawn if not c.startswith("matrix_entropy")]
    assert corpus[drawn].notna().all().all()
    corpus, ran = corpus.drop(columns=drawn), ran.drop(columns=drawn)
    np.testing.assert_allclose(corpus.to_numpy(float), ran.to_numpy(float), rtol=2e-4)
    assert corpus["layer"].nunique() == 7


@pytest.mark.parametrize("analysis", PER_TOKEN, ids=lambda a: a.name())
def test_summaries_are_those_of_one_run(both, analysis):
    corpus, ran = (
        results[analysis.name()].frame.set_index(["layer", "value"]).sort_index()
        for results in both
    )
    assert (corpus["n"] == ran["n"]).all()
    assert (corpus["undefined"] == ran["undefined"]).all()
    np.testing.assert_allclose(corpus["mean"], ran["mean"], rtol=1e-4, atol=1e-6)


def test_largest_dimensions_of_a_corpus(both):
    corpus, ran = (massive_dimensions(results).frame for results in both)
    keys = ["layer", "dimension", "states"]
    np.testing.assert_array_equal(corpus[keys], ran[keys])
    np.testing.assert_allclose(corpus["ratio"], ran["ratio"], rtol=1e-4)
