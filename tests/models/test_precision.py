"""Torch's global switches change nothing that is measured: default type and device, autocast."""

from __future__ import annotations

import contextlib
import copy
import pickle

import pandas as pd
import pytest
import torch
from zoo import ZOO

import interp
from interp.contract.registry import names
from interp.errors import Unsupported
from interp.geometry import cosine, dot, project_out, rotate_toward
from interp.measures.spectrum import SingularDirections, random_singular_directions
from interp.measures.tying import compare_rows
from interp.models.probe import KNOWN, inspect
from interp.models.untrained import random_copy


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device):
    """Of new tensors; on "meta" nothing has data, so that whatever lands there is found."""
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SWITCHES = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": lambda: default_device("meta"),
    "inference": torch.inference_mode,
    "gradients": torch.enable_grad,
}
OF_WEIGHTS = ("embedding", "positions", "unembedding", "unembedding_spectrum")


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.fixture(scope="module")
def model():
    return interp.load_model(ZOO["gpt2"].build())  # not the shared one: it is inspected anew


@pytest.fixture(scope="module")
def tables(model):
    # A difference needs two answers, and then all the others would be of those.
    return measured(model, [name for name in names() if name != "logit_difference"])


def measured(model, chosen):
    tokens = torch.randint(5, 100, (3, 9), generator=torch.Generator("cpu").manual_seed(0))
    results = interp.run(model, tokens, chosen, progress=False)
    return {name: result.frame for name, result in results.items()}


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_analysis_gives_the_same_under_a_global_switch(switch, model, tables, monkeypatch):
    monkeypatch.setitem(vars(model), KNOWN, None)
    tokens = torch.randint(5, 100, (3, 9), generator=torch.Generator("cpu").manual_seed(0))
    with SWITCHES[switch]():
        results = interp.run(model, tokens, list(tables), progress=False)
        frames = {name: result.frame for name, result in results.items()}
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(frame, tables[name], rtol=1e-5, atol=1e-6, obj=name)


def test_weights_are_measured_alike_under_autocast(model, tables):
    with autocast():
        frames = measured(model, OF_WEIGHTS)
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(frame, tables[name], rtol=1e-6, atol=1e-7, obj=name)


def test_what_a_pass_under_autocast_gave_is_measured_in_full(model):
    """The cosine of the states of a bfloat16 pass, against float64 of the very same states."""
    tokens = torch.randint(5, 100, (1, 9), generator=torch.Generator().manual_seed(0))
    with autocast():
        frame = interp.run(model, tokens, "rotation", progress=False)["rotation"].frame
        _, cache = model.run_with_cache(tokens)
    for layer in range(3):
        before, after = (cache[f"blocks.{layer}.hook_resid_{end}"][0] for end in ("pre", "post"))
        expected = torch.rad2deg(
            torch.acos(torch.nn.functional.cosine_similarity(before.double(), after.double()))
        )
        found = torch.tensor(frame[frame.layer == layer]["angle"].to_numpy())
        assert torch.allclose(found.double(), expected, atol=1e-4)


def test_inspect_knows_autocast_and_measures_anew(model):
    plain = inspect(model)
    with autocast():
        rounded = inspect(model)
    assert (plain.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert rounded.tolerance == interp.models.anatomy.TOLERANCE[torch.bfloat16]
    assert rounded.padding.fine("right")
    assert inspect(model).dtype == torch.float32


def test_pure_functions_are_exact_under_autocast():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 50, 64, generator=generator)
    functions = {
        "dot": lambda: dot(x, y),
        "cosine": lambda: cosine(x, y),
        "project_out": lambda: project_out(x, y[0]),
        "rotate_toward": lambda: rotate_toward(x, y[0], 10.0),
        **{
            name: (lambda name=name: compare_rows(x, y)[name])
            for name in ("cosine", "mean_cosine", "shuffled_cosine", "embedding_mean_cosine")
        },
    }
    for name, function in functions.items():
        expected = function()
        with autocast():
            found = function()
        assert found.dtype == torch.float32, name
        assert torch.equal(found, expected), name


def test_the_random_matrix_is_one_whatever_the_default_type():
    matrix = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    expected = random_singular_directions(matrix, seed=3).values
    draw = torch.randn(40, 8, generator=torch.Generator().manual_seed(3)).double()
    draw *= (matrix.double().square().sum() / draw.numel()).sqrt()
    assert torch.allclose(expected, torch.linalg.svdvals(draw), rtol=1e-6)
    for dtype in (torch.float64, torch.bfloat16):
        with default_dtype(dtype):
            assert torch.equal(random_singular_directions(matrix, seed=3).values, expected)
            bias = SingularDirections.of(matrix).bias_cross
        assert bias.dtype == torch.float64
        assert not bias.any()


# ---- copies ----------------------------------------------------------------------------------


def test_an_anatomy_can_be_pickled_and_copied(model):
    anatomy = inspect(model)
    again = pickle.loads(pickle.dumps(anatomy))  # noqa: S301 - written in the same line
    assert again.to_json() == anatomy.to_json()
    assert again.readout.path == anatomy.readout.path
    assert repr(again) == repr(anatomy)
    assert len(pickle.dumps(anatomy)) < 100_000  # facts, not weights
    for copied in (copy.copy(anatomy), copy.deepcopy(anatomy)):
        assert copied.readout is anatomy.readout  # and not a second model
    with pytest.raises(Unsupported, match="saved without its model.*inspect"):
        again.readout.logits(torch.zeros(24))
    assert repr(anatomy.readout).startswith("<Readout unembed(ln_final(x)), 24 to 113, identity")


@pytest.mark.parametrize("switch", ["float64", "bfloat16", "device"])
def test_the_untrained_copy_is_one_under_every_switch(switch, model):
    expected = random_copy(model, seed=5).state_dict()
    with SWITCHES[switch]():
        found = random_copy(model, seed=5).state_dict()
        assert torch.get_default_dtype() == {"device": torch.float32}.get(
            switch, getattr(torch, switch, None)
        )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
