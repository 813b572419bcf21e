"""Answers, layers and positions of a corpus run, against `run` over the same texts."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from corpus_help import documents, same, write_jsonl
from typer.testing import CliRunner

import interp
from analyses.logit_difference import LogitDifference
from interp import BadInput
from interp.cli.app import app
from interp.errors import InterpError

ROWS = documents(9, 12)
TEXTS = [row["text"] for row in ROWS]
ON = ["prompt", "layer", "position"]


@pytest.fixture(scope="module")
def demo():
    return interp.load_model("demo-llama")


def corpus(model, out, analyses, **options):
    settings = {"shard_documents": 4, "max_tokens": 128, "progress": False} | options
    return interp.run_corpus(model, TEXTS, analyses, out=out, **settings).open()


def rows_of(table):
    return table.frame.sort_values(ON, ignore_index=True)


def test_one_answer_and_its_contrast_are_those_of_a_run(demo, tmp_path):
    asked = {"targets": " her", "against": " him"}
    analyses = ["logit_difference", "next_token"]
    plain = interp.run(demo, TEXTS, analyses, progress=False, **asked)
    found = corpus(demo, tmp_path / "out", analyses, keep="tokens", **asked)
    for name, column in (("logit_difference", "logit_diff"), ("next_token", "log_prob")):
        expected = plain[name].frame.sort_values([c for c in ON if c in plain[name].frame])
        seen = rows_of(found[name])[column]
        np.testing.assert_allclose(seen, expected[column], atol=1e-5)
    manifest = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert manifest["parameters"]["targets"] == " her"
    assert manifest["parameters"]["against"] == " him"


def test_a_summary_has_the_means_of_the_answer(demo, tmp_path):
    plain = interp.run(demo, TEXTS, "next_token", targets=" her", progress=False)["next_token"]
    frame = plain.frame[~plain.frame["special"]]
    found = corpus(demo, tmp_path / "out", "next_token", targets=" her")["next_token"].frame
    row = found[found["value"] == "log_prob"].iloc[0]
    assert row["n"] == len(frame)
    assert row["mean"] == pytest.approx(frame["log_prob"].mean(), rel=1e-5)
    results = interp.load(tmp_path / "out")
    assert results.provenance["answers"] == {"targets": " her"}


@pytest.mark.parametrize(
    "kept", [{"layers": [0, -1]}, {"positions": "last"}, {"layers": 2, "positions": [1, 2]}],
    ids=["layers", "last", "both"],
)  # fmt: skip
def test_layers_and_positions_keep_the_rows_that_a_run_keeps(demo, tmp_path, kept):
    plain = interp.run(demo, TEXTS, "rotation", progress=False, **kept)["rotation"].frame
    found = rows_of(corpus(demo, tmp_path / "out", "rotation", keep="tokens", **kept)["rotation"])
    plain = plain.sort_values(ON, ignore_index=True)
    assert len(found) == len(plain) > 0
    for column in (*ON, "token_id"):
        assert found[column].tolist() == plain[column].tolist()
    np.testing.assert_allclose(found["angle"], plain["angle"], atol=1e-4)


def test_a_summary_counts_the_kept_positions_and_sums_say_that_they_do_not_apply(demo, tmp_path):
    found = corpus(demo, tmp_path / "out", ["norm", "position_profile"], positions=[2, 3])
    norm = found["norm"].frame
    lengths = np.array([len(demo.to_tokens(text)[0]) for text in TEXTS])
    expected = sum(int((lengths > p).sum()) for p in (2, 3))
    assert (norm[norm["value"] == "norm"]["n"] == expected).all()
    assert any("positions= keeps rows of tokens" in n for n in found["position_profile"].notes)
    assert not any("positions=" in n for n in found["norm"].notes)
    assert found.provenance["kept"] == {"positions": [2, 3]}


def test_other_answers_and_rows_are_another_run(demo, tmp_path):
    corpus(demo, tmp_path / "out", "next_token", targets=" her")
    with pytest.raises(BadInput, match=r'parameters.targets was " her", now " him"'):
        corpus(demo, tmp_path / "out", "next_token", targets=" him", resume=True)
    with pytest.raises(BadInput, match=r"parameters.positions was null, now \[-1\]"):
        corpus(demo, tmp_path / "out", "next_token", targets=" her", positions=-1, resume=True)


def test_workers_give_the_same_rows(tmp_path):
    file = write_jsonl(tmp_path / "c.jsonl", ROWS)
    for workers in (1, 2):
        interp.run_corpus(
            "demo-llama", file, LogitDifference, out=tmp_path / str(workers), targets=" her",
            against=" him", layers=-1, workers=workers, shard_documents=4, progress=False,
        )  # fmt: skip
    same(tmp_path / "1", tmp_path / "2")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"targets": [" her", " him"]}, "targets= of a corpus is one token, .* not list: a corpus"),
        ({"against": pd.Series([1])}, "against= of a corpus is one token, .* not Series"),
        ({"layers": "first"}, "layers='first'; give a number, several, or 'last'"),
    ],
)
def test_what_a_corpus_cannot_have_is_refused_before_loading(tmp_path, options, text):
    with pytest.raises(BadInput, match=text):
        corpus("no such model", tmp_path / "out", "norm", **options)
    assert not (tmp_path / "out").exists()


def test_a_second_answer_that_is_missing_is_refused_before_loading(tmp_path):
    with pytest.raises(BadInput, match="'logit_difference' compares two answers: pass targets= "):
        corpus("no such model", tmp_path / "out", "logit_difference", targets=" her")


def test_a_text_of_several_tokens_is_no_answer(demo, tmp_path):
    with pytest.raises(InterpError, match="target"):
        corpus(demo, tmp_path / "out", "next_token", targets=" no such word")
    with pytest.raises(BadInput, match="layers= names 40"):
        corpus(demo, tmp_path / "out", "norm", layers=40)


# ---- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["--prompts", "--corpus"])
def test_the_command_takes_them_for_prompts_and_for_a_corpus(tmp_path, mode):
    file = write_jsonl(tmp_path / "c.jsonl", [{"text": text} for text in TEXTS])
    done = CliRunner().invoke(
        app,
        ["run", "--quiet", mode, str(file), "-m", "demo-llama", "-a", "logit_difference",
         "--token", " her", "--against", " him", "--layers", "0,-1", "--positions", "last",
         "--keep", "tokens", "--out", str(tmp_path / "out")],
        catch_exceptions=False,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    frame = interp.load(tmp_path / "out")["logit_difference"].frame
    assert len(frame) == 2 * len(TEXTS)
    assert set(frame["layer"]) == {0, 8}


def test_the_command_names_a_number_that_is_none(tmp_path):
    done = CliRunner().invoke(app, ["run", "--prompts", "her", "--layers", "first"])
    assert isinstance(done.exception, BadInput)
    assert "--layers 'first': expected whole numbers separated by commas" in str(done.exception)


@pytest.mark.parametrize("keep", ["tokens", "summary"])
def test_positions_beyond_every_chunk_are_refused_and_leave_nothing(demo, tmp_path, keep):
    longest = max(interp.run(demo, TEXTS, "norm", progress=False)["norm"].frame["position"]) + 1
    seen = (
        rf"positions= names 99, and no token stands there: the longest chunk of the corpus has "
        rf"{longest} tokens, which are 0 … {longest - 1} \(-1 is the last\)"
    )
    for _ in range(2):  # the folder is free for the next run
        with pytest.raises(BadInput, match=seen):
            corpus(demo, tmp_path / "out", "norm", keep=keep, positions=99)
        assert not list((tmp_path / "out").glob("[!.]*"))
    found = corpus(demo, tmp_path / "out", "norm", keep=keep, positions=[longest - 1, 99])
    assert len(found["norm"].frame)


def test_a_shard_whose_chunks_are_too_short_has_no_file(demo, tmp_path):
    frame = interp.run(demo, TEXTS, "norm", progress=False)["norm"].frame
    lengths = frame.groupby("prompt")["position"].max()
    most = int(lengths.max())
    shards = {int(prompt) // 4 for prompt in lengths.index[lengths == most]}
    assert len(shards) < 3, "every shard has a chunk of this length"
    found = corpus(demo, tmp_path / "out", "norm", keep="tokens", positions=most)
    assert {int(path.stem[-6:]) for path in found["norm"].paths} == shards
    expected = frame[frame["position"] == most].sort_values(ON, ignore_index=True)
    np.testing.assert_allclose(rows_of(found["norm"])["norm"], expected["norm"], rtol=1e-5)


def test_a_run_of_prompts_refuses_positions_that_none_has(demo):
    for position in (99, -99):
        with pytest.raises(BadInput, match=f"positions= names {position}, and no token stands"):
            interp.run(demo, TEXTS[:2], "norm", positions=position, progress=False)
