"""Compare two groups of a summary: what moments allow, and nothing that they do not.

A summary has counts, means and standard deviations per group, and no prompts: tests and intervals
take tokens as independent, which tokens of one prompt are not. What would need the prompts is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from interp.errors import BadInput, unknown
from interp.stats.classical import Array, hedges_g, student_from_moments, welch_from_moments
from interp.stats.table import rows_by

# What every summary has beside its labels; the bins of values and tokens stand in it too.
_NEEDED = {"value", "n", "mean", "std", "undefined"}
NOTE = (
    "from moments: tokens are taken as independent, which tokens of one document are not, so "
    "intervals are too narrow and p too small; what needs the prompts is NaN (keep='tokens' has it)"
)


def is_summary(frame: pd.DataFrame) -> bool:
    """Whether a table holds moments per group instead of rows per token."""
    return set(frame.columns) >= _NEEDED


def select(frame: pd.DataFrame, value: str, between: str, a: object, b: object) -> pd.DataFrame:
    """The records of one value and two groups.

    Raises `UnknownName` for a value or label that the summary lacks, `BadInput` for a group.
    """
    if value not in set(frame["value"]):
        raise unknown("value of this summary", value, list(dict.fromkeys(frame["value"])))
    if between not in frame:
        labels = [str(c) for c in frame if frame[c].dtype == object or str(frame[c].dtype) == "str"]
        raise unknown(
            "label of this summary (see by=)", between, [c for c in labels if c != "value"]
        )
    rows = frame[frame["value"] == value]
    if rows["mean"].isna().all():
        raise BadInput(f"{value!r} holds tokens, not numbers: there are no means to compare")
    for group in (a, b):
        if not (rows[between].astype(str) == str(group)).any():
            counts = rows.groupby(between)["n"].max().sort_values(ascending=False)
            listed = ", ".join(f"{k!r} ({n:,} tokens)" for k, n in counts.head(12).items())
            raise BadInput(f"{between} has no group {group!r}; it holds {listed}")
    return rows[rows[between].astype(str).isin([str(a), str(b)])]


def paired_rows(
    rows: pd.DataFrame, between: str, a: object, by: str | Sequence[str] | None
) -> tuple[pd.DataFrame, list[str], dict[str, Array]]:
    """Both groups side by side: the rows' keys, their names, and count, mean, M2 of each group.

    Groups that `by` leaves out (other labels, heads) are pooled by the law of total variance.
    """
    names = rows_by(rows, by, [between])
    side = np.where(rows[between].astype(str) == str(a), "a", "b")
    keys = rows[names] if names else pd.DataFrame({"_": 0}, index=rows.index)
    index = [side, *(keys[c] for c in keys)]
    n = rows["n"].to_numpy(dtype=np.float64)
    mean = rows["mean"].fillna(0).to_numpy(dtype=np.float64)
    m2 = rows["std"].fillna(0).to_numpy(dtype=np.float64) ** 2 * np.maximum(n - 1, 0)
    parts = pd.DataFrame({"n": n, "sum": n * mean, "nan": rows["undefined"].to_numpy()})
    parts.index = rows.index
    total = parts.groupby(index, dropna=False)[["n", "sum"]].transform("sum")
    centre = (total["sum"] / total["n"].where(total["n"] > 0)).to_numpy()
    parts["m2"] = m2 + n * np.nan_to_num(mean - centre) ** 2
    sums = parts.groupby(index, dropna=False).sum()
    wide = sums.unstack(0).sort_index()  # noqa: PD010  the sums are there already
    out: dict[str, Array] = {}
    for group in ("a", "b"):
        for name in ("n", "sum", "m2", "nan"):
            column = wide.get((name, group), pd.Series(0.0, index=wide.index))
            out[f"{name}_{group}"] = np.asarray(column.fillna(0), dtype=np.float64)
        sums_of, count = out[f"sum_{group}"], out[f"n_{group}"]
        out[f"mean_{group}"] = np.asarray(sums_of / np.where(count > 0, count, np.nan), np.float64)
    table = wide.index.to_frame(index=False)
    table.columns = list(keys)
    return table[names], names, out


def columns_of(found: dict[str, Array], confidence: float) -> dict[str, Array]:
    """The columns of a comparison that follow from counts, means and M2: `[rows]` each."""
    n_a, mean_a, m2_a = found["n_a"], found["mean_a"], found["m2_a"]
    n_b, mean_b, m2_b = found["n_b"], found["mean_b"], found["m2_b"]
    both = (n_a, mean_a, m2_a, n_b, mean_b, m2_b)
    welch, student = welch_from_moments(*both), student_from_moments(*both)
    effect = hedges_g(*both, confidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        v_a, v_b = (np.where(n > 1, m2 / (n - 1), np.nan) for n, m2 in ((n_a, m2_a), (n_b, m2_b)))
        half_a, half_b = (
            _t_quantile(n - 1, confidence) * np.sqrt(v / n) for n, v in ((n_a, v_a), (n_b, v_b))
        )
        half = _t_quantile(welch.df, confidence) * np.sqrt(v_a / n_a + v_b / n_b)
    difference = mean_a - mean_b
    return {
        "n_a": n_a.astype(np.int64),
        "n_b": n_b.astype(np.int64),
        "nan_a": found["nan_a"].astype(np.int64),
        "nan_b": found["nan_b"].astype(np.int64),
        **_with_band("mean_a", mean_a, half_a),
        "sd_a": np.sqrt(v_a),
        **_with_band("mean_b", mean_b, half_b),
        "sd_b": np.sqrt(v_b),
        **_with_band("difference", difference, half),
        "hedges_g": effect.g,
        "hedges_g_low": effect.low,
        "hedges_g_high": effect.high,
        **{f"welch_{name}": x for name, x in welch._asdict().items()},
        **{f"student_{name}": x for name, x in student._asdict().items()},
    }


def _with_band(name: str, x: Array, half: Array) -> dict[str, Array]:
    return {name: x, f"{name}_low": x - half, f"{name}_high": x + half}


def _t_quantile(df: Array, confidence: float) -> Array:
    return np.asarray(special.stdtrit(df, (1 + confidence) / 2), dtype=np.float64)
