"""States of chosen tokens or words at every boundary of the stream.

For comparisons that need the vectors themselves. Runs the model through `interp.run` and keeps the
chosen states only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from interp._arrays import Floats, Ints
from interp.contract.analysis import Analysis, Batch
from interp.contract.leaves import TopK
from interp.errors import BadInput, unknown
from interp.experiments.word_files import PIECES, Pieces
from interp.models.for_model import prompts_of
from interp.models.load import load_model
from interp.models.probe import inspect
from interp.prompts.prompts import Prompts
from interp.runs.run import run

_PLACE = 1 << 24
"""More than any context is long: prompt and position make one number."""


@dataclass(frozen=True, eq=False)
class TokenVectors:
    """States of n tokens (or words): `values [state, n, d]` and `tokens`, one row for each.

    `values[0]` enters the first block, `values[-1]` leaves the last one.
    """

    values: Floats
    tokens: pd.DataFrame


@dataclass(frozen=True)
class KeepStates(Analysis):
    """States of the given tokens, each numbered prompt · 2²⁴ + position."""

    chosen: tuple[int, ...] = ()

    scope: ClassVar[Any] = "model"
    sites: ClassVar[tuple[str, ...]] = ("stream",)

    def observe(self, batch: Batch) -> dict[str, TopK]:
        places = (batch.ids[:, None].to(batch.positions.device) * _PLACE) + batch.positions
        wanted = torch.tensor(self.chosen, device=places.device, dtype=places.dtype)
        keep = torch.isin(places, wanted) & batch.mask.to(places.device)
        stream = batch["stream"].movedim(0, 2)
        # Every chosen token is kept, so all have the same score; ties are ordered by prompt and
        # position, which `collect_states` searches.
        score = torch.zeros(keep.shape, dtype=torch.float32, device=keep.device)
        return {
            "states": TopK.of(
                len(self.chosen),
                score,
                batch.ids.to(keep.device),
                batch.positions,
                keep,
                stream.to(keep.device),
            )
        }


def prompts_for(
    model: Any,
    prompts: Any,
    labels: Mapping[str, Any] | None = None,
    prepend_bos: bool | None = None,
) -> Prompts:
    """Prompts as `interp.run` reads them for this model."""
    return prompts_of(model, inspect(model), prompts, labels=labels, prepend_bos=prepend_bos)


def collect_states(
    model: Any,
    prompts: Any,
    choose: Callable[[pd.DataFrame], Any],
    *,
    labels: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> TokenVectors:
    """States of the tokens that `choose` marks: it gets the token table, returns a bool per row.

    The table is that of `Prompts.index()`: prompt, position, token, special, word and labels.
    Memory is tokens × states × width × 8 bytes. Raises `BadInput` if nothing is chosen.
    """
    bridge = load_model(model)
    ready = prompts_for(bridge, prompts, labels)
    index = ready.index()
    keep = np.asarray(choose(index), dtype=bool)
    if not keep.any():
        raise BadInput(f"none of the {len(index)} tokens was chosen")
    table = index[keep].reset_index(drop=True)
    places = table["prompt"].to_numpy(np.int64) * _PLACE + table["position"].to_numpy(np.int64)
    analysis = KeepStates(tuple(places.tolist()))
    result = run(bridge, ready, [analysis], progress=progress)["keep_states"]
    leaves = result.leaves("states")
    # The prompt is what an encoder reads; a decoder has tokens of its own.
    leaf = next(leaves[key] for key in (("", -1), ("encoder", -1), *leaves) if key in leaves)
    arrays = leaf.arrays()
    found = arrays["prompt"].astype(np.int64) * _PLACE + arrays["position"]
    values = arrays["payload"][np.searchsorted(found, places)]
    return TokenVectors(values.astype(np.float64).transpose(1, 0, 2), table)


def word_states(
    model: Any,
    prompts: Prompts,
    words: pd.DataFrame,
    *,
    pieces: Pieces = "last",
) -> Floats:
    """States `[state, n, d]` of chosen words, rows of `words` with `prompt` and `word`.

    A word of several tokens has the state of its `last` one, the first that has seen all of it, or
    their `mean`.
    """
    if pieces not in PIECES:
        raise unknown("way to join pieces", pieces, PIECES)
    wanted = pd.MultiIndex.from_frame(words[["prompt", "word"]])

    def choose(index: pd.DataFrame) -> Any:
        these = pd.MultiIndex.from_frame(index[["prompt", "word"]])
        keep = these.isin(wanted)
        if pieces == "last":
            keep &= ~index.duplicated(["prompt", "word"], keep="last")
        return keep

    states = collect_states(model, prompts, choose)
    row = wanted.get_indexer(pd.MultiIndex.from_frame(states.tokens[["prompt", "word"]]))
    return _averaged(states.values, row, len(words))


def _averaged(values: Floats, row: Ints, n: int) -> Floats:
    """Mean over the tokens of each word: `[state, tokens, d] -> [state, n, d]`."""
    total = np.zeros((len(values), n, values.shape[2]))
    for state, out in zip(values, total, strict=True):
        np.add.at(out, row, state)
    count = np.bincount(row, minlength=n)
    return np.asarray(total / count[None, :, None], np.float64)
