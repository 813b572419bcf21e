"""The analysis that the documentation shows, as a user writes it, keeps the contract."""

import pytest

import interp
from analyses.rotation import Rotation as BuiltIn
from interp import Analysis, PerToken
from interp.errors import ContractError
from interp.geometry import angle
from interp.runs.checks.checks import LAWS
from interp.runs.checks.world import World, observe


class Bare(Analysis):
    """Angle between a token's residual stream before and after each block, in degrees."""

    sites = ("resid_pre", "resid_post")

    def observe(self, batch):
        return {"angle": PerToken(angle(batch["resid_pre"], batch["resid_post"]))}


class Rotation(Bare):
    """The same, saying what its column means."""

    columns = {"angle": "angle between x_l and x_{l+1}; degrees"}  # noqa: RUF012


def test_eight_lines_keep_every_law():
    assert interp.check_analysis(Rotation()).passed == tuple(LAWS)


def test_without_columns_only_their_law_is_broken():
    with pytest.raises(ContractError, match="`columns` is empty: no table or figure can say what"):
        interp.check_analysis(Bare(), laws=["columns documented"])
    others = [law for law in LAWS if law != "columns documented"]
    assert len(interp.check_analysis(Bare(), laws=others).passed) == len(others)


def test_with_columns_there_is_nothing_to_add():
    assert interp.check_analysis(Rotation()).notes == ()


def test_printed_report_lists_the_laws():
    lines = str(interp.check_analysis(Rotation())).splitlines()
    assert lines[0] == f"analysis 'rotation' keeps the contract: {len(LAWS)} laws"
    assert [line.strip() for line in lines[1:]] == list(LAWS)


def test_same_numbers_as_the_built_in():
    mine = Rotation().table(observe(Rotation(), World()).state())
    built_in = BuiltIn().table(observe(BuiltIn(), World()).state())
    assert mine["angle"].tolist() == pytest.approx(built_in["angle"].tolist())
    assert list(mine) == ["prompt", "position", "angle", "layer"]
