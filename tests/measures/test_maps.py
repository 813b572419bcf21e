"""Maps between spaces and retrieval through them, against textbook cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge
from spaces_help import (
    directions,
    rng,
    rotation,
)

from interp import BadInput
from interp.errors import UnknownName
from interp.measures.maps import affine, procrustes, relative_residual
from interp.measures.retrieval import csls, precision, ranks

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
