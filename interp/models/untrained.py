"""An untrained copy of a model: the control of everything that is measured on a trained one.

Anything the untrained copy shows as well comes from the architecture, the tokenizer or the measure
and was not learned. Knows models; knows nothing of analyses or tables.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from interp.errors import Unsupported, unknown
from interp.models.forward import wrapped_model
from interp.models.load import load_model

RANDOM_INIT = "random-init"
CONTROLS = (RANDOM_INIT,)


def check_control(control: str, model: Any = None) -> None:
    """Raises before anything is computed: `UnknownName` for a control that there is not,
    `Unsupported` for a model that cannot be copied untrained. Without a model the name is checked.
    """
    if control not in CONTROLS:
        raise unknown("control", control, CONTROLS)
    if model is not None:
        _refuse(model)


def random_copy(model: Any, seed: int = 0) -> Any:
    """A bridge with the same configuration and tokenizer and freshly initialised weights.

    The weights are those that the architecture's own initialisation gives (the Hugging Face class
    is built anew from the configuration), drawn from `seed`; type and device are the model's. The
    model stays as it is and so does torch's random state. The copy takes as much memory again.

    Args:
        model: a bridge, or anything `load_model` takes.
        seed: of the weights.

    Raises `Unsupported` where there is no Hugging Face class to build from (a HookedTransformer, a
    remote model), or the copy would not be of the same kind: weights folded by compatibility
    mode, quantised, or spread over several devices.
    """
    bridge = load_model(model)
    _refuse(bridge)
    return bridged_like(bridge, built_anew(bridge, seed), f"{RANDOM_INIT}, seed {seed}")


def built_anew(bridge: Any, seed: int = 0) -> Any:
    """The Hugging Face model of a bridge, built from its configuration with other weights.

    Type and device are the model's; torch's random state stays as it is.
    """
    inner = wrapped_model(bridge)
    like = next(inner.parameters())
    with _drawn_from(seed):
        # A copy of the configuration, because building a model writes into it.
        fresh = type(inner)(copy.deepcopy(inner.config))
    return fresh.to(like.device, like.dtype)


def bridged_like(bridge: Any, fresh: Any, what: str) -> Any:
    """A Hugging Face model as a bridge that treats text as another one does.

    Args:
        bridge: the other one, whose tokenizer is used.
        fresh: the model.
        what: what it is, for its name, after that of the other one.
    """
    with torch.random.fork_rng(devices=[]):  # building a bridge draws numbers
        out = load_model(fresh, bridge.tokenizer)
    out.cfg.model_name = f"{bridge.cfg.model_name} ({what})"
    for policy in ("default_prepend_bos", "tokenizer_prepends_bos"):
        if hasattr(bridge.cfg, policy):
            setattr(out.cfg, policy, getattr(bridge.cfg, policy))
    return out


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Torch draws on the CPU in float32 from `seed`, whatever its defaults, which are kept.

    Numbers of another type or device are other numbers.
    """
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def _refuse(model: Any) -> None:
    refuse_copy(model, "untrained copy")


def refuse_copy(model: Any, what: str) -> None:
    """Raises `Unsupported` for a bridge that cannot be built anew, with the reason.

    Args:
        model: a bridge.
        what: the copy that is wanted, for the message.
    """
    inner = wrapped_model(model)
    config = getattr(inner, "config", None)
    reason = ""
    if inner is model or not hasattr(config, "to_dict"):
        reason = f"a {type(model).__name__} has no Hugging Face class to build from"
    elif getattr(model, "compatibility_mode", False):
        reason = "its weights were folded (compatibility mode); copy the bridge before the switch"
    elif getattr(config, "quantization_config", None) is not None:
        reason = "its weights are quantised; load it in float32 or bfloat16"
    elif len(set((getattr(inner, "hf_device_map", None) or {}).values())) > 1:
        reason = "it lies on several devices; load it on one"
    if reason:
        raise Unsupported(f"no {what} of {_name(model)!r} can be made: {reason}")


def _name(model: Any) -> str:
    return str(getattr(getattr(model, "cfg", None), "model_name", type(model).__name__))
