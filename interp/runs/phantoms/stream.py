"""Phantoms of the stream: paths, turns and clouds, and what analyses must measure on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import hadamard
from scipy.stats import ortho_group

from interp.models.hand_set import BlockWeights, Matrix, MlpWeights, hand_set, mapped
from interp.runs.phantoms.phantom import Known, Phantom, Trial, rounding, rows_known, sampling

DEGREES = 180 / np.pi
TOKENS = 16
PROMPTS = (tuple(range(6)), tuple(range(6, 12)), tuple(range(12, 16)))
"""Every token of the vocabulary once; the last prompt is padded."""


def at_token(values: Matrix) -> Any:
    """The value of each row's token."""
    return lambda rows: values[rows["token_id"].to_numpy(int)]


def at_layer(values: npt.ArrayLike) -> Any:
    """The value of each row's layer."""
    return lambda rows: np.asarray(values)[rows["layer"].to_numpy(int)]


def at_both(values: Matrix) -> Any:
    """The value of `values [layer, token]` for each row."""
    return lambda rows: values[rows["layer"].to_numpy(int), rows["token_id"].to_numpy(int)]


def relative(values: Any, operations: int) -> Any:
    """A tolerance: so many roundings of numbers of the size of the known value, or of 1."""
    return lambda rows: rounding(1.0, operations) * np.fmax(1.0, np.abs(values(rows)))


def exactly(column: str, values: Any, operations: int = 64) -> Known:
    """A column known up to rounding, by row."""
    return Known(column, values, relative(values, operations), f"{operations} roundings")


def _columns(known: dict[str, Any], operations: int = 64) -> list[Known]:
    return [exactly(name, values, operations) for name, values in known.items()]


# ---- every block turns by an angle -------------------------------------------------------------

TURNS = np.array([10.0, 25.0, 40.0, 55.0])
ELEVATION = np.linspace(0, 60, TOKENS) / DEGREES
LENGTH = 1 + np.arange(TOKENS) / 4
TURN_STEPS = 4 * 3 * 6  # roundings on the way: 4 blocks, sums of 3 · width terms


def turn_matrix(degrees: float, width: int) -> Matrix:
    """x ↦ x·R turns the first two coordinates by this angle."""
    matrix, angle = np.eye(width), degrees / DEGREES
    matrix[:2, :2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return matrix


@cache
def turning() -> Phantom:
    """Every block turns every state by a known angle in a known plane."""
    azimuth = 25 * np.arange(TOKENS) / DEGREES
    embed = np.zeros((TOKENS, 6))
    embed[:, 0] = LENGTH * np.cos(ELEVATION) * np.cos(azimuth)
    embed[:, 1] = LENGTH * np.cos(ELEVATION) * np.sin(azimuth)
    embed[:, 2] = LENGTH * np.sin(ELEVATION)
    return Phantom(
        "turning",
        "The blocks turn the stream by 10, 25, 40 and 55° in one plane; a state that stands out "
        "of the plane by ε turns by 2·asin(cos ε · sin(θ/2)).",
        lambda: hand_set("turning", embed, [mapped(turn_matrix(t, 6)) for t in TURNS]),
        PROMPTS,
    )


def _turned(column: str, values: Matrix, size: float = 2.0) -> Known:
    limit = rounding(size * DEGREES, TURN_STEPS)
    return Known(column, at_both(values), limit, f"{TURN_STEPS} roundings, as an angle")


def rotation_turning() -> Trial:
    """`rotation` on `turning`."""
    angle = 2 * DEGREES * np.arcsin(np.cos(ELEVATION) * np.sin(TURNS[:, None] / DEGREES / 2))
    between = np.append((TURNS[:-1] + TURNS[1:]) / 2, np.nan)[:, None] + np.zeros(TOKENS)
    # A step is as short as 2 cos ε sin(θ/2) of the state whose rounding it carries.
    short = 2 / (2 * np.cos(ELEVATION.max()) * np.sin(TURNS[0] / DEGREES / 2))
    return Trial(
        turning(),
        [
            rows_known(TOKENS * 4),
            _turned("angle", angle),
            _turned("attn_angle", np.zeros_like(angle)),
            _turned("mlp_angle", angle),
            _turned("angular_path", angle.cumsum(axis=0), 8.0),
            _turned("turning", between, 2 * short),
        ],
    )


# ---- a straight path ---------------------------------------------------------------------------

STRAIGHT = np.array([1.0, 2.0, 4.0, 8.0])
START = 1.0 + np.arange(TOKENS)


@cache
def straight() -> Phantom:
    """All steps along one axis, a quarter by attention, the rest by the MLP."""
    embed = np.zeros((TOKENS, 4))
    embed[:, 0] = START
    along = np.eye(4)[1]
    blocks = [BlockWeights(attn=along * s / 4, bias=along * s * 3 / 4) for s in STRAIGHT]
    return Phantom(
        "straight path",
        "Every block adds 1, 2, 4 and 8 along one axis, a quarter of it by attention; all numbers "
        "are exact in float32, and a LayerNorm stands before every part.",
        lambda: hand_set("straight path", embed, blocks, norm="LN"),
        PROMPTS,
    )


def _straight() -> tuple[Matrix, Matrix, Matrix]:
    """Way before and after each block `[layer, 1]`, and norm of the state before it."""
    after = STRAIGHT.cumsum()[:, None]
    before = after - STRAIGHT[:, None]
    return before, after, np.hypot(START, before)


def norm_straight() -> Trial:
    """`norm` on `straight`."""
    _, after, _ = _straight()
    known = {"norm": at_both(np.hypot(START, after))}
    return Trial(straight(), [rows_known(TOKENS * 4), *_columns(known)])


def rotation_straight() -> Trial:
    """`rotation` on `straight`: attention turns first, the MLP goes on in the same direction."""
    before, after, _ = _straight()
    middle = before + STRAIGHT[:, None] / 4
    low, mid, high = (DEGREES * np.arctan(x / START) for x in (before, middle, after))
    known = {"angle": high - low, "attn_angle": mid - low, "mlp_angle": high - mid}
    known |= {"angular_path": high, "turning": np.zeros_like(high)}
    known["turning"][-1] = np.nan
    return Trial(straight(), [_turned(name, values, 4.0) for name, values in known.items()])


def path_straight() -> Trial:
    """`path_length` on `straight`."""
    before, after, norm = _straight()
    step = STRAIGHT[:, None] + np.zeros(TOKENS)
    known: dict[str, Matrix] = {
        "norm": norm, "norm_after": np.hypot(START, after), "step": step,
        "relative_step": step / norm, "path": after + 0 * step, "chord": after + 0 * step,
        "tortuosity": 1 + 0 * step, "attn_mlp_cos": 1 + 0 * step, "closing_error": 0 * step,
    }  # fmt: skip
    for name, share in (("attn", 0.25), ("mlp", 0.75)):
        known[f"{name}_share"], known[f"{name}_norm"] = share + 0 * step, share * step
        known[f"{name}_stretch"] = share * step * before / norm
        known[f"{name}_turn"] = share * step * START / norm
    values = {name: at_both(x) for name, x in known.items()}
    return Trial(straight(), [rows_known(TOKENS * 4), *_columns(values)])


def trajectory_straight() -> Trial:
    """`trajectory` on `straight`: start and way are independent, so they are the axes."""
    way = np.append(0.0, STRAIGHT.cumsum())
    a, b = START.var(), way.var()
    first, second = (START, way) if a > b else (way, START)
    places = {
        f"pc{i + 1}": np.broadcast_to(x - x.mean() if x is way else (x - x.mean())[:, None],
                                      (TOKENS, len(way))).T
        for i, x in enumerate((first, second))
    }  # fmt: skip
    share = max(a, b) / (a + b)
    known = {"pc1_share": share, "pc2_share": 1 - share, "shown_share": 1.0, "outside": 0.0}
    known |= {"effective_dimension": (a + b) ** 2 / (a**2 + b**2), "basis_states": 5.0 * TOKENS}
    known |= {"undefined_tokens": 0.0}
    trial = [exactly(name, _constant(x)) for name, x in known.items()]
    trial += [exactly(name, at_both(x)) for name, x in places.items()]
    return Trial(straight(), [rows_known(TOKENS * 5), *trial])


def _constant(value: float) -> Any:
    return lambda rows: np.full(len(rows), value)


# ---- steps at right angles, and a random walk --------------------------------------------------


@cache
def right_angles() -> Phantom:
    """Each step of length 5 at right angles to all others: 3 by attention, 4 by the MLP."""
    embed = np.zeros((TOKENS, 9))
    embed[:, 0] = START
    axes = np.eye(9)
    blocks = [BlockWeights(attn=3 * axes[2 * i + 1], bias=4 * axes[2 * i + 2]) for i in range(4)]
    return Phantom(
        "right angles",
        "Every block makes a step of 5 at right angles to all before, 3 by attention and 4 by the "
        "MLP at right angles to it: after n steps path/chord is √n.",
        lambda: hand_set("right angles", embed, blocks, norm="LN"),
        PROMPTS,
    )


def path_right_angles() -> Trial:
    """`path_length` on `right_angles`."""
    n = np.arange(1, 5)
    known = {
        "step": 5.0 + 0 * n,
        "path": 5.0 * n,
        "chord": 5 * np.sqrt(n),
        "tortuosity": np.sqrt(n),
    }
    known |= {"attn_share": 0.36 + 0 * n, "mlp_share": 0.64 + 0 * n, "attn_mlp_cos": 0.0 * n}
    known |= {"attn_norm": 3.0 + 0 * n, "mlp_norm": 4.0 + 0 * n, "closing_error": 0.0 * n}
    return Trial(right_angles(), _columns({name: at_layer(x) for name, x in known.items()}))


def rotation_right_angles() -> Trial:
    """`rotation` on `right_angles`."""
    return Trial(
        right_angles(),
        [Known("turning", at_layer([90.0, 90.0, 90.0, np.nan]), rounding(2 * DEGREES, 64),
               "64 roundings, as an angle")],
    )  # fmt: skip


WALKERS, WALK, STEPS = 192, 64, 6


@cache
def walk() -> Phantom:
    """Every token walks on its own: 6 random steps of equal length in 64 dimensions."""
    random = np.random.default_rng(0)
    steps = random.standard_normal((STEPS, WALKERS, WALK))
    steps *= 100 / np.linalg.norm(steps, axis=-1, keepdims=True)
    embed = np.hstack([np.zeros((WALKERS, WALK)), np.eye(WALKERS)])
    # The token is read off its own dimension, which no step reaches.
    inner = np.vstack([np.zeros((WALK, WALKERS)), np.eye(WALKERS)])
    blocks = [
        BlockWeights(mlp=MlpWeights(inner, np.hstack([s, np.zeros((WALKERS, WALKERS))])))
        for s in steps
    ]
    return Phantom(
        "random walk",
        "192 tokens make 6 steps of length 100 each, every one in a random direction of 64 "
        "dimensions: the mean squared chord after n steps is n·100², steps are at 90° on average.",
        lambda: hand_set("random walk", embed, blocks),
        tuple(tuple(range(i, i + 24)) for i in range(0, WALKERS, 24)),
    )


def path_walk() -> Trial:
    """`path_length` on `walk`: (path/chord)² is n only on average over walks, of the inverse."""
    known = [Known("step", 100.0, rounding(100, 3 * (WALK + WALKERS)), "768 roundings")]
    for i in range(1, STEPS):
        n = i + 1
        # 2 Σ_{i<j} u_i·u_j has the variance 4 · n(n − 1)/2 / d.
        spread = np.sqrt(2 * n * (n - 1) / WALK) / n**2
        known.append(
            Known(
                f"1/tortuosity² after {n} steps",
                1 / n,
                sampling(spread, WALKERS),
                f"5 standard errors of {WALKERS} walks",
                measured=lambda rows: 1 / rows["tortuosity"] ** 2,
                where=lambda frame, layer=i: frame["layer"] == layer,  # type: ignore[misc]
                mean=True,
            )
        )
    return Trial(walk(), known)


def rotation_walk() -> Trial:
    """`rotation` on `walk`: angles between steps that have nothing to do with each other."""
    # cos θ has the variance 1/d; θ about 90° as much, in radians.
    spread = DEGREES / np.sqrt(WALK - 1)
    limit = sampling(spread, WALKERS * (STEPS - 1))
    why = f"5 standard errors of {WALKERS * (STEPS - 1)} angles"
    return Trial(
        walk(),
        [Known("turning", 90.0, limit, why, mean=True, where=lambda f: f["layer"] < STEPS - 1)],
    )


# ---- clouds of states --------------------------------------------------------------------------

HEIGHTS = np.array([1.0, 3.0, 6.0, 12.0])


@cache
def cone() -> Phantom:
    """All pairs of tokens at one angle, which shrinks from block to block."""
    embed = np.hstack([np.zeros((TOKENS, 1)), 2 * np.eye(TOKENS)])
    axis = np.eye(TOKENS + 1)[0]
    rises = np.diff(HEIGHTS, prepend=0)
    return Phantom(
        "cone",
        "Each token has an axis of its own, all have one in common that the blocks raise to a = 1, "
        "3, 6 and 12: two tokens after blocks i and j have the cosine a_i a_j/√((a_i²+4)(a_j²+4)).",
        lambda: hand_set("cone", embed, [BlockWeights(bias=axis * r) for r in rises], norm="LN"),
        PROMPTS,
    )


def pairs_cone() -> Trial:
    """`random_pairs` on `cone`."""

    def angle(rows: pd.DataFrame) -> Matrix:
        a, b = (HEIGHTS[rows[f"layer_{x}"].to_numpy(int)] for x in "ab")
        cosine: Matrix = a * b / np.sqrt((a**2 + 4) * (b**2 + 4))
        return DEGREES * np.arccos(cosine)

    def layer(rows: pd.DataFrame) -> Any:
        """The block of a pair within one, NaN of a pair across blocks."""
        within = rows["kind"] == "same layer"
        return rows["layer_a"].where(within).to_numpy(np.float64)

    limit = rounding(2 * DEGREES, 64)
    return Trial(
        cone(),
        [
            # Across blocks a pair may be one token, which is left out; within one it is not.
            Known(
                "(pairs within a block)",
                128.0 * len(HEIGHTS),
                0,
                "a count",
                measured=lambda frame: [(frame["kind"] == "same layer").sum()],
            ),
            Known("angle", angle, limit, "64 roundings, as an angle"),
            Known("(layer)", layer, 0, "a number", measured=lambda f: f["layer"].astype(float)),
        ],
    )


WEIGHTS = np.array([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
FACTORS = np.array([[0.5, 1, 1, 1, 2, 1], [1, 2, 0.5, 1, 1, 2], [2, 0.5, 1, 0.5, 1, 3]])


@cache
def features() -> Phantom:
    """Six uncorrelated features of the tokens, which blocks amplify by known factors."""
    embed = np.zeros((TOKENS, 8))
    embed[:, :6] = WEIGHTS * hadamard(TOKENS)[:, 1:7]
    blocks = [mapped(np.diag([*factors, 1, 1])) for factors in FACTORS]
    return Phantom(
        "features",
        "Tokens are the 16 combinations of signs of six uncorrelated features of known size, which "
        "every block multiplies by a known factor: the covariance of all states is diagonal.",
        lambda: hand_set("features", embed, blocks),
        PROMPTS,
    )


def feature_sizes() -> Matrix:
    """Standard deviation of each feature at each state: `[4, 6]`."""
    return np.vstack([WEIGHTS, WEIGHTS * FACTORS.cumprod(axis=0)])


def trajectory_features() -> Trial:
    """`trajectory` on `features`."""
    sizes = feature_sizes()
    variance = (sizes**2).mean(axis=0)
    order, share = np.argsort(-variance)[:3], np.sort(variance / variance.sum())[::-1]
    signs = hadamard(TOKENS)[:, 1:7]
    outside = 1 - (sizes[:, order] ** 2).sum(1) / (sizes**2).sum(1)
    effective = variance.sum() ** 2 / (variance**2).sum()
    known = [exactly(f"pc{i + 1}_share", _constant(share[i])) for i in range(3)]
    known += [
        exactly("shown_share", _constant(share[:3].sum())),
        exactly("outside", at_layer(outside)),
    ]
    known += [exactly("effective_dimension", _constant(effective))]
    for i, feature in enumerate(order):
        places = sizes[:, feature, None] * signs[:, feature]
        known.append(exactly(f"pc{i + 1}", at_both(places)))
    return Trial(features(), [rows_known(TOKENS * 4), *known])


def similarity_features() -> Trial:
    """`layer_similarity` on `features`: CKA of diagonal kernels, in closed form."""
    squares = feature_sizes() ** 2
    cross, trace, n = squares @ squares.T, squares.sum(axis=1), TOKENS
    # The U-statistic of Song et al. (2012); rows of these kernels sum to 0, their diagonal is Σw².
    product = np.outer(trace, trace)
    u = n**2 * cross - n * product + n**2 * product / ((n - 1) * (n - 2))
    u -= 2 * n * product / (n - 2)
    known = {
        "cka": u / np.sqrt(np.outer(u.diagonal(), u.diagonal())),
        "cka_biased": cross / np.sqrt(np.outer(cross.diagonal(), cross.diagonal())),
        "null_mean": product / (n - 1) / np.sqrt(np.outer(cross.diagonal(), cross.diagonal())),
        "tokens": np.full((4, 4), float(n)),
    }

    def of_pair(values: Matrix) -> Any:
        return lambda rows: values[rows["layer_a"].to_numpy(int), rows["layer_b"].to_numpy(int)]

    # Products of four entries, and the debiased form subtracts numbers of the size of its result.
    columns = _columns({name: of_pair(x) for name, x in known.items()}, 256)
    return Trial(features(), [rows_known(4 * 4), *columns])


@cache
def rotated() -> Phantom:
    """Every block turns the whole stream by a random orthogonal matrix."""
    embed = np.zeros((TOKENS, 8))
    embed[:, :6] = WEIGHTS * hadamard(TOKENS)[:, 1:7]
    turns = [ortho_group.rvs(8, random_state=i) for i in range(3)]
    return Phantom(
        "rotated",
        "Every block turns the whole stream by an orthogonal matrix: any two layers have CKA 1.",
        lambda: hand_set("rotated", embed, [mapped(turn) for turn in turns]),
        PROMPTS,
    )


def similarity_rotated() -> Trial:
    """`layer_similarity` on `rotated`."""
    known = {"cka": _constant(1.0), "cka_biased": _constant(1.0)}
    return Trial(rotated(), _columns(known, 3 * 3 * 8 * 4))


def rotated_pair() -> tuple[Any, Any]:
    """Two models, the second the first with all its states turned by one orthogonal matrix.

    Embedding, blocks and unembedding of the second are those of the first in the other basis, so
    that both predict the same.
    """
    random = np.random.default_rng(1)
    embed = random.standard_normal((48, 8)) * np.arange(1, 9)
    unembed = random.standard_normal((8, 48))
    maps = [np.eye(8) + 0.3 * random.standard_normal((8, 8)) for _ in range(2)]
    turn = ortho_group.rvs(8, random_state=2)
    first = hand_set("first", embed, [mapped(m) for m in maps], unembed=unembed)
    turned = [mapped(turn.T @ m @ turn) for m in maps]
    return first, hand_set("second", embed @ turn, turned, unembed=turn.T @ unembed)


# ---- a massive dimension -----------------------------------------------------------------------

PLANTED, MASSIVE, SHRINK = 5, 2048.0, 2.0**-11


@cache
def massive() -> Phantom:
    """One token has a huge entry in one dimension, which the second block takes away."""
    embed = np.where(np.random.default_rng(3).random((TOKENS, 8)) < 0.5, -1.0, 1.0)
    embed[PLANTED, 3] = MASSIVE
    shrink = np.eye(8)
    shrink[3, 3] = SHRINK
    return Phantom(
        "massive dimension",
        "All entries are ±1 but dimension 3 of one token, which is 2048 until the second block "
        "brings it down to 1.",
        lambda: hand_set(
            "massive dimension", embed, [BlockWeights(), mapped(shrink), BlockWeights()]
        ),
        PROMPTS,
    )


def third_entry() -> Matrix:
    """|x_3| at states 0 … 3: `[state, token]`."""
    first = np.where(np.arange(TOKENS) == PLANTED, MASSIVE, 1.0)
    return np.stack([first, first, first * SHRINK, first * SHRINK])


def norm_massive() -> Trial:
    """`norm` on `massive`."""
    return Trial(massive(), [exactly("norm", at_both(np.sqrt(7 + third_entry()[1:] ** 2)))])


TRIALS: dict[str, Sequence[Any]] = {
    "norm": (norm_straight, norm_massive),
    "rotation": (rotation_turning, rotation_straight, rotation_right_angles, rotation_walk),
    "path_length": (path_straight, path_right_angles, path_walk),
    "trajectory": (trajectory_straight, trajectory_features),
    "random_pairs": (pairs_cone,),
    "layer_similarity": (similarity_features, similarity_rotated),
}
