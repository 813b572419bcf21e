"""Models in bfloat16: tables equal float64 arithmetic on the states that the model really had.

A model in half precision rounds its own stream; what is measured on that stream is not rounded
again. So the reference takes the very same states, and is computed in float64 by NumPy.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from zoo import ZOO, boot, random_tokens

import interp
from interp import Analysis, Batch, Examples
from interp.contract.registry import names
from interp.errors import Unsupported

FULL = os.environ.get("INTERP_FULL") == "1"
FEW = ("gpt2", "llama", "gemma2", "bloom", "mixtral", "mamba", "bert", "t5")
NAMES = [name for name in ZOO if FULL or name in FEW]
ANSWERED = ("logit_difference",)
"""Analyses of a second answer: with one, all others would be of the two answers."""
STREAM = ("norm", "rotation")
TOKENS = random_tokens(2, 12, seed=5)


@dataclass(frozen=True)
class States(Analysis):
    """The boundary states as the model had them."""

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream",)

    def observe(self, batch: Batch) -> dict[str, Examples]:
        states = batch["stream"].transpose(0, 1)
        return {"x": Examples.of(100, states, batch.ids, batch.mask, axes=(1,))}


def half(name):
    return boot(ZOO[name]).to(torch.bfloat16)


def served(model, chosen):
    """The results of those analyses that the model serves; the others are refused by name."""
    results = {}
    for name in chosen:
        with contextlib.suppress(Unsupported):
            results[name] = interp.run(model, TOKENS, [name], progress=False)[name]
    return results


def states_of(model):
    """Per stack `[state, prompt, pos, d]` in float64."""
    kept = interp.run(model, TOKENS, States(), progress=False)["states"].examples("x")
    return {
        stack: np.stack([items[i] for i in sorted(items)], axis=1).astype(np.float64)
        for (stack, _), items in kept.items()
    }


def column(frame, name, stack=""):
    """A column of a table with a row per layer and token as `[layer, prompt, pos]`."""
    rows = frame[frame["stack"] == stack] if stack and "stack" in frame else frame
    rows = rows.sort_values(["layer", "prompt", "position"])
    return rows[name].to_numpy(np.float64).reshape(-1, *TOKENS.shape)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def angles(a, b):
    """Angle in degrees by Kahan's formula, which is exact for small angles too."""
    a, b = unit(a), unit(b)
    return np.degrees(
        2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))
    )


def wrong_geometry(results, states):
    """What of the norms, steps and angles departs from float64 on the same states."""
    found = {}
    for stack, x in states.items():
        step = np.diff(x, axis=0)
        expected = {
            ("norm", "norm"): np.linalg.norm(x[1:], axis=-1),
            ("rotation", "angle"): angles(x[:-1], x[1:]),
            ("path_length", "step"): np.linalg.norm(step, axis=-1),
        }
        for (analysis, name), want in expected.items():
            if analysis in results:
                got = column(results[analysis].frame, name, stack)
                error = np.abs(got - want).max() / np.abs(want).max()
                if not error < 1e-5:
                    found[stack, analysis, name] = error
    return found


def wrong_lens(model, results, states):
    """The same of the lens: the model's own norm, then the product and the softmax in float64."""
    if "logit_lens" not in results:
        return {}
    anatomy = interp.inspect(model)
    readout, x = anatomy.readout, states[anatomy.readout_stack]
    with torch.no_grad():
        h = readout.normalise(torch.from_numpy(x).to(anatomy.dtype)).double()
        z = h @ readout.weight.double().T
        z = readout.transform(z if readout.bias is None else z + readout.bias.double())
        z[-1] = model(TOKENS).double()  # of the last state the lens has the model's own logits
    frame = results["logit_lens"].frame
    fed = column(frame, "token_id")[0].astype(np.int64)  # of a decoder, its own tokens
    after = fed[:, 1:, None]
    log_p = log_softmax(z.numpy(), axis=-1)[:, :, :-1]
    want = np.take_along_axis(log_p, np.broadcast_to(after, (len(log_p), *after.shape)), -1)
    got = column(frame, "log_prob")[:, :, :-1]
    error = np.abs(got - want[..., 0]).max()
    return {} if error < 1e-4 else {"log_prob": error}


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_measured_in_full_or_refused(name):
    model = half(name)
    chosen = [n for n in names() if n not in ANSWERED]
    results = served(model, chosen)
    assert set(results) == set(served(boot(ZOO[name]), chosen))  # half precision costs none
    if not set(results) & set(STREAM):
        return
    infinite = {
        (name, column)
        for name, result in results.items()
        for column in result.frame.select_dtypes("number")
        if np.isinf(result.frame[column].to_numpy(np.float64, na_value=np.nan)).any()
    }
    assert infinite == set()
    states = states_of(model)
    assert all(np.isfinite(x).all() for x in states.values())
    assert wrong_geometry(results, states) == {}
    assert wrong_lens(model, results, states) == {}
