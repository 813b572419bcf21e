"""What leaves answer for themselves, and the names that they had in saved files."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import interp
from interp import Cov, Examples, Histogram, Leaf, Moments, Once, Sum, TopK
from interp.contract.counts import BINS, GroupCounts
from interp.contract.leaves import RENAMED, Count, Rows, leaf_class, only, without_rows
from interp.contract.table import default_table
from interp.runs.storage import load_state, save_state

MASK = torch.tensor([[True, True, False]])
VALUES = torch.tensor([[1.0, 3.0, 9.0]])
IDS = torch.tensor([4])
POSITIONS = torch.tensor([[0, 1, 2]])


def counts():
    return GroupCounts({("a",): (np.array([5, 7]), np.array([2, 2]))}, ("kind",))


def top():
    return TopK.of(5, VALUES, IDS, POSITIONS, MASK, payload=VALUES[..., None])


def examples():
    return Examples.of(3, torch.tensor([[8, 2, 0]]), IDS, MASK, axes=(0,))


def rows():
    return Rows.of(np.array([4, 4]), np.array([0, 1]), np.array([7, 5]))


class Plain(Leaf):
    """A leaf that overrides nothing."""

    def merge(self, other):
        return self

    def arrays(self):
        return {"x": np.zeros(3)}

    @classmethod
    def from_arrays(cls, arrays):
        return cls()


def test_a_new_leaf_needs_none_of_the_answers():
    leaf = Plain()
    assert leaf.records() == []
    assert leaf.group_columns() == {}
    assert leaf.companion_columns([("a",)], 1) == {}
    assert leaf.token_ids("top_tokens", ("top_tokens",)).tolist() == []
    assert list(leaf.kept_prompts()) == []
    assert leaf.capacity() == leaf.nbytes() == 24
    assert leaf.is_rows is False
    assert leaf.accumulates is None


@pytest.mark.parametrize(
    ("leaf", "name", "columns", "ids"),
    [
        (counts(), "top", (), [5, 7]),
        (counts(), f"norm{BINS}", (), []),  # bins of numbers
        (rows(), "top", ("top",), [5, 7]),
        (rows(), "rank", ("top",), []),
        (Once({"values": np.array([9, 9, 1])}), "top", ("top",), [1, 9]),
        (Once({"values": np.array([9, 9, 1])}), "rank", ("top",), []),
        (examples(), "lens_tokens", (), [2, 8]),
        (examples(), "lens_probabilities", ("lens_probabilities",), []),
        (top(), "top", ("top",), []),
    ],
)
def test_token_ids_of_a_leaf(leaf, name, columns, ids):
    assert leaf.token_ids(name, columns).tolist() == ids


def test_prompts_that_a_leaf_is_read_with():
    assert list(top().kept_prompts()) == [4, 4]
    assert list(examples().kept_prompts()) == [4]
    assert list(rows().kept_prompts()) == []


def test_capacity_is_of_a_full_leaf_and_rows_are_apart():
    assert top().capacity() == 5 * 4
    assert examples().capacity() == 3
    assert rows().capacity() == 0
    assert Sum.of(VALUES, MASK).capacity() == 8


@pytest.mark.parametrize(
    ("leaf", "records"),
    [
        (Sum.of(VALUES, MASK), [{"total": 4.0}]),
        (Sum(np.array([1.0, 2.0])), [{"entry": 0, "total": 1.0}, {"entry": 1, "total": 2.0}]),
        (Count.of(MASK), [{"n": 2}]),
        (
            Histogram.of(VALUES, MASK, [2.0]),
            [{"low": -np.inf, "high": 2.0, "n": 1}, {"low": 2.0, "high": np.inf, "n": 1}],
        ),
        (
            Moments.of(VALUES, MASK),
            [{"n": 2, "mean": 2.0, "std": 2**0.5, "min": 1.0, "max": 3.0, "undefined": 0}],
        ),
        (
            top(),
            [
                {"prompt": 4, "position": 1, "score": 3.0},
                {"prompt": 4, "position": 0, "score": 1.0},
            ],
        ),
        (Cov.of(VALUES[..., None], MASK), []),
    ],
)
def test_records_of_a_leaf_are_the_rows_of_the_table(leaf, records):
    assert leaf.records() == records
    table = default_table({("", 2): {"it": leaf}})
    expected = [{"value": "it", **record, "layer": 2} for record in records]
    assert table.to_dict("records") == expected


def test_the_most_frequent_id_is_the_lowest_of_several():
    columns = counts().group_columns()
    assert columns["kind"] == ["a"]
    assert columns["n"] == [4]
    assert columns["mode"] == [5]
    assert columns["mode_share"] == [0.5]
    assert columns["distinct"] == [2]


def test_rows_are_left_out_of_a_state_and_found_in_it():
    state = {("", 0): {"a": rows(), "b": Sum.of(VALUES, MASK)}, ("", 1): {"a": rows()}}
    kept = without_rows(state)
    assert list(kept) == [("", 0)]
    assert list(kept["", 0]) == ["b"]
    assert list(only(state["", 0], Rows)) == ["a"]


@pytest.mark.parametrize("old", RENAMED)
def test_state_files_with_an_earlier_name_of_a_leaf_are_read(tmp_path, old):
    path = tmp_path / "state.safetensors"
    save_state({("", 3): {"norm~bins": counts()}}, path)
    now = RENAMED[old]
    renamed = {key.replace(f"/{now}/", f"/{old}/"): x for key, x in load_file(path).items()}
    assert all(f"/{old}/" in key for key in renamed)
    save_file(renamed, path)
    (leaf,) = load_state(path)["", 3].values()
    assert type(leaf).__name__ == now
    codes, n = leaf.groups["a",]
    assert (codes.tolist(), n.tolist()) == ([5, 7], [2, 2])


def test_an_earlier_name_is_not_written_and_a_wrong_one_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state({("", 3): {"norm~bins": counts()}}, path)
    assert all("/GroupCounts/" in key for key in load_file(path))
    with pytest.raises(interp.errors.UnknownName, match="did you mean 'Moments'"):
        leaf_class("Momens")


def test_few_places_ask_for_the_class_of_a_leaf():
    """Leaves answer for themselves: a new one needs no other file."""
    kinds = {kind.__name__ for kind in (Leaf, *Leaf.__subclasses__())}
    asking = [
        path.name
        for path in Path(interp.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "isinstance"
        and kinds & {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
    ]
    assert len(asking) <= 7, asking  # three of them check what an author returned
