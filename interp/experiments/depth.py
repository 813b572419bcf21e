"""The depth of decision: the first state from which the lens keeps the final prediction."""

from __future__ import annotations

import numpy as np
import pandas as pd

from interp.errors import BadInput
from interp.stats.groups import group_means
from interp.stats.table import HasFrame, frame_of, is_special, numbered, require_columns

# ---- decision depth --------------------------------------------------------------------------


def decision_depth(result: HasFrame | pd.DataFrame) -> pd.DataFrame:
    """From which state on the most probable token of the logit lens stays the final one.

    Args:
        result: the result of `logit_lens`, or its table.
    Returns: one row per token, with its token columns and labels, and
        `decision_depth`: first state from which the argmax is the final one and stays so (0 = the
        embedding decides; the number of blocks: only the last state does);
        `relative_depth`: that over the number of blocks, 0 to 1;
        `agreeing`: share of the states before the last whose argmax is the final one, decided or
        not; where it is far above 1 − relative_depth, the prediction came and went.
    Raises: `UnknownName` for a table without `agrees`, `BadInput` for a summary, or where states
    of a token are missing.
    """
    frame = frame_of(result)
    if "prompt" not in frame and "mean" in frame:
        raise BadInput("decision depth is of single tokens: run the lens with keep='tokens'")
    require_columns(frame, ["prompt", "position", "layer", "agrees"])
    keys = [c for c in ("stack", "prompt", "position") if c in frame]
    table = frame.assign(agrees=frame["agrees"].astype(bool), layer=frame["layer"].astype(np.int64))
    last = int(table["layer"].max()) if len(table) else 0
    groups = table.groupby(keys, sort=True, observed=True)
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
    the column `by`) `decided`, with `low`, `high`: 95 % intervals, the prompt being the unit that
    was sampled, and `n` tokens.
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
    parts = [
        groups.assign(layer=layer, decided=found.mean[:, i], low=found.low[:, i]).assign(
            high=found.high[:, i], n=found.n[:, i].astype(int)
        )
        for i, layer in enumerate(layers)
    ]
    return pd.concat(parts, ignore_index=True).sort_values([*keys, "layer"], ignore_index=True)


_LENS = (
    *("layer", "log_prob", "rank", "entropy", "kl_to_final", "js_to_final", "tv_to_final"),
    *("top_token", "top_prob", "agrees", "wrong", "before"),
)
