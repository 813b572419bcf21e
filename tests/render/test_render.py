"""Figures, maps and the report without a browser: numbers, escaping, budgets, odd data."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from render_data import (
    HEADS,
    HOSTILE,
    LAYERS,
    LENGTH,
    PROMPTS,
    make_results,
    patterns,
    rows_leaf,
    tokens_table,
)
from scipy import stats

from analyses.attention import Attention
from analyses.rotation import Rotation
from interp import BadInput, Examples, Plot, Result, Results, compare
from interp.contract.leaves import Grouped, Moments
from interp.errors import InterpError, UnknownName
from interp.render import page, style, tokens
from interp.render.draw import figure as drawn
from interp.render.export import save_figure
from interp.render.lines import spread
from interp.runs.report import maps as maps_module
from interp.runs.report import report, sections, sentences
from interp.runs.report.drawings import drawing_of, result_figure, result_text
from interp.runs.report.lens_examples import lens_of
from interp.runs.report.maps import attention_maps
from interp.runs.report.sections import her_drawing
from interp.runs.report.views import View
from interp.stats.comparison import comparison_drawing
from interp.stats.means import means


@pytest.fixture(scope="module")
def results():
    return make_results()


@pytest.fixture(scope="module")
def html_report(results, tmp_path_factory):
    path = results.report(tmp_path_factory.mktemp("report") / "report.html")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def comparison(results):
    return compare(results["rotation"], "angle", "role", "target", "previous", resamples=200)


def draw(view):
    return drawn(drawing_of(view))


def her_picture(*args, **options):
    return drawn(her_drawing(*args, **options))


def comparison_picture(*args, **options):
    return drawn(comparison_drawing(*args, **options))


def named(figure):
    """Lines by name; bands have none."""
    return {t.name: t for t in figure.data if t.name}


def plain(result):
    """The table without special tokens."""
    return result.frame[~result.frame["special"]]


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
    assert "No band: a summary has no interval" in result_figure(result).layout.meta["caption"]
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
    with pytest.raises(UnknownName, match="unknown option 'layer'"):
        result_figure(results["rotation"], layer=3)


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


# ---- tokens and data on a page ---------------------------------------------------------------


def test_tokens_are_visible_and_no_markup():
    assert tokens.show("\n") == "↵"
    assert tokens.show("  a b") == "··a b"
    assert tokens.show(float("nan")) == "∅"
    assert tokens.show("a\u202eb") == "a\\x202eb"
    assert tokens.label("</script>") == "&lt;/script&gt;"
    assert tokens.label("x" * 40) == "x" * 23 + "…"


@pytest.mark.parametrize("token", HOSTILE)
def test_data_cannot_begin_a_tag(token):
    text = page.safe_json({"tokens": [token]})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"tokens": [token]}


def test_scripts_cannot_end_their_element():
    script = page._inert("a('</script>'); b('</SCRIPT >'); c('<!--')")
    assert "</script" not in script.lower()
    assert "<!--" not in script


class Elements(HTMLParser):
    """Every tag with its attributes, and the text outside scripts and styles."""

    def __init__(self, page_text):
        super().__init__()
        self.tags, self.text, self._within = [], [], ""
        self.feed(page_text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._within = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self._within = ""

    def handle_data(self, data):
        if not self._within:
            self.text.append(data)


# ---- the report ------------------------------------------------------------------------------


def test_report_loads_nothing_and_has_a_policy(html_report):
    parsed = Elements(html_report)
    links = {v for _, a in parsed.tags for k, v in a.items() if k in ("src", "href", "srcset")}
    assert all(link.startswith(("#", "data:")) for link in links)
    policies = [a["content"] for t, a in parsed.tags if a.get("http-equiv")]
    assert policies == [page.CSP]
    assert not [t for t, _ in parsed.tags if t in ("iframe", "object", "embed", "img", "base")]


def test_report_escapes_everything(html_report):
    parsed = Elements(html_report)
    assert not [a for _, a in parsed.tags if any(k.startswith("on") for k in a)]
    assert not [t for t, _ in parsed.tags if t in ("s", "img")]
    text = " ".join(parsed.text)
    for piece in (
        "toy <model>",
        "a caveat with <tags>",
        "first coordinate; <units>",
        "a <flat> line",
    ):
        assert piece in text
    kinds = [a.get("type") for t, a in parsed.tags if t == "script"]
    assert kinds.count(None) == 1  # our own script; all else is data
    assert set(kinds) == {None, "application/json", "text/plain"}


def test_report_holds_each_library_once_and_stays_small(html_report):
    assert html_report.count("plotly.js v") == 1
    assert html_report.count("var CircuitsVis=") == 1
    assert len(html_report.encode()) < 8e6
    assert html_report.index("<h1>") < html_report.index("plotly.js v")


def test_report_without_maps_has_no_circuitsvis(results, tmp_path):
    few = Results([results["rotation"]], results.provenance)
    text = few.report(tmp_path / "few.html").read_text(encoding="utf-8")
    assert "CircuitsVis=" not in text
    assert text.count("plotly.js v") == 1


def test_report_says_what_was_measured(html_report, results):
    text = " ".join(" ".join(Elements(html_report).text).split())
    special = PROMPTS
    assert f"{PROMPTS} prompts, {PROMPTS * LENGTH} tokens, of which {special} special" in text
    assert "a list of <strings>" in text
    assert "0123abcd" in text
    assert "2 prompts lack the word" in text
    assert "[1, 2, 3]" not in text  # token ids stay in the saved results
    assert "Do “her” tokens turn more than the words before them?" in text
    for result in results.values():
        for plot in result.analysis.plots:
            assert plot.title in text
        for doc in result.columns.values():
            assert doc in text


def test_report_counts_undefined_values(html_report):
    rows = PROMPTS * (LENGTH - 1)
    assert f"{rows:,} of {rows * LAYERS:,}" in html_report  # turning, at the last block


def test_report_sentences_come_from_the_comparison(html_report, results):
    found = compare(results["rotation"], "angle", "role", "target", "previous")
    text = html.unescape(html_report)
    for sentence in sentences.of_her(found, results["random_pairs"], "degrees"):
        assert sentence in text
    assert (
        "2 of 4 blocks differ (permutation, maximum statistic, p < 0.05): target turns more" in text
    )
    assert "than previous in 2–3." in text


def opposite(prompts):
    """Target turns 1° less within every prompt; prompts that turn more hold more targets."""
    random = np.random.default_rng(2)
    rows = [
        {"prompt": p, "position": i, "layer": layer, "role": role}
        | {"angle": 10 + 10 * (p % 2) - (role == "target") + 0.1 * random.normal()}
        for p in range(prompts)
        for layer in (0, 1)
        for i, role in enumerate(["target"] * (2 + 6 * (p % 2)) + ["previous"] * (8 - 6 * (p % 2)))
    ]
    return pd.DataFrame(rows)


def test_sentences_and_figure_follow_the_contrast_that_p_is_about():
    found = compare(opposite(20), "angle", "role", "target", "previous")
    assert (found.frame["difference"] > 1).all()
    text = " ".join(sentences.of_her(found, None, "degrees"))
    assert "2 of 2 blocks differ" in text
    assert "target turns less than previous in 0–1" in text
    assert "within prompts is at block" in text
    assert "(pooled over tokens +" in text
    assert "Caution, layer 0, 1: within prompts and pooled over tokens the difference has" in text
    lines = named(comparison_picture(found))
    assert max(lines["difference"].y) < 0 < min(lines["pooled over tokens"].y)
    between = compare(
        opposite(20).assign(role=lambda f: np.where(f["prompt"] % 4 < 2, "target", "previous")),
        *("angle", "role", "target", "previous"),
    )
    assert between.contrast == "difference"
    assert "within" not in between.finding() + repr(between).splitlines()[1]


def test_sentences_do_not_say_no_where_nothing_could_be_found():
    rows = opposite(4)
    rows = rows[rows.groupby(["prompt", "layer", "role"]).cumcount() == 0]
    found = compare(rows, "angle", "role", "target", "previous")
    text = " ".join(sentences.of_her(found, None, "degrees"))
    assert "Whether blocks differ cannot be decided with so few prompts: the smallest p " in text
    assert "is 0.12, not below 0.05." in text
    assert (
        "No ★: whether rows differ cannot be decided"
        in (comparison_picture(found).layout.meta["caption"])
    )


def test_every_figure_has_a_name_and_its_data(html_report):
    parsed = Elements(html_report)
    boxes = [a for _, a in parsed.tags if a.get("class") == "canvas"]
    data = {
        a["id"] for t, a in parsed.tags if t == "script" and a.get("type") == "application/json"
    }
    assert boxes
    assert all(a["role"] == "img" and a["aria-label"].strip() for a in boxes)
    assert {f"{a['id']}-data" for a in boxes} == data
    assert len({a["id"] for a in boxes}) == len(boxes)
    for found in re.findall(r'application/json" id="[^"]+">(.*?)</script>', html_report):
        json.loads(found)


def test_report_without_labels_has_no_experiment(results, tmp_path):
    table = tokens_table().drop(columns=["role", "sort"])
    result = Result("rotation", Rotation(), results["rotation"].state, table)
    assert sections.her_section(Results([result], {})) is None
    assert Results([result], {}).report(tmp_path / "r.html").exists()


def test_report_refuses_an_existing_file_and_leaves_no_scraps(results, tmp_path):
    few = Results([results["random_pairs"]], {})
    path = few.report(tmp_path / "new" / "report.html")
    with pytest.raises(BadInput, match="exists; choose another"):
        few.report(path)
    with pytest.raises(BadInput, match="is a folder; name a file"):
        few.report(tmp_path)
    before = path.read_text(encoding="utf-8")
    few.report(path, overwrite=True, title="Another <title>")
    assert "Another &lt;title&gt;" in path.read_text(encoding="utf-8") != before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_report_that_fails_leaves_the_old_file(results, tmp_path, monkeypatch):
    few = Results([results["random_pairs"]], {})
    path = few.report(tmp_path / "report.html")
    before = path.read_bytes()
    monkeypatch.setattr(page.Path, "replace", lambda self, target: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        few.report(path, overwrite=True)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no results"):
        report.write_report(Results([], {}), tmp_path / "r.html")


def test_spans_join_runs():
    assert sentences.spans([3]) == "3"
    assert sentences.spans([0, 1, 3, 4, 5, 9]) == "0–1, 3–5, 9"


# ---- attention maps --------------------------------------------------------------------------


def kept(length, heads=HEADS, layers=2, prompts=1):
    table = pd.DataFrame({"prompt": 0, "position": range(length), "token": "t", "special": False})
    items = {p: patterns(p, heads, length) for p in range(prompts)}
    state = {("", n): {"pattern": Examples(prompts, items)} for n in range(layers)}
    return Result("attention", Attention(), state, table)


def test_maps_are_the_kept_patterns(results):
    maps = attention_maps(results["attention"])
    assert [v.name for v in maps.views][:2] == [
        "prompt 0, most telling heads",
        "prompt 1, most telling heads",
    ]
    view = next(v for v in maps.views if v.name == "prompt 1, block 2")
    expected = results["attention"].examples("pattern")["", 2][1]
    np.testing.assert_allclose(view.props()["attention"], expected, atol=5e-5)
    assert view.props()["maskUpperTri"]
    assert view.props()["tokens"][4] == "·her"
    assert "↵" in {t for v in maps.views for t in v.props()["tokens"]}


def test_most_telling_heads_are_those_with_the_highest_scores(results):
    view = attention_maps(results["attention"], score="induction").views[0]
    means_ = plain(results["attention"]).groupby(["layer", "head"])["induction"].mean()
    best = means_.sort_values(ascending=False).index[:4]
    assert set(view.heads) == {f"L{a}H{b}" for a, b in best}
    assert f"induction: L{best[0][0]}H{best[0][1]} ({means_.max():.2f})" in view.scores


def test_chosen_heads_only(results):
    maps = attention_maps(results["attention"], heads=[(1, 2), (3, 0)], prompt=1)
    assert [v.heads for v in maps.views] == [("L1H2", "L3H0")]
    assert [v.heads for v in attention_maps(results["attention"], heads=[0], layer=2).views] == [
        ("L2H0",)
    ] * 2
    with pytest.raises(UnknownName, match="unknown layer '44'"):
        attention_maps(results["attention"], layer=44)
    with pytest.raises(UnknownName, match="unknown kept prompt '9'"):
        attention_maps(results["attention"], prompt=9)
    with pytest.raises(UnknownName, match="unknown score 'x'"):
        attention_maps(results["attention"], score="x")


def test_a_view_stays_within_its_cells():
    view = attention_maps(kept(130, heads=12), layer=0).views[0]
    assert view.cells <= maps_module.MOST_CELLS
    assert view.note == "2 of 12 heads are shown, those with the highest scores."
    long = attention_maps(kept(300, heads=1), layer=0).views[0]
    assert long.cells <= maps_module.MOST_CELLS
    assert "first 223 of 300 tokens" in long.note
    assert len(long.tokens) == 223


def test_all_views_stay_within_the_budget_and_the_rest_is_named():
    maps = attention_maps(kept(60, heads=12, layers=10, prompts=2))
    assert sum(v.cells for v in maps.views) <= maps_module.ALL_CELLS
    assert len(maps.views) < 20
    assert maps.notes[0].startswith("Left out to keep the page small (300,000 cells): prompt 0, ")


def test_bidirectional_attention_is_not_masked():
    result = kept(5)
    pattern = np.full((HEADS, 5, 5), 0.2)
    full = {("", 0): {"pattern": Examples(1, {0: pattern})}}
    maps = attention_maps(Result("attention", Attention(), full, result.tokens))
    assert maps.views[0].props()["maskUpperTri"] is False


def test_no_kept_patterns_is_said():
    maps = attention_maps(Result("attention", Attention(), {}, tokens_table()))
    assert maps.views == ()
    assert "there are no maps" in repr(maps)
    assert maps.figure().layout.annotations
    assert "no maps" in maps._repr_html_()


def test_maps_in_a_notebook_need_no_network(results):
    maps = attention_maps(results["attention"], prompt=0, layer=1)
    shown = Elements(maps._repr_html_()).tags
    assert [t for t, _ in shown] == ["iframe"]
    inner = shown[0][1]["srcdoc"]
    assert inner.count("var CircuitsVis=") == 1
    assert page.CSP in html.unescape(inner)
    assert not re.search(r'(src|href)="https?:', inner)
    assert "prompt 0, block 1" in repr(maps)


# ---- text and files --------------------------------------------------------------------------


def test_text_forms_hold_the_numbers(results):
    text = result_text(results["rotation"], "angle", by="role")
    mean = plain(results["rotation"]).query("role == 'target' and layer == 2")["angle"].mean()
    assert f"{mean:.4g}" in text
    assert text.startswith("Rotation per block by role · toy <model> (degrees)")
    assert "state 0" in result_text(results["logit_lens"])
    assert "·her" in result_text(results["logit_lens"])
    assert "induction" in result_text(results["attention"])
    assert "looks at" in result_text(results["attention"], "pattern")
    assert "any" in result_text(results["random_pairs"])
    assert max(len(result_text(r)) for r in results.values()) < 12_000


def test_titles_say_what_on_which_model(results):
    for result in results.values():
        figure = result_figure(result)
        assert result.analysis.plots[0].title in figure.layout.meta["title"]
        assert figure.layout.meta["title"].endswith("· toy <model>")


def test_saving_needs_a_known_ending_and_a_free_place(results, tmp_path):
    figure = result_figure(results["rotation"])
    with pytest.raises(BadInput, match="the ending is one of .html, .png, .svg, .pdf"):
        save_figure(figure, tmp_path / "figure.gif")
    path = save_figure(figure, tmp_path / "figure.html")
    assert page.CSP in html.unescape(path.read_text(encoding="utf-8"))
    with pytest.raises(BadInput, match="exists"):
        save_figure(figure, path)


def test_saving_a_picture_without_a_browser_says_what_to_install(results, tmp_path, monkeypatch):
    figure = result_figure(results["rotation"])

    def no_browser(*args, **options):
        raise RuntimeError("Kaleido requires Google Chrome to be installed.")

    monkeypatch.setattr(type(figure), "write_image", no_browser)
    with pytest.raises(InterpError, match=r"interp-stream\[export\] and a Chrome or Chromium"):
        save_figure(figure, tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()


def test_colours_are_stable_and_told_apart():
    palette = style.colours(["noun", "target", "random", "verb"])
    assert palette["target"] == style.FIRST["target"]
    assert palette["random"] == style.CONTROL
    assert len(set(palette.values())) == 4


def test_importing_the_package_imports_no_plotting_library():
    code = (
        "import sys, interp, interp.render.draw, interp.render.export, interp.runs.report.report\n"
        "assert not {'plotly', 'circuitsvis', 'kaleido', 'jinja2.environment'} & "
        "{m for m in sys.modules if not m.startswith('jinja2') or 'interp.render' in m}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
