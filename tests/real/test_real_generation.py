"""Generation by a real chat model, against plain transformers in float64 and its own tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.experiments import generation_steps, written_values

pytestmark = pytest.mark.real

CHATS = [
    [{"role": "user", "content": "What is the capital of France? Answer in one word."}],
    [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "The colour"}],
]
KINDS = ["next_token", "path_length", "rotation"]


@pytest.fixture(scope="module")
def written(smollm2):
    return interp.generate(smollm2, CHATS, KINDS, max_new_tokens=12, progress=False)


def texts_of(results):
    return [rows for _, rows in results.tokens.groupby("prompt")]


def test_the_reply_begins_where_the_tokenizer_says_and_is_the_likeliest(
    smollm2, written, reference
):
    endings = {"add_generation_prompt": True}, {"continue_final_message": True}
    for chat, ending, rows in zip(CHATS, endings, texts_of(written), strict=True):
        wanted = smollm2.tokenizer.apply_chat_template(chat, return_dict=True, **ending)
        given = rows.loc[~rows["generated"], "token_id"].tolist()
        assert given == wanted["input_ids"]
        logits = reference(rows["token_id"].tolist()).logits
        new = rows.loc[rows["generated"], "position"].to_numpy()
        ids = rows.loc[rows["generated"], "token_id"].to_numpy()
        # The likeliest in float64 too, up to the rounding of the float32 that chose it.
        assert (logits[new - 1].max(1) - logits[new - 1, ids] < 1e-3).all()
        assert set(rows.loc[rows["generated"], "role"]) == {"assistant"}
    assert "Paris" in written.texts["text"][0]


def test_measures_of_written_tokens_are_those_of_plain_transformers(written, reference):
    frame = written_values(written)
    for rows in (part for _, part in frame.groupby("prompt")):
        plain = reference(rows["token_id"].tolist())
        log_p = torch.from_numpy(plain.logits).log_softmax(-1).numpy()
        steps = np.linalg.norm(np.diff(plain.stream, axis=0), axis=2).sum(0)
        unit = plain.stream[[0, -1]] / np.linalg.norm(plain.stream[[0, -1]], axis=2, keepdims=True)
        turn = np.degrees(np.arccos((unit[0] * unit[1]).sum(-1)))
        new = rows[rows["generated"]]
        at, ids = new["position"].to_numpy() - 1, new["token_id"].to_numpy()
        np.testing.assert_allclose(new["log_prob"], log_p[at, ids], atol=2e-3)
        entropy = -(np.exp(log_p[at]) * log_p[at]).sum(1)
        np.testing.assert_allclose(new["entropy"], entropy, atol=2e-3)
        np.testing.assert_allclose(new["path"], steps[at], rtol=1e-3)
        np.testing.assert_allclose(new["angle_to_start"], turn[at], atol=0.05)


def test_shuffled_words_are_less_likely(smollm2):
    texts = ["The old king gave his daughter", "When Mary went to the store", "Paris is a city"]
    results = interp.generate(
        smollm2, texts, "next_token", max_new_tokens=16, stop=[], progress=False
    )
    found = generation_steps(results, smollm2, resamples=50)
    mean = found.frame.set_index(["value", "text"])["mean"]["log_prob"]
    assert mean["as written"] > mean["shuffled"] > mean["random tokens"]
