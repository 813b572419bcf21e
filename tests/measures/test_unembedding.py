"""Unembedding and prediction geometry against float64 NumPy, SciPy, autograd and closed forms."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

import interp
from analyses.prediction_geometry import PredictionGeometry
from analyses.unembedding import Unembedding
from analyses.unembedding_spectrum import UnembeddingSpectrum
from interp import BadInput
from interp.errors import Unsupported
from interp.measures import SingularDirections
from interp.measures.spectrum import random_orthogonal, random_singular_directions
from interp.measures.tying import compare_rows
from interp.models.logit_geometry import (
    gradient,
    prediction_statistics,
    spearman,
    split,
    truncation,
)
from interp.models.readout import Readout
from interp.models.weights import tying, unembedding_of, weight_matrix

TEXTS = ["the man saw her in a red house", "a queen told her"]
V, D, ROWS = 37, 12, 9


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cap(z: torch.Tensor) -> torch.Tensor:
    return 3 * torch.tanh(z / 3)


def readout(*, bias: bool = True, transform=None) -> Readout:
    more = {} if transform is None else {"transform": transform}
    return Readout(
        "test", lambda x: x, draw(V, D, seed=1) + 0.4, draw(V, seed=2) if bias else None, **more
    )


@pytest.mark.parametrize("name", ["unembedding", "unembedding_spectrum", "prediction_geometry"])
def test_the_contract_is_kept(name):
    interp.check_analysis(name)


# ---- tying -----------------------------------------------------------------------------------


def test_rows_are_compared_as_numpy_does():
    u, e = draw(V, D), draw(V, D, seed=5)
    e[3] = u[3]
    out = {k: x.numpy() for k, x in compare_rows(u, e, seed=1).items()}
    a, b = u.double().numpy(), e.double().numpy()
    size = np.linalg.norm
    cosine = (a * b).sum(1) / size(a, axis=1) / size(b, axis=1)
    np.testing.assert_allclose(out["cosine"], cosine, atol=1e-6)
    np.testing.assert_allclose(
        out["difference"], size(a - b, axis=1) / size(b, axis=1), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(out["norm"], size(a, axis=1), rtol=1e-6)
    mean = a.mean(0)
    np.testing.assert_allclose(
        out["mean_cosine"], a @ mean / size(a, axis=1) / size(mean), atol=1e-6
    )
    assert out["same"].nonzero()[0].tolist() == [3]
    assert (out["bias"] == 0).all()


def test_shuffled_control_never_pairs_a_token_with_itself_and_is_null_where_nothing_is_tied():
    u = draw(400, 64)
    tied = compare_rows(u, u)
    assert torch.allclose(tied["cosine"], torch.ones(400), atol=1e-6)
    assert (tied["shuffled_cosine"].abs() < 0.7).all()
    free = compare_rows(u, draw(400, 64, seed=9))
    # Both are cosines of independent vectors: same distribution, standard deviation 1/√d.
    assert stats.ks_2samp(free["cosine"], free["shuffled_cosine"]).pvalue > 0.01
    assert abs(float(free["shuffled_cosine"].std()) * 8 - 1) < 0.15


def test_models_without_the_matrices():
    with pytest.raises(
        Unsupported, match="eye has no matrix W_U: it does not end in an unembedding"
    ):
        unembedding_of(SimpleNamespace(cfg=SimpleNamespace(model_name="eye")))
    narrow = SimpleNamespace(W_U=draw(5, V), W_E=draw(V, D), b_U=torch.zeros(V))
    out = tying(narrow)
    assert out["cosine"].isnan().all()
    assert not out["same"].any()
    assert torch.isfinite(out["embedding_norm"]).all()
    assert unembedding_of(narrow)[1] is None
    only = SimpleNamespace(W_U=draw(5, V))
    assert tying(only)["embedding_norm"].isnan().all()


def test_tables_of_a_tied_and_an_untied_bridge(gpt2, llama):
    tied = interp.run(gpt2, TEXTS, Unembedding(), progress=False)["unembedding"].frame
    assert tied["same"].all()
    assert np.allclose(tied["cosine"], 1, atol=1e-6)
    assert tied["vocab_token"].tolist()[20] == gpt2.tokenizer.decode([20])
    frame = interp.run(llama, TEXTS, Unembedding(), progress=False)["unembedding"].frame
    assert len(frame) == llama.cfg.d_vocab
    assert frame["same"].all() == bool(torch.equal(llama.W_U.T, llama.W_E))
    assert list(frame.columns[:3]) == ["vocab_id", "vocab_token", "norm"]


# ---- spectrum --------------------------------------------------------------------------------


def test_singular_values_and_directions_are_those_of_scipy():
    w = draw(200, D) + 0.5
    b = draw(200, seed=3)
    found = SingularDirections.of(w, b)
    a = w.double().numpy()
    _, s, vt = np.linalg.svd(a, full_matrices=False)
    np.testing.assert_allclose(found.values, s, rtol=1e-10)
    np.testing.assert_allclose(np.abs((vt @ found.directions.numpy()).diagonal()), 1, rtol=1e-9)
    np.testing.assert_allclose(
        SingularDirections.of(w, centred=True).values,
        np.linalg.svd(a - a.mean(0), compute_uv=False),
        rtol=1e-10,
    )
    p = s / s.sum()
    assert np.isclose(found.effective_rank, np.exp(stats.entropy(p)))
    assert np.isclose(found.participation_ratio, (s**2).sum() ** 2 / (s**4).sum())
    covariance = np.cov(a.T, b.double().numpy(), ddof=0)
    np.testing.assert_allclose(found.bias_cross, covariance[:-1, -1], atol=1e-12)
    assert np.isclose(found.bias_variance, covariance[-1, -1])
    mean = a.mean(0) / np.linalg.norm(a.mean(0))
    np.testing.assert_allclose(found.mean_cosines, np.abs(vt @ mean), atol=1e-10)


def test_effective_ranks_in_closed_form():
    flat = SingularDirections.of(torch.eye(7))
    assert np.isclose(flat.effective_rank, 7)
    assert np.isclose(flat.participation_ratio, 7)
    line = SingularDirections.of(torch.outer(draw(30), draw(4, seed=1)))
    assert line.effective_rank < 1.001
    assert np.isclose(line.participation_ratio, 1)


def test_random_control_fills_the_band_of_marchenko_and_pastur():
    matrix = 3 * draw(4000, 100)
    control = random_singular_directions(matrix, seed=4)
    assert np.isclose(
        float((control.values**2).sum()), float(matrix.double().square().sum()), rtol=0.01
    )
    low, high = 3 * (4000**0.5 - 10), 3 * (4000**0.5 + 10)
    assert control.values.min() > 0.98 * low
    assert control.values.max() < 1.02 * high
    # A matrix that is itself random is like its control.
    assert stats.ks_2samp(SingularDirections.of(matrix).values, control.values).pvalue > 0.5
    # One with structure is not.
    spiked = SingularDirections.of(matrix + 5 * torch.outer(draw(4000, seed=8), torch.ones(100)))
    assert spiked.values[0] > 2 * high


def test_spectrum_table(gpt2):
    frame = interp.run(gpt2, TEXTS, UnembeddingSpectrum(), progress=False)[
        "unembedding_spectrum"
    ].frame
    own = frame[frame["matrix"] == "W_U"]
    expected = np.linalg.svd(gpt2.W_U.detach().double().numpy(), compute_uv=False)
    np.testing.assert_allclose(own["singular_value"], expected, rtol=1e-6)
    np.testing.assert_allclose(own["cumulative_share"].iloc[-1], 1)
    assert frame["matrix"].unique().tolist() == ["W_U", "W_U centred", "random"]
    sizes = frame.assign(square=frame["singular_value"] ** 2).groupby("matrix")["square"].sum()
    assert np.isclose(sizes["random"], sizes["W_U"], rtol=0.1)


def test_random_orthogonal_is_orthogonal_and_seeded():
    q = random_orthogonal(20, 3)
    assert torch.allclose(q.T @ q, torch.eye(20, dtype=torch.float64), atol=1e-12)
    assert torch.equal(q, random_orthogonal(20, 3))
    assert not torch.equal(q, random_orthogonal(20, 4))
    entries = torch.stack([random_orthogonal(4, s)[0, 0] for s in range(400)])
    # An entry of a Haar matrix is a coordinate of a uniform unit vector.
    uniform = draw(400, 4, seed=77)
    reference = uniform[:, 0] / uniform.norm(dim=-1)
    assert stats.ks_2samp(entries, reference).pvalue > 0.01


# ---- one prediction --------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_split_against_numpy_loops(bias):
    r = readout(bias=bias)
    h = 2 * draw(ROWS, D, seed=3)
    z = r.linear(h)
    got = {n: x.numpy() for n, x in split(h, z, r.weight.norm(dim=-1), r.bias, k=8).items()}
    w, b = r.weight.double().numpy(), np.zeros(V) if r.bias is None else r.bias.double().numpy()
    for row, x in enumerate(h.double().numpy()):
        logits = w @ x + b
        sizes, length = np.linalg.norm(w, axis=1), np.linalg.norm(x)
        cosines = (w @ x) / sizes / length
        top = np.argsort(-logits)[:8]
        n, c, y = sizes[top], cosines[top], logits[top] - logits[top].mean()
        parts = {
            "norm_share": length * (n - n.mean()) * (c + c.mean()) / 2,
            "cosine_share": length * (c - c.mean()) * (n + n.mean()) / 2,
            "bias_share": b[top],
        }
        whole = sum(p - p.mean() for p in parts.values())
        np.testing.assert_allclose(whole, y, atol=1e-9)  # the split is exact
        for name, part in parts.items():
            share = ((part - part.mean()) * y).sum() / (y**2).sum()
            np.testing.assert_allclose(got[name][row], share, atol=1e-5, err_msg=name)
        rho = stats.spearmanr(logits[top], c).statistic
        np.testing.assert_allclose(got["logit_cosine_spearman"][row], rho, atol=1e-6)
        rho = stats.spearmanr(logits[top], n).statistic
        np.testing.assert_allclose(got["logit_norm_spearman"][row], rho, atol=1e-6)
        assert np.isclose(got["top_cosine"][row], c[0], atol=1e-6)
        assert got["top_cosine_rank"][row] == (cosines > c[0]).sum()
    total = got["norm_share"] + got["cosine_share"] + got["bias_share"]
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_split_of_equal_norms_is_all_cosine():
    w = torch.nn.functional.normalize(draw(V, D), dim=-1)
    h = draw(ROWS, D, seed=4)
    out = split(h, h @ w.T, w.norm(dim=-1), None)
    assert torch.allclose(out["cosine_share"], torch.ones(ROWS), atol=1e-5)
    assert torch.allclose(out["norm_share"], torch.zeros(ROWS), atol=1e-5)
    assert torch.allclose(out["logit_cosine_spearman"], torch.ones(ROWS))
    assert (out["top_cosine_rank"] == 0).all()


def test_spearman_with_ties_is_scipys():
    a, b = torch.randint(0, 4, (30, 9)).float(), torch.randint(0, 5, (30, 9)).float()
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(spearman(a, b), expected, atol=1e-6)
    assert spearman(torch.ones(5), torch.arange(5.0)).isnan()
    assert spearman(torch.tensor([1.0, torch.nan]), torch.arange(2.0)).isnan()


@pytest.mark.parametrize("transform", [None, cap, lambda z: 0.25 * z])
def test_gradient_identity_against_autograd(transform):
    r = readout(transform=transform)
    h = draw(ROWS, D, seed=6).requires_grad_()
    targets = torch.arange(ROWS)
    loss = torch.nn.functional.cross_entropy(r.logits(h), targets, reduction="sum")
    (expected,) = torch.autograd.grad(loss, h)
    with torch.inference_mode():
        z = r.linear(h.detach())
        found = gradient(r, z, torch.log_softmax(r.transform(z), -1), targets)
    torch.testing.assert_close(found.clone(), expected, atol=2e-5, rtol=1e-4)
    targets[2] = -1
    z = r.linear(h.detach())
    assert gradient(r, z, torch.log_softmax(r.transform(z), -1), targets)[2].isnan().all()


@pytest.mark.parametrize("transform", [None, cap])
def test_truncation_and_shares_against_numpy(transform):
    r = readout(transform=transform)
    h = draw(ROWS, D, seed=7)
    got = prediction_statistics(r, h[None], torch.arange(ROWS), bands=3)
    w, b, x = r.weight.double().numpy(), r.bias.double().numpy(), h.double().numpy()
    after = (lambda z: 3 * np.tanh(z / 3)) if transform else (lambda z: z)
    _, _, vt = np.linalg.svd(w, full_matrices=False)
    log_p = special.log_softmax(after(x @ w.T + b), axis=-1)
    z, part = x @ w.T + b, x @ vt.T
    for j in range(3):
        band = slice(4 * j, 4 * j + 4)
        share = (part[:, band] ** 2).sum(1) / (x**2).sum(1)
        np.testing.assert_allclose(got[f"h_share_{j + 1}"][0], share, atol=1e-5)
        z_band = part[:, band] @ vt[band] @ w.T
        centred = z_band - z_band.mean(1, keepdims=True)
        share = (centred * z).mean(1) / z.var(1)
        np.testing.assert_allclose(got[f"logit_share_{j + 1}"][0], share, atol=1e-5)
        if j < 2:
            top = slice(0, 4 * j + 4)
            log_q = special.log_softmax(after(part[:, top] @ vt[top] @ w.T + b), axis=-1)
            kl = special.rel_entr(np.exp(log_p), np.exp(log_q)).sum(1)
            np.testing.assert_allclose(got[f"kl_top_{j + 1}"][0], kl, rtol=2e-4, atol=1e-5)
    assert "kl_top_3" not in got
    bias_share = ((b - b.mean()) * z).mean(1) / z.var(1)
    shares = sum(got[f"logit_share_{j}"][0] for j in (1, 2, 3)).numpy()
    np.testing.assert_allclose(shares + bias_share, 1, atol=1e-5)


def test_dark_directions_of_a_weight_of_low_rank_carry_nothing():
    """Closed form: rows of W_U in a plane; what h has outside of it changes no logit."""
    w = torch.zeros(V, 8)
    w[:, :4] = draw(V, 4)
    r = Readout("test", lambda x: x, w)
    h = draw(ROWS, 8, seed=3)
    out = prediction_statistics(r, h[None], torch.zeros(ROWS, dtype=torch.long), bands=2)
    assert (out["kl_top_1"] < 1e-6).all()
    torch.testing.assert_close(out["logit_share_1"][0], torch.ones(ROWS))
    outside = h[:, 4:].square().sum(-1) / h.square().sum(-1)
    torch.testing.assert_close(out["h_share_2"][0], outside, atol=1e-5, rtol=1e-4)
    assert (out["random_kl_top_1"] > 1e-3).all()  # a random half does see them


def test_random_bands_hold_their_number_of_directions_on_average():
    """Null: of a vector without structure a band holds its part, singular or random."""
    r = Readout("test", lambda x: x, draw(200, 32))
    out = prediction_statistics(
        r, draw(1, 500, 32, seed=5), torch.zeros(500, dtype=torch.long), bands=4
    )
    for name in ("h_share_4", "random_h_share_4"):
        assert abs(float(out[name].mean()) - 0.25) < 0.02
    # Directions of a random matrix are as good as random ones of the same number, but for their
    # singular values, which differ by the band of Marchenko and Pastur.
    assert float(out["kl_top_2"].mean()) < float(out["random_kl_top_2"].mean())


def test_turned_control_is_calibrated_where_h_is_random():
    """Null: for h without structure the statistic and its control have one distribution."""
    r = Readout("test", lambda x: x, draw(300, 16) * torch.linspace(0.5, 2, 300)[:, None])
    out = prediction_statistics(r, draw(1, 400, 16, seed=2), torch.zeros(400, dtype=torch.long))
    for name in ("cosine_share", "logit_cosine_spearman"):
        assert stats.ks_2samp(out[name][0], out[f"random_{name}"][0]).pvalue > 0.01


def test_random_target_control_is_calibrated_where_the_target_is_random():
    r = readout()
    targets = torch.randint(V, (400,), generator=torch.Generator().manual_seed(1))
    others = torch.randint(V, (400,), generator=torch.Generator().manual_seed(2))
    out = prediction_statistics(r, draw(1, 400, D, seed=2), targets, others=others)
    for name in ("gradient_norm", "gradient_angle"):
        assert stats.ks_2samp(out[name][0], out[f"random_{name}"][0]).pvalue > 0.01


def test_blocks_of_rows_change_nothing(monkeypatch):
    r, x = readout(), draw(2, ROWS, D, seed=1)
    whole = prediction_statistics(r, x, torch.arange(ROWS))
    monkeypatch.setattr("interp.models.readout.ROW_BYTES", 4 * V * 2)
    for name, value in prediction_statistics(r, x, torch.arange(ROWS)).items():
        torch.testing.assert_close(value, whole[name], atol=1e-5, rtol=1e-4, msg=name)


def test_directions_follow_weights_that_change():
    weight = draw(V, D)
    r = Readout("test", lambda x: x, weight)
    h, targets = draw(1, ROWS, D, seed=1), torch.arange(ROWS)
    before = prediction_statistics(r, h, targets)["h_share_1"]
    weight[:] = draw(V, D, seed=50)
    after = prediction_statistics(r, h, targets)["h_share_1"]
    fresh = prediction_statistics(Readout("test", lambda x: x, weight), h, targets)["h_share_1"]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, fresh)


def test_bad_parameters_are_refused():
    r = readout()
    with pytest.raises(BadInput, match=r"stream \(3, 12\) and targets \(3,\) do not match"):
        prediction_statistics(r, draw(3, D), torch.zeros(3))
    with pytest.raises(BadInput, match="bands=13, k=20: allowed are 2 to 12 bands and k from 2"):
        prediction_statistics(r, draw(1, 3, D), torch.zeros(3), bands=13)
    with pytest.raises(BadInput, match=r"a spectrum is of a matrix \[n, d\], not of shape \(4,\)"):
        SingularDirections.of(draw(4))


# ---- on a model ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.usefixtures("clean")
def test_table_against_the_model_itself(name, request):
    model = request.getfixturevalue(name)
    frame = interp.run(model, TEXTS, PredictionGeometry(k=5), progress=False)[
        "prediction_geometry"
    ].frame
    tokens = model.to_tokens(TEXTS[0])
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    x = cache["blocks.1.hook_resid_pre"][0]
    h = model.ln_final(x[None])[0].detach().requires_grad_()
    z = h @ model.W_U.detach() + model.b_U.detach()
    loss = torch.nn.functional.cross_entropy(z[:-1], tokens[0, 1:], reduction="sum")
    (expected,) = torch.autograd.grad(loss, h)
    rows = frame.query("prompt == 0 and layer == 1").sort_values("position")
    np.testing.assert_allclose(rows["h_norm"], h.detach().norm(dim=-1), rtol=1e-5)
    np.testing.assert_allclose(
        rows["gradient_norm"][:-1], expected[:-1].norm(dim=-1), rtol=1e-3, atol=1e-6
    )
    assert np.isnan(rows["gradient_norm"].iloc[-1])
    top = z.detach().argmax(-1)
    cosine = torch.cosine_similarity(h.detach(), model.W_U.detach().T[top], dim=-1)
    np.testing.assert_allclose(rows["top_cosine"], cosine, atol=1e-5)
    assert sorted(frame["layer"].unique()) == list(range(len(model.blocks) + 1))
    shares = frame[[f"h_share_{j}" for j in range(1, 5)]].sum(axis=1)
    np.testing.assert_allclose(shares, 1, atol=1e-5)


def test_figures_draw(gpt2):
    results = interp.run(
        gpt2,
        TEXTS,
        [PredictionGeometry(), Unembedding(), UnembeddingSpectrum()],
        progress=False,
    )
    for result in results.values():
        for plot in result.analysis.plots:
            figure = result.plot(plot.values[0])
            assert figure.data, plot.title
    assert isinstance(results["prediction_geometry"].summary(), pd.DataFrame)


def test_truncation_keeps_everything_when_all_directions_are_kept():
    r, h = readout(), draw(ROWS, D)
    log_p = torch.log_softmax(r.linear(h), -1)
    basis = torch.linalg.qr(draw(D, D, seed=4).double()).Q
    out = truncation(r, torch.cat([h[:, :0], h], 1), log_p, basis, D)
    assert abs(float(sum(out[f"h_share_{j}"] for j in range(1, D + 1)).mean()) - 1) < 1e-5


def test_weights_are_refused_before_the_first_batch(gpt2, monkeypatch):
    passes = []
    monkeypatch.setattr("interp.runs.run._drive", lambda *a: passes.append(a))
    monkeypatch.setattr(
        "interp.models.weights._weight", lambda model, name: None if name == "W_U" else model.W_E
    )
    with pytest.raises(Unsupported, match="has no matrix W_U"):
        interp.run(gpt2, TEXTS, ["rotation", "unembedding"], progress=False)
    assert not passes


@pytest.mark.parametrize("name", ["W_E", "W_U", "W_pos"])
def test_a_matrix_that_a_model_lacks_is_named_with_the_reason(name):
    eye = SimpleNamespace(cfg=SimpleNamespace(model_name="eye", positional_embedding_type="rotary"))
    reason = {
        "W_E": "embeds no tokens",
        "W_U": "end in an unembedding",
        "W_pos": "kind is 'rotary'",
    }
    with pytest.raises(Unsupported, match=rf"eye has no matrix {name}: .*{reason[name]}.*inspect"):
        weight_matrix(eye, name)
    # One of another rank is no matrix of rows either.
    with pytest.raises(Unsupported, match=f"no matrix {name}"):
        weight_matrix(SimpleNamespace(**{name: draw(3)}), name)


def test_another_matrix_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match=r"no matrix 'W_pso'; did you mean 'W_pos'\? \(known: W_E"):
        weight_matrix(SimpleNamespace(), "W_pso")


def test_every_matrix_has_a_row_per_token_or_position(gpt2):
    shapes = [tuple(weight_matrix(gpt2, name).shape) for name in ("W_E", "W_U", "W_pos")]
    cfg = gpt2.cfg
    assert shapes == [(cfg.d_vocab, cfg.d_model)] * 2 + [(cfg.n_ctx, cfg.d_model)]
    assert not weight_matrix(gpt2, "W_U").requires_grad
