"""Token batches fed through a model, one pass each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from interp.contract.jobs import NotFollowed, ObserveCall, Pass
from interp.contract.tokens import Tokens
from interp.errors import InterpError, Unsupported
from interp.models.anatomy import Anatomy
from interp.models.caches import cache_in, cache_length
from interp.models.contexts import next_tokens, tokens_from_call
from interp.models.for_model import set_apart, special_ids_of
from interp.models.forward import call, device_of, logits_of
from interp.models.lens.blocks import kept_memory
from interp.models.observer import Observer
from interp.prompts.prompts import Prompts


class Feeder(AbstractContextManager["Feeder"]):
    """Runs batches through a model, one pass each, with observers attached while it is open."""

    def __init__(self, bridge: Any, anatomy: Anatomy, wiring: Any) -> None:
        self.bridge, self.anatomy = bridge, anatomy
        self._special = special_ids_of(bridge)
        self._current: Tokens | None = None
        self._finished: list[Pass] = []
        self._observer = Observer(
            bridge, wiring, self._contexts, self._finished.append, stop_early=True
        )
        self._observer.begun = self._tell
        self._calls = 0
        self.begun: Callable[[int, ObserveCall], None] | None = None
        """Called before every call of an analysis, with the number of those done in this pass."""

    def __enter__(self) -> Feeder:
        with ExitStack() as stack:
            stack.enter_context(kept_memory())
            stack.enter_context(self._observer)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Nothing attached for as long as the block runs: passes in it are not observed."""
        self._open.close()
        yield
        self.__enter__()

    def batches(self, prompts: Prompts, max_tokens: int) -> Iterator[Tokens]:
        """The prompts as batches that this model can take: one by one where it cannot pad."""
        fine = self.anatomy.padding.fine
        side = "right" if fine("right") else "left"
        most = None if fine(side) else 1
        pad_id = _pad_id(self.bridge)
        return prompts.batches(
            max_tokens,
            pad_id=pad_id,
            padding_side=side,
            max_batch=most,
            apart=self.anatomy.apart(prompts.lengths),
        )

    def feed(self, batch: Tokens) -> Pass:
        """One pass; `InterpError` where the model yields NaN."""
        self._current, self._calls = batch, 0
        self._finished.clear()
        device = device_of(self.bridge)
        # Without padding no mask is passed: with one some models take a slower attention kernel.
        padded = not bool(batch.mask.all())
        options = {"attention_mask": batch.mask.long().to(device)} if padded else {}
        with torch.no_grad():
            out = call(self.bridge, batch.tokens.to(device), **options)
        refuse_nan(out, batch)
        return self._finished.pop()

    def _tell(self, call: ObserveCall) -> None:
        if self.begun is not None:
            self.begun(self._calls, call)
        self._calls += 1

    def _contexts(self, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Tokens]:
        assert self._current is not None  # noqa: S101  set by feed, which makes the call
        first = self._current
        if len(self.anatomy.stacks) > 1:
            return by_stack(self.anatomy, first, kwargs, self._special)
        return {self.anatomy.stacks[0].name: first}


def by_stack(
    anatomy: Anatomy, encoder: Tokens, kwargs: Mapping[str, Any], specials: Sequence[int]
) -> dict[str, Tokens]:
    """An encoder reads the prompt; a decoder what the call hands it."""
    if not isinstance(kwargs.get("decoder_input_ids"), Tensor):
        raise NotFollowed("no tokens", "it brings no ids for the decoder (decoder_input_ids)")
    if cache_length(cache_in(kwargs)) != 0:
        raise NotFollowed("decoder cache", "its decoder continues a KV cache, with two stacks")
    out = {}
    for stack in anatomy.stacks:
        if stack.name != "decoder":
            out[stack.name] = encoder
            continue
        tokens = kwargs["decoder_input_ids"].to(encoder.tokens.device)
        given = {"attention_mask": kwargs.get("decoder_attention_mask"), "input_ids": tokens}
        context = tokens_from_call((), given, first_id=0, special_ids=specials, pad_id=None)
        own = given["attention_mask"] is not None or not _is_shifted(tokens, encoder.tokens)
        # Shifted right by the bridge: real where the encoder's token before it was.
        mask = context.mask if own else encoder.mask
        decoder = Tokens.whole(
            tokens,
            mask,
            context.special & mask,
            encoder.ids,
            context.positions,
            # By this mask: the last token of a prompt has no next one, however long its batch is.
            next_tokens(tokens, mask),
        )
        out[stack.name] = set_apart(_aimed(decoder, encoder), stack)
    return out


def _aimed(decoder: Tokens, encoder: Tokens) -> Tokens:
    """The tokens of a decoder with the answers that were given for the prompts.

    Raises `Unsupported` for answers by position: those of the decoder are not the prompt's.
    """
    if encoder.contrasts is not None:
        decoder = decoder.answered(contrasts=encoder.contrasts.amax(1))
    if torch.equal(encoder.targets, next_tokens(encoder.tokens, encoder.mask)):
        return decoder
    answers = encoder.targets.amax(1)
    if bool(((encoder.targets != answers[:, None]) & encoder.mask).any()):
        raise Unsupported(
            "targets= by position are of the prompt, which the encoder reads, and the logits are "
            "of the decoder's tokens: give one token, or one for each prompt"
        )
    return decoder.answered(targets=answers)


def _is_shifted(tokens: Tensor, of: Tensor) -> bool:
    """Whether a decoder reads the encoder's tokens one place later, not what it wrote itself."""
    return tokens.shape == of.shape and bool((tokens[:, 1:] == of[:, :-1]).all())


def _pad_id(bridge: Any) -> int:
    tokenizer = getattr(bridge, "tokenizer", None)
    pad = getattr(tokenizer, "pad_token_id", None)
    return int(pad) if pad is not None else 0


def refuse_nan(out: Any, batch: Tokens) -> None:
    """Raises where a real token's logits or last state are NaN or ∞: nothing would come of it."""
    final = out if isinstance(out, Tensor) else logits_of(out)
    if final is None or final.ndim != 3 or final.shape[:2] != batch.mask.shape:
        return
    largest = final.amax(-1).cpu()  # NaN if any is; -inf alone rules a token out
    bad = (torch.isnan(largest) | (largest == torch.inf)) & batch.mask.cpu()
    if bad.any():
        row, position = (int(i) for i in bad.nonzero()[0])
        kind = "NaN" if torch.isnan(largest[row, position]) else "infinity"
        raise InterpError(
            f"the model yields {kind} (first at prompt {int(batch.ids[row])}, "
            f"position {position}); nothing was kept. In float16 this is often an overflow: try "
            "bfloat16 or float32"
        )
