"""Figures of results: means, heat maps, comparisons, and odd data."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from figures_help import comparison_picture, named, plain
from render_data import (
    HEADS,
    LAYERS,
    LENGTH,
    PROMPTS,
    make_results,
    rows_leaf,
    tokens_table,
)
from scipy import stats

from analyses.attention import Attention
from analyses.rotation import Rotation
from interp import Plot, Result, Results, compare
from interp.contract.leaves import Grouped, Moments
from interp.errors import BadInput, UnknownName
from interp.render import tokens
from interp.render.draw import figure as drawn
from interp.render.lines import spread
from interp.runs.report import report, sections, sentences
from interp.runs.report.drawings import drawing_of, result_figure, result_text
from interp.runs.report.lens_examples import lens_of
from interp.runs.report.sections import her_drawing
from interp.runs.report.views import View
from interp.stats.means import means


@pytest.fixture(scope="module")
def results():
    return make_results()


@pytest.fixture(scope="module")
def comparison(results):
    return compare(results["rotation"], "angle", "role", "target", "previous", resamples=200)


def draw(view):
    return drawn(drawing_of(view))


def her_picture(*args, **options):
    return drawn(her_drawing(*args, **options))


# ---- means and bands -------------------------------------------------------------------------


def test_line_shows_the_mean_of_every_layer(results):
    lines = named(result_figure(results["rotation"]))
    for value in ("angle", "attn_angle", "mlp_angle"):
        expected = plain(results["rotation"]).groupby("layer")[value].mean()
        assert list(lines[value].x) == list(expected.index)
        np.testing.assert_allclose(lines[value].y, expected, rtol=1e-4)


def test_line_by_role_shows_the_mean_of_every_group(results):
    lines = named(result_figure(results["rotation"], "angle", by="role"))
    expected = plain(results["rotation"]).groupby(["role", "layer"])["angle"].mean()
    assert set(lines) == {"target", "previous", "random"}
    for role, line in lines.items():
        np.testing.assert_allclose(line.y, expected[role], rtol=1e-4)


def test_special_tokens_count_only_when_asked(results):
    line = named(result_figure(results["rotation"], "angle", special=True))["angle"]
    expected = results["rotation"].frame.groupby("layer")["angle"].mean()
    np.testing.assert_allclose(line.y, expected, rtol=1e-4)
    captions = [
        result_figure(results["rotation"], special=s).layout.meta["caption"] for s in (0, 1)
    ]
    assert ["special tokens" in c for c in captions] == [True, False]
    pages = [report.report_html(Results([results["rotation"]], {}), special=s) for s in (0, 1)]
    assert ["special tokens (BOS and the like) are left out" in p for p in pages] == [True, False]


def unequal(sizes):
    """Factor of the variance and degrees of freedom for prompts of these lengths."""
    share = sizes / sizes.sum()
    second, third = (share**2).sum(), (share**3).sum()
    rest = second - 2 * third + second**2
    return second / rest, (1 - second) ** 2 / rest


def test_band_is_the_cluster_robust_one_of_statsmodels():
    regression = pytest.importorskip("statsmodels.api")
    random = np.random.default_rng(0)
    prompt = np.repeat(np.arange(10), random.integers(1, 6, 10))
    x = random.normal(size=len(prompt)) + random.normal(size=10)[prompt]
    row = means(pd.DataFrame({"prompt": prompt, "layer": 0, "v": x}), ["v"], "layer").iloc[0]
    model = regression.OLS(x, np.ones(len(x)))
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": prompt, "use_correction": False})
    factor, df = unequal(np.bincount(prompt))
    half = stats.t.ppf(0.975, df) * float(fit.bse[0]) * np.sqrt(factor)
    assert len(x) == row["n"]
    np.testing.assert_allclose([row["low"], row["high"]], [x.mean() - half, x.mean() + half])


def test_band_of_pairs_counts_every_pair_that_shares_a_prompt():
    random = np.random.default_rng(1)
    a, b = random.integers(6, size=(2, 40))
    x = random.normal(size=40)
    frame = pd.DataFrame({"prompt_a": a, "prompt_b": b, "layer": 0, "v": x})
    row = means(frame, ["v"], "layer").iloc[0]
    e = x - x.mean()
    share = (a[:, None] == a) | (a[:, None] == b) | (b[:, None] == a) | (b[:, None] == b)
    factor, df = unequal(np.bincount(np.concatenate([a, b[a != b]])))
    variance = (np.outer(e, e) * share).sum() * factor / 40**2
    half = stats.t.ppf(0.975, df) * np.sqrt(variance)
    np.testing.assert_allclose(row["high"] - row["mean"], half)


def test_one_prompt_has_means_but_no_band(results):
    frame = results["rotation"].frame.query("prompt == 0")
    table = means(frame, ["angle"], "layer")
    assert table["mean"].notna().all()
    assert table["low"].isna().all()


def test_undefined_values_are_counted_not_averaged(results):
    figure = result_figure(results["rotation"], "turning")
    rows = PROMPTS * (LENGTH - 1)
    assert f"{rows} undefined values are not averaged" in figure.layout.meta["caption"]
    assert named(figure)["turning"].y[-1] is None


def test_summary_is_drawn_from_its_moments():
    values = np.random.default_rng(0).normal(size=(2, 50)) + np.array([[1], [3]])
    state = {
        ("", layer): {"angle": Grouped({("a",): Moments.of_rows(values[layer])})}
        for layer in range(2)
    }
    result = Result("rotation", Rotation(), state, tokens_table())
    line = named(result_figure(result))["angle"]
    np.testing.assert_allclose(line.y, values.mean(axis=1), rtol=1e-4)
    caption = result_figure(result).layout.meta["caption"]
    assert "No band: " in caption
    assert "summary" in caption
    assert "angle" in result_text(result)


def test_random_pairs_have_a_level_across_all_layers(results):
    figure = result_figure(results["random_pairs"])
    lines = named(figure)
    frame = results["random_pairs"].frame
    anywhere = frame.loc[frame["kind"] == "any layers", "angle"].mean()
    np.testing.assert_allclose(lines["any layers"].y, [anywhere] * 2, rtol=1e-4)
    assert len(lines["same layer"].x) == LAYERS


# ---- heat maps -------------------------------------------------------------------------------


def test_lens_shows_top_tokens_and_probabilities(results):
    lens = lens_of(results["logit_lens"], 1)
    heat = result_figure(results["logit_lens"], prompt=1).data[0]
    np.testing.assert_allclose(heat.z, lens.probs[..., 0], atol=1e-3)
    assert np.shape(heat.text) == (LAYERS + 1, LENGTH)
    best = results["logit_lens"].strings[int(lens.tokens[2, 3, 0])]
    assert tokens.label(best, 7) in heat.text[2][3]
    assert f"{lens.probs[2, 3, 1]:.3f}" in heat.customdata[2][3]
    row = results["logit_lens"].frame.query("prompt == 1 and layer == 2 and position == 3").iloc[0]
    assert f"log P = {row['log_prob']:.2f}, rank {int(row['rank'])}" in heat.customdata[2][3]


def test_lens_depth_is_the_first_state_that_stays(results):
    lens = lens_of(results["logit_lens"], 0)
    for position, depth in enumerate(lens.depth()):
        same = lens.tokens[:, position, 0] == lens.tokens[-1, position, 0]
        assert same[int(depth) :].all()
        assert depth == 0 or not same[int(depth) - 1]


def test_head_grid_shows_mean_scores(results):
    figure = result_figure(results["attention"])
    expected = plain(results["attention"]).groupby(["layer", "head"])["induction"].mean().unstack()
    np.testing.assert_allclose(figure.data[0].z, expected, atol=1e-3)
    said = sentences.of_heads(drawing_of(View(results["attention"], Attention.plots[0])))[0]
    assert f"The strongest head by induction is L{LAYERS - 1}H1" in said


class Signed(Attention):
    """Head scores without a natural range."""

    ranges: ClassVar = {}


def test_colours_of_heads_follow_the_values_unless_they_have_a_natural_range():
    def scale_of(kind):
        tokens = tokens_table()
        shape = (len(tokens), HEADS)
        values = np.random.default_rng(0).normal(0, 0.1, shape)
        values[:, 0] += 0.3
        state = {("", 0): {"induction": rows_leaf(tokens, values)}}
        result = Result("scores", kind(), state, tokens)
        figure = draw(View(result, Plot("heatmap", ("induction",), "x")))
        shown = np.array(figure.data[0].z, float)
        return shown, figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax

    shown, low, high = scale_of(Signed)
    assert high == pytest.approx(np.abs(shown).max(), rel=1e-3)
    assert low in (0, -high)
    _, _, high = scale_of(Attention)
    assert high == 1


def test_an_untrained_copy_is_drawn_beside_the_heads_or_the_caption_names_its_table():
    results, control = make_results(), make_results()
    for name, result in results.items():
        result.control = control[name]
    table = control["attention"].frame
    table["induction"] *= 0.5
    heads = draw(View(results["attention"], Attention.plots[0]))
    titles = [note.text for note in heads.layout.annotations]
    drawn_of = dict(zip(titles, heads.data, strict=True))
    expected = plain(control["attention"]).groupby(["layer", "head"])["induction"].mean().unstack()
    np.testing.assert_allclose(drawn_of["induction, untrained"].z, expected, atol=1e-3)
    assert "Untrained: the same heads" in heads.layout.meta["caption"]
    for name in ("logit_lens", "third_party"):
        plot = Plot("heatmap", ("top_prob" if name == "logit_lens" else "one",), "x")
        said = draw(View(results[name], plot)).layout.meta["caption"]
        assert f"its table is results.control['{name}']" in said
    lines = draw(View(results["rotation"], Rotation.plots[0])).layout.meta["caption"]
    assert "Dotted: the same on an untrained copy" in lines
    assert "not drawn here" not in lines


def test_values_by_position_and_unknown_prompt(results):
    heat = result_figure(results["third_party"], "one").data[0]
    assert heat.type == "scatter"  # the first declaration with that value is a line
    plot = Plot("heatmap", ("one",), "x")
    grid = draw(View(results["third_party"], plot, prompt=2)).data[0]
    expected = (
        results["third_party"]
        .frame.query("prompt == 2")
        .pivot_table(index="layer", columns="position", values="one")
    )
    np.testing.assert_allclose(grid.z, expected, rtol=1e-3)
    with pytest.raises(UnknownName, match="unknown prompt '99'"):
        draw(View(results["third_party"], plot, prompt=99))
    with pytest.raises(UnknownName, match="unknown kept prompt '7'"):
        result_figure(results["logit_lens"], prompt=7)


def test_several_values_share_a_figure(results):
    """A value beside its control, declared together or not."""
    rotation = results["rotation"]
    figure = rotation.plot(["attn_angle", "mlp_angle"])
    assert {"attn_angle", "mlp_angle"} <= set(named(figure))
    assert "angle" not in named(figure)
    assert figure.layout.yaxis.title.text == "degrees"
    both = named(rotation.plot(("angle", "turning")))
    np.testing.assert_allclose(both["angle"].y, named(rotation.plot("angle"))["angle"].y)
    assert "turning" in both
    with pytest.raises(UnknownName, match="'turnign'.*turning"):
        rotation.plot(["angle", "turnign"])


# ---- comparisons -----------------------------------------------------------------------------


def test_comparison_draws_its_own_numbers(comparison):
    lines = named(comparison_picture(comparison, model="toy"))
    np.testing.assert_allclose(lines["target"].y, comparison.frame["mean_a"], rtol=1e-4)
    np.testing.assert_allclose(lines["previous"].y, comparison.frame["mean_b"], rtol=1e-4)
    contrast = comparison.frame["within_difference"]
    np.testing.assert_allclose(lines["difference"].y, contrast, rtol=1e-4)
    hits = comparison.frame["permutation_p_max"] < 0.05
    assert list(lines["differs"].x) == comparison.frame.loc[hits, "layer"].tolist() == [2, 3]


def test_her_figure_adds_both_controls(results, comparison):
    figure = her_picture(results["rotation"], results["random_pairs"], comparison=comparison)
    names = set(named(figure))
    assert {"target", "previous", "random pairs, same layer", "random pairs, any layers"} <= names
    assert "toy <model>" in figure.layout.meta["title"]
    assert "toy &lt;model&gt;" in figure.layout.title.text


def test_a_comparison_shows_random_pairs_on_request(results, comparison):
    lines = named(comparison.plot(pairs=results["random_pairs"]))
    frame = results["random_pairs"].frame
    within = frame[frame["kind"] == "same layer"].groupby("layer")["angle"].mean()
    np.testing.assert_allclose(lines["random pairs, same layer"].y, within, rtol=1e-4)
    assert "random pairs, same layer" not in named(comparison.plot())


def test_comparison_per_head_is_a_grid(results):
    found = compare(
        results["attention"], "entropy", "role", "target", "previous", resamples=50, null="none"
    )
    heat = comparison_picture(found).data[0]
    assert np.shape(heat.z) == (LAYERS, HEADS)
    np.testing.assert_allclose(np.ravel(heat.z), found.frame["within_g"], rtol=1e-3)


@pytest.mark.parametrize("groups", [("target", "nobody"), ("nobody", "previous")])
def test_her_figure_says_what_is_missing(results, groups):
    figure = her_picture(results["rotation"], a=groups[0], b=groups[1])
    assert "role = nobody" in figure.layout.annotations[0].text.replace("<br>", " ")
    bare = Result("rotation", Rotation(), results["rotation"].state, tokens_table()[["prompt"]])
    assert her_picture(bare).layout.annotations


# ---- odd data --------------------------------------------------------------------------------


def one_value(values, tokens_=None, layers=1):
    table = tokens_table() if tokens_ is None else tokens_
    state = {("", n): {"angle": rows_leaf(table, values[: len(table)])} for n in range(layers)}
    return Result("rotation", Rotation(), state, table)


@pytest.mark.parametrize("by", [None, "role"])
def test_all_undefined_shows_a_sentence(by):
    result = one_value(np.full(PROMPTS * LENGTH, np.nan))
    figure = result_figure(result, by=by)
    assert "undefined" in figure.layout.annotations[0].text
    assert "undefined" in result_text(result, by=by)


def test_one_token_of_one_prompt_in_one_layer():
    figure = result_figure(one_value(np.ones(1), tokens_table().iloc[[1]]))
    assert named(figure)["angle"].y == (1.0,)
    assert "No band" in figure.layout.meta["caption"]


def test_empty_tables_show_a_sentence():
    result = one_value(np.ones(0), tokens_table().iloc[:0])
    for figure in (result_figure(result), result_figure(result, by="role")):
        assert figure.layout.annotations
    assert "no rows" in result_text(result)
    nothing = Result("rotation", Rotation(), {}, tokens_table())
    assert result_figure(nothing).layout.annotations
    assert sections.result_section(nothing).title == "Rotation"


def test_infinite_values_do_not_break_an_axis():
    values = np.ones(PROMPTS * LENGTH)
    values[5] = np.inf
    figure = result_figure(one_value(values))
    assert np.isfinite(figure.layout.yaxis.range).all()
    assert "1 undefined" in figure.layout.meta["caption"]


def test_a_drawer_that_fails_is_told_in_the_figure(results, monkeypatch):
    monkeypatch.setattr("interp.render.lines.line_figure", lambda drawing: 1 / 0)
    figure = result_figure(results["rotation"])
    text = figure.layout.annotations[0].text.replace("<br>", " ")
    assert "could not be drawn (ZeroDivisionError: division by zero)" in text


def test_a_section_that_fails_is_told_in_the_report(results, monkeypatch):
    monkeypatch.setattr("interp.runs.report.sections._grid_block", lambda view: 1 / 0)
    result = results["logit_lens"]
    block = sections.block_of(View(result, result.analysis.plots[0]))
    assert block.says == ("This figure could not be drawn (ZeroDivisionError: division by zero).",)


def test_names_that_do_not_exist_raise(results):
    with pytest.raises(
        UnknownName, match="unknown value of 'rotation' 'angel'; did you mean 'angl"
    ):
        result_figure(results["rotation"], "angel")
    with pytest.raises(UnknownName, match="unknown label 'rloe'; did you mean 'role'"):
        result_figure(results["rotation"], by="rloe")
    with pytest.raises(BadInput, match="layer= is an option of attention maps"):
        result_figure(results["rotation"], layer=3)
    with pytest.raises(UnknownName, match="unknown option 'promt'; did you mean 'prompt'"):
        result_figure(results["rotation"], promt=3)


def test_more_groups_than_can_be_told_apart_are_cut_and_said():
    table = tokens_table()
    table["many"] = [f"g{i % 11}" for i in range(len(table))]
    figure = result_figure(one_value(np.arange(len(table)) + 0.0, table), by="many")
    assert len(named(figure)) == 8
    assert "3 smaller ones are not drawn" in figure.layout.meta["caption"]


def test_points_and_ways(results):
    scatter = result_figure(results["third_party"], "two")
    assert scatter.layout.yaxis.title.text == "units"
    views = [
        View(results["third_party"], p, ("role",)) for p in results["third_party"].analysis.plots
    ]
    points, ways = draw(views[1]), draw(views[2])
    frame = plain(results["third_party"])
    assert sum(len(t.x) for t in points.data) == frame["role"].notna().sum()
    assert {t.type for t in points.data} == {"scatter"}  # WebGL needs unsafe-eval
    assert {t.type for t in ways.data} == {"scatter3d"}
    assert len(ways.data[0].x) == LAYERS
    assert draw(views[4]).layout.annotations  # a declared column that is not there


def test_labels_at_line_ends_do_not_overlap():
    places = spread([0, 1, 2, 99, 100], 16, (0, 100))
    assert min(np.diff(places)) >= 16
    assert places[-1] <= 100
