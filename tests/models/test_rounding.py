"""Rounded copies: the rounding is GGUF's, its size is as expected, and the model stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf_help import llama as small_llama
from gguf_help import rounded_llama, tokenizer

import interp
from interp import BadInput, InterpError
from interp.errors import UnknownName, Unsupported
from interp.models.rounding import ROUNDINGS, block_size, rounded

TOKENS = torch.tensor([[1, 9, 40, 200, 77, 250, 12]])


def blocks(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 32)


def q8_0(values: np.ndarray) -> np.ndarray:
    """Each block: a float16 scale, the largest magnitude over 127, times whole numbers."""
    rows = blocks(values)
    scale = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    whole = np.rint(rows * np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0))
    return (whole * scale.astype(np.float16).astype(np.float32)).reshape(values.shape)


def q4_1(values: np.ndarray) -> np.ndarray:
    """Each block: a float16 minimum and a float16 step, a fifteenth of the range."""
    rows = blocks(values)
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    step = (high - low) / np.float32(15)
    whole = np.clip(np.floor((rows - low) / np.where(step > 0, step, 1) + np.float32(0.5)), 0, 15)
    half = step.astype(np.float16).astype(np.float32), low.astype(np.float16).astype(np.float32)
    return (whole * half[0] + half[1]).reshape(values.shape)


def matrix(rows: int = 40, columns: int = 96) -> torch.Tensor:
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))
    values[0, :32] = 0  # a block of zeros
    values[1] *= 100
    return values


@pytest.mark.parametrize(("rounding", "own"), [("Q8_0", q8_0), ("Q4_1", q4_1)])
def test_blocks_are_rounded_by_their_formula(rounding, own):
    values = matrix()
    found, expected = rounded(values, rounding).numpy(), own(values.numpy())
    # One number in a thousand may lie on the border between two steps.
    differs = np.abs(found - expected) > 1e-6 * np.abs(expected) + 1e-9
    assert differs.mean() < 1e-3
    step = np.abs(blocks(values.numpy())).max() / (127 if rounding == "Q8_0" else 7.5)
    assert np.abs(found - values.numpy()).max() <= step


def test_plain_floats_are_rounded_as_torch_rounds_them():
    values = matrix()
    assert torch.equal(rounded(values, "BF16"), values.bfloat16().float())
    assert torch.equal(rounded(values, "F16"), values.half().float())


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_more_bits_move_less_and_rounding_twice_moves_nothing_more(rounding):
    values = matrix()
    once = rounded(values, rounding)
    error = ((once - values).norm() / values.norm()).item()
    most = {"BF16": 2e-3, "F16": 3e-4, "Q8_0": 8e-3, "Q5_1": 0.05, "Q5_0": 0.05}
    assert 0 < error < most.get(rounding, 0.1)
    again = rounded(once, rounding)
    assert ((again - once).norm() / values.norm()).item() < 0.1 * error + 1e-4
    assert once.dtype == values.dtype
    assert rounded(values.bfloat16(), rounding).dtype == torch.bfloat16


@pytest.mark.parametrize("rounding", ["Q8_0", "Q4_1", "BF16"])
def test_a_copy_computes_what_the_rounded_weights_compute(rounding):
    model = interp.load_model(small_llama(), tokenizer())
    before = {name: value.clone() for name, value in model.named_parameters()}
    state = torch.get_rng_state()
    copy = interp.models.rounded_copy(model, rounding)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        assert torch.allclose(copy(TOKENS), rounded_llama(rounding)(TOKENS).logits, atol=1e-5)
        assert not torch.allclose(copy(TOKENS), model(TOKENS), atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert copy.cfg.model_name.endswith(f"(rounded to {rounding})")
    assert copy.weights_origin["weights"]["tensor_types"] == {rounding: 16}
    assert copy.to_tokens("The man").tolist() == model.to_tokens("The man").tolist()
    few_bits = {} if rounding == "BF16" else {rounding: 16}
    assert interp.inspect(copy).rounded == few_bits


def weights(model) -> dict[str, torch.Tensor]:
    named = model.original_model.named_parameters()
    return {name.replace("._original_component", ""): value.detach() for name, value in named}


def test_rows_run_over_the_inputs_in_every_layout():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 2, "vocab_size": 50, "n_positions": 16}
    hf = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    model = interp.load_model(hf)
    copy = interp.models.rounded_copy(model, "Q8_0")
    inner, original = weights(copy), weights(model)
    weight = inner["transformer.h.0.mlp.c_fc.weight"].numpy()
    expected = q8_0(original["transformer.h.0.mlp.c_fc.weight"].numpy().T.copy()).T
    assert np.abs(weight - expected).max() < 1e-6 + 1e-3 * (np.abs(expected).max() / 127)
    kept = "transformer.wpe.weight"
    assert torch.equal(inner[kept], original[kept])
    assert torch.equal(inner["transformer.wte.weight"], copy.original_model.lm_head.weight)
    assert not torch.equal(inner["transformer.wte.weight"], original["transformer.wte.weight"])


def test_what_cannot_be_rounded_is_told(gpt2, llama, monkeypatch):
    with pytest.raises(UnknownName, match="rounding 'q8_0'; did you mean 'Q8_0'"):
        interp.models.rounded_copy(gpt2, "q8_0")
    with pytest.raises(BadInput, match="rows that divide into blocks of 32 numbers, which Q4_1"):
        interp.models.rounded_copy(llama, "Q4_1")
    with pytest.warns(UserWarning, match="matrices have rows that do not divide into blocks of 32"):
        interp.models.rounded_copy(gpt2, "Q4_1")
    folded = interp.load_model(small_llama())
    folded.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(Unsupported, match="no copy rounded to Q8_0 .* weights were folded"):
        interp.models.rounded_copy(folded)
    assert (block_size("Q8_0"), block_size("BF16")) == (32, 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InterpError, match=r"by the package gguf: pip install 'interp-stream\[gguf"):
        interp.models.rounded_copy(gpt2)
