"""Notes on answers that may not be meant: a token without its space, a target that is not kept."""

import numpy as np
import pytest

import interp
from interp.models.answers import unspaced
from interp.models.load import load_model
from interp.prompts.tokens import spaced_twin, token_id


@pytest.fixture(scope="module")
def demo():
    return load_model("demo")


def test_a_target_outside_the_positions_kept_is_noted(demo):
    told = {}
    for positions in ("last", None):
        results = interp.run(
            demo, "her", ["norm"], target="her", positions=positions, progress=False
        )
        told[positions] = results.provenance["prompts"]["notes"]
        rows = results["norm"].frame["role"].eq("target").sum()
        noted = [n for n in told[positions] if "no table has a row of the role target" in n]
        assert bool(noted) == (rows == 0)
    assert any(
        n.startswith("no token of 'her' is at the positions kept (-1)") for n in told["last"]
    )


class _Vocabulary:
    """A tokenizer of two words, each with and without a space."""

    words = ("her", " her", "his", "x")
    unk_token_id = None

    def __call__(self, text, **_):
        return {"input_ids": [self.words.index(text)] if text in self.words else [3, 3]}

    def get_vocab(self):
        return {word: i for i, word in enumerate(self.words)}


class _Model:
    tokenizer = _Vocabulary()

    class cfg:  # noqa: N801  as the model names it
        d_vocab = 4


class _Prompts:
    def __init__(self, *ids):
        self.tokens = (np.array(ids),)


def test_a_token_without_its_space_is_noted_unless_the_prompts_have_it():
    model = _Model()
    assert (token_id(model, "her"), spaced_twin(model, "her"), spaced_twin(model, "his")) == (
        0,
        1,
        None,
    )
    assert unspaced(model, _Prompts(1, 2), "her", None) == [
        "'her' (token 0) has no space before it and begins no word of the prompts; a word within "
        "a text is ' her' (token 1)"
    ]
    assert unspaced(model, _Prompts(0, 2), "her") == []
    assert unspaced(model, _Prompts(1, 2), " her", "his", 3) == []
