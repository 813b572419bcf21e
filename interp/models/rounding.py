"""Weights rounded as GGUF files round them, to measure what the rounding does to a result.

Quantises and dequantises with the functions of the package gguf, which its files are written with.
Knows matrices and modules; nothing of files.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import BadInput, InterpError, unknown
from interp.models.forward import wrapped_model
from interp.models.load import load_model
from interp.models.origin import with_origin
from interp.models.untrained import bridged_like, built_anew, refuse_copy

ROUNDINGS = ("BF16", "F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""Types that weights can be rounded to."""
_KEPT = re.compile(r"position|token_type|\bwpe\b")
"""Names of matrices that llama.cpp does not round."""
_INSIDE = "._original_component"


def rounded_copy(model: Any, rounding: str = "Q8_0") -> Any:
    """A bridge with the same configuration and tokenizer, and the model's weights rounded.

    Every matrix whose rows divide into blocks (32 numbers; BF16 and F16 have none) is quantised
    and dequantised again. As in GGUF files, rows run over the inputs of a layer, and vectors
    (norms, biases) and embeddings of positions stay as they are. A run on the copy against one on
    the model shows how far the rounding moves each result: a difference below that is the
    rounding's. The model stays as it is; the copy takes as much memory again. `weights_origin` of
    the copy counts the rounded matrices.

    Args:
        model: a bridge, or anything `load_model` takes.
        rounding: a type of llama.cpp: `"BF16"`, `"F16"`, `"Q8_0"`, `"Q5_1"`, `"Q5_0"`, `"Q4_1"` or
            `"Q4_0"`, with 16, 16, 8.5, 6, 5.5, 5 and 4.5 bits for each weight.

    Raises `UnknownName` for another type; `BadInput` for a model none of whose matrices divides
    into blocks; `Unsupported` for one without a Hugging Face class, folded (compatibility mode),
    or spread over devices; `InterpError` without the package gguf.
    """
    if rounding not in ROUNDINGS:
        raise unknown("rounding", rounding, ROUNDINGS)
    _refuse_missing_package()
    bridge = load_model(model)
    refuse_copy(bridge, f"copy rounded to {rounding}")
    fresh = built_anew(bridge)
    fresh.load_state_dict(_plain_weights(wrapped_model(bridge), fresh))
    done = [name for name, module in fresh.named_modules() if _round(name, module, rounding)]
    if not done:
        raise BadInput(
            f"no matrix of {bridge.cfg.model_name!r} has rows that divide into blocks of "
            f"{block_size(rounding)} numbers, which {rounding} rounds together"
        )
    out = bridged_like(bridge, fresh, f"rounded to {rounding}")
    return with_origin(out, {"weights": {"tensor_types": {rounding: len(done)}}})


def rounded(matrix: Tensor, rounding: str) -> Tensor:
    """A matrix quantised and dequantised, `[..., n]`, in its own type and on its own device.

    Args:
        matrix: whose rows, along the last axis, divide into blocks of `block_size(rounding)`.
        rounding: one of `ROUNDINGS`.
    """
    import gguf

    kind = gguf.GGMLQuantizationType[rounding]
    values = matrix.detach().to("cpu", torch.float32).numpy()
    packed = gguf.quantize(np.ascontiguousarray(values), kind)
    back = np.asarray(gguf.dequantize(packed, kind), np.float32).reshape(values.shape)
    return torch.from_numpy(back).to(matrix.device, matrix.dtype)


def block_size(rounding: str) -> int:
    """Numbers that are rounded together: 32, or 1 for plain floats."""
    import gguf

    return int(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[rounding]][0])


def _round(name: str, module: torch.nn.Module, rounding: str) -> bool:
    """Round the weight of one module in place; False if it is none that is rounded."""
    weight = module._parameters.get("weight")
    if weight is None or weight.ndim < 2 or _KEPT.search(name):
        return False
    # A Conv1D of GPT-2 has its inputs as rows.
    by_input = weight.data.T if type(module).__name__ == "Conv1D" else weight.data
    if by_input.shape[-1] % block_size(rounding):
        return False
    with torch.no_grad():
        by_input.copy_(rounded(by_input, rounding))
    return True


def _plain_weights(inner: Any, fresh: Any) -> dict[str, Tensor]:
    """The weights of a bridged model under the names that they had before it was bridged."""
    wanted = fresh.state_dict().keys()
    found = {name.replace(_INSIDE, ""): value for name, value in inner.state_dict().items()}
    return {name: found[name] for name in wanted}


def _refuse_missing_package() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise InterpError(
            "weights are rounded by the package gguf: pip install 'interp-stream[gguf]'"
        )
