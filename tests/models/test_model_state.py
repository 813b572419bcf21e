"""Models that are not what they seem: training mode, switches of positions, overflow."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from conftest import forgotten
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM
from zoo import ZOO
from zoo.entry import TINY, randomise, seeded

import interp
from interp import BadInput, InterpError
from interp.errors import Unsupported
from interp.experiments.steering import batches as steering_batches
from interp.models.anatomy import Positions
from interp.prompts.read import read_prompts

# ---- training mode ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5"])
def test_a_model_in_training_under_a_bridge_in_evaluation_is_refused(name):
    plain = ZOO[name].build()
    bridge = interp.load_model(plain)
    interp.inspect(bridge)
    plain.train()
    assert not bridge.training  # the bridge has a switch of its own
    tokens = torch.arange(5, 12)[None]
    for use in (
        lambda: interp.inspect(bridge),
        lambda: interp.run(bridge, tokens, "rotation", progress=False),
        lambda: interp.attach(bridge, "rotation"),
    ):
        with pytest.raises(BadInput, match=r"in training mode.*call model\.eval\(\)"):
            use()
    bridge.eval()
    assert interp.inspect(bridge)


def test_one_module_in_training_is_refused_by_name():
    plain = ZOO["gpt2"].build()
    bridge = interp.load_model(plain)
    probes = interp.attach(bridge, "rotation")
    plain.transformer.h[1].attn.train()
    with pytest.raises(BadInput, match=r"\(\d modules act: blocks\.1\..*attn_dropout, "):
        interp.inspect(bridge)
    with pytest.raises(BadInput, match="in training mode"), probes:
        pytest.fail("attached")
    bridge.eval()
    plain.transformer.h[1].ln_1.train()  # computes the same in both
    assert interp.inspect(bridge)


def test_a_module_of_the_user_that_does_nothing_in_training_is_no_fault(llama):
    bridge = interp.load_model(ZOO["llama"].build())
    bridge.add_module("mine", torch.nn.Linear(2, 2))  # a new module is in training mode
    assert interp.inspect(bridge)


# ---- positions that depend on the longest prompt ---------------------------------------------

SWITCH = 32
LENGTHS = (12, 60, SWITCH, SWITCH + 1, 40, 5)


def built(model_class, config):
    with seeded("positions"):
        model = model_class._from_config(config, attn_implementation="eager")
        randomise(model)
    model.config.architectures = [model_class.__name__]
    return interp.load_model(model.eval())


def longrope():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 3,
        "long_factor": [1.0, 4.0, 8.0],
        "original_max_position_embeddings": SWITCH,
    }
    return built(
        Phi3ForCausalLM,
        Phi3Config(**TINY, original_max_position_embeddings=SWITCH, rope_parameters=rope),
    )


def dynamic():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    model = built(LlamaForCausalLM, LlamaConfig(**TINY, rope_parameters=rope))
    model.cfg.n_ctx = 200  # of the extended context; the configuration gives the original one
    return model


@pytest.fixture(scope="module")
def phi():
    return longrope()


def prompts_of(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, 100, (n,), generator=generator).tolist() for n in lengths]


def test_the_switch_is_measured_to_the_token(phi):
    anatomy = interp.inspect(phi)
    assert anatomy.positions == Positions(SWITCH, grows=False)
    assert ("positions", anatomy.positions.fact()) in anatomy.facts()
    assert "change once beyond 32 tokens: longer prompts are never" in repr(anatomy)
    assert anatomy.to_dict()["positions"] == {"switch": SWITCH, "grows": False}
    assert any("changes beyond 32 tokens" in note for note in anatomy.caveats())


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "bert", "t5", "bloom"])
def test_other_encodings_have_no_switch(name):
    anatomy = interp.inspect(interp.load_model(ZOO[name].build()))
    assert anatomy.positions == Positions()
    assert "the same in batches with prompts of any length" in repr(anatomy)


def test_measuring_leaves_the_frequencies_of_short_prompts(phi):
    tokens = torch.tensor(prompts_of((12,)))
    with torch.no_grad():
        before = phi(tokens)
    interp.inspect(forgotten(phi))
    buffers = dict(phi._driver.underlying_model.named_buffers())
    frequencies = {n.rpartition(".")[2]: v for n, v in buffers.items() if "freq" in n}
    assert torch.equal(frequencies["inv_freq"], frequencies["original_inv_freq"])
    with torch.no_grad():
        assert torch.equal(phi(tokens), before)


def test_a_batch_gives_every_prompt_what_it_is_alone(phi):
    together = interp.run(phi, prompts_of(), "path_length", progress=False)["path_length"].frame
    moved = 0.0
    for number, ids in enumerate(prompts_of()):
        own = together[together.prompt == number]["norm_after"].to_numpy()
        alone = interp.run(phi, [ids], "path_length", progress=False)["path_length"].frame
        np.testing.assert_allclose(own, alone["norm_after"].to_numpy(), rtol=1e-5)
        if len(ids) <= SWITCH:  # the fault is there to be made: beside a long prompt it moves
            beside = torch.zeros(2, 60, dtype=torch.int64)
            beside[0, : len(ids)], beside[1] = torch.tensor(ids), torch.tensor(prompts_of()[1])
            mask = torch.ones_like(beside)
            mask[0, len(ids) :] = 0
            with interp.attach(phi, "path_length") as probes:
                phi(beside, attention_mask=mask)
            mixed = probes["path_length"].frame
            mixed = mixed[mixed.prompt == 0]["norm_after"].to_numpy()
            moved = max(moved, np.abs(mixed - own).max())
    assert moved > 0.01


def test_no_batch_has_lengths_on_both_sides(phi):
    prompts = read_prompts(prompts_of(), vocab_size=113)
    anatomy = interp.inspect(phi)
    plans = [
        steering_batches(phi, anatomy, prompts, 4096),
        list(prompts.batches(4096, apart=anatomy.apart(prompts.lengths))),
        list(prompts.batches(4096, apart=anatomy.apart(prompts.lengths), sort=False)),
    ]
    for plan in plans:
        assert sorted(i for batch in plan for i in batch.ids.tolist()) == list(range(len(LENGTHS)))
        for batch in plan:
            assert len({LENGTHS[i] > SWITCH for i in batch.ids.tolist()}) == 1
    assert [len(plan) for plan in plans] == [2, 2, 5]
    assert len(list(prompts.batches(4096))) == 1


def test_lengths_that_each_have_their_own_encoding_are_refused():
    model = dynamic()
    assert interp.inspect(model).positions == Positions(64, grows=True)
    assert len(interp.run(model, prompts_of((64, 7)), "rotation", progress=False)["rotation"].frame)
    with pytest.raises(Unsupported, match=r"a prompt has 65 tokens; beyond 64 .*dynamic NTK"):
        interp.run(model, prompts_of((65, 7)), "rotation", progress=False)


# ---- overflow --------------------------------------------------------------------------------


def overflowing(dtype):
    plain = ZOO["llama"].build()
    with torch.no_grad():
        plain.model.layers[1].mlp.down_proj.weight.mul_(1e6)
    return interp.load_model(plain.to(dtype))


def test_an_overflow_inside_a_block_is_named_with_the_way_out():
    model = overflowing(torch.float16)
    reason = r"state 2 of blocks, after block 1, is not finite; float16 ends at 65,504"
    assert "is not finite" in repr(interp.inspect(model))
    with pytest.raises(Unsupported, match=reason + ": load the model in bfloat16 or float32"):
        interp.run(model, torch.arange(5, 12)[None], "rotation", progress=False)
    assert interp.inspect(overflowing(torch.bfloat16)).stacks[0].problems == ()


def test_weights_that_are_not_numbers_are_named():
    plain = ZOO["llama"].build()
    with torch.no_grad():
        plain.model.layers[0].mlp.down_proj.weight[0, 0] = torch.nan
    model = interp.load_model(plain)
    with pytest.raises(InterpError, match="after block 0, is not finite; are its weights damaged"):
        interp.run(model, torch.arange(5, 12)[None], "rotation", progress=False)


def test_logits_of_infinity_are_refused_and_ruled_out_tokens_are_not():
    plain = ZOO["gpt2"].build()
    model = interp.load_model(plain)
    tokens = torch.arange(5, 12)[None]
    for value, ends in ((-torch.inf, False), (torch.inf, True)):
        handle = plain.lm_head.register_forward_hook(
            lambda _module, _args, logits, value=value: logits.index_fill(
                -1, torch.tensor([3]), value
            )
        )
        forgotten(model)
        try:
            with contextlib.ExitStack() as stack:
                if ends:
                    stack.enter_context(
                        pytest.raises(InterpError, match="yields infinity .first at prompt 0, pos")
                    )
                interp.run(model, tokens, "next_token", progress=False)
        finally:
            handle.remove()
