"""Steps from token to token: ways of known shape, and a real pass in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from analyses.token_curvature import TokenCurvature
from interp import BadInput
from interp.measures import token_steps, trailing_mean

TOKENS = torch.tensor([[5, 9, 2, 7, 1, 3, 8, 6, 4, 2], [4, 5, 8, 3, 6, 1, 9, 2, 5, 7]])


def steps(x: np.ndarray):
    follows = torch.ones(len(x), dtype=torch.bool)
    follows[0] = False
    return token_steps(torch.from_numpy(x), follows)


@pytest.mark.parametrize("degrees", [1e-6, 0.01, 30.0, 90.0, 179.0])
def test_a_way_on_a_regular_polygon_turns_by_its_exterior_angle(degrees):
    turns = np.radians(degrees) * np.arange(6)
    lengths = np.array([1.0, 4, 2, 9, 3, 5])
    step = lengths[:, None] * np.stack([np.cos(turns), np.sin(turns), 0 * turns], axis=1)
    found = steps(np.concatenate([np.zeros((1, 3)), step.cumsum(0)]))
    np.testing.assert_allclose(found.turn[2:], degrees, rtol=1e-6)
    np.testing.assert_allclose(found.speed[1:], lengths, rtol=1e-6)
    assert found.speed[:1].isnan().all()
    assert found.turn[:2].isnan().all()


@pytest.mark.parametrize(("walk", "degrees"), [(False, 120), (True, 90)])
def test_unrelated_states_are_at_120_degrees_and_random_walks_at_90(walk, degrees):
    x = np.random.default_rng(0).normal(size=(4000, 300))
    found = steps(x.cumsum(0) if walk else x).turn[2:]
    assert found.mean().item() == pytest.approx(degrees, abs=0.3)


def test_states_that_stand_still_have_speed_0_and_no_angle():
    found = steps(np.zeros((5, 3)))
    assert found.speed[1:].tolist() == [0.0] * 4
    assert found.turn.isnan().all()


def test_trailing_mean_is_that_of_pandas():
    import pandas as pd

    x = np.random.default_rng(0).normal(size=(3, 20))
    x[1, 7] = np.nan
    for window in (1, 2, 5, 30):
        expected = pd.DataFrame(x.T).rolling(window).mean().to_numpy().T
        np.testing.assert_allclose(trailing_mean(torch.from_numpy(x), window), expected)
    with pytest.raises(BadInput, match="window is 0; it must be 1 or more angles"):
        trailing_mean(torch.zeros(3), 0)


def test_it_is_what_the_cache_gives_in_float64(model):
    frame = interp.run(model, TOKENS, TokenCurvature(window=2, first=4), progress=False)
    frame = frame["token_curvature"].frame.sort_values(["layer", "prompt", "position"])
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
    n = model.cfg.n_layers
    names = [*(f"blocks.{i}.hook_resid_pre" for i in range(n)), f"blocks.{n - 1}.hook_resid_post"]
    for layer, name in enumerate(names):
        x = cache[name].double().numpy()
        v = np.diff(x, axis=1)
        size = np.linalg.norm(v, axis=2)
        dots = (v[:, 1:] * v[:, :-1]).sum(2) / size[:, 1:] / size[:, :-1]
        turn = np.degrees(np.arccos(dots))  # [prompt, 8]; the first ends at token 2
        curve = (turn[:, 1:] + turn[:, :-1]) / 2
        rows = frame[frame["layer"] == layer]
        found = {c: rows[c].to_numpy().reshape(2, -1) for c in ("speed", "angle", "curvature")}
        for c in found:
            assert np.isnan(found[c][:, :4]).all()
        np.testing.assert_allclose(found["speed"][:, 4:], size[:, 3:], rtol=1e-5)
        np.testing.assert_allclose(found["angle"][:, 4:], turn[:, 2:], atol=1e-3)
        np.testing.assert_allclose(found["curvature"][:, 4:], curve[:, 1:], atol=1e-3)


def test_the_seventh_token_is_the_first_that_counts(gpt2):
    frame = interp.run(gpt2, TOKENS, TokenCurvature, progress=False)["token_curvature"].frame
    known = frame[frame["curvature"].notna()]["position"]
    assert known.min() == 6
    assert frame[frame["speed"].notna()]["position"].min() == 6
    assert frame["curvature"].isna().sum() == 6 * 2 * frame["layer"].nunique()


def test_a_prompt_too_short_for_the_window_is_undefined_and_counted(gpt2):
    found = interp.run(gpt2, TOKENS[:, :6], TokenCurvature, progress=False, keep="summary")
    frame = found["token_curvature"].frame.query("value == 'curvature'")
    assert (frame["n"] == 0).all()
    assert (frame["undefined"] == (~found.tokens["special"]).sum()).all()
    assert frame["mean"].isna().all()


def test_tokens_of_a_cached_pass_have_no_step_that_it_does_not_hold(gpt2):
    with interp.attach(gpt2, TokenCurvature(first=0)) as probes, torch.no_grad():
        gpt2.generate(TOKENS[:1, :5], max_new_tokens=3, do_sample=False, verbose=False)
    frame = probes["token_curvature"].frame.query("layer == 0").sort_values("position")
    assert frame["speed"].isna().tolist() == [True, *[False] * 4, True, True]


def test_bad_parameters_are_refused():
    with pytest.raises(BadInput, match="window=0, first=6: allowed are a window of 1 or more"):
        TokenCurvature(window=0)
    with pytest.raises(BadInput, match="first=-1: allowed are .* a first token of 0 or more"):
        TokenCurvature(first=-1)


@pytest.mark.parametrize("analysis", [TokenCurvature(), TokenCurvature(window=1, first=0)])
def test_contract(analysis):
    interp.check_analysis(analysis)
