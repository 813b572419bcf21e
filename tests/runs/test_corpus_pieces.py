"""Finished shards merged on the disk: the same tables, few files, and any moment to stop at."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from corpus_help import documents, same, write_jsonl

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.rotation import Rotation
from analyses.trajectory import Trajectory
from interp._files import read_sealed
from interp.runs.corpus import pieces
from interp.runs.corpus.sources import Span

pytestmark = pytest.mark.usefixtures("hasty")
FULL = os.environ.get("INTERP_FULL") == "1"
ROWS = documents(22, longest=8)
SHARDS = 11  # of two documents: pieces of 9 and single shards with FAN 3, of 4 and 2 with FAN 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "c.jsonl", ROWS)


@pytest.fixture(scope="module")
def go(gpt2, corpus):
    def run(out: Path, fan: int = 2, keep: str = "summary", **options):
        analyses = (Rotation, LogitLens, Trajectory, Attention)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces, "FAN", fan)
            return interp.run_corpus(
                gpt2, corpus, analyses, out=out, keep=keep, shard_documents=2, progress=False,
                by=["kind"] if keep == "summary" else (), **options,
            )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def whole(go, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for keep in ("summary", "tokens"):
        go(folder / keep, keep=keep)
    return folder


def records(out: Path) -> list[str]:
    return sorted(path.stem for path in (out / "shards").glob("[0-9]*.json"))


def test_shards_that_follow_each_other_are_merged_and_their_files_deleted(whole, go, tmp_path):
    assert records(whole / "summary") == [
        "000000-000003",
        "000004-000007",
        "000008-000009",
        "000010",
    ]
    go(tmp_path / "three", 3)
    assert records(tmp_path / "three") == ["000000-000008", "000009", "000010"]
    names = {path.name.partition(".")[0] for path in (tmp_path / "three" / "shards").iterdir()}
    assert names == {*records(tmp_path / "three"), "vocabulary"}


def test_merged_pieces_count_and_average_what_single_shards_do(whole, go, tmp_path):
    go(tmp_path / "single", 64)
    a, b = interp.load(whole / "summary"), interp.load(tmp_path / "single")
    assert a.provenance["prompts"] == b.provenance["prompts"]
    pd.testing.assert_frame_equal(a.tokens, b.tokens)
    for name in ("rotation", "logit_lens", "attention"):
        pd.testing.assert_frame_equal(a[name].frame, b[name].frame, rtol=1e-9)
    assert a["attention"].examples("maps").keys() == b["attention"].examples("maps").keys()
    for key, maps in a["attention"].examples("maps").items():
        other = b["attention"].examples("maps")[key]
        assert maps.keys() == other.keys()
        assert all(np.array_equal(maps[i], other[i]) for i in maps)


def test_merged_pieces_keep_every_row(whole, go, tmp_path):
    go(tmp_path / "single", 64, "tokens")
    a, b = interp.load(whole / "tokens"), interp.load(tmp_path / "single")
    for name in ("rotation", "logit_lens"):
        pd.testing.assert_frame_equal(a[name].frame, b[name].frame)
        assert len(a[name]) == len(b[name]) == len(b[name].frame)


def test_a_record_of_a_piece_adds_up_those_of_its_shards(go, tmp_path):
    go(tmp_path / "single", 64, "tokens")
    go(tmp_path / "merged", 3, "tokens")
    single = [read_sealed(tmp_path / f"single/shards/{i:06d}.json", "") for i in range(9)]
    merged = read_sealed(tmp_path / "merged/shards/000000-000008.json", "")
    for name in ("documents", "chunks", "tokens"):
        assert merged[name] == sum(record[name] for record in single)
    assert merged["rows"]["rotation"] == sum(record["rows"]["rotation"] for record in single)
    rows = {n: d for r in single for n, d in r["files"].items() if not n.startswith("shards")}
    assert {n for n in merged["files"] if not n.startswith("shards")} == set(rows)
    assert "shards/vocabulary.json" in merged["files"]


class Stop(BaseException):
    """Stands for anything that ends a run."""


@pytest.mark.parametrize("keep", ["summary", "tokens"])
@pytest.mark.parametrize("seed", range(30) if FULL else range(2))
def test_a_run_stopped_at_any_file_resumes_to_the_same_bits(whole, go, tmp_path, keep, seed):
    chance, out = random.Random(f"{keep} {seed}"), tmp_path / "out"
    for attempt in range(2):
        left = chance.randrange(1, 120)

        def step(real, path, *rest, **options):
            nonlocal left
            if out in Path(path).parents:
                left -= 1
                if left == 0:
                    raise Stop
            return real(path, *rest, **options)

        with pytest.MonkeyPatch.context() as patch:
            for name in ("replace", "unlink"):
                real = getattr(Path, name)
                patch.setattr(Path, name, lambda p, *a, r=real, **o: step(r, p, *a, **o))
            try:
                go(out, keep=keep, resume=attempt > 0)
            except Stop:
                continue
    go(out, keep=keep, resume=True)
    same(out, whole / keep)
    assert records(out) == records(whole / keep)


@pytest.mark.parametrize("damage", ["record", "state", "delete"])
def test_a_damaged_piece_is_measured_again(whole, go, tmp_path, damage):
    out = tmp_path / "out"
    shutil.copytree(whole / "summary", out)
    if damage == "record":
        path = out / "shards" / "000004-000007.json"
        path.write_text(path.read_text().replace('"documents": 8', '"documents": 9'))
    elif damage == "state":
        path = out / "shards" / "000004-000007.rotation.safetensors"
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)
    else:
        (out / "shards" / "000004-000007.json").unlink()
    done = go(out, resume=True)
    assert 0 < done.measured < done.tokens
    same(out, whole / "summary")


def test_a_run_that_was_made_with_single_shards_is_merged_on_resuming(whole, go, tmp_path):
    go(tmp_path / "out", 64)
    assert go(tmp_path / "out", resume=True).measured == 0
    same(tmp_path / "out", whole / "summary")


def test_a_million_shards_keep_a_few_hundred_pieces():
    assert pieces.FAN**pieces.LEVELS == 4096
    n = 1_000_000
    large, left = divmod(n, 4096)
    assert large + left // 64 + left % 64 < 400


def test_a_span_names_its_files():
    assert [Span(0, 0).stem, Span(3, 12).stem] == ["000000", "000003-000012"]
    assert list(Span(3, 5).numbers) == [3, 4, 5]
