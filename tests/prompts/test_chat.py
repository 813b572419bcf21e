"""Chat messages: ids as the template gives them, and whose text every token is."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from prompts_help import byte_level
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

import interp
from interp import BadInput
from interp.prompts.messages import conversation
from interp.runs.corpus.sources import open_source, plan
from interp.stats.compare import compare

CONTROLS = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|begin|>", "<|head|>", "<|eot|>")

# --- templates, each written here in the manner of a family ------------------------------------

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful machine.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
)
INSTRUCT = (  # contents stripped, the system text inside the first turn, turns must alternate
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = none %}{% set turns = messages %}"
    "{% endif %}{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if loop.first and first is not none %}"
    "{% set text = '<<SYS>>\n' + first + '\n<</SYS>>\n\n' + m['content'] %}"
    "{% else %}{% set text = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
HEADERS = (
    "{% for m in messages %}{% set text = '<|head|>' + m['role'] + '<|head|>\n\n' "
    "+ m['content'] | trim + '<|eot|>' %}{% if loop.first %}{% set text = bos_token + text %}"
    "{% endif %}{{ text }}{% endfor %}"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% set who = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "<start>{{ who }}\n{{ m['content'] | trim }}<end>\n{% endfor %}"
)
THINKING = (  # what was thought in earlier turns is left out, in the last one it is written anew
    "{% for m in messages %}{% set text = m['content'] %}{% set thought = '' %}"
    "{% if '</think>' in text %}"
    "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{% if thought and loop.last %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ text }}<|im_end|>\n{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@lru_cache
def byte_tokens(template):
    """A byte-level vocabulary with control tokens, and a template."""
    tokenizer = byte_level.__wrapped__()
    tokenizer.add_special_tokens(
        {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": list(CONTROLS)}
    )
    tokenizer.chat_template = template
    return tokenizer


@lru_cache
def spaced_tokens(template):
    """Pieces with the space of SentencePiece before them, and bytes for what they lack."""
    words = ["▁", "▁Hello", "▁there", "▁her", "▁the", "INST", "▁[", "[", "/", "]", "her", "user"]
    pieces = {"<unk>": 0} | {f"<0x{b:02X}>": b + 1 for b in range(256)}
    letters = [chr(c) for c in range(33, 127)]
    merges = [(a, b) for w in words for a, b in zip(_heads(w), w[1:], strict=True) if len(w) > 1]
    for piece in [*letters, "▁", *(a + b for a, b in merges)]:
        pieces.setdefault(piece, len(pieces))
    core = Tokenizer(models.BPE(pieces, merges, unk_token="<unk>", byte_fallback=True))  # noqa: S106
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **named)
    tokenizer.chat_template = template
    return tokenizer


def _heads(word):
    return [word[:i] for i in range(1, len(word))]


# --- the same conversations by hand: (role, text) pieces ---------------------------------------


T = "template"


def chatml_pieces(messages):
    if messages[0]["role"] != "system":
        yield T, "<|im_start|>system\nYou are a helpful machine.<|im_end|>\n"
    for m in messages:
        yield T, f"<|im_start|>{m['role']}\n"
        yield m["role"], m["content"]
        yield T, "<|im_end|>\n"


def header_pieces(messages):
    for i, m in enumerate(messages):
        yield T, ("" if i else "<s>") + f"<|head|>{m['role']}<|head|>\n\n"
        yield m["role"], m["content"].strip()
        yield T, "<|eot|>"


def turn_pieces(messages):
    yield T, "<s>"
    for m in messages:
        yield T, f"<start>{m['role'].replace('assistant', 'model')}\n"
        yield m["role"], m["content"].strip()
        yield T, "<end>\n"


def instruct_pieces(messages):
    turns = list(messages)
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else None
    for i, m in enumerate(turns):
        if m["role"] == "assistant":
            yield from ((T, " "), ("assistant", m["content"].strip()), (T, " </s>"))
            continue
        yield T, "<s>[INST] "
        if i == 0 and system is not None:
            # The system text comes first, so only the end of the user's is stripped.
            yield from ((T, "<<SYS>>\n"), ("system", system), (T, "\n<</SYS>>\n\n"))
            yield "user", m["content"].rstrip()
        else:
            yield "user", m["content"].strip()
        yield T, " [/INST]"


BY_HAND = {
    CHATML: chatml_pieces,
    HEADERS: header_pieces,
    TURNS: turn_pieces,
    INSTRUCT: instruct_pieces,
    PLAIN: lambda messages: ((m["role"], m["content"]) for m in messages),
}


def expected_roles(pieces, tokenizer):
    """Role of each token by the characters of its span, spaces at its ends left out."""
    text = "".join(piece for _, piece in pieces)
    owners = [role for role, piece in pieces for _ in piece]
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    out = []
    for start, end in encoding["offset_mapping"]:
        inner = [i for i in range(start, end) if not text[i].isspace()]
        among = {owners[i] for i in (inner or range(start, max(end, start + 1)))}
        # From the first to the last character that is no space, as `trimmed` cuts.
        if inner:
            among = {owners[i] for i in range(inner[0], inner[-1] + 1)}
        out.append(among.pop() if len(among) == 1 else "template")
    return text, encoding["input_ids"], out


def say(*texts, system=None):
    turns = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)
    ]
    return ([{"role": "system", "content": system}] if system is not None else []) + turns


CHATS = {
    "short": say("Hello there"),
    "answered": say("Hello there", "her"),
    "equal contents": say("her", "her", "her", "user"),
    "a word of the template": say("user", "assistant", "system", "template"),
    "spaces at the ends": say(" \n Hello  there \n\n", "\t her\n"),
    "only spaces": say(" \n", "her"),
    "empty": say("Hello", "", "her"),
    "other scripts": say("日本 e\u0301 👩‍👧", "—\u00a0her\u00a0"),
    "marks of the template": say("[INST] <<SYS>> her <|im", "|im_end|> [/INST]"),
    "control tokens": say("a<|im_end|>\n<|im_start|>assistant\nher</s>", "the"),
    "rare characters": say("\U00040000\U000a1234\u2003her\u2028", "\ue000"),
}
SYSTEM = {
    "system": say("Hello there", "her", system="You speak of her."),
    "system of spaces": say("Hello there", "her", system="\n the \n"),
    "system and equal turns": say("her", "her", system="her"),
}


@pytest.mark.parametrize("make", [byte_tokens, spaced_tokens])
@pytest.mark.parametrize("template", [CHATML, INSTRUCT, HEADERS, TURNS, PLAIN], ids="CIHTP")
def test_every_token_has_the_role_of_who_wrote_it(template, make):
    tokenizer = make(template)
    chats = CHATS | ({} if template is TURNS else SYSTEM)
    for name, messages in chats.items():
        pieces = list(BY_HAND[template](messages))
        text, ids, roles = expected_roles(pieces, tokenizer)
        assert text == tokenizer.apply_chat_template(messages, tokenize=False), name
        prompts = interp.read_prompts(messages, tokenizer)
        assert prompts.tokens[0].tolist() == ids, name
        assert ids == tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"], name
        assert list(prompts.labels["role"][0]) == roles, name


def test_what_the_template_and_the_tokenizer_added_is_special_and_has_no_text():
    tokenizer = byte_tokens(CHATML)
    prompts = interp.read_prompts(say("he met her", "the"), tokenizer)
    index = prompts.index()
    assert (index["special"] == (index["role"] == "template")).all()
    assert "".join(index["token"][~index["special"]]) == "he met herthe"
    assert (index["word"][index["special"]] == -1).all()
    assert prompts.texts[0].split() == ["he", "met", "her", "the"]
    # The default system prompt has "helpful"; no label is put on a word of the template.
    with pytest.raises(BadInput, match="'helpful' occurs in none of the 1 prompts"):
        prompts.label(interp.target_word("helpful", name="word_role"))
    marked = prompts.label(interp.target_word("her", name="word_role"))
    found = marked.index()
    assert found["token"][found["word_role"] == "target"].tolist() == [" her"]


def test_control_tokens_in_a_content_are_read_as_the_tokenizer_reads_them_and_told():
    tokenizer = byte_tokens(CHATML)
    prompts = interp.read_prompts(say("a<|im_end|>b", "</s>"), tokenizer)
    index = prompts.index()
    inside = index[index["role"] != "template"]
    assert inside["token"].tolist() == ["a", "<|im_end|>", "b", "</s>"]
    assert inside["special"].tolist() == [False, True, False, True]
    assert inside["role"].tolist() == ["user"] * 3 + ["assistant"]
    (note,) = prompts.notes
    assert note.startswith("contents hold 2 control tokens (the first: '<|im_end|>' in prompt 0)")


def test_a_token_of_a_content_and_the_template_is_the_templates_and_is_told():
    tokenizer = byte_level.__wrapped__()  # "t" and "h" and "e" join to one token
    tokenizer.chat_template = "{% for m in messages %}t{{ m['content'] }}{% endfor %}"
    prompts = interp.read_prompts(say("he he"), tokenizer)
    assert prompts.strings[0] == ("the", " he")
    assert list(prompts.labels["role"][0]) == ["template", "user"]
    assert "1 tokens hold characters of two roles" in prompts.notes[0]


def test_thoughts_that_the_template_leaves_out_are_told_and_the_rest_is_right():
    tokenizer = byte_tokens(THINKING)
    messages = say("her", "<think>\nold\n</think>\n\nthe", "met", "<think>\nnew\n</think>\n\nhe\n")
    prompts = interp.read_prompts(messages, tokenizer)
    whole = tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]
    assert prompts.tokens[0].tolist() == whole
    index = prompts.index()
    said = index[index["role"] == "assistant"]
    assert re.sub(r"\s", "", "".join(said["token"])).replace("</think>", "") == "thenewhe"
    assert index[index["role"] == "user"]["token"].str.cat() == "hermet"
    assert prompts.notes == (
        "the chat template leaves out text of 1 messages (the first: prompt 0, message 1 "
        "(assistant))",
    )


def test_a_default_system_prompt_is_the_templates_and_a_given_one_the_systems():
    tokenizer = byte_tokens(CHATML)
    added = interp.read_prompts(say("he"), tokenizer)
    given = interp.read_prompts(say("he", system="You are a helpful machine."), tokenizer)
    assert added.tokens[0].tolist() == given.tokens[0].tolist()
    assert set(added.labels["role"][0]) == {"template", "user"}
    index = given.index()
    assert index[index["role"] == "system"]["token"].str.cat() == "You are a helpful machine."


def test_bos_is_where_the_template_has_it():
    for prepend in (True, False, None):
        one = interp.read_prompts(say("he"), byte_tokens(HEADERS), prepend_bos=prepend)
        assert one.strings[0].count("<s>") == 1
        none = interp.read_prompts(say("he"), byte_tokens(CHATML), prepend_bos=prepend)
        assert none.strings[0][0] == "<|im_start|>"


# --- sources ----------------------------------------------------------------------------------

TWO = [say("Hello there", "her"), say("the", system="You met her.")]


def _sources(folder: Path):
    rows = [{"messages": chat, "kind": kind} for chat, kind in zip(TWO, "ab", strict=True)]
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = pa.table({"messages": TWO, "kind": ["a", "b"]})
    pq.write_table(table, folder / "chats.parquet")
    return {
        "conversations": TWO,
        "tuples": [tuple(chat) for chat in TWO],
        "rows": rows,
        "columns": {"messages": TWO, "kind": ["a", "b"]},
        "frame": pd.DataFrame(rows),
        "frame of arrays": pd.read_parquet(folder / "chats.parquet"),
        "series": pd.Series(TWO),
        "arrow": table,
        "jsonl": str(path),
        "path": path,
        "parquet": folder / "chats.parquet",
        "parts": [
            [m | {"content": [{"type": "text", "text": m["content"]}]} for m in chat]
            for chat in TWO
        ],
        "shared": [
            {"conversations": [{"from": _shared(m["role"]), "value": m["content"]} for m in c]}
            for c in TWO
        ],
    }


def _shared(role):
    return {"user": "human", "assistant": "gpt"}.get(role, role)


def test_every_source_gives_the_same_prompts(tmp_path):
    tokenizer = byte_tokens(CHATML)
    whole = [tokenizer.apply_chat_template(c, tokenize=True)["input_ids"] for c in TWO]
    for name, source in _sources(tmp_path).items():
        prompts = interp.read_prompts(source, tokenizer)
        assert [ids.tolist() for ids in prompts.tokens] == whole, name
        assert "system" in prompts.labels["role"][1], name
        if "kind" in prompts.labels:
            assert [cells[0] for cells in prompts.labels["kind"]] == ["a", "b"], name
    one = interp.read_prompts(TWO[0], tokenizer)
    assert one.tokens[0].tolist() == whole[0]
    assert interp.read_prompts({"messages": TWO[0]}, tokenizer).tokens[0].tolist() == whole[0]
    named = interp.read_prompts([{"talk": c} for c in TWO], tokenizer, text_column="talk")
    assert [ids.tolist() for ids in named.tokens] == whole


def test_a_data_set_is_read_too():
    datasets = pytest.importorskip("datasets")
    tokenizer = byte_tokens(CHATML)
    data = datasets.Dataset.from_list([{"messages": chat} for chat in TWO])
    prompts = interp.read_prompts(data, tokenizer)
    assert [list(map(int, ids)) for ids in prompts.tokens] == [
        tokenizer.apply_chat_template(c, tokenize=True)["input_ids"] for c in TWO
    ]


def test_the_label_can_have_another_name_and_clashes_are_refused():
    tokenizer = byte_tokens(CHATML)
    named = interp.read_prompts(TWO, tokenizer, labels={"speaker": "role"})
    assert set(named.labels) == {"speaker"}
    rows = [{"messages": chat, "role": "x"} for chat in TWO]
    with pytest.raises(BadInput, match=r"list of rows has a column 'role', and chat messages have"):
        interp.read_prompts(rows, tokenizer)
    both = interp.read_prompts(rows, tokenizer, labels={"kind": "role"})
    assert set(both.labels["kind"][0]) == {"x"}
    assert "user" in both.labels["role"][0]


def test_long_conversations_are_refused_or_cut():
    tokenizer = byte_tokens(CHATML)
    n = len(interp.read_prompts(TWO[0], tokenizer).tokens[0])
    with pytest.raises(BadInput, match=f"prompt 0 has {n} tokens, the context holds 9"):
        interp.read_prompts(TWO[0], tokenizer, max_length=9)
    cut = interp.read_prompts(TWO[0], tokenizer, max_length=n - 3, truncate=True)
    assert len(cut.tokens[0]) == len(cut.labels["role"][0]) == n - 3


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            [{"role": "user"}],
            r"prompt 0, message 0 \(user\) has no content; a message needs a text under 'content'",
        ),
        (
            [say("a", "b"), [{"role": "assistant", "content": None, "tool_calls": []}]],
            r"prompt 1, message 0 \(assistant\) has no content; .*only calls tools can be left out",
        ),
        (
            [{"role": "asistant", "content": "a"}],
            r"prompt 0, message 0 has the role 'asistant'.*'assistant'.*allowed: system, user, ass",
        ),
        ([{"role": "tool", "content": "a"}], "the role 'tool'; allowed: system, user, assistant"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
            r"0 \(user\): its content has a part of type 'image'; only parts of type 'text'",
        ),
        ([{"role": "user", "content": 3}], r"message 0 \(user\): its content is int; expected"),
        ([{"role": "user", "content": "\ud800"}], "is half a character"),
        ([say("a"), []], "prompt 1 has no messages; a conversation needs at least one"),
        ([say("a"), "b"], "prompt 1 is str; expected a list of chat messages"),
        ([say("a"), ["b"]], "prompt 1, message 0 is str; a message is a mapping with 'role'"),
        ([{"role": "user", "content": "a"}, {"content": "b"}], r"message 1 has no 'role' \(its"),
        ({"role": "user", "content": "a"}, r"one chat message; put it in a list, .*\[message\]"),
        ([{"messages": say("a")}, {"messages": None}], "list of rows: prompt 1 is NoneType"),
        ([{"messages": say("a")}, {"text": "b"}], "row 1 has no column 'messages'|row 0 has no c"),
    ],
)
def test_bad_messages_are_refused_with_their_place(source, message):
    with pytest.raises(BadInput, match=message):
        interp.read_prompts(source, byte_tokens(CHATML))


def test_a_mask_is_refused_with_chats():
    with pytest.raises(BadInput, match="mask= goes with a token tensor"):
        interp.read_prompts(say("a"), byte_tokens(CHATML), mask=[[1]])


def test_a_tokenizer_without_template_is_refused():
    with pytest.raises(BadInput, match=r"has no chat template, so that .*or pass texts"):
        interp.read_prompts(say("a"), byte_level())
    with pytest.raises(BadInput, match="the list of messages|list of messages holds chat messages"):
        interp.read_prompts(say("a"))


def test_the_templates_own_refusals_are_told():
    with pytest.raises(
        BadInput,
        match=r"prompt 1: the tokenizer's chat template refuses the conversation \(user, user\): "
        "roles must alternate user/assistant",
    ):
        twice = [{"role": "user", "content": "a"}] * 2
        interp.read_prompts([say("a"), twice], byte_tokens(INSTRUCT))
    with pytest.raises(BadInput, match=r"\(system, user\): System role not supported"):
        interp.read_prompts(say("a", system="b"), byte_tokens(TURNS))
    broken = byte_tokens("{{ messages[0]['content'] + 3 }}")
    with pytest.raises(BadInput, match="prompt 0: the tokenizer's chat template refuses"):
        interp.read_prompts(say("a"), broken)


def test_a_template_that_rewrites_contents_is_refused():
    shouting = byte_tokens("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}")
    with pytest.raises(
        BadInput, match=r"prompt 0: the tokenizer's chat template rewrites .*token_l"
    ):
        interp.read_prompts(say("Hello"), shouting)


def test_a_template_that_asks_for_a_word_is_given_it():
    strict = byte_tokens(
        "{% for m in messages %}{% if 'Answer:' not in m['content'] %}"
        "{{ raise_exception('no answer') }}{% endif %}> {{ m['content'] }}{% endfor %}"
    )
    prompts = interp.read_prompts(say("the Answer: her"), strict)
    index = prompts.index()
    # The space before "the" is the template's, and in one token with the word.
    assert index[index["role"] == "user"]["token"].str.cat() == " the Answer: her"
    assert index[index["role"] == "template"]["token"].str.cat() == ">"


def test_a_conversation_that_is_too_long_to_be_followed_is_refused():
    with pytest.raises(BadInput, match="has 655,361 characters; the roles of a conversation can"):
        interp.read_prompts(say("a" * 655_361), byte_tokens(CHATML))


def test_a_column_of_texts_under_a_name_of_chats_is_told_how_it_is_read():
    rows = [{"chat": "the man"}]
    with pytest.raises(BadInput, match=r"prompt 0 is str; .*read by its name, text_column="):
        interp.read_prompts(rows, byte_tokens(CHATML))
    assert interp.read_prompts(rows, byte_level(), text_column="chat").texts == ("the man",)


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "he "}, {"text": "met"}, " her"]
    (message,) = conversation([{"role": "user", "content": parts}], "prompt 0")
    assert message["content"] == "he met her"


# --- runs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talking():
    """The embedded model with a template of its own: its text is words of the demo language."""
    model = interp.load_model("demo")
    model.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %} the {{ m['role'] }}:{{ m['content'] }}.{% endfor %}"
    )
    yield model
    model.tokenizer.chat_template = None


TALKS = [
    say(" the doctor met her", " the teacher saw the farmer"),
    say(" the farmer met the teacher", " her doctor saw him", " the baker met her"),
    say(" the teacher met her", " the farmer met him", system=" the doctor saw her"),
]


def test_a_run_leaves_the_template_out_and_compares_speakers(talking, tmp_path):
    results = interp.run(talking, TALKS, ["norm"], progress=False)
    frame = results["norm"].frame
    assert set(frame["role"]) == {"system", "user", "assistant", "template"}
    assert (frame["special"] == (frame["role"] == "template")).all()
    summary = results["norm"].summary(["layer"])
    own = frame[(frame["role"] != "template") & (frame["layer"] == 0)]["norm"]
    assert summary["n"].iloc[0] == len(own)
    assert summary["mean"].iloc[0] == pytest.approx(own.mean())
    everything = results["norm"].summary(["layer"], special=True)
    assert everything["n"].iloc[0] == (frame["layer"] == 0).sum()
    found = compare(results["norm"], "norm", "role", "user", "assistant", resamples=50)
    users = frame[(frame["role"] == "user") & (frame["layer"] == 1)]["norm"]
    assert found.frame["n_a"].iloc[1] == len(users)
    assert found.frame["mean_a"].iloc[1] == pytest.approx(users.mean())
    with pytest.raises(BadInput, match="role 'template' occurs in special tokens only"):
        compare(results["norm"], "norm", "role", "template", "user", resamples=50)
    groups = interp.experiments.by_group(results, "norm", "role", resamples=50)
    assert set(groups.groups) == {"user", "assistant"}  # one prompt alone has a system
    kept = compare(results["norm"], "norm", "role", "template", "user", special=True, resamples=50)
    assert (
        kept.frame["n_a"].iloc[0]
        == (own.index.size * 0) + ((frame["role"] == "template") & (frame["layer"] == 0)).sum()
    )
    page = results.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "assistant" in page


def test_a_target_word_beside_the_speakers_needs_another_name(talking):
    with pytest.raises(BadInput, match="label 'role' is there already, and a labeller"):
        interp.run(talking, TALKS, ["norm"], target="her", progress=False)
    both = interp.run(
        talking, TALKS, ["norm"], target="her", labels={"speaker": "role"}, progress=False
    )
    frame = both["norm"].frame
    assert set(frame["speaker"][frame["role"] == "target"]) == {"user", "assistant", "system"}


def test_attached_passes_know_the_speakers(talking):
    prompts = interp.read_prompts(TALKS, talking.tokenizer)
    run = interp.run(talking, TALKS, ["norm"], progress=False)["norm"].frame
    with interp.attach(talking, "norm", prompts=prompts) as probes:
        for batch in prompts.batches(pad_id=0):
            talking(batch.tokens, attention_mask=batch.mask.long())
    frame = probes["norm"].frame
    order = sorted(range(3), key=lambda i: -len(prompts.tokens[i]))  # as batches sort them
    columns = ["position", "token_id", "role", "special", "norm"]
    for number, i in enumerate(order):
        one = frame[frame["prompt"] == number].sort_values(["layer", "position"])
        two = run[run["prompt"] == i].sort_values(["layer", "position"])
        pd.testing.assert_frame_equal(
            one[columns].reset_index(drop=True),
            two[columns].reset_index(drop=True),
            check_dtype=False,
            rtol=1e-4,
        )


def test_what_is_generated_after_a_chat_has_no_speaker(talking):
    prompts = interp.read_prompts(TALKS[0], talking.tokenizer)
    ids = torch.tensor(prompts.tokens[0])[None]
    with interp.attach(talking, "norm", prompts=prompts) as probes:
        longer = torch.cat([ids, ids[:, 1:4]], 1)
        talking(longer)
        talking(ids[:, :-1])
    frame = probes["norm"].frame
    first = frame[(frame["prompt"] == 0) & (frame["layer"] == 0)]
    cells = first["role"].astype(object).where(first["role"].notna(), None)
    assert cells.tolist() == [*prompts.labels["role"][0], None, None, None]
    assert frame[frame["prompt"] == 1]["role"].isna().all()
    with pytest.raises(BadInput, match="label 'role' comes with the prompts already"):
        probes.label(role="x")
    with pytest.raises(BadInput, match="prompts= is list; read them first"):
        interp.attach(talking, "norm", prompts=TALKS)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "list", "rows", "table"])
def test_a_corpus_of_chats_has_the_same_speakers(talking, tmp_path, kind):
    rows = [{"messages": chat} for chat in TALKS]
    source = {"list": TALKS, "rows": rows, "table": pa.table({"messages": TALKS})}.get(kind)
    if source is None:
        source = tmp_path / f"c.{kind}"
        if kind == "jsonl":
            source.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        else:
            pq.write_table(pa.table({"messages": TALKS}), source)
    run = interp.run_corpus(
        talking, source, ["norm"], out=tmp_path / "out", by=["role"], progress=False
    )
    assert run.failures.empty
    table = run.open()["norm"].frame
    plain = interp.run(talking, TALKS, ["norm"], keep="summary", by=["role"], progress=False)
    other = plain["norm"].frame
    keys = ["layer", "role"]
    one = table[table["value"] == "norm"].sort_values(keys)[[*keys, "n", "mean"]]
    two = other[other["value"] == "norm"].sort_values(keys)[[*keys, "n", "mean"]]
    one, two = (t[t["role"].notna() & (t["role"] != "")].reset_index(drop=True) for t in (one, two))
    assert set(one["role"]) == {"user", "assistant", "system"}
    pd.testing.assert_frame_equal(one, two, check_dtype=False, rtol=1e-5)


def test_a_corpus_keeps_rows_with_speakers_and_refuses_one_conversation(talking, tmp_path):
    run = interp.run_corpus(
        talking,
        TALKS,
        ["norm"],
        out=tmp_path / "out",
        keep="tokens",
        labels={"speaker": "role"},
        progress=False,
    )
    rows = pd.read_parquet(run.folder / "norm")
    assert set(rows["speaker"]) == {"system", "user", "assistant", "template"}
    with pytest.raises(BadInput, match="the list is one conversation, and a corpus has several"):
        open_source(TALKS[0])
    with pytest.raises(interp.InterpError, match="label 'role' is there already"):
        interp.run_corpus(
            talking, TALKS, ["norm"], out=tmp_path / "x", target="her", progress=False
        )


def test_chunks_of_a_long_chat_repeat_control_tokens_only():
    from interp.runs.corpus.documents import Reading, read_window

    tokenizer = byte_tokens(CHATML)
    source = open_source([say("the man met her there " * 4)])
    documents = list(source.read(plan(source).shards[0]))
    chunks, failures = read_window(documents, tokenizer, Reading(limit=24, stride=100))
    assert not failures
    strings = chunks.prompts.strings
    assert all(row[0] == "<|im_start|>" for row in strings)
    assert len(strings) > 2
    assert strings[1][1] != "s"
    own = np.concatenate(chunks.prompts.labels["role"]) == "user"
    text = "".join(t for t, o in zip((t for r in strings for t in r), own, strict=True) if o)
    assert text == "the man met her there " * 4


def test_ids_outside_the_models_vocabulary_are_refused():
    with pytest.raises(BadInput, match=r"is outside the vocabulary \(0 to 99\); is it the model's"):
        interp.read_prompts(say("her"), byte_tokens(CHATML), vocab_size=100)
