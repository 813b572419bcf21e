"""What a caller may change in a figure: size, title, colours, legend; and maps as pictures."""

import inspect
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from render_data import make_results

import interp
from interp.errors import BadInput, UnknownName
from interp.render import style
from interp.render.draw import figure as drawn
from interp.render.drawing import Drawing, cell_rows
from interp.render.look import Look
from interp.runs.report.views import name_of


@pytest.fixture(scope="module")
def results():
    return make_results()


def colours_of(figure):
    return {t.name: t.line.color for t in figure.data if t.name and t.line.color}


def test_size_and_title_are_the_callers(results):
    figure = results["rotation"].plot(width=640, height=480, title="Angles <of> mine")
    assert (figure.layout.width, figure.layout.height) == (640, 480)
    assert figure.layout.title.text == "Angles &lt;of&gt; mine"
    assert figure.layout.meta["title"] == "Angles <of> mine"


def test_colours_by_name_reach_line_band_and_label(results):
    figure = results["rotation"].plot("angle", by="role", palette={"target": "#CC0000"})
    before = results["rotation"].plot("angle", by="role")
    assert colours_of(figure)["target"] == "#CC0000"
    old = colours_of(before)["target"]
    others = {n: c for n, c in colours_of(before).items() if n != "target"}
    assert others.items() <= colours_of(figure).items()
    (name,) = [a for a in figure.layout.annotations if a.text == "target"]
    assert name.font.color == "#CC0000"
    bands = [t.fillcolor for t in figure.data if t.fillcolor]
    assert style.alpha("#CC0000", 0.16) in bands
    assert style.alpha(old, 0.16) not in bands


def test_colours_in_order(results):
    figure = results["path_length"].plot(("path", "chord"), palette=["#111111", "#222222"])
    assert list(colours_of(figure).values()) == ["#111111", "#222222"]
    np.testing.assert_array_equal(
        figure.data[-1].y, results["path_length"].plot(("path", "chord")).data[-1].y
    )


def test_heatmaps_take_a_colour_scale(results):
    figure = results["attention"].plot("induction", palette="Viridis")
    scales = [figure.layout.coloraxis.colorscale, *(t.colorscale for t in figure.data)]
    assert any(scale and scale[0][1] == "#440154" for scale in scales)


def test_legend_lists_every_line_and_band_once(results):
    figure = results["rotation"].plot("angle", by="role", legend=True)
    listed = [t.name for t in figure.data if t.showlegend]
    assert len(listed) == len(set(listed))
    roles = {"target", "previous", "random"}
    assert roles | {f"{r}, band" for r in roles} == set(listed)
    assert figure.layout.showlegend
    plain = results["rotation"].plot("angle", by="role")
    assert not any(t.showlegend for t in plain.data if t.name)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"width": 10}, BadInput, "width=10; give pixels, 120 at least"),
        ({"height": "tall"}, BadInput, "height='tall'; give pixels"),
        ({"palette": ["red"]}, BadInput, "palette= has 'red'; give colours as '#RRGGBB'"),
        ({"palette": "viridsi"}, UnknownName, "colour scale 'viridsi'; did you mean 'viridis'"),
        ({"palette": {"targte": "#000000"}}, UnknownName, "line in palette= 'targte'; did you"),
        ({"layer": 1}, BadInput, r"layer= is an option of attention maps: plot\('pattern', layer"),
    ],
)
def test_what_cannot_be_is_refused(results, options, error, text):
    with pytest.raises(error, match=text):
        results["rotation"].plot("angle", by="role", **options)


def test_help_of_plot_lists_its_options():
    said = inspect.getdoc(interp.Result.plot)
    for name in inspect.signature(interp.Result.plot).parameters:
        assert name == "self" or re.search(rf"^ +[\w, ]*\b{name}\b[\w, ]*: ", said, re.MULTILINE)


def test_unknown_prompt_says_what_keeps_it(results):
    text = (
        r"unknown kept prompt '9' .*settings=\{'attention.maps': 10\} \(--set attention.maps=10\)"
    )
    with pytest.raises(UnknownName, match=text):
        results["attention"].plot("pattern", prompt=9)
    text = r"unknown kept prompt '9' .*settings=\{'logit_lens.examples': 10\}"
    with pytest.raises(UnknownName, match=text):
        results["logit_lens"].plot("top_prob", prompt=9)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"heads": [(0, 99)]}, UnknownName, r"unknown head 99 of layer 0 \(known: 0 … 2\)"),
        ({"heads": [(77, 0)]}, UnknownName, "unknown layer in heads= '77'"),
        ({"heads": [1]}, BadInput, r"heads=\[1\] names no layer: pass layer=, or \(layer, head\)"),
        ({"heads": [5], "layer": 1}, UnknownName, "unknown head 5 of layer 1"),
    ],
)
def test_unknown_heads_are_named(results, options, error, text):
    with pytest.raises(error, match=text):
        results["attention"].plot("pattern", **options)


def test_maps_are_pictures_of_the_chosen_heads(results):
    maps = results["attention"].plot("pattern", heads=[(1, 2)], title="One head", width=500)
    figure = maps.figure()
    assert figure.layout.title.text == "One head"
    kept = next(iter(results["attention"].examples("pattern")[("", 1)].values()))
    np.testing.assert_allclose(np.array(figure.data[0].z, dtype=float), kept[2], atol=1e-4)
    assert 'style="width:500px' in maps._repr_html_()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="pictures need a browser")
@pytest.mark.parametrize(("ending", "begins"), [(".png", b"\x89PNG"), (".svg", b"<svg")])
def test_maps_save_as_png_and_svg(results, tmp_path, ending, begins):
    pytest.importorskip("kaleido")
    path = results["attention"].plot("pattern", heads=[(1, 2)]).save(tmp_path / f"maps{ending}")
    assert path.read_bytes().startswith(begins)
    with pytest.raises(BadInput, match="cannot write 'maps.gif': the ending is one of .html, .png"):
        results["attention"].plot("pattern").save(tmp_path / "maps.gif")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/srv/models/gpt2-medium", "gpt2-medium"),
        ("/h/hub/models--openai--gpt2/snapshots/1a2b", "openai/gpt2"),
        ("openai/gpt2", "openai/gpt2"),
        ("demo", "demo"),
    ],
)
def test_titles_have_the_models_name_of(given, shown):
    assert name_of(given) == shown
    made = make_results()
    named = interp.Results([made["rotation"]], {"model": {"name": given}})
    named["rotation"].model = ""
    again = interp.Results([named["rotation"]], {"model": {"name": given}})
    assert again["rotation"].plot().layout.title.text.endswith(f" · {shown}")


def grouped():
    """Lines of three groups with their bands."""
    x = np.arange(7)
    table = pd.concat(
        pd.DataFrame({"value": "v", "group": name, "x": x, "mean": x + i / 9, "n": 5})
        for i, name in enumerate(("one", "two", "three"))
    ).assign(low=lambda t: t["mean"] - 1, high=lambda t: t["mean"] + 1)
    caption = "Means over 220 tokens of 12 prompts. " * 3
    return drawn(Drawing("lines", "Title", table, "logit difference, nats", "state", caption))


@pytest.mark.parametrize("height", [300, 450])
def test_a_legend_stands_below_the_axis_and_the_axis_title_within_its_axis(height):
    figure = Look(width=700, height=height, legend=True).on(grouped())
    layout, margin = figure.layout, figure.layout.margin
    assert (layout.legend.yref, layout.legend.y, layout.legend.yanchor) == (
        "container",
        0,
        "bottom",
    )
    # Six entries of at most 18 letters: two rows, below 56 pixels of ticks and axis title.
    assert margin.b >= 56 + 2 * 20
    plot = height - margin.t - margin.b
    assert plot > 60
    assert max(map(len, layout.yaxis.title.text.split("<br>"))) * 7 <= max(plot, 11 * 7)
    ends = [note for note in layout.annotations if note.x == 1]
    low, high = layout.yaxis.range
    places = sorted((note.y - low) / (high - low) * plot + note.yshift for note in ends)
    assert min(np.diff(places)) >= 15


def cells(columns, texts=True):
    rows = pd.DataFrame(np.full((3, columns), 0.5))
    table = cell_rows(rows).assign(hover="all of it")
    if texts:
        table["text"] = ["<b>&lt;wonder</b>", "·a", "·longer"] * columns
    return drawn(Drawing("heat", "T", table, "p", "x"))


def test_texts_of_cells_get_smaller_then_shorter_and_give_way_where_they_do_not_fit():
    usual = Look(width=900).on(cells(9)).data[0]
    assert usual.text[0][0] == "<b>&lt;wonder</b>"
    assert usual.textfont.size == 11.5
    smaller = Look(width=600).on(cells(9)).data[0]
    assert smaller.text[0][0] == "<b>&lt;wonder</b>"
    assert 8 <= smaller.textfont.size < 11.5
    shorter = Look(width=600).on(cells(15)).data[0]
    assert list(shorter.text[0][:2]) == ["<b>&lt;won…</b>", "·a"]
    assert shorter.textfont.size == 8
    none = Look(width=600).on(cells(24)).data[0]
    assert none.texttemplate is None
    assert none.customdata[0][0] == "all of it"
    assert cells(9).data[0].textfont.size == 11.5


def test_numbers_of_cells_give_way_where_they_do_not_fit():
    assert Look(width=700).on(cells(12, texts=False)).data[0].texttemplate
    assert Look(width=400).on(cells(12, texts=False)).data[0].texttemplate is None
