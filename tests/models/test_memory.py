"""Models leave memory when their user lets go of them, and copies are measured for themselves."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from zoo import ZOO

import interp
from interp.models.probe import KNOWN

TOKENS = [[5, 9, 11, 7, 30, 42, 8]]
ANALYSES = ["rotation", "logit_lens", "prediction_geometry", "unembedding", "head_attribution"]


def watched(bridge):
    return weakref.ref(bridge), weakref.ref(bridge._driver.underlying_model)


def built(name="llama"):
    return interp.load_model(ZOO[name].build())


def measured(bridge):
    return interp.run(bridge, TOKENS, ANALYSES, targets=7, progress=False)


def attached(bridge):
    with interp.attach(bridge, "logit_lens") as probes:
        bridge(torch.tensor(TOKENS))
    return probes.results


USES = {
    "inspect": lambda bridge: repr(interp.inspect(bridge)),
    "run": measured,
    "attach": attached,
    "cache": lambda bridge: interp.from_cache(
        bridge.run_with_cache(torch.tensor(TOKENS))[1], ["rotation", "logit_lens"], model=bridge,
        tokens=torch.tensor(TOKENS),
    ),
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_model_goes_when_its_user_lets_it_go(name, use):
    bridge = built(name)
    kept = USES[use](bridge)
    parts = watched(bridge)
    del bridge
    gc.collect()
    assert [part() for part in parts] == [None, None]
    assert kept is not None


@pytest.mark.parametrize("name", ["t5", "gemma2", "mamba", "bert"])
def test_other_layouts_go_as_well(name):
    bridge = built(name)
    assert repr(interp.inspect(bridge))
    parts = watched(bridge)
    del bridge
    gc.collect()
    assert [part() for part in parts] == [None, None]


def test_a_readout_that_is_kept_keeps_its_model_and_no_longer():
    bridge = built()
    readout, parts = interp.inspect(bridge).readout, watched(bridge)
    x = torch.randn(3, bridge.cfg.d_model, generator=torch.Generator().manual_seed(0))
    expected = bridge.unembed(bridge.ln_final(x))
    del bridge
    gc.collect()
    torch.testing.assert_close(readout.logits(x), expected)
    del readout
    gc.collect()
    assert [part() for part in parts] == [None, None]


def test_a_model_is_measured_once():
    bridge = built()
    assert interp.inspect(bridge) is interp.inspect(bridge)


def test_a_copy_is_measured_for_itself():
    bridge = built()
    anatomy, parts = interp.inspect(bridge), watched(bridge)
    other = copy.deepcopy(bridge)
    with torch.no_grad():
        other.unembed.weight.mul_(2)
    x = torch.randn(3, bridge.cfg.d_model, generator=torch.Generator().manual_seed(0))
    own, twice = anatomy.readout.logits(x), interp.inspect(other).readout.logits(x)
    torch.testing.assert_close(twice, 2 * own)
    del bridge, anatomy
    gc.collect()
    assert [part() for part in parts] == [None, None]
    assert interp.inspect(other) is interp.inspect(other)


def test_what_is_known_is_not_saved_with_a_model():
    bridge = built()
    interp.inspect(bridge)
    again = pickle.loads(pickle.dumps(vars(bridge)[KNOWN]))  # noqa: S301 - written in the same line
    assert again.anatomy is None
    assert again.of() is None
    assert not any(KNOWN in name for name in bridge.state_dict())
