"""Every experiment behind a command returns one finding, which prints, draws, saves and reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from series_help import TEXTS, run_of
from typer.testing import CliRunner

import interp
from interp.cli import compare as compare_command
from interp.cli import experiments, made
from interp.cli.app import app
from interp.contract.columns import by_name
from interp.demo.language import generate
from interp.experiments import WordVectors, word_questions
from interp.render.draw import KINDS, figure
from interp.render.finding import Finding

MODEL = ("--model", "demo-llama")
WORDS = ("he", "she", "him", "her", "his")
COPY = ("--control", "random-init")
METHODS = ("--method", "affine,cka")
TOWARD = ("--toward", " her", "--away", " his", "--layers", 8, "--doses", 1, "--controls", 3)
COMMANDS = {
    (*path, each.name): each
    for path, table in (
        ((), experiments.ON_RESULTS),
        ((), experiments.ON_MODEL),
        (("words",), experiments.ON_WORDS),
        (("positions",), experiments.ON_POSITIONS),
        (("fit",), experiments.ON_READOUTS),
    )
    for each in table
}
"""Every command that is made from an experiment, by its words."""
ASKED: dict[tuple[str, ...], tuple[Any, ...]] = {
    ("groups",): ("RUN", "--by", "kind", "--value", "step", "--resamples", 20, "--pairs"),
    ("predict",): ("RUN", "--resamples", 20, "--partial", "position"),
    ("curvature",): ("RUN", "--resamples", 20),
    ("growth",): ("RUN", "--by", "kind"),
    ("steps",): ("WRITTEN", "--resamples", 50, "--controls", "demo-llama"),
    ("massive",): ("RUN",),
    ("leave-out",): ("-p", "TEXTS", *MODEL, "--draws", 2, "-q"),
    ("depth",): ("RUN",),
    ("heads",): ("RUN", "--resamples", 20),
    ("rollout",): ("RUN",),
    ("nearest",): (" her", *MODEL),
    ("spaces",): ("demo-llama", "demo-llama:W_U", *METHODS, "--resamples", 9, *COPY),
    ("layers",): ("demo-llama", "demo-llama", "-p", "TEXTS", "--resamples", 9, *COPY),
    ("drift",): ("her", "-p", "SENSES", *MODEL, "--resamples", 20, *COPY),
    ("continuations",): ("Mary smiled.", "Tom", *MODEL, "--samples", 4, "--length", 2, *COPY),
    ("steer",): ("-p", "TEXTS", "--token", " her, his", *TOWARD, "-q", *MODEL),
    ("cause",): ("-p", "TEXTS", "--layers", "0,7", "--doses", "1", *MODEL, "-q", *COPY),
    ("fit", "tuned-lens"): ("-p", "TEXTS", "--steps", 3, "-q", *MODEL),
    ("words", "near"): ("he", *MODEL),
    ("words", "analogy"): ("he", "him", "she", *MODEL),
    ("words", "axis"): ("his", "--to", "he,him", "--from", "she,her", "--resamples", 20, *MODEL),
    ("words", "cosines"): (*WORDS, *MODEL),
    ("words", "graph"): (*WORDS, *MODEL, "--threshold", "0.1"),
    ("words", "map"): (*WORDS, *MODEL),
    ("words", "clusters"): (*MODEL, "--resamples", 2),
    ("positions", "split"): ("Mary smiled.", "--sum", "scores", "--model", "demo", *COPY),
    ("positions", "shift"): ("Mary smiled.", "--shifts", "1,4", *MODEL),
    ("changes",): ("SERIES", "--value", "step", "--resamples", 20),
    ("members",): ("SERIES", "--value", "step"),
    ("states",): ("EARLY", "LATE", "-p", "SHORT"),
    ("stability",): ("EARLY", "LATE", "--resamples", 5),
    ("compare",): ("RUN", "--by", "kind", "--a", "odd", "--b", "even", "--resamples", 20),
}  # fmt: skip
CONTROLS = {
    ("groups",): "shuffled labels: ",
    ("predict",): "(shuffled: ",
    ("curvature",): "(rotated: ",
    ("leave-out",): "(random: ",
    ("growth",): "if every step were at right angles",
    ("steps",): ", shuffled ",
    ("rollout",): "with even attention",
    ("nearest",): "if directions were random",
    ("spaces",): "(permuted ",
    ("layers",): "with prompts permuted",
    ("drift",): "shuffled senses: ",
    ("steer",): "random directions of the same norm: ",
    ("cause",): "a random push of the size of its step gives",
    ("fit", "tuned-lens"): "(the plain lens)",
    ("words", "near"): "if directions are random",
    ("words", "analogy"): "if directions are random",
    ("words", "axis"): "dealt to the two sides at random",
    ("words", "cosines"): "all pairs of the vocabulary: ",
    ("words", "graph"): "random pairs of this vocabulary",
    ("words", "clusters"): "Gaussian vectors",
    ("changes",): "against changed signs and shuffled places",
    ("stability",): "with permuted words",
    ("positions", "split"): "in an untrained copy",
    ("positions", "shift"): "different tokens",
}
"""Part of each sentence that names its control, where the control is not the untrained copy."""
EXACT = {("members",), ("states",)}
"""Comparisons of two models on the same tokens, which have no chance in them."""


def test_an_answer_that_is_no_nearer_than_chance_says_so():
    random, names = np.random.default_rng(0), tuple(f"w{i}" for i in range(200))
    vectors = random.normal(size=(200, 40))
    near = "no nearer than chance (a neighbour of this rank has"
    space = WordVectors(vectors, names)
    told = [near in word_questions.near(space, word).sentence for word in names[:40]]
    assert 8 < sum(told) < 32, "about half of the neighbours of random vectors"
    vectors[1] = vectors[0] + 0.1 * vectors[1]
    assert near not in word_questions.near(WordVectors(vectors, names), "w0").sentence


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The paths that stand for the words in capitals."""
    folder = tmp_path_factory.mktemp("findings")
    texts = [doc.text for doc in generate(8, seed=3)]
    results = interp.run(
        "demo-llama", texts,
        ["path_length", "rotation", "next_token", "logit_lens", "attention", "token_curvature",
         "massive_activations"],
        labels={"kind": ["odd", "even"] * 4}, control="random-init", progress=False,
    )  # fmt: skip
    written = interp.generate(
        "demo-llama", texts, ["next_token", "path_length"], max_new_tokens=4, stop=[],
        progress=False,
    )  # fmt: skip
    (folder / "texts.txt").write_text("\n".join(texts))
    (folder / "short.txt").write_text("\n".join(TEXTS))
    trained = run_of(folder / "trained")
    interp.series(trained, TEXTS, ["path_length"], out=folder / "series", progress=False)
    rows = [
        {"text": f"{name} smiled. {other} thanked her.", "sense": sense}
        for sense, name, other in [
            ("a", "Mary", "John"), ("a", "Mary", "Tom"), ("b", "Anna", "John"), ("b", "Anna", "Tom")
        ]
    ]  # fmt: skip
    (folder / "senses.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "RUN": results.save(folder / "run"),
        "WRITTEN": written.save(folder / "written"),
        "TEXTS": folder / "texts.txt",
        "SHORT": folder / "short.txt",
        "SERIES": folder / "series",
        "EARLY": trained / "checkpoint-1",
        "LATE": trained / "checkpoint-1000",
        "SENSES": folder / "senses.jsonl",
    }


@pytest.fixture(scope="module")
def findings(files) -> dict[tuple[str, ...], Finding]:
    """The finding of every command, each run once."""
    out: dict[tuple[str, ...], Finding] = {}
    with pytest.MonkeyPatch.context() as patch:
        for command, asked in ASKED.items():

            def keep(found: Finding, *_: Any, command: tuple[str, ...] = command) -> None:
                out[command] = found

            patch.setattr(made, "deliver", keep)
            patch.setattr(compare_command, "deliver", keep)
            typed = [str(files.get(str(a), a)) for a in (*command, *asked)]
            done = CliRunner().invoke(app, typed, catch_exceptions=False)
            assert done.exit_code == 0, done.output
    return out


def test_every_command_is_tried_here():
    assert set(ASKED) == {*COMMANDS, ("compare",)}


@pytest.mark.parametrize("command", ASKED, ids=" ".join)
def test_a_finding_in_every_medium(findings, tmp_path, command):
    found = findings[command]
    assert isinstance(found, Finding)
    assert found.question.endswith(("?", "unit.", "space."))
    tables = found.all_tables()
    assert next(iter(tables)) == next(iter(found.tables))
    assert all(isinstance(t, pd.DataFrame) and len(t.columns) for t in tables.values())
    for title, drawing in found.all_drawings().items():
        assert drawing.kind in KINDS, title
        assert not drawing.empty, title
        made = figure(drawing)
        assert made.data, title
        assert "could not be drawn" not in made.to_json()
        assert drawing.said, f"{title} has no caption"
    for drawing in found.drawings.values():
        assert drawing.title in found.drawn_as_text()
    text = found.text()
    assert text.startswith(found.sentence)
    assert "nan" not in found.sentence
    assert text == repr(found)
    html = found._repr_html_()
    assert "<table" in html
    paths = found.save(tmp_path / "saved")
    assert {p.stem for p in paths if p.suffix == ".parquet"} == set(tables)
    for name, table in tables.items():
        again = pd.read_parquet(tmp_path / "saved" / f"{name}.parquet")
        pd.testing.assert_frame_equal(again, table, check_dtype=False, check_column_type=False)
    page = found.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "saved" / "report.html").read_text(encoding="utf-8")
    assert found.question.split("?")[0][:20].replace("'", "&#39;") in page


@pytest.mark.parametrize("command", ASKED, ids=" ".join)
def test_every_column_of_every_table_is_explained(findings, command):
    found = findings[command]
    for name, table in found.all_tables().items():
        assert [c for c in map(str, table) if not by_name(found.columns, c)] == [], name


@pytest.mark.parametrize("command", ASKED, ids=" ".join)
def test_a_sentence_is_one_and_names_its_control(findings, command):
    found = findings[command]
    assert not found.sentence.startswith("<")
    assert "=" not in found.sentence.replace(" = ", ""), "a repr, not a sentence"
    if command in CONTROLS:
        assert CONTROLS[command] in found.sentence
    elif command in EXACT:
        assert "A model against itself differs by exactly 0 in every row." in found.notes
    else:
        assert found.control or "control_" in "".join(map(str, found.frame)) or "25 words" in (
            found.sentence
        )  # fmt: skip


def test_an_experiment_of_results_names_its_model(findings):
    """Also the head of the page, from Python as from the command line."""
    assert findings["growth",].about["model"] == "demo-llama"
    assert ("Model", "demo-llama") in findings["growth",]._measured()
    assert ("Model", "demo-llama") in findings["words", "near"]._measured()


# ---- one entry each --------------------------------------------------------------------------


def test_options_have_a_help_in_english():
    for command, each in COMMANDS.items():
        shown = made.command_of(each).__signature__.parameters.values()
        for parameter in shown:
            told = parameter.annotation.__metadata__[0].help
            where = f"{' '.join(command)} {parameter.name}: {told!r}"
            assert told, where
            assert told.endswith("."), where
            assert len(told.split()) > 1, where
            assert "`" not in told, where
            assert "[d" not in told, where
            for word in ("In Python", "=True", "=False", "None", "bridge"):
                assert word not in told, where


def test_a_figure_kind_is_one_entry(monkeypatch):
    """A file that draws it and a line in KINDS: pages and texts follow."""
    import sys
    from types import ModuleType

    import plotly.graph_objects as go

    from interp.render.drawing import Drawing
    from interp.render.page import block
    from interp.render.text import text_of

    ring = ModuleType("interp.render.ring")
    ring.ring_figure = lambda drawing: go.Figure(go.Pie(values=drawing.table["value"]))
    monkeypatch.setitem(sys.modules, "interp.render.ring", ring)
    monkeypatch.setitem(KINDS, "ring", "ring:ring_figure")
    drawing = Drawing("ring", "Shares", pd.DataFrame({"value": [1, 3]}), caption="Two parts.")
    assert figure(drawing).data[0].type == "pie"
    assert '"pie"' in block("Shares", drawing).choices[0].data
    assert text_of(drawing).splitlines()[0] == "Shares"
    wrong = figure(Drawing("rnig", "Shares", drawing.table))
    assert "did you mean 'ring'" in wrong.layout.annotations[0].text.replace("<br>", " ")


def test_a_command_is_one_entry(monkeypatch, tmp_path):
    """A function with a docstring and a line in the table: options and help follow."""
    import sys
    from types import ModuleType

    import typer

    source = '''
from collections.abc import Sequence
import pandas as pd
from interp.render.finding import Answer

def total(numbers: Sequence[float] | None, *, twice: bool = False) -> Answer:
    """Sum of numbers.

    Args:
        numbers: the numbers to add. In Python any sequence.
        twice: add them `twice`.
    """
    found = sum(numbers or ()) * (1 + twice)
    return Answer("total", pd.DataFrame({"total": [found]}), f"the sum is {found:g}")
'''
    (tmp_path / "sums.py").write_text(source)
    module = ModuleType("interp.experiments.sums")
    exec(compile(source, "sums.py", "exec"), module.__dict__)  # noqa: S102
    monkeypatch.setitem(sys.modules, "interp.experiments.sums", module)
    monkeypatch.setattr(made, "FOLDER", tmp_path)
    own = typer.Typer()
    own.callback()(lambda: None)
    made.add(own, made.Made("total", "sums:total", ("numbers",)))
    done = CliRunner().invoke(own, ["total", "1,2.5", "--twice", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "the sum is 7" in done.output
    assert (tmp_path / "out" / "total.csv").read_text().splitlines() == ["total", "7.0"]
    told = CliRunner().invoke(own, ["total", "--help"]).output
    assert "Sum of numbers." in told
    assert "The numbers to add." in told
    assert "Add them twice." in told
    assert "In Python" not in told
    with pytest.raises(interp.BadInput, match="--numbers '1,x': expected numbers separated by com"):
        CliRunner().invoke(own, ["total", "1,x"], catch_exceptions=False)
