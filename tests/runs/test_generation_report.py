"""The report of a generation: texts coloured by a measure, and curves over the steps."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

import interp
from interp.render.draw import figure
from interp.render.drawing import Drawing
from interp.render.page import block
from interp.render.text import text_of
from interp.render.token_text import PALE, colour_of, token_data
from interp.runs.report import generation
from interp.runs.report.generation import generation_section
from interp.runs.written import step_means, written_values

KINDS = ["next_token", "settling", "path_length", "rotation"]
PROMPTS = ["Mary was tired, so John", "The river", "Leo met"]


@pytest.fixture(scope="module")
def demo():
    return interp.load_model("demo-llama")


@pytest.fixture(scope="module")
def results(demo):
    return interp.generate(
        demo, PROMPTS, KINDS, max_new_tokens=6, do_sample=True, samples=2, seed=1, stop=[],
        progress=False,
    )  # fmt: skip


def drawing(values, written=(False, True, True), tokens=("The", " river", "</script>")):
    table = pd.DataFrame({"text": "prompt 0", "token": tokens, "written": written, "value": values})
    return Drawing("tokens", "The texts by entropy", table, "nats", caption="What it is.")


# ---- the kind of drawing -----------------------------------------------------------------------


def test_written_tokens_are_coloured_from_the_lowest_to_the_highest():
    data = token_data(drawing([9.0, 1.0, 3.0]))
    assert data["scale"] == {"low": "1", "high": "3 nats", "colours": ", ".join(PALE)}
    (text,) = data["texts"]
    assert text["name"] == "prompt 0"
    given, low, high = text["tokens"]
    assert given == ["The", False, "", "The: 9 nats"]
    assert low == [" river", True, PALE[0].lower(), "·river: 1 nats"]
    assert high[2] == PALE[-1].lower()
    assert colour_of(2.0, 1.0, 3.0) == PALE[1].lower()


def test_letters_can_be_read_on_every_colour():
    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        parts = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(parts @ [0.2126, 0.7152, 0.0722])

    ink = luminance("#1f2328")
    assert all((luminance(c) + 0.05) / (ink + 0.05) > 7 for c in PALE)  # WCAG 2, AAA


def test_undefined_values_have_no_colour_and_one_value_has_the_middle():
    data = token_data(drawing([np.nan, np.nan, 2.0]))
    assert [piece[2] for piece in data["texts"][0]["tokens"]] == ["", "", PALE[1].lower()]
    none = token_data(drawing([np.nan] * 3))
    assert none["scale"] is None
    assert figure(drawing([np.nan] * 3)).layout.annotations


def test_a_page_has_the_text_as_data_in_which_no_tag_begins():
    made = block("Texts", {"Entropy": drawing([9.0, 1.0, 3.0]), "Other": drawing([1.0, 2.0, 3.0])})
    assert [c.kind for c in made.choices] == ["tokens", "tokens"]
    assert all("<" not in c.data for c in made.choices)
    assert json.loads(made.choices[0].data)["texts"][0]["tokens"][2][0] == "</script>"
    assert "river" in made.choices[0].text


def test_the_same_numbers_are_in_the_figure_and_in_the_text():
    made = figure(drawing([9.0, 1.0, 3.0]))
    assert [None if v != v else v for v in np.ravel(made.data[0].z[0])[:3].tolist()] == [
        None, 1.0, 3.0,
    ]  # fmt: skip
    assert made.layout.coloraxis.cmin == 1.0
    assert made.layout.yaxis.ticktext == ("prompt 0",)
    assert "river" in text_of(drawing([9.0, 1.0, 3.0]))


# ---- the section -------------------------------------------------------------------------------


def test_the_section_has_every_measure_twice(results):
    section = generation_section(results)
    assert section.title == "What the model wrote"
    texts, curves = section.blocks
    names = ["Log-probability", "Entropy", "Settling depth", "Path length"]
    names += ["Angle to the start", "Angular path"]
    assert [c.name for c in texts.choices] == names
    assert [c.name for c in curves.choices] == names
    assert section.findings[0].startswith("6 texts after 3 prompts, 36 tokens; 0 ended by a stop")


def test_the_text_of_the_section_is_the_text_that_was_written(results):
    frame = written_values(results)
    data = json.loads(generation_section(results).blocks[0].choices[0].data)
    assert [t["name"] for t in data["texts"]][:2] == ["prompt 0, sample 0", "prompt 0, sample 1"]
    for number, text in enumerate(data["texts"]):
        own = frame[frame["prompt"] == number]
        written = "".join(token for token, new, *_ in text["tokens"] if new)
        assert written == results.texts["text"][number]
        values = own.loc[own["generated"], "log_prob"]
        said = [piece[3] for piece in text["tokens"] if piece[1]]
        assert [float(s.rsplit(": ", 1)[1].split()[0]) for s in said] == pytest.approx(
            values.tolist(), rel=1e-3
        )


def test_the_curves_are_the_means_over_the_steps(results):
    frame = written_values(results)
    written = (frame["generation_step"] > 0) & ~frame["special"].astype(bool)
    means = step_means(frame[written], ["entropy"])
    choice = next(c for c in generation_section(results).blocks[1].choices if c.name == "Entropy")
    line = next(t for t in json.loads(choice.data)["data"] if t.get("name") == "Entropy")
    assert line["x"] == means["x"].tolist()
    assert line["y"] == pytest.approx(means["mean"].tolist(), rel=1e-3)


def test_a_report_opens_with_the_texts_and_asks_for_nothing(results, tmp_path):
    page = results.report(tmp_path / "report.html").read_text(encoding="utf-8")
    sections = re.findall(r'<section id="([\w-]+)"', page)
    assert sections[0] == "generation"
    assert 'data-kind="tokens" role="group"' in page
    again = interp.load(results.save(tmp_path / "out"))
    assert generation_section(again).blocks[0] == generation_section(results).blocks[0]


def test_other_results_have_no_such_section(demo):
    plain = interp.run(demo, PROMPTS, "norm", progress=False)
    assert generation_section(plain) is None


@pytest.mark.parametrize("options", [{}, {"keep": "summary"}])
def test_texts_without_a_measure_are_shown_without_colour(demo, tmp_path, options):
    results = interp.generate(
        demo, PROMPTS, "norm", max_new_tokens=3, stop=[], progress=False, **options
    )
    section = generation_section(results)
    assert [c.name for c in section.blocks[0].choices] == ["No measure"]
    assert "to colour the text" in section.blocks[0].choices[0].caption
    assert results.report(tmp_path / "report.html").is_file()


def test_many_texts_are_cut_and_that_is_said(results, monkeypatch):
    monkeypatch.setattr(generation, "MOST_TEXTS", 2)
    choice = generation_section(results).blocks[0].choices[0]
    assert choice.caption.endswith("The first 2 of 6 texts are shown.")
    assert len(json.loads(choice.data)["texts"]) == 2
    monkeypatch.setattr(generation, "MOST_TOKENS", 1)
    data = json.loads(generation_section(results).blocks[0].choices[0].data)
    assert len(data["texts"]) == 1
