"""A comparison of two groups: its table, its sentence and its figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd

from interp.contract.columns import depth_column
from interp.render.draw import figure
from interp.render.drawing import CONTROL_NOTE, Drawing, line_rows, nothing
from interp.render.finding import Finding
from interp.render.look import looked
from interp.stats.comparison_columns import COLUMNS
from interp.stats.means import random_lines
from interp.stats.table import HasFrame

if TYPE_CHECKING:
    import plotly.graph_objects as go

RANDOM_NOTE = "Random pairs: angles between states of random tokens, within one layer and any two."

LESS = "_minus_control"
"""The ending of columns of the model minus its untrained copy, paired by token."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Finding):
    """Two groups compared, one row per layer (or whatever `by` names): what `compare` returns.

    `frame`: the table. `layer_runs`: runs of neighbouring layers from `cluster_test` (columns of
    `by` other than layer, `first`, `last`, `size`, `mass`, `p`). `notes`: cautions to read before
    the rows.

    Columns of `.frame`, each also in `.columns` by its name (units: [v] those of the value, [sd]
    standard deviations, [1] none):

    Intervals of means and contrasts of a column with a range (`Analysis.ranges`) stay in it.

    - `n_a`, `n_b`: tokens with a value (prompts if `paired`); `prompts_a`, `prompts_b`,
      `prompts_both`: prompts that carry a, b, both; `nan_a`, `nan_b`: rows of the frame whose
      value is NaN or infinite, left out of everything else.
    - `mean_a`, `mean_b` [v], over tokens, `sd_a`, `sd_b` [v]; `difference` = mean_a − mean_b [v];
      each mean and the difference with `_low`, `_high`: `clustered_bootstrap`, pointwise.
    - `within_difference` [v]: the contrast within prompts that carry both groups (`within` of
      `clustered_bootstrap`, with its interval), which is what `permutation_*` tests. It departs
      from `difference`, even in sign, where prompts with other levels hold other shares of a and
      b. Prompts that carry one group contribute the differences between them. Where no prompt
      carries both groups, the two columns are equal.
    - `hedges_g` [sd], exact small-sample factor; `_low`, `_high` by the same bootstrap (rough for
      skewed values, see there). `within_g` [sd]: `within_difference` in the same units.
    - `clustered_t`, `clustered_df`, `clustered_p` [1]: t test with a cluster-robust variance over
      prompts (`interp.stats.document_tests`).
    - `welch_t`, `welch_df`, `welch_p`; `student_t`, `student_df`, `student_p`;
      `mann_whitney_p`: tokens taken as independent [1].
    - `pairs`: prompts with both groups; on their prompt means: `paired_t`, `paired_df`,
      `paired_p` (paired t), `wilcoxon_p` [1], `d_z`, `hedges_g_av` [sd].
    - `permutation_t`, `permutation_p`, `permutation_p_max` [1]: `clustered_permutation`; labels
      are shuffled within prompts that carry both groups, and between whole prompts that carry
      one. Quote `_max`: it holds family-wise over all rows without a correction, has more power
      than Holm where rows are correlated, and needs no more shuffles for more rows.
    - With `adjust`: `adjusted_difference` [v], the difference a − b at equal covariates, with
      `_low`, `_high`; `adjusted_g` [sd]; `adjusted_t`, `adjusted_df`, `adjusted_p` [1]
      (`interp.stats.adjusted_difference`); `adjusted_n`, tokens that have all covariates.
    - For each p, `_bh` (Benjamini–Hochberg) and `_holm` over the rows [1].
    - The null distribution, from shuffled labels: `shuffled_low`, `shuffled_high` [v], the central
      interval of `difference` with probability `confidence`, and `shuffled_within_low`,
      `shuffled_within_high`, that of `within_difference`; `shuffled_t` [1], the same quantile of
      |permutation_t|; `shuffled_welch_rate` [1], the rate at which Welch's test over tokens calls
      shuffled labels significant at 1 − confidence. Where it is well above that, the classical p
      values of the row cannot be trusted.

    If the run had a control (`run(..., control="random-init")`), the same comparison in the
    untrained copy is in the columns `control_mean_a`, `control_mean_b`, `control_difference` and
    `control_within_difference` [v] with `_low`, `_high`; its NaN rows have no note. The copy reads
    the same tokens, so the two are compared in pairs: `difference_minus_control` and
    `within_difference_minus_control` [v] with `_low`, `_high` are the contrasts of the model's
    value minus the copy's, and `contrast_minus_control_p` [1] is the p of the one that is tested,
    for all rows together (as `permutation_p_max`, or by Holm). NaN where tokens are not kept.

    `smallest_p`: the smallest `permutation_p_max` that any labeling could have reached, NaN without
    shuffles; `exact`: whether all labelings were taken, each once. Few prompts have few labelings:
    P prompts with one token of each group have 2^P, and p is at least 2 / 2^P.
    """

    name = "compare"
    question = "Does the value differ between the two groups of tokens?"
    columns = COLUMNS

    frame: pd.DataFrame
    value: str
    between: str
    a: object
    b: object
    notes: tuple[str, ...] = ()
    layer_runs: pd.DataFrame = field(default_factory=pd.DataFrame)
    by: tuple[str, ...] = ("layer",)
    cluster: str = "prompt"
    paired: bool = False
    confidence: float = 0.95
    smallest_p: float = np.nan
    exact: bool = False
    adjust: tuple[str, ...] = ()
    unit: str = ""

    @property
    def clusters(self) -> NoReturn:
        """The former name of `layer_runs`; raises `AttributeError` with the new one."""
        raise AttributeError("Comparison.clusters is now Comparison.layer_runs")

    @property
    def depth(self) -> str | None:
        """The column of depth among `by`: `layer` or `state`; None where there is none."""
        return depth_column(self.by)

    @property
    def test(self) -> str:
        """The test to quote: the most careful one that this table has."""
        careful = (*(["adjusted"] if self.adjust else []), "permutation", "clustered")
        return next((t for t in careful if self.frame[f"{t}_p"].notna().any()), "welch")

    @property
    def contrast(self) -> str:
        """The column with the contrast that the test is about, and whose sign goes with its p.

        Where no prompt carries both groups, the two contrasts are equal, and it is `difference`.
        """
        if self.test == "adjusted":
            return "adjusted_difference"
        within = self.test == "permutation" and bool((self.frame["prompts_both"] > 0).any())
        return "within_difference" if within else "difference"

    @property
    def null_band(self) -> tuple[str, str] | None:
        """The columns with the bounds of the contrast under the null hypothesis.

        None for the adjusted difference, whose test shuffles nothing.
        """
        if self.test == "adjusted":
            return None
        of = "shuffled_within" if self.contrast == "within_difference" else "shuffled"
        return f"{of}_low", f"{of}_high"

    @property
    def effect(self) -> str:
        """The column with the contrast in standard deviations."""
        names = {"within_difference": "within_g", "adjusted_difference": "adjusted_g"}
        return names.get(self.contrast, "hedges_g")

    @property
    def family_p(self) -> str:
        """The column with the p to quote, which holds for all rows of the table together."""
        return "permutation_p_max" if self.test == "permutation" else f"{self.test}_p_holm"

    @property
    def level(self) -> float:
        """The family-wise error that is allowed: 1 − confidence."""
        # 1 − 0.95 is 0.05000000000000004 in floating point, and p = 0.05 would count as below it.
        return round(1 - self.confidence, 12)

    @property
    def differs(self) -> pd.Series[bool]:
        """The rows that differ, with family-wise error `level` over the table."""
        return self.frame[self.family_p] < self.level

    @property
    def runs_found(self) -> pd.DataFrame:
        """The runs of neighbouring layers with p below `level`, those of the largest mass first."""
        runs = self.layer_runs
        return runs[runs["p"] < self.level] if len(runs) else runs

    @property
    def decidable(self) -> bool:
        """True if a labeling could have made a row differ."""
        return self.test != "permutation" or self.smallest_p < self.level

    @property
    def sentence(self) -> str:
        """The groups compared, and the one finding that is safe to quote."""
        return self._sentence()

    @property
    def short(self) -> pd.DataFrame:
        """The columns to read first, of the largest effects."""
        return self._short()

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """The comparison per row, and runs of neighbouring layers."""
        return {"compare": self.frame, "layer_runs": self.layer_runs}

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Both groups, their difference and its null, over layers."""
        title = f"{self.value}: {self.a} against {self.b}"
        return {title: comparison_drawing(self)}

    def plot(  # type: ignore[override]
        self, *, pairs: HasFrame | None = None, **look: Any
    ) -> go.Figure:
        """Draw both groups with their bands, the difference and its null, over layers.

        `pairs`: the result of `random_pairs`, for a comparison of angles; the angle between
        unrelated vectors is then drawn with the groups. `look`: `width`, `height`, `title`,
        `palette`, `legend`, as for every finding (`Finding.plot`).
        """
        return looked(figure(comparison_drawing(self, pairs=pairs)), look)

    def _sentence(self) -> str:
        """The groups compared, and the one finding that is safe to quote."""
        text = f"{self.value}: {self.between} {self.a!r} against {self.b!r}; {self.finding()}"
        # Runs of layers are those of the shuffled labels, which know no covariate.
        told = self.decidable and self.test != "adjusted"
        n = len(self.runs_found)
        name = (
            "strongest run of layers" if n < 2 else f"strongest of {n} runs of layers that differ"
        )
        for run in self.layer_runs.head(1).to_dict("records") if told else ():
            keys = [f"{c} {run[c]}" for c in self.by if c in run]
            where = f"{span_of(run)}{' of ' * bool(keys)}{', '.join(keys)}"
            way = "higher" if run["mass"] > 0 else "lower"
            text += f"; {name}: {where}, {self.a} {way}, p = {run['p']:.2g}"
        return text

    @property
    def rule(self) -> str:
        """By what the rows of `short` are chosen."""
        return f" (those of the largest {self.effect}, in either direction)"

    def finding(self, rows: str = "") -> str:
        """The number of rows that differ and the test, or the reason why none can be decided.

        `rows`: what they are called; by default layers, where there is one row for each.
        """
        rows = rows or ("layers" if self.by == ("layer",) else "rows")
        level = self.level
        if not self.decidable:
            few = f"so few {self.cluster}s" if self.exact else "so few shuffles (raise resamples)"
            return (
                f"cannot be decided with {few}: the smallest p that any labeling could have got "
                f"is {self.smallest_p:.2g}, not below {level:.2g}"
            )
        how = {
            "adjusted": f"adjusted for {', '.join(self.adjust)}, Holm p < {level:.2g}",
            "permutation": f"permutation, maximum statistic, p < {level:.2g}",
            "clustered": f"clustered, Holm p < {level:.2g}",
            "welch": f"Welch, tokens taken as independent: do not quote, Holm p < {level:.2g}",
        }
        return f"{int(self.differs.sum())} of {len(self.frame)} {rows} differ ({how[self.test]})"

    def untrained(self, row: str = "") -> str:
        """The untrained copy's differences beside the model's in a sentence; "" without a control.

        `row`: what a row is called; by default the names of its keys.
        """
        contrast, frame = self.contrast, self.frame
        control = f"control_{contrast}"
        if control not in frame or frame[control].isna().all():
            return ""
        row = row or "/".join(self.by)
        rows = frame[self.differs]
        if not len(rows):
            most = frame.loc[[frame[control].abs().idxmax()]]
            return f"its largest difference is {self._beside(most, row)} (model in brackets)"
        p, less = rows[f"contrast{LESS}_p"], rows[f"{contrast}{LESS}"]
        if p.isna().all():
            why = "not paired with the model's, whose tokens it lacks or the table does not keep"
            return f"its differences (model in brackets): {self._beside(rows, row)}; {why}"
        apart = p < self.level
        beyond = apart & (less * rows[contrast] > 0)
        how = "maximum statistic" if self.test == "permutation" else "Holm"
        noun = f"{row}s" if row.isalpha() else "rows"
        shown = rows[beyond] if beyond.any() else rows
        return (
            f"of the {len(rows)} {noun} that differ, {beyond.sum()} differ by more than in the "
            f"copy and {(apart & ~beyond).sum()} by less (the same tokens in both, paired; {how}, "
            f"p < {self.level:.2g}). Differences in the copy (model in brackets): "
            f"{self._beside(shown, row)}"
        )

    def _beside(self, rows: pd.DataFrame, row: str) -> str:
        """The copy's difference and, in brackets, the model's, of the first six of these rows."""
        told = []
        for one in rows.head(6).to_dict("records"):
            copy, own = one[f"control_{self.contrast}"], one[self.contrast]
            key = "/".join(str(one[name]) for name in self.by)
            told.append(f"{copy:+.3g} ({own:+.3g})" + f" at {row} {key}" * bool(key))
        more = f" and {len(rows) - 6} more" if len(rows) > 6 else ""
        return ", ".join(told) + more

    def _short(self, rows: int | None = 8) -> pd.DataFrame:
        """The columns to read first; with `rows`, those of the largest effects, in order."""
        contrast, within = self.contrast, self.contrast != "difference"
        names = [*self.by, "n_a", "n_b", "mean_a", "mean_b", contrast]
        names += [f"{contrast}_low", f"{contrast}_high"]
        names += [f"control_{contrast}"] if f"control_{contrast}" in self.frame else []
        names += ["difference", self.effect] if within else [self.effect]
        names += [self.family_p]
        names += ["permutation_p", "shuffled_t"] if self.test == "permutation" else []
        table = self.frame[names]
        if rows is None or len(table) <= rows:
            return table
        strongest = self.frame[self.effect].abs().fillna(-1).nlargest(rows).index
        # By layer again: a reader looks for where along the model the effect is.
        return table.loc[sorted(strongest)]


def span_of(run: Mapping[Any, Any] | pd.Series[Any]) -> str:
    """First and last layer of a run: `5–7`, or `5`."""
    first, last = int(run["first"]), int(run["last"])
    return f"{first}–{last}" if last > first else f"{first}"


def comparison_drawing(
    comparison: Comparison,
    *,
    title: str | None = None,
    model: str = "",
    pairs: HasFrame | None = None,
    unit: str = "",
    if_null: str = "",
) -> Drawing:
    """Both groups with their bands; below, their contrast and the band of shuffled labels.

    The contrast is the one that the test is about (`Comparison.contrast`); with the contrast within
    prompts, the difference of the two means is drawn as well. Rows that differ are marked, with
    family-wise error over the figure. A comparison per layer and one more column (per head, for
    example) is a grid of effect sizes. `model` goes into the title; `pairs`, the result of
    `random_pairs`, is drawn with the groups.
    """
    named = title or f"{comparison.value}: {comparison.a} against {comparison.b}"
    named += f" · {model}" if model else ""
    frame = comparison.frame
    if frame.empty or frame["difference"].isna().all():
        return nothing(named, "No row has two values in each group: nothing to compare.")
    if len(comparison.by) != 1 or comparison.depth is None:
        return _effects(comparison, named)
    baselines = random_lines(pairs.frame) if pairs is not None else {}
    known = comparison.unit or ("degrees" if baselines else "")
    unit = unit or (f"{comparison.value}, {known}" if known else comparison.value)
    table = pd.concat([_upper(comparison, baselines), _lower(comparison)], ignore_index=True)
    return Drawing(
        "two_panels",
        named,
        table,
        unit,
        "block" if comparison.depth == "layer" else comparison.depth,
        comparison_caption(comparison, POOLED in set(table["group"]), bool(baselines)),
        CONTROL_NOTE if "control_difference" in frame else "",
        if_null,
        options={
            "panels": (
                "mean of each group",
                f"{_named(comparison)}: {comparison.a} − {comparison.b}",
            ),
            "units": (unit, unit),
            "greys": (*baselines, SHUFFLED, POOLED),
        },
    )


SHUFFLED = "shuffled labels"
POOLED = "pooled over tokens"


def _upper(comparison: Comparison, baselines: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    groups = {str(comparison.a): "a", str(comparison.b): "b"}
    lines = {name: group_means(comparison, side) for name, side in groups.items()}
    # Baselines first, so that the groups are drawn on top of them.
    return line_rows({**baselines, **lines}, comparison.value).assign(panel=0)


def group_means(comparison: Comparison, side: str) -> pd.DataFrame:
    """Mean, band and untrained control of group `a` or `b`, in the columns of a line drawing."""
    frame = comparison.frame
    names = {comparison.depth: "x", f"mean_{side}": "mean", f"n_{side}": "n"}
    names |= {f"mean_{side}_low": "low", f"mean_{side}_high": "high"}
    names |= {f"control_mean_{side}": "control"}
    known = [c for c in names if c in frame]
    return frame[known].rename(columns=names)


def _named(comparison: Comparison) -> str:
    """The contrast of the lower panel, in words."""
    if comparison.contrast == "adjusted_difference":
        return f"difference adjusted for {', '.join(comparison.adjust)}"
    if comparison.contrast == "within_difference":
        return f"difference within {comparison.cluster}s"
    return "difference"


def _lower(comparison: Comparison) -> pd.DataFrame:
    """The contrast, and its null distribution under shuffled labels."""
    frame, contrast = comparison.frame, comparison.contrast
    n, x = frame["n_a"] + frame["n_b"], frame[comparison.depth]
    rows = pd.DataFrame({"x": x, "mean": frame[contrast], "n": n})
    rows = rows.assign(low=frame[f"{contrast}_low"], high=frame[f"{contrast}_high"])
    if f"control_{contrast}" in frame:
        rows["control"] = frame[f"control_{contrast}"]
    lines = {}
    if (band := comparison.null_band) is not None and frame[band[0]].notna().any():
        edges = {"low": frame[band[0]], "high": frame[band[1]]}
        lines[SHUFFLED] = pd.DataFrame({"x": x, "mean": 0.0, **edges})
    # Two lines on top of each other would hide one: pooled is drawn where it departs visibly.
    if not np.allclose(frame["difference"], rows["mean"], rtol=1e-3, equal_nan=True):
        lines[POOLED] = pd.DataFrame({"x": x, "mean": frame["difference"], "n": n})
    table = line_rows({**lines, "difference": rows}, comparison.value)
    own = (table["group"] == "difference").to_numpy()
    mark = np.zeros(len(table), dtype=bool)
    mark[own] = comparison.differs.to_numpy()
    text = np.full(len(table), "", dtype=object)
    text[own] = [f"family-wise p = {p:.2g}" for p in frame[comparison.family_p]]
    return table.assign(panel=1, mark=mark, mark_text=text)


def comparison_caption(comparison: Comparison, pooled: bool, baselines: bool) -> str:
    """The source of bands and marks in words; of the pooled line and random pairs if drawn."""
    frame = comparison.frame
    level = f"{100 * comparison.confidence:g} %"
    n = f"{int(frame['n_a'].max())} and {int(frame['n_b'].max())} tokens"
    how = f"by resampling whole {comparison.cluster}s"
    if "welch_low" in frame:  # of a summary, which keeps sums instead of prompts
        how = f"with the {comparison.cluster} as the sampling unit"
    each = f"of each {', '.join(comparison.by) or 'mean'} alone"
    parts = [f"{n}. Bands: {level} intervals of the means and of their difference, {each}, {how}."]
    if comparison.test == "adjusted":
        names = ", ".join(comparison.adjust)
        parts.append(
            f"The difference is at equal {names} (regression with a spline, jackknife over "
            f"{comparison.cluster}s)."
        )
    if comparison.test == "permutation":
        parts.append(f"Grey: where the difference falls in {level} of shuffles of the labels.")
    if pooled:
        parts.append("Pooled over tokens: the difference of the two means above.")
    parts.append(_starred(comparison))
    if baselines:
        parts.append(RANDOM_NOTE)
    return " ".join(parts)


def _starred(comparison: Comparison) -> str:
    """The meaning of a star, or the reason why there can be none."""
    if not comparison.decidable:
        return f"No ★: whether rows differ {comparison.finding()}."
    how = "maximum statistic" if comparison.test == "permutation" else "Holm-corrected"
    return f"★: differs ({comparison.test} test, {how} p < {comparison.level:.2g})."


def _effects(comparison: Comparison, title: str) -> Drawing:
    """Effect size per row of the comparison; layers upwards where there are layers."""
    frame = comparison.frame
    depth = comparison.depth or ""
    others = [name for name in comparison.by if name != depth]
    across = pd.Series("all", frame.index)
    if others:
        across = frame[others].astype(str).agg(" · ".join, axis=1)
    down = frame[depth] if depth else pd.Series("", frame.index)
    names = list(dict.fromkeys(across))
    table = pd.DataFrame(
        {
            "panel": "",
            "row": down,
            "column": across.map({n: i for i, n in enumerate(names)}),
            "value": frame[comparison.effect],
            "text": ["★" if hit else "" for hit in comparison.differs],
        }
    )
    caption = (
        f"Effect size of {comparison.a} − {comparison.b} ({_named(comparison)}) in standard "
        f"deviations. {_starred(comparison)}"
    )
    return Drawing(
        "heat",
        title,
        table,
        "Hedges g",
        ", ".join(others),
        caption,
        options={"columns": names, "y": depth, "signed": True} | {"cell": (34, 24)},
    )
