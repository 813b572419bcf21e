"""The explorer in a real browser: numbers read off the page against the Parquet rows, after walks
through the selection that a seed decides; and that a page asks for nothing and runs no text.
"""

from __future__ import annotations

import base64
import io
import json
import random
import re
import urllib.parse
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from browser_help import (
    WAIT,
    Visit,
    each_browser,
    in_a_browser,
    launch,
    theme_can_change,
    until,
)
from corpus_help import documents, write_jsonl
from explorer_help import with_ways
from PIL import Image
from render_data import HOSTILE
from scipy import stats

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.rotation import Rotation
from analyses.trajectory import Trajectory
from interp import Result, Results
from interp.runs.explorer.widget import RENDER

pytestmark = in_a_browser
ARCHIVE = Path(__file__).parents[1] / "data" / "saved_by_0.1.0.zip"
VIEWS = ("layers", "lens", "trajectory", "attention", "compare")
READY = "#interp-explorer [role=tab][data-tab=lens]"
NOWHERE = dict.fromkeys(("pc1", "pc2", "pc3", "outside"), np.nan)
NUMBERS = """() => [...document.querySelectorAll("#interp-explorer [data-value]")]
    .map(e => ({...e.dataset}))"""
LENS = """() => [...document.querySelectorAll("[data-lens-token]")].map(e => ({...e.dataset}))"""
WAYS = """() => [...document.querySelectorAll("[data-trajectory-token]")]
    .map(e => ({...e.dataset}))"""


class Truth:
    """A folder of saved results, read with pandas and nothing of the explorer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens = pd.read_parquet(folder / "tokens.parquet")
        self.tokens = self.tokens.sort_values(["prompt", "position"], ignore_index=True)
        self.tables: dict[str, dict[tuple[int, int, int], dict]] = {}

    def row(self, analysis: str, token: int, depth: int, *, control: bool = False) -> dict:
        """The row of a token, by its number on the page."""
        name = f"control/{analysis}" if control else analysis
        if name not in self.tables:
            frame = pd.read_parquet(self.folder / f"{name}.parquet")
            keys = zip(frame["prompt"], frame["position"], frame["layer"], strict=True)
            self.tables[name] = dict(zip(keys, frame.to_dict("records"), strict=True))
        place = self.tokens.iloc[token]
        key = int(place["prompt"]), int(place["position"]), depth
        # Of the ways only those of the first tokens are kept.
        return self.tables[name].get(key, NOWHERE if analysis == "trajectory" else {})


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """A run of an embedded model with everything that the views need, and its folder."""
    chosen = [
        "rotation", "path_length", LogitLens(examples=12), Attention(maps=3), Trajectory(tokens=60),
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("truth") / "out"
    texts = pd.read_parquet(_prompts(tmp_path_factory))["text"].tolist()
    results = interp.run(
        "demo-llama", texts, chosen, target="her", control="random-init", progress=False
    )
    results.save(folder)
    interp.load(folder).explore().save(folder / "explorer.html")
    return Truth(folder)


def _prompts(factory) -> Path:
    path = factory.mktemp("prompts") / "prompts.parquet"
    texts = [
        "Mary was tired, so John told her to sleep.",
        "Leo met her at the river.",
        "The river was old and the road was red.",
        "Anna saw John and John saw her.",
        "her",
        "When the queen was sad, the man gave her a dog.",
    ]
    pd.DataFrame({"text": texts}).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def visit(browser, truth):
    seen = Visit(browser, truth.folder / "explorer.html")
    seen.page.wait_for_selector(READY, timeout=WAIT)
    yield seen
    seen.context.close()


def choose(visit: Visit, **words: object) -> None:
    """A selection by its address, as a bookmark brings it back."""
    visit.page.bring_to_front()  # Firefox tells a window behind others of no focus
    address = urllib.parse.urlencode({"view": "layers", "c": "0", **words})
    visit.follow(f"#explorer?{address}")
    visit.page.evaluate("document.querySelectorAll('.ix-numbers').forEach(d => { d.open = true; })")
    visit.settle()


def same(shown: str, expected: float, where: object) -> None:
    found, expected32 = np.float32(float(shown)), np.float32(expected)
    assert found == expected32 or (np.isnan(found) and np.isnan(expected32)), (where, shown)


def measured(visit: Visit, truth: Truth) -> int:
    """Compares every number of a token on the page with its row; returns how many."""
    checked = 0
    for told in visit.page.evaluate(NUMBERS):
        if "measure" not in told or "token" not in told:
            continue
        analysis, value = told["measure"].split(".")
        token, depth = int(told["token"]), int(told["depth"])
        row = truth.row(analysis, token, depth, control=told.get("control") == "true")
        same(told["value"], row[value], told)
        checked += 1
    return checked


def in_lens(visit: Visit, truth: Truth) -> int:
    """Compares every cell of the lens with the best token and its probability in the table."""
    checked = 0
    for told in visit.page.evaluate(LENS):
        row = truth.row("logit_lens", int(told["lensToken"]), int(told["lensState"]))
        assert told["top"] == row["top_token"], told
        same(told["prob"], row["top_prob"], told)
        checked += 1
    return checked


def on_ways(visit: Visit, truth: Truth) -> int:
    """Compares every point of a way with its coordinates in the table."""
    checked = 0
    for told in visit.page.evaluate(WAYS):
        control = told.get("control") == "true"
        token, state = int(told["trajectoryToken"]), int(told["state"])
        row = truth.row("trajectory", token, state, control=control)
        for axis, column in (("x", "pc1"), ("y", "pc2"), ("z", "pc3")):
            same(told[axis], row[column], told)
        checked += 1
    return checked


def in_attention(visit: Visit, truth: Truth, kept: dict, prompt: int) -> int:
    """Compares every cell and arc with the kept pattern, and every head with its mean."""
    heads = pd.read_parquet(truth.folder / "attention.parquet")
    means = heads[~heads["special"]].groupby(["layer", "head"]).mean(numeric_only=True)
    checked = 0
    for told in visit.page.evaluate(NUMBERS):
        if "head" not in told or told.get("control") == "true":
            continue
        if "statistic" in told:
            block, head = map(int, told["head"].split("."))
            column = told["statistic"].split(".")[1]
            expected = means.loc[(block, head), column]
            np.testing.assert_allclose(float(told["value"]), expected, rtol=1e-5, atol=1e-6)
        elif "query" in told:
            block, head = map(int, told["head"].split("."))
            weight = kept["", block][prompt][head, int(told["query"]), int(told["key"])]
            np.testing.assert_allclose(float(told["value"]), weight, atol=1e-5)
        else:
            continue
        checked += 1
    return checked


# ---- truth -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_numbers_after_a_random_walk_are_those_of_the_rows(visit, truth, seed):
    walk = random.Random(seed)
    patterns = interp.load(truth.folder)["attention"].examples("pattern")
    names = [m["name"] for m in _payload(visit)["measures"]]
    n_states = 2 + max(block for _, block in patterns)
    counts = dict.fromkeys(VIEWS, 0)
    for step in range(12):
        prompt = walk.randrange(6)
        length = int((truth.tokens["prompt"] == prompt).sum())
        tokens = walk.sample(range(length), min(length, walk.randint(1, 3)))
        view = VIEWS[step % len(VIEWS)]
        block, head = walk.randrange(n_states - 1), walk.randrange(4)
        choose(
            visit,
            view=view,
            p=prompt,
            t=",".join(map(str, tokens)),
            s=walk.randrange(n_states),
            m=walk.choice(names),
            h=f"{block}.{head}",
            c=walk.randrange(2),
        )
        for key in walk.choices(["ArrowRight", "ArrowLeft", "]", "[", "Shift+ArrowRight"], k=2):
            visit.page.keyboard.press(key)
        visit.settle()
        counts["layers"] += measured(visit, truth)
        counts["lens"] += in_lens(visit, truth)
        counts["trajectory"] += on_ways(visit, truth)
        counts["attention"] += in_attention(visit, truth, patterns, prompt)
    assert counts["layers"] > 100
    assert counts["lens"] > 30
    assert counts["trajectory"] > 3
    assert counts["attention"] > 30
    assert visit.errors == []
    assert visit.asked() == set()


def _payload(visit: Visit) -> dict:
    text = visit.page.locator("#interp-explorer-data").text_content()
    return json.loads(text)


def test_hovering_shows_the_chosen_measure_and_all_are_shown_on_demand(visit, truth):
    choose(visit, p=0, t=2, m="rotation.angle")
    chip = visit.page.locator("[data-view] [data-token='3'], [data-token='3']").first
    chip.hover()
    tip = visit.page.locator(".ix-tip")
    tip.wait_for(timeout=WAIT)
    shown = "all => all.map(e => ({...e.dataset}))"
    rows = tip.locator("[data-measure][data-value]").evaluate_all(shown)
    assert rows[0]["measure"] == "rotation.angle"
    assert len(rows) <= 5
    assert tip.bounding_box()["height"] < 220
    visit.page.mouse.move(2, 2)
    visit.page.keyboard.press("ArrowRight")
    visit.settle()
    assert tip.count() == 0, "the keyboard's way is not covered"
    every = visit.page.locator(".ix-chosen-values [data-measure][data-value]").evaluate_all(shown)
    assert {r["measure"] for r in every} == {m["name"] for m in _payload(visit)["measures"]}
    assert measured(visit, truth) >= len(every)


INSIDE = "document.querySelector('#interp-explorer').contains(document.activeElement)"
HEAD = "document.querySelector('.ix-view').getBoundingClientRect().top"


@pytest.fixture(scope="module")
def report(truth, tmp_path_factory):
    return interp.load(truth.folder).report(tmp_path_factory.mktemp("report") / "report.html")


@pytest.mark.parametrize("key", "2345")
def test_a_change_of_view_keeps_the_reader_in_it(browser, report, key):
    """From deep in the layers, and from a chart that leaves the page together with its view."""
    seen = Visit(browser, report, 1280, 800)
    seen.page.wait_for_selector(READY, timeout=WAIT)
    chart = seen.page.locator(".ix-small-chart").last
    chart.focus()
    chart.evaluate("e => scrollBy(0, e.getBoundingClientRect().top - 200)")
    seen.settle()
    seen.page.keyboard.press(key)
    seen.settle()
    assert seen.page.evaluate(INSIDE)
    assert 0 < seen.page.evaluate(HEAD) < 640
    tabs = seen.page.locator(".ix-tabs").bounding_box()
    assert 0 <= tabs["y"] < 640
    seen.page.keyboard.press("1")
    seen.settle()
    assert seen.page.locator("[role=tab][aria-selected=true]").inner_text() == "Layers"
    seen.context.close()


@pytest.mark.parametrize("view", ["lens", "compare"])
def test_on_a_phone_a_tab_opens_at_its_head(browser, report, view):
    seen = Visit(browser, report, 390, 800)
    seen.page.wait_for_selector(READY, timeout=WAIT)
    chart = seen.page.locator(".ix-small-chart").last
    chart.evaluate("e => scrollBy(0, e.getBoundingClientRect().top - 300)")
    seen.settle()
    slider = seen.page.locator("[data-depth-slider]").bounding_box()
    assert 0 <= slider["y"] < 100, "the slider of layers stays in reach"
    seen.page.locator(f"[data-tab={view}]").click()
    seen.settle()
    assert 0 < seen.page.evaluate(HEAD) < 640
    seen.context.close()


def test_keys_do_nothing_behind_the_dialog_of_keys(visit):
    choose(visit, p=0, t=2, s=1)
    visit.page.keyboard.press("?")
    visit.page.locator(".ix-help[open]").wait_for(timeout=WAIT)
    for key in ("]", "3", "c"):
        visit.page.keyboard.press(key)
    visit.page.keyboard.press("Escape")
    visit.settle()
    assert visit.page.locator("[data-depth-slider]").input_value() == "1"
    assert visit.page.locator("[data-tab=layers]").get_attribute("aria-selected") == "true"
    visit.page.keyboard.press("]")
    visit.settle()
    assert visit.page.locator("[data-depth-slider]").input_value() == "2"


THEME = "document.querySelector('.ix').dataset.theme"


def test_the_theme_is_the_systems_until_the_reader_chooses(in_the_dark, truth):
    seen = Visit(in_the_dark, truth.folder / "explorer.html", color_scheme="dark")
    seen.page.wait_for_selector(READY, timeout=WAIT)
    until(seen.page, f"{THEME} === 'dark'")
    seen.page.get_by_label("Dark", exact=True).click()
    until(seen.page, f"{THEME} === 'light'")
    seen.page.reload()
    seen.page.wait_for_selector(READY, timeout=WAIT)
    assert seen.page.evaluate(THEME) == "light"
    seen.context.close()


BARS = """() => ["html", ".ix-list", ".ix-chips"].map(where =>
    getComputedStyle(document.querySelector(where)).scrollbarColor)"""


def test_scrollbars_and_the_ground_of_the_page_are_dark_in_the_dark(in_the_dark, truth):
    seen = Visit(in_the_dark, truth.folder / "explorer.html", color_scheme="dark")
    seen.page.wait_for_selector(READY, timeout=WAIT)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert seen.page.evaluate(ground) == "rgb(20, 24, 29)"
    assert set(seen.page.evaluate(BARS)) == {"rgb(107, 118, 130) rgba(0, 0, 0, 0)"}
    seen.page.get_by_label("Dark", exact=True).click()
    assert seen.page.evaluate(ground) == "rgba(0, 0, 0, 0)"
    assert set(seen.page.evaluate(BARS)) == {"rgb(134, 143, 153) rgba(0, 0, 0, 0)"}
    seen.context.close()


def test_a_report_in_the_dark_has_a_dark_explorer(in_the_dark, report):
    seen = Visit(in_the_dark, report, 1280, 800, color_scheme="dark")
    seen.page.wait_for_selector(READY, timeout=WAIT)
    assert seen.page.evaluate(THEME) == "dark"
    assert seen.page.get_by_label("Dark", exact=True).count() == 0
    seen.context.close()


def test_the_explorer_of_a_report_follows_its_theme(browser, report):
    theme_can_change(browser)
    seen = Visit(browser, report, 1280, 800)
    seen.page.wait_for_selector(READY, timeout=WAIT)
    for scheme in ("dark", "light"):
        seen.page.emulate_media(color_scheme=scheme)
        until(seen.page, f"{THEME} === '{scheme}'")
    assert seen.page.get_by_label("Dark", exact=True).count() == 0
    seen.context.close()


def test_compared_groups_are_means_over_prompts(visit, truth):
    for control in (0, 1):
        groups = {"g": "role\u001ftarget", "og": "role\u001fprevious"}
        choose(visit, view="compare", mode="groups", m="rotation.angle", c=control, **groups)
        visit.settle()
        told = visit.page.locator("[data-view=compare] [data-side]").evaluate_all(
            "all => all.map(e => ({...e.dataset}))"
        )
        for side, role in (("a", "target"), ("b", "previous")):
            for of in ("", "control/")[: control + 1]:
                frame = pd.read_parquet(truth.folder / f"{of}rotation.parquet")
                rows = frame[frame["role"].eq(role) & ~frame["special"]]
                means = rows.groupby(["layer", "prompt"])["angle"].mean().unstack(0)
                cells = [t for t in told if t["side"] == side and ("control" in t) == bool(of)]
                assert len(cells) == means.shape[1]
                for cell in cells:
                    own = means[int(cell["depth"])].dropna()
                    half = stats.t.ppf(0.975, len(own) - 1) * stats.sem(own)
                    expected = [own.mean(), own.mean() - half, own.mean() + half]
                    shown = [float(cell[k]) for k in ("value", "low", "high")]
                    np.testing.assert_allclose(shown, expected, rtol=1e-3)


def test_enter_in_the_field_of_compare_takes_the_first_prompt_that_fits(visit):
    choose(visit, view="compare", p=0, mode="prompts", op=1)
    panel = visit.page.locator("[data-view=compare]").first
    field, sides, said = (
        panel.locator(part) for part in ("[data-other]", ".ix-sides", "[role=status]")
    )
    for typed, prompt, text in (
        ("river was old", 2, "The river was old"),
        ("Dog", 5, "When the queen was sad"),
        ("#3", 3, "Anna saw John"),
    ):
        field.fill(typed)
        field.press("Enter")
        field.blur()
        visit.settle()
        assert field.input_value().startswith(f"#{prompt} {text}")
        assert f"prompt {prompt} " in re.sub(r"\s+", " ", sides.inner_text())
        assert said.inner_text() == ""
    field.fill("zebra")
    visit.settle()
    assert said.inner_text() == "No prompt has this text."
    field.press("Enter")
    visit.settle()
    assert "prompt 3 " in re.sub(r"\s+", " ", sides.inner_text()), "nothing was chosen"
    assert said.inner_text() == "No prompt has this text."
    field.blur()
    visit.settle()
    assert field.input_value().startswith("#3 ")
    assert said.inner_text() == ""
    assert visit.page.locator("[role=tab][aria-selected=true]").inner_text() == "Compare"


def test_the_saved_table_of_a_text_has_the_numbers_of_the_rows(visit, truth):
    choose(visit, view="layers", p=1, t="2", s=3)
    panel = visit.page.locator("[data-view=text]").first
    _, data = visit.saved(panel.get_by_role("button", name="CSV").first)
    table = pd.read_csv(io.BytesIO(data), skiprows=2, float_precision="round_trip")
    first = int((truth.tokens["prompt"] == 0).sum())
    checked = 0
    for column in [c for c in table if ", " in c]:
        name, depth = column.split(", ")
        analysis, value = name.split(".")
        # "block 2" of a measure by block, "after block 2 (state 3)" of one by state.
        number = int(re.findall(r"\d+", depth)[-1])
        for i, shown in enumerate(table[column]):
            same(shown, truth.row(analysis, first + i, number)[value], column)
            checked += 1
    assert checked > 100
    expected = truth.tokens.query("prompt == 1")["token"]
    assert [json.loads(t) for t in table["token"]] == expected.tolist()


def test_an_address_brings_the_selection_back(browser, truth, visit):
    choose(visit, view="lens", p=1, t="2,3", s=3, m="path_length.step")
    address = visit.page.evaluate("location.href")
    again = Visit(browser, address)
    again.page.wait_for_selector(READY, timeout=WAIT)
    again.settle()
    for seen in (visit, again):
        lens = seen.page.locator("[role=tab][data-tab=lens]")
        assert lens.get_attribute("aria-selected") == "true"
    first = visit.page.evaluate(LENS)
    assert first == again.page.evaluate(LENS)
    assert len(first) > 0
    assert again.errors == []
    again.context.close()


def test_the_address_keeps_up_with_a_key_that_is_held(browser, truth):
    """Browsers take about 200 changes of an address in ten seconds, and refuse further ones."""
    seen = Visit(browser, truth.folder / "explorer.html")
    seen.page.wait_for_selector(READY, timeout=WAIT)
    choose(seen, p=0, t="2", s=1)
    seen.page.evaluate(
        """() => {
            const press = key => document.body.dispatchEvent(
                new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
            for (let i = 0; i < 150; i++) { press("]"); press("["); }
            for (let i = 0; i < 4; i++) press("]"); }"""
    )
    assert seen.page.locator("[data-depth-slider]").input_value() == "5"
    until(seen.page, "new URLSearchParams(location.hash.split('?')[1]).get('s') === '5'")
    seen.page.reload()
    seen.page.wait_for_selector(READY, timeout=WAIT)
    assert seen.page.locator("[data-depth-slider]").input_value() == "5"
    assert seen.errors == []
    seen.context.close()


def test_back_and_forward_walk_through_what_was_chosen(browser, truth):
    seen = Visit(browser, truth.folder / "explorer.html")
    seen.page.wait_for_selector(READY, timeout=WAIT)
    tab = seen.page.locator("[role=tab][aria-selected=true]")
    for view in ("lens", "compare"):
        seen.page.wait_for_timeout(800)  # longer than what is one step of the history
        seen.page.locator(f"[data-tab={view}]").click()
    for move, shown in (("back", "Lens"), ("back", "Layers"), ("forward", "Lens")):
        seen.page.evaluate(f"history.{move}()")
        tab.get_by_text(shown).wait_for(timeout=WAIT)
    seen.context.close()


def test_a_prompt_that_is_opened_is_not_compared_with_itself(visit):
    choose(visit, view="compare", p=0, mode="prompts")
    sides = visit.page.locator("[data-view=compare] .ix-sides").first
    for prompt, other in ((1, 0), (0, 1), (3, 1), (1, 3)):
        visit.page.locator(f".ix-prompt[data-prompt='{prompt}']").click()
        visit.page.wait_for_timeout(80)
        text = re.sub(r"\s+", " ", sides.inner_text())
        assert re.search(rf"A prompt {prompt} .*B prompt {other} ", text), text


def test_ways_in_three_dimensions_need_no_webgl(without_webgl, truth):
    seen = Visit(without_webgl, truth.folder / "explorer.html")
    seen.page.wait_for_selector(READY, timeout=WAIT)
    choose(seen, view="trajectory", p=0, t="2,3", d=3)
    assert on_ways(seen, truth) > 5
    figure = seen.page.locator("[data-view=trajectory] svg.ix-turn").first
    places = "e => [...e.querySelectorAll('circle')].map(c => c.getAttribute('cx'))"
    before = figure.evaluate(places)
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    seen.page.mouse.move(x, y)
    seen.page.mouse.down()
    seen.page.mouse.move(x + 90, y + 20, steps=4)
    seen.page.mouse.up()
    seen.page.wait_for_timeout(100)
    assert figure.evaluate(places) != before, "dragging turns it"
    assert on_ways(seen, truth) > 5
    assert seen.errors == []
    seen.context.close()


# ---- safety ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A page whose tokens, labels, names and title are all markup."""
    made = with_ways()
    tokens = made.tokens.assign(
        **{HOSTILE[1]: HOSTILE[0], "genre": [HOSTILE[i % 4] for i in range(len(made.tokens))]}
    )
    results = [
        Result(r.name, r.analysis, r.state, tokens, r.strings, r.notes) for r in made.values()
    ]
    model = {**made.provenance["model"], "name": HOSTILE[1]}
    named = Results(results, {**made.provenance, "model": model})
    path = tmp_path_factory.mktemp("hostile") / "explorer.html"
    return named.explore(title=HOSTILE[0] + HOSTILE[1]).save(path)


@pytest.mark.parametrize("view", VIEWS)
def test_hostile_texts_stay_text_in_every_view(browser, hostile, view):
    seen = Visit(browser, hostile)
    seen.page.wait_for_selector(READY, timeout=WAIT)
    for prompt in (0, 1):
        for more in ({}, {"mode": "groups"}, {"mode": "tokens"}, {"a": "rollout"}, {"d": 3}):
            choose(seen, view=view, p=prompt, t="1,2,3", c=1, **more)
    for chip in seen.page.locator("[data-token]:visible").all()[:6]:
        chip.hover()
        seen.settle()
    assert seen.page.evaluate("window.hacked") is None
    inside = seen.page.locator("#interp-explorer")
    assert inside.locator("img[src=x], s, script, b:text-is('bold')").count() == 0
    text = inside.evaluate("e => e.textContent")
    assert "<script>window.hacked" in text
    assert seen.errors == []
    assert seen.asked() == set()
    assert seen.page.title() == HOSTILE[0] + HOSTILE[1]
    seen.context.close()


@pytest.mark.parametrize("view", VIEWS)
def test_exports_hold_the_texts_as_text_under_a_plain_name(browser, hostile, view):
    seen = Visit(browser, hostile)
    seen.page.wait_for_selector(READY, timeout=WAIT)
    choose(seen, view=view, p=1, t="1,2,3")
    panel = seen.page.locator(f"[data-view={view}]").first
    for kind in ("SVG", "CSV", "PNG"):
        name, data = seen.saved(panel.get_by_role("button", name=kind).first)
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,120}", name), name
        if kind == "PNG":
            assert data.startswith(b"\x89PNG")
        elif kind == "SVG":
            tags = {e.tag.rpartition("}")[2] for e in ElementTree.fromstring(data).iter()}  # noqa: S314
            assert not tags & {"script", "img", "foreignObject", "a", "s"}
            assert not re.search(rb"\son\w+=", re.sub(rb">[^<]*<", b"><", data))
        else:
            assert b"SHA-256 0123abcd" in data, "the provenance goes with the numbers"
    assert seen.errors == []
    assert seen.asked() == set()
    seen.context.close()


def test_the_policy_forbids_eval_and_the_page_needs_none(browser, truth):
    seen = Visit(browser, truth.folder / "explorer.html")
    seen.page.wait_for_selector(READY, timeout=WAIT)
    # In a script of the page: what playwright itself evaluates is free of the policy.
    seen.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = `setTimeout(() => {
                try { window.said = eval("1") + new Function("return 2")(); }
                catch (error) { window.said = error.name; } })`;
            document.head.append(script); }"""
    )
    until(seen.page, "window.said")
    assert seen.page.evaluate("window.said") == "EvalError"
    policy = seen.page.locator("meta[http-equiv]").get_attribute("content")
    assert "unsafe-eval" not in policy
    assert "default-src 'none'" in policy
    seen.context.close()


# ---- unusual runs ------------------------------------------------------------------------------


def opened(browser, results, path: Path, **options) -> Visit:
    seen = Visit(browser, results.explore().save(path), **options)
    seen.page.wait_for_selector(READY, timeout=WAIT)
    return seen


def through_all(seen: Visit, **words: object) -> None:
    for view in VIEWS:
        choose(seen, view=view, **words)
        panel = seen.page.locator(f"[data-view={view}]")
        panel.first.wait_for(timeout=WAIT)
        assert panel.first.inner_text().strip()
    assert seen.errors == []
    assert seen.asked() == set()


def test_one_prompt_of_one_token_and_no_control(browser, gpt2, tmp_path):
    names = ["rotation", "logit_lens", "attention", "trajectory"]
    results = interp.run(gpt2, [[5]], names, progress=False)
    seen = opened(browser, results, tmp_path / "one.html")
    through_all(seen)
    seen.context.close()


@pytest.mark.parametrize(
    "options",
    [
        {"analyses": ["attention"]},
        {"analyses": ["logit_lens"]},
        {"analyses": ["trajectory"]},
        {"analyses": ["norm", "attention", "trajectory", "logit_lens"], "layers": [1]},
        {"analyses": ["rotation", "logit_lens", "attention"], "positions": -1},
        {"analyses": ["rotation", "logit_lens", "attention"], "keep": "summary"},
        {"analyses": ["next_token"], "control": "random-init"},
    ],
    ids=lambda options: " ".join(map(str, [*options["analyses"], *list(options)[1:]])),
)
def test_parts_of_a_run_are_shown_as_far_as_they_go(browser, gpt2, tmp_path, options):
    results = interp.run(gpt2, ["the man saw her", "her dog"], progress=False, **options)
    seen = opened(browser, results, tmp_path / "part.html")
    through_all(seen)
    through_all(seen, p=1, c=1, t="1,2")
    seen.context.close()


def test_views_without_data_say_which_command_adds_it(browser, gpt2, tmp_path):
    results = interp.run(gpt2, ["the man"], ["rotation"], progress=False)
    seen = opened(browser, results, tmp_path / "few.html")
    through_all(seen)
    for view, analysis in (("lens", "logit_lens"), ("trajectory", "trajectory")):
        choose(seen, view=view)
        text = seen.page.locator(f"[data-view={view}]").first.inner_text()
        assert f"interp run … --analyses rotation,{analysis}" in text
    seen.context.close()


def test_a_prompt_of_4096_tokens_is_shown(browser, tmp_path):
    n, layers = 4096, 6
    random_ = np.random.default_rng(0)
    tokens = pd.DataFrame(
        {"prompt": 0, "position": np.arange(n), "token": [f" w{i % 97}" for i in range(n)],
         "token_id": np.arange(n), "special": np.arange(n) == 0}
    )  # fmt: skip
    frame = tokens.loc[np.repeat(np.arange(n), layers)].reset_index(drop=True)
    frame["layer"] = np.tile(np.arange(layers), n)
    frame["angle"] = random_.uniform(0, 90, len(frame))
    frame["turning"] = np.nan
    results = Results([Result("rotation", Rotation(), {}, tokens, _frame=frame)], {})
    seen = opened(browser, results, tmp_path / "long.html")
    choose(seen, p=0, t="4000", m="rotation.angle", s=3)
    shown = [t for t in seen.page.evaluate(NUMBERS) if t.get("token") == "4000"]
    assert shown
    for told in shown:
        if told["measure"] == "rotation.angle" and "control" not in told:
            same(told["value"], frame["angle"][4000 * layers + int(told["depth"])], told)
    through_all(seen, p=0, t="4000")
    choose(seen, p=0, t="7", m="rotation.turning")
    numbers = seen.page.evaluate(NUMBERS)
    assert {t["value"] for t in numbers if t.get("measure") == "rotation.turning"} == {"NaN"}
    seen.context.close()


@pytest.fixture(scope="module")
def long_prompt(gpt2, tmp_path_factory):
    """A page with a prompt that is too long for a rectangle per cell, and one of its patterns."""
    ids = np.random.default_rng(3).integers(1, 60, size=(1, 56)).tolist()
    results = interp.run(gpt2, ids, ["attention"], progress=False)
    pattern = next(iter(results["attention"].examples("pattern")["", 1].values()))
    return results.explore().save(tmp_path_factory.mktemp("long") / "long.html"), pattern[0]


PIXELS = {"firefox_user_prefs": {"privacy.resistFingerprinting": True}}


@pytest.fixture(scope="module", params=each_browser()[1:])
def hides_pixels(request, driver):
    """A Firefox that gives pages random pixels in place of what they drew."""
    running = launch(driver, request.param, **PIXELS)
    yield running
    running.close()


def is_the_map_of(pattern: np.ndarray, seen: Visit) -> None:
    """Reads the picture with another library, and compares every tone with its weight."""
    seen.page.wait_for_selector(READY, timeout=WAIT)
    choose(seen, view="attention", p=0, t="3", h="1.0")
    href = seen.page.locator("[data-view=attention] svg image").first.get_attribute("href")
    found = Image.open(io.BytesIO(base64.b64decode(href.partition(",")[2])))
    tones = np.asarray(found).astype(int)
    assert found.mode == "P"
    assert found.info["transparency"] in (0, b"\x00")
    masked = np.triu(np.ones_like(tones, dtype=bool), 1)
    assert (tones[masked] == 0).all()
    assert np.abs(tones - 1 - pattern * 254)[~masked].max() <= 0.51
    assert len(np.unique(tones)) > 20


def test_the_map_of_a_long_prompt_has_the_weights(browser, long_prompt):
    path, pattern = long_prompt
    seen = Visit(browser, path)
    is_the_map_of(pattern, seen)
    assert seen.errors == []
    seen.context.close()


def test_where_pixels_are_hidden_maps_are_right_and_a_png_is_refused(hides_pixels, long_prompt):
    path, pattern = long_prompt
    seen = Visit(hides_pixels, path)
    is_the_map_of(pattern, seen)
    panel = seen.page.locator("[data-view=attention]").first
    panel.get_by_role("button", name="PNG").first.click()
    alert = panel.get_by_role("alert")
    alert.wait_for(timeout=WAIT)
    assert alert.inner_text() == (
        "This browser hides pictures from pages (resistFingerprinting); save the SVG."
    )
    name, data = seen.saved(panel.get_by_role("button", name="SVG").first)
    assert name.endswith(".svg")
    assert b"data:image/png;base64," in data
    seen.context.close()


def test_a_sample_of_corpus_rows_says_what_it_lacks_and_what_adds_it(browser, gpt2, tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(30, longest=6))
    chosen = [Rotation(), LogitLens(examples=1), Attention(maps=1)]
    run = interp.run_corpus(
        gpt2, corpus, chosen, out=tmp_path / "out", keep="tokens", progress=False
    )
    seen = opened(browser, run.open(), tmp_path / "rows.html")
    side = seen.page.locator(".ix-side")
    side.get_by_text("No control here").click()
    seen.settle()
    assert "interp.run_corpus(interp.random_copy(model)" in side.inner_text()
    told = {}
    for view in ("lens", "attention"):
        for prompt in (0, 7):
            choose(seen, view=view, p=prompt)
            told[view, prompt] = seen.page.locator(f"[data-view={view}]").first.inner_text()
    assert "the most probable next token of 5 that were kept" in told["lens", 0]
    assert "the only one that was kept of this prompt" in told["lens", 7]
    assert "--set logit_lens.examples=8" in told["lens", 7]
    assert "was not kept" not in told["attention", 0]
    assert "of prompt 7 was not kept" in told["attention", 7]
    assert "--set attention.maps=8" in told["attention", 7]
    choose(seen, view="lens", p=7, t="2")
    cells = seen.page.evaluate(LENS)
    assert len(cells) > 6
    assert all(0 < float(cell["prob"]) <= 1 for cell in cells)
    through_all(seen, p=7)
    seen.context.close()


def test_results_of_an_older_schema(browser, tmp_path):
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    seen = opened(browser, interp.load(tmp_path / "rows"), tmp_path / "old.html")
    through_all(seen)
    seen.context.close()


def test_two_stacks(browser, tmp_path):
    from conftest import _boot

    results = interp.run(
        _boot("t5"), [[5, 6, 7], [8, 9]], ["rotation", "attention", "trajectory"], progress=False
    )
    seen = opened(browser, results, tmp_path / "stacks.html")
    for prompt in ("0 encoder", "1 decoder"):
        through_all(seen, p=prompt)
    seen.context.close()


@pytest.mark.parametrize("width", [1400, 390])
def test_the_report_holds_the_explorer_and_fits(browser, truth, tmp_path, width):
    path = interp.load(truth.folder).report(tmp_path / "report.html")
    seen = Visit(browser, path, width, 900)
    seen.page.wait_for_selector("#f0 .main-svg", timeout=WAIT)
    seen.page.locator("#explorer").scroll_into_view_if_needed()
    seen.page.wait_for_selector(READY, timeout=WAIT)
    seen.draw_all()
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.errors == []
    assert seen.asked() == set()
    assert path.stat().st_size < 5 * 2**20 or "scatter3d" in path.read_text(encoding="utf-8")
    seen.context.close()


def test_the_frame_of_a_notebook_shows_the_page(browser, truth, tmp_path):
    shown = interp.load(truth.folder).explore(height=700)._repr_html_()
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{shown}", encoding="utf-8")
    seen = Visit(browser, path)
    frame = seen.page.frame_locator("iframe")
    frame.locator("[role=tab][data-tab=lens]").click(timeout=WAIT)
    frame.locator("[data-lens-token]").first.wait_for(timeout=WAIT)
    assert seen.errors == []
    seen.context.close()


def test_several_widgets_in_one_document(browser, truth, tmp_path):
    """What anywidget does with the script of the widget, without a notebook around it."""
    page = interp.load(truth.folder).explore()
    script = page.parts.plain_script + RENDER.replace("export default", "const widget =")
    (tmp_path / "widget.js").write_text(
        f"{script}\nfor (const el of document.querySelectorAll('.cell'))\n"
        "  widget.render({ model: { get: () => structuredClone(payload) }, el });",
        encoding="utf-8",
    )
    (tmp_path / "payload.js").write_text(f"const payload = {page.parts.data};", encoding="utf-8")
    path = tmp_path / "notebook.html"
    path.write_text(
        f"<!doctype html><meta charset=utf-8><style>{page.parts.style}</style>"
        "<div class=cell></div><div class=cell></div>"
        "<script src=payload.js></script><script src=widget.js></script>",
        encoding="utf-8",
    )
    seen = Visit(browser, path)
    for number in (0, 1):
        cell = seen.page.locator(".cell").nth(number)
        cell.locator("[role=tab][data-tab=lens]").click(timeout=WAIT)
        cell.locator("[data-lens-token]").first.wait_for(timeout=WAIT)
    first, second = (seen.page.locator(".cell").nth(i) for i in (0, 1))
    first.locator("[role=tab][data-tab=layers]").click()
    seen.settle()
    assert first.locator("[data-lens-token]").count() == 0
    assert second.locator("[data-lens-token]").count() > 0
    assert seen.errors == []
    seen.context.close()
