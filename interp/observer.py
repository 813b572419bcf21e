"""Puts observers on a model's hook points and takes them off: the only file that touches hooks.

Knows hook points, passes and when an analysis has all it waits for; it knows nothing of what the
analyses compute or where the results go.

How an observer stays true beside other tools (all measured on TransformerLens 4.3):

* hooks are added to the `HookPoint` itself, permanent, and removed by handle, so that another
  tool's `reset_hooks()` leaves them and they leave nothing behind;
* before every pass they are moved behind all other hooks, so that they see what the user's own
  hooks return, and put back if someone removed them;
* tokens, mask and cache length are taken from the call that every entry point reaches, which
  `interp._calls` finds for each kind of model;
* in a user's own workflow nothing of ours ends a pass that is under way: a pass or an analysis
  that cannot be followed is left out, counted, and told in one warning per kind.
"""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from interp._caches import Past, cache_in, has_window
from interp._calls import is_remote, silence, stopped, watch
from interp.analysis import Analysis, Batch, Emission
from interp.errors import InterpError, ObserveError
from interp.geometry import full_precision
from interp.sites import SITES

Key = tuple[str, str, int]
"""(stack, point, index): a boundary state is point "state", other points carry their site's name,
additive terms "term:NAME"; index is the boundary or the block."""


@dataclass(frozen=True)
class Job:
    """One call of `observe` to come: when every key in `needs` has arrived, it runs.

    `sites` and `terms` say under which name the analysis sees which key.
    """

    analysis: Analysis
    stack: str
    layer: int | None
    n_layers: int
    sites: Mapping[str, tuple[Key, ...]]
    terms: Mapping[str, Key] = field(default_factory=dict)

    @property
    def required(self) -> frozenset[Key]:
        """Keys without which `observe` cannot run; the others are optional sites."""
        keys = {k for site in self.analysis.sites for k in self.sites.get(site, ())}
        return frozenset(
            keys | set(self.terms.values()) if "terms" in self.analysis.sites else keys
        )

    @property
    def needs(self) -> frozenset[Key]:
        keys = {k for group in self.sites.values() for k in group}
        return frozenset(keys | set(self.terms.values()))


@dataclass(frozen=True)
class Wiring:
    """What to attach and what to run: hook names by key, jobs in order of depth.

    `final` is the last state, which the logits are read out from where a pass keeps few of them.
    """

    sources: Mapping[Key, str]
    jobs: tuple[Job, ...]
    readout: Any = None
    final: Key | None = None

    @property
    def needs_logits(self) -> bool:
        return any(key[1] == "logits" for job in self.jobs for key in job.needs)

    def last_keys(self) -> set[Key]:
        """Keys that are read at all; the pass may stop when all of them have arrived."""
        return {key for job in self.jobs for key in job.needs}


@dataclass(frozen=True, eq=False)
class Context:
    """The tokens of one pass in one stack, as the model got them. Shapes `[batch, pos]`."""

    tokens: Tensor
    mask: Tensor
    special: Tensor
    ids: Tensor
    positions: Tensor
    targets: Tensor
    key_tokens: Tensor
    key_mask: Tensor


class NotFollowed(InterpError):
    """A pass, or one analysis of it, that cannot be observed rightly; `kind` sums up why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(eq=False)
class Pass:
    """One forward pass under way; without contexts, one that is let through unobserved."""

    contexts: Mapping[str, Context]
    missing: dict[int, set[Key]]
    readers: Counter[Key]
    store: dict[Key, Tensor] = field(default_factory=dict)
    late: dict[Key, Tensor] = field(default_factory=dict)
    emitted: list[tuple[Job, Batch, Mapping[str, Emission]]] = field(default_factory=list)
    latest: dict[tuple[Analysis, str], Mapping[str, Emission]] = field(default_factory=dict)
    final: Tensor | None = None
    kept: Any = 0
    window: bool = False
    cache: Any = None
    failed: set[Analysis] = field(default_factory=set)


class Tap:
    """One hook on one hook point, which can be put back and moved behind the others."""

    def __init__(self, point: Any, fn: Callable[..., None]) -> None:
        self.point, self.fn = point, fn
        self.handle = self._add()

    def _add(self) -> Any:
        handle = self.point.add_hook(self.fn, is_permanent=True)
        # TransformerLens 3.9 returns None here.
        return handle if handle is not None else self.point.fwd_hooks[-1]

    def refresh(self) -> bool:
        """Make this hook the last one; return False if it had been removed by someone."""
        if not any(h is self.handle for h in self.point.fwd_hooks):
            self.handle = self._add()
            return False
        hooks: OrderedDict[int, Any] = self.point._forward_hooks
        if next(reversed(hooks)) != self.handle.hook.id:
            hooks.move_to_end(self.handle.hook.id)
        return True

    def remove(self) -> None:
        """Take exactly this hook off; harmless if it is gone already."""
        self.handle.hook.remove()
        # By identity: handles compare equal field by field.
        self.point.fwd_hooks[:] = [h for h in self.point.fwd_hooks if h is not self.handle]


@contextmanager
def quiet(root: Any) -> Iterator[None]:
    """Silence every hook under `root` while it is called outside a pass.

    Reading a vector through the model's own final norm must fire nobody's hooks, neither the
    user's nor ours. Give the smallest module that is called: a model has thousands of points.
    """
    points = _points_under(root)
    saved = [(p, p._forward_hooks, p._backward_hooks, p.fwd_hooks, p.bwd_hooks) for p in points]
    for point in points:
        point._forward_hooks, point._backward_hooks = OrderedDict(), OrderedDict()
        point.fwd_hooks, point.bwd_hooks = [], []
    try:
        with silence(root):
            yield
    finally:
        for point, forward, backward, fwd, bwd in saved:
            point._forward_hooks, point._backward_hooks = forward, backward
            point.fwd_hooks, point.bwd_hooks = fwd, bwd


def _points_under(root: Any) -> list[Any]:
    if is_remote(root):
        return list({id(point): point for point in root.hook_dict.values()}.values())
    return [m for m in root.modules() if hasattr(m, "fwd_hooks")]


@contextmanager
def record(points: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
    """Keep, detached, everything the named hook points emit; for short probes only."""
    seen: dict[str, list[Any]] = {name: [] for name in points}

    def keep(name: str) -> Callable[..., None]:
        def hook_fn(value: Any, hook: Any) -> None:  # noqa: ARG001
            seen[name].append(value.detach() if isinstance(value, Tensor) else value)

        return hook_fn

    taps = [Tap(point, keep(name)) for name, point in points.items()]
    try:
        yield seen
    finally:
        for tap in taps:
            tap.remove()


class Observer:
    """Feeds analyses from a model's hook points while it is attached.

    Args:
        model: the bridge.
        wiring: what to attach and run.
        contexts: called with the arguments of each pass when it starts, in the words of a Hugging
            Face call; returns the tokens by stack.
        deliver: called at the end of each pass with the finished jobs.
        stop_early: end the pass when nothing more is read (never in a user's own workflow).
        guest: the pass is the user's: whatever goes wrong in observing it is told in a warning,
            counted in `unobserved`, and leaves the pass alone.
    """

    def __init__(
        self,
        model: Any,
        wiring: Wiring,
        contexts: Callable[[tuple[Any, ...], dict[str, Any]], Mapping[str, Context]],
        deliver: Callable[[Pass], None],
        *,
        stop_early: bool = False,
        guest: bool = False,
    ) -> None:
        self.model, self.wiring = model, wiring
        self.contexts, self.deliver, self.guest = contexts, deliver, guest
        self.unobserved: Counter[str] = Counter()
        self.failures: dict[Analysis, Exception] = {}
        # What is replayed afterwards cannot be stopped.
        self.stop_early = stop_early and not wiring.needs_logits and not is_remote(model)
        self.passes: list[Pass] = []
        self.lost_hooks = 0
        self._taps: list[Tap] = []
        self._calls: Any = None
        self._jobs_by_key: dict[Key, list[int]] = {}
        for number, job in enumerate(wiring.jobs):
            for key in job.needs:
                self._jobs_by_key.setdefault(key, []).append(number)

    def __enter__(self) -> Observer:
        self._basis = getattr(self.model, "compatibility_mode", False)
        points = self.model.hook_dict
        try:
            self._calls = watch(self.model, self._begin, self._end, catch_stop=self.stop_early)
            # One tap per hook point, even where two keys are read from it.
            keys: dict[str, list[Key]] = {}
            for key, name in self.wiring.sources.items():
                keys.setdefault(name, []).append(key)
            for name, group in keys.items():
                self._taps.append(Tap(points[name], self._arrival(tuple(group))))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for tap in self._taps:
            tap.remove()
        if self._calls is not None:
            self._calls.remove()
        self._taps, self._calls, self.passes = [], None, []

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if getattr(self.model, "compatibility_mode", False) != self._basis:
            raise InterpError(
                "compatibility mode was switched while analyses were attached: it changes the "
                "weights and so the basis of every table; attach again after the switch"
            )
        lost = sum(not tap.refresh() for tap in self._taps)
        if lost:
            self.lost_hooks += lost
            warnings.warn(
                f"{lost} of our hooks had been removed by another tool "
                "(reset_hooks(including_permanent=True)?); they were put back for this pass",
                stacklevel=2,
            )
        try:
            contexts = self.contexts(args, kwargs)
        except NotFollowed as reason:
            if not self.guest:
                raise
            contexts = {}
            self.tell(reason.kind, f"this pass is not observed: {reason}")
        except InterpError:
            raise
        except Exception as error:
            if not self.guest:
                raise
            contexts = {}
            self.tell("it failed", f"this pass is not observed: {type(error).__name__}: {error}")
        self._open(contexts)
        self.passes[-1].kept = kwargs.get("logits_to_keep", kwargs.get("num_logits_to_keep", 0))
        self.passes[-1].window = has_window(cache_in(kwargs))

    def tell(self, kind: str, message: str) -> None:
        """Count what was not observed; the first of a kind is a warning."""
        self.unobserved[kind] += 1
        if self.unobserved[kind] == 1:
            warnings.warn(f"{message} (further ones of this kind are counted only)", stacklevel=2)

    def _open(self, contexts: Mapping[str, Context]) -> None:
        jobs = self.wiring.jobs if contexts else ()
        missing = {n: set(job.needs) for n, job in enumerate(jobs)}
        readers = Counter(key for job in jobs for key in job.needs)
        self.passes.append(Pass(contexts, missing, readers))

    def replay(self, contexts: Mapping[str, Context], values: Mapping[Key, Tensor]) -> Pass:
        """Run the jobs on given activations, in the order in which they come; needs no model."""
        self._open(contexts)
        for key, value in values.items():
            self._arrive(self.passes[-1], key, value)
        return self.passes.pop()

    def _replay_late(self, current: Pass) -> None:
        """What came after the pass, in any order: shallow states first, as a pass would go."""
        for key, value in sorted(current.late.items(), key=lambda item: item[0][2]):
            self._arrive(current, key, value)
        current.late.clear()

    def _arrival(self, keys: tuple[Key, ...]) -> Callable[..., None]:
        def hook_fn(value: Tensor, hook: Any) -> None:  # noqa: ARG001
            if not self.passes or not isinstance(value, Tensor):
                return
            if self._calls.late:
                self.passes[-1].late.update(dict.fromkeys(keys, value))
                return
            for key in keys:
                self._arrive(self.passes[-1], key, value)
            self._maybe_stop(self.passes[-1], value)

        return hook_fn

    def _arrive(self, current: Pass, key: Key, value: Tensor) -> None:
        if key == self.wiring.final and current.contexts:
            current.final = value.detach()
        if key in current.store or current.readers[key] == 0:
            return
        current.store[key] = value.detach()
        for number in self._jobs_by_key[key]:
            waiting = current.missing[number]
            waiting.discard(key)
            if not waiting:
                self._run(current, self.wiring.jobs[number])

    def _maybe_stop(self, current: Pass, value: Tensor) -> None:
        if self.stop_early and not any(current.readers.values()):
            from transformer_lens.model_bridge.exceptions import StopAtLayerException

            raise StopAtLayerException(value)

    def _run(self, current: Pass, job: Job) -> None:
        if job.analysis not in current.failed:
            self._observe(current, job)
        for key in job.needs:
            current.readers[key] -= 1
            if current.readers[key] == 0:
                current.store.pop(key, None)

    def _observe(self, current: Pass, job: Job) -> None:
        try:
            batch = self._batch(current, job)
            try:
                with torch.no_grad(), full_precision():
                    emitted = job.analysis.observe(batch)
            except Exception as error:
                raise _explain(job, batch, error) from error
        except Exception as error:
            if not self.guest:
                raise
            self.fail(current, job.analysis, error)
            return
        # Without its activations: they would all lie in memory until the pass has ended.
        current.emitted.append((job, replace(batch, sites={}, terms={}, before=None), emitted))
        current.latest[job.analysis, job.stack] = emitted

    def fail(self, current: Pass, analysis: Analysis, error: Exception) -> None:
        """Leave an analysis out of one pass, all of it, so that no table holds half a pass."""
        current.failed.add(analysis)
        current.emitted = [e for e in current.emitted if e[0].analysis is not analysis]
        self.failures.setdefault(analysis, error)
        name = analysis.name()
        kind = f"{name}: {getattr(error, 'kind', 'it failed')}"
        said = isinstance(error, ObserveError)
        self.tell(kind, str(error) if said else f"{name!r} does not observe this pass: {error}")

    def _batch(self, current: Pass, job: Job) -> Batch:
        keys = [k for k in job.needs if k in current.store]
        # A model may lie on several devices; a batch is on one, the deepest.
        deepest = max(keys, key=lambda k: (k[1] == "logits", k[2]))
        device = current.store[deepest].device
        here = {k: current.store[k].to(device) for k in keys}
        sites = {
            site: here[group[0]] if site != "stream" else torch.stack([here[k] for k in group])
            for site, group in job.sites.items()
            if all(k in here for k in group)
        }
        context = current.contexts[job.stack]
        sites = {s: _fitted(s, x, context, current.window) for s, x in sites.items()}
        moved = {name: getattr(context, name).to(device) for name in Context.__dataclass_fields__}
        return Batch(
            sites=sites,
            **moved,
            layer=job.layer,
            n_layers=job.n_layers,
            terms={n: here[k] for n, k in job.terms.items() if k in here},
            before=current.latest.get((job.analysis, job.stack)),
            readout=self.wiring.readout,
        )

    def _end(self, logits: Tensor | None, error: BaseException | None, cache: Any = None) -> None:
        if not self.passes:
            return
        current = self.passes[-1]
        early = stopped(error)
        if error is not None and not early:
            self.passes.pop()  # a pass that failed counts for nothing
            return
        self._replay_late(current)
        current.cache = cache
        if early:
            self._flush(current)
        else:
            self._take_logits(current, logits)
        self.passes.pop()
        self.deliver(current)

    def _take_logits(self, current: Pass, logits: Tensor | None) -> None:
        waiting = [(s, "logits", 0) for s in current.contexts]
        waiting = [key for key in waiting if current.readers[key] > 0]
        if not waiting or (logits is None and not self.guest):
            return
        try:
            if logits is None or logits.ndim != 3:
                raise NotFollowed("no logits", "it returned no logits of its tokens")
            for key in waiting:
                self._arrive(current, key, self._whole(current, key[0], logits))
        except NotFollowed as reason:
            if not self.guest:
                raise
            for job in self.wiring.jobs:
                if waiting[0] in job.needs and job.analysis not in current.failed:
                    self.fail(current, job.analysis, reason)

    def _whole(self, current: Pass, stack: str, logits: Tensor) -> Tensor:
        """Logits of every position: what the pass did not keep is read out from the last state."""
        n = current.contexts[stack].tokens.shape[1]
        if logits.shape[1] == n:
            return logits
        readout, final = self.wiring.readout, current.final
        if readout is None or final is None or final.shape[1] != n:
            raise NotFollowed(
                "logits left out",
                f"it kept the logits of {logits.shape[1]} of {n} tokens (logits_to_keep), and "
                "there is no verified readout to make the others from",
            )
        columns = torch.arange(n, device=final.device)[_kept(current.kept, logits.shape[1])]
        whole: Tensor = readout.logits(final)
        rows = final[:, columns].flatten(0, 1), logits.to(final.device).flatten(0, 1)
        error = readout.identity_error(*rows).view(len(final), -1)
        real = current.contexts[stack].mask.to(final.device)[:, columns]
        if bool((error > readout.tolerance)[real].any()):
            raise NotFollowed(
                "logits left out",
                f"it kept the logits of {logits.shape[1]} of {n} tokens (logits_to_keep), and the "
                "readout of the last state does not give those: a hook after the last block?",
            )
        whole[:, columns] = logits.to(whole)
        return whole

    def _flush(self, current: Pass) -> None:
        """After a pass that was stopped early: run what lacks only optional sites."""
        for number, job in enumerate(self.wiring.jobs):
            waiting = current.missing[number]
            if waiting and not waiting & job.required:
                self._run(current, job)


def _explain(job: Job, batch: Batch, error: Exception) -> Exception:
    """Re-attach the call once at the border: which analysis, where, on what shapes."""
    if isinstance(error, ObserveError):
        return error
    where = "" if job.layer is None else f" at layer {job.layer}"
    shapes = ", ".join(f"{site} {tuple(x.shape)}" for site, x in batch.sites.items())
    return ObserveError(
        f"analysis {job.analysis.name()!r} failed{where} on {shapes}, "
        f"mask {tuple(batch.mask.shape)}: {type(error).__name__}: {error}"
    )


def _kept(wanted: Any, n: int) -> Any:
    """Which columns the logits are of, as an index: the last `n`, or those that were asked for."""
    return wanted if isinstance(wanted, Tensor) and wanted.numel() == n else slice(-n, None)


def _fitted(site: str, value: Tensor, context: Context, window: bool) -> Tensor:
    """The activation if it is of this pass's tokens; patterns and scores on all of their keys.

    A cache with room for later tokens gives a pattern more keys than there are, a sliding window
    fewer: attention on the first is cut off (it is zero), on the second it was zero.
    """
    axes = SITES[site].axes.split()
    rows, n = context.mask.shape
    expected = {"batch": rows, "pos": n, "query": n}
    sizes = dict(zip(axes, value.shape, strict=False))
    if any(sizes.get(axis, size) != size for axis, size in expected.items()):
        raise NotFollowed(
            "other tokens",
            f"{site} is {tuple(value.shape)}, and this call brought {rows} × {n} tokens; a model "
            "that adds tokens of its own (a learned prompt, images) cannot be followed",
        )
    known = context.key_mask.shape[1]
    if "key" not in axes or value.shape[-1] == known:
        return value
    beyond = value[..., known:]
    if (value.shape[-1] < known and not window) or bool((beyond > 0).any()):
        raise NotFollowed(
            "other keys",
            f"{site} has {value.shape[-1]} keys, and the tokens of this pass and of its cache are "
            f"{known}",
        )
    gap, nothing = max(known - value.shape[-1], 0), -torch.inf if site == "scores" else 0.0
    return torch.nn.functional.pad(value[..., :known], (gap, 0), value=nothing)


def contexts_from_call(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    first_id: int,
    special_ids: Sequence[int],
    pad_id: int | None,
    past: Past | None = None,
) -> Context:
    """Tokens, mask and positions of the pass that a call of the wrapped model starts.

    With a KV cache the call brings only new tokens: they go on from the columns of `past`,
    positions too. Without a mask, rows that end in padding tokens while others do not are taken
    as right-padded, as TransformerLens feeds lists of strings. Raises `NotFollowed` where the call
    does not tell which tokens are real or where a text begins.
    """
    tokens = tokens_of(args, kwargs)
    before = past.length if past is not None else 0
    mask, old_mask = _masks(kwargs.get("attention_mask"), tokens, past, pad_id)
    _refuse_packed(kwargs.get("position_ids"), mask)
    key_tokens, key_mask = tokens, mask
    ids = torch.arange(first_id, first_id + len(tokens), device=tokens.device)
    if past is not None and old_mask is not None:
        key_tokens = torch.cat([past.tokens.to(tokens.device), tokens], dim=1)
        key_mask = torch.cat([old_mask.to(mask.device), mask], dim=1)
        ids = torch.where(past.ids.to(ids.device) >= 0, past.ids.to(ids.device), ids)
    positions = (key_mask.long().cumsum(1) - 1)[:, before:].clamp(min=0)
    special = torch.isin(tokens, tokens.new_tensor(list(special_ids))) & mask
    context = Context(tokens, mask, special, ids, positions, tokens, key_tokens, key_mask)
    return replace(context, targets=next_tokens(tokens, mask))


def tokens_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The ids of a call, -1 each where it brought embeddings instead."""
    tokens = kwargs.get("input_ids", args[0] if args else None)
    if isinstance(tokens, Tensor) and tokens.ndim == 2 and not tokens.is_floating_point():
        return tokens
    embeds = kwargs.get("inputs_embeds")
    if not isinstance(embeds, Tensor):
        raise NotFollowed("no tokens", "it brings neither token ids nor embeddings")
    return torch.full(embeds.shape[:2], -1, dtype=torch.int64, device=embeds.device)


def next_tokens(tokens: Tensor, mask: Tensor) -> Tensor:
    """The token that follows each one in its row, -1 where none does: `[batch, pos]`."""
    targets = torch.full_like(tokens, -1)
    follows = mask[:, :-1] & mask[:, 1:]
    targets[:, :-1] = torch.where(follows, tokens[:, 1:], -1)
    return targets


def _masks(
    given: Any, tokens: Tensor, past: Past | None, pad_id: int | None
) -> tuple[Tensor, Tensor | None]:
    """Which of the new tokens are real, and which of those before."""
    (rows, n), before = tokens.shape, past.length if past is not None else 0
    old = None
    if past is not None:
        old = torch.ones_like(past.tokens, dtype=torch.bool) if past.mask is None else past.mask
    if given is None:
        return _without_mask(tokens, None if before else pad_id), old
    if not isinstance(given, Tensor) or given.ndim not in (2, 4):
        raise NotFollowed("mask", "its attention mask is no tensor of two dimensions")
    if given.ndim == 4:
        return _mask_in_square(given, rows, n, before), old
    if given.shape[1] == before + n:
        return given[:, before:].bool(), None if past is None else given[:, :before].bool()
    if before and given.shape[1] == n:
        return given.bool(), old
    raise NotFollowed(
        "mask",
        f"its attention mask has {given.shape[1]} columns for {n} tokens after {before} in a "
        "cache; it may go on from something that the call does not show",
    )


def _without_mask(tokens: Tensor, pad_id: int | None) -> Tensor:
    mask = torch.ones_like(tokens, dtype=torch.bool)
    if pad_id is None or len(tokens) < 2:
        return mask
    # Trailing run of padding in each row; if every row ends in it, it is text.
    trailing = (tokens == pad_id).flip(1).long().cumprod(1).flip(1).bool()
    return mask if trailing[:, -1].all() else ~trailing


def _mask_in_square(given: Tensor, rows: int, n: int, before: int) -> Tensor:
    """Which tokens are real by a mask of queries and keys: those that attend to themselves.

    Only where it hides padding alone, with or without the future and what lies before a window.
    """
    sees = given if given.dtype == torch.bool else given >= 0
    # A window that has moved on has columns for its last keys only.
    first = min(before, max(sees.shape[-1] - n, 0))
    sees = sees[:, 0].expand(rows, -1, -1)[..., first : first + n]
    if sees.shape[1:] != (n, n):
        raise NotFollowed("mask", f"its attention mask {tuple(given.shape)} is of other tokens")
    real = sees.diagonal(dim1=1, dim2=2)
    following = torch.ones_like(sees).tril() & ~torch.ones_like(sees).tril(-2)
    expected = following & real[:, None] & real[..., None]
    wrong = (sees & real[..., None] & ~real[:, None]) | (expected & ~sees)
    if bool(wrong.any()):
        raise NotFollowed(
            "mask",
            "its attention mask of four dimensions hides more than padding; pass a mask "
            "[batch, pos] to have it observed",
        )
    return real


def _refuse_packed(position_ids: Any, mask: Tensor) -> None:
    """Raise where positions start anew inside a row: several texts lie in it."""
    if not isinstance(position_ids, Tensor) or position_ids.shape[-1] != mask.shape[1]:
        return
    if position_ids.ndim != 2 or mask.shape[1] < 2:
        return
    steps = position_ids.to(mask.device).diff(dim=1)
    if bool(((steps != 1) & mask[:, 1:] & mask[:, :-1]).any()):
        raise NotFollowed(
            "positions",
            "its position_ids do not count on by one inside a row, as where several texts are "
            "packed into one row; which tokens belong together is not known",
        )
