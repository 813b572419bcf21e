"""The block stacks of a bridge, and the hook names that may carry their stream."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from interp.errors import Unsupported

_KNOWN_LISTS: tuple[tuple[str, ...], ...] = (
    ("blocks",),
    ("encoder_blocks", "decoder_blocks"),
    ("L_blocks", "H_blocks"),
    ("prelude", "core_block", "coda"),
)
_STACK_NAMES = {"blocks": "", "encoder_blocks": "encoder", "decoder_blocks": "decoder"}


@dataclass(frozen=True)
class Stack:
    """One list of blocks and the hook names that may carry its stream.

    Attributes:
        name: "" for the only stack, else "encoder", "decoder" or the list's own name.
        path: name of the ModuleList on the bridge.
        n_blocks: its real length (configurations are wrong about looped models).
        boundaries: hook names of x_0 … x_L; for the last one several candidates are tried.
    """

    name: str
    path: str
    n_blocks: int
    boundaries: tuple[tuple[str, ...], ...]

    def inside(self, layer: int, hook: str) -> str:
        """Full name of a hook inside block `layer`."""
        return f"{self.path}.{layer}.{hook}"


def layout(model: Any) -> tuple[Stack, ...]:
    """Finds the block stacks of a bridge among its own children.

    `getattr` is never asked: a bridge passes unknown names on to the wrapped model, so that it
    would find lists that carry no hooks. Raises `Unsupported` if there is no list of blocks.
    """
    if not hasattr(model, "named_modules"):  # a RemoteBridge has names, but no modules
        stacks = named_stacks(hook_names(model))
        if not stacks:
            raise Unsupported(f"{type(model).__name__} declares no hook inside a block")
        return stacks
    children = own_children(model)
    for lists in _KNOWN_LISTS:
        if all(name in children for name in lists):
            return tuple(_stack(model, name, children[name]) for name in lists)
    for name, child in children.items():
        if _is_block_list(child):
            return (_stack(model, name, child),)
    raise Unsupported(
        f"{type(model).__name__} has no list of blocks with hooks; "
        f"its children are {', '.join(children) or 'none'}"
    )


def named_stacks(names: Iterable[str]) -> tuple[Stack, ...]:
    """The stacks that hook names speak of, where there are names only: remote models, caches.

    A state may go by any of its names: what enters a block is what leaves the one before. The
    input of the first block may be the embedding; whether it is has to be verified.
    """
    known = set(names)
    stacks = []
    for path in (name for lists in _KNOWN_LISTS for name in lists):
        numbers = [m[1] for m in map(re.compile(rf"{path}\.(\d+)\.").match, known) if m]
        if numbers:
            n = max(map(int, numbers)) + 1
            states = tuple(
                tuple(h for h in state_names(path, i, n) if h in known) for i in range(n + 1)
            )
            stacks.append(Stack(_STACK_NAMES.get(path, path), path, n, states))
    return tuple(stacks)


EMBEDDINGS = ("embed.hook_out", "hook_embed")
"""Names under which the embedding goes; some models scale it or add to it before block 0."""


def state_names(path: str, index: int, n: int) -> Iterator[str]:
    """Names that state `index` of `n` blocks may have, most reliable first."""
    if index < n:
        yield from (f"{path}.{index}.hook_resid_pre", f"{path}.{index}.hook_in")
    if index > 0:
        yield from (f"{path}.{index - 1}.hook_resid_post", f"{path}.{index - 1}.hook_out")
    if index == n and path == "blocks":
        yield "ln_final.hook_in"
    if index == 0 and path == "blocks":
        yield from EMBEDDINGS


def own_children(model: Any) -> Mapping[str, Any]:
    """The module's registered children, without the wrapped model's."""
    # `vars`, because attribute access on a bridge falls through to the wrapped model.
    modules: Mapping[str, Any] = vars(model).get("_modules") or {}
    return {name: child for name, child in modules.items() if child is not None}


def _is_block_list(child: Any) -> bool:
    return (
        type(child).__name__ == "ModuleList"
        and len(child) > 0
        and any(name.startswith("hook_in") for name, _ in child[0].named_children())
    )


def _stack(model: Any, path: str, blocks: Any) -> Stack:
    names = hook_names(model)
    n = len(blocks)
    boundaries = [
        _first(names, f"{path}.{i}.hook_resid_pre", f"{path}.{i}.hook_in") for i in range(n)
    ]
    ends = _first(names, f"{path}.{n - 1}.hook_resid_post", f"{path}.{n - 1}.hook_out")
    norm = "decoder_ln_final.hook_in" if path == "decoder_blocks" else "ln_final.hook_in"
    # OpenAI-GPT's last block never fires; what enters the next module is the same vector.
    fallback = (norm, "unembed.hook_in") if path in ("blocks", "decoder_blocks") else ()
    last = (*ends, *(name for name in fallback if name in names))
    return Stack(_STACK_NAMES.get(path, path), path, n, (*boundaries, last))


def _first(names: Iterable[str], *candidates: str) -> tuple[str, ...]:
    return next(((c,) for c in candidates if c in names), ())


def hook_names(model: Any) -> Mapping[str, Any]:
    """Every hook point by every spelling. Rebuilt by the bridge at each call: ask once."""
    points: Mapping[str, Any] = model.hook_dict
    return points
