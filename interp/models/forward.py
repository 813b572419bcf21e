"""Watchers of the passes through a model: their start, their tokens and their end.

Three kinds of models reach their blocks in three ways: a TransformerBridge calls the wrapped
Hugging Face model; a HookedTransformer of TransformerLens 3.9 runs in its own `forward`, which
`run_with_hooks` calls directly; a RemoteBridge asks a driver and replays what it captured. All are
reported as a Hugging Face call. Knows nothing of analyses.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from interp.models.caches import cache_in, cache_out

Begin = Callable[[tuple[Any, ...], dict[str, Any]], None]
Finish = Callable[[Tensor | None, BaseException | None, Any], None]

_silent: set[int] = set()  # models whose passes are not reported for the moment


@contextmanager
def silence(model: Any) -> Iterator[None]:
    """Runs passes of `model` inside the block without reporting them."""
    inner = id(model) in _silent
    _silent.add(id(model))
    try:
        yield
    finally:
        if not inner:
            _silent.discard(id(model))


def wrapped_model(model: Any) -> Any:
    """The module whose call every entry point of a bridge reaches, else the model itself."""
    return getattr(getattr(model, "_driver", None), "underlying_model", None) or model


def device_of(model: Any) -> torch.device:
    """Device for token ids; the CPU for a model without local weights."""
    first = next(model.parameters(), None) if hasattr(model, "parameters") else None
    if first is None or first.device.type == "meta":
        return torch.device(getattr(model.cfg, "device", None) or "cpu")
    return torch.device(first.device)


def is_remote(model: Any) -> bool:
    """True if the model runs elsewhere and only what its driver captured can be seen."""
    return not isinstance(model, torch.nn.Module)


def call(model: Any, tokens: Tensor, **options: Any) -> Any:
    """Runs the model; a RemoteBridge has `forward` but cannot be called."""
    return model(tokens, **options) if callable(model) else model.forward(tokens, **options)


def watch(model: Any, begin: Begin, finish: Finish, *, catch_stop: bool = False) -> Calls:
    """Reports every pass of `model` until `remove`.

    Args:
        begin: called with the arguments of the pass, in the words of a Hugging Face call.
        finish: called with the logits, if the pass got so far, with the error that ended it, and
            with the KV cache that it left, if any.
        catch_stop: return normally from a pass that `StopAtLayerException` ended, where the
            model would not do so itself.
    """
    if wrapped_model(model) is not model:
        return BridgeWatcher(model, begin, finish)
    if is_remote(model):
        return RemoteCalls(model, begin, finish)
    return HookedCalls(model, begin, finish, catch_stop=catch_stop)


def stopped(error: BaseException | None) -> bool:
    """True if a pass was ended on purpose, by `StopAtLayerException`."""
    return type(error).__name__ == "StopAtLayerException"


def logits_of(output: Any, vocab: int = 0) -> Tensor | None:
    """Logits in what a Hugging Face model returned, if there are any.

    A tuple may begin with the loss: its logits are the first tensor of three dimensions, the last
    of them of size `vocab` where that is known.
    """
    if isinstance(output, tuple):
        rank = [x for x in output if isinstance(x, Tensor) and x.ndim == 3]
        return next((x for x in rank if not vocab or x.shape[-1] >= vocab), None)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    return logits if isinstance(logits, Tensor) else None


class Calls:
    """Watches the passes of one model. `late`: activations come after the pass, in any order."""

    late = False

    def __init__(self, model: Any, begin: Begin, finish: Finish) -> None:
        self.model, self.begin, self.finish = model, begin, finish
        self._undo: list[Callable[[], None]] = []

    def remove(self) -> None:
        """Stops watching and leaves the model as it was."""
        while self._undo:
            self._undo.pop()()


class BridgeWatcher(Calls):
    """Hooks on the wrapped model, which `model(...)`, `run_with_*` and `generate` all reach."""

    def __init__(self, model: Any, begin: Begin, finish: Finish) -> None:
        super().__init__(model, begin, finish)
        inner = wrapped_model(model)
        # Entry points pass ids and masks by place or by name; with the names both read alike.
        self._names = _parameters(inner)
        self._vocab = int(getattr(model.cfg, "d_vocab", 0) or 0)
        for handle in (
            inner.register_forward_pre_hook(self._begin, with_kwargs=True),
            # `always_call`: a pass that raised must not be taken for one under way.
            inner.register_forward_hook(self._end, with_kwargs=True, always_call=True),
        ):
            self._undo.append(handle.remove)

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(self._names, args, strict=False)) | kwargs

    def _begin(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if id(self.model) not in _silent:
            self.begin(args, self._named(args, kwargs))

    def _end(
        self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if id(self.model) in _silent:
            return
        # An error under way is this pass's own only if there is no output: the user may be
        # running the model inside an `except`.
        error = sys.exc_info()[1] if output is None else None
        cache = cache_out(output)
        if cache is None:
            cache = cache_in(self._named(args, kwargs))
        self.finish(logits_of(output, self._vocab), error, cache)


def _parameters(module: Any) -> tuple[str, ...]:
    """Names of what a module's `forward` takes by place."""
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = inspect.signature(module.forward).parameters.values()
    return tuple(p.name for p in given if p.kind in places)


class _Wrapped(Calls):
    """Puts functions of its own in the place of methods, on one instance."""

    active = True

    def _wrap(self, owner: Any, name: str, replacement: Callable[..., Any]) -> None:
        had, original = name in vars(owner), getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self.active or id(self.model) in _silent:
                return original(*args, **kwargs)
            return replacement(original, *args, **kwargs)

        def undo() -> None:
            # If someone wrapped it once more, it stays underneath and does nothing any longer.
            if vars(owner).get(name) is wrapper:
                if had:
                    setattr(owner, name, original)
                else:
                    delattr(owner, name)

        setattr(owner, name, wrapper)
        self._undo.append(undo)

    def remove(self) -> None:
        self.active = False
        super().remove()


class HookedCalls(_Wrapped):
    """A HookedTransformer: `forward` itself, whoever calls it.

    Strings become tokens inside `forward`, so the tokens are read where they enter the
    embedding, and the mask and the length of the cache where they enter the first block.
    """

    def __init__(self, model: Any, begin: Begin, finish: Finish, *, catch_stop: bool) -> None:
        super().__init__(model, begin, finish)
        self.catch_stop = catch_stop
        self._inside = self._begun = False
        self._tokens: Tensor | None = None
        self._logits: Tensor | None = None
        self._cache: Any = None
        self._history: Tensor | None = None  # embedded outside of a pass, as `generate` does
        self._wrap(model, "forward", self._forward)
        handles = [model.embed.register_forward_pre_hook(self._embed)]
        handles += [
            b.register_forward_pre_hook(self._block, with_kwargs=True) for b in model.blocks
        ]
        handles += [model.unembed.register_forward_hook(self._unembed)]
        self._undo += [handle.remove for handle in handles]

    def _forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._inside, self._begun, self._logits, self._cache = True, False, None, None
        self._tokens = kwargs.get("tokens")
        error: BaseException | None = None
        try:
            return original(*args, **kwargs)
        except BaseException as raised:
            error = raised
            if not (self.catch_stop and stopped(raised)):
                raise
            return raised.layer_output  # type: ignore[attr-defined]
        finally:
            self._inside = False
            if self._begun:
                self.finish(self._logits, error, self._cache)

    def _embed(self, _module: Any, args: tuple[Any, ...]) -> None:
        if self._inside and not self._begun:
            self._tokens = args[0]
        elif not self._inside and id(self.model) not in _silent:
            new, old = args[0], self._history
            joined = [new] if old is None or len(old) != len(new) else [old, new]
            self._history = torch.cat(joined, 1)[:, -self.model.cfg.n_ctx :]

    def _embedded(self, residual: Tensor) -> Tensor | None:
        """The tokens last embedded, if it is they that enter block 0 as a residual.

        They are if every vector is its token's embedding, plus some position's where positions
        are learned. (Any of them will do: `generate` of 3.9 takes wrong positions there.)
        """
        n, history = residual.shape[1], self._history
        if history is None or len(history) != len(residual) or history.shape[1] < n:
            return None
        tokens = history[:, -n:]
        rest = (residual - self.model.W_E[tokens]).detach().flatten(0, 1)
        ways = torch.zeros_like(rest[:1])
        if hasattr(self.model, "pos_embed"):
            ways = torch.cat([ways, self.model.pos_embed.W_pos.detach()])
        # The shortcut by matrix products loses the small differences that are looked for.
        far = torch.cdist(rest, ways, compute_mode="donot_use_mm_for_euclid_dist").amin(1).max()
        return tokens if far <= 1e-3 * residual.norm(dim=-1).max() else None

    def _block(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._inside or self._begun:
            return
        self._begun = True
        self._cache = kwargs.get("past_kv_cache_entry")  # every block has one of its own
        if self._tokens is None and module is self.model.blocks[0]:
            self._tokens = self._embedded(args[0])
        self.begin(
            (),
            {
                "input_ids": self._tokens,
                "inputs_embeds": args[0],
                "attention_mask": kwargs.get("attention_mask"),
                "past_key_values": self._cache,
            },
        )

    def _unembed(self, _module: Any, _args: Any, output: Tensor) -> None:
        if self._inside:
            self._logits = capped(output, self.model.cfg)


def capped(logits: Tensor, cfg: Any) -> Tensor:
    """Logits of a HookedTransformer: what it does to the unembedding's output."""
    cap = getattr(cfg, "output_logits_soft_cap", None) or 0.0
    return cap * torch.tanh(logits / cap) if cap > 0 else logits


class RemoteCalls(_Wrapped):
    """A RemoteBridge: its driver gets the tokens, and its captures are replayed afterwards."""

    late = True

    def __init__(self, model: Any, begin: Begin, finish: Finish) -> None:
        super().__init__(model, begin, finish)
        self._begun = False
        self._logits: Tensor | None = None
        self._wrap(model, "forward", self._forward)
        self._wrap(model._driver, "forward", self._drive)

    def _forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._begun, self._logits = False, None
        error: BaseException | None = None
        try:
            return original(*args, **kwargs)
        except BaseException as raised:
            error = raised
            raise
        finally:
            if self._begun:
                self.finish(self._logits, error, None)

    def _drive(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("input_ids", args[0] if args else None)
        self._begun = True
        self.begin((), {"input_ids": _rows(given), "attention_mask": _mask(kwargs)})
        result = original(*args, **kwargs)
        # Some drivers know the logits of the last position only.
        if result.logits is not None and self.model._driver.provides_sequence_logits:
            self._logits = torch.as_tensor(result.logits)
        return result


def _rows(tokens: Any) -> Tensor:
    ids = torch.as_tensor(tokens)
    return ids if ids.ndim == 2 else ids[None]


def _mask(kwargs: Mapping[str, Any]) -> Tensor | None:
    mask = kwargs.get("attention_mask")
    return None if mask is None else _rows(mask)
