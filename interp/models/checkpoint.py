"""Contents of a model folder, and a check that its weights fit its configuration.

Transformers draws every weight that a checkpoint lacks at random and goes on. Here such a model is
refused, with what is missing and the likely cause. Knows files and names of weights, no bridges.
"""

from __future__ import annotations

import json
import re
import struct
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp.errors import BadInput, InterpError

FIRST = 3
"""Names of weights that a message spells out."""

SPARE = (1_000, 200_000_000)
"""Parameters, and numbers in parameters and buffers, that any model may have."""

MOST = (4, 8)
"""Parameters for each stored weight (fused ones are split), numbers for each byte (packed ones)."""

INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_ELSEWHERE = {
    ".gguf": "GGUF: download that file and load it, load_model({file!r}) (dequantised); the "
    "original repository is better",
    ".h5": "TensorFlow weights, which transformers 5 no longer reads: with transformers 4, "
    "AutoModelForCausalLM.from_pretrained(folder, from_tf=True).save_pretrained(new) converts them",
    ".msgpack": "Flax weights, which transformers 5 no longer reads: with transformers 4, "
    "AutoModelForCausalLM.from_pretrained(folder, from_flax=True).save_pretrained(new) converts "
    "them",
    ".onnx": "an ONNX graph, which has no modules to look into: load the repository that it was "
    "exported from",
}
_WRAPPERS = {
    "_orig_mod.": "the model was saved through torch.compile; save model._orig_mod instead",
    "module.": "the model was saved through (Distributed)DataParallel; save model.module instead",
    "base_model.model.": "the model was saved with PEFT adapters around it; save "
    "model.merge_and_unload() instead",
}


# ---- files -----------------------------------------------------------------------------------


def check_folder(path: Path) -> None:
    """Raises `BadInput` for a path that holds no Hugging Face model in safetensors."""
    if not path.is_dir():
        raise BadInput(_no_folder(path))
    names = sorted(p.name for p in path.iterdir())
    adapter = next((n for n in names if n.startswith("adapter_")), None)
    if adapter is not None:
        raise BadInput(
            f"{str(path)!r} holds a PEFT adapter ({adapter}){_base_of(path)}: load that model "
            "with peft.PeftModel.from_pretrained, merge it (model.merge_and_unload()) and hand "
            "over the merged model"
        )
    if "config.json" not in names:
        found = _stored_elsewhere(names)
        raise BadInput(
            f"{str(path)!r} is no model folder: it has no config.json (expected what "
            "save_pretrained of a Hugging Face model writes)" + (f"; {found}" if found else "")
        )
    if any(n.endswith((".safetensors", ".safetensors.index.json")) for n in names):
        _check_shards(path)
        return
    raise BadInput(f"{str(path)!r} {no_weights(names)}")


def no_weights(names: Iterable[str]) -> str:
    """Format of files that are not safetensors, and the remedy: half a sentence."""
    names = list(names)
    pickles = [n for n in names if Path(n).suffix in _PICKLES]
    elsewhere = _stored_elsewhere(names)
    if pickles:
        return (
            f"has its weights as pickle only ({pickles[0]}), which can run code when it is opened; "
            "convert them to safetensors first (save_pretrained writes them)"
        )
    if elsewhere:
        return f"has no safetensors; {elsewhere}"
    return (
        f"has no weights: expected model.safetensors, found {', '.join(names[:6]) or 'nothing'}"
        f"{', …' if len(names) > 6 else ''}; was the download complete?"
    )


def _stored_elsewhere(names: Iterable[str]) -> str:
    """Name of a file with weights of another format, and its conversion; empty if there is none."""
    for name in names:
        advice = _ELSEWHERE.get(Path(name).suffix)
        if advice:
            return f"{name} is {advice.format(file=name)}"
    return ""


def _no_folder(path: Path) -> str:
    elsewhere = _stored_elsewhere([path.name])
    hint = elsewhere or f"expected the folder that holds it, {str(path.parent)!r}"
    return f"{str(path)!r} is no folder; {hint}"


def _base_of(path: Path) -> str:
    """Model that an adapter belongs to, by its configuration."""
    try:
        config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        return f" of the model {config['base_model_name_or_path']!r}"
    except (OSError, ValueError, LookupError, TypeError):
        return " of another model"


def _check_shards(path: Path) -> None:
    """Every shard that the index names is there."""
    index = path / INDEX
    shards = set(_index_of(index).values()) if index.is_file() else set()
    absent = sorted(s for s in shards if not (path / s).is_file())
    if absent:
        raise BadInput(
            f"{str(path)!r} lacks {len(absent)} of the {len(shards)} files that {index.name} "
            f"names ({', '.join(absent[:FIRST])}); was the download complete?"
        )


def _index_of(file: Path) -> dict[str, str]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadInput(
            f"{str(file)!r} is no index of weights ({error}); download it again"
        ) from error


@dataclass(frozen=True)
class Stored:
    """Names of the weights in the safetensors of a folder, and the bytes of all."""

    names: tuple[str, ...]
    size: int

    @classmethod
    def of(cls, folder: Path) -> Stored:
        """From the headers alone; raises `BadInput` for a damaged one."""
        index = folder / INDEX
        named = sorted(set(_index_of(index).values())) if index.is_file() else []
        files = [folder / n for n in named] or sorted(folder.glob("*.safetensors"))
        names = tuple(name for file in files for name in _header(file))
        return cls(names, sum(file.stat().st_size for file in files))


def _header(file: Path) -> list[str]:
    """Names in one safetensors file; raises `BadInput` for what is none."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            # The format begins with the length of its header; a damaged one may claim any number of
            # bytes.
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size:
                raise ValueError(f"its header would take {length:,} of {size:,} bytes")
            header = dict(json.loads(stream.read(length)))
            _refuse_cut(header, size - 8 - length)
    except (OSError, ValueError, LookupError, TypeError, struct.error) as error:
        raise BadInput(
            f"{str(file)!r} is no safetensors file or is damaged ({error}); download it again"
        ) from error
    return [n for n in header if n != "__metadata__"]


def _refuse_cut(header: Mapping[str, Any], there: int) -> None:
    """Raises `ValueError` where a file has fewer bytes of weights than its header names."""
    ends = (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    promised = max(map(int, ends), default=0)
    if there < promised:
        raise ValueError(f"cut short: {there:,} of {promised:,} bytes of weights are there")


# ---- building and filling --------------------------------------------------------------------


class CheckedClass:
    """A class of transformers whose `from_pretrained` refuses what would be filled at random.

    Args:
        model_class: an `AutoModel…` or a model class.
        name: the model, for messages.
        stored: weights of a file that is no safetensors.
    """

    def __init__(self, model_class: Any, name: str, stored: Stored | None = None) -> None:
        self.model_class, self.name, self.stored = model_class, name, stored

    def from_pretrained(self, source: Any, **options: Any) -> Any:
        """The loaded model; `InterpError` where its weights do not fit its configuration."""
        folder = Path(source)
        stored = self.stored or (Stored.of(folder) if folder.is_dir() else None)
        with _bounded(self.name, stored, options.get("config")):
            # Shapes that do not fit are refused below, by name; the error of transformers has none.
            model, found = self.model_class.from_pretrained(
                source, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        refuse_misfit(self.name, model, found)
        return model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model_class, name)


@contextmanager
def no_bars() -> Iterator[None]:
    """Weights that are read from a disk need no progress bar; a download keeps its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _bounded(name: str, stored: Stored | None, config: Any) -> Iterator[None]:
    """End the building of a model that is far larger than the weights that are stored.

    A configuration is a few numbers, which may ask for a million layers or experts; building
    those takes minutes or all memory before anything is compared with the weights.
    """
    if stored is None:
        yield
        return
    most = [MOST[0] * len(stored.names) + SPARE[0], MOST[1] * stored.size + SPARE[1]]
    seen = [0, 0]

    def registered(_module: Any, _name: str, value: Any) -> None:
        if not isinstance(value, torch.Tensor):
            return
        seen[0] += isinstance(value, torch.nn.Parameter)
        seen[1] += value.numel()
        if seen[0] > most[0] or seen[1] > most[1]:
            what = "parameters" if seen[0] > most[0] else "numbers in parameters"
            raise BadInput(
                f"model {name!r}: config.json asks for more than {most[seen[0] <= most[0]]:,} "
                f"{what}{_sizes(config)}, and its files hold {len(stored.names):,} weights in "
                f"{stored.size:,} bytes{_blocks_stored(stored.names)}; config.json is not that of "
                "these weights"
            )

    # Registration, not field names: whatever a configuration calls its sizes, it ends in tensors.
    hooks = torch.nn.modules.module
    handles = [
        hooks.register_module_parameter_registration_hook(registered),
        hooks.register_module_buffer_registration_hook(registered),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sizes(config: Any) -> str:
    """The largest sizes in a configuration, as ` (num_hidden_layers=1000000)`."""
    values = config.to_dict() if hasattr(config, "to_dict") else {}
    parts = [values, *(v for v in values.values() if isinstance(v, dict))]
    sizes = {k: v for part in parts for k, v in part.items() if _is_size(k, v)}
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:FIRST]
    return f" ({', '.join(f'{k}={v}' for k, v in largest)})" if largest else ""


def _is_size(key: str, value: Any) -> bool:
    return (
        isinstance(value, int)
        and value > 1
        and bool(re.search(r"layer|expert|depth|size|position|dim", key))
    )


def _blocks_stored(names: Iterable[str]) -> str:
    """Number of blocks of the weights, as ` of 12 blocks`; empty without numbered names."""
    numbers = {(m[1], m[2]) for n in names if (m := re.match(r"(.*?\.)(\d+)\.", n))}
    most = Counter(prefix for prefix, _ in numbers).most_common(1)
    return f" of {most[0][1]} blocks ({most[0][0]}0 …)" if most else ""


def refuse_misfit(name: str, model: Any, found: Mapping[str, Any]) -> None:
    """Raises `InterpError` for parameters drawn at random; warns of weights that were left out.

    Tied weights, buffers and weights that the model's class declares optional may be missing.

    Args:
        name: the model, for the message.
        model: as it was loaded.
        found: the loading info of transformers: `missing_keys`, `unexpected_keys` and
            `mismatched_keys`.
    """
    if wrong := sorted(found["mismatched_keys"]):
        shapes = "; ".join(
            f"{key} is {list(stored)}, wanted {list(wanted)}"
            for key, stored, wanted in wrong[:FIRST]
        )
        raise InterpError(
            f"the weights of model {name!r} do not fit its configuration: {len(wrong)} have "
            f"another shape ({shapes}{'; …' if len(wrong) > FIRST else ''}). config.json is not "
            "that of these weights"
        )
    # Duplicates too: a tied weight is stored under either of its names.
    own = [n for n, _ in model.named_parameters(remove_duplicate=False)]
    missing = sorted(set(found["missing_keys"]) & set(own))
    left = sorted(found["unexpected_keys"])
    if missing:
        raise InterpError(
            f"the weights of model {name!r} do not fit its configuration: {len(missing)} of "
            f"{len(own)} parameters are not in its files and would be random ({_few(missing)})"
            + (f", {len(left)} stored weights have no place ({_few(left)})" if left else "")
            + f". {_cause(missing, left)}"
        )
    prefix = getattr(model, "base_model_prefix", "") + "."
    known = {*own, *(n.removeprefix(prefix) for n in own)}
    lost = [key for key in left if _has_a_place(key, known)]
    if lost:
        warnings.warn(
            f"model {name!r}: {len(lost)} stored weights were left out, because its "
            f"configuration has no place for them ({_few(lost)}); the model computes something "
            "else than the one that was saved, unless config.json was changed on purpose",
            stacklevel=2,
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:FIRST]) + (", …" if len(names) > FIRST else "")


def _has_a_place(key: str, known: set[str]) -> bool:
    """True if a weight belongs to a module that the model has, or to one block more of it.

    Other heads, other towers and the masks of old checkpoints belong to neither.
    """
    module = key.rpartition(".")[0]
    if f"{module}.weight" in known:
        return True
    return _unnumbered(key) in {_unnumbered(n) for n in known}


def _unnumbered(key: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", key)


def _cause(missing: list[str], left: list[str]) -> str:
    """The likely reason, and the way out."""
    prefix = _common_prefix(set(missing), left)
    if any(".lora_" in key or ".base_layer." in key for key in left):
        prefix = "base_model.model."
    if prefix in _WRAPPERS:
        return f"The names begin with {prefix!r}: {_WRAPPERS[prefix]}"
    if prefix:
        return f"The stored names begin with {prefix!r}: rename them and save them again"
    if all(re.search(r"(^|\.)(lm_head|embed_out|output)\.", key) for key in missing):
        return (
            "The head is missing: the files are those of the model without one, or its head is "
            "the embedding (then config.json has to say tie_word_embeddings: true)"
        )
    blocks = {m[1] for key in missing if (m := re.search(r"\.(\d+)\.", key))}
    if blocks and all(re.search(r"\.\d+\.", key) for key in missing):
        listed = ", ".join(sorted(blocks, key=int)[:FIRST])
        return (
            f"Weights of block {listed}{', …' if len(blocks) > FIRST else ''} are missing: the "
            "files are incomplete, or config.json has more blocks than were saved"
        )
    return "The files are incomplete, or config.json is that of another model"


def _common_prefix(missing: set[str], left: list[str]) -> str:
    """Common prefix of the stored names before the wanted ones; empty if there is none."""
    prefixes = set()
    for key in left:
        parts = key.split(".")
        ends = (".".join(parts[i:]) for i in range(1, len(parts)))
        prefixes.add(next((key[: -len(end)] for end in ends if end in missing), ""))
    return prefixes.pop() if len(prefixes) == 1 else ""
