"""What authors forget to declare: parameters, frozen classes, tables and figures that need more."""

import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

import interp
from interp.contract.leaves import PerToken
from interp.contract.registry import _load, resolve
from interp.errors import BadInput, BrokenPlugin, ContractError
from interp.geometry import norm
from interp.runs.checks.checks import LAWS, check_analysis


@dataclass(frozen=True)
class Length(interp.Analysis):
    """The length of the stream."""

    sites = ("resid_post",)
    columns: ClassVar = {"length": "norm; logits"}

    def observe(self, batch):
        return {"length": PerToken(norm(batch["resid_post"]))}


class Init(Length):
    """A parameter that only `__init__` knows."""

    def __init__(self, k=3):
        object.__setattr__(self, "k", k)


class Between(Length):
    """An annotation without a dataclass, in a base."""

    k: int = 3


@dataclass(frozen=True)
class Below(Between):
    """A dataclass below it."""


class Last(Length):
    """Keeps the last batch, in a plain class."""

    def observe(self, batch):
        self.last = batch["resid_post"]
        return super().observe(batch)


class Never(Length):
    """Describes columns that it never gives."""

    columns: ClassVar = {**Length.columns, "never": "nothing; ratio", "no_*": "nothing; ratio"}


class LastOfClass(Length):
    """Keeps the last batch on its class."""

    seen: ClassVar = None

    def observe(self, batch):
        type(self).seen = batch["resid_post"]
        return super().observe(batch)


def _broken(analysis):
    with pytest.raises(ContractError) as caught:
        check_analysis(analysis)
    return caught.value


def test_an_argument_that_is_no_field_breaks_the_law_and_is_refused_by_a_run():
    seen = _broken(Init(5)).broken["parameters"]
    assert seen == "'k' is an argument of `__init__`, but is no dataclass field"
    with pytest.raises(BadInput, match=r"'init': 'k' is an argument.*@dataclass\(frozen=True\)"):
        resolve([Init(5)])
    assert list(resolve([Length()])) == ["length"]


def test_an_annotation_in_a_base_without_a_dataclass_breaks_the_law():
    seen = _broken(Below()).broken["parameters"]
    assert seen == "'k' is annotated like a parameter, but is no dataclass field"


@pytest.mark.parametrize(("kind", "name"), [(Last, "last"), (LastOfClass, "LastOfClass.seen")])
def test_a_kept_batch_breaks_the_law_also_after_other_laws(kind, name):
    analysis = kind()
    for _ in range(2):
        assert _broken(analysis).broken["keeps nothing"] == (
            f"attribute {name!r} changed while it ran"
        )


def test_columns_that_are_no_mapping_are_refused_by_a_run():
    kind = type("Named", (Length,), {"columns": ("length", "b")})
    with pytest.raises(BadInput, match=r"'named': `columns` is \('length', 'b'\), not a mapping"):
        resolve([kind])


def test_a_class_that_is_not_frozen_is_named_with_its_line_and_the_fix(tmp_path, monkeypatch):
    source = (
        "from dataclasses import dataclass\nimport interp\n\n\n@dataclass\nclass Thawed("
        "interp.Analysis):\n    k: int = 3\n\n    def observe(self, batch):\n        return {}\n"
    )
    (tmp_path / "thawed_plugin.py").write_text(source)
    (tmp_path / "failing_plugin.py").write_text("import math\n\nx = math.sqrt(-1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    fix = r"thawed_plugin.py, line 5: decorate class Thawed with @dataclass\(frozen=True\)"
    with pytest.raises(BrokenPlugin, match=fix):
        _load("thawed", EntryPoint("thawed", "thawed_plugin:Thawed", "interp.analyses"))
    with pytest.raises(BrokenPlugin, match=r"failing_plugin.py, line 3: x = math.sqrt\(-1\)"):
        _load("failing", EntryPoint("failing", "failing_plugin:It", "interp.analyses"))


def test_a_forgotten_return_is_said_once_and_first():
    kind = type("Forgot", (Length,), {"table": lambda self, state: None})
    error = _broken(kind())
    assert list(error.broken) == ["table is tidy"]
    assert str(error).count("it returned NoneType, not a pandas DataFrame") == 1


def test_an_error_in_a_table_says_of_which_run():
    class Rows(Length):
        """Reads a column that a summary does not have."""

        def table(self, state):
            table = super().table(state)
            return table.assign(double=table["length"] * 2)

    found = _broken(Rows())
    assert re.search(
        r"failed in `table` on a summary \(keep=\"summary\", or a corpus\).*KeyError: 'length'",
        found.broken["table is tidy"],
    )


@pytest.mark.parametrize(
    ("kind", "values", "needs"),
    [
        ("attention", ("length",), "of kind 'attention' needs Examples of patterns"),
        ("scatter", ("length",), "of kind 'scatter' needs 2 columns in `values`, not 1"),
        ("trajectory", ("length",), "of kind 'trajectory' needs 2 columns in `values`, not 1"),
    ],
)
def test_a_figure_gets_what_its_kind_needs(kind, values, needs):
    drawn = type("Drawn", (Length,), {"plots": (interp.Plot(kind, values, "T"),)})
    assert needs in _broken(drawn()).broken["figures draw what is there"]


def test_a_column_that_no_table_has_is_noted():
    report = check_analysis(Never())
    assert report.passed == tuple(LAWS)
    assert report.notes == (
        "described in `columns`, but in no table with these parameters: 'never', 'no_*'",
    )
