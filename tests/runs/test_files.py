"""Writing whole or not at all, sealed documents, and what a disk refuses, by name."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

import interp
from interp import BadInput, InterpError
from interp._files import (
    atomic,
    atomic_folder,
    checksums,
    read_sealed,
    reading,
    refuse_existing,
    verify,
    write_sealed,
    write_text,
)
from interp.runs.corpus.files import owned

DOCUMENT = {"n": 12, "x": 0.1, "nested": {"b": [1, None, True], "a": "ä\u2028\ud800"}}


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- sealed documents ------------------------------------------------------------------------


def test_a_sealed_document_comes_back_and_stays_json(tmp_path):
    path = tmp_path / "d.json"
    assert write_sealed(path, DOCUMENT) == DOCUMENT
    assert read_sealed(path, "") == DOCUMENT
    assert list(json.loads(path.read_text("utf-8"))) == [*DOCUMENT, "sha256"]


def test_every_flipped_bit_of_a_sealed_document_is_found(tmp_path):
    path = tmp_path / "d.json"
    write_sealed(path, DOCUMENT)
    data = path.read_bytes()
    harmless = 0
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            assert read_sealed(path, "") == DOCUMENT  # a space that became another one
            harmless += 1
        except InterpError as error:
            assert "d.json' is damaged (" in str(error)  # noqa: PT017  either is right
    assert harmless < len(data) / 2


def test_a_sealed_document_under_another_name_is_not_believed(tmp_path):
    write_sealed(tmp_path / "a.json", DOCUMENT)
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    with pytest.raises(InterpError, match="b.json' is damaged .*its contents or its name do not"):
        read_sealed(tmp_path / "b.json", "do it again")


def test_a_document_without_a_seal_is_taken_only_with_the_keys_of_older_versions(tmp_path):
    path = tmp_path / "d.json"
    path.write_text('{"schema": 1, "rest": 2}')
    assert read_sealed(path, "", ("schema", "rest")) == {"schema": 1, "rest": 2}
    with pytest.raises(InterpError, match="damaged"):
        read_sealed(path, "", ("schema", "rest", "more"))
    path.write_text('{"schema": 1, "rest": 2, "rha256": "0"}')  # a seal with a flipped bit
    with pytest.raises(InterpError, match="damaged"):
        read_sealed(path, "", ("schema", "rest"))


@pytest.mark.parametrize("text", ["", "[]", "7", "null", '{"a"', "[" * 100_000, "\x00", '{"n": 1}'])
def test_other_json_is_a_damaged_document(tmp_path, text):
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(InterpError, match=r"d.json' is damaged \(\w+: .*\); do it again"):
        read_sealed(path, "do it again")


# ---- reading ---------------------------------------------------------------------------------


def test_reading_says_what_is_wrong_with_a_path(tmp_path, monkeypatch):
    def told(path: Path, error: BaseException | None = None) -> str:
        with pytest.raises(InterpError) as caught, reading(path, "do it again"):
            if error is not None:
                raise error
            path.read_bytes()
        return str(caught.value)

    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("x")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    assert told(tmp_path / "none").endswith("none' is missing; do it again")
    assert told(tmp_path / "d").endswith("d' is a folder where a file belongs; do it again")
    assert "cannot be read (Too many levels of symbolic" in told(tmp_path / "round")
    assert "cannot be read (File name too long)" in told(tmp_path / ("n" * 300))
    forbidden = PermissionError(errno.EACCES, "Permission denied")
    assert told(tmp_path / "f", forbidden).endswith("(Permission denied); change its permissions")
    assert told(tmp_path / "f", ValueError("odd\nlines")).endswith("(ValueError: odd); do it again")
    assert "\n" not in told(tmp_path / "two\nlines")


def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "results.json")
    with pytest.raises(InterpError, match=r"results.json' is no ordinary file but a pipe or a dev"):
        interp.load(tmp_path)
    with pytest.raises(InterpError, match="is no ordinary file"):
        verify(tmp_path, {"results.json": "0"}, "")


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InterpError, match=r"\(Permission denied\); change its permissions"):
        refuse_existing(tmp_path)


def test_checksums_name_the_file_that_changed(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_text("1")
    (tmp_path / "deep" / "b").write_text("2")
    found = checksums(tmp_path)
    assert list(found) == ["a", "deep/b"]
    verify(tmp_path, found, "")
    (tmp_path / "deep" / "b").write_text("3")
    with pytest.raises(InterpError, match=r"deep/b' is damaged \(its SHA-256 .*; do it again"):
        verify(tmp_path, found, "do it again")


# ---- writing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["n" * 255, "two\nlines", "ä" * 127, "-rf", " "])
def test_any_name_that_a_disk_takes_can_be_written(tmp_path, name):
    write_text(tmp_path / name, "x")
    with atomic_folder(tmp_path / "folder" / name) as folder:
        (folder / "f").write_text("y")
    assert (tmp_path / name).read_text() == "x"
    assert (tmp_path / "folder" / name / "f").read_text() == "y"
    assert only(tmp_path) == sorted(["folder", name])


def write_file(path: Path) -> None:
    write_text(path, "new")


def write_folder(path: Path) -> None:
    with atomic_folder(path) as folder:
        (folder / "f").write_text("new")


def lock(path: Path) -> None:
    with owned(path):
        pass


WAYS = (write_file, write_folder, lock)


@pytest.mark.parametrize("write", WAYS)
def test_a_name_that_is_too_long_is_said_with_its_length(tmp_path, write):
    with pytest.raises(InterpError, match=r"cannot write .* has 256 bytes, most disks take 255"):
        write(tmp_path / ("ä" * 128))
    assert only(tmp_path) == []


@pytest.mark.parametrize("write", WAYS)
def test_a_file_where_a_folder_belongs_is_said(tmp_path, write):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        InterpError, match=r"file(/x)?' \((Not a directory|File exists)\).*move it aw"
    ):
        write(tmp_path / "file" / "x")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("write", [write_folder, lock])
def test_a_folder_is_not_written_over_a_file(tmp_path, write):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InterpError, match="a file (where a folder belongs|stands where a folder)"):
        write(tmp_path / "file")
    assert only(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_is_not_written_over_a_folder(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(InterpError, match=r"cannot write .*d' \(Is a directory\).*move it away"):
        write_file(tmp_path / "d")
    assert only(tmp_path) == ["d"]


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space left to write .*x' .*run again with resume .* or save again"),
        (errno.EDQUOT, "no space left to write .*x'"),
        (errno.EROFS, r"cannot write .*x' \(Read-only file system\); change its permissions"),
        (errno.EACCES, r"cannot write .*x' \(Permission denied\); change its permissions"),
        (errno.EIO, r"cannot write .*x' \(Input/output error\); choose another folder"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "write", "rename"])
def test_what_a_disk_refuses_is_named_and_the_old_stays(
    tmp_path, monkeypatch, write, code, words, step
):
    write(tmp_path / "x")
    (tmp_path / "x" / "f" if write is write_folder else tmp_path / "x").write_text("old")

    def refuse(*paths, **options):
        name = str(paths[0])
        raise OSError(code, os.strerror(code), name, None, *map(str, paths[1:2]))

    with monkeypatch.context() as patch:
        if step == "fsync":
            patch.setattr("interp._files._sync", refuse)
        elif step == "write":
            patch.setattr(Path, "write_bytes", refuse)
            patch.setattr(Path, "write_text", refuse)
        else:
            patch.setattr(Path, "replace", refuse)
            patch.setattr(Path, "rename", refuse)
        with pytest.raises(InterpError, match=words):
            write(tmp_path / "x")
    assert only(tmp_path) == ["x"]
    path = tmp_path / "x" / "f" if write is write_folder else tmp_path / "x"
    assert path.read_text() == "old"


def test_an_error_about_another_file_is_not_taken_for_one_of_this(tmp_path):
    def fill():
        with atomic(tmp_path / "x") as path:
            path.write_text("half")
            Path("/nowhere/else").read_text()

    with pytest.raises(FileNotFoundError, match="/nowhere/else"):
        fill()
    assert only(tmp_path) == []


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "real")
    write_folder(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "real" / "f").read_text() == "new"
    assert only(tmp_path / "disk") == ["real"]


def test_a_lock_that_is_a_folder_is_named(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InterpError, match=r"cannot write .*\.lock'.*move it away"):
        lock(tmp_path)


def test_an_owner_file_of_anything_does_not_hide_that_a_folder_is_taken(tmp_path):
    with owned(tmp_path):
        (tmp_path / ".owner.json").write_text("[7]")
        with pytest.raises(BadInput, match=r"another run works on .*process \? on \?"):
            lock(tmp_path)


# ---- output paths ----------------------------------------------------------------------------


def test_output_paths_are_refused_before_anything_is_computed(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for overwrite in (False, True):
        with pytest.raises(BadInput, match="file' is a file; name a folder"):
            refuse_existing(tmp_path / "file", overwrite=overwrite)
        with pytest.raises(BadInput, match="folder' is a folder; name a file, such as report"):
            refuse_existing(tmp_path / "folder", overwrite=overwrite, folder=False)
    with pytest.raises(InterpError, match="file/x' .*move it away"):
        refuse_existing(tmp_path / "file" / "x")
    with pytest.raises(InterpError, match="has 300 bytes, most disks take 255"):
        refuse_existing(tmp_path / ("n" * 300))
    refuse_existing(tmp_path / "new" / "deep")
    refuse_existing(tmp_path / "folder")
    assert only(tmp_path) == ["file", "folder"]
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InterpError, match=r"new' \(Permission denied\); change its permissions"):
        refuse_existing(tmp_path / "new")


def test_loading_what_is_no_folder_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("x")
    for name in ("file", "none", "two\nlines"):
        with pytest.raises(BadInput, match=r"holds no results \(no results.json or corpus.json"):
            interp.load(tmp_path / name)
    with pytest.raises(InterpError, match="has 300 bytes, most disks take 255"):
        interp.load(tmp_path / ("n" * 300))


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_every_file_of_results_has_the_mode_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        results = interp.run("demo-llama", "her", ["norm", "attention"], progress=False)
        results.save(tmp_path / "out")
        (tmp_path / "docs.txt").write_text("the man saw her\nthe dog\n")
        interp.run_corpus(
            "demo-llama", tmp_path / "docs.txt", ["norm"], out=tmp_path / "corpus", progress=False
        )
        with atomic(tmp_path / "tight") as path:
            path.touch(0o600)
    finally:
        assert os.umask(before) == umask
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"]
    assert any(p.suffix == ".safetensors" for p in written)
    assert {p.name: oct(p.stat().st_mode & 0o777) for p in written} == {
        p.name: oct(0o666 & ~umask) for p in written
    }
