"""Phantoms of weight matrices with planted spectra, and what analyses of weights must measure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import hadamard

from interp.models.hand_set import BlockWeights, Matrix, hand_set
from interp.runs.phantoms.phantom import Known, Phantom, Trial, rounding, rows_known
from interp.runs.phantoms.stream import DEGREES, exactly, turn_matrix

WORDS, WIDTH = 64, 8
MEAN = 2.5
SPREADS = np.array([7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
"""Standard deviation of the embedding along each principal component; the last has none."""
OPERATIONS = 512


def _signs() -> Matrix:
    """Uncorrelated columns of ±1 without a mean: `[64, 7]`."""
    columns: Matrix = hadamard(WORDS)[:, 1:WIDTH].astype(np.float64)
    return columns


def embedding_rows() -> Matrix:
    """`[64, 8]`: a constant along one axis, a feature of known size along each other."""
    return np.hstack([np.full((WORDS, 1), MEAN), SPREADS * _signs()])


@cache
def planted_embedding() -> Phantom:
    """An embedding of which mean, covariance and norms are known."""
    rows = embedding_rows()
    return Phantom(
        "planted embedding",
        "64 vectors with a mean of length 2.5 and uncorrelated features of deviation 7 … 1; "
        "all norms are equal. The unembedding is the same matrix.",
        lambda: hand_set("planted embedding", rows, [BlockWeights()]),
    )


def embedding_planted() -> Trial:
    """`embedding` on `planted_embedding`."""
    variance = np.append(SPREADS**2, 0.0)
    share = variance / variance.sum()
    size = MEAN**2 + variance.sum()
    cosine = (WORDS * MEAN**2 / size - 1) / (WORDS - 1)
    spread = np.sqrt(variance)
    some = share[share > 0]
    ranked = spread[spread > 0] / spread.sum()
    known: dict[str, Any] = {
        "effective_rank": np.exp(-(ranked * np.log(ranked)).sum()),
        "entropy_dimension": np.exp(-(some * np.log(some)).sum()),
        "participation_ratio": variance.sum() ** 2 / (variance**2).sum(),
        "mean_cosine": cosine,
        "mean_cosine_centred": -1 / (WORDS - 1),
        "cosine_std": _cosine_std(embedding_rows()),
        "mean_share": MEAN**2 / size,
        "norm_mean": np.sqrt(size),
        "norm_std": 0.0,
        "zero_vectors": 0.0,
    }
    rows = [exactly(n, lambda r, v=v: np.full(len(r), v), OPERATIONS) for n, v in known.items()]
    by_component = {"eigenvalue": variance, "share": share, "cumulative": share.cumsum()}
    rows += [
        exactly(name, lambda r, v=v: v[r["component"].to_numpy(int)], OPERATIONS)
        for name, v in by_component.items()
    ]
    return Trial(planted_embedding(), [rows_known(WIDTH), *rows])


def _cosine_std(rows: Matrix) -> float:
    """Standard deviation of the cosines of all pairs of rows."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return float((unit @ unit.T)[np.triu_indices(len(rows), 1)].std())


def spectrum_planted() -> Trial:
    """`unembedding_spectrum` on `planted_embedding`: centring takes the mean direction away."""
    features = np.sqrt(WORDS) * SPREADS
    whole = np.sort(np.append(features, np.sqrt(WORDS) * MEAN))[::-1]
    values = {"W_U": whole, "W_U centred": np.append(features, 0.0)}
    tables = {name: _spectrum(v) for name, v in values.items()}
    tables["W_U"]["mean_cosine"] = (whole == np.sqrt(WORDS) * MEAN).astype(float)
    tables["W_U centred"]["mean_cosine"] = np.full(WIDTH, np.nan)

    def of_row(column: str) -> Any:
        def found(rows: pd.DataFrame) -> Any:
            pairs = zip(rows["matrix"], rows["direction"], strict=True)
            return np.array([tables[m][column][int(d)] for m, d in pairs])

        return found

    def ours(frame: pd.DataFrame) -> Any:
        return frame["matrix"] != "random"

    columns = next(iter(tables.values()))
    return Trial(
        planted_embedding(),
        [rows_known(3 * WIDTH)]
        + [
            Known(c, of_row(c), rounding(float(whole[0]), OPERATIONS),
                  f"{OPERATIONS} roundings of the largest value", where=ours)
            for c in columns
        ],
    )  # fmt: skip


def _spectrum(values: Matrix) -> dict[str, Matrix]:
    share, some = values**2 / (values**2).sum(), values[values > 0] / values.sum()
    same = np.ones(len(values))
    return {
        "singular_value": values,
        "share": share,
        "cumulative_share": share.cumsum(),
        "effective_rank": same * np.exp(-(some * np.log(some)).sum()),
        "participation_ratio": same * (values**2).sum() ** 2 / (values**4).sum(),
    }


# ---- unembedding against embedding -------------------------------------------------------------

ANGLES = np.linspace(0, 150, 16)
STRETCH = 1 + np.arange(16) / 8


@cache
def turned_unembedding() -> Phantom:
    """Each row of W_U is that of W_E, turned by a known angle and made longer."""
    embed = _plane_rows()
    rows = np.stack(
        [s * e @ turn_matrix(a, 4) for e, a, s in zip(embed, ANGLES, STRETCH, strict=True)]
    )
    return Phantom(
        "turned unembedding",
        "The unembedding of token i is its embedding turned by 10·i degrees and 1 + i/8 times as "
        "long; that of token 0 is the same to the last bit.",
        lambda: hand_set("turned unembedding", embed, [BlockWeights()], unembed=rows.T),
    )


def _plane_rows() -> Matrix:
    angle = 22.5 * np.arange(16) / DEGREES
    size = 1 + np.arange(16) % 3
    return np.stack([size * np.cos(angle), size * np.sin(angle), 0 * size, 0 * size], axis=1)


def unembedding_turned() -> Trial:
    """`unembedding` on `turned_unembedding`."""
    cosine, k = np.cos(ANGLES / DEGREES), STRETCH
    size = 1.0 + np.arange(16) % 3
    embed = _plane_rows()
    angle = 22.5 * np.arange(16) + ANGLES
    rows = np.stack([np.cos(angle / DEGREES), np.sin(angle / DEGREES)]) * k * size
    known = {
        "norm": k * size,
        "embedding_norm": size,
        "cosine": cosine,
        "difference": np.sqrt(1 + k**2 - 2 * k * cosine),
        "same": (np.arange(16) == 0).astype(float),
        "bias": np.zeros(16),
        "embedding_mean_cosine": _along_mean(embed.T),
        "mean_cosine": _along_mean(rows),
    }
    tests = [
        exactly(n, lambda r, v=v: v[r["vocab_id"].to_numpy(int)], OPERATIONS)
        for n, v in known.items()
    ]
    return Trial(turned_unembedding(), [rows_known(16), *tests])


def _along_mean(columns: Matrix) -> Matrix:
    mean = columns.mean(axis=1)
    along: Matrix = mean @ columns / np.linalg.norm(mean) / np.linalg.norm(columns, axis=0)
    return along


# ---- positions on a circle ---------------------------------------------------------------------

AROUND, PLACES, RADIUS = 8, 64, 4.0


def circle_rows(width: int, places: int = PLACES) -> Matrix:
    """Positions on a circle in the first two dimensions, once around every 8 tokens."""
    angle = 2 * np.pi * np.arange(places) / AROUND
    rows = np.zeros((places, width))
    rows[:, 0], rows[:, 1] = RADIUS * np.cos(angle), RADIUS * np.sin(angle)
    return rows


@cache
def position_circle() -> Phantom:
    """Learned positions that go round a circle."""
    return Phantom(
        "positions on a circle",
        "64 learned positions go eight times round a circle: two components with half of the "
        "variance each, both with a period of 8, and every shift is a rotation.",
        lambda: hand_set(
            "positions on a circle", np.eye(4), [BlockWeights()], positions=circle_rows(4)
        ),
    )


def positions_circle() -> Trial:
    """`positions` on `position_circle`."""
    share = np.array([0.5, 0.5, 0, 0])
    period = np.array([AROUND, AROUND, np.nan, np.nan])
    known: dict[str, Any] = {"share": share, "period": period, "peak_share": period / AROUND}
    tests = [
        exactly(n, lambda r, v=v: v[r["component"].to_numpy(int)], OPERATIONS)
        for n, v in known.items()
    ]
    shifts = [f"shift_{i}" for i in (1, 4, 16)]
    tests += [exactly(n, lambda r: np.ones(len(r)), OPERATIONS) for n in shifts]
    return Trial(position_circle(), [rows_known(4), *tests])


@cache
def position_sinusoids() -> Phantom:
    """Learned positions that are mixtures of the usual sinusoids."""
    place, scale = np.arange(PLACES)[:, None], 10_000.0 ** (-np.arange(0, WIDTH, 2) / WIDTH)
    waves = np.hstack([np.sin(place * scale), np.cos(place * scale)])
    mixed = waves @ np.random.default_rng(4).standard_normal((WIDTH, WIDTH))
    return Phantom(
        "mixed sinusoids",
        "64 learned positions that are linear mixtures of the sinusoids of Vaswani et al.: all of "
        "their variance lies in the span of these, and every shift is linear.",
        lambda: hand_set("mixed sinusoids", np.eye(WIDTH), [BlockWeights()], positions=mixed),
    )


def positions_sinusoids() -> Trial:
    """`positions` on `position_sinusoids`."""
    return Trial(
        position_sinusoids(),
        [
            exactly("sinusoidal_share", lambda r: np.ones(len(r)), OPERATIONS),
            Known(
                "sinusoidal_chance · (n − 1) − sinusoidal_rank",
                0.0,
                rounding(PLACES, 4),
                "4 roundings",
                measured=lambda r: r["sinusoidal_chance"] * (PLACES - 1) - r["sinusoidal_rank"],
            ),
        ],
    )


TRIALS: dict[str, Sequence[Any]] = {
    "embedding": (embedding_planted,),
    "unembedding": (unembedding_turned,),
    "unembedding_spectrum": (spectrum_planted,),
    "positions": (positions_circle, positions_sinusoids),
}
