"""Slopes over clusters of sequences: SciPy, statsmodels' estimator, and the null by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from interp.errors import BadInput
from interp.stats.slopes import clustered_slopes


def sequences(rng, prompts=8, samples=3, steps=12, ragged=False):
    """Places, sequences and clusters of texts: `[n]` each."""
    lengths = rng.integers(3, steps + 1, prompts * samples) if ragged else None
    lengths = np.full(prompts * samples, steps) if lengths is None else lengths
    text = np.repeat(np.arange(prompts * samples), lengths)
    place = np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(float)
    return place, text, text // samples


def courses(rng, place, text, prompt, *, drift=0.0, spread=0.0, memory=0.0):
    """Values with a level per text, a slope per prompt, and neighbours that resemble each other."""
    slope = drift + spread * rng.normal(size=prompt.max() + 1)
    noise = rng.normal(size=len(place))
    for i in range(1, len(noise)):
        if text[i] == text[i - 1]:
            noise[i] = memory * noise[i - 1] + (1 - memory**2) ** 0.5 * noise[i]
    return slope[prompt] * place + 3 * rng.normal(size=text.max() + 1)[text] + noise


def test_prompts_of_one_size_give_the_t_test_of_their_slopes():
    rng = np.random.default_rng(0)
    place, text, prompt = sequences(rng, samples=1)
    y = courses(rng, place, text, prompt, drift=0.2, spread=0.1)
    found = clustered_slopes(y[:, None], place, text, prompt)
    each = [stats.linregress(place[text == i], y[text == i]).slope for i in range(8)]
    test = stats.ttest_1samp(each, 0)
    interval = test.confidence_interval(0.95)
    assert found.slope[0] == pytest.approx(np.mean(each), rel=1e-12)
    assert (found.low[0], found.high[0]) == pytest.approx(tuple(interval), rel=1e-12)
    assert found.df[0] == pytest.approx(7)
    signs = 1 - 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1)
    t = np.abs(signs @ np.array(each))
    assert found.exact
    assert found.p[0] == pytest.approx((t >= t[0] * (1 - 1e-9)).mean())


def test_the_slope_and_its_error_are_those_of_a_regression_with_a_level_per_text():
    models = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(1)
    place, text, prompt = sequences(rng, ragged=True)
    y = courses(rng, place, text, prompt, drift=0.1, spread=0.1, memory=0.5)
    found = clustered_slopes(y[:, None], place, text, prompt)
    design = np.column_stack([place, (text[:, None] == np.arange(text.max() + 1)).astype(float)])
    options = {"groups": prompt, "use_correction": False}
    fit = models.OLS(y, design).fit(cov_type="cluster", cov_kwds=options)
    assert found.slope[0] == pytest.approx(fit.params[0], rel=1e-9)
    means = np.array([place[text == i].mean() for i in range(text.max() + 1)])
    weight = np.bincount(prompt, (place - means[text]) ** 2)
    share = weight / weight.sum()
    rest = (share**2).sum() - 2 * (share**3).sum() + (share**2).sum() ** 2
    se = fit.bse[0] * ((share**2).sum() / rest) ** 0.5
    df = (1 - (share**2).sum()) ** 2 / rest
    assert found.se[0] == pytest.approx(se, rel=1e-9)
    assert found.df[0] == pytest.approx(df, rel=1e-9)
    assert found.high[0] == pytest.approx(fit.params[0] + stats.t.ppf(0.975, df) * se, rel=1e-9)


def test_large_levels_do_not_cancel():
    rng = np.random.default_rng(2)
    place, text, prompt = sequences(rng)
    y = courses(rng, place, text, prompt, drift=0.1)
    one, two = (clustered_slopes(v[:, None], place, text, prompt) for v in (y, y + 1e9))
    assert two.slope[0] == pytest.approx(one.slope[0], abs=1e-6)


def test_undefined_values_are_left_out_of_their_row_only():
    rng = np.random.default_rng(3)
    place, text, prompt = sequences(rng)
    y = np.column_stack([courses(rng, place, text, prompt) for _ in range(2)])
    y[prompt == 0, 1] = np.nan
    found = clustered_slopes(y, place, text, prompt)
    alone = clustered_slopes(y[prompt > 0, 1:], *(v[prompt > 0] for v in (place, text, prompt)))
    assert found.clusters.tolist() == [8, 7]
    assert found.slope[1] == pytest.approx(alone.slope[0], rel=1e-12)
    assert found.low[1] == pytest.approx(alone.low[0], rel=1e-12)


def test_one_prompt_has_a_slope_and_no_test():
    x = np.arange(5.0)
    found = clustered_slopes(2 * x[:, None], x, np.zeros(5), np.zeros(5))
    assert found.slope[0] == pytest.approx(2.0)
    assert np.isnan([found.low[0], found.p[0], found.p_max[0]]).all()
    flat = clustered_slopes(
        np.ones((6, 1)), np.tile(x[:3], 2), np.repeat([0, 1], 3), [0] * 3 + [1] * 3
    )
    assert flat.slope[0] == 0
    assert flat.p[0] == 1


def rates(draws: int, **planted) -> dict[str, float]:
    """Shares of simulations in which the test rejects, and in which the interval misses."""
    rejected = missed = family = 0
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        place, text, prompt = sequences(rng, prompts=10, samples=2, ragged=bool(seed % 2))
        y = np.column_stack([courses(rng, place, text, prompt, **planted) for _ in range(3)])
        found = clustered_slopes(y, place, text, prompt, resamples=400, seed=seed)
        rejected += found.p[0] <= 0.05
        family += found.p_max.min() <= 0.05
        missed += not found.low[0] <= planted.get("drift", 0.0) <= found.high[0]
    return {"p": rejected / draws, "p_max": family / draws, "missed": missed / draws}


@pytest.mark.parametrize(
    "planted", [{}, {"memory": 0.7}, {"spread": 0.3}], ids=["independent", "memory", "slopes"]
)
def test_no_drift_is_found_in_five_of_a_hundred(planted):
    found = rates(400, **planted)
    # Binomial bounds of 400 draws at 0.05 that hold in 998 of 1000.
    assert all(0.015 <= rate <= 0.09 for rate in found.values()), found


def test_a_planted_drift_is_found():
    found = rates(60, drift=0.3, spread=0.1, memory=0.5)
    assert found["p"] > 0.95
    assert found["missed"] <= 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(3), [1, 2, 3], [0, 0, 0], [0, 0, 0]), "do not match: values are"),
        ((np.ones((3, 1)), [1, 2], [0, 0, 0], [0, 0, 0]), "places .2,., sequences"),
        ((np.ones((3, 1)), [1, 2, 3], [0, 0, 0], [0, 0, 1]), "a sequence is in two clusters"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(BadInput, match=message):
        clustered_slopes(*arguments)
