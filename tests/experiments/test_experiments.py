"""Experiments on tables: against loops, SciPy and statsmodels; calibrated where nothing is true."""

from __future__ import annotations

import types

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from conftest import FULL
from scipy import special, stats

import interp
from analyses.logit_lens import LogitLens
from analyses.next_token import NextToken
from analyses.path_length import PathLength
from analyses.rotation import Rotation
from interp import BadInput
from interp.errors import UnknownName
from interp.experiments.tokens_or_words import join_words, units_of
from interp.stats.groups import clustered_omnibus, group_means
from interp.stats.labelings import Labelings
from interp.stats.shuffled import shuffled_correlation

TEXTS = [
    "the man saw her in a red house",
    "a queen told her",
    "the dog met him on the old road .",
    "she gave it to the small boy",
]
TAGS = ("NOUN", "VERB", "DET")


def table(
    seed: int, prompts: int = 12, tokens: int = 12, layers: int = 3, effect: float = 0.0
) -> pd.DataFrame:
    """Rows per token with a BOS, words of one to three tokens, tags, and prompts that differ."""
    random = np.random.default_rng(seed)
    parts = []
    for prompt in range(prompts):
        word = np.r_[-1, np.sort(random.integers(0, tokens // 2, tokens - 1))]
        tag = np.array(TAGS)[random.integers(0, 3, tokens)][word]
        level = random.normal() + effect * (tag == "VERB") + random.normal(size=tokens)
        part = {
            "prompt": prompt,
            "position": np.arange(tokens),
            "token_id": random.integers(0, 9, tokens),
            "special": word < 0,
            "word": word,
            "pos": np.where(word < 0, None, tag),
        }
        parts += [
            pd.DataFrame(part | {"layer": i, "path": level + i + 0.3 * random.normal(size=tokens)})
            for i in range(layers)
        ]
    return pd.concat(parts, ignore_index=True)


def outcome(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A table of outcomes that goes with `table`."""
    random = np.random.default_rng(seed)
    out = frame[frame["layer"] == 0][["prompt", "position"]].copy()
    out["logit"], out["log_prob"] = random.normal(size=(2, len(out)))
    out["rank"] = random.integers(0, 50, len(out)).astype(float)
    out.loc[out["position"] == out["position"].max(), ["logit", "log_prob", "rank"]] = np.nan
    return out


@pytest.fixture(scope="module")
def results(gpt2):
    analyses = (PathLength, Rotation, NextToken, LogitLens)
    labels = {"kind": ["x", "y", "x", "y"]}
    return interp.run(gpt2, TEXTS, analyses, labels=labels, progress=False)


# ---- the outcome -----------------------------------------------------------------------------


def test_next_token_is_the_output_by_scipy(gpt2, results):
    for prompt, text in enumerate(TEXTS):
        tokens = gpt2.to_tokens(text)
        with torch.no_grad():
            z = gpt2(tokens)[0].double().numpy()
        log_p = special.log_softmax(z, axis=-1)
        at = (np.arange(len(z) - 1), tokens[0, 1:].numpy())
        found = results["next_token"].frame.query("prompt == @prompt").sort_values("position")
        for name, value in {
            "logit": z[at],
            "log_prob": log_p[at],
            "rank": (z[:-1] > z[at][:, None]).sum(-1),
        }.items():
            expected = np.append(value, np.nan)
            np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["entropy"], stats.entropy(np.exp(log_p), axis=-1), 1e-4)
        np.testing.assert_allclose(found["top_prob"], np.exp(log_p).max(-1), rtol=1e-4)


def test_next_token_is_the_last_state_of_the_lens(results):
    lens = results["logit_lens"].frame
    last = lens[lens["layer"] == lens["layer"].max()]
    for name in ("log_prob", "rank", "entropy", "top_prob"):
        np.testing.assert_allclose(results["next_token"].frame[name], last[name], rtol=1e-4)


# ---- growth ----------------------------------------------------------------------------------


def test_growth_is_the_slope_of_the_log_norm(results):
    frame = results["path_length"].frame
    found = interp.experiments.growth_rate(results)
    for row in found.frame.itertuples():
        one = frame[(frame["prompt"] == row.prompt) & (frame["position"] == row.position)]
        one = one.sort_values("layer")
        norms = np.append(one["norm"], one["norm_after"].iloc[-1]).astype(float)
        line = stats.linregress(np.arange(len(norms)), np.log(norms))
        assert row.growth == pytest.approx(line.slope, rel=1e-5)
        assert row.r2 == pytest.approx(line.rvalue**2, rel=1e-4)
        assert row.factor == pytest.approx(np.exp(line.slope), rel=1e-5)
        across = np.sqrt(norms[0] ** 2 + np.r_[0, np.cumsum(one["step"].astype(float) ** 2)])
        control = stats.linregress(np.arange(len(norms)), np.log(across))
        assert row.orthogonal_growth == pytest.approx(control.slope, rel=1e-5)
        assert row.states == len(norms)


def test_growth_has_a_clustered_interval_without_special_tokens(results):
    found = interp.experiments.growth_rate(results)
    kept = found.frame.query("not special")
    row = found.mean.query("value == 'growth'").iloc[0]
    _same_as_statsmodels(row, kept["growth"], kept["prompt"])
    both = (
        interp.experiments.growth_rate(results, special=True)
        .mean.query("value == 'growth'")
        .iloc[0]
    )
    assert both["n"] - row["n"] == len(TEXTS)
    by = interp.experiments.growth_rate(results, by="kind").mean.query("value == 'growth'")
    assert by["kind"].tolist() == ["x", "y"]
    assert "growth of the norm per layer: ×" in repr(found)


def test_growth_is_judged_against_the_copy_token_by_token():
    """Prompts that differ far more than the two models, and alike in both."""
    rng = np.random.default_rng(8)
    rate = np.repeat(rng.normal(0.3, 0.2, 9), 4)
    tokens = pd.DataFrame({"prompt": np.arange(36) // 4, "position": np.arange(36) % 4})

    def grown(more, seed):
        own = rate + more + np.random.default_rng(seed).normal(scale=0.01, size=36)
        rows = [
            tokens.assign(layer=n, norm=np.exp(n * own), norm_after=np.exp((n + 1) * own), step=1.0)
            for n in range(3)
        ]
        return pd.concat(rows, ignore_index=True)

    results = types.SimpleNamespace(
        frame=grown(0.05, 1), control=types.SimpleNamespace(frame=grown(0.0, 2)[::-1])
    )
    found = interp.experiments.growth_rate(results)
    both = [f.frame.sort_values(["prompt", "position"]) for f in (found, found.control)]
    less = both[0]["factor"].to_numpy() - both[1]["factor"].to_numpy()
    band = stats.ttest_1samp(less.reshape(9, 4).mean(axis=1), 0).confidence_interval()
    low, high = (found.mean.set_index("value").loc["factor", end] for end in ("low", "high"))
    assert low < found.control.mean.set_index("value").loc["factor", "mean"] < high
    assert found.sentence.endswith(
        ": the norm grows faster than there (difference of the factors, paired by token: "
        f"{less.mean():+.3g} [{band.low:.3g}, {band.high:.3g}])"
    )


def test_growth_of_steps_at_right_angles_is_its_own_control():
    x = np.cumsum(np.eye(6)[None], axis=1)  # every step along a new axis
    norms = np.linalg.norm(x, axis=-1)
    frame = pd.DataFrame(
        {"prompt": 0, "position": 0, "layer": range(5), "norm": norms[0, :-1]}
        | {"norm_after": norms[0, 1:], "step": 1.0}
    )
    row = interp.experiments.growth_rate(frame).frame.iloc[0]
    assert row["growth"] == pytest.approx(row["orthogonal_growth"])


def test_growth_of_a_zero_vector_is_undefined_and_counted():
    frame = pd.DataFrame(
        {"prompt": [0, 0, 1, 1], "position": 0, "layer": [0, 1, 0, 1]}
        | {"norm": [0.0, 1, 2, 3], "norm_after": [1.0, 2, 3, 4], "step": 1.0}
    )
    found = interp.experiments.growth_rate(frame)
    assert found.frame["growth"].isna().tolist() == [True, False]
    assert found.notes == ("1 tokens have a norm of zero or NaN and no growth",)


# ---- statistics of groups --------------------------------------------------------------------


def _same_as_statsmodels(row, values, clusters) -> None:
    """Its cluster-robust error, with the correction for clusters of unequal size."""
    fit = sm.OLS(np.asarray(values, float), np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": np.asarray(clusters), "use_correction": False}
    )
    share = np.unique(np.asarray(clusters), return_counts=True)[1] / len(values)
    second, third = (share**2).sum(), (share**3).sum()
    rest = second - 2 * third + second**2
    half = stats.t.ppf(0.975, (1 - second) ** 2 / rest) * fit.bse[0] * (second / rest) ** 0.5
    assert row["mean"] == pytest.approx(fit.params[0], rel=1e-9)
    assert row["low"] == pytest.approx(fit.params[0] - half, rel=1e-6)
    assert row["high"] == pytest.approx(fit.params[0] + half, rel=1e-6)


def test_group_means_have_the_clustered_intervals_of_statsmodels():
    random = np.random.default_rng(0)
    cluster = random.integers(0, 9, 80)
    x = random.normal(size=(80, 2)) + random.normal(size=9)[cluster][:, None]
    x[3, 0] = np.nan
    code = random.integers(0, 3, 80)
    found = group_means(x, code, cluster)
    for g in range(3):
        for k in range(2):
            member = (code == g) & np.isfinite(x[:, k])
            row = {name: getattr(found, name)[g, k] for name in ("mean", "low", "high")}
            _same_as_statsmodels(row, x[member, k], cluster[member])
            assert found.n[g, k] == member.sum()
            assert found.sd[g, k] == pytest.approx(x[member, k].std(ddof=1))


def test_one_cluster_has_no_interval():
    found = group_means([[1.0], [2.0]], [0, 0], [5, 5])
    assert np.isnan(found.low).all()
    assert found.mean.item() == 1.5


def test_omnibus_has_the_classical_f_beside_it():
    random = np.random.default_rng(1)
    x, code = random.normal(size=(60, 2)), random.integers(0, 3, 60)
    x[7, 1] = np.nan
    found = clustered_omnibus(x, code, np.arange(60) // 6, resamples=99)
    for k in range(2):
        fine = np.isfinite(x[:, k])
        f, p = stats.f_oneway(*(x[fine & (code == g), k] for g in range(3)))
        assert found.anova_f[k] == pytest.approx(f)
        assert found.anova_p[k] == pytest.approx(p)


def test_omnibus_statistic_is_that_of_values_less_their_prompts_mean():
    random = np.random.default_rng(2)
    x, code, cluster = random.normal(size=(40, 1)), np.arange(40) % 3, np.arange(40) // 5
    centred = x[:, 0] - np.array([x[cluster == c, 0].mean() for c in range(8)])[cluster]
    found = clustered_omnibus(x, code, cluster, resamples=99)
    assert found.f[0] == pytest.approx(stats.f_oneway(*(centred[code == g] for g in range(3)))[0])
    between = sum((code == g).sum() * centred[code == g].mean() ** 2 for g in range(3))
    assert found.eta2[0] == pytest.approx(between / (centred**2).sum())


def test_shuffles_keep_the_groups_of_every_prompt():
    code = np.array([0, 1, 2, 0, 0, 1, 1, 1, 2, 2])
    cluster = np.array([0, 0, 0, 0, 1, 2, 2, 2, 3, 3])
    ways = Labelings(code, cluster)
    assert ways.several.tolist() == [True, False, False, False]
    drawn = ways.draw(300, np.random.default_rng(0))
    assert (np.sort(drawn[:, :4], axis=1) == [0, 0, 1, 2]).all()
    assert (drawn[:, 5] == drawn[:, 6]).all()
    assert (drawn[:, 8] == drawn[:, 9]).all()
    whole = np.sort(drawn[:, [4, 5, 8]], axis=1)
    assert (whole == [0, 1, 2]).all()
    assert len({tuple(row) for row in drawn[:, [4, 5, 8]].tolist()}) == 6


def test_groups_of_too_few_prompts_cannot_be_decided():
    rows = [
        {"prompt": p, "position": i, "layer": 0, "pos": TAGS[i], "path": 10.0 * i + p + 0.1 * i * p}
        for p in range(2)
        for i in range(2)
    ]
    found = interp.experiments.by_group(pd.DataFrame(rows), "path", level="token")
    assert found.smallest_p == 0.5  # two prompts of one noun and one verb each: four labelings
    text = "whether groups differ cannot be decided with so few prompts or shuffles: the smallest p"
    assert text in repr(found)
    many = pd.concat(
        [pd.DataFrame(rows).assign(prompt=lambda f, n=n: f["prompt"] + n) for n in range(0, 16, 2)]
    )
    assert "groups differ in 1 of 1 rows" in repr(
        interp.experiments.by_group(many, "path", level="token")
    )


def _levels(runs: int, seed: int, *, between: bool) -> tuple[float, float]:
    """How often the test and the classical one call nothing a difference at 0.05."""
    random = np.random.default_rng(seed)
    cluster, hits = np.repeat(np.arange(12), 5), np.zeros(2)
    for i in range(runs):
        x = random.normal(size=(60, 1)) + 2 * random.normal(size=12)[cluster][:, None]
        code = random.permutation(12)[cluster] % 3 if between else random.integers(0, 3, 60)
        found = clustered_omnibus(x, code, cluster, resamples=99, seed=i)
        hits += [found.p[0] <= 0.05, found.anova_p[0] <= 0.05]
    return tuple(hits / runs)


@pytest.mark.parametrize("between", [False, True])
def test_omnibus_keeps_its_level_under_shuffled_tags(between):
    runs = 2000 if FULL else 200
    own, classical = _levels(runs, 3, between=between)
    assert own <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / runs)
    assert own >= 0.05 - 3.5 * np.sqrt(0.05 * 0.95 / runs)
    if between:
        assert classical > 0.2  # tokens of one prompt are not independent


# ---- shuffled correlation --------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [False, True])
def test_shuffled_correlation_is_the_partial_correlation(ranks):
    random = np.random.default_rng(4)
    rest = random.normal(size=(50, 2))
    x, y = random.normal(size=(2, 50)) + rest.sum(axis=1)
    found = shuffled_correlation(x[:, None], y, np.arange(50) // 5, rest, ranks=ranks)
    if ranks:
        x, y, rest = stats.rankdata(x), stats.rankdata(y), stats.rankdata(rest, axis=0)
    left, right = (sm.OLS(v, sm.add_constant(rest)).fit().resid for v in (x, y))
    assert found.r[0] == pytest.approx(stats.pearsonr(left, right)[0])


def test_shuffled_correlation_without_covariates_is_that_of_permuted_values():
    random = np.random.default_rng(14)
    x, y, cluster = random.normal(size=12), random.normal(size=12), np.repeat([0, 1, 2], 4)
    found = shuffled_correlation(x[:, None], y, cluster, resamples=4000)
    shuffle = lambda: np.concatenate([random.permutation(y[cluster == c]) for c in range(3)])  # noqa: E731
    expected = [stats.pearsonr(x, shuffle())[0] for _ in range(2000)]
    assert np.mean(found.null) == pytest.approx(np.mean(expected), abs=0.02)
    assert np.std(found.null) == pytest.approx(np.std(expected), rel=0.06)


def test_shuffled_correlation_of_a_constant_is_undefined():
    found = shuffled_correlation(np.ones((6, 1)), np.arange(6.0), np.zeros(6), resamples=9)
    assert np.isnan(found.r[0])
    assert np.isnan(found.p[0])
    with pytest.raises(BadInput, match=r"x \(5, 1\), y \(6,\) and clusters \(6,\) do not match"):
        shuffled_correlation(np.ones((5, 1)), np.arange(6.0), np.zeros(6))


def test_shuffled_correlation_keeps_its_level():
    runs = 2000 if FULL else 200
    random, cluster, hits = np.random.default_rng(5), np.repeat(np.arange(8), 6), 0
    for i in range(runs):
        rest = random.normal(size=(48, 1)) + random.normal(size=8)[cluster][:, None]
        x, y = random.normal(size=(2, 48)) + rest[:, 0] + random.normal(size=8)[cluster]
        found = shuffled_correlation(x[:, None], y, cluster, rest, resamples=99, seed=i)
        hits += found.p[0] <= 0.05
    assert abs(hits / runs - 0.05) <= 3.5 * np.sqrt(0.05 * 0.95 / runs)


# ---- path and prediction ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def predicted():
    frame = table(6)
    tables = {"path_length": frame, "next_token": outcome(frame, 7)}
    return tables, interp.experiments.path_prediction(tables, resamples=200)


def test_one_outcome_covariate_or_group_needs_no_list(predicted, grouped):
    tables, _ = predicted
    asked = {"resamples": 20, "seed": 1}
    one = interp.experiments.path_prediction(
        tables, outcomes="rank", partial="position", **asked
    ).frame
    listed = interp.experiments.path_prediction(
        tables, outcomes=["rank"], partial=["position"], **asked
    ).frame
    pd.testing.assert_frame_equal(one, listed)
    with pytest.raises(BadInput, match=r"1 group\(s\) of 'pos' to compare"):
        interp.experiments.by_group(grouped[0], "path", groups="NOUN", resamples=20)


def test_path_prediction_is_scipy_and_statsmodels(predicted):
    tables, found = predicted
    path, out = tables["path_length"].query("not special"), tables["next_token"]
    counts = np.log1p(path[path["layer"] == 0]["token_id"].value_counts())
    for layer in range(3):
        rows = path[path["layer"] == layer].sort_values(["prompt", "position"])
        rows = rows.merge(out, on=["prompt", "position"])
        rows["own"] = rows["token_id"].map(counts)
        rows["next"] = rows.groupby("prompt")["own"].shift(-1)
        rows = rows.dropna(subset=["log_prob", "next"])
        got = found.frame.query("layer == @layer and outcome == 'log_prob'").iloc[0]
        assert got["n"] == len(rows)
        assert got["pearson"] == pytest.approx(stats.pearsonr(rows["path"], rows["log_prob"])[0])
        assert got["spearman"] == pytest.approx(stats.spearmanr(rows["path"], rows["log_prob"])[0])
        rest = sm.add_constant(rows[["position", "own", "next"]].to_numpy(float))
        left, right = (sm.OLS(rows[c], rest).fit().resid for c in ("path", "log_prob"))
        assert got["partial_pearson"] == pytest.approx(stats.pearsonr(left, right)[0])
        assert got["pearson_low"] <= got["pearson"] <= got["pearson_high"]
        assert got["pearson_shuffled_low"] < got["pearson_shuffled_high"]


def test_path_prediction_speaks_of_all_outcomes_and_layers(predicted):
    _, found = predicted
    assert found.frame["outcome"].unique().tolist() == ["logit", "log_prob", "rank"]
    assert len(found.frame) == 9
    assert "path over all layers with the next token (partial on position" in repr(found)
    assert any("12 special tokens were left out" in note for note in found.notes)
    assert found.plot("partial_pearson").layout.meta["panels"] == 3
    with pytest.raises(UnknownName, match="unknown coefficient 'kendall'"):
        found.plot("kendall")


def test_path_prediction_finds_what_was_put_there():
    frame = table(8)
    out = outcome(frame, 9)
    last = frame[frame["layer"] == 2].set_index(["prompt", "position"])["path"]
    out["log_prob"] = -last.loc[list(zip(out["prompt"], out["position"], strict=True))].to_numpy()
    found = interp.experiments.path_prediction(
        {"p": frame, "o": out}, outcomes=["log_prob"], resamples=200
    )
    whole = found.frame.iloc[-1]
    assert whole["pearson"] == pytest.approx(-1)
    assert whole["partial_spearman_shuffled_p"] < 0.01


def test_path_prediction_of_a_run(results):
    found = interp.experiments.path_prediction(results, resamples=50)
    assert set(found.frame["outcome"]) == {"logit", "log_prob", "rank"}
    lens = interp.Results([results["path_length"], results["logit_lens"]], {})
    other = interp.experiments.path_prediction(lens, resamples=50)
    assert set(other.frame["outcome"]) == {"log_prob", "rank"}
    columns = ["pearson", "partial_spearman"]
    same = found.frame[found.frame["outcome"] != "logit"]
    np.testing.assert_allclose(other.frame[columns], same[columns], atol=1e-6)
    turned = interp.experiments.path_prediction(results, value="angular_path", resamples=50)
    assert "'angular_path' from 'rotation'" in turned.notes[0]


def test_path_prediction_names_the_target_of_the_run(gpt2, tmp_path):
    analyses, how = (PathLength, NextToken), {"targets": "woman", "progress": False}
    results = interp.run(gpt2, TEXTS, analyses, control="random-init", **how)
    for source in (results, interp.load(results.save(tmp_path / "out"))):
        found = interp.experiments.path_prediction(source, resamples=20)
        for part in (found, found.control):
            assert "path over all layers with 'woman' (partial on" in part.sentence
            assert "up to each layer and 'woman': spearman" in part.drawing().title
        told = "the outcome is that of 'woman', and next_log_frequency of the token that comes"
        assert any(note.startswith(told) for note in found.notes)
    alone = interp.experiments.path_prediction(results, partial=["position"], resamples=20)
    assert not any("comes next" in note for note in alone.notes)


def test_path_prediction_names_other_targets(gpt2):
    from interp.experiments import path_prediction

    analyses = (PathLength, NextToken)
    several = ["woman", "man", "her", "the"]
    found = interp.run(gpt2, TEXTS, analyses, targets=several, progress=False)
    assert "with the targets given (" in path_prediction(found, resamples=20).sentence
    del found.provenance["answers"]  # as folders of earlier versions
    assert "with the targets given (" in path_prediction(found, resamples=20).sentence
    with interp.attach(gpt2, *analyses, targets="woman") as probes:
        for text in TEXTS:
            gpt2(text)
        assert "with 'woman' (" in path_prediction(probes.results, resamples=20).sentence
        probes.answer()
        gpt2(TEXTS[0])
    assert "with the targets given (" in path_prediction(probes.results, resamples=20).sentence
    tokens = gpt2.to_tokens(TEXTS[0])
    _, cache = gpt2.run_with_cache(tokens)
    read = interp.from_cache(cache, analyses, tokens=tokens, model=gpt2, targets="woman")
    assert read.provenance["answers"]["texts"] == {str(gpt2.to_single_token("woman")): "woman"}


def test_frequencies_may_be_given_by_text_or_id(results):
    counts = {"the": 100.0, " the": 100.0, "man": 3.0}
    found = interp.experiments.path_prediction(results, frequency=counts, resamples=20).tokens
    text = found["token"].map(counts).fillna(0)
    np.testing.assert_allclose(found["log_frequency"], np.log1p(text))
    assert found["log_frequency"].max() > 4


def test_path_prediction_refuses_what_it_cannot_use(gpt2, results):
    rotation = interp.Results([results["rotation"]], {})
    with pytest.raises(BadInput, match=r"no table here has the outcome per token \(there are: rot"):
        interp.experiments.path_prediction(rotation, value="angular_path")
    with pytest.raises(UnknownName, match="unknown value column 'pth'; did you mean 'path'"):
        interp.experiments.path_prediction(results, value="pth")
    with pytest.raises(UnknownName, match="unknown covariate 'frequency'"):
        interp.experiments.path_prediction(results, partial=["frequency"])
    with pytest.raises(UnknownName, match="unknown outcome in 'next_token' 'loss'"):
        interp.experiments.path_prediction(results, outcomes=["loss"])
    with pytest.raises(BadInput, match="value and outcome are both 'rank'"):
        interp.experiments.path_prediction(
            interp.Results([results["logit_lens"]], {}), value="rank"
        )
    few = interp.run(gpt2, ["the man saw"], (PathLength, NextToken), progress=False)
    with pytest.raises(BadInput, match="2 tokens have path, logit, log_prob, rank, position"):
        interp.experiments.path_prediction(few)
    kept = interp.run(gpt2, TEXTS, (PathLength,), keep="summary", progress=False)
    with pytest.raises(BadInput, match="'path_length' keeps moments of 'path', not a row per tok"):
        interp.experiments.path_prediction(kept)


# ---- words -----------------------------------------------------------------------------------


@pytest.mark.parametrize("join", ["mean", "last", "sum"])
def test_words_are_joined_as_a_loop_does(join):
    frame = table(10, prompts=4)
    frame.loc[5, "path"] = np.nan
    found, _ = units_of(frame, "path", "pos", level="word", join=join)
    expected = {}
    for row in frame.sort_values("position").itertuples():
        if row.word >= 0:
            expected.setdefault((row.layer, row.prompt, row.word), []).append(row)
    assert len(found) == len(expected)
    for row in found.itertuples():
        tokens = expected[row.layer, row.prompt, row.word]
        values = [t.path for t in tokens]
        value = {"mean": np.mean(values), "last": values[-1], "sum": np.sum(values)}[join]
        assert row.path == pytest.approx(value, nan_ok=True)
        assert row.pos == tokens[0].pos
        assert row.position == tokens[-1].position


def test_words_whose_tokens_disagree_are_left_out_and_said():
    rows = pd.DataFrame(
        {"prompt": 0, "position": range(5), "word": [0, 0, 1, 1, -1]}
        | {"pos": ["NOUN", "VERB", "NOUN", None, "DET"], "path": 1.0}
    )
    found, notes = join_words(rows, "path", "pos", "mean")
    assert found[["word", "pos"]].to_numpy().tolist() == [[1, "NOUN"]]
    assert notes == [
        "1 tokens belong to no word and were left out",
        "1 words whose tokens have different 'pos' were left out",
    ]


def test_what_is_read_off_the_prediction_is_that_of_the_last_token():
    frame = table(11).rename(columns={"path": "log_prob"})
    found = interp.experiments.by_group(frame, "log_prob", resamples=20)
    assert "tokens of a word: last" in found.notes
    last = frame[frame["word"] >= 0].groupby(["layer", "prompt", "word"])["log_prob"].last()
    assert found.frame["mean"].mean() != pytest.approx(frame["log_prob"].mean())
    np.testing.assert_allclose(np.sort(found.units["log_prob"]), np.sort(last))


# ---- groups ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grouped():
    frame = table(12, effect=1.5)
    return frame, interp.experiments.by_group(frame, "path", resamples=200)


def test_by_group_gives_the_means_of_words(grouped):
    frame, found = grouped
    words = frame[frame["word"] >= 0].groupby(["layer", "prompt", "word"], as_index=False)
    words = words.agg(path=("path", "mean"), pos=("pos", "first"))
    for row in found.frame.to_dict("records"):
        rows = words[(words["layer"] == row["layer"]) & (words["pos"] == row["pos"])]
        assert row["n"] == len(rows)
        assert row["prompts"] == rows["prompt"].nunique()
        _same_as_statsmodels(row, rows["path"], rows["prompt"])
    total = found.total.set_index("pos")["mean"]
    last = words[words["layer"] == 2].groupby("pos")["path"].mean()
    np.testing.assert_allclose(total.loc[last.index], last)


def test_by_group_takes_the_states_of_a_merged_table(grouped):
    frame, wanted = grouped
    merged = frame.assign(state=frame["layer"] + 1).drop(columns="layer")
    found = interp.experiments.by_group(merged, "path", resamples=200)
    ours, theirs = found.frame.drop(columns="state"), wanted.frame.drop(columns="layer")
    pd.testing.assert_frame_equal(ours, theirs)
    pd.testing.assert_frame_equal(found.total, wanted.total)
    assert sorted(set(found.frame["state"])) == [1, 2, 3]
    assert {d.x for d in found.drawings.values()} == {"state"}


def test_by_group_finds_what_was_put_there_and_says_so(grouped):
    _, found = grouped
    assert (found.tests["p_max"] < 0.05).all()
    assert found.total_test["p"].iloc[0] < 0.05
    assert (found.tests["eta2"] > 3 * found.tests["shuffled_eta2"]).all()
    assert (found.tests["f"] > found.tests["shuffled_f"]).all()
    assert repr(found).startswith("path by pos (words): groups differ in 3 of 3 rows")
    assert len(found.plot().layout.annotations) >= 3


def test_pairs_are_those_of_compare_corrected_over_all(grouped):
    _, found = grouped
    assert len(found.pairs) == 3 * 3
    one = found.pairs.query("a == @found.groups[0] and b == @found.groups[1]")
    alone = interp.compare(found.units, "path", "pos", *found.groups[:2], by="layer", resamples=200)
    np.testing.assert_allclose(one["difference"], alone.frame["difference"])
    np.testing.assert_allclose(one["p"], alone.frame["permutation_p"])
    np.testing.assert_allclose(found.pairs["p_holm"], interp.stats.holm(found.pairs["p"]))


@pytest.mark.parametrize(
    ("value", "how"), [("angle", "sum"), ("angular_path", "last"), ("turning", "mean")]
)
def test_totals_over_layers(value, how):
    frame = table(13).rename(columns={"path": value})
    if value == "turning":
        frame.loc[frame["layer"] == 2, value] = np.nan
    found = interp.experiments.by_group(frame, value, level="token", resamples=20)
    rows = frame[~frame["special"] & frame[value].notna()]
    whole = rows.sort_values("layer").groupby(["prompt", "position"])
    whole = whole.agg(x=(value, how), pos=("pos", "first")).groupby("pos")["x"].mean()
    np.testing.assert_allclose(found.total.set_index("pos")["mean"].loc[whole.index], whole)
    assert f"total over layers: {how}" in found.notes


def test_one_layer_or_none_is_enough(results):
    frame = table(14, layers=1)
    assert len(interp.experiments.by_group(frame, "path", resamples=20).tests) == 1
    flat = interp.experiments.by_group(frame.drop(columns="layer"), "path", resamples=20)
    assert len(flat.tests) == 1
    assert "one place, no layers" in flat.notes
    assert "read the table" in flat.plot().layout.annotations[0].text
    output = interp.experiments.by_group(results, "top_prob", "kind", level="token", resamples=20)
    assert output.value == "top_prob"


def test_by_group_is_calibrated_under_shuffled_tags():
    """Tags that mean nothing: the family-wise p over layers is below 0.05 in 5 % of tables."""
    runs = 400 if FULL else 40
    hits = 0
    for seed in range(runs):
        found = interp.experiments.by_group(
            table(100 + seed, prompts=8), "path", resamples=99, seed=seed
        )
        hits += found.tests["p_max"].min() <= 0.05
    assert hits / runs <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / runs)


def test_by_group_refuses_what_it_cannot_use(results):
    frame = table(15)
    with pytest.raises(UnknownName, match="unknown label in 'the table' 'tag'.*interp.spacy_tags"):
        interp.experiments.by_group(frame, "path", "tag")
    with pytest.raises(UnknownName, match="unknown value column 'pth'; did you mean 'path'"):
        interp.experiments.by_group(frame, "pth")
    with pytest.raises(BadInput, match="no unit has pos = 'NOWN'; did you mean 'NOUN'.; there are"):
        interp.experiments.by_group(frame, "path", groups=["NOWN", "VERB"])
    with pytest.raises(BadInput, match=r"1 group\(s\) of 'pos' to compare; at least two"):
        interp.experiments.by_group(frame[frame["pos"].isin(["NOUN"])], "path")
    with pytest.raises(BadInput, match="level='words'; did you mean 'word'"):
        interp.experiments.by_group(frame, "path", level="words")
    with pytest.raises(BadInput, match="join='first'; it is one of mean, last, sum"):
        interp.experiments.by_group(frame, "path", join="first")
    with pytest.raises(BadInput, match="total='sums'; did you mean 'sum'"):
        interp.experiments.by_group(frame, "path", total="sums")
    with pytest.raises(BadInput, match="no column 'word'.*level='token' compares tokens"):
        interp.experiments.by_group(frame.drop(columns="word"), "path")
    with pytest.raises(BadInput, match="no token belongs to a word"):
        interp.experiments.by_group(frame.assign(word=-1), "path")
    with pytest.raises(BadInput, match=r"'path' is constant \(1 in all"):
        interp.experiments.by_group(frame.assign(path=1.0), "path")
    with pytest.raises(BadInput, match="'path' is undefined for every unit with a 'pos'"):
        interp.experiments.by_group(frame.assign(path=np.nan), "path")
    with pytest.raises(UnknownName, match="unknown group of 'pos' 'ADJ'"):
        interp.experiments.by_group(frame, "path", resamples=9).compare("NOUN", "ADJ")


def test_rare_groups_are_left_out_and_named():
    frame = table(16)
    lone = (frame["prompt"] == 0) & (frame["word"] == frame.loc[frame["prompt"] == 0, "word"].max())
    frame.loc[lone, "pos"] = "INTJ"
    found = interp.experiments.by_group(frame, "path", resamples=20)
    assert set(found.groups) == set(TAGS)
    assert "groups with too few units were left out: INTJ" in found.notes


# ---- tags ------------------------------------------------------------------------------------


def test_gold_tags_of_the_demo_language(gpt2):
    found = interp.run(gpt2, "demo", (PathLength, Rotation), truncate=True, progress=False)
    for value in ("path", "turning"):
        by = interp.experiments.by_group(found, value, resamples=20)
        assert {"NOUN", "VERB", "DET"} <= set(by.groups)
        assert by.tests["p"].notna().sum() >= len(gpt2.blocks) - 1


def test_tags_of_a_spacy_pipeline(gpt2):
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    for tag, words in {
        "NOUN": "man queen dog house road boy",
        "DET": "the a",
        "VERB": "saw told met",
    }.items():
        ruler.add([[{"LOWER": {"IN": words.split()}}]], {"POS": tag})
    run = interp.run(gpt2, TEXTS, (Rotation,), labellers=[interp.spacy_tags(nlp)], progress=False)
    found = interp.experiments.by_group(run, "angle", resamples=20)
    assert set(found.groups) == {"NOUN", "DET", "VERB"}
    assert found.total.set_index("pos").loc["NOUN", "n"] == 6
