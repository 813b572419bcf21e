"""Permutation nulls: their p, their maximum and what they cannot decide."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from spaces_help import (
    rng,
)

from interp import BadInput
from interp.measures.similarity import measure, similarity_null
from interp.stats.nulls import Null, orders, permuted


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
