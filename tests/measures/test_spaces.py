"""Comparing spaces: maps, retrieval, similarities and their nulls, against textbook cases."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge

import interp
import interp.demo
from interp import BadInput
from interp.errors import UnknownName, Unsupported
from interp.experiments import WordSpace, compare_spaces
from interp.experiments.drift import drift_table
from interp.experiments.spaces import COLUMNS
from interp.measures import CrossMoments
from interp.measures.maps import affine, procrustes, relative_residual
from interp.measures.retrieval import csls, precision, ranks
from interp.measures.similarity import linear_cka, measure, mutual_knn, rsa, similarity_null, svcca
from interp.measures.streamed import streamed_cka
from interp.stats.nulls import Null, orders, permuted, undecided


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rotation(d: int, seed: int = 9) -> np.ndarray:
    return np.linalg.qr(rng(seed).normal(size=(d, d)))[0]


# ---- maps ------------------------------------------------------------------------------------


def test_procrustes_recovers_a_rotated_copy_exactly():
    a, turn = rng().normal(size=(50, 7)), rotation(7)
    b = 2.5 * a @ turn + np.arange(7)
    fitted = procrustes(a[:30], b[:30], scale=True)
    np.testing.assert_allclose(fitted.matrix, turn, atol=1e-12)
    assert fitted.scale == pytest.approx(2.5)
    assert relative_residual(fitted, a[30:], b[30:]) < 1e-12


def test_procrustes_is_scipys():
    a, b = rng(1).normal(size=(40, 6)), rng(2).normal(size=(40, 6))
    turn, total = orthogonal_procrustes(a, b)
    fitted = procrustes(a, b, shift=False, scale=True)
    np.testing.assert_allclose(fitted.matrix, turn, atol=1e-12)
    assert fitted.scale == pytest.approx(total / (a**2).sum())
    shifted = procrustes(a, b)
    turn, _ = orthogonal_procrustes(a - a.mean(0), b - b.mean(0))
    np.testing.assert_allclose(shifted.source(a), (a - a.mean(0)) @ turn, atol=1e-12)


@pytest.mark.parametrize("width", ["pca", "pad"])
@pytest.mark.parametrize("turned", [False, True])
def test_spaces_of_different_width_are_recovered(width, turned):
    narrow = rng(3).normal(size=(60, 4))
    wide = narrow @ rotation(9)[:4] + 1.0  # four dimensions inside nine
    a, b = (wide, narrow) if turned else (narrow, wide)
    fitted = procrustes(a[:40], b[:40], width=width)
    assert relative_residual(fitted, a[40:], b[40:]) < 1e-12
    assert ("cut to the 4" if width == "pca" else "zeros up to 9") in fitted.how


def test_residual_is_relative_to_the_mean_of_the_words_fitted_on():
    a, b = rng(4).normal(size=(30, 5)), rng(5).normal(size=(30, 5)) + 4
    fitted = procrustes(a[:20], b[:20])
    turn, _ = orthogonal_procrustes(a[:20] - a[:20].mean(0), b[:20] - b[:20].mean(0))
    target = b[20:] - b[:20].mean(0)
    expected = np.linalg.norm((a[20:] - a[:20].mean(0)) @ turn - target) / np.linalg.norm(target)
    assert relative_residual(fitted, a[20:], b[20:]) == pytest.approx(expected)


def test_affine_is_least_squares_and_ridge():
    a, b = rng(6).normal(size=(30, 4)), rng(7).normal(size=(30, 3))
    ones = np.column_stack([a, np.ones(30)])
    plain, *_ = np.linalg.lstsq(ones, b, rcond=None)
    fitted = affine(a, b)
    np.testing.assert_allclose(fitted.source(a) + fitted.mean_b, ones @ plain, atol=1e-12)
    penalty = 0.3 * ((a - a.mean(0)) ** 2).sum() / 4
    expected = Ridge(alpha=penalty).fit(a, b).predict(a)
    ridged = affine(a, b, ridge=0.3)
    np.testing.assert_allclose(ridged.source(a) + ridged.mean_b, expected, atol=1e-10)


def test_affine_with_fewer_words_than_dimensions_is_the_smallest_solution():
    a, b = rng(8).normal(size=(5, 12)), rng(9).normal(size=(5, 3))
    fitted = affine(a, b)
    expected = np.linalg.pinv(a - a.mean(0)) @ (b - b.mean(0))
    np.testing.assert_allclose(fitted.matrix, expected, atol=1e-10)


# ---- retrieval -------------------------------------------------------------------------------


def directions(*degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def test_csls_takes_a_hub_away_by_hand():
    sources, targets = directions(0, 40), directions(-25, 65, 20)  # 20° is near to both
    truth = [0, 1]
    assert ranks(sources, targets, truth).tolist() == [1, 1]
    assert ranks(sources, targets, truth, scoring="csls", k=2).tolist() == [0, 0]
    cos = {d: np.cos(np.radians(d)) for d in (20, 25, 65)}
    near_first = (cos[20] + cos[25]) / 2  # the two nearest targets of the source at 0°
    scores = csls(sources, targets, k=2)
    assert scores[0, 2] == pytest.approx(2 * cos[20] - near_first - cos[20])
    assert scores[0, 0] == pytest.approx(2 * cos[25] - near_first - (cos[25] + cos[65]) / 2)


def slow_ranks(x, y, s, truth, scoring, k, beta):
    """Every score by its definition, one pair at a time."""
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y, s)]
    x, y, s = unit
    out = []
    for i, own in enumerate(truth):
        scores = []
        for target in y:
            c = x[i] @ target
            to_sources = np.sort(s @ target)[::-1]
            to_targets = np.sort(y @ x[i])[::-1]
            scores.append(
                {
                    "cosine": c,
                    "csls": 2 * c - to_targets[:k].mean() - to_sources[:k].mean(),
                    "inverted_softmax": np.exp(beta * c) / np.exp(beta * to_sources).sum(),
                }[scoring]
            )
        out.append(sum(score > scores[own] for score in scores))
    return out


@pytest.mark.parametrize("scoring", ["cosine", "csls", "inverted_softmax"])
@pytest.mark.parametrize("block", [1, 37, 10**6])
def test_ranks_by_their_definitions_in_any_blocks(scoring, block):
    x, y = rng(1).normal(size=(15, 6)), rng(2).normal(size=(23, 6))
    s = rng(3).normal(size=(31, 6))
    truth = rng(4).integers(23, size=15)
    x += 0.8 * y[truth]
    found = ranks(x, y, truth, scoring=scoring, sources=s, k=4, beta=7.0, block=block)
    assert found.tolist() == slow_ranks(x, y, s, truth, scoring, 4, 7.0)


def test_a_tie_counts_against_and_precision_counts_ranks():
    same = np.ones((4, 3))
    assert ranks(same, same, [0, 1, 2, 3]).tolist() == [3, 3, 3, 3]
    assert precision(np.array([0, 0, 4, 9, 20]), 5) == 0.6


def test_retrieval_refuses_what_does_not_fit():
    x = np.eye(3)
    with pytest.raises(BadInput, match="k is 9; allowed is 1 to 3"):
        ranks(x, x, [0, 1, 2], scoring="csls", k=9)
    with pytest.raises(UnknownName, match="unknown scoring 'cosin'; did you mean 'cosine'"):
        ranks(x, x, [0, 1, 2], scoring="cosin")
    with pytest.raises(BadInput, match="truth must name one of 3 targets for each of 3 queries"):
        ranks(x, x, [0, 1, 3])
    with pytest.raises(BadInput, match="queries are 3 wide, targets 2"):
        ranks(x, x[:, :2], [0, 1, 2])
    with pytest.raises(BadInput, match="beta is 0"):
        ranks(x, x, [0, 1, 2], scoring="inverted_softmax", beta=0)


# ---- similarities ----------------------------------------------------------------------------


def slow_hsic_1(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. (2012), eq. 5, with matrices."""
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def slow_cka(a: np.ndarray, b: np.ndarray, debiased: bool) -> float:
    k, m = a @ a.T, b @ b.T
    if debiased:
        return slow_hsic_1(k, m) / np.sqrt(slow_hsic_1(k, k) * slow_hsic_1(m, m))
    h = np.eye(len(a)) - 1 / len(a)
    hsic = [np.trace(p @ h @ q @ h) for p, q in ((k, m), (k, k), (m, m))]
    return hsic[0] / np.sqrt(hsic[1] * hsic[2])


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


# ---- nulls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cka", "rsa", "mutual_knn"])
def test_permutation_p_is_uniform_under_the_null(name):
    kind, p = measure(name, k=3), []
    for i in range(200):
        a, b = rng(i).normal(size=(12, 3)), rng(i + 1000).normal(size=(12, 4))
        p.append(similarity_null([a], [b], kind, resamples=39, seed=i).p.item())
    p = np.array(p)
    # Scores that can tie (shares of neighbours) make p cautious, never too small.
    assert (p <= 0.1).mean() < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 200)
    if name != "mutual_knn":
        assert stats.kstest(p - 1 / 80, "uniform").pvalue > 0.001


def test_the_best_of_many_pairs_has_its_own_null():
    kind, single, best = measure("cka"), 0, 0
    for i in range(120):
        layers = [rng(1000 * i + j).normal(size=(12, 3)) for j in range(8)]
        null = similarity_null(layers[:4], layers[4:], kind, resamples=39, seed=i)
        single += null.p.min() <= 0.05
        best += null.p_max.min() <= 0.05
    assert single / 120 > 0.25  # sixteen pairs: one of them is below 0.05 most of the time
    assert best / 120 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)


def test_p_counts_draws_at_least_as_good():
    draws = np.array([[1.0], [2.0], [3.0], [4.0]])
    assert Null(np.array([3.0]), draws).p.item() == 3 / 5
    assert Null(np.array([2.0]), draws, lower_is_better=True).p.item() == 3 / 5
    both = np.array([[1.0, 9.0], [2.0, 0.0]])
    null = Null(np.array([5.0, 5.0]), both)
    assert null.p.tolist() == [1 / 3, 2 / 3]
    assert null.p_max.tolist() == [2 / 3, 2 / 3]


def test_clusters_change_places_whole_and_only_with_their_size():
    clusters = ["a", "a", "b", "b", "c", "c", "c", "d", "d", "d"]
    seen = set()
    for order in orders(10, 60, 0, clusters):
        moved = [clusters[i] for i in order]
        assert sorted(order.tolist()) == list(range(10))
        assert {"".join(moved[:4]), "".join(moved[4:])} <= {"aabb", "bbaa", "cccddd", "dddccc"}
        assert all(np.diff(order)[[0, 2, 4, 5, 7, 8]] == 1)
        seen.add("".join(moved))
    assert len(seen) == 4
    with pytest.raises(BadInput, match="no two clusters have the same number of rows"):
        next(orders(3, 1, 0, ["a", "a", "b"]))
    with pytest.raises(BadInput, match="one is needed for each of 4 rows"):
        next(orders(4, 1, 0, ["a", "a", "b"]))
    with pytest.raises(BadInput, match="resamples is 0"):
        permuted(lambda order: 0.0, 4, resamples=0)


def test_rows_of_one_cluster_make_a_plain_permutation_too_sure():
    """Tokens of a prompt resemble each other in both spaces: only moving prompts is calibrated."""
    plain = clustered = 0
    for i in range(60):
        prompt = np.repeat(np.arange(8), 5)
        a, b = (
            r.normal(size=(8, 3))[prompt] + 0.3 * r.normal(size=(40, 3))
            for r in (rng(2 * i), rng(2 * i + 1))
        )
        for use in (None, prompt.tolist()):
            null = similarity_null([a], [b], measure("cka"), resamples=39, clusters=use, seed=i)
            plain += use is None and null.p.item() <= 0.05
            clustered += use is not None and null.p.item() <= 0.05
    assert plain / 60 > 0.3
    assert clustered / 60 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


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

TEXTS = [
    "the man saw her in a red house and the dog met him on the old road",
    "a queen told her that the king had gone by the river",
    "the dog met him on the old road . he was not old",
    "that small bird was in the apple tree by the house",
    "who had introduced the child to the king of the city",
]


def states_of(model, text: str) -> np.ndarray:
    """`[state, pos, d]` of one text, run alone."""
    n = len(model.blocks)
    with torch.no_grad():
        _, cache = model.run_with_cache(model.to_tokens(text))
    names = [*(f"blocks.{i}.hook_resid_pre" for i in range(n)), f"blocks.{n - 1}.hook_resid_post"]
    return torch.stack([cache[name][0] for name in names]).double().numpy()


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
    with pytest.raises(interp.InterpError, match="stride is 0"):
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


# ---- words and their vectors -----------------------------------------------------------------


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


def pieces_model(words: list[str], d: int, seed: int, name: str):
    """A model with a vocabulary of its own: `W_E`, `W_U` and a tokenizer of word pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {w: i for i, w in enumerate(["[UNK]", *words])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")  # noqa: S106
    weights = torch.from_numpy(rng(seed).normal(size=(len(vocabulary), d)))
    cfg = SimpleNamespace(model_name=name)
    return SimpleNamespace(
        W_E=weights, W_U=weights.T * 2, tokenizer=tokenizer, cfg=cfg, hook_dict={}
    )


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


# ---- compare_spaces --------------------------------------------------------------------------

WORDS = [f"w{i}" for i in range(120)]


@pytest.fixture(scope="module")
def spaces():
    a = rng(1).normal(size=(120, 8))
    wide = np.column_stack([a @ rotation(8), 0.05 * rng(2).normal(size=(120, 3))])
    return a, wide


def test_a_rotated_copy_is_found_by_every_method(spaces):
    a, wide = spaces
    every = ("procrustes", "affine", "cka", "cka_biased", "rsa", "mutual_knn", "svcca")
    found = compare_spaces((a, WORDS), (wide, WORDS), method=every, resamples=99)
    frame = found.frame.set_index(["method", "score"])
    assert frame.loc[("procrustes", "residual"), "value"] < 0.05
    assert (frame.filter(like="@1", axis=0)["value"] == 1).all()
    assert (frame["p"] <= 0.01).all()
    assert (frame["p_holm"] > frame["p"]).all()
    assert frame.loc["procrustes", "n"].tolist() == [24] * 10
    assert frame.loc["procrustes", "n_fit"].tolist() == [96] * 10
    assert frame.loc[("procrustes", "cosine@10"), "null_mean"] < 0.15
    assert set(found.frame.columns) == set(COLUMNS)
    assert any("8 and 11 wide, cut to the 8 leading" in note for note in found.notes)


def test_independent_spaces_are_not_distinguished_from_chance():
    p = []
    for i in range(8):
        a, b = rng(i).normal(size=(60, 5)), rng(50 + i).normal(size=(60, 5))
        found = compare_spaces((a, WORDS[:60]), (b, WORDS[:60]), resamples=19, seed=i)
        p.append(found.frame["p_holm"].min())
    assert np.mean(np.array(p) <= 0.05) <= 0.25


def test_maps_are_fitted_on_other_words_than_they_are_scored_on(spaces):
    """A map with as many parameters as words fits them all, and still knows nothing."""
    a, b = rng(1).normal(size=(60, 80)), rng(2).normal(size=(60, 80))
    fitted = affine(a, b)
    assert relative_residual(fitted, a, b) < 1e-9
    found = compare_spaces((a, WORDS[:60]), (b, WORDS[:60]), method="affine", ridge=0, resamples=39)
    residual = found.frame.set_index("score").loc["residual"]
    assert residual["value"] > 0.9
    assert residual["p"] > 0.05
    assert residual["better"] == "lower"


def test_sources_of_words_may_be_tables_and_order_does_not_matter(spaces):
    a, wide = spaces
    table = pd.DataFrame(wide, columns=[f"d{i}" for i in range(11)]).assign(word=WORDS)
    twice = pd.concat([table, table.iloc[:3]]).sample(frac=1, random_state=0)
    plain = compare_spaces((a, WORDS), (wide, WORDS), method="cka", resamples=9)
    found = compare_spaces(WordSpace(tuple(WORDS), a), twice, method="cka", resamples=9)
    assert found.frame["value"].item() == pytest.approx(plain.frame["value"].item())
    assert "3 rows of space b repeat a word and are averaged" in found.notes


def test_all_pairs_measures_draw_words_above_the_limit(spaces):
    a, wide = spaces
    found = compare_spaces((a, WORDS), (wide, WORDS), method="rsa", limit=50, resamples=9)
    assert found.frame["n"].item() == 50
    assert "rsa is of 50 words, drawn from 120" in found.notes


def test_compare_spaces_refuses_bad_input(spaces):
    a, wide = spaces
    good = (a, WORDS)
    with pytest.raises(BadInput, match="space a and space b have no words in common, at least 4"):
        compare_spaces(good, (wide, [w + "!" for w in WORDS]))
    with pytest.raises(BadInput, match="have 3 words in common"):
        compare_spaces(good, (wide, WORDS), words=WORDS[:3])
    asked = [*WORDS[:3], WORDS[3] + "!", "xyzzy"]
    lost = f"5 were named; a lacks .{WORDS[3]}!.; did you mean .* and 1 more, b none"
    with pytest.raises(BadInput, match=lost):
        compare_spaces(good, (wide, [*WORDS[:-2], *asked[3:]]), words=asked)
    with pytest.raises(UnknownName, match="unknown method 'procrust'; did you mean 'procrustes'"):
        compare_spaces(good, good, method="procrust")
    with pytest.raises(BadInput, match="k is 500; allowed is 1 to 119, the other words"):
        compare_spaces(good, good, method="mutual_knn", k=500)
    with pytest.raises(BadInput, match="k is 500; allowed is 1 to 120, the number of words"):
        compare_spaces(good, good, method="procrustes", k=500)
    with pytest.raises(BadInput, match="space b is constant: all 120 rows"):
        compare_spaces(good, (np.ones((120, 3)), WORDS))
    bad = a.copy()
    bad[7] = np.nan
    with pytest.raises(BadInput, match="space b: 1 of 120 rows hold NaN .* row 7"):
        compare_spaces(good, (bad, WORDS))
    with pytest.raises(BadInput, match="held_out is 1.5"):
        compare_spaces(good, good, held_out=1.5)
    with pytest.raises(BadInput, match="leaves 118 to fit on|leaves 120 to fit on and 0"):
        compare_spaces(good, good, held_out=0.001)
    with pytest.raises(BadInput, match=r"space a is int; allowed: \(model, 'W_E'\)"):
        compare_spaces(7, good)
    with pytest.raises(BadInput, match="no method was asked for"):
        compare_spaces(good, good, method=())
    model = pieces_model(["a", "b", "c", "d"], 3, 1, "one")
    with pytest.raises(BadInput, match="no matrix 'W_V'"):
        compare_spaces((model, "W_V"), good)
    with pytest.raises(
        UnknownName, match="unknown way to join pieces 'means'; did you mean 'mean'"
    ):
        compare_spaces((model, "W_E"), good, pieces="means")
    model.W_E = None
    with pytest.raises(Unsupported, match="one has no matrix W_E"):
        compare_spaces((model, "W_E"), good)


def test_a_comparison_is_drawn_and_printed(spaces):
    a, wide = spaces
    found = compare_spaces((a, WORDS), (wide, WORDS), resamples=19)
    figure = found.plot()
    assert figure.layout.yaxis.ticktext[0] == "procrustes · residual"
    assert len(figure.data[1].x) == len(found.frame)
    assert "procrustes" in repr(found)
    assert "120 words" in repr(found)
    assert (
        "19 permutations over 23 rows: p_holm cannot fall below 1; raise resamples" in found.notes
    )


# ---- layers of two models --------------------------------------------------------------------


def test_layers_of_two_models_on_the_same_words(gpt2, llama, clean):
    found = interp.experiments.compare_layers(gpt2, llama, TEXTS, per_prompt=6, resamples=39)
    assert len(found.words) == 30
    x, y = (
        np.concatenate(
            [
                states_of(model, text)[:, 1 + found.words.query("prompt == @i")["word"].to_numpy()]
                for i, text in enumerate(TEXTS)
            ],
            axis=1,
        )
        for model in (gpt2, llama)
    )
    table = found.matrix()
    assert table.shape == (len(x), len(y))
    for i, j in itertools.product(range(len(x)), range(len(y))):
        assert table.loc[i, j] == pytest.approx(slow_cka(x[i], y[j], True), rel=1e-3, abs=1e-5)
    assert found.best["value"] == found.frame["value"].max()
    assert (found.frame["p_max"] >= found.frame["p"]).all()
    assert found.words["text"].isin([w for text in TEXTS for w in text.split()]).all()
    assert found.plot().data[0].type == "heatmap"
    assert "30 words of 5 prompts" in repr(found)


def test_layers_of_one_model_against_itself(gpt2, clean):
    found = interp.experiments.compare_layers(
        gpt2, gpt2, TEXTS, per_prompt=5, resamples=9, pieces="mean"
    )
    assert np.allclose(np.diag(found.matrix()), 1)


def test_compare_layers_refuses_what_it_cannot_match(gpt2, llama, clean):
    with pytest.raises(BadInput, match="0 of 5 prompts have 99 words or more"):
        interp.experiments.compare_layers(gpt2, llama, TEXTS, per_prompt=99)
    with pytest.raises(BadInput, match="1 of 2 prompts have 6 words or more; at least 2"):
        interp.experiments.compare_layers(gpt2, llama, [TEXTS[0], "the dog"], per_prompt=6)
    with pytest.raises(UnknownName, match="unknown similarity 'cca'; did you mean"):
        interp.experiments.compare_layers(gpt2, llama, TEXTS, method="cca")
    other = [interp.read_prompts(t, gpt2.tokenizer) for t in (TEXTS, TEXTS[::-1])]
    from interp.experiments.layers import _words

    with pytest.raises(BadInput, match="the two models read different texts"):
        _words(*other, 2, 0)


# ---- drift -----------------------------------------------------------------------------------


def test_drift_of_planted_senses():
    senses = np.array(["a", "b"] * 8)
    prompts = np.arange(16)
    flat = rng(1).normal(size=(16, 6))
    apart = flat + 2 * np.where(senses == "a", 1, -1)[:, None]
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (flat, apart)]
    cosines = np.stack([u @ u.T for u in units])
    table = drift_table(cosines, senses, prompts, resamples=499)
    same = (senses[:, None] == senses[None]) & ~np.eye(16, dtype=bool)
    assert table["within"].tolist() == pytest.approx([c[same].mean() for c in cosines])
    other = senses[:, None] != senses[None]
    assert table["between"].tolist() == pytest.approx([c[other].mean() for c in cosines])
    assert table["p"][1] == table["p_max"][1] == 1 / 500
    assert table["p"][0] > 0.05
    assert table["null_mean"].abs().max() < 0.05


def test_drift_of_states_that_do_not_differ_is_undefined_not_significant():
    table = drift_table(np.ones((2, 8, 8)), ["a", "b"] * 4, range(8), resamples=99)
    assert table["difference"].tolist() == [0, 0]
    assert table[["p", "p_max"]].isna().all().all()


def test_few_prompts_cannot_decide_and_say_so():
    random = np.random.default_rng(5)
    cosines = random.normal(size=(3, 4, 4)) * 0.01 + np.kron(np.eye(2), np.ones((2, 2)))
    table = drift_table(cosines, ["a", "a", "b", "b"], range(4), resamples=499)
    assert table["p_max"].min() > 0.2  # a third of the six orders give these senses again
    assert table.attrs["smallest_p_max"] == pytest.approx(1 / 3, abs=0.06)
    (note,) = undecided(table.attrs["smallest_p_max"])
    assert note.startswith("cannot be decided with so few prompts or resamples: the smallest p")
    noise = random.normal(size=(2, 20, 20))
    many = drift_table(noise + noise.transpose(0, 2, 1), ["a", "b"] * 10, range(20), resamples=499)
    assert undecided(many.attrs["smallest_p_max"]) == ()


def test_drift_p_is_calibrated():
    p = []
    for i in range(150):
        x = rng(i).normal(size=(12, 5))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        cosines = np.stack([x @ x.T, (x[:, :3] @ x[:, :3].T)])
        table = drift_table(cosines, ["a", "b"] * 6, range(12), resamples=39, seed=i)
        p.append([table["p"][0], table["p_max"].min()])
    for rate in (np.array(p) <= 0.1).mean(axis=0):
        assert 0.02 < rate < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 150)


def test_drift_of_a_word_in_a_model(gpt2, clean):
    labels = {"sense": ["x", "y", "x", "y", "y"]}
    found = interp.experiments.contextual_drift(gpt2, TEXTS, "the", labels=labels, resamples=19)
    places = [
        (i, 1 + k) for i, t in enumerate(TEXTS) for k, w in enumerate(t.split()) if w == "the"
    ]
    assert (
        list(zip(found.occurrences["prompt"], found.occurrences["position"], strict=True)) == places
    )
    x = np.stack([states_of(gpt2, TEXTS[i])[:, k] for i, k in places], axis=1)
    for cosines, states in zip(found.cosines, x, strict=True):
        np.testing.assert_allclose(cosines, 1 - cdist(states, states, "cosine"), atol=1e-5)
    assert found.senses == {"x": 5, "y": 7}
    assert found.frame["layer"].tolist() == [0, 1, 2, 3]
    assert [trace.name for trace in found.plot().data][:3] == [
        "with random other tokens",
        "same sense",
        "different senses",
    ]


def test_drift_refuses_what_has_no_senses(gpt2, clean):
    with pytest.raises(UnknownName, match="unknown label 'sence'; did you mean 'sense'"):
        interp.experiments.contextual_drift(
            gpt2, TEXTS, "the", sense="sence", labels={"sense": list("xyxyy")}
        )
    with pytest.raises(BadInput, match="needs two or more values .* seen: x in 5 prompts"):
        interp.experiments.contextual_drift(gpt2, TEXTS, "the", labels={"sense": ["x"] * 5})
    with pytest.raises(BadInput, match="'zebra' occurs in none of the 5 prompts"):
        interp.experiments.contextual_drift(gpt2, TEXTS, "zebra", labels={"sense": list("xyxyy")})


# ---- continuations ---------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_divergence_of_continuations_against_every_continuation_of_two_tokens(
    gpt2, temperature, clean
):
    from scipy.special import log_softmax, rel_entr

    a, b = "the man saw her", "a queen told"
    found = interp.experiments.continuation_divergence(
        gpt2, a, b, temperature=temperature, length=2, samples=400
    )
    steps = []
    for text in (a, b):
        tokens = gpt2.to_tokens(text)
        n = tokens.shape[1]
        every = torch.arange(gpt2.cfg.d_vocab)[:, None]
        with torch.no_grad():
            z = gpt2(torch.cat([tokens.expand(len(every), -1), every], dim=1)).double().numpy()
        first = log_softmax(z[0, n - 1] / temperature)
        steps.append((first, first[:, None] + log_softmax(z[:, n] / temperature, axis=-1)))
    for row in range(2):
        p, q = (np.exp(s[row]).ravel() for s in steps)
        exact = {
            "kl_ab": rel_entr(p, q).sum(),
            "kl_ba": rel_entr(q, p).sum(),
            "js": (rel_entr(p, (p + q) / 2).sum() + rel_entr(q, (p + q) / 2).sum()) / 2,
        }
        for name, value in exact.items():
            seen = found.frame.loc[row, name]
            assert abs(seen - value) < 4.5 * found.frame.loc[row, f"{name}_se"], name


def test_the_same_context_does_not_diverge_and_bad_settings_are_refused(gpt2, clean):
    diverge = interp.experiments.continuation_divergence
    same = diverge(gpt2, "the man", "the man", length=3, samples=8)
    assert np.allclose(same.frame.drop(columns="length"), 0)
    with pytest.raises(BadInput, match="temperature is 0; allowed is a number above 0"):
        diverge(gpt2, "the man", "the dog", temperature=0)
    with pytest.raises(BadInput, match="3 tokens and 999 more do not fit in the model's"):
        diverge(gpt2, "the man", "the dog", length=999)
    with pytest.raises(BadInput, match="samples 1; allowed are 1 or more, 2 or more"):
        diverge(gpt2, "the man", "the dog", samples=1)


# ---- the embedded models ---------------------------------------------------------------------

embedded = pytest.mark.skipif(
    not all((path / "config.json").is_file() for path in interp.demo.MODELS.values()),
    reason="the embedded models are not there",
)


@embedded
def test_the_embedded_models_translate_into_each_other():
    a, b = (interp.load_model(name) for name in interp.demo.MODELS)
    found = compare_spaces((a, "W_E"), (b, "W_E"), method=("procrustes", "cka"), resamples=49)
    frame = found.frame.set_index(["method", "score"])
    for score in ("residual", "csls@10"):
        assert frame.loc[("procrustes", score), "p"] == 1 / 50, score
    assert (
        frame.loc[("procrustes", "csls@10"), "value"]
        > 3 * (frame.loc[("procrustes", "csls@10"), "null_mean"])
    )
    assert frame.loc[("cka", "cka"), "p"] == 1 / 50


@embedded
def test_last_layers_of_the_embedded_models_are_the_most_alike():
    a, b = (interp.load_model(name) for name in interp.demo.MODELS)
    documents = interp.demo.demo_documents(60)
    found = interp.experiments.compare_layers(a, b, documents, resamples=49)
    assert (found.best["layer_a"], found.best["layer_b"]) == (6, 8)
    assert found.best["value"] > 0.6
    assert found.best["p_max"] == 1 / 50


@embedded
def test_senses_drift_apart_in_the_embedded_models():
    documents = interp.demo.generate(240, 5, ["sense"], "held_out")
    for name in interp.demo.MODELS:
        model = interp.load_model(name)
        found = interp.experiments.contextual_drift(model, documents, "bank", resamples=199)
        # The null is that of the largest over layers, so that a layer may be chosen.
        clear = found.frame[found.frame["p_max"] <= 0.01]
        assert len(clear) >= found.frame["layer"].max() // 2
        assert (clear["random"] + 0.4 < clear["between"]).all()
        assert (clear["between"] < clear["within"] - 0.005).all()
