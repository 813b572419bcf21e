"""Embedding, unembedding and position matrices of a model: one accessor, one error text."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from interp._arrays import Array, to_numpy
from interp.errors import BadInput, Unsupported, nearest
from interp.measures.tying import compare_rows

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


# ---- tying -----------------------------------------------------------------------------------


def tying(model: Any, *, seed: int = 0) -> dict[str, Tensor]:
    """Weight tying of a bridge, token by token: see `compare_rows`; `Unsupported` without W_U."""
    weight, bias = unembedding_of(model)
    return compare_rows(weight, _weight(model, "W_E"), bias, seed=seed)
