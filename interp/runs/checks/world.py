"""Synthetic activations and weights with which an analysis is checked, without a model.

A `World` defines the prompts of a batch and their layout (padding, values under the padding, dtype,
number of blocks, available sites). Its activations are consistent, as those of a model are: the
stream is the sum of the terms, attention is causal and leaves padding out, the readout gives the
logits. They go through the same observer as real activations. Knows nothing of the laws.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from interp.contract.analysis import Analysis, Batch, Emission, weights_batch
from interp.contract.emissions import checked
from interp.contract.jobs import Key, ObserveCall
from interp.contract.leaves import State, merge_states
from interp.contract.reduce import Groups, reduce_emissions
from interp.contract.sites import SITES
from interp.contract.tokens import Tokens
from interp.models.anatomy import TOLERANCE, Anatomy, Padding, StackAnatomy
from interp.models.contexts import next_tokens
from interp.models.layout import Stack
from interp.models.observer import Observer
from interp.models.readout import Readout

# Most sizes differ, and heads outnumber key-value heads, so that a mix-up of axes is an error.
WIDTH, HEADS, KV_HEADS, D_HEAD, D_MLP, VOCAB, N_CTX = 8, 4, 2, 4, 12, 17, 32
LENGTHS = (6, 1, 4, 3, 5)
BOS = 1
_BLOCK_SITES = tuple(n for n, site in SITES.items() if site.kind == "block" and n != "terms")
# A masked key has no weight and a score of −inf, whatever else lies under the mask.
_MASKED_KEY = {"pattern": 0.0, "scores": -torch.inf}


@dataclass(frozen=True)
class World:
    """The prompts of a batch and their layout.

    Attributes:
        ids: prompts of the batch, in its order.
        ghosts: those of them that are padding from end to end.
        zero: (prompt, position) of a token all of whose vectors are zero.
        side, extra: side of the padding, and columns of it beyond the longest prompt.
        fill: value under the mask in the activations; `junk`: other ids and positions there, too.
        dtype: dtype to which the activations are rounded; `given`: the dtype of the tensors.
        cached: only the last position is new, the others are in a KV cache.
        n_blocks: blocks of the model.
        sites: block sites that it has.
        terms: names of its two additive terms, none if the decomposition does not close.
        device: of the activations.
    """

    ids: tuple[int, ...] = (0, 1, 2, 3, 4)
    ghosts: frozenset[int] = frozenset()
    zero: tuple[int, int] | None = None
    side: Literal["right", "left"] = "right"
    extra: int = 0
    fill: float = 0.0
    junk: bool = False
    dtype: torch.dtype = torch.float32
    given: torch.dtype | None = None
    cached: bool = False
    n_blocks: int = 3
    sites: frozenset[str] = frozenset(_BLOCK_SITES)
    terms: tuple[str, ...] = ("attn", "mlp")
    device: str = "cpu"

    def prompts(self) -> list[Prompt]:
        """The prompts of the batch, without padding."""
        names = self.terms or ("attn", "mlp")
        return [
            prompt(
                i,
                0 if i in self.ghosts else LENGTHS[i % len(LENGTHS)],
                self.n_blocks,
                (names[0], names[1]),
                self.zero[1] if self.zero and self.zero[0] == i else None,
            )
            for i in self.ids
        ]

    def anatomy(self) -> Anatomy:
        """The anatomy that `interp.inspect` would find."""
        hooks = {s: (s,) * self.n_blocks for s in _BLOCK_SITES if s in self.sites}
        names = tuple(f"state {i}" for i in range(self.n_blocks + 1))
        stack = StackAnatomy(
            stack=Stack("", "blocks", self.n_blocks, tuple((n,) for n in names)),
            layout="sequential",
            boundaries=names,
            fires=1,
            sites=hooks,
            shapes={},
            terms=tuple({t: t for t in self.terms} for _ in range(self.n_blocks)),
            closing=(0.0,) * self.n_blocks,
            closes=bool(self.terms),
            row_sum_error=0.0,
            scores_pre_softmax=True,
        )
        tolerance = TOLERANCE[self.dtype]
        return Anatomy(
            model="synthetic",
            architecture="synthetic",
            stacks=(stack,),
            readout=readout(tolerance, self.device),
            readout_stack="",
            readout_tried={},
            prepends_bos=True,
            padding=Padding(0.0, 0.0, tolerance),
            basis="raw",
            dtype=self.dtype,
            tolerance=tolerance,
            causal=True,
            d_model=WIDTH,
            d_vocab=VOCAB,
            n_ctx=N_CTX,
            weights={"": _block_weight},
        )

    def token_table(self) -> pd.DataFrame:
        """The table of tokens that goes with a result."""
        rows = [
            {
                "prompt": p.id,
                "position": i,
                "token": f"t{token}",
                "token_id": token,
                "special": token == BOS,
            }
            for p in self.prompts()
            for i, token in enumerate(p.tokens.tolist())
        ]
        return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt without padding: its tokens and its activations, without the batch axis."""

    id: int
    tokens: Tensor
    values: Mapping[Key, Tensor]


@dataclass(eq=False)
class Observed:
    """The calls of `observe` for one batch, and the tensors that were passed to it."""

    calls: list[tuple[ObserveCall | None, Batch, Mapping[str, Emission]]]
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def state(self, groups: Callable[[Batch], Groups] | None = None) -> State:
        """The reduced state, by the runner's own reduction."""
        state: State = {}
        for job, batch, emitted in self.calls:
            stack = job.stack if job else ""
            piece = reduce_emissions(emitted, batch, stack, groups(batch) if groups else None)
            state = merge_states(state, piece)
        return state


def observe(analysis: Analysis, world: World) -> Observed:
    """Run an analysis on one batch, through the observer that a model's hooks feed."""
    if analysis.scope == "weights":
        model = stand_in_model()
        batch = weights_batch(model)
        with torch.no_grad():
            emitted = checked(analysis, batch, analysis.observe(batch))
        tensors = {k: v for k, v in vars(model).items() if isinstance(v, Tensor)}
        return Observed([(None, batch, emitted)], tensors)
    wiring = world.anatomy().wire([analysis])
    context, values = assemble(world, wiring.last_keys())
    observer = Observer(None, wiring, lambda *_: {}, lambda _: None)
    finished = observer.replay({"": context}, values)
    inputs = {f"{key.point} {key.index}": value for key, value in values.items()}
    inputs |= context.tensors()
    return Observed(list(finished.emitted), inputs)


# ---- laying prompts out ----------------------------------------------------------------------


def assemble(world: World, keys: Container[Key] | None = None) -> tuple[Tokens, dict[Key, Tensor]]:
    """Tokens and activations of a batch in the order of a forward pass; of `keys`, or all."""
    prompts = world.prompts()
    width = max(1, *(len(p.tokens) for p in prompts)) + world.extra
    starts = [width - len(p.tokens) if world.side == "left" else 0 for p in prompts]
    context = _context(world, prompts, starts, width)
    values = {
        key: _rectangle(world, key, [p.values[key] for p in prompts], starts, width)
        for key in prompts[0].values
        if keys is None or key in keys
    }
    return (_only_last(context), _last(values)) if world.cached else (context, values)


def _context(world: World, prompts: Sequence[Prompt], starts: Sequence[int], width: int) -> Tokens:
    shape = (len(prompts), width)
    tokens = torch.full(shape, 5 if world.junk else 0)
    positions = torch.full(shape, width if world.junk else 0)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, (p, start) in enumerate(zip(prompts, starts, strict=True)):
        real = slice(start, start + len(p.tokens))
        tokens[row, real] = p.tokens
        positions[row, real] = torch.arange(len(p.tokens))
        mask[row, real] = True
    ids = torch.tensor([p.id for p in prompts])
    special, targets = (tokens == BOS) & mask, next_tokens(tokens, mask)
    # A second answer for most tokens, by their ids, and none for BOS.
    contrasts = torch.where(mask & ~special, (tokens + 5) % VOCAB, -1)
    parts = (tokens, mask, special, ids, positions, targets, contrasts)
    return Tokens.whole(*parts).to(world.device)


def _rectangle(
    world: World, key: Key, parts: Sequence[Tensor], starts: Sequence[int], width: int
) -> Tensor:
    """Pad the activations of single prompts to one tensor `[batch, ...]`."""
    along = [axis in ("pos", "query", "key") for axis in key.axes[1:]]
    shape = [width if padded else n for n, padded in zip(parts[0].shape, along, strict=True)]
    out = torch.full((len(parts), *shape), world.fill, dtype=parts[0].dtype)
    for row, (part, start) in enumerate(zip(parts, starts, strict=True)):
        real = slice(start, start + part.shape[along.index(True)])
        if key.point in _MASKED_KEY:
            out[row, :, real, :] = _MASKED_KEY[key.point]
        out[(row, *(real if padded else slice(None) for padded in along))] = part
    # Rounded to one dtype and handed over in another: see the law on dtypes.
    return out.to(world.dtype).to(world.given or world.dtype).to(world.device)


def _only_last(context: Tokens) -> Tokens:
    last = context.columns(slice(-1, None))
    return replace(last, targets=torch.full_like(last.targets, -1))


def _last(values: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """The last position of every activation; all keys of the attention stay."""
    out = {}
    for key, value in values.items():
        axis = next(i for i, name in enumerate(key.axes) if name in ("pos", "query"))
        out[key] = value.narrow(axis, value.shape[axis] - 1, 1)
    return out


# ---- activations -----------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def prompt(
    number: int, length: int, n_blocks: int, names: tuple[str, str], zero: int | None
) -> Prompt:
    """Tokens and activations of one prompt, in float32; the same for the same arguments."""
    # The seed is the prompt's number: a prompt is the same in every batch that it is part of.
    random = torch.Generator().manual_seed(number)
    tokens = torch.randint(2, 7, (length,), generator=random)
    tokens[:1] = BOS
    keep = torch.ones(length, 1)
    if zero is not None:
        keep[zero] = 0.0
    x = torch.randn(length, WIDTH, generator=random) * keep
    values: dict[Key, Tensor] = {Key.state("", 0): x}
    for layer in range(n_blocks):
        values |= _block(x, keep, names, random, layer)
        x = values[Key.of_term("", names[1], layer)] + values[Key("", "resid_mid", layer)]
        values[Key.state("", layer + 1)] = x
    values[Key.logits("")] = readout(0.0, "cpu").logits(x)
    return Prompt(number, tokens, values)


def _block(
    x: Tensor, keep: Tensor, names: tuple[str, str], random: torch.Generator, layer: int
) -> dict[Key, Tensor]:
    n = len(x)

    def draw(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=random) * keep.reshape(n, *[1] * len(shape))

    q, k, v = draw(HEADS, D_HEAD), draw(KV_HEADS, D_HEAD), draw(KV_HEADS, D_HEAD)
    every_k, every_v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, every_k) / D_HEAD**0.5
    scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
    pattern = scores.softmax(-1)
    z = torch.einsum("hqk,khd->qhd", pattern, every_v)
    attn, mlp, pre = draw(WIDTH), draw(WIDTH), draw(D_MLP)
    heads = {"q": q, "k": k, "v": v, "scores": scores, "pattern": pattern, "z": z, "result": z}
    inner = {"resid_mid": x + attn, "mlp_pre": pre, "mlp_post": pre.relu()}
    return {
        **{Key("", site, layer): value for site, value in heads.items()},
        Key.of_term("", names[0], layer): attn,
        **{Key("", site, layer): value for site, value in inner.items()},
        Key.of_term("", names[1], layer): mlp,
    }


@lru_cache(maxsize=16)
def readout(tolerance: float, device: str) -> Readout:
    """A readout with an RMS norm and random weights."""
    random = torch.Generator().manual_seed(7)
    weight = torch.randn(VOCAB, WIDTH, generator=random)
    bias = torch.randn(VOCAB, generator=random)
    return Readout(
        "synthetic", _rms, weight.to(device), bias.to(device), error=0.0, tolerance=tolerance
    )


def _rms(x: Tensor) -> Tensor:
    x = x if x.dtype == torch.float64 else x.float()
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def _block_weight(layer: int, name: str) -> Tensor:
    """A matrix of a block, as `interp.models.weights.BlockWeights` gives it."""
    weight: Tensor = getattr(stand_in_model(), name)[layer % 3]
    return weight


def stand_in_model() -> SimpleNamespace:
    """Random weights under the names that a bridge uses, without a model."""
    random = torch.Generator().manual_seed(11)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    cfg = SimpleNamespace(
        n_layers=3,
        d_model=WIDTH,
        d_vocab=VOCAB,
        n_ctx=N_CTX,
        n_heads=HEADS,
        n_key_value_heads=KV_HEADS,
        d_head=D_HEAD,
        d_mlp=D_MLP,
        model_name="synthetic",
        device="cpu",
        dtype=torch.float32,
    )
    return SimpleNamespace(
        cfg=cfg,
        tokenizer=None,
        W_E=draw(VOCAB, WIDTH),
        W_pos=draw(N_CTX, WIDTH),
        W_U=draw(WIDTH, VOCAB),
        b_U=draw(VOCAB),
        W_Q=draw(3, HEADS, WIDTH, D_HEAD),
        W_K=draw(3, KV_HEADS, WIDTH, D_HEAD),
        W_V=draw(3, KV_HEADS, WIDTH, D_HEAD),
        W_O=draw(3, HEADS, D_HEAD, WIDTH),
        W_in=draw(3, WIDTH, D_MLP),
        W_out=draw(3, D_MLP, WIDTH),
    )
