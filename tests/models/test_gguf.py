"""GGUF files: weights, tokenizers and provenance of whole ones, words for every other."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings

import gguf
import numpy as np
import pytest
import torch
from gguf_help import TEXTS, llama, rounded_llama, stored, tokenizer, write
from typer.testing import CliRunner

import interp
from interp import BadInput, InterpError
from interp.cli import app
from interp.errors import Unsupported
from interp.models.gguf import convert
from interp.models.gguf_header import Header

TOKENS = torch.tensor([[1, 9, 40, 200, 77, 250, 12]])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def bridge(file):
    return interp.load_model(file)


def logits(model):
    with torch.no_grad():
        out = model(TOKENS)
    return getattr(out, "logits", out)


# ---- whole files -----------------------------------------------------------------------------


def test_weights_of_a_float_file_are_those_that_were_written(bridge):
    inner = {
        n.replace("._original_component", ""): p
        for n, p in bridge.original_model.named_parameters()
    }
    for name, value in llama().named_parameters():
        assert torch.equal(inner[name], value), name
    assert torch.equal(logits(bridge), logits(llama()))


@pytest.mark.parametrize(
    ("kind", "most"), [("F16", 0.01), ("BF16", 0.1), ("Q8_0", 0.1), ("Q5_0", 0.8), ("Q4_1", 0.8)]
)
def test_a_rounded_file_gives_the_logits_of_the_rounded_weights(kind, most, tmp_path):
    found = logits(interp.load_model(write(tmp_path / "m.gguf", kind=kind)))
    assert torch.allclose(found, logits(rounded_llama(kind)), atol=1e-5)
    moved = (found - logits(llama())).abs().max().item()
    assert 1e-6 < moved < most * logits(llama()).abs().max().item()


def test_tied_weights_stay_tied(tmp_path):
    found = interp.load_model(write(tmp_path / "tied.gguf", stored(llama(tied=True))))
    assert torch.equal(logits(found), logits(llama(tied=True)))


@pytest.mark.parametrize("text", [TEXTS[0], "Unseen words, ünïcode 🐟", "  two  spaces\n"])
def test_text_becomes_the_tokens_of_the_tokenizer_that_was_written(bridge, text):
    expected = tokenizer()(text, add_special_tokens=False)["input_ids"]
    found = bridge.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert found == expected
    assert bridge.tokenizer.decode(found) == text
    assert (bridge.tokenizer.bos_token, bridge.tokenizer.eos_token) == ("<s>", "</s>")


def test_dtype_device_map_and_tokenizer_are_kept(file):
    half = interp.load_model(file, dtype="bfloat16", device_map={"": "cpu"})
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    own = interp.load_model(file, tokenizer(), device="cpu")
    assert own.tokenizer("The man")["input_ids"] == tokenizer()("The man")["input_ids"]


def test_a_file_without_a_tokenizer_takes_token_prompts(tmp_path):
    bridge = interp.load_model(write(tmp_path / "bare.gguf", with_tokenizer=False))
    assert bridge.tokenizer is None
    assert torch.equal(logits(bridge), logits(llama()))


def test_the_folder_of_a_file_and_the_file_are_the_same_model(file, bridge):
    assert torch.equal(logits(interp.load_model(file.parent)), logits(bridge))
    assert bridge.cfg.model_name == "tiny"


def test_the_picture_part_beside_a_model_is_passed_over(file, tmp_path):
    shutil.copy(file, tmp_path / "model.gguf")
    write(tmp_path / "mmproj-model.gguf", architecture="clip")
    assert interp.load_model(tmp_path).cfg.model_name == "model"


def test_safetensors_beside_a_gguf_come_first(file, tmp_path):
    other = llama(tied=True)
    other.save_pretrained(tmp_path)
    shutil.copy(file, tmp_path)
    assert torch.equal(logits(interp.load_model(tmp_path)), logits(other))


def test_a_file_under_another_name_is_known_by_its_first_bytes(file, tmp_path, bridge):
    blob = shutil.copy(file, tmp_path / "4f2a")
    assert torch.equal(logits(interp.load_model(blob)), logits(bridge))


def test_an_untrained_copy_can_be_made(bridge):
    copy = interp.random_copy(bridge)
    assert not torch.allclose(logits(copy), logits(bridge))
    assert interp.models.inspect(copy).rounded == {}


def test_provenance_has_the_file_its_checksum_and_the_types(file, tmp_path):
    path = write(tmp_path / "m.gguf", kind="Q8_0")
    bridge = interp.load_model(path)
    results = interp.run(bridge, ["The man gave her a book."], ["norm"], progress=False)
    weights = results.provenance["weights_origin"]["weights"]
    assert weights["file"] == "m.gguf"
    assert weights["size"] == path.stat().st_size
    assert weights["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights["tensor_types"] == {"Q8_0": 16, "F32": 5}
    assert results.provenance["loaded_from"] == str(path)
    [note] = [n for n in results["norm"].notes if "few bits" in n]
    assert "Q8_0 of 16 tensors" in note
    assert "rounding's" in note
    assert ("weights stored as", "Q8_0 of 16 tensors") in interp.inspect(bridge).facts()
    plain = interp.inspect(interp.load_model(file))
    assert not [n for n in plain.caveats() if "few bits" in n]


def test_the_head_is_read_as_the_package_gguf_reads_it(file):
    ours, theirs = Header.of(file), gguf.GGUFReader(file)
    assert [t.name for t in ours.tensors] == [t.name for t in theirs.tensors]
    for own, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert own.shape == tuple(reversed(other.shape.tolist()))
        assert ours.start + own.offset == other.data_offset
        assert own.kind == other.tensor_type
    assert ours.metadata["llama.attention.head_count_kv"] == 2
    assert ours.metadata["tokenizer.ggml.tokens"] == len(tokenizer())
    assert ours.types() == {"F32": 21}


def test_a_converted_folder_is_the_same_model(file, tmp_path, bridge):
    shutil.copy(file, tmp_path)
    origin = convert(tmp_path)
    assert origin["weights"]["tensor_types"] == {"F32": 21}
    assert not list(tmp_path.glob("*.gguf"))
    again = interp.load_model(tmp_path)
    assert torch.equal(logits(again), logits(bridge))
    text = "The man gave her a fish"
    assert torch.equal(again.to_tokens(text), bridge.to_tokens(text))
    assert again.to_tokens(text)[0, 0] == again.tokenizer.bos_token_id


def test_a_tensor_without_a_place_is_warned_of(tmp_path):
    more = stored(llama()) | {"rope_freqs.weight": np.ones(8, np.float32)}
    with pytest.warns(UserWarning, match=r"1 tensors have no place.*rope_freqs.weight.*llama.cpp"):
        interp.load_model(write(tmp_path / "m.gguf", more))


def test_loading_is_silent(file, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interp.load_model(file)
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")


def test_the_command_line_takes_a_file(file, tmp_path):
    (tmp_path / "p.txt").write_text("The man gave her a book.\n", encoding="utf-8")
    args = ["run", "-m", str(file), "-p", str(tmp_path / "p.txt"), "-a", "norm", "--quiet"]
    done = CliRunner().invoke(app, [*args, "-o", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["tables"]["norm"] > 0


# ---- others ----------------------------------------------------------------------------------


def refused(path, kind=BadInput):
    with pytest.raises(kind) as error:
        interp.load_model(path)
    return str(error.value)


def test_several_files_in_a_folder_are_listed(file, tmp_path):
    for name in ("a-Q4_0.gguf", "a-Q8_0.gguf"):
        shutil.copy(file, tmp_path / name)
    text = refused(tmp_path)
    assert "holds 2 GGUF files (a-Q4_0.gguf, a-Q8_0.gguf); name the one" in text
    assert f"load_model({str(tmp_path / 'a-Q4_0.gguf')!r})" in text


def test_a_part_of_a_split_file_is_told_how_to_join(tmp_path):
    for number in (0, 1):
        part = {"split.count": 2, "split.no": number}
        path = write(tmp_path / f"m-0000{number + 1}-of-00002.gguf", more=part)
    text = refused(path)
    assert "is part 2 of 2 of a split GGUF" in text
    assert "llama-gguf-split --merge" in text
    assert "is part 1 of 2" in refused(tmp_path)


def test_an_architecture_that_transformers_does_not_read(tmp_path):
    text = refused(write(tmp_path / "m.gguf", architecture="rwkv7"), Unsupported)
    assert "does not read the architecture 'rwkv7' from GGUF (m.gguf); it reads " in text
    assert "llama" in text
    assert "Load the original repository instead" in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"architecture": "clip"}, "the part of a model that looks at pictures.*'clip'"),
        ({"more": {"general.type": "mmproj"}}, "looks at pictures or listens"),
        ({"more": {"general.type": "adapter"}}, "type 'adapter', not a model; merge the adapter"),
        ({"more": {"general.type": "imatrix"}}, "is a GGUF of type 'imatrix', not a model"),
        ({"tensors": {}}, "holds no model: 0 tensors, architecture 'llama'"),
    ],
)
def test_files_that_hold_no_language_model(options, says, tmp_path):
    with pytest.raises(BadInput, match=says):
        interp.load_model(write(tmp_path / "m.gguf", **options))


def test_a_file_that_is_cut_short_says_by_how_much(file, tmp_path):
    data = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[:-1000])
    text = refused(cut)
    assert f"is cut short: it has {len(data) - 1000:,} bytes of {len(data):,}" in text
    assert "download it again" in text
    cut.write_bytes(data[:5000])
    assert "ends within its head (5,000 bytes) or is damaged" in refused(cut)
    cut.write_bytes(data[:14])
    assert "ends within its head (14 bytes)" in refused(cut)


def damaged(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: b"", "is no GGUF file: it begins with b''.*it is empty"),
        (lambda data: b"PK\3\4" + data[4:], r"begins with b'PK\\x03\\x04', expected b'GGUF'"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "pointer of git LFS"),
        (lambda data: damaged(data, 4, b"\1\0\0\0"), "is GGUF version 1; known are 2 and 3"),
        (lambda data: damaged(data, 4, b"\0\0\0\3"), "is a big-endian GGUF"),
        (lambda data: damaged(data, 24, b"\xff" * 8), "ends within its head .* or is damaged"),
    ],
)
def test_files_that_are_no_gguf_or_damaged(change, says, file, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(change(file.read_bytes()))
    with pytest.raises(BadInput, match=says):
        interp.load_model(path)


def test_a_type_of_tensors_that_nobody_knows(file, tmp_path):
    data = file.read_bytes()
    name = b"output_norm.weight"
    at = data.index(name) + len(name) + 4 + 8
    path = tmp_path / "x.gguf"
    path.write_bytes(damaged(data, at, b"\xe7\3\0\0"))
    assert "tensor output_norm.weight has type 999, which the installed package gguf" in refused(
        path
    )


def test_weights_that_are_missing_are_named(tmp_path):
    some = {name: array for name, array in stored(llama()).items() if "ffn_down" not in name}
    text = refused(write(tmp_path / "m.gguf", some), InterpError)
    assert "2 of 21 parameters are not in its files and would be random" in text
    assert "mlp.down_proj" in text


def test_another_shape_is_refused(tmp_path):
    other = stored(llama()) | {"blk.0.ffn_down.weight": np.ones((WIDE := 32, 96), np.float32)}
    text = refused(write(tmp_path / "m.gguf", other), InterpError)
    assert f"is [{WIDE}, 96], wanted [64, 96]" in text


def test_a_damaged_configuration_does_not_fill_the_memory(tmp_path):
    more = {"llama.block_count": 60_000}
    path = tmp_path / "m.gguf"
    write(path)
    data = path.read_bytes()
    at = data.index(b"llama.block_count") + len(b"llama.block_count") + 4
    path.write_bytes(damaged(data, at, (60_000).to_bytes(4, "little")))
    assert "asks for more than" in refused(path), more


def test_without_the_package_the_extra_is_named(file, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    text = refused(file, InterpError)
    assert "transformers reads with the package gguf: pip install 'interp-stream[gguf]'" in text


def test_options_of_the_hub_are_refused(file):
    with pytest.raises(BadInput, match=r"revision= is for models on the hub; '.*tiny.gguf' is a"):
        interp.load_model(file, revision="main")


def test_a_name_that_is_no_file_is_looked_for_as_before(tmp_path):
    with pytest.raises(InterpError, match="there is no model folder"):
        interp.load_model(str(tmp_path / "absent.gguf"))
