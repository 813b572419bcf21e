"""Other ways in: caches, model objects and folders, remote models, placed models, labels."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import _boot, hooks_on
from remote import remote
from zoo import ZOO
from zoo.boot import SPECIAL_TOKENS, UNKNOWN, tiny_vocabulary

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.next_token import NextToken
from analyses.path_length import PathLength
from analyses.random_pairs import RandomPairs
from analyses.rotation import Rotation
from interp import BadInput, InterpError
from interp.errors import Unsupported
from interp.models.load import is_embedded

ALL = (Rotation, PathLength, LogitLens, Attention, RandomPairs)
STREAM = (Rotation, PathLength)


def tokens_of(n: int = 2, length: int = 7) -> torch.Tensor:
    return torch.randint(5, 100, (n, length), generator=torch.Generator().manual_seed(1))


def assert_same(a: interp.Results, b: interp.Results, without: tuple[str, ...] = ()) -> None:
    assert list(a) == list(b)
    for name in a:
        left, right = (r[name].frame.drop(columns=list(without), errors="ignore") for r in (a, b))
        pd.testing.assert_frame_equal(left, right, rtol=1e-4, atol=1e-4)


# ---- caches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_whole_cache_gives_the_tables_of_run(name, request):
    model, tokens = request.getfixturevalue(name), tokens_of()
    _, cache = model.run_with_cache(tokens)
    results = interp.from_cache(cache, ALL)  # the cache carries tokens and model
    assert_same(results, interp.run(model, tokens, ALL, progress=False))
    assert results.provenance["cache"] == {"final_logits": "unembed.hook_out", "notes": []}
    assert hooks_on(model) == []


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_of_a_cached_pass_is_left_out(gpt2, side):
    tokens, mask = tokens_of(), torch.ones(2, 7, dtype=torch.int64)
    mask[1, slice(-2, None) if side == "right" else slice(0, 2)] = 0
    _, cache = gpt2.run_with_cache(tokens, attention_mask=mask)
    results = interp.from_cache(cache, ALL[:4], mask=mask)
    assert_same(results, interp.run(gpt2, tokens, ALL[:4], mask=mask, progress=False))


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (lambda n: n.endswith(("hook_out", "hook_in")), (Rotation, PathLength, LogitLens)),
        (lambda n: n.endswith(("resid_pre", "resid_post", "resid_mid")), (Rotation,)),
    ],
    ids=["canonical", "alias"],
)
@pytest.mark.parametrize("squeezed", [False, True])
def test_either_spelling_with_or_without_the_batch_dimension(gpt2, wanted, chosen, squeezed):
    tokens = tokens_of(1)
    _, cache = gpt2.run_with_cache(tokens, names_filter=wanted, remove_batch_dim=squeezed)
    results = interp.from_cache(cache, chosen, tokens=tokens[0] if squeezed else tokens)
    assert_same(results, interp.run(gpt2, tokens, chosen, progress=False))


def test_a_plain_mapping_without_a_model_verifies_its_own_sites(llama):
    tokens, chosen = tokens_of(), (Rotation, PathLength, Attention)
    _, cache = llama.run_with_cache(tokens, return_cache_object=False)
    results = interp.from_cache(cache, chosen, tokens=tokens)
    expected = interp.run(llama, tokens, chosen, progress=False)
    assert_same(results, expected, without=("token", "word"))  # there is no tokenizer
    assert results.provenance["model"]["name"] == "a cache without its model"


def test_states_may_be_the_outputs_of_the_blocks_before(gpt2):
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(3))]
    _, cache = gpt2.run_with_cache(tokens_of(), names_filter=names)
    results = interp.from_cache(cache, Rotation, tokens=tokens_of())
    expected = interp.run(gpt2, tokens_of(), Rotation, progress=False)
    assert_same(results, expected, without=("attn_angle", "mlp_angle"))
    assert "attn_angle" not in results["rotation"].frame
    (note,) = results["rotation"].notes
    assert note.startswith("rotation: resid_mid left out, the cache lacks blocks.0.hook_resid_mid")


def test_an_incomplete_cache_is_refused_with_the_names_to_cache(gpt2):
    _, cache = gpt2.run_with_cache(tokens_of(), names_filter=["blocks.0.hook_resid_pre"])
    with pytest.raises(
        Unsupported,
        match="lacks what analysis 'rotation' reads; cache blocks.1.hook_resid_pre, "
        "blocks.2.hook_resid_pre, blocks.2.hook_resid_post too",
    ):
        interp.from_cache(cache, Rotation, tokens=tokens_of())
    with pytest.raises(Unsupported, match=r"'attention' reads; cache blocks.0.attn.hook_pattern"):
        interp.from_cache(cache, Attention, tokens=tokens_of())


def test_without_cached_logits_the_last_state_is_read_out_and_it_says_so(gpt2):
    tokens = tokens_of()
    _, cache = gpt2.run_with_cache(tokens, names_filter=lambda n: "hook_resid" in n)
    results = interp.from_cache(cache, LogitLens, tokens=tokens)
    assert_same(results, interp.run(gpt2, tokens, LogitLens, progress=False))
    assert "Final logits were not in the cache" in results["logit_lens"].notes[-1]


def test_soft_caps_and_scales_apply_to_cached_logits():
    tokens = tokens_of()
    for name in ("gemma2", "cohere"):
        model = _boot(name)
        _, cache = model.run_with_cache(tokens)
        results = interp.from_cache(cache, LogitLens)
        assert_same(results, interp.run(model, tokens, LogitLens, progress=False))


def test_a_model_before_the_cache_is_told_the_right_call(gpt2):
    _, cache = gpt2.run_with_cache(tokens_of())
    told = r"from_cache\(cache, \['rotation'\], tokens=tokens, model=model\)"
    for given in ((gpt2, cache, Rotation), (gpt2, cache), (gpt2,), (Rotation, cache)):
        with pytest.raises(BadInput, match=told):
            interp.from_cache(*given)
    with pytest.raises(BadInput, match=r"from_cache\(ActivationCache, str, TransformerBridge"):
        interp.from_cache(cache, "rotation", gpt2)
    plain = dict(cache.cache_dict)
    with pytest.raises(BadInput, match=told):
        interp.from_cache(gpt2, plain, Rotation, tokens=tokens_of())
    assert len(interp.from_cache(cache, Rotation, model=gpt2)["rotation"].frame)


def test_what_does_not_fit_a_cache_is_refused(gpt2):
    tokens = tokens_of()
    _, cache = gpt2.run_with_cache(tokens)
    plain = {k: v for k, v in cache.items() if "hook_resid" in k}
    refusals = [
        (BadInput, "expected an ActivationCache or a mapping", (3, Rotation), {}),
        (BadInput, r"does not hold the tokens \(embed.hook_in", (plain, Rotation), {}),
        (BadInput, "are not those that the cache was made from", (cache, Rotation), {"tokens": 1}),
        (BadInput, "takes ids, not text", (cache, Rotation), {"tokens": "the man"}),
        (BadInput, r"mask \(1, 3\) does not fit", (cache, Rotation), {"mask": [[1, 1, 1]]}),
        (Unsupported, "'logit_lens' needs logits and readout, and this", (plain, LogitLens), {}),
    ]
    for error, text, args, options in refusals:
        if "tokens" in options and options["tokens"] == 1:
            options = {"tokens": tokens + 1}
        with pytest.raises(error, match=text):
            interp.from_cache(*args, **options)
    _, cut = gpt2.run_with_cache(tokens, pos_slice=slice(0, 3), names_filter=lambda n: "resid" in n)
    with pytest.raises(BadInput, match=r"is \(2, 3, 24\) in the cache.*pos_slice"):
        interp.from_cache(cut, Rotation, tokens=tokens)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("cut", [[2, 5], (2, 5), slice(1, None, 2), 3, torch.tensor([0, 6])])
def test_a_cut_cache_has_the_rows_of_the_whole_one_at_its_positions(name, cut, request):
    model, tokens = request.getfixturevalue(name), tokens_of()
    chosen = [Rotation, LogitLens, Attention, NextToken]
    _, cache = model.run_with_cache(tokens, pos_slice=cut)
    part = interp.from_cache(cache, chosen, tokens=tokens, positions=cut)
    whole = interp.from_cache(model.run_with_cache(tokens)[1], chosen)
    columns = torch.arange(7)[slice(*cut) if isinstance(cut, tuple) else cut].reshape(-1).tolist()
    for analysis in part:
        frame = whole[analysis].frame
        expected = frame[frame["position"].isin(columns)].reset_index(drop=True)
        pd.testing.assert_frame_equal(part[analysis].frame, expected, rtol=1e-4, atol=1e-4)


def test_a_cut_cache_without_its_prompts_knows_no_next_tokens_but_neighbours(llama):
    tokens = tokens_of()
    _, cache = llama.run_with_cache(tokens, pos_slice=[2, 3, 5])
    results = interp.from_cache(cache, [NextToken, Attention], positions=[2, 3, 5])
    frame = results["next_token"].frame
    assert frame.groupby("position")["log_prob"].count().to_dict() == {2: 2, 3: 0, 5: 0}
    whole = interp.run(llama, tokens, [Attention], progress=False)["attention"].frame
    expected = whole[whole["position"].isin([2, 3, 5])]
    seen = results["attention"].frame
    assert np.allclose(seen["distance"], expected["distance"], atol=1e-4)
    assert np.allclose(seen["sink"], expected["sink"], atol=1e-4)


def test_a_cut_cache_without_its_positions_is_refused(gpt2, llama):
    tokens = tokens_of()
    refusals = [
        (llama, [2, 5], {}, r"hook_attn_scores has 2 queries and 7 keys\): pass positions="),
        (gpt2, [2, 5], {}, r"pos_embed.hook_in holds the positions \[2, 5\]\): pass positions="),
        (gpt2, [2, 5], {"positions": [2, 4], "tokens": tokens}, "are to be the whole prompts"),
        (
            gpt2,
            [2, 5],
            {"positions": [5, 2], "tokens": tokens},
            "must ascend and lie between 0 and",
        ),
        (gpt2, [2, 5], {"positions": [2, 7], "tokens": tokens}, "between 0 and 6"),
        (gpt2, [2, 5], {"positions": [2]}, "names 1 columns, the cache holds the tokens of 2"),
        (gpt2, [2, 5], {"positions": slice(2, 5)}, "needs tokens=, the whole prompts"),
        (gpt2, [2, 5], {"positions": "2"}, "give what pos_slice was given"),
    ]
    for model, cut, options, text in refusals:
        _, cache = model.run_with_cache(tokens, pos_slice=cut)
        with pytest.raises(BadInput, match=text):
            interp.from_cache(cache, Rotation, **options)


def test_positions_of_left_padding_are_no_cut(gpt2):
    mask = torch.ones(1, 7, dtype=torch.int64)
    mask[0, :3] = 0
    _, cache = gpt2.run_with_cache(tokens_of(1), attention_mask=mask)
    frame = interp.from_cache(cache, Rotation, mask=mask)["rotation"].frame
    assert sorted(frame["position"].unique()) == [0, 1, 2, 3]


def test_a_cache_of_an_intervened_pass_shows_the_intervention(gpt2):
    tokens = tokens_of()

    def double(value, hook):
        return value * 2

    with gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", double)]):
        _, cache = gpt2.run_with_cache(tokens)
    with interp.attach(gpt2, PathLength) as probes:
        gpt2.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_pre", double)])
    frame = interp.from_cache(cache, PathLength)["path_length"].frame
    watched = probes["path_length"].frame
    assert frame["norm"].tolist() == pytest.approx(watched["norm"].tolist())


# ---- model objects and folders ---------------------------------------------------------------


def memory_tokenizer():
    """Never on a disk."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(tiny_vocabulary(), UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL_TOKENS)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / request.param
    ZOO[request.param].build().save_pretrained(path)
    return path


def test_a_model_object_with_a_tokenizer_from_memory(folder):
    plain, tokenizer = ZOO[folder.name].build(), memory_tokenizer()
    with torch.no_grad():
        expected = plain(tokenizer("the man saw her", return_tensors="pt")["input_ids"]).logits
    model = interp.load_model(plain, tokenizer)
    assert not model.training
    assert torch.allclose(model("the man saw her"), expected, atol=1e-5)
    assert len(interp.run(model, ["the man saw her"], Rotation, progress=False)["rotation"].frame)
    assert "name_or_path" not in tokenizer.init_kwargs or not tokenizer.init_kwargs["name_or_path"]


def test_a_model_object_without_a_tokenizer_takes_tokens_and_refuses_text(folder):
    model = interp.load_model(ZOO[folder.name].build())
    assert model.tokenizer is None
    results = interp.run(model, tokens_of(), ALL, progress=False)
    assert results["rotation"].frame["token"].str.fullmatch(r"<\d+>").all()
    with interp.attach(model, Rotation) as probes:
        model(tokens_of())
    assert len(probes["rotation"].frame) == 2 * 7 * 3
    with pytest.raises(BadInput, match=r"holds texts: pass tokenizer= \(to load_model"):
        interp.run(model, ["the man"], Rotation, progress=False)


def test_a_saved_folder_without_and_with_a_tokenizer(folder, tmp_path):
    bare = interp.load_model(folder)
    assert bare.tokenizer is None
    given = interp.load_model(folder, memory_tokenizer())
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    memory_tokenizer().save_pretrained(tmp_path)
    own = interp.load_model(tmp_path)
    assert own.to_tokens("the man").tolist() == given.to_tokens("the man").tolist() == [[1, 5, 29]]
    with torch.no_grad():
        assert torch.equal(own(tokens_of()), bare(tokens_of()))
    object_from_there = ZOO[folder.name].build()
    object_from_there.config._name_or_path = str(tmp_path)
    assert interp.load_model(object_from_there).to_tokens("the man").tolist() == [[1, 5, 29]]


def test_a_tokenizer_keeps_what_was_added_to_it():
    tokenizer = memory_tokenizer()
    tokenizer.add_tokens(["zebra"])
    model = ZOO["llama"].build()
    model.resize_token_embeddings(len(tokenizer))
    bridge = interp.load_model(model, tokenizer)
    assert bridge.to_tokens("zebra").tolist() == [[1, len(tokenizer) - 1]]


def test_options_of_names_are_refused_for_objects_and_the_dtype_is_kept():
    half = ZOO["gpt2"].build().to(torch.bfloat16)
    with pytest.raises(BadInput, match="the model object is in bfloat16; convert it yourself"):
        interp.load_model(half, dtype="float32")
    with pytest.raises(BadInput, match="revision= is for models loaded by name"):
        interp.load_model(half, revision="main")
    assert interp.inspect(interp.load_model(half)).dtype == torch.bfloat16


def test_an_embedded_model_that_is_not_there_is_not_looked_for_elsewhere(tmp_path, monkeypatch):
    from interp.models import load as models

    monkeypatch.setitem(models.MODELS, "demo", tmp_path / "gone")
    with pytest.raises(InterpError, match="embedded model 'demo' is not in this installation"):
        interp.load_model("demo")


CODE = """
import pathlib
pathlib.Path({path!r}).write_text("executed")
from transformers import GPT2Config
class MysteryConfig(GPT2Config):
    model_type = "mystery"
"""


@pytest.fixture
def mystery(tmp_path, monkeypatch):
    """A folder that brings code along, and the file that the code would write."""
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder, trace = tmp_path / "mystery", tmp_path / "trace"
    ZOO["gpt2"].build().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mystery",
        "architectures": ["MysteryForCausalLM"],
        "auto_map": {"AutoConfig": "mystery.MysteryConfig"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mystery.py").write_text(CODE.format(path=str(trace)))
    return folder, trace


def test_code_of_a_folder_is_not_run_unless_asked_for(mystery):
    folder, trace = mystery
    with pytest.raises(
        InterpError, match=r"needs code from its repository.*trust_remote_code=True"
    ):
        interp.load_model(folder)
    assert not trace.exists()
    with pytest.raises(InterpError, match="does not support the architecture"):
        interp.load_model(folder, trust_remote_code=True)
    assert trace.read_text() == "executed"  # so the test above would have seen it


@pytest.fixture
def no_processes(monkeypatch):
    """Record every program that is started; none is."""
    started = []

    def refuse(*args, **kwargs):
        started.append(args)
        raise AssertionError("a program was started")

    for name in ("check_call", "run", "call", "check_output", "Popen"):
        monkeypatch.setattr(subprocess, name, refuse)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it were not installed
    return started


def test_no_installer_is_run_for_a_multimodal_model(tmp_path, no_processes):
    ZOO["llava"].build().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="for text only.*torchvision is not installed.*fits your"):
        model = interp.load_model(tmp_path)
    assert no_processes == []
    assert len(interp.run(model, tokens_of(1), Rotation, progress=False)["rotation"].frame) > 0
    with warnings.catch_warnings(), pytest.warns(UserWarning, match="for text only"):
        interp.load_model(ZOO["llava"].build())
    assert no_processes == []


def test_a_model_that_insists_on_a_library_says_which(tmp_path, no_processes, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "torchvision" else find(n, *a)
    )
    with pytest.raises(
        InterpError, match="needs torchvision, which is not installed; install the build of"
    ):
        interp.load_model(ZOO["qwen2.5-vl"].build())
    assert no_processes == []


# ---- remote models ---------------------------------------------------------------------------


def test_a_remote_model_gives_the_tables_of_the_local_one(llama):
    far, tokens = remote(llama), tokens_of()
    missing = ("attn_angle", "mlp_angle")  # the driver declares no stream between the two
    expected = interp.run(llama, tokens, STREAM, progress=False)
    assert_same(interp.run(far, tokens, STREAM, progress=False), expected, without=missing)
    with interp.attach(far, *STREAM) as probes:
        far.forward(tokens[:1])
        far.run_with_cache(tokens[1:])
    frame = probes["rotation"].frame
    assert frame.groupby("call").size().tolist() == [21, 21]
    by = ["layer", "prompt", "position"]
    own = expected["rotation"].frame.sort_values(by)["angle"].tolist()
    assert frame.sort_values(by)["angle"].tolist() == pytest.approx(own, abs=1e-3)


def test_only_what_is_read_is_asked_of_the_driver_and_nothing_stays(llama):
    far = remote(llama)
    with interp.attach(far, Rotation):
        far.forward(tokens_of(1))
    assert far._driver.asked[-1] == {"embed.hook_out", *(f"blocks.{i}.hook_out" for i in range(3))}
    far.forward(tokens_of(1))
    assert far._driver.asked[-1] == set()
    assert "forward" not in vars(far)
    assert "forward" not in vars(far._driver)
    assert not any(point.fwd_hooks for point in far.hook_dict.values())


def test_what_a_driver_does_not_declare_is_refused_by_name(llama):
    with pytest.raises(Unsupported, match="'logit_lens' needs a readout.*no unembedding"):
        interp.attach(remote(llama), LogitLens)
    with pytest.raises(Unsupported, match="'attention' needs pattern"):
        interp.attach(remote(llama), Attention)
    blind = remote(llama, ("hook_out",), embed=False)
    with pytest.raises(Unsupported, match=r"no hook gives state 0 of blocks \(no such hook"):
        interp.attach(blind, Rotation)


def test_an_embedding_that_is_not_the_first_state_is_not_taken_for_it(llama):
    with pytest.raises(Unsupported, match=r"embed.hook_out with the terms of block 0 does not"):
        interp.attach(remote(llama, scale=2.0), Rotation)


class Certainty(interp.Analysis):
    """Probability of the best token."""

    scope = "model"
    sites = ("logits",)

    def observe(self, batch):
        best = batch["logits"].softmax(-1).amax(-1)
        return {"certainty": interp.PerToken(best[None])}


def test_logits_of_a_remote_model_are_observed_or_refused(llama):
    tokens = tokens_of(1)
    with interp.attach(remote(llama), Certainty) as probes:
        probes.model.forward(tokens)
    expected = llama(tokens).softmax(-1).amax(-1)[0].tolist()
    assert probes["certainty"].frame["certainty"].tolist() == pytest.approx(expected)
    with pytest.raises(Unsupported, match="needs the logits of every position"):
        interp.attach(remote(llama, sequence_logits=False), Certainty)


def test_a_failed_remote_pass_counts_for_nothing(llama):
    far = remote(llama)
    with interp.attach(far, Rotation) as probes:
        with pytest.raises(NotImplementedError, match="one prompt"):
            far.forward(tokens_of(2))
        far.forward(tokens_of(1))
    assert probes["rotation"].frame["call"].unique().tolist() == [0]


# ---- placement -------------------------------------------------------------------------------


def test_a_placed_model_gives_the_same_tables(tmp_path):
    pytest.importorskip("accelerate")
    ZOO["llama"].build().save_pretrained(tmp_path)
    placed = interp.load_model(tmp_path, device_map={"": "cpu"})
    here = interp.load_model(tmp_path, device="cpu")
    a, b = (interp.run(m, tokens_of(), ALL, progress=False) for m in (placed, here))
    assert_same(a, b)


class Elsewhere(interp.Analysis):
    """Says where its batch lies."""

    sites = ("resid_pre", "resid_post", "resid_initial")

    def observe(self, batch):
        places = {batch[s].device.type for s in self.sites} | {batch.mask.device.type}
        assert places == {batch["resid_post"].device.type}
        return {"norm": interp.PerToken(torch.zeros(batch.mask.shape, dtype=torch.float32))}


def test_states_on_several_devices_are_brought_to_one(llama):
    from interp.models.contexts import tokens_from_call
    from interp.models.observer import Observer  # the same observer that a model feeds

    wiring = interp.inspect(llama).wire([Elsewhere()])
    context = tokens_from_call(
        (), {"input_ids": tokens_of()}, first_id=0, special_ids=(), pad_id=None
    )
    # "meta" is a device without values: moving to it works everywhere.
    values = {
        key: torch.zeros(2, 7, 24, device="meta" if key.index > 1 else "cpu")
        for key in sorted(wiring.sources, key=lambda k: k.index)
    }
    done = Observer(llama, wiring, lambda *_: {}, lambda _: None).replay({"": context}, values)
    assert len(done.emitted) == 3


# ---- labels and entry ------------------------------------------------------------------------


def test_passes_are_labelled_while_attached(gpt2):
    with interp.attach(gpt2, Rotation) as probes:
        gpt2(tokens_of())
        probes.label(kind="garden path", item=[7, 8])
        gpt2(tokens_of())
        # A warning, no error: an attached observer never ends a call.
        with pytest.warns(UserWarning, match="label 'item' has 2 values, the pass has 3 prompts"):
            gpt2(tokens_of(3))
        probes.label()
        gpt2(tokens_of(1))
    frame = probes["rotation"].frame.query("layer == 0 and position == 0")
    assert frame["kind"].fillna("-").tolist() == ["-", "-", "garden path", "garden path", "-"]
    assert frame["item"].dropna().tolist() == [7, 8]
    assert probes["rotation"].labels == ["kind", "item"]
    assert probes.results.provenance["attached"]["not_observed"] == {"labels": 1}
    with pytest.raises(BadInput, match="label 'layer' has the name of a column"):
        probes.label(layer=1)


def test_labels_stay_with_the_prompt_while_it_is_continued(gpt2):
    with interp.attach(gpt2, Rotation) as probes:
        probes.label(kind="story")
        gpt2.generate(
            tokens_of(1, 5), max_new_tokens=3, do_sample=False, stop_at_eos=False, verbose=False
        )
    assert probes["rotation"].frame["kind"].unique().tolist() == ["story"]


def test_a_pass_inside_an_except_clause_is_no_failed_pass(gpt2):
    with interp.attach(gpt2, Rotation) as probes:
        try:
            raise KeyError("something else")
        except KeyError:
            gpt2(tokens_of())
    assert len(probes["rotation"].frame) == 2 * 7 * 3


def test_a_pass_that_fails_by_itself_is_dropped(gpt2):
    with interp.attach(gpt2, Rotation) as probes:
        with pytest.raises(RuntimeError):
            gpt2.run_with_hooks(
                tokens_of(), fwd_hooks=[("blocks.1.hook_resid_pre", lambda v, hook: v[..., :3])]
            )
        gpt2(tokens_of())
    assert probes["rotation"].frame["call"].unique().tolist() == [0]


# ---- what a model is called ------------------------------------------------------------------


def test_a_model_in_a_folder_is_called_by_its_own_name(tmp_path):
    """Titles, messages and tables name the model; where it lies stands in the provenance."""
    folder = tmp_path / "demo-of-mine"
    ZOO["gpt2"].build().save_pretrained(folder)
    model = interp.load_model(folder)
    assert model.cfg.model_name == "demo-of-mine"
    assert not is_embedded(model), "a name that begins like an embedded model's makes none of it"
    results = interp.run(model, torch.tensor([[1, 2, 3]]), "rotation", progress=False)
    assert results.provenance["model"]["name"] == "demo-of-mine"
    assert results.provenance["loaded_from"] == str(folder)
    page = results.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>Inside demo-of-mine</h1>" in page
    assert str(tmp_path) not in page.partition('id="provenance"')[0]


def test_a_model_object_from_a_folder_is_called_by_the_folder(tmp_path):
    from transformers import AutoModelForCausalLM

    ZOO["gpt2"].build().save_pretrained(tmp_path / "tiny")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    assert interp.load_model(loaded).cfg.model_name == "tiny"


def test_the_embedded_models_and_their_untrained_copies_speak_the_demo_language():
    model = interp.load_model("demo")
    assert model.cfg.model_name == "demo"
    assert is_embedded(model)
    assert is_embedded(interp.random_copy(model))
