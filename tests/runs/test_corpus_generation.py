"""Generation over a corpus: the rows of `generate`, the same bits however it runs, and refusals."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from corpus_help import same, write_jsonl
from typer.testing import CliRunner

import interp
from interp import BadInput, InterpError
from interp.cli.app import app
from interp.errors import UnknownName, Unsupported
from interp.runs.corpus import continuations
from interp.runs.corpus.shard import Worker

BEGUN = ["Mary was tired, so John", "The river", "Leo met", "She said that", "A dog and the", "The"]
ROWS = [{"text": text, "kind": "ab"[i % 3 == 0]} for i, text in enumerate([*BEGUN, *BEGUN[::-1]])]
TEXTS = [row["text"] for row in ROWS]
NEW = 5
DRAWN = {"do_sample": True, "samples": 3, "seed": 4, "temperature": 1.2}
KEYS = ["layer", "prompt", "position"]
OWN = ["given", "sample", "generated", "generation_step"]


@pytest.fixture(scope="module")
def demo():
    return interp.load_model("demo-llama")


def run(model, out, source=ROWS, analyses=("rotation",), **options):
    settings = {"shard_documents": 5, "max_tokens": 256, "generate": NEW, "progress": False}
    return interp.run_corpus(model, source, analyses, out=out, **settings | options)


@pytest.fixture(scope="module")
def drawn(demo, tmp_path_factory):
    """Rows of sampled texts, three after each of twelve documents, in three shards."""
    out = tmp_path_factory.mktemp("drawn") / "out"
    return run(demo, out, analyses=["rotation", "next_token"], keep="tokens", **DRAWN)


# ---- tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, DRAWN], ids=["greedy", "drawn"])
def test_rows_are_those_of_a_generation_from_the_same_prompts(demo, tmp_path, options):
    """The draws too: both take them from the seed, the number of the prompt and of the text."""
    done = run(demo, tmp_path / "out", keep="tokens", labels=["kind"], **options)
    kinds = {"kind": [row["kind"] for row in ROWS]}
    alone = interp.generate(
        demo, TEXTS, "rotation", max_new_tokens=NEW, labels=kinds, progress=False, **options
    )
    tables = done.open()
    found = tables["rotation"].frame.sort_values(KEYS, ignore_index=True)
    right = alone["rotation"].frame.sort_values(KEYS, ignore_index=True)
    for column in [*KEYS, *OWN, "token_id", "special"]:
        assert found[column].tolist() == right[column].tolist(), column
    assert found["token"].astype(str).tolist() == right["token"].tolist()
    assert found["kind"].astype(str).tolist() == right["kind"].tolist()
    np.testing.assert_allclose(found["angle"], right["angle"], rtol=1e-4, atol=1e-3)
    texts = tables.texts.rename(columns={"document": "given"})
    pd.testing.assert_frame_equal(texts, alone.texts, check_dtype=False)
    assert done.documents == len(ROWS)
    assert done.chunks == len(alone.texts)


def test_rows_are_those_of_one_pass_over_the_finished_text(demo, drawn):
    """An independent run of the pass: the ids that were written, read as any prompt is."""
    frame = drawn.open()["rotation"].frame
    ids = [rows["token_id"].tolist() for _, rows in frame[frame["layer"] == 0].groupby("prompt")]
    again = interp.run(demo, ids, "rotation", progress=False)["rotation"].frame
    order = frame.sort_values(KEYS)
    np.testing.assert_allclose(
        order["angle"], again.sort_values(KEYS)["angle"], rtol=1e-4, atol=1e-3
    )


def test_labels_of_a_generation_have_their_types_in_parquet(drawn):
    part = next((drawn.folder / "rotation").glob("part-*.parquet"))
    schema = pq.read_schema(part)
    assert {n: str(schema.field(n).type) for n in continuations.TYPES} == {
        "sample": "int32", "generated": "bool", "generation_step": "int32",
    }  # fmt: skip


def test_groups_of_a_summary(demo, tmp_path):
    by = ["generated", "kind"]
    found = run(demo, tmp_path / "out", by=by).open()
    kinds = {"kind": [row["kind"] for row in ROWS]}
    rows = interp.generate(
        demo, TEXTS, "rotation", max_new_tokens=NEW, labels=kinds, progress=False
    )["rotation"].frame
    rows = rows[~rows["special"]].assign(generated=rows["generated"].astype(str))
    means = rows.groupby(["layer", *by])["angle"].agg(["mean", "count"])
    table = found["rotation"].frame.query("value == 'angle'").set_index(["layer", *by])
    np.testing.assert_allclose(table["mean"].loc[means.index], means["mean"], rtol=1e-5)
    assert table["n"].loc[means.index].tolist() == means["count"].tolist()
    assert table["documents"].groupby("kind").unique().map(list).to_dict() == {"a": [8], "b": [4]}
    assert found.texts["given"].tolist() == list(range(len(ROWS)))
    told = found.provenance["generation"]
    assert told["counts"]["texts"] == len(ROWS)
    assert told["counts"]["new_tokens"] == found.texts["new_tokens"].sum()


def test_a_summary_keeps_the_texts_of_the_first_documents(demo, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.runs.corpus.shard.SHOWN", 3)
    monkeypatch.setattr("interp.runs.corpus.output.SHOWN", 3)
    found = run(demo, tmp_path / "out", by=["generated"], analyses=["rotation", "attention"])
    results = found.open()
    assert results.texts["given"].tolist() == [0, 1, 2]
    assert len(list((tmp_path / "out" / "texts").iterdir())) == 1
    page = results.report(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "12 texts after 12 documents" in page
    assert "3 of them are kept here" in page
    # The tokens of kept examples tell what was written.
    tokens = results.tokens
    assert tokens.loc[tokens["generated"], "generation_step"].min() == 1
    assert set(tokens["given"]) <= set(range(len(ROWS)))


def test_samples_of_a_document_are_one_unit_and_prompts_of_their_own(drawn):
    tables = drawn.open()
    frame = tables["rotation"].frame
    assert frame["prompt"].nunique() == 36
    assert (frame["prompt"] == frame["given"] * 3 + frame["sample"]).all()
    assert not frame.duplicated(["prompt", "position", "layer"]).any()
    sample = tables.sample()
    assert sample.tokens["prompt"].nunique() == 36
    assert sample.texts["sample"].tolist() == [0, 1, 2] * 12
    for results in (tables, tables.whole()):
        steps = interp.experiments.generation_steps(results, resamples=99)
        assert "over 36 texts of 12 prompts" in steps.sentence
        assert {"log_prob", "entropy"} <= set(steps.frame["value"])
    assert "layer" not in tables.whole()["next_token"].frame
    texts = tables.texts.rename(columns={"document": "given"})
    pd.testing.assert_frame_equal(tables.whole().texts, texts, check_dtype=False)


def test_labellers_see_the_whole_text(demo, tmp_path):
    done = run(demo, tmp_path / "out", ["John met Mary. She"], keep="tokens", target="She",
               generate=12, analyses=["norm"])  # fmt: skip
    alone = interp.generate(demo, ["John met Mary. She"], "norm", target="She", max_new_tokens=12,
                            progress=False)  # fmt: skip
    found = done.open()["norm"].frame.query("layer == 0")
    roles = alone["norm"].frame.query("layer == 0")["role"]
    targets = [role == "target" for role in roles]
    assert any(targets)
    assert [role == "target" for role in found["role"]] == targets


def test_the_untrained_copy_reads_what_the_model_wrote(demo, tmp_path):
    found = run(demo, tmp_path / "out", by=["generated"], control="random-init").open()
    alone = interp.generate(demo, TEXTS, "rotation", max_new_tokens=NEW, keep="summary",
                            by=["generated"], control="random-init", progress=False)  # fmt: skip
    for mine, right in ((found, alone), (found.control, alone.control)):
        one, other = (r["rotation"].frame.query("value == 'angle'") for r in (mine, right))
        np.testing.assert_allclose(one["mean"], other["mean"], rtol=1e-5)
        assert one["n"].tolist() == other["n"].tolist()


# ---- the same bits ---------------------------------------------------------------------------


def test_an_interrupted_run_resumes_to_the_same_bits(demo, drawn, tmp_path, monkeypatch):
    out = tmp_path / "out"
    options = {"analyses": ["rotation", "next_token"], "keep": "tokens", **DRAWN}
    measure = Worker.measure

    def stopped(self, shard):
        if shard.index == 1:
            raise KeyboardInterrupt
        return measure(self, shard)

    monkeypatch.setattr(Worker, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(demo, out, **options)
    monkeypatch.setattr(Worker, "measure", measure)
    done = run(demo, out, resume=True, **options)
    assert 0 < done.measured < done.tokens
    same(out, drawn.folder)
    with pytest.raises(BadInput, match=r"parameters.generate.seed was 4, now 5"):
        run(demo, out, resume=True, **options | {"seed": 5})
    with pytest.raises(BadInput, match=r"parameters.generate was .*now null"):
        run(demo, out, resume=True, **{k: options[k] for k in ("analyses", "keep")}, generate=None)


def test_workers_write_the_same_bits(drawn, tmp_path):
    corpus = write_jsonl(tmp_path / "c.jsonl", ROWS)
    options = {"analyses": ["rotation", "next_token"], "keep": "tokens", **DRAWN}
    run("demo-llama", tmp_path / "out", corpus, workers=2, **options)
    same(tmp_path / "out", drawn.folder)


def test_a_damaged_part_of_the_texts_is_named_and_written_again(demo, tmp_path):
    out = tmp_path / "out"
    texts = run(demo, out, keep="tokens").open().texts
    part = out / "texts" / "part-000001.parquet"
    texts.iloc[:2].to_parquet(part)
    with pytest.raises(InterpError, match=r"texts/part-000001.parquet' is damaged; run it again"):
        interp.load(out).texts  # noqa: B018
    part.unlink()
    with pytest.raises(InterpError, match="has 2 of the 3 parts that were written"):
        interp.load(out).texts  # noqa: B018
    again = run(demo, out, keep="tokens", resume=True)
    assert 0 < again.measured < again.tokens
    pd.testing.assert_frame_equal(interp.load(out).texts, texts)


# ---- failures and refusals -------------------------------------------------------------------


def test_a_document_without_room_is_a_failure(demo, tmp_path):
    limit = interp.inspect(demo).n_ctx
    rows = [*TEXTS[:2], " ".join(["The dog"] * limit), TEXTS[2]]
    done = run(demo, tmp_path / "out", rows, keep="tokens")
    (failure,) = done.failures.to_dict("records")
    n = len(demo.to_tokens(rows[2], truncate=False)[0])
    assert (failure["document"], failure["chunk"]) == (2, -1)
    assert failure["reason"] == (
        f"the document has {n} tokens, and 5 more do not fit in the model's context of {limit}: "
        "shorten the prompt"
    )
    assert done.open().texts["document"].tolist() == [0, 1, 3]


def test_a_text_that_cannot_be_written_or_labelled_is_a_failure(demo, tmp_path, monkeypatch):
    write = continuations.write

    def fails(bridge, anatomy, prompts, *args, keys, **options):
        if (2, 0) in keys:
            raise RuntimeError("no such luck")
        return write(bridge, anatomy, prompts, *args, keys=keys, **options)

    monkeypatch.setattr(continuations, "write", fails)

    def labeller(prompts):
        if any("river" in text for text in prompts.texts):
            raise ValueError("a river")
        return prompts.with_labels("size", [len(text) for text in prompts.texts])

    done = run(demo, tmp_path / "out", keep="tokens", labels=["size"], labellers=[labeller])
    reasons = dict(zip(done.failures["document"], done.failures["reason"], strict=True))
    assert reasons == {2: "RuntimeError: no such luck", 1: "ValueError: a river",
                       10: "ValueError: a river"}  # fmt: skip
    assert set(done.open()["rotation"].frame["prompt"]) == set(range(12)) - {1, 2, 10}
    monkeypatch.setattr(continuations, "write", lambda *_, **__: 1 / 0)
    with pytest.raises(InterpError, match="not one of 5 texts could be written; the first: Zero"):
        run(demo, tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"long": "split"}, "long='split' with generate=5: the model continues whole documents"),
        ({"long": "cut", "overlap": 3}, "long='cut', overlap=3 with generate=5"),
        ({"overlap": 3}, "overlap=3 with generate=5: .*Leave one of the two out"),
        ({"generate": None, "seed": 3}, "seed: only with generate=, the number of tokens"),
        ({"generate": None, "do_sample": True, "samples": 2}, "samples, do_sample: only with"),
        ({"generate": 0}, "max_new_tokens is 0; allowed is 1 or more"),
        ({"samples": 2}, "samples is 2, and without do_sample=True all continuations"),
        ({"temperature": 0.5}, "temperature: only with do_sample=True"),
        ({"generate": "5"}, "max_new_tokens='5' is str; max_new_tokens= takes a whole number"),
        ({"labels": {"sample": "kind"}, "keep": "tokens"}, "label 'sample' is a column that a gen"),
        ({"stop": ["no such token"]}, "stop token 'no such token'"),
    ],
)
def test_what_contradicts_a_generation_is_refused(demo, tmp_path, options, words):
    with pytest.raises(BadInput, match=words):
        run(demo, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "shards").exists()


def test_labels_that_only_a_generation_writes(demo, tmp_path):
    with pytest.raises(UnknownName, match="unknown label 'generated'"):
        run(demo, tmp_path / "out", by=["generated"], generate=None)
    rows = [{"text": text, "sample": "x"} for text in TEXTS]
    with pytest.raises(BadInput, match="label 'sample' is a column of the documents, and one that"):
        run(demo, tmp_path / "out", rows, by=["sample"])
    # A column that nobody asks for is not read.
    assert run(demo, tmp_path / "out", rows, by=["generated"]).failures.empty
    with pytest.raises(BadInput, match="wrote no texts; interp.run_corpus"):
        run(demo, tmp_path / "plain", keep="tokens", generate=None).open().texts  # noqa: B018


def test_a_summary_has_no_rows_for_the_steps_and_says_what_keeps_them(demo, tmp_path):
    run(demo, tmp_path / "out", ROWS[:2], analyses=["next_token"])
    summary = interp.load(tmp_path / "out")
    with pytest.raises(BadInput, match=r"run it with keep='tokens' .*--keep tokens"):
        interp.experiments.generation_steps(summary)


def test_a_model_that_cannot_write_is_refused_before_anything_is_measured(tmp_path):
    from zoo import ZOO, boot

    bridge = boot(ZOO["bert"])
    with pytest.raises(Unsupported, match="cannot continue a prompt: it reads in both directions"):
        run(bridge, tmp_path / "out", ["the dog", "a man"])
    assert not (tmp_path / "out" / "shards").exists()


def test_texts_that_end_at_once_or_go_on_after_their_end_are_noted(demo, tmp_path):
    rows = run(demo, tmp_path / "free", keep="tokens", stop=[]).open()["rotation"].frame
    first = rows[(rows["layer"] == 0) & (rows["generation_step"] == 1)]
    stop = int(first["token_id"].mode()[0])
    empty = int((first["token_id"] == stop).sum())
    found = run(demo, tmp_path / "out", stop=[stop]).open()
    said = f"{empty} of 12 texts are empty: their first token is a stop token."
    assert said in found["rotation"].notes
    assert (found.texts["new_tokens"] == 1).sum() == empty


# ---- the command -----------------------------------------------------------------------------


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["run", "--quiet", *map(str, arguments)])


def test_the_command_writes_a_summary_by_what_was_written(tmp_path):
    corpus, out = write_jsonl(tmp_path / "c.jsonl", ROWS), tmp_path / "out"
    done = invoke("--corpus", corpus, "-m", "demo-llama", "-a", "rotation", "--generate", NEW,
                  "--sample", "--seed", 3, "--by", "generated", "-o", out, "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["chunks"] == 12
    results = interp.load(out)
    assert set(results["rotation"].frame["generated"]) == {"True", "False"}
    assert "What the model wrote" in (out / "report.html").read_text(encoding="utf-8")
    refused = invoke("--corpus", corpus, "--generate", 3, "--truncate", "-o", tmp_path / "no")
    assert "--truncate cuts what the model should continue" in str(refused.exception)
    refused = invoke("--corpus", corpus, "--generate", 3, "--long", "cut", "-o", tmp_path / "no")
    assert "long='cut' with generate=3" in str(refused.exception)


def test_the_steps_of_a_summary_name_the_rows_that_it_lacks(demo, tmp_path):
    run = interp.run_corpus(
        demo, TEXTS, "next_token", out=tmp_path / "out", generate=NEW, progress=False
    )
    with pytest.raises(BadInput, match=r"summary of a generation.*keep='tokens'.*--keep tokens"):
        interp.experiments.generation_steps(run.open())
