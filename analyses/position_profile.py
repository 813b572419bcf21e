"""Does a head look at a distance or at a token? Mean pattern and score per offset."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp import Analysis, Batch, Plot, State, Sum, priority
from interp.measures import offset_profile, offset_sums, share_interval

_MASKED = -1e4  # a mask written as a large negative score
FOLDS = 10  # groups of prompts that the intervals leave out one at a time


@dataclass(frozen=True)
class PositionProfile(Analysis):
    """Every head's attention as a function of query position − key position.

    One row per block, head and offset. The share of the variance between (query, key) pairs that
    the offset explains (η²) tells position heads, near 1, from content heads, near what shuffled
    keys give. Scores are taken relative to the mean of their row, because the softmax does not see
    a constant; they are left out where they are not what the softmax gets (its output is compared
    with the pattern). Sums only, so a corpus takes no more room than a prompt. Special tokens are
    neither queries nor keys; a pass that continues a KV cache is then left out, because which of
    its earlier keys are special is not known. Intervals leave out a tenth of the prompts at a time
    (`interp.measures.share_interval`). Rows get shorter at the start of a prompt, and shares of
    attention larger: that difference between rows is part of the variance.

    Attributes:
        max_offset: pairs further apart do not count.
        special: count special tokens too, such as the sink on the first one.
    """

    max_offset: int = 64
    special: bool = False

    sites: ClassVar[tuple[str, ...]] = ("pattern",)
    optional: ClassVar[tuple[str, ...]] = ("scores",)
    keys: ClassVar[tuple[str, ...]] = ("offset",)
    least: ClassVar[Mapping[str, float]] = {"max_offset": 0}
    columns: ClassVar[Mapping[str, str]] = {
        "offset": "position of the query − position of the key; tokens, negative for keys after it",
        "pairs": "number of (query, key) pairs at this offset; count",
        "pattern": "mean attention of a query on the key `offset` tokens before it",
        "pattern_std": "standard deviation of it over the pairs",
        "pattern_share": "share of the variance of the pattern that the offset explains (η²); "
        "ratio, same for all offsets of a head",
        "pattern_share_low": "lower end of its 95 % interval over prompts (jackknife); ratio, NaN "
        "for one prompt",
        "pattern_share_high": "upper end, likewise",
        "pattern_shuffled": "expectation of that share with the keys of every query shuffled: no "
        "preference for an offset; ratio, same for all offsets of a head",
        "score": "mean score at this offset, relative to the mean of its row; logits",
        "score_std": "standard deviation of it over the pairs; logits",
        "score_share": "as `pattern_share`, of the scores; ratio",
        "score_share_low": "as `pattern_share_low`, of the scores; ratio",
        "score_share_high": "as `pattern_share_high`, of the scores; ratio",
        "score_shuffled": "as `pattern_shuffled`, of the scores; ratio",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "heatmap",
            ("pattern_share", "pattern_shuffled"),
            "Position heads: variance of the pattern that the offset explains",
            "share of the variance",
            "a head that does not care for distance has the same tone in both panels.",
        ),
        Plot(
            "heatmap",
            ("score_share", "score_shuffled"),
            "Position heads: variance of the scores that the offset explains",
            "share of the variance",
            "a head that does not care for distance has the same tone in both panels.",
        ),
    )

    def observe(self, batch: Batch) -> dict[str, Sum]:
        pattern, scores = batch["pattern"], batch.get("scores")
        heads = pattern.shape[1]
        prompts = [p for row in range(len(pattern)) if (p := self._prompt(batch, row)) is not None]
        ahead = any(
            bool((_cut(pattern, p)[:, p.keys > p.queries[:, None]] > 0).any()) for p in prompts
        )
        zero = torch.zeros(
            FOLDS, 5, heads, 2 * self.max_offset + 1, dtype=torch.float64, device="cpu"
        )
        of_pattern = zero.to(pattern.device)
        of_scores = of_pattern.clone()
        before = scores is not None
        folds = _folds(batch.ids).tolist()
        for p in prompts:
            weights = _cut(pattern, p)
            allowed = p.counts & (ahead | (p.keys <= p.queries[:, None]))
            fold = folds[p.row]
            of_pattern[fold] += offset_sums(weights, allowed, p.start, self.max_offset)
            if scores is not None and before:
                x = _cut(scores, p)
                before = bool((x.softmax(-1) - weights).abs().max() < 1e-2)
                finite = allowed & (x > _MASKED)
                of_scores[fold] += offset_sums(x, finite, p.start, self.max_offset, centre=True)
        out = {"pattern": of_pattern} | ({"score": of_scores} if before else {})
        return {name: Sum(total.cpu().numpy()) for name, total in out.items()}

    def _prompt(self, batch: Batch, row: int) -> "_Prompt | None":
        """Masks of the real rows and columns of the attention, and of the pairs that count."""
        rows = batch.mask[row].nonzero().squeeze(-1)
        columns = batch.key_mask[row].nonzero().squeeze(-1)
        if not len(rows) or (not self.special and len(rows) != len(columns)):
            return None
        start, n = int(batch.positions[row, rows[0]]), len(rows)
        counts = torch.ones(n, len(columns), dtype=torch.bool, device=rows.device)
        if not self.special:
            usual = ~batch.special[row, rows]
            counts = usual[:, None] & usual
        keys = torch.arange(len(columns), device=rows.device)
        return _Prompt(
            row, rows, columns, start, torch.arange(n, device=rows.device) + start, keys, counts
        )

    def table(self, state: State) -> pd.DataFrame:
        frames = [
            _frame({n: leaf.arrays()["total"] for n, leaf in leaves.items()}).assign(
                **({"stack": stack} if stack else {}), layer=layer
            )
            for (stack, layer), leaves in sorted(state.items())
        ]
        return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True, eq=False)
class _Prompt:
    """One prompt of a batch: indices of its queries and keys, their positions, what counts."""

    row: int
    rows: Tensor
    columns: Tensor
    start: int
    queries: Tensor
    keys: Tensor
    counts: Tensor


def _folds(ids: Tensor) -> Tensor:
    """Group of each prompt, 0 … 9, by its number: `[batch]`.

    Prompts that follow each other are dealt to the groups in turn, so that few prompts fill as many
    groups. Each ten of them begins at a place drawn from a hash: the numbers of documents of a
    corpus are multiples of a power of ten, and would else fall into one group.
    """
    tens = torch.div(ids, FOLDS, rounding_mode="floor").cpu()
    turned = (priority(0, tens, torch.zeros_like(tens), 0) * FOLDS).long()
    return (ids.cpu() + turned) % FOLDS


def _cut(values: Tensor, prompt: _Prompt) -> Tensor:
    """`[head, query, key]` of the real tokens of one prompt, in float32 at least."""
    cut = values[prompt.row][:, prompt.rows][:, :, prompt.columns]
    return cut if cut.dtype == torch.float64 else cut.float()


def _frame(sums: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row per head and offset."""
    table: dict[str, np.ndarray] = {}
    pattern = offset_profile(sums["pattern"].sum(axis=0))
    heads, n = pattern.pairs.shape
    table["head"] = np.repeat(np.arange(heads), n)
    table["offset"] = np.tile(pattern.offsets, heads)
    table["pairs"] = pattern.pairs.ravel().astype(np.int64)
    for name in ("pattern", "score"):
        if name not in sums:
            continue
        seen = offset_profile(sums[name].sum(axis=0))
        low, high = share_interval(sums[name])
        # Masked scores may leave offsets out that the pattern has.
        where = np.searchsorted(pattern.offsets, seen.offsets)
        for suffix, values in (("", seen.mean), ("_std", seen.std)):
            full = np.full((heads, n), np.nan)
            full[:, where] = values
            table[f"{name}{suffix}"] = full.ravel()
        table[f"{name}_share"] = np.repeat(seen.share, n)
        table[f"{name}_share_low"] = np.repeat(low, n)
        table[f"{name}_share_high"] = np.repeat(high, n)
        table[f"{name}_shuffled"] = np.repeat(seen.shuffled, n)
    return pd.DataFrame(table)
