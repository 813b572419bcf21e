"""Rotations within prompts as a null distribution: its size under the null, its power, its form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from interp import BadInput
from interp.stats import rotated_correlation
from interp.stats.rotated import _rotations
from interp.stats.shuffled import shuffled_correlation


def courses(seed: int, prompts: int = 12, length: int = 30, keep: float = 0.85):
    """Two independent autoregressive courses per prompt, with a level for each prompt in common."""
    rng = np.random.default_rng(seed)
    out = rng.normal(size=(2, prompts, length))
    for i in range(1, length):
        out[:, :, i] = keep * out[:, :, i - 1] + np.sqrt(1 - keep**2) * out[:, :, i]
    level = rng.normal(size=(prompts, 1))
    return (out + level).reshape(2, -1), np.repeat(np.arange(prompts), length)


def test_coefficients_are_scipys():
    (x, y), prompt = courses(0)
    both = np.stack([x, x + y], axis=1)
    plain = rotated_correlation(both, y, prompt, resamples=9)
    ranks = rotated_correlation(both, y, prompt, resamples=9, ranks=True)
    for i in range(2):
        assert plain.r[i] == pytest.approx(stats.pearsonr(both[:, i], y)[0])
        assert ranks.r[i] == pytest.approx(stats.spearmanr(both[:, i], y)[0])


def test_a_rotation_keeps_order_and_prompt():
    number = np.array([0, 0, 0, 1, 2, 2, 2, 2])
    seen = set()
    for row in _rotations(number, 300, np.random.default_rng(0)):
        np.testing.assert_array_equal(number[row], number)
        assert ((np.diff(row[:3]) % 3) == 1).all()
        assert ((np.diff(row[4:]) % 4) == 1).all()
        seen.add(tuple(row))
    assert len(seen) == 3 * 1 * 4


def test_the_null_is_that_of_all_rotations_of_one_prompt():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 7))
    every = np.sort([np.corrcoef(x, np.roll(y, k))[0, 1] for k in range(7)])
    found = rotated_correlation(x[:, None], y, np.zeros(7), resamples=400)
    np.testing.assert_allclose(np.unique(found.null.round(9)), every, atol=1e-8)


def test_p_has_its_size_where_neighbours_are_alike_and_shuffles_do_not():
    rotated, shuffled = [], []
    for seed in range(200):
        (x, y), prompt = courses(seed)
        options = {"resamples": 99, "seed": seed}
        rotated.append(rotated_correlation(x[:, None], y, prompt, **options).p[0])
        shuffled.append(shuffled_correlation(x[:, None], y, prompt, **options).p[0])
    # Of 200 at a rate of 0.05, more than 0.1 has probability 0.002.
    assert 0.01 <= np.mean(np.array(rotated) <= 0.05) <= 0.1
    assert np.mean(np.array(shuffled) <= 0.05) > 0.2


def test_the_family_wise_p_has_its_size():
    p = []
    for seed in range(200):
        (x, y), prompt = courses(seed, keep=0.5)
        other = np.stack([x, *courses(seed + 10_000, keep=0.5)[0], -x], axis=1)
        p.append(rotated_correlation(other, y, prompt, resamples=99, seed=seed).p_max.min())
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.1


def test_an_association_within_prompts_is_found():
    (x, y), prompt = courses(0)
    found = rotated_correlation((x + y)[:, None], y, prompt, resamples=199)
    assert found.p[0] == 0.005
    assert 0 < found.centre[0] < found.r[0]


def test_a_constant_column_is_undefined():
    found = rotated_correlation(
        np.stack([np.full(20, 0.1), np.arange(20.0)], axis=1), np.arange(20.0) % 7, np.zeros(20)
    )
    assert np.isnan([found.r[0], found.p[0], found.p_max[0]]).all()
    assert np.isfinite([found.r[1], found.p[1], found.p_max[1]]).all()


def test_bad_input_is_refused():
    with pytest.raises(BadInput, match=r"x \(3, 1\), y \(4,\) and clusters \(3,\) do not match"):
        rotated_correlation(np.zeros((3, 1)), np.zeros(4), np.zeros(3))
    with pytest.raises(BadInput, match="values that are not finite; leave those rows out"):
        rotated_correlation(np.full((3, 1), np.nan), np.zeros(3), np.zeros(3))
