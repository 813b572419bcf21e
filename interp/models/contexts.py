"""Tokens, mask and positions of a pass, learned from the call that starts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.contract.jobs import NotFollowed
from interp.contract.tokens import Tokens
from interp.models.caches import Past


def tokens_from_call(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    first_id: int,
    special_ids: Sequence[int],
    pad_id: int | None,
    past: Past | None = None,
) -> Tokens:
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
    # Counted over real tokens, cached ones included: padding on the left shifts columns, not
    # positions.
    positions = (key_mask.long().cumsum(1) - 1)[:, before:].clamp(min=0)
    # A padding id may be EOS: under the mask it is padding, elsewhere a special token.
    special = torch.isin(tokens, tokens.new_tensor(list(special_ids))) & mask
    context = Tokens(tokens, mask, special, ids, positions, tokens, key_tokens, key_mask)
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
    """Masks of the new tokens and of those before."""
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
    """Mask of the real tokens by a mask of queries and keys: they attend to themselves.

    Only where it hides padding alone, with or without the future and what lies before a window.
    """
    sees = given if given.dtype == torch.bool else given >= 0
    # A window that has moved on has columns for its last keys only.
    first = min(before, max(sees.shape[-1] - n, 0))
    sees = sees[:, 0].expand(rows, -1, -1)[..., first : first + n]
    if sees.shape[1:] != (n, n):
        raise NotFollowed("mask", f"its attention mask {tuple(given.shape)} is of other tokens")
    real = sees.diagonal(dim1=1, dim2=2)
    # A token and the one before it: what every causal mask shows, sliding windows included.
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
    """Raises where positions start anew inside a row: several texts lie in it."""
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
