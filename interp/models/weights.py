"""Embedding, unembedding and position matrices of a model: one accessor, one error text."""

from __future__ import annotations

from typing import Any
from weakref import ref

import torch
from torch import Tensor

from interp._arrays import Array, to_numpy
from interp.errors import BadInput, Unsupported, nearest, unknown
from interp.geometry import at_least_float32
from interp.measures.tying import compare_rows
from interp.models.forward import is_remote
from interp.models.layout import own_children

MATRICES = ("W_E", "W_U")
"""Matrices with one vector per token."""
_LACKS = {
    "W_E": "it embeds no tokens (a vision or audio model)",
    "W_U": "it does not end in an unembedding (an encoder without a language-model head, a vision "
    "or audio model)",
    "W_pos": "its positions are not learned, their kind is {kind!r}; the analysis position_profile "
    "shows what depends on distance in any model with attention patterns",
}


def weight_matrix(model: Any, name: str) -> Tensor:
    """A matrix of a bridge with a row per token (`"W_E"`, `"W_U"`) or position (`"W_pos"`).

    Returns `[vocab, d]` or `[position, d]`, detached, in the model's dtype; W_U is transposed.
    Raises `BadInput` for another name, `Unsupported` where the model has no such matrix.
    """
    if name not in _LACKS:
        raise BadInput(f"no matrix {name!r}{nearest(name, _LACKS)} (known: {', '.join(_LACKS)})")
    weight = _weight(model, name)
    if weight is None:
        cfg = getattr(model, "cfg", None)
        label = getattr(cfg, "model_name", None) or type(model).__name__
        kind = getattr(cfg, "positional_embedding_type", None) or "none"
        raise Unsupported(
            f"{label} has no matrix {name}: {_LACKS[name].format(kind=kind)}; "
            "interp.inspect(model) lists what it has"
        )
    return weight.T if name == "W_U" else weight


def embedding_matrix(model: Any, name: str = "W_E") -> Array:
    """The rows of `"W_E"`, or the columns of `"W_U"`, of a bridge: `[vocab, d_model]`.

    Raises `BadInput` for another name, `Unsupported` if the model has no such matrix.
    """
    if name not in MATRICES:
        raise BadInput(
            f"no matrix {name!r}{nearest(name, MATRICES)} (known: {', '.join(MATRICES)})"
        )
    return to_numpy(weight_matrix(model, name))


def position_matrix(model: Any) -> Array:
    """W_pos `[position, d]` of a bridge; raises `Unsupported` by name where it has none."""
    return to_numpy(weight_matrix(model, "W_pos"))


def unembedding_of(model: Any) -> tuple[Tensor, Tensor | None]:
    """W_U as `[vocab, d_head]` and b_U `[vocab]` (None if there is none or it is zero).

    Raises `Unsupported` where the bridge has no unembedding, or one that is no matrix.
    """
    weight, bias = weight_matrix(model, "W_U"), _weight(model, "b_U")
    # TransformerLens gives a model without a bias one of zeros.
    return weight, bias if bias is not None and bool(bias.any()) else None


def _weight(model: Any, name: str) -> Tensor | None:
    try:
        value = getattr(model, name)
    except (AttributeError, NotImplementedError):
        return None
    # Some bridges give a weight of several parts or an object in the place of a missing one.
    wanted = 1 if name.startswith("b") else 2
    return value.detach() if isinstance(value, Tensor) and value.ndim == wanted else None


# ---- of blocks -------------------------------------------------------------------------------

PARTS = {"attn": ("attn", "self_attn"), "mlp": ("mlp",)}
BLOCK_WEIGHTS = dict.fromkeys(("W_Q", "W_K", "W_V", "W_O"), "attn")
BLOCK_WEIGHTS |= {name.replace("W", "b"): "attn" for name in BLOCK_WEIGHTS}
BLOCK_WEIGHTS |= dict.fromkeys(("W_in", "W_out", "W_gate", "b_in", "b_out"), "mlp")
"""Weights of a block by name, and the part of the block that they are in."""


class BlockWeights:
    """Matrices of the blocks of a model, read when they are asked for.

    It holds the model weakly and is never copied with its weights.
    """

    def __init__(self, model: Any, path: str) -> None:
        self._model, self._path = ref(model) if model is not None else None, path

    def __copy__(self) -> BlockWeights:
        return self

    def __deepcopy__(self, _: Any) -> BlockWeights:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockWeights, (None, self._path)

    def __call__(self, layer: int, name: str) -> Tensor:
        """The weight of one block, detached; `UnknownName`, or `Unsupported` where it has none."""
        if name not in BLOCK_WEIGHTS:
            raise unknown("weight of a block", name, BLOCK_WEIGHTS)
        found = self.find(layer, name)
        if found is None:
            raise Unsupported(f"block {layer} has no weight {name}; it may be fused or missing")
        return found

    def find(self, layer: int, name: str) -> Tensor | None:
        """The same, None where the block has none."""
        model = self._model() if self._model is not None else None
        blocks = () if model is None or is_remote(model) else own_children(model).get(self._path)
        part = _part(blocks[layer], PARTS[BLOCK_WEIGHTS[name]]) if blocks else None
        try:
            value = getattr(part, name, None)
        except Exception:  # noqa: BLE001 - bridges compute weights, and fail in ways of their own
            return None
        return value.detach() if isinstance(value, Tensor) else None


def _part(block: Any, names: tuple[str, ...]) -> Any:
    children = own_children(block)
    return next((children[name] for name in names if name in children), None)


def head_results(z: Tensor, w_out: Tensor) -> Tensor:
    """Each head's output after W_O: `[batch, pos, head, d_head]` to `[batch, pos, head, d_model]`.

    Args:
        w_out: `[head, d_head, d_model]`.
    """
    z = at_least_float32(z)
    return torch.einsum("bphe,hed->bphd", z, w_out.to(z))


# ---- tying -----------------------------------------------------------------------------------


def tying(model: Any, *, seed: int = 0) -> dict[str, Tensor]:
    """Weight tying of a bridge, token by token: see `compare_rows`; `Unsupported` without W_U."""
    weight, bias = unembedding_of(model)
    return compare_rows(weight, _weight(model, "W_E"), bias, seed=seed)
