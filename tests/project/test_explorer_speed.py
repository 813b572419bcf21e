"""The benchmark of the explorer's page: what it takes of its rounds, and what it writes where."""

from __future__ import annotations

import json

import pytest
from browser_help import in_a_browser
from conftest import ROOT

from benchmarks import explorer


@pytest.fixture
def found():
    pressed = {
        view: {"open": [40.0], "next layer": [30.0, 90.0, 31.0], "next token": [20.0, 21.0, 22.0]}
        for view in explorer.VIEWS
    }
    slow = {**pressed, "compare": {"open": [60.0], "next layer": [90.0, 130.0, 70.0, 134.0]}}
    rest = {explorer.FIRST: [700.0, 900.0, 640.0], explorer.STREAM: [30.0, 31.0], "megabytes": 8.24}
    return {
        "date": "2026-01-02",
        "rounds": 3,
        "cores": 2,
        "chromium": "150.0",
        "pages": {
            explorer.MANY: {"pressed": pressed, **rest},
            explorer.LONG: {"pressed": slow, **rest, explorer.FIRST: [1501.0]},
        },
    }


def test_the_slowest_interaction_is_by_its_median_not_by_one_slow_round(found):
    assert explorer.slowest(found["pages"][explorer.MANY]) == (40.0, "trajectory opened")
    assert explorer.slowest(found["pages"][explorer.LONG]) == (110.0, "next layer, compare")


def test_each_limit_is_a_row_with_its_verdict(found):
    text = explorer.section(found)
    assert text.count("| met |") == 4
    assert (
        f"| {explorer.LONG} | slowest interaction (next layer, compare) | ≤ 100 ms | 110 ms "
        "| **missed** |" in text
    )
    assert f"| {explorer.LONG} | first picture | ≤ 1,500 ms | 1,501 ms | **missed** |" in text
    assert f"| {explorer.MANY} | first picture | ≤ 1,500 ms | 700 ms | met |" in text
    assert "Medians of 3 rounds in Chromium 150.0, 2 cores, on 2026-01-02" in text
    assert "8.2 MB (64 prompts of 20 tokens)" in text


def test_the_section_stands_between_its_marks_and_nothing_else_changes(found, tmp_path):
    page = tmp_path / "explorer.md"
    page.write_text(f"# Before\n\n{explorer.BEGIN}old{explorer.END}\n\nAfter\n", encoding="utf-8")
    for _ in range(2):
        explorer.write(found, tmp_path)
        text = page.read_text(encoding="utf-8")
        assert text.startswith("# Before\n\n")
        assert text.endswith(f"{explorer.END}\n\nAfter\n")
        assert text.count("| met |") == 4
        assert "old" not in text
    told = json.loads((tmp_path / "data" / "explorer_speed.json").read_text(encoding="utf-8"))
    assert told == found
    page.write_text("# Without marks\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the marks"):
        explorer.write(found, tmp_path)


def test_the_page_in_the_docs_is_of_the_numbers_beside_it():
    told = json.loads((ROOT / "docs" / "data" / "explorer_speed.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "explorer.md").read_text(encoding="utf-8")
    assert f"{explorer.BEGIN}{explorer.section(told)}{explorer.END}" in text


def test_without_a_browser_nothing_is_measured_and_that_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(explorer.shutil, "which", lambda _: None)
    explorer.main(["--out", str(tmp_path)])
    assert "not measured: the explorer's speed needs" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


class TestInABrowser:
    pytestmark = in_a_browser

    def test_every_view_and_key_is_timed(self, monkeypatch, tmp_path):
        small = {"lengths": [5, 6], "heads": 2, "analyses": ["rotation", "logit_lens"]}
        monkeypatch.setitem(explorer.RUNS, explorer.MANY, {**small, "settings": {}})
        monkeypatch.setattr(explorer, "SHAPE", {**explorer.SHAPE, "layers": 2, "width": 16})
        page = explorer.page_of(explorer.MANY, tmp_path)
        told = explorer.measured(page, 1, explorer._chromium())
        assert set(told["pressed"]) == set(explorer.VIEWS)
        for keys in told["pressed"].values():
            assert set(keys) == {"open", *explorer.KEYS.values()}
            assert all(took > 0 for times in keys.values() for took in times)
        assert len(told[explorer.STREAM]) == 4
        assert told[explorer.FIRST][0] > 0
