"""Steering: hooks that add a vector to the stream, project it out, or rotate the stream toward it.

`Steer` holds the intervention and its place and gives plain TransformerLens hooks, for
`run_with_hooks` and `with model.hooks(...)`; it attaches nothing itself. The model's anatomy gives
the places where the stream can be written. Also here: directions to steer along.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard

import numpy as np
import torch
from torch import Tensor

from interp.contract.kept import whole_numbers
from interp.contract.tokens import Tokens
from interp.errors import BadInput, Unsupported, nearest, unknown
from interp.geometry import at_least_float32, project_out, rotate_toward
from interp.models.anatomy import Anatomy, StackAnatomy
from interp.models.for_model import prompts_of
from interp.models.forward import is_remote
from interp.models.lengths import padded_length
from interp.models.prefix import run_hooked
from interp.models.probe import inspect
from interp.models.weights import weight_matrix
from interp.prompts.prompts import Prompts
from interp.prompts.tokens import token_id
from interp.stats.table import label_typed

Kind = Literal["add", "project", "rotate"]
Layers = int | Sequence[int] | Literal["all"]
Positions = str | int | Sequence[int | str] | Tensor | Mapping[str, Any]
Hook = Callable[..., Tensor | None]

KINDS: Mapping[str, str] = {
    "add": "amount × vector is added",
    "project": "amount of the part along the vector is taken out (1 = all of it)",
    "rotate": "x is turned toward the vector by amount degrees, its norm kept",
}


@dataclass(frozen=True, eq=False)
class Steer:
    """Intervention on the residual stream at chosen states and positions.

    Runs as `model.run_with_hooks(tokens, fwd_hooks=steer.hooks(model))`.

    Attributes:
        kind: "add": x + amount·v; "project": x − amount·(x·v̂)v̂; "rotate": x turned in the plane
            of x and v by `amount` degrees toward v, its norm kept (negative: away from v; beyond
            v if v is nearer). An amount of 0 leaves the stream as it is, to the last bit.
        vector: v `[d_model]`; gradients flow to it.
        amount: see `kind`.
        layers: states 0 … L that are steered (l is what enters block l, L what leaves the last
            block): a number, several, or "all".
        positions: "all", "last" (the last column; with a mask the last real token of each row),
            a column of the pass or several, or a mask, bool `[pos]` or `[batch, pos]`. Negative
            columns count from the end as "last" does, which is -1. Columns and masks count the
            tokens of the pass that runs: with a KV cache only new tokens pass, so "all" and
            "last" steer every generated token.
        stack: the list of blocks, for a model with several ("encoder", "decoder").

    The stream is steered in float32 at least and rounded back to its own dtype.
    Raises `BadInput` or `UnknownName` for invalid arguments.

    >>> Steer("add", torch.ones(3), 2.0, layers=0).apply(torch.zeros(3)).tolist()
    [2.0, 2.0, 2.0]
    """

    kind: Kind
    vector: Any
    amount: float = 1.0
    layers: Layers = "all"
    positions: Positions = "all"
    stack: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of steering", str(self.kind), KINDS)
        object.__setattr__(self, "vector", checked_direction(self.vector))
        if not _is_number(self.amount) or not math.isfinite(self.amount):
            raise BadInput(f"the amount is {self.amount!r}; it must be a finite number")
        if self.kind == "rotate" and abs(self.amount) > 180:
            raise BadInput(f"cannot rotate by {self.amount:g}°; allowed is −180° to 180°")
        _check_positions(self.positions)

    def scaled(self, amount: float) -> Steer:
        """The same steer with another amount."""
        return replace(self, amount=amount)

    def apply(self, x: Tensor) -> Tensor:
        """Steer vectors `[..., d_model]`, all of them; computed in float32 at least."""
        x = at_least_float32(x)
        v: Tensor = self.vector.to(x.device, x.dtype)
        if self.kind == "add":
            return x + self.amount * v
        if self.kind == "project":
            return project_out(x, v, self.amount)
        return rotate_toward(x, v, self.amount)

    def hooks(self, model: Any, *, mask: Any = None) -> list[tuple[str, Hook]]:
        """`(hook name, function)` pairs for this model.

        Args:
            mask: `[batch, pos]`, true for real tokens; padding is then left alone, and "last" is
                the last real token.

        Raises `Unsupported` if the stream cannot be written, `BadInput` for a layer out of range
        or a vector of another width.
        """
        anatomy, stack = _writable(model, self.stack)
        if len(self.vector) != anatomy.d_model:
            raise BadInput(
                f"the vector has width {len(self.vector)}, the stream of {anatomy.model} has "
                f"{anatomy.d_model}"
            )
        if isinstance(self.positions, Mapping):
            raise BadInput(
                f"positions {dict(self.positions)!r} are labels of prompts, which a hook does not "
                "see: pass positions=interp.experiments.label_mask(prompts, …), or use "
                "interp.experiments.dose_response"
            )
        real = None if mask is None else torch.as_tensor(mask).bool()
        steer, real = self._on_columns(stack, real)
        return [(stack.boundaries[i], steer._hook(real)) for i in layers_of(self.layers, stack)]

    def _on_columns(self, stack: StackAnatomy, real: Tensor | None) -> tuple[Steer, Tensor | None]:
        """The same with masks as wide as the states, where the model pads a stack by itself.

        Raises `Unsupported` for the last token where nothing tells it from that padding.
        """
        if stack.multiple == 1:
            return self, real
        if real is None and isinstance(self.positions, str) and self.positions == "last":
            raise Unsupported(
                f"the model pads its {stack.name or 'blocks'} to a multiple of {stack.multiple} "
                "columns, so that the last one may be no token of the prompt: pass mask= [batch, "
                "pos], ones for prompts of one length"
            )
        positions = self.positions
        if isinstance(positions, Tensor):
            positions = _widened(positions, stack.multiple)
        wide = None if real is None else _widened(real, stack.multiple)
        return replace(self, positions=positions), wide

    def _hook(self, real: Tensor | None) -> Hook:
        def hook_fn(value: Tensor, hook: Any) -> Tensor | None:  # noqa: ARG001
            if self.amount == 0:
                return None  # not x + 0·v: rounding in float32 and back may change x
            where = _where(self.positions, value, real)
            steered = self.apply(value)
            if where is not None:
                steered = torch.where(where.unsqueeze(-1), steered, at_least_float32(value))
            return steered.to(value.dtype)

        return hook_fn


def _widened(mask: Tensor, multiple: int) -> Tensor:
    """A mask `[…, pos]` with False behind it, up to a multiple of columns."""
    n = mask.shape[-1]
    return torch.nn.functional.pad(mask, (0, padded_length(n, multiple) - n), value=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def checked_direction(vector: Any) -> Tensor:
    """A vector `[d]` to steer along; raises `BadInput` unless it is finite and not zero."""
    v = torch.as_tensor(vector)
    v = v if v.is_floating_point() else v.float()
    if v.ndim != 1:
        raise BadInput(f"a direction is one vector [d_model], not of shape {tuple(v.shape)}")
    if not bool(torch.isfinite(v).all()):
        raise BadInput("the direction holds NaN or infinite values")
    if not bool((v != 0).any()):
        raise BadInput("the direction is the zero vector, which points nowhere")
    return v


# ---- where -----------------------------------------------------------------------------------


def _writable(model: Any, name: str | None) -> tuple[Anatomy, StackAnatomy]:
    """The anatomy and the stack to steer; raises `Unsupported` if it cannot be written."""
    if is_remote(model):
        raise Unsupported(
            f"{type(model).__name__} runs remotely: it can be observed, but its stream cannot be "
            "written; load the weights with interp.load_model to steer"
        )
    anatomy = inspect(model)
    names = [s.name for s in anatomy.stacks]
    if name is None and len(names) > 1:
        raise BadInput(f"{anatomy.model} has several stacks ({', '.join(names)}): pass stack=")
    if name is not None and name not in names:
        raise unknown("stack", name, names)
    stack = anatomy.stacks[0 if name is None else names.index(name)]
    if stack.problems:
        raise Unsupported(
            f"the residual stream of {anatomy.model} cannot be steered: {'; '.join(stack.problems)}"
        )
    return anatomy, stack


def layers_of(layers: Layers, stack: StackAnatomy) -> list[int]:
    """State numbers 0 … L, sorted; `BadInput` for one that the stack does not have."""
    if isinstance(layers, str):
        if layers != "all":
            raise BadInput(
                f"layers={layers!r}: a state, several, or 'all'{nearest(layers, ['all'])}"
            )
        return list(range(stack.n_blocks + 1))
    wanted: list[Any] = list(layers) if isinstance(layers, Sequence) else [layers]
    for layer in wanted:
        if not isinstance(layer, int | np.integer) or isinstance(layer, bool):
            raise BadInput(f"layer {layer!r}: states have whole numbers, 0 … {stack.n_blocks}")
        if not 0 <= layer <= stack.n_blocks:
            raise BadInput(
                f"layer {layer} is out of range: this model has states 0 … {stack.n_blocks} "
                "(l enters block l, the last leaves the last block)"
            )
    if not wanted:
        raise BadInput("no layer was given to steer at")
    return sorted({int(layer) for layer in wanted})


def _check_positions(positions: Any) -> None:
    if isinstance(positions, str):
        if positions not in ("all", "last"):
            raise BadInput(
                f"positions={positions!r}{nearest(positions, ['all', 'last'])}; allowed: 'all', "
                "'last', columns, a mask, or a label such as {'role': 'target'}"
            )
    elif isinstance(positions, Tensor) and not _lists_columns(positions):
        if not _is_mask(positions) or positions.ndim not in (1, 2):
            raise BadInput(
                f"a mask of positions is bool [pos] or [batch, pos], not {positions.dtype} of "
                f"shape {tuple(positions.shape)}"
            )
    elif isinstance(positions, Mapping):
        if not positions:
            raise BadInput("positions={} names no label; such as {'role': 'target'}")
    else:
        other = "'all', a mask, or a label such as {'role': 'target'}"
        whole_numbers(positions, "positions", other)


def _where(positions: Positions, value: Tensor, real: Tensor | None) -> Tensor | None:
    """Mask of the vectors of `[batch, pos, d]` to steer: bool `[batch, pos]`, None for all."""
    shape = value.shape[:2]
    if real is not None:
        real = _fitting(real, shape, "mask").to(value.device)
    if isinstance(positions, str) and positions == "all":
        return real
    every = torch.ones(shape, dtype=torch.bool, device=value.device) if real is None else real
    if _is_mask(positions):
        return _fitting(positions, shape, "positions").to(value.device) & every
    where = torch.zeros_like(every)
    for column in _columns(positions, shape[1]):
        if column < 0:
            where |= last_of(every, -column)
        else:
            where[:, column] = every[:, column]
    return where


def _fitting(mask: Tensor, shape: torch.Size, what: str) -> Tensor:
    if mask.shape not in (shape, shape[1:], torch.Size((1, shape[1]))):
        raise BadInput(
            f"{what} of shape {tuple(mask.shape)} does not fit a pass of {tuple(shape)} "
            "(batch, pos); with a KV cache only new tokens pass"
        )
    return mask.expand(shape)


def _is_mask(positions: Any) -> TypeGuard[Tensor]:
    return isinstance(positions, Tensor) and positions.dtype == torch.bool


def _lists_columns(positions: Tensor) -> bool:
    whole = not positions.is_floating_point() and positions.dtype != torch.bool
    return whole and positions.ndim < 2


def _columns(positions: Any, width: int) -> tuple[int, ...]:
    columns = whole_numbers(positions, "positions")
    for position in columns:
        if not -width <= position < width:
            raise BadInput(
                f"position {position} is outside of this pass of {width} tokens; with a KV cache "
                "only new tokens pass: use 'all' or 'last', or generate without a cache"
            )
    return columns


def last_of(mask: Tensor, nth: int = 1) -> Tensor:
    """The last real token of each row, or the nth from the end: bool `[batch, pos]`.

    >>> last_of(torch.tensor([[True, True, False]])).tolist()
    [[False, True, False]]
    """
    # Counted from the right the last one is 1; padding on either side is 0 in the mask itself.
    return mask & (mask.flip(1).cumsum(1).flip(1) == nth)


# ---- positions of prompts --------------------------------------------------------------------


def label_mask(prompts: Prompts, **labels: Any) -> Tensor:
    """Tokens with a label, such as `role="target"`: bool `[prompt, longest]`, right-padded.

    It fits a pass over all prompts in their order, padded on the right. Several labels must all
    hold. Raises `UnknownName` for a label that the prompts do not have, `BadInput` where no token
    carries the value.
    """
    longest = int(prompts.lengths.max())
    out = torch.zeros(len(prompts), longest, dtype=torch.bool, device="cpu")
    for name in labels:
        if name not in prompts.labels:
            raise unknown("label", name, prompts.labels)
    there = {name: _values(prompts.labels[name]) for name in labels}
    labels = {name: label_typed(value, there[name]) for name, value in labels.items()}
    for i, length in enumerate(prompts.lengths):
        fits = [prompts.labels[n][i] == value for n, value in labels.items()]
        out[i, :length] = torch.from_numpy(np.logical_and.reduce(fits).astype(bool))
    if not bool(out.any()):
        wanted = ", ".join(f"{name}={value!r}" for name, value in labels.items())
        hint = "".join(_hint(name, value, there[name]) for name, value in labels.items())
        raise BadInput(f"no token of the {len(prompts)} prompts has {wanted}{hint}")
    return out


def _values(label: Iterable[Any]) -> list[Any]:
    """The values of a label, most frequent first; tokens without one do not count."""
    return [
        v for v, _ in Counter(v for cells in label for v in cells if v is not None).most_common()
    ]


def _hint(name: str, value: Any, there: Sequence[Any]) -> str:
    """What a label holds, where a value is not among it."""
    if any(value == each for each in there):
        return ""
    listed = ", ".join(repr(v) for v in there[:12]) or "no values"
    more = f" and {len(there) - 12} more" if len(there) > 12 else ""
    return f"{nearest(str(value), map(str, there))}; {name} has {listed}{more}"


def chosen(positions: Positions, prompts: Prompts) -> Tensor:
    """The tokens that positions mean for given prompts: bool `[prompt, longest]`, right-padded.

    Columns count the tokens of each prompt, negative ones from its end; a prompt that is too short
    for one has none there.
    """
    _check_positions(positions)
    lengths = torch.from_numpy(prompts.lengths)
    column = torch.arange(int(lengths.max()), device=lengths.device)
    real = column[None] < lengths[:, None]
    if isinstance(positions, Mapping):
        return label_mask(prompts, **positions)
    if _is_mask(positions):
        return _fitting(positions.cpu(), real.shape, "positions") & real
    if isinstance(positions, str) and positions == "all":
        return real
    wanted = whole_numbers(positions, "positions")
    out = torch.zeros_like(real)
    for position in wanted:
        out |= real & (column[None] == (position if position >= 0 else lengths[:, None] + position))
    if not bool(out.any()):
        raise BadInput(
            f"no prompt is long enough for positions {list(wanted)}: the longest has "
            f"{int(lengths.max())} tokens, which are 0 … {int(lengths.max()) - 1} (-1 is the last)"
        )
    return out


def in_batch(mask: Tensor, batch: Tokens) -> Tensor:
    """A mask `[prompt, longest]` for the rectangle of one batch: bool `[batch, pos]`."""
    return mask[batch.ids[:, None], batch.positions] & batch.mask


# ---- passes ----------------------------------------------------------------------------------


def prepared(model: Any, anatomy: Anatomy, prompts: Any) -> Prompts:
    """Prompts of this model from any source that `interp.run` takes."""
    return prompts_of(model, anatomy, prompts)


def batches(
    model: Any,
    anatomy: Anatomy,
    prompts: Prompts,
    max_tokens: int,
    only: Sequence[int] | None = None,
) -> list[Tokens]:
    """Batches padded on a side that leaves this model's states unchanged, or of one prompt each.

    On the left if possible: last tokens are then in one column. `only`: numbers of the prompts.
    """
    side = "left" if anatomy.padding.fine("left") else "right"
    pad = getattr(model.tokenizer, "pad_token_id", None)
    # Padding on either side changes the states of some models: they run without any.
    most = None if anatomy.padding.fine(side) else 1
    return list(
        prompts.batches(
            max_tokens,
            pad_id=int(pad or 0),
            padding_side=side,
            max_batch=most,
            only=only,
            apart=anatomy.apart(prompts.lengths),
        )
    )


def one_stack(model: Any, what: str) -> tuple[Anatomy, StackAnatomy]:
    """The only stack of a model; raises `Unsupported` if there are several."""
    anatomy, stack = _writable(
        model, inspect(model).stacks[0].name if not is_remote(model) else None
    )
    if len(anatomy.stacks) > 1:
        raise Unsupported(
            f"{what} runs models with one stack; {anatomy.model} has "
            f"{', '.join(s.name for s in anatomy.stacks)}: use Steer(…, stack=…).hooks(model) in "
            "passes of your own"
        )
    return anatomy, stack


# ---- directions ------------------------------------------------------------------------------


def mean_difference(
    model: Any,
    prompts_a: Any,
    prompts_b: Any,
    layer: int,
    *,
    positions: Positions = "last",
    max_tokens: int = 4096,
) -> Tensor:
    """Mean state of group a minus mean state of group b at one state: `[d_model]`, float32.

    Every prompt counts the same: the chosen tokens of a prompt are averaged first.
    Source: difference in means, Marks & Tegmark 2310.06824; Rimsky et al. 2312.06681.

    Args:
        prompts_a, prompts_b: any source that `interp.run` takes.
        layer: state 0 … L.
        positions: "last", "all", columns, a mask `[prompt, longest]` or a label of the prompts.
    """
    anatomy, stack = one_stack(model, "mean_difference")
    (layer,) = layers_of(layer, stack)
    means = []
    # Two passes of their own: the groups may be of any size, and only two means are kept.
    for prompts in (prompts_a, prompts_b):
        ready = prepared(model, anatomy, prompts)
        states = _states(model, anatomy, stack.boundaries[layer], ready, positions, max_tokens)
        means.append(torch.stack(list(states)).mean(0))
    return (means[0] - means[1]).float()


def _states(
    model: Any,
    anatomy: Anatomy,
    name: str,
    prompts: Prompts,
    positions: Positions,
    max_tokens: int,
) -> Iterator[Tensor]:
    """Mean state over the chosen tokens of each prompt that has any: float64 `[d_model]`."""
    mask, seen = chosen(positions, prompts), []

    def keep(value: Tensor, hook: Any) -> None:  # noqa: ARG001
        seen.append(value.detach().cpu())

    for batch in batches(model, anatomy, prompts, max_tokens):
        seen.clear()
        with torch.no_grad():
            run_hooked(model, batch, [(name, keep)])
        for state, where in zip(seen[0], in_batch(mask, batch), strict=True):
            if where.any():
                yield state[where].double().mean(0)


def unembedding_difference(model: Any, a: str | int, b: str | int) -> Tensor:
    """w_a − w_b, the direction along which the logit of token a rises over that of b: `[d_model]`.

    It applies to the vector after the final norm, whose learned gain rescales it. Raises `BadInput`
    for a text that is not one token, `Unsupported` if W_U is not as wide as the stream.
    """
    weight = weight_matrix(model, "W_U")
    width = int(model.cfg.d_model)
    if weight.shape[1] != width:
        raise Unsupported(
            f"W_U reads vectors of width {weight.shape[1]} and the stream has width {width}: a "
            "difference of its rows is no direction of the stream"
        )
    first, second = token_id(model, a), token_id(model, b)
    return (weight[first] - weight[second]).float().clone()
