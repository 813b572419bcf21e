"""Measures a model's anatomy: one short pass with recorders on every candidate, one padded pass.

Nothing is believed because of its name: a boundary must fire with the right shape, terms must add
up, a mid stream must equal x + a, a pattern's rows must be distributions, a readout must give the
model's own logits. Other people's hooks are silenced while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from interp.anatomy import TOLERANCE, Anatomy, Padding, StackAnatomy
from interp.attach import logits_of, quiet, record
from interp.errors import BadInput, Unsupported
from interp.geometry import at_least_float32, closing_error, norm
from interp.readout import Readout
from interp.sites import SITES, TERM_HOOKS, Stack, hook_names, layout, own_children

PROBE_LENGTH = 16
PADS = 3

_cache: WeakKeyDictionary[Any, tuple[tuple[Any, ...], Anatomy]] = WeakKeyDictionary()
Seen = Mapping[str, list[Any]]


def inspect(model: Any) -> Anatomy:
    """Measure what can be attached to `model`, and what was verified.

    Takes a short probe of two small passes; the result is kept per model and measured again when
    the basis or the dtype changes. Raises `BadInput` for what is no bridge or is in training
    mode, `Unsupported` for a model that takes no tokens or has no blocks.

    Source of the rules: measured on 165 architectures of TransformerLens 4.3.
    """
    _require_bridge(model)
    version = (
        getattr(model, "compatibility_mode", False),
        next(model.parameters()).dtype,
        str(next(model.parameters()).device),
    )
    known = _cache.get(model)
    if known is not None and known[0] == version:
        return known[1]
    with torch.no_grad(), quiet(model):
        anatomy = _measure(model)
    _cache[model] = (version, anatomy)
    return anatomy


def _require_bridge(model: Any) -> None:
    if not hasattr(model, "hook_dict") or not hasattr(model, "cfg"):
        raise BadInput(
            f"expected a TransformerBridge, got {type(model).__name__}; "
            "interp.load_model(name, folder or Hugging Face model) makes one"
        )
    if getattr(model, "training", False):
        raise BadInput(
            "the model is in training mode, where dropout changes every run; call model.eval()"
        )


def _measure(model: Any) -> Anatomy:
    stacks = layout(model)
    points = hook_names(model)
    wanted = {name for stack in stacks for name in _candidates(stack) if name in points}
    tokens = probe_tokens(model)
    with record({name: points[name] for name in wanted}) as seen:
        logits = _forward(model, tokens)
    d_model = int(model.cfg.d_model)
    tolerance = TOLERANCE[_stream_dtype(model, seen)]
    measured = tuple(
        _measure_stack(stack, seen, points, d_model, tolerance, model) for stack in stacks
    )
    readout_stack = _readout_stack(measured)
    readout, tried = _find_readout(model, measured, readout_stack, seen, logits, tolerance)
    padding, causal = _measure_padding(model, measured, points, tokens, seen, tolerance)
    cfg = model.cfg
    return Anatomy(
        model=str(getattr(cfg, "model_name", None) or type(model).__name__),
        architecture=str(getattr(cfg, "architecture", None) or type(model).__name__),
        stacks=measured,
        readout=readout,
        readout_stack=readout_stack,
        readout_tried=tried,
        prepends_bos=bool(getattr(cfg, "default_prepend_bos", False)),
        padding=padding,
        basis="compatibility mode" if getattr(model, "compatibility_mode", False) else "raw",
        dtype=_stream_dtype(model, seen),
        tolerance=tolerance,
        causal=causal,
        d_model=d_model,
        d_vocab=int(getattr(cfg, "d_vocab", 0) or 0),
        n_ctx=getattr(cfg, "n_ctx", None),
    )


def probe_tokens(model: Any, length: int = PROBE_LENGTH) -> Tensor:
    """`[1, length]` pseudo-random ordinary token ids, the same at every call."""
    cfg = model.cfg
    vocab = int(getattr(cfg, "d_vocab", 0) or 0)
    if vocab < 2 or getattr(cfg, "is_audio_model", False) or getattr(cfg, "is_visual_model", False):
        raise Unsupported(
            f"{getattr(cfg, 'architecture', 'this model')} takes no text tokens; "
            "only models of text can be observed"
        )
    special = set(getattr(getattr(model, "tokenizer", None), "all_special_ids", None) or ())
    ordinary = [i for i in range(min(vocab, 50_000)) if i not in special] or [0]
    length = min(length, getattr(cfg, "n_ctx", None) or length)
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(ordinary), (1, length), generator=generator)
    device = next(model.parameters()).device
    return torch.tensor(ordinary)[picks].to(device)


def _forward(model: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """Run the bridge; returns its logits if it has any. Random parts start from one seed."""
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        out = model(tokens) if mask is None else model(tokens, attention_mask=mask)
    finally:
        torch.random.set_rng_state(state)
    return out if isinstance(out, Tensor) else logits_of(out)


def _candidates(stack: Stack) -> Iterator[str]:
    for group in stack.boundaries:
        yield from group
    inner = [h for site in SITES.values() for h in site.hooks]
    inner += [h for hooks in TERM_HOOKS.values() for h in hooks]
    for layer in range(stack.n_blocks):
        for hook in inner:
            yield stack.inside(layer, hook)


def _stream_dtype(model: Any, seen: Seen) -> torch.dtype:
    for values in seen.values():
        for value in values:
            if isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point():
                return value.dtype
    dtype: torch.dtype = next(model.parameters()).dtype
    return dtype


# ---- one stack -------------------------------------------------------------------------------


def _measure_stack(
    stack: Stack,
    seen: Seen,
    points: Mapping[str, Any],
    d_model: int,
    tolerance: float,
    model: Any,
) -> StackAnatomy:
    boundaries, problems = _boundaries(stack, seen, d_model)
    fires = max((len(seen[b]) for b in boundaries if b), default=0)
    if fires > 1:
        problems.append(
            f"its blocks run {fires} times in one pass (looped model); states of several rounds "
            "would be mixed"
        )
    elif not problems:
        problems += _broken_joints(stack, boundaries, seen, points, tolerance)
    usable = not problems
    terms, closing = (
        _measure_terms(stack, boundaries, seen, points, tolerance)
        if usable
        else (tuple({} for _ in range(stack.n_blocks)), (float("nan"),) * stack.n_blocks)
    )
    closes = usable and all(error <= tolerance for error in closing)
    sites, shapes = _fired_sites(stack, seen)
    if usable:
        sites["resid_mid"] = _true_mids(
            stack, boundaries, terms, sites["resid_mid"], seen, closes, tolerance
        )
    _drop_false_patterns(sites, seen)
    return StackAnatomy(
        stack=stack,
        layout=_layout_name(stack, boundaries, terms, sites, closes, model)
        if usable
        else "unusual",
        boundaries=tuple(b or "" for b in boundaries),
        fires=fires,
        sites=sites,
        shapes=shapes,
        terms=terms,
        closing=closing,
        closes=closes,
        row_sum_error=_row_sum_error(sites, seen),
        scores_pre_softmax=_scores_before_softmax(sites, seen),
        problems=tuple(problems),
    )


def _boundaries(stack: Stack, seen: Seen, d_model: int) -> tuple[list[str | None], list[str]]:
    """First candidate per boundary that fired as `[batch, pos, d_model]`, and what is wrong."""
    found: list[str | None] = []
    problems: list[str] = []
    for index, group in enumerate(stack.boundaries):
        good = [n for n in group if _is_stream(seen.get(n, []), d_model)]
        found.append(good[0] if good else None)
        if not good:
            shapes = [
                tuple(v.shape) for n in group for v in seen.get(n, []) if isinstance(v, Tensor)
            ]
            what = f"fired with shape {shapes[0]}" if shapes else "never fired"
            problems.append(
                f"no hook gives state {index} of {stack.path} ({', '.join(group) or 'none exists'}: {what})"
            )
    return found, problems[:1]


def _is_stream(values: list[Any], d_model: int) -> bool:
    return bool(values) and all(
        isinstance(v, Tensor) and v.ndim == 3 and v.shape[-1] == d_model for v in values
    )


def _broken_joints(
    stack: Stack,
    boundaries: list[str | None],
    seen: Seen,
    points: Mapping[str, Any],
    tolerance: float,
) -> list[str]:
    """Blocks whose output is not what the next one gets (RWKV rescales in between)."""
    for layer in range(stack.n_blocks - 1):
        post = seen.get(stack.inside(layer, "hook_out"), [])
        after = seen[boundaries[layer + 1] or ""]
        if post and isinstance(post[0], Tensor) and post[0].shape == after[0].shape:
            error = _relative(post[0], after[0])
            if error > tolerance:
                return [
                    f"state {layer + 1} of {stack.path} is rescaled between blocks (relative difference {error:.2g})"
                ]
    return []


def _relative(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖ over everything, as one number."""
    a, b = at_least_float32(a), at_least_float32(b)
    size = torch.linalg.vector_norm(b)
    return float(torch.linalg.vector_norm(a - b) / size) if size > 0 else float((a != 0).any())


def _measure_terms(
    stack: Stack,
    boundaries: list[str | None],
    seen: Seen,
    points: Mapping[str, Any],
    tolerance: float,
) -> tuple[tuple[Mapping[str, str], ...], tuple[float, ...]]:
    terms, closing = [], []
    for layer in range(stack.n_blocks):
        before, after = (seen[boundaries[layer + k] or ""][0] for k in (0, 1))
        names, error = _best_terms(stack, layer, before, after, seen, points, tolerance)
        terms.append(names)
        closing.append(error)
    return tuple(terms), tuple(closing)


def _best_terms(
    stack: Stack,
    layer: int,
    before: Tensor,
    after: Tensor,
    seen: Seen,
    points: Mapping[str, Any],
    tolerance: float,
) -> tuple[dict[str, str], float]:
    """The named terms that add up to the step; the largest set that closes, else the best one."""
    fired = _fired_terms(stack, layer, before, seen, points)
    best: tuple[dict[str, str], float] = ({}, float("inf"))
    for size in range(len(fired), 0, -1):
        for names in combinations(fired, size):
            chosen = {n: fired[n] for n in names}
            parts = [seen[hook][0] for hook in chosen.values()]
            error = float(closing_error(before, parts, after).nan_to_num().max())
            if error < best[1]:
                best = (chosen, error)
        if best[1] <= tolerance:
            return best
    return best if fired else ({}, float("nan"))


def _fired_terms(
    stack: Stack, layer: int, before: Tensor, seen: Seen, points: Mapping[str, Any]
) -> dict[str, str]:
    fired: dict[str, str] = {}
    used: set[int] = set()
    for term, hooks in TERM_HOOKS.items():
        for hook in hooks:
            name = stack.inside(layer, hook)
            values = seen.get(name, [])
            fits = (
                len(values) == 1
                and isinstance(values[0], Tensor)
                and values[0].shape == before.shape
            )
            # One hook point under two spellings is one term.
            if fits and id(points[name]) not in used:
                fired[term] = name
                used.add(id(points[name]))
                break
    return fired


def _fired_sites(
    stack: Stack, seen: Seen
) -> tuple[dict[str, tuple[str | None, ...]], dict[str, tuple[int, ...]]]:
    sites: dict[str, tuple[str | None, ...]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for site, what in SITES.items():
        if not what.hooks:
            continue
        hooks = tuple(_fired(stack, layer, what.hooks, seen) for layer in range(stack.n_blocks))
        sites[site] = hooks
        name = next((h for h in hooks if h), None)
        if name:
            shapes[site] = tuple(seen[name][0].shape)
    return sites, shapes


def _fired(stack: Stack, layer: int, hooks: tuple[str, ...], seen: Seen) -> str | None:
    names = (stack.inside(layer, hook) for hook in hooks)
    return next((n for n in names if seen.get(n) and isinstance(seen[n][0], Tensor)), None)


def _true_mids(
    stack: Stack,
    boundaries: list[str | None],
    terms: tuple[Mapping[str, str], ...],
    candidates: tuple[str | None, ...],
    seen: Seen,
    closes: bool,
    tolerance: float,
) -> tuple[str | None, ...]:
    """Keep a mid hook only where it equals x plus every term before the MLP."""
    if not closes:
        return (None,) * stack.n_blocks
    kept: list[str | None] = []
    for layer, name in enumerate(candidates):
        early = [seen[h][0] for t, h in terms[layer].items() if t != "mlp"]
        before = seen[boundaries[layer] or ""][0]
        good = (
            name is not None
            and "mlp" in terms[layer]
            and bool(early)
            and seen[name][0].shape == before.shape
        )
        if good and name is not None:
            error = closing_error(before, early, seen[name][0]).nan_to_num().max()
            good = bool(error <= tolerance)
        kept.append(name if good else None)
    return tuple(kept)


def _drop_false_patterns(sites: dict[str, tuple[str | None, ...]], seen: Seen) -> None:
    """A pattern has weights between 0 and 1 in rows that sum to at most 1, one set per prompt."""
    kept = []
    for name in sites["pattern"]:
        pattern = seen[name][0] if name else None
        good = (
            pattern is not None
            and pattern.ndim == 4
            and pattern.shape[0] == 1
            and pattern.shape[-1] == pattern.shape[-2]
            and bool((pattern >= 0).all())
            and bool((pattern.float().sum(-1) <= 1 + 1e-2).all())
        )
        kept.append(name if good else None)
    sites["pattern"] = tuple(kept)


def _row_sum_error(sites: Mapping[str, tuple[str | None, ...]], seen: Seen) -> float:
    errors = [float((1 - seen[n][0].float().sum(-1)).abs().max()) for n in sites["pattern"] if n]
    return max(errors, default=float("nan"))


def _scores_before_softmax(sites: Mapping[str, tuple[str | None, ...]], seen: Seen) -> bool | None:
    verdicts = []
    for score, pattern in zip(sites["scores"], sites["pattern"], strict=True):
        if score and pattern and seen[score][0].shape == seen[pattern][0].shape:
            again = seen[score][0].float().softmax(-1)
            verdicts.append(bool((again - seen[pattern][0].float()).abs().max() < 1e-2))
    return all(verdicts) if verdicts else None


def _layout_name(
    stack: Stack,
    boundaries: list[str | None],
    terms: tuple[Mapping[str, str], ...],
    sites: Mapping[str, tuple[str | None, ...]],
    closes: bool,
    model: Any,
) -> str:
    kinds = {tuple(block) for block in terms}
    children = [dict(own_children(block)) for block in own_children(model)[stack.path]]
    normed = any({"ln1_post", "ln2_post"} & set(c) for c in children)
    if not closes:
        return (
            "not additive by name"
            if not any(terms)
            else "terms do not add up (post-norm or renormalised)"
        )
    if len(kinds) > 1:
        return "hybrid: " + ", ".join(sorted(" + ".join(k) for k in kinds))
    (kind,) = kinds
    if "mlp" not in kind:
        return " + ".join(kind) + " only"
    if not any(sites["resid_mid"]):
        return "parallel"
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
    with quiet(model):
        for name in modules:
            x = getattr(model, name)(x)
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
    head = _unembedding(model)
    if stack.problems or head is None or logits is None or logits.ndim != 3:
        return None, {}
    weight, bias = head
    x = seen[stack.boundaries[-1]][0][0]
    tried: dict[str, float] = {}
    for path, normalise in _paths(model).items():
        readout = Readout(path, normalise, weight, bias, _output_transform(model), 0.0, tolerance)
        error = _try(readout, x, logits[0])
        if error is None:
            continue
        tried[path] = error
        if error <= tolerance:
            verified = Readout(path, normalise, weight, bias, readout.transform, error, tolerance)
            return verified, tried
    return None, tried


def _unembedding(model: Any) -> tuple[Tensor, Tensor | None] | None:
    try:
        weight, bias = model.W_U, model.b_U
    except (AttributeError, NotImplementedError):
        return None
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    return weight.detach().T, bias.detach() if isinstance(bias, Tensor) and bool(
        bias.any()
    ) else None


def _output_transform(model: Any) -> Callable[[Tensor], Tensor]:
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


# ---- padding ---------------------------------------------------------------------------------


def _measure_padding(
    model: Any,
    stacks: tuple[StackAnatomy, ...],
    points: Mapping[str, Any],
    tokens: Tensor,
    seen: Seen,
    tolerance: float,
) -> tuple[Padding, bool]:
    """One pass with the probe right-padded, left-padded and with another last token."""
    watched = [s.boundaries[-1] for s in stacks if not s.problems]
    causal = getattr(model.cfg, "attention_dir", "causal") == "causal"
    if not watched:
        return Padding(None, None, tolerance), causal
    single = tokens[:, :-PADS] if tokens.shape[1] > 2 * PADS else tokens
    length = single.shape[1]
    padded, mask = _padded(single, tokens.shape[1])
    try:
        with record({n: points[n] for n in watched}) as batch:
            _forward(model, padded, mask)
        if causal:
            reference = {n: seen[n][0][:, :length] for n in watched}
        else:
            with record({n: points[n] for n in watched}) as alone:
                _forward(model, single)
            reference = {n: alone[n][0] for n in watched}
    except (RuntimeError, TypeError, ValueError, IndexError):
        return Padding(None, None, tolerance), causal
    sides = [
        _padding_error(batch, reference, row, rows)
        for row, rows in ((0, slice(0, length)), (1, slice(-length, None)))
    ]
    return Padding(*sides, tolerance), causal


def _padded(single: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """`[2, total]`: the prompt padded on the right, then on the left, and the mask."""
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
        scale = norm(expected).max().clamp(min=1e-30)
        errors.append(
            float((norm(at_least_float32(got) - at_least_float32(expected)) / scale).max())
        )
    return max(errors, default=None)
