"""The report in a real browser, from disk and without a network."""

from __future__ import annotations

import json
import re

import pytest
from browser_help import WAIT, WEBGL, Visit, eventually, in_a_browser, theme_can_change, until
from render_data import HOSTILE, make_results

from interp import Results
from interp.render.export import save_figure
from interp.render.page import PARTIAL_TRACES, PARTIAL_VERSION
from interp.runs.report.drawings import result_figure
from interp.runs.report.maps import attention_maps

pytestmark = in_a_browser


@pytest.fixture(scope="module")
def results():
    return make_results()


@pytest.fixture(scope="module")
def report_path(results, tmp_path_factory):
    return results.report(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def visit(browser, report_path):
    seen = Visit(browser, report_path)
    yield seen
    seen.context.close()


PAINTED = """canvas => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const colours = new Set();
    for (let i = 0; i < pixels.length; i += 4 * 97) {
        colours.add(pixels[i] + "," + pixels[i + 1] + "," + pixels[i + 2]);
    }
    return colours.size;
}"""


def painted(seen: Visit, box) -> None:
    """Waits until the last map of a box has colours: they come some time after its canvas."""
    last = box.locator("canvas").last
    last.wait_for(timeout=WAIT)
    eventually(seen.page, lambda: last.evaluate(PAINTED) > 8, "the map is empty")


def test_first_figure_comes_with_the_text(browser, report_path):
    seen = Visit(browser, report_path)
    first = seen.page.wait_for_selector("#f0 .main-svg", timeout=WAIT)
    assert first.is_visible()
    assert seen.page.locator("h1").is_visible()
    # The maps' library waits until a map is near the screen.
    assert seen.page.evaluate("typeof Plotly === 'object' && typeof CircuitsVis === 'undefined'")
    seen.context.close()


def test_the_smaller_bundle_of_plotly_has_every_kind_of_trace(visit):
    visit.page.wait_for_selector("#f0 .main-svg", timeout=WAIT)
    kinds = set(visit.page.evaluate("Object.keys(Plotly.PlotSchema.get().traces)"))
    whole = "scatter3d" in kinds  # the page has ways in three dimensions
    assert kinds >= PARTIAL_TRACES
    assert visit.page.evaluate("Plotly.version") == PARTIAL_VERSION or whole


def test_a_page_without_three_dimensions_has_the_smaller_bundle(browser, results, tmp_path):
    few = Results([results[n] for n in ("rotation", "logit_lens")], results.provenance)
    seen = Visit(browser, few.report(tmp_path / "few.html"))
    seen.draw_all()
    kinds = set(seen.page.evaluate("Object.keys(Plotly.PlotSchema.get().traces)"))
    assert kinds >= PARTIAL_TRACES
    assert "scatter3d" not in kinds
    assert seen.page.evaluate("Plotly.version") == PARTIAL_VERSION
    assert seen.errors == []
    seen.context.close()


def test_every_figure_is_drawn_without_an_error_or_a_request(visit):
    visit.draw_all()
    undrawn = visit.page.get_by_text("could not be drawn").count()
    assert undrawn == 0
    assert visit.errors == []
    assert visit.asked() == set()


def test_attention_maps_are_painted_and_change_on_demand(visit):
    box = visit.page.locator(".canvas[data-kind=maps]:visible").first
    box.scroll_into_view_if_needed()
    painted(visit, box)
    select = visit.page.locator("figure:has(.canvas[data-kind=maps]) select")
    select.select_option(label="prompt 1, block 2")
    chosen = visit.page.locator(".canvas[data-kind=maps]:visible")
    painted(visit, chosen)
    assert chosen.count() == 1
    assert "L2H0" in chosen.inner_text()


def test_hostile_tokens_are_text(visit):
    visit.draw_all()
    assert visit.page.evaluate("window.hacked") is None
    figure = visit.page.locator("figure:has-text('token that the model would predict')")
    figure.locator("select").select_option(index=2)
    figure.locator(".canvas:visible .main-svg").first.wait_for(timeout=WAIT)
    ticks = figure.locator(".xtick text").evaluate_all("all => all.map(e => e.textContent)")
    assert {"<s>", "<!--", "↵", "<b>bold", "&lt;&amp;", "·her"} <= set(ticks)
    cells = visit.page.locator("td.token").evaluate_all("all => all.map(e => e.textContent)")
    assert {HOSTILE[1], "<s>", "<!--", "↵", "·her"} <= set(cells)
    numbers = visit.page.locator("pre").evaluate_all("all => all.map(e => e.textContent).join()")
    assert HOSTILE[0] in numbers
    assert visit.page.locator("main img, main s").count() == 0


def test_hover_shows_top_tokens_as_text(visit):
    figure = visit.page.locator("figure:has-text('token that the model would predict')")
    visit.draw_all()  # what is drawn later moves nothing away from the pointer
    figure.scroll_into_view_if_needed()
    visit.settle()
    figure.locator(".canvas:visible .nsewdrag").hover(position={"x": 30, "y": 12})
    hover = figure.locator(".canvas:visible .hoverlayer .hovertext")
    hover.wait_for(timeout=WAIT)
    text = hover.evaluate("e => e.textContent")
    assert re.match(r"after block \d+ \(state \d+\), position 0: ", text)
    assert "<|endoftext|>" in text


def test_choosing_a_label_draws_its_lines(visit):
    section = visit.page.locator("#analysis-rotation")
    section.locator("select").first.select_option(label="by role")
    figure = section.locator("figure").first
    figure.locator(".canvas:visible .main-svg").first.wait_for(timeout=WAIT)
    assert {"target", "previous", "random"} <= set(
        figure.locator(".canvas:visible .annotation-text").evaluate_all(
            "all => all.map(e => e.textContent)"
        )
    )


# Panes whose content goes on beyond their right edge, and whether a line that can be seen says so.
CUT = """() => [...document.querySelectorAll(".scroll, .table")]
    .filter(pane => pane.offsetParent !== null && pane.scrollWidth - pane.clientWidth > 2)
    .map(pane => [pane.classList.contains("more"), pane.nextElementSibling.offsetHeight > 0])"""


@pytest.mark.parametrize("width", [1400, 1280, 1000, 390])
def test_nothing_is_cut_at_the_right_edge_without_a_word(browser, report_path, width):
    seen = Visit(browser, report_path, width, 900)
    seen.page.wait_for_selector("#f0 .main-svg", timeout=WAIT)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    seen.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    seen.settle()
    eventually(seen.page, lambda: all(marked and told for marked, told in seen.page.evaluate(CUT)))
    lens = seen.page.locator("figure:has-text('token that the model would predict')")
    inside = lens.locator(".scroll:visible").evaluate("e => e.scrollWidth <= e.clientWidth")
    assert inside == (width >= 700), "nine tokens fit where there is room for them"
    seen.context.close()


def test_the_word_goes_when_the_end_is_reached(browser, report_path):
    seen = Visit(browser, report_path, 390, 844)
    seen.draw_all()
    number = seen.page.evaluate(
        """() => [...document.querySelectorAll(".scroll")].findIndex(
            pane => pane.offsetParent !== null && pane.classList.contains("more"))"""
    )
    pane = seen.page.locator(".scroll").nth(number)
    word = seen.page.locator(".scroll + .beyond").nth(number)
    assert word.is_visible()
    pane.evaluate("e => { e.scrollLeft = e.scrollWidth; }")
    word.wait_for(state="hidden", timeout=WAIT)
    seen.context.close()


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_the_first_screen_has_the_answer_and_its_picture(browser, report_path, width, height):
    seen = Visit(browser, report_path, width, height)
    seen.page.wait_for_selector("#f0 .main-svg", timeout=WAIT)
    answer = seen.page.locator(".answer").first.bounding_box()
    assert answer["y"] + answer["height"] < height / 2
    picture = seen.page.locator("#f0 .main-svg").first.bounding_box()
    assert answer["y"] < picture["y"] < height * 0.75, "the axes begin on the first screen"
    assert picture["x"] >= 0
    assert picture["x"] + picture["width"] <= width
    seen.context.close()


@pytest.mark.parametrize(("width", "in_legend"), [(390, True), (1280, False)])
def test_names_of_lines_are_seen_at_every_width(browser, report_path, width, in_legend):
    seen = Visit(browser, report_path, width, 900)
    seen.page.wait_for_selector("#f0 .main-svg", timeout=WAIT)
    legend = set(seen.page.locator("#f0 .legendtext").all_text_contents())
    assert ({"target", "previous"} <= legend) == in_legend
    notes = set(seen.page.locator("#f0 .annotation-text").all_text_contents())
    assert ({"target", "previous"} <= notes) != in_legend
    seen.context.close()


@pytest.mark.parametrize(("width", "there"), [(390, False), (1280, True)])
def test_buttons_do_not_lie_on_the_legend_of_a_narrow_screen(browser, report_path, width, there):
    seen = Visit(browser, report_path, width, 900)
    box = seen.page.wait_for_selector("#f0 .main-svg", timeout=WAIT)
    box.hover()
    assert (seen.page.locator("#f0 .modebar-btn").count() > 0) == there
    seen.context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_titles_of_axes_are_whole(browser, report_path, width):
    """Also the long one of the states of a lens."""
    seen = Visit(browser, report_path, width, 900)
    seen.draw_all()
    title = seen.page.locator(".xtitle", has_text="enters the first block").first
    title.scroll_into_view_if_needed()
    own = title.bounding_box()
    around = title.locator("xpath=ancestor::div[contains(@class, 'canvas')]").bounding_box()
    assert own["x"] >= around["x"] - 1
    assert own["x"] + own["width"] <= around["x"] + around["width"] + 1
    seen.context.close()


def test_one_figure_as_a_file(browser, results, tmp_path):
    path = save_figure(result_figure(results["logit_lens"]), tmp_path / "lens.html")
    seen = Visit(browser, path)
    seen.draw_all()
    assert seen.errors == []
    assert seen.asked() == set()
    seen.context.close()


def test_maps_of_a_notebook_draw_in_their_frame(browser, results, tmp_path):
    shown = attention_maps(results["attention"], prompt=0, layer=1)._repr_html_()
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{shown}", encoding="utf-8")
    seen = Visit(browser, path)
    frame = seen.page.frame_locator("iframe")
    painted(seen, frame)
    assert seen.errors == []
    seen.context.close()


@pytest.fixture(scope="module")
def ways(results, tmp_path_factory):
    """A page with ways along three axes, the id of their figure, and the figure."""
    few = Results([results["third_party"]], results.provenance)
    path = few.report(tmp_path_factory.mktemp("ways") / "report.html")
    text = path.read_text(encoding="utf-8")
    told = dict(re.findall(r'id="(f\d+)-data">(.*?)</script>', text))
    name = next(name for name, data in told.items() if "scatter3d" in data)
    return path, name, json.loads(told[name])


def test_without_webgl_ways_are_drawn_on_two_axes_and_that_is_said(without_webgl, ways):
    path, name, figure = ways
    seen = Visit(without_webgl, path)
    seen.page.locator(f"#{name}").scroll_into_view_if_needed()
    seen.page.wait_for_selector(f"#{name} .scatterlayer .js-line", timeout=WAIT)
    text = seen.page.locator("main").inner_text()
    assert "This browser has no WebGL, so the first two of the three axes are shown." in text
    assert "get.webgl.org" not in text
    first = f"document.querySelector('#{name}')._fullData.map(t => [t.x[0], t.y[0]])"
    assert seen.page.evaluate(first) == [[t["x"][0], t["y"][0]] for t in figure["data"]]
    scene = figure["layout"]["scene"]
    for axis in "xy":
        title = seen.page.locator(f"#{name} .{axis}title").text_content()
        assert title == scene[f"{axis}axis"]["title"]["text"]
    assert seen.errors == []
    seen.context.close()


def test_with_webgl_ways_are_drawn_along_three_axes(browser, ways):
    path, name, _ = ways
    seen = Visit(browser, path)
    if not seen.page.evaluate(WEBGL):
        pytest.skip("this browser has no WebGL here: no graphics card and no software for one")
    seen.page.locator(f"#{name}").scroll_into_view_if_needed()
    seen.page.wait_for_selector(f"#{name} .gl-container canvas", timeout=WAIT, state="attached")
    solid = f"document.querySelector('#{name}')._fullData.every(t => t.type === 'scatter3d')"
    assert seen.page.evaluate(solid)
    assert "no WebGL" not in seen.page.locator("main").inner_text()
    assert seen.errors == []
    seen.context.close()


def test_a_choice_fits_its_figure_after_the_page_is_loaded_again(browser, report_path):
    """Browsers fill in again what was chosen in a form; the page would still show the first."""
    seen = Visit(browser, report_path)
    seen.page.wait_for_selector("#f0 .main-svg", timeout=WAIT)
    for _ in range(2):
        shown = seen.page.evaluate(
            """() => [...document.querySelectorAll("select.choose")].map(select =>
                [...select.options].every(o => document.getElementById(o.value + "-choice").hidden
                    === (o.value !== select.value)))"""
        )
        assert len(shown) > 2
        assert all(shown)
        for select in seen.page.locator("select.choose").all():
            select.select_option(index=1)
        seen.page.reload()
        seen.page.wait_for_selector("#f0 .main-svg", timeout=WAIT)
    seen.context.close()


# ---- dark and light ----------------------------------------------------------------------------

PAPERS = """() => [document.body, document.querySelector("#f0 .main-svg")]
    .map(e => getComputedStyle(e).backgroundColor)"""
INKS = """() => [...document.querySelectorAll("#f0 .xtick text, #f0 .ytitle, #f0 .js-line")]
    .filter(e => e.matches("text") || parseFloat(getComputedStyle(e).strokeWidth) > 1)
    .map(e => getComputedStyle(e)[e.matches("text") ? "fill" : "stroke"])"""
DARK, LIGHT = "rgb(20, 24, 29)", "rgb(255, 255, 255)"


def luminance(colour: str) -> float:
    parts = [int(p) / 255 for p in re.findall(r"\d+", colour)[:3]]
    light = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]


def painted_on(seen: Visit, paper: str) -> None:
    """Waits until page and first figure have a colour, and looks whether its ink can be read."""
    until(seen.page, f"({PAPERS})().every(c => c === '{paper}')")
    inks = seen.page.evaluate(INKS)
    assert len(inks) > 4
    for ink in inks:
        low, high = sorted((luminance(ink), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 3, (ink, paper)


def test_a_report_in_the_dark_is_dark_and_paper_is_light(in_the_dark, report_path):
    seen = Visit(in_the_dark, report_path, color_scheme="dark")
    seen.page.wait_for_selector("#f0 .main-svg", timeout=WAIT)
    painted_on(seen, DARK)
    seen.draw_all()
    seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    until(seen.page, f"({PAPERS})()[1] === '{LIGHT}'")
    seen.page.evaluate("dispatchEvent(new Event('afterprint'))")
    painted_on(seen, DARK)
    assert seen.errors == []
    seen.context.close()


def test_a_report_follows_the_system(browser, report_path):
    theme_can_change(browser)
    seen = Visit(browser, report_path, color_scheme="dark")
    seen.page.wait_for_selector("#f0 .main-svg", timeout=WAIT)
    painted_on(seen, DARK)
    texts = seen.page.locator("#f0 text").all_text_contents()
    for _ in range(4):  # while other figures are drawn, which look at the theme as well
        seen.page.emulate_media(color_scheme="light")
        painted_on(seen, LIGHT)
        assert seen.page.locator("#f0 text").all_text_contents() == texts
        seen.page.emulate_media(color_scheme="dark")
        painted_on(seen, DARK)
    seen.context.close()


def test_maps_stand_on_a_light_ground_in_the_dark(in_the_dark, report_path):
    seen = Visit(in_the_dark, report_path, color_scheme="dark")
    box = seen.page.locator(".canvas[data-kind=maps]:visible").first
    box.scroll_into_view_if_needed()
    box.locator("canvas").last.wait_for(timeout=WAIT)
    look = "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
    assert box.evaluate(look) == [LIGHT, "rgb(31, 35, 40)"]
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 1400
    seen.context.close()


def test_one_figure_stays_light_for_a_light_notebook(in_the_dark, results, tmp_path):
    path = save_figure(result_figure(results["rotation"]), tmp_path / "rotation.html")
    seen = Visit(in_the_dark, path, color_scheme="dark")
    seen.page.wait_for_selector("#f0 .main-svg", timeout=WAIT)
    painted_on(seen, LIGHT)
    seen.context.close()


# ---- texts that a model wrote --------------------------------------------------------------------


@pytest.fixture(scope="module")
def written_path(tmp_path_factory):
    import interp

    results = interp.generate(
        "demo-llama", ["Mary was tired, so John", "The river"], ["next_token", "settling"],
        max_new_tokens=8, stop=[], progress=False,
    )  # fmt: skip
    path = results.report(tmp_path_factory.mktemp("written") / "report.html")
    return path, results.texts["text"].tolist()


@pytest.mark.parametrize("width", [1280, 390])
def test_texts_flow_coloured_and_can_be_chosen(browser, written_path, width):
    path, texts = written_path
    seen = Visit(browser, path, width=width)
    page = seen.page
    page.wait_for_selector(".running", timeout=WAIT)
    shown = page.eval_on_selector_all(
        ".canvas:visible .running",
        "all => all.map(p => [...p.querySelectorAll('.written')].map(s => s.textContent).join(''))",
    )
    assert shown == texts
    colours = "all => new Set(all.map(s => s.style.background)).size"
    assert page.eval_on_selector_all(".canvas:visible .written", colours) > 3
    assert page.eval_on_selector_all(
        ".canvas:visible .given", "all => all.every(s => !s.style.background)"
    )
    page.select_option("#generation select.choose >> nth=0", label="Settling depth")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.scale')].some(s => s.offsetParent && "
        "s.textContent.includes('state'))",
        timeout=WAIT,
    )
    box = page.locator(".running:visible").first.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in seen.requests)
    seen.context.close()
