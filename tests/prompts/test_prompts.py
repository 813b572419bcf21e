"""Prompts: ids as the bridge gives them, spans, words, labels, batches, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
import re
import sys
from collections import namedtuple
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHARED_DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import interp
from interp.errors import BadInput, UnknownName
from interp.prompts.labels import gold, regex, spacy_tags, target_word
from interp.prompts.prompts import Prompts
from interp.prompts.read import read_prompts
from interp.prompts.tokens import (
    align,
    running_strings,
    special_ids,
    token_bytes,
    token_strings,
    trimmed,
    words,
)
from interp.render.tokens import show

GPT2_FILES = SHARED_DATA / "gpt2-tokenizer"
BOS = "<|endoftext|>"
SHORT = ["He met her", "the man", "He met the man there"]


# --- tokenizers, built in code -----------------------------------------------------------------


def _wrap(backend, **roles):
    from transformers import PreTrainedTokenizerFast

    named = {f"{role}_token": token for role, token in roles.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def _bpe(vocab, merges, **options):
    for left, right in merges:
        vocab[left + right] = len(vocab)
    return Tokenizer(models.BPE(vocab, merges, **options))


@lru_cache
def byte_level(appends_eos=False):
    """GPT-2 style: 256 byte symbols in fixed order, then a few merges that the tests know."""
    merges = [("Ġ", "h"), ("Ġh", "e"), ("Ġhe", "r"), ("t", "h"), ("th", "e")]
    merges += [("Ġ", "m"), ("Ġm", "e"), ("Ġme", "t"), ("Ġ", "the")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = _bpe({BOS: 0} | {symbol: i + 1 for i, symbol in enumerate(alphabet)}, merges)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if appends_eos:
        backend.post_processor = processors.TemplateProcessing(
            f"$A {BOS}", special_tokens=[(BOS, 0)]
        )
    return _wrap(backend, bos=BOS, eos=BOS, pad=BOS)


@lru_cache
def llama_like():
    """Metaspace BPE that falls back to bytes and prepends BOS itself."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{b:02X}>": b + 3 for b in range(256)}
    for symbol in "▁Hehrmtan":
        vocab.setdefault(symbol, len(vocab))
    merges = [("▁", "h"), ("▁h", "e"), ("▁he", "r")]
    backend = _bpe(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")  # noqa: S106
    replace, restore = normalizers.Replace(" ", "▁"), decoders.Replace("▁", " ")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    backend.decoder = decoders.Sequence(
        [restore, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return _wrap(backend, bos="<s>", eos="</s>", unk="<unk>", pad="</s>")


@lru_cache
def bert_like():
    """WordPiece, lower case, with [CLS] and [SEP] around every text.

    BOS and EOS are what the bridge gives such a tokenizer: a token that it does not have.
    """
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "he", "met", "her", "the", "man", "##s", "there"]
    backend = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))  # noqa: S106
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = _wrap(backend, unk="[UNK]", pad="[PAD]", cls="[CLS]", sep="[SEP]")
    tokenizer.bos_token = tokenizer.eos_token = BOS
    return tokenizer


@lru_cache
def slow():
    """A tokenizer without offsets; its tokens are bytes, and its vocabulary needs no file."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(extra_ids=0)


@pytest.fixture(scope="module")
def gpt2_tokenizer():
    if not GPT2_FILES.is_dir():
        pytest.skip(f"no real GPT-2 vocabulary at {GPT2_FILES}")
    from transformers import GPT2Tokenizer

    return GPT2Tokenizer.from_pretrained(str(GPT2_FILES), pad_token=BOS)


def ids(prompts, i=0):
    return prompts.tokens[i].tolist()


def roles(prompts, i=0, name="role"):
    return list(prompts.labels[name][i])


def tokens_with(prompts, role, name="role"):
    index = prompts.index()
    return index[index[name] == role]["token"].tolist()


# --- ids and spans -----------------------------------------------------------------------------


def test_ids_are_those_checked_by_hand():
    vocab = byte_level().get_vocab()
    prompts = read_prompts(["He met her"], byte_level())
    assert ids(prompts) == [0, vocab["H"], vocab["e"], vocab["Ġmet"], vocab["Ġher"]]
    assert prompts.strings[0] == (BOS, "H", "e", " met", " her")
    assert prompts.special[0].tolist() == [True, False, False, False, False]
    assert prompts.spans[0].tolist() == [[0, 0], [0, 1], [1, 2], [2, 6], [6, 10]]
    assert prompts.tokens[0].dtype == np.int64
    assert prompts.special[0].dtype == bool


def _bridge_tokens(tokenizer, text, prepend_bos, n_ctx=1000, truncate=True):
    """The bridge's own `to_tokens`, which reads nothing but tokenizer and configuration."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources._bridge_builder import detect_tokenizer_bos_eos

    prepends, appends = detect_tokenizer_bos_eos(tokenizer)
    cfg = SimpleNamespace(
        tokenizer_prepends_bos=prepends, tokenizer_appends_eos=appends, n_ctx=n_ctx, device="cpu"
    )
    bridge = SimpleNamespace(tokenizer=tokenizer, cfg=cfg)
    out = TransformerBridge.to_tokens(
        bridge, text, prepend_bos=prepend_bos, truncate=truncate, padding_side="right"
    )
    return out[0].tolist()


@pytest.mark.parametrize("prepend", [True, False])
@pytest.mark.parametrize(
    "make", [byte_level, llama_like, bert_like, slow, lambda: byte_level(appends_eos=True)]
)
def test_ids_are_the_bridges(make, prepend):
    tokenizer = make()
    texts = [
        "He met her",
        "日本 😀!",
        *(["her</s>"] if make is llama_like else []),
        f"{BOS}He met",
        "the  man ",
        "there's her",
    ]
    prompts = read_prompts(texts, tokenizer, prepend_bos=prepend)
    for i, text in enumerate(texts):
        assert ids(prompts, i) == _bridge_tokens(tokenizer, text, prepend), text


@pytest.mark.parametrize("make", [byte_level, llama_like, bert_like])
def test_truncation_is_the_bridges(make):
    text = "He met the man there her"
    prompts = read_prompts([text], make(), max_length=5, truncate=True)
    assert len(prompts.tokens[0]) == 5
    assert ids(prompts) == _bridge_tokens(make(), text, True, n_ctx=5)
    assert len(prompts.spans[0]) == len(prompts.special[0]) == len(prompts.strings[0]) == 5


def test_real_gpt2_ids(gpt2_tokenizer):
    prompts = read_prompts(["He introduced her to 日本 😀"], gpt2_tokenizer)
    assert ids(prompts)[:5] == [50256, 1544, 5495, 607, 284]
    assert ids(prompts) == _bridge_tokens(gpt2_tokenizer, prompts.texts[0], True)


def test_literal_special_tokens_are_special_and_unknown_words_are_not():
    literal = read_prompts([f"He{BOS}met"], byte_level(), prepend_bos=False)
    assert literal.special[0].tolist() == [False, False, True, False, False, False]
    assert literal.spans[0][2].tolist() == [0, 0]
    unknown = read_prompts(["he zzz"], bert_like())
    assert unknown.strings[0] == ("[CLS]", "he", "[UNK]", "[SEP]")
    assert unknown.special[0].tolist() == [True, False, False, True]


def test_control_tokens_without_a_role_are_special():
    """Those of chat models are known only by their mark among the added tokens."""
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(byte_level())
    names = ["<repo_name>", "<|header|>", "<tool>"]
    marks = [AddedToken(n, special=n != "<tool>", normalized=False) for n in names]
    tokenizer._tokenizer.add_special_tokens(marks[:2])
    tokenizer._tokenizer.add_tokens(marks[2:])
    repo, header, tool = (tokenizer.convert_tokens_to_ids(n) for n in names)
    assert repo not in tokenizer.all_special_ids
    assert special_ids(tokenizer) == [0, repo, header]
    prompts = read_prompts(["<repo_name>her<|header|> met<tool>"], tokenizer)
    special = [t for t, s in zip(prompts.strings[0], prompts.special[0], strict=True) if s]
    assert special == [BOS, "<repo_name>", "<|header|>"]
    assert prompts.spans[0][prompts.special[0]].tolist() == [[0, 0]] * 3
    given = read_prompts([[repo, 5, tool, 0]], tokenizer)
    assert given.special[0].tolist() == [True, False, False, True]


@pytest.mark.parametrize("make", [byte_level, llama_like, slow])
def test_pieces_of_one_character_share_a_word_and_are_readable(make):
    prompts = read_prompts(["met 日本 😀 her"], make())
    index = prompts.index()
    index = index[~index["special"]]
    assert index.groupby("word").size().loc[1:3].tolist() == [3, 3, 4]  # bytes of each character
    assert sorted(set(index["word"])) in ([0, 1, 2, 3, 4], [-1, 0, 1, 2, 3, 4])
    assert not index["token"].str.contains("\ufffd").any()
    assert not (index["token"] == "").any()


def test_slow_tokenizers_get_spans_from_decoding():
    prompts = read_prompts(["a日b"], slow(), prepend_bos=False)
    assert prompts.spans[0].tolist() == [[0, 1], [1, 2], [1, 2], [1, 2], [2, 3]]


def test_slow_tokenizers_that_change_the_text_have_no_words():
    class Lower:
        """Splits at spaces and loses case, as some slow tokenizers do."""

        bos_token = eos_token = bos_token_id = eos_token_id = None
        all_special_ids: tuple[int, ...] = ()
        names = ("he", "met", "her")

        def __len__(self):
            return 3

        def encode(self, text):
            return [self.names.index(w) for w in text.lower().split() if w in self.names]

        def __call__(self, texts, **options):
            return {"input_ids": [self.encode(t) for t in texts]}

        def decode(self, ids, **options):
            return " ".join(self.names[i] for i in ids)

        def convert_ids_to_tokens(self, i):
            return self.names[i]

    prompts = read_prompts(["He met her"], Lower())
    assert ids(prompts) == [0, 1, 2]
    assert prompts.spans == (None,)
    assert prompts.index()["word"].tolist() == [-1, -1, -1]
    with pytest.raises(BadInput, match=r"cannot place the target word 'her' in prompt 0: its toke"):
        prompts.label(target_word("her"))


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He met her.", ["He", "met", "her", "."]),
        ("don't, rock'n'roll", ["don't", ",", "rock'n'roll"]),
        ("Ann’s 'quote'", ["Ann’s", "'", "quote", "'"]),
        ("e\u0301te\u0301 naïve!", ["e\u0301te\u0301", "naïve", "!"]),
        ("3.14, 1,000: U.S.A. key_1", ["3.14", ",", "1,000", ":", "U.S.A", ".", "key_1"]),
        ("می\u200cخواهم co\u00adop", ["می\u200cخواهم", "co\u00adop"]),
        ("나는 간다", ["나는", "간다"]),
        # without spaces between words: a character is a word, katakana and hangul stay together
        ("我爱日本 コーヒーを", ["我", "爱", "日", "本", "コーヒー", "を"]),
        ("น้ำ ดี", ["น้", "ำ", "ดี"]),
        ("ฉันรัก", ["ฉั", "น", "รั", "ก"]),
        ("हिन्दी है", ["हिन्दी", "है"]),
        ("👩\u200d🚀👍🏽 ok", ["👩\u200d🚀", "👍🏽", "ok"]),
        ("a-b  c\n\nd", ["a", "-", "b", "c", "d"]),
        ("   ", []),
    ],
)
def test_words(text, expected):
    assert [text[a:b] for a, b in words(text)] == expected


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=200, deadline=None)
def test_words_hold_every_visible_character_once(text):
    spans = words(text)
    covered = [i for a, b in spans for i in range(a, b)]
    assert len(covered) == len(set(covered))
    assert all(text[i].isspace() or i in covered for i in range(len(text)))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_every_visible_token_has_a_word(text):
    prompts = read_prompts([text], byte_level())
    index = prompts.index()
    spans = trimmed(prompts.spans[0], text)
    visible = (spans[:, 1] > spans[:, 0]) & ~prompts.special[0]
    assert (index["word"].to_numpy()[visible] >= 0).all()
    assert (index["word"].to_numpy()[~visible] == -1).all()
    assert set(index["word"]) - {-1} == set(range(len(words(text)))) or prompts.special[0][1:].any()


def test_align_without_words():
    assert align(np.zeros((3, 2), dtype=np.int64), words("")).tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    "text", ["यह किताब की बात है", "Ann's 'her' her_ co-her x.her", "ฉันรักเธอ 我爱her"]
)
def test_a_target_is_exactly_a_word(text):
    """Each word of the text alone is found where it stands and at no other place."""
    prompts = read_prompts([text], slow(), prepend_bos=False)
    index = prompts.index()
    spans = words(text)
    for a, b in spans:
        marked = prompts.label(target_word(text[a:b], pieces="all")).labels["role"][0] == "target"
        same = [k for k, (c, d) in enumerate(spans) if text[c:d] == text[a:b]]
        assert set(index["word"][marked]) == set(same)
        assert marked.sum() == index["word"].isin(same).sum()


def test_a_letter_is_no_target_inside_a_word_with_marks():
    prompts = read_prompts(["यह किताब की बात है"], slow())
    with pytest.raises(BadInput, match="target word 'क' occurs in none of the 1 prompts"):
        prompts.label(target_word("क"))


def test_a_target_of_several_characters_is_found_where_no_spaces_are_written():
    prompts = read_prompts(["我爱日本人", "ฉันรักเธอ"], slow(), prepend_bos=False)
    for word, i, start in (("日本", 0, 2), ("รัก", 1, 3)):
        marked = prompts.label(target_word(word, pieces="all")).labels["role"][i] == "target"
        spans = prompts.spans[i][marked]
        assert (spans.min(), spans.max()) == (start, start + len(word))


# --- bytes -------------------------------------------------------------------------------------

SPLIT = "met 日本 😀 naïve her"


@pytest.mark.parametrize("make", [byte_level, llama_like, slow])
def test_bytes_of_the_tokens_restore_the_text(make):
    prompts = read_prompts([SPLIT], make(), prepend_bos=False)
    ordinary = prompts.tokens[0][~prompts.special[0]].tolist()
    assert b"".join(token_bytes(i, make()) for i in ordinary).decode().strip() == SPLIT


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_bytes_of_byte_level_tokens_restore_any_text(text):
    found = byte_level()(text, add_special_tokens=False)["input_ids"]
    assert b"".join(token_bytes(i, byte_level()) for i in found) == text.encode()


@pytest.mark.parametrize("make", [byte_level, llama_like, slow])
def test_characters_split_over_tokens_are_shown_as_bytes(make):
    index = read_prompts([SPLIT], make(), prepend_bos=False).index()
    texts = [text.strip() for text in index["token"] if text.strip()]
    first = texts.index("⟨E6⟩")
    expected = ["⟨E6⟩", "⟨97⟩", "⟨A5→日⟩", "⟨E6⟩", "⟨9C⟩", "⟨AC→本⟩"]
    expected += ["⟨F0⟩", "⟨9F⟩", "⟨98⟩", "⟨80→😀⟩", "n", "a", "⟨C3⟩", "⟨AF→ï⟩", "v"]
    assert texts[first : first + len(expected)] == expected
    assert show(index["token"][index["token"].str.contains("日")].iloc[0]) == "⟨A5→日⟩"


def test_split_characters_are_shown_alike_wherever_tokens_are(tmp_path):
    """In tables of runs, of one's own passes and of corpora, in figures and in the report."""
    model, text = interp.load_model("demo"), "Tom saw 日 and 日本 ."
    run = interp.run(model, [text], ["rotation", "attention"], progress=False)
    tokens = run["rotation"].tokens["token"].tolist()
    first = tokens.index("⟨A5→日⟩")
    assert tokens[first - 1 : first + 1] == ["⟨97⟩", "⟨A5→日⟩"]
    assert [t for t in tokens if "→" in t] == ["⟨A5→日⟩", "⟨A5→日⟩", "⟨AC→本⟩"]
    with interp.attach(model, "rotation") as probes:
        model(text)
        probes.label(kind="x")
        model(text)
    assert probes.results.tokens["token"].tolist() == 2 * tokens
    done = interp.run_corpus(
        model, 3 * [text], ["rotation", "attention"], out=tmp_path / "rows", keep="tokens",
        progress=False,
    )  # fmt: skip
    rows = done.open()["rotation"].read()
    rows = rows[(rows["layer"] == 0) & (rows["document"] == 1)]
    assert rows.sort_values("position")["token"].tolist() == tokens
    kept = done.open().results.tokens
    assert kept[kept["prompt"] == kept["prompt"].min()]["token"].tolist() == tokens
    lens = interp.run(model, [text], "logit_lens", progress=False)
    page = lens.report(tmp_path / "r.html").read_text()
    escaped = json.dumps("⟨A5→日⟩")[1:-1]
    assert "⟨A5→日⟩" in str(lens["logit_lens"].plot("top_prob", prompt=0).to_dict())
    assert "⟨A5→日⟩" in page or escaped in page


def test_bytes_that_complete_nothing_name_nothing():
    tokenizer = byte_level()
    part = tokenizer("日")["input_ids"]
    odd = [part[0], *tokenizer("a")["input_ids"], *part[1:]]
    assert running_strings([odd, part[1:]], tokenizer) == (
        ("⟨E6⟩", "a", "⟨97⟩", "⟨A5⟩"),
        ("⟨97⟩", "⟨A5⟩"),
    )


def test_real_gpt2_pieces_of_a_character(gpt2_tokenizer):
    text = " 代 ⟨x⟩ \ufffd"
    found = gpt2_tokenizer(text)["input_ids"]
    strings = running_strings([found], gpt2_tokenizer)[0]
    assert strings == (
        " ",
        "代",
        " ⟨E2⟩",
        "⟨9F⟩",
        "⟨A8→⟨⟩",
        "x",
        "⟨E2⟩",
        "⟨9F⟩",
        "⟨A9→⟩⟩",
        " \ufffd",
    )
    assert b"".join(token_bytes(i, gpt2_tokenizer) for i in found).decode() == text
    (halves,) = running_strings([gpt2_tokenizer("你")["input_ids"]], gpt2_tokenizer)
    assert halves == ("⟨E4 BD⟩", "⟨A0→你⟩")


def test_word_pieces_are_left_alone():
    strings = token_strings(range(len(bert_like())), bert_like())
    assert strings[bert_like().convert_tokens_to_ids("##s")] == "##s"
    assert strings[4] == "he"


def test_sentence_pieces_keep_their_space():
    tokenizer = llama_like()
    spaced, bare = (tokenizer.convert_tokens_to_ids(p) for p in ("▁her", "h"))
    assert token_strings([spaced, bare, tokenizer.convert_tokens_to_ids("▁")], tokenizer) == {
        spaced: " her",
        bare: "h",
        tokenizer.convert_tokens_to_ids("▁"): " ",
    }


# --- sources -----------------------------------------------------------------------------------


def test_one_string_with_a_space_is_a_prompt():
    prompts = read_prompts("He met her", byte_level())
    assert len(prompts) == 1
    assert prompts.source == "one string, taken as a prompt"


def test_txt(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffHe met her\r\n\r\nthe\u2028man\n".encode())
    for source in (path, str(path)):
        prompts = read_prompts(source, byte_level())
        assert prompts.texts == ("He met her", "the\u2028man")
        assert prompts.source == str(path)
        assert prompts.notes == (f"1 blank lines of {path} were skipped",)


ROWS = [
    {"text": "He met her", "group": "a", "n": 1, "words": [{"start": 3, "end": 6, "pos": "VERB"}]},
    {"text": "the man", "group": "b", "n": None, "words": [{"start": 4, "end": 7, "pos": "NOUN"}]},
]


def _jsonl(path, rows=ROWS):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def _parquet(path, rows=ROWS):
    pd.DataFrame(rows).convert_dtypes().to_parquet(path)
    return path


class _Dataset:
    """What this library relies on in a Hugging Face dataset."""

    column_names = ("text", "group", "n", "words")

    def __iter__(self):
        return iter(ROWS)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "dataset", "rows"])
def test_columns_become_labels(tmp_path, kind):
    source = {
        "jsonl": lambda: _jsonl(tmp_path / "a.jsonl"),
        "parquet": lambda: _parquet(tmp_path / "a.parquet"),
        "dataset": _Dataset,
        "rows": lambda: ROWS,
    }[kind]()
    index = read_prompts(source, byte_level()).index()
    assert index[index["prompt"] == 0]["group"].tolist() == ["a"] * 5
    assert index[index["prompt"] == 0]["n"].tolist() == [1] * 5
    assert index[index["prompt"] == 1]["n"].isna().all()
    assert index[index["pos"] == "VERB"]["token"].tolist() == [" met"]
    assert index[index["pos"] == "NOUN"]["token"].tolist() == [" m", "a", "n"]
    assert index["pos"].notna().sum() == 4


def test_real_dataset_object():
    datasets = pytest.importorskip("datasets")
    rows = [{k: row[k] for k in ("text", "group")} for row in ROWS]
    prompts = read_prompts(datasets.Dataset.from_list(rows), byte_level())
    assert prompts.texts == ("He met her", "the man")
    assert roles(prompts, 1, "group")[0] == "b"


def test_csv_numbers_and_names(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,n,x,code\n"He met, her",1,0.5,007\nNA,2,,1\n', encoding="utf-8")
    prompts = read_prompts(path, byte_level())
    assert prompts.texts == ("He met, her", "NA")
    assert [roles(prompts, i, "n")[0] for i in (0, 1)] == [1, 2]
    assert [roles(prompts, i, "x")[0] for i in (0, 1)] == [0.5, None]
    assert [roles(prompts, i, "code")[0] for i in (0, 1)] == ["007", "1"]


def test_token_lists_of_a_column_and_nested_columns(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", [{"text": "He met", "t": [1, 2, 3], "meta": {"a": 1}}])
    prompts = read_prompts(path, byte_level())
    assert roles(prompts, name="t") == [None, 1, 2, 3]  # one value per token but BOS
    assert prompts.notes == (f"column 'meta' of {path} was left out: its values are nested",)


@dataclass(frozen=True)
class _Word:
    text: str
    start: int
    end: int
    pos: str
    referent: str | None = None


@dataclass(frozen=True)
class _Document:
    text: str
    words: tuple
    kind: str


def test_annotated_documents():
    gold_words = (_Word("He", 0, 2, "PRON", "Tom"), _Word("met", 3, 6, "VERB"))
    document = _Document("He met her", gold_words, "pair")
    for source in (document, [document]):
        prompts = read_prompts(source, byte_level())
        assert roles(prompts, name="pos") == [None, "PRON", "PRON", "VERB", None]
        assert roles(prompts, name="referent") == [None, "Tom", "Tom", None, None]
        assert roles(prompts, name="kind") == ["pair"] * 5


def test_built_in_sets():
    from interp.demo.language import her_documents

    english = read_prompts("her", byte_level())
    demo = read_prompts("her", byte_level(), language="demo")
    assert demo.texts == tuple(document.text for document in her_documents(n=54))
    assert "pos" in demo.labels
    assert english.texts != demo.texts
    assert len(read_prompts("demo", byte_level())) > 10
    with pytest.raises(BadInput, match=r"unknown language 'englsh'; did you mean 'english'\?"):
        read_prompts("her", byte_level(), language="englsh")


def test_her_sentences(gpt2_tokenizer):
    prompts = read_prompts("her", gpt2_tokenizer).label(target_word("her"))
    texts = prompts.texts
    assert len(texts) >= 60
    assert len(set(texts)) == len(texts)
    assert all(6 <= len(text.split()) <= 30 for text in texts)
    assert {len(re.findall(r"\bher\b", text, re.IGNORECASE)) for text in texts} == {1}
    verbs = [re.search(r"(\w+) her\b", text)[1] for text in texts]
    assert len(set(verbs)) == len(verbs)
    assert tokens_with(prompts, "target") == [" her"] * len(texts)
    previous = tokens_with(prompts, "previous")
    assert all(v.endswith(t.strip()) for v, t in zip(verbs, previous, strict=True))
    assert len(tokens_with(prompts, "random")) == len(texts)
    assert prompts.notes == ()


# --- ids ---------------------------------------------------------------------------------------


def test_token_tensors_get_text_back_and_masks_drop_padding():
    whole = read_prompts(SHORT, byte_level())
    batch = next(whole.batches(sort=False, padding_side="left"))
    again = read_prompts(batch.tokens, byte_level(), mask=batch.mask)
    assert [ids(again, i) for i in range(3)] == [ids(whole, i) for i in range(3)]
    assert again.texts == whole.texts
    assert all((a == b).all() for a, b in zip(again.spans, whole.spans, strict=True))
    assert again.fingerprint() == whole.fingerprint()
    assert again.source == f"token tensor {list(batch.tokens.shape)}"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_ids_without_a_tokenizer(dtype):
    prompts = read_prompts(torch.tensor([[5, 6], [7, 8]], dtype=dtype))
    assert prompts.strings == (("<5>", "<6>"), ("<7>", "<8>"))
    assert not np.concatenate(prompts.special).any()
    assert prompts.texts == (None, None)
    ragged = read_prompts([[5], [7, 8, 9]])
    assert [len(row) for row in ragged.tokens] == [1, 3]
    with pytest.raises(BadInput, match=r"cannot place the target word 'a' in prompt 0: it was gi"):
        ragged.label(target_word("a"))


def test_ids_that_no_text_gives_keep_their_ids():
    vocab = byte_level().get_vocab()
    odd = [vocab["t"], vocab["h"], vocab["e"]]  # the tokenizer would write one token
    prompts = read_prompts([odd], byte_level())
    assert ids(prompts) == odd
    assert prompts.texts == (None,)
    assert prompts.strings == (("t", "h", "e"),)


def test_a_padded_vocabulary_has_names():
    size = len(byte_level())
    prompts = read_prompts([[1, size + 2]], byte_level(), vocab_size=size + 5)
    assert prompts.strings[0][1] == f"<{size + 2}>"


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


def test_index_columns():
    frame = read_prompts(SHORT[:1], byte_level()).index()
    columns = ["prompt", "position", "token", "token_id", "special", "word"]
    assert list(frame.columns) == columns
    assert frame["word"].tolist() == [-1, 0, 0, 1, 2]
    assert frame["position"].tolist() == [0, 1, 2, 3, 4]


# --- batches -----------------------------------------------------------------------------------

lengths = st.lists(st.integers(1, 30), min_size=1, max_size=40)


@given(lengths, st.integers(1, 100), st.sampled_from(["right", "left"]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_batches_hold_every_token_once_within_the_budget(sizes, budget, side, sort):
    rows = [[(7 * i + k) % 50 + 1 for k in range(n)] for i, n in enumerate(sizes)]
    prompts = read_prompts(rows)
    seen = {}
    for batch in prompts.batches(budget, pad_id=0, padding_side=side, sort=sort):
        assert batch.tokens.numel() <= budget or len(batch.ids) == 1
        assert batch.tokens.dtype == batch.ids.dtype == batch.targets.dtype == torch.int64
        assert batch.mask.dtype == batch.special.dtype == torch.bool
        assert (batch.tokens[~batch.mask] == 0).all()
        assert (batch.targets[~batch.mask] == -1).all()
        assert batch.mask.any(dim=0).all()  # no column of padding only
        for r, i in enumerate(batch.ids.tolist()):
            assert i not in seen
            kept = batch.mask[r]
            seen[i] = batch.tokens[r][kept].tolist()
            assert batch.positions[r][kept].tolist() == list(range(sizes[i]))
            assert batch.targets[r][kept].tolist() == [*seen[i][1:], -1]
    assert seen == dict(enumerate(rows))


def test_sides():
    prompts = read_prompts([[1, 2, 3], [4]])
    right = next(prompts.batches(pad_id=9))
    assert right.tokens.tolist() == [[1, 2, 3], [4, 9, 9]]
    left = next(prompts.batches(pad_id=9, padding_side="left"))
    assert left.tokens.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert left.mask.tolist() == [[True] * 3, [False, False, True]]
    assert left.targets.tolist() == [[2, 3, -1], [-1, -1, -1]]


def test_sorting_saves_padding_and_is_deterministic():
    prompts = read_prompts([[1] * n for n in (1, 9, 2, 9, 1, 8) * 50])
    plans = [[b.ids.tolist() for b in prompts.batches(45)] for _ in range(2)]
    assert plans[0] == plans[1]

    def padding(sort):
        return sum(int((~b.mask).sum()) for b in prompts.batches(45, sort=sort))

    assert padding(True) < padding(False) / 5
    assert next(prompts.batches(45, sort=False)).ids.tolist() == [0, 1, 2, 3, 4]
    assert {len(b.ids) for b in prompts.batches(10_000, max_batch=7)} == {7, 6}


def test_a_part_keeps_its_numbers():
    prompts = read_prompts([[1], [2], [3], [4]])
    found = [i for b in prompts.batches(only=[3, 1]) for i in b.ids.tolist()]
    assert sorted(found) == [1, 3]
    assert list(prompts.batches(only=[])) == []


def test_explicit_targets():
    prompts = read_prompts(["He met her"], byte_level(), targets=[[5, -1, -1, 7, 8]])
    assert next(prompts.batches()).targets.tolist() == [[5, -1, -1, 7, 8]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0; the budget"),
        ({"max_batch": 0}, "max_batch=0; a batch holds at least one"),
        ({"padding_side": "lft"}, r"padding_side='lft'; did you mean 'left'\?"),
        ({"only": [2]}, "only= names prompt 2; there are 1, counted from 0"),
    ],
)
def test_batches_refuse(options, message):
    with pytest.raises(BadInput, match=message):
        read_prompts([[1]]).batches(**options)


# --- identity ----------------------------------------------------------------------------------


def test_fingerprint():
    prompts = read_prompts(SHORT, byte_level())
    same = read_prompts(list(SHORT), byte_level())
    assert prompts.fingerprint() == same.fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", prompts.fingerprint())
    others = [
        read_prompts(SHORT[::-1], byte_level()),
        read_prompts(SHORT, byte_level(), prepend_bos=False),
        read_prompts(SHORT, byte_level(), targets=[[-1] * len(row) for row in prompts.tokens]),
        prompts.with_labels("a", [1, 1, 1]),
        prompts.with_labels("a", ["1", "1", "1"]),
        prompts.with_labels("a", [True, True, True]),
        prompts.with_labels("b", [1, 1, 1]),
    ]
    prints = {p.fingerprint() for p in [prompts, *others]}
    assert len(prints) == len(others) + 1


def test_immutable_and_picklable():
    prompts = read_prompts(SHORT, byte_level()).label(target_word("her"))
    for array in (prompts.tokens[0], prompts.special[0], prompts.labels["role"][0]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    again = pickle.loads(pickle.dumps(prompts))  # noqa: S301
    assert isinstance(again, Prompts)
    assert again.fingerprint() == prompts.fingerprint()
    labeller = pickle.loads(pickle.dumps(target_word("her")))  # noqa: S301
    relabelled = read_prompts(SHORT, byte_level()).label(labeller)
    assert relabelled.fingerprint() == prompts.fingerprint()


# --- what is refused ---------------------------------------------------------------------------

TEXT = ["He met her"]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([], {}, "no prompts in the list: at least one is needed"),
        ("", {}, r"prompt 0 is an empty string \(one string"),
        ([*TEXT, ""], {}, r"prompt 1 is an empty string \(list of strings\)"),
        ([*TEXT, 3], {}, "prompt 1 is int, not a string"),
        (["a\ud800"], {}, r"prompt 0: character 1 of 'a\\ud800' is half a character"),
        (3, {}, "cannot read prompts from int; allowed: a list of strings, a token tensor"),
        (TEXT, {"max_length": 3}, "prompt 0 has 5 tokens, the context holds 3; .*truncate=True"),
        (TEXT, {"max_length": 0}, "max_length=0; a context has at least one token"),
        (TEXT, {"vocab_size": 4}, r"prompt 0, position 1: .*\(0 to 3\); is it the model's tok"),
        (TEXT, {"mask": torch.ones(1, 5)}, r"mask= goes with a token tensor \[batch, pos\]"),
        (TEXT, {"labels": {"a": [1, 2]}}, "label 'a': expected 1 prompts, got 2"),
        (TEXT, {"labels": {"a": [[1, 2]]}}, "labels= takes one value per prompt, token_labels="),
        (TEXT, {"labels": {"layer": [1]}}, "label 'layer' has the name of a column .*; rename it"),
        (TEXT, {"labels": ["a"]}, "labels= maps names to values, one for each prompt"),
        (TEXT, {"labels": {"a": [{}]}}, "labels 'a': prompt 0 has dict"),
        (
            TEXT * 2,
            {"labels": {"a": [1, "x"]}},
            "mixes kinds of values: number in prompt 0, str in",
        ),
        (TEXT, {"token_labels": {"a": [1]}}, "'a': prompt 0 has one value, not one a token"),
        (
            TEXT,
            {"token_labels": {"a": [[1, 2]]}},
            r"label 'a', prompt 0: expected 5 values, one per token \(or 4 without .*\); got 2",
        ),
        (TEXT, {"targets": [[1, 2]]}, "targets, prompt 0: expected 5 values"),
        (TEXT, {"targets": []}, "targets: expected 1 prompts, got 0"),
        (TEXT, {"targets": [3]}, "targets: prompt 0 has one value; expected one per token"),
        (TEXT, {"targets": [[1, 2, 3, 4, 999]]}, "position 4: 999 is no id .*0 to 265"),
        ([[1, 2], "a"], {}, "prompt 1 is str; expected a list of token ids"),
        ([1, 2], {}, "a flat list of ids; put it in a list of prompts"),
        ([[1, 2], []], {}, "prompt 1 has no tokens"),
        ([[1, 0.5]], {}, "prompt 0 holds float64; token ids are integers"),
        ([[1, [2, 3]]], {}, "prompt 0 is nested unevenly"),
        ([[[1]]], {}, r"prompt 0 has shape \(1, 1\); expected one row of ids"),
        ([[1, 2, 500]], {}, r"prompt 0, position 2: token id 500 is outside the vocabulary \(0 to"),
        ([[1, -100]], {}, "position 1: token id -100 .*padding is marked by mask="),
        (torch.ones(2, 3), {}, "token tensor of dtype torch.float32; token ids are integers"),
        (torch.ones(2, 3, dtype=torch.bfloat16), {}, "token tensor of dtype torch.bfloat16"),
        (np.ones((2, 3), dtype=bool), {}, "token tensor of dtype bool"),
        (torch.ones(3).long(), {}, r"shape \(3,\); expected \[batch, pos\]; add a batch dimension"),
        (torch.ones(0, 3).long(), {}, r"no tokens in a tensor of shape \(0, 3\)"),
        ([{"text": "a b"}, {"txt": "c"}], {}, r"row 1 has no column 'text'; did you mean 'txt'\?"),
        ([{"text": "a b"}, 3], {}, "row 1 is int, not a mapping"),
        ([{"text": None}], {}, "prompt 0 is NoneType, not a string"),
        ([{"text": "a b", "t": [1]}], {"columns": ["t"]}, "label 't', prompt 0: expected 4 values"),
        ([_Document("a", (), "k"), 3], {}, "prompt 1 is int; it needs .text and .words"),
        (SimpleNamespace(column_names={"train": 1}), {}, r"several splits \(train\); pass one"),
        (SimpleNamespace(column_names=["txt"]), {}, "the dataset has no column 'text'; did you me"),
    ],
)
def test_refused(source, options, message):
    with pytest.raises(BadInput, match=message):
        read_prompts(source, byte_level(), **options)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 4), r"mask of shape \(2, 4\); the tokens have \(2, 3\)"),
        ([[1, 1, 2], [1, 1, 1]], r"mask holds 2 at \[0, 2\]; allowed: 0 for padding, 1 for real"),
        ([[1, 1, 1], [1, 0, 1]], "mask row 1 has a hole at position 1; padding may be at the ends"),
        ([[1, 1, 1], [0, 0, 0]], "mask row 1 is all padding"),
    ],
)
def test_refused_masks(mask, message):
    with pytest.raises(BadInput, match=message):
        read_prompts(torch.ones(2, 3).long(), mask=mask)
    with pytest.raises(BadInput, match="these rows are ragged"):
        read_prompts([[1], [2, 3]], mask=mask)


def test_texts_need_a_tokenizer():
    with pytest.raises(BadInput, match="list of strings holds texts: pass tokenizer="):
        read_prompts(TEXT)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt' is empty"),
        ("a.txt", b" \n\n", "a.txt' is empty"),
        ("a.csv", b"\xef\xbb\xbf", "a.csv' is empty"),
        (
            "a.txt",
            b"fine\n\xff\xfe",
            "line 2: not UTF-8 at byte 0 of the line; save",
        ),
        ("a.tsv", b"x", r"unknown suffix '.tsv'; did you mean '.csv'\? \(allowed: .csv, .jsonl, "),
        ("a.jsonl", b'{"text": "a"}\n\n{"text" "b"}\n', "line 3: not JSON at column 9"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2: expected an object, got list"),
        ("a.jsonl", b'{"txt": "a", "n": 1}\n', r"no column 'text'; did you mean 'txt'\? .*txt, n"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ""}\n', "prompt 1 is an empty string"),
        ("a.csv", b"text,n\n", "has no rows"),
        (
            "a.csv",
            b"body,n\na,1\n",
            r"no column 'text' \(columns: body, n; choose one with text_co",
        ),
        ("a.csv", b"text,n\na,1\nb,c,d\n", "line 3: 3 cells, but the header has 2"),
        ("a.csv", b'text,n\n"a,1\n', "malformed csv"),
        ("a.csv", b"text,text\na,b\n", "column names repeat"),
        ("a.parquet", b"PAR0 no", "is not readable as parquet"),
    ],
)
def test_refused_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_prompts(path, byte_level())


def test_missing_files_and_names(tmp_path):
    (tmp_path / "prompts.txt").write_text("a", encoding="utf-8")
    with pytest.raises(BadInput, match=r"no such file: .*; did you mean 'prompts.txt'\?"):
        read_prompts(str(tmp_path / "promts.txt"), byte_level())
    with pytest.raises(BadInput, match="no such file"):
        read_prompts(Path("nowhere/x.csv"), byte_level())
    with pytest.raises(BadInput, match="is a folder; name a file"):
        read_prompts(tmp_path, byte_level())
    with pytest.raises(UnknownName, match=r"'hre' is neither .* nor a file; did you mean 'her'\?"):
        read_prompts("hre", byte_level())
    with pytest.raises(UnknownName, match=r"put it in a list: \['Hello'\]"):
        read_prompts("Hello", byte_level())
    with pytest.raises(UnknownName, match="is neither a built-in set"):
        read_prompts("x" * 5000, byte_level())
