"""Generation over the zoo: tables of its steps equal one clean pass, or it says so by name."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest
import torch
from zoo import ZOO, boot, random_tokens

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.next_token import NextToken
from analyses.norm import Norm
from analyses.path_length import PathLength
from analyses.rotation import Rotation
from analyses.settling import Settling
from interp.errors import InterpError, Unsupported
from interp.runs.generate import NO_CACHE, generate

FULL = os.environ.get("INTERP_FULL") == "1"
FEW = ("gpt2", "llama", "gemma2", "bloom", "mixtral", "mamba", "bert", "t5")
NAMES = [name for name in ZOO if FULL or name in FEW]
KINDS = (Rotation, PathLength, partial(LogitLens, examples=0), NextToken, Settling, Attention, Norm)
TARGETED = ("log_prob", "rank", "logit")  # of the next token, which a step does not know yet
LENGTH, NEW = 6, 5

EQUAL = "equal"
UNCACHED = "written without a cache"
REFUSED = "refused"


def verdict(name: str) -> tuple[str, str]:
    """What came of a generation by one model, and why; raises where anything is wrong."""
    model = boot(ZOO[name])
    prompt = random_tokens(2, LENGTH, seed=3)
    try:
        anatomy = interp.inspect(model)
        kinds = [kind() for kind in KINDS if _measured(anatomy, kind())] or [Norm()]
        results = generate(model, prompt, kinds, max_new_tokens=NEW, stop=[], progress=False)
    except Unsupported as refused:
        return REFUSED, str(refused)
    new = new_ids(results)
    _ragged(model, prompt, new)
    cached = results.provenance["generation"]["cache"]
    if not cached:
        said = [n for r in results.values() for n in r.notes if n.startswith(NO_CACHE)]
        assert len(said) == len(kinds)
        assert new == _by_whole_passes(model, prompt)
    probes, written = _observed(model, prompt, kinds, cached)
    assert new == written
    for kind in kinds:
        _equal(results[kind.name()].frame, probes[kind.name()])
    return (EQUAL, "") if cached else (UNCACHED, anatomy.continuation.fact())


def _observed(model, prompt, kinds, cached):
    """Analyses attached while the model itself generates, and the tokens that it wrote."""
    if not cached:
        with interp.attach(model, *kinds) as probes:
            return probes, _by_whole_passes(model, prompt)
    # The bridge's own loop imports a cache for this architecture that transformers lacks.
    own = model.cfg.architecture != "OlmoHybridForCausalLM"
    write = partial(model.generate, verbose=False) if own else model.hf_generate
    with interp.attach(model, *kinds) as probes:
        out = write(prompt, max_new_tokens=NEW, do_sample=False, stop_at_eos=False)
    return probes, out[:, LENGTH:].tolist()


def _measured(anatomy, kind) -> bool:
    try:
        anatomy.wire([kind])
    except InterpError:
        return False
    return True


def new_ids(results) -> list[list[int]]:
    table = results.tokens[results.tokens["generated"]]
    return [rows["token_id"].tolist() for _, rows in table.groupby("prompt")]


def _by_whole_passes(model, prompt) -> list[list[int]]:
    with torch.no_grad():
        whole = prompt
        for _ in range(NEW):
            whole = torch.cat([whole, model(whole)[:, -1:].argmax(-1)], dim=1)
    return whole[:, LENGTH:].tolist()


def _ragged(model, prompt, new) -> None:
    """A short prompt in a batch with a long one goes on as it does alone."""
    short, write = prompt[1, :4].tolist(), partial(generate, model, analyses=[Norm()])
    options = {"max_new_tokens": NEW, "stop": [], "progress": False}
    if not _measured(interp.inspect(model), Norm()):
        return
    together = new_ids(write([prompt[0].tolist(), short], **options))
    assert together == [new[0], *new_ids(write([short], **options))]


def _equal(whole, steps) -> None:
    """Every number of the steps is that of the whole pass, but those of the token to come."""
    seen = steps.frame
    # Without a cache every step is a pass over the whole text so far: the last has all of it.
    seen = seen[seen["call"] == seen["call"].max()] if seen["prompt"].nunique() > 2 else seen
    seen = seen.assign(prompt=seen["prompt"].rank(method="dense").astype(int) - 1)
    keys = [k for k in ("prompt", "position", "layer", "head") if k in seen]
    both = whole.merge(seen, on=keys, suffixes=("", "_step"), how="left")
    # The last token was chosen, and went into no pass.
    both = both[both["position"] < LENGTH + NEW - 1]
    assert len(both) == len(seen)
    for value in steps.values:
        if value == "call":
            continue
        a, b = both[value].astype(float), both[f"{value}_step"].astype(float)
        known = b.notna() if value in TARGETED else np.ones(len(both), bool)
        assert known.any(), value
        close = np.isclose(a[known], b[known], atol=5e-3, rtol=1e-3, equal_nan=True)
        assert close.all(), f"{value} differs by {np.nanmax(np.abs(a - b)):.3g}"


@pytest.mark.parametrize("name", NAMES)
def test_steps_equal_one_clean_pass_or_it_is_said(name):
    found, why = verdict(name)
    if found == REFUSED:
        assert "cannot continue a prompt: it " in why or "cannot read the residual stream" in why
    if name in FEW:
        assert found == (REFUSED if name in ("bert", "t5") else EQUAL)


@pytest.mark.parametrize("name", [n for n in NAMES if ZOO[n].kind == "encoder-decoder"])
def test_an_encoder_and_a_decoder_are_watched_while_they_generate(name):
    """Every step is a pass over the decoder's text so far; the last one equals a clean pass."""
    model = boot(ZOO[name])
    prompt = random_tokens(2, LENGTH, seed=3)
    options = {"max_new_tokens": NEW, "do_sample": False, "stop_at_eos": False, "verbose": False}
    alone = model.generate(prompt, **options)
    if name == "led":  # it fills the prompt up to its window, with tokens of its own
        with pytest.warns(UserWarning, match="adds tokens of its own"), interp.attach(model, Norm):
            assert torch.equal(model.generate(prompt, **options), alone)
        return
    with interp.attach(model, Norm) as probes:
        out = model.generate(prompt, **options)
    assert torch.equal(out, alone)
    with interp.attach(model, Norm) as clean:
        model(prompt, decoder_input=out[:, :-1])
    last = probes["norm"].frame.query("call == call.max()")
    keys = ["stack", "layer", "row", "position"]
    one, two = (
        f.assign(row=f["prompt"].rank(method="dense")).sort_values(keys)
        for f in (last, clean["norm"].frame)
    )
    assert one["token_id"].tolist() == two["token_id"].tolist()
    assert np.allclose(one["norm"], two["norm"], atol=1e-4, rtol=1e-4)


def test_a_cache_that_is_not_continued_rightly_is_refused_by_name_and_not_used():
    """A model whose blocks lose the cache: `attach` refuses the pass, `generate` does without."""
    model = boot(ZOO["llama"])

    def drop(_module, args, kwargs):
        gone = lambda value: None if hasattr(value, "get_seq_length") else value  # noqa: E731
        return tuple(map(gone, args)), {k: gone(v) for k, v in kwargs.items()}

    for block in model.blocks:
        block.register_forward_pre_hook(drop, with_kwargs=True)
    prompt = random_tokens(2, LENGTH, seed=3)
    results = generate(model, prompt, Norm, max_new_tokens=NEW, stop=[], progress=False)
    assert new_ids(results) == _by_whole_passes(model, prompt)
    assert any(note.startswith(NO_CACHE) for note in results["norm"].notes)
    refused = r"continues a KV cache does not give what the whole pass gives on .*use_past_kv_cache"
    with pytest.raises(Unsupported, match=refused), interp.attach(model, Norm):
        model.generate(prompt, max_new_tokens=NEW, do_sample=False, verbose=False)
    with interp.attach(model, Norm) as probes:
        model.generate(
            prompt, max_new_tokens=NEW, do_sample=False, stop_at_eos=False, verbose=False,
            use_past_kv_cache=False,
        )  # fmt: skip
    last = probes["norm"].frame.query("call == call.max()")
    assert sorted(last["token_id"]) == sorted(
        results["norm"].frame.query(f"position < {LENGTH + NEW - 1}")["token_id"]
    )
