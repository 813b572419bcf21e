"""Comparisons of two groups: what they report, refuse and show."""

from __future__ import annotations

import itertools
import math
import types
import warnings

import numpy as np
import pandas as pd
import pytest
from counting import counted
from scipy import stats as scipy_stats
from stats_help import FULL, null_tables, rng_of, tidy, within_band

from interp.errors import BadInput, UnknownName
from interp.render.draw import figure
from interp.stats.classical import (
    benjamini_hochberg,
    holm,
)
from interp.stats.compare import compare
from interp.stats.comparison import Comparison
from interp.stats.correlation import correlation
from interp.stats.resampling import clustered_bootstrap, clustered_permutation
from interp.stats.table import table_with

# ---- which table, which groups ----------------------------------------------------------------


def tables(**frames):
    return {name: types.SimpleNamespace(frame=frame) for name, frame in frames.items()}


def test_of_several_tables_the_only_one_with_the_column_is_taken():
    frame = tidy()
    other = frame.rename(columns={"angle": "norm"})
    pd.testing.assert_frame_equal(her(tables(x=other, y=frame)).frame, her(frame).frame)
    pd.testing.assert_frame_equal(her(tables(y=frame)).frame, her(frame).frame)


def test_a_column_of_several_tables_or_of_none_is_refused_by_name():
    frame = tidy()
    text = r"'angle' is a column of 2 tables: x, y; choose one: --analysis x, or results\['x'\]"
    with pytest.raises(BadInput, match=text):
        her(tables(x=frame, y=frame, z=frame.drop(columns="angle")))
    with pytest.raises(UnknownName, match="'angel'; did you mean 'angle'"):
        compare(tables(x=frame, y=frame), "angel", "role", "target", "previous")


def test_the_usual_table_is_taken_where_it_has_the_column_or_none_has():
    frame = tidy()
    other = frame.rename(columns={"angle": "norm"})
    several = tables(x=frame, rotation=frame, y=other)
    assert table_with(several, "angle", usual="rotation") == "rotation"
    assert table_with(several, "norm", usual="rotation") == "y"
    assert table_with(several, "angel", usual="rotation") == "rotation"


@pytest.mark.parametrize(("given", "missing"), [({}, "a"), ({"a": "target"}, "b")])
def test_groups_that_are_not_given_are_named(given, missing):
    frame = tidy()
    frame = frame[frame["role"].isin(["target", "previous"])]
    counts = frame.loc[~frame["special"], "role"].value_counts()
    held = ", ".join(f"{name!r} \\({n} rows\\)" for name, n in counts.items())
    first, second = map(repr, counts.index)
    text = (
        f"two groups of 'role' are compared, and {missing} is not given; it holds {held}: "
        f"pass them, as in a={first}, b={second}"
    )
    with pytest.raises(BadInput, match=text):
        compare(frame, "angle", between="role", **given)


def texts(*given):
    """A table with these texts as prompts, a token per letter, in two layers."""
    rows = [
        {"prompt": i, "position": k, "token": letter, "layer": layer, "role": "ab"[k % 2]}
        for layer in (0, 1)
        for i, text in enumerate(given)
        for k, letter in enumerate(text)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(angle=rng_of(1).normal(size=len(frame)))


def repeats(frame):
    notes = compare(frame, "angle", "role", "a", "b", resamples=99).notes
    return [note for note in notes if "repeat" in note]


def test_prompts_that_are_the_same_token_by_token_are_noted():
    several = texts("walk", "talk", "walk", "walks", "talk", "walk")
    assert repeats(several) == [
        "3 of 6 prompts repeat another one token by token: they are no independent samples, so "
        "that intervals are too narrow and p too small"
    ]
    assert not repeats(texts("walk", "talk", "walks"))
    # Of a part of the tokens nobody knows what the rest was.
    assert not repeats(several[several["position"] > 1])


# ---- compare ---------------------------------------------------------------------------------


@pytest.fixture
def frame():
    return tidy()


def her(source, **options):
    options = {"resamples": 300} | options
    return compare(source, "angle", "role", "target", "previous", **options)


def cells(frame, layer, role):
    rows = frame[(frame["layer"] == layer) & (frame["role"] == role) & ~frame["special"]]
    return rows.set_index("prompt")["angle"]


def test_compare_counts_and_describes_each_layer(frame):
    table = her(frame).frame
    assert table["layer"].tolist() == [0, 1, 2, 3]
    for row in table.itertuples():
        a, b = cells(frame, row.layer, "target"), cells(frame, row.layer, "previous")
        assert (row.nan_a, row.nan_b) == (a.isna().sum(), b.isna().sum())
        assert (row.n_a, row.prompts_b) == (a.notna().sum(), b.notna().sum())
        assert row.prompts_both == row.pairs == (a - b).notna().sum()
        wanted = [a.mean(), b.mean(), a.std(), b.std(), a.mean() - b.mean()]
        got = [row.mean_a, row.mean_b, row.sd_a, row.sd_b, row.difference]
        assert got == pytest.approx(wanted)
    for name in ("mean_a", "mean_b", "difference", "hedges_g"):
        assert (table[f"{name}_low"] < table[name]).all()
        assert (table[f"{name}_high"] > table[name]).all()


def test_compare_tests_agree_with_scipy(frame):
    for row in her(frame).frame.itertuples():
        a, b = cells(frame, row.layer, "target"), cells(frame, row.layer, "previous")
        pairs = (a - b).dropna()
        a, b = a.dropna(), b.dropna()
        welch, student = (scipy_stats.ttest_ind(a, b, equal_var=e) for e in (False, True))
        assert (row.welch_t, row.welch_p) == pytest.approx((welch.statistic, welch.pvalue))
        assert (row.student_t, row.student_p) == pytest.approx((student.statistic, student.pvalue))
        assert row.mann_whitney_p == pytest.approx(scipy_stats.mannwhitneyu(a, b).pvalue)
        assert row.paired_p == pytest.approx(scipy_stats.ttest_1samp(pairs, 0).pvalue)
        assert row.wilcoxon_p == pytest.approx(scipy_stats.wilcoxon(pairs).pvalue)
        assert row.d_z == pytest.approx(pairs.mean() / pairs.std())


def test_compare_corrects_over_its_rows_and_shows_the_control(frame):
    table = her(frame).frame
    for test in ("welch", "student", "mann_whitney", "paired", "wilcoxon", "permutation"):
        p = table[f"{test}_p"].to_numpy()
        np.testing.assert_allclose(table[f"{test}_p_bh"], benjamini_hochberg(p))
        np.testing.assert_allclose(table[f"{test}_p_holm"], holm(p))
    assert (table["permutation_p_max"] >= table["permutation_p"]).all()
    assert (table["permutation_p_holm"][:2] > 0.05).all()
    assert (table["permutation_p_holm"][2:] < 0.05).all()
    beyond = table["difference"] > table["shuffled_high"]
    assert beyond.tolist() == [False, False, True, True]
    assert (table["shuffled_low"] < 0).all()
    assert table["shuffled_t"].between(1.5, 3.5).all()
    assert (table["shuffled_welch_rate"] < 0.15).all()


def test_compare_sees_the_clusters_of_layers(frame):
    runs = her(frame).layer_runs
    assert runs.loc[0, ["first", "last", "size"]].tolist() == [2, 3, 2]
    assert runs["p"][0] < 0.05


def test_all_runs_that_pass_are_told_with_their_place_and_direction(frame):
    heads = pd.concat(
        [
            frame.assign(head=h, angle=frame["angle"] + shift * (frame["role"] == "target"))
            for h, shift in enumerate([0.0, -2.5, -1.25])
        ],
        ignore_index=True,
    )
    found = her(heads)
    passing = found.layer_runs[found.layer_runs["p"] < 0.05]
    assert set(zip(passing["head"], np.sign(passing["mass"]), strict=True)) >= {(0, 1), (1, -1)}
    first = found.runs_found.iloc[0]
    way = "higher" if first["mass"] > 0 else "lower"
    assert (
        f"; strongest of {len(passing)} runs of layers that differ: "
        f"{first['first']:g}–{first['last']:g} of head {first['head']:g}, target {way}, p = "
    ) in found.sentence


def test_the_former_name_of_the_layer_runs_names_the_new_one(frame):
    with pytest.raises(AttributeError, match="clusters is now Comparison.layer_runs"):
        _ = her(frame).clusters


def test_the_control_unmasks_tests_over_tokens_between_prompts():
    frame = tidy(prompts=30, tokens=20, missing=0)
    found = compare(frame, "angle", "kind", "even", "odd", resamples=300)
    assert (found.frame["shuffled_welch_rate"] > 0.3).all()
    assert "labels shuffled between whole prompts: none of 30 carries both" in found.notes


def test_a_word_is_said_on_the_differences_of_the_untrained_copy(frame):
    """Layers 2 and 3 differ; the copy does so in layer 3 alone, or nowhere."""

    def beside(shift):
        copy = frame.copy()
        own = (copy["role"] == "target").astype(float) * copy["layer"].map(shift)
        copy["angle"] = np.random.default_rng(4).normal(20, 0.5, len(copy)) + own
        return her(types.SimpleNamespace(frame=frame, control=types.SimpleNamespace(frame=copy)))

    found = beside({0: 0, 1: 0, 2: -9, 3: 5})
    assert found.frame.loc[found.differs, "layer"].tolist() == [2, 3]
    rows = found.frame.set_index("layer")
    copy, own = rows["control_within_difference"], rows["within_difference"]
    less = rows["within_difference_minus_control"]
    assert less[2] > 5 > 0 > -1 > less[3]
    assert (
        "untrained copy: of the 2 layers that differ, 1 differ by more than in the copy and 1 by "
        "less (the same tokens in both, paired; maximum statistic, p < 0.05). Differences in the "
        f"copy (model in brackets): {copy[2]:+.3g} ({own[2]:+.3g}) at layer 2"
    ) in found.notes
    assert found.notes[-1] in found.text()
    same = beside({0: 0, 1: 0, 2: own[2], 3: own[3]}).notes[-1]
    assert "0 differ by more than in the copy and 0 by less" in same
    assert " at layer 2, " in same
    copy = frame.assign(prompt=frame["prompt"] + 100)
    control = types.SimpleNamespace(frame=copy)
    other = her(types.SimpleNamespace(frame=frame, control=control))
    assert other.frame["contrast_minus_control_p"].isna().all()
    assert "its differences (model in brackets): " in other.notes[-1]
    assert other.notes[-1].endswith("tokens it lacks or the table does not keep")
    assert not [note for note in her(frame).notes if "untrained" in note]


def test_the_paired_test_against_the_copy_holds_its_level():
    """Both models have one and the same effect, and prompts that differ alike in both."""
    rng, hits, trials = np.random.default_rng(11), 0, 60
    for _ in range(trials):
        wide = np.repeat(rng.normal(scale=3, size=10), 2)
        frame, copy = (
            pd.DataFrame(
                {"prompt": np.arange(20) // 2, "position": np.arange(20) % 2, "layer": 0}
                | {"role": ["target", "previous"] * 10, "angle": rng.normal(size=20) + own}
            )
            for own in [wide * (np.arange(20) % 2) + 2.0] * 2
        )
        result = types.SimpleNamespace(frame=frame, control=types.SimpleNamespace(frame=copy))
        found = compare(result, "angle", "role", "target", "previous", resamples=99, by=())
        hits += int(found.frame["contrast_minus_control_p"][0] < 0.05)
    # 99 shuffles give p = 0.01 k: below 0.05 are four of a hundred.
    assert within_band(hits, trials, rate=0.04)


def test_order_and_index_of_rows_do_not_matter(frame):
    mixed = pd.concat([frame[::2], frame[1::2]]).reset_index(drop=True)
    mixed.index = np.zeros(len(mixed), int)
    pd.testing.assert_frame_equal(her(mixed).frame, her(frame).frame)


def test_results_and_other_types_of_column_are_taken(frame):
    plain = her(frame).frame
    result = types.SimpleNamespace(frame=frame.assign(role=frame["role"].astype("category")))
    pd.testing.assert_frame_equal(her(result).frame, plain)
    nullable = frame.assign(angle=frame["angle"].astype("Float64"))
    pd.testing.assert_frame_equal(her(nullable).frame, plain)
    yes = frame.assign(angle=frame["angle"].fillna(0) > 10)
    assert her(yes).frame["mean_a"].between(0, 1).all()


def test_infinite_values_count_as_undefined(frame):
    frame.loc[frame["angle"].isna(), "angle"] = np.inf
    pd.testing.assert_frame_equal(her(frame).frame, her(tidy()).frame)


def test_special_tokens_are_left_out_unless_asked(frame):
    kept = her(frame, special=True)
    assert kept.frame["n_a"].sum() > her(frame).frame["n_a"].sum()
    assert her(frame).notes[0] == (
        "48 rows of special tokens were left out (--special, or special=True, keeps them)"
    )
    assert not any("special" in note for note in kept.notes)


def test_rows_are_told_apart_by_stack_layer_and_head(frame):
    both = pd.concat(
        [frame.assign(stack=s, head=h) for s in ("decoder", "encoder") for h in (0, 1)]
    )
    found = her(both)
    assert found.by == ("stack", "layer", "head")
    assert len(found.frame) == 16
    np.testing.assert_allclose(
        found.frame["welch_p"].to_numpy()[:2], her(frame).frame["welch_p"][0]
    )
    assert list(found.layer_runs.columns[:2]) == ["stack", "head"]
    runs = found.layer_runs
    assert set(zip(runs["stack"][:4], runs["head"][:4], strict=True)) == set(
        itertools.product(("decoder", "encoder"), (0, 1))
    )


def test_a_merged_table_is_compared_state_by_state(frame):
    merged = frame.assign(state=frame["layer"] + 1).drop(columns="layer")
    found, wanted = her(merged), her(frame)
    assert found.by == ("state",)
    ours, theirs = found.frame.drop(columns="state"), wanted.frame.drop(columns="layer")
    pd.testing.assert_frame_equal(ours, theirs)
    assert found.frame["state"].tolist() == (wanted.frame["layer"] + 1).tolist()
    assert not any("averaged" in note for note in found.notes)
    assert found.layer_runs["first"].tolist() == (wanted.layer_runs["first"] + 1).tolist()
    drawn = next(iter(found.drawings.values()))
    assert (drawn.kind, drawn.x) == ("two_panels", "state")
    related = frame.rename(columns={"layer": "state"}).assign(twice=2 * frame["angle"])
    assert correlation(related, "angle", "twice", null="none")["state"].tolist() == [0, 1, 2, 3]


def test_layer_tells_rows_apart_where_state_stands_beside_it_or_is_a_label(frame):
    beside = frame.assign(state=frame["layer"] + 1)
    assert her(beside).by == ("layer",)
    label = frame[frame["layer"] == 0].drop(columns="layer").assign(state="Ohio")
    assert her(label).by == ()


def test_what_by_leaves_out_is_averaged_per_token(frame):
    heads = pd.concat([frame.assign(head=h, angle=frame["angle"] + h) for h in (0, 4)])
    found = her(heads, by="layer")
    np.testing.assert_allclose(found.frame["mean_a"], her(frame).frame["mean_a"] + 2)
    np.testing.assert_allclose(found.frame["welch_p"], her(frame).frame["welch_p"])
    assert "up to 2 rows per token were averaged; by= can keep them apart" in found.notes


def test_layers_themselves_can_be_compared(frame):
    found = compare(frame, "angle", "layer", 0, 3, by=(), resamples=99)
    assert len(found.frame) == 1
    wanted = [frame.loc[(frame["layer"] == k) & ~frame["special"], "angle"].mean() for k in (0, 3)]
    assert found.frame[["mean_a", "mean_b"]].iloc[0].tolist() == pytest.approx(wanted)
    assert found.layer_runs.empty


def test_paired_reduces_each_prompt_to_one_mean_per_group(frame):
    frame.loc[frame["prompt"] == 3, "role"] = None
    frame.loc[(frame["prompt"] == 4) & (frame["role"] == "random"), "role"] = None
    found = compare(frame, "angle", "role", "random", "previous", paired=True, resamples=300)
    assert "1 of 11 prompts lack a group and were dropped" in found.notes
    rows = frame[~frame["special"]].groupby(["layer", "role", "prompt"])["angle"].mean()
    for row in found.frame.itertuples():
        pairs = pd.concat([rows[row.layer, "random"], rows[row.layer, "previous"]], axis=1).dropna()
        theirs = scipy_stats.ttest_rel(pairs.iloc[:, 0], pairs.iloc[:, 1])
        assert row.n_a == row.n_b == row.pairs == len(pairs)
        assert row.permutation_t == pytest.approx(theirs.statistic)
        assert row.paired_p == pytest.approx(theirs.pvalue)


def test_null_none_skips_the_shuffles(frame):
    found = her(frame, null="none")
    assert found.frame.filter(regex="permutation|shuffled").isna().all(axis=None)
    assert found.layer_runs.empty
    assert "(clustered, Holm p < 0.05)" in repr(found)


# ---- compare: what cannot be computed --------------------------------------------------------


def test_small_layers_are_nan_with_a_note(frame):
    drop = (frame["layer"] == 1) & (frame["role"] == "target") & (frame["prompt"] > 0)
    found = her(frame[~drop])
    row = found.frame.loc[1]
    assert row[["mean_a", "difference", "welch_p", "permutation_p", "shuffled_t"]].isna().all()
    assert row["n_a"] <= 1
    assert "layer 1: fewer than two values in a group, the row is NaN" in found.notes
    assert found.frame.loc[[0, 2, 3], "permutation_p"].notna().all()


def test_undefined_values_are_counted_in_a_note(frame):
    count = int(
        sum(cells(frame, k, r).isna().sum() for k in range(4) for r in ("target", "previous"))
    )
    assert f"{count} values of 'angle' are undefined and left out: nan_a, nan_b" in her(frame).notes


def test_a_constant_layer_is_noted(frame):
    frame.loc[frame["layer"] == 2, "angle"] = 0.1
    found = her(frame)
    assert found.frame.loc[2, ["welch_p", "hedges_g", "paired_p", "wilcoxon_p"]].isna().all()
    assert "layer 2: both groups are constant, t tests and effect size are NaN" in found.notes


def test_one_prompt_has_no_clustered_interval():
    found = her(
        tidy(prompts=1, tokens=40, missing=0).assign(
            role=lambda f: np.where(f["position"] % 2 == 0, "target", "previous")
        )
    )
    assert found.frame[["difference_low", "permutation_p", "shuffled_t"]].isna().all(axis=None)
    assert found.frame["welch_p"].notna().all()
    assert "only 1 prompt(s): clustered intervals are wide or undefined" in found.notes
    assert any("a group lies in one prompt" in note for note in found.notes)


def test_the_smallest_p_is_noted(frame):
    few = her(frame, resamples=19)
    assert "19 shuffles: permutation_p_max is 0.05 or more" in few.notes
    assert "no permutation p can fall below 0.05" in few.notes
    text = "0.05, not below 0.05"
    assert not few.decidable
    assert few.finding() == (
        "cannot be decided with so few shuffles (raise resamples): the smallest p that any "
        f"labeling could have got is {text}"
    )
    more = her(frame, resamples=60)
    assert "60 shuffles: permutation_p_max is 0.016 or more" in more.notes
    assert any("permutation_p_holm is 0.066 or more over 4 rows" in n for n in more.notes)


def pairs_table(prompts, rows, effect, seed=0):
    """A token of each group per prompt, a common level per prompt, rows that correlate."""
    rng = rng_of(60, seed)
    x = rng.normal(size=(prompts, 2, rows)) + rng.normal(size=(prompts, 1, 1))
    x += 0.7 * rng.normal(size=(prompts, 2, 1))
    x[:, 0] += effect
    index = pd.MultiIndex.from_product([range(prompts), ["a", "b"], range(rows)])
    frame = index.to_frame(index=False, name=["prompt", "role", "layer"])
    return frame.assign(position=(frame["role"] == "b").astype(int), angle=x.ravel())


def test_few_prompts_find_what_is_there_and_say_what_they_cannot_find():
    ten = compare(pairs_table(10, 30, 100.0), "angle", "role", "a", "b")
    assert ten.exact
    assert ten.smallest_p == 2 / 2**10
    assert (ten.frame["permutation_p_holm"] > 0.05).all()  # what the correction over rows leaves
    assert ten.finding() == "30 of 30 layers differ (permutation, maximum statistic, p < 0.05)"
    assert "all 1,024 labelings were taken, each once: permutation_p_max is 0.002 or more" in (
        ten.notes
    )
    five = compare(pairs_table(5, 30, 100.0), "angle", "role", "a", "b")
    assert not five.decidable
    assert five.smallest_p == 2 / 2**5
    assert (
        "; cannot be decided with so few prompts: the smallest p that any labeling could have "
        in (repr(five))
    )
    assert "layers differ" not in repr(five)
    assert compare(pairs_table(6, 3, 100.0), "angle", "role", "a", "b").differs.all()


def test_many_rows_find_what_is_there_with_the_default_number_of_shuffles():
    found = compare(pairs_table(54, 270, 0.9), "angle", "role", "a", "b")
    assert not (found.frame["permutation_p_holm"] < 0.05).any()
    assert found.differs.sum() > 100
    assert found.family_p == "permutation_p_max"


def test_the_maximum_statistic_of_few_labelings_holds_its_level():
    alarms, trials = 0, 1500 if FULL else 300
    for trial in range(trials):
        found = compare(
            pairs_table(7, 12, 0.0, seed=trial), "angle", "role", "a", "b", resamples=128
        )
        assert found.exact
        alarms += found.differs.any()
    low, high = scipy_stats.binom.interval(0.998, trials, 6 / 128)  # the largest p below 0.05
    assert alarms <= high
    assert alarms >= low


def opposite_contrasts(prompts=30, seed=1):
    """Target is 1° lower within every prompt, and prompts of a high level hold more targets."""
    rng = rng_of(61, seed)
    parts = []
    for prompt in range(prompts):
        targets = 2 if prompt < prompts // 2 else 8
        role = np.where(rng.permutation(10) < targets, "target", "other")
        level = 10.0 if prompt < prompts // 2 else 20.0
        angle = level + rng.normal(0, 0.7, 10) - (role == "target")
        parts.append(
            pd.DataFrame({"prompt": prompt, "position": range(10), "role": role, "angle": angle})
        )
    return pd.concat(parts, ignore_index=True).assign(layer=0)


def test_the_contrast_that_p_is_about_is_the_one_reported():
    frame = opposite_contrasts()
    found = compare(frame, "angle", "role", "target", "other")
    row = found.frame.iloc[0]
    assert row["difference"] > 2
    assert row["permutation_p"] == pytest.approx(1 / 2001)
    assert row["permutation_t"] < -5
    api = pytest.importorskip("statsmodels.formula.api")
    fit = api.ols("angle ~ C(role, Treatment('other')) + C(prompt)", frame).fit()
    assert row["within_difference"] == pytest.approx(fit.params.iloc[1])
    assert row["within_difference_low"] < -1 < row["within_difference_high"] < 0
    assert found.contrast == "within_difference"
    assert any("opposite signs (prompts with other levels" in note for note in found.notes)
    assert row["shuffled_within_low"] < 0 < row["shuffled_within_high"]
    assert row["within_g"] < 0 < row["hedges_g"]
    shown = repr(found).splitlines()[1].split()
    assert shown.index("within_difference") < shown.index("difference")
    same = compare(frame, "angle", "role", "target", "other", null="none")
    assert same.contrast == "difference"  # of which clustered_p is


def test_the_contrast_within_prompts_is_that_of_least_squares():
    api = pytest.importorskip("statsmodels.api")
    for kind in ("within", "mixed"):
        x, labels, clusters = null_tables(kind, 12, 2, rng_of(62))
        x += 100 + 5 * rng_of(63).normal(size=12)[clusters][:, None]
        x[3, 1] = np.nan
        fit = clustered_bootstrap(x, labels, clusters, resamples=50)["within"]
        tested = clustered_permutation(x, labels, clusters, resamples=20)
        np.testing.assert_allclose(tested.within, fit.estimate)
        mixed = np.array(
            [0 < labels[clusters == c].sum() < (clusters == c).sum() for c in range(12)]
        )
        block = np.where(mixed[clusters], clusters, 12)
        for k in range(2):
            use = np.isfinite(x[:, k])
            dummies = [(block[use] == b).astype(float) for b in np.unique(block[use])]
            design_matrix = np.column_stack([labels[use], *dummies])
            how = {"groups": clusters[use], "use_correction": False}
            theirs = api.OLS(x[use, k], design_matrix).fit(cov_type="cluster", cov_kwds=how)
            assert fit.estimate[k] == pytest.approx(theirs.params[0])
            assert fit.se[k] == pytest.approx(theirs.bse[0] * math.sqrt(12 / 11))
    x, labels, clusters = null_tables("between", 12, 2, rng_of(64))
    fit = clustered_bootstrap(x, labels, clusters, resamples=50)
    np.testing.assert_equal(fit["within"], fit["difference"])


@pytest.mark.parametrize("kind", ["within", "mixed"])
def test_interval_of_the_contrast_within_prompts_covers(kind):
    missed, calls = 0, 150 if FULL else 25
    for call in range(calls):
        rng = rng_of(65, call)
        x, labels, clusters = null_tables(kind, 24, 20, rng)
        x[labels] += 0.5
        fit = clustered_bootstrap(x, labels, clusters, resamples=299, seed=call)["within"]
        missed += ((fit.low > 0.5) | (fit.high < 0.5)).sum()
    assert 0.02 * calls * 20 < missed
    assert missed <= scipy_stats.binom.isf(1e-3, calls * 20, 0.06)


@pytest.mark.parametrize(("skewed", "most"), [(False, 0.1), (True, 0.2)])
def test_interval_of_g_misses_as_often_as_its_docstring_tells(skewed, most):
    """The spread that g divides by is known badly where values are skewed."""
    missed = trials = 0
    for call in range(100 if FULL else 20):
        rng = rng_of(66, call)
        x, labels, clusters = null_tables("within", 24, 20, rng, skewed)
        spread = math.sqrt(2 * (math.e - 1) * math.e) if skewed else math.sqrt(2)
        x[labels] += spread
        fit = clustered_bootstrap(x, labels, clusters, resamples=299, seed=call)["hedges_g"]
        missed += ((fit.low > 1) | (fit.high < 1)).sum()
        trials += 20
    assert missed / trials < most
    assert (missed / trials > 0.06) == skewed


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"value": "angel"}, UnknownName, r"unknown value column 'angel'; did you mean 'angle'\?"),
        ({"between": "rol"}, UnknownName, r"unknown column 'rol'; did you mean 'role'\?"),
        ({"cluster": "promt"}, UnknownName, r"unknown column 'promt'; did you mean 'prompt'\?"),
        ({"by": "laier"}, UnknownName, r"unknown column 'laier'; did you mean 'layer'\?"),
        ({"by": ["layer", "role"]}, BadInput, "names 'role', which the comparison already uses"),
        (
            {"value": "token"},
            BadInput,
            r"'token' is str, not numeric \(for example ' x'\); numeric",
        ),
        (
            {"a": "targte"},
            BadInput,
            r"role has no rows 'targte'; did you mean 'target'\?; it holds 'random' \(96 rows\), ",
        ),
        ({"b": "target"}, BadInput, "a and b are both 'target'; two different groups"),
        ({"confidence": 95}, BadInput, "confidence is 95; it must lie between 0 and 1"),
        ({"resamples": 0}, BadInput, "resamples is 0; it must be 1 or more"),
        ({"null": "permutatoin"}, BadInput, r"did you mean 'permutation'\?; it is one of permu"),
        ({"result": 3}, BadInput, "a table is needed, not int: pass a Result or a DataFrame"),
    ],
)
def test_bad_input_is_named_with_what_is_allowed(frame, change, error, match):
    call = {"result": frame, "value": "angle", "between": "role", "a": "target", "b": "previous"}
    with pytest.raises(error, match=match):
        compare(**call | change)


def test_data_that_cannot_be_compared_is_refused(frame):
    with pytest.raises(BadInput, match=r"'angle' is constant \(2 in all 96 values\)"):
        her(frame.assign(angle=2.0))
    with pytest.raises(
        BadInput, match="no row has two values of 'angle' in each group; at most 1 "
    ):
        her(frame[frame["prompt"] == 0].assign(angle=1.0))
    with pytest.raises(
        BadInput, match="no row has two values of 'angle' in each group; at most 0 "
    ):
        her(frame.assign(angle=np.nan))
    only_special = frame[(frame["role"] != "target") | frame["special"]]
    with pytest.raises(BadInput, match="'target' occurs in special tokens only"):
        her(only_special)
    source = frame["prompt"].where((frame["prompt"] > 0) | (frame["position"] != 3))
    with pytest.raises(BadInput, match="4 of 96 rows have no 'source' to cluster by"):
        her(frame.assign(source=source), cluster="source")
    with pytest.raises(BadInput, match="prompts that carry both groups; 0 of 12 do"):
        compare(frame, "angle", "kind", "even", "odd", paired=True)


# ---- compare: shown --------------------------------------------------------------------------


def test_text_forms_are_short_and_escaped(frame):
    odd = frame.assign(role=frame["role"].replace("previous", "<script>"))
    found = compare(odd, "angle", "role", "target", "<script>", resamples=300)
    text = repr(found).splitlines()
    assert text[0].startswith(
        "angle: role 'target' against '<script>'; 2 of 4 layers differ (permutation, "
        "maximum statistic, p < 0.05); strongest run of layers: 2–3, target higher, p = 0.0066"
    )
    assert len(text) < 14
    assert "welch" not in text[1]  # it takes tokens as independent
    page = found._repr_html_()
    assert "<script>" not in page
    assert page.count("<tr") == 5


def test_text_form_of_many_layers_keeps_the_strongest():
    found = her(tidy(layers=20))
    shown = [line.split()[0] for line in repr(found).splitlines()[2:10]]
    strongest = found.frame["within_g"].abs().nlargest(8).index
    assert [int(layer) for layer in shown] == sorted(found.frame["layer"][strongest])


def test_plot_hands_one_drawing_to_the_renderer(frame, monkeypatch):
    seen = []

    def drawn(drawing):
        seen.append(drawing)
        return figure(drawing)

    monkeypatch.setattr("interp.stats.comparison.figure", drawn)
    found = her(frame, null="none")
    assert isinstance(found, Comparison)
    found.plot()
    (drawing,) = seen
    assert drawing.kind == "two_panels"
    (own,) = found.drawings.values()
    pd.testing.assert_frame_equal(drawing.table, own.table)


def test_resamples_are_drawn_in_whole_arrays():
    """No call in Python for each of them: the experiment takes a second, not minutes."""
    frame, made = tidy(prompts=54, tokens=6, layers=48), {}
    for resamples in (100, 100, 2000):
        with counted() as made[resamples]:
            her(frame, resamples=resamples)
    assert made[2000].calls - made[100].calls < 1900


# ---- labels that are booleans --------------------------------------------------------------------


def _booleans() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    size = 120
    return pd.DataFrame(
        {
            "prompt": np.arange(size) // 12,
            "position": np.arange(size) % 12,
            "layer": 0,
            "generated": rng.random(size) < 0.4,
            "value": rng.normal(size=size),
        }
    )


def _summary_of_two_labels(frame: pd.DataFrame) -> pd.DataFrame:
    kinds = np.where(frame["position"] < 4, "x", "y")
    names = ["layer", "generated", "kind"]
    parts = frame.assign(kind=kinds, generated=frame["generated"].astype(str)).groupby(names)
    table = parts["value"].agg(n="count", mean="mean", std="std").reset_index()
    return table.assign(value="value", undefined=0)


@pytest.mark.parametrize("of", [lambda f: f, _summary_of_two_labels])
def test_true_and_false_are_found_whatever_their_case(of):
    frame = _booleans()
    written = of(frame)
    found = compare(written, "value", "generated", "true", "FALSE", resamples=20).frame
    assert found["n_a"].tolist() == [frame["generated"].sum()]
    assert found["n_b"].tolist() == [(~frame["generated"]).sum()]
    with pytest.raises(BadInput, match="a and b are both"):
        compare(written, "value", "generated", "true", "True")


def test_the_case_of_other_labels_counts():
    frame = _booleans().assign(kind=["True", "other"] * 60)
    with pytest.raises(BadInput, match="kind has no rows 'true'"):
        compare(frame, "value", "kind", "true", "other")


def test_an_unknown_group_of_a_summary_is_told_the_tokens_of_the_others():
    frame = _booleans()
    counts = frame["generated"].value_counts()
    told = rf"it holds '{counts.index[0]}' \({counts.iloc[0]} tokens\), '.*' \({counts.iloc[1]} tok"
    with pytest.raises(BadInput, match=told):
        compare(_summary_of_two_labels(frame), "value", "generated", "yes", "True")


@pytest.mark.parametrize("prompts", [2, 6])
def test_layers_before_an_ablation_are_equal_and_the_others_compared_without_a_warning(prompts):
    rows = []
    for prompt, position, layer in itertools.product(range(2 * prompts), range(6), range(8)):
        own = np.random.default_rng((prompt % prompts, position, layer)).normal()
        ablated = prompt >= prompts
        moved = np.random.default_rng((9, prompt, position, layer)).normal(0.5)
        x = own + moved * (ablated and layer > 4)
        rows.append((prompt, position, layer, "ablated" if ablated else "clean", x))
    frame = pd.DataFrame(rows, columns=["prompt", "position", "layer", "kind", "angle"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(frame, "angle", between="kind", a="ablated", b="clean").frame
    early = found[found["layer"] <= 4]
    assert (early[["permutation_p", "permutation_p_max", "clustered_p"]] == 1).all(axis=None)
    zero = ["difference", "within_difference", "hedges_g", "permutation_t", "clustered_t"]
    assert (early[zero] == 0).all(axis=None)
    assert not np.isinf(found.select_dtypes("number")).any(axis=None)


def test_the_rows_that_are_shown_are_told_by_their_rule():
    ten = compare(pairs_table(10, 30, 3.0), "angle", "role", "a", "b", resamples=99)
    assert "shown: 8 of 30 rows (those of the largest within_g, in either direction), " in repr(ten)
    by_prompt = compare(pairs_table(10, 3, 30.0), "angle", "role", "a", "b", by=(), resamples=99)
    assert "1 of 1 rows differ" in by_prompt.sentence
