"""Texts and passes that tests of steering share."""

from __future__ import annotations

import torch

import interp

TEXTS = ["the man saw her in a red house", "a queen told her", "the dog met him on the old road ."]

KINDS = {"add": 1.5, "project": 1.0, "rotate": 25.0}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logits(model, tokens, steer=None, **options):
    hooks = steer.hooks(model, **options) if steer else []
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=hooks)


def states(model, tokens, hooks=()):
    """x_0 … x_L of a pass that carries these hooks, seen behind them."""
    names = interp.inspect(model).stacks[0].boundaries
    seen = {}

    def keep(value, hook, name):
        seen[name] = value.detach().clone()

    watchers = [(n, lambda v, hook, n=n: keep(v, hook, n)) for n in names]
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[*hooks, *watchers])
    return [seen[n] for n in names]


# ---- hooks -----------------------------------------------------------------------------------


def continues(model) -> bool:
    """Whether the installed bridge goes on rightly from a KV cache."""
    return interp.inspect(model).continuation.broken(1) is None
