"""Figures of a report in the dark: every colour has a counterpart that can be seen there."""

from __future__ import annotations

import json
import re

import pytest
from render_data import make_results

from interp.render import style

PAPER = "#14181d"
NAMES = re.compile(r"(color|colorscale|colorway)$")


@pytest.fixture(scope="module")
def dark():
    return style.dark_colours()


def luminance(colour: str) -> float:
    """The share of light that `#rrggbb` throws back, by WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    light = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def colours_in(node: object, named: bool = False):
    """The strings under the names of colours, wherever they stand."""
    if isinstance(node, str):
        if named:
            yield node
    elif isinstance(node, list):
        for part in node:
            yield from colours_in(part, named)
    elif isinstance(node, dict):
        for key, part in node.items():
            yield from colours_in(part, named or bool(NAMES.search(key)))


def solid(colour: str) -> str:
    """A colour in small letters, without its opacity."""
    seen = re.fullmatch(r"rgba\((\d+),(\d+),(\d+),[\d.]+\)", colour)
    return "#" + "".join(f"{int(p):02x}" for p in seen.groups()) if seen else colour.lower()


def test_no_figure_of_a_report_keeps_a_light_colour(dark, tmp_path):
    page = make_results().report(tmp_path / "report.html").read_text(encoding="utf-8")
    figures = [json.loads(d) for d in re.findall(r'id="f\d+-data">(.*?)</script>', page)]
    plots = [f for f in figures if "layout" in f]
    found = {solid(c) for f in plots for c in colours_in(f)}
    assert len(plots) > 10
    assert len(found) > 20
    assert found <= set(dark), found - set(dark)
    listed = re.search(r'id="dark-colours">(.*?)</script>', page)
    assert json.loads(listed.group(1)) == dark


def test_lines_and_letters_can_be_seen_in_the_dark(dark):
    assert dark["white"] == PAPER
    for colour in (*style.PALETTE, style.CONTROL):
        assert contrast(dark[colour.lower()], PAPER) >= 4.5, colour
    for colour in (style.INK, style.MUTED):
        assert contrast(dark[colour.lower()], PAPER) >= 7, colour
    assert len({dark[c.lower()] for c in style.PALETTE}) == len(style.PALETTE)


def test_scales_go_from_the_colour_of_the_page_to_light_ones(dark):
    tones = [luminance(dark[c.lower()]) for _, c in style.SEQUENTIAL]
    assert tones == sorted(tones)
    assert contrast(dark[style.SEQUENTIAL[0][1].lower()], PAPER) < 1.2
    both = [luminance(dark[c.lower()]) for _, c in style.DIVERGING]
    assert both[:3] == sorted(both[:3], reverse=True)
    assert both[2:] == sorted(both[2:])


def test_pale_tones_are_mixed_with_the_page(dark):
    pale = style.pale(style.PALETTE[0], 0.5)
    channels = [
        tuple(int(c[i : i + 2], 16) for i in (1, 3, 5))
        for c in (dark[pale], dark[style.PALETTE[0].lower()], PAPER)
    ]
    for mixed, own, paper in zip(*channels, strict=True):
        assert abs(mixed - (own + paper) / 2) <= 0.5
