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
    """By twice the tolerance where that of sampling is larger."""
    found = pd.concat([trial.judge(frame) for trial, frame in tables(name)])
    known = {k.column for trial, _ in tables(name) for k in trial.known if k.measured is None}
    for column in known - {"top_token"}:
        off = max(0.01, 2 * found[found["column"] == column]["tolerance"].max())

        def shifted(frame, column=column, off=off):
            return frame.assign(**{column: frame[column].astype(float) + off})

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


# ---- other people's analyses ---------------------------------------------------------------------


class Stretch(interp.Analysis):
    """Growth of the norm over a block."""

    sites = ("resid_pre", "resid_post")
    columns = {"growth": "‖x_{l+1}‖ / ‖x_l‖; ratio"}  # noqa: RUF012

    def observe(self, batch):
        before, after = (interp.geometry.norm(batch[site]) for site in self.sites)
        return {"growth": interp.PerToken(interp.geometry.ratio(after, before))}

    @classmethod
    def phantoms(cls):
        doubled = interp.Phantom("doubling", "Every block doubles the stream.", _doubling, ((1, 2, 3),))
        return [interp.Trial(doubled, [Known("growth", 2.0, rounding(2.0, 64))])]


class Halved(Stretch):
    """A planted fault: the ratio the other way round."""

    def observe(self, batch):
        return {"growth": interp.PerToken(1 / super().observe(batch)["growth"].values)}


class Unknown(interp.Analysis):
    """Names no phantom."""

    sites = ("resid_post",)

    def observe(self, batch):
        return {"size": interp.PerToken(interp.geometry.norm(batch["resid_post"]))}


def _doubling():
    from interp.models import BlockWeights, hand_set
    from interp.models.hand_set import linear

    return hand_set("doubling", np.eye(5), [BlockWeights(mlp=linear(np.eye(5)))] * 2)


def test_a_plug_in_is_measured_on_the_phantoms_that_it_names():
    found = interp.calibrate(Stretch())
    assert found.passed
    assert found.sentence == "stretch: all 1 known columns are met on 1 phantom."
    row = found.frame.iloc[0]
    assert (row["true"], row["measured"], row["rows"], row["verdict"]) == (2.0, 2.0, 6, "met")


def test_a_wrong_plug_in_is_told_with_what_it_measured():
    found = interp.calibrate(Halved())
    assert not found.passed
    assert "halved: 1 of 1 known columns are missed on 1 phantom" in found.sentence
    assert "halved.growth on 'doubling': true 2, measured 0.5, allowed distance" in found.sentence


def test_without_a_phantom_it_is_said_how_to_name_one():
    with pytest.raises(BadInput, match=r"no phantom is known for unknown: return some from the"):
        interp.calibrate(Unknown())
    found = interp.calibrate([Stretch(), Unknown()])
    assert found.without == ("unknown",)
    assert "without a phantom: unknown" in found.notes


def test_what_is_no_trial_is_refused():
    class Odd(Stretch):
        @classmethod
        def phantoms(cls):
            return ["doubling"]

    with pytest.raises(BadInput, match=r"Odd.phantoms\(\) returns str; it is a list of interp.Tri"):
        interp.calibrate(Odd())


# ---- verdicts ------------------------------------------------------------------------------------

FRAME = pd.DataFrame({"layer": [0, 1, 2], "x": [1.0, np.nan, 3.0]})


@pytest.mark.parametrize(
    ("true", "passed"),
    [
        ([1, np.nan, 3], True),
        ([1, np.nan, 3.1], True),
        ([1, np.nan, 3.2], False),
        ([1, 2, 3], False),  # not defined where it should be
        ([1, np.nan, np.nan], False),  # defined where it should not be
    ],
)
def test_values_and_gaps_are_compared(true, passed):
    verdict = Known("x", lambda rows: np.array(true, float), 0.11).verdict(FRAME)
    assert verdict["passed"] == passed


def test_the_row_that_is_furthest_off_is_told():
    verdict = Known("x", 2.5, 0.1, where=lambda frame: frame["x"].notna()).verdict(FRAME)
    assert (verdict["rows"], verdict["measured"], verdict["distance"]) == (2, 1.0, 1.5)


def test_a_mean_is_compared_as_one_number():
    known = Known("x", 2.0, 1e-9, where=lambda frame: frame["x"].notna(), mean=True)
    assert known.verdict(FRAME)["passed"]


def test_a_layer_that_the_phantom_does_not_have_is_missed():
    values = np.array([1.0, 2.0])
    verdict = Known("x", lambda rows: values[rows["layer"]], 1.0).verdict(FRAME)
    assert not verdict["passed"]


def test_no_row_at_all_is_missed():
    assert not Known("x", 1.0, 1.0).verdict(FRAME.iloc[:0])["passed"]


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(BadInput, match="the table has no column 'y'"):
        Known("y", 1.0, 1.0).verdict(FRAME)
