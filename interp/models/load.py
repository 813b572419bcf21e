"""Loading: a name, a folder or a Hugging Face model becomes a TransformerBridge in eval mode.

The only file that boots models. No remote code unless asked for, nothing is installed or fetched
behind the user's back, folders must hold safetensors or a GGUF. (A hub repository without
safetensors is opened by transformers as data only, `weights_only=True`.)
"""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from interp.demo import MODELS
from interp.errors import BadInput, InterpError, nearest
from interp.models import encoders
from interp.models.checkpoint import CheckedClass, check_folder, no_bars
from interp.models.forward import device_of, wrapped_model
from interp.models.gguf import gguf_in, load_gguf, read_header, weights_of
from interp.models.hub import official_name, reachable, refuse_mistyped
from interp.models.origin import with_origin
from interp.prompts.packages import PACKAGES, folder_of, origin_of

NAMED = (*MODELS, *(name for name, p in PACKAGES.items() if p.kind in ("gguf", "model")))
"""Models that have a name of this library: embedded ones, and those that `interp get` fetches."""

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
    dtype: torch.dtype | str | None = None,
    device: str | None = None,
    device_map: Any = None,
    n_devices: int | None = None,
    max_memory: dict[str | int, str | int] | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Loads a model as a TransformerBridge in eval mode.

    Args:
        model: `"demo"` or `"demo-llama"` (embedded), `"smollm2"` or `"minilm"` (real models, after
            the command `interp get`), a hub name such as `"gpt2-xl"`, a local folder in Hugging
            Face's format, a GGUF file (dequantised; extra `gguf`) or a folder with one, a Hugging
            Face model object, or a bridge, which is returned as it is (options that it does not
            fulfil are refused). A model object becomes part of the bridge: TransformerLens
            replaces its modules by its own, and it is left in eval mode.
        tokenizer: for a model object, or to replace a folder's own; it is copied. Without one
            (given, in the folder, or where the object was loaded from) token prompts work and
            text prompts are refused.
        revision: branch, tag or commit on the hub.
        dtype: weights' type, by name or torch's; float32 unless given. A model object keeps its
            own.
        device: `"cpu"`, `"cuda"`, …; by default what TransformerLens chooses, for a model object
            where it is.
        device_map: accelerate's placement over several devices (`"auto"`, or by module), instead
            of `device`, for a model that is larger than one device.
        n_devices: split it over so many CUDA devices, instead of naming a placement.
        max_memory: most that each device may hold, with either.
        trust_remote_code: run code that a hub repository brings along; never by default.

    Raises `BadInput` for a name that is no model and no folder, a folder without safetensors, a
    GGUF file that is damaged, split or no language model, a model inside another object;
    `Unsupported` for an architecture that is not read from GGUF; `InterpError` where loading fails
    (no network, no such model, not fetched yet, remote code needed) or weights do not fit their
    configuration, with what to do about it.
    """
    options: dict[str, Any] = {
        "revision": revision,
        "dtype": dtype,
        "device": device,
        "device_map": device_map,
        "n_devices": n_devices,
        "max_memory": max_memory,
    }
    if hasattr(model, "hook_dict"):
        return _as_it_is(model, tokenizer, options)
    if not isinstance(model, str | Path):
        return _boot_object(model, tokenizer, options)
    return _boot_named(str(model), tokenizer, options | {"trust_remote_code": trust_remote_code})


def _as_it_is(bridge: Any, tokenizer: Any, options: dict[str, Any]) -> Any:
    """A bridge, which no option can change any more; one that it fulfils already is fine."""
    own = {"dtype": _weights_dtype(bridge), "device": str(device_of(bridge))}
    asked: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if "dtype" in asked:
        asked["dtype"] = _dtype(asked["dtype"])
    if "device" in asked:
        asked["device"] = _full_device(asked["device"], str(own["device"]))
    if tokenizer is not None and tokenizer is not getattr(bridge, "tokenizer", None):
        asked["tokenizer"] = type(tokenizer).__name__
    wrong = [f"{name}={value}" for name, value in asked.items() if own.get(name) != value]
    if wrong:
        raise BadInput(
            f"{', '.join(wrong)} cannot be applied to a bridge, which is returned as it is; give "
            "the options where the model is loaded by its name or folder"
        )
    return bridge


def _weights_dtype(model: Any) -> torch.dtype | None:
    first = next(model.parameters(), None) if hasattr(model, "parameters") else None
    return None if first is None else first.dtype


def _full_device(asked: str, own: str) -> str:
    """`own` where both mean the same: "cuda" is any of the graphics cards."""
    return own if own.split(":")[0] == asked else str(asked)


def _boot_named(name: str, tokenizer: Any, options: dict[str, Any]) -> Any:
    """A model by its name or folder as a bridge."""
    path = _place(name)
    here = path.exists()
    official = official_name(str(path)) if here else None
    if official is not None:
        # TransformerLens would take the name of the folder for that of a model on the hub.
        path = path.absolute()
    if here and (other := _other_of_that_name(name, official)):
        warnings.warn(f"load_model({name!r}): {other}", stacklevel=3)
    file = gguf_in(path) if here else None
    if file is not None:
        return _boot_gguf(file, tokenizer, options)
    if here:
        _refuse_revision(name, options["revision"])
        _check_folder(path, official)
    elif name in MODELS:
        raise InterpError(
            f"the embedded model {name!r} is not in this installation ({path} is missing); "
            "install the package anew"
        )
    else:
        _refuse_missing(name)
    options |= {"dtype": _dtype(options["dtype"] or "float32")}
    _check_device(options["device"])
    with nullcontext() if here else reachable(name, options["revision"], NAMED):
        bridge = _boot(
            str(path) if here else name,
            tokenizer,
            without_tokenizer=here and not _has_tokenizer(path),
            **options,
        )
    ours = name in MODELS or name in PACKAGES
    bridge.cfg.model_name = own_name(path) if here and not ours else name
    origin = origin_of(path) if here else None
    return bridge if origin is None else with_origin(bridge, origin)


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is None:
        return
    what = "a model of this library" if name in NAMED else "a folder here"
    raise BadInput(
        f"revision={revision!r} is for models on the hub; {name!r} is {what} and has one only"
    )


def _check_folder(path: Path, official: str | None) -> None:
    """Raises `BadInput` for a folder without a model, with the model that may have been meant."""
    try:
        check_folder(path)
    except BadInput as error:
        if official is None:
            raise
        raise BadInput(f"{error}. If the model on the hub is meant, write {official!r}") from error


def _other_of_that_name(name: str, official: str | None) -> str:
    """Which of two models of one name is taken, and how to get the other; "" if there is one."""
    own = Path(name)
    if name in MODELS:
        taken = f"the embedded model is taken, not the folder here; write './{name}' for the folder"
        return taken if _is_model_folder(own) else ""
    if official is None or name.startswith((".", "~")) or not _is_model_folder(own):
        return ""
    return (
        f"the folder {str(own.absolute())!r} is taken, not {official!r} on the hub, which "
        f"TransformerLens calls {name!r} too; write {official!r} for that or './{name}' for this"
    )


def _is_model_folder(folder: Path) -> bool:
    return (folder / "config.json").is_file() or next(folder.glob("*.gguf"), None) is not None


def _place(name: str) -> Path:
    """Folder of an embedded model or of one that was fetched; else the name as a path.

    Raises `InterpError` for one that was not fetched, `BadInput` for another package, or for a
    name that is a model's folder here too.
    """
    if name not in PACKAGES:
        return MODELS.get(name, Path(name))
    package, own = PACKAGES[name], Path(name)
    if package.kind not in ("gguf", "model"):
        raise BadInput(
            f"{name!r} is no model but {package.title}: {package.use} (models: {', '.join(NAMED)})"
        )
    if _is_model_folder(own):
        raise BadInput(
            f"{name!r} is a model of this library and a folder here: write './{name}' for the "
            "folder, or call from another folder"
        )
    return folder_of(name)


def refuse_unknown_model(name: str, revision: str | None = None) -> None:
    """Raises for a mistyped name of this library or a missing folder, as `load_model` would."""
    if name not in NAMED and not Path(name).exists():
        _refuse_missing(name)
        refuse_mistyped(name, revision, NAMED)


def local_place(name: str) -> Path | None:
    """Folder or file on this machine that a model of this name is loaded from; None if none is."""
    try:
        path = _place(name)
    except InterpError:
        return None
    return path if path.exists() else None


def _boot_gguf(file: Path, tokenizer: Any, options: dict[str, Any]) -> Any:
    """A model in a GGUF file as a bridge, with where its weights are from."""
    if options["revision"] is not None:
        raise BadInput(f"revision= is for models on the hub; {str(file)!r} is a file here")
    header = read_header(file)
    dtype = _dtype(options["dtype"] or "float32")
    device, placement = _placement(options)
    model, own = load_gguf(header, dtype, placement, tokenizer=tokenizer is None)
    chosen = own if tokenizer is None else tokenizer
    bridge = _boot(
        str(file),
        chosen,
        without_tokenizer=True,
        hf_model=model if placement else model.to(device),
        dtype=dtype,
        device=None if placement else device,
    )
    bridge.cfg.model_name = file.stem
    return with_origin(bridge, {"weights": weights_of(header)})


def _placement(options: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """A device, or a placement over several, as TransformerLens understands the options."""
    from transformer_lens.utilities import get_device
    from transformer_lens.utilities.multi_gpu import resolve_device_map

    device = options["device"]
    names = ("n_devices", "device_map", "max_memory")
    n_devices, given, memory = (options[name] for name in names)
    try:
        device_map, memory = resolve_device_map(n_devices, given, device, memory)
    except ValueError as error:
        raise BadInput(str(error)) from error
    if device_map is None:
        return str(device or get_device()), {}
    placed = {"device_map": device_map, "max_memory": memory}
    return None, {name: value for name, value in placed.items() if value is not None}


def own_name(folder: Path) -> str:
    """Name of a model in a folder, for titles and messages: that of the folder.

    A folder of the hub's cache is called as on the hub, a checkpoint with the run it is of.

    >>> own_name(Path("/home/me/models/tiny-llama"))
    'tiny-llama'
    >>> own_name(Path("/cache/models--openai-community--gpt2/snapshots/607a30d"))
    'openai-community/gpt2'
    >>> own_name(Path("runs/pilot/checkpoint-500"))
    'pilot/checkpoint-500'
    """
    parts = folder.expanduser().absolute().parts
    for part in parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    if parts[-1].startswith("checkpoint-"):
        return "/".join(parts[-2:])
    return parts[-1]


def is_embedded(model: Any) -> bool:
    """True if a bridge, a name or a folder is of an embedded model, or of its untrained copy."""
    if isinstance(model, str | Path):
        return str(model) in MODELS or Path(model) in MODELS.values()
    config = getattr(wrapped_model(model), "config", None)
    return Path(str(getattr(config, "_name_or_path", ""))) in MODELS.values()


def _boot_object(model: Any, tokenizer: Any, given: dict[str, Any]) -> Any:
    """A Hugging Face model object as a bridge; it stays what and where it is."""
    _refuse_wrapped(model)
    device = given.pop("device")
    name, origin = _hf_name(model), str(getattr(model.config, "_name_or_path", "") or "")
    kind, asked = next(model.parameters()).dtype, given.pop("dtype")
    if asked is not None and _dtype(asked) != kind:
        raise BadInput(
            f"the model object is in {str(kind).removeprefix('torch.')}; convert it yourself "
            f"(model.to({_dtype(asked)})) or leave dtype out"
        )
    for option, value in given.items():
        if value is not None:
            raise BadInput(f"{option}= is for models loaded by name; this is a model object")
    if device is not None:
        model.to(device)
    bridge = _boot(
        name,
        tokenizer if tokenizer is not None else _tokenizer_of(origin),
        without_tokenizer=True,
        hf_model=model,
        dtype=kind,
        device=str(next(model.parameters()).device),
    )
    if Path(name).is_dir():
        bridge.cfg.model_name = own_name(Path(name))
    return bridge


_INSIDE = {"_orig_mod": "torch.compile", "module": "a parallel wrapper"}


def _refuse_wrapped(model: Any) -> None:
    """Raises for a model with adapters or inside another object, with how to take it out."""
    if _has_adapters(model):
        merge = (
            "model.merge_and_unload()"
            if hasattr(model, "merge_and_unload")
            else "peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()"
        )
        raise BadInput(
            f"this {type(model).__name__} carries PEFT adapters, whose modules have no place in a "
            f"bridge; merge them into the weights and hand over what {merge} returns (or "
            "model.unload() for the model without them)"
        )
    for attribute, wrapper in _INSIDE.items():
        if isinstance(getattr(model, attribute, None), torch.nn.Module):
            raise BadInput(
                f"this {type(model).__name__} is {wrapper} around a model; hand over "
                f"model.{attribute}"
            )


def _has_adapters(model: Any) -> bool:
    """True if PEFT put adapters into a model, by itself or through transformers."""
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        return True
    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    return any(hasattr(m, "lora_A") or type(m).__module__.startswith("peft.") for m in modules)


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise BadInput(f"unknown dtype {dtype!r}{nearest(dtype, DTYPES)} (known: {known})")
    return DTYPES[dtype]


_MEANT = {"gpu": "cuda", "nvidia": "cuda", "apple": "mps", "metal": "mps", "intel": "xpu"}
"""Devices by names that torch does not take, of which another would be nearer by its letters."""


def _check_device(device: str | None) -> None:
    """Raises `BadInput` for a device that there is not, before anything is read for it."""
    if device is None:
        return
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        known = ("cpu", "cuda", "mps", "xpu")
        meant = _MEANT.get(str(device).casefold(), str(device))
        raise BadInput(
            f"unknown device {device!r}{nearest(meant, known)}; allowed: "
            f"{', '.join(known)}, with a number where there are several, such as cuda:1"
        ) from error
    available = getattr(getattr(torch, kind, None), "is_available", lambda: True)
    if not available():
        raise BadInput(f"there is no device {device!r} on this machine; leave it out, or use 'cpu'")


def _looks_local(name: str) -> bool:
    ends = name.startswith((".", "/", "~")) or name.endswith(("/", os.sep))
    return ends or name.count("/") > 1


def _refuse_missing(name: str) -> None:
    """Raises `BadInput` for a path, as which no hub name is written, that leads nowhere."""
    if _looks_local(name) and not Path(name).exists():
        choices = [*NAMED, *_models_beside(name)]
        raise BadInput(f"there is no model folder {name!r}{nearest(name, choices)}")


def _models_beside(name: str) -> list[str]:
    """Folders of models where one is missing, as they would be typed."""
    place, _, _ = name.rstrip("/").rpartition("/")
    try:
        beside = [path for path in Path(name).parent.iterdir() if _is_model_folder(path)]
    except OSError:
        return []
    return [f"{place}/{path.name}" if "/" in name.rstrip("/") else path.name for path in beside]


def _hf_name(model: Any) -> str:
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise BadInput(
            f"cannot load a model from {type(model).__name__}: expected a name, a folder, "
            "a Hugging Face model or a TransformerBridge"
        )
    return str(getattr(config, "_name_or_path", "") or type(model).__name__)


def _tokenizer_of(origin: str) -> Any:
    """The tokenizer that lies where a model object was loaded from; None if there is none."""
    from transformers import AutoTokenizer

    if not origin or (Path(origin).is_dir() and not _has_tokenizer(Path(origin))):
        return None
    local = Path(origin).is_dir()
    try:
        with nullcontext() if local else reachable(origin, None, tuple(MODELS)):
            return AutoTokenizer.from_pretrained(origin, trust_remote_code=False)
    except (OSError, ValueError, ImportError, InterpError):
        return None


def _boot(name: str, tokenizer: Any, *, without_tokenizer: bool, **options: Any) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    if tokenizer is not None:
        options["tokenizer"] = _as_given(tokenizer)
    try:
        with (
            no_bars(),
            _no_installs() as missing,
            encoders.bridged(),
            _checked_weights(name),
            _no_tokenizer(without_tokenizer and tokenizer is None),
        ):
            bridge = TransformerBridge.boot_transformers(
                name, **{k: v for k, v in options.items() if v is not None}
            )
    except InterpError:
        raise
    except Exception as error:
        raise _loading_error(name, error) from error
    if missing:
        warnings.warn(
            f"model {name!r} was loaded for text only: its image processor could not be loaded, "
            f"and {missing[0]} is not installed. If you need pictures, install the build of "
            f"{missing[0]} that fits your torch; nothing is installed behind your back",
            stacklevel=3,
        )
    # Here, not by the caller: dropout left on changes every number and shows in none.
    return bridge.eval()


@contextmanager
def _checked_weights(name: str) -> Iterator[None]:
    """Lets TransformerLens load through a class that refuses weights drawn at random."""
    from transformer_lens.model_bridge.sources.transformers import source

    choose = source.get_hf_model_class_for_architecture

    def checked(architecture: str) -> CheckedClass:
        return CheckedClass(encoders.class_for(architecture, choose), name)

    with _replaced(source, "get_hf_model_class_for_architecture", checked):
        yield


def _as_given(tokenizer: Any) -> Any:
    """A copy that TransformerLens takes as it is.

    It would otherwise load the tokenizer anew from where it came from, with a BOS token: one
    built in memory came from nowhere, and what was added to one since then would be lost. Where
    a tokenizer puts no BOS in front, TransformerLens finds out and puts one there itself.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.init_kwargs = {**tokenizer.init_kwargs, "name_or_path": "", "add_bos_token": True}
    return tokenizer


_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


@contextmanager
def _no_tokenizer(wanted: bool) -> Iterator[None]:
    """Lets TransformerLens boot a text model that has no tokenizer, as it does for pictures."""
    from transformer_lens.model_bridge.sources.transformers import source

    with _replaced(source, "skip_tokenizer_for_modality", lambda _: True, active=wanted):
        yield


@contextmanager
def _no_installs() -> Iterator[list[str]]:
    """Keeps TransformerLens from running `pip install torchvision` while it boots.

    Yields a list that names what it would have installed. The settings of pip and uv are the
    second line, should a later version install in another place.
    """
    from transformer_lens.model_bridge.sources.transformers import helpers

    missing: list[str] = []

    def ensure_torchvision() -> bool:
        found = importlib.util.find_spec("torchvision") is not None
        missing.extend([] if found else ["torchvision"])
        return found

    before = {name: os.environ.get(name) for name in ("PIP_NO_INDEX", "UV_OFFLINE")}
    os.environ.update(PIP_NO_INDEX="1", UV_OFFLINE="1")
    try:
        with _replaced(helpers, "_ensure_torchvision", ensure_torchvision):
            yield missing
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _replaced(module: Any, name: str, value: Any, *, active: bool = True) -> Iterator[None]:
    """Another function under `name`, if there is one of that name, and the old one afterwards."""
    if not active or not hasattr(module, name):
        yield
        return
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _loading_error(name: str, error: Exception) -> InterpError:
    """Cause of a failed load in the user's terms, from the chain of errors below."""
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
    library = re.search(
        r"needs the optional (\S+) librar|[Nn]o module named '(torchvision|timm)'", whole
    )
    if library:
        missing = library[1] or library[2]
        return InterpError(
            f"model {name!r} is multimodal and needs {missing}, which is not installed; install "
            f"the build of {missing} that fits your torch (nothing is installed behind your back)"
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
            f"{nearest(name, NAMED)}"
        )
    if "is not a valid model identifier" in whole or "RepositoryNotFound" in whole:
        return InterpError(
            f"there is no model {name!r} on the hub{nearest(name, NAMED)} "
            f"(embedded: {', '.join(MODELS)})"
        )
    return InterpError(f"model {name!r} could not be loaded: {type(error).__name__}: {reason}")
