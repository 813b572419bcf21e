"""Embedding, unembedding and position matrices of a model, each by one accessor."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from interp._arrays import Array, to_numpy
from interp.errors import BadInput, Unsupported, nearest
from interp.measures.tying import compare_rows

MATRICES = ("W_E", "W_U")


def embedding_matrix(model: Any, name: str = "W_E") -> Array:
    """The rows of `"W_E"`, or the columns of `"W_U"`, of a bridge: `[vocabulary, d_model]`.

    Raises `BadInput` for another name, `Unsupported` if the model has no such matrix.
    """
    if name not in MATRICES:
        raise BadInput(
            f"no matrix {name!r}{nearest(name, MATRICES)} (known: {', '.join(MATRICES)})"
        )
    try:
        weight = getattr(model, name)
    except (AttributeError, NotImplementedError):
        weight = None
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        label = getattr(getattr(model, "cfg", None), "model_name", type(model).__name__)
        raise Unsupported(f"{label} has no matrix {name} of one vector per token")
    return to_numpy(weight.T if name == "W_U" else weight)


def position_matrix(model: Any) -> Array:
    """W_pos `[position, d]` of a bridge; raises `Unsupported` by name where it has none."""
    cfg = getattr(model, "cfg", None)
    try:
        weight = model.W_pos
    except (AttributeError, NotImplementedError):
        weight = None
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        kind = getattr(cfg, "positional_embedding_type", None) or "no"
        raise Unsupported(
            f"{getattr(cfg, 'model_name', type(model).__name__)} has no learned positions (W_pos); "
            f"its kind is {kind!r}. The analysis position_profile shows what depends on distance "
            "in any model with attention patterns"
        )
    return to_numpy(weight)


def unembedding_of(model: Any) -> tuple[Tensor, Tensor | None]:
    """W_U as `[vocab, d_head]` and b_U `[vocab]` (None if there is none or it is zero).

    Raises `Unsupported` where the bridge has no unembedding, or one that is no matrix.
    """
    weight, bias = _weight(model, "W_U"), _weight(model, "b_U")
    if weight is None:
        raise Unsupported(
            f"{_name(model)} has no W_U: it does not end in an unembedding (an encoder without a "
            "language-model head, a vision or audio model); interp.inspect(model) says what it has"
        )
    has_bias = bias is not None and bias.ndim == 1 and bool(bias.any())
    return weight.T, bias if has_bias else None


def embedding_of(model: Any) -> Tensor | None:
    """W_E `[vocab, d]`, None where the bridge has no embedding of tokens."""
    return _weight(model, "W_E")


def _weight(model: Any, name: str) -> Tensor | None:
    try:
        value = getattr(model, name)
    except (AttributeError, NotImplementedError):
        return None
    wanted = 1 if name.startswith("b") else 2
    return value.detach() if isinstance(value, Tensor) and value.ndim == wanted else None


def _name(model: Any) -> str:
    cfg = getattr(model, "cfg", None)
    return str(getattr(cfg, "model_name", None) or type(model).__name__)


# ---- tying -----------------------------------------------------------------------------------


def tying(model: Any, *, seed: int = 0) -> dict[str, Tensor]:
    """Weight tying of a bridge, token by token: see `compare_rows`; `Unsupported` without W_U."""
    weight, bias = unembedding_of(model)
    return compare_rows(weight, embedding_of(model), bias, seed=seed)
