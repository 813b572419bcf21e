"""What a label may be called: one rule wherever labels come in, and a way to rename."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import interp
from interp.cli.app import app, renames
from interp.contract.columns import ATTACHED, DOCUMENTS, INDEX, SUMMARY
from interp.contract.counts import QUANTILES
from interp.errors import BadInput
from interp.prompts.labels import regex, target_word
from interp.prompts.read import read_prompts

TEXTS = ["Tom met Mary .", "Ann saw her .", "She saw Tom ."]
VALUES = [
    ("path_length", "path"),
    ("path_length", "norm"),
    ("path_length", "anything_share"),
    ("rotation", "angle"),
    ("attention", "entropy"),
    ("logit_lens", "top_token"),
    ("logit_lens", "top_token_id"),
]
FIXED = ["stack", "call", "chunk", "document_position", "layer", "word", "mean", "n", "median"]
SAYS = "label '{}' has the name of a column .*; rename it, say to '{}_label'"


@pytest.fixture(scope="module")
def demo():
    return interp.load_model("demo")


def says(name: str) -> str:
    return SAYS.format(name, name)


@pytest.fixture
def table(tmp_path):
    """A data file with columns that tables have too."""
    rows = [
        {"text": text, "path": f"{i}.txt", "mean": i, "kind": "xy"[i % 2]}
        for i, text in enumerate(TEXTS)
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("analysis", "name"), [*VALUES, *(("rotation", n) for n in FIXED)])
def test_a_taken_name_is_refused_wherever_labels_come_in(demo, tmp_path, analysis, name):
    with pytest.raises(BadInput, match=says(name)):
        interp.run(demo, TEXTS, analysis, labels={name: [1, 2, 3]}, progress=False)
    with pytest.raises(BadInput, match=says(name)):
        values = {name: [[1], [2], [3]]}
        interp.run(demo, [[5], [6], [7]], analysis, token_labels=values, progress=False)
    with pytest.raises(BadInput, match=says(name)):
        interp.run(demo, TEXTS, analysis, labellers=[regex("Tom", name=name)], progress=False)
    with interp.attach(demo, analysis) as probes, pytest.raises(BadInput, match=says(name)):
        probes.label(**{name: "x"})
    rows = [{"text": text, name: "x"} for text in TEXTS]
    with pytest.raises(BadInput, match=says(name)):
        interp.run(demo, rows, analysis, progress=False)
    for options in ({"keep": "summary", "by": [name]}, {"keep": "tokens", "labels": [name]}):
        with pytest.raises(BadInput, match=says(name)):
            interp.run_corpus(demo, rows, analysis, out=tmp_path / "out", progress=False, **options)
    assert not (tmp_path / "out").exists()


def test_every_column_of_a_table_is_reserved_or_was_a_label(demo, tmp_path):
    """What tables really hold, so that the list cannot fall behind."""
    names = ("rotation", "path_length", "logit_lens", "attention")
    rows = interp.run(demo, TEXTS, names, labels={"kind": list("xyx")}, progress=False)
    summary = interp.run(
        demo, TEXTS, names, labels={"kind": list("xyx")}, keep="summary", by=["kind"],
        progress=False,
    )  # fmt: skip
    done = interp.run_corpus(
        demo, [{"text": t, "kind": "x"} for t in TEXTS], names, out=tmp_path / "rows",
        keep="tokens", labels=["kind"], progress=False,
    )  # fmt: skip
    with interp.attach(demo, *names) as probes:
        probes.label(kind="x")
        demo(TEXTS[0])
    for result in [*rows.values(), *summary.values(), *probes.values(), *done.open().values()]:
        frame = result.read() if hasattr(result, "read") else result.frame
        for column in set(frame) - {"kind"}:
            with pytest.raises(BadInput, match=says(column)):
                interp.run(demo, TEXTS, names, labels={column: [1, 2, 3]}, progress=False)


def test_the_list_has_what_summaries_write():
    assert {*QUANTILES} <= SUMMARY
    assert not {*INDEX, *ATTACHED, *DOCUMENTS} & {"kind", "role", "pos"}


def test_names_of_analyses_that_are_not_run_are_free(demo):
    found = interp.run(demo, TEXTS, "rotation", labels={"path": [3, 4, 5]}, progress=False)
    frame = found["rotation"].frame
    assert frame.groupby("prompt")["path"].first().tolist() == [3, 4, 5]
    assert found["rotation"].labels == ["path"]
    assert "path" not in found["rotation"].values


def test_keys_of_tables_without_tokens_are_free_and_no_labels_there(demo):
    found = interp.run(
        demo, TEXTS, ["rotation", "random_pairs"], labels={"kind": list("xyx")}, progress=False
    )
    assert found["rotation"].labels == ["kind"]
    assert found["random_pairs"].labels == []
    assert set(found["random_pairs"].frame["kind"]) == {"same layer", "any layers"}


def test_columns_of_the_data_are_renamed(demo, table):
    for names, said in (({}, "path"), ({"file": "path"}, "mean")):
        with pytest.raises(BadInput, match=says(said)):
            interp.run(demo, table, "path_length", labels=names, progress=False)
    names = {"file": "path", "average": "mean"}
    frame = interp.run(demo, table, "path_length", labels=names, progress=False)[
        "path_length"
    ].frame
    plain = interp.run(demo, TEXTS, "path_length", progress=False)["path_length"].frame
    assert frame.groupby("prompt")["file"].first().tolist() == ["0.txt", "1.txt", "2.txt"]
    assert frame.groupby("prompt")["average"].first().tolist() == [0, 1, 2]
    np.testing.assert_array_equal(frame["path"], plain["path"])
    assert not {"path_x", "path_y", "mean"} & set(frame)


def test_fields_of_words_and_labels_of_prompts_are_renamed(demo):
    word = {"start": 0, "end": 3, "path": "up", "pos": "NAME"}
    source = [{"text": TEXTS[0], "words": [word]}]
    prompts = read_prompts(source, demo.tokenizer, labels={"way": "path"})
    assert list(prompts.labels) == ["way", "pos"]
    assert prompts.index().query("way == 'up'")["token"].tolist() == ["Tom"]
    again = prompts.renamed({"path": "way"})
    assert list(again.labels) == ["path", "pos"]
    with pytest.raises(BadInput, match=says("path")):
        interp.run(demo, again, "path_length", progress=False)
    found = interp.run(demo, again, "path_length", labels={"w": "path"}, progress=False)
    assert found["path_length"].labels == ["w", "pos"]
    more = interp.run(demo, again, "rotation", labels={"n_th": [7]}, progress=False)
    assert set(more["rotation"].frame["n_th"]) == {7}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"file": "pth"}, "renames 'pth', which is no column .*; did you mean 'path'.*kind"),
        ({"kind": "path"}, "there is a column .* 'kind' already"),
        ({"a": "path", "b": "path"}, "gives 'path' more than one new name"),
        ({"layer": "path"}, says("layer")),
    ],
)
def test_new_names_that_cannot_be(demo, table, labels, words):
    with pytest.raises(BadInput, match=words):
        read_prompts(table, demo.tokenizer, labels={"average": "mean"} | labels)


def test_a_label_that_a_labeller_would_overwrite_is_refused(demo):
    rows = [{"text": text, "role": "mine"} for text in TEXTS]
    with pytest.raises(BadInput, match=r"label 'role' is there already.*labels=\{'role_label'"):
        interp.run(demo, rows, "rotation", target="Tom", progress=False)
    found = interp.run(
        demo, rows, "rotation", target="Tom", labels={"role_label": "role"}, progress=False
    )
    assert set(found["rotation"].frame["role_label"]) == {"mine"}
    assert "target" in set(found["rotation"].frame["role"])
    twice = [target_word("Tom"), target_word("Tom")]
    same = interp.run(demo, TEXTS, "rotation", labellers=twice, progress=False)
    assert "target" in set(same["rotation"].frame["role"])


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_columns_of_a_corpus_are_renamed(demo, table, tmp_path, suffix):
    frame = pd.read_json(table, lines=True)
    path = tmp_path / f"corpus.{suffix}"
    if suffix == "jsonl":
        path = table
    elif suffix == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    run = {"analyses": "path_length", "progress": False}
    names = {"file": "path"}
    summary = interp.run_corpus(demo, path, out=tmp_path / "s", by=["file"], labels=names, **run)
    found = summary.open()["path_length"].frame
    assert sorted(set(found["file"])) == ["0.txt", "1.txt", "2.txt"]
    rows = interp.run_corpus(
        demo, path, out=tmp_path / "t", keep="tokens", labels={**names, "kind": "kind"}, **run
    )
    kept = rows.open()["path_length"].read()
    assert kept.groupby("document")["file"].first().tolist() == ["0.txt", "1.txt", "2.txt"]
    assert kept.groupby("document")["kind"].first().tolist() == ["x", "y", "x"]
    assert pd.api.types.is_float_dtype(kept["path"])
    again = interp.run_corpus(
        demo, path, out=tmp_path / "s", by=["file"], labels=names, resume=True, **run
    )
    assert again.measured == 0
    with pytest.raises(BadInput, match="cannot be resumed.*renamed.file was .path., now .kind"):
        interp.run_corpus(
            demo, path, out=tmp_path / "s", by=["file"], labels={"file": "kind"}, resume=True, **run
        )
    with pytest.raises(interp.errors.UnknownName, match="unknown label 'pth'"):
        interp.run_corpus(
            demo, path, out=tmp_path / "u", by=["file"], labels={"file": "pth"}, **run
        )


def test_the_texts_keep_their_name(demo, table, tmp_path):
    with pytest.raises(BadInput, match="no label can be called 'text'"):
        interp.run_corpus(
            demo, table, "rotation", out=tmp_path / "o", by=["text"], labels={"text": "path"}
        )


def test_a_column_role_of_a_corpus_is_read_where_none_is_made(demo, tmp_path):
    rows = [{"text": text, "role": "ab"[i % 2]} for i, text in enumerate(TEXTS)]
    done = interp.run_corpus(
        demo, rows, "rotation", out=tmp_path / "o", by=["role"], progress=False
    )
    found = done.open()["rotation"].frame
    assert sorted(set(found["role"])) == ["a", "b"]


def test_only_the_fields_of_words_that_are_asked_for_are_labels(demo, tmp_path):
    """A field that has a taken name, and that nobody asked for, is nobody's fault."""
    word = {"start": 0, "end": 3, "layer": 9, "pos": "NAME", "path": "up"}
    rows = [{"text": text, "words": [word]} for text in TEXTS]
    done = interp.run_corpus(
        demo, rows, "path_length", out=tmp_path / "o", by=["pos", "way"], labels={"way": "path"},
        progress=False,
    )  # fmt: skip
    assert done.failures.empty
    frame = done.open()["path_length"].frame
    assert set(zip(frame["pos"], frame["way"], strict=True)) == {("NAME", "up")}


def test_a_comparison_by_a_label_named_like_one_of_its_columns(demo):
    labels = {"difference": list("xyx"), "kind": list("aba"), "x": list("pqp"), "rows": list("uvu")}
    found = interp.run(demo, TEXTS, "rotation", labels=labels, progress=False)["rotation"]
    asked = {"value": "angle", "between": "kind", "a": "a", "b": "b", "resamples": 20}
    frame = found.frame.assign(difference=found.frame["position"] % 2)
    with pytest.raises(BadInput, match="by= names 'difference', and the comparison has a column"):
        interp.compare(frame, by=["difference"], **asked)
    named = frame.rename(columns={"difference": "difference_label"})
    assert (
        interp.compare(named, by=["difference_label"], **asked).frame["difference_label"].size == 2
    )
    plain = found.summary("layer").set_index(["layer", "value"])["mean"]
    for label in ("x", "rows"):
        means = found.summary(["layer", label])
        assert set(means[label]) == set(labels[label])
        whole = (means["mean"] * means["n"]).groupby([means["layer"], means["value"]]).sum()
        n = means.groupby(["layer", "value"])["n"].sum()
        angle = (whole / n).xs("angle", level="value")
        np.testing.assert_allclose(angle, plain.xs("angle", level="value"))


# ---- on the command line -------------------------------------------------------------------------


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["run", "--quiet", "-a", "path_length", *map(str, arguments)])


def test_columns_are_renamed_on_the_command_line(table, tmp_path):
    for given in ("--prompts", "--corpus"):
        out, by = tmp_path / given[2:], ["--by", "path"] if given == "--corpus" else []
        refused = invoke(given, table, *by, "--out", out)
        assert isinstance(refused.exception, BadInput)
        assert "--labels" in str(refused.exception)
        by = ["--by", "file"] if by else []
        labels = "file=path" if by else "file=path, average=mean, kind"
        done = invoke(given, table, *by, "--labels", labels, "--out", out)
        assert done.exit_code == 0, done.output
        frame = interp.load(out)["path_length"].frame
        assert sorted(set(frame["file"])) == ["0.txt", "1.txt", "2.txt"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("=path", "--labels '=path' is not NEW=OLD; write names as in --labels genre,file=path"),
        ("file=", "--labels 'file=' is not NEW=OLD"),
        ("a=b,a=c", "--labels 'a=c' is given twice"),
    ],
)
def test_renames_that_are_none(text, words):
    with pytest.raises(BadInput, match=words):
        renames(text)


def test_tags_of_a_pipeline_are_chosen_on_the_command_line(tmp_path):
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Tom"}])
    pipeline.to_disk(tmp_path / "pipeline")
    prompts = tmp_path / "p.txt"
    prompts.write_text("\n".join(TEXTS))
    out = tmp_path / "out"
    done = invoke("-p", prompts, "--spacy", tmp_path / "pipeline", "--tags", "ent_type", "-o", out)
    assert done.exit_code == 0, done.output
    frame = interp.load(out)["path_length"].frame
    assert set(frame.loc[frame["ent_type"] == "PERSON", "token"].str.strip()) == {"Tom"}
