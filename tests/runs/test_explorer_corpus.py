"""The explorer of corpus rows: what the run kept besides them, and a control beside them."""

from __future__ import annotations

import numpy as np
import pytest
from corpus_help import WORDS, documents, write_jsonl
from explorer_help import Told, read

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.rotation import Rotation
from analyses.trajectory import Trajectory
from interp.runs.corpus.sample import MOST_DOCUMENTS

LONG = 0  # the document that does not fit into one chunk
CHOSEN = [Rotation(), LogitLens(examples=3, top_k=4), Attention(maps=2), Trajectory(tokens=40)]


def corpus_of(path, n=150):
    rows = documents(n, longest=6)
    rows[LONG]["text"] = " ".join(WORDS[i % len(WORDS)] for i in range(70))
    return write_jsonl(path, rows)


def run_of(model, corpus, out, chosen=CHOSEN, **options):
    settings = {"keep": "tokens", "shard_documents": 25, "progress": False} | options
    return interp.run_corpus(model, corpus, chosen, out=out, **settings)


@pytest.fixture(scope="module")
def made(gpt2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    corpus = corpus_of(folder / "corpus.jsonl")
    done = run_of(gpt2, corpus, folder / "out")
    assert done.chunks > done.documents, "no document was cut"
    return corpus, folder / "out", done.open()


@pytest.fixture(scope="module")
def told(made):
    return Told(made[2].explore().payload)


def first_chunks(made) -> dict[int, int]:
    """The document of every kept chunk that begins one, from the rows alone."""
    rows = made[2]["rotation"].read(["document", "chunk"]).drop_duplicates()
    per_document = made[2].manifest["parameters"]["ids_per_document"]
    first = rows.loc[rows["chunk"] == 0, "document"]
    return {document * per_document: document for document in first}


def test_the_sample_has_the_kept_documents_and_others_from_everywhere(told):
    shown = sorted(set(told.tokens["prompt"]))
    assert len(shown) == MOST_DOCUMENTS
    assert {0, 1, 2} <= set(shown)
    assert max(shown) > 120
    assert told.payload["sampled"] == {"shown": MOST_DOCUMENTS, "of": 150}


def test_the_lens_has_what_was_kept_and_the_best_token_of_all_others(made, told):
    lens = told.payload["lens"]
    tokens, probs = read(lens["tokens"]), read(lens["probs"])
    texts = np.asarray(lens["texts"], dtype=object)
    kept = made[2].results["logit_lens"]
    ids, shares = (kept.examples(n)["", -1] for n in ("top_tokens", "top_probs"))
    page, names = told.tokens, first_chunks(made)
    assert lens["k"] == 4
    documents_kept = [names[c] for c in ids if c in names]
    assert 0 < len(documents_kept) < len(ids), "a second chunk was kept, and is of no document"
    for chunk in (c for c in ids if c in names):
        at = np.flatnonzero(page["prompt"] == names[chunk])[: ids[chunk].shape[1]]
        expected = np.vectorize(kept.strings.get)(ids[chunk]).swapaxes(0, 1)
        assert texts[tokens[at]].tolist() == expected.tolist()
        np.testing.assert_array_equal(probs[at], shares[chunk].swapaxes(0, 1))
    assert set(lens["best"]) == set(page["prompt"]) - set(documents_kept)
    assert set(lens["prompts"]) == set(page["prompt"])
    rows = made[2]["logit_lens"].frame
    rows = rows.set_index(["prompt", "position", "layer"]).sort_index()
    alone = np.flatnonzero(page["prompt"].isin(lens["best"]))
    assert (tokens[alone][:, :, 1:] == -1).all()
    for at in alone[::7]:
        own = rows.loc[tuple(page.loc[at, ["prompt", "position"]])]
        assert texts[tokens[at, :, 0]].tolist() == own["top_token"].astype(str).tolist()
        np.testing.assert_array_equal(probs[at, :, 0], own["top_prob"].astype(np.float32))


def test_the_rest_of_a_cut_document_has_the_best_token_too(made, told):
    """Its first chunk was kept; positions after it are of another chunk."""
    lens, page = told.payload["lens"], told.tokens
    tokens = read(lens["tokens"])
    own = tokens[np.flatnonzero(page["prompt"] == LONG)]
    kept = next(iter(made[2].results["logit_lens"].examples("top_tokens")["", -1].values()))
    assert len(own) > kept.shape[1]
    assert (own[: kept.shape[1]] >= 0).all()
    assert (own[kept.shape[1] :, :, 0] >= 0).all()
    assert (own[kept.shape[1] :, :, 1:] == -1).all()


def test_maps_are_those_of_the_first_chunks(made, told):
    patterns, names = told.payload["attention"]["patterns"], first_chunks(made)
    kept = made[2].results["attention"].examples("pattern")
    expected = {names[c]: a for c, a in kept["", 0].items() if c in names}
    assert [p["prompt"] for p in patterns] == list(expected)
    for pattern in patterns:
        whole = expected[pattern["prompt"]]
        np.testing.assert_allclose(read(pattern["values"])[0] / 65535, whole, atol=0.6 / 65535)


def test_ways_are_of_the_documents_that_are_shown(made, told):
    coords, page, names = (
        read(told.payload["trajectory"]["coords"]),
        told.tokens,
        first_chunks(made),
    )
    frame = made[2].results["trajectory"].frame
    frame = frame[frame["prompt"].isin(list(names))].assign(prompt=lambda f: f["prompt"].map(names))
    frame = frame.set_index(["prompt", "position", "layer"])["pc1"].sort_index()
    known = np.flatnonzero(np.isfinite(coords[:, 0, 0]))
    assert 3 < len(known) <= 40
    for at in known:
        place = tuple(page.loc[at, ["prompt", "position"]])
        np.testing.assert_array_equal(coords[at, :, 0], frame.loc[place].astype(np.float32))
    assert "trajectory" not in told.payload["missing"]


# ---- a control ---------------------------------------------------------------------------------


def test_without_a_control_the_page_says_what_adds_one(told):
    assert told.payload["control_name"] is None
    assert (
        "interp.run_corpus(interp.random_copy(model), …, out='OUT/control')"
        in (told.payload["missing"]["control"])
    )


@pytest.fixture(scope="module")
def copy(gpt2):
    return interp.random_copy(gpt2)


def beside(made, copy, tmp_path, corpus=None, **options):
    """The payload of the rows with a run in the folder `control`, and that run's tables.

    The folder is taken away again.
    """
    import shutil

    done, out = made[2], made[1] / "control"
    run = run_of(copy, corpus or made[0], out, **options)
    try:
        tables = {name: table.frame for name, table in run.open().items()}
        return Told(done.explore().payload), tables
    finally:
        shutil.rmtree(out)


def test_a_summary_of_the_copy_gives_its_means(made, copy, tmp_path):
    told, control = beside(made, copy, tmp_path, keep="summary")
    measure = told.measure("rotation.angle")
    assert told.payload["control_name"] == measure["control_name"] == "untrained copy"
    assert measure["control"] is None
    assert measure["band"] is None, "the page computes the model's from its rows"
    table = control["rotation"].query("value == 'angle'").sort_values("layer")
    np.testing.assert_allclose(measure["control_band"]["mean"], table["mean"], rtol=1e-6)
    np.testing.assert_allclose(measure["control_band"]["low"], table["q05"], rtol=1e-6)
    assert "all tokens" in measure["control_band"]["of"]
    assert "keep='tokens'" in told.payload["missing"]["control"]
    heads = control["attention"].query("value == 'sink'").set_index(["layer", "head"])["mean"]
    sink = next(s for s in told.payload["attention"]["statistics"] if s["title"] == "sink")
    np.testing.assert_allclose(read(sink["control"]).ravel(), heads.sort_index(), rtol=1e-5)


def test_rows_of_the_copy_stand_beside_those_of_the_model(made, copy, tmp_path):
    told, control = beside(made, copy, tmp_path)
    shown = told.values("rotation.angle", "control").dropna()
    frame = control["rotation"]
    frame = frame.assign(depth=frame["layer"].astype(str))
    on = ["prompt", "position", "depth"]
    joined = shown.merge(frame[[*on, "angle"]].astype({"prompt": object}), on=on)
    assert len(joined) == len(shown) == len(told.values("rotation.angle").dropna())
    np.testing.assert_array_equal(joined["value"], joined["angle"].astype(np.float32))
    assert told.payload["lens"]["control"] is not None
    assert told.payload["attention"]["patterns"][0]["control"] is not None
    assert "control" not in told.payload["missing"]


def test_another_corpus_or_the_same_model_is_no_control(made, gpt2, copy, tmp_path):
    other = write_jsonl(tmp_path / "other.jsonl", documents(30, longest=6))
    for model, corpus in ((copy, other), (gpt2, None)):
        told, _ = beside(made, model, tmp_path, corpus, chosen=[Rotation()], keep="summary")
        assert told.payload["control_name"] is None
        assert told.measure("rotation.angle")["control_band"] is None


def test_a_run_without_anything_kept_shows_its_best_tokens(gpt2, tmp_path):
    corpus = corpus_of(tmp_path / "corpus.jsonl", 20)
    chosen = [LogitLens(examples=0), Attention(maps=0)]
    told = Told(run_of(gpt2, corpus, tmp_path / "out", chosen).open().explore().payload)
    lens = told.payload["lens"]
    assert lens["k"] == 1
    assert lens["best"] == lens["prompts"] == sorted(set(told.tokens["prompt"]))
    assert (read(lens["tokens"]) >= 0).all()
    assert told.payload["attention"]["patterns"] == []
    assert "--set attention.maps=8" in told.payload["missing"]["attention"]
    assert "--set logit_lens.examples=8" in told.payload["more"]["lens"]


def test_maps_of_written_texts_stand_at_their_own_texts(tmp_path):
    model, texts = interp.load_model("demo-llama"), ["Mary met her", "The river"]
    asked = {"samples": 2, "do_sample": True, "seed": 3}
    chosen = [Rotation(), Attention(maps=4)]
    done = run_of(model, texts, tmp_path / "out", chosen, generate=3, **asked)
    alone = interp.generate(model, texts, chosen, max_new_tokens=3, progress=False, **asked)
    found = done.open().sample()["attention"].examples("pattern")
    right = alone["attention"].examples("pattern")
    assert found.keys() == right.keys()
    for layer, maps in right.items():
        assert found[layer].keys() == maps.keys() == {0, 1, 2, 3}
        for prompt, weights in maps.items():
            np.testing.assert_allclose(found[layer][prompt], weights, atol=1e-5)


def test_target_words_are_compared_though_the_copy_has_means_alone(gpt2, copy, tmp_path):
    corpus = corpus_of(tmp_path / "corpus.jsonl", 20)
    options = {"chosen": [Rotation()], "target": "her"}
    done = run_of(gpt2, corpus, tmp_path / "out", **options)
    run_of(copy, corpus, tmp_path / "out" / "control", keep="summary", **options)
    payload = done.open().explore().payload
    assert payload["control_name"] == "untrained copy"
    assert "tokens turn more than the words before them?" in payload["story"][0]["title"]


def test_groups_of_a_summary_are_pooled_and_without_tokens_the_page_is_refused(gpt2, tmp_path):
    corpus = corpus_of(tmp_path / "corpus.jsonl", 12)
    asked = {"keep": "summary", "by": ["kind"]}
    chosen = [Rotation(), LogitLens(examples=2, top_k=2)]
    kept = run_of(gpt2, corpus, tmp_path / "kept", chosen, **asked).open()
    frame = kept["rotation"].frame.query("value == 'angle'")
    assert frame["kind"].nunique() == 3
    total = frame.assign(sum=frame["n"] * frame["mean"]).groupby("layer")[["sum", "n"]].sum()
    band = Told(kept.explore().payload).measure("rotation.angle")["band"]
    np.testing.assert_allclose(band["mean"], total["sum"] / total["n"], rtol=1e-6)
    alone = run_of(gpt2, corpus, tmp_path / "alone", [Rotation()], **asked).open()
    seen = r"summary \(rotation\) keeps no tokens.*logit_lens.*--keep tokens.*interp report"
    with pytest.raises(interp.BadInput, match=seen):
        alone.explore()
