"""A lens by other means, on the same model and tokens: log-prob, rank, entropy and top token.

Each way begins with the tokens and makes its own forward pass, as `interp.run` does. What it does
not give is said in `LACKS`; packages that are not installed, or do not run here, are left out and
named with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.shapes import Shape, plain
from benchmarks.ways import Way

HIDDEN_NUMPY = "output_hidden_states, then a lens in NumPy"
CACHE_NUMPY = "run_with_cache, then a lens in NumPy"
NNSIGHT = "nnsight trace, then a lens in PyTorch"
TUNED = "tuned-lens LogitLens, then statistics in PyTorch"

BY_HAND = "divergences, labels, tables, figures; no check that the readout is the model's own"
LACKS = {
    HIDDEN_NUMPY: f"{BY_HAND}; states inside blocks",
    CACHE_NUMPY: f"{BY_HAND}; keeps what the filter names until the end",
    NNSIGHT: f"{BY_HAND}; the final norm and head have to be found by hand for each family",
    TUNED: f"{BY_HAND}; a few families only; no soft cap",
}


def peers(
    shape: Shape, model: Any, tokens: Tensor, dtype: torch.dtype
) -> tuple[dict[str, Way], dict[str, str]]:
    """Ways by name for one batch of `tokens [batch, pos]`, and why the others are absent.

    `model`: TransformerLens's; the others get a model with the same weights of their own.
    """
    inside = plain(shape, tokens.shape[1], dtype).to(tokens.device)
    follow = torch.roll(tokens, -1, 1).flatten()
    makers: dict[str, Callable[[], Way]] = {
        HIDDEN_NUMPY: lambda: lambda: _in_numpy(*_hidden(inside, tokens), inside, follow),
        CACHE_NUMPY: lambda: lambda: _in_numpy(*_cached(model, tokens), inside, follow),
        NNSIGHT: lambda: _nnsight(inside, tokens, follow),
        TUNED: lambda: _tuned(inside, tokens, follow),
    }
    found: dict[str, Way] = {}
    absent: dict[str, str] = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except Exception as error:  # noqa: BLE001 (another package can fail in any way)
            absent[name] = (str(error).strip() or type(error).__name__).splitlines()[0]
    return found, absent


def _parts(inside: Any) -> tuple[Any, Any]:
    """Blocks and final norm of a model of one of the two families."""
    if hasattr(inside, "transformer"):
        return inside.transformer.h, inside.transformer.ln_f
    return inside.model.layers, inside.model.norm


def _hidden(inside: Any, tokens: Tensor) -> tuple[list[Tensor], Tensor]:
    out = inside(tokens, output_hidden_states=True)
    return [x.flatten(0, 1) for x in out.hidden_states[:-1]], out.logits.flatten(0, 1)


def _cached(model: Any, tokens: Tensor) -> tuple[list[Tensor], Tensor]:
    names = [f"blocks.{i}.hook_resid_pre" for i in range(model.cfg.n_layers)]
    logits, cache = model.run_with_cache(tokens, names_filter=names)
    return [cache[name].flatten(0, 1) for name in names], logits.flatten(0, 1)


def _in_numpy(
    states: list[Tensor], logits: Tensor, inside: Any, targets: Tensor
) -> list[dict[str, np.ndarray]]:
    """The statistics of every state in NumPy; the norm is the model's own module."""
    _, norm = _parts(inside)
    weight, at = inside.lm_head.weight.float().cpu().numpy(), targets.cpu().numpy()
    rows = np.arange(len(at))

    def of(z: np.ndarray) -> dict[str, np.ndarray]:
        chosen = z[rows, at]
        rank = (z > chosen[:, None]).sum(-1)
        top = z.argmax(-1)
        z -= z.max(-1, keepdims=True)
        e = np.exp(z)
        mass = e.sum(-1)
        entropy = np.log(mass) - np.vecdot(e, z) / mass
        return {
            "log_prob": z[rows, at] - np.log(mass),
            "rank": rank,
            "entropy": entropy,
            "top": top,
        }

    out = [of(norm(x).float().cpu().numpy() @ weight.T) for x in states]
    return [*out, of(logits.float().cpu().numpy().copy())]


def _in_pytorch(logits: Iterator[Tensor], targets: Tensor) -> list[dict[str, Tensor]]:
    """The statistics of the logits of every state, as one would write them."""
    out = []
    for z in logits:
        log_p = z.float().log_softmax(-1)
        chosen = log_p.gather(-1, targets[:, None])
        out.append(
            {
                "log_prob": chosen[:, 0],
                "rank": (log_p > chosen).sum(-1),
                "entropy": -(log_p.exp() * log_p).sum(-1),
                "top": log_p.argmax(-1),
            }
        )
    return out


def _nnsight(inside: Any, tokens: Tensor, targets: Tensor) -> Way:
    import nnsight

    traced = nnsight.NNsight(inside)
    blocks, _ = _parts(traced)
    _, norm = _parts(inside)

    def way() -> list[dict[str, Tensor]]:
        with traced.trace(tokens):
            states = nnsight.save([block.input for block in blocks])
            logits = traced.lm_head.output.save()
        each = (inside.lm_head(norm(x.flatten(0, 1))) for x in states)
        return _in_pytorch((z for z in (*each, logits.flatten(0, 1))), targets)

    way()
    return way


def _tuned(inside: Any, tokens: Tensor, targets: Tensor) -> Way:
    from tuned_lens.nn.lenses import LogitLens

    lens = LogitLens.from_model(inside)

    def way() -> list[dict[str, Tensor]]:
        states, logits = _hidden(inside, tokens)
        each = (lens(x, i) for i, x in enumerate(states))
        return _in_pytorch((z for z in (*each, logits)), targets)

    way()
    return way
