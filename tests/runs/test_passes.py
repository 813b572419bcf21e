"""Passes that go on from a cache, keep few logits or hide their tokens: right, or left out by name.

The measure of right is one clean pass over the finished text, without cache and without padding.
"""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import _boot, hooks_on
from zoo import ZOO, boot

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.next_token import NextToken
from analyses.path_length import PathLength
from analyses.rotation import Rotation
from interp.errors import ObserveError, Unsupported
from interp.models.caches import cache_in

pytestmark = pytest.mark.usefixtures("clean")
ALL = (Rotation, PathLength, LogitLens, NextToken, Attention)
PLAIN = (Rotation, PathLength, LogitLens, NextToken)
TARGETED = ("log_prob", "rank", "logit")


def tokens_of(n: int = 1, length: int = 6, seed: int = 0, vocab: int = 100) -> torch.Tensor:
    return torch.randint(5, vocab, (n, length), generator=torch.Generator().manual_seed(seed))


def texts(probes) -> dict[int, pd.DataFrame]:
    """Every prompt as the whole text that it stands for: those it branches off from come first."""
    table = probes.results["rotation"].tokens
    origins = {}
    if "branch_of" in table:
        branched = table.dropna(subset="branch_of").drop_duplicates("prompt")
        origins = {r.prompt: (r.branch_of, r.branch_at) for r in branched.itertuples()}

    def of(prompt: int, until: float = np.inf) -> pd.DataFrame:
        own = table[(table["prompt"] == prompt) & (table["position"] < until)]
        if prompt not in origins:
            return own
        parent, at = origins[prompt]
        return pd.concat([of(parent, min(at, until)), own])

    return {p: of(p).sort_values("position") for p in table["prompt"].unique()}


def check_against_clean_passes(probes, model, analyses, atol: float = 2e-4) -> None:
    """Every value that was seen is that of one pass over the text it belongs to."""
    for rows in texts(probes).values():
        assert rows["position"].tolist() == list(range(len(rows)))
        ids = torch.tensor(rows["token_id"].tolist())[None]
        with interp.attach(model, *analyses) as clean:
            model(ids)
        where = rows[["prompt", "position"]].rename(columns={"prompt": "seen"})
        # The next token of the last one in a pass comes with the next pass; where a text branches
        # off, the last token before has the next one of its own text.
        where["stays"] = where["seen"].eq(where["seen"].shift(-1))
        for name in probes:
            check_table(probes[name], clean[name].frame, where, atol)


def check_table(result, clean, where, atol) -> None:
    keys = [k for k in ("position", "layer", "head") if k in result.frame]
    seen = where.merge(
        result.frame.rename(columns={"prompt": "seen"}), on=["seen", "position"], how="left"
    )
    both = seen.merge(clean, on=keys, suffixes=("", "_clean"), validate="one_to_one")
    assert len(both) == len(clean)
    assert (both["token_id"] == both["token_id_clean"]).all()
    for value in result.values:
        a, b = both[value].astype(float), both[f"{value}_clean"].astype(float)
        known = a.notna() & both["stays"] if value in TARGETED else np.ones(len(a), dtype=bool)
        assert np.allclose(a[known], b[known], atol=atol, rtol=1e-3, equal_nan=True), value


def continues(model) -> bool:
    """Whether this bridge goes on from a cache rightly with the installed transformers."""
    return interp.inspect(model).continuation.broken(1) is None


@pytest.fixture(scope="module")
def models():
    loaded = {}

    def get(name: str):
        if name not in loaded:
            torch.manual_seed(0)
            loaded[name] = interp.load_model(name) if name.startswith("demo") else boot(ZOO[name])
        if not continues(loaded[name]):
            pytest.skip("this transformers release and this bridge lose the cache")
        return loaded[name]

    return get


# ---- generation step by step is one clean pass over its output ---------------------------------

NAMES = ["demo", "demo-llama", "gpt2", "llama", "mistral", "gemma2", "pythia"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sampled", [False, True])
def test_generation_is_one_clean_pass_over_its_output(name, sampled, models):
    model = models(name)
    prompt = tokens_of(1, 6, seed=3)
    torch.manual_seed(1)
    with interp.attach(model, *ALL) as probes:
        out = model.generate(
            prompt, max_new_tokens=5, do_sample=sampled, stop_at_eos=False, verbose=False
        )
    (rows,) = texts(probes).values()
    assert rows["token_id"].tolist() == out[0, :-1].tolist()
    check_against_clean_passes(probes, model, ALL)
    assert probes.results.provenance["attached"]["not_observed"] == {}


@pytest.mark.parametrize("name", ["demo", "demo-llama", "gpt2", "llama"])
def test_a_ragged_batch_generates_as_each_prompt_alone(name, models):
    model = models(name)
    prompts = tokens_of(3, 7, seed=4)
    mask = torch.ones_like(prompts)
    mask[0, :3], mask[1, :1] = 0, 0
    with interp.attach(model, *ALL) as probes:
        model.original_model.generate(
            prompts, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
    assert [len(t) for t in texts(probes).values()] == [7, 9, 10]
    check_against_clean_passes(probes, model, ALL)


@pytest.mark.parametrize("name", ["demo", "demo-llama", "gpt2", "mistral"])
def test_beams_are_followed_when_their_rows_change_places(name, models):
    model = models(name)
    with interp.attach(model, *ALL) as probes:
        out = model.original_model.generate(
            tokens_of(2, 5, seed=5), max_new_tokens=7, num_beams=4, do_sample=False,
            eos_token_id=None, pad_token_id=0, num_return_sequences=4, length_penalty=0.0,
        )  # fmt: skip
    assert "branch_of" in probes["rotation"].frame
    assert "branch_of" not in probes["rotation"].values
    check_against_clean_passes(probes, model, ALL)
    seen = {tuple(t["token_id"]) for t in texts(probes).values()}
    for row in out.tolist():  # each of the winners is one of the texts, but for its last token
        assert any(t[: len(row) - 1] == tuple(row[:-1]) for t in seen)


def test_a_step_without_room_for_doubt_needs_no_branch(models):
    model = models("gpt2")
    with interp.attach(model, Rotation) as probes:
        model.original_model.generate(
            tokens_of(), max_new_tokens=3, do_sample=True, num_return_sequences=3,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    assert sorted(probes["rotation"].frame["prompt"].unique()) == [0, 1, 2]
    assert "branch_of" not in probes["rotation"].frame


@pytest.mark.parametrize("name", ["mamba", "jamba", "falcon-h1", "lfm2-moe"])
def test_states_that_are_no_keys_are_followed_too(name, models):
    model = models(name)
    with interp.attach(model, Rotation) as probes:
        model.generate(
            tokens_of(), max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False
        )
    check_against_clean_passes(probes, model, (Rotation,), atol=5e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral"])
def test_a_cache_with_room_for_later_tokens(name, models):
    """The pattern has keys for tokens that are yet to come, and the mask is of four dimensions."""
    model = models(name)
    with interp.attach(model, *ALL) as probes:
        model.original_model.generate(
            tokens_of(2, 6), max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0,
            cache_implementation="static",
        )  # fmt: skip
    check_against_clean_passes(probes, model, ALL)


def test_a_window_that_has_moved_on_leaves_zeros_behind():
    """With a sliding window the cache holds the last keys only; the others got no attention."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=113, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=4, max_position_embeddings=64,
    )  # fmt: skip
    model = interp.load_model(MistralForCausalLM(config).eval(), tokenizer=None)
    if not continues(model):
        pytest.skip("this transformers release and this bridge lose the cache")
    with interp.attach(model, Rotation, Attention) as probes:
        model.original_model.generate(
            tokens_of(1, 6), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    check_against_clean_passes(probes, model, (Rotation, Attention))


# ---- which prompt a pass goes on with -----------------------------------------------------------


@torch.no_grad()
def begun(model, *prompts: torch.Tensor) -> list:
    return [model.original_model(p, use_cache=True).past_key_values for p in prompts]


def test_the_cache_says_which_prompt_goes_on_not_its_shape(models):
    model = models("gpt2")
    a, b, later = tokens_of(seed=1), tokens_of(seed=2), tokens_of(1, 2, seed=3)
    with interp.attach(model, *ALL) as probes:
        first, second = begun(model, a, b)
        model.original_model(later, past_key_values=first)
        model.original_model(later[:, :1], past_key_values=second)
    found = {p: t["token_id"].tolist() for p, t in texts(probes).items()}
    assert found == {0: [*a[0].tolist(), *later[0].tolist()], 1: [*b[0].tolist(), int(later[0, 0])]}
    check_against_clean_passes(probes, model, ALL)


def test_copies_cuts_and_repeats_of_a_cache_are_branches(models):
    model = models("llama")
    prompt, x, y = tokens_of(seed=1), tokens_of(1, 2, seed=2), tokens_of(1, 3, seed=3)
    with interp.attach(model, *ALL) as probes:
        (cache,) = begun(model, prompt)
        other, twice = copy.deepcopy(cache), copy.deepcopy(cache)
        model.original_model(x, past_key_values=cache)
        model.original_model(y, past_key_values=other)
        cache.crop(-1)
        model.original_model(y[:, :1], past_key_values=cache)
        twice.batch_repeat_interleave(2)
        model.original_model(tokens_of(2, 1, seed=4), past_key_values=twice)
    table = probes["rotation"].frame.dropna(subset="branch_of").drop_duplicates("prompt")
    assert table[["prompt", "branch_of", "branch_at"]].to_numpy().tolist() == [
        [1, 0, 6],
        [2, 0, 7],
        [3, 0, 6],
        [4, 0, 6],
    ]
    check_against_clean_passes(probes, model, ALL)


def test_assisted_generation_is_followed_through_what_it_takes_back(models):
    model = models("llama")
    helper = copy.deepcopy(model.original_model)
    with torch.no_grad():
        for weight in helper.parameters():
            weight.add_(
                0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            )
    prompt = tokens_of(1, 6, seed=6)
    with interp.attach(model, *ALL) as probes:
        out = model.original_model.generate(
            prompt, assistant_model=helper, max_new_tokens=8, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
    check_against_clean_passes(probes, model, ALL)
    assert any(
        tuple(t["token_id"])[:13] == tuple(out[0, :13].tolist()) for t in texts(probes).values()
    )


def test_a_cache_whose_beginning_nobody_saw(models):
    model = models("gpt2")
    prompt, later = tokens_of(), tokens_of(1, 2, seed=1)
    (cache,) = begun(model, prompt)
    with (
        pytest.warns(UserWarning, match="beginning was not observed: the tokens before are unk"),
        interp.attach(model, Rotation, Attention) as probes,
    ):
        model.original_model(later, past_key_values=cache)
    frame = probes["attention"].frame
    assert sorted(frame["position"].unique()) == [6, 7]
    assert frame["duplicate"].isna().all()
    with interp.attach(model, Rotation, Attention) as clean:
        model(torch.cat([prompt, later], 1))
    expected = clean["attention"].frame.query("position >= 6")
    for value in ("entropy", "distance", "sink", "previous"):
        assert np.allclose(frame[value], expected[value], atol=1e-4)
    assert probes.results.provenance["attached"]["not_observed"] == {"unseen": 1}
    assert any("unseen" in note for note in probes["attention"].notes)


def test_a_cache_is_found_under_every_name_of_transformers():
    cache = object()
    for name in ("past_key_values", "cache", "cache_params"):
        assert cache_in({name: cache, "use_cache": True}) is cache
    assert cache_in({"past_key_values": None, "cache": False}) is None


# ---- a bridge that loses its cache --------------------------------------------------------------


@pytest.fixture
def forgetful():
    """A bridge whose blocks are never given the cache, as with a renamed argument."""
    model = _boot("gpt2")

    def drop(_module, args, kwargs):
        gone = lambda value: None if hasattr(value, "get_seq_length") else value  # noqa: E731
        return tuple(map(gone, args)), {k: gone(v) for k, v in kwargs.items()}

    for block in model.blocks:
        block.register_forward_pre_hook(drop, with_kwargs=True)
    return model


def test_inspect_measures_whether_a_cache_is_continued(gpt2, forgetful):
    lost = interp.inspect(forgetful)
    assert lost.continuation.broken(1) > 0.1
    assert "one new token: CHANGES the stream" in repr(lost)
    assert lost.to_dict()["continuation"]["one"] == lost.continuation.one
    if continues(gpt2):
        found = interp.inspect(gpt2).continuation
        assert max(found.one, found.several) < 1e-5
        assert "pass that continues a KV cache" in repr(interp.inspect(gpt2))
        assert "one new token: equals it" in found.fact()


def test_encoders_have_no_such_pass():
    found = interp.inspect(_boot("bert")).continuation
    assert found.one is None
    assert found.fact() == "not measured (both directions)"


def test_generation_with_a_lost_cache_is_refused_before_its_second_step(forgetful):
    options = {"max_new_tokens": 3, "do_sample": False, "stop_at_eos": False, "verbose": False}
    with interp.attach(forgetful, Rotation) as probes:
        with pytest.raises(
            Unsupported,
            match=r"(?s)continues a KV cache does not give what the whole pass gives.*"
            r"transformers \d.*TransformerLens \d.*use_past_kv_cache=False",
        ):
            forgetful.generate(tokens_of(), **options)
        out = forgetful.generate(tokens_of(), use_past_kv_cache=False, **options)
    frame = probes["rotation"].frame.query("layer == 0")
    assert frame.groupby("call")["position"].max().tolist() == [5, 5, 6, 7]
    whole = tokens_of()
    for _ in range(3):
        whole = torch.cat([whole, forgetful(whole)[:, -1:].argmax(-1)], 1)
    assert out.tolist() == whole.tolist()


def test_a_lost_cache_without_a_mask_is_refused_too(forgetful):
    with (
        pytest.raises(Unsupported, match="was given this cache and left it empty"),
        interp.attach(forgetful, Rotation),
    ):
        (cache,) = begun(forgetful, tokens_of())
        forgetful.original_model(tokens_of(1, 1), past_key_values=cache)


# ---- passes that keep few logits ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 2, 5])])
def test_logits_that_were_not_kept_are_read_out(name, keep, models):
    model = models(name)
    with interp.attach(model, LogitLens, NextToken) as probes:
        out = model.original_model(tokens_of(2), logits_to_keep=keep).logits
    assert out.shape[1] < 6
    with interp.attach(model, LogitLens, NextToken) as clean:
        model(tokens_of(2))
    for analysis in ("logit_lens", "next_token"):
        a, b = probes[analysis].frame, clean[analysis].frame
        for value in probes[analysis].values:
            assert np.allclose(a[value].astype(float), b[value].astype(float), atol=1e-4,
                               equal_nan=True), value  # fmt: skip


def test_logits_that_the_readout_does_not_give_are_left_out(gpt2):
    double = [("ln_final.hook_out", lambda v, hook: v * 2)]
    with (
        gpt2.hooks(fwd_hooks=double),
        pytest.warns(UserWarning, match=r"'next_token' does not observe this pass: it kept the "
                     r"logits of 1 of 6 tokens \(logits_to_keep\)"),
        interp.attach(gpt2, Rotation, NextToken) as probes,
    ):  # fmt: skip
        gpt2.original_model(tokens_of(), logits_to_keep=1)
    assert len(probes["rotation"].frame) == 6 * len(gpt2.blocks)
    with pytest.raises(interp.InterpError, match="logits_to_keep"):
        _ = probes["next_token"]


@pytest.mark.parametrize("options", [{}, {"output_hidden_states": True, "output_attentions": True}])
@pytest.mark.parametrize("labels", [False, True])
def test_logits_are_found_in_tuples_also_behind_a_loss(gpt2, options, labels):
    more = {"labels": tokens_of(2)} if labels else {}
    with interp.attach(gpt2, LogitLens, NextToken) as probes:
        gpt2.original_model(tokens_of(2), return_dict=False, **options, **more)
        gpt2(tokens_of(2))
    frame = probes["next_token"].frame
    half = len(frame) // 2
    assert np.allclose(frame["log_prob"][:half], frame["log_prob"][half:], equal_nan=True)


# ---- what an observer cannot follow, it leaves alone --------------------------------------------


def test_embeddings_are_tokens_that_nobody_knows(gpt2):
    inner = gpt2.original_model
    with interp.attach(gpt2, *ALL) as probes:
        inner(inputs_embeds=inner.get_input_embeddings()(tokens_of()))
        gpt2(tokens_of())
    rotation = probes["rotation"].frame.query("layer == 0")
    assert set(rotation.query("prompt == 0")["token"]) == {"⟨unknown⟩"}
    angles = rotation["angle"].to_numpy()
    assert np.allclose(angles[:6], angles[6:])
    assert probes["attention"].frame.query("prompt == 0")["duplicate"].isna().all()
    assert probes["next_token"].frame.query("prompt == 0")["log_prob"].isna().all()


def packed(inner):
    ids = torch.tensor([[0, 1, 2, 0, 1, 2]])
    inner(tokens_of(), position_ids=ids)


def long_mask(inner):
    inner(tokens_of(), attention_mask=torch.ones(1, 9, dtype=torch.long))


@pytest.mark.parametrize(
    ("call", "kind", "why"),
    [
        (packed, "positions", "position_ids do not count on by one inside a row"),
        (long_mask, "mask", "has 9 columns for 6 tokens after 0 in a cache"),
    ],
)
def test_a_pass_that_cannot_be_followed_is_left_out_with_one_warning(gpt2, call, kind, why):
    alone = gpt2.original_model(tokens_of()).logits
    with warnings.catch_warnings(record=True) as told, interp.attach(gpt2, *ALL) as probes:
        warnings.simplefilter("always")
        for _ in range(2):
            call(gpt2.original_model)
        assert torch.equal(gpt2.original_model(tokens_of()).logits, alone)
    said = [str(w.message) for w in told if "not observed" in str(w.message)]
    assert len(said) == 1
    assert why in said[0]
    assert probes.results.provenance["attached"]["not_observed"] == {kind: 2}
    assert len(probes["rotation"].frame) == 6 * len(gpt2.blocks)
    assert f"Not observed, or not wholly: 2 passes ({kind})." in probes["rotation"].notes


def test_a_square_mask_is_read_where_it_hides_padding_only(llama):
    tokens, n = tokens_of(2, 6), 6
    mask = torch.ones_like(tokens)
    mask[1, :2] = 0
    square = torch.ones(n, n).tril().bool() & mask[:, None, None].bool()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with interp.attach(llama, Rotation) as flat:
        llama.original_model(tokens, attention_mask=mask, position_ids=positions)
    with interp.attach(llama, Rotation) as probes:
        llama.original_model(tokens, attention_mask=square, position_ids=positions)
    assert len(probes["rotation"].frame) == 10 * len(llama.blocks)
    assert np.allclose(probes["rotation"].frame["angle"], flat["rotation"].frame["angle"],
                       atol=1e-3)  # fmt: skip
    holes = square.clone()
    holes[0, 0, 5, 4] = False
    with (
        pytest.warns(UserWarning, match="four dimensions hides more than padding"),
        interp.attach(llama, Rotation) as probes,
    ):
        llama.original_model(tokens, attention_mask=holes, position_ids=positions)


def test_a_decoder_that_goes_on_from_a_cache_is_left_out():
    model = _boot("t5")
    with (
        warnings.catch_warnings(record=True) as told,
        interp.attach(model, Rotation) as probes,
    ):
        warnings.simplefilter("always")
        out = model.original_model.generate(tokens_of(), max_new_tokens=4, do_sample=False)
        model(tokens_of())
    assert out.shape[1] >= 2
    assert any("this pass is not observed" in str(w.message) for w in told)
    assert set(probes["rotation"].frame["stack"]) == {"encoder", "decoder"}
    assert probes.results.provenance["attached"]["calls"] == 1


class Fails(interp.Analysis):
    """Breaks on purpose where a prompt is long."""

    sites = ("resid_post",)

    def observe(self, batch):
        if batch.layer == 1 and batch.mask.shape[1] > 6:
            raise ValueError("no such thing")
        return {"one": interp.PerToken(torch.ones(batch.mask.shape))}


def test_an_analysis_that_fails_is_left_out_of_that_pass_only(gpt2):
    with (
        warnings.catch_warnings(record=True) as told,
        interp.attach(gpt2, Fails, Rotation) as probes,
    ):
        warnings.simplefilter("always")
        gpt2(tokens_of(1, 6))
        for _ in range(2):
            out = gpt2(tokens_of(1, 8))
    assert out.shape[1] == 8
    said = [str(w.message) for w in told if "fails" in str(w.message)]
    assert len(said) == 1
    assert "analysis 'fails' failed at layer 1 on resid_post (1, 8, 24)" in said[0]
    frame = probes["fails"].frame
    assert frame["prompt"].unique().tolist() == [0]
    assert len(frame) == 6 * len(gpt2.blocks)
    assert probes["rotation"].frame["prompt"].nunique() == 3
    assert any("2 passes (fails: it failed)" in note for note in probes["fails"].notes)
    assert not any("fails" in note for note in probes["rotation"].notes)


class Misshapen(interp.Analysis):
    """Emits what cannot be rows of tokens."""

    sites = ("resid_post",)

    def observe(self, batch):
        return {"one": interp.PerToken(torch.ones(1))}


def test_what_cannot_be_reduced_ends_no_pass_either(gpt2):
    with (
        pytest.warns(UserWarning, match="'misshapen' failed at layer 0 .* emits 'one' with shape"),
        interp.attach(gpt2, Misshapen, Rotation) as probes,
    ):
        gpt2(tokens_of())
    assert len(probes["rotation"].frame) == 6 * len(gpt2.blocks)
    with pytest.raises((ObserveError, IndexError, ValueError)):
        _ = probes["misshapen"]
    assert hooks_on(gpt2) == []


# ---- cost ---------------------------------------------------------------------------------------


def test_reading_out_silences_only_what_it_calls(gpt2, monkeypatch):
    """A model has thousands of hook points; the final norm that the lens calls has a few."""
    from interp.models import hooks

    sizes = []
    original = hooks._points_under

    def counted(root):
        found = original(root)
        sizes.append(len(found))
        return found

    with interp.attach(gpt2, LogitLens):
        monkeypatch.setattr(hooks, "_points_under", counted)
        gpt2(tokens_of())
    assert sizes
    assert max(sizes) <= 6
