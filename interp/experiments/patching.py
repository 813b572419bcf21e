"""Activation patching over pairs: the clean state of one token put into the corrupted run.

Every pass has one corrupted prompt in all its rows, each with another aligned token patched; the
unpatched runs that it is compared with have the same shape, so that a patch that changes nothing
has the effect 0 to the last bit. Source: Meng et al. 2202.05262; Zhang & Nanda 2309.16042.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp._arrays import Floats, Ints
from interp._progress import track
from interp.contract.columns import STATE
from interp.contract.tokens import Tokens
from interp.errors import InterpError
from interp.experiments.interventions import push_hooks
from interp.models.anatomy import StackAnatomy
from interp.models.prefix import run_hooked, run_watched
from interp.prompts.pairs import PromptPairs
from interp.prompts.prompts import Prompts
from interp.runs.pairs import NO_PARTNER
from interp.stats.classical import moments
from interp.stats.paired import FEWEST_PAIRS, paired_profile
from interp.stats.resampling import jackknife

LOGITS, LOG_PROB, KL = "logit_difference", "log_prob", "kl"
METRICS = {
    LOGITS: "logit of the answer minus that of the wrong answer, at the last token",
    LOG_PROB: "log-probability of the answer at the last token, nats",
    KL: "KL(clean ‖ patched) of the distributions at the last token, nats",
}
LEAST = {LOGITS: 1e-3, LOG_PROB: 1e-3, KL: 1e-6}
"""Change of the metric from clean to corrupted below which a share of it is rounding."""
WEAK = 0.1
"""Share of the median pair's change below which a pair has next to nothing to recover."""


def metric_of(pairs: PromptPairs) -> str:
    """The measure that the answers of these pairs allow."""
    if pairs.answer is None:
        return KL
    return LOGITS if pairs.wrong is not None else LOG_PROB


def patch_pairs(
    model: Any,
    stack: StackAnatomy,
    pairs: PromptPairs,
    partners: Ints,
    *,
    states: Sequence[int],
    max_tokens: int = 1024,
    progress: bool = True,
) -> pd.DataFrame:
    """Effect of every single patch: a row per pair, place and state.

    Columns: `pair`, `place`, `layer` and `state`, `block`; `clean`, `corrupted` and `patched`, the
    metric (`metric_of`) of the three runs; `recovery`, (patched − corrupted) / (clean −
    corrupted), NaN where the two runs differ by less than `LEAST`; `unrelated` and
    `unrelated_recovery`, the same when the state at that position of an unrelated clean prompt is
    put there (NaN without one).

    Args:
        partners: numbers of unrelated pairs `[pairs, draws]`; the first draw is used.
        states: numbers of the patched states, 0 … L.
        max_tokens: budget of a pass.

    Raises `InterpError` where the model yields NaN.
    """
    rows = []
    with torch.no_grad():
        for i in track(range(len(pairs)), "pairs patched", enabled=progress):
            partner = int(partners[i, 0]) if partners.shape[1] else NO_PARTNER
            work = _Patched(model, stack, pairs, i, tuple(states), max_tokens)
            rows.append(work.table(partner))
    out = pd.concat(rows, ignore_index=True)
    out["recovery"] = _share(out, "patched", metric_of(pairs))
    out["unrelated_recovery"] = _share(out, "unrelated", metric_of(pairs))
    return out


def _share(table: pd.DataFrame, column: str, metric: str) -> Floats:
    scale = table["clean"].to_numpy(np.float64) - table["corrupted"].to_numpy(np.float64)
    gain = table[column].to_numpy(np.float64) - table["corrupted"].to_numpy(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.abs(scale) > LEAST[metric], gain / scale, np.nan)


@dataclass(frozen=True, eq=False)
class _Patched:
    """All patches of one pair: one state of the clean run in each row of a pass."""

    model: Any
    stack: StackAnatomy
    pairs: PromptPairs
    number: int
    states: tuple[int, ...]
    max_tokens: int

    @property
    def places(self) -> Ints:
        return self.pairs.places[self.number]

    @cached_property
    def todo(self) -> Ints:
        """Places where the two streams differ at some state, to the last bit.

        Elsewhere a patch would put a state in the place of an equal one; before the first
        difference of a causal model that is every place.
        """
        if self.number in np.flatnonzero(self.pairs.same):
            return np.empty(0, np.int64)
        states = [
            self._watched(self._rows(side, self.number, 1), np.zeros_like(at), at)[1]
            for side, at in zip(
                (self.pairs.clean, self.pairs.corrupted), self.places.T, strict=True
            )
        ]
        differ = torch.stack([(x != y).any(-1) for x, y in zip(*states, strict=True)]).any(0)
        return np.flatnonzero(differ.cpu().numpy())

    @cached_property
    def height(self) -> int:
        """Rows of a pass: one per place, as many as fit."""
        sides = (self.pairs.clean, self.pairs.corrupted)
        longest = max(len(side.tokens[self.number]) for side in sides)
        return max(1, min(len(self.todo), self.max_tokens // longest))

    def table(self, partner: int) -> pd.DataFrame:
        """The metric of every patch, own and unrelated."""
        base = self._rows(self.pairs.corrupted, self.number, self.height)
        logits, own = self._source(self.number, self.todo)
        metric = _Metric.of(self.pairs, self.number, logits)
        corrupted = metric(self._last(run_hooked(self.model, base, [])))
        inside, other = self._unrelated(partner)
        row = np.zeros(len(self.places), np.int64)
        row[self.todo] = np.arange(len(self.todo)) % self.height
        parts = []
        for k, state in enumerate(self.states):
            columns: dict[str, Any] = {"clean": metric.clean[row], "corrupted": corrupted[row]}
            columns |= {"patched": corrupted[row], "unrelated": np.full(len(row), np.nan)}
            which = np.arange(len(self.todo))
            columns["patched"][self.todo] = self._patch(base, metric, own[k], state, which)
            if len(inside):
                found = self._patch(base, metric, other[k], state, inside)
                columns["unrelated"][self.todo[inside]] = found
            index = {"pair": self.number, "place": np.arange(len(row)), "layer": state}
            parts.append(pd.DataFrame({**index, STATE: state, "block": state - 1, **columns}))
        return pd.concat(parts, ignore_index=True)

    def _unrelated(self, partner: int) -> tuple[Ints, list[Tensor]]:
        """The states of an unrelated clean prompt, and which of the places it has."""
        if partner == NO_PARTNER:
            return np.empty(0, np.int64), []
        # A prompt that is shorter has no token at some of the positions.
        length = len(self.pairs.clean.tokens[partner])
        inside = np.flatnonzero(self.places[self.todo, 0] < length)
        return inside, self._source(partner, self.todo[inside], inside)[1]

    def _rows(self, prompts: Prompts, number: int, height: int) -> Tokens:
        """One prompt in every row of a pass."""
        (one,) = prompts.batches(1 << 62, only=[number])
        repeated = {
            name: x.expand(height, *x.shape[1:]).contiguous() for name, x in one.tensors().items()
        }
        return Tokens(**repeated)

    def _source(
        self, number: int, places: Ints, which: Ints | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits at the last token `[row, vocab]` and states `[n, d_model]` of a clean prompt.

        A state is that of the row in which it will be put, because rows of a product may be
        rounded differently: row `which` (number of the place in `todo`) modulo the height.
        """
        which = np.arange(len(places)) if which is None else which
        batch = self._rows(self.pairs.clean, number, self.height)
        return self._watched(batch, which % self.height, self.places[places, 0])

    def _watched(self, batch: Tokens, row: Ints, at: Ints) -> tuple[Tensor, list[Tensor]]:
        """Logits at the last token, and the states at these rows and positions, in this order."""
        keep = torch.zeros(batch.tokens.shape, dtype=torch.bool, device="cpu")
        keep[torch.from_numpy(row), torch.from_numpy(np.ascontiguousarray(at))] = True
        names = [self.stack.boundaries[state] for state in self.states]
        logits, states = run_watched(self.model, batch, names, keep)
        # They come row by row.
        order = torch.from_numpy(np.argsort(np.lexsort((at, row)), kind="stable"))
        return self._last(logits), [x[order.to(x.device)] for x in states]

    def _last(self, logits: Tensor) -> Tensor:
        found = logits[:, -1].double()
        if bool(found.isnan().any()):
            raise InterpError(
                f"the model yields NaN at the last token of pair {self.number}; in float16 this is "
                "often an overflow: try bfloat16 or float32"
            )
        return found

    def _patch(
        self, base: Tokens, metric: _Metric, source: Tensor, state: int, which: Ints
    ) -> Floats:
        """The metric `[n]` with one state put into each row, for places by their number in `todo`.

        Args:
            source: the states `[n, d_model]`.
            which: the numbers `[n]`, ascending.
        """
        out = np.empty(len(which))
        for start in range(0, len(self.todo), self.height):
            here = np.flatnonzero((which >= start) & (which < start + self.height))
            if len(here):
                states = source[torch.from_numpy(here).to(source.device)]
                out[here] = self._pass(base, metric, states, state, which[here])
        return out

    def _pass(
        self, base: Tokens, metric: _Metric, source: Tensor, state: int, which: Ints
    ) -> Floats:
        row = which % self.height
        at = np.ascontiguousarray(self.places[self.todo[which], 1])
        where = torch.zeros(base.tokens.shape, dtype=torch.bool, device="cpu")
        where[torch.from_numpy(row), torch.from_numpy(at)] = True
        hooks = push_hooks(self.stack.boundaries[state], where, source)
        return metric(self._last(run_hooked(self.model, base, hooks)))[row]


@dataclass(frozen=True, eq=False)
class _Metric:
    """What is read of the logits at the last token `[row, vocab]`, in float64.

    Attributes:
        name: one of `METRICS`.
        target: log-probabilities of the clean run `[row, vocab]`.
        answer, wrong: token ids, -1 for none.
        clean: the metric of the clean run `[row]`.
    """

    name: str
    target: Tensor
    answer: int
    wrong: int
    clean: Floats

    @classmethod
    def of(cls, pairs: PromptPairs, number: int, logits: Tensor) -> _Metric:
        answer = -1 if pairs.answer is None else pairs.answer[number]
        wrong = -1 if pairs.wrong is None else pairs.wrong[number]
        bare = cls(metric_of(pairs), logits.log_softmax(-1), answer, wrong, np.empty(0))
        return cls(bare.name, bare.target, answer, wrong, bare(logits))

    def __call__(self, logits: Tensor) -> Floats:
        log_p = logits.log_softmax(-1)
        if self.name == KL:
            # Terms of probability 0 are 0 · ∞.
            gap = (self.target.exp() * (self.target - log_p)).nan_to_num().sum(-1)
        elif self.name == LOG_PROB:
            gap = log_p[:, self.answer]
        else:
            gap = logits[:, self.answer] - logits[:, self.wrong]
        return np.asarray(gap.cpu().numpy(), np.float64)


# ---- over pairs --------------------------------------------------------------------------------


def by_part(patches: pd.DataFrame, tokens: pd.DataFrame, **levels: Any) -> pd.DataFrame:
    """Recovery by state and part of the prompt, with the pair as the unit.

    Columns: `part`, `layer`, `state`, `block`, `pairs`; `recovery`, Σ (patched − corrupted) /
    Σ (clean − corrupted) over pairs, where a pair counts by the effect that there is to recover,
    with `recovery_low` and `recovery_high` (jackknife over pairs); `unrelated_recovery`, likewise;
    `mean_recovery`, the mean of the pairs' own shares without `weak_pairs`; `p` and `p_max`, sign
    flips of own against unrelated shares of the same pairs, over the states of the part.

    Args:
        patches: as `patch_pairs` gives.
        tokens: the aligned tokens with their `part`.
        levels: `confidence`, `resamples`, `seed`.
    """
    rows = patches.merge(tokens[["pair", "place", "part"]], on=["pair", "place"])
    rows = rows[rows["recovery"].notna()]
    weak = weak_pairs(patches)
    parts = [
        _of_part(part, str(name), weak, levels) for name, part in rows.groupby("part", sort=False)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def weak_pairs(patches: pd.DataFrame) -> list[int]:
    """Pairs with next to nothing to recover: below `WEAK` of the median |clean − corrupted|.

    A share of such a pair divides by almost nothing, so that one of them outweighs all others in
    a mean of shares. Pairs without a share at all (`LEAST`) are not among them.
    """
    known = patches[patches["recovery"].notna()]
    total = (known["clean"] - known["corrupted"]).abs().groupby(known["pair"]).mean()
    return [int(str(pair)) for pair in total.index[total < WEAK * total.median()]]


def _of_part(
    rows: pd.DataFrame, part: str, weak: Sequence[int], levels: dict[str, Any]
) -> pd.DataFrame:
    columns = ["clean", "corrupted", "patched", "unrelated", "recovery", "unrelated_recovery"]
    table = rows.pivot_table(index="pair", columns=STATE, values=columns, dropna=False)
    wide = {name: table[name] for name in columns}
    states = np.asarray(wide["clean"].columns, np.int64)
    x = {name: table.to_numpy(np.float64) for name, table in wide.items()}
    scale = x["clean"] - x["corrupted"]
    own, low, high = _ratio_of_sums(
        x["patched"] - x["corrupted"], scale, levels.get("confidence", 0.95)
    )
    other = _ratio_of_sums(x["unrelated"] - x["corrupted"], scale, 0.95)[0]
    strong = ~np.isin(np.asarray(table.index), weak)[:, None]
    shares = np.where(strong, x["recovery"], np.nan)
    test = paired_profile(shares, x["unrelated_recovery"], **levels)
    return pd.DataFrame(
        {
            "part": part,
            "layer": states,
            STATE: states,
            "block": states - 1,
            "pairs": np.isfinite(x["recovery"]).sum(axis=0),
            "recovery": own,
            "recovery_low": low,
            "recovery_high": high,
            "unrelated_recovery": other,
            "mean_recovery": moments(shares)[1],
            "p": test["p"],
            "p_max": test["p_max"],
        }
    )


def _ratio_of_sums(gain: Floats, scale: Floats, confidence: float) -> tuple[Floats, Floats, Floats]:
    """Σ gain / Σ scale over pairs `[pairs, k]`, and its jackknife interval (NaN below four)."""
    known = np.isfinite(gain)
    top, bottom = np.where(known, gain, 0.0), np.where(known, scale, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = top.sum(axis=0) / bottom.sum(axis=0)
        if len(gain) < FEWEST_PAIRS:
            return whole, np.full_like(whole, np.nan), np.full_like(whole, np.nan)
        without = (top.sum(axis=0) - top) / (bottom.sum(axis=0) - bottom)
        return whole, *jackknife(whole, without, confidence)


def agreement(patches: pd.DataFrame, distances: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Rank correlation of distance and patched effect over the cells of each pair.

    A cell is a state and a place where the two streams are apart by more than the threshold: the
    others have distance 0 and effect 0, and would make a correlation by themselves. Columns:
    `pair`, `cells`, `spearman` (relative distance with recovery) and `unrelated_spearman` (the same
    distance with the effect of the unrelated patch); NaN for fewer than three cells or constant
    values.
    """
    keys = ["pair", "place", STATE]
    cells = patches.merge(distances[[*keys, "relative_distance"]], on=keys)
    apart = cells[(cells["relative_distance"] > threshold) & cells["recovery"].notna()]
    rows = []
    for pair in patches["pair"].unique():
        own = apart[apart["pair"] == pair]
        ranks = {
            name: _spearman(own["relative_distance"], own[column])
            for name, column in (
                ("spearman", "recovery"),
                ("unrelated_spearman", "unrelated_recovery"),
            )
        }
        rows.append({"pair": pair, "cells": len(own), **ranks})
    return pd.DataFrame(rows)


def _spearman(x: pd.Series[Any], y: pd.Series[Any]) -> float:
    known = y.notna()
    if known.sum() < 3 or x[known].nunique() < 2 or y[known].nunique() < 2:
        return float("nan")
    return float(x[known].corr(y[known], method="spearman"))
