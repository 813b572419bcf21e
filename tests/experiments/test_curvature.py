"""Curvature and entropy: coefficients of SciPy, planted associations, and a run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import interp
from analyses.token_curvature import TokenCurvature
from interp import BadInput
from interp.errors import UnknownName
from interp.experiments import curvature_entropy

TEXTS = [
    "the man saw her in a red house and the dog met him on the old road",
    "a queen told her that the small boy gave it to the man in the house",
    "the dog met him on the old road and a queen told the man",
    "she gave it to the small boy in the red house and he saw her",
]


def planted(seed: int, within: float, between: float) -> dict[str, pd.DataFrame]:
    """Two states; at state 1 curvature goes with entropy within prompts and between them."""
    rng = np.random.default_rng(seed)
    prompts, n = 20, 25
    entropy, level = rng.normal(size=(prompts, n)), rng.normal(size=(prompts, 1))
    index = {"prompt": np.repeat(np.arange(prompts), n), "position": np.tile(np.arange(n), prompts)}
    parts = []
    for layer in range(3):
        x = rng.normal(size=(prompts, n)) + (layer == 1) * (within * entropy + between * level)
        parts.append(pd.DataFrame(index | {"layer": layer, "curvature": x.ravel()}))
    out = pd.DataFrame(index | {"entropy": (entropy + 2 * level).ravel(), "top_prob": 0.5})
    return {"token_curvature": pd.concat(parts), "next_token": out}


def test_coefficients_are_scipys():
    tables = planted(0, 0.5, 1.0)
    found = curvature_entropy(tables, resamples=99).frame.set_index(["kind", "layer"])
    y = tables["next_token"]["entropy"].to_numpy()
    for layer in range(3):
        x = tables["token_curvature"].query(f"layer == {layer}")["curvature"].to_numpy()
        prompt = tables["next_token"]["prompt"]
        centred = [v - pd.Series(v).groupby(prompt).transform("mean").to_numpy() for v in (x, y)]
        for kind, pair in (("pooled", (x, y)), ("within", centred)):
            row = found.loc[(kind, layer)]
            assert row["pearson"] == pytest.approx(stats.pearsonr(*pair)[0])
            assert row["spearman"] == pytest.approx(stats.spearmanr(*pair)[0])
            assert row["pearson_low"] <= row["pearson"] <= row["pearson_high"]


def test_an_association_within_prompts_is_found_at_its_state():
    found = curvature_entropy(planted(1, 0.4, 0.0), resamples=199)
    table = found.frame.set_index(["kind", "layer"])
    for kind in ("pooled", "within"):
        assert table.loc[(kind, 1), "pearson_rotated_p_max"] == 0.005
        assert table.loc[(kind, 2), "pearson_rotated_p_max"] > 0.01
    assert "within r = +0.3" in found.sentence
    assert "at state 1" in found.sentence
    assert found.plot().data
    assert set(found.frame) <= set(found.columns) | {
        f"spearman{name.removeprefix('pearson')}" for name in found.columns
    }


def test_one_between_prompts_is_in_the_pooled_coefficient_and_in_its_null():
    table = curvature_entropy(planted(2, 0.0, 1.5), resamples=199).frame
    row = table.set_index(["kind", "layer"]).loc[("pooled", 1)]
    assert row["pearson"] > 0.5
    assert row["pearson_rotated"] == pytest.approx(row["pearson"], abs=0.06)
    assert row["pearson_rotated_p"] > 0.02
    assert abs(table.set_index(["kind", "layer"]).loc[("within", 1), "pearson"]) < 0.1


def test_no_association_is_found_as_often_as_the_level_says():
    p = []
    for seed in range(40):
        frame = curvature_entropy(planted(seed, 0.0, 0.0), resamples=39, seed=seed).frame
        p.append(frame.query("kind == 'within'")["pearson_rotated_p_max"].min())
    # Of 40 at a rate of 0.1, more than 10 have probability 0.002.
    assert sum(np.array(p) <= 0.1) <= 10


@pytest.mark.parametrize("output", ["next_token", "logit_lens"])
def test_a_run_has_it(gpt2, output):
    analyses = [TokenCurvature(first=4), output]
    results = interp.run(gpt2, TEXTS, analyses, control="random-init", progress=False)
    found = curvature_entropy(results, resamples=19)
    states = gpt2.cfg.n_layers + 1
    assert found.frame["layer"].tolist() == [*range(states)] * 2
    assert found.control is not None
    assert f"entropy from '{output}'" in found.notes[0]
    last = results[output].frame
    last = last[last["layer"] == last["layer"].max()] if "layer" in last else last
    merged = found.tokens.query("layer == 1").merge(last, on=["prompt", "position"])
    np.testing.assert_allclose(merged["entropy_x"], merged["entropy_y"])
    known = found.tokens[found.tokens["curvature"].notna()]
    assert known["position"].min() == 4


def test_what_cannot_be_correlated_is_refused(gpt2):
    results = interp.run(gpt2, TEXTS, ["token_curvature", "next_token"], progress=False)
    with pytest.raises(UnknownName, match="value column 'curvatur'; did you mean 'curvature'"):
        curvature_entropy(results, value="curvatur")
    with pytest.raises(BadInput, match="no table here has the entropy of the output per token"):
        curvature_entropy({"token_curvature": results["token_curvature"]})
    short = interp.run(gpt2, ["the man saw"], ["token_curvature", "next_token"], progress=False)
    with pytest.raises(BadInput, match=r"0 tokens have curvature and entropy .*TokenCurvature\(fi"):
        curvature_entropy(short)
