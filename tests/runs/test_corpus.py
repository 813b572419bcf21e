"""Corpus runs in this process: sources, chunks, tables, failures, resuming, locks, refusals."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from corpus_help import documents, same, write_jsonl

import interp
from analyses.logit_lens import LogitLens
from analyses.rotation import Rotation
from analyses.trajectory import Trajectory
from interp import BadInput, InterpError
from interp._files import read_sealed, write_sealed
from interp.errors import UnknownName
from interp.runs.corpus.documents import Reading, read_window, windows
from interp.runs.corpus.sources import Shard, open_source, plan

ROWS = documents(40)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "c.jsonl", ROWS)


def run(model, source, out, analyses=(Rotation,), **options):
    settings = {"shard_documents": 7, "max_tokens": 256, "progress": False} | options
    return interp.run_corpus(model, source, analyses, out=out, **settings)


# ---- sources ---------------------------------------------------------------------------------


def rows_of(source) -> list[dict]:
    found = plan(source, 7)
    assert [s.first for s in found.shards] == [7 * i for i in range(len(found.shards))]
    return [dict(d.row) for shard in found.shards for d in source.read(shard)]


def write_as(folder: Path, suffix: str) -> Path:
    path = folder / f"c{suffix}"
    frame = pd.DataFrame(ROWS)
    if suffix == ".jsonl":
        return write_jsonl(path, ROWS)
    if suffix == ".parquet":
        frame.to_parquet(path, row_group_size=11)
    elif suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        path.write_text("\n\n".join(frame["text"]), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv", ".txt"])
def test_every_format_gives_the_same_documents(tmp_path, suffix):
    path = write_as(tmp_path, suffix)
    rows = rows_of(open_source(str(path), columns=("kind",)))
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    if suffix != ".txt":
        assert [row["kind"] for row in rows] == [row["kind"] for row in ROWS]


def test_folders_globs_and_lists_number_documents_through(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / name, [{"text": f"{name} {i}"} for i in range(9)])
    whole = open_source(tmp_path)
    texts = [
        (d.number, d.row["text"]) for shard in plan(whole, 7).shards for d in whole.read(shard)
    ]
    assert [n for n, _ in texts] == list(range(27))
    assert texts[9][1] == "b.jsonl 0"
    assert plan(open_source(str(tmp_path / "*.jsonl"))).documents == 18
    assert plan(open_source([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])).documents == 18


def test_data_sets_from_memory_and_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    assert [r["text"] for r in rows_of(open_source(data))] == [r["text"] for r in ROWS]
    datasets.DatasetDict(train=data, test=data.select(range(3))).save_to_disk(tmp_path / "d")
    assert plan(open_source(tmp_path / "d", split="test")).documents == 3
    with pytest.raises(BadInput, match=r"several splits \(train, test\); choose one with split"):
        open_source(tmp_path / "d")
    with pytest.raises(BadInput, match="streams from the hub has no rows by number"):
        open_source(data.to_iterable_dataset())


def test_csv_records_over_lines_and_multibyte_text_are_found_by_offset(tmp_path):
    rows = [{"text": f'"quoted"\nand, {"é日" * (i % 5)} {i}', "kind": "x"} for i in range(30)]
    path = tmp_path / "c.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    assert [r["text"] for r in rows_of(open_source(path))] == [r["text"] for r in rows]


def test_shards_depend_on_the_text_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("interp.runs.corpus.sources.SHARD_BYTES", 400)
    source = open_source(write_jsonl(tmp_path / "c.jsonl", ROWS))
    shards = plan(source).shards
    sizes = [sum(len(json.dumps(d.row)) + 1 for d in source.read(s)) for s in shards]
    assert len(shards) > 3
    assert max(sizes) <= 400
    assert sum(s.count for s in shards) == len(ROWS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "missing.jsonl", r"no file matches .*missing.jsonl"),
        (lambda p: (p / "c.jsnl").write_text("x") and p / "c.jsnl", r"did you mean '.jsonl'"),
        (lambda p: p, r"folder .* has no .csv, .jsonl"),
        (lambda p: 7, r"cannot read a corpus from int"),
        (lambda p: "hf:nobody/nothing", r"data set 'nobody/nothing' cannot be opened"),
        (lambda p: (p / "e.jsonl").write_text("\n \n") and p / "e.jsonl", r"no documents in"),
        (lambda p: (p / "c.csv").write_text("txt,b\n1,2\n") and p / "c.csv", r"did you mean 'txt'"),
    ],
)
def test_sources_that_cannot_be_read_are_refused(tmp_path, make, words):
    with pytest.raises(BadInput, match=words):
        plan(open_source(make(tmp_path)))


# ---- chunks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [0, 3])
def test_every_token_of_a_long_document_is_measured_once(gpt2, overlap):
    source = open_source([ROWS[3]["text"], " ".join(r["text"] for r in ROWS[:9])])
    reading = Reading(limit=12, overlap=overlap, stride=100)
    ((group),) = windows(source.read(Shard(0, plan(source).shards[0].place, 0, 2)))
    chunks, failures = read_window(group, gpt2.tokenizer, reading)
    whole, _ = read_window(group, gpt2.tokenizer, Reading())
    assert not failures
    assert chunks.prompts.lengths.max() == 12
    tokens, targets = (
        np.concatenate(x)[~chunks.repeated]
        for x in (
            chunks.prompts.tokens,
            [chunks.prompts.targets_of(i) for i in range(len(chunks.ids))],
        )
    )
    np.testing.assert_array_equal(tokens, np.concatenate(whole.prompts.tokens))
    expected = [whole.prompts.targets_of(i) for i in range(2)]
    np.testing.assert_array_equal(targets, np.concatenate(expected))
    np.testing.assert_array_equal(chunks.places[~chunks.repeated], whole.places)
    for i in range(len(chunks.ids)):
        assert chunks.prompts.tokens[i][0] == whole.prompts.tokens[0][0]  # BOS begins every chunk
        body = chunks.places[chunks.starts[i] :][: chunks.prompts.lengths[i]]
        assert (np.diff(body[1:]) == 1).all()
    later = chunks.numbers > 0
    repeated = np.add.reduceat(chunks.repeated, chunks.starts)
    assert (repeated[later] == 1 + overlap).all()
    assert not repeated[~later].any()


def test_long_documents_are_split_cut_or_refused(gpt2, tmp_path):
    texts = [ROWS[0]["text"], " ".join(r["text"] for r in ROWS)]
    n = len(gpt2.to_tokens(texts[1], truncate=False)[0])
    limit = interp.inspect(gpt2).n_ctx
    assert n > limit
    split = run(gpt2, texts, tmp_path / "s", keep="tokens", overlap=5)
    cut = run(gpt2, texts, tmp_path / "c", long="cut", keep="tokens")
    refused = run(gpt2, texts, tmp_path / "r", long="refuse", keep="tokens")
    first = len(gpt2.to_tokens(texts[0])[0])
    assert split.tokens == first + n
    assert cut.tokens == first + limit
    assert refused.tokens == first
    assert refused.failures["reason"].item().startswith(f"the document has {n} tokens, the context")
    frame = split.open()["rotation"].read(where=None)
    long = frame[(frame["document"] == 1) & (frame["layer"] == 0)]
    assert long["document_position"].tolist() == list(range(n))
    assert long["chunk"].max() > 0
    text = "".join(long.loc[~long["special"], "token"])
    assert text == texts[1].replace(" ", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"long": "splt"}, "unknown value of long 'splt'; did you mean 'split'"),
        ({"overlap": -1}, "overlap=-1; a number of tokens, 0 or more"),
        ({"long": "cut", "overlap": 2}, "overlap=2 goes with long='split', not 'cut'"),
        ({"overlap": 10_000}, "more than half of the context"),
        ({"keep": "rows"}, "unknown value of keep 'rows'"),
        ({"keep": "tokens", "by": ["kind"]}, "makes groups of a summary"),
        ({"labels": ["kind"]}, "are columns of rows"),
        ({"by": "kind"}, "is one text; pass a list of names"),
        ({"by": ["knd"]}, r"unknown label 'knd'; did you mean 'kind'"),
        ({"by": ["role"]}, r"unknown label 'role'"),
        ({"by": ["mean"]}, "label .mean. has the name of a column of summaries; rename it"),
        ({"shard_documents": 0}, "a shard has at least one document"),
        ({"workers": 0}, "workers=0; at least 1"),
        ({"workers": 2}, "workers load the model themselves: pass its name or folder"),
        ({"gpus": 1}, "gpus= is for Ray actors"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    gpt2, corpus, tmp_path, options, words
):
    with pytest.raises((BadInput, UnknownName), match=words):
        run(gpt2, corpus, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "corpus.json").exists()


# ---- tables ----------------------------------------------------------------------------------


def test_rows_equal_those_of_an_ordinary_run(gpt2, corpus, tmp_path):
    done = run(
        gpt2, corpus, tmp_path / "out", (Rotation, LogitLens), keep="tokens", labels=["kind"]
    )
    plain = interp.run(gpt2, str(corpus), (Rotation, LogitLens), max_tokens=256, progress=False)
    assert done.documents == done.chunks == len(ROWS)
    assert done.tokens == len(plain.tokens)
    for name in plain:
        table, frame = done.open()[name], plain[name].frame
        on = ["prompt", "position", "layer"]
        found = table.frame.sort_values(on, ignore_index=True)
        frame = frame.sort_values(on, ignore_index=True)
        # A run's frame has two more, which are made of the prompts.
        assert set(plain[name].columns) - set(table.columns) == {"prompt", "word"}
        for column in [*on, "token", "token_id", "special", "kind", *plain[name].values]:
            if pd.api.types.is_float_dtype(frame[column]):
                np.testing.assert_allclose(found[column], frame[column], rtol=2e-3, atol=2e-3)
            else:
                assert found[column].astype(str).tolist() == frame[column].astype(str).tolist()
    texts = done.open()["logit_lens"].frame
    assert texts["top_token"].astype(str).tolist() == [
        gpt2.tokenizer.decode([i]) for i in texts["top_token_id"]
    ]


def test_a_summary_equals_that_of_an_ordinary_run(gpt2, corpus, tmp_path):
    chosen = (Rotation, LogitLens, Trajectory)
    done = run(gpt2, corpus, tmp_path / "out", chosen, by=["kind"])
    plain = interp.run(
        gpt2, str(corpus), chosen, keep="summary", by=["kind"], max_tokens=256, progress=False
    )
    for name in ("rotation", "logit_lens"):
        keys = ["layer", "kind", "value"]
        a = done.open()[name].frame.dropna(subset="layer").set_index(keys).sort_index()
        b = plain[name].frame.dropna(subset="layer").set_index(keys).sort_index()
        assert a.index.equals(b.index)
        for column in ("n", "undefined", "mode_share", "distinct"):
            if column in a:
                np.testing.assert_array_equal(a[column].astype(float), b[column].astype(float))
        for column in ("mean", "std", "min", "max"):
            np.testing.assert_allclose(a[column], b[column], rtol=1e-3, atol=1e-3)
    a, b = done.open()["trajectory"].frame, plain["trajectory"].frame
    assert a["basis_states"].unique() == b["basis_states"].unique()
    np.testing.assert_allclose(a["shown_share"], b["shown_share"], rtol=1e-4)
    assert a["token"].tolist() == b["token"].tolist()


def test_roles_tags_and_position_bins_make_groups(gpt2, corpus, tmp_path):
    done = run(gpt2, corpus, tmp_path / "out", target="her", by=["role", "position_bin"])
    frame = done.open()["rotation"].frame
    plain = interp.run(gpt2, str(corpus), Rotation, target="her", progress=False)
    rows = plain["rotation"].frame
    rows = rows[~rows["special"] & rows["role"].notna()]
    n = frame[frame["value"] == "angle"].groupby(["layer", "role"])["n"].sum()
    assert n.to_dict() == rows.groupby(["layer", "role"]).size().to_dict()
    low = rows[rows["position"].between(4, 7) & (rows["layer"] == 0) & (rows["role"] == "target")]
    record = frame.query(
        "layer == 0 and role == 'target' and position_bin == '000004-000007' and value == 'angle'"
    )
    assert record["n"].item() == len(low)
    assert record["mean"].item() == pytest.approx(low["angle"].mean(), rel=1e-4)


def test_a_report_is_made_of_a_summary_and_refused_for_rows(gpt2, corpus, tmp_path):
    run(gpt2, corpus, tmp_path / "s", by=["kind"])
    path = interp.load(tmp_path / "s").report(tmp_path / "report.html")
    assert "Rotation per block" in path.read_text(encoding="utf-8")
    run(gpt2, corpus, tmp_path / "t", keep="tokens")
    with pytest.raises(BadInput, match="kept rows only, and a report needs what fits in memory"):
        interp.load(tmp_path / "t").report(tmp_path / "other.html")


def test_a_table_too_large_for_memory_says_what_to_do(gpt2, corpus, tmp_path, monkeypatch):
    table = run(gpt2, corpus, tmp_path / "t", keep="tokens").open()["rotation"]
    monkeypatch.setattr("interp.runs.corpus.output.MOST_ROWS", 10)
    with pytest.raises(BadInput, match="frame loads at most 10. Choose: read"):
        table.frame  # noqa: B018
    some = table.read(columns=["angle"])
    assert list(some) == ["angle"]
    with pytest.raises(UnknownName, match="did you mean 'angle'"):
        table.read(columns=["angel"])


# ---- failures --------------------------------------------------------------------------------


def test_documents_that_fail_are_listed_and_the_others_go_on(gpt2, tmp_path):
    rows: list = documents(12)
    rows[2], rows[5], rows[7], rows[9] = "{not json", {"txt": "a"}, {"text": 3}, {"text": ""}
    path = write_jsonl(tmp_path / "c.jsonl", rows)
    with path.open("ab") as stream:
        stream.write(b'{"text": "\xff"}\n')
    done = run(gpt2, path, tmp_path / "out", keep="tokens")
    assert done.failures["document"].tolist() == [2, 5, 7, 9, 12]
    assert done.failures["where"].iloc[0] == f"{path}, line 3"
    reasons = " ".join(done.failures["reason"])
    for words in ("not JSON at column", "no column 'text'", "is int, not", "empty", "not UTF-8"):
        assert words in reasons
    kept = done.open()["rotation"].frame["document"].unique().tolist()
    assert kept == [0, 1, 3, 4, 6, 8, 10, 11]
    assert interp.load(tmp_path / "out").failures.equals(done.failures)


class Fussy(interp.Analysis):
    """Fails where the fourth token is of an odd id."""

    sites = ("resid_post",)
    columns: ClassVar = {"size": "norm"}

    def observe(self, batch):
        if batch.tokens.shape[1] > 3 and (batch.tokens[:, 3] % 2 == 1).any():
            raise ValueError("odd token")
        return {"size": interp.PerToken(batch["resid_post"].norm(dim=-1))}


def test_an_analysis_that_fails_on_a_document_costs_that_document_alone(gpt2, corpus, tmp_path):
    done = run(gpt2, corpus, tmp_path / "out", (Fussy, Rotation), keep="tokens")
    odd = [
        i for i, r in enumerate(ROWS)
        if len(t := gpt2.to_tokens(r["text"])[0]) > 3 and t[3] % 2 == 1
    ]  # fmt: skip
    assert 0 < len(odd) < len(ROWS)
    assert done.failures["document"].tolist() == odd
    assert done.failures["reason"].str.contains("odd token").all()
    for name in ("fussy", "rotation"):  # all or nothing: no table has a document that failed
        kept = set(done.open()[name].frame["document"])
        assert kept == set(range(len(ROWS))) - set(odd)


class Broken(interp.Analysis):
    """Fails always."""

    sites = ("resid_post",)

    def observe(self, batch):
        raise ValueError("a mistake in the analysis")


def test_a_run_in_which_everything_fails_stops_at_once(gpt2, corpus, tmp_path):
    with pytest.raises(InterpError, match=r"not one of 7 chunks .* a mistake in the analysis"):
        run(gpt2, corpus, tmp_path / "out", Broken)


# ---- resuming, locks, disks ------------------------------------------------------------------


class Stop(BaseException):
    """Stands for anything that ends a run."""


def interrupted(monkeypatch, after: int, error: BaseException):
    """Let the run end with `error` once `after` shards have been written."""
    from interp.runs.corpus import shard

    real, done = shard.write_sealed, []

    def write(path, document):
        done.append(path)
        if len(done) > after:
            raise error
        return real(path, document)

    monkeypatch.setattr(shard, "write_sealed", write)


@pytest.fixture(scope="module")
def whole(gpt2, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for keep in ("summary", "tokens"):
        run(gpt2, corpus, folder / keep, (Rotation, LogitLens, Trajectory), keep=keep)
    return folder


@pytest.mark.parametrize("keep", ["summary", "tokens"])
@pytest.mark.parametrize("after", [0, 3])
def test_a_run_that_was_stopped_resumes_to_the_same_bits(
    gpt2, corpus, tmp_path, whole, monkeypatch, keep, after
):
    options = {"analyses": (Rotation, LogitLens, Trajectory), "keep": keep}
    with monkeypatch.context() as patch, pytest.raises(Stop):
        interrupted(patch, after, Stop())
        run(gpt2, corpus, tmp_path / "out", **options)
    with pytest.raises(BadInput, match=rf"not finished \({after} of 6 shards\)"):
        interp.load(tmp_path / "out")
    with pytest.raises(BadInput, match="holds a corpus run; go on with it"):
        run(gpt2, corpus, tmp_path / "out", **options)
    done = run(gpt2, corpus, tmp_path / "out", **options, resume=True)
    assert 0 < done.measured <= done.tokens
    same(tmp_path / "out", whole / keep)
    again = run(gpt2, corpus, tmp_path / "out", **options, resume=True)
    assert again.measured == 0
    same(tmp_path / "out", whole / keep)


HALF = (".0123.part", ".4567.part/rotation.parquet", ".4567.part/.89ab.part", "shards/.cdef.part")


def test_what_a_killed_process_left_half_written_goes(gpt2, corpus, tmp_path, whole):
    """Also a folder: one that appears whole, as the summary does, is filled under another name."""
    out = shutil.copytree(whole / "summary", tmp_path / "out")
    (out / "finished.json").unlink()
    for name in HALF:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"half")
    run(gpt2, corpus, out, (Rotation, LogitLens, Trajectory), keep="summary", resume=True)
    assert [path for path in out.rglob("*") if path.suffix == ".part"] == []
    same(out, whole / "summary")


def test_a_full_disk_is_said_and_nothing_finished_is_lost(
    gpt2, corpus, tmp_path, whole, monkeypatch
):
    options = {"analyses": (Rotation, LogitLens, Trajectory), "keep": "tokens"}
    with monkeypatch.context() as patch:
        interrupted(patch, 2, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises((InterpError, OSError), match="No space left|no space left"):
            run(gpt2, corpus, tmp_path / "out", **options)
    run(gpt2, corpus, tmp_path / "out", **options, resume=True)
    same(tmp_path / "out", whole / "tokens")


def test_a_write_that_fails_leaves_nothing_and_says_what_to_do(tmp_path):
    from interp._files import atomic

    def fill():
        with atomic(tmp_path / "deep" / "x.bin") as path:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InterpError, match="no space left to write .*x.bin.* run again with resume"):
        fill()
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "record"])
def test_a_damaged_shard_is_found_and_done_again(gpt2, corpus, tmp_path, whole, damage):
    out = tmp_path / "out"
    shutil.copytree(whole / "tokens", out)
    path = out / "rotation" / "part-000002.parquet"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-10])
    elif damage == "delete":
        path.unlink()
    else:
        (out / "shards" / "000002.json").write_text("{")
    options = {"analyses": (Rotation, LogitLens, Trajectory), "keep": "tokens"}
    done = run(gpt2, corpus, out, **options, resume=True)
    assert 0 < done.measured < done.tokens
    same(out, whole / "tokens")


def test_another_run_is_not_resumed_and_the_difference_is_named(gpt2, llama, corpus, tmp_path):
    out = tmp_path / "out"
    run(gpt2, corpus, out, by=["kind"])
    before = (out / "corpus.json").read_bytes()
    with pytest.raises(BadInput, match=r"parameters.max_tokens was 256, now 300"):
        run(gpt2, corpus, out, by=["kind"], max_tokens=300, resume=True)
    with pytest.raises(BadInput, match=r'parameters.by was \["kind"\], now \[\]'):
        run(gpt2, corpus, out, resume=True)
    with pytest.raises(BadInput, match="model.architecture was"):
        run(llama, corpus, out, by=["kind"], resume=True)
    other = write_jsonl(tmp_path / "other.jsonl", documents(41))
    with pytest.raises(BadInput, match=r"data.documents was 40, now 41"):
        run(gpt2, other, out, by=["kind"], resume=True)
    weight = next(gpt2.parameters())
    with torch.no_grad():
        kept = weight[0, 0].clone()
        weight[0, 0] += 1
    try:
        with pytest.raises(BadInput, match="model.weights was"):
            run(gpt2, corpus, out, by=["kind"], resume=True)
    finally:
        with torch.no_grad():
            weight[0, 0] = kept
    folded = read_sealed(out / "corpus.json", "")
    folded["model"]["basis"] = "compatibility mode"
    write_sealed(out / "corpus.json", folded)
    with pytest.raises(BadInput, match='model.basis was "compatibility mode", now "raw"'):
        run(gpt2, corpus, out, by=["kind"], resume=True)
    (out / "corpus.json").write_bytes(before)
    assert (out / "corpus.json").read_bytes() == before
    assert run(gpt2, corpus, out, by=["kind"], resume=True).measured == 0


def test_overwriting_replaces_a_run_and_spares_what_is_none(gpt2, corpus, tmp_path):
    run(gpt2, corpus, tmp_path / "out", keep="tokens")
    run(gpt2, corpus, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "rotation").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(BadInput):
            run(gpt2, corpus, tmp_path / "mine", **options)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_two_runs_on_one_folder_are_refused(gpt2, corpus, tmp_path):
    from interp.runs.corpus.files import owned

    with (
        owned(tmp_path / "out"),
        pytest.raises(BadInput, match=r"another run works on .* \(process \d+ on .+, since "),
    ):
        run(gpt2, corpus, tmp_path / "out")
    run(gpt2, corpus, tmp_path / "out")  # the lock went with its owner


def test_a_folder_of_a_newer_version_is_refused(gpt2, corpus, tmp_path):
    run(gpt2, corpus, tmp_path / "out")
    manifest = read_sealed(tmp_path / "out" / "corpus.json", "")
    write_sealed(tmp_path / "out" / "corpus.json", manifest | {"schema": 99})
    with pytest.raises(BadInput, match=r"newer version \(schema 99, this one reads up to 1\)"):
        interp.load(tmp_path / "out")
