"""Text that a model writes: tokens chosen one by one, greedily or at random with a seed.

Knows batches of token ids, how to choose the next token, and where to stop. Knows no analyses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp._arrays import Bools, Ints
from interp.contract.tokens import Tokens
from interp.errors import BadInput, Unsupported
from interp.models.anatomy import Anatomy
from interp.models.for_model import configured_ids
from interp.models.forward import device_of, is_remote, wrapped_model
from interp.prompts.prompts import Prompts

# Told outright, because transformers fills what is not given from the model's own configuration.
PLAIN: dict[str, Any] = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}

NO_TOKEN = -1

Watch = Callable[[Sequence[int], Ints, Bools], None]
"""What follows a generation, at every step and once more when a batch of texts is done: called with
the numbers of its texts, the tokens written `[row, step]` and whether each has ended `[row]`."""


@dataclass(frozen=True)
class Sampling:
    """The choice of the next token.

    Attributes:
        max_new_tokens: number of tokens after which a text ends.
        do_sample: draw from the distribution; else take its largest entry.
        temperature: divides the logits before a draw, above 0.
        top_k: draw among the so many likeliest tokens only.
        top_p: draw among the likeliest tokens whose probabilities sum to this.
        seed: of the draws. A text's draws depend on the seed and its own number only, not on
            the batch it is in.
    """

    max_new_tokens: int = 32
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def check(self) -> None:
        """Raises `BadInput` for a value that is not allowed or that greedy choice would ignore."""
        if self.max_new_tokens < 1:
            raise BadInput(f"max_new_tokens is {self.max_new_tokens!r}; allowed is 1 or more")
        if not self.temperature > 0:
            raise BadInput(
                f"temperature is {self.temperature!r}; allowed is a number above 0. The likeliest "
                "token at every step is do_sample=False"
            )
        if self.top_k is not None and self.top_k < 1:
            raise BadInput(f"top_k is {self.top_k!r}; allowed is 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadInput(f"top_p is {self.top_p!r}; allowed is above 0 and up to 1")
        ignored = [n for n in ("temperature", "top_k", "top_p") if self._differs(n)]
        if ignored and not self.do_sample:
            raise BadInput(f"{', '.join(ignored)}: only with do_sample=True")

    def _differs(self, name: str) -> bool:
        return bool(getattr(self, name) != getattr(Sampling(), name))

    def settings(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)


def refuse_silent(model: Any, anatomy: Anatomy) -> None:
    """Raise `Unsupported` for a model that cannot go on with a text."""
    why = None
    if len(anatomy.stacks) > 1:
        why = "it has an encoder and a decoder; attach to it while you generate (interp.attach)"
    elif not anatomy.causal or not anatomy.has_logits:
        why = "it reads in both directions or gives no logits"
    elif is_remote(model) or not hasattr(wrapped_model(model), "generate"):
        why = "it has no method `generate`"
    if why is not None:
        raise Unsupported(f"{anatomy.model} cannot continue a prompt: {why}")


def uncached(anatomy: Anatomy) -> str | None:
    """Why text is written without a KV cache; None where a cache was measured to be exact."""
    found = anatomy.continuation
    if found.broken(1) is not None:
        return (
            "passes of this model that continue one do not give what the whole pass gives "
            f"(relative difference {found.broken(1):.2g})"
        )
    if found.one is None:
        return f"it is not known whether this model continues one rightly ({found.reason})"
    return None


def refuse_full(prompts: Prompts, new: int, limit: int | None) -> None:
    """Raise `BadInput` for a prompt that leaves no room for so many new tokens."""
    if limit is None or not len(prompts):
        return
    longest = int(prompts.lengths.argmax())
    full = no_room(int(prompts.lengths[longest]), new, limit)
    if full is not None:
        raise BadInput(f"prompt {longest} {full}")


def no_room(length: int, new: int, limit: int | None) -> str | None:
    """Why so many new tokens do not fit after `length` tokens; None where they do."""
    if limit is None or length + new <= limit:
        return None
    room = limit - length
    remedy = f"max_new_tokens may be at most {room}" if room > 0 else "shorten the prompt"
    return (
        f"has {length} tokens, and {new} more do not fit in the model's context of {limit}: "
        f"{remedy}"
    )


def stop_ids(model: Any) -> list[int]:
    """Ids that end a text, by the model's generation settings, its configuration, its tokenizer."""
    wrapped = wrapped_model(model)
    told = getattr(getattr(wrapped, "generation_config", None), "eos_token_id", None)
    found = set(told if isinstance(told, list | tuple) else [told]) | configured_ids(model, "eos")
    found.add(getattr(getattr(model, "tokenizer", None), "eos_token_id", None))
    size = int(getattr(model.cfg, "d_vocab", 0) or 0)
    return sorted(i for i in found if isinstance(i, int) and 0 <= i < size)


def write(
    model: Any,
    anatomy: Anatomy,
    prompts: Prompts,
    how: Sampling,
    stops: Sequence[int],
    *,
    keys: Sequence[Sequence[int]],
    max_tokens: int = 4096,
    watch: Watch | None = None,
) -> list[Ints]:
    """The new tokens of each prompt, up to and with the first that ends the text.

    A KV cache is used where `inspect` measured that passes which continue one are right.

    Args:
        keys: numbers that, with the seed, decide the draws of each prompt.
        max_tokens: budget of a batch of prompts.
        watch: is told how far the texts are.
    """
    found: list[Ints] = [np.empty(0, np.int64)] * len(prompts)
    for batch in _batches(prompts, anatomy, max_tokens):
        rows = batch.ids.tolist()
        draws = [_generator(how.seed, keys[i]) for i in rows]
        told = None if watch is None else partial(watch, rows)
        out = _continued(model, anatomy, batch, how, stops, draws, told)
        new = out[:, batch.tokens.shape[1] :].cpu().numpy()
        if told is not None:
            told(new, np.ones(len(rows), bool))
        for i, row in zip(rows, new, strict=True):
            found[i] = until(row, stops)
    return found


def _batches(prompts: Prompts, anatomy: Anatomy, max_tokens: int) -> Iterator[Tokens]:
    """Batches with padding on the left, where it is exact, else of prompts of one length."""
    apart = anatomy.apart(prompts.lengths)
    if anatomy.padding.fine("left") and apart is None:
        yield from prompts.batches(max_tokens, padding_side="left")
        return
    for length in np.unique(prompts.lengths):
        only = np.flatnonzero(prompts.lengths == length).tolist()
        yield from prompts.batches(max_tokens, only=only)


def _generator(seed: int, key: Sequence[int]) -> torch.Generator:
    digest = hashlib.sha256(":".join(map(str, (seed, *key))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@torch.no_grad()
def _continued(
    model: Any,
    anatomy: Anatomy,
    batch: Tokens,
    how: Sampling,
    stops: Sequence[int],
    draws: Sequence[torch.Generator],
    watch: Callable[[Ints, Bools], None] | None,
) -> Tensor:
    """Prompts and new tokens `[batch, pos]`, with padding after the end of a text."""
    from transformers import GenerationConfig, LogitsProcessorList

    settings = GenerationConfig(
        **PLAIN,
        max_new_tokens=how.max_new_tokens,
        use_cache=uncached(anatomy) is None,
        # Not None without stops: transformers would fill in those of the model.
        eos_token_id=list(stops) or [NO_TOKEN],
        pad_token_id=stops[0] if stops else 0,
    )
    device = device_of(model)
    out: Tensor = wrapped_model(model).generate(
        batch.tokens.to(device),
        attention_mask=batch.mask.long().to(device),
        generation_config=settings,
        logits_processor=LogitsProcessorList([_Choice(how, draws, stops, watch)]),
    )
    return out


class _Choice:
    """Leaves one token of each row possible, so that the greedy choice takes the drawn one."""

    def __init__(
        self,
        how: Sampling,
        draws: Sequence[torch.Generator],
        stops: Sequence[int],
        watch: Callable[[Ints, Bools], None] | None,
    ) -> None:
        self.how, self.draws, self.watch = how, draws, watch
        self.stops = torch.tensor(list(stops), dtype=torch.long, device="cpu")
        self.begin: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.begin is None:
            self.begin = input_ids.shape[1]
        if self.watch is not None:
            written = input_ids[:, self.begin :].cpu()
            self.watch(written.numpy(), torch.isin(written, self.stops).any(1).numpy())
        return self._drawn(input_ids, scores) if self.how.do_sample else scores

    def _drawn(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = self._narrowed(input_ids, scores / self.how.temperature)
        # In float64, or the sum over a large vocabulary would move the borders between tokens.
        reached = scores.double().softmax(-1).cumsum(-1).cpu()
        uniform = torch.cat(
            [torch.rand(1, generator=g, dtype=torch.float64, device="cpu") for g in self.draws]
        )
        chosen = torch.searchsorted(reached, uniform[:, None] * reached[:, -1:], right=True)
        chosen = chosen.clamp(max=scores.shape[1] - 1).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

    def _narrowed(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        from transformers import TopKLogitsWarper, TopPLogitsWarper

        if self.how.top_k is not None:
            scores = TopKLogitsWarper(self.how.top_k)(input_ids, scores)
        if self.how.top_p is not None and self.how.top_p < 1:
            scores = TopPLogitsWarper(self.how.top_p)(input_ids, scores)
        return scores


def until(row: Ints, stops: Sequence[int]) -> Ints:
    """The tokens up to and with the first stop."""
    ends = np.flatnonzero(np.isin(row, list(stops)))
    return np.asarray(row[: ends[0] + 1] if len(ends) else row, dtype=np.int64)
