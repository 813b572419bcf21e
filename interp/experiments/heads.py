"""Attention rollout and head types, from an `attention` result.

The control of both is attention spread evenly over the allowed keys. Knows tables and kept maps;
nothing of models or hooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Array, Floats
from interp.contract.columns import INDEX_MEANINGS
from interp.errors import BadInput, unknown
from interp.experiments.controls import repeated_on_control, result_of
from interp.measures.attention_rollout import attention_rollout
from interp.render.drawing import Drawing, cell_rows
from interp.render.finding import Finding
from interp.render.tokens import percent
from interp.stats.paired import moved_within
from interp.stats.resampling import clustered_bootstrap
from interp.stats.table import is_special

KINDS = ("previous", "induction", "duplicate", "sink")
ROLLOUT_COLUMNS = {
    "prompt": INDEX_MEANINGS["prompt"],
    "layer": "the block up to and with which attention is rolled out",
    "query": "position of the token whose state is looked at, from 0",
    "key": "position that its state comes from, from 0",
    "token": "text of the token at `query`",
    "key_token": "text of the token at `key`",
    "rollout": "share of the query's state that comes from the key; ratio, sums to 1 per query",
    "even": "the same with even attention over the allowed keys: the control; ratio",
}
HEAD_COLUMNS = {
    "stack": INDEX_MEANINGS["stack"],
    "layer": "number of the block, 0 … L−1",
    "head": INDEX_MEANINGS["head"],
    "types": "every kind that the head is of, the largest excess first, or 'none'; the same in all "
    "rows of a head",
    "kind": "what the score is of: " + ", ".join(KINDS),
    "typed": "whether the head is of this kind: excess reaches the threshold, and the interval of "
    "the difference lies above 0",
    "score": "mean attention on the keys of this kind; ratio",
    "score_low": "lower end of its interval, prompts resampled",
    "score_high": "upper end, likewise",
    "uniform": "mean over the same tokens with even attention over the allowed keys: the control; "
    "ratio",
    "difference": "score − uniform; ratio",
    "difference_low": "lower end of its interval, prompts resampled",
    "difference_high": "upper end, likewise",
    "excess": "(score − uniform) / (1 − uniform): 1 for all attention, 0 for an even one",
    "tokens": "tokens with this score; count",
    "prompts": "prompts they are of; count",
}
MOST_ACROSS = 22  # tokens of two maps that fit side by side on a page


# ---- rollout ---------------------------------------------------------------------------------


def rollout_maps(
    result: Any, *, residual: float = 0.5, uniform: bool = False, stack: str = ""
) -> dict[int, Floats]:
    """Attention rolled out over the blocks: the share of each token that comes from each other.

    Mean over the heads plus the residual connection: Ã_l = r·I + (1 − r)·Ā_l with rows scaled to a
    sum of 1, and R_l = Ã_l R_{l−1}. MLPs and values count as mixing nothing, so rollout tracks
    positions, not influence. Source: Abnar & Zuidema, ACL 2020.

    Args:
        result: of the analysis `attention`, which keeps the maps of a few prompts.
        residual: weight r of the residual connection, ½ in the paper.
        uniform: replace the model's attention by even attention over the allowed keys; the
            control.
        stack: of a model with two stacks, "encoder" or "decoder" (its self-attention only).

    Returns per prompt `[layer, query, key]`, the rollout up to and with each block; rows sum to 1.
    Raises `BadInput` if no maps were kept, `UnknownName` for another stack.
    """
    if not 0 <= residual < 1:
        raise BadInput(f"residual={residual!r}; the stream's weight is at least 0 and below 1")
    maps = _maps(result, stack)
    layers = sorted(maps)
    return {
        prompt: attention_rollout([maps[n][prompt] for n in layers], residual, uniform=uniform)
        for prompt in sorted(maps[layers[0]])
    }


@dataclass(frozen=True, eq=False, repr=False)
class Rollout(Finding):
    """Attention rolled out over the blocks, for one prompt: the answer of `rollout`.

    Attributes:
        frame: a row per layer, query and key; columns as in `ROLLOUT_COLUMNS`.
        prompt: number of the prompt.
    """

    name = "rollout"
    question = (
        "How much of each token's state comes from which position, if attention alone moves "
        "information?"
    )
    columns = ROLLOUT_COLUMNS

    frame: pd.DataFrame
    prompt: int
    notes: tuple[str, ...] = ()

    @property
    def _last(self) -> pd.DataFrame:
        last: pd.DataFrame = self.frame[self.frame["layer"] == self.frame["layer"].max()]
        return last

    @property
    def sentence(self) -> str:
        """Mean share that comes from the first token, against even attention."""
        later = self._last[self._last["query"] > 0]
        if later.empty:
            return f"prompt {self.prompt} is a single token, which comes from itself"
        first = later[later["key"] == 0]
        shares = [first[name].sum() / later["query"].nunique() for name in ("rollout", "even")]
        return (
            f"prompt {self.prompt}, over all blocks: {percent(shares[0])} of a later token comes "
            f"from the first token on average ({percent(shares[1])} with even attention)"
        )

    @property
    def short(self) -> pd.DataFrame:
        """The largest shares over all blocks."""
        top = self._last.sort_values("rollout", ascending=False)
        shown: pd.DataFrame = top[["token", "key_token", "rollout", "even"]]
        return shown

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Sources of each token over all blocks, and the same with even attention."""
        last = self._last
        texts = last.drop_duplicates("query")["token"].astype(str).tolist()
        maps = [
            cell_rows(last.pivot_table(index="query", columns="key", values=name), name)
            for name in ("rollout", "even")
        ]
        drawing = Drawing(
            "heat",
            "Rollout over all blocks",
            pd.concat(maps, ignore_index=True),
            "share",
            "comes from",
            f"Prompt {self.prompt}. MLPs and values count as mixing nothing.",
            'Control, the map "even": even attention in every block.',
            "both maps would be alike.",
            options={"rows": texts, "columns": texts, "tokens": True, "down": True, "y": "token"}
            | {"cell": (19, 15), "across": 1 if len(texts) > MOST_ACROSS else 2},
        )
        return {"Sources of each token": drawing}


@repeated_on_control
def rollout(
    results: Any, prompt: int | None = None, *, residual: float = 0.5, stack: str = ""
) -> Rollout:
    """Attention rolled out over the blocks for one prompt, against even attention.

    Args:
        results: of a run with `attention`, or that result, which keeps the maps of a few prompts.
        prompt: number of a prompt whose maps were kept; by default the first.
        residual: weight of the residual connection, from 0 to below 1; ½ in the paper.
        stack: the stack of a model with two: encoder or decoder.

    `rollout_maps` has the formula and its source. `.frame` has a row per `layer`, `query` and
    `key` (positions, key not after query or ahead where the model looks ahead) with the texts
    `token` and `key_token`: `rollout` and its control `even`, shares of the query's row.

    Raises `UnknownName` for a prompt of which no map was kept.
    """
    result = result_of(results, "attention")
    found = rollout_maps(result, residual=residual, stack=stack)
    chosen = next(iter(found)) if prompt is None else prompt
    if chosen not in found:
        raise unknown("kept prompt", str(chosen), [str(p) for p in found])
    even = rollout_maps(result, residual=residual, stack=stack, uniform=True)[chosen]
    layer, query, key = (x.ravel() for x in np.indices(even.shape))
    tokens = result.tokens[result.tokens["prompt"] == chosen].drop_duplicates("position")
    texts = tokens.set_index("position")["token"]
    table = pd.DataFrame(
        {"prompt": chosen, "layer": layer, "query": query, "key": key}
        | {"token": texts.reindex(query).to_numpy(), "key_token": texts.reindex(key).to_numpy()}
        | {"rollout": found[chosen].ravel(), "even": even.ravel()}
    )
    kept = (table["rollout"] > 0) | (table["even"] > 0)
    return Rollout(table[kept].reset_index(drop=True), chosen)


def _maps(result: Any, stack: str) -> dict[int, Mapping[int, Array]]:
    """Layer -> prompt -> `[head, query, key]`, of one stack."""
    kept = result.examples("pattern")
    if not kept or not any(kept.values()):
        raise BadInput(
            f"result {result.name!r} has kept no attention maps; run the analysis "
            "attention with maps=1 or more, over more than single tokens"
        )
    stacks = sorted({name for name, _ in kept})
    if stack not in stacks and (stack or len(stacks) > 1):
        raise unknown("stack", stack, stacks)
    chosen: dict[int, Mapping[int, Array]] = {
        layer: maps for (name, layer), maps in kept.items() if name == (stack or stacks[0])
    }
    missing = sorted(set(range(max(chosen) + 1)) - set(chosen))
    if missing:
        raise BadInput(
            f"blocks {missing} have no attention pattern, so what mixes positions there is not "
            "known; rollout needs one in every block"
        )
    return chosen


# ---- head types ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class HeadTypes(Finding):
    """Scores and types of every head: the answer of `head_types`.

    Attributes:
        frame: a row per head and kind; columns as in `HEAD_COLUMNS`.
    """

    name = "heads"
    question = "What does each head look at, beyond what even attention gives?"
    columns = HEAD_COLUMNS

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Number of heads with a type, with several, and of each kind."""
        heads = self.frame.groupby([c for c in ("stack", "layer", "head") if c in self.frame])
        types = heads["typed"].sum()
        several = int((types > 1).sum())
        more = f", {several} of them several" if several else ""
        kinds = self.frame.loc[self.frame["typed"], "kind"].value_counts(sort=False)
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        found = f"{int((types > 0).sum())} of {heads.ngroups} heads have a type{more}"
        return f"{found}: {listed}" if listed else found

    @property
    def short(self) -> pd.DataFrame:
        """The heads that have a type."""
        typed = self.frame[self.frame["typed"]]
        names = ["layer", "head", "kind", "score", "score_low", "score_high", "uniform"]
        shown: pd.DataFrame = typed[names]
        return shown

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """The excess over even attention, a panel per kind."""
        maps = [
            cell_rows(
                rows.pivot_table(index="layer", columns="head", values="excess", dropna=False),
                str(kind),
            )
            for kind, rows in self.frame.groupby("kind", sort=False)
        ]
        drawing = Drawing(
            "heat",
            "Targets of the heads",
            pd.concat(maps, ignore_index=True),
            "excess",
            "head",
            "Mean over tokens of (score − even) / (1 − even): 1 if all attention goes there.",
            "0: as much as even attention over the allowed keys puts there.",
            "all cells would be near 0.",
            options={"y": "block", "high": 1.0, "cell": (34, 26)},
        )
        return {"Excess over even attention": drawing}


@repeated_on_control
def head_types(
    results: Any,
    *,
    threshold: float = 0.3,
    special: bool = False,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> HeadTypes:
    """Types of heads: previous token, induction, duplicate token, sink.

    Scores are means over the tokens for which they are defined. The control is the mean over the
    same tokens for attention spread evenly over all allowed keys. Intervals resample prompts
    (`clustered_bootstrap`). Sources of the types: Elhage et al. 2021, Olsson et al. 2209.11895
    (induction), Xiao et al. 2309.17453 (sink).

    Args:
        results: of a run with `attention`, or that result, with rows per token.
        threshold: smallest excess over even attention that makes a type, 0 to 1; a convention, not
            a test.
        special: keep special tokens, such as BOS; else left out.
        confidence: level of the intervals.
        resamples: number of bootstrap draws.
        seed: seed of the bootstrap.

    Returns one row per (stack,) layer, head and kind: `score` with `score_low` and `score_high`;
    `uniform`, the control; `difference` of the two with its interval; `excess` = (score −
    uniform)/(1 − uniform), 1 for all attention and 0 for an even one; `tokens` and `prompts` that
    it is a mean over; `typed`, whether the head is of this kind: its excess reaches the threshold
    and the interval of the difference lies above 0; and `types`, the same in all rows of a head:
    every kind that it is of, the largest excess first ("induction+sink"), or "none". A head can be
    of several kinds: one that finds earlier copies where there are any and rests on the first
    token elsewhere is both induction and sink. With a single prompt there are no intervals and
    therefore no types.

    Raises `BadInput` for a result without these rows or a threshold outside 0 … 1.
    """
    if not 0 <= threshold <= 1:
        raise BadInput(f"threshold={threshold!r}; an excess lies between 0 and 1")
    result = result_of(results, "attention")
    frame = _rows(result, special)
    parts = []
    for stack, rows in frame.groupby("stack", sort=True):
        kinds = [_kind(rows, kind, confidence, resamples, seed) for kind in KINDS]
        parts.append(pd.concat([k for k in kinds if k is not None]).assign(stack=stack))
    table = pd.concat(parts).sort_values(["stack", "layer", "head"], kind="stable")
    table = _typed(table.reset_index(drop=True), threshold)
    first = [
        *(["stack"] if "stack" in result.frame else []),
        "layer",
        "head",
        "types",
        "kind",
        "typed",
    ]
    return HeadTypes(table[[*first, *(c for c in table if c not in (*first, "stack"))]])


def _rows(result: Any, special: bool) -> pd.DataFrame:
    """Rows per token and head with the number of keys and of earlier copies of the token."""
    frame = result.frame
    needed = ["prompt", "position", "layer", "head", "token_id", "distance", *KINDS]
    missing = [c for c in needed if c not in frame]
    if missing:
        raise BadInput(
            f"result {result.name!r} has no column {missing[0]!r}; head types need the result of "
            "the analysis attention with rows per token (keep='tokens')"
        )
    on = [c for c in ("stack", "prompt", "position") if c in frame]
    tokens = frame[[*on, "token_id"]].drop_duplicates(on).sort_values(on)
    same = [c for c in on if c != "position"]
    tokens = tokens.assign(copies=tokens.groupby([*same, "token_id"]).cumcount())
    tokens["length"] = tokens.groupby(same)["position"].transform("max") + 1
    frame = frame.merge(tokens.drop(columns="token_id"), on=on)
    frame = frame.assign(stack=frame["stack"]) if "stack" in frame else frame.assign(stack="")
    # A negative distance is attention to later tokens: the stack is not causal, and a query may
    # look at the whole prompt.
    ahead = frame.groupby("stack")["distance"].transform("min") < -1e-4
    frame["keys"] = np.where(ahead, frame["length"], frame["position"] + 1)
    kept: pd.DataFrame = frame[~is_special(frame, special)]
    return kept


def _kind(
    rows: pd.DataFrame, kind: str, confidence: float, resamples: int, seed: int
) -> pd.DataFrame | None:
    """One row per head, or None where the score is defined for no token."""
    aimed = rows["copies"] if kind in ("induction", "duplicate") else 1
    rows = rows.assign(even=aimed / rows["keys"])
    rows = rows[rows[kind].notna() & (rows["keys"] > 1)]
    if rows.empty:
        return None
    index = ["prompt", "position"]
    # One value per token and head: `pivot_table` would average them, and drop what is NaN.
    wide = rows.pivot(index=index, columns=["layer", "head"], values=[kind, "even"])  # noqa: PD010
    scores = pd.DataFrame(wide[kind])
    even = pd.DataFrame(wide["even"])
    values = np.concatenate([scores.to_numpy(np.float64), even.to_numpy(np.float64)])
    labels = np.arange(len(values)) < len(scores)
    prompts = np.tile(scores.index.get_level_values("prompt").to_numpy(), 2)
    fits = clustered_bootstrap(
        values, labels, prompts, confidence=confidence, resamples=resamples, seed=seed
    )
    score, uniform, difference = (fits[n] for n in ("mean_a", "mean_b", "difference"))
    # Scores are shares of attention.
    low, high = moved_within(score.estimate, score.low, score.high, (0.0, 1.0))
    ends = difference.low, difference.high
    less, more = moved_within(difference.estimate, *ends, (-1.0, 1.0))
    table = pd.DataFrame(
        {
            "kind": kind,
            "score": score.estimate,
            "score_low": low,
            "score_high": high,
            "uniform": uniform.estimate,
            "difference": difference.estimate,
            "difference_low": less,
            "difference_high": more,
            "excess": difference.estimate / (1 - uniform.estimate),
            "tokens": np.isfinite(scores.to_numpy(np.float64)).sum(axis=0),
            "prompts": len(set(prompts)),
        }
    )
    return pd.concat([scores.columns.to_frame(index=False), table], axis=1)


def _typed(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Types of each head: column `typed` per kind, and all of them by name in `types`."""
    head = ["stack", "layer", "head"]
    typed = (table["excess"] >= threshold) & (table["difference_low"] > 0)
    table = table.assign(typed=typed)
    sure = table[typed].sort_values("excess", ascending=False, kind="stable")
    names = sure.groupby(head)["kind"].agg("+".join).rename("types")
    table = table.join(names, on=head)
    return table.assign(types=table["types"].fillna("none"))
