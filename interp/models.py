"""Loading: a name, a folder or a Hugging Face model becomes a TransformerBridge in eval mode.

The only file that boots models. No remote code unless asked for, nothing is installed behind the
user's back, weights come from safetensors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from interp.demo import MODELS
from interp.errors import BadInput, InterpError, nearest

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def load_model(
    model: Any,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: str | None = None,
    device_map: Any = None,
    trust_remote_code: bool = False,
) -> Any:
    """Load a model as a TransformerBridge in eval mode.

    Args:
        model: `"demo"` or `"demo-llama"` (embedded), a hub name such as `"gpt2-xl"`, a local
            folder in Hugging Face's format, a Hugging Face model object (then with `tokenizer`),
            or a bridge, which is returned as it is.
        tokenizer: for a model object, or to replace a folder's own.
        revision: branch, tag or commit on the hub.
        dtype: weights' type, by name or torch's.
        device: `"cpu"`, `"cuda"`, …; by default what TransformerLens chooses.
        device_map: accelerate's placement over several devices, instead of `device`.
        trust_remote_code: run code that a hub repository brings along; never by default.

    Raises `BadInput` for a name that is no model and no folder, `InterpError` where loading fails
    (no network, no such model, remote code needed), with what to do about it.
    """
    if hasattr(model, "hook_dict"):
        return model
    kind = _dtype(dtype)
    if not isinstance(model, str | Path):
        return _boot(_hf_name(model), model, tokenizer, dtype=kind, device=device)
    name = str(model)
    path = MODELS.get(name, Path(name))
    if path.exists():
        _check_folder(path)
    elif _looks_local(name):
        raise BadInput(f"there is no model folder {name!r}{nearest(name, MODELS)}")
    options = {"revision": revision, "device_map": device_map, "device": device, "dtype": kind}
    bridge = _boot(
        str(path) if path.exists() else name,
        None,
        tokenizer,
        trust_remote_code=trust_remote_code,
        **{k: v for k, v in options.items() if v is not None},
    )
    bridge.cfg.model_name = name
    return bridge


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise BadInput(f"unknown dtype {dtype!r}{nearest(dtype, DTYPES)} (known: {known})")
    return DTYPES[dtype]


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _check_folder(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise BadInput(
            f"{str(path)!r} is no model folder: it has no config.json "
            "(expected what save_pretrained of a Hugging Face model writes)"
        )
    weights = [p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth")]
    if weights and not list(path.glob("*.safetensors")):
        raise BadInput(
            f"{str(path)!r} has its weights as pickle only ({weights[0]}), which can run code "
            "when it is opened; convert them to safetensors first (save_pretrained writes them)"
        )


def _hf_name(model: Any) -> str:
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise BadInput(
            f"cannot load a model from {type(model).__name__}: expected a name, a folder, "
            "a Hugging Face model or a TransformerBridge"
        )
    return str(getattr(config, "_name_or_path", "") or type(model).__name__)


def _boot(name: str, hf_model: Any, tokenizer: Any, **options: Any) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    if hf_model is not None:
        options["hf_model"] = hf_model
    if tokenizer is not None:
        options["tokenizer"] = _named(tokenizer)
    try:
        with _no_installs():
            bridge = TransformerBridge.boot_transformers(
                name, **{k: v for k, v in options.items() if v is not None}
            )
    except Exception as error:
        raise _loading_error(name, error) from error
    return bridge.eval()


def _named(tokenizer: Any) -> Any:
    """TransformerLens looks up where a tokenizer came from; one built in memory says nothing."""
    getattr(tokenizer, "init_kwargs", {}).setdefault("name_or_path", "")
    return tokenizer


@contextmanager
def _no_installs() -> Iterator[None]:
    """Booting a multimodal model makes TransformerLens run `pip install torchvision`: not here."""
    before = {name: os.environ.get(name) for name in ("PIP_NO_INDEX", "UV_OFFLINE")}
    os.environ.update(PIP_NO_INDEX="1", UV_OFFLINE="1")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _loading_error(name: str, error: Exception) -> InterpError:
    """What went wrong, in the user's terms, from the chain of errors below."""
    chain, texts = error, []
    while chain is not None:
        texts.append(f"{type(chain).__name__}: {chain}")
        chain = chain.__cause__ or chain.__context__  # type: ignore[assignment]
    whole = " ".join(texts)
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "trust_remote_code" in whole:
        return InterpError(
            f"model {name!r} needs code from its repository, which is not run unless you ask for "
            "it: load_model(..., trust_remote_code=True) after reading that code"
        )
    if "torchvision" in whole:
        return InterpError(
            f"model {name!r} is multimodal and needs torchvision, which is not installed; install "
            "the build that fits your torch (nothing is installed behind your back)"
        )
    if "supported architecture" in whole:
        return InterpError(
            f"TransformerLens does not support the architecture of {name!r}: {reason}"
        )
    if any(
        sign in whole
        for sign in (
            "LocalEntryNotFound",
            "ConnectionError",
            "couldn't connect",
            "NameResolution",
            "Max retries",
            "OfflineMode",
        )
    ):
        return InterpError(
            f"model {name!r} is not on this machine and the hub cannot be reached; download it "
            f"first, pass a local folder, or use an embedded model ({', '.join(MODELS)})"
            f"{nearest(name, MODELS)}"
        )
    if "is not a valid model identifier" in whole or "RepositoryNotFound" in whole:
        return InterpError(
            f"there is no model {name!r} on the hub{nearest(name, MODELS)} "
            f"(embedded: {', '.join(MODELS)})"
        )
    return InterpError(f"model {name!r} could not be loaded: {type(error).__name__}: {reason}")
