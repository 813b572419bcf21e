"""Puts observers on a model's hook points and takes them off: the only file that touches hooks.

Knows hook points, passes and when an analysis has all it waits for; it knows nothing of what the
analyses compute or where the results go.

How an observer stays right next to other tools (all measured on TransformerLens 4.3):

* hooks are added to the `HookPoint` itself, permanent, and removed by handle, so that another
  tool's `reset_hooks()` leaves them and they leave nothing behind;
* before every pass they are moved behind all other hooks, so that they see what the user's own
  hooks return, and put back if someone removed them;
* tokens, mask and cache length are taken from the call that every entry point reaches, which
  `interp.models.forward` finds for each kind of model;
* in a user's own workflow nothing of ours ends a pass that is under way: a pass or an analysis
  that cannot be followed is left out and counted, with one warning per kind.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.contract.analysis import Analysis, Batch
from interp.contract.builtin import is_builtin
from interp.contract.emissions import failed, observed
from interp.contract.jobs import Key, NotFollowed, ObserveCall, Pass, Wiring, named
from interp.contract.sites import SITES
from interp.contract.tokens import Tokens
from interp.errors import AlteredError, BadInput, InterpError, ObserveError
from interp.geometry import full_precision
from interp.models.caches import cache_in, has_window
from interp.models.forward import is_remote, stopped, watch
from interp.models.hooks import Tap, end_pass
from interp.models.lengths import cut_to, padded_length
from interp.models.weights import head_results


class Observer:
    """Feeds analyses from a model's hook points while it is attached.

    Args:
        model: the bridge.
        wiring: what to attach and run.
        contexts: called with the arguments of each pass when it starts, in the words of a Hugging
            Face call; returns the tokens by stack.
        deliver: called at the end of each pass with the finished jobs.
        stop_early: end the pass when nothing more is read (never in a user's own workflow).
        guest: the pass is the user's: whatever goes wrong in observing it becomes a warning, is
            counted in `unobserved`, and leaves the pass alone.
        on_copies: show copies to every job the first time that it runs, so that an analysis that
            changes what it reads is found out before it reads the model's own activations.
    """

    def __init__(
        self,
        model: Any,
        wiring: Wiring,
        contexts: Callable[[tuple[Any, ...], dict[str, Any]], Mapping[str, Tokens]],
        deliver: Callable[[Pass], None],
        *,
        stop_early: bool = False,
        guest: bool = False,
        on_copies: bool = False,
    ) -> None:
        self.model, self.wiring = model, wiring
        self.contexts, self.deliver, self.guest = contexts, deliver, guest
        self.begun: Callable[[ObserveCall], None] | None = None  # told before every call
        self.unobserved: Counter[str] = Counter()
        self.failures: dict[Analysis, Exception] = {}
        self._tried: set[int] | None = set() if on_copies else None
        self._barred: dict[Analysis, AlteredError] = {}  # called no more
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
        # Behind the hooks that the user added since the last pass, so that their edits are seen.
        lost = sum(not tap.refresh() for tap in self._taps)
        if lost:
            self.lost_hooks += lost
            warnings.warn(
                f"{lost} of our hooks had been removed by another tool "
                "(reset_hooks(including_permanent=True)?); they were put back for this pass",
                stacklevel=2,
            )
        try:
            # Read before the pass, which adds to its KV cache in place.
            contexts = self.contexts(args, kwargs)
        except NotFollowed as reason:
            if not self.guest:
                raise
            contexts = {}
            self.tell(reason.kind, f"this pass is not observed: {reason}")
        except Exception as error:
            # A bad argument of ours is no reason to end a user's pass; other errors of the library
            # are, such as a pass that would itself give wrong values.
            ends = isinstance(error, InterpError) and not isinstance(error, BadInput)
            if ends or not self.guest:
                raise
            contexts = {}
            self.tell("it failed", f"this pass is not observed: {type(error).__name__}: {error}")
        self._open(contexts)
        self.passes[-1].kept = kwargs.get("logits_to_keep", kwargs.get("num_logits_to_keep", 0))
        self.passes[-1].window = has_window(cache_in(kwargs))

    def tell(self, kind: str, message: str, *, warn: bool = True) -> None:
        """Count what was not observed; the first of a kind is a warning."""
        self.unobserved[kind] += 1
        if warn and self.unobserved[kind] == 1:
            warnings.warn(f"{message} (further ones of this kind are counted only)", stacklevel=2)

    def _open(self, contexts: Mapping[str, Tokens]) -> None:
        jobs = self.wiring.jobs if contexts else ()
        missing = {n: set(job.needs) for n, job in enumerate(jobs)}
        readers = Counter(key for job in jobs for key in job.needs)
        self.passes.append(Pass(contexts, missing, readers))
        for analysis, error in self._barred.items() if contexts else ():
            self.fail(self.passes[-1], analysis, error)

    def replay(self, contexts: Mapping[str, Tokens], values: Mapping[Key, Tensor]) -> Pass:
        """Runs the jobs on given activations, in the order in which they come; needs no model."""
        self._open(contexts)
        for key, value in values.items():
            self._arrive(self.passes[-1], key, value)
        return self.passes.pop()

    def _replay_late(self, current: Pass) -> None:
        """Replays what came after the pass, in any order: shallow states first, as in a pass."""
        for key, value in sorted(current.late.items(), key=lambda item: item[0].index):
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
        value = self._of_the_prompt(current, key, value)
        if key == self.wiring.final and current.contexts:
            current.final = value.detach()
        if key in current.store or current.readers[key] == 0:
            return
        current.store[key] = value.detach()
        current.came.add(key)
        for number in self._jobs_by_key[key]:
            waiting = current.missing[number]
            waiting.discard(key)
            if not waiting:
                self._run(current, self.wiring.jobs[number])

    def _of_the_prompt(self, current: Pass, key: Key, value: Tensor) -> Tensor:
        """The activation without the columns that the model itself padded its stack with."""
        multiple = self.wiring.multiples.get(key.stack, 1)
        if multiple == 1 or not current.contexts:
            return value
        n = current.contexts[key.stack].tokens.shape[1]
        return cut_to(value, key.axes, n, padded_length(n, multiple))

    def _maybe_stop(self, current: Pass, value: Tensor) -> None:
        if self.stop_early and not any(current.readers.values()):
            end_pass(value)

    def _run(self, current: Pass, job: ObserveCall) -> None:
        if self.begun is not None:
            self.begun(job)
        if job.analysis not in current.failed:
            self._observe(current, job)
        for key in job.needs:
            current.readers[key] -= 1
            if current.readers[key] == 0:
                # An activation lives until its last reader ran, so memory holds a few states, not
                # all.
                current.store.pop(key, None)

    def _observe(self, current: Pass, job: ObserveCall) -> None:
        try:
            batch = self._batch(current, job)
            try:
                with torch.no_grad(), full_precision():
                    emitted = observed(job.analysis, batch, on_copies=self._is_first(job))
            except ObserveError:
                raise
            except Exception as error:
                raise failed(job.analysis, batch, error) from error
        except Exception as error:
            if not self.guest:
                raise
            self.fail(current, job.analysis, error)
            if isinstance(error, AlteredError):
                self._bar(current, job.analysis, error)
            return
        # Without its activations: they would all lie in memory until the pass has ended.
        current.emitted.append((job, replace(batch, sites={}, terms={}, before=None), emitted))
        current.latest[job.analysis, job.stack] = emitted

    def _is_first(self, job: ObserveCall) -> bool:
        """Whether a job runs for the first time and copies are to be shown then."""
        if self._tried is None or id(job) in self._tried:
            return False
        if is_builtin(type(job.analysis)):  # tested, and the logits alone may be 200 MB
            return False
        self._tried.add(id(job))
        return True

    def _bar(self, current: Pass, analysis: Analysis, error: AlteredError) -> None:
        """Calls an analysis no more; what was the model's own when it changed spoils the pass."""
        self._barred[analysis] = error
        if not error.spared:
            self.spoil(current, f"{analysis.name()!r} changed an activation of it in place")

    def spoil(self, current: Pass, reason: str) -> None:
        """Leaves all analyses out of a pass that is not the model's own."""
        current.spoiled = True
        for analysis in dict.fromkeys(job.analysis for job in self.wiring.jobs):
            if analysis not in current.failed:
                said = f"this pass is not the model's own: {reason}"
                self.fail(current, analysis, NotFollowed(reason, said))

    def fail(self, current: Pass, analysis: Analysis, error: Exception) -> None:
        """Leaves an analysis out of one pass, all of it, so that no table holds half a pass."""
        current.failed.add(analysis)
        current.emitted = [e for e in current.emitted if e[0].analysis is not analysis]
        self.failures.setdefault(analysis, error)
        name = analysis.name()
        kind = f"{name}: {getattr(error, 'kind', 'it failed')}"
        said = isinstance(error, ObserveError)
        self.tell(kind, str(error) if said else f"{name!r} does not observe this pass: {error}")

    def _batch(self, current: Pass, job: ObserveCall) -> Batch:
        keys = [k for k in job.needs if k in current.store]
        # A model may lie on several devices; a batch is on one, the deepest.
        deepest = max(keys, key=lambda k: (k.is_logits, k.index))
        device = current.store[deepest].device
        here = {k: current.store[k].to(device) for k in keys}
        sites = {
            site: here[group[0]] if site != "stream" else torch.stack([here[k] for k in group])
            for site, group in job.sites.items()
            if all(k in here for k in group)
        }
        terms = {n: here[k] for n, k in job.terms.items() if k in here}
        if left_out := list(job.analysis.without_dims):
            sites, terms = (_without(part, left_out) for part in (sites, terms))
        context = current.contexts[job.stack]
        sites = {s: _fitted(s, x, context, current.window) for s, x in sites.items()}
        weights = self._weights(job)
        if "result" in sites:
            sites["result"] = head_results(sites["result"], weights(job.layer, "W_O"))
        return Batch(
            **context.to(device).tensors(),
            sites=sites,
            layer=job.layer,
            n_layers=job.n_layers,
            terms=terms,
            before=current.latest.get((job.analysis, job.stack)),
            readout=self.wiring.readout,
            weights=weights,
            tolerance=self.wiring.tolerance,
        )

    def _weights(self, job: ObserveCall) -> Any:
        return (self.wiring.weights or {}).get(job.stack)

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
        if not early:
            self._take_logits(current, logits)
        self._flush(current)
        if self.guest:
            self._account(current, early=early)
        self.passes.pop()
        self.deliver(current)

    def _take_logits(self, current: Pass, logits: Tensor | None) -> None:
        waiting = [Key.logits(stack) for stack in current.contexts]
        waiting = [key for key in waiting if current.readers[key] > 0]
        if not waiting or (logits is None and not self.guest):
            return
        try:
            if logits is None or logits.ndim != 3:
                raise NotFollowed("no logits", "it returned no logits of its tokens")
            for key in waiting:
                self._arrive(current, key, self._whole(current, key.stack, logits))
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
        # Verified on the logits that were kept: a hook of the user's after the last block breaks
        # it.
        error = readout.identity_error(*rows).view(len(final), -1)
        real = current.contexts[stack].mask.to(final.device)[:, columns]
        if bool((error > readout.tolerance)[real].any()):
            raise NotFollowed(
                "logits left out",
                f"it kept the logits of {logits.shape[1]} of {n} tokens (logits_to_keep), and the "
                "readout of the last state does not give those: a hook after the last block?",
            )
        # The kept ones are the model's own; only the others are ours.
        whole[:, columns] = logits.to(whole)
        return whole

    def _flush(self, current: Pass) -> None:
        """At the end of a pass: run what lacks only optional sites."""
        for number, job in enumerate(self.wiring.jobs):
            waiting = current.missing.get(number)
            if waiting and not waiting & job.required:
                self._run(current, job)
                waiting.clear()

    def _account(self, current: Pass, *, early: bool) -> None:
        """Counts the analyses whose inputs did not all come, and leaves out those that got none."""
        why = "it ended early" if early else "its inputs did not come"
        waiting: dict[Analysis, list[ObserveCall]] = {}
        for number, keys in current.missing.items():
            job = self.wiring.jobs[number]
            if keys and job.analysis not in current.failed:
                waiting.setdefault(job.analysis, []).append(job)
        observed_some = {job.analysis for job, _, _ in current.emitted}
        for analysis, jobs in waiting.items():
            keys = {k for job in jobs for k in job.needs} - current.came
            if analysis not in observed_some:
                said = f"it ended before {named(keys)} came" if early else f"no {named(keys)} came"
                self.fail(current, analysis, NotFollowed(why, said))
                continue
            kind = f"{analysis.name()}: {why}, {_where(jobs)}"
            # Whoever ends a pass at a block knows that the blocks behind it are not run.
            message = f"{analysis.name()!r} does not observe all of this pass: {_where(jobs)}"
            self.tell(kind, message, warn=not early)


def _where(jobs: list[ObserveCall]) -> str:
    """Where calls of `observe` are missing, in words: `nothing of blocks 10 to 11`."""
    blocks = sorted({job.layer for job in jobs if job.layer is not None})
    stacks = sorted({job.stack for job in jobs if job.stack})
    of = f" of the {' and '.join(stacks)}" if stacks else ""
    if not blocks:
        return f"nothing{of}"
    unbroken = len(blocks) > 2 and blocks[-1] - blocks[0] + 1 == len(blocks)
    numbers = f"{blocks[0]} to {blocks[-1]}" if unbroken else ", ".join(map(str, blocks))
    return f"nothing of block{'s' if len(blocks) > 1 else ''} {numbers}{of}"


def _without(vectors: Mapping[str, Tensor], dims: list[int]) -> dict[str, Tensor]:
    """Copies of the vectors `[..., d_model]` with some dimensions 0: the model's own stay."""
    copies = {name: x.clone() for name, x in vectors.items()}
    for x in copies.values():
        x[..., dims] = 0
    return copies


def _kept(wanted: Any, n: int) -> Any:
    """Index of the columns that the logits are of: the last `n`, or those asked for."""
    return wanted if isinstance(wanted, Tensor) and wanted.numel() == n else slice(-n, None)


def _fitted(site: str, value: Tensor, context: Tokens, window: bool) -> Tensor:
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
