"""The ways that are timed: functions without arguments that do the work of one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.path_length import PathLength
from analyses.rotation import Rotation
from interp.models.lens.head import Head
from interp.models.lens.statistics import lens_statistics

Way = Callable[[], object]

FORWARD = "bridge forward with logits"
ATTACHED = "rotation + path_length attached"
GEOMETRY = "run: rotation + path_length"
ATTENTION = "run: attention statistics"
PATTERNS = "run: attention patterns read, nothing computed"
LENS = "lens, all statistics"
BASIC = "lens, log-prob, rank, entropy, top-1"
LENS_RUN = "run: logit_lens"
DEFAULT_RUN = "run: the default analyses"
PRODUCTS = "matrix products alone"
CACHE = "run_with_cache, then NumPy"
THEIRS = "TransformerLens logit_lens"
HIDDEN = "Hugging Face output_hidden_states"

BLOCKS = ((512, 1024), (512, 2048), (512, 8192), (1 << 30, 1 << 30))
"""Rows and columns of the products that are tried; the fastest counts."""


class FirstKey(interp.Analysis):
    """Attention on the first key: reads every pattern and computes nothing."""

    sites = ("pattern",)
    columns: ClassVar[Mapping[str, str]] = {"first": "attention on the first key"}

    def observe(self, batch: interp.Batch) -> dict[str, interp.PerHead]:
        return {"first": interp.PerHead(batch["pattern"][..., 0])}


def ways(model: Any, tokens: Tensor, *, lens: bool = True) -> dict[str, Way]:
    """Every way by its name, for one batch of `tokens [batch, pos]`."""
    options = {"progress": False, "max_tokens": 1 << 30}
    geometry = [Rotation, PathLength]  # classes: entry points are looked up once per session
    interp.inspect(model)  # its probe is kept; it is no part of a batch's work

    def attached() -> None:
        with interp.attach(model, *geometry):
            model(tokens)

    out: dict[str, Way] = {
        FORWARD: lambda: model(tokens),
        ATTACHED: attached,
        GEOMETRY: lambda: interp.run(model, tokens, geometry, **options),
        ATTENTION: lambda: interp.run(model, tokens, Attention(maps=0), **options),
        PATTERNS: lambda: interp.run(model, tokens, FirstKey, **options),
        CACHE: lambda: _cached_geometry(model, tokens),
        HIDDEN: lambda: model.original_model(tokens, output_hidden_states=True),
    }
    return out | (_lens_ways(model, tokens, options) if lens else {})


def _cached_geometry(model: Any, tokens: Tensor) -> dict[str, Any]:
    """Rotation, steps and norms computed by hand: a cache of all activations, then NumPy."""
    _, cache = model.run_with_cache(tokens)
    layers = model.cfg.n_layers
    names = [f"blocks.{i}.hook_resid_pre" for i in range(layers)]
    states = [cache[name] for name in (*names, f"blocks.{layers - 1}.hook_resid_post")]
    x = torch.stack(states).float().cpu().numpy()
    step, norm = np.diff(x, axis=0), np.linalg.norm(x, axis=-1)
    cosine = (x[1:] * x[:-1]).sum(-1) / (norm[1:] * norm[:-1])
    angle = np.degrees(np.arccos(cosine.clip(-1, 1)))
    length = np.linalg.norm(step, axis=-1)
    return {"angle": angle, "step": length, "path": length.cumsum(0), "norm": norm}


def stream_of(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """States `[state, row, d_model]` and logits `[row, vocab]` of a batch."""
    layers = model.cfg.n_layers
    names = [f"blocks.{i}.hook_resid_pre" for i in range(layers)]
    names.append(f"blocks.{layers - 1}.hook_resid_post")
    logits, cache = model.run_with_cache(tokens, names_filter=names)
    return torch.stack([cache[n].flatten(0, 1) for n in names]), logits.flatten(0, 1)


def _lens_ways(model: Any, tokens: Tensor, options: dict[str, Any]) -> dict[str, Way]:
    from transformer_lens.tools.analysis import logit_lens

    readout = interp.inspect(model).readout
    stream, logits = stream_of(model, tokens)
    follow = torch.roll(tokens, -1, 1)
    targets = follow.flatten()
    h = readout.normalise(stream[:-1])
    head = Head(readout.weight, readout.bias)
    flat = h.flatten(0, 1)
    names = [f"blocks.{i}.hook_resid_pre" for i in range(model.cfg.n_layers)]
    names.append(f"blocks.{model.cfg.n_layers - 1}.hook_resid_post")
    _, cache = model.run_with_cache(tokens, names_filter=names)
    products = {
        f"{PRODUCTS}, blocks of {_size(rows)} × {_size(columns)}": _product(
            flat, readout.weight, rows, columns
        )
        for rows, columns in BLOCKS
        if min(rows, len(flat)) * min(columns, len(readout.weight)) * 4 < 2**30
    }
    return products | {
        LENS: lambda: readout.lens(stream, logits, targets),
        BASIC: lambda: lens_statistics(h, head, logits, targets, divergences=False),
        LENS_RUN: lambda: interp.run(model, tokens, LogitLens(), **options),
        DEFAULT_RUN: lambda: interp.run(model, tokens, **options),
        THEIRS: lambda: logit_lens(
            model, cache=cache, positions=None, targets=follow, return_type="log_probs"
        ),
    }


def _size(n: int) -> str:
    return "all" if n >= 1 << 30 else str(n)


def _product(h: Tensor, weight: Tensor, rows: int, columns: int) -> Way:
    """`h @ weight.T` in blocks, each written to the same buffer."""
    rows, columns = min(rows, len(h)), min(columns, len(weight))
    # One buffer, because the allocation of a result is no part of the product.
    room = h.new_empty(rows * columns)

    def multiply() -> None:
        for i in range(0, len(h), rows):
            part = h[i : i + rows]
            for j in range(0, len(weight), columns):
                block = weight[j : j + columns]
                out = room[: len(part) * len(block)].view(len(part), -1)
                torch.mm(part, block.T, out=out)

    return multiply
