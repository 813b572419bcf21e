"""Generation: texts, how their tokens are drawn, and tables equal to those of one clean pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import _boot
from scipy import stats
from zoo import ZOO, boot

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.next_token import NextToken
from analyses.path_length import PathLength
from analyses.rotation import Rotation
from interp.errors import BadInput, UnknownName, Unsupported
from interp.models.writing import Sampling
from interp.prompts.tokens import spelled
from interp.runs.generate import continued, generate

pytestmark = pytest.mark.usefixtures("clean")
ALL = (Rotation, PathLength, LogitLens, NextToken, Attention)
TARGETED = ("log_prob", "rank", "logit")
PROMPTS = ("Mary was tired, so John", "The river", "Leo met")


@pytest.fixture(scope="module")
def demo():
    return interp.load_model("demo-llama")


def written(model, prompts=PROMPTS, analyses="norm", **options):
    return generate(model, list(prompts), analyses, progress=False, **options)


def new_ids(results) -> list[list[int]]:
    table = results.tokens[results.tokens["generated"]]
    return [rows["token_id"].tolist() for _, rows in table.groupby("prompt")]


# ---- the texts ---------------------------------------------------------------------------------


def test_greedy_text_is_the_argmax_of_one_pass_after_another(demo):
    results = written(demo, max_new_tokens=5)
    for prompt, new in zip(PROMPTS, new_ids(results), strict=True):
        ids = demo.to_tokens(prompt)
        for _ in new:
            ids = torch.cat([ids, demo(ids)[:, -1:].argmax(-1)], dim=1)
        assert ids[0, -len(new) :].tolist() == new


def test_tables_tell_what_was_given_and_what_was_written(demo):
    results = written(
        demo, analyses=["rotation"], max_new_tokens=4, stop=[], labels={"kind": [*"aba"]}
    )
    rows = results["rotation"].frame.query("layer == 0")
    for number, text in rows.groupby("prompt"):
        assert text["given"].unique().tolist() == [number]
        assert text["generation_step"].tolist()[-5:] == [0, 1, 2, 3, 4]
        assert text["generated"].tolist() == (text["generation_step"] > 0).tolist()
        assert text["kind"].unique().tolist() == ["aba"[number]]
    texts = results.texts
    assert texts["prompt"].tolist() == ["<|endoftext|>" + prompt for prompt in PROMPTS]
    assert texts["new_tokens"].tolist() == [4, 4, 4]
    joined = rows[rows["generated"]].groupby("prompt")["token"].apply("".join)
    assert joined.tolist() == texts["text"].tolist()


def test_a_prompt_in_a_ragged_batch_goes_on_as_alone(demo):
    together = new_ids(written(demo, max_new_tokens=6, do_sample=False))
    alone = [new_ids(written(demo, [prompt], max_new_tokens=6))[0] for prompt in PROMPTS]
    assert together == alone


def test_a_stop_token_ends_a_text_and_belongs_to_it(demo):
    free = new_ids(written(demo, max_new_tokens=8, stop=[]))
    stop = free[0][2]
    ended = written(demo, max_new_tokens=8, stop=[stop])
    for whole, cut in zip(free, new_ids(ended), strict=True):
        end = whole.index(stop) + 1 if stop in whole else len(whole)
        assert cut == whole[:end]
    texts = ended.texts
    assert texts["stopped"].tolist() == [stop in whole for whole in free]
    assert texts["stopped"].sum() > 0


@pytest.mark.parametrize("pieces", [[" ", "h", "e", "r"], [" her"], ["r", " was", " h", "er", "."]])
def test_words_are_known_whatever_ids_they_were_written_with(demo, pieces):
    """A model may spell a word in other pieces than its tokenizer does."""
    asked = interp.read_prompts(["Leo met"], demo.tokenizer)
    vocabulary = {demo.tokenizer.decode([i]): i for i in range(len(demo.tokenizer))}
    new = np.array([vocabulary[piece] for piece in pieces if piece in vocabulary])
    texts = continued(demo, interp.inspect(demo), asked, [new], 1)
    old = len(asked.tokens[0])
    assert texts.texts[0] == "Leo met" + demo.tokenizer.decode(new)
    for ids, (start, stop) in zip(new.tolist(), texts.spans[0][old:].tolist(), strict=True):
        assert texts.texts[0][start:stop].strip() == demo.tokenizer.decode([ids]).strip()
    if " ".join(texts.texts[0].split()).endswith("her"):
        labelled = interp.prompts.target_word("her")(texts)
        assert labelled.labels["role"][0][-1] == "target"


def test_a_character_in_pieces_is_that_of_all_of_them(demo):
    asked = interp.read_prompts(["Leo met"], demo.tokenizer)
    new = np.asarray(demo.tokenizer("Ω é", add_special_tokens=False)["input_ids"])
    text, spans = spelled(asked.tokens[0], new, demo.tokenizer)
    assert text == "Ω é"
    assert spans.min() == 0
    assert spans.max() == 3
    assert (spans[:, 1] > spans[:, 0]).all()


def test_texts_and_settings_are_saved(demo, tmp_path):
    results = written(demo, max_new_tokens=3, do_sample=True, top_k=5, seed=3)
    results.save(tmp_path / "out")
    again = interp.load(tmp_path / "out")
    assert again.texts.equals(results.texts)
    told = again.provenance["generation"]
    assert {k: told[k] for k in ("max_new_tokens", "do_sample", "top_k", "seed", "cache")} == {
        "max_new_tokens": 3, "do_sample": True, "top_k": 5, "seed": 3, "cache": True,
    }  # fmt: skip


def test_options_of_a_run_are_passed_on(demo):
    results = written(
        demo, ["Mary met John. She likes"], max_new_tokens=3, control="random-init", target="She"
    )
    assert results.control is not None
    assert "target" in set(results.tokens["role"].dropna())
    assert results.control.tokens["token_id"].tolist() == results.tokens["token_id"].tolist()


# ---- how tokens are drawn ----------------------------------------------------------------------


def test_first_tokens_are_drawn_from_the_softmax(demo):
    n, temperature = 3_000, 1.3
    results = written(
        demo, ["The"], max_new_tokens=1, do_sample=True, samples=n, temperature=temperature,
        max_tokens=10**6,
    )  # fmt: skip
    drawn = np.bincount(np.concatenate(new_ids(results)), minlength=demo.cfg.d_vocab)
    logits = demo(demo.to_tokens("The"))[0, -1].double()
    expected = n * (logits / temperature).softmax(-1).detach().numpy()
    common = expected >= 5
    seen = np.append(drawn[common], drawn[~common].sum())
    right = np.append(expected[common], expected[~common].sum())
    assert stats.chisquare(seen, right).pvalue > 0.001
    # The same counts refute another temperature, so the test can fail.
    other = n * logits.softmax(-1).detach().numpy()
    wrong = np.append(other[common], other[~common].sum())
    assert stats.chisquare(seen, wrong).pvalue < 1e-6


def test_top_k_and_top_p_narrow_the_choice(demo):
    probs = demo(demo.to_tokens("The"))[0, -1].softmax(-1)
    order = probs.argsort(descending=True)
    options = {"max_new_tokens": 1, "do_sample": True, "samples": 400, "max_tokens": 10**6}
    by_k = {row[0] for row in new_ids(written(demo, ["The"], top_k=3, **options))}
    assert by_k == set(order[:3].tolist())
    nucleus = int((probs[order].cumsum(0) < 0.5).sum()) + 1
    by_p = {row[0] for row in new_ids(written(demo, ["The"], top_p=0.5, **options))}
    assert by_p <= set(order[:nucleus].tolist())
    assert len(by_p) > 1


def test_draws_depend_on_seed_and_text_and_not_on_the_batch(demo):
    options = {"max_new_tokens": 6, "do_sample": True, "samples": 3, "stop": []}
    first = new_ids(written(demo, seed=1, **options))
    assert new_ids(written(demo, seed=1, max_tokens=1, **options)) == first
    assert new_ids(written(demo, seed=2, **options)) != first
    assert len({tuple(row) for row in first[:3]}) > 1


# ---- one clean pass ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", "demo-llama", "gpt2", "llama", "gemma2", "mamba"])
def test_tables_equal_those_of_the_passes_that_wrote_the_text(name):
    """Observed step by step, with the cache, while the bridge itself generates."""
    torch.manual_seed(0)
    model = interp.load_model(name) if name.startswith("demo") else boot(ZOO[name])
    kinds = ALL if name != "mamba" else (Rotation,)
    prompt = torch.randint(5, 100, (1, 6), generator=torch.Generator().manual_seed(3))
    results = generate(model, prompt, kinds, max_new_tokens=5, stop=[], progress=False)
    with interp.attach(model, *kinds) as probes:
        out = model.generate(
            prompt, max_new_tokens=5, do_sample=False, stop_at_eos=False, verbose=False
        )
    assert new_ids(results) == [out[0, 6:].tolist()]
    for kind in kinds:
        name = kind.name()
        seen = probes[name].frame
        keys = [k for k in ("position", "layer", "head") if k in seen]
        both = results[name].frame.merge(seen, on=keys, suffixes=("", "_step"), how="left")
        observed = both["position"] < 10  # the last token was chosen, and went into no pass
        for value in probes[name].values:
            if value == "call":
                continue
            a, b = both[value].astype(float), both[f"{value}_step"].astype(float)
            known = observed & (b.notna() if value in TARGETED else True)
            assert known.any()
            assert np.allclose(a[known], b[known], atol=5e-3, rtol=1e-3, equal_nan=True), value


def test_a_cache_that_is_not_continued_rightly_is_not_used():
    forgetful = _boot("gpt2")

    def drop(_module, args, kwargs):
        gone = lambda value: None if hasattr(value, "get_seq_length") else value  # noqa: E731
        return tuple(map(gone, args)), {k: gone(v) for k, v in kwargs.items()}

    whole = torch.randint(5, 100, (1, 6), generator=torch.Generator().manual_seed(3))
    for _ in range(4):
        whole = torch.cat([whole, forgetful(whole)[:, -1:].argmax(-1)], dim=1)
    for block in forgetful.blocks:
        block.register_forward_pre_hook(drop, with_kwargs=True)
    results = generate(forgetful, whole[:, :6], "norm", max_new_tokens=4, stop=[], progress=False)
    assert new_ids(results) == [whole[0, 6:].tolist()]
    assert not results.provenance["generation"]["cache"]
    assert any("without a KV cache" in note for note in results["norm"].notes)


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; allowed is 1 or more"),
        ({"temperature": 0.0, "do_sample": True}, r"temperature is 0.0; .* is do_sample=False"),
        ({"temperature": -1.0, "do_sample": True}, "temperature is -1.0; allowed"),
        ({"temperature": float("nan"), "do_sample": True}, "temperature is nan"),
        ({"temperature": 0.7}, "temperature: only with do_sample=True"),
        ({"top_k": 5, "top_p": 0.5}, "top_k, top_p: only with do_sample=True"),
        ({"top_k": 0, "do_sample": True}, "top_k is 0; allowed is 1 or more"),
        ({"top_p": 1.5, "do_sample": True}, "top_p is 1.5; allowed is above 0 and up to 1"),
        ({"samples": 0}, "samples is 0; allowed is 1 or more"),
        ({"samples": 2}, "samples is 2, and without do_sample=True all continuations"),
        ({"stop": ["no such token"]}, "stop token 'no such token'"),
        ({"max_new_tokens": 10_000}, r"prompt 0 has \d+ tokens, and 10000 more do not"),
        ({"labels": {"given": [1, 2, 3]}}, "'given' is a column that a generation writes"),
    ],
)  # fmt: skip
def test_settings_that_are_not_allowed(demo, options, message):
    with pytest.raises(BadInput, match=message):
        written(demo, **options)


def test_an_option_that_is_none(demo):
    with pytest.raises(UnknownName, match="unknown option of generate 'num_return_sequences'"):
        written(demo, num_return_sequences=3)


def test_a_prompt_that_fills_the_context(demo):
    full = torch.full((1, interp.inspect(demo).n_ctx), 20)
    with pytest.raises(BadInput, match="context of .*: shorten the prompt"):
        generate(demo, full, "norm", max_new_tokens=1, progress=False)


def test_models_that_continue_nothing():
    with pytest.raises(Unsupported, match="cannot continue a prompt: it reads in both directions"):
        generate(_boot("bert"), torch.full((1, 4), 20), "norm", progress=False)
    with pytest.raises(Unsupported, match="cannot continue a prompt: it has an encoder and a dec"):
        generate(boot(ZOO["t5"]), torch.full((1, 4), 20), "norm", progress=False)


def test_results_of_a_run_are_no_generation(demo):
    with pytest.raises(BadInput, match=r"of no generation; interp.generate makes them"):
        _ = interp.run(demo, ["a b"], "norm", progress=False).texts


def test_settings_are_json_values():
    assert Sampling(seed=4).settings()["seed"] == 4
