"""Layers of two models, senses that drift apart, and diverging continuations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from spaces_help import (
    TEXTS,
    embedded,
    rng,
    slow_cka,
    states_of,
)

import interp
import interp.demo
from interp import BadInput
from interp.errors import UnknownName
from interp.experiments.drift import drift_table
from interp.stats.nulls import undecided

# ---- layers of two models --------------------------------------------------------------------


def test_layers_of_two_models_on_the_same_words(gpt2, llama, clean):
    found = interp.experiments.compare_layers(gpt2, llama, TEXTS, per_prompt=6, resamples=39)
    assert len(found.words) == 30
    x, y = (
        np.concatenate(
            [
                states_of(model, text)[:, 1 + found.words.query("prompt == @i")["word"].to_numpy()]
                for i, text in enumerate(TEXTS)
            ],
            axis=1,
        )
        for model in (gpt2, llama)
    )
    table = found.matrix()
    assert table.shape == (len(x), len(y))
    for i, j in itertools.product(range(len(x)), range(len(y))):
        assert table.loc[i, j] == pytest.approx(slow_cka(x[i], y[j], True), rel=1e-3, abs=1e-5)
    assert found.best["value"] == found.frame["value"].max()
    assert (found.frame["p_max"] >= found.frame["p"]).all()
    assert found.words["text"].isin([w for text in TEXTS for w in text.split()]).all()
    assert found.plot().data[0].type == "heatmap"
    assert "30 words of 5 prompts" in repr(found)


def test_layers_of_one_model_against_itself(gpt2, clean):
    found = interp.experiments.compare_layers(
        gpt2, gpt2, TEXTS, per_prompt=5, resamples=9, pieces="mean"
    )
    assert np.allclose(np.diag(found.matrix()), 1)


def test_compare_layers_refuses_what_it_cannot_match(gpt2, llama, clean):
    with pytest.raises(BadInput, match="0 of 5 prompts have 99 words or more"):
        interp.experiments.compare_layers(gpt2, llama, TEXTS, per_prompt=99)
    with pytest.raises(BadInput, match="1 of 2 prompts have 6 words or more; at least 2"):
        interp.experiments.compare_layers(gpt2, llama, [TEXTS[0], "the dog"], per_prompt=6)
    with pytest.raises(UnknownName, match="unknown similarity 'cca'; did you mean"):
        interp.experiments.compare_layers(gpt2, llama, TEXTS, method="cca")
    other = [interp.read_prompts(t, gpt2.tokenizer) for t in (TEXTS, TEXTS[::-1])]
    from interp.experiments.layers import _words

    with pytest.raises(BadInput, match="the two models read different texts"):
        _words(*other, 2, 0)


# ---- drift -----------------------------------------------------------------------------------


def test_drift_of_planted_senses():
    senses = np.array(["a", "b"] * 8)
    prompts = np.arange(16)
    flat = rng(1).normal(size=(16, 6))
    apart = flat + 2 * np.where(senses == "a", 1, -1)[:, None]
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (flat, apart)]
    cosines = np.stack([u @ u.T for u in units])
    table = drift_table(cosines, senses, prompts, resamples=499)
    same = (senses[:, None] == senses[None]) & ~np.eye(16, dtype=bool)
    assert table["within"].tolist() == pytest.approx([c[same].mean() for c in cosines])
    other = senses[:, None] != senses[None]
    assert table["between"].tolist() == pytest.approx([c[other].mean() for c in cosines])
    assert table["p"][1] == table["p_max"][1] == 1 / 500
    assert table["p"][0] > 0.05
    assert table["null_mean"].abs().max() < 0.05


def test_drift_of_states_that_do_not_differ_is_undefined_not_significant():
    table = drift_table(np.ones((2, 8, 8)), ["a", "b"] * 4, range(8), resamples=99)
    assert table["difference"].tolist() == [0, 0]
    assert table[["p", "p_max"]].isna().all().all()


def test_few_prompts_cannot_decide_and_say_so():
    random = np.random.default_rng(5)
    cosines = random.normal(size=(3, 4, 4)) * 0.01 + np.kron(np.eye(2), np.ones((2, 2)))
    table = drift_table(cosines, ["a", "a", "b", "b"], range(4), resamples=499)
    assert table["p_max"].min() > 0.2  # a third of the six orders give these senses again
    assert table.attrs["smallest_p_max"] == pytest.approx(1 / 3, abs=0.06)
    (note,) = undecided(table.attrs["smallest_p_max"])
    assert note.startswith("cannot be decided with so few prompts or resamples: the smallest p")
    noise = random.normal(size=(2, 20, 20))
    many = drift_table(noise + noise.transpose(0, 2, 1), ["a", "b"] * 10, range(20), resamples=499)
    assert undecided(many.attrs["smallest_p_max"]) == ()


def test_drift_p_is_calibrated():
    p = []
    for i in range(150):
        x = rng(i).normal(size=(12, 5))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        cosines = np.stack([x @ x.T, (x[:, :3] @ x[:, :3].T)])
        table = drift_table(cosines, ["a", "b"] * 6, range(12), resamples=39, seed=i)
        p.append([table["p"][0], table["p_max"].min()])
    for rate in (np.array(p) <= 0.1).mean(axis=0):
        assert 0.02 < rate < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 150)


def test_drift_of_a_word_in_a_model(gpt2, clean):
    labels = {"sense": ["x", "y", "x", "y", "y"]}
    found = interp.experiments.contextual_drift(gpt2, TEXTS, "the", labels=labels, resamples=19)
    places = [
        (i, 1 + k) for i, t in enumerate(TEXTS) for k, w in enumerate(t.split()) if w == "the"
    ]
    assert (
        list(zip(found.occurrences["prompt"], found.occurrences["position"], strict=True)) == places
    )
    x = np.stack([states_of(gpt2, TEXTS[i])[:, k] for i, k in places], axis=1)
    for cosines, states in zip(found.cosines, x, strict=True):
        np.testing.assert_allclose(cosines, 1 - cdist(states, states, "cosine"), atol=1e-5)
    assert found.senses == {"x": 5, "y": 7}
    assert found.frame["layer"].tolist() == [0, 1, 2, 3]
    assert [trace.name for trace in found.plot().data][:3] == [
        "with random other tokens",
        "same sense",
        "different senses",
    ]


def test_drift_refuses_what_has_no_senses(gpt2, clean):
    with pytest.raises(UnknownName, match="unknown label 'sence'; did you mean 'sense'"):
        interp.experiments.contextual_drift(
            gpt2, TEXTS, "the", sense="sence", labels={"sense": list("xyxyy")}
        )
    with pytest.raises(BadInput, match="needs two or more values .* seen: x in 5 prompts"):
        interp.experiments.contextual_drift(gpt2, TEXTS, "the", labels={"sense": ["x"] * 5})
    with pytest.raises(BadInput, match="'zebra' occurs in none of the 5 prompts"):
        interp.experiments.contextual_drift(gpt2, TEXTS, "zebra", labels={"sense": list("xyxyy")})


# ---- continuations ---------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_divergence_of_continuations_against_every_continuation_of_two_tokens(
    gpt2, temperature, clean
):
    from scipy.special import log_softmax, rel_entr

    a, b = "the man saw her", "a queen told"
    found = interp.experiments.continuation_divergence(
        gpt2, a, b, temperature=temperature, length=2, samples=400
    )
    steps = []
    for text in (a, b):
        tokens = gpt2.to_tokens(text)
        n = tokens.shape[1]
        every = torch.arange(gpt2.cfg.d_vocab)[:, None]
        with torch.no_grad():
            z = gpt2(torch.cat([tokens.expand(len(every), -1), every], dim=1)).double().numpy()
        first = log_softmax(z[0, n - 1] / temperature)
        steps.append((first, first[:, None] + log_softmax(z[:, n] / temperature, axis=-1)))
    for row in range(2):
        p, q = (np.exp(s[row]).ravel() for s in steps)
        exact = {
            "kl_ab": rel_entr(p, q).sum(),
            "kl_ba": rel_entr(q, p).sum(),
            "js": (rel_entr(p, (p + q) / 2).sum() + rel_entr(q, (p + q) / 2).sum()) / 2,
        }
        for name, value in exact.items():
            seen = found.frame.loc[row, name]
            assert abs(seen - value) < 4.5 * found.frame.loc[row, f"{name}_se"], name


def test_the_same_context_does_not_diverge_and_bad_settings_are_refused(gpt2, clean):
    diverge = interp.experiments.continuation_divergence
    same = diverge(gpt2, "the man", "the man", length=3, samples=8)
    assert np.allclose(same.frame.drop(columns="length"), 0)
    with pytest.raises(BadInput, match="temperature is 0; allowed is a number above 0"):
        diverge(gpt2, "the man", "the dog", temperature=0)
    with pytest.raises(BadInput, match="3 tokens and 999 more do not fit in the model's"):
        diverge(gpt2, "the man", "the dog", length=999)
    with pytest.raises(BadInput, match="samples 1; allowed are 1 or more, 2 or more"):
        diverge(gpt2, "the man", "the dog", samples=1)


# ---- the embedded models ---------------------------------------------------------------------


@embedded
def test_last_layers_of_the_embedded_models_are_the_most_alike():
    a, b = (interp.load_model(name) for name in ("demo", "demo-llama"))
    documents = interp.demo.demo_documents(60)
    found = interp.experiments.compare_layers(a, b, documents, resamples=49)
    assert (found.best["layer_a"], found.best["layer_b"]) == (6, 8)
    assert found.best["value"] > 0.6
    assert found.best["p_max"] == 1 / 50


@embedded
def test_senses_drift_apart_in_the_embedded_models():
    documents = interp.demo.generate(240, 5, ["sense"], "held_out")
    for name in ("demo", "demo-llama"):
        model = interp.load_model(name)
        found = interp.experiments.contextual_drift(model, documents, "bank", resamples=199)
        # The null is that of the largest over layers, so that a layer may be chosen.
        clear = found.frame[found.frame["p_max"] <= 0.01]
        assert len(clear) >= found.frame["layer"].max() // 2
        assert (clear["random"] + 0.4 < clear["between"]).all()
        assert (clear["between"] < clear["within"] - 0.005).all()
