"""Steering experiment: a direction named by tokens or prompts, at chosen states, by dose."""

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
    """Steer the stream and measure a prediction by dose, against random directions.

    Args:
        model: a bridge.
        prompts: as for `run`.
        targets: the token whose log-probability is measured, or two tokens whose logit difference
            is; leading spaces count, as in " her, his". In Python, two tokens are a tuple.
        layers: numbers of the states to steer (0 enters the first block), or all.
        toward: steer toward this token: along its row of W_U minus that of the token `away`.
        away: the token to steer away from.
        contrast: steer along the difference between the mean states of two sets of prompts.
        kind: kind of steering: add (a multiple of the vector), project (take a part of it out) or
            rotate (by degrees toward it).
        doses: multiples of the vector, parts from 0 to 1, or degrees; by default a range that
            suits the kind.
        positions: tokens to steer: all, last, positions such as 3,4, or a label such as
            role=target.
        read: tokens whose prediction is measured, in the same form.
        target: a word: its tokens get the label role=target.
        prepend_bos: the model's own policy unless given.
        controls: number of random directions of the same norm.
        seed: seed of the random directions.
        progress: show a bar.

    Returns the finding of `dose_response`. Raises `BadInput` unless one direction is named.
    """
    _check_direction(toward, away, contrast, layers)
    anatomy = inspect(model)
    read_in = partial(prompts_of, model, anatomy, prepend_bos=prepend_bos)
    prompts = read_in(prompts)
    if target is not None:
        prompts = prompts.label(target_word(target))
    if contrast is not None:
        a, b = (read_in(prompts) for prompts in contrast)
        layer = layers if isinstance(layers, int) else int(layers[0])
        direction = mean_difference(model, a, b, layer)
    else:
        direction = unembedding_difference(model, str(toward), str(away))
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
        raise BadInput(
            "name one direction: two tokens (toward and away; --toward TOKEN --away TOKEN) or two "
            "sets of prompts (contrast; --contrast A B)"
        )
    if contrast is None and away is None:
        raise BadInput(
            "toward needs away (--away TOKEN): the direction is the difference of two tokens"
        )
    several = isinstance(layers, str) or (not isinstance(layers, int) and len(layers) != 1)
    if contrast is not None and several:
        raise BadInput(
            "contrast takes the difference of the means at one state: name one in layers "
            "(--layers 3)"
        )
