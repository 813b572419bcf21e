"""A massive first token without BOS is measured, marked and left out of every summary."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import interp
from interp.cli.app import app
from interp.models.anatomy import MASSIVE
from interp.models.for_model import prompts_of, special_ids_of
from interp.runs.report.report import report_html
from interp.runs.report.views import View

PROMPTS = [
    "the man saw her in a red house",
    "she told him what he took by the river",
    "an old king met the young queen in that city",
    "who gave her the small red bird after that",
]
NO_BOS = {"prepend_bos": False, "progress": False}


def _bridge(tokenizer, *, planted: bool, bos=1, eos=2):
    """A small GPT-2; planted, its first position has 30 times the norm of the others."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(4)
    size = {"n_embd": 24, "n_layer": 3, "n_head": 3, "n_positions": 64}
    config = GPT2Config(vocab_size=113, **size, bos_token_id=bos, eos_token_id=eos)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        if planted:
            typical = (model.transformer.wte.weight + model.transformer.wpe.weight[1]).norm(dim=-1)
            first = model.transformer.wpe.weight[0]
            first *= 30 * typical.median() / first.norm()
    return interp.load_model(model.eval(), tokenizer)


@pytest.fixture(scope="module")
def planted(gpt2):
    return _bridge(gpt2.tokenizer, planted=True)


@pytest.fixture(scope="module")
def ordinary(gpt2):
    return _bridge(gpt2.tokenizer, planted=False)


def _norms(results, **options) -> pd.Series:
    table = results["path_length"].summary(**options)
    return table[table["value"] == "norm"].set_index("layer")["mean"]


def test_inspect_measures_the_first_position(planted, ordinary):
    stack = interp.inspect(planted).stacks[0]
    assert stack.massive_first
    assert stack.first_token == pytest.approx(30, rel=0.2)
    assert stack.bos_token == pytest.approx(30, rel=0.2)
    fact = dict(interp.inspect(planted).facts())["first token"]
    assert fact.startswith("massive without BOS: norm up to ")
    assert fact.endswith("; summaries leave it out as they do BOS")
    other = interp.inspect(ordinary).stacks[0]
    assert not other.massive_first
    assert 0.5 < other.first_token < 2
    assert dict(interp.inspect(ordinary).facts())["first token"].startswith("ordinary without BOS")


def test_the_ratio_is_that_of_an_independent_computation(planted):
    """Norm of the first over the median of the others, from the plain Hugging Face states."""
    from interp.models.forward import wrapped_model
    from interp.models.probe import FIRST_LENGTH, FIRST_PROMPTS, ordinary_tokens

    ids = ordinary_tokens(planted, FIRST_PROMPTS * FIRST_LENGTH).reshape(FIRST_PROMPTS, -1)
    with torch.no_grad():
        out = wrapped_model(planted)(ids, output_hidden_states=True)
    ratios = []
    for state in out.hidden_states[:-1]:  # the last one is behind the final norm there
        size = np.linalg.norm(state.double().numpy(), axis=-1)
        rest = np.sort(size[:, 1:], axis=1)[:, (FIRST_LENGTH - 2) // 2]
        per_prompt = np.sort(size[:, 0] / rest)
        ratios.append(per_prompt[(FIRST_PROMPTS - 1) // 2])
    assert interp.inspect(planted).stacks[0].first_token >= max(ratios) * (1 - 1e-5)
    assert interp.inspect(planted).stacks[0].first_token == pytest.approx(max(ratios), rel=0.05)


def test_summaries_leave_a_massive_first_token_out_and_one_switch_brings_it_back(planted, ordinary):
    found = interp.run(planted, PROMPTS, ["path_length"], **NO_BOS)
    plain = interp.run(ordinary, PROMPTS, ["path_length"], **NO_BOS)
    frame = found["path_length"].frame
    assert len(frame) == len(plain["path_length"].frame)  # the rows stay
    first = frame["position"] == 0
    assert frame["special"].equals(first)
    assert frame["massive"].equals(first)
    means = frame[~first].groupby("layer")["norm"].mean()
    np.testing.assert_allclose(_norms(found), means, rtol=1e-12)
    np.testing.assert_allclose(_norms(found), _norms(plain), rtol=0.2)  # no longer moved
    whole = frame.groupby("layer")["norm"].mean()
    np.testing.assert_allclose(_norms(found, special=True), whole, rtol=1e-12)
    assert (_norms(found, special=True) > 2 * _norms(found)).all()


def test_an_ordinary_first_token_stays(ordinary):
    found = interp.run(ordinary, PROMPTS, ["path_length"], **NO_BOS)
    frame = found["path_length"].frame
    assert not frame["special"].any()
    assert "massive" not in frame
    whole = frame.groupby("layer")["norm"].mean()
    np.testing.assert_allclose(_norms(found), whole, rtol=1e-12)
    assert (
        found["path_length"].notes
        == interp.run(ordinary, PROMPTS, ["rotation"], **NO_BOS)["rotation"].notes
    )
    assert not any("massive" in note for note in found["path_length"].notes)


def test_bos_before_it_makes_the_first_token_special_and_nothing_else(planted):
    found = interp.run(planted, PROMPTS, ["path_length"], prepend_bos=True, progress=False)
    frame = found["path_length"].frame
    assert frame["special"].equals(frame["position"] == 0)
    assert "massive" not in frame
    assert not any("massive" in note for note in found["path_length"].notes)


def test_tables_figures_and_reports_say_what_was_left_out(planted, tmp_path):
    found = interp.run(planted, PROMPTS, ["path_length"], target="her", **NO_BOS)
    result = found["path_length"]
    (note,) = [n for n in result.notes if "massive" in n]
    assert note.startswith("The first token of a prompt without BOS is massive in this model (on a")
    assert note.endswith("special=True (--special) brings both back.")
    view = View(result, result.analysis.plots[0])
    assert view.left_out() == "4 first tokens with a massive norm are left out."
    assert "and 4 first ones with a massive norm, left out as BOS is" in report_html(found)
    about = found.provenance["first_token"]["blocks"]
    assert about["massive"]
    assert about["without_bos"] > MASSIVE
    again = interp.load(found.save(tmp_path / "run"))
    assert again["path_length"].labels == result.labels == ["role"]
    pd.testing.assert_frame_equal(again["path_length"].summary(), result.summary())


def test_special_tokens_and_massive_ones_are_counted_apart(planted):
    ids = torch.tensor([[5, 9, 2, 30, 31], [6, 2, 7, 40, 41]])  # 2 is the tokenizer's EOS
    result = interp.run(planted, ids, ["path_length"], progress=False)["path_length"]
    frame = result.frame[result.frame["layer"] == 0]
    assert frame["special"].sum() == 4
    assert frame["massive"].sum() == 2
    view = View(result, result.analysis.plots[0])
    assert view.left_out() == (
        "2 special tokens (BOS and the like) and 2 first tokens with a massive norm are left out."
    )


def test_comparisons_count_the_massive_rows_that_they_leave_out(planted):
    labels = {"kind": ["a", "b", "a", "b"]}
    result = interp.run(planted, PROMPTS, ["path_length"], labels=labels, **NO_BOS)["path_length"]
    found = interp.compare(result, value="norm", between="kind", a="a", b="b")
    rows = 4 * 3
    assert (
        f"{rows} rows of special tokens were left out, {rows} of them first tokens with a massive "
        "norm (--special, or special=True, keeps them)"
    ) in found.notes
    kept = interp.compare(result, value="norm", between="kind", a="a", b="b", special=True)
    assert not any("left out" in note for note in kept.notes)


def test_similarity_of_layers_is_not_that_of_the_first_token(planted, ordinary):
    """Debiased CKA is about one token where it has all of the norm, and about words without it."""
    from analyses.layer_similarity import LayerSimilarity

    def of(model, **parameters):
        found = interp.run(model, PROMPTS, [LayerSimilarity(**parameters)], **NO_BOS)
        return next(iter(found.values())).frame

    apart, with_it, plain = of(planted), of(planted, special=True), of(ordinary)
    gap = (apart["cka"] - plain["cka"]).abs().mean()
    assert gap < 0.5 * (with_it["cka"] - plain["cka"]).abs().mean()
    assert with_it["cka"].min() > 0.99


def test_streamed_summaries_leave_it_out(planted):
    rows = interp.run(planted, PROMPTS, ["path_length"], **NO_BOS)
    streamed = interp.run(planted, PROMPTS, ["path_length"], keep="summary", **NO_BOS)
    table = streamed["path_length"].frame
    table = table[table["value"] == "norm"].set_index("layer")
    np.testing.assert_allclose(table["mean"], _norms(rows), rtol=1e-6)
    assert (table["n"] == sum(len(t.split()) - 1 for t in PROMPTS)).all()
    assert any("massive" in note for note in streamed["path_length"].notes)


@pytest.mark.parametrize("keep", ["tokens", "summary"])
def test_corpus_runs_leave_it_out_in_every_chunk(planted, tmp_path, keep):
    long = " ".join(PROMPTS * 3)
    n = len(long.split())
    options = {"keep": keep, "prepend_bos": False, "progress": False}
    if keep == "summary":
        options["control"] = "random-init"
    found = interp.run_corpus(
        planted,
        [{"text": long}, {"text": PROMPTS[0]}],
        ["path_length"],
        out=tmp_path / "run",
        **options,
    )
    opened = found.open()
    firsts = math.ceil(n / 64) + 1
    if keep == "tokens":
        frame = opened["path_length"].frame
        first = opened["path_length"].read()["position"] == 0
        assert first.sum() == 3 * firsts
        assert frame["special"].equals(first)
        assert frame["massive"].equals(first)
        return
    table = opened["path_length"].frame
    counted = table.loc[table["value"] == "norm", "n"]
    assert (counted == n + len(PROMPTS[0].split()) - firsts).all()
    assert any("massive" in note for note in opened["path_length"].notes)
    beside = opened["path_length"].control.frame  # of the same tokens, massive or not
    assert (beside.loc[beside["value"] == "norm", "n"].to_numpy() == counted.to_numpy()).all()


def test_the_frame_of_a_corpus_keeps_the_position_in_the_document(ordinary, tmp_path):
    long = " ".join(PROMPTS * 3)
    found = interp.run_corpus(
        ordinary,
        [{"text": long}, {"text": PROMPTS[0]}],
        ["rotation"],
        out=tmp_path / "run",
        keep="tokens",
        progress=False,
    )
    frame = found.open()["rotation"].frame
    raw = found.open()["rotation"].read()
    assert frame["document_position"].equals(raw["document_position"])
    assert frame["position"].equals(raw["document_position"])
    assert not frame["position"].equals(raw["position"])  # more than one chunk


def test_attached_and_cached_passes_mark_it_too(planted):
    ids = torch.tensor([[5, 9, 30, 31, 32], [6, 8, 7, 40, 41]])
    with interp.attach(planted, "path_length") as probes:
        planted(ids)
    seen = probes["path_length"].frame
    assert seen["special"].equals(seen["position"] == 0)
    assert seen["massive"].equals(seen["position"] == 0)
    assert any("massive" in note for note in probes["path_length"].notes)
    _, cache = planted.run_with_cache(ids)
    for model in (planted, None):
        values = cache if model is not None else dict(cache.items())
        read = interp.from_cache(values, ["path_length"], tokens=ids, model=model)["path_length"]
        if model is None:  # five tokens alone are too few to judge by
            assert not read.frame["special"].any()
            continue
        assert read.frame["massive"].equals(read.frame["position"] == 0)


def test_a_cache_without_its_model_is_judged_by_itself(planted):
    ids = torch.arange(5, 25)[None]
    _, cache = planted.run_with_cache(ids)
    values = dict(cache.items())
    frame = interp.from_cache(values, ["path_length"], tokens=ids)["path_length"].frame
    assert frame["special"].equals(frame["position"] == 0)


def test_a_control_is_of_the_same_tokens(planted):
    found = interp.run(planted, PROMPTS, ["path_length"], control="random-init", **NO_BOS)
    own, copy = found["path_length"].frame, found.control["path_length"].frame
    assert own["special"].equals(copy["special"])
    n = found["path_length"].summary()["n"]
    assert (found.control["path_length"].summary()["n"] == n).all()


def test_words_at_the_first_position_are_left_out_of_comparisons_of_layers(planted, ordinary):
    texts = [f"{w} {p}" for p in PROMPTS for w in ("bird", "tree")]
    same = interp.experiments.compare_layers(
        planted, planted, texts, prepend_bos=False, resamples=20
    )
    assert "8 first tokens with a massive norm are left out, as BOS is" in same.notes
    assert (same.words["word"] > 0).all()
    plain = interp.experiments.compare_layers(
        ordinary, ordinary, texts, prepend_bos=False, resamples=20
    )
    assert not any("massive" in note for note in plain.notes)


# ---- ids without a tokenizer -----------------------------------------------------------------


def test_ids_without_a_tokenizer_take_special_ones_from_the_configuration():
    model = _bridge(None, planted=False, bos=7, eos=[3, 4])
    assert special_ids_of(model) == [3, 4, 7]
    ids = torch.tensor([[7, 9, 30, 3], [7, 8, 31, 4]])
    frame = interp.run(model, ids, ["rotation"], progress=False)["rotation"].frame
    assert frame["special"].equals(frame["token_id"].isin([3, 4, 7]))
    with interp.attach(model, "rotation") as probes:
        model(ids)
    seen = probes["rotation"].frame
    assert seen["special"].equals(seen["token_id"].isin([3, 4, 7]))
    _, cache = model.run_with_cache(ids)
    read = interp.from_cache(cache, ["rotation"], tokens=ids, model=model)["rotation"].frame
    assert read["special"].equals(read["token_id"].isin([3, 4, 7]))


def test_a_tokenizer_knows_better_than_the_configuration(gpt2):
    model = _bridge(gpt2.tokenizer, planted=False, bos=7, eos=8)
    ready = prompts_of(model, interp.inspect(model), torch.tensor([[7, 8, 1, 9]]))
    assert ready.special[0].tolist() == [False, False, True, False]


# ---- the command line ------------------------------------------------------------------------


@pytest.mark.parametrize(("flag", "first"), [("--bos", True), ("--no-bos", False)])
def test_run_takes_prompts_with_and_without_bos(tmp_path, flag, first):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("She saw him.\nHe saw her.\n")
    folder = tmp_path / "out"
    asked = ["run", "-p", str(prompts), "-a", "rotation", "-o", str(folder), flag, "-q"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    frame = interp.load(folder)["rotation"].frame
    assert frame.loc[frame["position"] == 0, "special"].eq(first).all()
