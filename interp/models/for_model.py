"""Prompts as one model takes them, and which of their tokens stand apart from the ordinary ones.

The one place that knows all three: what the tokenizer (or, without one, the configuration) calls
special, whether the model's first token is massive, and how a prompt becomes ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd

from interp.contract.tokens import Tokens
from interp.models.anatomy import Anatomy, StackAnatomy
from interp.models.forward import wrapped_model
from interp.models.load import is_embedded
from interp.prompts.prompts import Prompts
from interp.prompts.read import read_prompts
from interp.prompts.tokens import special_ids

ROLES = ("bos", "eos", "pad", "cls", "sep", "decoder_start")
MASSIVE_COLUMN = "massive"


def special_ids_of(model: Any) -> list[int]:
    """Ids that stand for no text in this model: by its tokenizer, else by its configuration."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None:
        return special_ids(tokenizer)
    return sorted(i for role in ROLES for i in configured_ids(model, role))


def configured_ids(model: Any, role: str) -> set[int]:
    """Ids that the Hugging Face configuration gives for `ROLE_token_id`; it may name several."""
    config = getattr(wrapped_model(model), "config", None)
    text = getattr(config, "get_text_config", None)
    # Multimodal configurations keep the ids of text one level down.
    configs = [config, *([text()] if callable(text) else [])]
    found: set[Any] = set()
    for one in configs:
        value = getattr(one, f"{role}_token_id", None)
        found.update(value if isinstance(value, list | tuple) else [value])
    return {i for i in found if isinstance(i, int) and i >= 0}


def bos_id(model: Any) -> int | None:
    """The id that begins a text, None where the model knows none or its vocabulary lacks it."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None:
        found = getattr(tokenizer, "bos_token_id", None)
    else:
        found = min(configured_ids(model, "bos"), default=None)
    size = int(getattr(model.cfg, "d_vocab", 0) or 0)
    # The bridge may add a BOS that the embedding has no row for.
    return found if found is not None and 0 <= found < size else None


def prompts_of(
    model: Any, anatomy: Anatomy, prompts: Any, *, prepend_bos: bool | None = None, **options: Any
) -> Prompts:
    """Prompts from whatever `interp.run` takes, read and marked as this model needs it.

    Args:
        anatomy: of the model.
        prepend_bos: the model's own policy unless given.
        options: of `read_prompts`. Not used where `prompts` are read already.
    """
    if isinstance(prompts, Prompts):
        ready = prompts
    else:
        ready = read_prompts(
            prompts,
            model.tokenizer,
            prepend_bos=anatomy.prepends_bos if prepend_bos is None else prepend_bos,
            max_length=anatomy.n_ctx,
            vocab_size=anatomy.d_vocab or None,
            language="demo" if is_embedded(model) else "english",
            special_ids=special_ids_of(model),
            **options,
        )
    # An untrained copy reads prompts that are marked for the model that it is a control of.
    return replace(ready, massive_first=ready.massive_first or anatomy.stacks[0].massive_first)


def set_apart(context: Tokens, stack: StackAnatomy) -> Tokens:
    """The tokens of a pass, a massive first one marked special like BOS."""
    if not stack.massive_first:
        return context
    first = (context.positions == 0) & context.mask
    return replace(context, special=context.special | first)


def explained(
    tokens: pd.DataFrame, anatomy: Anatomy, specials: Iterable[int]
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The token table with a column that separates massive first tokens from special ones.

    `specials` are the ids that are special by themselves. Returns the table as it is, and no
    note, where no token was set apart for its norm.
    """
    massive = [s for s in anatomy.stacks if s.massive_first]
    if not massive or tokens.empty:
        return tokens, ()
    apart = tokens["special"].astype(bool) & ~tokens["token_id"].isin(list(specials))
    apart &= tokens["position"] == 0
    if not apart.any():
        return tokens, ()
    out = tokens.copy()
    out.insert(list(out).index("special") + 1, MASSIVE_COLUMN, apart)
    return out, (massive_note(massive[0]),)


def massive_note(stack: StackAnatomy) -> str:
    """Reason why the first token is left out, in a sentence for every table and figure."""
    return (
        "The first token of a prompt without BOS is massive in this model (on a probe its norm is "
        f"up to {stack.first_token:.3g} times the median of the others): `{MASSIVE_COLUMN}` marks "
        "it, it counts as `special`, and summaries leave it out as they do BOS. special=True "
        "(--special) brings both back."
    )
