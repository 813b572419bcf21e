"""The demo language: same seed, same text; gold annotations that are true; splits that part."""

import random
import subprocess
import sys
from itertools import combinations

import pytest

from interp.demo import MODELS, language, lexicon, model_path
from interp.demo.language import (
    CHOICE_KINDS,
    KINDS,
    PRONOUN_CHOICES,
    choices,
    demo_documents,
    generate,
    her_documents,
)

TRAIN = generate(4000, seed=3)
HELD_OUT = generate(4000, seed=3, split="held_out")
EVERY = TRAIN + HELD_OUT
FORMS = {word.lower() for word in lexicon.words()}
PEOPLE_KINDS = ("pair", "called", "who", "giving")


def names_in(document):
    return {word.text for word in document.words if word.category == "name"}


def test_same_seed_same_documents():
    assert generate(50, seed=7) == generate(50, seed=7)
    assert generate(50, seed=7) != generate(50, seed=8)
    assert generate(50, seed=7)[:10] == generate(10, seed=7)


def test_text_does_not_depend_on_global_random_state_or_hash_seed():
    code = "from interp.demo import generate; import sys; sys.stdout.write(generate(1, 5)[0].text)"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": "."},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in (1, 2)
    }
    random.seed(99)
    assert texts == {generate(1, 5)[0].text}


def test_importing_the_language_imports_no_torch():
    code = "import interp.demo.language, sys; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_spans_are_the_words_and_cover_the_text():
    for document in EVERY:
        covered = set()
        for word in document.words:
            assert document.text[word.start : word.end] == word.text
            covered.update(range(word.start, word.end))
        rest = {document.text[i] for i in range(len(document.text)) if i not in covered}
        assert rest <= {" "}


def test_every_word_is_in_the_lexicon_and_carries_its_tag():
    tags = {}
    for document in EVERY:
        for word in document.words:
            assert word.pos == "PUNCT" or word.text.lower() in FORMS
            tags.setdefault(word.text.lower(), set()).add(word.pos)
    assert {form: found for form, found in tags.items() if len(found) > 1} == {}
    assert set.union(*tags.values()) >= {"NOUN", "VERB", "ADJ", "ADV", "PRON", "PROPN", "DET"}
    assert 250 <= len(FORMS) <= 400


def test_ordinary_english_spelling():
    for document in EVERY:
        assert "  " not in document.text
        assert not any(f" {mark}" in document.text for mark in ".,?:")
        assert " a apple" not in document.text
        if document.kind != "repeat":
            assert document.text[0].isupper()
            assert document.text[-1] == "."


def test_referents_agree_in_gender_and_were_named_before():
    cases = {"pronoun_subject": "he", "pronoun_object": "him", "pronoun_possessive": "his"}
    seen = 0
    for document in EVERY:
        for index, word in enumerate(document.words):
            if word.category not in cases:
                continue
            seen += 1
            gender = lexicon.gender(word.referent)
            assert lexicon.PRONOUNS[gender][cases[word.category]] == word.text.lower()
            antecedent = document.words[word.antecedent]
            assert word.antecedent < index
            assert antecedent.text == word.referent
            between = document.words[word.antecedent + 1 : index]
            assert word.referent not in {other.text for other in between}
    assert seen > 3000


def test_some_referents_are_far_back_behind_a_person_of_the_other_gender():
    far = 0
    for document in HELD_OUT:
        for index, word in enumerate(document.words):
            if word.antecedent is None:
                continue
            between = document.words[word.antecedent : index]
            sentences = sum(other.text == "." for other in between)
            others = {w.text for w in between if w.category == "name"} - {word.referent}
            far += sentences >= 2 and bool(others)
    assert far > 100


def test_possessive_her_and_object_her_are_told_apart():
    both = {w.category for d in EVERY for w in d.words if w.text == "her"}
    assert both == {"pronoun_object", "pronoun_possessive"}


def test_ambiguous_words_have_the_sense_of_their_context():
    senses = {}
    for document in generate(500, 0, ["sense"]):
        for word in document.words:
            if word.sense is not None:
                senses.setdefault(word.text, set()).add(word.sense)
                contexts, noun = lexicon.SENSES[word.text, word.sense]
                assert noun in [other.text for other in document.words]
                assert any(c.split()[-2] in document.text for c in contexts)
    assert senses == {
        "bank": {"river", "money"},
        "bat": {"animal", "sport"},
        "match": {"fire", "game"},
    }


def test_facts_are_true_in_every_document():
    for document in generate(500, 0, ["fact"], "held_out"):
        countries = [w.text for w in document.words if w.category == "country"]
        capitals = {w.text for w in document.words if w.category == "capital"}
        assert {lexicon.CAPITALS[country] for country in countries} == capitals


def test_repetitions_repeat():
    for document in generate(200, 0, ["repeat"]):
        said = [w.text for w in document.words if w.pos != "PUNCT"]
        assert any(said[i : i + 2] == said[-2:] for i in range(len(said) - 3))


def test_pairs_of_names_are_in_one_split_only():
    pairs = {"train": set(), "held_out": set()}
    for split, documents in (("train", TRAIN), ("held_out", HELD_OUT)):
        for document in documents:
            if document.kind in PEOPLE_KINDS:
                pairs[split].add(frozenset(names_in(document)))
    assert pairs["held_out"]
    assert not pairs["train"] & pairs["held_out"]
    expected = {
        frozenset(pair)
        for pair in combinations(lexicon.NAMES, 2)
        if language.held_out(*map(lexicon.NAMES.index, pair))
    }
    assert pairs["held_out"] <= expected


def test_name_and_place_and_name_and_sense_are_in_one_split_only():
    found = {"train": set(), "held_out": set()}
    for split in found:
        for document in generate(1500, 1, ["single", "sense"], split):
            (name,) = names_in(document) or {None}
            for word in document.words:
                if word.category == "place":
                    found[split].add((name, word.text))
                if word.sense and name:
                    found[split].add((name, word.text, word.sense))
    assert not found["train"] & found["held_out"]


def test_no_held_out_text_about_people_is_a_training_text():
    kinds = ["single", *PEOPLE_KINDS]
    train = {document.text for document in generate(10_000, 0, kinds)}
    held_out = {document.text for document in generate(2_000, 0, kinds, "held_out")}
    assert not train & held_out


def test_her_documents():
    documents = her_documents()
    assert documents == her_documents()
    assert len({document.text for document in documents}) == 54
    assert len({len(document.words) for document in documents}) >= 18
    for document in documents:
        (index,) = (i for i, w in enumerate(document.words) if w.text.lower() == "her")
        her, verb = document.words[index], document.words[index - 1]
        assert her.category == "pronoun_object"
        assert her.pos == "PRON"
        assert verb.pos == "VERB"
        assert her.referent in lexicon.WOMEN
    assert her_documents(10, seed=1) != her_documents(10, seed=2)


def test_demo_documents_hold_every_kind():
    documents = demo_documents()
    assert len(documents) == 40
    assert {document.kind for document in documents} == set(KINDS)


@pytest.mark.parametrize("kind", CHOICE_KINDS)
def test_choices(kind):
    cases = choices(100, seed=0, kind=kind)
    assert cases == choices(100, seed=0, kind=kind)
    assert len(cases) == 100
    for case in cases:
        assert case.kind == kind
        assert case.right != case.wrong
        assert not case.prompt.endswith(" ")
        assert case.right[0] == case.wrong[0] == " "
        if kind in PRONOUN_CHOICES:
            assert {case.right, case.wrong} in ({" he", " she"}, {" him", " her"})


def test_every_template_can_be_written():
    rng = random.Random(0)
    templates = [
        *language._MEETING,
        *language._BETWEEN_TWO,
        *language._ASIDE,
        *language._ALONE,
        *language._ABOUT_ONE,
        *language._SCENES,
    ]
    for template in templates:
        draft = language._Draft(rng, "train", ["Mary", "John"])
        draft.write(template)
        assert draft.text.endswith(".")


def test_wrong_names_are_refused_with_the_right_ones():
    with pytest.raises(ValueError, match="unknown kind of document 'poem'; choose from pair"):
        generate(1, 0, ["poem"])
    with pytest.raises(ValueError, match="unknown split 'test'; choose from train, held_out"):
        generate(1, 0, split="test")
    with pytest.raises(ValueError, match="unknown kind of choice 'verb'"):
        choices(1, 0, "verb")
    with pytest.raises(
        KeyError, match="no embedded model 'dmeo'; there are demo, demo-llama, mess3"
    ):
        model_path("dmeo")
    assert set(MODELS) == {"demo", "demo-llama", "mess3"}
