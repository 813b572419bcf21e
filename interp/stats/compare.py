"""Comparison of two groups of tokens, layer by layer: intervals, corrections, null distributions.

Knows a tidy table and the names of its columns; nothing of models, hooks or what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
import scipy

from interp._arrays import Bools, Floats
from interp.contract.columns import depth_column
from interp.contract.document_sums import Parting
from interp.errors import BadInput, UnknownName, nearest
from interp.stats import classical, summaries
from interp.stats.adjusted import adjusted_difference
from interp.stats.classical import benjamini_hochberg, holm
from interp.stats.comparison import LESS, Comparison
from interp.stats.document_tests import clustered_test, contrast
from interp.stats.layer_runs import cluster_test
from interp.stats.paired import moved_within
from interp.stats.resampling import (
    Interval,
    Permutation,
    check_resampling,
    clustered_bootstrap,
    clustered_permutation,
)
from interp.stats.table import (
    Grid,
    HasFrame,
    control_of,
    frame_of,
    grid,
    group_named,
    is_special,
    is_summary,
    left_out_note,
    less_control,
    numbered,
    numbers,
    range_of,
    repeated_note,
    require_columns,
    require_groups,
    require_two,
    rows_by,
    table_with,
    unit_of,
)

NULLS = ("permutation", "none")
TESTS = (
    "adjusted",
    "clustered",
    "welch",
    "student",
    "mann_whitney",
    "paired",
    "wilcoxon",
    "permutation",
)
CONTRASTS = ("within_difference", "difference")
# Cluster-robust intervals rest on the number of prompts, not of tokens; under this many they are
# rough, and are given with a note.
FEW_PROMPTS = 10


def compare(
    result: HasFrame | pd.DataFrame | Mapping[str, Any],
    value: str,
    between: str,
    a: object = None,
    b: object = None,
    *,
    by: str | Sequence[str] | None = None,
    cluster: str = "prompt",
    paired: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    special: bool = False,
    null: str = "permutation",
    adjust: str | Sequence[str] = (),
) -> Comparison:
    """Compare `value` between the tokens whose column `between` is `a` and those where it is `b`.

    Of results with several tables, the only one that has the column is taken.

    The table has one row per combination of `by` (default: `stack`, `layer` and `head`, where the
    frame has them; in a merged table, `state` in place of `layer`). A token counts once per row;
    values over which `by` does not distinguish (heads, for example) are averaged per token.
    Special tokens are left out unless `special`. With `paired`, each prompt is first reduced to
    one mean per group, prompts that lack a group are dropped, and everything is computed on these
    means. `null="none"` skips the shuffles.

    Groups may differ in something else that the value depends on: nouns and pronouns in frequency,
    say. `adjust="zipf"` (the label of `word_frequency`), or several columns with one number per
    token, adds the difference at equal values of these covariates, `adjusted_difference`, with
    its interval and test, and makes it what the sentence quotes; see
    `interp.stats.adjusted_difference`. All other columns stay as they are.

    The columns of `.frame` are described under `Comparison`.

    All p are two-sided. Rows where a group has fewer than two values are NaN, with a note.

    Raises `UnknownName` for a column that is not there; `BadInput` for a value column that is not
    numeric or is constant or that several tables of the results have, a group that does not occur
    or is not given, a equal to b, no row with two values
    in each group, `paired` without two prompts that carry both or with `adjust`, a covariate that
    is not one number per token, bad `confidence`, `resamples` or `null`.

    A summary (keep="summary") gives counts, means, `welch_*`, `student_*` and `hedges_g` from its
    moments, and intervals and `clustered_*` from its sums over documents. Its interval of
    `hedges_g` takes the standard deviation as known, which makes it too narrow for skewed values.
    `welch_low` and `welch_high` are then the interval with tokens taken as independent. All other
    columns need the documents themselves and are NaN.
    Sources: see the functions of `interp.stats`.

    >>> frame = pd.DataFrame({
    ...     "prompt": np.arange(40) // 4, "position": np.arange(40) % 4, "layer": 0,
    ...     "role": ["x", "y"] * 20, "angle": np.arange(40.0) ** 2 % 7})
    >>> compare(frame, "angle", "role", "x", "y").frame["n_a"].tolist()
    [20]
    """
    if isinstance(result, Mapping):
        result = cast("HasFrame", result[table_with(result, value)])
    require_two(frame_of(result), between, special, a, b)
    a, b = (group_named(frame_of(result), between, group) for group in (a, b))
    _check_choices(a, b, null, confidence, resamples)
    covariates = _covariates(adjust, result, value, between, paired)
    if is_summary(frame_of(result)):
        return _of_summary(result, value, between, a, b, by, paired, confidence)
    table, notes = _select(frame_of(result), value, between, a, b, cluster, special)
    names = rows_by(table, by, [value, between, cluster])
    is_a = (table[between] == a).to_numpy(dtype=bool)
    data = grid(table, numbers(table, value), is_a, names, cluster, covariates)
    notes += _grid_notes(data, value, cluster)
    if paired:
        data, dropped = _as_pairs(data, cluster)
        notes += dropped
    _require_content(data, value, a, b)
    levels = {"confidence": confidence, "resamples": resamples, "seed": seed}
    columns, test = _columns(data, levels, null)
    columns = _in_range(columns, range_of(result, value))
    if data.covariates is not None:
        columns |= _corrected(_adjusted_columns(data, confidence))
        notes += _adjusted_notes(data, covariates)
    frame = _with_keys(data.keys, columns)
    if (control := control_of(result)) is not None:
        same = {"by": names, "cluster": cluster, "paired": paired, "special": special}
        same |= {"adjust": covariates}
        asked = (value, between, a, b)
        frame = _with_control(frame, control, asked, same | levels)
        frame = _with_paired(frame, (result, control), asked, same | levels | {"null": null})
    if test is not None:
        notes += _exchange_notes(data, cluster, test, round(1 - confidence, 12))
        notes += _sign_notes(frame, names, cluster)
    found = Comparison(
        frame=frame,
        value=value,
        between=between,
        a=a,
        b=b,
        notes=(*notes, *_row_notes(frame, names, cluster)),
        layer_runs=_layer_runs(test, data.keys, 1 - confidence),
        by=tuple(names),
        cluster=cluster,
        paired=paired,
        confidence=confidence,
        smallest_p=np.nan if test is None else test.smallest_p_max,
        exact=test is not None and test.exact,
        adjust=covariates,
        unit=unit_of(result, value),
    )
    return _with_copy(found)


def _covariates(
    adjust: str | Sequence[str],
    result: HasFrame | pd.DataFrame,
    value: str,
    between: str,
    paired: bool,
) -> tuple[str, ...]:
    """The covariates, checked before anything is computed."""
    names = (adjust,) if isinstance(adjust, str) else tuple(adjust)
    if not names:
        return ()
    if paired or is_summary(frame_of(result)):
        why = "paired=True compares means of prompts" if paired else "a summary keeps no tokens"
        raise BadInput(
            f"adjust={list(names)} needs the values of each token; {why}"
            + ("" if paired else " (run with keep='tokens')")
        )
    frame = frame_of(result)
    for name in names:
        if name == "zipf" and name not in frame:
            raise BadInput(
                "there is no column 'zipf': label the tokens with the frequency of their words, "
                "labellers=[interp.prompts.word_frequency()] or --frequency en"
            )
        if name in (value, between) or names.count(name) > 1:
            raise BadInput(f"adjust names {name!r}, which the comparison already uses")
        numbers(frame.head(1), name)
    return names


def _with_copy(found: Comparison) -> Comparison:
    """The comparison with a note on the differences of the untrained copy, if it has a control."""
    told = found.untrained()
    return replace(found, notes=(*found.notes, f"untrained copy: {told}")) if told else found


def _with_keys(keys: pd.DataFrame, columns: dict[str, Floats]) -> pd.DataFrame:
    """The table: the key columns of its rows, then the statistics; no name twice."""
    taken = next((c for c in keys if c in columns), None)
    if taken is not None:
        raise BadInput(
            f"by= names {taken!r}, and the comparison has a column of that name; rename it in the "
            f"table: frame.rename(columns={{{taken!r}: '{taken}_label'}})"
        )
    return pd.concat([keys, pd.DataFrame(columns)], axis=1)


def _with_control(
    frame: pd.DataFrame, control: HasFrame, asked: tuple[Any, ...], options: dict[str, Any]
) -> pd.DataFrame:
    """The table with the same comparison in the untrained copy as columns `control_*`."""
    names = ["mean_a", "mean_b", *_with_ends(_contrasts(options))]
    try:
        # Shuffles of the copy would answer another question: its columns are a baseline only.
        found = compare(control, *asked, **options, null="none")
    # Constant, undefined or without these groups in the copy: the model must not fail for that.
    except (BadInput, UnknownName):
        return frame.assign(**{f"control_{name}": np.nan for name in names})
    keys = list(found.by)
    columns = found.frame[[*keys, *names]].rename(columns={n: f"control_{n}" for n in names})
    if not keys:
        return pd.concat([frame, columns], axis=1)
    # A left join: layers that only one of the two has defined keep the rows of the model.
    return frame.merge(columns, on=keys, how="left")


def _contrasts(options: Mapping[str, Any]) -> tuple[str, ...]:
    return (*CONTRASTS, *(["adjusted_difference"] if options.get("adjust") else []))


def _with_ends(names: Sequence[str], after: str = "") -> list[str]:
    """Columns of estimates and of the ends of their intervals."""
    return [f"{name}{after}{end}" for name in names for end in ("", "_low", "_high")]


def _unpaired(frame: pd.DataFrame, kinds: Sequence[str]) -> pd.DataFrame:
    """The table with the columns of `_with_paired`, all NaN."""
    return frame.assign(**dict.fromkeys([*_with_ends(kinds, LESS), f"contrast{LESS}_p"], np.nan))


def _with_paired(
    frame: pd.DataFrame, both: tuple[Any, HasFrame], asked: tuple[Any, ...], options: dict[str, Any]
) -> pd.DataFrame:
    """The table with the contrasts of the model minus the copy, of the same tokens.

    Contrasts are linear: that of paired differences is the difference of the two contrasts, and
    prompts are resampled once for both.
    """
    kinds = _contrasts(options)
    less = less_control(frame_of(both[0]), both[1].frame, [asked[0]])
    if less is None:
        return _unpaired(frame, kinds)
    try:
        found = compare(less, *asked, **options)
    except (BadInput, UnknownName):  # the copy has no value, or the same ones
        return _unpaired(frame, kinds)
    own, keys = found.frame, list(found.by)
    columns = own[[*keys, *_with_ends(kinds)]].rename(
        columns=dict(zip(_with_ends(kinds), _with_ends(kinds, LESS), strict=True))
    )
    columns[f"contrast{LESS}_p"] = own[found.family_p]
    return (
        frame.merge(columns, on=keys, how="left") if keys else pd.concat([frame, columns], axis=1)
    )


_NEEDS_PROMPTS = (
    *("within_difference", "within_difference_low", "within_difference_high", "within_g"),
    *("pairs", "mann_whitney_p"),
    *("paired_t", "paired_df", "paired_p", "wilcoxon_p", "d_z", "hedges_g_av"),
    *("permutation_t", "permutation_p", "permutation_p_max"),
    *("shuffled_low", "shuffled_high", "shuffled_within_low", "shuffled_within_high"),
    *("shuffled_t", "shuffled_welch_rate"),
)


def _of_summary(
    result: HasFrame | pd.DataFrame,
    value: str,
    between: str,
    a: object,
    b: object,
    by: str | Sequence[str] | None,
    paired: bool,
    confidence: float,
) -> Comparison:
    """The part of the comparison that moments and sums over documents determine."""
    if paired:
        raise BadInput(
            "paired=True needs the prompts, which a summary does not keep; run with keep='tokens'"
        )
    rows = summaries.select(frame_of(result), value, between, a, b)
    keys, names, found = summaries.paired_rows(rows, between, a, by)
    leaves = summaries.sums_of(result, value)
    sums, reasons = summaries.contrasts(leaves, keys, between, a, b)
    columns = summaries.columns_of(found, sums, confidence)
    columns = _in_range(columns, range_of(result, value))
    if not ((columns["n_a"] > 1) & (columns["n_b"] > 1)).any():
        raise BadInput(f"no row has two values of {value!r} in each group")
    blank = np.full(len(keys), np.nan)
    columns |= dict.fromkeys(_NEEDS_PROMPTS, blank)
    table = _with_keys(keys, _corrected(columns))
    if (control := control_of(result)) is not None:
        same = {"by": names, "confidence": confidence}
        table = _with_control(table, control, (value, between, a, b), same)
        table = _unpaired(table, CONTRASTS)
    whole = Comparison(
        frame=table,
        value=value,
        between=between,
        a=a,
        b=b,
        notes=(summaries.NOTE, *reasons, *_few_notes(columns)),
        layer_runs=_layer_runs(None, keys, 1 - confidence),
        by=tuple(names),
        cluster="document",
        confidence=confidence,
        unit=unit_of(result, value),
    )
    return _with_copy(whole)


def _few_notes(columns: dict[str, Floats]) -> list[str]:
    """A note where few documents make the intervals rough."""
    counts = np.concatenate([columns["prompts_a"], columns["prompts_b"]]).astype(np.float64)
    fewest = np.nanmin(counts, initial=np.inf)
    if fewest >= FEW_PROMPTS:
        return []
    return [f"only {fewest:g} document(s) in a group: clustered intervals are wide or undefined"]


# ---- checks ----------------------------------------------------------------------------------


def _check_choices(a: object, b: object, null: str, confidence: float, resamples: int) -> None:
    if a == b:
        raise BadInput(f"a and b are both {a!r}; two different groups are compared")
    if null not in NULLS:
        raise BadInput(f"null is {null!r}{nearest(null, NULLS)}; it is one of {', '.join(NULLS)}")
    check_resampling(confidence, resamples)


def _select(
    frame: pd.DataFrame,
    value: str,
    between: str,
    a: object,
    b: object,
    cluster: str,
    special: bool,
) -> tuple[pd.DataFrame, list[str]]:
    """The rows of both groups, and a note on the special ones that were left out."""
    numbers(frame.head(1), value)
    require_columns(frame, [between, cluster])
    left_out = is_special(frame, special)
    require_groups(frame[~left_out], frame.loc[left_out, between], between, a, b)
    wanted = np.asarray(frame[between].isin([a, b]), dtype=bool)
    note = left_out_note(frame, wanted & left_out, "rows of special tokens")
    chosen = frame[wanted & ~left_out]
    if bool(chosen[cluster].isna().any()):
        missing = int(chosen[cluster].isna().sum())
        raise BadInput(f"{missing} of {len(chosen)} rows have no {cluster!r} to cluster by")
    again = repeated_note(frame, chosen["prompt"].unique().tolist()) if cluster == "prompt" else ""
    return chosen, [text for text in (note, again) if text]


def _require_content(data: Grid, value: str, a: object, b: object) -> None:
    """Raise `BadInput` if no row can be tested."""
    count_a, count_b = (np.isfinite(data.group(g)).sum(axis=0) for g in (True, False))
    if not ((count_a > 1) & (count_b > 1)).any():
        raise BadInput(
            f"no row has two values of {value!r} in each group; at most {count_a.max()} of {a!r} "
            f"and {count_b.max()} of {b!r}"
        )
    finite = data.cells[np.isfinite(data.cells)]
    if finite.min() == finite.max():
        raise BadInput(
            f"{value!r} is constant ({finite[0]:g} in all {len(finite)} values): "
            "there is nothing to compare"
        )


# ---- pairs -----------------------------------------------------------------------------------


def _prompt_means(data: Grid) -> tuple[Floats, Floats]:
    """Mean per cluster of a and of b, NaN where one is missing: two of `[c, k]`."""
    c, finite = int(data.clusters.max()) + 1, np.isfinite(data.cells)
    means = []
    for group in (data.labels, ~data.labels):
        total, count = np.zeros((2, c, data.cells.shape[1]))
        np.add.at(total, data.clusters[group], np.where(finite, data.cells, 0.0)[group])
        np.add.at(count, data.clusters[group], finite[group])
        means.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    # An incomplete pair loses both sides, row by row: a prompt may have both groups in one layer
    # and a NaN in another.
    missing = np.isnan(means[0] + means[1])
    a, b = (np.where(missing, np.nan, mean) for mean in means)
    return a, b


def _as_pairs(data: Grid, cluster: str) -> tuple[Grid, list[str]]:
    """One mean per prompt and group, of the prompts that carry both."""
    a, b = _prompt_means(data)
    whole: Bools = np.asarray(np.isfinite(a).any(axis=1), dtype=bool)
    if whole.sum() < 2:
        raise BadInput(
            f"paired=True needs two or more {cluster}s that carry both groups; {whole.sum()} of "
            f"{len(whole)} do"
        )
    count = int(whole.sum())
    notes = [f"{len(whole) - count} of {len(whole)} {cluster}s lack a group and were dropped"]
    pairs = replace(
        data,
        cells=np.concatenate([a[whole], b[whole]]),
        labels=np.arange(2 * count) < count,
        clusters=np.tile(np.arange(count, dtype=np.int64), 2),
    )
    return pairs, notes if count < len(whole) else []


# ---- columns ---------------------------------------------------------------------------------


def _columns(
    data: Grid, levels: dict[str, Any], null: str
) -> tuple[dict[str, Any], Permutation | None]:
    """All columns of the table, in reading order, and the permutation behind some of them."""
    where = (data.cells, data.labels, data.clusters)
    enough = np.min([np.isfinite(data.group(g)).sum(axis=0) for g in (True, False)], axis=0) > 1
    drawn = {"resamples": levels["resamples"], "seed": levels["seed"]}
    test = clustered_permutation(*where, **drawn) if null == "permutation" else None
    columns = {
        **_estimates(data, clustered_bootstrap(*where, **levels), enough),
        **_clustered_test(data, enough),
        **_token_tests(data, enough),
        **_pair_tests(data),
        **_permutation_columns(test, levels["confidence"], enough),
    }
    counts = _counts(data)
    return counts | _corrected(columns), test


def _counts(data: Grid) -> dict[str, Any]:
    """Numbers of tokens, prompts and undefined values per group: `[k]` each."""
    finite = np.isfinite(data.cells)
    c = int(data.clusters.max()) + 1
    carried = np.zeros((2, c, finite.shape[1]), bool)
    for side, group in enumerate((data.labels, ~data.labels)):
        np.logical_or.at(carried[side], data.clusters[group], finite[group])
    return {
        "n_a": finite[data.labels].sum(axis=0),
        "n_b": finite[~data.labels].sum(axis=0),
        "prompts_a": carried[0].sum(axis=0),
        "prompts_b": carried[1].sum(axis=0),
        "prompts_both": (carried[0] & carried[1]).sum(axis=0),
        "nan_a": data.undefined_a,
        "nan_b": data.undefined_b,
    }


def _estimates(data: Grid, fits: dict[str, Interval], enough: Bools) -> dict[str, Floats]:
    """Means, spreads, difference and Hedges' g with their intervals."""
    both = [classical.moments(data.group(of_a)) for of_a in (True, False)]
    columns = _with_interval("mean_a", fits["mean_a"]) | _with_interval("mean_b", fits["mean_b"])
    for side, (n, _, m2) in zip("ab", both, strict=True):
        columns[f"sd_{side}"] = np.sqrt(m2 / np.maximum(n - 1, 1))
    for name, fit in (("within_difference", "within"), ("difference", "difference")):
        columns |= _with_interval(name, fits[fit])
    columns |= _with_interval("hedges_g", fits["hedges_g"])
    columns["within_g"] = classical.standardised(fits["within"].estimate, *both)
    return {name: np.where(enough & np.isfinite(x), x, np.nan) for name, x in columns.items()}


def _with_interval(name: str, fit: Interval) -> dict[str, Floats]:
    return {name: fit.estimate, f"{name}_low": fit.low, f"{name}_high": fit.high}


def _in_range(columns: dict[str, Any], ends: tuple[float, float]) -> dict[str, Any]:
    """The columns with the intervals of both means inside the range of the value.

    Those of the contrasts stay in the range of a difference of two such means. The adjusted
    difference has none: a regression may leave it.
    """
    span = ends[1] - ends[0]
    inside = {"mean_a": ends, "mean_b": ends} | dict.fromkeys(CONTRASTS, (-span, span))
    out = dict(columns)
    for name, limits in inside.items():
        if name in columns:
            low, high = f"{name}_low", f"{name}_high"
            out[low], out[high] = moved_within(columns[name], columns[low], columns[high], limits)
    return out


def _clustered_test(data: Grid, enough: Bools) -> dict[str, Floats]:
    """The t test of the difference of means with a cluster-robust variance."""
    # The sums that a corpus run merges over shards, here from the whole table: both ways of running
    # give one and the same test.
    parting = Parting.of((~data.labels).astype(np.int64), [("a",), ("b",)], data.clusters)
    sums = parting.sums(np.where(np.isfinite(data.cells), data.cells, np.nan), ()).closed()
    test = clustered_test(contrast(sums, np.array([True, False]), np.array([False, True])))
    return {f"clustered_{name}": np.where(enough, x, np.nan) for name, x in test._asdict().items()}


def _adjusted_columns(data: Grid, confidence: float) -> dict[str, Floats]:
    """The difference at equal covariates, with its interval and test."""
    assert data.covariates is not None  # noqa: S101  the caller has looked
    found = adjusted_difference(data.cells, data.labels, data.clusters, data.covariates)
    half = scipy.stats.t.ppf((1 + confidence) / 2, found.df) * found.se
    both = [classical.moments(data.group(of_a)) for of_a in (True, False)]
    return {
        "adjusted_n": found.n,
        "adjusted_difference": found.difference,
        "adjusted_difference_low": found.difference - half,
        "adjusted_difference_high": found.difference + half,
        "adjusted_g": classical.standardised(found.difference, *both),
        "adjusted_t": found.t,
        "adjusted_df": found.df,
        "adjusted_p": found.p,
    }


def _adjusted_notes(data: Grid, covariates: Sequence[str]) -> list[str]:
    assert data.covariates is not None  # noqa: S101  the caller has looked
    missing = int((~np.isfinite(data.covariates)).any(axis=1).sum())
    if not missing:
        return []
    return [
        f"adjusted for {', '.join(covariates)}: {missing} of {len(data.cells)} tokens have no "
        "value of it and are left out of the adjusted columns"
    ]


def _token_tests(data: Grid, enough: Bools) -> dict[str, Floats]:
    """The classical two-sample tests, which take tokens as independent."""
    a, b = data.group(True), data.group(False)
    both = (*classical.moments(a), *classical.moments(b))
    welch, student = classical.welch_from_moments(*both), classical.student_from_moments(*both)
    rank_p = np.full(data.cells.shape[1], np.nan)
    rows = np.flatnonzero(enough)
    rank_p[rows] = scipy.stats.mannwhitneyu(a[:, rows], b[:, rows], nan_policy="omit").pvalue
    return {
        **{f"welch_{name}": x for name, x in welch._asdict().items()},
        **{f"student_{name}": x for name, x in student._asdict().items()},
        "mann_whitney_p": rank_p,
    }


def _pair_tests(data: Grid) -> dict[str, Floats]:
    """The paired tests on prompt means; NaN where fewer than two prompts carry both groups."""
    a, b = _prompt_means(data)
    pairs = np.isfinite(a).sum(axis=0)
    d_z, g_av = classical.paired_effects(a, b)
    wilcoxon_p = np.full(len(pairs), np.nan)
    # The signed-rank test drops pairs without a difference; SciPy warns where none is left.
    rows = np.flatnonzero((pairs > 1) & (np.nan_to_num(a - b) != 0).any(axis=0))
    if len(rows):
        difference = (a - b)[:, rows]
        wilcoxon_p[rows] = scipy.stats.wilcoxon(difference, nan_policy="omit").pvalue
    test = classical.paired_test(a, b)
    return {
        "pairs": pairs,
        **{f"paired_{name}": x for name, x in test._asdict().items()},
        "wilcoxon_p": wilcoxon_p,
        "d_z": d_z,
        "hedges_g_av": g_av,
    }


def _permutation_columns(
    test: Permutation | None, confidence: float, enough: Bools
) -> dict[str, Floats]:
    """The permutation test and its null distribution; all NaN with `null="none"`."""
    blank = np.full(len(enough), np.nan)
    names = ("permutation_t", "permutation_p", "permutation_p_max")
    shuffled = (
        *("shuffled_low", "shuffled_high", "shuffled_within_low", "shuffled_within_high"),
        *("shuffled_t", "shuffled_welch_rate"),
    )
    if test is None:
        return dict.fromkeys((*names, *shuffled), blank)
    tail = (1 - confidence) / 2
    usable = enough & ~np.isnan(test.t)
    bands = [
        edge
        for null in (test.null_difference, test.null_within)
        for edge in np.quantile(np.nan_to_num(null), [tail, 1 - tail], axis=0)
    ]
    # A shuffle without a defined t counts as extreme here as it does in p, so that a quantile never
    # looks smaller than the test that it belongs to. "higher" takes a value that occurred: with
    # infinite ones among them, interpolation would give NaN.
    size = np.where(np.isnan(test.null_t), np.inf, np.abs(test.null_t))
    size = np.quantile(size, confidence, axis=0, method="higher")
    size = np.where(np.isinf(size), np.nan, size)
    rate = (test.null_welch_p < 1 - confidence).mean(axis=0)
    found = (test.t, test.p, test.p_max, *bands, size, rate)
    return {
        name: np.where(usable, x, np.nan)
        for name, x in zip((*names, *shuffled), found, strict=True)
    }


def _corrected(columns: dict[str, Floats]) -> dict[str, Floats]:
    """The columns with both corrections after each p."""
    out: dict[str, Floats] = {}
    for name, x in columns.items():
        out[name] = x
        if name.removesuffix("_p") in TESTS:
            out[f"{name}_bh"], out[f"{name}_holm"] = benjamini_hochberg(x), holm(x)
    return out


def _layer_runs(test: Permutation | None, keys: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Runs of neighbouring layers that differ, with the `by` columns of their series."""
    depth = depth_column(keys.columns)
    others = [str(name) for name in keys.columns if name != depth]
    if test is None or depth is None:
        return pd.DataFrame(columns=[*others, "first", "last", "size", "mass", "p"])
    series, _ = numbered(keys, others)
    layers = keys[depth].to_numpy()
    found = cluster_test(test.t, test.null_t, layers, series, alpha=alpha, exact=test.exact)
    _, first = np.unique(series, return_index=True)
    where = keys[others].iloc[first[found["series"].to_numpy(np.int64)]].reset_index(drop=True)
    runs: pd.DataFrame = pd.concat([where, found.drop(columns="series")], axis=1)
    return runs


# ---- notes -----------------------------------------------------------------------------------


def _grid_notes(data: Grid, value: str, cluster: str) -> list[str]:
    notes = []
    undefined = int(data.undefined_a.sum() + data.undefined_b.sum())
    if undefined:
        notes.append(f"{undefined} values of {value!r} are undefined and left out: nan_a, nan_b")
    if data.averaged > 1:
        notes.append(f"up to {data.averaged} rows per token were averaged; by= can keep them apart")
    prompts = len(np.unique(data.clusters))
    if prompts < FEW_PROMPTS:
        notes.append(f"only {prompts} {cluster}(s): clustered intervals are wide or undefined")
    return notes


def _exchange_notes(data: Grid, cluster: str, test: Permutation, alpha: float) -> list[str]:
    """Notes on how labels were shuffled and on the smallest p that this allows."""
    c = int(data.clusters.max()) + 1
    a, b = (np.bincount(data.clusters[g], minlength=c) > 0 for g in (data.labels, ~data.labels))
    both, only_a, only_b = int((a & b).sum()), int((a & ~b).sum()), int((b & ~a).sum())
    single = only_a + only_b
    if not single:
        notes = [f"labels shuffled within {cluster}s: all {both} carry both groups"]
    elif not both:
        notes = [f"labels shuffled between whole {cluster}s: none of {single} carries both"]
    elif not min(only_a, only_b):
        notes = [
            f"labels shuffled within the {both} {cluster}s that carry both groups; the {single} "
            "that carry one have nothing to swap with"
        ]
    else:
        notes = [
            f"labels shuffled within the {both} {cluster}s that carry both groups, and between "
            f"the {single} that carry one"
        ]
    drawn, rows, smallest = len(test.null_t), len(data.keys), test.smallest_p_max
    of_all = (
        f"all {drawn:,} labelings were taken, each once" if test.exact else f"{drawn:,} shuffles"
    )
    notes.append(f"{of_all}: permutation_p_max is {smallest:.2g} or more")
    if rows * smallest > alpha:
        notes.append(
            f"permutation_p_holm is {min(rows * smallest, 1):.2g} or more over {rows} rows and "
            "cannot find anything; permutation_p_max can"
            if smallest < alpha
            else f"no permutation p can fall below {alpha:.2g}"
        )
    return notes


def _sign_notes(frame: pd.DataFrame, by: Sequence[str], cluster: str) -> list[str]:
    """A note on rows whose two contrasts have opposite signs, with an interval that excludes 0."""
    # An undefined interval counts as excluding 0: a caution too many costs less than one too few.
    clear = [
        (frame[f"{name}_low"] > 0) | (frame[f"{name}_high"] < 0) | (frame[f"{name}_low"].isna())
        for name in CONTRASTS
    ]
    opposite = frame["within_difference"] * frame["difference"] < 0
    rows = opposite & (clear[0] | clear[1])
    if not rows.any():
        return []
    return [
        f"{_named(frame, by, rows)}: within {cluster}s and pooled over tokens the difference has "
        f"opposite signs ({cluster}s with other levels hold other shares of the groups); "
        "permutation_p and the direction to quote are those of within_difference"
    ]


def _row_notes(frame: pd.DataFrame, by: Sequence[str], cluster: str) -> list[str]:
    """Notes on rows that are NaN, with the reason."""
    small = (frame["n_a"] < 2) | (frame["n_b"] < 2)
    lone = ~small & ((frame["prompts_a"] < 2) | (frame["prompts_b"] < 2))
    flat = ~small & (frame["sd_a"] == 0) & (frame["sd_b"] == 0)
    reasons = (
        (small, "fewer than two values in a group, the row is NaN"),
        (lone, f"a group lies in one {cluster}, clustered intervals and permutation are NaN"),
        (flat, "both groups are constant, t tests and effect size are NaN"),
    )
    return [f"{_named(frame, by, rows)}: {why}" for rows, why in reasons if rows.any()]


def _named(frame: pd.DataFrame, by: Sequence[str], rows: pd.Series[bool]) -> str:
    """The rows by their keys: the first six, and the number of the others."""
    if not by:
        return "the comparison"
    keys = frame.loc[rows, list(by)].head(6).itertuples(index=False)
    text = ", ".join("/".join(str(part) for part in key) for key in keys)
    more = int(rows.sum()) - 6
    return f"{'/'.join(by)} {text}" + (f" and {more} more" if more > 0 else "")
