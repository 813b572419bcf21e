"""What the report says in words, and the vertical axis that a few far values do not take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from render_data import LENGTH, PROMPTS, layered, tokens_table

from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from interp import Analysis, Plot, Result, Results
from interp.contract.leaves import Rows
from interp.render.cut import window
from interp.render.drawing import Drawing
from interp.runs.report import sentences
from interp.runs.report.drawings import drawing_of, result_figure, result_text
from interp.runs.report.views import View, view_of


def line(value, means, half=0.1, control=None, group=""):
    """A table of means as `means` in `interp.render` makes it, bands of ± `half`."""
    means = np.asarray(means, dtype=float)
    table = pd.DataFrame({"value": value, "group": group, "x": range(len(means)), "mean": means})
    table["low"], table["high"], table["n"] = means - half, means + half, 10
    return table if control is None else table.assign(control=control)


DEEP = [-118.0, *np.linspace(-20, -2, 30)]


# ---- the axis --------------------------------------------------------------------------------


def test_one_far_state_is_left_outside_the_axis_and_named():
    shown = window(line("log_prob", DEEP))
    assert -22 < shown.low < -20
    assert -2 < shown.high < 0
    assert shown.said("state", "nats") == (
        "The vertical axis is cut, so that the other values can be read: outside lies state 0 "
        "(log_prob −118 nats)."
    )


def test_an_untrained_copy_beyond_the_axis_is_named_too():
    control = [-90.0, *[-10.8] * 30]
    shown = window(line("log_prob", DEEP, control=control))
    assert "state 0 (log_prob −118, log_prob, untrained −90 nats)" in shown.said("state", "nats")


@pytest.mark.parametrize(
    "means",
    [
        np.linspace(-118, -2, 31),  # a straight line
        [0.0, *np.linspace(5, 20, 30)],  # no farther away than the others from each other
        100 * 0.6 ** np.arange(30),  # decays, and no gap
        [1.0, 5.0, 5.0, 5.0],  # too few to call one of them apart
        [1.0, *[5.0] * 30],  # all others equal: nothing would be read better
        [1.0, *[5.0, 5.05] * 15],  # all others within an interval of each other
        [-118.0, -100, -90, *np.linspace(-20, -2, 20)],  # more than one in 16
    ],
)
def test_an_axis_that_is_not_swallowed_holds_everything(means):
    table = line("value", means)
    shown = window(table)
    assert shown.low < table["low"].min()
    assert shown.high > table["high"].max()
    assert shown.said("state") == ""


def test_a_level_across_all_layers_is_never_cut_off():
    level = line("value", [90.0]).assign(x=np.nan)
    shown = window(pd.concat([level, line("value", np.linspace(1, 5, 30))]))
    assert shown.high > 90


def test_nothing_to_draw_has_an_axis():
    assert window(line("value", [np.nan] * 9)).limits == (0.0, 1.0)


def shifted(rows, by):
    prompt, position, values = rows.joined()
    return Rows.of(prompt, position, values + by)


@pytest.fixture(scope="module")
def lens():
    """A lens whose state 0 lies far below; 20 states, so that one may be cut off."""
    tokens = tokens_table()
    state = layered(tokens, ["log_prob", "rank", "entropy", "kl_to_final", "top_prob"], 4, 20)
    state["", 0]["log_prob"] = shifted(state["", 0]["log_prob"], -138)
    return Result("logit_lens", LogitLens(), state, tokens)


def test_the_figure_marks_what_is_outside_and_says_so(lens):
    figure = result_figure(lens, "log_prob")
    low, high = figure.layout.yaxis.range
    assert -118 < low < high < 40
    mean = result_text(lens, "log_prob").split("state 0")[0]
    notes = [a.text for a in figure.layout.annotations]
    assert sum(n.startswith("▼ −11") for n in notes) == 1
    assert "The vertical axis is cut" in figure.layout.meta["caption"]
    assert "state 0 (log_prob −11" in figure.layout.meta["caption"]
    assert "axis is cut" not in mean, "a table has no axis"
    assert min(y for y in figure.data[-1].y if y is not None) < -100, "the line itself is whole"


def test_the_names_of_lines_stay_inside_a_cut_axis():
    """plotly drops a note whose place is outside the axis."""
    tokens = tokens_table()
    state = layered(tokens, ["log_prob"], 4, 20)
    state["", 19]["log_prob"] = shifted(state["", 19]["log_prob"], 900)
    figure = result_figure(Result("logit_lens", LogitLens(), state, tokens), "log_prob")
    name = next(a for a in figure.layout.annotations if a.text == "log_prob")
    assert figure.layout.yaxis.range[0] <= name.y <= figure.layout.yaxis.range[1]


# ---- sentences about lines -------------------------------------------------------------------


def said(table, place="block", unit=" degrees"):
    (sentence,) = sentences.of_table(table, place, unit)
    return sentence


def test_a_level_line_is_called_level():
    assert said(line("angle", [10.0, 10.1, 9.95, 10.05])) == (
        "angle stays between 9.95 and 10.1 degrees at all 4 blocks, which differ by less than "
        "their 95 % intervals are wide; whether they differ is not tested here."
    )


def test_a_rising_and_a_falling_line_are_told_from_end_to_end():
    assert said(line("norm", [1, 2, 4, 8, 16]), "state", "") == (
        "norm rises along the states, from 1 [0.9, 1.1] at state 0 to 16 [15.9, 16.1] at state 4."
    )
    assert said(line("norm", [16, 8, 4, 2, 1]), "state", "").startswith("norm falls along the")


def test_one_place_apart_is_told_against_the_rest():
    assert said(line("angle", [89.5, 10, 12, 11, 14, 13, 12, 15])) == (
        "angle is 89.5 degrees [89.4, 89.6] at block 0 and only there far from the rest, which "
        "lies between 10 and 15 degrees."
    )


def test_a_line_without_a_trend_is_called_so():
    assert said(line("angle", [5, 9, 4, 8, 5.5])) == (
        "angle neither rises nor falls steadily along the blocks: it is highest at block 1 "
        "(9 degrees [8.9, 9.1]) and lowest at block 2 (4 degrees [3.9, 4.1])."
    )


def test_a_line_without_a_change_is_told_by_its_value():
    table = line("dimension", [3.0, 3.0, 3.0, 3.0]).assign(low=np.nan, high=np.nan)
    assert said(table, "state", "") == "dimension is 3 at every state."


@pytest.mark.parametrize(("unit", "told"), [("ratio", "at every state"), ("nats", "nats at")])
def test_a_quotient_has_no_unit(unit, told):
    table = line("ratio", [4.08, 4.08, 4.08]).assign(low=np.nan, high=np.nan)
    (sentence,) = sentences.of_lines(Drawing("lines", "", table, unit, "state"))
    assert sentence.startswith(f"ratio is 4.08 {told}")


def beside_copy(value, means, control, half):
    """A line with that of the untrained copy, and paired differences with bands of ± `half`."""
    table = line(value, means, half=5.0, control=control)
    less = table["mean"] - table["control"]
    return table.assign(
        less_control=less, less_control_low=less - half, less_control_high=less + half
    )


def test_the_untrained_copy_is_told_by_the_paired_difference():
    """The intervals of the means are far wider than those of the differences."""
    table = beside_copy("angle", [5, 9, 4, 8, 5.5], [5, 5, 5, 5, 5.5], half=0.1)
    assert said(table).startswith(
        "angle differs from that of an untrained copy at 3 of 5 blocks (higher at 2, lower at 1), "
        "most at block 1 (9 against 5 degrees). Judged by the difference, paired by token: its "
        "95 % interval of each block alone. It "
    )
    higher = said(beside_copy("norm", [2000, 4000, 6000.0], [5, 5, 6000], half=9), "state", "")
    assert higher.startswith("norm is higher than that of an untrained copy at 2 of 3 states, most")
    assert "at state 1 (4,000 against 5)." in higher


def test_an_untrained_copy_without_a_paired_difference_is_not_told_apart():
    table = beside_copy("angle", [5, 9, 4, 8, 5.5], [5, 9.05, 4, 8, 5.5], half=0.1)
    assert said(table).startswith(
        "angle does not detectably differ from that of an untrained copy: the 95 % interval of the "
        "difference, paired by token, holds 0 at all 5 blocks. It "
    )


def test_without_pairs_nothing_is_judged():
    assert said(line("angle", [5, 9, 4], control=[5, 5, 5])).startswith(
        "angle is farthest from that of an untrained copy at block 1 (9 against 5 degrees); "
        "whether the two differ is not tested, because their tokens are not paired or of one "
        "prompt only. It "
    )


def test_lines_hold_the_mean_of_the_paired_differences():
    """Against the means of prompts: every prompt has as many tokens, and none is special."""
    tokens = tokens_table()
    tokens["special"] = False
    state, other = (layered(tokens, ["log_prob"], seed, 3) for seed in (20, 21))
    control = Result("logit_lens", LogitLens(), other, tokens)
    result = replace(Result("logit_lens", LogitLens(), state, tokens), control=control)
    table = drawing_of(view_of(result, "log_prob")).table
    rows = result.frame.merge(control.frame, on=["prompt", "position", "layer"])
    rows["less"] = rows["log_prob_x"] - rows["log_prob_y"]
    wide = rows.pivot_table(index="prompt", columns="layer", values="less")
    band = scipy.stats.ttest_1samp(wide, 0).confidence_interval()
    assert table["less_control"].tolist() == pytest.approx(wide.mean().tolist())
    assert table["less_control_low"].tolist() == pytest.approx(band.low.tolist())
    assert table["less_control_high"].tolist() == pytest.approx(band.high.tolist())


def test_a_control_among_the_values_is_told_as_one_and_has_no_sentence_of_its_own():
    table = pd.concat([line("share", [0.9, 0.5, 0.3]), line("random_share", [0.3, 0.3, 0.3])])
    sentence = said(table, "component", "")
    assert sentence.startswith("share is higher than its control random_share at 2 of 3 components")


def test_no_sentence_about_groups_or_a_single_place():
    @dataclass(frozen=True)
    class One(Analysis):
        """One number."""

        columns: ClassVar = {"norm": "norm; units"}
        plots: ClassVar = (Plot("line", ("norm",), "Norm", "units"),)

        def observe(self, batch):
            return {}

    tokens = tokens_table()
    result = Result("one", One(), layered(tokens, ["norm"], 0, 1), tokens)
    assert sentences.of_lines(drawing_of(View(result, One.plots[0]))) == []
    assert sentences.of_lines(drawing_of(View(result, One.plots[0], by=("role",)))) == []


# ---- sentences about heads -------------------------------------------------------------------


def heads(scores):
    """A result whose heads have these mean scores: `{value: [layer, head]}`."""
    tokens = tokens_table()
    at = tokens["prompt"].to_numpy(), tokens["position"].to_numpy()
    state = {
        ("", layer): {
            name: Rows.of(*at, np.tile(np.asarray(grid)[layer], (len(tokens), 1)))
            for name, grid in scores.items()
        }
        for layer in range(len(next(iter(scores.values()))))
    }
    return Result("attention", Attention(), state, tokens)


def test_heads_are_counted_against_the_strongest_of_the_untrained_copy():
    trained = heads({"induction": [[0.1, 0.9], [0.3, 0.05]]})
    trained.control = heads({"induction": [[0.1, 0.2], [0.15, 0.2]]})
    plot = Plot("heatmap", ("induction",), "Head types", "attention")
    assert sentences.of_heads(drawing_of(View(trained, plot))) == [
        "The strongest head by induction is L0H1 with 0.900; the median of all 4 heads is 0.200. "
        "2 heads exceed the strongest head of an untrained copy (0.200)."
    ]


def test_heads_are_counted_against_a_shuffled_control():
    result = heads({"pattern_share": [[0.1, 0.2]], "pattern_shuffled": [[0.3, 0.2]]})
    plot = Plot("heatmap", ("pattern_share", "pattern_shuffled"), "Position heads", "share")
    (sentence,) = sentences.of_heads(drawing_of(View(result, plot)))
    assert sentence.endswith("No head exceeds the largest pattern_shuffled (0.300).")


# ---- the head of the page --------------------------------------------------------------------


def test_a_report_without_a_control_says_how_to_get_one(lens, tmp_path):
    results = Results([lens], {"model": {"name": "tiny"}})
    text = results.report(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "add with --control random-init" in text
    assert "<h1>Inside tiny</h1>" in text
    assert f"{PROMPTS} prompts, {PROMPTS * LENGTH} tokens" in text
