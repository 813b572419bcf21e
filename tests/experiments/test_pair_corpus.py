"""Pairs in shards: equal to the tables in memory, the same bits after a crash, failures, nulls."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from corpus_help import same, write_jsonl

import interp
from interp.errors import BadInput, InterpError, UnknownName
from interp.experiments.pair_corpus import run as pair_run
from interp.experiments.pair_corpus import worker
from interp.experiments.pair_corpus.worker import PairsWorker
from interp.experiments.pair_finding import Pairs, PairsSummary
from interp.stats.flips import flip_signs, flip_test

QUIET = {"progress": False}
FEW = ("rotation", "logit_lens")
RANDOM = ("p", "p_max", "unrelated_p", "unrelated_p_max")


def id_pairs(n, length=7, changed=(2,), seed=0):
    """Pairs of ids that differ at some positions, with a label."""
    rng = np.random.default_rng(seed)
    clean = rng.integers(5, 90, (n, length))
    corrupted = clean.copy()
    for position in changed:
        corrupted[:, position] = (clean[:, position] + rng.integers(1, 80, n)) % 85 + 5
    return [
        {"clean": a.tolist(), "corrupted": b.tolist(), "kind": "ab"[i % 2]}
        for i, (a, b) in enumerate(zip(clean, corrupted, strict=True))
    ]


def summary(model, pairs, out, analyses=FEW, **options):
    given = {"keep": "summary", "shard_pairs": 10, "sample": 99, "resamples": 400} | QUIET | options
    return interp.pairs(model, pairs, analyses, out=out, **given)


def without(rows, *names):
    return [{k: v for k, v in row.items() if k not in names} for row in rows]


@pytest.fixture(scope="module")
def rows():
    return [*id_pairs(23), *id_pairs(7, length=5, seed=1)]


@pytest.fixture(scope="module")
def found(gpt2, rows, tmp_path_factory):
    """Thirty pairs of two lengths in three shards, all of them in the sample."""
    return summary(gpt2, rows, tmp_path_factory.mktemp("pairs") / "out", by=["kind"], answer=11)


# ---- equal to what memory holds ----------------------------------------------------------------


def test_one_window_gives_the_tables_in_memory(gpt2, rows, tmp_path):
    """The same passes: intervals, means, t and controls are equal; flips are other draws."""
    options = {"answer": 11, "wrong": 12, "threshold": 0.1, "resamples": 4000, "seed": 3}
    whole = interp.pairs(gpt2, without(rows, "kind"), FEW, patch=False, **options, **QUIET)
    found = summary(gpt2, rows, tmp_path / "o", shard_pairs=99, **options)
    assert list(found.frame) == list(whole.frame)
    for name in found.frame:
        near = {"atol": 0.05} if name in RANDOM else {"rtol": 1e-9, "atol": 1e-12}
        np.testing.assert_allclose(found.frame[name], whole.frame[name], err_msg=name, **near)
    assert set(whole.tests) - set(found.tests) == {"wilcoxon_p", "wilcoxon_p_holm"}
    for name in found.tests:
        given, expected = found.tests[name], whole.tests[name]
        if name in ("analysis", "column"):
            assert given.tolist() == expected.tolist()
        else:
            near = {"atol": 0.05} if name in RANDOM else {"rtol": 1e-7, "atol": 1e-9}
            np.testing.assert_allclose(given, expected, err_msg=name, **near)
    for name in ("tokens", "distances", "parting"):
        kept = getattr(found, name)[list(getattr(whole, name))]
        pd.testing.assert_frame_equal(kept, getattr(whole, name), check_dtype=False)
    for name, table in whole.differences.items():
        pd.testing.assert_frame_equal(found.differences[name], table, check_dtype=False)
    assert found.onsets["column"].tolist() == whole.onsets["column"].tolist()
    known = whole.parting
    told = {"places": len(known), "parted": known["parts"].notna().sum()}
    assert {name: found.facts[name] for name in told} == told
    assert found.facts["met"] == known["meets"].notna().sum()


def grouped(found, name, column, keys):
    """Means of each pair in float64 by pandas, from the rows of all pairs."""
    table = found.distances if name == "distances" else found.differences[name]
    tokens = found.tokens[~found.tokens["special"]]
    rows = table.merge(tokens[["pair", "place", "part", "kind"]], on=["pair", "place"])
    if "part" not in keys:
        rows = rows[rows["part"] != "before"]
    return rows.groupby([*keys, "layer", "pair"], dropna=False)[column].mean()


@pytest.mark.parametrize(
    ("name", "column"),
    [("distances", "angle"), ("distances", "unrelated_distance"), ("rotation", "angle"),
     ("logit_lens", "log_prob")],
)  # fmt: skip
def test_summaries_are_those_of_pandas(found, name, column):
    """By part and label over three shards, in float64, the pair as the unit."""
    table = found.summary.query("analysis == @name and column == @column")
    for part, read in (("read", False), ("changed", True), ("last", True), ("before", True)):
        keys = ["kind", *(["part"] if read else [])]
        means = grouped(found, name, column, keys)
        if read:
            means = means.xs(part, level="part")
        groups = means.groupby(["kind", "layer"])
        own = table[table["part"] == part].set_index(["kind", "layer"]).sort_index()
        expected = groups.agg(["count", "mean", "std", "min", "max"]).sort_index()
        assert own.index.tolist() == expected.index.tolist()
        np.testing.assert_array_equal(own["pairs"], expected["count"])
        for measure in ("mean", "std", "min", "max"):
            np.testing.assert_allclose(own[measure], expected[measure], rtol=1e-9, atol=1e-12)
        for q, share in (("q05", 0.05), ("median", 0.5), ("q95", 0.95)):
            exact = groups.quantile(share, interpolation="lower").sort_index()
            np.testing.assert_allclose(own[q], exact, rtol=0.0101, atol=1e-12)
        assert own["undefined"].eq(groups.apply(lambda x: x.isna().sum()).sort_index()).all()


def test_students_t_of_a_group_is_that_of_its_pairs(found):
    from scipy import stats

    means = grouped(found, "rotation", "angle", ["kind"])
    table = found.summary.query("analysis == 'rotation' and column == 'angle' and part == 'read'")
    for row in table.itertuples():
        values = means.loc[row.kind, row.layer]
        expected = stats.ttest_1samp(values, 0)
        assert row.t_p == pytest.approx(expected.pvalue, rel=1e-9)
        low, high = expected.confidence_interval(0.95)
        assert (row.low, row.high) == pytest.approx((low, high))
    worst = table.groupby("kind")["t_p"].transform("max")
    assert (table["t_p_holm"] >= table["t_p"]).all()
    assert (table["t_p_holm"] <= 1).all()
    assert (worst <= 1).all()


def test_tests_over_shards_are_flips_of_all_pairs(found):
    """p and p_max by hand, from the rows of all pairs and the signs of their numbers."""
    means = grouped(found, "rotation", "angle", []).unstack("layer")
    x = means.to_numpy()
    signs = flip_signs(means.index, 400, 0)
    flipped = signs[:, :, None] * x[None]
    t = flipped.mean(axis=1) / (flipped.std(axis=1, ddof=1) / np.sqrt(len(x)))
    own = found.tests.query("analysis == 'rotation' and column == 'angle'")
    np.testing.assert_allclose(own["t"], t[0], rtol=1e-9)
    size = np.abs(t) * (1 + 1e-9)
    p = (1 + (size[1:] >= np.abs(t[0])).sum(axis=0)) / 401
    p_max = (1 + (size[1:].max(axis=1)[:, None] >= np.abs(t[0])).sum(axis=0)) / 401
    np.testing.assert_allclose(own["p"], p)
    np.testing.assert_allclose(own["p_max"], p_max)


def test_swapped_sides_are_called_different_as_often_as_allowed(gpt2, tmp_path):
    """Two draws of one text: what remains after the sums has about 5 % false alarms."""
    pairs = id_pairs(24, changed=range(7), seed=5)
    found = summary(gpt2, pairs, tmp_path / "o", "rotation", read="all", by=["kind"])
    x = grouped(found, "rotation", "angle", ["part"])
    x = x.groupby(["pair", "layer"]).mean().unstack("layer").to_numpy()
    rng, runs, alarms = np.random.default_rng(0), 400, 0
    for seed in range(runs):
        swapped = x * rng.choice([-1.0, 1.0], (len(x), 1))
        mean = swapped.mean(axis=0)
        sums = flip_signs(range(len(x)), 199, seed) @ swapped
        test = flip_test(np.full(len(mean), 24.0), mean, ((swapped - mean) ** 2).sum(0), sums)
        alarms += bool((test.p_max < 0.05).any())
    assert abs(alarms / runs - 0.05) < 3.3 * np.sqrt(0.05 * 0.95 / runs), alarms / runs


# ---- interruptions -----------------------------------------------------------------------------


class Stopped(Exception):
    """Stands for a kill."""


def test_an_interrupted_run_goes_on_to_the_same_bits(gpt2, rows, found, tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    whole = summary(gpt2, path, tmp_path / "whole", by=["kind"], answer=11)
    measure, done = PairsWorker.measure, []

    def stop(self, shard):
        if len(done) == 1:
            raise Stopped
        done.append(shard.index)
        return measure(self, shard)

    with monkeypatch.context() as patched:
        patched.setattr(PairsWorker, "measure", stop)
        with pytest.raises(Stopped):
            summary(gpt2, path, tmp_path / "cut", by=["kind"], answer=11)
    with pytest.raises(BadInput, match="holds no finding"):
        Pairs.load(tmp_path / "cut")
    with pytest.raises(BadInput, match=r"holds a corpus run; go on with it \(resume=True"):
        summary(gpt2, path, tmp_path / "cut", by=["kind"], answer=11)
    with pytest.raises(BadInput, match=r"parameters.by was \[\"kind\"\], now \[\]"):
        summary(gpt2, path, tmp_path / "cut", answer=11, resume=True)
    seen = []

    def count(self, shard):
        seen.append(shard.index)
        return measure(self, shard)

    monkeypatch.setattr(PairsWorker, "measure", count)
    again = summary(gpt2, path, tmp_path / "cut", by=["kind"], answer=11, resume=True)
    assert (done, seen) == ([0], [1, 2])
    same(tmp_path / "whole", tmp_path / "cut")
    for name, table in whole.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table, check_exact=True)
    seen.clear()
    summary(gpt2, path, tmp_path / "cut", by=["kind"], answer=11, resume=True)
    assert not seen
    # The same pairs from a list, in other words in another source, are another run.
    assert whole.sentence == found.sentence


def test_a_damaged_shard_is_measured_again(gpt2, rows, tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    whole = summary(gpt2, path, tmp_path / "o")
    state = tmp_path / "o" / "shards" / "000001.rotation.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    measure, seen = PairsWorker.measure, []
    monkeypatch.setattr(
        PairsWorker, "measure", lambda self, shard: seen.append(shard.index) or measure(self, shard)
    )
    again = summary(gpt2, path, tmp_path / "o", resume=True)
    assert seen == [1]
    pd.testing.assert_frame_equal(again.tests, whole.tests, check_exact=True)


def test_many_shards_are_merged_on_the_disk_to_the_same_tables(gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.runs.corpus.pieces.FAN", 3)
    pairs = id_pairs(20)
    found = summary(gpt2, pairs, tmp_path / "o", "rotation", shard_pairs=2, controls=0)
    assert (tmp_path / "o" / "shards" / "000000-000008.json").is_file()
    whole = summary(gpt2, pairs, tmp_path / "w", "rotation", shard_pairs=20, controls=0)
    assert found.facts["pairs"] == 20
    for name in ("frame", "tests"):
        own, other = getattr(found, name), getattr(whole, name)
        numbers = own.select_dtypes("number").columns
        np.testing.assert_allclose(own[numbers], other[numbers], rtol=1e-3, atol=1e-4)
    assert found.tokens["pair"].nunique() == 20


@pytest.mark.full
def test_processes_give_the_same_bits(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", TEXTS)
    for name, workers in (("one", 1), ("two", 2)):
        summary("demo", path, tmp_path / name, shard_pairs=2, workers=workers)
    same(tmp_path / "one", tmp_path / "two")


# ---- failures ----------------------------------------------------------------------------------

TEXTS = [
    {"clean": f"The dog saw {a} and {b}.", "corrupted": f"The dog saw {b} and {a}."}
    for a, b in map(str.split, ("Mary John", "Anna Tom", "Lucy Paul", "Emma Peter", "Sara Mark"))
]


def test_pairs_that_cannot_be_measured_are_named_and_the_others_are_measured(tmp_path):
    rows = [
        *TEXTS,
        {"clean": "The dog saw Mary.", "corrupted": "The big old dog saw Mary."},
        {"clean": "", "corrupted": "The dog."},
        "{not json",
        {"clean": "The dog saw Mary."},
        {"clean": "The dog " * 400, "corrupted": "The dog " * 400},
        *TEXTS[:2],
    ]
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    found = summary("demo", path, tmp_path / "o", "rotation", shard_pairs=50)
    failures = found.failures.set_index("pair")
    assert failures.index.tolist() == [5, 6, 7, 8, 9]
    reasons = failures["reason"]
    assert re.match(r"pair 5: the clean prompt has \d+ tokens and the corrupted one", reasons[5])
    assert "align='ends'" in reasons[5]
    assert reasons[6] == "pair 6: the clean text is empty"
    assert "not JSON at column 2" in reasons[7]
    assert reasons[8] == "the pair has no column 'corrupted' (columns: clean)"
    assert re.search(r"pair 9.* tokens", reasons[9])
    assert failures["where"][5].endswith("p.jsonl', line 6") or "line 6" in failures["where"][5]
    assert found.facts["pairs"] == 7
    assert "5 more pairs could not be measured" in found.sentence
    assert any("5 of 12 pairs were not measured (the first: pair 5" in n for n in found.notes)
    alone = summary("demo", write_jsonl(tmp_path / "q.jsonl", [*TEXTS, *TEXTS[:2]]),
                    tmp_path / "alone", "rotation", shard_pairs=50)  # fmt: skip
    pd.testing.assert_frame_equal(
        found.frame.drop(columns=["unrelated_p", "unrelated_p_max"]),
        alone.frame.drop(columns=["unrelated_p", "unrelated_p_max"]),
    )


def test_ends_align_what_was_a_failure(tmp_path):
    pair = {"clean": "The dog saw Mary.", "corrupted": "The big old dog saw Mary."}
    path = write_jsonl(tmp_path / "p.jsonl", [*TEXTS, pair])
    found = summary("demo", path, tmp_path / "o", "rotation", align="ends")
    assert found.failures.empty
    assert any("1 of 6 pairs have sides of different length" in note for note in found.notes)


def test_a_pair_that_fails_in_its_pass_costs_no_other(gpt2, rows, tmp_path, monkeypatch):
    sums = PairsWorker._sums

    def fail(self, ready, numbers):
        if 3 in numbers:
            raise InterpError("the model yields NaN")
        return sums(self, ready, numbers)

    monkeypatch.setattr(PairsWorker, "_sums", fail)
    found = summary(gpt2, rows, tmp_path / "o", "rotation")
    assert found.failures["pair"].tolist() == [3]
    assert found.failures["reason"][0] == "the model yields NaN"
    assert found.facts["pairs"] == 29
    assert sorted(set(range(30)) - {3}) == found.tokens["pair"].unique().tolist()


def test_a_window_that_fails_as_a_whole_ends_the_run(gpt2, rows, tmp_path, monkeypatch):
    def fail(self, ready, numbers):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(PairsWorker, "_sums", fail)
    told = "not one of 10 pairs could be measured; the first: RuntimeError: no kernel"
    with pytest.raises(InterpError, match=told):
        summary(gpt2, rows, tmp_path / "o", "rotation")


def test_only_failures_end_the_run_with_the_first_reason(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"clean": "", "corrupted": "a"}] * 3)
    told = "not one pair could be measured; the first reason: pair 0: the clean text is empty"
    with pytest.raises(InterpError, match=told):
        summary("demo", path, tmp_path / "o", "rotation")


# ---- sources, samples, notes ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_of_two_columns_may_call_them_as_they_like(tmp_path, suffix):
    frame = pd.DataFrame([(r["clean"], r["corrupted"]) for r in TEXTS], columns=["good", "bad"])
    path = tmp_path / f"p{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    found = summary("demo", path, tmp_path / "o", "rotation")
    listed = summary("demo", TEXTS, tmp_path / "l", "rotation")
    pd.testing.assert_frame_equal(found.frame, listed.frame)


def test_answers_and_groups_are_columns(tmp_path):
    names = [(" Mary", " John"), (" Anna", " Tom")]
    rows = [r | {"answer": a, "wrong": b, "kind": None if i else 3} for i, (r, (a, b)) in
            enumerate(zip(TEXTS, names, strict=False))]  # fmt: skip
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    found = summary("demo", path, tmp_path / "o", "logit_difference", by=["kind"])
    whole = interp.pairs("demo", rows, "logit_difference", patch=False, **QUIET)
    assert found.facts["metric"] == "logit_difference"
    pd.testing.assert_frame_equal(
        found.differences["logit_difference"], whole.differences["logit_difference"],
        check_dtype=False, rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    assert set(found.summary["kind"].dropna()) == {"3"}
    assert found.summary["kind"].isna().any()
    assert "group that the row is of" in found.columns["kind"]


def test_a_sample_is_random_and_the_same_every_time(gpt2, tmp_path):
    pairs = id_pairs(12)
    kept = [
        summary(gpt2, pairs, tmp_path / name, [], sample=5, seed=seed).tokens["pair"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert kept[0].unique().tolist() == kept[1].unique().tolist()
    assert kept[0].nunique() == 5
    assert kept[0].unique().tolist() != kept[2].unique().tolist()


def test_without_a_sample_there_is_no_map(gpt2, tmp_path):
    found = summary(gpt2, id_pairs(8), tmp_path / "o", "rotation", sample=0)
    assert "Distance" in found.drawings
    assert not any("patched effect" in name for name in found.drawings)
    assert found.plot("Distance").data
    assert PairsSummary.load(tmp_path / "o").facts["pairs"] == 8


def test_analyses_that_cannot_be_compared_are_left_out_with_a_note(gpt2, tmp_path):
    found = summary(gpt2, id_pairs(8), tmp_path / "o", ("rotation", "trajectory", "spectrum"))
    assert set(found.tests["analysis"]) == {"rotation"}
    assert any(n.startswith("trajectory may measure a token by all prompts") for n in found.notes)
    assert any(n.startswith("spectrum has no row per token") for n in found.notes)


def test_pairs_with_themselves_differ_by_exactly_nothing(gpt2, tmp_path):
    pairs = [r | {"corrupted": r["clean"]} for r in id_pairs(9)]
    found = summary(gpt2, pairs, tmp_path / "o")
    assert (found.frame[["angle", "distance", "angle_low"]] == 0).all(axis=None)
    assert (found.tests["difference"].fillna(0) == 0).all()
    assert found.tests["p"].isna().all()
    assert any("9 of 9 pairs have the same tokens" in note for note in found.notes)


def test_the_untrained_copy_is_compared_beside(gpt2, tmp_path):
    found = summary(gpt2, id_pairs(8), tmp_path / "o", [], control="random-init")
    assert isinstance(found.control, PairsSummary)
    assert not np.allclose(found.control.frame["angle"], found.frame["angle"])
    back = Pairs.load(tmp_path / "o")
    assert isinstance(back, PairsSummary)
    assert back.control.sentence == found.control.sentence
    again = summary(gpt2, id_pairs(8), tmp_path / "o", [], control="random-init", resume=True)
    pd.testing.assert_frame_equal(again.control.frame, found.control.frame)


# ---- the finding -------------------------------------------------------------------------------


def test_it_comes_back_whole_from_its_folder(found, gpt2, rows, tmp_path):
    made = summary(gpt2, rows, tmp_path / "o", by=["kind"])
    back = Pairs.load(tmp_path / "o")
    assert isinstance(back, PairsSummary)
    assert back.sentence == made.sentence
    assert back.notes == made.notes
    for name, table in made.tables.items():
        pd.testing.assert_frame_equal(back.tables[name], table, check_dtype=False, obj=name)
    with pytest.raises(BadInput, match=r"holds a run over pairs of prompts; interp.experiments"):
        interp.load(tmp_path / "o")
    table = tmp_path / "o" / "finding" / "summary.parquet"
    table.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(InterpError, match=r"summary.parquet.*run it again with resume"):
        Pairs.load(tmp_path / "o")
    (tmp_path / "o" / "finished.json").unlink()
    with pytest.raises(BadInput, match="is not finished: it has no finished.json"):
        Pairs.load(tmp_path / "o")
    page = (tmp_path / "o" / "finding" / "report.html").read_text(encoding="utf-8")
    assert "Clean and corrupted stream" in page
    assert list(back.drawings) == list(made.drawings)
    assert "30 pairs, read at changed, after, last tokens" in found.sentence


def test_figures_are_of_all_pairs_and_the_map_of_the_sample(found):
    drawn = found.drawings
    angle = drawn["Distance"].table.query("line == 'own pair'") if "line" in drawn[
        "Distance"].table else drawn["Distance"].table  # fmt: skip
    assert len(angle)
    assert "only pair 0 (of 30 sampled pairs)" in drawn["Distance and patched effect"].title
    assert "rotation: angle" in drawn
    for name in drawn:
        assert found.plot(name).data


def test_every_column_of_every_table_is_explained(found):
    for name, table in found.tables.items():
        own = [] if name.startswith("differences") else list(table)
        assert set(own) <= set(found.columns), name


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"out": None}, BadInput, r"keep='summary' needs a folder, out= \(--out\)"),
        ({"keep": "summry"}, UnknownName, "summry"),
        ({"patch": True}, BadInput, "takes no patches"),
        ({"patch_states": [1]}, BadInput, "patch_states=: keep='summary' takes no patches"),
        ({"labels": {"kind": ["a"]}}, BadInput, r"labels= is a list .* \(by=\[…\] names those"),
        ({"spans": [None]}, BadInput, r"spans= is a list with an entry per pair.*\('spans'\)"),
        ({"answer": [1, 2]}, BadInput, "answer= is list; with keep='summary' it is one token"),
        ({"wrong": 3}, BadInput, "there is a wrong answer and no right one"),
        ({"by": ["kin"]}, UnknownName, "kind"),
        ({"sample": -1}, BadInput, "sample=-1; at least 0"),
        ({"shard_pairs": 0}, BadInput, "shard_pairs=0; at least 1"),
        ({"workers": 0}, BadInput, "workers=0; at least 1"),
        ({"workers": 2}, BadInput, "workers load the model themselves"),
        ({"workers": "two"}, BadInput, "workers='two' is str; workers= takes a whole number"),
        ({"read": "first"}, BadInput, "read='first'"),
        ({"align": "middle"}, InterpError, "middle"),
    ],
)
def test_what_cannot_be_is_refused(gpt2, tmp_path, options, error, said):
    given = {"out": tmp_path / "o"} | options
    with pytest.raises(error, match=said):
        summary(gpt2, id_pairs(4), analyses="rotation", **given)


@pytest.mark.parametrize(
    ("name", "value"),
    [("out", "x"), ("by", ["kind"]), ("resume", True), ("workers", 2), ("shard_pairs", 3)],
)
def test_options_of_a_summary_need_one(gpt2, name, value):
    with pytest.raises(BadInput, match=f"{name}=: only with keep='summary'"):
        interp.pairs(gpt2, id_pairs(4), [], **{name: value}, **QUIET)


def test_labels_with_names_of_columns_are_refused(gpt2, tmp_path):
    for name, said in (("mean", "of summaries|summary of pairs"), ("part", "rename"),
                       ("pairs", "summary of pairs has"), ("angle", "rotation")):  # fmt: skip
        rows = [r | {name: "x"} for r in id_pairs(4)]
        with pytest.raises(BadInput, match=said):
            summary(gpt2, rows, tmp_path / "o", "rotation", by=[name])


def test_sources_without_pairs_are_refused(tmp_path):
    (tmp_path / "p.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"a \.txt file has one text per line, and a pair has two"):
        summary("demo", tmp_path / "p.txt", tmp_path / "o")
    path = write_jsonl(tmp_path / "p.jsonl", [{"text": "a", "kind": "b", "x": 1}])
    with pytest.raises(BadInput, match="do not tell the two sides"):
        summary("demo", path, tmp_path / "o")
    with pytest.raises(BadInput, match="no pairs in list of pairs: at least one is needed"):
        summary("demo", [], tmp_path / "o")
    with pytest.raises(BadInput, match="pair 0 of list of pairs has 3 parts"):
        summary("demo", [("a", "b", "c")], tmp_path / "o")


def test_nothing_to_read_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no pair has an ordinary token to read \(changed\)"):
        summary("demo", [("The dog.", "The dog.")] * 3, tmp_path / "o", "rotation", read="changed")


# ---- the command -------------------------------------------------------------------------------


def test_the_command_measures_in_shards(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from interp.cli.app import app

    path = write_jsonl(tmp_path / "p.jsonl", [r | {"kind": "swap"} for r in TEXTS])
    monkeypatch.chdir(tmp_path)
    given = ["run", "--pairs", str(path), "-a", "rotation", "--quiet", "--keep", "summary"]
    given += ["--by", "kind", "--shard-documents", "2", "--out", "o"]
    done = CliRunner().invoke(app, [*given, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["facts"]["pairs"] == 5
    assert {row["kind"] for row in told["tables"]["summary"]} == {"swap"}
    assert len(list((tmp_path / "o" / "shards").glob("0*.json"))) == 3
    done = CliRunner().invoke(app, [*given, "--resume"])
    assert done.exit_code == 0, done.output
    assert "finding/report.html" in done.output
    with path.open("a", encoding="utf-8") as file:
        file.write("{}\n")
    done = CliRunner().invoke(app, [*given, "--overwrite"])
    assert done.exit_code == 4, done.output
    assert "1 more pair could not be measured" in done.output


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--keep", "tokens"], "--keep: not with --pairs"),
        (["--by", "kind"], "--by: not with --pairs"),
        (["--resume"], "--resume: only with --corpus"),
        (["--keep", "summary", "--overlap", "3"], "--overlap: only with --corpus"),
    ],
)
def test_options_of_shards_need_a_summary(tmp_path, monkeypatch, given, said):
    from typer.testing import CliRunner

    from interp.cli.app import app

    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", "--pairs", "x.csv", "--quiet", *given])
    assert isinstance(done.exception, BadInput)
    assert said in str(done.exception)


def test_windows_are_bounded(gpt2, tmp_path, monkeypatch):
    """More pairs than a window holds: they are measured in several, and none is lost."""
    sizes = []
    sums = PairsWorker._sums
    monkeypatch.setattr(
        PairsWorker, "_sums", lambda self, ready, n: sizes.append(len(n)) or sums(self, ready, n)
    )
    monkeypatch.setattr(worker, "MOST", 4)
    found = summary(gpt2, id_pairs(11), tmp_path / "o", "rotation", shard_pairs=9)
    assert sizes == [4, 4, 1, 2]
    assert found.facts["pairs"] == 11
    assert pair_run.SHARD_PAIRS >= 1000
