"""Phantoms: every built-in analysis meets what is known, and a wrong copy of it does not."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import cache
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

import interp
from interp.errors import BadInput, ContractError
from interp.runs.checks.checks import check_analysis
from interp.runs.phantoms.calibrate import measured
from interp.runs.phantoms.phantom import Known, rounding
from interp.runs.phantoms.trials import BUILT_IN, trials_of

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMES = PYPROJECT["project"]["entry-points"]["interp.analyses"]
KEYS = ("layer", "layer_a", "component", "direction", "vocab_id", "position")
"""A key that says where a row is from, the first that a table has; rolled by one in a wrong copy."""


@cache
def kind_of(name):
    module, _, attribute = NAMES[name].partition(":")
    return getattr(import_module(module), attribute)


@cache
def tables(name):
    """Each trial of an analysis with its table, measured once."""
    analysis = kind_of(name)()
    return [(trial, measured(trial, analysis, name)) for trial in trials_of(analysis)]


def misses(name, change):
    """Columns that are missed if every table is changed like this."""
    found = [trial.judge(change(frame.copy())) for trial, frame in tables(name)]
    verdicts = pd.concat(found)
    return set(verdicts[~verdicts["passed"]]["column"])


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_analysis_meets_all_that_is_known(name):
    found = pd.concat([trial.judge(frame) for trial, frame in tables(name)])
    assert len(found) >= 3
    assert found["passed"].all(), found[~found["passed"]].to_string()


# ---- wrong copies --------------------------------------------------------------------------------


def values_of(name, frame):
    """The numeric columns that the analysis documents and that are no keys."""
    documented = kind_of(name).columns
    keys = {*kind_of(name).keys, "prompt", "position", "layer", "token_id"}
    return [c for c in frame.select_dtypes("number") if c in documented and c not in keys]


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_that_is_one_per_cent_off_is_caught(name):
    def stretched(frame):
        columns = values_of(name, frame)
        return frame.assign(**{c: frame[c].astype(float) * 1.01 for c in columns})

    assert misses(name, stretched)


@pytest.mark.parametrize("name", NAMES)
def test_each_certified_column_is_caught_alone_if_it_is_a_hundredth_off(name):
    known = {k.column for trial, _ in tables(name) for k in trial.known if k.measured is None}
    for column in known & set(kind_of(name).columns) - {"top_token"}:

        def shifted(frame, column=column):
            return frame.assign(**{column: frame[column].astype(float) + 0.01})

        assert column in misses(name, shifted)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_that_names_the_next_layer_is_caught(name):
    """Where there are no layers, the key that tells rows apart is rolled instead."""

    def rolled(frame):
        key = next(k for k in KEYS if k in frame)
        last = frame[key].max()
        return frame.assign(**{key: (frame[key] + 1) % (last + 1)})

    assert misses(name, rolled)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_that_loses_a_row_is_caught(name):
    assert any(missed.startswith("(") for missed in misses(name, lambda frame: frame.iloc[1:]))


class IgnoresTheMask:
    """Shows an analysis every column of the rectangle as a real token."""

    def observe(self, batch):
        every = torch.ones_like(batch.mask)
        known = torch.ones_like(batch.key_mask)
        return super().observe(replace(batch, mask=every, key_mask=known))


@cache
def unmasked(name):
    kind = kind_of(name)
    return type(kind.__name__, (IgnoresTheMask, kind), {"__module__": __name__})()


# Those that give one value per token and read no other token: the framework takes the padding off.
READ_NO_MASK = {
    "massive_activations", "next_token", "norm", "path_length", "rotation",
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in NAMES if kind_of(n).scope != "weights"])
def test_a_copy_that_ignores_the_mask_is_caught_or_is_the_same(name):
    wrong = unmasked(name)
    if name in READ_NO_MASK:
        for trial, frame in tables(name):
            pd.testing.assert_frame_equal(measured(trial, wrong, name), frame)
        return
    try:
        verdicts = [trial.judge(measured(trial, wrong, name)) for trial in trials_of(wrong)]
    except interp.InterpError:
        return  # refused while it ran
    if pd.concat(verdicts)["passed"].all():
        with pytest.raises(ContractError):
            check_analysis(wrong)
