"""Puts observers on a model's hook points and takes them off: the only file that touches hooks.

Knows hook points, passes and when an analysis has all it waits for; it knows nothing of what the
analyses compute or where the results go.

How an observer stays true beside other tools (all measured on TransformerLens 4.3):

* hooks are added to the `HookPoint` itself, permanent, and removed by handle, so that another
  tool's `reset_hooks()` leaves them and they leave nothing behind;
* before every pass they are moved behind all other hooks, so that they see what the user's own
  hooks return, and put back if someone removed them;
* tokens, mask and cache length are taken from the call that every entry point reaches, which
  `interp._calls` finds for each kind of model.
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

from interp._calls import is_remote, silence, stopped, watch
from interp.analysis import Analysis, Batch, Emission
from interp.errors import InterpError, ObserveError
from interp.geometry import full_precision

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
    """What to attach and what to run: hook names by key, jobs in order of depth."""

    sources: Mapping[Key, str]
    jobs: tuple[Job, ...]
    readout: Any = None

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


@dataclass(eq=False)
class Pass:
    """One forward pass under way."""

    contexts: Mapping[str, Context]
    missing: dict[int, set[Key]]
    readers: Counter[Key]
    store: dict[Key, Tensor] = field(default_factory=dict)
    late: dict[Key, Tensor] = field(default_factory=dict)
    emitted: list[tuple[Job, Batch, Mapping[str, Emission]]] = field(default_factory=list)
    latest: dict[tuple[Analysis, str], Mapping[str, Emission]] = field(default_factory=dict)


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
    """Silence every hook under `root` while its modules are called outside a pass.

    Reading a vector through the model's own final norm must fire nobody's hooks, neither the
    user's nor ours.
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
    """

    def __init__(
        self,
        model: Any,
        wiring: Wiring,
        contexts: Callable[[tuple[Any, ...], dict[str, Any]], Mapping[str, Context]],
        deliver: Callable[[Pass], None],
        *,
        stop_early: bool = False,
    ) -> None:
        self.model, self.wiring = model, wiring
        self.contexts, self.deliver = contexts, deliver
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
        self._open(self.contexts(args, kwargs))

    def _open(self, contexts: Mapping[str, Context]) -> None:
        missing = {n: set(job.needs) for n, job in enumerate(self.wiring.jobs)}
        readers = Counter(key for job in self.wiring.jobs for key in job.needs)
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
            if not self.passes:
                return
            if self._calls.late:
                self.passes[-1].late.update(dict.fromkeys(keys, value))
                return
            for key in keys:
                self._arrive(self.passes[-1], key, value)
            self._maybe_stop(self.passes[-1], value)

        return hook_fn

    def _arrive(self, current: Pass, key: Key, value: Tensor) -> None:
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
        batch = self._batch(current, job)
        try:
            with torch.no_grad(), full_precision():
                emitted = job.analysis.observe(batch)
        except Exception as error:
            raise _explain(job, batch, error) from error
        # Without its activations: they would all lie in memory until the pass has ended.
        current.emitted.append((job, replace(batch, sites={}, terms={}, before=None), emitted))
        current.latest[job.analysis, job.stack] = emitted
        for key in job.needs:
            current.readers[key] -= 1
            if current.readers[key] == 0:
                current.store.pop(key, None)

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

    def _end(self, logits: Tensor | None, error: BaseException | None) -> None:
        if not self.passes:
            return
        current = self.passes[-1]
        early = stopped(error)
        if error is not None and not early:
            self.passes.pop()  # a pass that failed counts for nothing
            return
        self._replay_late(current)
        if logits is not None and not early:
            for stack in current.contexts:
                key = (stack, "logits", 0)
                if key in self._jobs_by_key:
                    self._arrive(current, key, logits)
        if early:
            self._flush(current)
        self.passes.pop()
        self.deliver(current)

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


def contexts_from_call(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    first_id: int,
    special_ids: Sequence[int],
    pad_id: int | None,
    earlier: Context | None,
) -> Context:
    """Tokens, mask and positions of the pass that a call of the wrapped model starts.

    With a KV cache the call brings only new tokens: ids continue those of `earlier`, positions go
    on from the cache's length. Without a mask, rows that end in padding tokens while others do
    not are taken as right-padded, as TransformerLens feeds lists of strings.
    """
    tokens = kwargs.get("input_ids", args[0] if args else None)
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        embeds = kwargs.get("inputs_embeds")
        if not isinstance(embeds, Tensor):
            raise InterpError("this pass has neither token ids nor embeddings; nothing to observe")
        tokens = torch.full(embeds.shape[:2], -1, dtype=torch.int64, device=embeds.device)
    given = kwargs.get("attention_mask")
    past = _past_length(kwargs, given, tokens)
    continued = past > 0 and earlier is not None and earlier.key_tokens.shape == (len(tokens), past)
    mask = _current_mask(given, tokens, pad_id if past == 0 else None)
    key_tokens, key_mask = tokens, mask
    if past:
        old_tokens = (
            earlier.key_tokens
            if continued and earlier
            else tokens.new_full((len(tokens), past), -1)
        )
        old_mask = _past_mask(
            given, earlier.key_mask if continued and earlier else None, old_tokens
        )
        key_tokens = torch.cat([old_tokens.to(tokens.device), tokens], dim=1)
        key_mask = torch.cat([old_mask.to(mask.device), mask], dim=1)
    positions = (key_mask.long().cumsum(1) - 1)[:, past:].clamp(min=0)
    ids = (
        earlier.ids
        if continued and earlier
        else torch.arange(first_id, first_id + len(tokens), device=tokens.device)
    )
    special = torch.isin(tokens, tokens.new_tensor(list(special_ids))) & mask
    context = Context(tokens, mask, special, ids, positions, tokens, key_tokens, key_mask)
    return replace(context, targets=next_tokens(tokens, mask))


def next_tokens(tokens: Tensor, mask: Tensor) -> Tensor:
    """The token that follows each one in its row, -1 where none does: `[batch, pos]`."""
    targets = torch.full_like(tokens, -1)
    follows = mask[:, :-1] & mask[:, 1:]
    targets[:, :-1] = torch.where(follows, tokens[:, 1:], -1)
    return targets


def _past_length(kwargs: Mapping[str, Any], given: Any, tokens: Tensor) -> int:
    cache = kwargs.get("past_key_values")
    if cache is None:
        return 0
    length = getattr(cache, "get_seq_length", lambda: 0)()
    if not length and isinstance(given, Tensor) and given.ndim == 2:
        length = given.shape[1] - tokens.shape[1]
    return int(length)


def _current_mask(given: Any, tokens: Tensor, pad_id: int | None) -> Tensor:
    if isinstance(given, Tensor) and given.ndim == 2:
        return given[:, -tokens.shape[1] :].bool()
    mask = torch.ones_like(tokens, dtype=torch.bool)
    if pad_id is None or len(tokens) < 2:
        return mask
    # Trailing run of padding in each row; if every row ends in it, it is text.
    trailing = (tokens == pad_id).flip(1).long().cumprod(1).flip(1).bool()
    return mask if trailing[:, -1].all() else ~trailing


def _past_mask(given: Any, earlier: Tensor | None, old_tokens: Tensor) -> Tensor:
    past = old_tokens.shape[1]
    if isinstance(given, Tensor) and given.ndim == 2 and given.shape[1] > past:
        return given[:, :past].bool()
    return earlier if earlier is not None else torch.ones_like(old_tokens, dtype=torch.bool)
