"""Every model of the zoo is right or refused by name; the anatomy agrees with measured facts."""

from __future__ import annotations

import os

import pytest
from zoo import ZOO, boot, facts
from zoo_verdicts import QUESTIONS, judge

import interp

FULL = os.environ.get("INTERP_FULL") == "1"
NAMES = [name for name, entry in ZOO.items() if FULL or entry.fast]
FACTS = facts()


@pytest.mark.parametrize("name", NAMES)
def test_right_or_refused(name):
    verdict = judge(ZOO[name])
    assert set(verdict.answers) == set(QUESTIONS)
    assert verdict.wrong() == {}
    for question, answer in verdict.answers.items():
        if answer == "refused":
            assert len(verdict.reasons[question]) > 20, "a refusal says why"


@pytest.mark.parametrize("name", NAMES)
def test_anatomy_agrees_with_what_was_found_by_value(name):
    """The survey finds terms by searching all hooks for numbers that add up, not by name."""
    anatomy = interp.inspect(boot(ZOO[name]))
    for stack in anatomy.stacks:
        fact = FACTS[name]["lists"][stack.stack.path]
        assert stack.n_blocks == fact["n_blocks"]
        assert (stack.fires > 1) == (fact["passes"] > 1)
        if stack.problems:
            continue
        assert stack.closes == fact["closes"]
        for block, groups in zip(stack.terms, fact.get("terms") or [], strict=False):
            if stack.closes and groups:
                hooks = {hook.split(".", 2)[2] for hook in block.values()}
                assert all(hooks & set(group) for group in groups), (hooks, groups)


@pytest.mark.parametrize("name", ["gpt2", "t5", "mamba", "bert"])
def test_anatomy_can_be_printed_and_read(name):
    import json

    anatomy = interp.inspect(boot(ZOO[name]))
    text, page = repr(anatomy), anatomy._repr_html_()
    assert "readout" in text
    assert "<table>" in page
    document = json.loads(anatomy.to_json())
    assert document["readout"]["error"] < 1e-4
    assert len(document["stacks"]) == len(anatomy.stacks)
