"""The analysis keeps the contract, and its numbers are right."""

import math

from interp_drift.drift import Drift

import interp


def test_it_keeps_the_contract():
    report = interp.check_analysis(Drift())
    assert report.notes == ()


def test_it_runs_by_its_name_and_agrees_with_the_definition():
    """After the first block it is the rotation of that block, which starts at the first state."""
    results = interp.run("demo", ["the cat sat"], ["drift", "rotation"], progress=False)
    drift, rotation = results["drift"].frame, results["rotation"].frame
    first = drift["layer"] == 0
    for mine, known in zip(drift["drift"][first], rotation["angle"][first], strict=True):
        assert math.isclose(mine, known, rel_tol=1e-6)
