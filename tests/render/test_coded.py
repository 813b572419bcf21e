"""Names of columns stand in sentences as code, and are escaped like all else."""

from __future__ import annotations

import re

import pandas as pd
import pytest

import interp
from interp.render.drawing import Drawing
from interp.render.finding import Answer
from interp.render.page import block, numbered
from interp.render.tokens import coded

RAW = re.compile(r"(?<![\w<>/\"'#.=-])[a-z]{3,}(?:_[a-z]+)+(?![\w/.])")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("mean_cosine is 0.3", "<code>mean_cosine</code> is 0.3"),
        ("(p_max < 0.05)", "(<code>p_max</code> &lt; 0.05)"),
        ("x_l, W_U and d_z", "x_l, W_U and d_z"),
        ("read out/my_run and my_file.csv", "read out/my_run and my_file.csv"),
        ("interp.stats.within_range does", "interp.stats.within_range does"),
        ("the token '<b>_x'", "the token &#x27;&lt;b&gt;_x&#x27;"),
        ("kl_top_1, tv_to_final.", "<code>kl_top_1</code>, <code>tv_to_final</code>."),
    ],
)
def test_names_are_code_and_symbols_are_not(text, html):
    assert coded(text) == html


def page_of(finding):
    """What a reader sees of a page as text: without scripts, code, tables and headings."""
    page = re.sub(
        r"<(script|style|code|table|pre|select|dl|h1|h2|h3|summary)\b.*?</\1>",
        "",
        finding,
        flags=re.DOTALL,
    )
    return re.sub(r"<[^>]+>", " ", page.partition('id="provenance"')[0].partition("<main>")[2])


def test_no_raw_name_stands_in_the_sentences_of_a_finding():
    frame = pd.DataFrame({"layer": [0, 1], "mean_cosine": [0.1, 0.2]})
    rows = frame.assign(value="mean_cosine", group="", x=frame["layer"], mean=[0.1, 0.2], n=3)
    drawing = Drawing(
        "lines",
        "Cosines",
        rows.assign(low=0.0, high=0.3),
        "cosine",
        "layer",
        "Means of mean_cosine.",
        if_null="mean_cosine would be 0.",
    )
    said = "mean_cosine rises; random_cosine does not"
    found = Answer("answer", frame, said, {"Cosines": drawing}, notes=("see tv_to_final",))
    page = found.page()
    for name in ("mean_cosine", "random_cosine", "tv_to_final"):
        assert f"<code>{name}</code>" in page
    assert RAW.findall(page_of(page)) == []
    assert "<code>tv_to_final</code>" in found._repr_html_()
    assert numbered([block("Cosines", drawing)])[0].if_null == "mean_cosine would be 0."


def test_no_raw_name_stands_in_the_prose_of_a_report(tmp_path):
    analyses = ["path_length", "logit_lens", "next_token", "attention"]
    results = interp.run("demo", "her", analyses, target="her", progress=False)
    page = results.report(tmp_path / "report.html").read_text("utf-8")
    assert "<code>" in page
    assert RAW.findall(page_of(page)) == []
