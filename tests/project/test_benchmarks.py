"""The benchmark's own code on a tiny model: that it runs and what it writes. Nothing is timed."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

import interp
from benchmarks import __main__ as command
from benchmarks import embedding, measure, peers, report, ways
from benchmarks.shapes import SHAPES
from benchmarks.targets import TARGETS, Target, best_product, disturbed, ratios

JOB = {
    "shape": asdict(SHAPES["tiny"]),
    "batch": [2, 8],
    "threads": 1,
    "device": "cpu",
    "dtype": "float32",
    "rounds": 2,
    "memory": True,
    "only": None,
    "save": True,
    "peers": True,
}
NAMES = {
    ways.FORWARD,
    ways.ATTACHED,
    ways.GEOMETRY,
    ways.ATTENTION,
    ways.PATTERNS,
    ways.CACHE,
    ways.HIDDEN,
    ways.LENS,
    ways.BASIC,
    ways.LENS_RUN,
    ways.DEFAULT_RUN,
    ways.THEIRS,
}


@pytest.fixture(scope="module")
def answer():
    threads = torch.get_num_threads()
    try:
        # Through JSON, as it comes from the process that measures.
        return json.loads(json.dumps(measure.answer(JOB)))
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(True)


def test_every_way_is_timed_once_per_round(answer):
    assert set(answer["seconds"]) >= NAMES
    assert set(answer["megabytes"]) == set(answer["seconds"])
    assert all(len(taken) == 2 and min(taken) > 0 for taken in answer["seconds"].values())
    assert answer["multiplications"] == 2 * 2 * 16 * 16 * 61
    assert answer["save"]["rows"] == 16 * 16 * 2
    assert set(answer["machine"]) >= {"cpu", "threads", "dtype", "versions"}


def test_every_target_has_a_number_and_a_verdict(answer):
    quiet = answer | {"others": 0.0}
    wide = quiet | {"shape": answer["shape"] | {"width": 1600}}
    applies = [[t for t in TARGETS if t.measured(a)] for a in (quiet, wide)]
    assert len(applies[0]) == len(applies[1]) == len(TARGETS) - 2
    assert {t.text for both in applies for t in both} == {t.text for t in TARGETS}
    text = report.markdown(results_of(quiet), None)
    assert text.count("met |") + text.count("**missed** |") == len(TARGETS) - 2 + 1
    assert all(target.text in text for target in TARGETS)


def test_a_disturbed_run_reports_and_does_not_judge(answer):
    busy = answer | {"others": 0.9}
    text = report.markdown(results_of(busy), None)
    assert "tiny, 2 × 8: other processes kept 0.9 cores busy." in text
    # Memory is judged all the same, and the start of commands.
    assert text.count("noisy |") == len(TARGETS) - 2 - 2
    products = f"{ways.PRODUCTS}, any"
    uneven = {"seconds": {products: [1.0, 1.0, 1.3, 1.3]}, "others": 0.0}
    assert disturbed(uneven) == "rounds of the same products differ by 26%"
    assert not disturbed({"seconds": {products: [1.0, 1.01, 1.02, 1.0]}, "others": 0.1})


def test_processor_time_of_other_processes_is_not_our_own(monkeypatch, tmp_path):
    """Linux counts ticks of all: user, nice, system, idle, waiting, interrupts, stolen."""
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    monkeypatch.setattr(measure, "Path", lambda name: {"/proc/stat": stat}[name])
    monkeypatch.setattr(measure.os, "sysconf", {"SC_CLK_TCK": 100}.get)
    monkeypatch.setattr(measure.time, "process_time", lambda: 0.5)
    assert measure.others_busy() == pytest.approx(1.71 - 0.5)
    stat.unlink()
    assert measure.others_busy() == 0


def test_every_figure_has_its_spread():
    assert report._spread([3.0]) == "3.00"
    assert report._spread([1.0, 2.0, 3.0, 4.0, 5.0]) == "3.00 (2.00–4.00)"


def test_peers_give_what_the_lens_gives_or_say_why_they_are_absent(answer):
    from benchmarks.shapes import bridge

    shape = SHAPES["tiny"]
    model = bridge(shape, 8, "cpu", torch.float32)
    tokens = torch.randint(0, 61, (2, 8))
    with torch.no_grad():
        found, absent = peers.peers(shape, model, tokens, torch.float32)
        stream, logits = ways.stream_of(model, tokens)
        lens = interp.inspect(model).readout.lens(
            stream, logits, torch.roll(tokens, -1, 1).flatten()
        )
        got = {name: way() for name, way in found.items()}
    assert {*found, *absent} == set(peers.LACKS) == {*answer["absent"], *peers.LACKS}
    assert {peers.HIDDEN_NUMPY, peers.CACHE_NUMPY} <= set(found)
    assert all(absent.values())
    for name, states in got.items():
        assert len(states) == 3
        for state, row in enumerate(states):
            for ours, theirs in (("log_prob", "log_prob"), ("rank", "rank"), ("top_token", "top")):
                np.testing.assert_allclose(
                    row[theirs], getattr(lens, ours)[state], atol=1e-4, err_msg=name
                )
            np.testing.assert_allclose(row["entropy"], lens.entropy[state], atol=1e-4)
    text = report.markdown(results_of(answer), None)
    assert all(name in text for name in peers.LACKS)


def results_of(answer, growth=()):
    return {
        "command": "python -m benchmarks --quick",
        "date": "2026-01-02",
        "rounds": 2,
        "answers": [answer],
        "returned": answer,
        "start_up": {"interp list": {"seconds": 0.5, "limit": 1.0}},
        "growth": list(growth),
    }


def test_ratios_are_taken_within_a_round():
    made = {"seconds": {"a": [2.0, 40.0, 9.0], "b": [1.0, 20.0, 3.0]}}
    assert ratios(made, "a", "b") == [2.0, 2.0, 3.0]
    assert ratios(made, "a", "nothing") == []


def test_the_fastest_product_is_the_base():
    slow, fast = f"{ways.PRODUCTS}, slow", f"{ways.PRODUCTS}, fast"
    assert best_product({"seconds": {slow: [3.0], fast: [2.0], "other": [1.0]}}) == fast


def test_a_limit_can_be_from_above_or_from_below():
    assert Target("", lambda _: [], 1.25).met(1.2)
    assert not Target("", lambda _: [], 1.25).met(1.3)
    assert Target("", lambda _: [], 1.3, at_least=True).met(1.4)
    assert not Target("", lambda _: [], 1.3, at_least=True).met(1.2)


def test_document_numbers_and_figure_are_written(answer, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(command, "write_png", lambda figure, path: not drawn.append(figure))
    points = [{"axis": a, "value": v, "answer": answer} for a in command.AXES for v in (1, 2)]
    corpus = {"seconds": {report.CORPUS: [3.0]}, "megabytes": {report.CORPUS: 700}}
    points.append({"axis": "corpus tokens", "value": 10, "answer": corpus})
    command.write(results_of(answer, points), tmp_path)
    assert len(drawn[0].data) == 2 * len(report.GROWN) * len(command.AXES) + 2
    assert json.loads((tmp_path / "data" / "benchmarks.json").read_text())["rounds"] == 2
    assert "](images/benchmarks.png)" in (tmp_path / "benchmarks.md").read_text()


def test_command_line_defaults():
    options = command._parser().parse_args([])
    assert (options.threads, options.device, options.dtype, options.quick) == (
        1,
        "cpu",
        "float32",
        False,
    )


def test_what_is_measured_is_the_same_by_all_ways(answer):
    """The geometry by hand and ours agree, so that like is compared with like."""
    from benchmarks.shapes import bridge

    model = bridge(SHAPES["tiny"], 8, "cpu", torch.float32)
    tokens = torch.randint(0, 61, (2, 8))
    with torch.no_grad():
        some = ways.ways(model, tokens, lens=False)
        by_hand, ours = some[ways.CACHE](), some[ways.GEOMETRY]()
    frame = ours["rotation"].frame.sort_values(["layer", "prompt", "position"])
    angle = torch.tensor(frame["angle"].to_numpy().reshape(2, 2, 8)).float()
    assert torch.allclose(angle, torch.from_numpy(by_hand["angle"]), atol=0.05)


def test_the_vocabulary_that_is_made_has_its_groups_and_every_stage_runs():
    vectors, group = embedding.structured(400, 64)
    spectrum = interp.measures.covariance_spectrum(vectors)
    assert spectrum.entropy_dimension < 40
    assert interp.measures.anisotropy(vectors)[0] == pytest.approx(0.5, abs=0.1)
    assert (group < 0).mean() == pytest.approx(0.2, abs=0.08)
    model = embedding.model_of(vectors)
    space = interp.WordVectors.of(model)
    np.testing.assert_array_equal(space.vectors, vectors)
    stages: dict = {}
    for name, stage in embedding.stages_of(space, group, resamples=1).items():
        with embedding.measured(stages, name) as facts:
            facts |= stage()
    assert len(stages) == 6
    assert all({"seconds", "peak_mb"} < set(facts) for facts in stages.values())
    assert stages["t-SNE, trustworthiness included"]["trustworthiness"] > 0.8
