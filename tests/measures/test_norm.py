"""The norm of the stream, the built-in analysis to read first."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import numpy as np
import torch

import analyses
import interp
from analyses.norm import Norm

FOLDER = Path(analyses.__file__).parent
TOKENS = torch.tensor([[5, 9, 2, 7, 1], [4, 4, 8, 3, 6]])


def test_it_keeps_the_contract():
    interp.check_analysis(Norm())


def test_it_is_the_length_of_the_stream_that_leaves_each_block(gpt2):
    frame = interp.run(gpt2, TOKENS, Norm, progress=False)["norm"].frame
    _, cache = gpt2.run_with_cache(TOKENS)
    for layer in range(gpt2.cfg.n_layers):
        stream = cache[f"blocks.{layer}.hook_resid_post"].detach().double().numpy()
        found = frame.query(f"layer == {layer}").sort_values(["prompt", "position"])["norm"]
        expected = np.sqrt((stream**2).sum(-1)).ravel()
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_it_agrees_with_path_length(gpt2):
    results = interp.run(gpt2, TOKENS, ["path_length", Norm], progress=False)
    after = results["path_length"].frame["norm_after"]
    np.testing.assert_allclose(results["norm"].frame["norm"], after, rtol=1e-6)


def test_it_says_what_it_measures_and_what_a_figure_shows_without_an_effect(gpt2):
    result = interp.run(gpt2, TOKENS, Norm, progress=False)["norm"]
    assert result.columns["norm"] == "‖x_{l+1}‖; activation units"
    assert result.values == ["norm"]
    (plot,) = Norm.plots
    assert (plot.values, plot.unit) == (("norm",), "activation units")
    assert plot.if_null.endswith("leave its norm flat.")
    assert result.plot().data


def test_every_analysis_of_the_folder_is_registered():
    pyproject = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))
    registered = set(pyproject["project"]["entry-points"]["interp.analyses"].values())
    found = {
        f"analyses.{path.stem}:{node.name}"
        for path in FOLDER.glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
        and any(getattr(base, "id", "") == "Analysis" for base in node.bases)
    }
    assert found == registered
