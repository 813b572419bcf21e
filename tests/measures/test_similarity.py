"""Similarities of two spaces, whole and streamed, against textbook cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from spaces_help import (
    TEXTS,
    directions,
    rng,
    rotation,
    slow_cka,
    states_of,
)

import interp
import interp.demo
from interp import BadInput
from interp.errors import UnknownName
from interp.measures import CrossMoments
from interp.measures.similarity import linear_cka, measure, mutual_knn, rsa, similarity_null, svcca
from interp.measures.streamed import streamed_cka

# ---- similarities ----------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(4, 3), (12, 40), (50, 8)])
@pytest.mark.parametrize("debiased", [True, False])
def test_cka_by_its_definition(n, d, debiased):
    a = rng(1).normal(size=(n, d)) + 3
    b = a[:, :3] @ rng(2).normal(size=(3, 5)) + rng(3).normal(size=(n, 5))
    assert linear_cka(a, b, debiased=debiased) == pytest.approx(slow_cka(a, b, debiased))


def test_cka_does_not_see_rotation_shift_or_scale():
    a, b = rng(1).normal(size=(20, 6)), rng(2).normal(size=(20, 6))
    for debiased in (True, False):
        moved = linear_cka(a, 1e4 * b @ rotation(6) + 5, debiased=debiased)
        assert moved == pytest.approx(linear_cka(a, b, debiased=debiased))
        assert linear_cka(a, a, debiased=debiased) == pytest.approx(1)


def test_independent_gaussians_have_debiased_cka_zero_where_the_biased_one_is_not():
    pairs = [(rng(i).normal(size=(60, 200)), rng(i + 99).normal(size=(60, 200))) for i in range(40)]
    debiased = np.array([linear_cka(a, b) for a, b in pairs])
    biased = np.array([linear_cka(a, b, debiased=False) for a, b in pairs])
    assert biased.min() > 0.7
    assert abs(debiased.mean()) < 4 * debiased.std() / np.sqrt(40)
    assert np.abs(debiased).max() < 5 * debiased.std() < 0.2


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "correlation"])
def test_rsa_by_loops_and_scipy(metric):
    a, b = rng(1).normal(size=(14, 5)), rng(2).normal(size=(14, 8))
    b[:, :5] += a
    pairs = list(itertools.combinations(range(14), 2))
    far = [[cdist(x[[i]], x[[j]], metric)[0, 0] for i, j in pairs] for x in (a, b)]
    assert rsa(a, b, metric=metric) == pytest.approx(stats.spearmanr(*far).statistic)


def test_rsa_with_ties_is_spearman_with_mean_ranks():
    a, b = directions(0, 90, 180, 270, 45), rng(2).normal(size=(5, 3))
    pairs = list(itertools.combinations(range(5), 2))
    far = [
        [1 - x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for i, j in pairs]
        for x in (a, b)
    ]
    assert rsa(a, b) == pytest.approx(stats.spearmanr(np.round(far[0], 9), far[1]).statistic)


def test_rsa_is_rsatoolboxs():
    toolbox = pytest.importorskip("rsatoolbox")
    a, b = rng(1).normal(size=(14, 5)), rng(2).normal(size=(14, 8))
    b[:, :5] += a
    data = [toolbox.data.Dataset(x) for x in (a, b)]
    for metric in ("euclidean", "correlation"):
        made = [toolbox.rdm.calc_rdm(x, method=metric) for x in data]
        expected = toolbox.rdm.compare(*made, method="spearman").item()
        assert rsa(a, b, metric=metric) == pytest.approx(expected)


def test_mutual_neighbours_by_brute_force():
    a, b = rng(1).normal(size=(17, 4)), rng(2).normal(size=(17, 6))
    b[:, :4] += a
    order = rng(3).permutation(17)
    near = []
    for x in (a, b[order]):
        far = cdist(x, x, "cosine") + np.diag(np.full(17, np.inf))
        near.append([set(np.argsort(row)[:3]) for row in far])
    expected = np.mean([len(p & q) / 3 for p, q in zip(*near, strict=True)])
    assert mutual_knn(a, b[order], k=3) == pytest.approx(expected)
    kind = measure("mutual_knn", k=3)
    assert kind.score(kind.prepare(a), kind.prepare(b), order) == pytest.approx(expected)


def test_mutual_neighbours_are_k_over_n_minus_1_by_chance():
    a, b = rng(1).normal(size=(40, 5)), rng(2).normal(size=(40, 5))
    null = similarity_null([a], [b], measure("mutual_knn", k=6), resamples=400)
    assert null.mean.item() == pytest.approx(6 / 39, abs=0.005)


def test_svcca_by_canonical_correlations_of_all_directions():
    a, b = rng(1).normal(size=(40, 4)), rng(2).normal(size=(40, 3))
    b[:, 0] += 2 * a[:, 0]
    x, y = a - a.mean(0), b - b.mean(0)
    product = np.linalg.solve(x.T @ x, x.T @ y) @ np.linalg.solve(y.T @ y, y.T @ x)
    squared = np.sort(np.linalg.eigvals(product).real)[::-1][:3]
    assert svcca(a, b, kept=1.0) == pytest.approx(np.sqrt(squared).mean())
    noisy = np.column_stack([3 * a[:, 0], 1e-3 * a[:, 1]])
    assert svcca(noisy, a[:, :1], kept=0.9) == pytest.approx(1)


@pytest.mark.parametrize("name", ["cka", "cka_biased", "rsa", "mutual_knn", "svcca"])
def test_an_order_is_a_reordering_of_rows(name):
    a, b, kind = rng(1).normal(size=(20, 4)), rng(2).normal(size=(20, 5)), measure(name, k=3)
    order = rng(3).permutation(20)
    scored = kind.score(kind.prepare(a), kind.prepare(b), order)
    assert scored == pytest.approx(kind.of(a, b[order]))


def test_similarities_refuse_bad_input():
    x = rng().normal(size=(6, 3))
    with pytest.raises(BadInput, match="space a has 3 rows; at least 4 are needed"):
        linear_cka(x[:3], x[:3])
    with pytest.raises(BadInput, match="a space is constant: all 6 rows are the same"):
        rsa(x, np.ones((6, 3)))
    bad = x.copy()
    bad[2, 1] = np.nan
    with pytest.raises(BadInput, match="space b: 1 of 6 rows hold NaN or infinity.*is row 2"):
        linear_cka(x, bad)
    with pytest.raises(BadInput, match="space a has 6 rows and space b 5"):
        linear_cka(x, x[:5])
    with pytest.raises(BadInput, match=r"shape \(6,\); allowed is \[rows, dimensions\]"):
        linear_cka(x[:, 0], x)
    with pytest.raises(BadInput, match="k is 6; allowed is 1 to 5, the other words of a sample"):
        mutual_knn(x, x, k=6)
    with pytest.raises(UnknownName, match="unknown similarity 'ckaa'; did you mean 'cka'"):
        measure("ckaa")
    with pytest.raises(UnknownName, match="unknown metric 'cos'.*cosine"):
        rsa(x, x, metric="cos")
    with pytest.raises(BadInput, match="kept is 2"):
        svcca(x, x, kept=2)


# ---- streamed CKA ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layers():
    x = rng(1).normal(size=(4, 57, 5)) + 30 * rng(2).normal(size=(4, 1, 5))
    x[1] += x[0]
    return x


def in_parts(layers, *cuts):
    pieces = np.split(layers, cuts, axis=1)
    out = CrossMoments.of(pieces[0])
    for piece in pieces[1:]:
        out = out.merge(CrossMoments.of(piece))
    return out


def test_streamed_moments_are_those_of_all_tokens(layers):
    whole, parts = CrossMoments.of(layers), in_parts(layers, 0, 1, 2, 30, 30)
    for name, array in whole.arrays().items():
        np.testing.assert_allclose(parts.arrays()[name], array, rtol=1e-9, atol=1e-8, err_msg=name)
    assert sum(a.nbytes for a in whole.arrays().values()) == CrossMoments.size(4, 5) + 8


def test_streamed_cka_is_that_of_all_tokens(layers):
    found = streamed_cka(in_parts(layers, 3, 17, 40))
    for i, j in itertools.product(range(4), repeat=2):
        assert found.debiased[i, j] == pytest.approx(slow_cka(layers[i], layers[j], True))
        assert found.biased[i, j] == pytest.approx(slow_cka(layers[i], layers[j], False))


def test_mean_and_variance_of_the_streamed_null_are_those_of_all_permutations():
    x = rng(3).normal(size=(2, 6, 3))
    found = streamed_cka(CrossMoments.of(x))
    x = x - x.mean(axis=1, keepdims=True)
    values = [((x[0].T @ x[1][list(p)]) ** 2).sum() for p in itertools.permutations(range(6))]
    scale = np.sqrt(((x[0].T @ x[0]) ** 2).sum() * ((x[1].T @ x[1]) ** 2).sum())
    assert found.null_mean[0, 1] == pytest.approx(np.mean(values) / scale)
    assert found.null_sd[0, 1] == pytest.approx(np.std(values) / scale)


def test_streamed_p_is_calibrated_and_close_to_permutations():
    p = np.array(
        [streamed_cka(CrossMoments.of(rng(i).normal(size=(2, 40, 6)))).p[0, 1] for i in range(400)]
    )
    for level in (0.05, 0.2, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=3.5 * np.sqrt(level / 400))
    x = rng(5).normal(size=(2, 40, 6))
    drawn = similarity_null([x[0]], [x[1]], measure("cka_biased"), resamples=999).p.item()
    assert streamed_cka(CrossMoments.of(x)).p[0, 1] == pytest.approx(drawn, abs=0.05)


def test_too_few_tokens_and_constant_layers_are_nan():
    few = streamed_cka(CrossMoments.of(rng().normal(size=(2, 3, 4))))
    assert np.isnan(few.debiased).all()
    assert np.isnan(few.p).all()
    x = rng().normal(size=(2, 9, 4))
    x[1] = 1.0
    found = streamed_cka(CrossMoments.of(x))
    assert np.isnan(found.debiased[1]).all()
    assert found.debiased[0, 0] == pytest.approx(1)
    assert np.isnan(found.p[0, 1])


# ---- the analysis ----------------------------------------------------------------------------


def test_layer_similarity_keeps_the_contract():
    interp.check_analysis("layer_similarity")


@pytest.mark.parametrize("max_tokens", [20, 4096])
def test_layer_similarity_is_cka_of_all_ordinary_tokens(gpt2, max_tokens, clean):
    found = interp.run(gpt2, TEXTS, ["layer_similarity"], progress=False, max_tokens=max_tokens)
    frame = found["layer_similarity"].frame.set_index(["layer_a", "layer_b"])
    x = np.concatenate([states_of(gpt2, text)[:, 1:] for text in TEXTS], axis=1)  # without BOS
    assert set(frame["tokens"]) == {x.shape[1]}
    for i, j in ((0, 1), (1, 3), (2, 2)):
        assert frame.loc[(i, j), "cka"] == pytest.approx(slow_cka(x[i], x[j], True), rel=1e-4)
        biased = slow_cka(x[i], x[j], False)
        assert frame.loc[(i, j), "cka_biased"] == pytest.approx(biased, rel=1e-4)


def test_layer_similarity_takes_every_so_many_states_and_refuses_too_much(gpt2, clean):
    from analyses.layer_similarity import LayerSimilarity

    frame = interp.run(gpt2, TEXTS, [LayerSimilarity(stride=2)], progress=False)[
        "layer_similarity"
    ].frame
    assert sorted(frame["layer_a"].unique()) == [0, 2]
    with pytest.raises(interp.InterpError, match=r"needs 0\.0 GB.*LayerSimilarity\(stride=4\)"):
        interp.run(gpt2, TEXTS, [LayerSimilarity(memory=1e-5)], progress=False)
    with pytest.raises(interp.InterpError, match="with stride=0: allowed is 1 or more"):
        interp.run(gpt2, TEXTS, [LayerSimilarity(stride=0)], progress=False)


def test_layer_similarity_is_drawn_and_written(gpt2, tmp_path, clean):
    from interp.runs.report.drawings import result_text

    results = interp.run(gpt2, TEXTS, ["layer_similarity"], progress=False)
    figure = results["layer_similarity"].plot()
    assert figure.data[0].type == "heatmap"
    assert np.diag(np.array(figure.data[0].z)).tolist() == [1.0] * 4
    assert "1.00" in result_text(results["layer_similarity"])
    results.save(tmp_path / "out")
    again = interp.load(tmp_path / "out")["layer_similarity"]
    moments = again.leaves("moments")["", -1]
    assert isinstance(moments, CrossMoments)
    assert int(moments.count) == results["layer_similarity"].frame["tokens"].iloc[0]
