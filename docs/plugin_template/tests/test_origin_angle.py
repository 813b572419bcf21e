"""The analysis keeps the contract, and its numbers are right."""

import math

from interp_origin_angle.origin_angle import OriginAngle

import interp


def test_it_keeps_the_contract():
    report = interp.check_analysis(OriginAngle())
    assert report.notes == ()


def test_it_runs_by_its_name_and_agrees_with_the_definition():
    """After the first block it is the rotation of that block, which starts at the first state."""
    results = interp.run("demo", ["the cat sat"], ["origin_angle", "rotation"], progress=False)
    own, rotation = results["origin_angle"].frame, results["rotation"].frame
    first = own["layer"] == 0
    for mine, known in zip(own["origin_angle"][first], rotation["angle"][first], strict=True):
        assert math.isclose(mine, known, rel_tol=1e-6)
