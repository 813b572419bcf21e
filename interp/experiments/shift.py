"""Change of states and attention patterns when the same text stands at a later position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.errors import BadInput, Unsupported
from interp.experiments.score_split import read_one, run_once
from interp.geometry import angle, at_least_float32, norm
from interp.models.anatomy import Anatomy
from interp.models.forward import device_of
from interp.models.hooks import record
from interp.models.probe import inspect
from interp.prompts.prompts import Prompts
from interp.render.drawing import Drawing, line_rows
from interp.render.finding import Finding

COLUMNS = {
    "shift": "positions that the text was moved by; count",
    "layer": "number of the state, 0 … L; 0 enters the first block",
    "angle": "mean angle between a token's states at both places; degrees",
    "relative_change": "mean of ‖x′ − x‖ / ‖x‖ over the tokens; ratio",
    "between_tokens": "mean angle between different tokens of the text at that state: the control; "
    "degrees",
    "pattern_change": "total variation of the pattern of block `layer`, ½Σ|A′ − A| per query and "
    "head; 0 to 1, NaN at the last state",
    "even_change": "the same between the pattern and even attention: its scale",
}


@dataclass(frozen=True, eq=False, repr=False)
class Shift(Finding):
    """The same text at later positions: the answer of `shift_test`.

    Attributes:
        frame: a row per shift and state; columns as in `COLUMNS`.
    """

    name = "shift"
    question = "Does the model see the same text differently at another position?"
    columns = COLUMNS

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The largest angle of each shift, against that between different tokens."""
        most = self.frame.groupby("shift")["angle"].max()
        told = ", ".join(f"{angle:.3g}° by shift {shift}" for shift, angle in most.items())
        apart = self.frame["between_tokens"].mean()
        return (
            f"states turn by at most {told}; different tokens of the text are {apart:.3g}° apart "
            "on average"
        )

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """The angle per state for each shift, and between different tokens in grey."""
        lines = {f"shift {n}": _line(rows, "angle") for n, rows in self.frame.groupby("shift")}
        lines["different tokens"] = _line(self.frame.drop_duplicates("layer"), "between_tokens")
        drawing = Drawing(
            "lines",
            "The same text at later positions",
            line_rows(lines),
            "degrees",
            "state (0 enters the first block)",
            "Mean angle between the states of the shifted text and its own.",
            "Grey: mean angle between different tokens of the text.",
            "the lines would stay at 0: a purely relative encoding.",
            options={"greys": ("different tokens",)},
        )
        return {"Angle by shift": drawing}


def _line(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    return rows.rename(columns={"layer": "x", value: "mean"})[["x", "mean"]]


def shift_test(
    model: Any,
    prompt: str | Tensor | Prompts,
    shifts: Sequence[int] = (1, 8, 32),
    *,
    prepend_bos: bool | None = None,
) -> Shift:
    """Change of states and attention patterns when a text stands at later positions.

    Position ids are raised by each shift, nothing else changes. Relative encodings (rotary) give
    zero up to rounding. `.frame` has one row per `shift` and `layer` (state index 0 … L): `angle`
    (degrees) and `relative_change` (‖x′ − x‖/‖x‖), means over ordinary tokens; `between_tokens`,
    the control: the mean angle between different tokens of the text at that state; and for the
    pattern of block `layer` (NaN at the last state) `pattern_change`, the total variation per
    query and head ½Σ|A′ − A|, with its scale `even_change`, the same between the pattern and even
    attention.

    Args:
        model: a bridge.
        prompt: one text.
        shifts: numbers of positions to move the text by, 0 or more.
        prepend_bos: the model's own policy unless given.

    Raises `BadInput` for a shift beyond the learned positions, `Unsupported` for a model that
    takes no position ids or does not number them from 0.
    """
    anatomy, prompts = inspect(model), read_one(model, prompt, prepend_bos)
    if len(anatomy.stacks) > 1:
        raise Unsupported(f"{anatomy.model} has two stacks; the shift test is for one")
    n = len(prompts.tokens[0])
    _check_shifts(model, anatomy, n, shifts)
    base = _watched(model, anatomy, prompts, None)
    _check_zero(anatomy, base, _watched(model, anatomy, prompts, 0))
    rows = []
    for shift in shifts:
        moved = _watched(model, anatomy, prompts, shift)
        rows += [{"shift": shift, **row} for row in _changes(base, moved, prompts)]
    return Shift(pd.DataFrame(rows))


def _check_shifts(model: Any, anatomy: Anatomy, n: int, shifts: Sequence[int]) -> None:
    # A table of learned positions ends; rotary and relative positions go on.
    learned = getattr(model.cfg, "positional_embedding_type", None) == "standard"
    for shift in shifts:
        if shift < 0:
            raise BadInput(f"shift {shift} is negative; a text moves to later positions only")
        if learned and anatomy.n_ctx and n - 1 + shift >= anatomy.n_ctx:
            raise BadInput(
                f"a text of {n} tokens shifted by {shift} ends at position {n - 1 + shift}, beyond "
                f"the learned positions 0 … {anatomy.n_ctx - 1} of {anatomy.model}; the largest "
                f"shift of this text is {anatomy.n_ctx - n}"
            )


Watched = tuple[list[Tensor], list[Tensor | None]]


def _watched(model: Any, anatomy: Anatomy, prompts: Prompts, shift: int | None) -> Watched:
    """States `[pos, d]` and patterns `[head, q, k]` of one pass."""
    stack = anatomy.stacks[0]
    hooks = stack.sites.get("pattern", (None,) * stack.n_blocks)
    points = model.hook_dict
    options = {}
    if shift is not None:
        positions = torch.arange(len(prompts.tokens[0]), device=device_of(model)) + shift
        options["position_ids"] = positions[None]
    try:
        with record({n: points[n] for n in (*stack.boundaries, *hooks) if n}) as seen:
            run_once(model, prompts, **options)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise Unsupported(
            f"{anatomy.model} cannot be given position ids: {type(error).__name__}: {error}"
        ) from error
    states = [at_least_float32(seen[name][0][0]) for name in stack.boundaries]
    return states, [at_least_float32(seen[h][0][0]) if h and seen[h] else None for h in hooks]


def _check_zero(anatomy: Anatomy, base: Watched, again: Watched) -> None:
    """Refuse a model whose own position ids are not 0, 1, …: a shift would mean something else."""
    pairs = zip(base[0], again[0], strict=True)
    error = max(float(norm(a - b).max() / norm(a).max()) for a, b in pairs)
    if not error <= anatomy.tolerance:
        raise Unsupported(
            f"{anatomy.model} does not number positions from 0 (states differ by {error:.2g} when "
            "told to): a shift of its positions would mean something else"
        )


def _changes(base: Watched, moved: Watched, prompts: Prompts) -> list[dict[str, float]]:
    """One row per state."""
    usual = torch.from_numpy(~prompts.left_out[0])
    rows = []
    for layer, (x, y) in enumerate(zip(base[0], moved[0], strict=True)):
        x, y = x.cpu()[usual], y.cpu()[usual]
        pairs = angle(x[:, None], x[None])[~torch.eye(len(x), dtype=torch.bool, device=x.device)]
        row: dict[str, float] = {
            "layer": layer,
            "angle": float(angle(x, y).mean()),
            "relative_change": float((norm(y - x) / norm(x)).mean()),
            "between_tokens": float(pairs.mean()),
        }
        a, b = (p[1][layer] if layer < len(p[1]) else None for p in (base, moved))
        rows.append(row | _pattern_change(a, b, usual))
    return rows


def _pattern_change(a: Tensor | None, b: Tensor | None, usual: Tensor) -> dict[str, float]:
    if a is None or b is None:
        return {"pattern_change": np.nan, "even_change": np.nan}
    a, b = a.cpu(), b.cpu()
    allowed = (a > 0).any(0).float()
    even = allowed / allowed.sum(-1, keepdim=True).clamp(min=1)
    change, control = ((x - a).abs().sum(-1)[:, usual].mean() / 2 for x in (b, even))
    return {"pattern_change": float(change), "even_change": float(control)}
