"""Keys of activations, calls of analyses, and the tokens of a pass: what an observer works on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from interp.contract.analysis import Analysis, Batch, Emission
from interp.contract.sites import SITES
from interp.contract.tokens import Tokens
from interp.errors import InterpError

_STATE, _LOGITS, _TERM = "state", "logits", "term:"


class Key(NamedTuple):
    """The place of one activation in a pass; made by `state`, `logits`, `term` or from a site.

    Attributes:
        stack: name of the list of blocks; "" where there is one.
        point: name of the site; "state" for a boundary of the stream, "term:NAME" for an additive
            term.
        index: number of the block, or of the boundary.
    """

    stack: str
    point: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which no key needs

    @classmethod
    def state(cls, stack: str, index: int) -> Key:
        """Boundary state x_index of a stack."""
        return cls(stack, _STATE, index)

    @classmethod
    def logits(cls, stack: str) -> Key:
        """The model's own logits."""
        return cls(stack, _LOGITS, 0)

    @classmethod
    def of_term(cls, stack: str, name: str, layer: int) -> Key:
        """An additive term of a block."""
        return cls(stack, _TERM + name, layer)

    @property
    def is_state(self) -> bool:
        return self.point == _STATE

    @property
    def is_logits(self) -> bool:
        return self.point == _LOGITS

    @property
    def term(self) -> str | None:
        """Name of the additive term, None for anything else."""
        return self.point.removeprefix(_TERM) if self.point.startswith(_TERM) else None

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of this activation."""
        vector = self.is_state or self.term is not None
        if vector:
            return tuple(SITES["terms"].axes.split())
        return tuple(SITES[SITES[self.point].of or self.point].axes.split())


def named(keys: Collection[Key]) -> str:
    """What activations there are among the keys, in words.

    >>> named([Key.state("", 12), Key.logits("")])
    'states of the stream and logits'
    """
    words = {
        "states of the stream": any(key.is_state for key in keys),
        "terms of blocks": any(key.term for key in keys),
    }
    sites = {key.point for key in keys if not key.is_state and key.term is None}
    found = [word for word, there in words.items() if there] + sorted(sites)
    return " and ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))


@dataclass(frozen=True)
class ObserveCall:
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
    """Hook names to attach by key, and the calls to make, in order of depth.

    `weights` gives the matrices of blocks. `final` is the last state, which the logits are read
    out from where a pass keeps few of them. `multiples` names the stacks whose states the model
    pads behind the prompt, to a multiple of so many columns. `tolerance` is the
    closing error that is rounding.
    """

    sources: Mapping[Key, str]
    jobs: tuple[ObserveCall, ...]
    readout: Any = None
    final: Key | None = None
    weights: Any = None
    multiples: Mapping[str, int] = field(default_factory=dict)
    tolerance: float = math.inf

    @property
    def needs_logits(self) -> bool:
        return any(key.is_logits for job in self.jobs for key in job.needs)

    def last_keys(self) -> set[Key]:
        """Keys that are read at all; the pass may stop when all of them have arrived."""
        return {key for job in self.jobs for key in job.needs}


class NotFollowed(InterpError):
    """A pass, or one analysis of it, that cannot be observed rightly; `kind` sums up why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(eq=False)
class Pass:
    """One forward pass under way; without contexts, one that is let through unobserved."""

    contexts: Mapping[str, Tokens]
    missing: dict[int, set[Key]]
    readers: Counter[Key]
    store: dict[Key, Tensor] = field(default_factory=dict)
    late: dict[Key, Tensor] = field(default_factory=dict)
    emitted: list[tuple[ObserveCall, Batch, Mapping[str, Emission]]] = field(default_factory=list)
    latest: dict[tuple[Analysis, str], Mapping[str, Emission]] = field(default_factory=dict)
    final: Tensor | None = None
    kept: Any = 0
    window: bool = False
    cache: Any = None
    failed: set[Analysis] = field(default_factory=set)
    spoiled: bool = False  # an analysis changed an activation of the model's own
    came: set[Key] = field(default_factory=set)
