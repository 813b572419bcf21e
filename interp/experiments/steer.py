"""Steering as one question: along a direction that tokens or prompts name, at chosen states."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from interp.errors import BadInput
from interp.experiments.dose_response import DoseResponse, dose_response
from interp.experiments.steering import (
    Kind,
    Layers,
    Positions,
    mean_difference,
    unembedding_difference,
)
from interp.models.for_model import prompts_of
from interp.models.probe import inspect
from interp.prompts.labels import target_word


def steer(
    model: Any,
    prompts: Any,
    *,
    targets: str | tuple[str, str],
    layers: Layers,
    toward: str | None = None,
    away: str | None = None,
    contrast: tuple[Any, Any] | None = None,
    kind: Kind = "add",
    doses: Sequence[float] | None = None,
    positions: Positions = "all",
    read: Positions = "last",
    target: str | None = None,
    prepend_bos: bool | None = None,
    controls: int = 19,
    seed: int = 0,
    progress: bool = True,
) -> DoseResponse:
    """Steer the stream and measure a prediction by dose, beside random directions.

    Args:
        model: a bridge.
        prompts: as for `run`.
        targets: a token, or two by a comma (" her, his" keeps leading spaces): their logit
            difference is measured.
        layers: states that are steered, or all.
        toward: steer along W_U of this token, less that of `away`.
        away: see `toward`.
        contrast: two sets of prompts: steer along their mean difference.
        kind: add, project or rotate.
        doses: numbers; sensible ones for the kind unless given.
        positions: tokens that are steered: all, last, or a label such as role=target.
        read: tokens whose prediction is read; likewise.
        target: a word whose tokens get the role target.
        prepend_bos: the model's own policy unless given.
        controls: random directions of the same size.
        seed: of everything random.
        progress: show a bar.

    Returns what `dose_response` returns. Raises `BadInput` unless one direction is named.
    """
    _check_direction(toward, away, contrast, layers)
    anatomy = inspect(model)
    read_in = partial(prompts_of, model, anatomy, prepend_bos=prepend_bos)
    prompts = read_in(prompts)
    if target is not None:
        prompts = prompts.label(target_word(target))
    if contrast is not None:
        direction = mean_difference(model, *map(read_in, contrast), layers[0])  # type: ignore[index]
    else:
        direction = unembedding_difference(model, toward, away)
    return dose_response(
        model,
        prompts,
        direction,
        kind=kind,
        doses=doses or None,
        layers=layers,
        positions=positions,
        targets=targets,
        read=read,
        controls=controls,
        seed=seed,
        progress=progress,
    )


def _check_direction(
    toward: str | None, away: str | None, contrast: tuple[Any, Any] | None, layers: Layers
) -> None:
    """Refuse no direction, two directions, half of one, or prompts compared at several states."""
    if (contrast is None) == (toward is None):
        raise BadInput("say along what to steer: --toward TOKEN --away TOKEN, or --contrast A B")
    if contrast is None and away is None:
        raise BadInput("--toward needs --away: the direction is the difference of two tokens")
    if contrast is not None and (isinstance(layers, str | int) or len(layers) != 1):
        raise BadInput("--contrast takes the difference at one state: name one in --layers")
