"""The text behind a KV cache, found by the cache object and by its content.

A cache is known by its identity and checked by its content, because between two passes its rows
may be reordered (beam search), repeated, selected or cut, and it may have been copied. A few
numbers of every column are remembered; they are compared bit by bit, so a row is followed exactly
or not at all. Knows nothing of analyses and of how a pass is watched.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NAMES = ("past_key_values", "cache", "cache_params", "state")
"""Arguments under which models take the cache that they go on from."""
_WIDTH = 16
_STATE_WIDTH = 64


def cache_in(kwargs: Mapping[str, Any]) -> Any:
    """The cache that a call goes on from, whatever its argument is called; None without one."""
    return next((kwargs[name] for name in NAMES if _is_cache(kwargs.get(name))), None)


def cache_out(output: Any) -> Any:
    """The cache that a Hugging Face model returned, None if it returned none."""
    if isinstance(output, tuple):
        return next((x for x in output if hasattr(x, "get_seq_length")), None)
    found = (getattr(output, name, None) for name in NAMES)
    return next((x for x in found if _is_cache(x)), None)


def _is_cache(value: Any) -> bool:
    return value is not None and not isinstance(value, bool | int | str)


def cache_length(cache: Any) -> int | None:
    """Columns that a cache holds, None where it does not tell (state-space models)."""
    if cache is None:
        return 0
    if hasattr(cache, "past_keys"):  # HookedTransformer
        return int(cache.past_keys.shape[1])
    try:
        return int(cache.get_seq_length())
    except (AttributeError, TypeError, ValueError, NotImplementedError):
        # One that was made for a pass to come holds nothing yet.
        return 0 if hasattr(cache, "layers") and _content(cache, 0) is None else None


def has_window(cache: Any) -> bool:
    """True if some layer of a cache keeps only the last keys."""
    layers = getattr(cache, "layers", None)
    return isinstance(layers, list) and any(getattr(x, "is_sliding", False) for x in layers)


@dataclass(frozen=True, eq=False)
class _Content:
    """A few numbers per row and column: `values [row, column, number]`, columns from `start` on.

    Of a recurrent state there is one column, and `start` is None.
    """

    values: Tensor
    start: int | None

    def same(self, then: _Content) -> Tensor | None:
        """Match of rows now with rows then: bool `[row, row then]`; None if not comparable."""
        if (self.start is None) != (then.start is None):
            return None
        a, b = self.values, then.values.to(self.values.device)
        if self.start is not None and then.start is not None:
            first = max(self.start, then.start)
            last = min(self.start + a.shape[1], then.start + b.shape[1])
            if last <= first:
                return None
            a = a[:, first - self.start : last - self.start]
            b = b[:, first - then.start : last - then.start]
        if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
            return None
        a, b = a[:, None], b[None]
        # Bit by bit: two texts may differ by less than any tolerance that allows for rounding.
        return ((a == b) | (a.isnan() & b.isnan())).flatten(2).all(-1)


def _content(cache: Any, length: int | None) -> _Content | None:
    """Fingerprint of a cache: of its deepest layer, which depends on the whole text."""
    if hasattr(cache, "past_keys"):
        return _Content(cache.past_keys[:, :, 0, :_WIDTH].detach().clone(), 0)
    layers = getattr(cache, "layers", None)
    if not isinstance(layers, list):
        return None
    for layer in reversed(layers):
        keys = getattr(layer, "keys", None)
        if length and isinstance(keys, Tensor) and keys.ndim >= 3 and keys.numel():
            return _columns(keys, length)
    states = (state for layer in reversed(layers) for state in _states(layer))
    state = next(states, None)
    if state is None:
        return None
    return _Content(state.flatten(1)[:, None, :_STATE_WIDTH].detach().clone(), None)


def _columns(keys: Tensor, length: int) -> _Content:
    # Heads are alike for this purpose: the first one tells the texts apart.
    while keys.ndim > 3:
        keys = keys[:, 0]
    held = keys.shape[1]
    # More columns than tokens: room for later ones. Fewer: those before a sliding window are gone.
    values, start = (keys[:, :length], 0) if held >= length else (keys, length - held)
    return _Content(values[..., :_WIDTH].detach().clone(), start)


def _states(layer: Any) -> Iterator[Tensor]:
    """Recurrent states first, because they depend on every token."""
    for name in ("recurrent_states", "conv_states"):
        found = getattr(layer, name, None)
        values = list(found.values()) if isinstance(found, dict) else [found]
        begun = getattr(layer, "has_previous_state", True)
        if any(begun.values()) if isinstance(begun, dict) else begun:
            yield from (v for v in reversed(values) if isinstance(v, Tensor) and v.ndim > 1)


@dataclass(frozen=True, eq=False)
class Past:
    """The columns that a pass goes on from.

    Attributes:
        tokens, mask: `[row, column]`; tokens are -1 and `mask` is None where unobserved.
        ids: `[row]` prompt that a row goes on with, -1 where that is unknown.
    """

    tokens: Tensor
    mask: Tensor | None
    ids: Tensor

    @property
    def length(self) -> int:
        return int(self.tokens.shape[1])


@dataclass(frozen=True, eq=False)
class _Entry:
    reference: Any
    past: Past
    content: _Content | None


class Caches:
    """The caches that observed passes left behind, as long as someone holds them."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._dropped: dict[int, Any] = {}

    def remember(self, cache: Any, tokens: Tensor, mask: Tensor, ids: Tensor) -> None:
        """Stores what a cache holds after a pass: `tokens`, `mask` `[row, column]`, `ids [row]`."""
        self.forget(cache)
        key, length = id(cache), cache_length(cache)

        # An `id` is given anew once its object is gone; the entry has to leave with it.
        def gone(_: Any) -> None:
            self._entries.pop(key, None)
            self._dropped.pop(key, None)

        try:
            reference = weakref.ref(cache, gone)
        except TypeError:  # None, a tuple or a list
            return
        if length == 0:
            self._dropped[key] = reference
        if length not in (None, tokens.shape[1]):
            return
        past = Past(tokens, mask, ids)
        self._entries[key] = _Entry(reference, past, _content(cache, tokens.shape[1]))

    def forget(self, cache: Any) -> None:
        """Drops a cache to which an unobserved pass added."""
        self._entries.pop(id(cache), None)
        self._dropped.pop(id(cache), None)

    def was_dropped(self, cache: Any) -> bool:
        """True if an observed pass was given this cache and left it empty."""
        return id(cache) in self._dropped

    def find(self, cache: Any, length: int | None) -> Past | None:
        """Text that a cache holds now, None if it is unknown.

        The cache itself is looked up first, then others with the same content: a copy goes on with
        the text of its original.
        """
        known = self._entries.get(id(cache))
        others = [e for e in reversed(self._entries.values()) if e is not known]
        for entry in ([known] if known else []) + others:
            past = _rows_of(entry, cache, entry.past.length if length is None else length)
            if past is not None:
                return past
        if known and known.content is None and length == known.past.length:
            # Nothing in it can be compared (quantised), but one row stays itself.
            return known.past if len(known.past.ids) == 1 else None
        return None


def _rows_of(entry: _Entry, cache: Any, length: int) -> Past | None:
    """The rows of a cache as rows of a known one, None if one of them is not among those."""
    now = _content(cache, length)
    if length > entry.past.length or entry.content is None or now is None:
        return None
    same = now.same(entry.content)
    if same is None or not bool(same.any(1).all()):
        return None
    rows = same.int().argmax(1)
    own = torch.arange(len(rows), device=rows.device)
    shared = min(same.shape)
    # Of rows alike, each is itself.
    rows[:shared] = torch.where(same.diagonal(), own[:shared], rows[:shared])
    past = entry.past
    rows = rows.to(past.tokens.device)
    mask = None if past.mask is None else past.mask[rows, :length]
    return Past(past.tokens[rows, :length], mask, past.ids[rows])
