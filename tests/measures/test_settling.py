"""Settling of predictions: planted courses, and the lens of a real pass in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

import interp
from analyses.settling import Settling
from interp import BadInput
from interp.measures import entropy_changes, settling

TOKENS = torch.tensor([[5, 9, 2, 7, 1], [4, 5, 8, 3, 6]])


def slow(divergence: np.ndarray, threshold: float, late: float) -> tuple[int, int, bool]:
    """Depth, depth from which it stays, and lateness, by the words of the definition."""
    last = len(divergence) - 1
    depth = next(i for i in range(1, last + 1) if min(divergence[1 : i + 1]) <= threshold)
    stays = next(i for i in range(1, last + 1) if max(divergence[i:]) <= threshold)
    return depth, stays, depth in [i for i in range(last + 1) if i >= math.ceil(late * last)]


@pytest.mark.parametrize("late", [0.2, 0.85, 1.0])
@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_it_follows_the_definition(threshold, late):
    d = np.random.default_rng(0).random((13, 200))
    d[-1] = 0
    found = settling(torch.from_numpy(d), threshold, late=late)
    expected = np.array([slow(column, threshold, late) for column in d.T])
    got = torch.stack([found.depth, found.stays, found.late], dim=1)
    np.testing.assert_array_equal(got, expected)
    running = np.minimum.accumulate(d[1:], axis=0)
    np.testing.assert_array_equal(found.lowest[1:], running)
    np.testing.assert_array_equal(found.settled[1:], running <= threshold)
    assert found.lowest[0].isnan().all()
    assert not found.settled[0].any()


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_a_prediction_written_by_one_block_settles_there(depth):
    d = torch.ones(7, 4)
    d[depth:] = 0
    found = settling(d, 0.5)
    assert found.depth.tolist() == [depth] * 4
    assert found.stays.tolist() == [depth] * 4
    assert found.late.tolist() == [float(depth == 6)] * 4  # ⌈0.85 · 6⌉ = 6


def test_undefined_divergences_are_undefined():
    d = torch.tensor([[0.9, 0.9], [0.2, torch.nan], [0.0, 0.0]])
    found = settling(d, 0.5)
    assert found.depth[0] == 1
    assert torch.stack([found.depth[1], found.stays[1], found.late[1]]).isnan().all()


def test_entropy_gained_and_lost_is_the_difference_of_the_ends():
    h = torch.from_numpy(np.random.default_rng(0).random((9, 30)))
    grown, shrunk = entropy_changes(h)
    assert grown[0].isnan().all()
    torch.testing.assert_close((grown - shrunk)[1:].sum(0), h[-1] - h[0])
    assert ((grown * shrunk)[1:] == 0).all()
    assert (grown[1:] >= 0).all()


@pytest.mark.parametrize("base", [2.0, math.e])
def test_it_is_what_the_models_own_head_gives(model, base):
    analysis = Settling(threshold=0.02, base=base)
    frame = interp.run(model, TOKENS, analysis, progress=False)["settling"].frame
    frame = frame.sort_values(["layer", "prompt", "position"])
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS)
        n = model.cfg.n_layers
        names = [*(f"blocks.{i}.hook_resid_pre" for i in range(n)), None]
        read = [
            logits if name is None else model.unembed(model.ln_final(cache[name])) for name in names
        ]
    p = [z.double().softmax(-1).reshape(10, -1).numpy() for z in read]
    js = np.array([jensenshannon(x, p[-1], axis=1, base=base) ** 2 for x in p])
    found = {c: frame[c].to_numpy(float).reshape(n + 1, 10) for c in Settling.columns}
    np.testing.assert_allclose(found["js"], js, atol=1e-6)
    assert (found["js"][-1] == 0).all()
    expected = np.array([slow(column, 0.02, 0.85) for column in found["js"].T]).T
    for name, values in zip(("settling_depth", "stays", "late"), expected, strict=True):
        np.testing.assert_array_equal(found[name], np.broadcast_to(values, (n + 1, 10)))
    h = entropy(np.array(p), axis=2)
    change = np.diff(h, axis=0)
    np.testing.assert_allclose(found["expansion"][1:], change.clip(min=0), atol=1e-5)
    np.testing.assert_allclose(found["pruning"][1:], (-change).clip(min=0), atol=1e-5)
    by_then = (found["settling_depth"][0] <= np.arange(1, n + 1)[:, None]).astype(float)
    np.testing.assert_array_equal(found["settled"][1:], by_then)


def test_the_mean_of_late_is_one_less_what_settled_before(gpt2):
    """The deep-thinking ratio from both columns, also from a summary."""
    found = interp.run(gpt2, TOKENS, Settling(threshold=0.01), keep="summary", progress=False)
    mean = found["settling"].frame.pivot_table(index="layer", columns="value", values="mean")
    n = gpt2.cfg.n_layers
    before = mean["settled"].loc[math.ceil(0.85 * n) - 1]
    assert mean["late"].iloc[0] == pytest.approx(1 - before)


def test_it_agrees_with_the_lens(gpt2):
    found = interp.run(gpt2, TOKENS, ["logit_lens", "settling"], progress=False)
    lens, own = (found[n].frame for n in ("logit_lens", "settling"))
    np.testing.assert_allclose(own["js"] * math.log(2), lens["js_to_final"], atol=1e-7)


def test_a_threshold_that_no_divergence_exceeds_is_refused():
    with pytest.raises(BadInput, match=r"to base 2.71828 the divergence is 0.693 at most.*base=2"):
        Settling(threshold=0.75, base=math.e)
    assert Settling(threshold=0.75).threshold == 0.75
    with pytest.raises(BadInput, match="threshold=0, .*: allowed are a threshold above 0"):
        Settling(threshold=0)
    with pytest.raises(BadInput, match="threshold=0.5, late=0: allowed"):
        settling(torch.zeros(3), 0.5, late=0)
    with pytest.raises(BadInput, match="first=3 of the states 0 … 2: allowed is 0 to 2"):
        settling(torch.zeros(3), 0.5, first=3)


@pytest.mark.parametrize("analysis", [Settling(), Settling(0.05, 0.5, math.e)])
def test_contract(analysis):
    interp.check_analysis(analysis)
