"""What users hand over: files of every kind, tables, encodings, labels to the last digit."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import socket
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corpus_help import write_jsonl
from test_prompts import byte_level, ids, roles
from zoo import ZOO
from zoo.boot import boot

import interp
from analyses.rotation import Rotation
from interp._files import from_parquet, to_parquet
from interp.errors import BadInput, UnknownName
from interp.prompts.read import read_prompts
from interp.prompts.user_files import shown, suffix_of
from interp.runs.corpus.documents import Reading, read_window
from interp.runs.corpus.sources import open_source, plan

ID = 1234567890123456789  # float64 makes it 1234567890123456768


def corpus_rows(source, **options):
    """The rows of all documents, read shard by shard; a fault is a string."""
    opened = open_source(source, **options)
    shards = plan(opened, 2).shards
    return [d.fault or dict(d.row) for shard in shards for d in opened.read(shard)]


def corpus_texts(source, **options):
    return [row["text"] for row in corpus_rows(source, **options)]


# ---- what is a file ---------------------------------------------------------------------------


@pytest.fixture
def in_time():
    """A reader that waits for ever fails instead."""

    def late(*_):
        raise TimeoutError("the reader waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(600)  # which are over only where it does wait
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


NO_FILES = {
    "a pipe (FIFO)": os.mkfifo,
    "a socket": _socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to 'gone', which is not there": lambda path: path.symlink_to("gone"),
    "a folder": Path.mkdir,
}
READERS = {
    "prompts": lambda path: read_prompts(path, byte_level()),
    "prompts, by name": lambda path: read_prompts(str(path), byte_level()),
    "corpus": lambda path: plan(open_source([path])),
    "vectors": interp.experiments.read_word_vectors,
    "vectors, binary": lambda path: interp.experiments.read_word_vectors(path, binary=True),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("suffix", [".txt", ".parquet", ".txt.gz"])
def test_what_is_no_file_is_refused_by_name(tmp_path, monkeypatch, in_time, kind, reader, suffix):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    path = Path(f"dz{suffix}")
    NO_FILES[kind](path)
    with pytest.raises(BadInput) as refused:
        READERS[reader](path)
    if (kind, reader) != ("a folder", "corpus"):  # an empty folder there
        assert f"'dz{suffix}' is {kind}" in str(refused.value)
    assert "did you mean" not in str(refused.value)


def test_a_pipe_in_a_corpus_folder_is_named_not_passed_over(tmp_path, in_time):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a b"}])
    os.mkfifo(tmp_path / "b.jsonl")
    with pytest.raises(BadInput, match=r"b.jsonl' is a pipe \(FIFO\), not a file with an end"):
        plan(open_source(tmp_path))


def test_a_name_that_is_not_there_gets_the_nearest_other_one(tmp_path):
    (tmp_path / "prompts.txt").write_text("a b")
    for reader in ("prompts", "prompts, by name"):
        with pytest.raises(BadInput, match=r"no such file: .*did you mean 'prompts.txt'\?"):
            READERS[reader](tmp_path / "promts.txt")
    with pytest.raises(UnknownName, match=r"did you mean 'prompts.txt'\?"):
        interp.experiments.read_word_vectors(tmp_path / "promts.txt")


def test_a_file_name_that_is_no_utf8(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))
    write_jsonl(path, [{"text": "He met"}, "{no"])
    prompts_path = path.with_suffix(".txt")
    prompts_path.write_text("He met her")
    assert read_prompts(prompts_path, byte_level()).source.endswith("caf\\xe9.txt")
    source = open_source(path)
    found = plan(source)
    assert len(found.sha256) == 64
    documents = [d for shard in found.shards for d in source.read(shard)]
    for text in (source.name, documents[1].where):
        assert "caf\\xe9.jsonl" in text
        text.encode("utf-8")
    assert shown("a.txt") == "a.txt"


def test_hidden_folders_above_a_corpus_do_not_hide_it(tmp_path):
    folder = tmp_path / ".cache" / "data"
    (folder / ".hidden").mkdir(parents=True)
    write_jsonl(folder / "a.jsonl", [{"text": "a b"}])
    write_jsonl(folder / ".hidden" / "b.jsonl", [{"text": "c d"}])
    assert corpus_texts(folder) == ["a b"]


def test_results_inside_a_corpus_folder_are_no_part_of_the_corpus(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a b"}])
    for name, document in (("out/corpus.json", {"schema": 1}), ("mine/results.json", {"acc": 1})):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_text(json.dumps(document))
        write_jsonl(file.with_name("f.jsonl"), [{"text": "c d"}])
        pd.DataFrame({"document": [1]}).to_parquet(file.with_name("failures.parquet"))
    (tmp_path / "mine" / "failures.parquet").unlink()
    assert corpus_texts(tmp_path) == ["a b", "c d"]  # a results.json of someone else hides nothing


# ---- formats ----------------------------------------------------------------------------------

LINES = ["He met her", "a\x0cb\u2028c", "the man"]
ENDS = {"unix": "\n", "windows": "\r\n", "old mac": "\r"}


def _encoded(suffix, end, marks):
    """Three records with blank lines between, as bytes of a format."""
    blank = end + " \t\u2003" + end
    if suffix == ".jsonl":
        text = blank.join(json.dumps({"text": line}, ensure_ascii=False) for line in LINES)
    elif suffix == ".csv":
        text = end.join(["text,n", *(f'"{line}",1' for line in LINES), "", " ", ""])
    else:
        text = blank.join(LINES)
    return (marks + text + end + end).encode()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("marks", ["", "\ufeff"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
def test_prompts_and_corpora_read_the_same(tmp_path, suffix, end, marks, compressed):
    data = _encoded(suffix, ENDS[end], marks)
    path = tmp_path / (f"a{suffix}.GZ" if compressed else f"a{suffix}")
    path.write_bytes(gzip.compress(data) if compressed else data)
    assert list(read_prompts(path, byte_level()).texts) == LINES
    assert corpus_texts(path) == LINES


def test_parquet_with_categories_is_read_by_both(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": pd.Categorical(LINES)}).to_parquet(path)
    assert list(read_prompts(path, byte_level()).texts) == LINES
    assert corpus_texts(path) == LINES


def test_long_csv_cells_are_read_by_both_and_the_limit_of_csv_stays(tmp_path):
    before = csv.field_size_limit()
    text = "the man " * 30_000
    path = tmp_path / "a.csv"
    path.write_text(f'text,n\n"{text}",1\n')
    assert read_prompts(path, byte_level()).texts == (text,)
    assert corpus_texts(path) == [text]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "a.txt.gz",
            gzip.compress(b"the man " * 4000, mtime=0)[:40],
            "cannot be unpacked; it is cut short",
        ),
        ("a.txt.gz", b"the man\n", "cannot be unpacked; .*Not a gzipped file"),
        ("a.txt", gzip.compress(b"the man", mtime=0), r"is compressed; name it '.*a.txt.gz'"),
        ("a.txt", "the man".encode("utf-16"), "is UTF-16, not UTF-8; save it as UTF-8"),
        ("a.jsonl.bz2", b"x", r"a.jsonl.bz2': unpack it first \(allowed: .csv"),
        ("a.parquet.gz", b"x", "Parquet is compressed in itself"),
        ("a.csv", b'text,n\na,1\n"b\n', "line 3: malformed csv"),
        ("a.csv", b"text,text\na,b\n", "column names repeat"),
        ("a.csv", b"t\xe9xt,n\na,b\n", "line 1: the header is not UTF-8"),
    ],
)
def test_files_that_cannot_be_read_are_refused_alike(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    for read in (READERS["prompts"], corpus_texts):
        with pytest.raises(BadInput, match=message):
            read(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "a b"}\n{"text": "\xff"}\n', "line 2: not UTF-8 at byte 10"),
        ("a.csv", b"text,n\na b,1\n\xff,2\n", "line 3: not UTF-8"),
        ("a.csv", b"text,n\na b,1\na,b,2\n", "line 3: 3 cells, but the header has 2"),
        ("a.jsonl", b'{"text": "a b"}\n' + b"[" * 200_000, "line 2: JSON that is nested too"),
        ("a.jsonl", b'{"text": "a b"}\n{"n": ' + b"1" * 5000 + b"}", "line 2: not JSON that can"),
    ],
)
def test_a_bad_record_refuses_prompts_and_fails_one_document(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(BadInput, match=message):
        read_prompts(path, byte_level())
    first, second = corpus_rows(path)
    assert first["text"] == "a b"
    assert second in str(message) or message.partition(": ")[2] in second


def test_damaged_pages_of_parquet_are_refused_by_name(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pd.DataFrame({"text": [f"the man {i * 7919}" for i in range(3000)]})
    frame.to_parquet(path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[100:3000] = bytes(2900)
    path.write_bytes(data)
    for read in (READERS["prompts"], corpus_texts):
        with pytest.raises(BadInput, match=r"a.parquet' is not readable as parquet"):
            read(path)


def test_suffixes():
    names = ["a.TXT", "a.csv.gz", "a.gz", "b"]
    assert [suffix_of(name) for name in names] == [".txt", ".csv", "", ""]


# ---- columns ----------------------------------------------------------------------------------

ODD = {
    "text": ["He met", "the man"],
    "kind": ["a", "b"],
    "lists": [[1, 2], [3]],
    "day": [date(2024, 1, 31), None],
    "at": [datetime(2024, 1, 31, 12, 30), None],
    "took": [timedelta(seconds=90), None],
    "price": [Decimal("12.50"), Decimal("7.00")],
    "precise": [Decimal("0.1234567890123456789"), None],
    "raw": [b"x", b"y"],
    "id": [ID, None],
    "hash": [2**64 - 1, 5],
}
VALUES = {
    "kind": ["a", "b"],
    "day": ["2024-01-31", None],
    "at": ["2024-01-31T12:30:00", None],
    "took": ["P0DT0H1M30S", None],
    "price": [12.5, 7],
    "precise": ["0.1234567890123456789", None],
    "id": [ID, None],
    "hash": [2**64 - 1, 5],
}


def odd_table():
    return pa.table({k: pa.array(v, pa.uint64()) if k == "hash" else v for k, v in ODD.items()})


def test_odd_columns_are_left_out_or_become_labels(tmp_path):
    pq.write_table(odd_table(), tmp_path / "a.parquet")
    prompts = read_prompts(tmp_path / "a.parquet", byte_level())
    assert {name: [roles(prompts, i, name)[1] for i in (0, 1)] for name in VALUES} == VALUES
    assert set(prompts.labels) == set(VALUES)
    notes = "\n".join(prompts.notes)
    assert "column 'lists' of" in notes
    assert "was left out: label 'lists', prompt 0: expected 4 values" in notes
    assert "was left out: label 'raw', prompt 0: bytes is no label; allowed: string" in notes


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("lists", "label 'lists', prompt 0: expected 4"),
        ("raw", "column 'raw' of pyarrow Table: label 'raw', prompt 0: bytes is no label"),
        (
            "knd",
            r"pyarrow Table has no column 'knd'; did you mean 'kind'\? \(has: text, kind",
        ),
    ],
)
def test_columns_that_are_asked_for_are_read_or_refused(column, message):
    asked = read_prompts(odd_table(), byte_level(), columns=["day", "id"])
    assert set(asked.labels) == {"day", "id"}
    assert asked.notes == ()
    with pytest.raises(BadInput, match=message):
        read_prompts(odd_table(), byte_level(), columns=["day", column])


def test_mixed_and_long_values_of_files_become_text_with_a_note(tmp_path):
    rows = [{"text": "He met", "m": 1, "n": 10**23, "f": ID}, {"text": "a", "m": "x", "f": 0.5}]
    prompts = read_prompts(write_jsonl(tmp_path / "a.jsonl", rows), byte_level())
    assert [roles(prompts, i, "m")[0] for i in (0, 1)] == ["1", "x"]
    assert [roles(prompts, i, "n")[0] for i in (0, 1)] == [str(10**23), None]
    assert [roles(prompts, i, "f")[0] for i in (0, 1)] == [str(ID), "0.5"]
    assert [note.rpartition("is read as text: ")[2] for note in prompts.notes] == [
        "it mixes kinds of values",
        f"{10**23} needs more than 64 bits",
        f"{ID} loses digits beside decimal numbers",
    ]
    (tmp_path / "a.csv").write_text(f"text,n,f,i\na b,{10**23},{ID},{ID}\nc,1,0.5,\n")
    prompts = read_prompts(tmp_path / "a.csv", byte_level())
    assert roles(prompts, 0, "n")[0] == str(10**23)
    assert roles(prompts, 0, "f")[0] == str(ID)
    assert [roles(prompts, i, "i")[0] for i in (0, 1)] == [ID, None]


def test_dates_beyond_python_are_text(tmp_path):
    far = pa.array([6_600_000, 1], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"text": ["a b", "c d"], "day": far}), tmp_path / "a.parquet")
    day = roles(read_prompts(tmp_path / "a.parquet", byte_level()), 0, "day")[0]
    assert day.startswith("20040-")


# ---- label values -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [10**23, None],
            f"label 'id', prompt 0: {10**23} needs more than 64 bits; make",
        ),
        ([2**63, -1], f"prompt 0: {2**63} needs more than 64 bits"),
        ([0.5, ID], f"prompt 1: {ID} loses digits beside decimal numbers"),
        (["a", "b\ud800"], r"label 'id', prompt 1: character 1 of 'b\\ud800' is half a character"),
        ([b"x", b"y"], "labels 'id': prompt 0 has bytes"),
    ],
)
def test_labels_that_no_column_holds_exactly_are_refused_by_prompt(values, message):
    with pytest.raises(BadInput, match=message):
        read_prompts(["He met", "the man"], byte_level(), labels={"id": values})


def test_names_that_no_file_holds_are_refused_or_left_out():
    with pytest.raises(BadInput, match=r"name of a label: character 1 of 'k\\ud800' is half a"):
        read_prompts(["He met"], byte_level(), labels={"k\ud800": [1]})
    prompts = read_prompts([{"text": "He met", "k\ud800": 1, " ": 2}], byte_level())
    assert dict(prompts.labels) == {}
    assert len(prompts.notes) == 2
    "".join(prompts.notes).encode("utf-8")


@pytest.mark.parametrize(
    "values",
    [[ID, None], [2**64 - 1, None], [ID, 5], [2**64 - 1, 0], [True, None], ["ID", None], [0.5, 2]],
)
def test_tables_come_back_from_the_disk_as_they_were(tmp_path, values):
    prompts = read_prompts(["He met", "the man"], byte_level(), labels={"id": values})
    index = prompts.index()
    to_parquet(index, tmp_path / "t.parquet")
    back = from_parquet(tmp_path / "t.parquet")
    expected = [None if pd.isna(v) else v for v in index["id"].tolist()]
    assert [None if pd.isna(v) else v for v in back["id"].tolist()] == expected
    assert [expected[0], expected[-1]] == values
    kinds = [{type(v) for v in table["id"].dropna().tolist()} for table in (index, back)]
    assert kinds[0] == kinds[1]


def test_labels_keep_their_digits_through_runs_summaries_and_files(gpt2, tmp_path):
    texts, labels = ["the man saw the dog", "the dog"], {"id": [ID, None]}
    options = {"labels": labels, "progress": False}
    results = interp.run(gpt2, texts, Rotation, **options)
    results.save(tmp_path / "rows")
    for found in (results, interp.load(tmp_path / "rows")):
        frame = found["rotation"].frame
        assert set(frame["id"].dropna()) == {ID}
        assert all(type(cell) is int for cell in frame["id"].dropna())
        assert frame[frame["prompt"] == 1]["id"].isna().all()
        assert set(found["rotation"].summary(by=["id"])["id"]) == {ID}
    summary = interp.run(gpt2, texts, Rotation, keep="summary", by=["id"], **options)
    summary.save(tmp_path / "summary")
    loaded = interp.load(tmp_path / "summary")["rotation"].frame
    assert set(loaded["id"].astype(str)) == {str(ID)}


def test_labels_of_watched_passes_keep_their_digits(gpt2):
    with interp.attach(gpt2, Rotation) as probes, torch.no_grad():
        probes.label(id=[ID, None], day=date(2024, 1, 31))
        gpt2(torch.tensor([[1, 5, 6], [1, 7, 8]]))
        probes.label()
        gpt2(torch.tensor([[1, 5, 6]]))
    frame = probes["rotation"].frame
    assert set(frame["id"].dropna()) == {ID}
    assert set(frame["day"].dropna()) == {"2024-01-31"}
    assert frame[frame["prompt"] == 2]["id"].isna().all()


def test_labels_of_an_encoder_keep_their_digits_beside_a_decoder():
    model = boot(ZOO["t5"])
    tokens = torch.tensor([[5, 6, 7], [8, 9, 10]])
    results = interp.run(model, tokens, Rotation, labels={"id": [ID, 5]}, progress=False)
    frame = results["rotation"].frame
    assert frame[frame["stack"] == "decoder"]["id"].isna().all()
    assert frame[frame["stack"] == "encoder"].groupby("prompt")["id"].first().tolist() == [ID, 5]


def test_labels_of_a_corpus_keep_their_digits_or_fail_by_document(gpt2):
    rows = [
        {"text": "the man", "id": 10**23},
        {"text": "the dog", "id": ID},
        {"text": "the road", "id": "x"},
        {"text": "the hat", "id": "\ud800"},
        {"text": "the king", "id": date(2024, 1, 31)},
        {"text": "the queen", "id": {"a": 1}},
        {"text": "the saw"},
    ]
    source = open_source(rows, columns=("id",))
    documents = list(source.read(plan(source).shards[0]))
    chunks, failures = read_window(documents, gpt2.tokenizer, Reading(labels=("id",)))
    assert [f.document for f in failures] == [3, 5]
    assert "is half a character" in failures[0].reason
    values = chunks.labels(["id"])["id"].dropna().unique().tolist()
    assert values == [str(10**23), str(ID), "x", "2024-01-31"]


# ---- tables, encodings, chats -----------------------------------------------------------------

TEXTS = ["He met her", "the man"]


def tables():
    frame = pd.DataFrame({"text": TEXTS, "n": [1, 2], 3: ["a", "b"]})
    table = pa.table({"text": TEXTS, "n": [1, 2], "3": ["a", "b"]})
    return {"pandas": frame, "pyarrow": table, "batch": table.to_batches()[0]}


@pytest.mark.parametrize("kind", ["pandas", "pyarrow", "batch"])
def test_tables_in_memory(kind):
    table = tables()[kind]
    prompts = read_prompts(table, byte_level())
    assert list(prompts.texts) == TEXTS
    assert [roles(prompts, i, "n")[0] for i in (0, 1)] == [1, 2]
    assert roles(prompts, 1, "3")[0] == "b"
    assert corpus_texts(table) == TEXTS
    assert corpus_texts(pd.Series(TEXTS)) == corpus_texts(pa.array(TEXTS)) == TEXTS
    with pytest.raises(BadInput, match=r"has no column 'txt'; did you mean 'text'\?"):
        read_prompts(table, byte_level(), text_column="txt")
    with pytest.raises(BadInput, match=r"has no column 'txt'; did you mean 'text'\?"):
        open_source(table, text_column="txt")


@pytest.mark.parametrize("form", [None, "arrow", "pandas", "numpy", "torch"])
def test_data_sets_in_any_format(form):
    datasets = pytest.importorskip("datasets")
    rows = {"text": TEXTS, "n": [ID, None], "day": [date(2024, 1, 31)] * 2}
    data = datasets.Dataset.from_dict(rows).with_format(form)
    prompts = read_prompts(data, byte_level())
    assert list(prompts.texts) == TEXTS
    assert [roles(prompts, i, "n")[0] for i in (0, 1)] == [ID, None]
    assert roles(prompts, 0, "day")[0] == "2024-01-31"
    assert corpus_texts(data) == TEXTS


def test_streaming_data_sets_are_prompts():
    datasets = pytest.importorskip("datasets")
    made = datasets.IterableDataset.from_generator(lambda: ({"text": text} for text in TEXTS))
    assert made.column_names is None
    for data in (made, datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()):
        assert list(read_prompts(data, byte_level()).texts) == TEXTS


@pytest.mark.parametrize(
    "source",
    [
        (text for text in TEXTS),
        pd.Series(TEXTS),
        pd.Index(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS]),
        dict.fromkeys(TEXTS).keys() and {"a": TEXTS[0], "b": TEXTS[1]}.values(),
        {"text": TEXTS},
        map(str, TEXTS),
    ],
    ids=lambda source: type(source).__name__,
)
def test_columns_and_generators_of_texts(source):
    assert list(read_prompts(source, byte_level()).texts) == TEXTS


def test_one_row_and_columns_as_mappings():
    one = read_prompts({"text": "He met her", "kind": "a"}, byte_level())
    assert roles(one, 0, "kind")[0] == "a"
    with pytest.raises(BadInput, match=r"differ in length: \{'text': 2, 'n': 1\}"):
        read_prompts({"text": TEXTS, "n": [1]}, byte_level())
    with pytest.raises(BadInput, match="column 'kind' of the dict is one text; give one value per"):
        read_prompts({"text": TEXTS, "kind": "ab"}, byte_level())
    with pytest.raises(BadInput, match="if it has 'input_ids' .*; it has: txt"):
        read_prompts({"txt": TEXTS}, byte_level())


@pytest.mark.parametrize("kind", ["pt", "np", None, "dict", "one", "dataset"])
def test_encodings_are_ids_and_a_mask(kind):
    tokenizer = byte_level()
    expected = tokenizer(TEXTS)["input_ids"]
    labels = None
    if kind == "one":
        encoding, expected = tokenizer(TEXTS[0]), expected[:1]
    elif kind == "dataset":
        datasets = pytest.importorskip("datasets")
        encoding = datasets.Dataset.from_dict(dict(tokenizer(TEXTS, padding=True)))
    else:
        padded = tokenizer(TEXTS, padding=True, return_tensors=None if kind == "dict" else kind)
        encoding = dict(padded) if kind == "dict" else padded
        labels = {"cell": np.arange(2 * len(padded["input_ids"][0])).reshape(2, -1)}
    prompts = read_prompts(encoding, tokenizer, token_labels=labels)
    assert [ids(prompts, i) for i in range(len(prompts))] == expected
    assert list(prompts.texts) == TEXTS[: len(expected)]
    if labels is not None:
        width = labels["cell"].shape[1]
        assert roles(prompts, 1, "cell") == list(range(width, width + len(expected[1])))


def test_encodings_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="dict: 2 prompts of ids, but 1 masks"):
        read_prompts({"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1]]})
    with pytest.raises(BadInput, match=r"mask row 1 has shape \(2,\); the prompt has 1 ids"):
        read_prompts({"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [1, 1]]})
    with pytest.raises(BadInput, match=r"mask holds 2 at \[1, 0\]"):
        read_prompts({"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [2]]})
    with pytest.raises(BadInput, match="input_ids is NoneType; expected ids by prompt"):
        read_prompts({"input_ids": None})
    ragged = read_prompts({"input_ids": [[1, 2, 0], [3]], "attention_mask": [[1, 1, 0], [1]]})
    assert [ids(ragged, i) for i in (0, 1)] == [[1, 2], [3]]


CHAT = [{"role": "user", "content": "Who met her?"}, {"role": "assistant", "content": "He."}]


def test_rows_with_a_text_are_no_chat():
    mail = [{"text": "He met", "from": "a", "value": "b", "role": "c", "content": "d"}]
    assert read_prompts(mail, byte_level()).texts == ("He met",)
    assert read_prompts(mail[0], byte_level()).texts == ("He met",)
    assert read_prompts(CHAT, byte_level(), text_column="content").texts == ("Who met her?", "He.")
    assert corpus_rows(mail) == mail
    assert corpus_rows(CHAT, text_column="content") == CHAT


def test_texts_and_chats_in_one_corpus_fail_where_the_tokenizer_has_no_template(gpt2):
    source = open_source([{"messages": CHAT}, {"text": "the man"}])
    documents = list(source.read(plan(source).shards[0]))
    _, failures = read_window(documents, gpt2.tokenizer, Reading())
    assert [f.document for f in failures] == [0]
    assert "has no chat template" in failures[0].reason


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.open(), r"an open file \(TextIOWrapper\); pass its path"),
        (lambda path: {"a b", "c d"}, r"a set has no order, .*; pass sorted\("),
        (lambda path: b"a b", "cannot read prompts from bytes; allowed: a list of strings"),
        (lambda path: iter(()), "no prompts in the list"),
        (lambda path: pd.DataFrame({"text": [None]}), "prompt 0 is NoneType, not a string"),
        (lambda path: pd.DataFrame([["a", "b"]], columns=["text"] * 2), "column names repeat"),
    ],
)
def test_other_objects_are_refused_by_name(tmp_path, make, message):
    (tmp_path / "a.txt").write_text("a b")
    with pytest.raises(BadInput, match=message):
        read_prompts(make(tmp_path / "a.txt"), byte_level())


# ---- word vectors -----------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["", "2 3\n", "2\t3\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("between", [(" ", " "), ("\t", " "), ("\t", "\t"), ("  ", "  ")])
@pytest.mark.parametrize("tail", ["", "\n", " \n\n"])
def test_word_vectors_however_they_were_written(tmp_path, head, mark, end, between, tail):
    word, number = between
    body = "".join(f"{w}{word}{number.join(v)}\n" for w, v in (("the", "123"), ("naïve", "405")))
    data = (mark + (head + body + tail).replace("\n", end)).encode()
    (tmp_path / "v.vec").write_bytes(data)
    (tmp_path / "v.txt.gz").write_bytes(gzip.compress(data))
    for name in ("v.vec", "v.txt.gz"):
        space = interp.experiments.read_word_vectors(tmp_path / name)
        assert space.words == ("the", "naïve")
        np.testing.assert_array_equal(space.vectors, [[1, 2, 3], [4, 0, 5]])


def test_words_with_spaces_keep_them_before_a_tab(tmp_path):
    (tmp_path / "v.txt").write_text("the\t1 2\nNew York\t3 4\n")
    assert interp.experiments.read_word_vectors(tmp_path / "v.txt").words == ("the", "New York")


def test_compressed_binary_vectors(tmp_path):
    pytest.importorskip("gensim")
    vectors = np.arange(6, dtype="<f4").reshape(2, 3)
    body = b"".join(
        w + b" " + v.tobytes() + b"\n" for w, v in zip((b"a", b"b"), vectors, strict=True)
    )
    (tmp_path / "v.bin.gz").write_bytes(gzip.compress(b"2 3\n" + body))
    space = interp.experiments.read_word_vectors(tmp_path / "v.bin.gz")
    assert space.words == ("a", "b")
    np.testing.assert_array_equal(space.vectors, vectors)
