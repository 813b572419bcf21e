"""The kept examples of a lens: most probable tokens of every state and position of a prompt.

Knows the examples `top_tokens` and `top_probs` `[state, position, k]` and the columns that go with
them, by name; any analysis that keeps these is drawn in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from interp._arrays import Array, Floats
from interp.render.tokens import label, show
from interp.runs.report.views import ResultLike, unkept

TOKENS, PROBS = "top_tokens", "top_probs"


def state_name(state: int) -> str:
    """A state in the words of the explorer.

    >>> state_name(0), state_name(6)
    ('input (state 0)', 'after block 5 (state 6)')
    """
    return f"after block {state - 1} (state {state})" if state else "input (state 0)"


def lens_prompts(result: ResultLike) -> list[int]:
    """The prompts of which the best tokens are kept."""
    return sorted({p for items in result.examples(TOKENS).values() for p in items})


def lens_of(result: ResultLike, prompt: int | None = None) -> Lens | None:
    """The examples of one prompt, by default the first; None if the result keeps none.

    Raises `UnknownName` for a prompt of which nothing is kept.
    """
    kept = lens_prompts(result)
    if not kept:
        return None
    chosen = kept[0] if prompt is None else prompt
    if chosen not in kept:
        raise unkept(chosen, kept, result, "examples")
    probs = result.examples(PROBS)
    for key, items in result.examples(TOKENS).items():
        if chosen in items:
            return Lens(result, key[0], chosen, items[chosen], probs[key][chosen])
    return None


@dataclass(frozen=True, eq=False)
class Lens:
    """`tokens`, `probs`: `[state, position, k]`, best first, of one prompt of one stack."""

    result: ResultLike
    stack: str
    prompt: int
    tokens: Array
    probs: Array

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The table's rows of this prompt by (state, position); empty for a table of moments."""
        frame = self.result.frame
        if not {"prompt", "position", "layer"} <= set(frame.columns):
            return pd.DataFrame()
        rows = frame[frame["prompt"] == self.prompt]
        if "stack" in rows:
            rows = rows[rows["stack"] == self.stack]
        return rows.set_index(["layer", "position"]).sort_index()

    @cached_property
    def texts(self) -> list[str]:
        """The tokens that were read."""
        tokens = self.result.tokens
        tokens = tokens[tokens["prompt"] == self.prompt]
        if "stack" in tokens:
            tokens = tokens[tokens["stack"] == self.stack]
        texts = [str(t) for t in tokens.sort_values("position")["token"]]
        return [*texts, *("" for _ in range(self.tokens.shape[1] - len(texts)))]

    def text(self, state: int, position: int, k: int = 0) -> str:
        """The k-th best token."""
        token = int(self.tokens[state, position, k])
        return str(self.result.strings.get(token, f"#{token}"))

    def values(self, name: str) -> Floats:
        """A column of the table as `[state, position]`; if it has none, the best probability."""
        if name == "top_prob" or name not in self.rows:
            return np.asarray(self.probs[..., 0], dtype=np.float64)
        grid = np.full(self.tokens.shape[:2], np.nan)
        states, positions = (self.rows.index.get_level_values(i) for i in (0, 1))
        grid[states, positions] = self.rows[name].to_numpy(dtype=np.float64, na_value=np.nan)
        return grid

    def cell(self, state: int, position: int) -> str:
        """The best token for a cell, in bold if the last state has the same."""
        text = label(self.text(state, position), 7)
        agrees = self.tokens[state, position, 0] == self.tokens[-1, position, 0]
        return f"<b>{text}</b>" if agrees else text

    def hover(self, state: int, position: int) -> str:
        """The best tokens with their probabilities, and the rank of the true next token."""
        lines = [f"{state_name(state)}, position {position}: {label(self.texts[position])}"]
        lines += [
            f"{float(self.probs[state, position, k]):6.3f}  {label(self.text(state, position, k))}"
            for k in range(self.tokens.shape[2])
        ]
        return "<br>".join([*lines, *self._target(state, position)])

    @cached_property
    def _targets(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Log-probability and rank (NaN where the table has none) by state and position."""
        if "log_prob" not in self.rows:
            return {}
        # At once: to look up one row of a table by its index takes longer than to draw the cell.
        found = self.rows["log_prob"].to_numpy(dtype=np.float64, na_value=np.nan)
        ranks = np.full(len(found), np.nan)
        if "rank" in self.rows:
            ranks = self.rows["rank"].to_numpy(dtype=np.float64, na_value=np.nan)
        pairs = zip(found.tolist(), ranks.tolist(), strict=True)
        return dict(zip(self.rows.index, pairs, strict=True))

    def _target(self, state: int, position: int) -> list[str]:
        """Rank and log-probability of the target: the next token, unless the run had its own."""
        if (state, position) not in self._targets:
            return []
        log_prob, rank = self._targets[state, position]
        if not np.isfinite(log_prob):
            return ["no target here"]
        ranked = f", rank {int(rank):,}" if "rank" in self.rows else ""
        follows = f" {label(self.texts[position + 1])}" if position + 1 < len(self.texts) else ""
        return [f"target (next:{follows or ' ?'}): log P = {log_prob:.2f}{ranked}"]

    def depth(self) -> Floats:
        """First state `[position]` from which the best token stays that of the last state."""
        same = self.tokens[..., 0] == self.tokens[-1:, :, 0]
        settled = np.logical_and.accumulate(same[::-1], axis=0)[::-1]
        return np.asarray(settled.argmax(axis=0), dtype=np.float64)

    def table(self) -> pd.DataFrame:
        """Positions down, a few states across: the best token of each, as text."""
        states = np.unique(np.linspace(0, len(self.tokens) - 1, 6).round().astype(int))
        positions = range(self.tokens.shape[1])
        columns = {f"state {s}": [show(self.text(s, p)) for p in positions] for s in states}
        return pd.DataFrame({"token": [show(t) for t in self.texts], **columns})
