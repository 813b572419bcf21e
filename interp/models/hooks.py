"""Hooks put on single hook points, taken off exactly, and silenced while the model is read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from interp.models.forward import is_remote, silence, stopped


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
        """Makes this hook the last one; returns False if it had been removed by someone."""
        if not any(h is self.handle for h in self.point.fwd_hooks):
            self.handle = self._add()
            return False
        # torch calls hooks in the order of this dictionary and offers no other way to move one.
        hooks: OrderedDict[int, Any] = self.point._forward_hooks
        if next(reversed(hooks)) != self.handle.hook.id:
            hooks.move_to_end(self.handle.hook.id)
        return True

    def remove(self) -> None:
        """Takes exactly this hook off; harmless if it is gone already."""
        self.handle.hook.remove()
        # By identity: handles compare equal field by field.
        self.point.fwd_hooks[:] = [h for h in self.point.fwd_hooks if h is not self.handle]


def end_pass(value: Any) -> None:
    """Ends the pass that is under way, as TransformerLens itself does where it stops at a layer."""
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    raise StopAtLayerException(value)


@contextmanager
def quiet(root: Any) -> Iterator[None]:
    """Silences every hook under `root` while it is called outside a pass.

    Reading a vector through the model's own final norm must fire no hook, neither the user's nor
    ours. Give the smallest module that is called: a model has thousands of points.
    """
    points = _points_under(root)
    # Both lists: torch's decide what fires, TransformerLens' what `reset_hooks` takes off.
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
def record(points: Mapping[str, Any], *, stop: bool = False) -> Iterator[dict[str, list[Any]]]:
    """Keeps, detached, everything the named hook points emit; for short probes only.

    `stop`: ends the pass once each of them has emitted something, which leaves out what is not
    looked at, the unembedding above all. The pass is then the last thing to do inside the block.
    """
    seen: dict[str, list[Any]] = {name: [] for name in points}

    def keep(name: str) -> Callable[..., None]:
        def hook_fn(value: Any, hook: Any) -> None:  # noqa: ARG001
            seen[name].append(value.detach() if isinstance(value, Tensor) else value)
            if stop and all(seen.values()):
                end_pass(value)

        return hook_fn

    taps = [Tap(point, keep(name)) for name, point in points.items()]
    try:
        yield seen
    except Exception as error:
        if not (stop and stopped(error)):
            raise
    finally:
        for tap in taps:
            tap.remove()
