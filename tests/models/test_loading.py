"""Loading: weights that fit, folders of other kinds, names that lead nowhere, options."""

from __future__ import annotations

import json
import socket
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import register_module_parameter_registration_hook
from zoo import ZOO

import interp
from interp import BadInput, InterpError
from interp.errors import UnknownName
from interp.models import hub as _hub
from interp.models.load import refuse_unknown_model


def saved(name: str, folder: Path) -> Path:
    """A zoo model as `save_pretrained` writes it."""
    ZOO[name].build().save_pretrained(folder)
    return folder


def rewrite(folder: Path, change) -> Path:
    """The folder with other weights: `change` maps one dict of tensors to another."""
    file = folder / "model.safetensors"
    weights = {key: value.clone() for key, value in change(load_file(file)).items()}
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def configure(folder: Path, **fields) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("prefix", "cause"),
    [
        ("_orig_mod.", "saved through torch.compile; save model._orig_mod"),
        ("module.", r"saved through \(Distributed\)DataParallel; save model.module"),
        ("base_model.model.", r"PEFT adapters around it; save model.merge_and_unload\(\)"),
        ("mine.", "stored names begin with 'mine.': rename them"),
    ],
)
def test_names_under_a_prefix_are_refused_with_the_likely_cause(name, prefix, cause, tmp_path):
    folder = rewrite(
        saved(name, tmp_path), lambda weights: {prefix + k: v for k, v in weights.items()}
    )
    with pytest.raises(
        InterpError, match=rf"would be random.*stored weights have no place \({prefix}.*{cause}"
    ):
        interp.load_model(folder)


@pytest.mark.parametrize(
    ("drop", "count", "text"),
    [
        ("layers.1.mlp.up_proj", 1, "model.layers.1.mlp.up_proj.weight.*block 1 are missing"),
        ("layers.2.", 9, "block 2 are missing: the files are incomplete, or config.json has more"),
        ("lm_head", 1, "The head is missing.*tie_word_embeddings: true"),
        ("embed_tokens", 1, "embed_tokens.weight.*incomplete, or config.json is that of another"),
    ],
)
def test_missing_weights_are_counted_and_named(drop, count, text, tmp_path):
    folder = rewrite(
        saved("llama", tmp_path),
        lambda weights: {k: v for k, v in weights.items() if drop not in k},
    )
    with pytest.raises(
        InterpError, match=rf"{count} of 30 parameters are not in its files.*{text}"
    ):
        interp.load_model(folder)


def test_adapters_beside_their_weights_are_told_from_a_prefix(tmp_path):
    def adapted(weights):
        bare = {f"base_model.model.{k}": v for k, v in weights.items() if "q_proj" not in k}
        layers = {k.removesuffix(".weight"): v for k, v in weights.items() if "q_proj" in k}
        lora = {f"base_model.model.{k}.lora_A.default.weight": v[:2] for k, v in layers.items()}
        return (
            bare | lora | {f"base_model.model.{k}.base_layer.weight": v for k, v in layers.items()}
        )

    with pytest.raises(InterpError, match="save model.merge_and_unload"):
        interp.load_model(rewrite(saved("llama", tmp_path), adapted))


def test_another_shape_is_refused_with_both(tmp_path):
    key = "model.layers.0.mlp.down_proj.weight"
    folder = rewrite(saved("llama", tmp_path), lambda weights: weights | {key: weights[key][:5]})
    with pytest.raises(
        InterpError, match=rf"1 have another shape \({key} is \[5, 40\], wanted \[24"
    ):
        interp.load_model(folder)


def test_weights_without_a_place_in_the_model_are_warned_of(tmp_path):
    extra = {
        "model.layers.3.input_layernorm.weight": torch.ones(24),  # one block more
        "model.layers.0.self_attn.q_proj.bias": torch.ones(24),  # a bias that config.json denies
    }
    folder = rewrite(saved("llama", tmp_path), lambda weights: weights | extra)
    with pytest.warns(UserWarning, match=r"2 stored weights were left out.*q_proj.bias, model.lay"):
        interp.load_model(folder)


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("gpt2", {"h.0.attn.bias": (1, 1, 8, 8), "h.0.attn.masked_bias": ()}),  # masks of old files
        ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": (3,)}),
        ("bert", {"bert.embeddings.position_ids": (1, 64), "cls.seq_relationship.weight": (2, 24)}),
        ("llama", {"score.weight": (2, 24)}),  # another head
    ],
)
def test_what_old_or_larger_files_hold_besides_is_no_fault(name, extra, tmp_path):
    more = {key: torch.ones(shape) for key, shape in extra.items()}
    folder = rewrite(saved(name, tmp_path), lambda weights: weights | more)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = interp.load_model(folder)
    tokens = torch.arange(5, 12)[None]
    with torch.no_grad():
        assert torch.allclose(model(tokens), ZOO[name].build()(tokens).logits, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "t5", "gemma2", "opt", "bloom"])
def test_tied_weights_that_are_stored_once_load(name, tmp_path):
    stored = load_file(saved(name, tmp_path) / "model.safetensors")
    parameters = dict(ZOO[name].build().named_parameters(remove_duplicate=False))
    assert len(stored) < len(parameters)
    assert interp.load_model(tmp_path).cfg.d_model == 24


def test_a_missing_shard_is_named(tmp_path):
    ZOO["llama"].build().save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    assert interp.load_model(tmp_path).cfg.n_layers == 3
    shards[1].unlink()
    with pytest.raises(BadInput, match=rf"lacks 1 of the {len(shards)} files.*{shards[1].name}"):
        interp.load_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(BadInput, match="is no index of weights"):
        interp.load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("llama", {"num_hidden_layers": 10**6}, r"num_hidden_layers=1000000.*30 weights.*3 blocks"),
        ("gpt2", {"n_layer": 10**6}, r"more than 1,160 parameters \(n_layer=1000000"),
        ("mixtral", {"num_local_experts": 10**6}, "num_local_experts=1000000"),
        ("llama", {"hidden_size": 10**7}, "hidden_size=10000000"),
        ("t5", {"num_layers": 10**6}, "num_layers=1000000"),
    ],
)
def test_a_configuration_far_beyond_its_weights_is_refused_at_once(name, fields, text, tmp_path):
    folder = configure(saved(name, tmp_path), **fields)
    made = []
    watch = register_module_parameter_registration_hook(lambda *given: made.append(given[2]))
    try:
        with pytest.raises(BadInput, match=rf"{text}.*is not that of these weights"):
            interp.load_model(folder)
    finally:
        watch.remove()
    assert len(made) < 5000  # millions without the bound, which take minutes
    assert sum(p.numel() for p in made if p is not None and not p.is_meta) < 10**6


def test_the_bound_is_taken_off_again(tmp_path):
    hooks = torch.nn.modules.module
    before = len(hooks._global_parameter_registration_hooks)
    folder = configure(saved("llama", tmp_path), num_hidden_layers=10**6)
    with pytest.raises(BadInput):
        interp.load_model(folder)
    assert len(hooks._global_parameter_registration_hooks) == before
    assert len(hooks._global_buffer_registration_hooks) == before


def test_a_damaged_file_is_named(tmp_path):
    folder = saved("llama", tmp_path)
    (folder / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(BadInput, match=r"model.safetensors' is no safetensors file or is damaged"):
        interp.load_model(folder)


# ---- folders of other kinds ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tf_model.h5", r"tf_model.h5 is TensorFlow weights.*from_tf=True"),
        ("flax_model.msgpack", "flax_model.msgpack is Flax weights.*from_flax=True"),
        ("model.onnx", "an ONNX graph, which has no modules"),
        ("pytorch_model.bin", r"weights as pickle only \(pytorch_model.bin\)"),
        (
            "notes.txt",
            "no weights: expected model.safetensors, found config.json, .*notes.txt; was",
        ),
    ],
)
def test_weights_of_another_format_are_named_with_the_way_out(file, text, tmp_path):
    folder = saved("gpt2", tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(b"x")
    with pytest.raises(BadInput, match=text):
        interp.load_model(folder)
    with pytest.raises(BadInput, match=rf"{file}' is no folder"):
        interp.load_model(folder / file)


def test_a_folder_of_adapters_names_its_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"PEFT adapter \(adapter_config.json\) of the model 'gpt2'"):
        interp.load_model(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[")
    with pytest.raises(BadInput, match=r"of another model: load that model with peft"):
        interp.load_model(tmp_path)


# ---- names -----------------------------------------------------------------------------------


@pytest.fixture
def online(monkeypatch, tmp_path):
    """Offline mode off and an empty cache; `online(endpoint)` says where the hub is."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_hub, "PATIENCE", 300.0)  # no answer here takes long, but the machine may

    def at(endpoint: str) -> Path:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        return tmp_path / "cache"

    return at


def cache_model(cache: Path, name: str) -> None:
    folder = cache / f"models--{name.replace('/', '--')}"
    saved("gpt2", folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")


CLOSED = "http://127.0.0.1:9"  # nobody listens at the discard port


@pytest.fixture
def questions(monkeypatch):
    """Questions to the hub from now on: ours, and what else is asked where the model is loaded."""
    seen, ask, connect = [], _hub._files_on_hub, socket.socket.connect

    def asked(name, revision):
        seen.append(name)
        return ask(name, revision)

    def connected(self, address):
        if threading.current_thread() is threading.main_thread():
            seen.append(address)
        return connect(self, address)

    monkeypatch.setattr(_hub, "_files_on_hub", asked)
    monkeypatch.setattr(socket.socket, "connect", connected)
    return seen


def test_a_misspelt_embedded_name_is_answered_before_anyone_is_asked(monkeypatch):
    monkeypatch.setattr(_hub, "_ask", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(InterpError, match=r"'demo-lama' is not on.*did you mean 'demo-llama'\?"):
        interp.load_model("demo-lama")


def test_without_a_network_a_name_fails_after_one_question(online, questions):
    online(CLOSED)
    with pytest.raises(
        InterpError, match="'someone/tiny' is not on this machine and the hub cannot"
    ):
        interp.load_model("someone/tiny")
    assert questions == ["someone/tiny"]


def test_a_name_server_that_is_silent_is_not_waited_for(online, monkeypatch):
    online(CLOSED)
    told, answered = threading.Event(), threading.Event()

    def answer(*_):
        told.wait(600)
        answered.set()

    monkeypatch.setattr(_hub, "PATIENCE", 0.05)
    monkeypatch.setattr(_hub, "_files_on_hub", answer)
    with pytest.raises(InterpError, match="hub cannot be reached"):
        interp.load_model("someone/tiny")
    assert not answered.is_set()
    told.set()


def test_what_is_on_this_machine_is_loaded_without_the_hub_and_proposed(online, questions):
    from huggingface_hub import constants

    cache_model(online(CLOSED), "someone/tiny")
    model = interp.load_model("someone/tiny")
    assert questions == ["someone/tiny"], "not once for every file"
    assert model.cfg.model_name == "someone/tiny"
    assert constants.HF_HUB_OFFLINE is False
    with pytest.raises(
        InterpError, match=r"on this machine: someone/tiny\); did you mean 'someone/t"
    ):
        interp.load_model("someone/tinny")


class Hub(BaseHTTPRequestHandler):
    """Knows one repository, with weights in GGUF only."""

    def do_GET(self) -> None:
        there = self.path.startswith("/api/models/someone/quantised")
        files = [{"rfilename": "model-q4.gguf"}, {"rfilename": "README.md"}]
        body = json.dumps({"id": "someone/quantised", "siblings": files} if there else {}).encode()
        self.send_response(200 if there else 404)
        if not there:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def hub(online):
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    online(f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


def test_what_the_hub_does_not_have_is_said(hub):
    with pytest.raises(InterpError, match="there is no model 'someone/nothing' on the hub"):
        interp.load_model("someone/nothing")
    with pytest.raises(
        InterpError, match=r"'someone/quantised' on the hub has no safetensors; model"
    ):
        interp.load_model("someone/quantised")


def test_what_is_no_name_at_all_is_said():
    with pytest.raises(BadInput, match="'my model' is neither a folder nor a name on the hub"):
        interp.load_model("my model")
    with pytest.raises(BadInput, match=r"'demo:llama' is .*; did you mean 'demo-llama'\?"):
        interp.load_model("demo:llama")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("DEMO", "demo"), ("SmolLM2", "smollm2"), ("Demo_Llama", "demo-llama")],
)
def test_names_are_proposed_whatever_their_case(typed, meant, monkeypatch):
    monkeypatch.setattr(_hub, "_ask", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(UnknownName, match=rf"did you mean '{meant}'\?"):
        interp.load_model(typed)


def test_a_name_with_a_slash_at_its_end_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_hub, "_ask", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(BadInput, match=r"no model folder 'smollm2/'; did you mean 'smollm2'\?"):
        interp.load_model("smollm2/")
    (tmp_path / "pilot").mkdir()
    (tmp_path / "pilot" / "config.json").write_text("{}")
    for typed, meant in (
        ("pilod/", "pilot"),
        ("./pilod", "./pilot"),
        (f"{tmp_path}/pilo", "pilot"),
    ):
        with pytest.raises(BadInput, match=rf"no model folder '.*'; did you mean '.*{meant}'\?"):
            interp.load_model(typed)
    with pytest.raises(BadInput, match="no model folder 'nodir/'"):
        refuse_unknown_model("nodir/")


def test_a_device_by_another_name_is_the_one_that_is_meant():
    for typed, meant in (("gpu", "cuda"), ("GPU", "cuda"), ("cudda", "cuda"), ("metal", "mps")):
        with pytest.raises(BadInput, match=rf"unknown device '{typed}'; did you mean '{meant}'\?"):
            interp.load_model("demo", device=typed)


# ---- options and wrappers --------------------------------------------------------------------


def test_options_for_a_bridge_are_refused_unless_they_change_nothing(gpt2):
    same = {"dtype": "float32", "device": "cpu", "tokenizer": gpt2.tokenizer}
    assert interp.load_model(gpt2, **same) is gpt2
    for options, text in [
        ({"dtype": "bfloat16"}, r"dtype=torch.bfloat16 cannot be applied to a bridge"),
        ({"revision": "main"}, "revision=main cannot"),
        ({"device": "meta"}, "device=meta cannot"),
        ({"n_devices": 2}, "n_devices=2 cannot"),
        ({"tokenizer": object()}, "tokenizer=object cannot be applied.*where the model is loaded"),
    ]:
        with pytest.raises(BadInput, match=text):
            interp.load_model(gpt2, **options)


def test_a_model_inside_another_object_is_refused_with_how_to_take_it_out():
    plain = ZOO["llama"].build()
    with pytest.raises(BadInput, match=r"torch.compile around a model; hand over model._orig_mod"):
        interp.load_model(torch.compile(plain))
    with pytest.raises(BadInput, match=r"parallel wrapper around a model; hand over model.module"):
        interp.load_model(torch.nn.DataParallel(plain))


class PeftModelForCausalLM(torch.nn.Module):
    """What a PEFT model shows of itself."""

    def __init__(self, inner):
        super().__init__()
        self.base_model, self.peft_config, self.config = inner, {"default": {}}, inner.config

    def merge_and_unload(self):
        return self.base_model


def test_adapters_are_refused_with_how_to_merge_them():
    plain = ZOO["llama"].build()
    with pytest.raises(
        BadInput, match=r"PeftModelForCausalLM carries PEFT adapters.*model.merge_and_unload\(\)"
    ):
        interp.load_model(PeftModelForCausalLM(plain))
    plain.model.layers[0].self_attn.q_proj.lora_A = torch.nn.ModuleDict()
    with pytest.raises(BadInput, match=r"LlamaForCausalLM carries PEFT.*PeftModel.from_pretrained"):
        interp.load_model(plain)
