"""The embedding space against scikit-learn, explicit loops and closed forms; its controls."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import decomposition, manifold, metrics

import interp
from analyses.embedding import Embedding
from interp import BadInput, Once, WordVectors
from interp.errors import Unsupported
from interp.experiments import words as word_vectors
from interp.measures import spectrum as embedding

rng = np.random.default_rng(5)
SKEWED = rng.standard_normal((60, 7)) * [5, 3, 1, 1, 0.5, 0.1, 0] + [2, 0, 0, 1, 0, 0, 0]


def groups(n: int = 30, d: int = 8, spread: float = 0.15) -> WordVectors:
    """Three directions with `n` words around each."""
    centres = np.eye(3, d)
    vectors = np.repeat(centres, n, axis=0) + spread * rng.standard_normal((3 * n, d))
    return WordVectors(vectors, tuple(f"{c}{i}" for c in "abc" for i in range(n)))


def test_spectrum_is_scikit_learns_pca():
    fit = decomposition.PCA().fit(SKEWED)
    seen = interp.measures.covariance_spectrum(SKEWED)
    expected = fit.explained_variance_ * (len(SKEWED) - 1) / len(SKEWED)
    np.testing.assert_allclose(seen.eigenvalues, expected, atol=1e-12)
    np.testing.assert_allclose(seen.share, fit.explained_variance_ratio_, atol=1e-12)
    np.testing.assert_allclose(abs((seen.directions[:5] * fit.components_[:5]).sum(1)), 1)


def test_spectrum_does_not_depend_on_the_blocks(monkeypatch):
    whole = interp.measures.covariance_spectrum(SKEWED), interp.measures.anisotropy(SKEWED)
    monkeypatch.setattr(embedding, "BLOCK", 7)
    np.testing.assert_allclose(
        interp.measures.covariance_spectrum(SKEWED).eigenvalues, whole[0].eigenvalues
    )
    np.testing.assert_allclose(interp.measures.anisotropy(SKEWED), whole[1])


def test_ranks_have_their_closed_forms():
    shares = np.array([0.5, 0.25, 0.25])
    vectors = np.concatenate([np.diag(np.sqrt(shares)), -np.diag(np.sqrt(shares))])
    seen = interp.measures.covariance_spectrum(vectors)
    assert seen.entropy_dimension == pytest.approx(2**1.5)  # entropy is 1.5 bits
    sigma = np.array([2**0.5, 1, 1]) / (2 + 2**0.5)
    assert seen.effective_rank == pytest.approx(np.prod(sigma**-sigma))
    assert seen.participation_ratio == pytest.approx(1 / (0.25 + 0.0625 + 0.0625))


def test_the_effective_rank_is_that_of_the_unembedding():
    """One definition, whichever of the two functions is asked."""
    matrix = torch.from_numpy(SKEWED)
    theirs = interp.measures.SingularDirections.of(matrix, centred=True)
    seen = interp.measures.covariance_spectrum(SKEWED)
    assert seen.effective_rank == pytest.approx(theirs.effective_rank)
    assert seen.participation_ratio == pytest.approx(theirs.participation_ratio)
    assert seen.entropy_dimension < 0.95 * seen.effective_rank


def test_results_of_earlier_versions_keep_their_number_under_its_new_name(gpt2, tmp_path):
    with torch.no_grad():
        result = interp.run(gpt2, ["the man"], ["embedding"], progress=False)["embedding"]
    facts = dict(result.state["", -1]["facts"].arrays())
    number = facts.pop("entropy_dimension")
    facts |= {"effective_rank": number}
    table = result.analysis.table({("", -1): {"facts": Once(facts)}})
    assert table["entropy_dimension"].iloc[0] == pytest.approx(float(number))
    assert "effective_rank" not in table


def test_anisotropy_is_the_mean_over_all_pairs():
    cosines = metrics.pairwise.cosine_similarity(SKEWED)[np.triu_indices(60, 1)]
    np.testing.assert_allclose(interp.measures.anisotropy(SKEWED), (cosines.mean(), cosines.std()))


def test_description_by_loops():
    vectors = np.vstack([SKEWED, np.zeros((2, 7))])
    seen = interp.measures.describe_vectors(vectors)
    norms = [np.sqrt(sum(x**2 for x in row)) for row in vectors]
    assert seen["zero_vectors"] == 2
    assert seen["norm_mean"] == pytest.approx(np.mean(norms))
    assert seen["norm_std"] == pytest.approx(np.std(norms))
    mean = vectors.mean(0)
    assert seen["mean_share"] == pytest.approx(mean @ mean / np.mean(np.square(norms)))
    centred = metrics.pairwise.cosine_similarity(vectors - mean)[np.triu_indices(62, 1)]
    assert seen["mean_cosine_centred"] == pytest.approx(centred.mean())


def test_vectors_without_structure_give_the_control():
    """The null: Gaussian vectors are described by the same numbers as their control."""
    vectors = rng.standard_normal((3000, 24)) * 0.3
    seen = interp.measures.describe_vectors(vectors)
    control = interp.measures.describe_vectors(interp.measures.random_embedding(vectors))
    for name in (
        "effective_rank",
        "entropy_dimension",
        "participation_ratio",
        "norm_mean",
        "norm_std",
        "cosine_std",
    ):
        assert seen[name] == pytest.approx(control[name], rel=0.06), name
    assert abs(seen["mean_cosine"]) < 5 / np.sqrt(3000 * 2999 / 2 * 24) + 1e-3
    assert seen["cosine_std"] == pytest.approx(24**-0.5, rel=0.02)


def test_random_cosines_have_the_distribution_that_is_drawn():
    n, d, draws = 40, 6, 4000
    units = rng.standard_normal((draws, n, d))
    cosines = np.sort(units[..., 0] / np.linalg.norm(units, axis=-1), axis=1)[:, ::-1]
    expected = embedding.random_cosine(np.array([1, 2, 5]), n, d)
    np.testing.assert_allclose(np.median(cosines, 0)[[0, 1, 4]], expected, atol=0.01)
    above = (cosines > 0.4).mean()
    assert embedding.random_cosine_above(0.4, d) == pytest.approx(above, abs=0.004)


def test_trustworthiness_is_scikit_learns():
    points = SKEWED[:, 1:3] + rng.standard_normal((60, 2))
    for k in (3, 12):
        expected = manifold.trustworthiness(SKEWED, points, n_neighbors=k)
        assert interp.measures.trustworthiness(SKEWED, points, k) == pytest.approx(expected)
    sampled = interp.measures.trustworthiness(SKEWED, points, 12, sample=30)
    assert sampled == pytest.approx(expected, abs=0.1)
    with pytest.raises(BadInput, match="over 40 neighbours needs more than 80 words, not 60"):
        interp.measures.trustworthiness(SKEWED, points, 40)


def test_neighbours_by_cosine_and_by_dot_product():
    words = tuple(f"w{i}" for i in range(60))
    space = WordVectors(SKEWED, words)
    cosines = metrics.pairwise.cosine_similarity(SKEWED)[4]
    found = space.nearest("w4", 5)
    order = [i for i in np.argsort(-cosines) if i != 4][:5]
    assert found["index"].tolist() == order
    np.testing.assert_allclose(found["cosine"], cosines[order])
    dots = space.nearest(SKEWED[4], 60, by="dot")
    assert dots["index"].tolist() == np.argsort(-(SKEWED @ SKEWED[4])).tolist()
    with pytest.raises(BadInput, match=r"allowed: 'cosine', 'dot'"):
        space.nearest("w4", by="euclid")
    with pytest.raises(BadInput, match=r"shape \(3,\); this space has vectors \(7,\)"):
        space.nearest(np.zeros(3))


def test_neighbours_in_a_random_vocabulary_are_at_their_control():
    """The null: over many random vocabularies half the neighbours are above the median."""
    above = []
    for seed in range(60):
        vectors = np.random.default_rng(seed).standard_normal((200, 10))
        found = WordVectors(vectors, tuple(map(str, range(200)))).nearest("0", 3)
        above.append(found["cosine"] > found["random_cosine"])
    assert stats.binomtest(int(np.sum(np.array(above)[:, 0])), 60).pvalue > 0.001


def test_cosines_between_words_and_along_them():
    space = groups(4)
    table = space.cosines(["a0", "b1"], ["a1", "c2", "a0"])
    for a in table.index:
        for b in table.columns:
            u, v = (space.vectors[space.words.index(w)] for w in (a, b))
            assert table.loc[a, b] == pytest.approx(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
    path = space.along(["a0", "a1", "b0"])
    assert path["cosine"].tolist() == pytest.approx(
        [space.cosines(["a0"], ["a1"]).iloc[0, 0], space.cosines(["a1"], ["b0"]).iloc[0, 0]]
    )
    assert path["random_pairs"][0] == pytest.approx(interp.measures.anisotropy(space.vectors)[0])


def test_words_are_found_with_and_without_a_space():
    space = WordVectors(np.eye(4), ("king", " king", " queen", "kings"))
    assert [space.find(w) for w in ("king", " king", "queen", "kings")] == [1, 1, 2, 3]
    with pytest.raises(BadInput, match="'qeen' is no single token .* of 4; did you mean 'queen'"):
        space.find("qeen")
    with pytest.raises(BadInput, match="'xyzzy' is no .* of 4; words of it are 'king', 'queen'"):
        space.find("xyzzy")
    with pytest.raises(BadInput, match="expected a list of words, got the text 'king'"):
        space.cosines("king")
    with pytest.raises(BadInput, match="3 words for 4 vectors"):
        WordVectors(np.eye(4), ("a", "b", "c"))


def royal() -> WordVectors:
    """Gender and royalty as two directions; man and king nearly alike, as in real embeddings."""
    vectors = {
        "king": [1.0, 1, 0, 0.1],
        "queen": [1.0, -1, 0, 0.0],
        "man": [0.0, 1, 0, 0.1],
        "woman": [0.0, -1, 0, 0.2],
        "apple": [0.0, 0, 1, 0],
        "pear": [0.0, 0.1, 1, 0.3],
    }
    return WordVectors(np.array(list(vectors.values())), tuple(vectors))


def test_analogies_with_and_without_the_query_words():
    space = royal()
    table = space.analogy("king", "man", "woman")
    unit = space.vectors / np.linalg.norm(space.vectors, axis=1, keepdims=True)
    wanted = unit[0] - unit[2] + unit[3]
    cosines = unit @ wanted / np.linalg.norm(wanted)
    for row in table.itertuples():
        assert row.cosine == pytest.approx(cosines[space.words.index(row.word)])
    assert table["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert set(table.loc[table["query"], "word"]) == {"king", "man", "woman"}
    others = table[~table["query"]]
    assert others.iloc[0]["word"] == "queen"
    assert others["rank_without_query"].tolist() == [1, 2, 3]
    assert table.loc[table["query"], "rank_without_query"].isna().all()
    ranks = space.analogies([("king", "man", "woman", "queen")])
    queen = table[table["word"] == "queen"].iloc[0]
    assert ranks.loc[0, "rank"] == queen["rank"]
    assert ranks.loc[0, "rank_without_query"] == 1


def test_analogies_in_a_random_vocabulary_have_uniform_ranks():
    """The null: the answer's rank among the other words is uniform."""
    words = tuple(map(str, range(103)))
    space = WordVectors(np.random.default_rng(1).standard_normal((103, 20)), words)
    questions = [tuple(map(str, rng.permutation(103)[:4])) for _ in range(300)]
    table = space.analogies(questions)
    for name in ("rank_without_query", "random_rank_without_query"):
        assert stats.kstest(table[name] / 100, "uniform").pvalue > 0.001
        assert table[name].between(1, 100).all()


def test_words_without_a_direction_are_undefined_and_never_right():
    """A zero vector (rows of padding are) has no cosine: not the best rank, and not the worst."""
    space = WordVectors(np.vstack([royal().vectors, np.zeros(4)]), (*royal().words, "nothing"))
    table = space.analogy("king", "man", "woman")
    assert table["word"].iloc[-1] == "nothing"
    assert np.isnan(table["cosine"].iloc[-1])
    for asked in (("king", "nothing", "woman", "queen"), ("king", "man", "woman", "nothing")):
        ranks = space.analogies([asked, ("king", "man", "woman", "queen")])
        assert ranks.loc[0, ["rank", "rank_without_query"]].isna().all()
        assert ranks.loc[1, "rank_without_query"] == 1
    with pytest.raises(BadInput, match="has no direction: 'nothing' has the zero vector; take"):
        space.analogy("king", "nothing", "woman")
    on = space.axis(["king", "queen"], ["apple", "pear"], ["nothing"]).set_index("word")
    assert on.loc["nothing", ["projection", "percentile"]].isna().all()


def test_vectors_that_are_all_the_same_have_no_order():
    space = WordVectors(np.ones((5, 3)), tuple("abcde"))
    for ask, why in (
        (space.centred, "all 5 vectors are the same: without their mean nothing is left"),
        (lambda: space.nearest("a"), "all 5 vectors are the same: none is nearest"),
        (lambda: space.pca(1), "all 5 vectors are the same: there is nothing to draw"),
    ):
        with pytest.raises(BadInput, match=why):
            ask()


def test_axis_leaves_each_word_out_of_its_own_axis():
    space = groups(5)
    positive, negative = [f"a{i}" for i in range(5)], [f"b{i}" for i in range(4)]
    table = space.axis(positive, negative, ["c0"]).set_index("word")
    unit = {w: v / np.linalg.norm(v) for w, v in zip(space.words, space.vectors, strict=True)}
    for word in table.index:
        ends = [np.mean([unit[w] for w in side if w != word], 0) for side in (positive, negative)]
        axis = ends[0] - ends[1]
        expected = unit[word] @ axis / np.linalg.norm(axis)
        assert table.loc[word, "projection"] == pytest.approx(expected)
    assert table.loc["a0", "percentile"] > 0.6
    assert table.loc["b0", "percentile"] < 0.4
    with pytest.raises(BadInput, match="two words or more at both ends.*; at both are 'a1'"):
        space.axis(["a0", "a1"], ["a1", "b0"])
    with pytest.raises(BadInput, match="two words or more at both ends.*; these are 1 and 2"):
        space.axis(["a0"], ["a1", "b0"])


def test_axis_separation_finds_what_is_there_and_keeps_its_level():
    space = groups(8)
    auc, null, p = interp.measures.axis_separation(
        space.vectors[:8], space.vectors[8:16], permutations=99
    )
    assert auc == 1
    assert null < 0.6
    assert p == 0.01
    small = 0
    for seed in range(100):
        words = np.random.default_rng(seed).standard_normal((12, 5))
        small += (
            interp.measures.axis_separation(words[:6], words[6:], permutations=39, seed=seed)[2]
            <= 0.05
        )
    assert stats.binomtest(small, 100, 0.05, alternative="greater").pvalue > 0.001


def test_graph_above_a_threshold():
    space = groups(4, spread=0.05)
    graph = space.graph(space.words, threshold=0.8)
    cosines = metrics.pairwise.cosine_similarity(space.vectors)
    expected = {
        (space.words[i], space.words[j])
        for i in range(12)
        for j in range(i + 1, 12)
        if cosines[i, j] > 0.8
    }
    assert set(zip(graph.edges["word_a"], graph.edges["word_b"], strict=True)) == expected
    assert graph.nodes.groupby("component").size().tolist() == [4, 4, 4]
    assert graph.nodes["degree"].sum() == 2 * len(graph.edges)
    assert graph.random_edges < 0.2 * len(graph.edges)
    assert graph.vocabulary_edges == pytest.approx(len(graph.edges), rel=0.1)
    with pytest.raises(BadInput, match="threshold 1.5 is no cosine"):
        space.graph(space.words, 1.5)


def test_pca_picture_is_scikit_learns():
    space = groups()
    seen = space.pca(2)
    expected = decomposition.PCA(2).fit_transform(space.vectors)
    np.testing.assert_allclose(np.abs(seen.points), np.abs(expected), atol=1e-9)
    assert seen.explained.sum() > 0.7
    assert seen.trustworthiness > 0.8
    assert 0.35 < seen.shuffled < 0.65
    assert list(seen.frame) == ["word", "x", "y"]
    assert len(space.pca(3, words=["a0", "b0", "c0", "a1"]).points) == 4
    with pytest.raises(BadInput, match=r"k=90 components of 90 words in 8 dimensions: 1 to 8"):
        space.pca(90)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("library", ["scikit-learn", "openTSNE"])
def test_tsne_keeps_groups_apart_and_says_how_well(library, monkeypatch):
    if library == "openTSNE":
        pytest.importorskip("openTSNE")
    else:
        monkeypatch.setitem(sys.modules, "openTSNE", None)
    space = groups(15)
    seen = space.tsne(perplexity=8)
    assert seen.method == f"t-SNE ({library})"
    assert 0 < seen.kl < 2
    assert seen.trustworthiness == pytest.approx(
        manifold.trustworthiness(space.vectors, seen.points, n_neighbors=12)
    )
    assert seen.trustworthiness > seen.shuffled + 0.2
    assert metrics.silhouette_score(seen.points, np.repeat([0, 1, 2], 15)) > 0.4
    with pytest.raises(BadInput, match=r"perplexity 30 for 45 words; .* here 14.67"):
        space.tsne()
    with pytest.raises(BadInput, match="t-SNE of 3 words; it needs 5 or more: take PCA"):
        space.tsne(words=["a0", "b0", "c0"])


@pytest.mark.parametrize("first", ["king", " king"])
def test_every_lookup_takes_the_word_of_running_text(first):
    """Of the piece and the word with a space, whatever their order, the latter."""
    words = (first, " king" if first == "king" else "king", "queen", " the")
    vectors = np.random.default_rng(3).standard_normal((4, 6))
    space = WordVectors(vectors, words)
    word = words.index(" king")
    assert [space.find(w) for w in ("king", " king", "queen", "the")] == [word, word, 2, 3]
    assert [space.words[space.find(w)] for w in ("king", "queen", "the")] == space.known(
        ["king", "queen", "the"]
    )
    other = vectors[word] @ vectors[2] / np.linalg.norm(vectors[word]) / np.linalg.norm(vectors[2])
    assert space.cosines(["king"], ["queen"]).iloc[0, 0] == pytest.approx(other)
    assert space.select(["king", "the"]).words == (" king", " the")
    assert space.select(["king", "the"]).find("king") == 0
    piece = space.nearest(space.vectors[words.index("king")], 1)
    assert piece["word"].tolist() == ["king"]


def test_known_words_are_those_of_running_text():
    space = WordVectors(np.eye(4), (" king", "king", "queen", " the"))
    assert space.known(["king", "queen", "the", "king", "cat"]) == [" king", "queen", " the"]
    assert space.known(["cat"]) == []
    assert space.cosines(space.known(["king", "queen"])).shape == (2, 2)


def test_picture_of_words_shows_groups_and_how_faithful_it_is():
    space = groups()
    seen = space.pca(2)
    figure = seen.plot({w: w[0] for w in space.words if w[0] != "c"})
    drawn = {t.name: t for t in figure.data}
    assert set(drawn) == {"other", "a", "b"}
    assert len({drawn[n].marker.color for n in drawn}) == 3
    for name, letter in (("other", "c"), ("a", "a"), ("b", "b")):
        rows = [i for i, w in enumerate(space.words) if w[0] == letter]
        np.testing.assert_allclose(drawn[name].x, seen.points[rows, 0], rtol=1e-4)
        assert list(drawn[name].text) == [space.words[i] for i in rows]
    assert f"{seen.trustworthiness:.2f}; {seen.shuffled:.2f} if" in figure.layout.meta["caption"]
    assert "% of the variance" in figure.layout.xaxis.title.text
    clusters = space.clusters(min_size=8, resamples=1)
    assert {t.name for t in seen.plot(clusters.names).data} == set(clusters.names)
    assert [t.name for t in seen.plot().data] == ["other"]
    with pytest.raises(BadInput, match="2 groups for 90 words; give one per word, or a mapping"):
        seen.plot(["a", "b"])


def test_a_picture_of_many_groups_names_them_under_the_pointer():
    vectors = rng.standard_normal((2100, 4))
    seen = WordVectors(vectors, tuple(f"w{i}" for i in range(2100))).pca(2)
    figure = seen.plot([f"group {i % 9}" for i in range(2100)])
    assert not any(t.showlegend for t in figure.data), "nine names for eight colours"
    assert {t.hovertemplate for t in figure.data} == {"%{text}<extra>%{fullData.name}</extra>"}
    assert "9 groups, whose colours repeat; the pointer names" in figure.layout.meta["caption"]
    assert {t.marker.size for t in figure.data} == {3}
    few = seen.plot([f"group {i % 8}" for i in range(2100)])
    assert all(t.showlegend for t in few.data)


def test_words_with_markup_are_drawn_as_they_are():
    space = WordVectors(rng.standard_normal((30, 4)), (*(f" w{i}" for i in range(29)), " <b>"))
    (trace,) = space.pca(2).plot().data
    assert trace.text[0] == "w0"
    assert trace.text[-1] == "&lt;b&gt;"


def test_graph_draws_every_edge_once_and_each_word():
    space = groups(5, spread=0.1)
    graph = space.graph(space.words, 0.6)
    assert len(graph.edges) > 10
    figure = graph.plot()
    lines = [t for t in figure.data if t.mode == "lines"]
    (points,) = (t for t in figure.data if t.mode == "markers")
    assert sum(len(t.x) // 3 for t in lines) == len(graph.edges)
    assert sorted(points.text) == sorted(space.words)
    assert len(lines) == (graph.nodes["component"].value_counts() > 1).sum()
    np.testing.assert_allclose(np.hypot(points.x, points.y), 1, rtol=1e-4)
    degree = dict(zip(points.text, points.customdata, strict=True))
    assert degree == dict(zip(graph.nodes["word"], graph.nodes["degree"], strict=True))
    assert f"{len(graph.edges)} of {graph.pairs} pairs" in figure.layout.meta["caption"]
    alone = space.graph(space.words, 1.0).plot()
    assert not [t for t in alone.data if t.mode == "lines"]


def test_clusters_and_their_stability():
    space = groups(25, spread=0.08)
    for options in ({"min_size": 8}, {"method": "dbscan", "eps": 0.35, "min_size": 5}):
        seen = space.clusters(resamples=4, **options)
        assert seen.n == 3
        assert metrics.adjusted_rand_score(np.repeat([0, 1, 2], 25), seen.labels) > 0.9
        assert seen.stability.min() > 0.9
        assert seen.random_clusters < 3
    assert list(seen.frame) == ["word", "cluster"]
    with pytest.raises(BadInput, match="no clustering 'hdscan'; did you mean 'hdbscan'"):
        space.clusters(method="hdscan")
    with pytest.raises(BadInput, match="eps=None must be above 0"):
        space.clusters(method="dbscan")
    with pytest.raises(BadInput, match="75 words cannot make clusters of 40; .* here 37"):
        space.clusters(min_size=40)


def test_vectors_without_clusters_are_not_stable():
    """The null: agreement by chance is 0 in expectation, whatever was found."""
    found = []
    for seed in range(6):
        vectors = np.random.default_rng(seed).standard_normal((150, 6))
        seen = WordVectors(vectors, tuple(map(str, range(150)))).clusters(min_size=5, resamples=4)
        found += list(seen.stability[~np.isnan(seen.stability)])
    assert len(found) >= 8
    assert np.mean(found) < 0.3


# ---- on a model ------------------------------------------------------------------------------


def test_words_of_a_model(gpt2):
    space = WordVectors.of(gpt2)
    i = gpt2.tokenizer.convert_tokens_to_ids("queen")
    assert space.find("queen") == i
    np.testing.assert_array_equal(space.vectors, gpt2.W_E.detach().numpy())
    unembedding = WordVectors.of(gpt2, "W_U")
    np.testing.assert_array_equal(unembedding.vectors, gpt2.W_U.detach().numpy().T)
    with pytest.raises(BadInput, match="no matrix 'W_V'; did you mean"):
        WordVectors.of(gpt2, "W_V")
    bare = SimpleNamespace(cfg=SimpleNamespace(model_name="hubert"))
    with pytest.raises(Unsupported, match="hubert has no matrix W_E"):
        WordVectors.of(bare)


def test_the_analysis_keeps_the_contract():
    interp.check_analysis(Embedding())
    interp.check_analysis(Embedding(matrix="W_U", draws=0))


def test_the_analysis_on_a_model(gpt2, tmp_path):
    with torch.no_grad():
        results = interp.run(gpt2, ["the man"], ["embedding"], progress=False)
    frame = results["embedding"].frame
    vectors = gpt2.W_E.detach().double().numpy()
    fit = decomposition.PCA().fit(vectors)
    np.testing.assert_allclose(frame["share"], fit.explained_variance_ratio_, rtol=1e-6)
    assert frame["cumulative"].iloc[-1] == pytest.approx(1)
    first = frame.iloc[0]
    assert first["mean_cosine"] == pytest.approx(interp.measures.anisotropy(vectors)[0], abs=1e-6)
    # A freshly initialised embedding is its own control.
    assert first["effective_rank"] == pytest.approx(first["random_effective_rank"], rel=0.05)
    assert set(results["embedding"].values) <= set(results["embedding"].columns)
    again = interp.load(results.save(tmp_path / "out"))
    assert again["embedding"].frame.equals(frame.reset_index(drop=True))
    results["embedding"].plot()


def test_values_that_are_not_finite_are_refused():
    vectors = SKEWED.copy()
    vectors[3, 2] = np.nan
    with pytest.raises(BadInput, match="vector 3 has values that are not finite"):
        interp.measures.covariance_spectrum(vectors)
    with pytest.raises(BadInput, match=r"shape \(1, 7\); expected \[n, d\]"):
        interp.measures.covariance_spectrum(SKEWED[:1])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s: s.nearest("a", k=0), "k=0 words to show; the least is 1"),
        (lambda s: s.nearest(np.zeros(3)), "holds only zeros: it has no direction"),
        (lambda s: s.nearest(np.array([1, np.nan, 0])), "holds values that are not finite"),
        (lambda s: s.along(["a"]), "1 words; two or more are needed to have a pair"),
        (lambda s: s.graph([]), "0 words; two or more"),
        (lambda s: s.graph(["a", "b", "a"]), r"named more than once: \['a'\]"),
        (lambda s: s.axis(["a", "b"], ["c", "d"]), "the same mean direction: there is no axis"),
        (lambda s: s.clusters(min_size=1), "min_size=1 words in a cluster; the least is 2"),
        (lambda s: s.clusters(components=0), "components=0 principal components"),
        (lambda s: s.clusters(resamples=0), "resamples=0 clusterings .* the least is 1"),
        (lambda s: s.clusters(min_size=2), "all 8 vectors are the same: there is nothing to"),
        (lambda s: s.tsne(perplexity=2, components=1), "components=1 principal .* the least is 2"),
        (lambda s: s.tsne(perplexity=2), "all 8 vectors are the same"),
        (lambda s: s.pca(), "all 8 vectors are the same"),
        (lambda s: s.select(["a"]).pca(), r"shape \(1, 3\); expected \[n, d\]"),
    ],
)
def test_questions_without_an_answer_say_why(ask, message):
    constant = WordVectors(np.full((8, 3), 0.1, np.float32), tuple("abcdefgh"))
    with pytest.raises(BadInput, match=message):
        ask(constant)


def test_words_come_from_the_module_that_says_so():
    assert word_vectors.WordVectors is WordVectors
