"""The change point of a measure: against brute force, and its error rates by simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy

from interp import BadInput
from interp.stats import ChangePoint, change_point, is_geometric, runs_together
from interp.stats.change_point import log_places, middles

STEPS = [0, 1, 2, 4, 8, 16, 32, 64]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def planted(n: int, at: int, size: float, random, *, places: int = 8, shared: float = 1.0):
    """Values `[n, places, 1]`: a level per prompt, noise, a step of `size` after `at` places."""
    level = shared * random.normal(size=(n, 1))
    curve = size * (np.arange(places) >= at)
    return (level + curve + random.normal(size=(n, places)))[:, :, None]


# ---- against brute force ---------------------------------------------------------------------


def test_the_step_is_that_of_least_squares():
    x = rng(0).normal(size=(7, 9, 4)).cumsum(axis=1)
    found = change_point(x, np.arange(9.0), resamples=50)
    for row in range(4):
        curve = x[:, :, row].mean(axis=0)
        left = [
            ((curve[:j] - curve[:j].mean()) ** 2).sum()
            + ((curve[j:] - curve[j:].mean()) ** 2).sum()
            for j in range(1, 9)
        ]
        j = int(np.argmin(left)) + 1
        total = ((curve - curve.mean()) ** 2).sum()
        assert found.first[row] == j
        assert found.at[row] == pytest.approx(j - 0.5)
        assert found.share[row] == pytest.approx(1 - min(left) / total)
        assert found.before[row] == pytest.approx(curve[:j].mean())
        assert found.after[row] == pytest.approx(curve[j:].mean())
        d = x[:, j:, row].mean(axis=1) - x[:, :j, row].mean(axis=1)
        test = scipy.stats.ttest_1samp(d, 0.0)
        low, high = test.confidence_interval(0.95)
        assert found.size[row] == pytest.approx(d.mean())
        assert (found.size_low[row], found.size_high[row]) == pytest.approx((low, high))


def largest_of(x):
    """The largest |Σ d| / √Σ d² over the splits, one split after the other."""
    t = []
    for j in range(1, x.shape[1]):
        d = x[:, j:].mean(axis=1) - x[:, :j].mean(axis=1)
        t.append(np.abs(d.sum(axis=0)) / np.sqrt((d**2).sum(axis=0)))
    return np.max(t, axis=0)


def explained_by(x):
    """Share of the variance within prompts that the best common step explains, by least squares."""
    centred = x - x.mean(axis=1, keepdims=True)
    total = (centred**2).sum(axis=(0, 1))
    left = []
    for j in range(1, x.shape[1]):
        step = np.concatenate(
            [
                np.broadcast_to(centred[:, part].mean(axis=(0, 1)), (part.stop - part.start, 2))
                for part in (slice(0, j), slice(j, x.shape[1]))
            ]
        )
        left.append(((centred - step) ** 2).sum(axis=(0, 1)))
    return 1 - np.min(left, axis=0) / total


def test_p_is_the_larger_one_of_signs_and_shuffled_places():
    x = rng(1).normal(size=(6, 5, 2)) + np.arange(5)[:, None] * np.array([0.0, 0.4])
    found = change_point(x, np.arange(5.0), resamples=4000)
    assert found.exact
    observed, middle = largest_of(x), x.mean(axis=1, keepdims=True)
    signs = [
        largest_of(np.array(s)[:, None, None] * (x - middle)) for s in product((1, -1), repeat=6)
    ]
    random = rng(2)
    places = [
        explained_by(np.stack([prompt[random.permutation(5)] for prompt in x])) for _ in range(2000)
    ]
    tests = ((observed, np.array(signs)), (explained_by(x), np.array(places)))
    for row in range(2):
        shares = [np.mean(null[:, row] >= real[row] - 1e-12) for real, null in tests]
        family = [np.mean(null.max(axis=1) >= real[row] - 1e-12) for real, null in tests]
        assert found.p[row] == pytest.approx(max(shares), abs=0.03)
        assert found.p_max[row] == pytest.approx(max(family), abs=0.03)
        assert found.p[row] >= shares[0]


def test_the_interval_is_that_of_drawn_prompts():
    x = planted(12, 4, 0.8, rng(2))
    found = change_point(x, STEPS, resamples=4000, seed=3)
    random, drawn = rng(99), []
    for _ in range(4000):
        curve = x[random.integers(12, size=12), :, 0].mean(axis=0)
        gain = [j * (8 - j) * (curve[j:].mean() - curve[:j].mean()) ** 2 for j in range(1, 8)]
        drawn.append(int(np.argmax(gain)) + 1)
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    assert STEPS.index(int(found.low[0])) == pytest.approx(low - 1, abs=1)
    assert STEPS.index(int(found.high[0])) == pytest.approx(high, abs=1)


# ---- error rates -----------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["normal", "walk", "lognormal"])
def test_without_a_change_one_in_twenty_is_called_one(noise):
    random, hits, trials = rng(4), 0, 300
    for seed in range(trials):
        x = {
            "normal": lambda: random.normal(size=(20, 6, 1)),
            # Neighbouring checkpoints of a prompt are alike: a walk per prompt, without a mean.
            "walk": lambda: random.normal(size=(20, 6, 1)).cumsum(axis=1),
            "lognormal": lambda: np.exp(random.normal(size=(20, 6, 1))),
        }[noise]()
        hits += change_point(x, np.arange(6.0), resamples=199, seed=seed).p[0] <= 0.05
    assert 0.004 <= hits / trials <= 0.09  # at most 0.05, and four standard errors


def test_over_many_rows_p_max_is_wrong_for_one_table_in_twenty():
    random, hits, trials = rng(5), 0, 300
    for seed in range(trials):
        x = random.normal(size=(15, 5, 12))
        hits += change_point(x, np.arange(5.0), resamples=199, seed=seed).p_max.min() <= 0.05
    assert 0.01 <= hits / trials <= 0.10


@pytest.mark.parametrize("size", [0.5, 0.8, 3.0])
@pytest.mark.parametrize("at", [2, 4, 7])
def test_a_planted_step_lies_in_its_interval(size, at):
    random, covered, trials = rng(6), 0, 200
    for seed in range(trials):
        found = change_point(planted(25, at, size, random), STEPS, resamples=300, seed=seed)
        # The step happened between the places at − 1 and at.
        covered += found.low[0] <= STEPS[at - 1] and STEPS[at] <= found.high[0]
    assert covered / trials >= 0.92


def test_a_large_step_is_found_to_the_place():
    found = change_point(planted(25, 5, 5.0, rng(7)), STEPS, resamples=500)
    assert (found.low[0], found.high[0]) == (8, 16)
    assert found.at[0] == pytest.approx(np.sqrt(8 * 16))
    assert found.p[0] == pytest.approx(1 / 501)
    assert found.share[0] > 0.95


def test_a_line_has_three_quarters_of_its_variance_in_one_step():
    line = np.linspace(0, 1, 200)[None, :, None] + np.zeros((3, 1, 1))
    assert change_point(line, np.arange(200.0), resamples=10).share[0] == pytest.approx(
        0.75, abs=0.01
    )


def test_an_unchanged_row_has_no_change():
    x = np.repeat(rng(8).normal(size=(10, 1, 1)), 5, axis=1)
    found = change_point(x, np.arange(5.0), resamples=99)
    assert np.isnan([found.p[0], found.p_max[0], found.at[0], found.low[0]]).all()
    assert found.first[0] == -1
    assert found.size[0] == 0


# ---- over runs -------------------------------------------------------------------------------


def best_steps(curves):
    """First place after the step of least squares, `[..., T]` to `[...]`, by brute force."""
    places = curves.shape[-1]
    left = [
        curves[..., :j].var(axis=-1) * j + curves[..., j:].var(axis=-1) * (places - j)
        for j in range(1, places)
    ]
    return np.argmin(left, axis=0) + 1


def test_runs_are_pooled_as_scipy_does_it():
    random = rng(10)
    last = 2.0 ** random.integers(0, 8, size=(5, 3))
    size = random.normal(1, 1, size=(5, 3))
    found = runs_together(last, 2 * last, size, log=True)
    np.testing.assert_allclose(found.at, scipy.stats.gmean(last * 2**0.5, axis=0))
    for row in range(3):
        for ends, end, which in ((last, found.low, 0), (2 * last, found.high, 1)):
            test = scipy.stats.ttest_1samp(np.log(ends[:, row]), 0.0)
            assert end[row] == pytest.approx(np.exp(test.confidence_interval(0.95)[which]))
        flips = np.array(list(product((1, -1), repeat=5))) * size[:, row]
        t = np.abs(scipy.stats.ttest_1samp(flips, 0.0, axis=1).statistic)
        own = abs(scipy.stats.ttest_1samp(size[:, row], 0.0).statistic)
        assert found.p[row] == pytest.approx(np.mean(t >= own - 1e-9))
    assert (found.p_max >= found.p).all()
    np.testing.assert_allclose(found.size, size.mean(axis=0))
    plain = runs_together(last, 2 * last, size)
    np.testing.assert_allclose(plain.at, 1.5 * last.mean(axis=0))


@pytest.mark.parametrize("runs", [3, 5, 8])
@pytest.mark.parametrize("spread", [0.0, 0.5, 1.5])
def test_the_mean_place_of_runs_lies_in_its_interval(runs, spread):
    """Runs change at places of their own, of which checkpoints show the neighbours only."""
    random, places, trials = rng(11), 2.0 ** np.arange(12), 2000
    true = 5.3 + spread * random.normal(size=(runs, trials))
    curves = np.log2(places) > true[..., None]
    first = best_steps(curves + 0.1 * random.normal(size=curves.shape))
    found = runs_together(places[first - 1], places[first], np.zeros_like(true), log=True)
    covered = ((found.low <= 2**5.3) & (found.high >= 2**5.3)).mean()
    assert covered >= 0.94
    # An interval over the prompts of one run knows nothing of the others.
    alone = ((places[first[0] - 1] <= 2**5.3) & (places[first[0]] >= 2**5.3)).mean()
    assert spread < 1 or alone < 0.5


@pytest.mark.parametrize("runs", [6, 8])
def test_runs_that_wander_change_in_no_common_direction(runs):
    """The best step of every run is chosen after looking, and still has a sign by chance."""
    random, trials, width = rng(12), 300, 4
    walks = random.normal(size=(runs, trials, width, 11)).cumsum(axis=-1)
    first = best_steps(walks)
    after = np.arange(11) >= first[..., None]
    size = (walks * after).sum(-1) / after.sum(-1) - (walks * ~after).sum(-1) / (~after).sum(-1)
    hits = family = 0
    for trial in range(trials):
        own = first[:, trial]
        found = runs_together(own - 1.0, own * 1.0, size[:, trial], resamples=500)
        hits += (found.p <= 0.05).mean()
        family += found.p_max.min() <= 0.05
    assert hits / trials <= 0.06
    assert family / trials <= 0.09  # at most 0.05, and three standard errors


def test_two_runs_have_a_mean_and_no_interval():
    found = runs_together([[4.0], [16.0]], [[8.0], [32.0]], [[1.0], [2.0]], log=True)
    assert found.at[0] == pytest.approx(np.sqrt(4 * 8 * 16 * 32) ** 0.5)
    assert np.isnan([found.low[0], found.high[0]]).all()
    assert found.p[0] == 0.5
    with pytest.raises(BadInput, match="one run has nothing to be pooled with"):
        runs_together([[4.0]], [[8.0]], [[1.0]])
    with pytest.raises(BadInput, match=r"last \(1, 1\), first \(2, 1\) and size \(2, 1\) do not"):
        runs_together([[4.0]], [[8.0], [9.0]], [[1.0], [2.0]])


# ---- the axis, and what is refused -----------------------------------------------------------


def test_steps_that_double_are_geometric():
    assert is_geometric([1, 2, 4, 8, 16])
    assert is_geometric([0, 10, 100, 1000])
    assert not is_geometric([0, 100, 200, 300])
    assert not is_geometric([1, 2, 3])
    assert log_places([0, 1, 2, 4]).tolist() == [0.5, 1, 2, 4]
    assert middles([0, 2, 4], log=False).tolist() == [1, 3]


def test_prompts_without_a_value_are_left_out():
    x = planted(10, 4, 2.0, rng(9))
    x[3, 2] = np.nan
    found = change_point(x, STEPS, resamples=50)
    assert isinstance(found, ChangePoint)
    assert found.prompts == 9
    whole = change_point(np.delete(x, 3, axis=0), STEPS, resamples=50)
    assert found.size[0] == whole.size[0]


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(BadInput, match=r"values \(3, 4\) and places \(4,\) do not match"):
        change_point(np.zeros((3, 4)), np.arange(4.0))
    with pytest.raises(BadInput, match=r"the places \[0.0, 2.0, 1.0\] have to ascend"):
        change_point(np.zeros((3, 3, 1)), [0, 2, 1])
    with pytest.raises(BadInput, match="1 prompts have a value at every place and row; at least 2"):
        change_point(np.zeros((1, 3, 1)), [0, 1, 2])
