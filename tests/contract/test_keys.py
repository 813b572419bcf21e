"""Keys of activations: what they are of is asked of them, not read from their text."""

from __future__ import annotations

import pytest

from interp.contract.jobs import Key

KEYS = {
    "state": Key.state("decoder", 3),
    "logits": Key.logits("decoder"),
    "term": Key.of_term("decoder", "attn", 2),
    "site": Key("decoder", "pattern", 2),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_knows_its_kind(kind):
    key = KEYS[kind]
    assert key.is_state == (kind == "state")
    assert key.is_logits == (kind == "logits")
    assert key.term == ("attn" if kind == "term" else None)
    assert key.stack == "decoder"


def test_a_key_knows_the_axes_of_its_activation():
    assert KEYS["state"].axes == KEYS["term"].axes == ("batch", "pos", "d_model")
    assert KEYS["logits"].axes == ("batch", "pos", "vocab")
    assert KEYS["site"].axes == ("batch", "head", "query", "key")


def test_keys_of_different_kinds_differ():
    assert len({Key.state("", 0), Key.logits(""), Key.of_term("", "state", 0)}) == 3
