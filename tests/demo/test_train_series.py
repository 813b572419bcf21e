"""The small training run: its checkpoints, the same every time, and what forms in it."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import load_file

import interp
from interp.demo.evaluate import head_scores, load, repeated_tokens
from interp.demo.train_series import STEPS, main, train_series


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Six steps of two seeds, and the first seed again."""
    place = tmp_path_factory.mktemp("training")
    train_series(place / "a", seeds=(0, 1), steps=(0, 2, 6))
    train_series(place / "b", seeds=(0,), steps=(0, 2, 6))
    return place


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_checkpoints_are_half_precision_and_load(short):
    found = sorted(p.relative_to(short / "a").as_posix() for p in (short / "a").glob("*/*"))
    assert found == [f"seed-{s}/step-{i}" for s in (0, 1) for i in (0, 2, 6)]
    assert {w.dtype for w in weights(short / "a/seed-0/step-2").values()} == {torch.float16}
    bridge = interp.load_model(short / "a/seed-0/step-2")
    assert bridge.tokenizer("the dog")["input_ids"]
    size = (short / "a/seed-0/step-2/model.safetensors").stat().st_size
    assert size < 700_000


def test_a_seed_gives_the_same_weights_and_another_one_others(short):
    for step in (0, 2, 6):
        one, again = (weights(short / f"{x}/seed-0/step-{step}") for x in "ab")
        other = weights(short / f"a/seed-1/step-{step}")
        assert all(torch.equal(one[name], again[name]) for name in one)
        assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_training_changes_every_matrix(short):
    first, last = (weights(short / f"a/seed-0/step-{step}") for step in (0, 6))
    assert [n for n in first if first[n].ndim == 2 and torch.equal(first[n], last[n])] == []


def test_steps_double():
    assert STEPS[0] == 0
    assert all(b == 2 * a for a, b in zip(STEPS[1:], STEPS[2:], strict=False))
    assert len(STEPS) == 11


def test_it_is_a_series(short):
    series = interp.series(short / "a" / "seed-*", "demo", "rotation", progress=False)
    assert series.members["run"].tolist() == ["seed-0"] * 3 + ["seed-1"] * 3
    assert series.members["at"].tolist() == [0, 2, 6] * 2


def test_the_command(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("interp.demo.train_series.STEPS", (0, 1))
    monkeypatch.setattr("interp.demo.train_series.train_seed.__defaults__", ((0, 1),))
    monkeypatch.setattr("interp.demo.train_series.train_series.__defaults__", ((0,), (0, 1)))
    with caplog.at_level(logging.INFO):
        main(["--out", str(tmp_path / "t"), "--seeds", "1"])
    assert (tmp_path / "t/seed-0/step-1/config.json").is_file()
    assert "seed 0:" in caplog.text


@pytest.mark.full
def test_induction_heads_form(tmp_path):
    train_series(tmp_path, seeds=(0,))
    best = {}
    for step in (0, STEPS[-1]):
        model, tokenizer = load(tmp_path / f"seed-0/step-{step}")
        ids = repeated_tokens(tokenizer, rows=20, period=20)
        best[step] = [float(score.max()) for score in head_scores(model, ids, 20)]
    assert max(best[0]) < 0.15
    assert min(best[STEPS[-1]]) > 0.4
