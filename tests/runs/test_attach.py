"""Observers beside a workflow: everything is seen, nothing is changed, nothing is left."""

from __future__ import annotations

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import forgotten, hooks_on

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.path_length import PathLength
from analyses.rotation import Rotation
from interp import BadInput, InterpError, _progress
from interp.errors import ObserveError
from interp.geometry import angle, norm

pytestmark = pytest.mark.usefixtures("clean")
ALL = (Rotation, PathLength, LogitLens, Attention)


def tokens_of(n: int = 2, length: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(5, 100, (n, length), generator=torch.Generator().manual_seed(seed))


def stream(model, tokens) -> list[torch.Tensor]:
    """x_0 … x_L by TransformerLens's own cache."""
    _, cache = model.run_with_cache(tokens)
    n = len(model.blocks)
    return [cache[f"blocks.{i}.hook_resid_pre"] for i in range(n)] + [
        cache[f"blocks.{n - 1}.hook_resid_post"]
    ]


def column(probes, name: str, value: str, shape: tuple[int, int]) -> torch.Tensor:
    """`[layer, batch, pos]` of a value column."""
    frame = probes[name].frame.sort_values(["layer", "prompt", "position"])
    return torch.tensor(frame[value].to_numpy()).reshape(-1, *shape)


@pytest.mark.parametrize("model_name", ["gpt2", "llama"])
def test_output_is_bit_identical_with_and_without_us(model_name, request):
    model = request.getfixturevalue(model_name)
    tokens = tokens_of()
    alone = model(tokens)
    with interp.attach(model, *ALL):
        watched = model(tokens)
    assert torch.equal(alone, watched)
    assert hooks_on(model) == []


def test_angles_are_those_of_the_cached_stream(gpt2):
    tokens = tokens_of()
    with interp.attach(gpt2, Rotation) as probes:
        gpt2(tokens)
    states = stream(gpt2, tokens)
    expected = torch.stack([angle(a, b) for a, b in zip(states, states[1:], strict=False)])
    # The analysis takes an angle from the step, `angle` from unit vectors.
    got = column(probes, "rotation", "angle", (2, 9))
    assert torch.allclose(got, expected, rtol=1e-5)


def test_gradients_are_those_without_us(gpt2):
    def gradient() -> torch.Tensor:
        gpt2.zero_grad()
        loss = gpt2(tokens_of(), return_type="loss")
        loss.backward()
        return gpt2.original_model.transformer.wte.weight.grad.clone()

    alone = gradient()
    with interp.attach(gpt2, *ALL) as probes:
        watched = gradient()
    gpt2.zero_grad()
    assert torch.equal(alone, watched)
    assert len(probes["rotation"].frame) == 2 * 9 * len(gpt2.blocks)


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_resid_post", "hook_attn_out"])
def test_tables_show_the_intervened_stream(gpt2, site, ours_first):
    tokens = tokens_of()

    def double(value, hook):
        return value * 2

    point = gpt2.hook_dict[f"blocks.1.{site}"]
    if ours_first:
        with interp.attach(gpt2, PathLength) as probes:
            with gpt2.hooks(fwd_hooks=[(f"blocks.1.{site}", double)]):
                gpt2(tokens)
                expected = stream(gpt2, tokens)
            frame = probes["path_length"].frame
        frame = frame[frame["prompt"] < 2]
    else:
        with gpt2.hooks(fwd_hooks=[(f"blocks.1.{site}", double)]):
            with interp.attach(gpt2, PathLength) as probes:
                gpt2(tokens)
            expected = stream(gpt2, tokens)
        frame = probes["path_length"].frame
    assert not point.fwd_hooks
    frame = frame.sort_values(["layer", "prompt", "position"])
    got = torch.tensor(frame["norm"].to_numpy()).reshape(-1, 2, 9)
    assert torch.allclose(got, torch.stack([norm(x) for x in expected[:-1]]))


def test_run_with_hooks_and_run_with_cache_are_observed(gpt2):
    tokens = tokens_of()
    seen = []
    with interp.attach(gpt2, Rotation) as probes:
        gpt2.run_with_hooks(
            tokens, fwd_hooks=[("blocks.0.hook_resid_pre", lambda v, hook: seen.append(v))]
        )
        _, cache = gpt2.run_with_cache(tokens)
    assert len(seen) == 1
    assert "blocks.0.hook_resid_pre" in cache
    assert sorted(probes["rotation"].frame["call"].unique()) == [0, 1]


def test_reset_hooks_by_someone_else_is_survived(gpt2):
    tokens = tokens_of()
    with interp.attach(gpt2, Rotation) as probes:
        gpt2.reset_hooks()
        gpt2(tokens)
    assert probes["rotation"].frame["call"].tolist().count(0) == 2 * 9 * len(gpt2.blocks)


def test_removal_of_permanent_hooks_is_survived_and_reported(gpt2):
    with interp.attach(gpt2, Rotation) as probes:
        gpt2.reset_hooks(including_permanent=True)
        with pytest.warns(UserWarning, match="hooks had been removed by another tool"):
            gpt2(tokens_of())
    assert probes.results.provenance["attached"]["hooks_lost"] > 0
    assert len(probes["rotation"].frame) == 2 * 9 * len(gpt2.blocks)


def test_an_error_in_the_users_hook_drops_the_pass_and_leaves_nothing(gpt2):
    def fail(value, hook):
        raise RuntimeError("mine")

    with interp.attach(gpt2, Rotation) as probes:
        with pytest.raises(RuntimeError, match="mine"):
            gpt2.run_with_hooks(tokens_of(), fwd_hooks=[("blocks.1.hook_resid_pre", fail)])
        gpt2(tokens_of())
    assert len(probes["rotation"].frame) == 2 * 9 * len(gpt2.blocks)


def test_an_error_inside_the_block_takes_every_hook_off(gpt2):
    with pytest.raises(KeyError), interp.attach(gpt2, *ALL):
        raise KeyError("user code")
    assert hooks_on(gpt2) == []


class Fails(interp.Analysis):
    """Breaks on purpose."""

    sites = ("resid_post",)

    def observe(self, batch):
        raise ValueError("no such thing")


def test_a_failing_analysis_is_named_with_layer_and_shapes(gpt2):
    why = (
        r"analysis 'fails' failed at layer 0 on resid_post \(2, 9, 24\), mask \(2, 9\): "
        "ValueError: no such thing"
    )
    with pytest.warns(UserWarning, match=why), interp.attach(gpt2, Fails) as probes:
        watched = gpt2(tokens_of())  # the user's own pass goes on
    assert torch.equal(watched, gpt2(tokens_of()))
    with pytest.raises(ObserveError, match=why):
        _ = probes["fails"]
    with pytest.raises(ObserveError, match=why):
        interp.run(gpt2, tokens_of(), Fails, progress=False)
    assert hooks_on(gpt2) == []


def test_stop_at_layer_keeps_what_was_observed(gpt2):
    with interp.attach(gpt2, Rotation) as probes:
        gpt2(tokens_of(), stop_at_layer=1)
    assert set(probes["rotation"].frame["layer"]) <= {0}


def test_what_a_pass_that_ends_early_does_not_give_is_warned_of_counted_and_noted(gpt2):
    names = ("rotation", "logit_lens", "logit_difference", "attention")
    answers = {"targets": 5, "against": 6}
    with warnings.catch_warnings(record=True) as told, interp.attach(gpt2, *names, **answers) as p:
        warnings.simplefilter("always")
        for _ in range(2):
            gpt2(tokens_of(), stop_at_layer=1)
    said = [str(w.message) for w in told if "does not observe" in str(w.message)]
    assert len(said) == 2
    for name in ("logit_lens", "logit_difference"):
        why = f"'{name}' does not observe this pass: it ended before .*states of the stream.* came"
        assert sum(bool(re.search(why, text)) for text in said) == 1
        with pytest.raises(InterpError, match="it ended before .*logits"):
            _ = p[name]
    counted = p.results.provenance["attached"]["not_observed"]
    assert counted["logit_lens: it ended early"] == 2
    last = len(gpt2.blocks) - 1
    blocks = f"blocks 1 to {last}" if last > 2 else f"blocks 1, {last}" if last > 1 else "block 1"
    part = f"Not observed, or not wholly: 2 passes (rotation: it ended early, nothing of {blocks})."
    assert part in p["rotation"].notes
    assert set(p["rotation"].frame["layer"]) == {0}
    assert p["rotation"].frame["turning"].isna().all()


def test_a_whole_pass_after_one_that_ended_early_is_observed_and_the_other_noted(gpt2):
    with warnings.catch_warnings(), interp.attach(gpt2, LogitLens) as probes:
        warnings.simplefilter("ignore")
        gpt2(tokens_of(), stop_at_layer=1)
        gpt2(tokens_of(seed=1))
    lens = probes["logit_lens"]
    assert set(lens.frame["call"]) == {1}
    assert "Not observed, or not wholly: 1 passes (logit_lens: it ended early)." in lens.notes


class Same(torch.nn.Module):
    """A block that does nothing, and has no hooks."""

    def forward(self, x, *_args, **_options):
        return x


def test_a_block_that_is_not_run_is_warned_of_and_noted(gpt2, monkeypatch):
    interp.inspect(gpt2)
    monkeypatch.setitem(gpt2.original_model.transformer.h._modules, "1", Same())
    why = "'attention' does not observe all of this pass: nothing of block 1"
    with pytest.warns(UserWarning, match=why), interp.attach(gpt2, Attention) as probes:
        gpt2(tokens_of())
    assert set(probes["attention"].frame["layer"]) == set(range(len(gpt2.blocks))) - {1}
    told = "1 passes (attention: its inputs did not come, nothing of block 1)."
    assert any(note.endswith(told) for note in probes["attention"].notes)


def step_by_numpy(model, tokens, hooks) -> dict[str, np.ndarray]:
    """States and terms of block 1 in float64, `[batch, pos, d]`."""
    names = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    with model.hooks(fwd_hooks=hooks):
        _, cache = model.run_with_cache(tokens)
    return {n: cache[f"blocks.1.hook_{n}"].double().numpy() for n in names}


def test_a_step_that_a_hook_changed_is_shared_out_to_no_term(gpt2):
    tokens = tokens_of()

    def changed(value, hook):
        value = value.clone()
        value[0, 3:] += 10.0
        return value

    hooks = [("blocks.1.hook_resid_post", changed)]
    with interp.attach(gpt2, PathLength) as probes:
        gpt2.run_with_hooks(tokens, fwd_hooks=hooks)
    path = probes["path_length"]
    table = path.frame
    hooked = table.eval("layer == 1 and prompt == 0 and position >= 3")
    parts = ["attn_share", "mlp_share"]
    assert table.loc[hooked, parts].isna().all(axis=None)
    assert table.loc[~hooked, parts].notna().all(axis=None)
    np.testing.assert_allclose(table.loc[~hooked, parts].sum(axis=1), 1, atol=1e-4)
    x = step_by_numpy(gpt2, tokens, hooks)
    rest = x["resid_pre"] + x["attn_out"] + x["mlp_out"] - x["resid_post"]
    error = np.linalg.norm(rest, axis=-1) / np.linalg.norm(x["resid_post"], axis=-1)
    mine = table.loc[table["layer"] == 1, "closing_error"].to_numpy().reshape(error.shape)
    np.testing.assert_allclose(mine, error, atol=1e-5)
    note = "The terms of block 1 do not add up to the step at 6 tokens (closing error up to "
    assert sum(n.startswith(f"{note}{error.max():.2g})") for n in path.notes) == 1
    # What hooks do to the terms themselves is what the blocks then add.
    ablate = [("blocks.1.hook_mlp_out", lambda value, hook: value * 0)]
    with interp.attach(gpt2, PathLength) as probes:
        gpt2.run_with_hooks(tokens, fwd_hooks=ablate)
    assert probes["path_length"].frame["mlp_share"].notna().all()
    assert not any("do not add up" in n for r in probes.values() for n in r.notes)


def refused_because_the_cache_is_lost(model) -> bool:
    """Whether generation is refused here, as it must be where the bridge loses the cache."""
    if interp.inspect(model).continuation.broken(1) is None:
        return False
    with (
        pytest.raises(InterpError, match="continues a KV cache does not give.*use_past_kv_cache="),
        interp.attach(model, Rotation),
    ):
        model.generate(tokens_of(1, 5), max_new_tokens=2, do_sample=False, verbose=False)
    return True


def test_generation_with_cache_continues_positions(gpt2):
    if refused_because_the_cache_is_lost(gpt2):
        return
    prompt = tokens_of(1, 5)
    with interp.attach(gpt2, Rotation, LogitLens) as probes:
        out = gpt2.generate(
            prompt, max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False
        )
    frame = probes["rotation"].frame.query("layer == 0")
    assert frame["prompt"].unique().tolist() == [0]
    assert frame["position"].tolist() == list(range(8))  # the last token is never fed
    assert frame["token_id"].tolist() == out[0, :8].tolist()
    whole = stream(gpt2, out[:, :8])
    expected = angle(whole[0], whole[1])[0]
    assert np.allclose(frame["angle"], expected, atol=1e-3)


def test_generation_without_cache_is_one_call_per_step(gpt2):
    with interp.attach(gpt2, Rotation) as probes:
        gpt2.generate(
            tokens_of(1, 5),
            max_new_tokens=3,
            do_sample=False,
            stop_at_eos=False,
            verbose=False,
            use_past_kv_cache=False,
        )
    frame = probes["rotation"].frame.query("layer == 0")
    assert frame.groupby("call")["position"].max().tolist() == [4, 5, 6]


def test_attention_with_cache_counts_keys_of_earlier_steps(gpt2):
    if refused_because_the_cache_is_lost(gpt2):
        return
    with interp.attach(gpt2, Attention) as probes:
        out = gpt2.generate(
            tokens_of(1, 5), max_new_tokens=3, do_sample=False, stop_at_eos=False, verbose=False
        )
    with interp.attach(gpt2, Attention) as whole:
        gpt2(out[:, :7])
    a = probes["attention"].frame.sort_values(["layer", "position", "head"])
    b = whole["attention"].frame.sort_values(["layer", "position", "head"])
    for value in ("entropy", "distance", "sink", "previous", "duplicate", "induction"):
        assert np.allclose(a[value], b[value], atol=1e-4, equal_nan=True), value


def test_several_attachments_at_once(gpt2):
    with interp.attach(gpt2, Rotation) as one, interp.attach(gpt2, Rotation, PathLength) as two:
        gpt2(tokens_of())
    pd.testing.assert_frame_equal(one["rotation"].frame, two["rotation"].frame)


def test_two_models_at_once(gpt2, llama):
    with interp.attach(gpt2, Rotation) as one, interp.attach(llama, Rotation) as two:
        gpt2(tokens_of())
    assert len(one["rotation"].frame) > 0
    assert two.results.provenance["attached"]["calls"] == 0


def test_left_padding_by_mask_keeps_positions_and_leaves_padding_out(gpt2):
    tokens = tokens_of(2, 6)
    mask = torch.ones_like(tokens)
    mask[1, :2] = 0
    with interp.attach(gpt2, Rotation) as probes:
        gpt2(tokens, attention_mask=mask)
    frame = probes["rotation"].frame.query("layer == 0")
    assert frame.groupby("prompt")["position"].apply(list).tolist() == [
        list(range(6)),
        list(range(4)),
    ]
    with interp.attach(gpt2, Rotation) as alone:
        gpt2(tokens[1:, 2:])
    single = alone["rotation"].frame.query("layer == 0")["angle"]
    assert np.allclose(frame.query("prompt == 1")["angle"], single, atol=1e-3)


def test_padding_of_a_list_of_strings_is_left_out(gpt2):
    with interp.attach(gpt2, Rotation) as probes:
        gpt2(["the man saw her", "a queen"])
    lengths = probes["rotation"].frame.query("layer == 0").groupby("prompt").size()
    assert lengths.tolist() == [len(gpt2.to_tokens(s)[0]) for s in ("the man saw her", "a queen")]


def test_training_mode_is_refused(gpt2):
    gpt2.train()
    try:
        with pytest.raises(BadInput, match=r"training mode.*model\.eval\(\)"):
            interp.attach(gpt2, Rotation).__enter__()
    finally:
        gpt2.eval()


def test_inference_mode_works(gpt2):
    with torch.inference_mode(), interp.attach(gpt2, *ALL) as probes:
        gpt2(tokens_of())
    assert probes["logit_lens"].frame["log_prob"].notna().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_measured_in_float32(dtype):
    from conftest import _boot

    model = _boot("llama").to(dtype)
    with interp.attach(model, *ALL) as probes:
        model(tokens_of())
    frame = probes["path_length"].frame
    assert frame["norm"].dtype == np.float32
    assert any("rounding" in note for note in probes["rotation"].notes)
    assert (probes["logit_lens"].frame.query("layer == 3")["kl_to_final"] < 1e-6).all()


def test_switch_of_basis_while_attached_is_refused():
    from conftest import _boot

    model = _boot("gpt2")
    with (
        pytest.raises(
            InterpError, match="compatibility mode was switched while analyses were attached"
        ),
        interp.attach(model, Rotation),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        model.enable_compatibility_mode(disable_warnings=True)
        model(tokens_of())
    assert hooks_on(model) == []
    assert interp.inspect(model).basis == "compatibility mode"


def test_a_hook_after_the_last_block_makes_the_lens_refuse(gpt2):
    why = "no longer gives the model's own logits"
    with pytest.warns(UserWarning, match=why), interp.attach(gpt2, LogitLens) as probes:
        gpt2.run_with_hooks(tokens_of(), fwd_hooks=[("ln_final.hook_out", lambda v, hook: v * 0.5)])
    with pytest.raises(ObserveError, match=why):
        _ = probes["logit_lens"]


def test_inspection_while_attached_is_not_observed(gpt2):
    with interp.attach(gpt2, Rotation) as probes:
        interp.inspect(forgotten(gpt2))
    assert probes.results.provenance["attached"]["calls"] == 0


def test_the_users_hooks_are_not_fired_by_reading_out(gpt2):
    fired = []
    with gpt2.hooks(fwd_hooks=[("ln_final.hook_in", lambda v, hook: fired.append(1))]):
        with interp.attach(gpt2, LogitLens):
            gpt2(tokens_of())
    assert len(fired) == 1


class Timer:
    """A timer whose time is over at once where it is short, and never where it is long."""

    def __init__(self, seconds, act, given):
        self.due = (lambda: act(*given)) if seconds < 0.1 else (lambda: None)

    def start(self):
        self.due()

    def cancel(self):
        pass


def test_a_long_inspection_is_said_and_a_known_model_needs_none(monkeypatch):
    model = interp.load_model("demo")
    said = []
    monkeypatch.setattr(_progress, "threading", SimpleNamespace(Timer=Timer))
    monkeypatch.setattr(_progress, "remark", said.append)
    monkeypatch.setattr(_progress, "PATIENCE", 0.001)
    forgotten(model)
    interp.run(model, torch.tensor([[1, 5, 9]]), "norm", progress=False)
    assert said == []
    forgotten(model)
    interp.attach(model, "norm")
    assert said == [_progress.INSPECTING]
    monkeypatch.setattr(_progress, "PATIENCE", 1.0)
    interp.attach(model, "norm")
    forgotten(model)
    monkeypatch.setattr(_progress, "PATIENCE", 0.001)
    interp.run(model, torch.tensor([[1, 5, 9]]), "norm")
    assert said == [_progress.INSPECTING] * 2
