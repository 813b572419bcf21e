"""Designs and tables that several tests of statistics share."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

FULL = os.environ.get("INTERP_FULL") == "1"


def rng_of(*seed):
    return np.random.default_rng(seed)


def ragged(rng, n, k, missing=0.2):
    x = rng.normal(size=(n, k))
    x[rng.random((n, k)) < missing] = np.nan
    return x


def dropped(x):
    return x[~np.isnan(x)]


# ---- designs ---------------------------------------------------------------------------------


def design(kind, c, rng):
    """Labels and clusters of c prompts: pairs, both groups unevenly, one group each, or both."""
    size = np.full(c, 2) if kind == "pair" else rng.integers(3, 9, c)
    parts = []
    for i, n in enumerate(size):
        mixed = np.arange(n) < max(1, n // 3)
        alone = kind == "between" or (kind == "mixed" and i % 3 == 0)
        parts.append(np.full(n, i % 2 == 0) if alone else rng.permutation(mixed))
    return np.concatenate(parts), np.repeat(np.arange(c), size)


def null_tables(kind, c, rows, rng, skewed=False):
    """Tables in which labels mean nothing but prompts differ; one independent table per row."""
    labels, clusters = design(kind, c, rng)
    draw = rng.lognormal if skewed else rng.normal
    return draw(size=(c, rows))[clusters] + draw(size=(len(labels), rows)), labels, clusters


def within_band(hits, trials, rate=0.05, tail=1e-3):
    """Whether so many hits are what a test of this rate gives, in all but 2 × tail of cases."""
    low, high = scipy_stats.binom.interval(1 - 2 * tail, trials, rate)
    return low <= hits <= high


# ---- compare ---------------------------------------------------------------------------------


def tidy(prompts=12, tokens=7, layers=4, seed=50, missing=0.1):
    """A table as the library writes them: 'her' after its verb, first token special."""
    rng = rng_of(seed)
    index = pd.MultiIndex.from_product(
        [range(prompts), range(tokens), range(layers)], names=["prompt", "position", "layer"]
    )
    frame = index.to_frame(index=False)
    frame["token"], frame["token_id"] = " x", 7
    frame["special"] = frame["position"] == 0
    roles = {3: "target", 2: "previous", 4: "random", 5: "random", 0: "target"}
    frame["role"] = frame["position"].map(roles)
    frame["kind"] = np.where(frame["prompt"] % 2 == 0, "even", "odd")
    effect = (frame["role"] == "target") * (frame["layer"] >= 2) * 2.5
    shared = rng.normal(size=prompts)[frame["prompt"]]
    frame["angle"] = 10 + effect + shared + rng.normal(size=len(frame))
    frame.loc[rng.random(len(frame)) < missing, "angle"] = np.nan
    return frame
