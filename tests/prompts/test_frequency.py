"""Word frequencies: as labels, as covariates of path and prediction, and as bins of groups."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest
from prompts_help import byte_level
from scipy import stats as scipy_stats
from stats_help import FULL, rng_of, within_band
from typer.testing import CliRunner

import interp
from interp import BadInput
from interp.cli import app
from interp.experiments import by_group, path_prediction

TEXTS = ["He met her, the xqzzy man", "Don't go 12 there!"]


# --- labels -----------------------------------------------------------------------------------


def test_without_the_package_the_fix_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    prompts = interp.read_prompts(TEXTS, byte_level())
    with pytest.raises(BadInput, match=r"not installed; pip install 'interp-stream\[words\]'"):
        prompts.label(interp.prompts.word_frequency())


def test_every_token_has_the_frequency_of_its_whole_word():
    wordfreq = pytest.importorskip("wordfreq")
    prompts = interp.read_prompts(TEXTS, byte_level()).label(interp.prompts.word_frequency())
    index = prompts.index()
    by_word = {
        (i, k): wordfreq.zipf_frequency(word, "en")
        for i, words in enumerate(
            [["He", "met", "her", ",", "the", "xqzzy", "man"], ["Don't", "go", "12", "there", "!"]]
        )
        for k, word in enumerate(words)
    }
    assert index["zipf"].dtype == np.float64
    for row in index.itertuples():
        value = by_word.get((row.prompt, row.word), 0.0)
        assert row.zipf == value or (value == 0.0 and np.isnan(row.zipf)), row
    assert index["zipf"][index["special"]].isna().all()
    (note,) = prompts.notes
    assert f"wordfreq {interp_version()}, language 'en'; 3 of 12 words and signs" in note


def interp_version():
    from importlib.metadata import version

    return version("wordfreq")


def test_another_language_and_name():
    pytest.importorskip("wordfreq")
    german = interp.read_prompts(["der Mann traf"], byte_level())
    marked = german.label(interp.prompts.word_frequency("de", name="seltenheit"))
    assert max(filter(None, marked.labels["seltenheit"][0])) > 7
    with pytest.raises(BadInput, match=r"no words of the language 'xx'.*known: ar, bg"):
        german.label(interp.prompts.word_frequency("xx"))
    with pytest.raises(BadInput, match="no word of the 1 prompts is in the list of 'en'"):
        interp.read_prompts(["xqzzy !!"], byte_level()).label(interp.prompts.word_frequency())
    ids = interp.read_prompts([[300, 301]], None)
    with pytest.raises(BadInput, match="cannot place word frequencies in prompt 0"):
        ids.label(interp.prompts.word_frequency())


def test_a_language_whose_words_need_a_package(monkeypatch):
    wordfreq = pytest.importorskip("wordfreq")

    def lacking(word, language):
        raise ModuleNotFoundError("No module named 'jieba'", name="jieba")

    monkeypatch.setattr(wordfreq, "zipf_frequency", lacking)
    with pytest.raises(BadInput, match=r"\(jieba\); pip install 'wordfreq\[cjk\]'"):
        interp.read_prompts(["a"], byte_level()).label(interp.prompts.word_frequency("zh"))


def test_a_command_labels_and_the_tables_and_comparisons_have_it(tmp_path):
    pytest.importorskip("wordfreq")
    out = tmp_path / "out"
    asked = ["run", "--prompts", "her", "--analyses", "rotation,path_length,next_token"]
    asked += ["--frequency", "en", "--out", str(out), "--quiet", "--json"]
    ran = CliRunner().invoke(app, asked)
    assert ran.exit_code == 0, ran.output
    results = interp.load(out)
    frame = results["rotation"].frame
    assert frame["zipf"].dtype == np.float64
    assert frame["zipf"].between(1, 8).sum() > 0.8 * (~frame["special"]).sum()
    assert any("Zipf frequency" in note for note in results.provenance["prompts"]["notes"])
    for command in (
        ["compare", str(out), "--by", "pos", "--a", "NOUN", "--b", "VERB"],
        ["groups", str(out), "--by", "zipf"],
        ["predict", str(out), "--partial", "position,zipf,next_zipf"],
    ):
        more = ["--adjust", "zipf"] if command[0] == "compare" else []
        found = CliRunner().invoke(app, [*command, *more, "--resamples", "49", "--json"])
        assert found.exit_code == 0, found.output
        assert "zipf" in json.dumps(json.loads(found.output))
    refused = CliRunner().invoke(app, ["run", "--corpus", "x.txt", "--frequency", "en"])
    assert refused.exit_code != 0
    assert "--spacy and --frequency are for --prompts" in str(refused.exception)


# --- covariates of path and prediction --------------------------------------------------------


def run_of(rng, prompts=30, tokens=14, path=0.0, shared=1.0):
    """Tables of a run in which frequency and position drive the path and the prediction."""
    n = prompts * tokens
    table = pd.DataFrame(
        {
            "prompt": np.repeat(np.arange(prompts), tokens),
            "position": np.tile(range(tokens), prompts),
        }
    )
    table["token_id"] = rng.integers(0, 50, n)
    table["special"] = table["position"] == 0
    zipf = rng.normal(5, 1, n)
    following = np.append(zipf[1:], np.nan)
    ends = table["position"] == tokens - 1
    step = -shared * zipf + 0.1 * table["position"] + rng.normal(size=n)
    outcome = shared * np.nan_to_num(following) + shared * zipf + path * step
    outcome = outcome + 0.1 * table["position"] + rng.normal(size=n)
    table["zipf"] = np.where(rng.random(n) < 0.1, np.nan, zipf)
    table.loc[ends, "zipf"] = zipf[ends]
    walked = pd.concat(
        [table.assign(layer=layer, path=step * (layer + 1)) for layer in (0, 1)], ignore_index=True
    )
    told = table.drop(columns="zipf").assign(log_prob=outcome.where(~ends), rank=1.0)
    return {"path_length": walked, "next_token": told}


def test_partial_correlations_are_those_of_residuals():
    tables = run_of(rng_of(1), path=0.5)
    covariates = ["position", "zipf", "next_zipf"]
    found = path_prediction(tables, outcomes=["log_prob"], partial=covariates, resamples=50)
    table = tables["path_length"].query("layer == 1").copy()
    table["next_zipf"] = table.groupby("prompt")["zipf"].shift(-1)
    table["log_prob"] = tables["next_token"]["log_prob"].to_numpy()
    table = table[~table["special"]].dropna(subset=["path", "log_prob", *covariates])
    row = found.frame.iloc[1]
    assert row["n"] == len(tables["next_token"].query("not special").dropna())
    for kind in ("pearson", "spearman"):
        values = table[["path", "log_prob", *covariates]].to_numpy()
        if kind == "spearman":
            values = scipy_stats.rankdata(values, axis=0)
        rest = np.column_stack([np.ones(len(values)), values[:, 2:]])
        x, y = (v - rest @ np.linalg.lstsq(rest, v, rcond=None)[0] for v in values[:, :2].T)
        assert row[f"partial_{kind}"] == pytest.approx(scipy_stats.pearsonr(x, y)[0], abs=1e-9)
    # Frequency alone would make them fall together; the path itself raises the outcome.
    assert row["partial_pearson"] > row["pearson"] + 0.15
    assert row["partial_pearson_low"] > 0.2
    assert "partial on position, zipf, next_zipf" in found.sentence


def test_frequency_alone_makes_no_partial_correlation():
    trials = 200 if FULL else 50
    hits = plain = 0
    for trial in range(trials):
        tables = run_of(rng_of(2, trial), prompts=12, tokens=8)
        tables["path_length"] = tables["path_length"].query("layer == 0")
        found = path_prediction(
            tables,
            outcomes=["log_prob"],
            partial=["position", "zipf", "next_zipf"],
            resamples=79,
            seed=trial,
        )
        hits += found.frame["partial_pearson_shuffled_p"].iloc[0] <= 0.05
        plain += found.frame["pearson_shuffled_p"].iloc[0] <= 0.05
    assert within_band(hits, trials)
    assert plain > 0.5 * trials


def test_next_values_are_those_of_the_next_position_of_the_prompt():
    tables = run_of(rng_of(3))
    walked = tables["path_length"]
    gone = (walked["prompt"] == 2) & (walked["position"] == 5)
    found = path_prediction(
        tables | {"path_length": walked[~gone]},
        outcomes=["log_prob"],
        partial=["zipf", "next_zipf"],
        resamples=20,
    )
    rows = found.tokens.query("layer == 0").set_index(["prompt", "position"])
    zipf = walked.query("layer == 0").set_index(["prompt", "position"])["zipf"]
    assert rows.loc[(1, 4), "next_zipf"] == pytest.approx(zipf[1, 5], nan_ok=True)
    assert np.isnan(rows.loc[(2, 4), "next_zipf"])
    assert np.isnan(rows.loc[(3, 13), "next_zipf"])


def test_a_covariate_that_is_not_there_is_refused():
    tables = run_of(rng_of(4))
    bare = {
        "path_length": tables["path_length"].drop(columns="zipf"),
        "next_token": tables["next_token"],
    }
    for name in ("zipf", "next_zipf"):
        with pytest.raises(BadInput, match=f"no covariate '{name}': .*--frequency en"):
            path_prediction(bare, partial=[name])
    with pytest.raises(interp.errors.UnknownName, match="unknown covariate 'next_zpf'"):
        path_prediction(tables, partial=["next_zpf"])
    texts = {
        "path_length": tables["path_length"].assign(pos="x"),
        "next_token": tables["next_token"],
    }
    with pytest.raises(BadInput, match="column 'pos' is .*, not numeric"):
        path_prediction(texts, partial=["pos"])


# --- groups -----------------------------------------------------------------------------------


def test_groups_of_numbers_are_bins_of_equal_size():
    tables = run_of(rng_of(5))
    walked = tables["path_length"].assign(word=tables["path_length"]["position"])
    found = by_group(walked, "path", "zipf", resamples=99)
    plain = walked.query("not special and layer == 0").dropna(subset=["zipf"])
    bins = pd.qcut(plain["zipf"], 4)
    means = plain.groupby(bins, observed=True)["path"].mean()
    rows = found.frame.query("layer == 0")
    assert rows["n"].tolist() == bins.value_counts(sort=False).tolist()
    np.testing.assert_allclose(rows["mean"], means)
    edges = [name.split(" to ") for name in found.groups]
    low, high = plain.groupby(bins, observed=True)["zipf"].agg(["min", "max"]).to_numpy().T
    np.testing.assert_allclose(
        [[float(a), float(b)] for a, b in edges], np.c_[low, high], rtol=1e-3
    )
    assert any("was cut into 4 bins" in note for note in found.notes)
    assert (found.tests["p_max"] < 0.05).all()
    found.plot()
    walked["turn"] = walked["position"]
    three = by_group(walked, "path", "turn", bins=3, resamples=9)
    assert three.groups == ("1 to 5", "6 to 9", "10 to 13")
    whole = by_group(walked, "path", "turn", resamples=9)
    assert len(whole.groups) == 13  # whole numbers are groups unless bins are asked for
    with pytest.raises(BadInput, match="by='position' is a column that tells rows apart"):
        by_group(walked, "path", "position", bins=3)
    with pytest.raises(BadInput, match="bins=1; groups to compare are at least 2"):
        by_group(walked, "path", "zipf", bins=1)
