"""Every experiment from the command line: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import interp
from interp.cli.app import app
from interp.demo.language import generate

MODEL = ("--model", "demo-llama")
ANALYSES = ["rotation", "path_length", "next_token", "logit_lens", "attention"]


def run(*arguments: object) -> str:
    """Run a command; errors of the library surface as they are."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def as_json(*arguments: object) -> dict[str, pd.DataFrame]:
    """The tables that a command prints with --json."""
    document = json.loads(run(*arguments, "--json"))
    return {name: pd.DataFrame(rows) for name, rows in document["tables"].items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A run over twelve documents of two kinds, with its control."""
    texts = [doc.text for doc in generate(12, seed=3)]
    results = interp.run(
        "demo-llama", texts, ANALYSES, labels={"kind": ["odd", "even"] * 6},
        control="random-init", progress=False,
    )  # fmt: skip
    return results.save(tmp_path_factory.mktemp("experiments") / "run")


# ---- on saved results ------------------------------------------------------------------------


def test_groups_are_those_of_the_library(saved, tmp_path):
    asked = ("groups", saved, "--by", "kind", "--value", "step", "--resamples", 60)
    tables = as_json(*asked, "--pairs", "--out", tmp_path / "out")
    found = interp.experiments.by_group(interp.load(saved), "step", "kind", resamples=60)
    assert tables["groups"]["mean"].tolist() == pytest.approx(found.frame["mean"].tolist())
    control = interp.experiments.by_group(interp.load(saved).control, "step", "kind", resamples=60)
    assert tables["total_untrained"]["mean"].tolist() == pytest.approx(control.total["mean"])
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"report.html", "experiment.json", "groups.parquet", "pairs.csv"} <= written
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "step by kind" in page
    assert "untrained copy" in page


def test_predict_has_both_controls(saved):
    tables = as_json("predict", saved, "--resamples", 30, "--partial", "position")
    frame, control = tables["predict"], tables["predict_untrained"]
    assert frame["partial_spearman_shuffled_p"].between(1 / 31 - 1e-9, 1).all()
    assert set(frame["outcome"]) == set(control["outcome"]) == {"logit", "log_prob", "rank"}
    text = run("predict", saved, "--resamples", 30, "--partial", "none")
    assert "untrained copy: path over all layers" in text
    assert "Spearman" in text


def test_growth_by_label(saved):
    tables = as_json("growth", saved, "--by", "kind")
    assert set(tables["growth"]["kind"]) == {"odd", "even"}
    assert {"growth", "factor", "orthogonal_growth"} == set(tables["growth"]["value"])
    assert not tables["tokens"].empty


def test_depth_is_the_share_of_tokens_decided_by_then(saved):
    tables = as_json("depth", saved)
    tokens = tables["tokens"][~tables["tokens"]["special"].astype(bool)]
    shares = [(tokens["decision_depth"] <= n).mean() for n in tables["depth"]["layer"]]
    np.testing.assert_allclose(tables["depth"]["decided"], shares)
    assert tables["depth"]["decided"].iloc[-1] == 1
    assert "untrained copy: median decision depth" in run("depth", saved, "--by", "kind")


def test_heads_and_rollout(saved, tmp_path):
    tables = as_json("heads", saved, "--resamples", 30)
    assert set(tables["heads"]["kind"]) >= {"previous", "sink"}
    assert (tables["heads_untrained"]["types"] == "none").all()
    asked = ("rollout", saved, "--prompt", 0, "--out", tmp_path / "rollout")
    rows = as_json(*asked)["rollout"]
    for name in ("rollout", "even"):
        sums = rows.groupby(["layer", "query"])[name].sum()
        np.testing.assert_allclose(sums, 1, atol=1e-6)
    with pytest.raises(interp.errors.UnknownName, match="unknown kept prompt '99'"):
        run("rollout", saved, "--prompt", 99)


def test_special_tokens_come_back_with_one_switch(saved, tmp_path):
    """BOS of twelve documents: in no summary, and in each when asked for."""
    one = interp.load(saved)["path_length"].frame.query("layer == 0")
    ordinary, bos = int((~one["special"]).sum()), int(one["special"].sum())
    assert bos == 12
    between = ("compare", saved, "--by", "kind", "--a", "odd", "--b", "even", "--resamples", 9)
    asks = {
        "growth": lambda *s: as_json("growth", saved, *s)["growth"]["n"].iloc[0],
        "depth": lambda *s: as_json("depth", saved, *s)["depth"]["n"].iloc[0],
        "compare": lambda *s: as_json(*between, *s)["compare"].iloc[0][list(_NS)].sum(),
        "groups": lambda *s: as_json(
            "groups", saved, "--by", "kind", "--level", "token", "--resamples", 9, *s
        )["groups"].query("layer == 0")["n"].sum(),
    }  # fmt: skip
    for name, ask in asks.items():
        assert ask() == ordinary, name
        assert ask("--special") == ordinary + bos, name
    ask = ("predict", saved, "--resamples", 9, "--partial", "position")
    frames = [as_json(*ask, *s)["predict"] for s in ((), ("--special",))]
    assert (frames[1]["n"] - frames[0]["n"] == bos).all()


_NS = ("n_a", "n_b")


def test_a_taken_folder_is_refused_before_anything_is_computed(saved, tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(interp.BadInput, match="exists; choose another"):
        run("growth", saved, "--out", tmp_path)
    with pytest.raises(interp.BadInput, match="holds no results of this library"):
        run("growth", saved, "--out", tmp_path, "--overwrite")
    run("growth", saved, "--out", tmp_path / "new")
    run("growth", saved, "--out", tmp_path / "new", "--overwrite")
    assert (tmp_path / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("groups", "--by", "pso"), "unknown label in 'rotation' 'pso'"),
        (("groups", "--by", "kind", "--only", "odd,evne"), "no unit has kind = 'evne'; did you me"),
        (("groups", "--by", "kind", "--value", "angel"), "unknown value column 'angel'; did you"),
        (("predict", "--value", "pth"), "unknown value column 'pth'; did you mean 'path'"),
        (("growth", "--by", "knd"), "unknown label 'knd'; did you mean 'kind'"),
        (("predict", "--outcomes", "lgit"), "'lgit'"),
        (("heads", "--threshold", "2"), "an excess lies between 0 and 1"),
    ],
)
def test_bad_questions_name_what_there_is(saved, arguments, message):
    with pytest.raises(interp.InterpError) as seen:
        run(arguments[0], saved, *arguments[1:])
    assert message in str(seen.value)


def test_experiments_name_the_analysis_that_was_not_run(saved, tmp_path):
    few = interp.run("demo-llama", ["Mary smiled. John slept."], "rotation", progress=False)
    folder = few.save(tmp_path / "few")
    with pytest.raises(interp.errors.UnknownName, match="unknown result 'logit_lens'"):
        run("depth", folder)
    with pytest.raises(interp.BadInput, match="no row has two values|two|prompt"):
        run("groups", folder, "--by", "token", "--level", "token")


# ---- words -----------------------------------------------------------------------------------

PRONOUNS = ("he", "she", "him", "her", "his")


def test_near_and_nearest_have_random_directions_beside(tmp_path):
    tables = as_json("words", "near", "he", *MODEL, "-k", 5, "--out", tmp_path / "near")
    frame = tables["near"]
    assert len(frame) == 5
    assert frame["random_cosine"].is_monotonic_decreasing
    assert (tmp_path / "near" / "near.csv").is_file()
    rows = as_json("nearest", " her", "--minus", " his", *MODEL, "-k", 3)["nearest"]
    assert rows["token"].iloc[0] == " her"
    assert rows["cosine"].iloc[0] > rows["random_cosine"].iloc[0]
    with pytest.raises(interp.BadInput, match="' her' − ' her' is the zero vector"):
        run("nearest", " her", "--minus", " her", *MODEL)


def test_analogy_axis_cosines_graph(tmp_path):
    table = as_json("words", "analogy", "he", "him", "she", *MODEL)["analogy"]
    assert set(table.loc[table["query"], "word"].str.strip()) <= {"he", "him", "she"}
    ends = ("--to", "he,him", "--from", "she,her")
    tables = as_json("words", "axis", *ends, "his", *MODEL, "--resamples", 20)
    assert tables["separation"].columns.tolist() == ["auc", "shuffled_auc", "p"]
    assert tables["axis"]["word"].tolist() == ["he", "him", "she", "her", "his"]
    cosines = as_json("words", "cosines", *PRONOUNS, *MODEL)
    np.testing.assert_allclose(np.diag(cosines["cosines"][list(PRONOUNS)]), 1, atol=1e-6)
    assert "random pairs of this vocabulary" in run(
        "words", "graph", *PRONOUNS, *MODEL, "--threshold", "0.1", "--out", tmp_path / "graph"
    )


def test_map_and_clusters_of_all_words(tmp_path):
    assert "trustworthiness" in run("words", "map", *MODEL, "--out", tmp_path / "map")
    text = run(
        "words", "clusters", *MODEL, "--resamples", 2, "--min-size", 12, "--out", tmp_path / "c"
    )
    assert "Gaussian vectors of this size" in text


def test_words_of_a_file(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("red 1 0 0\nblue 0.9 0.1 0\ngreen 0 1 0.2\n")
    frame = as_json("words", "near", "red", "--vectors", path)["near"]
    assert frame["word"].tolist() == ["blue", "green"]


def test_clusters_that_are_not_there_have_no_stability(tmp_path):
    """Vectors without groups, in a file: no cluster, so that nothing could come again."""
    draws = np.random.default_rng(0).standard_normal((60, 12))
    lines = [f"w{i} " + " ".join(f"{x:.5f}" for x in row) for i, row in enumerate(draws)]
    (tmp_path / "glove.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    said = run("words", "clusters", "--vectors", tmp_path / "glove.txt", "--min-size", 25)
    assert "0 clusters of 60 words, 100 % noise; Gaussian vectors of this size: 0 clusters" in said
    assert "nan" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("near", "hee"), "'hee' is no single token of this vocabulary"),
        (("near", "he", "--similarity", "euclid"), "by='euclid'; allowed: 'cosine', 'dot'"),
        (("near", "he", "--matrix", "W_X"), "no matrix 'W_X'"),
        (("axis", "--to", "he", "--from", "she,her"), "two words or more at both ends"),
        (("cosines", "he"), "one word has no cosine with another"),
        (("graph", "he", "she", "--threshold", "2"), "threshold 2.0 is no cosine"),
        (("map", *PRONOUNS, "--method", "tsne"), "allowed is more than 1 and at most a third"),
        (("map", "--method", "umap"), "unknown picture 'umap'"),
        (("clusters", *PRONOUNS), "5 words cannot make clusters of 10"),
    ],
)
def test_words_that_cannot_be_used(arguments, message):
    with pytest.raises(interp.InterpError) as seen:
        run("words", arguments[0], *arguments[1:], *MODEL)
    assert message in str(seen.value)


def test_a_bad_line_of_a_word_vector_file_is_named(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("red 1 0 0\nblue 0.9 x 0\n")
    with pytest.raises(interp.BadInput, match="line 2: not a word and 3 numbers"):
        run("words", "near", "red", "--vectors", path)


def test_small_pictures_and_words_without_a_direction_say_so(tmp_path):
    said = run("words", "map", *PRONOUNS, *MODEL)
    assert "trustworthiness is unknown, which needs 25 words" in said
    assert "nan" not in said
    path = tmp_path / "vectors.txt"
    path.write_text("red 1 0 0\nblue 0.9 1 0\nnone 0 0 0\n")
    said = run("words", "cosines", "red", "none", "--vectors", path)
    assert "without a direction (zero vector): 'none'" in said


def test_a_side_of_spaces_that_is_no_file_and_no_matrix(tmp_path):
    (tmp_path / "glove.txt").write_text("red 1 0\nblue 0 1\n")
    with pytest.raises(
        interp.errors.UnknownName, match=r"word vectors '.*glov.txt'; did you mean 'glove\.txt'"
    ):
        run("spaces", tmp_path / "glov.txt", "demo-llama")
    with pytest.raises(interp.errors.UnknownName, match="matrix 'W_Q'; did you .* W_E, W_U"):
        run("spaces", "demo-llama:W_Q", "demo-llama")


# ---- two spaces, two models, two contexts ----------------------------------------------------


def test_spaces_with_and_without_an_untrained_copy(tmp_path):
    asked = ("--method", "procrustes,cka", "--resamples", 10, "--control", "random-init")
    tables = as_json(
        "spaces", "demo-llama:W_E", "demo-llama:W_U", *asked, "--out", tmp_path / "out"
    )
    value = {
        name: t.set_index(["method", "score"])["value"].get(("cka", "cka"))
        for name, t in tables.items()
    }
    assert value["spaces"] > value["spaces_untrained"]
    with pytest.raises(interp.BadInput, match="v.txt is no matrix of a model"):
        path = tmp_path / "v.txt"
        path.write_text("\n".join(f"{w} {i} {i % 3} 1" for i, w in enumerate(WORDS)))
        run("spaces", "demo-llama", path, "--method", "cka", "--control", "random-init")


WORDS = ("he", "she", "him", "her", "his", "the", "because", "was", "so", "smiled", "Tom", "John")


@pytest.fixture
def texts(tmp_path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(doc.text for doc in generate(8, seed=5)))
    return path


def test_layers_of_a_model_and_its_untrained_copy(texts):
    asked = ("--prompts", texts, "--resamples", 10, "--control", "random-init")
    tables = as_json("layers", "demo-llama", "demo-llama", *asked)
    own = tables["layers"].query("layer_a == layer_b")["value"]
    np.testing.assert_allclose(own, 1, atol=1e-6)
    assert tables["layers_untrained"].query("layer_a == layer_b")["value"].max() < 1


def test_drift_between_senses(tmp_path):
    path = tmp_path / "senses.jsonl"
    rows = [
        {"text": f"{name} smiled. {other} thanked her.", "sense": sense}
        for sense, name, other in [
            ("a", "Mary", "John"), ("a", "Mary", "Tom"), ("b", "Anna", "John"), ("b", "Anna", "Tom")
        ]
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    frame = as_json("drift", "her", "--prompts", path, *MODEL, "--resamples", 20)["drift"]
    assert frame["within"].iloc[0] == pytest.approx(1)
    with pytest.raises(interp.errors.UnknownName, match="unknown label 'meaning'"):
        run("drift", "her", "--prompts", path, *MODEL, "--sense", "meaning")


def test_continuations_of_the_same_context_do_not_diverge():
    asked = (*MODEL, "--samples", 4, "--length", 2)
    same = as_json("continuations", "Mary smiled.", "Mary smiled.", *asked)["continuations"]
    np.testing.assert_allclose(same["js"], 0, atol=1e-6)
    with pytest.raises(interp.BadInput, match="temperature"):
        run("continuations", "Mary smiled.", "Tom slept.", *asked, "--temperature", 0)


# ---- steering and positions ------------------------------------------------------------------


def test_steering_moves_the_prediction(texts, tmp_path):
    asked = ("--prompts", texts, "--token", " her, his", "--layers", "8", "--doses", "-1,1")
    toward = ("--toward", " her", "--away", " his", "--controls", "4")
    tables = as_json("steer", *asked, *toward, *MODEL, "--out", tmp_path / "steer")
    given = tables["steer"].query("direction == 'given'").set_index("dose")["effect"]
    assert given[1.0] > given[0.0] > given[-1.0]
    assert (tmp_path / "steer" / "effects.parquet").is_file()


def test_steering_along_a_contrast_at_labelled_tokens(texts):
    asked = ("--prompts", texts, "--token", " her", "--layers", "4", "--doses", "1")
    contrast = ("--contrast", texts, texts, "--controls", "0")
    with pytest.raises(interp.BadInput, match="zero"):
        run("steer", *asked, *contrast, *MODEL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "name one direction: two tokens"),
        (("--toward", " her"), "toward needs away (--away TOKEN)"),
        (("--contrast", "a.txt", "b.txt"), "(--layers 3)"),
        (
            ("--toward", " her", "--away", " his", "--doses", "much"),
            "--doses 'much': expected numbers separated by commas",
        ),
        (("--toward", " her", "--away", " his", "--kind", "bend"), "unknown kind of steering"),
        (("--toward", "elephant", "--away", " his"), "'elephant' is"),
    ],
)
def test_steering_says_what_it_needs(texts, options, message):
    asked = ("steer", "--prompts", texts, "--token", " her", "--layers", "3,4", *MODEL)
    with pytest.raises(interp.InterpError) as seen:
        run(*asked, *options)
    assert message in str(seen.value)


def test_positions_split_and_shift():
    tables = as_json("positions", "split", "Mary smiled. John slept.", "--model", "demo")
    assert tables["split"]["share"].sum() == pytest.approx(1)
    scores = as_json("positions", "split", "Mary smiled.", "--sum", "scores", "--model", "demo")
    assert set(scores["split"]["head"]) == {0, 1, 2, 3}
    copied = ("--sum", "scores", "--model", "demo", "--control", "random-init")
    both = as_json("positions", "split", "Mary smiled.", *copied)["split"]
    np.testing.assert_allclose(both["share"], scores["split"]["share"])
    assert both.groupby("head")["untrained_share"].sum().to_numpy() == pytest.approx(1)
    assert (both["share"] - both["untrained_share"]).abs().max() > 0.1
    by_distance = ("positions", "split", "Mary smiled. John slept.", "--sum", "distance", *MODEL)
    split = as_json(*by_distance, "--block", "1")["split"]
    assert list(split["part"].unique()) == ["distance", "content"]
    assert split.groupby("head")[["share", "shuffled_share"]].sum().to_numpy() == pytest.approx(1)
    assert "with keys shuffled); distance is fitted, content is the rest" in run(*by_distance)
    with pytest.raises(
        interp.BadInput, match="block 1 is for the split by distance .*: cosines are those"
    ):
        run("positions", "split", "Mary smiled.", "--block", "1", "--model", "demo")
    rows = as_json("positions", "shift", "Mary smiled.", "--shifts", "1,4", *MODEL)["shift"]
    assert rows["angle"].max() < 0.1, "rotary positions are relative"
    with pytest.raises(interp.errors.Unsupported, match="is no sum of token and position"):
        run("positions", "split", "Mary smiled.", *MODEL)
    with pytest.raises(interp.errors.UnknownName, match="unknown thing to split 'angles'"):
        run("positions", "split", "Mary smiled.", "--sum", "angles", *MODEL)


@pytest.mark.parametrize(
    ("command", "wrote"), [("changes", "series"), ("members", "series"), ("growth", "run")]
)
def test_the_help_names_the_command_that_wrote_the_folder(command, wrote):
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", run(command, "--help")).split())
    assert f"Folder that interp {wrote} wrote." in text


def test_every_experiment_is_in_the_help():
    text = run("--help")
    for command in (
        "groups", "predict", "growth", "depth", "heads", "rollout", "nearest", "words", "spaces",
        "layers", "drift", "continuations", "steer", "positions",
    ):  # fmt: skip
        assert command in text


def test_a_spacy_pipeline_that_is_not_there_is_named(texts, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(interp.BadInput, match="spaCy is not installed|no spaCy pipeline 'xx_none'"):
        run("run", "--prompts", texts, *MODEL, "-a", "rotation", "--spacy", "xx_none", "-o", out)
    assert not out.exists()
