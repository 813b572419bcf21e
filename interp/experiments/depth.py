"""Decision depth: the first state from which the logit lens keeps the final prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp.errors import BadInput
from interp.experiments.controls import repeated_on_control, result_of
from interp.experiments.tokens_or_words import TOKEN_MEANINGS, other_meanings
from interp.render.drawing import Drawing, line_rows
from interp.render.finding import Finding
from interp.render.tokens import percent
from interp.stats.groups import group_means
from interp.stats.paired import moved_within
from interp.stats.table import frame_of, is_special, numbered, require_columns

COLUMNS = {
    "layer": "number of the state, 0 … L; 0 is the embedding",
    "decided": "share of the tokens whose decision depth is at most this state; ratio",
    "low": "lower end of its 95 % interval, with the prompt as the sampling unit",
    "high": "upper end, likewise",
    "n": "tokens that it is a share of; count",
    "decision_depth": "first state from which the argmax is the final one and stays so; states",
    "relative_depth": "decision_depth over the number of blocks, 0 to 1",
    "agreeing": "share of the states before the last whose argmax is the final one, decided or "
    "not; ratio",
    **TOKEN_MEANINGS,
}


@dataclass(frozen=True, eq=False, repr=False)
class Depth(Finding):
    """Depth at which predictions are decided: the answer of `decision_depth`.

    Attributes:
        frame: a row per token; columns as in `COLUMNS`.
        decided: share of tokens that are decided at each state, see `decided`.
        by: the label column that splits the shares.
        median: median depth of the tokens that count.
        tokens: number of those tokens.
        last: number of the last state.
        late: share of those tokens that only the last state decides.
    """

    name = "depth"
    question = "From which state on does the lens predict the token that the model predicts last?"
    columns = COLUMNS
    draws_control = True

    frame: pd.DataFrame
    decided: pd.DataFrame
    by: str | None
    median: float
    tokens: int
    last: int
    late: float
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The median depth, and the share of tokens that only the last state decides."""
        return (
            f"median decision depth: state {self.median:g} of {self.last} ({self.tokens:,} "
            f"tokens); {percent(self.late)} of the tokens are decided by the last state only"
        )

    @property
    def short(self) -> pd.DataFrame:
        """The share of tokens that are decided at each state."""
        return self.decided

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Shares per state, and the depth of every token."""
        return {"depth": self.decided, "tokens": self.frame}

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """The share of decided tokens per state, with that of the untrained copy in grey."""
        lines = self._lines()
        greys = {}
        if isinstance(self.control, Depth):
            greys = {f"{n}, untrained": r for n, r in self.control._lines().items()}
        drawing = Drawing(
            "lines",
            "Decided by then",
            line_rows({**lines, **greys}),
            "share of tokens",
            "state",
            "Share of tokens whose most probable next token stays the final one from that state "
            "on. Bands: 95 % intervals, with the prompt as the unit.",
            "Grey: the same on an untrained copy of the model." if greys else "",
            options={"greys": tuple(greys)},
        )
        return {"Decided by then": drawing}

    def _lines(self) -> dict[str, pd.DataFrame]:
        table = self.decided.rename(columns={"layer": "x", "decided": "mean"})
        key = self.by or "stack"
        if key not in table:
            return {"all tokens": table}
        return {str(name): rows for name, rows in table.groupby(key)}


@repeated_on_control
def decision_depth(results: Any, *, by: str | None = None, special: bool = False) -> Depth:
    """Decision depth of each token: the first state whose prediction stays the final one.

    Args:
        results: of a run with `logit_lens`, or that result, or its table.
        by: a label column: one line of shares per label.
        special: keep special tokens, such as BOS, in the shares; every token is in the frame.

    `.frame` has one row per token, with its token columns and labels, and
        `decision_depth`: first state from which the argmax is the final one and stays so (0 = the
        embedding decides; the number of blocks: only the last state does);
        `relative_depth`: that over the number of blocks, 0 to 1;
        `agreeing`: share of the states before the last whose argmax is the final one, decided or
        not; where it is far above 1 − relative_depth, the prediction came and went.
    Raises: `UnknownName` for a table without `agrees`, `BadInput` for a summary, or where states
    of a token are missing.
    """
    result = result_of(results, "logit_lens")
    frame = frame_of(result)
    if "prompt" not in frame and "mean" in frame:
        raise BadInput("decision depth is of single tokens: run the lens with keep='tokens'")
    require_columns(frame, ["prompt", "position", "layer", "agrees"])
    depths = _depths_of(frame)
    rows = depths[~is_special(depths, special)]
    found = Depth(
        depths,
        decided(depths, by, special=special),
        by,
        float(rows["decision_depth"].median()),
        len(rows),
        int(frame["layer"].max()),
        float((rows["relative_depth"] == 1).mean()),
    )
    return found.with_columns(**other_meanings(depths, COLUMNS, result))


def _depths_of(frame: pd.DataFrame) -> pd.DataFrame:
    keys = [c for c in ("stack", "prompt", "position") if c in frame]
    table = frame.assign(agrees=frame["agrees"].astype(bool), layer=frame["layer"].astype(np.int64))
    last = int(table["layer"].max()) if len(table) else 0
    groups = table.groupby(keys, sort=True, observed=True)
    # A table without some states would find a decision too early; it is refused instead.
    counts = groups["layer"].agg(["size", "nunique", "max"])
    tops = counts["max"].groupby(level="stack").transform("max") if "stack" in keys else last
    if bool(((counts["size"] != counts["nunique"]) | (counts["nunique"] != tops + 1)).any()):
        raise BadInput(
            f"every token needs each state 0 … {last} once; this table was filtered or joined"
        )
    return _depths(table, keys)


def _depths(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    # The state after the last one that disagrees; -1 + 1 where none does.
    table = table.assign(wrong=np.where(table["agrees"], -1, table["layer"]))
    blocks = table.groupby(keys, sort=True, observed=True)["layer"].transform("max")
    table["before"] = table["agrees"].where(table["layer"] < blocks)
    groups = table.groupby(keys, sort=True, observed=True)
    out = groups[["wrong", "layer"]].max()
    depth, n = out["wrong"] + 1, out["layer"]
    values = pd.DataFrame(
        {
            "decision_depth": depth,
            "relative_depth": depth / n.where(n > 0),
            "agreeing": groups["before"].agg(lambda x: x.dropna().astype(float).mean()),
        }
    ).reset_index()
    kept = [c for c in table if c not in _LENS and c not in keys]
    tokens = table.drop_duplicates(keys)[[*keys, *kept]]
    return tokens.merge(values, on=keys, how="right").reset_index(drop=True)


def decided(depths: pd.DataFrame, by: str | None = None, *, special: bool = False) -> pd.DataFrame:
    """Share of tokens that are decided at each state, from the table of `decision_depth`.

    Special tokens are left out unless `special`. Returns per `layer` (and `stack`, and group of
    the column `by`) `decided`, with `low` and `high`, 95 % intervals with the prompt as the
    sampling unit, and `n` tokens.
    """
    keys = [c for c in ("stack", by) if c is not None and (c == by or c in depths)]
    require_columns(depths, ["decision_depth", *keys])
    rows = depths[~is_special(depths, special)]
    if by is not None:
        rows = rows[rows[by].notna() & (rows[by].astype(str) != "")]
    if rows.empty:
        raise BadInput("no token is left: all are special, or none has the label")
    layers = np.arange(int(depths["decision_depth"].max()) + 1)
    reached = (rows["decision_depth"].to_numpy()[:, None] <= layers).astype(np.float64)
    codes, groups = numbered(rows, keys)
    found = group_means(reached, codes, rows["prompt"])
    low, high = moved_within(found.mean, found.low, found.high, (0.0, 1.0))
    parts = [
        groups.assign(layer=layer, decided=found.mean[:, i], low=low[:, i]).assign(
            high=high[:, i], n=found.n[:, i].astype(int)
        )
        for i, layer in enumerate(layers)
    ]
    return pd.concat(parts, ignore_index=True).sort_values([*keys, "layer"], ignore_index=True)


_LENS = (
    *("layer", "log_prob", "rank", "entropy", "kl_to_final", "js_to_final", "tv_to_final"),
    *("top_token", "top_prob", "agrees", "wrong", "before"),
)
