"""Prompts from strings, files, rows and ids; their batches; what is refused."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts_help import SHORT, byte_level, ids, roles, tokens_with

from interp.errors import BadInput, UnknownName
from interp.prompts.labels import target_word
from interp.prompts.prompts import Prompts
from interp.prompts.read import read_prompts


# --- sources -----------------------------------------------------------------------------------
def test_one_string_with_a_space_is_a_prompt():
    prompts = read_prompts("He met her", byte_level())
    assert len(prompts) == 1
    assert prompts.source == "one string, taken as a prompt"


def test_txt(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffHe met her\r\n\r\nthe\u2028man\n".encode())
    for source in (path, str(path)):
        prompts = read_prompts(source, byte_level())
        assert prompts.texts == ("He met her", "the\u2028man")
        assert prompts.source == str(path)
        assert prompts.notes == (f"1 blank lines of {path} were skipped",)


ROWS = [
    {"text": "He met her", "group": "a", "n": 1, "words": [{"start": 3, "end": 6, "pos": "VERB"}]},
    {"text": "the man", "group": "b", "n": None, "words": [{"start": 4, "end": 7, "pos": "NOUN"}]},
]


def _jsonl(path, rows=ROWS):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def _parquet(path, rows=ROWS):
    pd.DataFrame(rows).convert_dtypes().to_parquet(path)
    return path


class _Dataset:
    """What this library relies on in a Hugging Face dataset."""

    column_names = ("text", "group", "n", "words")

    def __iter__(self):
        return iter(ROWS)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "dataset", "rows"])
def test_columns_become_labels(tmp_path, kind):
    source = {
        "jsonl": lambda: _jsonl(tmp_path / "a.jsonl"),
        "parquet": lambda: _parquet(tmp_path / "a.parquet"),
        "dataset": _Dataset,
        "rows": lambda: ROWS,
    }[kind]()
    index = read_prompts(source, byte_level()).index()
    assert index[index["prompt"] == 0]["group"].tolist() == ["a"] * 5
    assert index[index["prompt"] == 0]["n"].tolist() == [1] * 5
    assert index[index["prompt"] == 1]["n"].isna().all()
    assert index[index["pos"] == "VERB"]["token"].tolist() == [" met"]
    assert index[index["pos"] == "NOUN"]["token"].tolist() == [" m", "a", "n"]
    assert index["pos"].notna().sum() == 4


def test_real_dataset_object():
    datasets = pytest.importorskip("datasets")
    rows = [{k: row[k] for k in ("text", "group")} for row in ROWS]
    prompts = read_prompts(datasets.Dataset.from_list(rows), byte_level())
    assert prompts.texts == ("He met her", "the man")
    assert roles(prompts, 1, "group")[0] == "b"


def test_csv_numbers_and_names(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,n,x,code\n"He met, her",1,0.5,007\nNA,2,,1\n', encoding="utf-8")
    prompts = read_prompts(path, byte_level())
    assert prompts.texts == ("He met, her", "NA")
    assert [roles(prompts, i, "n")[0] for i in (0, 1)] == [1, 2]
    assert [roles(prompts, i, "x")[0] for i in (0, 1)] == [0.5, None]
    assert [roles(prompts, i, "code")[0] for i in (0, 1)] == ["007", "1"]


def test_token_lists_of_a_column_and_nested_columns(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", [{"text": "He met", "t": [1, 2, 3], "meta": {"a": 1}}])
    prompts = read_prompts(path, byte_level())
    assert roles(prompts, name="t") == [None, 1, 2, 3]  # one value per token but BOS
    assert prompts.notes == (f"column 'meta' of {path} was left out: its values are nested",)


@dataclass(frozen=True)
class _Word:
    text: str
    start: int
    end: int
    pos: str
    referent: str | None = None


@dataclass(frozen=True)
class _Document:
    text: str
    words: tuple
    kind: str


def test_annotated_documents():
    gold_words = (_Word("He", 0, 2, "PRON", "Tom"), _Word("met", 3, 6, "VERB"))
    document = _Document("He met her", gold_words, "pair")
    for source in (document, [document]):
        prompts = read_prompts(source, byte_level())
        assert roles(prompts, name="pos") == [None, "PRON", "PRON", "VERB", None]
        assert roles(prompts, name="referent") == [None, "Tom", "Tom", None, None]
        assert roles(prompts, name="kind") == ["pair"] * 5


def test_built_in_sets():
    from interp.demo.language import her_documents

    english = read_prompts("her", byte_level())
    demo = read_prompts("her", byte_level(), language="demo")
    assert demo.texts == tuple(document.text for document in her_documents(n=54))
    assert "pos" in demo.labels
    assert english.texts != demo.texts
    assert len(read_prompts("demo", byte_level())) > 10
    with pytest.raises(BadInput, match=r"unknown language 'englsh'; did you mean 'english'\?"):
        read_prompts("her", byte_level(), language="englsh")


def test_her_sentences(gpt2_tokenizer):
    prompts = read_prompts("her", gpt2_tokenizer).label(target_word("her"))
    texts = prompts.texts
    assert len(texts) >= 60
    assert len(set(texts)) == len(texts)
    assert all(6 <= len(text.split()) <= 30 for text in texts)
    assert {len(re.findall(r"\bher\b", text, re.IGNORECASE)) for text in texts} == {1}
    verbs = [re.search(r"(\w+) her\b", text)[1] for text in texts]
    assert len(set(verbs)) == len(verbs)
    assert tokens_with(prompts, "target") == [" her"] * len(texts)
    previous = tokens_with(prompts, "previous")
    assert all(v.endswith(t.strip()) for v, t in zip(verbs, previous, strict=True))
    assert len(tokens_with(prompts, "random")) == len(texts)
    assert prompts.notes == ()


# --- ids ---------------------------------------------------------------------------------------
def test_token_tensors_get_text_back_and_masks_drop_padding():
    whole = read_prompts(SHORT, byte_level())
    batch = next(whole.batches(sort=False, padding_side="left"))
    again = read_prompts(batch.tokens, byte_level(), mask=batch.mask)
    assert [ids(again, i) for i in range(3)] == [ids(whole, i) for i in range(3)]
    assert again.texts == whole.texts
    assert all((a == b).all() for a, b in zip(again.spans, whole.spans, strict=True))
    assert again.fingerprint() == whole.fingerprint()
    assert again.source == f"token tensor {list(batch.tokens.shape)}"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_ids_without_a_tokenizer(dtype):
    prompts = read_prompts(torch.tensor([[5, 6], [7, 8]], dtype=dtype))
    assert prompts.strings == (("<5>", "<6>"), ("<7>", "<8>"))
    assert not np.concatenate(prompts.special).any()
    assert prompts.texts == (None, None)
    ragged = read_prompts([[5], [7, 8, 9]])
    assert [len(row) for row in ragged.tokens] == [1, 3]
    with pytest.raises(BadInput, match=r"cannot place the target word 'a' in prompt 0: it was gi"):
        ragged.label(target_word("a"))


def test_ids_that_no_text_gives_keep_their_ids():
    vocab = byte_level().get_vocab()
    odd = [vocab["t"], vocab["h"], vocab["e"]]  # the tokenizer would write one token
    prompts = read_prompts([odd], byte_level())
    assert ids(prompts) == odd
    assert prompts.texts == (None,)
    assert prompts.strings == (("t", "h", "e"),)


def test_a_padded_vocabulary_has_names():
    size = len(byte_level())
    prompts = read_prompts([[1, size + 2]], byte_level(), vocab_size=size + 5)
    assert prompts.strings[0][1] == f"<{size + 2}>"


def test_index_columns():
    frame = read_prompts(SHORT[:1], byte_level()).index()
    columns = ["prompt", "position", "token", "token_id", "special", "word"]
    assert list(frame.columns) == columns
    assert frame["word"].tolist() == [-1, 0, 0, 1, 2]
    assert frame["position"].tolist() == [0, 1, 2, 3, 4]


# --- batches -----------------------------------------------------------------------------------
lengths = st.lists(st.integers(1, 30), min_size=1, max_size=40)


@given(lengths, st.integers(1, 100), st.sampled_from(["right", "left"]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_batches_hold_every_token_once_within_the_budget(sizes, budget, side, sort):
    rows = [[(7 * i + k) % 50 + 1 for k in range(n)] for i, n in enumerate(sizes)]
    prompts = read_prompts(rows)
    seen = {}
    for batch in prompts.batches(budget, pad_id=0, padding_side=side, sort=sort):
        assert batch.tokens.numel() <= budget or len(batch.ids) == 1
        assert batch.tokens.dtype == batch.ids.dtype == batch.targets.dtype == torch.int64
        assert batch.mask.dtype == batch.special.dtype == torch.bool
        assert (batch.tokens[~batch.mask] == 0).all()
        assert (batch.targets[~batch.mask] == -1).all()
        assert batch.mask.any(dim=0).all()  # no column of padding only
        for r, i in enumerate(batch.ids.tolist()):
            assert i not in seen
            kept = batch.mask[r]
            seen[i] = batch.tokens[r][kept].tolist()
            assert batch.positions[r][kept].tolist() == list(range(sizes[i]))
            assert batch.targets[r][kept].tolist() == [*seen[i][1:], -1]
    assert seen == dict(enumerate(rows))


def test_sides():
    prompts = read_prompts([[1, 2, 3], [4]])
    right = next(prompts.batches(pad_id=9))
    assert right.tokens.tolist() == [[1, 2, 3], [4, 9, 9]]
    left = next(prompts.batches(pad_id=9, padding_side="left"))
    assert left.tokens.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert left.mask.tolist() == [[True] * 3, [False, False, True]]
    assert left.targets.tolist() == [[2, 3, -1], [-1, -1, -1]]


def test_sorting_saves_padding_and_is_deterministic():
    prompts = read_prompts([[1] * n for n in (1, 9, 2, 9, 1, 8) * 50])
    plans = [[b.ids.tolist() for b in prompts.batches(45)] for _ in range(2)]
    assert plans[0] == plans[1]

    def padding(sort):
        return sum(int((~b.mask).sum()) for b in prompts.batches(45, sort=sort))

    assert padding(True) < padding(False) / 5
    assert next(prompts.batches(45, sort=False)).ids.tolist() == [0, 1, 2, 3, 4]
    assert {len(b.ids) for b in prompts.batches(10_000, max_batch=7)} == {7, 6}


def test_a_part_keeps_its_numbers():
    prompts = read_prompts([[1], [2], [3], [4]])
    found = [i for b in prompts.batches(only=[3, 1]) for i in b.ids.tolist()]
    assert sorted(found) == [1, 3]
    assert list(prompts.batches(only=[])) == []


def test_explicit_targets():
    prompts = read_prompts(["He met her"], byte_level(), targets=[[5, -1, -1, 7, 8]])
    assert next(prompts.batches()).targets.tolist() == [[5, -1, -1, 7, 8]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0; the budget"),
        ({"max_batch": 0}, "max_batch=0; a batch holds at least one"),
        ({"padding_side": "lft"}, r"padding_side='lft'; did you mean 'left'\?"),
        ({"only": [2]}, "only= names prompt 2; there are 1, counted from 0"),
    ],
)
def test_batches_refuse(options, message):
    with pytest.raises(BadInput, match=message):
        read_prompts([[1]]).batches(**options)


# --- identity ----------------------------------------------------------------------------------
def test_fingerprint():
    prompts = read_prompts(SHORT, byte_level())
    same = read_prompts(list(SHORT), byte_level())
    assert prompts.fingerprint() == same.fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", prompts.fingerprint())
    others = [
        read_prompts(SHORT[::-1], byte_level()),
        read_prompts(SHORT, byte_level(), prepend_bos=False),
        read_prompts(SHORT, byte_level(), targets=[[-1] * len(row) for row in prompts.tokens]),
        prompts.with_labels("a", [1, 1, 1]),
        prompts.with_labels("a", ["1", "1", "1"]),
        prompts.with_labels("a", [True, True, True]),
        prompts.with_labels("b", [1, 1, 1]),
    ]
    prints = {p.fingerprint() for p in [prompts, *others]}
    assert len(prints) == len(others) + 1


def test_immutable_and_picklable():
    prompts = read_prompts(SHORT, byte_level()).label(target_word("her"))
    for array in (prompts.tokens[0], prompts.special[0], prompts.labels["role"][0]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    again = pickle.loads(pickle.dumps(prompts))  # noqa: S301
    assert isinstance(again, Prompts)
    assert again.fingerprint() == prompts.fingerprint()
    labeller = pickle.loads(pickle.dumps(target_word("her")))  # noqa: S301
    relabelled = read_prompts(SHORT, byte_level()).label(labeller)
    assert relabelled.fingerprint() == prompts.fingerprint()


# --- what is refused ---------------------------------------------------------------------------
TEXT = ["He met her"]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([], {}, "no prompts in the list: at least one is needed"),
        ("", {}, r"prompt 0 is an empty string \(one string"),
        ([*TEXT, ""], {}, r"prompt 1 is an empty string \(list of strings\)"),
        ([*TEXT, 3], {}, "prompt 1 is int, not a string"),
        (["a\ud800"], {}, r"prompt 0: character 1 of 'a\\ud800' is half a character"),
        (3, {}, "cannot read prompts from int; allowed: a list of strings, a token tensor"),
        (TEXT, {"max_length": 3}, "prompt 0 has 5 tokens, the context holds 3; .*truncate=True"),
        (TEXT, {"max_length": 0}, "max_length=0; a context has at least one token"),
        (TEXT, {"vocab_size": 4}, r"prompt 0, position 1: .*\(0 to 3\); is it the model's tok"),
        (TEXT, {"mask": torch.ones(1, 5)}, r"mask= goes with a token tensor \[batch, pos\]"),
        (TEXT, {"labels": {"a": [1, 2]}}, "label 'a': expected 1 prompts, got 2"),
        (TEXT, {"labels": {"a": [[1, 2]]}}, "labels= takes one value per prompt, token_labels="),
        (TEXT, {"labels": {"layer": [1]}}, "label 'layer' has the name of a column .*; rename it"),
        (TEXT, {"labels": ["a"]}, "labels= maps names to values, one for each prompt"),
        (TEXT, {"labels": {"a": [{}]}}, "labels 'a': prompt 0 has dict"),
        (
            TEXT * 2,
            {"labels": {"a": [1, "x"]}},
            "mixes kinds of values: number in prompt 0, str in",
        ),
        (TEXT, {"token_labels": {"a": [1]}}, "'a': prompt 0 has one value, not one a token"),
        (
            TEXT,
            {"token_labels": {"a": [[1, 2]]}},
            r"label 'a', prompt 0: expected 5 values, one per token \(or 4 without .*\); got 2",
        ),
        (TEXT, {"targets": [[1, 2]]}, "targets, prompt 0: expected 5 values"),
        (TEXT, {"targets": []}, "targets: expected 1 prompts, got 0"),
        (TEXT, {"targets": [3]}, "targets: prompt 0 has one value; expected one per token"),
        (TEXT, {"targets": [[1, 2, 3, 4, 999]]}, "position 4: 999 is no id .*0 to 265"),
        ([[1, 2], "a"], {}, "prompt 1 is str; expected a list of token ids"),
        ([1, 2], {}, "a flat list of ids; put it in a list of prompts"),
        ([[1, 2], []], {}, "prompt 1 has no tokens"),
        ([[1, 0.5]], {}, "prompt 0 holds float64; token ids are integers"),
        ([[1, [2, 3]]], {}, "prompt 0 is nested unevenly"),
        ([[[1]]], {}, r"prompt 0 has shape \(1, 1\); expected one row of ids"),
        ([[1, 2, 500]], {}, r"prompt 0, position 2: token id 500 is outside the vocabulary \(0 to"),
        ([[1, -100]], {}, "position 1: token id -100 .*padding is marked by mask="),
        (torch.ones(2, 3), {}, "token tensor of dtype torch.float32; token ids are integers"),
        (torch.ones(2, 3, dtype=torch.bfloat16), {}, "token tensor of dtype torch.bfloat16"),
        (np.ones((2, 3), dtype=bool), {}, "token tensor of dtype bool"),
        (torch.ones(3).long(), {}, r"shape \(3,\); expected \[batch, pos\]; add a batch dimension"),
        (torch.ones(0, 3).long(), {}, r"no tokens in a tensor of shape \(0, 3\)"),
        ([{"text": "a b"}, {"txt": "c"}], {}, r"row 1 has no column 'text'; did you mean 'txt'\?"),
        ([{"text": "a b"}, 3], {}, "row 1 is int, not a mapping"),
        ([{"text": None}], {}, "prompt 0 is NoneType, not a string"),
        ([{"text": "a b", "t": [1]}], {"columns": ["t"]}, "label 't', prompt 0: expected 4 values"),
        ([_Document("a", (), "k"), 3], {}, "prompt 1 is int; it needs .text and .words"),
        (SimpleNamespace(column_names={"train": 1}), {}, r"several splits \(train\); pass one"),
        (SimpleNamespace(column_names=["txt"]), {}, "the dataset has no column 'text'; did you me"),
    ],
)
def test_refused(source, options, message):
    with pytest.raises(BadInput, match=message):
        read_prompts(source, byte_level(), **options)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 4), r"mask of shape \(2, 4\); the tokens have \(2, 3\)"),
        ([[1, 1, 2], [1, 1, 1]], r"mask holds 2 at \[0, 2\]; allowed: 0 for padding, 1 for real"),
        ([[1, 1, 1], [1, 0, 1]], "mask row 1 has a hole at position 1; padding may be at the ends"),
        ([[1, 1, 1], [0, 0, 0]], "mask row 1 is all padding"),
    ],
)
def test_refused_masks(mask, message):
    with pytest.raises(BadInput, match=message):
        read_prompts(torch.ones(2, 3).long(), mask=mask)
    with pytest.raises(BadInput, match="these rows are ragged"):
        read_prompts([[1], [2, 3]], mask=mask)


def test_texts_need_a_tokenizer():
    with pytest.raises(BadInput, match="list of strings holds texts: pass tokenizer="):
        read_prompts(TEXT)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt' is empty"),
        ("a.txt", b" \n\n", "a.txt' is empty"),
        ("a.csv", b"\xef\xbb\xbf", "a.csv' is empty"),
        (
            "a.txt",
            b"fine\n\xff\xfe",
            "line 2: not UTF-8 at byte 0 of the line; save",
        ),
        ("a.tsv", b"x", r"unknown suffix '.tsv'; did you mean '.csv'\? \(allowed: .csv, .jsonl, "),
        ("a.jsonl", b'{"text": "a"}\n\n{"text" "b"}\n', "line 3: not JSON at column 9"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2: expected an object, got list"),
        ("a.jsonl", b'{"txt": "a", "n": 1}\n', r"no column 'text'; did you mean 'txt'\? .*txt, n"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ""}\n', "prompt 1 is an empty string"),
        ("a.csv", b"text,n\n", "has no rows"),
        (
            "a.csv",
            b"body,n\na,1\n",
            r"no column 'text' \(columns: body, n; choose one with text_co",
        ),
        ("a.csv", b"text,n\na,1\nb,c,d\n", "line 3: 3 cells, but the header has 2"),
        ("a.csv", b'text,n\n"a,1\n', "malformed csv"),
        ("a.csv", b"text,text\na,b\n", "column names repeat"),
        ("a.parquet", b"PAR0 no", "is not readable as parquet"),
    ],
)
def test_refused_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_prompts(path, byte_level())


def test_missing_files_and_names(tmp_path):
    (tmp_path / "prompts.txt").write_text("a", encoding="utf-8")
    with pytest.raises(BadInput, match=r"no such file: .*; did you mean 'prompts.txt'\?"):
        read_prompts(str(tmp_path / "promts.txt"), byte_level())
    with pytest.raises(BadInput, match="no such file"):
        read_prompts(Path("nowhere/x.csv"), byte_level())
    with pytest.raises(BadInput, match="is a folder; name a file"):
        read_prompts(tmp_path, byte_level())
    with pytest.raises(UnknownName, match=r"'hre' is neither .* nor a file; did you mean 'her'\?"):
        read_prompts("hre", byte_level())
    with pytest.raises(UnknownName, match=r"put it in a list: \['Hello'\]"):
        read_prompts("Hello", byte_level())
    with pytest.raises(UnknownName, match="is neither a built-in set"):
        read_prompts("x" * 5000, byte_level())
