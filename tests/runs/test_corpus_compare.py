"""Comparisons of summaries: equal to SciPy on the rows that the moments came from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.rotation import Rotation
from interp import BadInput
from interp.errors import UnknownName

TEXT = "the a man queen dog saw told met her him red old house road"
WORDS = TEXT.split()
TEXTS = [" ".join(WORDS[(i * 5 + j * j) % len(WORDS)] for j in range(6 + i % 9)) for i in range(24)]
KINDS = ["x", "y", "z", "x"] * 6
SIDES = ["l", "r"] * 12
LABELS = {"kind": KINDS, "side": SIDES}


@pytest.fixture(scope="module")
def both(gpt2):
    chosen = (Rotation, Attention, LogitLens)
    rows = interp.run(gpt2, TEXTS, chosen, labels=LABELS, progress=False)
    kept = interp.run(
        gpt2, TEXTS, chosen, labels=LABELS, keep="summary", by=["kind", "side"], progress=False
    )
    return rows, kept


def groups(frame, value, layer, **where):
    frame = frame[~frame["special"] & (frame["layer"] == layer)]
    for name, wanted in where.items():
        frame = frame[frame[name] == wanted]
    return [frame.loc[frame["kind"] == g, value].dropna().astype(float) for g in ("x", "y")]


def test_tests_and_effects_equal_scipy_on_the_rows(both):
    rows, kept = both
    found = interp.compare(kept["rotation"], value="angle", between="kind", a="x", b="y")
    assert list(found.by) == ["layer"]
    for record in found.frame.itertuples():
        a, b = groups(rows["rotation"].frame, "angle", record.layer)
        assert (record.n_a, record.n_b) == (len(a), len(b))
        welch = stats.ttest_ind(a, b, equal_var=False)
        assert record.welch_t == pytest.approx(welch.statistic, rel=1e-6)
        assert record.welch_p == pytest.approx(welch.pvalue, rel=1e-6)
        assert record.student_p == pytest.approx(stats.ttest_ind(a, b).pvalue, rel=1e-6)
        naive = welch.confidence_interval()
        assert (record.welch_low, record.welch_high) == pytest.approx(naive, rel=1e-6)
        assert record.sd_b == pytest.approx(b.std(), rel=1e-6)
    # The same effect as the comparison of rows; its intervals come from prompts instead.
    whole = interp.compare(
        rows["rotation"], value="angle", between="kind", a="x", b="y", null="none", resamples=200
    )
    np.testing.assert_allclose(found.frame["hedges_g"], whole.frame["hedges_g"], rtol=1e-5)
    # Prompts are what was sampled, in both.
    for column in ("clustered_t", "clustered_df", "clustered_p", "prompts_a", "prompts_both"):
        np.testing.assert_allclose(found.frame[column], whole.frame[column], rtol=1e-5)
    assert found.frame["permutation_p"].isna().all()
    assert "tokens are taken as independent" in found.notes[0]
    assert "layers differ (clustered" in repr(found)


def test_labels_that_are_left_out_are_pooled(both):
    rows, kept = both
    apart = interp.compare(
        kept["rotation"], "angle", "kind", "x", "y", by=["layer", "side"]
    ).frame.set_index(["layer", "side"])
    a, b = groups(rows["rotation"].frame, "angle", 0, side="r")
    assert apart.loc[(0, "r"), "welch_t"] == pytest.approx(
        stats.ttest_ind(a, b, equal_var=False).statistic, rel=1e-6
    )


def test_heads_stay_apart(both):
    rows, kept = both
    found = interp.compare(kept["attention"], "entropy", "kind", "x", "y").frame
    record = found[(found["layer"] == 0) & (found["head"] == 1)]
    frame = rows["attention"].frame
    a, b = groups(frame[frame["head"] == 1], "entropy", 0)
    assert record["welch_p"].item() == pytest.approx(
        stats.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-6
    )


def test_what_moments_cannot_give_is_refused_by_name(both):
    _, kept = both
    result = kept["rotation"]
    with pytest.raises(BadInput, match="paired=True needs the prompts"):
        interp.compare(result, "angle", "kind", "x", "y", paired=True)
    with pytest.raises(UnknownName, match="value of this summary 'angel'; did you mean 'angle'"):
        interp.compare(result, "angel", "kind", "x", "y")
    with pytest.raises(UnknownName, match=r"label of this summary .* 'role' \(known: kind, side\)"):
        interp.compare(result, "angle", "role", "x", "y")
    with pytest.raises(BadInput, match=r"kind has no group 'w'; it holds 'x' \(.* tokens\)"):
        interp.compare(result, "angle", "kind", "x", "w")
    with pytest.raises(BadInput, match="'top_token' holds tokens, not numbers"):
        interp.compare(kept["logit_lens"], "top_token", "kind", "x", "y")


def test_the_comparison_can_be_drawn(both):
    _, kept = both
    figure = interp.compare(kept["rotation"], "angle", "kind", "x", "y").plot()
    assert len(figure.data)
