"""The arithmetic of the lens on logits in float32, compiled by numba for the processor at hand.

Two walks over rows of logits z. `add_up` needs nothing but the logits: largest logit, Σe and Σe·x
with x = z − largest and e = exp(x), logits above the target. `compare` needs the whole Σe first: it
sums KL, JS and TV between p = softmax(z) and the final distribution q. Both work on a piece of a
row that fits into a core's first cache, in float32, and join pieces in float64 with the online
softmax of Milakov & Gimelshein 2018. `keep_best` finds the best tokens of the rows that are shown.

`exp` and `log` are polynomials on the bits of a float, after Cephes, so that the compiler works on
eight or sixteen numbers at once. Sums may be reordered (`SUM`), but NaN and infinity keep their
meaning: a NaN among the logits makes all sums of its row NaN, −∞ is a token of probability 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from interp.models.lens.head import FORBIDDEN as FORBIDDEN_

PIECE = 2048
"""Tokens of a row that are worked on at a time: three of them are 24 kB."""

FEW = 256
"""Tokens that are searched one by one if any of them is among the best so far."""

Real = np.float32
Row = NDArray[np.float32]
Table = NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])

F = np.float32
HALF, ZERO, ONE, FORBIDDEN = F(0.5), F(0), F(1), F(FORBIDDEN_)
LOG2_E = F(1.4426950408889634)
LN2_HIGH, LN2_LOW = F(0.693359375), F(-2.12194440e-4)  # their sum is ln 2 to 40 bits

FAINT = F(-87)
"""exp(x) is 0 below; the least normal float32 is exp(−87.3)."""

TINY = F(np.finfo(np.float32).tiny)
MANY = F(1.5 * 2**23)
"""A float of this size has no digits after the point, so that adding it rounds."""

MANY_BITS = np.int32(MANY.view(np.int32))
ROOT_HALF = np.int32(F(0.5**0.5).view(np.int32))
MANTISSA, MAGNITUDE = np.int32(0x7FFFFF), np.int32(0x7FFFFFFF)
LEAST = np.int32(-(2**31))

# Minimax polynomials: (2^f − 1)/f on [−½, ½], relative error 2e-9, and
# (ln(1 + f) − f + f²/2)/f³ on [√½ − 1, √2 − 1], relative error of the logarithm 6e-9.
E1, E2, E3 = F(0.69314718246), F(0.24022647738), F(0.05550332367)
E4, E5, E6 = F(0.00961843692), F(0.0013398875), F(0.00015353362)
L0, L1, L2, L3 = F(0.33333331347), F(-0.25000819564), F(0.20001226664), F(-0.16623356938)
L4, L5, L6, L7 = F(0.14201758802), F(-0.13160182536), F(0.12761574984), F(-0.07634492964)

EXACT = {"contract"}
SUM = {"contract", "reassoc", "nsz"}
"""Freedoms of the compiler. Never `nnan` or `ninf`, with which NaN and −∞ would be anything; and
never `reassoc` where a number is added and taken off again in order to round."""


class Sums(NamedTuple):
    """Sums of the first walk, `[row]` each.

    Attributes:
        top, best: the largest logit and the id of its token.
        mass, own: Σe and Σe·x, x = z − top.
        above: number of logits above the target's.
        found: the target's logit, as it stands in the row.
    """

    top: np.ndarray
    best: np.ndarray
    mass: np.ndarray
    own: np.ndarray
    above: np.ndarray
    found: np.ndarray


class Far(NamedTuple):
    """Sums of the second walk, `[row]` each: KL(q‖p), 2·JS and 2·TV."""

    kl: np.ndarray
    js: np.ndarray
    tv: np.ndarray


def compiled(freedoms: set[str]) -> Callable[[Function], Function]:
    """Compiles a function at its first call, without the interpreter's lock, and keeps the code.

    It is kept in NUMBA_CACHE_DIR, else beside this file, else in the user's cache.
    """

    def decorate(function: Function) -> Function:
        options = {"nogil": True, "fastmath": freedoms, "error_model": "numpy"}
        try:
            made: Function = njit(cache=True, **options)(function)
        except RuntimeError:  # none of these places can be written to
            made = njit(**options)(function)
        return made

    return decorate


@compiled(EXACT)
def exp(x: Real) -> Real:
    """e^x in float32 for x ≤ 88, relative error 1e-7 + 6e-8·|x|; 0 below −87."""
    t = x * LOG2_E
    n = t + MANY
    f = t - (n - MANY)
    power = (((((E6 * f + E5) * f + E4) * f + E3) * f + E2) * f + E1) * f + ONE
    # 2^n by its bits: the exponent of a float starts at bit 23 and counts from 127.
    scale = np.int32((F(n).view(np.int32) - MANY_BITS + 127) << 23).view(np.float32)
    return ZERO if x < FAINT else power * scale


@compiled(EXACT)
def log(x: Real) -> Real:
    """Natural logarithm in float32 of a normal x > 0, relative error 1e-7."""
    # x = 2^n (1 + f) with 1 + f between √½ and √2.
    bits = np.int32(F(x).view(np.int32) - ROOT_HALF)
    n = F(np.int32(bits >> 23))
    f = np.int32((bits & MANTISSA) + ROOT_HALF).view(np.float32) - ONE
    cube = ((((((L7 * f + L6) * f + L5) * f + L4) * f + L3) * f + L2) * f + L1) * f + L0
    square = f * f
    rest = square * f * cube - HALF * square
    return f + (rest + n * LN2_LOW) + n * LN2_HIGH


@compiled(EXACT)
def ordered(bits: np.int32) -> np.int32:
    """Bits of a float as an integer that is ordered as the floats are; its own inverse."""
    return np.int32(bits ^ ((bits >> 31) & MAGNITUDE))


@compiled(SUM)
def top_and_above(z: Row, target: Real) -> tuple[Real, Real]:
    """The largest of `z`, and how many are above `target`."""
    # Integers: the maximum of floats is compiled to single steps where NaN has to keep its meaning.
    top, above = LEAST, ZERO
    for j in range(len(z)):
        top = max(top, ordered(F(z[j]).view(np.int32)))
        above += ONE if z[j] > target else ZERO
    return np.int32(ordered(top)).view(np.float32), above


@compiled(SUM)
def mass_and_own(z: Row, top: Real) -> tuple[Real, Real]:
    """Σe and Σe·x of `z`, x = z − top."""
    mass, own = ZERO, ZERO
    for j in range(len(z)):
        x = z[j] - top
        x = FAINT - ONE if x < FAINT else x  # no −∞, which times 0 is NaN
        e = exp(x)
        mass += e
        own += e * x
    return mass, own


@compiled(EXACT)
def place(z: Row, value: Real) -> int:
    """The first place of `value` in `z`."""
    for j in range(len(z)):
        if z[j] == value:
            return j
    return 0


@compiled(EXACT)
def add_up(
    z: Table,
    first: int,
    start: int,
    stop: int,
    wanted: NDArray[np.int64],
    target: Row,
    sums: Sums,
) -> None:
    """Adds a block of logits to the sums of the first walk, for rows `start` to `stop`.

    Args:
        z: `[row, column]` in float32, contiguous.
        first: id of the first column's token.
        wanted, target: id of each row's target, and the logit to count from, `[row]`.
        sums: `Sums`, changed in place; `top` begins at `FORBIDDEN`, the others at 0.
    """
    for r in range(start, stop):
        if first <= wanted[r] < first + z.shape[1]:
            sums.found[r] = z[r, wanted[r] - first]
        for begin in range(0, z.shape[1], PIECE):
            piece = z[r][begin : begin + PIECE]
            top, above = top_and_above(piece, target[r])
            sums.above[r] += above
            if top > sums.top[r]:
                lower = np.float64(sums.top[r]) - np.float64(top)
                weight = np.exp(lower)
                sums.own[r] = weight * (sums.own[r] + lower * sums.mass[r])
                sums.mass[r] *= weight
                sums.best[r] = first + begin + place(piece, top)
                sums.top[r] = top
            mass, own = mass_and_own(piece, sums.top[r])
            sums.mass[r] += mass
            sums.own[r] += own


@compiled(EXACT)
def keep_best(
    z: Table,
    first: int,
    start: int,
    stop: int,
    rows: NDArray[np.int64],
    logits: Table,
    tokens: NDArray[np.int64],
) -> None:
    """Keeps the best tokens of a block of logits and those before it, for wanted rows.

    Args:
        z: `[row, column]` in float32, contiguous.
        first: id of the first column's token.
        start, stop: a range of the wanted rows.
        rows: their numbers in `z`.
        logits, tokens: the best so far, falling, `[wanted row, k]`, changed in place; of equal
            logits the first token stays.
    """
    last = logits.shape[1] - 1
    for r in range(start, stop):
        for begin in range(0, z.shape[1], FEW):
            piece = z[rows[r]][begin : begin + FEW]
            token = first + begin
            if token > last and top_and_above(piece, logits[r, last])[1] == 0:
                continue
            for j in range(len(piece)):
                if token + j > last and not piece[j] > logits[r, last]:
                    continue
                at = min(token + j, last)
                while at > 0 and logits[r, at - 1] < piece[j]:
                    logits[r, at], tokens[r, at] = logits[r, at - 1], tokens[r, at - 1]
                    at -= 1
                logits[r, at], tokens[r, at] = piece[j], token + j


@compiled(EXACT)
def log_prob(logit: Real, top: Real, log_mass: Real) -> Real:
    """Log-probability of a token."""
    # In this order: top + log_mass is a large number, and would be rounded as one.
    return ((FORBIDDEN if logit < FORBIDDEN else logit) - top) - log_mass


@compiled(SUM)
def normalise(z: Row, top: Real, log_mass: Real, log_q: Row, q: Row) -> None:
    """Writes ln q and q of the logits `z`."""
    for j in range(len(z)):
        log_q[j] = log_prob(z[j], top, log_mass)
        q[j] = exp(log_q[j])


@compiled(SUM)
def divergences(z: Row, top: Real, log_mass: Real, log_q: Row, q: Row) -> tuple[Real, Real, Real]:
    """Parts of KL(q‖p), 2·JS and 2·TV, of the logits `z` of p and the same tokens of q."""
    kl, js, tv = ZERO, ZERO, ZERO
    for j in range(len(z)):
        log_p = log_prob(z[j], top, log_mass)
        p = exp(log_p)
        middle = HALF * (p + q[j])
        log_middle = log(TINY if middle < TINY else middle)
        kl += q[j] * (log_q[j] - log_p)
        js += p * (log_p - log_middle) + q[j] * (log_q[j] - log_middle)
        tv += abs(p - q[j])
    return kl, js, tv


@compiled(EXACT)
def compare(
    z: Table,
    first: int,
    start: int,
    stop: int,
    own: tuple[Row, Row],
    final_z: Table,
    final: tuple[Row, Row],
    far: Far,
) -> None:
    """Adds a block of logits to the sums of the second walk, for rows `start` to `stop`.

    Args:
        z: `[row, column]` in float32, contiguous, rows of the same token next to each other.
        first: id of the first column's token.
        own, final: largest logit and ln Σe of each row, and of each token's final distribution.
        final_z: final logits `[token, vocab]`, float32, contiguous.
        far: `Far`, changed in place.
    """
    states = len(z) // len(final_z)
    log_q, q = np.empty(PIECE, np.float32), np.empty(PIECE, np.float32)
    for token in range(start // states, stop // states):
        for begin in range(0, z.shape[1], PIECE):
            n = min(PIECE, z.shape[1] - begin)
            ends = final_z[token][first + begin : first + begin + n]
            normalise(ends, final[0][token], final[1][token], log_q[:n], q[:n])
            for r in range(token * states, (token + 1) * states):
                piece = z[r][begin : begin + n]
                kl, js, tv = divergences(piece, own[0][r], own[1][r], log_q[:n], q[:n])
                far.kl[r] += kl
                far.js[r] += js
                far.tv[r] += tv
