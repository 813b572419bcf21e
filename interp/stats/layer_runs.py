"""Cluster-based permutation test over neighbouring layers.

The clusters of this test are called runs of layers here: elsewhere in this package a cluster is a
prompt, the sampling unit. Knows only t values, observed and under shuffled labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from interp._arrays import Bools, Floats
from interp.errors import BadInput
from interp.stats.labelings import share_reaching


class _Run(NamedTuple):
    """Rows start … stop (both included) whose t reaches the threshold with one sign."""

    start: int
    stop: int
    mass: float


def cluster_test(
    t: ArrayLike,
    null_t: ArrayLike,
    layers: ArrayLike,
    series: ArrayLike | None = None,
    *,
    threshold: float | None = None,
    alpha: float = 0.05,
    exact: bool = False,
) -> pd.DataFrame:
    """Find runs of neighbouring layers that differ, and test each against shuffled labels.

    `t` [k] and `null_t` [resamples, k] from `clustered_permutation`; `layers` [k]; `series` [k]
    separates rows that are not neighbours (heads, encoder and decoder). A run consists of
    successive layers (among those given) whose |t| reaches the threshold with one sign; its mass
    is Σt. The threshold is a number, or, if None, per row the 1 − alpha quantile of |null_t|.
    p compares |mass| with the largest |mass| of each shuffle, over all series. The test shows with
    family-wise error alpha *that* there is an effect; where it begins and ends is not tested.
    A NaN of the null (a shuffle without a defined t) belongs to no run; `exact` means that the null
    holds all labelings, including the observed one. Source: Maris & Oostenveld, Journal of
    Neuroscience Methods 164 (2007).

    Returns one row per run, largest |mass| first: `series`, `first`, `last` (layers), `size`
    (number of layers), `mass` (in t), `p`. Raises `BadInput` if shapes do not match.

    >>> null = np.random.default_rng(0).normal(size=(999, 6))
    >>> found = cluster_test([0, 4, 5, 0, -3, 0], null, range(6), threshold=2.0)
    >>> found[["first", "last", "mass"]].values.tolist()
    [[1.0, 2.0, 9.0], [4.0, 4.0, -3.0]]
    """
    observed, null = np.asarray(t, np.float64), np.asarray(null_t, np.float64)
    place = np.asarray(layers)
    group = np.zeros(len(place), np.int64) if series is None else np.asarray(series)
    if not (null.ndim == 2 and observed.shape == place.shape == group.shape == null.shape[1:]):
        raise BadInput(
            f"t {observed.shape}, null_t {null.shape}, layers {place.shape} and series "
            f"{group.shape} do not match: t, layers and series are [k], null_t is [resamples, k]"
        )
    order = np.lexsort((place, group))
    observed, null, place, group = observed[order], null[:, order], place[order], group[order]
    limit = _limit(null, threshold, alpha)
    linked = _linked(place, group)
    largest = _largest_mass(null, limit, linked)
    rows = [
        (group[r.start], place[r.start], place[r.stop], r.stop - r.start + 1, r.mass)
        for r in _runs(observed, limit, linked)
    ]
    frame = pd.DataFrame(rows, columns=["series", "first", "last", "size", "mass"])
    mass = frame["mass"].to_numpy(np.float64)
    frame["p"] = share_reaching(largest[:, None], np.abs(mass), exact)
    return frame.sort_values("mass", key=np.abs, ascending=False, ignore_index=True)


def _limit(null: Floats, threshold: float | None, alpha: float) -> Floats:
    """The threshold of each row: `[k]`."""
    if threshold is not None:
        if not threshold > 0:
            raise BadInput(f"threshold is {threshold!r}; it is a size of t and must be above 0")
        return np.full(null.shape[1], float(threshold))
    # An undefined t counts as extreme, which raises the threshold: the cautious side.
    size = np.where(np.isnan(null), np.inf, np.abs(null))
    return np.asarray(np.quantile(size, 1 - alpha, axis=0, method="higher"), np.float64)


def _linked(layers: NDArray[np.generic], series: NDArray[np.generic]) -> Bools:
    """Mask of the rows that continue the row before them: `[k]`."""
    # Successive among the layers that were measured: with layers=[0, 4, 8], 4 follows 0.
    _, place = np.unique(layers, return_inverse=True)
    linked = np.zeros(len(place), bool)
    linked[1:] = (np.diff(place) == 1) & (series[1:] == series[:-1])
    return linked


def _largest_mass(null: Floats, limit: Floats, linked: Bools) -> Floats:
    """Largest |mass| of any run in each shuffle: `[resamples, k] -> [resamples]`."""
    # A loop over rows with all shuffles at once: runs of 2,000 shuffles would be slow one by one.
    largest = np.zeros(len(null))
    for sign in (1.0, -1.0):
        run = np.zeros(len(null))
        for k in range(null.shape[1]):
            t = sign * null[:, k]
            # 0 for what belongs to no run: an infinite t of the other sign has no sum with it.
            t = np.where((t >= limit[k]) & (t > 0), t, 0.0)
            run = np.where(t > 0, t + run, 0.0) if linked[k] else t
            largest = np.maximum(largest, run)
    return largest


def _runs(t: Floats, limit: Floats, linked: Bools) -> list[_Run]:
    """The observed runs, in order of rows."""
    sign = np.where((np.abs(t) >= limit) & (t != 0), np.sign(t), 0.0)
    runs: list[_Run] = []
    for k in np.flatnonzero(sign):
        last = runs[-1] if runs else None
        if last and linked[k] and last.stop == k - 1 and sign[k] == sign[k - 1]:
            runs[-1] = _Run(last.start, int(k), last.mass + float(t[k]))
        else:
            runs.append(_Run(int(k), int(k), float(t[k])))
    return runs
