"""The report: tokens on a page, sections, attention maps, text and files."""

from __future__ import annotations

import base64
import html
import json
import re
import subprocess
import sys
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from figures_help import comparison_picture, named, plain
from render_data import (
    HEADS,
    HOSTILE,
    LAYERS,
    LENGTH,
    PROMPTS,
    make_results,
    patterns,
    tokens_table,
)

from analyses.attention import Attention
from analyses.rotation import Rotation
from interp import BadInput, Examples, Result, Results, compare
from interp.errors import InterpError, UnknownName
from interp.render import page, style, tokens
from interp.render.export import save_figure
from interp.runs.report import maps as maps_module
from interp.runs.report import report, sections, sentences
from interp.runs.report.drawings import result_figure, result_text
from interp.runs.report.maps import attention_maps


@pytest.fixture(scope="module")
def results():
    return make_results()


@pytest.fixture(scope="module")
def html_report(results, tmp_path_factory):
    path = results.report(tmp_path_factory.mktemp("report") / "report.html")
    return path.read_text(encoding="utf-8")


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
    assert kinds.count(None) == 2  # our own scripts; all else is data
    assert set(kinds) == {None, "application/json", "text/plain"}


def library(text: str, kind: str) -> str:
    """A script library of a page, inflated."""
    (data,) = re.findall(f'<script type="text/plain" id="library-{kind}">(.*?)</script>', text)
    return zlib.decompress(base64.b64decode(data), -zlib.MAX_WBITS).decode()


def test_report_holds_each_library_once_and_stays_small(html_report):
    assert library(html_report, "plotly").count("plotly.js v") == 1  # all of it, for three axes
    assert library(html_report, "maps").count("var CircuitsVis=") == 1
    assert html_report.count("library-plotly") == html_report.count("library-maps") == 1
    assert len(html_report.encode()) < 5e6
    assert html_report.index("<h1>") < html_report.index("library-plotly")


def test_report_without_maps_has_no_circuitsvis(results, tmp_path):
    few = Results([results["rotation"]], results.provenance)
    text = few.report(tmp_path / "few.html").read_text(encoding="utf-8")
    assert "library-maps" not in text
    assert library(text, "plotly").count("plotly.js (cartesian - minified) v") == 1


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
        for doc in (result.columns[name] for name in result.values):
            assert doc in text


def test_report_counts_undefined_values(html_report):
    rows = PROMPTS * (LENGTH - 1)
    assert f"{rows:,} of {rows * LAYERS:,}" in html_report  # turning, at the last block


def test_report_sentences_come_from_the_comparison(html_report, results):
    found = compare(results["rotation"], "angle", "role", "target", "previous")
    text = html.unescape(html_report)
    for sentence in sentences.of_her(found, results["random_pairs"], "degrees"):
        assert sentence in text
    begins = "Corrected for their number, 2 of 4 blocks differ (permutation, maximum statistic, "
    assert f"{begins}p < 0.05): target turns more" in text
    assert "than previous in blocks 2–3; taken one by one, without" in text


def turns(by_block, seed, prompts=12):
    """Rotation of target tokens against previous ones: so many degrees more, per block."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            {"prompt": p, "position": i, "layer": layer, "role": role}
            | {"angle": 20 + more * (role == "target") + 0.3 * random.normal()}
            for p in range(prompts)
            for layer, more in enumerate(by_block)
            for i, role in enumerate(["target", "previous"])
        ]
    )


def headline(by_block, untrained=None):
    table, copy = turns(by_block, 1), None
    if untrained is not None:
        copy = SimpleNamespace(frame=turns(untrained, 2), control=None)
    result = SimpleNamespace(frame=table, control=copy)
    asked = ("angle", "role", "target", "previous")
    found, overall = compare(result, *asked), compare(result, *asked, by=())
    return sentences.of_her(found, None, "degrees", overall)[0], overall.frame.iloc[0]


def test_headline_has_the_interval_and_the_verdict_against_both_controls():
    said, row = headline((4, 4, 4), (1, 1, 1))
    wide = turns((4, 4, 4), 1).pivot_table(index="prompt", columns="role", values="angle")
    mean = (wide["target"] - wide["previous"]).mean()
    low, high = (row[f"within_difference_{end}"] for end in ("low", "high"))
    assert low < mean < high
    assert f"({mean:+.3g} [{low:.3g}, {high:.3g}])" in said
    assert f"{mean:.3g} degrees higher for target than for previous tokens within prompts" in said
    assert f"more than shuffled labels give (p = {row['permutation_p_max']:.2g})" in said
    copy = row["control_within_difference"]
    more = row["within_difference_minus_control"]
    low, high = (row[f"within_difference_minus_control_{end}"] for end in ("low", "high"))
    assert more == pytest.approx(mean - copy)
    assert low < 3 < high
    assert (
        f" In an untrained copy of the model it is {copy:+.3g}. The model differs from its copy: "
        f"{more:+.3g} [{low:.3g}, {high:.3g}] (the same tokens in both, paired; "
        f"p = {row['contrast_minus_control_p']:.2g}), a larger effect."
    ) in said
    assert row["contrast_minus_control_p"] < 0.005
    assert "hides" not in said


def test_headline_says_what_the_copy_does_as_well_and_what_chance_does():
    assert "The model does not detectably differ from its copy" in headline((4,) * 3, (4,) * 3)[0]
    assert "it is +4" in headline((1, 1, 1), (4, 4, 4))[0]
    assert "), a smaller effect." in headline((1, 1, 1), (4, 4, 4))[0]
    assert "), an effect in the other direction." in headline((-2, -2, -2), (4, 4, 4))[0]
    said, row = headline((0, 0, 0))
    assert row["permutation_p_max"] > 0.05
    assert "no more than shuffled labels give (p = 0." in said
    assert "untrained" not in said


def test_every_run_is_told_with_its_direction_and_why_a_block_has_no_star():
    found = compare(turns((0, 3, 3, 0, -3, -3, 0, 3, 3), 1), "angle", "role", "target", "previous")
    assert found.runs_found[["first", "last"]].sort_values("first").to_numpy().tolist() == [
        [1, 2],
        [4, 5],
        [7, 8],
    ]
    weaker = found.frame.assign(
        permutation_p_max=found.frame["permutation_p_max"].mask(found.frame["layer"] == 5, 0.2)
    )
    for shown, told in (
        (found, ""),
        (
            replace(found, frame=weaker),
            " Block 5 has no ★ in the figure: it belongs to a run that differs, but a ★ needs a "
            "block to differ on its own, corrected for all blocks.",
        ),
    ):
        (said,) = (x for x in sentences.of_her(shown, None, "degrees") if "Runs of" in x)
        least = f"p = {found.runs_found['p'].iloc[0]:.2g}"
        assert said == (
            "Runs of neighbouring blocks, each run tested as a whole (cluster permutation): target "
            f"turns more than previous in blocks 1–2 ({least}), 7–8 ({least}); target turns less "
            f"than previous in blocks 4–5 ({least}).{told}"
        )


def test_a_run_of_one_block_is_told_as_one_block():
    found = compare(turns((0, -3, -3, 0, 0, 4), 1), "angle", "role", "target", "previous")
    (said,) = (x for x in sentences.of_her(found, None, "degrees") if "Runs of" in x)
    assert "target turns more than previous in block 5 (p = " in said
    assert "target turns less than previous in blocks 1–2 (p = " in said


def test_the_error_of_welch_is_told_with_the_rate_that_would_be_right():
    found = compare(turns((4, 4), 1), "angle", "role", "target", "previous")
    rate = found.frame["shuffled_welch_rate"].mean()
    assert (
        "Where labels are shuffled at random there is no effect to find. Welch's test, which takes "
        f"tokens as independent, still finds one in {100 * rate:.1f} % of the shuffles; 5.0 % "
        "would be right."
    ) in sentences.of_her(found, None, "degrees")


def test_the_copy_is_judged_by_pairs_where_the_two_intervals_overlap():
    """Prompts differ widely and in the same way in both models: the pairs tell them apart."""
    random = np.random.default_rng(3)
    wide = np.repeat(random.normal(scale=5, size=12), 6)
    frame, copy = turns((4, 4, 4), 1), turns((3, 3, 3), 2)
    for table in (frame, copy):
        table["angle"] += wide * (table["role"] == "target")
    result = SimpleNamespace(frame=frame, control=SimpleNamespace(frame=copy))
    asked = ("angle", "role", "target", "previous")
    overall = compare(result, *asked, by=())
    row = overall.frame.iloc[0]
    assert row["within_difference_low"] < row["control_within_difference_high"]
    by_role = {
        name: table.pivot_table(index="prompt", columns="role", values="angle")
        for name, table in (("model", frame), ("copy", copy))
    }
    own, other = (t["target"] - t["previous"] for t in (by_role["model"], by_role["copy"]))
    reference = scipy.stats.ttest_rel(own, other)
    interval = reference.confidence_interval()
    assert row["within_difference_minus_control"] == pytest.approx((own - other).mean())
    assert row["within_difference_minus_control_low"] == pytest.approx(interval.low, rel=0.1)
    assert row["within_difference_minus_control_high"] == pytest.approx(interval.high, rel=0.1)
    assert row["contrast_minus_control_p"] < 0.005
    said = sentences.of_her(compare(result, *asked), None, "degrees", overall)
    assert f"The model differs from its copy: {(own - other).mean():+.3g} [" in said[0]
    assert not any("overlap" in sentence for sentence in said)
    shuffled = copy.sample(frac=1, random_state=0)
    again = compare(
        SimpleNamespace(frame=frame, control=SimpleNamespace(frame=shuffled)), *asked, by=()
    ).frame.iloc[0]
    assert again["contrast_minus_control_p"] == row["contrast_minus_control_p"]


def test_headline_says_that_its_mean_hides_blocks_that_go_different_ways():
    said, row = headline((4, -4, 0))
    assert abs(row["within_difference"]) < 1
    assert said.endswith(
        "This mean hides that blocks go different ways: target turns more than previous in "
        "block 0, target turns less than previous in block 1."
    )


def test_one_sentence_counts_blocks_with_and_without_the_correction():
    found = compare(turns((4, 0.3, 0, 0), 1), "angle", "role", "target", "previous")
    low, high = (found.frame[f"shuffled_within_{end}"] for end in ("low", "high"))
    outside = int((~found.frame["within_difference"].between(low, high)).sum())
    assert outside >= 1
    counted = [s for s in sentences.of_her(found, None, "degrees") if " blocks differ" in s]
    assert len(counted) == 1
    assert counted[0].startswith(f"Corrected for their number, {found.differs.sum()} of 4 blocks")
    assert (
        f"; taken one by one, without that correction, {outside} of 4 lie outside what shuffled "
        "labels give in 95 % of cases, where chance alone would put 0.2."
    ) in counted[0]


def test_the_report_begins_with_the_headline(html_report):
    text = html.unescape(html_report)
    answer = re.search(r'<p class="answer">(.*?)</p>', text)[1]
    assert answer.startswith("Averaged over all blocks, angle is ")
    assert "for target than for previous tokens within prompts" in answer


def test_the_rule_by_which_prompts_are_drawn_is_stated(html_report):
    text = html.unescape(html_report)
    assert f"Drawn: the first 3 prompts of {PROMPTS} in the order in which they were given" in text
    assert f"Drawn: the first 2 prompts of {PROMPTS} in the order in which they were given" in text
    assert "Heads: the 4 with the highest mean of each score. Highest mean score" in text


def test_no_rule_is_stated_where_all_prompts_are_drawn(results):
    table = tokens_table()
    table = table[table["prompt"] < 2]
    few = Result("attention", Attention(), results["attention"].state, table)
    assert sentences.of_choice(few, [0, 1]) == []


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
    assert "target turns less than previous in blocks 0–1" in text
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


def test_what_a_sentence_says_is_not_a_note_as_well():
    copy = SimpleNamespace(frame=turns((1, 1, 1), 2), control=None)
    result = SimpleNamespace(frame=turns((4, 4, 4), 1), control=copy)
    asked = ("angle", "role", "target", "previous")
    found, other = compare(result, *asked), compare(opposite(20), *asked)
    for comparison, begins in ((found, "Untrained copy: "), (other, "Caution, ")):
        said = [s for s in sentences.of_her(comparison, None, "degrees") if s.startswith(begins)]
        assert len(said) == 1
        left = set(sentences.not_said(comparison))
        assert left < set(comparison.notes)
        assert not any("untrained copy" in note or "opposite signs" in note for note in left)


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
    assert {f"{a['id']}-data" for a in boxes} == data - {"interp-explorer-data", "dark-colours"}
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
    assert library(html.unescape(inner), "maps").count("var CircuitsVis=") == 1
    assert page.CSP in html.unescape(inner)
    assert not re.search(r'(src|href)="https?:', inner)
    assert "prompt 0, block 1" in repr(maps)


# ---- text and files --------------------------------------------------------------------------


def test_rows_of_the_lens_are_named_as_in_the_explorer(results):
    ticks = result_figure(results["logit_lens"]).layout.yaxis.ticktext
    assert ticks[0] == "input (state 0)"
    assert ticks[-1] == f"after block {LAYERS - 1} (state {LAYERS})"
    assert len(ticks) == LAYERS + 1


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
    subprocess.run([sys.executable, "-c", code], check=True)
