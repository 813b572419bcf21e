"""A phantom: a model with its prompts of which something is known before anything is measured.

The word is that of medical imaging: an object of known shape that a scanner has to show as it is.
A `Trial` puts an analysis on a phantom and names the `Known` numbers that its table must hold; a
plug-in returns trials of its own from the classmethod `phantoms` of its analysis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from interp.errors import BadInput, nearest, unknown

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


def _is_id(token: object) -> bool:
    return isinstance(token, Integral) and not isinstance(token, bool)


def _listed(what: str, given: Any) -> Sequence[Any]:
    """The given sequence; raises `BadInput` for anything else."""
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        raise BadInput(f"{what} is {_short(given)}, not a list")
    return list(given)


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

    def __post_init__(self) -> None:
        """Raises `BadInput` for a model in place of a function, and for prompts that are no ids."""
        if not callable(self.build) or isinstance(self.build, torch.nn.Module):
            raise BadInput(
                f"Phantom.build is {type(self.build).__name__}; it is a function that makes the "
                "model: lambda: model"
            )
        for row in _listed("Phantom.prompts", self.prompts):
            if isinstance(row, str) or not isinstance(row, Iterable) or not all(map(_is_id, row)):
                raise BadInput(
                    f"Phantom.prompts holds {_short(row)}; it holds a row of token ids for each "
                    "prompt, such as ((0, 1, 2), (3, 4))"
                )

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

    def __post_init__(self) -> None:
        """Raises `BadInput` for a part of another kind, or a tolerance below 0 or NaN."""
        if not isinstance(self.column, str):
            raise BadInput(f"Known names a column, such as 'angle', not {self.column!r}")
        if self.true is None:
            raise BadInput(f"column {self.column!r}: `true` is None; it is a number or a function")
        for what in ("measured", "where"):
            given = getattr(self, what)
            if given is not None and not callable(given):
                raise BadInput(
                    f"column {self.column!r}: `{what}` is {given!r}; it is a function of the table"
                )
        # A NaN would call every row missed, whatever was measured.
        most = self.tolerance
        if not callable(most) and not (self._numbers("tolerance", most) >= 0).all():
            raise BadInput(f"column {self.column!r}: `tolerance` is {most!r}; allowed is 0 or more")

    def verdict(self, frame: pd.DataFrame) -> dict[str, Any]:
        """True and measured value, the largest distance, and whether it is within the tolerance.

        Raises `BadInput` if the table has neither the column nor a way to measure it, and for a
        function of `Known` that raises or that gives another number of values than there are rows.
        """
        if self.measured is None and self.column not in frame:
            names = ", ".join(map(str, frame))
            hint = nearest(self.column, map(str, frame))
            raise BadInput(f"the table has no column {self.column!r}{hint} (it has {names})")
        rows = frame if self.where is None else frame[self._chosen(frame)]
        found = rows[self.column] if self.measured is None else self._asked("measured", rows)
        measured = self._numbers("measured", found).reshape(-1)
        try:
            true, most = (self._values(what, rows, len(measured)) for what in ("true", "tolerance"))
        except (IndexError, KeyError):
            # A row of a layer, token or prompt that the phantom does not have.
            true = most = np.full(len(measured), np.nan)
            measured = np.where(np.isnan(measured), np.inf, measured)
        if self.mean:
            measured, true, most = (np.atleast_1d(x.mean()) for x in (measured, true, most))
        return {"column": self.column, **_compared(true, measured, most), "because": self.why}

    def _chosen(self, frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """The rows that count, as a mask."""
        # Comparisons with columns of pandas' own integers come as objects.
        mask = np.asarray(self._asked("where", frame))
        if mask.shape != (len(frame),) or mask.dtype.kind not in "bO":
            raise BadInput(
                f"column {self.column!r}: `where` gives {mask.dtype} of shape {mask.shape}; it "
                f"gives True or False for each of the {len(frame)} rows of the table"
            )
        return mask.astype(bool)

    def _values(self, what: str, rows: pd.DataFrame, n: int) -> npt.NDArray[np.float64]:
        """One number per measured value, of `true` or `tolerance`."""
        values = self._numbers(what, self._asked(what, rows))
        if values.ndim > 1 or values.size not in (1, n):
            raise BadInput(
                f"column {self.column!r}: `{what}` gives {values.size} values for {n} rows of the "
                "table; it gives one number, or one for each row"
            )
        return np.broadcast_to(values, (n,))

    def _numbers(self, what: str, given: Any) -> npt.NDArray[np.float64]:
        try:
            return np.asarray(given, np.float64)
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"column {self.column!r}: `{what}` gives no numbers ({error}): {_short(given)}"
            ) from error

    def _asked(self, what: str, rows: pd.DataFrame) -> Any:
        """A part as it is, or what its function gives for these rows."""
        given = getattr(self, what)
        if not callable(given):
            return given
        try:
            return given(rows)
        except (IndexError, KeyError) as error:
            if what in ("true", "tolerance") and not _asks_for_a_column(error, rows):
                raise
            raise BadInput(self._raised(what, error)) from error
        except Exception as error:
            raise BadInput(self._raised(what, error)) from error

    def _raised(self, what: str, error: Exception) -> str:
        """The author's exception with the part of `Known` that raised it and its line."""
        code = getattr(getattr(self, what), "__code__", None)
        where = f" ({Path(code.co_filename).name}, line {code.co_firstlineno})" if code else ""
        return f"column {self.column!r}: `{what}` raised {type(error).__name__}: {error}{where}"


def _asks_for_a_column(error: Exception, rows: pd.DataFrame) -> bool:
    """Whether pandas raised it for a column that the table does not have."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    inside = "" if trace is None else trace.tb_frame.f_code.co_filename
    name = error.args[0] if error.args else None
    return isinstance(name, str) and "pandas" in inside and name not in rows


def _short(given: Any) -> str:
    text = repr(given)
    return text if len(text) < 80 else f"{text[:77]}…"


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

    def __post_init__(self) -> None:
        """Raises `BadInput` for a part of another kind, with what it is to be."""
        if not isinstance(self.phantom, Phantom):
            raise BadInput(f"Trial.phantom is {_short(self.phantom)}, not an interp.Phantom")
        if isinstance(self.known, Known):
            raise BadInput("Trial.known is one Known, not a list of them: write [Known(…)]")
        wrong = [k for k in _listed("Trial.known", self.known) if not isinstance(k, Known)]
        if wrong or not self.known:
            seen = f"holds {_short(wrong[0])}" if wrong else "is empty"
            raise BadInput(f"Trial.known {seen}; it is a list of interp.Known, one for each column")
        for what in ("parameters", "options"):
            try:
                dict(getattr(self, what))
            except (TypeError, ValueError):
                raise BadInput(
                    f"Trial.{what} is {_short(getattr(self, what))}; it is pairs such as "
                    "(('fit_first', 1),)"
                ) from None

    def fitted(self, analysis: Any) -> Any:
        """The analysis with the trial's parameters; raises `UnknownName` for one that it lacks."""
        given = dict(self.parameters)
        for name in given:
            if name not in analysis.__dataclass_fields__:
                fields = [f for f in analysis.__dataclass_fields__ if f != "without_dims"]
                raise unknown(f"parameter of {analysis.name()} in Trial.parameters", name, fields)
        return replace(analysis, **given) if given else analysis

    def judge(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A verdict per known column of a table that was measured on the phantom."""
        found = pd.DataFrame([known.verdict(frame) for known in self.known])
        return found.assign(phantom=self.phantom.name)
