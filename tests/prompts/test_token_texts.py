"""Text to ids, words and readable pieces, for every kind of tokenizer."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts_help import BOS, _bpe, _wrap, byte_level, ids
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import interp
from interp.errors import BadInput
from interp.prompts.labels import target_word
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
