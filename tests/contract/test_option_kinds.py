"""Options with a value of a kind that they do not take: told before a model is loaded."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from interp.contract.options import KINDS, check_numbers, check_options
from interp.errors import BadInput
from interp.prompts import target_word

WRONG = {
    "target": [" her", " his"], "targets": 5.5, "labels": ["a", "b"], "token_labels": {"x": 3},
    "labellers": target_word("her"), "settings": "x", "model_options": "x", "by": "role",
    "without_dims": 7, "stop": "ab", "spans": 5, "read": 5, "max_tokens": "4", "samples": "2",
    "max_new_tokens": 1.5, "top_k": 1.5, "controls": "1", "resamples": 1.5, "seed": "x",
    "temperature": "a", "top_p": "a", "confidence": "x", "threshold": "x", "do_sample": "yes",
    "sample": "2", "shard_pairs": 1.5, "workers": "2", "threads": "1",
    "resume": "yes", "overwrite": 1, "prepend_bos": "yes",
    "truncate": 1, "patch": "no", "special": "no",
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_another_kind_is_refused_with_what_is_taken(name):
    with pytest.raises(BadInput) as seen:
        check_options(**{name: WRONG[name]})
    assert str(seen.value).startswith(f"{name}={WRONG[name]!r} is {type(WRONG[name]).__name__}; ")
    assert KINDS[name][1] in str(seen.value)


def test_what_is_taken_passes():
    check_options(
        target="her", targets=[" her"], labels={"kind": np.array(["a"]), "file": "path"},
        labellers=(target_word("her"),), by=("role",), without_dims=np.array([3]), stop=[".", 5],
        seed=np.int64(3), temperature=1, confidence=np.float32(0.9), prepend_bos=None, read="last",
    )  # fmt: skip


def test_a_number_that_is_needed():
    with pytest.raises(BadInput, match="max_tokens=None; max_tokens= takes a whole number"):
        check_numbers(max_tokens=None)


def test_a_list_of_answers_as_the_target_names_the_option_that_takes_it():
    said = r"go into targets="
    with pytest.raises(BadInput, match=said):
        interp.run("no-such-model", "her", target=[" her", " his"])
    with pytest.raises(BadInput, match=said):
        target_word([" her", " his"])


CALLS = {
    "run": lambda **o: interp.run("no-such-model", "her", **o),
    "generate": lambda **o: interp.generate("no-such-model", "her", **o),
    "pairs": lambda **o: interp.pairs("no-such-model", [("a", "b")], **o),
    "series": lambda **o: interp.series(["no-such-model", "no-such-one"], "her", **o),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_looks_at_its_options_first(call):
    with pytest.raises(BadInput, match="settings='x' is str"):
        CALLS[call](settings="x")
    with pytest.raises(BadInput, match="analyses=5 is int"):
        CALLS[call](analyses=5)
