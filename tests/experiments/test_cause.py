"""Leaving parts out and pushing the stream: closed forms, and the same by hand on plain models."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import _boot
from scipy.special import log_softmax
from transformers import GPT2Config, GPT2LMHeadModel
from zoo import ZOO, boot

import interp
from interp.errors import BadInput, UnknownName, Unsupported
from interp.experiments.cause import cause
from interp.experiments.interventions import LeftOut, pushed
from interp.geometry import angle, norm
from interp.render.lines import NAME

IDS = torch.randint(5, 90, (3, 7), generator=torch.Generator().manual_seed(2))


def plain_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=100, n_positions=32, n_embd=24, n_layer=3, n_head=2, attn_pdrop=0, resid_pdrop=0,
        embd_pdrop=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3.0)  # or every block would write next to nothing
    return model


@pytest.fixture(scope="module")
def pair():
    """A plain model of transformers, and a bridge over a copy of it."""
    model = plain_gpt2()
    return model, interp.load_model(copy.deepcopy(model))


def few(model, prompts=IDS, **options):
    given = {"pushes": (), "progress": False, "controls": 1, **options}
    return cause(model, prompts, **given)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p ‖ q) of logits in float64."""
    p, q = log_softmax(p.astype(np.float64), -1), log_softmax(q.astype(np.float64), -1)
    return (np.exp(p) * (p - q)).sum(-1)


def by_hand(model, layer, part, where) -> np.ndarray:
    """Logits of a plain model when a part is left out for some tokens, by PyTorch's own hooks."""
    block = model.transformer.h[layer]

    def zeroed(_module, _args, out):
        first = out[0] if isinstance(out, tuple) else out
        first = first.masked_fill(where[..., None], 0.0)
        return (first, *out[1:]) if isinstance(out, tuple) else first

    def back(_module, args, out):
        first = out[0] if isinstance(out, tuple) else out
        first = torch.where(where[..., None], args[0], first)
        return (first, *out[1:]) if isinstance(out, tuple) else first

    module, hook = {
        "attention": (block.attn, zeroed), "mlp": (block.mlp, zeroed), "block": (block, back),
    }[part]  # fmt: skip
    handle = module.register_forward_hook(hook)
    with torch.no_grad():
        out = model(IDS).logits
    handle.remove()
    return out.numpy()


# ---- leaving out -------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [-1, [-1], ["last"], [np.int64(6)]])
def test_positions_are_read_as_everywhere(pair, positions):
    asked = {"parts": ["block"], "layers": [1]}
    wanted = few(pair[1], positions="last", **asked)
    for given in ({"positions": positions}, {"positions": positions, "read": positions}):
        found = few(pair[1], **given, **asked)
        pd.testing.assert_frame_equal(found.frame, wanted.frame)


def test_the_last_but_one_of_prompts_of_two_lengths(pair):
    prompts = [IDS[0].tolist(), IDS[1, :5].tolist()]
    mask = torch.zeros(2, 7).bool()
    mask[0, 5] = mask[1, 3] = True
    asked = {"parts": ["block"], "layers": [1], "prompts": prompts}
    by_mask, found = (few(pair[1], positions=p, **asked) for p in (mask, [-2]))
    pd.testing.assert_frame_equal(found.frame, by_mask.frame)


@pytest.mark.parametrize("part", ["block", "attention", "mlp"])
def test_what_is_lost_is_that_of_a_plain_model_changed_by_hand(pair, part):
    plain, bridge = pair
    where = torch.zeros(IDS.shape, dtype=torch.bool)
    where[:, 2:5] = True
    found = few(bridge, positions=[2, 3, 4], parts=(part,)).left_out
    whole = plain(IDS).logits.detach().numpy()
    for layer in range(3):
        row = found[(found["layer"] == layer) & (found["part"] == part)].iloc[0]
        changed = by_hand(plain, layer, part, where)
        lost = kl(whole, changed)[:, 2:5].mean()
        assert row["kl"] == pytest.approx(lost, rel=1e-3)
        assert lost > 1e-4
        p, q = log_softmax(whole, -1), log_softmax(changed, -1)
        following = IDS[:, 3:6, None].numpy()
        gain = np.take_along_axis(q - p, np.pad(following, ((0, 0), (2, 2), (0, 0))), -1)
        assert row["log_prob"] == pytest.approx(gain[:, 2:5].mean(), rel=1e-3, abs=1e-6)
        entropy = [-(np.exp(x) * x).sum(-1)[:, 2:5].mean() for x in (p, q)]
        assert row["entropy"] == pytest.approx(entropy[1] - entropy[0], rel=1e-2, abs=1e-5)


def test_the_effect_on_answers_is_that_of_a_plain_model_changed_by_hand(pair):
    plain, bridge = pair
    where = torch.zeros(IDS.shape, dtype=torch.bool)
    where[:, 2:5] = True
    targets, against = [7, 11, 13], [20, 21, 22]
    asked = {"positions": [2, 3, 4], "parts": ("block", "mlp"), "read": -1}
    found = few(bridge, **asked, targets=targets, against=against)
    whole = plain(IDS).logits.detach().numpy().astype(np.float64)[:, -1]
    rows = np.arange(len(IDS))

    def answers(z):
        p = log_softmax(z, -1)
        return p[rows, targets].mean(), (z[rows, targets] - z[rows, against]).mean()

    before = answers(whole)
    for row in found.left_out.itertuples():
        changed = by_hand(plain, row.layer, row.part, where).astype(np.float64)[:, -1]
        after = answers(changed)
        assert row.log_prob == pytest.approx(after[0] - before[0], rel=1e-3, abs=1e-5)
        assert row.logit_diff == pytest.approx(after[1] - before[1], rel=1e-3, abs=1e-5)
        # The last block of other tokens does not reach the one that is read.
        assert (abs(row.logit_diff) > 1e-4) == (row.layer < 2)
    block = found.left_out[found.left_out["part"] == "block"]
    np.testing.assert_array_equal(found.frame["used_logit_diff"], block["logit_diff"])
    assert "the logit difference of the two answers changes most without block" in found.sentence
    assert "the target is the answer given for each prompt" in " ".join(found.notes)


def test_one_answer_stands_for_all_prompts_and_none_for_the_next_token(pair):
    asked = {"positions": "last", "parts": ("block",), "pushes": ("radial",), "doses": (1.0,)}
    one = few(pair[1], **asked, targets=7, against=np.int64(9))
    each = few(pair[1], **asked, targets=[7] * 3, against=[9] * 3)
    pd.testing.assert_frame_equal(one.frame, each.frame)
    pd.testing.assert_frame_equal(one.pushes, each.pushes)
    assert one.pushes["logit_diff"].notna().all()
    swapped = few(pair[1], **asked, targets=9, against=7)
    np.testing.assert_allclose(swapped.pushes["logit_diff"], -one.pushes["logit_diff"], rtol=1e-4)
    assert "used_logit_diff" not in few(pair[1], **asked).frame


@pytest.mark.parametrize("name", ["demo-llama", "gpt2", "gemma2", "pythia", "bloom"])
def test_without_the_last_block_the_model_says_what_the_lens_says(name):
    """The state before the last block is then read out: two ways to one number."""
    torch.manual_seed(0)
    model = interp.load_model(name) if name.startswith("demo") else boot(ZOO[name])
    frame = few(model).frame
    if len(frame) > 1:
        assert frame["used_kl"].iloc[-1] == pytest.approx(frame["known_kl"].iloc[-2], rel=1e-3)
    assert frame["known_kl"].iloc[-1] == pytest.approx(0.0, abs=1e-6)
    assert frame["written"].sum() == pytest.approx(1.0, abs=1e-5)


def test_a_block_that_writes_nothing_has_no_effect_at_all():
    model = plain_gpt2()
    for module in (model.transformer.h[1].attn.c_proj, model.transformer.h[1].mlp.c_proj):
        module.weight.data.zero_()
        module.bias.data.zero_()
    found = few(interp.load_model(model))
    silent = found.frame[found.frame["layer"] == 1].iloc[0]
    assert silent["used_kl"] == 0.0
    assert silent["written"] == 0.0
    assert silent["later"] == 0.0
    assert silent["random_kl"] == 0.0, "the control is as large as the step"
    parts = found.left_out[found.left_out["layer"] == 1]
    assert (parts[["kl", "log_prob", "entropy"]] == 0.0).all(axis=None)
    assert (found.frame["used_kl"][[0, 2]] > 1e-4).all()


def test_tokens_before_the_change_lose_nothing(pair):
    found = few(pair[1], positions=[4], read=[0, 1, 2, 3])
    assert (found.frame[["used_kl", "random_kl", "used_log_prob"]] == 0.0).all(axis=None)
    later = few(pair[1], positions=[2], read=[4]).frame["used_kl"]
    assert (later[:2] > 0).all()
    assert later[2] == 0.0, "after the last block no token reads another"


def test_prompts_of_any_length_count_once_each(pair):
    ragged = [IDS[0].tolist(), IDS[1, :4].tolist(), IDS[2, :3].tolist()]
    together = few(pair[1], ragged).left_out
    alone = [few(pair[1], [ids]).left_out for ids in ragged]
    for name in ("kl", "entropy"):
        mean = np.mean([table[name] for table in alone], axis=0)
        assert np.allclose(together[name], mean, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "pythia", "llama", "bloom"])
def test_what_is_left_out_is_really_gone(name):
    """Also where blocks are parallel or normalise what they add."""
    found = few(boot(ZOO[name]))
    assert set(found.left_out["part"]) == {"block", "attention", "mlp"}
    assert np.isfinite(found.left_out["kl"]).all()


def test_a_part_that_stays_is_refused(pair):
    stack = interp.inspect(pair[1]).stacks[0]
    where = torch.zeros(IDS.shape, dtype=torch.bool)
    where[:, 3] = True
    left = LeftOut(stack, 1, "mlp", where)
    hooks = [(n, f) for n, f in left.hooks() if n != stack.terms[1]["mlp"]]  # not taken out
    with torch.no_grad():
        pair[1].run_with_hooks(IDS, fwd_hooks=hooks)
    with pytest.raises(Unsupported, match="mlp of block 1 cannot be left out: the state after"):
        left.check(1e-4)


# ---- pushes ------------------------------------------------------------------------------------


@pytest.fixture
def steps():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 16, generator=generator)
    return x, x + 0.7 * torch.randn(6, 16, generator=generator), torch.randn(16)


@pytest.mark.parametrize("kind", ["along", "random", "within", "plane", "radial"])
@pytest.mark.parametrize("dose", [-1.0, 0.5, 2.0])
def test_a_push_moves_by_multiples_of_the_step(steps, kind, dose):
    x, after, direction = steps
    moved = pushed(kind, x, after, dose, direction) - x
    assert torch.allclose(norm(moved), abs(dose) * norm(after - x), rtol=1e-4)


def test_pushes_go_where_they_say(steps):
    x, after, direction = steps
    turned = pushed("rotate", x, after, 0.5, None)
    assert torch.allclose(norm(turned), norm(x), rtol=1e-5)
    assert torch.allclose(angle(x, turned), 0.5 * angle(x, after), rtol=1e-4)
    assert torch.allclose(
        pushed("rotate", x, after, 1.0, None), after * (norm(x) / norm(after))[:, None], atol=1e-5
    )
    longer = pushed("radial", x, after, 1.0, None)
    assert torch.allclose(angle(x, longer), torch.zeros(6), atol=1e-3)
    plane = pushed("plane", x, after, 1.0, None) - x
    assert torch.allclose((plane * x).sum(-1), torch.zeros(6), atol=1e-4)
    along = pushed("along", x, after, 1.0, direction) - x
    assert torch.allclose(angle(along, direction.expand(6, -1)), torch.zeros(6), atol=1e-2)


def test_one_name_needs_no_list(pair):
    asked = {"layers": [1], "push_layers": 1, "doses": (1.0,), "positions": "last"}
    one = few(pair[1], pushes="radial", parts="mlp", **asked)
    listed = few(pair[1], pushes=["radial"], parts=["mlp"], **asked)
    pd.testing.assert_frame_equal(one.pushes, listed.pushes)
    pd.testing.assert_frame_equal(one.left_out, listed.left_out)
    assert set(one.pushes["kind"]) == {"radial"}


def test_a_state_without_step_stays(steps):
    x, _, direction = steps
    for kind in ("along", "plane", "rotate", "radial"):
        assert torch.equal(pushed(kind, x, x, 1.0, direction), x)


def test_effects_of_a_push_are_those_of_a_pass_changed_by_hand(pair):
    plain, bridge = pair
    direction = torch.randn(24, generator=torch.Generator().manual_seed(5))
    found = few(
        bridge, pushes=("along",), push_layers=[1], doses=(1.5,), direction=direction, parts=()
    ).pushes
    with torch.no_grad():
        whole = plain(IDS, output_hidden_states=True)
    x, after = whole.hidden_states[1], whole.hidden_states[2]
    moved = x + 1.5 * (after - x).norm(dim=-1, keepdim=True) * direction / direction.norm()
    handle = plain.transformer.h[1].register_forward_pre_hook(lambda _m, args: (moved, *args[1:]))
    with torch.no_grad():
        changed = plain(IDS).logits
    handle.remove()
    lost = kl(whole.logits.numpy(), changed.numpy()).mean()
    assert found["kl"].iloc[0] == pytest.approx(lost, rel=1e-3)
    assert lost > 1e-3


def test_random_pushes_within_the_states_have_their_covariance(pair):
    from interp.experiments.cause import _Cloud

    states = torch.randn(400, 5) * torch.tensor([5.0, 1.0, 1.0, 0.1, 0.0])
    cloud = _Cloud({0: torch.ones(5)}, {0: states - states.mean(0)})
    drawn = torch.stack([cloud.direction("within", 0, i, 1) for i in range(2000)])
    expected = torch.cov(states.T) * 399
    assert torch.allclose(torch.cov(drawn.T), expected, atol=0.15 * float(expected.max()))
    assert float(drawn[:, 4].abs().max()) < 1e-3


# ---- the finding -------------------------------------------------------------------------------


def test_a_label_names_the_tokens_and_the_copy_is_the_control():
    found = few("demo", ["Mary met Ida. Ida thanked her.", "Leo saw her."], target="her",
                positions={"role": "target"}, control="random-init")  # fmt: skip
    known = found.drawings["Known and used"]
    assert "tokens with role target ('her')" in known.title
    assert max(map(len, known.table["group"])) <= NAME  # none is cut
    assert set(known.options["greys"]) < set(known.table["group"])
    assert found.control is not None
    assert found.sentence.startswith("the prediction hangs most on block")
    assert "a random push of the size of its step gives" in found.sentence


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"parts": ("atention",)}, BadInput, "part 'atention'; did you mean 'attention'"),
        ({"pushes": "none"}, BadInput, r"push 'none'.*; without pushes: pushes=\[\]"),
        ({"pushes": ("alon",)}, BadInput, "push 'alon'; did you mean 'along'"),
        ({"layers": 3}, BadInput, r"block 3 is out of range: this model has blocks 0 … 2"),
        ({"layers": [-1]}, BadInput, "block -1 is out of range: this model has blocks 0 … 2"),
        ({"pushes": ("along",), "push_layers": [3]}, BadInput, "state 3 cannot be pushed: allowed"),
        ({"pushes": ("along",), "doses": ()}, BadInput, "expected finite numbers, one or more"),
        ({"controls": 0}, BadInput, "controls=0"),
        ({"positions": {"role": "target"}}, UnknownName, "unknown label 'role'"),
        ({"positions": [40]}, BadInput, "no prompt is long enough"),
        ({"targets": [1, 2]}, BadInput, "targets= has 2 answers and there are 3 prompts"),
        ({"targets": [[1, 2]]}, BadInput, "targets= takes one token, or one for each prompt"),
        ({"against": 1.5}, BadInput, "against= takes one token, or one for each prompt"),
        ({"target": [" a"]}, BadInput, "one per prompt, go into targets="),
    ],
)
def test_what_is_not_there_is_refused(pair, options, error, message):
    with pytest.raises(error, match=message):
        few(pair[1], **options)


def test_models_that_lack_what_is_asked_are_refused():
    with pytest.raises(Unsupported, match="no verified term 'attention' to leave out; allowed: b"):
        few(_boot("bert"))
    with pytest.raises(Unsupported, match="cause runs models with one stack"):
        few(boot(ZOO["t5"]))
