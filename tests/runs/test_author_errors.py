"""What an author reads whose `observe` or `table` goes wrong: who, where, which line."""

import math
import warnings
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from analyses.rotation import Rotation
from interp import Analysis, Cov, PerHead, PerToken, Plot
from interp.errors import (
    BadInput,
    ContractError,
    EmissionError,
    EmissionShapeError,
    ObserveError,
    UnknownName,
)
from interp.geometry import norm

TEXTS = ["Mary smiled.", "John thanked her."]


class Size(Analysis):
    """A value per token."""

    sites = ("resid_post",)
    columns = {"x": "norm"}  # noqa: RUF012

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]))}


class Turned(Size):
    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]).T)}


class Bare(Size):
    def observe(self, batch):
        return {"x": norm(batch["resid_post"])}


class Alone(Size):
    def observe(self, batch):
        return PerToken(norm(batch["resid_post"]))


class HeadsLast(Size):
    sites = ("pattern",)

    def observe(self, batch):
        return {"x": PerHead(batch["pattern"].sum(-1).transpose(1, 2))}


class Taken(Size):
    def observe(self, batch):
        return {"layer": PerToken(norm(batch["resid_post"]))}


class Broken(Size):
    def observe(self, batch):
        wanted = {"size": batch["resid_post"]}
        return {"x": PerToken(wanted["sise"])}


class BrokenTable(Size):
    def table(self, state):
        return state["no such place"]


class BrokenWeights(Size):
    scope = "weights"
    sites = ()

    def observe(self, batch):
        return {"x": batch.model.no_such_matrix}


class Spread(Size):
    """A leaf of which no table is made."""

    def observe(self, batch):
        return {"spread": Cov.of(batch["resid_post"], batch.mask)}


CASES = [
    (
        Turned,
        EmissionShapeError,
        r"with shape \(\d+, 2\); allowed is \[batch, pos\], here \(2, \d+\)",
    ),
    (Bare, EmissionError, r"emits 'x' as Tensor \(2, \d+\), no leaf: wrap it, PerToken"),
    (Alone, EmissionError, "`observe` returned PerToken, not a mapping; return a dict"),
    (HeadsLast, EmissionShapeError, r"allowed is \[batch, head, pos\], here"),
    (Taken, EmissionShapeError, "emits 'layer', a column that every table has"),
    (
        Broken,
        ObserveError,
        r"KeyError: 'sise' \(test_author_errors.py, line \d+, in observe: return",
    ),
]


@pytest.mark.parametrize(("kind", "error", "text"), CASES, ids=[c[0].__name__ for c in CASES])
def test_run_names_analysis_layer_site_and_shapes(gpt2, kind, error, text):
    with pytest.raises(error, match=text) as caught:
        interp.run(gpt2, torch.arange(10).reshape(2, 5) + 1, kind, progress=False)
    site = kind.sites[0]
    assert str(caught.value).startswith(
        f"analysis {kind.name()!r} failed at layer 0 on {site} (2, "
    )
    assert type(caught.value) is error


@pytest.mark.parametrize(("kind", "error", "text"), CASES[:2], ids=["Turned", "Bare"])
def test_attach_warns_of_the_same_and_raises_it_when_read(gpt2, kind, error, text):
    with interp.attach(gpt2, kind) as probes, pytest.warns(UserWarning, match=text):
        gpt2(torch.arange(10).reshape(2, 5) + 1)
    with pytest.raises(error, match=text):
        probes[kind.name()]


def test_line_in_table_is_the_authors(gpt2):
    results = interp.run(gpt2, torch.arange(4)[None] + 1, BrokenTable, progress=False)
    line = (
        r"'broken_table' failed in `table`: KeyError: 'no such place' \(test_author_errors.py, line"
    )
    with pytest.raises(ObserveError, match=line) as caught:
        _ = results["broken_table"].frame
    assert isinstance(caught.value.__cause__, KeyError)


def test_line_of_an_analysis_of_weights_is_the_authors(gpt2):
    with pytest.raises(ObserveError, match=r"'broken_weights' failed: .*no_such_matrix.* line \d+"):
        interp.run(gpt2, None, BrokenWeights, progress=False)


def test_check_shows_an_exception_once_and_no_advice_that_does_not_fit():
    with pytest.raises(ContractError) as caught:
        interp.check_analysis(BrokenTable, laws=["optional sites", "deterministic", "merge order"])
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("  optional sites: KeyError: 'no such place' (test_author_errors.py")
    assert lines[2:] == [
        "    The code of the analysis raised this, so this law was not judged, nor were "
        "deterministic, merge order."
    ]
    assert set(caught.value.broken) == {"optional sites", "deterministic", "merge order"}


def test_leaf_without_a_table_says_so(gpt2):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = interp.run(gpt2, torch.arange(4)[None] + 1, Spread, progress=False)["spread"]
    assert result.frame.empty
    assert any(n.startswith("The table has no rows: 'spread' is a Cov") for n in result.notes)
    assert np.isfinite(next(iter(result.leaves("spread").values())).arrays()["mean"]).all()


def test_an_ordinary_table_has_no_such_note(gpt2):
    result = interp.run(gpt2, torch.arange(4)[None] + 1, Size, progress=False)["size"]
    assert not any("no rows" in n for n in result.notes)


def test_plot_names_the_arguments_that_it_takes():
    with pytest.raises(UnknownName, match=r"'nothing' \(known: kind, values, title, unit, if_null"):
        Plot("line", ("x",), "Sizes", nothing="flat")
    with pytest.raises(UnknownName, match="'untit'; did you mean 'unit'"):
        Plot("line", ("x",), "Sizes", untit="m")


def test_values_of_a_figure_are_a_tuple():
    text = r"figure 'Sizes' draws 'x', not a tuple of names: write \('x',\)"
    with pytest.raises(BadInput, match=text):
        Plot("line", "x", "Sizes")


def test_a_kind_that_is_not_drawn_is_refused_where_the_figure_is_made():
    with pytest.raises(UnknownName, match=r"'heat'; did you mean 'heatmap'\? \(known: line, heat"):
        Plot("heat", ("x",), "Sizes")


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (
            {"token_columns": "top"},
            r"`token_columns` is 'top', not a tuple .* write \('top',",
        ),
        ({"columns": ["x"]}, r"`columns` is \['x'\], not a mapping such as \{'norm': "),
        ({"plots": [Plot("line", ("x",), "X")]}, "`plots` is .*, not a tuple of interp.Plot"),
        ({"sites": "resid_post"}, "`sites` is 'resid_post', not a tuple of names"),
        ({"scope": "modle"}, "`scope` is 'modle'; did you mean 'model'"),
        ({"scope": ["layer"]}, "`scope` is .* allowed are 'layer', 'model', 'weights'"),
        ({"renamed": "x"}, "`renamed` is 'x', not a mapping"),
        ({"ranges": (0, 1)}, r"`ranges` is \(0, 1\), not a mapping such as \{'share': \(0, 1\)"),
        ({"ranges": {"x": 1}}, r"`ranges` of 'x' is 1, not \(least, largest\) such as"),
        (
            {"ranges": {"x": (0, None)}},
            r"`ranges` of 'x' is \(0, None\), not \(least, largest\) such as \(0, 1\); write "
            r"math.inf or -math.inf for an open end: \(0, math.inf\)",
        ),
        ({"ranges": {"x": [1, 0]}}, r"`ranges` of 'x' is \[1, 0\], not \(least, largest\)"),
        ({"ranges": {"y": (0, 1)}}, "`ranges` names 'y', which is none of `columns`"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_declaration_of_the_wrong_type_is_told_with_its_fix(declared, text):
    kind = type("Wrong", (Size,), {"__module__": __name__, **declared})
    with pytest.raises(ContractError, match=text) as caught:
        interp.check_analysis(kind)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3, "one law, what was seen, the fix"
    assert "raised this" not in lines[2]


def test_a_range_may_be_a_list():
    kind = type("Listed", (Size,), {"__module__": __name__, "ranges": {"x": [0, math.inf]}})
    assert interp.check_analysis(kind, laws=["columns documented", "values in their ranges"])
    narrow = type("Narrow", (Size,), {"__module__": __name__, "ranges": {"x": [0, 0.5]}})
    with pytest.raises(ContractError, match=r"'x' has the range \(0, 0.5\) in `ranges`"):
        interp.check_analysis(narrow, laws=["values in their ranges"])


def test_run_refuses_text_for_a_tuple_and_a_scope_that_there_is_not():
    for declared, error, text in (
        ({"sites": "resid_post"}, BadInput, r"'wrong': `sites` is .* write \('resid_post',\)"),
        ({"scope": "layers"}, UnknownName, r"scope .*'wrong'\) 'layers'; did you mean 'layer'"),
    ):
        with pytest.raises(error, match=text):
            interp.run("demo", ["the man"], type("Wrong", (Size,), declared), progress=False)


class Decorated(Size):
    @torch.no_grad()
    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]) / {}["no scale"])}


class ElsewhereObserved(Rotation):
    """Takes `observe` from another file; `table` is its own."""

    def table(self, state):
        return pd.DataFrame({"x": state["nowhere"]})


class Refusing(Size):
    def table(self, state):
        raise BadInput("this table wants two layers")


class NoFrame(Size):
    def table(self, state):
        return {"x": [1.0]}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Decorated, r"'no scale' \(test_author_errors.py, line \d+, in observe: return"),
        (ElsewhereObserved, r"'nowhere' \(test_author_errors.py, line \d+, in table: return"),
        (Refusing, r"`table`: BadInput: this table wants two layers \(test_author_errors.py, line"),
        (
            NoFrame,
            r"in `table` \(test_author_errors.py, line \d+\): it returned dict",
        ),
    ],
)
def test_the_line_is_the_authors_also_where_others_stand_around_it(gpt2, kind, text):
    with pytest.raises(ObserveError, match=text):
        _ = interp.run(gpt2, torch.arange(4)[None] + 1, kind, progress=False)[kind.name()].frame


class OptionalTable(Size):
    optional = ("resid_mid",)

    def observe(self, batch):
        x = norm(batch["resid_post"])
        return {
            "x": PerToken(x),
            **({"y": PerToken(x)} if batch.get("resid_mid") is not None else {}),
        }

    def table(self, state):
        return super().table(state).assign(y=lambda t: t["y"])


def test_check_names_the_line_of_a_table_that_needs_an_optional_site():
    text = r"optional sites: without .*KeyError: 'y' \(test_author_errors.py, line \d+, in"
    with pytest.raises(ContractError, match=text):
        interp.check_analysis(OptionalTable, laws=["optional sites"])


class InPlace(interp.Analysis):
    """Mean of what it has centred itself, wrongly."""

    sites = ("resid_post",)
    columns: ClassVar = {"mean": "mean of the entries"}

    def observe(self, batch):
        x = batch["resid_post"]
        x -= x.mean(-1, keepdim=True)
        return {"mean": interp.PerToken(x.mean(-1))}


def test_an_activation_that_was_changed_in_place_is_named():
    message = r"'in_place' failed at layer 0 .*changed 'resid_post' in place.*write x = x − …"
    with pytest.raises(EmissionError, match=message):
        interp.run("demo", ["the man"], InPlace, progress=False)
    model = interp.load_model("demo")
    with (
        pytest.warns(UserWarning, match="changed 'resid_post' in place"),
        interp.attach(model, InPlace),
    ):
        model(model.to_tokens("the man"))


class Undeclared(interp.Analysis):
    """Norm of a state that was not asked for."""

    sites = ("resid_post",)
    columns: ClassVar = {"norm": "norm"}
    asked: ClassVar[str] = "resid_pre"

    def observe(self, batch):
        return {"norm": interp.PerToken(batch[self.asked].norm(dim=-1))}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("resid_pre", r"no site 'resid_pre' in this batch \(here: resid_post\): declare it in"),
        ("terms", "terms are read as `batch.terms`"),
        ("resid_poste", "did you mean 'resid_post'"),
    ],
)
def test_a_site_that_was_not_declared_says_so(monkeypatch, asked, message):
    monkeypatch.setattr(Undeclared, "asked", asked)
    with pytest.raises(ObserveError, match=message):
        interp.run("demo", ["the man"], Undeclared, progress=False)
