"""Massive entries: a planted one, and a real pass in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from analyses.massive_activations import MassiveActivations
from interp import BadInput

TOKENS = torch.tensor([[5, 9, 2, 7, 6], [4, 5, 8, 3, 6]])


def test_it_is_what_the_cache_holds(model):
    analysis = MassiveActivations(factor=5, floor=0.1)
    frame = interp.run(model, TOKENS, analysis, progress=False)["massive_activations"].frame
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
    n = model.cfg.n_layers
    names = [*(f"blocks.{i}.hook_resid_pre" for i in range(n)), f"blocks.{n - 1}.hook_resid_post"]
    for layer, name in enumerate(names):
        size = np.abs(cache[name].double().numpy()).reshape(10, -1)
        rows = frame[frame["layer"] == layer].sort_values(["prompt", "position"])
        middle = np.sort(size, axis=1)[:, (size.shape[1] - 1) // 2]
        np.testing.assert_allclose(rows["largest"], size.max(1), rtol=1e-6)
        np.testing.assert_allclose(rows["median"], middle, rtol=1e-6)
        np.testing.assert_allclose(rows["ratio"], size.max(1) / middle, rtol=1e-6)
        np.testing.assert_array_equal(rows["dimension"], size.argmax(1))
        massive = ((size > 0.1) & (size >= 5 * middle[:, None])).sum(1)
        np.testing.assert_array_equal(rows["massive_entries"], massive)


@pytest.fixture
def planted(gpt2):
    """A hook that makes entry 7 of the third token 3000 times as large as anything else."""

    def write(x, hook):
        x = x.clone()
        x[:, 2, 7] = -3000.0
        return x

    with gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", write)]):
        yield gpt2


def test_a_planted_entry_is_found_with_its_dimension_and_token(planted):
    with interp.attach(planted, MassiveActivations) as probes, torch.no_grad():
        planted(TOKENS)
    frame = probes["massive_activations"].frame
    here = frame[frame["layer"] == frame["layer"].max()]
    massive = here[here["massive_entries"] > 0]
    assert massive["position"].tolist() == [2, 2]
    assert (massive["dimension"] == 7).all()
    assert massive["largest"].to_numpy() == pytest.approx(3000, rel=0.01)


def test_a_summary_has_no_mean_of_dimensions(gpt2):
    found = interp.run(gpt2, TOKENS, MassiveActivations, keep="summary", progress=False)
    values = set(found["massive_activations"].frame["value"])
    assert values == {"largest", "median", "ratio", "massive_entries"}
    rows = interp.run(gpt2, TOKENS, MassiveActivations, progress=False)["massive_activations"]
    assert "dimension" not in rows.values
    assert set(rows.summary()["value"]) == values


def test_bad_parameters_are_refused():
    with pytest.raises(BadInput, match="factor=0, floor=100.0, top=16: allowed are a factor above"):
        MassiveActivations(factor=0)


def test_contract():
    interp.check_analysis(MassiveActivations())
