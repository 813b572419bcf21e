"""Pairs of prompts from every kind of source, their alignment, and what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from interp.errors import BadInput, UnknownName
from interp.prompts import aligned_by_spans, read_pairs, read_prompts
from interp.prompts.pairs import aligned, equal_ends

TEXTS = [("Mary met her", "Anna met her"), ("He saw it", "She saw it")]
ROWS = [{"clean": a, "corrupted": b} for a, b in TEXTS]


def sides(raw):
    return list(zip(raw.clean, raw.corrupted, strict=True))


def ids(*rows):
    return read_prompts([list(row) for row in rows])


# ---- sources -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        TEXTS,
        ROWS,
        [{"base": a, "contrast": b} for a, b in TEXTS],
        {"clean": [a for a, _ in TEXTS], "corrupted": [b for _, b in TEXTS]},
        pd.DataFrame(ROWS),
        pd.DataFrame(TEXTS, columns=["first", "second"]),
        (pair for pair in TEXTS),
    ],
    ids=["tuples", "mappings", "base", "columns", "table", "two columns", "generator"],
)
def test_every_source_gives_the_same_pairs(source):
    assert sides(read_pairs(source)) == TEXTS


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_bring_answers_and_labels(tmp_path, suffix):
    rows = [row | {"answer": " x", "wrong": " y", "kind": "name"} for row in ROWS]
    path = tmp_path / f"pairs{suffix}"
    frame = pd.DataFrame(rows)
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        frame.to_parquet(path)
    raw = read_pairs(path)
    assert sides(raw) == sides(read_pairs(str(path))) == TEXTS
    assert raw.answers == {"answer": (" x", " x"), "wrong": (" y", " y")}
    assert raw.fields == {"kind": ("name", "name")}


def test_a_csv_file_of_two_columns_may_call_them_as_it_likes(tmp_path):
    path = tmp_path / "two.csv"
    path.write_text("a,b\nMary met her,Anna met her\nHe saw it,She saw it\n", encoding="utf-8")
    assert sides(read_pairs(path)) == TEXTS


@pytest.mark.parametrize(
    "lines",
    [
        "text,genre\nMary met her,news\nHe saw it,novel\n",
        "said,mood\nMary met her,sad\nHe saw,glad\n",
    ],
)
def test_prompts_with_a_label_are_no_pairs(tmp_path, lines):
    path = tmp_path / "labelled.csv"
    path.write_text(lines, encoding="utf-8")
    names = lines.partition("\n")[0].replace(",", ", ")
    with pytest.raises(BadInput, match=f"no columns clean, corrupted; found {names}, which look"):
        read_pairs(path)
    single = [{"a": "Mary", "b": "Anna"}, {"a": "He", "b": "She"}]
    assert sides(read_pairs(pd.DataFrame(single))) == [("Mary", "Anna"), ("He", "She")]


def test_token_ids_stay_as_they_are():
    raw = read_pairs([([1, 2, 3], np.array([1, 5, 3]))])
    assert [side.tolist() for side in sides(raw)[0]] == [[1, 2, 3], [1, 5, 3]]
    assert not raw.of_texts


def test_options_take_the_place_of_columns():
    raw = read_pairs([ROWS[0] | {"answer": "a"}], answer=7, wrong=["b"], labels={"kind": [1]})
    assert raw.answers == {"answer": (7,), "wrong": ("b",)}
    assert raw.fields == {"kind": (1,)}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ([], "no pairs in list of pairs: at least one is needed"),
        ([("a", "b", "c")], "pair 0 of list of pairs has 3 parts; a pair is (clean, corrupted)"),
        (["He saw it"], "pair 0 of list of pairs is one text ('He saw it'); a pair is (clean"),
        ([("a", "")], "pair 0: the corrupted text is empty"),
        ([(None, "b")], "pair 0: the clean text is empty"),
        ([([], [1])], "pair 0: the clean text is empty"),
        (pd.DataFrame({"clean": ["a", "b"], "corrupted": ["c", None]}), "pair 1: the corrupted"),
        (pd.DataFrame({"clean": ["a"], "corrupted": [np.nan]}), "the corrupted text is empty"),
        (pd.DataFrame(ROWS).assign(answer=["x", np.nan]), "pair 1 has no 'answer', and others"),
        ([("a", "b"), ([1], [2])], "mixes texts and token ids; give one or the other"),
        ([([[1]], [[2]])], "the clean side is list of shape (1, 1)"),
        ([([1.5], [2.0])], "of shape (1,) and type float64; a side is a text or one list of token"),
        (3, "cannot read pairs from int; allowed: a list of (clean, corrupted)"),
        ([{"clean": "a", "corupted": "b", "kind": 1}], "did you mean 'corupted'?: call them"),
        (
            {"clean": ["a"], "corrupted": ["b", "c"]},
            "differ in length: {'clean': 1, 'corrupted': 2",
        ),
        ([ROWS[0] | {"answer": "x"}, ROWS[1]], "pair 1 has no 'answer', and others have one"),
        ([ROWS[0] | {"wrong": "x"}], "there is a wrong answer and no right one"),
    ],
)
def test_what_is_no_pair_is_refused_by_name(source, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        read_pairs(source)


def test_a_file_of_three_unnamed_columns_is_refused(tmp_path):
    path = tmp_path / "three.csv"
    path.write_text("a,b,c\n1,2,3\n", encoding="utf-8")
    told = r"pair 0 of .* has 3 columns \(a, b, c\), which do not tell the two sides"
    with pytest.raises(BadInput, match=told):
        read_pairs(path)


def test_a_text_file_has_one_side_only(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("He saw it\n", encoding="utf-8")
    with pytest.raises(BadInput, match="one text per line, and a pair has two"):
        read_pairs(path)


def test_an_empty_cell_says_which_pair(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("clean,corrupted\na b,a c\nd,\n", encoding="utf-8")
    with pytest.raises(BadInput, match="pair 1: the corrupted text is empty"):
        read_pairs(path)


def test_numbers_of_answers_labels_and_spans_must_fit():
    for given, said in (
        ({"answer": ["a"]}, "answer= has 1 tokens and there are 2 pairs"),
        ({"labels": {"kind": [1]}}, "label 'kind' has 1 values and there are 2 pairs"),
        ({"spans": [None]}, "spans= has 1 entries and there are 2 pairs: one each"),
    ):
        with pytest.raises(BadInput, match=re.escape(said)):
            read_pairs(TEXTS, **given)


def test_spans_come_from_tables_as_arrays(tmp_path):
    path = tmp_path / "spans.parquet"
    spans = [[[[1, 2], [1, 3]]], None]
    rows = [{"clean": [7, 1, 8], "corrupted": [7, 4, 5, 8]}, {"clean": [1, 2], "corrupted": [1, 3]}]
    pd.DataFrame(rows).assign(spans=spans).to_parquet(path)
    for source in (path, pd.read_parquet(path)):
        raw = read_pairs(source)
        assert raw.spans[1] is None
        a, b = (ids(*side) for side in (raw.clean, raw.corrupted))
        assert aligned(a, b, 0, None, raw.spans[0]).tolist() == [[0, 0], [1, 2], [2, 3]]


# ---- alignment ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], (3, 0)),
        ([1, 2, 3, 9], [1, 5, 6, 3, 9], (1, 2)),
        ([1, 1], [1, 1, 1], (2, 0)),
        ([4, 1, 1], [5, 1], (0, 1)),
        ([1, 2], [3, 4], (0, 0)),
        ([1, 2, 1], [1], (1, 0)),
    ],
)
def test_equal_ends_never_overlap(a, b, expected):
    assert equal_ends(np.array(a), np.array(b)) == expected


def test_sides_of_one_length_are_one_to_one():
    found = aligned(ids([1, 2, 3]), ids([1, 5, 3]), 0)
    assert found.tolist() == [[0, 0], [1, 1], [2, 2]]


def test_other_lengths_are_refused_with_both_lengths_and_the_place():
    told = (
        "pair 0: the clean prompt has 3 tokens and the corrupted one 4; they first differ at "
        "position 1 ('<2>' and '<5>'). Pass align='ends' (--align ends)"
    )
    with pytest.raises(BadInput, match=re.escape(told)):
        aligned(ids([1, 2, 3]), ids([1, 5, 6, 3]), 0)
    with pytest.raises(BadInput, match=re.escape("position 2 (no more tokens and '<3>')")):
        aligned(ids([1, 2]), ids([1, 2, 3]), 0)


def test_equal_ends_are_aligned_when_asked_for():
    found = aligned(ids([1, 2, 3]), ids([1, 5, 6, 3]), 0, "ends")
    assert found.tolist() == [[0, 0], [2, 3]]
    with pytest.raises(UnknownName, match="unknown alignment 'end'; did you mean 'ends'"):
        aligned(ids([1]), ids([1, 2]), 0, "end")


def test_spans_align_their_last_tokens_and_what_lies_between():
    a, b = ids([7, 1, 8, 9, 2, 3]), ids([7, 4, 5, 6, 8, 9, 3])
    found = aligned_by_spans(a, b, 0, [((1, 2), (1, 4)), ((4, 6), (6, 7))])
    assert found.tolist() == [[0, 0], [1, 3], [2, 4], [3, 5], [5, 6]]
    one = aligned_by_spans(ids([7, 1, 8]), ids([7, 4, 5, 8]), 0, ((1, 2), (1, 3)))
    assert one.tolist() == [[0, 0], [1, 2], [2, 3]]


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        (((1, 2), (1, 9)), "the span (1, 9) lies outside of the corrupted prompt, which has 4"),
        (((2, 2), (1, 2)), "the span (2, 2) lies outside of the clean prompt, which has 3 tokens"),
        (((0, 1), (1, 2)), "before the part that spans gives there are 0 clean and 1 corrupted"),
        (((1, 2), (1, 2)), "after the last part that spans gives there are 1 clean and 2"),
        ([((1, 2), (1, 2)), ((0, 1), (2, 3))], "overlap or are not in their order"),
        (((1, 2, 3), (1, 2)), "a part is ((start, end), (start, end))"),
        (("Mary", "Anna"), "pair 0: 'Mary' occurs 0 times in the clean prompt (None)"),
    ],
)
def test_spans_that_do_not_fit_are_refused(spans, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        aligned_by_spans(ids([7, 1, 8]), ids([7, 4, 5, 8]), 0, spans)
