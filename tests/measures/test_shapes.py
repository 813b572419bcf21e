"""Shape metrics: closed forms, an optimiser over rotations, laws of a metric, chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize
from scipy.linalg import expm, orthogonal_procrustes
from spaces_help import rng, rotation

from interp import BadInput
from interp.errors import UnknownName
from interp.experiments import compare_spaces
from interp.measures import angular_shape, shape, size_and_shape
from interp.measures.shapes import SHAPES

WORDS = [f"w{i}" for i in range(60)]


def cloud(seed: int, n: int = 30, d: int = 5) -> np.ndarray:
    return rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) + 3


def by_scipy(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Angle and distance from SciPy's rotation, with zeros where a space is narrower."""
    wide = max(a.shape[1], b.shape[1])
    x, y = (np.pad(z - z.mean(0), ((0, 0), (0, wide - z.shape[1]))) for z in (a, b))
    q, _ = orthogonal_procrustes(x, y)
    cosine = ((x @ q) * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
    return float(np.arccos(cosine)), float(np.linalg.norm(x @ q - y) / np.sqrt(len(x)))


@pytest.mark.parametrize("widths", [(5, 5), (3, 6), (6, 3), (40, 40)])
def test_angle_and_distance_are_those_at_the_rotation_that_scipy_finds(widths):
    a, b = cloud(1, d=widths[0]), cloud(2, d=widths[1])
    angle, distance = by_scipy(a, b)
    assert angular_shape(a, b) == pytest.approx(angle, abs=1e-9)
    assert size_and_shape(a, b) == pytest.approx(distance)


def test_no_rotation_near_the_best_one_makes_the_distance_smaller():
    a, b = (cloud(i, d=3) - cloud(i, d=3).mean(0) for i in (1, 2))
    best, _ = orthogonal_procrustes(a, b)

    def far(turn: np.ndarray) -> float:
        x, y, z = turn
        q = best @ expm(np.array([[0, x, y], [-x, 0, z], [-y, -z, 0]]))
        return float(np.linalg.norm(a @ q - b) / np.sqrt(len(a)))

    found = optimize.minimize(far, np.full(3, 0.3)).fun
    assert size_and_shape(a, b) == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("degrees", [1e-5, 0.01, 30.0, 90.0])
def test_spaces_a_known_angle_apart_have_that_angle(degrees):
    """cos θ of one unit space plus sin θ of one at right angles to it, of other directions."""
    x = cloud(1, n=20, d=3)
    x -= x.mean(0)
    x /= np.linalg.norm(x)
    other = rng(5).normal(size=(20, 3))
    other -= other.mean(0)
    other -= x @ np.linalg.solve(x.T @ x, x.T @ other)  # no product with any direction of x
    other /= np.linalg.norm(other)
    theta = np.radians(degrees)
    a, b = np.pad(x, ((0, 0), (0, 3))), np.column_stack([np.cos(theta) * x, np.sin(theta) * other])
    assert angular_shape(a, 7 * b @ rotation(6) + 2) == pytest.approx(theta, rel=1e-6)


def test_what_each_metric_does_not_see():
    a = cloud(1)
    turned = a @ rotation(5) + 4
    skewed = a @ (rotation(5) * [1, 2, 3, 4, 50]) @ rotation(5)
    assert angular_shape(a, 1e5 * turned) < 1e-7
    assert size_and_shape(a, turned) < 1e-7
    assert size_and_shape(a, 2 * turned) > 1
    assert angular_shape(a, skewed) > 0.3
    assert angular_shape(a, skewed, alpha=0) < 1e-6


def test_whitened_angle_is_that_of_canonical_correlations():
    a, b = cloud(1, d=4), cloud(2, d=3)
    b[:, 0] += 2 * a[:, 0]
    q = [np.linalg.qr(x - x.mean(0))[0] for x in (a, b)]
    correlations = np.linalg.svd(q[0].T @ q[1], compute_uv=False)
    expected = np.arccos(correlations.sum() / np.sqrt(12))
    assert angular_shape(a, b, alpha=0) == pytest.approx(expected)
    values = [angular_shape(a, b, alpha=x) for x in (0, 0.5, 1)]
    assert values[1] not in (pytest.approx(values[0]), pytest.approx(values[2]))


@pytest.mark.parametrize("name", SHAPES)
def test_they_are_metrics(name):
    spaces = [cloud(i, n=12, d=2 + i % 4) for i in range(9)]
    kind = shape(name)
    far = np.array([[kind.of(a, b) for b in spaces] for a in spaces])
    np.testing.assert_allclose(far, far.T, atol=1e-7)
    assert np.abs(np.diag(far)).max() < 1e-6
    assert (far[:, :, None] <= far[:, None, :] + far.T[None, :, :] + 1e-9).all()


@pytest.mark.parametrize("name", SHAPES)
def test_an_order_is_a_reordering_of_rows(name):
    a, b, order = cloud(1), cloud(2, d=4), rng(3).permutation(30)
    kind = shape(name)
    found = kind.score(kind.prepare(a), kind.prepare(b), order)
    assert found == pytest.approx(kind.of(a, b[order]))


def test_unknown_names_and_bad_alphas_are_refused():
    with pytest.raises(
        UnknownName, match="shape metric 'angular_shap'; did you mean 'angular_shape'"
    ):
        shape("angular_shap")
    with pytest.raises(BadInput, match=r"alpha is 2; allowed is 0 \(whitened\) to 1"):
        angular_shape(cloud(1), cloud(2), alpha=2)
    with pytest.raises(BadInput, match="space a is constant|a space is constant"):
        angular_shape(np.ones((5, 2)), cloud(1, n=5))


# ---- among the spaces ------------------------------------------------------------------------


def test_a_rotated_copy_is_nearer_than_permuted_words():
    a = cloud(1, n=60)
    b = a @ rotation(5) + 0.05 * rng(2).normal(size=(60, 5))
    frame = compare_spaces((a, WORDS), (b, WORDS), method=SHAPES, resamples=99).frame
    assert (frame["value"] < 0.2 * frame["null_mean"]).all()
    assert (frame["p"] == 0.01).all()
    assert (frame["better"] == "lower").all()
    assert (frame["n_fit"] == 0).all()


def test_p_of_unrelated_spaces_is_uniform():
    p = []
    for i in range(60):
        a, b = cloud(i, n=25, d=3), cloud(500 + i, n=25, d=4)
        names = WORDS[:25]
        frame = compare_spaces((a, names), (b, names), method=SHAPES, resamples=39, seed=i).frame
        p.append(frame["p"])
    below = (np.array(p) <= 0.1).mean(0)
    # Of 60 draws a share of 0.1 is above 0.22 or is 0 with probability below 0.005.
    assert (below > 0).all()
    assert (below < 0.23).all()
