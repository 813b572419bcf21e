"""A series over a corpus: each member a corpus run, resumable at its shards; bands and refusals."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pandas as pd
import pytest
from corpus_help import same, write_jsonl
from scipy import stats
from scipy.special import expit, logit
from series_help import TEXTS, checkpoint, run_of
from typer.testing import CliRunner

import interp
from interp import BadInput, InterpError
from interp.cli.app import app
from interp.errors import UnknownName
from interp.runs.corpus import shard as shards
from interp.runs.corpus.shard import Worker
from interp.runs.series.records import folder_of

ROWS = [{"text": text, "kind": "ab"[i % 3 == 0]} for i, text in enumerate([*TEXTS, *TEXTS[::-1]])]
ANALYSES = ["rotation", "path_length"]
BY = ["kind"]
STEPS = (1, 10, 100, 1000)


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    """A run of four checkpoints, whose last block turns up at step 100."""
    return run_of(tmp_path_factory.mktemp("runs") / "pilot", STEPS)


def series(models, out, corpus=ROWS, analyses=tuple(ANALYSES), **options):
    settings = {"by": BY, "shard_documents": 4, "max_tokens": 128, "progress": False}
    if options.get("keep") == "tokens":
        settings |= {"by": (), "labels": BY}
    settings |= options
    return interp.series(models, None, list(analyses), corpus=corpus, out=out, **settings)


@pytest.fixture(scope="module")
def found(pilot, tmp_path_factory):
    return series(pilot, tmp_path_factory.mktemp("found") / "out")


@pytest.fixture(scope="module")
def rows(pilot, tmp_path_factory):
    """The same series with a row per token."""
    return series(pilot, tmp_path_factory.mktemp("rows") / "out", keep="tokens")


def out_of(found):
    return found.results._out


# ---- tables ----------------------------------------------------------------------------------


def test_the_tables_of_a_member_are_those_of_a_corpus_run(found, pilot, tmp_path):
    assert found.members["at"].tolist() == list(STEPS)
    assert list(found) == ANALYSES
    name = "checkpoint-100"
    interp.run_corpus(pilot / name, ROWS, ANALYSES, by=BY, shard_documents=4, max_tokens=128,
                      out=tmp_path / "alone", progress=False)  # fmt: skip
    same(folder_of(out_of(found), name), tmp_path / "alone")
    alone = interp.load(tmp_path / "alone")
    for analysis in ANALYSES:
        frame = found[analysis].frame
        mine = frame[frame["member"] == name].reset_index(drop=True)
        assert (mine.pop("at") == 100).all()
        pd.testing.assert_frame_equal(mine.drop(columns="member"), alone[analysis].frame)
    facts = found.members.set_index("member").loc[name]
    assert (facts["n_layers"], facts["d_vocab"], facts["d_model"]) == ([3], 113, 24)
    assert found[analysis].labels == BY


def test_curves_have_the_cluster_robust_bands_of_the_summary(found):
    curves = found["rotation"].curves("angle", by="kind").set_index(["member", "layer", "kind"])
    frame = found["rotation"].frame.query("value == 'angle'").set_index(["member", "layer", "kind"])
    assert len(curves) == 4 * 3 * 2
    frame = frame.loc[curves.index]
    half = stats.t.ppf(0.975, frame["df"]) * frame["se"]
    np.testing.assert_allclose(curves["mean"], frame["mean"])
    # Angles are from 0 to 180°, and the band is symmetric on the logit of their share of it.
    share, slope = frame["mean"] / 180, 180 / (frame["mean"] * (180 - frame["mean"]))
    for name, sign in (("low", -1), ("high", 1)):
        end = 180 * expit(logit(share) + sign * half * slope)
        np.testing.assert_allclose(curves[name], end, rtol=1e-9)
    assert (half > 0).all()
    assert curves["prompts"].tolist() == frame["documents"].tolist()
    # Two groups as one have a mean and no band: their covariance is not in the summary.
    whole = found["rotation"].curves("angle")
    assert whole["low"].isna().all()
    late = curves.xs("a", level="kind").xs(2, level="layer")["mean"]
    assert late["checkpoint-100"] > late["checkpoint-10"] + 5


def test_bands_of_sums_are_those_of_the_rows(found, rows):
    """The independent way: residuals summed per document, from a row per token."""
    columns = ["mean", "low", "high", "n", "prompts"]
    keys = ["member", "layer", "kind"]
    one, other = (s["path_length"].curves("path", by="kind").set_index(keys) for s in (found, rows))
    for name in columns:
        np.testing.assert_allclose(one[name], other.loc[one.index, name], rtol=1e-5, err_msg=name)


def test_a_model_against_itself_has_the_same_tables(pilot, tmp_path):
    model = pilot / "checkpoint-10"
    twins = series({"a": model, "b": model}, tmp_path / "out", at=[1, 2])
    frame = twins["rotation"].frame
    a, b = (
        frame[frame["member"] == name].drop(columns=["member", "at"]).reset_index(drop=True)
        for name in "ab"
    )
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_it_is_opened_reported_and_saved_again(found, tmp_path):
    again = interp.load(out_of(found))
    assert repr(again) == repr(found)
    pd.testing.assert_frame_equal(again["rotation"].frame, found["rotation"].frame)
    page = again.report(tmp_path / "r.html").read_text(encoding="utf-8")
    for text in ("of the same documents in every member", "by kind", "checkpoint-1000",
                 "Means over the tokens of 6 documents"):  # fmt: skip
        assert text in page
    saved = interp.load(again.save(tmp_path / "saved"))
    pd.testing.assert_frame_equal(saved["rotation"].frame, found["rotation"].frame)


def test_every_member_writes_texts_of_its_own(pilot, tmp_path):
    written = series(pilot, tmp_path / "out", analyses=["rotation"], by=["generated"], generate=4)
    assert {"True", "False"} == set(written["rotation"].frame["generated"])
    alone = interp.run_corpus(
        pilot / "checkpoint-1000", ROWS, ["rotation"], by=["generated"], generate=4,
        shard_documents=4, max_tokens=128, out=tmp_path / "alone", progress=False,
    )  # fmt: skip
    member = written.member("checkpoint-1000")
    assert member.texts.equals(alone.open().texts)
    pd.testing.assert_frame_equal(member["rotation"].frame, alone.open()["rotation"].frame)


# ---- rows and questions ----------------------------------------------------------------------


def test_questions_on_matched_tokens_are_refused_of_sums(found):
    said = "keeps moments, not a row per token, so that members cannot be matched prompt by prompt"
    for question in (interp.experiments.compare_members, interp.experiments.change_points):
        with pytest.raises(BadInput, match=rf"{said}; run the series again with keep='tokens'"):
            question(found, value="angle")


def test_rows_answer_them_as_a_series_over_prompts_does(rows, pilot):
    kinds = {"kind": [row["kind"] for row in ROWS]}
    prompts = interp.series(
        pilot, [r["text"] for r in ROWS], ANALYSES, labels=kinds, progress=False
    )
    ask = interp.experiments.compare_members
    mine, right = (ask(s, value="angle", by="kind").frame for s in (rows, prompts))
    assert mine[["group", "layer", "n", "prompts"]].equals(
        right[["group", "layer", "n", "prompts"]]
    )
    for name in ("mean_a", "difference", "low", "high"):
        np.testing.assert_allclose(mine[name], right[name], rtol=1e-3, atol=1e-4, err_msg=name)
    ask = interp.experiments.change_points
    mine, right = (ask(s, value="angle", resamples=99).frame for s in (rows, prompts))
    np.testing.assert_allclose(mine["at"], right["at"])
    assert mine["at"].notna().any()
    curves = rows["rotation"].curves("angle", depth="relative")
    assert len(curves) == 4 * 3


def test_a_document_that_one_member_lacks_is_left_out_of_the_pairs(tmp_path):
    """A member with a shorter context measures fewer documents; the others are still matched."""
    long = checkpoint(tmp_path / "long")
    short = checkpoint(tmp_path / "short", max_position_embeddings=16)
    texts = [*TEXTS, " ".join(TEXTS)]
    both = series([long, short], tmp_path / "out", texts, keep="tokens", labels=(), long="refuse",
                  analyses=["norm"])  # fmt: skip
    assert both.lost > 0
    assert "'short': " in both.notes[-1]
    assert "documents, listed in failures.parquet of its folder" in both.notes[-1]
    pairs = interp.experiments.compare_members(both, value="norm")
    assert pairs.unit == "tokens"
    assert any("have no partner in the other member" in note for note in pairs.notes)


# ---- one model in memory, failures, resumption -----------------------------------------------


def loads(monkeypatch) -> list[str]:
    """The models that are loaded from now on, by path; at most one is alive at a time."""
    seen: list[str] = []
    alive: list[weakref.ref] = []
    load = shards.load_model

    def watched(model, **options):
        gc.collect()
        assert [ref for ref in alive if ref() is not None] == []
        seen.append(str(model))
        bridge = load(model, **options)
        alive.append(weakref.ref(bridge))
        return bridge

    monkeypatch.setattr(shards, "load_model", watched)
    return seen


def test_one_model_is_in_memory_at_a_time(pilot, tmp_path, monkeypatch):
    seen = loads(monkeypatch)
    series(pilot, tmp_path / "out", analyses=["logit_lens", "attention"], control="random-init")
    assert len(seen) == 2 * len(STEPS)  # the model, and once more for its untrained copy


def test_an_interrupted_member_goes_on_at_its_shards(found, pilot, tmp_path, monkeypatch):
    out = tmp_path / "out"
    measure, done = Worker.measure, []

    def counted(self, shard):
        done.append(shard.index)
        if len(done) == 5:  # the second shard of the second member
            raise KeyboardInterrupt
        return measure(self, shard)

    monkeypatch.setattr(Worker, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        series(pilot, out)
    half = interp.load(out)
    assert half.members["status"].tolist() == ["measured", "waiting", "waiting", "waiting"]
    assert done == [0, 1, 2, 0, 1]
    done.clear()
    done += [-1] * 5
    again = series(pilot, out, resume=True, workers=1)
    assert done[5:] == [1, 2, 0, 1, 2, 0, 1, 2]
    same(out / "members", out_of(found) / "members")
    pd.testing.assert_frame_equal(again["rotation"].frame, found["rotation"].frame)
    with pytest.raises(
        BadInput, match=r"parameters.options.by was .*Use another folder, or repeat"
    ):
        series(pilot, out, resume=True, by=())
    with pytest.raises(BadInput, match=r"prompts.documents was 10, now 9"):
        series(pilot, out, ROWS[:-1], resume=True)


def test_a_member_that_changed_or_failed_is_measured_again(tmp_path, monkeypatch):
    run, out = run_of(tmp_path / "run", (1, 10, 100)), tmp_path / "out"
    file = run / "checkpoint-10" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000])
    first = series(run, out, analyses=["rotation"])
    assert first.members["status"].tolist() == ["measured", "failed", "measured"]
    assert "model.safetensors' is no safetensors file or is damaged" in first.failures["error"][0]
    file.write_bytes(whole)
    checkpoint(run / "checkpoint-100", seed=5)
    seen = loads(monkeypatch)
    again = series(run, out, analyses=["rotation"], resume=True)
    assert set(seen) == {str(run / "checkpoint-10"), str(run / "checkpoint-100")}
    assert again.failures.empty
    monkeypatch.undo()
    fresh = series(run, tmp_path / "fresh", analyses=["rotation"])
    pd.testing.assert_frame_equal(again["rotation"].frame, fresh["rotation"].frame)
    (folder_of(out, "checkpoint-1") / "summary" / "rotation.parquet").write_bytes(b"no table")
    seen = loads(monkeypatch)
    mended = series(run, out, analyses=["rotation"], resume=True)
    pd.testing.assert_frame_equal(mended["rotation"].frame, fresh["rotation"].frame)


def test_the_folder_may_lie_in_that_of_the_corpus(pilot, tmp_path):
    for name in "ab":
        write_jsonl(tmp_path / f"{name}.jsonl", ROWS[:4])
    models = [pilot / "checkpoint-1", pilot / "checkpoint-10"]
    first = series(models, tmp_path / "out", tmp_path, analyses=["norm"], keep="tokens")
    again = series(models, tmp_path / "out", tmp_path, analyses=["norm"], keep="tokens",
                   resume=True)  # fmt: skip
    assert again.provenance["prompts"]["documents"] == 8
    pd.testing.assert_frame_equal(again["norm"].frame, first["norm"].frame)
    # A second series over the same folder does not take the tables of the first for documents.
    other = series(models, tmp_path / "other", tmp_path, analyses=["norm"])
    assert other.provenance["prompts"]["documents"] == 8


# ---- refusals --------------------------------------------------------------------------------


def test_what_can_be_refused_is_refused_before_anything_is_loaded(pilot, tmp_path, monkeypatch):
    seen = loads(monkeypatch)
    out = tmp_path / "out"
    with pytest.raises(
        BadInput, match=r"pass prompts \(a few texts\) or corpus= \(any size\), not"
    ):
        interp.series(pilot, TEXTS, "rotation", corpus=ROWS, out=out)
    with pytest.raises(BadInput, match=r"corpus= needs a folder, out= \(--out\)"):
        interp.series(pilot, None, "rotation", corpus=ROWS)
    with pytest.raises(UnknownName, match="unknown option of a series over a corpus 'mask'"):
        series(pilot, out, mask=[[1]])
    with pytest.raises(BadInput, match="overlap= is an option of a corpus: only with corpus="):
        interp.series(pilot, TEXTS, "rotation", overlap=3)
    with pytest.raises(UnknownName, match="unknown label 'knd'; did you mean 'kind'"):
        series(pilot, out, by=["knd"])
    with pytest.raises(BadInput, match="overlap=2 with generate=3: the model continues whole"):
        series(pilot, out, generate=3, overlap=2)
    with pytest.raises(BadInput, match="no file matches"):
        series(pilot, out, tmp_path / "missing.jsonl")
    with pytest.raises(BadInput, match="workers=0; at least 1"):
        series(pilot, out, workers=0)
    assert seen == []
    assert not out.exists()


def test_where_no_member_can_be_measured_the_first_error_is_raised(pilot, tmp_path):
    rows = [{"text": ["no text"], "kind": "a"}]
    with pytest.raises(
        InterpError, match="none of the 4 members could be measured; the first, 'ch"
    ):
        series(pilot, tmp_path / "out", rows)


# ---- the command -----------------------------------------------------------------------------


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_measures_reports_and_resumes(pilot, tmp_path):
    corpus, out = write_jsonl(tmp_path / "c.jsonl", [*ROWS, "{broken"]), tmp_path / "out"
    models = [pilot / "checkpoint-1", pilot / "checkpoint-10"]
    asked = [
        "series",
        *models,
        "--corpus",
        corpus,
        "--by",
        "kind",
        "-a",
        "rotation",
        "-o",
        out,
        "-q",
    ]
    done = invoke(*asked)
    assert done.exit_code == 4, done.output
    assert "1 failure in 11 documents" in " ".join(done.output.split())
    assert "same documents in every member" in (out / "report.html").read_text(encoding="utf-8")
    again = invoke(*asked, "--resume", "--json")
    assert [row["status"] for row in json.loads(again.stdout)["members"]] == ["measured"] * 2
    refused = invoke("changes", out, "--value", "angle")
    assert "keeps moments" in str(refused.exception)
    refused = invoke("series", *models, "-p", "her", "--corpus", corpus, "-o", out)
    assert "--corpus (any size), not both" in str(refused.exception)
    refused = invoke("series", *models, "-p", "her", "--overlap", 2, "--generate", 3, "-o", out)
    assert "--overlap, --generate: only with --corpus" in str(refused.exception)
