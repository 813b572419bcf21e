"""Measures a model's anatomy: one short pass with recorders on every candidate, one padded pass.

Verified, not assumed from names: a boundary must fire with the right shape, terms must add
up, a mid stream must equal x + a, a pattern's rows must be distributions, a readout must give the
model's own logits. Other people's hooks are silenced while it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations, pairwise, product
from math import inf
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from interp.contract.sites import SITES, TERM_HOOKS
from interp.errors import BadInput, Unsupported
from interp.geometry import at_least_float32, closing_error, norm
from interp.models.anatomy import TOLERANCE, Anatomy, Continuation, Padding, Positions, StackAnatomy
from interp.models.caches import cache_out
from interp.models.for_model import bos_id
from interp.models.forward import (
    call,
    capped,
    device_of,
    is_remote,
    logits_of,
    wrapped_model,
)
from interp.models.hooks import quiet, record
from interp.models.layout import EMBEDDINGS, Stack, hook_names, layout, named_stacks, own_children
from interp.models.lengths import PositionRows, cut_added, measured_multiple
from interp.models.origin import origin_of_weights, rounded_types
from interp.models.position_switch import position_switch
from interp.models.readout import Readout
from interp.models.weights import BlockWeights, head_results, unembedding_of
from interp.prompts.tokens import special_ids

PROBE_LENGTH = 16
PADS = 3
PADDED_LENGTH = 17
"""Columns of the padded pass: a prime, so that a stack that is padded to any block shows it."""
FIRST_PROMPTS, FIRST_LENGTH = 4, 32
"""Prompts and tokens of each by which the first position is judged: a median of several, because
one odd token may be large wherever it stands."""
LEAST_OTHERS = 7
"""Fewest other tokens whose median is a norm to compare with."""

KNOWN = "_interp_anatomy"
"""Attribute of a model that holds what is known of it."""
Seen = Mapping[str, list[Any]]


def inspect(model: Any) -> Anatomy:
    """Measures which sites of `model` can be observed, and verifies each.

    Takes a few small passes; the result is kept per model and measured again when
    the basis, the dtype or autocast changes. Raises `BadInput` for what is no bridge or has any
    part in training mode, `Unsupported` for a model that takes no tokens or has no blocks.

    Source of the rules: measured on 165 architectures of TransformerLens 4.3.
    """
    _require_bridge(model)
    version = (
        getattr(model, "compatibility_mode", False),
        _dtype(model),
        str(device_of(model)),
        _autocast(model),
    )
    known = vars(model).get(KNOWN)
    if known is not None and known.of() is model and known.version == version:
        kept: Anatomy = known.anatomy
        return kept
    with torch.no_grad(), quiet(model):
        anatomy = _measure(model)
    vars(model)[KNOWN] = _Known(anatomy, version, ref(model))
    return anatomy


@dataclass(frozen=True, eq=False)
class _Known:
    """The anatomy of a model, kept by the model: a copy of the model is measured for itself.

    An anatomy calls its model. In a table of all models, even one with weak keys, it would keep the
    model in memory for good; here both are a cycle, which goes when nobody uses them.
    """

    anatomy: Anatomy | None
    version: tuple[Any, ...]
    of: Callable[[], Any]

    def __deepcopy__(self, _: Any) -> _Known:
        return _Known(None, (), _nobody)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Known, (None, (), _nobody)


def _nobody() -> None:
    return None


def inspect_activations(values: Mapping[str, Any], mask: Tensor) -> Anatomy:
    """Anatomy of cached activations alone: sites and terms verified on their longest prompt.

    Args:
        values: activations by hook name, with or without the batch dimension.
        mask: `[batch, pos]`.

    Without a model there is no readout, and only stacks whose every state is there are read.
    """
    # The longest prompt: a site that is verified on one token is verified on nothing.
    row = int(mask.sum(1).argmax())
    real = mask[row].nonzero().squeeze(-1)
    cut = {n: _cut(n, v, row, real, mask.shape) for n, v in values.items()}
    seen: Seen = {name: [v] for name, v in cut.items() if v is not None}
    stacks = named_stacks(seen)
    if not stacks:
        raise Unsupported("this cache holds nothing of any block: no name like blocks.0.hook_in")
    widths = {seen[n][0].shape[-1] for s in stacks for group in s.boundaries for n in group}
    d_model, dtype = min(widths, default=0), _stream_dtype(None, stacks, seen)
    # Two names of one activation share its memory.
    first: dict[int, Any] = {}
    points = {name: first.setdefault(v[0].data_ptr(), v[0]) for name, v in seen.items()}
    none = BlockWeights(None, "")
    probes = [_StackProbe(s, seen, points, d_model, TOLERANCE[dtype], none) for s in stacks]
    measured = (probe.measure(()) for probe in probes)
    return Anatomy(
        model="a cache without its model",
        architecture="unknown",
        stacks=tuple(replace(s, first_token=_first_share(s, seen, slice(None))) for s in measured),
        readout=None,
        readout_stack=stacks[-1].name,
        readout_tried={},
        prepends_bos=False,
        padding=Padding(None, None, TOLERANCE[dtype]),
        basis="unknown",
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
        causal=True,
        d_model=d_model,
        d_vocab=0,
        n_ctx=None,
        has_logits=False,
    )


def _cut(name: str, value: Any, row: int, real: Tensor, shape: torch.Size) -> Tensor | None:
    """One prompt's part of an activation, padding removed; None for what is none of a block."""
    if not isinstance(value, Tensor) or value.ndim < 2 or not value.is_floating_point():
        return None
    square = name.endswith(("pattern", "scores"))
    batched = value if value.shape[0] == shape[0] and value.ndim > 2 + square else value[None]
    real, axis = real.to(value.device), 2 if square else 1
    if batched.shape[0] <= row or batched.ndim <= axis or batched.shape[axis] != shape[1]:
        return None
    one = batched[row : row + 1].index_select(axis, real)
    # A cut cache has some of the queries and all of the keys.
    return one.index_select(3, real) if square and one.shape[3] == shape[1] else one


def _require_bridge(model: Any) -> None:
    if not hasattr(model, "hook_dict") or not hasattr(model, "cfg"):
        raise BadInput(
            f"expected a TransformerBridge, got {type(model).__name__}; "
            "interp.load_model(name, folder or Hugging Face model) makes one"
        )
    refuse_training(model)


def refuse_training(model: Any) -> None:
    """Raises `BadInput` where any part of a model is in training mode and so may act at random.

    The bridge, the model inside it and each of their modules have a switch of their own:
    `train()` of a Hugging Face model leaves the one of the bridge around it as it was.
    """
    if is_remote(model):
        return
    roots = (model, wrapped_model(model))
    training = [m for m in _modules(*roots) if m.training]
    acting = {id(m) for m in training if m not in roots and _acts_in_training(m)}
    if acting or any(root.training for root in roots):
        named = (pair for root in roots for pair in root.named_modules())
        names = list(dict.fromkeys(name for name, module in named if id(module) in acting))
        which = f" ({len(names)} modules act: {', '.join(names[:3])}, …)" if names else ""
        raise BadInput(
            f"the model is in training mode{which}, where dropout changes every run; "
            "call model.eval()"
        )


def _modules(*roots: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """All modules, without their names: to join these takes longest in a model of thousands."""
    seen, waiting = set(), list(roots)
    while waiting:
        module = waiting.pop()
        if id(module) not in seen:
            seen.add(id(module))
            yield module
            waiting.extend(module.children())


def _acts_in_training(module: torch.nn.Module) -> bool:
    """True if a module computes something else in training: it drops, or averages over batches."""
    kinds = torch.nn.modules
    if isinstance(module, kinds.batchnorm._BatchNorm | kinds.instancenorm._InstanceNorm):
        return True
    if isinstance(module, kinds.dropout._DropoutNd):
        return module.p > 0
    return any(
        isinstance(value, float) and value > 0
        for name, value in vars(module).items()
        if any(word in name for word in ("drop", "jitter"))
    )


def _measure(model: Any) -> Anatomy:
    stacks = layout(model)
    points = hook_names(model)
    wanted = {name for stack in stacks for name in _candidates(stack) if name in points}
    tokens = probe_tokens(model)
    n = tokens.shape[1]
    with record({name: points[name] for name in wanted}) as seen, PositionRows(n) as rows:
        logits = _forward(model, tokens)
    added = cut_added(seen, stacks, n)
    if is_remote(model) and not model._driver.provides_sequence_logits:
        logits = None  # what came is of the last position only
    d_model = int(model.cfg.d_model)
    dtype = _stream_dtype(model, stacks, seen)
    tolerance = _tolerance(model, dtype)
    weights = {stack.name: BlockWeights(model, stack.path) for stack in stacks}
    measured = tuple(
        _StackProbe(stack, seen, points, d_model, tolerance, weights[stack.name]).measure(
            _blocks(model, stack)
        )
        for stack in stacks
    )
    measured = _with_first_token(model, measured, points, seen)
    readout_stack = _readout_stack(measured)
    readout, tried = _find_readout(model, measured, readout_stack, seen, logits, tolerance)
    causal = getattr(model.cfg, "attention_dir", "causal") == "causal"
    padded = _measure_padding(model, measured, points, tokens, seen, causal, tolerance)
    added |= padded.added
    measured = _with_multiples(model, measured, points, tokens, added, tolerance)
    cfg = model.cfg
    return Anatomy(
        model=str(getattr(cfg, "model_name", None) or type(model).__name__),
        architecture=str(getattr(cfg, "architecture", None) or type(model).__name__),
        stacks=measured,
        readout=readout,
        readout_stack=readout_stack,
        readout_tried=tried,
        prepends_bos=bool(getattr(cfg, "default_prepend_bos", False)),
        padding=padded.padding,
        positions=_measure_positions(model, measured, points, tokens, causal, tolerance),
        basis=_basis(model),
        dtype=dtype,
        tolerance=tolerance,
        causal=causal,
        d_model=d_model,
        d_vocab=int(getattr(cfg, "d_vocab", 0) or 0),
        n_ctx=_longest(model, measured, (rows, padded.rows)),
        has_logits=logits is not None and logits.ndim == 3,
        continuation=_measure_continuation(
            model, measured, points, tokens, seen, causal, tolerance
        ),
        rounded=rounded_types(origin_of_weights(model)),
        weights=weights,
    )


def _blocks(model: Any, stack: Stack) -> Any:
    return () if is_remote(model) else own_children(model)[stack.path]


def _basis(model: Any) -> str:
    """Name of the basis that the weights are in; results of two bases are not comparable."""
    if getattr(model, "compatibility_mode", False):
        return "compatibility mode"
    folded = str(getattr(model.cfg, "normalization_type", "")).endswith("Pre")
    hooked = not hasattr(model, "adapter")
    return "HookedTransformer, norms folded" if hooked and folded else "raw"


def probe_tokens(model: Any, length: int = PROBE_LENGTH) -> Tensor:
    """`[1, length]` pseudo-random ordinary token ids, the same at every call."""
    cfg = model.cfg
    vocab = int(getattr(cfg, "d_vocab", 0) or 0)
    if vocab < 2 or getattr(cfg, "is_audio_model", False) or getattr(cfg, "is_visual_model", False):
        raise Unsupported(
            f"{getattr(cfg, 'architecture', 'this model')} takes no text tokens; "
            "only models of text can be observed"
        )
    return ordinary_tokens(model, _within(model, length))[None]


def _within(model: Any, length: int) -> int:
    """The length, or that of the context if it is shorter."""
    return min(length, int(getattr(model.cfg, "n_ctx", None) or length))


def ordinary_tokens(model: Any, n: int) -> Tensor:
    """`[n]` pseudo-random ids that no tokenizer calls special, the same at every call."""
    vocab = int(model.cfg.d_vocab)
    tokenizer = getattr(model, "tokenizer", None)
    special = set(getattr(tokenizer, "all_special_ids", None) or ())  # the unknown word as well
    special |= set(special_ids(tokenizer)) if tokenizer is not None else set()
    ordinary = [i for i in range(min(vocab, 50_000)) if i not in special] or [0]
    # A generator of its own, so that the probe is the same whatever was drawn before.
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(ordinary), (n,), generator=generator, device="cpu")
    return torch.tensor(ordinary, device="cpu")[picks].to(device_of(model))


def _forward(
    model: Any, tokens: Tensor, mask: Tensor | None = None, **options: Any
) -> Tensor | None:
    """Runs the bridge and returns its logits if it has any. Random parts start from one seed."""
    # Put back afterwards: `inspect` must not change what the user draws next.
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    if mask is not None:
        options["attention_mask"] = mask
    try:
        out = call(model, tokens, **options)
    finally:
        torch.random.set_rng_state(state)
    return out if isinstance(out, Tensor) else logits_of(out)


def _candidates(stack: Stack) -> Iterator[str]:
    for group in stack.boundaries:
        yield from group
    inner = ["hook_resid_post", "hook_out"]
    inner += [h for site in SITES.values() for h in site.hooks]
    inner += [h for hooks in TERM_HOOKS.values() for h in hooks]
    for layer in range(stack.n_blocks):
        for hook in inner:
            yield stack.inside(layer, hook)


def _autocast(model: Any) -> torch.dtype | None:
    """Dtype of matrix products under autocast; None where they have that of the weights."""
    kind = device_of(model).type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _stream_dtype(model: Any, stacks: Sequence[Stack], seen: Seen) -> torch.dtype:
    """Dtype of the last state; under autocast that of the products, whose rounding it has.

    The embedding of Mamba in bfloat16 is rounded, and all states after it are float32.
    """
    rounded = None if model is None else _autocast(model)
    if rounded is not None:
        return rounded
    groups = (group for stack in reversed(stacks) for group in reversed(stack.boundaries))
    names = [name for group in groups for name in group]
    for value in (value for name in names for value in seen.get(name, ())):
        if isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point():
            return value.dtype
    return _dtype(model)


def _tolerance(model: Any, stream: torch.dtype) -> float:
    """That of the coarsest type: Mamba in bfloat16 keeps a float32 stream that its blocks round."""
    kinds = stream, _dtype(model)
    return max(TOLERANCE[kind] for kind in kinds if kind in TOLERANCE)


def _dtype(model: Any) -> torch.dtype:
    """Dtype of the weights, or of the config if the weights are remote."""
    first = None if is_remote(model) else next(model.parameters(), None)
    dtype = getattr(model.cfg, "dtype", torch.float32) if first is None else first.dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


# ---- one stack -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _StackProbe:
    """Recorded activations of one stack, and the questions put to them."""

    stack: Stack
    seen: Seen
    points: Mapping[str, Any]
    d_model: int
    tolerance: float
    weights: BlockWeights

    @cached_property
    def _crossed(self) -> set[str]:
        """Numbers of the blocks that have cross-attention."""
        path = f"{self.stack.path}."
        parts = (n.removeprefix(path).split(".", 2) for n in self.points if n.startswith(path))
        return {number for number, *inside in parts if inside[:-1] == ["cross_attn"]}

    def first(self, name: str | None) -> Any:
        """First activation of the hook, None if it never fired."""
        values = self.seen.get(name or "", [])
        return values[0] if values else None

    def measure(self, blocks: Any) -> StackAnatomy:
        n = self.stack.n_blocks
        boundaries, problems = self._boundaries()
        fires = max((len(self.seen[b]) for b in boundaries if b), default=0)
        problems += self._not_finite(boundaries) if not problems else []
        problems += self._unreadable(boundaries, fires) if not problems else []
        sites = {s: self._hooks_of(what.hooks) for s, what in SITES.items() if what.hooks}
        sites["pattern"] = tuple(h if self._is_pattern(h) else None for h in sites["pattern"])
        terms: tuple[Mapping[str, str], ...] = ({},) * n
        closing = (float("nan"),) * n
        if not problems:
            states = [self.first(b) for b in boundaries]
            pairs = [self._best_terms(i, states[i], states[i + 1]) for i in range(n)]
            terms, closing = (tuple(part) for part in zip(*pairs, strict=True))
        problems += self._unverified_input(boundaries, closing)
        closes = all(error <= self.tolerance for error in closing)
        sites["result"] = self._head_results(sites["z"], terms)
        mids = sites["resid_mid"]
        sites["resid_mid"] = tuple(
            mid if closes and self._is_mid(mid, self.first(boundaries[i]), terms[i]) else None
            for i, mid in enumerate(mids)
        )
        shapes = {
            s: tuple(self.first(_any(hooks)).shape) for s, hooks in sites.items() if _any(hooks)
        }
        return StackAnatomy(
            stack=self.stack,
            layout="unusual" if problems else _layout_name(terms, sites, closes, blocks),
            boundaries=tuple(b or "" for b in boundaries),
            fires=fires,
            sites=sites,
            shapes=shapes,
            terms=terms,
            closing=closing,
            closes=closes,
            row_sum_error=self._row_sum_error(sites["pattern"]),
            scores_pre_softmax=self._scores_before_softmax(sites),
            problems=tuple(problems),
        )

    def _boundaries(self) -> tuple[list[str | None], list[str]]:
        """First candidate per boundary that fired as `[batch, pos, d_model]`, and what is wrong."""
        found: list[str | None] = []
        problems: list[str] = []
        for index, group in enumerate(self.stack.boundaries):
            good = [n for n in group if self._is_stream(n)]
            found.append(good[0] if good else None)
            if not good:
                problems.append(self._missing_state(index, group))
        return found, problems[:1]

    def _is_stream(self, name: str) -> bool:
        values = self.seen.get(name, [])
        return bool(values) and all(
            isinstance(v, Tensor) and v.ndim == 3 and v.shape[-1] == self.d_model for v in values
        )

    def _missing_state(self, index: int, group: tuple[str, ...]) -> str:
        values = [v for n in group for v in self.seen.get(n, []) if isinstance(v, Tensor)]
        what = f"fired with shape {tuple(values[0].shape)}" if values else "never fired"
        names = ", ".join(group) or "no such hook"
        return f"no hook gives state {index} of {self.stack.path} ({names}: {what})"

    def _not_finite(self, boundaries: list[str | None]) -> list[str]:
        """The first state that holds NaN or infinity, and why that may be."""
        states = [self.first(boundary) for boundary in boundaries]
        bad = next((i for i, x in enumerate(states) if not bool(torch.isfinite(x).all())), None)
        if bad is None:
            return []
        kind = states[bad].dtype
        reason = "are its weights damaged?"
        if kind == torch.float16:
            reason = "float16 ends at 65,504: load the model in bfloat16 or float32"
        inside = f", after block {bad - 1}," if bad else ""
        return [f"state {bad} of {self.stack.path}{inside} is not finite; {reason}"]

    def _unreadable(self, boundaries: list[str | None], fires: int) -> list[str]:
        if fires > 1:
            return [
                f"{self.stack.path} run {fires} times in one pass (looped model); states of "
                "several rounds would be mixed"
            ]
        for layer in range(self.stack.n_blocks - 1):
            (post,) = self._hooks_of(("hook_resid_post", "hook_out"), layers=(layer,))
            post, after = self.first(post), self.first(boundaries[layer + 1])
            if isinstance(post, Tensor) and post.shape == after.shape:
                error = relative(post, after)
                if error > self.tolerance:  # RWKV divides the stream between some blocks
                    return [
                        f"state {layer + 1} of {self.stack.path} is rescaled between blocks "
                        f"(relative difference {error:.2g})"
                    ]
        return []

    def _unverified_input(
        self, boundaries: list[str | None], closing: tuple[float, ...]
    ) -> list[str]:
        """The embedding is x_0 only where block 0's terms lead from it to x_1."""
        if boundaries[0] not in EMBEDDINGS or closing[0] <= self.tolerance:
            return []
        return [
            f"no hook gives state 0 of {self.stack.path}, and {boundaries[0]} with the terms of "
            f"block 0 does not lead to state 1 (relative error {closing[0]:.2g})"
        ]

    def _best_terms(
        self, layer: int, before: Tensor, after: Tensor
    ) -> tuple[Mapping[str, str], float]:
        """The largest set of named terms that adds up to the step, else the nearest one."""
        fired = self._fired_terms(layer, before)
        best: tuple[Mapping[str, str], float] = ({}, float("inf"))
        # The largest set first: without a term that is small on the probe the sum may close as
        # well.
        for size in range(len(fired), 0, -1):
            for names in combinations(fired, size):
                for hooks in product(*(fired[n] for n in names)):
                    parts = [self.first(hook) for hook in hooks]
                    # Undefined only where the stream is zero; such a token says nothing about the
                    # terms.
                    error = float(closing_error(before, parts, after).nan_to_num().max())
                    if error < best[1]:
                        best = (dict(zip(names, hooks, strict=True)), error)
                    if error <= self.tolerance:
                        return best
        return best if fired else ({}, float("nan"))

    def _fired_terms(self, layer: int, before: Tensor) -> dict[str, list[str]]:
        """Per term the hooks that fired once with the shape of the stream, likeliest first."""
        fired: dict[str, list[str]] = {}
        used: set[int] = set()
        crossed = str(layer) in self._crossed
        # First choices of every term before second ones: names further down the lists are norms
        # that carry one term in one family and another in the next.
        for rank in range(max(map(len, TERM_HOOKS.values()))):
            for term, hooks in TERM_HOOKS.items():
                if rank >= len(hooks) or (term == "cross_attn" and not crossed):
                    continue
                name = self.stack.inside(layer, hooks[rank])
                value = self.first(name)
                fits = isinstance(value, Tensor) and value.shape == before.shape
                # One hook point under two spellings is one candidate.
                if fits and len(self.seen[name]) == 1 and id(self.points[name]) not in used:
                    fired.setdefault(term, []).append(name)
                    used.add(id(self.points[name]))
        return {term: fired[term] for term in TERM_HOOKS if term in fired}

    def _hooks_of(
        self, hooks: tuple[str, ...], layers: Iterable[int] | None = None
    ) -> tuple[str | None, ...]:
        """Per block the first of these hooks that fired with a tensor."""
        found = []
        for layer in range(self.stack.n_blocks) if layers is None else layers:
            names = (self.stack.inside(layer, hook) for hook in hooks)
            found.append(next((n for n in names if isinstance(self.first(n), Tensor)), None))
        return tuple(found)

    def _is_mid(self, name: str | None, before: Tensor, terms: Mapping[str, str]) -> bool:
        """A mid hook counts only where it equals x plus every term before the MLP."""
        early = [self.first(hook) for term, hook in terms.items() if term != "mlp"]
        mid = self.first(name)
        if mid is None or "mlp" not in terms or not early or mid.shape != before.shape:
            return False
        return bool(closing_error(before, early, mid).nan_to_num().max() <= self.tolerance)

    def _head_results(
        self, hooks: tuple[str | None, ...], terms: tuple[Mapping[str, str], ...]
    ) -> tuple[str | None, ...]:
        """The hooks of z in those blocks where z W_O + b_O is the attention term."""
        pairs = enumerate(zip(hooks, terms, strict=True))
        return tuple(
            z if self._is_sum_of_heads(layer, z, block.get("attn")) else None
            for layer, (z, block) in pairs
        )

    def _is_sum_of_heads(self, layer: int, z_hook: str | None, term_hook: str | None) -> bool:
        z, term, weight = self.first(z_hook), self.first(term_hook), self.weights.find(layer, "W_O")
        if z is None or term is None or weight is None:
            return False
        if z.ndim != 4 or tuple(weight.shape) != (*z.shape[2:], term.shape[-1]):
            return False
        summed = head_results(z, weight).sum(2)
        bias = self.weights.find(layer, "b_O")
        summed = summed if bias is None else summed + bias.to(summed)
        return relative(summed, term) <= self.tolerance

    def _is_pattern(self, name: str | None) -> bool:
        """Weights between 0 and 1 in rows that sum to at most 1: `[1, head, query, key]`."""
        value = self.first(name)
        return (
            isinstance(value, Tensor)
            and value.ndim == 4
            and value.shape[0] == 1
            and value.shape[-1] >= value.shape[-2]
            and bool((value >= 0).all())
            # At most 1, not equal: sink logits take attention away from every token.
            and bool((value.float().sum(-1) <= 1 + 1e-2).all())
        )

    def _row_sum_error(self, hooks: tuple[str | None, ...]) -> float:
        patterns = [self.first(h).float() for h in hooks if h]
        return max((float((1 - p.sum(-1)).abs().max()) for p in patterns), default=float("nan"))

    def _scores_before_softmax(self, sites: Mapping[str, tuple[str | None, ...]]) -> bool | None:
        verdicts = []
        for names in zip(sites["scores"], sites["pattern"], strict=True):
            score, pattern = map(self.first, names)
            if score is not None and pattern is not None and score.shape == pattern.shape:
                again = score.float().softmax(-1)
                verdicts.append(bool((again - pattern.float()).abs().max() < 1e-2))
        return all(verdicts) if verdicts else None


def _any(hooks: tuple[str | None, ...]) -> str | None:
    return next((h for h in hooks if h), None)


def relative(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖ over everything, as one number."""
    a, b = at_least_float32(a), at_least_float32(b)
    size = torch.linalg.vector_norm(b)
    return float(torch.linalg.vector_norm(a - b) / size) if size > 0 else float((a != 0).any())


def _layout_name(
    terms: tuple[Mapping[str, str], ...],
    sites: Mapping[str, tuple[str | None, ...]],
    closes: bool,
    blocks: Any,
) -> str:
    kinds = {tuple(block) for block in terms}
    if not closes:
        return "not additive by name" if not any(terms) else "not additive"
    if len(kinds) > 1:
        return "hybrid: " + ", ".join(sorted(" + ".join(k) for k in kinds))
    (kind,) = kinds
    if "mlp" not in kind:
        return " + ".join(kind) + " only"
    if "cross_attn" in kind:
        return "sequential with cross-attention"
    if not any(sites["resid_mid"]):
        return "parallel" if len(blocks) else "no stream between attention and MLP to be seen"
    normed = any({"ln1_post", "ln2_post"} & set(own_children(block)) for block in blocks)
    return "sandwich norm, sequential" if normed else "sequential"


# ---- readout ---------------------------------------------------------------------------------


def _readout_stack(stacks: tuple[StackAnatomy, ...]) -> str:
    names = [s.name for s in stacks]
    return "decoder" if "decoder" in names else names[-1]


def _paths(model: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """Candidate ways from the last state to what the unembedding reads, by name."""
    has = own_children(model)
    scale = float(model.cfg.d_model) ** -0.5
    paths: dict[str, Callable[[Tensor], Tensor]] = {}
    for final in ("ln_final", "decoder_ln_final", "H_ln_final", "coda_ln_final"):
        if final in has:
            paths[f"unembed({final}(x))"] = partial(_call, model, (final,))
    if "decoder_ln_final" in has:
        inner = partial(_call, model, ("decoder_ln_final",))
        paths["unembed(decoder_ln_final(x) · d_model^-½)"] = lambda x: inner(x) * scale
    paths["unembed(x)"] = lambda x: x
    if {"mlm_head", "ln_final"} <= set(has):
        paths["unembed(ln_final(gelu(mlm_head(x))))"] = lambda x: _call(
            model, ("ln_final",), torch.nn.functional.gelu(_call(model, ("mlm_head",), x))
        )
    for extra, order in (
        ("prediction_head", ("ln_final", "prediction_head")),
        ("project_out", ("project_out",)),
    ):
        if set(order) <= set(has):
            paths[f"unembed({'('.join(reversed(order))}(x{')' * len(order)})"] = partial(
                _call, model, order
            )
            if extra == "project_out" and "ln_final" in has:
                paths["unembed(project_out(ln_final(x)))"] = partial(
                    _call, model, ("ln_final", "project_out")
                )
    return paths


def _call(model: Any, modules: tuple[str, ...], x: Tensor) -> Tensor:
    for name in modules:
        module = getattr(model, name)
        with quiet(module):
            x = module(x)
    return x


def _find_readout(
    model: Any,
    stacks: tuple[StackAnatomy, ...],
    stack_name: str,
    seen: Seen,
    logits: Tensor | None,
    tolerance: float,
) -> tuple[Readout | None, dict[str, float]]:
    stack = next(s for s in stacks if s.name == stack_name)
    if stack.problems or logits is None or logits.ndim != 3:
        return None, {}
    try:
        weight, bias = unembedding_of(model)
    except Unsupported:
        return None, {}
    x = seen[stack.boundaries[-1]][0][0]
    tried: dict[str, float] = {}
    for path, normalise in _paths(model).items():
        readout = Readout(path, normalise, weight, bias, output_transform(model), 0.0, tolerance)
        error = _try(readout, x, logits[0])
        if error is None:
            continue
        tried[path] = error
        if error <= tolerance:
            verified = Readout(path, normalise, weight, bias, readout.transform, error, tolerance)
            return verified, tried
    return None, tried


def output_transform(model: Any) -> Callable[[Tensor], Tensor]:
    """Function that the model applies to its unembedding's output: soft cap, scale or none."""
    if not hasattr(model, "adapter"):
        return partial(capped, cfg=model.cfg)
    transform: Callable[[Tensor], Tensor] = model.adapter.apply_output_logits_transform
    return transform


def _try(readout: Readout, x: Tensor, logits: Tensor) -> float | None:
    """Identity error of a candidate on the probe, None where shapes do not even fit."""
    if x.shape[0] != logits.shape[0]:
        return None
    try:
        error = float(readout.identity_error(x, logits).max())
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    return error if error == error else float("inf")


# ---- positions -------------------------------------------------------------------------------


def _measure_positions(
    model: Any,
    stacks: tuple[StackAnatomy, ...],
    points: Mapping[str, Any],
    tokens: Tensor,
    causal: bool,
    tolerance: float,
) -> Positions:
    """A few short passes whose last token claims to stand far away."""
    last = stacks[-1]
    state = last.boundaries[-1] if causal and len(stacks) == 1 and not last.problems else None
    return Positions(*position_switch(model, points, state, tokens, tolerance))


# ---- the first token -------------------------------------------------------------------------


def _with_first_token(
    model: Any, stacks: tuple[StackAnatomy, ...], points: Mapping[str, Any], seen: Seen
) -> tuple[StackAnatomy, ...]:
    """The stacks with the norm of the first token, without and with BOS, against the others'.

    Source: massive activations of a first token, Sun et al. 2402.17762; they make it an attention
    sink, Xiao et al. 2309.17453.
    """
    watched = {b for s in stacks if not s.problems for b in s.boundaries}
    rows = _first_rows(model)
    plain, behind_bos = slice(None), None
    if rows is not None and watched and not is_remote(model):  # drivers take one prompt at a time
        try:
            with record({name: points[name] for name in watched}, stop=True) as seen:
                _forward(model, rows)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return stacks
        cut_added(seen, (s.stack for s in stacks), rows.shape[1])
        plain = slice(FIRST_PROMPTS)
        behind_bos = slice(FIRST_PROMPTS, None) if len(rows) > FIRST_PROMPTS else None
    return tuple(
        replace(
            stack,
            first_token=_first_share(stack, seen, plain),
            bos_token=_first_share(stack, seen, behind_bos) if behind_bos else math.nan,
        )
        for stack in stacks
    )


def _first_rows(model: Any) -> Tensor | None:
    """`[prompts, pos]` ordinary ids, then the same behind BOS where the model knows one.

    None where the context is too short for a median of others.
    """
    length = _within(model, FIRST_LENGTH)
    if length < LEAST_OTHERS + 1:
        return None
    flat = ordinary_tokens(model, FIRST_PROMPTS * length)
    plain, bos = flat.reshape(FIRST_PROMPTS, length), bos_id(model)
    if bos is None:
        return plain
    behind = torch.cat([torch.full_like(plain[:, :1], bos), plain[:, :-1]], dim=1)
    return torch.cat([plain, behind])


def _first_share(stack: StackAnatomy, seen: Seen, prompts: slice) -> float:
    """‖x_0‖ over the median of ‖x_1‖, ‖x_2‖ …: the median over prompts, the largest of all states.

    NaN where there is no stream or there are fewer than `LEAST_OTHERS` other tokens.
    """
    largest = math.nan
    for name in stack.boundaries if not stack.problems else ():
        values = seen.get(name) or [None]
        if not isinstance(values[0], Tensor) or values[0].shape[1] <= LEAST_OTHERS:
            return math.nan
        size = norm(at_least_float32(values[0][prompts]))
        others = size[:, 1:].median(dim=1).values
        ratio = float((size[:, 0] / others.clamp(min=1e-30)).median())
        if math.isfinite(ratio):  # float16 may overflow
            largest = ratio if math.isnan(largest) else max(largest, ratio)
    return largest


# ---- padding ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Padded:
    """Measurements of a padded pass.

    `added` names the stacks whose states have another number of columns than the batch, `rows`
    the tables of positions.
    """

    padding: Padding
    rows: PositionRows
    added: frozenset[str] = frozenset()


def _measure_padding(
    model: Any,
    stacks: tuple[StackAnatomy, ...],
    points: Mapping[str, Any],
    tokens: Tensor,
    seen: Seen,
    causal: bool,
    tolerance: float,
) -> _Padded:
    """One pass with the probe right-padded, left-padded and with another last token."""
    watched = [s.boundaries[-1] for s in stacks if not s.problems]
    single = tokens[:, :-PADS] if tokens.shape[1] > 2 * PADS else tokens
    length, total = single.shape[1], _within(model, PADDED_LENGTH)
    rows, lists = PositionRows(total), [s.stack for s in stacks]
    unknown = _Padded(Padding(None, None, tolerance), rows)
    if not watched or is_remote(model):  # drivers take one prompt at a time
        return unknown
    try:
        with record({n: points[n] for n in watched}, stop=True) as batch, rows:
            _forward(model, *_padded(single, total))
        added = cut_added(batch, lists, total)
        if causal and len(stacks) == 1:
            reference = {n: seen[n][0][:, :length] for n in watched}
        else:
            with record({n: points[n] for n in watched}, stop=True) as alone:
                _forward(model, single)
            cut_added(alone, lists, length)
            reference = {n: alone[n][0] for n in watched}
    except (RuntimeError, TypeError, ValueError, IndexError):
        return unknown
    right = _padding_error(batch, reference, 0, slice(0, length))
    left = _padding_error(batch, reference, 1, slice(-length, None))
    return _Padded(Padding(right, left, tolerance), rows, frozenset(added))


def _padded(single: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """`[2, total]`: the prompt padded on the right, then on the left, and the mask."""
    # An ordinary id as padding: models without a padding token have none to offer.
    pads = single[:, :1].expand(1, total - single.shape[1])
    rows = torch.cat([torch.cat([single, pads], 1), torch.cat([pads, single], 1)])
    mask = torch.ones_like(rows)
    mask[0, single.shape[1] :] = 0
    mask[1, : total - single.shape[1]] = 0
    return rows, mask


def _padding_error(
    batch: Seen, reference: Mapping[str, Tensor], row: int, rows: slice
) -> float | None:
    errors = []
    for name, expected in reference.items():
        got = batch[name][0][row : row + 1, rows]
        if got.shape != expected.shape:
            return None
        # Relative to the longest vector: a short one may differ by a large share of itself in
        # rounding.
        scale = norm(expected).max().clamp(min=1e-30)
        errors.append(
            float((norm(at_least_float32(got) - at_least_float32(expected)) / scale).max())
        )
    return max(errors, default=None)


def _with_multiples(
    model: Any,
    stacks: tuple[StackAnatomy, ...],
    points: Mapping[str, Any],
    tokens: Tensor,
    added: Collection[str],
    tolerance: float,
) -> tuple[StackAnatomy, ...]:
    """The stacks with the multiple to which the model pads those that are named."""

    def measured(stack: StackAnatomy) -> StackAnatomy:
        def last_state(ids: Tensor, mask: Tensor | None) -> Tensor:
            with record({"last": points[stack.boundaries[-1]]}, stop=True) as seen:
                _forward(model, ids, mask)
            state: Tensor = seen["last"][0]
            return state

        try:
            multiple, problem = measured_multiple(last_state, tokens, tolerance)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            multiple, problem = 1, f"{type(error).__name__}: {error}"
        why = f"the states of {stack.stack.path} have other columns than the prompt has tokens, "
        problems = (f"{why}and which are whose is not known: {problem}",) if problem else ()
        return replace(stack, multiple=multiple, problems=problems)

    return tuple(measured(s) if s.name in added and not s.problems else s for s in stacks)


def _longest(
    model: Any, stacks: Iterable[StackAnatomy], tables: Iterable[PositionRows]
) -> int | None:
    """Tokens of the longest prompt: what the configuration names and every table has rows for."""
    multiple = max(stack.multiple for stack in stacks)
    limits = [getattr(model.cfg, "n_ctx", None), *(rows.longest(multiple) for rows in tables)]
    return min((limit for limit in limits if limit), default=None)


# ---- continuing a cache ----------------------------------------------------------------------


class _NoCache(Exception):
    """A pass that was asked for a cache left none."""


# Each architecture refuses in its own way what it cannot do.
_REFUSALS = (
    _NoCache,
    ImportError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _measure_continuation(
    model: Any,
    stacks: tuple[StackAnatomy, ...],
    points: Mapping[str, Any],
    tokens: Tensor,
    seen: Seen,
    causal: bool,
    tolerance: float,
) -> Continuation:
    """Short passes that go on from a cache, against the same tokens of the probe's whole pass."""
    reason = _not_continued(model, stacks, causal)
    if reason or tokens.shape[1] <= PADS:
        return Continuation(None, None, tolerance, reason or "the context is too short")
    name, length = stacks[0].boundaries[-1], tokens.shape[1]
    whole = seen[name][0]
    missed: list[str] = []

    def errors(*starts: int) -> list[float | None]:
        """Of every continuation, each from its start to the next one's; None of the refused."""
        found: list[float | None] = []
        missed.clear()
        parts = [slice(*ends) for ends in pairwise((*starts, length))]
        try:
            later = _continued(model, points[name], tokens, parts)
            for part, state in zip(parts, later, strict=True):
                same = whole[:, part]
                found.append(relative(state, same) if state.shape == same.shape else inf)
        except _REFUSALS as no:
            first = (str(no).splitlines() or [""])[0][:80]
            missed.append(f"{type(no).__name__.lstrip('_')}: {first}".removesuffix(": "))
        return found + [None] * (len(starts) - len(found))

    # One token and then several go on from one cache, which saves a pass.
    if length > PADS + 1:
        one, several = errors(length - PADS - 1, length - PADS)
        if all(error is not None and error <= tolerance for error in (one, several)):
            return Continuation(one, several, tolerance, "")
    # Where either fails, each is judged by itself.
    (one,), reasons = errors(length - 1), list(missed)
    (several,), reasons = errors(length - PADS), [*reasons, *missed]
    return Continuation(one, several, tolerance, "; ".join(dict.fromkeys(reasons)))


def _not_continued(model: Any, stacks: tuple[StackAnatomy, ...], causal: bool) -> str:
    if is_remote(model) or wrapped_model(model) is model:
        return "not known for this kind of model"
    if not causal or len(stacks) != 1:
        return "both directions" if not causal else "several stacks"
    return "; ".join(stacks[0].problems)


def _continued(model: Any, point: Any, tokens: Tensor, parts: Sequence[slice]) -> Iterator[Tensor]:
    """Activations at `point` for each part of the tokens, the last of which ends with them.

    Each is of a pass that continues the cache of the one before.
    """
    outputs: list[Any] = []
    inner = wrapped_model(model)
    handle = inner.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        _forward(model, tokens[:, : parts[0].start], use_cache=True)
        for part in parts:
            cache = cache_out(outputs[-1]) if outputs else None
            if cache is None:
                raise _NoCache("a pass leaves none")
            recurrent = getattr(outputs[-1], "cache_params", None) is cache
            given = {"cache_params" if recurrent else "past_key_values": cache}
            # Only the last one needs no cache of its own, and may end early.
            with record({"later": point}, stop=part is parts[-1]) as seen:
                mask = torch.ones_like(tokens[:, : part.stop])
                _forward(model, tokens[:, part], mask, use_cache=True, **given)
            yield seen["later"][0]
    finally:
        handle.remove()
