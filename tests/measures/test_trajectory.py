"""Trajectories: axes against scikit-learn on all states, controls against direct simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import interp
from analyses.trajectory import Trajectory
from interp import BadInput, Cov
from interp.measures.paths import gaussian_share, principal_axes, walk_share

TEXTS = [
    "the man saw her in a red house",
    "a queen told her",
    "the dog met him on the old road .",
    "she gave it to the small boy",
]
PCS = ["pc1", "pc2", "pc3"]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def result(model):
    return interp.run(model, TEXTS, Trajectory, progress=False)["trajectory"]


@pytest.fixture(scope="module")
def states(model):
    """All states of every prompt run alone, `[state, token, d]`, and the special tokens."""
    rows, special = [], []
    with torch.no_grad():
        for text in TEXTS:
            _, cache = model.run_with_cache(model.to_tokens(text))
            n = len(model.blocks)
            x = [cache[f"blocks.{i}.hook_resid_pre"][0] for i in range(n)]
            x.append(cache[f"blocks.{n - 1}.hook_resid_post"][0])
            rows.append(torch.stack(x).double().numpy())
            special += [i == 0 for i in range(rows[-1].shape[1])]
    return np.concatenate(rows, axis=1), np.asarray(special)


def coordinates(result, columns=PCS) -> np.ndarray:
    """`[state, token, columns]`."""
    frame = result.frame.sort_values(["layer", "prompt", "position"])
    n = frame["layer"].nunique()
    return frame[columns].to_numpy(dtype=float).reshape(n, -1, len(columns))


def same_up_to_sign(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    for i in range(a.shape[-1]):
        sign = np.sign((a[..., i] * b[..., i]).sum())
        np.testing.assert_allclose(a[..., i], sign * b[..., i], atol=tolerance)


def test_axes_are_those_of_scikit_learn_on_all_states(result, states):
    x, special = states
    pca = PCA().fit(x[:, ~special].reshape(-1, x.shape[-1]))
    own = coordinates(result)
    expected = pca.transform(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)
    same_up_to_sign(own, expected[..., :3], 2e-3 * np.abs(own).max())
    row = result.frame.iloc[0]
    for i, name in enumerate(PCS):
        assert row[f"{name}_share"] == pytest.approx(pca.explained_variance_ratio_[i], rel=1e-4)
    assert row["shown_share"] == pytest.approx(pca.explained_variance_ratio_[:3].sum(), rel=1e-4)
    values = pca.explained_variance_
    ratio = values.sum() ** 2 / (values**2).sum()
    assert row["effective_dimension"] == pytest.approx(ratio, rel=1e-4)
    assert row["basis_states"] == x[:, ~special].shape[0] * x[:, ~special].shape[1]
    centred = x - pca.mean_
    left = centred - expected[..., :3] @ pca.components_[:3]
    outside = (left**2).sum(-1) / (centred**2).sum(-1)
    np.testing.assert_allclose(coordinates(result, ["outside"])[..., 0], outside, atol=1e-4)


def test_largest_loading_is_positive():
    x = np.random.default_rng(0).normal(size=(50, 4)) * [9, 5, 2, 1]
    axes = principal_axes(_cov(x), 4)
    assert (axes.directions[np.arange(4), np.abs(axes.directions).argmax(1)] > 0).all()
    np.testing.assert_allclose(axes.directions @ axes.directions.T, np.eye(4), atol=1e-12)


def test_special_tokens_are_marked_but_not_in_the_basis(model, result):
    assert result.frame.query("position == 0")["special"].all()
    both = interp.run(model, TEXTS, Trajectory(special=True), progress=False)["trajectory"]
    n_states = result.frame["layer"].nunique()
    added = both.frame["basis_states"].iloc[0] - result.frame["basis_states"].iloc[0]
    assert added == len(TEXTS) * n_states


def test_unit_states_have_length_one(model, states):
    x, special = states
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    pca = PCA(3).fit(unit[:, ~special].reshape(-1, x.shape[-1]))
    found = interp.run(model, TEXTS, Trajectory(unit=True), progress=False)["trajectory"]
    expected = pca.transform(unit.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], 3)
    same_up_to_sign(coordinates(found), expected, 2e-3)


def test_streamed_equals_whole(model, result):
    one = interp.run(model, TEXTS, Trajectory, max_tokens=1, progress=False)["trajectory"]
    np.testing.assert_allclose(coordinates(one), coordinates(result), atol=5e-3)
    for name in ("shown_share", "walk_share", "effective_dimension", "basis_states"):
        assert one.frame[name].iloc[0] == pytest.approx(result.frame[name].iloc[0], rel=1e-4)


def test_a_corpus_keeps_the_first_tokens_only_but_all_states_in_the_basis(model, result):
    few = Trajectory(tokens=11)
    for budget in (1, 4096):
        kept = interp.run(model, TEXTS, few, max_tokens=budget, keep="summary", progress=False)
        frame = kept["trajectory"].frame
        seen = frame[["prompt", "position"]].drop_duplicates()
        first = result.frame[["prompt", "position"]].drop_duplicates().head(11)
        assert seen.to_numpy().tolist() == first.to_numpy().tolist()
        assert frame["basis_states"].iloc[0] == result.frame["basis_states"].iloc[0]


def test_tokens_generated_with_a_cache_follow_on(gpt2):
    tokens = gpt2.to_tokens("the man saw her")
    with interp.attach(gpt2, Trajectory) as probes, torch.no_grad():
        gpt2.generate(tokens, max_new_tokens=3, do_sample=False, verbose=False)
    positions = probes["trajectory"].frame["position"].drop_duplicates().tolist()
    assert positions == list(range(tokens.shape[1] + 2))


def test_save_and_load(result, tmp_path):
    again = interp.load(interp.Results([result], {}).save(tmp_path / "out"))["trajectory"]
    np.testing.assert_array_equal(coordinates(again), coordinates(result))
    assert again.analysis == result.analysis


def test_contract():
    assert len(interp.check_analysis(Trajectory()).passed) == len(
        interp.check_analysis(Trajectory(unit=True)).passed
    )


# ---- what has no axes ------------------------------------------------------------------------


def _cov(x: np.ndarray) -> Cov:
    return Cov.of(torch.from_numpy(x)[None], torch.ones(1, len(x), dtype=torch.bool))


@pytest.mark.parametrize(
    "rows", [np.zeros((0, 3)), np.ones((1, 3)), np.ones((5, 3)), np.full((4, 3), np.inf)]
)
def test_no_extent_is_nan(rows):
    with np.errstate(invalid="ignore"):
        axes = principal_axes(_cov(rows), 2)
    assert np.isnan(axes.shares).all()
    assert np.isnan(axes.effective_dimension)
    places, outside = axes.project(np.ones((2, 3)))
    assert np.isnan(places).all()
    assert np.isnan(outside).all()


def test_more_components_than_dimensions():
    axes = principal_axes(_cov(np.random.default_rng(0).normal(size=(9, 2))), 5)
    assert axes.shares.sum() == pytest.approx(1)


def test_a_prompt_of_one_token_has_no_axes(gpt2):
    found = interp.run(gpt2, torch.tensor([[7]]), Trajectory, progress=False)["trajectory"].frame
    assert len(found) == len(gpt2.blocks) + 1
    assert found["shown_share"].notna().all()  # its states at all boundaries are enough
    only_bos = interp.run(gpt2, gpt2.to_tokens("")[:, :1], Trajectory, progress=False)
    frame = only_bos["trajectory"].frame
    assert frame["special"].all()
    assert frame[PCS].isna().all(axis=None)


def test_bad_parameters():
    with pytest.raises(BadInput, match="components=0, tokens=256: both are at least 1"):
        Trajectory(components=0)
    with pytest.raises(BadInput, match="0 components; at least 1 axis is needed"):
        principal_axes(_cov(np.eye(3)), 0)


# ---- controls --------------------------------------------------------------------------------


def direct_share(x: np.ndarray, k: int = 3) -> float:
    """Share of the first `k` components by a singular value decomposition of all vectors."""
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    return float(values[:k].sum() / values.sum())


@pytest.mark.parametrize(("n", "d"), [(40, 200), (200, 40), (60, 60)])
def test_gaussian_share_is_that_of_drawn_vectors(n, d):
    random = np.random.default_rng(1)
    drawn = [direct_share(random.normal(size=(n, d))) for _ in range(30)]
    own = [gaussian_share(n, d, 3, seed=s) for s in range(30)]
    error = np.sqrt((np.var(drawn) + np.var(own)) / 30)
    assert abs(np.mean(own) - np.mean(drawn)) < 4 * error


def walks(random: np.random.Generator, tokens: int, lengths: np.ndarray, d: int) -> np.ndarray:
    steps = random.normal(size=(tokens, len(lengths), d)) * lengths[:, None] / np.sqrt(d)
    return steps.cumsum(axis=1).reshape(-1, d)


@pytest.mark.parametrize(("tokens", "d"), [(3, 50), (30, 20), (12, 100)])
def test_walk_share_is_that_of_drawn_walks(tokens, d):
    random = np.random.default_rng(2)
    lengths = np.array([2.0, 1.0, 0.5, 1.0, 3.0])
    drawn = [direct_share(walks(random, tokens, lengths, d)) for _ in range(40)]
    own = [walk_share(tokens, lengths, d, 3, seed=s) for s in range(40)]
    error = np.sqrt((np.var(drawn) + np.var(own)) / 40)
    assert abs(np.mean(own) - np.mean(drawn)) < 4 * error


def test_a_narrower_space_with_fewer_walks_gives_the_same_share(monkeypatch):
    lengths = np.ones(9)
    whole = np.mean([walk_share(120, lengths, 240, 3, seed=s) for s in range(8)])
    monkeypatch.setattr("interp.measures.paths.WIDTH", 120)
    narrow = np.mean([walk_share(120, lengths, 240, 3, seed=s) for s in range(20)])
    assert narrow == pytest.approx(whole, rel=0.08)


def test_one_walk_has_the_shares_of_the_closed_form():
    """λ_j ∝ 1/(1 − cos(πj/n)) for n states (Antognini & Sohl-Dickstein 2018)."""
    n = 33
    value = 1 / (1 - np.cos(np.pi * np.arange(1, n) / n))
    expected = value[:3].sum() / value.sum()
    found = walk_share(1, np.r_[0.0, np.ones(n - 1)], 20_000, 3)
    assert found == pytest.approx(expected, rel=0.02)


def test_walks_are_their_own_control(gpt2):
    """Where states are random walks, the axes show what the control says."""
    random = np.random.default_rng(3)
    lengths = np.array([1.0, 1.0, 1.0, 2.0])
    x = walks(random, 200, lengths, 64)
    shown = principal_axes(_cov(x), 3).shares.sum()
    assert shown == pytest.approx(walk_share(200, lengths, 64, 3), rel=0.1)


def test_no_walk_is_nan():
    assert np.isnan(walk_share(0, [1.0, 1.0], 8, 3))
    assert np.isnan(walk_share(5, [0.0, 0.0], 8, 3))
    assert np.isnan(gaussian_share(1, 8, 3))


# ---- figures ---------------------------------------------------------------------------------


def test_figures_and_report(result, tmp_path):
    flat, deep = result.plot(), result.plot("pc3")
    assert {t.type for t in flat.data} == {"scatter"}
    assert {t.type for t in deep.data} == {"scatter3d"}
    assert "pc1" in flat.layout.xaxis.title.text
    share = result.frame["pc1_share"].iloc[0]
    assert f"{share:.0%}".replace("%", " %") in flat.layout.xaxis.title.text
    page = interp.Results([result], {}).report(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Ways through the layers" in page
    assert "could not be drawn (" not in page


def test_paths_are_coloured_by_layer_or_by_group_with_the_mean_of_each_group(model):
    labels = {"kind": ["x", "y", "x", "y"]}
    run = interp.run(model, TEXTS, Trajectory, labels=labels, progress=False)["trajectory"]
    plain = run.plot()
    marked = [t for t in plain.data if t.marker.coloraxis]
    assert marked
    assert list(marked[0].marker.color) == list(range(run.frame["layer"].nunique()))
    grouped = run.plot(by="kind")
    means = [t for t in grouped.data if "mean" in (t.name or "")]
    assert [t.name for t in means] == ["mean of x", "mean of y"]
    rows = run.frame.query("kind == 'x' and not special")
    expected = rows.groupby("layer")["pc1"].mean()
    np.testing.assert_allclose(means[0].x, expected, rtol=1e-3, atol=1e-4)
