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
from zoo_states import Stream

import interp
from interp import Analysis, Batch, Examples
from interp.contract.registry import names
from interp.errors import Unsupported
from interp.models import probe
from interp.models.anatomy import TOLERANCE

FULL = os.environ.get("INTERP_FULL") == "1"
FEW = ("gpt2", "llama", "gemma2", "bloom", "mixtral", "mamba", "bert", "t5")
NAMES = [name for name in ZOO if FULL or name in FEW]
ANSWERED = ("logit_difference",)
"""Analyses of a second answer: with one, all others would be of the two answers."""
STREAM = ("norm", "rotation")
TOKENS = random_tokens(2, 12, seed=5)


@dataclass(frozen=True)
class Logits(Analysis):
    """The logits as the model gave them."""

    scope: ClassVar = "model"
    sites: ClassVar[tuple[str, ...]] = ("logits",)

    def observe(self, batch: Batch) -> dict[str, Examples]:
        return {"z": Examples.of(100, batch["logits"], batch.ids, batch.mask, axes=(0,))}


def half(name):
    return boot(ZOO[name]).to(torch.bfloat16)


def served(model, chosen):
    """Names of those analyses that the model serves; the others are refused by name."""
    out = []
    for name in chosen:
        with contextlib.suppress(Unsupported):
            interp.run(model, TOKENS, [name], progress=False)
            out.append(name)
    return out


def states_of(results):
    """Per stack `[state, prompt, pos, d]` in float64."""
    kept = results["stream"].examples("x")
    return {
        stack: np.stack([items[i] for i in sorted(items)], axis=1).astype(np.float64)
        for (stack, _), items in kept.items()
    }


def column(frame, name, stack=""):
    """A column of a table with a row per token (and layer) as `[layer, prompt, pos]`."""
    rows = frame[frame["stack"] == stack] if stack and "stack" in frame else frame
    rows = rows.sort_values([k for k in ("layer", "prompt", "position") if k in rows])
    return rows[name].to_numpy(np.float64).reshape(-1, *TOKENS.shape)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def angles(a, b):
    """Angle in degrees by Kahan's formula, which is exact for small angles too."""
    a, b = unit(a), unit(b)
    return np.degrees(
        2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))
    )


def of_the_stream(x):
    """Norms, angles and lengths of states `[state, prompt, pos, d]`, by analysis and column."""
    return {
        ("norm", "norm"): np.linalg.norm(x[1:], axis=-1),
        ("rotation", "angle"): angles(x[:-1], x[1:]),
        ("path_length", "step"): np.linalg.norm(np.diff(x, axis=0), axis=-1),
        ("path_length", "chord"): np.linalg.norm(x[1:] - x[0], axis=-1),
    }


def of_the_predictions(model, logits, x, fed):
    """Log-probability of the next token and entropy: the model's own norm, the rest in float64."""
    anatomy = interp.inspect(model)
    readout = anatomy.readout
    with torch.no_grad():
        h = readout.normalise(torch.from_numpy(x).to(anatomy.dtype)).double()
        z = h @ readout.weight.double().T
        z = readout.transform(z if readout.bias is None else z + readout.bias.double())
    # Of the last state the lens has the model's own logits.
    found = logits.examples("z").items()
    items = next(kept for (stack, _), kept in found if stack == anatomy.readout_stack)
    z[-1] = torch.tensor(np.stack([items[i] for i in sorted(items)]), dtype=torch.float64)
    log_p = log_softmax(z.numpy(), axis=-1)
    after = np.broadcast_to(np.roll(fed, -1, axis=1)[..., None], (*log_p.shape[:-1], 1))
    targets = np.take_along_axis(log_p, after, -1)[..., 0]
    targets[:, :, -1] = np.nan  # nothing comes after the last token
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    return {
        ("logit_lens", "log_prob"): targets,
        ("logit_lens", "entropy"): entropy,
        ("next_token", "log_prob"): targets[-1:],
        ("next_token", "entropy"): entropy[-1:],
    }


def wrong(results, expected, stack=""):
    """What of the columns of these results departs from the expected values."""
    found = {}
    for (analysis, name), want in expected.items():
        if analysis in results:
            got = column(results[analysis].frame, name, stack)
            error = np.nanmax(np.abs(got - want)) / max(1.0, np.nanmax(np.abs(want)))
            if not (error < 1e-5 and np.array_equal(np.isnan(got), np.isnan(want))):
                found[stack, analysis, name] = error
    return found


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_measured_in_full_or_refused(name):
    model = half(name)
    chosen = [n for n in names() if n not in ANSWERED]
    given = served(model, chosen)
    assert given == served(boot(ZOO[name]), chosen)  # half precision costs none
    if not set(given) & set(STREAM):
        return
    # All in one pass: two passes over the same tokens may round differently.
    beside = [Stream(), *([Logits()] if "logit_lens" in given else [])]
    results = interp.run(model, TOKENS, [*given, *beside], progress=False)
    infinite = {
        (name, column)
        for name, result in results.items()
        for column in result.frame.select_dtypes("number")
        if np.isinf(result.frame[column].to_numpy(np.float64, na_value=np.nan)).any()
    }
    assert infinite == set()
    states = states_of(results)
    for stack, x in states.items():
        assert np.isfinite(x).all()
        assert wrong(results, of_the_stream(x), stack) == {}
    if "logit_lens" in results:
        stack = interp.inspect(model).readout_stack
        fed = column(results["logit_lens"].frame, "token_id", stack)[0].astype(np.int64)
        expected = of_the_predictions(model, results["logits"], states[stack], fed)
        assert wrong(results, expected, stack) == {}


def test_a_stream_of_two_types_is_that_of_its_last_state(monkeypatch):
    """The hooks of a probe come in the order of a set, which differs between processes."""
    ordered = probe.record
    for turned in (False, True):

        def record(points, *, stop=False, turned=turned):
            names = sorted(points, reverse=turned)
            return ordered({name: points[name] for name in names}, stop=stop)

        monkeypatch.setattr(probe, "record", record)
        anatomy = interp.inspect(half("mamba"))
        assert anatomy.dtype == torch.float32
        assert anatomy.tolerance == TOLERANCE[torch.bfloat16]
        assert anatomy.readout is not None
