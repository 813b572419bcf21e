"""Meanings of the columns of a comparison of two groups, by name."""

from __future__ import annotations

from collections.abc import Mapping

_SIDES = {"a": "the first group", "b": "the second group"}
_PLAIN = {
    "stack": "stack of layers, where a model has several",
    "layer": "block or state of the row, as in the table that was compared",
    "state": "state of the stream of the row, 0 … L; block l leads to state l + 1",
    "head": "attention head of the row",
    "prompts_both": "prompts that carry both groups",
    "sd_a": "standard deviation over tokens of the first group; unit of the value",
    "sd_b": "standard deviation over tokens of the second group; unit of the value",
    "within_g": "within_difference; standard deviations",
    "pairs": "prompts with both groups, whose means the paired tests compare",
    "d_z": "mean of the paired differences; their standard deviations",
    "hedges_g_av": "the same over the mean standard deviation of both groups; standard deviations",
    "adjusted_n": "tokens that have all covariates of adjust=",
    "adjusted_g": "adjusted_difference; standard deviations",
    "shuffled_low": "lower end of the central interval of difference under shuffled labels",
    "shuffled_high": "upper end of it",
    "shuffled_within_low": "lower end of that of within_difference under shuffled labels",
    "shuffled_within_high": "upper end of it",
    "shuffled_t": "quantile of |permutation_t| under shuffled labels; NaN where so many shuffles "
    "leave no spread within the groups that it is infinite",
    "shuffled_welch_rate": "share of shuffled labels that Welch's test calls significant",
    "permutation_p_max": "permutation_p against the largest |t| of all rows (family-wise)",
    "contrast_minus_control_p": "p that the contrast which is tested differs from that of the "
    "untrained copy, paired by token; for all rows together (family-wise)",
    "first": "first layer of a run of neighbouring layers",
    "last": "last layer of the run",
    "size": "number of layers in the run",
    "mass": "sum of |t| over the run",
    "p": "share of labelings with a run of at least this mass",
}
_COUNTS = {
    "n": "tokens with a value in {} (prompts, if paired)",
    "prompts": "prompts that carry {}",
    "nan": "rows of {} whose value is undefined, which are left out",
}
_ESTIMATES = {
    "mean_a": "mean over the tokens of the first group; unit of the value",
    "mean_b": "mean over the tokens of the second group; unit of the value",
    "difference": "mean_a − mean_b; unit of the value",
    "within_difference": "difference within prompts that carry both groups; unit of the value",
    "adjusted_difference": "difference at equal covariates (adjust=); unit of the value",
    "hedges_g": "difference with the factor for small samples; standard deviations",
}
_TESTS = {
    "clustered": "t test with a variance over prompts",
    "welch": "Welch's t test over tokens, taken as independent",
    "student": "Student's t test over tokens, taken as independent",
    "mann_whitney": "Mann–Whitney test over tokens, taken as independent",
    "paired": "paired t test of the means of prompts with both groups",
    "wilcoxon": "signed-rank test of the means of prompts with both groups",
    "permutation": "labels shuffled within prompts, and between prompts that carry one group",
    "adjusted": "t test of adjusted_difference with a variance over prompts",
}
_PARTS = {
    "t": "t",
    "df": "degrees of freedom",
    "p": "two-sided p",
    "p_bh": "p by Benjamini–Hochberg over the rows",
    "p_holm": "p by Holm over the rows",
}
_COPY = ("mean_a", "mean_b", "difference", "within_difference", "adjusted_difference")


def _ends(name: str) -> dict[str, str]:
    return {
        f"{name}_low": f"lower end of the interval of {name}",
        f"{name}_high": f"upper end of the interval of {name}",
    }


def _all() -> dict[str, str]:
    found = {
        f"{name}_{side}": told.format(who)
        for name, told in _COUNTS.items()
        for side, who in _SIDES.items()
    }
    for name, told in _ESTIMATES.items():
        found |= {name: told, **_ends(name)}
    for test, told in _TESTS.items():
        found |= {f"{test}_{part}": f"{what}: {told}" for part, what in _PARTS.items()}
    found |= _ends("welch") | _PLAIN
    for name in _COPY:
        copy = f"control_{name}"
        found |= {copy: f"{name} in the untrained copy of the model", **_ends(copy)}
        less = f"{name}_minus_control"
        if name.endswith("difference"):
            found |= {less: f"{name} minus that of the untrained copy, paired by token"} | _ends(
                less
            )
    return found


COLUMNS: Mapping[str, str] = _all()
