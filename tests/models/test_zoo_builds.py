"""Every zoo entry builds, boots, runs, and computes what plain Hugging Face computes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from zoo import (
    REFUSED,
    VOCAB,
    ZOO,
    Entry,
    boot,
    facts,
    random_tokens,
    reference,
    tiny_tokenizer,
)
from zoo.refused import Refusal
from zoo_survey import measure

FULL = os.environ.get("INTERP_FULL") == "1"
ENTRIES = [pytest.param(entry, id=name) for name, entry in ZOO.items() if entry.fast or FULL]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def plain(entry: Entry) -> dict[str, Any]:
    return reference(entry, random_tokens())


@pytest.mark.parametrize("entry", ENTRIES)
def test_bridge_computes_what_the_plain_model_computes(entry: Entry) -> None:
    tokens = random_tokens()
    bridge = boot(entry)
    with torch.no_grad():
        logits = bridge(tokens)
    expected = plain(entry)["logits"]
    assert logits.shape == expected.shape == (*tokens.shape, VOCAB)
    assert not bridge.training
    error = (logits - expected).abs().max() / expected.abs().max()
    assert error < 1e-4


@pytest.mark.parametrize("entry", ENTRIES)
def test_weights_are_the_same_each_time_and_no_layer_is_idle(entry: Entry) -> None:
    tokens = random_tokens()
    state = torch.get_rng_state()
    one, two = plain(entry), reference(entry, tokens)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one["logits"], two["logits"])
    assert one["logits"].isfinite().all()
    for before, after in itertools.pairwise(one["hidden_states"]):
        if before.shape != after.shape:  # a projection out of the stream
            continue
        assert (after - before).norm() > 0.1 * before.norm()


def test_tokenizer_has_as_many_words_as_the_models(tmp_path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    assert len(tokenizer) == VOCAB
    words = tokenizer.convert_ids_to_tokens(tokenizer("the man saw her.")["input_ids"])
    assert words == ["<bos>", "the", "man", "saw", "her", "."]


def test_seeds_differ_between_entries() -> None:
    one, two = (plain(ZOO[name]) for name in ("llama", "mixtral"))
    assert not torch.equal(one["hidden_states"][0], two["hidden_states"][0])


@pytest.mark.parametrize("entry", ENTRIES)
def test_written_facts_are_what_is_measured(entry: Entry) -> None:
    assert measure(entry) == facts()[entry.name], "renew with `python tests/zoo_survey.py --write`"


def test_facts_cover_the_zoo() -> None:
    assert list(facts()) == list(ZOO)
    assert not set(ZOO) & set(REFUSED)


def test_fast_entries_are_few_and_of_every_kind() -> None:
    fast = [entry for entry in ZOO.values() if entry.fast]
    assert len(fast) <= 30
    assert {entry.kind for entry in fast} == {entry.kind for entry in ZOO.values()}


@pytest.mark.full
@pytest.mark.parametrize("refusal", [pytest.param(r, id=name) for name, r in REFUSED.items()])
def test_refused_models_still_fail_for_the_reason_given(refusal: Refusal) -> None:
    tokens = random_tokens()
    expected = reference(refusal.entry, tokens)["logits"]
    if not refusal.wrong:
        with pytest.raises((ValueError, RuntimeError), match=refusal.reason), torch.no_grad():
            boot(refusal.entry)(tokens)
        return
    with torch.no_grad():
        logits = boot(refusal.entry)(tokens)
    assert (logits - expected).abs().max() > 0.01 * expected.abs().max()
