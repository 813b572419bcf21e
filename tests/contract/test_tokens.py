"""The token record: one class for prompts, passes and batches."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import torch

import interp
from interp.contract.analysis import Batch, weights_batch
from interp.contract.tokens import PER_TOKEN, Tokens
from interp.prompts.read import read_prompts


def tokens(**changed):
    ids = torch.tensor([[7, 8, 9], [5, 6, 0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    parts = {
        "tokens": ids,
        "mask": mask,
        "special": torch.zeros_like(mask),
        "ids": torch.tensor([3, 4]),
        "positions": torch.tensor([[0, 1, 2], [0, 1, 0]]),
        "targets": torch.tensor([[8, 9, -1], [6, -1, -1]]),
    }
    return Tokens.whole(**(parts | changed))


def test_without_a_cache_the_keys_are_the_tokens():
    one = tokens()
    assert one.key_tokens is one.tokens
    assert one.key_mask is one.mask


def test_columns_keep_prompt_ids_and_keys():
    last = tokens().columns(slice(-1, None))
    assert last.tokens.tolist() == [[9], [0]]
    assert last.mask.tolist() == [[True], [False]]
    assert last.ids.tolist() == [3, 4]
    assert last.key_tokens.shape == (2, 3), "an earlier token can still be attended to"


def test_a_row_is_a_prompt_without_its_padding():
    row = tokens().row(1)
    assert row.tokens.tolist() == [[5, 6]]
    assert row.ids.tolist() == [4]
    assert row.targets.tolist() == [[6, -1]]
    assert row.key_tokens.tolist() == [[5, 6]]
    assert bool(row.key_mask.all())


def test_answers_are_those_of_real_tokens_only():
    one = tokens().answered(targets=5, contrasts=[1, 2])
    assert one.targets.tolist() == [[5, 5, 5], [5, 5, -1]]
    assert one.contrasts.tolist() == [[1, 1, 1], [2, 2, -1]]
    assert one.answered().targets is one.targets
    assert "contrasts" not in tokens().tensors()


def test_a_record_moves_as_a_whole():
    moved = tokens().to("meta")
    assert {x.device.type for x in moved.tensors().values()} == {"meta"}


def test_per_token_fields_have_the_shape_of_the_tokens():
    one = tokens(contrasts=torch.tensor([[1, 2, 3], [4, 5, -1]]))
    shaped = [name for name, x in one.columns(slice(2)).tensors().items() if x.shape[1:] == (2,)]
    assert tuple(shaped) == PER_TOKEN


def test_prompts_are_cut_into_the_record_and_an_analysis_reads_it():
    (batch,) = read_prompts(torch.tensor([[1, 2, 3]]), None, special_ids=[1]).batches()
    assert isinstance(batch, Tokens)
    assert batch.special.tolist() == [[True, False, False]]
    assert batch.key_tokens is batch.tokens
    seen = Batch(**batch.tensors(), sites={}, layer=0)
    assert isinstance(seen, Tokens)
    assert seen.targets.tolist() == [[2, 3, -1]]
    own = [f.name for f in fields(Tokens) if f.name != "contrasts"]  # nobody gave second answers
    assert list(seen.tensors()) == own, "without what Batch adds"


def test_an_analysis_of_the_weights_gets_no_tokens():
    batch = weights_batch(model="the model")
    assert batch.tokens.shape == (0, 0)
    assert batch.ids.shape == (0,)
    assert batch.mask.dtype == batch.key_mask.dtype == torch.bool
    assert batch.model == "the model"
    assert batch.sites == {}


def test_the_fields_of_the_record_are_declared_once():
    wanted = {f.name for f in fields(Tokens)}
    declaring = [
        node.name
        for path in Path(interp.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and len(wanted & _declared(node)) > 5
    ]
    assert declaring == ["Tokens"]


def _declared(node):
    return {
        part.target.id
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }
