"""Steering: what a hook changes, where, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from steering_help import KINDS, TEXTS, continues, draw, logits, states

import interp
from interp import BadInput
from interp.errors import UnknownName, Unsupported
from interp.experiments import Steer
from interp.experiments.steering import chosen, last_of
from interp.geometry import angle, norm, project_out, rotate_toward

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(scope="module")
def tokens(model):
    return model.to_tokens(TEXTS[0])


# ---- geometry --------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0.0, 1e-3, 17.0, 90.0, 179.0, -40.0])
def test_rotation_keeps_the_norm_and_makes_the_asked_angle(degrees):
    x, v = draw(500, 64), draw(64, seed=1)
    turned = rotate_toward(x, v, degrees)
    torch.testing.assert_close(norm(turned), norm(x), rtol=1e-6, atol=0)
    made = angle(x.double(), rotate_toward(x.double(), v.double(), degrees))
    torch.testing.assert_close(made, torch.full_like(made, abs(degrees)), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(angle(x, turned), made.float(), rtol=1e-3, atol=2e-5)
    # Toward v: the angle to v shrinks by as much as is asked for, until v is reached.
    to_v = angle(x.double(), v.double()) - degrees
    after = angle(rotate_toward(x.double(), v.double(), degrees), v.double())
    folded = torch.where(to_v > 180, 360 - to_v, to_v.abs())
    torch.testing.assert_close(after, folded, rtol=1e-6, atol=1e-6)


def test_rotation_is_the_matrix_exponential_of_the_plane():
    x, v = draw(5).double(), draw(5, seed=1).double()
    u = x / x.norm()
    w = v - (v @ u) * u
    w = w / w.norm()
    generator = torch.outer(w, u) - torch.outer(u, w)
    expected = torch.linalg.matrix_exp(generator * np.radians(33.0)) @ x
    torch.testing.assert_close(rotate_toward(x, v, 33.0), expected)


def test_rotation_leaves_what_has_no_plane():
    v = draw(8)
    x = torch.stack([torch.zeros(8), 3 * v, -2 * v, draw(8, seed=3)])
    turned = rotate_toward(x, v, 30.0)
    assert torch.equal(turned[:3], x[:3])
    assert float(angle(turned[3], x[3])) == pytest.approx(30, abs=1e-4)


def test_projection_leaves_nothing_along_the_vector():
    x, v = draw(50, 16).double(), draw(16, seed=1).double()
    out = project_out(x, v)
    assert (out @ v).abs().max() < 1e-12
    p = torch.outer(v, v) / (v @ v)
    torch.testing.assert_close(out, x - x @ p)
    torch.testing.assert_close(project_out(x, v, 0.5), x - 0.5 * x @ p)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    x, v = draw(3, 6).double().requires_grad_(), draw(6, seed=1).double().requires_grad_()

    def steered(x, v):
        return Steer(kind, v, KINDS[kind]).apply(x)

    assert torch.autograd.gradcheck(steered, (x, v))


# ---- hooks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_dose_zero_is_bit_identical(model, tokens, kind):
    v = draw(model.cfg.d_model)
    steer = Steer(kind, v, KINDS[kind])
    plain = logits(model, tokens)
    assert torch.equal(logits(model, tokens, steer.scaled(0.0)), plain)
    assert not torch.allclose(logits(model, tokens, steer), plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_the_state_is_what_the_closed_form_says_and_goes_on_from_there(model, tokens, kind, layer):
    v = draw(model.cfg.d_model, seed=4)
    steer = Steer(kind, v, KINDS[kind], layers=layer, positions=[1, 3])
    before, after = states(model, tokens), states(model, tokens, steer.hooks(model))
    expected = before[layer].clone()
    expected[:, [1, 3]] = steer.apply(before[layer][:, [1, 3]])
    torch.testing.assert_close(after[layer], expected)
    for i in range(layer):
        assert torch.equal(before[i], after[i])
    readout = interp.inspect(model).readout
    with torch.no_grad():
        torch.testing.assert_close(
            readout.logits(after[-1]), logits(model, tokens, steer), atol=1e-4, rtol=1e-4
        )
    # The first token stands before the steered ones.
    plain = logits(model, tokens)
    assert torch.equal(plain[:, 0], logits(model, tokens, steer)[:, 0])


def test_several_layers_and_nested_contexts(model, tokens):
    v = draw(model.cfg.d_model)
    both = Steer("add", v, layers=[1, 2], positions="last")
    one, two = (Steer("add", v, layers=i, positions="last") for i in (1, 2))
    with (
        torch.no_grad(),
        model.hooks(fwd_hooks=one.hooks(model)),
        model.hooks(fwd_hooks=two.hooks(model)),
    ):
        nested = model(tokens)
    torch.testing.assert_close(nested, logits(model, tokens, both))


def test_all_layers_are_every_state(model, tokens):
    hooks = Steer("add", draw(model.cfg.d_model)).hooks(model)
    assert [name for name, _ in hooks] == list(interp.inspect(model).stacks[0].boundaries)


def test_padding_is_left_alone_and_last_is_the_last_real_token(model):
    v = draw(model.cfg.d_model)
    single = model.to_tokens(TEXTS[1])
    n = single.shape[1]
    padded = torch.cat([single, torch.zeros(1, 3, dtype=torch.int64)], 1)
    mask = torch.arange(n + 3)[None] < n
    for positions in ("last", "all"):
        steer = Steer("add", v, layers=1, positions=positions)
        alone = logits(model, single, steer)
        torch.testing.assert_close(
            logits(model, padded, steer, mask=mask)[:, :n], alone, atol=1e-5, rtol=1e-4
        )
    assert torch.equal(
        last_of(torch.tensor([[False, True, True], [True, False, False]])),
        torch.tensor([[False, False, True], [True, False, False]]),
    )


@pytest.mark.parametrize("positions", [-1, [-1], ["last"], np.int64(-1), torch.tensor([-1])])
def test_positions_count_from_the_end_as_they_do_for_rows_of_tables(model, tokens, positions):
    v = draw(model.cfg.d_model)
    steer = Steer("add", v, layers=1, positions=positions)
    last = logits(model, tokens, Steer("add", v, layers=1, positions="last"))
    assert torch.equal(logits(model, tokens, steer), last)
    width = tokens.shape[1]
    third = Steer("add", v, layers=1, positions=[-3, 0])
    same = Steer("add", v, layers=1, positions=[0, width - 3])
    assert torch.equal(logits(model, tokens, third), logits(model, tokens, same))


@pytest.mark.parametrize("side", ["left", "right"])
def test_negative_columns_skip_the_padding_of_a_mask(gpt2, side):
    real = torch.ones(2, 6).bool()
    real[1, slice(0, 2) if side == "left" else slice(4, 6)] = False
    hook = Steer("add", draw(24), layers=1, positions=-2).hooks(gpt2, mask=real)[0][1]
    moved = (hook(torch.zeros(2, 6, 24), None) != 0).any(-1)
    assert moved.nonzero().tolist() == [[0, 4], [1, 4 if side == "left" else 2]]


def test_masks_of_positions(model, tokens):
    v, n = draw(model.cfg.d_model), tokens.shape[1]
    by_list = logits(model, tokens, Steer("add", v, layers=1, positions=[2]))
    row = torch.arange(n) == 2
    for mask in (row, row[None]):
        assert torch.equal(
            logits(model, tokens, Steer("add", v, layers=1, positions=mask)), by_list
        )


def test_the_observer_sees_the_steered_stream(model, tokens):
    v = draw(model.cfg.d_model)
    with interp.attach(model, "path_length") as probes:
        logits(model, tokens, Steer("add", 50 * v, layers=1))
    frame = probes["path_length"].frame
    assert frame.query("layer == 1")["norm"].min() > 40 * float(v.norm())


def test_gradients_flow_through_a_steered_pass(model, tokens):
    v = draw(model.cfg.d_model).requires_grad_()
    out = model.run_with_hooks(
        tokens, fwd_hooks=Steer("rotate", v, 20.0, layers=1, positions="last").hooks(model)
    )
    (slope,) = torch.autograd.grad(out[0, -1, 5], v)
    assert torch.isfinite(slope).all()
    # Only the direction of v counts, not its length.
    assert abs(float(slope @ v.detach())) < 1e-4 * float(slope.norm() * v.detach().norm())
    assert float(slope.norm()) > 0


def test_hooks_are_gone_after_an_error(model, tokens):
    steer = Steer("add", draw(model.cfg.d_model), layers=1, positions=[99])
    with pytest.raises(BadInput, match="position 99 is outside of this pass of"):
        logits(model, tokens, steer)
    short = Steer("add", draw(model.cfg.d_model), layers=1, positions=torch.ones(3).bool())
    with pytest.raises(BadInput, match=r"positions of shape \(3,\) does not fit a pass of \(1, "):
        logits(model, tokens, short)
    plain = logits(model, tokens)
    assert torch.isfinite(plain).all()


def test_bfloat16_keeps_its_dtype_and_leaves_other_positions_bit_identical():
    v = draw(16)
    steer = Steer("rotate", v, 30.0, positions=[1])
    x = draw(1, 3, 16, seed=1).bfloat16()
    out = steer._hook(None)(x, hook=None)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out[:, [0, 2]], x[:, [0, 2]])
    assert float(angle(out[0, 1], x[0, 1])) == pytest.approx(30, abs=0.5)


def test_steering_while_generating(gpt2):
    tokens = gpt2.to_tokens(TEXTS[1])
    direction = 30 * interp.experiments.unembedding_difference(gpt2, "her", "man")
    end = len(gpt2.blocks)
    with gpt2.hooks(fwd_hooks=Steer("add", direction, layers=end, positions="last").hooks(gpt2)):
        out = gpt2.generate(
            tokens,
            max_new_tokens=3,
            do_sample=False,
            verbose=False,
            use_past_kv_cache=continues(gpt2),
        )
    # The last state feeds no later token: steering every pass's last position gives the same.
    for _ in range(3):
        steered = logits(gpt2, tokens, Steer("add", direction, layers=end, positions="last"))
        tokens = torch.cat([tokens, steered[:, -1:].argmax(-1)], 1)
    assert out.tolist() == tokens.tolist()
    assert tokens[0, -3] == gpt2.tokenizer.convert_tokens_to_ids("her")


# ---- what cannot be meant --------------------------------------------------------------------


def test_bad_steers_are_refused(gpt2):
    v = draw(gpt2.cfg.d_model)
    cases = [
        (UnknownName, "kind of steering 'rotat'; did you mean 'rotate'", ("rotat", v)),
        (BadInput, "the zero vector, which points nowhere", ("add", torch.zeros(24))),
        (BadInput, "the direction holds NaN", ("add", v * torch.nan)),
        (BadInput, r"one vector \[d_model\], not of shape \(2, 24\)", ("add", draw(2, 24))),
        (BadInput, "the amount is nan; it must be a finite number", ("add", v, float("nan"))),
        (BadInput, "the amount is '1'", ("add", v, "1")),
        (BadInput, "cannot rotate by 200°; allowed is", ("rotate", v, 200)),
        (BadInput, "positions='lst'; did you mean 'last'", ("add", v, 1, 0, "lst")),
        (BadInput, r"a mask of positions is bool \[pos\]", ("add", v, 1, 0, torch.ones(3))),
        (BadInput, r"positions=\[\]; give a number, several, or 'last'", ("add", v, 1, 0, [])),
        (BadInput, "also 'all', a mask, or a label", ("add", v, 1, 0, ["frist"])),
        (BadInput, r"int64 of shape \(1, 1\)", ("add", v, 1, 0, torch.zeros(1, 1).long())),
        (BadInput, "names no label", ("add", v, 1, 0, {})),
    ]
    for error, message, arguments in cases:
        with pytest.raises(error, match=message):
            Steer(*arguments)


def test_steers_that_do_not_fit_the_model(gpt2):
    v = draw(gpt2.cfg.d_model)
    with pytest.raises(BadInput, match="layer 4 is out of range: this model has states 0 … 3"):
        Steer("add", v, layers=4).hooks(gpt2)
    with pytest.raises(BadInput, match="layer -1 is out of range"):
        Steer("add", v, layers=[0, -1]).hooks(gpt2)
    with pytest.raises(BadInput, match=r"layer 1\.5: states have whole numbers"):
        Steer("add", v, layers=1.5).hooks(gpt2)
    with pytest.raises(BadInput, match="no layer was given"):
        Steer("add", v, layers=[]).hooks(gpt2)
    with pytest.raises(BadInput, match="did you mean 'all'"):
        Steer("add", v, layers="al").hooks(gpt2)
    with pytest.raises(BadInput, match="the vector has width 7, the stream of .* has 24"):
        Steer("add", draw(7)).hooks(gpt2)
    with pytest.raises(UnknownName, match="unknown stack 'encoder'"):
        Steer("add", v, stack="encoder").hooks(gpt2)
    with pytest.raises(BadInput, match=r"pass positions=interp\.experiments\.label_mask"):
        Steer("add", v, positions={"role": "target"}).hooks(gpt2)


def test_models_whose_stream_cannot_be_written():
    from zoo import ZOO, boot

    from interp.geometry import norm as size

    names = {entry.architecture: name for name, entry in ZOO.items()}
    t5 = boot(ZOO[names["T5ForConditionalGeneration"]])
    v = draw(t5.cfg.d_model)
    with pytest.raises(BadInput, match=r"several stacks \(encoder, decoder\): pass stack="):
        Steer("add", v).hooks(t5)
    hooks = Steer("add", v, layers=1, stack="decoder").hooks(t5)
    assert [name for name, _ in hooks] == ["decoder_blocks.1.hook_resid_pre"]
    with pytest.raises(Unsupported, match="dose_response runs models with one stack"):
        interp.experiments.dose_response(t5, TEXTS, v, layers=1, targets="her")
    assert float(size(v)) > 0


@pytest.mark.full
def test_every_zoo_model_is_steered_right_or_refused_by_name():
    """The state that is added to moves by the vector, and the logits by the readout's account."""
    from zoo import ZOO, boot, random_tokens

    right, refused = [], []
    for name, entry in ZOO.items():
        model = boot(entry)
        try:
            anatomy = interp.inspect(model)
            steer = Steer("add", draw(anatomy.d_model), stack=anatomy.stacks[-1].name)
            stack = anatomy.stacks[-1]
            for layer in (0, stack.n_blocks):
                hooks = Steer("add", steer.vector, layers=layer, stack=stack.name).hooks(model)
                one, moved = _last_state(model, stack, random_tokens(), hooks)
                if layer == stack.n_blocks:
                    torch.testing.assert_close(
                        moved, one + steer.vector, atol=1e-4, rtol=1e-4, msg=name
                    )
                else:
                    assert not torch.allclose(moved, one), name
        except Unsupported:
            refused.append(name)
            continue
        right.append(name)
    assert len(right) > 100, (len(right), refused)


def _last_state(model, stack, tokens, hooks):
    name, seen = stack.boundaries[-1], []
    watch = (name, lambda value, hook: seen.append(value.detach().clone()))
    for extra in ([], hooks):
        torch.manual_seed(0)
        with torch.no_grad():
            model.run_with_hooks(tokens, fwd_hooks=[*extra, watch])
    return seen


# ---- positions of prompts --------------------------------------------------------------------


def test_label_mask_finds_the_tokens(gpt2):
    prompts = interp.read_prompts(TEXTS[:2], gpt2.tokenizer).label(interp.target_word("her"))
    mask = interp.experiments.label_mask(prompts, role="target")
    her = gpt2.tokenizer.convert_tokens_to_ids("her")
    for i, row in enumerate(prompts.tokens):
        assert mask[i, : len(row)].tolist() == (row == her).tolist()
    assert torch.equal(mask, chosen({"role": "target"}, prompts))
    with pytest.raises(UnknownName, match="unknown label 'rol'; did you mean 'role'"):
        interp.experiments.label_mask(prompts, rol="target")
    with pytest.raises(BadInput, match="no token of the 2 prompts has role='subject'"):
        interp.experiments.label_mask(prompts, role="subject")
    # The roles there are, and the nearest, for who mistypes one.
    with pytest.raises(BadInput, match=r"role='targt'; did you mean 'target'\?; role has '"):
        interp.experiments.label_mask(prompts, role="targt")
    with pytest.raises(BadInput, match=r"no prompt is long enough for positions \[50\]"):
        chosen([50], prompts)


# ---- directions ------------------------------------------------------------------------------


def test_mean_difference_is_the_difference_of_means(model):
    a, b = TEXTS[:2], TEXTS[2:]
    found = interp.experiments.mean_difference(model, a, b, 2)
    groups = [
        torch.stack([states(model, model.to_tokens(t))[2][0, -1] for t in group]).double()
        for group in (a, b)
    ]
    torch.testing.assert_close(
        found, (groups[0].mean(0) - groups[1].mean(0)).float(), atol=1e-5, rtol=1e-4
    )
    everything = interp.experiments.mean_difference(model, a, b, 2, positions="all")
    per_prompt = [
        torch.stack([states(model, model.to_tokens(t))[2][0].mean(0) for t in group]).mean(0)
        for group in (a, b)
    ]
    torch.testing.assert_close(everything, per_prompt[0] - per_prompt[1], atol=1e-5, rtol=1e-4)
    with pytest.raises(BadInput, match="layer 9 is out of range"):
        interp.experiments.mean_difference(model, a, b, 9)


def test_adding_the_mean_difference_moves_the_mean_state_across(model):
    v = interp.experiments.mean_difference(model, TEXTS[:2], TEXTS[2:], 1)
    tokens = model.to_tokens(TEXTS[2])
    moved = states(model, tokens, Steer("add", v, layers=1, positions="last").hooks(model))[1]
    mean = torch.stack([states(model, model.to_tokens(t))[1][0, -1] for t in TEXTS[:2]]).mean(0)
    torch.testing.assert_close(moved[0, -1], mean, atol=1e-5, rtol=1e-4)


def test_unembedding_difference(model):
    her, man = model.tokenizer.convert_tokens_to_ids(["her", "man"])
    found = interp.experiments.unembedding_difference(model, "her", man)
    torch.testing.assert_close(found, model.W_U.detach()[:, her] - model.W_U.detach()[:, man])
