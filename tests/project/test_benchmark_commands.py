"""The benchmarks of whole commands and of corpus runs: what they count, and what they say."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

import interp
from benchmarks import corpus_rates, startup


@pytest.fixture
def spin(monkeypatch):
    """A function that uses the processor for so long, and three times as much time of the wall."""
    now = SimpleNamespace(process=7.0, wall=50.0)

    def spent(seconds: float) -> None:
        now.process, now.wall = now.process + seconds, now.wall + 3 * seconds

    clocks = SimpleNamespace(process_time=lambda: now.process, perf_counter=lambda: now.wall)
    monkeypatch.setattr(startup, "time", clocks)
    return spent


def test_a_phase_does_not_count_the_phases_inside_it(spin):
    clock = startup.Clock()
    inner = clock.timed(spin, lambda seconds: f"spin {seconds}")
    with clock.phase("outer"):
        spin(0.05)
        inner(0.1)
        inner(0.1)
    assert clock.spent["spin 0.1"] == pytest.approx([0.2, 0.6])
    assert clock.spent["outer"] == pytest.approx([0.05, 0.15])


def test_a_phase_that_fails_is_counted(spin):
    clock = startup.Clock()
    with pytest.raises(ZeroDivisionError), clock.phase("fails"):
        spin(0.02)
        _ = 1 / 0
    assert clock.spent["fails"] == pytest.approx([0.02, 0.06])


@pytest.fixture
def found():
    phases = {
        startup.IMPORT: 2.0,
        startup.LIBRARIES: 3.0,
        startup.WEIGHTS: 1.0,
        startup.VERIFY: 1.5,
        "passes: logit_lens": 20.0,
        startup.TABLES: 1.0,
        startup.REPORT: 5.0,
    }
    return {
        "run": {
            "processor": 40.0,
            "seconds": 44.0,
            "phases": {name: [taken, taken + 0.5] for name, taken in phases.items()},
            "first_pass": 8.0,
        },
        "compare": {"processor": 3.0, "seconds": 3.1},
        "report": {"processor": 5.5, "seconds": 6.0},
        "threads": 1,
        "model": None,
    }


def test_limits_of_a_command_are_shares_of_its_processor_time(found):
    assert list(startup.values(found).values()) == [4.0, 2.5, 12.5, 3.0, 5.5]
    text = startup.section(found)
    assert text.count("| met |") == 3
    assert "| report, share of the whole | ≤ 10 % | 12.5 % | **missed** |" in text
    assert "| interp report | ≤ 5 s | 5.5 s | **missed** |" in text
    assert "| the rest | 6.50 | 7.00 | 16% |" in text
    assert "| whole | 40.00 | 44.00 | 100% |" in text


def test_every_phase_is_a_function_that_is_there():
    clock = startup.Clock()
    with pytest.MonkeyPatch.context() as patch:  # puts back what the clock replaces
        for path in startup.PHASES:
            module, _, name = path.partition(":")
            owner = __import__(module, fromlist=["_"])
            *owners, last = name.split(".")
            for part in owners:
                owner = getattr(owner, part)
            patch.setattr(owner, last, clock.timed(getattr(owner, last), lambda *_, **__: "x"))


def test_a_command_is_timed_in_a_process_of_its_own(tmp_path):
    environment = startup._environment(tmp_path, 1)
    began = time.monotonic()
    found = startup._run(["list", "--json"], environment, counted=False)
    most = (time.monotonic() - began) * os.cpu_count()
    assert 0 < found["processor"] < most
    assert found["phases"] == {}
    assert found["first_pass"] is None
    with pytest.raises(SystemExit, match="interp lists failed"):
        startup._run(["lists"], environment, counted=False)


def test_the_model_of_the_benchmark_reads_text(tmp_path):
    shape = {"layers": 2, "width": 16, "inner": 32, "heads": 2, "groups": 1, "vocab": 600}
    folder = startup.random_model(tmp_path / "model", shape)
    results = interp.run(folder, "her", "rotation", target="her", progress=False)
    frame = results["rotation"].frame
    assert set(frame["layer"]) == {0, 1}
    assert (frame["role"] == "target").any()


def test_shares_of_a_corpus_are_taken_within_a_round():
    seconds = {
        corpus_rates.FORWARD: [9.0, 90.0, 9.0],
        corpus_rates.PRODUCTS: [3.0, 30.0, 3.0],
        corpus_rates.GEOMETRY: [10.0, 100.0, 10.0],
        corpus_rates.LENS: [16.0, 160.0, 20.0],
        corpus_rates.EXPORT: [12.0, 120.0, 12.0],
    }
    rates = {"1": [10.0, 20.0, 10.0], "2": [19.0, 20.0, 20.0]}
    found = {"tokens": 1000, "seconds": seconds, "rates": rates, "cores": 2}
    assert corpus_rates.values(found) == pytest.approx(
        {
            corpus_rates.GEOMETRY: 0.9,
            corpus_rates.LENS: 0.75,
            corpus_rates.EXPORT: 0.75,
            corpus_rates.WORKERS: 0.95,
        }
    )
    text = corpus_rates.section(found)
    assert text.count("| met |") == 2
    assert text.count("**missed**") == 2


def test_the_forward_is_timed_on_the_batches_that_a_run_feeds(gpt2, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("She gave her book away.\nSnow fell.\n", encoding="utf-8")
    feed = corpus_rates.Feeder.feed
    batches = corpus_rates._fed(gpt2, path, tmp_path / "out")
    assert corpus_rates.Feeder.feed is feed
    assert sum(len(batch.ids) for batch in batches) == 2
