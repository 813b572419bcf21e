"""A phantom: a model with its prompts of which something is known before anything is measured.

The word is that of medical imaging: an object of known shape that a scanner has to show as it is.
A `Trial` puts an analysis on a phantom and names the `Known` numbers that its table must hold; a
plug-in returns trials of its own from the classmethod `phantoms` of its analysis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from interp.errors import BadInput

UNIT = 2.0**-24
"""Largest relative error of one rounding to float32."""

Rows = Callable[[pd.DataFrame], npt.ArrayLike]


def rounding(size: float, operations: int) -> float:
    """Most that so many roundings to float32 move a number of this size.

    Higham, "Accuracy and Stability of Numerical Algorithms" (2002), §3.1: |error| ≤ k u / (1 − k u)
    of the size of the operands, u = 2⁻²⁴.

    >>> rounding(1.0, 1) == 2**-24 / (1 - 2**-24)
    True
    """
    return size * operations * UNIT / (1 - operations * UNIT)


def sampling(deviation: float, n: int, *, z: float = 5.0) -> float:
    """`z` standard errors of a mean of `n` independent values with this standard deviation.

    A right value is further away once in 1.7 million times for z = 5 (normal distribution).
    """
    return z * deviation / float(np.sqrt(n))


@dataclass(frozen=True, eq=False)
class Phantom:
    """A model whose geometry is known, and the prompts that show it.

    Attributes:
        name: one or two words.
        about: what is known, in a sentence.
        build: makes the model, anything that `interp.load_model` takes; called once.
        prompts: token ids, a row per prompt; rows may have different lengths.
    """

    name: str
    about: str
    build: Callable[[], Any]
    prompts: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def model(self) -> Any:
        """The model, built when it is first asked for."""
        return self.build()

    @property
    def tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of the prompts, padded on the right: `[prompt, pos]` each."""
        longest = max(map(len, self.prompts))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in self.prompts])
        lengths = torch.tensor([len(row) for row in self.prompts])
        return ids, torch.arange(longest) < lengths[:, None]

    @property
    def count(self) -> int:
        """Number of tokens in all prompts."""
        return sum(map(len, self.prompts))


@dataclass(frozen=True, eq=False)
class Known:
    """A column of an analysis' table of which the values are known.

    Attributes:
        column: its name, for the verdict.
        true: the known values: a number, or a function from rows of the table to one value per
            row. NaN means that the value must be NaN.
        tolerance: largest allowed distance; a number, or a function as `true`.
        why: where the tolerance comes from, in a few words.
        measured: function from rows to the measured values, where it is not the column itself.
        where: function from the table to a mask of the rows that count; all unless given.
        mean: compare the mean of the rows, for what is known on average only.
    """

    column: str
    true: float | Rows
    tolerance: float | Rows
    why: str = "rounding to float32"
    measured: Rows | None = None
    where: Callable[[pd.DataFrame], Any] | None = None
    mean: bool = False

    def verdict(self, frame: pd.DataFrame) -> dict[str, Any]:
        """True and measured value, the largest distance, and whether it is within the tolerance.

        Raises `BadInput` if the table has neither the column nor a way to measure it.
        """
        if self.measured is None and self.column not in frame:
            raise BadInput(f"the table has no column {self.column!r}")
        rows = frame if self.where is None else frame[np.asarray(self.where(frame), bool)]
        found = rows[self.column] if self.measured is None else self.measured(rows)
        measured = np.asarray(found, np.float64).reshape(-1)
        try:
            true, most = (_values(x, rows, len(measured)) for x in (self.true, self.tolerance))
        except (IndexError, KeyError):
            # A row of a layer, token or prompt that the phantom does not have.
            true = most = np.full(len(measured), np.nan)
            measured = np.where(np.isnan(measured), np.inf, measured)
        if self.mean:
            measured, true, most = (np.atleast_1d(x.mean()) for x in (measured, true, most))
        return {"column": self.column, **_compared(true, measured, most), "because": self.why}


def _values(given: float | Rows, rows: pd.DataFrame, n: int) -> npt.NDArray[np.float64]:
    value = given(rows) if callable(given) else given
    return np.broadcast_to(np.asarray(value, np.float64), (n,))


def _compared(true: Any, measured: Any, most: Any) -> dict[str, Any]:
    both = np.isnan(true) & np.isnan(measured)
    distance = np.where(both, 0.0, np.abs(measured - true))
    # A comparison with NaN is false: a number where none is defined is a fault, and the reverse.
    fits = both | (distance <= most)
    names, parts = ("true", "measured", "distance", "tolerance"), (true, measured, distance, most)
    if not len(true):  # nothing was measured where something is known
        return {"rows": 0, **dict.fromkeys(names, np.nan), "passed": False}
    with np.errstate(over="ignore", invalid="ignore"):
        share = np.where(both, -1.0, distance / np.maximum(most, np.finfo(float).tiny))
    worst = int(np.argmax(np.nan_to_num(share, nan=np.inf)))
    told = {name: float(part[worst]) for name, part in zip(names, parts, strict=True)}
    return {"rows": len(true), **told, "passed": bool(fits.all())}


def rows_known(n: int) -> Known:
    """The table must have so many rows: none lost, none of padding."""
    return Known("(rows)", n, 0, "a count", measured=lambda frame: [len(frame)])


@dataclass(frozen=True, eq=False)
class Trial:
    """An analysis on a phantom, and what its table must hold.

    Attributes:
        phantom: the model and its prompts.
        known: the columns with known values.
        parameters: of the analysis, where its defaults do not fit the phantom.
        options: of `interp.run`, such as ("against", 9) for what compares two answers.
    """

    phantom: Phantom
    known: Sequence[Known]
    parameters: tuple[tuple[str, Any], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def fitted(self, analysis: Any) -> Any:
        """The analysis with the trial's parameters."""
        return replace(analysis, **dict(self.parameters)) if self.parameters else analysis

    def judge(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A verdict per known column of a table that was measured on the phantom."""
        found = pd.DataFrame([known.verdict(frame) for known in self.known])
        return found.assign(phantom=self.phantom.name)
