"""Bridges with weights set by hand: a linear stream that blocks move exactly as they are told.

The model is TransformerLens's own (`boot_native`). Without norms a block adds a linear function of
the stream to it; with norms, weights of zero and biases add the same vector to every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """An attention head: score of a query and a key is (x_q Q)·(x_k K), its output x_k V O.

    `query`, `key` are `[d_model, k]`; `value [d_model, k]` and `out [k, d_model]` are zero unless
    given.
    """

    query: Matrix
    key: Matrix
    value: Matrix | None = None
    out: Matrix | None = None


@dataclass(frozen=True, eq=False)
class MlpWeights:
    """An MLP: relu(x inner + threshold) outer + bias."""

    inner: Matrix
    outer: Matrix
    threshold: Matrix | float = 0.0


@dataclass(frozen=True, eq=False)
class BlockWeights:
    """What one block adds: heads, a vector by attention, an MLP, a vector by the MLP."""

    heads: Sequence[HeadWeights] = ()
    attn: Matrix | float = 0.0
    mlp: MlpWeights | None = None
    bias: Matrix | float = 0.0


def linear(matrix: Matrix) -> MlpWeights:
    """An MLP that adds x·matrix: relu(z) − relu(−z) = z."""
    eye = np.eye(matrix.shape[1])
    return MlpWeights(np.hstack([matrix, -matrix]), np.vstack([eye, -eye]))


def mapped(matrix: Matrix) -> BlockWeights:
    """A block that maps x to x·matrix."""
    return BlockWeights(mlp=linear(matrix - np.eye(len(matrix))))


def hand_set(
    name: str,
    embed: Matrix,
    blocks: Sequence[BlockWeights],
    *,
    positions: Matrix | None = None,
    unembed: Matrix | None = None,
    norm: str | None = None,
    context: int = 32,
) -> Any:
    """A bridge in eval mode with these weights.

    Args:
        embed: `[vocabulary, d_model]`.
        blocks: with as many heads each.
        positions: `[context, d_model]`; zero unless given.
        unembed: `[d_model, vocabulary]`; `embed` transposed unless given.
        norm: "LN" puts a LayerNorm before attention, MLP and unembedding, None leaves norms out.
        context: longest prompt, where `positions` does not say it.
    """
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    vocabulary, width = embed.shape
    config = TransformerBridgeConfig(
        d_model=width,
        d_head=max((h.query.shape[1] for b in blocks for h in b.heads), default=4),
        n_heads=max(1, *(len(block.heads) for block in blocks)),
        n_layers=len(blocks),
        n_ctx=context if positions is None else len(positions),
        d_vocab=vocabulary,
        d_mlp=max(4, *(b.mlp.inner.shape[1] for b in blocks if b.mlp is not None), 4),
        act_fn="relu",
        normalization_type=norm,
        eps=1e-12,
        init_mode="gpt2",
        seed=None,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        bridge = TransformerBridge.boot_native(config, device="cpu")
        model = bridge.original_model
        for weight in (p for n, p in model.named_parameters() if ".ln" not in n and "ln_" not in n):
            weight.zero_()
        _set(model.tok_embed.weight, embed)
        if positions is not None:
            _set(model.pos.weight, positions)
        _set(model.head.weight, (embed.T if unembed is None else unembed).T)
        for layer, block in zip(model.layers, blocks, strict=True):
            _set_block(layer, block, config.d_head)
    bridge.cfg.model_name = f"phantom: {name}"
    return bridge.eval()


def _set_block(layer: Any, block: BlockWeights, width: int) -> None:
    attn = layer.attn
    for i, head in enumerate(block.heads):
        here = slice(i * width, i * width + head.query.shape[1])
        # The model divides scores by √d_head.
        _set(attn.q.weight, head.query.T * np.sqrt(width), rows=here)
        _set(attn.k.weight, head.key.T, rows=here)
        if head.value is not None and head.out is not None:
            _set(attn.v.weight, head.value.T, rows=slice(here.start, here.start + len(head.out)))
            _set(attn.o.weight.T, head.out, rows=slice(here.start, here.start + len(head.out)))
    attn.o.bias += torch.as_tensor(block.attn, dtype=torch.float32)
    layer.mlp.fc_out.bias += torch.as_tensor(block.bias, dtype=torch.float32)
    if block.mlp is not None:
        units = slice(0, block.mlp.inner.shape[1])
        _set(layer.mlp.fc_in.weight, block.mlp.inner.T, rows=units)
        _set(layer.mlp.fc_out.weight.T, block.mlp.outer, rows=units)
        threshold = torch.as_tensor(block.mlp.threshold, dtype=torch.float32)
        layer.mlp.fc_in.bias[units] += threshold


def _set(weight: torch.Tensor, values: Matrix, rows: slice | None = None) -> None:
    target = weight if rows is None else weight[rows]
    target.copy_(torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32))
