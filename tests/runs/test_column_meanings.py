"""Every column of every table of a run is explained, except the labels of the user's prompts."""

from __future__ import annotations

import warnings

import pytest
from corpus_help import documents, write_jsonl
from series_help import TEXTS, run_of

import interp
from interp.contract.columns import (
    GENERATION_MEANINGS,
    GROUP_MEANING,
    SERIES_MEANINGS,
    SUMMARY_MEANINGS,
)
from interp.contract.registry import get, names
from interp.errors import UnknownName
from interp.runs import column_meanings
from interp.runs.report.sections import columns_of

LABELS = {"kind": ["odd", "even"] * 2}
SENTENCES = [
    "Mary saw her dog.",
    "John told him.",
    "The queen met the old man.",
    "Tom saw the red dog.",
]
MODEL = "demo"


def left_out(result) -> set[str]:
    """Columns of the table that nothing explains."""
    return set(map(str, result.frame)) - set(result.columns)


@pytest.fixture(scope="module")
def runs():
    """All analyses, by what was kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            keep: interp.run(
                MODEL, SENTENCES, names(), labels=LABELS, keep=keep, by=by, against=" him",
                progress=False,
            )
            for keep, by in (("tokens", ()), ("summary", ("kind",)))
        }  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_keys_are_declared(name):
    kind = get(name)
    assert [key for key in kind.keys if column_meanings.by_name(kind.columns, key) is None] == []


@pytest.mark.parametrize("keep", ["tokens", "summary"])
def test_every_column_of_every_analysis_is_explained(runs, keep):
    assert len(runs[keep]) > 15
    assert {n: lost for n, r in runs[keep].items() if (lost := left_out(r) - set(LABELS))} == {}
    assert all(doc for r in runs[keep].values() for doc in r.columns.values())


def test_a_summary_explains_its_statistics_groups_and_measures(runs):
    result = runs["summary"]["logit_lens"]
    found = result.columns
    assert left_out(result) == set()
    assert {c: found[c] for c in SUMMARY_MEANINGS if c in result.frame} == {
        c: doc for c, doc in SUMMARY_MEANINGS.items() if c in result.frame
    }
    assert {"se", "documents", "q05", "median", "mode_share", "distinct"} <= set(result.frame)
    assert found["kind"] == GROUP_MEANING
    assert found["top_prob"] == get("logit_lens").columns["top_prob"]
    assert set(result.frame["value"]) <= set(found)


def test_labels_of_rows_are_left_to_the_user(runs):
    assert "kind" in runs["tokens"]["norm"].frame
    assert "kind" not in runs["tokens"]["norm"].columns


def test_a_measure_with_the_name_of_a_statistic_keeps_both_meanings(runs):
    frame = runs["summary"]["norm"].frame
    renamed = frame.assign(value="median")
    found = column_meanings.summary_meanings(renamed, {"median": "median |x_i|"})
    assert found["median"] == f"{SUMMARY_MEANINGS['median']}; as a measure: median |x_i|"


def test_a_report_of_a_summary_explains_measures(runs):
    result = runs["summary"]["logit_lens"]
    rows = {row[0]: row[1] for row in columns_of(result).rows}
    assert rows["undefined"] == SUMMARY_MEANINGS["undefined"]
    assert rows["top_prob"] == get("logit_lens").columns["top_prob"]


@pytest.mark.parametrize("keep", ["tokens", "summary"])
def test_columns_that_a_generation_adds_are_explained(keep):
    found = interp.generate(
        MODEL, SENTENCES[:2], ["norm", "next_token"], max_new_tokens=3, stop=[], keep=keep,
        by=["generated"] if keep == "summary" else (), progress=False,
    )  # fmt: skip
    for result in found.values():
        assert left_out(result) == set()
        if keep == "tokens":
            told = {c: result.columns[c] for c in GENERATION_MEANINGS}
            assert told == GENERATION_MEANINGS


def test_a_label_called_sample_is_not_that_of_a_generation():
    found = interp.run(MODEL, SENTENCES, "norm", labels={"sample": [1, 2, 3, 4]}, progress=False)
    assert "sample" not in found["norm"].columns


def test_columns_that_a_series_adds_are_explained(tmp_path):
    folder = run_of(tmp_path / "run", steps=(1, 100))
    found = interp.series(folder, TEXTS, "norm", out=tmp_path / "out", progress=False)["norm"]
    assert left_out(found) == set()
    assert found.columns["at"] == SERIES_MEANINGS["at"]
    assert found.columns["norm"] == get("norm").columns["norm"]


@pytest.mark.parametrize("keep", ["tokens", "summary"])
def test_columns_of_corpora_are_explained(keep, tmp_path):
    data = write_jsonl(tmp_path / "data.jsonl", documents(4))
    by = {"by": ["position_bin", "kind"]} if keep == "summary" else {}
    interp.run_corpus(
        MODEL, data, ["norm", "logit_lens"], out=tmp_path / "corp", keep=keep, progress=False, **by
    )
    found = interp.load(tmp_path / "corp")
    for name in ("norm", "logit_lens"):
        table = found[name]
        shown = table.frame if keep == "summary" else table.dataset.schema.names
        assert set(shown) - set(table.columns) - {"kind", "id"} == set()
        assert ("kind" in table.columns) == (keep == "summary")


def test_a_mean_over_all_rows_where_a_table_has_no_layers(runs):
    """`summary()` of every table: the default groups by layer where there is one."""
    for name, result in runs["tokens"].items():
        found = result.summary()
        assert ("layer" in found) == ("layer" in result.frame), name
        assert set(found["value"]) == set(result.values), name
    own = runs["tokens"]["next_token"]
    rows = own.frame[~own.frame["special"].astype(bool)]
    mean = own.summary().set_index("value")["mean"]
    assert mean["log_prob"] == pytest.approx(rows["log_prob"].mean())
    with pytest.raises(UnknownName, match="'layer'"):
        own.summary("layer")
