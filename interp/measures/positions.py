"""Position encodings: sinusoids, and the sinusoidal structure of learned encodings.

Pure functions of a matrix `[position, d]`. The baselines ignore order: the same vectors in shuffled
order, or a closed form for them. Knows nothing of hooks or tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from interp._arrays import Array, Floats
from interp.errors import BadInput
from interp.measures.spectrum import checked, covariance_spectrum

FEWEST = 20  # pairs of positions below which no map is fitted


def sinusoidal(n: int, d: int, base: float = 10_000.0) -> Floats:
    """PE(p, 2k) = sin(p / base^{2k/d}), PE(p, 2k+1) = cos(…): `[n, d]` (Vaswani et al. 2017).

    Raises `BadInput` for an odd width.

    >>> sinusoidal(2, 4)[0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    angles = np.arange(n)[:, None] * _frequencies(d, base)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, d)


def _frequencies(d: int, base: float) -> Floats:
    if d < 2 or d % 2:
        raise BadInput(f"sinusoids come in pairs: the width is an even number, not {d!r}")
    return np.asarray(base ** (-np.arange(0, d, 2) / d), np.float64)


def shift_rotation(delta: float, d: int, base: float = 10_000.0) -> Floats:
    """The rotation R `[d, d]` with PE(p + δ) = R PE(p) for every p: one angle per frequency plane.

    sin((p+δ)w) = cos(δw)·sin(pw) + sin(δw)·cos(pw), and likewise for the cosine.
    """
    out = np.zeros((d, d))
    for k, w in enumerate(_frequencies(d, base)):
        c, s = np.cos(delta * w), np.sin(delta * w)
        out[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[c, s], [-s, c]]
    return out


def dominant_periods(positions: Array, seen: Any = None) -> tuple[Floats, Floats]:
    """Period in positions of each principal component, and the share of its strongest frequency.

    Each component's projection over the n positions is Fourier transformed. The period is n / f of
    the strongest frequency f ≥ 1; the share is that frequency's part of the power without the
    mean: near 1 for a sinusoid whose period divides n, about 2·ln(n/2)/n for noise. Components
    without variance are NaN. Returns two arrays `[d]`.
    """
    x = np.asarray(checked(positions), np.float64)
    seen = seen or covariance_spectrum(x)
    course = (x - seen.mean) @ seen.directions.T
    power = np.abs(np.fft.rfft(course, axis=0))[1:] ** 2
    # Each frequency but the highest of an even n stands for two terms of the transform.
    power[: (len(x) - 1) // 2] *= 2
    peak = power.argmax(axis=0)
    # Components of a rank-deficient encoding are rounding noise, and would get a period too.
    none = seen.eigenvalues <= 1e-12 * seen.eigenvalues[0]
    total = np.where(none, np.nan, power.sum(axis=0))
    share = power[peak, np.arange(power.shape[1])] / total
    return np.where(none, np.nan, len(x) / (peak + 1)), share


def sinusoidal_share(
    positions: Array, base: float = 10_000.0, *, cutoff: float = 1e-6
) -> tuple[float, float]:
    """Share of the variance of `[n, d]` in the span of the d sinusoids, and its expectation.

    Least squares on the centred sinusoids. Over n positions slow sinusoids are nearly collinear, so
    that the span has fewer than d distinct directions; those with less than `cutoff` of the
    largest singular value are left out, and r remain (`sinusoidal_rank`). Both numbers depend on
    that convention: for the demo model's 128 positions the share is 0.91 (by chance 0.24, r = 31)
    at 10⁻² and 0.95 (0.31, r = 40) at 10⁻¹². Compare shares at one cut-off only, and with the
    second number, r/(n − 1): the exact expectation if the positions were in random order.

    Raises `BadInput` for a cut-off outside 0 … 1.
    """
    x = np.asarray(checked(positions), np.float64)
    u = _sinusoidal_span(len(x), x.shape[1], base, cutoff)
    centred = x - x.mean(axis=0)
    total = (centred**2).sum()
    share = ((u.T @ centred) ** 2).sum() / total if total > 0 else np.nan
    return float(share), u.shape[1] / (len(x) - 1)


def sinusoidal_rank(n: int, d: int, base: float = 10_000.0, *, cutoff: float = 1e-6) -> int:
    """Number of directions of the d sinusoids over n positions that `sinusoidal_share` uses.

    >>> sinusoidal_rank(128, 128), sinusoidal_rank(128, 128, cutoff=0.01)
    (35, 31)
    """
    return int(_sinusoidal_span(n, d, base, cutoff).shape[1])


def _sinusoidal_span(n: int, d: int, base: float, cutoff: float) -> Floats:
    """Orthonormal directions of the centred sinusoids above the cut-off: `[n, r]`."""
    if not 0 < cutoff < 1:
        raise BadInput(f"cutoff={cutoff!r}; it is a share of the largest singular value, 0 … 1")
    # An odd width gets the next even number of sinusoids; they come in pairs of sine and cosine.
    basis = sinusoidal(n, d + d % 2, base)
    u, singular, _ = np.linalg.svd(basis - basis.mean(axis=0), full_matrices=False)
    return np.asarray(u[:, singular > cutoff * singular[0]], np.float64)


def shift_linearity(positions: Array, shift: int, *, components: int = 32, folds: int = 5) -> float:
    """R² of W_pos[p + δ] predicted linearly from W_pos[p], on held-out positions.

    Cross-validated over `folds` runs of neighbouring positions; pairs that share a position with
    the held-out run are not fitted. Predictors are the first principal components of the fitted
    positions (at most a quarter as many as there are pairs) and a constant; the residual is
    compared with that of the fitted mean. 0 or below for noise. 1 for sinusoids if all their
    frequencies can be fitted, less if not (slow frequencies of a wide encoding over few
    positions): compare with `sinusoidal` of the same size. NaN with fewer than 20 pairs, or
    without variance.
    """
    x = np.asarray(checked(positions), np.float64)
    n = len(x) - shift
    if shift < 1:
        raise BadInput(f"shift={shift!r}; it counts positions and is 1 or more")
    if n < max(FEWEST, 2 * folds):
        return float("nan")
    residual = total = 0.0
    # Runs, not random positions: a smooth encoding would be interpolated from the neighbours.
    for test in np.array_split(np.arange(n), folds):
        touched = np.concatenate([test, test + shift])
        pairs = np.arange(n)
        train = pairs[~np.isin(pairs, touched) & ~np.isin(pairs + shift, touched)]
        if len(train) < FEWEST // 2:
            return float("nan")
        predicted, mean = _fit(x, train, shift, test, components)
        residual += ((x[test + shift] - predicted) ** 2).sum()
        total += ((x[test + shift] - mean) ** 2).sum()
    return float(1 - residual / total) if total > 0 else float("nan")


def _fit(
    x: Floats, train: npt.NDArray[np.int64], shift: int, test: npt.NDArray[np.int64], k: int
) -> tuple[Floats, Floats]:
    """Prediction of the shifted test positions, and the mean of the fitted ones."""
    source, target = x[train], x[train + shift]
    # Principal components of the fitted positions only: those of all would leak the held-out ones.
    _, _, axes = np.linalg.svd(source - source.mean(axis=0), full_matrices=False)
    axes = axes[: min(k, max(1, len(train) // 4))].T
    centre, mean = source.mean(axis=0), target.mean(axis=0)
    weights = np.linalg.lstsq((source - centre) @ axes, target - mean, rcond=1e-10)[0]
    return mean + (x[test] - centre) @ axes @ weights, mean


def describe_positions(
    positions: Array, shifts: tuple[int, ...], *, components: int = 32
) -> dict[str, Array]:
    """All measures above, by name: `share`, `period`, `peak_share` `[d]`; `shift_δ`, a number."""
    seen = covariance_spectrum(positions)
    period, peak = dominant_periods(positions, seen)
    out: dict[str, Array] = {"share": seen.share, "period": period, "peak_share": peak}
    for shift in shifts:
        out[f"shift_{shift}"] = np.asarray(shift_linearity(positions, shift, components=components))
    return out
