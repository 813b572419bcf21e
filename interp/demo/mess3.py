"""The hidden Markov process Mess3: its sequences and the exact beliefs of an observer.

Three hidden states and three letters. An observer who knows the process and has read some letters
holds a belief: the probability of each hidden state. Bayes' rule gives it exactly, so that what a
model of the sequences ought to know is known here in closed form.

Sources: Marzen & Crutchfield, "Nearly maximally predictive features and their dimensions" (2017),
for the process; Shai et al., "Transformers represent belief state geometry in their residual
stream" (2405.15943), for the question.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LETTERS = ("A", "B", "C")
START = "<|endoftext|>"
END = len(LETTERS)
"""Id of `START`, which stands in front of every sequence."""
LENGTH = 10
"""Letters of a sequence, as in Shai et al."""
ALPHA, STAY = 0.85, 0.05
"""How much a letter tells of the state, and the probability of each change of state."""

Floats = NDArray[np.float64]


def transitions(alpha: float = ALPHA, x: float = STAY) -> Floats:
    """T[o, i, j] = P(letter o, next state j | state i): `[3, 3, 3]`.

    The next state is another one with probability x each; the letter is that of the next state
    with probability α, either other letter with (1 − α)/2.

    >>> transitions().sum(axis=(0, 2)).round(12).tolist()
    [1.0, 1.0, 1.0]
    """
    moves = np.full((3, 3), x) + (1 - 3 * x) * np.eye(3)
    letters = np.full((3, 3), (1 - alpha) / 2) + (alpha - (1 - alpha) / 2) * np.eye(3)
    # [i, j] · [j, o], the letter first.
    joint: Floats = np.einsum("ij,jo->oij", moves, letters)
    return joint


def beliefs(letters: NDArray[np.int64], matrices: Floats | None = None) -> Floats:
    """P(state | letters read so far): letters `[row, n] -> [row, n + 1, 3]`, the prior first.

    Bayes' rule: b ↦ b T[o] / (b T[o] 1). The prior is the stationary distribution, 1/3 each.
    """
    matrices = transitions() if matrices is None else matrices
    out = np.empty((len(letters), letters.shape[1] + 1, 3))
    out[:, 0] = 1 / 3
    for i in range(letters.shape[1]):
        joint = np.einsum("ri,rij->rj", out[:, i], matrices[letters[:, i]])
        out[:, i + 1] = joint / joint.sum(axis=1, keepdims=True)
    return out


def next_letter(belief: Floats, matrices: Floats | None = None) -> Floats:
    """P(next letter | belief): `[..., 3] -> [..., 3]`, which no model can better."""
    matrices = transitions() if matrices is None else matrices
    chances: Floats = belief @ matrices.sum(axis=2).T
    return chances


def sequences(rows: int, length: int, seed: int) -> NDArray[np.int64]:
    """Letters `[rows, length]` drawn from the process in its stationary state."""
    random, table = np.random.default_rng(seed), transitions()
    # From state i: the nine pairs (letter, next state) and their cumulative probabilities.
    bounds = table.transpose(1, 0, 2).reshape(3, 9).cumsum(axis=1)
    state = random.integers(3, size=rows)
    out = np.empty((rows, length), dtype=np.int64)
    for i in range(length):
        pair = (random.random(rows)[:, None] > bounds[state]).sum(axis=1).clip(max=8)
        out[:, i], state = pair // 3, pair % 3
    return out


def tokens(letters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Token ids `[row, n + 1]` of letters `[row, n]`: `START` in front."""
    return np.concatenate([np.full((len(letters), 1), END), letters], axis=1)
