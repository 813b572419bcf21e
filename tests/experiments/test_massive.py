"""Massive dimensions and the switch that leaves dimensions out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from analyses.massive_activations import MassiveActivations
from analyses.norm import Norm
from analyses.path_length import PathLength
from analyses.spectrum import Spectrum
from interp import BadInput
from interp.errors import UnknownName, Unsupported
from interp.experiments import leave_out_dimensions, massive_dimensions

TOKENS = torch.randint(3, 40, (6, 8), generator=torch.Generator().manual_seed(0))
HUGE = 7


@pytest.fixture
def planted(gpt2):
    """Dimension 7 of the third token is 400 from the second block on."""

    def write(x, hook):
        x = x.clone()
        x[:, 2, HUGE] = 400.0
        return x

    with gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", write)]):
        yield gpt2


# ---- the switch ------------------------------------------------------------------------------


def without(x: torch.Tensor, dims: list[int]) -> np.ndarray:
    out = x.detach().double().numpy().copy()
    out[..., dims] = 0
    return out


def test_norms_and_angles_are_those_of_the_other_dimensions(model):
    dims = (1, 4, 20)
    found = interp.run(model, TOKENS, ["norm", "rotation"], without_dims=dims, progress=False)
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
    for layer in range(model.cfg.n_layers):
        names = (f"blocks.{layer}.hook_resid_{end}" for end in ("pre", "post"))
        a, b = (without(cache[name], list(dims)) for name in names)
        size = np.linalg.norm(a, axis=2), np.linalg.norm(b, axis=2)
        angle = np.degrees(np.arccos((a * b).sum(2) / size[0] / size[1]))
        for name, column, expected in (("norm", "norm", size[1]), ("rotation", "angle", angle)):
            rows = found[name].frame.query(f"layer == {layer}")
            got = rows.sort_values(["prompt", "position"])[column]
            np.testing.assert_allclose(got, expected.ravel(), rtol=1e-4)
    assert found["norm"].notes[-1] == "Without dimensions 1, 4, 20 of the stream, which are 0 here."


def test_terms_still_close_and_the_model_is_as_it_was(gpt2):
    plain = interp.run(gpt2, TOKENS, ["path_length", "next_token"], progress=False)
    both = [PathLength(without_dims=(3,)), "next_token"]
    left_out = interp.run(gpt2, TOKENS, both, progress=False)
    assert left_out["path_length"].frame["closing_error"].max() < 1e-5
    shares = left_out["path_length"].frame[["attn_share", "mlp_share"]].sum(axis=1)
    np.testing.assert_allclose(shares, 1, atol=1e-4)
    assert not left_out["path_length"].frame["norm"].equals(plain["path_length"].frame["norm"])
    assert left_out["next_token"].frame.equals(plain["next_token"].frame)


def test_every_way_to_run_has_it(gpt2, tmp_path):
    analysis = Norm(without_dims=(2, 5))
    ran = interp.run(gpt2, TOKENS, analysis, progress=False)["norm"]
    with interp.attach(gpt2, analysis) as probes, torch.no_grad():
        gpt2(TOKENS)
    with torch.no_grad():
        _, cache = gpt2.run_with_cache(TOKENS)
    cached = interp.from_cache(cache, analysis, tokens=TOKENS, model=gpt2)["norm"]
    expected = ran.frame.sort_values(["layer", "prompt", "position"])["norm"].to_numpy()
    for other in (probes["norm"], cached):
        got = other.frame.sort_values(["layer", "prompt", "position"])["norm"]
        np.testing.assert_allclose(got, expected, rtol=1e-5)
        assert other.notes[-1].startswith("Without dimensions 2, 5")
    loaded = interp.load(interp.Results([ran], {}).save(tmp_path / "out"))["norm"]
    assert loaded.analysis == analysis
    assert loaded.notes == ran.notes


def test_a_corpus_has_it(tmp_path):
    """Its tables, its notes and its manifest, so that it cannot be resumed without."""
    texts = ["the man saw her in a red house", "a queen told her", "the dog met him"] * 3
    options = {"model_options": {}, "progress": False}
    analysis = Norm(without_dims=(2, 5))
    interp.run_corpus("demo", texts, [analysis], out=tmp_path / "c", **options)
    corpus = interp.load(tmp_path / "c")["norm"]
    whole = interp.run("demo", texts, analysis, keep="summary", progress=False)["norm"]
    np.testing.assert_allclose(corpus.frame["mean"], whole.frame["mean"], rtol=1e-5)
    assert corpus.notes[-1].startswith("Without dimensions 2, 5")
    with pytest.raises(BadInput, match="analyses"):
        interp.run_corpus("demo", texts, ["norm"], out=tmp_path / "c", resume=True, **options)


def test_what_needs_the_whole_stream_is_refused_by_name(gpt2):
    for name, reads in (("logit_lens", "logits, readout"), ("attention", "pattern")):
        with pytest.raises(
            Unsupported, match=rf"'{name}' cannot leave out dimensions .*it reads {reads}"
        ):
            interp.run(gpt2, TOKENS, name, without_dims=[1], progress=False)
    with pytest.raises(Unsupported, match="it reads the weights"):
        interp.run(gpt2, None, "embedding", without_dims=[1], progress=False)


@pytest.mark.parametrize("dims", [(24,), (-1,), (0, 99)])
def test_dimensions_that_the_stream_has_not_are_refused(gpt2, dims):
    with pytest.raises(BadInput, match=rf"has the dimensions 0 … 23, not {dims[-1]}"):
        interp.run(gpt2, TOKENS, "norm", without_dims=dims, progress=False)


@pytest.mark.parametrize("kind", [PathLength, Spectrum])
def test_the_laws_hold_without_dimensions(kind):
    interp.check_analysis(replace(kind(), without_dims=(0, 3)))


# ---- experiments -----------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["tokens", "summary"])
def test_a_planted_dimension_is_named_with_its_token(gpt2, keep):
    def write(x, hook):
        x = x.clone()
        x[1, 2, HUGE] = -3000.0
        return x

    with gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", write)]):
        # One batch, in the order of the prompts.
        results = interp.run(gpt2, TOKENS, "massive_activations", keep=keep, progress=False)
    found = massive_dimensions(results)
    top = found.frame.loc[found.frame["ratio"].idxmax()]
    assert (top["dimension"], top["prompt"], top["position"]) == (HUGE, 1, 2)
    assert top["layer"] >= 1
    assert f"in dimension {HUGE} at state" in found.sentence
    assert "prompt 1, token 2" in found.sentence
    assert found.plot().data
    assert set(found.frame) == set(found.columns)


def test_largest_entries_are_those_of_all_states(gpt2):
    analysis = MassiveActivations(top=1000)
    results = interp.run(gpt2, TOKENS, analysis, progress=False)
    rows = results["massive_activations"].frame
    groups = rows.groupby(["layer", "dimension"])["largest"].agg(["size", "max"]).reset_index()
    found = massive_dimensions(results).frame.sort_values(["layer", "dimension"])
    np.testing.assert_array_equal(found["dimension"], groups["dimension"])
    np.testing.assert_array_equal(found["states"], groups["size"])
    np.testing.assert_allclose(found["largest"], groups["max"], rtol=1e-6)


def test_what_has_no_largest_states_is_refused(gpt2):
    results = interp.run(gpt2, TOKENS, "norm", progress=False)
    with pytest.raises(UnknownName, match="massive_activations"):
        massive_dimensions(results)
    with pytest.raises(BadInput, match="'norm' keeps no largest states; pass the results of a run"):
        massive_dimensions(results["norm"])


def test_the_columns_of_a_huge_dimension_are_told_from_those_of_any(planted):
    found = leave_out_dimensions(
        planted, TOKENS, analyses=["norm"], dims=[HUGE], draws=4, progress=False
    )
    frame = found.frame.set_index("layer")
    assert (frame["change"].loc[1:] < -0.5).all()
    assert (frame["beyond_random"].loc[1:] > 5).all()
    assert (frame["random_low"].loc[1:] > -0.1).all()
    assert f"without dimensions {HUGE}, 1 of 1 columns change" in found.sentence
    assert found.plot().data
    plain = interp.run(planted, TOKENS, "norm", progress=False)["norm"].summary()
    np.testing.assert_allclose(frame["mean"], plain["mean"])


def test_the_dimensions_are_found_if_none_are_given(planted):
    found = leave_out_dimensions(
        planted, TOKENS, analyses=["norm"], count=2, draws=2, progress=False
    )
    rows = interp.run(planted, TOKENS, "massive_activations", progress=False)
    counts = rows["massive_activations"].frame["dimension"].value_counts()
    assert found.notes[0].startswith(f"without dimensions {counts.index[0]}, {counts.index[1]};")


def test_a_usual_dimension_is_beyond_random_ones_as_often_as_they_are(gpt2):
    """Of 5 changes in random order the first is outside of the other four with probability 2/5."""
    outside = []
    for dim in range(0, 24, 3):
        found = leave_out_dimensions(
            gpt2, TOKENS, analyses=["norm"], dims=[dim], draws=4, seed=dim, progress=False
        )
        outside.append(found.frame["beyond_random"].iloc[-1] > 0)
    assert 1 <= sum(outside) <= 7  # of 8; outside of that with probability 0.02


def test_leaving_out_refuses_what_cannot_be(gpt2):
    with pytest.raises(Unsupported, match="'logit_lens' cannot leave out dimensions"):
        leave_out_dimensions(gpt2, TOKENS, analyses=["logit_lens"], progress=False)
    with pytest.raises(BadInput, match="draws=1: allowed are .* 2 or more draws"):
        leave_out_dimensions(gpt2, TOKENS, draws=1)
    with pytest.raises(BadInput, match="13 of 24 dimensions leave too few others to draw"):
        leave_out_dimensions(gpt2, TOKENS, dims=range(13), progress=False)
