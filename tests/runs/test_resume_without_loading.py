"""A finished run is resumed without loading its model, and another model is refused as before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from corpus_help import documents, same, write_jsonl
from safetensors.torch import load_file, save_file

import interp
from interp import BadInput
from interp.demo import MODELS
from interp.runs.corpus import known_model, shard

LOAD = shard.load_model


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a model, a corpus, and a run of it with an untrained copy."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(MODELS["demo"], folder / "model")
    write_jsonl(folder / "c.jsonl", documents(20))
    run(folder)
    return folder


@pytest.fixture
def here(finished, tmp_path):
    """The same with a run of its own: the model is the very same files."""
    shutil.copytree(finished / "out", tmp_path / "out")
    shutil.copy(finished / "c.jsonl", tmp_path / "c.jsonl")
    (tmp_path / "model").symlink_to(finished / "model")
    return tmp_path


@pytest.fixture
def own(tmp_path):
    """A run whose model may be changed."""
    shutil.copytree(MODELS["demo"], tmp_path / "model")
    write_jsonl(tmp_path / "c.jsonl", documents(6))
    run(tmp_path)
    return tmp_path


def run(folder: Path, **options):
    settings = {"shard_documents": 7, "max_tokens": 256, "progress": False} | options
    analyses = settings.pop("analyses", ["norm"])
    model = settings.pop("model", str(folder / "model"))
    return interp.run_corpus(
        model, str(folder / "c.jsonl"), analyses, out=folder / "out", **settings
    )


@pytest.fixture
def loads(monkeypatch):
    """The models that are loaded."""
    seen = []

    def load(model, **options):
        seen.append(model)
        return LOAD(model, **options)

    monkeypatch.setattr(shard, "load_model", load)
    return seen


def test_nothing_is_loaded_where_nothing_has_changed(here, finished, loads):
    done = run(here, resume=True)
    assert loads == []
    assert (done.measured, done.documents) == (0, 20)
    same(here / "out", finished / "out")
    again = run(here, resume=True)
    assert loads == []
    assert again.tokens == done.tokens


def test_other_settings_are_refused_without_loading(here, loads):
    with pytest.raises(BadInput, match=r"parameters.max_tokens was 256, now 300"):
        run(here, resume=True, max_tokens=300)
    write_jsonl(here / "c.jsonl", documents(21))
    with pytest.raises(BadInput, match="data.documents was 20, now 21"):
        run(here, resume=True)
    assert loads == []
    assert (here / "out" / "finished.json").is_file(), "a refused run stays as it was"


def test_other_weights_are_refused_even_with_size_and_time_of_the_old_ones(own, loads):
    path = own / "model" / "model.safetensors"
    before = path.stat()
    weights = load_file(path)
    name = next(iter(weights))
    weights[name] = weights[name] + 1e-3
    save_file(weights, path, metadata={"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(BadInput, match="model.weights was"):
        run(own, resume=True)
    assert len(loads) == 1


def test_another_model_under_the_same_path_is_refused(own, loads):
    shutil.rmtree(own / "model")
    shutil.copytree(MODELS["demo-llama"], own / "model")
    with pytest.raises(BadInput, match="model.architecture was"):
        run(own, resume=True)
    assert len(loads) == 1


def test_a_copy_elsewhere_is_loaded_and_compared(here, finished, loads, tmp_path):
    shutil.copytree(finished / "model", tmp_path / "copy")
    assert run(here, resume=True, model=str(tmp_path / "copy")).measured == 0
    assert len(loads) == 1


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_of_the_model_that_was_written_again_makes_it_load(own, loads, name):
    path = own / "model" / name
    path.write_bytes(path.read_bytes())
    assert run(own, resume=True).measured == 0
    assert len(loads) == 1
    assert run(own, resume=True).measured == 0
    assert len(loads) == 1, "what was compared is remembered"


def test_other_options_and_versions_make_it_load(here, loads, monkeypatch):
    with pytest.raises(BadInput, match="model.dtype was"):
        run(here, resume=True, model_options={"dtype": "bfloat16"})
    assert len(loads) == 1
    monkeypatch.setattr(known_model, "versions", lambda: {"torch": "0"})
    assert run(here, resume=True).measured == 0
    assert len(loads) == 2


def test_what_is_left_to_measure_or_damaged_is_measured_with_the_model(here, finished, loads):
    (here / "out" / "shards" / "000001.json").write_text("{")
    assert run(here, resume=True).measured > 0
    assert len(loads) == 1
    same(here / "out", finished / "out")
    (here / "out" / "shards" / known_model.FILE).write_text("{")
    assert run(here, resume=True).measured == 0
    assert len(loads) == 2
    (here / "out" / "finished.json").unlink()
    assert run(here, resume=True).measured == 0
    assert len(loads) == 3


def test_a_model_in_memory_is_compared_by_its_weights(finished, tmp_path, loads):
    bridge = interp.load_model(finished / "model")
    shutil.copy(finished / "c.jsonl", tmp_path / "c.jsonl")
    run(tmp_path, model=bridge)
    assert not (tmp_path / "out" / "shards" / known_model.FILE).exists()
    with torch.no_grad():
        next(bridge.parameters())[0, 0] += 1
    with pytest.raises(BadInput, match="model.weights was"):
        run(tmp_path, model=bridge, resume=True)


def test_the_untrained_copy_is_not_loaded_either(finished, tmp_path, loads):
    (tmp_path / "model").symlink_to(finished / "model")
    shutil.copy(finished / "c.jsonl", tmp_path / "c.jsonl")
    run(tmp_path, control="random-init")
    assert len(loads) == 2
    assert run(tmp_path, control="random-init", resume=True).measured == 0
    assert len(loads) == 2
