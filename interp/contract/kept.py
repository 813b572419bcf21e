"""The rows of tables that a caller keeps: layers and positions.

Analyses observe every block and token all the same, because what they emit may depend on the others
(running totals, attention). Only the rows are fewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp.contract.analysis import Analysis, Batch
from interp.contract.jobs import ObserveCall, Wiring
from interp.contract.leaves import State, tabled
from interp.errors import BadInput

LAST = "last"


@dataclass(frozen=True)
class Kept:
    """Layers and positions whose rows are kept; None keeps all of them.

    Attributes:
        layers: numbers in the column `layer` of each table; negative ones count from its end.
        positions: numbers in the column `position`; negative ones count from the end of the
            prompt, -1 is its last token.
    """

    layers: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None

    @classmethod
    def of(cls, layers: Any = None, positions: Any = None) -> Kept:
        """From a number, several, or `"last"`; `BadInput` for anything else."""
        return cls(
            None if layers is None else whole_numbers(layers, "layers"),
            None if positions is None else whole_numbers(positions, "positions"),
        )

    def wiring(self, wiring: Wiring) -> Wiring:
        """The calls without those of blocks that lie deeper than every layer kept.

        Raises `BadInput` for a layer that no table of these calls has.
        """
        if self.layers is None or not wiring.jobs:
            return wiring
        jobs = [job for job in wiring.jobs if self._reaches(job)]
        most = max(_size(job) for job in wiring.jobs)
        for layer in self.layers:
            if not -most <= layer < most:
                raise BadInput(
                    f"layers= names {layer}; these tables have 0 … {most - 1} (a table of blocks "
                    "counts blocks, a table of states has one more)"
                )
        needed = {key for job in jobs for key in job.needs}
        sources = {k: name for k, name in wiring.sources.items() if k in needed | {wiring.final}}
        return replace(wiring, jobs=tuple(jobs), sources=sources)

    def refuse_absent(self, longest: int, of: str) -> None:
        """Raise `BadInput` if no token stands at any of the positions.

        Args:
            longest: number of tokens of the longest prompt.
            of: what has so many tokens, such as "the longest prompt".
        """
        if self.positions is None or any(-longest <= p < longest for p in self.positions):
            return
        named = ", ".join(map(str, self.positions))
        raise BadInput(
            f"positions= names {named}, and no token stands there: {of} has {longest} tokens, "
            f"which are 0 … {longest - 1} (-1 is the last)"
        )

    def _reaches(self, job: ObserveCall) -> bool:
        if job.layer is None:
            return True
        return job.layer <= max(self._layers(job.n_layers), default=-1)

    def _layers(self, size: int) -> set[int]:
        return {i + size if i < 0 else i for i in self.layers or () if -size <= i < size}

    def narrowed(self, batch: Batch) -> Batch:
        """The batch with only the kept positions in its mask, from which rows are made."""
        if self.positions is None:
            return batch
        at = batch.positions.to(batch.mask.device)
        end = torch.where(batch.mask, at, -1).amax(-1, keepdim=True) + 1
        kept = torch.zeros_like(batch.mask)
        for position in self.positions:
            kept |= at == (position if position >= 0 else end + position)
        return replace(batch, mask=batch.mask & kept)

    def of_layers(self, state: State, job: ObserveCall) -> State:
        """The part of a state that is of a kept layer, or of none."""
        if self.layers is None:
            return state
        wanted = self._layers(_size(job))
        return {at: leaves for at, leaves in state.items() if at[1] < 0 or at[1] in wanted}

    def note(self, analysis: Analysis, state: State) -> str:
        """A sentence on a table that positions do not apply to; "" for the others."""
        leaves = [leaf for found in state.values() for leaf in found.values()]
        if self.positions is None or tabled(leaves) or not leaves or analysis.scope == "weights":
            return ""
        return "positions= keeps rows of tokens: this table is a sum over all of them."

    def record(self) -> dict[str, list[int]]:
        """What is kept, as JSON values; empty where everything is."""
        given = {"layers": self.layers, "positions": self.positions}
        return {name: list(numbers) for name, numbers in given.items() if numbers is not None}


ALL = Kept()


def _size(job: ObserveCall) -> int:
    """Number of layers in the table of a call: blocks, or the states at their boundaries."""
    return job.n_layers + (job.layer is None)


def whole_numbers(given: Any, what: str, other: str = "") -> tuple[int, ...]:
    """Positions or layers as whole numbers, each once; negative ones count from the end.

    Args:
        given: a number, several, or "last", which is -1 and may stand among several.
        what: name of the argument, for messages.
        other: what the argument also takes, for messages.

    Raises `BadInput` for anything else and for nothing.

    >>> whole_numbers(-1, "positions"), whole_numbers(["last", 0, 0], "positions")
    ((-1,), (-1, 0))
    """
    several = isinstance(given, Sequence | range | Tensor) or hasattr(given, "tolist")
    many = several and not isinstance(given, str) and getattr(given, "ndim", 1) > 0
    items: Iterable[Any] = given if many else [given]
    plain = [item.item() if hasattr(item, "item") else item for item in items]
    numbers = [-1 if isinstance(n, str) and n == LAST else n for n in plain]
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        also = f"; also {other}" if other else ""
        raise BadInput(
            f"{what}={given!r}; give a number, several, or 'last' (-1 is the last, too){also}"
        )
    return tuple(dict.fromkeys(numbers))
