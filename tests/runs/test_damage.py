"""Damage to saved folders: an error that names the file and the remedy, or the same tables.

Every file of a run is flipped, cut, emptied, deleted, swapped with another and replaced by a
folder, and then loaded and, where it is a corpus run, resumed.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
from corpus_help import documents, same, write_jsonl
from counting import counted
from typer.testing import CliRunner

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.rotation import Rotation
from interp import BadInput, InterpError
from interp._files import read_sealed, write_sealed
from interp.cli.app import app

pytestmark = pytest.mark.usefixtures("hasty")
log = logging.getLogger(__name__)  # counts, with --log-cli-level=INFO
FULL = os.environ.get("INTERP_FULL") == "1"
FORMS = ("results", "summary", "tokens")
ROWS = documents(12, longest=9)
UNREAD = (".lock", ".owner.json")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "c.jsonl", ROWS)


@pytest.fixture(scope="module")
def go(gpt2, corpus) -> Callable[..., Any]:
    """Make a folder of a form, or go on with it."""

    def run(form: str, out: Path, **options: Any) -> Any:
        shared = {"analyses": (Rotation, LogitLens), "shard_documents": 4, "progress": False}
        if form == "summary":
            shared |= {"by": ["kind"], "control": "random-init", "analyses": (Rotation, Attention)}
        return interp.run_corpus(gpt2, corpus, out=out, keep=form, **shared, **options)

    return run


@pytest.fixture(scope="module")
def whole(gpt2, go, tmp_path_factory) -> Path:
    """A folder of each form."""
    folder = tmp_path_factory.mktemp("whole")
    for form in ("summary", "tokens"):
        go(form, folder / form)
    texts = [row["text"] for row in ROWS[:5]]
    asked = {"target": "her", "control": "random-init", "progress": False}
    interp.run(gpt2, texts, (Rotation, Attention), **asked).save(folder / "results")
    return folder


# ---- damage ----------------------------------------------------------------------------------


def flip(path: Path, chance: random.Random) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def digit(path: Path, chance: random.Random) -> None:
    """Change one digit of a text, which leaves it well-formed."""
    data = bytearray(path.read_bytes())
    places = [m.start() for m in re.finditer(rb"\d", data)]
    if places:
        place = chance.choice(places)
        data[place] = ord("0") + (data[place] - ord("0") + chance.randrange(1, 10)) % 10
    path.write_bytes(data)


def cut(path: Path, chance: random.Random) -> None:
    """Leave the first part, down to nothing."""
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))] if data else data)


def empty(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


def folder(path: Path, chance: random.Random) -> None:
    """Put a folder where the file was."""
    path.unlink()
    path.mkdir()


def swap(path: Path, chance: random.Random) -> None:
    """Exchange the contents with those of another file of the same kind."""
    others = [p for p in files(path.parent) if p.suffix == path.suffix and p != path]
    if others:
        other = chance.choice(others)
        mine, theirs = path.read_bytes(), other.read_bytes()
        path.write_bytes(theirs)
        other.write_bytes(mine)


DAMAGES = (flip, digit, cut, swap, empty, delete, folder)
RANDOM = DAMAGES[:4]


def files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() and p.name not in UNREAD)


def damaged(whole: Path, out: Path, name: str, damage: Callable, seed: int) -> Path:
    """A copy of a folder with one damaged file."""
    shutil.copytree(whole, out)
    damage(out / name, random.Random(f"{name} {damage.__name__} {seed}"))
    return out


def cases(whole: Path, few: int, seeds: int) -> list[tuple[str, Callable, int]]:
    """File, damage and seed: all of them, or `few` of them that are the same every time."""
    names = [str(path.relative_to(whole)) for path in files(whole)]
    every = [(n, d, s) for n in names for d in DAMAGES for s in range(seeds if d in RANDOM else 1)]
    return every if FULL else random.Random(0).sample(every, few)


# ---- what is read ----------------------------------------------------------------------------


def content(folder: Path) -> dict[str, Any]:
    """Everything that loading a folder gives, by name."""
    opened = interp.load(folder)
    if isinstance(opened, interp.Results):
        return of_results(opened)
    out: dict[str, Any] = {"failures": opened.failures, "manifest": opened.manifest}
    for name, table in opened.items():
        out |= {f"{name} rows": table.frame, f"{name} n": len(table), f"{name} of": table.columns}
    return out | (of_results(opened.results) if opened.results is not None else {})


def of_results(results: interp.Results) -> dict[str, Any]:
    out: dict[str, Any] = {"provenance": results.provenance, "tokens": results.tokens}
    for name, result in results.items():
        out |= {name: result.frame, f"{name} notes": result.notes, f"{name} is": result.analysis}
        for key, leaves in result.state.items():
            for leaf, value in leaves.items():
                out |= {f"{name} {key} {leaf} {n}": a for n, a in value.arrays().items()}
    beside = of_results(results.control) if results.control is not None else {}
    return out | {f"control: {name}": value for name, value in beside.items()}


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(found[name], value, check_exact=True, obj=name)
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        else:
            assert found[name] == value, name


def assert_clear(error: InterpError, out: Path, name: str) -> None:
    """The message names the file, or the folder whose parts are counted, and what to do."""
    said = str(error)
    path = Path(name)
    assert str(out / name) in said or path.name in said or str(out / path.parent) in said, said
    remedies = ("resume", "run and save again", "move it away", "holds no results", "name a folder")
    assert any(words in said for words in remedies), said


# ---- the fuzzer ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_damaged_folders_are_refused_by_name_or_load_to_equal_tables(whole, tmp_path, form):
    expected, seen = content(whole / form), Counter()
    for i, (name, damage, seed) in enumerate(cases(whole / form, 25, seeds=5)):
        out = damaged(whole / form, tmp_path / str(i), name, damage, seed)
        try:
            assert_equal(content(out), expected)
            seen["equal"] += 1
        except InterpError as error:
            # A swap is found at either of the two files.
            assert_clear(error, out, name if damage is not swap else str(Path(name).parent))
            seen["refused"] += 1
        shutil.rmtree(out)
    log.info("%s loaded: %s", form, dict(seen))
    assert seen["refused"]


@pytest.mark.parametrize("form", ["summary", "tokens"])
def test_damaged_runs_resume_to_the_same_bits_or_are_refused_by_name(whole, go, tmp_path, form):
    seen = Counter()
    for i, (name, damage, seed) in enumerate(cases(whole / form, 4, seeds=2)):
        out = damaged(whole / form, tmp_path / str(i), name, damage, seed)
        try:
            go(form, out, resume=True)
        except InterpError as error:
            assert_clear(error, out, name)
            seen["refused"] += 1
        else:
            same(out, whole / form)
            assert_equal(content(out), content(whole / form))
            seen["equal"] += 1
        shutil.rmtree(out)
    log.info("%s resumed: %s", form, dict(seen))
    assert seen["equal"]


# ---- folders ---------------------------------------------------------------------------------


def remove(path: Path) -> None:
    shutil.rmtree(path)


def file_instead(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("mine")


def link_to_itself(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to(path.parent)


@pytest.mark.parametrize("damage", [remove, file_instead, link_to_itself])
@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("results", "control"),
        ("summary", "control"),
        ("summary", "summary"),
        ("summary", "control/summary"),
        ("summary", "shards"),
        ("tokens", "rotation"),
        ("tokens", "summary"),
        ("tokens", "shards"),
    ],
)
def test_folders_that_are_missing_or_something_else(whole, go, tmp_path, form, name, damage):
    out = tmp_path / "out"
    shutil.copytree(whole / form, out)
    if not (out / name).exists():
        pytest.skip(f"a run of {form} has no {name}")
    damage(out / name)
    for _ in range(2):  # the first time is longer: it imports what it needs
        with counted() as usual:
            expected = content(whole / form)
    with counted() as made:
        try:
            found = content(out)
        except InterpError as error:
            found = error
    assert made.calls < 2 * usual.calls
    if isinstance(found, InterpError):
        assert_clear(found, out, f"{name}/x")
    else:
        assert_equal(found, expected)
        assert name == "shards"  # which only resuming needs
    if form == "results" or damage is link_to_itself:
        return
    try:
        go(form, out, resume=True)
    except InterpError as error:
        assert_clear(error, out, name)
        assert damage is file_instead
    else:
        same(out, whole / form)
        assert_equal(content(out), content(whole / form))


def test_the_manifests_of_a_run_and_its_control_are_told_apart(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole / "summary", out)
    shutil.copyfile(out / "control" / "corpus.json", out / "corpus.json")
    with pytest.raises(InterpError, match=r"corpus.json' and finished.json .* of different runs"):
        interp.load(out)


# ---- single digits ---------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["documents", "chunks", "tokens"])
def test_a_record_with_another_number_is_not_believed(whole, go, tmp_path, key):
    out = tmp_path / "out"
    shutil.copytree(whole / "summary", out)
    path = out / "shards" / "000001.json"
    text = path.read_text("utf-8")
    n = json.loads(text)[key]
    path.write_text(text.replace(f'"{key}": {n}', f'"{key}": {n + 1}'), "utf-8")
    done = go("summary", out, resume=True)
    assert done.measured > 0
    assert (done.documents, done.chunks) == (len(ROWS), len(ROWS))
    same(out, whole / "summary")
    assert_equal(content(out), content(whole / "summary"))


def test_a_damaged_manifest_is_written_anew_for_the_same_run_only(whole, go, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole / "tokens", out)
    text = (out / "corpus.json").read_text("utf-8")
    (out / "corpus.json").write_text(text.replace('"max_tokens": 4096', '"max_tokens": 4097'))
    with pytest.raises(BadInput, match=r"corpus.json' is damaged .* its shards are of a run with"):
        go("tokens", out, resume=True, max_tokens=4097)
    assert go("tokens", out, resume=True).measured == 0
    assert_equal(content(out), content(whole / "tokens"))


def test_a_run_with_a_damaged_manifest_is_replaced_and_foreign_files_are_spared(
    whole, go, tmp_path
):
    out = tmp_path / "out"
    shutil.copytree(whole / "tokens", out)
    (out / "corpus.json").write_text("{")
    (out / "logit_lens" / "notes.txt").write_text("mine")
    (out / "spark").mkdir()
    (out / "spark" / "part-00000-c000.parquet").write_text("mine")
    go("summary", out, overwrite=True)
    assert not (out / "rotation").exists()
    assert [p.name for p in (out / "logit_lens").iterdir()] == ["notes.txt"]
    assert [p.name for p in (out / "spark").iterdir()] == ["part-00000-c000.parquet"]
    assert_equal(content(out), content(whole / "summary"))


# ---- parts of tables, commands, older versions -----------------------------------------------


def test_a_part_that_is_damaged_is_named_also_without_the_records(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole / "tokens", out)
    flip(out / "rotation" / "part-000001.parquet", random.Random(3))
    table = interp.load(out)["rotation"]
    where = ds.field("layer") == 0
    for read in (lambda: table.frame, lambda: table.read(where=where), table.verify):
        with pytest.raises(InterpError, match=r"rotation/part-000001.parquet' is damaged; run it"):
            read()
    shutil.rmtree(out / "shards")
    with pytest.raises(InterpError, match=r"a file in '.*rotation' is damaged; run it again"):
        interp.load(out)["rotation"].verify()
    assert len(interp.load(out)["logit_lens"].frame) == len(interp.load(out)["logit_lens"])


def test_pages_have_checksums_for_those_who_read_a_part_of_the_rows(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole / "tokens", out)
    path = out / "rotation" / "part-000000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1  # in the pages, before the footer
    path.write_bytes(data)
    with pytest.raises(InterpError, match=r"part-000000.parquet' is damaged"):
        interp.load(out)["rotation"].read(verify=False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", ["report", "compare"])
def test_commands_name_the_damaged_file(whole, tmp_path, form, command):
    out = tmp_path / "out"
    shutil.copytree(whole / form, out)
    name = "results.json" if form == "results" else "finished.json"
    digit(out / name, random.Random(0))
    done = CliRunner().invoke(app, [command, str(out)])
    assert isinstance(done.exception, InterpError)
    assert f"{out / name}' is damaged" in str(done.exception)


NEW = ("files", "control", "untrained")


def as_of_older_version(out: Path) -> Path:
    """Take away what versions before checksums did not write."""
    for path in out.rglob("*.json"):
        if path.name in ("results.json", "corpus.json") or path.parent.name == "shards":
            document = read_sealed(path, "") if "sha256" in path.read_text() else None
            if document is not None:
                document = {k: v for k, v in document.items() if k not in NEW}
                path.write_text(json.dumps(document, indent=1), "utf-8")
    for path in out.rglob("finished.json"):
        path.unlink()
    return out


@pytest.mark.parametrize("form", FORMS)
def test_folders_of_versions_without_checksums_still_load(whole, tmp_path, form):
    out = as_of_older_version(shutil.copytree(whole / form, tmp_path / "out"))
    expected = content(whole / form)
    found = content(out)
    for contents in (found, expected):
        for key in NEW:
            contents.get("manifest", {}).pop(key, None)
    assert_equal(found, expected)


def test_a_run_of_a_version_without_checksums_is_measured_again_on_resuming(whole, go, tmp_path):
    out = as_of_older_version(shutil.copytree(whole / "summary", tmp_path / "out"))
    done = go("summary", out, resume=True)
    assert done.measured > done.tokens  # and its control
    assert_equal(content(out), content(whole / "summary"))


def test_an_older_folder_whose_control_is_a_link_to_itself_loads_at_once(whole, tmp_path):
    out = as_of_older_version(shutil.copytree(whole / "results", tmp_path / "out"))
    link_to_itself(out / "control")
    for folder in (whole / "results", whole / "results"):
        with counted() as usual:
            interp.load(folder)
    with counted() as made:
        control = interp.load(out).control
    assert control.control is None
    assert made.calls < 2 * usual.calls


def test_a_document_of_a_newer_version_is_refused_by_its_schema(whole, tmp_path):
    out = shutil.copytree(whole / "results", tmp_path / "out")
    document = read_sealed(out / "results.json", "")
    write_sealed(out / "results.json", document | {"schema": 99})
    with pytest.raises(BadInput, match=r"newer version \(schema 99, this one reads up to 1\)"):
        interp.load(out)


# ---- where a run writes ----------------------------------------------------------------------


def test_a_run_inside_the_folder_of_its_corpus_does_not_read_itself(gpt2, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ROWS[:3])
    write_jsonl(tmp_path / "b.jsonl", ROWS[3:6])
    out = tmp_path / "out"
    asked = {"analyses": Rotation, "out": out, "keep": "tokens", "progress": False}
    first = interp.run_corpus(gpt2, tmp_path, **asked)
    again = interp.run_corpus(gpt2, tmp_path, **asked, resume=True)
    assert (first.documents, again.documents, again.measured) == (6, 6, 0)
    shutil.copyfile(tmp_path / "a.jsonl", out / "mine.jsonl")
    glob = str(tmp_path / "**" / "*.jsonl")
    assert interp.run_corpus(gpt2, glob, **asked, resume=True).measured == 0
    assert interp.run_corpus(gpt2, tmp_path, **asked, overwrite=True).documents == 6
    both = [tmp_path / "a.jsonl", out / "mine.jsonl"]  # by name: it is meant
    assert interp.run_corpus(gpt2, both, **asked, overwrite=True).documents == 6
    link = tmp_path / "link"
    link.symlink_to(out)
    other = interp.run_corpus(gpt2, tmp_path, **asked | {"out": link}, overwrite=True)
    assert other.documents == 6


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_whose_output_is_a_file_is_refused_first(gpt2, go, tmp_path, overwrite):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="file' is a file; name a folder"):
        go("tokens", tmp_path / "file", overwrite=overwrite)
    with pytest.raises(InterpError, match="file/out' .*move it away"):
        go("tokens", tmp_path / "file" / "out", overwrite=overwrite)
    with pytest.raises(InterpError, match="has 300 bytes, most disks take 255"):
        go("tokens", tmp_path / ("n" * 300), overwrite=overwrite)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_into_a_folder_of_any_name_and_behind_a_link(go, whole, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for out in (tmp_path / "two\nlines", tmp_path / "link"):
        go("tokens", out)
        same(out, whole / "tokens")
        assert go("tokens", out, resume=True).measured == 0


class Tokens(interp.Analysis):
    """Has the name of a file that every saved folder has."""

    sites = ("resid_post",)
    columns: ClassVar = {"size": "norm"}

    def observe(self, batch):
        return {"size": interp.PerToken(batch["resid_post"].norm(dim=-1))}


def test_an_analysis_whose_files_would_replace_others_is_refused(gpt2, corpus, tmp_path):
    with pytest.raises(BadInput, match=r"called 'tokens' cannot be written: .* rename its class"):
        interp.run_corpus(gpt2, corpus, Tokens, out=tmp_path / "out", progress=False)
    found = interp.run(gpt2, [ROWS[0]["text"]], Tokens, progress=False)
    with pytest.raises(BadInput, match=r"\(tokens, control are taken\)"):
        found.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
