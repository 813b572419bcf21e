"""Pairs of prompts: both sides in equal passes, the distance of their streams, and differences.

The clean and the corrupted prompts of a batch run in two passes of one shape, a pair in the same
row of both, so that equal tokens give equal numbers to the last bit. Knows streams and tables;
nothing of patching or tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp._arrays import Floats, Ints
from interp._progress import track
from interp.contract.columns import INDEX, STATE
from interp.contract.tokens import PER_TOKEN, Tokens
from interp.errors import BadInput, InterpError
from interp.geometry import angle, cosine, norm, ratio
from interp.models.anatomy import Anatomy, StackAnatomy
from interp.models.answers import answers_of
from interp.models.for_model import prompts_of
from interp.models.prefix import run_watched
from interp.prompts.pairs import ANSWER, WRONG, PromptPairs, RawPairs, aligned
from interp.prompts.prompts import Prompts
from interp.stats.table import is_summary

MEASURES = ("angle", "cosine", "distance", "relative_distance")
UNRELATED = ("angle", "distance", "relative_distance")
KEYS = ("pair", "place")
NO_PARTNER = -1


# ---- pairs of one model ------------------------------------------------------------------------


def pairs_of(
    model: Any,
    anatomy: Anatomy,
    raw: RawPairs,
    *,
    align: str | None = None,
    prepend_bos: bool | None = None,
) -> PromptPairs:
    """Pairs as token ids of a model, aligned.

    Raises `BadInput` for sides of different length that nothing aligns, for an answer that is not
    one token, and for two answers that are the same.
    """
    both = [
        replace(prompts_of(model, anatomy, list(side), prepend_bos=prepend_bos), source=raw.source)
        for side in (raw.clean, raw.corrupted)
    ]
    # Spans of ids count positions, also where the ids have a text.
    blank = [p if raw.of_texts else replace(p, texts=(None,) * len(raw)) for p in both]
    spans = raw.spans or (None,) * len(raw)
    places = tuple(aligned(blank[0], blank[1], i, align, spans[i]) for i in range(len(raw)))
    for i, place in enumerate(places):
        if not len(place):
            raise BadInput(
                f"pair {i}: the two prompts have no equal token at either end, so none are "
                "aligned; give spans="
            )
    ids = {name: _ids(model, raw.answers.get(name), name) for name in (ANSWER, WRONG)}
    _refuse_equal(ids[ANSWER], ids[WRONG])
    found = PromptPairs(both[0], both[1], places, ids[ANSWER], ids[WRONG], raw.fields)
    return replace(found, notes=(*both[0].notes, *_replaced(raw), *_notes(found)))


def _replaced(raw: RawPairs) -> list[str]:
    return [
        f"The {name} given takes the place of the column {name!r} of {raw.source}."
        for name in raw.replaced
    ]


def _ids(model: Any, given: Sequence[Any] | None, name: str) -> tuple[int, ...] | None:
    if given is None:
        return None
    found = answers_of(model, list(given), name)
    if not isinstance(found, list):
        raise BadInput(f"{name}= takes one token for each pair, by text or id; got {list(given)}")
    return tuple(found)


def _refuse_equal(answer: Sequence[int] | None, wrong: Sequence[int] | None) -> None:
    for i, (a, b) in enumerate(zip(answer or (), wrong or (), strict=False)):
        if a == b:
            raise BadInput(
                f"pair {i}: answer and wrong are the same token ({a}), so that their logits never "
                "differ"
            )


def _many(some: int, of: int) -> str:
    """Some of the pairs as the subject of a sentence.

    >>> _many(1, 3), _many(1, 1)
    ('1 of 3 pairs has', 'the only pair has')
    """
    if of == 1:
        return "the only pair has"
    return f"{some} of {of} pairs {'has' if some == 1 else 'have'}"


def _notes(pairs: PromptPairs) -> list[str]:
    notes = []
    same = np.flatnonzero(pairs.same)
    if len(same):
        notes.append(
            f"{_many(len(same), len(pairs))} the same tokens on both sides (the first: "
            f"pair {same[0]}); their differences are 0, and patching has nothing to recover."
        )
    notes += _shared(pairs)
    lengths = np.stack([pairs.clean.lengths, pairs.corrupted.lengths], axis=1)
    uneven = np.flatnonzero(lengths[:, 0] != lengths[:, 1])
    if len(uneven):
        lost = sum(int(lengths[i].max()) - len(pairs.places[i]) for i in uneven)
        notes.append(
            f"{_many(len(uneven), len(pairs))} sides of different length; {lost} tokens of "
            "their longer sides have no counterpart and are left out. The same token then stands "
            "at two positions, which is a difference by itself."
        )
    return notes


def _sides(pairs: PromptPairs) -> list[set[bytes]]:
    """The prompts of each pair, to be compared with those of others."""
    both = zip(pairs.clean.tokens, pairs.corrupted.tokens, strict=True)
    return [{a.tobytes(), b.tobytes()} for a, b in both]


def _sharing(pairs: PromptPairs) -> list[tuple[int, int]]:
    """Earlier and later pair of every pair that has a prompt in common with an earlier one."""
    first: dict[bytes, int] = {}
    found = []
    for i, sides in enumerate(_sides(pairs)):
        earlier = [first[side] for side in sides if side in first]
        found += [(min(earlier), i)] if earlier else []
        first |= {side: i for side in sides if side not in first}
    return found


def shared_prompts(pairs: PromptPairs) -> int:
    """Number of pairs that have a prompt in common with an earlier one."""
    return len(_sharing(pairs))


def _shared(pairs: PromptPairs) -> list[str]:
    """A note on pairs that have a prompt in common."""
    found = _sharing(pairs)
    if not found:
        return []
    a, b = found[0]
    return [
        f"{len(found)} of {len(pairs)} pairs share a prompt with an earlier one (pair {b} with "
        f"pair {a}); they are not independent, and tests and intervals take them as if they were."
    ]


# ---- unrelated pairs ---------------------------------------------------------------------------


def unrelated(pairs: PromptPairs, draws: int, seed: int) -> Ints:
    """Numbers of unrelated pairs for every pair: int64 `[pairs, draws]`, -1 for none.

    Drawn without replacement from the pairs whose two sides have the same lengths; where there are
    none, from those that are at least as long. A pair that shares a side with the pair itself is
    not unrelated.
    """
    rng = np.random.default_rng(seed)
    out = np.full((len(pairs), draws), NO_PARTNER, dtype=np.int64)
    a, b = pairs.clean.lengths, pairs.corrupted.lengths
    sides = _sides(pairs)
    for i in range(len(pairs)):
        other = np.array([j for j in range(len(pairs)) if not sides[i] & sides[j]], dtype=np.int64)
        even = other[(a[other] == a[i]) & (b[other] == b[i])]
        choice = even if len(even) else other[(a[other] >= a[i]) & (b[other] >= b[i])]
        chosen = rng.permutation(choice)[:draws]
        out[i, : len(chosen)] = chosen
    return out


# ---- passes ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PairPasses:
    """Rectangles of pairs of prompts, in batches of one shape for both sides.

    Attributes:
        pairs: the pairs.
        side: where padding goes.
        pad_id: the id at padding.
        groups: numbers of the pairs of each batch.
        pads: whether batches may be padded at all.
        limit: the widest that a padded batch may be; None for no limit.
    """

    pairs: PromptPairs
    side: str
    pad_id: int
    groups: tuple[Ints, ...]
    pads: bool
    limit: int | None = None

    @classmethod
    def of(cls, model: Any, anatomy: Anatomy, pairs: PromptPairs, max_tokens: int) -> PairPasses:
        """Batches of at most `max_tokens` cells, or of one pair where the model cannot pad."""
        side = "right" if anatomy.padding.fine("right") else "left"
        lengths = np.maximum(pairs.clean.lengths, pairs.corrupted.lengths)
        most = len(pairs) if anatomy.padding.fine(side) else 1
        beyond = anatomy.apart(lengths)
        order = np.lexsort((np.arange(len(pairs)), -lengths))
        groups: list[list[int]] = []
        for i in order:
            group = groups[-1] if groups else []
            # The first of a group is its longest.
            full = len(group) in (0, most) or lengths[group[0]] * (len(group) + 1) > max_tokens
            if full or (beyond and beyond(int(lengths[i])) != beyond(int(lengths[group[0]]))):
                groups.append([int(i)])
            else:
                group.append(int(i))
        pad = getattr(getattr(model, "tokenizer", None), "pad_token_id", None)
        found = tuple(np.asarray(g, np.int64) for g in groups)
        limit = anatomy.n_ctx if anatomy.positions.switch is None else int(lengths.max())
        return cls(pairs, side, int(pad or 0), found, anatomy.padding.fine(side), limit)

    def width(self, group: Sequence[int]) -> int:
        """Width of the passes over a group."""
        both = self.pairs.clean.lengths[group], self.pairs.corrupted.lengths[group]
        lengths = np.concatenate(both)
        longest = int(lengths.max())
        # One more where some row is padded: then every pass of the group has a mask, and all of
        # them take the same attention kernel.
        uneven = bool((lengths < longest).any())
        return longest + int(uneven and (self.limit is None or longest < self.limit))

    def batch(self, prompts: Prompts, rows: Sequence[int], width: int) -> Tokens:
        """These prompts as one rectangle, `width` wide or wider where the model takes padding."""
        given: dict[str, Any] = {"pad_id": self.pad_id, "padding_side": self.side, "sort": False}
        (batch,) = prompts.batches(1 << 62, only=list(rows), **given)
        short = width - batch.tokens.shape[1]
        if short <= 0 or not self.pads:
            return batch
        ends = (0, short) if self.side == "right" else (short, 0)
        fill = {"tokens": self.pad_id, "targets": -1}
        wide = {
            name: torch.nn.functional.pad(x, ends, value=fill.get(name, 0))
            for name, x in batch.tensors().items()
            if name in PER_TOKEN
        }
        return Tokens.whole(ids=batch.ids, **wide)


def marked(batch: Tokens, positions: Sequence[Ints]) -> Tensor:
    """The tokens at these positions of each row: bool `[batch, pos]`."""
    out = torch.zeros(batch.tokens.shape, dtype=torch.bool, device="cpu")
    for row, at in enumerate(positions):
        wanted = torch.from_numpy(np.ascontiguousarray(at))
        out[row] = torch.isin(batch.positions[row], wanted) & batch.mask[row]
    return out


def states_at(
    model: Any, stack: StackAnatomy, batch: Tokens, positions: Sequence[Ints]
) -> tuple[Tensor, list[Tensor]]:
    """Logits of a batch, and the states `[n, d_model]` at ascending positions of each row.

    Raises `InterpError` for NaN.
    """
    logits, states = run_watched(model, batch, stack.boundaries, marked(batch, positions))
    for number, x in enumerate(states):
        if not bool(torch.isfinite(x).all()):
            raise InterpError(
                f"the model yields NaN or infinity at state {number}; in float16 this is often an "
                "overflow: try bfloat16 or float32"
            )
    return logits, states


# ---- distances ---------------------------------------------------------------------------------


def distances(
    model: Any,
    stack: StackAnatomy,
    passes: PairPasses,
    partners: Ints,
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """Distance of the two streams at every aligned token and state.

    Columns: `pair`, `place`, `layer` and `state` (0 … L), `block` that ends there (-1 for none);
    `angle` (degrees), `cosine`, `distance` (Euclidean), `relative_distance` (over the mean of both
    norms, 0 to 2); `step_angle`, `step_distance`, the same between the steps of the block;
    `unrelated_*`, the mean over unrelated corrupted prompts at the same position (NaN without);
    `repeated_distance`, between two runs of the clean prompt.

    Args:
        partners: numbers of unrelated pairs `[pairs, draws]`, as `unrelated` gives.
    """
    parts = [
        _distances(model, stack, passes, partners, group)
        for group in track(passes.groups, "passes over pairs", enabled=progress)
    ]
    out = pd.concat(parts, ignore_index=True)
    return out.sort_values([*KEYS, STATE], ignore_index=True)


def _distances(
    model: Any, stack: StackAnatomy, passes: PairPasses, partners: Ints, group: Ints
) -> pd.DataFrame:
    pairs = passes.pairs
    at = [[pairs.places[i][:, side] for i in group] for side in (0, 1)]
    rows = group.tolist()
    width = passes.width(rows)
    clean = passes.batch(pairs.clean, rows, width)
    _, x = states_at(model, stack, clean, at[0])
    _, again = states_at(model, stack, clean, at[0])
    _, y = states_at(model, stack, passes.batch(pairs.corrupted, rows, width), at[1])
    columns = _measured(x, y)
    columns["repeated_distance"] = np.stack([_numpy(norm(a - b)) for a, b in _zip(x, again)])
    others = [
        _unrelated(model, stack, passes, x, partners[group, draw], at[1], width)
        for draw in range(partners.shape[1])
    ]
    for name in UNRELATED:
        drawn = [other[name] for other in others]
        columns[f"unrelated_{name}"] = _mean(drawn, columns[name])
    counts = [len(pairs.places[i]) for i in group]
    return _rows(columns, np.repeat(group, counts), np.concatenate([np.arange(n) for n in counts]))


def _measured(x: Sequence[Tensor], y: Sequence[Tensor]) -> dict[str, Floats]:
    """Every measure of two streams, `[state, row]` each; of no step at state 0."""
    out = {
        name: np.stack([_numpy(f(a, b)) for a, b in _zip(x, y)]) for name, f in _PAIRWISE.items()
    }
    none = np.full((1, len(x[0])), np.nan)
    steps = list(zip(_steps(x), _steps(y), strict=True))
    for name in ("angle", "distance"):
        found = [_numpy(_PAIRWISE[name](a, b)) for a, b in steps]
        out[f"step_{name}"] = np.vstack([none, *found]) if found else none
    return out


def _relative(a: Tensor, b: Tensor) -> Tensor:
    return ratio(2 * norm(a - b), norm(a) + norm(b))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return norm(a - b)


_PAIRWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "angle": angle,
    "cosine": cosine,
    "distance": _distance,
    "relative_distance": _relative,
}


def _steps(states: Sequence[Tensor]) -> list[Tensor]:
    return [b - a for a, b in itertools.pairwise(states)]


def _zip(x: Sequence[Tensor], y: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(x, y, strict=True)


def _numpy(x: Tensor) -> Floats:
    return np.asarray(x.detach().double().cpu().numpy(), np.float64)


def _mean(drawn: list[Floats], like: Floats) -> Floats:
    """Mean over draws of what is known of them."""
    if not drawn:
        return np.full_like(like, np.nan)
    values = np.stack(drawn)
    known = np.isfinite(values)
    total, count = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _unrelated(
    model: Any,
    stack: StackAnatomy,
    passes: PairPasses,
    x: Sequence[Tensor],
    partners: Ints,
    at: Sequence[Ints],
    width: int,
) -> dict[str, Floats]:
    """The measures between clean streams and those of unrelated corrupted prompts."""
    prompts = passes.pairs.corrupted
    known = np.flatnonzero(partners != NO_PARTNER).tolist()
    counts = [len(p) for p in at]
    out = {name: np.full((len(x), sum(counts)), np.nan) for name in UNRELATED}
    if not known:
        return out
    starts = np.concatenate([[0], np.cumsum(counts)])
    wanted, rows = [], []
    for k in known:
        inside = at[k] < len(prompts.tokens[partners[k]])
        wanted.append(at[k][inside])
        rows.append(starts[k] + np.flatnonzero(inside))
    batch = passes.batch(prompts, partners[known].tolist(), width)
    _, other = states_at(model, stack, batch, wanted)
    place = np.concatenate(rows)
    here = [state[torch.from_numpy(place).to(state.device)] for state in x]
    for name in UNRELATED:
        out[name][:, place] = np.stack(
            [_numpy(_PAIRWISE[name](a, b)) for a, b in _zip(here, other)]
        )
    return out


def _rows(columns: Mapping[str, Floats], pair: Ints, place: Ints) -> pd.DataFrame:
    """Values `[state, row]` as a table."""
    states, n = next(iter(columns.values())).shape
    state = np.repeat(np.arange(states), n)
    index = {
        "pair": np.tile(pair, states),
        "place": np.tile(place, states),
        "layer": state,
        STATE: state,
        "block": state - 1,
    }
    return pd.DataFrame({**index, **{name: values.ravel() for name, values in columns.items()}})


# ---- where the streams part --------------------------------------------------------------------


def parting(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Where the two streams of every aligned token part and where they meet again.

    Columns: `pair`, `place`; `parts`, the first state where the relative distance is above the
    threshold; `peak_state` and `peak`, where it is largest; `meets`, the state from which on it is
    below the threshold to the end; `last`, the relative distance at the last state. Missing (NaN)
    where the streams do not part or do not meet.

    Args:
        table: as `distances` gives.
        threshold: relative distance up to which two streams count as the same.
    """
    rows = table.sort_values([*KEYS, STATE])
    states = np.sort(rows[STATE].unique())
    # Two zero vectors have no relative distance, and are the same.
    x = np.nan_to_num(rows["relative_distance"].to_numpy(np.float64)).reshape(-1, len(states))
    apart = x > threshold
    some = apart.any(axis=1)
    last = x.shape[1] - 1 - apart[:, ::-1].argmax(axis=1)
    meets = some & (last < x.shape[1] - 1)
    after = states[np.minimum(last + 1, x.shape[1] - 1)]
    out = rows.loc[rows[STATE] == states[0], list(KEYS)].reset_index(drop=True)
    return pd.DataFrame(out).assign(
        parts=np.where(some, states[apart.argmax(axis=1)], np.nan),
        peak_state=np.where(some, states[x.argmax(axis=1)], np.nan),
        peak=x.max(axis=1),
        meets=np.where(meets, after, np.nan),
        last=x[:, -1],
    )


# ---- differences of tables ---------------------------------------------------------------------


def differences(
    clean: Any, corrupted: Any, tokens: pd.DataFrame
) -> tuple[pd.DataFrame | None, str]:
    """Difference corrupted − clean of every column of one analysis, at the aligned tokens.

    Args:
        clean, corrupted: the `Result` of each side.
        tokens: the aligned tokens, as `PromptPairs.index` gives.

    Returns the table and "", or None and the reason why there is none: `pair`, `place`, `layer` and
    `state` where there are layers, further keys, then for each column the difference, and
    `NAME_clean`.
    """
    frames = [clean.frame, corrupted.frame]
    if is_summary(frames[0]) or not {"prompt", "position"} <= set(frames[0].columns):
        return None, "has no row per token"
    values = clean.values
    known = [c for c in ("layer", "head", *clean.analysis.keys) if c in frames[0]]
    keys = [c for c in dict.fromkeys(known) if c not in ("prompt", "position")]
    parts = [
        _at_places(frame, tokens, side, keys, values)
        for frame, side in zip(frames, ("clean", "corrupted"), strict=True)
    ]
    both = parts[0].merge(parts[1], on=[*KEYS, *keys], suffixes=("_clean", "_corrupted"))
    out = both[[*KEYS, *keys]].copy()
    if "layer" in out:
        block = int(clean.analysis.depth() == "block")
        out.insert(list(out).index("layer") + 1, STATE, out["layer"] + block)
    for name in values:
        before, after = (both[f"{name}_{side}"] for side in ("clean", "corrupted"))
        out[name], out[f"{name}_clean"] = after - before, before
    return out.sort_values([*KEYS, *keys], ignore_index=True), ""


def _at_places(
    frame: pd.DataFrame, tokens: pd.DataFrame, side: str, keys: list[str], values: list[str]
) -> pd.DataFrame:
    rows = frame[["prompt", "position", *keys, *values]].astype(dict.fromkeys(values, float))
    rows = rows.rename(columns={"prompt": "pair", "position": f"{side}_position"})
    places = tokens[[*KEYS, f"{side}_position"]]
    found = rows.merge(places, on=["pair", f"{side}_position"], how="inner")
    return found[[*KEYS, *keys, *values]]


def taken_labels(names: Sequence[str]) -> None:
    """Raises `BadInput` for a label of pairs with the name of a column of their tables."""
    sides = [f"{s}_{c}" for s in ("clean", "corrupted") for c in ("position", "token", "token_id")]
    for name in names:
        if name in (*KEYS, *INDEX, *sides, "part", STATE, "block"):
            raise BadInput(f"label {name!r} is a column that the tables of pairs have; rename it")
