"""Translators from three sources, the lens that reads through them, and their fit."""

from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import _boot
from scipy.special import log_softmax
from transformer_lens.tools.analysis import JacobianLens
from zoo import ZOO, boot

import interp
from analyses.logit_lens import LogitLens
from interp.demo import demo_documents
from interp.errors import BadInput, InterpError, Unsupported
from interp.experiments.tuned_lens import fit_tuned_lens
from interp.models import Translators, read_translators
from interp.models.translators import sampled_norms
from interp.render.style import CONTROL

TEXTS = [document.text for document in demo_documents()]


@pytest.fixture(scope="module")
def demo():
    return interp.load_model("demo-llama")


@pytest.fixture(scope="module")
def fitted(demo, tmp_path_factory):
    file = tmp_path_factory.mktemp("lens") / "tuned.safetensors"
    return fit_tuned_lens(demo, TEXTS, file=file, steps=25, progress=False)


def drawn(n: int = 8, d: int = 96, seed: int = 0) -> Translators:
    generator = torch.Generator().manual_seed(seed)
    weight = 0.05 * torch.randn(n, d, d, generator=generator)
    return Translators(weight, 0.1 * torch.randn(n, d, generator=generator))


# ---- files -------------------------------------------------------------------------------------


def test_a_folder_of_tuned_lens_is_read_as_its_package_does(tmp_path):
    lens = drawn(3, 8)
    state = {f"{i}.weight": lens.weight[i] for i in range(3)}
    state |= {f"{i}.bias": lens.bias[i] for i in range(3)}
    torch.save(state, tmp_path / "params.pt")
    told = {"base_model_name_or_path": "some/model", "d_model": 8, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(told))
    found = read_translators(tmp_path)
    assert found.facts["model"] == "some/model"
    x = torch.randn(4, 8)
    linear = torch.nn.Linear(8, 8)
    linear.load_state_dict({"weight": state["1.weight"], "bias": state["1.bias"]})
    assert torch.allclose(found.one(1, x), x + linear(x), atol=1e-6)


def test_a_jacobian_lens_is_read_with_its_states_one_on(tmp_path):
    matrices = {layer: torch.randn(8, 8) for layer in range(3)}  # of a model of four blocks
    lens = JacobianLens(matrices, n_prompts=1, d_model=8)
    lens.save(str(tmp_path / "lens.pt"), dtype=torch.float32)
    found = read_translators(tmp_path / "lens.pt")
    x = torch.randn(5, 8)
    assert found.n_layers == 4
    assert torch.equal(found.one(0, x), x)
    for layer in range(3):
        assert torch.allclose(found.one(layer + 1, x), lens.transport(x, layer), atol=1e-5)


def test_own_files_keep_every_bit(tmp_path):
    lens = Translators(*(drawn(2, 4).weight, drawn(2, 4).bias), torch.ones(3), {"model": "m"})
    again = read_translators(lens.save(tmp_path / "a.safetensors"))
    assert torch.equal(again.weight, lens.weight)
    assert torch.equal(again.bias, lens.bias)
    assert torch.equal(again.unembedding, lens.unembedding)
    assert again.facts == {"model": "m"}


def test_a_file_that_was_replaced_is_read_again_even_with_the_time_of_the_old_one(tmp_path):
    first, second = drawn(2, 4), drawn(2, 4, seed=1)
    path = first.save(tmp_path / "a.safetensors")
    assert read_translators(path) is read_translators(path)
    before = path.stat()
    second.save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert torch.equal(read_translators(path).weight, second.weight)
    assert not torch.equal(first.weight, second.weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "none.safetensors", "no translators at .*: no such file or folder"),
        (lambda p: _written(p / "a.txt", b"x"), "holds no translators; allowed: a .safetensors"),
        (lambda p: _written(p / "a.safetensors", b"xx"), "is damaged .*; fit the lens again"),
        (lambda p: _written(p / "a.pt", b"xx"), "cannot be read as a Jacobian lens"),
        (lambda p: p, "is no folder of tuned-lens: it needs config.json and params.pt"),
    ],
)
def test_files_of_something_else(tmp_path, make, message):
    with pytest.raises(BadInput, match=message):
        read_translators(make(tmp_path))


def _written(path, data):
    path.write_bytes(data)
    return path


def test_a_folder_that_lacks_layers_or_holds_code(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 2}))
    torch.save({"0.weight": torch.zeros(2, 2)}, tmp_path / "params.pt")
    with pytest.raises(BadInput, match=r"lacks the translators of states \[1\] of 2"):
        read_translators(tmp_path)
    torch.save(print, tmp_path / "params.pt")
    with pytest.raises(InterpError, match="only tensors are unpickled"):
        read_translators(tmp_path)


def test_shapes_that_do_not_fit():
    with pytest.raises(BadInput, match="expected .L, d_model, d_model. and .L, d_model."):
        Translators(torch.zeros(2, 3, 4), torch.zeros(2, 3))
    with pytest.raises(BadInput, match="hold NaN"):
        Translators(torch.full((1, 2, 2), torch.nan), torch.zeros(1, 2))


# ---- the lens ----------------------------------------------------------------------------------


def test_the_lens_reads_translated_states(demo, tmp_path):
    lens = drawn()
    file = lens.save(tmp_path / "t.safetensors")
    analysis = LogitLens(readout=str(file))
    frame = interp.run(demo, TEXTS[:2], analysis, progress=False)["logit_lens"].frame
    ids = demo.to_tokens(TEXTS[0])
    _, cache = demo.run_with_cache(ids)
    rows = frame[frame["prompt"] == 0].set_index(["layer", "position"])
    final = log_softmax(demo(ids)[0].detach().double().numpy(), -1)
    norm, w = demo.ln_final, demo.unembed.W_U.detach()
    for state in range(8):
        x = cache[f"blocks.{state}.hook_resid_pre"][0]
        moved = x + x @ lens.weight[state].T + lens.bias[state]
        for name, vectors in (("kl_to_final", moved), ("plain_kl_to_final", x)):
            z = (norm(vectors[None])[0] @ w).detach().double().numpy()
            z = z + demo.unembed.b_U.detach().double().numpy()
            expected = (np.exp(final) * (final - log_softmax(z, -1))).sum(-1)
            assert np.allclose(rows.loc[state, name], expected, rtol=1e-3, atol=1e-4)
    assert np.allclose(rows.loc[8, "kl_to_final"], 0, atol=1e-6), "the last state is not moved"


def test_a_function_may_be_the_translator(demo, tmp_path):
    lens = drawn()
    by_file = LogitLens(readout=str(lens.save(tmp_path / "t.safetensors")))
    results = [
        interp.run(demo, TEXTS[:2], analysis, progress=False)["logit_lens"]
        for analysis in (by_file, LogitLens(readout=lens.one))
    ]
    pd.testing.assert_frame_equal(results[0].frame, results[1].frame)
    run = interp.run(demo, TEXTS[:1], LogitLens(readout=lens.one), progress=False)
    run.save(tmp_path / "out")
    assert "one" in str(interp.load(tmp_path / "out")["logit_lens"].analysis.readout)


def test_without_translators_nothing_changes(demo):
    plain = interp.run(demo, TEXTS[:2], LogitLens(), progress=False)["logit_lens"].frame
    assert not [name for name in plain if name.startswith("plain_")]


def test_the_plain_lens_is_the_control(demo, fitted):
    texts = TEXTS[:3]
    plain = interp.run(demo, texts, LogitLens(), progress=False)["logit_lens"].frame
    both = interp.run(demo, texts, LogitLens(readout=str(fitted.path)), progress=False)
    frame = both["logit_lens"].frame
    for name in ("log_prob", "entropy", "kl_to_final"):
        assert frame[f"plain_{name}"].equals(plain[name])
    assert frame.loc[frame["layer"] < 8, "kl_to_final"].mean() < 0.75 * (
        frame.loc[frame["layer"] < 8, "plain_kl_to_final"].mean()
    )


def test_the_figure_shows_translated_predictions(demo, fitted):
    one = interp.run(demo, TEXTS[:1], LogitLens(readout=str(fitted.path)), progress=False)
    result = one["logit_lens"]
    (tokens,) = [v for k, v in _examples(result, "top_tokens").items() if k == 0]
    best = result.frame.pivot(index="layer", columns="position", values="top_token")
    shown = np.vectorize(lambda i: result.strings[int(i)])(tokens[..., 0])
    assert (shown == best.to_numpy()).mean() == 1.0


def _examples(result, name):
    return next(iter(result.examples(name).values()))


def test_a_saved_run_keeps_the_path(demo, fitted, tmp_path):
    results = interp.run(demo, TEXTS[:1], LogitLens(readout=str(fitted.path)), progress=False)
    results.save(tmp_path / "out")
    again = interp.load(tmp_path / "out")["logit_lens"]
    assert again.analysis.readout == str(fitted.path)
    assert "plain_kl_to_final" in again.columns


def test_translators_of_another_model_are_refused(demo, fitted, tmp_path):
    other = interp.load_model("demo")
    with pytest.raises(InterpError, match=r"translators are for 8 states of width \d+, the model"):
        interp.run(other, TEXTS[:1], LogitLens(readout=str(fitted.path)), progress=False)
    stranger = Translators(
        fitted.translators.weight, fitted.translators.bias, 1.5 * fitted.translators.unembedding
    )
    file = stranger.save(tmp_path / "s.safetensors")
    with pytest.raises(InterpError, match="fitted on another unembedding"):
        interp.run(demo, TEXTS[:1], LogitLens(readout=str(file)), progress=False)


def test_a_model_is_known_again_at_any_precision(demo):
    weight = demo.unembed.W_U.T
    near = sampled_norms(weight.bfloat16())
    assert torch.allclose(near, sampled_norms(weight), rtol=0.01)


# ---- refused before the model --------------------------------------------------------------------


def test_a_file_that_is_not_there_is_refused_before_a_model_is_loaded(tmp_path):
    file = drawn().save(tmp_path / "tuned.safetensors")
    wrong = str(file).replace("tuned", "tunde")
    text = r"no translators at .*tunde.*; did you mean 'tuned.safetensors'\?"
    ways = (
        lambda: interp.run("no such model", TEXTS[:1], LogitLens(readout=wrong), progress=False),
        lambda: interp.run("no such model", TEXTS[:1], "logit_lens", progress=False,
                           settings={"logit_lens.readout": wrong}),
        lambda: interp.generate("no such model", TEXTS[:1], LogitLens(readout=wrong)),
        lambda: interp.run_corpus("no such model", TEXTS[:1], LogitLens(readout=wrong),
                                  out=tmp_path / "out"),
    )  # fmt: skip
    for way in ways:
        with pytest.raises(BadInput, match=text):
            way()
    assert not (tmp_path / "out").exists()


def test_what_holds_no_translators_is_refused_before_a_model_is_loaded(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(BadInput, match=r"notes.txt' holds no translators; allowed: a .safetensors"):
        interp.run("none", TEXTS[:1], LogitLens(readout=str(tmp_path / "notes.txt")))
    with pytest.raises(BadInput, match="read from a file or folder, not from 5"):
        interp.run("none", TEXTS[:1], LogitLens(readout=5))


def test_translators_of_another_width_are_refused_before_the_first_pass(demo, tmp_path):
    file = drawn(8, 12).save(tmp_path / "narrow.safetensors")
    with pytest.raises(BadInput, match="for 8 states of width 12, the model has 8"):
        interp.run(demo, TEXTS[:1], LogitLens(readout=str(file)), progress=False)
    with pytest.raises(BadInput, match="for 8 states of width 12"):
        interp.attach(demo, LogitLens(readout=str(file)))


def test_saved_results_open_without_the_file(demo, tmp_path):
    file = drawn().save(tmp_path / "t.safetensors")
    interp.run(demo, TEXTS[:1], LogitLens(readout=str(file)), progress=False).save(tmp_path / "out")
    file.unlink()
    assert "plain_entropy" in interp.load(tmp_path / "out")["logit_lens"].frame


def test_settings_take_a_function_and_a_path(demo, tmp_path):
    lens = drawn()
    file = lens.save(tmp_path / "t.safetensors")
    tables = [
        interp.run(
            demo, TEXTS[:1], "logit_lens", settings={"logit_lens.readout": given}, progress=False
        )["logit_lens"].frame
        for given in (lens.one, file, str(file))
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[1], tables[2])
    with pytest.raises(BadInput, match="readout=5; expected text, such as a path, or a function"):
        interp.run(demo, TEXTS[:1], "logit_lens", settings={"logit_lens.readout": 5})


def test_the_plain_lens_is_drawn_in_grey_and_named_as_the_control(demo, fitted):
    results = interp.run(demo, TEXTS[:2], LogitLens(readout=str(fitted.path)), progress=False)
    result = results["logit_lens"]
    for value in ("log_prob", "kl_to_final"):
        figure = result.plot(value)
        colours = {t.name: t.line.color for t in figure.data if t.name and t.mode != "none"}
        assert colours[f"plain_{value}"] == CONTROL
        assert colours[value] != CONTROL
        assert f"Grey: plain_{value}, the control." in figure.layout.meta["caption"]
    text = results.report(fitted.path.with_suffix(".html"), overwrite=True).read_text("utf-8")
    assert "its control <code>plain_log_prob</code>" in text
    plain = interp.run(demo, TEXTS[:1], LogitLens(), progress=False)["logit_lens"].plot("log_prob")
    assert "Grey" not in plain.layout.meta["caption"]


# ---- the fit -----------------------------------------------------------------------------------


def test_translators_say_more_on_prompts_that_they_never_saw(fitted):
    frame = fitted.frame
    assert (frame["gain_low"] > 0).all()
    assert frame["tuned_kl"].mean() < 0.75 * frame["plain_kl"].mean()
    assert len(fitted.losses) == 25
    assert "the plain lens" in fitted.sentence
    assert "Only 32 prompts" in fitted.notes[0]
    assert not fitted.path.with_suffix(".fit.safetensors").exists()


def test_the_plain_column_is_the_plain_lens(demo, fitted):
    order = np.random.default_rng(0).permutation(len(TEXTS))
    held_out = [TEXTS[i] for i in sorted(order[:8])]
    frame = interp.run(demo, held_out, LogitLens(), progress=False)["logit_lens"].frame
    frame = frame[~frame["special"]]
    means = frame.groupby(["layer", "prompt"])["kl_to_final"].mean().groupby("layer").mean()
    assert np.allclose(fitted.frame["plain_kl"], means[:8], rtol=1e-3)


def test_a_broken_fit_goes_on_to_the_same_bits(demo, tmp_path, monkeypatch):
    options = {"steps": 14, "progress": False}
    whole = fit_tuned_lens(demo, TEXTS[:12], file=tmp_path / "w.safetensors", **options)
    from interp.experiments.tuned_lens import _Fit

    step = _Fit._step

    def broken(self, i):
        if i == 12:
            raise KeyboardInterrupt
        step(self, i)

    monkeypatch.setattr(_Fit, "_step", broken)
    with pytest.raises(KeyboardInterrupt):
        fit_tuned_lens(demo, TEXTS[:12], file=tmp_path / "b.safetensors", **options)
    assert not (tmp_path / "b.safetensors").exists(), "no half lens"
    monkeypatch.setattr(_Fit, "_step", step)
    with pytest.raises(BadInput, match=r"is of another fit \(rate differ\)"):
        fit_tuned_lens(demo, TEXTS[:12], file=tmp_path / "b.safetensors", resume=True, rate=0.1,
                       **options)  # fmt: skip
    again = fit_tuned_lens(
        demo, TEXTS[:12], file=tmp_path / "b.safetensors", resume=True, **options
    )
    assert torch.equal(again.translators.weight, whole.translators.weight)
    assert again.losses.equals(whole.losses)
    files = [read_translators(tmp_path / f"{name}.safetensors") for name in "bw"]
    assert torch.equal(files[0].weight, files[1].weight)
    assert files[0].facts == files[1].facts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0, rate=0.001: allowed are 1 or more, and above 0"),
        ({"rate": -1.0}, "rate=-1.0"),
        ({"held_out": 1.0}, "held_out=1.0: allowed is a share between 0 and 1"),
        ({"resume": True}, "resume goes on with a fit beside its file: name it"),
        ({"file": "lens.pt"}, "the file of a fit ends in .safetensors"),
    ],
)
def test_settings_that_are_not_allowed(demo, options, message):
    with pytest.raises(BadInput, match=message):
        fit_tuned_lens(demo, TEXTS, progress=False, **options)


def test_too_few_prompts_and_models_without_a_readout(demo):
    with pytest.raises(BadInput, match="3 prompts are too few to fit on some and hold out two"):
        fit_tuned_lens(demo, TEXTS[:3], progress=False)
    with pytest.raises(Unsupported, match="fit_tuned_lens runs models with one stack"):
        fit_tuned_lens(boot(ZOO["t5"]), TEXTS, progress=False)


def test_a_loss_that_is_no_number_is_named(demo, monkeypatch):
    from interp.experiments.tuned_lens import _Source

    monkeypatch.setattr(_Source, "loss", lambda self, x, final: x.sum(-1) * torch.nan)
    with pytest.raises(InterpError, match=r"the loss is nan at step 0; try a smaller rate \(now"):
        fit_tuned_lens(demo, TEXTS[:8], progress=False)


def test_a_small_model_of_another_layout(tmp_path):
    model = _boot("gpt2")
    ids = [torch.randint(5, 90, (9,), generator=torch.Generator().manual_seed(i)).tolist()
           for i in range(8)]  # fmt: skip
    found = fit_tuned_lens(model, ids, steps=5, progress=False)
    assert len(found.frame) == interp.inspect(model).stacks[0].n_blocks
