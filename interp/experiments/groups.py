"""Comparison of any number of groups of tokens or words, such as parts of speech.

Knows a value column and a label column; knows no model and no analysis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Floats
from interp.contract.columns import DEPTHS, INDEX_MEANINGS, depth_column
from interp.contract.options import names_of
from interp.errors import BadInput, nearest, unknown
from interp.experiments.controls import repeated_on_control
from interp.experiments.tokens_or_words import PLACES, Join, joined_by, per_token, units_of
from interp.render.drawing import Drawing, line_rows, nothing
from interp.render.finding import Finding
from interp.render.tokens import percent
from interp.stats.classical import benjamini_hochberg, holm
from interp.stats.compare import compare
from interp.stats.comparison import Comparison
from interp.stats.comparison_columns import COLUMNS as PAIR_COLUMNS
from interp.stats.groups import clustered_omnibus, group_means
from interp.stats.labelings import Codes
from interp.stats.paired import moved_within
from interp.stats.table import EVERYWHERE, label_typed, numbered, numbers, places_of, range_of

RUNNING = ("path", "chord", "tortuosity", "angular_path")
"""Cumulative columns: their total is the value of the last layer."""
ADDED = ("step", "angle", "attn_angle", "mlp_angle")
"""Columns whose total is their sum over layers; of every other column it is the mean."""
MOST_GROUPS = 8  # drawn: there are eight colours that can be told apart
MOST_NAMED = 4  # groups that the sentence lists; of more it names the two ends
SHUFFLED = "shuffled labels"
BINS = 4  # of a label of decimal numbers, unless given
TOTALS = ("last", "sum", "mean")
COLUMNS = {
    "stack": INDEX_MEANINGS["stack"],
    "layer": "block or state, as in the table of the value",
    "state": "state of the stream, in a merged table",
    "n": "units (words or tokens) with a value; count",
    "prompts": "prompts they are of; count",
    "mean": "mean of the group; unit of the value",
    "sd": "standard deviation over its units; unit of the value",
    "low": "lower end of the interval of the mean, with the prompt as the sampling unit",
    "high": "upper end, likewise",
    "groups": "groups with a value; count",
    "f": "F of the test that all groups have the same mean, with the prompt as cluster",
    "p": "share of labelings with at least this F, labels shuffled within prompts; in `pairs` "
    "that of the permutation test of the two groups",
    "p_max": "the same against the largest F of all rows (family-wise)",
    "p_bh": "p by Benjamini–Hochberg over the rows; in `pairs` over all pairs and layers",
    "p_holm": "p by Holm over the same rows",
    "eta2": "share of the variance within prompts that lies between groups (η²); ratio",
    "anova_f": "F of the classical analysis of variance, units taken as independent",
    "anova_p": "its p",
    "shuffled_f": "quantile of F under shuffled labels, at the confidence level",
    "shuffled_eta2": "mean of η² under shuffled labels; ratio",
    "shuffled_anova_rate": "share of shuffles that the classical test calls significant; ratio",
    "a": "first group of the pair",
    "b": "second group of the pair",
    **{
        name: PAIR_COLUMNS[name]
        for name in (
            *("n_a", "n_b", "within_difference", "within_difference_low", "within_difference_high"),
            *("difference", "difference_low", "difference_high", "hedges_g"),
        )
    },
}


@dataclass(frozen=True, eq=False, repr=False)
class GroupComparison(Finding):
    """Groups of tokens or words compared: the answer of `by_group`.

    Attributes:
        frame: a row per layer and group: `n`, `prompts`, `mean`, `sd`, `low`, `high`. `COLUMNS`
            has the meaning of the columns of all tables.
        tests: a row per layer: the test that all groups have the same mean.
        total: as `frame`, for the value over all layers; `total_test` likewise.
        units: the tokens or words that were compared, a row per layer.
        groups: the groups, by falling number of units.
        notes: units that were left out, and how values were joined.
        smallest_p: the smallest `p_max` that any labeling could have got.
        save_pairs: whether the comparison of every pair is one of the tables.
    """

    name = "groups"
    question = (
        "Does the value differ between groups of words? Words of a prompt are not independent: "
        "intervals and shuffles take the prompt as the unit."
    )
    columns = COLUMNS

    frame: pd.DataFrame
    tests: pd.DataFrame
    total: pd.DataFrame
    total_test: pd.DataFrame
    units: pd.DataFrame
    value: str
    by: str
    groups: tuple[str, ...]
    level: str = "token"
    rows: tuple[str, ...] = ("layer",)
    confidence: float = 0.95
    notes: tuple[str, ...] = ()
    levels: Mapping[str, Any] = field(default_factory=dict)
    smallest_p: float = 0.0
    save_pairs: bool = False

    def compare(self, a: str, b: str, **options: Any) -> Comparison:
        """Two of the groups compared per layer by `interp.compare`, on the same units."""
        for name in (a, b):
            if name not in self.groups:
                raise unknown(f"group of {self.by!r}", name, self.groups)
        shared = {"by": list(self.rows), "special": True, **self.levels}
        return compare(self.units, self.value, self.by, a, b, **(shared | options))

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Every pair of groups, per layer; `p_bh` and `p_holm` over all pairs and layers.

        `p` is the clustered permutation test of `interp.compare`, about `within_difference`; pairs
        that it refuses (too few values) are NaN. With m rows `p_holm` cannot fall below
        m / (resamples + 1): of many groups read `p_bh`, name a few with groups=, or raise
        resamples.
        """
        ends = ("", "_low", "_high")
        names = ["n_a", "n_b", *(f"within_difference{end}" for end in ends)]
        names += ["difference", *(f"difference{end}" for end in ends[1:]), "hedges_g"]
        keys = self.tests[list(self.rows)]
        parts = []
        for a, b in combinations(self.groups, 2):
            try:
                found = self.compare(a, b).frame
                part = found[[*self.rows, *names, "permutation_p"]]
            except BadInput:
                part = keys.assign(**dict.fromkeys([*names, "permutation_p"], np.nan))
            part = part.rename(columns={"permutation_p": "p"})
            part.insert(0, "b", b)
            part.insert(0, "a", a)
            parts.append(part)
        table = pd.concat(parts, ignore_index=True)
        return table.assign(p_bh=benjamini_hochberg(table["p"]), p_holm=holm(table["p"]))

    @property
    def differs(self) -> pd.Series[bool]:
        """The rows of `tests` in which groups differ, with family-wise error over all rows."""
        return self.tests["p_max"] < round(1 - self.confidence, 12)

    def finding(self) -> str:
        """Number of rows in which groups differ, or the reason that it cannot be decided."""
        level = round(1 - self.confidence, 12)
        if self.smallest_p < level:
            hits = f"{int(self.differs.sum())} of {len(self.tests)}"
            return f"groups differ in {hits} rows (p_max < {level:.2g})"
        return (
            "whether groups differ cannot be decided with so few prompts or shuffles: the smallest "
            f"p that any labeling could have got is {self.smallest_p:.2g}"
        )

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """The mean of each group over layers with its band; below, η² against shuffled labels."""
        return {f"{self.value} by {self.by}": self._drawing()}

    def _drawing(self) -> Drawing:
        title = f"{self.value} by {self.by}"
        if len(self.rows) != 1 or self.rows[0] not in DEPTHS or len(self.tests) < 2:
            return nothing(title, "There are no layers of one stack to draw: read the table.")
        few = len(self.groups) - MOST_GROUPS
        caption = (
            f"{int(self.tests['n'].max()):,} {self.level}s. Bands: {percent(self.confidence)} "
            "intervals of the mean, with the prompt as the unit. ★, by permutation within prompts: "
            f"{self.finding()}."
            + (f" The {MOST_GROUPS} largest groups; {few} smaller ones are not drawn." * (few > 0))
        )
        return Drawing(
            "two_panels",
            title,
            pd.concat([self._means_drawn(), self._eta_drawn()], ignore_index=True),
            self.value,
            "block" if self.rows[0] == "layer" else self.rows[0],
            caption,
            "Grey: mean η² of labels shuffled within prompts.",
            "η² would follow the grey line, and no block would carry a star.",
            options={
                "panels": ("mean of each group", "variance between groups (η²)"),
                "units": (self.value, ""),
                "greys": (SHUFFLED,),
            },
        )

    def _means_drawn(self) -> pd.DataFrame:
        frame = self.frame.rename(columns={self.rows[0]: "x"})
        names = [str(g) for g in self.groups[:MOST_GROUPS]]
        lines = {name: frame[frame[self.by].astype(str) == name] for name in names}
        return line_rows(lines, self.value).assign(panel=0)

    def _eta_drawn(self) -> pd.DataFrame:
        tests = self.tests
        lines = {
            name: pd.DataFrame({"x": tests[self.rows[0]], "mean": tests[column], "n": tests["n"]})
            for name, column in ((SHUFFLED, "shuffled_eta2"), ("η²", "eta2"))
        }
        hits = self.differs.tolist()
        table = line_rows(lines, "η²").assign(panel=1)
        table["mark"] = [False] * len(tests) + hits
        table["mark_text"] = [""] * len(tests) + [f"p_max = {p:.2g}" for p in tests["p_max"]]
        return table

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Means and tests per layer, and over all layers."""
        own = {"groups": self.frame, "tests": self.tests}
        own |= {"total": self.total, "total_test": self.total_test}
        return own | ({"pairs": self.pairs} if self.save_pairs else {})

    @property
    def sentence(self) -> str:
        """Number of rows in which groups differ, and the means over all layers."""
        whole = self.total_test.iloc[0]
        return (
            f"{self.value} by {self.by} ({self.level}s): {self.finding()}; over all layers "
            f"{self._means_named()}, p = {whole['p']:.2g}, η² = {whole['eta2']:.3f} "
            f"(shuffled labels: {whole['shuffled_eta2']:.3f})"
        )

    def _means_named(self) -> str:
        """The mean of every group, or of the two ends of many groups."""
        named = [f"{r[self.by]} {r['mean']:.4g}" for _, r in self.total.iterrows()]
        if len(named) <= MOST_NAMED or self.total["mean"].isna().all():
            return ", ".join(named)
        ends = self.total["mean"]
        return (
            f"{len(named)} groups from {named[int(ends.argmax())]} down to "
            f"{named[int(ends.argmin())]}"
        )


@repeated_on_control
def by_group(
    results: Any,
    value: str,
    by: str = "pos",
    *,
    level: str = "word",
    join: Join | None = None,
    total: str | None = None,
    groups: str | Sequence[str] | None = None,
    at_least: int = 2,
    pairs: bool = False,
    bins: int | None = None,
    special: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> GroupComparison:
    """Compare a value between all groups of a label, such as parts of speech, per layer and total.

    Tokens of one word are joined first (`level="word"`). Quantities of the stream (angles, steps,
    paths, norms, shares) are averaged; quantities of the prediction (log_prob, rank, …) are those
    of the last token, the only one that has seen the whole word; `join` overrides both. The total
    over layers is the last value of cumulative columns (path, angular_path, chord, tortuosity),
    the sum of steps and angles, and the mean of everything else.

    `.frame` and `.total` [units of the value]: `n` units with a value, `prompts`, `mean`, `sd`,
    `low`, `high` (intervals of the mean, with the prompt as the sampling unit).
    `.tests` and `.total_test` [1]: `n`, `groups`; `f`, `p`, `p_max` (family-wise over the rows),
    `p_bh`, `p_holm` of `interp.stats.clustered_omnibus`, which shuffles labels within prompts;
    `eta2`, the share of variance within prompts that lies between groups. The control, from
    shuffled labels: `shuffled_f`, the `confidence` quantile of F; `shuffled_eta2`, its mean;
    `anova_p`, the classical test, and `shuffled_anova_rate`, the share of shuffles that it calls
    significant.

    Shuffling within prompts tests any association of label and value, including one through the
    position in the sentence.

    Args:
        results: of a run, or one result, or a table.
        value: a column with a value per token; several heads are averaged.
        by: the label column, such as pos (part of speech) of the demo language or of spaCy. A
            column of decimal numbers, such as zipf (word frequency), is cut into bins.
        level: units to compare: word (its tokens are joined) or token.
        join: "mean", "last" or "sum" over the tokens of a word.
        total: value over all layers: last, sum or mean; by default the one that fits the column.
        groups: the groups to compare, two or more; by default all that occur in two prompts. In
            Python, `at_least` sets how many units they need.
        at_least: units that a group needs.
        pairs: also compare every pair of groups. In Python, `.pairs` has the table in any case.
        bins: number of bins with equally many units, for a label of numbers; 4 for decimal numbers
            unless given. Their names are the smallest and largest value in them.
        special: keep special tokens, such as BOS; else left out.
        confidence: level of the intervals.
        resamples: number of shuffles and bootstrap draws.
        seed: seed of the shuffles and draws.

    Raises `UnknownName` for a value or label that is not there, `BadInput` for a group without
    units, fewer than two groups, or a value that is constant.
    """
    name, table = _labelled_table(results, value, by)
    ends = EVERYWHERE if join == "sum" else range_of(_of(results, name), value)
    units, notes = units_of(table, value, by, level=level, join=join, special=special)
    units, names, binned = _in_bins(units, by, bins)
    wanted = None if groups is None else names_of(groups)
    chosen, more = _chosen_groups(units, by, wanted, at_least)
    chosen = [name for name in names if name in chosen] or chosen
    units, more = units[units[by].isin(chosen)].reset_index(drop=True), binned + more
    rows = [c for c in places_of(units) if c != "head"]
    cells, codes, clusters, keys = _cells(units, value, by, chosen, rows)
    _refuse_flat(cells, value, by)
    notes += more + _cell_notes(table, cells, value, level, join)
    how = _total_of(value, total)
    whole, whole_keys = _whole(cells, keys, how)
    levels = {"confidence": confidence, "resamples": resamples, "seed": seed}
    place = (codes, clusters)
    tests, smallest = _tests(cells, *place, keys, levels)
    found = GroupComparison(
        frame=_inside(_means(cells, *place, keys, by, chosen, confidence), ends),
        tests=tests,
        total=_inside(
            _means(whole, *place, whole_keys, by, chosen, confidence),
            EVERYWHERE if how == "sum" else ends,
        ),
        total_test=_tests(whole, *place, whole_keys, levels)[0],
        units=units,
        value=value,
        by=by,
        groups=tuple(chosen),
        level=level,
        rows=tuple(rows),
        confidence=confidence,
        notes=(
            *notes,
            f"total over layers: {how}" if depth_column(rows) else "one place, no layers",
        ),
        levels=levels,
        smallest_p=smallest,
        save_pairs=pairs,
    )
    return found.with_columns(**{by: "the group: label of the words or tokens"})


def _labelled_table(results: Any, value: str, by: str) -> tuple[str, pd.DataFrame]:
    """The table with the value; the error for an unknown label lists the known ones."""
    name, table = per_token(results, value)
    if by in (*PLACES, "prompt", "position", "word"):
        raise BadInput(f"by={by!r} is a column that tells rows apart, not a label of tokens")
    if by not in table:
        texts = [str(c) for c in table if not pd.api.types.is_numeric_dtype(table[c])]
        labels = [c for c in texts if c not in ("token", "top_token", "stack")]
        error = unknown(f"label in {name!r}", by, labels)
        raise type(error)(
            f"{error}. Labels come with the prompts: labels=, token_labels=, "
            "labellers=[interp.spacy_tags(...)] (--spacy), or the prompts 'demo', which have gold "
            "tags"
        )
    return name, table


def _in_bins(
    units: pd.DataFrame, by: str, bins: int | None
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Units with a label of numbers cut into bins, their names in order, and a note."""
    decimal = pd.api.types.is_float_dtype(units[by])
    if bins is None and not decimal:
        return units, [], []
    x, n = numbers(units, by), BINS if bins is None else bins
    if n < 2:
        raise BadInput(f"bins={n}; groups to compare are at least 2")
    # One entry per unit: a unit has a row in every layer.
    unit, _ = numbered(units, _unit_keys(units))
    _, first = np.unique(unit, return_index=True)
    edges = np.unique(np.quantile(x[first], np.linspace(0, 1, n + 1)[1:-1]))
    place = np.searchsorted(edges, x, side="left")
    names = [_bin_name(x[place == i]) for i in range(len(edges) + 1)]
    label = np.asarray(names, dtype=object)[place]
    used = [name for name in names if name]
    note = f"{by!r} was cut into {len(used)} bins with about equally many units"
    return units.assign(**{by: label}), used, [note]


def _unit_keys(units: pd.DataFrame) -> list[str]:
    """Columns that tell units apart."""
    return [c for c in ("stack", "prompt", "position") if c in units]


def _bin_name(x: Floats) -> str:
    """The smallest and the largest number of a bin; empty for none."""
    if not len(x):
        return ""
    low, high = x.min(), x.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _chosen_groups(
    units: pd.DataFrame, by: str, wanted: Sequence[object] | None, at_least: int
) -> tuple[list[str], list[str]]:
    """The groups to compare, by falling size, and a note on those that are too small."""
    one = units.drop_duplicates(_unit_keys(units))
    sizes = one.groupby(by)["prompt"].agg(["size", "nunique"])
    sizes = sizes.sort_values("size", ascending=False, kind="stable")
    listed = ", ".join(f"{g!r} ({n})" for g, n in sizes["size"].head(12).items()) or "none"
    wanted = wanted and [label_typed(group, sizes.index.tolist()) for group in wanted]
    for group in wanted or ():
        if group not in sizes.index:
            hint = nearest(str(group), [str(g) for g in sizes.index])
            raise BadInput(f"no unit has {by} = {group!r}{hint}; there are: {listed}")
    big = sizes[(sizes["size"] >= at_least) & (sizes["nunique"] > 1)].index.tolist()
    chosen = [g for g in sizes.index if g in (wanted or big)]
    if len(chosen) < 2:
        raise BadInput(
            f"{len(chosen)} group(s) of {by!r} to compare; at least two are needed, each with "
            f"{at_least} units in two prompts unless named by groups= (units: {listed})"
        )
    small = [str(g) for g in sizes.index if g not in chosen] if wanted is None else []
    note = f"groups with too few units were left out: {', '.join(small)}"
    return chosen, [note] if small else []


def _cells(
    units: pd.DataFrame, value: str, by: str, groups: Sequence[str], rows: Sequence[str]
) -> tuple[Floats, Codes, Codes, pd.DataFrame]:
    """Values `[unit, row]` (heads averaged), group and prompt of each unit, and the rows' keys."""
    row, keys = numbered(units, list(rows))
    unit, first = numbered(units, _unit_keys(units))
    x = numbers(units, value)
    n, k = len(first), len(keys)
    # One number per unit and row, so that `bincount` averages the heads in one pass.
    cell, finite = unit * k + row, np.isfinite(x)
    count = np.bincount(cell[finite], minlength=n * k)
    total = np.bincount(cell[finite], weights=x[finite], minlength=n * k)
    cells = np.where(count > 0, total / np.maximum(count, 1), np.nan).reshape(n, k)
    _, place = np.unique(unit, return_index=True)
    code = units[by].map({g: i for i, g in enumerate(groups)}).to_numpy(np.int64)[place]
    clusters = pd.factorize(units["prompt"].iloc[place])[0].astype(np.int64)
    return np.asarray(cells, np.float64), np.asarray(code, np.int64), clusters, keys


def _refuse_flat(cells: Floats, value: str, by: str) -> None:
    finite = cells[np.isfinite(cells)]
    if not len(finite):
        raise BadInput(f"{value!r} is undefined for every unit with a {by!r}")
    if finite.min() == finite.max():
        raise BadInput(
            f"{value!r} is constant ({finite[0]:g} in all {len(finite)} values): there is nothing "
            "to compare"
        )


def _cell_notes(
    table: pd.DataFrame, cells: Floats, value: str, level: str, join: Join | None
) -> list[str]:
    undefined = int(np.isnan(cells).sum())
    notes = [f"{undefined} of {cells.size} values are undefined and left out"] if undefined else []
    if level == "word":
        notes.append(f"tokens of a word: {join or joined_by(value)}")
    if "head" in table:
        notes.append("heads are averaged")
    return notes


def _total_of(value: str, wanted: str | None) -> str:
    if wanted is not None and wanted not in TOTALS:
        hint = nearest(wanted, TOTALS)
        raise BadInput(f"total={wanted!r}{hint}; it is one of {', '.join(TOTALS)}")
    return wanted or ("last" if value in RUNNING else "sum" if value in ADDED else "mean")


def _whole(cells: Floats, keys: pd.DataFrame, how: str) -> tuple[Floats, pd.DataFrame]:
    """The value over all layers `[unit, stack]`; layers without any value do not count."""
    stack, places = numbered(keys, [c for c in ("stack",) if c in keys])
    parts = []
    for i in range(len(places)):
        rows = cells[:, stack == i]
        rows = rows[:, np.isfinite(rows).any(axis=0)]
        if not rows.shape[1]:
            parts.append(np.full(len(cells), np.nan))
        else:
            parts.append(rows[:, -1] if how == "last" else getattr(rows, how)(axis=1))
    return np.column_stack(parts), places


def _means(
    cells: Floats,
    codes: Codes,
    clusters: Codes,
    keys: pd.DataFrame,
    by: str,
    groups: Sequence[str],
    confidence: float,
) -> pd.DataFrame:
    """Clustered mean of each group in each row."""
    found = group_means(cells, codes, clusters, confidence=confidence)
    parts = [
        keys.assign(**{by: group, "n": found.n[i].astype(int)})
        .assign(prompts=found.clusters[i].astype(int), mean=found.mean[i], sd=found.sd[i])
        .assign(low=found.low[i], high=found.high[i])
        for i, group in enumerate(groups)
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.sort_values(list(keys.columns), kind="stable", ignore_index=True)


def _of(results: Any, name: str) -> Any:
    """The result of this name, or what was given if it is one itself."""
    return results[name] if isinstance(results, Mapping) else results


def _inside(table: pd.DataFrame, ends: tuple[float, float]) -> pd.DataFrame:
    """The table with the intervals of the means inside the range of the value."""
    mean, low, high = table[["mean", "low", "high"]].to_numpy(np.float64).T
    low, high = moved_within(mean, low, high, ends)
    return table.assign(low=low, high=high)


def _tests(
    cells: Floats, codes: Codes, clusters: Codes, keys: pd.DataFrame, levels: dict[str, Any]
) -> tuple[pd.DataFrame, float]:
    """The omnibus test of each row with its control, and the smallest p_max that it can give."""
    level, drawn = levels["confidence"], {k: levels[k] for k in ("resamples", "seed")}
    found = clustered_omnibus(cells, codes, clusters, **drawn)
    # A shuffle whose F is undefined counts as one that beats the measured F: never in its favour.
    defined = ~np.isnan(found.f)
    null_f = np.where(defined, np.nan_to_num(found.null_f, nan=np.inf), 0.0)
    present = [np.isfinite(cells[codes == g]).any(axis=0) for g in np.unique(codes)]
    shuffled = {
        "shuffled_f": np.quantile(null_f, level, axis=0, method="higher"),
        "shuffled_eta2": np.where(np.isnan(found.null_eta2), 0.0, found.null_eta2).mean(axis=0),
        "shuffled_anova_rate": (found.null_anova_p < 1 - level).mean(axis=0),
    }
    table = keys.assign(
        n=np.isfinite(cells).sum(axis=0),
        groups=np.sum(present, axis=0),
        f=found.f,
        p=found.p,
        p_max=found.p_max,
        p_bh=benjamini_hochberg(found.p),
        p_holm=holm(found.p),
        eta2=found.eta2,
        anova_f=found.anova_f,
        anova_p=found.anova_p,
        **{name: np.where(defined, x, np.nan) for name, x in shuffled.items()},
    )
    return table, found.smallest_p_max
