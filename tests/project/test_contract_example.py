"""The analysis that the documentation shows, as a user writes it, keeps the contract."""

import pytest

import interp
from analyses.rotation import Rotation as BuiltIn
from interp import Analysis, PerToken
from interp.geometry import angle
from interp.runs.checks.checks import LAWS
from interp.runs.checks.world import World, observe


class Rotation(Analysis):
    """Angle between a token's residual stream before and after each block, in degrees."""

    sites = ("resid_pre", "resid_post")

    def observe(self, batch):
        return {"angle": PerToken(angle(batch["resid_pre"], batch["resid_post"]))}


class Documented(Rotation):
    """The same, saying what its column means."""

    columns = {"angle": "angle between x_l and x_{l+1}; degrees"}  # noqa: RUF012


def test_six_lines_keep_every_law():
    report = interp.check_analysis(Rotation())
    assert report.passed == tuple(LAWS)
    assert report.notes == ("`columns` is empty: no table or figure can say what its values mean",)


def test_with_columns_there_is_nothing_to_add():
    assert interp.check_analysis(Documented()).notes == ()


def test_printed_report_lists_the_laws():
    lines = str(interp.check_analysis(Documented())).splitlines()
    assert lines[0] == f"analysis 'documented' keeps the contract: {len(LAWS)} laws"
    assert [line.strip() for line in lines[1:]] == list(LAWS)


def test_same_numbers_as_the_built_in():
    mine = Rotation().table(observe(Rotation(), World()).state())
    built_in = BuiltIn().table(observe(BuiltIn(), World()).state())
    assert mine["angle"].tolist() == pytest.approx(built_in["angle"].tolist())
    assert list(mine) == ["prompt", "position", "angle", "layer"]
