"""The embedded models do what they are there to show, on text they have not seen."""

import itertools
import json
import math

import pytest
import torch

from interp.demo import evaluate as measure
from interp.demo import model_path, train
from interp.demo.language import PRONOUN_CHOICES, REFERENT_CHOICES, choices, generate, her_documents
from interp.demo.tokenizer import CONTEXT, VOCABULARY, train_tokenizer

SIX_MEGABYTES = 6_000_000


@pytest.fixture(scope="module", params=["demo", "demo-llama"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def loaded(name):
    return measure.load(model_path(name))


def test_folder_is_small_and_holds_no_pickle(name):
    files = {path.name: path for path in model_path(name).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert not {path.suffix for path in files.values()} - {".json", ".safetensors", ".md"}
    assert sum(path.stat().st_size for path in files.values()) <= SIX_MEGABYTES


def test_shapes_differ_between_the_two_models():
    configs = [
        json.loads((path / "config.json").read_text())
        for path in map(model_path, ("demo", "demo-llama"))
    ]
    gpt2, llama = configs
    assert (gpt2["model_type"], gpt2["n_layer"], gpt2["n_embd"]) == ("gpt2", 6, 128)
    assert (llama["model_type"], llama["num_hidden_layers"], llama["hidden_size"]) == (
        "llama",
        8,
        96,
    )
    assert gpt2["tie_word_embeddings"]
    assert not llama["tie_word_embeddings"]


def test_pronouns_and_names_follow_from_the_context(loaded):
    kinds = [*PRONOUN_CHOICES, "called"]
    shares = {kind: measure.accuracy(*loaded, choices(200, 77, kind)) for kind in kinds}
    assert min(shares.values()) >= 0.95, shares


def test_referents_follow_from_the_context(loaded):
    shares = {kind: measure.accuracy(*loaded, choices(200, 77, kind)) for kind in REFERENT_CHOICES}
    assert sum(shares.values()) / len(shares) >= 0.95, shares
    assert min(shares.values()) >= 0.9, shares


@pytest.mark.parametrize("kind", ["fact", "sense", "category"])
def test_facts_senses_and_categories(loaded, kind):
    assert measure.accuracy(*loaded, choices(100, 77, kind)) >= 0.95


def test_heads_for_the_previous_token_and_for_induction(loaded):
    model, tokenizer = loaded
    for period in (20, 50):
        ids = measure.repeated_tokens(tokenizer, 16, period, seed=5)
        previous, induction = measure.head_scores(model, ids, period)
        assert previous.max() >= 0.5
        assert induction.max() >= 0.5


def test_random_tokens_are_predicted_once_they_repeat(loaded):
    model, tokenizer = loaded
    for period in (20, 50):
        ids = measure.repeated_tokens(tokenizer, 32, period, seed=5)
        first, second = measure.halves(model, ids, period)
        # Not only against the model's own first half, which it was never taught to predict.
        assert second < min(first, math.log(VOCABULARY)) / 3


def test_lens_loss_falls_at_every_block(loaded):
    losses = measure.lens_losses(*loaded, generate(150, 77, split="held_out"))
    assert all(after < before for before, after in itertools.pairwise(losses)), losses


def test_tokenizer_keeps_pronouns_whole_and_knows_offsets(loaded):
    _, tokenizer = loaded
    for word in (" her", " she", " him", " he", " his", " bank", " bat", " match"):
        assert len(tokenizer(word)["input_ids"]) == 1, word
    assert len(tokenizer(" Santiago")["input_ids"]) > 1
    text = "Mary smiled. Für 9 € she left!"
    found = tokenizer(text, return_offsets_mapping=True)
    assert tokenizer.decode(found["input_ids"]) == text
    assert found["offset_mapping"][-1][1] == len(text)
    documents = [document.text for document in her_documents() + generate(2000, 1)]
    assert max(map(len, tokenizer(documents)["input_ids"])) < CONTEXT


def test_a_bridge_boots_offline_and_gives_the_logits_of_the_plain_model(name):
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(model_path(name)))
    plain, _ = measure.load(model_path(name))
    assert not bridge.training
    tokens = bridge.to_tokens("Mary smiled. Then John thanked her.")
    assert tokens[0, 0] == bridge.tokenizer.bos_token_id
    with torch.no_grad():
        torch.testing.assert_close(bridge(tokens), plain(tokens).logits, rtol=0, atol=1e-4)


def test_the_same_seed_gives_the_same_weights(name, loaded):
    _, tokenizer = loaded

    def trained():
        torch.manual_seed(0)
        model = train.build(name, tokenizer.bos_token_id)
        trainer = train.Trainer(model, tokenizer, train.RECIPES[name], seed=0)
        trainer.learn_to_copy(2)
        trainer.learn_language(2)
        return model.state_dict()

    first, second = trained(), trained()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_heads_match_stays_as_it_starts_while_copying_is_learnt(loaded):
    _, tokenizer = loaded
    torch.manual_seed(0)
    model = train.build("demo", tokenizer.bos_token_id)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    trainer = train.Trainer(model, tokenizer, train.RECIPES["demo"], seed=0)
    trainer.learn_to_copy(2)
    after = dict(model.named_parameters())
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert all(weight.requires_grad for weight in after.values())


def test_the_stored_tokenizer_is_the_one_that_training_makes(loaded):
    _, tokenizer = loaded
    assert train_tokenizer(0).get_vocab() == tokenizer.get_vocab()


@pytest.mark.full
def test_the_command_writes_a_folder_that_loads(tmp_path):
    train.main(["--out", str(tmp_path), "--model", "demo-llama", "--steps", "2"])
    folder = tmp_path / "demo-llama"
    assert "seed 0" in (folder / "README.md").read_text()
    assert '"PreTrainedTokenizerFast"' in (folder / "tokenizer_config.json").read_text()
    measure.load(folder)


def test_the_model_of_the_process_is_trained_to_a_folder(tmp_path):
    from interp.demo import train_mess3

    with torch.random.fork_rng(devices=[]):
        folder = train_mess3.train(tmp_path, steps=2)
    model, tokenizer = measure.load(folder)
    assert tokenizer("A B C")["input_ids"] == [0, 1, 2]
    loss, best = train_mess3.loss_above_optimum(model, rows=200)
    assert best < loss
    shipped, _ = measure.load(model_path("mess3"))
    assert train_mess3.loss_above_optimum(shipped, rows=2000)[0] < 1.002 * best_of(
        train_mess3, 2000
    )
    for mine, theirs in zip(model.parameters(), shipped.parameters(), strict=True):
        assert mine.shape == theirs.shape


def best_of(train_mess3, rows):
    """Loss of exact beliefs on as many new sequences."""
    return train_mess3.loss_above_optimum(train_mess3.build(), rows=rows)[1]
