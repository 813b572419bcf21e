"""Word vectors: read from files and taken from models."""

from __future__ import annotations

import numpy as np
import pytest
from spaces_help import (
    pieces_model,
    rng,
)

import interp
import interp.demo
from interp import BadInput
from interp.errors import UnknownName
from interp.experiments import WordSpace, compare_spaces
from interp.measures.similarity import linear_cka


def write(path, text: str):
    path.write_text(text, encoding="utf-8")
    return path


def test_word2vec_and_glove_text(tmp_path):
    body = "the 1 2 3\nNew York -1 0.5 1e-2\nthe 9 9 9\nnaïve 0 0 1\n"
    for name, text in (("w2v.txt", "4 3\n" + body), ("glove.txt", body)):
        space = interp.experiments.read_word_vectors(write(tmp_path / name, text))
        assert space.words == ("the", "New York", "naïve")
        np.testing.assert_array_equal(space.vectors, [[1, 2, 3], [-1, 0.5, 0.01], [0, 0, 1]])
        assert space.notes == (f"1 words of {name} are there twice; the first counts",)
    more = interp.experiments.read_word_vectors(write(tmp_path / "more.txt", "2 3\n" + body))
    assert "the first line of more.txt promises 2 words; all 4 were read" in more.notes
    first = interp.experiments.read_word_vectors(tmp_path / "w2v.txt", limit=2)
    assert first.words == ("the", "New York")
    assert first.explore().find("New York") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3 2\na 1 2\nb 3 4\n", "is cut short: its first line promises 3 words, it has 2"),
        ("2 3\na 1 2 3\nb 4 5", "line 3: 2 numbers after the word, expected 3; the line, or"),
        ("a 1 2\nb 3 4 5\n", "line 2: 3 numbers .* expected 2; this line, or the first one, is"),
        ("a 1 2\nb 3 x\n", "line 2: not a word and 2 numbers"),
        ("a 1 nan\n", "line 1: the vector of 'a' holds NaN"),
        ("a 1 2\nb\n", "line 2: 0 numbers after the word, expected 2"),
        ("", "holds no word vectors"),
        ("5 3\n", "holds no word vectors"),
    ],
)
def test_damaged_vector_files_say_where(tmp_path, text, message):
    with pytest.raises(BadInput, match=message):
        interp.experiments.read_word_vectors(write(tmp_path / "v.txt", text))


def test_vector_files_that_cannot_be_read(tmp_path):
    write(tmp_path / "glove.txt", "a 1 2\n")
    with pytest.raises(
        UnknownName, match="unknown file of word vectors '.*glov.txt'; did you mean 'glove.txt'"
    ):
        interp.experiments.read_word_vectors(tmp_path / "glov.txt")
    (tmp_path / "v.txt").write_bytes(b"2 1\na \x00\xff\x80?")
    with pytest.raises(BadInput, match="line 2: not UTF-8; .*binary=True"):
        interp.experiments.read_word_vectors(tmp_path / "v.txt")
    with pytest.raises(BadInput, match="limit is 0"):
        interp.experiments.read_word_vectors(tmp_path / "glove.txt", limit=0)


def binary_file(path, words, vectors):
    parts = [f"{len(words)} {vectors.shape[1]}\n".encode()]
    for word, vector in zip(words, vectors, strict=True):
        parts.append(word.encode() + b" " + vector.astype("<f4").tobytes() + b"\n")
    path.write_bytes(b"".join(parts))
    return path


def test_binary_vectors_are_gensims_or_refused_by_name(tmp_path, monkeypatch):
    vectors = rng().normal(size=(3, 4)).astype(np.float32)
    path = binary_file(tmp_path / "v.bin", ["one", "two", "one"], vectors)
    monkeypatch.setitem(__import__("sys").modules, "gensim.models", None)
    with pytest.raises(BadInput, match=r"gensim reads: pip install 'interp-stream\[vectors\]'"):
        interp.experiments.read_word_vectors(path)
    monkeypatch.undo()
    gensim = pytest.importorskip("gensim")
    space = interp.experiments.read_word_vectors(path)
    assert space.words == ("one", "two")
    np.testing.assert_array_equal(space.vectors, vectors[:2])
    assert space.notes == ("1 words of v.bin are there twice; the first counts",)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadInput, match="cannot be read as word2vec's binary format; it is cut"):
        interp.experiments.read_word_vectors(path)
    text = write(tmp_path / "v.txt", "2 3\none 1 2 3\ntwo 0.25 -1 7\n")
    theirs = gensim.models.KeyedVectors.load_word2vec_format(str(text))
    np.testing.assert_array_equal(
        interp.experiments.read_word_vectors(text).vectors, theirs.vectors
    )


def test_word_space_refuses_what_is_no_space():
    with pytest.raises(BadInput, match="2 words, but 3 vectors"):
        WordSpace(("a", "b"), np.eye(3))
    with pytest.raises(BadInput, match="word 'a' is there twice"):
        WordSpace(("a", "b", "a"), np.eye(3))
    with pytest.raises(
        UnknownName, match="unknown word of word vectors 'catt'; did you mean 'cat'"
    ):
        WordSpace(("cat", "dog"), np.eye(2)).rows(["catt"])


def test_words_of_several_tokens_across_tokenizers():
    one = pieces_model(["cat", "cats", "dog", "house", "tree"], 4, 1, "one")
    two = pieces_model(["cat", "##s", "dog", "hou", "##se", "tree"], 3, 2, "two")
    words = ["cats", "dog", "house", "tree", "cat", "zebra"]
    from interp.experiments.word_files import model_space

    space = model_space(two, "W_E", words, pieces="mean")
    w = two.W_E.numpy()
    assert space.words == ("cats", "dog", "house", "tree", "cat")
    np.testing.assert_allclose(space.rows(["cats"])[0], w[[1, 2]].mean(0))
    np.testing.assert_allclose(space.rows(["house", "dog"]), [w[[4, 5]].mean(0), w[3]])
    last = model_space(two, "W_U", words, pieces="last")
    np.testing.assert_allclose(last.rows(["cats", "house"]), 2 * w[[2, 5]])
    assert "2 words are several tokens of two: mean of their vectors" in space.notes
    assert "1 words cannot be written in the tokens of two" in space.notes
    found = compare_spaces((one, "W_E"), (two, "W_E"), words=words, method="cka", resamples=19)
    assert found.words == ("cats", "dog", "house", "tree", "cat")
    assert "1 of 6 words are not in both" in found.notes
    rows = [[2, 3, 4, 5, 1], [[1, 2], [3], [4, 5], [6], [1]]]
    expected = linear_cka(one.W_E.numpy()[rows[0]], np.stack([w[i].mean(0) for i in rows[1]]))
    assert found.frame["value"].item() == pytest.approx(expected)
    alone = compare_spaces((one, "W_U"), (one, "W_E"), method="cka", resamples=19)
    assert alone.frame["value"].item() == pytest.approx(1)


def test_shared_tokens_are_in_the_null_of_words_of_several_tokens():
    """Words that share pieces are alike in any two models, trained or not."""
    pairs = [f"p{i} s{j}" for i in range(6) for j in range(6)]
    from interp.experiments.word_files import Tokens

    rows = {w: np.array([i // 6, 6 + i % 6]) for i, w in enumerate(pairs)}
    shared, plain = [], []
    for i in range(40):
        made = [Tokens(rng(2 * i + j).normal(size=(12, 5)), rows) for j in (0, 1)]
        a, b = (WordSpace(tuple(pairs), t.vectors(pairs, t.table), tokens=t) for t in made)
        for found, space in ((shared, b), (plain, WordSpace(b.words, b.vectors))):
            frame = compare_spaces(a, space, method="cka", resamples=19, seed=i).frame
            found.append(frame["p"].item() <= 0.1)
    assert np.mean(plain) > 0.5
    assert np.mean(shared) < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 40)


@pytest.mark.parametrize("kind", ["bytes", "sentence pieces"])
def test_pieces_from_inside_words_are_no_words(kind):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from interp.experiments.word_files import encode_words, vocabulary

    space = {"bytes": "Ġ", "sentence pieces": "▁"}[kind]
    letters = [space, *"adehnort"]
    merges = [("h", "e"), (space, "a"), (space, "t"), (f"{space}t", "he"), ("n", "d"), ("r", "he")]
    pieces = [*letters, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    if kind == "bytes":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert set(vocabulary(tokenizer)) == {"the", "a", "t"}
    assert [pieces[i] for i in encode_words(["and"], tokenizer)["and"]] == [f"{space}a", "nd"]


def test_embeddings_of_a_bridge_by_word(gpt2):
    from interp.experiments.word_files import model_space

    space = model_space(gpt2, "W_U")
    ids = gpt2.tokenizer.convert_tokens_to_ids(["queen", "her"])
    np.testing.assert_array_equal(
        space.rows(["queen", "her"]), gpt2.W_U.detach().double().numpy().T[ids]
    )
    assert "." not in space
    found = compare_spaces((gpt2, "W_E"), interp.WordVectors.of(gpt2), method="cka", resamples=9)
    assert found.frame["value"].item() == pytest.approx(1)
