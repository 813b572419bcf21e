"""Labels of tokens: target words, patterns, gold annotations, pipelines, and given ones."""

from __future__ import annotations

import re
import sys
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from prompts_help import BOS, SHORT, byte_level, roles, tokens_with

from interp.errors import BadInput
from interp.prompts.labels import gold, regex, spacy_tags, target_word
from interp.prompts.read import read_prompts


# --- labels ------------------------------------------------------------------------------------
def test_target_word_roles():
    prompts = read_prompts(["I met her there"], byte_level()).label(target_word("her"))
    index = prompts.index()
    assert tokens_with(prompts, "target") == [" her"]
    assert tokens_with(prompts, "previous") == [" met"]
    assert (index["role"] == "random").sum() == 1
    assert not index[index["role"].notna()]["special"].any()


@pytest.mark.parametrize("text", ["there", "the heritage", "her's", "x'her", "Her", "her_ he"])
def test_parts_of_words_are_no_target(text):
    prompts = read_prompts([text, "met her"], byte_level()).label(target_word("her"))
    assert set(roles(prompts, 0)) == {None}
    assert prompts.notes == ("target word 'her': 1 of 2 prompts are without it",)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [("last", ["n"]), ("first", [" m"]), ("all", [" m", "a", "n"])],
)
def test_words_in_several_tokens(pieces, expected):
    labeller = target_word("man", pieces=pieces)
    prompts = read_prompts(["He met the man there"], byte_level()).label(labeller)
    assert tokens_with(prompts, "target") == expected
    assert tokens_with(prompts, "previous") == [" the"]
    assert len(tokens_with(prompts, "random")) == len(expected)
    assert not {" m", "a", "n"} & set(tokens_with(prompts, "random"))


def test_previous_skips_spaces_and_special_tokens():
    prompts = read_prompts(["her", "met   her", f"met{BOS}her"], byte_level())
    prompts = prompts.label(target_word("her"))
    assert "previous" not in roles(prompts, 0)
    assert roles(prompts, 0).count("target") == 1
    assert [roles(prompts, i).count("previous") for i in (1, 2)] == [1, 1]
    assert [prompts.strings[i][roles(prompts, i).index("previous")] for i in (1, 2)] == ["t", "t"]


def test_target_word_options():
    texts = ["Her man met her", "New  York"]
    prompts = read_prompts(texts, byte_level())
    folded = prompts.label(target_word("her", case_sensitive=False, name="who"))
    assert tokens_with(folded, "target", "who") == ["r", " her"]
    phrase = prompts.label(target_word("New York"))
    assert tokens_with(phrase, "target") == ["k"]


def test_random_controls_depend_on_the_prompt_alone():
    texts = [*SHORT, "He met her there", "met her, the man"]
    alone = [read_prompts([t, "a her"], byte_level()).label(target_word("her")) for t in texts]
    together = read_prompts([*texts, "her"], byte_level()).label(target_word("her"))
    backwards = read_prompts([*texts[::-1], "her"], byte_level()).label(target_word("her"))
    for i in range(len(texts)):
        assert roles(together, i) == roles(alone[i], 0) == roles(backwards, len(texts) - 1 - i)
    long = read_prompts(["her " + "man " * 40], byte_level())
    draws = {tuple(roles(long.label(target_word("her", seed=s)))) for s in range(5)}
    assert len(draws) > 1


def test_target_word_that_never_occurs():
    prompts = read_prompts([*SHORT, "Hers"], byte_level())
    expected = r"'hers' occurs in none of the 4 prompts searched; nearest words that occur: 'Hers'"
    with pytest.raises(BadInput, match=expected + r".*case_sensitive=False would match it"):
        prompts.label(target_word("hers"))
    with pytest.raises(BadInput, match=r"'ther' occurs in none .*nearest words.*'there'"):
        prompts.label(target_word("ther"))
    with pytest.raises(BadInput, match="target word ' ' is blank"):
        target_word(" ")
    with pytest.raises(BadInput, match=r"pieces='lst'; did you mean 'last'\?"):
        target_word("her", pieces="lst")


def test_regex():
    prompts = read_prompts(["He met her", "12 men"], byte_level())
    digits = prompts.label(regex(r"\d+", name="kind", value="number"))
    assert tokens_with(digits, "number", "kind") == ["1", "2"]
    group = prompts.label(regex(r"met (?P<who>\w+)", group="who"))
    assert tokens_with(group, "her", "match") == [" her"]
    with pytest.raises(BadInput, match=r"regular expression '\(' is broken: missing \)"):
        regex("(")
    with pytest.raises(BadInput, match=r"has no group 2; it has \[0, 1\]"):
        regex("(a)", group=2)
    with pytest.raises(BadInput, match=r"pattern 'q\+' matches no token in the 2 prompts searched"):
        prompts.label(regex("q+"))


def test_gold_takes_objects_of_any_kind():
    pair = namedtuple("pair", "start end pos")

    class Slots:
        __slots__ = ("end", "pos", "start")

    slots = Slots()
    slots.start, slots.end, slots.pos = 3, 6, "VERB"
    plain = SimpleNamespace(start=3, end=6, pos="VERB")
    prompts = read_prompts(["He met her"], byte_level())
    for word in (pair(3, 6, "VERB"), slots, plain, {"start": 3, "end": 6, "pos": "VERB"}):
        assert roles(prompts.label(gold([[word]])), name="pos")[3] == "VERB"


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ([], None, "annotations for 0 prompts; expected 1"),
        ([[{"start": 0, "pos": "X"}]], None, "annotated word 0: needs integer 'start' and 'end'"),
        ([[{"start": 0, "end": 99}]], None, "characters 0 to 99 are not in its text of 10"),
        ([[{"start": 0, "end": 4}, {"start": 3, "end": 6}]], None, r"overlap, characters \[0, 4\]"),
        (
            [[{"start": 0, "end": 2, "pos": "X"}]],
            ["poss"],
            r"no annotated word has 'poss'; did you",
        ),
        ([[{"start": 0, "end": 2, "pos": {}}]], None, "label 'pos', prompt 0: dict is no label"),
    ],
)
def test_gold_refuses(rows, fields, message):
    with pytest.raises(BadInput, match=message):
        read_prompts(["He met her"], byte_level()).label(gold(rows, fields))


class _Pipeline:
    """A spaCy pipeline as far as this library uses one."""

    def __init__(self, tags):
        self.tags = tags

    def pipe(self, texts):
        for text in texts:
            yield [
                SimpleNamespace(
                    idx=m.start(), text=m[0], is_space=m[0].isspace(), pos_=self.tags.get(m[0], "")
                )
                for m in re.finditer(r"\S+|\s{2,}", text)
            ]


def test_spacy_tags():
    prompts = read_prompts(["He  met her"], byte_level())
    tagged = prompts.label(spacy_tags(_Pipeline({"met": "VERB", "her": "PRON", "  ": "SPACE"})))
    index = tagged.index()
    assert "".join(tokens_with(tagged, "VERB", "pos")).strip() == "met"
    assert tokens_with(tagged, "PRON", "pos") == [" her"]
    assert not (index["pos"] == "SPACE").any()
    with pytest.raises(BadInput, match="the spaCy pipeline sets no 'pos'"):
        prompts.label(spacy_tags(_Pipeline({})))
    with pytest.raises(BadInput, match=r"spaCy tokens have no tag 'lema'"):
        prompts.label(spacy_tags(_Pipeline({}), ["lema"]))


@pytest.fixture
def entities():
    """A real pipeline that knows one name, without a trained model."""
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Ann"}])
    return pipeline


def test_entities_are_asked_for_where_there_are_none(entities):
    named = read_prompts(["Ann met her"], byte_level()).label(spacy_tags(entities, ["ent_type"]))
    assert "".join(tokens_with(named, "PERSON", "ent_type")) == "Ann"
    assert named.notes == ()
    without = read_prompts(SHORT, byte_level()).label(spacy_tags(entities, ["ent_type"]))
    assert without.index()["ent_type"].isna().all()
    assert without.notes == ("spaCy tag 'ent_type': no token of the 3 prompts has one",)
    with pytest.raises(BadInput, match="the spaCy pipeline sets no 'pos'; load one"):
        without.label(spacy_tags(entities, ["ent_type", "pos"]))
    spacy = pytest.importorskip("spacy")
    with pytest.raises(BadInput, match="the spaCy pipeline sets no 'ent_type'; load one"):
        without.label(spacy_tags(spacy.blank("en"), ["ent_type"]))


def test_morphology(entities):
    ruler = entities.add_pipe("attribute_ruler")
    ruler.add([[{"LOWER": "her"}]], {"MORPH": "Case=Acc|Number=Sing", "POS": "PRON"})
    tags = spacy_tags(entities, ["morph", "pos"])
    index = read_prompts(["He met her"], byte_level()).label(tags).index()
    assert index[index["token"] == " her"][["morph", "pos"]].to_numpy().tolist() == [
        ["Case=Acc|Number=Sing", "PRON"]
    ]
    assert index["morph"].notna().sum() == 1
    with pytest.raises(BadInput, match=r"no tag 'lema'; did you mean 'lemma'\? .*morph\)"):
        read_prompts(["He"], byte_level()).label(spacy_tags(entities, ["lema"]))


def test_texts_over_the_limit_of_spacy(entities):
    entities.max_length = 10
    prompts = read_prompts(["He met her", "He met her."], byte_level())
    expected = "prompt 1 has 11 characters, and the spaCy pipeline takes 10: split it, or raise"
    with pytest.raises(BadInput, match=expected):
        prompts.label(spacy_tags(entities, ["ent_type"]))


def test_spacy_not_installed_or_pipeline_missing(monkeypatch):
    prompts = read_prompts(["He met her"], byte_level())
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(BadInput, match=r"spaCy is not installed; pip install 'interp-stream\[ling"):
        prompts.label(spacy_tags("en_core_web_sm"))

    def load(name):
        raise OSError(f"[E050] Can't find model '{name}'.")

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    with pytest.raises(BadInput, match="install it: python -m spacy download en_core_web_sm"):
        prompts.label(spacy_tags("en_core_web_sm"))


def test_labels_are_broadcast_and_replaced():
    prompts = read_prompts(
        SHORT[:2],
        byte_level(),
        labels={"group": ["a", None]},
        token_labels={"t": [[0, 1, 2, 3, 4], np.arange(5)]},
    )
    index = prompts.index()
    assert index[index["prompt"] == 0]["group"].tolist() == ["a"] * 5
    assert index[index["prompt"] == 1]["group"].isna().all()
    assert index["t"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    assert index["t"].dtype == np.int64
    again = prompts.with_labels("group", torch.tensor([1, 2]))
    assert roles(again, 1, "group")[0] == 2
    assert roles(prompts, 0, "group")[0] == "a"  # the first object is as it was
    missing = prompts.with_labels("x", [float("nan"), np.float64(2)])
    assert roles(missing, 0, "x")[0] is None


def test_token_labels_of_padded_and_truncated_ids():
    tokens = torch.tensor([[9, 5, 6, 7], [9, 9, 8, 7]])
    mask = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1]])
    padded = [[0, 1, 2, 3], [0, 0, 4, 5]]
    prompts = read_prompts(tokens, mask=mask, token_labels={"t": padded}, targets=padded)
    assert [list(row) for row in prompts.labels["t"]] == [[1, 2, 3], [4, 5]]
    assert [row.tolist() for row in prompts.targets] == [[1, 2, 3], [4, 5]]
    cut = read_prompts(tokens, mask=mask, token_labels={"t": padded}, max_length=2, truncate=True)
    assert [list(row) for row in cut.labels["t"]] == [[1, 2], [4, 5]]
