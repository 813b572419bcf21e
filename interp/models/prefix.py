"""Passes of one batch under different hooks, of which only the later tokens differ.

In a causal model a late edit cannot change earlier tokens, so their keys and values are computed
once. Knows hooks as pairs of name and function, nothing of what they do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp.contract.tokens import Tokens
from interp.geometry import at_least_float32
from interp.models.forward import device_of

Hooks = Sequence[tuple[str, Callable[..., Tensor | None]]]


def run_hooked(model: Any, batch: Tokens, hooks: Hooks) -> Tensor:
    """Logits `[batch, pos, vocab]` of one batch with these hooks on; they come off again."""
    out: Tensor = model.run_with_hooks(
        batch.tokens.to(device_of(model)),
        fwd_hooks=list(hooks),
        return_type="logits",
        **_mask(model, batch.mask),
    )
    return out


def run_watched(
    model: Any, batch: Tokens, names: Sequence[str], keep: Tensor, hooks: Hooks = ()
) -> tuple[Tensor, list[Tensor]]:
    """Logits of one batch, and the activations `[n, d]` of some tokens at hooks of these names.

    Args:
        keep: bool `[batch, pos]`, the tokens.
        hooks: further hooks, which run before the activations are read.

    Nothing has a gradient; the activations are in float32 at least.
    """
    seen: dict[int, Tensor] = {}

    def watch(number: int, value: Tensor, hook: Any) -> None:  # noqa: ARG001
        seen[number] = at_least_float32(value[keep.to(value.device)].detach())

    watchers = [(name, partial(watch, i)) for i, name in enumerate(names)]
    with torch.no_grad():
        logits = run_hooked(model, batch, [*hooks, *watchers])
    return logits, [seen[i] for i in range(len(names))]


def _mask(model: Any, mask: Tensor) -> dict[str, Tensor]:
    """The attention mask as an argument of the call, where there is padding."""
    return {} if bool(mask.all()) else {"attention_mask": mask.long().to(device_of(model))}


class PrefixReuse:
    """Logits of one batch, as often as asked for, from column `first` on.

    The pass without hooks measures whether the model continues correctly from the keys and values
    of earlier columns. Where it does not (attention in both directions, recurrent states),
    `first` is 0 and every pass is a whole one.

    Args:
        touched: bool `[batch, pos]`, tokens that some hook changes or someone reads.
        tolerance: relative difference of logits that counts as rounding.
    """

    def __init__(self, model: Any, batch: Tokens, touched: Tensor, tolerance: float) -> None:
        self.model, self.batch, self.first = model, batch, 0
        self._cache: Any = None
        start = int(touched.any(dim=0).int().argmax())
        if start > 0 and not self._goes_on(start, tolerance):
            self.first, self._cache = 0, None

    def _goes_on(self, start: int, tolerance: float) -> bool:
        whole = run_hooked(self.model, self.batch, [])[:, start:]
        try:
            _, self._cache = self.model(
                self.batch.tokens[:, :start].to(whole.device),
                return_type="logits_and_cache",
                **_mask(self.model, self.batch.mask[:, :start]),
            )
            self.first = start
            later = self.logits([])
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError):
            return False  # each architecture refuses in its own way what it cannot do
        real = self.batch.mask[:, start:].to(whole.device)
        if self._cache is None or later.shape != whole.shape:
            return False
        error = (later - whole)[real].double().norm() / whole[real].double().norm()
        return bool(error <= tolerance)

    def logits(self, hooks: Hooks) -> Tensor:
        """Logits `[batch, pos − first, vocab]` with these hooks on; they come off again."""
        if self.first == 0:
            return run_hooked(self.model, self.batch, hooks)
        out: Tensor = self.model.run_with_hooks(
            self.batch.tokens[:, self.first :].to(device_of(self.model)),
            fwd_hooks=list(hooks),
            return_type="logits",
            past_key_values=copy.deepcopy(self._cache),  # a pass appends its own
            **_mask(self.model, self.batch.mask),
        )
        return out
