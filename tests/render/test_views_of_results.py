"""What a run says of itself in a notebook and at the head of a report."""

import dataclasses

import pytest
import torch
from render_data import make_results

import interp
from interp.models.probe import inspect
from interp.runs.report.report import measured, report_html


@pytest.fixture(scope="module")
def results():
    return make_results()


def test_results_have_a_view_for_notebooks(results):
    page = results._repr_html_()
    assert page.count("<tr>") == len(results) + 1
    for name, result in results.items():
        assert f"<td>{name}</td><td>{len(result.frame):,}</td>" in page
    assert "<script>" not in page


def test_basis_stands_with_every_table(gpt2):
    results = interp.run(gpt2, torch.tensor([[1, 2, 3]]), ["rotation", "norm"], progress=False)
    for result in results.values():
        assert result.said[0] == "Basis of the weights: raw."
        assert "\nnote: Basis of the weights: raw." in repr(result)
        assert "Basis of the weights: raw." in result._repr_html_()
    assert "basis: raw" in results._repr_html_()


def test_another_basis_than_raw_is_a_caveat_of_every_table(gpt2):
    folded = dataclasses.replace(inspect(gpt2), basis="compatibility mode")
    (note,) = [n for n in folded.caveats() if "basis" in n]
    assert note.startswith("The weights are in another basis than raw ones (compatibility mode)")
    assert not any("basis" in n for n in inspect(gpt2).caveats())


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({"count": 64, "documents": 60, "tokens": 5690}, "60 documents, 5,690 tokens"),
        ({"count": 1, "documents": 1, "tokens": 12}, "1 document, 12 tokens"),
        ({"count": 0}, "only the weights were read"),
    ],
)
def test_a_run_without_a_table_of_tokens_says_what_was_read(results, prompts, said):
    """A corpus run keeps moments, and of its tokens those of its examples."""
    rotation = results["rotation"]
    bare = dataclasses.replace(rotation, tokens=rotation.tokens.head(0), _frame=rotation.frame)
    run = interp.Results([bare], results.provenance | {"prompts": prompts})
    assert dict(measured(run))["Prompts"] == said
    assert said in report_html(run)
