"""Models in GGUF files, dequantised and loaded by transformers.

GGUF is llama.cpp's format: weights (mostly rounded to a few bits), configuration and tokenizer in
one file. Every file is looked into before it is loaded, so that each fault has its own words.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from interp._files import checksum
from interp.errors import BadInput, InterpError, Unsupported
from interp.models.checkpoint import FIRST, CheckedClass, Stored, no_bars
from interp.models.gguf_header import Header, is_gguf, numbers_in

_VISION = ("clip", "mmproj")


# ---- files -----------------------------------------------------------------------------------


def gguf_in(path: Path) -> Path | None:
    """The GGUF file that a path stands for: itself, or the one in a folder without safetensors.

    The picture part of a model that sees (`mmproj`) is passed over beside another file.

    Raises `BadInput` for a folder with several.
    """
    if is_gguf(path):
        return path
    if not path.is_dir() or next(path.glob("*.safetensors*"), None) is not None:
        return None
    files = sorted(p for p in path.iterdir() if p.suffix.lower() == ".gguf")
    texts = [file for file in files if not _is_vision(file)] if len(files) > 1 else files
    if len(texts) > 1 and not _are_parts(texts):
        listed = ", ".join(p.name for p in texts[:6]) + (", …" if len(texts) > 6 else "")
        raise BadInput(
            f"{str(path)!r} holds {len(texts)} GGUF files ({listed}); name the one that you mean: "
            f"load_model({str(path / texts[0].name)!r})"
        )
    return next(iter(texts or files), None)


def _is_vision(file: Path) -> bool:
    try:
        return _kind_of(Header.of(file)) in _VISION
    except BadInput:
        return False


def _are_parts(files: Sequence[Path]) -> bool:
    """True if the first file says that it is one of so many parts."""
    try:
        return int(Header.of(files[0]).metadata.get("split.count", 0)) == len(files)
    except BadInput:
        return False


def _kind_of(header: Header) -> str:
    """ "model", or what else the file says that it is."""
    if header.architecture in _VISION:
        return header.architecture
    return str(header.metadata.get("general.type", "model"))


def read_header(path: Path) -> Header:
    """The head of a GGUF file that can be loaded.

    Raises `BadInput` for a file that is no GGUF, is cut short, is one part of several, or is no
    language model; `InterpError` without the package gguf.
    """
    header = Header.of(path)
    _refuse_part(header)
    _refuse_other_kinds(header)
    if importlib.util.find_spec("gguf") is None:
        raise InterpError(
            f"{str(path)!r} is GGUF, which transformers reads with the package gguf: "
            "pip install 'interp-stream[gguf]'"
        )
    header.check_whole()
    return header


def _refuse_part(header: Header) -> None:
    count = int(header.metadata.get("split.count", 0))
    if count > 1:
        number = int(header.metadata.get("split.no", 0)) + 1
        raise BadInput(
            f"{str(header.path)!r} is part {number} of {count} of a split GGUF, and transformers "
            "reads one file; join them with llama.cpp: llama-gguf-split --merge FIRST_PART "
            "whole.gguf"
        )


def _refuse_other_kinds(header: Header) -> None:
    kind = _kind_of(header)
    if kind in _VISION:
        raise BadInput(
            f"{str(header.path)!r} is the part of a model that looks at pictures or listens "
            f"(architecture {header.architecture!r}), which has no tokens; name the GGUF of the "
            "language model that it belongs to"
        )
    if kind != "model":
        raise BadInput(
            f"{str(header.path)!r} is a GGUF of type {kind!r}, not a model"
            + ("; merge the adapter into its model first" if kind == "adapter" else "")
        )
    if not header.tensors or "general.architecture" not in header.metadata:
        raise BadInput(
            f"{str(header.path)!r} holds no model: {len(header.tensors)} tensors, architecture "
            f"{header.architecture!r} (a vocabulary alone?)"
        )


# ---- loading ---------------------------------------------------------------------------------


def load_gguf(
    header: Header, dtype: torch.dtype, placement: Mapping[str, Any], *, tokenizer: bool = True
) -> tuple[Any, Any]:
    """The model and the tokenizer of a GGUF file, as transformers makes them.

    Args:
        header: of the file.
        dtype: of the weights after dequantising.
        placement: `device_map` and `max_memory` for transformers, or nothing.
        tokenizer: whether the file's own is wanted; None is returned for one without.

    Raises `Unsupported` for an architecture that transformers does not read from GGUF;
    `InterpError` for weights that do not fit, or a tokenizer that cannot be converted.
    """
    with no_bars(), _one_reading():
        config = _config_of(header)
        model = _model_of(header, config, dtype, placement)
        own = _tokenizer_of(header) if tokenizer else None
    model.config._name_or_path = str(header.path)
    _forget_quantisation(model)
    return model, own


def weights_of(header: Header) -> dict[str, Any]:
    """Origin of the weights, for provenance: file, size, checksum, types of the tensors."""
    return {
        "file": header.path.name,
        "format": "GGUF",
        "size": header.size,
        "sha256": checksum(header.path),
        "tensor_types": header.types(),
    }


def convert(folder: Path) -> dict[str, Any]:
    """Replaces the GGUF in a folder by what `save_pretrained` writes, in float32.

    Reading the dequantised weights takes a fraction of the time that dequantising them takes.
    Returns the origin of the weights.
    """
    file = gguf_in(folder)
    if file is None:
        raise BadInput(f"{str(folder)!r} holds no GGUF file")
    header = read_header(file)
    origin = weights_of(header)
    model, tokenizer = load_gguf(header, torch.float32, {})
    with no_bars():
        model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    file.unlink()
    return {"weights": origin}


def _config_of(header: Header) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(header.path.parent, gguf_file=header.path.name)
    except (ValueError, KeyError, NotImplementedError) as error:
        if "supported" in str(error) or header.architecture in str(error):
            raise _no_architecture(header) from error
        raise InterpError(
            f"{str(header.path)!r}: transformers cannot read its configuration "
            f"({type(error).__name__}: {error})"
        ) from error


def _no_architecture(header: Header) -> Unsupported:
    from transformers import __version__
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = ", ".join(sorted(GGUF_SUPPORTED_ARCHITECTURES))
    return Unsupported(
        f"transformers {__version__} does not read the architecture {header.architecture!r} from "
        f"GGUF ({header.path.name}); it reads {known}. Load the original repository instead"
    )


def _model_of(header: Header, config: Any, dtype: torch.dtype, placement: Mapping[str, Any]) -> Any:
    from transformer_lens.model_bridge.sources.transformers import source

    name = header.path.name
    try:
        architecture = source.determine_architecture_from_hf_config(config)
    except ValueError as error:
        raise Unsupported(
            f"TransformerLens does not support the model of {name} ({error})"
        ) from error
    chosen = source.get_hf_model_class_for_architecture(architecture)
    options = {"config": config, "dtype": dtype, "attn_implementation": "eager", **placement}
    # A bound for a damaged configuration: the numbers in the file, of whatever size each is.
    stored = Stored(tuple(t.name for t in header.tensors), sum(map(numbers_in, header.tensors)))
    model = CheckedClass(chosen, name, stored).from_pretrained(
        header.path.parent, gguf_file=name, **_dequantised(), **options
    )
    _check_places(header, model)
    return model


def _dequantised() -> dict[str, Any]:
    """Newer transformers keep weights packed where kernels are installed, unless told not to."""
    from transformers.utils import quantization_config as known

    config = getattr(known, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _forget_quantisation(model: Any) -> None:
    """Marks a dequantised model as what it is: plain weights that can be copied and saved."""
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    for name, value in (("hf_quantizer", None), ("is_quantized", False)):
        if hasattr(model, name):
            setattr(model, name, value)


def _check_places(header: Header, model: Any) -> None:
    """Warn of tensors that transformers left aside; the model would compute something else."""
    from transformers import modeling_gguf_pytorch_utils as reader

    chosen = reader.TENSOR_PROCESSORS.get(header.architecture, reader.TensorProcessor)
    places = reader.get_gguf_hf_weights_map(model, chosen(config=model.config.to_dict()))
    stems = {name.rpartition(".")[0] for name in places}
    lost = [
        tensor.name
        for tensor in header.tensors
        if tensor.name not in places and tensor.name.rpartition(".")[0] not in stems
    ]
    if lost:
        warnings.warn(
            f"{header.path.name}: {len(lost)} tensors have no place in the model of transformers "
            f"({', '.join(lost[:FIRST])}{', …' if len(lost) > FIRST else ''}); it computes "
            "something else than llama.cpp does with this file",
            stacklevel=2,
        )


def _tokenizer_of(header: Header) -> Any:
    """The tokenizer in the file; None if there is none."""
    from transformers import AutoTokenizer

    model = header.metadata.get("tokenizer.ggml.model")
    if model in (None, "none", "no_vocab"):
        return None
    try:
        return AutoTokenizer.from_pretrained(header.path.parent, gguf_file=header.path.name)
    except Exception as error:
        raise InterpError(
            f"{str(header.path)!r}: transformers cannot convert its tokenizer ({model}; "
            f"{type(error).__name__}: {error}); pass one: load_model(file, tokenizer)"
        ) from error


@contextmanager
def _one_reading() -> Iterator[None]:
    """Lets transformers read a file once inside the block, silently.

    It reads the whole vocabulary for the configuration, the weights and the tokenizer, and builds
    the table of names anew for every module: a quarter of the time is left without that.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reader

    before = gguf.GGUFReader, gguf.get_tensor_name_map, reader.tqdm
    gguf.GGUFReader = cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = cache(gguf.get_tensor_name_map)
    reader.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map, reader.tqdm = before
