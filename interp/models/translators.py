"""Translators: an affine map per state, applied before the lens reads it (the tuned lens).

Early states may be written in another basis than the last one. A translator takes state l to where
the model's own norm and unembedding expect it: x + W_l x + b_l. Knows tensors and files; the
fitting is an experiment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp._files import atomic
from interp.errors import BadInput, InterpError
from interp.geometry import at_least_float32, norm
from interp.models.readout import Readout
from interp.prompts.user_files import similar

KIND = "interp-stream translators"
SAMPLED = 64  # rows of W_U by which a model is known again
ALIKE = 0.02  # relative difference of their norms: more than bfloat16 rounds, less than folding


@dataclass(frozen=True, eq=False)
class Translators:
    """Affine maps of the states 0 … L − 1; the last state needs none.

    Attributes:
        weight: W `[L, d_model, d_model]`, difference from the identity.
        bias: b `[L, d_model]`.
        unembedding: norms of some rows of W_U, evenly spaced, of the model that they were fitted
            on; None if the file does not say.
        facts: model, source and how they were fitted, as JSON values.

    Source: Belrose et al. 2303.08112, in the parametrisation of their package.

    >>> none = Translators(torch.zeros(2, 3, 3), torch.zeros(2, 3))
    >>> none.apply(torch.ones(3, 1, 3)).tolist() == torch.ones(3, 1, 3).tolist()
    True
    """

    weight: Tensor
    bias: Tensor
    unembedding: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, d = self.bias.shape if self.bias.ndim == 2 else (-1, -1)
        if self.weight.shape != (n, d, d):
            raise BadInput(
                f"translators have weights {tuple(self.weight.shape)} and biases "
                f"{tuple(self.bias.shape)}; expected [L, d_model, d_model] and [L, d_model]"
            )
        if not bool(torch.isfinite(self.weight).all() and torch.isfinite(self.bias).all()):
            raise BadInput("translators hold NaN or infinite values; fit them again")

    @property
    def n_layers(self) -> int:
        """Number of states that are translated."""
        return len(self.bias)

    def apply(self, stream: Tensor) -> Tensor:
        """Translated states: `[L + 1, ..., d_model]`, the last as it is."""
        stream = at_least_float32(stream)
        translated = [self.one(i, x) for i, x in enumerate(stream[:-1])]
        return torch.stack([*translated, stream[-1]])

    def one(self, state: int, x: Tensor) -> Tensor:
        """One translated state `[..., d_model]`."""
        weight, bias = (p[state].to(x.device, x.dtype) for p in (self.weight, self.bias))
        return x + torch.nn.functional.linear(x, weight, bias)

    def check(self, readout: Readout, n_states: int, d_model: int) -> None:
        """Raises `BadInput` unless they were fitted on a model like this one.

        Args:
            n_states: L + 1 of the model at hand.
        """
        if self.n_layers != n_states - 1 or self.bias.shape[1] != d_model:
            raise BadInput(
                f"these translators are for {self.n_layers} states of width {self.bias.shape[1]}, "
                f"the model has {n_states - 1} before the last, of width {d_model}"
                f"{self._fitted_on()}"
            )
        if self.unembedding is None:
            return
        here = sampled_norms(readout.weight)
        there = self.unembedding
        if len(here) != len(there) or bool(((here - there).abs() > ALIKE * there).any()):
            raise BadInput(
                "these translators were fitted on another unembedding: another model, other "
                f"weights, or the same in another basis (compatibility mode){self._fitted_on()}"
            )

    def _fitted_on(self) -> str:
        model = self.facts.get("model")
        return f"; they were fitted on {model}" if model else ""

    def save(self, path: str | Path) -> Path:
        """Writes one safetensors file, whole or not at all; returns its path."""
        from safetensors.torch import save_file

        tensors = {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}
        if self.unembedding is not None:
            tensors["unembedding"] = self.unembedding.contiguous()
        about = {"kind": KIND, "facts": json.dumps(dict(self.facts))}
        path = Path(path)
        with atomic(path) as whole:
            save_file(tensors, whole, metadata=about)
        return path


def sampled_norms(weight: Tensor) -> Tensor:
    """Norms of `SAMPLED` evenly spaced rows of W_U `[vocab, d]`, float32 on the CPU.

    By them a model is known again, at any precision and on any device.
    """
    rows = torch.linspace(0, len(weight) - 1, min(SAMPLED, len(weight)), device="cpu").long()
    return norm(weight.detach()[rows.to(weight.device)]).float().cpu()


def read_translators(path: str | Path) -> Translators:
    """Translators from a file or folder; a file is read once as long as it does not change.

    Takes what `interp fit tuned-lens` writes (`.safetensors`), a folder of the package tuned-lens
    (`config.json`, `params.pt`) and a Jacobian lens of TransformerLens (`.pt`). Nothing is
    unpickled but tensors.

    Raises `BadInput` for anything else.
    """
    if not isinstance(path, str | Path):
        raise BadInput(f"translators are read from a file or folder, not from {path!r}")
    path = Path(path)
    if not path.exists():
        raise BadInput(f"no translators at {str(path)!r}: no such file or folder{similar(path)}")
    parts = [path] if path.is_file() else list(path.iterdir())
    return _read(path.resolve(), tuple(sorted(map(_state, parts))))


def _state(part: Path) -> tuple[str | int, ...]:
    """What another file under the same name differs in: also one written within the same tick."""
    found = part.stat()
    return part.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


@lru_cache(maxsize=4)
def _read(path: Path, _states: tuple[tuple[str | int, ...], ...]) -> Translators:
    if path.is_dir():
        return _tuned_lens(path)
    if path.suffix == ".safetensors":
        return _own(path)
    if path.suffix == ".pt":
        return _jacobian_lens(path)
    raise BadInput(
        f"{str(path)!r} holds no translators; allowed: a .safetensors file of interp fit "
        "tuned-lens, a folder of the package tuned-lens, a .pt file of a Jacobian lens"
    )


def _own(path: Path) -> Translators:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise BadInput(f"{str(path)!r} is damaged ({error}); fit the lens again") from error
    if about.get("kind") != KIND or not {"weight", "bias"} <= tensors.keys():
        raise BadInput(f"{str(path)!r} is a safetensors file of something else than translators")
    facts = json.loads(about.get("facts", "{}"))
    return Translators(tensors["weight"], tensors["bias"], tensors.get("unembedding"), facts)


def _tuned_lens(folder: Path) -> Translators:
    """A folder of the package tuned-lens: one linear layer per state, added to the state."""
    config, params = folder / "config.json", folder / "params.pt"
    if not (config.is_file() and params.is_file()):
        raise BadInput(
            f"{str(folder)!r} is no folder of tuned-lens: it needs config.json and params.pt"
        )
    told, state = json.loads(config.read_text(encoding="utf-8")), _tensors(params)
    n = int(told.get("num_hidden_layers", 0))
    missing = [i for i in range(n) if f"{i}.weight" not in state]
    if n < 1 or missing:
        raise BadInput(f"{str(params)!r} lacks the translators of states {missing[:5]} of {n}")
    weight = torch.stack([state[f"{i}.weight"].float() for i in range(n)])
    blank = weight.new_zeros(weight.shape[1])
    bias = torch.stack([state.get(f"{i}.bias", blank).float() for i in range(n)])
    facts = {"model": told.get("base_model_name_or_path"), "source": "tuned-lens"}
    return Translators(weight, bias, None, facts)


def _jacobian_lens(path: Path) -> Translators:
    """A Jacobian lens: J_l x in place of x for what leaves block l; other states stay."""
    from transformer_lens.tools.analysis import JacobianLens

    try:
        lens = JacobianLens.load(str(path))
        matrices = {layer: matrix.float() for layer, matrix in lens.jacobians.items()}
    except Exception as error:
        raise BadInput(
            f"{str(path)!r} cannot be read as a Jacobian lens ({type(error).__name__}: {error})"
        ) from error
    # What leaves block l is state l + 1; the last block's own output is the last state.
    n = max(matrices) + 2
    d = next(iter(matrices.values())).shape[0]
    weight = torch.zeros(n, d, d, device="cpu")
    for layer, matrix in matrices.items():
        weight[layer + 1] = matrix - torch.eye(d, device="cpu")
    return Translators(weight, torch.zeros(n, d, device="cpu"), None, {"source": "Jacobian lens"})


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InterpError(
            f"{str(path)!r} cannot be read ({type(error).__name__}); only tensors are unpickled"
        ) from error
    return dict(found)
