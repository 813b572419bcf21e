"""An encoder, a tagger, word vectors and chats: real ones, against their own libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from real_models import SENTENCES, fetched

import interp
from interp import experiments

pytestmark = pytest.mark.real


def close(found, wanted, rtol=1e-3, atol=1e-3, **options):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, **options)


# --- an encoder -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder():
    """MiniLM as the library loads it, and by plain transformers in float64."""
    from transformers import AutoModel, AutoTokenizer

    folder = fetched("minilm")
    plain = AutoModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    return interp.load_model("minilm"), plain.eval(), AutoTokenizer.from_pretrained(folder)


def test_an_encoder_has_the_states_and_patterns_of_plain_transformers(encoder):
    model, plain, tokenizer = encoder
    results = interp.run(
        model, list(SENTENCES[:3]), ["norm", "rotation", "attention"], progress=False
    )
    tokens = results.tokens
    for i, text in enumerate(SENTENCES[:3]):
        encoding = tokenizer(text, return_tensors="pt")
        assert (
            tokens[tokens["prompt"] == i]["token_id"].tolist() == encoding["input_ids"][0].tolist()
        )
        with torch.no_grad():
            out = plain(**encoding, output_hidden_states=True, output_attentions=True)
        states = np.stack([h[0].numpy() for h in out.hidden_states])
        unit = states / np.linalg.norm(states, axis=2, keepdims=True)
        turned = np.degrees(np.arccos((unit[:-1] * unit[1:]).sum(2).clip(-1, 1)))
        for layer in range(len(states) - 1):
            for name, value, wanted in (
                ("norm", "norm", np.linalg.norm(states[layer + 1], axis=1)),
                ("rotation", "angle", turned[layer]),
            ):
                rows = results[name].frame.query("prompt == @i and layer == @layer")
                close(rows.sort_values("position")[value], wanted, atol=2e-2)
            rows = results["attention"].frame.query(
                "prompt == @i and layer == @layer and head == 3"
            )
            rows = rows.sort_values("position")
            pattern = out.attentions[layer][0, 3].numpy()
            close(rows["entropy"], -(pattern * np.log(pattern)).sum(1))
            gap = np.arange(len(pattern))[:, None] - np.arange(len(pattern))
            close(rows["distance"], (pattern * gap).sum(1), atol=1e-2)


# --- a tagger ---------------------------------------------------------------------------------


def test_tags_are_those_of_the_pipeline_itself(smollm2):
    spacy = pytest.importorskip("spacy")
    nlp = spacy.load(fetched("spacy-en"))
    prompts = interp.read_prompts(list(SENTENCES), smollm2.tokenizer)
    marked = prompts.label(interp.spacy_tags("spacy-en", ["pos", "lemma"]))
    for i, text in enumerate(SENTENCES):
        words = [(w.idx, w.idx + len(w), w.pos_, w.lemma_) for w in nlp(text) if not w.is_space]
        for k, (start, end) in enumerate(prompts.spans[i].tolist()):
            while start < end and text[start].isspace():
                start += 1
            over = [w for w in words if w[0] < end and w[1] > start] if start < end else []
            wanted = over[0][2:] if over else (None, None)
            assert (marked.labels["pos"][i][k], marked.labels["lemma"][i][k]) == wanted
    assert {"NOUN", "VERB", "ADJ", "PROPN"} <= set(np.concatenate(marked.labels["pos"]))


# --- word vectors -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glove():
    fetched("glove")
    return experiments.read_word_vectors("glove", limit=40_000).explore()


@pytest.mark.parametrize(
    ("a", "b", "c", "answer", "rank"),
    [
        ("king", "man", "woman", "queen", 1),
        ("paris", "france", "italy", "rome", 1),
        ("bigger", "big", "small", "smaller", 2),
        ("brother", "he", "she", "sister", 5),
    ],
)
def test_analogies_of_word_vectors(glove, a, b, c, answer, rank):
    """Ranks by the formula written out; the first two are the examples of the literature."""
    found = experiments.analogy(glove, a, b, c).frame
    row = found[found["word"] == answer].iloc[0]
    assert row["rank_without_query"] == rank
    x = np.asarray(glove.vectors, np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    words = list(glove.words)
    target = unit[words.index(a)] - unit[words.index(b)] + unit[words.index(c)]
    cosines = unit @ target / np.linalg.norm(target)
    close(row["cosine"], cosines[words.index(answer)])
    order = [words[i] for i in np.argsort(-cosines)[:10] if words[i] not in (a, b, c)]
    assert order.index(answer) + 1 == rank


def test_nearest_words(glove):
    found = experiments.near(glove, "france", k=8).frame
    words, x = list(glove.words), np.asarray(glove.vectors, np.float64)
    own = words.index("france")
    cosines = x @ x[own] / np.linalg.norm(x, axis=1) / np.linalg.norm(x[own])
    order = [i for i in np.argsort(-cosines) if i != own][:8]
    assert found["word"].tolist() == [words[i] for i in order]
    close(found["cosine"], cosines[order])
    assert {"belgium", "spain"} & set(found["word"])


def test_a_map_from_word_vectors_to_a_model_beats_its_null(glove, smollm2):
    """Procrustes on words of both spaces: the held-out residual, written out, and the null."""
    words = [w for w in glove.words[200:4000] if w.isalpha()]

    def ids_of(word):
        return smollm2.tokenizer(" " + word, add_special_tokens=False)["input_ids"]

    words = [w for w in words if len(ids_of(w)) == 1][:500]
    found = experiments.compare_spaces(
        (glove.vectors, list(glove.words)),
        (smollm2, "W_E"),
        words=words,
        method=["procrustes", "cka_biased"],
        resamples=30,
    )
    frame = found.frame.set_index(["method", "score"])
    assert (frame.loc["procrustes"]["p"].dropna() < 0.05).all()
    index = {w: i for i, w in enumerate(glove.words)}
    x = np.stack([glove.vectors[index[w]] for w in found.words]).astype(np.float64)
    ids = [ids_of(w)[0] for w in found.words]
    y = smollm2.W_E.detach().double().numpy()[ids]
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    cka = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    close(frame.loc["cka_biased"]["value"].iloc[0], cka, 2e-2)


# --- chats ------------------------------------------------------------------------------------

TALK = [
    {"role": "user", "content": " What is the capital of France?\n"},
    {"role": "assistant", "content": "It is Paris. <|im_end|> Anything else?"},
    {"role": "user", "content": "What is the capital of France?"},
]


def test_the_default_system_prompt_is_the_templates(smollm2, reference):
    """By hand, from the text that the plain tokenizer renders."""
    prompts = interp.read_prompts([TALK], smollm2.tokenizer)
    text = reference.tokenizer.apply_chat_template(TALK, tokenize=False)
    encoding = reference.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert prompts.tokens[0].tolist() == encoding["input_ids"]
    assert "helpful AI assistant named SmolLM" in text
    at, owners = 0, ["template"] * len(text)
    for message in TALK:
        at = text.index(message["content"], at)
        for i in range(at, at + len(message["content"])):
            owners[i] = message["role"]
        at += len(message["content"])
    for k, (start, end) in enumerate(encoding["offset_mapping"]):
        assert {prompts.labels["role"][0][k]} == set(owners[start:end])
    strings = prompts.strings[0]
    special = prompts.special[0]
    assert all(special[k] for k, s in enumerate(strings) if s == "<|im_end|>")
    assert not special[strings.index(" Paris")]
    assert "contents hold 1 control tokens" in prompts.notes[0]


def test_a_run_over_chats_measures_the_plain_states(smollm2, reference):
    run = interp.run(smollm2, [TALK], ["norm"], progress=False)["norm"].frame
    ids = reference.tokenizer.apply_chat_template(TALK, tokenize=True)["input_ids"]
    states = reference(ids).stream
    rows = run[run["layer"] == 17].sort_values("position")
    close(rows["norm"], np.linalg.norm(states[18], axis=1))
    assert set(rows["role"][~rows["special"].astype(bool)]) == {"user", "assistant"}
