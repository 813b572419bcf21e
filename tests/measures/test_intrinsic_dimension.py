"""Intrinsic dimension: manifolds of known dimension, coverage, and an estimate by SciPy's tree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from sklearn.neighbors import NearestNeighbors

import interp
from analyses.intrinsic_dimension import IntrinsicDimension
from interp import BadInput
from interp.measures import gaussian_like, nearest_neighbours, neighbour_overlap, two_nn

FLAT = [(1, 1.0), (2, 1.97), (5, 4.65), (10, 8.5), (20, 15.0)]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def torus(seed: int, n: int, d: int) -> np.ndarray:
    """Uniform on a flat torus of d dimensions in 2d: no edge, no curvature inside."""
    angles = rng(seed).random((n, d)) * 2 * np.pi
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def turned(x: np.ndarray, extra: int = 3) -> np.ndarray:
    wide = x.shape[1] + extra
    return np.pad(x, ((0, 0), (0, extra))) @ np.linalg.qr(rng(9).normal(size=(wide, wide)))[0]


@pytest.mark.parametrize(("d", "expected"), FLAT)
def test_the_stated_bias_in_a_cube(d, expected):
    found = [two_nn(turned(rng(s).random((1000, d)))).dimension for s in range(5)]
    assert np.mean(found) == pytest.approx(expected, rel=0.03)


def test_two_nn_by_a_tree():
    x = turned(rng(1).normal(size=(300, 4)))
    near = KDTree(x).query(x, k=3)[0]
    ratios = np.log(near[:, 2] / near[:, 1])
    found = two_nn(1e6 + x)
    assert found.dimension == pytest.approx(299 / ratios.sum(), rel=1e-5)
    assert found.low < found.dimension < found.high


@pytest.mark.parametrize("d", [1, 2])
def test_intervals_hold_the_dimension_where_the_density_is_constant(d):
    found = [two_nn(torus(seed, 200, d)) for seed in range(150)]
    covered = np.mean([x.low <= d <= x.high for x in found])
    # Of 150 intervals that hold it with 0.95, fewer than 0.89 do so with probability below 0.002.
    assert covered >= 0.89
    width = np.mean([x.high - x.low for x in found])
    assert width < 5.5 * np.std([x.dimension for x in found])  # 3.92 if exact


def test_equal_vectors_count_once():
    x = rng(0).normal(size=(80, 3))
    found = two_nn(np.concatenate([x, x[:50], x[:10]]))
    assert found.n == 80
    assert found.dimension == pytest.approx(two_nn(x).dimension)


def test_too_few_vectors_have_no_dimension():
    few = two_nn(rng(0).normal(size=(9, 3)))
    assert np.isnan([few.dimension, few.low, few.high]).all()
    assert few.n == 9
    assert np.isnan(two_nn(np.ones((50, 3))).dimension)


def test_a_curve_is_below_its_gaussian_control_and_a_gaussian_cloud_is_not():
    t = rng(0).random(500) * 2 * np.pi
    curve = np.stack([f(k * t) for k in range(1, 6) for f in (np.cos, np.sin)], axis=1)
    assert two_nn(curve).dimension == pytest.approx(1, abs=0.1)
    assert two_nn(gaussian_like(curve)).dimension > 7
    own, control = [], []
    for seed in range(12):
        x = turned(rng(seed).normal(size=(300, 6)) * np.arange(1, 7))
        own.append(two_nn(x).dimension)
        control.append(two_nn(gaussian_like(x, seed=100 + seed)).dimension)
    assert np.mean(own) == pytest.approx(np.mean(control), abs=3 * np.std(own) / np.sqrt(6))


def test_the_control_has_the_mean_and_covariance():
    x = rng(0).normal(size=(4000, 3)) @ rng(1).normal(size=(3, 3)) + 5
    made = gaussian_like(x)
    np.testing.assert_allclose(made.mean(0), x.mean(0), atol=0.15)
    np.testing.assert_allclose(np.cov(made.T), np.cov(x.T), atol=0.25)


def test_neighbours_are_those_of_scikit_learn():
    x = 1e3 + rng(0).normal(size=(120, 5))
    known = NearestNeighbors(n_neighbors=8).fit(x).kneighbors(return_distance=False)
    np.testing.assert_array_equal(nearest_neighbours(x, 7), known[:, :7])
    with pytest.raises(BadInput, match="k is 120; allowed is 1 to 119"):
        nearest_neighbours(x, 120)


def test_overlap_by_sets_and_by_chance():
    clouds = [rng(i).normal(size=(90, 3)) for i in range(2)]
    near = [nearest_neighbours(x, 6) for x in clouds]
    sets = np.mean([len(set(p) & set(q)) / 6 for p, q in zip(*near, strict=True)])
    assert neighbour_overlap(*near) == pytest.approx(sets)
    orders = [rng(i).permutation(90) for i in range(400)]
    shuffled = [neighbour_overlap(near[0], nearest_neighbours(clouds[1][o], 6)) for o in orders]
    assert np.mean(shuffled) == pytest.approx(6 / 89, abs=4 * np.std(shuffled) / 20)


# ---- the analysis ----------------------------------------------------------------------------


def tokens() -> torch.Tensor:
    return torch.randint(2, 40, (6, 9), generator=torch.Generator().manual_seed(0))


def test_it_is_what_all_states_give(model):
    analysis = IntrinsicDimension(k=5)
    frame = interp.run(model, tokens(), analysis, progress=False)["intrinsic_dimension"].frame
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens())
    n = model.cfg.n_layers
    x = [cache[f"blocks.{i}.hook_resid_pre"] for i in range(n)]
    x.append(cache[f"blocks.{n - 1}.hook_resid_post"])
    special = interp.run(model, tokens(), "norm", progress=False).tokens["special"].to_numpy()
    clouds = [a.double().numpy().reshape(-1, a.shape[-1])[~special] for a in x]
    for layer, cloud in enumerate(clouds):
        row = frame.set_index("layer").loc[layer]
        found = two_nn(cloud)
        assert row["dimension"] == pytest.approx(found.dimension, rel=1e-4)
        assert row["distinct"] == found.n
        assert row["tokens"] == len(cloud)
        assert row["overlap_chance"] == pytest.approx(5 / (len(cloud) - 1))
        if layer + 1 < len(clouds) and found.n == len(cloud):
            near = [
                NearestNeighbors(n_neighbors=5).fit(c).kneighbors(return_distance=False)
                for c in (cloud, clouds[layer + 1])
            ]
            both = [len(set(p) & set(q)) / 5 for p, q in zip(*near, strict=True)]
            assert row["overlap_next"] == pytest.approx(np.mean(both), abs=1e-6)
    assert frame.set_index("layer")["overlap_next"].isna().tolist() == [*[False] * n, True]


def test_the_sample_does_not_depend_on_the_batches(gpt2):
    analysis = IntrinsicDimension(tokens=20, k=3)
    whole, parts = (
        interp.run(gpt2, tokens(), analysis, max_tokens=m, keep=keep, progress=False)
        for m, keep in ((4096, "tokens"), (1, "summary"))
    )
    a, b = (r["intrinsic_dimension"].frame for r in (whole, parts))
    assert (a["tokens"] == 20).all()
    np.testing.assert_allclose(a.to_numpy(float), b.to_numpy(float), rtol=1e-3)
    other = IntrinsicDimension(tokens=20, k=3, seed=1)
    changed = interp.run(gpt2, tokens(), other, progress=False)["intrinsic_dimension"].frame
    assert changed["dimension"].iloc[-1] != a["dimension"].iloc[-1]


def test_too_few_tokens_are_undefined(gpt2):
    few = interp.run(gpt2, torch.tensor([[5, 9, 2]]), "intrinsic_dimension", progress=False)
    frame = few["intrinsic_dimension"].frame
    undefined = ["dimension", "dimension_half", "gaussian_dimension", "overlap_next"]
    assert frame[[*undefined, "overlap_chance"]].isna().all().all()
    assert (frame["tokens"] <= 3).all()


def test_bad_parameters_are_refused():
    with pytest.raises(BadInput, match="tokens=1, k=10: allowed are 2 or more tokens and 1 to"):
        IntrinsicDimension(tokens=1)
    with pytest.raises(BadInput, match="tokens=5, k=5: allowed"):
        IntrinsicDimension(tokens=5, k=5)


@pytest.mark.parametrize("analysis", [IntrinsicDimension(), IntrinsicDimension(12, 2)])
def test_contract(analysis):
    interp.check_analysis(analysis)
