"""Questions to series: when a profile appeared, where members differ, how stable a space is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from series_help import TEXTS, checkpoint, letters, run_of, scaled

import interp
from interp import BadInput
from interp.errors import UnknownName
from interp.experiments import change_points, compare_members, compare_states, space_stability
from interp.experiments.changes import OVER_RUNS

STEPS = (1, 2, 10, 50, 100, 1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints whose last block turns up at step 100, and a fine-tune of the last one."""
    place = tmp_path_factory.mktemp("series")
    run_of(place / "run", STEPS)
    checkpoint(place / "tuned", edit=lambda m: (scaled(2, 40.0)(m), scaled(1, 1.5)(m)))
    checkpoint(place / "base", edit=scaled(2, 40.0))
    return place


@pytest.fixture(scope="module")
def run(folder):
    labels = {"kind": ["odd", "even", "odd", "even", "odd"]}
    return interp.series(folder / "run", TEXTS, "rotation", labels=labels, progress=False)


# ---- change points ---------------------------------------------------------------------------


def test_a_planted_change_is_found_in_its_layer(run):
    found = change_points(run, value="angle", resamples=200)
    row = found.frame.set_index("layer").loc[2]
    assert (row["low"], row["high"]) == (50, 100)
    assert row["at"] == pytest.approx(np.sqrt(50 * 100))
    assert row["share"] > 0.99
    curves = run["rotation"].frame
    curves = curves[(curves["layer"] == 2) & ~curves["special"]]
    means = curves.groupby(["prompt", "at"])["angle"].mean().unstack("at").mean()
    assert row["before"] == pytest.approx(means[means.index < 100].mean())
    assert row["after"] == pytest.approx(means[means.index >= 100].mean())
    # Five prompts have 2^5 sign changes, and the observed one and its mirror reach it.
    assert row["p"] == pytest.approx(2 / 32)
    assert "angle: no change" in found.sentence
    assert found.plot("When it changed").layout.xaxis.type == "log"
    assert found.plot("Curves").layout.xaxis.type == "log"
    assert "logarithmic" in " ".join(found.notes)


def test_with_enough_prompts_the_change_is_called_one(folder):
    texts = [
        " ".join(np.random.default_rng(i).permutation(t.split())) for i in range(3) for t in TEXTS
    ]
    series = interp.series(folder / "run", texts, "rotation", progress=False)
    found = change_points(series, value="angle", resamples=400)
    assert found.found["layer"].tolist()[-1:] == [2] or 2 in set(found.found["layer"])
    row = found.frame.set_index("layer").loc[2]
    assert row["p_max"] <= 2 / 401
    assert "angle changed in" in found.sentence
    assert "layer 2 between training step 50 and 100" in found.sentence


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Three runs whose last block turns up at steps 10, 100 and 100, and enough prompts."""
    place = tmp_path_factory.mktemp("seeds")
    for seed, at in enumerate((10, 100, 100)):
        for step in (1, 10, 100, 1000):
            edit = scaled(2, 40.0 if step >= at else 1 + 0.001 * step)
            checkpoint(place / f"seed-{seed}" / f"step-{step}", seed=seed, edit=edit)
    texts = [
        " ".join(np.random.default_rng(i).permutation(t.split())) for i in range(2) for t in TEXTS
    ]
    return interp.series(place / "seed-*" / "step-*", texts, "rotation", progress=False)


def test_over_runs_the_run_is_the_unit(seeds, tmp_path):
    found = change_points(seeds, value="angle", resamples=400)
    assert len(found.frame) == 3 * 3
    row = found.over_runs.set_index("layer").loc[2]
    assert (row["runs"], row["changed"]) == (3, 3)
    assert row["at"] == pytest.approx(scipy.stats.gmean([1 * 10, 10 * 100, 10 * 100]) ** 0.5)
    low = scipy.stats.ttest_1samp(np.log([1, 10, 10]), 0).confidence_interval().low
    assert row["low"] == pytest.approx(max(1.0, np.exp(low)))
    assert (row["earliest"], row["latest"]) == pytest.approx((10**0.5, 1000**0.5))
    own = found.frame[found.frame["layer"] == 2]
    assert row["size"] == pytest.approx(own["size"].mean())
    assert row["p"] == 0.25
    assert "over 3 runs, with the run as the unit, first in layer 2 at training step" in (
        found.sentence
    )
    assert any("too few for a test over runs: the smallest p that they" in n for n in found.notes)
    assert list(found.over_runs) == ["layer", *OVER_RUNS]
    (points,) = (t for t in found.plot("Over runs").data if len(t.x or ()) == 1)
    assert points.x[0] == pytest.approx(row["at"])
    found.save(tmp_path / "found")
    saved = pd.read_csv(tmp_path / "found" / "over_runs.csv")
    pd.testing.assert_frame_equal(saved, found.over_runs, check_dtype=False)


def test_a_row_that_did_not_change_in_every_run_has_no_place(seeds):
    found = change_points(seeds, value="angle", resamples=400)
    rows = found.over_runs[found.over_runs["changed"] < 3]
    assert len(rows)
    assert rows[["at", "low", "high"]].isna().all(axis=None)


def test_one_run_has_nothing_over_runs(run):
    found = change_points(run, value="angle", resamples=50)
    assert found.over_runs.empty
    assert list(found.tables) == ["changes"]
    assert "runs" not in found.sentence
    assert "run" not in found.frame


def test_a_model_that_never_changes_has_no_change(folder, tmp_path):
    for step in (1, 2, 4, 8):
        checkpoint(tmp_path / f"step-{step}")
    series = interp.series(tmp_path, TEXTS, "rotation", progress=False)
    found = change_points(series, value="angle", resamples=50)
    assert found.frame["size"].eq(0).all()
    assert found.frame["p"].isna().all()
    assert (
        "no change in any of 3 rows (p undefined over all of them, against changed signs and "
        "shuffled places)" in found.sentence
    )


def test_tokens_of_one_label(run):
    found = change_points(run, value="angle", by="kind", group="odd", resamples=50)
    assert found.frame["prompts"].eq(3).all()
    with pytest.raises(UnknownName, match="unknown label of kind 'od'; did you mean 'odd'"):
        change_points(run, value="angle", by="kind", group="od")
    with pytest.raises(BadInput, match="group='odd' is a label of a column: name that by="):
        change_points(run, value="angle", group="odd")


def test_change_points_refuse_what_has_none(run, folder):
    with pytest.raises(BadInput, match="a series is needed, not Results: interp.series"):
        change_points(run.member("checkpoint-1"))
    two = interp.series([folder / "base", folder / "tuned"], TEXTS, "rotation", progress=False)
    with pytest.raises(BadInput, match="this series has no axis: its members have no training"):
        change_points(two)
    placed = interp.series(
        [folder / "base", folder / "tuned"], TEXTS, "rotation", at=[1, 2], progress=False
    )
    with pytest.raises(BadInput, match="2 members were measured; a change point needs 4 at least"):
        change_points(placed)
    with pytest.raises(UnknownName, match="unknown value column 'angel'; did you mean 'angle'"):
        change_points(run, value="angel")


# ---- two members -----------------------------------------------------------------------------


def test_a_model_against_itself_is_exactly_equal(folder):
    twice = interp.series(
        {"a": folder / "base", "b": folder / "base"},
        TEXTS,
        ["rotation", "path_length", "logit_lens"],
        progress=False,
    )
    for analysis in twice:
        for value in twice[analysis].values:
            found = compare_members(twice, value=value, analysis=analysis)
            assert found.frame["difference"].eq(0).all()
            assert found.frame["changed"].eq(0).all()
            assert found.first is None
            assert "exactly equal in all" in found.sentence
    states = compare_states(folder / "base", folder / "base", TEXTS, weights=True)
    assert states.frame[["distance", "angle", "changed"]].eq(0).all(axis=None)
    assert states.weights["change"].eq(0).all()
    assert states.first is None
    assert "all states of all tokens are exactly equal" in states.sentence


def test_a_planted_edit_of_one_block_is_found_at_that_block(folder):
    pair = [folder / "base", folder / "tuned"]  # the MLP of block 1 was changed
    states = compare_states(*pair, TEXTS, weights=True)
    rows = states.frame.set_index("state")
    assert rows.loc[[0, 1], ["distance", "angle", "changed"]].eq(0).all(axis=None)
    assert (rows.loc[[2, 3], "distance"] > 0).all()
    assert states.first == 2
    assert "parts from base at state 2 (after block 1)" in states.sentence
    changed = states.weights[states.weights["change"] > 0]
    assert changed["block"].tolist() == [1]
    assert changed["change"].iloc[0] == pytest.approx(0.5, rel=1e-5)
    assert "down_proj" in changed["weight"].iloc[0]
    series = interp.series(pair, TEXTS, ["rotation"], progress=False)
    members = compare_members(series, value="angle")
    assert members.frame.set_index("layer").loc[0, "changed"] == 0
    assert members.first["layer"] == 1


def test_distances_are_those_of_the_states(folder):
    found = compare_states(folder / "base", folder / "tuned", TEXTS).frame.set_index("state")
    models = [interp.load_model(folder / name) for name in ("base", "tuned")]
    apart, angle = [], []
    for text in TEXTS:
        x, y = (
            m.run_with_cache(text)[1]["blocks.2.hook_resid_post"][0, 1:].double() for m in models
        )
        apart += ((y - x).norm(dim=-1) / x.norm(dim=-1)).tolist()
        angle += torch.rad2deg(torch.arccos(torch.cosine_similarity(x, y, dim=-1))).tolist()
    assert found.loc[3, "distance"] == pytest.approx(np.mean(apart), rel=1e-4)
    assert found.loc[3, "angle"] == pytest.approx(np.mean(angle), rel=1e-3)
    assert found.loc[3, "n"] == len(apart)


def test_paired_statistics_are_those_of_scipy(run):
    found = compare_members(run, "checkpoint-1", "checkpoint-1000", value="angle", by="kind")
    frame = run["rotation"].frame
    frame = frame[~frame["special"]]
    keys = ["prompt", "position", "layer", "kind"]
    wide = frame.pivot_table(index=keys, columns="member", values="angle")
    wide["d"] = wide["checkpoint-1000"] - wide["checkpoint-1"]
    means = wide.reset_index().groupby(["kind", "layer", "prompt"])["d"].mean()
    row = found.frame.set_index(["group", "layer"]).loc[("odd", 2)]
    test = scipy.stats.ttest_1samp(means["odd", 2], 0)
    assert row["difference"] == pytest.approx(means["odd", 2].mean())
    assert row["t"] == pytest.approx(test.statistic)
    assert row["p"] == pytest.approx(test.pvalue)
    low, high = test.confidence_interval(0.95)
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert row["prompts"] == 3
    assert found.frame["p_holm"].max() <= 1
    holm = interp.stats.holm(found.frame["p"])
    assert found.frame["p_holm"].tolist() == pytest.approx(holm.tolist(), nan_ok=True)
    assert found.plot().data


def test_members_of_other_vocabularies_are_compared_by_words(folder, tmp_path):
    other = checkpoint(tmp_path / "letters", tokenizer=letters)
    series = interp.series([folder / "base", other], TEXTS, "rotation", progress=False)
    found = compare_members(series, value="angle")
    assert found.unit == "words"
    assert "read other tokens: words are compared" in " ".join(found.notes)
    words = sum(len(text.split()) for text in TEXTS)
    assert found.frame["n"].max() == words
    frame = series["rotation"].frame
    own = frame[(frame["member"] == "letters") & (frame["layer"] == 0) & (frame["word"] >= 0)]
    means = own.groupby(["prompt", "word"])["angle"].mean().groupby("prompt").mean()
    assert found.frame.set_index("layer").loc[0, "mean_b"] == pytest.approx(means.mean())
    with pytest.raises(BadInput, match="'base' and 'letters' read other tokens; interp layers"):
        compare_states(folder / "base", other, TEXTS)


def test_members_of_other_width_and_depth(folder, tmp_path):
    wide = checkpoint(tmp_path / "wide", hidden_size=32)
    with pytest.raises(BadInput, match="'base' is 24 wide and 'wide' 32: their states have no"):
        compare_states(folder / "base", wide, TEXTS)
    deep = checkpoint(tmp_path / "deep", num_hidden_layers=5)
    series = interp.series([folder / "base", deep], TEXTS, "rotation", progress=False)
    found = compare_members(series, value="angle")
    assert found.frame["layer"].tolist() == [0, 1, 2]
    assert "have no partner in the other member" in " ".join(found.notes)
    even = compare_members(series, value="angle", depth="relative")
    curves = series["rotation"].curves("angle").set_index(["member", "layer"])["mean"]
    row = even.frame.set_index("layer").loc[2]
    assert row["mean_b"] == pytest.approx(curves["deep", 4], rel=0.05)
    with pytest.raises(BadInput, match="a and b are both 'base'; name two members"):
        compare_members(series, "base", "base")
    with pytest.raises(UnknownName, match="unknown measured member 'bse'; did you mean 'base'"):
        compare_members(series, "bse", "deep")


# ---- stability of the space ------------------------------------------------------------------


def turned(model):
    """An edit that turns the embedding by a rotation: another training's axes."""
    weight = model.model.embed_tokens.weight
    turn = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(3)))[0]
    weight.copy_(weight @ turn)


@pytest.fixture(scope="module")
def spaces(tmp_path_factory):
    place = tmp_path_factory.mktemp("spaces")
    checkpoint(place / "base")
    checkpoint(place / "turned", edit=turned)
    checkpoint(place / "other", seed=1)
    return place


def test_a_turned_space_is_the_same_and_another_seed_is_not(spaces):
    names = ["base", "turned", "other"]
    found = space_stability({n: spaces / n for n in names}, pairs="all", resamples=59, k=5)
    table = found.frame.set_index(["a", "b", "measure"]).sort_index()
    same, unlike = table.loc[("base", "turned")], table.loc[("base", "other")]
    assert same.loc["residual", "value"] < 1e-4
    assert same.loc["cosine", "value"] == pytest.approx(1, abs=1e-5)
    assert same.loc["overlap", "value"] == pytest.approx(1, abs=0.02)
    assert same.loc["cka", "value"] == pytest.approx(1, abs=1e-4)
    assert (same["p"] == 1 / 60).all()
    # The pair stands out of the most alike pair of every draw, five measures are corrected for.
    assert same["p_max"].to_numpy() == pytest.approx(5 / 60)
    assert (unlike["p_max"] > 0.5).all()
    assert "59 permutations are too few for p_max < 0.05 over 5 measures" in " ".join(found.notes)
    for name in ("residual", "cosine", "overlap", "cka", "rsa"):
        row = unlike.loc[name]
        assert row["null_low"] - 0.05 <= row["value"] <= row["null_high"] + 0.05, name
    words = found.words[(found.words["a"] == "base") & (found.words["b"] == "other")]
    residual = np.sqrt((words["drift"] ** 2).mean())
    assert unlike.loc["residual", "value"] == pytest.approx(residual)
    assert unlike.loc["overlap", "value"] == pytest.approx(words["overlap"].mean())
    assert "least alike" in found.sentence


def test_scores_are_those_of_the_measures(spaces):
    found = space_stability({n: spaces / n for n in ("base", "other")}, pairs="all", resamples=9)
    models = [interp.load_model(spaces / n) for n in ("base", "other")]
    from interp.experiments.word_files import model_space

    x, y = (model_space(m, "W_E").rows(found.words["word"].tolist()) for m in models)
    table = found.frame.set_index("measure")["value"]
    assert table["cka"] == pytest.approx(interp.measures.linear_cka(x, y))
    assert table["rsa"] == pytest.approx(interp.measures.rsa(x, y))
    assert table["overlap"] == pytest.approx(interp.measures.mutual_knn(x, y, k=10))


def test_one_model_against_itself_does_not_drift(spaces):
    found = space_stability({"a": spaces / "base", "b": spaces / "base"}, pairs="all", resamples=9)
    assert found.words["drift"].eq(0).all()
    assert found.words["overlap"].eq(1).all()


def test_pairs_along_runs(folder, tmp_path):
    for seed in (0, 1):
        for step in (1, 10, 100):
            checkpoint(tmp_path / f"seed-{seed}" / f"step-{step}", seed=seed)
    runs = [tmp_path / "seed-0", tmp_path / "seed-1"]
    across = space_stability(*runs, resamples=9, k=3)
    assert across.pairs == "runs"
    assert across.frame["at"].unique().tolist() == [1, 10, 100]
    last = space_stability(*runs, pairs="last", resamples=9, k=3)
    assert last.frame.groupby("run").size().tolist() == [10, 10]
    following = space_stability(runs[0], pairs="next", resamples=9, k=3)
    assert following.frame[["a", "b"]].drop_duplicates().to_numpy().tolist() == [
        ["step-1", "step-10"], ["step-10", "step-100"],
    ]  # fmt: skip
    for found in (across, last, following):
        for name in found.drawings:
            assert found.plot(name).data, name
    with pytest.raises(BadInput, match="pairs='runs' leaves no pair of members"):
        space_stability(runs[0], pairs="runs")


def test_stability_refuses(spaces):
    pair = {n: spaces / n for n in ("base", "other")}
    with pytest.raises(UnknownName, match="unknown matrix 'W_X'"):
        space_stability(pair, matrix="W_X")
    with pytest.raises(UnknownName, match="unknown value of pairs 'lats'; did you mean 'last'"):
        space_stability(pair, pairs="lats")
    with pytest.raises(
        BadInput, match="fewer than two members have word vectors: .base. is left out"
    ):
        space_stability(pair, words=["zzzz", "qqqq"])
    with pytest.raises(BadInput, match="k is 99; allowed is 1 to"):
        space_stability(pair, k=99)


def test_findings_are_saved(run, tmp_path):
    found = change_points(run, value="angle", resamples=50)
    found.save(tmp_path / "out")
    again = pd.read_parquet(tmp_path / "out" / "changes.parquet")
    assert again["at"].tolist() == pytest.approx(found.frame["at"].tolist(), nan_ok=True)
    page = run.report(tmp_path / "r.html", findings=[found]).read_text(encoding="utf-8")
    assert "When in the series did the value change" in page
