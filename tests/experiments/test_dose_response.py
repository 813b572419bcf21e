"""Dose–response curves of steering, against plain hooks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from steering_help import KINDS, TEXTS, continues, draw, logits, states

import interp
from interp import BadInput
from interp.errors import UnknownName, Unsupported
from interp.experiments import Steer
from interp.experiments.dose_response import random_directions, student_interval, summarise
from interp.experiments.steering import chosen
from interp.geometry import norm

pytestmark = pytest.mark.usefixtures("clean")


# ---- dose–response ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_dose_response_against_single_passes(model, kind):
    v = draw(model.cfg.d_model, seed=2)
    dose = KINDS[kind]
    response = interp.experiments.dose_response(
        model,
        TEXTS,
        v,
        kind=kind,
        doses=[dose],
        layers=[1],
        targets=("her", "him"),
        controls=2,
        seed=5,
        max_tokens=16,
    )
    her, him = model.tokenizer.convert_tokens_to_ids(["her", "him"])
    vectors = {-1: v} | dict(enumerate(random_directions(v, 2, 5)))
    for row in response.effects.itertuples():
        steer = Steer(kind, vectors[row.draw], row.dose, layers=1)
        z = logits(model, model.to_tokens(TEXTS[row.prompt]), steer)[0, -1]
        assert row.value == pytest.approx(float(z[her] - z[him]), abs=2e-5)
    frame = response.frame.set_index(["direction", "dose"])
    given = response.effects.query("direction == 'given' and dose == @dose")["effect"]
    interval = stats.t.interval(0.95, 2, given.mean(), stats.sem(given))
    np.testing.assert_allclose(frame.loc[("given", dose), ["low", "high"]].tolist(), interval)
    assert frame.loc[("given", 0.0), "effect"] == 0
    assert frame.loc[("random", dose), "lowest"] <= frame.loc[("random", dose), "effect"]
    assert response.measure == "logit_difference"


PLACES = {"last": ("last", "last"), "columns": ([4, 6], [6]), "all": ("all", "all")}


def dosed_as_by_plain_hooks(model, place: str) -> None:
    """Assert that every value is what a whole pass over one prompt gives."""
    positions, read = PLACES[place]
    v = draw(model.cfg.d_model, seed=2)
    response = interp.experiments.dose_response(
        model, TEXTS, v, doses=[2.0], layers=1, targets="her", controls=1, progress=False,
        positions=positions, read=read,
    )  # fmt: skip
    prompts = interp.read_prompts(
        TEXTS, model.tokenizer, prepend_bos=interp.inspect(model).prepends_bos
    )
    changed, asked = chosen(positions, prompts), chosen(read, prompts)
    her = model.tokenizer.convert_tokens_to_ids("her")
    (hook_name,) = interp.inspect(model).stacks[0].boundaries[1:2]
    vectors = {-1: v} | dict(enumerate(random_directions(v, 1, 0)))
    for row in response.effects.itertuples():
        n = len(prompts.tokens[row.prompt])
        shift = row.dose * vectors[row.draw] * changed[row.prompt, :n, None]
        with torch.no_grad():
            z = model.run_with_hooks(
                torch.tensor(prompts.tokens[row.prompt])[None],
                fwd_hooks=[(hook_name, lambda x, hook, shift=shift: x + shift)],
            )
        log_p = z[0].double().log_softmax(-1)[:, her]
        expected = float(log_p[asked[row.prompt, :n]].mean())
        assert row.value == pytest.approx(expected, abs=1e-4)
    assert (response.effects.query("dose == 2")["effect"].abs() > 1e-3).any()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "bert", "mamba", "gpt-neo", "bloom"])
def test_dose_response_by_plain_hooks(place, name):
    """Whatever a pass leaves out: windows, both directions, states without keys and values."""
    from zoo import ZOO
    from zoo.boot import boot

    torch.manual_seed(0)
    dosed_as_by_plain_hooks(boot(ZOO[name]), place)


@pytest.mark.full
def test_every_zoo_model_is_dosed_as_by_plain_hooks_or_refused_by_name():
    from zoo import ZOO
    from zoo.boot import boot

    refused = []
    for name, entry in ZOO.items():
        torch.manual_seed(0)
        try:
            dosed_as_by_plain_hooks(boot(entry), "last")
        except Unsupported:
            refused.append(name)
    assert len(ZOO) - len(refused) > 100, refused


@pytest.mark.parametrize(("name", "goes_on"), [("llama", True), ("mistral", True), ("bert", False)])
def test_only_the_tokens_that_can_change_pass_again(name, goes_on):
    from zoo import ZOO
    from zoo.boot import boot

    torch.manual_seed(0)
    model = boot(ZOO[name])
    widths = []
    with model.hooks(fwd_hooks=[("blocks.1.hook_in", lambda x, hook: widths.append(x.shape[1]))]):
        interp.experiments.dose_response(
            model, TEXTS, draw(model.cfg.d_model), doses=[1.0, 2.0], layers=1, targets="her",
            controls=2, progress=False, positions="last",
        )  # fmt: skip
    longest, goes_on = max(widths), goes_on and continues(model)
    steered = widths[-7:]  # dose 0, and two doses of three directions
    assert steered == [1 if goes_on else longest] * 7
    if goes_on:
        assert widths[-10:-7] == [longest, longest - 1, 1], "whole, before, and again to compare"


def test_the_bar_of_a_dose_response_is_on_standard_error_and_can_be_silenced(gpt2, capsys):
    ask = {"doses": [1], "layers": 1, "targets": "her", "controls": 1}
    interp.experiments.dose_response(gpt2, TEXTS, draw(24), progress=False, **ask)
    assert capsys.readouterr() == ("", "")
    interp.experiments.dose_response(gpt2, TEXTS, draw(24), **ask)
    assert capsys.readouterr().out == ""


def test_adding_the_unembedding_difference_at_the_end_has_a_closed_form(llama):
    """Where the last state is steered, the effect is the readout's: no block comes after it."""
    v = interp.experiments.unembedding_difference(llama, "her", "him")
    end = len(llama.blocks)
    response = interp.experiments.dose_response(
        llama, TEXTS, v, doses=[3.0], layers=end, targets=("her", "him"), controls=3
    )
    readout, her_him = interp.inspect(llama).readout, llama.tokenizer.convert_tokens_to_ids
    a, b = her_him(["her", "him"])
    for row in response.effects.query("direction == 'given' and dose == 3").itertuples():
        x = states(llama, llama.to_tokens(TEXTS[row.prompt]))[-1][0, -1]
        with torch.no_grad():
            z, base = readout.logits(x + 3 * v), readout.logits(x)
        assert row.effect == pytest.approx(float(z[a] - z[b] - base[a] + base[b]), abs=1e-4)
    given = response.frame.query("direction == 'given' and dose == 3").iloc[0]
    assert given["effect"] > response.frame.query("direction == 'random'")["highest"].max()
    assert given["random_p"] == pytest.approx(1 / 4)


def test_positions_and_reading_by_label(gpt2):
    prompts = interp.read_prompts(TEXTS, gpt2.tokenizer).label(interp.target_word("her"))
    v = 5 * draw(24)
    common = {"doses": [1.0], "layers": 1, "targets": "her", "controls": 0}
    response = interp.experiments.dose_response(
        gpt2, prompts, v, positions={"role": "target"}, read={"role": "target"}, **common
    )
    assert "1 prompts have no token that is read; they are left out." in response.notes
    assert response.frame["random_p"].isna().all()
    # What stands before the steered token does not change in a causal model.
    earlier = interp.experiments.dose_response(
        gpt2, prompts, v, positions={"role": "target"}, read={"role": "previous"}, **common
    )
    assert (earlier.effects["effect"] == 0).all()
    assert (response.effects.query("dose == 1")["effect"] != 0).all()


def test_dose_response_is_shown(gpt2):
    response = interp.experiments.dose_response(
        gpt2, TEXTS, draw(24), doses=[-1, 1], layers=1, targets="her", controls=2
    )
    figure = response.plot()
    assert [t.name for t in figure.data if t.name] == ["random directions", "given direction"]
    assert "95 %, over prompts" in figure.layout.meta["caption"]
    assert "log_prob of 'her'" in repr(response)
    assert "<table" in response._repr_html_()
    assert "random_p cannot be below 0.33" in repr(response)


def test_bad_requests_for_a_dose_response(gpt2):
    v = draw(24)

    def ask(**options):
        return interp.experiments.dose_response(
            gpt2, TEXTS, v, **({"layers": 1, "targets": "her"} | options)
        )

    with pytest.raises(BadInput, match=r"doses \[nan\] are not all finite"):
        ask(doses=[float("nan")])
    with pytest.raises(BadInput, match="nothing but 0"):
        ask(doses=[0])
    with pytest.raises(BadInput, match="targets has 3 tokens"):
        ask(targets=("her", "him", "man"))
    with pytest.raises(BadInput, match="both targets are the token 'her'"):
        ask(targets=("her", "her"))
    with pytest.raises(UnknownName, match="did you mean 'add'"):
        ask(kind="ad", doses=[1])
    with pytest.raises(BadInput, match="layer 7 is out of range"):
        ask(layers=7)
    with pytest.raises(BadInput, match="the vector has width 3"):
        interp.experiments.dose_response(gpt2, TEXTS, draw(3), layers=1, targets="her")
    with pytest.raises(BadInput, match="controls=-1"):
        ask(controls=-1)


def test_a_steered_model_that_yields_nan_is_reported_and_left_clean(gpt2):
    def poison(value, hook):
        return value * torch.nan

    with (
        gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", poison)]),
        pytest.raises(interp.InterpError, match="yields NaN when steered"),
    ):
        interp.experiments.dose_response(gpt2, TEXTS, draw(24), doses=[1], layers=1, targets="her")


def test_random_directions_have_the_norm_and_no_preferred_direction():
    v = draw(32)
    found = torch.stack(random_directions(v, 300, 1))
    torch.testing.assert_close(norm(found), norm(v).expand(300), rtol=1e-5, atol=0)
    cosines = torch.cosine_similarity(found, v[None])
    # The cosine of a uniform direction: (c + 1)/2 ~ Beta((d − 1)/2, (d − 1)/2).
    p = stats.kstest((cosines.numpy() + 1) / 2, stats.beta(15.5, 15.5).cdf).pvalue
    assert p > 0.01
    assert torch.equal(found, torch.stack(random_directions(v, 300, 1)))


def test_interval_and_p_are_calibrated_under_the_null():
    """Prompts differ, directions mean nothing: 95 % cover 0, p ≤ 1/10 in a tenth of the cases."""
    rng = np.random.default_rng(0)
    covered, small, runs = 0, 0, 120
    for _ in range(runs):
        values = rng.normal(size=(10, 12))
        rows = pd.DataFrame(
            {
                "prompt": np.tile(np.arange(12), 10),
                "draw": np.repeat(np.arange(-1, 9), 12),
                "dose": 1.0,
                "value": values.ravel(),
                "effect": values.ravel(),
            }
        )
        rows["direction"] = np.where(rows["draw"] < 0, "given", "random")
        given = summarise(rows).query("direction == 'given'").iloc[0]
        covered += given["low"] <= 0 <= given["high"]
        small += given["random_p"] <= 0.1
    assert stats.binomtest(covered, runs, 0.95).pvalue > 0.001
    assert stats.binomtest(small, runs, 0.1).pvalue > 0.001


def test_one_prompt_has_no_interval():
    assert np.isnan(student_interval(np.array([1.0]), 0.95)).all()
