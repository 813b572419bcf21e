"""Spectrum of the states: against scikit-learn and NumPy on all states, and planted power laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

import interp
from analyses.spectrum import Spectrum
from interp import BadInput, Cov
from interp.measures import gaussian_spectrum, matrix_entropy, power_law, spectrum_of_sums

TEXTS = [
    "the man saw her in a red house",
    "a queen told her",
    "the dog met him on the old road .",
    "she gave it to the small boy",
]
ANALYSIS = Spectrum(fit_first=2, fit_last=12)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def prompts(model):
    """The states of every prompt without its first token, `[state, token, d]` each."""
    out = []
    with torch.no_grad():
        for text in TEXTS:
            _, cache = model.run_with_cache(model.to_tokens(text))
            n = len(model.blocks)
            x = [cache[f"blocks.{i}.hook_resid_pre"][0] for i in range(n)]
            x.append(cache[f"blocks.{n - 1}.hook_resid_post"][0])
            out.append(torch.stack(x).double().numpy()[:, 1:])
    return out


@pytest.mark.parametrize("budget", [1, 4096])
@pytest.mark.parametrize("keep", ["tokens", "summary"])
def test_it_is_what_all_states_give_at_once(model, prompts, budget, keep):
    found = interp.run(model, TEXTS, ANALYSIS, max_tokens=budget, keep=keep, progress=False)
    frame = found["spectrum"].frame
    whole = np.concatenate(prompts, axis=1)
    for layer, x in enumerate(whole):
        row = frame.set_index("layer").loc[layer]
        variance = PCA().fit(x).explained_variance_
        share = np.sqrt(variance) / np.sqrt(variance).sum()
        ratio = variance.sum() ** 2 / (variance**2).sum()
        assert row["participation_ratio"] == pytest.approx(ratio, rel=1e-4)
        # The smallest eigenvalues of float32 states are rounding, which RankMe adds up.
        entropy = stats.entropy(share)
        assert row["rankme"] == pytest.approx(np.exp(entropy), rel=1e-3)
        slope = np.polyfit(np.log(np.arange(2, 13)), np.log(variance[1:12]), 1)[0]
        assert row["alpha"] == pytest.approx(-slope, rel=1e-3)
        cosines = cosine_similarity(x)
        mean = (cosines.sum() - len(x)) / len(x) / (len(x) - 1)
        assert row["mean_cosine"] == pytest.approx(mean, abs=1e-5)
        each = [_entropy_by_singular_values(p[layer]) for p in prompts]
        assert row["matrix_entropy"] == pytest.approx(np.mean(each), rel=1e-5)
        low, high = stats.t.interval(0.95, 3, np.mean(each), stats.sem(each))
        assert (row["matrix_entropy_low"], row["matrix_entropy_high"]) == pytest.approx((low, high))
        most = [np.log(min(p.shape[1:])) for p in prompts]
        assert row["matrix_entropy_share"] == pytest.approx(np.mean(np.divide(each, most)))
        assert (row["tokens"], row["prompts"], row["undefined_tokens"]) == (len(x), 4, 0)


def _entropy_by_singular_values(x: np.ndarray) -> float:
    square = np.linalg.svd(x, compute_uv=False) ** 2
    return float(stats.entropy(square / square.sum()))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_a_planted_power_law_is_found_in_its_range(alpha):
    values = np.arange(1.0, 201.0) ** -alpha
    values[:10] = 7.0
    fit = power_law(values)
    assert fit.alpha == pytest.approx(alpha)
    assert fit.r2 == pytest.approx(1)
    assert (fit.first, fit.last) == (11, 100)
    cut = power_law(np.where(np.arange(200) < 60, values, 1e-30))
    assert (cut.alpha, cut.last) == (pytest.approx(alpha), 60)


def test_alpha_of_sampled_vectors_with_a_power_law():
    scale = np.arange(1.0, 65.0) ** -0.6
    x = np.random.default_rng(0).normal(size=(20_000, 64)) * scale
    cov = Cov.of(torch.from_numpy(x)[None], torch.ones(1, len(x), dtype=torch.bool))
    fit = power_law(spectrum_of_sums(cov).eigenvalues, 5, 40)
    assert fit.alpha == pytest.approx(1.2, abs=0.05)


def test_too_few_eigenvalues_have_no_exponent():
    fit = power_law(np.arange(1.0, 15.0)[::-1])
    assert np.isnan(fit.alpha)
    assert fit.last == 14
    assert np.isnan(power_law(np.full(50, np.nan)).alpha)


@pytest.mark.parametrize(("n", "d"), [(3, 8), (8, 3), (5, 5)])
def test_matrix_entropy_of_orthogonal_and_of_equal_rows(n, d):
    k = min(n, d)
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    assert matrix_entropy(1e200 * q[:k]) == pytest.approx(np.log(k))
    assert matrix_entropy(np.ones((n, d))) == pytest.approx(0, abs=1e-9)
    x = np.random.default_rng(1).normal(size=(n, d))
    assert matrix_entropy(x) == pytest.approx(_entropy_by_singular_values(x))


def test_matrix_entropy_of_nothing_is_undefined():
    for x in (np.zeros((0, 3)), np.zeros((2, 3)), np.full((2, 3), np.nan)):
        assert np.isnan(matrix_entropy(x))


@pytest.mark.parametrize(("n", "d"), [(6, 20), (400, 20)])
def test_the_gaussian_control_has_the_spectrum_of_gaussian_vectors(n, d):
    drawn, made = [], []
    for seed in range(60):
        x = np.random.default_rng(seed).normal(size=(n, d))
        x -= x.mean(0)
        drawn.append(np.linalg.eigvalsh(x.T @ x / n)[::-1])
        made.append(gaussian_spectrum(n, d, seed=seed))
    error = np.std(drawn, axis=0) * np.sqrt(2 / 60)
    assert (np.abs(np.mean(drawn, 0) - np.mean(made, 0)) < 4.5 * error + 1e-9).all()
    assert np.isnan(gaussian_spectrum(1, d)).all()


def test_states_without_structure_are_their_control(gpt2):
    """The share of runs in which the control is the larger one is a half."""
    above = []
    for seed in range(80):
        x = np.random.default_rng(seed).normal(size=(50, 16))
        cov = Cov.of(torch.from_numpy(x)[None], torch.ones(1, 50, dtype=torch.bool))
        own = spectrum_of_sums(cov).participation_ratio
        values = gaussian_spectrum(50, 16, seed=1000 + seed)
        above.append(values.sum() ** 2 / (values**2).sum() > own)
    assert 0.3 < np.mean(above) < 0.7


def test_one_token_has_no_spectrum(gpt2):
    frame = interp.run(gpt2, torch.tensor([[5]]), Spectrum(special=True), progress=False)
    row = frame["spectrum"].frame.iloc[-1]
    undefined = ["participation_ratio", "rankme", "alpha", "mean_cosine", "random_rankme"]
    assert row[undefined].isna().all()
    assert row["matrix_entropy"] == pytest.approx(0, abs=1e-12)
    assert row[["matrix_entropy_low", "matrix_entropy_share"]].isna().all()
    assert row["tokens"] == 1


def test_bad_ranges_are_refused():
    with pytest.raises(BadInput, match="fit_first=0, .*: a power law over eigenvalues 0 … 100: al"):
        Spectrum(fit_first=0)
    with pytest.raises(BadInput, match="eigenvalues 11 … 14: allowed is a range of 5 or more"):
        power_law(np.ones(3), 11, 14)


@pytest.mark.parametrize("analysis", [Spectrum(), Spectrum(1, 8, special=True)])
def test_contract(analysis):
    interp.check_analysis(analysis)
