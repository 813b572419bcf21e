"""The "her" experiment: on natural sentences with GPT-2's own tokenizer and shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED_DATA

import interp

TOKENIZER = SHARED_DATA / "gpt2-tokenizer"


@pytest.fixture(scope="module")
def xl_shaped():
    """GPT-2 XL's width, heads, context and vocabulary, two blocks, random weights."""
    if not TOKENIZER.is_dir():
        pytest.skip(f"GPT-2's vocabulary is not at {TOKENIZER}")
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    torch.manual_seed(0)
    config = GPT2Config(n_embd=1600, n_head=25, n_layer=2)
    tokenizer = GPT2TokenizerFast.from_pretrained(str(TOKENIZER))
    return interp.load_model(GPT2LMHeadModel(config).eval(), tokenizer, device="cpu")


@pytest.fixture(scope="module")
def results(xl_shaped):
    return interp.run(xl_shaped, "her", ["rotation", "random_pairs"], target="her", progress=False)


def test_at_least_54_sentences_with_her_after_a_verb(results):
    frame = results["rotation"].frame.query("layer == 0")
    target = frame.query("role == 'target'")
    assert target["prompt"].nunique() >= 54
    assert set(target["token"]) == {" her"}
    assert target.groupby("prompt").size().max() >= 1
    lengths = frame.groupby("prompt").size()
    assert lengths.nunique() > 5, "padding is exercised by prompts of different lengths"


def test_previous_is_the_token_right_before(results):
    frame = results["rotation"].frame.query("layer == 0").set_index(["prompt", "position"])
    for (prompt, position), row in frame.query("role == 'target'").iterrows():
        assert frame.loc[(prompt, position - 1), "role"] == "previous", row["token"]


def test_padding_changes_nothing(xl_shaped, results):
    frame = results["rotation"].frame
    text = Path(interp.__file__).parent / "prompts" / "data" / "her.txt"
    shortest = min(range(5), key=lambda i: (frame["prompt"] == i).sum())
    lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    alone = interp.run(xl_shaped, [lines[shortest]], "rotation", progress=False)["rotation"].frame
    together = frame[frame["prompt"] == shortest]
    assert together["token_id"].tolist() == alone["token_id"].tolist()
    np.testing.assert_allclose(together["angle"], alone["angle"], atol=1e-2)


def test_an_untrained_model_shows_no_effect(results):
    """The control of the whole experiment: without training "her" is like the verb before it."""
    found = interp.compare(
        results["rotation"], value="angle", between="role", a="target", b="previous"
    )
    assert len(found.frame) == 2
    assert found.frame["n_a"].min() >= 54
    # The two tokens do differ in their embeddings, so only the size of the effect is bounded.
    assert found.frame["difference"].abs().max() < 2


def test_random_pairs_are_the_third_group(results):
    pairs = results["random_pairs"].frame
    assert set(pairs["kind"]) == {"same layer", "any layers"}
    assert pairs["angle"].between(0, 180).all()
