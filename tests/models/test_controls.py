"""An untrained copy of a model: the same in everything but what was learnt, and beside it."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from counting import counted
from typer.testing import CliRunner

import interp
from interp.cli.app import app
from interp.errors import InterpError
from interp.models.forward import wrapped_model

PROMPTS = ["Mary smiled. John thanked her.", "Anna slept.", "Tom greeted her. Mary smiled."]
ANALYSES = ["rotation", "logit_lens", "attention", "unembedding_spectrum"]


@pytest.fixture(scope="module")
def model():
    return interp.load_model("demo-llama")


@pytest.fixture(scope="module")
def results(model):
    return interp.run(model, PROMPTS, ANALYSES, target="her", control="random-init", progress=False)


def weights(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in wrapped_model(model).named_parameters()}


@pytest.mark.parametrize("which", ["gpt2", "llama"])
def test_copy_has_the_shapes_and_other_weights(which, request):
    model = request.getfixturevalue(which)
    before, state = weights(model), torch.random.get_rng_state()
    copy = interp.random_copy(model, seed=1)
    assert torch.equal(state, torch.random.get_rng_state()), "the user's random state is theirs"
    after = weights(copy)
    assert {n: p.shape for n, p in after.items()} == {n: p.shape for n, p in before.items()}
    assert all(torch.equal(p, before[n]) for n, p in weights(model).items())
    matrices = [n for n, p in after.items() if p.ndim == 2]
    assert matrices
    assert not any(torch.equal(after[n], before[n]) for n in matrices)


def test_the_seed_decides(model):
    one, again, other = (weights(interp.random_copy(model, seed)) for seed in (0, 0, 1))
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not all(torch.equal(one[n], other[n]) for n in one)


def test_weights_are_as_the_architecture_initialises_them(model):
    """The config's own standard deviation, by Hugging Face's rule for linear layers."""
    copy = interp.random_copy(model)
    wanted = wrapped_model(model).config.initializer_range
    name, matrix = max(weights(copy).items(), key=lambda item: item[1].numel())
    assert matrix.std().item() == pytest.approx(wanted, rel=0.02), name
    assert not copy.training


def test_copy_tokenizes_alike_and_says_what_it_is(model):
    copy = interp.random_copy(model, seed=3)
    assert torch.equal(copy.to_tokens(PROMPTS[0]), model.to_tokens(PROMPTS[0]))
    assert copy.cfg.model_name == "demo-llama (random-init, seed 3)"


def test_an_untrained_model_predicts_nothing(results):
    """Its loss is that of the uniform distribution; the trained one is far better."""
    frames = [r.frame for r in (results["logit_lens"], results["logit_lens"].control)]
    last = [f[f["layer"] == f["layer"].max()]["log_prob"].mean() for f in frames]
    vocabulary = wrapped_model(interp.load_model("demo-llama")).config.vocab_size
    assert last[1] == pytest.approx(-np.log(vocabulary), abs=0.2)
    assert last[0] > last[1] + 2


def test_control_has_the_same_tokens_and_labels(results):
    control = results.control
    assert list(control) == list(results)
    pd.testing.assert_frame_equal(control.tokens, results.tokens)
    assert "role" in control["rotation"].frame
    assert "random-init" in control.provenance["model"]["name"]
    assert results.provenance["control"] == "random-init"


def test_summary_puts_the_control_beside_the_mean(results):
    rotation = results["rotation"]
    table = rotation.summary("layer").query("value == 'angle'").set_index("layer")
    frame = rotation.control.frame
    wanted = frame[~frame["special"]].groupby("layer")["angle"].mean()
    np.testing.assert_allclose(table["control"], wanted)
    assert "control" not in rotation.control.summary("layer")


def test_control_is_saved_and_read(results, tmp_path):
    again = interp.load(results.save(tmp_path / "out"))
    for name in results:
        pd.testing.assert_frame_equal(again[name].control.frame, results[name].control.frame)
    assert again.control.control is None


@pytest.mark.parametrize("target", [".", "..", "../elsewhere"])
def test_a_control_that_leads_back_or_on_is_refused_by_name(results, tmp_path, target):
    """A control has no control: a link to its own folder is not followed, its files are others."""
    folder = results.save(tmp_path / "run")
    shutil.copytree(folder, tmp_path / "elsewhere")  # a run with a control
    shutil.rmtree(folder / "control")
    (folder / "control").symlink_to(target)
    for elsewhere in (tmp_path / "elsewhere", tmp_path / "elsewhere"):
        with counted() as usual:
            interp.load(elsewhere)
    with (
        counted() as made,
        pytest.raises(InterpError, match=r"/run/control/\w+\.\w+' is (damaged|missing)"),
    ):
        interp.load(folder)
    assert made.calls < 2 * usual.calls


def test_a_control_that_leads_nowhere_is_refused(results, tmp_path):
    folder = results.save(tmp_path / "run")
    shutil.rmtree(folder / "control")
    for target in ("nowhere", "control"):
        (folder / "control").symlink_to(target)
        with pytest.raises(
            InterpError, match=r"/run/control/\w+\.\w+' (is missing|cannot be read)"
        ):
            interp.load(folder)
        (folder / "control").unlink()
    with pytest.raises(InterpError, match=r"/run/control/\w+\.\w+' is missing"):
        interp.load(folder)  # the run had a control, which is lost


@pytest.mark.parametrize("paired", [False, True])
def test_comparison_has_the_control_beside(results, paired):
    asked = {"value": "angle", "between": "role", "a": "target", "b": "previous"}
    rotation = results["rotation"]
    found = interp.compare(rotation, **asked, paired=paired, resamples=50).frame
    alone = interp.compare(rotation.control, **asked, paired=paired, resamples=50).frame
    for name in ("mean_a", "mean_b", "difference", "difference_low", "difference_high"):
        np.testing.assert_allclose(found[f"control_{name}"], alone[name])
    assert not [c for c in alone if c.startswith("control_")]


def test_report_says_what_the_control_gave(results):
    from interp.runs.report.report import report_html

    text = report_html(results)
    assert "that of an untrained copy" in text
    assert "Untrained copy: " in text
    assert "freshly initialised, over the same prompts" in text
    assert ">untrained</th>" in text


# ---- summaries and corpora -------------------------------------------------------------------

BESIDE = ("mean_a", "mean_b", "difference", "difference_low", "difference_high")
KINDS = {"kind": ["x", "y", "x", "y", "x", "y"]}
ASKED = {"value": "angle", "between": "kind", "a": "x", "b": "y"}


def test_a_comparison_of_a_summary_has_the_control_beside(model, tmp_path):
    """As of rows: the same means, and the intervals that the copy has by itself."""
    run = partial(
        interp.run, model, 2 * PROMPTS, "rotation", labels=KINDS, control="random-init",
        progress=False,
    )  # fmt: skip
    kept = run(keep="summary", by=["kind"])
    found = interp.compare(kept["rotation"], **ASKED)
    rows = interp.compare(run()["rotation"], **ASKED, resamples=50, null="none").frame
    alone = interp.compare(kept.control["rotation"], **ASKED).frame
    for name in BESIDE:
        np.testing.assert_allclose(found.frame[f"control_{name}"], alone[name])
    for name in BESIDE[:3]:
        np.testing.assert_allclose(found.frame[f"control_{name}"], rows[f"control_{name}"], 1e-5)
    assert (found.frame["control_mean_a"] - found.frame["mean_a"]).abs().max() > 1
    assert any(t.line.dash == "dot" for t in found.plot().data)
    assert "control_difference" in repr(found)
    kept.save(tmp_path / "out")
    again = interp.compare(interp.load(tmp_path / "out")["rotation"], **ASKED).frame
    pd.testing.assert_frame_equal(again, found.frame)


def corpus(n: int = 24) -> list[dict]:
    return [{"text": PROMPTS[i % 3], "kind": "xy"[i % 2]} for i in range(n)]


def test_a_corpus_is_run_through_the_copy_too(model, tmp_path):
    run = partial(
        interp.run_corpus, analyses="rotation", by=["kind"], shard_documents=10, progress=False
    )
    both = run(model, corpus(), control="random-init", out=tmp_path / "both")
    alone = run(interp.random_copy(model), corpus(), out=tmp_path / "alone")
    found = both.open()
    assert found.provenance["control"] == "random-init"
    assert "random-init" in found.control.provenance["model"]["name"]
    pd.testing.assert_frame_equal(found.control["rotation"].frame, alone.open()["rotation"].frame)
    assert both.measured == 2 * both.tokens
    table = interp.compare(found["rotation"], **ASKED).frame
    beside = interp.compare(alone.open()["rotation"], **ASKED).frame
    for name in BESIDE:
        np.testing.assert_allclose(table[f"control_{name}"], beside[name])
    assert any(t.line.dash == "dot" for t in found["rotation"].plot("angle").data)


def test_a_corpus_with_a_control_is_resumed_and_replaced(model, tmp_path):
    out = tmp_path / "run"
    run = partial(
        interp.run_corpus, model, corpus(), "rotation", shard_documents=10, out=out, progress=False
    )
    run()
    done = run(control="random-init", resume=True)
    assert done.measured == done.tokens, "the model itself was done"
    assert done.open().control is not None
    (out / "control" / "finished.json").unlink()  # as after a stop on the way
    with pytest.raises(interp.BadInput, match="control' is not finished .* run it again with resu"):
        interp.load(out)
    assert run(control="random-init", resume=True).measured == 0
    assert interp.load(out).control is not None
    run(overwrite=True)
    assert interp.load(out).control is None


def test_what_a_corpus_has_no_control_for_is_refused_first(model, tmp_path):
    run = partial(interp.run_corpus, model, corpus(3), out=tmp_path / "out", progress=False)
    with pytest.raises(interp.errors.UnknownName, match="unknown control 'random'; did you mean"):
        run(control="random")
    with pytest.raises(interp.BadInput, match=r"needs keep=.summary.; for the rows .*random_co"):
        run(control="random-init", keep="tokens")
    folded = interp.load_model("demo-llama")
    folded.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(
        interp.errors.Unsupported, match="no untrained copy of .* weights were folded"
    ):
        interp.run_corpus(
            folded, corpus(3), out=tmp_path / "folded", control="random-init", progress=False
        )
    assert not (tmp_path / "folded" / "shards").exists()


def test_a_corpus_and_its_control_from_the_command_line(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in corpus(9)), encoding="utf-8")
    asked = ["run", "--corpus", path, "--model", "demo-llama", "-a", "rotation", "--by", "kind"]
    done = CliRunner().invoke(
        app, [*map(str, asked), "--control", "random-init", "-o", str(tmp_path / "out"), "--quiet"]
    )
    assert done.exit_code == 0, done.output
    compared = ["compare", str(tmp_path / "out"), "--by", "kind", "--a", "x", "--b", "y"]
    table = CliRunner().invoke(app, [*compared, "--json"], catch_exceptions=False)
    rows = json.loads(table.output)["tables"]["compare"]
    assert {"control_difference", "control_mean_a"} <= set(rows[0])
    assert "untrained copy" in (tmp_path / "out" / "report.html").read_text("utf-8")
