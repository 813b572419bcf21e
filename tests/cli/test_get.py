"""Fetching: whole or absent, checked, once; every way to fail has its own words and leaves nothing.

The index is a small server on this machine, and the packages are wheels made here.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from gguf_help import llama, tokenizer
from gguf_help import write as write_gguf
from transformers import BertModel
from typer.testing import CliRunner
from zoo import ZOO

import interp
from interp import BadInput, InterpError
from interp.cli import app
from interp.experiments import read_word_vectors
from interp.prompts import download, packages
from interp.prompts.packages import PACKAGES, Package

WHEEL = "tiny_pack-1.0-py3-none-any.whl"
CONTENTS = {
    "tiny_pack/data/words.txt": b"the man\n" * 5000,
    "tiny_pack/data/more/names.txt": b"anna",
    "tiny_pack/code.py": b"raise RuntimeError('run')",
    "tiny_pack-1.0.dist-info/LICENSE": b"do what you want",
    "tiny_pack-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-pack\nVersion: 1.0\n",
    "tiny_pack-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
    b"Tag: py3-none-any\n",
    "tiny_pack-1.0.dist-info/RECORD": b"",
}
LONG = 600  # seconds that are over only where something waits for ever


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, and pip without any settings of this machine."""
    for name in [n for n in os.environ if n.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv(packages.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr("interp._files._sync", lambda path: None)
    return tmp_path / "cache"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A function that puts a wheel on a shelf that pip knows, and an entry into the catalogue."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def put(contents=None, **entry) -> Package:
        path = folder / WHEEL
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (CONTENTS | (contents or {})).items():
                archive.writestr(name, data)
        data = path.read_bytes()
        given = {
            "name": "tiny",
            "title": "a tiny package",
            "kind": "vectors",
            "distribution": "tiny-pack==1.0",
            "file": WHEEL,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "on_disk": 41_000,
            "inside": "tiny_pack/data/",
            "licence": "MIT",
            "source": "the tests",
            "use": 'interp.load_model("tiny")',
        }
        package = Package(**given | entry)
        monkeypatch.setitem(PACKAGES, package.name, package)
        return package

    return put


class Index(BaseHTTPRequestHandler):
    """An index with one package; `mode` says how it behaves.

    Nothing here takes a certain time: an answer that has to be late waits for what it has to be
    later than, which is the end of the test or the file that is kept of a download.
    """

    data, mode, asked, ranges, first = b"", "right", 0, (), 200
    kept, over = Path(), threading.Event()

    def do_GET(self):
        type(self).asked += 1
        if self.mode == "silent":
            self.over.wait(LONG)
            return
        if "tiny-pack" not in self.path and WHEEL not in self.path:
            self.send_error(404)
            return
        if self.path.endswith(".whl"):
            self._wheel()
            return
        sums = "0" * 64 if self.mode == "announced" else ""
        link = f'<a href="/{WHEEL}{"#sha256=" + sums if sums else ""}">{WHEEL}</a>'
        self._answer(link.encode(), "text/html")

    def _wheel(self):
        part = self.headers.get("Range")
        type(self).ranges += (part,) if part else ()
        if self.mode.startswith(("breaks", "holds")):
            self._part(int(part.removeprefix("bytes=").removesuffix("-")) if part else None)
            return
        if self.mode == "broken":  # the connection ends before the file does
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.data)))
            self.end_headers()
            self.wfile.write(self.data[:200])
            return
        if self.mode == "slow":
            self.over.wait(LONG)
            return
        self._answer(self.data, "application/octet-stream")

    def _part(self, begin):
        """The first bytes until they are kept; the rest as the mode says."""
        if begin is None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.data)))
            self.end_headers()
            self.wfile.write(self.data[: self.first])
            self.wfile.flush()
            while self.mode == "holds" or not self.kept.exists():
                if self.over.wait(0.01):
                    break
        elif self.mode == "breaks":
            self.send_response(206)
            last = len(self.data) - 1
            self.send_header("Content-Range", f"bytes {begin}-{last}/{last + 1}")
            self.end_headers()
            self.wfile.write(self.data[begin:])
        elif self.mode == "breaks, no ranges":
            self._answer(self.data, "application/octet-stream")
        elif self.mode == "breaks, changed":
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {begin}-{len(self.data) - 1}/{len(self.data)}"
            )
            self.end_headers()
            self.wfile.write(b"x" * (len(self.data) - begin))
        else:
            self.send_error(503)

    def _answer(self, data, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def index(shelf, cache, tmp_path, monkeypatch):
    """A function that starts the index in a mode and tells pip of it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    server.daemon_threads = False  # its end waits for every answer: the next test sees none
    Index.over, Index.kept = threading.Event(), cache / packages.BEGUN / WHEEL
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("PIP_NO_INDEX")

    def start(mode="right", contents=None, first=200) -> Package:
        package = shelf(contents)
        monkeypatch.delenv("PIP_FIND_LINKS")
        Index.data, Index.mode = (tmp_path / "shelf" / WHEEL).read_bytes(), mode
        Index.asked, Index.ranges, Index.first = 0, (), first
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        return package

    yield start
    Index.over.set()
    server.shutdown()
    server.server_close()


def remains(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir() if p.name != ".lock") if cache.exists() else []


def get(patience: float = LONG) -> Path:
    return packages.get("tiny", progress=False, patience=patience)


def failure(**options) -> str:
    with pytest.raises(InterpError) as error:
        get(**options)
    return str(error.value)


def heard(monkeypatch) -> list[str]:
    """What pip writes from now on, a text for each time it fails."""
    told, cause = [], download._failure

    def kept(distribution, log, *rest, **more):
        told.append(log)
        return cause(distribution, log, *rest, **more)

    monkeypatch.setattr(download, "_failure", kept)
    return told


# ---- what arrives ----------------------------------------------------------------------------


def test_a_package_comes_once_whole_and_without_its_code(shelf, cache, monkeypatch):
    package = shelf()
    assert not packages.is_here("tiny")
    folder = get()
    assert folder == cache / "tiny-1.0" == packages.folder_of("tiny")
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {"words.txt", "more/names.txt", "licences/LICENSE", "origin.json"}
    assert (folder / "words.txt").read_bytes() == CONTENTS["tiny_pack/data/words.txt"]
    record = packages.origin_of(folder)
    assert record["wheel"] == {"file": WHEEL, "size": package.size, "sha256": package.sha256}
    assert record["licence"] == "MIT"
    assert remains(cache) == ["tiny-1.0"]

    monkeypatch.setattr(packages, "download", lambda *a, **k: pytest.fail("fetched again"))
    assert get() == folder


def test_what_was_changed_is_fetched_again_and_leftovers_go(shelf, cache):
    shelf()
    folder = get()
    (folder / "words.txt").write_bytes(b"other")
    (cache / ".0123.part").mkdir()
    get()
    assert (folder / "words.txt").read_bytes() == CONTENTS["tiny_pack/data/words.txt"]
    assert remains(cache) == ["tiny-1.0"]


def test_the_index_that_pip_is_told_is_asked(index, cache):
    index()
    get()
    assert Index.asked == 2  # the list of files, and the file
    assert remains(cache) == ["tiny-1.0"]


def test_what_uv_is_told_holds_for_pip():
    told = {
        "UV_DEFAULT_INDEX": "https://a/simple",
        "UV_INDEX_URL": "https://b/simple",
        "UV_FIND_LINKS": "/x,/y",
    }
    found = download.environment(told)
    assert found["PIP_INDEX_URL"] == "https://a/simple"
    assert found["PIP_FIND_LINKS"] == "/x /y"
    own = download.environment(told | {"PIP_INDEX_URL": "https://c/simple"})
    assert own["PIP_INDEX_URL"] == "https://c/simple"


def test_a_python_without_pip_uses_uv_or_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert download.pip() == ["/bin/uv", "tool", "run", "--quiet", "pip"]
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InterpError, match="needs pip, .*: python -m ensurepip installs it"):
        download.pip()


@pytest.mark.parametrize("package", PACKAGES.values(), ids=lambda p: p.name)
def test_entries_of_the_catalogue_are_complete(package):
    name, _, version = package.distribution.partition("==")
    assert package.file == f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    assert len(package.sha256) == 64
    assert package.on_disk > package.size > 1e6
    assert package.kind in ("gguf", "model", "vectors", "pipeline")
    assert package.source.split(", ")[-1].startswith("https://")
    assert package.licence


# ---- what can go wrong -----------------------------------------------------------------------


def test_without_a_network_it_fails_at_once_and_says_what_to_do(shelf, cache, monkeypatch):
    shelf()
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    told = heard(monkeypatch)
    text = failure()
    assert len(told) == 1
    assert "Retrying" not in told[0], "pip tries again by default, and waits longer each time"
    assert "the Python index cannot be reached (http://" in text
    assert "127.0.0.1:9/simple/tiny-pack/" in text
    assert "secret" not in text
    for way_out in ("PIP_PROXY, PIP_INDEX_URL", "pip download --no-deps tiny-pack==1.0"):
        assert way_out in text
    assert remains(cache) == []


def test_an_index_that_never_answers_is_left_after_the_patience(index, cache):
    index("silent")  # until the end of the test
    text = failure(patience=1)
    assert "the Python index cannot be reached (" in text
    assert remains(cache) == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print(1, flush=True); time.sleep(600)", "reached (no sign of life for 0.3 seconds)"),
        ("time.sleep(1); os.write(1, b'ERROR: late'); os._exit(1)", "(ERROR: late)"),
    ],
)
def test_silence_ends_pip_but_not_while_it_starts(shelf, cache, monkeypatch, code, said):
    """A name server that never answers is silent after first words; a slow disk, before them."""
    shelf()
    command = [sys.executable, "-c", f"import os, time; {code}"]
    monkeypatch.setattr(download, "pip", lambda: command)
    assert said in failure(patience=0.1)
    assert remains(cache) == []


def test_an_index_without_the_package_is_named(index, cache, monkeypatch):
    package = index()
    other = replace(package, distribution="absent-pack==1.0")
    monkeypatch.setitem(PACKAGES, "tiny", other)
    text = failure()
    assert "that pip is told to use has no absent-pack==1.0" in text
    assert "PIP_INDEX_URL" in text
    assert remains(cache) == []


def test_another_file_than_expected_is_refused_with_both_sums(index, cache):
    package = index()
    Index.data += b"more"
    text = failure()
    found = hashlib.sha256(Index.data).hexdigest()
    assert f"{len(Index.data):,} bytes with SHA-256 {found}" in text
    assert f"expected {package.size:,} bytes with SHA-256 {package.sha256}" in text
    assert "If you use a mirror, its copy is damaged or changed" in text
    assert remains(cache) == []


def test_a_file_that_is_not_what_the_index_announced(index, cache):
    index("announced")
    text = failure()
    sums = f"expected {'0' * 64}, got {hashlib.sha256(Index.data).hexdigest()}"
    assert f"not the one that the index announced: its SHA-256 differs ({sums})" in text
    assert remains(cache) == []


def test_a_connection_that_breaks_leaves_nothing_and_the_next_try_starts_over(
    index, cache, monkeypatch
):
    def refused(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    index("broken")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "hardlink_to", refused)  # a disk on which a file has one name
        text = failure()
    assert "tiny-pack==1.0" in text
    assert "nothing was kept" in text
    assert remains(cache) == []
    Index.mode = "right"
    assert get().is_dir()


@pytest.mark.parametrize("mode", ["breaks", "breaks, no ranges"])
def test_a_connection_that_breaks_is_gone_on_with_at_once(index, cache, mode):
    index(mode)
    folder = get()
    assert (folder / "words.txt").read_bytes() == CONTENTS["tiny_pack/data/words.txt"]
    assert Index.ranges == ("bytes=200-",)
    assert remains(cache) == ["tiny-1.0"]


def test_what_has_come_is_kept_for_the_next_call(index, cache):
    package = index("breaks, down")
    text = failure()
    assert "the download of tiny-pack==1.0 broke off: 200 of " in text
    assert f"{package.size:,} bytes are kept. Run the command again: it goes on from there" in text
    assert remains(cache) == [".begun"]
    Index.mode, Index.ranges, Index.asked = "breaks", (), 0
    folder = get()
    assert (Index.ranges, Index.asked) == (("bytes=200-",), 1), "pip was not asked again"
    assert packages.origin_of(folder)["wheel"]["sha256"] == package.sha256
    assert remains(cache) == ["tiny-1.0"]


def test_parts_that_do_not_belong_together_are_fetched_anew(index, cache):
    index("breaks, down")
    failure()
    Index.mode = "breaks, changed"
    text = failure()
    assert "another tiny_pack-1.0-py3-none-any.whl than expected" in text
    assert remains(cache) == []
    Index.mode = "right"
    assert get().is_dir()


def test_folders_of_pip_that_go_away_while_they_are_searched_end_nothing(tmp_path, monkeypatch):
    place, partial = tmp_path / "kept", tmp_path / "partial"
    (partial / "gone").mkdir(parents=True)
    (partial / "stays").mkdir()
    (partial / "stays" / WHEEL).write_bytes(b"200 bytes")
    scandir = os.scandir

    def deleted_just_before(path="."):
        if Path(path).name == "gone":
            Path(path).rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deleted_just_before)
    begun = download.Begun(place, WHEEL, 1000)
    begun.follow(partial)
    assert begun.come == len(b"200 bytes")
    assert not (partial / "gone").exists()


def test_an_interruption_in_the_middle_keeps_what_has_come(index, cache, monkeypatch):
    index("holds", {"tiny_pack/data/large.txt": bytes(3_000_000)}, first=2_000_000)

    def interrupted(bar, done):
        if Index.kept.is_file() and Index.kept.stat().st_size:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("interp._progress.Bytes.reach", interrupted)
        get()
    assert remains(cache) == [".begun"]
    come, Index.mode, Index.asked = Index.kept.stat().st_size, "breaks", 0
    assert get().is_dir()
    assert (Index.ranges, Index.asked) == ((f"bytes={come}-",), 1), "pip was not asked again"
    assert remains(cache) == ["tiny-1.0"]


def test_an_interruption_ends_pip_and_leaves_nothing(index, cache, monkeypatch):
    index("slow")
    started = []
    run = subprocess.Popen

    def popen(*args, **options):
        started.append(run(*args, **options))
        return started[-1]

    def interrupted(bar, done):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", popen)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("interp._progress.Bytes.reach", interrupted)
        get()
    assert started[0].poll() is not None
    assert remains(cache) == []
    Index.mode = "right"
    assert get().is_dir()


def test_a_full_disk_while_writing_leaves_nothing(shelf, cache, monkeypatch):
    shelf()
    copy = packages.shutil.copyfileobj

    def full(source, target, length):
        target.write(source.read(100))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(packages.shutil, "copyfileobj", full)
    text = failure()
    assert f"no space for 'tiny' in '{cache}': the disk or your quota is full" in text
    assert "nothing half-written remains" in text
    assert "environment variable INTERP_CACHE" in text
    assert remains(cache) == []
    monkeypatch.setattr(packages.shutil, "copyfileobj", copy)
    assert get().is_dir()


def test_a_full_disk_that_pip_meets_is_told_as_one(shelf, cache, monkeypatch):
    shelf()
    log = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    begun = download.Begun(cache, WHEEL, 1)
    error = download._failure("tiny-pack==1.0", log, begun, alive=True, patience=1)
    monkeypatch.setattr(packages, "download", lambda *a, **k: (_ for _ in ()).throw(error))
    assert "no space for 'tiny'" in failure()
    assert remains(cache) == []


def test_a_small_disk_is_refused_before_anything_is_fetched(shelf, monkeypatch):
    package = shelf(on_disk=5_000_000)
    free = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(packages.shutil, "disk_usage", lambda path: free)
    monkeypatch.setattr(packages, "download", lambda *a, **k: pytest.fail("fetched"))
    text = failure()
    assert f"1 MB are free, {(package.size + 5_000_000) / 1e6:.0f} MB needed" in text


def test_a_cache_folder_that_may_not_be_written(shelf, tmp_path, cache, monkeypatch):
    shelf()

    def denied(lock, *args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(cache))

    with monkeypatch.context() as patch:
        patch.setattr("filelock.FileLock.acquire", denied)
        text = failure()
    assert f"cannot be kept in '{cache}' (Permission denied); name another folder" in text
    assert "environment variable INTERP_CACHE" in text
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv(packages.CACHE, str(tmp_path / "file" / "below"))
    assert "(Not a directory); name another folder with the environment variable" in failure()


def test_a_name_that_nobody_knows():
    with pytest.raises(interp.errors.UnknownName, match="package 'smolm2'; did you mean 'smollm2'"):
        packages.get("smolm2")


# ---- what is in it, by its name --------------------------------------------------------------


@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_nothing_is_fetched_behind_the_users_back(name, cache, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    with pytest.raises(InterpError) as error:
        interp.load_model(name)
    assert f"{name!r} (" in str(error.value)
    assert f"fetch it once with the command interp get {name} (" in str(error.value)
    assert "MB from the Python index" in str(error.value)
    assert remains(cache) == []


@pytest.mark.parametrize(
    ("read", "name"),
    [(read_word_vectors, "glove"), (interp.load_model, "glove"), (interp.load_model, "spacy-en")],
)
def test_other_packages_are_refused_where_they_do_not_belong_or_named(read, name):
    with pytest.raises(InterpError) as error:
        read(name)
    assert ("interp get glove" if read is read_word_vectors else "is no model but") in str(
        error.value
    )


def test_a_folder_of_the_same_name_is_not_mistaken(tmp_path, monkeypatch):
    (tmp_path / "minilm").mkdir()
    (tmp_path / "minilm" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"'minilm' is a model of this library and a folder here"):
        interp.load_model("minilm")


def test_a_gguf_is_dequantised_once_and_its_origin_kept(shelf, tmp_path, cache):
    data = write_gguf(tmp_path / "m.gguf", kind="Q8_0").read_bytes()
    shelf({"tiny_pack/m.gguf": data}, kind="gguf", inside="tiny_pack/m.gguf")
    folder = interp.models.get("tiny", progress=False)
    assert (folder / "model.safetensors").is_file()
    assert not list(folder.glob("*.gguf"))
    bridge, direct = interp.load_model("tiny"), interp.load_model(tmp_path / "m.gguf")
    tokens = bridge.to_tokens("The man gave her a book.")
    assert torch.equal(bridge(tokens), direct(tokens))
    assert bridge.cfg.model_name == "tiny"
    results = interp.run(bridge, ["The man gave her a book."], ["norm"], progress=False)
    origin = results.provenance["weights_origin"]
    assert origin["package"] == "tiny-pack==1.0"
    assert origin["weights"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert origin["weights"]["tensor_types"] == {"Q8_0": 16, "F32": 5}
    assert any("Q8_0 of 16 tensors" in note for note in results["norm"].notes)
    assert llama().config.vocab_size == bridge.cfg.d_vocab


def test_an_encoder_in_a_zip_has_the_states_of_hugging_face_and_no_logits(shelf, tmp_path):
    torch.manual_seed(0)
    encoder = BertModel(ZOO["bert"].build().config).eval()
    encoder.save_pretrained(tmp_path / "bert")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for path in (tmp_path / "bert").iterdir():
            archive.write(path, path.name)
    inner = {"tiny_pack/model.zip": (tmp_path / "model.zip").read_bytes()}
    shelf(inner, kind="model", inside="tiny_pack/model.zip")
    interp.models.get("tiny", progress=False)
    bridge = interp.load_model("tiny")
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    _, cache = bridge.run_with_cache(tokens)
    expected = encoder(tokens, output_hidden_states=True).hidden_states
    for layer in range(bridge.cfg.n_layers):
        assert torch.allclose(
            cache[f"blocks.{layer}.hook_resid_post"], expected[layer + 1], atol=1e-6
        )
    anatomy = interp.inspect(bridge)
    assert anatomy.readout is None
    assert not anatomy.causal
    assert not torch.allclose(interp.random_copy(bridge, seed=1)(tokens), bridge(tokens))


def test_vectors_are_read_by_their_name(shelf, tmp_path):
    words = pd.DataFrame({"index": ["king", "queen", "dog"]})
    words.to_parquet(tmp_path / "w.parquet")
    np.save(tmp_path / "v.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    inside = {f"tiny_pack/data/{n}": (tmp_path / n).read_bytes() for n in ("w.parquet", "v.npy")}
    shelf(inside)
    get()
    space = read_word_vectors("tiny")
    assert space.words == ("king", "queen", "dog")
    assert repr(space) == "<WordSpace tiny: 3 words (king, queen, dog), 2 d>"
    assert space.rows(["dog"]).tolist() == [[4.0, 5.0]]
    assert read_word_vectors("tiny", limit=2).words == ("king", "queen")
    done = CliRunner().invoke(app, ["words", "near", "dog", "--vectors", "tiny"])
    assert done.exit_code == 0, done.output


def test_a_pipeline_is_loaded_by_its_name(shelf, tmp_path):
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    pipeline.add_pipe("attribute_ruler").add([[{"ORTH": "man"}]], {"POS": "NOUN"})
    pipeline.to_disk(tmp_path / "nlp")
    files = {
        p.relative_to(tmp_path / "nlp"): p for p in (tmp_path / "nlp").rglob("*") if p.is_file()
    }
    inside = {f"tiny_pack/nlp/{name.as_posix()}": p.read_bytes() for name, p in files.items()}
    shelf(inside, kind="pipeline", inside="tiny_pack/nlp/")
    get()
    prompts = interp.read_prompts(["the man"], tokenizer())
    marked = interp.spacy_tags("tiny")(prompts)
    assert "NOUN" in set(marked.labels["pos"][0])


# ---- the command -----------------------------------------------------------------------------


def test_the_command_says_licence_source_and_place(shelf, cache):
    shelf()
    done = CliRunner().invoke(app, ["get", "tiny", "--quiet"])
    assert done.exit_code == 0, done.output
    for text in ("a tiny package", "licence: MIT", "the tests, in the package tiny-pack==1.0"):
        assert text in done.stdout
    assert f"written to {cache / 'tiny-1.0'}" in done.stdout
    again = json.loads(CliRunner().invoke(app, ["get", "tiny", "--json"]).stdout)
    assert again["was_here"] is True
    assert again["folder"] == str(cache / "tiny-1.0")


def test_without_a_name_the_command_lists_everything(shelf):
    shelf()
    rows = json.loads(CliRunner().invoke(app, ["get", "--json"]).stdout)
    assert [row["name"] for row in rows] == [*("smollm2", "minilm", "glove", "spacy-en"), "tiny"]
    assert {row["here"] for row in rows} == {"no"}
    assert rows[0]["fetched"] == "93 MB"
