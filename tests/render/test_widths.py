"""Tables and sentences in a terminal of a given width, and means that mix no kinds of rows."""

from __future__ import annotations

import io
import re
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from render_data import make_results, random_pairs, rotation, tokens_table
from rich.console import Console

from interp import Results, compare
from interp.render.columns import filled, fixed
from interp.runs.report.means import group_means
from interp.runs.report.sections import columns_of

cli = import_module("interp.cli.app")  # the package has the application under that name
MODULES = [import_module(f"interp.cli.{name}") for name in ("app", "inspect", "get", "run")]
list_registered = MODULES[1].list_registered


@pytest.fixture(scope="module")
def results():
    return make_results()


def wide(rows=3, columns=12):
    values = np.arange(rows * columns, dtype=float).reshape(rows, columns) / 7
    table = pd.DataFrame(values, columns=[f"a_long_column_{i}" for i in range(columns)])
    table.insert(0, "layer", range(rows))
    return table


def cells(text):
    return text.replace("\n", " ").split()


def test_a_wide_table_goes_on_below_with_its_first_column():
    table = wide()
    text = fixed(table, 80)
    assert max(map(len, text.split("\n"))) <= 80
    blocks = text.split("\n\n")
    assert len(blocks) == 3
    assert all(block.split()[0] == "layer" for block in blocks)
    # Nothing is lost: every name and number of the whole table is there.
    for name in table:
        assert name in cells(text)
        assert {f"{x:.4g}" for x in table[name]} <= set(cells(text))


def test_rows_are_told_apart_by_as_many_columns_as_it_takes():
    table = wide(4).assign(layer=[0, 0, 1, 1])
    table.insert(1, "head", [0, 1, 0, 1])
    for block in fixed(table, 60).split("\n\n"):
        assert block.split()[:2] == ["layer", "head"]


def test_a_table_that_fits_stays_as_it_was():
    table = wide(columns=2)
    assert cells(fixed(table, 80)) == cells(fixed(table))
    assert "\n\n" not in fixed(table, 80)
    assert fixed(table.iloc[:0], 80) == "(no rows)"


def test_a_text_that_is_too_long_is_cut_and_that_is_said():
    table = pd.DataFrame({"layer": [0, 1], "said": ["word " * 40, "short"], "x": [1.0, 2.0]})
    text = fixed(table, 60)
    assert max(map(len, text.split("\n"))) <= 60
    assert text.endswith("… marks texts that were cut to the width of the terminal")
    assert "cut" not in fixed(table.assign(said="short"), 60)


def test_sentences_break_between_words():
    text = filled("note: " + "a few words and /a/very/long/path/" + "x" * 90, 40)
    first, *rest = text.split("\n")
    assert len(first) <= 40
    assert rest[-1].startswith("/a/very"), "a path stays whole, to be copied"
    assert filled("a b " * 50) == "a b " * 50


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_comparison_fits_a_terminal(results, width):
    found = compare(results["rotation"], "angle", "role", "target", "previous", resamples=50)
    text = found.text(width)
    assert max(map(len, text.split("\n"))) <= width
    for name in found.short:
        assert name in cells(text)
    assert "columns (.frame in Python" in " ".join(cells(text)), "what is left out is said"
    assert repr(found) == found.text()


def printed(monkeypatch, width, action):
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, no_color=True)
    for module in MODULES:
        monkeypatch.setattr(module, "out", console)
    action()
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())


def test_a_terminal_gets_its_width_and_a_pipe_the_whole_lines(monkeypatch, results):
    found = compare(results["rotation"], "angle", "role", "target", "previous", resamples=50)
    seen = printed(monkeypatch, 80, lambda: cli.deliver(found, None, False, False))
    assert max(map(len, seen.split("\n"))) <= 80
    monkeypatch.undo()
    stream = io.StringIO()
    monkeypatch.setattr(cli, "out", Console(file=stream, width=80))
    cli.deliver(found, None, False, False)
    assert max(map(len, stream.getvalue().split("\n"))) > 80


def test_the_list_of_analyses_is_read_in_80_columns(monkeypatch):
    seen = printed(monkeypatch, 80, lambda: list_registered(_quiet=False, as_json=False))
    assert max(map(len, seen.split("\n"))) <= 80
    assert "not shown in 80 columns: sites, package (--json has all)" in seen
    assert "unembedding_spectrum" in seen
    # A cell of one word per line, as five columns gave, is not read.
    assert len(seen.split("\n")) < 150
    broad = printed(monkeypatch, 160, lambda: list_registered(_quiet=False, as_json=False))
    assert "interp-stream" in broad
    assert "not shown" not in broad


# ---- means -----------------------------------------------------------------------------------


def test_pairs_within_a_layer_and_across_layers_have_a_mean_each():
    result = random_pairs(tokens_table())
    frame = result.frame
    told = group_means(result)
    assert told == [
        f"angle ({kind}) {frame[frame['kind'] == kind]['angle'].mean():.3g}"
        for kind in ("same layer", "any layers")
    ]
    table = columns_of(result)
    names = [row[0] for row in table.rows]
    assert names[:2] == ["angle, same layer", "angle, any layers"]
    across = frame[frame["kind"] == "any layers"]["angle"].mean()
    assert table.rows[1][2] == f"{across:.4g}"


def test_a_run_prints_the_means_of_each_kind(monkeypatch):
    results = Results([random_pairs(tokens_table()), rotation(tokens_table())], {})
    seen = printed(monkeypatch, 100, lambda: cli.finish(results, [], False))
    assert "angle (same layer) " in seen
    assert "angle (any layers) " in seen
    assert "means, without special tokens" in seen


def test_a_summary_has_the_mean_of_each_value_by_its_tokens(gpt2):
    import torch

    from interp import run

    ids = torch.tensor([[3, 9, 4, 1], [2, 6, 5, 3]])
    rows = run(gpt2, ids, "path_length", progress=False)["path_length"]
    summary = run(gpt2, ids, "path_length", keep="summary", progress=False)["path_length"]
    ordinary = rows.frame[~rows.frame["special"]]
    told = dict(text.rsplit(" ", 1) for text in group_means(summary))
    assert len(told) == 4
    for value, mean in told.items():
        assert float(mean) == pytest.approx(ordinary[value].mean(), rel=0.01)
