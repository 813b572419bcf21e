"""Stability of the embedding space over training and over seeds.

Knows words and their vectors in several models, loaded one after the other.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Bools, Floats, Ints
from interp.contract.options import names_of
from interp.errors import BadInput, InterpError, unknown
from interp.experiments.word_files import WordSpace, model_space
from interp.measures.maps import procrustes
from interp.measures.matrices import unit_rows
from interp.measures.similarity import LEAST, measure
from interp.models.load import load_model
from interp.models.weights import MATRICES
from interp.render.drawing import Drawing
from interp.render.finding import Finding
from interp.runs.series.drawings import axis_options
from interp.runs.series.members import Member, Members, members_of
from interp.stats.nulls import Null, permuted

ALPHA = 0.05
PAIRS = ("last", "next", "all", "runs")
MEASURES = ("residual", "cosine", "overlap", "cka", "rsa")
SIMILAR = ("cka", "rsa")
FOLDS = 2
PERMUTED = "permuted words"
WITH_WHAT = {
    "last": "each member with the last one",
    "next": "each member with the next one",
    "runs": "members of different runs at the same place",
}
COLUMNS = {
    "a": "first member of the pair",
    "b": "second member",
    "at": "place of the first on the axis of the series",
    "run": "training run of the first, where the series has several",
    "measure": "residual: ‖mapped a − b‖ / ‖b − mean‖ after the best rotation, on words that it "
    "was not fitted on; cosine: mean cosine there; overlap: share of the nearest neighbours in "
    "common; cka (debiased) and rsa: similarity of all words at once",
    "value": "its value",
    "null_mean": "its mean when the words of b are permuted, with the rotation fitted anew",
    "null_low": "lower end of the middle 95 % of the permutations",
    "null_high": "upper end",
    "p": "share of permutations at least as alike, never 0",
    "p_max": "the same against the most alike pair of each permutation, in standard deviations of "
    "each pair's null, times the number of measures: family-wise over the table",
    "words": "words compared",
}
TOKEN_COLUMNS = {
    "a": "first member of the pair",
    "b": "second member",
    "word": "the word",
    "drift": "‖mapped a − b‖ / ‖b − mean‖ of its vector, mapped by a rotation fitted without it",
    "cosine": "cosine of the mapped vector and that of b, both about the mean of the words",
    "overlap": "share of its nearest neighbours that both members have in common",
}


@dataclass(frozen=True, eq=False, repr=False)
class Stability(Finding):
    """How alike the embedding spaces of a series are: the answer of `space_stability`.

    Attributes:
        frame: a row per pair of members and measure; columns as in `COLUMNS`.
        words: a row per pair and word; columns as in `TOKEN_COLUMNS`.
        pairs: how members were paired: "last", "next", "all" or "runs".
        matrix: "W_E" or "W_U".
        axis: what `at` counts.
        ordered: whether `at` is a place on an axis.
        notes: caveats.
    """

    name = "stability"
    question = "How stable is the embedding space over the series?"
    columns = MappingProxyType({**TOKEN_COLUMNS, **COLUMNS})

    frame: pd.DataFrame
    words: pd.DataFrame
    pairs: str
    matrix: str
    axis: str
    ordered: bool
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The least and the most alike pair, by their residual, and the neighbours of both."""
        rows = self.frame[self.frame["measure"] == "residual"]
        far, near = (rows.loc[rows["value"].agg(how)] for how in ("idxmax", "idxmin"))
        hits = int((self.frame["p_max"] < ALPHA).sum())
        parts = [self._pair(far)] if far.name == near.name else [self._pair(near), self._pair(far)]
        return (
            f"{self.matrix} of {int(self.frame['words'].iloc[0])} words: "
            f"{'; least alike '.join(parts)}; {hits} of {len(self.frame)} values are more alike "
            f"than with permuted words (p < {ALPHA} over all of them)"
        )

    def _pair(self, row: Any) -> str:
        same = self.frame[(self.frame["a"] == row["a"]) & (self.frame["b"] == row["b"])]
        overlap = same.set_index("measure").loc["overlap"]
        return (
            f"{row['a']} and {row['b']}: after the best rotation {row['value']:.3g} of the length "
            f"is left ({row['null_mean']:.3g} with permuted words), {overlap['value']:.2f} of the "
            f"neighbours are the same ({overlap['null_mean']:.2f})"
        )

    @property
    def short(self) -> pd.DataFrame:
        """The columns to read first."""
        return self.frame[["a", "b", "measure", "value", "null_mean", "p_max"]]

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """The pairs, and every word of every pair."""
        return {"stability": self.frame, "words": self.words}

    @property
    def drifting(self) -> pd.DataFrame:
        """Words by their mean drift over all pairs, the least stable first."""
        table = self.words.groupby("word", sort=False)[["drift", "cosine", "overlap"]].mean()
        return table.sort_values("drift", ascending=False, kind="stable").reset_index()

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Every measure over the axis with its null; a map of all pairs, where all were taken."""
        if self.pairs == "all" or not self.ordered:
            return {"Pairs": self._bars()}
        return {
            name: self._lines(names)
            for name, names in (
                ("Drift", ("residual",)),
                ("Likeness", ("cosine", "overlap", "cka", "rsa")),
            )
        }

    def _lines(self, measures: Sequence[str]) -> Drawing:
        rows = self.frame[self.frame["measure"].isin(measures)]
        options = axis_options(self.frame["at"].tolist())
        base = rows.assign(
            value=rows["measure"], x=rows["at"].map(options.pop("x")), n=rows["words"]
        )
        own = base.assign(mean=rows["value"], low=np.nan, high=np.nan, group=self._groups(rows))
        null = base.assign(
            mean=rows["null_mean"], low=rows["null_low"], high=rows["null_high"], group=PERMUTED
        )
        # Runs have a null each, all of one kind: one band is enough to look at.
        table = pd.concat([null.drop_duplicates(["value", "x"]), own])
        return Drawing(
            "lines",
            f"{', '.join(measures)}: {self.matrix}, {WITH_WHAT[self.pairs]}",
            table[["value", "group", "x", "mean", "low", "high", "n"]],
            "value",
            self.axis,
            f"{int(rows['words'].iloc[0])} words; residual and cosine after the best rotation, on "
            "words that it was not fitted on.",
            "Grey: the words of the second member permuted, with the middle 95 %.",
            "the lines would lie in the grey band.",
            options=options | {"greys": (PERMUTED,)},
        )

    def _groups(self, rows: pd.DataFrame) -> Any:
        """The line of each row: its run, or both runs of a pair."""
        if "run" not in rows:
            return "as measured"
        both = rows["run"].astype(str) + " – " + rows["run_b"].astype(str)
        return both if self.pairs == "runs" else rows["run"].astype(str)

    def _bars(self) -> Drawing:
        rows = self.frame
        table = pd.DataFrame(
            {
                "name": rows["a"] + " – " + rows["b"] + " · " + rows["measure"],
                "value": rows["value"],
                "control": rows["null_mean"],
                "control_low": rows["null_low"],
                "control_high": rows["null_high"],
            }
        )
        return Drawing(
            "bars",
            f"Pairs of {self.matrix}",
            table.reset_index(drop=True),
            "value",
            control="Grey: the words of the second member permuted, with the middle 95 %.",
            if_null="every point would lie in its grey bar.",
            options={"control_name": "permuted words", "from_zero": True},
        )


def space_stability(
    *models: Any,
    matrix: str = "W_E",
    pairs: str | None = None,
    words: str | Sequence[str] | None = None,
    limit: int = 500,
    k: int = 10,
    at: Sequence[float] | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> Stability:
    """Compare the embedding spaces of checkpoints or seeds, word by word and as a whole.

    Two trainings of one model have no common axes, so spaces are compared after the best rotation
    (Procrustes), fitted on one half of the words and scored on the other, both ways. Nearest
    neighbours, CKA and RSA need no rotation. Every value has its null: the words of the second
    member are permuted, and the rotation is fitted again. One model is in memory at a time; kept
    are the vectors of the words.

    Args:
        models: as for `interp series`: folders of checkpoints, globs, NAME@REVISION.
        matrix: W_E (embedding) or W_U (unembedding).
        pairs: last (each member with the last of its run), next (with the next one), all, or runs
            (members of different runs at the same place). By default runs where there are several,
            last where there is an axis, else all.
        words: the words; by default those that are one token in every member.
        limit: most words, drawn at random.
        k: number of neighbours.
        at: a place on the axis for each member.
        resamples: number of permutations.
        seed: seed of the draw, the halves and the permutations.

    Raises `BadInput` for fewer than two members or too few common words, `UnknownName` for another
    matrix or way to pair.
    """
    if matrix not in MATRICES:
        raise unknown("matrix", matrix, MATRICES)
    if pairs is not None and pairs not in PAIRS:
        raise unknown("value of pairs", pairs, PAIRS)
    words = None if words is None else names_of(words)
    given = models[0] if len(models) == 1 else list(models)
    members = members_of(given, at)
    spaces, notes = _spaces(members, matrix, words)
    chosen = _common(spaces, words, limit, seed)
    vectors = {name: space.rows(chosen) for name, space in spaces.items()}
    there = [m for m in members.members if m.name in vectors]
    how = pairs or _default_pairs(members)
    compared = list(_pairs(there, how))
    if not compared:
        raise BadInput(
            f"pairs={how!r} leaves no pair of members (there are "
            f"{', '.join(m.name for m in there[:6])})"
        )
    halves = np.random.default_rng(seed).permutation(len(chosen)) % FOLDS == 0
    rows, tables, nulls = [], [], []
    for one, other in compared:
        x, y = vectors[one.name], vectors[other.name]
        found, table, null = _compared(x, y, halves, k, resamples, seed)
        nulls.append(null)
        where = {"a": one.name, "b": other.name, "at": one.at, "run": one.run, "run_b": other.run}
        rows += [where | record | {"words": len(chosen)} for record in found]
        tables.append(table.assign(a=one.name, b=other.name, word=chosen))
    frame = pd.DataFrame(rows)
    frame["p_max"] = _family_wise(nulls).ravel()
    if len(MEASURES) / (1 + resamples) >= ALPHA:
        notes.append(
            f"{resamples} permutations are too few for p_max < {ALPHA} over {len(MEASURES)} "
            f"measures: raise resamples above {round(len(MEASURES) / ALPHA)}"
        )
    if not frame["run"].any():
        frame = frame.drop(columns=["run", "run_b"])
    order = [*(c for c in COLUMNS if c in frame), *(c for c in ("run_b",) if c in frame)]
    named = pd.concat(tables, ignore_index=True)[list(TOKEN_COLUMNS)]
    notes += list(members.notes)
    return Stability(
        frame[order], named, how, matrix, members.axis, members.ordered, tuple(dict.fromkeys(notes))
    )


def _spaces(
    members: Members, matrix: str, words: Sequence[str] | None
) -> tuple[dict[str, WordSpace], list[str]]:
    """The words of every member that can be loaded, and notes on those that cannot."""
    spaces: dict[str, WordSpace] = {}
    notes: list[str] = []
    for member in members.members:
        try:
            bridge = load_model(member.model, **member.options)
            space = model_space(bridge, matrix, words)
        except InterpError as error:
            notes.append(f"{member.name!r} is left out: {error}")
            continue
        spaces[member.name] = WordSpace(space.words, space.vectors, member.name)
        notes += space.notes
        del bridge
        gc.collect()  # bridges are full of cycles, and two at once may not fit
    if len(spaces) < 2:
        raise BadInput(f"fewer than two members have word vectors: {'; '.join(notes)}")
    return spaces, notes


def _common(
    spaces: Mapping[str, WordSpace], words: Sequence[str] | None, limit: int, seed: int
) -> list[str]:
    if limit < LEAST * FOLDS:
        raise BadInput(f"limit is {limit!r}; allowed is {LEAST * FOLDS} or more words")
    first = next(iter(spaces.values()))
    wanted = dict.fromkeys(first.words if words is None else words)
    common = [w for w in wanted if all(w in space for space in spaces.values())]
    if len(common) < LEAST * FOLDS:
        raise BadInput(
            f"the members have {len(common) or 'no'} words in common, at least {LEAST * FOLDS} are "
            "needed; words= names some, which may be several tokens"
        )
    if len(common) <= limit:
        return common
    kept = np.sort(np.random.default_rng(seed).permutation(len(common))[:limit])
    return [common[i] for i in kept]


def _default_pairs(members: Members) -> str:
    if len({m.run for m in members.members}) > 1:
        return "runs"
    return "last" if members.ordered else "all"


def _pairs(members: Sequence[Member], how: str) -> Iterator[tuple[Member, Member]]:
    if how == "all":
        yield from combinations(members, 2)
        return
    if how == "runs":
        pairs = combinations(members, 2)
        yield from ((a, b) for a, b in pairs if a.at == b.at and a.run != b.run)
        return
    for run in dict.fromkeys(m.run for m in members):
        own = [m for m in members if m.run == run]
        if how == "last":
            yield from ((a, own[-1]) for a in own[:-1])
        else:
            yield from pairwise(own)


# ---- one pair --------------------------------------------------------------------------------


def _compared(
    x: Floats, y: Floats, halves: Bools, k: int, resamples: int, seed: int
) -> tuple[list[dict[str, Any]], pd.DataFrame, Null]:
    """The measures of a pair with their nulls, and drift, cosine and overlap of every word."""
    n = len(x)
    if not 1 <= k <= n - 1:
        raise BadInput(f"k is {k}; allowed is 1 to {n - 1}, the other words of {n}")
    kinds = {name: measure(name) for name in SIMILAR}
    prepared = {name: (kind.prepare(x), kind.prepare(y)) for name, kind in kinds.items()}
    near = _near(x, k), _near(y, k)

    def score(order: Ints) -> Floats:
        drift, cosine = _aligned(x, y[order], halves)
        found = [float(np.sqrt((drift**2).mean())), float(cosine.mean())]
        found.append(float(_overlap(*near, order).mean()))
        return np.array(found + [kinds[name].score(*prepared[name], order) for name in SIMILAR])

    null = permuted(score, n, resamples=resamples, seed=seed)
    records = []
    for i, name in enumerate(MEASURES):
        sign = -1 if name == "residual" else 1
        reached = sign * null.draws[:, i] >= sign * null.value[i] - 1e-12
        low, high = np.quantile(null.draws[:, i], [0.025, 0.975])
        records.append(
            {
                "measure": name,
                "value": float(null.value[i]),
                "null_mean": float(null.draws[:, i].mean()),
                "null_low": float(low),
                "null_high": float(high),
                "p": float((1 + reached.sum()) / (1 + len(reached))),
            }
        )
    drift, cosine = _aligned(x, y, halves)
    words = {"drift": drift, "cosine": cosine, "overlap": _overlap(*near, np.arange(n))}
    return records, pd.DataFrame(words), null


def _family_wise(nulls: Sequence[Null]) -> Floats:
    """p of every pair and measure against the most alike pair of each draw: `[pairs, measures]`.

    One order of words serves all pairs of a draw, so that draws can be compared between pairs; in
    units of each null they have one scale (Westfall & Young 1993). Measures are corrected by their
    number.
    """
    sign = np.where(np.array(MEASURES) == "residual", -1.0, 1.0)
    value = np.stack([null.value for null in nulls])
    draws = np.stack([null.draws for null in nulls], axis=1)
    mean, spread = draws.mean(axis=0), draws.std(axis=0)
    spread = np.where(spread > 0, spread, np.nan)
    best = np.nanmax(sign * (draws - mean) / spread, axis=1)
    observed = sign * (value - mean) / spread
    p = (1 + (best[:, None] >= observed - 1e-9).sum(axis=0)) / (1 + len(draws))
    return np.asarray(
        np.where(np.isnan(observed), np.nan, np.minimum(1, len(sign) * p)), np.float64
    )


def _aligned(x: Floats, y: Floats, halves: Bools) -> tuple[Floats, Floats]:
    """Drift and cosine of every word under a rotation that was fitted without it: `[n]` each."""
    if np.array_equal(x, y):  # no rotation is needed, and one that is fitted has rounding
        return np.zeros(len(x)), np.ones(len(x))
    drift, cosine = np.empty((2, len(x)))
    for held in (halves, ~halves):
        fitted = procrustes(x[~held], y[~held], width="pca")
        mapped, target = fitted.source(x[held]), fitted.target(y[held])
        # In units of the typical length: that of one word may be next to nothing.
        size = np.sqrt((fitted.target(y) ** 2).sum(axis=1).mean())
        drift[held] = np.linalg.norm(mapped - target, axis=1) / size
        cosine[held] = (unit_rows(mapped) * unit_rows(target)).sum(axis=1)
    return drift, cosine


def _near(x: Floats, k: int) -> tuple[Bools, Ints]:
    """The nearest neighbours of every row by cosine: as a mask `[n, n]`, and by number `[n, k]`."""
    unit = unit_rows(x)
    cosine = np.round(unit @ unit.T, 12)  # equal cosines tie on every machine
    np.fill_diagonal(cosine, -np.inf)
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    member = np.zeros(cosine.shape, bool)
    np.put_along_axis(member, nearest, True, axis=1)
    return member, nearest


def _overlap(a: tuple[Bools, Ints], b: tuple[Bools, Ints], order: Ints) -> Floats:
    """Share of common neighbours of every row, with the rows of b in another order: `[n]`."""
    place = np.argsort(order)
    return np.asarray(np.take_along_axis(a[0], place[b[1][order]], axis=1).mean(axis=1), np.float64)
