"""What `check_analysis` advises on, and notes that break no law: each names its own cause."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

import interp
from interp.contract.leaves import Moments
from interp.errors import ContractError, ObserveError
from interp.geometry import norm
from interp.runs.report.means import group_means


class One(interp.Analysis):
    """One value per token."""

    sites: ClassVar = ("resid_post",)
    columns: ClassVar = {"x": "a value"}

    def observe(self, batch):
        return {"x": interp.PerToken(self.value(batch))}

    def value(self, batch):
        return norm(batch["resid_post"])


class InPlace(One):
    def value(self, batch):
        x = batch["resid_post"]
        x -= x.mean(-1, keepdim=True)
        return norm(x)


class TermInPlace(InPlace):
    optional: ClassVar = ("terms",)

    def value(self, batch):
        for x in batch.terms.values():
            x.mul_(2)
        return norm(batch["resid_post"])


class OverQueries(One):
    sites: ClassVar = ("pattern",)

    def value(self, batch):
        return batch["pattern"].sum(2).mean(1)


class ZeroLogZero(One):
    sites: ClassVar = ("pattern",)

    def value(self, batch):
        p = batch["pattern"]
        return -(p * p.log()).sum(-1).mean(1)


class Empty(One):
    columns: ClassVar = {"x": ""}


class Array(One):
    def observe(self, batch):
        return {"x": norm(batch["resid_post"]).numpy()}


class WrappedArray(One):
    def value(self, batch):
        return norm(batch["resid_post"]).numpy()


class Whole(One):
    def observe(self, batch):
        return norm(batch["resid_post"]).numpy()


@pytest.mark.parametrize(
    ("kind", "law", "seen", "fix"),
    [
        (InPlace, "input unchanged", "changed 'resid_post' in place", "Compute into new tensors"),
        (TermInPlace, "input unchanged", r"changed \"terms\['attn'\]\" in", "Compute into new"),
        (OverQueries, "optional sites", "continues a KV cache", "more keys than queries"),
        (Empty, "columns documented", "'x' has an empty text in `columns`", "with its unit"),
        (Array, "runs", "as ndarray .*wrap it as a tensor", "PerToken"),
        (WrappedArray, "emissions", "with ndarray, .*torch.as_tensor", "One value per token"),
        (Whole, "runs", "returned ndarray, not a mapping", "Return a dict"),
    ],
)
def test_advice_is_on_what_was_seen(kind, law, seen, fix):
    with pytest.raises(ContractError) as caught:
        interp.check_analysis(kind)
    assert next(iter(caught.value.broken)) == law
    with pytest.raises(ContractError, match=rf"(?s)  {law}: .*{seen}.*\n    .*{fix}"):
        interp.check_analysis(kind)


def test_values_that_are_nan_in_one_case_have_advice_on_nan():
    with pytest.raises(ContractError) as caught:
        interp.check_analysis(ZeroLogZero)
    text = str(caught.value)
    assert "averages of averages" not in text
    assert "torch.special.entr(p) is −p·log p and 0 at p = 0" in text


class Undefined(One):
    """A value."""

    def value(self, batch):
        return (-norm(batch["resid_post"]) - 1).log()


class Constant(One):
    """A value."""

    def value(self, batch):
        return 0 * norm(batch["resid_post"]) / batch.positions


class OfAll(One):
    """A value."""

    def observe(self, batch):
        return {"x": Moments.of(norm(batch["resid_post"]), batch.mask)}


class OfText(One):
    """A value."""

    def observe(self, batch):
        return {"x": Moments.of(norm(batch["resid_post"]), batch.mask & ~batch.special)}


class OfPadding(One):
    """A value."""

    def observe(self, batch):
        return {"x": Moments.of(norm(batch["resid_post"]), torch.ones_like(batch.mask))}


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        (
            Undefined,
            "no defined value in any world (up to 20 prompts of 1 to 6 tokens): column 'x'",
        ),
        (Constant, "column 'x' is 0 in all worlds, wherever it is defined"),
        (OfAll, "special tokens (BOS and the like) are in 'x': a sum cannot be filtered"),
    ],
)
def test_what_breaks_no_law_and_tells_nothing_has_a_note(kind, note):
    (found,) = interp.check_analysis(kind).notes
    assert found.startswith(note)


@pytest.mark.parametrize("kind", [One, OfText])
def test_what_is_sound_has_no_note(kind):
    assert interp.check_analysis(kind).notes == ()


def test_moments_say_whether_special_tokens_are_in_them():
    results = interp.run(
        "demo", ["the man", "a woman walks"], [OfAll, OfText, OfPadding, One], progress=False
    )
    rows = results["one"].frame
    means = {name: group_means(results[name]) for name in results}
    every, text = (rows[keep]["x"].mean() for keep in (rows["x"].notna(), ~rows["special"]))
    assert means["of_all"] == [f"x {every:.3g} (special tokens in it)"]
    assert means["of_text"] == [f"x {text:.3g}"] == means["one"]
    notes = {name: " ".join(results[name].notes) for name in results}
    assert "are in 'x': a sum cannot be filtered afterwards" in notes["of_all"]
    width = int(rows.groupby("prompt")["position"].nunique().max()) * 2
    n = len(rows.drop_duplicates(["prompt", "position"]))
    assert (
        f"'x' has {width} values in one layer, and the run has {n} tokens: padding is in"
        in (notes["of_padding"])
    )
    assert "are in 'x'" not in notes["of_text"] + notes["of_padding"]


def test_a_corpus_says_that_padding_is_in_moments(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(["the man", "a woman walks to the old house", "she sleeps"] * 4))
    kinds, out = [OfPadding, OfAll, OfText], tmp_path / "out"
    interp.run_corpus("demo", texts, kinds, out=out, progress=False)
    results = interp.load(out)
    assert "padding is in them" in " ".join(results["of_padding"].notes)
    assert "padding is in them" not in " ".join(results["of_all"].notes)
    (mean,) = group_means(results["of_all"])
    assert mean.endswith(" (every token in it)")
    (mean,) = group_means(results["of_text"])
    assert mean == f"x {float(mean.split()[1]):.3g}"


def test_a_figure_without_values_does_not_ask_for_prompts():
    from interp import Plot

    class Drawn(Undefined):
        plots: ClassVar = (Plot("line", ("x",), "X", "unit"),)

    result = interp.run("demo", ["the man", "a woman walks"] * 4, Drawn(), progress=False)["drawn"]
    caption = result.plot().layout.meta["caption"]
    assert "No band: no value is defined." in caption
    assert "two prompts" not in caption


def test_an_array_in_a_run_is_named_with_its_fix():
    with pytest.raises(ObserveError, match=r"ndarray \(1, 4\), no leaf: wrap it as a tensor"):
        interp.run("demo", ["the man"], Array, progress=False)
