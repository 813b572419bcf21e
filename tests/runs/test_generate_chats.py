"""Chats that a model continues: where they end, who speaks, and what is special."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from interp.errors import BadInput
from interp.prompts.messages import TEMPLATE
from interp.runs.generate import generate

HEADED = (
    "{{ bos_token }}{% for m in messages %} the {{ m['role'] }}:{{ m['content'] }}.{% endfor %}"
    "{% if add_generation_prompt %} the assistant:{% endif %}"
)
HEADLESS = HEADED.partition("{% if")[0]


@pytest.fixture
def talking():
    model = interp.load_model("demo")
    before = model.tokenizer.chat_template
    model.tokenizer.chat_template = HEADED
    yield model
    model.tokenizer.chat_template = before


def say(*contents, roles=("user", "assistant")):
    return [{"role": roles[i % len(roles)], "content": text} for i, text in enumerate(contents)]


TALKS = [
    say(" the doctor met her"),
    say(" the farmer met the teacher", " her doctor saw him", " the baker met her"),
]


def written(model, prompts, **options):
    options = {"max_new_tokens": 5, "stop": [], "progress": False} | options
    return generate(model, prompts, ["norm"], **options)


def test_a_chat_ends_with_the_header_of_a_reply_as_the_tokenizer_writes_it(talking):
    results = written(talking, TALKS)
    for number, talk in enumerate(TALKS):
        rows = results.tokens[results.tokens["prompt"] == number]
        given = rows.loc[~rows["generated"], "token_id"].tolist()
        wanted = talking.tokenizer.apply_chat_template(talk, add_generation_prompt=True)
        wanted = wanted["input_ids"] if hasattr(wanted, "keys") else wanted
        assert given == list(wanted)


def test_the_model_continues_its_own_last_message(talking):
    talk = say(" the doctor met her", " the teacher saw")
    rows = written(talking, [talk]).tokens
    given = rows.loc[~rows["generated"], "token_id"].tolist()
    wanted = talking.tokenizer.apply_chat_template(talk, continue_final_message=True)
    assert given == list(wanted["input_ids"] if hasattr(wanted, "keys") else wanted)
    assert rows.loc[~rows["generated"], "role"].tolist()[-1] == "assistant"
    assert not rows["special"].tolist()[len(given) - 1]


def test_roles_and_special_tokens_of_the_prompt_stay_and_the_reply_is_the_assistants(talking):
    rows = written(talking, TALKS, labels={"kind": ["a", "b"]}).tokens
    new = rows["generated"]
    assert set(rows.loc[new, "role"]) == {"assistant"}
    for number, talk in enumerate(TALKS):
        read = interp.read_prompts([talk], talking.tokenizer, generation_prompt=True)
        own = rows[(rows["prompt"] == number) & ~new]
        assert own["role"].tolist() == list(read.labels["role"][0])
        assert own["special"].tolist() == read.special[0].tolist()
        assert own["special"].tolist() == [r == TEMPLATE for r in own["role"]]
        words = own["word"].to_numpy()
        assert (words[own["special"].to_numpy()] == -1).all()
    assert not rows.loc[new, "special"].any()
    assert rows.groupby("prompt")["kind"].unique().map(list).tolist() == [["a"], ["b"]]


def test_a_labeller_sees_no_words_of_the_template(talking):
    seen = []

    def look(prompts):
        seen.extend(prompts.texts)
        return prompts

    results = written(talking, TALKS, labellers=[look])
    for text, new in zip(seen, results.texts["text"], strict=True):
        assert "user" not in text
        assert "assistant" not in text
        assert "met" in text
        assert text.endswith(new)


def test_the_speaker_may_have_another_name(talking):
    results = written(talking, TALKS, labels={"speaker": "role"}, target="doctor")
    rows = results.tokens
    assert set(rows.loc[rows["generated"], "speaker"]) == {"assistant"}
    assert "target" in set(rows["role"].dropna())


def test_prompts_that_were_read_before_are_continued_as_they_are(talking):
    plain, ended = (
        interp.read_prompts(TALKS, talking.tokenizer, generation_prompt=flag)
        for flag in (False, True)
    )
    assert all(len(a) < len(b) for a, b in zip(plain.tokens, ended.tokens, strict=True))
    one, two = (written(talking, TALKS), written(talking, ended))
    assert one.tokens.equals(two.tokens)
    other = written(talking, plain)
    assert set(other.tokens.loc[other.tokens["generated"], "role"]) == {"assistant"}
    lengths = other.tokens[~other.tokens["generated"]].groupby("prompt").size()
    assert lengths.tolist() == [len(row) for row in plain.tokens]


def test_a_template_without_a_header_is_told(talking):
    talking.tokenizer.chat_template = HEADLESS
    results = written(talking, TALKS)
    told = results.provenance["prompts"]["notes"]
    assert any("writes no header for the reply to 2 prompts" in note for note in told)


def test_an_empty_last_message_of_the_assistant_is_refused(talking):
    with pytest.raises(BadInput, match="prompt 0: the last message is the assistant's and empty"):
        written(talking, [say(" the doctor met her", " ")])


def test_texts_without_chats_are_read_as_before(talking):
    texts = ["The river", "Leo met"]
    rows = written(talking, texts).tokens
    read = interp.read_prompts(texts, talking.tokenizer)
    for number, ids in enumerate(read.tokens):
        own = rows[(rows["prompt"] == number) & ~rows["generated"]]
        assert np.array_equal(own["token_id"], ids)
    assert "role" not in rows


# ---- the model stops at once -------------------------------------------------------------------


def first_of(model, prompt) -> int:
    rows = written(model, [prompt], max_new_tokens=1).tokens
    return int(rows.loc[rows["generated"], "token_id"].iloc[0])


def test_a_generation_that_is_empty_everywhere_is_refused(talking):
    stop = first_of(talking, "Leo met")
    with pytest.raises(
        BadInput, match=r"stopped at once after every prompt: .*stop=\[\] writes on"
    ):
        written(talking, ["Leo met"], stop=[stop])


def test_an_empty_text_among_others_is_told(talking):
    stops = [first_of(talking, text) for text in ("Leo met", "The river")]
    assert stops[0] != stops[1]
    results = written(talking, ["The river", "Leo met"], stop=[stops[0]])
    assert results.texts["new_tokens"].tolist()[1] == 1
    notes = results.provenance["prompts"]["notes"]
    assert any("1 of 2 texts are empty" in n and "the first is prompt 1" in n for n in notes)


def test_bad_prompts_are_refused_before_a_model_is_loaded():
    with pytest.raises(BadInput, match="prompt"):
        generate("no such model", [], progress=False)


def test_a_corpus_of_chats_is_continued_like_prompts(talking, tmp_path):
    rows = [{"messages": talk} for talk in TALKS]
    done = interp.run_corpus(talking, rows, ["norm"], out=tmp_path / "out", keep="tokens",
                             labels=["role"], generate=5, stop=[], progress=False)  # fmt: skip
    keys = ["layer", "prompt", "position"]
    found = done.open()["norm"].frame.sort_values(keys, ignore_index=True)
    right = written(talking, TALKS)["norm"].frame.sort_values(keys, ignore_index=True)
    for column in ("token_id", "special", "generated", "generation_step"):
        assert found[column].tolist() == right[column].tolist(), column
    assert found["role"].astype(object).tolist() == right["role"].tolist()
    np.testing.assert_allclose(found["norm"], right["norm"], rtol=1e-4)
    summary = interp.run_corpus(talking, rows, ["norm"], out=tmp_path / "s", by=["role"],
                                generate=5, stop=[], progress=False).open()  # fmt: skip
    assert {"user", "assistant"} <= set(summary["norm"].frame["role"])
